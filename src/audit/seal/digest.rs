//! Digest files, as CloudTrail writes them. RULE audit.md §2.2, §2.3: the members and the signed text are what the stock AWS
//! CLI reads; it ignores members that it does not know, and the signature covers them.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::logfile::{SealedFile, sha256};
use crate::audit::verify::tree::{Frontier, Hash};

/// A signed digest: `details` of its `Digest` record, and all that the next digest must know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedDigest {
    pub bucket: String,
    pub object: String,
    /// Of the uncompressed bytes, lower-case hex.
    pub sha256: String,
    /// Lower-case hex.
    pub signature: String,
    pub fingerprint: String,
    /// `2026-03-04T10:00:00Z`
    pub start: String,
    pub end: String,
    /// Records below this number are in log files that this digest or one before lists.
    pub sealed_to: u64,
    /// Peaks of the tree over those records, hex; `None`: not known.
    pub tree_peaks: Option<Vec<String>>,
}

impl SignedDigest {
    pub fn tree(&self) -> Option<Frontier> {
        let peaks: Option<Vec<Hash>> =
            self.tree_peaks.as_ref()?.iter().map(|peak| hex::decode(peak).ok()?.try_into().ok()).collect();
        Frontier::from_parts(self.sealed_to, peaks?)
    }
}

/// What a digest is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    pub account: &'a str,
    pub instance: &'a str,
    pub bucket: &'a str,
    pub object: &'a str,
    pub start: &'a str,
    pub end: &'a str,
    pub previous: Option<&'a SignedDigest>,
    pub files: &'a [SealedFile],
    /// Records below are sealed.
    pub sealed_to: u64,
    pub tree: Option<&'a Frontier>,
    /// The newest signed note.
    pub checkpoint: Option<&'a str>,
}

impl Facts<'_> {
    /// The uncompressed file. `next_key`: fingerprint of the key that will sign after this one.
    pub fn json(&self, fingerprint: &str, next_key: Option<&str>) -> Vec<u8> {
        let previous = self.previous;
        let first = self.files.first();
        let oldest = self.files.iter().map(|file| &file.oldest_event_time).min();
        let newest = self.files.iter().map(|file| &file.newest_event_time).max();
        let files: Vec<serde_json::Value> = self
            .files
            .iter()
            .map(|file| {
                json!({
                    "s3Bucket": file.bucket,
                    "s3Object": file.object,
                    "hashValue": file.sha256,
                    "hashAlgorithm": "SHA-256",
                    "newestEventTime": file.newest_event_time,
                    "oldestEventTime": file.oldest_event_time,
                })
            })
            .collect();
        let digest = json!({
            "awsAccountId": self.account,
            "digestStartTime": self.start,
            "digestEndTime": self.end,
            "digestS3Bucket": self.bucket,
            "digestS3Object": self.object,
            "digestPublicKeyFingerprint": fingerprint,
            "digestSignatureAlgorithm": "SHA256withRSA",
            "newestEventTime": newest,
            "oldestEventTime": oldest,
            // RULE audit.md §2.2: all five are null in the first digest of a chain.
            "previousDigestS3Bucket": previous.map(|previous| &previous.bucket),
            "previousDigestS3Object": previous.map(|previous| &previous.object),
            "previousDigestHashValue": previous.map(|previous| &previous.sha256),
            "previousDigestHashAlgorithm": previous.map(|_| "SHA-256"),
            "previousDigestSignature": previous.map(|previous| &previous.signature),
            "logFiles": files,
            "hsmBridge": {
                "treeSize": self.tree.map(|_| self.sealed_to),
                "rootHash": self.tree.map(|tree| hex::encode(tree.root())),
                "firstSeq": first.map(|file| file.first_seq),
                "lastSeq": self.files.last().map(|file| file.last_seq),
                "records": self.files.iter().map(|file| file.records).sum::<u64>(),
                "instance": self.instance,
                "checkpoint": self.checkpoint,
                "nextKeyFingerprint": next_key,
            },
        });
        digest.to_string().into_bytes()
    }

    /// RULE audit.md §2.3: no line end at the end; the four letters `null` where there is no digest before.
    pub fn signed_text(&self, json: &[u8]) -> String {
        let previous = self.previous.map_or("null", |previous| &previous.signature);
        signed_text(self.end, self.bucket, self.object, &sha256(json), previous)
    }
}

pub fn signed_text(end: &str, bucket: &str, object: &str, sha256: &str, previous: &str) -> String {
    format!("{end}\n{bucket}/{object}\n{sha256}\n{previous}")
}

/// The two headers of the object, beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sidecar {
    pub signature: String,
    pub signature_algorithm: String,
}

/// Members of a digest that its own service reads again.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Read {
    pub digest_start_time: String,
    pub digest_end_time: String,
    pub digest_s3_bucket: String,
    pub digest_s3_object: String,
    pub digest_public_key_fingerprint: String,
    pub previous_digest_signature: Option<String>,
    pub log_files: Vec<ListedFile>,
    pub hsm_bridge: Extra,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedFile {
    pub s3_object: String,
    pub hash_value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extra {
    pub first_seq: Option<u64>,
    pub last_seq: Option<u64>,
}

impl Read {
    pub fn of(json: &[u8]) -> Option<Read> {
        serde_json::from_slice(json).ok()
    }

    /// What was signed.
    pub fn signed_text(&self, json: &[u8]) -> String {
        let previous = self.previous_digest_signature.as_deref().unwrap_or("null");
        signed_text(&self.digest_end_time, &self.digest_s3_bucket, &self.digest_s3_object, &sha256(json), previous)
    }
}
