"""The AWS command line, as two people have it: version 1 from PyPI and Debian's 2.9.19."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TIMEOUT = 60


def version_1():
    """`aws` beside this Python, or where HSM_BRIDGE_AWS_V1 says."""
    return os.environ.get("HSM_BRIDGE_AWS_V1") or str(Path(sys.executable).with_name("aws"))


def debian():
    return os.environ.get("HSM_BRIDGE_AWS_DEBIAN") or "/usr/bin/aws"


class CliError(AssertionError):
    def __init__(self, command, done):
        super().__init__(f"{' '.join(command)} gave {done.returncode}\n{done.stdout}\n{done.stderr}")
        self.stderr, self.returncode = done.stderr, done.returncode


class AwsCli:
    """Runs commands against one bridge. `called` collects the operations that were called with success."""

    def __init__(self, program, bridge, directory, by_option):
        assert shutil.which(program), f"{program} is not installed (pip install awscli; apt-get install awscli)"
        self.program, self.bridge, self.directory, self.by_option = program, bridge, Path(directory), by_option
        self.called = set()

    def env(self):
        env = self.bridge.tool_env(HOME=str(self.directory))
        if self.by_option:
            # Older than AWS_ENDPOINT_URL: nothing but the option can point it here.
            for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
                env.pop(name, None)
        return env

    def run(self, service, command, *args):
        point = ["--endpoint-url", self.bridge.env["AWS_ENDPOINT_URL"]] if self.by_option else []
        words = [self.program, *point, "--output", "json", service, command, *map(str, args)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT, env=self.env(), cwd=self.directory)
        if done.returncode != 0:
            raise CliError(words, done)
        self.called.add(command)
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def kms(self, command, *args):
        return self.run("kms", command, *args)

    def file(self, name, data):
        """Writes bytes to a file and gives the `fileb://` form that both versions read as they are."""
        (self.directory / name).write_bytes(data)
        return f"fileb://{name}"

    def version(self):
        done = subprocess.run([self.program, "--version"], capture_output=True, text=True, timeout=TIMEOUT, env=self.env())
        return (done.stdout + done.stderr).strip()
