"""HMACs both ways. The key's value is in the token alone, so the judges are other PKCS#11 clients."""

from botocore.exceptions import ClientError
from pkcs11 import ObjectClass

import specs
from algorithms import MACS
from table import equal, expect

MESSAGE, OTHER = b"one message, two ways to its MAC", b"one message, two ways t0 its MAC"


def run(target, table):
    for spec in target.served(table, specs.MAC_SPECS):
        both_ways(target, table, spec, algorithm_of(spec), target.key(spec))


def both_ways(target, table, label, algorithm, key):
    label = f"{label} {algorithm}"
    with table.row(f"{label}: KMS and token agree, both ways", "python-pkcs11"):
        check(target, key, algorithm, session_mac(target, key, algorithm))
    with table.row(f"{label}: KMS and token agree, both ways", "pkcs11-tool"):
        check(target, key, algorithm, tool_mac(target, key, algorithm))
    with table.row(f"{label}: the token verifies KMS's MAC", "pkcs11-tool"):
        made = target.kms.generate_mac(KeyId=key, Message=MESSAGE, MacAlgorithm=algorithm)["Mac"]
        for message, wanted in ((MESSAGE, True), (OTHER, False)):
            done = target.pkcs11_tool("--verify", "-m", MACS[algorithm][0], "--id", target.cka_id(key).hex(), "-i",
                                      target.file("input", message), "--signature-file", target.file("mac", made), check=False)
            said = (done.stdout + done.stderr).decode(errors="replace")
            expect(("Signature is valid" in said) == wanted, f"{'the' if wanted else 'another'} message: {said}")


def algorithm_of(spec):
    return spec.replace("HMAC_", "HMAC_SHA_")


def check(target, key, algorithm, theirs):
    """`theirs` is the token's MAC of MESSAGE: KMS makes the same one and accepts it, for this message alone."""
    equal("GenerateMac", target.kms.generate_mac(KeyId=key, Message=MESSAGE, MacAlgorithm=algorithm)["Mac"], theirs)
    for message, wanted in ((MESSAGE, True), (OTHER, False)):
        try:
            valid = target.kms.verify_mac(KeyId=key, Message=message, MacAlgorithm=algorithm, Mac=theirs)["MacValid"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "KMSInvalidMacException":
                raise
            valid = False
        expect(valid == wanted, f"VerifyMac says {valid} to {'the' if wanted else 'another'} message")


def session_mac(target, key, algorithm):
    found = target.session.get_key(object_class=ObjectClass.SECRET_KEY, id=target.cka_id(key))
    return found.sign(MESSAGE, mechanism=MACS[algorithm][1])


def tool_mac(target, key, algorithm):
    out = target.file("out", b"")
    target.pkcs11_tool("--sign", "-m", MACS[algorithm][0], "--id", target.cka_id(key).hex(), "-i", target.file("input", MESSAGE),
                       "-o", out)
    return out.read_bytes()
