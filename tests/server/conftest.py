"""The server as a process: its start, its end, its files, and what a person does to it from the same host.

    pytest tests/server        with target/debug/hsm-bridge built, SoftHSM2 and OpenSC installed; some tests mount a small file system
                               or change their user, and fail where they are not run as root
    HSM_BRIDGE_BIN=…           another binary; libpkcs11_faults.so (`cargo build --workspace`) is looked for beside it
    HSM_BRIDGE_TEST_KEEP=1     keeps the instances' directories
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

for name in [n for n in os.environ if n.startswith("AWS_")]:
    del os.environ[name]

pytest.register_assert_rewrite("faults", "instance", "spy")

from instance import Instance, binary  # noqa: E402


def pytest_sessionstart(session):
    if not session.config.option.collectonly and not binary().is_file():
        pytest.exit(f"{binary()} does not exist: build it, or name it in HSM_BRIDGE_BIN", returncode=4)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for made in getattr(item, "instances", []):
            report.sections.append((f"stderr of {made.root.name}", made.said(everything=True)[-8000:]))


@pytest.fixture
def make(request):
    """Makes instances, and ends them with the test."""
    request.node.instances = []

    def one(**options):
        made = Instance(**options)
        request.node.instances.append(made)
        return made

    yield one
    for made in request.node.instances:
        made.close()


@pytest.fixture
def ready(make):
    """An instance that `init` made; not serving."""
    return make().init()


@pytest.fixture
def serving(ready):
    return ready.start()


@pytest.fixture
def root():
    assert os.geteuid() == 0, "this test mounts a file system or changes its user: run it as root"
