"""The rotation of an alias, in one place for all tests."""


def by_update_alias(bridge, alias):
    """What AWS's users do by hand: a new key, and the alias pointed to it."""
    key = bridge.new_key(Description=f"next key of {alias}")
    bridge.kms.update_alias(AliasName=alias, TargetKeyId=key)


def by_api(bridge, alias):
    """The one call for automation."""
    reply = bridge.raw().call("HsmBridge.RotateAlias", {"AliasName": alias, "Reason": "interop"})
    assert reply.status == 200, reply.body


def by_command(bridge, alias):
    bridge.run("rotate", "--alias", alias, "--reason", "interop")


WAYS = [by_update_alias, by_api, by_command]


def rotate(bridge, alias, way=by_command):
    """Gives `alias` a new key by one of the ways above, and returns that key's id."""
    before = points_to(bridge, alias)
    way(bridge, alias)
    after = points_to(bridge, alias)
    assert after != before
    return after


def points_to(bridge, alias):
    return bridge.kms.describe_key(KeyId=alias)["KeyMetadata"]["KeyId"]


def key_of(record):
    """The key id that a journal record of a cryptographic operation is about."""
    (resource,) = record["resources"]
    return resource["ARN"].rpartition("/")[2]
