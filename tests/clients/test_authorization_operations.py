"""Every served operation: refused to who may nothing, and then nothing has changed; refused to who may everything else; done for
who may exactly that (authorization.md §1.14)."""

import json

import pytest
from botocore.exceptions import ClientError

import vocabulary
from authz_tool import NO_IDENTITY_POLICY, NO_KEY_POLICY, Key, Person, allows, denied, unique
from iam_tool import Iam, allow, document, statement

MAC = {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}
SIGNING = {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}
NO_STORE = "cks-1234567890abcdef0"
# Where there is nothing to do it to: the error of the operation itself, which comes after authorization.
AFTERWARDS = {
    "ConnectCustomKeyStore": "CustomKeyStoreNotFoundException", "DisconnectCustomKeyStore": "CustomKeyStoreNotFoundException",
    "DeleteCustomKeyStore": "CustomKeyStoreNotFoundException", "UpdateCustomKeyStore": "CustomKeyStoreNotFoundException",
    "DescribeCustomKeyStores": "CustomKeyStoreNotFoundException", "CreateCustomKeyStore": "ValidationException",
}

# RULE §1.8: a grant decides, for which policies only help.
WHY = {"RetireGrant": NO_KEY_POLICY}


@pytest.fixture(scope="module")
def iam(bridge):
    return Iam(bridge)


@pytest.fixture(scope="module")
def alice(iam):
    return Person(iam, "alice")


class Case:
    """One operation on a key of its own: `params`, and the `checks`, action and resource, that have to pass, in their order."""

    def __init__(self, bridge, operation, on=None, delegating=True, key=None, **params):
        self.bridge, self.operation = bridge, operation
        self.key = key or Key(bridge, delegating=delegating)
        self.params = params
        action = f"kms:{operation}"
        self.checks = [(action, on or self.key.arn)]
        self.use = {"KeyId": self.key.id} | params if on is None else params
        self.on_key = on is None

    def call(self, client):
        return getattr(client, vocabulary.method(self.operation))(**self.use)

    def allowed(self, client):
        """Calls, and takes the operation's own error as the sign that authorization was passed."""
        try:
            answer = self.call(client)
        except ClientError as caught:
            assert caught.response["Error"]["Code"] == AFTERWARDS.get(self.operation), (self.operation, caught.response)
            return
        assert self.operation not in AFTERWARDS, (self.operation, answer)


def on_key(operation, **params):
    return lambda bridge, delegating: Case(bridge, operation, delegating=delegating, **params)


def on_account(operation, **params):
    return lambda bridge, delegating: Case(bridge, operation, on="*", **params)


def prepared(operation, spec, prepare):
    """`prepare` gets the key and gives the parameters."""
    def make(bridge, delegating):
        key = Key(bridge, delegating=delegating, **spec)
        return Case(bridge, operation, key=key, **prepare(bridge, key))

    return make


def root(bridge):
    return f"arn:aws:iam::{bridge.account}:root"


def cancel(bridge, key):
    bridge.kms.schedule_key_deletion(KeyId=key.id, PendingWindowInDays=7)
    return {}


def signed(bridge, key):
    call = {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
    return call | {"Signature": bridge.kms.sign(KeyId=key.id, **call)["Signature"]}


def macked(bridge, key):
    call = {"Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    return call | {"Mac": bridge.kms.generate_mac(KeyId=key.id, **call)["Mac"]}


def granted(bridge, key):
    return {"GrantId": bridge.kms.create_grant(KeyId=key.id, GranteePrincipal=root(bridge), Operations=["Encrypt"])["GrantId"]}


def same_policy(bridge, key):
    # Its lockout check asks for kms:PutKeyPolicy again.
    return {"PolicyName": "default", "Policy": bridge.kms.get_key_policy(KeyId=key.id)["Policy"], "BypassPolicyLockoutSafetyCheck": True}


def create_alias(bridge, delegating):
    key, name = Key(bridge, delegating=delegating), f"alias/{unique('asked')}"
    case = Case(bridge, "CreateAlias", on=bridge.alias_arn(name), key=key, AliasName=name, TargetKeyId=key.id)
    case.checks.append(("kms:CreateAlias", key.arn))
    return case


def delete_alias(bridge, delegating):
    key = Key(bridge, delegating=delegating)
    name = bridge.new_alias(key.id)
    case = Case(bridge, "DeleteAlias", on=bridge.alias_arn(name), key=key, AliasName=name)
    case.checks.append(("kms:DeleteAlias", key.arn))
    return case


def update_alias(bridge, delegating):
    key, other = Key(bridge, delegating=delegating), Key(bridge)
    name = bridge.new_alias(other.id)
    case = Case(bridge, "UpdateAlias", on=bridge.alias_arn(name), key=key, AliasName=name, TargetKeyId=key.id)
    case.checks += [("kms:UpdateAlias", other.arn), ("kms:UpdateAlias", key.arn)]
    return case


def reencrypt(bridge, delegating):
    source, target = Key(bridge, delegating=delegating), Key(bridge)
    case = Case(bridge, "ReEncrypt", on=source.arn, key=source, SourceKeyId=source.id, DestinationKeyId=target.id,
                CiphertextBlob=source.encrypt())
    case.checks = [("kms:ReEncryptFrom", source.arn), ("kms:ReEncryptTo", target.arn)]
    return case


def create_key(bridge, delegating):
    case = Case(bridge, "CreateKey", on="*", Tags=[{"TagKey": "a", "TagValue": "b"}])
    case.checks.append(("kms:TagResource", "*"))
    return case


def store(operation, **params):
    return on_account(operation, **({"CustomKeyStoreId": NO_STORE} | params))


ROWS = {
    "CancelKeyDeletion": prepared("CancelKeyDeletion", {}, cancel), "CreateAlias": create_alias, "CreateKey": create_key,
    "CreateGrant": prepared("CreateGrant", {}, lambda bridge, _: {"GranteePrincipal": root(bridge), "Operations": ["Encrypt"]}),
    "Decrypt": prepared("Decrypt", {}, lambda bridge, key: {"CiphertextBlob": key.encrypt()}), "DeleteAlias": delete_alias,
    "DescribeKey": on_key("DescribeKey"), "DisableKey": on_key("DisableKey"), "EnableKey": on_key("EnableKey"),
    "Encrypt": on_key("Encrypt", Plaintext=b"x"), "GenerateDataKey": on_key("GenerateDataKey", KeySpec="AES_256"),
    "GenerateDataKeyWithoutPlaintext": on_key("GenerateDataKeyWithoutPlaintext", KeySpec="AES_256"),
    "GenerateMac": prepared("GenerateMac", MAC, lambda *_: {"Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}),
    "GenerateRandom": on_account("GenerateRandom", NumberOfBytes=8), "GetKeyLastUsage": on_key("GetKeyLastUsage"),
    "GetKeyPolicy": on_key("GetKeyPolicy"), "GetKeyRotationStatus": on_key("GetKeyRotationStatus"),
    "GetPublicKey": prepared("GetPublicKey", SIGNING, lambda *_: {}), "ListAliases": on_account("ListAliases"),
    "ListGrants": on_key("ListGrants"),
    "ListKeyPolicies": on_key("ListKeyPolicies"), "ListKeys": on_account("ListKeys"), "ListResourceTags": on_key("ListResourceTags"),
    "ListRetirableGrants": lambda bridge, _: Case(bridge, "ListRetirableGrants", on="*", RetiringPrincipal=root(bridge)),
    "PutKeyPolicy": prepared("PutKeyPolicy", {}, same_policy), "ReEncrypt": reencrypt,
    "RetireGrant": prepared("RetireGrant", {}, granted), "RevokeGrant": prepared("RevokeGrant", {}, granted),
    "ScheduleKeyDeletion": on_key("ScheduleKeyDeletion", PendingWindowInDays=7),
    "Sign": prepared("Sign", SIGNING, lambda *_: {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}),
    "TagResource": on_key("TagResource", Tags=[{"TagKey": "a", "TagValue": "b"}]), "UntagResource": on_key("UntagResource", TagKeys=["a"]),
    "UpdateAlias": update_alias, "UpdateKeyDescription": on_key("UpdateKeyDescription", Description="changed"),
    "Verify": prepared("Verify", SIGNING, signed), "VerifyMac": prepared("VerifyMac", MAC, macked),
    "ConnectCustomKeyStore": store("ConnectCustomKeyStore"), "DisconnectCustomKeyStore": store("DisconnectCustomKeyStore"),
    "DeleteCustomKeyStore": store("DeleteCustomKeyStore"), "DescribeCustomKeyStores": store("DescribeCustomKeyStores"),
    "UpdateCustomKeyStore": store("UpdateCustomKeyStore", NewCustomKeyStoreName="new"),
    # A name and nothing to make a store of.
    "CreateCustomKeyStore": on_account("CreateCustomKeyStore", CustomKeyStoreName="asked"),
}
row = pytest.mark.parametrize("operation", sorted(ROWS))


def test_the_rows_are_the_served_operations():
    assert set(ROWS) == set(vocabulary.SERVED)


def state(bridge, key):
    """All that an operation could have changed."""
    see = bridge.kms
    aliases = [a for page in see.get_paginator("list_aliases").paginate() for a in page["Aliases"] if a.get("TargetKeyId") == key.id]
    return (see.describe_key(KeyId=key.id)["KeyMetadata"], see.list_resource_tags(KeyId=key.id)["Tags"],
            see.get_key_policy(KeyId=key.id)["Policy"], see.list_grants(KeyId=key.id)["Grants"], aliases)


def keys(bridge):
    return {k["KeyId"] for page in bridge.kms.get_paginator("list_keys").paginate() for k in page["Keys"]}


def exactly(checks):
    return document(*(statement("Allow", action, resource) for action, resource in checks))


@row
def test_refused_without_and_done_with_exactly_its_permission(bridge, alice, operation):
    case = ROWS[operation](bridge, True)
    before, all_keys = state(bridge, case.key), keys(bridge)

    def refused(check):
        with denied(alice, *check, WHY.get(operation, NO_IDENTITY_POLICY)):
            case.call(alice.kms)

    alice.may(allow("kms:NoSuchAction"))
    refused(case.checks[0])
    # Everything but the one action, and the one action on something else: of each question that is asked.
    for number, (action, resource) in enumerate(case.checks):
        rest = case.checks[:number] + case.checks[number + 1:]
        alice.may(document({"Effect": "Allow", "NotAction": sorted({a for a, _ in case.checks}), "Resource": "*"},
                           *(statement("Allow", a, r) for a, r in rest)))
        refused((action, resource))
        wrong = bridge.key_arn("00000000-0000-4000-8000-000000000000") if resource == "*" else f"{resource}0"
        alice.may(document(*exactly(rest)["Statement"], statement("Allow", action, wrong)) if rest else allow(action, wrong))
        refused((action, resource))
    assert state(bridge, case.key) == before and keys(bridge) == all_keys
    alice.may(exactly(case.checks))
    case.allowed(alice.kms)
    if operation not in ("CreateKey", "ScheduleKeyDeletion"):
        assert keys(bridge) == all_keys


@row
def test_done_by_a_key_policy_alone(bridge, alice, operation):
    """RULE §1.4, §1.6: what is asked about a key, its policy may give; what is asked about the account or an alias, never."""
    case = ROWS[operation](bridge, False)
    alice.may(allow("kms:NoSuchAction"))
    (action, resource), *_ = case.checks
    if resource == case.key.arn:
        with denied(alice, action, resource, NO_KEY_POLICY):
            case.call(alice.kms)
    if operation == "CancelKeyDeletion":
        bridge.kms.cancel_key_deletion(KeyId=case.key.id)
    if resource == case.key.arn:
        case.key.put(allows(alice, "kms:NoSuch*"))
        with denied(alice, action, resource, NO_KEY_POLICY):
            case.call(alice.kms)
    case.key.put(allows(alice, action))
    if operation == "CancelKeyDeletion":
        cancel(bridge, case.key)
    if operation == "RetireGrant":
        # RULE §1.8: without effect there.
        with denied(alice, action, resource, NO_KEY_POLICY):
            case.call(alice.kms)
    elif resource != case.key.arn:
        with denied(alice, action, resource, NO_IDENTITY_POLICY):
            case.call(alice.kms)
    elif operation == "ReEncrypt":
        with denied(alice, *case.checks[1], NO_IDENTITY_POLICY):
            case.call(alice.kms)
    else:
        if operation == "PutKeyPolicy":
            case.use["Policy"] = bridge.kms.get_key_policy(KeyId=case.key.id)["Policy"]
        case.allowed(alice.kms)


def test_aliases_by_policies_of_two_kinds(bridge, alice):
    """RULE §1.6: the alias by the caller's own policies, the key by the key's policy."""
    for operation in ("CreateAlias", "DeleteAlias"):
        case = ROWS[operation](bridge, False)
        alice.may(exactly(case.checks[:1]))
        with denied(alice, f"kms:{operation}", case.key, NO_KEY_POLICY):
            case.call(alice.kms)
        case.key.put(allows(alice, f"kms:{operation}"))
        case.call(alice.kms)


def test_the_pattern_of_an_account_stands_for_its_operations(bridge, alice):
    """RULE §1.6: `arn:…:ACCOUNT:*` is `*` for operations on the account; another account's is not."""
    for account, may in ((bridge.account, True), ("999999999999", False)):
        alice.may(allow("kms:ListKeys", f"arn:aws:kms:{bridge.region}:{account}:*"))
        if may:
            assert "Keys" in alice.kms.list_keys(Limit=1)
        else:
            with denied(alice, "kms:ListKeys", "*", NO_IDENTITY_POLICY):
                alice.kms.list_keys()


def test_list_aliases_of_a_key_is_of_the_account(bridge, alice):
    key = Key(bridge, allows(alice, "kms:*"), delegating=False)
    alice.may(allow("kms:ListAliases", key.arn))
    with denied(alice, "kms:ListAliases", "*", NO_IDENTITY_POLICY):
        alice.kms.list_aliases(KeyId=key.id)
    alice.may(allow("kms:ListAliases"))
    assert json.dumps(alice.kms.list_aliases(KeyId=key.id)["Aliases"]) == "[]"
