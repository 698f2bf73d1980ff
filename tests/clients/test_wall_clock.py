"""A wall clock that jumps a month destroys no key: not while the server runs, not over a restart, until a person says so.

The server runs under libfaketime (Debian's package `faketime`): its wall clock is moved by writing a file, its monotonic clock is
the machine's.
"""

import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge import binary, clean_env
from token_tool import key_id_hex

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "server"))

from instance import Instance, is_intent, until  # noqa: E402

DAY = 86_400
MONTH = 31 * DAY
# To the minute, rounded down, and a moment passes between two looks.
JUMPED = r"the clock jumped by 74[34] h \d+ min"
JUMPED_BACK = r"the clock jumped by -74[34] h \d+ min"
MOVED = r"deletions +wait: the clock moved by 74[34] h \d+ min since the service last trusted it"
# Each round of the sweeper takes a second here; what must not happen gets this long to happen.
ROUNDS = 2.5


def library():
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "libfaketime is not installed (apt-get install faketime)"
    return str(found[0])


class ClockedInstance(Instance):
    """An instance whose wall clock is `shift` seconds ahead of ours."""

    def __init__(self):
        super().__init__("clock", sections={"sweeper": {"interval_seconds": 1}, "metrics": {"address": "off"}})
        self.clock_file, self.shift, self.pids = self.root / "faketime", 0, []
        self.jump(0)

    def jump(self, seconds):
        self.shift += seconds
        new = self.root / "faketime.new"
        new.write_text(f"{self.shift:+d}\n")
        new.rename(self.clock_file)

    def environment(self):
        return clean_env(LD_PRELOAD=library(), FAKETIME_TIMESTAMP_FILE=str(self.clock_file), FAKETIME_NO_CACHE="1",
                         FAKETIME_DONT_FAKE_MONOTONIC="1")

    def spawn(self, *args, config=None):
        self.stderr_from = self.stderr_file.stat().st_size if self.stderr_file.exists() else 0
        with open(self.stderr_file, "ab") as err:
            self.process = subprocess.Popen([str(binary()), "--config", str(config or self.config), "serve", *args],
                                            stdin=subprocess.DEVNULL, stdout=err, stderr=err, env=self.environment(), cwd=self.root)
        self.pids.append(self.process.pid)
        return self.process

    def run_clocked(self, *args):
        """A command that does the server's work itself, by the server's clock."""
        child = subprocess.Popen([str(binary()), "--config", str(self.config), *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, env=self.environment(), cwd=self.root)
        self.pids.append(child.pid)
        said, _ = child.communicate(timeout=60)
        assert child.returncode == 0, said

    def ask(self, operation, params=None):
        """One call, signed at the server's time."""
        return self.raw().call(operation, params, age=-self.shift)

    def call(self, operation, params=None, **_):
        reply = self.ask(operation, params)
        assert reply.status == 200, f"{operation}: {reply.status} {reply.body[:500]!r}"
        return reply.json() if reply.body else {}

    def state_of(self, key):
        reply = self.ask("DescribeKey", {"KeyId": key})
        return reply.json()["KeyMetadata"]["KeyState"] if reply.status == 200 else reply.type

    def sweeper(self):
        return self.run("sweeper").stdout

    def token_ids(self):
        """CKA_IDs of the token, by pkcs11-tool."""
        done = subprocess.run(["pkcs11-tool", "--module", "/usr/lib/softhsm/libsofthsm2.so", "--token-label", self.label, "--login",
                               "--pin", "env:TOKEN_PIN", "-O"], capture_output=True, text=True, timeout=60,
                              env=clean_env(SOFTHSM2_CONF=str(self.softhsm_conf), TOKEN_PIN=self.pin))
        assert done.returncode == 0, done.stderr
        return [line.split(":")[1].strip() for line in done.stdout.splitlines() if line.strip().startswith("ID:")]

    def close(self):
        super().close()
        # A process that ends without exit handlers leaves what libfaketime shares with its children.
        for pid in self.pids:
            for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
                Path("/dev/shm", name).unlink(missing_ok=True)


class Doomed:
    """A signing key (two objects in the token) and an AES key, both pending deletion, and one that is not."""

    def __init__(self, server):
        self.server = server
        self.aes, self.kept = server.new_key(), server.new_key()
        self.pair = server.new_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
        self.keys = (self.aes, self.pair)
        self.blob = server.call("Encrypt", {"KeyId": self.aes, "Plaintext": "cA=="})["CiphertextBlob"]
        self.aliases = {key: f"alias/of-{key}" for key in (*self.keys, self.kept)}
        for key, name in self.aliases.items():
            server.call("CreateAlias", {"AliasName": name, "TargetKeyId": key})
        for key in self.keys:
            server.call("ScheduleKeyDeletion", {"KeyId": key, "PendingWindowInDays": 7})
        self.all_there()

    def all_there(self):
        assert [self.server.state_of(key) for key in self.keys] == ["PendingDeletion"] * 2
        ids = self.server.token_ids()
        assert [ids.count(key_id_hex(key)) for key in (self.aes, self.pair, self.kept)] == [1, 2, 1]

    def survive(self):
        time.sleep(ROUNDS)
        self.all_there()
        assert not self.server.records("DeleteKey"), "nobody tried"

    def all_gone(self):
        server = self.server
        until("both keys are destroyed", lambda: {server.state_of(key) for key in self.keys} == {"NotFoundException"})
        for key in self.keys:
            reply = server.ask("DescribeKey", {"KeyId": key})
            assert reply.text == f"Key '{server.key_arn(key)}' does not exist"
            name = self.aliases[key]
            gone = f"Alias {server.key_arn('').removesuffix('key/')}{name} is not found."
            assert server.ask("DescribeKey", {"KeyId": name}).text == gone
        assert server.ask("Decrypt", {"CiphertextBlob": self.blob}).json() == {"__type": "InvalidCiphertextException"}
        ids = server.token_ids()
        assert [ids.count(key_id_hex(key)) for key in (self.aes, self.pair, self.kept)] == [0, 0, 1]
        listed = server.call("ListAliases")["Aliases"]
        assert [a["AliasName"] for a in listed] == [self.aliases[self.kept]]
        server.call("Encrypt", {"KeyId": self.aliases[self.kept], "Plaintext": "cA=="})

        for key in self.keys:
            intent, outcome = [r for r in server.records("DeleteKey") if server.key_arn(key) in str(r["resources"])]
            assert is_intent(intent) and outcome["eventType"] == "AwsServiceEvent", outcome
            assert "errorCode" not in outcome and outcome["userIdentity"]["invokedBy"] == "AWS Internal"
        with sqlite3.connect(f"file:{server.database}?mode=ro", uri=True) as store:
            buried = {row[0] for row in store.execute("SELECT pk FROM tombstones")}
        assert buried == set(self.keys), "what was destroyed is remembered"
        assert "keys pending deletion  0" in server.sweeper()
        server.verify()


@pytest.fixture
def server():
    instance = ClockedInstance()
    try:
        yield instance.init().start()
    finally:
        said = instance.said(everything=True)
        instance.close()
        print(said[-4000:])


def confirmed(server, *records):
    assert [r["additionalEventData"]["details"]["ticket"] for r in records if not is_intent(r)] == ["T-8"]
    assert {r["userIdentity"]["type"] for r in records} == {"HsmBridgeOperator"}


def test_a_jump_while_serving(server):
    doomed = Doomed(server)
    assert "are carried out" in server.sweeper()
    server.jump(MONTH)
    until("the jump is seen", lambda: re.search(JUMPED, server.sweeper()))
    assert "no key is destroyed" in server.said()
    doomed.survive()
    # A restart makes the clock no better, however the process ended.
    server.stop()
    server.start()
    assert re.search(MOVED, server.sweeper())
    doomed.survive()
    server.kill()
    server.start()
    assert re.search(MOVED, server.sweeper())
    doomed.survive()
    assert "keys pending deletion  2" in server.sweeper()

    server.run("sweeper", "--confirm", "T-8")
    assert "are carried out" in server.sweeper()
    doomed.all_gone()
    confirmed(server, *server.records("SweeperConfirm"))


def test_a_jump_over_a_restart(server):
    doomed = Doomed(server)
    server.stop()
    server.jump(MONTH)
    server.start()
    assert re.search(MOVED, server.sweeper())
    doomed.survive()
    server.stop()
    server.start()
    doomed.survive()
    # Confirmed while nobody serves; the next start believes it.
    server.stop()
    server.run_clocked("sweeper", "--confirm", "T-8")
    server.start()
    assert "are carried out" in server.sweeper()
    doomed.all_gone()
    confirmed(server, *server.records("SweeperConfirm"))


def test_a_jump_back_and_forth(server):
    """Back a month, and right again: the second step is a jump like the first."""
    doomed = Doomed(server)
    server.jump(-MONTH)
    until("the jump is seen", lambda: re.search(JUMPED_BACK, server.sweeper()))
    server.jump(MONTH)
    until("the jump is seen", lambda: re.search(JUMPED, server.sweeper()))
    doomed.survive()
    # A deletion can still be cancelled while the sweeper waits.
    server.call("CancelKeyDeletion", {"KeyId": doomed.aes})
    assert server.state_of(doomed.aes) == "Disabled"
