//! How far the log is sealed, found again in the journal and in the bucket. A crash can leave an object that no record
//! names: it is taken over where it says what the journal says, and set aside where not.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use super::archive;
use super::digest::SignedDigest;
use super::logfile::{self, Draft, SealedFile};
use super::names::{self, Kind};
use crate::audit::files;
use crate::audit::follow::Follower;
use crate::audit::verify::line::Line;
use crate::audit::verify::lines::{Lines, Next};
use crate::audit::verify::tree::Frontier;

/// What the journal's own records say.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest digest.
    pub digest: Option<SignedDigest>,
    /// Files that no digest lists yet, oldest first.
    pub files: Vec<SealedFile>,
}

impl Found {
    /// Reads the journal's segments from the newest back to the newest `Digest` record.
    pub fn read(dir: &Path) -> io::Result<Found> {
        let journal = dir.join("journal");
        let mut found = Found::default();
        for name in files::segments(&journal, false)?.iter().rev() {
            let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, File::open(journal.join(name))?));
            let mut newer = std::mem::take(&mut found.files);
            while let Next::Line(bytes) = lines.next()? {
                if !mentions(bytes, b"\"eventName\":\"LogFile\"") && !mentions(bytes, b"\"eventName\":\"Digest\"") {
                    continue;
                }
                let Ok(line) = Line::parse(bytes) else { continue };
                let details = line.additional_event_data.details.map_or("null", |details| details.get());
                if line.is_system("Digest") {
                    found.digest = Some(serde_json::from_str(details).map_err(io::Error::other)?);
                    found.files.clear();
                } else if line.is_system("LogFile") {
                    found.files.push(serde_json::from_str(details).map_err(io::Error::other)?);
                }
            }
            found.files.append(&mut newer);
            if found.digest.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// The first record that is in no sealed file. `oldest`: of the journal.
    pub fn position(&self, oldest: u64) -> u64 {
        let listed = self.digest.as_ref().map_or(oldest, |digest| digest.sealed_to);
        self.files.last().map_or(listed, |file| file.last_seq + 1)
    }
}

fn mentions(line: &[u8], text: &[u8]) -> bool {
    // The name stands in the first part of a record, and far from its end in a long one.
    line.windows(text.len()).any(|window| window == text)
}

/// The tree over all records below `position`, from where the digest `last` knows it.
pub fn tree(dir: &Path, last: Option<&SignedDigest>, position: u64, durable: u64) -> io::Result<Option<Frontier>> {
    let known = match last {
        Some(digest) => digest.tree(),
        None => Some(Frontier::default()),
    };
    let Some(mut tree) = known else { return Ok(None) };
    let mut follower = Follower::new(dir, tree.size());
    while tree.size() < position {
        match follower.next(durable)? {
            Some(line) if line.seq == tree.size() => tree.push(logfile::leaf(&line.line)),
            // The journal begins later: somebody removed its first part.
            _ => return Ok(None),
        }
    }
    Ok(Some(tree))
}

/// A file that was written right before a crash.
pub enum Orphan {
    None,
    /// It holds what the journal holds: the finished draft's facts, and what follows.
    Whole(SealedFile, Box<Draft>),
    /// Its name says that it begins like our next file, and its content is another.
    Foreign(String),
}

/// Looks for the file that begins with the first record of `draft`, which is empty.
pub fn orphan(
    dir: &Path,
    mut draft: Draft,
    from: u64,
    durable: u64,
    bucket: &str,
    place: &names::Place,
) -> io::Result<Orphan> {
    let mut follower = Follower::new(dir, from);
    while draft.is_empty() {
        let Some(followed) = follower.next(durable)? else { return Ok(Orphan::None) };
        draft.add(&followed.line).map_err(io::Error::other)?;
    }
    let unique = names::unique(draft.first_leaf());
    let root = dir.join("bucket");
    let of_it = |object: &String| {
        names::parse(object).is_some_and(|name| name.kind == Kind::Log && name.unique == unique.as_str())
    };
    let Some(object) = archive::objects(&root)?.into_iter().find(of_it) else { return Ok(Orphan::None) };
    let Ok(bytes) = archive::unpacked(&root, &object) else { return Ok(Orphan::Foreign(object)) };
    let Ok(lines) = logfile::lines(&bytes) else { return Ok(Orphan::Foreign(object)) };
    // Rather make it again than compare: whatever differs shows.
    for _ in 1..lines.len() {
        let before = draft.count();
        while draft.count() == before {
            let Some(followed) = follower.next(durable)? else { return Ok(Orphan::Foreign(object)) };
            draft.add(&followed.line).map_err(io::Error::other)?;
        }
    }
    let (made, mut file, next) = draft.finish(bucket, place);
    if made != bytes {
        return Ok(Orphan::Foreign(object));
    }
    // As it lies there: the prefix may be another now.
    file.object = object;
    Ok(Orphan::Whole(file, Box::new(next)))
}
