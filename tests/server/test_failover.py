"""Two tokens with the same keys: one fails under load, keys are made while it is away, and it comes back.

The vendor's replication is played by files: the second token is a copy of the first one's directory with another serial number, and later
the objects that one has and the other lacks are copied. The first token answers through the module that fails on command; each has a copy
of the library of its own, as two devices have a driver each.
"""

import base64
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from faults import LIBRARY, Faults, rule
from instance import MODULE, Instance, until
from pin_marks import marks, wrong_pins
from test_isolation import children
from test_officer import use
from token_keys import Keys

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason=f"{LIBRARY} does not exist: cargo build --workspace")

CLIENTS = 8
# Calls before the first token fails, and after it.
BEFORE, AFTER = 300, 600
MODES = ["in-process", "process"]
# The first token's copy of the library.
FIRST = "libsofthsm2-first.so"


def serial_of(token):
    (found,) = re.findall(rb"[0-9a-f]{16}", (token / "token.object").read_bytes())
    return found.decode()


class Twins:
    """An instance whose default key store is two tokens."""

    def __init__(self, start=True, **token):
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
        library = self.instance.root / FIRST
        shutil.copyfile(MODULE, library)
        self.faults = Faults(self.instance, module=str(library)).install(self.instance)
        # A label is that of both.
        self.instance.sections["token"] |= {"serial": self.serial, "retry_longest_ms": 1000} | token
        self.instance.sections["[token.member]"] = {"name": "second", "module": MODULE, "label": "bridge", "serial": other}
        self.instance.write_config()
        if start:
            self.instance.start()

    def fail(self):
        self.faults.set(rule("C_*", returns="CKR_DEVICE_ERROR"))

    def worker(self):
        """The process that serves the first token."""
        def look():
            for pid in children(self.instance.process.pid):
                try:
                    threads = {Path(task, "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()}
                    if "p11-keygen" in threads and FIRST in Path(f"/proc/{pid}/maps").read_text():
                        return pid
                except (FileNotFoundError, ProcessLookupError):
                    continue
            return None
        return until("a worker serves the first token", look)

    def lose(self, how):
        """The first token goes, in one of the ways of `HOW`, and stays away until `faults.clear()`."""
        if how == "errors":
            self.fail()
        elif how == "hangs":
            self.faults.set(rule("C_*", hang="until-changed"))
        else:
            worker = self.worker()
            # Whoever serves goes on; nobody takes its place.
            self.faults.set(rule("C_Initialize", returns="CKR_DEVICE_ERROR"))
            os.kill(worker, {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[how])

    def readiness(self):
        """Of a service that may not serve yet."""
        until("health is told", self.instance.find_metrics)
        return self.instance.admin("/readyz")

    def member(self, name):
        (store,) = self.instance.doctor()["replication"]
        (found,) = [member for member in store["members"] if member["name"] == name]
        return found

    def objects(self):
        return [len(list(token.glob("*.object"))) for token in (self.first, self.second)]

    def details(self, event):
        return [record["additionalEventData"]["details"] for record in self.instance.records(event)]

    def replicate(self, source, target):
        new = [p for p in source.glob("*.object") if p.name != "token.object" and not (target / p.name).exists()]
        for path in new:
            shutil.copyfile(path, target / path.name)
            # Without it SoftHSM cannot destroy the object.
            (target / path.name).with_suffix(".lock").touch()
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

    def both_are_used(self):
        until("both tokens are used", lambda: self.used("default") and self.used("second"))

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
        self.good, self.errors, self.wrong, self.longest = [], [], [], 0.0
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
        began = time.monotonic()
        reply = raw.call(operation, params)
        with self.lock:
            self.longest = max(self.longest, time.monotonic() - began)
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


@pytest.mark.parametrize("isolation, how, reads", [
    ("in-process", "errors", "preferred"), ("in-process", "errors", "spread"), ("in-process", "hangs", "preferred"),
    ("process", "errors", "spread"), ("process", "killed", "preferred"), ("process", "killed", "spread"),
    ("process", "stopped", "preferred")])
def test_one_fails_under_load(twins, isolation, how, reads):
    # Half of a deadline is for the token that says nothing, and half for the other, on a busy machine too.
    both = twins(reads=reads, isolation=isolation, deadline_ms=10_000, hang_grace_ms=1000)
    both.both_are_used()
    assert both.unreplicated() == {}
    load = Load(both)
    try:
        load.more(BEFORE)
        load.longest = 0.0
        failed_at = time.monotonic()
        both.lose(how)
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
    print(f"\nfailover ({isolation}, {how}, {reads}, {CLIENTS} clients): {len(load.errors)} errors in {calls} calls after the failure, "
          f"longest gap {gap * 1000:.0f} ms, longest call {load.longest * 1000:.0f} ms, {both.metric('token_failovers_total')} calls answered by the other token")
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


@pytest.mark.parametrize("isolation", MODES)
def test_required_members(twins, isolation):
    both = twins(isolation=isolation, require_members=2, generate_deadline_seconds=10)
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


@pytest.mark.parametrize("isolation, how", [("in-process", "errors"), ("process", "killed")])
def test_the_maker_goes_before_the_key_is_replicated(twins, isolation, how):
    both = twins(isolation=isolation, require_members=2, generate_deadline_seconds=10)
    before = both.objects()
    answers = []
    maker = threading.Thread(target=lambda: answers.append(both.instance.raw().call("CreateKey", {})))
    maker.start()
    until("the first token has it, and that is known", lambda: both.metric("keys_unreplicated", key_store="default") == 1)
    both.lose(how)
    maker.join()
    assert answers[0].status == 500 and b"KMSInternalException" in answers[0].body, answers[0].body
    assert both.objects()[0] > before[0], "the token that went still has it"
    assert both.metric("unsettled_changes") == 1, "and that is known"
    # The other one gets it after all, too late for anybody.
    assert both.replicate(both.first, both.second) >= 1
    both.faults.clear()
    until("nothing half made is left", lambda: both.objects() == before)
    until("and nothing waits", lambda: both.metric("unsettled_changes") == 0)
    until("the log tells", lambda: both.details("UnfinishedKeysUndone"))
    assert len(both.instance.call("ListKeys")["Keys"]) == len(both.keys)
    assert both.unreplicated() == {}
    both.instance.stop()
    assert both.instance.verify()


@pytest.mark.parametrize("isolation", MODES)
def test_one_is_away_at_the_start(twins, isolation):
    both = twins(isolation=isolation)
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


@pytest.mark.parametrize("isolation", MODES)
def test_nobody_is_there_at_the_start(twins, isolation):
    both = twins(start=False, isolation=isolation)
    away = both.second.parent.with_name("away")
    both.second.rename(away)
    both.fail()
    both.instance.spawn()
    until("each is told", lambda: both.readiness() == (503, '{"ready":false,"reasons":["token: it is away since the start: none of the key '
                                                       "store's tokens can be used (`default`: it is not there, `second`: it is not there)\"]}"))
    (address,) = re.findall(r"not ready.* address=(\S+)", both.instance.said())
    both.instance.address = address
    assert both.instance.raw().call("ListKeys").status == 503
    # The second one comes: that is enough.
    away.rename(both.second)
    both.instance.wait_until_serving()
    assert both.instance.admin("/readyz")[0] == 200
    assert not both.used("default") and both.used("second")
    assert both.decrypt(both.encrypt(both.keys[0])) == b"text"
    assert [details["start"] for details in both.details("TokenDown") + both.details("TokenRecovered")] == [True, True]
    both.faults.clear()
    until("the first one comes later", lambda: both.used("default"))
    assert both.unreplicated() == {}
    both.instance.stop()
    assert both.instance.verify()


@pytest.mark.parametrize("isolation", MODES)
def test_a_refused_pin_keeps_one_out(twins, isolation):
    both = twins(start=False, isolation=isolation)
    both.faults.set(rule("C_Login", returns="CKR_PIN_INCORRECT"))
    starts = 0
    for _ in range(2):
        both.instance.start()
        assert not both.used("default") and both.used("second")
        assert both.instance.admin("/readyz")[0] == 200
        assert both.metric("token_member_login_refused", key_store="default", member="default") == 1
        assert both.metric("token_member_login_refused", key_store="default", member="second") == 0
        told = both.member("default")
        assert told["loginRefused"] and "operator" in told["because"], told
        assert "operator" in both.instance.run("token", "list").stdout
        for key in both.keys:
            assert both.decrypt(both.encrypt(key)) == b"text"
            assert both.instance.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["KeyState"] == "Enabled"
        starts += 1
        left = until("the log tells", lambda: both.details("TokenMember")[starts - 1:])[-1]
        assert (left["member"], left["used"], left["loginRefused"]) == ("default", False, True), left
        both.instance.stop()
    assert both.faults.count("C_Login") == 1, "one try, over restarts; and none on the other token's account"
    assert len(marks(both.instance.pin_marks, both.serial)[0]) == 1
    assert marks(both.instance.pin_marks, both.other_serial) == ([], []), "the same PIN is good there"
    both.instance.start()
    both.faults.clear()
    refused = both.instance.run("token", "pin", expect=1).stderr
    assert "retry" in refused and "go on" in refused, refused
    assert both.faults.count("C_Login") == 1
    both.instance.run("token", "pin", "--retry")
    until("it is back", lambda: both.used("default"))
    assert both.faults.count("C_Login") == 2
    assert marks(both.instance.pin_marks, both.serial)[0] == []
    assert not both.member("default")["loginRefused"]
    assert both.decrypt(both.encrypt(both.keys[0])) == b"text"
    both.instance.stop()
    assert both.instance.verify()


def test_a_member_with_a_pin_of_its_own(twins):
    both = twins(start=False)
    own = both.instance.root / "pin-second"
    wrong = wrong_pins(both.instance.pin_marks, both.other_serial, both.instance.pin)[0]

    def write(pin):
        own.unlink(missing_ok=True)
        own.write_text(pin + "\n")
        own.chmod(0o600)
    write(wrong)
    both.instance.sections["[token.member]"]["pin_file"] = str(own)
    both.instance.write_config()
    both.instance.start()
    assert both.used("default") and both.member("second")["loginRefused"]
    # Another value is tried at once, without a restart.
    write(both.instance.pin)
    both.instance.run("token", "pin", "--token", "default/second")
    until("it is there", lambda: both.used("second"))
    assert len(marks(both.instance.pin_marks, both.other_serial)[0]) == 1


def test_a_wrong_pin_is_tried_once_on_each(twins):
    both = twins(start=False)
    # The same wrong PIN for both: each token has one try, and no second one over restarts.
    pin = next(pin for pin in wrong_pins(both.instance.pin_marks, both.serial, both.instance.pin, 8)
               if pin in wrong_pins(both.instance.pin_marks, both.other_serial, both.instance.pin, 64))
    both.instance.write_pin(pin)
    for _ in range(3):
        said = both.instance.run("serve", expect=77).stderr
        assert str(both.instance.pin_file) in said and "token pin --retry" in said, said
    assert both.faults.count("C_Login") == 1
    for serial in (both.serial, both.other_serial):
        rejected, pending = marks(both.instance.pin_marks, serial)
        assert (len(rejected), pending) == (1, [])
    both.instance.write_pin(both.instance.pin)
    both.instance.start()
    both.both_are_used()


KINDS = {"SYMMETRIC_DEFAULT": ("AES:32", None), "HMAC_256": ("GENERIC:32", "GENERATE_VERIFY_MAC"),
         "RSA_2048": ("RSA:2048", "SIGN_VERIFY"), "ECC_NIST_P256": ("EC:secp256r1", "SIGN_VERIFY")}


def test_another_key_under_the_id_is_never_used(twins):
    both = twins(reads="spread")
    made = {spec: both.instance.new_key(KeySpec=spec, **({"KeyUsage": usage} if usage else {})) for spec, (_, usage) in KINDS.items()}
    both.instance.stop()
    both.replicate(both.first, both.second)
    keys = Keys(both.instance, serial=both.other_serial)
    for spec, key in made.items():
        cka_id = key.replace("-", "")
        keys.destroy(cka_id)
        keys.make(KINDS[spec][0], cka_id, f"hsm-bridge/kms/{key}")
    both.instance.start()
    both.both_are_used()
    seen = {spec: [use(both.instance, key, spec) for _ in range(8)] for spec, key in made.items()}
    assert len(set(seen["HMAC_256"])) == 1, "one key made them all"
    assert both.metric("token_member_wrong_keys", key_store="default", member="second") == len(made)
    assert both.metric("token_member_wrong_keys", key_store="default", member="default") == 0
    arns = sorted(map(both.instance.key_arn, made.values()))
    assert sorted(both.member("second")["wrongKeys"]) == arns
    lines = both.unreplicated()
    assert {arn: lines[arn]["heldBy"] for arn in arns} == dict.fromkeys(arns, ["default"])
    ids = sorted(key.replace("-", "") for key in made.values())
    until("the log tells", lambda: any(sorted(details["wrongKeys"]) == ids for details in both.details("TokenMember")))
    # The right ones go away: no answer is better than a wrong one.
    both.fail()
    until("the first token is out", lambda: both.encrypt(both.keys[0]) and not both.used("default"))
    raw, message = both.instance.raw(), base64.b64encode(b"message").decode()
    for operation, params in [
        ("Encrypt", {"KeyId": made["SYMMETRIC_DEFAULT"], "Plaintext": message}),
        ("Decrypt", {"CiphertextBlob": seen["SYMMETRIC_DEFAULT"][0]}),
        ("GenerateMac", {"KeyId": made["HMAC_256"], "Message": message, "MacAlgorithm": "HMAC_SHA_256"}),
        ("Sign", {"KeyId": made["RSA_2048"], "Message": message, "SigningAlgorithm": "RSASSA_PSS_SHA_256"}),
        ("Sign", {"KeyId": made["ECC_NIST_P256"], "Message": message, "SigningAlgorithm": "ECDSA_SHA_256"})]:
        reply = raw.call(operation, params)
        assert reply.status == 500 and b"KMSInternalException" in reply.body, (operation, reply.status, reply.body)
    assert both.decrypt(both.encrypt(both.keys[0])) == b"text", "its other keys are good"
    both.faults.clear()
    until("the first token is back", lambda: both.used("default"))
    for blob in seen["SYMMETRIC_DEFAULT"]:
        assert both.decrypt(blob) == b"shop"


def test_a_library_with_a_configuration_of_its_own(twins):
    """Each finds its token by the label alone, where its own configuration leads it."""
    both = twins(start=False, isolation="process")
    other = both.instance.root / "tokens-second"
    other.mkdir(mode=0o700)
    both.second = both.second.rename(other / "second")
    conf = both.instance.root / "softhsm2-second.conf"
    conf.write_text(f"directories.tokendir = {other}\nobjectstore.backend = file\nlog.level = ERROR\n")
    del both.instance.sections["token"]["serial"]
    member = both.instance.sections["[token.member]"]
    del member["serial"]
    member["environment"] = {"SOFTHSM2_CONF": str(conf)}
    both.instance.write_config()
    both.instance.start()
    both.both_are_used()
    listed = both.instance.run("token", "list", "--json").stdout
    assert both.serial in listed and both.other_serial in listed
    slots = str(both.instance.doctor()["modules"][MODULE])
    assert both.other_serial in slots
    both.fail()
    until("the first token is out", lambda: both.encrypt(both.keys[0]) and not both.used("default"))
    assert both.decrypt(both.encrypt(both.keys[0])) == b"text"
    both.instance.stop()
    both.instance.sections["token"]["isolation"] = "in-process"
    both.instance.write_config()
    refused = both.instance.run("serve", expect=78).stderr
    assert "`token.member[0].environment`" in refused and 'isolation = "process"' in refused, refused


def test_each_token_is_shown(twins):
    both = twins()
    both.both_are_used()
    listed = both.instance.run("token", "list", "--json").stdout
    assert both.serial in listed and both.other_serial in listed and "default/second" in listed


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-s"]))
