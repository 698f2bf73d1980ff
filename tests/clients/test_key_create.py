"""`hsm-bridge key create`: the console's key policy for administrators and users, walked with stock clients."""

import json
import secrets

import pytest
from botocore.exceptions import ClientError

from bridge import Bridge
from iam_tool import NOBODYS, Iam


def name(kind):
    return f"{kind}-{secrets.token_hex(4)}"


def create(bridge, *args, ok=True):
    done = bridge.run("key", "create", *args, "--json", check=False)
    if not ok:
        assert done.returncode == 1, done.stdout
        return done.stderr
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def denied(call, **params):
    with pytest.raises(ClientError) as error:
        call(**params)
    assert error.value.response["Error"]["Code"] == "AccessDeniedException", error.value
    return error.value.response["Error"]["Message"]


@pytest.fixture(scope="module")
def people(bridge):
    iam = Iam(bridge)
    return {"admin": (admin := name("admin"), iam.user(admin)), "user": (user := name("user"), iam.user(user))}


def statements(client, key):
    policy = json.loads(client.get_key_policy(KeyId=key)["Policy"])
    assert policy["Id"] == "key-consolepolicy-3"
    return {s["Sid"]: s for s in policy["Statement"]}


@pytest.fixture(scope="module")
def made(bridge, people):
    alias = f"alias/{name('made')}"
    key = create(bridge, "--key-spec", "SYMMETRIC_DEFAULT", "--tag", "team=payments", "--tag", "note=a=b", "--alias", alias,
                 "--admins", f"user/{people['admin'][0]}", "--users", f"user/{people['user'][0]}",
                 "--description", "made by the operator")
    return key["line"]["key_id"], alias


def test_one_command_makes_key_alias_tags_and_policy(bridge, made):
    key, alias = made
    root = bridge.client()
    meta = root.describe_key(KeyId=alias)["KeyMetadata"]
    assert (meta["KeyId"], meta["Description"], meta["KeyState"]) == (key, "made by the operator", "Enabled")
    assert root.list_resource_tags(KeyId=key)["Tags"] == [
        {"TagKey": "team", "TagValue": "payments"}, {"TagKey": "note", "TagValue": "a=b"}]
    assert list(statements(root, key)) == [
        "Enable IAM User Permissions", "Allow access for Key Administrators", "Allow use of the key",
        "Allow attachment of persistent resources"]


def test_administrators_manage_and_cannot_encrypt(people, made):
    key, alias = made
    _, admin = people["admin"]
    admin.update_key_description(KeyId=key, Description="by the administrator")
    admin.disable_key(KeyId=key)
    admin.enable_key(KeyId=key)
    admin.tag_resource(KeyId=key, Tags=[{"TagKey": "by", "TagValue": "admin"}])
    policy = admin.get_key_policy(KeyId=key)["Policy"]
    admin.put_key_policy(KeyId=key, Policy=policy)
    text = denied(admin.encrypt, KeyId=alias, Plaintext=b"x")
    assert text.endswith("because no identity-based policy allows the kms:Encrypt action"), text
    denied(admin.generate_data_key, KeyId=key, KeySpec="AES_256")


def test_users_use_and_cannot_manage(people, made):
    key, alias = made
    _, user = people["user"]
    blob = user.encrypt(KeyId=alias, Plaintext=b"secret")["CiphertextBlob"]
    assert user.decrypt(CiphertextBlob=blob)["Plaintext"] == b"secret"
    user.generate_data_key(KeyId=key, KeySpec="AES_256")
    user.re_encrypt(CiphertextBlob=blob, DestinationKeyId=key)
    user.describe_key(KeyId=key)
    for call, params in [
        (user.disable_key, {}),
        (user.update_key_description, {"Description": "x"}),
        (user.schedule_key_deletion, {}),
        (user.get_key_policy, {}),
        (user.put_key_policy, {"Policy": "{}"}),
        (user.tag_resource, {"Tags": [{"TagKey": "a", "TagValue": "b"}]}),
    ]:
        denied(call, KeyId=key, **params)


def test_users_make_grants_for_aws_resources_only(bridge, people, made):
    key, _ = made
    user_name, user = people["user"]
    grantee = f"arn:aws:iam::{bridge.account}:user/{user_name}"
    # A direct call is none on behalf of a service: kms:GrantIsForAWSResource is false.
    denied(user.create_grant, KeyId=key, GranteePrincipal=grantee, Operations=["Decrypt"])
    denied(user.list_grants, KeyId=key)


def test_deletion_with_and_without_the_flag(bridge, people, made):
    admin_name, admin = people["admin"]
    key, _ = made
    admin.schedule_key_deletion(KeyId=key)
    admin.cancel_key_deletion(KeyId=key)
    admin.enable_key(KeyId=key)
    kept = create(bridge, "--admins", f"user/{admin_name}", "--no-admins-may-delete")["line"]["key_id"]
    denied(admin.schedule_key_deletion, KeyId=kept)
    admin.disable_key(KeyId=kept)
    assert list(statements(bridge.client(), kept)) == ["Enable IAM User Permissions", "Allow access for Key Administrators"]


def test_other_kinds_of_keys(bridge, people):
    user_name, user = people["user"]
    root = bridge.client()
    signs = create(bridge, "--key-spec", "ECC_NIST_P256", "--key-usage", "SIGN_VERIFY", "--users", f"user/{user_name}")
    key = signs["line"]["key_id"]
    use = statements(root, key)["Allow use of the key"]
    assert use["Action"] == ["kms:DescribeKey", "kms:GetPublicKey", "kms:Sign", "kms:Verify"]
    user.sign(KeyId=key, Message=b"m", SigningAlgorithm="ECDSA_SHA_256")
    macs = create(bridge, "--key-spec", "HMAC_256", "--users", f"user/{user_name}")["line"]["key_id"]
    assert "Allow attachment of persistent resources" not in statements(root, macs)
    user.generate_mac(KeyId=macs, Message=b"m", MacAlgorithm="HMAC_SHA_256")


def test_refusals_make_nothing(bridge, people):
    root = bridge.client()
    before = {k["KeyId"] for page in root.get_paginator("list_keys").paginate() for k in page["Keys"]}
    taken = f"alias/{name('taken')}"
    first = create(bridge, "--alias", taken)["line"]["key_id"]
    for args, says in [
        (("--admins", "user/nobody-here"), "`user/nobody-here` does not exist"),
        (("--users", NOBODYS), "does not exist"),
        (("--admins", bridge.account), "neither a user nor a role"),
        (("--alias", taken), "AlreadyExistsException"),
        (("--alias", "alias/aws/s3"), "ValidationException"),
        (("--tag", "aws:x=1"), "TagException"),
        (("--tag", "a=1", "--tag", "a=2"), "TagException"),
        (("--account", NOBODYS), "not served here"),
        (("--key-store", "cks-0123456789abcdef0"), "CustomKeyStoreNotFoundException"),
        (("--key-spec", "HMAC_256", "--key-usage", "SIGN_VERIFY"), "UnsupportedOperationException"),
    ]:
        assert says in (told := create(bridge, *args, ok=False)), (args, told)
    after = {k["KeyId"] for page in root.get_paginator("list_keys").paginate() for k in page["Keys"]}
    assert after - before == {first}


@pytest.fixture(scope="module")
def own_bridge():
    """Keys of other accounts are on no list of the shared instance."""
    instance = Bridge()
    try:
        yield instance.start()
    finally:
        instance.close()


def test_a_key_of_another_account(own_bridge):
    bridge = own_bridge
    iam = Iam(bridge).make_account("777788889999", name="other")
    user = iam.user(user_name := name("other"))
    alias = f"alias/{name('theirs')}"
    key = create(bridge, "--account", "777788889999", "--alias", alias, "--users", f"user/{user_name}")
    assert key["line"]["arn"].split(":")[4] == "777788889999"
    user.encrypt(KeyId=alias, Plaintext=b"x")

    # Names in commands are of the account that is named.
    there = ("--account", "777788889999", "--json")
    assert json.loads(bridge.run("key", "show", alias, *there).stdout)["line"]["arn"] == key["line"]["arn"]
    assert bridge.run("key", "show", alias, check=False).returncode == 1
    done = json.loads(bridge.run("rotate", "--alias", alias, *there).stdout)
    assert done["new_key_arn"].split(":")[4] == "777788889999"
    assert key["line"]["key_id"] in bridge.run("alias", "history", alias, *there).stdout


def test_it_is_recorded_as_create_key(bridge, made):
    key, alias = made
    records = [r for r in bridge.journal() if r["eventName"] == "CreateKey" and key in json.dumps(r)]
    intent, outcome = (r for r in records if r["eventType"] in ("HsmBridgeIntent", "HsmBridgeOperatorCall"))
    assert intent["eventType"] == "HsmBridgeIntent" and outcome["userIdentity"]["type"] == "HsmBridgeOperator"
    details = outcome["additionalEventData"]["details"]
    assert details["alias"] == alias and "key-consolepolicy-3" in details["policy"]
