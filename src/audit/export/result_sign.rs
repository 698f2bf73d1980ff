//! `result_sign.json`: the signature over the files of an export or a report, as `aws cloudtrail verify-query-results` reads it.
//! Source: audit.md §2.9.

use serde_json::{Value, json};

use crate::audit::record;
use crate::audit::signer::Signed;

pub const NAME: &str = "result_sign.json";

/// A file that is signed for.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    pub name: &'a str,
    /// Of its bytes as stored, in lower-case hex.
    pub sha256: &'a str,
}

/// RULE audit.md §2.9: the hashes of the files as stored, joined by one blank, in the order of the list.
pub fn text_to_sign<'a>(files: impl IntoIterator<Item = Listed<'a>>) -> String {
    files.into_iter().map(|file| file.sha256).collect::<Vec<_>>().join(" ")
}

/// The file. Names and times in it are not signed; a manifest has them too. `now`: seconds since the epoch.
pub fn bytes<'a>(files: impl IntoIterator<Item = Listed<'a>>, region: &str, now: i64, signed: &Signed) -> Vec<u8> {
    let entry = |file: Listed<'_>| json!({"fileHashValue": file.sha256, "fileName": file.name});
    let listed: Vec<Value> = files.into_iter().map(entry).collect();
    let value = json!({
        "version": "1.0",
        "region": region,
        "files": listed,
        "hashAlgorithm": "SHA-256",
        "signatureAlgorithm": "SHA256withRSA",
        "queryCompleteTime": format!("{}Z", record::seconds(now)),
        "hashSignature": hex::encode(&signed.signature),
        "publicKeyFingerprint": signed.key.fingerprint,
    });
    let mut bytes = serde_json::to_vec_pretty(&value).expect("a JSON value serialises into memory");
    bytes.push(b'\n');
    bytes
}
