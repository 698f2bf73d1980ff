//! Roots of the tree at the sizes that somebody signed or remembers, computed while the segments go by.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Frontier, Hash};

/// The tree as it grows over the segments in their order.
pub(super) struct Tree {
    /// `None`: the beginning is not here and nothing says what the tree was.
    frontier: Option<Frontier>,
    /// Sizes to compute the root of.
    wanted: BTreeSet<u64>,
    roots: BTreeMap<u64, Hash>,
    /// At the beginning of each segment, for sizes that are asked for later.
    starts: BTreeMap<u64, Frontier>,
}

impl Tree {
    pub fn new(wanted: BTreeSet<u64>) -> Tree {
        Tree { frontier: Some(Frontier::default()), wanted, roots: BTreeMap::new(), starts: BTreeMap::new() }
    }

    /// The log begins later: what the first segment says that the tree was. A signed root has to confirm it.
    pub fn begin_at(&mut self, seq: u64, said: Option<Frontier>) {
        self.frontier = said.filter(|frontier| frontier.size() == seq);
    }

    /// Whether a segment's own word about the tree before it is right. `None`: it cannot be told.
    pub fn agrees(&self, said: &Frontier) -> Option<bool> {
        self.frontier.as_ref().map(|here| said == here)
    }

    /// The records of the next segment, and sizes that its own records name.
    pub fn grow(&mut self, leaves: &[Hash], named: impl Iterator<Item = u64>) {
        self.wanted.extend(named);
        let Some(frontier) = &mut self.frontier else { return };
        self.starts.insert(frontier.size(), frontier.clone());
        let mut wanted = self.wanted.range(frontier.size()..=frontier.size() + leaves.len() as u64).copied().peekable();
        while wanted.next_if_eq(&frontier.size()).is_some() {
            self.roots.insert(frontier.size(), frontier.root());
        }
        for leaf in leaves {
            frontier.push(*leaf);
            while wanted.next_if_eq(&frontier.size()).is_some() {
                self.roots.insert(frontier.size(), frontier.root());
            }
        }
    }

    /// `None`: not computed.
    pub fn root_at(&self, size: u64) -> Option<Hash> {
        self.roots.get(&size).copied()
    }

    /// The tree at the beginning of the segment in which it reached `size`, for a second reading.
    pub fn start_before(&self, size: u64) -> Option<Frontier> {
        self.starts.range(..=size).next_back().map(|(_, frontier)| frontier.clone())
    }

    pub fn remember(&mut self, size: u64, root: Hash) {
        self.roots.insert(size, root);
    }

    /// Over all records seen.
    pub fn whole(&self) -> Option<&Frontier> {
        self.frontier.as_ref()
    }
}
