"""Keys made in the token by pkcs11-tool, brought under KMS by `hsm-bridge key adopt`, and then used both ways."""

import json
import uuid

from pkcs11 import Attribute, ObjectClass

import blobs
import macs
import signatures
import specs
from objects import objects_of, used
from table import NotAvailable, Wrong, expect

# KMS's spec → how pkcs11-tool makes such a key.
KINDS = {
    specs.SYMMETRIC: ["--keygen", "--key-type", "AES:32", "--usage-decrypt", "--private"],
    "HMAC_256": ["--keygen", "--key-type", "GENERIC:32", "--usage-sign", "--private"],
    "RSA_2048": ["--keypairgen", "--key-type", "rsa:2048", "--usage-sign"],
    "ECC_NIST_P256": ["--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign"],
}
COMMAND = ["key", "adopt"]


def run(target, table):
    reason = missing(target)
    for spec in KINDS:
        if reason:
            with table.row(f"{spec} made by pkcs11-tool: adopted and used", "pkcs11-tool"):
                raise NotAvailable(reason)
        else:
            one(target, table, spec)
    if reason is None:
        with table.row("an extractable key made by pkcs11-tool: key adopt refuses it", "key adopt"):
            cka_id = make(target, specs.SYMMETRIC, "--extractable")
            try:
                narrow(target, specs.SYMMETRIC, cka_id)
                check_refused(target, specs.SYMMETRIC, cka_id)
            finally:
                destroy(target, cka_id)


def missing(target):
    if target.program is None:
        return "no hsm-bridge program with a configuration here"
    return None if target.run(*COMMAND, "--help").returncode == 0 else "`hsm-bridge key adopt` does not exist"


def one(target, table, spec):
    cka_id, key = None, None
    try:
        with table.row(f"{spec} as pkcs11-tool leaves it, with more uses: key adopt refuses it", "key adopt"):
            cka_id = make(target, spec)
            if not any(used(o, name) for o in objects_of(target.session, cka_id) for name in ("WRAP", "UNWRAP", "DERIVE")):
                raise NotAvailable("this token gives no more uses than pkcs11-tool asks for")
            check_refused(target, spec, cka_id)
        with table.row(f"{spec} made by pkcs11-tool: adopted", "key adopt") as notes:
            narrow(target, spec, cka_id)
            key = adopt(target, spec, cka_id)
            notes.append(key)
    finally:
        if key is None and cka_id is not None:
            destroy(target, cka_id)
    if key is None:
        return
    label = f"{spec}, adopted"
    if spec == specs.SYMMETRIC:
        blobs.both_ways(target, table, label, {"app": "shop"}, key)
    elif spec in specs.MAC_SPECS:
        macs.both_ways(target, table, label, macs.algorithm_of(spec), key)
    else:
        for algorithm in specs.SIGNING_SPECS[spec]:
            signatures.both_ways(target, table, f"{label} {algorithm.name}", algorithm, key)


def make(target, spec, *more):
    cka_id = uuid.uuid4()
    target.pkcs11_tool(*KINDS[spec], "--sensitive", "--id", cka_id.hex, "--label", f"crosscheck {target.run_id}", *more)
    return cka_id.bytes


def narrow(target, spec, cka_id):
    """One purpose. SoftHSM grants all uses that a template does not name, and pkcs11-tool 0.23 cannot say no to one."""
    for found in objects_of(target.session, cka_id):
        for name, value in specs.flags(specs.usage(spec), found.object_class).items():
            if name in specs.POSSIBLE_USES[found.object_class] and used(found, name) != value:
                found[Attribute[name]] = value


def adopt(target, spec, cka_id):
    done = command(target, spec, cka_id)
    if target.custom_store and done.returncode == 1 and "custom_store_key_specs" in done.stderr:
        raise NotAvailable("the operator does not allow this key spec in a custom key store")
    expect(done.returncode == 0, f"exit code {done.returncode}: {done.stderr}")
    key = key_of(done)
    target.made.append(key)
    target.cka_ids[key] = cka_id
    return key


def check_refused(target, spec, cka_id):
    done = command(target, spec, cka_id)
    if done.returncode == 0:
        # It is a key of KMS now: deleted at the end.
        target.made.append(key_of(done))
        raise Wrong("it was adopted")
    expect(done.returncode == 1 and done.stderr.strip(), f"exit code {done.returncode}: {done.stderr}")


def command(target, spec, cka_id):
    words = [*COMMAND, "--id", cka_id.hex(), "--json"]
    if specs.usage(spec) == "SIGN_VERIFY":
        # A pair could be for something else.
        words += ["--usage", "SIGN_VERIFY"]
    if target.custom_store:
        words += ["--key-store", target.custom_store]
    return target.run(*words)


def key_of(done):
    """The new key's id: the answer has the form of `key show --json`."""
    return json.loads(done.stdout)["line"]["key_id"]


def destroy(target, cka_id):
    for kind in specs.POSSIBLE_USES:
        word = {ObjectClass.SECRET_KEY: "secrkey", ObjectClass.PRIVATE_KEY: "privkey", ObjectClass.PUBLIC_KEY: "pubkey"}[kind]
        target.pkcs11_tool("--delete-object", "--type", word, "--id", cka_id.hex(), check=False)
