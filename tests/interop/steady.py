"""A bridge that keeps its address over a restart, so that a program that was pointed at it finds it again. It is killed with the
test run, as those programs are."""

from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from bridge import Bridge


class SteadyBridge(Bridge):
    def __init__(self, mode=None, region=None, **options):
        """`mode` is what an alias on Decrypt means; the bridge's own default if it is not given."""
        arguments = [*(["--decrypt-alias-mode", mode] if mode else []), *(["--region", region] if region else [])]
        super().__init__(extra_args=arguments, **options)
        self.mode, self.listen = mode or "history", "127.0.0.1:0"

    def command(self):
        command = [self.listen if word == "127.0.0.1:0" else word for word in super().command()]
        return ["setpriv", "--pdeathsig", "KILL", *command]

    def start(self):
        super().start()
        self.listen = urlsplit(self.endpoint).netloc
        return self

    def new_client(self):
        """A stock client that nobody else has, without retries."""
        return boto3.client("kms", endpoint_url=self.endpoint, region_name=self.region, aws_access_key_id=self.access_key,
                            aws_secret_access_key=self.secret_key, verify=self.ca_bundle if self.tls else None,
                            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=10))

    def records(self, *names, since=0):
        """The outcome records of these operations, from the journal's record number `since` on."""
        return [r for r in self.journal()[since:] if r["eventName"] in names and r["eventType"] == "AwsApiCall"]

    def mark(self):
        return len(self.journal_lines())
