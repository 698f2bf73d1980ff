"""GetKeyLastUsage: a cache over the journal that a crash does not shorten; `rotate report` and `rotate retire` read it too."""

import datetime
import json

import pytest

from checks import refused


def last(bridge, key):
    return bridge.kms.get_key_last_usage(KeyId=key)


def records(bridge):
    return [json.loads(line) for line in bridge.journal_lines()]


def journal_use(bridge, key):
    """The newest successful cryptographic call on the key, read from the log by this test."""
    arn, crypto = bridge.key_arn(key), {"Encrypt", "Decrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext",
                                        "ReEncrypt", "Sign", "Verify", "GenerateMac", "VerifyMac"}
    found = [r for r in records(bridge) if r["eventType"] == "AwsApiCall" and r["eventName"] in crypto
             and "errorCode" not in r and arn in [x["ARN"] for x in r.get("resources") or []]]
    return found[-1] if found else None


def check_against_journal(bridge, key):
    use, record = last(bridge, key)["KeyLastUsage"], journal_use(bridge, key)
    told = datetime.datetime.fromisoformat(record["eventTime"].replace("Z", "+00:00"))
    assert (use["Operation"], use["CloudTrailEventId"], use["KmsRequestId"], use["Timestamp"]) == (
        record["eventName"], record["eventID"], record["requestID"], told)


def test_a_key_that_nobody_used(bridge):
    key = bridge.new_key()
    answer = last(bridge, key)
    assert "KeyLastUsage" not in answer or answer["KeyLastUsage"] == {}
    assert answer["KeyId"] == bridge.key_arn(key)
    created = bridge.kms.describe_key(KeyId=key)["KeyMetadata"]["CreationDate"]
    assert answer["KeyCreationDate"] == created
    assert answer["TrackingStartDate"] <= datetime.datetime.now(datetime.timezone.utc)


def test_each_operation_counts_and_failures_do_not(bridge):
    key, other = bridge.new_key(), bridge.new_key()
    blob = bridge.kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    assert last(bridge, key)["KeyLastUsage"]["Operation"] == "Encrypt"
    check_against_journal(bridge, key)
    with refused("InvalidCiphertextException"):
        bridge.kms.decrypt(KeyId=key, CiphertextBlob=blob[:-1] + bytes([blob[-1] ^ 1]))
    bridge.kms.describe_key(KeyId=key)
    assert last(bridge, key)["KeyLastUsage"]["Operation"] == "Encrypt"
    bridge.kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=other)
    for used in (key, other):
        check_against_journal(bridge, used)
    signer = bridge.new_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    bridge.kms.sign(KeyId=signer, Message=b"m", SigningAlgorithm="ECDSA_SHA_256")
    check_against_journal(bridge, signer)


@pytest.mark.parametrize("how", ["stop", "kill", "kill-without-cache", "damaged-cache", "older-cache"])
def test_a_crash_loses_no_use(own_bridge, how):
    bridge = own_bridge
    keys = [bridge.new_key() for _ in range(3)]
    bridge.kms.encrypt(KeyId=keys[0], Plaintext=b"x")
    cache = bridge.dir / "state" / "last-use"
    bridge.restart()
    older = cache.read_bytes()
    assert oct(cache.stat().st_mode & 0o777) == "0o600"
    assert bridge.access_key.encode() not in older and keys[0].encode() not in older
    bridge.kms.generate_data_key(KeyId=keys[1], KeySpec="AES_256")
    bridge.kms.encrypt(KeyId=keys[2], Plaintext=b"x")
    before = [last(bridge, key)["KeyLastUsage"] for key in keys]
    if how == "stop":
        bridge.stop()
    else:
        bridge.kill()
    if how == "kill-without-cache":
        cache.unlink()
    elif how == "damaged-cache":
        cache.write_bytes(older[:-1] + bytes([older[-1] ^ 1]))
    elif how == "older-cache":
        cache.write_bytes(older)
    bridge.start()
    # The replay runs beside the first requests.
    for _ in range(200):
        try:
            after = [last(bridge, key)["KeyLastUsage"] for key in keys]
            break
        except bridge.kms.exceptions.DependencyTimeoutException:
            continue
    assert after == before
    for key in keys:
        check_against_journal(bridge, key)


def test_report_and_retire(own_bridge):
    bridge = own_bridge
    key = bridge.new_key()
    bridge.kms.create_alias(AliasName="alias/app", TargetKeyId=key)
    blob = bridge.kms.encrypt(KeyId="alias/app", Plaintext=b"x")["CiphertextBlob"]
    bridge.run("rotate", "--alias", "alias/app", "--reason", "yearly")
    new = bridge.kms.describe_key(KeyId="alias/app")["KeyMetadata"]["KeyId"]
    assert new != key
    bridge.kms.decrypt(CiphertextBlob=blob)

    report = json.loads(bridge.run("rotate", "report", "--json").stdout)
    (line,) = [a for a in report["aliases"] if a["alias"] == "alias/app"]
    assert (line["keyId"], line["overdue"], line["ageDays"]) == (new, False, 0)
    (retired,) = line["retired"]
    assert (retired["keyId"], retired["endedBy"], retired["keyState"]) == (key, "rotate", "Enabled")
    (user,) = retired["stillUsedBy"]
    assert (user["operation"], user["principal"]) == ("Decrypt", f"arn:aws:iam::{bridge.account}:root")
    assert "alias/app" in bridge.run("rotate", "report").stdout

    refused_run = json.loads(bridge.run("rotate", "retire", "--alias", "alias/app", "--json").stdout)
    assert refused_run["scheduled"] == [] and "days ago" in refused_run["refused"][0][1]
    assert bridge.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"

    forced = json.loads(bridge.run("rotate", "retire", "--alias", "alias/app", "--key", key, "--pending-window-in-days", "7",
                                   "--force", "the application is gone", "--json").stdout)
    assert forced["scheduled"] == [bridge.key_arn(key)]
    assert bridge.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    record = [r for r in records(bridge) if r["eventName"] == "RotateRetire" and r["eventType"] == "HsmBridgeOperatorCall"][-1]
    details = record["additionalEventData"]["details"]
    assert details["forceReason"] == "the application is gone" and details["forced"][0]["keyId"] == key
    # AWS's own operation stays AWS's.
    bridge.kms.cancel_key_deletion(KeyId=key)
    bridge.kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
