"""A trail without its service: `audit serve` of a copy for the stock AWS CLI, and `audit verify https://…` of a bucket from afar."""

import base64
import gzip
import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

from bridge import binary, clean_env
from cli import debian, version_1
from instance import ACCOUNT, COMMAND, REGION, STOP, TRAIL, until

ARN = f"arn:aws:cloudtrail:{REGION}:{ACCOUNT}:trail/{TRAIL}"
SEALING = {"audit": {"seal_seconds": 1, "digest_seconds": 2, "checkpoint_seconds": 1}}
SINCE = "2020-01-01T00:00:00Z"


class Served:
    """`audit serve` of a folder: no configuration, no token."""

    def __init__(self, root, *args):
        self.root, self.stderr = root, root / "serve.stderr"
        with open(self.stderr, "wb") as err:
            self.process = subprocess.Popen([str(binary()), "audit", "serve", *map(str, args), "--listen", "127.0.0.1:0"], text=True,
                                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, env=clean_env(), cwd=root)
        self.exports = {}
        for line in self.process.stdout:
            if line.startswith("export "):
                name, value = line.removeprefix("export ").strip().split("=", 1)
                self.exports[name] = value
            if line.startswith("# aws "):
                assert ARN in line
                break
        assert len(self.exports) == 4, self.stderr.read_text()
        self.data_path = root / "data"
        subprocess.run([str(binary()), "audit", "aws-data-path", "--out", str(self.data_path), "--endpoint",
                        self.exports["AWS_ENDPOINT_URL"]], check=True, capture_output=True, env=clean_env(), timeout=COMMAND)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(STOP)
        self.process.stdout.close()

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(STOP)

    def aws(self, program, *words, **changes):
        env = clean_env(HOME=str(self.root), **{**self.exports, **changes})
        words = list(map(str, words))
        if program == debian():
            words = ["--endpoint-url", env.pop("AWS_ENDPOINT_URL"), *words]
            env["AWS_DATA_PATH"] = str(self.data_path)
        return subprocess.run([program, *words], env=env, capture_output=True, text=True, timeout=COMMAND, cwd=self.root)

    def validate(self, program, **changes):
        return self.aws(program, "cloudtrail", "validate-logs", "--trail-arn", ARN, "--start-time", SINCE, "--verbose", **changes)


def sealed(trail, kind):
    return sorted(path for path in (trail / "bucket").rglob("*.json.gz") if kind in path.parts)


def lived(make):
    """An instance that sealed several files, still serving."""
    one = make(sections=SEALING).init()
    one.start()
    one.new_key()
    until("two digests", lambda: len(sealed(one.trail_dir, "CloudTrail-Digest")) >= 2)
    return one


def evidence(one, root):
    """What an auditor takes along."""
    return shutil.copytree(one.trail_dir, root / "evidence", symlinks=True)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path):
    text = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(text[:-20] + bytes([text[-20] ^ 1]) + text[-19:]))


def test_the_stock_cli_validates_a_copy(make, tmp_path):
    one = lived(make)
    one.stop()
    copy = evidence(one, tmp_path)
    one.close()
    before = files(copy)
    with Served(tmp_path, copy) as served:
        assert served.exports["AWS_DEFAULT_REGION"] == REGION
        assert "Nothing is recorded" in served.stderr.read_text()
        for aws in (version_1(), debian()):
            done = served.validate(aws)
            assert done.returncode == 0 and "files valid" in done.stdout, done.stdout + done.stderr
            done = served.aws(aws, "s3", "ls", "--recursive", "s3://hsm-audit/")
            assert done.returncode == 0 and "CloudTrail-Digest" in done.stdout, done.stdout + done.stderr

            wrong = {"AWS_SECRET_ACCESS_KEY": "A" * 40}
            done = served.validate(aws, **wrong)
            assert done.returncode not in (0, 1) and "InvalidSignatureException" in done.stderr, done.stdout + done.stderr
            done = served.aws(aws, "s3", "ls", "s3://hsm-audit/", **wrong)
            assert done.returncode != 0 and "SignatureDoesNotMatch" in done.stderr, done.stdout + done.stderr
            done = served.validate(aws, AWS_ACCESS_KEY_ID="AKIAAAAAAAAAAAAAAAAA")
            assert done.returncode not in (0, 1) and "UnrecognizedClientException" in done.stderr, done.stdout + done.stderr

        done = served.aws(version_1(), "cloudtrail", "lookup-events")
        assert done.returncode != 0 and "UnsupportedOperation" in done.stderr, done.stdout + done.stderr
        done = served.aws(version_1(), "cloudtrail", "stop-logging", "--name", TRAIL)
        assert done.returncode != 0 and "OperationNotPermitted" in done.stderr, done.stdout + done.stderr
        done = served.aws(version_1(), "s3", "rm", "s3://hsm-audit/AWSLogs/x")
        assert done.returncode != 0 and "AccessDenied" in done.stderr, done.stdout + done.stderr
        status = json.loads(served.aws(version_1(), "cloudtrail", "get-trail-status", "--name", TRAIL).stdout)
        assert status["IsLogging"] is False
        assert files(copy) == before, "nothing is written"

        flip(sealed(copy, "CloudTrail")[0])
        for aws in (version_1(), debian()):
            done = served.validate(aws)
            assert done.returncode == 1 and "hash value doesn't match" in done.stdout + done.stderr, done.stdout + done.stderr
        assert served.end(signal.SIGTERM) == 0
    with Served(tmp_path, copy) as served:
        assert served.end(signal.SIGINT) == 0


def test_an_export_alone(make, tmp_path):
    one, bundle = lived(make), tmp_path / "bundle"
    one.run("audit", "export", "--format", "csv", "--out", bundle)
    one.stop()
    one.close()
    with Served(tmp_path, "--bundle", bundle) as served:
        assert "no sealed log files" in served.stderr.read_text()
        done = served.aws(version_1(), "s3", "ls", "--recursive", "s3://hsm-audit/")
        assert "manifest" not in done.stdout and "NoSuchBucket" not in done.stderr, done.stdout + done.stderr
        # What verify-query-results does: the keys of ListPublicKeys, and the files.
        for aws in (version_1(), debian()):
            listed = served.aws(aws, "cloudtrail", "list-public-keys", "--start-time", SINCE, "--output", "json")
            assert listed.returncode == 0, listed.stderr
            keys = {key["Fingerprint"]: key["Value"] for key in json.loads(listed.stdout)["PublicKeyList"]}
            sign = json.loads((bundle / "result_sign.json").read_text())
            key = serialization.load_der_public_key(base64.b64decode(keys[sign["publicKeyFingerprint"]]))
            text = " ".join(file["fileHashValue"] for file in sign["files"])
            key.verify(bytes.fromhex(sign["hashSignature"]), text.encode(), padding.PKCS1v15(), hashes.SHA256())
        if newer := os.environ.get("HSM_BRIDGE_AWS_V2"):
            words = ("cloudtrail", "verify-query-results", "--local-export-path", bundle)
            done = served.aws(newer, *words)
            assert done.returncode == 0, done.stdout + done.stderr
            table = bundle / sign["files"][0]["fileName"]
            table.write_bytes(table.read_bytes() + b"\n")
            done = served.aws(newer, *words)
            assert done.returncode != 0, done.stdout + done.stderr


@pytest.mark.parametrize("what", ["address", "nothing", "no trail"])
def test_what_is_not_served(tmp_path, what):
    folder = tmp_path / "folder"
    folder.mkdir()
    listen, says = "127.0.0.1:0", "keys/keys.json"
    if what == "address":
        listen, says = "0.0.0.0:0", "loopback"
    elif what == "no trail":
        (folder / "keys").mkdir()
        (folder / "keys" / "keys.json").write_text("[]")
        says = "which trail"
    done = subprocess.run([str(binary()), "audit", "serve", str(folder), "--listen", listen], capture_output=True, text=True,
                          env=clean_env(), timeout=COMMAND)
    assert done.returncode == 1 and says in done.stderr and done.stdout == "", done.stdout + done.stderr


# -- audit verify https://… --------------------------------------------------------------------------------------------------------

def verify_url(url, *args, key, secret, region=REGION):
    env = clean_env(AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret, AWS_REGION=region)
    return subprocess.run([str(binary()), "audit", "verify", url, *map(str, args)], capture_output=True, text=True, env=env,
                          timeout=COMMAND, stdin=subprocess.DEVNULL)


def test_a_running_service_is_verified_from_afar(make, tmp_path):
    one = lived(make)
    url, good = f"http://{one.address}/", {"key": one.access_key, "secret": one.secret_key}
    for _ in range(3):
        done = verify_url(url, **good)
        assert done.returncode == 0, done.stdout + done.stderr
        time.sleep(0.5)
    for says in ("OK", url, ARN, "the journal was not", "log files, by"):
        assert says in done.stdout, done.stdout
    report = json.loads(verify_url(url, "--json", "--trail", ARN, **good).stdout)
    assert report["verdict"] == "OK" and report["digests"] >= 2 and report["logFiles"] >= 2, report

    for args, change, code, says in [
        ([], {"secret": "A" * 40}, 6, "InvalidSignatureException"),
        ([], {"key": "AKIAAAAAAAAAAAAAAAAA"}, 6, "UnrecognizedClientException"),
        ([], {"region": "ap-south-1"}, 6, "InvalidSignatureException"),
        (["--trail", ARN + "2"], {}, 6, "no trail"),
        (["--state", tmp_path / "state"], {}, 64, "need the journal"),
    ]:
        done = verify_url(url, *args, **{**good, **change})
        assert done.returncode == code and says in done.stderr, (args, change, done.stdout, done.stderr)
    done = verify_url("http://192.0.2.1/", **good)
    assert done.returncode == 64 and "https is needed" in done.stderr, done.stderr
    done = verify_url("http://127.0.0.1:1/", **good)
    assert done.returncode == 6, done.stderr


def test_what_is_wrong_in_the_bucket_is_seen_from_afar(make, tmp_path):
    one = lived(make)
    one.stop()
    copy = evidence(one, tmp_path)
    one.close()
    with Served(tmp_path, copy) as served:
        key = {"key": served.exports["AWS_ACCESS_KEY_ID"], "secret": served.exports["AWS_SECRET_ACCESS_KEY"]}

        def judged():
            return verify_url(served.exports["AWS_ENDPOINT_URL"], **key)

        done = judged()
        assert done.returncode == 0 and "serves a copy" in done.stdout, done.stdout + done.stderr

        def undone(path):
            kept = path.read_bytes()
            return lambda: path.write_bytes(kept)

        log, digest = sealed(copy, "CloudTrail")[0], sealed(copy, "CloudTrail-Digest")[0]
        meta = digest.with_name(digest.name + ".meta")
        other = log.with_name(log.name.replace(".json.gz", "")[:-16] + "A" * 16 + ".json.gz")
        for path, edit, code in [
            (log, lambda: flip(log), 1),
            (log, log.unlink, 1),
            (digest, digest.unlink, 1),
            (meta, lambda: meta.write_text(meta.read_text().replace('"signature":"', '"signature":"00')), 5),
        ]:
            undo = undone(path)
            edit()
            done = judged()
            undo()
            assert done.returncode in (1, code), (path, done.stdout, done.stderr)
        shutil.copy(log, other)
        done = judged()
        assert done.returncode == 1, "an unlisted file among listed ones"
        other.unlink()
        keys = copy / "keys" / "keys.json"
        keys.write_text("[]")
        done = judged()
        assert done.returncode == 5, done.stdout + done.stderr
