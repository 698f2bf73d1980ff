"""Keys over their whole life: made, described, tagged, disabled, scheduled for deletion; and what is not served."""

import datetime
import json
import re
import secrets
import uuid

import pytest

import vocabulary
from checks import members, one_validation_error, refused

MATERIAL = re.compile(r"[0-9a-f]{64}")
UNKNOWN = "11111111-2222-4333-8444-555555555555"


def expected_metadata(bridge, seen, spec, description="", **changes):
    """KeyMetadata as AWS gives it, no member more and none less. Taken from `seen`: key id, date, material id."""
    expected = {
        "AWSAccountId": bridge.account,
        "Arn": bridge.key_arn(seen["KeyId"]),
        "CreationDate": seen["CreationDate"],
        "CustomerMasterKeySpec": spec,
        "Description": description,
        "Enabled": True,
        "KeyId": seen["KeyId"],
        "KeyManager": "CUSTOMER",
        "KeySpec": spec,
        "KeyState": "Enabled",
        "KeyUsage": vocabulary.usage(spec),
        "MultiRegion": False,
        "Origin": "AWS_KMS",
    }
    if spec == "SYMMETRIC_DEFAULT":
        expected["EncryptionAlgorithms"] = ["SYMMETRIC_DEFAULT"]
        expected["CurrentKeyMaterialId"] = seen.get("CurrentKeyMaterialId")
        assert MATERIAL.fullmatch(seen.get("CurrentKeyMaterialId") or ""), seen
    elif spec in vocabulary.MACS:
        expected["MacAlgorithms"] = vocabulary.MACS[spec]
    else:
        expected["SigningAlgorithms"] = vocabulary.SIGNING[spec]
    return expected | changes


@pytest.mark.parametrize("spec", vocabulary.SPECS)
def test_create_and_describe(either, spec):
    before = datetime.datetime.now(datetime.timezone.utc)
    extra = {} if spec == "SYMMETRIC_DEFAULT" else {"KeyUsage": vocabulary.usage(spec)}
    made = members(either.kms.create_key(KeySpec=spec, Description="first light", **extra))
    assert set(made) == {"KeyMetadata"}
    metadata = made["KeyMetadata"]
    assert metadata == expected_metadata(either, metadata, spec, "first light")
    assert str(uuid.UUID(metadata["KeyId"])) == metadata["KeyId"]
    slack = datetime.timedelta(seconds=2)
    assert before - slack <= metadata["CreationDate"] <= datetime.datetime.now(datetime.timezone.utc) + slack
    described = members(either.kms.describe_key(KeyId=metadata["KeyId"]))
    assert described == made, "DescribeKey answers what CreateKey answered"


def test_create_answer_equals_describe_on_the_wire(either):
    raw = either.raw()
    made = raw.call("CreateKey", {}).json()
    again = raw.call("DescribeKey", {"KeyId": made["KeyMetadata"]["KeyId"]}).json()
    assert made == again
    date = made["KeyMetadata"]["CreationDate"]
    assert isinstance(date, (int, float)) and not isinstance(date, bool), "times are numbers"


def test_create_with_everything(bridge):
    policy = json.dumps({"Version": "2012-10-17", "Id": "mine", "Statement": [
        {"Sid": "all", "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{bridge.account}:root"}, "Action": "kms:*",
         "Resource": "*"}]})
    tags = [{"TagKey": "team", "TagValue": "payments"}, {"TagKey": "empty", "TagValue": ""}]
    metadata = bridge.kms.create_key(Policy=policy, Description="räksmörgås", Tags=tags, KeyUsage="ENCRYPT_DECRYPT",
                                     Origin="AWS_KMS", MultiRegion=False)["KeyMetadata"]
    assert metadata == expected_metadata(bridge, metadata, "SYMMETRIC_DEFAULT", "räksmörgås")
    key = metadata["KeyId"]
    assert bridge.kms.list_resource_tags(KeyId=key)["Tags"] == tags
    assert json.loads(bridge.kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"]) == json.loads(policy)


def test_the_deprecated_spec_member(bridge):
    metadata = bridge.kms.create_key(CustomerMasterKeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]
    assert metadata["KeySpec"] == metadata["CustomerMasterKeySpec"] == "ECC_NIST_P256"
    with refused("ValidationException", "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. "
                                        "CustomerMasterKeySpec is deprecated."):
        bridge.kms.create_key(CustomerMasterKeySpec="RSA_2048", KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")


NEEDS_USAGE = "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."


@pytest.mark.parametrize("params, code, text", [
    ({"KeySpec": "RSA_2048"}, "ValidationException", NEEDS_USAGE),
    ({"KeySpec": "HMAC_256"}, "ValidationException", NEEDS_USAGE),
    ({"KeySpec": "RSA_2048", "KeyUsage": "KEY_AGREEMENT"}, "ValidationException",
     "KeyUsage KEY_AGREEMENT is not compatible with KeySpec RSA_2048"),
    ({"KeySpec": "HMAC_256", "KeyUsage": "SIGN_VERIFY"}, "ValidationException",
     "KeyUsage SIGN_VERIFY is not compatible with KeySpec HMAC_256"),
    ({"KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "SIGN_VERIFY"}, "ValidationException",
     "KeyUsage SIGN_VERIFY is not compatible with KeySpec SYMMETRIC_DEFAULT"),
    ({"KeySpec": "ECC_NIST_P256", "KeyUsage": "ENCRYPT_DECRYPT"}, "ValidationException",
     "KeyUsage ENCRYPT_DECRYPT is not compatible with KeySpec ECC_NIST_P256"),
    ({"Description": "d" * 8193}, "ValidationException",
     # Long values are cut in texts.
     one_validation_error(f"Value '{'d' * 4096}...' at 'description' failed to satisfy constraint: "
                          "Member must have length less than or equal to 8192")),
    # Known to the model, not made here: refused loudly.
    ({"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"}, "UnsupportedOperationException", None),
    ({"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"}, "UnsupportedOperationException", None),
    ({"KeySpec": "ML_DSA_44", "KeyUsage": "SIGN_VERIFY"}, "UnsupportedOperationException", None),
    ({"KeySpec": "SM2", "KeyUsage": "SIGN_VERIFY"}, "UnsupportedOperationException", None),
    ({"Origin": "EXTERNAL"}, "UnsupportedOperationException", None),
    ({"MultiRegion": True}, "UnsupportedOperationException", None),
    ({"CustomKeyStoreId": "cks-1234567890abcdef0", "Origin": "AWS_CLOUDHSM"},
     "CustomKeyStoreNotFoundException", "Custom key store cks-1234567890abcdef0 is not found."),
])
def test_create_refused(bridge, params, code, text):
    with refused(code, text):
        bridge.kms.create_key(**params)


@pytest.mark.parametrize("member, name", [("KeySpec", "keySpec"), ("KeyUsage", "keyUsage"), ("Origin", "origin")])
def test_create_refuses_values_outside_an_enum(bridge, member, name):
    start = re.escape(one_validation_error(f"Value 'INVALID' at '{name}' failed to satisfy constraint: "
                                           "Member must satisfy enum value set: ["))
    with refused("ValidationException", re.compile(start + r"\w+(, \w+)*\]")) as seen:
        bridge.kms.create_key(**{member: "INVALID"})
    shape = bridge.kms.meta.service_model.operation_model("CreateKey").input_shape.members[member]
    listed = seen.message.rpartition("[")[2].rstrip("]").split(", ")
    assert set(listed) <= set(shape.enum), "only values that AWS knows"


def test_description(either):
    key = either.new_key(Description="one")
    assert members(either.kms.update_key_description(KeyId=key, Description="two")) == {}
    assert either.kms.describe_key(KeyId=either.key_arn(key))["KeyMetadata"]["Description"] == "two"
    either.kms.update_key_description(KeyId=key, Description="")
    assert either.kms.describe_key(KeyId=key)["KeyMetadata"]["Description"] == ""


def test_disable_and_enable(either):
    made = either.kms.create_key()["KeyMetadata"]
    key, arn = made["KeyId"], made["Arn"]
    blob = either.kms.encrypt(KeyId=key, Plaintext=b"before")["CiphertextBlob"]
    assert members(either.kms.disable_key(KeyId=key)) == {}
    now = either.kms.describe_key(KeyId=key)["KeyMetadata"]
    assert now == made | {"Enabled": False, "KeyState": "Disabled"}
    for call in (lambda: either.kms.encrypt(KeyId=key, Plaintext=b"x"), lambda: either.kms.decrypt(CiphertextBlob=blob),
                 lambda: either.kms.decrypt(CiphertextBlob=blob, KeyId=arn),
                 lambda: either.kms.generate_data_key(KeyId=key, KeySpec="AES_256"),
                 lambda: either.kms.generate_data_key_without_plaintext(KeyId=key, NumberOfBytes=1),
                 lambda: either.kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=either.key()),
                 lambda: either.kms.re_encrypt(DestinationKeyId=key, CiphertextBlob=either.kms.encrypt(
                     KeyId=either.key(), Plaintext=b"x")["CiphertextBlob"])):
        with refused("DisabledException", f"{arn} is disabled."):
            call()
    either.kms.disable_key(KeyId=key)
    either.kms.update_key_description(KeyId=key, Description="while disabled")
    assert members(either.kms.enable_key(KeyId=arn)) == {}
    assert either.kms.describe_key(KeyId=key)["KeyMetadata"] == made | {"Description": "while disabled"}
    assert either.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"before"


def test_disabled_keys_neither_sign_nor_verify(bridge):
    for spec, calls in {
        "ECC_NIST_P256": [("sign", {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}),
                          ("verify", {"Message": b"m", "Signature": b"s" * 70, "SigningAlgorithm": "ECDSA_SHA_256"})],
        "HMAC_256": [("generate_mac", {"Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}),
                     ("verify_mac", {"Message": b"m", "Mac": b"s" * 32, "MacAlgorithm": "HMAC_SHA_256"})],
    }.items():
        key = bridge.new_key(KeySpec=spec, KeyUsage=vocabulary.usage(spec))
        bridge.kms.disable_key(KeyId=key)
        for name, params in calls:
            with refused("DisabledException", f"{bridge.key_arn(key)} is disabled."):
                getattr(bridge.kms, name)(KeyId=key, **params)


def test_schedule_and_cancel_deletion(either):
    made = either.kms.create_key()["KeyMetadata"]
    key, arn = made["KeyId"], made["Arn"]
    blob = either.kms.encrypt(KeyId=key, Plaintext=b"kept")["CiphertextBlob"]
    start = datetime.datetime.now(datetime.timezone.utc)
    answer = members(either.kms.schedule_key_deletion(KeyId=key))
    date = answer.pop("DeletionDate")
    assert answer == {"KeyId": arn, "KeyState": "PendingDeletion", "PendingWindowInDays": 30}
    assert abs(date - start - datetime.timedelta(days=30)) < datetime.timedelta(minutes=1)
    pending = made | {"Enabled": False, "KeyState": "PendingDeletion", "DeletionDate": date}
    assert either.kms.describe_key(KeyId=key)["KeyMetadata"] == pending

    text = f"{arn} is pending deletion."
    for name, params in [
        ("schedule_key_deletion", {}), ("enable_key", {}), ("disable_key", {}), ("encrypt", {"Plaintext": b"x"}),
        ("decrypt", {"CiphertextBlob": blob}), ("generate_data_key", {"KeySpec": "AES_128"}),
        ("tag_resource", {"Tags": [{"TagKey": "a", "TagValue": "b"}]}), ("untag_resource", {"TagKeys": ["a"]}),
        ("update_key_description", {"Description": "d"}),
    ]:
        with refused("KMSInvalidStateException", text):
            getattr(either.kms, name)(KeyId=key, **params)
    with refused("KMSInvalidStateException", text):
        either.kms.create_alias(AliasName=f"alias/never-{secrets.token_hex(4)}", TargetKeyId=key)
    # Looking at it stays possible, and it stays listed.
    assert either.kms.get_key_policy(KeyId=key)["Policy"]
    assert either.kms.list_resource_tags(KeyId=key)["Tags"] == []
    listed = {k["KeyId"] for page in either.kms.get_paginator("list_keys").paginate() for k in page["Keys"]}
    assert key in listed

    assert members(either.kms.cancel_key_deletion(KeyId=key)) == {"KeyId": arn}
    assert either.kms.describe_key(KeyId=key)["KeyMetadata"] == made | {"Enabled": False, "KeyState": "Disabled"}
    with refused("KMSInvalidStateException", f"{arn} is not pending deletion."):
        either.kms.cancel_key_deletion(KeyId=key)
    either.kms.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)
    either.kms.cancel_key_deletion(KeyId=arn)
    either.kms.enable_key(KeyId=key)
    assert either.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"kept"


@pytest.mark.parametrize("days, text", [
    (0, one_validation_error("Value '0' at 'pendingWindowInDays' failed to satisfy constraint: Member must have value greater "
                             "than or equal to 1")),
    (366, one_validation_error("Value '366' at 'pendingWindowInDays' failed to satisfy constraint: Member must have value less "
                               "than or equal to 365")),
    (6, "PendingWindowInDays must be between 7 and 30"), (31, "PendingWindowInDays must be between 7 and 30"),
    (-7, one_validation_error("Value '-7' at 'pendingWindowInDays' failed to satisfy constraint: Member must have value greater "
                              "than or equal to 1")),
])
def test_deletion_windows_are_7_to_30_days(bridge, days, text):
    key = bridge.key(purpose="never deleted")
    with refused("ValidationException", text):
        bridge.client(validate=False).schedule_key_deletion(KeyId=key, PendingWindowInDays=days)
    assert bridge.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"


@pytest.mark.parametrize("key_id, code, text", [
    ("fake-key-id", "NotFoundException", "Invalid keyId 'fake-key-id'"),
    (UNKNOWN.replace("-", ""), "NotFoundException", f"Invalid keyId '{UNKNOWN.replace('-', '')}'"),
    (UNKNOWN, "NotFoundException", "Key '{arn}' does not exist"),
    ("{arn}", "NotFoundException", "Key '{arn}' does not exist"),
    ("mrk-" + "0" * 32, "NotFoundException", "Key '{mrk}' does not exist"),
    ("arn:aws:kms:us-west-2:{account}:key/" + UNKNOWN, "NotFoundException", "Invalid arn us-west-2"),
    ("alias/no-such-alias", "NotFoundException", "Alias {alias} is not found."),
    ("{alias}", "NotFoundException", "Alias {alias} is not found."),
    ("arn:aws:kms", "InvalidArnException", None),
    ("health-check-dummy-key", "NotFoundException", "Invalid keyId 'health-check-dummy-key'"),
])
@pytest.mark.parametrize("operation", ["DescribeKey", "Encrypt"])
def test_keys_that_are_not_there(bridge, operation, key_id, code, text):
    assert bridge.region != "us-west-2"
    words = {"arn": bridge.key_arn(UNKNOWN), "mrk": bridge.key_arn("mrk-" + "0" * 32), "account": bridge.account,
             "alias": bridge.alias_arn("alias/no-such-alias")}
    params = {"Plaintext": b"x"} if operation == "Encrypt" else {}
    with refused(code, text and text.format(**words)):
        getattr(bridge.kms, vocabulary.method(operation))(KeyId=key_id.format(**words), **params)


def test_a_key_of_another_account_is_denied_not_missing(bridge):
    other = "000000000001" if bridge.account != "000000000001" else "000000000002"
    arn = f"arn:aws:kms:{bridge.region}:{other}:key/{UNKNOWN}"
    with refused("AccessDeniedException",
                 f"User: arn:aws:iam::{bridge.account}:root is not authorized to perform: kms:DescribeKey on this resource because "
                 "the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy "
                 "explicitly denies access"):
        bridge.kms.describe_key(KeyId=arn)


# What a request needs before it can be refused for what it is.
UNSERVED_PARAMS = {
    "Decapsulate": {"KeyId": "{key}", "SharedSecretCiphertextBlob": b"x", "EncapsulationAlgorithm": "ML_KEM"},
    "DeleteImportedKeyMaterial": {"KeyId": "{key}"},
    "DeriveSharedSecret": {"KeyId": "{key}", "KeyAgreementAlgorithm": "ECDH", "PublicKey": b"x"},
    "DisableKeyRotation": {"KeyId": "{key}"},
    "EnableKeyRotation": {"KeyId": "{key}"},
    "Encapsulate": {"KeyId": "{key}", "EncapsulationAlgorithm": "ML_KEM"},
    "GenerateDataKeyPair": {"KeyId": "{key}", "KeyPairSpec": "ECC_NIST_P256"},
    "GenerateDataKeyPairWithoutPlaintext": {"KeyId": "{key}", "KeyPairSpec": "ECC_NIST_P256"},
    "GetParametersForImport": {"KeyId": "{key}", "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"},
    "ImportKeyMaterial": {"KeyId": "{key}", "ImportToken": b"x", "EncryptedKeyMaterial": b"x"},
    "ListKeyRotations": {"KeyId": "{key}"},
    "ReplicateKey": {"KeyId": "{key}", "ReplicaRegion": "us-west-2"},
    "RotateKeyOnDemand": {"KeyId": "{key}"},
    "UpdatePrimaryRegion": {"KeyId": "{key}", "PrimaryRegion": "us-west-2"},
}


@pytest.mark.parametrize("operation", vocabulary.UNSERVED)
def test_unserved_operations_are_refused_loudly(either, operation):
    words = {"key": either.key(), "account": either.account}
    params = {k: v.format(**words) if isinstance(v, str) else v for k, v in UNSERVED_PARAMS[operation].items()}
    with refused("UnsupportedOperationException") as seen:
        getattr(either.kms, vocabulary.method(operation))(**params)
    assert seen.message, "the reason is told"


def test_boto3_does_every_operation(either):
    """One success each, over either transport; what the answers hold is the matter of the other tests."""
    kms, done = either.kms, set()

    def noted(model, parsed, **_):
        if "Error" not in parsed:
            done.add(model.name)

    kms.meta.events.register("after-call", noted)
    try:
        key = kms.create_key(Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]["KeyId"]
        name = f"alias/every-{secrets.token_hex(6)}"
        kms.create_alias(AliasName=name, TargetKeyId=key)
        kms.update_alias(AliasName=name, TargetKeyId=key)
        for list_name, params in (("list_keys", {}), ("list_aliases", {}), ("list_resource_tags", {"KeyId": key}),
                                  ("list_key_policies", {"KeyId": key}), ("list_grants", {"KeyId": key})):
            assert getattr(kms, list_name)(**params)["Truncated"] in (True, False)
        kms.tag_resource(KeyId=key, Tags=[{"TagKey": "c", "TagValue": "d"}])
        kms.untag_resource(KeyId=key, TagKeys=["a"])
        kms.update_key_description(KeyId=key, Description="every operation")
        kms.put_key_policy(KeyId=key, Policy=kms.get_key_policy(KeyId=key)["Policy"])
        kms.get_key_rotation_status(KeyId=key)
        root = f"arn:aws:iam::{either.account}:root"
        grants = [kms.create_grant(KeyId=key, GranteePrincipal=root, RetiringPrincipal=root, Operations=["Decrypt"]) for _ in "12"]
        assert len(kms.list_retirable_grants(RetiringPrincipal=root)["Grants"]) >= 2
        kms.retire_grant(GrantToken=grants[0]["GrantToken"])
        kms.revoke_grant(KeyId=key, GrantId=grants[1]["GrantId"])

        blob = kms.encrypt(KeyId=name, Plaintext=b"p")["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"p"
        kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=key)
        kms.generate_data_key(KeyId=key, KeySpec="AES_256")
        kms.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256")
        kms.generate_random(NumberOfBytes=8)
        signing = {"KeyId": either.key("ECC_NIST_P256"), "Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
        kms.verify(Signature=kms.sign(**signing)["Signature"], **signing)
        kms.get_public_key(KeyId=signing["KeyId"])
        macking = {"KeyId": either.key("HMAC_256"), "Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
        kms.verify_mac(Mac=kms.generate_mac(**macking)["Mac"], **macking)

        assert kms.get_key_last_usage(KeyId=key)["KeyLastUsage"]["Operation"] == "GenerateDataKeyWithoutPlaintext"

        with either.custom_store() as store:
            kms.update_custom_key_store(CustomKeyStoreId=store, NewCustomKeyStoreName=f"every-{secrets.token_hex(6)}")
            either.connect(store)
            either.disconnect(store)

        kms.delete_alias(AliasName=name)
        kms.disable_key(KeyId=key)
        kms.enable_key(KeyId=key)
        kms.schedule_key_deletion(KeyId=key)
        kms.cancel_key_deletion(KeyId=key)
        assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    finally:
        kms.meta.events.unregister("after-call", noted)
    assert done >= set(vocabulary.SERVED), set(vocabulary.SERVED) - done


def test_the_tables_cover_the_service_model(bridge):
    assert len(vocabulary.SERVED) == 42 and len(vocabulary.UNSERVED) == 14 == len(UNSERVED_PARAMS)
    known = set(bridge.kms.meta.service_model.operation_names)
    assert set(vocabulary.SERVED) | set(vocabulary.UNSERVED) == known
