//! A trail's bucket: its objects against each other, against the chain's records about them, and against the journal.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use super::digests::{self, Digest};
use super::heads::{Head, Lost};
use super::logfiles::{self, LogFile, Piece};
use super::names::Kind;
use super::parallel::{cores, in_order};
use super::report::{Finding, Report, Verdict};
use super::signature::{hex, sha256};
use super::tree::Hash;
use super::walk::Walk;

/// What is in the bucket, read before the journal so that the journal has all of it.
#[derive(Default)]
pub(super) struct Bucket {
    /// `None`: there is no such folder.
    pub root: Option<PathBuf>,
    /// In the order of their ends.
    pub digests: Vec<Digest>,
    /// In the order of their first records.
    pub logs: Vec<LogFile>,
    /// Folders of exports.
    pub exports: Vec<PathBuf>,
    sidecars: Vec<String>,
    unknown: Vec<String>,
    broken: HashSet<String>,
}

impl Bucket {
    /// `starts`: first seq of each segment that is here. `done` hears of each file.
    pub fn read(root: &Path, starts: &[u64], report: &mut Report, done: &mut dyn FnMut(u64)) -> Bucket {
        let mut bucket = Bucket { root: Some(root.to_path_buf()), ..Bucket::default() };
        let mut objects = Vec::new();
        if let Err(error) = list(root, root, &mut objects) {
            report.find(Verdict::Incomplete, "bucket", 0, None, format!("cannot be read: {error}"));
        }
        objects.sort();
        let mut wanted = Vec::new();
        for object in objects {
            match Kind::of(&object) {
                Kind::Log { .. } | Kind::Digest { .. } => wanted.push(object),
                Kind::Sidecar => bucket.sidecars.push(object),
                Kind::Export => bucket.exports.extend(root.join(&object).parent().map(Path::to_path_buf)),
                Kind::Unknown => bucket.unknown.push(object),
            }
        }
        bucket.exports.dedup();
        let work = |_, object: &String| {
            let path = root.join(object);
            match Kind::of(object) {
                Kind::Digest { .. } => Object::Digest(Box::new(digests::read(&path, object))),
                _ => Object::Log(logfiles::read(&path, object, starts)),
            }
        };
        in_order(&wanted, cores(), work, |index, read| {
            match read {
                Object::Digest(read) => match *read {
                    Ok(mut digest) => {
                        findings(report, &mut digest.findings);
                        bucket.digests.push(digest);
                    }
                    Err(finding) => {
                        bucket.broken.insert(finding.file.clone());
                        findings(report, &mut vec![finding]);
                    }
                },
                Object::Log(mut log) => {
                    findings(report, &mut log.findings);
                    if log.sha256.is_some() && log.lines > 0 {
                        bucket.logs.push(log);
                    } else {
                        bucket.broken.insert(log.object);
                    }
                }
            }
            done(index as u64);
        });
        bucket.digests.sort_by(|one, other| (one.end, &one.object).cmp(&(other.end, &other.object)));
        bucket.logs.sort_by(|one, other| (one.first, &one.object).cmp(&(other.first, &other.object)));
        bucket
    }

    /// First and last seq of the log files, ascending; what overlaps is found here and left out.
    pub fn ranges(&mut self, report: &mut Report) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let broken = &mut self.broken;
        self.logs.retain(|log| {
            if let Some((_, last)) = ranges.last().filter(|(_, last)| *last >= log.first) {
                let what = format!("it repeats records up to {last}, which another log file has");
                report.find(Verdict::Tampered, &log.object, 0, Some(log.first), what);
                broken.insert(log.object.clone());
                return false;
            }
            ranges.push((log.first, log.last.max(log.first)));
            true
        });
        ranges
    }

    /// Everything that can be said once keys and tree are known.
    pub fn check(&self, walk: &mut Walk<'_>, journal: bool, accepted: Option<&str>) {
        self.chain(walk, accepted);
        self.lists(walk);
        self.told(walk);
        if journal {
            self.lines(walk);
        }
        for object in &self.unknown {
            walk.report.find(Verdict::Tampered, object, 0, None, "no digest lists it, and it is no file of a trail");
        }
        let here: HashSet<String> = self.digests.iter().map(|digest| format!("{}.meta", digest.object)).collect();
        for object in self.sidecars.iter().filter(|object| !here.contains(*object)) {
            if !self.broken.contains(object.trim_end_matches(".meta")) {
                walk.report.find(Verdict::Tampered, object, 0, None, "the digest that it belongs to is not here");
            }
        }
        walk.report.digests = self.digests.len() as u64;
        walk.report.log_files = self.logs.len() as u64;
    }

    /// The digests: signatures, links, heads.
    fn chain(&self, walk: &mut Walk<'_>, accepted: Option<&str>) {
        let losses = std::mem::take(&mut walk.told.losses);
        let lost = Lost { losses: &losses, accepted };
        let mut before: Option<&Digest> = None;
        for digest in &self.digests {
            match digest.check_signature(&mut walk.keys) {
                Err(what) => walk.report.find(Verdict::BadSignature, &digest.object, 0, None, what),
                Ok(by) => {
                    if let (Some(by), Some((size, root))) = (by, digest.head) {
                        let place = digest.object.clone();
                        let head = Head { size, root, time: Some(digest.end), by, place };
                        walk.heads.add(head, &walk.tree, &lost, walk.report);
                    }
                }
            }
            match before {
                Some(before) => {
                    for what in digest.follows(before) {
                        walk.report.find(Verdict::Tampered, &digest.object, 0, None, what);
                    }
                }
                None if digest.is_first() => {}
                None => {
                    let named = digest.body.previous_digest_s3_object.clone().unwrap_or_default();
                    if walk.told.pruned.contains(&named) {
                        walk.report.note(format!("the digests up to `{named}` were removed by retention"));
                    } else {
                        let what = format!("the digest before it, `{named}`, is not here and no record says why");
                        walk.report.find(Verdict::Tampered, &digest.object, 0, None, what);
                    }
                }
            }
            before = Some(digest);
        }
        walk.told.losses = losses;
    }

    /// Listed and unlisted log files.
    fn lists(&self, walk: &mut Walk<'_>) {
        let (list, mut wrong) = digests::listed(&self.digests);
        findings(walk.report, &mut wrong);
        let here: HashMap<&str, &LogFile> = self.logs.iter().map(|log| (log.object.as_str(), log)).collect();
        let mut last_listed = None;
        for (object, (listed, digest)) in &list {
            match here.get(object) {
                Some(log) => {
                    last_listed = last_listed.max(Some(log.last));
                    if log.sha256.is_some_and(|hash| hex(&hash) != listed.hash_value) {
                        let what = format!("its hash is not the one that `{}` lists", digest.object);
                        walk.report.find(Verdict::Tampered, object, 0, Some(log.first), what);
                    }
                }
                None if walk.told.pruned.contains(*object) || self.broken.contains(*object) => {}
                None => {
                    let what = format!("`{}` lists it, and it is not here", digest.object);
                    walk.report.find(Verdict::Tampered, object, 0, None, what);
                }
            }
        }
        for log in self.logs.iter().filter(|log| !list.contains_key(log.object.as_str())) {
            // Sealed after the newest digest: the next one will list it.
            if last_listed.is_none_or(|last| log.first > last) {
                walk.report.unlisted += 1;
            } else {
                let what = "no digest lists it";
                walk.report.find(Verdict::Tampered, &log.object, 0, Some(log.first), what);
            }
        }
    }

    /// What the chain's own records say of the files.
    fn told(&self, walk: &mut Walk<'_>) {
        let Some(root) = &self.root else {
            if !(walk.told.digests.is_empty() && walk.told.log_files.is_empty()) {
                walk.report.find(Verdict::Incomplete, "bucket", 0, None, "the sealed files are not here");
            }
            return;
        };
        let logs: HashMap<&str, &LogFile> = self.logs.iter().map(|log| (log.object.as_str(), log)).collect();
        let digests: HashMap<&str, &Digest> = self.digests.iter().map(|one| (one.object.as_str(), one)).collect();
        let Walk { told, report, .. } = walk;
        // What was written while we read is not in the list of the bucket, and is there now.
        let gone =
            |object: &str| !told.pruned.contains(object) && !self.broken.contains(object) && !is_there(root, object);
        for (object, (seq, fact)) in &told.log_files {
            match logs.get(object.as_str()) {
                Some(log) => {
                    if log.sha256.is_some_and(|hash| hex(&hash) != fact.sha256) {
                        let what = format!("its hash is not the one in record {seq}");
                        report.find(Verdict::Tampered, object, 0, Some(log.first), what);
                    }
                    if differs(&fact.stored_sha256, &log.stored) {
                        let what = format!("it says what record {seq} tells, in other bytes than were stored");
                        report.find(Verdict::Tampered, object, 0, Some(log.first), what);
                    }
                    if log.last != fact.last_seq || log.first < fact.first_seq {
                        let what = format!("it does not hold the records that record {seq} says");
                        report.find(Verdict::Tampered, object, 0, Some(log.first), what);
                    }
                }
                None if gone(object) => {
                    let what = format!("record {seq} names it, and it is not here");
                    report.find(Verdict::Tampered, object, 0, None, what);
                }
                None => {}
            }
        }
        for (object, (seq, fact)) in &told.digests {
            match digests.get(object.as_str()) {
                Some(digest) => {
                    if differs(&fact.stored_sha256, &digest.stored) {
                        let what = format!("it says what record {seq} tells, in other bytes than were stored");
                        report.find(Verdict::Tampered, object, 0, None, what);
                    }
                    let signature = fact
                        .signature
                        .as_ref()
                        .is_none_or(|hex| digest.signature.is_empty() || *hex == digest.signature);
                    if hex(&digest.sha256) != fact.sha256 || !signature {
                        let what = format!("it is not the digest of which record {seq} tells");
                        report.find(Verdict::Tampered, object, 0, None, what);
                    }
                }
                None if gone(object) => {
                    let what = format!("record {seq} names it, and it is not here");
                    report.find(Verdict::Tampered, object, 0, None, what);
                }
                None => {}
            }
        }
        // The record follows the file, so the newest ones may have none yet.
        let newest_told = self.digests.iter().rposition(|digest| told.digests.contains_key(&digest.object));
        for digest in self.digests.iter().take(newest_told.unwrap_or(0)) {
            if !told.digests.contains_key(&digest.object) && !report.is_partial() {
                report.find(Verdict::Tampered, &digest.object, 0, None, "no record tells of this digest");
            }
        }
    }

    /// The journal's lines and the log files'.
    fn lines(&self, walk: &mut Walk<'_>) {
        let first = walk.report.first_seq.unwrap_or_default();
        for (index, log) in self.logs.iter().enumerate() {
            let ours = walk.pieces.remove(&index).unwrap_or_default();
            let theirs: Vec<&Piece> = log.pieces.iter().collect();
            let differs = ours.iter().zip(&theirs).find(|(one, other)| *one != **other).map(|(one, _)| one.first);
            let place = match differs {
                Some(seq) => Some(seq),
                None if ours.len() > theirs.len() => ours.get(theirs.len()).map(|piece| piece.first),
                None if ours.len() < theirs.len() => theirs.get(ours.len()).map(|piece| piece.first),
                None => continue,
            };
            let what = "its lines are not those of the journal, from about this record on".to_string();
            walk.report.find(Verdict::Tampered, &log.object, 0, place, what);
        }
        for (before, from, to) in std::mem::take(&mut walk.outside) {
            // Behind a file that retention removed, or that was told of and is missing, which was said already.
            let explained = walk.told.log_files.values().any(|(_, fact)| {
                fact.first_seq <= from && to <= fact.last_seq && !self.logs.iter().any(|log| log.object == fact.object)
            });
            if !explained && to >= first {
                let file = self.logs.get(before).map_or("bucket", |log| log.object.as_str());
                let what = format!("records {from} to {to} stand in the journal before it and in no log file");
                walk.report.find(Verdict::Tampered, file, 0, Some(from), what);
            }
        }
    }
}

enum Object {
    Digest(Box<Result<Digest, Finding>>),
    Log(LogFile),
}

fn differs(told: &Option<String>, here: &Hash) -> bool {
    told.as_ref().is_some_and(|told| *told != hex(here))
}

fn is_there(root: &Path, object: &str) -> bool {
    // Names come from the log: they must stay inside.
    !object.split('/').any(|part| matches!(part, ".." | "." | "")) && root.join(object).is_file()
}

pub(super) fn findings(report: &mut Report, findings: &mut Vec<Finding>) {
    for Finding { verdict, file, line, seq, what } in findings.drain(..) {
        report.find(verdict, &file, line, seq, what);
    }
}

/// Names of all files below, with `/` between their parts.
pub(super) fn list(root: &Path, dir: &Path, into: &mut Vec<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(root, &entry.path(), into)?;
        } else if let Ok(object) = entry.path().strip_prefix(root) {
            into.push(object.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// State snapshots that records name.
pub(super) fn snapshots(dir: &Path, walk: &mut Walk<'_>) {
    for (seq, snapshot) in std::mem::take(&mut walk.told.snapshots) {
        let object = &snapshot.object;
        let path = dir.join("snapshots").join(object.rsplit('/').next().unwrap_or(object));
        let found = match std::fs::read(&path) {
            // As stored, or of what is inside.
            Ok(packed) => {
                hex(&sha256(&packed)) == snapshot.sha256
                    || super::gzip::unpack(&packed, 1 << 30).is_ok_and(|bytes| hex(&sha256(&bytes)) == snapshot.sha256)
            }
            Err(_) if walk.told.pruned.contains(object) => continue,
            Err(error) => {
                let what = format!("record {seq} names it, and it cannot be read: {error}");
                walk.report.find(Verdict::Incomplete, object, 0, Some(seq), what);
                continue;
            }
        };
        if !found {
            let what = format!("its hash is not the one in record {seq}");
            walk.report.find(Verdict::Tampered, object, 0, Some(seq), what);
        }
    }
}
