"""Requests to the bridge below the level of an SDK: signed by botocore's signer, then changed or sent as they are.

Knows nothing of the server's code. Every reply that passes through here is searched for things that no caller may see.
"""

import base64
import datetime
import http.client
import json
import re
import socket
import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

TIMEOUT = 30
JSON_11 = "application/x-amz-json-1.1"
FORM = "application/x-www-form-urlencoded; charset=utf-8"

# Errors of callers who did not prove who they are, or were refused before that: no audit record of their own.
STRANGER_ERRORS = {
    "UnknownOperationException",
    "InvalidAction",
    "MissingAuthenticationTokenException",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "UnrecognizedClientException",
    "MissingAuthenticationToken",
    "IncompleteSignature",
    "SignatureDoesNotMatch",
    "InvalidClientTokenId",
}

# What no reply may hold, whatever was asked: PKCS#11 return values and functions, traces of a crash.
NEVER_IN_A_REPLY = [b"CKR_", b"C_Encrypt", b"C_Decrypt", b"C_Sign", b"panicked", b"RUST_BACKTRACE", b"libsofthsm"]
# And no path. Looked for in errors only: four characters turn up in base64 by chance.
NEVER_IN_AN_ERROR = [b"/home", b"/tmp", b"/dev/shm", b"/var/", b"/usr/", b"/src/", b".rs:", b".sqlite"]


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes
    reset: bool = False

    @property
    def request_id(self):
        return self.headers.get("x-amzn-requestid")

    def json(self):
        return json.loads(self.body)

    @property
    def type(self):
        """`__type` of a KMS error, `Code` of an STS error, None otherwise."""
        try:
            return self.json().get("__type")
        except (ValueError, AttributeError):
            found = re.search(rb"<Code>([^<]*)</Code>", self.body)
            return found.group(1).decode() if found else None

    @property
    def text(self):
        """The error's text, None where the member is absent."""
        try:
            value = self.json()
            return value.get("message", value.get("Message"))
        except (ValueError, AttributeError):
            found = re.search(rb"<Message>([^<]*)</Message>", self.body)
            return found.group(1).decode() if found else None

    def raw(self):
        return b"\n".join(f"{k}: {v}".encode() for k, v in self.headers.items()) + b"\n\n" + self.body


@dataclass
class Signed:
    """A request ready for the wire; tests change it after it was signed."""

    method: str
    path: str
    headers: list = field(default_factory=list)
    body: bytes = b""

    def with_header(self, name, value):
        return Signed(self.method, self.path, self.headers + [(name, value)], self.body)

    def without_header(self, name):
        kept = [(k, v) for k, v in self.headers if k.lower() != name.lower()]
        return Signed(self.method, self.path, kept, self.body)

    def replacing(self, name, value):
        return self.without_header(name).with_header(name, value)

    def with_body(self, body):
        return Signed(self.method, self.path, self.headers, body)

    def header(self, name):
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    def wire(self, content_length=True):
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{k}: {v}" for k, v in self.headers]
        if content_length and self.header("content-length") is None:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + self.body


class RawClient:
    def __init__(self, endpoint, region, access_key, secret_key, ca_bundle=None, forbidden=(), on_reply=None):
        url = urlsplit(endpoint)
        self.endpoint = endpoint
        self.host, self.port, self.tls = url.hostname, url.port, url.scheme == "https"
        self.region, self.access_key, self.secret_key = region, access_key, secret_key
        self.context = ssl.create_default_context(cafile=ca_bundle) if self.tls else None
        self.forbidden = list(forbidden)
        self.on_reply = on_reply
        self.connection = None

    def sign(self, operation, params=None, *, body=None, headers=(), service="kms", region=None, age=0, access_key=None,
             secret_key=None, method="POST", path="/", host=None, terminator=None, target=True, content_type=JSON_11):
        """Signs `operation` with `params` (or the bytes `body`). `age` in seconds makes the signature's date older."""
        if body is None:
            body = json.dumps({} if params is None else params).encode()
        names = {"Content-Type": content_type} if content_type else {}
        names["Host"] = host or f"{self.host}:{self.port}"
        if target and operation is not None:
            names["X-Amz-Target"] = operation if "." in operation else f"TrentService.{operation}"
        names.update(dict(headers))
        request = AWSRequest(method=method, url=f"{self.endpoint.rstrip('/')}{path}", headers=names, data=body)
        credentials = Credentials(access_key or self.access_key, secret_key or self.secret_key)
        auth = _Signer(credentials, service, region or self.region, terminator)
        now = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=age)
        auth.sign_at(request, now.strftime("%Y%m%dT%H%M%SZ"))
        return Signed(method, path, list(request.headers.items()), body)

    def call(self, operation, params=None, **options):
        """One signed call on the kept connection."""
        return self.send(self.sign(operation, params, **options))

    def send(self, request):
        for attempt in (0, 1):
            if self.connection is None:
                kind = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
                extra = {"context": self.context} if self.tls else {}
                self.connection = kind(self.host, self.port, timeout=TIMEOUT, **extra)
            try:
                return self._send_kept(request)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # The server may close an idle connection; a fresh one has no such excuse.
                fresh = getattr(self.connection, "fresh", True)
                self.close()
                if fresh or attempt:
                    raise
        raise AssertionError("unreachable")

    def _send_kept(self, request):
        connection = self.connection
        connection.fresh = connection.sock is None
        connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers:
            connection.putheader(name, value)
        if request.header("content-length") is None:
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body)
        answer = connection.getresponse()
        reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        if answer.will_close:
            self.close()
        return self._seen(reply)

    def send_bytes(self, data, timeout=10, finish=False):
        """Sends bytes as they are on a connection of their own. A server that hangs up without a word gives status 0.
        `finish` closes our half after the last byte: nothing more will come."""
        plain = socket.create_connection((self.host, self.port), timeout=timeout)
        link = self.context.wrap_socket(plain, server_hostname=self.host) if self.tls else plain
        with link:
            try:
                link.sendall(data)
                if finish:
                    link.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # A server that refuses early may close before it has read everything; its answer may still be there.
            # An answer to HEAD has no body, whatever its Content-Length says.
            answer = http.client.HTTPResponse(link, method="HEAD" if data.startswith(b"HEAD ") else None)
            try:
                answer.begin()
                reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
            except (http.client.HTTPException, ConnectionError, ssl.SSLError):
                return Reply(0, {}, b"", reset=True)
        # What is refused for its form was said to nobody in particular.
        return self._seen(reply, tell=reply.status == 200)

    def _seen(self, reply, tell=True):
        check_silent(reply.raw(), self.forbidden, error=reply.status != 200)
        if tell and self.on_reply:
            self.on_reply(reply)
        return reply

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def check_silent(raw, forbidden, error=True):
    """No code of PKCS#11, path, PIN or secret in what a caller is told."""
    # Not in the middle of what is base64url: a long NextMarker has held `CKR_` by chance.
    said = [word for word in NEVER_IN_A_REPLY if re.search(rb"(?<![A-Za-z0-9_-])" + re.escape(word), raw)]
    said += [word for word in (NEVER_IN_AN_ERROR if error else []) + [w.encode() if isinstance(w, str) else w for w in forbidden] if word in raw]
    assert not said, f"a reply holds {said!r}: {raw[:2000]!r}"


class _Signer(SigV4Auth):
    def __init__(self, credentials, service, region, terminator):
        super().__init__(credentials, service, region)
        self.terminator = terminator

    def sign_at(self, request, timestamp):
        request.context["timestamp"] = timestamp
        self._modify_request_before_signing(request)
        text = self.string_to_sign(request, self.canonical_request(request))
        self._inject_signature_to_request(request, self.signature(text, request))

    def scope(self, request):
        scope = super().scope(request)
        return scope.replace("aws4_request", self.terminator) if self.terminator else scope


def b64(data):
    return base64.b64encode(data).decode()
