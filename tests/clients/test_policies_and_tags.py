"""Tags, key policies, and the lists that are short in this version."""

import json
import re
import secrets

import pytest

from checks import members, one_validation_error, refused
from iam_tool import Iam


def tag(key, value=""):
    return {"TagKey": key, "TagValue": value}


def test_tags_keep_their_place(either):
    key = either.new_key(Tags=[tag("tag1", "1"), tag("tag2", "2")])
    assert members(either.kms.tag_resource(KeyId=key, Tags=[tag("tag3", "3"), tag("tag1", "one")])) == {}
    assert members(either.kms.list_resource_tags(KeyId=key)) == {
        "Tags": [tag("tag1", "one"), tag("tag2", "2"), tag("tag3", "3")], "Truncated": False}
    assert members(either.kms.untag_resource(KeyId=either.key_arn(key), TagKeys=["tag2", "not there"])) == {}
    assert either.kms.list_resource_tags(KeyId=key)["Tags"] == [tag("tag1", "one"), tag("tag3", "3")]
    either.kms.tag_resource(KeyId=key, Tags=[tag("tag2", "new"), tag("ключ", "значение")])
    assert either.kms.list_resource_tags(KeyId=key)["Tags"] == [tag("tag1", "one"), tag("tag3", "3"), tag("tag2", "new"),
                                                                 tag("ключ", "значение")]


def too_long(what, text, most):
    return one_validation_error(f"Value '{text}' at 'tags.{what}' failed to satisfy constraint: "
                                f"Member must have length less than or equal to {most}")


BAD_TAGS = [
    ([tag("a"), tag("a", "b")], "TagException", "Duplicate tag keys"),
    ([tag(f"k{n}") for n in range(51)], "TagException", "Too many tags"),
    ([tag("aws:x")], "TagException", "Tags beginning with aws: are reserved"),
    ([tag("AWS:x")], "TagException", "Tags beginning with aws: are reserved"),
    ([tag("k" * 129)], "ValidationException", too_long("1.member.tagKey", "k" * 129, 128)),
    ([tag("a"), tag("b", "v" * 257)], "ValidationException", too_long("2.member.tagValue", "v" * 257, 256)),
]


@pytest.mark.parametrize("tags, code, text", BAD_TAGS, ids=[f"{row[1]}-{n}" for n, row in enumerate(BAD_TAGS)])
@pytest.mark.parametrize("operation", ["CreateKey", "TagResource"])
def test_bad_tags(bridge, operation, tags, code, text):
    with refused(code, text):
        if operation == "CreateKey":
            bridge.kms.create_key(Tags=tags)
        else:
            bridge.kms.tag_resource(KeyId=bridge.key(purpose="never tagged"), Tags=tags)
    assert bridge.kms.list_resource_tags(KeyId=bridge.key(purpose="never tagged"))["Tags"] == []


def test_fifty_tags_and_not_one_more(bridge):
    key = bridge.new_key(Tags=[tag(f"k{n}") for n in range(50)])
    bridge.kms.tag_resource(KeyId=key, Tags=[tag("k7", "replaced")])
    with refused("TagException", "Too many tags"):
        bridge.kms.tag_resource(KeyId=key, Tags=[tag("one-more")])


def test_default_policy(either):
    key = either.new_key()
    answer = members(either.kms.get_key_policy(KeyId=key, PolicyName="default"))
    policy = json.loads(answer.pop("Policy"))
    assert policy == {"Version": "2012-10-17", "Id": "key-default-1", "Statement": [
        {"Sid": "Enable IAM User Permissions", "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{either.account}:root"},
         "Action": "kms:*", "Resource": "*"}]}
    assert answer in ({}, {"PolicyName": "default"})
    assert members(either.kms.list_key_policies(KeyId=key)) == {"PolicyNames": ["default"], "Truncated": False}


def policy(*principals, action="kms:*", **more):
    return {"Version": "2012-10-17", "Statement": [
        {"Sid": f"s{n}", "Effect": "Allow", "Principal": {"AWS": p}, "Action": action, "Resource": "*"}
        for n, p in enumerate(principals)]} | more


def test_put_policy(either):
    key, root = either.new_key(), f"arn:aws:iam::{either.account}:root"
    mine = policy(root, Id="mine-" + secrets.token_hex(4))
    assert members(either.kms.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(mine, indent=3))) == {}
    assert json.loads(either.kms.get_key_policy(KeyId=key)["Policy"]) == mine
    either.kms.put_key_policy(KeyId=either.key_arn(key), Policy=json.dumps(policy(root, Id="again")))
    assert json.loads(either.kms.get_key_policy(KeyId=key)["Policy"])["Id"] == "again"


LOCKED_OUT = "The new key policy will not allow you to update the key policy in the future."


def test_lockout_check(bridge):
    key = bridge.new_key()
    alice = json.dumps(policy(Iam(bridge).make_user()))
    reading = json.dumps(policy(f"arn:aws:iam::{bridge.account}:root", action=["kms:Get*", "kms:Describe*", "kms:List*"]))
    for text in (alice, reading):
        with refused("MalformedPolicyDocumentException", LOCKED_OUT):
            bridge.kms.put_key_policy(KeyId=key, Policy=text)
        with refused("MalformedPolicyDocumentException", LOCKED_OUT):
            bridge.kms.create_key(Policy=text)
    assert json.loads(bridge.kms.get_key_policy(KeyId=key)["Policy"])["Id"] == "key-default-1"
    bridge.kms.put_key_policy(KeyId=key, Policy=reading, BypassPolicyLockoutSafetyCheck=True)
    assert json.loads(bridge.kms.get_key_policy(KeyId=key)["Policy"]) == json.loads(reading)
    # Now it is as the check said.
    with refused("AccessDeniedException", f"User: arn:aws:iam::{bridge.account}:root is not authorized to perform: kms:PutKeyPolicy on "
                 f"resource: {bridge.key_arn(key)} because no resource-based policy allows the kms:PutKeyPolicy action"):
        bridge.kms.put_key_policy(KeyId=key, Policy=reading)


@pytest.mark.parametrize("text", [
    "not json", "[]", "{}", '"text"', '{"Version":"2012-10-17"}',
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}',
    '{"Version":"2012-10-17","Statement":[{"Effect":"Perhaps","Principal":"*","Action":"kms:*","Resource":"*"}]}',
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"nobody at all"},"Action":"kms:*","Resource":"*"}]}',
])
def test_malformed_policies(bridge, text):
    key = bridge.key(purpose="never another policy")
    with refused("MalformedPolicyDocumentException"):
        bridge.kms.put_key_policy(KeyId=key, Policy=text, BypassPolicyLockoutSafetyCheck=True)
    with refused("MalformedPolicyDocumentException"):
        bridge.kms.create_key(Policy=text, BypassPolicyLockoutSafetyCheck=True)
    assert json.loads(bridge.kms.get_key_policy(KeyId=key)["Policy"])["Id"] == "key-default-1"


def test_policies_have_a_size(bridge):
    root = f"arn:aws:iam::{bridge.account}:root"
    key = bridge.key(purpose="never another policy")

    def of_size(size):
        empty = len(json.dumps(policy(root, Id="")))
        return json.dumps(policy(root, Id="i" * (size - empty)))

    # The service model lets 131,072 characters through; the documented limit of a key policy is 32 KB.
    for size in (32_769, 131_072):
        with refused("LimitExceededException"):
            bridge.kms.put_key_policy(KeyId=key, Policy=of_size(size))
        with refused("LimitExceededException"):
            bridge.kms.create_key(Policy=of_size(size))
    with refused("ValidationException", re.compile(".*Member must have length less than or equal to 131072")):
        bridge.kms.put_key_policy(KeyId=key, Policy=of_size(131_073))
    large = bridge.new_key(Policy=of_size(32_768))
    assert bridge.kms.get_key_policy(KeyId=large)["Policy"]


def test_only_the_default_policy_has_a_name(bridge):
    with refused("NotFoundException", "No such policy exists"):
        bridge.kms.get_key_policy(KeyId=bridge.key(), PolicyName="other")
    with refused("NotFoundException", "No such policy exists"):
        bridge.kms.put_key_policy(KeyId=bridge.key(), PolicyName="other",
                                  Policy=json.dumps(policy(f"arn:aws:iam::{bridge.account}:root")))


def test_short_lists(either):
    key = either.key()
    assert members(either.kms.list_grants(KeyId=key)) == {"Grants": [], "Truncated": False}
    assert members(either.kms.get_key_rotation_status(KeyId=key)) == {"KeyId": either.key_arn(key), "KeyRotationEnabled": False}
