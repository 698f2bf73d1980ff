//! `ciphertext inspect`: what a blob says of itself. Needs no lock and no token.

use std::io::{Read, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Failed;
use crate::ops::ciphertext::{Blob, Suite};

/// Bytes read at most: a blob is at most 6,144 bytes, its base64 a third more.
const LIMIT: u64 = 64 * 1024;

pub fn inspect(file: &Path, json: bool) -> Result<u8, Failed> {
    let told = |e: std::io::Error| Failed::new(74, format!("reading `{}`: {e}", file.display()));
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().lock().take(LIMIT).read_to_end(&mut bytes).map_err(told)?;
    } else {
        std::fs::File::open(file).map_err(told)?.take(LIMIT).read_to_end(&mut bytes).map_err(told)?;
    }
    let packed: Vec<u8> = bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let decoded = STANDARD.decode(&packed).unwrap_or(bytes);
    let blob = Blob::parse(&decoded)
        .map_err(|_| Failed::new(1, "this is no ciphertext of hsm-bridge: docs/ciphertext-format.md has the form"))?;
    let header = blob.header;
    let (name, suite) = match header.suite {
        Suite::Aes256Gcm => ("AES_256_GCM", "AES-256-GCM, tag of 16 bytes"),
        Suite::Aes256GcmLongIv => ("AES_256_GCM_IV16", "AES-256-GCM, IV of 16 bytes, tag of 16 bytes"),
    };
    let tag_at = blob.ciphertext.len().saturating_sub(16);
    let (body, tag) = blob.ciphertext.split_at(tag_at);
    let mut text;
    if json {
        let report = serde_json::json!({
            "formatVersion": 1,
            "suite": name,
            "keyId": header.key,
            "generation": header.generation,
            "iv": hex::encode(blob.iv),
            "plaintextBytes": body.len(),
            "tag": hex::encode(tag),
            "associatedDataWithoutContext": hex::encode(header.associated_data(&[])),
            "totalBytes": decoded.len(),
        });
        text = format!("{report}\n");
    } else {
        let lines = [
            ("format version", "1".to_owned()),
            ("suite", suite.to_owned()),
            ("key id", header.key.to_string()),
            ("generation", header.generation.to_string()),
            ("IV", hex::encode(blob.iv)),
            ("plaintext", format!("{} bytes", body.len())),
            ("tag", hex::encode(tag)),
            ("AAD (no context)", hex::encode(header.associated_data(&[]))),
        ];
        text = lines.iter().map(|(name, value)| format!("{name:<16} {value}\n")).collect();
        text.push_str("Nothing of this is authenticated until the token has opened it.\n");
    }
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failed::new(74, error.to_string())),
        _ => Ok(0),
    }
}
