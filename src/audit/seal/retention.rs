//! What may be deleted, and deleting it. Sealed files go by age and by size, the oldest first; the journal's segments only
//! where signed digests list all of their records and the log files say the same, line by line. RULE audit.md §7.4: the
//! deletion itself is recorded, before it happens.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde::Serialize;
use serde_json::json;

use super::digest::{Read, Sidecar};
use super::names::{self, Kind};
use super::{Around, Behind, SealError, Sealer, archive, logfile, text, unix};
use crate::audit::files;
use crate::audit::follow::Follower;
use crate::audit::signer::{AuditKey, KeyUse};
use crate::audit::verify::line::{Line, segment_name};

/// Names in one record: a record has a largest size.
const NAMES: usize = 500;

/// Something that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gone {
    /// An object of the bucket, or `journal/…`.
    pub name: String,
    pub bytes: u64,
    /// `age`, `size`, `sealed` (a journal segment).
    pub why: &'static str,
}

/// What a pass deletes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub gone: Vec<Gone>,
    /// Number of the first record that stays in the journal.
    pub journal_begins: u64,
    /// Why something stays that is old enough to go.
    pub kept: Vec<String>,
}

struct Segment {
    name: String,
    first: u64,
    /// When its first record was written, seconds since the epoch.
    begun: i64,
}

impl<A: Around> Sealer<A> {
    /// What `prune` would delete now.
    pub fn plan(&mut self) -> Result<Plan, SealError> {
        let plan = self.try_plan();
        self.watched(plan)
    }

    /// Deletes what may go.
    pub fn prune(&mut self) -> Result<Plan, SealError> {
        let done = self.try_prune();
        self.watched(done)
    }

    fn try_prune(&mut self) -> Result<Plan, SealError> {
        let plan = self.try_plan()?;
        for why in ["sealed", "age", "size"] {
            let gone: Vec<&Gone> = plan.gone.iter().filter(|gone| gone.why == why).collect();
            for gone in gone.chunks(NAMES) {
                let names: Vec<&str> = gone.iter().map(|gone| gone.name.as_str()).collect();
                let details = |done: bool| json!({ "objects": names, "why": why, "done": done, "journalBegins": plan.journal_begins });
                self.around.append("Pruned", details(false)).map_err(SealError::Log)?;
                for name in &names {
                    self.remove(name)?;
                }
                self.around.append("Pruned", details(true)).map_err(SealError::Log)?;
            }
        }
        if !plan.gone.is_empty() {
            tracing::info!(files = plan.gone.len(), journal_begins = plan.journal_begins, "old audit files deleted");
        }
        Ok(plan)
    }

    fn remove(&self, name: &str) -> Result<(), SealError> {
        if name.starts_with("journal/") {
            self.around.remove(&self.settings.dir, name)?;
            return Ok(());
        }
        let root = self.root();
        // The signature first: without its digest nobody would find it any more.
        if names::parse(name).is_some_and(|name| name.kind == Kind::Digest) {
            self.around.remove(&root, &format!("{name}.meta"))?;
        }
        self.around.remove(&root, name)?;
        Ok(())
    }

    fn try_plan(&mut self) -> Result<Plan, SealError> {
        let segments = self.segments()?;
        let oldest = segments.first().map_or(0, |segment| segment.first);
        let mut plan = Plan { journal_begins: oldest, ..Plan::default() };
        if self.settings.legal_hold {
            plan.kept.push("`audit.legal_hold` is set: nothing is deleted".to_owned());
            return Ok(plan);
        }
        self.plan_segments(&segments, &mut plan)?;
        self.plan_objects(&segments, &mut plan)?;
        Ok(plan)
    }

    fn segments(&self) -> Result<Vec<Segment>, SealError> {
        let journal = self.settings.dir.join("journal");
        let mut segments = Vec::new();
        for name in files::segments(&journal, false)? {
            let Some((first, _)) = segment_name(&name) else { continue };
            let begun = begun(&self.settings.dir, first)?;
            segments.push(Segment { name, first, begun });
        }
        Ok(segments)
    }

    fn plan_segments(&mut self, segments: &[Segment], plan: &mut Plan) -> Result<(), SealError> {
        let before = self.around.now().div_euclid(1000) - seconds(self.settings.journal_retention);
        let Some(last) = self.state()?.last.clone() else { return Ok(()) };
        let Some(newest) = segments.last() else { return Ok(()) };
        // A start looks for intents without an outcome where this says that they are.
        let open = open_intents(&self.settings.dir, newest.first)?.unwrap_or(u64::MAX);
        // Each with the first record of the next: the newest is never among them.
        let ended = segments.iter().zip(segments.iter().skip(1));
        let old: Vec<(&Segment, u64)> = ended
            .take_while(|(_, next)| next.begun <= before && next.first <= last.sealed_to && next.first <= open)
            .map(|(segment, next)| (segment, next.first))
            .collect();
        let (Some((first, _)), Some((_, end))) = (old.first(), old.last()) else { return Ok(()) };
        let verified = self.verified(first, *end)?;
        let behind = self.around.behind();
        self.status.held.store(0, Ordering::Relaxed);
        for (place, (segment, next)) in old.iter().enumerate() {
            if *next > verified {
                self.status.failures.fetch_add(1, Ordering::Relaxed);
                let why = format!(
                    "the sealed files do not have record {verified} as the journal has it: `{}` stays",
                    segment.name
                );
                tracing::error!("{why}");
                plan.kept.push(why);
                break;
            }
            if let Some(behind) = behind.as_ref().filter(|behind| *next > behind.next) {
                let Behind { name, next } = behind;
                if !self.around.is_low() {
                    let why = format!("the sink `{name}` is at record {next}: `{}` stays", segment.name);
                    tracing::warn!("{why}");
                    plan.kept.push(why);
                    self.status.held.store((old.len() - place) as u64, Ordering::Relaxed);
                    break;
                }
                tracing::error!(
                    sink = name,
                    record = next,
                    segment = segment.name,
                    "room is short: a segment goes although the sink does not have all of its records"
                );
            }
            // What a crash tore off is named by the segment behind: it goes one step later.
            let torn = self.torn(segment, plan.gone.is_empty())?;
            let names = std::iter::once(format!("journal/{}", segment.name)).chain(torn);
            for name in names {
                let bytes = std::fs::metadata(self.settings.dir.join(&name))?.len();
                plan.gone.push(Gone { name, bytes, why: "sealed" });
            }
            plan.journal_begins = *next;
        }
        Ok(())
    }

    /// Torn ends of segments before `segment`.
    fn torn(&self, segment: &Segment, first: bool) -> Result<Vec<String>, SealError> {
        let mut found = Vec::new();
        if !first {
            return Ok(found);
        }
        for entry in std::fs::read_dir(self.settings.dir.join("journal"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.split_once(".torn-").is_some_and(|(of, _)| of < segment.name.as_str()) {
                found.push(format!("journal/{name}"));
            }
        }
        Ok(found)
    }

    /// Up to which record the journal from `first` on, and before `end`, is in log files that signed digests list.
    fn verified(&self, first: &Segment, end: u64) -> Result<u64, SealError> {
        let (root, keys) = (self.root(), self.around.keys());
        let mut journal = Follower::new(&self.settings.dir, first.first);
        let mut verified = first.first;
        let since = names::compact(&text(first.begun));
        for object in archive::objects(&root)? {
            if names::parse(&object).is_none_or(|n| n.kind != Kind::Digest || n.time < since.trim_end_matches('Z')) {
                continue;
            }
            let Ok(json) = archive::unpacked(&root, &object) else { return Ok(verified) };
            let Some((digest, _)) = signed_digest(&root, &object, &json, &keys) else { return Ok(verified) };
            let Some(last) = digest.hsm_bridge.last_seq else { continue };
            if last < verified {
                continue;
            }
            if digest.hsm_bridge.first_seq.is_none_or(|first| first >= end) {
                break;
            }
            for file in &digest.log_files {
                let Ok(bytes) = archive::unpacked(&root, &file.s3_object) else { return Ok(verified) };
                if logfile::sha256(&bytes) != file.hash_value {
                    return Ok(verified);
                }
                for line in logfile::lines(&bytes)? {
                    let Ok(record) = Line::parse(line) else { return Ok(verified) };
                    if record.place().seq < verified {
                        continue;
                    }
                    if !next_is(&mut journal, line, end, &mut verified)? {
                        return Ok(verified);
                    }
                }
            }
        }
        Ok(verified)
    }

    fn plan_objects(&mut self, segments: &[Segment], plan: &mut Plan) -> Result<(), SealError> {
        let settings = self.settings.clone();
        let now = self.around.now().div_euclid(1000);
        let root = self.root();
        let state = self.state()?;
        let Some(last) = state.last.clone() else { return Ok(()) };
        let unlisted: Vec<String> = state.files.iter().map(|file| file.object.clone()).collect();
        // A log file stays as long as the journal's lines that it holds: they are compared before those go.
        let journal_begun = segments.iter().find(|segment| segment.first >= plan.journal_begins);
        let journal_begun = journal_begun.map_or(i64::MIN, |segment| segment.begun);
        let mut objects = Vec::new();
        for object in archive::objects(&root)? {
            let Some(name) = names::parse(&object) else { continue };
            let Some(at) = time_of(name.time) else { continue };
            let stays = object == last.object
                || unlisted.contains(&object)
                || unix(&last.end).is_none_or(|end| at >= end)
                // The name has the minute only.
                || at + 60 > journal_begun;
            let bytes = std::fs::metadata(root.join(&object))?.len();
            objects.push((object, at, bytes, stays));
        }
        let mut total: u64 = objects.iter().map(|(_, _, bytes, _)| bytes).sum();
        for (object, at, bytes, stays) in objects {
            let age = now - at;
            let too_much = settings.retention_bytes.is_some_and(|limit| total > limit);
            let why = if age > seconds(settings.retention) {
                "age"
            } else if too_much && age > seconds(settings.retention_floor) {
                "size"
            } else {
                continue;
            };
            if !stays {
                total -= bytes;
                plan.gone.push(Gone { name: object, bytes, why });
            }
        }
        Ok(())
    }
}

/// Whether the journal's next line that is exported is this one.
fn next_is(journal: &mut Follower, line: &[u8], end: u64, verified: &mut u64) -> io::Result<bool> {
    loop {
        let Some(next) = journal.next(end)? else { return Ok(false) };
        if next.seq != *verified {
            return Ok(false);
        }
        let intent = Line::parse(&next.line).is_ok_and(|record| record.is_intent());
        if !intent && next.line != line {
            return Ok(false);
        }
        *verified = next.seq + 1;
        if !intent {
            return Ok(true);
        }
    }
}

/// A digest whose signature by one of `keys` was checked, and that signature.
pub(super) fn signed_digest(root: &Path, object: &str, json: &[u8], keys: &[Arc<AuditKey>]) -> Option<(Read, String)> {
    let sidecar = std::fs::read(root.join(format!("{object}.meta"))).ok()?;
    let sidecar: Sidecar = serde_json::from_slice(&sidecar).ok()?;
    let read = Read::of(json)?;
    let wanted =
        |key: &&Arc<AuditKey>| key.key_use == KeyUse::Digest && key.fingerprint == read.digest_public_key_fingerprint;
    let key = keys.iter().find(wanted)?;
    let signature = hex::decode(&sidecar.signature).ok()?;
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key.spki)
        .verify(read.signed_text(json).as_bytes(), &signature)
        .ok()?;
    (read.digest_s3_object == object).then_some((read, sidecar.signature))
}

/// When the record was written with which a segment begins, seconds since the epoch.
fn begun(dir: &Path, first: u64) -> Result<i64, SealError> {
    let line = Follower::new(dir, first).next(u64::MAX)?;
    let line = line.ok_or_else(|| SealError::Log(format!("it has no record {first}")))?;
    let line = Line::parse(&line.line).map_err(SealError::Log)?;
    unix(&line.place().time).ok_or_else(|| SealError::Log(format!("record {first} has no time")))
}

/// The oldest intent that was open when the segment began.
fn open_intents(dir: &Path, first: u64) -> Result<Option<u64>, SealError> {
    let Some(line) = Follower::new(dir, first).next(u64::MAX)? else { return Ok(None) };
    let line = Line::parse(&line.line).map_err(SealError::Log)?;
    Ok(line.segment_start().map_err(SealError::Log)?.open_intents.into_iter().min())
}

/// `20260304T0920` and `20260304T092000`, seconds since the epoch.
fn time_of(name: &str) -> Option<i64> {
    let part = |range: std::ops::Range<usize>| name.get(range);
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(9..11)?, part(11..13)?, part(13..15).unwrap_or("00"));
    unix(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
}

fn seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
