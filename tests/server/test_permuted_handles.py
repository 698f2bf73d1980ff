"""Numbers of objects that are dealt anew at every login and every C_Initialize, so that a stale handle is another key of the same kind,
under a mixed load on 100 keys: everything opens and verifies under its own key, and under no other.
"""

import base64
import random
import threading

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from faults import Faults, rule
from instance import until

# 100 in all.
KEYS = {"SYMMETRIC_DEFAULT": 60, "ECC_NIST_P256": 25, "HMAC_256": 15}
USAGE = {"SYMMETRIC_DEFAULT": "ENCRYPT_DECRYPT", "ECC_NIST_P256": "SIGN_VERIFY", "HMAC_256": "GENERATE_VERIFY_MAC"}
CALLERS, DEALS = 6, 12
TOLD = {"KMSInternalException", "DependencyTimeoutException", "ThrottlingException"}


def b64(data):
    return base64.b64encode(data).decode()


class Caller(threading.Thread):
    def __init__(self, world, seed):
        super().__init__(daemon=True)
        self.world, self.dice, self.client, self.wrong, self.done = world, random.Random(seed), world.made.raw(), None, 0

    def run(self):
        try:
            while not self.world.stop.is_set():
                spec = self.dice.choice(list(KEYS))
                self.one(spec, self.dice.choice(self.world.keys[spec]))
        except BaseException as error:  # noqa: BLE001  the test reports it
            self.wrong = error

    def one(self, spec, key):
        text = self.dice.randbytes(24)
        if spec == "ECC_NIST_P256":
            answer = self.call("Sign", {"KeyId": key, "Message": b64(text), "SigningAlgorithm": "ECDSA_SHA_256"})
            made = answer and answer["Signature"]
        elif spec == "HMAC_256":
            answer = self.call("GenerateMac", {"KeyId": key, "Message": b64(text), "MacAlgorithm": "HMAC_SHA_256"})
            made = answer and answer["Mac"]
        else:
            answer = self.call("Encrypt", {"KeyId": key, "Plaintext": b64(text)})
            made = answer and answer["CiphertextBlob"]
            old = self.dice.choice(self.world.made_by[spec]) if self.world.made_by[spec] else None
            if old:
                opened = self.call("Decrypt", {"CiphertextBlob": old[2]})
                assert opened is None or (opened["Plaintext"], opened["KeyId"][-36:]) == (b64(old[1]), old[0]), "opened to something else"
        if made:
            self.world.made_by[spec].append((key, text, made))
            self.done += 1

    def call(self, operation, params):
        reply = self.client.call(operation, params)
        if reply.status == 200:
            return reply.json()
        assert reply.type in TOLD, f"{operation}: {reply.status} {reply.body[:300]!r}"
        self.world.stop.wait(0.01)
        return None


class World:
    def __init__(self, made):
        self.made, self.stop = made, threading.Event()
        self.keys = {spec: [made.new_key(KeySpec=spec, KeyUsage=USAGE[spec]) for _ in range(count)] for spec, count in KEYS.items()}
        self.public = {key: serialization.load_der_public_key(base64.b64decode(made.call("GetPublicKey", {"KeyId": key})["PublicKey"]))
                       for key in self.keys["ECC_NIST_P256"]}
        self.made_by = {spec: [] for spec in KEYS}


@pytest.mark.parametrize("isolation", ["in-process", "process"])
def test_every_ciphertext_opens_under_its_own_key_only(make, isolation):
    made = make(sections={"token": {"isolation": isolation, "retry_first_ms": 10, "retry_longest_ms": 100, "workers": 4}}).init()
    faults = Faults(made, behaviour={"permute_handles": True}).install(made)
    made.start()
    world = World(made)
    fixed = {key: made.call("GenerateMac", {"KeyId": key, "Message": b64(b"fixed"), "MacAlgorithm": "HMAC_SHA_256"})["Mac"]
             for key in world.keys["HMAC_256"]}
    callers = [Caller(world, seed) for seed in range(CALLERS)]
    for caller in callers:
        caller.start()
    deals = 0
    for number in range(DEALS):
        mark, before = faults.mark(), sum(caller.done for caller in callers)
        # In turn: everything is initialised again, and the login alone is lost.
        lost = rule("C_EncryptInit", nth=5, returns="CKR_DEVICE_ERROR") if number % 2 else rule("C_EncryptInit", nth=5, lose="login")
        faults.set(lost)
        until("the numbers are dealt anew", lambda: any(call.result == "CKR_OK" for call in faults.calls("C_Login", mark)) or broken(callers))
        faults.clear()
        until("the load goes on", lambda: sum(caller.done for caller in callers) > before + 30 or broken(callers))
        deals += faults.count("C_Login", mark)
    world.stop.set()
    for caller in callers:
        caller.join(60)
        if caller.wrong:
            raise caller.wrong
    assert deals >= DEALS
    until("ready", lambda: made.admin("/readyz")[0] == 200)
    check(made, world, fixed)
    made.stop()
    # And in a process that knows no older numbers.
    made.start()
    check(made, world, fixed)


def broken(callers):
    return any(caller.wrong for caller in callers)


def check(made, world, fixed):
    dice, client = random.Random(1), made.raw()
    sample = {spec: dice.sample(found, min(len(found), 100)) for spec, found in world.made_by.items()}
    assert all(len(found) > 20 for found in sample.values()), {spec: len(found) for spec, found in sample.items()}
    for key, text, blob in sample["SYMMETRIC_DEFAULT"]:
        answer = made.call("Decrypt", {"CiphertextBlob": blob})
        assert (answer["Plaintext"], answer["KeyId"]) == (b64(text), made.key_arn(key))
        # Under another key it does not open: asked for by name, and with that key's id written into the blob.
        other = dice.choice([one for one in world.keys["SYMMETRIC_DEFAULT"] if one != key])
        assert client.call("Decrypt", {"CiphertextBlob": blob, "KeyId": other}).type == "IncorrectKeyException"
        raw, own = base64.b64decode(blob), bytes.fromhex(key.replace("-", ""))
        assert raw.count(own) == 1
        forged = raw.replace(own, bytes.fromhex(other.replace("-", "")))
        assert client.call("Decrypt", {"CiphertextBlob": b64(forged)}).type == "InvalidCiphertextException"
    for key, text, signature in sample["ECC_NIST_P256"]:
        world.public[key].verify(base64.b64decode(signature), text, ec.ECDSA(hashes.SHA256()))
        other = dice.choice([one for one in world.keys["ECC_NIST_P256"] if one != key])
        with pytest.raises(InvalidSignature):
            world.public[other].verify(base64.b64decode(signature), text, ec.ECDSA(hashes.SHA256()))
    for key, text, mac in sample["HMAC_256"]:
        again = made.call("GenerateMac", {"KeyId": key, "Message": b64(text), "MacAlgorithm": "HMAC_SHA_256"})["Mac"]
        assert again == mac
    for key, mac in fixed.items():
        assert made.call("GenerateMac", {"KeyId": key, "Message": b64(b"fixed"), "MacAlgorithm": "HMAC_SHA_256"})["Mac"] == mac
    assert len(set(fixed.values())) == len(fixed)
