"""What may start: one process per directory, a store as young as the journal says, rows as they were sealed, a token that answers."""

import base64
import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from bridge import binary, clean_env
from instance import COMMAND, MODULE, is_intent
from token_flags import pin_flags
from spy import Spy

PROFILE = Path(__file__).resolve().parents[2] / "hsm-config" / "profiles" / "softhsm2.toml"


def refused(instance, code, *words, args=("serve",), config=None):
    """A command that must end by itself."""
    done = instance.run(*args, expect=code, config=config)
    for word in words:
        assert word in done.stderr, done.stderr
    return done.stderr


# -- one process per directory ---------------------------------------------------------------------------------------------

def test_a_second_server_ends_before_it_touches_the_token(serving):
    """With a wrong PIN and a spy of its own: neither matters, since it does not get that far."""
    spy = Spy(serving, "second.log")
    wrong = serving.root / "wrong-pin"
    wrong.write_text("0000000000\n")
    wrong.chmod(0o600)
    second = serving.write_config(serving.root / "second.toml", token=spy.token | {"pin_file": str(wrong)})
    refused(serving, 75, f"locked by process {serving.process.pid}", config=second)
    assert spy.calls() == {}
    assert serving.call("ListKeys")["Keys"] == []
    # Another state directory with the same journal: the journal has a lock of its own.
    other = serving.write_config(serving.root / "other.toml", token=spy.token, server={"state_dir": str(serving.root / "other")})
    refused(serving, 75, f"locked by process {serving.process.pid}", config=other)
    assert spy.calls() == {}


def test_a_killed_server_leaves_no_lock(serving):
    serving.kill()
    serving.start()
    assert serving.records("Start")[-1]["additionalEventData"]["details"]["uncleanStop"] is True
    serving.stop()
    serving.start()
    assert serving.records("Start")[-1]["additionalEventData"]["details"]["uncleanStop"] is False


# -- a store that is older than the journal --------------------------------------------------------------------------------

def copy_store(instance, name):
    shutil.copytree(instance.database.parent, instance.root / name)


def put_store(instance, name):
    for path in instance.database.parent.iterdir():
        if path.name != "LOCK":
            path.unlink()
    for path in (instance.root / name).iterdir():
        if path.name != "LOCK":
            shutil.copy2(path, instance.database.parent / path.name)


def test_an_older_store_is_refused_until_a_person_says_why(serving):
    key = serving.new_key()
    serving.stop()
    copy_store(serving, "older")
    serving.start()
    plaintext = {"KeyId": key, "Plaintext": base64.b64encode(b"x").decode()}
    blobs = [serving.call("Encrypt", plaintext)["CiphertextBlob"] for _ in range(7)]
    later = serving.new_key()
    serving.stop()
    put_store(serving, "older")

    refused(serving, 1, "put back to an older state", "--accept-store-rollback")
    refused(serving, 1, "put back to an older state", args=("key", "list"))
    serving.start("--accept-store-rollback", "TICKET-17")
    start = serving.records("Start")[-1]["additionalEventData"]["details"]
    assert start["storeRollbackTicket"] == "TICKET-17"
    # The store had no word of the encryptions; the journal had.
    shown = json.loads(serving.run("key", "show", key, "--json").stdout)
    assert shown["gcm_reserved"] >= 7, shown
    for blob in blobs:
        assert serving.call("Decrypt", {"CiphertextBlob": blob})["KeyId"] == serving.key_arn(key)
    assert serving.raw().call("DescribeKey", {"KeyId": later}).type == "NotFoundException"
    orphans = serving.doctor()["objects"]["withoutRecord"]
    assert [row["labels"] for row in orphans] == [[f"hsm-bridge/kms/{later}"]]
    serving.stop()

    serving.start()
    assert serving.records("Start")[-1]["additionalEventData"]["details"]["storeRollbackTicket"] is None
    serving.stop()
    put_store(serving, "older")
    refused(serving, 1, "put back to an older state")
    assert serving.verify()["verdict"] == "OK"


# -- rows that were touched ------------------------------------------------------------------------------------------------

def remove_a_key(db):
    db.execute("DELETE FROM keys WHERE pk = (SELECT min(pk) FROM keys)")


def remove_an_alias(db):
    db.execute("DELETE FROM aliases")


def remove_an_access_key(db):
    db.execute("DELETE FROM access_keys")


def remove_the_usage(db):
    db.execute("DELETE FROM usage")


def swap_two_keys(db):
    (a, one), (b, two) = db.execute("SELECT pk, sealed FROM keys ORDER BY pk LIMIT 2").fetchall()
    db.executemany("UPDATE keys SET sealed = ? WHERE pk = ?", [(two, a), (one, b)])


def rename_a_key(db):
    db.execute("UPDATE keys SET pk = replace(pk, substr(pk, 1, 1), 'f') WHERE pk = (SELECT min(pk) FROM keys)")


def edit_a_byte(db):
    ((pk, sealed),) = db.execute("SELECT pk, sealed FROM keys ORDER BY pk LIMIT 1").fetchall()
    db.execute("UPDATE keys SET sealed = ? WHERE pk = ?", (sealed[:-1] + bytes([sealed[-1] ^ 1]), pk))


def edit_a_revision(db):
    db.execute("UPDATE aliases SET revision = revision + 1")


def edit_the_head(db):
    ((sealed,),) = db.execute("SELECT sealed FROM head").fetchall()
    db.execute("UPDATE head SET sealed = ?", (bytes([sealed[0] ^ 1]) + sealed[1:],))


def add_a_row(db):
    db.execute("INSERT INTO keys SELECT 'ffffffffffffffffffffffffffffffff', revision, sealed FROM keys LIMIT 1")


TOUCHES = [remove_a_key, remove_an_alias, remove_an_access_key, remove_the_usage, swap_two_keys, rename_a_key, edit_a_byte,
           edit_a_revision, edit_the_head, add_a_row]


def touch(database, how):
    with sqlite3.connect(database) as db:
        before = db.total_changes
        how(db)
        assert db.total_changes > before, f"{how.__name__} changed nothing"
    db.close()


def test_rows_that_were_touched_are_refused_each(serving):
    keys = [serving.new_key() for _ in range(3)]
    serving.call("CreateAlias", {"AliasName": "alias/one", "TargetKeyId": keys[0]})
    serving.call("Encrypt", {"KeyId": keys[0], "Plaintext": "eA=="})
    serving.stop()
    copy_store(serving, "whole")
    for how in TOUCHES:
        touch(serving.database, how)
        refused(serving, 1, "store")
        put_store(serving, "whole")
    # One row of an older state in a store that is otherwise new.
    serving.start()
    serving.call("UpdateKeyDescription", {"KeyId": keys[1], "Description": "newer"})
    serving.stop()
    with sqlite3.connect(serving.root / "whole" / "store.sqlite") as db:
        old = {pk: (revision, sealed) for pk, revision, sealed in db.execute("SELECT pk, revision, sealed FROM keys")}
    db.close()
    with sqlite3.connect(serving.database) as db:
        new = {pk: (revision, sealed) for pk, revision, sealed in db.execute("SELECT pk, revision, sealed FROM keys")}
        (changed,) = [pk for pk in old if old[pk] != new[pk]]
        db.execute("UPDATE keys SET revision = ?, sealed = ? WHERE pk = ?", (*old[changed], changed))
    db.close()
    refused(serving, 1, "store")
    with sqlite3.connect(serving.database) as db:
        db.execute("UPDATE keys SET revision = ?, sealed = ? WHERE pk = ?", (*new[changed], changed))
    db.close()
    serving.start()
    assert len(serving.call("ListKeys")["Keys"]) == 3


# -- init ------------------------------------------------------------------------------------------------------------------

def test_init_refuses_twice(ready):
    before = ready.database.read_bytes()
    for _ in range(2):
        refused(ready, 1, "exists already", args=("init",))
    assert ready.database.read_bytes() == before
    ready.start()
    refused(ready, 1, "exists already", args=("init",))


def test_init_writes_a_configuration_and_shows_the_secret_once(make):
    made = make().make_token()
    done = made.run("init", "--module", MODULE, "--token-label", made.label, "--pin-file", made.pin_file, "--state-dir", made.state,
                    "--environment", f"SOFTHSM2_CONF={made.softhsm_conf}", "--listen", "127.0.0.1:0", "--json")
    secret = json.loads(done.stdout)["secretAccessKey"]
    assert made.config.stat().st_mode & 0o777 == 0o600
    for path in [made.config, *(p for p in made.state.rglob("*") if p.is_file())]:
        assert secret.encode() not in path.read_bytes(), f"{path} holds the secret"
    intent, outcome = [json.loads(line) for path in (made.state / "audit" / "hsm-bridge" / "journal").glob("*.jsonl")
                       if not path.is_symlink() for line in path.read_text().splitlines() if '"Init"' in line]
    assert is_intent(intent) and not is_intent(outcome) and intent["requestID"] == outcome["requestID"]


@pytest.mark.parametrize("command", ["init", "serve", "doctor"])
def test_a_wrong_pin_is_tried_once(make, command):
    made = make()
    if command == "init":
        made.make_token()
    else:
        made.init()
    spy = Spy(made)
    made.sections["token"] = spy.token | {"profile": str(PROFILE)}
    made.write_config()
    made.write_pin(*made.wrong_pins())
    # With what the profile says of PINs.
    refused(made, 77, "given to `softhsm2-util --init-token`", args=(command,))
    assert spy.calls()["C_Login"] == 1
    assert "user PIN count low" in pin_flags(made)
    # The right one still gets in.
    made.write_pin(made.pin)
    if command == "init":
        made.run("init")
    made.start()


def test_no_login_when_one_more_try_would_lock_the_token(ready):
    spy = Spy(ready)
    ready.sections["token"] = spy.token
    ready.write_config()
    for wrong in ready.wrong_pins(2):
        ready.write_pin(wrong)
        refused(ready, 77, args=("doctor",))
    if "final user PIN try" in pin_flags(ready):
        tries = spy.calls()["C_Login"]
        ready.write_pin(ready.pin)
        refused(ready, 77, "no login is tried", args=("doctor",))
        assert spy.calls()["C_Login"] == tries
    else:
        # SoftHSM never says so; `token` tests pretend.
        assert spy.calls()["C_Login"] == 2


UNREACHABLE = {
    "no such token": {"label": "nowhere"},
    "no such library": {"module": "/nonexistent/libpkcs11.so"},
    "no library": {"module": "/etc/hostname"},
}


@pytest.mark.parametrize("case", UNREACHABLE)
def test_an_unreachable_token_gives_69(make, case):
    made = make().make_token()
    made.write_config(token=UNREACHABLE[case])
    refused(made, 69, args=("init",))
    assert not made.database.exists()
    made.write_config()
    made.run("init")


BAD = {
    "unknown key": ("[server]\nstate_dri = \"x\"\n", "state_dir"),
    "no TOML": ("[server\n", "line 1"),
    "PIN inline": ("[token]\npin = \"1234\"\n", "pin_file"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("command", ["serve", "init", "doctor"])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_gives_78(make, case, command):
    made = make()
    text, word = BAD[case]
    made.config.write_text(text)
    done = refused(made, 78, word, args=(command,))
    assert "1234" not in done


USAGE = [[], ["nonsense"], ["serve"], ["key"], ["key", "show"], ["serve", "--port", "1"], ["access-key", "create", "--user", "a/b"],
         ["dev", "--account", "12"], ["dev", "--listen", "somewhere"], ["init"]]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage_gives_64(arguments):
    done = subprocess.run([str(binary()), *arguments], capture_output=True, text=True, env=clean_env(), timeout=COMMAND)
    assert done.returncode == 64, done
    assert done.stderr and not done.stdout


def test_a_state_directory_that_others_can_read_is_refused(ready):
    ready.state.chmod(0o755)
    refused(ready, 1, "chmod 0700")


def test_another_account_or_region_is_refused(ready):
    for change in ({"account": "444455556666"}, {"region": "us-east-1"}):
        config = ready.write_config(ready.root / "other.toml", server=change)
        # The journal's trail bears them too, and is looked at first.
        done = ready.run("serve", config=config, expect=None)
        assert done.returncode in (1, 74), done
        assert "account" in done.stderr or "trail" in done.stderr
    ready.start()
