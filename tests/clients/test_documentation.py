"""What the pages say, run as it stands: the README's commands and table, the worked examples of docs/."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bridge import REPOSITORY, binary

README = "README.md"
FORMAT = "docs/ciphertext-format.md"
AUDIT = "docs/audit.md"
# Answers of a command that takes a while on a busy machine.
TIMEOUT = 180


def page(path):
    return (REPOSITORY / path).read_text()


def blocks(path, tag):
    """The fenced blocks whose info string is `tag`."""
    found = re.findall(rf"^```{re.escape(tag)}\n(.*?)^```$", page(path), re.M | re.S)
    assert found, f"{path} has no block `{tag}`"
    return found


@pytest.fixture
def shell(own_bridge, tmp_path):
    """Runs a page's block as a person does: in bash, the first failing command ends it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "hsm-bridge").symlink_to(binary().resolve())
    work = tmp_path / "work"
    work.mkdir()

    def run(text, check=True):
        path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=work, capture_output=True, text=True, timeout=TIMEOUT,
                              env=own_bridge.tool_env(PATH=path), stdin=subprocess.DEVNULL)
        if check:
            assert done.returncode == 0, f"{text}\nstdout: {done.stdout}\nstderr: {done.stderr}"
        return done

    run.bridge, run.work = own_bridge, work
    shutil.copy(own_bridge.env_file, work / "dev.env")
    return run


# -- the table of operations ------------------------------------------------------------------------------------------------

def declared():
    """Operation → `None` or the reason of its refusal, from `src/ops/operation.rs`."""
    text = page("src/ops/operation.rs").split("pub fn service(self)")[1].split("#[cfg(test)]")[0]
    arms = re.findall(r'((?:\|?\s*Operation::\w+\s*)+)=>\s*(?:\{\s*)?Service::(Served|Refused\(\s*"([^"]*)",?\s*\))', text)
    return {name: reason or None for names, _, reason in arms for name in re.findall(r"Operation::(\w+)", names)}


def test_the_table_of_operations_is_the_one_of_the_code():
    code = declared()
    assert len(code) == 56
    section = page(README).split("\n## Operations\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", section, re.M))
    rows.pop("operation", None)
    assert rows == {name: f"refused: {reason}" if reason else "served" for name, reason in code.items()}


# -- the README's commands --------------------------------------------------------------------------------------------------

def test_the_tour(shell):
    done = shell(blocks(README, "sh tour")[0])
    assert "hello" in done.stdout and "user/alice" in done.stdout and "\nOK  " in done.stdout


def test_backup_and_restore(shell):
    bridge = shell.bridge
    before = bridge.new_key(Description="made before the backup")
    bridge.kms.create_alias(AliasName="alias/kept", TargetKeyId=before)
    old = bridge.kms.encrypt(KeyId=before, Plaintext=b"old")["CiphertextBlob"]
    lost_key = bridge.run("access-key", "create", "--user", "dora", "--json").stdout
    dora = re.search(r"AKIA\w+", lost_key).group()

    for block in blocks(README, "sh backup"):
        shell(block)
    assert (shell.work / "store.backup").stat().st_mode & 0o777 == 0o600

    after = bridge.new_key(Description="made after the backup")
    new = bridge.kms.encrypt(KeyId=after, Plaintext=b"new")["CiphertextBlob"]
    bridge.kms.update_alias(AliasName="alias/kept", TargetKeyId=after)
    bridge.run("access-key", "disable", dora)

    def restored():
        assert bridge.kms.decrypt(CiphertextBlob=old)["Plaintext"] == b"old"
        aliases = {a["AliasName"]: a["TargetKeyId"] for a in bridge.kms.list_aliases()["Aliases"]}
        assert aliases["alias/kept"] == before
        with pytest.raises(ClientError) as refused:
            bridge.kms.describe_key(KeyId=after)
        assert refused.value.response["Error"]["Code"] == "NotFoundException"
        with pytest.raises(ClientError) as refused:
            bridge.kms.decrypt(CiphertextBlob=new)
        assert refused.value.response["Error"]["Code"] == "InvalidCiphertextException"
        keys = bridge.run("access-key", "list").stdout
        assert re.search(rf"{dora}\s+user/dora\s+Active", keys), keys
        # The object is still there, and doctor says so.
        assert f"hsm-bridge/kms/{after}" in bridge.run("doctor").stdout

    # While it serves.
    done = shell(blocks(README, "sh restore")[0])
    assert f"hsm-bridge/kms/{after}" in done.stdout
    restored()

    # The store is lost: nothing starts, and the same command brings it back.
    database = bridge.dir / "state/store/store.sqlite"
    bridge.stop()
    for file in database.parent.glob("store.sqlite*"):
        file.unlink()
    assert bridge.run("serve", check=False).returncode == 1
    assert before in shell(blocks(README, "sh missing")[0]).stdout
    bridge.start()
    restored()

    # The token is lost as well.
    bridge.stop()
    shutil.rmtree(bridge.dir / "tokens")
    assert bridge.run("serve", check=False).returncode == 69
    shell(blocks(README, "sh token")[0])
    bridge.start()
    assert bridge.kms.decrypt(CiphertextBlob=old)["Plaintext"] == b"old"

    tickets = [r["additionalEventData"].get("details", {}).get("ticket") for r in bridge.journal() if r["eventName"] == "StoreRestore"]
    assert {"CHG-1234", "CHG-1235"} <= set(tickets)
    assert bridge.run("audit", "verify").returncode == 0


def test_exit_codes(own_bridge):
    """Those of the README's table that a test can have without harm to a token."""
    bridge = own_bridge
    assert bridge.run("sweeper").returncode == 0
    assert bridge.run("key", "show", "alias/nobody", check=False).returncode == 1
    assert bridge.run("frobnicate", check=False).returncode == 64
    second = bridge.run("serve", check=False)
    assert second.returncode == 75 and str(bridge.process.pid) in second.stderr
    broken = bridge.root / "broken.toml"
    broken.write_text("[servre]\n")
    refused = bridge.run("--config", broken, "serve", check=False)
    assert refused.returncode == 78 and "`server`" in refused.stderr
    bridge.stop()
    pin = bridge.dir / "pin"
    good = pin.read_text()
    pin.write_text("0000000\n")
    assert bridge.run("serve", check=False).returncode == 77
    pin.write_text(good)
    assert bridge.run("sweeper", "--confirm", "CHG-7", "--json").returncode == 0


# -- docs/ciphertext-format.md ----------------------------------------------------------------------------------------------

def test_the_worked_example_of_the_ciphertext_format(shell):
    (shell.work / "blob.py").write_text(blocks(FORMAT, "python blob.py")[0])
    done = shell(blocks(FORMAT, "sh")[0])
    assert done.stdout == "hellomade by hand"
    wrong = shell(". ./dev.env; python3 blob.py open note.blob app=shop Tenant=8", check=False)
    assert wrong.returncode != 0 and "hello" not in wrong.stdout


def test_the_vector_of_the_ciphertext_format():
    def bytes_of(row):
        return bytes.fromhex("".join(re.findall(r"`([0-9a-f]+)`", re.search(rf"^\| {row} \|(.*)$", page(FORMAT), re.M).group(1))))

    blob, associated = bytes_of("blob"), bytes_of("associated data")
    assert associated.startswith(b"hsm-bridge/kms/1" + blob[:27])
    assert AESGCM(bytes_of("AES key")).decrypt(bytes_of("IV"), blob[39:], associated) == b"hello"
    inspected = subprocess.run([binary(), "ciphertext", "inspect", "-"], input=blob, capture_output=True, timeout=TIMEOUT)
    assert b"5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11" in inspected.stdout


# -- docs/audit.md ----------------------------------------------------------------------------------------------------------

def test_the_verifier_of_the_audit_page(shell):
    script = shell.work / "verify.py"
    script.write_text(blocks(AUDIT, "python verify.py")[0])
    shell.bridge.new_key()
    shell.bridge.stop()
    ours = shell("hsm-bridge audit verify").stdout
    theirs = shell('python3 verify.py "$HSM_BRIDGE_AUDIT_DIR"').stdout
    assert re.search(r"head +([0-9a-f]{64})", ours).group(1) in theirs
    copy = shell.work / "changed"
    shutil.copytree(shell.bridge.audit_dir, copy, symlinks=True)
    for segment in (copy / "journal").glob("[0-9]*.jsonl"):
        segment.write_bytes(segment.read_bytes().replace(b'"CreateKey"', b'"CreateKez"'))
    assert shell("python3 verify.py changed", check=False).returncode != 0
