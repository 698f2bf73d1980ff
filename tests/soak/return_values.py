"""The return values of PKCS#11 2.40, what they mean on a C function, and what callers may get then: the recovery rules of the design
notes, written down once more, and not taken from the program."""

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

# For cells that take a start.
FEW = ["CKR_SESSION_HANDLE_INVALID", "CKR_DEVICE_ERROR", "CKR_GENERAL_ERROR"]

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


def is_no_error(code, function):
    """The log needs not tell of what says: it is as you want it."""
    # A mechanism that the token does not have; libraries have several words for it.
    absent = function == "C_GetMechanismInfo" and kind(code, function) == "ambiguous"
    return absent or (function, code) in {
        # RULE PKCS#11 v2.40 §5.7 C_GetAttributeValue: these end nothing, and say that an attribute is not to be had.
        ("C_GetAttributeValue", "CKR_ATTRIBUTE_SENSITIVE"), ("C_GetAttributeValue", "CKR_ATTRIBUTE_TYPE_INVALID"),
        ("C_GetAttributeValue", "CKR_BUFFER_TOO_SMALL"),
        ("C_Logout", "CKR_USER_NOT_LOGGED_IN"), ("C_Login", "CKR_USER_ALREADY_LOGGED_IN"),
        ("C_Initialize", "CKR_CRYPTOKI_ALREADY_INITIALIZED"), ("C_Finalize", "CKR_CRYPTOKI_NOT_INITIALIZED")}


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
    if what == "refusal":
        return {"a", "U"} if function in MAKES else {"U"}
    if what == "length":
        return {"B", "a", *AWAY}
    if what == "data":
        return {"B"}
    if function in DECRYPTS:
        # RULE: the key's own fingerprint works, and the call fails again: so the input was bad.
        return {"a"} if times == "once" else {"B", *AWAY}
    return {"a", *AWAY}


# Verdicts on what was asked, and no failure. AES-GCM that does not open what it sealed is none either.
CANNOT = ("refusal", "data", "length")


def at_start(code, function):
    """Letters that are right where a call of the start fails. d: an error that clients try
    again, and the service is there as soon as the token is. X, S: the end, with exit code 69 or 77."""
    what = kind(code, function)
    if what == "operator":
        return {"S"}
    if what in CANNOT:
        # What the token says that it cannot do: the service lacks it, or cannot do without it.
        return {"a", "d", "X"}
    return {"a", "d"}
