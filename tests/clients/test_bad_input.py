"""Bad input, one row each: AWS's error, a request id, nothing said that a caller may not know, and the server goes on.

`kmsclient` searches every reply for PKCS#11 codes, paths, the PIN and the secret.
"""

import json
import re

import pytest

from checks import ABSENT, check_text
from kmsclient import FORM, Signed, b64

GOOD = {"NumberOfBytes": 8}
MISMATCH = ("The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and "
            "signing method. Consult the service documentation for details.")
STRANGER = "The security token included in the request is invalid."
NO_TOKEN = "Request is missing Authentication Token"
STAMP = r"\d{8}T\d{6}Z"
UNKNOWN = "77777777-2222-4333-8444-555555555555"


def signed_by(**options):
    return lambda raw: raw.sign("GenerateRandom", GOOD, **options)


def authorization(change):
    """A good request whose Authorization header was changed."""
    def make(raw):
        request = raw.sign("GenerateRandom", GOOD)
        return request.replacing("Authorization", change(request.header("Authorization")))
    return make


def flip_signature(value):
    return value[:-1] + ("0" if value[-1] != "0" else "1")


def in_capitals(value):
    assert re.search("[a-f]", value[-64:]), "64 digits without a letter: once in 10^13"
    return value[:-64] + value[-64:].upper()


def unsigned(raw):
    return raw.sign("GenerateRandom", GOOD).without_header("Authorization")


def in_the_query(raw):
    request = raw.sign("GenerateRandom", GOOD)
    fields = dict(re.findall(r"(Credential|SignedHeaders|Signature)=([^,]+)", request.header("Authorization")))
    query = "&".join(["X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Date=" + request.header("X-Amz-Date")]
                     + [f"X-Amz-{k}={v.replace('/', '%2F').replace(';', '%3B')}" for k, v in fields.items()])
    bare = request.without_header("Authorization")
    return Signed("POST", "/?" + query, bare.headers, bare.body)


def must_be_signed(name):
    return f"'{name}' must be a 'SignedHeader' in the AWS Authorization."


# Who asks? name → (request, error, text)
SIGNATURES = {
    "unsigned": (unsigned, "MissingAuthenticationTokenException", NO_TOKEN),
    "signed in the query": (in_the_query, "MissingAuthenticationTokenException", NO_TOKEN),
    "wrong signature": (authorization(flip_signature), "InvalidSignatureException", MISMATCH),
    "signature of another length": (authorization(lambda v: v[:-2]), "InvalidSignatureException", MISMATCH),
    "signature in capitals": (authorization(in_capitals), "InvalidSignatureException", MISMATCH),
    "wrong secret": (signed_by(secret_key="x" * 40), "InvalidSignatureException", MISMATCH),
    "unknown access key": (signed_by(access_key="AKIA" + "Q" * 16), "UnrecognizedClientException", STRANGER),
    "access key in small letters": (lambda raw: raw.sign("GenerateRandom", GOOD, access_key=raw.access_key.lower()),
                                    "UnrecognizedClientException", STRANGER),
    "temporary access key": (signed_by(access_key="ASIA" + "Q" * 16), "UnrecognizedClientException", STRANGER),
    "date 20 minutes old": (signed_by(age=1200), "InvalidSignatureException", re.compile(
        rf"Signature expired: {STAMP} is now earlier than {STAMP} \({STAMP} - 15 min\.\)")),
    "date 20 minutes ahead": (signed_by(age=-1200), "InvalidSignatureException", re.compile(
        rf"Signature not yet current: {STAMP} is still later than {STAMP} \({STAMP} \+ 15 min\.\)")),
    "date ten years old": (signed_by(age=10 * 365 * 86400), "InvalidSignatureException", re.compile("Signature expired: .*")),
    "target added after signing": (lambda raw: raw.sign(None, GOOD).with_header("X-Amz-Target", "TrentService.GenerateRandom"),
                                   "InvalidSignatureException", must_be_signed("x-amz-target")),
    "target changed after signing": (lambda raw: raw.sign("ListKeys", GOOD).replacing("X-Amz-Target", "TrentService.GenerateRandom"),
                                     "InvalidSignatureException", MISMATCH),
    "x-amz header added after signing": (lambda raw: raw.sign("GenerateRandom", GOOD).with_header("X-Amz-Something", "1"),
                                         "InvalidSignatureException", must_be_signed("x-amz-something")),
    "content type not signed": (lambda raw: raw.sign("GenerateRandom", GOOD, content_type=None).with_header(
        "Content-Type", "application/x-amz-json-1.1"), "InvalidSignatureException", must_be_signed("content-type")),
    "content type changed": (lambda raw: raw.sign("GenerateRandom", GOOD).replacing("Content-Type", "application/json"),
                             "InvalidSignatureException", MISMATCH),
    "host not signed": (authorization(lambda v: v.replace("content-type;host;", "content-type;")), "InvalidSignatureException",
                        "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."),
    "a signed header is missing": (lambda raw: raw.sign("GenerateRandom", GOOD, headers={"Accept-Encoding": "identity"})
                                   .without_header("Accept-Encoding"), "InvalidSignatureException", None),
    "signed headers not sorted": (authorization(lambda v: v.replace("content-type;host;", "host;content-type;")),
                                  "InvalidSignatureException", None),
    "body changed": (lambda raw: raw.sign("GenerateRandom", GOOD).with_body(b'{"NumberOfBytes": 9}'), "InvalidSignatureException",
                     MISMATCH),
    "another host": (lambda raw: raw.sign("GenerateRandom", GOOD, host="kms.example.com").replacing("Host", f"{raw.host}:{raw.port}"),
                     "InvalidSignatureException", MISMATCH),
    "payload not hashed": (lambda raw: raw.sign("GenerateRandom", GOOD, headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}),
                           "InvalidSignatureException", None),
    "hash of another payload": (lambda raw: raw.sign("GenerateRandom", GOOD, headers={"X-Amz-Content-SHA256": "0" * 64}),
                                "InvalidSignatureException", None),
    "scope of another Region": (signed_by(region="us-west-2"), "InvalidSignatureException",
                                re.compile("Credential should be scoped to a valid region, not 'us-west-2'\\.")),
    "scope of another service": (signed_by(service="s3"), "InvalidSignatureException",
                                 re.compile("Credential should be scoped to correct service: 'kms'\\.")),
    "scope of STS": (signed_by(service="sts"), "InvalidSignatureException", None),
    "scope with another end": (signed_by(terminator="aws5_request"), "InvalidSignatureException",
                               "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5_request'."),
    "scope of another day": (authorization(lambda v: re.sub(r"/\d{8}/", "/20200101/", v)), "InvalidSignatureException",
                             re.compile("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
                                        rf"'20200101' != '\d{{8}}', from '{STAMP}'\.")),
    "scope of four parts": (authorization(lambda v: v.replace("/aws4_request", "")), "IncompleteSignatureException",
                            re.compile("Credential must have exactly 5 slash-delimited elements, e\\.g\\. "
                                       "keyid/date/region/service/term, got '.*'\\.?")),
    "no signature in it": (authorization(lambda v: v.partition(", Signature=")[0]), "IncompleteSignatureException",
                           re.compile("Authorization header requires 'Signature' parameter\\..*")),
    "only the algorithm": (authorization(lambda v: "AWS4-HMAC-SHA256"), "IncompleteSignatureException", None),
    "nonsense after the algorithm": (authorization(lambda v: "AWS4-HMAC-SHA256 nonsense"), "IncompleteSignatureException", None),
    "another algorithm": (authorization(lambda v: v.replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1")), "IncompleteSignatureException",
                          re.compile("Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA1'\\.?")),
    "basic": (authorization(lambda v: "Basic dXNlcjpwYXNz"), "IncompleteSignatureException",
              re.compile("Unsupported AWS 'algorithm': 'Basic'\\.?")),
    "two Authorization headers": (lambda raw: raw.sign("GenerateRandom", GOOD).with_header("Authorization", "AWS4-HMAC-SHA256 x=y"),
                                  "IncompleteSignatureException", None),
    "a date that is none": (lambda raw: raw.sign("GenerateRandom", GOOD).replacing("X-Amz-Date", "yesterday"),
                            "IncompleteSignatureException", re.compile("Date must be in ISO-8601 'basic format'\\. Got 'yesterday'.*")),
    "no date": (lambda raw: raw.sign("GenerateRandom", GOOD).without_header("X-Amz-Date"), "IncompleteSignatureException", None),
}


def good(raw):
    reply = raw.call("GenerateRandom", GOOD)
    assert reply.status == 200, reply
    raw.close()


def check(reply, code, text, status=400):
    assert reply.status == status, reply
    assert re.fullmatch(r"[0-9a-f-]{36}", reply.request_id or ""), reply.headers
    assert reply.headers["content-type"] == "application/x-amz-json-1.1"
    assert reply.type == code, reply.body
    # No `__type` with a name space, and no member beside these.
    assert set(reply.json()) <= {"__type", "message"}, reply.body
    assert reply.json().get("message", "text") not in ("", None), reply.body
    check_text(reply.text, text)


@pytest.mark.parametrize("row", SIGNATURES)
def test_signatures(either, row):
    make, code, text = SIGNATURES[row]
    raw = either.raw()
    check(raw.send(make(raw)), code, text)
    good(raw)


def test_what_signs_well_is_let_in(either):
    raw = either.raw()
    for request in (
        raw.sign("GenerateRandom", GOOD, age=800), raw.sign("GenerateRandom", GOOD, age=-800),
        raw.sign("GenerateRandom", GOOD, host="127.0.0.1"),  # libmongocrypt leaves the port out
        raw.sign("GenerateRandom", GOOD, headers={"X-Amz-Something": "  two   words ", "Accept-Encoding": "identity"}),
        raw.sign("GenerateRandom", GOOD).with_header("amz-sdk-request", "attempt=1").with_header("User-Agent", "test"),
        raw.sign("GenerateRandom", body=b'{"NumberOfBytes":8,"Unknown":{"deep":[1,2,{}]}}'),
        raw.sign("GenerateRandom", body=b' \n{"NumberOfBytes" : 8.0 }\n'),
    ):
        reply = raw.send(request)
        assert reply.status == 200, (request.headers, reply)


# What is asked? (operation, body, errors, text). {key} is a good key, {gone} a UUID that names none.
SERIAL = "SerializationException"
VALID = "ValidationException"
BODIES = {
    "cut JSON": ("GenerateRandom", b'{"NumberOfBytes":', SERIAL, None),
    "no JSON": ("GenerateRandom", b"NumberOfBytes=8", SERIAL, None),
    "two documents": ("GenerateRandom", b'{"NumberOfBytes":8}{"NumberOfBytes":8}', SERIAL, None),
    "a list": ("GenerateRandom", b"[]", SERIAL, None),
    "a list of objects": ("GenerateRandom", b'[{"NumberOfBytes":8}]', SERIAL, None),
    "a string": ("GenerateRandom", b'"NumberOfBytes"', SERIAL, None),
    "a number": ("GenerateRandom", b"8", SERIAL, None),
    "true": ("GenerateRandom", b"true", SERIAL, None),
    "NaN": ("GenerateRandom", b'{"NumberOfBytes":NaN}', SERIAL, None),
    "invalid UTF-8": ("CreateKey", b'{"Description":"\xff\xfe"}', SERIAL, None),
    "overlong UTF-8": ("CreateKey", b'{"Description":"\xc0\xaf"}', SERIAL, None),
    "a lone surrogate": ("CreateKey", rb'{"Description":"\ud800"}', SERIAL, None),
    "a lone surrogate in a name": ("GenerateRandom", rb'{"\udc00":1,"NumberOfBytes":"x"}', SERIAL, None),
    "a bare control character": ("CreateKey", b'{"Description":"a\x00b"}', SERIAL, None),
    "UTF-16": ("GenerateRandom", '{"NumberOfBytes":8}'.encode("utf-16"), SERIAL, None),
    "deep nesting": ("GenerateRandom", b'{"NumberOfBytes":' + b"[" * 100_000 + b"]" * 100_000 + b"}", SERIAL, None),
    "deep nesting without end": ("GenerateRandom", b'{"X":' * 100_000, SERIAL, None),
    "a string for a number": ("GenerateRandom", b'{"NumberOfBytes":"8"}', SERIAL, None),
    "an object for a number": ("GenerateRandom", b'{"NumberOfBytes":{}}', SERIAL, None),
    "a fraction": ("GenerateRandom", b'{"NumberOfBytes":8.5}', SERIAL, None),
    "a huge number": ("GenerateRandom", b'{"NumberOfBytes":1000000000000000000000000000000}', SERIAL, None),
    "a huge exponent": ("GenerateRandom", b'{"NumberOfBytes":1e400}', SERIAL, None),
    "2^32 + 8": ("GenerateRandom", b'{"NumberOfBytes":4294967304}', VALID,
                 "1 validation error detected: Value '4294967304' at 'numberOfBytes' failed to satisfy constraint: Member must have "
                 "value less than or equal to 1024"),
    "a negative number": ("GenerateRandom", b'{"NumberOfBytes":-1}', VALID, None),
    "null for what is required": ("GenerateRandom", b'{"NumberOfBytes":null}', VALID, "NumberOfBytes is required."),
    "null for a key": ("DescribeKey", b'{"KeyId":null}', VALID, None),
    "no key": ("DescribeKey", b"{}", VALID, None),
    "an empty key": ("DescribeKey", b'{"KeyId":""}', VALID, None),
    "a key of 2049 characters": ("DescribeKey", b'{"KeyId":"' + b"k" * 2049 + b'"}', VALID, None),
    "a number for a key": ("DescribeKey", b'{"KeyId":5}', SERIAL, None),
    "a list for a key": ("DescribeKey", b'{"KeyId":["{key}"]}', SERIAL, None),
    "an object for a list": ("CreateKey", b'{"Tags":{}}', SERIAL, None),
    "a string in a list of tags": ("CreateKey", b'{"Tags":["a"]}', SERIAL, None),
    "null in a list of tags": ("CreateKey", b'{"Tags":[null]}', VALID, None),
    "a tag without a value": ("CreateKey", b'{"Tags":[{"TagKey":"a"}]}', VALID, None),
    "a string for a flag": ("CreateKey", b'{"MultiRegion":"no"}', SERIAL, None),
    "a list for a context": ("Encrypt", b'{"KeyId":"{key}","Plaintext":"cA==","EncryptionContext":[]}', SERIAL, None),
    "a number in a context": ("Encrypt", b'{"KeyId":"{key}","Plaintext":"cA==","EncryptionContext":{"a":1}}', SERIAL, None),
    "null in a context": ("Encrypt", b'{"KeyId":"{key}","Plaintext":"cA==","EncryptionContext":{"a":null}}', VALID, None),
    "no base64": ("Encrypt", b'{"KeyId":"{key}","Plaintext":"!!!!"}', SERIAL, None),
    "base64 of a wrong length": ("Encrypt", b'{"KeyId":"{key}","Plaintext":"abcde"}', SERIAL, None),
    "base64 with a break": ("Encrypt", b'{"KeyId":"{key}","Plaintext":"cGxh aW4="}', SERIAL, None),
    "a number for a blob": ("Encrypt", b'{"KeyId":"{key}","Plaintext":7}', SERIAL, None),
    "an empty blob": ("Encrypt", b'{"KeyId":"{key}","Plaintext":""}', VALID,
                      "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must have length greater "
                      "than or equal to 1"),
    "no plaintext": ("Encrypt", b'{"KeyId":"{key}"}', VALID, None),
    "a string for a limit": ("ListKeys", b'{"Limit":"10"}', SERIAL, None),
    "an empty marker": ("ListKeys", b'{"Marker":""}', VALID,
                        "1 validation error detected: Value '' at 'marker' failed to satisfy constraint: Member must have length "
                        "greater than or equal to 1"),
    "a marker that is none": ("ListKeys", b'{"Marker":"../../etc/passwd"}', "InvalidMarkerException", None),
    "a path for a key": ("DescribeKey", b'{"KeyId":"../../../etc/passwd"}', "NotFoundException",
                         "Invalid keyId '../../../etc/passwd'"),
    "SQL for a key": ("DescribeKey", b'{"KeyId":"x\' OR 1=1 --"}', "NotFoundException", "Invalid keyId 'x' OR 1=1 --'"),
    "unknown key": ("Encrypt", b'{"KeyId":"{gone}","Plaintext":"cA=="}', "NotFoundException", "Key '{gone_arn}' does not exist"),
    "disabled key": ("Encrypt", b'{"KeyId":"{disabled}","Plaintext":"cA=="}', "DisabledException", "{disabled_arn} is disabled."),
    "pending deletion": ("Encrypt", b'{"KeyId":"{pending}","Plaintext":"cA=="}', "KMSInvalidStateException",
                         "{pending_arn} is pending deletion."),
    "a ciphertext that is none": ("Decrypt", b'{"CiphertextBlob":"bm9uZQ=="}', "InvalidCiphertextException", ABSENT),
    "an unknown operation": ("NoSuchOperation", b"{}", "UnknownOperationException", None),
    "an operation in small letters": ("listkeys", b"{}", "UnknownOperationException", None),
    "another service's target": ("DynamoDB_20120810.ListTables", b"{}", "UnknownOperationException", None),
    "a longer target": ("TrentService.Encrypt.More", b"{}", "UnknownOperationException", None),
    "an empty target": ("TrentService.", b"{}", "UnknownOperationException", None),
}


@pytest.fixture(scope="module")
def words(bridge):
    """Keys in each state that a row may need."""
    made = {"key": bridge.key(), "gone": UNKNOWN, "disabled": bridge.new_key(), "pending": bridge.new_key()}
    bridge.kms.disable_key(KeyId=made["disabled"])
    bridge.kms.schedule_key_deletion(KeyId=made["pending"])
    return made | {f"{name}_arn": bridge.key_arn(key) for name, key in made.items()}


def filled(text, words):
    for name, value in words.items():
        text = text.replace(b"{%s}" % name.encode(), value.encode()) if isinstance(text, bytes) else text.replace(f"{{{name}}}", value)
    return text


@pytest.mark.parametrize("row", BODIES)
def test_bodies(bridge, words, row):
    operation, body, code, text = BODIES[row]
    raw = bridge.raw()
    check(raw.call(operation, body=filled(body, words)), code, filled(text, words) if isinstance(text, str) else text)
    good(raw)


def test_deep_nesting_in_an_unknown_member(bridge):
    """Ignored like every unknown member, or refused; not a stack overflow."""
    raw = bridge.raw()
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        reply = raw.call("GenerateRandom", body=b'{"NumberOfBytes":8,"X":' + opening * 100_000 + b"0" + closing * 100_000 + b"}")
        assert reply.status == 200 or reply.type == SERIAL, reply
    good(raw)


def test_order_of_errors(bridge, words):
    """Who asks is settled before what is asked, the form before the key, the key before its state."""
    raw = bridge.raw()
    unknown = raw.sign("GenerateRandom", body=b"no JSON", access_key="AKIA" + "Q" * 16)
    check(raw.send(unknown), "UnrecognizedClientException", STRANGER)
    wrong_secret = raw.sign("Encrypt", body=filled(b'{"KeyId":"{disabled}"}', words), secret_key="x" * 40)
    check(raw.send(wrong_secret), "InvalidSignatureException", MISMATCH)
    old_stranger = raw.sign("GenerateRandom", GOOD, access_key="AKIA" + "Q" * 16, age=3600)
    check(raw.send(old_stranger), "InvalidSignatureException", re.compile("Signature expired: .*"))
    bounds = "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must have length "
    check(raw.call("Encrypt", {"KeyId": UNKNOWN, "Plaintext": ""}), "ValidationException", bounds + "greater than or equal to 1")
    check(raw.call("Encrypt", {"KeyId": words["disabled"], "Plaintext": b64(b"p" * 4097)}), "ValidationException",
          bounds + "less than or equal to 4096")
    check(raw.call("Sign", {"KeyId": words["disabled"], "Message": "bQ==", "SigningAlgorithm": "ECDSA_SHA_256"}),
          "DisabledException", filled("{disabled_arn} is disabled.", words))


def test_no_target(either):
    raw = either.raw()
    check(raw.call(None, GOOD), "UnknownOperationException", None)
    good(raw)


STS = {"service": "sts", "content_type": FORM, "target": False}


@pytest.mark.parametrize("change, code, status", [
    (lambda r: r.without_header("Authorization"), "MissingAuthenticationToken", 403),
    (lambda r: r.replacing("Authorization", flip_signature(r.header("Authorization"))), "SignatureDoesNotMatch", 403),
    (lambda r: r.replacing("Authorization", "AWS4-HMAC-SHA256 x"), "IncompleteSignature", 400),
])
def test_sts_speaks_xml_of_bad_signatures(bridge, change, code, status):
    raw = bridge.raw()
    reply = raw.send(change(raw.sign(None, body=b"Action=GetCallerIdentity&Version=2011-06-15", **STS)))
    assert (reply.status, reply.type) == (status, code), reply
    assert reply.headers["content-type"].startswith("text/xml") and reply.request_id
    assert f"<RequestId>{reply.request_id}</RequestId>".encode() in reply.body


def test_sts_refuses_what_it_does_not_serve(bridge):
    raw = bridge.raw()
    for action in (b"DecodeAuthorizationMessage", b"AssumeRoot", b"NoSuchAction"):
        reply = raw.call(None, body=b"Action=" + action + b"&Version=2011-06-15&RoleArn=x&RoleSessionName=y", **STS)
        assert reply.status == 400 and reply.type in ("InvalidAction", "UnsupportedOperation"), reply
    stranger = raw.call(None, body=b"Action=GetCallerIdentity&Version=2011-06-15", access_key="AKIA" + "Q" * 16, **STS)
    assert (stranger.status, stranger.type) == (403, "InvalidClientTokenId"), stranger


def test_the_members_of_an_error(bridge):
    raw = bridge.raw()
    assert raw.call("DescribeKey", {"KeyId": "x"}).json() == {"__type": "NotFoundException", "message": "Invalid keyId 'x'"}
    assert json.loads(raw.call("Decrypt", {"CiphertextBlob": "eA=="}).body) == {"__type": "InvalidCiphertextException"}
