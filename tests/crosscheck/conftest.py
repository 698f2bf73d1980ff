"""scripts/crosscheck against bridges of its own: green where nothing is wrong, red where a key was replaced.

    pytest tests/crosscheck    with target/debug/hsm-bridge built, SoftHSM2, OpenSC and openssl installed
    HSM_BRIDGE_BIN=…           another binary
"""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "clients"), str(HERE.parent / "server")]

# Before botocore is imported: nothing of this machine's own AWS set-up may steer a test.
for name in [n for n in os.environ if n.startswith("AWS_")]:
    del os.environ[name]

from bridge import INSTANCES, Bridge, binary  # noqa: E402
from report import run_crosscheck  # noqa: E402


def pytest_sessionstart(session):
    if not session.config.option.collectonly and not binary().is_file():
        pytest.exit(f"{binary()} does not exist: build it, or name it in HSM_BRIDGE_BIN", returncode=4)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        report.sections += [(f"stderr of server {number}", instance.stderr()) for number, instance in enumerate(INSTANCES)]


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
