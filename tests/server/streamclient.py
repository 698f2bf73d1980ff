"""A reader of `GET /audit/v1/stream`, signed by botocore, and receivers for sinks. Knows the formats, nothing of the server's code."""

import hashlib
import http.server
import json
import re
import socket
import ssl
import threading
import time

from instance import PATIENCE, until

STREAM = "/audit/v1/stream"


def request(instance, query="", headers=(), method="GET", service="cloudtrail", **options):
    """The signed bytes of one request for the stream."""
    path = STREAM + (f"?{query}" if query else "")
    signed = instance.raw().sign(None, body=b"", method=method, path=path, target=False, content_type=None,
                                 service=service, headers=headers, **options)
    return signed.wire(content_length=False)


class Stream:
    """One open stream. A thread reads it into `events`: (id, event, data), or (None, "line", data) for NDJSON."""

    def __init__(self, instance, query="", headers=(), read=True, **options):
        host, _, port = instance.address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.socket.sendall(request(instance, query, headers, **options))
        self.answer = __import__("http.client", fromlist=["x"]).HTTPResponse(self.socket)
        self.answer.begin()
        self.status, self.type = self.answer.status, self.answer.getheader("content-type")
        self.events, self.ended, self.clean = [], threading.Event(), False
        self.body = None
        if self.status != 200:
            self.body = self.answer.read()
            self.close()
        elif read:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        sse = self.type.startswith("text/event-stream")
        number = event = data = None
        try:
            while True:
                line = self.answer.readline()
                if not line:
                    self.clean = True
                    return
                if not line.endswith(b"\n"):
                    return
                line = line[:-1]
                if not sse:
                    self.events.append((None, "line", line))
                elif not line:
                    self.events.append((number, event, data))
                    number = event = data = None
                elif line.startswith(b"id: "):
                    number = int(line[4:])
                elif line.startswith(b"event: "):
                    event = line[7:].decode()
                elif line.startswith(b"data: "):
                    assert data is None, "one data line for each event"
                    data = line[6:]
                else:
                    raise AssertionError(f"what is {line!r}")
        except Exception:  # noqa: BLE001  the end of a connection has many names
            return
        finally:
            self.ended.set()

    def records(self):
        if self.type.startswith("text/event-stream"):
            return [data for _, event, data in list(self.events) if event != "heartbeat"]
        return [data for _, _, data in list(self.events) if not data.startswith(b'{"hsmBridgeHeartbeat":')]

    def heartbeats(self):
        return [json.loads(data)["hsmBridgeHeartbeat"] for _, _, data in list(self.events) if data.startswith(b'{"hsmBridgeHeartbeat":')]

    def wait(self, count):
        until(f"{count} records in the stream", lambda: len(self.records()) >= count)
        return self.records()

    def close(self):
        self.socket.close()


def seqs(lines):
    return [json.loads(line)["additionalEventData"]["audit"]["seq"] for line in lines]


def check_chain(lines):
    """Gapless, and each the child of the one before."""
    found = seqs(lines)
    assert found == list(range(found[0], found[0] + len(found))), found
    for before, after in zip(lines, lines[1:]):
        prev = json.loads(after)["additionalEventData"]["audit"]["prev"]
        assert prev == hashlib.sha256(b"\0" + before).hexdigest()


def unframe(data):
    """Messages with octet counting, and what is left over."""
    messages = []
    while True:
        match = re.match(rb"(\d{1,7}) ", data)
        if not match:
            assert b" " not in data[:8], f"no length at {data[:20]!r}"
            return messages, data
        end = match.end() + int(match.group(1))
        if len(data) < end:
            return messages, data
        messages.append(data[match.end():end])
        data = data[end:]


class SyslogReceiver:
    """Takes connections one after the other, until it is closed."""

    def __init__(self, port=0, tls=None):
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.tls = tls
        self.messages, self.connections, self.peers = [], 0, []
        self.open = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            try:
                if self.tls:
                    link = self.tls.wrap_socket(link, server_side=True)
                    self.peers.append(link.getpeercert())
            except (OSError, ssl.SSLError):
                continue
            self.connections += 1
            self.open, data = link, b""
            try:
                while part := link.recv(65536):
                    found, data = unframe(data + part)
                    self.messages += found
            except OSError:
                pass

    def lines(self):
        """Bodies of the records, without heartbeats."""
        return [m.split(b"\xef\xbb\xbf", 1)[1] for m in list(self.messages) if b'heartbeat="1"' not in m]

    def drop(self):
        """Resets the connection."""
        if self.open:
            self.open.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.open.close()

    def close(self):
        self.listener.close()
        self.drop()


class HttpReceiver:
    """Answers POSTs as `answer(receiver, path, headers, body)` says: a status, or (status, body)."""

    def __init__(self, answer, port=0):
        self.got, self.lock = [], threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                given = answer(receiver, self.path, dict(self.headers.items()), body)
                status, text = given if isinstance(given, tuple) else (given, b"")
                with receiver.lock:
                    receiver.got.append((status, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def taken(self):
        """(headers, body) of what was acknowledged."""
        with self.lock:
            return [(headers, body) for status, _, headers, body in self.got if 200 <= status < 300]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def metric(instance, name, **labels):
    want = name + ("{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else "")
    for line in instance.admin("/metrics")[1].splitlines():
        if line.startswith(want + " "):
            return float(line.split()[-1])
    return None


def steady(check, seconds=1.0):
    """True for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert check()
        time.sleep(0.05)
