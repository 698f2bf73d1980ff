"""Aliases, and the forms of KeyId that each operation takes."""

import re
import secrets
import uuid

import pytest

import vocabulary
from checks import ABSENT, members, one_validation_error, refused

WRONG_KEY = "The key ID in the request does not identify a CMK that can perform this operation."


def aliases_of(bridge, key):
    return {a["AliasName"]: a for a in bridge.kms.list_aliases(KeyId=key)["Aliases"]}


def test_life_of_an_alias(either):
    one, two = either.new_key(), either.new_key()
    name = f"alias/app/{secrets.token_hex(4)}:x_y-z/"
    assert members(either.kms.create_alias(AliasName=name, TargetKeyId=one)) == {}
    (entry,) = members(either.kms.list_aliases(KeyId=one))["Aliases"]
    assert set(entry) == {"AliasName", "AliasArn", "TargetKeyId", "CreationDate", "LastUpdatedDate"}
    assert (entry["AliasName"], entry["AliasArn"], entry["TargetKeyId"]) == (name, either.alias_arn(name), one)
    assert entry["CreationDate"] == entry["LastUpdatedDate"]
    with refused("AlreadyExistsException", f"An alias with the name {either.alias_arn(name)} already exists"):
        either.kms.create_alias(AliasName=name, TargetKeyId=two)

    assert members(either.kms.update_alias(AliasName=name, TargetKeyId=either.key_arn(two))) == {}
    assert aliases_of(either, one) == {}
    moved = aliases_of(either, either.key_arn(two))[name]
    assert moved["TargetKeyId"] == two and moved["CreationDate"] == entry["CreationDate"]
    assert moved["LastUpdatedDate"] >= entry["LastUpdatedDate"]
    either.kms.update_alias(AliasName=name, TargetKeyId=two)
    assert either.kms.describe_key(KeyId=name)["KeyMetadata"]["KeyId"] == two

    assert members(either.kms.delete_alias(AliasName=name)) == {}
    gone = f"Alias {either.alias_arn(name)} is not found."
    for call in (lambda: either.kms.delete_alias(AliasName=name),
                 lambda: either.kms.update_alias(AliasName=name, TargetKeyId=one),
                 lambda: either.kms.describe_key(KeyId=name)):
        with refused("NotFoundException", gone):
            call()
    either.kms.create_alias(AliasName=name, TargetKeyId=one)
    assert set(aliases_of(either, one)) == {name}


PREFIX = ('Alias must start with the prefix "alias/". Please see '
          "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html")


@pytest.mark.parametrize("name, code, text", [
    ("no-prefix", "ValidationException", PREFIX),
    ("alias", "ValidationException", PREFIX),
    # Reserved for AWS's own keys.
    ("alias/aws/mine", "ValidationException", "Aliases that begin with alias/aws/ are reserved for AWS managed keys."),
    ("alias/", "InvalidAliasNameException", re.compile(".+")),
    ("alias/with space", "ValidationException",
     one_validation_error("Value 'alias/with space' at 'aliasName' failed to satisfy constraint: "
                          "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$")),
    ("alias/" + "a" * 251, "ValidationException",
     one_validation_error(f"Value 'alias/{'a' * 251}' at 'aliasName' failed to satisfy constraint: "
                          "Member must have length less than or equal to 256")),
])
def test_alias_names(bridge, name, code, text):
    with refused(code, text):
        bridge.kms.create_alias(AliasName=name, TargetKeyId=bridge.key())


def test_longest_alias_name(bridge):
    name = "alias/" + secrets.token_hex(125)
    bridge.kms.create_alias(AliasName=name, TargetKeyId=bridge.new_key())
    assert bridge.kms.describe_key(KeyId=name)
    bridge.kms.delete_alias(AliasName=name)


def test_alias_targets(bridge):
    name = f"alias/target-{secrets.token_hex(4)}"
    unknown = str(uuid.uuid4())
    with refused("NotFoundException", f"Key '{bridge.key_arn(unknown)}' does not exist"):
        bridge.kms.create_alias(AliasName=name, TargetKeyId=unknown)
    other = bridge.new_alias(bridge.key())
    for form in (other, bridge.alias_arn(other)):
        with refused("NotFoundException", f"Invalid keyId '{form}'"):
            bridge.kms.create_alias(AliasName=name, TargetKeyId=form)
        with refused("NotFoundException", f"Invalid keyId '{form}'"):
            bridge.kms.update_alias(AliasName=other, TargetKeyId=form)


def test_alias_moves_only_within_one_kind_of_key(bridge):
    # API reference of UpdateAlias: current and new key must be the same type and have the same key usage.
    name = bridge.new_alias(bridge.key())
    for spec in ("HMAC_256", "ECC_NIST_P256"):
        with refused("ValidationException", re.compile(f"Alias {bridge.alias_arn(name)} .+")):
            bridge.kms.update_alias(AliasName=name, TargetKeyId=bridge.key(spec))


def test_decrypt_through_an_alias_that_moved(either):
    """The alias still means the key of an old ciphertext (history mode, the default); the new key does not."""
    old, new = either.new_key(), either.new_key()
    name = either.new_alias(old)
    blob = either.kms.encrypt(KeyId=name, Plaintext=b"old")["CiphertextBlob"]
    assert either.kms.decrypt(CiphertextBlob=blob, KeyId=name)["Plaintext"] == b"old"
    either.kms.update_alias(AliasName=name, TargetKeyId=new)
    for key_id in (name, either.alias_arn(name)):
        assert either.kms.decrypt(CiphertextBlob=blob, KeyId=key_id)["KeyId"] == either.key_arn(old)
        moved = either.kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=key_id, DestinationKeyId=new)
        assert moved["SourceKeyId"] == either.key_arn(old)
    for key_id in (new, either.key_arn(new)):
        with refused("IncorrectKeyException", WRONG_KEY):
            either.kms.decrypt(CiphertextBlob=blob, KeyId=key_id)
        with refused("IncorrectKeyException", WRONG_KEY):
            either.kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=key_id, DestinationKeyId=new)
    for extra in ({}, {"KeyId": old}, {"KeyId": either.key_arn(old)}):
        answer = either.kms.decrypt(CiphertextBlob=blob, **extra)
        assert (answer["Plaintext"], answer["KeyId"]) == (b"old", either.key_arn(old))
    fresh = either.kms.encrypt(KeyId=name, Plaintext=b"new")
    assert fresh["KeyId"] == either.key_arn(new)
    moved = either.kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=name)
    assert (moved["SourceKeyId"], moved["KeyId"]) == (either.key_arn(old), either.key_arn(new))


def test_incorrect_key_comes_before_usage(bridge):
    blob = bridge.kms.encrypt(KeyId=bridge.key(), Plaintext=b"x")["CiphertextBlob"]
    with refused("IncorrectKeyException", WRONG_KEY):
        bridge.kms.decrypt(CiphertextBlob=blob, KeyId=bridge.key("HMAC_256"))


# -- forms of KeyId: one row for each operation that takes a key -------------------------------------------------------

def blob_of(b, key):
    return {"CiphertextBlob": b.kms.encrypt(KeyId=key, Plaintext=b"p")["CiphertextBlob"]}


def signature_of(b, key):
    params = {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
    return params | {"Signature": b.kms.sign(KeyId=key, **params)["Signature"]}


def mac_of(b, key):
    params = {"Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    return params | {"Mac": b.kms.generate_mac(KeyId=key, **params)["Mac"]}


FORMS = [
    # operation, spec, member, other parameters
    ("DescribeKey", "SYMMETRIC_DEFAULT", "KeyId", None),
    ("Encrypt", "SYMMETRIC_DEFAULT", "KeyId", lambda b, k: {"Plaintext": b"p"}),
    ("Decrypt", "SYMMETRIC_DEFAULT", "KeyId", blob_of),
    ("ReEncrypt", "SYMMETRIC_DEFAULT", "DestinationKeyId", blob_of),
    ("ReEncrypt", "SYMMETRIC_DEFAULT", "SourceKeyId", lambda b, k: blob_of(b, k) | {"DestinationKeyId": k}),
    ("GenerateDataKey", "SYMMETRIC_DEFAULT", "KeyId", lambda b, k: {"KeySpec": "AES_256"}),
    ("GenerateDataKeyWithoutPlaintext", "SYMMETRIC_DEFAULT", "KeyId", lambda b, k: {"KeySpec": "AES_256"}),
    ("Sign", "ECC_NIST_P256", "KeyId", lambda b, k: {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}),
    ("Verify", "ECC_NIST_P256", "KeyId", signature_of),
    ("GetPublicKey", "ECC_NIST_P256", "KeyId", None),
    ("GenerateMac", "HMAC_256", "KeyId", lambda b, k: {"Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}),
    ("VerifyMac", "HMAC_256", "KeyId", mac_of),
    ("EnableKey", "SYMMETRIC_DEFAULT", "KeyId", None),
    ("DisableKey", "SYMMETRIC_DEFAULT", "KeyId", None),
    ("ScheduleKeyDeletion", "SYMMETRIC_DEFAULT", "KeyId", None),
    ("CancelKeyDeletion", "SYMMETRIC_DEFAULT", "KeyId", None),
    ("UpdateKeyDescription", "SYMMETRIC_DEFAULT", "KeyId", lambda b, k: {"Description": "d"}),
    ("TagResource", "SYMMETRIC_DEFAULT", "KeyId", lambda b, k: {"Tags": [{"TagKey": "a", "TagValue": "b"}]}),
    ("UntagResource", "SYMMETRIC_DEFAULT", "KeyId", lambda b, k: {"TagKeys": ["a"]}),
    ("ListResourceTags", "SYMMETRIC_DEFAULT", "KeyId", None),
    ("GetKeyPolicy", "SYMMETRIC_DEFAULT", "KeyId", None),
    ("PutKeyPolicy", "SYMMETRIC_DEFAULT", "KeyId", lambda b, k: {"Policy": b.kms.get_key_policy(KeyId=k)["Policy"]}),
    ("ListKeyPolicies", "SYMMETRIC_DEFAULT", "KeyId", None),
    ("GetKeyRotationStatus", "SYMMETRIC_DEFAULT", "KeyId", None),
    ("ListGrants", "SYMMETRIC_DEFAULT", "KeyId", None),
    ("CreateGrant", "SYMMETRIC_DEFAULT", "KeyId",
     lambda b, k: {"GranteePrincipal": f"arn:aws:iam::{b.account}:root", "Operations": ["Decrypt"]}),
    ("RetireGrant", "SYMMETRIC_DEFAULT", "KeyId", lambda b, k: {"GrantId": new_grant(b, k)}),
    ("RevokeGrant", "SYMMETRIC_DEFAULT", "KeyId", lambda b, k: {"GrantId": new_grant(b, k)}),
    ("ListAliases", "SYMMETRIC_DEFAULT", "KeyId", None),
    ("GetKeyLastUsage", "SYMMETRIC_DEFAULT", "KeyId", None),
]
# They take an alias's name, a key store or no key at all.
WITHOUT_KEY_ID = {"ListRetirableGrants", "CreateKey", "ListKeys", "GenerateRandom", "CreateAlias", "UpdateAlias", "DeleteAlias"} | vocabulary.KEY_STORES


def new_grant(bridge, key):
    return bridge.kms.create_grant(KeyId=key, GranteePrincipal=f"arn:aws:iam::{bridge.account}:root", Operations=["Decrypt"])["GrantId"]


def test_the_table_of_forms_is_whole():
    assert {row[0] for row in FORMS} | WITHOUT_KEY_ID == set(vocabulary.SERVED)


@pytest.mark.parametrize("operation, spec, member, more", FORMS, ids=[f"{r[0]}-{r[2]}" for r in FORMS])
def test_key_id_forms(bridge, operation, spec, member, more):
    # State changes need a key of their own.
    key = bridge.new_key() if spec == "SYMMETRIC_DEFAULT" else bridge.key(spec)
    name = bridge.new_alias(key)
    call = getattr(bridge.kms, vocabulary.method(operation))
    arn = bridge.key_arn(key)

    for form in (key, arn):
        if operation == "CancelKeyDeletion":
            bridge.kms.schedule_key_deletion(KeyId=key)
        params = more(bridge, key) if more else {}
        answer = members(call(**{member: form}, **params))
        if operation == "ScheduleKeyDeletion":
            bridge.kms.cancel_key_deletion(KeyId=key)
        if "KeyId" in answer:
            assert answer["KeyId"] == arn

    if operation in vocabulary.TAKES_ALIAS:
        for form in (name, bridge.alias_arn(name)):
            answer = members(call(**{member: form}, **params))
            if "KeyId" in answer:
                assert answer["KeyId"] == arn, "answers name the key by its ARN"
    else:
        for form in (name, bridge.alias_arn(name)):
            with refused("NotFoundException", f"Invalid keyId '{form}'"):
                call(**{member: form}, **params)
