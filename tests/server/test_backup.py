"""Backup and restore of the store: of a running instance, of a stopped one, and in place of a store that is lost."""

import json
import shutil

import pytest

from instance import is_intent


def answer(instance, *args):
    return json.loads(instance.run(*args, "--json").stdout)


def filled(instance):
    instance.key = instance.new_key(Description="before")
    instance.call("CreateAlias", {"AliasName": "alias/kept", "TargetKeyId": instance.key})
    return instance


def used(instance):
    """After the backup, so that the store in it has no word of the encryptions: not even the block that the first one reserves."""
    instance.blob = instance.call("Encrypt", {"KeyId": instance.key, "Plaintext": "eA=="})["CiphertextBlob"]
    for _ in range(5):
        instance.call("Encrypt", {"KeyId": instance.key, "Plaintext": "eA=="})


def works(instance):
    assert instance.call("Decrypt", {"CiphertextBlob": instance.blob})["Plaintext"] == "eA=="
    assert instance.call("DescribeKey", {"KeyId": "alias/kept"})["KeyMetadata"]["KeyId"] == instance.key


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_backup_and_restore(serving, running):
    instance, backup = filled(serving), serving.root / "backup.sqlite"
    if not running:
        instance.stop()
    facts = answer(instance, "store", "backup", backup)
    assert (facts["keys"], facts["aliases"]) == (1, 1)
    assert backup.stat().st_mode & 0o777 == 0o600
    if not running:
        instance.start()
    used(instance)
    later = instance.new_key()
    instance.call("UpdateKeyDescription", {"KeyId": instance.key, "Description": "after"})
    if not running:
        instance.stop()
    answer(instance, "store", "restore", backup, "--ticket", "TICKET-2")
    if not running:
        instance.start()
    works(instance)
    assert instance.call("DescribeKey", {"KeyId": instance.key})["KeyMetadata"]["Description"] == "before"
    assert instance.raw().call("DescribeKey", {"KeyId": later}).type == "NotFoundException"
    assert [row["labels"] for row in instance.doctor()["objects"]["withoutRecord"]] == [[f"hsm-bridge/kms/{later}"]]
    # The count of encryptions does not go back in time with the store.
    assert answer(instance, "key", "show", instance.key)["gcm_reserved"] >= 6
    for name in ("StoreBackup", "StoreRestore"):
        assert [is_intent(record) for record in instance.records(name)] == [True, False]
    assert "TICKET-2" in json.dumps(instance.records("StoreRestore")[-1])
    # Neither the next start nor the one after takes it for a rollback.
    for _ in range(2):
        instance.stop()
        instance.start()
        works(instance)
    assert instance.verify()["verdict"] == "OK"


def test_the_wrong_backup_first(serving):
    instance, wrong, right = serving, serving.root / "wrong.sqlite", serving.root / "right.sqlite"
    answer(instance, "store", "backup", wrong)
    filled(instance)
    answer(instance, "store", "backup", right)
    used(instance)
    for backup in (wrong, right):
        answer(instance, "store", "restore", backup, "--ticket", "TICKET-4")
    works(instance)
    # Neither the right backup nor the store that it replaced knew how often the key had encrypted: the audit log does.
    assert answer(instance, "key", "show", instance.key)["gcm_reserved"] >= 6


def test_restore_in_place_of_a_store_that_is_lost(serving):
    instance, backup = filled(serving), serving.root / "backup.sqlite"
    answer(instance, "store", "backup", backup)
    used(instance)
    instance.stop()
    shutil.rmtree(instance.database.parent)
    done = instance.run("serve", expect=1)
    assert "does not exist" in done.stderr
    instance.run("store", "restore", backup, "--ticket", "TICKET-3")
    instance.start()
    works(instance)
    assert answer(instance, "key", "show", instance.key)["gcm_reserved"] >= 6
    assert "TICKET-3" in json.dumps(instance.records("StoreRestore")[-1])
    instance.stop()
    instance.start()
    works(instance)
    assert instance.verify()["verdict"] == "OK"


def test_a_backup_is_never_written_over_a_file(serving):
    instance, backup = filled(serving), serving.root / "backup.sqlite"
    used(instance)
    backup.write_text("mine\n")
    instance.run("store", "backup", backup, expect=1)
    assert backup.read_text() == "mine\n"
    instance.run("store", "backup", serving.root / "absent" / "backup.sqlite", expect=1)
    works(instance)


def test_a_backup_that_was_touched_is_refused(serving):
    instance, backup = filled(serving), serving.root / "backup.sqlite"
    answer(instance, "store", "backup", backup)
    used(instance)
    whole = backup.read_bytes()
    import sqlite3

    def without_a_row():
        with sqlite3.connect(backup) as db:
            db.execute("DELETE FROM aliases")
        db.close()

    def cut():
        backup.write_bytes(whole[:len(whole) // 2])

    def no_store():
        backup.write_bytes(b"x" * 10000)

    for how in (without_a_row, cut, no_store, backup.unlink):
        how()
        instance.run("store", "restore", backup, "--ticket", "TICKET-4", expect=1)
        works(instance)
        backup.write_bytes(whole)
    answer(instance, "store", "restore", backup, "--ticket", "TICKET-4")
    works(instance)


def test_a_backup_of_another_instance_is_refused(serving, make):
    used(filled(serving))
    other = make().init()
    backup = serving.root / "other.sqlite"
    other.run("store", "backup", backup)
    serving.run("store", "restore", backup, "--ticket", "TICKET-4", expect=1)
    works(serving)
