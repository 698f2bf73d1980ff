"""Outages that are harder to tell: searches that show nothing, a login that fails with a word of the vendor's, a token directory that is
moved away, another token with the same label in its place, and calls that hang where nothing but the end of a process helps.
"""

import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from bridge import clean_env
from faults import Faults, rule
from instance import COMMAND, until
from test_isolation import Load, serving_worker
from test_recovery import RETRIED, code, encrypt, is_ready, metric, opens

FAST = {"retry_first_ms": 20, "retry_longest_ms": 200, "deadline_ms": 3000}
MODES = ["in-process", "process"]


@pytest.fixture
def bench(make):
    def one(isolation, **token):
        made = make(sections={"token": FAST | {"isolation": isolation} | token}).init()
        made.faults = Faults(made).install(made)
        return made.start()
    return one


# -- searches --------------------------------------------------------------------------------------------------------------

LOST_HANDLE = rule("C_EncryptInit", nth=1, returns="CKR_OBJECT_HANDLE_INVALID")


def test_a_search_that_shows_nothing_once(bench):
    made = bench("in-process")
    key = made.new_key()
    made.faults.set(LOST_HANDLE, rule("C_FindObjects", nothing=True, nth=1))
    assert encrypt(made, key).status == 200
    assert is_ready(made)


def test_a_token_whose_searches_show_nothing(bench):
    made = bench("in-process")
    key, other = made.new_key(), made.new_key()
    made.faults.set(LOST_HANDLE, rule("C_FindObjects", nothing=True))
    reply = encrypt(made, key)
    assert code(reply) in RETRIED, reply.body
    made.faults.clear()
    until("it is back, and nobody remembers that the key was missing", lambda: encrypt(made, key).status == 200)
    assert made.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["KeyState"] == "Enabled"
    assert encrypt(made, other).status == 200


def test_a_start_whose_first_search_shows_nothing(bench):
    made = bench("in-process")
    keys = [made.new_key() for _ in range(3)]
    made.stop()
    made.faults.set(rule("C_FindObjects", nothing=True, nth=1))
    made.start()
    states = {made.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["KeyState"] for key in keys}
    assert states == {"Enabled"} and all(encrypt(made, key).status == 200 for key in keys)


# -- logins ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("isolation", MODES)
@pytest.mark.parametrize("returned", ["0x80000042", "CKR_GENERAL_ERROR", "CKR_DEVICE_ERROR"])
def test_requests_bring_no_logins(bench, isolation, returned):
    made = bench(isolation, retry_first_ms=120_000, retry_longest_ms=120_000)
    key = made.new_key()
    mark = made.faults.mark()
    made.faults.set(rule("C_EncryptInit", nth=1, returns="CKR_USER_NOT_LOGGED_IN", lose="login"), rule("C_Login", returns=returned))
    replies = []
    threads = [threading.Thread(target=lambda: replies.extend(encrypt(made, key) for _ in range(4))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 24 and {reply.status for reply in replies} <= {500, 503}
    # The request's own, a look, and one after C_Finalize; the next comes when the first wait is over.
    assert 1 <= made.faults.count("C_Login", mark) <= 3


# -- the token's directory -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("isolation", MODES)
def test_the_token_directory_is_moved_away_and_back(bench, isolation):
    """SoftHSM keeps what it has read; what it reads anew is not there. Answers are errors or right, and nobody restarts anything."""
    made = bench(isolation)
    keys = [made.new_key() for _ in range(4)]
    here, there = made.token_dir, made.root / "away"
    load = Load(made, keys[0], callers=4)
    try:
        load.more("the load runs")
        here.rename(there)
        # Whatever is asked anew while it is away, and once more after C_Initialize, which makes SoftHSM read all anew.
        replies = [made.raw().call("CreateKey", {})] + [encrypt(made, key) for key in keys]
        made.faults.set(rule("C_EncryptInit", nth=1, returns="CKR_DEVICE_ERROR"))
        until("it is noticed", lambda: not is_ready(made))
        replies += [encrypt(made, key) for key in keys]
        made.faults.clear()
        assert {code(reply) for reply in replies if reply.status != 200} <= {*RETRIED, "ThrottlingException"}, [reply.body for reply in replies]
        there.rename(here)
        until("it is ready", lambda: is_ready(made))
        load.more("the load goes on")
    finally:
        load.stop()
    assert not load.wrong
    told = {body.split(b'"__type":"')[-1].split(b'"')[0] for _, body in load.failed}
    assert told <= {name.encode() for name in (*RETRIED, "ThrottlingException")}, told
    for key in keys:
        assert made.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["KeyState"] == "Enabled"
        blob = encrypt(made, key, key.encode()).json()["CiphertextBlob"]
        assert opens(made, blob, key.encode())
    made.new_key()
    made.stop()
    made.verify()


@pytest.mark.parametrize("isolation", MODES)
def test_another_token_with_the_same_label(bench, isolation):
    """It stands in the place of the one that went away: it is refused before any login, whatever it is called."""
    made = bench(isolation)
    key = made.new_key()
    blob = encrypt(made, key).json()["CiphertextBlob"]
    here, there = made.token_dir, made.root / "away"
    here.rename(there)
    subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", made.label, "--pin", made.pin, "--so-pin", "9876543210"],
                   env=clean_env(SOFTHSM2_CONF=str(made.softhsm_conf)), check=True, capture_output=True, timeout=COMMAND)
    other = made.token_dir
    mark = made.faults.mark()
    made.faults.set(rule("C_EncryptInit", nth=1, returns="CKR_DEVICE_ERROR"))
    assert code(encrypt(made, key)) in RETRIED
    until("it looked for its token", lambda: made.faults.count("C_Initialize", mark) >= 2)
    assert not is_ready(made) and encrypt(made, key).status != 200
    assert made.faults.count("C_Login", mark) == 0, "nobody's PIN is tried on another token"
    other.rename(made.root / "other")
    there.rename(here)
    until("it is ready", lambda: is_ready(made))
    assert opens(made, blob, b"text")


def twin(make, made):
    """A token with the serial number, the label and the PIN of another one, and with keys of its own under the same labels: its directory."""
    other = make()

    def copied():
        (other.root / "tokens").mkdir()
        shutil.copytree(made.root / "empty", other.root / "tokens" / made.token_dir.name)
        other.softhsm_conf.write_text(made.softhsm_conf.read_text().replace(str(made.root / "tokens"), str(other.root / "tokens")))
        other.write_pin(other.pin)
    other.make_token = copied
    other.init()
    return other.token_dir


@pytest.mark.parametrize("how", ["in-process", "process", "another worker"])
def test_a_token_whose_own_keys_are_others_is_not_used(make, how):
    """The same serial number, the same labels, and other keys under them: a token that was made anew, or a forged one."""
    made = make(sections={"token": FAST | {"isolation": how if how in MODES else "process", "generate_deadline_seconds": 10}})
    with_token = made.make_token

    def and_kept():
        with_token()
        shutil.copytree(made.token_dir, made.root / "empty")
    made.make_token = and_kept
    made.init()
    made.faults = Faults(made).install(made)
    made.start()
    key = made.new_key()
    blob = encrypt(made, key).json()["CiphertextBlob"]
    other, here, away = twin(make, made), made.token_dir, made.root / "away"
    if how == "another worker":
        # What the next worker has to find is known from the one before.
        worker = serving_worker(made)
        until("a sign of life", lambda: metric(made, "token_breaker") == 0)
        time.sleep(2)
    here.rename(away)
    other.rename(here)
    if how == "another worker":
        os.kill(worker, signal.SIGKILL)
    else:
        made.faults.set(rule("C_EncryptInit", nth=1, returns="CKR_DEVICE_ERROR"))
        assert code(encrypt(made, key)) in RETRIED
    until("it is refused", lambda: "self-test" in made.said())
    assert not is_ready(made)
    for reply in (encrypt(made, key), made.raw().call("Decrypt", {"CiphertextBlob": blob}), made.raw().call("CreateKey", {})):
        assert code(reply) in RETRIED, reply.body
    here.rename(made.root / "other")
    away.rename(here)
    until("it is ready", lambda: is_ready(made))
    assert opens(made, blob, b"text")
    assert made.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["KeyState"] == "Enabled"


# -- hangs -----------------------------------------------------------------------------------------------------------------

def test_a_key_generation_that_hangs_ends_the_process(bench):
    made = bench("in-process", generate_deadline_seconds=5, hang_grace_ms=300)
    key = made.new_key()
    made.faults.set(rule("C_GenerateKeyPair", hang="forever"))
    reply = made.raw().call("CreateKey", {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"})
    assert code(reply) == "DependencyTimeoutException", reply.body
    assert made.wait_for_exit() == 71, made.said()
    assert made.records("TokenHung")
    made.faults.clear()
    made.start()
    assert encrypt(made, key).status == 200
    made.new_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    made.stop()
    report = made.doctor()
    assert not report["objects"]["recordsWithoutObject"] and not report["objects"]["withoutRecord"]


def test_a_key_generation_that_hangs_ends_the_worker(bench):
    made = bench("process", generate_deadline_seconds=8)
    key, worker = made.new_key(), serving_worker(made)
    made.faults.set(rule("C_GenerateKeyPair", hang="forever", nth=1, name="once", count_over_processes=True))
    reply = made.raw().call("CreateKey", {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"})
    assert code(reply) in RETRIED, reply.body
    serving_worker(made, other_than=worker)
    until("it is ready", lambda: is_ready(made))
    assert encrypt(made, key).status == 200 and made.process.poll() is None
    made.new_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")


def test_a_key_is_not_taken_back_beyond_the_deadline(bench):
    """The worker dies late in the making of a key, and the next one hangs as it connects: CreateKey does not wait for that, too."""
    made = bench("process", generate_deadline_seconds=5, deadline_ms=5000)
    made.faults.set(rule("C_GenerateKey", delay_ms=3500, kill="SEGV", nth=1, name="once", count_over_processes=True),
                    rule("C_Initialize", hang="forever"))
    began = time.monotonic()
    assert code(made.raw().call("CreateKey", {})) in RETRIED
    waited = time.monotonic() - began
    assert waited < 7.5, f"CreateKey waited {waited:.1f} s; its deadline was 5 s"
    made.faults.clear()
    until("it is ready", lambda: is_ready(made))
    made.new_key()
    until("the key that was not made is taken back", lambda: made.records("UnfinishedKeysUndone"))
    made.stop()
    report = made.doctor()
    assert not report["objects"]["recordsWithoutObject"] and not report["objects"]["withoutRecord"]


@pytest.mark.parametrize("isolation", MODES)
def test_a_login_that_hangs_is_told(bench, isolation):
    made = bench(isolation, deadline_ms=6000)
    key, worker = made.new_key(), isolation == "process" and serving_worker(made)
    made.faults.set(rule("C_EncryptInit", nth=1, returns="CKR_USER_NOT_LOGGED_IN"), rule("C_GetSessionInfo", returns="CKR_SESSION_HANDLE_INVALID"),
                    rule("C_Login", hang="until-changed"))
    began = time.monotonic()
    assert code(encrypt(made, key)) in RETRIED
    assert code(encrypt(made, key)) in RETRIED, "who waits in the queue is answered by the deadline"
    assert time.monotonic() - began < 2 * 6 + 8
    until("it is not ready", lambda: not is_ready(made))
    began = time.monotonic()
    assert code(encrypt(made, key)) in RETRIED
    assert time.monotonic() - began < 5, "nobody waits for it now"
    if worker:
        assert serving_worker(made) == worker, "a worker is not ended in the middle of a login"
    made.faults.clear()
    until("it is ready", lambda: is_ready(made))
    assert encrypt(made, key).status == 200


def test_many_keys_that_were_not_made_are_looked_for_together(bench):
    """The worker dies in the making of a key and no other one connects: what the callers waited for is not known. With searches for each
    key alone a start after an outage soak took more than three minutes."""
    made = bench("process", generate_deadline_seconds=5, deadline_ms=5000)
    kept = [made.new_key() for _ in range(3)]
    made.faults.set(rule("C_GenerateKey", kill="SEGV", when="before"), rule("C_Initialize", returns="CKR_DEVICE_ERROR"))
    callers = [threading.Thread(target=lambda: made.raw().call("CreateKey", {})) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    until("it is away", lambda: not is_ready(made))
    left = metric(made, "unsettled_changes")
    made.stop()
    made.faults.clear()
    since = made.faults.mark()
    made.start()
    started = len(made.faults.calls("C_FindObjectsInit", since))
    (undone,) = [record["additionalEventData"]["details"]["unfinishedKeysUndone"] for record in made.records("Start")][-1:]
    assert undone == left >= 3, (undone, left)
    made.stop()
    made.start()
    usual = len(made.faults.calls("C_FindObjectsInit", since)) - started
    assert started <= usual + 3, f"{started} searches for {undone} keys in the start, {usual} in the next one"
    assert sorted(row["KeyId"] for row in made.call("ListKeys")["Keys"]) == sorted(kept)
    made.stop()
    report = made.doctor()
    assert not report["objects"]["recordsWithoutObject"] and not report["objects"]["withoutRecord"]


def test_a_finalize_that_hangs_ends_the_process(bench):
    made = bench("in-process", generate_deadline_seconds=5, hang_grace_ms=300)
    key = made.new_key()
    made.faults.set(rule("C_EncryptInit", nth=1, returns="CKR_DEVICE_ERROR"), rule("C_Finalize", hang="forever"))
    assert code(encrypt(made, key)) in RETRIED
    assert made.wait_for_exit() == 71, made.said()
    assert made.records("TokenHung")


def test_a_finalize_that_hangs_ends_the_worker(bench):
    made = bench("process", generate_deadline_seconds=8, hang_grace_ms=300)
    key, worker = made.new_key(), serving_worker(made)
    made.faults.set(rule("C_EncryptInit", nth=1, returns="CKR_DEVICE_ERROR", name="lost", count_over_processes=True),
                    rule("C_Finalize", nth=1, hang="forever", name="once", count_over_processes=True))
    assert code(encrypt(made, key)) in RETRIED
    serving_worker(made, other_than=worker)
    until("it is ready", lambda: is_ready(made))
    assert encrypt(made, key).status == 200


def test_a_library_that_cannot_be_left_ends_the_process(bench):
    """A call hangs, and C_Finalize, which is due, would have to wait for it for ever."""
    made = bench("in-process", deadline_ms=1500, hang_grace_ms=300, workers=4)
    key = made.new_key()
    made.faults.set(rule("C_Encrypt", nth=1, hang="forever"))
    assert code(encrypt(made, key)) in RETRIED
    # Sessions have left: those that wait are told so at once.
    made.faults.set(rule("C_EncryptInit", returns="CKR_DEVICE_ERROR"), rule(["C_OpenSession", "C_GetSessionInfo"], returns="CKR_DEVICE_ERROR"))
    assert code(encrypt(made, key)) in RETRIED
    assert made.wait_for_exit() == 71, made.said()
    assert made.records("TokenHung")
