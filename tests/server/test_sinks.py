"""Copies of the log for other systems: what arrives, in what form, and that nothing is missing after failures of either side."""

import datetime
import hashlib
import hmac
import ipaddress
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from instance import PATIENCE, until
from streamclient import HttpReceiver, SyslogReceiver, check_chain, metric, seqs

SECRET = b"a secret that both sides know\n"


def sink(**keys):
    """One `[[audit_sink]]` for an instance's configuration."""
    return "\n[[audit_sink]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def lines(instance):
    return [line for path in instance.segments() for line in path.read_bytes().split(b"\n")[:-1]]


def work(instance, count=5):
    for _ in range(count):
        instance.call("GenerateRandom", {"NumberOfBytes": 8})


def deduplicated(found):
    """At least once: repetitions may be, in blocks that begin anew; each is the same bytes as before."""
    by_seq = {}
    for line in found:
        (seq,) = seqs([line])
        assert by_seq.setdefault(seq, line) == line
    return [by_seq[seq] for seq in sorted(by_seq)]


class Authority:
    """Certificates for the tests' receivers, as PEM files."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = self._make(self.name, self.key.public_key(), ca=True)
        (folder / "ca.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        for name in ["server", "client"]:
            key = ec.generate_private_key(ec.SECP256R1())
            made = self._make(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
            (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
            (folder / f"{name}.key").write_bytes(key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))

    def _make(self, subject, public, ca=False):
        now = datetime.datetime.now(datetime.timezone.utc)
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(public)
                .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
                .not_valid_after(now + datetime.timedelta(days=2)).add_extension(x509.BasicConstraints(ca, None), True)
                .add_extension(names, False).sign(self.key, hashes.SHA256()))

    def file(self, name):
        return str(self.folder / name)

    def server_context(self, ask_client=False):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file("server.pem"), self.file("server.key"))
        if ask_client:
            context.load_verify_locations(self.file("ca.pem"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def caught_up(instance, name):
    until("the sink has caught up", lambda: metric(instance, "hsm_bridge_audit_sink_lag", sink=name) == 0, 90, 0.2)


# -- syslog ----------------------------------------------------------------------------------------------------------------

HEADER = re.compile(
    rb'<(\d+)>1 (\S+Z) (\S+) hsm-bridge (\d+) (\S+) \[hsm@32473 seq="(\d+)" chain="hsm-bridge" eventId="([^"]+)"'
    rb'(?: key="([^"]+)")? outcome="(success|failure|intent)"\]\[timeQuality tzKnown="1"\] \xef\xbb\xbf')


def test_syslog_over_tcp(make):
    receiver = SyslogReceiver()
    serving = make(listener=sink(name="siem", kind="syslog", address=f"127.0.0.1:{receiver.port}", tls=False)).init().start()
    key = serving.new_key()
    serving.raw().call("Encrypt", {"KeyId": "alias/none", "Plaintext": "AAAA"})
    until("all records are there", lambda: set(lines(serving)) <= set(receiver.lines()))
    assert receiver.lines() == lines(serving), "the journal from its first record on, once, in its order"
    for message in list(receiver.messages):
        match = HEADER.match(message)
        assert match, message[:300]
        record = json.loads(message[match.end():])
        place = record["additionalEventData"]["audit"]
        assert (int(match[6]), match[7].decode(), match[2].decode()) == (place["seq"], record["eventID"], place["time"])
        assert match[1] == (b"108" if "errorCode" in record else b"110")
    assert any(m[8] == serving.key_arn(key).encode() for m in map(HEADER.match, receiver.messages))
    # Not acknowledged before it has arrived for certain; then up to the last.
    caught_up(serving, "siem")
    assert json.loads((serving.state / "sinks" / "siem.cursor").read_text())["nextSeq"] == len(lines(serving))
    until("a heartbeat", lambda: any(b'heartbeat="1"' in message for message in list(receiver.messages)))
    beat = json.loads(receiver.messages[-1].split(b"\xef\xbb\xbf", 1)[1])["hsmBridgeHeartbeat"]
    assert beat["nextSeq"] == beat["durableRecords"]
    receiver.close()


def test_syslog_cuts_what_is_too_long_and_leaves_intents_out(make):
    receiver = SyslogReceiver()
    serving = make(listener=sink(name="siem", kind="syslog", address=f"127.0.0.1:{receiver.port}", tls=False, intents=False,
                                 max_message_bytes=2048)).init().start()
    serving.call("CreateKey", {"Description": "x" * 3000})
    want = [seq for line, seq in zip(lines(serving), seqs(lines(serving))) if json.loads(line)["eventType"] != "HsmBridgeIntent"]
    until("all records are there", lambda: len(receiver.lines()) >= len(want))
    assert seqs(receiver.lines()) == want
    assert max(map(len, receiver.messages)) <= 2048
    cut = [json.loads(line) for line in receiver.lines() if b'"truncated":true' in line]
    whole = {json.loads(line)["eventID"]: line for line in lines(serving)}
    assert any(record["eventName"] == "CreateKey" for record in cut)
    for record in cut:
        line = whole[record["eventID"]]
        assert (record["bytes"], record["leafSha256"]) == (len(line), hashlib.sha256(b"\0" + line).hexdigest())
    receiver.close()


def test_syslog_over_tls_with_certificates_on_both_sides(make, tmp_path):
    authority = Authority(tmp_path / "ca")
    other = Authority(tmp_path / "other")
    receiver = SyslogReceiver(tls=authority.server_context(ask_client=True))
    liar = SyslogReceiver(tls=other.server_context())
    own = {"certificate": authority.file("client.pem"), "key": authority.file("client.key")}
    serving = make(listener=sink(name="siem", kind="syslog", address=f"localhost:{receiver.port}", ca=authority.file("ca.pem"), **own)
                   + sink(name="liar", kind="syslog", address=f"localhost:{liar.port}", ca=authority.file("ca.pem"))).init().start()
    work(serving)
    until("all records are there", lambda: set(lines(serving)) <= set(receiver.lines()))
    check_chain(receiver.lines())
    assert dict(part[0] for part in receiver.peers[0]["subject"])["commonName"] == "client"
    # Another authority's receiver gets nothing, and the service serves.
    until("it has tried", lambda: (metric(serving, "hsm_bridge_audit_sink_failures_total", sink="liar") or 0) > 1)
    assert liar.messages == [] and metric(serving, "hsm_bridge_audit_sink_failing", sink="liar") == 1
    receiver.close(), liar.close()


def test_syslog_survives_lost_connections_and_kills(make):
    receiver = SyslogReceiver()
    port = receiver.port
    serving = make(listener=sink(name="siem", kind="syslog", address=f"127.0.0.1:{port}", tls=False)).init().start()
    got = []
    for round in range(3):
        work(serving, 10)
        until("something has come", lambda: len(receiver.lines()) > 5)
        if round == 1:
            got += receiver.lines()
            receiver.close()
            work(serving, 5)
            serving.kill()
            receiver = SyslogReceiver(port)
            serving.start()
        else:
            receiver.drop()
        work(serving, 5)
    until("all records are there", lambda: {*lines(serving)} <= {*got, *receiver.lines()})
    assert deduplicated(got + receiver.lines()) == lines(serving)
    receiver.close()


def test_a_hung_sink_touches_nothing(make):
    """One that takes connections and no bytes, one that answers nothing, one that is not there."""
    hung = socket.create_server(("127.0.0.1", 0), backlog=8)
    silent = socket.create_server(("127.0.0.1", 0), backlog=8)
    nobody = socket.create_server(("127.0.0.1", 0))
    address = lambda server: f"127.0.0.1:{server.getsockname()[1]}"  # noqa: E731
    gone = address(nobody)
    nobody.close()
    made = make(listener=sink(name="hung", kind="syslog", address=address(hung), tls=False)
                + sink(name="silent", kind="otlp", url=f"http://{address(silent)}/v1/logs")
                + sink(name="gone", kind="webhook", url=f"http://{gone}/", secret_file="/nowhere")).init()
    serving = made.start()
    key = serving.new_key()
    for _ in range(100):
        serving.call("Encrypt", {"KeyId": key, "Plaintext": "AAAA"})
    assert metric(serving, "hsm_bridge_audit_sink_acknowledged", sink="silent") == 0
    until("failures are counted", lambda: (metric(serving, "hsm_bridge_audit_sink_failures_total", sink="gone") or 0) > 1)
    began = time.monotonic()
    serving.stop()
    assert time.monotonic() - began < 20
    hung.close(), silent.close()


# -- webhook ---------------------------------------------------------------------------------------------------------------

def signature(headers, body):
    key = SECRET.strip()
    return "v1=" + hmac.new(key, headers["x-hsm-bridge-timestamp"].encode() + b"." + body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_a_webhook_that_fails_hangs_and_forgets(make, tmp_path, form):
    """Batches that were not acknowledged come again, also those whose acknowledgement was lost; none is missing."""
    (tmp_path / "secret").write_bytes(SECRET)
    count = iter(range(10**6))

    def answer(receiver, path, headers, body):
        turn = next(count)
        if turn < 3:
            return 503
        if turn == 4:
            # Taken, and the sender does not learn of it.
            raise ConnectionAbortedError
        return 204 if turn % 2 else 200

    receiver = HttpReceiver(answer)
    serving = make(listener=sink(name="hook", kind="webhook", url=f"http://127.0.0.1:{receiver.port}/hook?token=canary", format=form,
                                 secret_file=str(tmp_path / "secret"), batch_records=3)).init().start()
    work(serving, 8)
    caught_up(serving, "hook")
    records = []
    for headers, body in receiver.taken():
        assert headers["x-hsm-bridge-signature"] == signature(headers, body)
        assert abs(int(headers["x-hsm-bridge-timestamp"]) - time.time()) < 300
        if headers["x-hsm-bridge-kind"] == "heartbeat":
            continue
        batch = [json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() for record in json.loads(body)] if form == "json" \
            else body.split(b"\n")[:-1]
        assert 1 <= len(batch) <= 3
        assert (int(headers["x-hsm-bridge-first-seq"]), int(headers["x-hsm-bridge-last-seq"])) == (seqs(batch)[0], seqs(batch)[-1])
        records += batch
    assert deduplicated(records) == lines(serving)[:len(deduplicated(records))]
    assert seqs(deduplicated(records)) == list(range(len(lines(serving))))
    assert "canary" not in serving.said(), "what stands in a URL's query may be secret"
    receiver.close()


def test_a_webhook_goes_on_after_a_kill(make, tmp_path):
    (tmp_path / "secret").write_bytes(SECRET)
    receiver = HttpReceiver(lambda *_: 200)
    serving = make(listener=sink(name="hook", kind="webhook", url=f"http://127.0.0.1:{receiver.port}/", batch_records=2,
                                 secret_file=str(tmp_path / "secret"))).init().start()
    for _ in range(3):
        work(serving, 5)
        serving.kill()
        serving.start()
    caught_up(serving, "hook")
    records = [line for headers, body in receiver.taken() if headers["x-hsm-bridge-kind"] == "records" for line in body.split(b"\n")[:-1]]
    assert deduplicated(records) == lines(serving)
    repeated = len(records) - len(deduplicated(records))
    assert repeated <= 3 * 2, f"{repeated} repetitions: at most one batch for each kill"
    receiver.close()


# -- OTLP ------------------------------------------------------------------------------------------------------------------

def test_otlp(make, tmp_path):
    (tmp_path / "authorization").write_text("Bearer canary-token\n")
    partial = iter([True])

    def answer(receiver, path, headers, body):
        if next(partial, False):
            return 200, json.dumps({"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "no"}}).encode()
        return 200, b"{}"

    receiver = HttpReceiver(answer)
    serving = make(listener=sink(name="otel", kind="otlp", url=f"http://127.0.0.1:{receiver.port}/v1/logs",
                                 authorization_file=str(tmp_path / "authorization"))).init().start()
    key = serving.new_key()
    serving.raw().call("Encrypt", {"KeyId": "alias/none", "Plaintext": "AAAA"})
    caught_up(serving, "otel")
    logged = []
    for status, path, headers, body in receiver.got:
        assert (path, headers["content-type"], headers["authorization"]) == ("/v1/logs", "application/json", "Bearer canary-token")
        (resource,) = json.loads(body)["resourceLogs"]
        named = {a["key"]: a["value"] for a in resource["resource"]["attributes"]}
        assert named["service.name"] == {"stringValue": "hsm-bridge"}
        logged += [record for scope in resource["scopeLogs"] for record in scope["logRecords"] if record["eventName"] != "Heartbeat"]
    bodies = [record["body"]["stringValue"].encode() for record in logged]
    assert deduplicated(bodies) == lines(serving)
    for record, body in zip(logged, map(json.loads, bodies)):
        attributes = {a["key"]: next(iter(a["value"].values())) for a in record["attributes"]}
        assert attributes["hsm_bridge.audit.seq"] == str(body["additionalEventData"]["audit"]["seq"])
        assert (record["severityNumber"], record["severityText"]) == ((13, "WARN") if "errorCode" in body else (9, "INFO"))
        assert record["timeUnixNano"].isdigit() and len(record["timeUnixNano"]) == 19
    arns = [a["value"]["stringValue"] for record in logged for a in record["attributes"] if a["key"] == "aws.kms.key.arn"]
    assert serving.key_arn(key) in arns
    assert "rejects records" in serving.said() and "canary-token" not in serving.said()
    receiver.close()


# -- rsyslog ---------------------------------------------------------------------------------------------------------------

def rsyslog(folder, port, authority=None):
    """Debian's rsyslog with the shipped template, octet counting and, with an authority, TLS."""
    text = (Path(__file__).resolve().parents[2] / "hsm-config" / "shipping" / "rsyslog.conf").read_text()
    where = "/etc/rsyslog.d/hsm-bridge"
    values = {'"6514"': f'"{port}"', "/var/log/hsm-bridge/records.jsonl": str(folder / "records.jsonl")}
    if authority:
        values |= {f"{where}/{name}": authority.file(name) for name in ["ca.pem", "server.pem", "server.key"]}
    for shipped, ours in values.items():
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, ours)
    if not authority:
        # Plain TCP: what the comments say to leave out.
        text = re.sub(r"(?s)# TLS begins.*?# TLS ends\n", "", text)
    (folder / "rsyslog.conf").write_text(f'global(workDirectory="{folder}")\n' + text)
    return subprocess.Popen(["rsyslogd", "-n", "-i", str(folder / "pid"), "-f", str(folder / "rsyslog.conf")],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("tls", [False, True])
def test_rsyslog_of_debian_receives_every_record(make, tmp_path, tls):
    """With a restart of rsyslog and a kill of the service in between."""
    assert shutil.which("rsyslogd"), "install rsyslog and rsyslog-gnutls"
    authority = Authority(tmp_path / "ca")
    folder = tmp_path / "rsyslog"
    folder.mkdir()
    port = free_port()
    process = rsyslog(folder, port, authority if tls else None)
    try:
        more = {"ca": authority.file("ca.pem")} if tls else {"tls": False}
        serving = make(listener=sink(name="rsyslog", kind="syslog", address=f"localhost:{port}", max_message_bytes=65536, **more)).init().start()
        out = folder / "records.jsonl"
        got = lambda: [line for line in (out.read_bytes() if out.exists() else b"").split(b"\n")[:-1] if b"hsmBridgeHeartbeat" not in line]  # noqa: E731
        for round in range(3):
            work(serving, 10)
            until("they are there", lambda: set(lines(serving)) <= set(got()), 90, 0.2)
            if round == 0:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)
                work(serving, 5)
                process = rsyslog(folder, port, authority if tls else None)
            if round == 1:
                serving.kill()
                serving.start()
        found = deduplicated(got())
        assert found == lines(serving)
        check_chain(found)
    finally:
        process.kill()
        process.wait(PATIENCE)
