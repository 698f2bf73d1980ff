"""The files that the service seals, made by somebody else's code: log files, digests, keys. Source: CloudTrail's documents on log
and digest files. What stock clients make of them does not depend on how ours are made."""

import base64
import gzip
import hashlib
import json
from datetime import datetime, timedelta, timezone

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
PKCS1 = serialization.PublicFormat.PKCS1
DER = serialization.Encoding.DER


class Key:
    def __init__(self, generation=1):
        self.private = rsa.generate_private_key(65537, 2048)
        public = self.private.public_key()
        self.generation, self.spki = generation, public.public_bytes(DER, SPKI)
        self.pkcs1 = public.public_bytes(DER, PKCS1)
        self.fingerprint = hashlib.md5(self.pkcs1).hexdigest()

    def sign(self, text):
        return self.private.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()).hex()

    def row(self):
        return {"keyUse": "digest", "generation": self.generation, "fingerprint": self.fingerprint,
                "spki": base64.b64encode(self.spki).decode(), "certificate": "", "validFrom": 1_000, "validUntil": None}


class TrailFiles:
    """A bucket's folder with hourly digests, the last one an hour ago at the latest."""

    def __init__(self, directory, region, account, trail="hsm-bridge", bucket="hsm-audit"):
        self.dir, self.region, self.account, self.trail, self.bucket = directory, region, account, trail, bucket
        self.root = directory / "bucket"
        self.key, self.previous = Key(), None
        self.digests, self.logs = [], []
        (directory / "keys").mkdir(exist_ok=True)
        (directory / "keys" / "keys.json").write_text(json.dumps([self.key.row()]))

    def put(self, key, document, metadata=None):
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(document))
        if metadata:
            path.with_name(path.name + ".meta").write_text(json.dumps(metadata))

    def hour(self, end, records_by_file):
        """One digest over `[end - 1 h, end)` and its log files."""
        start, listed = end - timedelta(hours=1), []
        for number, records in enumerate(records_by_file):
            document = json.dumps({"Records": records}).encode()
            unique = base64.b32encode(hashlib.sha256(document).digest()).decode()[:16]
            key = (f"AWSLogs/{self.account}/CloudTrail/{self.region}/{start:%Y/%m/%d}/{self.account}_CloudTrail_{self.region}_"
                   f"{start + timedelta(minutes=5 * number):%Y%m%dT%H%MZ}_{unique}.json.gz")
            self.put(key, document)
            self.logs.append(key)
            listed.append({"s3Bucket": self.bucket, "s3Object": key, "hashValue": hashlib.sha256(document).hexdigest(),
                           "hashAlgorithm": "SHA-256", "newestEventTime": time(start), "oldestEventTime": time(start)})
        key = (f"AWSLogs/{self.account}/CloudTrail-Digest/{self.region}/{end:%Y/%m/%d}/{self.account}_CloudTrail-Digest_"
               f"{self.region}_{self.trail}_{self.region}_{end:%Y%m%dT%H%M%SZ}.json.gz")
        before = self.previous or {}
        document = json.dumps({
            "awsAccountId": self.account, "digestStartTime": time(start), "digestEndTime": time(end), "digestS3Bucket": self.bucket,
            "digestS3Object": key, "digestPublicKeyFingerprint": self.key.fingerprint,
            "digestSignatureAlgorithm": "SHA256withRSA", "newestEventTime": time(start) if listed else None,
            "oldestEventTime": time(start) if listed else None, "previousDigestS3Bucket": self.bucket if before else None,
            "previousDigestS3Object": before.get("key"), "previousDigestHashValue": before.get("hash"),
            "previousDigestHashAlgorithm": "SHA-256" if before else None, "previousDigestSignature": before.get("signature"),
            "logFiles": listed,
        }).encode()
        digest = hashlib.sha256(document).hexdigest()
        signature = self.key.sign(f"{time(end)}\n{self.bucket}/{key}\n{digest}\n{before.get('signature', 'null')}")
        self.put(key, document, {"signature": signature, "signature-algorithm": "SHA256withRSA"})
        self.previous = {"key": key, "hash": digest, "signature": signature}
        self.digests.append(key)

    def fill(self, hours=4, files=2):
        """The second hour is empty: its digest is the proof that nothing happened."""
        last = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
        for number in range(hours):
            end = last - timedelta(hours=hours - 1 - number)
            self.hour(end, [] if number == 1 else [[{"eventName": f"E{number}.{n}"}] for n in range(files)])
        return self


def time(moment):
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
