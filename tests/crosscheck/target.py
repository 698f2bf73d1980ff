"""What is checked: an endpoint and the token behind it. Two ways to the same keys: `kms`, and `session` or `pkcs11_tool`.

Knows nothing of the server but its endpoint, the variables that `hsm-bridge dev` exports, and the program's own command line.
"""

import json
import os
import shutil
import subprocess
import tempfile
import uuid
from functools import cached_property
from pathlib import Path

import boto3
import pkcs11
from botocore.config import Config

import specs
import token_tool
from bridge import REPOSITORY

TAG = "hsm-bridge:crosscheck"
TIMEOUT = 120
# CK_TOKEN_INFO flags.
LAST_TRY = pkcs11.TokenFlag.USER_PIN_FINAL_TRY
LOCKED = pkcs11.TokenFlag.USER_PIN_LOCKED


def key_bytes(key):
    """The 16 bytes of a key id."""
    return uuid.UUID(key.removeprefix("mrk-")).bytes


class CannotRun(Exception):
    """Not a verdict: the script could not ask."""


class Target:
    """`env` has the names that `hsm-bridge dev` exports. Fits where `token_tool` wants a bridge."""

    def __init__(self, env, custom_store=None):
        self.env, self.custom_store = env, custom_store
        for name, flag in (("AWS_ENDPOINT_URL", "--endpoint"), ("HSM_BRIDGE_PKCS11_MODULE", "--module"),
                           ("HSM_BRIDGE_TOKEN_LABEL", "--token-label"), ("HSM_BRIDGE_PIN_FILE", "--pin-file")):
            if not env.get(name):
                # Without an endpoint the request would go to AWS.
                raise CannotRun(f"{flag} is missing, and {name} is not set")
        # Key ids of this run's own keys, and which of them is for what.
        self.made, self.keys, self.asked = [], {}, set()
        # Adopted keys keep the CKA_ID that they came with.
        self.cka_ids = {}
        self.run_id = uuid.uuid4().hex[:12]

    # -- KMS ----------------------------------------------------------------------------------------------------------

    @property
    def endpoint(self):
        return self.env["AWS_ENDPOINT_URL"]

    @cached_property
    def kms(self):
        region = self.env.get("AWS_REGION") or self.env.get("AWS_DEFAULT_REGION") or "us-east-1"
        config = Config(retries={"total_max_attempts": 1, "mode": "standard"}, connect_timeout=10, read_timeout=TIMEOUT)
        return boto3.session.Session(region_name=region).client("kms", endpoint_url=self.endpoint, config=config)

    def create_key(self, spec, usage):
        """A throw-away key. Deleted at the end, whatever happens."""
        where = {"CustomKeyStoreId": self.custom_store, "Origin": "AWS_CLOUDHSM"} if self.custom_store else {}
        key = self.kms.create_key(KeySpec=spec, KeyUsage=usage, Description=f"of scripts/crosscheck, run {self.run_id}",
                                  Tags=[{"TagKey": TAG, "TagValue": self.run_id}], **where)["KeyMetadata"]["KeyId"]
        self.made.append(key)
        return key

    def key(self, spec, purpose=None, usage=None):
        """The throw-away key of this spec and purpose; made when it is first wanted."""
        wanted = (spec, usage or specs.usage(spec), purpose)
        if wanted not in self.keys:
            self.keys[wanted] = self.create_key(*wanted[:2])
        return self.keys[wanted]

    def served(self, table, wanted):
        """Those of the wanted key specs that CreateKey makes here. The first to ask for one gives it a row."""
        for spec in wanted:
            if spec not in self.asked:
                self.asked.add(spec)
                with table.row(f"{spec}: CreateKey", "KMS") as notes:
                    notes.append(self.key(spec))
        return [spec for spec in wanted if (spec, specs.usage(spec), None) in self.keys]

    def existing_keys(self, chosen):
        """DescribeKey's answers for the chosen keys, or every key of this key store but the throw-away ones of this run."""
        ids = chosen or [key["KeyId"] for page in self.kms.get_paginator("list_keys").paginate() for key in page["Keys"]]
        found = [self.kms.describe_key(KeyId=key)["KeyMetadata"] for key in ids if key not in self.made]
        elsewhere = [key["KeyId"] for key in found if key.get("CustomKeyStoreId") != self.custom_store]
        if chosen and elsewhere:
            raise CannotRun(f"of another key store: {', '.join(elsewhere)}")
        return [key for key in found if key["KeyId"] not in elsewhere]

    def delete_throw_away_keys(self):
        """Gives what could not be scheduled for deletion, with the reason."""
        left = []
        for key in self.made:
            try:
                self.kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
            except Exception as error:  # noqa: BLE001
                left.append(f"{key}: {error}")
        return left

    # -- the token ----------------------------------------------------------------------------------------------------

    @cached_property
    def pin(self):
        try:
            return Path(self.env["HSM_BRIDGE_PIN_FILE"]).read_text().strip("\r\n")
        except OSError as error:
            raise CannotRun(f"PIN file: {error}") from None

    @cached_property
    def token(self):
        try:
            return pkcs11.lib(self.env["HSM_BRIDGE_PKCS11_MODULE"]).get_token(token_label=self.env["HSM_BRIDGE_TOKEN_LABEL"])
        except (pkcs11.exceptions.PKCS11Error, RuntimeError) as error:
            raise CannotRun(f"token `{self.env['HSM_BRIDGE_TOKEN_LABEL']}` of {self.env['HSM_BRIDGE_PKCS11_MODULE']}: "
                            f"{type(error).__name__} {error}") from None

    @cached_property
    def session(self):
        """The one login of this process, before pkcs11-tool tries the same PIN again and again."""
        if self.token.flags & (LAST_TRY | LOCKED):
            raise CannotRun("the token's user PIN is locked or has one try left: this script does not spend it")
        try:
            # Some tokens have no read-only sessions.
            return self.token.open(user_pin=self.pin, rw=True)
        except pkcs11.exceptions.PKCS11Error as error:
            raise CannotRun(f"login to the token: {type(error).__name__} {error}") from None

    def tool_env(self, **extra):
        return self.env | extra

    @property
    def slot(self):
        return self.token.slot.slot_id

    def pkcs11_tool(self, *args, check=True):
        return token_tool.pkcs11_tool(self, *args, check=check)

    def listed_objects(self):
        return token_tool.listed_objects(self)

    def cka_id(self, key):
        """CKA_ID of a key's objects: the bytes of its id, unless its record names another."""
        return self.cka_ids.get(key) or key_bytes(key)

    # -- the program's own command line, where there is one -----------------------------------------------------------

    @cached_property
    def program(self):
        """The binary, if it and its configuration are on this machine."""
        named = [self.env.get("HSM_BRIDGE_BIN"), shutil.which("hsm-bridge"), str(REPOSITORY / "target/debug/hsm-bridge"),
                 str(REPOSITORY / "target/release/hsm-bridge")]
        found = next((path for path in named if path and os.access(path, os.X_OK)), None)
        return str(Path(found).resolve()) if found and self.env.get("HSM_BRIDGE_CONFIG") else None

    def run(self, *args):
        return subprocess.run([self.program, *map(str, args)], capture_output=True, text=True, timeout=TIMEOUT, env=self.env,
                              stdin=subprocess.DEVNULL)

    def record(self, key):
        """What the key's record says of its objects: `key show`. None without the program or a server on this machine."""
        if self.program is None:
            return None
        done = self.run("key", "show", key, "--json")
        return json.loads(done.stdout) if done.returncode == 0 else None

    @cached_property
    def scratch(self):
        return Path(tempfile.mkdtemp(prefix="crosscheck-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))

    def file(self, name, data=None):
        path = self.scratch / name
        if data is not None:
            path.write_bytes(data)
        return path

    def close(self):
        if "scratch" in self.__dict__:
            shutil.rmtree(self.scratch, ignore_errors=True)
