//! Proofs about a part of the log for somebody who does not get all of it: one record and its place under a signed head, or
//! that one head continues another. RULE RFC 6962 §2.1.1, §2.1.2.

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::certificate::{self, Trust};
use super::facts::{Fact, KeyFact};
use super::line::{Leaf, Line, segment_name};
use super::lines::{Lines, Next};
use super::note::{self, Note};
use super::report::{Report, Signed, Verdict};
use super::signature::{HashOf, PublicKey, hex, unhex};
use super::tree::{Frontier, Hash, verify_consistency, verify_inclusion};
use super::{anchors, names, times};

const KIND: &str = "hsm-bridge/audit/inclusion/1";

/// One record with everything that shows its place: a file of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Proof {
    kind: String,
    /// The record, as it stands in the journal.
    line: String,
    index: u64,
    size: u64,
    /// Hex, from the leaf up.
    proof: Vec<String>,
    /// The signed note of the head.
    checkpoint: String,
    key: ProofKey,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProofKey {
    generation: u32,
    fingerprint: String,
    spki: String,
    certificate: Option<String>,
}

/// Calls `each` with the number and bytes of each line of the journal, until it says `false`.
fn lines(dir: &Path, mut each: impl FnMut(u64, &[u8]) -> bool) -> Result<u64, String> {
    let journal = dir.join("journal");
    let told = |error: std::io::Error| format!("the journal cannot be read: {error}");
    let mut seq = 0;
    for name in names(&journal).map_err(told)? {
        let Some((first, _)) = segment_name(&name) else { continue };
        if first != seq {
            return Err(format!("record {seq} is not here: `{name}` is the next segment"));
        }
        let file = File::open(journal.join(&name)).map_err(told)?;
        let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, file));
        while let Next::Line(bytes) = lines.next().map_err(told)? {
            if !each(seq, bytes) {
                return Ok(seq + 1);
            }
            seq += 1;
        }
    }
    Ok(seq)
}

/// The proof for the record with this `eventID`, under the newest checkpoint.
pub fn prove(dir: &Path, event_id: &str) -> Result<Proof, String> {
    let checkpoint = newest_checkpoint(dir)?;
    let note = Note::parse(&checkpoint).map_err(|what| format!("the newest checkpoint: {what}"))?;
    let mut found: Option<(u64, String)> = None;
    let mut keys: Vec<KeyFact> = Vec::new();
    lines(dir, |seq, bytes| {
        if let Ok(line) = Line::parse(bytes) {
            if let Some(Ok(Fact::AuditKey(key))) = Fact::of(&line) {
                keys.push(key);
            }
            if line.event_id == event_id {
                found = Some((seq, String::from_utf8_lossy(bytes).into_owned()));
            }
        }
        true
    })?;
    let (index, line) = found.ok_or_else(|| format!("no record has the eventID `{event_id}`"))?;
    if index >= note.size {
        return Err(format!("record {index} is under no checkpoint yet: the newest counts {} records", note.size));
    }
    let by_id = |key: &&KeyFact| {
        let spki = STANDARD.decode(&key.spki).unwrap_or_default();
        note.signatures.iter().any(|signature| signature.key_id == note::key_id(&spki))
    };
    let key = keys.iter().rfind(by_id).ok_or("the key of the newest checkpoint was not introduced by the log")?;
    let proof = roots(dir, &inclusion(index, note.size))?;
    Ok(Proof {
        kind: KIND.into(),
        line,
        index,
        size: note.size,
        proof: proof.iter().map(|hash| hex(hash)).collect(),
        checkpoint,
        key: ProofKey {
            generation: key.generation,
            fingerprint: key.fingerprint.clone(),
            spki: key.spki.clone(),
            certificate: key.certificate.clone(),
        },
    })
}

fn newest_checkpoint(dir: &Path) -> Result<String, String> {
    let dir = dir.join("checkpoints");
    let told = |error: std::io::Error| format!("the checkpoints cannot be read: {error}");
    let is_size = |name: &String| name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
    let newest = names(&dir).map_err(told)?.into_iter().rfind(is_size).ok_or("there is no checkpoint yet")?;
    std::fs::read_to_string(dir.join(newest)).map_err(told)
}

/// Checks a proof alone: `text` is the file.
pub fn check(path: &Path, text: &str, trust: Option<&[u8]>) -> Report {
    let mut report = Report::new(path.to_path_buf());
    let name = path.to_string_lossy().into_owned();
    if let Err((verdict, what)) = judge(text, trust, &mut report) {
        report.find(verdict, &name, 0, None, what);
    }
    report
}

fn judge(text: &str, trust: Option<&[u8]>, report: &mut Report) -> Result<(), (Verdict, String)> {
    let incomplete = |what: String| (Verdict::Incomplete, what);
    let tampered = |what: String| (Verdict::Tampered, what);
    let bad = |what: String| (Verdict::BadSignature, what);
    let proof: Proof = serde_json::from_str(text).map_err(|error| incomplete(format!("it is no proof: {error}")))?;
    if proof.kind != KIND {
        return Err(incomplete(format!("it is a proof of the unknown kind `{}`", proof.kind)));
    }
    let trust = trust.map(Trust::parse).transpose().map_err(incomplete)?;
    let note = Note::parse(&proof.checkpoint).map_err(bad)?;
    let spki = STANDARD.decode(&proof.key.spki).map_err(|_| bad("the key is not base64".into()))?;
    let key = PublicKey::from_spki(&spki).map_err(bad)?;
    if key.fingerprint() != proof.key.fingerprint {
        return Err(bad("the fingerprint is not the key's".into()));
    }
    let signature = note
        .signatures
        .iter()
        .find(|signature| signature.name == note.origin && signature.key_id == note::key_id(&spki))
        .ok_or_else(|| bad("the key did not sign the checkpoint".into()))?;
    if !key.verifies(HashOf::Sha256, note.text.as_bytes(), &signature.signature) {
        return Err(bad("the checkpoint's signature is wrong".into()));
    }
    let line = Line::parse(proof.line.as_bytes()).map_err(tampered)?;
    let at = times::millis(&line.place().time).unwrap_or_default();
    let certificates = proof.key.certificate.as_deref().map(certificate::decode).transpose().map_err(bad)?;
    let vouched = certificate::check(&certificates.unwrap_or_default(), &key, trust.as_ref(), at).map_err(bad)?;
    let hashes: Option<Vec<Hash>> =
        proof.proof.iter().map(|hash| unhex(hash).and_then(|hash| Hash::try_from(hash).ok())).collect();
    let leaf = Leaf::of(proof.line.as_bytes()).hash();
    let fits = hashes.is_some_and(|hashes| verify_inclusion(&leaf, proof.index, note.size, &hashes, &note.root));
    if !fits || note.size != proof.size || line.place().seq != proof.index {
        return Err(tampered("the record is not where the proof says, under the head that was signed".into()));
    }
    report.records = 1;
    (report.first_seq, report.last_seq) = (Some(proof.index), Some(proof.index));
    report.keys.push(format!("checkpoint {}  {}; {vouched}", proof.key.generation, proof.key.fingerprint));
    report.checkpoints = 1;
    let by = format!("checkpoint key {}", proof.key.generation);
    report.signed = Some(Signed { size: note.size, root: hex(&note.root), by, time: None });
    let (event, id) = (&line.event_name, &line.event_id);
    report
        .fixed
        .push(format!("that `{event}` with eventID `{id}` is record {} of the log `{}`", proof.index, note.origin));
    report.not_proven.push("anything about other records".into());
    if trust.is_none() {
        report.not_proven.push("that the key is this log's: compare its fingerprint, or give --trust".into());
    }
    Ok(())
}

/// Whether the head in `later` continues the one in `earlier`, by the journal in `dir`.
pub fn consistency(dir: &Path, earlier: &Path, later: &Path) -> Report {
    let mut report = Report::new(dir.to_path_buf());
    let name = later.to_string_lossy().into_owned();
    let heads = anchors::read(earlier).and_then(|earlier| Ok((earlier, anchors::read(later)?)));
    let (first, second) = match heads {
        Ok((one, other)) if one.0 <= other.0 => (one, other),
        Ok((one, other)) => (other, one),
        Err(what) => {
            report.find(Verdict::Incomplete, &name, 0, None, what);
            return report;
        }
    };
    match roots(dir, &continuation(first.0, second.0)) {
        Err(what) => report.find(Verdict::Incomplete, "journal", 0, None, what),
        Ok(proof) if verify_consistency(first.0, second.0, &first.1, &second.1, &proof) => {
            report.fixed.push(format!("the log of {} records is the beginning of the log of {}", first.0, second.0));
            report.fixed.extend(proof.iter().map(|hash| format!("proof {}", hex(hash))));
        }
        Ok(_) => {
            let what =
                format!("the head of {} records does not continue the head of {}, in this journal", second.0, first.0);
            report.find(Verdict::Forked, &name, 0, None, what);
        }
    }
    report.not_proven.push("who signed the two heads: `audit verify` checks that".into());
    report
}

/// Roots over these ranges of records, in their order.
fn roots(dir: &Path, ranges: &[Range<u64>]) -> Result<Vec<Hash>, String> {
    let mut trees: Vec<Frontier> = ranges.iter().map(|_| Frontier::default()).collect();
    let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
    let seen = lines(dir, |seq, bytes| {
        if seq < end
            && let Some((_, tree)) = ranges.iter().zip(&mut trees).find(|(range, _)| range.contains(&seq))
        {
            tree.push(Leaf::of(bytes).hash());
        }
        seq + 1 < end
    })?;
    if seen < end {
        return Err(format!("record {seen} is not here"));
    }
    Ok(trees.iter().map(Frontier::root).collect())
}

/// The largest power of two below `n`, which is at least 2.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// Whose roots show that `index` is in a tree of `size`.
fn inclusion(index: u64, size: u64) -> Vec<Range<u64>> {
    let (mut low, mut high) = (0, size);
    let mut ranges = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            ranges.push(middle..high);
            high = middle;
        } else {
            ranges.push(low..middle);
            low = middle;
        }
    }
    ranges.reverse();
    ranges
}

/// Whose roots show that a tree of `first` is the beginning of one of `second`.
fn continuation(first: u64, second: u64) -> Vec<Range<u64>> {
    let (mut low, mut high) = (0, second);
    let mut ranges = Vec::new();
    if first == 0 {
        return ranges;
    }
    while first < high {
        let middle = low + split(high - low);
        if first <= middle {
            ranges.push(middle..high);
            high = middle;
        } else {
            ranges.push(low..middle);
            low = middle;
        }
    }
    if low > 0 {
        ranges.push(low..high);
    }
    ranges.reverse();
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_of_all_small_trees() {
        let leaves: Vec<Hash> = (0u8..20).map(|byte| [byte; 32]).collect();
        let root = |range: &Range<u64>| {
            let mut tree = Frontier::default();
            leaves[range.start as usize..range.end as usize].iter().for_each(|leaf| tree.push(*leaf));
            tree.root()
        };
        for size in 1..=20u64 {
            let whole = root(&(0..size));
            for index in 0..size {
                let proof: Vec<Hash> = inclusion(index, size).iter().map(root).collect();
                assert!(verify_inclusion(&leaves[index as usize], index, size, &proof, &whole), "{index} of {size}");
                assert!(!verify_inclusion(&[9; 32], index, size, &proof, &[0; 32]));
            }
            for first in 0..=size {
                let proof: Vec<Hash> = continuation(first, size).iter().map(root).collect();
                assert!(verify_consistency(first, size, &root(&(0..first)), &whole, &proof), "{first} of {size}");
            }
        }
    }
}
