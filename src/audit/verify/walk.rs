//! The segments in their order: how each follows the one before, the tree over all records, the keys that the chain introduces
//! and the heads that were signed with them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::certificate::Trust;
use super::facts::{CheckpointFact, DigestFact, Fact, LogFileFact, Loss, Placed, SnapshotFact};
use super::heads::{Head, Heads, Lost};
use super::keys::Keys;
use super::line::{Leaf, Link, SegmentStart, segment_name};
use super::note::{self, Note};
use super::report::{Finding, LISTED, OpenIntent, Report, Verdict};
use super::roots::Tree;
use super::segment::{First, Intent, Read, Segment};
use super::signature::sha256;
use super::tree::Hash;

/// What the chain says of its own files.
#[derive(Default)]
pub(super) struct Told {
    /// Size of each checkpoint that the chain holds → SHA-256 of its note.
    pub checkpoints: BTreeMap<u64, Hash>,
    /// Object → what its record says, with the record's number.
    pub digests: HashMap<String, (u64, DigestFact)>,
    pub log_files: HashMap<String, (u64, LogFileFact)>,
    pub snapshots: Vec<(u64, SnapshotFact)>,
    pub pruned: HashSet<String>,
    pub losses: Vec<(u64, Loss)>,
}

pub(super) struct Walk<'r> {
    pub report: &'r mut Report,
    pub trust: Option<&'r Trust>,
    pub tree: Tree,
    pub keys: Keys,
    pub told: Told,
    pub heads: Heads,
    /// Pieces of the log files, as the journal has them: by log file.
    pub pieces: HashMap<usize, Vec<super::logfiles::Piece>>,
    /// Records that are in no log file: how many files end before them, first and last.
    pub outside: Vec<(usize, u64, u64)>,
    trail_arn: Option<String>,
    chain: Option<String>,
    /// Where the chain stands; none before the first record.
    link: Option<Link>,
    /// The segment before, and whether it ended with `SegmentEnd`.
    before: Option<(String, bool)>,
    open: HashMap<u64, Intent>,
    /// Run of the service, and when it began.
    pub boot: Option<(String, String)>,
    pub torn: Vec<(String, SegmentStart)>,
}

impl<'r> Walk<'r> {
    pub fn new(report: &'r mut Report, trail_arn: Option<String>, trust: Option<&'r Trust>, tree: Tree) -> Walk<'r> {
        Walk {
            report,
            trust,
            tree,
            keys: Keys::default(),
            told: Told::default(),
            heads: Heads::default(),
            pieces: HashMap::new(),
            outside: Vec::new(),
            trail_arn,
            chain: None,
            link: None,
            before: None,
            open: HashMap::new(),
            boot: None,
            torn: Vec::new(),
        }
    }

    /// What a file that is not in the journal any more said: its facts alone.
    pub fn early(&mut self, object: &str, facts: &[Placed]) {
        for placed in facts {
            self.fact(object, placed);
        }
    }

    /// The next segment, with what reading it alone gave.
    pub fn segment(&mut self, index: usize, segment: &Segment, mut read: Read) {
        let name = &segment.name;
        if let Some(first) = &read.first {
            if let Err(what) = self.follow(name, first) {
                self.report.find(Verdict::Tampered, name, 1, Some(first.seq), what);
            }
            self.report.first_seq.get_or_insert(first.seq);
            self.report.first_time.get_or_insert_with(|| first.time.clone());
            if self.boot.as_ref().is_none_or(|(boot, _)| *boot != first.boot) {
                self.boot = Some((first.boot.clone(), first.time.clone()));
            }
        }
        for Finding { verdict, file, line, seq, what } in read.findings.drain(..) {
            self.report.find(verdict, &file, line, seq, what);
        }
        if let Some(error) = &read.failure {
            self.report.find(Verdict::Incomplete, name, 0, None, format!("cannot be read: {error}"));
            // Of its end nothing is known.
            read.ended = true;
        }
        self.report.segments += 1;
        self.report.records += read.leaves.len() as u64;
        self.report.bytes += read.bytes;
        if let Some((seq, time)) = &read.last {
            self.report.last_seq = Some(*seq);
            self.report.last_time = Some(time.clone());
        }
        if read.link.is_some() {
            self.link = read.link;
        }
        self.before = Some((name.clone(), read.ended));
        self.pair(&mut read);

        let named = read.facts.iter().filter_map(|placed| match &placed.fact {
            Fact::Checkpoint(checkpoint) => Some(checkpoint.size),
            _ => None,
        });
        self.tree.grow(&read.leaves, named);
        for placed in &read.facts {
            self.fact(name, placed);
        }
        for mut piece in read.pieces {
            let file = std::mem::replace(&mut piece.other, index);
            self.pieces.entry(file).or_default().push(piece);
        }
        for run in read.outside {
            match self.outside.last_mut().filter(|(before, ..)| *before == run.files_before) {
                Some((_, _, last)) => *last = run.last,
                None => self.outside.push((run.files_before, run.first, run.last)),
            }
        }
    }

    /// After the last segment.
    pub fn finish(&mut self) {
        self.report.head = self.link.map(|link| link.prev.as_str().to_string());
        let mut open: Vec<OpenIntent> = std::mem::take(&mut self.open)
            .into_values()
            .map(|intent| OpenIntent { seq: intent.seq, request_id: intent.request_id, event_name: intent.event_name })
            .collect();
        open.sort_by_key(|intent| intent.seq);
        open.truncate(LISTED);
        self.report.open_intents = open;
    }

    /// The trail's ARN, by the caller's or the log's word.
    pub fn trail(&self) -> Option<&str> {
        self.trail_arn.as_deref()
    }

    /// A segment's first record.
    fn follow(&mut self, name: &str, first: &First) -> Result<(), String> {
        let (first_seq, boot) = segment_name(name).unwrap_or_default();
        if first.boot != boot {
            return Err(format!("the record is of boot `{}`, its file of boot `{boot}`", first.boot));
        }
        match &self.chain {
            None => {
                self.chain = Some(first.chain.clone());
                self.report.chain.clone_from(&self.chain);
            }
            Some(chain) if *chain != first.chain => return Err("the record is of another chain".into()),
            Some(_) => {}
        }
        if first.seq != first_seq {
            return Err(format!("the file's name says that it begins with record {first_seq}"));
        }
        match &first.start {
            None => Err("the segment does not begin with `SegmentStart`".into()),
            Some(Err(what)) => Err(what.clone()),
            Some(Ok(start)) => self.join(name, first, start),
        }
    }

    /// A segment's first record against the segment before.
    fn join(&mut self, name: &str, first: &First, start: &SegmentStart) -> Result<(), String> {
        let trail = self.trail_arn.get_or_insert_with(|| start.trail.clone());
        if *trail != start.trail {
            return Err(format!("the segment is of trail `{}`", start.trail));
        }
        self.report.trail = Some(start.trail.clone());
        if start.prev_hash != first.prev {
            return Err("`prevHash` differs from `prev`".into());
        }
        if start.torn_bytes > 0 {
            self.torn.push((name.to_owned(), start.clone()));
        }
        match start.reason.as_str() {
            "tampering" => {
                self.report.note(format!("`{name}` was begun because the service found the segment before it changed"));
            }
            "failure" => self.report.note(format!("`{name}` was begun because the log had failed")),
            _ => {}
        }
        if start.unclean && start.reason == "boot" {
            self.report.note(format!("the service did not stop cleanly before `{name}`"));
        }
        let Some(link) = self.link else {
            return self.first(name, first, start);
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
        if start.prev_seq.map(|seq| seq.saturating_add(1)) != Some(first.seq) {
            return Err("`prevSeq` does not precede the record".into());
        }
        link.check_place(first.seq, &first.prev)?;
        let said = start.tree();
        if (start.tree_size.is_some() || start.tree_peaks.is_some()) && said.is_none() {
            return Err("what it says of the tree does not fit together".into());
        }
        if said.is_some_and(|said| self.tree.agrees(&said) == Some(false)) {
            return Err("what it says of the tree before it is not so".into());
        }
        Ok(())
    }

    /// The first segment that is here: the chain's beginning, or not.
    fn first(&mut self, name: &str, first: &First, start: &SegmentStart) -> Result<(), String> {
        if first.seq > 0 {
            self.tree.begin_at(first.seq, start.tree());
            let missing = start.prev_segment.as_deref().unwrap_or("?");
            self.report.begins_after = Some((name.to_owned(), missing.to_owned()));
            return Ok(());
        }
        if first.prev != Leaf::genesis(&start.trail).as_str() || start.prev_segment.is_some() {
            return Err("the chain does not begin with its trail's first link".into());
        }
        Ok(())
    }

    fn pair(&mut self, read: &mut Read) {
        if !self.open.is_empty() {
            for id in &read.outcomes {
                read.closed += u64::from(self.open.remove(id).is_some());
            }
        }
        self.report.intents += read.intent_count;
        self.report.intents_closed += read.closed;
        self.open.extend(read.intents.drain(..).map(|intent| (intent.id, intent)));
    }

    fn fact(&mut self, file: &str, placed: &Placed) {
        let seq = placed.seq;
        match &placed.fact {
            Fact::AuditKey(key) => {
                if let Err((verdict, what)) = self.keys.introduce(key, Some(seq), placed.time, None, self.trust) {
                    self.report.find(verdict, file, 0, Some(seq), what);
                }
            }
            Fact::Checkpoint(checkpoint) => self.checkpoint(file, placed, checkpoint),
            Fact::Digest(digest) => {
                self.told.digests.insert(digest.object.clone(), (seq, digest.clone()));
            }
            Fact::LogFile(log) => {
                self.told.log_files.insert(log.object.clone(), (seq, log.clone()));
            }
            Fact::AcceptedLoss(loss) => self.told.losses.push((seq, loss.clone())),
            Fact::StateSnapshot(snapshot) => self.told.snapshots.push((seq, snapshot.clone())),
            Fact::Pruned(pruned) => self.told.pruned.extend(pruned.objects.iter().cloned()),
        }
    }

    fn checkpoint(&mut self, file: &str, placed: &Placed, fact: &CheckpointFact) {
        let mut find = |verdict, what: String| self.report.find(verdict, file, 0, Some(placed.seq), what);
        let note = match Note::parse(&fact.note) {
            Ok(note) => note,
            Err(what) => return find(Verdict::BadSignature, format!("the checkpoint's note: {what}")),
        };
        if note.size != fact.size || super::signature::hex(&note.root) != fact.root {
            return find(Verdict::Tampered, "the checkpoint's note and its record differ".into());
        }
        if note.size > placed.seq {
            return find(Verdict::Tampered, "the checkpoint counts records behind itself".into());
        }
        if self.trail_arn.as_deref().and_then(note::origin).is_some_and(|origin| origin != note.origin) {
            return find(Verdict::Tampered, format!("the checkpoint is of the log `{}`", note.origin));
        }
        match self.keys.signer_of(&note, Some(placed.time)) {
            Err(what) => find(Verdict::BadSignature, format!("the checkpoint of {} records: {what}", note.size)),
            Ok(key) => {
                self.told.checkpoints.insert(note.size, sha256(fact.note.as_bytes()));
                let by = format!("{} key {}", key.key_use, key.generation);
                let place = format!("{file} seq {}", placed.seq);
                let head = Head { size: note.size, root: note.root, time: Some(placed.time), by, place };
                self.heads.add(head, &self.tree, &Lost::NONE, self.report);
            }
        }
    }
}
