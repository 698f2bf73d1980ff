"""The script itself: all green on SoftHSM, what it prints, what it leaves, and when it says that it could not run."""

import re
import subprocess
import sys

import pytest

import specs
from bridge import clean_env
from instance import Instance
from report import HERE, run_crosscheck
from spy import Spy
from table import Table, Wrong

# What SoftHSM can do is judged, not left out.
JUDGED = [f"{spec}: class, CKA_ID, CKA_LABEL, attributes" for spec in specs.ALL]
JUDGED += [f"{spec} {algorithm.name}: {what}" for spec, algorithms in specs.SIGNING_SPECS.items() for algorithm in algorithms
           for what in ("KMS signs, the token verifies", "KMS signs, software verifies", "the token signs, KMS verifies")]
JUDGED += [f"{spec} {spec.replace('_', '_SHA_')}: KMS and token agree, both ways" for spec in specs.MAC_SPECS]
JUDGED += [f"{specs.SYMMETRIC}, {context}: {what}" for context in ("no context", "a context", "a context beyond ASCII")
           for what in ("KMS encrypts, the token decrypts", "the token makes the same bytes", "the token encrypts, KMS decrypts")]


@pytest.fixture(scope="module")
def whole(bridge, crosscheck):
    """One whole run over an instance with a key of each spec, one of them disabled, one waiting for its deletion."""
    for spec in specs.ALL:
        bridge.key(spec)
    bridge.kms.disable_key(KeyId=bridge.key("ECC_NIST_P256", "disabled"))
    bridge.kms.schedule_key_deletion(KeyId=bridge.key(purpose="deleted"), PendingWindowInDays=7)
    return crosscheck(bridge, "--keys")


def test_all_green_on_softhsm(whole):
    assert whole.code == 0, str(whole)
    assert not [row for row in whole.rows if row[2] not in ("ok", "not served", "not available")]
    judged = [row for row in whole.rows if row[2] == "ok"]
    assert whole.last == f"{len(judged)} checks, 0 failed"
    seen = {row[0] for row in judged}
    assert seen >= set(JUDGED), sorted(set(JUDGED) - seen)


def test_the_header_names_token_and_judges(whole, bridge):
    head = whole.stdout.partition("\ncheck  ")[0]
    judges = ("OpenSC ", "python-pkcs11 ", "python-cryptography ", "OpenSSL ")
    for wanted in (bridge.endpoint, bridge.env["HSM_BRIDGE_TOKEN_LABEL"], *judges):
        assert wanted in head, head


def test_every_key_of_the_instance_is_looked_at(whole, bridge):
    for spec in specs.ALL:
        assert list(whole.results(f"key {bridge.key(spec)} {spec}: ").values()) == ["ok", "ok"]
    disabled, deleted = bridge.key("ECC_NIST_P256", "disabled"), bridge.key(purpose="deleted")
    assert list(whole.results(f"key {disabled} ").values()) == ["ok", "ok"], "its public key is compared"
    assert list(whole.results(f"key {deleted} ").values()) == ["ok", "not available"]


def test_its_own_keys_are_tagged_and_deleted(whole, bridge):
    run_id = re.search(r"^run +(\w+)", whole.stdout, re.M).group(1)
    kms, own = bridge.kms, []
    for key in (k["KeyId"] for page in kms.get_paginator("list_keys").paginate() for k in page["Keys"]):
        tags = {t["TagKey"]: t["TagValue"] for t in kms.list_resource_tags(KeyId=key)["Tags"]}
        if tags.get("hsm-bridge:crosscheck") == run_id:
            own.append(kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"])
    assert len(own) >= len(specs.ALL) and set(own) == {"PendingDeletion"}, own


def test_no_secret_is_printed(whole, bridge):
    for secret in (bridge.pin, bridge.secret_key):
        assert secret not in whole.stdout + whole.stderr


@pytest.mark.parametrize("usage", ["RSA_2048 ENCRYPT_DECRYPT", "ECC_NIST_P256 KEY_AGREEMENT"])
def test_what_the_api_does_not_serve_is_said(whole, bridge, usage):
    """Right in a version that serves it too: then there are rows of it."""
    spec, name = usage.split()
    try:
        bridge.new_key(KeySpec=spec, KeyUsage=name)
        wanted = "ok"
    except bridge.kms.exceptions.UnsupportedOperationException:
        wanted = "not served"
    assert whole.results(f"{usage}: CreateKey") == {(f"{usage}: CreateKey", "KMS"): wanted}


def test_adopted_keys_are_used(whole, bridge):
    """Without the command the rows say so."""
    exists = bridge.run("key", "adopt", "--help", check=False).returncode == 0
    found = whole.results("made by pkcs11-tool")
    assert len(found) == (5 if exists else 4) and set(found.values()) == {"ok" if exists else "not available"}, str(whole)


def test_random_bytes_come_from_the_token():
    instance = Instance(name="crosscheck")
    try:
        spy = Spy(instance)
        instance.sections = {"token": spy.token}
        instance.init().start()
        env = clean_env(AWS_ENDPOINT_URL=f"http://{instance.address}", AWS_ACCESS_KEY_ID=instance.access_key,
                        AWS_SECRET_ACCESS_KEY=instance.secret_key, AWS_REGION="eu-central-1", SOFTHSM2_CONF=str(instance.softhsm_conf))
        flags = ["--module", "/usr/lib/softhsm/libsofthsm2.so", "--token-label", instance.label, "--pin-file", instance.pin_file]
        report = run_crosscheck(env, *flags, "--only", "random", "--spy-log", spy.log)
        assert report.code == 0 and report.results("reach C_GenerateRandom"), str(report)
        # A log that does not grow is no witness.
        still = instance.root / "old.log"
        still.write_bytes(spy.log.read_bytes())
        report = run_crosscheck(env, *flags, "--only", "random", "--spy-log", still)
        assert report.code == 1 and set(report.results("reach C_GenerateRandom").values()) == {"FAILED"}, str(report)
    finally:
        instance.close()


# -- the script and the person who calls it ---------------------------------------------------------------------------------

def test_it_starts_an_instance_of_its_own(bridge):
    report = run_crosscheck(clean_env(HSM_BRIDGE_BIN=bridge.command()[0]), "--dev", "--only", "macs")
    assert report.code == 0 and "16 checks, 0 failed" == report.last, str(report)


def test_flags_go_before_variables(bridge, crosscheck):
    env = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:9", "HSM_BRIDGE_TOKEN_LABEL": "none"}
    report = run_crosscheck(bridge.tool_env() | env, "--only", "macs", "--endpoint", bridge.endpoint, "--token-label",
                            bridge.env["HSM_BRIDGE_TOKEN_LABEL"])
    assert report.code == 0, str(report)


@pytest.mark.parametrize("args, said", [
    (["--endpoint", "http://127.0.0.1:9"], "http://127.0.0.1:9"),
    (["--token-label", "no such token"], "no such token"),
    (["--module", "/nonexistent.so"], "/nonexistent.so"),
    (["--pin-file", "/nonexistent"], "PIN file"),
    (["--only", "nonsense"], "no such group: nonsense"),
    (["--custom-store", "cks-1234567890abcdef0"], "--custom-store needs --token-label"),
])
def test_what_cannot_be_asked_is_no_verdict(bridge, crosscheck, args, said):
    report = crosscheck(bridge, *args)
    assert report.code == 2 and said in report.stderr and not report.rows, str(report)


def test_a_wrong_pin_is_tried_once(bridge, crosscheck, tmp_path):
    (tmp_path / "pin").write_text("wrong-pin\n")
    report = crosscheck(bridge, "--pin-file", tmp_path / "pin")
    assert report.code == 2 and "PinIncorrect" in report.stderr, str(report)


def test_without_an_endpoint_nothing_is_sent(bridge):
    env = bridge.tool_env() | {"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_KMS": ""}
    report = run_crosscheck(env)
    assert report.code == 2 and "--endpoint is missing" in report.stderr, str(report)


def test_wrong_credentials(bridge):
    report = run_crosscheck(bridge.tool_env() | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert report.code == 2 and "InvalidSignatureException" in report.stderr, str(report)


def test_a_row_that_breaks_is_a_failed_row(capsys):
    table = Table(sys.stdout)
    for error in (Wrong("they differ"), KeyError("x"), ValueError()):
        with table.row("a check", "a judge"):
            raise error
    with table.row("another", "a judge"):
        pass
    table.finish()
    assert capsys.readouterr().out.splitlines()[-1] == "4 checks, 3 failed"


def test_help_tells_the_exit_codes():
    done = subprocess.run([sys.executable, HERE / "crosscheck.py", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "2 it could not be asked" in done.stdout
