"""The keys that sign the log: in the token, in certificates, through their rotation. Checked with openssl, python-cryptography
and pkcs11-tool, never with the program's own code."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from datetime import datetime, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from instance import ACCOUNT, COMMAND, MODULE, REGION, TRAIL, is_intent, until
from token_keys import Keys

ARN = f"arn:aws:cloudtrail:{REGION}:{ACCOUNT}:trail/{TRAIL}"
USES = ("checkpoint", "digest")


def openssl(*args, **options):
    return subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True, timeout=COMMAND, **options)


def shown(instance):
    return json.loads(instance.run("audit", "key", "show", "--json").stdout)["keys"]


def listed(instance):
    """`keys.json` by use and generation."""
    return {(k["keyUse"], k["generation"]): k for k in json.loads((instance.trail_dir / "keys" / "keys.json").read_text())}


def named(instance):
    """The details of the AuditKey records, without their intents."""
    return [r["additionalEventData"]["details"] for r in instance.records("AuditKey") if not is_intent(r)]


def objects(instance):
    """pkcs11-tool's words about each object, by class and label."""
    done = subprocess.run(["pkcs11-tool", "--module", MODULE, "--token-label", instance.label, "--login", "--pin", instance.pin, "-O"],
                          env={"SOFTHSM2_CONF": str(instance.softhsm_conf), "PATH": "/usr/bin:/bin"}, check=True, capture_output=True,
                          text=True, timeout=COMMAND)
    found = {}
    for block in re.split(r"\n(?=\S)", done.stdout):
        label = re.search(r"label:\s+(\S+)", block)
        if label:
            found[block.split(" Object")[0], label.group(1)] = block
    return found


def fingerprint(use, public):
    if use == "checkpoint":
        return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    return hashlib.md5(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)).hexdigest()


def check_own_signature(certificate, public):
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(certificate.signature, certificate.tbs_certificate_bytes, padding.PKCS1v15(), hashes.SHA256())
    else:
        public.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))


def test_the_keys_are_in_the_token_and_in_the_chain(serving):
    records, keys = {d["keyUse"]: d for d in named(serving)}, listed(serving)
    assert set(records) == set(USES) and set(keys) == {(use, 1) for use in USES}
    found = objects(serving)
    for use in USES:
        private, public = found["Private Key", f"hsm-bridge/audit-{use}-1"], found["Public Key", f"hsm-bridge/audit-{use}-1"]
        assert re.search(r"Usage:\s+sign\n", private), private
        assert re.search(r"Usage:\s+verify\n", public), public
        access = re.search(r"Access:\s+(.*)", private).group(1)
        assert {"sensitive", "always sensitive", "never extractable", "local"} <= set(access.split(", ")), access
        assert ("RSA" if use == "digest" else "EC") in private.split("\n")[0]
        key, record = keys[use, 1], records[use]
        assert key["validUntil"] is None and record["previousFingerprint"] is None
        assert {name: record[name] for name in ("fingerprint", "spki", "certificate")} == {
            name: key[name] for name in ("fingerprint", "spki", "certificate")}
        loaded = serialization.load_der_public_key(base64.b64decode(key["spki"]))
        assert loaded.key_size == (2048 if use == "digest" else 256)
        assert key["fingerprint"] == fingerprint(use, loaded)
        keys_dir = serving.trail_dir / "keys"
        assert (keys_dir / f"{use}-0001.spki.der").read_bytes() == base64.b64decode(key["spki"])
        assert (keys_dir / f"{use}-0001.crt.pem").read_text() == key["certificate"]
    # Intent, then the record, and a restart makes none anew.
    assert [is_intent(r) for r in serving.records("AuditKey")] == [True, False] * 2
    serving.stop()
    serving.start()
    assert len(serving.records("AuditKey")) == 4 and shown(serving)
    assert serving.verify()["verdict"] == "OK"


@pytest.mark.parametrize("use", USES)
def test_a_certificate_is_accepted_by_others(serving, use):
    path = serving.trail_dir / "keys" / f"{use}-0001.crt.pem"
    verified = openssl("verify", "-partial_chain", "-x509_strict", "-CAfile", path, path)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    text = openssl("x509", "-in", path, "-noout", "-text").stdout
    assert "CA:FALSE" in text and re.search(r"Digital Signature, Non Repudiation\n", text), text
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    public = certificate.public_key()
    check_own_signature(certificate, public)
    assert certificate.subject == certificate.issuer and ARN in certificate.subject.rfc4514_string()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [ARN]
    years = (certificate.not_valid_after_utc - datetime.now(timezone.utc)).days / 365.25
    assert 9.9 < years < 10.1


@pytest.mark.parametrize("use", USES)
def test_an_authority_issues_the_certificate(serving, use):
    root = serving.root
    ca = openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=Audit CA", "-days", "3650",
                 "-keyout", root / "ca.key", "-out", root / "ca.pem")
    assert ca.returncode == 0, ca.stderr
    csr = serving.run("audit", "key", "csr", "--use", use).stdout
    (root / "key.csr").write_text(csr)
    checked = openssl("req", "-in", root / "key.csr", "-verify", "-noout")
    assert checked.returncode == 0 and "verify OK" in checked.stdout + checked.stderr
    issued = openssl("x509", "-req", "-in", root / "key.csr", "-CA", root / "ca.pem", "-CAkey", root / "ca.key", "-CAcreateserial", "-days",
                     "365", "-copy_extensions", "copy", "-out", root / "leaf.pem")
    assert issued.returncode == 0, issued.stderr
    (root / "chain.pem").write_text((root / "leaf.pem").read_text() + (root / "ca.pem").read_text())

    self_signed = (serving.trail_dir / "keys" / "keys.json").read_text()
    # Another key's certificate, and certificates that are no chain.
    refused = serving.run("audit", "key", "install", "--use", use, "--certificate", root / "ca.pem", expect=1)
    assert "another public key" in refused.stderr
    (root / "wrong.pem").write_text((root / "leaf.pem").read_text() * 2)
    refused = serving.run("audit", "key", "install", "--use", use, "--certificate", root / "wrong.pem", expect=1)
    assert "no chain" in refused.stderr
    (root / "empty.pem").write_text("")
    serving.run("audit", "key", "install", "--use", use, "--certificate", root / "empty.pem", expect=1)

    done = json.loads(serving.run("audit", "key", "install", "--use", use, "--certificate", root / "chain.pem", "--json").stdout)
    assert done["certificates"] == 2 and done["issuer"] == "CN=Audit CA"
    published = serving.trail_dir / "keys" / f"{use}-0001.crt.pem"
    verified = openssl("verify", "-CAfile", root / "ca.pem", published)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    (key,) = (k for k in shown(serving) if k["keyUse"] == use)
    assert key["certificate"]["selfSigned"] is False and key["state"] == "signs"
    (intent, outcome) = serving.records("AuditKeyInstall")[-2:]
    assert is_intent(intent) and outcome["additionalEventData"]["details"]["certificate"] == (root / "leaf.pem").read_text()
    told = named(serving)[-1]
    assert told["keyUse"] == use and told["generation"] == 1 and told["certificate"] == (root / "chain.pem").read_text()
    # It is kept, and the log stays whole.
    serving.stop()
    serving.start()
    assert len(named(serving)) == 3
    assert openssl("verify", "-CAfile", root / "ca.pem", published).returncode == 0
    assert serving.verify()["verdict"] == "OK"
    # As if it had been killed before the chain and the files knew: told again.
    serving.stop()
    (serving.trail_dir / "keys" / "keys.json").write_text(self_signed)
    serving.start()
    assert named(serving)[-1] == told and len(named(serving)) == 4
    assert openssl("verify", "-CAfile", root / "ca.pem", published).returncode == 0
    assert serving.verify()["verdict"] == "OK"


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("keep", [False, True])
def test_rotation(serving, use, keep):
    before = listed(serving)[use, 1]
    options = ["--keep-old"] if keep else []
    done = json.loads(serving.run("audit", "key", "rotate", "--use", use, "--json", *options).stdout)
    assert (done["generation"], done["oldKey"]) == (2, "kept" if keep else "destroyed")
    keys = listed(serving)
    old, new = keys[use, 1], keys[use, 2]
    assert old["validUntil"] == new["validFrom"] and new["validUntil"] is None and old["spki"] == before["spki"] != new["spki"]
    introduced = named(serving)[-1]
    assert introduced["previousFingerprint"] == old["fingerprint"] and introduced["fingerprint"] == new["fingerprint"]
    found = objects(serving)
    assert (("Private Key", f"hsm-bridge/audit-{use}-1") in found) == keep
    assert ("Private Key", f"hsm-bridge/audit-{use}-2") in found
    # Introduced before the outcome of the command, which follows its intent.
    names = [r["eventName"] for r in serving.journal() if r["eventName"] in ("AuditKey", "AuditKeyRotate")]
    assert names[-3:] == ["AuditKeyRotate", "AuditKey", "AuditKeyRotate"]
    serving.stop()
    # With no server running, and again.
    done = json.loads(serving.run("audit", "key", "rotate", "--use", use, "--json").stdout)
    assert done["generation"] == 3 and done["previousFingerprint"] == new["fingerprint"]
    serving.start()
    assert [k["state"] for k in shown(serving) if k["keyUse"] == use] == [
        "retired, kept in the token" if keep else "retired, destroyed", "retired, destroyed", "signs"]
    assert not serving.records("AuditFailure") and not serving.records("AuditTampering")
    report = json.loads(serving.run("token", "reconcile", "--json").stdout)
    assert report["ok"], report
    assert serving.verify()["verdict"] == "OK"


KINDS = {"digest": "RSA:2048", "checkpoint": "EC:secp256r1"}


@pytest.mark.parametrize("use", USES)
def test_a_replaced_object_signs_nothing(serving, use):
    """Another pair under the same id and label: whoever can log in can put it there."""
    (key,) = (k for k in shown(serving) if k["keyUse"] == use)
    serving.stop()
    keys = Keys(serving)
    keys.destroy(key["ckaId"])
    keys.make(KINDS[use], key["ckaId"], key["label"])
    serving.start()
    (failure,) = (r["additionalEventData"]["details"] for r in serving.records("AuditFailure"))
    assert failure["keyUse"] == use and "not the recorded key" in failure["why"]
    assert "not the recorded key" in serving.said()
    serving.run("audit", "key", "csr", "--use", use, expect=1)
    assert not json.loads(serving.run("token", "reconcile", "--json", expect=1).stdout)["ok"]
    # It names no successor: that takes a ticket.
    refused = serving.run("audit", "key", "rotate", "--use", use, expect=1)
    assert "--lost" in refused.stderr and len(shown(serving)) == 2
    done = json.loads(serving.run("audit", "key", "rotate", "--use", use, "--lost", "INC-7", "--json").stdout)
    assert done["lost"] == "INC-7" and done["generation"] == 2
    assert "BEGIN CERTIFICATE REQUEST" in serving.run("audit", "key", "csr", "--use", use).stdout


def test_a_lost_object_is_told_of(serving):
    (key,) = (k for k in shown(serving) if k["keyUse"] == "checkpoint")
    serving.stop()
    Keys(serving).destroy(key["ckaId"])
    serving.start()
    (failure,) = (r["additionalEventData"]["details"] for r in serving.records("AuditFailure"))
    assert "does not hold" in failure["why"]
    # None is made in its place by itself.
    assert len(named(serving)) == 2


def test_changed_copies_are_told_of_and_put_right(serving):
    path = serving.trail_dir / "keys" / "keys.json"
    right = path.read_text()
    serving.stop()
    keys = json.loads(right)
    keys[0]["spki"], keys[1]["spki"] = keys[1]["spki"], keys[0]["spki"]
    path.write_text(json.dumps(keys))
    (serving.trail_dir / "keys" / "digest-0001.spki.der").unlink()
    serving.start()
    (told,) = (r["additionalEventData"]["details"] for r in serving.records("AuditTampering"))
    assert len(told["differences"]) == 2
    assert path.read_text() == right and (serving.trail_dir / "keys" / "digest-0001.spki.der").exists()
    serving.stop()
    shutil.rmtree(path.parent)
    serving.start()
    assert path.read_text() == right and len(serving.records("AuditTampering")) == 1


def test_kms_and_adoption_do_not_see_them(serving):
    (key,) = (k for k in shown(serving) if k["keyUse"] == "digest")
    as_uuid = key["ckaId"][:32]
    name = "-".join((as_uuid[:8], as_uuid[8:12], as_uuid[12:16], as_uuid[16:20], as_uuid[20:]))
    reply = serving.raw().call("DescribeKey", {"KeyId": name})
    assert reply.status == 400 and reply.json()["__type"] == "NotFoundException"
    for how in (("--id", key["ckaId"]), ("--label", key["label"])):
        refused = serving.run("key", "adopt", *how, expect=1)
        assert "never adopted" in refused.stderr, refused.stderr
    assert serving.call("ListKeys")["Keys"] == []


def test_permissions_are_apart(make):
    instance = make(sections={"operator": {"allow": ["audit:key-show"]}}).init().start()
    assert len(shown(instance)) == 2
    for command in (("csr",), ("install", "--certificate", instance.config), ("rotate",)):
        done = instance.run("audit", "key", *command, "--use", "digest", expect=1)
        assert f"audit:key-{command[0]}" in done.stderr
    assert len(named(instance)) == 2


def test_a_crash_while_a_key_is_made_leaves_no_key_behind(ready):
    """Killed at several moments of the first start: afterwards there is one key of each use that signs, and all names differ."""
    for _ in range(6):
        ready.spawn()
        until("the token is being worked on", lambda: ready.process.poll() is not None or "AuditKey" in "".join(
            p.read_text(errors="replace") for p in ready.segments()))
        ready.kill()
    ready.start()
    keys = shown(ready)
    assert sorted(k["keyUse"] for k in keys if k["state"] == "signs") == list(USES)
    assert len({(k["keyUse"], k["generation"]) for k in keys}) == len(keys)
    made = {(d["keyUse"], d["generation"]) for d in named(ready)}
    assert len(made) == len(named(ready)), "a generation was named twice"
    labels = {label for _, label in objects(ready) if "/audit-" in label}
    assert labels == {k["label"] for k in keys}, "objects that nobody knows"
    assert ready.verify()["verdict"] == "OK"
