"""The end of a service whose token's library runs in a worker process: what was begun is answered, and no worker is left."""

import base64
import contextlib
import http.client
import os
import re
import shutil
import signal
import threading

import pytest

from faults import Faults, rule
from instance import PATIENCE, binary, until
from test_isolation import gone, serving_worker, spare
from test_life import accepts

PLAIN = base64.b64encode(b"text").decode()
SESSIONS = 4
CALLERS = 12


@pytest.fixture
def faulty(make):
    """In a process group of its own, with a library that can hang."""
    made = make(sections={"token": {"isolation": "process", "workers": SESSIONS, "deadline_ms": 60000}, "http": {"drain_seconds": 30}})
    made.own_group = True
    made.init()
    made.faults = Faults(made).install(made)
    made.start()
    made.key = made.new_key()
    return made


def stuck(made, callers):
    """Requests of which some are in the library and the others wait; threads and the answers that they will have."""
    answers = []

    def encrypt():
        # One that is cut off has no answer.
        with contextlib.suppress(http.client.HTTPException, OSError):
            answers.append(made.raw().call("Encrypt", {"KeyId": made.key, "Plaintext": PLAIN}))

    made.faults.set(rule("C_Encrypt", hang="until-changed"))
    threads = [threading.Thread(target=encrypt, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    waiting = max(callers - SESSIONS, 0)
    until("all have begun", lambda: len([call for call in made.faults.calls("C_Encrypt") if call.result == "hangs"]) == callers - waiting
          and re.search(rf"^hsm_bridge_token_queue {waiting}$", made.admin("/metrics")[1], re.M))
    return threads, answers


def ctrl_c(made):
    os.killpg(made.process.pid, signal.SIGINT)


def to_all_processes(made):
    for pid in (made.process.pid, serving_worker(made), spare(made)):
        os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("tell", [ctrl_c, to_all_processes])
def test_what_was_begun_is_answered(faulty, tell):
    pids = [serving_worker(faulty), spare(faulty)]
    threads, answers = stuck(faulty, CALLERS)
    tell(faulty)
    until("nothing new is accepted", lambda: not accepts(faulty), step=0.005)
    assert not gone(pids[0]) and not answers
    faulty.faults.clear()
    for thread in threads:
        thread.join(PATIENCE)
    assert [answer.status for answer in answers] == [200] * CALLERS
    assert faulty.wait_for_exit() == 0
    for pid in pids:
        until("the worker is gone", lambda: gone(pid))
    assert len([record for record in faulty.records("Encrypt") if "errorCode" not in record]) == CALLERS
    faulty.verify()
    # Every answer is a ciphertext that opens.
    faulty.start()
    for answer in answers:
        assert faulty.call("Decrypt", {"CiphertextBlob": answer.json()["CiphertextBlob"]})["Plaintext"] == PLAIN


def test_a_library_that_hangs_for_ever_does_not_outlive_the_service(faulty):
    faulty.write_config(http={"drain_seconds": 1})
    faulty.stop()
    faulty.start()
    pids = [serving_worker(faulty), spare(faulty)]
    stuck(faulty, SESSIONS)
    faulty.process.send_signal(signal.SIGTERM)
    assert faulty.wait_for_exit() == 0
    for pid in pids:
        until("the worker is gone", lambda: gone(pid))


def test_no_worker_outlives_a_killed_service_though_its_library_hangs(faulty):
    pids = [serving_worker(faulty), spare(faulty)]
    stuck(faulty, SESSIONS)
    faulty.kill()
    for pid in pids:
        until("the worker is gone", lambda: gone(pid))
    # And nothing of it is in the way of the next start.
    faulty.faults.clear()
    faulty.start()
    faulty.call("Encrypt", {"KeyId": faulty.key, "Plaintext": PLAIN})


def test_workers_are_of_the_program_that_serves(make):
    """Another program in its place, as an upgrade puts it there, is for the next start."""
    made = make(sections={"token": {"isolation": "process"}})
    made.program = made.root / "hsm-bridge"
    shutil.copy(binary(), made.program)
    made.init().start()
    key = made.new_key()
    worker, other = serving_worker(made), spare(made)
    newer = made.root / "newer"
    newer.write_text("#!/bin/sh\nexit 1\n")
    newer.chmod(0o755)
    newer.rename(made.program)
    # The spare was started before; the one after it is not.
    for pid in (other, worker):
        os.kill(pid, signal.SIGKILL)
        until("it is gone", lambda: gone(pid))
    assert serving_worker(made, other_than=worker) != other
    until("it is ready", lambda: made.admin("/readyz")[0] == 200)
    made.call("Encrypt", {"KeyId": key, "Plaintext": PLAIN})
    made.stop()
