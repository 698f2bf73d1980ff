"""Signatures and public keys, judged by python-cryptography and OpenSSL."""

import hashlib
import subprocess

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

import vocabulary
from checks import ABSENT, members, refused

CURVES = {"ECC_NIST_P256": ec.SECP256R1, "ECC_NIST_P384": ec.SECP384R1, "ECC_NIST_P521": ec.SECP521R1,
          "ECC_SECG_P256K1": ec.SECP256K1}
HASHES = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
PAIRS = [(spec, algorithm) for spec, algorithms in vocabulary.SIGNING.items() for algorithm in algorithms]
MESSAGE = b"what is signed"


def digest_of(algorithm, message):
    return hashlib.new("sha" + algorithm[-3:], message).digest()


def public_key(bridge, key):
    return serialization.load_der_public_key(bridge.kms.get_public_key(KeyId=key)["PublicKey"])


def judge(public, algorithm, signature, message):
    """Raises InvalidSignature unless somebody else's code finds the signature good."""
    if algorithm == "ED25519_SHA_512":
        return public.verify(signature, message)
    hash_type = HASHES[algorithm[-3:]]
    prehashed, digest = utils.Prehashed(hash_type()), digest_of(algorithm, message)
    if algorithm.startswith("ECDSA"):
        return public.verify(signature, digest, ec.ECDSA(prehashed))
    if "PSS" in algorithm:
        exact = padding.PSS(mgf=padding.MGF1(hash_type()), salt_length=hash_type.digest_size)
        return public.verify(signature, digest, exact, prehashed)
    return public.verify(signature, digest, padding.PKCS1v15(), prehashed)


@pytest.mark.parametrize("spec", vocabulary.SIGNING)
def test_public_key(either, spec):
    key = either.key(spec)
    answer = members(either.kms.get_public_key(KeyId=key))
    der = answer.pop("PublicKey")
    assert answer == {"KeyId": either.key_arn(key), "KeySpec": spec, "CustomerMasterKeySpec": spec, "KeyUsage": "SIGN_VERIFY",
                      "SigningAlgorithms": vocabulary.SIGNING[spec]}
    public = serialization.load_der_public_key(der)
    if spec.startswith("RSA"):
        assert isinstance(public, rsa.RSAPublicKey) and public.key_size == int(spec[4:])
        assert public.public_numbers().e == 65537
    elif spec in CURVES:
        assert isinstance(public.curve, CURVES[spec])
    else:
        assert isinstance(public, ed25519.Ed25519PublicKey)
    again = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert again == der, "SubjectPublicKeyInfo in DER, with the curve by name"
    shown = subprocess.run(["openssl", "pkey", "-pubin", "-inform", "DER", "-noout", "-text"], input=der, capture_output=True,
                           timeout=30)
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("spec, algorithm", PAIRS)
def test_sign_and_verify(either, spec, algorithm):
    key = either.key(spec)
    arn, public = either.key_arn(key), public_key(either, key)
    kinds = [("RAW", MESSAGE), (None, MESSAGE)]
    if algorithm != "ED25519_SHA_512":
        kinds.append(("DIGEST", digest_of(algorithm, MESSAGE)))
    made = []
    for kind, message in kinds:
        how = {"MessageType": kind} if kind else {}
        answer = members(either.kms.sign(KeyId=key, Message=message, SigningAlgorithm=algorithm, **how))
        made.append(answer.pop("Signature"))
        assert answer == {"KeyId": arn, "SigningAlgorithm": algorithm}
        judge(public, algorithm, made[-1], MESSAGE)
        with pytest.raises(InvalidSignature):
            judge(public, algorithm, made[-1], MESSAGE + b".")
    if algorithm.startswith(("RSASSA_PKCS1", "ED25519")):
        assert len(set(made)) == 1, "these signatures are deterministic: RAW and DIGEST differ only in who hashes"

    for kind, message in kinds:
        how = {"MessageType": kind} if kind else {}
        for signature in made:
            answer = members(either.kms.verify(KeyId=key, Message=message, Signature=signature, SigningAlgorithm=algorithm, **how))
            assert answer == {"KeyId": arn, "SignatureValid": True, "SigningAlgorithm": algorithm}


@pytest.mark.parametrize("spec, algorithm", [("RSA_2048", "RSASSA_PKCS1_V1_5_SHA_256"), ("RSA_2048", "RSASSA_PSS_SHA_512"),
                                             ("ECC_NIST_P256", "ECDSA_SHA_256"), ("ECC_NIST_P521", "ECDSA_SHA_512"),
                                             ("ECC_SECG_P256K1", "ECDSA_SHA_256"), ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512")])
def test_verify_refuses_flipped_bits(bridge, spec, algorithm):
    key = bridge.key(spec)
    good = bridge.kms.sign(KeyId=key, Message=MESSAGE, SigningAlgorithm=algorithm)["Signature"]
    other = bridge.kms.sign(KeyId=key, Message=b"something else", SigningAlgorithm=algorithm)["Signature"]
    step = max(1, len(good) // 16)
    wrong = [good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1:] for at in range(0, len(good), step)]
    wrong += [other, good[:-1], good + b"\0", b"\0" * len(good), b"\xff" * len(good), b"x"]
    for signature in wrong:
        with refused("KMSInvalidSignatureException", ABSENT):
            bridge.kms.verify(KeyId=key, Message=MESSAGE, Signature=signature, SigningAlgorithm=algorithm)
    with refused("KMSInvalidSignatureException", ABSENT):
        bridge.kms.verify(KeyId=key, Message=MESSAGE + b".", Signature=good, SigningAlgorithm=algorithm)


def test_algorithms_are_not_mixed_up(bridge):
    key = bridge.key("RSA_2048")
    for one in vocabulary.RSA_ALGORITHMS:
        signature = bridge.kms.sign(KeyId=key, Message=MESSAGE, SigningAlgorithm=one)["Signature"]
        for other in vocabulary.RSA_ALGORITHMS:
            if other != one:
                with refused("KMSInvalidSignatureException", ABSENT):
                    bridge.kms.verify(KeyId=key, Message=MESSAGE, Signature=signature, SigningAlgorithm=other)


@pytest.mark.parametrize("spec, algorithm, openssl", [
    ("RSA_2048", "RSASSA_PKCS1_V1_5_SHA_256", ["-sha256"]),
    ("RSA_3072", "RSASSA_PSS_SHA_384", ["-sha384", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest",
                                        "-sigopt", "rsa_mgf1_md:sha384"]),
    ("ECC_NIST_P384", "ECDSA_SHA_384", ["-sha384"]),
    ("ECC_SECG_P256K1", "ECDSA_SHA_256", ["-sha256"]),
])
def test_openssl_agrees(bridge, tmp_path, spec, algorithm, openssl):
    key = bridge.key(spec)
    signature = bridge.kms.sign(KeyId=key, Message=MESSAGE, SigningAlgorithm=algorithm)["Signature"]
    pem = public_key(bridge, key).public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for name, data in (("key.pem", pem), ("signature", signature), ("message", MESSAGE)):
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(["openssl", "dgst", *openssl, "-verify", "key.pem", "-signature", "signature", "message"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=30)
    assert "Verified OK" in done.stdout, done


def test_a_foreign_signature_verifies(bridge):
    """RSASSA-PSS with another salt length is not what KMS makes, and does not verify; KMS's own salt does."""
    key = bridge.key("RSA_2048")
    signature = bridge.kms.sign(KeyId=key, Message=MESSAGE, SigningAlgorithm="RSASSA_PSS_SHA_256")["Signature"]
    with pytest.raises(InvalidSignature):
        public_key(bridge, key).verify(signature, MESSAGE, padding.PSS(padding.MGF1(hashes.SHA256()), 20), hashes.SHA256())


def test_messages_of_every_length(bridge):
    for spec, algorithm in (("ECC_NIST_P256", "ECDSA_SHA_256"), ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512")):
        key = bridge.key(spec)
        public = public_key(bridge, key)
        for length in (1, 64, 4096):
            message = bytes(range(256)) * 16
            message = message[:length]
            judge(public, algorithm, bridge.kms.sign(KeyId=key, Message=message, SigningAlgorithm=algorithm)["Signature"], message)
        for wrong in (0, 4097):
            with refused("ValidationException"):
                bridge.client(validate=False).sign(KeyId=key, Message=b"m" * wrong, SigningAlgorithm=algorithm)


@pytest.mark.parametrize("algorithm", [a for a in vocabulary.RSA_ALGORITHMS] + ["ECDSA_SHA_256"])
@pytest.mark.parametrize("wrong", [20, 31, 33, 47, 65])
def test_digests_of_a_wrong_length(bridge, algorithm, wrong):
    key = bridge.key("ECC_NIST_P256" if algorithm.startswith("ECDSA") else "RSA_2048")
    text = f"Digest is invalid length for algorithm {algorithm}."
    with refused("ValidationException", text):
        bridge.kms.sign(KeyId=key, Message=b"d" * wrong, MessageType="DIGEST", SigningAlgorithm=algorithm)
    with refused("ValidationException", text):
        bridge.kms.verify(KeyId=key, Message=b"d" * wrong, MessageType="DIGEST", SigningAlgorithm=algorithm, Signature=b"s" * 70)


def test_a_digest_of_another_hash_is_signed_as_it_is(bridge):
    """Ethereum signers sign Keccak digests with ECDSA_SHA_256: 32 bytes are 32 bytes."""
    key = bridge.key("ECC_SECG_P256K1")
    digest = hashlib.sha3_256(MESSAGE).digest()
    signature = bridge.kms.sign(KeyId=key, Message=digest, MessageType="DIGEST", SigningAlgorithm="ECDSA_SHA_256")["Signature"]
    public_key(bridge, key).verify(signature, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


def test_ed25519_takes_messages_only(bridge):
    with refused("ValidationException", "MessageType DIGEST is not valid for algorithm ED25519_SHA_512."):
        bridge.kms.sign(KeyId=bridge.key("ECC_NIST_EDWARDS25519"), Message=b"d" * 64, MessageType="DIGEST",
                        SigningAlgorithm="ED25519_SHA_512")


def test_usage_and_algorithm_texts(bridge):
    symmetric, ec_key, rsa_key = bridge.key(), bridge.key("ECC_NIST_P256"), bridge.key("RSA_2048")
    not_valid = "{} key usage is {} which is not valid for {}."
    with refused("InvalidKeyUsageException", not_valid.format(bridge.key_arn(symmetric), "ENCRYPT_DECRYPT", "Sign")):
        bridge.kms.sign(KeyId=symmetric, Message=b"m", SigningAlgorithm="ECDSA_SHA_256")
    with refused("InvalidKeyUsageException", not_valid.format(bridge.key_arn(symmetric), "ENCRYPT_DECRYPT", "Verify")):
        bridge.kms.verify(KeyId=symmetric, Message=b"m", SigningAlgorithm="ECDSA_SHA_256", Signature=b"s")
    with refused("InvalidKeyUsageException", "Algorithm ECDSA_SHA_384 is incompatible with key spec ECC_NIST_P256."):
        bridge.kms.sign(KeyId=ec_key, Message=b"m", SigningAlgorithm="ECDSA_SHA_384")
    with refused("InvalidKeyUsageException", "Algorithm ECDSA_SHA_256 is incompatible with key spec RSA_2048."):
        bridge.kms.verify(KeyId=rsa_key, Message=b"m", SigningAlgorithm="ECDSA_SHA_256", Signature=b"s")
    with refused("ValidationException"):
        bridge.kms.sign(KeyId=rsa_key, Message=b"m", SigningAlgorithm="ROT13")
    with refused("ValidationException"):
        bridge.kms.sign(KeyId=rsa_key, Message=b"m", MessageType="PLAIN", SigningAlgorithm="RSASSA_PSS_SHA_256")
    for key in (symmetric, bridge.key("HMAC_256")):
        with refused("UnsupportedOperationException", f"{bridge.key_arn(key)} has no public key."):
            bridge.kms.get_public_key(KeyId=key)
