"""HMAC keys. The value of a MAC is recomputed in the token by another program: nobody else can."""

import pytest

import vocabulary
from checks import ABSENT, members, refused
from token_tool import token

MESSAGE = b"what is authenticated"
SIZES = {"HMAC_224": 28, "HMAC_256": 32, "HMAC_384": 48, "HMAC_512": 64}


@pytest.mark.parametrize("spec", vocabulary.MACS)
def test_macs(either, spec):
    key, (algorithm,) = either.key(spec), vocabulary.MACS[spec]
    arn = either.key_arn(key)
    answer = members(either.kms.generate_mac(KeyId=key, Message=MESSAGE, MacAlgorithm=algorithm))
    mac = answer.pop("Mac")
    assert answer == {"KeyId": arn, "MacAlgorithm": algorithm}
    assert len(mac) == SIZES[spec]
    assert mac == either.kms.generate_mac(KeyId=arn, Message=MESSAGE, MacAlgorithm=algorithm)["Mac"]
    assert mac == token(either, "hmac", key=key, algorithm=algorithm, message=MESSAGE), "the token's own HMAC"
    assert members(either.kms.verify_mac(KeyId=key, Message=MESSAGE, MacAlgorithm=algorithm, Mac=mac)) == {
        "KeyId": arn, "MacAlgorithm": algorithm, "MacValid": True}
    outside = token(either, "hmac", key=key, algorithm=algorithm, message=b"made outside")
    assert either.kms.verify_mac(KeyId=key, Message=b"made outside", MacAlgorithm=algorithm, Mac=outside)["MacValid"] is True


@pytest.mark.parametrize("spec", ["HMAC_224", "HMAC_512"])
def test_wrong_macs(bridge, spec):
    key, (algorithm,) = bridge.key(spec), vocabulary.MACS[spec]
    mac = bridge.kms.generate_mac(KeyId=key, Message=MESSAGE, MacAlgorithm=algorithm)["Mac"]
    wrong = [mac[:at] + bytes([mac[at] ^ 1 << at % 8]) + mac[at + 1:] for at in range(len(mac))]
    wrong += [mac[:-1], mac[:1], mac + b"\0", b"\0" * len(mac)]
    for value in wrong:
        with refused("KMSInvalidMacException", ABSENT):
            bridge.kms.verify_mac(KeyId=key, Message=MESSAGE, MacAlgorithm=algorithm, Mac=value)
    with refused("KMSInvalidMacException", ABSENT):
        bridge.kms.verify_mac(KeyId=key, Message=MESSAGE + b".", MacAlgorithm=algorithm, Mac=mac)
    other = bridge.key(spec, purpose="another")
    with refused("KMSInvalidMacException", ABSENT):
        bridge.kms.verify_mac(KeyId=other, Message=MESSAGE, MacAlgorithm=algorithm, Mac=mac)


def test_mac_texts(bridge):
    narrow, symmetric = bridge.key("HMAC_224"), bridge.key()
    with refused("InvalidKeyUsageException", "Algorithm HMAC_SHA_256 is incompatible with key spec HMAC_224."):
        bridge.kms.generate_mac(KeyId=narrow, Message=b"m", MacAlgorithm="HMAC_SHA_256")
    with refused("InvalidKeyUsageException", "Algorithm HMAC_SHA_256 is incompatible with key spec HMAC_224."):
        bridge.kms.verify_mac(KeyId=narrow, Message=b"m", MacAlgorithm="HMAC_SHA_256", Mac=b"m")
    for name, operation, extra in (("generate_mac", "GenerateMac", {}), ("verify_mac", "VerifyMac", {"Mac": b"m"})):
        with refused("InvalidKeyUsageException",
                     f"{bridge.key_arn(symmetric)} key usage is ENCRYPT_DECRYPT which is not valid for {operation}."):
            getattr(bridge.kms, name)(KeyId=symmetric, Message=b"m", MacAlgorithm="HMAC_SHA_256", **extra)
    with refused("NotFoundException", "Invalid keyId 'key_id'"):
        bridge.kms.generate_mac(KeyId="key_id", Message=b"m", MacAlgorithm="HMAC_SHA_256")
    with refused("ValidationException") as seen:
        bridge.kms.generate_mac(KeyId=narrow, Message=b"m", MacAlgorithm="INVALID")
    start = ("1 validation error detected: Value 'INVALID' at 'macAlgorithm' failed to satisfy constraint: Member must satisfy "
             "enum value set: [")
    assert seen.message.startswith(start) and seen.message.endswith("]")
    assert set(seen.message[len(start):-1].split(", ")) == {"HMAC_SHA_224", "HMAC_SHA_256", "HMAC_SHA_384", "HMAC_SHA_512"}
    for wrong in (0, 4097):
        with refused("ValidationException"):
            bridge.client(validate=False).generate_mac(KeyId=narrow, Message=b"m" * wrong, MacAlgorithm="HMAC_SHA_224")
