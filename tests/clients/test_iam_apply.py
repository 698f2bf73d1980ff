"""`hsm-bridge iam apply DIR` and `iam export DIR`: a folder of AWS-format documents owns the identities."""

import json
import os
import pty
import shutil
import subprocess
import threading
import time
import urllib.parse

import pytest

from bridge import REPOSITORY, Bridge, binary
from botocore.exceptions import ClientError
from iam_tool import Iam, allow, trusts

EXAMPLE = REPOSITORY / "hsm-config/iam-example"


@pytest.fixture(scope="module")
def bridge():
    """Its own: what is pruned here, other tests would miss."""
    instance = Bridge()
    try:
        yield instance.start()
    finally:
        instance.close()


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "identities")


@pytest.fixture
def empty(bridge, folder, tmp_path):
    """The folder with every kind present: at the start nothing of them is there."""
    none = Folder(tmp_path / "none")
    for kind in ("policies", "groups", "users", "roles", "oidc-providers", "services"):
        (none.path / kind).mkdir(parents=True)
    apply(bridge, none, "--prune", "--yes")
    return folder


class Folder:
    def __init__(self, path):
        self.path = path
        path.mkdir()

    def __fspath__(self):
        return str(self.path)

    def put(self, name, document):
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(document if isinstance(document, str) else json.dumps(document, indent=2))
        return self

    def user(self, name, **members):
        return self.put(f"users/{name}.json", {"UserName": name} | members)

    def group(self, name, **members):
        return self.put(f"groups/{name}.json", {"GroupName": name} | members)

    def role(self, name, trust, **members):
        return self.put(f"roles/{name}.json", {"RoleName": name, "AssumeRolePolicyDocument": trust} | members)

    def policy(self, name, document):
        return self.put(f"policies/{name}.json", document)

    def without(self, name):
        (self.path / name).unlink()
        return self


def apply(bridge, folder, *options, code=0):
    done = bridge.run("iam", "apply", os.fspath(folder), *options, check=False)
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def version(bridge):
    """The store's version after the newest change that was recorded."""
    versions = [event.get("additionalEventData", {}).get("storeVersion") for event in bridge.journal()]
    return max((v for v in versions if v is not None), default=0)


def records(bridge, name="IamApply"):
    return [event for event in bridge.journal() if event.get("eventName") == name]


def inline(name, document):
    return {"PolicyName": name, "PolicyDocument": document}


def denied(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"] == "AccessDeniedException"


def test_shows_applies_and_is_idempotent(bridge, empty):
    empty.policy("use", allow("kms:Encrypt")).group("ops", AttachedManagedPolicies=[{"PolicyName": "use"}])
    empty.user("alice", GroupList=["ops"], Tags=[{"Key": "team", "Value": "a"}])
    empty.role("app", trusts(f"arn:aws:iam::{bridge.account}:user/alice"), Description="the application")
    shown = apply(bridge, empty, "--dry-run").stdout
    for line in ("+ policy/use", "+ group/ops", "+ user/alice", "+ role/app", "    + groups: ops", "    + tags: team=a",
                 "4 to create, 0 to change, 0 to delete"):
        assert line in shown.splitlines(), shown
    assert apply(bridge, empty, "--dry-run", "--exit-code", code=2).stdout == shown, "a dry run changed something"
    done = apply(bridge, empty, "--yes").stdout
    assert done.startswith(shown) and done.splitlines()[-1] == "applied"
    before, seen = version(bridge), len(records(bridge))
    assert apply(bridge, empty, "--yes").stdout == "nothing to change\n"
    assert apply(bridge, empty, "--dry-run", "--exit-code").stdout == "nothing to change\n"
    assert version(bridge) == before and len(records(bridge)) > seen, "a second run writes nothing and is recorded"


def test_white_space_and_order_are_no_difference(bridge, empty):
    empty.user("alice", Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    empty.policy("use", allow(["kms:Encrypt", "kms:Decrypt"]))
    apply(bridge, empty, "--yes")
    document = {key: allow(["kms:Encrypt", "kms:Decrypt"])[key] for key in ("Statement", "Version")}
    empty.policy("use", json.dumps(document, separators=(" ,\n\n", " :  ")))
    empty.user("alice", Tags=[{"Key": "b", "Value": "2"}, {"Key": "a", "Value": "1"}])
    assert apply(bridge, empty, "--yes").stdout == "nothing to change\n"
    empty.policy("use", allow(["kms:Encrypt"]))
    shown = apply(bridge, empty, "--yes").stdout.splitlines()
    assert "~ policy/use (document)" in shown
    assert any(line.startswith("    - ") and "kms:Decrypt" in line for line in shown), shown
    assert not any(line.startswith("    - ") and "kms:Encrypt" in line and "," not in line for line in shown), shown


def test_takes_effect_on_the_next_call(bridge, empty):
    key = bridge.key(purpose="apply")
    empty.user("alice", UserPolicyList=[inline("use", allow("kms:Encrypt"))])
    apply(bridge, empty, "--yes")
    iam = Iam(bridge)
    alice = iam.client(iam.access_key(user="alice"))
    call = {"KeyId": key, "Plaintext": b"text"}
    alice.encrypt(**call)
    empty.user("alice")
    apply(bridge, empty, "--yes")
    assert denied(alice.encrypt, **call)
    empty.policy("use", allow("kms:Encrypt")).user("alice", AttachedManagedPolicies=[{"PolicyName": "use"}])
    apply(bridge, empty, "--yes")
    alice.encrypt(**call)
    empty.without("users/alice.json")
    shown = apply(bridge, empty, "--prune", "--yes").stdout
    assert "- user/alice" in shown and "- access-key/AKIA" in shown
    with pytest.raises(ClientError) as caught:
        alice.encrypt(**call)
    assert caught.value.response["Error"]["Code"] == "UnrecognizedClientException"


def test_roles_may_trust_each_other_and_those_made_with_them(bridge, empty):
    arn = f"arn:aws:iam::{bridge.account}"
    empty.user("alice", Path="/people/")
    empty.role("a", trusts([f"{arn}:role/b", f"{arn}:user/people/alice"]))
    empty.role("b", trusts([f"{arn}:role/team/a", f"{arn}:role/b"]))
    done = apply(bridge, empty, "--yes", code=1)
    assert "roles/b.json: the trust policy of role b:" in done.stderr and "role/team/a" in done.stderr, done.stderr
    assert not Iam(bridge).run("role", "list")["Roles"] and not Iam(bridge).run("user", "list")["Users"]
    empty.role("a", trusts([f"{arn}:role/b", f"{arn}:user/people/alice"]), Path="/team/")
    apply(bridge, empty, "--yes")
    assert apply(bridge, empty, "--yes").stdout == "nothing to change\n"
    shown = Iam(bridge).show("role", "a")
    ids = shown["PrincipalIds"]
    assert ids[f"{arn}:role/b"] == Iam(bridge).show("role", "b")["RoleId"]
    assert ids[f"{arn}:user/people/alice"] == Iam(bridge).show("user", "alice")["UserId"]


def test_a_trusted_user_made_anew_is_a_difference(bridge, empty):
    empty.user("alice").role("app", trusts(f"arn:aws:iam::{bridge.account}:user/alice"))
    apply(bridge, empty, "--yes")
    iam = Iam(bridge)
    iam.run("user", "delete", "alice")
    shown = apply(bridge, empty, "--dry-run").stdout
    assert "+ user/alice" in shown and "~ role/app (trusted principals)" in shown
    apply(bridge, empty, "--yes")
    assert list(iam.show("role", "app")["PrincipalIds"].values()) == [iam.show("user", "alice")["UserId"]]
    assert apply(bridge, empty, "--yes").stdout == "nothing to change\n"


@pytest.mark.parametrize(("file", "text", "told"), [
    ("users/a.json", '{\n  "UserName": "a",\n  "Tag": []\n}', "users/a.json:3: unknown member `Tag`: did you mean `Tags`?"),
    ("users/a.json", '{\n  "UserName": "a"\n  "Path": "/"\n}', "users/a.json:3: expected `,` or `}`"),
    ("users/a.json", '{"UserName": "a b"}', "users/a.json:1: `a b` is not"),
    ("users/a.json", '{"UserName": "a", "UserName": "b"}', "users/a.json:1: duplicate member `UserName`"),
    ("users/a.json", '{"UserName": "a", "GroupList": ["nobody"]}', "users/a.json: user a: The group with name nobody cannot"),
    ("users/a.json", '{"AttachedManagedPolicies": [{"PolicyName": "none"}]}', "users/a.json: user a: Policy arn:aws:iam::"),
    ("roles/a.json", '{"RoleName": "a"}', "roles/a.json:1: missing member `AssumeRolePolicyDocument`"),
    ("roles/a.json", json.dumps({"AssumeRolePolicyDocument": trusts("arn:aws:iam::999999999999:root")}), "roles/a.json: the trust policy of role a:"),
    ("policies/a.json", '{"Version": "2012-10-17", "Statement": [{"Effect": "Maybe"}]}', "policies/a.json: "),
    ("policies/a.json", '{"Version": "2012-10-17", "Statement": [], "Statement": []}', "policies/a.json"),
    ("user/a.json", "{}", "user: it has no meaning here: did you mean `users`?"),
    ("acount.json", "{}", "acount.json: it has no meaning here: did you mean `account.json`?"),
    ("users/deep/a.json", "{}", "users/deep: folders in a folder have no meaning"),
    ("account.json", '{"AccountId": "999999999999", "Name": "x"}', "account.json: AccountId is 999999999999"),
    ("accounts/12/users/a.json", "{}", "accounts/12: `12` is not a 12-digit account id"),
    ("accounts/999999999999/users/a.json", "{}", "accounts/999999999999/users/a.json: user a: there is no account 999999999999"),
    ("services/a.json", '{"ServiceName": "nodot"}', "services/a.json:1: `nodot` is not a service principal"),
    ("oidc-providers/a.json", '{"Url": "https://a.example", "ClientIDList": ["x"]}', "oidc-providers/a.json: say where"),
])
def test_refusals_name_the_file_and_change_nothing(bridge, empty, file, text, told):
    empty.user("zoe").put(file, text)
    done = apply(bridge, empty, "--yes", code=1)
    assert f"error: {told}" in done.stderr or f": {told}" in done.stderr, done.stderr
    assert not [u for u in Iam(bridge).run("user", "list")["Users"] if u["UserName"] == "zoe"], "part of it was done"


def test_names_that_differ_in_case_alone_are_one(bridge, empty):
    empty.put("users/a.json", {"UserName": "Alice"}).put("users/b.json", {"UserName": "alice"})
    assert "users/b.json: user `alice` is in users/a.json too" in apply(bridge, empty, "--yes", code=1).stderr
    empty.without("users/b.json")
    apply(bridge, empty, "--yes")
    empty.put("users/a.json", {"UserName": "ALICE"})
    assert "users/a.json: user ALICE: User with name Alice already exists." in apply(bridge, empty, "--yes", code=1).stderr
    shown = apply(bridge, empty, "--yes", "--prune").stdout
    assert "- user/Alice" in shown and "+ user/ALICE" in shown


def test_deletes_only_when_asked_and_only_what_the_folder_manages(bridge, empty, tmp_path):
    iam = Iam(bridge)
    empty.group("ops").policy("use", allow("kms:Encrypt"))
    empty.user("alice", GroupList=["ops"], AttachedManagedPolicies=[{"PolicyName": "use"}])
    empty.role("app", trusts(f"arn:aws:iam::{bridge.account}:root"))
    apply(bridge, empty, "--yes")
    other = f"{int(bridge.account) + 1:012}"
    if other not in [account["Id"] for account in iam.run("account", "list")["Accounts"]]:
        iam.make_account(other)
    iam.of(other).make_user("elsewhere")
    empty.without("groups/ops.json").without("policies/use.json").user("alice")
    assert not [line for line in apply(bridge, empty, "--dry-run").stdout.splitlines() if line.startswith("- ")]
    shutil.rmtree(empty.path / "roles")
    shown = [line for line in apply(bridge, empty, "--prune", "--yes").stdout.splitlines() if line.startswith("- ")]
    assert shown == ["- group/ops", "- policy/use"], "roles are not managed, alice is kept, the other account is not named"
    assert iam.show("role", "app") and iam.of(other).show("user", "elsewhere")
    # One that is in use stays, and with it all the rest.
    empty.policy("use", allow("kms:Encrypt")).role("app", trusts(f"arn:aws:iam::{bridge.account}:root"),
                                                   AttachedManagedPolicies=[{"PolicyName": "use"}])
    apply(bridge, empty, "--yes")
    empty.without("policies/use.json").without("users/alice.json")
    shutil.rmtree(empty.path / "roles")
    assert "is attached to role app" in apply(bridge, empty, "--prune", "--yes", code=1).stderr
    assert iam.show("user", "alice")
    # The other account's folder holds for it alone.
    (empty.path / "accounts" / other / "users").mkdir(parents=True)
    empty.policy("use", allow("kms:Encrypt")).user("alice")
    shown = apply(bridge, empty, "--prune", "--yes").stdout
    assert f"- user/elsewhere in {other}" in shown and "- user/alice" not in shown


def test_does_not_ask_where_nobody_can_answer(bridge, empty):
    empty.user("alice")
    done = apply(bridge, empty, code=64)
    assert "+ user/alice" in done.stdout and "--yes" in done.stderr
    assert not Iam(bridge).run("user", "list")["Users"]


@pytest.mark.parametrize(("word", "applied"), [("y", True), ("n", False), ("", False)])
def test_asks_on_a_terminal(bridge, empty, word, applied):
    empty.user("alice")
    done, shown = on_a_terminal(bridge, ["iam", "apply", os.fspath(empty)], {"Apply? [y/N] ": f"{word}\n"})
    assert (done == 0) == applied, shown
    assert bool(Iam(bridge).run("user", "list")["Users"]) == applied


def test_applies_only_what_was_shown(bridge, empty):
    empty.user("alice", Tags=[{"Key": "team", "Value": "a"}])
    iam = Iam(bridge)

    def meanwhile():
        iam.make_user("alice", tags={"team": "b"})
        return "y\n"

    code, shown = on_a_terminal(bridge, ["iam", "apply", os.fspath(empty)], {"Apply? [y/N] ": meanwhile})
    assert code == 1 and "+ user/alice" in shown and "not the one that was shown" in shown, shown
    assert iam.show("user", "alice")["Tags"] == [{"Key": "team", "Value": "b"}]


def test_applies_an_export_from_aws(bridge, empty):
    arn = f"arn:aws:iam::{bridge.account}"
    encoded = lambda document: urllib.parse.quote(json.dumps(document))  # noqa: E731
    details = {
        "UserDetailList": [{
            "Path": "/", "UserName": "alice", "UserId": "AIDAAAAAAAAAAAAAAAAAA", "Arn": f"{arn}:user/alice",
            "CreateDate": "2023-01-01T00:00:00+00:00", "UserPolicyList": [inline("own", encoded(allow("kms:Decrypt")))],
            "GroupList": ["ops"], "AttachedManagedPolicies": [{"PolicyName": "use", "PolicyArn": f"{arn}:policy/p/use"}],
            "PermissionsBoundary": {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": f"{arn}:policy/p/use"},
            "Tags": [{"Key": "team", "Value": "a"}],
        }],
        "GroupDetailList": [{"Path": "/", "GroupName": "ops", "GroupId": "AGPAAAAAAAAAAAAAAAAAA", "Arn": f"{arn}:group/ops",
                             "CreateDate": "2023-01-01T00:00:00+00:00", "GroupPolicyList": [],
                             "AttachedManagedPolicies": []}],
        "RoleDetailList": [{
            "Path": "/", "RoleName": "app", "RoleId": "AROAAAAAAAAAAAAAAAAAA", "Arn": f"{arn}:role/app",
            "CreateDate": "2023-01-01T00:00:00+00:00", "AssumeRolePolicyDocument": trusts(f"{arn}:user/alice"),
            "InstanceProfileList": [], "RolePolicyList": [], "AttachedManagedPolicies": [], "Tags": [],
            "RoleLastUsed": {"LastUsedDate": "2023-01-02T00:00:00+00:00", "Region": "us-east-1"},
        }],
        "Policies": [
            {"PolicyName": "use", "PolicyId": "ANPAAAAAAAAAAAAAAAAAA", "Arn": f"{arn}:policy/p/use", "Path": "/p/",
             "DefaultVersionId": "v2", "AttachmentCount": 1, "PermissionsBoundaryUsageCount": 1, "IsAttachable": True,
             "CreateDate": "2023-01-01T00:00:00+00:00", "UpdateDate": "2023-01-01T00:00:00+00:00",
             "PolicyVersionList": [
                 {"Document": encoded(allow("kms:Encrypt")), "VersionId": "v2", "IsDefaultVersion": True,
                  "CreateDate": "2023-01-01T00:00:00+00:00"},
                 {"Document": encoded(allow("kms:*")), "VersionId": "v1", "IsDefaultVersion": False,
                  "CreateDate": "2023-01-01T00:00:00+00:00"}]},
            {"PolicyName": "ReadOnlyAccess", "PolicyId": "ANPAAAAAAAAAAAAAAAAAB", "Path": "/",
             "Arn": "arn:aws:iam::aws:policy/ReadOnlyAccess", "DefaultVersionId": "v1", "PolicyVersionList": []},
        ],
    }
    file = empty.path / "export.json"
    file.write_text(json.dumps(details))
    apply(bridge, file, "--yes")
    iam = Iam(bridge)
    alice = iam.show("user", "alice")
    assert alice["InlinePolicies"] == {"own": allow("kms:Decrypt")} and alice["PermissionsBoundary"] == f"{arn}:policy/p/use"
    assert iam.run("policy", "show", f"{arn}:policy/p/use")["Policy"]["PolicyDocument"] == allow("kms:Encrypt")
    assert apply(bridge, file, "--yes").stdout == "nothing to change\n"
    # The same file in a folder; a list that is empty manages nothing.
    file.write_text(json.dumps(details | {"RoleDetailList": [], "UserDetailList": [], "IsTruncated": False}))
    file.rename(empty.path / "account-authorization-details.json")
    assert apply(bridge, empty, "--prune", "--yes").stdout == "nothing to change\n"
    file.write_text(json.dumps(details | {"IsTruncated": True}))
    assert "IsTruncated" in apply(bridge, file, "--yes", code=1).stderr
    file.write_text(json.dumps(details).replace(bridge.account, "444455556666"))
    assert "is not of account" in apply(bridge, file, "--yes", code=1).stderr


def test_export_applied_changes_nothing(bridge, empty, tmp_path):
    account = f"{int(bridge.account) + 2:012}"
    empty.put("organization.json", {"Id": "o-example", "Root": {
        "Id": "r-example", "Name": "Root", "OrganizationalUnits": [
            {"Id": "ou-prod", "Name": "Production", "ServiceControlPolicies": ["FullAWSAccess", "no-delete"],
             "OrganizationalUnits": [{"Id": "ou-prod-eu", "Name": "Europe"}]}]}})
    empty.put("service-control-policies/no-delete.json", {"PolicyDocument": {"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Action": "kms:ScheduleKeyDeletion", "Resource": "*"}]}})
    empty.put(f"accounts/{account}/account.json", {"Name": "production", "OrganizationalUnit": "ou-prod-eu"})
    empty.put(f"accounts/{account}/users/bob.json", {"UserPolicyList": [inline("use", allow("kms:Decrypt"))]})
    empty.policy("bare", allow("kms:Encrypt")).put("policies/b.json", {
        "PolicyName": "boundary", "Path": "/b/c/", "Description": "the most", "PolicyDocument": allow("kms:*")})
    empty.group("ops", GroupPolicyList=[inline("look", allow("kms:DescribeKey"))])
    empty.user("alice", Path="/people/", GroupList=["ops"], Tags=[{"Key": "team", "Value": "ü"}],
               AttachedManagedPolicies=[{"PolicyName": "bare"}],
               PermissionsBoundary={"PermissionsBoundaryArn": f"arn:aws:iam::{bridge.account}:policy/b/c/boundary"})
    empty.put("users/hidden.json", {"UserName": ".hidden"})
    empty.role("app", trusts(f"arn:aws:iam::{bridge.account}:user/people/alice"), MaxSessionDuration=7200, Description="d",
               RolePolicyList=[inline("use", allow("kms:Decrypt"))])
    empty.put("oidc-providers/kube.json", {"Url": "https://kube.example/a", "ClientIDList": ["sts"], "Algorithms": ["ES256"],
                                           "Jwks": {"keys": [{"kty": "EC"}]}})
    empty.put("services/backup.json", {"ServiceName": "backup.internal.example", "ManagedKey": "backup",
                                       "MayActFor": [bridge.account]})
    apply(bridge, empty, "--yes")
    assert apply(bridge, empty, "--prune", "--yes").stdout == "nothing to change\n"
    out = tmp_path / "out"
    (out / ".git").mkdir(parents=True)
    bridge.run("iam", "export", out)
    assert apply(bridge, out, "--prune", "--yes").stdout == "nothing to change\n"
    assert "is not empty" in bridge.run("iam", "export", out, check=False).stderr
    # And it makes the same again where nothing is.
    fresh = Bridge(extra_args=("--account", bridge.account))
    try:
        fresh.start()
        apply(fresh, out, "--yes")
        again = tmp_path / "again"
        fresh.run("iam", "export", again)
        assert read(again) == read(out)
    finally:
        fresh.close()


def read(folder):
    return {str(file.relative_to(folder)): json.loads(file.read_text()) for file in folder.rglob("*.json")}


def test_audit_has_the_summary_and_the_digest_of_the_folder(bridge, empty):
    secret = "arn:aws:kms:us-east-1:111122223333:key/a-name-that-only-the-document-has"
    empty.user("alice", UserPolicyList=[inline("use", allow("kms:Encrypt", secret))])
    apply(bridge, empty, "--yes")
    *_, look, intent, outcome = records(bridge)
    assert intent["eventType"] == "HsmBridgeIntent" and outcome["eventType"] != "HsmBridgeIntent"
    source = outcome["requestParameters"]["apply"]["source"]
    assert len(source) == 64 and look["requestParameters"]["apply"]["source"] == source
    details = outcome["additionalEventData"]["details"]
    assert details["count"] == 1 and details["changes"][0]["Name"] == "alice" and details["source"] == source
    # The document itself stands once: where the outcome says what became different.
    changed = outcome["additionalEventData"].pop("stateChange")
    assert secret in json.dumps(changed) and secret not in json.dumps([look, intent, outcome])
    empty.user("alice", Tags=[{"Key": "a", "Value": "b"}])
    apply(bridge, empty, "--yes")
    assert records(bridge)[-1]["requestParameters"]["apply"]["source"] != source


def test_the_example_applies(bridge, empty, tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "example")
    role = tmp_path / "example/roles/invoices-app.json"
    role.write_text(role.read_text().replace("111122223333", bridge.account))
    apply(bridge, tmp_path / "example", "--yes")
    assert apply(bridge, tmp_path / "example", "--prune", "--yes").stdout == "nothing to change\n"


def test_without_a_server_and_after_kill(tmp_path):
    """All or nothing, whatever moment the process that applies is killed at."""
    instance = Bridge()
    try:
        instance.start()
        env = instance.tool_env()
        folder = Folder(tmp_path / "folder")
        for n in range(200):
            folder.user(f"user-{n:04}", UserPolicyList=[inline("use", allow("kms:Decrypt"))])
        # The server dies while it applies.
        begun = time.monotonic()
        apply(instance, folder, "--dry-run")
        length = time.monotonic() - begun
        seen = set()
        for share in (0.2, 0.8, 1.1, 1.4, 1.8):
            command = subprocess.Popen([str(binary()), "iam", "apply", os.fspath(folder), "--yes"], env=env,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            time.sleep(length * share)
            instance.kill()
            command.wait(60)
            instance.start()
            count = len(Iam(instance).run("user", "list")["Users"])
            assert count in (0, 200), f"{count} of 200 users"
            seen.add(count)
            if count:
                break
        # With no server running, the command itself does it.
        instance.stop()
        done = apply(instance, folder, "--yes")
        assert done.stdout.splitlines()[-1] == ("nothing to change" if 200 in seen else "applied")
        assert apply(instance, folder, "--yes").stdout == "nothing to change\n"
        folder.user("user-0000")
        assert "~ user/user-0000 (inline policies)" in apply(instance, folder, "--yes").stdout
    finally:
        instance.close()


def on_a_terminal(bridge, words, answers):
    """Runs a command on a pseudo-terminal; `answers`: what to type (or what makes it) when a text has appeared."""
    leader, follower = pty.openpty()
    command = subprocess.Popen([str(binary()), *words], stdin=follower, stdout=follower, stderr=follower,
                               env=bridge.tool_env(), cwd=bridge.root)
    os.close(follower)
    watchdog = threading.Timer(60, command.kill)
    watchdog.start()
    shown, answers = "", dict(answers)
    try:
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part.decode()
            for text in [text for text in answers if text in shown]:
                answer = answers.pop(text)
                os.write(leader, (answer() if callable(answer) else answer).encode())
        return command.wait(60), shown
    finally:
        watchdog.cancel()
        os.close(leader)
