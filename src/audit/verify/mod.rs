//! The verifier: reads a trail's files and says whether the log is whole, and who says so. Uses nothing else of ours, so that
//! an auditor can read this folder alone. Needs no lock, no token and no running service; works beside one.
//! Source: audit.md §2, §7.2, §7.4 to §7.6.
//!
//! Segments and log files are read on all cores, each alone (`segment.rs`, `logfiles.rs`, `digests.rs`); what holds them together
//! is looked at in their order (`walk.rs`, `heads.rs`, `bucket.rs`). Memory grows with the number of files, not of records.

mod anchors;
mod bucket;
mod bucket_alone;
mod bundle;
mod certificate;
mod checkpoints;
mod digests;
mod facts;
mod gzip;
mod heads;
mod keys;
pub mod line;
pub mod lines;
mod logfiles;
mod names;
pub mod note;
mod parallel;
pub mod prove;
mod report;
mod roots;
mod segment;
mod signature;
mod state;
mod times;
pub mod tree;
mod unsigned;
mod walk;

#[cfg(test)]
mod forge;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

pub use report::{EXIT_USAGE, Finding, OpenIntent, Report, Signed, Tail, Verdict};

use anchors::Anchors;
use bucket::Bucket;
use certificate::Trust;
use heads::Lost;
use line::segment_name;
use lines::{Lines, Next};
use parallel::{cores, in_order};
use roots::Tree;
use segment::{Ids, Segment};
use state::State;
use walk::Walk;

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the trail must be. Without it the log's own word is taken, and the report says so.
    pub trail_arn: Option<String>,
    /// Certificates that vouch for the trail's keys, PEM.
    pub trust: Option<Vec<u8>>,
    /// Where the auditor remembers the newest head that was seen. Created at the first use.
    pub state: Option<PathBuf>,
    /// Heads that were kept elsewhere: signed notes, or `{"size": …, "root": …}`.
    pub anchors: Vec<PathBuf>,
    /// The trail is live, and this is the time: milliseconds since the epoch.
    pub now: Option<i64>,
    /// A loss that the log admits is no finding with its ticket.
    pub accepted_loss: Option<String>,
    /// Milliseconds that a record may wait for a signature.
    pub longest_unsigned: Option<i64>,
    /// There is no journal, and none is expected.
    pub without_journal: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub bytes: u64,
    pub total: u64,
}

/// `path` is a trail's directory (`audit/<trail>`), its `journal`, or an export's.
pub fn directory(path: &Path, options: &Options, progress: &mut dyn FnMut(Progress)) -> Report {
    if path.join(bundle::RESULT_SIGN).is_file() {
        return bundle::verify(path, options);
    }
    let mut report = Report::new(path.to_path_buf());
    let journal = path.join("journal");
    // The journal alone: nothing else is looked for.
    let alone = !journal.is_dir() && !options.without_journal;
    let journal = if alone { path.to_path_buf() } else { journal };
    let trust = options.trust.as_deref().map(Trust::parse).transpose().unwrap_or_else(|what| {
        report.find(Verdict::Incomplete, "--trust", 0, None, what);
        None
    });
    let mut anchors = Anchors::read(&options.anchors, &mut report);
    let state = options.state.as_deref().and_then(|path| State::read(path, &mut report));

    // What is signed is listed before the records that it covers: the service may be writing.
    let files = if alone {
        checkpoints::Files::default()
    } else {
        checkpoints::Files::list(&path.join("checkpoints"), &mut report)
    };
    let starts: Vec<u64> =
        names(&journal).unwrap_or_default().iter().filter_map(|name| segment_name(name)).map(|(seq, _)| seq).collect();
    let mut bucket = Bucket::default();
    if !alone && path.join("bucket").is_dir() {
        bucket = Bucket::read(&path.join("bucket"), &starts, &mut report, &mut |_| {});
    }
    let ranges = bucket.ranges(&mut report);
    let segments = if options.without_journal { Vec::new() } else { segments(&journal, &mut report) };

    let mut wanted: BTreeSet<u64> = files.sizes.clone();
    wanted.extend(bucket.digests.iter().filter_map(|digest| digest.head.map(|(size, _)| size)));
    wanted.extend(anchors.sizes());
    wanted.extend(state.iter().map(State::size));
    let mut walk = Walk::new(&mut report, options.trail_arn.clone(), trust.as_ref(), Tree::new(wanted));
    if options.without_journal {
        walk.keys = checkpoints::keys_from_file(&path.join("keys"), trust.as_ref(), walk.report);
        bucket_alone::before(&mut walk, &bucket);
    } else {
        early(&mut walk, &bucket, &starts);
        read_segments(&mut walk, &segments, &ranges, progress);
    }
    walk.finish();
    beginning(&mut walk, &bucket);
    torn_files(&mut walk, &journal);

    let accepted = options.accepted_loss.as_deref();
    if !alone {
        files.check(&mut walk, accepted);
        bucket.check(&mut walk, !options.without_journal, accepted);
        checkpoints::key_files(&path.join("keys"), &walk.keys, walk.report);
        bucket::snapshots(path, &mut walk);
    }
    if options.without_journal {
        bucket_alone::after(&mut walk, &bucket);
    } else {
        settle(&mut walk, &segments, accepted);
    }
    walk.keys.check_vouched(walk.report);
    if !options.without_journal {
        unsigned::check(&mut walk, &segments, options.longest_unsigned.unwrap_or(unsigned::OLDEST_MS), options.now);
    }
    let boot = walk.boot.as_ref().and_then(|(_, time)| times::millis(time));
    let ends: Vec<(i64, i64)> = bucket.digests.iter().map(|digest| (digest.start, digest.end)).collect();
    unsigned::digests(&ends, walk.report, boot, options.now);
    anchors.check(&mut walk, path, alone);
    let remembered = state.as_ref().map(|state| state.check(&mut walk));
    summary(&mut walk, options, alone, &anchors, remembered.unwrap_or(false));
    let memory = state::Memory::of(&walk);
    drop(walk);
    if let Some(path) = &options.state {
        state::remember(path, state.as_ref(), memory, &mut report);
    }
    report
}

/// Segments, oldest first.
fn segments(journal: &Path, report: &mut Report) -> Vec<Segment> {
    let names = match names(journal) {
        Ok(names) => names,
        Err(error) => {
            report.find(Verdict::Incomplete, &journal.to_string_lossy(), 0, None, format!("cannot be read: {error}"));
            return Vec::new();
        }
    };
    let mut segments = Vec::new();
    for name in names {
        let path = journal.join(&name);
        if segment_name(&name).is_some() {
            // A file that is gone in this moment cannot be read either, which is said then.
            let size = path.metadata().map_or(0, |facts| facts.len());
            segments.push(Segment { path, name, size, last: false });
        } else if name != "current.jsonl" && !name.contains(".jsonl.torn-") && !name.ends_with(".new") {
            report.note(format!("`{name}` is not a segment and was not read"));
        }
    }
    match segments.last_mut() {
        Some(last) => last.last = true,
        None => {
            report.find(Verdict::Incomplete, &journal.to_string_lossy(), 0, None, "there is no segment here");
        }
    }
    segments
}

fn names(journal: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(journal)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Keys and files that only sealed log files tell of, because their segments are gone.
fn early(walk: &mut Walk<'_>, bucket: &Bucket, starts: &[u64]) {
    let first = starts.first().copied().unwrap_or_default();
    for log in bucket.logs.iter().filter(|log| log.first < first) {
        let facts: Vec<_> = log.facts.iter().filter(|placed| placed.seq < first).cloned().collect();
        walk.early(&log.object, &facts);
    }
}

fn read_segments(walk: &mut Walk<'_>, segments: &[Segment], ranges: &[(u64, u64)], progress: &mut dyn FnMut(Progress)) {
    let total = segments.iter().map(|segment| segment.size).sum();
    let ids = Ids::new();
    in_order(
        segments,
        cores(),
        |_, segment| segment::read(segment, ranges, &ids),
        |index, read| {
            if let Some(segment) = segments.get(index) {
                walk.segment(index, segment, read);
            }
            progress(Progress { bytes: walk.report.bytes, total });
        },
    );
}

/// A log whose first segments are gone: by retention, or nobody knows why.
fn beginning(walk: &mut Walk<'_>, bucket: &Bucket) {
    let Some((name, missing)) = walk.report.begins_after.clone() else { return };
    let first = walk.report.first_seq.unwrap_or_default();
    let removed = walk.told.pruned.iter().any(|object| object.ends_with(&missing));
    if removed {
        let sealed = bucket.logs.first().filter(|log| log.first < first);
        let from = sealed.map_or(first, |log| log.first);
        walk.report.note(format!(
            "segments before record {first} were removed by retention; log files begin with record {from}"
        ));
    } else {
        let what = format!("the log begins with record {first}: the segments up to `{missing}` are not here");
        walk.report.find(Verdict::Incomplete, &name, 1, Some(first), what);
    }
}

/// The bytes that recovery cut off and kept.
fn torn_files(walk: &mut Walk<'_>, journal: &Path) {
    for (name, start) in std::mem::take(&mut walk.torn) {
        let report = &mut *walk.report;
        let file = start.torn_file.unwrap_or_default();
        report.note(format!("{} bytes of an unfinished write were cut before `{name}`", start.torn_bytes));
        // The name comes from the log: it must stay in this directory.
        if file.is_empty() || file.contains('/') || !journal.join(&file).is_file() {
            report.note(format!("`{file}`, where those bytes were kept, is not here"));
            continue;
        }
        match hash_of(&journal.join(&file)) {
            Ok((size, hash)) if size == start.torn_bytes && Some(&hash) == start.torn_sha256.as_ref() => {}
            Ok(_) => {
                let what = format!("the file differs from what `{name}` says of it");
                report.find(Verdict::Tampered, &file, 0, None, what);
            }
            Err(error) => report.find(Verdict::Incomplete, &file, 0, None, format!("cannot be read: {error}")),
        }
    }
}

/// Heads that wait for a root which nobody asked for in time: their segments are read once more.
fn settle(walk: &mut Walk<'_>, segments: &[Segment], accepted: Option<&str>) {
    let first = walk.report.first_seq.unwrap_or_default();
    let total = first + walk.report.records;
    for size in walk.heads.sizes_waiting() {
        if size <= total && walk.tree.root_at(size).is_none() {
            root_again(walk, segments, size);
        }
    }
    let losses = std::mem::take(&mut walk.told.losses);
    let lost = Lost { losses: &losses, accepted };
    walk.heads.settle(&walk.tree, total, first, &lost, walk.report);
    for (seq, loss) in &losses {
        if accepted != Some(loss.ticket.as_str()) {
            let what = format!("{}; --accepted-loss {} accepts that", loss.text(*seq), loss.ticket);
            walk.report.find(Verdict::Truncated, "journal", 0, Some(*seq), what);
        }
    }
    walk.told.losses = losses;
}

fn root_again(walk: &mut Walk<'_>, segments: &[Segment], size: u64) {
    let Some(mut frontier) = walk.tree.start_before(size) else { return };
    let Some(segment) = segments.iter().find(|segment| segment.first_seq() == frontier.size()) else { return };
    let Ok(file) = File::open(&segment.path) else { return };
    let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, file));
    while frontier.size() < size {
        match lines.next() {
            Ok(Next::Line(bytes)) => frontier.push(line::Leaf::of(bytes).hash()),
            _ => return,
        }
    }
    walk.tree.remember(size, frontier.root());
}

/// What is proven, by what, and what is not.
fn summary(walk: &mut Walk<'_>, options: &Options, alone: bool, anchors: &Anchors, remembered: bool) {
    let report = &mut *walk.report;
    // Of a log that was changed nothing is fixed.
    let whole = report.verdict < Verdict::BadSignature;
    report.checkpoints = walk.heads.fitting;
    report.keys = walk.keys.all().iter().map(describe).collect();
    let mut not_proven = Vec::new();
    let total = report.first_seq.unwrap_or_default() + report.records;
    match &walk.heads.newest {
        Some(head) => {
            let time = head.time.map(times::text);
            let when = time.as_ref().map(|time| format!(" at {time}")).unwrap_or_default();
            if head.size > 0 && whole {
                let last = head.size - 1;
                let text = format!(
                    "everything up to record {last}, by the head of {} records signed by {}{when}: only who can sign with that key can change it",
                    head.size, head.by
                );
                report.fixed.push(text);
            }
            report.signed =
                Some(Signed { size: head.size, root: signature::hex(&head.root), by: head.by.clone(), time });
            if total > head.size {
                let age = report
                    .unsigned_tail
                    .as_ref()
                    .filter(|tail| tail.since.is_some())
                    .map(|tail| times::span(tail.age_ms));
                let age = age.map_or("only notes of the log about itself".to_owned(), |age| format!("for {age}"));
                not_proven.push(format!(
                    "the newest {} records (from {} on): no signature covers them ({age}); who can write this directory can \
                     change them, or cut them off",
                    total - head.size,
                    head.size
                ));
            }
        }
        None if !options.without_journal => not_proven.push(
            "who wrote it: no signed head was found, so whoever can write this directory can write a whole new chain"
                .to_string(),
        ),
        None => {}
    }
    anchors.summary(report, whole, &mut not_proven);
    if remembered && whole {
        report.fixed.push("what your state file remembers is the beginning of this log".into());
    }
    if !anchors.any() && !remembered {
        not_proven.push(
            "that the newest records are still here: without an anchor kept elsewhere (--anchor, --state, a time stamp, a \
             peer), the end of the log can be cut off at a record's boundary unnoticed, with the checkpoints and digests \
             that cover it; compare `head` with a copy kept elsewhere"
                .to_string(),
        );
    }
    if !walk.keys.is_empty() {
        if options.trust.is_none() {
            not_proven.push(
                "that the keys are this trail's: their certificates are the log's own word; --trust checks them against \
                 an authority of yours, or compare the fingerprints above"
                    .to_string(),
            );
        } else {
            not_proven.push("that no certificate was revoked: revocation is not checked".to_string());
        }
    }
    if options.without_journal {
        not_proven.push("that the log files hold every record: the journal was not here to compare".to_string());
    }
    if alone {
        not_proven.push("anything about checkpoints, digests and log files: only the journal was read".to_string());
    }
    match report.first_seq {
        Some(first) if first > 0 => {
            not_proven.push(format!(
                "anything about the records before {first} beyond what log files show: their segments are not here"
            ));
        }
        _ => {}
    }
    if options.trail_arn.is_none() {
        not_proven.push("which trail this is: the trail's ARN was taken from the log itself".to_string());
    }
    report.not_proven.append(&mut not_proven);
}

fn describe(key: &keys::Key) -> String {
    let since = match key.introduced {
        Some(seq) => format!("record {seq}, {}", times::text(key.since)),
        None => times::text(key.since),
    };
    let vouched = match &key.vouched {
        Ok(text) | Err(text) => text,
    };
    format!("{} {}  {}  since {since}; {vouched}", key.key_use, key.generation, key.fingerprint)
}

fn hash_of(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 64 * 1024];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        size += read as u64;
        context.update(buffer.get(..read).unwrap_or_default());
    }
    Ok((size, signature::hex(context.finish().as_ref())))
}
