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

from bridge import REPOSITORY, Bridge, binary
from pin_marks import serial_of, wrong_pins

README = "README.md"
STORES = "docs/key-stores.md"
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
    return runner(own_bridge, tmp_path)


@pytest.fixture
def shell_with_stores(tmp_path):
    """Beside tokens of which custom key stores can be made."""
    bridge = Bridge(extra_args=["--custom-tokens", "2"])
    try:
        yield runner(bridge.start(), tmp_path)
    finally:
        bridge.close()


def runner(bridge, tmp_path):
    """Runs a page's block as a person does: in bash, the first failing command ends it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "hsm-bridge").symlink_to(binary().resolve())
    work = tmp_path / "work"
    work.mkdir()

    def run(text, check=True):
        path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=work, capture_output=True, text=True, timeout=TIMEOUT,
                              env=bridge.tool_env(PATH=path), stdin=subprocess.DEVNULL)
        if check:
            assert done.returncode == 0, f"{text}\nstdout: {done.stdout}\nstderr: {done.stderr}"
        return done

    run.bridge, run.work = bridge, work
    shutil.copy(bridge.env_file, work / "dev.env")
    return run


# -- the table of operations ------------------------------------------------------------------------------------------------

def declared():
    """Operation → `None` or the reason of its refusal, from `src/ops/operation.rs`."""
    text = page("src/ops/operation.rs").split("pub fn service(self)")[1].split("#[cfg(test)]")[0]
    arms = re.findall(r'((?:\|?\s*Operation::\w+\s*)+)=>\s*(?:\{\s*)?Service::(Served|Refused(?:OnKey)?\(\s*"([^"]*)",?\s*\))', text)
    rows = {name: re.sub(r"\\\n\s*", "", reason) or None
            for names, _, reason in arms for name in re.findall(r"Operation::(\w+)", names)}
    # Not of KMS's model; X-Amz-Target has this name.
    return rows | {"HsmBridge.RotateAlias": rows.pop("RotateAlias")}


def test_the_table_of_operations_is_the_one_of_the_code():
    code = declared()
    assert len(code) == 56 + 1
    section = page(README).split("\n## Operations\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| ([\w.]+) \| (.*) \|$", section, re.M))
    rows.pop("operation", None)
    assert rows == {name: f"refused: {reason}" if reason else "served" for name, reason in code.items()}
    served = sum(reason is None for name, reason in code.items() if name != "HsmBridge.RotateAlias")
    assert f"{served} of the 56 KMS operations" in page(README)
    assert f"{served} of the 56 operations" in page("CHANGELOG.md")


# -- the README's commands --------------------------------------------------------------------------------------------------

def test_the_tour(shell):
    done = shell(blocks(README, "sh tour")[0])
    assert "hello" in done.stdout and "user/alice" in done.stdout and "\nOK  " in done.stdout


def test_custom_key_stores(shell_with_stores):
    done = shell_with_stores(blocks(README, "sh stores")[0])
    states = [line.strip() for line in done.stdout.splitlines() if "State" in line or "navailable" in line]
    assert states == ['"ConnectionState": "CONNECTED",', '"Unavailable"'], done.stdout
    assert re.search(r"^custom-1 .* cks-\w+ \(payments\) +1$", done.stdout, re.M), done.stdout
    # The tour names the default token by its label, whatever else is there.
    assert "hsm-bridge/store-kek" in shell_with_stores(blocks(README, "sh tour")[0]).stdout


def test_who_may(shell):
    done = shell(blocks(README, "sh authorization")[0])
    lines = done.stdout.splitlines()
    assert "order 1" in lines and "assumed-role/reader/tour" in done.stdout and "decided by grant: grant " in done.stdout, done.stdout
    assert lines.count("refused, as it should") == 1 and "no identity-based policy allows the kms:Encrypt action" in done.stderr
    asked = shell('hsm-bridge policy simulate --principal user/dave --action kms:Decrypt --key "$KEY" --context app=orders'
                  .replace("$KEY", re.search(r"arn:aws:kms:\S+:key/[0-9a-f-]{36}", done.stdout).group()))
    assert asked.stdout.startswith("denied (implicit)\n")


def test_rotation_by_alias(shell):
    done = shell(blocks(README, "sh rotation")[0])
    assert "written before" in done.stdout and "Keys rotated away" in done.stdout
    assert "1 re-encrypted, 0 under the current key" in done.stdout
    assert "0 re-encrypted, 1 under the current key" in shell(". ./dev.env; hsm-bridge reencrypt --alias alias/app app.blob").stdout


def test_the_officers_commands(shell):
    done = shell(blocks(README, "sh officer")[0])
    assert "agrees with the store" in done.stdout and "Verified OK" in done.stdout
    with open(shell.work / "key.json", "ab") as statement:
        statement.write(b" ")
    check = [line for line in blocks(README, "sh officer")[0].splitlines() if line.startswith("openssl")]
    assert shell(check[0], check=False).returncode != 0


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
    # `serve` would wait for it; a command does not.
    assert bridge.run("key", "list", check=False).returncode == 69
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
    pin.write_text("".join(wrong_pins(bridge.dir / "pin-marks", serial_of(bridge.env["SOFTHSM2_CONF"], "hsm-bridge-dev"), good.strip())))
    assert bridge.run("serve", check=False).returncode == 77
    pin.write_text(good)
    assert bridge.run("sweeper", "--confirm", "CHG-7", "--json").returncode == 0


# -- docs/key-stores.md -----------------------------------------------------------------------------------------------------

def test_the_walk_through_custom_key_stores(shell_with_stores):
    done = shell_with_stores(blocks(STORES, "sh key-stores")[0])
    lines = done.stdout.splitlines()
    assert lines[0] == "CONNECTED" and "Unavailable" in lines and "hello" in lines, done.stdout
    assert re.fullmatch(r"AWS_CLOUDHSM\tcks-\w+\tcluster-\w+\tEnabled", lines[1]), done.stdout
    assert "KMSInvalidStateException" in done.stderr


# -- every page -------------------------------------------------------------------------------------------------------------

def pages():
    return [README, "CHANGELOG.md", *sorted(str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "docs").rglob("*.md"))]


def anchors(path):
    """As GitHub makes them of headings: lower case, blanks to hyphens, no punctuation."""
    text = re.sub(r"^```.*?^```$", "", (REPOSITORY / path).read_text(), flags=re.M | re.S)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("path", pages())
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", page(path), flags=re.M | re.S)
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        found = (REPOSITORY / path).parent / file if file else REPOSITORY / path
        if not found.exists() or (anchor and anchor not in anchors(found.resolve().relative_to(REPOSITORY.resolve()))):
            dead.append(target)
    assert not dead


def test_the_readme_links_every_page():
    text = page(README)
    documents = {p for p in pages() if p.startswith("docs/") and not p.startswith("docs/tokens/")}
    assert [p for p in documents if f"]({p})" not in text] == []
    kinds = page("docs/tokens/README.md")
    assert [p.name for p in (REPOSITORY / "docs/tokens").glob("*.md") if p.name != "README.md" and f"]({p.name})" not in kinds] == []


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
