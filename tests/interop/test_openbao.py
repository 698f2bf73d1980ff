"""OpenBao's auto-unseal, `seal "awskms"`: it sends the configured key on DescribeKey and Encrypt, and none on Decrypt."""

import time

import pytest

from bao import Bao
from rotation import key_of, rotate


@pytest.fixture
def make_bao(tmp_path):
    made = []

    def make(bridge, key_id):
        directory = tmp_path / f"bao{len(made)}"
        directory.mkdir()
        made.append(Bao(bridge, key_id, directory))
        return made[-1]

    yield make
    for server in made:
        server.close()


def unseals(bao, bridge):
    """The records of Encrypt and Decrypt of a restart, after which OpenBao is unsealed and knows its secrets."""
    mark = bridge.mark()
    bao.restart().unsealed()
    assert bao.call("GET", "kv/what")["data"] == {"answer": "42"}
    return bridge.records("Encrypt", "Decrypt", since=mark)


@pytest.mark.parametrize("named_by", ["alias", "key"])
def test_unseals_by_itself_before_and_after_a_rotation(either, make_bao, named_by):
    first = either.new_key()
    alias = either.new_alias(first, "alias/openbao")
    named = either.alias_arn(alias) if named_by == "alias" else either.key_arn(first)
    bao = make_bao(either, named).start().ready()
    assert bao.status()["initialized"] is False
    mark = either.mark()
    bao.init()
    bao.call("POST", "kv/what", {"answer": "42"})
    (asked, *_) = either.records("DescribeKey", "Encrypt", since=0 if mark == 0 else mark - 1)
    assert asked["requestParameters"]["keyId"] == named

    records = unseals(bao, either)
    assert {key_of(r) for r in records if r["eventName"] == "Decrypt"} == {first}

    second = rotate(either, alias)
    records = unseals(bao, either)
    decrypts = [r for r in records if r["eventName"] == "Decrypt"]
    # Its root key is still under the first key when it starts.
    assert key_of(decrypts[0]) == first
    assert not any("keyId" in r["requestParameters"] for r in decrypts), "OpenBao names no key on Decrypt"
    encrypts = {key_of(r) for r in records if r["eventName"] == "Encrypt"}
    assert encrypts == ({second} if named_by == "alias" else {first})

    # That start has wrapped everything anew.
    records = unseals(bao, either)
    assert {key_of(r) for r in records} == ({second} if named_by == "alias" else {first})


def test_a_restart_of_the_bridge(make_bridge, make_bao):
    bridge = make_bridge()
    first = bridge.new_key()
    alias = bridge.new_alias(first, "alias/openbao")
    bao = make_bao(bridge, bridge.alias_arn(alias)).start().ready()
    bao.init()
    bao.call("POST", "kv/what", {"answer": "42"})

    # OpenBao goes on without it, and finds it again.
    bridge.restart()
    assert bao.status()["sealed"] is False
    unseals(bao, bridge)

    rotate(bridge, alias)
    bridge.restart()
    unseals(bao, bridge)
    bridge.kill()
    bridge.start()
    unseals(bao, bridge)

    # Without the bridge nothing opens the seal: what is shown above is the bridge's doing.
    bridge.stop()
    bao.program.stop()
    bao.start()
    stays_sealed(bao)
    bao.program.stop()
    bridge.start()
    bao.start().ready()
    bao.unsealed()


def test_the_old_key_is_needed_for_one_more_start(bridge, make_bao):
    first = bridge.new_key()
    alias = bridge.new_alias(first, "alias/openbao")
    bao = make_bao(bridge, bridge.alias_arn(alias)).start().ready()
    bao.init()
    bao.call("POST", "kv/what", {"answer": "42"})
    rotate(bridge, alias)

    bridge.kms.disable_key(KeyId=first)
    mark = bridge.mark()
    bao.program.stop()
    bao.start()
    stays_sealed(bao)
    assert "DisabledException" in {r.get("errorCode") for r in bridge.records("Decrypt", since=mark)}
    bao.program.stop()

    bridge.kms.enable_key(KeyId=first)
    bao.start().ready()
    bao.unsealed()
    bridge.kms.disable_key(KeyId=first)
    unseals(bao, bridge)


def stays_sealed(bao, seconds=4):
    """Either it ends, or it waits for its seal."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and bao.program.alive():
        try:
            status = bao.status()
        except OSError:
            pass
        else:
            assert status["sealed"] is True, status
        time.sleep(0.2)
