"""A service on kryoptic instead of SoftHSM2: what SoftHSM2 has not (ML-DSA) and what both have, judged by python-cryptography."""

import base64
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kryoptic import Kryoptic
from test_officer import faults, reconcile

RSA = [f"RSASSA_{scheme}_SHA_{bits}" for scheme in ("PKCS1_V1_5", "PSS") for bits in (256, 384, 512)]
# What kryoptic has of KMS's signing keys: all but secp256k1.
SIGNING = {"RSA_2048": RSA, "RSA_3072": RSA, "RSA_4096": RSA, "ECC_NIST_P256": ["ECDSA_SHA_256"], "ECC_NIST_P384": ["ECDSA_SHA_384"],
           "ECC_NIST_P521": ["ECDSA_SHA_512"], "ECC_NIST_EDWARDS25519": ["ED25519_SHA_512"], "ML_DSA_44": ["ML_DSA_SHAKE_256"],
           "ML_DSA_65": ["ML_DSA_SHAKE_256"], "ML_DSA_87": ["ML_DSA_SHAKE_256"]}
# Class of the public key, bytes of a signature (FIPS 204, table 2).
ML_DSA = {"ML_DSA_44": (mldsa.MLDSA44PublicKey, 2420), "ML_DSA_65": (mldsa.MLDSA65PublicKey, 3309),
          "ML_DSA_87": (mldsa.MLDSA87PublicKey, 4627)}
HASHES = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}


def b64(data):
    return base64.b64encode(data).decode()


def judge(public, algorithm, signature, message):
    """Raises InvalidSignature unless somebody else's code finds the signature good."""
    if algorithm in ("ED25519_SHA_512", "ML_DSA_SHAKE_256"):
        return public.verify(signature, message)
    hash_type = HASHES[algorithm[-3:]]
    if algorithm.startswith("ECDSA"):
        return public.verify(signature, message, ec.ECDSA(hash_type()))
    if "PSS" in algorithm:
        return public.verify(signature, message, padding.PSS(mgf=padding.MGF1(hash_type()), salt_length=hash_type.digest_size), hash_type())
    return public.verify(signature, message, padding.PKCS1v15(), hash_type())


@pytest.fixture(scope="module")
def kryoptic():
    made = Kryoptic().init().start()
    yield made
    made.close()


def pair(instance, spec):
    """A key of its own, and its public key as somebody else's code reads it."""
    key = instance.new_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")
    answer = instance.call("GetPublicKey", {"KeyId": key})
    assert (answer["KeySpec"], answer["SigningAlgorithms"]) == (spec, SIGNING[spec])
    der = base64.b64decode(answer["PublicKey"])
    public = load_der_public_key(der)
    assert public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == der
    return key, public


def sign(instance, key, algorithm, message, **more):
    return base64.b64decode(instance.call("Sign", {"KeyId": key, "Message": b64(message), "SigningAlgorithm": algorithm} | more)["Signature"])


def verify(instance, key, algorithm, message, signature, **more):
    asked = {"KeyId": key, "Message": b64(message), "SigningAlgorithm": algorithm, "Signature": b64(signature)} | more
    return instance.raw().call("Verify", asked)


@pytest.mark.parametrize("spec", SIGNING)
def test_signatures(kryoptic, spec):
    key, public = pair(kryoptic, spec)
    described = kryoptic.call("DescribeKey", {"KeyId": key})["KeyMetadata"]
    assert (described["KeySpec"], described["SigningAlgorithms"]) == (spec, SIGNING[spec])
    for algorithm in SIGNING[spec]:
        for message in (b"m", bytes(range(256)) * 16):
            signature = sign(kryoptic, key, algorithm, message)
            judge(public, algorithm, signature, message)
            assert verify(kryoptic, key, algorithm, message, signature).json()["SignatureValid"] is True
            with pytest.raises(InvalidSignature):
                judge(public, algorithm, signature, message + b".")
            bad = signature[:-1] + bytes([signature[-1] ^ 1])
            assert verify(kryoptic, key, algorithm, message, bad).type == "KMSInvalidSignatureException"
            assert verify(kryoptic, key, algorithm, message[1:] + b".", signature).type == "KMSInvalidSignatureException"
        record = kryoptic.records("Sign")[-1]
        assert record["requestParameters"]["signingAlgorithm"] == algorithm
        if spec in ML_DSA:
            assert record["additionalEventData"]["hsm"]["mechanism"] == "CKM_ML_DSA"


@pytest.mark.parametrize("spec", ML_DSA)
def test_ml_dsa(kryoptic, spec):
    """Key and signature have FIPS 204's sizes; a signature from elsewhere is judged alike; message types."""
    key, public = pair(kryoptic, spec)
    kind, size = ML_DSA[spec]
    assert isinstance(public, kind)
    algorithm = "ML_DSA_SHAKE_256"
    signature = sign(kryoptic, key, algorithm, b"message", MessageType="RAW")
    assert len(signature) == size
    # With a context the same key signs something else.
    with pytest.raises(InvalidSignature):
        public.verify(signature, b"message", b"context")
    # Another key's signature, well-formed.
    other = getattr(mldsa, kind.__name__.replace("Public", "Private")).generate()
    assert verify(kryoptic, key, algorithm, b"message", other.sign(b"message")).type == "KMSInvalidSignatureException"
    # mu cannot be signed in the token, a digest is no message.
    for operation, more in (("Sign", {}), ("Verify", {"Signature": b64(signature)})):
        asked = {"KeyId": key, "Message": b64(bytes(64)), "SigningAlgorithm": algorithm} | more
        refused = kryoptic.raw().call(operation, asked | {"MessageType": "EXTERNAL_MU"})
        assert refused.type == "UnsupportedOperationException" and "EXTERNAL_MU is not served" in refused.json()["message"]
        refused = kryoptic.raw().call(operation, asked | {"MessageType": "DIGEST"})
        assert refused.type == "ValidationException" and "DIGEST is not valid" in refused.json()["message"]
    too_long = kryoptic.raw().call("Sign", {"KeyId": key, "Message": b64(bytes(4097)), "SigningAlgorithm": algorithm})
    assert too_long.type == "ValidationException"
    wrong = kryoptic.raw().call("Sign", {"KeyId": key, "Message": "AAAA", "SigningAlgorithm": "ED25519_SHA_512"})
    assert wrong.type == "InvalidKeyUsageException" and "incompatible" in wrong.json()["message"]


def test_a_policy_speaks_of_ml_dsa(kryoptic):
    """kms:KeySpec, kms:SigningAlgorithm and kms:MessageType."""
    key, _ = pair(kryoptic, "ML_DSA_44")
    root = f"arn:aws:iam::{kryoptic.key_arn(key).split(':')[4]}:root"
    allow = {"Effect": "Allow", "Principal": {"AWS": root}, "Action": "kms:*", "Resource": "*"}
    deny = {"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "kms:Sign", "Resource": "*"}
    asked = {"KeyId": key, "Message": "AAAA", "SigningAlgorithm": "ML_DSA_SHAKE_256"}
    for condition, code in (("kms:SigningAlgorithm", "ML_DSA_SHAKE_256"), ("kms:KeySpec", "ML_DSA_44"), ("kms:MessageType", "RAW")):
        for value, allowed in ((code, False), ("other", True)):
            statement = deny | {"Condition": {"StringEquals": {condition: value}}}
            policy = json.dumps({"Version": "2012-10-17", "Statement": [allow, statement]})
            kryoptic.call("PutKeyPolicy", {"KeyId": key, "PolicyName": "default", "Policy": policy})
            reply = kryoptic.raw().call("Sign", asked)
            assert (reply.status == 200) is allowed and (allowed or reply.type == "AccessDeniedException"), (condition, value, reply.body)


def test_what_the_token_has_not(kryoptic):
    refused = kryoptic.raw().call("CreateKey", {"KeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY"})
    assert refused.type == "UnsupportedOperationException"
    (token,) = kryoptic.doctor()["tokens"]
    assert set(ML_DSA) <= set(token["keySpecs"]) and "ECC_SECG_P256K1" not in token["keySpecs"]


def test_softhsm_has_no_ml_dsa(serving):
    refused = serving.raw().call("CreateKey", {"KeySpec": "ML_DSA_65", "KeyUsage": "SIGN_VERIFY"})
    assert refused.type == "UnsupportedOperationException" and "ML_DSA_65" in refused.json()["message"]


def test_symmetric_keys_and_macs(kryoptic):
    key, context = kryoptic.new_key(), {"app": "shop"}
    text = b64(b"from the bridge")
    blob = kryoptic.call("Encrypt", {"KeyId": key, "Plaintext": text, "EncryptionContext": context})["CiphertextBlob"]
    assert kryoptic.call("Decrypt", {"CiphertextBlob": blob, "EncryptionContext": context})["Plaintext"] == text
    for bad in ({"CiphertextBlob": blob}, {"CiphertextBlob": blob[:-8] + "AAAAAAA=", "EncryptionContext": context}):
        assert kryoptic.raw().call("Decrypt", bad).type == "InvalidCiphertextException"
    made = kryoptic.call("GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256"})
    assert kryoptic.call("Decrypt", {"CiphertextBlob": made["CiphertextBlob"]})["Plaintext"] == made["Plaintext"]
    for bits in (224, 256, 384, 512):
        mac_key = kryoptic.new_key(KeySpec=f"HMAC_{bits}", KeyUsage="GENERATE_VERIFY_MAC")
        asked = {"KeyId": mac_key, "Message": text, "MacAlgorithm": f"HMAC_SHA_{bits}"}
        mac = kryoptic.call("GenerateMac", asked)["Mac"]
        assert kryoptic.call("VerifyMac", asked | {"Mac": mac})["MacValid"] is True


def test_restart_and_the_officers_view(kryoptic):
    """After a restart every key is found and works; store and token agree; a key that is deleted behind the bridge is missed."""
    keys = {spec: pair(kryoptic, spec) for spec in ("ML_DSA_87", "ECC_NIST_EDWARDS25519")}
    aes = kryoptic.new_key()
    blob = kryoptic.call("Encrypt", {"KeyId": aes, "Plaintext": "AAAA"})["CiphertextBlob"]
    kryoptic.stop()
    kryoptic.start()
    for spec, (key, public) in keys.items():
        judge(public, SIGNING[spec][0], sign(kryoptic, key, SIGNING[spec][0], b"after"), b"after")
    assert kryoptic.call("Decrypt", {"CiphertextBlob": blob})["Plaintext"] == "AAAA"
    report = reconcile(kryoptic)
    assert report["ok"], faults(report)
    kryoptic.verify()
    key, _ = keys["ML_DSA_87"]
    for kind in ("privkey", "pubkey"):
        kryoptic.tool("--token-label", kryoptic.label, "--login", "--pin", kryoptic.pin, "--delete-object", "--type", kind, "--id",
                      key.replace("-", ""))
    report = reconcile(kryoptic)
    assert not report["ok"] and key in str(faults(report))
