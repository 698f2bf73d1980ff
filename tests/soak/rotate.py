"""kill -9 at every step of a rotation, under clients that encrypt and decrypt by the alias and sign by another.

Each round aims at one step and kills when that step is seen from outside: the intent in the journal, the row in the store's
write-ahead log, C_GenerateKey in pkcs11-spy's log, the object's file in the token, the second write to the store, the outcome in
the journal; or at a random moment. What the kill met is read from what the next start finds. Then the same ClientToken is sent
again: it finishes what was not done, and repeats what was."""

import json
import random
import secrets
import sys
import threading
import time
from collections import Counter

from attack import GONE, join
from instance import is_intent
from judge import ALGORITHM, b64, details, unb64
from spy import Spy

AIMS = ["intent", "row", "generate", "object", "commit", "outcome", "random", "late"]
# The pair takes long to generate, so that kills inside of it are many; the other is what the clients use.
ALIASES = {"alias/app": "SYMMETRIC_DEFAULT", "alias/sign": "RSA_2048"}
CLIENTS = 4


class Client(threading.Thread):
    """Encrypts, decrypts and signs by alias until the server is gone: no call may fail because of a rotation."""

    def __init__(self, instance, ledger, seed):
        super().__init__(daemon=True)
        self.client, self.ledger, self.dice = instance.raw(), ledger, random.Random(seed)
        self.instance, self.wrong, self.calls = instance, None, 0

    def run(self):
        try:
            while True:
                self.dice.choices([self.encrypt, self.decrypt, self.sign], [4, 5, 1])[0]()
                self.calls += 1
        except GONE:
            pass
        except BaseException as error:  # noqa: BLE001  the main thread reports it
            self.wrong = error

    def call(self, operation, params):
        reply = self.client.call(operation, params)
        assert reply.status == 200, f"{operation} {params}: {reply.status} {reply.body[:500]!r}"
        self.ledger.acknowledge(operation, reply)
        return reply.json()

    def encrypt(self):
        plaintext, context = secrets.token_bytes(self.dice.randrange(1, 100)), {"n": secrets.token_hex(4)}
        answer = self.call("Encrypt", {"KeyId": "alias/app", "Plaintext": b64(plaintext), "EncryptionContext": context})
        self.ledger.add_sealed(answer["KeyId"].rsplit("/", 1)[1], unb64(answer["CiphertextBlob"]), plaintext, context)

    def decrypt(self):
        """As SOPS does: the alias goes along, whichever of its keys made the ciphertext."""
        fact = self.ledger.any_sealed(self.dice)
        if fact:
            key, blob, plaintext, context = fact
            answer = self.call("Decrypt", {"KeyId": "alias/app", "CiphertextBlob": b64(blob), "EncryptionContext": context})
            assert unb64(answer["Plaintext"]) == plaintext and answer["KeyId"] == self.instance.key_arn(key)

    def sign(self):
        message = secrets.token_bytes(40)
        answer = self.call("Sign", {"KeyId": "alias/sign", "Message": b64(message), "SigningAlgorithm": ALGORITHM["RSA_2048"]})
        self.ledger.add_signed(answer["KeyId"].rsplit("/", 1)[1], message, unb64(answer["Signature"]))


class Rotate:
    def __init__(self):
        self.met, self.calls, self.again, self.rounds = Counter(), 0, Counter(), 0
        self.aim = self.asked = self.reply = None
        self.took = {}
        # The watcher has to be quick although the clients are threads beside it.
        sys.setswitchinterval(0.0002)

    def prepare(self, instance):
        """Before the instance is made: a spy sits between server and token."""
        self.spy = Spy(instance)
        instance.sections["token"] = self.spy.token

    def warm_up(self, instance, ledger):
        client = instance.raw()
        for alias, spec in ALIASES.items():
            usage = {} if spec == "SYMMETRIC_DEFAULT" else {"KeyUsage": "SIGN_VERIFY"}
            reply = client.call("CreateKey", {"KeySpec": spec, "Tags": [{"TagKey": "app", "TagValue": alias}]} | usage)
            ledger.acknowledge("CreateKey", reply)
            key = reply.json()["KeyMetadata"]["KeyId"]
            ledger.add_key(key, spec)
            ledger.acknowledge("CreateAlias", client.call("CreateAlias", {"AliasName": alias, "TargetKeyId": key}))
            ledger.aliases[alias] = {key}
            began = time.monotonic()
            self.rotate(client, ledger, alias, secrets.token_hex(8))
            self.took[alias] = time.monotonic() - began

    def rotate(self, client, ledger, alias, ticket):
        request = client.sign("HsmBridge.RotateAlias", {"AliasName": alias, "ClientToken": ticket, "Reason": "soak"})
        reply = client.send(request)
        assert reply.status == 200, f"RotateAlias: {reply.status} {reply.body[:500]!r}"
        ledger.acknowledge("RotateAlias", reply)
        return reply.json()

    # -- one round ----------------------------------------------------------------------------------------------------

    def attack(self, instance, ledger, dice, _round):
        self.finish_the_last(instance, ledger)
        self.aim = AIMS[self.rounds % len(AIMS)]
        # Half of the rounds of each aim with each of the two.
        alias = list(ALIASES)[self.rounds // len(AIMS) % 2]
        self.rounds += 1
        self.asked, self.reply = (alias, secrets.token_hex(8)), None
        clients = [Client(instance, ledger, dice.random()) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(dice.uniform(0, 0.05))
        watch = Watch(instance, self.spy)
        sender = threading.Thread(target=self.send, args=(instance.raw(), ledger, *self.asked), daemon=True)
        sender.start()
        watch.wait_for(self.aim, dice, self.took[alias], sender)
        instance.kill()
        join([*clients, sender])
        for client in clients:
            self.calls += client.calls
            if client.wrong:
                raise client.wrong

    def send(self, client, ledger, alias, ticket):
        try:
            self.reply = self.rotate(client, ledger, alias, ticket)
        except GONE:
            ledger.unanswered["RotateAlias"] += 1

    def finish_the_last(self, instance, ledger):
        """The client that got no answer asks again, with the same token."""
        if self.asked is None:
            return
        alias, ticket = self.asked
        client = instance.raw()
        answer = self.rotate(client, ledger, alias, ticket)
        assert self.reply in (None, answer), f"the same token gave {self.reply} and then {answer}"
        (here,) = ledger.aliases[alias]
        done = self.state in ("done", "acknowledged")
        new = answer["NewKeyId"].rsplit("/", 1)[1]
        assert (new == here) == done, f"{self.state}, the alias pointed to {here}, asked again: {answer}"
        self.again["repeated" if done else "done then"] += 1
        assert self.rotate(client, ledger, alias, ticket) == answer
        ledger.aliases[alias] = {new}

    # -- what the start after the kill found --------------------------------------------------------------------------

    def hit(self, start):
        self.met[f"{self.aim}: {self.state}" + (", key undone" if start["unfinishedKeysUndone"] else "")] += 1
        return self.reply is None or self.aim in ("outcome", "late")

    def look(self, judge):
        """The history is that of the log, and the journal says what became of the last rotation."""
        instance = judge.instance
        chains = {alias: [] for alias in ALIASES}
        last, effects = None, {}
        for record in judge.journal.records:
            if record["eventName"] == "OutcomeUnknown":
                effects[record["requestID"]] = details(record)["effect"] == "applied"
            elif record["eventName"] == "RotateAlias" and not is_intent(record):
                effects[record["requestID"]] = "errorCode" not in record
        for record in judge.journal.records:
            if record["eventName"] == "RotateAlias" and is_intent(record):
                last = record
                alias, old, new = (row["ARN"].split(":")[-1].removeprefix("key/") for row in record["resources"])
                if effects.get(record["requestID"]) and (old, new) not in chains[alias]:
                    chains[alias].append((old, new))
        self.state = "not begun"
        if self.reply is not None:
            self.state = "acknowledged"
        elif self.asked and last and self.asked[1] in json.dumps(last["requestParameters"]):
            self.state = "done" if effects[last["requestID"]] else "not done"
        for alias, chain in chains.items():
            entries = json.loads(instance.run("alias", "history", alias, "--json").stdout)["history"]
            keys = [entry["keyId"] for entry in entries]
            assert keys == [old for old, _ in chain] + [chain[-1][1]], f"{alias}: {keys}, the log has {chain}"
            assert len(set(keys)) == len(keys), f"{alias} was at one key twice: {keys}"
            for entry, after in zip(entries, entries[1:]):
                assert entry["endedBy"] == "rotate" and entry["until"] == after["from"], (entry, after)
            assert {keys[-1]} == judge.ledger.aliases[alias]
            for key in keys[-2:]:
                tags = judge.call("ListResourceTags", {"KeyId": key})["Tags"]
                assert tags == [{"TagKey": "app", "TagValue": alias}], tags
        objects = instance.doctor()["objects"]
        assert not objects["withoutRecord"], objects

    def about(self, judge):
        return {"met": dict(sorted(self.met.items())), "asked again": dict(self.again), "calls of the clients": self.calls,
                "keys undone": sum(start["unfinishedKeysUndone"] for start in judge.starts)}


class Watch:
    """Sees from outside how far a rotation is."""

    def __init__(self, instance, spy):
        self.instance, self.spy = instance, spy
        self.wal = instance.database.with_name(instance.database.name + "-wal")
        self.segment = instance.segments()[-1]
        self.read_to = self.segment.stat().st_size
        self.spy_to = spy.log.stat().st_size
        self.files = count(instance.token_dir)

    def wait_for(self, aim, dice, took, sender):
        if aim == "random":
            time.sleep(dice.uniform(0, 1.5) * took)
            return
        if aim == "late":
            # Answered, or about to be: what was told is done.
            sender.join(60)
            return
        give_up = time.monotonic() + 60
        self.until(lambda: self.journal_has("HsmBridgeIntent"), give_up, sender)
        if aim == "row":
            self.until(self.store_written(), give_up, sender)
        elif aim == "generate":
            self.until(lambda: b": C_GenerateKey" in self.new_of(self.spy.log, self.spy_to), give_up, sender)
        elif aim in ("object", "commit"):
            self.until(lambda: count(self.instance.token_dir) > self.files, give_up, sender)
            if aim == "commit":
                self.until(self.store_written(), give_up, sender)
        elif aim == "outcome":
            self.until(lambda: self.journal_has("AwsApiCall"), give_up, sender)

    def until(self, seen, give_up, sender):
        while not seen() and sender.is_alive():
            assert time.monotonic() < give_up, "the step was not seen, and the rotation not answered"

    def journal_has(self, kind):
        lines = self.new_of(self.segment, self.read_to).split(b"\n")
        return any(b'"RotateAlias"' in line and kind.encode() in line for line in lines)

    def store_written(self):
        def now():
            if not self.wal.exists():
                return None
            found = self.wal.stat()
            return found.st_size, found.st_mtime_ns
        before = now()
        return lambda: now() != before

    @staticmethod
    def new_of(path, offset):
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read()


def count(directory):
    return sum(1 for _ in directory.iterdir())
