"""`hsm-bridge dev`: the directory that it may use, what it writes and prints, and that it cleans up after itself."""

import os
import signal
import subprocess

import pytest

from bridge import binary, clean_env, parse_exports
from instance import COMMAND, START, STOP, memory_dir, until
from kmsclient import RawClient

EXPORTS = {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION",
           "HSM_BRIDGE_ACCOUNT_ID", "HSM_BRIDGE_AUDIT_DIR", "SOFTHSM2_CONF", "HSM_BRIDGE_PKCS11_MODULE", "HSM_BRIDGE_TOKEN_LABEL",
           "HSM_BRIDGE_PIN_FILE", "HSM_BRIDGE_CONFIG"}


class Dev:
    """One run of `dev`."""

    def __init__(self, root, *args, env=None):
        self.root, self.args = root, [str(binary()), "dev", *map(str, args)]
        self.out, self.err = root / "out", root / "err"
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env or clean_env(), cwd=root)

    def ready(self):
        def look():
            assert self.process.poll() is None, self.err.read_text()
            text = self.out.read_text()
            return text if "HSM_BRIDGE_CONFIG=" in text and text.endswith("\n") else None
        self.text = until("dev is ready", look, START)
        self.env = parse_exports(self.text)
        return self

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(STOP) == 0, self.err.read_text()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def call(self, operation, params=None):
        env = self.env
        raw = RawClient(env["AWS_ENDPOINT_URL_KMS"], env["AWS_REGION"], env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"],
                        ca_bundle=env.get("AWS_CA_BUNDLE"))
        reply = raw.call(operation, params)
        assert reply.status == 200, reply
        return reply.json()


@pytest.fixture
def place():
    import shutil
    root = memory_dir("dev", reachable=True)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def dev(place):
    runs = []

    def run(*args, **options):
        made = Dev(place, "--listen", "127.0.0.1:0", *args, **options)
        runs.append(made)
        return made
    yield run
    for made in runs:
        made.end()


def refused(place, code, *args):
    done = subprocess.run([str(binary()), "dev", "--listen", "127.0.0.1:0", *map(str, args)], capture_output=True, text=True,
                          timeout=COMMAND, env=clean_env(), cwd=place, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done
    return done.stderr


def test_exports_on_paper_and_in_the_file(dev, place):
    file = place / "env"
    file.write_text("old\n")
    file.chmod(0o644)
    first = dev("--dir", place / "d", "--env-file", file).ready()
    assert set(first.env) == EXPORTS
    assert file.stat().st_mode & 0o777 == 0o600
    assert parse_exports(file.read_text()) == first.env
    assert not first.env["AWS_ENDPOINT_URL"].endswith(":0")
    assert "not for production" in first.text.lower()
    assert 7 <= len((place / "d" / "pin").read_text().strip()) <= 32
    assert (place / "d").stat().st_mode & 0o777 == 0o700
    assert list(place.glob("env.*")) == [], "nothing half-written stays"
    # A shell reads it as it stands.
    done = subprocess.run(["sh", "-c", f'. {file} && "$1" key list --json', "sh", str(binary())], capture_output=True, text=True,
                          env=clean_env(), timeout=COMMAND)
    assert done.returncode == 0 and done.stdout == '{"keys":[]}\n', done


def test_a_restart_keeps_everything(dev, place):
    first = dev("--dir", place / "d").ready()
    key = first.call("CreateKey")["KeyMetadata"]["KeyId"]
    first.stop()
    again = dev("--dir", place / "d").ready()
    same = EXPORTS - {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"}
    assert {name: again.env[name] for name in same} == {name: first.env[name] for name in same}
    assert [row["KeyId"] for row in again.call("ListKeys")["Keys"]] == [key]


def test_a_file_that_cannot_be_written_is_not_begun(place):
    absent = place / "absent" / "env"
    refused(place, 74, "--dir", place / "d", "--env-file", absent)
    assert not absent.parent.exists()
    (place / "taken").mkdir()
    refused(place, 74, "--dir", place / "d", "--env-file", place / "taken")
    assert sorted(p.name for p in place.iterdir()) == ["d", "taken"]


def test_directories_that_it_does_not_take(place, make):
    open_to_all = place / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    assert "can be read by others" in refused(place, 1, "--dir", open_to_all)
    assert list(open_to_all.iterdir()) == []
    made = make().init()
    before = sorted(made.root.rglob("*"))
    for directory in (made.root, made.state):
        assert "was not made by `dev`" in refused(place, 1, "--dir", directory)
    assert sorted(made.root.rglob("*")) == before
    made.start()


def test_one_that_it_made_but_others_can_read_now(dev, place):
    dev("--dir", place / "d").ready().stop()
    (place / "d").chmod(0o750)
    assert "can be read by others" in refused(place, 1, "--dir", place / "d")


def test_account_and_region_are_those_of_the_first_start(dev, place):
    first = dev("--dir", place / "d", "--account", "444455556666", "--region", "eu-west-3").ready()
    assert (first.env["HSM_BRIDGE_ACCOUNT_ID"], first.env["AWS_REGION"], first.env["AWS_DEFAULT_REGION"]) == (
        "444455556666", "eu-west-3", "eu-west-3")
    assert first.call("CreateKey")["KeyMetadata"]["Arn"].startswith("arn:aws:kms:eu-west-3:444455556666:key/")
    first.stop()
    assert "was made for account 444455556666" in refused(place, 1, "--dir", place / "d", "--account", "111122223333")
    assert "was made for region eu-west-3" in refused(place, 1, "--dir", place / "d", "--region", "us-east-1")
    again = dev("--dir", place / "d", "--account", "444455556666").ready()
    assert again.env["AWS_REGION"] == "eu-west-3"


def test_a_second_one_on_the_same_directory(dev, place):
    first = dev("--dir", place / "d").ready()
    config = (place / "d" / "hsm-bridge.toml").read_bytes()
    told = refused(place, 75, "--dir", place / "d", "--env-file", place / "second", "--tls")
    assert f"locked by process {first.process.pid}" in told
    assert not (place / "second").exists()
    assert (place / "d" / "hsm-bridge.toml").read_bytes() == config, "the first one's configuration was written over"
    assert first.call("ListKeys")["Keys"] == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_temporary_directory_goes_at_the_end(dev, place, how):
    temporary = place / "t"
    temporary.mkdir()
    run = dev(env=clean_env(TMPDIR=str(temporary))).ready()
    (made,) = temporary.iterdir()
    assert str(made) in run.env["HSM_BRIDGE_CONFIG"]
    assert made.stat().st_mode & 0o777 == 0o700
    run.process.send_signal(how)
    assert run.process.wait(STOP) == 0
    assert list(temporary.iterdir()) == []


def test_a_temporary_directory_goes_when_the_start_fails(place, dev):
    """The address is taken."""
    first = dev("--dir", place / "d").ready()
    temporary = place / "t"
    temporary.mkdir()
    done = subprocess.run([str(binary()), "dev", "--listen", first.env["AWS_ENDPOINT_URL"].removeprefix("http://")], timeout=COMMAND,
                          env=clean_env(TMPDIR=str(temporary)), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 69, done
    assert list(temporary.iterdir()) == []


def test_tls(dev, place):
    run = dev("--dir", place / "d", "--tls").ready()
    assert set(run.env) == EXPORTS | {"AWS_CA_BUNDLE"}
    assert run.env["AWS_ENDPOINT_URL"].startswith("https://localhost:")
    assert run.call("ListKeys")["Keys"] == []
    assert os.stat(place / "d" / "tls" / "server.key").st_mode & 0o777 == 0o600


def test_a_killed_one_starts_again(dev, place):
    first = dev("--dir", place / "d").ready()
    key = first.call("CreateKey")["KeyMetadata"]["KeyId"]
    first.process.kill()
    first.process.wait()
    again = dev("--dir", place / "d").ready()
    assert [row["KeyId"] for row in again.call("ListKeys")["Keys"]] == [key]
