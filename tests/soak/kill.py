"""kill -9 under eight clients that mix CreateKey, CreateAlias, UpdateAlias, Encrypt, Decrypt and Sign."""

import random
import secrets
import threading

from attack import GONE, attack
from judge import ALGORITHM, b64, unb64

SPECS = ["SYMMETRIC_DEFAULT", "ECC_NIST_P256"]
CLIENTS = 8
ALIASES = 4
# A round is killed at a random moment up to this many seconds after its clients began.
LONGEST = 0.5
MIX = {"create": 2, "alias": 4, "encrypt": 5, "decrypt": 4, "sign": 4}


class Client(threading.Thread):
    """Works until the server is gone. Notes what it was told, and what it may have done without being told."""

    def __init__(self, number, instance, ledger, seed, begin):
        super().__init__(daemon=True)
        self.number, self.instance, self.ledger, self.begin = number, instance, ledger, begin
        self.dice = random.Random(seed)
        self.client = instance.raw()
        self.wrong = None

    def run(self):
        self.begin.wait()
        kinds, weights = zip(*MIX.items())
        try:
            while True:
                getattr(self, self.dice.choices(kinds, weights)[0])()
        except GONE:
            pass
        except BaseException as error:  # noqa: BLE001  the main thread reports it
            self.wrong = error

    def call(self, operation, params):
        try:
            reply = self.client.call(operation, params)
        except GONE:
            self.ledger.unanswered[operation] += 1
            raise
        assert reply.status == 200, f"{operation} {params}: {reply.status} {reply.body[:500]!r}"
        self.ledger.acknowledge(operation, reply)
        return reply.json() if reply.body else {}

    def create(self, spec=None):
        spec = spec or self.dice.choice(SPECS)
        usage = {} if spec == "SYMMETRIC_DEFAULT" else {"KeyUsage": "SIGN_VERIFY"}
        made = self.call("CreateKey", {"KeySpec": spec} | usage)
        self.ledger.add_key(made["KeyMetadata"]["KeyId"], spec)

    def alias(self):
        """Each client has aliases of its own, so that their order is known."""
        key = self.ledger.any_key(self.dice, symmetric=True)
        name = f"alias/soak-{self.number}-{self.dice.randrange(ALIASES)}"
        before = self.ledger.aliases.get(name, {None})
        operation = "CreateAlias" if before == {None} else "UpdateAlias"
        # True from now on until the answer says which.
        self.ledger.aliases[name] = before | {key}
        self.call(operation, {"AliasName": name, "TargetKeyId": key})
        self.ledger.aliases[name] = {key}

    def encrypt(self):
        key = self.ledger.any_key(self.dice, symmetric=True)
        plaintext, context = secrets.token_bytes(self.dice.randrange(1, 200)), {"client": str(self.number), "n": secrets.token_hex(4)}
        answer = self.call("Encrypt", {"KeyId": key, "Plaintext": b64(plaintext), "EncryptionContext": context})
        self.ledger.add_sealed(key, unb64(answer["CiphertextBlob"]), plaintext, context)

    def decrypt(self):
        fact = self.ledger.any_sealed(self.dice)
        if fact:
            _, blob, plaintext, context = fact
            answer = self.call("Decrypt", {"CiphertextBlob": b64(blob), "EncryptionContext": context})
            assert unb64(answer["Plaintext"]) == plaintext

    def sign(self):
        key = self.ledger.any_key(self.dice, symmetric=False)
        message = secrets.token_bytes(40)
        params = {"KeyId": key, "Message": b64(message), "SigningAlgorithm": ALGORITHM["ECC_NIST_P256"]}
        self.ledger.add_signed(key, message, unb64(self.call("Sign", params)["Signature"]))


class Kill:
    def warm_up(self, instance, ledger):
        """One key of each kind, so that every call of the mix has something to work on."""
        begin = threading.Barrier(1)
        first = Client(0, instance, ledger, 0, begin)
        for spec in SPECS:
            first.create(spec)

    def attack(self, instance, ledger, dice, _round):
        """One round: the clients work, and the server is killed among them."""
        begin = threading.Barrier(CLIENTS + 1)
        clients = [Client(number, instance, ledger, dice.random(), begin) for number in range(CLIENTS)]
        attack(clients, begin, instance, dice.uniform(0.02, LONGEST))

    def hit(self, _start):
        return True

    def about(self, judge):
        return {"keys undone": sum(start["unfinishedKeysUndone"] for start in judge.starts)}
