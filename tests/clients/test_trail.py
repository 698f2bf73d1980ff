"""The log as stock clients see it: CloudTrail and S3 on the bridge's port, for auditors. The scenarios and what the clients make of
them are those of CloudTrail's own integrity check: some of them it cannot see, and that is asserted too."""

import contextlib
import gzip
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import boto3
import pytest
from botocore.config import Config

from bridge import Bridge
from checks import refused
from cli import debian, version_1
from iam_tool import Iam, allow

BUCKET = "hsm-audit"
SINCE = "2020-01-01T00:00:00Z"


class Trail:
    """A bridge with several signed digests: each stop signs one."""

    def __init__(self, root):
        self.bridge = Bridge().start()
        self.root = root
        for _ in range(4):
            self.key = self.bridge.new_key()
            self.bridge.kms.encrypt(KeyId=self.key, Plaintext=b"x")
            time.sleep(1.1)
            self.bridge.restart()
        data = root / "data"
        self.bridge.run("audit", "aws-data-path", "--out", data, "--endpoint", self.bridge.env["AWS_ENDPOINT_URL"])
        self.data_path = data
        self.arn = f"arn:aws:cloudtrail:{self.bridge.region}:{self.bridge.account}:trail/hsm-bridge"
        self.folder = self.bridge.audit_dir / "bucket"

    def client(self, service, key=None, region=None, **config):
        """boto3 without the bridge's hooks, which read bodies."""
        key = key or (self.bridge.access_key, self.bridge.secret_key)
        return boto3.client(service, aws_access_key_id=key[0], aws_secret_access_key=key[1],
                            region_name=region or self.bridge.region, endpoint_url=self.bridge.env["AWS_ENDPOINT_URL"],
                            config=Config(retries={"total_max_attempts": 1}, **config))

    def aws(self, program, *words, region=None):
        env = self.bridge.tool_env(HOME=str(self.root))
        words = [str(word) for word in words]
        if program == debian():
            env.pop("AWS_ENDPOINT_URL")
            env["AWS_DATA_PATH"] = str(self.data_path)
            words = ["--endpoint-url", self.bridge.env["AWS_ENDPOINT_URL"], *words]
        if region:
            words = ["--region", region, *words]
        return subprocess.run([program, *words], env=env, capture_output=True, text=True, timeout=120, cwd=self.root)

    def validate(self, program, **options):
        return self.aws(program, "cloudtrail", "validate-logs", "--trail-arn", self.arn, "--start-time", SINCE, "--verbose",
                        **options)

    def files(self, kind):
        """Digests or logs, oldest first."""
        return sorted(p for p in self.folder.rglob("*.json.gz") if kind in p.parts)

    @contextlib.contextmanager
    def edited(self, edit):
        """What is done to the bucket is undone; what the server adds meanwhile stays, for it goes on from there."""
        kept = self.root / "kept"
        shutil.copytree(self.folder, kept)
        left = set()
        try:
            edit(self)
            left = self.everything()
            yield
        finally:
            for path in left:
                path.unlink()
            shutil.copytree(kept, self.folder, dirs_exist_ok=True)
            shutil.rmtree(kept)

    def everything(self):
        return {path for path in self.folder.rglob("*") if path.is_file()}

    def last(self, name):
        return next(r for r in reversed(self.bridge.journal()) if r["eventName"] == name)


@pytest.fixture(scope="module")
def trail(tmp_path_factory):
    made = Trail(tmp_path_factory.mktemp("trail"))
    try:
        yield made
    finally:
        made.bridge.close()


@pytest.fixture(params=["v1", "debian"])
def aws(request):
    return version_1() if request.param == "v1" else debian()


# -- what an auditor does ------------------------------------------------------------------------------------------------------

def test_a_real_run_is_valid(trail, aws):
    done = trail.validate(aws)
    assert done.returncode == 0, done.stdout + done.stderr
    digests, logs = len(trail.files("CloudTrail-Digest")), len(trail.files("CloudTrail"))
    # The server goes on sealing: there may be one more by now.
    told = [line.split() for line in done.stdout.splitlines() if "files valid" in line]
    assert [w[1:] for w in told] == [["digest", "files", "valid"], ["log", "files", "valid"]], done.stdout
    counts = [[int(n) for n in w[0].split("/")] for w in told]
    assert all(a == b for a, b in counts) and 3 <= counts[0][0] <= digests and 3 <= counts[1][0] <= logs, done.stdout


def gunzipped(path, change):
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


def one_byte(text):
    return text[:-20] + bytes([text[-20] ^ 1]) + text[-19:]


def swap(a, b):
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second), b.write_bytes(first)


def swap_digests(trail):
    a, b = trail.files("CloudTrail-Digest")[1:3]
    swap(a, b)
    swap(a.with_name(a.name + ".meta"), b.with_name(b.name + ".meta"))


def drop(*paths):
    for path in paths:
        path.unlink()


def first_log(trail):
    return next(p for p in trail.files("CloudTrail"))


def reorder(path):
    def change(text):
        records = json.loads(text)["Records"]
        return json.dumps({"Records": records[::-1]}).encode()
    gunzipped(path, change)


def rename_signature(trail):
    meta = trail.files("CloudTrail-Digest")[1]
    meta = meta.with_name(meta.name + ".meta")
    members = json.loads(meta.read_text())
    meta.write_text(json.dumps({"signature": members["signature"][:-2] + "00", **{k: v for k, v in members.items() if k != "signature"}}))


def without_signature(trail):
    path = trail.files("CloudTrail-Digest")[1]
    drop(path.with_name(path.name + ".meta"))


SEEN = {
    "one byte of a log": (lambda t: gunzipped(first_log(t), one_byte), "hash value doesn't match"),
    "log deleted": (lambda t: drop(first_log(t)), "not found"),
    "records reordered": (lambda t: reorder(first_log(t)), "hash value doesn't match"),
    "two logs swapped": (lambda t: swap(*t.files("CloudTrail")[:2]), "hash value doesn't match"),
    "digest edited": (lambda t: gunzipped(t.files("CloudTrail-Digest")[1], lambda d: d.replace(b'"newestEventTime"', b'"newestEventTimf"')),
                      "INVALID"),
    "middle digest deleted": (lambda t: drop(t.files("CloudTrail-Digest")[1]), "not found"),
    "two digests deleted": (lambda t: drop(*t.files("CloudTrail-Digest")[1:3]), "not found"),
    "two digests swapped": (swap_digests, "moved from its original location"),
    "signature missing": (without_signature, "INVALID"),
    "other signature": (rename_signature, "INVALID"),
}


@pytest.mark.parametrize("scenario", SEEN)
def test_edits_that_the_stock_client_sees(trail, aws, scenario):
    edit, says = SEEN[scenario]
    with trail.edited(edit):
        done = trail.validate(aws)
    assert done.returncode == 1 and says in done.stdout + done.stderr, done.stdout + done.stderr


def cut_tail(trail):
    newest = trail.files("CloudTrail-Digest")[-1]
    listed = json.loads(gzip.decompress(newest.read_bytes()))["logFiles"]
    drop(newest, *(trail.folder / log["s3Object"] for log in listed))


def extra_log(trail):
    log = trail.files("CloudTrail")[-1]
    shutil.copy(log, log.with_name(log.name.replace(".json.gz", "")[:-16] + "AAAAAAAAAAAAAAAA.json.gz"))


@pytest.mark.parametrize("edit", [cut_tail, extra_log])
def test_edits_that_it_does_not_see(trail, aws, edit):
    for _ in range(5):
        with trail.edited(edit):
            before = trail.files("CloudTrail-Digest")
            done = trail.validate(aws)
            # A digest that was made meanwhile names what was cut: then it is seen.
            alone = trail.files("CloudTrail-Digest") == before
        if alone:
            break
    assert alone and done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_region_is_no_clean_bill(trail, aws):
    """AWS itself answers "No digests found", exit code 0."""
    done = trail.validate(aws, region="ap-south-1")
    assert done.returncode != 0 and "valid region" in done.stderr, done.stdout + done.stderr
    done = trail.aws(aws, "s3", "ls", f"s3://{BUCKET}/", region="ap-south-1")
    assert done.returncode != 0 and "AuthorizationHeaderMalformed" in done.stderr, done.stdout + done.stderr


def test_s3_commands(trail, aws, tmp_path):
    done = trail.aws(aws, "s3", "ls", "--recursive", f"s3://{BUCKET}/")
    assert done.returncode == 0 and "CloudTrail-Digest" in done.stdout and ".meta" not in done.stdout, done.stdout + done.stderr
    done = trail.aws(aws, "s3", "sync", f"s3://{BUCKET}/", tmp_path / "all")
    assert done.returncode == 0, done.stdout + done.stderr
    for path in trail.files("CloudTrail-Digest")[:3]:
        assert (tmp_path / "all" / path.relative_to(trail.folder)).read_bytes() == path.read_bytes()
    one = trail.files("CloudTrail")[0].relative_to(trail.folder)
    done = trail.aws(aws, "s3", "cp", f"s3://{BUCKET}/{one}", tmp_path / "one")
    assert done.returncode == 0 and (tmp_path / "one").read_bytes() == (trail.folder / one).read_bytes(), done.stderr


def test_trail_commands(trail, aws):
    done = trail.aws(aws, "cloudtrail", "list-public-keys", "--output", "json")
    assert done.returncode == 0 and json.loads(done.stdout)["PublicKeyList"], done.stdout + done.stderr
    done = trail.aws(aws, "cloudtrail", "get-trail-status", "--name", trail.arn, "--output", "json")
    status = json.loads(done.stdout)
    assert status["IsLogging"] is True and status["LatestDigestDeliveryTime"] and status["LatestDeliveryTime"]
    done = trail.aws(aws, "cloudtrail", "lookup-events", "--lookup-attributes", f"AttributeKey=ResourceName,AttributeValue={trail.key}",
                     "--output", "json")
    names = [event["EventName"] for event in json.loads(done.stdout)["Events"]]
    assert names == ["Encrypt", "CreateKey"], done.stdout + done.stderr


# -- lookups -------------------------------------------------------------------------------------------------------------------

def test_lookup_events(trail):
    cloudtrail = trail.client("cloudtrail")
    key = trail.bridge.new_key()
    for _ in range(7):
        trail.bridge.kms.encrypt(KeyId=key, Plaintext=b"x")
    by = [{"AttributeKey": "ResourceName", "AttributeValue": trail.bridge.key_arn(key)}]
    pages = list(cloudtrail.get_paginator("lookup_events").paginate(LookupAttributes=by, PaginationConfig={"PageSize": 3}))
    events = [event for page in pages for event in page["Events"]]
    assert [e["EventName"] for e in events] == ["Encrypt"] * 7 + ["CreateKey"] and [len(p["Events"]) for p in pages] == [3, 3, 2]
    lines = {json.loads(line)["eventID"]: line.decode() for line in trail.bridge.journal_lines()}
    for event in events:
        assert event["CloudTrailEvent"] == lines[event["EventId"]]
        assert event["ReadOnly"] == ("false" if event["EventName"] == "CreateKey" else "true")
        assert (event["EventSource"], event["Username"]) == ("kms.amazonaws.com", "root")
        assert event["Resources"][0] == {"ResourceType": "AWS::KMS::Key", "ResourceName": trail.bridge.key_arn(key)}
    one = events[3]
    found = cloudtrail.lookup_events(LookupAttributes=[{"AttributeKey": "EventId", "AttributeValue": one["EventId"]}])["Events"]
    assert found == [one]
    # Intents are not told; their outcomes are.
    assert "HsmBridgeIntent" not in {json.loads(e["CloudTrailEvent"])["eventType"] for e in events}
    token = cloudtrail.lookup_events(LookupAttributes=by, MaxResults=3)["NextToken"]
    for params in [{"NextToken": token}, {"NextToken": "x", "LookupAttributes": by}, {"NextToken": token + "A", "LookupAttributes": by}]:
        with refused("InvalidNextTokenException"):
            cloudtrail.lookup_events(**params)
    with refused("InvalidTimeRangeException"):
        cloudtrail.lookup_events(StartTime=2_000_000_000, EndTime=1_000_000_000)


def test_a_deleted_index_is_made_anew(trail):
    for path in trail.bridge.audit_dir.glob("index.sqlite*"):
        path.unlink()
    trail.bridge.restart()
    by = [{"AttributeKey": "ResourceName", "AttributeValue": trail.key}]
    events = trail.client("cloudtrail").lookup_events(LookupAttributes=by)["Events"]
    assert [event["EventName"] for event in events] == ["Encrypt", "CreateKey"]


# -- who may -------------------------------------------------------------------------------------------------------------------

def readers_calls(trail, key):
    """Action → a call that needs it."""
    cloudtrail, s3 = trail.client("cloudtrail", key), trail.client("s3", key)
    sealed = str(trail.files("CloudTrail")[0].relative_to(trail.folder))
    return {
        "cloudtrail:DescribeTrails": lambda: cloudtrail.describe_trails(),
        "cloudtrail:GetTrail": lambda: cloudtrail.get_trail(Name="hsm-bridge"),
        "cloudtrail:GetTrailStatus": lambda: cloudtrail.get_trail_status(Name="hsm-bridge"),
        "cloudtrail:ListTrails": lambda: cloudtrail.list_trails(),
        "cloudtrail:ListPublicKeys": lambda: cloudtrail.list_public_keys(),
        "cloudtrail:GetEventSelectors": lambda: cloudtrail.get_event_selectors(TrailName="hsm-bridge"),
        "cloudtrail:LookupEvents": lambda: cloudtrail.lookup_events(MaxResults=1),
        "s3:ListAllMyBuckets": lambda: s3.list_buckets(),
        "s3:ListBucket": lambda: s3.list_objects_v2(Bucket=BUCKET),
        "s3:GetObject": lambda: s3.get_object(Bucket=BUCKET, Key=sealed),
    }


def test_each_action_is_a_permission_of_its_own(trail):
    iam = Iam(trail.bridge)
    for number, action in enumerate(readers_calls(trail, None)):
        iam.make_user(f"reader-{number}", policies={"p": allow(action)})
        calls = readers_calls(trail, iam.access_key(user=f"reader-{number}"))
        calls[action]()
        for other, call in calls.items():
            if other != action:
                code, status = ("AccessDenied", 403) if other.startswith("s3:") else ("AccessDeniedException", 400)
                with refused(code, status=status) as seen:
                    call()
                assert other in seen.message, seen.message


def test_the_built_in_policy_reads_and_does_no_more(trail):
    iam = Iam(trail.bridge)
    iam.make_user("auditor", attached=["arn:aws:iam::aws:policy/HsmBridgeAuditor"])
    key = iam.access_key(user="auditor")
    for call in readers_calls(trail, key).values():
        call()
    with refused("AccessDeniedException"):
        trail.client("kms", key).list_keys()
    iam.make_user("administrator", attached=["arn:aws:iam::aws:policy/AWSKeyManagementServicePowerUser"])
    with refused("AccessDeniedException"):
        trail.client("cloudtrail", iam.access_key(user="administrator")).lookup_events()


def test_another_account_never_reads(trail):
    other = Iam(trail.bridge).make_account("999988887777")
    other.make_user("spy", attached=["arn:aws:iam::aws:policy/AdministratorAccess"])
    for action, call in readers_calls(trail, other.access_key(user="spy")).items():
        with refused("AccessDenied" if action.startswith("s3:") else "AccessDeniedException",
                     status=403 if action.startswith("s3:") else 400):
            call()


# -- what nobody may -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("operation, params", [
    ("stop_logging", {"Name": "hsm-bridge"}), ("start_logging", {"Name": "hsm-bridge"}), ("delete_trail", {"Name": "hsm-bridge"}),
    ("update_trail", {"Name": "hsm-bridge"}), ("create_trail", {"Name": "hsm-bridge", "S3BucketName": "b"}),
    ("put_event_selectors", {"TrailName": "hsm-bridge", "EventSelectors": []}),
])
def test_the_trail_cannot_be_changed(trail, operation, params):
    with refused("OperationNotPermittedException", "Audit logging cannot be stopped."):
        getattr(trail.client("cloudtrail"), operation)(**params)
    name = "".join(word.capitalize() for word in operation.split("_"))
    record = trail.last(name)
    assert (record["eventSource"], record["errorCode"]) == ("cloudtrail.amazonaws.com", "OperationNotPermittedException")
    assert record["requestParameters"] == {"name": "hsm-bridge"} and record["readOnly"] is False


@pytest.mark.parametrize("operation, params, name", [
    ("put_object", {"Key": "k", "Body": b"x"}, "PutObject"), ("delete_object", {"Key": "k"}, "DeleteObject"),
    ("delete_objects", {"Delete": {"Objects": [{"Key": "k"}]}}, "DeleteObjects"), ("delete_bucket", {}, "DeleteBucket"),
    ("create_multipart_upload", {"Key": "k"}, "CreateMultipartUpload"), ("delete_bucket_policy", {}, "DeleteBucketPolicy"),
])
def test_the_bucket_cannot_be_changed(trail, operation, params, name):
    with refused("AccessDenied", "Access Denied", status=403):
        getattr(trail.client("s3"), operation)(Bucket=BUCKET, **params)
    record = trail.last(name)
    assert (record["eventSource"], record["errorCode"], record["readOnly"]) == ("s3.amazonaws.com", "AccessDenied", False)
    key = {"key": params["Key"]} if "Key" in params else {}
    assert record["requestParameters"] == {"bucketName": BUCKET} | key


def test_reads_are_recorded(trail):
    sealed = str(trail.files("CloudTrail")[0].relative_to(trail.folder))
    trail.client("s3").get_object(Bucket=BUCKET, Key=sealed, Range="bytes=0-9")
    record = trail.last("GetObject")
    assert record["requestParameters"] == {"bucketName": BUCKET, "key": sealed, "Range": "bytes=0-9"}
    assert {r["type"]: r["ARN"] for r in record["resources"]} == {
        "AWS::S3::Object": f"arn:aws:s3:::{BUCKET}/{sealed}", "AWS::S3::Bucket": f"arn:aws:s3:::{BUCKET}"}
    assert record["readOnly"] is True and record["additionalEventData"]["authorization"]["decision"] == "Allow"
    trail.client("cloudtrail").lookup_events(LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "Encrypt"}])
    record = trail.last("LookupEvents")
    assert record["requestParameters"]["lookupAttributes"] == [{"attributeKey": "EventName", "attributeValue": "Encrypt"}]
    assert record["resources"][0]["ARN"] == trail.arn and record["resources"][0]["type"] == "AWS::CloudTrail::Trail"


# -- signatures ------------------------------------------------------------------------------------------------------------------

def get(url, method="GET", **headers):
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.read().decode("latin-1")


def test_unsigned_and_old_signatures_are_refused_with_s3s_text(trail):
    url = f"{trail.bridge.env['AWS_ENDPOINT_URL']}/{BUCKET}/k"
    status, text = get(url)
    assert status == 403 and "<Code>AccessDenied</Code><Message>Access Denied</Message>" in text
    old = ("<Code>InvalidRequest</Code><Message>The authorization mechanism you have provided is not supported. Please use "
           "AWS4-HMAC-SHA256.</Message>")
    status, text = get(url, Authorization=f"AWS {trail.bridge.access_key}:abcdefgh")
    assert status == 400 and old in text
    status, text = get(f"{url}?AWSAccessKeyId={trail.bridge.access_key}&Signature=abc&Expires=1")
    assert status == 400 and old in text
    assert get(url, method="HEAD") == (403, "")


def test_presigned_reads(trail):
    s3 = trail.client("s3", signature_version="s3v4")
    sealed = trail.files("CloudTrail")[0]
    url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": str(sealed.relative_to(trail.folder))}, ExpiresIn=60)
    status, body = get(url)
    assert status == 200 and body.encode("latin-1") == sealed.read_bytes()
    assert get(url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"))[0] == 403
    assert get(url, method="DELETE")[0] == 403


def test_wrong_secret_and_unknown_key(trail):
    with refused("SignatureDoesNotMatch", status=403):
        trail.client("s3", (trail.bridge.access_key, "wrong")).list_objects(Bucket=BUCKET)
    with refused("InvalidAccessKeyId", status=403):
        trail.client("s3", ("AKIAIOSFODNN7EXAMPLE", "wrong")).list_objects(Bucket=BUCKET)


@pytest.mark.parametrize("key", ["../LOCK", "AWSLogs/../../LOCK", "../keys/keys.json", "..%2fLOCK", "/etc/passwd"])
def test_no_key_leaves_the_bucket(trail, key):
    with refused("NoSuchKey", status=404):
        trail.client("s3").get_object(Bucket=BUCKET, Key=key)
