"""A library that segfaults in its n-th call, in a worker process: who was in it gets an error, the service goes on."""

import base64

import pytest

from faults import Faults, rule
from instance import until
from test_isolation import serving_worker

PLAIN = base64.b64encode(b"text").decode()
TOLD = {"KMSInternalException", "DependencyTimeoutException", "ThrottlingException"}


@pytest.fixture
def crashing(make):
    made = make(sections={"token": {"isolation": "process", "retry_first_ms": 10, "retry_longest_ms": 100, "deadline_ms": 3000}}).init()
    made.faults = Faults(made).install(made)
    made.start()
    made.key = made.new_key()
    made.pair = made.new_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    made.blob = made.call("Encrypt", {"KeyId": made.key, "Plaintext": PLAIN})["CiphertextBlob"]
    return made


REQUESTS = {"C_Encrypt": lambda made: ("Encrypt", {"KeyId": made.key, "Plaintext": PLAIN}),
            "C_Sign": lambda made: ("Sign", {"KeyId": made.pair, "Message": PLAIN, "SigningAlgorithm": "ECDSA_SHA_256"}),
            "C_GenerateKey": lambda made: ("CreateKey", {})}


def opens(made):
    reply = made.raw().call("Decrypt", {"CiphertextBlob": made.blob})
    assert reply.status == 200 or reply.type in TOLD, reply.body
    return reply.status == 200 and reply.json()["Plaintext"] == PLAIN


def goes_on(made, other_than=None):
    until("it is ready", lambda: made.admin("/readyz")[0] == 200)
    until("it decrypts", lambda: opens(made))
    assert made.process.poll() is None
    made.new_key()
    if other_than:
        assert serving_worker(made) != other_than


@pytest.mark.parametrize("function", REQUESTS)
def test_in_a_call_of_a_request(crashing, function):
    made = crashing
    worker = serving_worker(made)
    # The new worker uses the function too, for self-tests: counted over both, one call kills.
    made.faults.set(rule(function, nth=3, kill="SEGV", name="third", count_over_processes=True))
    operation, params = REQUESTS[function](made)
    replies = [made.raw().call(operation, params) for _ in range(8)]
    assert {reply.type for reply in replies if reply.status != 200} <= TOLD
    dead = [call for call in made.faults.calls(function) if call.result == "dies"]
    assert len(dead) == 1 and replies[0].status == 200
    made.faults.clear()
    goes_on(made, other_than=worker)
    if function == "C_GenerateKey":
        # The key whose making died has no row and no object that nobody tells of.
        made.stop()
        made.start()
        report = made.doctor()
        assert not report["objects"]["recordsWithoutObject"] and not report["objects"]["withoutRecord"]


@pytest.mark.parametrize("function", ["C_Login", "C_Initialize", "C_GetSlotList"])
def test_on_the_way_back(crashing, function):
    made = crashing
    worker = serving_worker(made)
    # Worker after worker dies as it connects; meanwhile requests are answered, with errors.
    made.faults.set(rule("C_Encrypt", nth=1, kill="SEGV", name="first", count_over_processes=True), rule(function, kill="SEGV"))
    assert made.raw().call(*REQUESTS["C_Encrypt"](made)).type in TOLD
    until("it says that the token is away", lambda: made.admin("/readyz")[0] == 503)
    # PIN tries are not spent on it: a PIN that was being tried when its worker died is not tried over and over.
    until("it was tried again", lambda: sum(call.result == "dies" for call in made.faults.calls(function)) >= (1 if function == "C_Login" else 3))
    assert not opens(made) and made.process.poll() is None
    made.faults.clear()
    until("it is ready, or asks for a person", lambda: made.admin("/readyz")[0] == 200 or "operator" in made.admin("/readyz")[1])
    if made.admin("/readyz")[0] != 200:
        assert function == "C_Login"
        made.run("token", "pin", "--retry")
    goes_on(made, other_than=worker)
