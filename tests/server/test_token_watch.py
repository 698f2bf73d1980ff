"""What the token says of itself, beside our log: its own log, where it keeps one, and else its objects."""

import time

import pytest

from instance import until
from token_keys import Keys

WINDOW = 2


def block(sequence, opcode, at, reboot=1, response="0:HSM Return: SUCCESS", more=""):
    """As CloudHSM writes it to CloudWatch Logs."""
    stamp = time.strftime("%m/%d/%y %H:%M:%S", time.gmtime(at)) + ".000000"
    return (f"Time: {stamp}, usecs:{int(at * 1_000_000)}\nSequence No: {sequence:#x}\nReboot counter: {reboot:#x}\n"
            f"Command Type(hex): CN_MGMT_CMD (0x0)\nOpcode: {opcode} (0x1)\nSession Handle: 0x2014004\nResponse: {response}\n"
            f"Log type: MINIMAL_LOG_ENTRY (0)\n{more}\n")


@pytest.fixture
def logged(make):
    """An instance whose token has a log that the test writes."""
    instance = make()
    instance.token_log = instance.root / "hsm.log"
    instance.listener = (f'\n[[token_log]]\nname = "hsm-1"\nfile = "{instance.token_log}"\nformat = "cloudhsm"\n'
                         f"window_seconds = {WINDOW}\n")
    return instance.init().start()


def events(instance, name):
    return [r["additionalEventData"]["details"]["event"] for r in instance.records(name)]


def test_what_no_record_explains_is_told_and_what_one_explains_is_not(logged):
    with logged.token_log.open("a") as log:
        log.write(block(0, "CN_LOGIN", time.time()))
        log.flush()
        until("the login is collected", lambda: events(logged, "TokenLog"))
        # The start is more than a window ago then, and nothing of ours logs in.
        time.sleep(2 * WINDOW + 1)
        before = len(events(logged, "TokenLogUnexplained"))
        logged.new_key()
        log.write(block(1, "CN_GENERATE_KEY", time.time(), more="Priv/Secret Key Handle: 7\n"))
        log.write(block(2, "CN_LOGIN", time.time(), more="User Name: mallory\nUser Type: CN_CRYPTO_USER (1)\n"))
        log.write(block(3, "CN_CREATE_USER", time.time()))
        log.flush()
        until("both are told", lambda: len(events(logged, "TokenLogUnexplained")) >= before + 2)
    told = events(logged, "TokenLogUnexplained")[before:]
    assert sorted((e["opcode"], e.get("userName")) for e in told) == [("CN_CREATE_USER", None), ("CN_LOGIN", "mallory")]
    assert [e["sequence"] for e in events(logged, "TokenLog")] == [0, 1, 2, 3]
    metrics = logged.admin("/metrics")[1]
    assert 'hsm_bridge_audit_alerts_total{code="TokenLogUnexplained"}' in metrics
    logged.stop()
    assert logged.verify()["verdict"] == "OK"


def test_each_event_once_over_kill_and_restart_and_gaps_are_told(logged):
    with logged.token_log.open("a") as log:
        log.write(block(0, "CN_LOGOUT", time.time()) + block(1, "CN_LOGOUT", time.time()))
    until("both are collected", lambda: len(events(logged, "TokenLog")) == 2)
    # The place is kept after the records are durable.
    time.sleep(1)
    logged.kill()
    with logged.token_log.open("a") as log:
        log.write(block(2, "CN_LOGOUT", time.time()) + block(5, "CN_LOGOUT", time.time()))
    logged.start()
    until("the others are collected", lambda: len(events(logged, "TokenLog")) >= 4)
    assert [e["sequence"] for e in events(logged, "TokenLog")] == [0, 1, 2, 5]
    (gap,) = [r["additionalEventData"]["details"] for r in logged.records("TokenLogGap")]
    assert (gap["after"], gap["next"]) == (2, 5)


def test_objects_that_come_and_go_without_a_record_are_told(make):
    instance = make(sections={"audit": {"reconcile_seconds": 1}}).init().start()
    instance.new_key()
    looks = lambda: len(instance.records("TokenObjectsWatched"))  # noqa: E731
    seen = looks()
    until("two looks", lambda: looks() >= seen + 2)
    assert not [r for r in instance.journal() if r["eventName"] in
                ("TokenObjectAppeared", "TokenObjectVanished", "TokenObjectChanged", "TokenObjectsDisagree")]
    keys = Keys(instance)
    keys.make("AES:32", "c0ffee", "intruder")
    (appeared,) = until("the intruder is told", lambda: instance.records("TokenObjectAppeared"))
    assert appeared["additionalEventData"]["details"]["object"]["label"] == "intruder"
    keys.destroy("c0ffee")
    (vanished,) = until("it is told that it went", lambda: instance.records("TokenObjectVanished"))
    assert vanished["additionalEventData"]["details"]["object"]["label"] == "intruder"
    assert 'hsm_bridge_audit_alerts_total{code="TokenObjectAppeared"} 1' in instance.admin("/metrics")[1]
