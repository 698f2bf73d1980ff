"""A record for each operation, compared whole with the table of audit.md §1.3: what CloudTrail shows of it, what is null, how names, dates
and resources are spelt. What depends on the moment (ids, times) is put in from the answer."""

import datetime
import gzip
import json
import re

import pytest
from botocore.exceptions import ClientError

from authz_tool import Person, record
from bridge import Bridge
from iam_tool import Iam

SYMMETRIC = "SYMMETRIC_DEFAULT"
CONTEXT = {"tenant": "acme", "purpose": "vault"}
JAVA_DATE = re.compile(r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [1-9][0-9]?, 20[0-9]{2}, (1[0-2]|[1-9]):[0-5][0-9]:[0-5][0-9] (AM|PM)")
MATERIAL = re.compile(r"[0-9a-f]{64}")


def java_date(moment):
    moment = moment.astimezone(datetime.timezone.utc)
    return f"{moment:%b} {moment.day}, {moment.year}, {moment.hour % 12 or 12}:{moment:%M:%S} {'AM' if moment.hour < 12 else 'PM'}"


class Book:
    """Calls, and what the log has of them."""

    def __init__(self, bridge):
        self.bridge, self.kms, self.called = bridge, bridge.kms, set()

    def arn(self, key):
        return self.bridge.key_arn(key)

    def check(self, operation, *, parameters, elements=None, resources=(), read_only=True, additional=(), hsm=None, given=None):
        """`parameters`: those of the request, spelt as boto3 has them; a pair gives what the record shows beside it."""
        sent, shown = parameters if isinstance(parameters, tuple) else (parameters, None)
        answer = getattr(self.kms, re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower())(**sent)
        found = record(self.bridge, answer)
        self.called.add(operation)
        camel = {name[0].lower() + name[1:]: value for name, value in sent.items()}
        assert found["requestParameters"] == (camel if shown is None else shown or None), operation
        expected = elements(answer) if callable(elements) else elements
        assert found["responseElements"] == expected, operation
        assert found["readOnly"] is read_only, operation
        expected = resources(answer) if callable(resources) else resources
        kinds = [{"accountId": self.bridge.account, "type": "AWS::KMS::Alias" if ":alias/" in arn else "AWS::KMS::Key", "ARN": arn} for arn in expected]
        assert found["resources"] == kinds, operation
        self.common(found, operation)
        extra = found["additionalEventData"]
        assert extra["authorization"]["decision"] == "Allow"
        for name in additional:
            assert MATERIAL.fullmatch(extra[name]), (operation, name)
        assert {"keyMaterialId", "sourceKeyMaterialId", "destinationKeyMaterialId"} & extra.keys() == set(additional), operation
        if hsm:
            assert extra["hsm"].keys() == {"tokenSerial", "slot", "mechanism", "rv", "micros"} and extra["hsm"]["rv"] == "CKR_OK", operation
            assert extra["hsm"]["mechanism"] == hsm, operation
        assert "errorCode" not in found and "errorMessage" not in found
        return answer

    def common(self, found, operation):
        """Members that every record has. audit.md §1.1."""
        bridge = self.bridge
        assert found["eventVersion"] == "1.11" and found["eventName"] == operation and found["eventSource"] == "kms.amazonaws.com"
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["eventTime"])
        assert (found["eventType"], found["managementEvent"], found["eventCategory"]) == ("AwsApiCall", True, "Management")
        assert (found["awsRegion"], found["recipientAccountId"]) == (bridge.region, bridge.account)
        assert found["sourceIPAddress"] == "127.0.0.1" and "Boto3" in found["userAgent"]
        assert {"requestParameters", "responseElements", "requestID", "eventID", "userIdentity"} <= found.keys()


@pytest.fixture(scope="module")
def book(bridge):
    return Book(bridge)


def test_keys(book):
    """Creation and what changes a key."""
    def created(answer):
        given = answer["KeyMetadata"]
        shown = {name[0].lower() + name[1:]: value for name, value in given.items()}
        return {"keyMetadata": shown | {"creationDate": java_date(given["CreationDate"])}}
    sent = {"Description": "payments", "Tags": [{"TagKey": "custodian", "TagValue": "team-crypto"}]}
    shown = {"description": "payments", "keySpec": SYMMETRIC, "customerMasterKeySpec": SYMMETRIC, "keyUsage": "ENCRYPT_DECRYPT", "origin": "AWS_KMS",
             "multiRegion": False, "bypassPolicyLockoutSafetyCheck": False, "tags": [{"tagKey": "custodian", "tagValue": "team-crypto"}]}
    made = book.check("CreateKey", parameters=(sent, shown), elements=created, read_only=False, hsm="CKM_AES_KEY_GEN",
                      resources=lambda answer: [answer["KeyMetadata"]["Arn"]])
    key = made["KeyMetadata"]["KeyId"]
    arn = book.arn(key)
    changes = {"elements": {"keyId": arn}, "resources": [arn], "read_only": False}
    book.check("UpdateKeyDescription", parameters={"KeyId": key, "Description": "new"}, **changes)
    book.check("TagResource", parameters=({"KeyId": key, "Tags": [{"TagKey": "a", "TagValue": ""}]}, {"keyId": key, "tags": [{"tagKey": "a", "tagValue": ""}]}), **changes)
    book.check("UntagResource", parameters={"KeyId": key, "TagKeys": ["a"]}, **changes)
    book.check("DisableKey", parameters={"KeyId": key}, **changes)
    book.check("EnableKey", parameters={"KeyId": arn}, **changes)
    policy = book.kms.get_key_policy(KeyId=key)["Policy"]
    sent = {"KeyId": key, "Policy": policy}
    book.check("PutKeyPolicy", parameters=(sent, {"keyId": key, "policyName": "default", "policy": policy, "bypassPolicyLockoutSafetyCheck": False}), **changes)
    def scheduled(answer):
        return {"keyId": arn, "keyState": "PendingDeletion", "deletionDate": java_date(answer["DeletionDate"]), "pendingWindowInDays": 7}
    book.check("ScheduleKeyDeletion", parameters={"KeyId": key, "PendingWindowInDays": 7}, **changes | {"elements": scheduled})
    book.check("CancelKeyDeletion", parameters={"KeyId": key}, **changes)


def test_reads(book):
    key = book.bridge.key()
    arn = book.arn(key)
    for operation in ("DescribeKey", "GetKeyRotationStatus", "GetKeyLastUsage", "ListResourceTags", "ListKeyPolicies"):
        book.check(operation, parameters={"KeyId": key}, resources=[arn])
    book.check("GetKeyPolicy", parameters=({"KeyId": key}, {"keyId": key, "policyName": "default"}), resources=[arn])
    book.check("ListGrants", parameters={"KeyId": key}, resources=[arn])
    book.check("ListKeys", parameters=({}, {}))
    book.check("ListKeys", parameters={"Limit": 2})
    book.check("ListAliases", parameters=({}, {}))
    book.check("ListAliases", parameters={"KeyId": key}, resources=[arn])
    book.check("DescribeCustomKeyStores", parameters=({}, {}))
    public = book.bridge.key("RSA_2048")
    book.check("GetPublicKey", parameters={"KeyId": public}, resources=[book.arn(public)])


def test_cryptography(book):
    key, other = book.bridge.key(), book.bridge.key(purpose="another")
    arn, there = book.arn(key), book.arn(other)
    used = {"resources": [arn], "additional": ["keyMaterialId"], "hsm": "CKM_AES_GCM"}
    shown = {"keyId": key, "encryptionAlgorithm": SYMMETRIC, "encryptionContext": CONTEXT}
    blob = book.check("Encrypt", parameters=({"KeyId": key, "Plaintext": b"x", "EncryptionContext": CONTEXT}, shown), **used)["CiphertextBlob"]
    book.check("Decrypt", parameters=({"CiphertextBlob": blob, "EncryptionContext": CONTEXT, "KeyId": key}, shown), **used)
    del shown["keyId"]
    answer = book.check("Decrypt", parameters=({"CiphertextBlob": blob, "EncryptionContext": CONTEXT}, shown), **used)
    assert answer["Plaintext"] == b"x"
    sent = {"CiphertextBlob": blob, "SourceEncryptionContext": CONTEXT, "DestinationKeyId": other}
    shown = {"sourceEncryptionAlgorithm": SYMMETRIC, "sourceEncryptionContext": CONTEXT, "destinationKeyId": other,
             "destinationEncryptionAlgorithm": SYMMETRIC}
    book.check("ReEncrypt", parameters=(sent, shown), resources=[arn, there], additional=["sourceKeyMaterialId", "destinationKeyMaterialId"])
    book.check("GenerateDataKey", parameters={"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": CONTEXT}, **used)
    book.check("GenerateDataKeyWithoutPlaintext", parameters={"KeyId": key, "NumberOfBytes": 24}, **used)
    book.check("GenerateRandom", parameters=({"NumberOfBytes": 16}, {}))
    signer = book.bridge.key("ECC_NIST_P256")
    sent = {"KeyId": signer, "Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
    shown = {"keyId": signer, "messageType": "RAW", "signingAlgorithm": "ECDSA_SHA_256"}
    signature = book.check("Sign", parameters=(sent, shown), resources=[book.arn(signer)])["Signature"]
    book.check("Verify", parameters=(sent | {"Signature": signature}, shown), resources=[book.arn(signer)])
    mac = book.bridge.key("HMAC_256")
    sent = {"KeyId": mac, "Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    shown = {"keyId": mac, "macAlgorithm": "HMAC_SHA_256"}
    made = book.check("GenerateMac", parameters=(sent, shown), resources=[book.arn(mac)])["Mac"]
    book.check("VerifyMac", parameters=(sent | {"Mac": made}, shown), resources=[book.arn(mac)])


def test_aliases_and_grants(book):
    bridge = book.bridge
    key, other = bridge.key(), bridge.key(purpose="another")
    alias = bridge.new_alias(key, "alias/taken") + "-more"
    named = [bridge.alias_arn(alias), book.arn(key)]
    sent = {"AliasName": alias, "TargetKeyId": key}
    book.check("CreateAlias", parameters=sent, elements={"keyId": book.arn(key)}, resources=named, read_only=False)
    book.check("UpdateAlias", parameters={"AliasName": alias, "TargetKeyId": other}, elements={"keyId": book.arn(other)}, read_only=False,
               resources=lambda _: [bridge.alias_arn(alias), book.arn(other), book.arn(key)])
    book.check("DeleteAlias", parameters={"AliasName": alias}, resources=[bridge.alias_arn(alias), book.arn(other)], read_only=False)
    who = Person(Iam(bridge))
    sent = {"KeyId": key, "GranteePrincipal": who.arn, "Operations": ["Decrypt", "Encrypt"], "Name": "nightly",
            "RetiringPrincipal": f"arn:aws:iam::{bridge.account}:root", "Constraints": {"EncryptionContextSubset": {"tenant": "acme"}}}
    shown = {name[0].lower() + name[1:]: value for name, value in sent.items()} | {"constraints": {"encryptionContextSubset": {"tenant": "acme"}}}
    changed = {"resources": [book.arn(key)], "read_only": False}
    grant = book.check("CreateGrant", parameters=(sent, shown), elements=lambda a: {"grantId": a["GrantId"], "keyId": book.arn(key)}, **changed)
    book.check("ListRetirableGrants", parameters={"RetiringPrincipal": f"arn:aws:iam::{bridge.account}:root"})
    # RULE audit.md §1.3: null in the form with a token; which grant it was stands in additionalEventData.
    answer = book.check("RetireGrant", parameters=({"GrantToken": grant["GrantToken"]}, {}), **changed)
    assert record(bridge, answer)["additionalEventData"]["grantId"] == grant["GrantId"]
    grant = book.kms.create_grant(KeyId=key, GranteePrincipal=who.arn, Operations=["Decrypt"])
    book.check("RevokeGrant", parameters={"KeyId": key, "GrantId": grant["GrantId"]}, **changed)


@pytest.mark.parametrize("operation, params, code", [
    ("Encrypt", {"KeyId": "00000000-0000-4000-8000-000000000000", "Plaintext": b"x"}, "NotFoundException"),
    ("Decrypt", {"CiphertextBlob": b"not a ciphertext of anybody"}, "InvalidCiphertextException"),
    ("CreateAlias", {"AliasName": "alias/aws/mine", "TargetKeyId": "00000000-0000-4000-8000-000000000000"}, None),
])
def test_failures(book, operation, params, code):
    """The same shape, with errorCode and errorMessage, and nothing in responseElements."""
    with pytest.raises(ClientError) as caught:
        getattr(book.kms, re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower())(**params)
    error = caught.value.response["Error"]
    found = record(book.bridge, caught.value.response)
    book.common(found, operation)
    assert found["errorCode"] == error["Code"] == (code or error["Code"])
    if error.get("Message"):
        assert found["errorMessage"] == error["Message"]
    assert found["responseElements"] is None


def test_a_denial(book):
    """RULE audit.md §1.3: `AccessDenied`, and no parameters."""
    nobody = Person(Iam(book.bridge))
    with pytest.raises(ClientError) as caught:
        nobody.kms.encrypt(KeyId=book.bridge.key(), Plaintext=b"x")
    found = record(book.bridge, caught.value.response)
    book.common(found, "Encrypt")
    assert found["errorCode"] == "AccessDenied" and found["errorMessage"] == caught.value.response["Error"]["Message"]
    assert found["requestParameters"] is None and found["responseElements"] is None
    assert found["resources"] == [{"accountId": book.bridge.account, "type": "AWS::KMS::Key", "ARN": book.arn(book.bridge.key())}]


@pytest.mark.parametrize("mode", ["hmac", "keys-only"])
def test_forms_of_encryption_contexts(mode, tmp_path):
    """Values of encryption contexts stay out of the log, and can be looked up where the form is `hmac`."""
    extra = tmp_path / "extra.toml"
    extra.write_text(f'[audit]\nencryption_context = "{mode}"\n')
    bridge = Bridge(extra_args=["--config-extra", extra])
    try:
        bridge.start()
        key = bridge.key()
        secret = {"tenant": "acme-who-must-not-be-named", "n": "7"}
        blob = bridge.kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=secret)
        again = bridge.kms.decrypt(CiphertextBlob=blob["CiphertextBlob"], EncryptionContext=secret)
        bridge.kms.create_grant(KeyId=key, GranteePrincipal=f"arn:aws:iam::{bridge.account}:root", Operations=["Decrypt"],
                                Constraints={"EncryptionContextEquals": secret})
        shown = [record(bridge, answer)["requestParameters"]["encryptionContext"] for answer in (blob, again)]
        assert shown[0] == shown[1] and shown[0].keys() == secret.keys()
        hashed = json.loads(bridge.run("audit", "hash", secret["tenant"], "--json").stdout)["hash"]
        assert shown[0]["tenant"] == (hashed if mode == "hmac" else None)
        bridge.restart()
        written = [path for path in bridge.audit_dir.rglob("*") if path.is_file() and not path.is_symlink()]
        assert any("snapshots" in path.parts for path in written)
        for path in written:
            data = path.read_bytes()
            assert b"must-not-be-named" not in (gzip.decompress(data) if path.suffix == ".gz" else data), path
    finally:
        bridge.close()
