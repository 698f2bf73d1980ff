"""kill -9 inside C_GenerateKey and C_GenerateKeyPair.

Half of the rounds aim by the clock: a random moment within the time that CreateKey took when nobody killed it. The other half aim
by the token: SoftHSM writes the object's file from inside the call, so the kill comes when a new file appears, or up to a
millisecond later. A round counts when the next start finds the row of a key that was not finished."""

import os
import threading
import time
from collections import Counter

from attack import GONE, join

SPECS = ["SYMMETRIC_DEFAULT", "ECC_NIST_P256", "SYMMETRIC_DEFAULT", "RSA_2048"]
SENDERS = 3


class Generate:
    def __init__(self):
        self.hits, self.attempts = Counter(), 0
        self.took, self.spec = {}, None

    def warm_up(self, instance, ledger):
        """Keys that live through everything, and how long CreateKey takes here."""
        for spec in sorted(set(SPECS)):
            began = time.monotonic()
            self.create(instance.raw(), ledger, spec)
            self.took[spec] = time.monotonic() - began

    def create(self, client, ledger, spec):
        usage = {} if spec == "SYMMETRIC_DEFAULT" else {"KeyUsage": "SIGN_VERIFY"}
        request = client.sign("CreateKey", {"KeySpec": spec} | usage)
        try:
            reply = client.send(request)
        except GONE:
            ledger.unanswered["CreateKey"] += 1
            return
        assert reply.status == 200, f"CreateKey: {reply.status} {reply.body[:500]!r}"
        ledger.acknowledge("CreateKey", reply)
        ledger.add_key(reply.json()["KeyMetadata"]["KeyId"], spec)

    def attack(self, instance, ledger, dice, round_number):
        self.spec = SPECS[round_number % len(SPECS)]
        self.attempts += 1
        token = instance.token_dir
        before = count(token)
        senders = [threading.Thread(target=self.create, args=(instance.raw(), ledger, self.spec), daemon=True) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        if self.attempts % 2:
            give_up = time.monotonic() + 2
            while count(token) == before and time.monotonic() < give_up:
                pass
            if dice.random() < 0.5:
                time.sleep(dice.uniform(0, 0.001))
        else:
            time.sleep(dice.uniform(0, 1.5) * self.took[self.spec])
        instance.kill()
        join(senders)

    def hit(self, start):
        undone = start["unfinishedKeysUndone"] > 0
        self.hits[self.spec] += undone
        return undone

    def about(self, judge):
        return {"kills": self.attempts, "inside, by spec": dict(self.hits),
                "keys undone": sum(start["unfinishedKeysUndone"] for start in judge.starts)}


def count(directory):
    with os.scandir(directory) as entries:
        return sum(1 for _ in entries)
