"""`isolation = "process"`: the vendor's library in a worker process, which may die or hang without the service doing so."""

import base64
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from bridge import binary, clean_env
from instance import MODULE, Instance, until
from test_officer import reconcile, use

# A PIN that stands nowhere else.
CANARY = "739105528461"
PLAIN = base64.b64encode(b"isolated").decode()


@pytest.fixture(scope="module")
def isolated():
    instance = Instance("isolated", pin=CANARY, sections={"token": {"isolation": "process", "deadline_ms": 3000}})
    instance.server_environment = {"HSM_BRIDGE_TEST_SECRET": "not for workers"}
    try:
        yield instance.init().start()
    finally:
        instance.close()


def children(pid):
    """A thread may end while it is looked at, and has no children then."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def workers(pid):
    """Those that have the module mapped and an open token; the spare has only the first."""
    found = {}
    for child in children(pid):
        try:
            maps = Path(f"/proc/{child}/maps").read_text()
            # A worker that serves has a thread for its key generation.
            threads = {Path(task, "comm").read_text().strip() for task in Path(f"/proc/{child}/task").iterdir()}
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[child] = ("p11-keygen" in threads, MODULE.rsplit("/", 1)[-1] in maps)
    return found


def serving_worker(instance, other_than=None):
    def look():
        found = [pid for pid, (serves, _) in workers(instance.process.pid).items() if serves and pid != other_than]
        return found[0] if found else None
    return until("a worker serves", look)


def spare(instance):
    def look():
        found = [pid for pid, (serves, loaded) in workers(instance.process.pid).items() if loaded and not serves]
        return found[0] if found else None
    return until("a spare is there", look)


def ready(instance):
    return instance.admin("/readyz")[0] == 200


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_everything_works_through_the_worker(isolated):
    for spec, usage in [("SYMMETRIC_DEFAULT", None), ("HMAC_256", "GENERATE_VERIFY_MAC"), ("RSA_2048", "SIGN_VERIFY"), ("ECC_NIST_P256", "SIGN_VERIFY")]:
        key = isolated.new_key(KeySpec=spec, **({"KeyUsage": usage} if usage else {}))
        use(isolated, key, spec)
    assert reconcile(isolated)["ok"]
    doctor = isolated.doctor()
    assert isolated.label in str(doctor), "the slots of the module are listed"
    assert doctor["tokens"][0]["isolation"] == "process"
    assert ready(isolated)


def test_the_service_never_loads_the_library(isolated):
    serving_worker(isolated)
    assert MODULE.rsplit("/", 1)[-1] not in Path(f"/proc/{isolated.process.pid}/maps").read_text()


def test_what_a_worker_has_of_the_service(isolated):
    for pid in (serving_worker(isolated), spare(isolated)):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        names = {entry.split(b"=")[0].decode() for entry in environment if entry}
        assert names <= {"PATH", "HOME", "LANG", "SOFTHSM2_CONF"} and "SOFTHSM2_CONF" in names, names
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size\s+0\s+0", limits), limits
        assert os.getpgid(pid) == pid
        assert Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2] == [b"hsm-bridge", b"token-worker"]
        assert Path(f"/proc/{pid}/comm").read_text().strip() == "hsm-bridge"
        assert not any(str(isolated.state) in os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()), "nothing of the store or the log is open"


@pytest.mark.skipif(os.geteuid() != 0, reason="reads another process's memory")
def test_no_pin_stays_in_a_worker(isolated):
    # The process that holds the PIN is found, so the search works.
    assert holds(isolated.process.pid, CANARY.encode())
    assert not holds(spare(isolated), CANARY.encode())
    # SoftHSM keeps the PIN of a logged-in user masked, and what is ours is wiped.
    assert not holds(serving_worker(isolated), CANARY.encode())


def holds(pid, needle):
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area, mode = line.split()[:2]
            start, end = (int(part, 16) for part in area.split("-"))
            if "w" not in mode or start >= 1 << 47:
                continue
            try:
                memory.seek(start)
                if needle in memory.read(end - start):
                    return True
            except OSError:
                continue
    return False


class Load:
    """Callers that encrypt and decrypt until they are stopped."""

    def __init__(self, instance, key, callers=8):
        self.instance, self.key = instance, key
        self.stopped = threading.Event()
        self.done, self.failed, self.wrong, self.longest = 0, [], [], 0.0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.call) for _ in range(callers)]
        for thread in self.threads:
            thread.start()

    def call(self):
        client = self.instance.raw()
        blob = None
        while not self.stopped.is_set():
            began = time.monotonic()
            if blob is None:
                reply = client.call("Encrypt", {"KeyId": self.key, "Plaintext": PLAIN})
            else:
                reply = client.call("Decrypt", {"CiphertextBlob": blob})
            took = time.monotonic() - began
            with self.lock:
                self.longest = max(self.longest, took)
                if reply.status != 200:
                    self.failed.append((reply.status, reply.body[:200]))
                elif blob is None:
                    blob = reply.json()["CiphertextBlob"]
                else:
                    if reply.json()["Plaintext"] != PLAIN:
                        self.wrong.append(reply.body)
                    self.done, blob = self.done + 1, None

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)

    def more(self, what):
        before = self.done
        until(what, lambda: self.done > before + 50)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_under_load(isolated, how):
    key = isolated.new_key()
    worker = serving_worker(isolated)
    spare(isolated)
    load = Load(isolated, key)
    try:
        load.more("the load runs")
        os.kill(worker, how)
        if how == signal.SIGSTOP:
            until("readiness says so", lambda: not ready(isolated))
        other = serving_worker(isolated, other_than=worker)
        assert other != worker
        load.more("the service goes on")
        until("it is ready", lambda: ready(isolated))
    finally:
        load.stop()
    until("the worker is gone", lambda: gone(worker))
    assert not load.wrong
    cause = {signal.SIGKILL: "Lost", signal.SIGSTOP: "Hung"}[how]
    told = [record["additionalEventData"]["details"] for record in isolated.records("TokenDown")]
    assert [details["cause"] for details in told].count(cause) == 1, told
    until("the log says that it is back", lambda: len(isolated.records("TokenRecovered")) == len(told))
    # Killed: those that were with the worker (a machine that is slow to start the next one lets others wait too long). Hung: those
    # and whoever waited until the service knew.
    lost = [body for _, body in load.failed if b"DependencyTimeoutException" not in body]
    if how == signal.SIGKILL:
        assert len(lost) <= 8, load.failed
    # RULE: no caller waits past its deadline (3 s here).
    assert load.longest < 3 + 5, load.longest
    assert {status for status, _ in load.failed} <= {500, 503, 400}, load.failed


def test_a_new_pin(isolated):
    new = "604417739920"
    change_pin(isolated, CANARY, new)
    isolated.write_pin(new)
    isolated.run("token", "pin")
    key = isolated.new_key()
    use(isolated, key, "SYMMETRIC_DEFAULT")
    # The next worker logs in with it.
    worker = serving_worker(isolated)
    os.kill(worker, signal.SIGKILL)
    serving_worker(isolated, other_than=worker)
    until("it is ready", lambda: ready(isolated))
    use(isolated, key, "SYMMETRIC_DEFAULT")
    # Nobody tries a PIN that the token refuses: it waits for the right one.
    change_pin(isolated, new, CANARY)
    os.kill(serving_worker(isolated), signal.SIGKILL)
    until("readiness asks for a person", lambda: "operator" in isolated.admin("/readyz")[1])
    assert isolated.raw().call("Encrypt", {"KeyId": key, "Plaintext": PLAIN}).status == 500
    # RULE docs/operations.md: a state is of the record; that the token refuses its PIN shows in each call.
    assert isolated.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["KeyState"] == "Enabled"
    isolated.write_pin(CANARY)
    isolated.run("token", "pin")
    until("it is ready", lambda: ready(isolated))
    use(isolated, key, "SYMMETRIC_DEFAULT")


def change_pin(instance, old, new):
    subprocess.run(["pkcs11-tool", "--module", MODULE, "--token-label", instance.label, "--login", "--pin", old, "--change-pin", "--new-pin", new],
                   env=clean_env(SOFTHSM2_CONF=str(instance.softhsm_conf)), check=True, capture_output=True, timeout=60)


def test_a_worker_is_the_default_and_the_library_in_the_service_a_choice(make):
    made = make().init().start()
    assert serving_worker(made) and made.doctor()["tokens"][0]["isolation"] == "process"
    made.stop()
    made.write_config(token={"isolation": "in-process"})
    made.start()
    key = made.new_key()
    use(made, key, "SYMMETRIC_DEFAULT")
    assert made.doctor()["tokens"][0]["isolation"] == "in-process"
    assert MODULE.rsplit("/", 1)[-1] in Path(f"/proc/{made.process.pid}/maps").read_text()
    assert not children(made.process.pid)


# A command as `init` or `store backup` starts a worker too, which ends with it.
def test_a_command_without_a_server(make):
    made = make().make_token()
    # What the worker is started with is written down: whoever starts it, and with which variables.
    wrapper, log = made.root / "worker", made.root / "workers"
    wrapper.write_text(f'#!/bin/sh\necho "$$ $PPID" >> {log}\nexec {binary()} token-worker\n')
    wrapper.chmod(0o755)
    made.write_config(token={"worker_command": [str(wrapper)]})
    made.run("init")
    made.run("key", "list")
    made.run("doctor")
    started = [int(line.split()[0]) for line in log.read_text().splitlines()]
    assert len(started) >= 2
    for pid in started:
        until("the worker is gone", lambda: gone(pid))


# Last: the service is gone after it.
def test_no_worker_outlives_the_service(isolated):
    pids = [serving_worker(isolated), spare(isolated)]
    isolated.kill()
    for pid in pids:
        until("the worker is gone", lambda: gone(pid))
    isolated.start()
    pids = [serving_worker(isolated), spare(isolated)]
    isolated.stop()
    for pid in pids:
        until("the worker is gone", lambda: gone(pid))
