//! Takes the log into the index: many records in one transaction, in the order of the log.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio_rusqlite::rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::lines::{LogLines, sealed_lines};
use super::terms::{Seen, term};
use super::{IndexError, Place};
use crate::audit::follow::Follower;
use crate::audit::verify::line::{Leaf, SEGMENT_START, SYSTEM};

const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = "
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 0), next INTEGER NOT NULL, segment INTEGER NOT NULL,
                    offset INTEGER NOT NULL, floor INTEGER NOT NULL, leaf TEXT NOT NULL);
INSERT INTO state VALUES (0, 0, 0, 0, 0, '');
CREATE TABLE places (seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, segment INTEGER, offset INTEGER);
CREATE TABLE terms (term INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (term, seq)) WITHOUT ROWID;
CREATE TABLE minutes (minute INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL);
CREATE TABLE sealed (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, object TEXT NOT NULL);
";

/// Records in one transaction.
const BATCH: usize = 10_000;

pub(super) struct Feed {
    dir: PathBuf,
    sql: Connection,
    follower: Follower,
    at: At,
}

/// Where the next line is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
struct At {
    next: u64,
    segment: u64,
    offset: u64,
    floor: u64,
    /// Hash of the record before.
    leaf: String,
}

/// `details` of a `LogFile` record.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogFile {
    object: String,
    first_seq: u64,
    last_seq: u64,
}

/// Deletes the index, whatever its state.
pub(super) fn remove(file: &Path) -> io::Result<()> {
    for end in ["", "-wal", "-shm"] {
        let mut path = file.as_os_str().to_owned();
        path.push(end);
        match std::fs::remove_file(Path::new(&path)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl Feed {
    pub fn open(dir: &Path, file: &Path, durable: u64) -> Result<Feed, IndexError> {
        let mut sql = connect(file)?;
        let mut at = state(&sql)?;
        if at.next > durable || !is_of_this_log(dir, &sql, &at)? {
            tracing::warn!("the index is of another log and is made anew");
            drop(sql);
            remove(file)?;
            sql = connect(file)?;
            at = state(&sql)?;
        }
        let follower = Follower::new(dir, at.next);
        let mut feed = Feed { dir: dir.to_owned(), sql, follower, at };
        feed.take_sealed_files()?;
        feed.raise_floor()?;
        Ok(feed)
    }

    pub fn next(&self) -> u64 {
        self.at.next
    }

    /// `told`: the records below this seq are in.
    pub fn take(&mut self, durable: u64, stop: &dyn Fn() -> bool, told: &dyn Fn(u64)) -> Result<(), IndexError> {
        let mut more = true;
        while more && self.at.next < durable && !stop() {
            let (mut at, mut pruned, mut taken) = (self.at.clone(), false, 0);
            let batch = self.sql.transaction()?;
            while taken < BATCH && at.next < durable {
                let Some(followed) = self.follower.next(durable)? else {
                    more = false;
                    break;
                };
                taken += 1;
                let line = &followed.line;
                at.next = followed.seq + 1;
                at.leaf = Leaf::of(line).as_str().to_owned();
                let seen = Seen::of(line);
                let system =
                    |name: &str| seen.as_ref().is_some_and(|seen| seen.event_type == SYSTEM && seen.event_name == name);
                // RULE audit.md §7.4: the first line of each segment.
                if system(SEGMENT_START) {
                    (at.segment, at.offset) = (followed.seq, 0);
                }
                pruned |= system("Pruned");
                if let Some(seen) = &seen {
                    insert(&batch, seen, Some((at.segment, at.offset)))?;
                }
                at.offset += line.len() as u64 + 1;
            }
            keep(&batch, &at)?;
            batch.commit()?;
            self.at = at;
            if pruned {
                self.raise_floor()?;
            }
            told(self.at.next);
        }
        Ok(())
    }

    /// What the journal has no more is taken from the sealed files, where those are still there.
    fn take_sealed_files(&mut self) -> Result<(), IndexError> {
        let oldest = match self.follower.oldest() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            oldest => oldest?,
        };
        let Some(oldest) = oldest.filter(|oldest| *oldest > self.at.next) else { return Ok(()) };
        let root = self.dir.join("bucket");
        let mut objects = Vec::new();
        log_files(&root, &mut objects)?;
        for path in objects {
            let Ok(lines) = sealed_lines(&path) else {
                tracing::warn!(file = %path.display(), "a sealed file cannot be read: its records are not in the index");
                continue;
            };
            let seqs = || lines.iter().map(|(seq, _)| *seq);
            let (Some(first), Some(last)) = (seqs().min(), seqs().max()) else { continue };
            let object = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
            let batch = self.sql.transaction()?;
            sealed(&batch, &LogFile { object, first_seq: first, last_seq: last })?;
            for (_, line) in lines.iter().filter(|(seq, _)| (self.at.next..oldest).contains(seq)) {
                if let Some(seen) = Seen::of(line) {
                    insert(&batch, &seen, None)?;
                }
            }
            batch.commit()?;
        }
        self.at.next = oldest;
        self.at.leaf = String::new();
        self.follower = Follower::new(&self.dir, oldest);
        Ok(())
    }

    /// Nothing is looked for below the oldest record that is still somewhere.
    fn raise_floor(&mut self) -> Result<(), IndexError> {
        let oldest = match self.follower.oldest() {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            oldest => oldest?,
        };
        let mut floor = oldest.unwrap_or(0);
        let mut known = self.sql.prepare("SELECT first, object FROM sealed WHERE first < ?1 ORDER BY first")?;
        let before = i64::try_from(floor).unwrap_or(i64::MAX);
        let rows = known.query_map(params![before], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
        for row in rows {
            let (first, object) = row?;
            if self.dir.join("bucket").join(object).exists() {
                floor = first.unsigned_abs();
                break;
            }
        }
        self.at.floor = floor;
        let floor = i64::try_from(floor).unwrap_or(i64::MAX);
        self.sql.execute("UPDATE state SET floor = ?1", params![floor])?;
        Ok(())
    }
}

fn connect(file: &Path) -> Result<Connection, IndexError> {
    let sql = Connection::open(file)?;
    // Who used which key is for those who may read the log, which has the same mode.
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
    sql.busy_timeout(Duration::from_secs(5))?;
    // Whole after a crash, and synced at checkpoints only: the journal's syncs have the disk to themselves.
    sql.pragma_update(None, "journal_mode", "WAL")?;
    sql.pragma_update(None, "synchronous", "NORMAL")?;
    sql.pragma_update(None, "cache_size", -65_536)?;
    sql.pragma_update(None, "wal_autocheckpoint", 8_000)?;
    let version: i64 = sql.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        SCHEMA_VERSION => {}
        0 => {
            sql.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"))?;
        }
        _ => {
            drop(sql);
            remove(file)?;
            return connect(file);
        }
    }
    Ok(sql)
}

fn state(sql: &Connection) -> Result<At, IndexError> {
    let number = |row: &tokio_rusqlite::rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(i64::unsigned_abs);
    Ok(sql.query_row("SELECT next, segment, offset, floor, leaf FROM state", [], |row| {
        Ok(At {
            next: number(row, 0)?,
            segment: number(row, 1)?,
            offset: number(row, 2)?,
            floor: number(row, 3)?,
            leaf: row.get(4)?,
        })
    })?)
}

/// Whether the last record that was taken in is still the same. One that was pruned cannot be asked.
fn is_of_this_log(dir: &Path, sql: &Connection, at: &At) -> Result<bool, IndexError> {
    let Some(last) = at.next.checked_sub(1).filter(|_| !at.leaf.is_empty()) else { return Ok(true) };
    let seq = i64::try_from(last).unwrap_or(i64::MAX);
    let journal: Option<(Option<i64>, Option<i64>)> = sql
        .query_row("SELECT segment, offset FROM places WHERE seq = ?1", params![seq], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((Some(segment), Some(offset))) = journal else { return Ok(true) };
    let place = Place { seq: last, journal: Some((segment.unsigned_abs(), offset.unsigned_abs())) };
    let line = LogLines::new(dir).read(place, sql)?;
    Ok(line.is_none_or(|line| Leaf::of(&line).as_str() == at.leaf))
}

fn insert(batch: &Transaction<'_>, seen: &Seen<'_>, journal: Option<(u64, u64)>) -> Result<(), IndexError> {
    if seen.event_type == SYSTEM
        && seen.event_name == "LogFile"
        && let Some(file) = seen.additional_event_data.details.and_then(|raw| serde_json::from_str(raw.get()).ok())
    {
        sealed(batch, &file)?;
    }
    if seen.is_intent() {
        return Ok(());
    }
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (seq, time) = (number(seen.seq()), seen.seconds());
    batch.prepare_cached("INSERT OR REPLACE INTO places VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        seq,
        time,
        journal.map(|(segment, _)| number(segment)),
        journal.map(|(_, o)| number(o))
    ])?;
    batch
        .prepare_cached(
            "INSERT INTO minutes VALUES (?1, ?2, ?2) ON CONFLICT (minute) DO UPDATE SET first = MIN(first, ?2), \
             last = MAX(last, ?2)",
        )?
        .execute(params![time.div_euclid(60), seq])?;
    let mut terms = Vec::with_capacity(12);
    seen.each(|attribute, value| terms.push(term(attribute, value)));
    let mut add = batch.prepare_cached("INSERT OR IGNORE INTO terms VALUES (?1, ?2)")?;
    for term in terms {
        add.execute(params![term, seq])?;
    }
    Ok(())
}

fn sealed(batch: &Transaction<'_>, file: &LogFile) -> Result<(), IndexError> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    batch.prepare_cached("INSERT OR REPLACE INTO sealed VALUES (?1, ?2, ?3)")?.execute(params![
        number(file.first_seq),
        number(file.last_seq),
        file.object
    ])?;
    Ok(())
}

fn keep(batch: &Transaction<'_>, at: &At) -> Result<(), IndexError> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    batch.execute(
        "UPDATE state SET next = ?1, segment = ?2, offset = ?3, leaf = ?4",
        params![number(at.next), number(at.segment), number(at.offset), at.leaf],
    )?;
    Ok(())
}

/// Paths of the sealed log files below a folder, oldest first: `…/CloudTrail/<region>/…/*.json.gz`.
fn log_files(folder: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    let read = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    let mut entries: Vec<_> = read.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            log_files(&path, into)?;
        } else if path.components().any(|part| part.as_os_str() == "CloudTrail")
            && path.to_string_lossy().ends_with(".json.gz")
        {
            into.push(path);
        }
    }
    Ok(())
}
