"""A start on a token that fails, hangs, or goes away between its login and the service: callers get 503, `/readyz` and the log say what
it is, and the service comes up by itself.
"""

import re

import pytest

from faults import Faults, rule
from instance import until
from test_recovery import b64, code, degraded, encrypt, is_ready

FAST = {"retry_first_ms": 20, "retry_longest_ms": 200, "deadline_ms": 2000, "hang_grace_ms": 500}
MODES = ["in-process", "process"]
# CKA_ID of the keys of the probe.
PROBE = b"hsm-bridge-probe".hex()


@pytest.fixture
def bench(make):
    def one(isolation, **token):
        made = make(sections={"token": FAST | {"isolation": isolation} | token}).init()
        made.faults = Faults(made, log_keys=True).install(made)
        return made
    return one


def heals(made):
    address = made.address
    made.wait_until_serving()
    assert made.address == address and is_ready(made)
    for spec, usage in [("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"), ("ECC_NIST_P256", "SIGN_VERIFY"), ("HMAC_256", "GENERATE_VERIFY_MAC")]:
        # What the token can do was found out anew, and not from its failure.
        made.new_key(KeySpec=spec, KeyUsage=usage)
    made.stop()
    names = [record["eventName"] for record in made.journal()]
    assert names.index("TokenDown") < names.index("TokenRecovered")
    made.verify()


@pytest.mark.parametrize("function, returned", [
    ("C_GetTokenInfo", "CKR_DEVICE_ERROR"), ("C_EncryptInit", "CKR_DEVICE_ERROR"), ("C_Decrypt", "CKR_TOKEN_NOT_PRESENT"),
    ("C_Sign", "CKR_DEVICE_REMOVED"), ("C_EncryptInit", "CKR_GENERAL_ERROR"), ("C_OpenSession", "CKR_SESSION_COUNT")])
def test_the_probe_blames_what_fails(bench, function, returned):
    made = bench("in-process")
    made.faults.set(rule(function, returns=returned))
    degraded(made)
    said = made.said()
    assert re.search(rf"starts without its token.*{function}.*{returned}", said), said
    assert "does not work on this token" not in said and "0x" not in said
    made.faults.clear()
    heals(made)


def test_a_token_with_two_sessions_has_no_room(bench):
    made = bench("in-process")
    made.faults.behave(max_sessions=2)
    degraded(made)
    assert re.search(r"starts without its token.*CKR_SESSION_COUNT", made.said()), made.said()
    made.faults.behave(max_sessions=None)
    heals(made)


@pytest.mark.parametrize("isolation", MODES)
def test_a_library_that_always_says_already_logged_in(bench, isolation):
    made = bench(isolation)
    made.faults.set(rule("C_Login", when="after", returns="CKR_USER_ALREADY_LOGGED_IN"))
    made.start()
    assert made.faults.count("C_Login") == 1 and made.faults.count("C_Logout") == 0, "the session is logged in, whatever C_Login says"
    key = made.new_key()
    made.faults.set(rule("C_Login", when="after", returns="CKR_USER_ALREADY_LOGGED_IN"),
                    rule("C_EncryptInit", nth=1, returns="CKR_USER_NOT_LOGGED_IN", lose="login"))
    until("it encrypts", lambda: encrypt(made, key).status == 200)


def test_already_logged_in_is_believed_of_a_session_that_is(bench):
    made = bench("in-process")
    made.faults.set(rule("C_Login", returns="CKR_USER_ALREADY_LOGGED_IN"))
    degraded(made)
    assert "CKR_USER_ALREADY_LOGGED_IN" in made.said()
    made.faults.clear()
    heals(made)


@pytest.mark.parametrize("function", ["C_Initialize", "C_Login"])
def test_a_worker_that_hangs_at_the_start_is_replaced(bench, function):
    made = bench("process", generate_deadline_seconds=8)
    made.faults.set(rule(function, nth=1, hang="forever", name="once", count_over_processes=True))
    text = degraded(made)
    assert "has not come to an end" in text
    heals(made)
    first, *others = made.faults.calls(function)
    assert first.result == "hangs" and first.pid not in {call.pid for call in others}, "another worker came up"


@pytest.mark.parametrize("function", ["C_Initialize", "C_Login"])
def test_a_hang_at_the_start_in_the_process(bench, function):
    made = bench("in-process")
    made.faults.set(rule(function, nth=1, hang="until-changed"))
    assert "has not come to an end" in degraded(made)
    made.faults.clear()
    heals(made)


def test_a_hang_at_the_start_that_does_not_end(bench):
    made = bench("in-process")
    made.faults.set(rule("C_Initialize", hang="forever"))
    made.write_config(token={"generate_deadline_seconds": 4})
    degraded(made)
    assert made.wait_for_exit() == 71, made.said()
    assert made.records("TokenHung")
    made.faults.clear()
    made.write_config()
    made.start()


@pytest.mark.parametrize("isolation", MODES)
def test_a_token_that_goes_away_before_the_service_is_there(bench, isolation):
    made = bench(isolation)
    key = made.start().new_key()
    blob = encrypt(made, key, b"before").json()["CiphertextBlob"]
    made.stop()
    mark = made.faults.mark()
    made.start()
    # The probe uses keys of its own; the first call with another one opens the store.
    used = [call.key for call in made.faults.calls("C_DecryptInit", mark)]
    nth = used.index(next(key for key in used if key != PROBE)) + 1
    made.stop()
    made.faults.set(rule("C_DecryptInit", **{"from": nth}, returns="CKR_DEVICE_ERROR", name="opens", count_over_processes=True))
    degraded(made)
    until("it waits", lambda: "the start waits for the token" in made.said())
    made.faults.clear()
    heals(made)
    made.start()
    assert made.call("Decrypt", {"CiphertextBlob": blob})["Plaintext"] == b64(b"before")
