//! `ciphertext inspect`: what a blob says of itself. Needs no lock and no token.

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Failed;
use crate::ops::ciphertext::Blob;

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
    let text: Vec<u8> = bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let decoded = STANDARD.decode(&text).unwrap_or(bytes);
    let blob = Blob::parse(&decoded)
        .map_err(|_| Failed::new(1, "this is no ciphertext of hsm-bridge: docs/ciphertext-format.md has the form"))?;
    let header = blob.header;
    let tag_at = blob.ciphertext.len().saturating_sub(16);
    let (body, tag) = blob.ciphertext.split_at(tag_at);
    if json {
        let report = serde_json::json!({
            "formatVersion": 1,
            "suite": "AES_256_GCM",
            "keyId": header.key,
            "generation": header.generation,
            "iv": hex::encode(blob.iv),
            "plaintextBytes": body.len(),
            "tag": hex::encode(tag),
            "associatedDataWithoutContext": hex::encode(header.associated_data(&[])),
            "totalBytes": decoded.len(),
        });
        println!("{report}");
    } else {
        println!("format version   1");
        println!("suite            AES-256-GCM, tag of 16 bytes");
        println!("key id           {}", header.key);
        println!("generation       {}", header.generation);
        println!("IV               {}", hex::encode(blob.iv));
        println!("plaintext        {} bytes", body.len());
        println!("tag              {}", hex::encode(tag));
        println!("AAD (no context) {}", hex::encode(header.associated_data(&[])));
        println!("Nothing of this is authenticated until the token has opened it.");
    }
    Ok(0)
}
