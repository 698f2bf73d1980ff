"""Custom key stores: their life, AWS's connection states and refusals, and the keys in them, on two SoftHSM tokens beside the
default one.

Nobody outside can be asked how these six operations answer, so the two tables below name every exception and every
ConnectionErrorCode of the service model: each with the test that provokes it here, or with the reason why it cannot happen.
"""

import base64
import gzip
import hashlib
import json
import re
import secrets
import struct
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import botocore
import pytest

from bridge import Bridge, clean_env
from checks import members, refused
from pin_marks import serial_of, wrong_pins

PATIENCE = 60
SPECS = "ECC_NIST_P256,RSA_2048,HMAC_256"
PLACES = ["/usr/lib/x86_64-linux-gnu/pkcs11-spy.so", "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so", "/usr/lib64/pkcs11-spy.so",
          "/usr/lib/pkcs11-spy.so"]

XKS = "there are no external key stores here: EXTERNAL_KEY_STORE is refused with UnsupportedOperationException"

# Exception of the six operations → the test, or why it cannot happen.
EXCEPTIONS = {
    "CloudHsmClusterInUseException": "test_create_refusals",
    "CloudHsmClusterInvalidConfigurationException": "test_another_token_under_the_same_label",
    "CloudHsmClusterNotActiveException": "test_a_token_that_is_away",
    "CloudHsmClusterNotFoundException": "test_create_refusals",
    "CloudHsmClusterNotRelatedException": "test_update",
    "CustomKeyStoreHasCMKsException": "test_keys_of_a_store",
    "CustomKeyStoreInvalidStateException": "test_every_operation_in_every_state",
    "CustomKeyStoreNameInUseException": "test_create_refusals",
    "CustomKeyStoreNotFoundException": "test_not_found",
    "IncorrectTrustAnchorException": "test_create_refusals",
    "InvalidMarkerException": "test_describe_by_name_and_by_page",
    "KMSInternalException": "a fault of ours, not of the request: no test can ask for it",
    "LimitExceededException": "AWS limits stores by account; here one per configured token, which InUse says",
    "XksProxyUriInUseException": XKS,
    "XksProxyUriEndpointInUseException": XKS,
    "XksProxyUriUnreachableException": XKS,
    "XksProxyIncorrectAuthenticationCredentialException": XKS,
    "XksProxyVpcEndpointServiceInUseException": XKS,
    "XksProxyVpcEndpointServiceNotFoundException": XKS,
    "XksProxyVpcEndpointServiceInvalidConfigurationException": XKS,
    "XksProxyInvalidResponseException": XKS,
    "XksProxyInvalidConfigurationException": XKS,
}

ERROR_CODES = {
    "INVALID_CREDENTIALS": "test_a_wrong_password_is_tried_once",
    "CLUSTER_NOT_FOUND": "test_another_token_under_the_same_label",
    "NETWORK_ERRORS": "test_a_token_that_is_away",
    "USER_LOCKED_OUT": "test_a_locked_user",
    "USER_NOT_FOUND": "test_a_token_without_a_user_pin",
    "INTERNAL_ERROR": "test_a_token_that_cannot_be_opened",
    "INSUFFICIENT_CLOUDHSM_HSMS": "PKCS#11 shows one token, however many devices are behind it; none at all is NETWORK_ERRORS",
    "USER_LOGGED_IN": "a login of another program does not hinder this one's: PKCS#11 keeps it by process",
    "SUBNET_NOT_FOUND": "the token's network is not the bridge's: what it cannot reach is NETWORK_ERRORS",
    "INSUFFICIENT_FREE_ADDRESSES_IN_SUBNET": "as SUBNET_NOT_FOUND",
    "XKS_PROXY_ACCESS_DENIED": XKS,
    "XKS_PROXY_NOT_REACHABLE": XKS,
    "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND": XKS,
    "XKS_PROXY_INVALID_RESPONSE": XKS,
    "XKS_PROXY_INVALID_CONFIGURATION": XKS,
    "XKS_VPC_ENDPOINT_SERVICE_INVALID_CONFIGURATION": XKS,
    "XKS_PROXY_TIMED_OUT": XKS,
    "XKS_PROXY_INVALID_TLS_CONFIGURATION": XKS,
}


def test_the_tables_are_whole():
    model = json.loads(gzip.decompress(
        (Path(botocore.__file__).parent / "data/kms/2014-11-01/service-2.json.gz").read_bytes()))
    operations = [name for name in model["operations"] if "CustomKeyStore" in name]
    assert len(operations) == 6
    named = {error["shape"] for name in operations for error in model["operations"][name].get("errors", [])}
    assert named == set(EXCEPTIONS)
    assert set(model["shapes"]["ConnectionErrorCodeType"]["enum"]) == set(ERROR_CODES)
    for value in [*EXCEPTIONS.values(), *ERROR_CODES.values()]:
        assert not value.startswith("test_") or value in globals(), f"there is no {value}"


# -- what is there ---------------------------------------------------------------------------------------------------------

class Stores:
    """A bridge with custom tokens, and its key stores by number of the token."""

    def __init__(self, tokens=2, **options):
        extra = ["--custom-tokens", str(tokens), "--custom-store-key-specs", SPECS, *options.pop("extra_args", [])]
        self.bridge = Bridge(extra_args=extra, **options)

    @property
    def kms(self):
        return self.bridge.kms

    @property
    def clusters(self):
        return self.bridge.env["HSM_BRIDGE_CLUSTER_IDS"].split(",")

    @property
    def anchor(self):
        return Path(self.bridge.env["HSM_BRIDGE_TRUST_ANCHOR"]).read_text()

    @property
    def password(self):
        return Path(self.bridge.env["HSM_BRIDGE_CUSTOM_PIN_FILE"]).read_text()

    def parameters(self, number, **other):
        return {"CustomKeyStoreName": f"store {number} {secrets.token_hex(4)}", "CloudHsmClusterId": self.clusters[number],
                "TrustAnchorCertificate": self.anchor, "KeyStorePassword": self.password} | other

    def create(self, number, **other):
        return self.kms.create_custom_key_store(**self.parameters(number, **other))["CustomKeyStoreId"]

    def entry(self, store):
        (entry,) = self.kms.describe_custom_key_stores(CustomKeyStoreId=store)["CustomKeyStores"]
        return entry

    def wait(self, store, *states):
        """Until the store is in one of these states; its entry."""
        deadline = time.monotonic() + PATIENCE
        while (entry := self.entry(store))["ConnectionState"] not in states:
            assert time.monotonic() < deadline, f"{entry} is not {states}\n{self.bridge.stderr()}"
            time.sleep(0.02)
        return entry

    def settled(self, store):
        return self.wait(store, "CONNECTED", "DISCONNECTED", "FAILED")

    def connect(self, store):
        assert members(self.kms.connect_custom_key_store(CustomKeyStoreId=store)) == {}
        entry = self.settled(store)
        assert entry["ConnectionState"] == "CONNECTED", f"{entry}\n{self.bridge.stderr()}"
        assert "ConnectionErrorCode" not in entry

    def fail(self, store, code):
        """Connects in vain."""
        self.kms.connect_custom_key_store(CustomKeyStoreId=store)
        self.has_failed(store, code)

    def has_failed(self, store, code):
        entry = self.settled(store)
        assert (entry["ConnectionState"], entry.get("ConnectionErrorCode")) == ("FAILED", code), self.bridge.stderr()

    def disconnect(self, store):
        assert members(self.kms.disconnect_custom_key_store(CustomKeyStoreId=store)) == {}
        entry = self.wait(store, "DISCONNECTED")
        assert "ConnectionErrorCode" not in entry

    def connected(self, number):
        store = self.create(number)
        self.connect(store)
        return store

    def drop(self, store):
        """Removes a store without keys, whatever its state."""
        if self.settled(store)["ConnectionState"] != "DISCONNECTED":
            self.disconnect(store)
        assert members(self.kms.delete_custom_key_store(CustomKeyStoreId=store)) == {}

    def key(self, store, **other):
        return self.kms.create_key(CustomKeyStoreId=store, Origin="AWS_CLOUDHSM", **other)["KeyMetadata"]

    # -- the tokens themselves

    def label(self, number):
        return f"hsm-bridge-custom-{number + 1:02}"

    def token_dir(self, number):
        """SoftHSM's directory of a token. Its label stands in the first object, filled up with blanks."""
        label = self.label(number).ljust(32).encode()
        (found,) = [p for p in (self.bridge.dir / "tokens").iterdir() if label in (p / "token.object").read_bytes()]
        return found

    def softhsm(self, *args):
        env = clean_env(SOFTHSM2_CONF=str(self.bridge.dir / "softhsm2.conf"))
        done = subprocess.run(args, capture_output=True, text=True, timeout=PATIENCE, env=env)
        assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"

    @contextmanager
    def stopped(self):
        self.bridge.stop()
        yield
        self.bridge.start()


@pytest.fixture(scope="module")
def stores():
    """Shared by tests that leave no key store behind."""
    yield from started()


@pytest.fixture
def own():
    yield from started()


def started(**options):
    stores = Stores(**options)
    try:
        stores.bridge.start()
        yield stores
    finally:
        stores.bridge.close()


# -- the life of a key store -----------------------------------------------------------------------------------------------

def test_the_life_of_a_key_store(stores):
    parameters = stores.parameters(0)
    answer = members(stores.kms.create_custom_key_store(**parameters))
    assert set(answer) == {"CustomKeyStoreId"}
    store = answer["CustomKeyStoreId"]
    assert re.fullmatch(r"cks-[0-9a-f]{17}", store)
    entry = stores.entry(store)
    created = entry.pop("CreationDate")
    assert abs(created.timestamp() - time.time()) < 60
    assert entry == {"CustomKeyStoreId": store, "CustomKeyStoreName": parameters["CustomKeyStoreName"],
                     "CloudHsmClusterId": stores.clusters[0], "TrustAnchorCertificate": stores.anchor,
                     "ConnectionState": "DISCONNECTED", "CustomKeyStoreType": "AWS_CLOUDHSM"}
    stores.connect(store)
    stores.disconnect(store)
    stores.connect(store)
    stores.disconnect(store)
    assert members(stores.kms.delete_custom_key_store(CustomKeyStoreId=store)) == {}
    with refused("CustomKeyStoreNotFoundException"):
        stores.kms.describe_custom_key_stores(CustomKeyStoreId=store)
    # The token is free again.
    stores.drop(stores.create(0))


def test_create_refusals(stores):
    create = stores.kms.create_custom_key_store
    one = stores.create(0)
    name = stores.entry(one)["CustomKeyStoreName"]
    with refused("CustomKeyStoreNameInUseException"):
        create(**stores.parameters(1, CustomKeyStoreName=name))
    with refused("CloudHsmClusterInUseException"):
        create(**stores.parameters(0))
    with refused("CloudHsmClusterInUseException"):
        create(**stores.parameters(1, CloudHsmClusterId=default_cluster(stores)))
    with refused("CloudHsmClusterNotFoundException"):
        create(**stores.parameters(1, CloudHsmClusterId="cluster-aaaaaaaaaaa"))
    for anchor in ["no certificate", stores.anchor.replace("CERTIFICATE", "PUBLIC KEY"), other_certificate()]:
        with refused("IncorrectTrustAnchorException"):
            create(**stores.parameters(1, TrustAnchorCertificate=anchor))
    with refused("UnsupportedOperationException"):
        create(CustomKeyStoreName="external", CustomKeyStoreType="EXTERNAL_KEY_STORE", XksProxyUriEndpoint="https://xks.example",
               XksProxyUriPath="/kms/xks/v1", XksProxyConnectivity="PUBLIC_ENDPOINT",
               XksProxyAuthenticationCredential={"AccessKeyId": "ABCDE12345670EXAMPLE", "RawSecretAccessKey": "x" * 43})
    for missing in ["CloudHsmClusterId", "TrustAnchorCertificate", "KeyStorePassword"]:
        parameters = stores.parameters(1)
        del parameters[missing]
        with refused("ValidationException"):
            create(**parameters)
    assert [e["CustomKeyStoreId"] for e in stores.kms.describe_custom_key_stores()["CustomKeyStores"]] == [one]
    stores.drop(one)


def default_cluster(stores):
    text = Path(stores.bridge.env["HSM_BRIDGE_CONFIG"]).read_text()
    return re.search(r'\[token\].*?cluster_id = "([^"]+)"', text, re.DOTALL).group(1)


def other_certificate():
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID
    import datetime
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another HSM")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=9))
            .sign(key, hashes.SHA256()))
    return made.public_bytes(serialization.Encoding.PEM).decode()


def test_not_found(stores):
    unknown = "cks-0123456789abcdef0"
    kms = stores.kms
    for call in [kms.connect_custom_key_store, kms.disconnect_custom_key_store, kms.delete_custom_key_store,
                 kms.update_custom_key_store, kms.describe_custom_key_stores]:
        with refused("CustomKeyStoreNotFoundException"):
            call(CustomKeyStoreId=unknown)
        with refused("CustomKeyStoreNotFoundException"):
            call(CustomKeyStoreId="cks-nothing-like-it")
    with refused("CustomKeyStoreNotFoundException"):
        kms.describe_custom_key_stores(CustomKeyStoreName="nobody's")
    with refused("CustomKeyStoreNotFoundException"):
        kms.create_key(CustomKeyStoreId=unknown, Origin="AWS_CLOUDHSM")
    with refused("CustomKeyStoreNotFoundException"):
        kms.generate_random(NumberOfBytes=8, CustomKeyStoreId=unknown)


def test_describe_by_name_and_by_page(stores):
    made = [stores.create(number) for number in (0, 1)]
    whole = stores.kms.describe_custom_key_stores()
    assert whole["Truncated"] is False and "NextMarker" not in whole
    assert sorted(e["CustomKeyStoreId"] for e in whole["CustomKeyStores"]) == sorted(made)
    first = stores.kms.describe_custom_key_stores(Limit=1)
    assert first["Truncated"] is True
    second = stores.kms.describe_custom_key_stores(Limit=1, Marker=first["NextMarker"])
    assert second["Truncated"] is False
    paged = [e["CustomKeyStoreId"] for page in (first, second) for e in page["CustomKeyStores"]]
    assert sorted(paged) == sorted(made)
    name = stores.entry(made[1])["CustomKeyStoreName"]
    (named,) = stores.kms.describe_custom_key_stores(CustomKeyStoreName=name)["CustomKeyStores"]
    assert named["CustomKeyStoreId"] == made[1]
    with refused("InvalidMarkerException"):
        stores.kms.describe_custom_key_stores(Marker="made up")
    for store in made:
        stores.drop(store)


# -- states ----------------------------------------------------------------------------------------------------------------

INVALID = "CustomKeyStoreInvalidStateException"


def test_every_operation_in_every_state(stores):
    """DISCONNECTED, CONNECTED and FAILED; the two that pass have a test of their own."""
    kms = stores.kms
    store = stores.create(0, KeyStorePassword="not-the-password")
    by_id = {"CustomKeyStoreId": store}

    def needs_connection():
        with refused(INVALID):
            kms.create_key(Origin="AWS_CLOUDHSM", **by_id)
        with refused(INVALID):
            kms.generate_random(NumberOfBytes=8, **by_id)

    def rename():
        return kms.update_custom_key_store(NewCustomKeyStoreName=f"renamed {secrets.token_hex(4)}", **by_id)

    # DISCONNECTED
    with refused(INVALID):
        kms.disconnect_custom_key_store(**by_id)
    needs_connection()
    rename()
    stores.fail(store, "INVALID_CREDENTIALS")
    # FAILED
    for call in [lambda: kms.connect_custom_key_store(**by_id), lambda: kms.delete_custom_key_store(**by_id), rename,
                 lambda: kms.update_custom_key_store(KeyStorePassword=stores.password, **by_id)]:
        with refused(INVALID):
            call()
    needs_connection()
    stores.disconnect(store)
    kms.update_custom_key_store(KeyStorePassword=stores.password, **by_id)
    stores.connect(store)
    # CONNECTED
    assert members(kms.connect_custom_key_store(**by_id)) == {}
    assert stores.entry(store)["ConnectionState"] == "CONNECTED"
    for call in [lambda: kms.delete_custom_key_store(**by_id),
                 lambda: kms.update_custom_key_store(KeyStorePassword=stores.password, **by_id),
                 lambda: kms.update_custom_key_store(CloudHsmClusterId=stores.clusters[1], **by_id)]:
        with refused(INVALID):
            call()
    rename()
    assert len(kms.generate_random(NumberOfBytes=8, **by_id)["Plaintext"]) == 8
    stores.drop(store)


def test_connect_while_connecting_and_disconnect_while_connecting(stores):
    store = stores.create(0)
    by_id = {"CustomKeyStoreId": store}
    seen = set()
    for _ in range(8):
        for _ in range(3):
            # Any number of times: AWS takes it while CONNECTING and CONNECTED.
            stores.kms.connect_custom_key_store(**by_id)
            seen.add(stores.entry(store)["ConnectionState"])
        stores.kms.disconnect_custom_key_store(**by_id)
        state = stores.entry(store)["ConnectionState"]
        seen.add(state)
        if state == "DISCONNECTING":
            try:
                stores.kms.connect_custom_key_store(**by_id)
                # It ended between the two requests.
                assert stores.settled(store)["ConnectionState"] == "CONNECTED"
                stores.kms.disconnect_custom_key_store(**by_id)
            except stores.kms.exceptions.CustomKeyStoreInvalidStateException:
                pass
        stores.wait(store, "DISCONNECTED")
    assert {"CONNECTING", "DISCONNECTING"} <= seen, seen
    stores.connect(store)
    stores.drop(store)


def test_parallel_requests_leave_one_state(stores):
    """Connects and disconnects from many sides: each is done or refused as AWS does, and the end is what the last one made."""
    store = stores.create(0)
    by_id = {"CustomKeyStoreId": store}
    wrong = []

    def press(call):
        for _ in range(15):
            try:
                call(**by_id)
            except stores.kms.exceptions.CustomKeyStoreInvalidStateException:
                pass
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

    calls = [stores.kms.connect_custom_key_store, stores.kms.disconnect_custom_key_store] * 3
    threads = [threading.Thread(target=press, args=(call,)) for call in calls]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong, wrong
    if stores.settled(store)["ConnectionState"] == "DISCONNECTED":
        stores.connect(store)
    stores.drop(store)


# -- keys ------------------------------------------------------------------------------------------------------------------

def test_keys_of_a_store(own):
    kms, store = own.kms, own.connected(0)
    made = own.key(store, Description="in a store of its own")
    key, arn = made["KeyId"], made["Arn"]
    assert made["Origin"] == "AWS_CLOUDHSM" and made["CustomKeyStoreId"] == store
    assert made["CloudHsmClusterId"] == own.clusters[0] and made["KeyState"] == "Enabled"
    assert "CurrentKeyMaterialId" not in made
    assert kms.describe_key(KeyId=key)["KeyMetadata"] == made
    default = own.bridge.key()
    ordinary = kms.describe_key(KeyId=default)["KeyMetadata"]
    assert ordinary["Origin"] == "AWS_KMS" and not {"CustomKeyStoreId", "CloudHsmClusterId"} & set(ordinary)

    context = {"purpose": "key stores"}
    sealed = kms.encrypt(KeyId=key, Plaintext=b"in the store", EncryptionContext=context)["CiphertextBlob"]
    opened = members(kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context))
    assert opened == {"KeyId": arn, "Plaintext": b"in the store", "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    data_key = members(kms.generate_data_key(KeyId=key, KeySpec="AES_256"))
    assert set(data_key) == {"KeyId", "CiphertextBlob", "Plaintext"}
    moved = members(kms.re_encrypt(CiphertextBlob=sealed, SourceEncryptionContext=context, DestinationKeyId=default))
    assert "SourceKeyMaterialId" not in moved and "DestinationKeyMaterialId" in moved
    assert kms.decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == b"in the store"

    # Beyond AWS, because the operator allows it; what he does not allow is refused.
    signer = own.key(store, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    signature = kms.sign(KeyId=signer["KeyId"], Message=b"m", SigningAlgorithm="ECDSA_SHA_256")["Signature"]
    maker = own.key(store, KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyId"]
    mac = kms.generate_mac(KeyId=maker, Message=b"m", MacAlgorithm="HMAC_SHA_256")["Mac"]
    with refused("UnsupportedOperationException", re.compile(".*custom_store_key_specs.*", re.DOTALL)):
        own.key(store, KeySpec="RSA_3072", KeyUsage="SIGN_VERIFY")

    # What AWS refuses on such keys.
    text = f"{arn} origin is AWS_CLOUDHSM which is not valid for this operation."
    for call in [kms.get_key_rotation_status, kms.enable_key_rotation, kms.disable_key_rotation, kms.rotate_key_on_demand,
                 kms.delete_imported_key_material]:
        with refused("UnsupportedOperationException", text):
            call(KeyId=key)
    with refused("UnsupportedOperationException", text):
        kms.get_parameters_for_import(KeyId=key, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048")
    for call, params in [(kms.replicate_key, {"ReplicaRegion": "eu-west-1"}), (kms.update_primary_region, {"PrimaryRegion": "eu-west-1"})]:
        with refused("UnsupportedOperationException", f"{arn} is not a multi-region primary key."):
            call(KeyId=key, **params)

    own.disconnect(store)
    # Unavailable, and everything that uses the key says so.
    for one in [key, signer["KeyId"], maker]:
        away = kms.describe_key(KeyId=one)["KeyMetadata"]
        assert (away["KeyState"], away["Enabled"]) == ("Unavailable", False)
    assert kms.describe_key(KeyId=signer["KeyId"])["KeyMetadata"]["SigningAlgorithms"] == ["ECDSA_SHA_256"]
    uses = [
        lambda: kms.encrypt(KeyId=key, Plaintext=b"x"),
        lambda: kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context),
        lambda: kms.generate_data_key(KeyId=key, KeySpec="AES_256"),
        lambda: kms.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256"),
        lambda: kms.re_encrypt(CiphertextBlob=sealed, SourceEncryptionContext=context, DestinationKeyId=default),
        lambda: kms.re_encrypt(CiphertextBlob=moved["CiphertextBlob"], DestinationKeyId=key),
        lambda: kms.sign(KeyId=signer["KeyId"], Message=b"m", SigningAlgorithm="ECDSA_SHA_256"),
        lambda: kms.verify(KeyId=signer["KeyId"], Message=b"m", SigningAlgorithm="ECDSA_SHA_256", Signature=signature),
        lambda: kms.get_public_key(KeyId=signer["KeyId"]),
        lambda: kms.generate_mac(KeyId=maker, Message=b"m", MacAlgorithm="HMAC_SHA_256"),
        lambda: kms.verify_mac(KeyId=maker, Message=b"m", MacAlgorithm="HMAC_SHA_256", Mac=mac),
    ]
    for use in uses:
        with refused("KMSInvalidStateException", re.compile(".*custom key store is not connected.*")):
            use()
    with refused("IncorrectKeyException"):
        kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context, KeyId=default)
    assert kms.encrypt(KeyId=default, Plaintext=b"x")["KeyId"], "the default key store is not concerned"
    # Management goes on; what was asked for shows when the store is back.
    kms.update_key_description(KeyId=key, Description="away")
    kms.tag_resource(KeyId=key, Tags=[{"TagKey": "a", "TagValue": "b"}])
    alias = own.bridge.new_alias(key)
    kms.put_key_policy(KeyId=key, Policy=kms.get_key_policy(KeyId=key)["Policy"])
    kms.disable_key(KeyId=maker)
    assert kms.describe_key(KeyId=maker)["KeyMetadata"]["KeyState"] == "Unavailable"
    kms.schedule_key_deletion(KeyId=signer["KeyId"], PendingWindowInDays=7)
    assert kms.describe_key(KeyId=signer["KeyId"])["KeyMetadata"]["KeyState"] == "PendingDeletion"
    with refused("CustomKeyStoreHasCMKsException"):
        kms.delete_custom_key_store(CustomKeyStoreId=store)

    own.connect(store)
    assert kms.describe_key(KeyId=alias)["KeyMetadata"] == made | {"Description": "away"}
    assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"] == b"in the store"
    with refused("DisabledException"):
        kms.generate_mac(KeyId=maker, Message=b"m", MacAlgorithm="HMAC_SHA_256")
    kms.enable_key(KeyId=maker)
    assert kms.generate_mac(KeyId=maker, Message=b"m", MacAlgorithm="HMAC_SHA_256")["Mac"] == mac
    kms.cancel_key_deletion(KeyId=signer["KeyId"])
    kms.enable_key(KeyId=signer["KeyId"])
    kms.verify(KeyId=signer["KeyId"], Message=b"m", SigningAlgorithm="ECDSA_SHA_256", Signature=signature)
    audited(own, store, key)


def audited(own, store, key):
    """CloudTrail's members, and no password anywhere on disk."""
    records = own.bridge.journal()
    arn = own.bridge.key_arn(key)

    def last(name, **wanted):
        found = [r for r in records if r["eventName"] == name and r["eventType"] != "HsmBridgeIntent"
                 and all(str(r.get(k)) == v for k, v in wanted.items())]
        assert found, name
        return found[-1]

    created = next(r for r in records if r["eventName"] == "CreateKey" and r["eventType"] != "HsmBridgeIntent"
                   and r["resources"][0]["ARN"] == arn)
    backing = json.loads(created["additionalEventData"]["backingKey"])
    assert set(backing) == {"keyHandle", "backingKeyId"} and backing["keyHandle"] == key.replace("-", "")
    assert created["additionalEventData"]["customKeyStoreId"] == store
    assert last("Decrypt")["additionalEventData"]["customKeyStoreId"] == store
    made = last("CreateCustomKeyStore")
    assert made["additionalEventData"]["clusterId"] == own.clusters[0]
    assert made["responseElements"] == {"customKeyStoreId": store}
    scheduled = last("ScheduleKeyDeletion")["additionalEventData"]
    assert scheduled["clusterId"] == own.clusters[0] and json.loads(scheduled["backingKeys"])
    connection = last("KeyStoreConnection")
    assert connection["additionalEventData"]["details"]["connectionState"] == "CONNECTED"
    assert connection["userIdentity"]["invokedBy"] == "AWS Internal"
    password = own.password.encode()
    for file in own.bridge.dir.joinpath("state").rglob("*"):
        assert not file.is_file() or password not in file.read_bytes(), file
    assert password not in own.bridge.stderr_file.read_bytes()


def test_both_stores_and_the_default_one_under_load(own):
    """Two stores are connected and disconnected while all keys are used: each answer is right or AWS's refusal."""
    kms = own.kms
    ids = [own.connected(number) for number in (0, 1)]
    own.bridge.key()
    wrong, done, away = [], [0] * 3, [0] * 3
    stop = threading.Event()

    def use(place, store):
        at, symmetric, signer = 0, None, None
        while not stop.is_set():
            at += 1
            try:
                if symmetric is None:
                    symmetric = own.key(store)["KeyId"] if store else own.bridge.new_key()
                if signer is None:
                    options = {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}
                    signer = own.key(store, **options)["KeyId"] if store else own.bridge.new_key(**options)
                plain = f"{place} {at}".encode()
                sealed = kms.encrypt(KeyId=symmetric, Plaintext=plain)["CiphertextBlob"]
                assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == plain
                signature = kms.sign(KeyId=signer, Message=plain, SigningAlgorithm="ECDSA_SHA_256")["Signature"]
                kms.verify(KeyId=signer, Message=plain, SigningAlgorithm="ECDSA_SHA_256", Signature=signature)
                if at % 5 == 0 and done[place] < 100:
                    own.key(store) if store else own.bridge.new_key()
                done[place] += 1
            except (kms.exceptions.KMSInvalidStateException, kms.exceptions.CustomKeyStoreInvalidStateException):
                away[place] += 1
            except Exception as error:  # noqa: BLE001
                wrong.append((place, error))

    threads = [threading.Thread(target=use, args=(place, store)) for place in range(3) for store in [[None, *ids][place]] * 2]
    [t.start() for t in threads]
    try:
        for turn in range(6):
            time.sleep(0.4)
            store = ids[turn % 2]
            own.disconnect(store)
            time.sleep(0.2)
            own.connect(store)
        time.sleep(0.5)
    finally:
        stop.set()
        [t.join(PATIENCE) for t in threads]
    assert not wrong, wrong[:3]
    assert all(done), done
    assert away[0] == 0 and away[1] and away[2], away
    # Nothing half made is left.
    own.bridge.restart()
    for store in ids:
        assert own.settled(store)["ConnectionState"] == "CONNECTED"
    pages = own.kms.get_paginator("list_keys").paginate()
    states = {own.kms.describe_key(KeyId=k["KeyId"])["KeyMetadata"]["KeyState"] for page in pages for k in page["Keys"]}
    assert states == {"Enabled"}


def test_a_store_with_keys_over_a_crash(own):
    kms, store = own.kms, own.connected(0)
    idle = own.create(1)
    key = own.key(store)["KeyId"]
    sealed = kms.encrypt(KeyId=key, Plaintext=b"before")["CiphertextBlob"]
    own.bridge.kill()
    own.bridge.start()
    assert own.settled(store)["ConnectionState"] == "CONNECTED", "it is connected again by itself"
    assert own.entry(idle)["ConnectionState"] == "DISCONNECTED"
    assert own.kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"before"
    own.kms.disconnect_custom_key_store(CustomKeyStoreId=store)
    own.bridge.kill()
    own.bridge.start()
    assert own.entry(store)["ConnectionState"] == "DISCONNECTED"
    assert own.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Unavailable"
    # Asked to connect, and killed before or after it could: it is meant to be connected.
    own.kms.connect_custom_key_store(CustomKeyStoreId=store)
    own.bridge.kill()
    own.bridge.start()
    assert own.settled(store)["ConnectionState"] == "CONNECTED"
    assert own.kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"before"
    own.bridge.run("audit", "verify", own.bridge.audit_dir)


def test_a_key_that_left_its_token(own):
    store = own.connected(0)
    gone, stays = own.key(store)["KeyId"], own.key(store)["KeyId"]
    own.disconnect(store)
    own.softhsm("pkcs11-tool", "--module", own.bridge.env["HSM_BRIDGE_PKCS11_MODULE"], "--token-label", own.label(0), "--login",
                "--pin", own.password, "--delete-object", "--type", "secrkey", "--id", gone.replace("-", ""))
    own.bridge.restart()
    own.connect(store)
    states = [own.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] for key in (gone, stays)]
    assert states == ["Unavailable", "Enabled"]
    own.kms.encrypt(KeyId=stays, Plaintext=b"x")


# -- ConnectionErrorCodes --------------------------------------------------------------------------------------------------

def test_a_wrong_password_is_tried_once():
    found = [place for place in PLACES if Path(place).exists()]
    assert found, "pkcs11-spy.so is missing: install opensc"
    plain = Stores(tokens=1)
    # The tokens are made without the spy between.
    plain.bridge.start()
    module, log = plain.bridge.env["HSM_BRIDGE_PKCS11_MODULE"], plain.bridge.root / "spy.log"
    serial = serial_of(plain.bridge.env["SOFTHSM2_CONF"], plain.label(0))
    (wrong,) = wrong_pins(plain.bridge.dir / "pin-marks", serial, plain.password)
    plain.bridge.stop()
    plain.bridge.environment = {"HSM_BRIDGE_PKCS11_MODULE": found[0], "PKCS11SPY": module, "PKCS11SPY_OUTPUT": str(log)}
    plain.bridge.start()

    def logins():
        return len(re.findall(r"^\d+: C_Login$", log.read_text(errors="replace"), re.MULTILINE))

    try:
        before = logins()
        store = plain.create(0, KeyStorePassword=wrong)
        assert logins() == before, "CreateCustomKeyStore tries nothing"
        plain.fail(store, "INVALID_CREDENTIALS")
        assert logins() == before + 1
        for _ in range(3):
            plain.disconnect(store)
            plain.fail(store, "INVALID_CREDENTIALS")
        assert logins() == before + 1, "the same password is not tried again"
        plain.bridge.kill()
        log.unlink()
        plain.bridge.start()
        before = logins()
        assert plain.entry(store)["ConnectionErrorCode"] == "INVALID_CREDENTIALS", "FAILED stays FAILED"
        plain.disconnect(store)
        plain.fail(store, "INVALID_CREDENTIALS")
        assert logins() == before, "nor after a crash"
        plain.disconnect(store)
        plain.kms.update_custom_key_store(CustomKeyStoreId=store, KeyStorePassword=wrong)
        plain.fail(store, "INVALID_CREDENTIALS")
        assert logins() == before, "nor when it is given again"
        plain.disconnect(store)
        plain.kms.update_custom_key_store(CustomKeyStoreId=store, KeyStorePassword=plain.password)
        plain.connect(store)
        assert logins() == before + 1
        assert wrong.encode() not in plain.bridge.stderr_file.read_bytes()
    finally:
        plain.bridge.close()


def test_a_token_that_is_away(own):
    store = own.connected(0)
    key = own.key(store)["KeyId"]
    sealed = own.kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    away = [own.token_dir(0), own.token_dir(1)]
    with own.stopped():
        for place in away:
            place.rename(own.bridge.root / place.name)
    # It was connected before the start, and will be by itself.
    assert own.entry(store)["ConnectionState"] == "CONNECTING"
    with refused("CloudHsmClusterNotActiveException"):
        own.create(1)
    with refused("KMSInvalidStateException"):
        own.kms.decrypt(CiphertextBlob=sealed)
    own.disconnect(store)
    own.fail(store, "NETWORK_ERRORS")
    with own.stopped():
        for place in away:
            (own.bridge.root / place.name).rename(place)
    own.has_failed(store, "NETWORK_ERRORS")
    own.disconnect(store)
    own.connect(store)
    assert own.kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"x"
    own.connected(1)


def test_another_token_under_the_same_label(own):
    store, idle = own.connected(0), own.create(1)
    own.drop(idle)
    with own.stopped():
        for number in (0, 1):
            own.token_dir(number).rename(own.bridge.root / f"kept-{number}")
            own.softhsm("softhsm2-util", "--init-token", "--free", "--label", own.label(number), "--pin", own.password, "--so-pin", "12345678")
    own.has_failed(store, "CLUSTER_NOT_FOUND")
    with refused("CloudHsmClusterInvalidConfigurationException"):
        own.create(1)
    own.disconnect(store)
    own.fail(store, "CLUSTER_NOT_FOUND")
    # No login reached the other token: it does not even have the bridge's anchor.
    objects = list(own.token_dir(0).glob("*.object"))
    assert len(objects) == 1, objects


def test_a_token_without_a_user_pin(own):
    store = own.create(0)
    # SoftHSM keeps the user PIN in the token's first object: without it nobody may log in.
    edit_token(own, 0, lambda attributes: attributes.pop(USER_PIN), initialized=False)
    own.fail(store, "USER_NOT_FOUND")


def test_a_locked_user(own):
    """SoftHSM never locks a user, so its flags are set by hand: what any token shows that did."""
    store = own.create(0)
    edit_token(own, 0, lambda attributes: None, flag=0x00040000)
    own.fail(store, "USER_LOCKED_OUT")
    own.disconnect(store)
    own.fail(store, "USER_LOCKED_OUT")


def test_a_token_that_cannot_be_opened(own):
    """The sealed password does not open: the fault is on this side of the token."""
    store = own.connected(0)
    own.disconnect(store)
    own.softhsm("pkcs11-tool", "--module", own.bridge.env["HSM_BRIDGE_PKCS11_MODULE"], "--token-label", own.label(0), "--login",
                "--pin", own.password, "--delete-object", "--type", "secrkey", "--label", "hsm-bridge/anchor")
    # Two objects with the label of a system key: none of them is used.
    for _ in range(2):
        own.softhsm("pkcs11-tool", "--module", own.bridge.env["HSM_BRIDGE_PKCS11_MODULE"], "--token-label", own.label(0),
                    "--login", "--pin", own.password, "--keygen", "--key-type", "AES:32", "--label", "hsm-bridge/anchor")
    own.bridge.restart()
    own.fail(store, "INTERNAL_ERROR")


# SoftHSM's own attributes (CKA_VENDOR_DEFINED + "SH" + n) in `token.object`.
SOFTHSM = 0x80000000 + 0x5348
TOKEN_FLAGS, USER_PIN = SOFTHSM + 3, SOFTHSM + 5
CKF_USER_PIN_INITIALIZED = 0x00000008


def edit_token(own, number, change, flag=0, initialized=True):
    """Changes SoftHSM's `token.object`: a generation, then type, kind and value of each attribute, numbers of 8 bytes."""
    with own.stopped():
        path = own.token_dir(number) / "token.object"
        data, at, attributes = path.read_bytes(), 8, {}
        while at < len(data):
            kind_of, kind = struct.unpack_from(">QQ", data, at)
            start, at = at, at + 16
            if kind == 1:
                at += 1
            elif kind == 2:
                at += 8
            elif kind == 3:
                at += 8 + struct.unpack_from(">Q", data, at)[0]
            else:
                raise AssertionError(f"kind {kind} in {path}")
            attributes[kind_of] = data[start:at]
        assert {TOKEN_FLAGS, USER_PIN} <= set(attributes), [hex(a) for a in attributes]
        flags = struct.unpack(">Q", attributes[TOKEN_FLAGS][16:])[0] | flag
        if not initialized:
            flags &= ~CKF_USER_PIN_INITIALIZED
        attributes[TOKEN_FLAGS] = attributes[TOKEN_FLAGS][:16] + struct.pack(">Q", flags)
        change(attributes)
        path.write_bytes(data[:8] + b"".join(attributes.values()))


# -- changes ---------------------------------------------------------------------------------------------------------------

def test_update(own):
    kms = own.kms
    store, other = own.connected(0), own.create(1)
    key = own.key(store)["KeyId"]
    sealed = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    kms.update_custom_key_store(CustomKeyStoreId=store, NewCustomKeyStoreName="new name")
    assert own.entry(store)["CustomKeyStoreName"] == "new name"
    with refused("CustomKeyStoreNameInUseException"):
        kms.update_custom_key_store(CustomKeyStoreId=other, NewCustomKeyStoreName="new name")
    own.disconnect(store)
    with refused("CloudHsmClusterNotFoundException"):
        kms.update_custom_key_store(CustomKeyStoreId=store, CloudHsmClusterId="cluster-aaaaaaaaaaa")
    for cluster in [own.clusters[1], default_cluster(own)]:
        with refused("CloudHsmClusterNotRelatedException"):
            kms.update_custom_key_store(CustomKeyStoreId=store, CloudHsmClusterId=cluster)
    own.drop(other)
    with refused("CloudHsmClusterNotRelatedException"):
        # It is free now, but does not hold the key.
        kms.update_custom_key_store(CustomKeyStoreId=store, CloudHsmClusterId=own.clusters[1])
    assert own.entry(store)["CloudHsmClusterId"] == own.clusters[0]
    # A copy of the token's objects, as a backup that was restored to another HSM has them.
    with own.stopped():
        first, second = own.token_dir(0), own.token_dir(1)
        serial = (second / "token.object").read_bytes()
        for file in first.iterdir():
            (second / file.name).write_bytes(file.read_bytes())
        copied = (first / "token.object").read_bytes()
        (second / "token.object").write_bytes(with_name(copied, serial))
    own.kms.update_custom_key_store(CustomKeyStoreId=store, CloudHsmClusterId=own.clusters[1])
    own.connect(store)
    assert own.kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"x"
    assert own.kms.describe_key(KeyId=key)["KeyMetadata"]["CloudHsmClusterId"] == own.clusters[1]


def with_name(copied, named):
    """A token.object with the PINs of one token and label and serial of another."""
    label, serial = SOFTHSM + 1, SOFTHSM + 2
    parts, names = split(copied), split(named)
    return copied[:8] + b"".join(names[kind] if kind in (label, serial) else value for kind, value in parts.items())


def split(data):
    at, attributes = 8, {}
    while at < len(data):
        kind_of, kind = struct.unpack_from(">QQ", data, at)
        start, at = at, at + 16
        at += {1: 1, 2: 8}.get(kind) or 8 + struct.unpack_from(">Q", data, at)[0]
        attributes[kind_of] = data[start:at]
    return attributes


def test_a_password_that_was_changed_in_the_token(own):
    store = own.connected(0)
    own.disconnect(store)
    own.softhsm("pkcs11-tool", "--module", own.bridge.env["HSM_BRIDGE_PKCS11_MODULE"], "--token-label", own.label(0), "--login",
                "--pin", own.password, "--change-pin", "--new-pin", "another-password")
    own.bridge.restart()
    own.fail(store, "INVALID_CREDENTIALS")
    own.disconnect(store)
    own.kms.update_custom_key_store(CustomKeyStoreId=store, KeyStorePassword="another-password")
    own.connect(store)


# -- tokens of the configuration -------------------------------------------------------------------------------------------

SHORT_IDS = 'name = "short"\ncka_id_bytes = 2\n'


def with_token(own, name, *lines):
    """The instance with one more token, made by SoftHSM's own tool, under `[[custom_token]]`."""
    extra = own.bridge.root / "extra.toml"
    text = f'[[custom_token]]\nname = "{name}"\nlabel = "{name}"\n' + "".join(f"{line}\n" for line in lines)
    with own.stopped():
        if not any(name.ljust(32).encode() in f.read_bytes() for f in own.bridge.dir.glob("tokens/*/token.object")):
            own.softhsm("softhsm2-util", "--init-token", "--free", "--label", name, "--pin", own.password, "--so-pin", "12345678")
        extra.write_text(text)
        if "--config-extra" not in own.bridge.extra_args:
            own.bridge.extra_args += ["--config-extra", str(extra)]


def derived(record):
    """As docs/key-stores.md and the code say it, made by Python's own library."""
    digest = hashlib.sha256()
    for text in ["hsm-bridge/cluster/1", record["serial"], "SoftHSM project"]:
        digest.update(len(text).to_bytes(8, "big") + text.encode())
    return "cluster-" + base64.b32encode(digest.digest()[:10]).decode().lower()


def seen(own, name):
    found = [token for r in own.bridge.journal() if r["eventName"] == "TokenSeen" and r["eventType"] != "HsmBridgeIntent"
             for token in r["additionalEventData"]["details"]["tokens"] if token["token"] == name]
    assert len(found) == 1, found
    return found[0]


def refuses_to_start(own, what):
    own.bridge.stop()
    with pytest.raises(AssertionError, match=re.compile(what, re.DOTALL)):
        own.bridge.start()
    own.bridge.process = None


def test_cluster_ids_are_derived_and_kept(own):
    with_token(own, "third")
    record = seen(own, "third")
    cluster = record["clusterId"]
    assert cluster == derived(record)
    store = own.kms.create_custom_key_store(**own.parameters(0, CloudHsmClusterId=cluster,
                                                             TrustAnchorCertificate=other_certificate()))["CustomKeyStoreId"]
    own.connect(store)
    # A stop in the middle of a connection lets it end.
    own.bridge.restart()
    own.bridge.restart()
    assert not [r for r in own.bridge.journal() if r["eventName"] == "OutcomeUnknown"]
    seen(own, "third")
    extra = own.bridge.root / "extra.toml"
    before = extra.read_text()
    extra.write_text(before + 'cluster_id = "cluster-aaaaaaaaaaa"\n')
    refuses_to_start(own, f"`third` is configured as `cluster-aaaaaaaaaaa`, but has been `{cluster}`")
    extra.write_text(before + f'\n[[custom_token]]\nname = "again"\nserial = "{record["serial"]}"\n')
    with pytest.raises(AssertionError, match="one token|are both"):
        own.bridge.start()
    own.bridge.process = None
    extra.write_text(before)
    own.bridge.start()
    assert own.settled(store)["ConnectionState"] == "CONNECTED"


def test_another_default_token(own):
    """The same objects under another serial number: refused until a person says that the token was replaced."""
    own.bridge.stop()
    serial = SOFTHSM + 2
    (path,) = [p for p in own.bridge.dir.glob("tokens/*/token.object") if b"hsm-bridge-dev ".ljust(32) in p.read_bytes()]
    data = path.read_bytes()
    attributes = split(data)
    number = attributes[serial][24:]
    path.write_bytes(data.replace(number, b"0123456789abcdef"[:len(number)]))
    with pytest.raises(AssertionError, match=r"serial `0123456789abcdef`.*token replace"):
        own.bridge.start()
    own.bridge.process = None
    path.write_bytes(data)
    own.bridge.start()


def test_short_ids_and_keys_that_were_not_finished(own):
    """A token that takes ids of two bytes: its keys are found again after a restart, and what a killed run left is undone."""
    (own.bridge.root / "short.toml").write_text(SHORT_IDS)
    with_token(own, "short", f'profile = "{own.bridge.root / "short.toml"}"')
    parameters = own.parameters(0, CloudHsmClusterId=seen(own, "short")["clusterId"])
    store = own.kms.create_custom_key_store(**parameters)["CustomKeyStoreId"]
    own.connect(store)
    key = own.key(store)["KeyId"]
    sealed = own.kms.encrypt(KeyId=key, Plaintext=b"short")["CiphertextBlob"]
    handle = json.loads([r for r in own.bridge.journal() if r["eventName"] == "CreateKey"][-1]["additionalEventData"]["backingKey"])
    assert len(bytes.fromhex(handle["keyHandle"])) == 2

    made = []
    for turn in range(4):
        def make():
            try:
                while True:
                    made.append(own.key(store, KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyId"])
            except Exception:  # noqa: BLE001
                pass
        threads = [threading.Thread(target=make) for _ in range(3)]
        [t.start() for t in threads]
        time.sleep(0.3 + 0.17 * turn)
        own.bridge.kill()
        [t.join(PATIENCE) for t in threads]
        own.bridge.start()
        assert own.settled(store)["ConnectionState"] == "CONNECTED"
    assert own.kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"short"
    pages = own.kms.get_paginator("list_keys").paginate()
    listed = {k["KeyId"] for page in pages for k in page["Keys"]}
    assert set(made) <= listed
    for one in listed - {key}:
        own.kms.sign(KeyId=one, Message=b"m", SigningAlgorithm="RSASSA_PKCS1_V1_5_SHA_256")
    undone = sum(r["additionalEventData"]["details"].get("unfinishedKeysUndone", 0) for r in own.bridge.journal()
                 if r["eventName"] == "KeyStoreConnection" and r["eventType"] != "HsmBridgeIntent")
    assert undone, "no kill fell into the making of a key: the test shows nothing"
    shown = subprocess.run(["pkcs11-tool", "--module", own.bridge.env["HSM_BRIDGE_PKCS11_MODULE"], "--token-label", "short", "--login",
                            "--pin", own.password, "-O", "--type", "privkey"], capture_output=True, text=True, timeout=PATIENCE,
                           env=clean_env(SOFTHSM2_CONF=str(own.bridge.dir / "softhsm2.conf"))).stdout
    assert shown.count("Private Key Object") == len(listed) - 1, shown


def test_a_restored_store(own):
    """Key stores are those of the backup, at once."""
    first = own.connected(0)
    backup = own.bridge.root / "backup.sqlite"
    own.bridge.run("store", "backup", backup)
    later = own.connected(1)
    own.bridge.run("store", "restore", backup, "--ticket", "T-1")
    with refused("CustomKeyStoreNotFoundException"):
        own.entry(later)
    assert own.entry(first)["ConnectionState"] == "CONNECTED"
    own.key(first)
    # Its token was let go.
    own.connected(1)


def test_a_restored_store_is_on_the_token_that_its_record_names(own):
    store = own.connected(0)
    backup = own.bridge.root / "backup.sqlite"
    own.bridge.run("store", "backup", backup)
    own.disconnect(store)
    own.kms.update_custom_key_store(CustomKeyStoreId=store, CloudHsmClusterId=own.clusters[1])
    own.connect(store)
    own.bridge.run("store", "restore", backup, "--ticket", "T-1")
    entry = own.settled(store)
    assert (entry["CloudHsmClusterId"], entry["ConnectionState"]) == (own.clusters[0], "CONNECTED")
    key = own.key(store)["KeyId"]
    with own.stopped():
        pass
    assert own.settled(store)["ConnectionState"] == "CONNECTED"
    own.kms.encrypt(KeyId=key, Plaintext=b"there")


def test_a_store_that_was_disconnected_in_the_backup_is_disconnected(own):
    store = own.create(0)
    backup = own.bridge.root / "backup.sqlite"
    own.bridge.run("store", "backup", backup)
    own.connect(store)
    own.bridge.run("store", "restore", backup, "--ticket", "T-1")
    assert own.entry(store)["ConnectionState"] == "DISCONNECTED"
    own.connect(store)
    own.key(store)


def test_a_deletion_waits_for_its_key_store():
    preload = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert preload, "libfaketime is not installed (apt-get install faketime)"
    own = Stores(tokens=1)
    clock, extra = own.bridge.root / "faketime", own.bridge.root / "extra.toml"
    clock.write_text("+0\n")
    extra.write_text("[sweeper]\ninterval_seconds = 1\n")
    own.bridge.extra_args += ["--config-extra", str(extra)]
    own.bridge.environment = {"LD_PRELOAD": str(preload[0]), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                              "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    own.bridge.start()
    try:
        store = own.connected(0)
        key = own.key(store)["KeyId"]
        own.kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        own.disconnect(store)
        shift = 8 * 86_400
        clock.write_text(f"+{shift}\n")

        def ask(operation, params):
            return own.bridge.raw().call(operation, params, age=-shift)

        time.sleep(1.5)
        own.bridge.run("sweeper", "--confirm", "T-2")
        time.sleep(2.5)
        assert ask("DescribeKey", {"KeyId": key}).json()["KeyMetadata"]["KeyState"] == "PendingDeletion"
        names = [r["eventName"] for r in own.bridge.journal()]
        assert "DeleteKey" not in names, "nobody tried"
        assert ask("ConnectCustomKeyStore", {"CustomKeyStoreId": store}).status == 200
        deadline = time.monotonic() + PATIENCE
        while ask("DescribeKey", {"KeyId": key}).status == 200:
            assert time.monotonic() < deadline, own.bridge.stderr()
            time.sleep(0.1)
        destroyed = [r for r in own.bridge.journal() if r["eventName"] == "DeleteKey"][-1]["additionalEventData"]
        assert destroyed["customKeyStoreId"] == store and destroyed["clusterId"] == own.clusters[0]
        (status,) = json.loads(destroyed["backingKeysDeletionStatus"])
        assert status["deletionStatus"] == "SUCCESS" and status["keyHandle"] == key.replace("-", "")
    finally:
        own.bridge.close()
