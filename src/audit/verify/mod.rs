//! The verifier: reads a journal directory and says whether the chain is whole. Uses nothing else of ours, so that an
//! auditor can read this folder alone. Needs no lock, no token and no running service; works beside one.
//! Source: audit.md §7.2, §7.4, §7.6.

pub mod line;
pub mod lines;
pub mod note;
mod report;
pub mod tree;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;

pub use report::{EXIT_USAGE, Finding, OpenIntent, Report, Verdict};

use line::{Leaf, Line, Link, SEGMENT_END, SEGMENT_START, SegmentStart, segment_name};
use lines::{Lines, Next};
use report::LISTED;

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the trail must be. Without it the log's own word is taken, and the report says so.
    pub trail_arn: Option<String>,
}

#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub bytes: u64,
    pub total: u64,
}

/// `path` is a trail's directory (`audit/<trail>`) or its `journal`. Streams: memory does not grow with the log.
pub fn directory(path: &Path, options: &Options, progress: &mut dyn FnMut(Progress)) -> Report {
    let mut report = Report::new(path.to_path_buf());
    let journal = if path.join("journal").is_dir() { path.join("journal") } else { path.to_path_buf() };
    match segments(&journal, &mut report) {
        Err(error) => report.find(Verdict::Incomplete, &journal.to_string_lossy(), 0, None, cannot_read(&error)),
        Ok(names) if names.is_empty() => {
            report.find(Verdict::Incomplete, &journal.to_string_lossy(), 0, None, "there is no segment here")
        }
        Ok(names) => Walk::new(journal, options, &mut report).run(&names, progress),
    }
    report.not_proven = not_proven(options, &report);
    report
}

/// Segments and their sizes, oldest first.
fn segments(journal: &Path, report: &mut Report) -> io::Result<Vec<(String, u64)>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(journal)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if segment_name(&name).is_some() {
            names.push((name, entry.metadata()?.len()));
        } else if name != "current.jsonl" && !name.contains(".jsonl.torn-") && !name.ends_with(".new") {
            report.note(format!("`{name}` is not a segment and was not read"));
        }
    }
    names.sort();
    Ok(names)
}

fn not_proven(options: &Options, report: &Report) -> Vec<String> {
    let mut texts = vec![
        "that the newest records are still here: without signatures or anchors, the end of the log (the newest records, \
         or whole segments) can be cut off at a record's boundary unnoticed; compare `head` with a copy kept elsewhere"
            .to_string(),
        "who wrote it: this version has no signatures, so whoever can write this directory can write a whole new chain"
            .to_string(),
    ];
    match report.first_seq {
        Some(first) if first > 0 => {
            texts.push(format!("anything about the records before {first}: their segments are not here"))
        }
        _ => {}
    }
    if options.trail_arn.is_none() {
        texts.push("which trail this is: the trail's ARN was taken from the log itself".to_string());
    }
    texts
}

struct Walk<'r> {
    journal: PathBuf,
    trail_arn: Option<String>,
    report: &'r mut Report,
    /// Where the chain stands; none before the first record.
    link: Option<Link>,
    /// The segment before, and whether it ended with `SegmentEnd`.
    before: Option<(String, bool)>,
    open: HashMap<String, (u64, String)>,
}

impl<'r> Walk<'r> {
    fn new(journal: PathBuf, options: &Options, report: &'r mut Report) -> Self {
        Walk { journal, trail_arn: options.trail_arn.clone(), report, link: None, before: None, open: HashMap::new() }
    }

    fn run(mut self, names: &[(String, u64)], progress: &mut dyn FnMut(Progress)) {
        let total = names.iter().map(|(_, size)| size).sum();
        for (index, (name, size)) in names.iter().enumerate() {
            let last = index + 1 == names.len();
            if let Err(error) = self.segment(name, *size, last) {
                self.report.find(Verdict::Incomplete, name, 0, None, cannot_read(&error));
                self.before = Some((name.clone(), true));
            }
            self.report.segments += 1;
            progress(Progress { bytes: self.report.bytes, total });
        }
        self.report.head = self.link.map(|link| link.prev.as_str().to_string());
        let mut open: Vec<OpenIntent> = std::mem::take(&mut self.open)
            .into_iter()
            .map(|(request_id, (seq, event_name))| OpenIntent { seq, request_id, event_name })
            .collect();
        open.sort_by_key(|intent| intent.seq);
        open.truncate(LISTED);
        self.report.open_intents = open;
    }

    fn segment(&mut self, name: &str, size: u64, last: bool) -> io::Result<()> {
        let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, File::open(self.journal.join(name))?));
        let mut number = 0;
        let mut ended = false;
        let mut looks = 0;
        loop {
            match lines.next()? {
                Next::Line(bytes) => {
                    number += 1;
                    looks = 0;
                    if ended {
                        self.report.find(Verdict::Tampered, name, number, None, "a record follows `SegmentEnd`");
                    }
                    ended = self.record(name, number, bytes);
                    self.report.records += 1;
                    self.report.bytes += bytes.len() as u64 + 1;
                }
                // A service that is writing: the rest of the line may come.
                Next::Partial(_) if last && looks < 4 => {
                    looks += 1;
                    std::thread::sleep(Duration::from_millis(100));
                    lines.again()?;
                }
                Next::Partial(bytes) => self.torn(name, number + 1, bytes, last),
                Next::TooLong => {
                    self.report.find(Verdict::Tampered, name, number + 1, None, "the line is longer than any record");
                    break;
                }
                Next::End => break,
            }
            // What a running service adds while we read is not followed for ever.
            if last && lines.whole() >= size {
                break;
            }
        }
        if number == 0 {
            self.report.find(Verdict::Tampered, name, 0, None, "the segment has no record");
        }
        self.before = Some((name.to_string(), ended));
        Ok(())
    }

    fn torn(&mut self, name: &str, number: u64, bytes: u64, last: bool) {
        if last {
            let what = format!(
                "{bytes} bytes after the last complete record: a write was cut short, or the file was; the next start of \
                 the service saves and removes them"
            );
            self.report.find(Verdict::Truncated, name, number, None, what);
        } else {
            let what = format!("{bytes} bytes after the last complete record, and a later segment exists");
            self.report.find(Verdict::Tampered, name, number, None, what);
        }
    }

    /// Says whether the record is a `SegmentEnd`.
    fn record(&mut self, name: &str, number: u64, bytes: &[u8]) -> bool {
        let line = match Line::parse(bytes) {
            Ok(line) => line,
            Err(what) => {
                self.report.find(Verdict::Tampered, name, number, None, what);
                // Go on behind it, so that one bad line is one finding.
                let seq = self.link.map_or(0, |link| link.seq);
                self.link = Some(Link::after(seq, bytes));
                return false;
            }
        };
        let seq = line.place().seq;
        if let Err(what) = self.place(name, number, &line) {
            self.report.find(Verdict::Tampered, name, number, Some(seq), what);
        }
        self.link = Some(Link::after(seq, bytes));
        self.pair(&line);
        let time = line.place().time.to_string();
        self.report.first_seq.get_or_insert(seq);
        self.report.first_time.get_or_insert_with(|| time.clone());
        self.report.last_seq = Some(seq);
        self.report.last_time = Some(time);
        line.is_system(SEGMENT_END)
    }

    fn place(&mut self, name: &str, number: u64, line: &Line<'_>) -> Result<(), String> {
        let place = line.place();
        let (first_seq, boot) = segment_name(name).unwrap_or_default();
        if place.boot != boot {
            return Err(format!("the record is of boot `{}`, its file of boot `{boot}`", place.boot));
        }
        match &self.report.chain {
            None => self.report.chain = Some(place.chain.to_string()),
            Some(chain) if *chain != place.chain => return Err("the record is of another chain".into()),
            Some(_) => {}
        }
        if number > 1 {
            if line.is_system(SEGMENT_START) {
                return Err("a `SegmentStart` stands inside a segment".into());
            }
            return self.link.map_or(Ok(()), |link| link.check(line));
        }
        if place.seq != first_seq {
            return Err(format!("the file's name says that it begins with record {first_seq}"));
        }
        if !line.is_system(SEGMENT_START) {
            return Err("the segment does not begin with `SegmentStart`".into());
        }
        let start = line.segment_start()?;
        self.join(name, line, &start)
    }

    /// A segment's first record against the segment before.
    fn join(&mut self, name: &str, line: &Line<'_>, start: &SegmentStart) -> Result<(), String> {
        let place = line.place();
        let trail = self.trail_arn.get_or_insert_with(|| start.trail.clone());
        if *trail != start.trail {
            return Err(format!("the segment is of trail `{}`", start.trail));
        }
        self.report.trail = Some(start.trail.clone());
        if start.prev_hash != place.prev {
            return Err("`prevHash` differs from `prev`".into());
        }
        self.saved_tail(name, start);
        if start.reason == "tampering" {
            self.report.note(format!("`{name}` was begun because the service found the segment before it changed"));
        }
        if start.unclean && start.reason == "boot" {
            self.report.note(format!("the service did not stop cleanly before `{name}`"));
        }
        let Some(link) = self.link else {
            return self.first(name, place.seq, &place.prev, start);
        };
        if let Some((before, ended)) = &self.before {
            if start.prev_segment.as_deref() != Some(before) {
                let named = start.prev_segment.as_deref().unwrap_or("none");
                return Err(format!("the segment follows `{named}`, but `{before}` is the one before it here"));
            }
            if !ended && !start.unclean {
                return Err(format!("`{before}` has no `SegmentEnd`, which its successor does not know of"));
            }
        }
        if start.prev_seq.map(|seq| seq.saturating_add(1)) != Some(place.seq) {
            return Err("`prevSeq` does not precede the record".into());
        }
        link.check(line)
    }

    /// The first segment that is here: the chain's beginning, or not.
    fn first(&mut self, name: &str, seq: u64, prev: &str, start: &SegmentStart) -> Result<(), String> {
        if seq > 0 {
            let what = format!(
                "the log begins with record {seq}: the segments up to `{}` are not here",
                start.prev_segment.as_deref().unwrap_or("?")
            );
            self.report.find(Verdict::Incomplete, name, 1, Some(seq), what);
            return Ok(());
        }
        if prev != Leaf::genesis(&start.trail).as_str() || start.prev_segment.is_some() {
            return Err("the chain does not begin with its trail's first link".into());
        }
        Ok(())
    }

    /// The bytes that recovery cut off and kept.
    fn saved_tail(&mut self, name: &str, start: &SegmentStart) {
        if start.torn_bytes == 0 {
            return;
        }
        let file = start.torn_file.clone().unwrap_or_default();
        self.report.note(format!("{} bytes of an unfinished write were cut before `{name}`", start.torn_bytes));
        // The name comes from the log: it must stay in this directory.
        if file.is_empty() || file.contains('/') || !self.journal.join(&file).is_file() {
            self.report.note(format!("`{file}`, where those bytes were kept, is not here"));
            return;
        }
        match sha256(&self.journal.join(&file)) {
            Ok((size, hash)) if size == start.torn_bytes && Some(&hash) == start.torn_sha256.as_ref() => {}
            Ok(_) => {
                let what = format!("the file differs from what `{name}` says of it");
                self.report.find(Verdict::Tampered, &file, 0, None, what);
            }
            Err(error) => self.report.find(Verdict::Incomplete, &file, 0, None, cannot_read(&error)),
        }
    }

    fn pair(&mut self, line: &Line<'_>) {
        let Some(request_id) = &line.request_id else {
            return;
        };
        if line.is_intent() {
            self.report.intents += 1;
            self.open.insert(request_id.clone(), (line.place().seq, line.event_name.to_string()));
        } else if self.open.remove(request_id).is_some() {
            self.report.intents_closed += 1;
        }
    }
}

fn sha256(path: &Path) -> io::Result<(u64, String)> {
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
    Ok((size, context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()))
}

fn cannot_read(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}
