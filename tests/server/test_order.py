"""Two things wrong at once: which error wins, and that nothing of it reached the token."""

import base64
import json

import pytest

from instance import is_intent, until
from spy import Spy

# What only a request can cause; the keeper looks after its session by itself.
WORK = ("C_Encrypt", "C_Decrypt", "C_Sign", "C_GenerateKey", "C_GenerateKeyPair", "C_DestroyObject", "C_GenerateRandom", "C_FindObjects",
        "C_CreateObject", "C_EncryptInit", "C_DecryptInit", "C_SignInit")
UNKNOWN = "77777777-2222-4333-8444-555555555555"


def b64(data):
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def watched():
    """An instance with a spy before its token, a user who is denied everything, and a key of each kind and state."""
    from instance import Instance
    made = Instance("order")
    try:
        made.make_token()
        made.spy = Spy(made)
        made.sections["token"] = made.spy.token
        made.write_config()
        first = json.loads(made.run("init", "--json").stdout)
        made.access_key, made.secret_key = first["accessKeyId"], first["secretAccessKey"]
        made.start()
        user = json.loads(made.run("access-key", "create", "--user", "denied", "--json").stdout)
        made.user = {"access_key": user["accessKeyId"], "secret_key": user["secretAccessKey"]}
        made.key = made.new_key()
        made.disabled = made.new_key()
        made.blob = made.call("Encrypt", {"KeyId": made.key, "Plaintext": b64(b"secret")})["CiphertextBlob"]
        made.disabled_blob = made.call("Encrypt", {"KeyId": made.disabled, "Plaintext": b64(b"secret")})["CiphertextBlob"]
        made.call("DisableKey", {"KeyId": made.disabled})
        # The user's secret is opened in the token once a day: not by a case below.
        assert made.raw(**made.user).call("ListKeys").json()["__type"] == "AccessDeniedException"
        yield made
    finally:
        made.close()


def flipped(blob):
    raw = base64.b64decode(blob)
    return b64(raw[:-1] + bytes([raw[-1] ^ 1]))


def unsigned(raw, operation, **options):
    return raw.sign(operation, **options).without_header("Authorization")


def wrongly(raw, operation, *args, **options):
    request = raw.sign(operation, *args, **options)
    value = request.header("Authorization")
    return request.replacing("Authorization", value[:-1] + ("0" if value[-1] != "0" else "1"))


# What is wrong, first and second → (who, request, error, whether it has a record of its own)
CASES = {
    "unsigned, bad JSON": (None, lambda i, raw: unsigned(raw, "Encrypt", body=b"{"), "MissingAuthenticationTokenException", False),
    "unsigned, unknown target": (None, lambda i, raw: unsigned(raw, "Nonsense", body=b"{}"),
                                 ("MissingAuthenticationTokenException", "UnknownOperationException"), False),
    "bad signature, bad JSON": (None, lambda i, raw: wrongly(raw, "Encrypt", body=b"{"), "InvalidSignatureException", False),
    "bad signature, unknown key": (None, lambda i, raw: wrongly(raw, "Encrypt", {"KeyId": UNKNOWN, "Plaintext": "eA=="}),
                                   "InvalidSignatureException", False),
    "bad signature, bad ciphertext": (None, lambda i, raw: wrongly(raw, "Decrypt", {"CiphertextBlob": flipped(i.blob)}),
                                      "InvalidSignatureException", False),
    "old date, unknown key": (None, lambda i, raw: raw.sign("Encrypt", {"KeyId": UNKNOWN, "Plaintext": "eA=="}, age=3600),
                              "InvalidSignatureException", False),
    "denied user, bad JSON": ("user", lambda i, raw: raw.sign("Encrypt", body=b"{"), "SerializationException", True),
    "denied user, missing member": ("user", lambda i, raw: raw.sign("Encrypt", {"KeyId": i.key}), "ValidationException", True),
    "denied user, disabled key": ("user", lambda i, raw: raw.sign("Encrypt", {"KeyId": i.disabled, "Plaintext": "eA=="}),
                                  "AccessDeniedException", True),
    "denied user, disabled key, DryRun": ("user", lambda i, raw: raw.sign("Encrypt", {"KeyId": i.disabled, "Plaintext": "eA==",
                                                                                     "DryRun": True}), "AccessDeniedException", True),
    "denied user, bad ciphertext": ("user", lambda i, raw: raw.sign("Decrypt", {"CiphertextBlob": flipped(i.blob)}),
                                    "AccessDeniedException", True),
    "denied user, good ciphertext of a disabled key": ("user", lambda i, raw: raw.sign("Decrypt", {"CiphertextBlob": i.disabled_blob}),
                                                       "AccessDeniedException", True),
    "denied user, a policy that locks out": ("user", lambda i, raw: raw.sign("CreateKey", {"Policy": '{"Version":"2012-10-17"}'}),
                                             "AccessDeniedException", True),
    "denied user, window of a key pending deletion": ("user", lambda i, raw: raw.sign("ScheduleKeyDeletion", {"KeyId": i.disabled}),
                                                      "AccessDeniedException", True),
    "bad member, unknown key": (None, lambda i, raw: raw.sign("Encrypt", {"KeyId": UNKNOWN, "Plaintext": ""}), "ValidationException",
                                True),
    "disabled key, bad ciphertext": (None, lambda i, raw: raw.sign("Decrypt", {"CiphertextBlob": flipped(i.disabled_blob)}),
                                     "DisabledException", True),
    "disabled key, DryRun": (None, lambda i, raw: raw.sign("Encrypt", {"KeyId": i.disabled, "Plaintext": "eA==", "DryRun": True}),
                             "DisabledException", True),
    "wrong key id, bad ciphertext": (None, lambda i, raw: raw.sign("Decrypt", {"CiphertextBlob": flipped(i.blob), "KeyId": i.disabled}),
                                     "IncorrectKeyException", True),
    "DryRun of what would succeed": (None, lambda i, raw: raw.sign("Encrypt", {"KeyId": i.key, "Plaintext": "eA==", "DryRun": True}),
                                     "DryRunOperationException", True),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_error_wins_and_nothing_reaches_the_token(watched, case):
    who, request, error, recorded = CASES[case]
    raw = watched.raw(**(watched.user if who else {}))
    before = watched.spy.calls()
    reply = raw.send(request(watched, raw))
    assert reply.type in ((error,) if isinstance(error, str) else error), reply
    after = watched.spy.calls()
    assert {name: after[name] - before[name] for name in WORK if after[name] != before[name]} == {}
    mine = [record for record in watched.journal() if record.get("requestID") == reply.request_id]
    assert [is_intent(record) for record in mine] == ([False] if recorded else []), mine
    if recorded:
        # CloudTrail's word for the one is shorter.
        assert mine[0]["errorCode"] == reply.type.replace("AccessDeniedException", "AccessDenied")
        assert "hsm" not in mine[0]["additionalEventData"], mine[0]


def test_the_spy_sees_what_does_reach_the_token(watched):
    """Otherwise the test above could not fail."""
    before = watched.spy.calls()
    watched.call("Decrypt", {"CiphertextBlob": watched.blob})
    after = watched.spy.calls()
    assert after["C_Decrypt"] == before["C_Decrypt"] + 1


def test_strangers_are_counted_but_have_no_record_of_their_own(watched):
    raw = watched.raw()
    for _ in range(3):
        assert raw.send(unsigned(raw, "Encrypt", body=b"{")).status == 400
    metrics = until("the strangers are counted", lambda: watched.admin("/metrics")[1])
    assert "MissingAuthenticationTokenException" in metrics
