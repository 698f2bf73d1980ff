//! One pass over the log: chooses the range's records, writes them in every form, and grows the tree beside it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::digest;
use serde::Serialize;

use super::parts::{Around, Part, Rows};
use super::range::{Range, Subtree};
use super::record::Record;
use super::{Error, Filter, Format, Job, Request, cef, csv, failed, ocsf, severity, source};
use crate::audit::follow::Follower;
use crate::audit::verify::note::Note;
use crate::audit::verify::tree::{Frontier, Hash};

pub const RECORDS: &str = "records.jsonl.gz";
pub const LEAVES: &str = "leaves.bin";
/// How often free space is looked at, in bytes of rows.
const LOOK: u64 = 16 << 20;
/// Gaps that are told one by one.
const MOST_GAPS: usize = 1000;

/// What was found and written.
#[derive(Debug, Default)]
pub struct Found {
    pub files: Vec<Part>,
    /// Seq of the first and the last record written in the time asked for.
    pub range: Option<(u64, u64)>,
    pub times: Option<(String, String)>,
    /// In `records.jsonl.gz`.
    pub selected: u64,
    pub intents: u64,
    /// Records that stand for several requests, and how many those were.
    pub aggregated: (u64, u64),
    /// From sealed log files.
    pub sealed: u64,
    /// Numbers that neither the journal nor a sealed file has.
    pub missing: Vec<(u64, u64)>,
    /// How often the clock went back by more than a second, and the most, in microseconds.
    pub steps: (u64, i64),
    pub proof: Option<Proof>,
}

/// The range in the tree, as it stands in `proof.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    pub version: u32,
    pub trail: String,
    /// Leaves in `leaves.bin`, 32 bytes each: of records `first_seq` on.
    pub first_seq: u64,
    pub leaves: u64,
    pub leaves_file: &'static str,
    /// Of the signed tree head in `checkpoint`.
    pub tree_size: Option<u64>,
    #[serde(serialize_with = "as_hex")]
    pub root: Option<Hash>,
    /// What lies before and after the range in the tree.
    pub before: Vec<Subtree>,
    pub after: Vec<Subtree>,
    /// Leaves at the end that the signed tree head does not cover.
    pub unsigned: u64,
}

fn as_hex<S: serde::Serializer>(root: &Option<Hash>, to: S) -> Result<S::Ok, S::Error> {
    root.map(hex::encode).serialize(to)
}

pub fn leaf(line: &[u8]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[0]);
    context.update(line);
    let mut hash = Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

pub struct Pass<'a> {
    job: &'a Job<'a>,
    request: &'a Request,
    note: Option<&'a Note>,
    dir: &'a Path,
    found: Found,
    records: Rows,
    forms: Vec<(Format, Rows)>,
    buffer: Vec<u8>,
    /// Bytes of rows since free space was looked at.
    unlooked: u64,
    /// Over all records so far; none where the beginning is not known.
    tree: Option<Frontier>,
    /// The root at the checkpoint's size.
    root: Option<Hash>,
    before: Option<Range>,
    after: Range,
    leaves: Leaves,
    last: Option<(u64, String)>,
    /// `last` is of a sealed file.
    from_sealed: bool,
    latest: i64,
}

/// `leaves.bin`, which may have to give back what follows the range.
struct Leaves {
    file: BufWriter<File>,
    first: Option<u64>,
}

impl<'a> Pass<'a> {
    pub fn new(
        job: &'a Job<'a>,
        request: &'a Request,
        note: Option<&'a Note>,
        dir: &'a Path,
    ) -> Result<Pass<'a>, Error> {
        let forms = request.formats.iter().filter(|format| **format != Format::Jsonl);
        let forms = forms.map(|format| {
            let (suffix, around) = match format {
                Format::Csv => (".csv.gz", Around { before: csv_header(), ..Around::default() }),
                Format::Ocsf => (".ocsf.jsonl.gz", Around::default()),
                Format::Cef => (".cef.gz", Around::default()),
                Format::CloudTrail | Format::Jsonl => {
                    (".cloudtrail.json.gz", Around { before: b"{\"Records\":[".to_vec(), between: b",", after: b"]}" })
                }
            };
            (*format, Rows::numbered(dir, suffix, around, job.part_bytes))
        });
        let path = dir.join(LEAVES);
        let leaves = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path);
        let leaves = leaves.map_err(failed(format!("making `{}`", path.display())))?;
        Ok(Pass {
            job,
            request,
            note,
            dir,
            found: Found::default(),
            records: Rows::single(dir, RECORDS),
            forms: forms.collect(),
            buffer: Vec::new(),
            unlooked: 0,
            tree: None,
            root: None,
            before: None,
            after: Range::default(),
            leaves: Leaves { file: BufWriter::new(leaves), first: None },
            last: None,
            from_sealed: false,
            latest: i64::MIN,
        })
    }

    pub fn run(mut self) -> Result<Found, Error> {
        let read = || failed(format!("reading the audit log in `{}`", self.job.dir.display()));
        let begin = source::beginning(&self.job.dir, self.request.from).map_err(read())?;
        let first = begin.as_ref().map_or(0, |begin| begin.seq);
        if begin.as_ref().is_none_or(|begin| begin.oldest && begin.seq > 0) {
            for path in source::sealed(&self.job.dir, self.request.from).map_err(read())? {
                let bytes = source::unpacked(&path).map_err(read())?;
                for line in source::lines(&bytes).map_err(read())? {
                    let line = line.get().as_bytes();
                    let record = Record::parse(line).map_err(|error| {
                        Error::Damaged(format!("a line of `{}` is not a record: {error}", path.display()))
                    })?;
                    if record.additional.audit.seq < first {
                        self.sealed(line, &record)?;
                    }
                }
            }
        }
        // The numbers between the last sealed record and the journal's first.
        self.gap(first);
        self.tree = begin.and_then(|begin| begin.tree);
        self.rooted();
        let mut follower = Follower::new(&self.job.dir, first);
        let total = self.job.durable.saturating_sub(first);
        while let Some(next) = follower.next(self.job.durable).map_err(read())? {
            self.journal(next.seq, &next.line)?;
            if next.seq % 1024 == 0 {
                (self.job.progress)(next.seq - first, total);
            }
        }
        if follower.position() < self.job.durable {
            return Err(Error::Damaged(format!("record {} is not in the journal", follower.position())));
        }
        (self.job.progress)(total, total);
        self.finish()
    }

    /// A record of a sealed file: in the order of the files, without intents, and not in the proof.
    fn sealed(&mut self, line: &[u8], record: &Record<'_>) -> Result<(), Error> {
        let seq = record.additional.audit.seq;
        if self.last.as_ref().is_some_and(|(last, _)| seq <= *last) {
            return Ok(());
        }
        if self.last.is_some() {
            self.gap(seq);
        }
        let hash = leaf(line);
        if self.in_time(record) {
            self.found.sealed += 1;
            self.take(record, line, &hash)?;
        }
        self.last = Some((seq, hex::encode(hash)));
        self.from_sealed = true;
        Ok(())
    }

    fn gap(&mut self, next: u64) {
        if let Some((last, _)) = &self.last
            && last + 1 < next
            && self.found.missing.len() < MOST_GAPS
            && self.found.range.is_some()
        {
            self.found.missing.push((last + 1, next - 1));
        }
    }

    fn journal(&mut self, seq: u64, line: &[u8]) -> Result<(), Error> {
        let damaged = |what: String| Error::Damaged(format!("record {seq} {what}"));
        let record = Record::parse(line).map_err(|error| damaged(format!("does not parse: {error}")))?;
        let follows = self.last.as_ref().is_none_or(|(last, hash)| {
            last + 1 < seq && self.from_sealed || last + 1 == seq && *hash == record.additional.audit.prev
        });
        let placed = self.tree.as_ref().is_none_or(|tree| tree.size() == seq);
        if !follows || !placed {
            return Err(damaged("does not follow the record before it".to_owned()));
        }
        let hash = leaf(line);
        let signed = self.note.is_none_or(|note| seq < note.size);
        let in_time = self.in_time(&record);
        if in_time && self.before.is_none() {
            self.before = self.tree.as_ref().and_then(|tree| Range::of_peaks(tree.size(), tree.peaks()));
            self.leaves.first = Some(seq);
        }
        if self.leaves.first.is_some() {
            self.leaves.file.write_all(&hash).map_err(failed("writing the leaf hashes"))?;
            if in_time {
                self.after = Range::from(seq + 1);
            } else if signed {
                self.after.push(hash);
            }
        }
        if in_time {
            self.take(&record, line, &hash)?;
        }
        if let Some(tree) = &mut self.tree {
            tree.push(hash);
        }
        self.rooted();
        self.last = Some((seq, hex::encode(hash)));
        self.from_sealed = false;
        Ok(())
    }

    /// Keeps the root that the checkpoint has to have.
    fn rooted(&mut self) {
        if let (Some(tree), Some(note)) = (&self.tree, self.note)
            && tree.size() == note.size
        {
            self.root = Some(tree.root());
        }
    }

    fn in_time(&self, record: &Record<'_>) -> bool {
        let written = record.written();
        self.request.from.is_none_or(|from| written >= from) && self.request.to.is_none_or(|to| written < to)
    }

    /// A record of the range.
    fn take(&mut self, record: &Record<'_>, line: &[u8], hash: &Hash) -> Result<(), Error> {
        let audit = &record.additional.audit;
        let first = self.found.range.map_or(audit.seq, |(first, _)| first);
        self.found.range = Some((first, audit.seq));
        let began = self.found.times.take().map_or_else(|| audit.time.clone(), |(first, _)| first);
        self.found.times = Some((began, audit.time.clone()));
        let written = record.written();
        if written < self.latest.saturating_sub(1_000_000) {
            self.found.steps = (self.found.steps.0 + 1, self.found.steps.1.max(self.latest - written));
        }
        self.latest = self.latest.max(written);
        if !wanted(&self.request.filter, record) {
            return Ok(());
        }
        self.found.selected += 1;
        if let Some(count) = record.additional.count {
            self.found.aggregated = (self.found.aggregated.0 + 1, self.found.aggregated.1 + count);
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(line);
        self.buffer.push(b'\n');
        self.records.row(&self.buffer).map_err(failed(format!("writing `{RECORDS}`")))?;
        self.unlooked += self.buffer.len() as u64;
        // An intent is followed by its outcome, which says the same and more: tables would count the request twice.
        if record.is_intent() {
            self.found.intents += 1;
            return Ok(());
        }
        let leaf = hex::encode(hash);
        for (format, rows) in &mut self.forms {
            self.buffer.clear();
            match format {
                Format::Csv => csv::row(record, &leaf, &mut self.buffer),
                Format::Ocsf => {
                    ocsf::line(record, &leaf, line, &self.job.trail_arn, self.request.ocsf, &mut self.buffer);
                }
                Format::Cef => cef::line(record, severity(record), &mut self.buffer),
                Format::CloudTrail | Format::Jsonl => self.buffer.extend_from_slice(line),
            }
            rows.row(&self.buffer).map_err(failed("writing the export"))?;
            self.unlooked += self.buffer.len() as u64;
        }
        if self.unlooked > LOOK {
            self.unlooked = 0;
            room(self.job)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Found, Error> {
        let written = || failed("writing the export");
        if let (Some(note), Some(root)) = (self.note, self.root)
            && note.root != root
        {
            return Err(Error::Damaged(format!("its first {} records do not have the root that is signed", note.size)));
        }
        for (_, rows) in self.forms {
            self.found.files.extend(rows.finish().map_err(written())?);
        }
        self.found.files.extend(self.records.finish().map_err(written())?);
        let last = self.found.range.map(|(_, last)| last);
        // Leaves behind the range were written as long as another record of it might have followed.
        let first = self.leaves.first;
        let count = first.zip(last).map_or(0, |(first, last)| (last + 1).saturating_sub(first));
        let file = self.leaves.file.into_inner().map_err(io::IntoInnerError::into_error).map_err(written())?;
        file.set_len(count * 32).and_then(|()| file.sync_all()).map_err(written())?;
        self.found.files.push(super::place::hashed(self.dir, LEAVES).map_err(written())?);
        let end = last.map_or(0, |last| last + 1);
        let size = self.note.map(|note| note.size);
        self.found.proof = Some(Proof {
            version: 1,
            trail: self.job.trail_arn.clone(),
            first_seq: first.unwrap_or(0),
            leaves: count,
            leaves_file: LEAVES,
            tree_size: size.filter(|_| self.root.is_some()),
            root: self.root,
            before: self.before.as_ref().map(|before| before.subtrees().to_vec()).unwrap_or_default(),
            after: if count > 0 { self.after.subtrees().to_vec() } else { Vec::new() },
            unsigned: end.saturating_sub(size.unwrap_or(0)).min(count),
        });
        Ok(self.found)
    }
}

/// RULE design.md: an export never takes the room that the log itself needs.
pub fn room(job: &Job<'_>) -> Result<(), Error> {
    match rustix::fs::statvfs(&job.dir) {
        Ok(facts) if facts.f_blocks > 0 && (facts.f_bavail as f64 / facts.f_blocks as f64) < job.keep_free => {
            Err(Error::NoRoom)
        }
        _ => Ok(()),
    }
}

fn csv_header() -> Vec<u8> {
    let mut header = Vec::new();
    csv::header(&mut header);
    header
}

fn wanted(filter: &Filter, record: &Record<'_>) -> bool {
    let identity = &record.user_identity;
    let issuer = identity.session_context.as_ref().and_then(|session| session.pointer("/sessionIssuer/arn"));
    let key = |key: &String| {
        let is = |arn: &str| arn == key || arn.rsplit_once(":key/").is_some_and(|(_, id)| id == key);
        record.resources.iter().any(|resource| is(&resource.arn))
    };
    let principal = |principal: &String| {
        let names = [&identity.arn, &identity.user_name, &identity.access_key_id, &identity.principal_id];
        names.into_iter().flatten().any(|name| name == principal)
            || issuer.and_then(serde_json::Value::as_str) == Some(principal)
    };
    filter.key.as_ref().is_none_or(key)
        && filter.principal.as_ref().is_none_or(principal)
        && filter.event.as_ref().is_none_or(|event| record.event_name == *event)
        && (!filter.errors_only || record.error_code.is_some())
}
