"""The same on the token of a custom key store, and on the default store's token with others beside it."""

import time
import tomllib
from pathlib import Path

import pytest

import specs
from bridge import Bridge
from test_replaced import assert_red, replace

SPECS = [specs.SYMMETRIC, "HMAC_256", "ECC_NIST_P256"]
CONNECT = 60


class Officer:
    """The bridge as `token_tool` wants it, with another token than the default store's."""

    def __init__(self, bridge, label):
        self.env = bridge.env | {"HSM_BRIDGE_TOKEN_LABEL": label}
        self.pin, self.tool_env = Path(bridge.env["HSM_BRIDGE_CUSTOM_PIN_FILE"]).read_text().strip("\r\n"), bridge.tool_env


@pytest.fixture(scope="module")
def bridge():
    instance = Bridge(extra_args=["--custom-tokens", "2", "--custom-store-key-specs", ",".join(SPECS[1:])])
    try:
        yield instance.start()
    finally:
        instance.close()


@pytest.fixture(scope="module")
def labels(bridge):
    """Of the custom tokens, in the order of their cluster ids."""
    configured = tomllib.loads(Path(bridge.env["HSM_BRIDGE_CONFIG"]).read_text())["custom_token"]
    by_cluster = {token["cluster_id"]: token["label"] for token in configured}
    return [by_cluster[cluster] for cluster in bridge.env["HSM_BRIDGE_CLUSTER_IDS"].split(",")]


@pytest.fixture(scope="module")
def store(bridge):
    password = Path(bridge.env["HSM_BRIDGE_CUSTOM_PIN_FILE"]).read_text().strip("\r\n")
    made = bridge.kms.create_custom_key_store(
        CustomKeyStoreName="crosscheck", CloudHsmClusterId=bridge.env["HSM_BRIDGE_CLUSTER_IDS"].split(",")[0],
        TrustAnchorCertificate=Path(bridge.env["HSM_BRIDGE_TRUST_ANCHOR"]).read_text(), KeyStorePassword=password)["CustomKeyStoreId"]
    bridge.kms.connect_custom_key_store(CustomKeyStoreId=made)
    deadline = time.monotonic() + CONNECT
    while bridge.kms.describe_custom_key_stores(CustomKeyStoreId=made)["CustomKeyStores"][0]["ConnectionState"] != "CONNECTED":
        assert time.monotonic() < deadline, "the key store does not connect"
        time.sleep(0.1)
    return made


@pytest.fixture(scope="module")
def keys(bridge, store):
    """Existing keys, in both stores."""
    def make(spec, **where):
        return bridge.new_key(KeySpec=spec, KeyUsage=specs.usage(spec), **where)
    inside = {spec: make(spec, CustomKeyStoreId=store, Origin="AWS_CLOUDHSM") for spec in SPECS}
    return inside, {spec: make(spec) for spec in SPECS}


def test_green_on_its_token(bridge, crosscheck, store, labels, keys):
    inside, outside = keys
    report = crosscheck(bridge, "--custom-store", store, "--token-label", labels[0], "--keys")
    assert report.code == 0 and store in report.stdout.splitlines()[0], str(report)
    for spec in SPECS:
        assert report.results(f"{spec}: CreateKey") == {(f"{spec}: CreateKey", "KMS"): "ok"}, str(report)
        assert list(report.results(inside[spec]).values()) == ["ok", "ok"], str(report)
        assert not report.results(outside[spec]), "keys of the default store are in another token"
    assert set(report.results("RSA_2048: CreateKey").values()) == {"not served"}


def test_green_on_the_default_token_beside_them(bridge, crosscheck, store, keys):
    inside, outside = keys
    report = crosscheck(bridge, "--keys")
    assert report.code == 0, str(report)
    for spec in SPECS:
        assert list(report.results(outside[spec]).values()) == ["ok", "ok"], str(report)
        assert not report.results(inside[spec]), str(report)


def test_red_on_another_token(bridge, crosscheck, store, labels, keys):
    report = crosscheck(bridge, "--custom-store", store, "--token-label", labels[1], "--keys")
    assert report.code == 1, str(report)
    for key in keys[0].values():
        assert set(report.results(key).values()) == {"FAILED"}, str(report)


def test_a_key_of_another_store_is_not_looked_for_here(bridge, crosscheck, store, labels, keys):
    report = crosscheck(bridge, "--custom-store", store, "--token-label", labels[0], "--key", keys[1]["HMAC_256"])
    assert report.code == 2 and "of another key store" in report.stderr, str(report)


@pytest.mark.parametrize("spec", SPECS)
def test_a_replaced_key_is_red(bridge, crosscheck, store, labels, keys, spec):
    mine = keys[0][spec]
    others = [bridge.new_key(CustomKeyStoreId=store, Origin="AWS_CLOUDHSM")]
    replace(Officer(bridge, labels[0]), mine, spec)
    chosen = [word for key in (mine, *others) for word in ("--key", key)]
    report = crosscheck(bridge, "--custom-store", store, "--token-label", labels[0], "--only", "keys", *chosen)
    assert_red(report, mine, others, "the same key")
