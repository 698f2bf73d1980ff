"""Encrypt, Decrypt, ReEncrypt, data keys, random bytes: answers, limits, texts, dry runs."""

import datetime
import json
import re

import pytest

from checks import dry_run, members, one_validation_error, refused
from kmsclient import b64

CONTEXT = {"tenant": "blue", "purpose": "test"}
MATERIAL = re.compile(r"[0-9a-f]{64}")


def material(bridge, key):
    return bridge.kms.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 32, 4095, 4096])
def test_encrypt_and_decrypt(either, length):
    key, plaintext = either.key(), either.canary(length) if length > 16 else b"p" * length
    sealed = members(either.kms.encrypt(KeyId=key, Plaintext=plaintext, EncryptionContext=CONTEXT))
    blob = sealed.pop("CiphertextBlob")
    assert sealed == {"KeyId": either.key_arn(key), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    assert plaintext not in blob or length < 4
    assert len(blob) <= 6144, "what CiphertextBlob may hold"
    assert blob != either.kms.encrypt(KeyId=key, Plaintext=plaintext, EncryptionContext=CONTEXT)["CiphertextBlob"]
    for extra in ({}, {"KeyId": key}, {"EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}):
        opened = members(either.kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT, **extra))
        assert opened == {"KeyId": either.key_arn(key), "Plaintext": plaintext, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                          "KeyMaterialId": material(either, key)}


def test_blobs_are_raw_bytes_and_differ(bridge):
    blobs = {bridge.kms.encrypt(KeyId=bridge.key(), Plaintext=b"same")["CiphertextBlob"] for _ in range(50)}
    assert len(blobs) == 50
    assert not all(re.fullmatch(rb"[A-Za-z0-9+/=\s]+", blob) for blob in blobs)


def test_encryption_context(either):
    key = either.key()
    blob = either.kms.encrypt(KeyId=key, Plaintext=b"p", EncryptionContext={"b": "2", "a": "1", "ü": "ö"})["CiphertextBlob"]
    assert either.kms.decrypt(CiphertextBlob=blob, EncryptionContext={"ü": "ö", "a": "1", "b": "2"})["Plaintext"] == b"p"
    for wrong in ({}, {"a": "1", "b": "2"}, {"a": "1", "b": "2", "ü": "ö", "c": "3"}, {"a": "2", "b": "1", "ü": "ö"},
                  {"A": "1", "b": "2", "ü": "ö"}, {"a": "1b", "": "2", "ü": "ö"}, {"a": "1", "b": "2", "u\u0308": "o\u0308"},
                  {"a1": "", "b2": "", "üö": ""}):
        with refused("InvalidCiphertextException"):
            either.kms.decrypt(CiphertextBlob=blob, EncryptionContext=wrong)
    plain = either.kms.encrypt(KeyId=key, Plaintext=b"q", EncryptionContext={})["CiphertextBlob"]
    assert either.kms.decrypt(CiphertextBlob=plain)["Plaintext"] == b"q", "an empty context is no context"
    plain = either.kms.encrypt(KeyId=key, Plaintext=b"r")["CiphertextBlob"]
    assert either.kms.decrypt(CiphertextBlob=plain, EncryptionContext={})["Plaintext"] == b"r"


def test_contexts_end_at_8192_bytes(bridge):
    key = bridge.key()
    wide = {f"key-{n}": "v" * 200 for n in range(35)}
    blob = bridge.kms.encrypt(KeyId=key, Plaintext=b"p", EncryptionContext=wide)["CiphertextBlob"]
    assert bridge.kms.decrypt(CiphertextBlob=blob, EncryptionContext=wide)["Plaintext"] == b"p"
    with refused("ValidationException"):
        bridge.kms.encrypt(KeyId=key, Plaintext=b"p", EncryptionContext={"k": "v" * 8192})


@pytest.mark.parametrize("length, bound", [(0, "greater than or equal to 1"), (4097, "less than or equal to 4096")])
def test_plaintext_lengths(bridge, length, bound):
    with refused("ValidationException", one_validation_error(
            f"Value at 'plaintext' failed to satisfy constraint: Member must have length {bound}")):
        bridge.client(validate=False).encrypt(KeyId=bridge.key(), Plaintext=b"p" * length)


@pytest.mark.parametrize("length, bound", [(0, "greater than or equal to 1"), (6145, "less than or equal to 6144")])
def test_ciphertext_lengths(bridge, length, bound):
    with refused("ValidationException", one_validation_error(
            f"Value at 'ciphertextBlob' failed to satisfy constraint: Member must have length {bound}")):
        bridge.client(validate=False).decrypt(CiphertextBlob=b"c" * length)


def test_usage_and_algorithm(either):
    for spec, key_usage in (("HMAC_256", "GENERATE_VERIFY_MAC"), ("ECC_NIST_P256", "SIGN_VERIFY"), ("RSA_2048", "SIGN_VERIFY")):
        key = either.key(spec)
        arn = either.key_arn(key)
        with refused("InvalidKeyUsageException", f"{arn} key usage is {key_usage} which is not valid for Encrypt."):
            either.kms.encrypt(KeyId=key, Plaintext=b"p")
        with refused("InvalidKeyUsageException", f"{arn} key usage is {key_usage} which is not valid for GenerateDataKey."):
            either.kms.generate_data_key(KeyId=key, KeySpec="AES_256")
        blob = either.kms.encrypt(KeyId=either.key(), Plaintext=b"p")["CiphertextBlob"]
        with refused("InvalidKeyUsageException", f"{arn} key usage is {key_usage} which is not valid for ReEncryptTo."):
            either.kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=key)
    with refused("InvalidKeyUsageException", "Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT."):
        either.kms.encrypt(KeyId=either.key(), Plaintext=b"p", EncryptionAlgorithm="RSAES_OAEP_SHA_256")
    with refused("ValidationException", re.compile(
            re.escape("1 validation error detected: Value 'ROT13' at 'encryptionAlgorithm' failed to satisfy constraint: Member "
                      "must satisfy enum value set: [") + r"\w+(, \w+)*\]")):
        either.kms.encrypt(KeyId=either.key(), Plaintext=b"p", EncryptionAlgorithm="ROT13")


def test_re_encrypt(either):
    source, target = either.key(), either.key(purpose="re-encrypt target")
    blob = either.kms.encrypt(KeyId=source, Plaintext=b"moved", EncryptionContext=CONTEXT)["CiphertextBlob"]
    answer = members(either.kms.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, SourceKeyId=source,
                                           DestinationKeyId=target, DestinationEncryptionContext={"now": "here"}))
    moved = answer.pop("CiphertextBlob")
    assert answer == {
        "SourceKeyId": either.key_arn(source), "KeyId": either.key_arn(target),
        "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT", "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "SourceKeyMaterialId": material(either, source), "DestinationKeyMaterialId": material(either, target),
    }
    assert either.kms.decrypt(CiphertextBlob=moved, KeyId=target, EncryptionContext={"now": "here"})["Plaintext"] == b"moved"
    with refused("InvalidCiphertextException"):
        either.kms.decrypt(CiphertextBlob=moved, EncryptionContext=CONTEXT)
    with refused("InvalidCiphertextException"):
        either.kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=target)
    with refused("IncorrectKeyException"):
        either.kms.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, SourceKeyId=target, DestinationKeyId=target)
    unknown = "99999999-2222-4333-8444-555555555555"
    with refused("NotFoundException", f"Key '{either.key_arn(unknown)}' does not exist"):
        either.kms.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, DestinationKeyId=unknown)
    # The same key again, another context.
    again = either.kms.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, DestinationKeyId=source)
    assert either.kms.decrypt(CiphertextBlob=again["CiphertextBlob"])["Plaintext"] == b"moved"


@pytest.mark.parametrize("size, length", [({"KeySpec": "AES_256"}, 32), ({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 1}, 1),
                                          ({"NumberOfBytes": 64}, 64), ({"NumberOfBytes": 1024}, 1024)])
def test_data_keys(either, size, length):
    key = either.key()
    answer = members(either.kms.generate_data_key(KeyId=key, EncryptionContext=CONTEXT, **size))
    blob, plaintext = answer.pop("CiphertextBlob"), answer.pop("Plaintext")
    assert answer == {"KeyId": either.key_arn(key), "KeyMaterialId": material(either, key)}
    assert len(plaintext) == length
    assert either.kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"] == plaintext
    with refused("InvalidCiphertextException"):
        either.kms.decrypt(CiphertextBlob=blob)
    if length >= 16:
        either.plaintexts.add(plaintext)
        assert plaintext != either.kms.generate_data_key(KeyId=key, **size)["Plaintext"]

    answer = members(either.kms.generate_data_key_without_plaintext(KeyId=key, EncryptionContext=CONTEXT, **size))
    blob = answer.pop("CiphertextBlob")
    assert answer == {"KeyId": either.key_arn(key), "KeyMaterialId": material(either, key)}
    assert len(either.kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"]) == length


ONE_SIZE = "Please specify either number of bytes or key spec."
BYTES_LOW = one_validation_error("Value '0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than "
                                 "or equal to 1")
BYTES_HIGH = one_validation_error("Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than "
                                  "or equal to 1024")


@pytest.mark.parametrize("operation", ["generate_data_key", "generate_data_key_without_plaintext"])
@pytest.mark.parametrize("size, text", [
    ({}, ONE_SIZE), ({"KeySpec": "AES_256", "NumberOfBytes": 32}, ONE_SIZE), ({"NumberOfBytes": 0}, BYTES_LOW),
    ({"NumberOfBytes": 1025}, BYTES_HIGH),
    ({"KeySpec": "AES_512"}, re.compile(re.escape(one_validation_error(
        "Value 'AES_512' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [")) +
        r"(AES_256, AES_128|AES_128, AES_256)\]")),
])
def test_data_key_sizes(bridge, operation, size, text):
    with refused("ValidationException", text):
        getattr(bridge.client(validate=False), operation)(KeyId=bridge.key(), **size)


def test_generate_random(either):
    for length in (1, 32, 1024):
        answer = members(either.kms.generate_random(NumberOfBytes=length))
        assert set(answer) == {"Plaintext"} and len(answer["Plaintext"]) == length
    assert len({either.kms.generate_random(NumberOfBytes=16)["Plaintext"] for _ in range(20)}) == 20


@pytest.mark.parametrize("params, text", [({}, "NumberOfBytes is required."), ({"NumberOfBytes": 0}, BYTES_LOW),
                                          ({"NumberOfBytes": 1025}, BYTES_HIGH)])
def test_generate_random_sizes(bridge, params, text):
    with refused("ValidationException", text):
        bridge.client(validate=False).generate_random(**params)


def dry_runs(bridge):
    """Each operation that knows DryRun, with parameters that would succeed."""
    key, ec, mac = bridge.key(), bridge.key("ECC_NIST_P256"), bridge.key("HMAC_256")
    blob = bridge.kms.encrypt(KeyId=key, Plaintext=b"p")["CiphertextBlob"]
    signing = {"KeyId": ec, "Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
    macking = {"KeyId": mac, "Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    return {
        "encrypt": {"KeyId": key, "Plaintext": b"p"},
        "decrypt": {"CiphertextBlob": blob},
        "re_encrypt": {"CiphertextBlob": blob, "DestinationKeyId": key},
        "generate_data_key": {"KeyId": key, "KeySpec": "AES_256"},
        "generate_data_key_without_plaintext": {"KeyId": key, "KeySpec": "AES_256"},
        "sign": signing,
        "verify": signing | {"Signature": bridge.kms.sign(**signing)["Signature"]},
        "generate_mac": macking,
        "verify_mac": macking | {"Mac": bridge.kms.generate_mac(**macking)["Mac"]},
    }


def test_dry_run(either):
    for name, params in dry_runs(either).items():
        call = getattr(either.kms, name)
        with dry_run():
            call(DryRun=True, **params)
        assert call(DryRun=False, **params), name


def test_a_dry_run_tells_of_state_and_usage(bridge):
    key = bridge.new_key()
    bridge.kms.disable_key(KeyId=key)
    with refused("DisabledException", f"{bridge.key_arn(key)} is disabled."):
        bridge.kms.encrypt(KeyId=key, Plaintext=b"p", DryRun=True)
    with refused("NotFoundException"):
        bridge.kms.encrypt(KeyId="alias/none-of-that-name", Plaintext=b"p", DryRun=True)
    with refused("InvalidKeyUsageException"):
        bridge.kms.encrypt(KeyId=bridge.key("HMAC_256"), Plaintext=b"p", DryRun=True)


def test_grant_tokens_are_checked_for_form(bridge):
    key = bridge.key()
    blob = bridge.kms.encrypt(KeyId=key, Plaintext=b"p", GrantTokens=[])["CiphertextBlob"]
    assert bridge.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"p"
    for unknown in (["any"], ["x" * 8192]):
        with refused("InvalidGrantTokenException"):
            bridge.kms.encrypt(KeyId=key, Plaintext=b"p", GrantTokens=unknown)
    for wrong in (["t"] * 11, ["x" * 8193], [""]):
        with refused("ValidationException"):
            bridge.client(validate=False).encrypt(KeyId=key, Plaintext=b"p", GrantTokens=wrong)


@pytest.mark.parametrize("operation", ["decrypt", "generate_data_key", "generate_random"])
def test_no_enclaves_here(bridge, operation):
    key = bridge.key()
    params = {
        "decrypt": {"CiphertextBlob": bridge.kms.encrypt(KeyId=key, Plaintext=b"p")["CiphertextBlob"]},
        "generate_data_key": {"KeyId": key, "KeySpec": "AES_256"},
        "generate_random": {"NumberOfBytes": 8},
    }[operation]
    with refused("UnsupportedOperationException", re.compile("Recipient .+")):
        getattr(bridge.kms, operation)(Recipient={"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": b"doc"},
                                       **params)


def test_absent_members_are_absent_on_the_wire(bridge):
    raw, key = bridge.raw(), bridge.key()
    answer = raw.call("GenerateDataKeyWithoutPlaintext", {"KeyId": key, "KeySpec": "AES_256"}).json()
    assert set(answer) == {"CiphertextBlob", "KeyId", "KeyMaterialId"}
    answer = raw.call("Decrypt", {"CiphertextBlob": answer["CiphertextBlob"]}).json()
    assert set(answer) == {"KeyId", "Plaintext", "EncryptionAlgorithm", "KeyMaterialId"}
    for operation in ("ListKeyPolicies", "ListResourceTags", "ListGrants", "ListAliases"):
        assert "NextMarker" not in raw.call(operation, {"KeyId": key}).json(), operation
    for answer in (raw.call("Encrypt", {"KeyId": key, "Plaintext": b64(b"p"), "EncryptionContext": None, "GrantTokens": None}),
                   raw.call("Encrypt", {"KeyId": key, "Plaintext": b64(b"p"), "UnknownMember": [{}]})):
        assert answer.status == 200, "null is absent, unknown members are ignored"


def test_every_answer_has_the_headers_that_clients_use(either):
    raw = either.raw()
    for reply in (raw.call("GenerateRandom", {"NumberOfBytes": 8}), raw.call("DescribeKey", {"KeyId": "x"})):
        assert reply.headers["content-type"] == "application/x-amz-json-1.1"
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", reply.request_id)
        assert int(reply.headers["content-length"]) == len(reply.body)
        sent = datetime.datetime.strptime(reply.headers["date"], "%a, %d %b %Y %H:%M:%S GMT")
        assert abs(sent - datetime.datetime.utcnow()) < datetime.timedelta(minutes=1), "SDKs set their clock by it"
        json.loads(reply.body)
