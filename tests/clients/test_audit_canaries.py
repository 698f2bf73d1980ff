"""Secret canaries: a recognisable value in every secret member of every operation, in what succeeds and in what fails, and then none of them
in anything that the service writes or tells: journal, exports in every format, bucket, its own log at trace level, metrics, error answers.

RULE audit.md §7.2: plaintext, ciphertext, message, digest, MAC, signature, data key, PIN, secret access key, session token, web identity token.
"""

import base64
import contextlib
import gzip
import hashlib
import json
import secrets
import signal
import time
import urllib.request
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from authz_tool import Person, Role, Session
from bridge import Bridge
from iam_tool import Iam, allow, trusts
from kmsclient import b64


class Canaries:
    """Values that must not turn up, with the names of what they were."""

    def __init__(self):
        self.values = {}

    def new(self, name, length=32):
        return self.seen(name, secrets.token_bytes(length))

    def text(self, name, length=40):
        value = "canary" + secrets.token_hex(length // 2)
        self.seen(name, value.encode())
        return value

    def seen(self, name, value):
        """A value that the service itself made."""
        if isinstance(value, str):
            value = value.encode()
        # Shorter ones turn up by chance.
        if len(value) >= 12:
            self.values[value] = name
        return value

    def forms(self):
        """Every way in which a value might have been written down: (bytes to look for, what it is)."""
        for value, name in self.values.items():
            hexed = value.hex()
            yield value, f"{name}, raw"
            yield hexed.encode(), f"{name}, hex"
            yield hexed.upper().encode(), f"{name}, HEX"
            yield value[::-1].hex().encode(), f"{name}, reversed hex"
            yield hexed[::-1].encode(), f"{name}, hex reversed"
            yield ", ".join(str(byte) for byte in value[:12]).encode(), f"{name}, numbers"
            # At each of three places in base64; the ends depend on what stands beside it.
            for shift in range(3):
                for form, encode in (("base64", base64.standard_b64encode), ("base64url", base64.urlsafe_b64encode)):
                    text = encode(bytes(shift) + value)
                    begin, end = -(-shift * 8 // 6), (shift + len(value)) * 8 // 6
                    yield text[begin:end], f"{name}, {form} at {shift}"

    def found(self, sinks):
        needles = list(self.forms())
        return [f"{what} in {sink}" for sink, data in sinks for needle, what in needles if needle in data]


def sinks(bridge, exports, answers):
    """Everything that the service wrote or told: (name, bytes)."""
    for path in sorted(p for p in bridge.audit_dir.rglob("*") if p.is_file() and not p.is_symlink()):
        data = path.read_bytes()
        yield str(path.relative_to(bridge.audit_dir)), gzip.decompress(data) if path.suffix == ".gz" else data
    for path in sorted(p for p in exports.rglob("*") if p.is_file()):
        data = path.read_bytes()
        yield f"export {path.name}", gzip.decompress(data) if path.suffix == ".gz" else data
    yield "the service's log", bridge.stderr_file.read_bytes()
    yield "standard output", bridge.stdout_file.read_bytes().replace(bridge.secret_key.encode(), b"(shown on purpose)")
    for name, data in answers:
        yield f"the answer to {name}", data


@pytest.fixture(scope="module")
def talkative():
    """Its log at trace level, metrics on."""
    bridge = Bridge(extra_args=["--custom-tokens", "1"])
    try:
        bridge.start()
        for _ in range(2):
            # info, debug, trace
            bridge.process.send_signal(signal.SIGUSR1)
            time.sleep(0.3)
        assert "trace" in bridge.stderr()
        yield bridge
    finally:
        bridge.close()


class Caller:
    """Calls, keeps error answers, and goes on."""

    def __init__(self):
        self.errors = []

    def __call__(self, call, **params):
        try:
            return call(**params)
        except ClientError as refused:
            self.errors.append((call.__name__, json.dumps(refused.response, default=str).encode()))
            return {}


def every_operation(bridge, canaries, call):
    """Each operation that takes or gives a secret: as it should be, on a wrong key, and by somebody who may not."""
    iam = Iam(bridge)
    nobody = Person(iam)
    canaries.seen("secret access key", nobody.key[1])
    canaries.seen("secret access key of root", bridge.secret_key)
    canaries.seen("PIN", bridge.pin)
    keys = {"aes": bridge.key(), "rsa": bridge.key("RSA_2048"), "ec": bridge.key("ECC_NIST_P256"), "mac": bridge.key("HMAC_256")}
    disabled = bridge.new_key()
    bridge.kms.disable_key(KeyId=disabled)
    everywhere = [*keys.values(), disabled, "00000000-0000-4000-8000-000000000000"]
    for kms in (bridge.kms, nobody.kms):
        for key in everywhere:
            for dry in ({}, {"DryRun": True}):
                blob = call(kms.encrypt, KeyId=key, Plaintext=canaries.new("plaintext"), **dry).get("CiphertextBlob")
                made = call(kms.generate_data_key, KeyId=key, KeySpec="AES_256", **dry)
                alone = call(kms.generate_data_key_without_plaintext, KeyId=key, KeySpec="AES_256", **dry)
                for name, value in (("ciphertext", blob), ("data key", made.get("Plaintext")), ("sealed data key", made.get("CiphertextBlob")),
                                    ("sealed data key", alone.get("CiphertextBlob"))):
                    if value:
                        canaries.seen(name, value)
                blob = blob or canaries.new("ciphertext", 120)
                opened = call(kms.decrypt, CiphertextBlob=blob, KeyId=key, **dry)
                canaries.seen("decrypted plaintext", opened.get("Plaintext", b""))
                moved = call(kms.re_encrypt, CiphertextBlob=blob, SourceKeyId=key, DestinationKeyId=keys["aes"], **dry)
                canaries.seen("moved ciphertext", moved.get("CiphertextBlob", b""))
                for algorithm in ("RSASSA_PSS_SHA_256", "ECDSA_SHA_256"):
                    message, digest = canaries.new("message"), canaries.new("digest")
                    signed = call(kms.sign, KeyId=key, Message=message, SigningAlgorithm=algorithm, **dry)
                    canaries.seen("SHA-256 of the message", hashlib.sha256(message).digest())
                    by_digest = call(kms.sign, KeyId=key, Message=digest, MessageType="DIGEST", SigningAlgorithm=algorithm, **dry)
                    for found in (signed, by_digest):
                        canaries.seen("signature", found.get("Signature", b""))
                    call(kms.verify, KeyId=key, Message=message, Signature=signed.get("Signature") or canaries.new("signature", 64),
                         SigningAlgorithm=algorithm, **dry)
                    call(kms.verify, KeyId=key, Message=message, Signature=canaries.new("wrong signature", 64), SigningAlgorithm=algorithm, **dry)
                message = canaries.new("MAC message")
                mac = call(kms.generate_mac, KeyId=key, Message=message, MacAlgorithm="HMAC_SHA_256", **dry).get("Mac")
                call(kms.verify_mac, KeyId=key, Message=message, MacAlgorithm="HMAC_SHA_256", Mac=canaries.seen("MAC", mac) if mac else canaries.new("MAC"), **dry)
                call(kms.verify_mac, KeyId=key, Message=message, MacAlgorithm="HMAC_SHA_256", Mac=canaries.new("wrong MAC"), **dry)
        canaries.seen("random", call(kms.generate_random, NumberOfBytes=32).get("Plaintext", b""))
        grant = call(kms.create_grant, KeyId=keys["aes"], GranteePrincipal=nobody.arn, Operations=["Decrypt"])
        if grant:
            canaries.seen("grant token", grant["GrantToken"])
        call(kms.encrypt, KeyId=keys["aes"], Plaintext=canaries.new("plaintext"), GrantTokens=[canaries.text("grant token")])
        call(kms.retire_grant, GrantToken=canaries.text("grant token"))
        store = call(kms.create_custom_key_store, CustomKeyStoreName="canaries", CloudHsmClusterId=bridge.env["HSM_BRIDGE_CLUSTER_IDS"].split(",")[0],
             KeyStorePassword=canaries.text("key store password", 20), TrustAnchorCertificate=Path(bridge.env["HSM_BRIDGE_TRUST_ANCHOR"]).read_text())
        if store:
            bridge.kms.delete_custom_key_store(CustomKeyStoreId=store["CustomKeyStoreId"])
        call(kms.update_custom_key_store, CustomKeyStoreId="cks-1234567890abcdef0", KeyStorePassword=canaries.text("key store password", 20))
    with bridge.custom_store() as store:
        canaries.seen("key store password", bridge.custom_password)
        bridge.connect(store)
        bridge.disconnect(store)
    sessions(bridge, iam, canaries, call)
    raw_requests(bridge, canaries, call)


def sessions(bridge, iam, canaries, call):
    user = Person(iam, policies={"all": allow("*")})
    canaries.seen("secret access key", user.key[1])
    role = Role(iam, trust=trusts(user.arn))
    given = [call(user.sts.assume_role, RoleArn=role.arn, RoleSessionName="canary"), call(user.sts.get_session_token),
             call(user.sts.get_federation_token, Name="canary")]
    assert all("Credentials" in answer for answer in given)
    for answer in given:
        got = answer["Credentials"]
        canaries.seen("session's secret key", got["SecretAccessKey"])
        canaries.seen("session token", got["SessionToken"])
        session = Session(iam, answer)
        call(session.kms.list_keys)
        # The same with a token that is not one.
        broken = dict(got, SessionToken=canaries.text("broken session token", 200))
        call(Session(iam, {"Credentials": broken}).kms.list_keys)
    token = canaries.text("web identity token", 300)
    call(user.sts.assume_role_with_web_identity, RoleArn=role.arn, RoleSessionName="canary", WebIdentityToken=token)


def raw_requests(bridge, canaries, call):
    """What no SDK would send: secrets in wrong places and forms, and signatures of the request."""
    raw = bridge.raw()
    key = bridge.key()
    bodies = [
        {"KeyId": key, "Plaintext": b64(canaries.new("plaintext")), "Unknown": 1},
        {"KeyId": key, "Plaintext": b64(canaries.new("plaintext"))[:-3] + "!"},
        {"KeyId": key, "Plaintext": canaries.text("plaintext"), "EncryptionContext": 7},
        {"KeyId": key, "Plaintext": [canaries.text("plaintext")]},
        {"KeyId": key, "Plaintext": {"a": canaries.text("plaintext")}},
        {"KeyId": key, "Plaintext": b64(canaries.new("plaintext", 5000))},
    ]
    for operation in ("Encrypt", "Decrypt", "Sign", "GenerateMac", "VerifyMac", "ReEncrypt"):
        for body in bodies:
            renamed = {{"Encrypt": "Plaintext", "Decrypt": "CiphertextBlob", "ReEncrypt": "CiphertextBlob"}.get(operation, "Message")
                       if name == "Plaintext" else name: value for name, value in body.items()}
            signed = raw.sign(operation, renamed)
            authorization = dict(signed.headers).get("Authorization", "")
            canaries.seen("signature of the request", authorization.rpartition("Signature=")[2])
            reply = raw.send(signed)
            if reply.status != 200:
                call.errors.append((operation, reply.raw()))
            # The same body, signed with a wrong secret.
            reply = raw.call(operation, renamed, secret_key=canaries.text("wrong secret access key"))
            call.errors.append((operation, reply.raw()))
        reply = raw.call(operation, body=b'{"Plaintext":"' + canaries.text("cut body").encode())
        call.errors.append((operation, reply.raw()))
    raw.close()


def metrics(bridge):
    with contextlib.suppress(KeyError):
        with urllib.request.urlopen(f"{bridge.env['HSM_BRIDGE_METRICS_URL']}", timeout=10) as answer:
            return answer.read()
    return b""


def test_no_secret_is_in_any_sink(talkative, tmp_path):
    canaries, call, planted = Canaries(), Caller(), Canaries()
    talkative.new_key(Description=planted.text("description"))
    every_operation(talkative, canaries, call)
    assert len(canaries.values) > 300 and len(call.errors) > 200
    exports = tmp_path / "export"
    formats = [word for name in ("csv", "jsonl", "ocsf", "cef", "cloudtrail") for word in ("--format", name)]
    told = talkative.run("audit", "export", "--out", exports, *formats)
    answers = call.errors + [("audit export", told.stdout.encode()), ("metrics", metrics(talkative))]
    # What a caller wrote into its request as a name may come back to it as that name; nothing secret is one.
    everything = list(sinks(talkative, exports, answers))
    # What is no secret is found wherever it stands, so the search sees what it looks at.
    places = " ".join(planted.found(everything))
    for sink in ("journal/", "records.jsonl.gz", ".csv.gz", ".ocsf.jsonl.gz", ".cloudtrail.json.gz"):
        assert sink in places, (sink, places)
    found = canaries.found(everything)
    assert not found, "\n".join(found[:40])


def test_the_search_finds_what_is_there():
    """The check itself can fail: each form, at each place in base64."""
    canaries = Canaries()
    value = canaries.new("x")
    around = [b"", b"a", b"ab"]
    for data in [value, value.hex().encode(), value[::-1].hex().encode(), str(list(value)).encode(),
                 *(base64.b64encode(before + value + b"tail") for before in around),
                 *(base64.urlsafe_b64encode(before + value + b"tail") for before in around)]:
        assert canaries.found([("sink", b"before " + data + b" after")]), data
    assert not canaries.found([("sink", secrets.token_bytes(100_000))])
