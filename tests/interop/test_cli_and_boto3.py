"""The AWS CLI and boto3 as docs/clients.md has them. What they can do is in tests/clients."""

from page import ENDPOINT, block
from programs import installed, run


def environment(bridge, directory):
    env = bridge.tool_env(HOME=str(directory))
    return env | {"PATH": f"{installed('aws').rpartition('/')[0]}:{env['PATH']}"}


def test_the_cli_by_a_profile(bridge, tmp_path):
    env = {name: value for name, value in environment(bridge, tmp_path).items() if not name.startswith("AWS_")}
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(block("ini cli", **{
        ENDPOINT: bridge.endpoint, "AKIAEXAMPLE": bridge.access_key, "SECRETEXAMPLE": bridge.secret_key}))
    alias = bridge.new_alias(bridge.new_key(), "alias/app")
    done = run(["bash", "-euo", "pipefail", "-c", block("sh cli", **{"alias/app": alias})], env, tmp_path)
    assert done.stdout.endswith("hello\n")


def test_boto3(bridge, tmp_path):
    alias = bridge.new_alias(bridge.new_key(), "alias/app")
    text = block("python boto3", **{"alias/app": alias, ENDPOINT: bridge.endpoint})
    done = run([installed("python"), "-c", text], environment(bridge, tmp_path), tmp_path)
    assert done.stdout == "hello\n"
