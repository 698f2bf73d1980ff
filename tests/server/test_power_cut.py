"""Power cuts and disks that fail: what was acknowledged is in the log, and nothing is answered that is not."""

import base64
import http.client
import os
import random
import subprocess
import threading
import time

import pytest

from disk_faults import ForgetfulDisk
from instance import until

GONE = (OSError, http.client.HTTPException)
CUTS = int(os.environ.get("HSM_BRIDGE_POWER_CUTS", "6"))


@pytest.fixture
def forgetful(make):
    """The journal's disk forgets; token and store, which have their own ways, do not."""
    # Small segments, short intervals: many files are made, renamed and synced.
    audit = {"segment_bytes": 65536, "checkpoint_seconds": 1, "seal_seconds": 1, "digest_seconds": 2}
    instance = make(sections={"audit": audit}).init()
    disk = ForgetfulDisk(instance.audit_root)
    instance.server_environment = disk.environment()
    instance.disk = disk
    yield instance
    instance.kill()
    disk.close()


class Client(threading.Thread):
    def __init__(self, instance, blob, known):
        super().__init__(daemon=True)
        self.instance, self.blob, self.known, self.wrong = instance, blob, known, None
        self.client = instance.raw()

    def run(self):
        try:
            while True:
                reply = self.client.call("Decrypt", {"CiphertextBlob": self.blob})
                assert reply.status == 200, reply
                self.known.add(reply.request_id)
        except GONE:
            pass
        except BaseException as error:  # noqa: BLE001  the test reports it
            self.wrong = error


def test_after_a_power_cut_every_acknowledged_request_is_in_the_log(forgetful):
    dice, known, forgotten = random.Random(20), set(), {"bytes": 0, "entries": 0}
    forgetful.start()
    key = forgetful.new_key()
    blob = forgetful.call("Encrypt", {"KeyId": key, "Plaintext": base64.b64encode(b"x").decode()})["CiphertextBlob"]
    for _ in range(CUTS):
        clients = [Client(forgetful, blob, known) for _ in range(8)]
        before = len(known)
        for client in clients:
            client.start()
        until("requests are answered", lambda: len(known) > before + 20)
        time.sleep(dice.uniform(0, 1.5))
        forgetful.kill()
        for client in clients:
            client.join(60)
            assert not client.is_alive()
            if client.wrong:
                raise client.wrong
        lost = forgetful.disk.cut(dice)
        forgotten = {what: forgotten[what] + lost[what] for what in forgotten}
        forgetful.start()
        missing = known - {record.get("requestID") for record in forgetful.journal()}
        assert not missing, f"{len(missing)} of {len(known)} acknowledged requests are not in the log; forgotten: {forgotten}"
        report = forgetful.verify()
        assert report["verdict"] == "OK", report
    # Cuts that forget nothing would prove nothing.
    assert forgotten["bytes"] > 0 and forgotten["entries"] > 0, forgotten


def test_no_answer_after_a_sync_that_failed(forgetful):
    forgetful.start()
    key = forgetful.new_key()
    known = {forgetful.raw().call("DescribeKey", {"KeyId": key}).request_id for _ in range(5)}
    forgetful.disk.eio.touch()
    reply = None
    try:
        reply = forgetful.raw().call("DescribeKey", {"KeyId": key})
    except GONE:
        pass
    assert reply is None or (reply.status, reply.type) == (500, "KMSInternalException"), reply
    assert forgetful.wait_for_exit() == 74
    assert "fdatasync" in forgetful.said()
    # The kernel may have kept or dropped what it could not write: a power cut shows the worst.
    forgetful.disk.eio.unlink()
    forgetful.disk.cut(random.Random(4))
    forgetful.start()
    assert known <= {record.get("requestID") for record in forgetful.journal()}
    assert forgetful.verify()["verdict"] == "OK"


def test_a_file_system_that_turns_read_only(make, root):
    instance = make().init()
    instance.audit_root.mkdir(exist_ok=True)
    kept = instance.root / "kept"
    subprocess.run(["cp", "-a", f"{instance.audit_root}/.", str(kept)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "hsm-bridge-test", str(instance.audit_root)], check=True)
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(instance.audit_root)], check=True)
        instance.start()
        key = instance.new_key()
        known = {instance.raw().call("DescribeKey", {"KeyId": key}).request_id for _ in range(5)}
        # A file that is open for writing keeps a file system from being remounted; the kernel does it all the same after an error of
        # its own. Mounting read-only over it is as near as a test comes.
        done = subprocess.run(["mount", "-o", "remount,ro", str(instance.audit_root)], capture_output=True, text=True)
        if done.returncode == 0:
            reply = instance.raw().call("DescribeKey", {"KeyId": key})
            assert (reply.status, reply.type) == (500, "KMSInternalException"), reply
            assert instance.wait_for_exit() == 74
            subprocess.run(["mount", "-o", "remount,rw", str(instance.audit_root)], check=True)
        else:
            instance.stop()
            subprocess.run(["mount", "-o", "remount,ro", str(instance.audit_root)], check=True)
            instance.spawn()
            assert instance.wait_for_exit() == 74, instance.said()
            assert "Read-only file system" in instance.said()
            subprocess.run(["mount", "-o", "remount,rw", str(instance.audit_root)], check=True)
        instance.start()
        assert known <= {record.get("requestID") for record in instance.journal()}
        assert instance.verify()["verdict"] == "OK"
    finally:
        instance.kill()
        subprocess.run(["umount", "--lazy", str(instance.audit_root)], check=True)
