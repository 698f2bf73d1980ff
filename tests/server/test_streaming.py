"""The log as others see it live: the stream, its limits and its end; the reader of scripts/."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bridge import clean_env
from instance import ACCOUNT, PATIENCE, REGION, TRAIL, until
from streamclient import Stream, check_chain, metric, seqs

READER = Path(__file__).resolve().parents[2] / "scripts" / "audit-reader"


def lines(instance):
    return [line for path in instance.segments() for line in path.read_bytes().split(b"\n")[:-1]]


def work(instance, count=5):
    for _ in range(count):
        instance.call("GenerateRandom", {"NumberOfBytes": 8})


# -- what comes ------------------------------------------------------------------------------------------------------------

def test_a_stream_is_the_journal(serving):
    work(serving)
    stream = Stream(serving, "fromSeq=0")
    assert (stream.status, stream.type) == (200, "text/event-stream; charset=utf-8")
    work(serving)
    written = lines(serving)
    assert stream.wait(len(written))[:len(written)] == written
    for number, event, data in stream.events:
        if event == "heartbeat":
            assert number is None, "a heartbeat does not move Last-Event-ID"
        else:
            assert number == seqs([data])[0]
    beat = stream.heartbeats()[0]
    assert beat["nextSeq"] <= beat["durableRecords"] and beat["oldestSeq"] == 0
    stream.close()


def test_the_opening_is_one_record(serving):
    # Else a record of the start may come in between.
    until("the start has made its snapshot", lambda: serving.records("StateSnapshot"))
    before = len(serving.records("StreamAudit"))
    from_now = Stream(serving)
    since = len(lines(serving))
    from_start = Stream(serving, "fromSeq=2", [("Accept", "application/x-ndjson")])
    assert from_start.type == "application/x-ndjson"
    work(serving, 3)
    # What opened it is in it: the stream begins where the log was when it was asked for.
    assert json.loads(from_now.wait(4)[0])["eventName"] == "StreamAudit"
    assert seqs(from_start.wait(5))[0] == 2
    check_chain(from_start.records())
    opened = serving.records("StreamAudit")[before:]
    assert [record["requestParameters"] for record in opened] == [
        {"fromSeq": since - 1, "format": "sse"}, {"fromSeq": 2, "format": "ndjson"}]
    assert all(record["eventSource"] == "hsm-bridge" and record["readOnly"] for record in opened)
    assert all(record["additionalEventData"]["authorization"]["decision"] == "Allow" for record in opened)
    from_now.close(), from_start.close()


@pytest.mark.parametrize("query, headers, method, status, code", [
    ("fromSeq=x", [], "GET", 400, "ValidationException"),
    ("fromSeq=1&fromSeq=2", [], "GET", 400, "ValidationException"),
    ("fromSeq=1000000", [], "GET", 400, "ValidationException"),
    ("", [("Last-Event-ID", "1000000")], "GET", 400, "ValidationException"),
    ("", [], "POST", 400, "ValidationException"),
])
def test_what_is_wrong_is_refused_and_recorded(serving, query, headers, method, status, code):
    stream = Stream(serving, query, headers, method=method)
    assert (stream.status, json.loads(stream.body)["__type"]) == (status, code)
    assert serving.records("StreamAudit")[-1]["errorCode"] == code


def test_strangers_get_nothing(serving):
    for options, code in [({"service": "kms"}, "InvalidSignatureException"), ({"secret_key": "x" * 40}, "InvalidSignatureException"),
                          ({"access_key": "AKIAAAAAAAAAAAAAAAAA"}, "UnrecognizedClientException")]:
        stream = Stream(serving, **options)
        assert (stream.status, json.loads(stream.body)["__type"]) == (403, code), options
    assert serving.records("StreamAudit") == []


def test_curl_signs_for_it(serving):
    work(serving)
    done = subprocess.run(["curl", "-sS", "-N", "--max-time", "3", "--aws-sigv4", f"aws:amz:{REGION}:cloudtrail", "--user",
                           f"{serving.access_key}:{serving.secret_key}", f"http://{serving.address}/audit/v1/stream?fromSeq=0"],
                          capture_output=True, timeout=PATIENCE)
    assert done.returncode == 28, f"curl ends it after 3 seconds, not the server: {done}"
    assert b"event: heartbeat\n" in done.stdout and b"id: 0\nevent: record\ndata: {" in done.stdout


# -- who may read ----------------------------------------------------------------------------------------------------------

def user(instance, name, action="cloudtrail:LookupEvents"):
    """A user with one permission; its credentials."""
    instance.run("iam", "user", "create", name)
    policy = instance.root / f"{name}.json"
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*"}]}))
    instance.run("iam", "user", "put-policy", name, "read", policy)
    made = json.loads(instance.run("iam", "access-key", "create", "--user", name, "--json").stdout)
    return {"access_key": made["accessKeyId"], "secret_key": made["secretAccessKey"]}


# -- over restarts ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_reader_resumes_after_a_restart(serving, end):
    seen = []
    for _ in range(3):
        last = [("Last-Event-ID", str(seqs(seen)[-1]))] if seen else []
        stream = Stream(serving, "fromSeq=0", last)
        work(serving, 4)
        stream.wait(5)
        getattr(serving, end)()
        assert stream.ended.wait(PATIENCE)
        assert stream.clean == (end == "stop"), "a drain ends a stream in order, a kill does not"
        seen += stream.records()
        serving.start()
    stream = Stream(serving, "fromSeq=0", [("Last-Event-ID", str(seqs(seen)[-1]))])
    seen += stream.wait(3)
    stream.close()
    check_chain(seen)
    assert seqs(seen)[0] == 0
    written = lines(serving)
    assert seen == written[:len(seen)]


def test_a_stop_does_not_wait_for_readers(serving):
    """Also for one that hangs with as much as can be on its way."""
    fill(serving, 220)
    hung = [Stream(serving, "fromSeq=0", read=False) for _ in range(3)]
    reading = Stream(serving, "fromSeq=0")
    time.sleep(1)
    began = time.monotonic()
    serving.stop()
    assert time.monotonic() - began < 20, "the drain's own time is 25 s"
    assert reading.ended.wait(PATIENCE) and reading.clean
    for stream in hung:
        stream.close()


# -- slow and hung readers -------------------------------------------------------------------------------------------------

def fill(instance, records):
    """Large records: many megabytes in the journal."""
    key = instance.new_key()
    for number in range(records):
        text = json.dumps({"Version": "2012-10-17", "Statement": [
            {"Sid": f"s{n}", "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:*", "Resource": "*"}
            for n in range(150)]})
        instance.call("PutKeyPolicy", {"KeyId": key, "PolicyName": "default", "Policy": text})


def test_ten_hung_readers_delay_nobody(serving):
    fill(serving, 220)
    key = serving.new_key()
    others = [user(serving, f"auditor-{number}") for number in range(2)]
    hung = [Stream(serving, "fromSeq=0", read=False, **others[number % 2]) for number in range(10)]
    assert [stream.status for stream in hung] == [200] * 10
    assert metric(serving, "hsm_bridge_audit_streams") == 10
    # They take nothing; requests and a reader that reads go on.
    reading = Stream(serving, "fromSeq=0")
    for _ in range(50):
        serving.call("Encrypt", {"KeyId": key, "Plaintext": "AAAA"})
    written = lines(serving)
    assert reading.wait(len(written))[:len(written)] == written
    # After half a minute without taking anything they lose their connections, and their places.
    until("hung readers are dropped", lambda: metric(serving, "hsm_bridge_audit_streams") == 1, 90, 0.5)
    assert not reading.ended.is_set()
    for stream in hung:
        stream.close()
    reading.close()


def test_places_are_limited(serving):
    streams = [Stream(serving) for _ in range(8)]
    ninth = Stream(serving)
    assert (ninth.status, json.loads(ninth.body)["__type"]) == (429, "ThrottlingException")
    assert serving.records("StreamAudit")[-1]["errorCode"] == "ThrottlingException"
    streams.pop().close()
    until("a place is free", lambda: metric(serving, "hsm_bridge_audit_streams") == 7)
    streams.append(Stream(serving))
    assert streams[-1].status == 200
    for stream in streams:
        stream.close()


def test_silence_has_heartbeats_and_no_end(make):
    """Longer than the idle and the request timeout."""
    serving = make(sections={"http": {"idle_timeout_seconds": 5, "request_timeout_seconds": 5, "header_timeout_seconds": 5}}).init().start()
    stream = Stream(serving)
    until("a third heartbeat", lambda: len(stream.heartbeats()) >= 3, 60)
    assert not stream.ended.is_set()
    work(serving, 1)
    stream.wait(2)
    beats = stream.heartbeats()
    assert all(b["nextSeq"] == b["durableRecords"] for b in beats[1:])
    stream.close()


def test_who_may_no_longer_read_is_cut_off(serving):
    """The permission, the access key, the user: each within a minute; another reader goes on."""
    credentials = {name: user(serving, name) for name in ["policy", "disabled", "gone"]}
    streams = {name: Stream(serving, **own) for name, own in credentials.items()}
    assert {stream.status for stream in streams.values()} == {200}
    kept = Stream(serving)
    refuse = serving.root / "none.json"
    refuse.write_text(json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "cloudtrail:*", "Resource": "*"}]}))
    serving.run("iam", "user", "put-policy", "policy", "read", refuse)
    serving.run("iam", "access-key", "disable", credentials["disabled"]["access_key"])
    serving.run("iam", "user", "delete", "gone")
    for name, stream in streams.items():
        assert stream.ended.wait(60), f"{name} still reads"
        assert stream.clean
    assert not kept.ended.is_set()
    kept.close()
    denied = Stream(serving, **user(serving, "other", "kms:ListKeys"))
    assert (denied.status, json.loads(denied.body)["__type"]) == (403, "AccessDeniedException")


# -- the reader of scripts/ ------------------------------------------------------------------------------------------------

class Reader:
    def __init__(self, instance, how, name="reader"):
        self.instance, self.how = instance, how
        self.state, self.out = instance.root / f"{name}.state", instance.root / f"{name}.jsonl"

    def start(self, *more):
        # The address changes with each start of the service.
        source = ["--url", f"http://{self.instance.address}"] if self.how == "url" else ["--journal", str(self.instance.trail_dir)]
        env = clean_env(AWS_ACCESS_KEY_ID=self.instance.access_key, AWS_SECRET_ACCESS_KEY=self.instance.secret_key)
        self.process = subprocess.Popen([sys.executable, str(READER), *source, "--region", REGION, "--state", str(self.state),
                                         "--out", str(self.out), *more], env=env, stderr=subprocess.PIPE, text=True)
        return self

    def lines(self):
        return self.out.read_bytes().split(b"\n")[:-1] if self.out.exists() else []

    def stop(self, with_signal=signal.SIGTERM):
        self.process.send_signal(with_signal)
        return self.process.wait(PATIENCE)


@pytest.mark.parametrize("how", ["url", "files"])
def test_the_reader_resumes_by_seq(serving, how):
    """Restarts of both, in order and by kill -9; nothing is missing and nothing twice."""
    reader = Reader(serving, how)
    for round in range(4):
        reader.start()
        work(serving, 6)
        want = len(lines(serving))
        until("it has read them", lambda: len(reader.lines()) >= want - (how == "url"), step=0.2)
        if round % 2:
            reader.stop(signal.SIGKILL)
            serving.kill()
        else:
            serving.stop()
            reader.stop()
        work_state = json.loads(reader.state.read_text()) if reader.state.exists() else {"nextSeq": 0}
        assert work_state["nextSeq"] <= len(reader.lines())
        serving.start()
    last = len(lines(serving)) - 1
    reader.start("--until", str(last))
    assert reader.process.wait(PATIENCE) == 0, reader.process.stderr.read()
    assert reader.lines() == lines(serving)[:last + 1]


def test_the_reader_sees_another_log(serving):
    work(serving, 6)
    serving.stop()
    last = len(lines(serving)) - 1
    reader = Reader(serving, "files").start("--until", str(last - 3))
    assert reader.process.wait(PATIENCE) == 0
    # A record is changed that was read, and the next one is not its child any more.
    kept = json.loads(reader.state.read_text())
    assert kept["nextSeq"] == last - 2
    path = serving.segments()[-1]
    changed = path.read_bytes().split(b"\n")
    assert seqs([changed[-4]]) == [last - 2]
    path.write_bytes(b"\n".join(changed[:-4] + [changed[-4].replace(b'"eventName":"', b'"eventName":"X', 1)] + changed[-3:]))
    reader.start()
    assert reader.process.wait(PATIENCE) == 1
    assert f"record {last - 1} does not follow" in reader.process.stderr.read()
    # And one that is gone.
    path.write_bytes(b"\n".join(changed[:-4] + changed[-3:]))
    reader.state.write_text(json.dumps(kept))
    reader.start()
    assert reader.process.wait(PATIENCE) == 1
    assert f"records {last - 2} to {last - 2} are missing" in reader.process.stderr.read()
