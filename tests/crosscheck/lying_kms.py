"""A KMS that lies: passes requests on to a bridge, and changes the answers to one operation."""

import base64
import http.client
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


def changed(data, member, change):
    """An answer with another value of this member, which is base64."""
    return data | {member: base64.b64encode(change(base64.b64decode(data[member]))).decode()} if member in data else data


def flipped(value):
    """One bit is another."""
    return value[:-1] + bytes([value[-1] ^ 1])


@contextmanager
def lying(endpoint, operation, lie):
    """Gives the endpoint. `lie` takes status and answer and gives both."""
    behind = urlsplit(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            connection = http.client.HTTPConnection(behind.hostname, behind.port, timeout=60)
            # The Host header is signed: it goes on as it came.
            connection.putrequest("POST", self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            status, data = answer.status, answer.read()
            if self.headers.get("X-Amz-Target") == f"TrentService.{operation}":
                status, told = lie(status, json.loads(data))
                data = json.dumps(told).encode()
            connection.close()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
