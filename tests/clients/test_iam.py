"""`hsm-bridge iam …`: identities made, changed and deleted, and what the next request meets."""

import hashlib
import json

import pytest
from botocore.exceptions import ClientError

from iam_tool import Iam, Refused, allow, deny, document, statement, trusts

OTHER = "444455556666"


def code(call, **params):
    """Code of the error that the call gives; None where it works."""
    try:
        call(**params)
        return None
    except ClientError as error:
        return error.response["Error"]["Code"]


def whoami(iam, key):
    return iam.client(key, "sts").get_caller_identity()["Arn"]


@pytest.fixture
def iam(own_bridge):
    return Iam(own_bridge)


def test_policies_hold_from_the_next_request_on(iam):
    key = iam.bridge.new_key()
    alice = iam.user("alice")
    use = {"KeyId": key}
    assert code(alice.describe_key, **use) == "AccessDeniedException"
    iam.with_document(allow("kms:DescribeKey"), "user", "put-policy", "alice", "look")
    assert code(alice.describe_key, **use) is None
    iam.run("user", "delete-policy", "alice", "look")
    assert code(alice.describe_key, **use) == "AccessDeniedException"

    iam.group("lookers", policies={"look": allow("kms:DescribeKey")})
    iam.run("user", "add-to-group", "alice", "lookers")
    assert code(alice.describe_key, **use) is None
    iam.run("user", "remove-from-group", "alice", "lookers")
    assert code(alice.describe_key, **use) == "AccessDeniedException"

    arn = iam.policy("look", allow("kms:DescribeKey"))
    iam.run("user", "attach-policy", "alice", "look")
    assert code(alice.describe_key, **use) is None
    iam.with_document(deny("kms:*"), "policy", "update", "look")
    assert code(alice.describe_key, **use) == "AccessDeniedException"
    iam.with_document(allow("kms:*"), "policy", "update", arn)
    iam.policy("little", allow("kms:ListKeys"))
    iam.run("user", "put-boundary", "alice", "little")
    assert code(alice.describe_key, **use) == "AccessDeniedException"
    iam.run("user", "delete-boundary", "alice")
    assert code(alice.describe_key, **use) is None
    iam.run("user", "detach-policy", "alice", arn)
    assert code(alice.describe_key, **use) == "AccessDeniedException"


def test_organisation_policies(iam):
    other = iam.make_account(OTHER)
    bob = other.user("bob", attached=["AdministratorAccess"])
    assert code(bob.list_keys) is None
    root = iam.unit("root", unit="r-test")
    floor = iam.unit("floor", parent=root)
    iam.policy("no-lists", document(statement("Deny", "kms:List*")), service_control=True)
    iam.run("unit", "attach-policy", floor, "no-lists")
    iam.run("account", "move", OTHER, "--unit", floor)
    assert code(bob.list_keys) == "AccessDeniedException"
    iam.run("unit", "detach-policy", floor, "no-lists")
    assert code(bob.list_keys) is None
    with pytest.raises(Refused, match="You cannot remove the last policy attached"):
        iam.run("unit", "detach-policy", floor, "FullAWSAccess")
    with pytest.raises(Refused, match="is not empty"):
        iam.run("unit", "delete", floor)
    iam.run("account", "move", OTHER, "--out")
    iam.run("unit", "delete", floor)
    with pytest.raises(Refused, match="still has users, access keys"):
        iam.run("account", "delete", OTHER)
    other.run("user", "delete", "bob")
    iam.run("account", "delete", OTHER)


def test_a_deleted_user_is_refused_at_once_and_the_next_of_the_name_is_another(iam):
    key = iam.bridge.new_key()
    iam.make_user("alice")
    old = iam.access_key(user="alice")
    policy = document(
        statement("Allow", "kms:*", Principal={"AWS": f"arn:aws:iam::{iam.account_id}:root"}),
        statement("Allow", "kms:Encrypt", Principal={"AWS": f"arn:aws:iam::{iam.account_id}:user/alice"}))
    iam.bridge.kms.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(policy))
    alice = iam.client(old)
    use = {"KeyId": key, "Plaintext": b"x"}
    assert code(alice.encrypt, **use) is None
    first = iam.show("user", "alice")["UserId"]
    iam.run("user", "delete", "alice")
    assert code(alice.encrypt, **use) == "UnrecognizedClientException"

    iam.make_user("alice")
    assert iam.show("user", "alice")["UserId"] != first
    assert code(alice.encrypt, **use) == "UnrecognizedClientException", "the old key is nobody's"
    new = iam.client(iam.access_key(user="alice"))
    assert code(new.encrypt, **use) == "AccessDeniedException", "the key policy meant the other alice"


def test_access_keys_rotate(iam):
    iam.make_user("alice")
    first, second = iam.access_key(user="alice"), iam.access_key(user="alice")
    with pytest.raises(Refused, match="Cannot exceed quota for AccessKeysPerUser: 2"):
        iam.access_key(user="alice")
    assert whoami(iam, first) == whoami(iam, second)
    iam.run("access-key", "disable", first[0])
    assert code(iam.client(first, "sts").get_caller_identity) == "InvalidClientTokenId"
    assert code(iam.client(first).list_keys) == "UnrecognizedClientException"
    assert whoami(iam, second).endswith("user/alice")
    iam.run("access-key", "enable", first[0])
    assert whoami(iam, first).endswith("user/alice")
    iam.run("access-key", "delete", first[0])
    assert code(iam.client(first, "sts").get_caller_identity) == "InvalidClientTokenId"
    iam.access_key(user="alice")
    with pytest.raises(Refused, match="cannot be found"):
        iam.access_key(user="bob")
    # The older command makes the user.
    done = iam.bridge.run("access-key", "create", "--user", "bob", "--json")
    assert json.loads(done.stdout)["owner"] == "user/bob"
    iam.access_key(root=True)
    with pytest.raises(Refused, match="AccessKeysPerAccount"):
        iam.access_key(root=True)
    iam.make_service("backup.internal.example")
    iam.access_key(service="backup.internal.example")
    with pytest.raises(Refused, match="no service other.internal.example"):
        iam.access_key(service="other.internal.example")


def test_last_use_is_known_after_a_restart(iam):
    iam.make_user("alice")
    key = iam.access_key(user="alice")
    last_used = lambda: iam.run("access-key", "last-used", key[0])["AccessKey"].get("AccessKeyLastUsed")
    assert last_used() is None
    whoami(iam, key)
    used = last_used()
    assert used["ServiceName"] == "sts" and used["Region"] == iam.bridge.region
    code(iam.client(key).list_keys)
    assert last_used() == used, "exact to 15 minutes"
    other = iam.access_key(user="alice")
    code(iam.client(other).list_keys)
    iam.bridge.restart()
    listed = {k["AccessKeyId"]: k.get("AccessKeyLastUsed") for k in iam.run("access-key", "list")["AccessKeys"]}
    assert listed[key[0]] == used
    assert listed[other[0]]["ServiceName"] == "kms"


def test_a_stopped_bridge_is_administered_too(iam):
    key = iam.bridge.new_key()
    iam.make_user("alice")
    old = iam.access_key(user="alice")
    iam.bridge.stop()
    iam.with_document(allow("kms:DescribeKey"), "user", "put-policy", "alice", "look")
    new = iam.access_key(user="alice")
    iam.run("access-key", "disable", old[0])
    iam.bridge.start()
    assert code(iam.client(new).describe_key, KeyId=key) is None
    assert code(iam.client(old).describe_key, KeyId=key) == "UnrecognizedClientException"


def test_root_is_disabled_once_somebody_else_administers(iam):
    key = iam.bridge.new_key()
    root = iam.client((iam.bridge.access_key, iam.bridge.secret_key))
    with pytest.raises(Refused, match="only administrator"):
        iam.run("root", "disable")
    iam.make_user("admin", attached=["AdministratorAccess"])
    with pytest.raises(Refused, match="only administrator"):
        iam.run("root", "disable")
    admin_key = iam.access_key(user="admin")
    iam.run("access-key", "disable", admin_key[0])
    with pytest.raises(Refused, match="only administrator"):
        iam.run("root", "disable")
    iam.run("access-key", "enable", admin_key[0])
    # A key that root alone may manage.
    mine = document(statement("Allow", "kms:*", Principal={"AWS": "*"},
                              condition={"ArnEquals": {"aws:PrincipalArn": f"arn:aws:iam::{iam.account_id}:root"}}))
    delegating = root.get_key_policy(KeyId=key)["Policy"]
    root.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(mine))
    with pytest.raises(Refused, match=f"the only one who may change the policy of .*{key}"):
        iam.run("root", "disable")
    root.put_key_policy(KeyId=key, PolicyName="default", Policy=delegating)

    assert code(root.list_keys) is None
    iam.run("root", "disable")
    assert code(root.list_keys) == "UnrecognizedClientException"
    assert iam.run("root", "status")["Account"]["RootEnabled"] is False
    assert code(iam.client(admin_key).create_key) is None
    iam.bridge.restart()
    assert code(iam.client((iam.bridge.access_key, iam.bridge.secret_key)).list_keys) == "UnrecognizedClientException"
    iam.run("root", "enable")
    assert code(iam.client((iam.bridge.access_key, iam.bridge.secret_key)).list_keys) is None
    assert {"RootDisable", "RootEnable"} <= {r["eventName"] for r in iam.bridge.journal()}
    assert "the root user signs requests" in iam.bridge.stderr(tail=100_000)


def test_the_root_user_of_a_new_account_is_disabled(iam):
    other = iam.make_account(OTHER)
    key = other.access_key(root=True)
    assert code(other.client(key).list_keys) == "UnrecognizedClientException"
    other.run("root", "enable")
    assert whoami(other, key) == f"arn:aws:iam::{OTHER}:root"


def test_everything_is_recorded_without_documents_and_secrets(iam):
    text = json.dumps(allow("kms:Decrypt", condition={"StringEquals": {"kms:EncryptionContext:app": "canary-4711"}}))
    iam.make_user("alice")
    before = len(iam.bridge.journal())
    iam.with_document(text, "user", "put-policy", "alice", "use")
    iam.role("app", trust=trusts("*", condition={"StringEquals": {"sts:ExternalId": "canary-4712"}}))
    key = iam.access_key(user="alice")
    records = iam.bridge.journal()[before:]
    assert [(r["eventName"], r["eventType"]) for r in records] == [
        (name, kind) for name in ("IamChange", "IamChange", "AccessKeyCreate") for kind in ("HsmBridgeIntent", "HsmBridgeOperatorCall")]
    digest = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}
    assert records[0]["requestParameters"]["edit"]["put-inline-policy"]["document"] == digest
    (change,) = records[1]["additionalEventData"]["details"]["changes"]
    assert change["Arn"] == f"arn:aws:iam::{iam.account_id}:user/alice"
    assert change["Changed"]["InlinePolicies"] == {"From": {}, "To": {"use": digest}}
    assert records[5]["additionalEventData"]["details"]["accessKeyId"] == key[0]
    assert key[1].encode() not in b"\n".join(iam.bridge.journal_lines())
    # Documents stand once: where an outcome says what became different.
    for record in records:
        record["additionalEventData"].pop("stateChange", None)
    assert "canary-47" not in json.dumps(records)


def test_what_is_shown(iam):
    role = iam.role("app", policies={"use": allow("kms:Decrypt")}, tags={"team": "a"}, path="/eu/", max_session=7200)
    assert role == f"arn:aws:iam::{iam.account_id}:role/eu/app"
    shown = iam.show("role", "app")
    assert shown["InlinePolicies"] == {"use": allow("kms:Decrypt")}
    assert (shown["MaxSessionDuration"], shown["Tags"], shown["Path"]) == (7200, [{"Key": "team", "Value": "a"}], "/eu/")
    iam.run("role", "update", "app", "--description", "new", "--max-session", 3600)
    assert (iam.show("role", "app")["Description"], iam.show("role", "app")["MaxSessionDuration"]) == ("new", 3600)
    iam.run("role", "revoke-sessions", "app")
    assert iam.show("role", "app")["SessionsRevokedBefore"]
    assert iam.run("user", "create", "alice", json_out=False) == f"created user arn:aws:iam::{iam.account_id}:user/alice\n"
    again = iam.run("user", "tag", "alice", "team=a", json_out=False)
    assert again == f"changed user arn:aws:iam::{iam.account_id}:user/alice: Tags\n"
    assert iam.run("user", "tag", "alice", "team=a", json_out=False) == "nothing to change\n"
    assert iam.run("user", "list", json_out=False).split("\n")[0].split() == [
        "USER", "ID", "GROUPS", "POLICIES", "ACCESS", "KEYS", "CREATED"]
    with pytest.raises(Refused, match="Syntax errors in policy."):
        iam.with_document("{", "user", "put-policy", "alice", "x")
    with pytest.raises(Refused, match="is no access key id of temporary credentials"):
        iam.run("session", "revoke", iam.access_key(user="alice")[0])
    for kind in ("account", "unit", "user", "group", "role", "policy", "oidc-provider", "service", "access-key"):
        assert len(iam.run(kind, "list")) == 1
