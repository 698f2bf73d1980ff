"""The whole story with the stock AWS CLI: version 1 from PyPI by environment, Debian's 2.9.19 by --endpoint-url."""

import base64
import json
import secrets

import pytest
from botocore import xform_name
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import vocabulary
from cli import AwsCli, CliError, debian, version_1

CONTEXT = "tenant=blue,purpose=cli"


@pytest.fixture(params=["v1", "debian"])
def aws(request, either, tmp_path):
    if request.param == "v1":
        return AwsCli(version_1(), either, tmp_path, by_option=False)
    return AwsCli(debian(), either, tmp_path, by_option=True)


def unb64(text):
    return base64.b64decode(text, validate=True)


def test_the_cli_is_what_this_test_is_about(aws):
    version = aws.version()
    assert version.startswith("aws-cli/2." if aws.by_option else "aws-cli/1."), version
    point = ["--endpoint-url", aws.bridge.env["AWS_ENDPOINT_URL"]] if aws.by_option else []
    done = aws.alone(*point, "kms", "describe-key", "--key-id", aws.bridge.key(), "--output", "json")
    # The other tests start no program for each command; what they get is the same.
    assert done.returncode == 0 and json.loads(done.stdout) == aws.kms("describe-key", "--key-id", aws.bridge.key()), done


def test_every_operation_once(aws):
    bridge = aws.bridge
    identity = aws.run("sts", "get-caller-identity")
    assert identity == {"UserId": bridge.account, "Account": bridge.account, "Arn": f"arn:aws:iam::{bridge.account}:root"}
    aws.called.clear()
    keys_and_names(aws)
    encryption(aws)
    signatures(aws)
    macs(aws)
    key_stores(aws)
    known = set(vocabulary.SERVED)
    if aws.by_option:
        # Younger than this CLI.
        known -= {"GetKeyLastUsage"}
    else:
        assert aws.kms("get-key-last-usage", "--key-id", bridge.key("HMAC_256"))["KeyLastUsage"]["Operation"] == "VerifyMac"
    assert aws.called == {xform_name(operation, "-") for operation in known}


def keys_and_names(aws):
    bridge = aws.bridge
    made = aws.kms("create-key", "--description", "made by the CLI", "--tags", "TagKey=a,TagValue=1")["KeyMetadata"]
    key = made["KeyId"]
    assert made["Arn"] == bridge.key_arn(key) and made["Description"] == "made by the CLI"
    assert aws.kms("describe-key", "--key-id", key)["KeyMetadata"] == made
    listed = aws.kms("list-keys", "--page-size", "5")["Keys"]
    assert {"KeyId": key, "KeyArn": made["Arn"]} in listed, "the CLI follows the markers itself"

    aws.kms("update-key-description", "--key-id", key, "--description", "described again")
    aws.kms("tag-resource", "--key-id", key, "--tags", "TagKey=b,TagValue=2")
    assert aws.kms("list-resource-tags", "--key-id", key)["Tags"] == [{"TagKey": "a", "TagValue": "1"}, {"TagKey": "b", "TagValue": "2"}]
    aws.kms("untag-resource", "--key-id", key, "--tag-keys", "a")
    assert aws.kms("list-resource-tags", "--key-id", key)["Tags"] == [{"TagKey": "b", "TagValue": "2"}]

    policy = json.loads(aws.kms("get-key-policy", "--key-id", key, "--policy-name", "default")["Policy"])
    assert policy["Id"] == "key-default-1"
    (aws.directory / "policy.json").write_text(json.dumps(policy | {"Id": "put-by-cli"}))
    aws.kms("put-key-policy", "--key-id", key, "--policy-name", "default", "--policy", "file://policy.json")
    assert json.loads(aws.kms("get-key-policy", "--key-id", key, "--policy-name", "default")["Policy"])["Id"] == "put-by-cli"
    assert aws.kms("list-key-policies", "--key-id", key)["PolicyNames"] == ["default"]
    assert aws.kms("get-key-rotation-status", "--key-id", key)["KeyRotationEnabled"] is False
    assert aws.kms("list-grants", "--key-id", key)["Grants"] == []
    root = f"arn:aws:iam::{bridge.account}:root"
    by_token, by_id = (aws.kms("create-grant", "--key-id", key, "--grantee-principal", root, "--retiring-principal", root,
                               "--operations", "Decrypt", "Encrypt", "--constraints", "EncryptionContextSubset={tenant=acme}",
                               "--name", name) for name in ("one", "two"))
    (listed,) = aws.kms("list-grants", "--key-id", key, "--grant-id", by_id["GrantId"])["Grants"]
    assert (listed["Name"], listed["Constraints"]) == ("two", {"EncryptionContextSubset": {"tenant": "acme"}})
    retirable = aws.kms("list-retirable-grants", "--retiring-principal", root)["Grants"]
    assert {by_token["GrantId"], by_id["GrantId"]} <= {grant["GrantId"] for grant in retirable}
    aws.kms("retire-grant", "--grant-token", by_token["GrantToken"])
    aws.kms("revoke-grant", "--key-id", key, "--grant-id", by_id["GrantId"])
    assert aws.kms("list-grants", "--key-id", key)["Grants"] == []

    name, other = f"alias/cli-{secrets.token_hex(6)}", bridge.key()
    aws.kms("create-alias", "--alias-name", name, "--target-key-id", key)
    assert [a["AliasName"] for a in aws.kms("list-aliases", "--key-id", key)["Aliases"]] == [name]
    aws.kms("update-alias", "--alias-name", name, "--target-key-id", other)
    assert name in [a["AliasName"] for a in aws.kms("list-aliases", "--key-id", other)["Aliases"]]
    aws.kms("delete-alias", "--alias-name", name)

    aws.kms("disable-key", "--key-id", key)
    with pytest.raises(CliError, match=r"\(DisabledException\).*" + f"{made['Arn']} is disabled\\."):
        aws.kms("encrypt", "--key-id", key, "--plaintext", aws.file("p", b"p"))
    aws.kms("enable-key", "--key-id", key)
    answer = aws.kms("schedule-key-deletion", "--key-id", key, "--pending-window-in-days", "7")
    assert (answer["KeyId"], answer["KeyState"], answer["PendingWindowInDays"]) == (made["Arn"], "PendingDeletion", 7)
    assert aws.kms("cancel-key-deletion", "--key-id", key) == {"KeyId": made["Arn"]}
    assert aws.kms("describe-key", "--key-id", key)["KeyMetadata"]["KeyState"] == "Disabled"


def encryption(aws):
    bridge = aws.bridge
    key, target = bridge.key(), bridge.key(purpose="re-encrypt target")
    plaintext = bridge.canary()
    sealed = aws.kms("encrypt", "--key-id", key, "--plaintext", aws.file("plain", plaintext), "--encryption-context", CONTEXT)
    assert (sealed["KeyId"], sealed["EncryptionAlgorithm"]) == (bridge.key_arn(key), "SYMMETRIC_DEFAULT")
    blob = aws.file("blob", unb64(sealed["CiphertextBlob"]))
    opened = aws.kms("decrypt", "--ciphertext-blob", blob, "--encryption-context", CONTEXT)
    assert unb64(opened["Plaintext"]) == plaintext and opened["KeyId"] == bridge.key_arn(key)
    with pytest.raises(CliError, match=r"\(InvalidCiphertextException\)"):
        aws.kms("decrypt", "--ciphertext-blob", blob)

    moved = aws.kms("re-encrypt", "--ciphertext-blob", blob, "--source-encryption-context", CONTEXT, "--destination-key-id", target)
    assert (moved["SourceKeyId"], moved["KeyId"]) == (bridge.key_arn(key), bridge.key_arn(target))
    opened = aws.kms("decrypt", "--key-id", target, "--ciphertext-blob", aws.file("moved", unb64(moved["CiphertextBlob"])))
    assert unb64(opened["Plaintext"]) == plaintext

    data_key = aws.kms("generate-data-key", "--key-id", key, "--key-spec", "AES_256")
    bridge.plaintexts.add(unb64(data_key["Plaintext"]))
    assert len(unb64(data_key["Plaintext"])) == 32
    opened = aws.kms("decrypt", "--ciphertext-blob", aws.file("data-key", unb64(data_key["CiphertextBlob"])))
    assert opened["Plaintext"] == data_key["Plaintext"]
    assert "Plaintext" not in aws.kms("generate-data-key-without-plaintext", "--key-id", key, "--number-of-bytes", "24")
    assert len(unb64(aws.kms("generate-random", "--number-of-bytes", "48")["Plaintext"])) == 48


def signatures(aws):
    bridge = aws.bridge
    key, message = bridge.key("ECC_NIST_P256"), aws.file("message", b"signed by the CLI")
    how = ["--key-id", key, "--message", message, "--message-type", "RAW", "--signing-algorithm", "ECDSA_SHA_256"]
    made = aws.kms("sign", *how)
    signature = unb64(made["Signature"])
    public = aws.kms("get-public-key", "--key-id", key)
    assert public["SigningAlgorithms"] == ["ECDSA_SHA_256"]
    loaded = serialization.load_der_public_key(unb64(public["PublicKey"]))
    loaded.verify(signature, b"signed by the CLI", ec.ECDSA(hashes.SHA256()))
    assert aws.kms("verify", *how, "--signature", aws.file("signature", signature))["SignatureValid"] is True
    with pytest.raises(CliError, match=r"\(KMSInvalidSignatureException\)"):
        aws.kms("verify", *how, "--signature", aws.file("wrong", signature[:-1] + bytes([signature[-1] ^ 1])))


def macs(aws):
    bridge = aws.bridge
    key, message = bridge.key("HMAC_256"), aws.file("message", b"authenticated by the CLI")
    how = ["--key-id", key, "--message", message, "--mac-algorithm", "HMAC_SHA_256"]
    mac = unb64(aws.kms("generate-mac", *how)["Mac"])
    assert mac == bridge.kms.generate_mac(KeyId=key, Message=b"authenticated by the CLI", MacAlgorithm="HMAC_SHA_256")["Mac"]
    assert aws.kms("verify-mac", *how, "--mac", aws.file("mac", mac))["MacValid"] is True
    with pytest.raises(CliError, match=r"\(KMSInvalidMacException\)"):
        aws.kms("verify-mac", *how, "--mac", aws.file("mac", mac[::-1]))


def key_stores(aws):
    bridge = aws.bridge
    name, cluster = f"cli-{secrets.token_hex(6)}", bridge.env["HSM_BRIDGE_CLUSTER_IDS"].split(",")[0]
    store = aws.kms("create-custom-key-store", "--custom-key-store-name", name, "--cloud-hsm-cluster-id", cluster,
                    "--key-store-password", bridge.custom_password, "--trust-anchor-certificate",
                    f"file://{bridge.env['HSM_BRIDGE_TRUST_ANCHOR']}")["CustomKeyStoreId"]
    of = ["--custom-key-store-id", store]
    aws.kms("update-custom-key-store", *of, "--new-custom-key-store-name", name + "-2")
    aws.kms("connect-custom-key-store", *of)
    bridge.store_becomes(store, "CONNECTED")
    (shown,) = aws.kms("describe-custom-key-stores", *of)["CustomKeyStores"]
    assert (shown["CustomKeyStoreName"], shown["CloudHsmClusterId"], shown["ConnectionState"]) == (name + "-2", cluster, "CONNECTED")
    aws.kms("disconnect-custom-key-store", *of)
    bridge.store_becomes(store, "DISCONNECTED")
    aws.kms("delete-custom-key-store", *of)
    with pytest.raises(CliError, match=r"\(CustomKeyStoreNotFoundException\)"):
        aws.kms("describe-custom-key-stores", *of)


def test_raw_text_on_the_command_line(bridge, tmp_path):
    """Version 2 takes base64 unless told otherwise."""
    aws = AwsCli(debian(), bridge, tmp_path, by_option=True)
    sealed = aws.kms("encrypt", "--key-id", bridge.key(), "--cli-binary-format", "raw-in-base64-out", "--plaintext", "plain words")
    opened = aws.kms("decrypt", "--ciphertext-blob", sealed["CiphertextBlob"])
    assert unb64(opened["Plaintext"]) == b"plain words"


def test_every_spec_by_debians_cli(bridge, tmp_path):
    """Its model knows fewer specs than the server; it sends what it is given."""
    aws = AwsCli(debian(), bridge, tmp_path, by_option=True)
    for spec in ("ECC_NIST_EDWARDS25519", "HMAC_224", "RSA_2048"):
        made = aws.kms("create-key", "--key-spec", spec, "--key-usage", vocabulary.usage(spec))["KeyMetadata"]
        assert made["KeySpec"] == spec
