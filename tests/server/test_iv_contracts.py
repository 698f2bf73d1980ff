"""Tokens that make the IV of AES-GCM themselves. The judge is tests/pkcs11-faults: SoftHSM2 made to behave so, and strict: it takes no IV
from the bridge that such a token would not take. What the bridge makes is opened by the program of docs/ciphertext-format.md on the
bare SoftHSM2.
"""

import base64
import itertools
import json
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from bridge import clean_env
from faults import Faults
from instance import COMMAND, MODULE, until
from test_officer import certificate, token_line

REPOSITORY = Path(__file__).resolve().parents[2]
# Suite and IV length of the blobs, mechanism of the audit records.
CONTRACTS = {"caller": (1, 12, "CKM_AES_GCM"), "zeroed-writeback": (1, 12, "CKM_AES_GCM"), "luna-append16": (2, 16, "CKM_AES_GCM"),
             "prepended": (1, 12, "CKM_CLOUDHSM_AES_GCM")}
TOKENS_IV = [name for name in CONTRACTS if name != "caller"]
TEXT, CONTEXT = base64.b64encode(b"from the bridge").decode(), {"app": "shop", "Tenant": "7"}
STORE_PIN = "second-secret-1"


def behave(instance, contract, profile=None):
    """What the module does from the next start on; `profile`: what the configuration says that it does."""
    token = Faults(instance, name=contract, behaviour={"gcm_iv": contract}).token
    if profile:
        (instance.root / "profile.toml").write_text(f'name = "faults"\ngcm_iv = "{profile}"\n')
        token["profile"] = str(instance.root / "profile.toml")
    instance.sections["token"] = token
    if instance.config.exists():
        instance.write_config()
    return instance


def blob_of(answer):
    return base64.b64decode(answer["CiphertextBlob"])


def sent(blob):
    return base64.b64encode(blob).decode()


def iv_of(blob, contract):
    """The IV of a blob of this contract's form."""
    suite, length, _ = CONTRACTS[contract]
    assert blob[:5] == b"HBK\x01" + bytes([suite]) and blob[26] == length
    return blob[27:27 + length]


def opens(instance, blob, context=CONTEXT, text=TEXT):
    assert instance.call("Decrypt", {"CiphertextBlob": sent(blob), "EncryptionContext": context})["Plaintext"] == text


def opened_by_the_page(instance, blob):
    """With the program of docs/ciphertext-format.md, in the real module."""
    (program,) = re.findall(r"^```python blob\.py\n(.*?)^```$", (REPOSITORY / "docs/ciphertext-format.md").read_text(), re.M | re.S)
    (instance.root / "blob.py").write_text(program)
    (instance.root / "one.blob").write_bytes(blob)
    done = subprocess.run([sys.executable, "blob.py", "open", "one.blob", *(f"{name}={value}" for name, value in CONTEXT.items())],
                          cwd=instance.root, capture_output=True, timeout=COMMAND,
                          env=clean_env(SOFTHSM2_CONF=str(instance.softhsm_conf), HSM_BRIDGE_PKCS11_MODULE=MODULE,
                                        HSM_BRIDGE_TOKEN_LABEL=instance.label, HSM_BRIDGE_PIN_FILE=str(instance.pin_file)))
    assert done.returncode == 0, done.stderr
    return base64.b64encode(done.stdout).decode()


def encrypted(instance, key):
    return blob_of(instance.call("Encrypt", {"KeyId": key, "Plaintext": TEXT, "EncryptionContext": CONTEXT}))


@pytest.mark.parametrize("named", [True, False], ids=["named", "probed"])
@pytest.mark.parametrize("contract", CONTRACTS)
def test_an_instance_lives_on_it(make, contract, named):
    """init, keys, every operation that encrypts or decrypts, access keys, restart. By a profile's word, and found by trying."""
    instance = behave(make(), contract, contract if named else None).init().start()
    (token,) = instance.doctor()["tokens"]
    assert token["ivContract"] == contract and CONTRACTS[contract][2] in token["mechanisms"]
    key, other = instance.new_key(), instance.new_key()
    blob = encrypted(instance, key)
    opens(instance, blob)
    assert opened_by_the_page(instance, blob) == TEXT
    shown = json.loads(instance.run("ciphertext", "inspect", instance.root / "one.blob", "--json").stdout)
    assert shown["iv"] == iv_of(blob, contract).hex() and shown["plaintextBytes"] == len(base64.b64decode(TEXT))
    assert shown["suite"] == {1: "AES_256_GCM", 2: "AES_256_GCM_IV16"}[CONTRACTS[contract][0]]

    data_key = instance.call("GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": CONTEXT})
    opens(instance, blob_of(data_key), text=data_key["Plaintext"])
    assert opened_by_the_page(instance, blob_of(data_key)) == data_key["Plaintext"]
    silent = blob_of(instance.call("GenerateDataKeyWithoutPlaintext", {"KeyId": key, "NumberOfBytes": 24}))
    moved = blob_of(instance.call("ReEncrypt", {"CiphertextBlob": sent(blob), "SourceEncryptionContext": CONTEXT,
                                                "DestinationKeyId": other, "DestinationEncryptionContext": CONTEXT}))
    assert moved[6:22] == uuid.UUID(other).bytes
    opens(instance, moved)
    longest = base64.b64encode(bytes(4096)).decode()
    opens(instance, blob_of(instance.call("Encrypt", {"KeyId": key, "Plaintext": longest})), context={}, text=longest)

    ivs = [iv_of(made, contract) for made in (blob, blob_of(data_key), silent, moved, *(encrypted(instance, key) for _ in range(40)))]
    assert len(set(ivs)) == len(ivs) and all(any(iv) for iv in ivs)
    assert instance.records("Encrypt")[-1]["additionalEventData"]["hsm"]["mechanism"] == CONTRACTS[contract][2]

    tampered(instance, blob, contract)

    made = json.loads(instance.run("access-key", "create", "--user", "alice", "--json").stdout)
    theirs = {"access_key": made["accessKeyId"], "secret_key": made["secretAccessKey"]}
    instance.stop()
    instance.start()
    opens(instance, blob)
    opens(instance, encrypted(instance, key))
    # Its secret is sealed by the token: a signature of it verifies, though no policy lets the user do anything.
    assert instance.raw(**theirs).call("ListKeys").type == "AccessDeniedException"
    assert instance.raw(**theirs | {"secret_key": made["secretAccessKey"][::-1]}).call("ListKeys").type == "InvalidSignatureException"
    assert json.loads(instance.run("token", "reconcile", "--json").stdout)["ok"] is True
    instance.stop()
    assert instance.verify()["verdict"] == "OK"


def tampered(instance, blob, contract):
    """A changed IV, ciphertext or tag, and another suite or length of the IV, are InvalidCiphertextException."""
    suite, length, _ = CONTRACTS[contract]
    changed = [blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1:] for at in (27, 26 + length, 27 + length, len(blob) - 17, len(blob) - 16,
                                                                          len(blob) - 1)]
    changed += [blob[:-1], blob + b"\0", blob[:27 + length] + blob[27 + length + 1:]]
    for wrong in ((1, 16), (2, 12), (3, 12), (3, 16), (3 - suite, 28 - length)):
        changed.append(blob[:4] + bytes([wrong[0]]) + blob[5:26] + bytes([wrong[1]]) + blob[27:])
    for wrong in changed:
        reply = instance.raw().call("Decrypt", {"CiphertextBlob": sent(wrong), "EncryptionContext": CONTEXT})
        assert reply.type == "InvalidCiphertextException", f"{wrong.hex()}: {reply.status} {reply.body}"
    opens(instance, blob)


@pytest.mark.parametrize("told", CONTRACTS)
@pytest.mark.parametrize("real", CONTRACTS)
def test_a_wrong_profile_is_refused(make, real, told):
    """With a profile's word its contract alone is tried: the token that is not so is refused at open, and nothing else is tried."""
    instance = behave(make(), real, told)
    instance.make_token()
    instance.write_config()
    if real == told:
        instance.run("init")
        return
    refused = instance.run("init", expect=None)
    assert refused.returncode != 0
    prepended = "prepended" in (real, told)
    reason = "the token does not list CKM_" if prepended else f'AES-GCM does not work on this token with the profile\'s `gcm_iv = "{told}"`'
    assert reason in refused.stderr, refused.stderr


@pytest.mark.parametrize("first, later", list(itertools.permutations(CONTRACTS, 2)))
def test_what_one_contract_made_another_opens(make, first, later):
    """A partition is brought into FIPS mode, or another mechanism is chosen, over the same keys: sealed access keys, the wrapped store key,
    fingerprints and blobs of 12 bytes of IV go on to open. CloudHSM's mechanism has no place for 16."""
    instance = behave(make(), first).init().start()
    key = instance.new_key()
    blob = encrypted(instance, key)
    instance.stop()
    behave(instance, later)
    if (first, later) == ("luna-append16", "prepended"):
        instance.spawn()
        assert instance.wait_for_exit() != 0 and "store key" in instance.said()
        return
    instance.start()
    opens(instance, blob)
    newer = encrypted(instance, key)
    iv_of(newer, later)
    opens(instance, newer)
    added = json.loads(instance.run("access-key", "create", "--json").stdout)
    assert instance.raw(access_key=added["accessKeyId"], secret_key=added["secretAccessKey"]).call("ListKeys").status == 200


@pytest.mark.parametrize("contract", TOKENS_IV)
def test_a_custom_key_store_on_it(make, contract):
    """KeyStorePassword is sealed under the default token, and opened after a restart; the store's own keys have the contract too."""
    instance = behave(make(listener='[[custom_token]]\nname = "shop"\nlabel = "shop"\n'), contract).init()
    subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", "shop", "--pin", STORE_PIN, "--so-pin", "9876543210"],
                   env=clean_env(SOFTHSM2_CONF=str(instance.softhsm_conf)), check=True, capture_output=True, timeout=COMMAND)
    instance.start()
    store = instance.call("CreateCustomKeyStore", {
        "CustomKeyStoreName": "shop", "CloudHsmClusterId": token_line(instance, "shop")["clusterId"], "KeyStorePassword": STORE_PIN,
        "TrustAnchorCertificate": certificate()})["CustomKeyStoreId"]

    def connected():
        (found,) = instance.call("DescribeCustomKeyStores", {"CustomKeyStoreId": store})["CustomKeyStores"]
        assert found["ConnectionState"] != "FAILED", found
        return found["ConnectionState"] == "CONNECTED"

    instance.call("ConnectCustomKeyStore", {"CustomKeyStoreId": store})
    until("the key store is connected", connected)
    key = instance.new_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId=store)
    blob = encrypted(instance, key)
    iv_of(blob, contract)
    instance.stop()
    instance.start()
    until("the key store is connected again", connected)
    opens(instance, blob)
