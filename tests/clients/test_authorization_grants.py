"""What a grant gives to whom, and what beats it (authorization.md §1.8). The five operations themselves are in test_grants.py."""

import json

import pytest

from authz_tool import (
    BOUNDARY_DENIES, BY_CIPHERTEXT, IDENTITY_POLICY_DENIES, KEY_POLICY_DENIES, NO_BOUNDARY, NO_IDENTITY_POLICY, NO_KEY_POLICY,
    NO_SESSION_POLICY, PROGRAMS, SCP_DENIES, SESSION_POLICY_DENIES, Key, Person, Role, allows, arn, denied, denies, hidden, new_account_id, text, unique)
from iam_tool import Iam, allow, deny, document, statement, trusts

IT = {"Department": "IT"}


@pytest.fixture(scope="module")
def iam(bridge):
    return Iam(bridge)


@pytest.fixture(scope="module")
def alice(iam):
    """Has no policy at all."""
    return Person(iam, "alice")


def grant(key, to, *operations, **more):
    return key.bridge.kms.create_grant(KeyId=key.id, GranteePrincipal=arn(to), Operations=list(operations), **more)


def encrypt(who, key, **more):
    return who.kms.encrypt(KeyId=key.arn, Plaintext=b"x", **more)["CiphertextBlob"]


def decrypt(who, key, context=None):
    return who.kms.decrypt(CiphertextBlob=key.encrypt(context), EncryptionContext=context or {}, KeyId=key.arn)["Plaintext"]


@pytest.mark.parametrize("delegating, why", [(True, NO_IDENTITY_POLICY), (False, NO_KEY_POLICY)], ids=["delegating", "not delegating"])
def test_a_grant_for_an_encryption_context_used_and_retired(bridge, alice, delegating, why):
    key = Key(bridge, delegating=delegating)
    with denied(alice, "kms:Decrypt", key, why):
        decrypt(alice, key, IT)
    made = grant(key, alice, "Decrypt", "RetireGrant", Constraints={"EncryptionContextSubset": IT})
    for context in (IT, IT | {"Purpose": "Test"}):
        assert decrypt(alice, key, context) == b"secret"
    for context in ({}, {"Department": "HR"}, {"department": "IT"}, {"Purpose": "Test"}):
        with denied(alice, "kms:Decrypt", key, why):
            decrypt(alice, key, context)
    with denied(alice, "kms:Encrypt", key, why):
        encrypt(alice, key, EncryptionContext=IT)
    with denied(alice, "kms:RevokeGrant", key, why):
        alice.kms.revoke_grant(KeyId=key.arn, GrantId=made["GrantId"])
    alice.kms.retire_grant(GrantToken=made["GrantToken"])
    with denied(alice, "kms:Decrypt", key, why):
        decrypt(alice, key, IT)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_grant_with_the_cli(bridge, iam, alice, tmp_path, program):
    owner = Person(iam, "owner", policies={"grants": allow(["kms:CreateGrant", "kms:ListGrants", "kms:Encrypt"])})
    key = Key(bridge)
    mine, hers = (who.cli(PROGRAMS[program](), tmp_path) for who in (owner, alice))
    blob = mine.file("blob", key.encrypt({"tenant": "blue", "purpose": "cli"}))
    use = ("kms", "decrypt", "--key-id", key.arn, "--ciphertext-blob", blob, "--encryption-context")
    refusal = text(alice, "kms:Decrypt", key, NO_IDENTITY_POLICY)
    hers.denied(refusal, *use, "tenant=blue,purpose=cli")
    made = mine.kms("create-grant", "--key-id", key.arn, "--grantee-principal", alice.arn, "--operations", "Decrypt", "RetireGrant",
                    "--constraints", "EncryptionContextSubset={tenant=blue}")
    (listed,) = mine.kms("list-grants", "--key-id", key.arn)["Grants"]
    assert (listed["GrantId"], listed["GranteePrincipal"]) == (made["GrantId"], alice.arn)
    assert hers.run(*use, "tenant=blue,purpose=cli")["KeyId"] == key.arn
    hers.denied(refusal, *use, "tenant=red")
    hers.denied(text(alice, "kms:ListGrants", key, NO_IDENTITY_POLICY), "kms", "list-grants", "--key-id", key.arn)
    mine.denied(text(owner, "kms:RevokeGrant", key, NO_IDENTITY_POLICY), "kms", "revoke-grant", "--key-id", key.arn, "--grant-id",
                made["GrantId"])
    hers.kms("retire-grant", "--key-id", key.arn, "--grant-id", made["GrantId"])
    hers.denied(refusal, *use, "tenant=blue,purpose=cli")
    assert mine.kms("list-grants", "--key-id", key.arn)["Grants"] == []


# -- what beats it ------------------------------------------------------------------------------------------------------


def test_an_explicit_deny_beats_a_grant(bridge, iam):
    limit = iam.policy(unique("limit"), allow("kms:ListKeys"))
    who, key = Person(iam, boundary=limit), Key(bridge)
    grant(key, who, "Encrypt")
    # RULE §1.4: to the user itself; silence of the boundary is no limit.
    encrypt(who, key)
    key.put(denies(who, "kms:Encrypt"))
    with denied(who, "kms:Encrypt", key, KEY_POLICY_DENIES):
        encrypt(who, key)
    key.put()
    who.may(deny("kms:Encrypt"))
    with denied(who, "kms:Encrypt", key, IDENTITY_POLICY_DENIES):
        encrypt(who, key)
    who.may(allow("kms:ListKeys"))
    encrypt(who, key)
    iam.with_document(deny("kms:Encrypt"), "policy", "update", limit)
    with denied(who, "kms:Encrypt", key, BOUNDARY_DENIES):
        encrypt(who, key)


def test_an_organisation_policy_beats_a_grant(iam):
    unit = iam.unit(unique("root"))
    member = iam.make_account(new_account_id(), unit=unit)
    admin, who = Person(member, "admin", policies={"all": allow("kms:*")}), Person(member)
    key = admin.kms.create_key()["KeyMetadata"]["Arn"]
    admin.kms.create_grant(KeyId=key, GranteePrincipal=who.arn, Operations=["Encrypt"])
    who.kms.encrypt(KeyId=key, Plaintext=b"x")
    name = unique("scp")
    iam.policy(name, allow("kms:Decrypt"), service_control=True)
    iam.run("unit", "attach-policy", unit, name)
    who.kms.encrypt(KeyId=key, Plaintext=b"x")
    iam.run("unit", "detach-policy", unit, "FullAWSAccess")
    with denied(who, "kms:Encrypt", key, SCP_DENIES):
        who.kms.encrypt(KeyId=key, Plaintext=b"x")


# -- to roles and sessions ----------------------------------------------------------------------------------------------


def test_a_grant_to_a_role(bridge, iam, alice):
    """RULE §1.8: a role's sessions have it as far as session policies and the boundary allow."""
    role, key = Role(iam, trust=trusts(alice.arn), path="/team/"), Key(bridge)
    session = role.session(alice)
    with denied(session, "kms:Encrypt", key, NO_IDENTITY_POLICY):
        encrypt(session, key)
    grant(key, role, "Encrypt")
    encrypt(session, key)
    encrypt(role.session(alice, "another"), key)
    narrow = role.session(alice, Policy=json.dumps(allow("kms:Decrypt")))
    with denied(narrow, "kms:Encrypt", key, NO_SESSION_POLICY):
        encrypt(narrow, key)
    no = role.session(alice, Policy=json.dumps(deny("kms:Encrypt")))
    with denied(no, "kms:Encrypt", key, SESSION_POLICY_DENIES):
        encrypt(no, key)
    iam.run("role", "put-boundary", role.name, iam.policy(unique("limit"), allow("kms:Decrypt")))
    with denied(session, "kms:Encrypt", key, NO_BOUNDARY):
        encrypt(session, key)


def test_a_grant_to_one_session(bridge, iam, alice):
    role, key = Role(iam, trust=trusts(alice.arn)), Key(bridge)
    grant(key, f"arn:aws:sts::{bridge.account}:assumed-role/{role.name}/one", "Encrypt")
    encrypt(role.session(alice, "one"), key)
    encrypt(role.session(alice, "one", Policy=json.dumps(allow("kms:Decrypt"))), key)
    with denied(two := role.session(alice, "two"), "kms:Encrypt", key, NO_IDENTITY_POLICY):
        encrypt(two, key)


# -- to other accounts --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(iam):
    return iam.make_account(new_account_id())


def test_a_grant_to_a_user_of_another_account(bridge, other):
    """RULE §1.5: it suffices, without a policy on either side; for what it names."""
    bob, key = Person(other, "bob"), Key(bridge)
    with hidden(bob, "kms:Encrypt"):
        encrypt(bob, key)
    made = grant(key, bob, "Encrypt", "Decrypt", "DescribeKey", "RetireGrant")
    blob = encrypt(bob, key)
    assert bob.kms.decrypt(CiphertextBlob=blob)["KeyId"] == key.arn
    assert bob.kms.describe_key(KeyId=bridge.alias_arn(bridge.new_alias(key.id)))["KeyMetadata"]["Arn"] == key.arn
    with hidden(bob, "kms:GenerateDataKey"):
        bob.kms.generate_data_key(KeyId=key.arn, KeySpec="AES_256")
    with hidden(bob, "kms:ListGrants"):
        bob.kms.list_grants(KeyId=key.arn)
    neighbour = Person(other, "neighbour", policies={"all": allow("kms:*")})
    with hidden(neighbour, "kms:Encrypt"):
        encrypt(neighbour, key)
    bob.may(deny("kms:Encrypt"))
    with denied(bob, "kms:Encrypt", key, IDENTITY_POLICY_DENIES):
        encrypt(bob, key)
    bob.kms.retire_grant(KeyId=key.arn, GrantId=made["GrantId"])
    with hidden(bob, "kms:Decrypt", BY_CIPHERTEXT):
        bob.kms.decrypt(CiphertextBlob=blob)


def test_a_grant_to_another_account_delegates(bridge, other):
    bob, key = Person(other, "bob"), Key(bridge)
    grant(key, f"arn:aws:iam::{other.account}:root", "Encrypt")
    with denied(bob, "kms:Encrypt", key, NO_IDENTITY_POLICY):
        encrypt(bob, key)
    bob.may(allow("kms:*", key.arn))
    encrypt(bob, key)
    with hidden(bob, "kms:Decrypt"):
        bob.kms.decrypt(KeyId=key.arn, CiphertextBlob=key.encrypt())


def test_a_grant_to_a_role_of_another_account(bridge, other):
    bob, key = Person(other, "bob"), Key(bridge)
    role = Role(other, trust=trusts(bob.arn))
    grant(key, role, "Encrypt")
    encrypt(role.session(bob), key)
    narrow = role.session(bob, Policy=json.dumps(allow("kms:Decrypt")))
    with denied(narrow, "kms:Encrypt", key, NO_SESSION_POLICY):
        encrypt(narrow, key)


# -- who may make one ---------------------------------------------------------------------------------------------------

# Condition on kms:CreateGrant; what it lets through, and what not.
ON_CREATE_GRANT = [
    ({"ForAllValues:StringEquals": {"kms:GrantOperations": ["Encrypt", "Decrypt"]}}, {"Operations": ["Encrypt", "Decrypt"]},
     {"Operations": ["Encrypt", "DescribeKey"]}),
    ({"StringEquals": {"kms:GrantConstraintType": "EncryptionContextSubset"}}, {"Constraints": {"EncryptionContextSubset": IT}},
     {"Constraints": {"EncryptionContextEquals": IT}}),
    ({"StringEquals": {"kms:GrantConstraintType": "EncryptionContextEquals"}}, {"Constraints": {"EncryptionContextEquals": IT}}, {}),
    ({"StringEquals": {"kms:EncryptionContext:Department": "IT"}}, {"Constraints": {"EncryptionContextSubset": IT}},
     {"Constraints": {"EncryptionContextSubset": {"Department": "HR"}}}),
    ({"Null": {"kms:RetiringPrincipal": "false"}}, {"RetiringPrincipal": "grantee"}, {}),
    ({"Bool": {"kms:GrantIsForAWSResource": "false"}}, {}, None),
    ({"Bool": {"kms:GrantIsForAWSResource": True}}, None, {}),
]


@pytest.mark.parametrize("condition, fits, fails", ON_CREATE_GRANT, ids=lambda value: json.dumps(value))
def test_conditions_on_creating_a_grant(bridge, iam, alice, condition, fits, fails):
    owner, key = Person(iam, "owner"), Key(bridge)
    owner.may(allow("kms:CreateGrant", key.arn, condition))

    def create(more):
        call = {"KeyId": key.id, "GranteePrincipal": alice.arn, "Operations": ["Encrypt"]} | more
        if "RetiringPrincipal" in call:
            call["RetiringPrincipal"] = alice.arn
        return owner.kms.create_grant(**call)

    if fails is not None:
        with denied(owner, "kms:CreateGrant", key, NO_IDENTITY_POLICY):
            create(fails)
    assert bridge.kms.list_grants(KeyId=key.id)["Grants"] == []
    if fits is not None:
        assert create(fits)["GrantId"]


def test_a_condition_on_the_grantee(bridge, iam, alice):
    owner, key, eve = Person(iam, "owner"), Key(bridge), Person(iam, "eve")
    owner.may(allow("kms:CreateGrant", key.arn, {"StringEquals": {"kms:GranteePrincipal": alice.arn}}))
    call = {"KeyId": key.id, "Operations": ["Encrypt"]}
    assert owner.kms.create_grant(**call, GranteePrincipal=alice.arn)
    for whom in (eve.arn, owner.arn):
        with denied(owner, "kms:CreateGrant", key, NO_IDENTITY_POLICY):
            owner.kms.create_grant(**call, GranteePrincipal=whom)


def test_a_key_policy_does_not_let_retire(bridge, iam, alice):
    """RULE §1.8: kms:RetireGrant in a key policy has no effect, to allow or to deny; a Deny of the caller's own policies has."""
    who = Person(iam)
    key = Key(bridge, allows([who.arn, alice.arn], "kms:RetireGrant"), delegating=False)
    made = grant(key, alice, "Encrypt")
    for nobody in (who, alice):
        with denied(nobody, "kms:RetireGrant", key, NO_KEY_POLICY):
            nobody.kms.retire_grant(KeyId=key.arn, GrantId=made["GrantId"])
    mine = grant(key, who, "Encrypt", "RetireGrant")
    key.put(denies(who, "kms:RetireGrant"))
    who.may(document(statement("Deny", "kms:RetireGrant")))
    with denied(who, "kms:RetireGrant", key, IDENTITY_POLICY_DENIES):
        who.kms.retire_grant(KeyId=key.arn, GrantId=mine["GrantId"])
    who.may(allow("kms:ListKeys"))
    who.kms.retire_grant(KeyId=key.arn, GrantId=mine["GrantId"])
    assert [g["GrantId"] for g in bridge.kms.list_grants(KeyId=key.id)["Grants"]] == [made["GrantId"]]
