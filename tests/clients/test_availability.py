"""A record is never dropped because the token lacks the object: the key becomes Unavailable, and comes back with it."""

import json
import os
import pathlib

from checks import refused


def objects(bridge):
    tokens = pathlib.Path(bridge.env["SOFTHSM2_CONF"]).parent / "tokens"
    return set(tokens.glob("*/*.object"))


def test_a_key_whose_object_left_and_came_back(own_bridge):
    bridge = own_bridge
    kept, before = bridge.new_key(), objects(bridge)
    lost = bridge.new_key()
    (its_object,) = objects(bridge) - before
    blob = bridge.kms.encrypt(KeyId=lost, Plaintext=b"x")["CiphertextBlob"]
    away = its_object.with_suffix(".away")

    bridge.stop()
    os.rename(its_object, away)
    bridge.start()
    metadata = bridge.kms.describe_key(KeyId=lost)["KeyMetadata"]
    assert (metadata["KeyState"], metadata["Enabled"]) == ("Unavailable", False)
    arn = metadata["Arn"]
    with refused("KeyUnavailableException", f"{arn} is unavailable.", status=500):
        bridge.kms.decrypt(CiphertextBlob=blob)
    assert bridge.kms.encrypt(KeyId=kept, Plaintext=b"x")
    report = json.loads(bridge.run("doctor", "--json").stdout)
    assert report["objects"]["recordsWithoutObject"] == [lost]

    bridge.stop()
    os.rename(away, its_object)
    bridge.start()
    assert bridge.kms.describe_key(KeyId=lost)["KeyMetadata"]["KeyState"] == "Enabled"
    assert bridge.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"

    told = [r["additionalEventData"]["details"] for r in bridge.journal() if r["eventName"] == "KeyAvailability"]
    gone, back = {"unavailable": [arn], "availableAgain": []}, {"unavailable": [], "availableAgain": [arn]}
    # An intent and an outcome each.
    assert told == [gone, gone, back, back]
