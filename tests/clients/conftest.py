"""Fixtures: running bridges, and what a failed test should show of them.

    pytest tests/clients                      with target/debug/hsm-bridge built, SoftHSM2, OpenSC, openssl, curl, faketime and
                                              both AWS CLIs installed (version 1 from PyPI beside this Python, Debian's awscli)
    HSM_BRIDGE_BIN=…                          another binary
    HSM_BRIDGE_TEST_TMP=…                     where instances live; /dev/shm otherwise
    HSM_BRIDGE_TEST_KEEP=1                    keeps their directories
    HSM_BRIDGE_AWS_V1=…, HSM_BRIDGE_AWS_DEBIAN=…   other places of the two CLIs

Expectations come from AWS's documented and recorded answers, never from this program's own code.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

# Before botocore is imported: nothing of this machine's own AWS set-up may steer a test.
for name in [n for n in os.environ if n.startswith("AWS_")]:
    del os.environ[name]
os.environ |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}

pytest.register_assert_rewrite("bridge", "checks", "kmsclient", "lookback", "token_tool", "cli")

from bridge import INSTANCES, Bridge, binary  # noqa: E402
from lookback import look_back  # noqa: E402


def pytest_sessionstart(session):
    if not session.config.option.collectonly and not binary().is_file():
        pytest.exit(f"{binary()} does not exist: build it, or name it in HSM_BRIDGE_BIN", returncode=4)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for number, instance in enumerate(INSTANCES):
            kind = "tls" if instance.tls else "http"
            report.sections.append((f"stderr of server {number} ({kind})", instance.stderr()))


# One token for a custom key store: whoever makes a store of it deletes it.
CUSTOM = ("--custom-tokens", "1")


def _started(shared=False, **options):
    instance = Bridge(**options)
    instance.shared = shared
    try:
        instance.start()
        yield instance
        if shared:
            look_back(instance)
    finally:
        instance.close()


@pytest.fixture(scope="session")
def bridge():
    """An instance over plain HTTP on loopback, shared by the tests of one process. They leave it serving."""
    yield from _started(shared=True, extra_args=CUSTOM)


@pytest.fixture(scope="session")
def bridge_tls():
    yield from _started(shared=True, tls=True, extra_args=CUSTOM)


@pytest.fixture(scope="session", params=["http", "tls"])
def either(request):
    """The shared instance over HTTP, and again over TLS."""
    return request.getfixturevalue("bridge" if request.param == "http" else "bridge_tls")


@pytest.fixture
def own_bridge():
    """An instance that the test may stop, kill and restore."""
    yield from _started()


@pytest.fixture(autouse=True)
def servers_still_there():
    """A test that brings a shared server down fails itself, not the tests after it."""
    yield
    for instance in INSTANCES:
        if instance.shared and instance.process is not None:
            assert instance.alive(), f"a shared server is gone\n{instance.stderr()}"
