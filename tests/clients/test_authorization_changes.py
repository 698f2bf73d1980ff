"""What is taken away is gone from the next request on: over connections that are open, and under load.

Each row of CHANGES makes somebody who may, and says how that is taken away and given back.
"""

import json
import threading
import time
from dataclasses import dataclass
from typing import Callable

import pytest
from botocore.exceptions import ClientError

from authz_tool import (
    BOUNDARY_DENIES, IDENTITY_POLICY_DENIES, KEY_POLICY_DENIES, NO_BOUNDARY, NO_IDENTITY_POLICY, NO_KEY_POLICY, SCP_DENIES, Key, Person, Role,
    Session, allows, arn, denied, denies, new_account_id, text, unique)
from iam_tool import Iam, allow, deny, trusts

STRANGER = ("UnrecognizedClientException", "The security token included in the request is invalid.")


@pytest.fixture(scope="module")
def iam(bridge):
    return Iam(bridge)


@dataclass
class Change:
    """Somebody who may describe a key; `take` ends that, `give` (where there is one) brings it back."""

    client: object
    key: str
    take: Callable
    refusal: tuple
    give: Callable | None = None

    def call(self, client=None):
        return (client or self.client).describe_key(KeyId=self.key)


def told(who, key, why):
    return "AccessDeniedException", text(who, "kms:DescribeKey", key, why)


MAY = allow("kms:DescribeKey")


def inline_policy(iam):
    who, key = Person(iam), Key(iam.bridge)
    who.may(MAY)
    return Change(who.kms, key.arn, lambda: iam.run("user", "delete-policy", who.name, "test"), told(who, key, NO_IDENTITY_POLICY),
                  lambda: who.may(MAY))


def inline_policy_replaced(iam):
    who, key = Person(iam), Key(iam.bridge)
    who.may(MAY)
    return Change(who.kms, key.arn, lambda: who.may(deny("kms:*")), told(who, key, IDENTITY_POLICY_DENIES), lambda: who.may(MAY))


def managed_policy(iam):
    policy, key = iam.policy(unique("policy"), MAY), Key(iam.bridge)
    who = Person(iam, attached=[policy])
    return Change(who.kms, key.arn, lambda: iam.run("user", "detach-policy", who.name, policy), told(who, key, NO_IDENTITY_POLICY),
                  lambda: iam.run("user", "attach-policy", who.name, policy))


def managed_policy_updated(iam):
    policy, key = iam.policy(unique("policy"), MAY), Key(iam.bridge)
    who = Person(iam, attached=[policy])
    return Change(who.kms, key.arn, lambda: iam.with_document(allow("kms:ListKeys"), "policy", "update", policy),
                  told(who, key, NO_IDENTITY_POLICY), lambda: iam.with_document(MAY, "policy", "update", policy))


def group_membership(iam):
    group, key = unique("group"), Key(iam.bridge)
    iam.group(group, policies={"may": MAY})
    who = Person(iam, groups=[group])
    return Change(who.kms, key.arn, lambda: iam.run("user", "remove-from-group", who.name, group), told(who, key, NO_IDENTITY_POLICY),
                  lambda: iam.run("user", "add-to-group", who.name, group))


def policy_of_a_group(iam):
    group, key = unique("group"), Key(iam.bridge)
    iam.group(group, policies={"may": MAY})
    who = Person(iam, groups=[group])
    return Change(who.kms, key.arn, lambda: iam.run("group", "delete-policy", group, "may"), told(who, key, NO_IDENTITY_POLICY),
                  lambda: iam.with_document(MAY, "group", "put-policy", group, "may"))


def boundary(iam):
    limit, key = iam.policy(unique("limit"), allow("kms:ListKeys")), Key(iam.bridge)
    who = Person(iam, policies={"may": MAY})
    return Change(who.kms, key.arn, lambda: iam.run("user", "put-boundary", who.name, limit), told(who, key, NO_BOUNDARY),
                  lambda: iam.run("user", "delete-boundary", who.name))


def boundary_updated(iam):
    limit, key = iam.policy(unique("limit"), MAY), Key(iam.bridge)
    who = Person(iam, policies={"may": MAY}, boundary=limit)
    return Change(who.kms, key.arn, lambda: iam.with_document(deny("kms:*"), "policy", "update", limit), told(who, key, BOUNDARY_DENIES),
                  lambda: iam.with_document(MAY, "policy", "update", limit))


def organisation_policy(iam):
    unit = iam.unit(unique("root"))
    who = Person(iam.make_account(new_account_id(), unit=unit), policies={"may": allow("kms:*")})
    key, policy = who.kms.create_key()["KeyMetadata"]["Arn"], unique("scp")
    iam.policy(policy, deny("kms:DescribeKey"), service_control=True)
    return Change(who.kms, key, lambda: iam.run("unit", "attach-policy", unit, policy), told(who, key, SCP_DENIES),
                  lambda: iam.run("unit", "detach-policy", unit, policy))


def account_moved(iam):
    unit, policy = iam.unit(unique("root")), unique("scp")
    iam.policy(policy, deny("kms:DescribeKey"), service_control=True)
    iam.run("unit", "attach-policy", unit, policy)
    member = iam.make_account(new_account_id())
    who = Person(member, policies={"may": allow("kms:*")})
    key = who.kms.create_key()["KeyMetadata"]["Arn"]
    return Change(who.kms, key, lambda: iam.run("account", "move", member.account, "--unit", unit), told(who, key, SCP_DENIES),
                  lambda: iam.run("account", "move", member.account, "--out"))


def key_policy(iam):
    who = Person(iam)
    mine = allows(who, "kms:DescribeKey")
    key = Key(iam.bridge, mine, delegating=False)
    return Change(who.kms, key.arn, key.put, told(who, key, NO_KEY_POLICY), lambda: key.put(mine))


def key_policy_denies(iam):
    who = Person(iam, policies={"may": MAY})
    key = Key(iam.bridge)
    return Change(who.kms, key.arn, lambda: key.put(denies(who, "kms:DescribeKey")), told(who, key, KEY_POLICY_DENIES), key.put)


def tag_of_the_caller(iam):
    who, key = Person(iam, tags={"team": "a"}), Key(iam.bridge)
    who.may(allow("kms:DescribeKey", "*", {"StringEquals": {"aws:PrincipalTag/team": "a"}}))
    return Change(who.kms, key.arn, lambda: iam.run("user", "untag", who.name, "team"), told(who, key, NO_IDENTITY_POLICY),
                  lambda: iam.run("user", "tag", who.name, "team=a"))


def access_key_disabled(iam):
    who = Person(iam, policies={"may": MAY})
    return Change(who.kms, Key(iam.bridge).arn, lambda: iam.run("access-key", "disable", who.key[0]), STRANGER,
                  lambda: iam.run("access-key", "enable", who.key[0]))


def access_key_deleted(iam):
    who = Person(iam, policies={"may": MAY})
    return Change(who.kms, Key(iam.bridge).arn, lambda: iam.run("access-key", "delete", who.key[0]), STRANGER)


def user_deleted(iam):
    who = Person(iam)
    return Change(who.kms, Key(iam.bridge, allows(who, "kms:*")).arn, lambda: iam.run("user", "delete", who.name), STRANGER)


def root_disabled(iam):
    member = iam.make_account(new_account_id())
    Person(member, policies={"all": allow("*")})
    member.run("root", "enable")
    root = member.client(member.access_key(root=True))
    key = root.create_key()["KeyMetadata"]["Arn"]
    return Change(root, key, lambda: member.run("root", "disable"), STRANGER, lambda: member.run("root", "enable"))


CHANGES = [inline_policy, inline_policy_replaced, managed_policy, managed_policy_updated, group_membership, policy_of_a_group, boundary,
           boundary_updated, organisation_policy, account_moved, key_policy, key_policy_denies, tag_of_the_caller, access_key_disabled,
           access_key_deleted, user_deleted, root_disabled]


# -- grants -------------------------------------------------------------------------------------------------------------


def grant_revoked(iam):
    who, key = Person(iam), Key(iam.bridge)
    grant = lambda: iam.bridge.kms.create_grant(KeyId=key.id, GranteePrincipal=who.arn, Operations=["DescribeKey"])["GrantId"]  # noqa: E731
    grants = [grant()]
    return Change(who.kms, key.arn, lambda: iam.bridge.kms.revoke_grant(KeyId=key.id, GrantId=grants.pop()),
                  told(who, key, NO_IDENTITY_POLICY), lambda: grants.append(grant()))


def grant_retired(iam):
    who, key = Person(iam), Key(iam.bridge)
    made = iam.bridge.kms.create_grant(KeyId=key.id, GranteePrincipal=who.arn, Operations=["DescribeKey", "RetireGrant"])
    return Change(who.kms, key.arn, lambda: who.kms.retire_grant(GrantToken=made["GrantToken"]), told(who, key, NO_IDENTITY_POLICY))


# -- sessions -----------------------------------------------------------------------------------------------------------


def of_a_role(iam, **options):
    alice = Person(iam, "alice")
    role = Role(iam, trust=trusts(alice.arn), policies={"may": MAY}, **options)
    return alice, role, role.session(alice), Key(iam.bridge)


def policy_of_a_role(iam):
    _, role, session, key = of_a_role(iam)
    return Change(session.kms, key.arn, lambda: iam.run("role", "delete-policy", role.name, "may"), told(session, key, NO_IDENTITY_POLICY),
                  lambda: iam.with_document(MAY, "role", "put-policy", role.name, "may"))


def role_deleted(iam):
    _, role, session, key = of_a_role(iam)
    return Change(session.kms, key.arn, lambda: iam.run("role", "delete", role.name), STRANGER)


def sessions_of_a_role_revoked(iam):
    _, role, session, key = of_a_role(iam)
    return Change(session.kms, key.arn, lambda: iam.run("role", "revoke-sessions", role.name), STRANGER)


def session_revoked(iam):
    _, _, session, key = of_a_role(iam)
    return Change(session.kms, key.arn, lambda: iam.run("session", "revoke", session.key[0]), STRANGER)


def user_behind_a_session_deleted(iam):
    who, key = Person(iam, policies={"may": MAY}), Key(iam.bridge)
    session = Session(iam, who.sts.get_session_token())
    return Change(session.kms, key.arn, lambda: iam.run("user", "delete", who.name), STRANGER)


CHANGES += [grant_revoked, grant_retired, policy_of_a_role, role_deleted, sessions_of_a_role_revoked, session_revoked,
            user_behind_a_session_deleted]


def refusal(call):
    try:
        call()
        return None
    except ClientError as caught:
        body = caught.response["Error"]
        return body["Code"], body["Message"]


every_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


@every_change
def test_the_very_next_request_sees_it(iam, change):
    change = change(iam)
    for _ in range(3):
        change.call()
    change.take()
    assert refusal(change.call) == change.refusal
    assert refusal(change.call) == change.refusal
    if change.give:
        change.give()
        assert refusal(change.call) is None
        change.take()
        assert refusal(change.call) == change.refusal


class Hammer:
    """Threads that call all the time, each over a connection of its own that stays open."""

    THREADS = 3

    def __init__(self, call):
        self.call, self.stop, self.calls = call, threading.Event(), []
        self.progress = threading.Condition()
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(self.THREADS)]

    def work(self):
        while not self.stop.is_set():
            started = time.monotonic()
            refused_as = refusal(self.call)
            with self.progress:
                self.calls.append((started, refused_as))
                self.progress.notify_all()

    def wait_for(self, what):
        with self.progress:
            assert self.progress.wait_for(what, timeout=60), f"only {len(self.calls)} calls"

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.wait_for(lambda: len(self.calls) >= 10)
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)

    def after(self, moment):
        return [refused_as for started, refused_as in self.calls if started > moment]


@every_change
def test_no_request_that_starts_later_gets_through(iam, change):
    change = change(iam)
    with Hammer(change.call) as hammer:
        change.take()
        answered = time.monotonic()
        hammer.wait_for(lambda: len(hammer.after(answered)) >= 20)
    assert hammer.calls[0][1] is None, "it was allowed before"
    assert set(hammer.after(answered)) == {change.refusal}


def test_what_is_given_works_at_once(iam, bridge):
    """The answer to the change is out: everybody who asks from then on gets through, too."""
    who, key = Person(iam), Key(bridge)
    call = lambda: who.kms.describe_key(KeyId=key.arn)  # noqa: E731
    with Hammer(call) as hammer:
        who.may(MAY)
        answered = time.monotonic()
        hammer.wait_for(lambda: len(hammer.after(answered)) >= 20)
    assert hammer.calls[0][1] == told(who, key, NO_IDENTITY_POLICY)
    assert set(hammer.after(answered)) == {None}


# -- names that come back -----------------------------------------------------------------------------------------------


def again(iam, who):
    """A new user of the same name, who may use nothing yet."""
    iam.run("user", "delete", who.name)
    iam.make_user(who.name)
    return iam.client(iam.access_key(user=who.name))


def test_who_takes_the_name_does_not_inherit_from_a_key_policy(iam, bridge):
    who = Person(iam)
    key = Key(bridge, allows(who, "kms:DescribeKey"), delegating=False)
    who.kms.describe_key(KeyId=key.arn)
    new = again(iam, who)
    assert refusal(lambda: who.kms.describe_key(KeyId=key.arn)) == STRANGER
    with denied(who, "kms:DescribeKey", key, NO_KEY_POLICY):
        new.describe_key(KeyId=key.arn)
    # Where the policy is shown, the one who is gone is shown by id (AWS: "if the principal is gone").
    shown = json.loads(bridge.kms.get_key_policy(KeyId=key.id)["Policy"])["Statement"][1]["Principal"]["AWS"]
    assert shown.startswith("AIDA") and shown != arn(who)
    # Written again, the policy means the new one.
    key.put(allows(who, "kms:DescribeKey"))
    new.describe_key(KeyId=key.arn)


def test_a_deny_does_not_pass_on_either(iam, bridge):
    """The deny was for the one who is gone: AWS binds principals in both directions."""
    who = Person(iam)
    key = Key(bridge, denies(who, "kms:DescribeKey"))
    who.may(MAY)
    with denied(who, "kms:DescribeKey", key, KEY_POLICY_DENIES):
        who.kms.describe_key(KeyId=key.arn)
    new = again(iam, who)
    who.may(MAY)
    assert new.describe_key(KeyId=key.arn)


def test_who_takes_the_name_does_not_inherit_a_grant(iam, bridge):
    who, key = Person(iam), Key(bridge)
    bridge.kms.create_grant(KeyId=key.id, GranteePrincipal=who.arn, Operations=["DescribeKey"])
    who.kms.describe_key(KeyId=key.arn)
    new = again(iam, who)
    with denied(who, "kms:DescribeKey", key, NO_IDENTITY_POLICY):
        new.describe_key(KeyId=key.arn)


def test_a_role_of_the_same_name_is_another(iam, bridge):
    alice = Person(iam, "alice")
    role = Role(iam, trust=trusts(alice.arn))
    key = Key(bridge, allows(role, "kms:DescribeKey"), delegating=False)
    bridge.kms.create_grant(KeyId=key.id, GranteePrincipal=role.arn, Operations=["Encrypt"])
    old = role.session(alice)
    old.kms.describe_key(KeyId=key.arn)
    old.kms.encrypt(KeyId=key.arn, Plaintext=b"x")
    iam.run("role", "delete", role.name)
    iam.role(role.name, trust=trusts(alice.arn))
    assert refusal(lambda: old.kms.describe_key(KeyId=key.arn)) == STRANGER
    new = role.session(alice)
    assert new.arn == old.arn
    with denied(new, "kms:DescribeKey", key, NO_KEY_POLICY):
        new.kms.describe_key(KeyId=key.arn)
    with denied(new, "kms:Encrypt", key, NO_KEY_POLICY):
        new.kms.encrypt(KeyId=key.arn, Plaintext=b"x")


def test_a_key_that_is_disabled_under_load(iam, bridge):
    """Not a permission, and as prompt."""
    who, key = Person(iam, policies={"all": allow("kms:*")}), Key(bridge)
    with Hammer(lambda: who.kms.encrypt(KeyId=key.arn, Plaintext=b"x")) as hammer:
        bridge.kms.disable_key(KeyId=key.id)
        answered = time.monotonic()
        hammer.wait_for(lambda: len(hammer.after(answered)) >= 20)
    assert hammer.calls[0][1] is None
    assert {code for code, _ in hammer.after(answered)} == {"DisabledException"}
