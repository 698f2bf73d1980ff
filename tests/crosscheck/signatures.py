"""Signatures both ways: made by KMS and verified by others, made in the token by pkcs11-tool and verified by KMS."""

import subprocess

from botocore.exceptions import ClientError
from pkcs11 import ObjectClass

import specs
from algorithms import pem, public_key, spki
from objects import objects_of
from table import equal, expect

MESSAGE, OTHER = b"signed on one side, verified on the other", b"signed on one side, verified on the 0ther"


def run(target, table):
    for spec in target.served(table, specs.SIGNING_SPECS):
        key = target.key(spec)
        with table.row(f"{spec}: GetPublicKey is the token's public object", "python-pkcs11"):
            equal("PublicKey", target.kms.get_public_key(KeyId=key)["PublicKey"], spki(public_of(target, key)))
        for algorithm in specs.SIGNING_SPECS[spec]:
            both_ways(target, table, f"{spec} {algorithm.name}", algorithm, key)


def both_ways(target, table, label, algorithm, key):
    with table.row(f"{label}: KMS signs, the token verifies", "pkcs11-tool"):
        check_in_token(target, algorithm, key, kms_signature(target, algorithm, key))
    with table.row(f"{label}: KMS signs, software verifies", "python-cryptography"):
        check_in_software(algorithm, public_of(target, key), kms_signature(target, algorithm, key))
    with table.row(f"{label}: KMS signs, software verifies", "openssl"):
        check_by_openssl(target, algorithm, public_of(target, key), kms_signature(target, algorithm, key))
    with table.row(f"{label}: the token signs, KMS verifies", "pkcs11-tool"):
        signature = tool_signature(target, algorithm, key)
        check_by_kms(target, algorithm, key, signature)
        if algorithm.family in ("pkcs1", "eddsa"):
            equal("the signature of KMS", kms_signature(target, algorithm, key), signature)
    if algorithm.hash:
        with table.row(f"{label}: MessageType=DIGEST", "python-cryptography"):
            signature = target.kms.sign(KeyId=key, Message=algorithm.digest(MESSAGE), MessageType="DIGEST",
                                        SigningAlgorithm=algorithm.name)["Signature"]
            check_in_software(algorithm, public_of(target, key), signature)


def kms_signature(target, algorithm, key):
    return target.kms.sign(KeyId=key, Message=MESSAGE, SigningAlgorithm=algorithm.name)["Signature"]


def public_of(target, key):
    """The public key as the token has it."""
    found = [o for o in objects_of(target.session, target.cka_id(key)) if o.object_class == ObjectClass.PUBLIC_KEY]
    equal("the number of public objects", len(found), 1)
    return public_key(found[0])


# -- the judges: each must say yes to the signature and no to the same under another message -----------------------------------

def check_in_software(algorithm, public, signature):
    expect(algorithm.verifies(public, MESSAGE, signature), "the signature does not verify under the token's public key")
    expect(not algorithm.verifies(public, OTHER, signature), "the signature verifies for another message")


def check_by_kms(target, algorithm, key, signature):
    for message, wanted in ((MESSAGE, True), (OTHER, False)):
        try:
            answer = target.kms.verify(KeyId=key, Message=message, Signature=signature, SigningAlgorithm=algorithm.name)
            valid = answer["SignatureValid"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "KMSInvalidSignatureException":
                raise
            valid = False
        expect(valid == wanted, f"KMS Verify says {valid} to {'the' if wanted else 'another'} message")


def check_in_token(target, algorithm, key, signature):
    public = public_of(target, key)
    file = target.file("signature", algorithm.to_token(signature, public))
    for message, wanted in ((MESSAGE, True), (OTHER, False)):
        done = target.pkcs11_tool("--verify", *algorithm.tool_options(), "--id", target.cka_id(key).hex(), "-i",
                                  target.file("input", algorithm.token_input(message)), "--signature-file", file, check=False)
        said = (done.stdout + done.stderr).decode(errors="replace")
        expect(("Signature is valid" in said) == wanted, f"{'the' if wanted else 'another'} message: {said}")


def tool_signature(target, algorithm, key):
    out = target.file("out", b"")
    target.pkcs11_tool("--sign", *algorithm.tool_options(), "--id", target.cka_id(key).hex(), "-i",
                       target.file("input", algorithm.token_input(MESSAGE)), "-o", out)
    return algorithm.from_token(out.read_bytes())


def check_by_openssl(target, algorithm, public, signature):
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", target.file("public.pem", pem(public)), "-sigfile",
               target.file("signature", signature), *algorithm.openssl_options()]
    for message, wanted in ((MESSAGE, True), (OTHER, False)):
        done = subprocess.run([*command, "-in", target.file("message", message)], capture_output=True, text=True, timeout=60)
        said = done.stdout + done.stderr
        expect(("Signature Verified Successfully" in said) == wanted, f"{'the' if wanted else 'another'} message: {said}")
