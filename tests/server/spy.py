"""OpenSC's pkcs11-spy between the server and its token: every call that reaches the token, counted from outside."""

import re
from collections import Counter
from pathlib import Path

from instance import MODULE

PLACES = ["/usr/lib/x86_64-linux-gnu/pkcs11-spy.so", "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so", "/usr/lib64/pkcs11-spy.so",
          "/usr/lib/pkcs11-spy.so"]


class Spy:
    def __init__(self, instance, name="spy.log"):
        found = [place for place in PLACES if Path(place).exists()]
        assert found, "pkcs11-spy.so is missing: install opensc"
        self.log = instance.root / name
        self.token = {"module": found[0],
                      "environment": {"SOFTHSM2_CONF": str(instance.softhsm_conf), "PKCS11SPY": MODULE, "PKCS11SPY_OUTPUT": str(self.log)}}

    def calls(self):
        """Function → how often it was called."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return Counter(re.findall(r"^\d+: (C_\w+)$", text, re.MULTILINE))
