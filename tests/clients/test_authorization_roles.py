"""What sessions may: of roles, of users, of federated users (authorization.md §1.3, §1.4), with boto3 and the AWS CLI.

How they are had, and when they end, is in test_sts.py.
"""

import base64
import json

import pytest

from authz_tool import (
    BOUNDARY_DENIES, KEY_POLICY_DENIES, NO_BOUNDARY, NO_IDENTITY_POLICY, NO_KEY_POLICY, NO_SESSION_POLICY, PROGRAMS, SESSION_POLICY_DENIES,
    CliAs, Key, Person, Role, Session, allows, denied, denies, text, unique)
from checks import refused
from cli import version_1
from iam_tool import Iam, allow, deny, document, statement, trusts

TRANSITIVE = ["sts:AssumeRole", "sts:TagSession"]


@pytest.fixture(scope="module")
def iam(bridge):
    return Iam(bridge)


@pytest.fixture(scope="module")
def alice(iam):
    """May assume every role that trusts her by name, and nothing else."""
    return Person(iam, "alice")


@pytest.fixture(scope="module")
def app(iam, alice):
    """A role that may do everything with keys whose policy delegates."""
    return Role(iam, "app", trust=trusts(alice.arn, action=TRANSITIVE), policies={"all": allow("kms:*")}, path="/team/blue/")


def encrypt(who, key):
    return who.kms.encrypt(KeyId=key.arn, Plaintext=b"x")["CiphertextBlob"]


def policy(document_):
    return {"Policy": json.dumps(document_)}


# -- session policies ---------------------------------------------------------------------------------------------------


def test_a_session_policy_takes_away(bridge, alice, app):
    key = Key(bridge)
    session = app.session(alice, **policy(allow(["kms:Encrypt", "kms:DescribeKey"], key.arn)))
    assert session.arn == f"arn:aws:sts::{bridge.account}:assumed-role/{app.name}/s1"
    blob = encrypt(session, key)
    with denied(session, "kms:Decrypt", key, NO_SESSION_POLICY):
        session.kms.decrypt(KeyId=key.id, CiphertextBlob=blob)
    with denied(session, "kms:ListKeys", "*", NO_SESSION_POLICY):
        session.kms.list_keys()
    with denied(session, "kms:Encrypt", other := Key(bridge), NO_SESSION_POLICY):
        encrypt(session, other)
    # The same role, another session: as much as the role may.
    assert app.session(alice).kms.decrypt(KeyId=key.id, CiphertextBlob=blob)["Plaintext"] == b"x"
    session = app.session(alice, **policy(document(statement("Allow", "kms:*"), statement("Deny", "kms:Decrypt"))))
    encrypt(session, key)
    with denied(session, "kms:Decrypt", key, SESSION_POLICY_DENIES):
        session.kms.decrypt(KeyId=key.id, CiphertextBlob=blob)


def test_a_session_policy_gives_nothing(iam, bridge, alice):
    role, key = Role(iam, trust=trusts(alice.arn)), Key(bridge)
    session = role.session(alice, **policy(allow("kms:*")))
    with denied(session, "kms:Encrypt", key, NO_IDENTITY_POLICY):
        encrypt(session, key)


def test_session_policies_are_one_union(iam, bridge, alice, app):
    arns = [iam.policy(unique("part"), allow(action)) for action in ("kms:Encrypt", "kms:DescribeKey")]
    session = app.session(alice, PolicyArns=[{"arn": a} for a in arns], **policy(allow("kms:GetKeyPolicy")))
    key = Key(bridge)
    encrypt(session, key)
    assert session.kms.describe_key(KeyId=key.id) and session.kms.get_key_policy(KeyId=key.id)
    with denied(session, "kms:DisableKey", key, NO_SESSION_POLICY):
        session.kms.disable_key(KeyId=key.id)
    # A managed one is read when it is used, not copied.
    iam.with_document(deny("kms:Encrypt"), "policy", "update", arns[0])
    with denied(session, "kms:Encrypt", key, SESSION_POLICY_DENIES):
        encrypt(session, key)


# -- key policies -------------------------------------------------------------------------------------------------------


def test_a_key_policy_that_names_the_role(iam, bridge, alice, app):
    """RULE §1.3: kind `role`: all sessions of it, as far as their session policies and the role's boundary allow."""
    key = Key(bridge, allows(app, ["kms:Encrypt", "kms:DescribeKey"]), delegating=False)
    assert "/team/blue/" in app.arn
    session = app.session(alice)
    encrypt(session, key)
    assert encrypt(app.session(alice, "another"), key)
    with denied(session, "kms:GetKeyPolicy", key, NO_KEY_POLICY):
        session.kms.get_key_policy(KeyId=key.id)
    narrow = app.session(alice, **policy(allow("kms:DescribeKey")))
    narrow.kms.describe_key(KeyId=key.id)
    with denied(narrow, "kms:Encrypt", key, NO_SESSION_POLICY):
        encrypt(narrow, key)
    # A role with the name of ours under another path, or alice, who may assume it, is not the role.
    with denied(alice, "kms:Encrypt", key, NO_KEY_POLICY):
        encrypt(alice, key)
    bounded = Role(iam, trust=trusts(alice.arn), boundary=iam.policy(unique("limit"), allow("kms:DescribeKey")))
    key.put(allows(bounded, ["kms:Encrypt", "kms:DescribeKey"]))
    session = bounded.session(alice)
    session.kms.describe_key(KeyId=key.id)
    with denied(session, "kms:Encrypt", key, NO_BOUNDARY):
        encrypt(session, key)


def test_a_key_policy_that_names_one_session(iam, bridge, alice, app):
    """RULE §1.3: kind `exact`: that session alone, whatever its session policy or boundary is silent about; a Deny counts."""
    wanted = f"arn:aws:sts::{bridge.account}:assumed-role/{app.name}/wanted"
    key = Key(bridge, allows(wanted, "kms:Encrypt"), delegating=False)
    session = app.session(alice, "wanted", **policy(allow("kms:DescribeKey")))
    assert session.arn == wanted
    encrypt(session, key)
    for name in ("wante", "wanted2", "Wanted"):
        with denied(other := app.session(alice, name), "kms:Encrypt", key, NO_KEY_POLICY):
            encrypt(other, key)
    with denied(session := app.session(alice, "wanted", **policy(deny("kms:Encrypt"))), "kms:Encrypt", key, SESSION_POLICY_DENIES):
        encrypt(session, key)

    limit = iam.policy(unique("limit"), allow("kms:DescribeKey"))
    role = Role(iam, trust=trusts(alice.arn), boundary=limit)
    key.put(allows(f"arn:aws:sts::{bridge.account}:assumed-role/{role.name}/one", "kms:Encrypt"))
    session = role.session(alice, "one")
    encrypt(session, key)
    iam.with_document(deny("kms:Encrypt"), "policy", "update", limit)
    with denied(session, "kms:Encrypt", key, BOUNDARY_DENIES):
        encrypt(session, key)


def test_a_deny_names_the_role_or_the_session(bridge, alice, app):
    key = Key(bridge, denies(f"arn:aws:sts::{bridge.account}:assumed-role/{app.name}/bad", "kms:Encrypt"))
    good, bad = app.session(alice, "good"), app.session(alice, "bad")
    encrypt(good, key)
    with denied(bad, "kms:Encrypt", key, KEY_POLICY_DENIES):
        encrypt(bad, key)
    key.put(denies(app, "kms:Encrypt"))
    for session in (good, bad):
        with denied(session, "kms:Encrypt", key, KEY_POLICY_DENIES):
            encrypt(session, key)


def test_everybody_with_a_condition_on_the_role(bridge, alice, app):
    """RULE §1.3: `"*"` and aws:PrincipalArn: the role's ARN, not the session's; session policies do not limit it."""
    key = Key(bridge, allows("*", "kms:Encrypt", condition={"ArnEquals": {"aws:PrincipalArn": app.arn}}), delegating=False)
    encrypt(app.session(alice, **policy(allow("kms:DescribeKey"))), key)
    with denied(alice, "kms:Encrypt", key, NO_KEY_POLICY):
        encrypt(alice, key)


# -- tags, chains -------------------------------------------------------------------------------------------------------


def tags(**pairs):
    return {"Tags": [{"Key": k, "Value": v} for k, v in pairs.items()]}


TAGGED = {"StringEquals": {"aws:PrincipalTag/team": "blue"}}


def test_session_tags_over_the_roles_tags(iam, bridge, alice):
    role = Role(iam, trust=trusts(alice.arn, action=TRANSITIVE), policies={"blue": allow("kms:Encrypt", "*", TAGGED)}, tags={"team": "red"})
    key = Key(bridge)
    with denied(bare := role.session(alice), "kms:Encrypt", key, NO_IDENTITY_POLICY):
        encrypt(bare, key)
    blue = role.session(alice, **tags(team="blue"))
    encrypt(blue, key)
    for other in ({"team": "Blue"}, {"squad": "blue"}):
        with denied(session := role.session(alice, **tags(**other)), "kms:Encrypt", key, NO_IDENTITY_POLICY):
            encrypt(session, key)
    iam.run("role", "tag", role.name, "team=blue")
    encrypt(bare, key)
    with denied(red := role.session(alice, **tags(team="red")), "kms:Encrypt", key, NO_IDENTITY_POLICY):
        encrypt(red, key)


def test_a_chain_of_roles(iam, bridge, alice):
    first = Role(iam, trust=trusts(alice.arn, action=TRANSITIVE), policies={"all": allow("kms:*")})
    second = Role(iam, trust=trusts(first.arn, action=TRANSITIVE), policies={"blue": allow("kms:Encrypt", "*", TAGGED)})
    key = Key(bridge)
    passed_on = first.session(alice, TransitiveTagKeys=["team"], **tags(team="blue"))
    kept = first.session(alice, **tags(team="blue"))
    chained = second.session(passed_on, "deep")
    assert chained.arn == f"arn:aws:sts::{bridge.account}:assumed-role/{second.name}/deep"
    encrypt(chained, key)
    with denied(lost := second.session(kept), "kms:Encrypt", key, NO_IDENTITY_POLICY):
        encrypt(lost, key)
    # What the first role may is not handed down.
    with denied(chained, "kms:DescribeKey", key, NO_IDENTITY_POLICY):
        chained.kms.describe_key(KeyId=key.id)
    assert passed_on.kms.describe_key(KeyId=key.id)
    with refused("AccessDenied", f"User: {alice.arn} is not authorized to perform: sts:AssumeRole on resource: {second.arn}", status=403):
        second.session(alice)


def test_what_conditions_see_of_a_session(bridge, alice, app):
    key = Key(bridge)
    role_id = app.iam.show("role", app.name)["RoleId"]
    met = {"StringEquals": {"aws:PrincipalType": "AssumedRole", "aws:userid": f"{role_id}:s1"}, "ArnEquals": {"aws:PrincipalArn": app.arn},
           "Null": {"aws:username": "true", "aws:TokenIssueTime": "false"}, "DateLessThan": {"aws:TokenIssueTime": "2100-01-01T00:00:00Z"}}
    session = app.session(alice, **policy(allow("kms:Encrypt", "*", met)))
    encrypt(session, key)
    for wrong in ({"ArnEquals": {"aws:PrincipalArn": session.arn}}, {"DateGreaterThan": {"aws:TokenIssueTime": "2100-01-01T00:00:00Z"}},
                  {"StringLike": {"aws:username": "*"}}, {"Bool": {"aws:MultiFactorAuthPresent": "true"}}):
        with denied(session := app.session(alice, **policy(allow("kms:Encrypt", "*", wrong))), "kms:Encrypt", key, NO_SESSION_POLICY):
            encrypt(session, key)


# -- users' sessions ----------------------------------------------------------------------------------------------------


def test_a_session_of_a_user_is_the_user(iam, bridge):
    bob = Person(iam, "bob")
    key = Key(bridge, allows(bob, "kms:Encrypt"), delegating=False)
    session = Session(iam, bob.sts.get_session_token())
    encrypt(session, key)
    with denied(bob, "kms:DescribeKey", key, NO_KEY_POLICY):
        session.kms.describe_key(KeyId=key.id)


def test_a_federated_user(iam, bridge):
    """RULE §1.3, §1.4: kind `fuser`; without a session policy only what names the federated user itself."""
    bob = Person(iam, "bob", policies={"all": allow(["kms:*", "sts:GetFederationToken"])})
    key = Key(bridge, allows(bob, "kms:Encrypt"))
    fed = lambda **more: Session(iam, bob.sts.get_federation_token(Name="fed", **more))  # noqa: E731
    bare, wide, narrow = fed(), fed(**policy(allow("kms:*"))), fed(**policy(allow("kms:DescribeKey")))
    assert bare.arn == f"arn:aws:sts::{bridge.account}:federated-user/fed"
    encrypt(wide, key)
    assert wide.kms.get_key_policy(KeyId=key.id) and narrow.kms.describe_key(KeyId=key.id)
    with denied(narrow, "kms:Encrypt", key, NO_SESSION_POLICY):
        encrypt(narrow, key)
    with denied(bare, "kms:DescribeKey", key, NO_SESSION_POLICY):
        bare.kms.describe_key(KeyId=key.id)
    key.put(allows(bare.arn, ["kms:Encrypt", "kms:DescribeKey"]))
    for session in (bare, narrow, wide):
        encrypt(session, key)


# -- the stock CLIs -----------------------------------------------------------------------------------------------------


def config(bridge, who, role, external_id):
    return (f"[profile person]\naws_access_key_id = {who.key[0]}\naws_secret_access_key = {who.key[1]}\nregion = {bridge.region}\n"
            f"[profile app]\nrole_arn = {role.arn}\nsource_profile = person\nexternal_id = {external_id}\nrole_session_name = by-profile\n"
            f"region = {bridge.region}\n")


def guarded(iam, alice):
    """A role for those who know its external id, in a session of this name."""
    trust = trusts(alice.arn, condition={"StringEquals": {"sts:ExternalId": "x-4711"}})
    return Role(iam, trust=trust, policies={"use": allow("kms:Encrypt")})


def test_a_profile_that_assumes_a_role(either, tmp_path):
    iam = Iam(either)
    alice = Person(iam, "alice")
    role, key = guarded(iam, alice), Key(either)
    aws = CliAs(version_1(), either, tmp_path, config=config(either, alice, role, "x-4711"))
    as_role = lambda command, *args: aws.kms(command, "--profile", "app", *args)  # noqa: E731
    blob = as_role("encrypt", "--key-id", key.arn, "--plaintext", aws.file("p", b"by profile"))["CiphertextBlob"]
    assert either.kms.decrypt(CiphertextBlob=base64.b64decode(blob))["Plaintext"] == b"by profile"
    session = f"arn:aws:sts::{either.account}:assumed-role/{role.name}/by-profile"
    assert aws.run("sts", "get-caller-identity", "--profile", "app")["Arn"] == session
    aws.denied(text(session, "kms:DescribeKey", key, NO_IDENTITY_POLICY), "kms", "describe-key", "--profile", "app", "--key-id", key.arn)
    # The person behind it may not, and a wrong external id gets no session.
    aws.denied(text(alice, "kms:Encrypt", key, NO_IDENTITY_POLICY), "kms", "encrypt", "--profile", "person", "--key-id", key.arn,
               "--plaintext", aws.file("p", b"x"))
    wrong = CliAs(version_1(), either, tmp_path, config=config(either, alice, role, "x-4712"))
    with pytest.raises(AssertionError, match=r"\(AccessDenied\) when calling the AssumeRole operation"):
        wrong.kms("encrypt", "--profile", "app", "--key-id", key.arn, "--plaintext", wrong.file("p", b"x"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_session_policy_with_the_cli(iam, bridge, alice, tmp_path, program):
    role, key = guarded(iam, alice), Key(bridge, allows(alice, "kms:DescribeKey"))
    iam.with_document(allow("kms:*"), "role", "put-policy", role.name, "use")
    aws = alice.cli(PROGRAMS[program](), tmp_path)
    assume = ("sts", "assume-role", "--role-arn", role.arn, "--role-session-name", "by-cli")
    aws.denied(f"User: {alice.arn} is not authorized to perform: sts:AssumeRole on resource: {role.arn}", *assume)
    aws.denied(f"User: {alice.arn} is not authorized to perform: sts:AssumeRole on resource: {role.arn}", *assume, "--external-id", "no")
    got = aws.run(*assume, "--external-id", "x-4711", "--policy", json.dumps(allow("kms:Encrypt", key.arn)))
    session = got["AssumedRoleUser"]["Arn"]
    as_role = CliAs(aws.program, bridge, tmp_path, (got["Credentials"]["AccessKeyId"], got["Credentials"]["SecretAccessKey"]),
                    got["Credentials"]["SessionToken"])
    assert as_role.run("sts", "get-caller-identity")["Arn"] == session
    assert as_role.kms("encrypt", "--key-id", key.arn, "--plaintext", as_role.file("p", b"x"))["KeyId"] == key.arn
    as_role.denied(text(session, "kms:DescribeKey", key, NO_SESSION_POLICY), "kms", "describe-key", "--key-id", key.arn)
    assert aws.kms("describe-key", "--key-id", key.arn)["KeyMetadata"]["Arn"] == key.arn
