"""Key policies as they are written and read: principals that exist, principals that are gone, and the lockout safety check."""

import json
import secrets

import pytest
from botocore.exceptions import ClientError

from iam_tool import Iam, allow, document, statement

INVALID = "Policy contains a statement with one or more invalid principals."
LOCKOUT = "The new key policy will not allow you to update the key policy in the future."


def refused(call, code, message=None, **params):
    with pytest.raises(ClientError) as error:
        call(**params)
    told = error.value.response["Error"]
    assert told["Code"] == code and (message is None or told["Message"] == message), told


def root_of(account):
    return f"arn:aws:iam::{account}:root"


def with_root(bridge, *more):
    return json.dumps(document(statement("Allow", "kms:*", Principal={"AWS": root_of(bridge.account)}), *more))


def lets(principal, action="kms:Decrypt"):
    return statement("Allow", action, Principal=principal if isinstance(principal, dict) else {"AWS": principal})


@pytest.mark.parametrize("principal", [
    "arn:aws:iam::{account}:user/nobody-of-that-name",
    "arn:aws:iam::{account}:role/nobody-of-that-name",
    "arn:aws:sts::{account}:assumed-role/nobody-of-that-name/s1",
    "arn:aws:iam::{account}:group/everybody",
    "arn:aws:iam::{account}:user/*",
    "arn:aws:iam::999999999999:root",
    "999999999999",
    "AIDAABCDEFGHIJKLMNOP2",
    {"Service": "nobody.internal.example"},
    {"Federated": "arn:aws:iam::{account}:oidc-provider/issuer.example"},
])
def test_principals_must_exist(bridge, principal):
    named = principal if isinstance(principal, dict) else principal.format(account=bridge.account)
    policy = with_root(bridge, lets(named))
    refused(bridge.kms.create_key, "MalformedPolicyDocumentException", INVALID, Policy=policy)
    refused(bridge.kms.put_key_policy, "MalformedPolicyDocumentException", INVALID, KeyId=bridge.key(purpose="policies"),
            Policy=policy)


def test_who_is_gone_stands_by_id_and_does_not_come_back(bridge):
    iam, name = Iam(bridge), f"leaves-{secrets.token_hex(4)}"
    leaver = iam.user(name)
    arn = f"arn:aws:iam::{bridge.account}:user/{name}"
    policy = with_root(bridge, lets(arn, "kms:Encrypt"))
    key = bridge.kms.create_key(Policy=policy)["KeyMetadata"]["KeyId"]
    leaver.encrypt(KeyId=key, Plaintext=b"x")
    assert bridge.kms.get_key_policy(KeyId=key)["Policy"] == policy

    iam.run("user", "delete", name)
    shown = bridge.kms.get_key_policy(KeyId=key)["Policy"]
    (gone,) = [s["Principal"]["AWS"] for s in json.loads(shown)["Statement"] if s["Action"] == "kms:Encrypt"]
    assert gone.startswith("AIDA") and shown == policy.replace(arn, gone)

    heir = iam.user(name)
    assert bridge.kms.get_key_policy(KeyId=key)["Policy"] == shown
    refused(heir.encrypt, "AccessDeniedException", KeyId=key, Plaintext=b"x")
    # The text that was read can be written, and still means nobody; another id cannot.
    bridge.kms.put_key_policy(KeyId=key, Policy=shown)
    bridge.kms.put_key_policy(KeyId=key, Policy=bridge.kms.get_key_policy(KeyId=key)["Policy"])
    refused(heir.encrypt, "AccessDeniedException", KeyId=key, Plaintext=b"x")
    refused(bridge.kms.put_key_policy, "MalformedPolicyDocumentException", INVALID, KeyId=key,
            Policy=shown.replace(gone, "AIDAABCDEFGHIJKLMNOP2"))
    bridge.kms.put_key_policy(KeyId=key, Policy=with_root(bridge, lets([gone, arn], "kms:Encrypt")))
    heir.encrypt(KeyId=key, Plaintext=b"x")


def test_the_one_who_writes_must_be_able_to_write_again(bridge):
    iam, name = Iam(bridge), f"writer-{secrets.token_hex(4)}"
    writer = iam.user(name, policies={"create": allow(["kms:CreateKey"])})
    arn = f"arn:aws:iam::{bridge.account}:user/{name}"
    # Delegation alone leaves a user who has no kms:PutKeyPolicy of its own outside.
    refused(writer.create_key, "MalformedPolicyDocumentException", LOCKOUT, Policy=with_root(bridge))
    key = writer.create_key(Policy=with_root(bridge, lets(arn, ["kms:PutKeyPolicy", "kms:GetKeyPolicy"])))["KeyMetadata"]["KeyId"]
    refused(writer.put_key_policy, "MalformedPolicyDocumentException", LOCKOUT, KeyId=key, Policy=with_root(bridge))
    iam.with_document(allow("kms:PutKeyPolicy"), "user", "put-policy", name, "put")
    writer.put_key_policy(KeyId=key, Policy=with_root(bridge))
    outside = json.dumps(document(lets(arn, "kms:Encrypt")))
    refused(writer.put_key_policy, "MalformedPolicyDocumentException", LOCKOUT, KeyId=key, Policy=outside)
    writer.put_key_policy(KeyId=key, Policy=outside, BypassPolicyLockoutSafetyCheck=True)
    refused(bridge.kms.put_key_policy, "AccessDeniedException", KeyId=key, Policy=with_root(bridge))


def test_no_other_policy_and_no_longer_one(bridge):
    key = bridge.key(purpose="policies")
    refused(bridge.kms.put_key_policy, "ValidationException", "The AWS_RAM policy can only be managed by the RAM service",
            KeyId=key, PolicyName="AWS_RAM", Policy=with_root(bridge))
    refused(bridge.kms.put_key_policy, "LimitExceededException", KeyId=key, Policy=with_root(bridge) + " " * 32_768)


def test_custom_key_stores_are_their_accounts_own(bridge):
    other = Iam(bridge).make_account("555566667777", name="stores").user(policies={"all": allow("kms:*")})
    with bridge.custom_store() as store:
        missing = "CustomKeyStoreNotFoundException"
        assert other.describe_custom_key_stores()["CustomKeyStores"] == []
        assert [s["CustomKeyStoreId"] for s in bridge.kms.describe_custom_key_stores()["CustomKeyStores"]] == [store]
        for call, params in [
            (other.describe_custom_key_stores, {}),
            (other.connect_custom_key_store, {}),
            (other.disconnect_custom_key_store, {}),
            (other.update_custom_key_store, {"NewCustomKeyStoreName": "mine"}),
            (other.delete_custom_key_store, {}),
            (other.create_key, {"Origin": "AWS_CLOUDHSM"}),
            (other.generate_random, {"NumberOfBytes": 8}),
        ]:
            refused(call, missing, CustomKeyStoreId=store, **params)
