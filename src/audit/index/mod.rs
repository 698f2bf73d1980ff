//! An index over the log for CloudTrail's LookupEvents, exports and reports: a cache beside the journal that may be deleted at any
//! time, is fed behind the requests, and is never believed. What it finds is read again from the log itself.
//! Source: audit.md §7.11.

mod feed;
mod lines;
mod terms;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rusqlite::rusqlite::{self, Connection, OpenFlags, OptionalExtension, params};

use feed::Feed;
use lines::LogLines;
pub use terms::{Attribute, Seen};

/// Rows that one look at the index takes at most; more is looked up in turns.
const TURN: usize = 512;

/// Cheap to clone.
#[derive(Clone)]
pub struct Index {
    shared: Arc<Shared>,
}

struct Shared {
    /// The trail's directory.
    dir: PathBuf,
    file: PathBuf,
    feed: Mutex<Option<Feed>>,
    /// Records below this seq are in.
    indexed: AtomicU64,
}

/// What is looked for, newest first.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub attribute: Option<(Attribute, String)>,
    /// Seconds since the epoch, both inclusive.
    pub start: Option<i64>,
    pub end: Option<i64>,
    /// Records below this seq.
    pub before: Option<u64>,
    pub most: usize,
}

/// One record that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    pub seq: u64,
    /// Byte for byte as in the log.
    pub line: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hits {
    pub hits: Vec<Hit>,
    /// There may be more below this seq.
    pub next: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index of the log: {0}")]
    Sql(#[from] rusqlite::Error),
    #[error("the log behind its index: {0}")]
    Log(#[from] io::Error),
}

/// Where a record is.
#[derive(Debug, Clone, Copy)]
struct Place {
    seq: u64,
    /// First seq of its segment, and the offset of its line there; `None`: in a sealed file only.
    journal: Option<(u64, u64)>,
}

impl Index {
    /// `dir`: the trail's directory. Nothing is read or written before the first `catch_up`.
    pub fn new(dir: &Path) -> Index {
        let file = dir.join("index.sqlite");
        let (feed, indexed) = (Mutex::new(None), AtomicU64::new(0));
        Index { shared: Arc::new(Shared { dir: dir.to_owned(), file, feed, indexed }) }
    }

    /// Takes in what is on stable storage (`Journal::durable`). Blocking. An index that is damaged, or of another log, is made
    /// anew.
    pub fn catch_up(&self, durable: u64, stop: &dyn Fn() -> bool) -> Result<(), IndexError> {
        let mut feed = self.shared.feed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut anew = false;
        loop {
            match self.fed(&mut feed, durable, stop) {
                Ok(()) => return Ok(()),
                Err(IndexError::Sql(error)) if !anew => {
                    tracing::warn!(%error, "the index of the log is made anew");
                    anew = true;
                    *feed = None;
                    feed::remove(&self.shared.file)?;
                }
                Err(error) => {
                    *feed = None;
                    return Err(error);
                }
            }
        }
    }

    fn fed(&self, feed: &mut Option<Feed>, durable: u64, stop: &dyn Fn() -> bool) -> Result<(), IndexError> {
        let told = |next| self.shared.indexed.store(next, Ordering::Release);
        let feed = match feed {
            Some(feed) => feed,
            none => none.insert(Feed::open(&self.shared.dir, &self.shared.file, durable)?),
        };
        told(feed.next());
        feed.take(durable, stop, &told)
    }

    /// Records below this seq can be found.
    pub fn indexed(&self) -> u64 {
        self.shared.indexed.load(Ordering::Acquire)
    }

    /// Seqs that records of these seconds may have, first and last; `None`: there are none. What is in between may be of other
    /// seconds too: records are written when they are done, not when they began.
    pub fn seqs(&self, start: Option<i64>, end: Option<i64>) -> Result<Option<(u64, u64)>, IndexError> {
        seqs(&self.read()?, start, end)
    }

    /// Blocking.
    pub fn find(&self, query: &Query) -> Result<Hits, IndexError> {
        let sql = self.read()?;
        let mut found = Hits::default();
        let Some((first, last)) = seqs(&sql, query.start, query.end)? else { return Ok(found) };
        let mut below = query.before.unwrap_or(u64::MAX).min(last.saturating_add(1));
        let mut lines = LogLines::new(&self.shared.dir);
        loop {
            let places = turn(&sql, query, first, below)?;
            let whole_turn = places.len() == TURN;
            for place in places {
                if found.hits.len() == query.most {
                    found.next = Some(below);
                    return Ok(found);
                }
                below = place.seq;
                let Some(line) = lines.read(place, &sql)? else { continue };
                if terms::matches(&line, query) {
                    found.hits.push(Hit { seq: place.seq, line });
                }
            }
            if !whole_turn {
                return Ok(found);
            }
        }
    }

    fn read(&self) -> Result<Connection, IndexError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(Connection::open_with_flags(&self.shared.file, flags)?)
    }
}

fn seqs(sql: &Connection, start: Option<i64>, end: Option<i64>) -> Result<Option<(u64, u64)>, IndexError> {
    let minute = |seconds: i64| seconds.div_euclid(60);
    let (from, to) = (start.map_or(i64::MIN, minute), end.map_or(i64::MAX, minute));
    let floor: i64 = sql.query_row("SELECT floor FROM state", [], |row| row.get(0)).optional()?.unwrap_or(0);
    let found: (Option<i64>, Option<i64>) = sql
        .prepare_cached("SELECT MIN(first), MAX(last) FROM minutes WHERE minute BETWEEN ?1 AND ?2")?
        .query_row(params![from, to], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(match found {
        (Some(first), Some(last)) => Some((first.max(floor).unsigned_abs(), last.unsigned_abs())),
        _ => None,
    })
}

/// The next places below `below`, newest first. RULE: each answer is a range of one of two trees, never a scan.
fn turn(sql: &Connection, query: &Query, first: u64, below: u64) -> Result<Vec<Place>, IndexError> {
    let (first, below) = (i64::try_from(first).unwrap_or(i64::MAX), i64::try_from(below).unwrap_or(i64::MAX));
    let (start, end) = (query.start.unwrap_or(i64::MIN), query.end.unwrap_or(i64::MAX));
    let place = |row: &rusqlite::Row<'_>| {
        let journal: (Option<i64>, Option<i64>) = (row.get(1)?, row.get(2)?);
        Ok(Place {
            seq: row.get::<_, i64>(0)?.unsigned_abs(),
            journal: journal.0.zip(journal.1).map(|(segment, offset)| (segment.unsigned_abs(), offset.unsigned_abs())),
        })
    };
    let turn = i64::try_from(TURN).unwrap_or(i64::MAX);
    let rows: Result<Vec<Place>, rusqlite::Error> = match &query.attribute {
        Some((attribute, value)) => sql
            .prepare_cached(
                "SELECT seq, segment, offset FROM terms JOIN places USING (seq) WHERE term = ?1 AND seq >= ?2 AND seq < ?3 \
                 AND time BETWEEN ?4 AND ?5 ORDER BY seq DESC LIMIT ?6",
            )?
            .query_map(params![terms::term(*attribute, value), first, below, start, end, turn], place)?
            .collect(),
        None => sql
            .prepare_cached(
                "SELECT seq, segment, offset FROM places WHERE seq >= ?1 AND seq < ?2 AND time BETWEEN ?3 AND ?4 \
                 ORDER BY seq DESC LIMIT ?5",
            )?
            .query_map(params![first, below, start, end, turn], place)?
            .collect(),
    };
    Ok(rows?)
}
