"""Who may use a key: one encryption context, users and administrators, boundaries, and what the refused are told."""

import base64
import json

import pytest

from authz_tool import (
    BOUNDARY_DENIES, BY_CIPHERTEXT, IDENTITY_POLICY_DENIES, KEY_POLICY_DENIES, NO_BOUNDARY, NO_IDENTITY_POLICY, NO_KEY_POLICY, PROGRAMS, Key,
    Person, allows, denied, denies, hidden, text, unique)
from checks import refused
from iam_tool import Iam, allow, deny, document, statement
from vocabulary import method

BLUE, RED = {"tenant": "blue"}, {"tenant": "red"}
BLUE_ONLY = {"StringEquals": {"kms:EncryptionContext:tenant": "blue"}}


@pytest.fixture(scope="module")
def iam(bridge):
    return Iam(bridge)


@pytest.fixture(scope="module")
def nobody(iam):
    """A user without any policy."""
    return Person(iam, "nobody")


# -- one action on one key under one encryption context -----------------------------------------------------------------


def by_identity_policy(bridge):
    key, alice = Key(bridge), Person(Iam(bridge), "alice")
    alice.may(allow("kms:Decrypt", key.arn, BLUE_ONLY))
    return key, alice, NO_IDENTITY_POLICY


def by_key_policy(bridge):
    alice = Person(Iam(bridge), "alice")
    key = Key(bridge, allows(alice, "kms:Decrypt", condition=BLUE_ONLY), delegating=False)
    return key, alice, NO_KEY_POLICY


def by_key_policy_that_also_delegates(bridge):
    alice = Person(Iam(bridge), "alice")
    return Key(bridge, allows(alice, "kms:Decrypt", condition=BLUE_ONLY)), alice, NO_IDENTITY_POLICY


WAYS = [by_identity_policy, by_key_policy, by_key_policy_that_also_delegates]
way = pytest.mark.parametrize("way", WAYS, ids=lambda made: made.__name__)


@way
def test_decrypt_on_one_key_and_one_encryption_context(either, way):
    key, alice, why = way(either)
    blobs = {name: key.encrypt(context) for name, context in (("blue", BLUE), ("red", RED), ("none", {}))}
    for named in ({"KeyId": key.id}, {"KeyId": key.arn}, {}):
        assert alice.kms.decrypt(CiphertextBlob=blobs["blue"], EncryptionContext=BLUE, **named)["Plaintext"] == b"secret"
    for blob in blobs.values():
        for context in (RED, {}, {"tenant": "Blue"}, {"tenant": "blue "}, {"other": "blue"}):
            with denied(alice, "kms:Decrypt", key, why):
                alice.kms.decrypt(KeyId=key.id, CiphertextBlob=blob, EncryptionContext=context)
    # More than was asked for is within the policy; then it is the ciphertext that says no.
    more = BLUE | {"purpose": "test"}
    assert alice.kms.decrypt(CiphertextBlob=key.encrypt(more), EncryptionContext=more)["Plaintext"] == b"secret"
    with refused("InvalidCiphertextException"):
        alice.kms.decrypt(KeyId=key.id, CiphertextBlob=blobs["red"], EncryptionContext=BLUE)
    # RULE §2.6: names of condition keys are without case, to their end; values are not.
    spelled = {"Tenant": "blue"}
    assert alice.kms.decrypt(CiphertextBlob=key.encrypt(spelled), EncryptionContext=spelled)["Plaintext"] == b"secret"


@way
def test_not_another_key_and_not_another_action(bridge, way):
    key, alice, why = way(bridge)
    other = Key(bridge)
    blob = key.encrypt(BLUE)
    assert alice.kms.decrypt(CiphertextBlob=blob, EncryptionContext=BLUE)["KeyId"] == key.arn
    with denied(alice, "kms:Decrypt", other, NO_IDENTITY_POLICY):
        alice.kms.decrypt(CiphertextBlob=other.encrypt(BLUE), EncryptionContext=BLUE)
    calls = {
        "Encrypt": {"Plaintext": b"x", "EncryptionContext": BLUE},
        "GenerateDataKey": {"KeySpec": "AES_256", "EncryptionContext": BLUE},
        "GenerateDataKeyWithoutPlaintext": {"KeySpec": "AES_256", "EncryptionContext": BLUE},
        "DescribeKey": {}, "GetKeyPolicy": {}, "DisableKey": {}, "ScheduleKeyDeletion": {},
    }
    for operation, params in calls.items():
        with denied(alice, f"kms:{operation}", key, why):
            getattr(alice.kms, method(operation))(KeyId=key.id, **params)
    # kms:Decrypt is no part of kms:ReEncryptFrom.
    with denied(alice, "kms:ReEncryptFrom", key, why):
        alice.kms.re_encrypt(SourceKeyId=key.id, CiphertextBlob=blob, SourceEncryptionContext=BLUE, DestinationKeyId=other.id)
    assert bridge.kms.describe_key(KeyId=key.id)["KeyMetadata"]["KeyState"] == "Enabled"


def test_a_ciphertext_that_was_named_alone(bridge, nobody):
    """RULE §1.13: whose key no resource policy gives is "the resource associated with this ciphertext"."""
    key = Key(bridge, delegating=False)
    with hidden(nobody, "kms:Decrypt", BY_CIPHERTEXT):
        nobody.kms.decrypt(CiphertextBlob=key.encrypt())
    with hidden(nobody, "kms:ReEncryptFrom", BY_CIPHERTEXT):
        nobody.kms.re_encrypt(CiphertextBlob=key.encrypt(), DestinationKeyId=key.id)
    with denied(nobody, "kms:Decrypt", key, NO_KEY_POLICY):
        nobody.kms.decrypt(KeyId=key.id, CiphertextBlob=key.encrypt())


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("way", [by_identity_policy, by_key_policy], ids=lambda made: made.__name__)
def test_one_encryption_context_with_the_cli(bridge, tmp_path, program, way):
    key, alice, why = way(bridge)
    aws = alice.cli(PROGRAMS[program](), tmp_path)
    blob = aws.file("blob", key.encrypt(BLUE))
    got = aws.kms("decrypt", "--ciphertext-blob", blob, "--encryption-context", "tenant=blue")
    assert base64.b64decode(got["Plaintext"]) == b"secret" and got["KeyId"] == key.arn
    refusal = text(alice, "kms:Decrypt", key, why)
    aws.denied(refusal, "kms", "decrypt", "--key-id", key.id, "--ciphertext-blob", blob, "--encryption-context", "tenant=red")
    aws.denied(refusal, "kms", "decrypt", "--key-id", key.id, "--ciphertext-blob", blob)
    aws.denied(text(alice, "kms:DescribeKey", key, why), "kms", "describe-key", "--key-id", key.id)
    aws.denied(text(alice, "kms:ListKeys", "*", NO_IDENTITY_POLICY), "kms", "list-keys")


# -- explicit denials win -----------------------------------------------------------------------------------------------


def test_an_explicit_deny_wins_wherever_it_stands(iam, bridge):
    alice = Person(iam, "alice", policies={"all": allow("kms:*")})
    key = Key(bridge, allows(alice, "kms:*"))
    call = {"KeyId": key.id, "Plaintext": b"x"}
    alice.kms.encrypt(**call)

    alice.may(deny("kms:Encrypt", key.arn), "no")
    with denied(alice, "kms:Encrypt", key, IDENTITY_POLICY_DENIES):
        alice.kms.encrypt(**call)
    iam.run("user", "delete-policy", alice.name, "no")
    alice.kms.encrypt(**call)

    group = unique("group")
    iam.group(group, policies={"no": deny("kms:Enc*")})
    iam.run("user", "add-to-group", alice.name, group)
    with denied(alice, "kms:Encrypt", key, IDENTITY_POLICY_DENIES):
        alice.kms.encrypt(**call)
    iam.run("user", "remove-from-group", alice.name, group)

    # The account as a principal of a Deny is everybody in it, the root user too.
    everybody = f"arn:aws:iam::{bridge.account}:root"
    for principal in (alice, "*", bridge.account):
        key.put(allows(alice, "kms:*"), denies(principal, "kms:Encrypt"))
        with denied(alice, "kms:Encrypt", key, KEY_POLICY_DENIES):
            alice.kms.encrypt(**call)
        assert alice.kms.describe_key(KeyId=key.id)
    with denied(everybody, "kms:Encrypt", key, KEY_POLICY_DENIES):
        bridge.kms.encrypt(**call)
    # A deny for one is none for another; NotAction and NotPrincipal leave out what they name.
    bob = Person(iam, "bob")
    key.put(allows([alice.arn, bob.arn], "kms:Encrypt"), denies(bob, "kms:Encrypt"))
    alice.kms.encrypt(**call)
    with denied(bob, "kms:Encrypt", key, KEY_POLICY_DENIES):
        bob.kms.encrypt(**call)
    key.put(allows([alice.arn, bob.arn], "kms:Encrypt"),
            {"Effect": "Deny", "NotPrincipal": {"AWS": [alice.arn, everybody]}, "Action": "kms:Encrypt", "Resource": "*"})
    alice.kms.encrypt(**call)


# -- administrators and users -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def staff(iam, bridge):
    admin, user, stranger = (Person(iam, stem) for stem in ("admin", "user", "stranger"))
    options = ("--admins", f"user/{admin.name}", "--users", f"user/{user.name}", "--no-admins-may-delete", "--json")
    keys = {}
    for spec in ("SYMMETRIC_DEFAULT", "ECC_NIST_P256", "HMAC_256"):
        made = json.loads(bridge.run("key", "create", "--key-spec", spec, *options).stdout)
        keys[spec] = bridge.key_arn(made["line"]["key_id"])
    return admin, user, stranger, keys


USES = [
    ("SYMMETRIC_DEFAULT", "Encrypt", {"Plaintext": b"x"}), ("SYMMETRIC_DEFAULT", "GenerateDataKey", {"KeySpec": "AES_256"}),
    ("SYMMETRIC_DEFAULT", "GenerateDataKeyWithoutPlaintext", {"KeySpec": "AES_256"}),
    ("ECC_NIST_P256", "Sign", {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}),
    ("HMAC_256", "GenerateMac", {"Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}),
]
MANAGES = [
    ("EnableKey", {}), ("UpdateKeyDescription", {"Description": "d"}), ("TagResource", {"Tags": [{"TagKey": "a", "TagValue": "b"}]}),
    ("UntagResource", {"TagKeys": ["a"]}), ("GetKeyPolicy", {}), ("ListKeyPolicies", {}), ("ListResourceTags", {}),
    ("GetKeyRotationStatus", {}),
]


def test_administrators_manage_and_users_use(staff):
    admin, user, stranger, keys = staff
    for spec, operation, params in USES:
        call = {"KeyId": keys[spec]} | params
        getattr(user.kms, method(operation))(**call)
        for who in (admin, stranger):
            with denied(who, f"kms:{operation}", keys[spec], NO_IDENTITY_POLICY):
                getattr(who.kms, method(operation))(**call)
    for key in keys.values():
        for operation, params in MANAGES:
            getattr(admin.kms, method(operation))(KeyId=key, **params)
            for who in (user, stranger):
                with denied(who, f"kms:{operation}", key, NO_IDENTITY_POLICY):
                    getattr(who.kms, method(operation))(KeyId=key, **params)


def test_nobody_but_root_deletes_what_administrators_may_not_delete(staff, bridge):
    admin, user, _, keys = staff
    for key in keys.values():
        for who in (admin, user):
            with denied(who, "kms:ScheduleKeyDeletion", key, NO_IDENTITY_POLICY):
                who.kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        assert bridge.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"


def test_users_cannot_give_themselves_more(staff):
    _, user, _, keys = staff
    key = keys["SYMMETRIC_DEFAULT"]
    mine = json.dumps(document(statement("Allow", "kms:*", Principal={"AWS": user.arn})))
    for bypass in (False, True):
        with denied(user, "kms:PutKeyPolicy", key, NO_IDENTITY_POLICY):
            user.kms.put_key_policy(KeyId=key, PolicyName="default", Policy=mine, BypassPolicyLockoutSafetyCheck=bypass)


# -- boundaries ---------------------------------------------------------------------------------------------------------


def test_a_boundary_limits_what_identity_policies_give(iam, bridge):
    boundary = iam.policy(unique("boundary"), allow(["kms:Encrypt", "kms:DescribeKey"]))
    alice = Person(iam, "alice", policies={"all": allow("kms:*")}, boundary=boundary)
    key = Key(bridge)
    blob = alice.kms.encrypt(KeyId=key.id, Plaintext=b"x")["CiphertextBlob"]
    alice.kms.describe_key(KeyId=key.id)
    with denied(alice, "kms:Decrypt", key, NO_BOUNDARY):
        alice.kms.decrypt(KeyId=key.id, CiphertextBlob=blob)
    with denied(alice, "kms:ListKeys", "*", NO_BOUNDARY):
        alice.kms.list_keys()
    # It gives nothing by itself.
    bob = Person(iam, "bob", boundary=boundary)
    with denied(bob, "kms:Encrypt", key, NO_IDENTITY_POLICY):
        bob.kms.encrypt(KeyId=key.id, Plaintext=b"x")
    # RULE §1.3: a key policy that names the user itself is not limited by silence, only by a Deny.
    key.put(allows(alice, "kms:Decrypt"))
    assert alice.kms.decrypt(KeyId=key.id, CiphertextBlob=blob)["Plaintext"] == b"x"
    iam.with_document(document(*allow("kms:Encrypt")["Statement"], *deny("kms:Decrypt")["Statement"]), "policy", "update", boundary)
    with denied(alice, "kms:Decrypt", key, BOUNDARY_DENIES):
        alice.kms.decrypt(KeyId=key.id, CiphertextBlob=blob)


def test_a_boundary_and_not_principal(iam, bridge):
    """RULE §1.3: a Deny with NotPrincipal always matches a caller that has a boundary, also one that it names."""
    boundary = iam.policy(unique("boundary"), allow("kms:*"))
    alice, bob = Person(iam, "alice", boundary=boundary), Person(iam, "bob")
    root = f"arn:aws:iam::{bridge.account}:root"
    key = Key(bridge, allows([alice.arn, bob.arn], "kms:Encrypt"),
              {"Effect": "Deny", "NotPrincipal": {"AWS": [alice.arn, bob.arn, root]}, "Action": "kms:Encrypt", "Resource": "*"})
    bob.kms.encrypt(KeyId=key.id, Plaintext=b"x")
    with denied(alice, "kms:Encrypt", key, KEY_POLICY_DENIES):
        alice.kms.encrypt(KeyId=key.id, Plaintext=b"x")


def test_the_cli_and_a_boundary(iam, bridge, tmp_path):
    boundary = iam.policy(unique("boundary"), allow("kms:DescribeKey"))
    alice, key = Person(iam, "alice", policies={"all": allow("kms:*")}, boundary=boundary), Key(bridge)
    for program in PROGRAMS.values():
        aws = alice.cli(program(), tmp_path)
        assert aws.kms("describe-key", "--key-id", key.id)["KeyMetadata"]["Arn"] == key.arn
        aws.denied(text(alice, "kms:GetKeyPolicy", key, NO_BOUNDARY), "kms", "get-key-policy", "--key-id", key.id, "--policy-name",
                   "default")
