"""A service on what the documents say of AWS CloudHSM (profile `cloudhsm` of tests/pkcs11-faults) with the shipped profile: the keys of
every kind are made and used, judged by python-cryptography.
"""

import tomllib
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature

from faults import Faults
from instance import Instance
from test_officer import reconcile, use
from test_other_tokens import RSA, judge, pair, sign, verify

PROFILE = Path(__file__).resolve().parents[2] / "hsm-config" / "profiles" / "cloudhsm.toml"
PAIRS = {"RSA_2048": RSA, "RSA_3072": RSA, "ECC_NIST_P256": ["ECDSA_SHA_256"], "ECC_NIST_P384": ["ECDSA_SHA_384"], "ECC_NIST_P521": ["ECDSA_SHA_512"]}


def service(**token):
    made = Instance("cloudhsm", sections={"token": {"isolation": "in-process"} | token})
    made.faults = Faults(made, profile="cloudhsm").install(made)
    return made


@pytest.fixture(scope="module")
def cloudhsm():
    made = service(profile=str(PROFILE))
    try:
        yield made.init().start()
    finally:
        made.close()


@pytest.mark.parametrize("spec", PAIRS)
def test_pairs(cloudhsm, spec):
    key, public = pair(cloudhsm, spec)
    for algorithm in PAIRS[spec]:
        signature = sign(cloudhsm, key, algorithm, b"message")
        judge(public, algorithm, signature, b"message")
        assert verify(cloudhsm, key, algorithm, b"message", signature).json()["SignatureValid"] is True
        with pytest.raises(InvalidSignature):
            judge(public, algorithm, signature, b"message.")
        assert verify(cloudhsm, key, algorithm, b"message.", signature).type == "KMSInvalidSignatureException"


def test_doctor_shows_the_profiles_words(cloudhsm):
    (token,) = cloudhsm.doctor()["tokens"]
    said = tomllib.loads(PROFILE.read_text())
    assert (token["pinHint"], token["notes"]) == (said["pin_hint"], said["notes"])


def test_secret_keys(cloudhsm):
    for spec, usage in [("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"), ("HMAC_256", "GENERATE_VERIFY_MAC")]:
        use(cloudhsm, cloudhsm.new_key(KeySpec=spec, KeyUsage=usage), spec)


def test_they_are_there_after_a_restart(cloudhsm):
    key, public = pair(cloudhsm, "ECC_NIST_P256")
    assert reconcile(cloudhsm)["ok"]
    cloudhsm.stop()
    cloudhsm.start()
    judge(public, "ECDSA_SHA_256", sign(cloudhsm, key, "ECDSA_SHA_256", b"again"), b"again")


def test_without_the_profile():
    """Then the templates that the token refuses are tried first, and leave nothing behind."""
    made = service()
    try:
        made.init().start()
        key, public = pair(made, "ECC_NIST_P256")
        refused = [call for call in made.faults.calls("C_GenerateKeyPair") if call.result == "CKR_ATTRIBUTE_VALUE_INVALID"]
        assert refused and all(call.by == "refuse" for call in refused), refused
        judge(public, "ECDSA_SHA_256", sign(made, key, "ECDSA_SHA_256", b"message"), b"message")
        assert reconcile(made)["ok"]
    finally:
        made.close()
