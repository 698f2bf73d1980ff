"""Keys replaced behind the bridge's back, by pkcs11-tool: the script is red for them and for no other, and the bridge uses none."""

import secrets
import subprocess
import sys

import pytest
from botocore.exceptions import ClientError

import adopted
from bridge import binary
from report import HERE
from token_tool import key_id_hex, listed_objects, pkcs11_tool

SPECS = list(adopted.KINDS)
PAIRS = ["RSA_2048", "ECC_NIST_P256"]
ALGORITHM = {"RSA_2048": "RSASSA_PSS_SHA_256", "ECC_NIST_P256": "ECDSA_SHA_256"}
MESSAGE = b"made before anything was replaced"


def destroy(bridge, key, *kinds):
    for kind in kinds:
        pkcs11_tool(bridge, "--delete-object", "--type", kind, "--id", key_id_hex(key))


def kinds(spec):
    return ("privkey", "pubkey") if spec in PAIRS else ("secrkey",)


def generate(bridge, key, spec, cka_id=None):
    """Another key under the CKA_ID and CKA_LABEL of this one."""
    pkcs11_tool(bridge, *adopted.KINDS[spec], "--sensitive", "--id", cka_id or key_id_hex(key), "--label", f"hsm-bridge/kms/{key}")


def replace(bridge, key, spec):
    destroy(bridge, key, *kinds(spec))
    generate(bridge, key, spec)


def used(bridge, key, spec):
    """What a caller has from the key: makes the bridge look for its object, check it and keep the handle."""
    match spec:
        case "HMAC_256":
            return bridge.kms.generate_mac(KeyId=key, Message=MESSAGE, MacAlgorithm="HMAC_SHA_256")["Mac"]
        case "SYMMETRIC_DEFAULT":
            return bridge.kms.encrypt(KeyId=key, Plaintext=MESSAGE)["CiphertextBlob"]
    return bridge.kms.sign(KeyId=key, Message=MESSAGE, SigningAlgorithm=ALGORITHM[spec])["Signature"]


def uses(bridge, key, spec, made):
    """Each use of the key's object in the token, by name."""
    kms = bridge.kms
    match spec:
        case "HMAC_256":
            return {"GenerateMac": lambda: used(bridge, key, spec),
                    "VerifyMac": lambda: kms.verify_mac(KeyId=key, Message=MESSAGE, MacAlgorithm="HMAC_SHA_256", Mac=made)}
        case "SYMMETRIC_DEFAULT":
            other = bridge.key(purpose="bystander")
            foreign = kms.encrypt(KeyId=other, Plaintext=MESSAGE)["CiphertextBlob"]
            return {"Encrypt": lambda: used(bridge, key, spec), "Decrypt": lambda: kms.decrypt(CiphertextBlob=made),
                    "GenerateDataKey": lambda: kms.generate_data_key(KeyId=key, KeySpec="AES_256"),
                    "GenerateDataKeyWithoutPlaintext": lambda: kms.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256"),
                    "ReEncrypt from": lambda: kms.re_encrypt(CiphertextBlob=made, DestinationKeyId=other),
                    "ReEncrypt to": lambda: kms.re_encrypt(CiphertextBlob=foreign, DestinationKeyId=key)}
    return {"Sign": lambda: used(bridge, key, spec)}


def assert_unused(bridge, key, spec, made):
    for name, use in uses(bridge, key, spec, made).items():
        try:
            pytest.fail(f"{name} used an object that is not the key: {use()}")
        except ClientError as error:
            assert error.response["Error"]["Code"] == "KeyUnavailableException", (name, error.response)


def look(crosscheck, bridge, bystanders, *keys, **extra):
    """The script on these keys and on those that nobody touches."""
    return crosscheck(bridge, "--only", "keys", *(word for key in (*keys, *bystanders) for word in ("--key", key)), **extra)


def assert_red(report, key, bystanders, only):
    """`only`: which of the key's rows at least."""
    assert report.code == 1, str(report)
    failed = {check for check, _, result, _ in report.rows if result == "FAILED"}
    assert any(key in check and only in check for check in failed), str(report)
    for other in bystanders:
        assert set(report.results(other).values()) == {"ok"}, str(report)


@pytest.fixture(scope="module")
def bystanders(bridge):
    """A key of each spec that nobody touches."""
    keys = {spec: bridge.key(spec, "bystander") for spec in SPECS}
    for spec, key in keys.items():
        used(bridge, key, spec)
    return list(keys.values())


@pytest.fixture
def new_key(bridge, bystanders):
    def make(spec):
        usage = {"SYMMETRIC_DEFAULT": "ENCRYPT_DECRYPT", "HMAC_256": "GENERATE_VERIFY_MAC"}.get(spec, "SIGN_VERIFY")
        key = bridge.new_key(KeySpec=spec, KeyUsage=usage)
        return key, used(bridge, key, spec)
    return make


@pytest.mark.parametrize("spec", SPECS)
def test_a_replaced_key(bridge, crosscheck, bystanders, new_key, spec):
    """The bridge has used the key, and holds its handle, when the object is destroyed and another generated in its place."""
    key, made = new_key(spec)
    assert list(look(crosscheck, bridge, bystanders, key).results(key).values()) == ["ok", "ok"]
    replace(bridge, key, spec)
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "the same key")
    assert_unused(bridge, key, spec, made)

    bridge.restart()
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "the same key")
    assert_unused(bridge, key, spec, made)


@pytest.mark.parametrize("spec", SPECS)
def test_replaced_while_the_bridge_was_stopped(bridge, crosscheck, bystanders, new_key, spec):
    key, made = new_key(spec)
    bridge.stop()
    replace(bridge, key, spec)
    bridge.start()
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "the same key")
    assert_unused(bridge, key, spec, made)


def test_without_the_operators_socket(bridge, crosscheck, bystanders, new_key):
    """From another machine there is no `key show`: the documented CKA_ID is enough."""
    key, _ = new_key("HMAC_256")
    replace(bridge, key, "HMAC_256")
    report = look(crosscheck, bridge, bystanders, key, HSM_BRIDGE_CONFIG="")
    assert_red(report, key, bystanders, "the same key")
    assert any("no `key show` here" in note for check, _, _, note in report.rows if bystanders[0] in check), str(report)


@pytest.mark.parametrize("spec", PAIRS)
def test_a_replaced_public_object(bridge, crosscheck, bystanders, new_key, spec):
    key, _ = new_key(spec)
    spare = secrets.token_hex(16)
    destroy(bridge, key, "pubkey")
    generate(bridge, key, spec, cka_id=spare)
    pkcs11_tool(bridge, "--delete-object", "--type", "privkey", "--id", spare)
    pkcs11_tool(bridge, "--set-id", key_id_hex(key), "--type", "pubkey", "--id", spare)
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "the same key")
    # What the bridge has of the key is still the key: its signatures verify under the public key that it tells.
    signature = used(bridge, key, spec)
    assert bridge.kms.verify(KeyId=key, Message=MESSAGE, Signature=signature, SigningAlgorithm=ALGORITHM[spec])["SignatureValid"]


@pytest.mark.parametrize("spec", PAIRS)
def test_a_replaced_pair_of_a_disabled_key(bridge, crosscheck, bystanders, new_key, spec):
    key, _ = new_key(spec)
    bridge.kms.disable_key(KeyId=key)
    replace(bridge, key, spec)
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "the same key")


def test_exchanged_ids(bridge, crosscheck, bystanders, new_key):
    """Two keys with each other's CKA_ID."""
    (one, of_one), (two, of_two) = new_key("SYMMETRIC_DEFAULT"), new_key("SYMMETRIC_DEFAULT")
    spare = secrets.token_hex(16)
    for old, new in ((key_id_hex(one), spare), (key_id_hex(two), key_id_hex(one)), (spare, key_id_hex(two))):
        pkcs11_tool(bridge, "--set-id", new, "--type", "secrkey", "--id", old)
    report = look(crosscheck, bridge, bystanders, one, two)
    assert_red(report, one, bystanders, "the same key")
    assert_red(report, two, bystanders, "its objects")
    # The handles that were checked still name the right keys.
    assert bridge.kms.decrypt(CiphertextBlob=of_one)["Plaintext"] == MESSAGE
    bridge.restart()
    for key, made in ((one, of_one), (two, of_two)):
        assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "the same key")
        assert_unused(bridge, key, "SYMMETRIC_DEFAULT", made)


@pytest.mark.parametrize("spec", SPECS)
def test_a_destroyed_key(bridge, crosscheck, bystanders, new_key, spec):
    key, made = new_key(spec)
    destroy(bridge, key, *kinds(spec))
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "its objects")
    assert_unused(bridge, key, spec, made)


def test_a_second_object_of_the_same_id(bridge, crosscheck, bystanders, new_key):
    key, made = new_key("SYMMETRIC_DEFAULT")
    generate(bridge, key, "SYMMETRIC_DEFAULT")
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "its objects")
    assert bridge.kms.decrypt(CiphertextBlob=made)["Plaintext"] == MESSAGE
    bridge.restart()
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "its objects")
    assert_unused(bridge, key, "SYMMETRIC_DEFAULT", made)


def test_a_second_object_of_the_same_label(bridge, crosscheck, bystanders, new_key):
    key, _ = new_key("SYMMETRIC_DEFAULT")
    generate(bridge, key, "SYMMETRIC_DEFAULT", cka_id=secrets.token_hex(16))
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "its objects")


def test_an_extractable_object_in_its_place(bridge, crosscheck, bystanders, new_key):
    key, _ = new_key("SYMMETRIC_DEFAULT")
    destroy(bridge, key, "secrkey")
    pkcs11_tool(bridge, *adopted.KINDS["SYMMETRIC_DEFAULT"], "--extractable", "--id", key_id_hex(key), "--label",
                f"hsm-bridge/kms/{key}")
    report = look(crosscheck, bridge, bystanders, key)
    assert_red(report, key, bystanders, "its objects")
    (note,) = [note for check, _, _, note in report.rows if key in check and "its objects" in check]
    assert "CKA_EXTRACTABLE is True" in note and "CKA_SENSITIVE is False" in note, note


# -- adopted keys: another CKA_ID and CKA_LABEL than the documented ones -------------------------------------------------------

# In a process of its own: this one loads no module.
ADOPT = """
import os, sys
sys.path[:0] = sys.argv[1:3]
import adopted, target
where = target.Target(dict(os.environ))
cka_id = adopted.make(where, sys.argv[3])
adopted.narrow(where, sys.argv[3], cka_id)
print(adopted.adopt(where, sys.argv[3], cka_id), cka_id.hex())
"""


@pytest.mark.parametrize("spec", SPECS)
def test_a_replaced_adopted_key(bridge, crosscheck, bystanders, spec):
    if bridge.run("key", "adopt", "--help", check=False).returncode != 0:
        pytest.skip("`hsm-bridge key adopt` does not exist in this version")
    done = subprocess.run([sys.executable, "-c", ADOPT, HERE, HERE.parent / "clients", spec], capture_output=True, text=True,
                          timeout=60, env=bridge.tool_env() | {"HSM_BRIDGE_BIN": str(binary())})
    assert done.returncode == 0, done.stderr
    key, cka_id = done.stdout.split()
    made = used(bridge, key, spec)
    assert list(look(crosscheck, bridge, bystanders, key).results(key).values()) == ["ok", "ok"]
    (label,) = {o["label"] for o in listed_objects(bridge) if o.get("ID") == cka_id}
    for kind in kinds(spec):
        pkcs11_tool(bridge, "--delete-object", "--type", kind, "--id", cka_id)
    pkcs11_tool(bridge, *adopted.KINDS[spec], "--sensitive", "--id", cka_id, "--label", label)
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "the same key")
    assert_unused(bridge, key, spec, made)


# -- below PKCS#11 -----------------------------------------------------------------------------------------------------------

def replace_file(bridge, spec, new_key):
    """Overwrites the file in which SoftHSM keeps the key's object with that of another: no C_DestroyObject, and the handle of
    a running process goes on to name it. Whoever can write the token's directory can do this."""
    (token_dir,) = (path for path in (bridge.dir / "tokens").iterdir() if path.is_dir())

    def files():
        return set(token_dir.glob("*.object"))

    before = files()
    key, made = new_key(spec)
    (mine,) = files() - before
    spare, before = secrets.token_hex(16), files()
    generate(bridge, key, spec, cka_id=spare)
    # Each change of an attribute makes SoftHSM read a file again.
    pkcs11_tool(bridge, "--set-id", key_id_hex(key), "--type", "secrkey", "--id", spare)
    (other,) = files() - before
    mine.write_bytes(other.read_bytes())
    other.unlink()
    return key, made


def test_a_replaced_file(bridge, crosscheck, bystanders, new_key):
    key, made = replace_file(bridge, "SYMMETRIC_DEFAULT", new_key)
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "the same key")
    # Once a ciphertext did not open, the bridge knows.
    assert_unused(bridge, key, "SYMMETRIC_DEFAULT", made)
    bridge.restart()
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "the same key")
    assert_unused(bridge, key, "SYMMETRIC_DEFAULT", made)


def test_a_replaced_file_of_an_hmac_key_after_a_restart(bridge, crosscheck, bystanders, new_key):
    """Nothing tells while the bridge runs: see docs/crosscheck.md."""
    key, made = replace_file(bridge, "HMAC_256", new_key)
    bridge.restart()
    assert_red(look(crosscheck, bridge, bystanders, key), key, bystanders, "the same key")
    assert_unused(bridge, key, "HMAC_256", made)
