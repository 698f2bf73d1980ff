"""Every key that KMS lists for this token, against the objects that its record names: red where a key was replaced."""

import pkcs11
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pkcs11 import Attribute, ObjectClass

import blobs
import later
import macs
import signatures
import specs
from algorithms import SIGNING, public_key, spki
from objects import check_classes, check_flags, used
from table import NotAvailable, Wrong, equal, expect
from target import key_bytes

# KMS makes nothing with a key in these states.
RESTING = {"Disabled", "PendingDeletion", "PendingImport", "PendingReplicaDeletion", "Creating", "Updating"}


def run(target, table, chosen):
    by_id, by_label = index(target.session)
    for key in target.existing_keys(chosen):
        label = f"key {key['KeyId']} {key['KeySpec']}"
        record = target.record(key["KeyId"])
        with table.row(f"{label}: its objects", "python-pkcs11") as notes:
            check_objects(key, record, by_id, by_label, notes)
        with table.row(f"{label}: the same key", "python-pkcs11") as notes:
            check_same_key(target, key, record, by_id, notes)


def index(session):
    """All key objects, in one enumeration: CKA_ID → objects, CKA_LABEL → objects."""
    by_id, by_label = {}, {}
    for kind in (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        for found in session.get_objects({Attribute.CLASS: kind}):
            try:
                by_id.setdefault(bytes(found.id), []).append(found)
                by_label.setdefault(found.label, []).append(found)
            except pkcs11.exceptions.PKCS11Error:
                continue  # an object that a killed token left behind
    return by_id, by_label


def materials(key, record):
    """(CKA_ID, CKA_LABEL, evidence) of each piece of key material; without a record, as the documents have it."""
    if record is None:
        return [(key_bytes(key["KeyId"]), None, None)]
    return [(bytes.fromhex(m["cka_id"]), m.get("cka_label"), m.get("evidence")) for m in record["materials"]]


def recorded(evidence):
    """CKA_ name → value, of what was read when the key came under KMS."""
    return {"TOKEN": True} | {name.upper(): value for name, value in evidence.items()
                              if isinstance(value, bool) and name.upper() in Attribute.__members__}


def check_objects(key, record, by_id, by_label, notes):
    for cka_id, label, evidence in materials(key, record):
        found = by_id.get(cka_id, [])
        check_classes(found, key["KeySpec"])
        if label is not None:
            expect(all(one.label == label for one in found), f"CKA_LABEL is not `{label}`")
            equal(f"the number of objects labelled `{label}`", len(by_label.get(label, [])), len(found))
        for one in found:
            if one.object_class != ObjectClass.PUBLIC_KEY:
                wanted = recorded(evidence) if evidence else specs.GUARDS
                check_flags(one, wanted)
                check_uses(one)
    if record is None:
        notes.append("by the documented CKA_ID: no `key show` here")


def check_uses(one):
    """RULE: what decrypts does not wrap or derive too: the two together bring other keys out in the clear."""
    mine = {name for name in ("ENCRYPT", "DECRYPT", "WRAP", "UNWRAP", "DERIVE") if used(one, name)}
    beside = mine & {"WRAP", "UNWRAP", "DERIVE"}
    expect(not (mine & {"ENCRYPT", "DECRYPT"} and beside), f"CKA_{', CKA_'.join(sorted(beside))} beside ENCRYPT or DECRYPT")


def check_same_key(target, key, record, by_id, notes):
    name, state = key["KeyId"], key["KeyState"]
    cka_id = materials(key, record)[-1][0]
    if cka_id != key_bytes(name):
        target.cka_ids[name] = cka_id
    public = [one for one in by_id.get(cka_id, []) if one.object_class == ObjectClass.PUBLIC_KEY]
    if state in RESTING:
        if record and record.get("public_key"):
            equal("the number of public objects", len(public), 1)
            equal("the token's public key", spki(public_key(public[0])), spki(load_pem_public_key(record["public_key"].encode())))
            notes.append(f"{state}: the public key was compared, no signature was made")
            return
        raise NotAvailable(f"{state}: KMS makes nothing with it")
    expect(state == "Enabled", f"KMS says that it is {state}")
    match key["KeyUsage"], key["KeySpec"]:
        case "ENCRYPT_DECRYPT", specs.SYMMETRIC:
            blobs.check_opens(target, name, {"crosscheck": target.run_id})
            blobs.check_kms_opens(target, name, {})
        case "GENERATE_VERIFY_MAC", spec:
            algorithm = macs.algorithm_of(spec)
            macs.check(target, name, algorithm, macs.session_mac(target, name, algorithm))
        case "SIGN_VERIFY", _:
            algorithm = next((SIGNING[a] for a in key["SigningAlgorithms"] if a in SIGNING), None)
            if algorithm is None:
                raise NotAvailable(f"no judge for {key['SigningAlgorithms']}")
            check_pair(target, name, algorithm)
        case "ENCRYPT_DECRYPT", _:
            check_public(target, name)
            later.check_oaep(target, name, key["EncryptionAlgorithms"][0])
        case "KEY_AGREEMENT", _:
            check_public(target, name)
            later.check_ecdh(target, name)
        case other:
            raise NotAvailable(f"no judge for {other}")


def check_public(target, name):
    public = signatures.public_of(target, name)
    equal("the PublicKey that KMS tells", target.kms.get_public_key(KeyId=name)["PublicKey"], spki(public))
    return public


def check_pair(target, name, algorithm):
    public = check_public(target, name)
    signatures.check_in_software(algorithm, public, signatures.kms_signature(target, algorithm, name))
    private = target.session.get_key(object_class=ObjectClass.PRIVATE_KEY, id=target.cka_id(name))
    signature = algorithm.from_token(private.sign(algorithm.token_input(signatures.MESSAGE), **algorithm.mechanism()))
    if not algorithm.verifies(public, signatures.MESSAGE, signature):
        raise Wrong("the token's private key does not belong to its public key")
    signatures.check_by_kms(target, algorithm, name, signature)
