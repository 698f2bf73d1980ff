"""A SeaweedFS server, all its parts in one process, whose KMS for SSE-KMS is the bridge."""

import glob
import json
import os
import secrets

import boto3
from botocore import UNSIGNED
from botocore.config import Config

from page import ENDPOINT, block
from programs import Program, answers, free_ports, installed, program_env, wait_for

TRIES = 3
PORTS = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port",
         "s3.port.grpc"]


class Weed:
    def __init__(self, bridge, directory):
        self.bridge, self.directory, self.program, self.ports = bridge, directory, None, {}

    def start(self):
        config = json.loads(block("json seaweedfs", **{ENDPOINT: self.bridge.endpoint, "us-east-1": self.bridge.region,
                                                       "AKIAEXAMPLE": self.bridge.access_key,
                                                       "SECRETEXAMPLE": self.bridge.secret_key}))
        (identity,) = config["identities"]
        self.credentials = identity["credentials"][0]
        (self.directory / "s3.json").write_text(json.dumps(config))
        for attempt in range(TRIES):
            if self._try(attempt):
                return self
        raise AssertionError(f"SeaweedFS did not start\n{self.program.said()}")

    def _try(self, attempt):
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        data = self.directory / f"data{attempt}"
        data.mkdir()
        # Small volumes, and many: each bucket takes some of its own.
        command = [installed("weed"), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}", "-s3", "-s3.iam=false",
                   "-s3.config=s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=200", "-volume.preStopSeconds=0",
                   "-master.volumeSizeLimitMB=16", *(f"-{name}={port}" for name, port in self.ports.items())]
        self.program = Program("weed", command, program_env(self.directory), self.directory).start()
        try:
            wait_for(lambda: not self.program.alive() or answers(self.endpoint) is not None, "the start of SeaweedFS")
            if not self.program.alive():
                return False
            # The gateway answers before the volume server has room.
            wait_for(self._stores, "the first object in SeaweedFS")
            return True
        except AssertionError:
            self.close()
            return False

    def _stores(self):
        s3 = self.client()
        try:
            s3.create_bucket(Bucket="warm-up")
        except s3.exceptions.ClientError:
            pass
        try:
            s3.put_object(Bucket="warm-up", Key="object", Body=b"warm")
            return True
        except s3.exceptions.ClientError:
            return False

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    @property
    def filer(self):
        return f"http://127.0.0.1:{self.ports['filer.port']}"

    def client(self, anonymous=False):
        options = {"signature_version": UNSIGNED} if anonymous else {}
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1",
                            aws_access_key_id=self.credentials["accessKey"], aws_secret_access_key=self.credentials["secretKey"],
                            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, **options))

    def bucket(self):
        name = f"bucket-{secrets.token_hex(4)}"
        self.client().create_bucket(Bucket=name)
        return name

    def close(self):
        """Killed: at SIGTERM its parts wait for each other, and nobody needs the data."""
        if self.program is not None:
            self.program.kill()
        for port in self.ports.values():
            for path in glob.glob(f"/tmp/seaweedfs-*-{port}.sock"):
                os.unlink(path)
