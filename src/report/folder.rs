//! The files of one report, with a manifest of them and a signature that `aws cloudtrail verify-query-results
//! --local-export-path` and OpenSSL check. Source: audit.md §2.9, §7.8.

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::render::{Format, written};
use super::{Made, date};

pub const MANIFEST: &str = "manifest.json";
pub const RESULT_SIGN: &str = "result_sign.json";

/// One file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub name: String,
    pub bytes: Vec<u8>,
    pub sha256: String,
}

/// A signature by the trail's digest key.
#[derive(Debug, Clone)]
pub struct Signature {
    pub bytes: Vec<u8>,
    pub key_fingerprint: String,
}

impl File {
    fn new(name: String, bytes: Vec<u8>) -> File {
        let sha256 = hex::encode(digest::digest(&digest::SHA256, &bytes));
        File { name, bytes, sha256 }
    }
}

/// The report in each format, and the manifest last.
pub fn files(made: &Made, formats: &[Format]) -> Vec<File> {
    let name = |format: &Format| format!("{}.{}", made.header.name, format.name());
    let mut files: Vec<File> = formats.iter().map(|format| File::new(name(format), written(made, *format))).collect();
    let listed: Vec<Value> = files
        .iter()
        .map(|file| json!({ "name": file.name, "bytes": file.bytes.len(), "sha256": file.sha256 }))
        .collect();
    let manifest = json!({
        "version": 1,
        "report": made.header,
        "columns": made.table.columns,
        "csv": "RFC 4180, UTF-8. A cell that begins with = + - @, a tab or a carriage return has an apostrophe in front.",
        "files": listed,
    });
    let mut bytes = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    bytes.push(b'\n');
    files.push(File::new(MANIFEST.to_owned(), bytes));
    files
}

/// RULE audit.md §2.9: the hashes of the files, joined by one blank, in the order of the list.
pub fn text_to_sign(files: &[File]) -> String {
    files.iter().map(|file| file.sha256.as_str()).collect::<Vec<_>>().join(" ")
}

/// `result_sign.json`. `now`: milliseconds since the epoch.
pub fn result_sign(files: &[File], region: &str, now: i64, signature: &Signature) -> File {
    let listed: Vec<Value> =
        files.iter().map(|file| json!({ "fileHashValue": file.sha256, "fileName": file.name })).collect();
    let value = json!({
        "version": "1.0",
        "region": region,
        "files": listed,
        "hashAlgorithm": "SHA-256",
        "signatureAlgorithm": "SHA256withRSA",
        "queryCompleteTime": date(now.div_euclid(1000) * 1000),
        "hashSignature": hex::encode(&signature.bytes),
        "publicKeyFingerprint": signature.key_fingerprint,
    });
    let mut bytes = serde_json::to_vec_pretty(&value).unwrap_or_default();
    bytes.push(b'\n');
    File::new(RESULT_SIGN.to_owned(), bytes)
}
