"""Marks of rejected PINs, made as docs/operations.md says and without the program's code. One right PIN of 256 has the mark of a
given wrong one, and is refused then: tests that go on with the right one take wrong ones whose marks differ."""

import hashlib
import hmac
import json
import subprocess

from bridge import clean_env


def serial_of(softhsm_conf, label):
    done = subprocess.run(["softhsm2-util", "--show-slots"], env=clean_env(SOFTHSM2_CONF=str(softhsm_conf)), check=True,
                          capture_output=True, text=True, timeout=60)
    (found,) = [slot for slot in done.stdout.split("\nSlot ") if any(
        line.split(":", 1)[1].strip() == label for line in slot.splitlines() if line.strip().startswith("Label:"))]
    return next(line.split(":", 1)[1].strip() for line in found.splitlines() if "Serial number:" in line)


def key_of(directory):
    """The key file, made here where the program has made none yet."""
    key = directory / "key"
    if not key.exists():
        directory.mkdir(mode=0o700, exist_ok=True)
        key.touch(mode=0o600)
        key.write_bytes(hashlib.sha256(str(directory).encode()).digest())
    return key.read_bytes()


def mark(directory, serial, pin):
    text = b"hsm-bridge/pin-mark/1" + len(serial.encode()).to_bytes(8, "big") + serial.encode() + pin.encode()
    return hmac.digest(key_of(directory), text, "sha256")[0]


def file_of(directory, serial):
    return directory / f"token-{hashlib.sha256(serial.encode()).hexdigest()}"


def marks(directory, serial):
    """What the program has written: (rejected, pending)."""
    path = file_of(directory, serial)
    found = json.loads(path.read_text()) if path.exists() else {"rejected": [], "pending": []}
    return found["rejected"], found["pending"]


def wrong_pins(directory, serial, right, count=1):
    """PINs of ten digits with marks of their own, none of them that of one of the `right`."""
    rights = [right] if isinstance(right, str) else list(right)
    taken, found, number = {mark(directory, serial, pin) for pin in rights}, [], 7310450000
    while len(found) < count:
        pin, number = str(number), number + 1
        one = mark(directory, serial, pin)
        if pin not in rights and one not in taken:
            taken.add(one)
            found.append(pin)
    return found
