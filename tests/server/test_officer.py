"""The officer's commands: token and store compared, foreign keys adopted, keys attested, another PIN."""

import base64
import json
import re
import socket
import subprocess

import pytest

from instance import COMMAND, MODULE, is_intent
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
        answer = b""
        while not answer.endswith(b"\n"):
            part = link.recv(65536)
            if not part:
                break
            answer += part
    # A line without "ok" or "error" says how far the command is.
    last = json.loads(answer.splitlines()[-1])
    if "error" in last:
        raise Refused(last["error"]["message"])
    return last["ok"]


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
    assert token["foreign"]["count"] == 1 and token["foreign"]["listed"][0]["label"] == "somebody else's"
    assert "hsm-bridge/store-kek" in token["systemKeys"]
    assert token["objects"] == 8 + 1 + len(token["systemKeys"])


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


# -- token pin, token list, doctor ----------------------------------------------------------------------------------------------

def change_pin(instance, old, new):
    subprocess.run(["pkcs11-tool", "--module", MODULE, "--token-label", instance.label, "--login", "--pin", old, "--change-pin", "--new-pin", new],
                   env={"SOFTHSM2_CONF": str(instance.softhsm_conf), "PATH": "/usr/bin:/bin"}, check=True, capture_output=True, timeout=COMMAND)


def test_another_pin_without_a_restart(serving):
    key = serving.new_key()
    # The officer is late: the token does not know this PIN, so the old one stays.
    serving.write_pin("11112222")
    with pytest.raises(Refused, match="refuses the new PIN, which was tried once.*the old PIN is used on"):
        ask(serving, "token-pin", token=None, pin_file=None)
    use(serving, key, "SYMMETRIC_DEFAULT")

    change_pin(serving, serving.pin, "33334444")
    serving.write_pin("33334444")
    assert ask(serving, "token-pin", token=None, pin_file=None)["token"] == "default"
    use(serving, key, "SYMMETRIC_DEFAULT")

    change_pin(serving, "33334444", "55556666")
    other = serving.root / "other-pin"
    other.write_text("55556666\n")
    other.chmod(0o600)
    ask(serving, "token-pin", token="default", pin_file=str(other))
    use(serving, key, "SYMMETRIC_DEFAULT")
    with pytest.raises(Refused, match="absent"):
        ask(serving, "token-pin", token=None, pin_file=str(serving.root / "absent"))

    text = b"".join(path.read_bytes() for path in serving.segments()) + serving.said(everything=True).encode()
    for pin in ("11112222", "33334444", "55556666"):
        assert pin.encode() not in text
    outcomes = [r for r in serving.records("TokenPin") if not is_intent(r)]
    assert ["errorCode" in r for r in outcomes] == [True, False, False, True]


def test_the_list_of_tokens(serving):
    serving.new_key()
    (token,) = ask(serving, "token-list")["tokens"]
    assert token["name"] == "default" and token["label"] == serving.label and token["present"] is True
    assert token["keys"] == 1 and token["pin"] == "good" and token["serial"]


def test_doctor_says_all_and_no_secret(serving):
    serving.new_key()
    report = serving.doctor()
    (token,) = report["tokens"]
    assert token["ivContract"] == "caller" and "SYMMETRIC_DEFAULT" in token["keySpecs"]
    assert all(token["attributeEnforcement"].values()), token["attributeEnforcement"]
    assert token["objects"]["withoutRecord"]["count"] == 0
    (slots,) = report["modules"].values()
    assert any(slot.get("serial") == token["serial"] for slot in slots)
    assert any(slot.get("state") == "not initialised" for slot in slots), "SoftHSM always shows a free slot"
    text = json.dumps(report)
    for secret in (serving.pin, serving.secret_key, serving.access_key):
        assert secret not in text
