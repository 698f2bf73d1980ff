"""The running process: signals, what the system lets others see of it, health and metrics."""

import datetime
import ipaddress
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bridge import binary, clean_env
from instance import ACCOUNT, PATIENCE, REGION, is_intent, until

NOBODY = 65534


# -- SIGTERM ---------------------------------------------------------------------------------------------------------------

def test_sigterm_lets_requests_in_flight_finish(serving):
    """Four RSA keys: they are made one after the other, so that the last is hardly done when the signal comes."""
    answers = []

    def create():
        reply = serving.raw().call("CreateKey", {"KeySpec": "RSA_3072", "KeyUsage": "SIGN_VERIFY"})
        answers.append((time.monotonic(), reply))

    threads = [threading.Thread(target=create, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    until("all have begun", lambda: len([r for r in serving.records("CreateKey") if is_intent(r)]) == 4)
    told = time.monotonic()
    serving.process.send_signal(signal.SIGTERM)
    until("nothing new is accepted", lambda: not accepts(serving), step=0.005)
    for thread in threads:
        thread.join(PATIENCE)
    assert serving.wait_for_exit() == 0
    assert [reply.status for _, reply in answers] == [200] * 4
    assert max(when for when, _ in answers) > told, "all were done before the signal: nothing was shown"
    serving.start()
    assert {reply.json()["KeyMetadata"]["KeyId"] for _, reply in answers} == {k["KeyId"] for k in serving.call("ListKeys")["Keys"]}
    assert serving.records("Stop"), "the end is in the log"
    assert serving.records("Start")[-1]["additionalEventData"]["details"]["uncleanStop"] is False


def accepts(instance):
    import socket
    host, _, port = instance.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        return True
    except ConnectionRefusedError:
        return False


def test_sigterm_and_sigint_end_an_idle_server(serving):
    serving.stop()
    serving.start()
    serving.process.send_signal(signal.SIGINT)
    assert serving.wait_for_exit() == 0
    assert not (serving.state / "operator.sock").exists()


# -- SIGHUP, SIGUSR1 -------------------------------------------------------------------------------------------------------

def certificate(directory, name):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .sign(key, hashes.SHA256()))
    (directory / "server.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    (directory / "server.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))


def served(instance):
    host, _, port = instance.address.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)), timeout=PATIENCE)
    (name,) = x509.load_pem_x509_certificate(pem.encode()).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return name.value


def test_sighup_reads_the_certificates_again_and_begins_a_segment(make):
    made = make()
    made.listener = f'certificate = "{made.root}/server.pem"\nkey = "{made.root}/server.key"'
    certificate(made.root, "first")
    made.init().start()
    kept = made.raw(scheme="https", ca_bundle=str(made.root / "server.pem"))
    assert kept.call("ListKeys").status == 200
    assert served(made) == "first"
    segments = len(made.segments())

    certificate(made.root, "second")
    assert served(made) == "first", "not before it is told"
    made.process.send_signal(signal.SIGHUP)
    until("the new certificate is served", lambda: served(made) == "second")
    assert kept.call("ListKeys").status == 200, "the connection that was open goes on"
    until("a new segment", lambda: len(made.segments()) == segments + 1)

    (made.root / "server.pem").write_text("no certificate\n")
    made.process.send_signal(signal.SIGHUP)
    until("it says so", lambda: "the old certificates stay" in made.said())
    assert served(made) == "second"
    made.stop()
    assert made.verify()["verdict"] == "OK"


def test_sigusr1_changes_the_log_level(serving):
    for level in ("debug", "trace", "info", "debug"):
        before = serving.said().count(f"log level is now {level}")
        serving.process.send_signal(signal.SIGUSR1)
        until(f"the level is {level}", lambda: serving.said().count(f"log level is now {level}") == before + 1)  # noqa: B023
    key = serving.new_key()
    serving.call("DisableKey", {"KeyId": key})
    assert serving.raw().call("Encrypt", {"KeyId": key, "Plaintext": "eA=="}).type == "DisabledException"
    until("there are debug lines", lambda: " DEBUG " in serving.said())


# -- what others may see of the process ------------------------------------------------------------------------------------

def test_no_core_dumps(serving):
    limits = Path(f"/proc/{serving.process.pid}/limits").read_text()
    assert re.search(r"^Max core file size\s+0\s+0\s", limits, re.MULTILINE), limits


def test_not_dumpable(make, root):
    """RULE proc(5): the files of a process that is not dumpable belong to root, whoever the process runs as."""
    made = make(reachable=True).init()
    shutil.copy(binary(), made.root / "hsm-bridge")
    for path in [made.root, *made.root.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)

    def owner(command):
        with open(made.stderr_file, "ab") as err:
            child = subprocess.Popen(command, user=NOBODY, group=NOBODY, extra_groups=[], env=clean_env(), cwd=made.root, stdout=err,
                                     stderr=err)
        try:
            if command[0] != "sleep":
                until("it serves", lambda: "serving address" in made.said() or child.poll() is not None)
            assert child.poll() is None, made.said()
            return os.stat(f"/proc/{child.pid}/mem").st_uid
        finally:
            child.kill()
            child.wait()

    assert owner(["sleep", "60"]) == NOBODY, "otherwise this shows nothing"
    assert owner([str(made.root / "hsm-bridge"), "--config", str(made.config), "serve"]) == 0


# -- health and metrics ----------------------------------------------------------------------------------------------------

def test_metrics_have_a_listener_of_their_own_and_name_nobody(serving):
    import http.client
    key = serving.new_key(Description="described")
    signer = serving.new_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    serving.call("CreateAlias", {"AliasName": "alias/labelled", "TargetKeyId": key})
    blob = serving.call("Encrypt", {"KeyId": "alias/labelled", "Plaintext": "eA=="})["CiphertextBlob"]
    serving.call("Decrypt", {"CiphertextBlob": blob})
    serving.call("Sign", {"KeyId": signer, "Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"})
    import json
    user = json.loads(serving.run("access-key", "create", "--user", "somebody", "--json").stdout)
    denied = serving.raw(access_key=user["accessKeyId"], secret_key=user["secretAccessKey"])
    assert denied.call("Encrypt", {"KeyId": key, "Plaintext": "eA=="}).type == "AccessDeniedException"
    for strange in ("TrentService.Nonsense", "alias/labelled", key):
        serving.raw().call(strange, {})
    serving.raw(access_key="AKIA" + "Q" * 16).call("ListKeys")
    serving.raw().call("DescribeKey", {"KeyId": "alias/absent"})

    status, text = serving.admin("/metrics")
    assert status == 200
    for label in re.findall(r'\w+="([^"]*)"', text):
        for secret in (key, signer, "alias/", "labelled", "arn:", ACCOUNT, REGION, "AKIA", "somebody", "described", "Nonsense", "127.0.0.1"):
            assert secret not in label, f"the label {label!r} holds {secret!r}"
    for line in ('operation="Encrypt",code="Success"', 'operation="Encrypt",code="AccessDeniedException"', 'operation="Sign",code="Success"'):
        assert line in text, f"{line} is not in\n{text[:3000]}"
    # Every line is a comment or `name{labels} number`.
    for line in text.splitlines():
        assert re.fullmatch(r'#.*|[a-zA-Z_:][\w:]*(\{(\w+="[^"]*",?)*\})? [-+.\deInfNa]+', line), line

    host, _, port = serving.address.rpartition(":")
    link = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
    for path, expected in (("/metrics", (400, 403, 404, 405)), ("/healthz", (200,)), ("/readyz", (200,))):
        link.request("GET", path)
        answer = link.getresponse()
        body = answer.read()
        assert answer.status in expected, (path, answer.status, body)
        assert b"hsm_bridge_" not in body


def test_the_administrative_listener(serving):
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/", 404), ("/readyz/", 404)):
        assert serving.admin(path)[0] == status, path


def test_metrics_can_be_off(make):
    made = make(sections={"metrics": {"address": "off"}}).init().start()
    assert made.metrics_address is None
    assert made.call("ListKeys")["Keys"] == []


# -- what never becomes a request --------------------------------------------------------------------------------------------

def test_what_the_transport_refuses_is_in_the_log_by_count(serving):
    """Bad HTTP, a body that is too large, and a scan of the port: one record for each kind and source, at the latest at the stop."""
    host, port = serving.address.rsplit(":", 1)

    def send(data):
        with socket.create_connection((host, int(port)), PATIENCE) as stream:
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
            return stream.recv(4096)

    for _ in range(3):
        assert b" 400 " in send(b"this is no HTTP\r\n\r\n")
    assert b" 400 " in send(b"POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n")
    for _ in range(2):
        assert b" 413 " in send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
    serving.stop()
    counted = {r["errorCode"]: r["additionalEventData"]["count"] for r in serving.journal() if r["userIdentity"].get("type") == "Unknown"}
    assert counted == {"MalformedHttpRequestException": 4, "RequestEntityTooLargeException": 2}
    assert serving.verify()["verdict"] == "OK"
