//! `<trail>/keys/`: public copies of what the store says about the audit keys, for whoever verifies without us.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde_json::{Value, json};

use super::certificate;
use crate::audit::AuditKey;

const LIST: &str = "keys.json";

/// One entry of `keys.json`.
pub(super) fn entry(key: &AuditKey, chain: &[Vec<u8>]) -> Value {
    json!({
        "keyUse": key.key_use.as_str(),
        "generation": key.generation,
        "fingerprint": key.fingerprint,
        "spki": base64(&key.spki),
        "certificate": chain.iter().map(|one| certificate::pem(one)).collect::<String>(),
        "validFrom": key.valid_from,
        "validUntil": key.valid_until,
    })
}

/// Where the list on disk says something else of a key than the store does, or knows keys that the store does not.
pub(super) fn differences(dir: &Path, entries: &[Value]) -> Vec<String> {
    let path = dir.join("keys").join(LIST);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![format!("`{}` cannot be read: {error}", path.display())],
    };
    let Ok(found) = serde_json::from_slice::<Vec<Value>>(&text) else {
        return vec![format!("`{}` is no list of keys", path.display())];
    };
    let name = |key: &Value| (key.get("keyUse").cloned(), key.get("generation").cloned());
    let mut differences = Vec::new();
    for key in &found {
        let told = format!("{} key {}", text_of(key, "keyUse"), key.get("generation").unwrap_or(&Value::Null));
        match entries.iter().find(|entry| name(entry) == name(key)) {
            None => differences.push(format!("the list has a {told}, which the store does not know")),
            Some(entry) if entry.get("spki") != key.get("spki") => {
                differences.push(format!("the list has another public key for the {told}"));
            }
            Some(entry) if entry.get("fingerprint") != key.get("fingerprint") => {
                differences.push(format!("the list has another fingerprint for the {told}"));
            }
            Some(_) => {}
        }
    }
    differences
}

/// Keys (use and generation) whose certificate in the list is not the store's.
pub(super) fn other_certificates(dir: &Path, entries: &[Value]) -> Vec<(String, u32)> {
    let Ok(text) = fs::read(dir.join("keys").join(LIST)) else { return Vec::new() };
    let found = serde_json::from_slice::<Vec<Value>>(&text).unwrap_or_default();
    let differs = |entry: &&Value| {
        let same = |name: &str, key: &Value| entry.get(name) == key.get(name);
        found.iter().any(|key| same("keyUse", key) && same("generation", key) && !same("certificate", key))
    };
    let names = entries.iter().filter(differs).filter_map(|entry| {
        let generation = entry.get("generation").and_then(Value::as_u64)?;
        Some((text_of(entry, "keyUse").to_owned(), u32::try_from(generation).ok()?))
    });
    names.collect()
}

fn text_of<'a>(key: &'a Value, member: &str) -> &'a str {
    key.get(member).and_then(Value::as_str).unwrap_or("nameless")
}

/// Writes all of them anew. A file that is right already stays.
pub(super) fn write(dir: &Path, keys: &[(AuditKey, Vec<Vec<u8>>)]) -> io::Result<()> {
    let dir = dir.join("keys");
    if !dir.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&dir)?;
    }
    let mut entries = Vec::new();
    for (key, chain) in keys {
        let name = format!("{}-{:04}", key.key_use.as_str(), key.generation);
        let certificates: String = chain.iter().map(|one| certificate::pem(one)).collect();
        replace(&dir, &format!("{name}.spki.der"), &key.spki)?;
        replace(&dir, &format!("{name}.crt.pem"), certificates.as_bytes())?;
        entries.push(entry(key, chain));
    }
    let mut list = serde_json::to_vec_pretty(&entries).map_err(io::Error::other)?;
    list.push(b'\n');
    replace(&dir, LIST, &list)
}

fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let path = dir.join(name);
    if fs::read(&path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    let new = dir.join(format!("{name}.new"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    File::open(dir)?.sync_all()
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}
