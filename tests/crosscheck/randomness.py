"""GenerateRandom: lengths, no repetition, no coarse bias, and that it comes from the token."""

import math
import re
from pathlib import Path

from table import equal, expect

# Standard deviations. By chance about one good run in 10^8 is beyond.
LIMIT = 6


def run(target, table, spy_log):
    where = {"CustomKeyStoreId": target.custom_store} if target.custom_store else {}

    def random(length):
        return target.kms.generate_random(NumberOfBytes=length, **where)["Plaintext"]

    with table.row("GenerateRandom: 1, 31, 32, 1024 bytes are so long", "length"):
        for length in (1, 31, 32, 1024):
            equal("the length", len(random(length)), length)
    with table.row("GenerateRandom: 100 times 32 bytes differ", "distinct"):
        equal("the number of different answers", len({random(32) for _ in range(100)}), 100)
    with table.row("GenerateRandom: bits and bytes of 64 KiB are balanced", "chi-square") as notes:
        data = b"".join(random(1024) for _ in range(64))
        ones = sum(byte.bit_count() for byte in data)
        bits = (ones - 4 * len(data)) / math.sqrt(2 * len(data))
        expected = len(data) / 256
        chi = sum((data.count(byte) - expected) ** 2 / expected for byte in range(256))
        bytes_ = (chi - 255) / math.sqrt(2 * 255)
        notes += [f"bits {bits:+.1f} sigma", f"bytes {bytes_:+.1f} sigma"]
        expect(abs(bits) < LIMIT and abs(bytes_) < LIMIT, notes)
    if spy_log:
        with table.row("GenerateRandom: 5 requests reach C_GenerateRandom", "pkcs11-spy") as notes:
            before = spied(spy_log)
            for _ in range(5):
                random(32)
            calls = spied(spy_log) - before
            notes.append(f"{calls} calls")
            expect(calls >= 5, f"{calls} calls")


def spied(log):
    return len(re.findall(r"^\d+: C_GenerateRandom$", Path(log).read_text(errors="replace"), re.M))
