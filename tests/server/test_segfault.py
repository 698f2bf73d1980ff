"""A library that segfaults in its n-th call, in a worker process: who was in it gets an error, the service goes on."""

import base64
import subprocess

import pytest

from bridge import clean_env
from faults import LIBRARY, Faults, rule
from instance import COMMAND, until
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


def deaths(made, function):
    return [call for call in made.faults.calls(function) if call.result == "dies"]


def dies_on_the_way_back(made, function, **members):
    """The worker dies in a request, and each that comes in its place dies as it connects."""
    made.faults.set(rule("C_Encrypt", nth=1, kill="SEGV", name="first", count_over_processes=True), rule(function, kill="SEGV", **members))
    assert made.raw().call(*REQUESTS["C_Encrypt"](made)).type in TOLD
    until("it says that the token is away", lambda: made.admin("/readyz")[0] == 503)


@pytest.mark.parametrize("function", ["C_Login", "C_Initialize", "C_GetSlotList"])
def test_on_the_way_back(crashing, function):
    made = crashing
    worker = serving_worker(made)
    dies_on_the_way_back(made, function)
    # Requests are answered, with errors, and try after try is made: a token that counts no wrong PIN loses nothing by C_Login either.
    until("it was tried again", lambda: len(deaths(made, function)) >= 3)
    assert not opens(made) and made.process.poll() is None
    assert len({call.pid for call in deaths(made, function)}) == len(deaths(made, function)), "each in a worker of its own"
    made.faults.clear()
    # Nobody has to help: no `token pin --retry`.
    goes_on(made, other_than=worker)


def test_in_a_login_that_the_token_counts(crashing):
    """RULE: one try per PIN value. The worker dies in C_Login, and the token counts a wrong PIN since: nobody knows whose, and it is not tried again."""
    made = crashing
    made.faults.behave(pin_tries=10)
    # Somebody else's wrong PIN, with the token's own tool.
    wrong, = made.wrong_pins()
    tool = subprocess.run(["pkcs11-tool", "--module", str(LIBRARY), "--token-label", made.label, "--login", "--pin", wrong, "--list-objects"],
                          env=clean_env(**made.faults.environment), capture_output=True, text=True, timeout=COMMAND)
    assert "CKR_PIN_INCORRECT" in tool.stderr, tool.stderr
    dies_on_the_way_back(made, "C_Login")
    until("it asks for a person", lambda: "operator" in made.admin("/readyz")[1])
    tries = len(deaths(made, "C_Login"))
    assert tries == 1, "the PIN is not tried over and over"
    assert not opens(made) and made.process.poll() is None
    assert len(deaths(made, "C_Login")) == tries
    made.faults.clear()
    made.run("token", "pin", "--retry")
    goes_on(made)
