"""Rotation by alias, and clients that send the alias on Decrypt: HsmBridge.RotateAlias as a signed request, all else by boto3."""

import http.client
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from bridge import REPOSITORY, Bridge, binary
from checks import refused

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "server"))

from instance import REGION, Instance, until  # noqa: E402

WRONG_KEY = "The key ID in the request does not identify a CMK that can perform this operation."
CONTEXT = {"app": "rotation"}


def rotate(bridge, alias, **more):
    reply = bridge.raw().call("HsmBridge.RotateAlias", {"AliasName": alias} | more)
    assert reply.status == 200, reply.body
    return reply.json()


def not_rotated(bridge, alias, **more):
    """The error's name and text."""
    reply = bridge.raw().call("HsmBridge.RotateAlias", {"AliasName": alias} | more)
    assert reply.status == 400, (reply.status, reply.body)
    return reply.type, reply.text


def target(bridge, alias):
    return bridge.kms.describe_key(KeyId=alias)["KeyMetadata"]["KeyId"]


def seal(bridge, key, plaintext=b"before"):
    return bridge.kms.encrypt(KeyId=key, Plaintext=plaintext, EncryptionContext=CONTEXT)["CiphertextBlob"]


def opened(bridge, key, blob):
    answer = bridge.kms.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionContext=CONTEXT)
    return answer["KeyId"].rsplit("/", 1)[1], answer["Plaintext"]


def records(bridge, request_id):
    return [record for record in bridge.journal() if record.get("requestID") == request_id]


def command(bridge, *args, expect=0):
    done = bridge.run(*args, "--json", check=False)
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout) if expect == 0 else done.stderr


# -- what a rotation makes --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("spec", ["SYMMETRIC_DEFAULT", "RSA_2048", "ECC_NIST_P256", "HMAC_256"])
def test_the_new_key_is_as_the_old_one(bridge, spec):
    usage = {"SYMMETRIC_DEFAULT": "ENCRYPT_DECRYPT", "HMAC_256": "GENERATE_VERIFY_MAC"}.get(spec, "SIGN_VERIFY")
    old = bridge.new_key(KeySpec=spec, KeyUsage=usage, Description="to be rotated", Tags=[{"TagKey": "b", "TagValue": "2"},
                                                                                         {"TagKey": "a", "TagValue": ""}])
    policy = json.loads(bridge.kms.get_key_policy(KeyId=old, PolicyName="default")["Policy"]) | {"Id": "mine"}
    bridge.kms.put_key_policy(KeyId=old, PolicyName="default", Policy=json.dumps(policy))
    alias, other = bridge.new_alias(old), bridge.new_alias(old)
    answer = rotate(bridge, alias)
    new = target(bridge, alias)
    assert new != old and target(bridge, other) == old
    assert bridge.key_arn(new) in json.dumps(answer) and bridge.key_arn(old) in json.dumps(answer)
    was, now = (bridge.kms.describe_key(KeyId=key)["KeyMetadata"] for key in (old, new))
    for member in ("KeySpec", "KeyUsage", "Description", "KeyState", "Origin", "KeyManager"):
        assert was[member] == now[member], member
    assert now["CreationDate"] > was["CreationDate"]
    assert bridge.kms.list_resource_tags(KeyId=new)["Tags"] == bridge.kms.list_resource_tags(KeyId=old)["Tags"]
    assert bridge.kms.get_key_policy(KeyId=new, PolicyName="default")["Policy"] == json.dumps(policy)


def test_the_record_of_a_rotation(bridge):
    old = bridge.new_key()
    alias = bridge.new_alias(old)
    reply = bridge.raw().call("HsmBridge.RotateAlias", {"AliasName": alias, "Reason": "the yearly one", "ClientToken": secrets.token_hex(8)})
    new = target(bridge, alias)
    intent, outcome = records(bridge, reply.request_id)
    assert (intent["eventType"], intent["eventName"], outcome["eventName"]) == ("HsmBridgeIntent", "RotateAlias", "RotateAlias")
    for record in (intent, outcome):
        assert [row["ARN"] for row in record["resources"]] == [bridge.alias_arn(alias), bridge.key_arn(old), bridge.key_arn(new)]
    assert outcome["additionalEventData"]["storeVersion"] > 0
    assert outcome["additionalEventData"]["details"]["reason"] == "the yearly one"
    assert outcome["additionalEventData"]["authorization"]["decision"] == "Allow"


def test_another_spec_has_to_fit_the_alias(bridge):
    old = bridge.new_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")
    alias = bridge.new_alias(old)
    rotate(bridge, alias, KeySpec="ECC_NIST_P384")
    assert bridge.kms.describe_key(KeyId=alias)["KeyMetadata"]["KeySpec"] == "ECC_NIST_P384"
    for spec in ("SYMMETRIC_DEFAULT", "HMAC_256"):
        code, text = not_rotated(bridge, alias, KeySpec=spec)
        assert code == "ValidationException" and alias in text and spec in text


def test_what_is_refused(bridge):
    old = bridge.new_key()
    alias = bridge.new_alias(old)
    before = {key["KeyId"] for key in all_keys(bridge)}
    assert not_rotated(bridge, "alias/none-such") == ("NotFoundException", f"Alias {bridge.alias_arn('alias/none-such')} is not found.")
    bridge.kms.disable_key(KeyId=old)
    code, text = not_rotated(bridge, alias)
    assert code == "KMSInvalidStateException" and re.search("is disabled.*enable it first", text)
    bridge.kms.schedule_key_deletion(KeyId=old, PendingWindowInDays=7)
    assert not_rotated(bridge, alias) == ("KMSInvalidStateException", f"{bridge.key_arn(old)} is pending deletion.")
    bridge.kms.cancel_key_deletion(KeyId=old)
    bridge.kms.enable_key(KeyId=old)
    policy = json.loads(bridge.kms.get_key_policy(KeyId=old, PolicyName="default")["Policy"])
    policy["Statement"][0]["Resource"] = bridge.key_arn(old)
    bridge.kms.put_key_policy(KeyId=old, PolicyName="default", Policy=json.dumps(policy))
    # The new key has the same policy: nobody may point an alias to it.
    code, text = not_rotated(bridge, alias)
    assert code == "AccessDeniedException" and "kms:UpdateAlias" in text and bridge.key_arn(old) not in text
    policy["Statement"].append(policy["Statement"][0] | {"Sid": "aliases", "Action": "kms:UpdateAlias", "Resource": "*"})
    bridge.kms.put_key_policy(KeyId=old, PolicyName="default", Policy=json.dumps(policy))
    code, text = not_rotated(bridge, alias)
    assert code == "MalformedPolicyDocumentException" and bridge.key_arn(old) in text
    assert {key["KeyId"] for key in all_keys(bridge)} == before, "no key was made"
    assert target(bridge, alias) == old


def all_keys(bridge):
    return [key for page in bridge.kms.get_paginator("list_keys").paginate() for key in page["Keys"]]


# -- once per ClientToken ---------------------------------------------------------------------------------------------------

def test_a_client_token_rotates_once(bridge):
    old, elsewhere = bridge.new_key(), bridge.new_key()
    alias, ticket = bridge.new_alias(old), secrets.token_hex(16)
    first = rotate(bridge, alias, ClientToken=ticket, Reason="r")
    new, keys = target(bridge, alias), len(all_keys(bridge))
    assert rotate(bridge, alias, ClientToken=ticket, Reason="r") == first
    bridge.kms.update_alias(AliasName=alias, TargetKeyId=elsewhere)
    assert rotate(bridge, alias, ClientToken=ticket, Reason="r") == first, "also after the alias moved on"
    assert target(bridge, alias) == elsewhere and len(all_keys(bridge)) == keys
    for other in ({"Reason": "s"}, {}, {"Reason": "r", "KeySpec": "SYMMETRIC_DEFAULT"}):
        code, text = not_rotated(bridge, alias, ClientToken=ticket, **other)
        assert code == "ValidationException" and "ClientToken" in text
    assert len(all_keys(bridge)) == keys and new in {key["KeyId"] for key in all_keys(bridge)}


def test_a_client_token_outlives_a_restart(own_bridge):
    alias = own_bridge.new_alias(own_bridge.new_key())
    first = rotate(own_bridge, alias, ClientToken="t")
    own_bridge.kill()
    own_bridge.start()
    assert rotate(own_bridge, alias, ClientToken="t") == first


@pytest.mark.parametrize("same", [True, False], ids=["one token", "a token each"])
def test_calls_at_once(bridge, same):
    old = bridge.new_key()
    alias, keys = bridge.new_alias(old), len(all_keys(bridge))
    go, answers = threading.Barrier(6), []

    def one(number):
        client = bridge.raw()
        request = {"AliasName": alias, "ClientToken": f"{alias}" if same else f"{alias}-{number}"}
        go.wait()
        answers.append(client.call("HsmBridge.RotateAlias", request))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    good = [reply.json() for reply in answers if reply.status == 200]
    assert all(reply.status == 200 or reply.type == "ThrottlingException" for reply in answers), [r.body for r in answers]
    made = len(all_keys(bridge)) - keys
    if same:
        assert made == 1 and good and all(answer == good[0] for answer in good)
    else:
        assert made == len(good) >= 1, "each that was told so made a key, and no other did"
    reconciled(bridge)


def test_an_alias_that_moves_under_a_rotation(bridge):
    """What was authorised is what is changed: the new key is undone, and the caller is told to come again."""
    first, other = (bridge.new_key(KeySpec="RSA_4096", KeyUsage="SIGN_VERIFY") for _ in range(2))
    alias = bridge.new_alias(first)
    for _ in range(10):
        # Other tests made keys in other accounts: the store has more than this account's.
        keys, objects, answers = len(all_keys(bridge)), stored(bridge), []
        old = target(bridge, alias)
        # Signed before the clock runs; the pair takes a good part of a second.
        client, ticket = bridge.raw(), secrets.token_hex(8)
        sender = threading.Thread(target=until_it_is_gone, args=(client, alias, ticket, answers))
        sender.start()
        time.sleep(0.05)
        bridge.kms.update_alias(AliasName=alias, TargetKeyId=other if old != other else first)
        sender.join()
        (reply,) = answers
        if reply.status != 200:
            break
    else:
        pytest.fail("every rotation was done before the alias moved")
    assert reply.type == "ThrottlingException", reply.body
    assert target(bridge, alias) in (first, other) and len(all_keys(bridge)) == keys
    assert stored(bridge) == objects
    reconciled(bridge)
    (outcome,) = [r for r in records(bridge, reply.request_id) if r["eventType"] == "AwsApiCall"]
    assert outcome["errorCode"] == "ThrottlingException" and "storeVersion" not in outcome["additionalEventData"]
    done = rotate(bridge, alias, ClientToken=ticket)
    assert done["NewKeyId"] == bridge.key_arn(target(bridge, alias))


# -- the alias on Decrypt ---------------------------------------------------------------------------------------------------

def test_an_alias_opens_what_its_earlier_keys_made(bridge):
    """To K2 and back, by UpdateAlias and by rotation."""
    one, two = bridge.new_key(), bridge.new_key()
    alias = bridge.new_alias(one)
    blobs = {one: seal(bridge, alias)}
    bridge.kms.update_alias(AliasName=alias, TargetKeyId=two)
    blobs[two] = seal(bridge, alias)
    rotate(bridge, alias)
    three = target(bridge, alias)
    blobs[three] = seal(bridge, alias)
    for _ in range(2):
        for name in (alias, bridge.alias_arn(alias)):
            for key, blob in blobs.items():
                assert opened(bridge, name, blob) == (key, b"before")
        bridge.kms.update_alias(AliasName=alias, TargetKeyId=one)
    # A stranger's ciphertext is a stranger's, and a key id means that key only.
    with refused("IncorrectKeyException", WRONG_KEY):
        opened(bridge, alias, seal(bridge, bridge.key()))
    with refused("IncorrectKeyException", WRONG_KEY):
        opened(bridge, one, blobs[two])


def test_the_record_tells_the_generation(bridge):
    old = bridge.new_key()
    alias = bridge.new_alias(old)
    before = seal(bridge, alias)
    rotate(bridge, alias)
    after = seal(bridge, alias)
    for key, blob, expected in ((alias, before, "retired"), (alias, after, "current"), (old, before, None), (None, before, None)):
        named = {"KeyId": key} if key else {}
        answer = bridge.kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT, **named)
        (record,) = records(bridge, answer["ResponseMetadata"]["RequestId"])
        assert record["additionalEventData"].get("aliasGeneration") == expected
        assert [row["ARN"] for row in record["resources"]] == [answer["KeyId"]], "the key of the ciphertext"
    answer = bridge.kms.re_encrypt(CiphertextBlob=before, SourceKeyId=alias, SourceEncryptionContext=CONTEXT, DestinationKeyId=alias)
    assert answer["SourceKeyId"] == bridge.key_arn(old) and answer["KeyId"] == bridge.key_arn(target(bridge, alias))
    (record,) = records(bridge, answer["ResponseMetadata"]["RequestId"])
    assert record["additionalEventData"]["aliasGeneration"] == "retired"


def test_the_state_of_the_ciphertexts_key_counts(bridge):
    old = bridge.new_key()
    alias = bridge.new_alias(old)
    blob = seal(bridge, alias)
    rotate(bridge, alias)
    bridge.kms.disable_key(KeyId=old)
    with refused("DisabledException", f"{bridge.key_arn(old)} is disabled."):
        opened(bridge, alias, blob)
    bridge.kms.enable_key(KeyId=old)
    bridge.kms.disable_key(KeyId=target(bridge, alias))
    assert opened(bridge, alias, blob) == (old, b"before")


def test_an_alias_that_is_made_again_knows_nothing(bridge):
    old = bridge.new_key()
    alias = bridge.new_alias(old)
    blob = seal(bridge, alias)
    rotate(bridge, alias)
    bridge.kms.delete_alias(AliasName=alias)
    bridge.kms.create_alias(AliasName=alias, TargetKeyId=bridge.new_key())
    with refused("IncorrectKeyException", WRONG_KEY):
        opened(bridge, alias, blob)
    assert opened(bridge, old, blob) == (old, b"before")


# -- the officer's commands -------------------------------------------------------------------------------------------------

def test_a_dropped_entry_no_longer_counts(bridge):
    old = bridge.new_key()
    alias = bridge.new_alias(old)
    blob = seal(bridge, alias)
    rotate(bridge, alias)
    new = target(bridge, alias)
    entries = command(bridge, "alias", "history", alias)["history"]
    assert [(entry["keyId"], entry["endedBy"], entry["dropped"]) for entry in entries] == [(old, "rotate", None), (new, None, None)]
    assert entries[0]["until"] == entries[1]["from"]
    assert "only earlier keys" in command(bridge, "alias", "history", "drop", "--alias", alias, "--key", new, expect=1)
    assert "no entry" in command(bridge, "alias", "history", "drop", "--alias", alias, "--key", bridge.key(), expect=1)
    command(bridge, "alias", "history", "drop", "--alias", alias, "--key", old)
    with refused("IncorrectKeyException", WRONG_KEY):
        opened(bridge, alias, blob)
    assert opened(bridge, old, blob) == (old, b"before")
    entries = command(bridge, "alias", "history", alias)["history"]
    assert entries[0]["dropped"] and entries[1]["keyId"] == new and not entries[1]["dropped"]
    drops = [record for record in bridge.journal() if record["eventName"] == "AliasHistoryDrop" and old in json.dumps(record)]
    assert [record["eventType"] for record in drops] == ["HsmBridgeIntent", "HsmBridgeOperatorCall"]


def test_the_list_of_aliases(bridge):
    key = bridge.new_key()
    alias = bridge.new_alias(key)
    row = {row["alias"]: row for row in command(bridge, "alias", "list")["aliases"]}[alias]
    assert (row["keyId"], row["keyState"], row["keyAgeDays"], row["historyEntries"]) == (key, "Enabled", 0, 0)
    rotate(bridge, alias)
    row = {row["alias"]: row for row in command(bridge, "alias", "list")["aliases"]}[alias]
    assert (row["keyId"], row["historyEntries"]) == (target(bridge, alias), 1)


def test_a_plan_changes_nothing_and_the_command_does(bridge):
    old = bridge.new_key(Tags=[{"TagKey": "a", "TagValue": "b"}])
    alias, other = bridge.new_alias(old), bridge.new_alias(old)
    opened(bridge, alias, seal(bridge, alias))
    keys = len(all_keys(bridge))
    plan = command(bridge, "rotate", "--plan", "--alias", alias)
    assert plan["wouldBeDone"] is True and plan["refusedBecause"] == []
    assert plan["aliasesThatStayAtOldKey"] == [other]
    assert plan["newKey"]["tagsCopied"] == 1 and plan["newKey"]["spec"] == "SYMMETRIC_DEFAULT"
    assert plan["encryptionsUnderOldKey"]["setAside"] > 0 and plan["liveGrantsOfOldKey"] == 0
    assert [row["operation"] for row in plan["lastDecryptedBy"]] == ["Decrypt"]
    assert target(bridge, alias) == old and len(all_keys(bridge)) == keys
    bridge.kms.disable_key(KeyId=old)
    plan = command(bridge, "rotate", "--plan", "--alias", alias, "--key-spec", "HMAC_256")
    assert plan["wouldBeDone"] is False and len(plan["refusedBecause"]) == 2, plan
    assert "disabled" in command(bridge, "rotate", "--alias", alias, expect=1)
    bridge.kms.enable_key(KeyId=old)
    done = command(bridge, "rotate", "--alias", alias, "--reason", "by hand")
    assert bridge.key_arn(target(bridge, alias)) in json.dumps(done) and target(bridge, alias) != old
    *_, intent, outcome = [r for r in bridge.journal() if r["eventName"] == "RotateAlias" and alias in json.dumps(r["resources"])]
    assert intent["eventType"] == "HsmBridgeIntent" and intent["requestID"] == outcome["requestID"]
    assert outcome["userIdentity"]["type"] == "HsmBridgeOperator" and "errorCode" not in outcome


# -- with another configuration ---------------------------------------------------------------------------------------------

@pytest.fixture
def configured():
    """Makes a server with these sections of the configuration, and a boto3 client of it."""
    made = []

    def one(**sections):
        instance = Instance("rotation", sections=sections).init().start()
        made.append(instance)
        session = boto3.session.Session(instance.access_key, instance.secret_key, region_name=REGION)
        config = Config(retries={"total_max_attempts": 1}, max_pool_connections=32)
        instance.kms = session.client("kms", endpoint_url=f"http://{instance.address}", config=config)
        instance.alias_arn = lambda name: f"arn:aws:kms:{REGION}:111122223333:{name}"
        return instance

    yield one
    for instance in made:
        instance.close()


def test_strict_mode_is_awss_rule(configured):
    instance = configured(rotation={"decrypt_alias_mode": "strict"})
    old = instance.new_key()
    instance.kms.create_alias(AliasName="alias/app", TargetKeyId=old)
    blob = seal(instance, "alias/app")
    rotate(instance, "alias/app")
    for name in ("alias/app", instance.alias_arn("alias/app")):
        with refused("IncorrectKeyException", WRONG_KEY):
            opened(instance, name, blob)
        with refused("IncorrectKeyException", WRONG_KEY):
            instance.kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=name, SourceEncryptionContext=CONTEXT, DestinationKeyId=old)
        assert opened(instance, name, seal(instance, name))[1] == b"before"
    assert opened(instance, old, blob) == (old, b"before")


def test_an_alias_gets_a_new_key_before_the_budget_ends(configured):
    """Callers by alias never see the limit; both aliases move together; each key stays below its limit."""
    limit = 1000
    instance = configured(rotation={"at_usage": 0.5}, limits={"gcm_encryptions": limit})
    first = instance.new_key()
    for name in ("alias/app", "alias/other"):
        instance.kms.create_alias(AliasName=name, TargetKeyId=first)
    used, wrong = {}, []

    def work(number):
        client = instance.raw()
        for _ in range(800):
            reply = client.call("Encrypt", {"KeyId": ("alias/app", "alias/other")[number % 2], "Plaintext": "eA=="})
            if reply.status != 200:
                wrong.append(reply.body)
                return
            key = reply.json()["KeyId"]
            used.setdefault(key, []).append(1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong, wrong[:3]
    assert len(used) >= 3, {key: len(times) for key, times in used.items()}
    assert all(len(times) <= limit for times in used.values())
    assert target(instance, "alias/app") == target(instance, "alias/other")
    entries = json.loads(instance.run("alias", "history", "alias/app", "--json").stdout)["history"]
    assert {instance.key_arn(entry["keyId"]) for entry in entries} >= set(used)
    outcomes = [r for r in instance.records("RotateAlias") if r["eventType"] == "AwsServiceEvent"]
    assert len(outcomes) == len(entries) - 1 and not any("errorCode" in record for record in outcomes)
    assert outcomes[0]["userIdentity"]["invokedBy"] == "AWS Internal"
    # A key that no alias names ends at its limit.
    alone = instance.new_key()
    with pytest.raises(ClientError) as end:
        for _ in range(limit + 1):
            instance.kms.encrypt(KeyId=alone, Plaintext=b"x")
    assert end.value.response["Error"]["Message"] == f"{instance.key_arn(alone)} has reached its encryption limit; rotate it"


# -- docs/rotation.md -------------------------------------------------------------------------------------------------------

def test_the_page_as_it_stands(own_bridge, tmp_path):
    text = (REPOSITORY / "docs/rotation.md").read_text()
    blocks = re.findall(r"^```sh rotation\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) == 7
    (program,) = re.findall(r"^```python rotation\n(.*?)^```$", text, re.M | re.S)
    (tmp_path / "hsm-bridge").symlink_to(binary().resolve())
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = own_bridge.tool_env(PATH=path)

    def run(*command, **more):
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, **more)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    said = run("bash", "-euo", "pipefail", "-c", "\n".join(blocks))
    assert "order 1" in said and "less than 30 days ago" in said and "deletion scheduled" in said
    new = target(own_bridge, "alias/orders")
    assert said.count(own_bridge.key_arn(new)) >= 3, said
    (old,) = {key["KeyId"] for key in all_keys(own_bridge)} - {new}
    assert own_bridge.kms.describe_key(KeyId=old)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    run(sys.executable, "-c", program)
    assert target(own_bridge, "alias/orders") != new
    shown = re.search(r"^    (\{\"AliasNames\".*)$", text, re.M).group(1)
    real = rotate(own_bridge, "alias/orders")
    assert list(json.loads(shown)) == list(real), "the answer on the page has the members of a real one"


# -- in a custom key store --------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def custom():
    """A bridge with a token for a custom key store, and the store, connected."""
    bridge = Bridge(extra_args=["--custom-tokens", "1", "--custom-store-key-specs", "SYMMETRIC_DEFAULT,RSA_4096"])
    try:
        bridge.start()
        bridge.store = bridge.kms.create_custom_key_store(
            CustomKeyStoreName="store", CloudHsmClusterId=bridge.env["HSM_BRIDGE_CLUSTER_IDS"].split(",")[0],
            TrustAnchorCertificate=Path(bridge.env["HSM_BRIDGE_TRUST_ANCHOR"]).read_text(),
            KeyStorePassword=Path(bridge.env["HSM_BRIDGE_CUSTOM_PIN_FILE"]).read_text().strip())["CustomKeyStoreId"]
        connect(bridge)
        yield bridge
    finally:
        bridge.close()


def connect(bridge):
    bridge.kms.connect_custom_key_store(CustomKeyStoreId=bridge.store)
    connected(bridge)


def connected(bridge):
    def state():
        (store,) = bridge.kms.describe_custom_key_stores(CustomKeyStoreId=bridge.store)["CustomKeyStores"]
        assert store["ConnectionState"] != "FAILED", store
        return store["ConnectionState"] == "CONNECTED"
    until("the key store is connected", state)


def test_a_rotation_stays_in_its_key_store(custom):
    old = custom.new_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId=custom.store)
    alias = custom.new_alias(old)
    blob = seal(custom, alias)
    rotate(custom, alias)
    metadata = custom.kms.describe_key(KeyId=alias)["KeyMetadata"]
    assert metadata["KeyId"] != old and (metadata["Origin"], metadata["CustomKeyStoreId"]) == ("AWS_CLOUDHSM", custom.store)
    assert opened(custom, alias, blob) == (old, b"before")
    custom.kms.disconnect_custom_key_store(CustomKeyStoreId=custom.store)
    code, text = not_rotated(custom, alias)
    assert code == "KMSInvalidStateException" and "not connected" in text
    plan = command(custom, "rotate", "--plan", "--alias", alias)
    assert plan["wouldBeDone"] is False and plan["newKey"]["keyStore"] == custom.store and plan["oldKey"]["state"] == "Unavailable"
    connect(custom)
    assert opened(custom, alias, blob) == (old, b"before")
    code, text = not_rotated(custom, custom.new_alias(custom.new_key(KeySpec="RSA_4096", KeyUsage="SIGN_VERIFY", Origin="AWS_CLOUDHSM",
                                                                     CustomKeyStoreId=custom.store)), KeySpec="RSA_2048")
    assert code == "UnsupportedOperationException" and "RSA_2048" in text


def test_a_killed_rotation_in_a_custom_store_is_undone_when_it_is_connected(custom):
    connected(custom)
    alias = custom.new_alias(custom.new_key(KeySpec="RSA_4096", KeyUsage="SIGN_VERIFY", Origin="AWS_CLOUDHSM", CustomKeyStoreId=custom.store))
    for _ in range(10):
        old, keys, ticket, answers = target(custom, alias), len(all_keys(custom)), secrets.token_hex(8), []
        before = written(custom)
        sender = threading.Thread(target=until_it_is_gone, args=(custom.raw(), alias, ticket, answers))
        sender.start()
        # The row is written at once, the pair takes a good part of a second.
        until("the row of the new key", lambda: written(custom) != before, step=0.001)
        custom.kill()
        sender.join()
        custom.start()
        connected(custom)
        if target(custom, alias) == old:
            break
    else:
        pytest.fail("every rotation was done before the kill")
    assert not answers
    assert stored(custom) == keys == len(all_keys(custom)), "no row of a key that was not finished"
    reconciled(custom)
    assert rotate(custom, alias, ClientToken=ticket)["NewKeyId"] == custom.key_arn(target(custom, alias))
    assert target(custom, alias) != old and len(all_keys(custom)) == keys + 1


def written(bridge):
    """Changes with each transaction of the store."""
    found = (bridge.dir / "state/store/store.sqlite-wal").stat()
    return found.st_size, found.st_mtime_ns


def reconciled(bridge):
    """No object of a key of ours without a record, and the other way round, in any token."""
    report = json.loads(bridge.run("token", "reconcile", "--json").stdout)
    assert not any(entry["keys"] for entry in report["notCompared"]) and report["tokens"], report
    for token in report["tokens"]:
        faults = token["faults"]
        assert faults["objectsWithoutRecord"]["count"] == faults["recordsWithoutObject"]["count"] == 0, token


def until_it_is_gone(client, alias, ticket, answers):
    try:
        answers.append(client.call("HsmBridge.RotateAlias", {"AliasName": alias, "ClientToken": ticket}))
    except (OSError, http.client.HTTPException):
        pass


def stored(bridge):
    """Rows of keys, finished or not."""
    return json.loads(bridge.run("doctor", "--json").stdout)["store"]["keys"]
