"""Callers that send their configured alias on Decrypt: OpenTofu's state encryption and its like, replayed with boto3 as their
sources have it, and the Amazon S3 Encryption Client itself."""

import secrets
from dataclasses import dataclass, field

import pytest
from botocore.exceptions import ClientError
from s3_encryption import S3EncryptionClient, S3EncryptionClientConfig
from s3_encryption.materials.kms_keyring import KmsKeyring

from rotation import WAYS, key_of, rotate

INCORRECT_KEY = "The key ID in the request does not identify a CMK that can perform this operation."


@dataclass
class Caller:
    """What a program sends: `seal` once, `open` at each later run, both with the KeyId that it is configured with."""

    name: str
    seal: str
    parameters: dict
    context: dict = field(default_factory=dict)
    opens_with: str = "decrypt"


CALLERS = [
    Caller("opentofu", "generate_data_key", {"KeySpec": "AES_256"}),
    Caller("opentofu-aes-128", "generate_data_key", {"KeySpec": "AES_128"}),
    Caller("s3-encryption-client", "generate_data_key", {"KeySpec": "AES_256"}, {"aws:x-amz-cek-alg": "115"}),
    Caller("s3-encryption-client-v2", "generate_data_key", {"KeySpec": "AES_256"}, {"aws:x-amz-cek-alg": "AES/GCM/NoPadding"}),
    Caller("encrypts-itself", "encrypt", {"Plaintext": b"p" * 64}, {"tenant": "blue"}),
    Caller("re-encrypts", "encrypt", {"Plaintext": b"p" * 64}, {"tenant": "blue"}, "re_encrypt"),
]


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request):
    return request.param


@pytest.fixture(params=["name", "arn"])
def named(request):
    """The alias as callers write it."""
    return lambda bridge, alias: alias if request.param == "name" else bridge.alias_arn(alias)


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request):
    return request.param


def context(caller):
    return {"EncryptionContext": caller.context} if caller.context else {}


def seal(bridge, caller, key_id):
    """(ciphertext, plaintext)"""
    answer = getattr(bridge.kms, caller.seal)(KeyId=key_id, **caller.parameters, **context(caller))
    return answer["CiphertextBlob"], answer.get("Plaintext", caller.parameters.get("Plaintext"))


def opened(bridge, caller, key_id, ciphertext):
    """(plaintext, ARN of the key that opened it)"""
    if caller.opens_with == "decrypt":
        answer = bridge.kms.decrypt(KeyId=key_id, CiphertextBlob=ciphertext, **context(caller))
        return answer["Plaintext"], answer["KeyId"]
    answer = bridge.kms.re_encrypt(CiphertextBlob=ciphertext, SourceKeyId=key_id, DestinationKeyId=key_id,
                                   SourceEncryptionContext=caller.context, DestinationEncryptionContext=caller.context)
    moved = bridge.kms.decrypt(CiphertextBlob=answer["CiphertextBlob"], **context(caller))
    assert moved["KeyId"] == answer["KeyId"]
    return moved["Plaintext"], answer["SourceKeyId"]


def incorrect_key(bridge, caller, key_id, ciphertext):
    with pytest.raises(ClientError) as raised:
        opened(bridge, caller, key_id, ciphertext)
    answer = raised.value.response
    assert answer["Error"] == {"Code": "IncorrectKeyException", "Message": INCORRECT_KEY}
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_in_history_mode_they_go_on(bridge, caller, named):
    keys = [bridge.new_key()]
    alias = bridge.new_alias(keys[0], "alias/app")
    key_id = named(bridge, alias)
    sealed = [seal(bridge, caller, key_id)]
    for way in WAYS:
        keys.append(rotate(bridge, alias, way))
        sealed.append(seal(bridge, caller, key_id))
    for key, (ciphertext, plaintext) in zip(keys, sealed, strict=True):
        assert opened(bridge, caller, key_id, ciphertext) == (plaintext, bridge.key_arn(key))

    # What never was the alias's key is refused as ever.
    other = bridge.new_alias(bridge.new_key(), "alias/other")
    incorrect_key(bridge, caller, named(bridge, other), sealed[0][0])
    incorrect_key(bridge, caller, keys[1], sealed[0][0])
    stranger, _ = seal(bridge, caller, named(bridge, other))
    incorrect_key(bridge, caller, key_id, stranger)


@pytest.mark.parametrize("caller", [CALLERS[0], CALLERS[-1]], ids=lambda caller: caller.name)
def test_each_way_of_rotating_counts(bridge, caller, named, way):
    first = bridge.new_key()
    alias = bridge.new_alias(first, "alias/app")
    ciphertext, plaintext = seal(bridge, caller, named(bridge, alias))
    rotate(bridge, alias, way)
    assert opened(bridge, caller, named(bridge, alias), ciphertext) == (plaintext, bridge.key_arn(first))


def test_in_strict_mode_they_get_what_aws_answers(strict, caller, named, way):
    first = strict.new_key()
    alias = strict.new_alias(first, "alias/app")
    key_id = named(strict, alias)
    ciphertext, plaintext = seal(strict, caller, key_id)
    assert opened(strict, caller, key_id, ciphertext) == (plaintext, strict.key_arn(first))
    second = rotate(strict, alias, way)
    incorrect_key(strict, caller, key_id, ciphertext)
    incorrect_key(strict, caller, second, ciphertext)
    assert opened(strict, caller, first, ciphertext) == (plaintext, strict.key_arn(first))
    later, plaintext = seal(strict, caller, key_id)
    assert opened(strict, caller, key_id, later) == (plaintext, strict.key_arn(second))
    # Pointed back, it is the alias's key again.
    strict.kms.update_alias(AliasName=alias, TargetKeyId=first)
    assert opened(strict, caller, key_id, ciphertext)[1] == strict.key_arn(first)


def test_the_state_of_the_old_key_counts(bridge):
    """The history says which key a caller may mean, and no more."""
    first = bridge.new_key()
    alias = bridge.new_alias(first, "alias/app")
    ciphertext, plaintext = seal(bridge, CALLERS[0], alias)
    rotate(bridge, alias)
    bridge.kms.disable_key(KeyId=first)
    with pytest.raises(ClientError, match="DisabledException"):
        opened(bridge, CALLERS[0], alias, ciphertext)
    bridge.kms.enable_key(KeyId=first)
    assert opened(bridge, CALLERS[0], alias, ciphertext) == (plaintext, bridge.key_arn(first))


def test_the_history_ends_with_the_alias(bridge):
    first = bridge.new_key()
    alias = bridge.new_alias(first, "alias/app")
    ciphertext, plaintext = seal(bridge, CALLERS[0], alias)
    second = rotate(bridge, alias)
    assert opened(bridge, CALLERS[0], alias, ciphertext)[0] == plaintext
    bridge.kms.delete_alias(AliasName=alias)
    bridge.kms.create_alias(AliasName=alias, TargetKeyId=second)
    incorrect_key(bridge, CALLERS[0], alias, ciphertext)


def test_the_history_outlives_a_restart(make_bridge):
    bridge = make_bridge()
    first = bridge.new_key()
    alias = bridge.new_alias(first, "alias/app")
    ciphertext, plaintext = seal(bridge, CALLERS[0], alias)
    rotate(bridge, alias)
    for stop in (bridge.stop, bridge.kill):
        stop()
        bridge.start()
        assert opened(bridge, CALLERS[0], alias, ciphertext) == (plaintext, bridge.key_arn(first))


# -- the Amazon S3 Encryption Client, its objects in SeaweedFS --------------------------------------------------------------

def s3_encryption_client(bridge, s3, key_id):
    # It adds itself to the client's user agent, so the client is one of its own.
    keyring = KmsKeyring(bridge.new_client(), key_id)
    return S3EncryptionClient(s3, S3EncryptionClientConfig(keyring=keyring))


@pytest.fixture
def stored(either, weed, named):
    """An object of the S3 Encryption Client from before a rotation, in each mode."""
    first = either.new_key()
    alias = either.new_alias(first, "alias/s3ec")
    client = s3_encryption_client(either, weed.client(), named(either, alias))
    bucket, body = weed.bucket(), b"sealed before it leaves " + secrets.token_bytes(3000)
    client.put_object(Bucket=bucket, Key="old", Body=body)
    assert body not in weed.client().get_object(Bucket=bucket, Key="old")["Body"].read()
    assert client.get_object(Bucket=bucket, Key="old")["Body"].read() == body
    return either, alias, named(either, alias), first, client, bucket, body


def test_the_s3_encryption_client(stored):
    bridge, alias, key_id, first, client, bucket, body = stored
    second = rotate(bridge, alias)
    mark = bridge.mark()
    client.put_object(Bucket=bucket, Key="new", Body=body)
    assert client.get_object(Bucket=bucket, Key="new")["Body"].read() == body
    if bridge.mode == "strict":
        with pytest.raises(Exception, match="IncorrectKeyException"):
            client.get_object(Bucket=bucket, Key="old")["Body"].read()
    else:
        assert client.get_object(Bucket=bucket, Key="old")["Body"].read() == body
    made, new, old = bridge.records("GenerateDataKey", "Decrypt", since=mark)
    assert key_of(made) == key_of(new) == second
    assert [r["requestParameters"]["keyId"] for r in (made, new, old)] == [key_id] * 3, "it sends the alias on Decrypt"
    assert made["requestParameters"]["encryptionContext"] == {"aws:x-amz-cek-alg": "115"}
    assert old.get("errorCode") == ("IncorrectKeyException" if bridge.mode == "strict" else None)
    if bridge.mode == "history":
        assert key_of(old) == first
