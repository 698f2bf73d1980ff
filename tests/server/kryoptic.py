"""An instance whose token is kryoptic, a PKCS#11 3.2 software token of independent make (tests/kryoptic)."""

import os
import subprocess
from pathlib import Path

from bridge import binary, clean_env
from instance import COMMAND, Instance

SO_PIN = "9876543210"


def module():
    path = Path(os.environ.get("HSM_BRIDGE_KRYOPTIC") or binary().parents[1] / "kryoptic/debug/libkryoptic_pkcs11.so")
    assert path.is_file(), f"{path} is not there: run `scripts/test kryoptic`"
    return path


class Kryoptic(Instance):
    def __init__(self, **options):
        super().__init__(name="kryoptic", **options)
        self.conf = self.root / "kryoptic.toml"
        self.environment = {"KRYOPTIC_CONF": str(self.conf)}
        self.sections.setdefault("token", {}).update(module=str(module()), environment=self.environment)

    def make_token(self):
        self.conf.write_text(f'[[slots]]\nslot = 1\ndbtype = "sqlite"\ndbargs = "{self.root / "token.sql"}"\n')
        self.write_pin(self.pin)
        self.tool("--slot", "1", "--so-pin", SO_PIN, "--init-token", "--label", self.label)
        self.tool("--slot", "1", "--so-pin", SO_PIN, "--login", "--login-type", "so", "--init-pin", "--pin", self.pin)
        return self

    def tool(self, *arguments):
        """pkcs11-tool: another program with the same token."""
        done = subprocess.run(["pkcs11-tool", "--module", str(module()), *arguments], env=clean_env(**self.environment),
                              capture_output=True, text=True, timeout=COMMAND)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout
