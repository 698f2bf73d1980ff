"""The AWS command line, as two people have it: version 1 from PyPI and Debian's 2.9.19."""

import json
import os
import shutil
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

from bridge import clean_env

TIMEOUT = 60


def version_1():
    """`aws` beside this Python, or where HSM_BRIDGE_AWS_V1 says."""
    return os.environ.get("HSM_BRIDGE_AWS_V1") or str(Path(sys.executable).with_name("aws"))


def debian():
    return os.environ.get("HSM_BRIDGE_AWS_DEBIAN") or "/usr/bin/aws"


class CliError(AssertionError):
    def __init__(self, command, code, stdout, stderr):
        super().__init__(f"aws {' '.join(command)} gave {code}\n{stdout}\n{stderr}")
        self.stderr, self.returncode = stderr, code


@cache
def server(program):
    """A process with this CLI's modules loaded: see `cli_server`. One for the whole session."""
    with open(program, encoding="utf-8") as script:
        interpreter = script.readline().removeprefix("#!").split()
    return subprocess.Popen([*interpreter, Path(__file__).with_name("cli_server.py")], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, env=clean_env())


def ask(program, args, env, cwd):
    """(exit code, standard output, standard error) of one command."""
    child = server(program)
    child.stdin.write(json.dumps({"args": args, "env": env, "cwd": str(cwd)}) + "\n")
    child.stdin.flush()
    watchdog = threading.Timer(TIMEOUT, child.kill)
    watchdog.start()
    try:
        answer = json.loads(child.stdout.readline())
    finally:
        watchdog.cancel()
    return answer["code"], answer["stdout"], answer["stderr"]


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
        words = [*point, "--output", "json", service, command, *map(str, args)]
        code, stdout, stderr = ask(self.program, words, self.env(), self.directory)
        if code != 0:
            raise CliError(words, code, stdout, stderr)
        self.called.add(command)
        return json.loads(stdout) if stdout.strip() else {}

    def alone(self, *words):
        """One command as a person starts it: the program itself, a process of its own."""
        return subprocess.run([self.program, *words], capture_output=True, text=True, timeout=TIMEOUT, env=self.env(),
                              cwd=self.directory)

    def kms(self, command, *args):
        return self.run("kms", command, *args)

    def file(self, name, data):
        """Writes bytes to a file and gives the `fileb://` form that both versions read as they are."""
        (self.directory / name).write_bytes(data)
        return f"fileb://{name}"

    def version(self):
        done = self.alone("--version")
        return (done.stdout + done.stderr).strip()
