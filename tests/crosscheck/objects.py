"""The objects of a key: there once, of the right class, named as documented, guarded, and for one purpose."""

from collections import Counter

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass

import specs
from table import Wrong, equal, expect

# The words of `pkcs11-tool -O`.
TOOL_CLASS = {ObjectClass.SECRET_KEY: "Secret Key Object", ObjectClass.PRIVATE_KEY: "Private Key Object",
              ObjectClass.PUBLIC_KEY: "Public Key Object"}
TOOL_ACCESS = {"sensitive", "always sensitive", "never extractable", "local"}
SYSTEM_KEYS = ("hsm-bridge/store-kek", "hsm-bridge/iam-wrap")


def run(target, table):
    served = target.served(table, specs.ALL)
    for spec in served:
        with table.row(f"{spec}: class, CKA_ID, CKA_LABEL, attributes", "python-pkcs11") as notes:
            key = target.key(spec)
            found = objects_of(target.session, target.cka_id(key))
            check_classes(found, spec)
            for one in found:
                equal("CKA_LABEL", one.label, f"hsm-bridge/kms/{key}")
                wanted = specs.flags(specs.usage(spec), one.object_class)
                check_flags(one, wanted)
                notes.append(one.object_class.name.lower().replace("_", " "))
    listed = target.listed_objects()
    for spec in served:
        with table.row(f"{spec}: as pkcs11-tool -O lists it", "pkcs11-tool"):
            check_listing(target, listed, target.key(spec), spec)
        with table.row(f"{spec}: the value cannot be read", "python-pkcs11"):
            for one in objects_of(target.session, target.cka_id(target.key(spec))):
                if one.object_class != ObjectClass.PUBLIC_KEY:
                    check_secret(one)
        # It does not try with private keys.
        if specs.classes(spec) == [ObjectClass.SECRET_KEY]:
            with table.row(f"{spec}: the value cannot be read", "pkcs11-tool"):
                check_read_object(target, target.key(spec))
    if target.custom_store is None:
        for label in SYSTEM_KEYS:
            with table.row(f"{label}: there once, attributes", "python-pkcs11"):
                found = list(target.session.get_objects({Attribute.LABEL: label}))
                equal("the number of objects", len(found), 1)
                check_flags(found[0], specs.flags("ENCRYPT_DECRYPT", ObjectClass.SECRET_KEY))


def objects_of(session, cka_id):
    return list(session.get_objects({Attribute.ID: cka_id}))


def check_classes(found, spec):
    counted = Counter(one.object_class.name for one in found)
    wanted = Counter(kind.name for kind in specs.classes(spec))
    expect(counted == wanted, f"objects under the CKA_ID: {dict(counted) or 'none'}, not {dict(wanted)}")
    allowed = specs.key_types(spec)
    for one in found:
        expect(allowed is None or one.key_type in allowed, f"CKA_KEY_TYPE of the {one.object_class.name} is {one.key_type}")


def check_flags(one, wanted):
    wrong = []
    for name, value in wanted.items():
        try:
            if one[Attribute[name]] != value:
                wrong.append(f"CKA_{name} is {not value}")
        except pkcs11.exceptions.AttributeTypeInvalid:
            # RULE PKCS#11 2.40 §4.2: a token that does not know a use does not grant it.
            if value:
                wrong.append(f"CKA_{name} is not known")
    expect(not wrong, f"{one.object_class.name}: {', '.join(wrong)}")


def used(found, name):
    """An attribute that the token does not know is false."""
    try:
        return found[Attribute[name]]
    except pkcs11.exceptions.AttributeTypeInvalid:
        return False


def check_listing(target, listed, key, spec):
    found = [o for o in listed if o.get("ID") == target.cka_id(key).hex()]
    wanted = Counter(TOOL_CLASS[kind] for kind in specs.classes(spec))
    equal("the listed objects", dict(Counter(o["kind"].partition(";")[0] for o in found)), dict(wanted))
    for one in found:
        equal("the label", one["label"], f"hsm-bridge/kms/{key}")
        kind = next(k for k, word in TOOL_CLASS.items() if one["kind"].startswith(word))
        used, allowed = words(one, "Usage"), {use.lower() for use in specs.USES[specs.usage(spec), kind]}
        # OpenSC 0.23 does not show SIGN of a secret key.
        missing = allowed - used - ({"sign"} if kind == ObjectClass.SECRET_KEY else set())
        expect(used <= allowed and not missing, f"Usage of the {TOOL_CLASS[kind]}: {sorted(used)}, not {sorted(allowed)}")
        if kind != ObjectClass.PUBLIC_KEY:
            expect(TOOL_ACCESS <= words(one, "Access"), f"Access of the {TOOL_CLASS[kind]}: {one.get('Access')}")


def words(listed, name):
    return {word.strip() for word in listed.get(name, "").split(",") if word.strip() and word.strip() != "none"}


def check_secret(one):
    rsa = one.key_type == KeyType.RSA
    for part in [Attribute.PRIVATE_EXPONENT, Attribute.PRIME_1, Attribute.PRIME_2] if rsa else [Attribute.VALUE]:
        try:
            value = one[part]
        except pkcs11.exceptions.AttributeSensitive:
            continue
        raise Wrong(f"CKA_{part.name} was read: {len(value)} bytes")


def check_read_object(target, key):
    out = target.file("value", b"")
    done = target.pkcs11_tool("--read-object", "--type", "secrkey", "--id", target.cka_id(key).hex(), "-o", out, check=False)
    expect(done.returncode != 0 and not out.read_bytes(), f"{len(out.read_bytes())} bytes were read, exit code {done.returncode}")
