"""Temporary credentials by boto3 and the AWS CLI: who they are, what they may, when they end, and what the log says of them."""

import base64
import json
import subprocess
import time

import pytest
from botocore.exceptions import ClientError

from bridge import clean_env
from iam_tool import Iam, allow, document, statement, trusts
from oidc_issuer import Issuer

INVALID = "The security token included in the request is invalid."


def refused(call, **params):
    """(code, message, status) of the refusal."""
    with pytest.raises(ClientError) as error:
        call(**params)
    told = error.value.response
    return told["Error"]["Code"], told["Error"]["Message"], told["ResponseMetadata"]["HTTPStatusCode"]


@pytest.fixture
def iam(own_bridge):
    return Iam(own_bridge)


class Asker:
    """A user that may assume roles."""

    def __init__(self, iam, name="alice", **policies):
        self.iam, self.arn = iam, iam.make_user(name, policies=policies or {"sts": allow("sts:*")})
        self.key = iam.access_key(user=name)
        self.sts = iam.client(self.key, "sts")

    def assume(self, role, session="one", **params):
        return self.sts.assume_role(RoleArn=role, RoleSessionName=session, **params)

    def session(self, role, service="kms", **params):
        return client(self.iam, self.assume(role, **params)["Credentials"], service)


def client(iam, credentials, service="kms"):
    key = credentials["AccessKeyId"], credentials["SecretAccessKey"]
    return iam.client(key, service, credentials["SessionToken"])


def events(iam, name):
    return [e for e in iam.bridge.journal() if e["eventName"] == name and e["eventType"] == "AwsApiCall"]


def test_a_role_is_assumed_and_used(iam):
    key = iam.bridge.new_key()
    alice = Asker(iam)
    role = iam.role("ops", trust=trusts(alice.arn), policies={"use": allow("kms:DescribeKey")}, path="/team/")
    answer = alice.assume(role)
    got = answer["Credentials"]
    assert got["AccessKeyId"].startswith("ASIA") and len(got["SecretAccessKey"]) == 40 and len(got["SessionToken"]) <= 4096
    session_arn = f"arn:aws:sts::{iam.account_id}:assumed-role/ops/one"
    assert answer["AssumedRoleUser"]["Arn"] == session_arn and answer["AssumedRoleUser"]["AssumedRoleId"].endswith(":one")
    assert answer["PackedPolicySize"] == 0 and 3500 < got["Expiration"].timestamp() - time.time() <= 3600

    who = client(iam, got, "sts").get_caller_identity()
    assert (who["Arn"], who["UserId"]) == (session_arn, answer["AssumedRoleUser"]["AssumedRoleId"])
    kms = client(iam, got)
    kms.describe_key(KeyId=key)
    assert refused(kms.disable_key, KeyId=key)[0] == "AccessDeniedException"

    (assumed,) = events(iam, "AssumeRole")
    assert assumed["requestParameters"] == {"roleArn": role, "roleSessionName": "one"} and assumed["readOnly"] is True
    assert assumed["responseElements"]["credentials"].keys() == {"accessKeyId", "expiration"}
    assert assumed["resources"] == [{"accountId": iam.account_id, "type": "AWS::IAM::Role", "ARN": role}]
    (described,) = events(iam, "DescribeKey")
    identity = described["userIdentity"]
    assert (identity["type"], identity["arn"], identity["accessKeyId"]) == ("AssumedRole", session_arn, got["AccessKeyId"])
    context = identity["sessionContext"]
    issuer = context["sessionIssuer"]
    assert (issuer["type"], issuer["arn"], issuer["userName"]) == ("Role", role, "ops")
    assert context["attributes"]["mfaAuthenticated"] == "false" and context["attributes"]["creationDate"].endswith("Z")

    # Neither secrets nor session tokens are written down, here or in the log of the service.
    written = b"".join(iam.bridge.journal_lines()) + iam.bridge.stderr().encode()
    for secret in (got["SecretAccessKey"], got["SessionToken"], alice.key[1]):
        assert secret.encode() not in written


def test_who_may_assume_and_what_is_told(iam):
    alice, bob = Asker(iam), Asker(iam, "bob", nothing=allow("kms:ListKeys"))
    role = iam.role("ops", trust=trusts(alice.arn, condition={"StringEquals": {"sts:ExternalId": "x-1"}}))
    missing = f"arn:aws:iam::{iam.account_id}:role/none"
    foreign = "arn:aws:iam::999999999999:role/ops"

    def text(asker, arn):
        return ("AccessDenied", f"User: {asker.arn} is not authorized to perform: sts:AssumeRole on resource: {arn}", 403)

    assert alice.assume(role, ExternalId="x-1")
    for asker, arn, more in [(alice, role, {}), (alice, role, {"ExternalId": "x-2"}), (bob, role, {"ExternalId": "x-1"}),
                             (alice, missing, {}), (alice, foreign, {})]:
        assert refused(asker.assume, role=arn, **more) == text(asker, arn)
    root = iam.bridge.client("sts")
    assert refused(root.assume_role, RoleArn=role, RoleSessionName="one", ExternalId="x-1")[0] == "AccessDenied"
    assert refused(alice.assume, role=role, session="a b")[1] == (
        "1 validation error detected: Value 'a b' at 'roleSessionName' failed to satisfy constraint: Member must satisfy "
        r"regular expression pattern: [\w+=,.@-]*")
    assert refused(alice.assume, role=role, ExternalId="x-1", DurationSeconds=3601)[:2] == (
        "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
    assert refused(alice.assume, role=role, ExternalId="x-1", SerialNumber="arn:aws:iam::1:mfa/a", TokenCode="123456")[0] == "AccessDenied"
    assert len([e for e in events(iam, "AssumeRole") if e.get("errorCode") == "AccessDenied"]) == 7


def test_session_policies_only_take_away(iam):
    key = iam.bridge.new_key()
    alice = Asker(iam)
    role = iam.role("ops", trust=trusts(alice.arn), policies={"use": allow("kms:DescribeKey")})
    narrow = iam.policy("narrow", allow("kms:ListKeys"))
    for policies, may in [({"Policy": json.dumps(allow("kms:*"), indent=4)}, True),
                          ({"Policy": json.dumps(allow("kms:ListKeys"))}, False),
                          ({"PolicyArns": [{"arn": narrow}]}, False),
                          ({"Policy": json.dumps(allow("kms:DescribeKey")), "PolicyArns": [{"arn": narrow}]}, True)]:
        answer = alice.assume(role, **policies)
        assert 0 < answer["PackedPolicySize"] <= 100
        kms = client(iam, answer["Credentials"])
        if may:
            kms.describe_key(KeyId=key)
        else:
            assert "no session policy allows" in refused(kms.describe_key, KeyId=key)[1]
        # What the role does not have no session policy gives.
        assert refused(kms.disable_key, KeyId=key)[0] == "AccessDeniedException"
    assert refused(alice.assume, role=role, Policy="{")[0] == "MalformedPolicyDocument"
    long = json.dumps(document(*[statement("Allow", "kms:ListKeys") | {"Sid": f"s{n}" * 9} for n in range(30)]))
    code, message, _ = refused(alice.assume, role=role, Policy=long)
    assert code == "PackedPolicyTooLarge" and message.startswith("Packed policy consumes ")
    tags = [{"Key": f"k{n}", "Value": "v" * 200} for n in range(40)]
    open_role = iam.role("open", trust=trusts(alice.arn, action=["sts:AssumeRole", "sts:TagSession"]))
    assert refused(alice.assume, role=open_role, Tags=tags)[0] == "PackedPolicyTooLarge"
    assert refused(alice.assume, role=role, PolicyArns=[{"arn": narrow + "x"}])[0] == "ValidationError"


def test_tags_and_source_identity_along_a_chain(iam):
    everything = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
    key = iam.bridge.new_key()
    alice = Asker(iam)
    own = f"arn:aws:iam::{iam.account_id}:role"
    plain = iam.role("plain", trust=trusts(alice.arn))
    first = iam.role("first", trust=trusts(alice.arn, action=everything), policies={"next": allow("sts:*")}, max_session=7200)
    tagged = {"StringEquals": {"aws:PrincipalTag/team": "red", "aws:SourceIdentity": "alice"}}
    second = iam.role("second", trust=trusts(f"{own}/first", action=everything),
                      policies={"use": allow("kms:DescribeKey", condition=tagged)})
    shut = iam.role("shut", trust=trusts(f"{own}/first"))
    tags = [{"Key": "team", "Value": "red"}, {"Key": "own", "Value": "x"}]
    for more, action in [({"Tags": tags}, "TagSession"), ({"SourceIdentity": "alice"}, "SetSourceIdentity")]:
        assert f"sts:{action} on resource: {plain}" in refused(alice.assume, role=plain, **more)[1]
    sts = alice.session(first, "sts", Tags=tags, TransitiveTagKeys=["team"], SourceIdentity="alice")
    ask = {"RoleSessionName": "two"}
    chained = sts.assume_role(RoleArn=second, **ask)
    assert chained["SourceIdentity"] == "alice"
    client(iam, chained["Credentials"]).describe_key(KeyId=key)
    assert events(iam, "DescribeKey")[-1]["userIdentity"]["sessionContext"]["sourceIdentity"] == "alice"
    assert refused(sts.assume_role, RoleArn=shut, **ask)[0] == "AccessDenied"
    assert refused(sts.assume_role, RoleArn=second, SourceIdentity="bob", **ask)[0] == "AccessDenied"
    assert refused(sts.assume_role, RoleArn=second, Tags=[{"Key": "TEAM", "Value": "blue"}], **ask)[0] == "ValidationError"
    assert "role chaining" in refused(sts.assume_role, RoleArn=second, DurationSeconds=3601, **ask)[1]


def test_sessions_of_users(iam):
    key = iam.bridge.new_key()
    alice = Asker(iam, use=allow(["kms:DescribeKey", "sts:GetFederationToken", "sts:GetAccessKeyInfo"]))
    got = alice.sts.get_session_token()["Credentials"]
    assert 43_000 < got["Expiration"].timestamp() - time.time() <= 43_200
    session = client(iam, got, "sts")
    assert session.get_caller_identity()["Arn"] == alice.arn
    client(iam, got).describe_key(KeyId=key)
    identity = events(iam, "DescribeKey")[-1]["userIdentity"]
    assert identity["type"] == "IAMUser" and identity["sessionContext"]["attributes"]["mfaAuthenticated"] == "false"
    assert refused(session.get_session_token)[:2] == ("AccessDenied", "Cannot call GetSessionToken with session credentials")
    assert refused(session.get_federation_token, Name="fed")[0] == "AccessDenied"

    bare = alice.sts.get_federation_token(Name="fed")
    assert bare["FederatedUser"]["Arn"] == f"arn:aws:sts::{iam.account_id}:federated-user/fed"
    assert refused(client(iam, bare["Credentials"]).describe_key, KeyId=key)[0] == "AccessDeniedException"
    fed = alice.sts.get_federation_token(Name="fed", Policy=json.dumps(allow("kms:*")))["Credentials"]
    client(iam, fed).describe_key(KeyId=key)
    identity = events(iam, "DescribeKey")[-1]["userIdentity"]
    assert (identity["type"], identity["sessionContext"]["sessionIssuer"]["arn"]) == ("FederatedUser", alice.arn)

    assert alice.sts.get_access_key_info(AccessKeyId=alice.key[0])["Account"] == iam.account_id
    assert refused(alice.sts.get_access_key_info, AccessKeyId="AKIA" + "A" * 16)[0] == "ValidationError"
    root = iam.bridge.client("sts").get_session_token(DurationSeconds=43_200)["Credentials"]
    assert root["Expiration"].timestamp() - time.time() <= 3600
    assert client(iam, root, "sts").get_caller_identity()["Arn"].endswith(":root")


def test_tokens_that_are_not_ours(iam):
    alice = Asker(iam)
    role = iam.role("ops", trust=trusts(alice.arn))
    got, other = alice.assume(role)["Credentials"], alice.assume(role)["Credentials"]
    raw = bytearray(base64.b64decode(got["SessionToken"]))
    raw[-1] ^= 1
    tampered = base64.b64encode(raw).decode()
    raw[1] ^= 1
    for change in [{"SessionToken": tampered}, {"SessionToken": base64.b64encode(raw).decode()}, {"SessionToken": "x"},
                   {"SessionToken": other["SessionToken"]}, {"SessionToken": None}]:
        assert refused(client(iam, got | change, "sts").get_caller_identity) == ("InvalidClientTokenId", INVALID, 403)
        assert refused(client(iam, got | change).list_keys) == ("UnrecognizedClientException", INVALID, 400)
    # A long-term key has no token, and a wrong secret is a wrong signature.
    assert refused(iam.client(alice.key, "sts", got["SessionToken"]).get_caller_identity)[0] == "InvalidClientTokenId"
    wrong = got | {"SecretAccessKey": "A" * 40}
    assert refused(client(iam, wrong, "sts").get_caller_identity)[0] == "SignatureDoesNotMatch"
    client(iam, got, "sts").get_caller_identity()


def test_sessions_die_with_what_they_stand_on(iam):
    alice = Asker(iam)
    role = iam.role("ops", trust=trusts(alice.arn), max_session=3600)

    def dead(session):
        return refused(session.get_caller_identity)[:2] == ("InvalidClientTokenId", INVALID)

    # One session by its key; all sessions of the role; the role itself, also when it comes back under its name.
    revoked, kept = alice.assume(role)["Credentials"], alice.session(role, "sts")
    iam.run("session", "revoke", revoked["AccessKeyId"])
    assert dead(client(iam, revoked, "sts")) and kept.get_caller_identity()
    iam.run("role", "revoke-sessions", "ops")
    assert dead(kept)
    time.sleep(1.1)
    later = alice.session(role, "sts")
    assert later.get_caller_identity()
    iam.run("role", "delete", "ops")
    assert dead(later)
    iam.role("ops", trust=trusts(alice.arn))
    assert dead(later)

    # A user's session outlives the access key with which it was got, not the user.
    mine = client(iam, alice.sts.get_session_token()["Credentials"], "sts")
    carol = Asker(iam, "carol")
    theirs = client(iam, carol.sts.get_federation_token(Name="fed")["Credentials"], "sts")
    iam.run("access-key", "delete", alice.key[0])
    assert mine.get_caller_identity() and theirs.get_caller_identity()
    iam.run("user", "delete-policy", "carol", "sts")
    iam.run("user", "delete", "carol")
    assert dead(theirs)


def test_a_restart_keeps_sessions(iam):
    alice = Asker(iam)
    got = alice.assume(iam.role("ops", trust=trusts(alice.arn)))["Credentials"]
    assert client(iam, got, "sts").get_caller_identity()
    iam.bridge.restart()
    assert client(iam, got, "sts").get_caller_identity()
    (made,) = [e for e in iam.bridge.journal() if e["eventName"] == "SessionKeys" and e["eventType"] == "HsmBridgeSystem"]
    assert made["userIdentity"]["invokedBy"] == "AWS Internal"


def test_presigned_with_a_session(iam):
    import urllib.request

    alice = Asker(iam)
    session = alice.session(iam.role("ops", trust=trusts(alice.arn)), "sts")
    url = session.generate_presigned_url("get_caller_identity", ExpiresIn=60, HttpMethod="GET")
    assert "X-Amz-Security-Token" in url
    with urllib.request.urlopen(url) as answer:
        assert b"assumed-role/ops/one" in answer.read()


def cli(iam, tmp_path, *args, **env):
    variables = {"AWS_ENDPOINT_URL": iam.bridge.env["AWS_ENDPOINT_URL"], "AWS_DEFAULT_REGION": iam.bridge.region, "HOME": str(tmp_path)}
    done = subprocess.run(["aws", "--output", "json", *args], env=clean_env(**variables, **env), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_profile_of_the_cli(iam, tmp_path):
    alice = Asker(iam)
    role = iam.role("ops", trust=trusts(alice.arn), policies={"list": allow("kms:ListKeys")})
    config, credentials = tmp_path / "config", tmp_path / "credentials"
    credentials.write_text(f"[base]\naws_access_key_id = {alice.key[0]}\naws_secret_access_key = {alice.key[1]}\n")
    config.write_text(f"[profile ops]\nrole_arn = {role}\nsource_profile = base\nrole_session_name = cli\n")
    files = {"AWS_CONFIG_FILE": str(config), "AWS_SHARED_CREDENTIALS_FILE": str(credentials), "AWS_PROFILE": "ops"}
    assert cli(iam, tmp_path, "sts", "get-caller-identity", **files)["Arn"].endswith("assumed-role/ops/cli")
    assert "Keys" in cli(iam, tmp_path, "kms", "list-keys", **files)


@pytest.mark.parametrize("shape", ["kubernetes", "adfs"])
def test_web_identity(iam, tmp_path, shape):
    client_id = "sts.amazonaws.com" if shape == "kubernetes" else "5f1c9d2e-8a4b-4c8e-9b57-0d1e2f3a4b5c"
    url = "https://kubernetes.default.svc.cluster.local" if shape == "kubernetes" else "https://adfs.example/adfs"
    issuer = Issuer(url)
    provider = iam.oidc_provider(url, [client_id], issuer.jwks())
    name = url.removeprefix("https://")
    who = ({f"{name}:sub": "system:serviceaccount:payments:api"} if shape == "kubernetes" else {f"{name}:aud": client_id})
    action = "sts:AssumeRoleWithWebIdentity"
    role = iam.role("web", trust=trusts({"Federated": provider}, action, {"StringEquals": who}),
                    policies={"list": allow("kms:ListKeys")})
    shut = iam.role("shut", trust=trusts({"Federated": provider}, action, {"StringEquals": {f"{name}:sub": "nobody"}}))
    token = issuer.kubernetes() if shape == "kubernetes" else issuer.adfs(client_id)
    sts = iam.client(("AKIAAAAAAAAAAAAAAAAA", "unused"), "sts")
    ask = {"RoleSessionName": "pod", "WebIdentityToken": token}
    answer = sts.assume_role_with_web_identity(RoleArn=role, **ask)
    assert (answer["Provider"], answer["Audience"]) == (url, client_id)
    client(iam, answer["Credentials"]).list_keys()
    context = events(iam, "ListKeys")[-1]["userIdentity"]["sessionContext"]
    assert context["webIdFederationData"]["federatedProvider"] == provider
    (assumed,) = events(iam, "AssumeRoleWithWebIdentity")
    assert assumed["userIdentity"]["type"] == "WebIdentityUser" and assumed["userIdentity"]["identityProvider"] == url

    denied = ("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity", 403)
    for arn in (shut, shut + "-none"):
        assert refused(sts.assume_role_with_web_identity, RoleArn=arn, **ask) == denied
    forged = Issuer(url).kubernetes() if shape == "kubernetes" else Issuer(url).adfs(client_id)
    count = len(iam.bridge.journal())
    for bad in (forged, "a.b.c", token[:-8] + "AAAAAAAA"):
        code = refused(sts.assume_role_with_web_identity, RoleArn=role, RoleSessionName="pod", WebIdentityToken=bad)[0]
        assert code == "InvalidIdentityToken"
    assert len(iam.bridge.journal()) == count, "tokens that are not believed leave no record of their own"
    file = tmp_path / "token"
    file.write_text(token)
    variables = {"AWS_ROLE_ARN": role, "AWS_WEB_IDENTITY_TOKEN_FILE": str(file), "AWS_ROLE_SESSION_NAME": "pod"}
    assert cli(iam, tmp_path, "sts", "get-caller-identity", **variables)["Arn"].endswith("assumed-role/web/pod")
    assert token.encode() not in b"".join(iam.bridge.journal_lines())
