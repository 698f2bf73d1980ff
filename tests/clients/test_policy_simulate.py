"""`hsm-bridge policy simulate`: the answer is that of the request, and every policy looked at stands in it."""

import json
import secrets

import pytest
from botocore.exceptions import ClientError

from iam_tool import Iam, allow, deny, document, statement


def simulate(bridge, principal, action, *args, code=0):
    done = bridge.run("policy", "simulate", "--principal", principal, "--action", action, *args, "--json", check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


@pytest.fixture(scope="module")
def scene(bridge):
    """A key whose policy lets `reader` decrypt with one encryption context and delegates to the account."""
    iam, tag = Iam(bridge), secrets.token_hex(4)
    root = bridge.client()
    reader_name = f"reader-{tag}"
    reader = iam.user(reader_name, policies={"no-describe": deny("kms:DescribeKey")})
    arn = f"arn:aws:iam::{bridge.account}:user/{reader_name}"
    role = iam.role(f"sim-{tag}", policies={"use": allow("kms:Encrypt")})
    policy = document(
        statement("Allow", "kms:*", Principal={"AWS": f"arn:aws:iam::{bridge.account}:root"}, Sid="Delegate"),
        statement("Allow", "kms:Decrypt", Principal={"AWS": arn}, Sid="Read",
                  condition={"StringEquals": {"kms:EncryptionContext:app": "orders"}}))
    key = root.create_key(Policy=json.dumps(policy))["KeyMetadata"]
    root.create_alias(AliasName=(alias := f"alias/sim-{tag}"), TargetKeyId=key["KeyId"])
    return {"reader": reader, "arn": arn, "role": role, "key": key["Arn"], "alias": alias, "root": root}


def test_the_verdict_is_that_of_the_request(bridge, scene):
    blob = scene["root"].encrypt(KeyId=scene["key"], Plaintext=b"x", EncryptionContext={"app": "orders"})["CiphertextBlob"]
    scene["reader"].decrypt(CiphertextBlob=blob, EncryptionContext={"app": "orders"})
    got = simulate(bridge, scene["arn"], "kms:Decrypt", "--key", scene["alias"], "--context", "app=orders")
    assert (got["allowed"], got["decidedBy"], got["statement"]["sid"]) == (True, "key_policy", "Read")
    assert got["resource"] == scene["key"] and got["principal"] == scene["arn"]

    got = simulate(bridge, scene["arn"], "kms:Decrypt", "--key", scene["key"], "--context", "app=other")
    assert (got["allowed"], got["denyType"], got["decidedBy"]) == (False, "implicit", "identity")
    (read,) = [s for p in got["policies"] for s in p["statements"] if s["sid"] == "Read"]
    assert "kms:EncryptionContext:app" in read["why"]
    with pytest.raises(ClientError) as error:
        scene["reader"].encrypt(KeyId=scene["key"], Plaintext=b"x")
    got = simulate(bridge, scene["arn"], "kms:Encrypt", "--key", scene["key"])
    assert error.value.response["Error"]["Message"] == got["message"]


def test_an_explicit_deny_names_its_statement(bridge, scene):
    got = simulate(bridge, scene["arn"], "kms:DescribeKey", "--key", scene["key"])
    assert (got["allowed"], got["denyType"], got["decidedBy"]) == (False, "explicit", "identity")
    assert (got["statement"]["policy"], got["statement"]["kind"]) == ("no-describe", "user-inline")
    assert {p["kind"] for p in got["policies"]} == {"user-inline", "key-policy"}


def test_roles_sessions_root_and_session_policies(bridge, scene, tmp_path):
    role = scene["role"]
    session = f"arn:aws:sts::{bridge.account}:assumed-role/{role.rsplit('/', 1)[1]}/night"
    for principal in (role, session, role.split(":")[-1]):
        assert simulate(bridge, principal, "kms:Encrypt", "--key", scene["key"])["decidedBy"] == "identity"
    assert simulate(bridge, session, "kms:Encrypt", "--key", scene["key"])["principal"] == session
    (tmp_path / "session.json").write_text(json.dumps(allow("kms:Decrypt")))
    got = simulate(bridge, role, "kms:Encrypt", "--key", scene["key"], "--session-policy", tmp_path / "session.json")
    assert (got["allowed"], got["decidedBy"]) == (False, "session")
    for root in (bridge.account, f"arn:aws:iam::{bridge.account}:root"):
        assert simulate(bridge, root, "kms:Decrypt", "--key", scene["key"])["allowed"]
    assert simulate(bridge, bridge.account, "kms:ListKeys")["decidedBy"] == "root"


def test_federated_users_need_to_say_by_whom(bridge, scene):
    carol = f"arn:aws:sts::{bridge.account}:federated-user/carol"
    assert "--federated-by" in simulate(bridge, carol, "kms:Decrypt", "--key", scene["key"], code=1)
    got = simulate(bridge, carol, "kms:Decrypt", "--key", scene["key"], "--context", "app=orders", "--federated-by", scene["arn"])
    assert (got["allowed"], got["decidedBy"]) == (False, "session")


def test_condition_keys_by_hand(bridge, scene):
    iam = Iam(bridge)
    here = iam.make_user(policies={"p": allow("kms:Encrypt", condition={"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}})})
    assert not simulate(bridge, here, "kms:Encrypt", "--key", scene["key"])["allowed"]
    assert simulate(bridge, here, "kms:Encrypt", "--key", scene["key"], "--condition-key", "aws:SourceIp=192.0.2.9")["allowed"]


def test_what_is_not_known_is_an_error(bridge, scene):
    for principal, action, args, says in [
        (f"arn:aws:iam::{bridge.account}:user/nobody", "kms:Decrypt", ("--key", scene["key"]), "does not exist"),
        ("arn:aws:iam::999999999999:root", "kms:Decrypt", ("--key", scene["key"]), "does not exist"),
        ("nobody.internal.example", "kms:Decrypt", ("--key", scene["key"]), "does not exist"),
        (scene["arn"], "kms:Decript", ("--key", scene["key"]), "no action of KMS"),
        (scene["arn"], "kms:Decrypt", (), "name it with `--key`"),
        (scene["arn"], "kms:ListKeys", ("--key", scene["key"]), "leave `--key` out"),
        (scene["arn"], "kms:Decrypt", ("--key", "alias/none-here"), "does not exist"),
        (scene["arn"], "kms:Decrypt", ("--key", "00000000-0000-4000-8000-000000000000"), "does not exist"),
    ]:
        assert says in (told := simulate(bridge, principal, action, *args, code=1)), told


def test_for_people_and_for_scripts(bridge, scene):
    args = ("policy", "simulate", "--principal", scene["arn"], "--action", "kms:Decrypt", "--key", scene["key"])
    yes = bridge.run(*args, "--context", "app=orders", "--exit-code", check=False)
    assert yes.returncode == 0
    lines = yes.stdout.splitlines()
    assert lines[0] == "allowed" and lines[1].startswith("decided by key_policy: statement 1 (`Read`)")
    assert "APPLIES" in yes.stdout
    no = bridge.run(*args, check=False)
    assert (no.returncode, no.stdout.splitlines()[0]) == (0, "denied (implicit)")
    assert bridge.run(*args, "--exit-code", check=False).returncode == 1
