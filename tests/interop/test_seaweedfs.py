"""SeaweedFS as an S3 server with SSE-KMS: one GenerateDataKey per object written, one Decrypt (without KeyId) per object read.

What is asserted of SeaweedFS itself (its bucket policies, its anonymous callers) is what version 4.48 does, not what it should
do: docs/clients.md tells operators the same, and a newer version that does better is to fail here.
"""

import base64
import io
import json
import os
import secrets
import urllib.error
import urllib.request

import pytest
from botocore.exceptions import ClientError

from rotation import key_of, rotate

PART = 5 << 20


@pytest.fixture
def aliased(bridge):
    """(the first key, an alias of it)"""
    key = bridge.new_key()
    return key, bridge.new_alias(key, "alias/seaweedfs")


@pytest.fixture
def s3(weed):
    return weed.client()


@pytest.fixture
def bucket(weed):
    return weed.bucket()


def sse(alias_arn, **more):
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": alias_arn, **more}


def read(s3, bucket, key):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def refused(code, status, call, **params):
    with pytest.raises(ClientError) as raised:
        call(**params)
    answer = raised.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, status), answer


def http(url, method="GET", data=None, headers=()):
    """(status, body) without any AWS client in between."""
    request = urllib.request.Request(url, method=method, data=data, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_objects_before_and_after_a_rotation(bridge, s3, bucket, aliased):
    first, alias = aliased
    arn = bridge.alias_arn(alias)
    body = b"before the rotation " + secrets.token_bytes(2000)
    mark = bridge.mark()
    put = s3.put_object(Bucket=bucket, Key="dir/old", Body=body, **sse(arn))
    assert (put["ServerSideEncryption"], put["SSEKMSKeyId"]) == ("aws:kms", bridge.key_arn(first))
    assert read(s3, bucket, "dir/old") == body
    context = {"aws:s3:arn": f"arn:aws:s3:::{bucket}/dir/old"}
    made, opened = bridge.records("GenerateDataKey", "Decrypt", since=mark)
    assert made["requestParameters"] == {"keyId": arn, "keySpec": "AES_256", "encryptionContext": context}
    assert opened["requestParameters"]["encryptionContext"] == context and "keyId" not in opened["requestParameters"]

    second = rotate(bridge, alias)
    mark = bridge.mark()
    assert read(s3, bucket, "dir/old") == body
    put = s3.put_object(Bucket=bucket, Key="dir/new", Body=body, **sse(arn))
    assert put["SSEKMSKeyId"] == bridge.key_arn(second)
    assert read(s3, bucket, "dir/new") == body
    assert [(r["eventName"], key_of(r)) for r in bridge.records("GenerateDataKey", "Decrypt", since=mark)] == [
        ("Decrypt", first), ("GenerateDataKey", second), ("Decrypt", second)]

    # The bridge is asked for each object, so that it can say no.
    bridge.kms.disable_key(KeyId=first)
    with pytest.raises(ClientError):
        read(s3, bucket, "dir/old")
    assert read(s3, bucket, "dir/new") == body
    bridge.kms.enable_key(KeyId=first)
    assert read(s3, bucket, "dir/old") == body


def test_contexts_that_stand_in_the_audit_record(bridge, s3, bucket, aliased):
    _, alias = aliased
    arn = bridge.alias_arn(alias)
    bucket_arn = f"arn:aws:s3:::{bucket}"

    def context_of(call, **params):
        mark = bridge.mark()
        call(Bucket=bucket, **params)
        return [r["requestParameters"]["encryptionContext"] for r in bridge.records("GenerateDataKey", since=mark)]

    extra = base64.b64encode(json.dumps({"tenant": "blue"}).encode()).decode()
    assert context_of(s3.put_object, Key="a", Body=b"1", **sse(arn, SSEKMSEncryptionContext=extra)) == [
        {"aws:s3:arn": f"{bucket_arn}/a", "tenant": "blue"}]
    # A bucket key's context is the bucket, as in AWS.
    assert context_of(s3.put_object, Key="b", Body=b"1", **sse(arn, BucketKeyEnabled=True)) == [{"aws:s3:arn": bucket_arn}]
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [
        {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": arn}}]})
    assert context_of(s3.put_object, Key="c", Body=b"1") == [{"aws:s3:arn": f"{bucket_arn}/c"}]
    # And a copy's holds SeaweedFS's own path.
    assert context_of(s3.copy_object, Key="d", CopySource={"Bucket": bucket, "Key": "a"}, **sse(arn)) == [
        {"aws:s3:arn": f"{bucket_arn}//buckets/{bucket}/d"}]
    assert [read(s3, bucket, key) for key in "abcd"] == [b"1"] * 4


def test_aws_kms_needs_a_key_or_a_default(bridge, s3, bucket, aliased):
    refused("InternalError", 500, s3.put_object, Bucket=bucket, Key="a", Body=b"1", ServerSideEncryption="aws:kms")
    s3.put_object(Bucket=bucket, Key="a", Body=b"1", **sse(bridge.alias_arn(aliased[1])))
    refused("InternalError", 500, s3.put_object, Bucket=bucket, Key="b", Body=b"1", **sse("alias/there-is-no-such-alias"))


def test_a_multipart_upload(bridge, s3, bucket, aliased):
    first, alias = aliased
    body = os.urandom(2 * PART)
    mark = bridge.mark()
    s3.upload_fileobj(io.BytesIO(body), bucket, "big", ExtraArgs=sse(bridge.alias_arn(alias)))
    rotate(bridge, alias)
    assert read(s3, bucket, "big") == body
    records = bridge.records("GenerateDataKey", "Decrypt", since=mark)
    assert {r["eventName"] for r in records} == {"GenerateDataKey", "Decrypt"}
    assert {r["requestParameters"]["encryptionContext"]["aws:s3:arn"] for r in records} == {f"arn:aws:s3:::{bucket}/big"}
    assert {key_of(r) for r in records} == {first}


def test_an_anonymous_get_fails(bridge, weed, s3, bucket, aliased):
    _, alias = aliased
    s3.put_object(Bucket=bucket, Key="secret", Body=b"not for everybody", **sse(bridge.alias_arn(alias)))
    mark = bridge.mark()
    refused("AccessDenied", 403, weed.client(anonymous=True).get_object, Bucket=bucket, Key="secret")
    status, body = http(f"{weed.endpoint}/{bucket}/secret")
    assert status == 403 and b"not for everybody" not in body
    assert bridge.records("Decrypt", since=mark) == [], "refused before the KMS is asked"
    # It is there, for those who sign.
    assert read(s3, bucket, "secret") == b"not for everybody"


def test_an_anonymous_get_that_a_policy_allows_is_served(bridge, weed, s3, bucket, aliased):
    """At AWS it fails all the same: SSE-KMS objects are for signed requests only. SeaweedFS asks with its own credentials."""
    _, alias = aliased
    s3.put_object(Bucket=bucket, Key="secret", Body=b"for everybody", **sse(bridge.alias_arn(alias)))
    put_policy(s3, bucket, {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"})
    assert http(f"{weed.endpoint}/{bucket}/secret") == (200, b"for everybody")


def test_the_filer_gives_only_ciphertext(bridge, weed, s3, bucket, aliased):
    """The filer's port asks nobody who he is."""
    _, alias = aliased
    plain = b"plaintext " * 40
    s3.put_object(Bucket=bucket, Key="secret", Body=plain, **sse(bridge.alias_arn(alias)))
    s3.put_object(Bucket=bucket, Key="open", Body=plain)
    assert http(f"{weed.filer}/buckets/{bucket}/open") == (200, plain)
    status, stored = http(f"{weed.filer}/buckets/{bucket}/secret")
    assert status == 200 and len(stored) == len(plain) and b"plaintext" not in stored


# -- the bucket policy that denies what is not under aws:kms ----------------------------------------------------------------

def put_policy(s3, bucket, *statements):
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": list(statements)}))


def must_be_kms(bucket):
    return {"Sid": "MustBeKms", "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*",
            "Condition": {"StringNotEquals": {"s3:x-amz-server-side-encryption": "aws:kms"}}}


@pytest.fixture
def guarded(s3, bucket):
    """A bucket with AWS's policy of that kind."""
    s3.put_object(Bucket=bucket, Key="from-before", Body=b"1")
    put_policy(s3, bucket, must_be_kms(bucket))
    assert json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"] == [must_be_kms(bucket)]
    return bucket


def test_the_policy_denies_a_put_without_aws_kms(bridge, s3, guarded, aliased):
    arn = bridge.alias_arn(aliased[1])
    mark = bridge.mark()
    for params in ({}, {"ServerSideEncryption": "AES256"}):
        refused("AccessDenied", 403, s3.put_object, Bucket=guarded, Key="a", Body=b"1", **params)
        refused("AccessDenied", 403, s3.create_multipart_upload, Bucket=guarded, Key="a", **params)
        refused("AccessDenied", 403, s3.copy_object, Bucket=guarded, Key="a",
                CopySource={"Bucket": guarded, "Key": "from-before"}, **params)
    url = s3.generate_presigned_url("put_object", Params={"Bucket": guarded, "Key": "a"})
    status, body = http(url, "PUT", b"1", {"Content-Type": ""})
    assert status == 403 and b"AccessDenied" in body, body
    assert bridge.records("GenerateDataKey", since=mark) == []
    refused("NoSuchKey", 404, s3.get_object, Bucket=guarded, Key="a")

    s3.put_object(Bucket=guarded, Key="a", Body=b"1", **sse(arn))
    s3.copy_object(Bucket=guarded, Key="b", CopySource={"Bucket": guarded, "Key": "from-before"}, **sse(arn))
    assert read(s3, guarded, "a") == read(s3, guarded, "b") == b"1"
    # The bucket's own default does not stand in for the header; nor does it at AWS.
    s3.put_bucket_encryption(Bucket=guarded, ServerSideEncryptionConfiguration={"Rules": [
        {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": arn}}]})
    refused("AccessDenied", 403, s3.put_object, Bucket=guarded, Key="c", Body=b"1")


def test_the_policy_stops_multipart_uploads_under_aws_kms(bridge, s3, guarded, aliased):
    """Other than at AWS: the request that completes an upload carries no header, and is denied."""
    upload = s3.create_multipart_upload(Bucket=guarded, Key="big", **sse(bridge.alias_arn(aliased[1])))
    part = {"Bucket": guarded, "Key": "big", "UploadId": upload["UploadId"]}
    etag = s3.upload_part(PartNumber=1, Body=b"x" * 100, **part)["ETag"]
    refused("AccessDenied", 403, s3.complete_multipart_upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}, **part)


def post_form(s3, bucket, key, body):
    """A browser's upload."""
    form = s3.generate_presigned_post(bucket, key)
    line = secrets.token_hex(16)
    fields = "".join(f'--{line}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in form["fields"].items())
    file = f'--{line}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    return http(form["url"], "POST", fields.encode() + file.encode() + body + f"\r\n--{line}--\r\n".encode(),
                {"Content-Type": f"multipart/form-data; boundary={line}"})


def test_the_policy_does_not_see_uploads_by_form(bridge, s3, guarded, aliased):
    """Other than at AWS: POST goes past the policy. The bucket's default encryption is what catches it."""
    assert post_form(s3, guarded, "plain", b"by form")[0] == 204
    assert "ServerSideEncryption" not in s3.head_object(Bucket=guarded, Key="plain")
    s3.put_bucket_encryption(Bucket=guarded, ServerSideEncryptionConfiguration={"Rules": [
        {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": bridge.alias_arn(aliased[1])}}]})
    assert post_form(s3, guarded, "encrypted", b"by form")[0] == 204
    assert s3.head_object(Bucket=guarded, Key="encrypted")["ServerSideEncryption"] == "aws:kms"
    assert read(s3, guarded, "encrypted") == b"by form"


def test_operators_that_seaweedfs_does_not_know_are_refused(s3, bucket):
    """So that no policy stands there without an effect."""
    statement = must_be_kms(bucket)
    statement["Condition"] = {"StringNotEqualsIfExists": statement["Condition"]["StringNotEquals"]}
    with pytest.raises(ClientError, match="InvalidPolicyDocument"):
        put_policy(s3, bucket, statement)
