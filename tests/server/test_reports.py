"""Reports for auditors over a real instance's life, against what the test knows of it."""

import csv
import hashlib
import json
import time
from datetime import datetime, timezone

import pytest

from instance import until

EVIL = "<script>alert(1)</script>"


def now():
    """A moment that no record of before or after shares."""
    time.sleep(0.02)
    moment = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
    time.sleep(0.02)
    return moment


def policy(root, *statements):
    account = {"Sid": "Account", "Effect": "Allow", "Principal": {"AWS": root}, "Action": "kms:*", "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [account, *statements]})


class Life:
    """Keys, a rotation, grants, denials, a deletion; with the policies that GetKeyPolicy told, and when."""

    def __init__(self, server):
        self.server, self.out = server, server.root / "reports"
        root = "arn:aws:iam::111122223333:root"
        # The first snapshot is made when the server starts.
        until("a state snapshot", lambda: server.records("StateSnapshot"))
        self.begin = now()
        user = json.loads(server.run("access-key", "create", "--user", "mallory", "--json").stdout)
        self.user = "arn:aws:iam::111122223333:user/mallory"
        self.key = server.new_key(Description=EVIL, Tags=[{"TagKey": "owner", "TagValue": "=cmd()"}])
        self.told = [(now(), self.policy_of())]
        self.moments = [now()]
        admin = {"Sid": "Admin", "Effect": "Allow", "Principal": {"AWS": self.user}, "Action": ["kms:PutKeyPolicy", "kms:DisableKey"], "Resource": "*"}
        uses = {"Sid": "Use", "Effect": "Allow", "Principal": {"AWS": self.user}, "Action": ["kms:Encrypt"], "Resource": "*"}
        for statements in ([admin], [admin, uses], [uses]):
            server.call("PutKeyPolicy", {"KeyId": self.key, "PolicyName": "default", "Policy": policy(root, *statements)})
            self.told.append((now(), self.policy_of()))
        self.mallory = server.raw(access_key=user["accessKeyId"], secret_key=user["secretAccessKey"])
        for _ in range(3):
            assert self.mallory.call("Encrypt", {"KeyId": self.key, "Plaintext": "aGVsbG8="}).status == 200
        for _ in range(2):
            assert self.mallory.call("DisableKey", {"KeyId": self.key}).type == "AccessDeniedException"
        server.call("CreateGrant", {"KeyId": self.key, "GranteePrincipal": self.user, "Operations": ["Decrypt"], "Name": "temporary"})
        self.granted = now()
        grant = server.call("ListGrants", {"KeyId": self.key})["Grants"][0]["GrantId"]
        self.grant = grant
        server.call("RevokeGrant", {"KeyId": self.key, "GrantId": grant})
        server.call("CreateAlias", {"AliasName": "alias/app", "TargetKeyId": self.key})
        server.run("rotate", "--alias", "alias/app", "--reason", "yearly")
        server.call("ScheduleKeyDeletion", {"KeyId": self.key, "PendingWindowInDays": 7})
        self.end = now()

    def policy_of(self):
        return self.server.call("GetKeyPolicy", {"KeyId": self.key, "PolicyName": "default"})["Policy"]

    def report(self, name, *more, expect=0):
        folder = self.out / f"{name}-{time.monotonic_ns()}"
        formats = [part for form in ("html", "csv", "json", "jsonl") for part in ("--format", form)]
        self.server.run("audit", "report", name, *formats, "--out", str(folder), *more, expect=expect)
        self.folder = folder
        whole = json.loads((folder / f"{name}.json").read_text())
        with open(folder / f"{name}.csv", newline="") as file:
            assert len(list(csv.reader(file))) == len(whole["rows"]) + 1
        assert len((folder / f"{name}.jsonl").read_text().splitlines()) == len(whole["rows"])
        return whole


@pytest.fixture
def life(ready):
    ready.start()
    return Life(ready)


def event_ids(server):
    return {record["eventID"]: record["eventName"] for record in server.journal()}


def test_policies_as_of_each_moment_are_what_get_key_policy_told(life):
    names = event_ids(life.server)
    for moment, text in life.told:
        rows = life.report("policy-as-of", "--key", life.key, "--as-of", moment)["rows"]
        (row,) = [row for row in rows if row["kind"] == "policy"]
        assert json.loads(row["policy"]) == json.loads(text), moment
        assert names[row["_source_event_id"]] == ("PutKeyPolicy" if row["policy_version"] > 1 else "CreateKey")
    at_grant = life.report("policy-as-of", "--key", life.key, "--as-of", life.granted)["rows"]
    assert [row["grant_id"] for row in at_grant if row["kind"] == "grant"] == [life.grant]
    after = life.report("policy-as-of", "--key", life.key, "--from", life.granted, "--as-of", life.end)["rows"]
    assert [row["since_from"] for row in after if row["kind"] == "grant"] == ["gone since"]
    assert life.report("policy-as-of", "--key", life.key, "--as-of", life.granted)["report"]["verdict"] == "OK"


def test_a_state_holds_over_restarts_and_later_snapshots(life):
    moment, text = life.told[2]
    life.server.stop()
    life.server.start()
    until("a second snapshot", lambda: len(life.server.records("StateSnapshot")) > 1)
    rows = life.report("policy-as-of", "--key", life.key, "--as-of", moment)["rows"]
    assert json.loads(rows[0]["policy"]) == json.loads(text)
    key = [row for row in life.report("key-inventory")["rows"] if row["key_arn"].endswith(life.key)]
    assert key[0]["key_state"] == "PendingDeletion" and key[0]["deletion_date"]
    earlier = [row for row in life.report("key-inventory", "--as-of", moment)["rows"] if row["key_arn"].endswith(life.key)]
    assert earlier[0]["key_state"] == "Enabled" and earlier[0]["nist_state"] == "active"


def test_what_was_done_is_in_the_reports(life):
    usage = life.report("key-usage", "--key", life.key)["rows"]
    assert [(row["principal"], row["operation"], row["count"], row["failed"]) for row in usage] == [(life.user, "Encrypt", 3, 0)]
    changes = life.report("admin-changes", "--from", life.begin, "--to", life.end)["rows"]
    done = [row["event"] for row in changes if row["result"] == "Success" and life.key in json.dumps(row["resources"])]
    assert done == ["CreateKey", "PutKeyPolicy", "PutKeyPolicy", "PutKeyPolicy", "CreateGrant", "RevokeGrant", "CreateAlias",
                    "RotateAlias", "ScheduleKeyDeletion"]
    third = [row for row in changes if row["event"] == "PutKeyPolicy"][2]
    assert '-       "Sid": "Admin"' in third["difference"] and "Account" not in third["difference"]
    failed = life.report("failed-access", "--principal", life.user)["rows"]
    assert [(row["event"], row["error"], row["count"]) for row in failed] == [("DisableKey", "AccessDenied", 2)]
    duties = life.report("separation-of-duties", "--key", life.key, "--as-of", life.told[2][0])["rows"]
    found = {row["principal"]: row for row in duties if row["finding"] == "potential"}
    assert "kms:PutKeyPolicy" in found[life.user]["admin_actions"] and found[life.user]["use_actions"] == ["kms:Encrypt"]
    later = life.report("separation-of-duties", "--key", life.key, "--as-of", life.told[3][0])["rows"]
    assert life.user not in [row["principal"] for row in later]
    access = life.report("custodians-and-access", "--key", life.key, "--principal", life.user)["rows"]
    assert [(row["actions"], row["never_exercised"]) for row in access] == [(["kms:Encrypt"], False)]
    rotation = life.report("rotation-and-cryptoperiod")["rows"]
    assert {"RotateAlias", "ScheduleKeyDeletion"} <= {row["event"] for row in rotation if row["kind"] == "event"}
    (token,) = life.report("hsm-inventory")["rows"]
    assert token["token"] == "default" and len(token["library_sha256"]) == 64 and token["mechanisms_used"]
    assert life.report("audit-integrity")["report"]["verification"]["verdict"] == "OK"
    life.report("unused-stale")
    read = life.report("audit-log-access")["rows"]
    assert {row["event"] for row in read} == {"AuditReport"} and len(read) >= 9
    assert read[0]["range_and_rows"]["report"] == "key-usage" and read[0]["range_and_rows"]["rows"] == 1


def test_pages_and_tables_are_harmless_and_files_are_signed(life):
    life.report("key-inventory")
    page = (life.folder / "key-inventory.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and 'class="verdict good"' in page
    assert "'=cmd()" not in page and "owner==cmd()" in (life.folder / "key-inventory.csv").read_text()
    manifest = json.loads((life.folder / "manifest.json").read_text())
    for file in manifest["files"]:
        assert hashlib.sha256((life.folder / file["name"]).read_bytes()).hexdigest() == file["sha256"]
    sign = json.loads((life.folder / "result_sign.json").read_text())
    for file in sign["files"]:
        assert hashlib.sha256((life.folder / file["fileName"]).read_bytes()).hexdigest() == file["fileHashValue"]
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding
    (key,) = life.server.trail_dir.glob("keys/digest-0001.spki.der")
    public = serialization.load_der_public_key(key.read_bytes())
    signed = " ".join(file["fileHashValue"] for file in sign["files"]).encode()
    public.verify(bytes.fromhex(sign["hashSignature"]), signed, padding.PKCS1v15(), hashes.SHA256())


def test_sign_offs_and_ceremonies_come_back(life):
    life.report("key-inventory")
    manifest = life.folder / "manifest.json"
    life.server.run("audit", "attest-review", "--report", str(manifest), "--decision", "approved", "--reviewer", "Ann")
    life.server.run("audit", "attest-review", "--report", str(manifest), "--decision", "perhaps", "--reviewer", "Ann", expect=1)
    script = life.server.root / "script.txt"
    script.write_text("1. take the cards\n")
    life.server.run("audit", "ceremony", "KC-1", "--script", str(script), "--participant", "Ann: officer", "--step", "cards",
                    "--quorum", "2 of 3")
    (review,) = life.report("attestations")["rows"]
    assert review["file_sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert review["report_id"] == json.loads(manifest.read_text())["report"]["reportId"]
    (ceremony,) = [row for row in life.report("ceremonies")["rows"] if row["kind"] == "ceremony"]
    assert ceremony["script_sha256"] == hashlib.sha256(script.read_bytes()).hexdigest() and ceremony["quorum"] == "2 of 3"


def test_a_log_that_was_changed_is_told(life):
    life.server.stop()
    life.server.start()
    # A segment that is closed: nobody writes it any more.
    segment = next(path for path in life.server.segments() if b'"mallory"' in path.read_bytes())
    assert segment != life.server.segments()[-1]
    text = segment.read_bytes()
    segment.write_bytes(text.replace(b'"mallory"', b'"malloru"', 1))
    made = life.report("failed-access", expect=1)
    assert made["report"]["verdict"] == "TAMPERED"
    page = (life.folder / "failed-access.html").read_text()
    assert 'class="verdict bad"' in page and "does NOT verify" in page


def test_wrong_questions_are_refused(life):
    for args in (["no-such-report"], ["key-usage", "--format", "pdf"], ["key-inventory", "--as-of", "2020-01-01"],
                 ["key-usage", "--from", "2026-02-01", "--to", "2026-01-01"]):
        life.server.run("audit", "report", *args, "--out", str(life.out / "none"), expect=1)
    life.server.run("audit", "report", "key-usage", "--from", "yesterday", expect=64)
