//! The journal's tree from its files alone: every line is hashed again, nothing but the lines' number and bytes is looked at.

use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::files;
use super::verify::line::{Leaf, Line, segment_name};
use super::verify::lines::{Lines, Next};
use super::verify::tree::Frontier;

/// A tree that follows the files.
#[derive(Debug, Clone)]
pub(super) struct Grown {
    journal: PathBuf,
    pub tree: Frontier,
    /// Where the next line stands: segment, bytes before it.
    place: Option<(String, u64)>,
}

impl Grown {
    /// Begins with the records before `tree.size()`.
    pub fn new(journal: PathBuf, tree: Frontier) -> Grown {
        Grown { journal, tree, place: None }
    }

    /// Takes in the records up to `size`. `NotFound`: they are not all there, and the tree ends where they do.
    pub fn grow(&mut self, size: u64) -> io::Result<()> {
        while self.tree.size() < size {
            let (name, offset, skip) = self.find()?;
            let mut file = File::open(self.journal.join(&name))?;
            file.seek(SeekFrom::Start(offset))?;
            let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, file));
            let mut skip = skip;
            let before = self.tree.size();
            while self.tree.size() < size {
                match lines.next()? {
                    Next::Line(_) if skip > 0 => skip -= 1,
                    Next::Line(bytes) => self.tree.push(Leaf::of(bytes).hash()),
                    Next::Partial(_) | Next::TooLong | Next::End => break,
                }
            }
            self.place = Some((name, offset + lines.whole()));
            if self.tree.size() == before {
                let what = format!("record {before} is not in the journal");
                return Err(io::Error::new(io::ErrorKind::NotFound, what));
            }
        }
        Ok(())
    }

    /// Segment of the next record, bytes to pass over, and lines after those.
    fn find(&self) -> io::Result<(String, u64, u64)> {
        let next = self.tree.size();
        let names = files::segments(&self.journal, false)?;
        let found = names.iter().rev().find_map(|name| {
            let (first, _) = segment_name(name)?;
            (first <= next).then(|| (name, next - first))
        });
        let Some((name, skip)) = found else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("record {next} is not in the journal")));
        };
        match &self.place {
            Some((place, offset)) if place == name => Ok((name.clone(), *offset, 0)),
            _ => Ok((name.clone(), 0, skip)),
        }
    }
}

/// The tree of the first `size` records. From the newest segment that notes its tree and begins before them, or from the first
/// one. `NotFound`: they are not all there.
pub(super) fn tree_at(journal: &Path, names: &[String], size: u64) -> io::Result<Frontier> {
    let mut begin = Frontier::default();
    for name in names.iter().rev() {
        if segment_name(name).is_none_or(|(first, _)| first > size) {
            continue;
        }
        if let Some(tree) = noted(journal, name)? {
            begin = tree;
            break;
        }
    }
    let mut grown = Grown::new(journal.to_path_buf(), begin);
    grown.grow(size)?;
    Ok(grown.tree)
}

/// The tree before a segment, as its first line says.
fn noted(journal: &Path, name: &str) -> io::Result<Option<Frontier>> {
    let mut lines = Lines::new(BufReader::new(File::open(journal.join(name))?));
    let Next::Line(bytes) = lines.next()? else { return Ok(None) };
    let tree = Line::parse(bytes).ok().and_then(|line| line.segment_start().ok()?.tree());
    Ok(tree.filter(|tree| segment_name(name).is_some_and(|(first, _)| first == tree.size())))
}
