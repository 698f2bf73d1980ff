//! The whole export, in the order in which it is made: rows and proof, what a reader needs to check them, the manifest of all
//! that, the signature over the files, and then its place.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::manifest::{self, Manifest};
use super::parts::{self, Part};
use super::pass::Pass;
use super::place::{self, Workshop};
use super::{Error, Job, Made, Request, failed, pass, result_sign, source};
use crate::audit::signer::AuditKey;
use crate::audit::verify::note::Note;

const CHECKPOINT: &str = "checkpoint";
const PROOF: &str = "proof.json";

/// Makes an export. Blocking: for a thread of its own, one at a time for each trail.
pub fn make(job: &Job<'_>, request: &Request) -> Result<Made, Error> {
    if let Some(out) = &job.out
        && out.symlink_metadata().is_ok()
    {
        return Err(Error::Exists(out.clone()));
    }
    pass::room(job)?;
    let workshop = Workshop::open(&job.dir)?;
    let dir = workshop.path();
    let note = newest_note(job)?;
    let parsed = match &note {
        Some(text) => {
            Some(Note::parse(text).map_err(|error| Error::Damaged(format!("its newest checkpoint: {error}")))?)
        }
        None => None,
    };
    let found = Pass::new(job, request, parsed.as_ref(), dir)?.run()?;

    let written = || failed("writing the export");
    let mut signed_files = found.files.clone();
    if let Some(note) = &note {
        signed_files.push(parts::write(dir, CHECKPOINT, note.as_bytes()).map_err(written())?);
    }
    let proof = serde_json::to_vec_pretty(&found.proof).expect("hashes and numbers serialise into memory");
    signed_files.push(parts::write(dir, PROOF, &proof).map_err(written())?);
    signed_files.push(parts::write(dir, manifest::VERIFY, manifest::verify_txt(job).as_bytes()).map_err(written())?);

    let mut files = signed_files.clone();
    files.extend(keys(job, &workshop)?);
    files.extend(digests(job, request, &workshop)?);
    let manifest = Manifest::new(job, request, parsed.as_ref(), &found, &files);
    let manifest = parts::write(dir, manifest::MANIFEST, &manifest.bytes()).map_err(written())?;
    signed_files.push(manifest.clone());
    files.push(manifest);

    let listed = || signed_files.iter().map(Part::listed);
    let signed = (job.sign)(result_sign::text_to_sign(listed()).into_bytes())?;
    let signature = result_sign::bytes(listed(), &job.region, job.now.div_euclid(1_000_000), &signed);
    files.push(parts::write(dir, result_sign::NAME, &signature).map_err(written())?);
    let sums = manifest::sums(&files);
    files.push(parts::write(dir, manifest::SUMS, sums.as_bytes()).map_err(written())?);

    let prefix = place::prefix(job);
    workshop.deliver(job, &prefix)?;
    let proof = found.proof.as_ref();
    Ok(Made {
        export_id: job.id.clone(),
        prefix: format!("{prefix}/"),
        out: job.out.clone(),
        first_seq: found.range.map(|(first, _)| first),
        last_seq: found.range.map(|(_, last)| last),
        rows: found.selected,
        checkpoint_size: proof.and_then(|proof| proof.tree_size),
        unsigned: proof.map_or(0, |proof| proof.unsigned),
        bytes: files.iter().map(|file| file.bytes).sum(),
        files: files.into_iter().map(|file| file.name).collect(),
    })
}

/// The newest signed tree head of records that this export looks at.
fn newest_note(job: &Job<'_>) -> Result<Option<String>, Error> {
    let dir = job.dir.join("checkpoints");
    let told = || failed(format!("reading the checkpoints in `{}`", dir.display()));
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(told())?,
    };
    let mut newest = None;
    for entry in entries {
        let name = entry.map_err(told())?.file_name().to_string_lossy().into_owned();
        let size = (name.len() == 20).then(|| name.parse::<u64>().ok()).flatten();
        newest = newest.max(size.filter(|size| *size <= job.durable));
    }
    newest.map(|size| std::fs::read_to_string(dir.join(format!("{size:020}"))).map_err(told())).transpose()
}

/// `digest-0001`.
pub fn key_name(key: &AuditKey) -> String {
    format!("{}-{:04}", key.key_use.as_str(), key.generation)
}

fn keys(job: &Job<'_>, workshop: &Workshop) -> Result<Vec<Part>, Error> {
    let dir = workshop.folder("keys")?;
    let mut files = Vec::new();
    let mut put = |name: &str, bytes: &[u8]| -> Result<(), Error> {
        let part = parts::write(&dir, name, bytes).map_err(failed("writing the keys"))?;
        files.push(Part { name: format!("keys/{name}"), ..part });
        Ok(())
    };
    let mut list = Vec::new();
    for key in &job.keys {
        let name = key_name(key);
        let certificate = pem(&key.certificate);
        put(&format!("{name}.spki.der"), &key.spki)?;
        put(&format!("{name}.crt.pem"), certificate.as_bytes())?;
        list.push(json!({
            "keyUse": key.key_use.as_str(),
            "generation": key.generation,
            "fingerprint": key.fingerprint,
            "spki": STANDARD.encode(&key.spki),
            "certificate": certificate,
            "validFrom": key.valid_from,
            "validUntil": key.valid_until,
        }));
    }
    put("keys.json", &serde_json::to_vec_pretty(&list).expect("a JSON value serialises into memory"))?;
    Ok(files)
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The digests whose time overlaps the range, with their signatures: from the first that ends after its beginning to the first
/// that ends after its end.
fn digests(job: &Job<'_>, request: &Request, workshop: &Workshop) -> Result<Vec<Part>, Error> {
    let dir = workshop.folder("digests")?;
    let told = || failed("copying the digests");
    let mut files = Vec::new();
    for (end, path) in source::objects(&job.dir.join("bucket"), "CloudTrail-Digest").map_err(told())? {
        if request.from.is_some_and(|from| end < from) {
            continue;
        }
        for path in [path.clone(), meta(&path)] {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            match std::fs::read(&path) {
                Ok(bytes) => {
                    let part = parts::write(&dir, name, &bytes).map_err(told())?;
                    files.push(Part { name: format!("digests/{name}"), ..part });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(told()(error)),
            }
        }
        if request.to.is_some_and(|to| end >= to) {
            break;
        }
    }
    Ok(files)
}

fn meta(object: &Path) -> std::path::PathBuf {
    let mut name = object.as_os_str().to_owned();
    name.push(".meta");
    name.into()
}
