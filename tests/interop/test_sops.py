"""SOPS: Encrypt and Decrypt with the ARN from the file, an alias ARN here. That ARN goes along on Decrypt too."""

import base64
import json

import pytest
from botocore.exceptions import ClientError

from bridge import binary
from page import block
from programs import installed, run
from rotation import key_of, rotate
from sops import Sops

SECRET = '{"user": "alice", "password": "hunter2"}\n'
INCORRECT_KEY = "The key ID in the request does not identify a CMK that can perform this operation."


@pytest.fixture
def aliased(bridge, tmp_path):
    return with_alias(bridge, tmp_path)


def with_alias(bridge, directory):
    """(sops, its bridge, the first key, an alias of it)"""
    key = bridge.new_key()
    return Sops(bridge, directory), bridge, key, bridge.new_alias(key, "alias/sops")


def same(text):
    return json.loads(text) == json.loads(SECRET)


def wrapping_key(bridge, entry):
    """The key that really holds the data key of a SOPS file: asked without a KeyId."""
    answer = bridge.kms.decrypt(CiphertextBlob=base64.b64decode(entry["enc"]), EncryptionContext=entry.get("context") or {})
    return answer["KeyId"].rpartition("/")[2]


def test_a_file_from_before_a_rotation(aliased):
    sops, bridge, first, alias = aliased
    arn = bridge.alias_arn(alias)
    sops.encrypt("old.json", SECRET, "--kms", arn)
    assert "hunter2" not in (sops.directory / "old.json").read_text()
    assert same(sops.decrypt("old.json"))

    second = rotate(bridge, alias)
    mark = bridge.mark()
    assert same(sops.decrypt("old.json"))
    (record,) = bridge.records("Decrypt", since=mark)
    assert record["requestParameters"]["keyId"] == arn, "SOPS sends the alias, or this test shows nothing"
    assert key_of(record) == first and "errorCode" not in record

    sops.encrypt("new.json", SECRET, "--kms", arn)
    assert wrapping_key(bridge, sops.master_key("new.json")) == second
    third = rotate(bridge, alias)
    assert third not in (first, second)
    assert same(sops.decrypt("old.json")) and same(sops.decrypt("new.json"))


def test_a_file_from_before_a_rotation_in_strict_mode(strict, tmp_path):
    sops, bridge, first, alias = with_alias(strict, tmp_path)
    sops.encrypt("old.json", SECRET, "--kms", bridge.alias_arn(alias))
    sops.encrypt("by-key.json", SECRET, "--kms", bridge.key_arn(first))
    assert same(sops.decrypt("old.json"))

    rotate(bridge, alias)
    mark = bridge.mark()
    refused = sops.decrypt("old.json", check=False)
    assert refused.returncode == 128 and "IncorrectKeyException" in refused.stderr, refused.stderr
    assert "hunter2" not in refused.stdout
    (record,) = bridge.records("Decrypt", since=mark)
    assert record["errorCode"] == "IncorrectKeyException"

    entry = sops.master_key("old.json")
    blob = base64.b64decode(entry["enc"])
    for name in (alias, bridge.alias_arn(alias)):
        with pytest.raises(ClientError) as raised:
            bridge.kms.decrypt(CiphertextBlob=blob, KeyId=name)
        assert raised.value.response["Error"] == {"Code": "IncorrectKeyException", "Message": INCORRECT_KEY}
    # What AWS's users do: name the key itself, or none.
    assert same(sops.decrypt("by-key.json"))
    assert bridge.kms.decrypt(CiphertextBlob=blob, KeyId=first)["KeyId"] == bridge.key_arn(first)
    assert wrapping_key(bridge, entry) == first


def test_sops_rotate_moves_a_file_to_the_new_key(aliased):
    sops, bridge, first, alias = aliased
    sops.encrypt("file.json", SECRET, "--kms", bridge.alias_arn(alias))
    path = sops.directory / "file.json"
    old, before = path.read_text(), sops.master_key("file.json")
    second = rotate(bridge, alias)

    sops("rotate", "--in-place", "file.json")
    after = sops.master_key("file.json")
    assert (wrapping_key(bridge, before), wrapping_key(bridge, after)) == (first, second)
    # The old key is not needed any more.
    bridge.kms.disable_key(KeyId=first)
    assert same(sops.decrypt("file.json"))
    path.write_text(old)
    refused = sops.decrypt("file.json", check=False)
    assert refused.returncode != 0 and "DisabledException" in refused.stderr, refused.stderr


def test_an_encryption_context(aliased):
    sops, bridge, first, alias = aliased
    sops.encrypt("file.json", SECRET, "--kms", bridge.alias_arn(alias), "--encryption-context", "tenant:blue,app:web")
    rotate(bridge, alias)
    mark = bridge.mark()
    assert same(sops.decrypt("file.json"))
    (record,) = bridge.records("Decrypt", since=mark)
    assert record["requestParameters"]["encryptionContext"] == {"tenant": "blue", "app": "web"}
    assert key_of(record) == first

    path = sops.directory / "file.json"
    path.write_text(path.read_text().replace('"blue"', '"green"'))
    refused = sops.decrypt("file.json", check=False)
    assert refused.returncode == 128 and "InvalidCiphertextException" in refused.stderr, refused.stderr


def test_over_tls(bridge_tls, tmp_path):
    sops, bridge, _, alias = with_alias(bridge_tls, tmp_path)
    assert bridge.endpoint.startswith("https://")
    sops.encrypt("file.json", SECRET, "--kms", bridge.alias_arn(alias))
    assert same(sops.decrypt("file.json"))
    del sops.env["AWS_CA_BUNDLE"]
    refused = sops.decrypt("file.json", check=False)
    assert refused.returncode != 0 and "certificate" in refused.stderr, refused.stderr


def test_the_page(bridge, tmp_path):
    """The commands of docs/clients.md, as they stand."""
    alias = bridge.new_alias(bridge.new_key(), "alias/sops-page")
    sops = Sops(bridge, tmp_path)
    (tmp_path / "hsm-bridge").symlink_to(binary().resolve())
    sops.env["PATH"] = f"{tmp_path}:{installed('sops').rpartition('/')[0]}:{sops.env['PATH']}"
    done = run(["bash", "-euo", "pipefail", "-c", block("sh sops", **{"alias/sops": alias})], sops.env, tmp_path)
    assert "hunter2" in done.stdout and "hunter2" not in (tmp_path / "secrets.enc.yaml").read_text()
