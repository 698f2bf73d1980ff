"""The rotation of an alias, in one place for all tests."""


def rotate(bridge, alias):
    """Points `alias` to a new key, and gives the new key's id."""
    key = bridge.new_key(Description=f"next key of {alias}")
    bridge.kms.update_alias(AliasName=alias, TargetKeyId=key)
    return key


def key_of(record):
    """The key id that a journal record of a cryptographic operation is about."""
    (resource,) = record["resources"]
    return resource["ARN"].rpartition("/")[2]
