"""`hsm-bridge reencrypt`: blobs under retired keys of an alias come under its current key; nothing else is touched."""

import base64
import json
import os
import signal
import subprocess
import time

import pytest

from bridge import binary


@pytest.fixture(scope="module")
def world(bridge):
    """An alias that was rotated once, blobs under the old key, the new key and a stranger's."""
    old, stranger = bridge.new_key(), bridge.new_key()
    alias = bridge.new_alias(old, "alias/reencrypt")
    context = {"app": "orders"}
    seal = lambda key, text: bridge.kms.encrypt(KeyId=key, Plaintext=text, EncryptionContext=context)["CiphertextBlob"]
    blobs = {"old": seal(alias, b"old"), "stranger": seal(stranger, b"stranger")}
    bridge.run("rotate", "--alias", alias)
    blobs["new"] = seal(alias, b"new")
    current = bridge.kms.describe_key(KeyId=alias)["KeyMetadata"]["Arn"]
    return dict(alias=alias, old=old, current=current, context=context, blobs=blobs)


def reencrypt(bridge, world, *args, stdin=None, check=True, json_=True):
    return bridge.run("reencrypt", "--alias", world["alias"], "--context", "app=orders", *(["--json"] if json_ else []), *args,
                      stdin=stdin, check=check, env=bridge.tool_env() | {
                          "AWS_ACCESS_KEY_ID": bridge.access_key, "AWS_SECRET_ACCESS_KEY": bridge.secret_key,
                          "AWS_REGION": bridge.region, "AWS_ENDPOINT_URL_KMS": bridge.endpoint})


def opened(bridge, world, blob):
    answer = bridge.kms.decrypt(CiphertextBlob=blob, EncryptionContext=world["context"])
    return answer["KeyId"], answer["Plaintext"]


def test_directory_files_keep_form_mode_and_strangers(bridge, world, tmp_path):
    blobs = world["blobs"]
    (tmp_path / "sub").mkdir()
    files = {"binary": blobs["old"], "sub/text": base64.b64encode(blobs["old"]) + b"\n", "current": blobs["new"],
             "stranger": blobs["stranger"], "readme.txt": b"no blob at all\n", "empty": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        os.chmod(tmp_path / name, 0o640)
    dry = json.loads(reencrypt(bridge, world, "--dry-run", tmp_path).stdout)
    assert (dry["reencrypted"], dry["current"], dry["otherKeys"], dry["notCiphertexts"], dry["failed"]) == (2, 1, 1, 2, 0)
    assert {n: (tmp_path / n).read_bytes() for n in files} == files, "a dry run changes nothing"

    tally = json.loads(reencrypt(bridge, world, tmp_path).stdout)
    assert (tally["reencrypted"], tally["current"], tally["otherKeys"], tally["notCiphertexts"], tally["failed"]) == (2, 1, 1, 2, 0)
    assert opened(bridge, world, (tmp_path / "binary").read_bytes()) == (world["current"], b"old")
    text = (tmp_path / "sub/text").read_bytes()
    assert text.endswith(b"\n") and opened(bridge, world, base64.b64decode(text)) == (world["current"], b"old")
    for same in ("current", "stranger", "readme.txt", "empty"):
        assert (tmp_path / same).read_bytes() == files[same]
    assert all(os.stat(tmp_path / n).st_mode & 0o777 == 0o640 for n in files)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(n.split("/")[-1] for n in files)

    again = json.loads(reencrypt(bridge, world, tmp_path).stdout)
    assert (again["reencrypted"], again["current"]) == (0, 3), "what is done is recognised"


def test_standard_input_goes_on_where_it_stopped(bridge, world, tmp_path):
    lines = [base64.b64encode(world["blobs"][name]).decode() for name in ("old", "new", "stranger", "old")] + ["no base64!"]
    done = reencrypt(bridge, world, "-", stdin="\n".join(lines) + "\n", json_=False)
    out = done.stdout.splitlines()
    assert len(out) == 5 and out[1:3] == lines[1:3] and out[4] == lines[4]
    for line in (out[0], out[3]):
        assert opened(bridge, world, base64.b64decode(line)) == (world["current"], b"old")
    assert "2 re-encrypted" in done.stderr
    target = tmp_path / "out"
    target.write_text(out[0] + "\n" + out[1][:20])
    tally = json.loads(reencrypt(bridge, world, "-", "--output", target, stdin="\n".join(lines) + "\n").stdout)
    assert tally["reencrypted"] == 1, "the first line was done before"
    result = target.read_text().splitlines()
    assert result[:3] == [out[0], *lines[1:3]] and len(result) == 5


def test_errors_say_what_to_do(bridge, world, tmp_path):
    (tmp_path / "blob").write_bytes(world["blobs"]["old"])
    wrong = bridge.run("reencrypt", "--alias", world["alias"], "--context", "app=other", tmp_path, check=False, env=bridge.tool_env() | {
        "AWS_ACCESS_KEY_ID": bridge.access_key, "AWS_SECRET_ACCESS_KEY": bridge.secret_key, "AWS_REGION": bridge.region,
        "AWS_ENDPOINT_URL_KMS": bridge.endpoint})
    assert wrong.returncode == 1 and "InvalidCiphertextException" in wrong.stderr and "1 failed" in wrong.stdout + wrong.stderr
    assert (tmp_path / "blob").read_bytes() == world["blobs"]["old"]
    nobody = bridge.run("reencrypt", "--alias", "alias/x", tmp_path, check=False,
                        env={k: v for k, v in bridge.tool_env().items() if not k.startswith("AWS_")} | {"HOME": str(tmp_path)})
    assert nobody.returncode == 64 and "--endpoint" in nobody.stderr
    refused = bridge.run("reencrypt", "--alias", "alias/none", tmp_path, check=False, env=bridge.tool_env() | {
        "AWS_ACCESS_KEY_ID": bridge.access_key, "AWS_SECRET_ACCESS_KEY": bridge.secret_key, "AWS_REGION": bridge.region,
        "AWS_ENDPOINT_URL_KMS": bridge.endpoint})
    assert refused.returncode == 1 and "NotFoundException" in refused.stderr


def test_killed_in_the_middle_nothing_is_lost(bridge, world, tmp_path):
    for n in range(300):
        (tmp_path / f"{n:03}").write_bytes(world["blobs"]["old"])
    env = bridge.tool_env() | {"AWS_ACCESS_KEY_ID": bridge.access_key, "AWS_SECRET_ACCESS_KEY": bridge.secret_key,
                               "AWS_REGION": bridge.region, "AWS_ENDPOINT_URL_KMS": bridge.endpoint}
    command = [str(binary()), "reencrypt", "--alias", world["alias"], "--context", "app=orders", str(tmp_path)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = time.monotonic()
    while (tmp_path / "010").read_bytes() == world["blobs"]["old"] and time.monotonic() - started < 60:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    contents = {p.name: p.read_bytes() for p in tmp_path.iterdir() if len(p.name) == 3}
    assert len(contents) == 300
    done = [n for n, blob in contents.items() if blob != world["blobs"]["old"]]
    assert 0 < len(done) < 300
    for name in done:
        assert opened(bridge, world, contents[name]) == (world["current"], b"old")
    tally = json.loads(reencrypt(bridge, world, tmp_path).stdout)
    assert tally["reencrypted"] >= 300 - len(done) and tally["failed"] == 0


def test_over_tls(bridge_tls, tmp_path):
    bridge = bridge_tls
    key = bridge.new_key()
    alias = bridge.new_alias(key, "alias/reencrypt")
    blob = bridge.kms.encrypt(KeyId=alias, Plaintext=b"x")["CiphertextBlob"]
    bridge.run("rotate", "--alias", alias)
    (tmp_path / "blob").write_bytes(blob)
    bridge.run("reencrypt", "--alias", alias, tmp_path / "blob", env=bridge.tool_env() | {
        "AWS_ACCESS_KEY_ID": bridge.access_key, "AWS_SECRET_ACCESS_KEY": bridge.secret_key, "AWS_REGION": bridge.region,
        "AWS_ENDPOINT_URL_KMS": bridge.endpoint, "AWS_CA_BUNDLE": bridge.ca_bundle})
    assert bridge.kms.decrypt(CiphertextBlob=(tmp_path / "blob").read_bytes())["KeyId"] != bridge.key_arn(key)
    # Without the private certificate authority nothing is sent.
    untrusted = bridge.run("reencrypt", "--alias", alias, tmp_path / "blob", check=False, env={k: v for k, v in (bridge.tool_env() | {
        "AWS_ACCESS_KEY_ID": bridge.access_key, "AWS_SECRET_ACCESS_KEY": bridge.secret_key, "AWS_REGION": bridge.region,
        "AWS_ENDPOINT_URL_KMS": bridge.endpoint}).items() if k != "AWS_CA_BUNDLE"})
    assert untrusted.returncode in (64, 69)
