"""Keys of other accounts, what strangers learn of them, and organisation policies (authorization.md §1.5, §1.13)."""

import json
import uuid

import pytest
from botocore.exceptions import ClientError

from authz_tool import (
    BY_CIPHERTEXT, IDENTITY_POLICY_DENIES, NO_BOUNDARY, NO_IDENTITY_POLICY, NO_SESSION_POLICY, PROGRAMS, SCP_DENIES, Key, Person, Role,
    allows, denied, denies, hidden, hidden_text, new_account_id, text, unique)
from checks import refused
from iam_tool import Iam, allow, deny, document, statement, trusts
from vocabulary import method


@pytest.fixture(scope="module")
def iam(bridge):
    return Iam(bridge)


@pytest.fixture(scope="module")
def other(iam):
    """Another account of the same bridge."""
    return iam.make_account(new_account_id(), name="other")


@pytest.fixture(scope="module")
def bob(other):
    """May do everything that the other account could let him do."""
    return Person(other, "bob", policies={"all": allow("kms:*")})


def encrypt(who, key_id):
    return who.kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]


# -- both sides ---------------------------------------------------------------------------------------------------------


def test_both_accounts_have_to_allow(bridge, other):
    carol, key = Person(other, "carol"), Key(bridge)
    with hidden(carol, "kms:Encrypt"):
        encrypt(carol, key.arn)
    carol.may(allow("kms:Encrypt", key.arn))
    with hidden(carol, "kms:Encrypt"):
        encrypt(carol, key.arn)
    # One side of the key: the user itself, the account, everybody. None does without the other account.
    for principal in (carol, other.account, f"arn:aws:iam::{other.account}:root", "*"):
        key.put(allows(principal, "kms:Encrypt"))
        carol.may(allow("kms:Encrypt", key.arn))
        assert encrypt(carol, key.arn)
        with hidden(carol, "kms:Decrypt"):
            carol.kms.decrypt(KeyId=key.arn, CiphertextBlob=key.encrypt())
        for nothing in (allow("kms:Decrypt", key.arn), allow("kms:Encrypt", Key(bridge).arn)):
            carol.may(nothing)
            with denied(carol, "kms:Encrypt", key, NO_IDENTITY_POLICY):
                encrypt(carol, key.arn)
        carol.may(document(statement("Allow", "kms:*"), statement("Deny", "kms:Encrypt")))
        with denied(carol, "kms:Encrypt", key, IDENTITY_POLICY_DENIES):
            encrypt(carol, key.arn)
    # Somebody else of that account, or a third account, is not meant.
    key.put(allows(carol, "kms:Encrypt"))
    dave = Person(other, "dave", policies={"all": allow("kms:*")})
    with hidden(dave, "kms:Encrypt"):
        encrypt(dave, key.arn)
    key.put(allows(other.account, "kms:Encrypt"))
    third = Person(Iam(bridge).make_account(new_account_id()), "eve", policies={"all": allow("kms:*")})
    with hidden(third, "kms:Encrypt"):
        encrypt(third, key.arn)
    assert encrypt(dave, key.arn)


def test_boundary_and_session_limit_everybody_abroad(bridge, other):
    """RULE §1.5: for a key of another account also the user, the session or everybody that its policy or a grant names."""
    limit = other.policy(unique("limit"), allow("kms:DescribeKey"))
    carol = Person(other, "carol", policies={"all": allow("kms:*")}, boundary=limit)
    role = Role(other, trust=trusts(carol.arn), policies={"all": allow("kms:*")})
    narrow = role.session(carol, "one", Policy=json.dumps(allow("kms:DescribeKey")))
    key = Key(bridge)
    for principals in ([carol.arn, narrow.arn], [carol.arn, role.arn], "*"):
        key.put(allows(principals, ["kms:Encrypt", "kms:DescribeKey"]))
        assert carol.kms.describe_key(KeyId=key.arn) and narrow.kms.describe_key(KeyId=key.arn)
        with denied(carol, "kms:Encrypt", key, NO_BOUNDARY):
            encrypt(carol, key.arn)
        with denied(narrow, "kms:Encrypt", key, NO_SESSION_POLICY):
            encrypt(narrow, key.arn)
    key.put()
    for grantee in (carol.arn, narrow.arn):
        bridge.kms.create_grant(KeyId=key.id, GranteePrincipal=grantee, Operations=["Encrypt", "DescribeKey"])
    for who, why in ((carol, NO_BOUNDARY), (narrow, NO_SESSION_POLICY)):
        assert who.kms.describe_key(KeyId=key.arn)
        with denied(who, "kms:Encrypt", key, why):
            encrypt(who, key.arn)


def test_a_name_without_account_is_of_the_callers_account(bridge, other, bob):
    key = Key(bridge, allows(bob, "kms:*"))
    alias = bridge.new_alias(key.id)
    assert encrypt(bob, key.arn) and encrypt(bob, bridge.alias_arn(alias))
    with refused("NotFoundException", f"Key 'arn:aws:kms:{bridge.region}:{other.account}:key/{key.id}' does not exist"):
        encrypt(bob, key.id)
    with refused("NotFoundException", f"Alias arn:aws:kms:{bridge.region}:{other.account}:{alias} is not found."):
        encrypt(bob, alias)
    # The same alias name in both accounts: two aliases.
    mine = bob.kms.create_key()["KeyMetadata"]["Arn"]
    bob.kms.create_alias(AliasName=alias, TargetKeyId=mine)
    assert bob.kms.describe_key(KeyId=alias)["KeyMetadata"]["Arn"] == mine
    assert bob.kms.describe_key(KeyId=bridge.alias_arn(alias))["KeyMetadata"]["Arn"] == key.arn
    assert bridge.kms.describe_key(KeyId=alias)["KeyMetadata"]["Arn"] == key.arn
    # Lists are of the caller's account.
    assert [k["KeyArn"] for page in bob.kms.get_paginator("list_keys").paginate() for k in page["Keys"]
            if k["KeyArn"] in (mine, key.arn)] == [mine]
    assert [a["TargetKeyId"] for page in bob.kms.get_paginator("list_aliases").paginate() for a in page["Aliases"]
            if a["AliasName"] == alias] == [mine.rsplit("/", 1)[1]]


def test_root_of_another_account_needs_no_policy_of_its_own(bridge, other):
    key = Key(bridge)
    other.run("root", "enable")
    root, arn = other.client(other.access_key(root=True)), f"arn:aws:iam::{other.account}:root"
    with hidden(arn, "kms:Encrypt"):
        root.encrypt(KeyId=key.arn, Plaintext=b"x")
    key.put(allows(other.account, "kms:Encrypt"))
    assert root.encrypt(KeyId=key.arn, Plaintext=b"x")
    with hidden(arn, "kms:Decrypt"):
        root.decrypt(KeyId=key.arn, CiphertextBlob=key.encrypt())



NOT_CROSS_ACCOUNT = {
    "CancelKeyDeletion": {}, "DisableKey": {}, "EnableKey": {}, "GetKeyPolicy": {}, "ListKeyPolicies": {}, "ListResourceTags": {},
    "ScheduleKeyDeletion": {"PendingWindowInDays": 7}, "TagResource": {"Tags": [{"TagKey": "a", "TagValue": "b"}]},
    "UntagResource": {"TagKeys": ["a"]}, "UpdateKeyDescription": {"Description": "theirs"}, "GetKeyLastUsage": {},
}


def test_which_operations_are_possible_across_accounts(bridge, bob):
    key = Key(bridge, allows(bob, "kms:*"))
    use = {"KeyId": key.arn}
    blob = bob.kms.encrypt(**use, Plaintext=b"x")["CiphertextBlob"]
    assert bob.kms.decrypt(**use, CiphertextBlob=blob)["Plaintext"] == b"x"
    assert bob.kms.decrypt(CiphertextBlob=blob)["KeyId"] == key.arn
    again = bob.kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=key.arn)["CiphertextBlob"]
    assert bob.kms.decrypt(CiphertextBlob=again)["Plaintext"] == b"x"
    bob.kms.generate_data_key(**use, KeySpec="AES_256")
    bob.kms.generate_data_key_without_plaintext(**use, KeySpec="AES_256")
    assert bob.kms.describe_key(**use)["KeyMetadata"]["AWSAccountId"] == bridge.account
    bob.kms.get_key_rotation_status(**use)
    assert bob.kms.list_grants(**use)["Grants"] == []
    signing = Key(bridge, allows(bob, "kms:*"), KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    call = {"KeyId": signing.arn, "Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
    assert bob.kms.verify(**call, Signature=bob.kms.sign(**call)["Signature"])["SignatureValid"]
    assert bob.kms.get_public_key(KeyId=signing.arn)["KeyId"] == signing.arn
    mac = Key(bridge, allows(bob, "kms:*"), KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
    call = {"KeyId": mac.arn, "Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    assert bob.kms.verify_mac(**call, Mac=bob.kms.generate_mac(**call)["Mac"])["MacValid"]

    before = bridge.kms.describe_key(**use)["KeyMetadata"]
    for operation, params in NOT_CROSS_ACCOUNT.items():
        with hidden(bob, f"kms:{operation}"):
            getattr(bob.kms, method(operation))(**use, **params)
    mine = json.dumps(document(allows(bob, "kms:*")))
    with hidden(bob, "kms:PutKeyPolicy"):
        bob.kms.put_key_policy(**use, PolicyName="default", Policy=mine, BypassPolicyLockoutSafetyCheck=True)
    with hidden(bob, "kms:CreateAlias"):
        bob.kms.create_alias(AliasName=f"alias/{unique('theirs')}", TargetKeyId=key.arn)
    own = bob.kms.create_key()["KeyMetadata"]["KeyId"]
    alias = f"alias/{unique('mine')}"
    bob.kms.create_alias(AliasName=alias, TargetKeyId=own)
    with hidden(bob, "kms:UpdateAlias"):
        bob.kms.update_alias(AliasName=alias, TargetKeyId=key.arn)
    assert bob.kms.describe_key(KeyId=alias)["KeyMetadata"]["KeyId"] == own
    assert bridge.kms.describe_key(**use)["KeyMetadata"] == before
    assert bridge.kms.list_aliases(KeyId=key.id)["Aliases"] == [] and bridge.kms.list_resource_tags(KeyId=key.id)["Tags"] == []


# -- what a stranger learns ---------------------------------------------------------------------------------------------


def answer(call, **params):
    """All of a refusal but the request id and the time."""
    with pytest.raises(ClientError) as caught:
        call(**params)
    response = caught.value.response
    headers = {k: v for k, v in response["ResponseMetadata"]["HTTPHeaders"].items() if k not in ("x-amzn-requestid", "date")}
    return {k: v for k, v in response.items() if k != "ResponseMetadata"}, response["ResponseMetadata"]["HTTPStatusCode"], headers


ASKS = {
    "DescribeKey": {}, "Encrypt": {"Plaintext": b"x"}, "GenerateDataKey": {"KeySpec": "AES_256"}, "GetKeyPolicy": {}, "DisableKey": {},
    "Sign": {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}, "GetPublicKey": {}, "ListGrants": {}, "ScheduleKeyDeletion": {},
    "GenerateMac": {"Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}, "ListResourceTags": {},
}


def test_a_stranger_does_not_learn_which_keys_there_are(bridge, bob):
    """To the last byte the same: keys that are there, in any state, and keys, aliases and accounts that are not."""
    enabled, disabled, dying = Key(bridge), Key(bridge), Key(bridge)
    bridge.kms.disable_key(KeyId=disabled.id)
    bridge.kms.schedule_key_deletion(KeyId=dying.id, PendingWindowInDays=7)
    for_somebody = Key(bridge, allows(bridge.account, "kms:*"), denies(bob, "kms:*"))
    signing = Key(bridge, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    there = [enabled, disabled, dying, for_somebody, signing]
    nowhere = [bridge.key_arn(uuid.uuid4()), f"arn:aws:kms:{bridge.region}:{new_account_id()}:key/{uuid.uuid4()}"]
    for operation, params in ASKS.items():
        call = getattr(bob.kms, method(operation))
        expected = answer(call, KeyId=nowhere[0], **params)
        assert expected[0]["Error"] == {"Code": "AccessDeniedException", "Message": hidden_text(bob, f"kms:{operation}")}
        for key in [k.arn for k in there] + nowhere:
            assert answer(call, KeyId=key, **params) == expected, (operation, key)
    aliases = [bridge.alias_arn(bridge.new_alias(enabled.id)), bridge.alias_arn("alias/" + unique("nothing")),
               f"arn:aws:kms:{bridge.region}:{new_account_id()}:alias/x"]
    said = [answer(bob.kms.describe_key, KeyId=alias) for alias in aliases]
    assert said[1:] == said[:-1] and said[0][0]["Error"]["Message"] == hidden_text(bob, "kms:DescribeKey")
    # Nor which grants: of a key that is there, of none.
    root = f"arn:aws:iam::{bridge.account}:root"
    grant = bridge.kms.create_grant(KeyId=enabled.id, GranteePrincipal=root, Operations=["Encrypt"])["GrantId"]
    for operation in ("RetireGrant", "RevokeGrant"):
        said = [answer(getattr(bob.kms, method(operation)), KeyId=k, GrantId=g)
                for k, g in ((enabled.arn, grant), (enabled.arn, "0" * 64), (nowhere[0], grant), (dying.arn, "0" * 64))]
        assert said[1:] == said[:-1], operation
        assert said[0][0]["Error"] == {"Code": "AccessDeniedException", "Message": hidden_text(bob, f"kms:{operation}")}
    # DryRun makes no difference.
    dry = [answer(bob.kms.encrypt, KeyId=k, Plaintext=b"x", DryRun=True) for k in (enabled.arn, disabled.arn, nowhere[0])]
    assert dry[1:] == dry[:-1]


def test_in_the_own_account_what_is_not_there_is_not_found(bridge, iam):
    """Before authorization: also for who may do nothing."""
    nobody = Person(iam, "nobody")
    missing = bridge.key_arn(uuid.uuid4())
    for name in (missing, missing.rsplit("/", 1)[1]):
        with refused("NotFoundException", f"Key '{missing}' does not exist"):
            nobody.kms.describe_key(KeyId=name)
    alias = f"alias/{unique('missing')}"
    for name in (alias, bridge.alias_arn(alias)):
        with refused("NotFoundException", f"Alias {bridge.alias_arn(alias)} is not found."):
            nobody.kms.describe_key(KeyId=name)


def test_a_strangers_ciphertext(bridge, other, bob):
    key = Key(bridge)
    blob = key.encrypt()
    with hidden(bob, "kms:Decrypt", BY_CIPHERTEXT):
        bob.kms.decrypt(CiphertextBlob=blob)
    with hidden(bob, "kms:Decrypt"):
        bob.kms.decrypt(KeyId=key.arn, CiphertextBlob=blob)
    mine = bob.kms.create_key()["KeyMetadata"]["Arn"]
    with hidden(bob, "kms:ReEncryptFrom", BY_CIPHERTEXT):
        bob.kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=mine)
    own = encrypt(bob, mine)
    with hidden(bob, "kms:ReEncryptTo"):
        bob.kms.re_encrypt(CiphertextBlob=own, DestinationKeyId=key.arn)
    # A foreign key beside an own ciphertext: no telling whether it is the wrong one or none.
    said = [answer(bob.kms.decrypt, KeyId=k, CiphertextBlob=own) for k in (key.arn, bridge.key_arn(uuid.uuid4()))]
    assert said[0] == said[1] and said[0][0]["Error"]["Message"] == hidden_text(bob, "kms:Decrypt")
    # With the permission on the one key and on the other it goes across.
    key.put(allows(bob, ["kms:ReEncryptFrom"]))
    moved = bob.kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=mine)
    assert (moved["SourceKeyId"], moved["KeyId"]) == (key.arn, mine)
    assert bob.kms.decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == b"secret"
    key.put(allows(other.account, "kms:Decrypt"))
    assert bob.kms.decrypt(CiphertextBlob=blob)["KeyId"] == key.arn


@pytest.mark.parametrize("program", PROGRAMS)
def test_another_account_with_the_cli(bridge, other, tmp_path, program):
    carol, key = Person(other, "carol"), Key(bridge)
    aws = carol.cli(PROGRAMS[program](), tmp_path)
    missing = hidden_text(carol, "kms:DescribeKey")
    aws.denied(missing, "kms", "describe-key", "--key-id", bridge.key_arn(uuid.uuid4()))
    aws.denied(missing, "kms", "describe-key", "--key-id", key.arn)
    key.put(allows(carol, "kms:DescribeKey"))
    aws.denied(text(carol, "kms:DescribeKey", key, NO_IDENTITY_POLICY), "kms", "describe-key", "--key-id", key.arn)
    carol.may(allow("kms:*", key.arn))
    assert aws.kms("describe-key", "--key-id", key.arn)["KeyMetadata"]["AWSAccountId"] == bridge.account
    alias = bridge.alias_arn(bridge.new_alias(key.id))
    assert aws.kms("describe-key", "--key-id", alias)["KeyMetadata"]["Arn"] == key.arn
    aws.denied(hidden_text(carol, "kms:Decrypt", BY_CIPHERTEXT), "kms", "decrypt", "--ciphertext-blob", aws.file("b", key.encrypt()))


# -- organisation policies ----------------------------------------------------------------------------------------------


class Member:
    """An account two levels down in an organisation of its own, with an administrator and its root user."""

    def __init__(self, iam):
        self.iam = iam
        self.top = iam.unit(unique("root"))
        self.unit = iam.unit(unique("unit"), parent=self.top)
        self.member = iam.make_account(new_account_id(), unit=self.unit)
        self.admin = Person(self.member, "admin", policies={"all": allow("kms:*")})
        self.member.run("root", "enable")
        self.root = Root(self.member)
        self.key = self.admin.kms.create_key()["KeyMetadata"]["Arn"]

    def attach(self, level, policy):
        name = unique("scp")
        self.iam.policy(name, policy, service_control=True)
        self.run(level, "attach-policy", name)
        return name

    def run(self, level, command, policy):
        if level == "account":
            self.iam.run("account", command, self.member.account, policy)
        else:
            self.iam.run("unit", command, {"top": self.top, "unit": self.unit}[level], policy)


class Root:
    def __init__(self, iam):
        self.arn, self.kms = f"arn:aws:iam::{iam.account}:root", iam.client(iam.access_key(root=True))


@pytest.fixture
def member(iam):
    return Member(iam)


LEVELS = ["top", "unit", "account"]


@pytest.mark.parametrize("level", LEVELS)
def test_an_organisation_policy_denies(bridge, member, level):
    call = {"KeyId": member.key, "Plaintext": b"x"}
    people = (member.admin, member.root)
    for who in people:
        who.kms.encrypt(**call)
    name = member.attach(level, deny("kms:Encrypt"))
    for who in people:
        with denied(who, "kms:Encrypt", member.key, SCP_DENIES):
            who.kms.encrypt(**call)
        assert who.kms.describe_key(KeyId=member.key)
    # It limits the members of the organisation, not the keys of its accounts.
    guest = Person(Iam(bridge), "guest", policies={"all": allow("kms:*")})
    policy = json.loads(member.admin.kms.get_key_policy(KeyId=member.key)["Policy"])
    policy["Statement"].append(allows(guest, "kms:Encrypt"))
    member.admin.kms.put_key_policy(KeyId=member.key, PolicyName="default", Policy=json.dumps(policy))
    guest.kms.encrypt(**call)
    member.run(level, "detach-policy", name)
    for who in people:
        who.kms.encrypt(**call)


def test_every_level_of_an_organisation_has_to_allow(member):
    member.attach("top", allow(["kms:Encrypt", "kms:DescribeKey", "kms:ListKeys"]))
    for who in (member.admin, member.root):
        assert who.kms.get_key_policy(KeyId=member.key), "FullAWSAccess still stands there"
    member.run("top", "detach-policy", "FullAWSAccess")
    blob = member.admin.kms.encrypt(KeyId=member.key, Plaintext=b"x")["CiphertextBlob"]
    member.attach("unit", allow(["kms:Decrypt", "kms:DescribeKey"]))
    member.run("unit", "detach-policy", "FullAWSAccess")
    for who in (member.admin, member.root):
        assert who.kms.describe_key(KeyId=member.key), "both levels allow"
        with denied(who, "kms:Encrypt", member.key, SCP_DENIES):
            who.kms.encrypt(KeyId=member.key, Plaintext=b"x")
        with denied(who, "kms:Decrypt", member.key, SCP_DENIES):
            who.kms.decrypt(KeyId=member.key, CiphertextBlob=blob)
        with denied(who, "kms:GetKeyPolicy", member.key, SCP_DENIES):
            who.kms.get_key_policy(KeyId=member.key)
        with denied(who, "kms:ListKeys", "*", SCP_DENIES):
            who.kms.list_keys()
        with denied(who, "kms:GenerateRandom", "*", SCP_DENIES):
            who.kms.generate_random(NumberOfBytes=8)
    # What it allows is no permission.
    nobody = Person(member.member, "nobody")
    with denied(nobody, "kms:DescribeKey", member.key, NO_IDENTITY_POLICY):
        nobody.kms.describe_key(KeyId=member.key)


def test_an_organisation_policy_with_the_cli(member, tmp_path):
    member.attach("unit", deny("kms:GenerateRandom"))
    for program in PROGRAMS.values():
        aws = member.admin.cli(program(), tmp_path)
        aws.denied(text(member.admin, "kms:GenerateRandom", "*", SCP_DENIES), "kms", "generate-random", "--number-of-bytes", 8)
        assert aws.kms("describe-key", "--key-id", member.key)["KeyMetadata"]["Arn"] == member.key
