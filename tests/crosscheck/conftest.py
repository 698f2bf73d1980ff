"""scripts/crosscheck against bridges of its own: green where nothing is wrong, red where a key was replaced.

    pytest tests/crosscheck    with target/debug/hsm-bridge built, SoftHSM2, OpenSC and openssl installed
    HSM_BRIDGE_BIN=…           another binary
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "clients"), str(HERE.parent / "server")]

# Before botocore is imported: nothing of this machine's own AWS set-up may steer a test.
for name in [n for n in os.environ if n.startswith("AWS_")]:
    del os.environ[name]

from bridge import INSTANCES, Bridge, binary  # noqa: E402

TIMEOUT = 300


def pytest_sessionstart(session):
    if not session.config.option.collectonly and not binary().is_file():
        pytest.exit(f"{binary()} does not exist: build it, or name it in HSM_BRIDGE_BIN", returncode=4)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        report.sections += [(f"stderr of server {number}", instance.stderr()) for number, instance in enumerate(INSTANCES)]


class Report:
    """What one run of the script printed."""

    def __init__(self, done):
        self.code, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr
        lines = done.stdout.splitlines()
        start = next((n for n, line in enumerate(lines) if line.startswith("check  ")), len(lines))
        body = lines[start + 1:]
        table = body[:body.index("")] if "" in body else []
        self.rows = [(cells + ["", "", ""])[:4] for cells in (split(line) for line in table)]
        self.last = lines[-1] if lines else ""

    def results(self, word):
        """check and judge → result, of the rows whose check holds this word."""
        return {(check, judge): result for check, judge, result, _ in self.rows if word in check}

    def __str__(self):
        return f"exit code {self.code}\n{self.stdout}\n{self.stderr}"


def split(line):
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def run_crosscheck(env, *args):
    done = subprocess.run([sys.executable, HERE / "crosscheck.py", *map(str, args)], capture_output=True, text=True, timeout=TIMEOUT,
                          env=env, stdin=subprocess.DEVNULL)
    return Report(done)


@pytest.fixture(scope="session")
def crosscheck():
    """Runs the script on a bridge, as a person does who has sourced its variables."""
    def run(bridge, *args, **extra):
        return run_crosscheck(bridge.tool_env() | {"HSM_BRIDGE_BIN": str(binary())} | extra, *args)
    return run


@pytest.fixture(scope="module")
def bridge():
    instance = Bridge()
    try:
        yield instance.start()
    finally:
        instance.close()
