"""Stopping, killing, starting again: what was acknowledged stays."""

import os
import re
import signal
import stat
import subprocess
import threading
import time

import pytest

import vocabulary
from bridge import STOP_TIMEOUT, binary, clean_env, parse_exports
from checks import ABSENT, members, refused
from lookback import all_in_journal, audit_is_clean, silent

EXPORTED = """
AWS_ENDPOINT_URL AWS_ENDPOINT_URL_KMS AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION AWS_DEFAULT_REGION HSM_BRIDGE_ACCOUNT_ID
HSM_BRIDGE_AUDIT_DIR SOFTHSM2_CONF HSM_BRIDGE_PKCS11_MODULE HSM_BRIDGE_TOKEN_LABEL HSM_BRIDGE_PIN_FILE HSM_BRIDGE_CONFIG
""".split()
MESSAGE = b"before and after"


class Memory:
    """Things made before a restart, and the proof that they work after it."""

    def __init__(self, bridge):
        kms = bridge.kms
        self.metadata, self.signatures, self.macs = {}, {}, {}
        for spec in ("SYMMETRIC_DEFAULT", "HMAC_256", "ECC_NIST_P256", "RSA_2048"):
            extra = {} if spec == "SYMMETRIC_DEFAULT" else {"KeyUsage": vocabulary.usage(spec)}
            self.metadata[spec] = kms.create_key(KeySpec=spec, Description=f"kept {spec}", Tags=[{"TagKey": "k", "TagValue": spec}],
                                                 **extra)["KeyMetadata"]
        self.key = self.metadata["SYMMETRIC_DEFAULT"]["KeyId"]
        self.plaintext = bridge.canary()
        self.blob = kms.encrypt(KeyId=self.key, Plaintext=self.plaintext, EncryptionContext={"a": "b"})["CiphertextBlob"]
        self.alias = bridge.new_alias(self.key, "alias/kept")
        self.ec, self.mac_key = self.metadata["ECC_NIST_P256"]["KeyId"], self.metadata["HMAC_256"]["KeyId"]
        self.signature = kms.sign(KeyId=self.ec, Message=MESSAGE, SigningAlgorithm="ECDSA_SHA_256")["Signature"]
        self.mac = kms.generate_mac(KeyId=self.mac_key, Message=MESSAGE, MacAlgorithm="HMAC_SHA_256")["Mac"]
        self.disabled = bridge.new_key()
        kms.disable_key(KeyId=self.disabled)
        self.pending = bridge.new_key()
        kms.schedule_key_deletion(KeyId=self.pending, PendingWindowInDays=9)
        self.pending_metadata = kms.describe_key(KeyId=self.pending)["KeyMetadata"]

    def check(self, bridge):
        kms = bridge.kms
        for spec, metadata in self.metadata.items():
            assert kms.describe_key(KeyId=metadata["KeyId"])["KeyMetadata"] == metadata
            assert kms.list_resource_tags(KeyId=metadata["KeyId"])["Tags"] == [{"TagKey": "k", "TagValue": spec}]
        assert kms.decrypt(CiphertextBlob=self.blob, EncryptionContext={"a": "b"}, KeyId=self.alias)["Plaintext"] == self.plaintext
        assert kms.verify(KeyId=self.ec, Message=MESSAGE, Signature=self.signature, SigningAlgorithm="ECDSA_SHA_256")
        assert kms.verify_mac(KeyId=self.mac_key, Message=MESSAGE, Mac=self.mac, MacAlgorithm="HMAC_SHA_256")
        assert kms.sign(KeyId=self.metadata["RSA_2048"]["KeyId"], Message=MESSAGE, SigningAlgorithm="RSASSA_PSS_SHA_256")
        with refused("DisabledException"):
            kms.encrypt(KeyId=self.disabled, Plaintext=b"p")
        assert kms.describe_key(KeyId=self.pending)["KeyMetadata"] == self.pending_metadata


def test_exports(bridge):
    assert set(EXPORTED) <= set(bridge.env) and "AWS_CA_BUNDLE" not in bridge.env
    assert stat.S_IMODE(os.stat(bridge.env_file).st_mode) == 0o600
    assert bridge.env["AWS_REGION"] == bridge.env["AWS_DEFAULT_REGION"]
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*/?", bridge.env["AWS_ENDPOINT_URL"])
    for name in ("HSM_BRIDGE_CONFIG", "HSM_BRIDGE_PIN_FILE", "SOFTHSM2_CONF", "HSM_BRIDGE_AUDIT_DIR"):
        assert os.path.exists(bridge.env[name]), name
    assert stat.S_IMODE(os.stat(bridge.env["HSM_BRIDGE_PIN_FILE"]).st_mode) & 0o077 == 0
    assert 7 <= len(bridge.pin) <= 32
    deadline = time.monotonic() + 5
    while set(parse_exports(bridge.stdout_file.read_text())) != set(bridge.env) and time.monotonic() < deadline:
        time.sleep(0.05)
    printed = bridge.stdout_file.read_text()
    assert parse_exports(printed) == bridge.env, "printed as written"
    assert "not for production" in (printed + bridge.stderr_file.read_text()).lower()


def test_exports_with_tls(bridge_tls):
    assert set(EXPORTED) | {"AWS_CA_BUNDLE"} <= set(bridge_tls.env)
    assert bridge_tls.endpoint.startswith("https://")


def test_restart_keeps_everything(own_bridge):
    memory, before = Memory(own_bridge), dict(own_bridge.env)
    own_bridge.restart()
    changed = {k for k in before if before[k] != own_bridge.env[k]}
    assert changed <= {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"}, "the same credentials, the same places"
    memory.check(own_bridge)
    audit_is_clean(own_bridge)
    all_in_journal(own_bridge)
    silent(own_bridge)


def test_kill_keeps_what_was_acknowledged(own_bridge):
    memory, made, stop = Memory(own_bridge), [], threading.Event()

    def worker():
        while not stop.is_set():
            try:
                key = own_bridge.new_key()
                made.append((key, own_bridge.kms.encrypt(KeyId=key, Plaintext=b"last words")["CiphertextBlob"]))
            except Exception:  # noqa: BLE001  the server is killed under it
                return

    workers = [threading.Thread(target=worker, daemon=True) for _ in range(4)]
    for thread in workers:
        thread.start()
    time.sleep(1.0)
    own_bridge.kill()
    stop.set()
    for thread in workers:
        thread.join(30)
    assert made
    own_bridge.start()
    memory.check(own_bridge)
    for key, blob in made:
        assert own_bridge.kms.decrypt(CiphertextBlob=blob, KeyId=key)["Plaintext"] == b"last words"
    all_in_journal(own_bridge)
    audit_is_clean(own_bridge)
    own_bridge.restart()
    memory.check(own_bridge)
    audit_is_clean(own_bridge)


def test_sigterm_drains(own_bridge):
    """A request that was begun is answered; then the process goes, with 0."""
    answers, kms = [], own_bridge.kms

    def slow():
        answers.append(kms.create_key(KeySpec="RSA_4096", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"])

    thread = threading.Thread(target=slow, daemon=True)
    thread.start()
    # Begun: its intent is in the log.
    deadline = time.monotonic() + 20
    while not any(b'"CreateKey"' in line for line in own_bridge.journal_lines()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert own_bridge.stop() == 0
    thread.join(STOP_TIMEOUT)
    assert answers, "the request was answered"
    own_bridge.start()
    assert own_bridge.kms.describe_key(KeyId=answers[0])["KeyMetadata"]["KeySpec"] == "RSA_4096"
    audit_is_clean(own_bridge)


def test_sigterm_with_idle_connections(own_bridge):
    raw = own_bridge.raw()
    assert raw.call("GenerateRandom", {"NumberOfBytes": 8}).status == 200
    start = time.monotonic()
    assert own_bridge.stop() == 0
    assert time.monotonic() - start < 15, "an idle connection does not hold up a stop"


def test_one_server_to_a_directory(own_bridge):
    """The second exits at once, before it logs in, and names the process that holds the directory."""
    for command, env in ((own_bridge.command(), clean_env()),
                         ([str(binary()), "serve"], own_bridge.tool_env())):
        start = time.monotonic()
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, cwd=own_bridge.root)
        assert done.returncode not in (0, None) and time.monotonic() - start < 10
        assert re.search(rf"\b{own_bridge.process.pid}\b", done.stderr), done.stderr
        assert "panicked" not in done.stderr
    assert own_bridge.kms.generate_random(NumberOfBytes=8), "the first is not disturbed"
    assert parse_exports(own_bridge.env_file.read_text()) == own_bridge.env, "nor is its file"


def test_directories_that_others_can_read_are_refused(tmp_path):
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o755)
    done = subprocess.run([str(binary()), "dev", "--dir", str(place), "--listen", "127.0.0.1:0", "--env-file", str(tmp_path / "env")],
                          env=clean_env(), capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and str(place) in done.stderr
    assert not (tmp_path / "env").exists() and list(place.iterdir()) == []


def test_backup_and_restore_while_running(own_bridge):
    memory = Memory(own_bridge)
    copy = own_bridge.root / "backup"
    own_bridge.run("store", "backup", copy)
    late = own_bridge.new_key(Description="after the backup")
    late_blob = own_bridge.kms.encrypt(KeyId=late, Plaintext=b"late")["CiphertextBlob"]
    own_bridge.run("store", "restore", copy, "--ticket", "T-1")
    memory.check(own_bridge)
    with refused("NotFoundException", f"Key '{own_bridge.key_arn(late)}' does not exist"):
        own_bridge.kms.describe_key(KeyId=late)
    # A key that is not known looks like a changed header.
    with refused("InvalidCiphertextException", ABSENT):
        own_bridge.kms.decrypt(CiphertextBlob=late_blob)
    assert late not in {k["KeyId"] for k in own_bridge.kms.list_keys(Limit=1000)["Keys"]}
    fresh = own_bridge.new_key()
    assert own_bridge.kms.encrypt(KeyId=fresh, Plaintext=b"p")
    audit_is_clean(own_bridge)
    own_bridge.restart()
    memory.check(own_bridge)
    assert own_bridge.kms.describe_key(KeyId=fresh)
    audit_is_clean(own_bridge)
    all_in_journal(own_bridge)


def test_audit_tail(bridge):
    name = bridge.new_alias(bridge.key(), "alias/tail")
    out = bridge.run("audit", "tail").stdout
    # The last ten records, one line each: the intent and the outcome name alias and key.
    made = [line for line in out.splitlines() if " CreateAlias " in line and bridge.alias_arn(name) in line]
    assert len(made) == 2 and all(bridge.key_arn(bridge.key()) in line for line in made), out
    assert len(out.splitlines()) == 10
    follow = subprocess.Popen([str(binary()), "audit", "tail", "-f"], env=bridge.tool_env(), stdout=subprocess.PIPE, text=True)
    try:
        found = threading.Event()
        marker = bridge.new_alias(bridge.key(), "alias/followed")
        reader = threading.Thread(target=lambda: [found.set() for line in follow.stdout if marker in line], daemon=True)
        reader.start()
        assert found.wait(20), "a line that was written while we followed"
    finally:
        follow.send_signal(signal.SIGTERM)
        follow.wait(10)
        follow.kill()


def test_other_commands_find_the_instance(bridge):
    key = bridge.key()
    assert key in bridge.run("key", "list").stdout
    assert key in bridge.run("key", "show", key).stdout
    bridge.run("doctor")
    blob = bridge.root / "blob"
    blob.write_bytes(bridge.kms.encrypt(KeyId=key, Plaintext=b"p")["CiphertextBlob"])
    assert key in bridge.run("ciphertext", "inspect", blob).stdout
    assert members(bridge.kms.generate_random(NumberOfBytes=8))
