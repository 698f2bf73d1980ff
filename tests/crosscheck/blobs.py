"""Ciphertext blobs, opened and made in the token by the functions of docs/ciphertext-format.md, as they stand on that page."""

import ast
import re
import secrets
from functools import cache
from types import SimpleNamespace

import pkcs11
from botocore.exceptions import ClientError
from pkcs11 import GCMParams, Mechanism

import specs
from bridge import REPOSITORY
from table import NotAvailable, Wrong, equal, expect
from target import key_bytes

PAGE = REPOSITORY / "docs/ciphertext-format.md"
CONTEXTS = {"no context": {}, "a context": {"app": "shop", "Tenant": "7"}, "a context beyond ASCII": {"ü": "ö", "b": "", "aa": "x"}}


@cache
def page():
    """Imports, constants and functions of the page's program; what it does with its arguments is left out."""
    (program,) = re.findall(r"^```python blob\.py\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    parsed = ast.parse(program, filename=str(PAGE))
    parsed.body = [part for part in parsed.body if isinstance(part, (ast.Import, ast.ImportFrom, ast.FunctionDef))
                   or (isinstance(part, ast.Assign) and isinstance(part.value, ast.Constant))]
    names = {}
    exec(compile(parsed, str(PAGE), "exec"), names)  # noqa: S102
    return SimpleNamespace(**{name: names[name] for name in ("open_blob", "make_blob", "canonical", "find", "LABEL")})


class Placed:
    """The session as the page's functions use it. Adopted keys, whose CKA_ID is not the documented one, are found under theirs."""

    def __init__(self, target):
        self.session, self.elsewhere = target.session, {key_bytes(key): cka_id for key, cka_id in target.cka_ids.items()}

    def get_key(self, *, id, **wanted):  # noqa: A002  # python-pkcs11's name
        return self.session.get_key(id=self.elsewhere.get(id, id), **wanted)


def run(target, table):
    if not target.served(table, [specs.SYMMETRIC]):
        return
    key = target.key(specs.SYMMETRIC)
    for name, context in CONTEXTS.items():
        both_ways(target, table, f"{specs.SYMMETRIC}, {name}", context, key)
    with table.row("GenerateDataKey, ReEncrypt: opened in the token", "python-pkcs11"):
        context = CONTEXTS["a context"]
        data_key = target.kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
        equal("the data key", opened(target, data_key["CiphertextBlob"], context), data_key["Plaintext"])
        moved = target.kms.re_encrypt(CiphertextBlob=data_key["CiphertextBlob"], SourceEncryptionContext=context,
                                      DestinationKeyId=target.key(specs.SYMMETRIC, "ReEncrypt"))["CiphertextBlob"]
        equal("the data key after ReEncrypt", opened(target, moved, {}), data_key["Plaintext"])
    with table.row("GenerateDataKeyWithoutPlaintext: opened in the token", "python-pkcs11"):
        blob = target.kms.generate_data_key_without_plaintext(KeyId=key, NumberOfBytes=24)["CiphertextBlob"]
        equal("the length of the data key", len(opened(target, blob, {})), 24)


def both_ways(target, table, label, context, key):
    with table.row(f"{label}: KMS encrypts, the token decrypts", "python-pkcs11"):
        check_opens(target, key, context)
    with table.row(f"{label}: the token makes the same bytes", "python-pkcs11"):
        check_same_bytes(target, key, context)
    with table.row(f"{label}: the token encrypts, KMS decrypts", "python-pkcs11"):
        check_kms_opens(target, key, context)


def opened(target, blob, context):
    return page().open_blob(Placed(target), blob, pairs(context))


def check_opens(target, key, context):
    plaintext = secrets.token_bytes(40)
    blob = target.kms.encrypt(KeyId=key, Plaintext=plaintext, EncryptionContext=context)["CiphertextBlob"]
    equal("the length of the blob", len(blob), len(plaintext) + 55)
    equal("the plaintext", opened(target, blob, context), plaintext)
    try:
        opened(target, blob, context | {"more": ""})
    except pkcs11.exceptions.PKCS11Error:
        return
    raise Wrong("the token opens it under another encryption context")


def check_same_bytes(target, key, context):
    plaintext = secrets.token_bytes(40)
    blob = target.kms.encrypt(KeyId=key, Plaintext=plaintext, EncryptionContext=context)["CiphertextBlob"]
    head, iv = blob[:27], blob[27:39]
    aad = page().LABEL + head + page().canonical(pairs(context))
    try:
        sealed = page().find(Placed(target), head[6:22], 0).encrypt(
            plaintext, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(iv, aad, 128))
    except pkcs11.exceptions.MechanismParamInvalid:
        raise NotAvailable("this token chooses the IV itself") from None
    equal("ciphertext and tag", blob[39:], sealed)


def check_kms_opens(target, key, context):
    plaintext = secrets.token_bytes(40)
    blob = page().make_blob(Placed(target), key_bytes(key), plaintext, pairs(context))
    answer = target.kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)
    equal("the plaintext", answer["Plaintext"], plaintext)
    expect(answer["KeyId"].endswith(f":key/{key}"), f"KeyId is {answer['KeyId']}")
    try:
        target.kms.decrypt(CiphertextBlob=blob, EncryptionContext=context | {"more": ""})
    except ClientError as error:
        equal("the error under another context", error.response["Error"]["Code"], "InvalidCiphertextException")
        return
    raise Wrong("KMS opens it under another encryption context")


def pairs(context):
    return [f"{name}={value}" for name, value in context.items()]
