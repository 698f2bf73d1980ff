"""KMS's key specs: what AWS says of them, and which object of a token each must be."""

from pkcs11 import KeyType, ObjectClass

from algorithms import RSA, SIGNING

SIGNING_SPECS = {
    "RSA_2048": RSA, "RSA_3072": RSA[:1] + RSA[-1:], "RSA_4096": RSA[:1] + RSA[-1:],
    "ECC_NIST_P256": [SIGNING["ECDSA_SHA_256"]], "ECC_NIST_P384": [SIGNING["ECDSA_SHA_384"]],
    "ECC_NIST_P521": [SIGNING["ECDSA_SHA_512"]], "ECC_SECG_P256K1": [SIGNING["ECDSA_SHA_256"]],
    "ECC_NIST_EDWARDS25519": [SIGNING["ED25519_SHA_512"]],
}
# The key is as long as the hash.
MAC_SPECS = {"HMAC_224": 28, "HMAC_256": 32, "HMAC_384": 48, "HMAC_512": 64}
SYMMETRIC = "SYMMETRIC_DEFAULT"
ALL = [SYMMETRIC, *MAC_SPECS, *SIGNING_SPECS]

# Tokens differ in how they call a key that is made for a MAC.
HMAC_TYPES = {KeyType.GENERIC_SECRET, KeyType.SHA256_HMAC, KeyType.SHA384_HMAC, KeyType.SHA512_HMAC, KeyType.SHA224_HMAC}


def usage(spec):
    if spec == SYMMETRIC:
        return "ENCRYPT_DECRYPT"
    return "GENERATE_VERIFY_MAC" if spec in MAC_SPECS else "SIGN_VERIFY"


def key_types(spec):
    if spec == SYMMETRIC:
        return {KeyType.AES}
    if spec.startswith("HMAC_"):
        return HMAC_TYPES
    if spec.startswith("RSA_"):
        return {KeyType.RSA}
    if spec == "ECC_NIST_EDWARDS25519":
        return {KeyType.EC_EDWARDS}
    return {KeyType.EC} if spec.startswith("ECC_") else None


def classes(spec):
    """Exactly these objects, once each."""
    if spec == SYMMETRIC or spec.startswith("HMAC_"):
        return [ObjectClass.SECRET_KEY]
    return [ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY]


# What the key does, by usage and class. All other uses are false.
USES = {
    ("ENCRYPT_DECRYPT", ObjectClass.SECRET_KEY): {"ENCRYPT", "DECRYPT"},
    ("GENERATE_VERIFY_MAC", ObjectClass.SECRET_KEY): {"SIGN", "VERIFY"},
    ("SIGN_VERIFY", ObjectClass.PRIVATE_KEY): {"SIGN"},
    ("SIGN_VERIFY", ObjectClass.PUBLIC_KEY): {"VERIFY"},
    ("ENCRYPT_DECRYPT", ObjectClass.PRIVATE_KEY): {"DECRYPT"},
    ("ENCRYPT_DECRYPT", ObjectClass.PUBLIC_KEY): {"ENCRYPT"},
    ("KEY_AGREEMENT", ObjectClass.PRIVATE_KEY): {"DERIVE"},
    ("KEY_AGREEMENT", ObjectClass.PUBLIC_KEY): set(),
}
POSSIBLE_USES = {
    ObjectClass.SECRET_KEY: ["ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE"],
    ObjectClass.PRIVATE_KEY: ["DECRYPT", "SIGN", "UNWRAP", "DERIVE"],
    ObjectClass.PUBLIC_KEY: ["ENCRYPT", "VERIFY", "WRAP", "DERIVE"],
}
GUARDS = {"TOKEN": True, "PRIVATE": True, "SENSITIVE": True, "ALWAYS_SENSITIVE": True, "EXTRACTABLE": False, "NEVER_EXTRACTABLE": True,
          "LOCAL": True}


def flags(usage_, kind):
    """CKA_ name → value that an object of a generated key must have."""
    allowed = USES[(usage_, kind)]
    wanted = {name: name in allowed for name in POSSIBLE_USES[kind]}
    return wanted | ({"TOKEN": True} if kind == ObjectClass.PUBLIC_KEY else GUARDS)


