"""Bad HTTP below the API: refused before anybody is authenticated, within a bounded time, and the server goes on."""

import http.client
import socket
import time

import pytest

from kmsclient import Signed

GOOD = {"NumberOfBytes": 8}
MIB = 1 << 20


def good(raw):
    reply = raw.call("GenerateRandom", GOOD)
    assert reply.status == 200, reply
    raw.close()


def plain(raw):
    return raw.sign("GenerateRandom", GOOD)


def ask(raw, head, body=b""):
    """A request written by hand: the lines of its head."""
    return raw.send_bytes("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)


def lines(request, *more):
    return [f"{request.method} {request.path} HTTP/1.1", *(f"{k}: {v}" for k, v in request.headers), *more]


def refused_early(reply, statuses=(400,)):
    assert reply.status in statuses, reply
    assert reply.type is None or "Exception" in reply.type
    # Refused for its form: nobody was asked for a signature.
    assert reply.type not in ("InvalidSignatureException", "UnrecognizedClientException"), reply


def test_duplicate_host(either):
    raw = either.raw()
    request = plain(raw)
    size = f"Content-Length: {len(request.body)}"
    for second in (f"{raw.host}:{raw.port}", "evil.example.com"):
        refused_early(ask(raw, lines(request, size, f"Host: {second}"), request.body))
    bare = request.without_header("Authorization")
    reply = ask(raw, lines(bare, size, "host: evil.example.com"), request.body)
    refused_early(reply)
    assert reply.type != "MissingAuthenticationTokenException", "form before authentication"
    assert reply.request_id
    good(raw)


def test_no_host(bridge):
    raw = bridge.raw()
    request = plain(raw).without_header("Host")
    reply = ask(raw, lines(request, f"Content-Length: {len(request.body)}"), request.body)
    assert reply.status == 400, reply
    good(raw)


@pytest.mark.parametrize("more", [
    ["Content-Length: {size}", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Content-Length: {size}"],
    ["Content-Length: {size}", "transfer-encoding: CHUNKED"],
    ["Content-Length: {size}", "Transfer-Encoding: identity"],
    ["Content-Length: {size}", "Transfer-Encoding: chunked, chunked"],
    ["Content-Length: {size}", "Content-Length: 0"],
    ["Content-Length: {size}, 3"],
    ["Content-Length: +{size}"],
    ["Content-Length: -1"],
    ["Content-Length: 18446744073709551616"],
    ["Transfer-Encoding: gzip"],
])
def test_length_against_encoding(bridge, more):
    """No two readings of where a request ends: what smuggles requests past a proxy is refused."""
    raw = bridge.raw()
    for request in (plain(raw), plain(raw).without_header("Authorization")):
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(request.body), request.body)
        reply = ask(raw, lines(request, *(m.format(size=len(request.body)) for m in more)), body)
        assert (reply.status, reply.type) == (400, "MalformedHttpRequestException"), reply
    good(raw)


def test_one_answer_to_a_smuggled_request(bridge):
    raw = bridge.raw()
    request = plain(raw)
    hidden = request.wire()
    head = lines(request, f"Content-Length: {len(request.body)}", "Transfer-Encoding: chunked")
    with socket.create_connection((raw.host, raw.port), timeout=10) as link:
        link.sendall("\r\n".join(head).encode() + b"\r\n\r\n0\r\n\r\n" + hidden)
        seen = b""
        try:
            while chunk := link.recv(65536):
                seen += chunk
        except OSError:
            pass  # hanging up is an answer
    assert seen.count(b"HTTP/1.1 ") <= 1 and b"HTTP/1.1 200" not in seen, seen
    good(raw)


@pytest.mark.parametrize("size", [MIB + 1, 4 * MIB])
def test_oversized_body(either, size):
    raw = either.raw()
    request = raw.sign("GenerateRandom", body=b'{"NumberOfBytes":8}' + b" " * (size - 19))
    reply = raw.send_bytes(request.wire(), timeout=30)
    assert (reply.status, reply.type) == (413, "RequestEntityTooLargeException") and reply.request_id, reply
    good(raw)


def test_oversized_body_is_refused_by_its_announced_length(bridge):
    raw = bridge.raw()
    request = plain(raw)
    reply = ask(raw, lines(request, "Content-Length: 1000000000000"), request.body)
    assert (reply.status, reply.type) == (413, "RequestEntityTooLargeException"), reply
    good(raw)


def test_oversized_body_in_chunks(bridge):
    raw = bridge.raw()
    request = plain(raw)
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    reply = ask(raw, lines(request, "Transfer-Encoding: chunked"), chunk * 40 + b"0\r\n\r\n")
    # No SDK sends chunks to KMS; their form is refused before their size.
    assert (reply.status, reply.type) == (400, "MalformedHttpRequestException"), reply
    good(raw)


def test_the_largest_body_is_taken(bridge):
    raw = bridge.raw()
    reply = raw.call("GenerateRandom", body=b'{"NumberOfBytes":8}' + b" " * (MIB - 19))
    assert reply.status == 200, reply


@pytest.mark.parametrize("more", [["X-Long: " + "x" * 200_000], [f"X-{n}: y" for n in range(2000)]])
def test_oversized_head(bridge, more):
    raw = bridge.raw()
    request = plain(raw)
    reply = ask(raw, lines(request, f"Content-Length: {len(request.body)}", *more), request.body)
    assert (reply.status, reply.type) == (431, "RequestEntityTooLargeException"), reply
    good(raw)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "BREW"])
def test_other_methods(bridge, method):
    """Well signed, for their method: still no operation of KMS."""
    raw = bridge.raw()
    reply = raw.send_bytes(raw.sign("GenerateRandom", GOOD, method=method).wire())
    code = "MalformedHttpRequestException" if method == "CONNECT" else "UnknownOperationException"
    assert reply.status == 400 and reply.request_id, reply
    assert reply.type == (None if method == "HEAD" else code), reply
    good(raw)


@pytest.mark.parametrize("path", ["/no/such/path", "/kms", "//", "/%2e%2e/", "/../../etc/passwd", "/?x=1", "*"])
def test_other_paths(bridge, path):
    raw = bridge.raw()
    request = plain(raw)
    reply = ask(raw, lines(Signed("POST", path, request.headers, b""), f"Content-Length: {len(request.body)}"), request.body)
    assert (reply.status, reply.type) == (400, "InvalidSignatureException"), reply
    good(raw)


def test_get_root_unsigned(either):
    raw = either.raw()
    reply = ask(raw, ["GET / HTTP/1.1", f"Host: {raw.host}:{raw.port}"])
    assert (reply.status, reply.type) == (400, "MissingAuthenticationTokenException") and reply.request_id, reply
    good(raw)


MALFORMED, UNSIGNED = "MalformedHttpRequestException", "MissingAuthenticationTokenException"


@pytest.mark.parametrize("data, code", [
    (b"\0" * 100, MALFORMED), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500, MALFORMED),
    (b"garbage\r\n\r\n", MALFORMED), (b"POST\r\n\r\n", MALFORMED), (b"POST / HTTP/9.9\r\n\r\n", MALFORMED),
    (b"POST / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", MALFORMED), (b"POST / HTTP/1.1\r\nHost : a\r\n\r\n", MALFORMED),
    (b"POST / HTTP/1.1\r\nHost: a\r\nX-\xff: b\r\nContent-Length: 0\r\n\r\n", MALFORMED),
    # RFC 9112 §2.2 lets a server take a bare LF for a line's end.
    (b"POST / HTTP/1.1\nHost: a\n\n", UNSIGNED),
    (b"POST / HTTP/1.1\r\nHost: a\r\nX-Amz-Target: \xff\xfe\r\nContent-Length: 0\r\n\r\n", UNSIGNED),
])
def test_garbage(bridge, data, code):
    raw = bridge.raw()
    reply = raw.send_bytes(data)
    assert (reply.status, reply.type) == (400, code), reply
    good(raw)


@pytest.mark.parametrize("data", [b"\r\n" * 1000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100])
def test_garbage_that_is_no_request(bridge, data):
    raw = bridge.raw()
    reply = raw.send_bytes(data, finish=True)
    assert reply.reset or reply.status == 400, reply
    good(raw)


def test_garbage_at_the_tls_port(bridge_tls):
    raw = bridge_tls.raw()
    for data in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"\x01" * 1000):
        with socket.create_connection((raw.host, raw.port), timeout=10) as link:
            link.sendall(data)
            try:
                seen = link.recv(65536)
            except OSError:
                seen = b""
        assert b"200 OK" not in seen
    good(raw)


def test_half_a_request_holds_up_nobody(bridge):
    raw = bridge.raw()
    request = plain(raw).wire()
    links = []
    try:
        for cut in (1, 10, len(request) // 2, len(request) - 1):
            link = socket.create_connection((raw.host, raw.port), timeout=10)
            link.sendall(request[:cut])
            links.append(link)
        start = time.monotonic()
        good(raw)
        assert time.monotonic() - start < 10
        # The last byte may still come.
        links[-1].sendall(request[-1:])
        answer = http.client.HTTPResponse(links[-1])
        answer.begin()
        assert answer.status == 200
    finally:
        for link in links:
            link.close()


def test_a_connection_serves_many(either):
    raw = either.raw()
    ids = {raw.call("GenerateRandom", GOOD).request_id for _ in range(20)}
    assert len(ids) == 20, "each answer has an id of its own"
    raw.call("DescribeKey", {"KeyId": "x"})
    assert raw.connection is not None, "an error of the caller does not close the connection"


def test_pipelined_requests_are_answered_in_order(bridge):
    raw = bridge.raw()
    first, second = raw.sign("GenerateRandom", {"NumberOfBytes": 1}), raw.sign("DescribeKey", {"KeyId": "second"})
    with socket.create_connection((raw.host, raw.port), timeout=10) as link:
        link.sendall(first.wire() + second.wire())
        stream, statuses = link.makefile("rb"), []
        for _ in range(2):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = stream.readline()
                assert line, "the server hung up"
                head += line
            size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            stream.read(size)
            statuses.append(int(head.split()[1]))
    assert statuses == [200, 400]
