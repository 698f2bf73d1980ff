"""Each group is red when KMS does not do what it says: no check that cannot fail."""

import pytest

import specs
from lying_kms import changed, flipped, lying


def flip(member):
    return lambda status, told: (status, changed(told, member, flipped))


def says(**told):
    """The same to everybody, and no error ever."""
    return lambda status, _: (200, {"KeyId": "arn:aws:kms:us-east-1:111122223333:key/x"} | told)


def constant(length):
    return lambda status, told: (status, changed(told, "Plaintext", lambda value: bytes(length or len(value))))


ONE = "the token signs, KMS verifies"

# Group, operation, lie, rows of which every one must fail (a part of their names).
LIES = {
    "a signature is wrong": ("signatures", "Sign", flip("Signature"), ["KMS signs,", "MessageType=DIGEST"]),
    "Verify says yes": ("signatures", "Verify", says(SignatureValid=True), [ONE]),
    "a MAC is wrong": ("macs", "GenerateMac", flip("Mac"), ["both ways", "verifies KMS's MAC"]),
    "VerifyMac says yes": ("macs", "VerifyMac", says(MacValid=True), ["both ways"]),
    "a tag is wrong": ("ciphertexts", "Encrypt", flip("CiphertextBlob"), ["KMS encrypts", "the same bytes"]),
    "a plaintext is wrong": ("ciphertexts", "Decrypt", flip("Plaintext"), ["KMS decrypts"]),
    "Decrypt opens everything": ("ciphertexts", "Decrypt", lambda _, told: (200, {"Plaintext": "eA=="} | told), ["KMS decrypts"]),
    "another data key": ("ciphertexts", "GenerateDataKey", flip("Plaintext"), ["GenerateDataKey, ReEncrypt"]),
    "ReEncrypt breaks it": ("ciphertexts", "ReEncrypt", flip("CiphertextBlob"), ["GenerateDataKey, ReEncrypt"]),
    "zeros": ("random", "GenerateRandom", constant(0), ["differ", "balanced"]),
    "too short": ("random", "GenerateRandom", constant(1), ["so long"]),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_seen(bridge, crosscheck, name):
    group, operation, lie, rows = LIES[name]
    with lying(bridge.endpoint, operation, lie) as endpoint:
        report = crosscheck(bridge, "--endpoint", endpoint, "--only", group)
    assert report.code == 1, str(report)
    for part in rows:
        results = report.results(part)
        assert results and set(results.values()) == {"FAILED"}, str(report)


@pytest.mark.parametrize("usage", ["Encrypt", "Decrypt", "Sign", "GetPublicKey", "GenerateMac"])
def test_existing_keys(bridge, crosscheck, usage):
    """The same for keys that were there before."""
    spec = {"GenerateMac": "HMAC_256", "Sign": "ECC_NIST_P256", "GetPublicKey": "ECC_NIST_P256"}.get(usage, specs.SYMMETRIC)
    member = {"Encrypt": "CiphertextBlob", "Decrypt": "Plaintext", "Sign": "Signature", "GetPublicKey": "PublicKey",
              "GenerateMac": "Mac"}
    key = bridge.key(spec)
    with lying(bridge.endpoint, usage, flip(member[usage])) as endpoint:
        report = crosscheck(bridge, "--endpoint", endpoint, "--only", "keys", "--key", key)
    assert report.code == 1 and list(report.results(key).values()) == ["ok", "FAILED"], str(report)
