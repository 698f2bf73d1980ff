"""Condition keys as requests have them (authorization.md §2.7): each with a request that meets the condition and one that does not.

What a policy asks about is put in the identity policy of a user who has no other permission, so that a condition key that is
missing, misspelt or of another value than it should be shows either way.
"""

import datetime
import json

import pytest

from authz_tool import (
    IDENTITY_POLICY_DENIES, KEY_POLICY_DENIES, NO_IDENTITY_POLICY, NO_KEY_POLICY, Key, Person, allows, denied, denies, unique)
from checks import refused
from iam_tool import Iam, allow, document, statement

UTC = datetime.timezone.utc


@pytest.fixture(scope="module")
def iam(bridge):
    return Iam(bridge)


@pytest.fixture(scope="module")
def alice(iam):
    return Person(iam, "alice", tags={"team": "blue"})


@pytest.fixture(scope="module")
def key(bridge):
    return Key(bridge)


@pytest.fixture(scope="module")
def signing(bridge):
    return Key(bridge, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")


@pytest.fixture(scope="module")
def rsa(bridge):
    return Key(bridge, KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")


@pytest.fixture(scope="module")
def mac(bridge):
    return Key(bridge, KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")


# -- where from, when, how ----------------------------------------------------------------------------------------------

YESTERDAY, TOMORROW = ((datetime.datetime.now(UTC) + datetime.timedelta(days=d)).strftime("%Y-%m-%dT%H:%M:%SZ") for d in (-1, 1))
EPOCH_TOMORROW = str(int((datetime.datetime.now(UTC) + datetime.timedelta(days=1)).timestamp()))

# Condition, and whether a direct call of a user over plain HTTP from loopback meets it.
OF_THE_CALL = [
    ({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, True), ({"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "192.0.2.1"]}}, False),
    ({"NotIpAddress": {"aws:SourceIp": "127.0.0.1"}}, False), ({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, True),
    ({"DateLessThan": {"aws:CurrentTime": TOMORROW}, "DateGreaterThan": {"aws:CurrentTime": YESTERDAY}}, True),
    ({"DateLessThan": {"aws:CurrentTime": YESTERDAY}}, False), ({"DateGreaterThan": {"aws:CurrentTime": TOMORROW}}, False),
    ({"DateLessThan": {"aws:CurrentTime": TOMORROW}, "DateGreaterThan": {"aws:CurrentTime": TOMORROW}}, False),
    ({"NumericLessThan": {"aws:EpochTime": EPOCH_TOMORROW}}, True), ({"NumericGreaterThan": {"aws:EpochTime": EPOCH_TOMORROW}}, False),
    ({"DateLessThan": {"aws:EpochTime": EPOCH_TOMORROW}}, True),
    ({"Null": {"kms:ViaService": "true"}}, True), ({"Null": {"kms:ViaService": "false"}}, False),
    ({"StringNotEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}}, True),
    ({"StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}}, False), ({"StringLike": {"kms:ViaService": "*"}}, False),
    ({"Bool": {"aws:ViaAWSService": "false"}}, True), ({"Bool": {"aws:ViaAWSService": True}}, False),
    ({"Null": {"aws:CalledVia": "true"}}, True), ({"Null": {"aws:SourceArn": "true", "aws:SourceAccount": "true"}}, True),
    ({"Bool": {"aws:PrincipalIsAWSService": "false"}}, True),
    ({"Null": {"aws:MultiFactorAuthPresent": "true", "aws:TokenIssueTime": "true"}}, True),
    ({"Bool": {"aws:MultiFactorAuthPresent": "false"}}, False), ({"BoolIfExists": {"aws:MultiFactorAuthPresent": "true"}}, True),
    ({"StringEquals": {"aws:RequestedRegion": "us-east-1"}}, True), ({"StringEquals": {"aws:RequestedRegion": "eu-central-1"}}, False),
    ({"StringLike": {"aws:UserAgent": "*Boto3/*"}}, True), ({"StringLike": {"aws:UserAgent": "aws-cli*"}}, False),
    ({"StringEquals": {"aws:PrincipalType": "User"}}, True), ({"StringEquals": {"aws:PrincipalType": "AssumedRole"}}, False),
    ({"StringEquals": {"aws:PrincipalTag/team": "blue"}}, True), ({"StringEquals": {"aws:PrincipalTag/team": "red"}}, False),
    ({"Null": {"aws:PrincipalTag/nothing": "true"}}, True), ({"StringLike": {"aws:userid": "AIDA*"}}, True),
    ({"Null": {"aws:PrincipalOrgID": "true"}}, True), ({"Bool": {"kms:MultiRegion": False}}, True),
    ({"StringEquals": {"kms:KeySpec": "SYMMETRIC_DEFAULT", "kms:KeyUsage": "ENCRYPT_DECRYPT", "kms:KeyOrigin": "AWS_KMS"}}, True),
    ({"StringEquals": {"kms:KeySpec": "RSA_2048"}}, False), ({"StringEquals": {"kms:KeyUsage": "SIGN_VERIFY"}}, False),
    ({"StringEquals": {"kms:EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}}, True),
    ({"StringEquals": {"kms:EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}}, False),
    ({"Null": {"kms:RequestAlias": "true"}}, True), ({"Null": {"kms:SigningAlgorithm": "true", "kms:MacAlgorithm": "true"}}, True),
    ({"Null": {"kms:EncryptionContextKeys": "true"}}, True), ({"Null": {"kms:GrantIsForAWSResource": "true"}}, True),
    ({"Null": {"hsmbridge:AliasGeneration": "true"}}, True),
]


def named(value):
    """The same name in every process and at every time."""
    text = json.dumps(value)
    for time, name in ((YESTERDAY, "yesterday"), (TOMORROW, "tomorrow"), (EPOCH_TOMORROW, "tomorrow")):
        text = text.replace(time, name)
    return text


@pytest.mark.parametrize("condition, met", OF_THE_CALL, ids=named)
def test_of_the_call(alice, key, condition, met):
    alice.may(allow("kms:Encrypt", key.arn, condition))
    if met:
        alice.kms.encrypt(KeyId=key.arn, Plaintext=b"x")
    else:
        with denied(alice, "kms:Encrypt", key, NO_IDENTITY_POLICY):
            alice.kms.encrypt(KeyId=key.arn, Plaintext=b"x")


def test_of_the_caller(bridge, alice, key):
    for condition in ({"StringEquals": {"aws:username": alice.name}}, {"ArnEquals": {"aws:PrincipalArn": alice.arn}},
                      {"StringEquals": {"aws:PrincipalAccount": bridge.account, "kms:CallerAccount": bridge.account}},
                      {"StringEquals": {"aws:ResourceAccount": bridge.account}}):
        alice.may(allow("kms:Encrypt", key.arn, condition))
        alice.kms.encrypt(KeyId=key.arn, Plaintext=b"x")
        (operator, keys), = condition.items()
        for name, value in keys.items():
            alice.may(allow("kms:Encrypt", key.arn, {operator: {name: value + "0"}}))
            with denied(alice, "kms:Encrypt", key, NO_IDENTITY_POLICY):
                alice.kms.encrypt(KeyId=key.arn, Plaintext=b"x")


def test_headers_that_claim_are_not_believed(alice, key):
    """No header of an ordinary caller makes a condition key, signed or not."""
    claims = {"X-Forwarded-For": "10.1.2.3", "X-Forwarded-Proto": "https", "X-Real-Ip": "10.1.2.3",
              "Forwarded": "for=10.1.2.3;proto=https"}

    def add(request, **_):
        for name, value in claims.items():
            request.headers[name] = value

    client = alice.iam.client(alice.key)
    client.meta.events.register("before-sign.kms", add)
    for condition in ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"Bool": {"aws:SecureTransport": "true"}}):
        alice.may(allow("kms:Encrypt", key.arn, condition))
        with denied(alice, "kms:Encrypt", key, NO_IDENTITY_POLICY):
            client.encrypt(KeyId=key.arn, Plaintext=b"x")
    alice.may(allow("kms:Encrypt", key.arn, {"IpAddress": {"aws:SourceIp": "127.0.0.1"}}))
    client.encrypt(KeyId=key.arn, Plaintext=b"x")


def test_secure_transport(either):
    key, who = Key(either), Person(Iam(either), "walker")
    key.put(allows(who, "kms:Encrypt"), denies("*", "kms:Encrypt", condition={"Bool": {"aws:SecureTransport": "false"}}))
    if either.tls:
        who.kms.encrypt(KeyId=key.id, Plaintext=b"x")
    else:
        with denied(who, "kms:Encrypt", key, KEY_POLICY_DENIES):
            who.kms.encrypt(KeyId=key.id, Plaintext=b"x")
    who.may(allow("kms:DescribeKey", key.arn, {"Bool": {"aws:SecureTransport": "true"}}))
    if either.tls:
        who.kms.describe_key(KeyId=key.id)
    else:
        with denied(who, "kms:DescribeKey", key, NO_IDENTITY_POLICY):
            who.kms.describe_key(KeyId=key.id)


# -- aliases ------------------------------------------------------------------------------------------------------------


def test_request_alias_is_the_alias_that_was_named(bridge, alice):
    key = Key(bridge)
    first, second = bridge.new_alias(key.id), bridge.new_alias(key.id)
    alice.may(allow(["kms:Encrypt", "kms:Decrypt", "kms:DescribeKey"], "*", {"StringEquals": {"kms:RequestAlias": first}}))
    for name in (first, bridge.alias_arn(first)):
        blob = alice.kms.encrypt(KeyId=name, Plaintext=b"x")["CiphertextBlob"]
        assert alice.kms.decrypt(KeyId=name, CiphertextBlob=blob)["KeyId"] == key.arn
        alice.kms.describe_key(KeyId=name)
    for name in (second, bridge.alias_arn(second), key.id, key.arn):
        with denied(alice, "kms:Encrypt", key, NO_IDENTITY_POLICY):
            alice.kms.encrypt(KeyId=name, Plaintext=b"x")
        with denied(alice, "kms:Decrypt", key, NO_IDENTITY_POLICY):
            alice.kms.decrypt(KeyId=name, CiphertextBlob=blob)
    with denied(alice, "kms:Decrypt", key, NO_IDENTITY_POLICY):
        alice.kms.decrypt(CiphertextBlob=blob)
    # The alias is the way, not the resource: its ARN in a policy gives nothing on the key.
    alice.may(allow("kms:*", bridge.alias_arn(first)))
    with denied(alice, "kms:Encrypt", key, NO_IDENTITY_POLICY):
        alice.kms.encrypt(KeyId=first, Plaintext=b"x")


def test_resource_aliases_are_those_of_now(bridge, alice):
    key = Key(bridge)
    name = f"alias/{unique('project-blue')}"
    alice.may(allow("kms:Encrypt", "*", {"ForAnyValue:StringLike": {"kms:ResourceAliases": "alias/project-blue*"}}))
    call = {"KeyId": key.arn, "Plaintext": b"x"}
    with denied(alice, "kms:Encrypt", key, NO_IDENTITY_POLICY):
        alice.kms.encrypt(**call)
    bridge.kms.create_alias(AliasName=name, TargetKeyId=key.id)
    alice.kms.encrypt(**call)
    bridge.new_alias(key.id)
    alice.kms.encrypt(**call)
    other = bridge.new_key()
    bridge.kms.update_alias(AliasName=name, TargetKeyId=other)
    with denied(alice, "kms:Encrypt", key, NO_IDENTITY_POLICY):
        alice.kms.encrypt(**call)
    alice.kms.encrypt(KeyId=other, Plaintext=b"x")
    bridge.kms.delete_alias(AliasName=name)
    with denied(alice, "kms:Encrypt", bridge.key_arn(other), NO_IDENTITY_POLICY):
        alice.kms.encrypt(KeyId=other, Plaintext=b"x")


def test_alias_generation_after_a_rotation(bridge, alice):
    """`hsmbridge:AliasGeneration`: an alias's keys of before decrypt by its name; a policy may tell them from its key of now."""
    alias = f"alias/{unique('rotated')}"
    old = Key(bridge)
    bridge.kms.create_alias(AliasName=alias, TargetKeyId=old.id)
    before = bridge.kms.encrypt(KeyId=alias, Plaintext=b"old")["CiphertextBlob"]
    bridge.run("rotate", "--alias", alias)
    new = bridge.kms.describe_key(KeyId=alias)["KeyMetadata"]["Arn"]
    assert new != old.arn
    after = bridge.kms.encrypt(KeyId=alias, Plaintext=b"new")["CiphertextBlob"]
    for generation, blob, other, arn in (("current", after, before, old.arn), ("retired", before, after, new)):
        alice.may(allow("kms:Decrypt", "*", {"StringEquals": {"hsmbridge:AliasGeneration": generation, "kms:RequestAlias": alias}}))
        assert alice.kms.decrypt(KeyId=alias, CiphertextBlob=blob)["Plaintext"]
        with denied(alice, "kms:Decrypt", arn, NO_IDENTITY_POLICY):
            alice.kms.decrypt(KeyId=alias, CiphertextBlob=other)
        for named in ({}, {"KeyId": old.arn}):
            with refused("AccessDeniedException"):
                alice.kms.decrypt(CiphertextBlob=before, **named)
    # Encrypting by the alias is always of now.
    alice.may(allow("kms:Encrypt", "*", {"StringEquals": {"hsmbridge:AliasGeneration": "retired"}}))
    with denied(alice, "kms:Encrypt", new, NO_IDENTITY_POLICY):
        alice.kms.encrypt(KeyId=alias, Plaintext=b"x")


# -- what a request says ------------------------------------------------------------------------------------------------


def test_encryption_context_keys(alice, key):
    alice.may(document(
        statement("Allow", "kms:Encrypt", key.arn, {"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["tenant", "app"]},
                                                    "Null": {"kms:EncryptionContextKeys": "false"}})))
    for context in ({"tenant": "1"}, {"app": "1"}, {"tenant": "1", "app": "2"}):
        alice.kms.encrypt(KeyId=key.id, Plaintext=b"x", EncryptionContext=context)
    for context in ({}, {"Tenant": "1"}, {"tenant": "1", "more": "2"}):
        with denied(alice, "kms:Encrypt", key, NO_IDENTITY_POLICY):
            alice.kms.encrypt(KeyId=key.id, Plaintext=b"x", EncryptionContext=context)


def test_signing_algorithm_and_message_type(alice, rsa):
    wanted = {"StringEquals": {"kms:SigningAlgorithm": "RSASSA_PSS_SHA_256", "kms:MessageType": "RAW"}}
    alice.may(allow(["kms:Sign", "kms:Verify"], rsa.arn, wanted))
    call = {"KeyId": rsa.id, "Message": b"m", "SigningAlgorithm": "RSASSA_PSS_SHA_256"}
    signature = alice.kms.sign(**call)["Signature"]
    assert alice.kms.verify(**call, Signature=signature)["SignatureValid"]
    for change in ({"SigningAlgorithm": "RSASSA_PSS_SHA_512"}, {"SigningAlgorithm": "RSASSA_PKCS1_V1_5_SHA_256"},
                   {"MessageType": "DIGEST", "Message": b"d" * 32}):
        with denied(alice, "kms:Sign", rsa, NO_IDENTITY_POLICY):
            alice.kms.sign(**call | change)
        with denied(alice, "kms:Verify", rsa, NO_IDENTITY_POLICY):
            alice.kms.verify(**call | change, Signature=signature)


def test_mac_algorithm(alice, mac):
    call = {"KeyId": mac.id, "Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    alice.may(allow("kms:*Mac", mac.arn, {"StringEquals": {"kms:MacAlgorithm": "HMAC_SHA_256"}}))
    made = alice.kms.generate_mac(**call)["Mac"]
    assert alice.kms.verify_mac(**call, Mac=made)["MacValid"]
    alice.may(allow("kms:*Mac", mac.arn, {"StringEquals": {"kms:MacAlgorithm": "HMAC_SHA_512"}}))
    with denied(alice, "kms:GenerateMac", mac, NO_IDENTITY_POLICY):
        alice.kms.generate_mac(**call)
    with denied(alice, "kms:VerifyMac", mac, NO_IDENTITY_POLICY):
        alice.kms.verify_mac(**call, Mac=made)


def test_pending_window_of_a_deletion(bridge, alice):
    """The effective value: 30 where the request has none."""
    name = "kms:ScheduleKeyDeletionPendingWindowInDays"
    key = Key(bridge)
    alice.may(allow("kms:ScheduleKeyDeletion", key.arn, {"NumericGreaterThanEquals": {name: "20"}}))
    for days in (7, 19):
        with denied(alice, "kms:ScheduleKeyDeletion", key, NO_IDENTITY_POLICY):
            alice.kms.schedule_key_deletion(KeyId=key.id, PendingWindowInDays=days)
    assert bridge.kms.describe_key(KeyId=key.id)["KeyMetadata"]["KeyState"] == "Enabled"
    for window in ({"PendingWindowInDays": 20}, {}):
        alice.kms.schedule_key_deletion(KeyId=key.id, **window)
        bridge.kms.cancel_key_deletion(KeyId=key.id)
    alice.may(allow("kms:ScheduleKeyDeletion", key.arn, {"NumericLessThan": {name: 30}}))
    with denied(alice, "kms:ScheduleKeyDeletion", key, NO_IDENTITY_POLICY):
        alice.kms.schedule_key_deletion(KeyId=key.id)


def test_key_spec_at_create_key(alice):
    """RULE §2.7: the effective value, also where the request has no KeySpec."""
    alice.may(allow("kms:CreateKey", "*", {"StringEquals": {"kms:KeySpec": "SYMMETRIC_DEFAULT", "kms:KeyUsage": "ENCRYPT_DECRYPT",
                                                            "kms:KeyOrigin": "AWS_KMS"}, "Bool": {"kms:MultiRegion": "false"}}))
    assert alice.kms.create_key() and alice.kms.create_key(KeySpec="SYMMETRIC_DEFAULT")
    for spec, usage in (("ECC_NIST_P256", "SIGN_VERIFY"), ("HMAC_256", "GENERATE_VERIFY_MAC")):
        with denied(alice, "kms:CreateKey", "*", NO_IDENTITY_POLICY):
            alice.kms.create_key(KeySpec=spec, KeyUsage=usage)
    alice.may(allow("kms:CreateKey", "*", {"StringLike": {"kms:KeySpec": "ECC_*"}}))
    assert alice.kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    with denied(alice, "kms:CreateKey", "*", NO_IDENTITY_POLICY):
        alice.kms.create_key()


def test_bypassing_the_lockout_check(bridge, alice):
    """RULE §1.9: the key is there only where the parameter is in the request; the documented pattern asks with Null."""
    name = "kms:BypassPolicyLockoutSafetyCheck"
    key = Key(bridge, allows(alice, "kms:PutKeyPolicy"))
    same = bridge.kms.get_key_policy(KeyId=key.id)["Policy"]
    alice.may(document(statement("Deny", ["kms:CreateKey", "kms:PutKeyPolicy"], condition={"Null": {name: "false"}}),
                       statement("Allow", "kms:CreateKey")))
    call = {"KeyId": key.id, "PolicyName": "default", "Policy": same}
    alice.kms.put_key_policy(**call)
    for value in (True, False):
        with denied(alice, "kms:PutKeyPolicy", key, IDENTITY_POLICY_DENIES):
            alice.kms.put_key_policy(**call, BypassPolicyLockoutSafetyCheck=value)
        with denied(alice, "kms:CreateKey", "*", IDENTITY_POLICY_DENIES):
            alice.kms.create_key(BypassPolicyLockoutSafetyCheck=value)
    assert alice.kms.create_key()
    alice.may(document(statement("Deny", "kms:PutKeyPolicy", condition={"Bool": {name: "true"}})))
    alice.kms.put_key_policy(**call, BypassPolicyLockoutSafetyCheck=False)
    alice.kms.put_key_policy(**call)
    with denied(alice, "kms:PutKeyPolicy", key, IDENTITY_POLICY_DENIES):
        alice.kms.put_key_policy(**call, BypassPolicyLockoutSafetyCheck=True)


# -- ReEncrypt ----------------------------------------------------------------------------------------------------------


def test_reencrypt_is_two_questions(bridge, alice):
    source, target = Key(bridge), Key(bridge)
    old, new = {"v": "1"}, {"v": "2"}
    blob = source.encrypt(old)
    call = {"CiphertextBlob": blob, "SourceKeyId": source.id, "SourceEncryptionContext": old, "DestinationKeyId": target.id,
            "DestinationEncryptionContext": new}
    of = lambda version: {"StringEquals": {"kms:EncryptionContext:v": version}}  # noqa: E731
    out, into = statement("Allow", "kms:ReEncryptFrom", source.arn, of("1")), statement("Allow", "kms:ReEncryptTo", target.arn, of("2"))
    alice.may(document(out))
    with denied(alice, "kms:ReEncryptTo", target, NO_IDENTITY_POLICY):
        alice.kms.re_encrypt(**call)
    alice.may(document(into))
    with denied(alice, "kms:ReEncryptFrom", source, NO_IDENTITY_POLICY):
        alice.kms.re_encrypt(**call)
    # kms:Encrypt and kms:Decrypt are no part of it; each side's context is its own.
    alice.may(allow(["kms:Encrypt", "kms:Decrypt"]))
    with denied(alice, "kms:ReEncryptFrom", source, NO_IDENTITY_POLICY):
        alice.kms.re_encrypt(**call)
    alice.may(document(statement("Allow", "kms:ReEncryptFrom", source.arn, of("2")), into))
    with denied(alice, "kms:ReEncryptFrom", source, NO_IDENTITY_POLICY):
        alice.kms.re_encrypt(**call)
    alice.may(document(out, statement("Allow", "kms:ReEncryptTo", target.arn, of("1"))))
    with denied(alice, "kms:ReEncryptTo", target, NO_IDENTITY_POLICY):
        alice.kms.re_encrypt(**call)
    # The two may come from different places.
    alice.may(document(out))
    target.put(allows(alice, "kms:ReEncryptTo", condition=of("2")))
    moved = alice.kms.re_encrypt(**call)
    assert bridge.kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext=new)["KeyId"] == target.arn


def test_reencrypt_on_the_same_key(bridge, alice):
    key, other = Key(bridge), Key(bridge)
    blob = key.encrypt()
    for wanted, works, fails in (("true", key, other), ("false", other, key)):
        alice.may(allow("kms:ReEncrypt*", "*", {"Bool": {"kms:ReEncryptOnSameKey": wanted}}))
        assert alice.kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=works.id)["KeyId"] == works.arn
        with denied(alice, "kms:ReEncryptFrom", key, NO_IDENTITY_POLICY):
            alice.kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=fails.id)


def test_conditions_in_a_key_policy_are_of_the_request(bridge, iam):
    bob = Person(iam, "bob")
    key = Key(bridge, allows("*", "kms:Encrypt", condition={"StringEquals": {"kms:CallerAccount": bridge.account, "aws:username": bob.name}}),
              delegating=False)
    bob.kms.encrypt(KeyId=key.id, Plaintext=b"x")
    other = Person(iam, "other")
    with denied(other, "kms:Encrypt", key, NO_KEY_POLICY):
        other.kms.encrypt(KeyId=key.id, Plaintext=b"x")
