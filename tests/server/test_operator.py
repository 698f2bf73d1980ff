"""The operator's commands: the same while the server runs and while it does not, on record, and in force with the next request."""

import json
import os
import socket

import pytest

from instance import COMMAND, is_intent, until

NOBODY = 65534


@pytest.fixture(params=["serving", "stopped"])
def state(request):
    return request.param


@pytest.fixture
def either(state, serving):
    """A server with a key; stopped again in one of the two runs."""
    serving.key = serving.new_key()
    serving.call("CreateAlias", {"AliasName": "alias/shown", "TargetKeyId": serving.key})
    if state == "stopped":
        serving.stop()
    return serving


def answer(instance, *args):
    return json.loads(instance.run(*args, "--json").stdout)


def test_reading_commands(either):
    assert [row["key_id"] for row in answer(either, "key", "list")["keys"]] == [either.key]
    for form in (either.key, "alias/shown", either.key_arn(either.key)):
        shown = answer(either, "key", "show", form)
        assert shown["line"]["key_id"] == either.key and shown["line"]["aliases"] == ["alias/shown"]
    assert [row["id"] for row in answer(either, "access-key", "list")["accessKeys"]] == [either.access_key]
    assert answer(either, "doctor")["status"] == "ready"
    assert answer(either, "sweeper")["running"] is True
    for name in ("KeyList", "KeyShow", "AccessKeyList", "Doctor", "SweeperShow"):
        records = either.records(name)
        assert records and not any(is_intent(record) for record in records), f"{name}: one record, no intent"
        assert records[-1]["userIdentity"]["type"] == "HsmBridgeOperator"
        assert str(os.geteuid()) in json.dumps(records[-1]["userIdentity"]), records[-1]["userIdentity"]
    assert either.verify()["verdict"] == "OK"


def test_changing_commands_have_intent_and_outcome_and_take_effect(either, state):
    made = answer(either, "access-key", "create")
    user = answer(either, "access-key", "create", "--user", "someone")
    if state == "stopped":
        either.start()
    credentials = {"access_key": made["accessKeyId"], "secret_key": made["secretAccessKey"]}
    assert either.raw(**credentials).call("ListKeys").status == 200
    denied = either.raw(access_key=user["accessKeyId"], secret_key=user["secretAccessKey"]).call("ListKeys")
    assert denied.type == "AccessDeniedException"
    if state == "stopped":
        either.stop()
    answer(either, "access-key", "disable", made["accessKeyId"])
    if state == "stopped":
        either.start()
    # The very next request: the signing key that the server has cached does not matter.
    assert either.raw(**credentials).call("ListKeys").type == "UnrecognizedClientException"
    answer(either, "sweeper", "--confirm", "TICKET-1")

    for name, times in (("AccessKeyCreate", 2), ("AccessKeyDisable", 1), ("SweeperConfirm", 1)):
        records = either.records(name)
        assert [is_intent(record) for record in records] == [True, False] * times, name
        for intent, outcome in zip(records[::2], records[1::2]):
            assert intent["requestID"] == outcome["requestID"]
            assert "errorCode" not in outcome
    text = b"".join(path.read_bytes() for path in either.segments())
    for secret in (made["secretAccessKey"], user["secretAccessKey"]):
        assert secret.encode() not in text
    assert b"TICKET-1" in text


def test_a_command_that_fails_is_on_record_too(either):
    done = either.run("key", "show", "alias/absent", expect=1)
    assert "NotFoundException" in done.stderr
    assert either.records("KeyShow")[-1]["errorCode"] == "NotFoundException"


def test_what_the_configuration_does_not_allow(ready):
    ready.write_config(operator={"allow": ["key:list"]})
    for running in (False, True):
        if running:
            ready.start()
        answer(ready, "key", "list")
        done = ready.run("access-key", "create", expect=1)
        assert "access-key:create" in done.stderr
    records = ready.records("AccessKeyCreate")
    assert len(records) == 2 and not any(is_intent(record) for record in records)


def test_no_cryptography_for_the_operator(serving):
    """The socket knows no such command; a line that is none is answered and harms nobody."""
    for line in (b'{"command":"encrypt"}\n', b"{\n", b"\xff\n", b"\n", b"x" * 200_000 + b"\n"):
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(COMMAND)
        link.connect(str(serving.state / "operator.sock"))
        try:
            link.sendall(line)
            said = link.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            said = b""
        assert b"error" in said or said == b"", said
        link.close()
    assert answer(serving, "key", "list")["keys"] == []


def test_the_socket_belongs_to_one_user(serving):
    path = serving.state / "operator.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert serving.state.stat().st_mode & 0o777 == 0o700


def ask_as(user, path):
    """What another user is told, from a child that has given up its own: he may not even be able to run our Python."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            link = socket.socket(socket.AF_UNIX)
            link.settimeout(COMMAND)
            link.connect(str(path))
            link.sendall(b'{"command":"key-list"}\n')
            os.write(write, link.recv(65536))
        except OSError as error:
            os.write(write, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as end:
        return end.read().decode()


def test_another_user_gets_no_answer_even_where_the_modes_let_him_in(make, root):
    serving = make(reachable=True).init().start()
    path = serving.state / "operator.sock"

    assert ask_as(NOBODY, path) == "PermissionError"
    for place in (serving.root, serving.state):
        place.chmod(0o755)
    path.chmod(0o666)
    records = len(serving.journal())
    assert "keys" not in ask_as(NOBODY, path)
    until("it is in the server's log", lambda: "refused on the operator socket" in serving.said())
    assert len(serving.journal()) == records
    assert '"keys"' in ask_as(0, path)


def test_a_stale_socket_is_no_server(serving):
    serving.kill()
    assert (serving.state / "operator.sock").exists()
    assert answer(serving, "key", "list")["keys"] == []
    serving.start()
    assert answer(serving, "key", "list")["keys"] == []
