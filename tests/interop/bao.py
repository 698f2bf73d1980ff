"""An OpenBao server whose seal is the bridge."""

import json
import urllib.error
import urllib.request

from page import ENDPOINT, block
from programs import Program, answers, free_ports, installed, program_env, wait_for

# What stands in the page for the key.
KEY_ON_THE_PAGE = "arn:aws:kms:us-east-1:111122223333:alias/openbao"


class Bao:
    def __init__(self, bridge, key_id, directory):
        self.bridge, self.directory, self.token = bridge, directory, None
        api, cluster = free_ports(2)
        self.address = f"http://127.0.0.1:{api}"
        seal = block("hcl openbao", **{ENDPOINT: bridge.endpoint, KEY_ON_THE_PAGE: key_id})
        (directory / "bao.hcl").write_text(f'''
            api_addr = "{self.address}"
            cluster_addr = "http://127.0.0.1:{cluster}"
            listener "tcp" {{
              address         = "127.0.0.1:{api}"
              cluster_address = "127.0.0.1:{cluster}"
              tls_disable     = true
            }}
            storage "file" {{ path = "{directory}/data" }}
            {seal}''')
        env = program_env(directory, AWS_ACCESS_KEY_ID=bridge.access_key, AWS_SECRET_ACCESS_KEY=bridge.secret_key)
        self.program = Program("bao", [installed("bao"), "server", f"-config={directory}/bao.hcl"], env, directory)

    def start(self):
        self.program.start()
        return self

    def ready(self):
        def up():
            assert self.program.alive(), f"OpenBao ended\n{self.program.said()}"
            return answers(f"{self.address}/v1/sys/seal-status")
        wait_for(up, "the start of OpenBao")
        return self

    def restart(self):
        self.program.stop()
        return self.start().ready()

    def close(self):
        self.program.stop()

    def call(self, method, path, body=None):
        request = urllib.request.Request(f"{self.address}/v1/{path}", method=method,
                                         data=json.dumps(body).encode() if body is not None else None,
                                         headers={"X-Vault-Token": self.token} if self.token else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                text = reply.read()
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{method} {path} gave {refused.code}: {refused.read()[:500]!r}") from None
        return json.loads(text) if text else {}

    def init(self):
        self.token = self.call("PUT", "sys/init", {"recovery_shares": 1, "recovery_threshold": 1})["root_token"]
        self.unsealed()
        self.call("POST", "sys/mounts/kv", {"type": "kv"})

    def status(self):
        return self.call("GET", "sys/seal-status")

    def unsealed(self):
        """Waits until it is active. Nobody gives it a key: it can have opened its seal only with the bridge."""
        # A standby or sealed server answers 429 or 503.
        wait_for(lambda: answers(f"{self.address}/v1/sys/health") == 200, "the unsealing of OpenBao")
        status = self.status()
        assert (status["type"], status["sealed"]) == ("awskms", False), status
