"""SOPS, with the environment that a person has after `. ./dev.env`."""

import json

from programs import installed, program_env, run


class Sops:
    def __init__(self, bridge, directory):
        self.bridge, self.directory = bridge, directory
        self.env = program_env(directory, **bridge.env)

    def __call__(self, *args, check=True):
        return run([installed("sops"), *args], self.env, self.directory, check=check)

    def encrypt(self, name, text, *options):
        """Encrypts `text` into the file `name`, as a person with a plain file would."""
        plain = self.directory / f"plain-{name}"
        plain.write_text(text)
        (self.directory / name).write_text(self("encrypt", *options, plain.name).stdout)
        plain.unlink()

    def decrypt(self, name, check=True):
        done = self("decrypt", name, check=check)
        return done.stdout if check else done

    def master_key(self, name):
        """The one KMS entry of a JSON file's `sops` member."""
        (entry,) = json.loads((self.directory / name).read_text())["sops"]["kms"]
        return entry
