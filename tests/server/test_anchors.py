"""The newest head of the log in a token object, and under the stamps of a time-stamping authority that is openssl."""

import http.server
import re
import shutil
import subprocess
import threading

import pytest
from instance import COMMAND, MODULE, until

LABEL = "hsm-bridge/audit-head"
EVERY_SECOND = {"audit": {"checkpoint_seconds": 1}}


def openssl(*args, **options):
    return subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True, timeout=COMMAND, **options)


def pkcs11(instance, *args):
    done = subprocess.run(["pkcs11-tool", "--module", MODULE, "--token-label", instance.label, "--login", "--pin", instance.pin, *args],
                          env={"SOFTHSM2_CONF": str(instance.softhsm_conf), "PATH": "/usr/bin:/bin"}, check=True, capture_output=True,
                          timeout=COMMAND)
    return done.stdout


def head(instance):
    """The text in the token; the instance is not running."""
    out = instance.root / "head"
    pkcs11(instance, "--read-object", "--type", "data", "--label", LABEL, "--output-file", str(out))
    return out.read_text()


def latest(instance):
    path = instance.trail_dir / "checkpoints" / "latest"
    return path.read_text() if path.exists() else None


@pytest.fixture
def anchored(make):
    instance = make(sections=EVERY_SECOND).init().start()
    until("a checkpoint", lambda: latest(instance))
    return instance


def test_the_last_head_is_in_the_token_at_a_stop(anchored):
    anchored.new_key()
    anchored.stop()
    assert head(anchored) == latest(anchored)
    listed = pkcs11(anchored, "-O", "--type", "data").decode()
    assert listed.count(LABEL) == 1 and "private" in listed
    # Once more: the object is changed and not joined by another.
    anchored.start()
    anchored.new_key()
    before = head(anchored)
    anchored.stop()
    assert head(anchored) == latest(anchored) != before
    assert pkcs11(anchored, "-O", "--type", "data").decode().count(LABEL) == 1


def test_a_log_that_was_put_back_is_not_started_with(anchored):
    """Journal and checkpoints put back together agree with each other; the token knows better."""
    anchored.stop()
    copy = anchored.root / "copy"
    shutil.copytree(anchored.trail_dir, copy, symlinks=True)
    anchored.start()
    anchored.new_key()
    anchored.stop()
    shutil.rmtree(anchored.trail_dir)
    shutil.copytree(copy, anchored.trail_dir, symlinks=True)
    # Its store is newer than this log; that is not what is asked here.
    anchored.spawn()
    assert anchored.wait_for_exit() != 0
    assert "the object in the token" in anchored.said(), anchored.said()


def test_a_head_of_somebody_else_is_told_of(anchored):
    anchored.stop()
    own = head(anchored)
    size = own.split("\n")[1]
    forged = anchored.root / "forged"
    forged.write_text(own.replace(f"\n{size}\n", f"\n{int(size) + 1000}\n"))
    application = re.search(r"application:\s+'(.*)'", pkcs11(anchored, "-O", "--type", "data").decode()).group(1)
    pkcs11(anchored, "--delete-object", "--type", "data", "--label", LABEL)
    pkcs11(anchored, "--write-object", str(forged), "--type", "data", "--label", LABEL, "--application-label", application, "--private")
    anchored.start()
    (told,) = anchored.records("AuditTampering")
    assert "not signed by a key of this trail" in told["additionalEventData"]["details"]["what"]
    anchored.stop()
    assert head(anchored) == latest(anchored)


def test_it_can_be_off(make):
    instance = make(sections={"audit": {"checkpoint_seconds": 1, "anchor_in_token": False}}).init().start()
    until("a checkpoint", lambda: latest(instance))
    instance.stop()
    assert LABEL not in pkcs11(instance, "-O", "--type", "data").decode()


# -- RFC 3161 ---------------------------------------------------------------------------------------------------------------

TSA = """
[tsa]
default_tsa = one
[one]
serial = {dir}/serial
crypto_device = builtin
signer_cert = {dir}/tsa.pem
signer_key = {dir}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


@pytest.fixture
def authority(tmp_path):
    """An authority over HTTP; `answers` may be replaced by bytes that are sent whatever is asked."""
    made = openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=TSA", "-days", "30", "-keyout", tmp_path / "tsa.key", "-out",
                   tmp_path / "tsa.pem", "-addext", "extendedKeyUsage=critical,timeStamping")
    assert made.returncode == 0, made.stderr
    (tmp_path / "tsa.cnf").write_text(TSA.format(dir=tmp_path))
    (tmp_path / "serial").write_text("01\n")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            server.asked.append((self.path, self.headers["content-type"]))
            (tmp_path / "asked.tsq").write_bytes(self.rfile.read(int(self.headers["content-length"])))
            done = openssl("ts", "-reply", "-config", tmp_path / "tsa.cnf", "-queryfile", tmp_path / "asked.tsq", "-out", tmp_path / "a.tsr")
            assert done.returncode == 0, done.stderr
            body = server.answer or (tmp_path / "a.tsr").read_bytes()
            self.send_response(200)
            self.send_header("content-type", "application/timestamp-reply")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.answer, server.certificate = [], None, tmp_path / "tsa.pem"
    server.url = f"http://127.0.0.1:{server.server_port}/tsr?x=1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def stamps(instance):
    return sorted((instance.trail_dir / "anchors").glob("*.tsr"))


def test_a_stamp_a_day(make, authority):
    instance = make(sections={"audit": {"checkpoint_seconds": 1, "timestamp_url": authority.url}}).init().start()
    (stamp,) = until("a stamp", lambda: stamps(instance))
    data = instance.trail_dir / "checkpoints" / stamp.stem
    for what in (("-data", data), ("-queryfile", stamp.with_suffix(".tsq"))):
        verified = openssl("ts", "-verify", *what, "-in", stamp, "-CAfile", authority.certificate)
        assert verified.returncode == 0 and "Verification: OK" in verified.stdout + verified.stderr, verified.stderr
    assert authority.asked == [("/tsr?x=1", "application/timestamp-query")]
    # Not again on the same day.
    instance.stop()
    instance.start()
    instance.new_key()
    instance.stop()
    assert len(authority.asked) == 1 and stamps(instance) == [stamp]


def test_an_answer_to_something_else_is_not_kept(make, authority, tmp_path):
    (tmp_path / "other").write_text("other")
    openssl("ts", "-query", "-data", tmp_path / "other", "-sha256", "-cert", "-out", tmp_path / "other.tsq")
    openssl("ts", "-reply", "-config", tmp_path / "tsa.cnf", "-queryfile", tmp_path / "other.tsq", "-out", tmp_path / "other.tsr")
    authority.answer = (tmp_path / "other.tsr").read_bytes()
    instance = make(sections={"audit": {"checkpoint_seconds": 1, "timestamp_url": authority.url}}).init().start()
    until("it is told", lambda: "the stamp is on something else" in instance.said())
    assert stamps(instance) == []
