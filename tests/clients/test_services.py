"""Registered services: on behalf of a caller, as themselves, and their AWS managed keys (authorization.md §1.11).

A service signs with its own access key; on whose behalf it calls is one more signed header, added by an event hook of
botocore before it signs.
"""

import json
import secrets
import threading

import pytest
from botocore.exceptions import ClientError

from iam_tool import Iam, allow, document, statement

BEHALF = "X-Amz-Kms-On-Behalf-Of"
S3_ACTIONS = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
OTHER_ACCOUNT = "444455556666"


@pytest.fixture(scope="module")
def iam(bridge):
    return Iam(bridge)


class Service:
    """A registered service with one access key."""

    def __init__(self, iam, word=None, may_act_for=None):
        tag = secrets.token_hex(4)
        self.iam, self.bridge, self.word = iam, iam.bridge, word and f"{word}-{tag}"
        self.name = f"{word or 'svc'}-{tag}.internal.example"
        self.may_act_for = may_act_for if may_act_for is not None else [iam.account_id]
        iam.make_service(self.name, may_act_for=self.may_act_for, managed_key=self.word)
        self.key = iam.access_key(service=self.name)

    @property
    def alias(self):
        return f"alias/aws/{self.word}"

    def client(self, behalf=None, **headers):
        """Signs as the service, on behalf of `behalf`."""
        made = self.iam.client(self.key)
        sent = headers | ({BEHALF: behalf} if behalf else {})

        def add(request, **_):
            for name, value in sent.items():
                request.headers[name.replace("_", "-")] = value

        made.meta.events.register("before-sign.kms", add)
        return made


@pytest.fixture(scope="module")
def s3(iam):
    return Service(iam, "s3")


@pytest.fixture(scope="module")
def alice(iam):
    """A user without any policy: what it may do, a key policy says."""
    return iam.make_user("alice-" + secrets.token_hex(4))


@pytest.fixture(scope="module")
def alice_key(iam, alice):
    return iam.access_key(user=alice.rsplit("/", 1)[1])


def denied(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    error = caught.value.response["Error"]
    assert error["Code"] == "AccessDeniedException", error
    return error["Message"]


def code_of(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"]


def lines_of(bridge, request_id):
    return [line for line in bridge.journal() if line.get("requestID") == request_id]


def key_for(bridge, *statements):
    """A key that its account's root user manages, and what `statements` say."""
    root = {"AWS": f"arn:aws:iam::{bridge.account}:root"}
    policy = document(statement("Allow", "kms:*", Principal=root), *statements)
    return bridge.new_key(Policy=json.dumps(policy))


def by_alice_through(alice, service, actions=("kms:Encrypt", "kms:Decrypt")):
    return statement("Allow", list(actions), Principal={"AWS": alice},
                     condition={"StringEquals": {"kms:ViaService": service.name}})


# -- on behalf of a caller ----------------------------------------------------------------------------------------------


def test_a_service_uses_a_key_on_behalf_of_a_user(bridge, iam, s3, alice, alice_key):
    key = key_for(bridge, by_alice_through(alice, s3))
    blob = s3.client(alice).encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    answer = s3.client(alice).decrypt(CiphertextBlob=blob)
    assert answer["Plaintext"] == b"x"
    # Neither the user alone, nor the service alone, nor the user through another service.
    user = iam.client(alice_key)
    assert "no identity-based policy allows" in denied(user.encrypt, KeyId=key, Plaintext=b"x")
    assert s3.name in denied(s3.client().encrypt, KeyId=key, Plaintext=b"x")
    assert alice in denied(Service(iam).client(alice).encrypt, KeyId=key, Plaintext=b"x")


def test_the_record_names_the_caller_and_the_service(bridge, s3, alice):
    key = key_for(bridge, by_alice_through(alice, s3))
    request_id = s3.client(alice).encrypt(KeyId=key, Plaintext=b"x")["ResponseMetadata"]["RequestId"]
    (line,) = lines_of(bridge, request_id)
    identity = line["userIdentity"]
    assert (identity["type"], identity["arn"], identity["invokedBy"]) == ("IAMUser", alice, s3.name)
    assert "accessKeyId" not in identity
    assert line["sourceIPAddress"] == s3.name
    assert line["additionalEventData"]["onBehalfOf"] == {
        "service": s3.name, "accessKeyId": s3.key[0], "sourceIpAddress": "127.0.0.1"}


def test_the_header_must_be_signed(bridge, s3, alice):
    raw = bridge.raw(access_key=s3.key[0], secret_key=s3.key[1])
    signed = raw.sign("GenerateRandom", {"NumberOfBytes": 8})
    reply = raw.send(signed.with_header(BEHALF, alice))
    assert reply.type == "InvalidSignatureException", reply
    assert BEHALF.lower() in reply.body.decode()


def test_nobody_else_may_send_it(bridge, iam, alice, alice_key):
    for arn in (alice, f"arn:aws:iam::{bridge.account}:root"):
        user = Service.__new__(Service)
        user.iam, user.key = iam, alice_key
        text = denied(user.client(arn).generate_random, NumberOfBytes=8)
        assert text == f"User: {alice} is not authorized to send {BEHALF.lower()} because it is not a registered service"
    # Not even what a service says of its own resource is believed of others.
    root = Service.__new__(Service)
    root.iam, root.key = iam, (bridge.access_key, bridge.secret_key)
    for header in ({"X_Amz_Source_Account": OTHER_ACCOUNT}, {"X_Amz_Source_Arn": "arn:aws:s3:::my-bucket"}):
        assert "is not a registered service" in denied(root.client(**header).generate_random, NumberOfBytes=8)


def test_a_service_acts_only_for_whom_its_registration_names(bridge, iam, alice):
    mallory = iam.make_user(f"mallory-{secrets.token_hex(4)}")
    narrow = Service(iam, may_act_for=[alice])
    refused = "is not authorized to act on behalf of"
    assert narrow.client(alice).list_keys and "kms:ListKeys" in denied(narrow.client(alice).list_keys)
    for arn, why in [
        (mallory, "because its registration does not name that principal"),
        (f"arn:aws:iam::{bridge.account}:root", "because its registration does not name that principal"),
        (f"arn:aws:sts::{bridge.account}:assumed-role/app/s1", "because a session is named by its session token, not by its ARN"),
    ]:
        assert denied(narrow.client(arn).list_keys) == f"Service: {narrow.name} {refused} {arn} {why}"
    # What it may do follows the registration at once, and the principal's life too.
    iam.make_service(narrow.name, may_act_for=[f"arn:aws:iam::{bridge.account}:user/mall*"])
    assert refused in denied(narrow.client(alice).list_keys)
    assert "kms:ListKeys" in denied(narrow.client(mallory).list_keys)
    iam.run("user", "delete", mallory.rsplit("/", 1)[1])
    assert denied(narrow.client(mallory).list_keys).endswith("because there is no such principal, or it may not sign in")
    iam.run("service", "deregister", narrow.name)
    assert code_of(narrow.client().list_keys) == "UnrecognizedClientException"


def test_a_session_is_named_by_its_token(bridge, iam):
    user = iam.make_user(f"carol-{secrets.token_hex(4)}", policies={"assume": allow("sts:AssumeRole")})
    role = iam.role(policies={"use": allow(["kms:Encrypt", "kms:Decrypt"])})
    key = bridge.new_key()
    sts = iam.client(iam.access_key(user=user.rsplit("/", 1)[1]), "sts")
    narrowed = json.dumps(allow("kms:Encrypt", bridge.key_arn(key)))
    got = sts.assume_role(RoleArn=role, RoleSessionName="s1", Policy=narrowed)
    token, session_arn = got["Credentials"]["SessionToken"], got["AssumedRoleUser"]["Arn"]
    service = Service(iam, may_act_for=[role])
    through = service.client(token)
    answer = through.encrypt(KeyId=key, Plaintext=b"x")
    (line,) = lines_of(bridge, answer["ResponseMetadata"]["RequestId"])
    assert (line["userIdentity"]["arn"], line["userIdentity"]["invokedBy"]) == (session_arn, service.name)
    # The session policy counts, and the registration.
    assert "no session policy allows" in denied(through.decrypt, CiphertextBlob=answer["CiphertextBlob"])
    text = denied(Service(iam, may_act_for=[user]).client(token).encrypt, KeyId=key, Plaintext=b"x")
    assert "act on behalf of a session because its registration does not name" in text and token not in text
    broken = token[:-8] + ("AAAAAAA=" if not token.endswith("AAAAAAA=") else "BBBBBBA=")
    assert "does not open or has expired" in denied(service.client(broken).encrypt, KeyId=key, Plaintext=b"x")
    iam.run("session", "revoke", got["Credentials"]["AccessKeyId"])
    assert "does not open or has expired" in denied(through.encrypt, KeyId=key, Plaintext=b"x")


def test_a_refusal_is_on_record_as_the_services(bridge, iam, alice):
    narrow = Service(iam, may_act_for=[])
    with pytest.raises(ClientError) as caught:
        narrow.client(alice).list_keys()
    (line,) = lines_of(bridge, caught.value.response["ResponseMetadata"]["RequestId"])
    assert (line["errorCode"], line["eventName"]) == ("AccessDenied", "ListKeys")
    assert (line["userIdentity"]["type"], line["userIdentity"]["invokedBy"]) == ("AWSService", narrow.name)


def test_sts_serves_whoever_signs(bridge, s3, alice):
    sts = s3.iam.client(s3.key, "sts")
    sts.meta.events.register("before-sign.sts", lambda request, **_: request.headers.add_header(BEHALF, alice))
    with pytest.raises(ClientError) as caught:
        sts.get_caller_identity()
    assert caught.value.response["Error"]["Code"] == "AccessDenied"


# -- grants for a service's resources -----------------------------------------------------------------------------------


def test_the_consoles_third_statement_lets_grants_be_made_through_services_only(bridge, iam, s3, alice, alice_key):
    attach = statement("Allow", ["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"], Principal={"AWS": alice},
                       condition={"Bool": {"kms:GrantIsForAWSResource": True}})
    key = key_for(bridge, attach)
    user = iam.client(alice_key)
    grant = {"KeyId": key, "GranteePrincipal": alice, "Operations": ["Decrypt"]}
    denied(user.create_grant, **grant)
    denied(user.list_grants, KeyId=key)
    through = s3.client(alice)
    made = through.create_grant(**grant)["GrantId"]
    assert [g["GrantId"] for g in through.list_grants(KeyId=key)["Grants"]] == [made]
    denied(user.revoke_grant, KeyId=key, GrantId=made)
    through.revoke_grant(KeyId=key, GrantId=made)
    assert through.list_grants(KeyId=key)["Grants"] == []


# -- as itself ----------------------------------------------------------------------------------------------------------


def test_a_service_as_itself_is_a_service_principal(bridge, iam):
    backup = Service(iam)
    key = key_for(bridge, statement("Allow", "kms:Encrypt", Principal={"Service": backup.name},
                                    condition={"StringEquals": {"aws:SourceAccount": OTHER_ACCOUNT},
                                               "ArnLike": {"aws:SourceArn": "arn:aws:s3:::bucket-*"}}))
    for headers, allowed in [
        ({}, False),
        ({"X_Amz_Source_Account": OTHER_ACCOUNT}, False),
        ({"X_Amz_Source_Account": bridge.account, "X_Amz_Source_Arn": "arn:aws:s3:::bucket-1"}, False),
        ({"X_Amz_Source_Account": OTHER_ACCOUNT, "X_Amz_Source_Arn": "arn:aws:s3:::other"}, False),
        ({"X_Amz_Source_Account": OTHER_ACCOUNT, "X_Amz_Source_Arn": "arn:aws:s3:::bucket-1"}, True),
    ]:
        call = backup.client(**headers).encrypt
        if allowed:
            assert call(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
        else:
            assert f"User: {backup.name} is not authorized" in denied(call, KeyId=key, Plaintext=b"x")


def test_a_grant_to_a_service_principal(bridge, iam):
    backup, other = Service(iam), Service(iam)
    key = key_for(bridge)
    resource = f"arn:aws:backup:{bridge.region}:{bridge.account}:vault/v1"
    bridge.kms.create_grant(KeyId=key, GranteeServicePrincipal=backup.name, RetiringServicePrincipal=backup.name,
                            Operations=["Encrypt"], Constraints={"SourceArn": resource})
    source = {"X_Amz_Source_Arn": resource}
    assert backup.client(**source).encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    denied(backup.client().encrypt, KeyId=key, Plaintext=b"x")
    denied(other.client(**source).encrypt, KeyId=key, Plaintext=b"x")


# -- AWS managed keys ---------------------------------------------------------------------------------------------------


def test_the_first_use_makes_the_key(bridge, iam, alice):
    s3 = Service(iam, "s3")
    root = bridge.kms
    assert code_of(root.describe_key, KeyId=s3.alias) == "NotFoundException"
    assert code_of(s3.client().describe_key, KeyId=s3.alias) == "NotFoundException"
    assert code_of(Service(iam).client(alice).describe_key, KeyId=s3.alias) == "NotFoundException"
    assert not any(a["AliasName"] == s3.alias for a in root.list_aliases()["Aliases"])

    through = s3.client(alice)
    answer = through.generate_data_key(KeyId=s3.alias, KeySpec="AES_256", EncryptionContext={"bucket": "b"})
    assert through.decrypt(CiphertextBlob=answer["CiphertextBlob"], EncryptionContext={"bucket": "b"})["Plaintext"] == \
        answer["Plaintext"]
    key = root.describe_key(KeyId=s3.alias)["KeyMetadata"]
    assert key["Arn"] == answer["KeyId"]
    assert (key["KeyManager"], key["Origin"], key["KeyState"], key["KeySpec"], key["AWSAccountId"]) == (
        "AWS", "AWS_KMS", "Enabled", "SYMMETRIC_DEFAULT", bridge.account)
    assert key["Description"] == f"Default key that protects my {s3.word} data when no other key is defined"
    (listed,) = [a for a in root.list_aliases()["Aliases"] if a["AliasName"] == s3.alias]
    assert listed["TargetKeyId"] == key["KeyId"]
    # By the alias's ARN as well; the key is the same.
    again = through.encrypt(KeyId=bridge.alias_arn(s3.alias), Plaintext=b"x")
    assert again["KeyId"] == key["Arn"]
    made = [line for line in bridge.journal() if line["eventName"] == "CreateKey" and
            line["additionalEventData"].get("details", {}).get("managedBy") == s3.name]
    assert [line["eventType"] for line in made] == ["AwsServiceEvent"], made
    assert made[0]["userIdentity"] == {"accountId": bridge.account, "invokedBy": "AWS Internal"}
    assert made[0]["resources"][0]["ARN"] == key["Arn"]
    intents = [line for line in lines_of(bridge, made[0]["requestID"]) if line["eventType"] == "HsmBridgeIntent"]
    assert len(intents) == 1


@pytest.fixture(scope="module")
def managed(bridge, s3, alice):
    """The AWS managed key of `s3` in the bridge's own account."""
    return s3.client(alice).encrypt(KeyId=s3.alias, Plaintext=b"x")["KeyId"].rsplit("/", 1)[1]


def test_only_its_service_uses_it(bridge, iam, s3, alice, managed):
    arn = bridge.key_arn(managed)
    user = iam.user(policies={"all": allow("kms:*")})
    for caller in (bridge.kms, user, s3.client(), Service(iam).client(alice)):
        text = denied(caller.encrypt, KeyId=managed, Plaintext=b"x")
        assert text.endswith(f"is not authorized to perform: kms:Encrypt on resource: {arn} because no resource-based "
                             "policy allows the kms:Encrypt action"), text
    blob = s3.client(alice).encrypt(KeyId=managed, Plaintext=b"x")["CiphertextBlob"]
    denied(bridge.kms.decrypt, CiphertextBlob=blob)
    denied(bridge.kms.re_encrypt, CiphertextBlob=blob, DestinationKeyId=bridge.key())
    denied(bridge.kms.create_grant, KeyId=managed, GranteePrincipal=alice, Operations=["Decrypt"])


def test_nobody_manages_it(bridge, s3, alice, managed):
    arn, own = bridge.key_arn(managed), bridge.new_key()
    policy = bridge.kms.get_key_policy(KeyId=managed)["Policy"]
    root_arn = f"arn:aws:iam::{bridge.account}:root"
    for who, caller in [(root_arn, bridge.kms), (root_arn, s3.client(root_arn)), (s3.name, s3.client())]:
        for operation, action, params in [
            ("put_key_policy", "PutKeyPolicy", {"KeyId": managed, "Policy": policy}),
            ("disable_key", "DisableKey", {"KeyId": managed}),
            ("enable_key", "EnableKey", {"KeyId": managed}),
            ("schedule_key_deletion", "ScheduleKeyDeletion", {"KeyId": managed}),
            ("cancel_key_deletion", "CancelKeyDeletion", {"KeyId": managed}),
            ("tag_resource", "TagResource", {"KeyId": managed, "Tags": [{"TagKey": "a", "TagValue": "b"}]}),
            ("untag_resource", "UntagResource", {"KeyId": managed, "TagKeys": ["a"]}),
            ("update_key_description", "UpdateKeyDescription", {"KeyId": managed, "Description": "mine"}),
            ("enable_key_rotation", "EnableKeyRotation", {"KeyId": managed}),
            ("disable_key_rotation", "DisableKeyRotation", {"KeyId": managed}),
            ("rotate_key_on_demand", "RotateKeyOnDemand", {"KeyId": managed}),
            ("replicate_key", "ReplicateKey", {"KeyId": managed, "ReplicaRegion": "us-west-2"}),
        ]:
            assert denied(getattr(caller, operation), **params) == (
                f"User: {who} is not authorized to perform: kms:{action} on resource: {arn} because no resource-based "
                f"policy allows the kms:{action} action")
    root = bridge.kms
    # Its alias is reserved, and no alias leads to it.
    assert f"kms:CreateAlias on resource: {arn}" in denied(root.create_alias, AliasName="alias/mine", TargetKeyId=managed)
    assert f"kms:DeleteAlias on resource: {arn}" in denied(root.delete_alias, AliasName=s3.alias)
    assert f"kms:UpdateAlias on resource: {arn}" in denied(root.update_alias, AliasName=s3.alias, TargetKeyId=own)
    alias = bridge.new_alias(own)
    assert f"kms:UpdateAlias on resource: {arn}" in denied(root.update_alias, AliasName=alias, TargetKeyId=managed)
    assert code_of(root.create_alias, AliasName="alias/aws/unheard", TargetKeyId=own) == "ValidationException"
    # The operator does not either.
    for command in (["rotate", "--alias", s3.alias, "--reason", "x"], ["alias", "history", "drop", "--alias", s3.alias, "--key", own],
                    ["rotate", "retire", "--alias", s3.alias]):
        done = bridge.run(*command, check=False)
        assert done.returncode != 0 and "reserved" in done.stderr, (command, done.stderr)
    assert root.describe_key(KeyId=managed)["KeyMetadata"]["Enabled"] is True


def test_it_can_be_read(bridge, s3, managed):
    root, arn = bridge.kms, bridge.key_arn(managed)
    policy = json.loads(root.get_key_policy(KeyId=managed)["Policy"])
    word = s3.word
    assert policy == {
        "Version": "2012-10-17",
        "Id": f"auto-{word}-2",
        "Statement": [
            {"Sid": f"Allow access through {word} for all principals in the account that are authorized to use {word}",
             "Effect": "Allow", "Principal": {"AWS": "*"},
             "Action": [*S3_ACTIONS[:4], "kms:CreateGrant", "kms:ListGrants", "kms:DescribeKey"], "Resource": "*",
             "Condition": {"StringEquals": {"kms:CallerAccount": bridge.account, "kms:ViaService": s3.name}}},
            {"Sid": "Allow direct access to key metadata to the account", "Effect": "Allow",
             "Principal": {"AWS": f"arn:aws:iam::{bridge.account}:root"},
             "Action": ["kms:Describe*", "kms:Get*", "kms:List*"], "Resource": "*"},
        ],
    }
    assert root.list_key_policies(KeyId=managed)["PolicyNames"] == ["default"]
    assert root.list_resource_tags(KeyId=managed)["Tags"] == []
    assert root.get_key_rotation_status(KeyId=managed)["KeyRotationEnabled"] is False
    assert root.list_aliases(KeyId=managed)["Aliases"][0]["AliasName"] == s3.alias
    assert managed in [key["KeyId"] for page in root.get_paginator("list_keys").paginate() for key in page["Keys"]]
    assert root.describe_key(KeyId=arn)["KeyMetadata"]["KeyManager"] == "AWS"


def test_grants_on_it_are_made_through_its_service(bridge, s3, alice, managed):
    through = s3.client(alice)
    bucket = f"arn:aws:s3:{bridge.region}:{bridge.account}:bucket/b1"
    grant = through.create_grant(KeyId=managed, GranteeServicePrincipal=s3.name, RetiringServicePrincipal=s3.name,
                                 Operations=["Decrypt"], Constraints={"SourceArn": bucket})
    blob = through.encrypt(KeyId=s3.alias, Plaintext=b"x")["CiphertextBlob"]
    assert s3.client(X_Amz_Source_Arn=bucket).decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    denied(s3.client().decrypt, CiphertextBlob=blob)
    assert [g["GrantId"] for g in bridge.kms.list_grants(KeyId=managed)["Grants"]] == [grant["GrantId"]]
    denied(bridge.kms.revoke_grant, KeyId=managed, GrantId=grant["GrantId"])
    s3.client().retire_grant(KeyId=bridge.key_arn(managed), GrantId=grant["GrantId"])


def test_each_account_has_its_own(bridge, iam, s3, alice, managed):
    try:
        other = iam.make_account(OTHER_ACCOUNT)
    except Exception:
        other = iam.of(OTHER_ACCOUNT)
    bob = other.make_user(f"bob-{secrets.token_hex(4)}")
    iam.make_service(s3.name, may_act_for=[bridge.account, OTHER_ACCOUNT], managed_key=s3.word)
    theirs = s3.client(bob).encrypt(KeyId=s3.alias, Plaintext=b"x")
    assert theirs["KeyId"].split(":")[4] == OTHER_ACCOUNT and managed not in theirs["KeyId"]
    # Through the service too, nobody reaches another account's.
    denied(s3.client(alice).decrypt, CiphertextBlob=theirs["CiphertextBlob"])
    denied(s3.client(bob).encrypt, KeyId=bridge.alias_arn(s3.alias), Plaintext=b"x")
    assert s3.alias not in [a["AliasName"] for a in bridge.kms.list_aliases()["Aliases"] if a.get("TargetKeyId") != managed]


def test_a_dry_run_makes_none(bridge, iam, alice):
    service = Service(iam, "dry")
    assert code_of(service.client(alice).encrypt, KeyId=service.alias, Plaintext=b"x", DryRun=True) == "NotFoundException"
    assert code_of(bridge.kms.describe_key, KeyId=service.alias) == "NotFoundException"


def test_first_uses_at_once_make_one_key(bridge, iam, alice):
    service = Service(iam, "race")
    clients = [service.client(alice) for _ in range(8)]
    found, start = [], threading.Barrier(len(clients))

    def use(client):
        start.wait()
        found.append(client.encrypt(KeyId=service.alias, Plaintext=b"x")["KeyId"])

    threads = [threading.Thread(target=use, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(clients) and len(set(found)) == 1
    made = [line for line in bridge.journal() if line["eventName"] == "CreateKey" and
            line["additionalEventData"].get("details", {}).get("managedBy") == service.name]
    assert len(made) == 1
