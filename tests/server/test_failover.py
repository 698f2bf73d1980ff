"""Two tokens with the same keys: one fails under load, keys are made while it is away, and it comes back.

The vendor's replication is played by files: the second token is a copy of the first one's directory with another serial number, and later
the objects that one has and the other lacks are copied. The first token answers through the module that fails on command; each has a copy
of the library of its own, as two devices have a driver each.
"""

import base64
import os
import re
import shutil
import threading
import time

import pytest
from faults import LIBRARY, Faults, rule
from instance import MODULE, Instance, until

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason=f"{LIBRARY} does not exist: cargo build --workspace")

CLIENTS = 8
# Calls before the first token fails, and after it.
BEFORE, AFTER = 300, 600


def serial_of(token):
    (found,) = re.findall(rb"[0-9a-f]{16}", (token / "token.object").read_bytes())
    return found.decode()


class Twins:
    """An instance whose default key store is two tokens."""

    def __init__(self, **token):
        self.instance = Instance("failover").init()
        # The log's own keys are made by the first start, and are copied with the others.
        self.instance.start()
        self.keys = [self.instance.new_key() for _ in range(4)]
        self.instance.stop()
        self.first = self.instance.token_dir
        self.second = self.first.with_name("second")
        shutil.copytree(self.first, self.second)
        self.serial = serial_of(self.first)
        other = self.serial[:8] + "0000beef"
        path = self.second / "token.object"
        path.write_bytes(path.read_bytes().replace(self.serial.encode(), other.encode()))
        self.other_serial = other
        library = self.instance.root / "libsofthsm2-first.so"
        shutil.copyfile(MODULE, library)
        self.faults = Faults(self.instance, module=str(library)).install(self.instance)
        # A label is that of both.
        self.instance.sections["token"] |= {"serial": self.serial, "retry_longest_ms": 1000} | token
        self.instance.sections["[token.member]"] = {"name": "second", "module": MODULE, "label": "bridge", "serial": other}
        self.instance.write_config()
        self.instance.start()

    def fail(self):
        self.faults.set(rule("C_*", returns="CKR_DEVICE_ERROR"))

    def replicate(self, source, target):
        new = [p for p in source.glob("*.object") if p.name != "token.object" and not (target / p.name).exists()]
        for path in new:
            shutil.copyfile(path, target / path.name)
        # What tells a process that the directory changed.
        generation = target / "generation"
        before = generation.read_bytes()
        generation.write_bytes((int.from_bytes(before, "big") + 1).to_bytes(len(before), "big"))
        return len(new)

    def metric(self, name, **labels):
        text = self.instance.admin("/metrics")[1]
        wanted = "hsm_bridge_" + name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
        found = [line.split()[-1] for line in text.splitlines() if line.startswith(wanted + " ")]
        assert found, f"{wanted}\n{text}"
        return int(float(found[0]))

    def used(self, member):
        return self.metric("token_member_ready", key_store="default", member=member) == 1

    def unreplicated(self):
        (store,) = self.instance.doctor()["replication"]
        return {line["key"]: line for line in store["unreplicated"]["listed"]}

    def encrypt(self, key, text=b"text"):
        return self.instance.call("Encrypt", {"KeyId": key, "Plaintext": base64.b64encode(text).decode()})["CiphertextBlob"]

    def decrypt(self, blob):
        return base64.b64decode(self.instance.call("Decrypt", {"CiphertextBlob": blob})["Plaintext"])


@pytest.fixture
def twins():
    made = []

    def make(**token):
        made.append(Twins(**token))
        return made[-1]
    yield make
    for one in made:
        one.instance.close()


class Load:
    """Clients that encrypt and decrypt until they are told to stop."""

    def __init__(self, twins):
        self.twins, self.ended, self.lock = twins, threading.Event(), threading.Lock()
        # When each call ended, and the errors: moment, status, body.
        self.good, self.errors, self.wrong = [], [], []
        self.threads = [threading.Thread(target=self.client, args=(number,)) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def client(self, number):
        raw = self.twins.instance.raw()
        key, count = self.twins.keys[number % len(self.twins.keys)], 0
        while not self.ended.is_set():
            text = f"{number} {count}".encode()
            count += 1
            sealed = self.call(raw, "Encrypt", {"KeyId": key, "Plaintext": base64.b64encode(text).decode()})
            if sealed is None:
                continue
            opened = self.call(raw, "Decrypt", {"CiphertextBlob": sealed["CiphertextBlob"]})
            if opened is not None and base64.b64decode(opened["Plaintext"]) != text:
                self.wrong.append((text, opened))

    def call(self, raw, operation, params):
        reply = raw.call(operation, params)
        with self.lock:
            if reply.status == 200:
                self.good.append(time.monotonic())
                return reply.json()
            self.errors.append((time.monotonic(), reply.status, reply.body[:200]))
            return None

    def more(self, count):
        goal = len(self.good) + count
        until(f"{count} calls", lambda: len(self.good) >= goal or len(self.errors) > 10 * count)

    def end(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.parametrize("reads", ["preferred", "spread"])
def test_one_fails_under_load(twins, reads):
    both = twins(reads=reads)
    assert both.used("default") and both.used("second") and both.unreplicated() == {}
    load = Load(both)
    try:
        load.more(BEFORE)
        failed_at = time.monotonic()
        both.fail()
        load.more(AFTER)
        until("the first token is out", lambda: not both.used("default"))
        assert both.instance.admin("/readyz")[0] == 200, "one token is enough"

        new = both.instance.new_key()
        sealed = both.encrypt(new)
        assert both.decrypt(sealed) == b"text", "it is used where it is"
        load.more(AFTER)
    finally:
        load.end()
    after = sorted(moment for moment in load.good if moment >= failed_at)
    gap = max(later - earlier for earlier, later in zip([failed_at, *after], after))
    calls = len(after) + len(load.errors)
    print(f"\nfailover ({reads}, {CLIENTS} clients): {len(load.errors)} errors in {calls} calls after the failure, "
          f"longest gap {gap * 1000:.0f} ms, {both.metric('token_failovers_total')} calls answered by the other token")
    assert load.wrong == []
    assert load.errors == [], load.errors[:3]

    # The key of the outage is on one token only, and everything says so.
    arn = both.instance.key_arn(new)
    assert both.unreplicated()[arn] == {"key": arn, "heldBy": ["second"], "missingFrom": ["default"]}
    assert both.metric("keys_unreplicated", key_store="default") >= 1
    (created,) = [r for r in both.instance.records("CreateKey") if r["eventType"] == "AwsApiCall" and arn in str(r.get("responseElements"))
                  and "unreplicated" in str(r)]
    assert created, "its record says so too"
    shown = both.instance.run("key", "show", new).stdout
    assert "unreplicated: on second; not known to be on default" in shown
    (left,) = [r for r in both.instance.records("TokenMember")][-1:]
    assert "'used': False" in str(left), left

    # The token comes back without the key, which the vendor replicates later.
    both.faults.clear()
    until("the first token is back", lambda: both.used("default"))
    assert both.decrypt(sealed) == b"text"
    assert arn in both.unreplicated()
    assert both.replicate(both.second, both.first) >= 1
    until("it is replicated", lambda: both.metric("keys_unreplicated", key_store="default") == 0)
    assert both.unreplicated() == {}
    for key in both.keys + [new]:
        assert both.decrypt(both.encrypt(key)) == b"text"
    both.instance.stop()
    assert both.instance.verify()


def test_required_members(twins):
    both = twins(require_members=2, generate_deadline_seconds=10)
    # Nobody replicates: the key is undone, and nobody is told of it.
    before = len(list(both.first.glob("*.object")))
    reply = both.instance.raw().call("CreateKey", {})
    assert reply.status == 500 and b"KMSInternalException" in reply.body, reply.body
    assert len(list(both.first.glob("*.object"))) == before
    assert both.instance.call("ListKeys")["Keys"].__len__() == len(both.keys)

    # Somebody does, in time.
    answers = []
    maker = threading.Thread(target=lambda: answers.append(both.instance.raw().call("CreateKey", {})))
    maker.start()
    until("the key is made", lambda: len(list(both.first.glob("*.object"))) > before)
    while maker.is_alive():
        # A file that is being written is copied again.
        for path in both.first.glob("*.object"):
            target = both.second / path.name
            if path.name != "token.object" and (not target.exists() or target.read_bytes() != path.read_bytes()):
                shutil.copyfile(path, target.with_suffix(".new"))
                os.replace(target.with_suffix(".new"), target)
        both.replicate(both.first, both.second)
        maker.join(0.2)
    assert answers[0].status == 200, answers[0].body
    assert both.unreplicated() == {}


def test_one_is_away_at_the_start(twins):
    both = twins()
    both.instance.stop()
    both.fail()
    both.instance.start()
    assert not both.used("default") and both.used("second")
    assert both.decrypt(both.encrypt(both.keys[0])) == b"text"
    states = {both.instance.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["KeyState"] for key in both.keys}
    assert states == {"Enabled"}
    both.faults.clear()
    until("the first token comes", lambda: both.used("default"))
    report = both.instance.run("token", "reconcile", "--json", expect=None).stdout
    assert "default/second" in report


def test_each_token_is_shown(twins):
    both = twins()
    listed = both.instance.run("token", "list", "--json").stdout
    assert both.serial in listed and both.other_serial in listed and "default/second" in listed


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-s"]))
