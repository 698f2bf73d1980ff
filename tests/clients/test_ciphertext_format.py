"""`docs/ciphertext-format.md` taken at its word: blobs opened and made in the token, by another program, from the page alone.

The layout stands here a second time, written from the page and not from the code. The token is asked through python-pkcs11.
"""

import secrets
import struct
import uuid

import pytest

from checks import ABSENT, members, refused
from token_tool import key_id_hex, token

LABEL = b"hsm-bridge/kms/1"
HEADER = ">3sBBB16sIB"
HEADER_LENGTH, IV_LENGTH, TAG_LENGTH = 27, 12, 16
# Of suite 2.
LONG_IV_LENGTH = 16
CONTEXTS = [{}, {"tenant": "blue"}, {"app": "shop", "Tenant": "7"}, {"b": "", "a": "=", "aa": "x", "ü": "ö", "u\u0308": "o\u0308"},
            {f"key-{n}": "v" * 200 for n in range(35)}]


def header(key, version=1, suite=1, flags=0, generation=0, iv_length=IV_LENGTH):
    return struct.pack(HEADER, b"HBK", version, suite, flags, uuid.UUID(key).bytes, generation, iv_length)


def canonical(context):
    pairs = sorted((name.encode(), value.encode()) for name, value in context.items())
    return b"".join(struct.pack(">I", len(text)) + text for pair in pairs for text in pair)


def opened_by_hand(bridge, blob, context):
    head, iv, sealed = blob[:HEADER_LENGTH], blob[HEADER_LENGTH:HEADER_LENGTH + IV_LENGTH], blob[HEADER_LENGTH + IV_LENGTH:]
    magic, version, suite, flags, key_id, generation, iv_length = struct.unpack(HEADER, head)
    assert (magic, version, suite, flags, generation, iv_length) == (b"HBK", 1, 1, 0, 0, IV_LENGTH)
    return token(bridge, "gcm-open", raw_id=key_id.hex(), message=sealed, iv=iv, aad=LABEL + head + canonical(context))


def made_by_hand(bridge, key, plaintext, context, head=None, label=LABEL, iv_length=IV_LENGTH):
    """A blob under a key of KMS. `head` replaces the header, in the blob and in what is authenticated."""
    head, iv = head or header(key), secrets.token_bytes(iv_length)
    return head + iv + token(bridge, "gcm-make", key=key, message=plaintext, iv=iv, aad=label + head + canonical(context))


@pytest.mark.parametrize("context", CONTEXTS, ids=range(len(CONTEXTS)))
def test_a_blob_of_kms_opens_in_the_token(bridge, context):
    key, plaintext = bridge.key(), bridge.canary()
    blob = bridge.kms.encrypt(KeyId=key, Plaintext=plaintext, EncryptionContext=context)["CiphertextBlob"]
    assert blob[:HEADER_LENGTH] == header(key)
    assert len(blob) == HEADER_LENGTH + IV_LENGTH + len(plaintext) + TAG_LENGTH
    assert opened_by_hand(bridge, blob, context) == plaintext
    with pytest.raises(AssertionError, match="gcm-open"):
        opened_by_hand(bridge, blob, context | {"more": ""})


def test_every_operation_makes_this_form(bridge):
    key, target, context = bridge.key(), bridge.key(purpose="re-encrypt target"), {"a": "b"}
    data_key = bridge.kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
    bridge.plaintexts.add(data_key["Plaintext"])
    assert opened_by_hand(bridge, data_key["CiphertextBlob"], context) == data_key["Plaintext"]
    silent = bridge.kms.generate_data_key_without_plaintext(KeyId=key, NumberOfBytes=24)["CiphertextBlob"]
    assert len(opened_by_hand(bridge, silent, {})) == 24
    moved = bridge.kms.re_encrypt(CiphertextBlob=data_key["CiphertextBlob"], SourceEncryptionContext=context, DestinationKeyId=target)
    assert moved["CiphertextBlob"][:HEADER_LENGTH] == header(target)
    assert opened_by_hand(bridge, moved["CiphertextBlob"], {}) == data_key["Plaintext"]


@pytest.mark.parametrize("context", CONTEXTS, ids=range(len(CONTEXTS)))
def test_a_blob_made_in_the_token_opens_in_kms(bridge, context):
    key, plaintext = bridge.key(), bridge.canary()
    blob = made_by_hand(bridge, key, plaintext, context)
    answer = members(bridge.kms.decrypt(CiphertextBlob=blob, EncryptionContext=dict(reversed(context.items()))))
    assert (answer["Plaintext"], answer["KeyId"]) == (plaintext, bridge.key_arn(key))
    with refused("InvalidCiphertextException", ABSENT):
        bridge.kms.decrypt(CiphertextBlob=blob, EncryptionContext=context | {"more": ""})


def test_lengths_at_the_edges(bridge):
    key = bridge.key()
    for length in (1, 4096):
        plaintext = secrets.token_bytes(length)
        assert bridge.kms.decrypt(CiphertextBlob=made_by_hand(bridge, key, plaintext, {}))["Plaintext"] == plaintext
        assert opened_by_hand(bridge, bridge.kms.encrypt(KeyId=key, Plaintext=plaintext)["CiphertextBlob"], {}) == plaintext


def test_suite_2(bridge):
    """What tokens make that choose IVs of 16 bytes. This one does not, and opens it."""
    key, plaintext = bridge.key(), bridge.canary()
    head = header(key, suite=2, iv_length=LONG_IV_LENGTH)
    blob = made_by_hand(bridge, key, plaintext, {"a": "b"}, head=head, iv_length=LONG_IV_LENGTH)
    assert bridge.kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "b"})["Plaintext"] == plaintext
    with refused("InvalidCiphertextException", ABSENT):
        bridge.kms.decrypt(CiphertextBlob=blob)


@pytest.mark.parametrize("iv_length", [IV_LENGTH, LONG_IV_LENGTH])
@pytest.mark.parametrize("change", [{"version": 0}, {"version": 2}, {"suite": 0}, {"suite": 2}, {"suite": 3}, {"flags": 1}, {"flags": 2},
                                    {"flags": 0x80}, {"generation": 1}, {"iv_length": 0}, {"iv_length": 16}, {"iv_length": 11},
                                    {"suite": 2, "iv_length": 11}, {"suite": 3, "iv_length": 16}],
                         ids=str)
def test_another_header_is_refused_though_the_token_sealed_it(bridge, change, iv_length):
    """Whoever has the token can seal any header. Only those of the page are opened."""
    key = bridge.key()
    blob = made_by_hand(bridge, key, b"p", {}, head=header(key, **change), iv_length=iv_length)
    with refused("InvalidCiphertextException", ABSENT):
        bridge.kms.decrypt(CiphertextBlob=blob)


def test_other_uses_of_aes_gcm_are_no_ciphertexts(bridge):
    key = bridge.key()
    for label in (b"", b"hsm-bridge/kms/2", b"hsm-bridge/kat/1", b"hsm-bridge/store/1"):
        with refused("InvalidCiphertextException", ABSENT):
            bridge.kms.decrypt(CiphertextBlob=made_by_hand(bridge, key, b"p", {}, label=label))


def test_inspect_shows_the_same_fields(bridge):
    key = bridge.key()
    blob = bridge.kms.encrypt(KeyId=key, Plaintext=b"hello")["CiphertextBlob"]
    (bridge.root / "inspected").write_bytes(blob)
    out = bridge.run("ciphertext", "inspect", bridge.root / "inspected").stdout
    shown = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
    shown = {name: value.strip() for name, value in shown.items()}
    iv, tag = blob[HEADER_LENGTH:HEADER_LENGTH + IV_LENGTH], blob[-TAG_LENGTH:]
    assert (shown["key id"], shown["generation"], shown["IV"], shown["tag"]) == (key, "0", iv.hex(), tag.hex())
    assert (LABEL + blob[:HEADER_LENGTH]).hex() in out and key_id_hex(key) in out
