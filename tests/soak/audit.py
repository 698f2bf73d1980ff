"""kill -9 at random moments under 64 clients: every answer that a client got is in the log, and the log verifies."""

import base64
import random
import threading

from attack import GONE, attack

CLIENTS = 64
# A round is killed at a random moment up to this many seconds after its clients began.
LONGEST = 0.4


class Client(threading.Thread):
    """Reads and cryptographic operations, which have one record each, and a change now and then, which has two."""

    def __init__(self, number, instance, ledger, key, blob, dice, begin):
        super().__init__(daemon=True)
        self.ledger, self.key, self.begin, self.dice, self.wrong = ledger, key, begin, dice, None
        self.number, self.blob, self.client = number, blob, instance.raw()

    def run(self):
        self.begin.wait()
        calls = [("Encrypt", {"KeyId": self.key, "Plaintext": "eA=="}), ("DescribeKey", {"KeyId": self.key}),
                 ("Decrypt", {"CiphertextBlob": self.blob}), ("GenerateRandom", {"NumberOfBytes": 16})]
        change = ("TagResource", {"KeyId": self.key, "Tags": [{"TagKey": f"client-{self.number % 40}", "TagValue": "x"}]})
        try:
            while True:
                operation, params = change if self.dice.random() < 0.05 else self.dice.choice(calls)
                try:
                    reply = self.client.call(operation, params)
                except GONE:
                    self.ledger.unanswered[operation] += 1
                    raise
                assert reply.status == 200, f"{operation}: {reply.status} {reply.body[:300]!r}"
                self.ledger.acknowledge(operation, reply)
        except GONE:
            pass
        except BaseException as error:  # noqa: BLE001  the main thread reports it
            self.wrong = error


class Audit:
    def prepare(self, instance):
        # Every kind of file is made while the kills come.
        instance.sections.setdefault("audit", {}).update(
            {"segment_bytes": 1 << 20, "checkpoint_seconds": 1, "seal_seconds": 2, "digest_seconds": 3})

    def warm_up(self, instance, ledger):
        self.key = instance.new_key()
        ledger.add_key(self.key, "SYMMETRIC_DEFAULT")
        plaintext = base64.b64encode(b"soak").decode()
        self.blob = instance.call("Encrypt", {"KeyId": self.key, "Plaintext": plaintext})["CiphertextBlob"]

    def attack(self, instance, ledger, dice, _round):
        begin = threading.Barrier(CLIENTS + 1)
        clients = [Client(n, instance, ledger, self.key, self.blob, random.Random(dice.random()), begin) for n in range(CLIENTS)]
        attack(clients, begin, instance, dice.uniform(0.01, LONGEST))

    def hit(self, _start):
        return True

    def about(self, judge):
        return {"unclean starts": sum(start["uncleanStop"] for start in judge.starts),
                "torn bytes": sum(start["tornBytes"] for start in judge.starts)}
