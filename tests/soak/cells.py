"""One cell of the matrix: a fault is set, the request that comes to the function is made, the fault is taken back."""

import os
import re
import shutil
import signal
import time

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from faults import Faults, parsed, rule
from instance import Instance, disk_dir, until
from judge import Judge, Ledger, b64, unb64
from return_values import AWAY, allowed, is_no_error, kind

LETTERS = {None: "a", "InvalidCiphertextException": "B", "KMSInternalException": "I", "DependencyTimeoutException": "T",
           "ThrottlingException": "H", "LimitExceededException": "L", "UnsupportedOperationException": "U",
           "InvalidKeyUsageException": "U", "KeyUnavailableException": "K"}
LEGEND = """a answered, and right   B InvalidCiphertext   I KMSInternal   T DependencyTimeout   H Throttling   L LimitExceeded
U UnsupportedOperation   K KeyUnavailable   ? another error   S stopped until `token pin --retry`   x a command that failed
of a start: a it serves   d it serves when the token is there, and says so before   X exit code 69   S exit code 77
- not called   ! behind a letter: a failure, listed below.   Columns of a cell: before the effect, after it"""
# Requests that are made once more where the fault stays; the others are slow or make a new fault.
AGAIN = ("encrypt", "decrypt", "sign", "mac", "random", "data_key", "create", "create_pair")
# C functions that have no columns: this one gives the others.
NOT_FAILED = ("C_GetFunctionList",)
# Bounds, not measurements.
HEALED = 60


class Trigger:
    """A request that comes to a function, and the faults before it that lead there. `process`: only with a worker process. `trial`: a
    refusal is what the call is made for, and says nothing of the token."""

    def __init__(self, request, *before, indirect=True, process=False, trial=False):
        self.request, self.before, self.indirect, self.process, self.trial = request, before, indirect, process, trial


LOST_SESSION = rule("C_EncryptInit", nth=1, returns="CKR_SESSION_HANDLE_INVALID")
LOST_HANDLE = rule("C_EncryptInit", nth=1, returns="CKR_OBJECT_HANDLE_INVALID")
LOST_CONTEXT = rule("C_EncryptInit", nth=1, returns="CKR_DEVICE_ERROR")
# The key is there, and its maker does not know: it has to go before another one is made.
HALF_MADE = rule("C_GenerateKey", nth=1, returns="CKR_SESSION_HANDLE_INVALID", when="after")

# A column is a C function, or behind a stroke one more request that comes to it.
TRIGGERS = {
    "C_EncryptInit": Trigger("encrypt", indirect=False), "C_Encrypt": Trigger("encrypt", indirect=False),
    "C_DecryptInit": Trigger("decrypt", indirect=False), "C_Decrypt": Trigger("decrypt", indirect=False),
    "C_SignInit": Trigger("sign", indirect=False), "C_Sign": Trigger("sign", indirect=False),
    "C_SignInit/mac": Trigger("mac", indirect=False), "C_Sign/mac": Trigger("mac", indirect=False),
    "C_GenerateRandom": Trigger("random", indirect=False), "C_GenerateRandom/data key": Trigger("data_key", indirect=False),
    "C_OpenSession": Trigger("encrypt", LOST_SESSION), "C_CloseSession": Trigger("encrypt", LOST_SESSION),
    "C_FindObjectsInit": Trigger("encrypt", LOST_HANDLE), "C_FindObjects": Trigger("encrypt", LOST_HANDLE),
    "C_FindObjectsFinal": Trigger("encrypt", LOST_HANDLE), "C_GetSessionInfo": Trigger("encrypt", LOST_HANDLE),
    "C_Finalize": Trigger("encrypt", LOST_CONTEXT), "C_Initialize": Trigger("encrypt", LOST_CONTEXT),
    "C_GetSlotList": Trigger("encrypt", LOST_CONTEXT), "C_GetTokenInfo": Trigger("encrypt", LOST_CONTEXT),
    "C_Login": Trigger("encrypt", LOST_CONTEXT, indirect=True), "C_Logout": Trigger("pin"),
    # A token that is tried out.
    "C_SetAttributeValue": Trigger("doctor", trial=True), "C_WrapKey": Trigger("doctor", trial=True),
    # What a worker process that takes another one's place asks; in-process only a start does (starts.py).
    **{function: Trigger("restart", process=True) for function in ("C_GetInfo", "C_GetMechanismList", "C_GetMechanismInfo")},
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
        # Whoever uses a number of before a login names another key by it.
        self.faults = Faults(self.instance, behaviour={"permute_handles": True}).install(self.instance)
        self.instance.start()
        self.ledger = Ledger()
        self.judge = Judge(self.instance, self.ledger, 0)
        self.judge.connect()
        self.client = self.judge.client
        self.log_offset = 0
        self.aes, self.pair, self.hmac = self.create(), self.create_pair(), self.create_hmac()
        # Keys of the same kinds, of which each is the wrong one.
        self.others = [self.create(), self.create(), self.create_pair(), self.create_hmac()]
        self.public = serialization.load_der_public_key(unb64(self.must("GetPublicKey", {"KeyId": self.pair})["PublicKey"]))
        self.known_mac = self.must("GenerateMac", self.mac_params())["Mac"]
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

    def mac_params(self):
        return {"KeyId": self.hmac, "Message": b64(b"within"), "MacAlgorithm": "HMAC_SHA_256"}

    def mac(self):
        error, answer = self.call("GenerateMac", self.mac_params())
        return error, answer and (lambda: self.same(answer["Mac"], unb64(self.known_mac)))

    def data_key(self):
        error, answer = self.call("GenerateDataKey", {"KeyId": self.aes, "NumberOfBytes": 32})
        return error, answer and (lambda: (self.is_random(unb64(answer["Plaintext"])),
                                           self.opens(answer["CiphertextBlob"], unb64(answer["Plaintext"]))))

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

    def create_hmac(self):
        return self.create(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")

    def doctor(self):
        done = self.instance.run("doctor", "--json", expect=None)
        return None if done.returncode == 0 else "command", None

    def restart(self):
        """The worker process dies."""
        worker = next(call.pid for call in reversed(self.faults.calls()) if call.pid != self.instance.process.pid)
        os.kill(worker, signal.SIGKILL)
        return self.encrypt()

    def pin(self):
        done = self.instance.run("token", "pin", expect=None)
        return None if done.returncode == 0 else "command", None

    def opens(self, blob, text):
        answer = self.must("Decrypt", {"CiphertextBlob": blob})
        self.same(answer["Plaintext"], text)
        assert self.aes in answer["KeyId"]

    @staticmethod
    def right(error, check):
        assert error is None, error
        check()

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
        self.rule = f"{function}-{code}-{when}-{times}"
        first = {"nth": 1} if times == "once" else {}
        self.faults.set(*trigger.before, rule(function, returns=code, when=when, name=self.rule, **first))
        error, judged = getattr(self, trigger.request)()
        letter = "x" if error == "command" else LETTERS.get(error, "?")
        later, wrong = letter, []
        if times == "always" and trigger.request in AGAIN:
            # Whoever comes while it lasts is answered too.
            again, more = getattr(self, trigger.request)()
            later = LETTERS.get(again, "?")
            if again is None and more:
                judged, more = more, judged
        if times == "once" and trigger.indirect:
            # The way there may begin only after the answer.
            self.reached(wait=HEALED)
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
        self.wait("the service recovers", self.is_well, wrong)
        # Also of a service that is not well: a wrong key may be why.
        wrong += self.judged(judged)
        right = {"a", "x", *AWAY} if stopped else allowed(code, function, times, trigger)
        if not {letter, later} <= right:
            wrong.append(f"the caller got {letter}, who came while it lasted {later}: right is {sorted(right)}")
        if not (trigger.trial or is_no_error(code, function) or self.told(code)):
            wrong.append("neither the log nor the journal names the return value")
        return "S" if stopped else letter, wrong

    def judged(self, judged):
        """No wrong key was used, for what was answered within and before."""
        wrong = []
        now = [lambda: self.opens(self.blob, b"before"), *(lambda one=one: self.right(*one()) for one in (self.sign, self.mac))]
        for check in [judged, *now] if judged else now:
            try:
                check()
            except Exception as error:  # noqa: BLE001  whatever it is, the cell failed
                wrong.append(f"wrong: {error!r}")
        return wrong

    def is_well(self):
        return all(one()[0] is None for one in (self.encrypt, self.decrypt, self.sign, self.mac, self.random)) and self.instance.admin("/readyz")[0] == 200

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
            found = [call for call in self.calls_since() if call.by == f"rule:{self.rule}"]
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
