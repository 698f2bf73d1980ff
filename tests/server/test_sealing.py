"""Sealed log files and digests of a real instance, checked with nothing of ours: gzip, hashlib and python-cryptography."""

import gzip
import hashlib
import json
import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509 import load_pem_x509_certificate

from instance import until

SEALING = {"audit": {"seal_seconds": 1, "digest_seconds": 2, "checkpoint_seconds": 1}}


def leaf(line):
    return hashlib.sha256(b"\0" + line).hexdigest()


def root_of(leaves):
    """RFC 6962 §2.1, as it stands there."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return hashlib.sha256(b"\1" + root_of(leaves[:half]) + root_of(leaves[half:])).digest()


def journal(trail):
    lines = []
    for path in sorted((trail / "journal").glob("[0-9]*.jsonl")):
        lines += path.read_bytes().split(b"\n")[:-1]
    return lines


def digests(trail):
    """Oldest first: the object's name, its bytes, its signature."""
    bucket, found = trail / "bucket", []
    for path in bucket.rglob("*_CloudTrail-Digest_*.json.gz"):
        meta = json.loads(path.with_name(path.name + ".meta").read_text())
        assert meta["signature-algorithm"] == "SHA256withRSA"
        found.append((str(path.relative_to(bucket)), gzip.decompress(path.read_bytes()), meta["signature"]))
    return sorted(found)


def check(trail):
    """Every signature, hash and link; returns the digests' JSON."""
    keys = {key["fingerprint"]: key for key in json.loads((trail / "keys/keys.json").read_text())}
    bucket, lines = trail / "bucket", journal(trail)
    last, listed, sealed, seen = None, [], [], []
    for name, body, signature in digests(trail):
        digest = json.loads(body)
        seen.append(digest)
        assert digest["digestS3Object"] == name
        text = "\n".join([digest["digestEndTime"], f"{digest['digestS3Bucket']}/{name}", hashlib.sha256(body).hexdigest(),
                          last[2] if last else "null"])
        certificate = load_pem_x509_certificate(keys[digest["digestPublicKeyFingerprint"]]["certificate"].encode())
        certificate.public_key().verify(bytes.fromhex(signature), text.encode(), padding.PKCS1v15(), hashes.SHA256())
        if last:
            before = json.loads(last[1])
            assert digest["digestStartTime"] == before["digestEndTime"]
            assert digest["previousDigestHashValue"] == hashlib.sha256(last[1]).hexdigest()
            assert digest["previousDigestSignature"] == last[2]
            assert digest["previousDigestS3Object"] == last[0]
        last = (name, body, signature)
        for file in digest["logFiles"]:
            body = gzip.decompress((bucket / file["s3Object"]).read_bytes())
            assert hashlib.sha256(body).hexdigest() == file["hashValue"]
            records = json.loads(body)["Records"]
            assert body.startswith(b'{"Records":[') and body.endswith(b"]}")
            times = sorted(record["eventTime"] for record in records)
            assert (file["oldestEventTime"], file["newestEventTime"]) == (times[0], times[-1])
            sealed += [record["additionalEventData"]["audit"]["seq"] for record in records]
            # Verbatim: the bytes of the file are those of the journal.
            own = [lines[record["additionalEventData"]["audit"]["seq"]] for record in records]
            assert body == b'{"Records":[' + b",".join(own) + b"]}"
            listed.append(file["s3Object"])
        size = digest["hsmBridge"]["treeSize"]
        root = root_of([bytes.fromhex(leaf(line)) for line in lines[:size]])
        assert digest["hsmBridge"]["rootHash"] == root.hex()
    exported = [n for n, line in enumerate(lines) if json.loads(line)["eventType"] != "HsmBridgeIntent"]
    assert sealed == exported[:len(sealed)]
    there = {str(path.relative_to(bucket)) for path in bucket.rglob("*_CloudTrail_*.json.gz")}
    assert sorted(listed) == sorted(there), "objects that no digest lists"
    return seen


def test_a_run_is_sealed_and_signed_to_its_last_record(make):
    one = make(sections=SEALING).init()
    one.start()
    key = one.new_key()
    one.call("GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256"})
    until("two digests", lambda: len(digests(one.trail_dir)) >= 2)
    one.call("DescribeKey", {"KeyId": key})
    one.stop()
    first = check(one.trail_dir)
    sealed = first[-1]["hsmBridge"]["treeSize"]
    names = [json.loads(line)["eventName"] for line in journal(one.trail_dir)]
    # Nothing but the log's own records follows.
    assert "Stop" in names[:sealed]
    assert set(names[sealed:]) <= {"LogFile", "Digest", "Checkpoint", "SegmentEnd"}

    one.start()
    until("a digest of the next run", lambda: len(digests(one.trail_dir)) > len(first))
    one.stop()
    assert len(check(one.trail_dir)) > len(first)
    one.verify()


def test_a_kill_leaves_a_chain_that_goes_on(make):
    one = make(sections=SEALING).init()
    for _ in range(4):
        one.start()
        for _ in range(5):
            one.new_key()
        time.sleep(1.3)
        one.kill()
    one.start()
    one.stop()
    check(one.trail_dir)


def test_prune_is_for_the_operator_and_deletes_nothing_young(make):
    one = make(sections=SEALING).init()
    one.start()
    one.new_key()
    until("a digest", lambda: digests(one.trail_dir))
    said = one.run("audit", "prune", "--dry-run", "--json")
    plan = json.loads(said.stdout)
    assert plan["gone"] == [] and plan["journalBegins"] == 0 and plan["dryRun"] is True
    one.run("audit", "prune")
    one.stop()
    assert [r["eventType"] for r in one.records("AuditPrune")].count("HsmBridgeOperatorCall") == 2
    check(one.trail_dir)
