"""One try per PIN value for the whole host, over restarts: docs/operations.md, tries of a PIN."""

import json
import os
import shutil
import signal
import subprocess

import pytest

from bridge import binary, clean_env
from faults import Faults, rule
from instance import COMMAND, is_intent, until
from pin_marks import mark, marks, serial_of, wrong_pins
from test_officer import SHOP_PIN, Refused, ask, change_pin, connect, disconnect, pin_file, pins_told, shop, token_line  # noqa: F401

REFUSED = 77


def watched(instance, *rules, **options):
    """Every C call is counted from here on, and a rule may say what happens to it."""
    return Faults(instance, *rules, **options).install(instance)


def logins(faults):
    return faults.count("C_Login")


def start(instance, expect=REFUSED, **options):
    """A start that has to end by itself; what it said."""
    return instance.run("serve", expect=expect, **options).stderr


@pytest.fixture(params=["process", "in-process"])
def either(make, request):
    """C_Login is called in a worker process, or in the one that keeps the marks."""
    return make(sections={"token": {"isolation": request.param}}).init()


# -- restarts --------------------------------------------------------------------------------------------------------------

def test_a_restart_loop_tries_once(either):
    ready = either
    faults = watched(ready)
    serial = serial_of(ready.softhsm_conf, ready.label)
    one, other = ready.wrong_pins(2)
    ready.write_pin(one)
    said = start(ready)
    assert str(ready.pin_file) in said and "token pin --retry" in said, said
    sessions = faults.count("C_OpenSession")
    for _ in range(9):
        said = start(ready)
        assert str(ready.pin_file) in said and "it was tried once on this host" in said and "token pin --retry" in said, said
    assert logins(faults) == 1
    assert faults.count("C_OpenSession") == sessions, "not even a session"
    assert marks(ready.pin_marks, serial) == ([mark(ready.pin_marks, serial, one)], [])
    ready.write_pin(other)
    for _ in range(2):
        start(ready)
    assert logins(faults) == 2
    assert marks(ready.pin_marks, serial)[0] == sorted(mark(ready.pin_marks, serial, pin) for pin in (one, other))
    # Other commands are no way around it.
    ready.write_pin(one)
    ready.run("doctor", expect=REFUSED)
    assert logins(faults) == 2
    ready.write_pin(ready.pin)
    ready.start()
    assert logins(faults) == 3
    assert len(marks(ready.pin_marks, serial)[0]) == 2, "what was wrong is still wrong"
    assert pins_told(ready, one, other) == []
    for path in [ready.pin_marks, *ready.pin_marks.iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path
        assert path.is_dir() or not any(pin.encode() in path.read_bytes() for pin in (one, other, ready.pin))


def test_tokens_that_lock_at_three(ready):
    """Two wrong PINs leave one try, and that one is the operator's."""
    faults = watched(ready, behaviour={"pin_tries": 3})
    pins = ready.wrong_pins(3)
    for _ in range(3):
        for pin in pins:
            ready.write_pin(pin)
            start(ready)
    assert logins(faults) == 2
    ready.write_pin(ready.pin)
    assert "no login is tried" in start(ready)
    assert logins(faults) == 2


def test_two_processes_at_once(make):
    """Two services of one user share a token and its PIN file, and start in the same moment."""
    one, two = make().make_token(), make()
    two.softhsm_conf, two.pin_file, two.pin_marks = one.softhsm_conf, one.pin_file, one.pin_marks
    faults = watched(one, rule("C_Login", delay_ms=1500))
    two.sections["token"] = faults.token
    one.write_config(), two.write_config()
    one.write_pin(*one.wrong_pins())
    started = [subprocess.Popen([str(binary()), "--config", str(instance.config), "init"], stdin=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, env=clean_env(), cwd=instance.root) for instance in (one, two)]
    said = [process.communicate(timeout=COMMAND)[1].decode() for process in started]
    assert [process.returncode for process in started] == [REFUSED, REFUSED], said
    assert logins(faults) == 1
    assert sum("it was tried once on this host" in text for text in said) == 1, said


# -- a process that dies in C_Login ----------------------------------------------------------------------------------------

def test_killed_before_the_verdict(either):
    """RULE PKCS#11 v2.40 §3.2: CKF_USER_PIN_COUNT_LOW, a wrong PIN has been entered since the last login."""
    ready = either
    faults = watched(ready, behaviour={"pin_tries": 10})
    serial = serial_of(ready.softhsm_conf, ready.label)
    (wrong,) = ready.wrong_pins()
    ready.write_pin(wrong)
    # The token has counted it; nobody was told.
    faults.set(rule("C_Login", when="after", hang="forever"))
    ready.spawn()
    until("C_Login hangs", lambda: any(call.result == "hangs" for call in faults.calls()) or ready.process.poll() is not None)
    assert marks(ready.pin_marks, serial) == ([], [mark(ready.pin_marks, serial, wrong)])
    ready.kill()
    faults.clear()
    tried = logins(faults)
    for _ in range(3):
        start(ready)
    assert logins(faults) == tried, "tried again"
    assert marks(ready.pin_marks, serial) == ([mark(ready.pin_marks, serial, wrong)], [])
    # The right one, killed before the token saw it: no try was counted, so it is tried again.
    ready.write_pin(ready.pin)
    ready.start()
    ready.stop()
    faults.set(rule("C_Login", kill="KILL"))
    since = faults.mark()
    ready.spawn()
    if ready.sections["token"]["isolation"] == "in-process":
        assert ready.wait_for_exit() == -signal.SIGKILL
    else:
        # It dies in a worker, and the service waits for its token.
        faults.wait_for("C_Login", "dies", since)
        ready.kill()
    assert marks(ready.pin_marks, serial)[1] == [mark(ready.pin_marks, serial, ready.pin)]
    faults.clear()
    ready.start()
    assert marks(ready.pin_marks, serial)[1] == []


# -- token pin --retry -----------------------------------------------------------------------------------------------------

def test_retry_without_a_server(ready):
    """The PIN file was ahead of the token."""
    faults = watched(ready)
    new, wrong = ready.wrong_pins(2)
    ready.write_pin(new)
    start(ready)
    change_pin(ready, ready.pin, new)
    assert "token pin --retry" in start(ready)
    ready.run("token", "pin", expect=REFUSED)
    assert logins(faults) == 1
    done = ready.run("token", "pin", "--retry")
    assert "the new PIN works" in done.stdout and "costs one of the tries" in done.stderr
    ready.start()
    ready.stop()
    intent, outcome = ready.records("TokenPinRetry")
    assert is_intent(intent) and not is_intent(outcome) and intent["requestID"] == outcome["requestID"]
    details = outcome["additionalEventData"]["details"]
    assert (details["token"], details["marksRemoved"], details["osUserId"]) == ("default", 1, os.geteuid())
    assert [is_intent(record) for record in ready.records("TokenPin")] == [True, False]
    # A wrong one costs one try each time that a person asks for it, and none in between.
    ready.write_pin(wrong)
    before = logins(faults)
    for tries in (1, 2):
        ready.run("token", "pin", "--retry", expect=REFUSED)
        start(ready)
        assert logins(faults) == before + tries
    assert len(ready.records("TokenPinRetry")) == 6


def test_retry_beside_a_server(ready):
    faults = watched(ready)
    ready.start()
    new, other = ready.wrong_pins(2)
    file = pin_file(ready, new)
    with pytest.raises(Refused, match="refuses the new PIN.*the old PIN is used on"):
        ask(ready, "token-pin", token=None, pin_file=file)
    tried = logins(faults)
    for _ in range(3):
        with pytest.raises(Refused, match="rejected this PIN before.*the old PIN is used on"):
            ask(ready, "token-pin", token=None, pin_file=file)
    assert logins(faults) == tried
    with pytest.raises(Refused, match="the token rejected the PIN"):
        ask(ready, "token-pin", token=None, pin_file=file, retry=True)
    assert logins(faults) > tried
    change_pin(ready, ready.pin, new)
    with pytest.raises(Refused, match="rejected this PIN before"):
        ask(ready, "token-pin", token=None, pin_file=file)
    assert "the new PIN works" in ready.run("token", "pin", "--retry", "--pin-file", file).stdout
    ready.new_key()
    assert pins_told(ready, new, other) == []
    outcomes = [record for record in ready.records("TokenPin") if not is_intent(record)]
    assert outcomes[-1]["additionalEventData"]["details"] == {"token": "default", "pin": "changed", "retry": True}


def test_a_custom_token(shop):  # noqa: F811
    """Its password: refused by the mark alone after a restart, whatever the store's record says; another one works at once."""
    serial = token_line(shop, "shop")["serial"]
    (wrong,) = wrong_pins(shop.pin_marks, serial, SHOP_PIN)

    def update(password):
        shop.call("UpdateCustomKeyStore", {"CustomKeyStoreId": shop.store, "KeyStorePassword": password})

    def refused():
        connect(shop, ends="FAILED")
        (store,) = shop.call("DescribeCustomKeyStores", {"CustomKeyStoreId": shop.store})["CustomKeyStores"]
        assert store["ConnectionErrorCode"] == "INVALID_CREDENTIALS"
        disconnect(shop)

    disconnect(shop)
    update(wrong)
    refused()
    assert marks(shop.pin_marks, serial)[0] == [mark(shop.pin_marks, serial, wrong)]
    # The record forgets with another password what it was told of this one, and the restart what the process knows.
    update(SHOP_PIN)
    shop.stop()
    faults = watched(shop)
    shop.start()
    update(wrong)
    tried = logins(faults)
    refused()
    assert logins(faults) == tried
    # Two refusals that do not touch the token, by mark and by record; then one more try, because a person says so.
    refused()
    assert logins(faults) == tried
    asked = json.loads(shop.run("token", "pin", "--retry", "--token", "shop", "--json").stdout)
    assert asked == {"token": "shop", "marksRemoved": 1}
    refused()
    assert logins(faults) == tried + 1
    update(SHOP_PIN)
    connect(shop)
    assert logins(faults) == tried + 2
    outcome = [record for record in shop.records("TokenPin") if not is_intent(record)][-1]
    assert outcome["additionalEventData"]["details"] == {"token": "shop", "pin": "not changed", "marksRemoved": 1}


# -- where the marks are ---------------------------------------------------------------------------------------------------

def test_a_lost_key_file_makes_a_new_start(ready):
    faults = watched(ready)
    ready.write_pin(*ready.wrong_pins())
    start(ready)
    (ready.pin_marks / "key").unlink()
    assert "the key file of the PIN marks is another one" in start(ready)
    assert logins(faults) == 2
    start(ready)
    assert logins(faults) == 2


@pytest.mark.parametrize("obstacle", ["a file in its place", "no directory can be made", "open to others", "a full disk"])
def test_without_marks_no_pin_is_tried(ready, obstacle, root):
    faults = watched(ready)
    shutil.rmtree(ready.pin_marks)
    place = ready.pin_marks
    if obstacle == "a file in its place":
        place.write_text("")
    elif obstacle == "no directory can be made":
        place = "/proc/pin-marks"
    elif obstacle == "open to others":
        place.mkdir(mode=0o755)
    else:
        place.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4096,mode=700", "tmpfs", str(place)], check=True, timeout=COMMAND)
        (place / "full").write_bytes(b"x" * 4096)
    try:
        config = ready.write_config(ready.root / "obstacle.toml", token={"pin_marks": str(place)})
        said = start(ready, 69, config=config)
        assert "`token.pin_marks`" in said and "no PIN is tried without them" in said, said
        assert logins(faults) == 0
    finally:
        if obstacle == "a full disk":
            subprocess.run(["umount", "-l", str(place)], check=True, timeout=COMMAND)
    if obstacle == "open to others":
        place.chmod(0o700)
        ready.start()


def test_a_full_disk_does_not_end_a_token_that_works(ready):
    """A PIN that worked in this process is used again without a mark."""
    faults = watched(ready)
    ready.start()
    shutil.rmtree(ready.pin_marks)
    ready.pin_marks.write_text("")
    tried = logins(faults)
    # Out and in again.
    ask(ready, "token-pin", token=None, pin_file=None)
    assert logins(faults) > tried and "logged in again without a mark" in ready.said()
    with pytest.raises(Refused, match="no PIN is tried without them"):
        ask(ready, "token-pin", token=None, pin_file=pin_file(ready, "7310450000"))
    ready.new_key()


@pytest.mark.parametrize("state, home, expected", [
    ("state", "home", "state/hsm-bridge/pin-marks"),
    (None, "home", "home/.local/state/hsm-bridge/pin-marks"),
    (None, None, "lib/hsm-bridge/pin-marks"),
])
def test_where_the_marks_are_by_default(ready, root, state, home, expected):
    """In a mount namespace of its own, so that /var/lib is the test's."""
    config = ready.root / "default.toml"
    text = ready.write_config(config).read_text()
    config.write_text("".join(line for line in text.splitlines(True) if not line.startswith("pin_marks")))
    for name in ("home", "lib"):
        (ready.root / name).mkdir()
    env = {name: value for name, value in clean_env().items() if name not in ("HOME", "XDG_STATE_HOME")}
    if state:
        env["XDG_STATE_HOME"] = str(ready.root / state)
    if home:
        env["HOME"] = str(ready.root / home)
    script = 'mount --bind "$1" /var/lib && exec "$2" --config "$3" doctor'
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", str(ready.root / "lib"), str(binary()), str(config)],
                          env=env, capture_output=True, text=True, timeout=COMMAND)
    assert done.returncode == 0, done.stderr
    assert (ready.root / expected / "key").stat().st_size == 32
