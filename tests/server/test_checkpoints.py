"""Signed tree heads: made while it serves, checked with somebody else's code, and what a start does with a log that was cut."""

import base64
import hashlib
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from instance import is_intent, until


@pytest.fixture
def quick(make):
    return make(sections={"audit": {"checkpoint_seconds": 1}}).init()


def checkpoints(instance):
    return sorted(path for path in (instance.trail_dir / "checkpoints").iterdir() if re.fullmatch(r"\d{20}", path.name))


def lines(instance):
    return [line for path in instance.segments() for line in path.read_bytes().split(b"\n")[:-1]]


def root(leaves):
    """RFC 6962 §2.1, word by word."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(leaves[:half]) + root(leaves[half:])).digest()


def check(instance, note):
    """Reads a signed note as C2SP says; returns the size."""
    text, signature = note.rsplit("\n\n", 1)
    origin, size, tree = text.split("\n")
    name, encoded = re.fullmatch(r"\u2014 (\S+) (\S+)\n", signature).groups()
    assert name == origin
    raw = base64.b64decode(encoded, validate=True)
    keys = [record["additionalEventData"]["details"] for record in instance.records("AuditKey") if not is_intent(record)]
    spkis = [base64.b64decode(key["spki"]) for key in keys]
    (spki,) = [spki for spki in spkis if hashlib.sha256(spki).digest()[:4] == raw[:4]]
    load_der_public_key(spki).verify(raw[4:], (text + "\n").encode(), ec.ECDSA(SHA256()))
    assert base64.b64decode(tree) == root(lines(instance)[:int(size)])
    return int(size)


def test_every_record_is_signed_after_the_interval_and_at_a_stop(quick):
    quick.start()
    key = quick.new_key()

    def covered():
        sizes = [record["additionalEventData"]["details"]["size"] for record in quick.records("Checkpoint")]
        (made,) = [record["additionalEventData"]["audit"]["seq"] for record in quick.records("CreateKey")
                   if record["eventType"] == "AwsApiCall"]
        return sizes and sizes[-1] > made
    until("the record is signed", covered)
    # Nothing new, nothing signed.
    quick.stop()
    quick.start()
    quick.call("DescribeKey", {"KeyId": key})
    quick.stop()
    files = checkpoints(quick)
    for path in files:
        assert check(quick, path.read_text()) == int(path.name)
    assert (quick.trail_dir / "checkpoints/latest").read_text() == files[-1].read_text()
    recorded = [record["additionalEventData"]["details"] for record in quick.records("Checkpoint")]
    assert [each["note"] for each in recorded] == [path.read_text() for path in files]
    for each in recorded:
        assert each["root"] == root(lines(quick)[:each["size"]]).hex()
    # After the last one only the log's own lines follow.
    last = recorded[-1]["size"]
    assert [record["eventName"] for record in quick.journal()[last:]] == ["Checkpoint", "SegmentEnd"]
    assert "Stop" in [record["eventName"] for record in quick.journal()[:last]][-4:]
    assert quick.verify()["verdict"] == "OK"


def test_a_log_cut_below_what_was_signed_does_not_start_without_a_ticket(quick):
    quick.start()
    quick.new_key()
    quick.stop()
    (path,) = quick.segments()[-1:]
    whole = path.read_bytes()
    signed = int(checkpoints(quick)[-1].name)
    keep = len(whole.split(b"\n")) - 1 - 4
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:keep]))
    here = len(lines(quick))
    before = {each: each.read_bytes() for each in quick.trail_dir.rglob("*") if each.is_file() and each.name != "LOCK"}
    quick.spawn()
    assert quick.wait_for_exit() == 2
    said = quick.said()
    assert f"{signed} records were signed" in said and f"{here} are here" in said and "--accept-loss TICKET" in said
    after = {each: each.read_bytes() for each in quick.trail_dir.rglob("*") if each.is_file() and each.name != "LOCK"}
    assert before == after, "a refused start changes nothing"

    quick.start("--accept-loss", "T-9")
    (loss,) = quick.records("AcceptedLoss")
    details = loss["additionalEventData"]["details"]
    assert (details["ticket"], details["signedSize"], details["remaining"]) == ("T-9", signed, here)
    seq = loss["additionalEventData"]["audit"]["seq"]
    assert quick.journal()[seq - 1]["eventName"] == "SegmentStart"
    quick.stop()
    quick.start()
    quick.stop()
    for each in checkpoints(quick):
        check(quick, each.read_text())
