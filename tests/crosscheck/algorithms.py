"""KMS's signing and MAC algorithms in the words of the other judges: PKCS#11 mechanisms, pkcs11-tool's and openssl's options,
python-cryptography's classes. Written from PKCS#11 2.40, RFC 8017 and AWS's developer guide, not from the server's code.
"""

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from pkcs11 import MGF, Attribute, KeyType, Mechanism

# DER of DigestInfo before the digest (RFC 8017 §9.2, note 1).
DIGEST_INFO = {"SHA256": "3031300d060960864801650304020105000420", "SHA384": "3041300d060960864801650304020205000430",
               "SHA512": "3051300d060960864801650304020305000440"}
HASHES = {"SHA256": hashes.SHA256(), "SHA384": hashes.SHA384(), "SHA512": hashes.SHA512()}


@dataclass(frozen=True)
class Signing:
    name: str
    family: str  # "pkcs1", "pss", "ecdsa" or "eddsa"
    hash: str | None = None

    def digest(self, message):
        return hashlib.new(self.hash.lower(), message).digest()

    @property
    def digest_length(self):
        return HASHES[self.hash].digest_size

    # -- PKCS#11: hashed outside, which every token can do ------------------------------------------------------------

    def token_input(self, message):
        match self.family:
            case "pkcs1":
                return bytes.fromhex(DIGEST_INFO[self.hash]) + self.digest(message)
            case "eddsa":
                return message
        return self.digest(message)

    def mechanism(self):
        match self.family:
            case "pkcs1":
                return {"mechanism": Mechanism.RSA_PKCS}
            case "pss":
                parameter = (Mechanism[self.hash], MGF[self.hash], self.digest_length)
                return {"mechanism": Mechanism.RSA_PKCS_PSS, "mechanism_param": parameter}
            case "ecdsa":
                return {"mechanism": Mechanism.ECDSA}
        return {"mechanism": Mechanism.EDDSA}

    def tool_options(self):
        match self.family:
            case "pkcs1":
                return ["-m", "RSA-PKCS"]
            case "pss":
                return ["-m", "RSA-PKCS-PSS", "--hash-algorithm", self.hash, "--mgf", f"MGF1-{self.hash}", "--salt-len",
                        self.digest_length]
            case "ecdsa":
                return ["-m", "ECDSA"]
        return ["-m", "EDDSA"]

    # -- KMS has DER where PKCS#11 has r ‖ s --------------------------------------------------------------------------

    def from_token(self, signature):
        if self.family != "ecdsa":
            return signature
        half = len(signature) // 2
        return encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))

    def to_token(self, signature, public):
        if self.family != "ecdsa":
            return signature
        length = (public.curve.key_size + 7) // 8
        return b"".join(number.to_bytes(length, "big") for number in decode_dss_signature(signature))

    # -- software -----------------------------------------------------------------------------------------------------

    def verifies(self, public, message, signature):
        try:
            match self.family:
                case "pkcs1":
                    public.verify(signature, message, padding.PKCS1v15(), HASHES[self.hash])
                case "pss":
                    pss = padding.PSS(padding.MGF1(HASHES[self.hash]), self.digest_length)
                    public.verify(signature, message, pss, HASHES[self.hash])
                case "ecdsa":
                    public.verify(signature, message, ec.ECDSA(HASHES[self.hash]))
                case "eddsa":
                    public.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def openssl_options(self):
        """Of `openssl pkeyutl -verify -rawin`."""
        match self.family:
            case "pss":
                return ["-digest", self.hash.lower(), "-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"]
            case "eddsa":
                return []
        return ["-digest", self.hash.lower()]


RSA = [Signing(f"RSASSA_{name}_SHA_{bits}", family, f"SHA{bits}")
       for name, family in (("PKCS1_V1_5", "pkcs1"), ("PSS", "pss")) for bits in (256, 384, 512)]
SIGNING = {a.name: a for a in [*RSA, *(Signing(f"ECDSA_SHA_{bits}", "ecdsa", f"SHA{bits}") for bits in (256, 384, 512)),
                               Signing("ED25519_SHA_512", "eddsa")]}

MACS = {"HMAC_SHA_224": ("SHA224-HMAC", Mechanism.SHA224_HMAC), "HMAC_SHA_256": ("SHA256-HMAC", Mechanism.SHA256_HMAC),
        "HMAC_SHA_384": ("SHA384-HMAC", Mechanism.SHA384_HMAC), "HMAC_SHA_512": ("SHA512-HMAC", Mechanism.SHA512_HMAC)}

# DER of the object identifier → curve.
CURVES = {bytes.fromhex(der): curve for der, curve in (
    ("06082a8648ce3d030107", ec.SECP256R1()), ("06052b81040022", ec.SECP384R1()), ("06052b81040023", ec.SECP521R1()),
    ("06052b8104000a", ec.SECP256K1()))}


def public_key(found):
    """A public key object of the token as python-cryptography's key, from its attributes."""
    if found.key_type == KeyType.RSA:
        exponent, modulus = (int.from_bytes(found[a], "big") for a in (Attribute.PUBLIC_EXPONENT, Attribute.MODULUS))
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    point = bytes(found[Attribute.EC_POINT])
    if found.key_type == KeyType.EC_EDWARDS:
        # An OCTET STRING, or as some tokens have it the bytes alone.
        return ed25519.Ed25519PublicKey.from_public_bytes(point[-32:])
    curve = CURVES[bytes(found[Attribute.EC_PARAMS])]
    length = 2 * ((curve.key_size + 7) // 8) + 1
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, point[-length:])


def spki(public):
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def pem(public):
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
