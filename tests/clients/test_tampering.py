"""Ciphertexts that were changed: refused every one, without a word, and without harm to anybody else."""

import random
import threading
import time

import pytest

from checks import ABSENT, refused
from kmsclient import b64

CONTEXT = {"a": "1", "b": "2"}
BAD_BLOBS = 10_000


@pytest.fixture
def sealed(either):
    key = either.key()
    return either, either.kms.encrypt(KeyId=key, Plaintext=b"small", EncryptionContext=CONTEXT)["CiphertextBlob"]


def must_refuse(raw, blob, context=CONTEXT):
    reply = raw.call("Decrypt", {"CiphertextBlob": b64(blob), "EncryptionContext": context})
    assert reply.status == 400, reply
    assert reply.json() == {"__type": "InvalidCiphertextException"}, "nothing but the name"


def test_a_flipped_bit_in_each_byte(sealed):
    bridge, blob = sealed
    raw = bridge.raw()
    for at in range(len(blob)):
        for bit in {at % 8, 7}:
            must_refuse(raw, blob[:at] + bytes([blob[at] ^ 1 << bit]) + blob[at + 1:])
    raw.close()
    assert bridge.kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"] == b"small"


def test_cut_and_lengthened(sealed):
    bridge, blob = sealed
    raw = bridge.raw()
    for length in range(1, len(blob)):
        must_refuse(raw, blob[:length])
    for tail in (b"\0", b"\xff", b"x" * 16, blob):
        must_refuse(raw, blob + tail)
    for wrong in (blob[1:], blob[::-1], b64(blob).encode(), b"x", bytes(len(blob)), b"\xff" * 6144):
        must_refuse(raw, wrong)


def test_wrong_contexts(sealed):
    bridge, blob = sealed
    for context in ({}, {"a": "1"}, {"a": "1", "b": "3"}, {"a": "1", "b": "2", "c": ""}, {"a": "2", "b": "1"}):
        with refused("InvalidCiphertextException", ABSENT):
            bridge.kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)


def test_parts_of_two_ciphertexts_do_not_mix(bridge):
    key, other = bridge.key(), bridge.key(purpose="another")
    one, two, theirs = (bridge.kms.encrypt(KeyId=k, Plaintext=p)["CiphertextBlob"]
                        for k, p in ((key, b"one!"), (key, b"two!"), (other, b"one!")))
    assert len(one) == len(two) == len(theirs)
    raw = bridge.raw()
    for partner in (two, theirs):
        # Where both agree, as in the header, a cut there is no mixture.
        mixed = {one[:at] + partner[at:] for at in range(1, len(one))} - {one, partner}
        for blob in mixed:
            must_refuse(raw, blob, {})


def test_ten_thousand_bad_blobs_disturb_nobody(bridge):
    """One client sends nothing but changed ciphertexts; another works on as if it were alone."""
    key, ec_key = bridge.new_key(), bridge.key("ECC_NIST_P256")
    blob = bridge.kms.encrypt(KeyId=key, Plaintext=b"target", EncryptionContext=CONTEXT)["CiphertextBlob"]
    # The header names key and format; bits after it reach the token.
    dice, stop, failures, served = random.Random(1), threading.Event(), [], [0]

    def neighbour():
        try:
            while not stop.is_set():
                text = f"neighbour {served[0]}".encode()
                sealed = bridge.kms.encrypt(KeyId=key, Plaintext=text, EncryptionContext=CONTEXT)["CiphertextBlob"]
                assert bridge.kms.decrypt(CiphertextBlob=sealed, EncryptionContext=CONTEXT)["Plaintext"] == text
                if served[0] % 10 == 0:
                    signature = bridge.kms.sign(KeyId=ec_key, Message=text, SigningAlgorithm="ECDSA_SHA_256")["Signature"]
                    assert bridge.kms.verify(KeyId=ec_key, Message=text, Signature=signature, SigningAlgorithm="ECDSA_SHA_256")
                served[0] += 1
        except Exception as error:  # noqa: BLE001  whatever it was, the main thread reports it
            failures.append(error)

    friend = threading.Thread(target=neighbour, daemon=True)
    friend.start()
    raw, start = bridge.raw(), time.monotonic()
    try:
        for _ in range(BAD_BLOBS):
            at = dice.randrange(len(blob) // 2, len(blob))
            must_refuse(raw, blob[:at] + bytes([blob[at] ^ 1 << dice.randrange(8)]) + blob[at + 1:])
            if failures:
                break
    finally:
        stop.set()
        friend.join(60)
    took = time.monotonic() - start
    print(f"{BAD_BLOBS} bad blobs in {took:.1f} s, {served[0]} good rounds of the neighbour meanwhile")
    assert not failures, failures[0]
    assert not friend.is_alive() and served[0] > 0
    assert bridge.kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"] == b"target"
