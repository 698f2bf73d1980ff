"""PKCS#11 by ctypes, as a C program calls it: for tests of tests/pkcs11-faults. In a child process each, since a module's state is the
process's.
"""

import ctypes
import multiprocessing
import os
import traceback
from ctypes import byref, c_ubyte, c_ulong, c_void_p

ORDER = """C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList
C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession C_CloseAllSessions C_GetSessionInfo C_GetOperationState
C_SetOperationState C_Login C_Logout C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize C_GetAttributeValue
C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal
C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign
C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit
C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair
C_WrapKey C_UnwrapKey C_DeriveKey C_SeedRandom C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent""".split()

RV = {0: "OK", 0x5: "GENERAL_ERROR", 0x10: "ATTRIBUTE_READ_ONLY", 0x13: "ATTRIBUTE_VALUE_INVALID", 0x21: "DATA_LEN_RANGE",
      0x30: "DEVICE_ERROR", 0x31: "DEVICE_MEMORY", 0x41: "ENCRYPTED_DATA_LEN_RANGE", 0x60: "KEY_HANDLE_INVALID",
      0x70: "MECHANISM_INVALID", 0x71: "MECHANISM_PARAM_INVALID", 0x82: "OBJECT_HANDLE_INVALID", 0xa0: "PIN_INCORRECT",
      0xa3: "PIN_EXPIRED", 0xa4: "PIN_LOCKED", 0xb1: "SESSION_COUNT", 0xb3: "SESSION_HANDLE_INVALID", 0xb5: "SESSION_READ_ONLY",
      0xd1: "TEMPLATE_INCONSISTENT", 0x101: "USER_NOT_LOGGED_IN", 0x103: "USER_TYPE_INVALID", 0x150: "BUFFER_TOO_SMALL",
      0x190: "CRYPTOKI_NOT_INITIALIZED", 0x191: "CRYPTOKI_ALREADY_INITIALIZED"}
CLASS, TOKEN, PRIVATE, LABEL, KEY_TYPE, ID, SENSITIVE, ENCRYPT, DECRYPT = 0, 1, 2, 3, 0x100, 0x102, 0x103, 0x104, 0x105
SIGN, VERIFY, VALUE_LEN, EXTRACTABLE, EC_PARAMS, MODULUS_BITS = 0x108, 0x10a, 0x161, 0x162, 0x180, 0x121
AES_GCM, AES_KEY_GEN, EC_KEY_PAIR_GEN, RSA_KEY_PAIR_GEN, RSA_PKCS, RSA_OAEP = 0x1087, 0x1080, 0x1040, 0, 1, 9
P256 = bytes.fromhex("06082a8648ce3d030107")
RW, SERIAL = 2, 4
COUNT_LOW, FINAL_TRY, LOCKED, TO_BE_CHANGED = 0x10000, 0x20000, 0x40000, 0x80000


class Attribute(ctypes.Structure):
    _fields_ = [("kind", c_ulong), ("value", c_void_p), ("length", c_ulong)]


class Mechanism(ctypes.Structure):
    _fields_ = [("kind", c_ulong), ("parameter", c_void_p), ("length", c_ulong)]


class Gcm(ctypes.Structure):
    _fields_ = [("iv", c_void_p), ("iv_len", c_ulong), ("iv_bits", c_ulong), ("aad", c_void_p), ("aad_len", c_ulong),
                ("tag_bits", c_ulong)]


class Oaep(ctypes.Structure):
    _fields_ = [("hash", c_ulong), ("mgf", c_ulong), ("source", c_ulong), ("data", c_void_p), ("data_len", c_ulong)]


class TokenInfo(ctypes.Structure):
    _fields_ = [("label", c_ubyte * 32), ("manufacturer", c_ubyte * 32), ("model", c_ubyte * 16), ("serial", c_ubyte * 16),
                ("flags", c_ulong), ("numbers", c_ulong * 10), ("versions", c_ubyte * 4), ("time", c_ubyte * 16)]


class Arguments(ctypes.Structure):
    _fields_ = [("functions", c_void_p * 4), ("flags", c_ulong), ("reserved", c_void_p)]


class Module:
    """Functions by name without `C_`; each gives the name of its return value without `CKR_`."""

    def __init__(self, path):
        listed = c_void_p()
        rv = ctypes.CDLL(str(path)).C_GetFunctionList(byref(listed))
        assert rv == 0, f"C_GetFunctionList: {rv:#x}"
        self.table = listed.value

    def __getattr__(self, name):
        address = c_void_p.from_address(self.table + 8 + 8 * ORDER.index(f"C_{name}")).value
        function = ctypes.CFUNCTYPE(c_ulong)(address)

        def call(*arguments):
            rv = function(*(c_ulong(one) if isinstance(one, int) else one for one in arguments))
            return RV.get(rv, hex(rv))
        return call

    # -- a program's usual steps; they give a result, or the return value's name where it is not CKR_OK ---------------

    def initialize(self):
        # CKF_OS_LOCKING_OK: for programs with threads.
        return self.Initialize(byref(Arguments(flags=2)))

    def slots(self):
        count = c_ulong(64)
        found = (c_ulong * 64)()
        rv = self.GetSlotList(c_ubyte(1), found, byref(count))
        return list(found[:count.value]) if rv == "OK" else rv

    def labelled(self, label):
        return next(slot for slot in self.slots() if self.token(slot)[0] == label)

    def token(self, slot):
        """Label, flags, model."""
        info = TokenInfo()
        assert self.GetTokenInfo(slot, byref(info)) == "OK"
        return bytes(info.label).decode().strip(), info.flags, bytes(info.model).decode().strip()

    def open(self, slot, flags=RW | SERIAL):
        session = c_ulong()
        rv = self.OpenSession(slot, flags, None, None, byref(session))
        return session.value if rv == "OK" else rv

    def login(self, session, pin):
        return self.Login(session, 1, pin.encode(), len(pin))

    def find(self, session, **wanted):
        template, count = attributes(wanted)
        rv = self.FindObjectsInit(session, template, count)
        if rv != "OK":
            return rv
        found, number = (c_ulong * 100)(), c_ulong()
        rv = self.FindObjects(session, found, 100, byref(number))
        self.FindObjectsFinal(session)
        return list(found[:number.value]) if rv == "OK" else rv

    def value(self, session, handle, kind):
        place = ctypes.create_string_buffer(256)
        one = Attribute(kind, ctypes.cast(place, c_void_p), 256)
        rv = self.GetAttributeValue(session, handle, byref(one), 1)
        return place.raw[:one.length] if rv == "OK" else rv

    def aes(self, session, id=b"\1", label=b"one", **more):
        template, count = attributes({"TOKEN": True, "PRIVATE": True, "SENSITIVE": True, "EXTRACTABLE": False, "ENCRYPT": True,
                                      "DECRYPT": True, "VALUE_LEN": 32, "ID": id, "LABEL": label} | more)
        handle = c_ulong()
        rv = self.GenerateKey(session, byref(Mechanism(AES_KEY_GEN, None, 0)), template, count, byref(handle))
        return handle.value if rv == "OK" else rv

    def pair(self, session, id=b"\1", label=b"one", private=True, mechanism=EC_KEY_PAIR_GEN, **more):
        kind = {"EC_PARAMS": P256} if mechanism == EC_KEY_PAIR_GEN else {"MODULUS_BITS": 2048, "ENCRYPT": True}
        public = attributes({"TOKEN": True, "PRIVATE": private, "VERIFY": True, "ID": id, "LABEL": label} | kind)
        secret = attributes({"TOKEN": True, "PRIVATE": True, "SENSITIVE": True, "SIGN": True, "ID": id, "LABEL": label} | more)
        handles = c_ulong(), c_ulong()
        rv = self.GenerateKeyPair(session, byref(Mechanism(mechanism, None, 0)), *public, *secret, *map(byref, handles))
        return tuple(handle.value for handle in handles) if rv == "OK" else rv

    def encrypt(self, session, key, text, iv=bytes(range(12))):
        return self._gcm("Encrypt", session, key, text, iv)

    def decrypt(self, session, key, text, iv=bytes(range(12))):
        return self._gcm("Decrypt", session, key, text, iv)

    def _gcm(self, name, session, key, text, iv):
        iv = ctypes.create_string_buffer(iv, len(iv))
        parameters = Gcm(ctypes.cast(iv, c_void_p), len(iv), len(iv) * 8, None, 0, 128)
        mechanism = Mechanism(AES_GCM, ctypes.cast(byref(parameters), c_void_p), ctypes.sizeof(parameters))
        rv = getattr(self, f"{name}Init")(session, byref(mechanism), key)
        if rv != "OK":
            return rv
        out, length = ctypes.create_string_buffer(len(text) + 32), c_ulong(len(text) + 32)
        rv = getattr(self, name)(session, text, len(text), out, byref(length))
        return out.raw[:length.value] if rv == "OK" else rv


def attributes(named):
    """A template, and how many attributes it has."""
    values = []
    for name, value in named.items():
        if isinstance(value, bool):
            value = bytes([value])
        elif isinstance(value, int):
            value = value.to_bytes(8, "little")
        values.append((globals()[name], ctypes.create_string_buffer(value, len(value)), len(value)))
    template = (Attribute * len(values))(*(Attribute(kind, ctypes.cast(place, c_void_p), length) for kind, place, length in values))
    template.places = values
    return template, len(values)


def in_child(environment, path, program, timeout=60):
    """What `program(module)` returns, in a process of its own with these variables; its exit status where it died of it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child():
        ours.close()
        os.environ.update(environment)
        try:
            theirs.send((True, program(Module(path))))
        except BaseException:
            theirs.send((False, traceback.format_exc()))
        # Without the handlers of the module's libraries.
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout):
            raise AssertionError(f"the child has not answered within {timeout} s")
        try:
            worked, result = ours.recv()
        except EOFError:
            process.join(timeout)
            return f"exit {process.exitcode}"
        assert worked, result
        return result
    finally:
        process.kill()
        process.join()
