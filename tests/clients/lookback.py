"""What holds for an instance after everything that was done to it."""

from base64 import b64encode


def look_back(bridge):
    """At the end of a shared instance, whichever tests used it."""
    bridge.kms.encrypt(KeyId=bridge.key(), Plaintext=bridge.canary(), EncryptionContext={"a": "b"})
    all_in_journal(bridge)
    audit_is_clean(bridge)
    sequence = [record["additionalEventData"]["audit"]["seq"] for record in bridge.journal()]
    assert sequence == list(range(len(sequence))), "no gap, nothing twice"
    silent(bridge)
    assert "panicked" not in bridge.stderr_file.read_text(errors="replace")


def audit_is_clean(bridge):
    done = bridge.run("audit", "verify", bridge.audit_dir, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def all_in_journal(bridge):
    seen = {record.get("requestID") for record in bridge.journal()}
    missing = {rid: error for rid, error in bridge.acknowledged.items() if rid not in seen}
    assert not missing, f"{len(missing)} of {len(bridge.acknowledged)} acknowledged requests are in no record: {missing}"


def silent(bridge):
    """Neither plaintexts nor credentials in what the server writes for others to read."""
    written = [(p.name, p.read_bytes()) for p in bridge.audit_dir.rglob("*") if p.is_file() and not p.is_symlink()]
    written.append(("stderr", bridge.stderr_file.read_bytes()))
    words = {bridge.secret_key.encode(), bridge.pin.encode()}
    for value in bridge.plaintexts:
        words |= {value, b64encode(value), value.hex().encode()}
    for name, data in written:
        for word in words:
            assert word not in data, f"{name} holds {word[:12]!r}…"
