"""The officer's commands: token and store compared, foreign keys adopted, keys attested, another PIN."""

import base64
import json
import re
import socket
import subprocess
import threading

import pytest

from instance import COMMAND, MODULE, is_intent, until
from token_keys import Keys

AES, HMAC, RSA, EC = "AES:32", "GENERIC:32", "RSA:2048", "EC:secp256r1"


class Refused(Exception):
    pass


def ask(instance, command, **members):
    """One command over the operator's socket; gives its answer."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(COMMAND)
        link.connect(str(instance.state / "operator.sock"))
        link.sendall(json.dumps({"command": command} | members).encode() + b"\n")
        for line in link.makefile("r", encoding="utf-8"):
            answer = json.loads(line)
            # Other lines say how far a long command is.
            if "error" in answer:
                raise Refused(answer["error"]["message"])
            if "ok" in answer:
                return answer["ok"]
    raise AssertionError(f"{command}: no answer")


def adopt(instance, **members):
    asked = {"key_store": None, "id": None, "label": None, "usage": None, "description": "", "alias": None,
             "allow_extractable": False, "encryptions_so_far": 0}
    return ask(instance, "key-adopt", **(asked | members))["key"]


def reconcile(instance):
    return ask(instance, "token-reconcile", token=None)["report"]


def faults(report):
    """Names of the lists that are not empty, with what they list."""
    (token,) = report["tokens"]
    lists = {name: found["listed"] if isinstance(found, dict) else found for name, found in token["faults"].items()}
    return {name: found for name, found in lists.items() if found}


@pytest.fixture
def keys(serving):
    return Keys(serving)


def use(instance, key, spec):
    """The key does what KMS says, checked where somebody else's code can."""
    if spec == "SYMMETRIC_DEFAULT":
        blob = instance.call("Encrypt", {"KeyId": key, "Plaintext": base64.b64encode(b"shop").decode()})["CiphertextBlob"]
        assert instance.call("Decrypt", {"CiphertextBlob": blob})["Plaintext"] == base64.b64encode(b"shop").decode()
        return blob
    message = base64.b64encode(b"message").decode()
    if spec == "HMAC_256":
        mac = instance.call("GenerateMac", {"KeyId": key, "Message": message, "MacAlgorithm": "HMAC_SHA_256"})["Mac"]
        assert instance.call("VerifyMac", {"KeyId": key, "Message": message, "MacAlgorithm": "HMAC_SHA_256", "Mac": mac})["MacValid"]
        return mac
    algorithm = "ECDSA_SHA_256" if spec == "ECC_NIST_P256" else "RSASSA_PSS_SHA_256"
    signature = instance.call("Sign", {"KeyId": key, "Message": message, "SigningAlgorithm": algorithm})["Signature"]
    public = instance.call("GetPublicKey", {"KeyId": key})["PublicKey"]
    check_signature(instance.root, public, signature, b"message", pss=spec.startswith("RSA"))
    return signature


def check_signature(root, public, signature, message, pss=False):
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

    loaded = load_der_public_key(base64.b64decode(public))
    (root / "public.pem").write_bytes(loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    verify(root, signature, message, *(("-sigopt", "rsa_padding_mode:pss") if pss else ()))


def verify(root, signature, message, *options, expect="Verified OK"):
    """`openssl dgst -verify`, with public.pem."""
    (root / "signature").write_bytes(base64.b64decode(signature))
    (root / "message").write_bytes(message)
    done = subprocess.run(["openssl", "dgst", "-sha256", *options, "-verify", root / "public.pem", "-signature", root / "signature",
                           root / "message"], capture_output=True, text=True, timeout=COMMAND)
    assert expect in done.stdout, done.stdout + done.stderr


# -- key adopt ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("kind", "spec"), [(AES, "SYMMETRIC_DEFAULT"), (HMAC, "HMAC_256"), (RSA, "RSA_2048"), (EC, "ECC_NIST_P256")])
def test_an_adopted_key_works_also_after_a_restart(serving, keys, kind, spec):
    keys.make(kind, "a1", "payroll 2019")
    shown = adopt(serving, id="a1", description="from the old system", alias="alias/payroll")
    key = shown["line"]["key_id"]
    assert shown["line"]["spec"] == spec and shown["line"]["aliases"] == ["alias/payroll"]
    assert shown["materials"][0]["cka_id"] == "a1" and shown["materials"][0]["cka_label"] == "payroll 2019"
    made = use(serving, "alias/payroll", spec)
    assert serving.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["Description"] == "from the old system"

    serving.stop()
    serving.start()
    assert serving.call("DescribeKey", {"KeyId": key})["KeyMetadata"]["KeyState"] == "Enabled"
    use(serving, key, spec)
    if spec == "SYMMETRIC_DEFAULT":
        assert serving.call("Decrypt", {"CiphertextBlob": made})["Plaintext"] == base64.b64encode(b"shop").decode()
    assert reconcile(serving)["ok"]

    records = serving.records("KeyAdopt")
    assert [is_intent(record) for record in records] == [True, False]
    assert serving.key_arn(key) in json.dumps(records[0]["resources"]), "the intent names the key"
    details = json.dumps(records[1])
    assert "payroll 2019" in details and '"a1"' in details


def test_a_key_that_pkcs11_tool_made(serving, keys):
    """SoftHSM grants all uses that a template does not name: refused until they are taken away."""
    subprocess.run(["pkcs11-tool", "--module", MODULE, "--token-label", serving.label, "--login", "--pin", serving.pin, "--keygen",
                    "--key-type", "AES:32", "--id", "b1", "--label", "by hand", "--sensitive", "--private", "--usage-decrypt"],
                   env={"SOFTHSM2_CONF": str(serving.softhsm_conf), "PATH": "/usr/bin:/bin"}, check=True, capture_output=True, timeout=COMMAND)
    with pytest.raises(Refused, match="CKA_WRAP, CKA_UNWRAP"):
        adopt(serving, label="by hand")
    keys.set("b1", "WRAP", False)
    keys.set("b1", "UNWRAP", False)
    use(serving, adopt(serving, label="by hand")["line"]["key_id"], "SYMMETRIC_DEFAULT")


def test_a_charged_budget(serving, keys):
    keys.make(AES, "c1", "busy")
    shown = adopt(serving, id="c1", encryptions_so_far=1 << 31)
    assert shown["gcm_reserved"] == 1 << 31
    keys.make(AES, "c2", "full")
    key = adopt(serving, id="c2", encryptions_so_far=1 << 32)["line"]["key_id"]
    refused = serving.raw().call("Encrypt", {"KeyId": key, "Plaintext": "AAAA"})
    assert refused.type == "KMSInvalidStateException" and b"encryption limit" in refused.body
    keys.make(EC, "c3", "signs")
    with pytest.raises(Refused, match="no budget"):
        adopt(serving, id="c3", encryptions_so_far=1)


REFUSALS = [
    ("extractable", AES, {"EXTRACTABLE": True}, {}, "--allow-extractable"),
    ("not private", AES, {"PRIVATE": False}, {}, "CKA_PRIVATE"),
    ("wraps", AES, {"WRAP": True}, {}, "CKA_WRAP"),
    ("unwraps", AES, {"UNWRAP": True}, {}, "CKA_UNWRAP"),
    ("derives", AES, {"DERIVE": True}, {}, "CKA_DERIVE"),
    ("signs and unwraps", RSA, {"UNWRAP": True}, {}, "CKA_UNWRAP"),
    ("signs and derives", EC, {"DERIVE": True}, {}, "CKA_DERIVE"),
    ("public half wraps", RSA, {}, {"WRAP": True}, "CKA_WRAP"),
    ("does not decrypt", AES, {"DECRYPT": False}, {}, "CKA_DECRYPT"),
    ("does not sign", HMAC, {"SIGN": False}, {}, "CKA_SIGN"),
    ("short", "AES:16", {}, {}, "16 bytes"),
    ("no size of KMS", "GENERIC:20", {}, {}, "20 bytes"),
    ("small", "RSA:1024", {}, {}, "1024 bits"),
    ("no curve of KMS", "EC:secp224r1", {}, {}, "no KMS key spec"),
    ("hsm-bridge/kms/4a5f9a4e-7c3b-4dd0-8f0a-0a7b7a3c9d55", AES, {}, {}, "label of the bridge"),
]


def test_what_is_not_adopted(serving, keys):
    for number, (label, kind, attributes, public, says) in enumerate(REFUSALS):
        cka_id = f"d{number:03x}"
        keys("make", kind=kind, id=cka_id, name=label, attributes=attributes, public=public)
        with pytest.raises(Refused, match=re.escape(says)):
            adopt(serving, id=cka_id)
    keys.make(AES, "e1", "twice")
    keys.make(AES, "e1", "twice")
    keys.make(AES, "", "without an id")
    keys.make(AES, "e2", "same label")
    keys.make(AES, "e3", "same label")
    keys.make(RSA, "e4", "half")
    keys.destroy("e4", "PUBLIC_KEY")
    own = serving.new_key()
    for members, says in [
        ({"id": "e1"}, "several objects"),
        ({"label": "without an id"}, "no `CKA_ID`"),
        ({"id": ""}, "no `CKA_ID`"),
        ({"label": "same label"}, "2 keys have this label"),
        ({"id": "e4"}, "no public key"),
        ({"id": "ffff"}, "no key with this"),
        ({"id": "xyz"}, "hex digits"),
        ({}, "name the key"),
        ({"label": "hsm-bridge/store-kek"}, "label of the bridge"),
        ({"label": "hsm-bridge/iam-wrap"}, "label of the bridge"),
        ({"id": own.replace("-", "")}, "label of the bridge"),
        ({"id": "e2", "usage": "SIGN_VERIFY"}, "has the usage ENCRYPT_DECRYPT"),
        ({"id": "e2", "alias": "alias/aws/x"}, "reserved"),
        ({"id": "e2", "key_store": "cks-0123456789abcdef0"}, "does not exist"),
    ]:
        with pytest.raises(Refused, match=re.escape(says)):
            adopt(serving, **members)
    # Nothing of all that left anything behind.
    assert [row["key_id"] for row in ask(serving, "key-list")["keys"]] == [own]
    first = adopt(serving, id="e2", alias="alias/taken")["line"]["key_id"]
    for members, says in [({"id": "e2"}, f"already, as key `{first}`"), ({"id": "e3", "alias": "alias/taken"}, "exists")]:
        with pytest.raises(Refused, match=re.escape(says)):
            adopt(serving, **members)
    adopt(serving, id="e3")


def test_an_extractable_key_with_the_flag(serving, keys):
    keys.make(AES, "f1", "open", EXTRACTABLE=True)
    key = adopt(serving, id="f1", allow_extractable=True)["line"]["key_id"]
    use(serving, key, "SYMMETRIC_DEFAULT")
    assert reconcile(serving)["ok"], "it is as it was adopted"
    statement = json.loads(ask(serving, "key-attest", key=key)["statement"])
    assert "could leave the token, which was accepted" in statement["provenance"]
    (material,) = statement["materials"]
    assert material["nonExtractableProven"] is False and "CKA_EXTRACTABLE is true" in material["judgement"]


# -- token reconcile ----------------------------------------------------------------------------------------------------------

def test_token_and_store_agree(serving, keys):
    for spec in ("SYMMETRIC_DEFAULT", "RSA_2048", "ECC_NIST_P256", "ECC_NIST_EDWARDS25519", "HMAC_384"):
        usage = {"SYMMETRIC_DEFAULT": "ENCRYPT_DECRYPT", "HMAC_384": "GENERATE_VERIFY_MAC"}.get(spec, "SIGN_VERIFY")
        serving.new_key(KeySpec=spec, KeyUsage=usage)
    keys.make(AES, "01", "somebody else's")
    report = reconcile(serving)
    assert report["ok"] and faults(report) == {} and report["notCompared"] == []
    (token,) = report["tokens"]
    assert token["token"] == "default" and token["keys"] == 5
    assert [one["label"] for one in token["foreign"]["listed"]] == ["somebody else's"] and token["foreign"]["count"] == 1, token
    assert "hsm-bridge/store-kek" in token["systemKeys"]
    # Each of the two audit keys is a pair.
    assert token["objects"] == 8 + 1 + len(token["systemKeys"]) + 2


def test_everything_that_does_not_agree_is_named(serving, keys):
    symmetric = [serving.new_key() for _ in range(5)]
    gone, widened, doubled, renamed, kept = symmetric
    pair = serving.new_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    cka = lambda key: key.replace("-", "")  # noqa: E731
    label = lambda key: f"hsm-bridge/kms/{key}"  # noqa: E731
    keys.destroy(cka(gone))
    keys.set(cka(widened), "WRAP", True)
    keys.make(AES, cka(doubled), label(doubled))
    keys.set(cka(renamed), "LABEL", "renamed")
    keys.make(AES, "ab" * 16, "hsm-bridge/kms/abababab-abab-abab-abab-abababababab")
    keys.destroy(cka(pair))
    keys.make(EC, cka(pair), label(pair))
    keys.set(cka(kept), "SIGN", True)
    extractable = serving.new_key()
    keys.destroy(cka(extractable))
    keys.make(AES, cka(extractable), label(extractable), EXTRACTABLE=True)

    report = reconcile(serving)
    assert report["ok"] is False
    found = faults(report)
    by_key = {name: {line.get("keyId") for line in lines} for name, lines in found.items()}
    assert set(found) == {"objectsWithoutRecord", "recordsWithoutObject", "duplicateIds", "attributes", "publicKeys"}
    assert [line["ckaId"] for line in found["objectsWithoutRecord"]] == ["ab" * 16]
    assert by_key["recordsWithoutObject"] == {gone}
    assert by_key["duplicateIds"] == {doubled}
    assert by_key["publicKeys"] == {pair}
    assert by_key["attributes"] == {widened, renamed, extractable}
    texts = "\n".join(line["what"] for line in found["attributes"])
    for says in ("CKA_WRAP is true", "CKA_LABEL is `renamed`", "CKA_EXTRACTABLE is true", "CKA_NEVER_EXTRACTABLE is false"):
        assert says in texts, texts
    (token,) = report["tokens"]
    assert [line["keyId"] for line in token["notes"]["listed"]] == [kept], "a further use that does no harm is a note"
    # It never deletes, and leaves the records alone.
    assert keys("count", id="ab" * 16) == 1 and keys("count", id=cka(doubled)) == 2
    assert faults(reconcile(serving)) == found
    (record,) = [r for r in serving.records("TokenReconcile")][:1]
    assert not is_intent(record) and '"ok": false' in json.dumps(record["additionalEventData"])


def test_a_token_that_is_not_there_is_not_judged(serving):
    with pytest.raises(Refused, match="there is no token `other`: the configuration names `default`"):
        ask(serving, "token-reconcile", token="other")


# -- key attest ---------------------------------------------------------------------------------------------------------------

def test_an_attestation_verifies_with_openssl(serving, keys):
    made = serving.new_key()
    keys.make(RSA, "a2", "signs releases")
    adopted = adopt(serving, id="a2")["line"]["key_id"]
    for key, how in ((made, "generated in this token for CreateKey"), (adopted, "adopted from the label `signs releases`")):
        answer = ask(serving, "key-attest", key=key)
        text = answer["statement"]
        (serving.root / "public.pem").write_text(answer["public_key"])
        verify(serving.root, answer["signature"], text.encode())
        verify(serving.root, answer["signature"], text.replace('"CKA_EXTRACTABLE":false', '"CKA_EXTRACTABLE":true').encode(),
               expect="Verification failure")
        statement = json.loads(text)
        assert text == json.dumps(statement, sort_keys=True, separators=(",", ":")), "canonical"
        assert statement["format"] == "hsm-bridge/attestation/1" and statement["keyArn"] == serving.key_arn(key)
        assert how in statement["provenance"]
        (material,) = statement["materials"]
        assert material["nonExtractableProven"] is True and material["fingerprintChecked"] is True
        private = material["objects"][0]
        assert private["CKA_EXTRACTABLE"] is False and material["atCreation"]["CKA_EXTRACTABLE"] is False
        assert answer["algorithm"] == "RSASSA_PKCS1_V1_5_SHA_256"
    # The key that signs is the token's, made once.
    assert reconcile(serving)["ok"]
    assert [is_intent(r) for r in serving.records("KeyAttest")] == [True, False] * 2


def test_a_replaced_key_is_not_attested(serving, keys):
    key = serving.new_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    keys.destroy(key.replace("-", ""))
    keys.make(EC, key.replace("-", ""), f"hsm-bridge/kms/{key}")
    with pytest.raises(Refused):
        ask(serving, "key-attest", key=key)


# -- token pin ----------------------------------------------------------------------------------------------

def change_pin(instance, old, new):
    subprocess.run(["pkcs11-tool", "--module", MODULE, "--token-label", instance.label, "--login", "--pin", old, "--change-pin", "--new-pin", new],
                   env={"SOFTHSM2_CONF": str(instance.softhsm_conf), "PATH": "/usr/bin:/bin"}, check=True, capture_output=True, timeout=COMMAND)


def pin_file(instance, pin, name="other-pin"):
    path = instance.root / name
    path.unlink(missing_ok=True)
    path.write_text(pin + "\n")
    path.chmod(0o600)
    return str(path)


def pins_told(instance, *pins):
    text = b"".join(path.read_bytes() for path in instance.segments()) + instance.said(everything=True).encode()
    return [pin for pin in pins if pin.encode() in text]


def test_another_pin(serving):
    key = serving.new_key()
    one, other, new = serving.wrong_pins(3)
    # The officer is late: the token does not know this PIN, so the old one stays.
    serving.write_pin(one)
    for source in (None, pin_file(serving, other)):
        with pytest.raises(Refused, match="refuses the new PIN, which was tried once.*the old PIN is used on"):
            ask(serving, "token-pin", token=None, pin_file=source)
        use(serving, key, "SYMMETRIC_DEFAULT")
    ask(serving, "token-pin", token="default", pin_file=pin_file(serving, serving.pin))
    use(serving, key, "SYMMETRIC_DEFAULT")
    with pytest.raises(Refused, match="absent"):
        ask(serving, "token-pin", token=None, pin_file=str(serving.root / "absent"))
    assert ask(serving, "token-list")["tokens"][0]["status"] == "ready"
    # What an officer does: the PIN is changed beside the serving bridge, then told to it, under load and without a restart.
    pid = serving.process.pid
    failures, stop = [], threading.Event()

    def load():
        while not stop.is_set():
            try:
                use(serving, key, "SYMMETRIC_DEFAULT")
            except Exception as error:  # noqa: BLE001
                failures.append(repr(error))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        change_pin(serving, serving.pin, new)
        use(serving, key, "SYMMETRIC_DEFAULT")
        serving.write_pin(new)
        assert ask(serving, "token-pin", token=None, pin_file=None)["token"] == "default"
        use(serving, key, "SYMMETRIC_DEFAULT")
    finally:
        stop.set()
        thread.join()
    assert failures == [] and serving.process.pid == pid
    # The PIN that it works with is the new one: the old one is refused now.
    with pytest.raises(Refused, match="the old PIN is used on"):
        ask(serving, "token-pin", token=None, pin_file=pin_file(serving, serving.pin))
    use(serving, key, "SYMMETRIC_DEFAULT")
    serving.stop()
    serving.start()
    use(serving, key, "SYMMETRIC_DEFAULT")
    assert pins_told(serving, one, other, new) == []
    outcomes = [r for r in serving.records("TokenPin") if not is_intent(r)]
    assert ["errorCode" in r for r in outcomes] == [True, True, False, True, False, True]


# -- tokens of custom key stores --------------------------------------------------------------------------------------------------

SHOP_PIN = "shop-secret-1"


@pytest.fixture
def shop(make):
    """A server with a second token, and a connected custom key store on it."""
    instance = make(listener='[[custom_token]]\nname = "shop"\nlabel = "shop"\n').init()
    subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", "shop", "--pin", SHOP_PIN, "--so-pin", "9876543210"],
                   env={"SOFTHSM2_CONF": str(instance.softhsm_conf), "PATH": "/usr/bin:/bin"}, check=True, capture_output=True, timeout=COMMAND)
    instance.start()
    cluster = token_line(instance, "shop")["clusterId"]
    instance.store = instance.call("CreateCustomKeyStore", {
        "CustomKeyStoreName": "shop", "CloudHsmClusterId": cluster, "KeyStorePassword": SHOP_PIN,
        "TrustAnchorCertificate": certificate()})["CustomKeyStoreId"]
    connect(instance)
    return instance


def certificate():
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anchor")])
    day = datetime.datetime(2026, 1, 1)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + datetime.timedelta(3650))
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def token_line(instance, name):
    (line,) = [token for token in ask(instance, "token-list")["tokens"] if token["name"] == name]
    return line


def state(instance):
    (store,) = instance.call("DescribeCustomKeyStores", {"CustomKeyStoreId": instance.store})["CustomKeyStores"]
    return store["ConnectionState"]


def connect(instance, ends="CONNECTED"):
    instance.call("ConnectCustomKeyStore", {"CustomKeyStoreId": instance.store})
    until(f"the key store is {ends}", lambda: state(instance) == ends)


def disconnect(instance):
    instance.call("DisconnectCustomKeyStore", {"CustomKeyStoreId": instance.store})
    until("the key store is disconnected", lambda: state(instance) == "DISCONNECTED")


def new_custom_key(instance):
    return instance.new_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId=instance.store)


def test_the_token_of_a_custom_key_store(shop):
    made = new_custom_key(shop)
    theirs = Keys(shop, label="shop", pin=SHOP_PIN)
    theirs.make(AES, "77", "in the shop")
    with pytest.raises(Refused, match="no key with this"):
        adopt(shop, id="77")
    theirs.make(EC, "79", "signs in the shop")
    with pytest.raises(Refused, match="custom_store_key_specs"):
        adopt(shop, id="79", key_store=shop.store)
    adopted = adopt(shop, id="77", key_store=shop.store)["line"]["key_id"]
    metadata = shop.call("DescribeKey", {"KeyId": adopted})["KeyMetadata"]
    assert metadata["Origin"] == "AWS_CLOUDHSM" and metadata["CustomKeyStoreId"] == shop.store
    use(shop, adopted, "SYMMETRIC_DEFAULT")
    report = reconcile(shop)
    assert report["ok"] and [token["token"] for token in report["tokens"]] == ["default", "shop"]
    assert report["tokens"][1]["keys"] == 2
    line = token_line(shop, "shop")
    assert line["keyStore"]["state"] == "CONNECTED" and line["keys"] == 2 and line["label"] == "shop" and line["workers"] >= 1
    statement = json.loads(ask(shop, "key-attest", key=adopted)["statement"])
    assert statement["token"]["serial"] == line["serial"] and statement["customKeyStoreId"] == shop.store
    (anchor,) = shop.doctor()["trustAnchors"]
    assert anchor["proves"].startswith("nothing")

    disconnect(shop)
    line = token_line(shop, "shop")
    assert line["present"] is True and line["status"] == "not connected" and line["keyStore"]["state"] == "DISCONNECTED"
    report = reconcile(shop)
    assert report["ok"] and [entry["token"] for entry in report["notCompared"]] == ["shop"] and report["notCompared"][0]["keys"] == 2
    with pytest.raises(Refused, match="is not connected"):
        ask(shop, "token-reconcile", token="shop")
    with pytest.raises(Refused, match="not connected"):
        adopt(shop, id="78", key_store=shop.store)
    connect(shop)
    use(shop, adopted, "SYMMETRIC_DEFAULT")
    use(shop, made, "SYMMETRIC_DEFAULT")
    theirs.destroy("77")
    assert [line["keyId"] for line in faults({"tokens": reconcile(shop)["tokens"][1:]})["recordsWithoutObject"]] == [adopted]


def test_the_password_of_a_custom_key_store(shop):
    key = new_custom_key(shop)
    for connected in (True, False):
        if not connected:
            disconnect(shop)
        with pytest.raises(Refused, match="refuses the new PIN.*the old (PIN is used on|password stays)"):
            ask(shop, "token-pin", token="shop", pin_file=pin_file(shop, f"not-the-one-{connected}"))
        ask(shop, "token-pin", token="shop", pin_file=pin_file(shop, SHOP_PIN))
    with pytest.raises(Refused, match="--pin-file"):
        ask(shop, "token-pin", token="shop", pin_file=None)
    with pytest.raises(Refused, match="7 to 32"):
        ask(shop, "token-pin", token="shop", pin_file=pin_file(shop, "short"))
    connect(shop)
    use(shop, key, "SYMMETRIC_DEFAULT")
    assert pins_told(shop, SHOP_PIN, "not-the-one") == []


# -- token replace ------------------------------------------------------------------------------------------------------------

def directory(instance, serial):
    (token,) = [path for path in (instance.root / "tokens").iterdir() if serial.encode() in (path / "token.object").read_bytes()]
    return token


def key_with_file(instance, token, make):
    """A new key, and the file that SoftHSM keeps it in."""
    token = directory(instance, token_line(instance, token)["serial"])
    before = set(token.glob("*.object"))
    key = make()
    (its_object,) = set(token.glob("*.object")) - before
    return key, its_object


def another_serial(instance, serial, new):
    """The token's directory as a clone would have it: the same objects, another serial."""
    token = directory(instance, serial)
    text = (token / "token.object").read_bytes()
    assert text.count(serial.encode()) == 1 and len(serial) == len(new)
    (token / "token.object").write_bytes(text.replace(serial.encode(), new.encode()))


def test_a_key_store_whose_token_is_away_at_the_start_connects_by_itself(shop):
    key = new_custom_key(shop)
    there = directory(shop, token_line(shop, "shop")["serial"])
    away = shop.root / "away"
    shop.stop()
    there.rename(away)
    shop.start()
    until("it was tried", lambda: "not connected yet: it is tried again" in shop.said())
    (entry,) = shop.call("DescribeCustomKeyStores")["CustomKeyStores"]
    assert entry["ConnectionState"] == "CONNECTING"
    away.rename(there)
    until("it is connected", lambda: state(shop) == "CONNECTED")
    use(shop, key, "SYMMETRIC_DEFAULT")

    # One that somebody connects now is told at once, and one that is given up stays so.
    disconnect(shop)
    there.rename(away)
    connect(shop, ends="FAILED")
    shop.call("DisconnectCustomKeyStore", {"CustomKeyStoreId": shop.store})
    away.rename(there)
    connect(shop)
    shop.stop()
    there.rename(away)
    shop.start()
    until("it was tried", lambda: "not connected yet: it is tried again" in shop.said())
    disconnect(shop)
    away.rename(there)
    connect(shop)
    use(shop, key, "SYMMETRIC_DEFAULT")


def test_another_token_behind_a_custom_key_store(shop):
    kept = new_custom_key(shop)
    lost, its_object = key_with_file(shop, "shop", lambda: new_custom_key(shop))
    serial = token_line(shop, "shop")["serial"]
    with pytest.raises(Refused, match="disconnect key store"):
        ask(shop, "token-replace", token="shop", ticket="T-1")
    disconnect(shop)
    with pytest.raises(Refused, match="has the known serial"):
        ask(shop, "token-replace", token="shop", ticket="T-1")
    shop.stop()
    another_serial(shop, serial, "00000000deadbeef")
    away = shop.root / "away.object"
    its_object.rename(away)
    shop.start()
    assert "another serial" in token_line(shop, "shop")["status"]
    connect(shop, ends="FAILED")
    shop.call("DisconnectCustomKeyStore", {"CustomKeyStoreId": shop.store})
    with pytest.raises(Refused, match=f"1 of 2 keys are not in the token.*{lost}"):
        ask(shop, "token-replace", token="shop", ticket="T-1")
    assert token_line(shop, "shop")["recordedSerial"] == serial
    shop.stop()
    away.rename(its_object)
    shop.start()
    done = ask(shop, "token-replace", token="shop", ticket="T-1")
    assert done["serial"] == "00000000deadbeef" and done["keys_checked"] == 2
    connect(shop)
    for key in (kept, lost):
        use(shop, key, "SYMMETRIC_DEFAULT")
    assert token_line(shop, "shop")["recordedSerial"] == "00000000deadbeef"
    assert "T-1" in json.dumps(shop.records("TokenReplace")[-1])


def test_another_default_token(serving):
    blob = use(serving, serving.new_key(), "SYMMETRIC_DEFAULT")
    lost, its_object = key_with_file(serving, "default", serving.new_key)
    serial = token_line(serving, "default")["serial"]
    with pytest.raises(Refused, match="has the known serial.*stop the server"):
        ask(serving, "token-replace", token="default", ticket="T-2")
    serving.stop()
    another_serial(serving, serial, "00000000deadbeef")
    away = serving.root / "away.object"
    its_object.rename(away)
    serving.spawn()
    assert serving.wait_for_exit() == 1 and "hsm-bridge token replace --token default" in serving.said()
    refused = serving.run("token", "replace", "--token", "default", "--ticket", "T-2", expect=1)
    assert "1 of 2 keys are not in the token" in refused.stderr and lost in refused.stderr
    away.rename(its_object)
    done = json.loads(serving.run("token", "replace", "--token", "default", "--ticket", "T-2", "--json").stdout)
    assert done["serial"] == "00000000deadbeef" and done["keysChecked"] == 2
    serving.start()
    assert serving.call("Decrypt", {"CiphertextBlob": blob})["Plaintext"] == base64.b64encode(b"shop").decode()


def test_the_list_of_tokens(serving):
    serving.new_key()
    (token,) = ask(serving, "token-list")["tokens"]
    assert token["name"] == "default" and token["label"] == serving.label and token["present"] is True
    assert token["keys"] == 1 and token["pin"] == "good" and token["serial"]


def test_doctor_says_all_and_no_secret(serving):
    serving.new_key()
    report = serving.doctor()
    (token,) = report["tokens"]
    assert (token["pinHint"], token["notes"]) == (None, None), "no profile is named"
    assert token["ivContract"] == "caller" and "SYMMETRIC_DEFAULT" in token["keySpecs"]
    assert all(token["attributeEnforcement"].values()), token["attributeEnforcement"]
    assert report["objects"]["withoutRecord"] == []
    (slots,) = report["modules"].values()
    assert any(slot.get("serial") == token["serial"] for slot in slots)
    assert any(slot.get("state") == "not initialised" for slot in slots), "SoftHSM always shows a free slot"
    text = json.dumps(report)
    for secret in (serving.pin, serving.secret_key, serving.access_key):
        assert secret not in text


# -- the same from the command line, with and without a server ------------------------------------------------------------------

@pytest.mark.parametrize("running", [True, False])
def test_the_command_line(serving, keys, running):
    keys.make(EC, "5a", "by hand")
    keys.make(AES, "5b", "open", EXTRACTABLE=True)
    if not running:
        serving.stop()
    refused = serving.run("key", "adopt", "--id", "5b", expect=1)
    assert "--allow-extractable" in refused.stderr
    key = json.loads(serving.run("key", "adopt", "--id", "5a", "--alias", "alias/hand", "--json").stdout)["line"]["key_id"]
    assert "by hand" in serving.run("key", "show", key).stdout
    out = serving.root / "statement"
    serving.run("key", "attest", "alias/hand", "--out", out)
    done = subprocess.run(["openssl", "dgst", "-sha256", "-verify", f"{out}.pem", "-signature", f"{out}.sig", out], capture_output=True,
                          text=True, timeout=COMMAND)
    assert "Verified OK" in done.stdout, done.stdout + done.stderr
    assert json.loads(out.read_text())["keyArn"] == serving.key_arn(key)
    assert serving.label in serving.run("token", "list").stdout
    assert json.loads(serving.run("token", "reconcile", "--json").stdout)["ok"] is True
    keys.destroy("5a", "PRIVATE_KEY")
    report = serving.run("token", "reconcile", expect=1)
    assert key in report.stdout and "the token has no CKO_PRIVATE_KEY with this id" in report.stdout
    if not running:
        serving.start()
    assert serving.verify()["verdict"] == "OK"
