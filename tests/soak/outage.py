"""The token goes away under 64 clients, and the service stays: its side is killed and restarted, or stands still for 30 seconds.

Of each outage: what callers were told meanwhile and how long they waited, and how long the service took to heal once the token was
back. Of all of them: nothing that was answered is wrong, and no key that was acknowledged is lost.
"""

import json
import random
import secrets
import shutil
import statistics
import sys
import threading
import time
from collections import Counter

from instance import disk_dir
from judge import ALGORITHM, Judge, Ledger, b64, unb64
from tokenbox import Elsewhere

CLIENTS = 64
SPECS = ["SYMMETRIC_DEFAULT", "ECC_NIST_P256"]
MIX = {"create": 1, "encrypt": 40, "decrypt": 40, "sign": 10, "random": 9}
# What a caller may be told while the token is away; all else is wrong. A ciphertext that is called bad would be a wrong answer, not an error.
TOLD = {"KMSInternalException", "DependencyTimeoutException", "ThrottlingException"}
# A caller's deadline, as the instance is told it. The log has one of its own, which runs before.
DEADLINE = 5.0
# For a busy machine, and for what a request takes beside the token.
MARGIN = 3.0
PAUSE = 30
# From the token's return to the first answer; a bound, not a measurement.
HEALED = 60
# Kills and pauses of what every run of the tests does, by where the token is.
SMALL = {"container": (3, 1), "process": (3, 0)}
# A long run has as many kills to one pause.
KILLS_PER_PAUSE = 50
EVERY = 25
# Ciphertexts and signatures that are looked at again in later rounds and at the end.
KEPT = 2000


def soak(rounds, seed, side):
    kills, pauses = SMALL[side] if rounds == "small" else (rounds, rounds // KILLS_PER_PAUSE)
    dice, attack, ledger = random.Random(f"outage {seed}"), Outage(), Ledger()
    journal = disk_dir("outage")
    instance = Elsewhere(side, "outage", audit_dir=journal, sections=Outage.sections())
    judge = Judge(instance, ledger, seed)
    plan = ["kill"] * kills + ["pause"] * pauses
    dice.shuffle(plan)
    began = time.monotonic()
    try:
        instance.init()
        instance.start()
        judge.connect()
        attack.warm_up(instance, ledger)
        for number, what in enumerate(plan, 1):
            ledger.begin_round()
            getattr(attack, what)(instance, ledger, dice)
            judge.settled = False
            judge.look(whole=number % EVERY == 1)
            forget(judge, dice)
            if number % EVERY == 0:
                print(f"outage: {number} rounds, {len(ledger.keys)} keys, {attack.answers} answers, {time.monotonic() - began:.0f} s in "
                      f"all", flush=True)
        # A service that went through all that stops and starts as any other.
        instance.stop()
        instance.start()
        judge.connect()
        judge.settled = True
        judge.look(everything=True)
        outside = judge.check_token_from_outside()
        instance.stop()
        judge.read_journal()
        assert instance.verify()["verdict"] == "OK"
    except BaseException:
        print(f"soak outage: seed {seed}; the server's last words:\n{instance.said()[-4000:]}", file=sys.stderr)
        print(f"soak outage: kept {instance.root} and {journal}; the token side:\n{instance.box_said()[-4000:]}", file=sys.stderr)
        instance.kill()
        raise
    print(json.dumps({
        "soak": "outage", "side": side, "kills": kills, "pauses": pauses, "seconds": round(time.monotonic() - began, 1),
        "acknowledged keys": len(ledger.keys), "requests in the log": len(judge.closed), **attack.about(), "keys undone": judge.starts[-1]["unfinishedKeysUndone"],
        "token": outside,
    }, indent=1), flush=True)
    instance.close()
    shutil.rmtree(journal, ignore_errors=True)


def forget(judge, dice):
    """So that a long run fits into memory. Keys are all kept, and of a record that it was."""
    ledger = judge.ledger
    ledger.requests.clear()
    judge.journal.records.clear()
    for facts in (ledger.sealed, ledger.signed):
        facts[:] = dice.sample(facts, min(KEPT, len(facts)))


class Client(threading.Thread):
    def __init__(self, number, instance, ledger, seed, stop):
        super().__init__(daemon=True)
        self.ledger, self.stop, self.number = ledger, stop, number
        self.dice, self.client = random.Random(seed), instance.raw()
        self.seen, self.wrong = [], None

    def run(self):
        kinds, weights = zip(*MIX.items())
        try:
            while not self.stop.is_set():
                getattr(self, self.dice.choices(kinds, weights)[0])()
        except BaseException as error:  # noqa: BLE001  the main thread reports it
            self.wrong = error

    def call(self, operation, params):
        """The answer, or None for an error that an outage explains."""
        began = time.monotonic()
        reply = self.client.call(operation, params)
        self.seen.append((began, time.monotonic() - began, operation, None if reply.status == 200 else reply.type))
        if reply.status != 200:
            assert reply.type in TOLD, f"{operation} {params}: {reply.status} {reply.body[:500]!r}"
            # Not before the outage is over: callers that retry at once would measure themselves.
            self.stop.wait(0.02)
            return None
        self.ledger.acknowledge(operation, reply)
        return reply.json()

    def create(self):
        spec = self.dice.choice(SPECS)
        usage = {} if spec == "SYMMETRIC_DEFAULT" else {"KeyUsage": "SIGN_VERIFY"}
        made = self.call("CreateKey", {"KeySpec": spec} | usage)
        if made:
            self.ledger.add_key(made["KeyMetadata"]["KeyId"], spec)

    def encrypt(self):
        key = self.ledger.any_key(self.dice, symmetric=True)
        plaintext, context = secrets.token_bytes(self.dice.randrange(1, 200)), {"client": str(self.number)}
        answer = self.call("Encrypt", {"KeyId": key, "Plaintext": b64(plaintext), "EncryptionContext": context})
        if answer:
            self.ledger.add_sealed(key, unb64(answer["CiphertextBlob"]), plaintext, context)

    def decrypt(self):
        key, blob, plaintext, context = self.ledger.any_sealed(self.dice)
        answer = self.call("Decrypt", {"CiphertextBlob": b64(blob), "EncryptionContext": context})
        assert answer is None or unb64(answer["Plaintext"]) == plaintext, f"a ciphertext of {key} opens to something else"

    def sign(self):
        key = self.ledger.any_key(self.dice, symmetric=False)
        message = secrets.token_bytes(40)
        answer = self.call("Sign", {"KeyId": key, "Message": b64(message), "SigningAlgorithm": ALGORITHM["ECC_NIST_P256"]})
        if answer:
            self.ledger.add_signed(key, message, unb64(answer["Signature"]))

    def random(self):
        self.call("GenerateRandom", {"NumberOfBytes": 16})


class Load:
    """Clients between two moments."""

    def __init__(self, instance, ledger, dice):
        self.stop = threading.Event()
        self.clients = [Client(number, instance, ledger, dice.random(), self.stop) for number in range(CLIENTS)]

    def __enter__(self):
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for client in self.clients:
            client.join(DEADLINE + 60)

    def answers(self):
        """Of all clients, by when they were asked for; raises what went wrong in one."""
        for client in self.clients:
            assert not client.is_alive(), "a client hangs"
            if client.wrong:
                raise client.wrong
        return sorted(seen for client in self.clients for seen in client.seen)


class Outage:
    def __init__(self):
        self.told, self.answers, self.longest, self.heals, self.gaps, self.pauses = Counter(), 0, (0, "", ""), [], [], []

    @staticmethod
    def sections():
        return {"token": {"deadline_ms": int(DEADLINE * 1000), "retry_first_ms": 50, "retry_longest_ms": 1000,
                          "generate_deadline_seconds": int(DEADLINE)}}

    def warm_up(self, instance, ledger):
        for spec in SPECS * 4:
            usage = {} if spec == "SYMMETRIC_DEFAULT" else {"KeyUsage": "SIGN_VERIFY"}
            ledger.add_key(instance.new_key(KeySpec=spec, **usage), spec)
        first = Client(0, instance, ledger, 0, threading.Event())
        for _ in range(4):
            first.encrypt()

    def kill(self, instance, ledger, dice):
        with Load(instance, ledger, dice) as load:
            time.sleep(dice.uniform(0.1, 0.6))
            gone = time.monotonic()
            instance.box.tell("kill")
            time.sleep(dice.uniform(0, 0.6))
            instance.box.start()
            back = time.monotonic()
            self.wait_until_healed(instance, next(iter(ledger.keys)))
            time.sleep(0.2)
        self.count(load.answers(), gone, back)

    def pause(self, instance, ledger, dice, seconds=PAUSE):
        with Load(instance, ledger, dice) as load:
            time.sleep(0.5)
            gone = time.monotonic()
            instance.box.tell("pause")
            time.sleep(seconds)
            back = time.monotonic()
            instance.box.tell("unpause")
            self.wait_until_healed(instance, next(iter(ledger.keys)))
            time.sleep(0.2)
        answers = load.answers()
        self.count(answers, gone, back)
        self.pauses.append(max(wait for _, wait, _, _ in answers))

    @staticmethod
    def wait_until_healed(instance, key):
        client, deadline = instance.raw(), time.monotonic() + HEALED
        while True:
            reply = client.call("Encrypt", {"KeyId": key, "Plaintext": "eA=="})
            if reply.status == 200:
                return
            assert time.monotonic() < deadline, f"not healed within {HEALED} s: {reply.body[:300]!r}"
            time.sleep(0.01)

    def count(self, answers, gone, back):
        self.answers += len(answers)
        self.told.update(error for _, _, _, error in answers if error)
        wait, operation, told = max((wait, operation, error or "answered") for _, wait, operation, error in answers)
        assert wait < DEADLINE + MARGIN, f"{operation} waited {wait:.1f} s; its deadline was {DEADLINE} s"
        self.longest = max(self.longest, (round(wait, 2), operation, told))
        # Answered by the token that came back: asked for after it was there.
        well = [began + wait for began, wait, _, error in answers if error is None and began >= back]
        assert well, "nobody was answered after the token was back"
        self.heals.append(min(well) - back)
        self.gaps.append(min(well) - gone)

    def about(self):
        return {"answers": self.answers, "told meanwhile": dict(self.told), "longest wait": self.longest,
                "longest wait in a pause": round(max(self.pauses), 2) if self.pauses else None,
                "heal seconds": spread(self.heals), "gap seconds": spread(self.gaps)}


def spread(values):
    return {"median": round(statistics.median(values), 3), "longest": round(max(values), 3)} if values else None
