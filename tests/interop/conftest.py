"""Other people's programs with the bridge as their KMS: before a rotation of their alias, and after it.

    pytest tests/interop           with target/debug/hsm-bridge built, SoftHSM2, and tests/interop/requirements.txt installed
    HSM_BRIDGE_BIN=…               another binary
    HSM_BRIDGE_TEST_TMP=…          where instances live; /dev/shm otherwise
    HSM_BRIDGE_TEST_KEEP=1         keeps their directories

The snippets of docs/clients.md are what these tests configure the programs with. The harness is the one of tests/clients.
"""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "clients")]

# Before botocore is imported: nothing of this machine's own AWS set-up may steer a test.
for name in [n for n in os.environ if n.startswith(("AWS_", "SOPS_", "BAO_", "VAULT_", "WEED_"))]:
    del os.environ[name]
os.environ |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}

pytest.register_assert_rewrite("bridge", "kmsclient", "steady", "programs", "rotation", "page", "weed", "bao", "sops")

from bridge import INSTANCES, binary  # noqa: E402
from programs import PROGRAMS  # noqa: E402
from steady import SteadyBridge  # noqa: E402
from weed import Weed  # noqa: E402


def pytest_sessionstart(session):
    if not session.config.option.collectonly and not binary().is_file():
        pytest.exit(f"{binary()} does not exist: build it, or name it in HSM_BRIDGE_BIN", returncode=4)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for instance in INSTANCES:
            report.sections.append((f"stderr of the bridge in {instance.root.name}", instance.stderr()))
        for program in PROGRAMS:
            report.sections.append((f"output of {program.name}", program.said()))


def _started(**options):
    instance = SteadyBridge(**options)
    try:
        instance.start()
        yield instance
    finally:
        instance.close()


@pytest.fixture(scope="session")
def bridge():
    """A shared instance as it comes: an alias on Decrypt means every key that it has pointed to. Tests leave it serving."""
    yield from _started()


@pytest.fixture(scope="session")
def strict():
    """A shared instance in which an alias on Decrypt means what it means at AWS: the key that it points to now."""
    yield from _started(mode="strict")


@pytest.fixture(scope="session")
def bridge_tls():
    yield from _started(tls=True)


@pytest.fixture(params=["history", "strict"])
def either(request):
    """The shared instance of each mode, for what must not depend on it."""
    return request.getfixturevalue("bridge" if request.param == "history" else "strict")


@pytest.fixture
def make_bridge():
    """Makes instances that the test may stop and kill."""
    made = []

    def make(**options):
        made.append(SteadyBridge(**options))
        return made[-1].start()

    yield make
    for instance in made:
        instance.close()


@pytest.fixture(scope="session")
def weed(bridge, tmp_path_factory):
    """A SeaweedFS whose KMS is the shared instance."""
    server = Weed(bridge, tmp_path_factory.mktemp("weed"))
    try:
        server.start()
        yield server
    finally:
        server.close()
