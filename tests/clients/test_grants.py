"""Grants: who may use a key by one, on what condition, and how they end. Grantees are users without any policy of their own."""

import secrets

import pytest

from checks import members, refused
from iam_tool import NOBODYS, Iam, allow, deny

DRY_RUN = "The request would have succeeded, but the DryRun option is set."
UNKNOWN = "0" * 64


class Person:
    """A user with an access key: `arn`, and `kms`, a client that signs as the user."""

    def __init__(self, iam, **options):
        self.arn = iam.make_user(**options)
        self.name = self.arn.rsplit("/", 1)[1]
        self.credentials = iam.access_key(user=self.name)
        self.kms = iam.client(self.credentials)


@pytest.fixture(scope="module")
def iam(bridge):
    return Iam(bridge)


@pytest.fixture(scope="module")
def alice(iam):
    return Person(iam)


@pytest.fixture(scope="module")
def bob(iam):
    return Person(iam)


def root(bridge):
    return f"arn:aws:iam::{bridge.account}:root"


def listed(bridge, key, **more):
    pages = bridge.kms.get_paginator("list_grants").paginate(KeyId=key, **more)
    return [grant for page in pages for grant in page["Grants"]]


def ids(grants):
    return [grant["GrantId"] for grant in grants]


# -- made and listed ------------------------------------------------------------------------------------------------------------


def test_a_grant_as_it_is_listed(bridge, alice, bob):
    key = bridge.new_key()
    made = members(bridge.kms.create_grant(
        KeyId=key, GranteePrincipal=alice.arn, RetiringPrincipal=bob.arn, Operations=["Encrypt", "Decrypt"], Name="nightly",
        Constraints={"EncryptionContextSubset": {"tenant": "acme", "purpose": ""}}))
    assert set(made) == {"GrantId", "GrantToken"}
    assert len(made["GrantId"]) == 64 and set(made["GrantId"]) <= set("0123456789abcdef")
    (grant,) = listed(bridge, key)
    assert abs(grant.pop("CreationDate") - bridge.kms.describe_key(KeyId=key)["KeyMetadata"]["CreationDate"]).total_seconds() < 60
    assert sorted(grant.pop("Operations")) == ["Decrypt", "Encrypt"]
    assert grant == {"KeyId": bridge.key_arn(key), "GrantId": made["GrantId"], "Name": "nightly", "GranteePrincipal": alice.arn,
                     "RetiringPrincipal": bob.arn, "IssuingAccount": root(bridge),
                     "Constraints": {"EncryptionContextSubset": {"tenant": "acme", "purpose": ""}}}
    bare = bridge.kms.create_grant(KeyId=bridge.key_arn(key), GranteePrincipal=root(bridge), Operations=["DescribeKey"])
    (grant,) = listed(bridge, key, GrantId=bare["GrantId"])
    assert set(grant) == {"KeyId", "GrantId", "GranteePrincipal", "IssuingAccount", "Operations", "CreationDate"}


def test_lists_are_paged_and_filtered(bridge, alice, bob):
    key = bridge.new_key()
    to = {person.arn: {bridge.kms.create_grant(KeyId=key, GranteePrincipal=person.arn, Operations=["Decrypt"])["GrantId"]
                       for _ in range(4)} for person in (alice, bob)}
    everything = to[alice.arn] | to[bob.arn]
    for size in (1, 3, 8, 9, 100):
        found = listed(bridge, key, PaginationConfig={"PageSize": size})
        assert len(found) == 8 and set(ids(found)) == everything, size
    found = listed(bridge, key, GranteePrincipal=bob.arn, PaginationConfig={"PageSize": 2})
    assert len(found) == 4 and set(ids(found)) == to[bob.arn]
    one = min(everything)
    assert ids(listed(bridge, key, GrantId=one)) == [one]
    assert listed(bridge, key, GrantId=UNKNOWN) == []
    first = bridge.kms.list_grants(KeyId=key, Limit=1)
    assert first["Truncated"] and first["NextMarker"]
    with refused("InvalidMarkerException"):
        bridge.kms.list_grants(KeyId=key, GranteePrincipal=bob.arn, Marker=first["NextMarker"])
    with refused("InvalidMarkerException"):
        bridge.kms.list_grants(KeyId=bridge.key(), Marker=first["NextMarker"])
    with refused("InvalidGrantIdException", "Invalid grant id 'g'"):
        bridge.kms.list_grants(KeyId=key, GrantId="g")
    with refused("InvalidArnException"):
        bridge.kms.list_grants(KeyId=key, GranteePrincipal="alice")
    with refused("ValidationException"):
        bridge.kms.list_grants(KeyId=key, GranteeServicePrincipal="backup.internal.example")
    with refused("ValidationException"):
        bridge.client(validate=False).list_grants(KeyId=key, Limit=101)


def test_retirable_grants_are_of_all_keys(bridge, iam, alice):
    retiring = Person(iam)
    keys = [bridge.new_key() for _ in range(3)]
    made = {bridge.kms.create_grant(KeyId=key, GranteePrincipal=alice.arn, RetiringPrincipal=retiring.arn,
                                    Operations=["Decrypt"])["GrantId"]: bridge.key_arn(key) for key in keys}
    bridge.kms.create_grant(KeyId=keys[0], GranteePrincipal=alice.arn, RetiringPrincipal=alice.arn, Operations=["Decrypt"])
    pages = bridge.kms.get_paginator("list_retirable_grants").paginate(RetiringPrincipal=retiring.arn,
                                                                       PaginationConfig={"PageSize": 2})
    found = [grant for page in pages for grant in page["Grants"]]
    assert {grant["GrantId"]: grant["KeyId"] for grant in found} == made and len(found) == 3
    # RULE: permissions on no key are asked, the one on the account is.
    with refused("AccessDeniedException"):
        retiring.kms.list_retirable_grants(RetiringPrincipal=retiring.arn)
    iam.with_document(allow("kms:ListRetirableGrants"), "user", "put-policy", retiring.name, "list")
    assert len(retiring.kms.list_retirable_grants(RetiringPrincipal=retiring.arn)["Grants"]) == 3
    other = f"arn:aws:iam::{NOBODYS}:root"
    with refused("AccessDeniedException"):
        bridge.kms.list_retirable_grants(RetiringPrincipal=other)
    with refused("ValidationException"):
        bridge.kms.list_retirable_grants(RetiringServicePrincipal="backup.internal.example")


# -- what cannot be made ----------------------------------------------------------------------------------------------------------


def test_principals_that_a_grant_cannot_name(bridge, iam, alice):
    key = bridge.key()
    iam.group(f"group-{secrets.token_hex(4)}")
    for wrong in (f"arn:aws:iam::{bridge.account}:user/nobody-of-that-name", f"arn:aws:iam::{NOBODYS}:root", bridge.account,
                  f"arn:aws:iam::{bridge.account}:group/g", "s3.us-east-1.amazonaws.com", alice.arn.upper(), "alice"):
        with refused("InvalidArnException"):
            bridge.kms.create_grant(KeyId=key, GranteePrincipal=wrong, Operations=["Decrypt"])
        with refused("InvalidArnException"):
            bridge.kms.create_grant(KeyId=key, GranteePrincipal=alice.arn, RetiringPrincipal=wrong, Operations=["Decrypt"])
    assert alice.arn not in [grant["GranteePrincipal"] for grant in listed(bridge, key)]


def test_operations_and_constraints_that_do_not_fit(bridge, alice):
    constraint = {"EncryptionContextSubset": {"a": "1"}}
    for spec, operations, constraints in (
            ("SYMMETRIC_DEFAULT", ["Sign"], {}), ("SYMMETRIC_DEFAULT", ["Decrypt", "GenerateMac"], {}),
            ("ECC_NIST_P256", ["Decrypt"], {}), ("ECC_NIST_P256", ["Sign"], constraint),
            ("HMAC_256", ["Verify"], {}), ("HMAC_256", ["GenerateMac"], constraint),
            ("SYMMETRIC_DEFAULT", ["Decrypt"], {"EncryptionContextEquals": {str(n): "v" for n in range(9)}}),
            ("SYMMETRIC_DEFAULT", ["Decrypt"], {"EncryptionContextEquals": {"a": "v" * 385}})):
        with refused("ValidationException"):
            bridge.kms.create_grant(KeyId=bridge.key(spec), GranteePrincipal=alice.arn, Operations=operations, Constraints=constraints)
    source = {"SourceArn": f"arn:aws:s3:{bridge.region}:{bridge.account}:bucket"}
    bridge.kms.create_grant(KeyId=bridge.new_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY"), GranteePrincipal=alice.arn,
                            Operations=["Sign", "DescribeKey"], Constraints=source)


def test_keys_in_the_wrong_state(bridge, alice):
    key = bridge.new_key()
    grant = bridge.kms.create_grant(KeyId=key, GranteePrincipal=alice.arn, Operations=["Encrypt"])
    again = bridge.kms.create_grant(KeyId=key, GranteePrincipal=alice.arn, Operations=["Encrypt"])
    asked = {"KeyId": key, "GranteePrincipal": alice.arn, "Operations": ["Decrypt"]}
    bridge.kms.disable_key(KeyId=key)
    with refused("DisabledException", f"{bridge.key_arn(key)} is disabled."):
        bridge.kms.create_grant(**asked)
    assert len(listed(bridge, key)) == 2, "disabling keeps grants"
    bridge.kms.revoke_grant(KeyId=key, GrantId=again["GrantId"])
    bridge.kms.schedule_key_deletion(KeyId=key)
    with refused("KMSInvalidStateException", f"{bridge.key_arn(key)} is pending deletion."):
        bridge.kms.create_grant(**asked)
    assert ids(listed(bridge, key)) == [grant["GrantId"]]
    bridge.kms.cancel_key_deletion(KeyId=key)
    bridge.kms.enable_key(KeyId=key)
    alice.kms.encrypt(KeyId=key, Plaintext=b"still")
    with refused("NotFoundException", "Invalid keyId 'fake-key-id'"):
        bridge.kms.create_grant(KeyId="fake-key-id", GranteePrincipal="alice", Operations=["Decrypt"])


# -- used -------------------------------------------------------------------------------------------------------------------------


def test_a_grantee_needs_nothing_else_and_gets_nothing_else(bridge, alice, bob):
    key = bridge.new_key()
    context = {"tenant": "acme"}
    with refused("AccessDeniedException"):
        alice.kms.encrypt(KeyId=key, Plaintext=b"p")
    made = bridge.kms.create_grant(KeyId=key, GranteePrincipal=alice.arn, Operations=["Encrypt", "Decrypt"])
    blob = alice.kms.encrypt(KeyId=key, Plaintext=b"p", EncryptionContext=context)["CiphertextBlob"]
    assert alice.kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == b"p"
    for call in (lambda: alice.kms.generate_data_key(KeyId=key, KeySpec="AES_256"), lambda: alice.kms.describe_key(KeyId=key),
                 lambda: alice.kms.encrypt(KeyId=bridge.key(), Plaintext=b"p"), lambda: alice.kms.list_grants(KeyId=key),
                 lambda: bob.kms.encrypt(KeyId=key, Plaintext=b"p"),
                 # A token helps nobody else.
                 lambda: bob.kms.encrypt(KeyId=key, Plaintext=b"p", GrantTokens=[made["GrantToken"]])):
        with refused("AccessDeniedException"):
            call()
    bridge.kms.revoke_grant(KeyId=key, GrantId=made["GrantId"])
    with refused("AccessDeniedException"):
        alice.kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)
    assert listed(bridge, key) == []


def test_the_encryption_context_has_to_fit(bridge, alice):
    equals, subset = bridge.new_key(), bridge.new_key()
    for key, name in ((equals, "EncryptionContextEquals"), (subset, "EncryptionContextSubset")):
        bridge.kms.create_grant(KeyId=key, GranteePrincipal=alice.arn, Operations=["Encrypt", "Decrypt", "DescribeKey"],
                                Constraints={name: {"Department": "IT"}})
        alice.kms.describe_key(KeyId=key)
    for key, context, fits in (
            (equals, {"Department": "IT"}, True), (equals, {"Department": "IT", "Purpose": "Test"}, False), (equals, {}, False),
            (equals, {"department": "IT"}, False), (equals, {"Department": "it"}, False),
            (subset, {"Department": "IT"}, True), (subset, {"Department": "IT", "Purpose": "Test"}, True), (subset, {}, False),
            (subset, {"department": "IT"}, False), (subset, {"Department": "HR", "Purpose": "Test"}, False)):
        blob = bridge.kms.encrypt(KeyId=key, Plaintext=b"p", EncryptionContext=context)["CiphertextBlob"]
        if fits:
            assert alice.kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == b"p"
        else:
            with refused("AccessDeniedException"):
                alice.kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)


def test_a_deny_beats_a_grant(bridge, iam):
    person, key = Person(iam), bridge.new_key()
    bridge.kms.create_grant(KeyId=key, GranteePrincipal=person.arn, Operations=["Encrypt"])
    person.kms.encrypt(KeyId=key, Plaintext=b"p")
    iam.with_document(deny("kms:Encrypt"), "user", "put-policy", person.name, "no")
    with refused("AccessDeniedException"):
        person.kms.encrypt(KeyId=key, Plaintext=b"p")


def test_an_account_as_grantee_delegates(bridge, iam):
    person, key = Person(iam), bridge.new_key()
    policy = bridge.kms.get_key_policy(KeyId=key)["Policy"]
    bridge.kms.put_key_policy(KeyId=key, Policy=policy.replace("kms:*", "kms:PutKeyPolicy").replace(
        '"kms:PutKeyPolicy"', '["kms:PutKeyPolicy", "kms:CreateGrant"]'))
    bridge.kms.create_grant(KeyId=key, GranteePrincipal=root(bridge), Operations=["Encrypt"])
    with refused("AccessDeniedException"):
        person.kms.encrypt(KeyId=key, Plaintext=b"p")
    iam.with_document(allow("kms:Encrypt"), "user", "put-policy", person.name, "use")
    person.kms.encrypt(KeyId=key, Plaintext=b"p")


def test_who_takes_a_deleted_users_name_does_not_inherit(bridge, iam):
    person, key = Person(iam), bridge.new_key()
    named = {"KeyId": key, "GranteePrincipal": person.arn, "Operations": ["Encrypt"], "Name": "n"}
    grant = bridge.kms.create_grant(**named)
    person.kms.encrypt(KeyId=key, Plaintext=b"p")
    user_id = iam.client(person.credentials, "sts").get_caller_identity()["UserId"]
    iam.run("user", "delete", person.name)
    (left,) = listed(bridge, key)
    assert left["GranteePrincipal"] == user_id
    again = Person(iam, name=person.name)
    assert again.arn == person.arn
    with refused("AccessDeniedException"):
        again.kms.encrypt(KeyId=key, Plaintext=b"p")
    assert listed(bridge, key, GranteePrincipal=again.arn) == []
    new = bridge.kms.create_grant(**named)
    assert new["GrantId"] != grant["GrantId"]
    again.kms.encrypt(KeyId=key, Plaintext=b"p")


# -- tokens and names --------------------------------------------------------------------------------------------------------------


def test_tokens(bridge, alice):
    key, other = bridge.new_key(), bridge.new_key()
    asked = {"GranteePrincipal": alice.arn, "Operations": ["Encrypt", "DescribeKey"]}
    token, elsewhere = (bridge.kms.create_grant(KeyId=k, **asked)["GrantToken"] for k in (key, other))
    alice.kms.encrypt(KeyId=key, Plaintext=b"p", GrantTokens=[token])
    alice.kms.encrypt(KeyId=key, Plaintext=b"p", GrantTokens=[elsewhere, token])
    alice.kms.describe_key(KeyId=key, GrantTokens=[token])
    flipped = token[:10] + ("A" if token[10] != "A" else "B") + token[11:]
    for wrong in ("any", flipped, token[:-1], token + "A", token.swapcase()):
        with refused("InvalidGrantTokenException"):
            alice.kms.encrypt(KeyId=key, Plaintext=b"p", GrantTokens=[token, wrong])
        with refused("InvalidGrantTokenException"):
            bridge.kms.retire_grant(GrantToken=wrong)
        with refused("InvalidGrantTokenException"):
            bridge.kms.create_grant(KeyId=key, GrantTokens=[wrong], **asked)
    bridge.kms.retire_grant(GrantToken=token)
    with refused("InvalidGrantTokenException"):
        bridge.kms.describe_key(KeyId=key, GrantTokens=[token])
    with refused("InvalidGrantTokenException"):
        bridge.kms.retire_grant(GrantToken=token)


def test_the_same_name_is_the_same_grant(bridge, alice, bob):
    key = bridge.new_key()
    asked = {"KeyId": key, "GranteePrincipal": alice.arn, "Operations": ["Encrypt", "Decrypt"], "Name": "once",
             "RetiringPrincipal": bob.arn, "Constraints": {"EncryptionContextEquals": {"a": "1"}}}
    first, second = bridge.kms.create_grant(**asked), bridge.kms.create_grant(**asked | {"Operations": ["Decrypt", "Encrypt"]})
    assert first["GrantId"] == second["GrantId"] and first["GrantToken"] != second["GrantToken"]
    assert len(listed(bridge, key)) == 1
    others = [asked | {"Name": "twice"}, asked | {"GranteePrincipal": bob.arn}, asked | {"Operations": ["Encrypt"]},
              asked | {"Constraints": {"EncryptionContextSubset": {"a": "1"}}}, asked | {"RetiringPrincipal": alice.arn}]
    assert len({bridge.kms.create_grant(**other)["GrantId"] for other in others} | {first["GrantId"]}) == len(others) + 1
    unnamed = {k: v for k, v in asked.items() if k != "Name"}
    assert bridge.kms.create_grant(**unnamed)["GrantId"] != bridge.kms.create_grant(**unnamed)["GrantId"]
    # Either token retires the one grant.
    bridge.kms.retire_grant(GrantToken=second["GrantToken"])
    with refused("InvalidGrantTokenException"):
        bridge.kms.retire_grant(GrantToken=first["GrantToken"])


# -- retired and revoked -----------------------------------------------------------------------------------------------------------


def test_who_may_retire(bridge, iam, alice, bob):
    key = bridge.new_key()
    stranger, delegate = Person(iam), Person(iam, policies={"retire": allow("kms:RetireGrant")})
    denied = Person(iam, policies={"never": deny("kms:RetireGrant")})

    def grant(*operations, retiring=None):
        return bridge.kms.create_grant(KeyId=key, GranteePrincipal=alice.arn, Operations=["Encrypt", *operations],
                                       **({"RetiringPrincipal": retiring} if retiring else {}))

    def may(person, made):
        person.kms.retire_grant(KeyId=bridge.key_arn(key), GrantId=made["GrantId"])
        assert made["GrantId"] not in ids(listed(bridge, key))

    def may_not(person, made):
        with refused("AccessDeniedException"):
            person.kms.retire_grant(KeyId=key, GrantId=made["GrantId"])
        with refused("AccessDeniedException"):
            person.kms.retire_grant(GrantToken=made["GrantToken"])
        assert made["GrantId"] in ids(listed(bridge, key))

    made = grant(retiring=bob.arn)
    for person in (alice, stranger, denied):
        may_not(person, made)
    may(bob, made)
    may(alice, grant("RetireGrant"))
    may_not(bob, grant("RetireGrant"))
    # The issuing account: its root user, and whom it lets.
    may(bridge, grant())
    may(delegate, grant())
    may_not(denied, grant(retiring=denied.arn))


def test_ids_that_are_none(bridge, alice):
    key = bridge.new_key()
    made = bridge.kms.create_grant(KeyId=key, GranteePrincipal=alice.arn, Operations=["Encrypt"])
    for name in ("retire_grant", "revoke_grant"):
        call = getattr(bridge.kms, name)
        with refused("NotFoundException", f"Grant ID {UNKNOWN} not found"):
            call(KeyId=key, GrantId=UNKNOWN)
        with refused("NotFoundException", f"Grant ID {made['GrantId']} not found"):
            call(KeyId=bridge.key(), GrantId=made["GrantId"])
        with refused("InvalidGrantIdException"):
            call(KeyId=key, GrantId="g")
        with refused("NotFoundException"):
            call(KeyId="alias/none", GrantId=made["GrantId"])
    for params in ({}, {"KeyId": key}, {"GrantId": made["GrantId"]},
                   {"KeyId": key, "GrantId": made["GrantId"], "GrantToken": made["GrantToken"]}):
        with refused("ValidationException"):
            bridge.kms.retire_grant(**params)
    with refused("AccessDeniedException"):
        alice.kms.revoke_grant(KeyId=key, GrantId=made["GrantId"])
    assert members(bridge.kms.revoke_grant(KeyId=key, GrantId=made["GrantId"])) == {}
    with refused("NotFoundException"):
        bridge.kms.revoke_grant(KeyId=key, GrantId=made["GrantId"])


def test_dry_runs_change_nothing(bridge, alice):
    key = bridge.new_key()
    asked = {"KeyId": key, "GranteePrincipal": alice.arn, "Operations": ["Encrypt"]}
    with refused("DryRunOperationException", DRY_RUN):
        bridge.kms.create_grant(**asked, DryRun=True)
    with refused("InvalidArnException"):
        bridge.kms.create_grant(**asked | {"GranteePrincipal": "alice"}, DryRun=True)
    assert listed(bridge, key) == []
    made = bridge.kms.create_grant(**asked)
    for call in (lambda: bridge.kms.retire_grant(GrantToken=made["GrantToken"], DryRun=True),
                 lambda: bridge.kms.revoke_grant(KeyId=key, GrantId=made["GrantId"], DryRun=True)):
        with refused("DryRunOperationException", DRY_RUN):
            call()
    with refused("NotFoundException"):
        bridge.kms.revoke_grant(KeyId=key, GrantId=UNKNOWN, DryRun=True)
    with refused("AccessDeniedException"):
        alice.kms.revoke_grant(KeyId=key, GrantId=made["GrantId"], DryRun=True)
    assert len(listed(bridge, key)) == 1


# -- grants of grantees -------------------------------------------------------------------------------------------------------------


def test_a_child_is_no_wider_than_its_parent(bridge, alice, bob):
    key = bridge.new_key()
    bridge.kms.create_grant(KeyId=key, GranteePrincipal=alice.arn, Operations=["Encrypt", "Decrypt", "CreateGrant"],
                            Constraints={"EncryptionContextSubset": {"a": "1"}})

    def child(operations, **constraints):
        return alice.kms.create_grant(KeyId=key, GranteePrincipal=bob.arn, Operations=operations, Constraints=constraints)

    for operations, constraints in (
            (["DescribeKey"], {"EncryptionContextSubset": {"a": "1"}}), (["Encrypt"], {}),
            (["Encrypt"], {"EncryptionContextSubset": {"b": "1"}}), (["Encrypt"], {"EncryptionContextEquals": {}}),
            (["Encrypt", "RetireGrant"], {"EncryptionContextSubset": {"a": "1"}})):
        with refused("AccessDeniedException"):
            child(operations, **constraints)
    child(["Encrypt"], EncryptionContextSubset={"a": "1", "b": "2"})
    child(["Decrypt"], EncryptionContextEquals={"a": "1"})
    blob = bob.kms.encrypt(KeyId=key, Plaintext=b"p", EncryptionContext={"a": "1", "b": "2"})["CiphertextBlob"]
    with refused("AccessDeniedException"):
        bob.kms.encrypt(KeyId=key, Plaintext=b"p", EncryptionContext={"a": "1"})
    with refused("AccessDeniedException"):
        bob.kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "1", "b": "2"})


# -- what is kept -------------------------------------------------------------------------------------------------------------------


def test_grants_and_tokens_survive_a_kill(own_bridge):
    bridge, iam = own_bridge, Iam(own_bridge)
    arn = iam.make_user("carol")
    credentials = iam.access_key(user="carol")
    key = bridge.new_key()
    kept, gone = (bridge.kms.create_grant(KeyId=key, GranteePrincipal=arn, Operations=["Encrypt"]) for _ in "12")
    bridge.kms.revoke_grant(KeyId=key, GrantId=gone["GrantId"])
    bridge.kill()
    bridge.start()
    assert ids(listed(bridge, key)) == [kept["GrantId"]]
    iam.client(credentials).encrypt(KeyId=key, Plaintext=b"p", GrantTokens=[kept["GrantToken"]])
    bridge.kms.retire_grant(GrantToken=kept["GrantToken"])
    assert listed(bridge, key) == []
    assert "grants" not in bridge.run("key", "show", key).stdout


def test_the_log_tells_of_grants_and_never_of_tokens(bridge, alice):
    key = bridge.new_key()
    asked = {"KeyId": key, "GranteePrincipal": alice.arn, "RetiringPrincipal": root(bridge), "Operations": ["Encrypt"],
             "Constraints": {"EncryptionContextEquals": {"a": "1"}}, "Name": "logged"}
    retired, revoked = bridge.kms.create_grant(**asked), bridge.kms.create_grant(**asked | {"Name": "other"})
    bridge.kms.retire_grant(GrantToken=retired["GrantToken"])
    bridge.kms.revoke_grant(KeyId=key, GrantId=revoked["GrantId"])
    told = [r for r in bridge.journal() if any(x["ARN"] == bridge.key_arn(key) for x in r["resources"])]

    def of(name):
        return [r for r in told if r["eventName"] == name]

    intent, outcome = of("CreateGrant")[:2]
    assert intent["eventType"] == "HsmBridgeIntent" and outcome["eventType"] == "AwsApiCall" and not outcome["readOnly"]
    assert outcome["requestParameters"] == {
        "keyId": key, "granteePrincipal": alice.arn, "retiringPrincipal": root(bridge), "operations": ["Encrypt"],
        "constraints": {"encryptionContextEquals": {"a": "1"}}, "name": "logged"}
    assert outcome["responseElements"] == {"grantId": retired["GrantId"], "keyId": bridge.key_arn(key)}
    outcome = of("RetireGrant")[-1]
    assert outcome["requestParameters"] is None and outcome["responseElements"] is None
    assert outcome["additionalEventData"]["grantId"] == retired["GrantId"]
    outcome = of("RevokeGrant")[-1]
    assert outcome["requestParameters"] == {"keyId": key, "grantId": revoked["GrantId"]}
    text = b"\n".join(bridge.journal_lines()).decode()
    assert retired["GrantToken"] not in text and revoked["GrantToken"] not in text


# -- rotation -----------------------------------------------------------------------------------------------------------------------


def test_a_rotation_carries_or_leaves_grants(bridge, alice):
    for word, carried in (("carry", True), ("leave", False)):
        key = bridge.new_key()
        name = bridge.new_alias(key)
        bridge.kms.create_grant(KeyId=key, GranteePrincipal=alice.arn, Operations=["Encrypt", "Decrypt"], Name="app")
        blob = alice.kms.encrypt(KeyId=key, Plaintext=b"before")["CiphertextBlob"]
        done = bridge.run("rotate", "--alias", name, check=False)
        assert done.returncode != 0 and "1 live grants" in done.stderr, done.stderr
        bridge.run("rotate", "--alias", name, "--grants", word)
        new = bridge.kms.describe_key(KeyId=name)["KeyMetadata"]["KeyId"]
        assert new != key
        of_new = listed(bridge, new)
        assert [grant["Name"] for grant in of_new] == (["app"] if carried else [])
        assert alice.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"before"
        if carried:
            assert of_new[0]["GrantId"] not in ids(listed(bridge, key))
            alice.kms.encrypt(KeyId=name, Plaintext=b"after")
        else:
            with refused("AccessDeniedException"):
                alice.kms.encrypt(KeyId=name, Plaintext=b"after")
