//! Digest files: signed hourly lists of log files, each naming the one before. Beyond what the stock AWS CLI looks at:
//! that the digest before is the very one that was signed, that no time is left out, and that nothing lies in the bucket
//! that no digest lists. Source: audit.md §2.2, §2.3, §7.6.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::gzip;
use super::keys::{Keys, Moment};
use super::names::{Kind, compact};
use super::report::{Finding, Verdict};
use super::signature::{hex, sha256, unhex};
use super::times::millis;
use super::tree::Hash;

const LARGEST: u64 = 64 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Body {
    pub digest_start_time: String,
    pub digest_end_time: String,
    pub digest_s3_bucket: String,
    pub digest_s3_object: String,
    pub digest_public_key_fingerprint: String,
    pub digest_signature_algorithm: String,
    pub previous_digest_s3_bucket: Option<String>,
    pub previous_digest_s3_object: Option<String>,
    pub previous_digest_hash_value: Option<String>,
    pub previous_digest_hash_algorithm: Option<String>,
    pub previous_digest_signature: Option<String>,
    pub log_files: Vec<Listed>,
    pub hsm_bridge: Option<Ours>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    pub s3_bucket: String,
    pub s3_object: String,
    pub hash_value: String,
    pub hash_algorithm: String,
}

/// What we add, under the same signature.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ours {
    pub tree_size: Option<u64>,
    /// Hex.
    pub root_hash: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Meta {
    signature: String,
    signature_algorithm: String,
}

/// A digest read alone.
pub(super) struct Digest {
    pub object: String,
    pub body: Body,
    /// Of the unpacked bytes.
    pub sha256: Hash,
    /// Of the file as stored.
    pub stored: Hash,
    /// Hex, from the sidecar. Empty: there is none that can be read.
    pub signature: String,
    pub start: i64,
    pub end: i64,
    /// So many records, with this root.
    pub head: Option<(u64, Hash)>,
    pub findings: Vec<Finding>,
}

/// `Err`: nothing of it can be used.
pub(super) fn read(path: &Path, object: &str) -> Result<Digest, Finding> {
    let finding = |verdict, what: String| Finding { verdict, file: object.to_owned(), line: 0, seq: None, what };
    let unusable = |what: String| finding(Verdict::Tampered, what);
    let packed =
        std::fs::read(path).map_err(|error| finding(Verdict::Incomplete, format!("cannot be read: {error}")))?;
    let bytes = gzip::unpack(&packed, LARGEST).map_err(unusable)?;
    let body: Body = serde_json::from_slice(&bytes).map_err(|error| unusable(format!("it is no digest: {error}")))?;
    let time = |text: &str| millis(text).ok_or_else(|| unusable(format!("`{text}` is no time")));
    let (start, end) = (time(&body.digest_start_time)?, time(&body.digest_end_time)?);
    let mut findings = Vec::new();
    let signature = match meta(path) {
        Ok(signature) => signature,
        Err((verdict, what)) => {
            findings.push(finding(verdict, what));
            String::new()
        }
    };
    if body.digest_s3_object != object {
        findings.push(unusable(format!("it has been moved from its original place `{}`", body.digest_s3_object)));
    }
    if let Kind::Digest { second } = Kind::of(object)
        && compact(&body.digest_end_time) != second
    {
        findings.push(unusable("the time in its name is not its end".into()));
    }
    if start >= end {
        findings.push(unusable("it ends before it begins".into()));
    }
    let head = body.hsm_bridge.as_ref().and_then(|ours| {
        let root = unhex(ours.root_hash.as_deref()?).and_then(|root| Hash::try_from(root).ok())?;
        Some((ours.tree_size?, root))
    });
    let (hash, stored) = (sha256(&bytes), sha256(&packed));
    Ok(Digest { object: object.to_owned(), sha256: hash, stored, body, signature, start, end, head, findings })
}

/// Where the `x-amz-meta-` headers of a digest lie.
pub(super) fn sidecar(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".meta");
    name.into()
}

fn meta(path: &Path) -> Result<String, (Verdict, String)> {
    let bad = |what: &str| (Verdict::BadSignature, what.to_owned());
    let text = match std::fs::read_to_string(sidecar(path)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(bad("its signature is not here")),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(bad("its signature does not parse"));
        }
        Err(error) => return Err((Verdict::Incomplete, format!("its signature cannot be read: {error}"))),
    };
    let Ok(meta) = serde_json::from_str::<Meta>(&text) else { return Err(bad("its signature does not parse")) };
    // One spelling only, so that no changed byte goes by.
    let spelt =
        format!("{{\"signature\":\"{}\",\"signature-algorithm\":\"{}\"}}", meta.signature, meta.signature_algorithm);
    if text.strip_suffix('\n').unwrap_or(&text) != spelt || unhex(&meta.signature).is_none() {
        return Err(bad("its signature is not spelt as ours are"));
    }
    if meta.signature_algorithm != "SHA256withRSA" {
        return Err(bad("its signature is of another algorithm"));
    }
    Ok(meta.signature)
}

impl Digest {
    /// RULE audit.md §2.3: end, place, hash and the signature before, with no newline at the end.
    fn signed_text(&self) -> String {
        let body = &self.body;
        format!(
            "{}\n{}/{}\n{}\n{}",
            body.digest_end_time,
            body.digest_s3_bucket,
            body.digest_s3_object,
            hex(&self.sha256),
            body.previous_digest_signature.as_deref().unwrap_or("null")
        )
    }

    /// The signature, if it is here, and whether it was the key's time. Says which key it was.
    pub fn check_signature(&self, keys: &mut Keys) -> Result<Option<String>, String> {
        if self.signature.is_empty() {
            return Ok(None);
        }
        if self.body.digest_signature_algorithm != "SHA256withRSA" {
            return Err("it names another algorithm of signatures".into());
        }
        let signature = unhex(&self.signature).unwrap_or_default();
        let moment = Moment { size: self.head.map(|(size, _)| size), time: Some(self.end) };
        let fingerprint = &self.body.digest_public_key_fingerprint;
        let key = keys.digest_signer(fingerprint, self.signed_text().as_bytes(), &signature, moment)?;
        Ok(Some(format!("digest key {}", key.generation)))
    }

    /// What is wrong with the link to the digest before, which is here.
    pub fn follows(&self, before: &Digest) -> Vec<String> {
        let body = &self.body;
        let mut wrong = Vec::new();
        if body.previous_digest_s3_object.as_deref() != Some(&before.object) {
            let named = body.previous_digest_s3_object.as_deref().unwrap_or("none");
            wrong.push(format!("the digest before it is `{named}` by its own word; here it is `{}`", before.object));
            return wrong;
        }
        if body.previous_digest_s3_bucket.as_deref() != Some(&before.body.digest_s3_bucket) {
            wrong.push("the digest before it was in another bucket".into());
        }
        if body.previous_digest_hash_algorithm.as_deref() != Some("SHA-256")
            || body.previous_digest_hash_value.as_deref() != Some(&hex(&before.sha256))
        {
            wrong.push(format!("`{}` is not the digest that it follows: the hash differs", before.object));
        }
        // One that is not here was said to be missing already.
        if !before.signature.is_empty() && body.previous_digest_signature.as_deref() != Some(&before.signature) {
            wrong.push(format!("`{}` is not signed as the digest that it follows", before.object));
        }
        if self.start != before.end {
            wrong.push(format!(
                "it begins at {}, the one before ends at {}",
                body.digest_start_time, before.body.digest_end_time
            ));
        }
        wrong
    }

    /// The first of a chain names none before it.
    pub fn is_first(&self) -> bool {
        let body = &self.body;
        body.previous_digest_s3_object.is_none()
            && body.previous_digest_s3_bucket.is_none()
            && body.previous_digest_hash_value.is_none()
            && body.previous_digest_signature.is_none()
    }
}

/// The digests' lists: log file → its hash (hex) and the digest that lists it.
pub(super) fn listed(digests: &[Digest]) -> (HashMap<&str, (&Listed, &Digest)>, Vec<Finding>) {
    let mut list: HashMap<&str, (&Listed, &Digest)> = HashMap::new();
    let mut findings = Vec::new();
    for digest in digests {
        for file in &digest.body.log_files {
            let mut find = |what: String| {
                let object = file.s3_object.clone();
                findings.push(Finding { verdict: Verdict::Tampered, file: object, line: 0, seq: None, what });
            };
            if file.hash_algorithm != "SHA-256" || file.s3_bucket != digest.body.digest_s3_bucket {
                find(format!("`{}` lists it with another algorithm or bucket", digest.object));
            }
            if let Some((_, other)) = list.insert(&file.s3_object, (file, digest)) {
                find(format!("it is listed twice, by `{}` and `{}`", other.object, digest.object));
            }
        }
    }
    (list, findings)
}
