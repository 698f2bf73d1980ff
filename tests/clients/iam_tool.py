"""Identities for tests: made with `hsm-bridge iam …` against a running (or stopped) bridge, handed out as boto3 clients.

    iam = Iam(bridge)
    alice = iam.user("alice", policies={"use": allow("kms:Decrypt")})     # a boto3 KMS client that signs as alice
    role = iam.role("app", trust=trusts("arn:aws:iam::111122223333:user/alice"), policies=…)   # the role's ARN
"""

import json
import secrets

import boto3
from botocore.config import Config

# An account that no test makes: tests share instances, and run in any order.
NOBODYS = "999999999999"


def document(*statements, version="2012-10-17"):
    return {"Version": version, "Statement": list(statements)}


def statement(effect, action, resource="*", condition=None, **more):
    made = {"Effect": effect, "Action": action, "Resource": resource} | more
    return made | ({"Condition": condition} if condition else {})


def allow(action, resource="*", condition=None):
    return document(statement("Allow", action, resource, condition))


def deny(action, resource="*", condition=None):
    return document(statement("Deny", action, resource, condition))


def trusts(principal, action="sts:AssumeRole", condition=None):
    """A trust policy; `principal`: ARN, list of ARNs, or a whole Principal element."""
    element = principal if isinstance(principal, dict) else {"AWS": principal}
    made = {"Effect": "Allow", "Principal": element, "Action": action}
    return document(made | ({"Condition": condition} if condition else {}))


class Refused(Exception):
    """The command said no."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


class Iam:
    def __init__(self, bridge, account=None):
        self.bridge, self.account = bridge, account
        self.keys = {}

    @property
    def account_id(self):
        return self.account or self.bridge.account

    def of(self, account):
        """The same bridge, another account."""
        return Iam(self.bridge, account)

    def run(self, *args, stdin=None, json_out=True):
        """`hsm-bridge iam …`; the answer as JSON, `Refused` when it is not done."""
        named = ["--account", self.account] if self.account else []
        command = ["iam", *args, *named, *(["--json"] if json_out else [])]
        done = self.bridge.run(*command, check=False, stdin=stdin)
        if done.returncode:
            raise Refused(done.returncode, done.stderr.strip().removeprefix("error: "))
        return json.loads(done.stdout) if json_out else done.stdout

    def with_document(self, policy, *args):
        """A command whose last argument is a document on standard input."""
        return self.run(*args, "-", stdin=policy if isinstance(policy, str) else json.dumps(policy))

    # -- identities -----------------------------------------------------------------------------------------------------

    def make_user(self, name=None, policies=None, attached=(), groups=(), tags=None, boundary=None, path="/"):
        """Makes the user without an access key and gives its ARN."""
        name = name or f"user-{secrets.token_hex(5)}"
        options = [word for key, value in (tags or {}).items() for word in ("--tag", f"{key}={value}")]
        if boundary:
            options += ["--boundary", boundary]
        made = self.run("user", "create", name, "--path", path, *options)
        self._add_policies("user", name, policies, attached)
        for group in groups:
            self.run("user", "add-to-group", name, group)
        return made["Changes"][0]["Arn"]

    def user(self, name=None, service="kms", **options):
        """Makes the user with one access key: a boto3 client that signs with it."""
        name = self.make_user(name, **options).rsplit("/", 1)[1]
        return self.client(self.access_key(user=name), service)

    def group(self, name, policies=None, attached=()):
        made = self.run("group", "create", name)
        self._add_policies("group", name, policies, attached)
        return made["Changes"][0]["Arn"]

    def role(self, name=None, trust=None, policies=None, attached=(), max_session=3600, tags=None, boundary=None, path="/"):
        """Makes the role and gives its ARN. Without `trust` the account may assume it."""
        name = name or f"role-{secrets.token_hex(5)}"
        trust = trust or trusts(f"arn:aws:iam::{self.account_id}:root")
        options = [word for key, value in (tags or {}).items() for word in ("--tag", f"{key}={value}")]
        if boundary:
            options += ["--boundary", boundary]
        made = self.run("role", "create", name, "--path", path, "--max-session", max_session, *options, "--trust-policy",
                        "-", stdin=trust if isinstance(trust, str) else json.dumps(trust))
        self._add_policies("role", name, policies, attached)
        return made["Changes"][0]["Arn"]

    def policy(self, name, policy, service_control=False):
        """Makes a managed policy (or an organisation policy) and gives its ARN."""
        made = self.with_document(policy, "policy", "create", *(["--service-control"] if service_control else []), name)
        return made["Changes"][0]["Arn"]

    def make_account(self, account, name="test", unit=None):
        self.run("account", "create", account, "--name", name, *(["--unit", unit] if unit else []))
        return self.of(account)

    def unit(self, name, parent=None, unit=None, organization=None):
        """Makes an organisational unit, or the root of an organisation, and gives its id."""
        options = [word for option, value in (("--parent", parent), ("--id", unit), ("--organization", organization))
                   if value for word in (option, value)]
        return self.run("unit", "create", name, *options)["Changes"][0]["Name"]

    def oidc_provider(self, url, client_ids, jwks, algorithms=("RS256",)):
        """Makes a provider whose keys are kept here (`jwks`: dict) and gives its ARN."""
        options = [word for client_id in client_ids for word in ("--client-id", client_id)]
        options += [word for algorithm in algorithms for word in ("--algorithm", algorithm)]
        made = self.run("oidc-provider", "create", "--url", url, *options, "--jwks-file", "-", stdin=json.dumps(jwks))
        return made["Changes"][0]["Arn"]

    def make_service(self, name, may_act_for=(), managed_key=None):
        options = [word for principal in may_act_for for word in ("--may-act-for", principal)]
        self.run("service", "register", name, *options, *(["--managed-key", managed_key] if managed_key else []))
        return name

    def service(self, name, service="kms", **options):
        """Registers the service with one access key: a boto3 client that signs with it."""
        return self.client(self.access_key(service=self.make_service(name, **options)), service)

    def show(self, kind, name):
        (shown,) = self.run(kind, "show", name).values()
        return shown

    def _add_policies(self, kind, name, policies, attached):
        for policy_name, policy in (policies or {}).items():
            self.with_document(policy, kind, "put-policy", name, policy_name)
        for arn in attached:
            self.run(kind, "attach-policy", name, arn)

    # -- credentials ----------------------------------------------------------------------------------------------------

    def access_key(self, user=None, service=None, root=False):
        """A new access key: (id, secret)."""
        owner = ["--root"] if root else ["--user", user] if user else ["--service", service]
        made = self.run("access-key", "create", *owner)
        return made["accessKeyId"], made["secretAccessKey"]

    def client(self, key, service="kms", token=None):
        """A stock boto3 client without retries; `key`: (id, secret), `token`: a session token."""
        session = boto3.session.Session(aws_access_key_id=key[0], aws_secret_access_key=key[1], aws_session_token=token,
                                        region_name=self.bridge.region)
        made = session.client(
            service, endpoint_url=self.bridge.endpoint if service == "kms" else self.bridge.env["AWS_ENDPOINT_URL"],
            verify=self.bridge.ca_bundle if self.bridge.tls else None,
            config=Config(retries={"total_max_attempts": 1, "mode": "standard"}, connect_timeout=5, read_timeout=60))
        made.meta.events.register("after-call", self.bridge._after_call)
        return made

    def assume(self, client_key, role_arn, session="test", service="kms", **params):
        """AssumeRole with an access key (id, secret): a client with the temporary credentials."""
        got = self.client(client_key, "sts").assume_role(RoleArn=role_arn, RoleSessionName=session, **params)["Credentials"]
        return self.client((got["AccessKeyId"], got["SecretAccessKey"]), service, got["SessionToken"])
