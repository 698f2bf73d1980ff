"""Who a caller is: root, a user who may do nothing, a disabled access key."""

import json
import re
import secrets

import pytest

import vocabulary
from checks import members, refused

STRANGER = "The security token included in the request is invalid."


def strings(value):
    if isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def new_user(bridge):
    """(name, access key id, secret) of a user made by the command line while the server serves."""
    name = f"user-{secrets.token_hex(4)}"
    out = bridge.run("access-key", "create", "--user", name, "--json").stdout
    found = list(strings(json.loads(out)))
    (access_key,) = {s for s in found if re.fullmatch(r"AKIA[A-Z2-7]{16}", s)}
    (secret,) = {s for s in found if re.fullmatch(r"[A-Za-z0-9+/]{40}", s)}
    assert out.count(secret) == 1, "a secret is shown once"
    return name, access_key, secret


@pytest.fixture(scope="module")
def user(bridge):
    return new_user(bridge)


def test_root(either):
    assert members(either.client("sts").get_caller_identity()) == {
        "UserId": either.account, "Account": either.account, "Arn": f"arn:aws:iam::{either.account}:root"}
    assert re.fullmatch(r"\d{12}", either.account) and re.fullmatch(r"AKIA[A-Z2-7]{16}", either.access_key)


def test_a_user_is_known_by_name(bridge, user):
    name, access_key, secret = user
    identity = members(bridge.client("sts", access_key, secret).get_caller_identity())
    assert identity.pop("UserId").startswith("AIDA")
    assert identity == {"Account": bridge.account, "Arn": f"arn:aws:iam::{bridge.account}:user/{name}"}


def root(bridge):
    return f"arn:aws:iam::{bridge.account}:root"


def requests(bridge):
    """Each operation with parameters that would succeed for root, and the resource that a denial names."""
    key, ec, mac = bridge.key(), bridge.key("ECC_NIST_P256"), bridge.key("HMAC_256")
    alias = bridge.new_alias(key)
    blob = bridge.kms.encrypt(KeyId=key, Plaintext=b"p")["CiphertextBlob"]
    key_arn, ec_arn, mac_arn, alias_arn = bridge.key_arn(key), bridge.key_arn(ec), bridge.key_arn(mac), bridge.alias_arn(alias)
    new_alias = f"alias/denied-{secrets.token_hex(4)}"
    policy = bridge.kms.get_key_policy(KeyId=key)["Policy"]
    on_key = {"KeyId": key}
    signing = {"KeyId": ec, "Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
    macking = {"KeyId": mac, "Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    rows = {
        "CreateKey": ({}, "*"), "ListKeys": ({}, "*"), "ListAliases": ({}, "*"), "GenerateRandom": ({"NumberOfBytes": 8}, "*"),
        "CreateAlias": ({"AliasName": new_alias, "TargetKeyId": key}, bridge.alias_arn(new_alias)),
        "UpdateAlias": ({"AliasName": alias, "TargetKeyId": key}, alias_arn),
        "DeleteAlias": ({"AliasName": alias}, alias_arn),
        "ScheduleKeyDeletion": (on_key | {"PendingWindowInDays": 7}, key_arn),
        "UpdateKeyDescription": (on_key | {"Description": "d"}, key_arn),
        "TagResource": (on_key | {"Tags": [{"TagKey": "a", "TagValue": "b"}]}, key_arn),
        "UntagResource": (on_key | {"TagKeys": ["a"]}, key_arn),
        "PutKeyPolicy": (on_key | {"Policy": policy}, key_arn),
        "Encrypt": (on_key | {"Plaintext": b"p"}, key_arn),
        "Decrypt": (on_key | {"CiphertextBlob": blob}, key_arn),
        "ReEncrypt": ({"SourceKeyId": key, "DestinationKeyId": key, "CiphertextBlob": blob}, key_arn),
        "GenerateDataKey": (on_key | {"KeySpec": "AES_256"}, key_arn),
        "GenerateDataKeyWithoutPlaintext": (on_key | {"KeySpec": "AES_256"}, key_arn),
        "Sign": (signing, ec_arn), "Verify": (signing | {"Signature": b"s" * 70}, ec_arn), "GetPublicKey": ({"KeyId": ec}, ec_arn),
        "GenerateMac": (macking, mac_arn), "VerifyMac": (macking | {"Mac": b"m" * 32}, mac_arn),
    }
    for operation in vocabulary.KEY_STORES:
        rows[operation] = ({"CustomKeyStoreId": "cks-1234567890abcdef0"}, "*")
    grant = bridge.kms.create_grant(KeyId=key, GranteePrincipal=root(bridge), Operations=["Decrypt"])["GrantId"]
    rows["CreateGrant"] = (on_key | {"GranteePrincipal": root(bridge), "Operations": ["Decrypt"]}, key_arn)
    for operation in ("RetireGrant", "RevokeGrant"):
        rows[operation] = (on_key | {"GrantId": grant}, key_arn)
    rows["ListRetirableGrants"] = ({"RetiringPrincipal": root(bridge)}, "*")
    rows["CreateCustomKeyStore"] = ({"CustomKeyStoreName": "denied"}, "*")
    for operation in ("DescribeKey", "GetKeyLastUsage", "EnableKey", "DisableKey", "CancelKeyDeletion", "ListResourceTags", "GetKeyPolicy",
                      "ListKeyPolicies", "GetKeyRotationStatus", "ListGrants"):
        rows[operation] = (on_key, key_arn)
    return rows


def denial(bridge, name, action, resource):
    # Only the grant itself lets somebody retire it.
    kind = "resource-based" if action == "kms:RetireGrant" else "identity-based"
    return (f"User: arn:aws:iam::{bridge.account}:user/{name} is not authorized to perform: {action} on resource: {resource} "
            f"because no {kind} policy allows the {action} action")


def test_a_user_is_denied_everything(bridge, user):
    name, access_key, secret = user
    rows = requests(bridge)
    assert set(rows) == set(vocabulary.SERVED)
    client = bridge.client("kms", access_key, secret)
    before = bridge.kms.describe_key(KeyId=bridge.key())["KeyMetadata"]
    for operation, (params, resource) in rows.items():
        action = "kms:ReEncryptFrom" if operation == "ReEncrypt" else f"kms:{operation}"
        with refused("AccessDeniedException", denial(bridge, name, action, resource)):
            getattr(client, vocabulary.method(operation))(**params)
    assert bridge.kms.describe_key(KeyId=bridge.key())["KeyMetadata"] == before


def test_denial_on_the_wire(bridge, user):
    name, access_key, secret = user
    reply = bridge.raw(access_key=access_key, secret_key=secret).call("ListKeys", {})
    assert reply.status == 400
    assert reply.headers["x-amzn-errortype"] == "AccessDeniedException"
    # This error spells its member with a capital letter, as AWS does.
    assert reply.json() == {"__type": "AccessDeniedException", "Message": denial(bridge, name, "kms:ListKeys", "*")}


def test_denial_tells_no_state(bridge, user):
    """A user who may not use a key does not learn that it is disabled; a key that is not there is not there for all."""
    name, access_key, secret = user
    client, key = bridge.client("kms", access_key, secret), bridge.new_key()
    bridge.kms.disable_key(KeyId=key)
    with refused("AccessDeniedException", denial(bridge, name, "kms:Encrypt", bridge.key_arn(key))):
        client.encrypt(KeyId=key, Plaintext=b"p")
    with refused("AccessDeniedException", denial(bridge, name, "kms:Encrypt", bridge.key_arn(key))):
        client.encrypt(KeyId=bridge.new_alias(key), Plaintext=b"p")
    with refused("AccessDeniedException"):
        client.encrypt(KeyId=bridge.key("HMAC_256"), Plaintext=b"p")
    with refused("AccessDeniedException"):
        client.encrypt(KeyId=bridge.key(), Plaintext=b"p", DryRun=True)
    with refused("NotFoundException", "Invalid keyId 'fake-key-id'"):
        client.describe_key(KeyId="fake-key-id")
    with refused("ValidationException"):
        bridge.client("kms", access_key, secret, validate=False).encrypt(KeyId=key, Plaintext=b"")


def test_a_ciphertext_without_key_id_is_denied_on_its_own_key(bridge, user):
    _, access_key, secret = user
    blob = bridge.kms.encrypt(KeyId=bridge.key(), Plaintext=b"p")["CiphertextBlob"]
    with refused("AccessDeniedException") as seen:
        bridge.client("kms", access_key, secret).decrypt(CiphertextBlob=blob)
    assert "kms:Decrypt" in seen.message
    with refused("IncorrectKeyException"):
        bridge.kms.decrypt(CiphertextBlob=blob, KeyId=bridge.key(purpose="another"))


def test_disabled_access_keys_are_out_at_once(bridge):
    _, access_key, secret = new_user(bridge)
    client = bridge.client("kms", access_key, secret)
    with refused("AccessDeniedException"):
        client.list_keys()
    bridge.run("access-key", "disable", access_key)
    with refused("UnrecognizedClientException", STRANGER):
        client.list_keys()
    with refused("InvalidClientTokenId", STRANGER, status=403):
        bridge.client("sts", access_key, secret).get_caller_identity()
    assert bridge.kms.list_keys()


def test_lists_show_no_secret(bridge, user):
    name, access_key, secret = user
    for more in ([], ["--json"]):
        out = bridge.run("access-key", "list", *more)
        text = out.stdout + out.stderr
        assert access_key in text and name in text and bridge.access_key in text
        assert secret not in text and bridge.secret_key not in text
    json.loads(bridge.run("access-key", "list", "--json").stdout)


def test_a_user_may_have_two_keys(bridge):
    name, first, _ = new_user(bridge)
    out = bridge.run("access-key", "create", "--user", name, "--json").stdout
    second = re.search(r"AKIA[A-Z2-7]{16}", out).group()
    assert second != first


def test_names_are_checked(bridge):
    for wrong in ("", "a b", "x" * 65, "../x"):
        done = bridge.run("access-key", "create", "--user", wrong, "--json", check=False)
        assert done.returncode != 0 and done.stderr.strip(), wrong
        assert "panicked" not in done.stderr


def test_unknown_access_keys_cannot_be_disabled(bridge):
    done = bridge.run("access-key", "disable", "AKIA" + "Q" * 16, check=False)
    assert done.returncode != 0 and done.stderr.strip()


def test_the_command_line_is_in_the_journal(bridge, user):
    name, access_key, secret = user
    lines = [line for line in bridge.journal_lines() if access_key.encode() in line]
    made = [json.loads(line) for line in lines]
    assert any(r["userIdentity"].get("type") == "HsmBridgeOperator" for r in made), "the local operator made the access key"
    assert any(r["userIdentity"].get("userName") == name for r in made), "and its user was denied"
    assert not any(secret.encode() in line for line in bridge.journal_lines())
