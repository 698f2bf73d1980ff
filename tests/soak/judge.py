"""What was promised, and whether it was kept. Judges by what an auditor and a client can see: replies, the journal's lines read by
this file, the token as another PKCS#11 program lists it, and python-cryptography. Knows nothing of the program's code."""

import base64
import json
import random
import subprocess
import threading
from collections import Counter

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding

from bridge import clean_env
from instance import ACCOUNT, MODULE, REGION, is_intent

ALGORITHM = {"ECC_NIST_P256": "ECDSA_SHA_256", "RSA_2048": "RSASSA_PSS_SHA_256"}
# Of one object; all others are pairs.
SECRET_KEYS = ("SYMMETRIC_DEFAULT", "HMAC_256")
# Operations that make a key.
MAKERS = ("CreateKey", "RotateAlias")
# Older facts looked at after each kill; all of them at the end.
SAMPLE = 12
# Names of objects that are ours in the token.
LABEL = "hsm-bridge/kms/"
# Of the log: the halves of its two key pairs, and its head once one was written.
AUDIT_LABEL = "hsm-bridge/audit-"
AUDIT_KEY_OBJECTS = 4


def b64(data):
    return base64.b64encode(data).decode()


def unb64(text):
    return base64.b64decode(text)


class Ledger:
    """Facts that were acknowledged, and what may be true besides because its answer never came."""

    def __init__(self):
        self.lock = threading.Lock()
        self.keys = {}          # key id → spec
        self.public = {}        # key id → public key, for key pairs
        self.aliases = {}       # name → the targets it may have; None: absent
        self.sealed = []        # (key id, blob, plaintext, context)
        self.signed = []        # (key id, message, signature)
        self.requests = {}      # request id → operation, acknowledged
        self.fresh = []         # key ids and facts of this round
        self.unanswered = Counter()

    def begin_round(self):
        self.fresh = []

    def acknowledge(self, operation, reply):
        with self.lock:
            assert reply.request_id, f"{operation} was answered without a request id"
            self.requests[reply.request_id] = operation

    def add_key(self, key, spec):
        with self.lock:
            self.keys[key] = spec
            self.fresh.append(("key", key))

    def add_sealed(self, *fact):
        with self.lock:
            self.sealed.append(fact)
            self.fresh.append(("sealed", fact))

    def add_signed(self, *fact):
        with self.lock:
            self.signed.append(fact)
            self.fresh.append(("signed", fact))

    def any_key(self, dice, symmetric):
        with self.lock:
            fitting = [key for key, spec in self.keys.items() if (spec == "SYMMETRIC_DEFAULT") == symmetric]
        return dice.choice(fitting) if fitting else None

    def any_sealed(self, dice):
        with self.lock:
            return dice.choice(self.sealed) if self.sealed else None


class JournalReader:
    """Reads on from where it stopped. A complete line never changes; `reread_all` looks whether that is so."""

    def __init__(self, instance):
        self.instance = instance
        self.offsets, self.records = {}, []

    def read_on(self):
        new = []
        for path in self.instance.segments():
            data = path.read_bytes()[self.offsets.get(path.name, 0):]
            whole = data.rfind(b"\n") + 1
            self.offsets[path.name] = self.offsets.get(path.name, 0) + whole
            new += [json.loads(line) for line in data[:whole].split(b"\n")[:-1]]
        self.records += new
        return new

    def reread_all(self):
        again = self.instance.journal()
        assert again == self.records, "the journal's older records are not what they were"


class Judge:
    def __init__(self, instance, ledger, seed):
        self.instance, self.ledger = instance, ledger
        self.journal = JournalReader(instance)
        self.dice = random.Random(seed)
        self.closed, self.intents, self.made, self.starts = Counter(), {}, set(), []
        self.effects = Counter()
        self.unreadable = 0
        # False: a key whose making failed may have its row until the next start undoes it.
        self.settled = True

    def look(self, everything=False, whole=True):
        """After a restart. Everything that was acknowledged in the killed run is checked, and a sample of what is older. `whole`: the
        whole log is verified and the whole token read, which takes longer each time."""
        self.read_journal()
        assert not whole or self.instance.verify()["verdict"] == "OK"
        self.check_keys()
        self.check_aliases()
        self.check_facts(everything)
        if whole:
            self.check_token()

    # -- the journal --------------------------------------------------------------------------------------------------

    def read_journal(self):
        for record in self.journal.read_on():
            request, name = record.get("requestID"), record["eventName"]
            if is_intent(record):
                assert request not in self.intents, f"two intents of {request}"
                self.intents[request] = record
            elif request:
                self.closed[request] += 1
                if name == "OutcomeUnknown":
                    self.settle(record)
                elif name in MAKERS and "errorCode" not in record:
                    self.was_made(record)
            elif name == "Start":
                self.starts.append(details(record))
        lost = self.ledger.requests.keys() - self.closed.keys()
        assert not lost, f"{len(lost)} acknowledged requests are not in the log, such as {sorted(lost)[:3]}"
        twice = [request for request, times in self.closed.items() if times != 1]
        assert not twice, f"requests with more than one outcome: {twice[:3]}"
        dangling = self.intents.keys() - self.closed.keys()
        assert not dangling, f"intents without an outcome after a restart: {sorted(dangling)[:3]}"

    def settle(self, record):
        request, effect = record["requestID"], details(record)["effect"]
        assert request not in self.ledger.requests, f"an acknowledged {self.ledger.requests[request]} has an unknown outcome"
        intent = self.intents.get(request)
        assert intent, f"OutcomeUnknown of {request}, which no intent has"
        assert effect in ("applied", "not applied"), record
        self.effects[f"{intent['eventName']} {effect}"] += 1
        if intent["eventName"] in MAKERS and effect == "applied":
            self.was_made(intent)

    def was_made(self, record):
        """CreateKey's key; for RotateAlias the log says exactly where the alias is now."""
        key = key_of(record)
        if record["eventName"] == "RotateAlias" and key not in self.made:
            self.ledger.aliases[record["resources"][0]["ARN"].split(":")[-1]] = {key}
        self.made.add(key)

    # -- keys and aliases ---------------------------------------------------------------------------------------------

    def check_keys(self):
        listed = {row["KeyId"] for row in self.pages("ListKeys", "Keys")}
        lost = self.ledger.keys.keys() - listed
        assert not lost, f"{len(lost)} acknowledged keys are gone, such as {sorted(lost)[:3]}"
        # Nobody was told of the others, but the log was: what it calls made is there, what it does not is not.
        assert listed == self.made, f"{sorted(listed - self.made)[:3]} are there, {sorted(self.made - listed)[:3]} are not"
        for key in listed - self.ledger.keys.keys():
            self.ledger.add_key(key, self.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["KeySpec"])
        self.listed = listed

    def check_aliases(self):
        found = {row["AliasName"]: row["TargetKeyId"] for row in self.pages("ListAliases", "Aliases")}
        for name, targets in self.ledger.aliases.items():
            assert found.get(name) in targets, f"{name} points to {found.get(name)}, not to one of {targets}"
            self.ledger.aliases[name] = {found.get(name)}
        strange = found.keys() - self.ledger.aliases.keys()
        assert not strange, f"aliases that nobody asked for: {strange}"

    def pages(self, operation, member):
        rows, marker = [], {}
        while True:
            answer = self.call(operation, {"Limit": 100} | marker)
            rows += answer[member]
            if not answer["Truncated"]:
                return rows
            marker = {"Marker": answer["NextMarker"]}

    # -- every acknowledged thing still works -------------------------------------------------------------------------

    def check_facts(self, everything):
        ledger = self.ledger
        if everything:
            facts = [("key", key) for key in ledger.keys]
            facts += [("sealed", fact) for fact in ledger.sealed] + [("signed", fact) for fact in ledger.signed]
        else:
            facts = list(ledger.fresh)
            for kind, pool in (("key", list(ledger.keys)), ("sealed", ledger.sealed), ("signed", ledger.signed)):
                facts += [(kind, fact) for fact in self.dice.sample(pool, min(SAMPLE, len(pool)))]
        for kind, fact in facts:
            {"key": self.key_works, "sealed": self.opens, "signed": self.verifies}[kind](fact)

    def key_works(self, key):
        spec = self.ledger.keys[key]
        metadata = self.call("DescribeKey", {"KeyId": key})["KeyMetadata"]
        assert (metadata["KeyState"], metadata["KeySpec"]) == ("Enabled", spec), metadata
        if spec == "SYMMETRIC_DEFAULT":
            sealed = self.call("Encrypt", {"KeyId": key, "Plaintext": b64(key.encode())})["CiphertextBlob"]
            self.opens((key, unb64(sealed), key.encode(), {}))
        elif spec == "HMAC_256":
            params = {"KeyId": key, "Message": b64(key.encode()), "MacAlgorithm": "HMAC_SHA_256"}
            mac = self.call("GenerateMac", params)["Mac"]
            assert self.call("VerifyMac", params | {"Mac": mac})["MacValid"]
        else:
            self.verifies((key, key.encode(), self.sign(key, key.encode())))

    def opens(self, fact):
        key, blob, plaintext, context = fact
        answer = self.call("Decrypt", {"CiphertextBlob": b64(blob), "EncryptionContext": context})
        assert unb64(answer["Plaintext"]) == plaintext, f"a ciphertext of {key} opens to something else"
        assert answer["KeyId"] == self.instance.key_arn(key)

    def sign(self, key, message):
        params = {"KeyId": key, "Message": b64(message), "SigningAlgorithm": ALGORITHM[self.ledger.keys[key]]}
        return unb64(self.call("Sign", params)["Signature"])

    def verifies(self, fact):
        """By python-cryptography, on the public key as it is now and as it was when it was first seen."""
        key, message, signature = fact
        der = unb64(self.call("GetPublicKey", {"KeyId": key})["PublicKey"])
        assert self.ledger.public.setdefault(key, der) == der, f"{key} has another public key than before"
        public = serialization.load_der_public_key(der)
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        else:
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
            public.verify(signature, message, pss, hashes.SHA256())

    # -- the token ----------------------------------------------------------------------------------------------------

    def check_token(self):
        """Debris is told, and no key is without its object."""
        report = self.instance.doctor()
        objects = report["objects"]
        assert report["status"] == "ready"
        assert not objects["recordsWithoutObject"], objects["recordsWithoutObject"]
        # No row of a key that was not finished is left: what is counted is what is listed.
        unfinished = report["store"]["keys"] - len(self.listed)
        assert unfinished == 0 or (unfinished > 0 and not self.settled), (report["store"], len(self.listed))
        assert objects["unreadable"] >= self.unreadable, "debris went away by itself"
        self.unreadable = objects["unreadable"]
        return objects

    def check_token_from_outside(self):
        """The whole token as pkcs11-tool lists it, beside what `doctor` says of it."""
        objects = self.instance.doctor()["objects"]
        env = clean_env(SOFTHSM2_CONF=str(self.instance.softhsm_conf), TOKEN_PIN=self.instance.pin)
        done = subprocess.run(["pkcs11-tool", "--module", MODULE, "--token-label", self.instance.label, "--login", "--pin", "env:TOKEN_PIN",
                               "-O"], env=env, capture_output=True, timeout=600)
        text = done.stdout.decode(errors="replace")
        heads = [line for line in text.splitlines() if line and not line.startswith((" ", "\t"))]
        named = [line.split(":", 1)[1].strip().strip("'") for line in text.splitlines() if line.strip().startswith("label:")]
        labels = set(named)
        lost = {LABEL + key for key in self.ledger.keys} - labels
        assert not lost, f"pkcs11-tool does not see {sorted(lost)[:3]}"
        # Objects of keys that no record knows: whoever is named there must be in the report.
        orphans = {label for label in labels if label.startswith(LABEL)} - {LABEL + key for key in self.ledger.keys}
        told = {label for row in objects["withoutRecord"] for label in row["labels"]}
        assert orphans <= told, f"not told: {sorted(orphans - told)[:3]}"
        audit = sum(label.startswith(AUDIT_LABEL) for label in named)
        assert audit - AUDIT_KEY_OBJECTS in (0, 1), f"{audit} objects of the log: {sorted(labels)}"
        # Two system keys, what is the log's, one object of a secret key, two of a pair; all else is debris, and has to be told.
        expected = 2 + audit + sum(1 if spec in SECRET_KEYS else 2 for spec in self.ledger.keys.values())
        told = objects["unreadable"] + len(objects["withoutRecord"])
        assert objects["inToken"] == len(heads) == expected + told, (objects, len(heads), expected)
        # SoftHSM shows no files that are empty, so nobody but a person who looks there sees them.
        return {"files": len(list(self.instance.token_dir.glob("*.object"))), "pkcs11-tool": len(heads), "doctor": objects["inToken"],
                "unreadable": objects["unreadable"], "without record": len(objects["withoutRecord"])}

    def call(self, operation, params):
        reply = self.client.call(operation, params)
        assert reply.status == 200, f"{operation} {params}: {reply.status} {reply.body[:500]!r}"
        self.ledger.acknowledge(operation, reply)
        return reply.json()

    def connect(self):
        self.client = self.instance.raw()


def details(record):
    return record["additionalEventData"]["details"]


def key_of(record):
    """The key id of the key that a record's call made: the last of its resources."""
    prefix = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/"
    arn = record["resources"][-1]["ARN"]
    assert arn.startswith(prefix), arn
    return arn.removeprefix(prefix)
