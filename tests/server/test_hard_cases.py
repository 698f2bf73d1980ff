"""What a hostile or unlucky person does: things that are right one by one and went wrong together."""

import json
import sqlite3
import threading

import pytest

from instance import until


def state_of(instance, key):
    return instance.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["KeyState"]


def backup_while_a_key_is_made(instance, path):
    """A backup that has a row of a key which is told to its caller a moment later; the keys that were told."""
    told, stop = [], threading.Event()

    def make():
        while not stop.is_set():
            told.append(instance.new_key(KeySpec="RSA_4096", KeyUsage="SIGN_VERIFY"))

    maker = threading.Thread(target=make)
    maker.start()
    try:
        until("a key is being made", lambda: [r for r in instance.records("CreateKey") if r["eventType"] == "HsmBridgeIntent"])
        # Its row follows the intent at once; RSA_4096 takes much longer.
        until("its row is there", lambda: instance.run("store", "backup", path) and holds_a_row(instance, path))
    finally:
        stop.set()
        maker.join()
    return told


def holds_a_row(instance, path):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        rows = db.execute("SELECT count(*) FROM keys").fetchone()[0]
    done = len([r for r in instance.records("CreateKey") if r["eventType"] != "HsmBridgeIntent"])
    if rows > done:
        return True
    path.unlink()
    return False


def test_a_restore_destroys_no_key_that_was_being_made_at_the_time_of_the_backup(serving):
    early, late = serving.root / "early", serving.root / "late"
    told = backup_while_a_key_is_made(serving, early)
    serving.run("store", "backup", late)
    serving.run("store", "restore", early, "--ticket", "T-1")
    serving.stop()
    serving.start()
    assert serving.records("Start")[-1]["additionalEventData"]["details"]["unfinishedKeysUndone"] == 0
    # They are in the token, without a record, until somebody brings the record back.
    assert serving.doctor()["objects"]["withoutRecord"]
    serving.run("store", "restore", late, "--ticket", "T-2")
    serving.stop()
    serving.start()
    assert {state_of(serving, key) for key in told} == {"Enabled"}
    for key in told:
        serving.call("Sign", {"KeyId": key, "Message": "AAAA", "SigningAlgorithm": "RSASSA_PSS_SHA_256"})


def test_a_store_that_was_put_back_destroys_no_key_that_was_being_made(serving):
    early = serving.root / "early"
    told = backup_while_a_key_is_made(serving, early)
    assert told
    serving.stop()
    late = serving.database.read_bytes()
    for old in serving.database.parent.glob(serving.database.name + "-*"):
        old.unlink()
    serving.database.write_bytes(early.read_bytes())
    serving.start("--accept-store-rollback", "T-3")
    serving.stop()
    serving.database.write_bytes(late)
    serving.start("--accept-store-rollback", "T-4")
    assert {state_of(serving, key) for key in told} == {"Enabled"}


def test_a_restored_deletion_waits_for_a_week(serving):
    """It may have been cancelled after the backup; its day may have come."""
    key, other = serving.new_key(), serving.new_key()
    serving.call("ScheduleKeyDeletion", {"KeyId": key, "PendingWindowInDays": 7})
    late = serving.call("ScheduleKeyDeletion", {"KeyId": other, "PendingWindowInDays": 30})["DeletionDate"]
    before = serving.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["DeletionDate"]
    backup = serving.root / "backup"
    serving.run("store", "backup", backup)
    serving.call("CancelKeyDeletion", {"KeyId": key})
    serving.run("store", "restore", backup, "--ticket", "T-5")
    assert state_of(serving, key) == "PendingDeletion"
    assert serving.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["DeletionDate"] > before
    assert serving.call("DescribeKey", {"KeyId": other})["KeyMetadata"]["DeletionDate"] == late


@pytest.mark.parametrize("where", ["token", "custom_token"])
@pytest.mark.parametrize("text", [None, "no_such_member = 1\n"])
def test_a_profile_that_cannot_be_used_is_a_bad_configuration(make, where, text):
    instance = make(listener='[[custom_token]]\nname = "other"\nlabel = "other"\nprofile = "own.toml"\n' if where == "custom_token" else "")
    profile = instance.root / "own.toml"
    if where == "token":
        instance.sections["token"] = {"profile": "own.toml"}
    profile.write_text("")
    instance.init()
    profile.unlink() if text is None else profile.write_text(text)
    assert "own.toml" in instance.run("serve", expect=78).stderr


def test_a_token_that_cannot_be_there_hinders_nobody_else(make):
    """A module that is missing, is no library or no PKCS#11 module, and a token that is nowhere."""
    libraries = ["/usr/lib/none.so", "/etc/passwd", "/usr/lib/x86_64-linux-gnu/libc.so.6"]
    sections = "".join(f'[[custom_token]]\nname = "t{n}"\nlabel = "t{n}"\nmodule = "{path}"\n' for n, path in enumerate(libraries))
    instance = make(listener=sections + '[[custom_token]]\nname = "away"\nlabel = "away"\n').init().start()
    instance.new_key()
    lines = {token["name"]: token for token in json.loads(instance.run("token", "list", "--json").stdout)["tokens"]}
    assert lines["default"]["present"] and not any(lines[name]["present"] for name in ("t0", "t1", "t2", "away"))
