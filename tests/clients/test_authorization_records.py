"""The log carries the grounds of every decision: who decided, by which statement or grant (docs/audit.md), whatever was told."""

import json
import uuid

import pytest
from botocore.exceptions import ClientError

from authz_tool import (
    Key, Person, Role, Session, allows, denies, hidden_text, new_account_id, record, text, unique, NO_IDENTITY_POLICY, NO_KEY_POLICY)
from iam_tool import Iam, allow, document, statement, trusts


@pytest.fixture(scope="module")
def iam(bridge):
    return Iam(bridge)


@pytest.fixture(scope="module")
def alice(iam):
    return Person(iam, "alice")


def grounds(bridge, call, **params):
    """What the log has of a call: the whole record, and its grounds."""
    try:
        answer, told = call(**params), None
    except ClientError as caught:
        answer = caught.response
        told = answer["Error"]
        assert told["Code"] == "AccessDeniedException", answer
    found = record(bridge, answer)
    if told:
        assert found["errorCode"] == "AccessDenied" and found["errorMessage"] == told["Message"]
        # RULE audit.md §1.3: of a refused request nothing but who asked for what.
        assert found["requestParameters"] is None and found["responseElements"] is None
    else:
        assert "errorCode" not in found and "errorMessage" not in found
    given = found["additionalEventData"]["authorization"]
    assert given["decision"] == ("Deny" if told else "Allow")
    return found, given


def describe(bridge, who, key):
    return grounds(bridge, who.kms.describe_key, KeyId=key.arn)[1]


def allowed(source, policy=None, kind=None, sid=None, index=None, version=None, **more):
    return decided("Allow", source, policy, kind, sid, index, version, **more)


def refused(source, policy=None, kind=None, sid=None, index=None, version=None, **more):
    return decided("Deny", source, policy, kind, sid, index, version, **more)


def decided(decision, source, policy, kind, sid, index, version, **more):
    members = {"decision": decision, "source": source, "policy": policy, "policyKind": kind, "statementId": sid, "statementIndex": index,
               "policyVersion": version} | more
    return {name: value for name, value in members.items() if value is not None}


def said(effect, action, sid, condition=None):
    """The second of two statements, so that the index says something."""
    return document(statement("Allow", "kms:ListKeys") | {"Sid": "First"}, statement(effect, action, condition=condition) | {"Sid": sid})


def test_policies_of_identities(bridge, iam):
    key, managed = Key(bridge), iam.policy(unique("managed"), said("Allow", "kms:DescribeKey", "Look"))
    may = said("Allow", "kms:DescribeKey", "Look")
    group = unique("group")
    iam.group(group, policies={"of-group": may})
    inline, attached, member = Person(iam, policies={"mine": may}), Person(iam, attached=[managed]), Person(iam, groups=[group])
    assert describe(bridge, inline, key) == allowed("IdentityPolicy", "mine", "user-inline", "Look", 1)
    assert describe(bridge, attached, key) == allowed("IdentityPolicy", managed, "user-managed", "Look", 1)
    assert describe(bridge, member, key) == allowed("IdentityPolicy", f"{group}/of-group", "group-inline", "Look", 1)
    iam.run("group", "delete-policy", group, "of-group")
    iam.run("group", "attach-policy", group, managed)
    assert describe(bridge, member, key) == allowed("IdentityPolicy", managed, "group-managed", "Look", 1)
    for who in (inline, attached, member):
        who.may(said("Deny", "kms:Describe*", "No"), "no")
        assert describe(bridge, who, key) == refused("IdentityPolicy", "no", "user-inline", "No", 1, explicitDeny=True)
    nobody = Person(iam)
    assert describe(bridge, nobody, key) == refused("IdentityPolicy")
    assert grounds(bridge, nobody.kms.list_keys)[1] == refused("IdentityPolicy")


def test_key_policies(bridge, iam, alice):
    key = Key(bridge, allows(alice, "kms:DescribeKey") | {"Sid": "Alice looks"}, delegating=False)
    assert describe(bridge, alice, key) == allowed("KeyPolicy", "default", "key-policy", "Alice looks", 1, 1)
    found, given = grounds(bridge, alice.kms.encrypt, KeyId=key.arn, Plaintext=b"x")
    assert given == refused("KeyPolicy", version=1) and found["errorMessage"] == text(alice, "kms:Encrypt", key, NO_KEY_POLICY)
    # The version counts what was put, so that the log says which policy it was.
    key.put(allows(alice, "kms:ListGrants"), allows(alice, "kms:DescribeKey"))
    assert describe(bridge, alice, key) == allowed("KeyPolicy", "default", "key-policy", None, 2, 2)
    key.put(denies(alice, "kms:DescribeKey") | {"Sid": "not her"})
    assert describe(bridge, alice, key) == refused("KeyPolicy", "default", "key-policy", "not her", 1, 3, explicitDeny=True)
    root = grounds(bridge, bridge.kms.describe_key, KeyId=key.arn)[1]
    assert root == allowed("KeyPolicy", "default", "key-policy", None, 0, 3)
    assert grounds(bridge, bridge.kms.list_keys)[1] == allowed("Root")


def test_boundaries_and_sessions(bridge, iam, alice):
    key, limit = Key(bridge), iam.policy(unique("limit"), allow("kms:ListKeys"))
    who = Person(iam, policies={"all": allow("kms:*")}, boundary=limit)
    assert describe(bridge, who, key) == refused("PermissionsBoundary")
    iam.with_document(said("Deny", "kms:DescribeKey", "Never"), "policy", "update", limit)
    assert describe(bridge, who, key) == refused("PermissionsBoundary", limit, "boundary", "Never", 1, explicitDeny=True)

    role = Role(iam, trust=trusts(alice.arn), policies={"of-role": said("Allow", "kms:DescribeKey", "Look")})
    assert describe(bridge, role.session(alice), key) == allowed("IdentityPolicy", "of-role", "role-inline", "Look", 1)
    silent = role.session(alice, Policy=json.dumps(allow("kms:ListKeys")))
    assert describe(bridge, silent, key) == refused("SessionPolicy")
    no = role.session(alice, Policy=json.dumps(said("Deny", "kms:*", "No")))
    given = describe(bridge, no, key)
    assert {k: v for k, v in given.items() if k != "policy"} == refused("SessionPolicy", None, "session", "No", 1, explicitDeny=True)
    found, _ = grounds(bridge, no.kms.describe_key, KeyId=key.arn)
    identity = found["userIdentity"]
    assert (identity["type"], identity["arn"], identity["accountId"]) == ("AssumedRole", no.arn, bridge.account)
    assert identity["sessionContext"]["sessionIssuer"]["arn"] == role.arn
    user = Session(iam, who.sts.get_session_token())
    assert describe(bridge, user, key) == refused("PermissionsBoundary", limit, "boundary", "Never", 1, explicitDeny=True)


def test_grants(bridge, iam):
    who, key = Person(iam), Key(bridge)
    made = [bridge.kms.create_grant(KeyId=key.id, GranteePrincipal=who.arn, Operations=[op])["GrantId"] for op in ("DescribeKey", "Encrypt")]
    assert describe(bridge, who, key) == allowed("Grant", grantId=made[0])
    assert grounds(bridge, who.kms.encrypt, KeyId=key.arn, Plaintext=b"x")[1] == allowed("Grant", grantId=made[1])
    bridge.kms.revoke_grant(KeyId=key.id, GrantId=made[0])
    assert describe(bridge, who, key) == refused("IdentityPolicy")


def test_other_accounts(bridge, iam):
    """What the caller is not told is in the log: whether there is such a key, and why not."""
    other = iam.make_account(new_account_id())
    bob, key = Person(other, policies={"all": allow("kms:*")}), Key(bridge)
    found, given = grounds(bridge, bob.kms.describe_key, KeyId=key.arn)
    assert given == refused("KeyPolicy", version=1) and found["errorMessage"] == hidden_text(bob, "kms:DescribeKey")
    assert [r["ARN"] for r in found["resources"]] == [key.arn]
    found, given = grounds(bridge, bob.kms.describe_key, KeyId=bridge.key_arn(uuid.uuid4()))
    assert given == refused("NoSuchResource") and found["errorMessage"] == hidden_text(bob, "kms:DescribeKey")
    key.put(denies(other.account, "kms:*") | {"Sid": "out"})
    assert describe(bridge, bob, key) == refused("KeyPolicy", "default", "key-policy", "out", 1, 2, explicitDeny=True)
    key.put(allows(other.account, "kms:*") | {"Sid": "in"})
    given = describe(bridge, bob, key)
    assert (given["decision"], given["source"], given["policyVersion"]) == ("Allow", "IdentityAndKeyPolicy", 3)
    found, given = grounds(bridge, bob.kms.disable_key, KeyId=key.arn)
    assert given["source"] == "CrossAccountNotSupported" and found["errorMessage"] == hidden_text(bob, "kms:DisableKey")
    bob.may(allow("kms:ListKeys"), "all")
    found, given = grounds(bridge, bob.kms.describe_key, KeyId=key.arn)
    assert given["source"] == "IdentityPolicy" and found["errorMessage"] == text(bob, "kms:DescribeKey", key, NO_IDENTITY_POLICY)


def test_organisation_policies(bridge, iam):
    unit, name = iam.unit(unique("root")), unique("scp")
    arn = iam.policy(name, said("Deny", "kms:ListKeys", "Blind"), service_control=True)
    member = iam.make_account(new_account_id(), unit=unit)
    who = Person(member, policies={"all": allow("kms:*")})
    assert grounds(bridge, who.kms.list_keys)[1]["source"] == "IdentityPolicy"
    iam.run("unit", "attach-policy", unit, name)
    assert grounds(bridge, who.kms.list_keys)[1] == refused("ServiceControlPolicy", arn, "service-control", "Blind", 1, explicitDeny=True)
    iam.run("unit", "detach-policy", unit, "FullAWSAccess")
    # Told as an explicit deny (RULE §1.13); it was silence.
    found, given = grounds(bridge, who.kms.generate_random, NumberOfBytes=8)
    assert given == refused("ServiceControlPolicy")
    assert found["errorMessage"].endswith("with an explicit deny in a service control policy")


def test_every_question_of_an_operation_is_in_its_record(bridge, alice):
    source, target = Key(bridge), Key(bridge)
    call = {"CiphertextBlob": source.encrypt(), "DestinationKeyId": target.arn}
    alice.may(document(statement("Allow", "kms:ReEncryptFrom", source.arn) | {"Sid": "From"}))
    found, given = grounds(bridge, alice.kms.re_encrypt, **call)
    assert [(c["action"], c["resource"], c["decision"], c.get("statementId")) for c in given["checks"]] == [
        ("kms:ReEncryptFrom", source.arn, "Allow", "From"), ("kms:ReEncryptTo", target.arn, "Deny", None)]
    assert given["source"] == "IdentityPolicy" and "statementId" not in given
    target.put(allows(alice, "kms:ReEncryptTo") | {"Sid": "To"})
    _, given = grounds(bridge, alice.kms.re_encrypt, **call)
    assert [(c["action"], c["decision"], c["source"]) for c in given["checks"]] == [
        ("kms:ReEncryptFrom", "Allow", "IdentityPolicy"), ("kms:ReEncryptTo", "Allow", "KeyPolicy")]
    assert given["statementId"] == "To"

    name = f"alias/{unique('logged')}"
    alice.may(allow("kms:CreateAlias", bridge.alias_arn(name)))
    _, given = grounds(bridge, alice.kms.create_alias, AliasName=name, TargetKeyId=source.id)
    assert [(c["resource"], c["decision"]) for c in given["checks"]] == [(bridge.alias_arn(name), "Allow"), (source.arn, "Deny")]
    alice.may(allow("kms:CreateKey"))
    _, given = grounds(bridge, alice.kms.create_key, Tags=[{"TagKey": "a", "TagValue": "b"}])
    assert [(c["action"], c["resource"], c["decision"]) for c in given["checks"]] == [
        ("kms:CreateKey", "*", "Allow"), ("kms:TagResource", "*", "Deny")]


def test_a_refusal_keeps_what_was_asked_out_of_the_log(bridge, iam):
    """RULE audit.md §1.3: contexts, names and policies of a request that was refused are not logged."""
    who, key, secret = Person(iam), Key(bridge), unique("canary")
    refusals = [
        (who.kms.encrypt, {"KeyId": key.arn, "Plaintext": secret.encode(), "EncryptionContext": {"c": secret}}),
        (who.kms.update_key_description, {"KeyId": key.arn, "Description": secret}),
        (who.kms.tag_resource, {"KeyId": key.arn, "Tags": [{"TagKey": "t", "TagValue": secret}]}),
        (who.kms.create_key, {"Description": secret}),
        (who.kms.create_grant, {"KeyId": key.arn, "GranteePrincipal": who.arn, "Operations": ["Encrypt"], "Name": secret}),
    ]
    for call, params in refusals:
        grounds(bridge, call, **params)
    assert secret.encode() not in b"\n".join(bridge.journal_lines())
