"""The HSM officer's view: the same keys through pkcs11-tool and python-pkcs11, and cross-checked with KMS."""

import hashlib
import secrets
import subprocess
import uuid

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

import vocabulary
from checks import ABSENT, refused
from token_tool import key_id_hex, listed_objects, pkcs11_tool, token

# DER of DigestInfo before a SHA-256 digest (RFC 8017 §9.2, note 1).
SHA256_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
SYSTEM_KEYS = ("hsm-bridge/store-kek", "hsm-bridge/iam-wrap")
MESSAGE = b"signed on one side, verified on the other"


@pytest.mark.parametrize("spec", ["SYMMETRIC_DEFAULT", "HMAC_256", "RSA_2048", "ECC_NIST_P256", "ECC_NIST_EDWARDS25519"])
def test_keys_are_listed_by_id_and_label(bridge, spec):
    key = bridge.key(spec)
    found = [o for o in listed_objects(bridge) if o.get("ID") == key_id_hex(key)]
    assert found, f"no object with CKA_ID {key_id_hex(key)}"
    assert {o["label"] for o in found} == {f"hsm-bridge/kms/{key}"}
    secret = [o for o in found if o["kind"].startswith(("Secret Key Object", "Private Key Object"))]
    assert len(secret) == 1
    access = [word.strip() for word in secret[0]["Access"].split(",")]
    assert {"sensitive", "always sensitive", "never extractable", "local"} <= set(access)
    public = [o for o in found if o["kind"].startswith("Public Key Object")]
    assert len(public) == (1 if spec in vocabulary.SIGNING else 0)


def test_every_key_is_attested(bridge):
    for spec in vocabulary.SPECS:
        bridge.key(spec)
    flags = {"TOKEN": True, "PRIVATE": True, "SENSITIVE": True, "ALWAYS_SENSITIVE": True, "EXTRACTABLE": False,
             "NEVER_EXTRACTABLE": True, "LOCAL": True}
    objects = [o for o in token(bridge, "flags") if o["label"].startswith("hsm-bridge/")]
    assert {o["id"] for o in objects} >= {key_id_hex(bridge.key(spec)) for spec in vocabulary.SPECS}
    for found in objects:
        assert {k: v for k, v in found.items() if k in flags} == flags, found


@pytest.mark.parametrize("spec", vocabulary.SPECS)
def test_values_cannot_be_read(bridge, spec):
    outcome = token(bridge, "secrets", key=bridge.key(spec))
    assert outcome
    assert all(result == "AttributeSensitive" for _, _, result in outcome), outcome


def test_pkcs11_tool_cannot_read_the_value(bridge, tmp_path):
    key = bridge.key()
    done = pkcs11_tool(bridge, "--read-object", "--type", "secrkey", "--id", key_id_hex(key), "-o", tmp_path / "value", check=False)
    value = (tmp_path / "value").read_bytes() if (tmp_path / "value").exists() else b""
    assert done.returncode != 0 and value == b""


def test_rsa_signed_by_pkcs11_tool(bridge, tmp_path):
    key, digest = bridge.key("RSA_2048"), hashlib.sha256(MESSAGE).digest()
    (tmp_path / "info").write_bytes(SHA256_DIGEST_INFO + digest)
    (tmp_path / "digest").write_bytes(digest)
    pkcs11_tool(bridge, "--sign", "-m", "RSA-PKCS", "--id", key_id_hex(key), "-i", tmp_path / "info", "-o", tmp_path / "pkcs")
    pkcs11_tool(bridge, "--sign", "-m", "RSA-PKCS-PSS", "--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256", "--salt-len", "32",
                "--id", key_id_hex(key), "-i", tmp_path / "digest", "-o", tmp_path / "pss")
    for name, algorithm in (("pkcs", "RSASSA_PKCS1_V1_5_SHA_256"), ("pss", "RSASSA_PSS_SHA_256")):
        signature = (tmp_path / name).read_bytes()
        assert bridge.kms.verify(KeyId=key, Message=MESSAGE, Signature=signature, SigningAlgorithm=algorithm)["SignatureValid"]
        assert bridge.kms.verify(KeyId=key, Message=digest, MessageType="DIGEST", Signature=signature, SigningAlgorithm=algorithm)
    mine = bridge.kms.sign(KeyId=key, Message=MESSAGE, SigningAlgorithm="RSASSA_PKCS1_V1_5_SHA_256")["Signature"]
    assert mine == (tmp_path / "pkcs").read_bytes(), "PKCS #1 v1.5 is deterministic"


@pytest.mark.parametrize("spec, name", [("ECC_NIST_P256", "sha256"), ("ECC_NIST_P384", "sha384"), ("ECC_NIST_P521", "sha512"),
                                        ("ECC_SECG_P256K1", "sha256")])
def test_ecdsa_signed_by_pkcs11_tool(bridge, tmp_path, spec, name):
    key, (algorithm,) = bridge.key(spec), vocabulary.SIGNING[spec]
    (tmp_path / "digest").write_bytes(hashlib.new(name, MESSAGE).digest())
    pkcs11_tool(bridge, "--sign", "-m", "ECDSA", "--id", key_id_hex(key), "-i", tmp_path / "digest", "-o", tmp_path / "rs")
    raw = (tmp_path / "rs").read_bytes()
    half = len(raw) // 2
    der = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    assert bridge.kms.verify(KeyId=key, Message=MESSAGE, Signature=der, SigningAlgorithm=algorithm)["SignatureValid"]
    with refused("KMSInvalidSignatureException"):
        bridge.kms.verify(KeyId=key, Message=MESSAGE, Signature=raw, SigningAlgorithm=algorithm)


def pkcs11_verify(bridge, tmp_path, mechanism, key, data, signature, *more):
    (tmp_path / "data").write_bytes(data)
    (tmp_path / "signature").write_bytes(signature)
    done = pkcs11_tool(bridge, "--verify", "-m", mechanism, "--id", key_id_hex(key), "-i", tmp_path / "data", "--signature-file",
                       tmp_path / "signature", *more, check=False)
    return b"Signature is valid" in done.stdout + done.stderr


def test_signed_by_kms_verified_by_pkcs11_tool(bridge, tmp_path):
    digest = hashlib.sha256(MESSAGE).digest()
    key = bridge.key("RSA_2048")
    signature = bridge.kms.sign(KeyId=key, Message=MESSAGE, SigningAlgorithm="RSASSA_PKCS1_V1_5_SHA_256")["Signature"]
    assert pkcs11_verify(bridge, tmp_path, "RSA-PKCS", key, SHA256_DIGEST_INFO + digest, signature)
    assert not pkcs11_verify(bridge, tmp_path, "RSA-PKCS", key, SHA256_DIGEST_INFO + digest[::-1], signature)
    signature = bridge.kms.sign(KeyId=key, Message=MESSAGE, SigningAlgorithm="RSASSA_PSS_SHA_256")["Signature"]
    pss = ("--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256", "--salt-len", "32")
    assert pkcs11_verify(bridge, tmp_path, "RSA-PKCS-PSS", key, digest, signature, *pss)

    key = bridge.key("ECC_NIST_P256")
    signature = bridge.kms.sign(KeyId=key, Message=MESSAGE, SigningAlgorithm="ECDSA_SHA_256")["Signature"]
    r, s = decode_dss_signature(signature)
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert pkcs11_verify(bridge, tmp_path, "ECDSA", key, digest, raw)
    assert not pkcs11_verify(bridge, tmp_path, "ECDSA", key, digest[::-1], raw)


@pytest.mark.parametrize("spec, algorithm", [("RSA_2048", "RSASSA_PKCS1_V1_5_SHA_256"), ("ECC_NIST_P256", "ECDSA_SHA_256")])
def test_the_exported_public_key_is_the_same(bridge, tmp_path, spec, algorithm):
    key = bridge.key(spec)
    pkcs11_tool(bridge, "--read-object", "--type", "pubkey", "--id", key_id_hex(key), "-o", tmp_path / "exported.der")
    subprocess.run(["openssl", "pkey", "-pubin", "-inform", "DER", "-in", "exported.der", "-out", "exported.pem"], cwd=tmp_path,
                   check=True, capture_output=True, timeout=30)
    spki = subprocess.run(["openssl", "pkey", "-pubin", "-in", "exported.pem", "-outform", "DER"], cwd=tmp_path, check=True,
                          capture_output=True, timeout=30).stdout
    assert spki == bridge.kms.get_public_key(KeyId=key)["PublicKey"]
    (tmp_path / "message").write_bytes(MESSAGE)
    (tmp_path / "signature").write_bytes(bridge.kms.sign(KeyId=key, Message=MESSAGE, SigningAlgorithm=algorithm)["Signature"])
    done = subprocess.run(["openssl", "dgst", "-sha256", "-verify", "exported.pem", "-signature", "signature", "message"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert "Verified OK" in done.stdout, done


def system_objects(bridge):
    return [o for o in listed_objects(bridge) if not o.get("label", "").startswith("hsm-bridge/kms/")]


def test_system_keys_are_in_the_token(bridge):
    labels = [o.get("label") for o in system_objects(bridge)]
    for name in SYSTEM_KEYS:
        assert labels.count(name) == 1, labels


def names_of(found):
    """Each way in which a caller might name a system key: by its CKA_ID as a key id, by its label."""
    label, hex_id = found["label"], found.get("ID", "")
    names = [label, label.removeprefix("hsm-bridge/"), hex_id]
    if len(hex_id) == 32:
        names += [str(uuid.UUID(hex_id)), f"mrk-{hex_id}"]
    return [n for n in names if n]


def test_system_keys_are_out_of_reach(either):
    objects = [o for o in system_objects(either) if o.get("label") in SYSTEM_KEYS]
    assert len(objects) >= len(SYSTEM_KEYS)
    listed = {k["KeyId"] for page in either.kms.get_paginator("list_keys").paginate() for k in page["Keys"]}
    for found in objects:
        for name in names_of(found):
            assert name not in listed
            for form in (name, either.key_arn(name)):
                for call in (
                    lambda f=form: either.kms.describe_key(KeyId=f),
                    lambda f=form: either.kms.encrypt(KeyId=f, Plaintext=b"p"),
                    lambda f=form: either.kms.generate_data_key(KeyId=f, KeySpec="AES_256"),
                    lambda f=form: either.kms.sign(KeyId=f, Message=b"m", SigningAlgorithm="RSASSA_PSS_SHA_256"),
                    lambda f=form: either.kms.generate_mac(KeyId=f, Message=b"m", MacAlgorithm="HMAC_SHA_256"),
                    lambda f=form: either.kms.schedule_key_deletion(KeyId=f),
                    lambda f=form: either.kms.disable_key(KeyId=f),
                    lambda f=form: either.kms.create_alias(AliasName=f"alias/sys-{secrets.token_hex(4)}", TargetKeyId=f),
                ):
                    with refused("NotFoundException", f"Invalid keyId '{form}'"):
                        call()


def test_a_ciphertext_that_names_a_system_key(bridge):
    """The header of a blob chooses the key: a caller who writes a system key's id there gets nothing."""
    key = bridge.key()
    blob = bridge.kms.encrypt(KeyId=key, Plaintext=b"p")["CiphertextBlob"]
    mine = uuid.UUID(key).bytes
    assert blob.count(mine) == 1, "the blob names its key by the 16 bytes of its id"
    for found in system_objects(bridge):
        if len(found.get("ID", "")) == 32:
            with refused("InvalidCiphertextException", ABSENT):
                bridge.kms.decrypt(CiphertextBlob=blob.replace(mine, bytes.fromhex(found["ID"])))


def test_a_foreign_object_in_the_token_is_no_kms_key(bridge):
    """Somebody else's key, with an id of KMS's form, made beside the bridge."""
    foreign = uuid.uuid4()
    pkcs11_tool(bridge, "--keygen", "--key-type", "AES:32", "--id", foreign.hex, "--label", "somebody else's", "--sensitive")
    for name in (str(foreign), bridge.key_arn(foreign)):
        with refused("NotFoundException", f"Key '{bridge.key_arn(foreign)}' does not exist"):
            bridge.kms.encrypt(KeyId=name, Plaintext=b"p")
    assert bridge.kms.encrypt(KeyId=bridge.key(), Plaintext=b"p")
