"""Limit, Marker, NextMarker, Truncated."""

import pytest

from checks import members, one_validation_error, refused


@pytest.fixture(scope="module")
def many(bridge):
    """A key with seven aliases and seven tags, in an account with more than seven keys."""
    for _ in range(7):
        bridge.new_key(Description="one of many")
    key = bridge.new_key(Tags=[{"TagKey": f"t{n}", "TagValue": str(n)} for n in range(7)])
    names = [bridge.new_alias(key, "alias/many") for _ in range(7)]
    return key, sorted(names)


def walk(call, result, **params):
    """All pages by hand, each looked at."""
    pages, marker = [], {}
    while True:
        page = members(call(**params, **marker))
        pages.append(page[result])
        assert set(page) - {result} == ({"Truncated", "NextMarker"} if page["Truncated"] else {"Truncated"})
        if not page["Truncated"]:
            return pages
        assert 1 <= len(page["NextMarker"]) <= 1024 and page["NextMarker"] != marker.get("Marker")
        marker = {"Marker": page["NextMarker"]}


@pytest.mark.parametrize("limit, sizes", [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (50, [7])])
def test_pages_of_aliases_and_tags(bridge, many, limit, sizes):
    key, names = many
    pages = walk(bridge.kms.list_aliases, "Aliases", KeyId=key, Limit=limit)
    assert [len(p) for p in pages] == sizes
    assert sorted(a["AliasName"] for p in pages for a in p) == names
    pages = walk(bridge.kms.list_resource_tags, "Tags", KeyId=key, Limit=limit)
    assert [len(p) for p in pages] == sizes
    assert [t["TagKey"] for p in pages for t in p] == [f"t{n}" for n in range(7)]


def test_pages_of_keys(either):
    mine = {either.new_key() for _ in range(5)}
    pages = walk(either.kms.list_keys, "Keys", Limit=2)
    assert all(len(p) == 2 for p in pages[:-1]) and 1 <= len(pages[-1]) <= 2
    listed = [k for p in pages for k in p]
    assert all(set(k) == {"KeyId", "KeyArn"} and k["KeyArn"] == either.key_arn(k["KeyId"]) for k in listed)
    ids = [k["KeyId"] for k in listed]
    assert len(ids) == len(set(ids)) and mine <= set(ids)


def test_paginators(either):
    mine = {either.new_key() for _ in range(3)}
    name = either.new_alias(min(mine))
    paged = either.kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 1})
    assert mine <= {k["KeyId"] for page in paged for k in page["Keys"]}
    paged = either.kms.get_paginator("list_aliases").paginate(PaginationConfig={"PageSize": 2})
    assert name in {a["AliasName"] for page in paged for a in page["Aliases"]}
    for operation, result in (("list_key_policies", "PolicyNames"), ("list_grants", "Grants"), ("list_resource_tags", "Tags")):
        pages = list(either.kms.get_paginator(operation).paginate(KeyId=min(mine)))
        assert len(pages) == 1 and result in pages[0]


def test_a_list_that_changes_between_pages_loses_nobody(bridge):
    stay = {bridge.new_key() for _ in range(4)}
    seen, marker = set(), {}
    while True:
        page = bridge.kms.list_keys(Limit=3, **marker)
        seen |= {k["KeyId"] for k in page["Keys"]}
        if not page["Truncated"]:
            break
        marker = {"Marker": page["NextMarker"]}
        bridge.new_key()
        if len(seen) > 2000:
            pytest.fail("the list does not end")
        if stay <= seen:
            break
    assert stay <= seen


def test_default_sizes(bridge):
    # Defaults of the model: ListKeys 100, ListAliases and ListResourceTags 50.
    key = bridge.new_key()
    for _ in range(52):
        bridge.new_alias(key, "alias/default-size")
    first = bridge.kms.list_aliases(KeyId=key)
    assert len(first["Aliases"]) == 50 and first["Truncated"] is True
    assert len(bridge.kms.list_aliases(KeyId=key, Limit=100)["Aliases"]) == 52


def tampered(marker):
    """The marker with each of a few characters changed, cut, lengthened."""
    for at in sorted({0, len(marker) // 2, len(marker) - 1}):
        yield marker[:at] + ("A" if marker[at] != "A" else "B") + marker[at + 1:]
    yield marker[:-1]
    yield marker + "A"
    yield marker[::-1]
    yield "A"
    yield "no marker at all"


@pytest.mark.parametrize("operation", ["list_keys", "list_aliases", "list_resource_tags"])
def test_markers_are_sealed(bridge, many, operation):
    key, _ = many
    call, params = getattr(bridge.kms, operation), {} if operation == "list_keys" else {"KeyId": key}
    marker = call(Limit=1, **params)["NextMarker"]
    assert key not in marker
    for wrong in tampered(marker):
        with refused("InvalidMarkerException"):
            call(Limit=1, Marker=wrong, **params)
    assert call(Limit=1, Marker=marker, **params), "the marker itself still opens"


def test_markers_belong_to_one_operation(bridge, many):
    key, _ = many
    markers = {
        "list_keys": bridge.kms.list_keys(Limit=1)["NextMarker"],
        "list_aliases": bridge.kms.list_aliases(KeyId=key, Limit=1)["NextMarker"],
        "list_resource_tags": bridge.kms.list_resource_tags(KeyId=key, Limit=1)["NextMarker"],
    }
    for giver, marker in markers.items():
        for taker in markers:
            if taker != giver:
                params = {} if taker == "list_keys" else {"KeyId": key}
                with refused("InvalidMarkerException"):
                    getattr(bridge.kms, taker)(Marker=marker, **params)


@pytest.mark.parametrize("operation, limit, text", [
    ("list_keys", 0, "Value '0' at 'limit' failed to satisfy constraint: Member must have value greater than or equal to 1"),
    ("list_keys", 1001, "Value '1001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 1000"),
    # These bounds stand in the prose of the model only.
    ("list_aliases", 101, "Value '101' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 100"),
    ("list_aliases", 1001, "Value '1001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 100"),
    ("list_resource_tags", 51,
     "Value '51' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 50"),
    ("list_grants", 101, "Value '101' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 100"),
])
def test_limits(bridge, operation, limit, text):
    params = {} if operation in ("list_keys", "list_aliases") else {"KeyId": bridge.key()}
    with refused("ValidationException", text and one_validation_error(text)):
        getattr(bridge.client(validate=False), operation)(Limit=limit, **params)
