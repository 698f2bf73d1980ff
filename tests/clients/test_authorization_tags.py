"""Tags of callers, keys and requests in conditions, and variables of policies (authorization.md §1.6, §2.5)."""

import pytest

from authz_tool import NO_IDENTITY_POLICY, Key, Person, denied, unique
from iam_tool import Iam, allow, document, statement


@pytest.fixture(scope="module")
def iam(bridge):
    return Iam(bridge)


@pytest.fixture(scope="module")
def alice(iam):
    return Person(iam, "alice", tags={"team": "blue"})


def tag(key, value):
    return {"TagKey": key, "TagValue": value}


def test_tags_of_a_new_key(alice):
    wanted = {"StringEquals": {"aws:RequestTag/team": "${aws:PrincipalTag/team}"},
              "ForAllValues:StringEquals": {"aws:TagKeys": ["team", "note"]}}
    alice.may(document(statement("Allow", ["kms:CreateKey", "kms:TagResource"], condition=wanted)))
    assert alice.kms.create_key(Tags=[tag("team", "blue")])
    assert alice.kms.create_key(Tags=[tag("note", "x"), tag("team", "blue")])
    for tags in ([], [tag("team", "red")], [tag("team", "blue"), tag("other", "x")], [tag("note", "x")]):
        with denied(alice, "kms:CreateKey", "*", NO_IDENTITY_POLICY):
            alice.kms.create_key(Tags=tags)
    # RULE §1.6: with tags CreateKey is two questions.
    alice.may(allow("kms:CreateKey"))
    assert alice.kms.create_key()
    with denied(alice, "kms:TagResource", "*", NO_IDENTITY_POLICY):
        alice.kms.create_key(Tags=[tag("team", "blue")])


def test_tags_that_are_set_and_taken(bridge, alice):
    key = Key(bridge, Tags=[tag("owner", "blue")])
    alice.may(document(
        statement("Allow", "kms:TagResource", key.arn, {"StringLike": {"aws:RequestTag/cost": "c-*"},
                                                        "ForAllValues:StringEquals": {"aws:TagKeys": ["cost", "note"]}}),
        statement("Allow", "kms:UntagResource", key.arn, {"ForAllValues:StringEquals": {"aws:TagKeys": "cost"},
                                                          "StringEquals": {"aws:ResourceTag/owner": "blue"}})))
    alice.kms.tag_resource(KeyId=key.id, Tags=[tag("cost", "c-1"), tag("note", "x")])
    for tags in ([tag("cost", "d-1")], [tag("cost", "c-1"), tag("owner", "alice")], [tag("note", "x")]):
        with denied(alice, "kms:TagResource", key, NO_IDENTITY_POLICY):
            alice.kms.tag_resource(KeyId=key.id, Tags=tags)
    for keys in (["owner"], ["cost", "owner"]):
        with denied(alice, "kms:UntagResource", key, NO_IDENTITY_POLICY):
            alice.kms.untag_resource(KeyId=key.id, TagKeys=keys)
    alice.kms.untag_resource(KeyId=key.id, TagKeys=["cost"])
    assert bridge.kms.list_resource_tags(KeyId=key.id)["Tags"] == [tag("owner", "blue"), tag("note", "x")]


def test_the_callers_tag_and_the_keys(iam, bridge, alice):
    """Attribute-based: one policy for all, changed by tags alone, from the next request on."""
    policy = iam.policy(unique("abac"), allow("kms:Encrypt", "*", {"StringEquals": {"aws:ResourceTag/team": "${aws:PrincipalTag/team}"}}))
    bob = Person(iam, "bob", attached=[policy], tags={"team": "red"})
    red, blue, bare = Key(bridge, Tags=[tag("team", "red")]), Key(bridge, Tags=[tag("team", "blue")]), Key(bridge)
    bob.kms.encrypt(KeyId=red.id, Plaintext=b"x")
    for key in (blue, bare):
        with denied(bob, "kms:Encrypt", key, NO_IDENTITY_POLICY):
            bob.kms.encrypt(KeyId=key.id, Plaintext=b"x")
    bridge.kms.tag_resource(KeyId=bare.id, Tags=[tag("team", "red")])
    bob.kms.encrypt(KeyId=bare.id, Plaintext=b"x")
    iam.run("user", "tag", bob.name, "team=blue")
    bob.kms.encrypt(KeyId=blue.id, Plaintext=b"x")
    for key in (red, bare):
        with denied(bob, "kms:Encrypt", key, NO_IDENTITY_POLICY):
            bob.kms.encrypt(KeyId=key.id, Plaintext=b"x")
    iam.run("user", "untag", bob.name, "team")
    for key in (red, blue, bare):
        with denied(bob, "kms:Encrypt", key, NO_IDENTITY_POLICY):
            bob.kms.encrypt(KeyId=key.id, Plaintext=b"x")


def test_variables(iam, bridge):
    policy = iam.policy(unique("own"), document(
        statement("Allow", "kms:Encrypt", condition={"StringEquals": {"kms:EncryptionContext:user": "${aws:username}"}}),
        statement("Allow", ["kms:CreateAlias", "kms:DeleteAlias"], f"arn:aws:kms:*:{bridge.account}:alias/${{aws:username}}/*"),
        statement("Allow", ["kms:CreateAlias", "kms:DeleteAlias"], f"arn:aws:kms:*:{bridge.account}:key/*")))
    key = Key(bridge)
    people = [Person(iam, stem, attached=[policy]) for stem in ("one", "two")]
    for me, them in (people, people[::-1]):
        me.kms.encrypt(KeyId=key.id, Plaintext=b"x", EncryptionContext={"user": me.name})
        for context in ({"user": them.name}, {"user": "${aws:username}"}, {}):
            with denied(me, "kms:Encrypt", key, NO_IDENTITY_POLICY):
                me.kms.encrypt(KeyId=key.id, Plaintext=b"x", EncryptionContext=context)
        me.kms.create_alias(AliasName=f"alias/{me.name}/one", TargetKeyId=key.id)
        for name in (f"alias/{them.name}/two", f"alias/{me.name}", f"alias/x/{me.name}/one"):
            with denied(me, "kms:CreateAlias", bridge.alias_arn(name), NO_IDENTITY_POLICY):
                me.kms.create_alias(AliasName=name, TargetKeyId=key.id)
