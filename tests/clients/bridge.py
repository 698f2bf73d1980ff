"""A bridge as a child process: started with `hsm-bridge dev`, spoken to over its port, stopped or killed."""

import atexit
import contextlib
import functools
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import boto3
from botocore.config import Config

from kmsclient import STRANGER_ERRORS, RawClient, check_silent

REPOSITORY = Path(__file__).resolve().parents[2]
# Bounds, not measurements: a slow machine may take its time, a hang may not.
START_TIMEOUT = 180
STOP_TIMEOUT = 60
COMMAND_TIMEOUT = 180

# Every instance of this run, so that a failed test can show what its server had to say.
INSTANCES = []


def binary():
    path = Path(os.environ.get("HSM_BRIDGE_BIN", REPOSITORY / "target/debug/hsm-bridge"))
    return path if path.is_absolute() else REPOSITORY / path


def scratch_root():
    base = os.environ.get("HSM_BRIDGE_TEST_TMP") or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    return Path(tempfile.mkdtemp(prefix="hsm-bridge-clients-", dir=base))


@functools.cache
def state_home():
    """For instances that `init` configures: not the home of whoever runs the tests. Gone at the end."""
    directory = tempfile.mkdtemp(prefix="hb-state-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def clean_env(**extra):
    """The environment without anything that points an AWS client or a PKCS#11 module elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "HSM_BRIDGE_", "SOFTHSM2_"))}
    kept |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
             "AWS_PAGER": "", "AWS_MAX_ATTEMPTS": "1", "XDG_STATE_HOME": state_home()}
    return kept | extra


def parse_exports(text):
    env = {}
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if len(words) == 2 and words[0] == "export":
            name, _, value = words[1].partition("=")
            env[name] = value
    return env


class Bridge:
    def __init__(self, tls=False, extra_args=(), environment=None):
        self.tls, self.extra_args, self.shared = tls, list(extra_args), False
        self.environment = environment or {}
        self.root = scratch_root()
        self.dir = self.root / "dev"
        self.env_file = self.root / "env"
        self.stderr_file = self.root / "stderr"
        self.stdout_file = self.root / "stdout"
        self.process, self.env = None, {}
        # Request ids that somebody was given an answer under, for the audit tests.
        self.acknowledged, self.lock = {}, threading.Lock()
        self.plaintexts = set()
        self._cached_keys, self._clients = {}, {}
        INSTANCES.append(self)

    # -- life ---------------------------------------------------------------------------------------------------------

    def command(self):
        return [str(binary()), "dev", "--dir", str(self.dir), "--listen", "127.0.0.1:0", "--env-file", str(self.env_file),
                *(["--tls"] if self.tls else []), *self.extra_args]

    def start(self):
        self.env_file.unlink(missing_ok=True)
        with open(self.stdout_file, "ab") as out, open(self.stderr_file, "ab") as err:
            self.process = subprocess.Popen(self.command(), stdout=out, stderr=err, stdin=subprocess.DEVNULL,
                                            env=clean_env(**self.environment),                                            cwd=self.root)
        deadline = time.monotonic() + START_TIMEOUT
        while not self.env_file.exists():
            if self.process.poll() is not None:
                raise AssertionError(f"the server exited with {self.process.returncode} before it was ready\n{self.stderr()}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the server was not ready after {START_TIMEOUT} s\n{self.stderr()}")
            time.sleep(0.02)
        self.env = parse_exports(self.env_file.read_text())
        self._clients.clear()
        return self

    def stop(self, expect=0):
        """SIGTERM, then a bounded wait."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not stop {STOP_TIMEOUT} s after SIGTERM\n{self.stderr()}") from None
        self.process = None
        if expect is not None:
            assert code == expect, f"exit code {code}\n{self.stderr()}"
        return code

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT)
            self.process = None

    def restart(self):
        self.stop()
        return self.start()

    def close(self):
        try:
            self.stop(expect=None)
        finally:
            self.kill()
            INSTANCES.remove(self)
            if not os.environ.get("HSM_BRIDGE_TEST_KEEP"):
                shutil.rmtree(self.root, ignore_errors=True)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stderr(self, tail=6000):
        text = self.stderr_file.read_text(errors="replace") if self.stderr_file.exists() else ""
        return text[-tail:]

    # -- what it says about itself ------------------------------------------------------------------------------------

    @property
    def endpoint(self):
        return self.env["AWS_ENDPOINT_URL_KMS"]

    @property
    def region(self):
        return self.env["AWS_REGION"]

    @property
    def account(self):
        return self.env["HSM_BRIDGE_ACCOUNT_ID"]

    @property
    def ca_bundle(self):
        return self.env.get("AWS_CA_BUNDLE")

    @property
    def access_key(self):
        return self.env["AWS_ACCESS_KEY_ID"]

    @property
    def secret_key(self):
        return self.env["AWS_SECRET_ACCESS_KEY"]

    @property
    def audit_dir(self):
        return Path(self.env["HSM_BRIDGE_AUDIT_DIR"])

    @property
    def pin(self):
        return Path(self.env["HSM_BRIDGE_PIN_FILE"]).read_text().strip("\r\n")

    def key_arn(self, key_id):
        return f"arn:aws:kms:{self.region}:{self.account}:key/{key_id}"

    def alias_arn(self, name):
        return f"arn:aws:kms:{self.region}:{self.account}:{name}"

    # -- clients ------------------------------------------------------------------------------------------------------

    def client(self, service="kms", access_key=None, secret_key=None, validate=True):
        """A stock boto3 client without retries, so that every error answer is seen."""
        cache_key = (service, access_key, validate)
        with self.lock:
            if cache_key in self._clients:
                return self._clients[cache_key]
            session = boto3.session.Session(aws_access_key_id=access_key or self.access_key,
                                            aws_secret_access_key=secret_key or self.secret_key, region_name=self.region)
            client = session.client(
                service,
                endpoint_url=self.endpoint if service == "kms" else self.env["AWS_ENDPOINT_URL"],
                verify=self.ca_bundle if self.tls else None,
                config=Config(retries={"total_max_attempts": 1, "mode": "standard"}, connect_timeout=5, read_timeout=60,
                              parameter_validation=validate, max_pool_connections=32),
            )
            client.meta.events.register("after-call", self._after_call)
            self._clients[cache_key] = client
            return client

    @property
    def kms(self):
        return self.client()

    def raw(self, **options):
        """A client of `kmsclient`: signs and sends what an SDK would not."""
        options = {"access_key": self.access_key, "secret_key": self.secret_key} | options
        return RawClient(self.endpoint, self.region, ca_bundle=self.ca_bundle, forbidden=self.forbidden(),
                         on_reply=lambda r: self._acknowledge(r.request_id, r.type), **options)

    def forbidden(self):
        return [self.secret_key, self.pin, str(self.root), self.env["SOFTHSM2_CONF"], self.env["HSM_BRIDGE_PKCS11_MODULE"]]

    def _after_call(self, http_response, parsed, **_):
        check_silent(http_response.content, self.forbidden(), error=http_response.status_code != 200)
        meta = parsed.get("ResponseMetadata", {})
        self._acknowledge(meta.get("RequestId"), parsed.get("Error", {}).get("Code"))

    def _acknowledge(self, request_id, error):
        if request_id and error not in STRANGER_ERRORS:
            with self.lock:
                self.acknowledged[request_id] = error

    # -- other programs -----------------------------------------------------------------------------------------------

    def tool_env(self, **extra):
        """The environment that a person has after `source FILE`."""
        return clean_env(**self.env, **extra)

    def run(self, *args, check=True, timeout=COMMAND_TIMEOUT, env=None, stdin=None):
        """Runs the bridge's own command line against this instance."""
        done = subprocess.run([str(binary()), *map(str, args)], env=env or self.tool_env(), capture_output=True, text=True,
                              timeout=timeout, input=stdin if stdin is not None else "", cwd=self.root)
        if check:
            assert done.returncode == 0, f"{args} gave {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}"
        return done

    def journal_lines(self):
        # `current.jsonl` is another name of the last segment.
        files = sorted(p for p in (self.audit_dir / "journal").glob("*.jsonl") if not p.is_symlink())
        assert files, f"no journal in {self.audit_dir}"
        lines = b"".join(p.read_bytes() for p in files).split(b"\n")
        return [line for line in lines if line]

    def journal(self):
        return [json.loads(line) for line in self.journal_lines()]

    # -- keys for tests that only use them ----------------------------------------------------------------------------

    def key(self, spec="SYMMETRIC_DEFAULT", purpose="shared"):
        """The key id of a key of this spec; made once per purpose. Tests that change a key make their own."""
        cached = self._cached_keys.get((spec, purpose))
        if cached is None:
            extra = {}
            if spec.startswith("HMAC"):
                extra = {"KeyUsage": "GENERATE_VERIFY_MAC"}
            elif spec != "SYMMETRIC_DEFAULT":
                extra = {"KeyUsage": "SIGN_VERIFY"}
            cached = self.kms.create_key(KeySpec=spec, Description=f"{spec} {purpose}", **extra)["KeyMetadata"]["KeyId"]
            self._cached_keys[(spec, purpose)] = cached
        return cached

    def new_key(self, **params):
        return self.kms.create_key(**params)["KeyMetadata"]["KeyId"]

    # -- custom key stores ----------------------------------------------------------------------------------------------

    @property
    def custom_password(self):
        return Path(self.env["HSM_BRIDGE_CUSTOM_PIN_FILE"]).read_text().strip("\r\n")

    @contextlib.contextmanager
    def custom_store(self, token=0):
        """A key store on one of `--custom-tokens`, not connected; it goes at the end and must have no keys then."""
        store = self.kms.create_custom_key_store(
            CustomKeyStoreName=f"store-{secrets.token_hex(6)}", CloudHsmClusterId=self.env["HSM_BRIDGE_CLUSTER_IDS"].split(",")[token],
            KeyStorePassword=self.custom_password, TrustAnchorCertificate=Path(self.env["HSM_BRIDGE_TRUST_ANCHOR"]).read_text(),
        )["CustomKeyStoreId"]
        yield store
        self.kms.delete_custom_key_store(CustomKeyStoreId=store)

    def connect(self, store):
        self.kms.connect_custom_key_store(CustomKeyStoreId=store)
        self.store_becomes(store, "CONNECTED")

    def disconnect(self, store):
        self.kms.disconnect_custom_key_store(CustomKeyStoreId=store)
        self.store_becomes(store, "DISCONNECTED")

    def store_becomes(self, store, state):
        deadline = time.monotonic() + COMMAND_TIMEOUT
        while True:
            (found,) = self.kms.describe_custom_key_stores(CustomKeyStoreId=store)["CustomKeyStores"]
            if found["ConnectionState"] == state:
                return
            assert time.monotonic() < deadline and found["ConnectionState"] != "FAILED", found
            time.sleep(0.02)

    def new_alias(self, key_id, stem="alias/test"):
        name = f"{stem}-{secrets.token_hex(6)}"
        self.kms.create_alias(AliasName=name, TargetKeyId=key_id)
        return name

    def canary(self, length=32):
        """A plaintext that must never turn up in a log."""
        value = b"canary" + secrets.token_bytes(length - 6)
        with self.lock:
            self.plaintexts.add(value)
        return value
