"""An instance made by `init` and run by `serve`, as a child process: token and store in memory, the journal where a test wants it.

Knows the program's command line and its configuration file, nothing of its code.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients"))

from bridge import binary, clean_env  # noqa: E402
from kmsclient import RawClient  # noqa: E402
from pin_marks import serial_of, wrong_pins  # noqa: E402

# Bounds, not measurements: a slow machine may take its time, a hang may not.
START = 180
STOP = 60
COMMAND = 180
PATIENCE = 60

MODULE = os.environ.get("HSM_BRIDGE_PKCS11_MODULE", "/usr/lib/softhsm/libsofthsm2.so")
# `process` or `in-process`, where the same tests are to run in the other mode.
ISOLATION = os.environ.get("HSM_BRIDGE_TEST_ISOLATION")
ACCOUNT, REGION, TRAIL = "111122223333", "eu-central-1", "hsm-bridge"


def memory_dir(name, reachable=False):
    """`reachable`: below directories that other users can pass through."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    base = None if reachable else os.environ.get("HSM_BRIDGE_TEST_TMP")
    # A short name: a socket's path has at most 107 characters.
    return Path(tempfile.mkdtemp(prefix=f"hb-{name}-", dir=base or memory))


def disk_dir(name):
    """A directory on a disk, for journals: what is acknowledged there has been through a real fsync."""
    base = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).resolve().parents[2] / "target")) / "soak"
    base.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))


def until(what, check, timeout=PATIENCE, step=0.02):
    """Waits until `check` gives something true, and gives it."""
    deadline = time.monotonic() + timeout
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(step)


class Instance:
    def __init__(self, name="server", audit_dir=None, sections=None, listener="", pin="0123456789", label="bridge",
                 reachable=False):
        self.root = memory_dir(name, reachable)
        self.state = self.root / "state"
        self.audit_root = Path(audit_dir) if audit_dir else self.root / "audit"
        self.config = self.root / "bridge.toml"
        self.pin_file = self.root / "pin"
        self.pin_marks = self.root / "pin-marks"
        self.softhsm_conf = self.root / "softhsm2.conf"
        self.stderr_file = self.root / "stderr"
        self.pin, self.label = pin, label
        # Section name → lines of that section, beside what every instance has.
        self.sections = {key: dict(value) for key, value in (sections or {}).items()}
        self.listener = listener
        self.process = self.address = self.metrics_address = None
        self.access_key = self.secret_key = None
        # False: the server ignores the signals that this process ignores.
        self.restore_signals = True
        # For the server's process only.
        self.server_environment = {}
        # True: it leads a process group, as in a terminal of its own.
        self.own_group = False
        self.program = binary()

    # -- what it is made of -------------------------------------------------------------------------------------------

    def make_token(self):
        tokens = self.root / "tokens"
        tokens.mkdir(mode=0o700)
        self.softhsm_conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.write_pin(self.pin)
        subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", self.label, "--pin", self.pin, "--so-pin", "9876543210"],
                       env=clean_env(SOFTHSM2_CONF=str(self.softhsm_conf)), check=True, capture_output=True, timeout=COMMAND)
        return self

    def write_pin(self, pin):
        self.pin_file.unlink(missing_ok=True)
        self.pin_file.write_text(pin + "\n")
        self.pin_file.chmod(0o600)

    def wrong_pins(self, count=1):
        """PINs that no mark confuses with the right one or with each other."""
        return wrong_pins(self.pin_marks, serial_of(self.softhsm_conf, self.label), self.pin, count)

    @property
    def token_dir(self):
        (found,) = (p for p in (self.root / "tokens").iterdir() if p.is_dir())
        return found

    @property
    def database(self):
        return self.state / "store" / "store.sqlite"

    @property
    def trail_dir(self):
        return self.audit_root / TRAIL

    def write_config(self, path=None, **changes):
        """`changes`: section → keys, over those of this instance."""
        sections = {
            "server": {"state_dir": str(self.state), "account": ACCOUNT, "region": REGION},
            "metrics": {"address": "127.0.0.1:0"},
            "token": {"module": MODULE, "label": self.label, "pin_file": str(self.pin_file), "pin_marks": str(self.pin_marks),
                      "environment": {"SOFTHSM2_CONF": str(self.softhsm_conf)}},
            "audit": {"dir": str(self.audit_root), "trail": TRAIL, "deadline_ms": 30000},
        }
        if ISOLATION:
            sections["token"]["isolation"] = ISOLATION
        for more in (self.sections, changes):
            for name, keys in more.items():
                sections.setdefault(name, {}).update(keys)
        text = f'[[listener]]\naddress = "127.0.0.1:0"\n{self.listener}\n'
        for name, keys in sections.items():
            text += f"\n[{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in keys.items())
        path = path or self.config
        path.write_text(text)
        path.chmod(0o600)
        return path

    def init(self):
        """Token, configuration, instance."""
        self.make_token()
        self.write_config()
        made = json.loads(self.run("init", "--json").stdout)
        self.access_key, self.secret_key = made["accessKeyId"], made["secretAccessKey"]
        return self

    # -- life ---------------------------------------------------------------------------------------------------------

    def spawn(self, *args, config=None):
        """`serve`, without waiting for anything."""
        self.stderr_from = self.stderr_file.stat().st_size if self.stderr_file.exists() else 0
        self.address = self.metrics_address = None
        with open(self.stderr_file, "ab") as err:
            self.process = subprocess.Popen([str(self.program), "--config", str(config or self.config), "serve", *args],
                                            stdin=subprocess.DEVNULL, stdout=err, stderr=err, env=clean_env(**self.server_environment), cwd=self.root,
                                            restore_signals=self.restore_signals, process_group=0 if self.own_group else None)
        return self.process

    def start(self, *args):
        self.spawn(*args)
        self.wait_until_serving()
        return self

    def wait_until_serving(self):
        def look():
            assert self.process.poll() is None, f"the server exited with {self.process.returncode} before it served\n{self.said()}"
            return re.search(r" serving address=(\S+)", self.said())
        self.address = until("the server serves", look, START).group(1)
        self.find_metrics()

    def find_metrics(self):
        """Where health and metrics are, once that was said: before the service serves."""
        found = re.findall(r"health and metrics address=(\S+)", self.said())
        self.metrics_address = found[-1] if found else None
        return self.metrics_address

    def wait_for_exit(self, timeout=STOP):
        code = self.process.wait(timeout)
        self.process = None
        return code

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.wait_for_exit()
        assert code == 0, f"exit code {code}\n{self.said()}"

    def kill(self):
        """SIGKILL, and gone: its locks are free when this returns."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP)
            self.process = None

    def close(self):
        self.kill()
        if not os.environ.get("HSM_BRIDGE_TEST_KEEP"):
            shutil.rmtree(self.root, ignore_errors=True)

    def said(self, everything=False):
        """What the server wrote to standard error since its last start."""
        if not self.stderr_file.exists():
            return ""
        with open(self.stderr_file, "rb") as file:
            file.seek(0 if everything else getattr(self, "stderr_from", 0))
            return file.read().decode(errors="replace")

    # -- clients ------------------------------------------------------------------------------------------------------

    def raw(self, **options):
        options = {"access_key": self.access_key, "secret_key": self.secret_key} | options
        scheme = options.pop("scheme", "http")
        return RawClient(f"{scheme}://{self.address}", REGION, **options)

    def call(self, operation, params=None, **options):
        """One signed call that must succeed; gives its JSON answer."""
        reply = self.raw(**options).call(operation, params)
        assert reply.status == 200, f"{operation}: {reply.status} {reply.body[:500]!r}"
        return reply.json() if reply.body else {}

    def new_key(self, **params):
        return self.call("CreateKey", params)["KeyMetadata"]["KeyId"]

    def key_arn(self, key):
        return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key}"

    def admin(self, path):
        """Status and text of the administrative listener."""
        assert self.metrics_address, f"no address of the administrative listener in the log\n{self.said()}"
        try:
            with urllib.request.urlopen(f"http://{self.metrics_address}{path}", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()

    # -- the command line ---------------------------------------------------------------------------------------------

    def run(self, *args, config=None, expect=0, env=None, timeout=COMMAND):
        done = subprocess.run([str(binary()), "--config", str(config or self.config), *map(str, args)], capture_output=True, text=True,
                              timeout=timeout, stdin=subprocess.DEVNULL, env=env or clean_env(), cwd=self.root)
        assert expect is None or done.returncode == expect, (
            f"{args} gave {done.returncode}, not {expect}\nstdout: {done.stdout}\nstderr: {done.stderr}")
        return done

    def doctor(self):
        return json.loads(self.run("doctor", "--json").stdout)

    def verify(self):
        """`audit verify DIR`; fails unless the whole chain is OK."""
        done = self.run("audit", "verify", self.trail_dir, "--json")
        return json.loads(done.stdout)

    # -- the journal, read without help -------------------------------------------------------------------------------

    def segments(self):
        return sorted(p for p in (self.trail_dir / "journal").glob("*.jsonl") if not p.is_symlink())

    def journal(self):
        return [json.loads(line) for path in self.segments() for line in path.read_bytes().split(b"\n")[:-1]]

    def records(self, name):
        return [record for record in self.journal() if record.get("eventName") == name]


def is_intent(record):
    return record["eventType"] == "HsmBridgeIntent"


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    # JSON's strings, numbers, booleans and lists are TOML's.
    return json.dumps(value)
