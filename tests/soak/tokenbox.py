"""An instance whose token is elsewhere: in a container or in processes of its own, behind a relay (tests/softhsm).

Knows the words of `token-box` and nothing of what it does with them.
"""

import os
import socket
import subprocess
from pathlib import Path

from bridge import clean_env
from instance import Instance, until

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
# A bound, not a measurement.
WORD = 120


class TokenBox:
    """`kind`: container or process."""

    def __init__(self, kind, place, worker, label, pin):
        self.place = Path(place)
        self.place.mkdir(mode=0o700)
        names = ("DOCKER_HOST", "TOKEN_IMAGE")
        env = clean_env(TOKEN_LABEL=label, TOKEN_PIN=pin, **{name: os.environ[name] for name in names if name in os.environ})
        self.program = subprocess.Popen([str(PROGRAMS / "token-box"), kind, str(self.place), *worker], env=env, text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def tell(self, word):
        """Gives what was printed before the `ok`."""
        self.program.stdin.write(word + "\n")
        printed = []
        while True:
            line = self.program.stdout.readline()
            assert line, f"token-box ended at `{word}`"
            assert not line.startswith("error"), f"{word}: {line}"
            if line == "ok\n":
                return "".join(printed)
            printed.append(line)

    def start(self):
        """Somebody listens when this returns."""
        self.tell("start")
        until("the token side listens", self.listens)

    def listens(self):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.place / "link" / "socket"))
                return True
            except OSError:
                return False

    def close(self):
        self.program.stdin.close()
        try:
            self.program.wait(WORD)
        except subprocess.TimeoutExpired:
            self.program.kill()


class Elsewhere(Instance):
    """The token's files lie in the box's directory, where `pkcs11-tool` finds them too."""

    def __init__(self, kind, name, **options):
        super().__init__(name, **options)
        self.kind, self.box = kind, None
        self.place = self.root / "box"
        token = {"isolation": "process", "worker_command": [str(PROGRAMS / "hsm-bridge-token-relay"), str(self.place)], "environment": {}}
        self.sections["token"] = token | self.sections.get("token", {})
        self.softhsm_conf = self.place / "token" / "softhsm2.conf"

    def make_token(self):
        self.write_pin(self.pin)
        worker = [os.environ["HSM_BRIDGE_BIN"], "token-worker"]
        self.box = TokenBox(self.kind, self.place, worker, self.label, self.pin)
        self.box.start()
        return self

    @property
    def token_dir(self):
        (found,) = (p for p in (self.place / "token" / "tokens").iterdir() if p.is_dir())
        return found

    def box_said(self):
        """What the token side said, once nothing else is done with it: ends it."""
        if not self.box:
            return ""
        try:
            return self.box.tell("log")
        except (AssertionError, OSError) as error:
            return f"nothing: {error}"
        finally:
            self.box.close()

    def close(self):
        self.kill()
        if self.box:
            self.box.close()
        super().close()
