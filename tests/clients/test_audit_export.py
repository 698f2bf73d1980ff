"""Exports of the log, checked by others: the proof by the program of docs/exports.md, the signature by python-cryptography as the AWS CLI
computes it (and by AWS CLI 2 itself where HSM_BRIDGE_AWS_V2 names one), rows by csv, pycef and the published models of OCSF."""

import csv
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys

import jsonschema
import pycef
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from ocsf_json_schema.embedded import OcsfJsonSchemaEmbedded
from ocsf_json_schema.loader import get_ocsf_schema

from bridge import REPOSITORY
from checks import refused
from iam_tool import Iam, allow
from authz_tool import Person, record

FORMATS = ["csv", "jsonl", "ocsf", "cef", "cloudtrail"]


def export(bridge, out, *options, formats=FORMATS):
    chosen = [word for name in formats for word in ("--format", name)]
    return json.loads(bridge.run("audit", "export", "--out", out, "--json", *chosen, *options).stdout)


@pytest.fixture(scope="module")
def exported(bridge, tmp_path_factory):
    """A log with all sorts of records, and its export."""
    kms = bridge.kms
    key = bridge.key()
    blob = kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"=1+1": "@x, \"y\"\n|z=\\"})["CiphertextBlob"]
    kms.decrypt(CiphertextBlob=blob, EncryptionContext={"=1+1": "@x, \"y\"\n|z=\\"})
    made = bridge.new_key(Description="=HYPERLINK(\"http://x\")")
    kms.schedule_key_deletion(KeyId=made, PendingWindowInDays=7)
    with refused("NotFoundException"):
        kms.describe_key(KeyId="00000000-0000-4000-8000-000000000000")
    nobody = Person(Iam(bridge))
    with refused("AccessDeniedException"):
        nobody.kms.encrypt(KeyId=key, Plaintext=b"x")
    out = tmp_path_factory.mktemp("exports") / "all"
    told = export(bridge, out)
    return bridge, out, told


def unpacked(out, suffix):
    names = sorted(out.glob(f"result_*{suffix}"), key=lambda path: int(re.search(r"\d+", path.name)[0]))
    assert names
    return [gzip.decompress(path.read_bytes()).decode() for path in names]


def records(out):
    return [line for line in gzip.decompress((out / "records.jsonl.gz").read_bytes()).split(b"\n") if line]


def proof_program(tmp_path):
    text = (REPOSITORY / "docs/exports.md").read_text()
    (program,) = [found[1] for found in re.finditer(r"```python proof\.py\n(.*?)```", text, re.S)]
    path = tmp_path / "proof.py"
    path.write_text(program)
    return path


def proves(out, tmp_path):
    return subprocess.run([sys.executable, proof_program(tmp_path), out], capture_output=True, text=True, timeout=60)


def signature_holds(out):
    """What `aws cloudtrail verify-query-results` does (CLI 2, awscli/customizations/cloudtrail/verifyqueryresults.py)."""
    sign = json.loads((out / "result_sign.json").read_text())
    assert sign["version"] == "1.0" and sign["hashAlgorithm"] == "SHA-256" and sign["signatureAlgorithm"] == "SHA256withRSA"
    for file in sign["files"]:
        if hashlib.sha256((out / file["fileName"]).read_bytes()).hexdigest() != file["fileHashValue"]:
            return False
    keys = {key["fingerprint"]: key for key in json.loads((out / "keys/keys.json").read_text())}
    key = x509.load_pem_x509_certificate(keys[sign["publicKeyFingerprint"]]["certificate"].encode()).public_key()
    message = " ".join(file["fileHashValue"] for file in sign["files"]).encode()
    try:
        key.verify(bytes.fromhex(sign["hashSignature"]), message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def test_the_records_are_the_journals(exported):
    bridge, out, told = exported
    lines = bridge.journal_lines()
    # The export's own record follows it.
    assert records(out) == lines[:told["rows"]]
    assert (told["firstSeq"], told["lastSeq"], told["unsigned"]) == (0, told["rows"] - 1, 0)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["completeness"]["provenRecords"] == manifest["range"]["records"] == told["rows"]
    for file in manifest["files"]:
        assert hashlib.sha256((out / file["name"]).read_bytes()).hexdigest() == file["sha256"], file
    here = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert here == {file["name"] for file in manifest["files"]} | {"manifest.json", "result_sign.json", "SHA256SUMS"}
    subprocess.run(["sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"], cwd=out, check=True, timeout=60)
    assert all(path.stat().st_mode & 0o777 == 0o640 for path in out.rglob("*") if path.is_file())
    in_bucket = bridge.audit_dir / "bucket" / told["prefix"]
    for name in here:
        assert (in_bucket / name).read_bytes() == (out / name).read_bytes()


def test_the_export_is_a_record(exported):
    bridge, _, told = exported
    (found,) = [r for r in bridge.journal() if r["eventName"] == "ExportAudit"
                and r["additionalEventData"].get("details", {}).get("exportId") == told["exportId"]]
    assert found["eventType"] == "HsmBridgeOperatorCall" and found["requestParameters"]["formats"] == FORMATS
    details = found["additionalEventData"]["details"]
    assert (details["rows"], details["firstSeq"], details["lastSeq"]) == (told["rows"], told["firstSeq"], told["lastSeq"])


def test_the_signature(exported, tmp_path):
    _, out, _ = exported
    assert signature_holds(out)
    for name in ("result_1.csv.gz", "records.jsonl.gz", "manifest.json", "proof.json", "leaves.bin", "checkpoint"):
        copy = tmp_path / name
        shutil.copytree(out, copy)
        changed = bytearray((copy / name).read_bytes())
        changed[len(changed) // 2] ^= 1
        (copy / name).write_bytes(changed)
        assert not signature_holds(copy), name
    sign = json.loads((out / "result_sign.json").read_text())
    sign["files"].reverse()
    shutil.copytree(out, tmp_path / "reversed")
    (tmp_path / "reversed/result_sign.json").write_text(json.dumps(sign))
    assert not signature_holds(tmp_path / "reversed")


@pytest.mark.skipif("HSM_BRIDGE_AWS_V2" not in os.environ, reason="verify-query-results is in AWS CLI 2.11.14 and newer: name one in HSM_BRIDGE_AWS_V2")
def test_the_stock_cli(exported, tmp_path):
    bridge, out, _ = exported
    def verify(folder):
        words = [os.environ["HSM_BRIDGE_AWS_V2"], "cloudtrail", "verify-query-results", "--local-export-path", folder, "--region", bridge.region]
        env = bridge.tool_env(HOME=str(tmp_path), AWS_ENDPOINT_URL_CLOUDTRAIL=bridge.env["AWS_ENDPOINT_URL"])
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    good = verify(out)
    assert good.returncode == 0 and "Successfully validated" in good.stdout, good
    shutil.copytree(out, tmp_path / "copy")
    (tmp_path / "copy/manifest.json").write_text((out / "manifest.json").read_text().replace('"selected": ', '"selected": 1'))
    bad = verify(tmp_path / "copy")
    assert bad.returncode == 255, bad


def test_the_proof(exported, tmp_path):
    bridge, out, told = exported
    good = proves(out, tmp_path)
    assert good.returncode == 0 and good.stdout.startswith(f"{told['rows']} records in the tree of "), good
    # A part of it, filtered: the others are hashes, and none can be left out.
    part = tmp_path / "part"
    since = json.loads(records(out)[5])["additionalEventData"]["audit"]["time"]
    few = export(bridge, part, "--event", "Encrypt", "--from", since, formats=["csv"])
    assert 0 < few["rows"] < few["lastSeq"] - few["firstSeq"] and few["firstSeq"] > 0
    assert {json.loads(line)["eventName"] for line in records(part)} == {"Encrypt"}
    good = proves(part, tmp_path)
    assert good.returncode == 0 and good.stdout.startswith(f"{few['lastSeq'] - few['firstSeq'] + 1} records in"), good
    leaves = (part / "leaves.bin").read_bytes()
    for wrong in (leaves[:-32], leaves[32:], leaves[32:64] + leaves[:32] + leaves[64:]):
        (part / "leaves.bin").write_bytes(wrong)
        assert proves(part, tmp_path).returncode != 0


def test_our_own_verifier(exported, tmp_path):
    bridge, out, _ = exported
    good = bridge.run("audit", "verify", out, "--json")
    assert json.loads(good.stdout)["verdict"] == "OK", good
    for name in ("leaves.bin", "records.jsonl.gz", "manifest.json", "result_1.csv.gz"):
        copy = tmp_path / name
        shutil.copytree(out, copy)
        changed = bytearray((copy / name).read_bytes())
        changed[len(changed) // 2] ^= 1
        (copy / name).write_bytes(changed)
        assert bridge.run("audit", "verify", copy, check=False).returncode == 1, name


def test_nothing_is_written_over(exported):
    bridge, out, _ = exported
    done = bridge.run("audit", "export", "--out", out, check=False)
    assert done.returncode == 1 and "exists already" in done.stderr, done
    assert bridge.run("audit", "export", "--out", out, "--format", "xls", check=False).returncode == 64


def test_over_the_network(exported):
    bridge, out, _ = exported
    iam = Iam(bridge)
    who = Person(iam, policies={"export": allow("hsmbridge:ExportAudit")})
    def call(person, body):
        raw = bridge.raw(access_key=person.key[0], secret_key=person.key[1])
        return raw.call("HsmBridge.ExportAudit", body)
    reply = call(who, {"Formats": ["ocsf"], "Event": "Encrypt"})
    assert reply.status == 200, reply
    assert call(who, {"Out": "/etc/x"}).type == "ValidationException"
    assert call(Person(iam), {}).type == "AccessDeniedException"


# -- a SIEM's view ------------------------------------------------------------------------------------------------------


def table(out):
    rows = []
    for text in unpacked(out, ".csv.gz"):
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows += list(reader)
    return rows


def outcomes(out):
    found = [json.loads(line) for line in records(out)]
    return [r for r in found if r["eventType"] != "HsmBridgeIntent"]


def test_csv_is_csv(exported):
    _, out, _ = exported
    rows = table(out)
    assert [row["_source_event_id"] for row in rows] == [r["eventID"] for r in outcomes(out)]
    for row, found in zip(rows, outcomes(out)):
        assert None not in row and not any(value.startswith(tuple("=+-@\t\r\n")) for value in row.values())
        assert row["event_name"] == found["eventName"] and row["error_code"] == found.get("errorCode", "")
        assert json.loads(row["additional_event_data"]) == found["additionalEventData"]
        assert (json.loads(row["request_parameters"] or "null")) == found["requestParameters"]


def test_cloudtrail_files_are_cloudtrail_files(exported):
    _, out, _ = exported
    found = [r for text in unpacked(out, ".cloudtrail.json.gz") for r in json.loads(text)["Records"]]
    assert found == outcomes(out)


def test_ocsf_against_the_published_schema(exported):
    """JSON schema of class and profiles, made by ocsf-json-schema from the schema that OCSF published."""
    _, out, _ = exported
    published = OcsfJsonSchemaEmbedded(get_ocsf_schema("1.8.0"))
    assert published.lookup_class_name_from_uid(6003) == "api_activity"
    schema = jsonschema.Draft202012Validator(published.get_class_schema("api_activity", ["cloud", "datetime"]))
    events = [json.loads(line) for text in unpacked(out, ".ocsf.jsonl.gz") for line in text.splitlines()]
    expected = outcomes(out)
    assert len(events) == len(expected)
    for event, found in zip(events, expected):
        wrong = [f"{error.json_path}: {error.message}" for error in schema.iter_errors(event)]
        assert not wrong, (wrong, event)
        assert event["api"]["operation"] == found["eventName"] and event["metadata"]["uid"] == found["eventID"]
        assert (event["status_id"] == 2) == ("errorCode" in found)
        assert event["unmapped"]["additionalEventData"] == found["additionalEventData"]
    # The schema can say no.
    assert not schema.is_valid({name: value for name, value in events[0].items() if name != "src_endpoint"})
    assert not schema.is_valid(events[0] | {"severity_id": 42})


def test_cef_by_a_parser(exported):
    _, out, _ = exported
    lines = [line for text in unpacked(out, ".cef.gz") for line in text.splitlines()]
    expected = outcomes(out)
    assert len(lines) == len(expected)
    for line, found in zip(lines, expected):
        parsed = pycef.parse(line)
        assert parsed["DeviceName"] == found["eventName"] and parsed["DeviceVendor"] == "hsm-bridge", parsed
        assert parsed["externalId"] == found["eventID"] and parsed["act"] == found["eventName"]
        assert parsed["outcome"] == ("failure" if "errorCode" in found else "success")
