//! The files of a trail's signed heads and keys. The chain holds the same notes and keys; the files are copies that are handed out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::certificate::{self, Trust};
use super::facts::KeyFact;
use super::heads::{Head, Lost};
use super::keys::{Key, Keys};
use super::note::{self, Note};
use super::report::{Report, Verdict};
use super::signature::sha256;
use super::walk::Walk;

/// Checkpoint files, by their sizes.
#[derive(Default)]
pub(super) struct Files {
    dir: Option<PathBuf>,
    pub sizes: BTreeSet<u64>,
}

impl Files {
    pub fn list(dir: &Path, report: &mut Report) -> Files {
        let mut files = Files::default();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return files,
            Err(error) => {
                report.find(Verdict::Incomplete, "checkpoints", 0, None, format!("cannot be read: {error}"));
                return files;
            }
        };
        files.dir = Some(dir.to_path_buf());
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match size_of(&name) {
                Some(size) => drop(files.sizes.insert(size)),
                None if name == "latest" || name.starts_with('.') || name.ends_with(".new") => {}
                None => report.note(format!("`checkpoints/{name}` is no checkpoint and was not read")),
            }
        }
        files
    }

    /// Each file is what the chain holds, or a head that is signed in its own right and fits.
    pub fn check(&self, walk: &mut Walk<'_>, accepted: Option<&str>) {
        let Some(dir) = &self.dir else {
            if !walk.told.checkpoints.is_empty() {
                walk.report.note("the files of the checkpoints are not here; their notes stand in the journal".into());
            }
            return;
        };
        let losses = std::mem::take(&mut walk.told.losses);
        let lost = Lost { losses: &losses, accepted };
        for size in &self.sizes {
            let name = format!("checkpoints/{size:020}");
            let text = match std::fs::read(dir.join(format!("{size:020}"))) {
                Ok(bytes) => bytes,
                Err(error) => {
                    walk.report.find(Verdict::Incomplete, &name, 0, None, format!("cannot be read: {error}"));
                    continue;
                }
            };
            let told = walk.told.checkpoints.get(size);
            if told == Some(&sha256(&text)) {
                continue;
            }
            let known = told.is_some();
            match judge(&text, *size, walk) {
                // A note that was signed again, or that others have signed too, says the same.
                Ok(head) => walk.heads.add(head, &walk.tree, &lost, walk.report),
                Err(what) => {
                    walk.report.find(Verdict::BadSignature, &name, 0, None, what);
                    if known {
                        let what = "it differs from the note in the journal";
                        walk.report.find(Verdict::Tampered, &name, 0, None, what);
                    }
                }
            }
        }
        let missing = walk.told.checkpoints.keys().filter(|size| !self.sizes.contains(size)).count();
        if missing > 0 {
            walk.report.note(format!("{missing} files of checkpoints are not here; their notes stand in the journal"));
        }
        walk.told.losses = losses;
    }
}

fn size_of(name: &str) -> Option<u64> {
    (name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok())?
}

fn judge(bytes: &[u8], size: u64, walk: &mut Walk<'_>) -> Result<Head, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_string())?;
    let note = Note::parse(text)?;
    if note.size != size {
        return Err(format!("its name says {size} records and its text {}", note.size));
    }
    if walk.trail().and_then(note::origin).is_some_and(|origin| origin != note.origin) {
        return Err(format!("it is of the log `{}`", note.origin));
    }
    let key = walk.keys.signer_of(&note, None)?;
    let by = format!("{} key {}", key.key_use, key.generation);
    Ok(Head { size, root: note.root, time: None, by, place: format!("checkpoints/{size:020}") })
}

/// A row of `keys/keys.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    key_use: String,
    generation: u32,
    fingerprint: String,
    spki: String,
    certificate: Option<String>,
    valid_from: i64,
    valid_until: Option<i64>,
}

fn rows(dir: &Path) -> Option<Result<Vec<Row>, String>> {
    match std::fs::read(dir.join("keys.json")) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|error| format!("it does not parse: {error}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(format!("cannot be read: {error}"))),
    }
}

const KEYS: &str = "keys/keys.json";

/// Without a journal the keys are taken from the file beside it, on its word.
pub(super) fn keys_from_file(dir: &Path, trust: Option<&Trust>, report: &mut Report) -> Keys {
    let mut keys = Keys::default();
    match rows(dir) {
        None => report.find(Verdict::Incomplete, KEYS, 0, None, "the keys are not here"),
        Some(Err(what)) => report.find(Verdict::Incomplete, KEYS, 0, None, what),
        Some(Ok(rows)) => {
            for row in rows {
                let (from, until) = (row.valid_from, row.valid_until);
                let fact = KeyFact {
                    key_use: row.key_use,
                    generation: row.generation,
                    fingerprint: row.fingerprint,
                    spki: row.spki,
                    certificate: row.certificate,
                    previous_fingerprint: None,
                };
                if let Err((verdict, what)) = keys.introduce(&fact, None, from, until, trust) {
                    report.find(verdict, KEYS, 0, None, what);
                }
            }
        }
    }
    keys
}

/// The files of the keys say what the chain says.
pub(super) fn key_files(dir: &Path, keys: &Keys, report: &mut Report) {
    let rows = match rows(dir) {
        None => return,
        Some(Err(what)) => return report.find(Verdict::Tampered, KEYS, 0, None, what),
        Some(Ok(rows)) => rows,
    };
    for row in &rows {
        let name = format!("{} key {}", row.key_use, row.generation);
        let Some(key) = keys.all().iter().find(|key| key.key_use == row.key_use && key.generation == row.generation)
        else {
            // It may be introduced in a moment.
            report.note(format!("`{KEYS}` has the {name}, which the log has not introduced"));
            continue;
        };
        let certificate = row.certificate.as_deref().map(certificate::decode).transpose();
        let same = STANDARD.decode(&row.spki).is_ok_and(|spki| spki == key.public.spki)
            && row.fingerprint == key.fingerprint
            && certificate.is_ok_and(|chain| chain.is_none_or(|chain| is_of(&chain, key)));
        if !same {
            report.find(Verdict::Tampered, KEYS, 0, None, format!("the {name} is not the one that the log introduced"));
        }
    }
    for key in keys.all() {
        let own = key.certificates.first();
        let stem = format!("{}-{:04}", key.key_use, key.generation);
        for (suffix, wanted) in [("spki.der", Some(&key.public.spki)), ("crt.pem", own)] {
            let name = format!("{stem}.{suffix}");
            let (Ok(bytes), Some(wanted)) = (std::fs::read(dir.join(&name)), wanted) else { continue };
            let same = match suffix {
                "spki.der" => bytes == *wanted,
                _ => std::str::from_utf8(&bytes)
                    .is_ok_and(|pem| certificate::decode(pem).is_ok_and(|chain| is_of(&chain, key))),
            };
            if !same {
                let what = "it is not what the log introduced";
                report.find(Verdict::Tampered, &format!("keys/{name}"), 0, None, what);
            }
        }
    }
}

/// Whether the first certificate of the chain is the one that the log told of last.
fn is_of(chain: &[Vec<u8>], key: &Key) -> bool {
    key.certificates.is_empty() || chain.first() == key.certificates.first()
}
