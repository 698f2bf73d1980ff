"""What tests of authorization share: people, roles' sessions, keys with a policy, AWS's texts of refusals (authorization.md
§1.13), and what the log says of a call. Everything has a name of its own, so that tests share a server."""

import json
import secrets

from checks import refused
from cli import AwsCli, CliError, debian, version_1
from iam_tool import document, statement

NO_KEY_POLICY = "because no resource-based policy allows the {} action"
NO_IDENTITY_POLICY = "because no identity-based policy allows the {} action"
NO_BOUNDARY = "because no permissions boundary allows the {} action"
NO_SESSION_POLICY = "because no session policy allows the {} action"
KEY_POLICY_DENIES = "with an explicit deny in a resource-based policy"
IDENTITY_POLICY_DENIES = "with an explicit deny in an identity-based policy"
BOUNDARY_DENIES = "with an explicit deny in a permissions boundary"
SESSION_POLICY_DENIES = "with an explicit deny in a session policy"
SCP_DENIES = "with an explicit deny in a service control policy"
NOT_THERE = ("because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based "
             "policy explicitly denies access")
BY_CIPHERTEXT = "the resource associated with this ciphertext"
THIS_RESOURCE = "this resource"


def text(who, action, on, why):
    """`on`: an ARN or `*`."""
    return f"User: {arn(who)} is not authorized to perform: {action} on resource: {arn(on)} {why.format(action)}"


def hidden_text(who, action, on=THIS_RESOURCE):
    return f"User: {arn(who)} is not authorized to perform: {action} on {on} {NOT_THERE}"


def denied(who, action, on, why):
    """`with denied(alice, "kms:Decrypt", key, NO_IDENTITY_POLICY):` The call is refused, with the whole of AWS's text."""
    return refused("AccessDeniedException", text(who, action, on, why))


def hidden(who, action, on=THIS_RESOURCE):
    """Refused, and not told whether there is such a resource."""
    return refused("AccessDeniedException", hidden_text(who, action, on))


def arn(thing):
    return thing if isinstance(thing, str) else thing.arn


def unique(stem):
    return f"{stem}-{secrets.token_hex(5)}"


def new_account_id():
    return "".join(secrets.choice("123456789") for _ in range(12))


class Person:
    """A user with one access key. `kms` and `sts` sign with it."""

    def __init__(self, iam, stem="person", **options):
        self.iam, self.bridge, self.name = iam, iam.bridge, unique(stem)
        self.arn = iam.make_user(self.name, **options)
        self.key = iam.access_key(user=self.name)
        self.kms = iam.client(self.key)

    @property
    def sts(self):
        return self.iam.client(self.key, "sts")

    def may(self, policy, name="test"):
        """Sets the inline policy: what the user may do, if no other policy was set."""
        self.iam.with_document(policy, "user", "put-policy", self.name, name)

    def cli(self, program, directory):
        return CliAs(program, self.bridge, directory, self.key)


class Session:
    """Temporary credentials as STS gave them."""

    def __init__(self, iam, answer):
        got = answer["Credentials"]
        self.arn = (answer.get("AssumedRoleUser") or answer.get("FederatedUser") or {}).get("Arn")
        self.key, self.token = (got["AccessKeyId"], got["SecretAccessKey"]), got["SessionToken"]
        self.iam, self.answer = iam, answer
        self.kms, self.sts = (iam.client(self.key, service, self.token) for service in ("kms", "sts"))


class Role:
    def __init__(self, iam, stem="role", **options):
        self.iam, self.name = iam, unique(stem)
        self.arn = iam.role(self.name, **options)

    def session(self, by, name="s1", **params):
        """Assumed by a person or by another session."""
        return Session(self.iam, by.sts.assume_role(RoleArn=self.arn, RoleSessionName=name, **params))


def everything_for_root(account):
    """Lets the account's root user manage the key, and delegates nothing to its account's policies."""
    return statement("Allow", "kms:*", Principal={"AWS": "*"},
                     condition={"ArnEquals": {"aws:PrincipalArn": f"arn:aws:iam::{account}:root"}})


def delegates(account):
    return statement("Allow", "kms:*", Principal={"AWS": f"arn:aws:iam::{account}:root"})


def allows(who, action, **more):
    """A statement of a key policy."""
    return statement("Allow", action, Principal={"AWS": who if isinstance(who, list) else arn(who)}, **more)


def denies(who, action, **more):
    return allows(who, action, **more) | {"Effect": "Deny"}


class Key:
    """A key of the bridge's own account, with exactly these statements beside root's."""

    def __init__(self, bridge, *statements, delegating=True, **params):
        self.bridge, self.account = bridge, bridge.account
        self.base = delegates(self.account) if delegating else everything_for_root(self.account)
        self.id = bridge.new_key(Policy=json.dumps(document(self.base, *statements)), **params)
        self.arn = bridge.key_arn(self.id)

    def put(self, *statements):
        self.bridge.kms.put_key_policy(KeyId=self.id, PolicyName="default", Policy=json.dumps(document(self.base, *statements)))

    def encrypt(self, context=None, plaintext=b"secret"):
        return self.bridge.kms.encrypt(KeyId=self.id, Plaintext=plaintext, EncryptionContext=context or {})["CiphertextBlob"]


def record(bridge, answer):
    """What the log has of the call with this answer (or refusal's response)."""
    request_id = answer["ResponseMetadata"]["RequestId"]
    (found,) = [r for r in map(json.loads, (line for line in bridge.journal_lines() if request_id.encode() in line))
                if r.get("requestID") == request_id and r["eventType"] == "AwsApiCall"]
    return found


# -- the stock CLIs -----------------------------------------------------------------------------------------------------


class CliAs(AwsCli):
    """One of the two AWS CLIs, signing as somebody, or by a profile of a configuration file."""

    def __init__(self, program, bridge, directory, key=None, token=None, config=None):
        super().__init__(program, bridge, directory, by_option=program == debian())
        self.extra = {}
        if key:
            self.extra = {"AWS_ACCESS_KEY_ID": key[0], "AWS_SECRET_ACCESS_KEY": key[1]}
        if token:
            self.extra["AWS_SESSION_TOKEN"] = token
        if config:
            path = self.directory / unique("aws-config")
            path.write_text(config)
            self.extra = {"AWS_CONFIG_FILE": str(path)}

    def env(self):
        kept = {k: v for k, v in super().env().items() if k not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        return kept | self.extra

    def denied(self, message, service, command, *args):
        """The command fails as AWS's does: its exit code (version 1 has another than version 2), the error's text to the letter."""
        try:
            done = self.run(service, command, *args)
        except CliError as refusal:
            operation = "".join(word.capitalize() for word in command.split("-"))
            code = "AccessDeniedException" if service == "kms" else "AccessDenied"
            # Version 2 says that it tried once, as `clean_env` tells it to.
            said = refusal.stderr.strip().replace(" (reached max retries: 0)", "")
            assert said == f"An error occurred ({code}) when calling the {operation} operation: {message}", refusal.stderr
            assert refusal.returncode == (254 if self.by_option else 255), refusal
            return
        raise AssertionError(f"{command} {args} was not refused: {done}")


PROGRAMS = {"v1": version_1, "debian": debian}
