"""The journal's disk: too little room, no room, and a file that fails under the writer. No use without a record, and no record lost
that was acknowledged. Mounts a small file system, so it runs as root."""

import base64
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from instance import PATIENCE, is_intent, until
from spy import Spy

MIB = 1 << 20
SIZE = 8 * MIB


class Disk:
    """A small file system in memory."""

    def __init__(self):
        # Refusals name the journal's directory; `kmsclient` takes that for a leak where tests usually are.
        self.path = Path(tempfile.mkdtemp(prefix="hsm-bridge-disk-", dir="/run"))
        self.filler = self.path / "filler"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "hsm-bridge-test", str(self.path)], check=True)

    def free(self):
        facts = os.statvfs(self.path)
        return facts.f_bavail * facts.f_frsize

    def fill(self, leave):
        """Everything but `leave` bytes; the server may be quicker than we are, so page by page."""
        with open(self.filler, "ab", buffering=0) as file:
            while self.free() > leave:
                try:
                    file.write(b"x" * min(4096, self.free() - leave))
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    break

    def empty(self):
        self.filler.unlink()

    def close(self):
        # A server that hangs must not keep the mount.
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)
        shutil.rmtree(self.path, ignore_errors=True)


@pytest.fixture
def disk(root):
    made = Disk()
    yield made
    made.close()


@pytest.fixture
def on_disk(disk, make):
    return make(audit_dir=disk.path / "audit").init()


def refusal(instance, operation, params):
    reply = instance.raw().call(operation, params)
    assert reply.status == 500 and reply.type == "KMSInternalException", reply
    return reply


def metric(instance, name):
    (found,) = re.findall(rf"^{name} (\S+)$", instance.admin("/metrics")[1], re.MULTILINE)
    return float(found)


def test_little_room_refuses_and_room_again_serves(disk, on_disk):
    spy = Spy(on_disk)
    on_disk.sections["token"] = spy.token
    on_disk.write_config()
    on_disk.start()
    key = on_disk.new_key()
    blob = on_disk.call("Encrypt", {"KeyId": key, "Plaintext": base64.b64encode(b"plaintext").decode()})["CiphertextBlob"]
    disk.fill(leave=SIZE // 25)
    until("requests are refused", lambda: on_disk.raw().call("Decrypt", {"CiphertextBlob": blob}).status == 500)
    records, calls = len(on_disk.journal()), spy.calls()
    for operation, params in (("Decrypt", {"CiphertextBlob": blob}), ("GenerateRandom", {"NumberOfBytes": 16}), ("NoSuchThing", {})):
        reply = refusal(on_disk, operation, params)
        assert str(on_disk.trail_dir) in reply.text, reply
        assert b"cGxhaW50ZXh0" not in reply.body
    assert len(on_disk.journal()) == records
    for name in ("C_Decrypt", "C_GenerateRandom"):
        assert spy.calls().get(name) == calls.get(name), "what cannot be recorded is not begun"
    status, text = on_disk.admin("/readyz")
    assert status == 503 and "audit" in text
    # Who manages the instance, or makes room, is still served, and it is recorded.
    assert len(on_disk.call("ListKeys")["Keys"]) == 1
    on_disk.call("DescribeKey", {"KeyId": on_disk.new_key()})
    on_disk.run("key", "list")
    assert {"ListKeys", "CreateKey", "DescribeKey", "KeyList"} <= {record["eventName"] for record in on_disk.journal()[records:]}
    assert metric(on_disk, "hsm_bridge_audit_low_space") == 1
    disk.empty()
    until("requests are served again", lambda: on_disk.raw().call("Decrypt", {"CiphertextBlob": blob}).status == 200)
    assert on_disk.admin("/readyz")[0] == 200
    until("room is told of", lambda: metric(on_disk, "hsm_bridge_audit_low_space") == 0)
    on_disk.stop()
    low = [record["additionalEventData"]["details"]["low"] for record in on_disk.journal() if record["eventName"] == "AuditDiskLow"]
    assert low == [True, False]
    assert on_disk.verify()["verdict"] == "OK"


def test_a_start_without_room_waits_and_then_serves(disk, on_disk):
    spy = Spy(on_disk)
    on_disk.sections["token"] = spy.token
    on_disk.write_config()
    disk.fill(leave=SIZE // 25)
    files = sorted(on_disk.segments())
    on_disk.spawn()
    until("health is served", on_disk.find_metrics)
    status, text = on_disk.admin("/readyz")
    assert status == 503 and "free space" in text, text
    assert on_disk.admin("/healthz")[0] == 200
    assert on_disk.admin("/metrics")[0] == 200
    until("it tries again", lambda: on_disk.said().count("not starting yet") >= 3)
    assert spy.calls() == {}, "the token was touched"
    assert sorted(on_disk.segments()) == files, "each try leaves a segment behind"
    disk.empty()
    on_disk.wait_until_serving()
    assert spy.calls()["C_Login"] == 1
    assert on_disk.admin("/readyz")[0] == 200
    on_disk.new_key()
    on_disk.stop()
    assert on_disk.verify()["verdict"] == "OK"


def test_a_start_without_any_room_waits_too_and_ends_on_request(disk, on_disk):
    disk.fill(leave=0)
    on_disk.spawn()
    until("it waits", lambda: "not starting yet" in on_disk.said())
    on_disk.process.send_signal(signal.SIGTERM)
    assert on_disk.wait_for_exit() == 0
    disk.empty()
    on_disk.start()
    assert on_disk.verify()["verdict"] == "OK"


def test_a_full_disk_in_mid_run_loses_nothing_that_was_acknowledged(disk, on_disk):
    """The last page of the disk is gone within the second in which the free space is not looked at."""
    on_disk.start()
    key = on_disk.new_key()
    acknowledged, answers = {}, []
    stop = threading.Event()

    def client():
        raw = on_disk.raw()
        try:
            while not stop.is_set():
                reply = raw.call("Encrypt", {"KeyId": key, "Plaintext": "eA=="})
                answers.append(reply.status)
                if reply.status == 200:
                    acknowledged[reply.request_id] = reply.json()["CiphertextBlob"]
                else:
                    assert b"CiphertextBlob" not in reply.body
        except OSError:
            pass  # The server may end: that is one of the two answers to a full disk.

    clients = [threading.Thread(target=client, daemon=True) for _ in range(4)]
    for thread in clients:
        thread.start()
    until("requests are served", lambda: len(acknowledged) > 20)
    disk.fill(leave=0)
    until("requests are refused", lambda: 500 in answers or on_disk.process.poll() is not None)
    stop.set()
    for thread in clients:
        thread.join(60)
    disk.empty()
    if on_disk.process.poll() is None:
        # Either nothing of a batch had reached the file and the writer goes on, or the log failed and the process drains.
        def decided():
            try:
                return on_disk.process.poll() is not None or on_disk.admin("/readyz")[0] == 200
            except OSError:
                return False  # Its listeners are closed, and it is about to end.
        until("it serves or has ended", decided)
    if on_disk.process.poll() is None:
        on_disk.call("DescribeKey", {"KeyId": key})
        on_disk.kill()
    else:
        assert on_disk.wait_for_exit() == 74
    on_disk.start()
    recorded = {record.get("requestID") for record in on_disk.journal()}
    assert acknowledged.keys() <= recorded
    assert on_disk.verify()["verdict"] == "OK"
    for blob in acknowledged.values():
        assert on_disk.call("Decrypt", {"CiphertextBlob": blob})["Plaintext"] == "eA=="


def test_the_reserve_takes_what_was_begun(disk, make):
    instance = make(audit_dir=disk.path / "audit", sections={"audit": {"reserve_bytes": MIB}}).init()
    instance.start()
    reserve = instance.trail_dir / "RESERVE"
    assert reserve.stat().st_size == MIB and reserve.stat().st_blocks * 512 >= MIB
    acknowledged = set()

    def create():
        try:
            reply = instance.raw().call("CreateKey", {"KeySpec": "RSA_3072", "KeyUsage": "SIGN_VERIFY"})
        except OSError:
            return
        if reply.status == 200:
            acknowledged.add(reply.request_id)

    # The token makes one after the other: most are not made yet when nothing fits any more, and their ends take more than what
    # is left of the log's last page.
    threads = [threading.Thread(target=create, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    until("all are begun", lambda: sum(map(is_intent, instance.records("CreateKey"))) == len(threads))
    disk.fill(leave=0)
    until("the reserve is given up", lambda: not reserve.exists())
    for thread in threads:
        thread.join(PATIENCE)
    # Either not one byte of the record was taken, or a part of it: then the log has failed.
    if "the audit log failed" not in instance.said():
        # All that fits is for what was begun: not even administration begins something.
        refusal(instance, "ListKeys", {})
        disk.empty()
        until("it serves", lambda: instance.admin("/readyz")[0] == 200)
        until("the reserve is made again", reserve.exists)
        instance.stop()
    else:
        assert instance.wait_for_exit() == 74
        assert instance.records("AuditFailure"), "there was room for it"
        disk.empty()
        instance.start()
        instance.stop()
    assert acknowledged <= {record.get("requestID") for record in instance.journal()}
    assert instance.verify()["verdict"] == "OK"


# -- a log that fails: these need no file system of their own --------------------------------------------------------------

def short_write(instance):
    """The next record's first hundred bytes fit, the rest do not."""
    (last,) = instance.segments()[-1:]
    limit = last.stat().st_size + 100
    # The server's own log is another file under the same limit.
    assert instance.stderr_file.stat().st_size + 4096 < limit, "the journal is too small for this test"
    resource.prlimit(instance.process.pid, resource.RLIMIT_FSIZE, (limit, limit))


def directory_gone(instance):
    instance.trail_dir.rename(instance.trail_dir.with_name("elsewhere"))


@pytest.fixture
def patient(make):
    """A server that is told of a file's limit by an error and not by a signal."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    made = make().init()
    made.restore_signals = False
    yield made
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("fault", [short_write, directory_gone])
def test_a_log_that_fails_ends_the_process_with_74(patient, fault):
    patient.start()
    key = patient.new_key()
    blob = patient.call("Encrypt", {"KeyId": key, "Plaintext": base64.b64encode(b"plaintext").decode()})["CiphertextBlob"]
    acknowledged = set()
    for _ in range(10):
        reply = patient.raw().call("Decrypt", {"CiphertextBlob": blob})
        assert reply.status == 200
        acknowledged.add(reply.request_id)
    fault(patient)

    def refused():
        if patient.process.poll() is not None:
            return True
        try:
            reply = patient.raw().call("Decrypt", {"CiphertextBlob": blob})
        except OSError:
            return True
        if reply.status == 200:
            # Until the directory is looked at, records still reach the file that is open.
            acknowledged.add(reply.request_id)
            return False
        assert reply.type == "KMSInternalException" and b"cGxhaW50ZXh0" not in reply.body
        assert str(patient.root).encode() not in reply.body, "nothing is told but that the log failed"
        return True

    until("requests are refused", refused)
    assert patient.wait_for_exit() == 74
    assert "the audit log failed" in patient.said()
    if fault is short_write:
        (said,) = patient.records("AuditFailure")
        assert "short write" in said["additionalEventData"]["details"]["reason"]
    if fault is directory_gone:
        patient.trail_dir.with_name("elsewhere").rename(patient.trail_dir)
    patient.start()
    assert acknowledged <= {record.get("requestID") for record in patient.journal()}
    assert patient.verify()["verdict"] == "OK"
    assert patient.call("Decrypt", {"CiphertextBlob": blob})["KeyId"] == patient.key_arn(key)
