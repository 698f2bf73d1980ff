//! An export alone: the signature over its files, the manifest, and each record's place under the signed head. Source:
//! audit.md §2.9, §7.8.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;
use serde::Deserialize;

use super::certificate::Trust;
use super::keys::{Keys, Moment};
use super::line::{Leaf, Line};
use super::lines::{Lines, Next};
use super::note::Note;
use super::report::{Report, Signed, Verdict};
use super::signature::{hex, unhex};
use super::tree::{Hash, node};
use super::{Options, bucket, checkpoints, describe, hash_of, times};

pub(super) const RESULT_SIGN: &str = "result_sign.json";
const MANIFEST: &str = "manifest.json";
const SUMS: &str = "SHA256SUMS";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResultSign {
    version: String,
    region: String,
    files: Vec<SignedFile>,
    hash_algorithm: String,
    signature_algorithm: String,
    query_complete_time: String,
    hash_signature: String,
    public_key_fingerprint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SignedFile {
    file_hash_value: String,
    file_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    trail: String,
    region: String,
    as_of: AsOf,
    files: Vec<Part>,
}

#[derive(Deserialize)]
struct AsOf {
    time: String,
}

#[derive(Deserialize)]
struct Part {
    name: String,
    sha256: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Proof {
    first_seq: u64,
    leaves: u64,
    leaves_file: String,
    tree_size: Option<u64>,
    root: Option<String>,
    before: Vec<Subtree>,
    after: Vec<Subtree>,
    unsigned: u64,
}

#[derive(Clone, Deserialize)]
struct Subtree {
    first: u64,
    count: u64,
    hash: String,
}

type Found = Result<(), (Verdict, String, String)>;

/// Verifies the export in `dir`.
pub(super) fn verify(dir: &Path, options: &Options) -> Report {
    let mut report = Report::new(dir.to_path_buf());
    let trust = options.trust.as_deref().map(Trust::parse).transpose().unwrap_or_else(|what| {
        report.find(Verdict::Incomplete, "--trust", 0, None, what);
        None
    });
    let mut keys = checkpoints::keys_from_file(&dir.join("keys"), trust.as_ref(), &mut report);
    check(dir, &mut keys, options.trail_arn.as_deref(), &mut report);
    keys.check_vouched(&mut report);
    report.keys = keys.all().iter().map(describe).collect();
    if trust.is_none() {
        report.not_proven.push("that the keys are the trail's: compare the fingerprints above, or give --trust".into());
    } else {
        report.not_proven.push("that no certificate was revoked: revocation is not checked".into());
    }
    report
        .not_proven
        .push("anything about records outside the export's range; see `completeness` in manifest.json".into());
    report
}

fn check(dir: &Path, keys: &mut Keys, trail: Option<&str>, report: &mut Report) {
    let steps = signed_files(dir, keys, report).and_then(|here| proof(dir, keys, &here, trail, report));
    if let Err((verdict, file, what)) = steps {
        report.find(verdict, &file, 0, None, what);
    }
}

/// Hashes of all files that are here.
fn signed_files(
    dir: &Path,
    keys: &mut Keys,
    report: &mut Report,
) -> Result<BTreeMap<String, String>, (Verdict, String, String)> {
    let at = |verdict, name: &str| {
        let name = name.to_owned();
        move |what: String| (verdict, name, what)
    };
    let sign: ResultSign = read(dir, RESULT_SIGN)?;
    let known = (sign.version.as_str(), sign.hash_algorithm.as_str(), sign.signature_algorithm.as_str());
    if known != ("1.0", "SHA-256", "SHA256withRSA") {
        return Err(at(Verdict::BadSignature, RESULT_SIGN)("it names another version or algorithm".into()));
    }
    let text = sign.files.iter().map(|file| file.file_hash_value.as_str()).collect::<Vec<_>>().join(" ");
    let signature = unhex(&sign.hash_signature).unwrap_or_default();
    let moment = Moment { size: None, time: times::millis(&sign.query_complete_time) };
    keys.digest_signer(&sign.public_key_fingerprint, text.as_bytes(), &signature, moment)
        .map_err(at(Verdict::BadSignature, RESULT_SIGN))?;

    let mut names = Vec::new();
    bucket::list(dir, dir, &mut names)
        .map_err(|error| at(Verdict::Incomplete, ".")(format!("cannot be read: {error}")))?;
    let mut here = BTreeMap::new();
    for name in names {
        let (_, hash) = hash_of(&dir.join(&name))
            .map_err(|error| at(Verdict::Incomplete, &name)(format!("cannot be read: {error}")))?;
        here.insert(name, hash);
    }
    let mut same = |name: &str, hash: &str, by: &str| match here.get(name) {
        Some(found) if found == hash => {}
        Some(_) => report.find(Verdict::Tampered, name, 0, None, format!("its hash is not the one in {by}")),
        None => report.find(Verdict::Tampered, name, 0, None, format!("{by} lists it, and it is not here")),
    };
    sign.files.iter().for_each(|file| same(&file.file_name, &file.file_hash_value, RESULT_SIGN));
    let manifest: Manifest = read(dir, MANIFEST)?;
    manifest.files.iter().for_each(|file| same(&file.name, &file.sha256, MANIFEST));
    if !sign.files.iter().any(|file| file.file_name == MANIFEST) {
        report.find(Verdict::Tampered, MANIFEST, 0, None, "the signature does not cover it");
    }
    // What result_sign.json says beside its list is not signed, and the manifest is.
    let time = manifest.as_of.time.get(..19).map(|time| format!("{time}Z"));
    if sign.region != manifest.region || Some(&sign.query_complete_time) != time.as_ref() {
        report.find(Verdict::Tampered, RESULT_SIGN, 0, None, "its Region or time is not the manifest's");
    }
    let listed: BTreeSet<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    for name in here.keys().filter(|name| !listed.contains(name.as_str())) {
        if ![MANIFEST, RESULT_SIGN, SUMS].contains(&name.as_str()) {
            report.find(Verdict::Tampered, name, 0, None, "the manifest does not list it");
        }
    }
    if let Ok(sums) = std::fs::read_to_string(dir.join(SUMS)) {
        let right = |line: &str| {
            line.split_once("  ").is_some_and(|(hash, name)| here.get(name).is_some_and(|found| found == hash))
        };
        if !sums.lines().all(right) || !sums.ends_with('\n') {
            report.find(Verdict::Tampered, SUMS, 0, None, "a line of it is not so");
        }
    }
    report.trail = Some(manifest.trail);
    Ok(here)
}

/// The range's records under the signed head.
fn proof(
    dir: &Path,
    keys: &mut Keys,
    here: &BTreeMap<String, String>,
    trail: Option<&str>,
    report: &mut Report,
) -> Found {
    if let (Some(wanted), Some(found)) = (trail, &report.trail)
        && wanted != found
    {
        return Err((Verdict::Tampered, MANIFEST.into(), format!("the export is of trail `{found}`")));
    }
    let proof: Option<Proof> = read(dir, "proof.json")?;
    let Some(proof) = proof else { return Ok(()) };
    let bad = |what: &str| (Verdict::Tampered, "proof.json".to_owned(), what.to_owned());
    let leaves = leaves(dir, &proof)?;
    let records = records(dir, here, &proof, &leaves, report)?;
    report.records = records;
    match (proof.tree_size, &proof.root) {
        (Some(size), Some(root)) => {
            let text: String = std::fs::read_to_string(dir.join("checkpoint"))
                .map_err(|error| (Verdict::Incomplete, "checkpoint".into(), format!("cannot be read: {error}")))?;
            let in_note = |what: String| (Verdict::BadSignature, "checkpoint".to_owned(), what);
            let note = Note::parse(&text).map_err(in_note)?;
            let by =
                keys.signer_of(&note, None).map(|key| format!("checkpoint key {}", key.generation)).map_err(in_note)?;
            if note.size != size || hex(&note.root) != *root {
                return Err(bad("it is about another head than the checkpoint's"));
            }
            if !leaves.is_empty() && whole_root(&proof, &leaves) != Some(note.root) {
                return Err(bad("the records' hashes do not lead to the root that is signed"));
            }
            report.checkpoints = 1;
            let covered = proof.leaves - proof.unsigned.min(proof.leaves);
            report.fixed.push(format!(
                "{covered} records from {} on are under the head of {size} records signed by {by}",
                proof.first_seq
            ));
            report.signed = Some(Signed { size, root: root.clone(), by, time: None });
        }
        _ => report.not_proven.push("the records' place in the log: no signed head covers them".into()),
    }
    if proof.unsigned > 0 {
        report
            .not_proven
            .push(format!("the place of the newest {} records: no signed head covers them", proof.unsigned));
    }
    Ok(())
}

fn leaves(dir: &Path, proof: &Proof) -> Result<Vec<Hash>, (Verdict, String, String)> {
    let name = &proof.leaves_file;
    let wrong = |what: String| (Verdict::Tampered, name.clone(), what);
    if name.contains('/') {
        return Err(wrong("it is no file of this folder".into()));
    }
    let bytes = std::fs::read(dir.join(name)).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let (leaves, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || leaves.len() as u64 != proof.leaves {
        return Err(wrong("it does not have as many hashes as the proof says".into()));
    }
    Ok(leaves.to_vec())
}

/// Each verbatim record has its hash in the list. Says how many there are.
fn records(
    dir: &Path,
    here: &BTreeMap<String, String>,
    proof: &Proof,
    leaves: &[Hash],
    report: &mut Report,
) -> Result<u64, (Verdict, String, String)> {
    let mut count = 0;
    let mut outside = 0u64;
    for name in here.keys().filter(|name| name.starts_with("records") && name.contains(".jsonl")) {
        let told = |error: std::io::Error| (Verdict::Tampered, name.clone(), format!("cannot be read: {error}"));
        let reader: Box<dyn Read> = match name.ends_with(".gz") {
            true => Box::new(GzDecoder::new(BufReader::new(File::open(dir.join(name)).map_err(told)?))),
            false => Box::new(File::open(dir.join(name)).map_err(told)?),
        };
        let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, reader));
        let mut number = 0;
        while let Next::Line(bytes) = lines.next().map_err(told)? {
            number += 1;
            let seq = match Line::parse(bytes) {
                Ok(line) => line.place().seq,
                Err(what) => {
                    report.find(Verdict::Tampered, name, number, None, what);
                    continue;
                }
            };
            report.first_seq.get_or_insert(seq);
            report.last_seq = Some(seq);
            count += 1;
            let index = seq.checked_sub(proof.first_seq).and_then(|index| usize::try_from(index).ok());
            match index.and_then(|index| leaves.get(index)) {
                Some(leaf) if *leaf == Leaf::of(bytes).hash() => {}
                Some(_) => {
                    let what = "the record's hash is not the one in the proof";
                    report.find(Verdict::Tampered, name, number, Some(seq), what);
                }
                None => outside += 1,
            }
        }
    }
    if outside > 0 {
        report
            .not_proven
            .push(format!("{outside} records from sealed log files: their digests vouch for them, not the proof"));
    }
    Ok(count)
}

/// Of the subtrees before the range, its signed leaves, and the subtrees behind.
fn whole_root(proof: &Proof, leaves: &[Hash]) -> Option<Hash> {
    let size = proof.tree_size?;
    let mut row: Vec<(u64, u64, Hash)> = Vec::new();
    let mut join = |first: u64, count: u64, hash: Hash| {
        let follows = row.last().map_or(0, |(first, count, _)| first + count) == first;
        let mut added = (first, count, hash);
        while let Some((left, size, hash)) =
            row.last().copied().filter(|(left, size, _)| *size == added.1 && left % (2 * size) == 0)
        {
            added = (left, 2 * size, node(&hash, &added.2));
            row.pop();
        }
        row.push(added);
        follows && count.is_power_of_two() && first.is_multiple_of(count)
    };
    let hash_of = |subtree: &Subtree| unhex(&subtree.hash).and_then(|hash| Hash::try_from(hash).ok());
    for subtree in &proof.before {
        join(subtree.first, subtree.count, hash_of(subtree)?).then_some(())?;
    }
    for (seq, leaf) in (proof.first_seq..size).zip(leaves) {
        join(seq, 1, *leaf).then_some(())?;
    }
    for subtree in &proof.after {
        join(subtree.first, subtree.count, hash_of(subtree)?).then_some(())?;
    }
    let mut row = row.into_iter().rev();
    let (first, count, last) = row.next()?;
    (first + count == size).then(|| row.fold(last, |right, (_, _, left)| node(&left, &right)))
}

fn read<T: for<'de> Deserialize<'de>>(dir: &Path, name: &str) -> Result<T, (Verdict, String, String)> {
    let bytes = std::fs::read(dir.join(name))
        .map_err(|error| (Verdict::Incomplete, name.to_owned(), format!("cannot be read: {error}")))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| (Verdict::Tampered, name.to_owned(), format!("it does not parse: {error}")))
}
