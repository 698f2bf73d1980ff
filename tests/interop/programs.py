"""Other people's programs: found beside this Python, run to their end, or kept as servers that do not outlive the tests."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from bridge import clean_env

START_TIMEOUT = 60
STOP_TIMEOUT = 3
COMMAND_TIMEOUT = 60
PR_SET_PDEATHSIG = 1

# Every server that runs, so that a failed test can show what it had to say.
PROGRAMS = []


def installed(name):
    """The program `name` of this Python's environment."""
    path = Path(sys.executable).with_name(name)
    assert path.is_file(), f"{path} is missing: pip install -r tests/interop/requirements.txt"
    return str(path)


def program_env(home, **extra):
    """An environment in which a program finds nothing of this machine's user."""
    return clean_env(HOME=str(home), XDG_CONFIG_HOME=str(home), **extra)


def run(command, env, cwd, check=True):
    done = subprocess.run([str(word) for word in command], env=env, cwd=cwd, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT)
    if check:
        assert done.returncode == 0, f"{command} gave {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}"
    return done


def free_ports(count):
    """Ports that nobody has now. Somebody may take one before it is used: a server that does not come up is started again."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def answers(url):
    """The status of a GET, None where nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return None


def wait_for(condition, what, timeout=START_TIMEOUT):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout} s"
        time.sleep(0.05)
    return value


def _die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Program:
    """A server in a process group of its own. It is killed with the test run, however that ends."""

    def __init__(self, name, command, env, cwd):
        self.name, self.command, self.env, self.cwd = name, [str(word) for word in command], env, Path(cwd)
        self.log = self.cwd / f"{name}.log"
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, env=self.env, cwd=self.cwd, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent)
        PROGRAMS.append(self)
        return self

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, patience=STOP_TIMEOUT):
        """SIGTERM, and SIGKILL to the whole group for what is left."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self):
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(START_TIMEOUT)
        self.process = None
        PROGRAMS.remove(self)

    def said(self, tail=3000):
        return self.log.read_text(errors="replace")[-tail:] if self.log.exists() else ""
