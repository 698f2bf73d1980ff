"""Every return value of PKCS#11 2.40 on every C function that the bridge calls, before and after its effect, once and every time.

One service runs through all cells: a fault is set, the request that comes to the function is made, the fault is taken back. Looked at are
what the caller got, that the service recovered or rightly stopped, that no wrong key was used (what was encrypted before opens, a
signature verifies under the recorded public key), that no acknowledged key is lost and no other object stays unreported, and that log or
journal name the return value. What is right in a cell comes from the recovery rules of the design notes, written down here once more as
`kind` and `allowed`, and not from the program.
"""

import json
import re
import shutil
import sys
import time

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from faults import Faults, parsed, rule
from instance import Instance, disk_dir, until
from judge import Judge, Ledger, b64, unb64

CODES = ["CKR_" + name for name in """CANCEL HOST_MEMORY SLOT_ID_INVALID GENERAL_ERROR FUNCTION_FAILED ARGUMENTS_BAD NO_EVENT
NEED_TO_CREATE_THREADS CANT_LOCK ATTRIBUTE_READ_ONLY ATTRIBUTE_SENSITIVE ATTRIBUTE_TYPE_INVALID ATTRIBUTE_VALUE_INVALID
ACTION_PROHIBITED DATA_INVALID DATA_LEN_RANGE DEVICE_ERROR DEVICE_MEMORY DEVICE_REMOVED ENCRYPTED_DATA_INVALID
ENCRYPTED_DATA_LEN_RANGE FUNCTION_CANCELED FUNCTION_NOT_PARALLEL FUNCTION_NOT_SUPPORTED KEY_HANDLE_INVALID KEY_SIZE_RANGE
KEY_TYPE_INCONSISTENT KEY_NOT_NEEDED KEY_CHANGED KEY_NEEDED KEY_INDIGESTIBLE KEY_FUNCTION_NOT_PERMITTED KEY_NOT_WRAPPABLE
KEY_UNEXTRACTABLE MECHANISM_INVALID MECHANISM_PARAM_INVALID OBJECT_HANDLE_INVALID OPERATION_ACTIVE OPERATION_NOT_INITIALIZED
PIN_INCORRECT PIN_INVALID PIN_LEN_RANGE PIN_EXPIRED PIN_LOCKED SESSION_CLOSED SESSION_COUNT SESSION_HANDLE_INVALID
SESSION_PARALLEL_NOT_SUPPORTED SESSION_READ_ONLY SESSION_EXISTS SESSION_READ_ONLY_EXISTS SESSION_READ_WRITE_SO_EXISTS
SIGNATURE_INVALID SIGNATURE_LEN_RANGE TEMPLATE_INCOMPLETE TEMPLATE_INCONSISTENT TOKEN_NOT_PRESENT TOKEN_NOT_RECOGNIZED
TOKEN_WRITE_PROTECTED UNWRAPPING_KEY_HANDLE_INVALID UNWRAPPING_KEY_SIZE_RANGE UNWRAPPING_KEY_TYPE_INCONSISTENT
USER_ALREADY_LOGGED_IN USER_NOT_LOGGED_IN USER_PIN_NOT_INITIALIZED USER_TYPE_INVALID USER_ANOTHER_ALREADY_LOGGED_IN
USER_TOO_MANY_TYPES WRAPPED_KEY_INVALID WRAPPED_KEY_LEN_RANGE WRAPPING_KEY_HANDLE_INVALID WRAPPING_KEY_SIZE_RANGE
WRAPPING_KEY_TYPE_INCONSISTENT RANDOM_SEED_NOT_SUPPORTED RANDOM_NO_RNG DOMAIN_PARAMS_INVALID CURVE_NOT_SUPPORTED
BUFFER_TOO_SMALL SAVED_STATE_INVALID INFORMATION_SENSITIVE STATE_UNSAVEABLE CRYPTOKI_NOT_INITIALIZED
CRYPTOKI_ALREADY_INITIALIZED MUTEX_BAD MUTEX_NOT_LOCKED NEW_PIN_MODE NEXT_OTP EXCEEDED_MAX_ITERATIONS FIPS_SELF_TEST_FAILED
LIBRARY_LOAD_FAILED PIN_TOO_WEAK PUBLIC_KEY_INVALID FUNCTION_REJECTED""".split()] + ["0x80000105"]

# One code of each class, for short runs.
ONE_EACH = ["CKR_SESSION_HANDLE_INVALID", "CKR_USER_NOT_LOGGED_IN", "CKR_OBJECT_HANDLE_INVALID", "CKR_DEVICE_ERROR", "CKR_GENERAL_ERROR",
            "CKR_DEVICE_MEMORY", "CKR_SESSION_COUNT", "CKR_PIN_LOCKED", "CKR_MECHANISM_INVALID", "CKR_ATTRIBUTE_TYPE_INVALID",
            "CKR_ENCRYPTED_DATA_INVALID", "0x80000105"]

SESSION = {"SESSION_HANDLE_INVALID", "SESSION_CLOSED", "OPERATION_ACTIVE", "OPERATION_NOT_INITIALIZED"}
HANDLE = {"KEY_HANDLE_INVALID", "OBJECT_HANDLE_INVALID"}
CONTEXT = {"DEVICE_ERROR", "DEVICE_REMOVED", "TOKEN_NOT_PRESENT", "CRYPTOKI_NOT_INITIALIZED",
           # And what else says that device, slot or library are not what they were.
           "SLOT_ID_INVALID", "TOKEN_NOT_RECOGNIZED", "FIPS_SELF_TEST_FAILED", "LIBRARY_LOAD_FAILED"}
CAPACITY = {"SESSION_COUNT", "HOST_MEMORY", "DEVICE_MEMORY"}
OPERATOR = {"PIN_INCORRECT", "PIN_LOCKED", "PIN_EXPIRED", "USER_PIN_NOT_INITIALIZED", "PIN_INVALID", "PIN_LEN_RANGE"}
MECHANISM = {"MECHANISM_INVALID", "MECHANISM_PARAM_INVALID", "KEY_TYPE_INCONSISTENT", "KEY_FUNCTION_NOT_PERMITTED"}
# What a token says of a request that it will never take; on functions with a mechanism or a template.
REFUSAL = {"KEY_SIZE_RANGE", "CURVE_NOT_SUPPORTED", "DOMAIN_PARAMS_INVALID", "FUNCTION_NOT_SUPPORTED", "TEMPLATE_INCOMPLETE",
           "TEMPLATE_INCONSISTENT", "ATTRIBUTE_READ_ONLY", "ATTRIBUTE_TYPE_INVALID", "ATTRIBUTE_VALUE_INVALID", "ACTION_PROHIBITED",
           "TOKEN_WRITE_PROTECTED"}
DATA = {"ENCRYPTED_DATA_INVALID", "ENCRYPTED_DATA_LEN_RANGE", "AEAD_DECRYPT_FAILED"}

DECRYPTS = ("C_DecryptInit", "C_Decrypt")
MAKES = ("C_GenerateKey", "C_GenerateKeyPair", "C_CreateObject")
# They use a key or a mechanism of the request itself.
USES = ("C_EncryptInit", "C_Encrypt", "C_SignInit", "C_Sign", *DECRYPTS)

LETTERS = {None: "a", "InvalidCiphertextException": "B", "KMSInternalException": "I", "DependencyTimeoutException": "T",
           "ThrottlingException": "H", "LimitExceededException": "L", "UnsupportedOperationException": "U",
           "InvalidKeyUsageException": "U", "KeyUnavailableException": "K"}
LEGEND = """a answered, and right   B InvalidCiphertext   I KMSInternal   T DependencyTimeout   H Throttling   L LimitExceeded
U UnsupportedOperation   K KeyUnavailable   ? another error   S stopped until `token pin --retry`   x a command that failed
- not called   ! behind a letter: a failure, listed below.   Columns of a cell: before the effect, after it"""
# Bounds, not measurements.
HEALED = 30
TOO_MANY = 200


def kind(code, function):
    """The class of a return value on a function."""
    name = code.removeprefix("CKR_")
    if name in SESSION:
        return "session"
    if name == "USER_NOT_LOGGED_IN":
        return "login"
    if name in HANDLE and function in (*USES, "C_GetAttributeValue", "C_DestroyObject"):
        return "login"
    if name in CONTEXT:
        return "context"
    if name == "DEVICE_MEMORY" and function in MAKES:
        return "full"
    if name in CAPACITY:
        return "capacity"
    # A PIN's codes are C_Login's; from another function they are a riddle, as DEVICE_ERROR would be less of one.
    if name in OPERATOR and function == "C_Login":
        return "operator"
    if name in MECHANISM | REFUSAL and function in (*USES, *MAKES):
        return "refusal"
    if name in DATA and function in DECRYPTS:
        return "data"
    if name == "DATA_LEN_RANGE" and function in ("C_Encrypt", "C_Sign"):
        return "length"
    return "ambiguous"


# What callers may get of a token that is away.
AWAY = {"I", "T"}


def allowed(code, function, times, trigger):
    """Letters that are right in a cell."""
    what = kind(code, function)
    if function == "C_GetAttributeValue" and code.removeprefix("CKR_").startswith("ATTRIBUTE_"):
        # A key whose attributes cannot be read is not known to be protected, and is not kept.
        return {"a", "U"}
    if trigger.indirect:
        # The request itself is sound and the bridge was busy with something else for it. An answer is never wrong, and all
        # that it may be told else is that the token does not answer or has no room; never that its ciphertext or key is bad.
        return {"a", "x", *AWAY} | ({"H"} if what == "capacity" else set())
    if what in ("session", "login"):
        # RULE: nothing is seen of it. Where it comes back after the one retry, the token is away.
        return {"a"} if times == "once" else {"a", *AWAY}
    if what == "context":
        return {"a", *AWAY} if function in MAKES else AWAY
    if what == "full":
        return {"L"}
    if what == "capacity":
        return {"a", "H"} if function not in MAKES else {"a", "H", *AWAY}
    if what == "operator":
        return {"S"}
    if what == "refusal":
        return {"a", "U"} if function in MAKES else {"U"}
    if what == "length":
        return {"B", "a", *AWAY}
    if what == "data":
        return {"B"}
    if function in DECRYPTS:
        # RULE: the key's own fingerprint works, so the input was bad.
        return {"B"} if times == "once" else {"B", *AWAY}
    return {"a", *AWAY}


class Trigger:
    """A request that comes to a function, and the faults before it that lead there."""

    def __init__(self, request, *before, indirect=True):
        self.request, self.before, self.indirect = request, before, indirect


LOST_SESSION = rule("C_EncryptInit", nth=1, returns="CKR_SESSION_HANDLE_INVALID")
LOST_HANDLE = rule("C_EncryptInit", nth=1, returns="CKR_OBJECT_HANDLE_INVALID")
LOST_LOGIN = rule("C_EncryptInit", nth=1, returns="CKR_USER_NOT_LOGGED_IN", lose="login")
LOST_CONTEXT = rule("C_EncryptInit", nth=1, returns="CKR_DEVICE_ERROR")
# The key is there, and its maker does not know: it has to go before another one is made.
HALF_MADE = rule("C_GenerateKey", nth=1, returns="CKR_SESSION_HANDLE_INVALID", when="after")

TRIGGERS = {
    "C_EncryptInit": Trigger("encrypt", indirect=False), "C_Encrypt": Trigger("encrypt", indirect=False),
    "C_DecryptInit": Trigger("decrypt", indirect=False), "C_Decrypt": Trigger("decrypt", indirect=False),
    "C_SignInit": Trigger("sign", indirect=False), "C_Sign": Trigger("sign", indirect=False),
    "C_GenerateRandom": Trigger("random", indirect=False),
    "C_OpenSession": Trigger("encrypt", LOST_SESSION), "C_CloseSession": Trigger("encrypt", LOST_SESSION),
    "C_FindObjectsInit": Trigger("encrypt", LOST_HANDLE), "C_FindObjects": Trigger("encrypt", LOST_HANDLE),
    "C_FindObjectsFinal": Trigger("encrypt", LOST_HANDLE), "C_GetSessionInfo": Trigger("encrypt", LOST_HANDLE),
    "C_Finalize": Trigger("encrypt", LOST_CONTEXT), "C_Initialize": Trigger("encrypt", LOST_CONTEXT),
    "C_GetSlotList": Trigger("encrypt", LOST_CONTEXT), "C_GetTokenInfo": Trigger("encrypt", LOST_CONTEXT),
    "C_Login": Trigger("encrypt", LOST_CONTEXT, indirect=True), "C_Logout": Trigger("pin"),
    # Last, since each key that is made is listed at every login.
    "C_GetAttributeValue": Trigger("create"), "C_GenerateKey": Trigger("create", indirect=False),
    "C_GenerateKeyPair": Trigger("create_pair", indirect=False), "C_DestroyObject": Trigger("create", HALF_MADE),
}


class Bench:
    """A service, its faults, and the keys that are used in every cell."""

    def __init__(self, isolation):
        self.journal = disk_dir("matrix")
        self.instance = Instance("matrix", audit_dir=self.journal, sections={"token": {
            "isolation": isolation, "workers": 2, "retry_first_ms": 2, "retry_longest_ms": 20, "deadline_ms": 5000, "hang_grace_ms": 60000}})
        self.instance.init()
        self.faults = Faults(self.instance).install(self.instance)
        self.instance.start()
        self.ledger = Ledger()
        self.judge = Judge(self.instance, self.ledger, 0)
        self.judge.connect()
        self.client = self.judge.client
        self.log_offset = 0
        self.aes = self.create()
        self.pair = self.create_pair()
        self.public = serialization.load_der_public_key(unb64(self.must("GetPublicKey", {"KeyId": self.pair})["PublicKey"]))
        self.blob = self.must("Encrypt", {"KeyId": self.aes, "Plaintext": b64(b"before")})["CiphertextBlob"]

    # -- requests: the error's type or None, and what is to be judged after the token is well -------------------------------

    def call(self, operation, params):
        reply = self.client.call(operation, params)
        self.ledger.acknowledge(operation, reply)
        return (None, reply.json()) if reply.status == 200 else (reply.type, None)

    def must(self, operation, params):
        error, answer = self.call(operation, params)
        assert error is None, f"{operation}: {error}"
        return answer

    def encrypt(self):
        error, answer = self.call("Encrypt", {"KeyId": self.aes, "Plaintext": b64(b"within")})
        return error, answer and (lambda: self.opens(answer["CiphertextBlob"], b"within"))

    def decrypt(self):
        error, answer = self.call("Decrypt", {"CiphertextBlob": self.blob})
        return error, answer and (lambda: self.same(answer["Plaintext"], b"before"))

    def sign(self):
        error, answer = self.call("Sign", {"KeyId": self.pair, "Message": b64(b"within"), "SigningAlgorithm": "ECDSA_SHA_256"})
        return error, answer and (lambda: self.public.verify(unb64(answer["Signature"]), b"within", ec.ECDSA(hashes.SHA256())))

    def random(self):
        error, answer = self.call("GenerateRandom", {"NumberOfBytes": 32})
        # What a failed call leaves in a buffer is 0xa5, or zeros.
        return error, answer and (lambda: self.is_random(unb64(answer["Plaintext"])))

    def create(self, **params):
        error, answer = self.call("CreateKey", params)
        if answer is None:
            return error, None
        key = answer["KeyMetadata"]["KeyId"]
        self.ledger.add_key(key, params.get("KeySpec", "SYMMETRIC_DEFAULT"))
        return key if not hasattr(self, "blob") else (None, lambda: self.judge.key_works(key))

    def create_pair(self):
        return self.create(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")

    def pin(self):
        done = self.instance.run("token", "pin", expect=None)
        return None if done.returncode == 0 else "command", None

    def opens(self, blob, text):
        answer = self.must("Decrypt", {"CiphertextBlob": blob})
        self.same(answer["Plaintext"], text)
        assert self.aes in answer["KeyId"]

    @staticmethod
    def same(found, text):
        assert unb64(found) == text, "another plaintext"

    @staticmethod
    def is_random(found):
        assert len(set(found)) > 8, "what a failed call left"

    # -- one cell -----------------------------------------------------------------------------------------------------------

    def cell(self, function, code, when, times, trigger):
        """The letter, and what is wrong with it."""
        self.mark()
        self.function = function
        first = {"nth": 1} if times == "once" else {}
        self.faults.set(*trigger.before, rule(function, returns=code, when=when, name=f"{function}-{code}-{when}-{times}", **first))
        error, judged = getattr(self, trigger.request)()
        letter = "x" if error == "command" else LETTERS.get(error, "?")
        wrong = []
        if times == "always" and trigger.request != "pin":
            # Whoever comes while it lasts is answered too.
            again, more = getattr(self, trigger.request)()
            if again is None and more:
                judged, more = more, judged
        if times == "once" and trigger.indirect:
            # The way there may begin only after the answer.
            self.reached(wait=2)
        stopped = kind(code, function) == "operator"
        if stopped:
            self.wait("the login is refused", lambda: self.metric("token_login_refused") == 1, wrong)
        self.faults.clear()
        calls = self.reached()
        if not calls:
            # Also so that the module sees a script without this cell's rules.
            self.wait("the service recovers", self.is_well, wrong)
            return "-", wrong + ["the function was not called"]
        if stopped:
            tries = sum(call.function == "C_Login" for call in self.calls_since())
            if tries != 1:
                wrong.append(f"{tries} times C_Login with a PIN that was refused")
            self.instance.run("token", "pin", "--retry")
            letter = "S"
        self.wait("the service recovers", self.is_well, wrong)
        if not wrong:
            wrong += self.judged(judged)
        if letter not in ({"S"} if stopped else allowed(code, function, times, trigger)):
            wrong.append(f"the caller got {error or 'an answer'}")
        if error not in (None, "command") and not self.told(code) and letter != "U":
            wrong.append("neither the log nor the journal names the return value")
        return letter, wrong

    def judged(self, judged):
        """No wrong key was used, for what was answered within and before."""
        wrong = []
        for check in [judged, lambda: self.opens(self.blob, b"before"), self.sign()[1]]:
            try:
                if check:
                    check()
            except Exception as error:  # noqa: BLE001  whatever it is, the cell failed
                wrong.append(f"wrong: {error!r}")
        return wrong

    def is_well(self):
        return all(one()[0] is None for one in (self.encrypt, self.decrypt, self.sign, self.random)) and self.instance.admin("/readyz")[0] == 200

    @staticmethod
    def wait(what, check, wrong):
        try:
            until(what, check, HEALED, step=0.005)
        except AssertionError as error:
            wrong.append(str(error))

    def metric(self, name):
        found = re.search(rf"^hsm_bridge_{name}(?:\{{.*\}})? (\S+)$", self.instance.admin("/metrics")[1], re.M)
        return float(found.group(1)) if found else None

    # -- what the module and the service wrote since the cell began ------------------------------------------------------------

    def mark(self):
        self.log_offset = self.faults.log.stat().st_size
        self.said_offset = self.instance.stderr_file.stat().st_size
        self.journal_offsets = {path: path.stat().st_size for path in self.instance.segments()}

    def calls_since(self):
        with open(self.faults.log) as file:
            file.seek(self.log_offset)
            return [parsed(line) for line in file.read().split("\n")[:-1]]

    def reached(self, wait=0):
        end = time.monotonic() + wait
        while True:
            found = [call for call in self.calls_since() if call.by.startswith(f"rule:{self.function}-CKR") or call.by.startswith(f"rule:{self.function}-0x")]
            if found or time.monotonic() >= end or self.instance.process.poll() is not None:
                return found
            time.sleep(0.005)

    def told(self, code):
        said = self.instance.stderr_file.read_bytes()[self.said_offset:].decode(errors="replace")
        journal = "".join(path.read_bytes()[self.journal_offsets.get(path, 0):].decode() for path in self.instance.segments())
        return code in said or code in journal

    # -- the end ------------------------------------------------------------------------------------------------------------

    def finish(self):
        """Every acknowledged key works, also after a restart, and the token holds nothing that nobody tells of."""
        self.faults.clear()
        self.instance.stop()
        self.instance.start()
        self.judge.connect()
        self.judge.look(everything=True)
        outside = self.judge.check_token_from_outside()
        self.instance.stop()
        self.judge.read_journal()
        assert self.instance.verify()["verdict"] == "OK"
        self.close()
        return outside

    def close(self):
        self.instance.close()
        shutil.rmtree(self.journal, ignore_errors=True)


def cells(everything):
    """(function, code, once or always), by function."""
    for function, trigger in TRIGGERS.items():
        for code in CODES:
            if everything or code in ONE_EACH or function == "C_Decrypt":
                for times in ("once", "always"):
                    if everything or times == "once" or function == "C_Decrypt":
                        yield function, code, times, trigger


def run(everything, isolation, only=None):
    bench, found, failures, last, began = Bench(isolation), {}, [], None, time.monotonic()
    try:
        for function, code, times, trigger in cells(everything):
            if only and function not in only:
                continue
            letters = ""
            for when in ("before", "after"):
                letter, wrong = bench.cell(function, code, when, times, trigger)
                letters += letter + ("!" if wrong else "")
                new = [f"{function} {code} {when} {times}: {one} [{letter}]" for one in wrong]
                failures += new
                if new:
                    print(*new, sep="\n", file=sys.stderr, flush=True)
                assert len(failures) < TOO_MANY, "too many failures"
                assert bench.instance.process.poll() is None, f"the server ended at {function} {code} {when} {times}\n{bench.instance.said()[-3000:]}"
            found[times, code, function] = letters
            if function != last:
                last = function
                print(f"{time.monotonic() - began:.0f} s: {function}", file=sys.stderr, flush=True)
        outside = bench.finish()
    except BaseException:
        show(found, failures, isolation)
        print(f"soak matrix: the server's last words:\n{bench.instance.said()[-4000:]}\nkept {bench.instance.root}", file=sys.stderr)
        bench.instance.kill()
        raise
    show(found, failures, isolation)
    print(json.dumps({"soak": "matrix", "isolation": isolation, "cells": 2 * len(found), "seconds": round(time.monotonic() - began, 1),
                      "keys": len(bench.ledger.keys), "token": outside, "failures": len(failures)}), flush=True)
    return failures


def show(found, failures, isolation):
    for times in ("once", "always"):
        functions = [function for function in TRIGGERS if any(at[0] == times and at[2] == function for at in found)]
        if not functions:
            continue
        print(f"\n{isolation}, {times}")
        width = 36
        for number, function in enumerate(functions):
            print(" " * width + "    |" * number + f"    {function}")
        for code in CODES:
            row = [found.get((times, code, function), "") for function in functions]
            if any(row):
                print(f"{code:<{width}}" + "".join(f"{cell:>5}" for cell in row))
    print(LEGEND)
    print(f"failures: {len(failures)}", *failures, sep="\n  ", flush=True)


def soak(everything, isolations, only=None):
    failures = [failure for isolation in isolations for failure in run(everything, isolation, only)]
    assert not failures, f"{len(failures)} cells failed"
