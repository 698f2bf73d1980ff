//! What happens to the log at start, before anything listens: the last segment is verified, the log is compared with what was
//! signed, an unfinished write is kept aside and cut, and intents without an outcome are found. RULE audit.md §7.9. Only the
//! last segment is read, those that its `SegmentStart` names for open intents, and what the newest checkpoint was signed
//! over since its segment began: `audit verify` reads all.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use serde_json::json;

use super::files::{self, Torn};
use super::leaves;
use super::segment::{Beginning, Chain, stamp};
use super::verify::line::{Leaf, Line, Link, SEGMENT_END, SEGMENT_START, segment_name};
use super::verify::lines::{Lines, Next};
use super::verify::note::{self, Note};
use super::verify::tree::{Frontier, Hash};
use super::{AuditError, DanglingIntent, Recovery, Settings};

pub(super) const ACCEPTED_LOSS: &str = "AcceptedLoss";

pub(super) struct Recovered {
    pub recovery: Recovery,
    pub chain: Chain,
    /// The newest segment's name.
    pub name: Option<String>,
    pub next: Beginning,
    /// Not used by any segment so far.
    pub boot: String,
    /// Checkpoints, size and root, of records that a person gave up.
    pub lost: Vec<(u64, Hash)>,
}

/// Needs the lock.
pub(super) fn recover(journal: &Path, settings: &Settings) -> Result<Recovered, AuditError> {
    let io = |error: io::Error| {
        if files::is_no_space(&error) {
            AuditError::NoSpace { dir: settings.dir.clone() }
        } else {
            AuditError::Failed(format!("cannot recover the log in `{}`: {error}", journal.display()))
        }
    };
    let names = files::segments(journal, true).map_err(io)?;
    let boot = new_boot(&names)?;
    let Some(name) = names.last() else {
        let compared = Compared::look(journal, &names, 0, settings)?;
        let prev = Leaf::genesis(&settings.trail_arn);
        let (tree, open) = (Frontier::default(), HashMap::new());
        return Ok(Recovered {
            recovery: Recovery { signed: compared.signed, ..Recovery::default() },
            chain: Chain { next_seq: 0, prev, tree, news: 0, open, store_version: None },
            name: None,
            next: Beginning { reason: "boot", first: compared.first, ..Beginning::default() },
            boot,
            lost: compared.lost,
        });
    };
    let last = LastSegment::read(journal, &names, name, settings).map_err(|wrong| match wrong {
        Wrong::Io(error) => io(error),
        Wrong::Corrupt(what) => AuditError::Corrupt(what),
    })?;
    // Before anything is changed: a refusal leaves the files as they were found.
    let compared = Compared::look(journal, &names, last.link.seq, settings)?;
    let torn = if last.end_of_file > last.whole {
        Some(files::save_torn(journal, name, last.whole, &stamp()).map_err(io)?)
    } else {
        // Cut by a recovery that did not live to note it.
        files::saved_torn(journal, name).map_err(io)?
    };
    let unclean = !last.ended;
    if unclean || last.end_of_file > last.whole {
        files::rewrite(journal, name, last.whole).map_err(io)?;
    }
    Ok(last.into_recovered(name, torn, unclean, boot, compared))
}

/// What the checkpoints beside the journal say of it.
struct Compared {
    /// The tree of the newest one that fits.
    signed: Option<Frontier>,
    /// Those that do not.
    lost: Vec<(u64, Hash)>,
    first: Option<(&'static str, serde_json::Value)>,
}

impl Compared {
    /// RULE audit.md §7.9 step 5. Signatures are not checked here: the keys are not known yet.
    fn look(journal: &Path, names: &[String], records: u64, settings: &Settings) -> Result<Compared, AuditError> {
        let dir = &settings.dir;
        let failed = |error: io::Error| {
            AuditError::Failed(format!("cannot read the checkpoints in `{}`: {error}", dir.display()))
        };
        let mut compared = Compared { signed: None, lost: Vec::new(), first: None };
        for size in files::checkpoints(dir).map_err(failed)? {
            let path = files::checkpoint_path(dir, size);
            let text = std::fs::read_to_string(&path).map_err(failed)?;
            let corrupt = |what: &str| {
                AuditError::Corrupt(format!(
                    "the checkpoint `{}` {what}. Its text stands in the log's `Checkpoint` record of that size too",
                    path.display()
                ))
            };
            let signed = Note::parse(&text).map_err(|what| corrupt(&format!("is not one: {what}")))?;
            if signed.size != size || note::origin(&settings.trail_arn).is_some_and(|origin| origin != signed.origin) {
                return Err(corrupt("is of another log or size"));
            }
            let found = match tree(journal, names, records, size).map_err(failed)? {
                Some(tree) if tree.root() == signed.root => {
                    compared.signed = Some(tree);
                    break;
                }
                Some(_) => Found::Others,
                None => Found::Fewer,
            };
            let Some(ticket) = &settings.accept_loss else {
                let source = format!("the checkpoint `{}`", path.display());
                return Err(truncated(settings, &source, size, records, found));
            };
            if compared.lost.is_empty() {
                let details = accepted_loss(ticket, size, &signed.root, records);
                compared.first = Some((ACCEPTED_LOSS, details));
            }
            compared.lost.push((size, signed.root));
        }
        Ok(compared)
    }
}

/// How a journal differs from what was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Fewer,
    Others,
}

/// The first `size` of `records` records as a tree; none where they are not all there.
fn tree(journal: &Path, names: &[String], records: u64, size: u64) -> io::Result<Option<Frontier>> {
    if size > records {
        return Ok(None);
    }
    match leaves::tree_at(journal, names, size) {
        Ok(tree) => Ok(Some(tree)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The journal of an open log against a tree head; none where it fits.
pub(super) fn compare(journal: &Path, records: u64, size: u64, root: &Hash) -> io::Result<Option<Found>> {
    let names = files::segments(journal, false)?;
    Ok(match tree(journal, &names, records, size)? {
        Some(tree) if tree.root() == *root => None,
        Some(_) => Some(Found::Others),
        None => Some(Found::Fewer),
    })
}

pub(super) fn truncated(settings: &Settings, source: &str, size: u64, records: u64, found: Found) -> AuditError {
    let what = match found {
        Found::Fewer if records < size => {
            let missing = size - records;
            format!("{size} records were signed, as {source} says, and {records} are here: {missing} are missing")
        }
        Found::Fewer => format!("of the {size} records that were signed, as {source} says, some are missing"),
        Found::Others => format!("the first {size} records are not those that were signed, as {source} says"),
    };
    AuditError::Truncated(format!(
        "{what}. Put the files in `{}` back from a copy; or start with `serve --accept-loss TICKET`, which is recorded",
        settings.dir.display()
    ))
}

pub(super) fn accepted_loss(ticket: &str, size: u64, root: &Hash, records: u64) -> serde_json::Value {
    json!({"ticket": ticket, "signedSize": size, "signedRoot": hex::encode(root), "remaining": records})
}

/// Four hex digits or more, so that no two runs have the same.
fn new_boot(names: &[String]) -> Result<String, AuditError> {
    let used = |boot: &str| names.iter().filter_map(|name| segment_name(name)).any(|(_, other)| other == boot);
    let mut random = [0; 8];
    for digits in [4, 4, 4, 4, 8, 16] {
        getrandom::fill(&mut random).map_err(|error| AuditError::Failed(format!("no random numbers: {error}")))?;
        let mut boot = hex::encode(random);
        boot.truncate(digits);
        if !used(&boot) {
            return Ok(boot);
        }
    }
    Err(AuditError::Failed("no unused boot id was found".into()))
}

enum Wrong {
    Io(io::Error),
    Corrupt(String),
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Wrong::Io(error)
    }
}

struct LastSegment {
    link: Link,
    tree: Frontier,
    news: u64,
    /// By request id.
    open: HashMap<String, DanglingIntent>,
    store_version: Option<u64>,
    ended: bool,
    /// Bytes of complete lines, and of all.
    whole: u64,
    end_of_file: u64,
}

impl LastSegment {
    fn read(journal: &Path, names: &[String], name: &str, settings: &Settings) -> Result<LastSegment, Wrong> {
        let path = journal.join(name);
        let corrupt = |number: u64, what: String| Wrong::Corrupt(format!("`{}` line {number}: {what}", path.display()));
        let file = File::open(&path)?;
        let end_of_file = file.metadata()?.len();
        let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, file));
        let mut number = 0;
        let mut segment: Option<LastSegment> = None;
        loop {
            let bytes = match lines.next()? {
                Next::Line(bytes) => bytes,
                // Without a newline before the end of the file this is an unfinished write, however long.
                Next::Partial(_) | Next::End => break,
                Next::TooLong => return Err(corrupt(number + 1, "the line is longer than any record".into())),
            };
            number += 1;
            let line = Line::parse(bytes).map_err(|what| corrupt(number, what))?;
            match &mut segment {
                None => {
                    segment =
                        Some(Self::begin(journal, names, name, settings, &line, bytes).map_err(
                            |wrong| match wrong {
                                Wrong::Corrupt(what) => corrupt(number, what),
                                wrong => wrong,
                            },
                        )?);
                }
                Some(segment) => segment.add(&line, bytes).map_err(|what| corrupt(number, what))?,
            }
        }
        let mut segment = segment.ok_or_else(|| corrupt(1, "the segment has no record".into()))?;
        (segment.whole, segment.end_of_file) = (lines.whole(), end_of_file);
        Ok(segment)
    }

    fn begin(
        journal: &Path,
        names: &[String],
        name: &str,
        settings: &Settings,
        line: &Line<'_>,
        bytes: &[u8],
    ) -> Result<LastSegment, Wrong> {
        let seq = line.place().seq;
        if !line.is_system(SEGMENT_START) || segment_name(name) != Some((seq, &line.place().boot)) {
            return Err(Wrong::Corrupt("the segment does not begin with the `SegmentStart` that its name says".into()));
        }
        let start = line.segment_start().map_err(Wrong::Corrupt)?;
        if start.trail != settings.trail_arn {
            return Err(Wrong::Corrupt(format!("the log is of trail `{}`, not `{}`", start.trail, settings.trail_arn)));
        }
        let genesis = Leaf::genesis(&settings.trail_arn);
        if start.prev_hash != line.place().prev || (seq == 0 && start.prev_hash != genesis.as_str()) {
            return Err(Wrong::Corrupt("the segment's first link is wrong".into()));
        }
        let mut open = HashMap::new();
        for seq in &start.open_intents {
            let intent = find_intent(journal, names, *seq)?;
            open.insert(intent.request_id.clone(), intent);
        }
        // A log of 0.1 notes no tree: all of it is read once.
        let mut tree = match start.tree().filter(|tree| tree.size() == seq) {
            Some(tree) => tree,
            None => leaves::tree_at(journal, names, seq)?,
        };
        let link = Link::after(seq, bytes);
        tree.push(link.prev.hash());
        Ok(LastSegment {
            link,
            tree,
            // What came before may not have a checkpoint yet.
            news: seq,
            open,
            store_version: start.last_store_version,
            ended: false,
            whole: 0,
            end_of_file: 0,
        })
    }

    fn add(&mut self, line: &Line<'_>, bytes: &[u8]) -> Result<(), String> {
        if self.ended {
            return Err("a record follows `SegmentEnd`".into());
        }
        self.link.check(line)?;
        self.link = Link::after(line.place().seq, bytes);
        self.tree.push(self.link.prev.hash());
        if !line.is_bookkeeping() {
            self.news = self.link.seq;
        }
        self.ended = line.is_system(SEGMENT_END);
        self.store_version = self.store_version.max(line.additional_event_data.store_version);
        if line.is_intent() {
            if let Some(intent) = intent(line, bytes) {
                self.open.insert(intent.request_id.clone(), intent);
            }
        } else if let Some(request_id) = &line.request_id {
            self.open.remove(request_id);
        }
        Ok(())
    }

    fn into_recovered(
        self,
        name: &str,
        torn: Option<Torn>,
        unclean: bool,
        boot: String,
        compared: Compared,
    ) -> Recovered {
        let open = self.open.values().map(|intent| (intent.request_id.clone(), intent.seq)).collect();
        let mut dangling: Vec<DanglingIntent> = self.open.into_values().collect();
        dangling.sort_by_key(|intent| intent.seq);
        Recovered {
            recovery: Recovery {
                existed: true,
                unclean,
                torn_bytes: torn.as_ref().map_or(0, |torn| torn.bytes),
                torn_file: torn.as_ref().map(|torn| torn.file.clone()),
                last_store_version: self.store_version,
                last_seq: self.link.seq.checked_sub(1),
                dangling,
                signed: compared.signed,
            },
            chain: Chain {
                next_seq: self.link.seq,
                prev: self.link.prev,
                tree: self.tree,
                news: self.news,
                open,
                store_version: self.store_version,
            },
            name: Some(name.to_string()),
            next: Beginning { reason: "boot", unclean, torn, first: compared.first },
            boot,
            lost: compared.lost,
        }
    }
}

fn intent(line: &Line<'_>, bytes: &[u8]) -> Option<DanglingIntent> {
    Some(DanglingIntent {
        seq: line.place().seq,
        request_id: line.request_id.clone()?,
        name: line.event_name.to_string(),
        resources: line.resources.iter().map(|resource| resource.arn.clone()).collect(),
        line: String::from_utf8_lossy(bytes).into_owned(),
    })
}

/// An intent of an older segment, which the last one's `SegmentStart` says is open.
fn find_intent(journal: &Path, names: &[String], seq: u64) -> Result<DanglingIntent, Wrong> {
    let missing = || Wrong::Corrupt(format!("intent {seq}, open at its beginning, is not in the log"));
    let name = names
        .iter()
        .rev()
        .find(|name| segment_name(name).is_some_and(|(first, _)| first <= seq))
        .ok_or_else(missing)?;
    let mut lines = Lines::new(BufReader::new(File::open(journal.join(name))?));
    while let Next::Line(bytes) = lines.next()? {
        if let Ok(line) = Line::parse(bytes)
            && line.place().seq == seq
            && line.is_intent()
        {
            return intent(&line, bytes).ok_or_else(missing);
        }
    }
    Err(missing())
}
