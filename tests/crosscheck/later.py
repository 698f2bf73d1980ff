"""RSA-OAEP and ECDH, once the API serves them: it is asked each time."""

import secrets

import pkcs11
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from pkcs11 import MGF, Mechanism, ObjectClass

from algorithms import spki
from signatures import public_of
from table import NotAvailable, equal

OAEP = {"RSAES_OAEP_SHA_1": (hashes.SHA1(), Mechanism.SHA_1, MGF.SHA1, "SHA-1"),
        "RSAES_OAEP_SHA_256": (hashes.SHA256(), Mechanism.SHA256, MGF.SHA256, "SHA256")}


def run(target, table):
    served = False
    with table.row("RSA_2048 ENCRYPT_DECRYPT: CreateKey", "KMS"):
        key = target.key("RSA_2048", usage="ENCRYPT_DECRYPT")
        algorithms = target.kms.describe_key(KeyId=key)["KeyMetadata"]["EncryptionAlgorithms"]
        served = True
    for algorithm in algorithms if served else ():
        with table.row(f"RSA_2048 {algorithm}: KMS encrypts, the token decrypts", "python-pkcs11"):
            check_token_decrypts(target, key, algorithm)
        with table.row(f"RSA_2048 {algorithm}: KMS encrypts, the token decrypts", "pkcs11-tool"):
            check_tool_decrypts(target, key, algorithm)
        with table.row(f"RSA_2048 {algorithm}: software encrypts, KMS decrypts", "python-cryptography"):
            check_kms_decrypts(target, key, algorithm)
    served = False
    with table.row("ECC_NIST_P256 KEY_AGREEMENT: CreateKey", "KMS"):
        key = target.key("ECC_NIST_P256", usage="KEY_AGREEMENT")
        served = True
    if served:
        with table.row("ECC_NIST_P256 ECDH: KMS and the other side agree", "python-cryptography"):
            check_ecdh(target, key)
        with table.row("ECC_NIST_P256 ECDH: KMS and the token agree", "pkcs11-tool"):
            check_tool_ecdh(target, key)


# -- RSA-OAEP --------------------------------------------------------------------------------------------------------------

def check_oaep(target, key, algorithm):
    """Both ways, the token's half where the token has this hash."""
    check_kms_decrypts(target, key, algorithm)
    try:
        check_token_decrypts(target, key, algorithm)
    except NotAvailable:
        pass


def check_kms_decrypts(target, key, algorithm):
    hash_, plaintext = OAEP[algorithm][0], secrets.token_bytes(40)
    blob = public_of(target, key).encrypt(plaintext, padding.OAEP(padding.MGF1(hash_), hash_, None))
    answer = target.kms.decrypt(KeyId=key, EncryptionAlgorithm=algorithm, CiphertextBlob=blob)
    equal("the plaintext", answer["Plaintext"], plaintext)


def check_token_decrypts(target, key, algorithm):
    plaintext, blob = kms_encrypted(target, key, algorithm)
    private = target.session.get_key(object_class=ObjectClass.PRIVATE_KEY, id=target.cka_id(key))
    try:
        found = private.decrypt(blob, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=(*OAEP[algorithm][1:3], None))
    except (pkcs11.exceptions.MechanismParamInvalid, pkcs11.exceptions.ArgumentsBad):
        raise NotAvailable("the token has no OAEP with this hash") from None
    equal("the plaintext", found, plaintext)


def check_tool_decrypts(target, key, algorithm):
    plaintext, blob = kms_encrypted(target, key, algorithm)
    out, name = target.file("out", b""), OAEP[algorithm][3]
    done = target.pkcs11_tool("--decrypt", "-m", "RSA-PKCS-OAEP", "--hash-algorithm", name, "--mgf", f"MGF1-{name.replace('-', '')}",
                              "--id", target.cka_id(key).hex(), "-i", target.file("input", blob), "-o", out, check=False)
    said = done.stderr.decode(errors="replace")
    if "CKR_ARGUMENTS_BAD" in said or "CKR_MECHANISM_PARAM_INVALID" in said:
        raise NotAvailable("the token has no OAEP with this hash")
    equal(f"the plaintext ({said.strip()})", out.read_bytes(), plaintext)


def kms_encrypted(target, key, algorithm):
    plaintext = secrets.token_bytes(40)
    return plaintext, target.kms.encrypt(KeyId=key, Plaintext=plaintext, EncryptionAlgorithm=algorithm)["CiphertextBlob"]


# -- ECDH ------------------------------------------------------------------------------------------------------------------

def check_ecdh(target, key):
    mine, public = ec.generate_private_key(public_of(target, key).curve), public_of(target, key)
    equal("the shared secret", kms_secret(target, key, mine), mine.exchange(ec.ECDH(), public))


def check_tool_ecdh(target, key):
    mine = ec.generate_private_key(public_of(target, key).curve)
    out = target.file("out", b"")
    target.pkcs11_tool("--derive", "-m", "ECDH1-DERIVE", "--id", target.cka_id(key).hex(), "-i",
                       target.file("peer.der", spki(mine.public_key())), "-o", out)
    equal("the shared secret", kms_secret(target, key, mine), out.read_bytes())


def kms_secret(target, key, mine):
    return target.kms.derive_shared_secret(KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=spki(mine.public_key()))["SharedSecret"]
