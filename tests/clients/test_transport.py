"""TLS and HTTP/2 as clients meet them."""

import json
import socket
import ssl
import subprocess
import sys

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import SSLError

GOOD = {"NumberOfBytes": 8}


def curl(raw, request, tmp_path, *options):
    """Sends a signed request with curl; gives (HTTP version, status, body)."""
    (tmp_path / "body").write_bytes(request.body)
    headers = [word for name, value in request.headers if name.lower() != "host" for word in ("-H", f"{name}: {value}")]
    done = subprocess.run(["curl", "-sS", "--max-time", "30", "-X", "POST", "--data-binary", "@body", "-o", "answer",
                           "-w", "%{http_version} %{http_code}", *headers, *options, f"{raw.endpoint.rstrip('/')}/"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    version, status = done.stdout.split()
    return version, int(status), (tmp_path / "answer").read_bytes()


def test_http_2_by_alpn(bridge_tls, tmp_path):
    raw = bridge_tls.raw()
    request = raw.sign("GenerateRandom", GOOD)
    version, status, body = curl(raw, request, tmp_path, "--http2", "--cacert", bridge_tls.ca_bundle)
    assert (version, status) == ("2", 200), body
    assert set(json.loads(body)) == {"Plaintext"}
    version, status, body = curl(raw, request, tmp_path, "--http1.1", "--cacert", bridge_tls.ca_bundle)
    assert (version, status) == ("1.1", 200), body
    wrong = raw.sign("GenerateRandom", GOOD, secret_key="x" * 40)
    version, status, body = curl(raw, wrong, tmp_path, "--http2", "--cacert", bridge_tls.ca_bundle)
    assert (version, status) == ("2", 400) and json.loads(body)["__type"] == "InvalidSignatureException"


def test_no_http_2_without_tls(bridge, tmp_path):
    raw = bridge.raw()
    version, status, _ = curl(raw, raw.sign("GenerateRandom", GOOD), tmp_path, "--http2")
    assert version == "1.1" and 200 <= status < 500, "an upgrade is not taken"
    reply = raw.send_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", finish=True)
    assert reply.reset or reply.status >= 400


@pytest.mark.parametrize("offer, taken", [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")])
def test_alpn(bridge_tls, offer, taken):
    raw = bridge_tls.raw()
    context = ssl.create_default_context(cafile=bridge_tls.ca_bundle)
    context.set_alpn_protocols(offer)
    with socket.create_connection((raw.host, raw.port), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=raw.host) as link:
            assert link.selected_alpn_protocol() == taken
            assert link.version() in ("TLSv1.2", "TLSv1.3")


def test_old_tls_is_refused(bridge_tls):
    raw = bridge_tls.raw()
    context = ssl.create_default_context(cafile=bridge_tls.ca_bundle)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection((raw.host, raw.port), timeout=10) as plain:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(plain, server_hostname=raw.host)


def test_the_certificate_is_not_trusted_by_itself(bridge_tls):
    session = boto3.session.Session(aws_access_key_id=bridge_tls.access_key, aws_secret_access_key=bridge_tls.secret_key,
                                    region_name=bridge_tls.region)
    client = session.client("kms", endpoint_url=bridge_tls.endpoint, config=Config(retries={"total_max_attempts": 1}))
    with pytest.raises(SSLError):
        client.list_keys()


def test_boto3_by_environment_alone(either):
    """What a person has after `source FILE`: nothing else is set."""
    script = "import boto3; print(boto3.client('kms').generate_random(NumberOfBytes=8)['ResponseMetadata']['HTTPStatusCode']," \
             "boto3.client('sts').get_caller_identity()['Account'])"
    done = subprocess.run([sys.executable, "-c", script], env=either.tool_env(), capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["200", either.account], done.stderr
