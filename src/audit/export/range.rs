//! A contiguous range of the tree's leaves as the few hashes that stand for it: the roots of the largest complete subtrees
//! that it is made of. What lies before and after the exported records is in the proof as such ranges, so that whoever has the
//! records computes the root of the whole tree and learns nothing but hashes of the rest.

use serde::Serialize;

use crate::audit::verify::tree::{Hash, node};

/// The root of a complete subtree: `count` leaves from `first` on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subtree {
    pub first: u64,
    pub count: u64,
    /// Hex.
    #[serde(serialize_with = "as_hex")]
    pub hash: Hash,
}

fn as_hex<S: serde::Serializer>(hash: &Hash, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex::encode(hash))
}

/// Grows leaf by leaf; at most 128 hashes however long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    start: u64,
    subtrees: Vec<Subtree>,
}

impl Range {
    pub fn from(start: u64) -> Range {
        Range { start, subtrees: Vec::new() }
    }

    /// The leaves before `size`, as a frontier's peaks; `None` where their number does not fit the size.
    pub fn of_peaks(size: u64, peaks: &[Hash]) -> Option<Range> {
        let mut subtrees = Vec::new();
        let (mut first, mut peaks) = (0, peaks.iter());
        for level in (0..64).rev() {
            let count = 1u64 << level;
            if size & count != 0 {
                subtrees.push(Subtree { first, count, hash: *peaks.next()? });
                first += count;
            }
        }
        peaks.next().is_none().then_some(Range { start: 0, subtrees })
    }

    /// Number of the leaf that comes next.
    pub fn end(&self) -> u64 {
        self.subtrees.last().map_or(self.start, |last| last.first + last.count)
    }

    pub fn subtrees(&self) -> &[Subtree] {
        &self.subtrees
    }

    pub fn push(&mut self, leaf: Hash) {
        self.join(Subtree { first: self.end(), count: 1, hash: leaf });
    }

    #[cfg(test)]
    /// Adds what follows; false where it does not begin at this one's end.
    pub fn append(&mut self, other: &Range) -> bool {
        let follows = other.start == self.end();
        if follows {
            other.subtrees.iter().for_each(|subtree| self.join(subtree.clone()));
        }
        follows
    }

    #[cfg(test)]
    /// The root of the tree that this range is, where it begins at its first leaf.
    pub fn root(&self) -> Option<Hash> {
        let mut hashes = self.subtrees.iter().rev().map(|subtree| subtree.hash);
        let last = hashes.next()?;
        (self.start == 0).then(|| hashes.fold(last, |right, left| node(&left, &right)))
    }

    fn join(&mut self, mut added: Subtree) {
        // Two neighbours of one size are a subtree where the left one stands at an even place.
        while let Some(left) = self.subtrees.last()
            && left.count == added.count
            && left.first.is_multiple_of(2 * left.count)
        {
            added = Subtree { first: left.first, count: 2 * left.count, hash: node(&left.hash, &added.hash) };
            self.subtrees.pop();
        }
        self.subtrees.push(added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::verify::tree::Frontier;

    /// Every way to cut trees of up to 40 leaves in three.
    #[test]
    fn three_ranges_make_the_root() {
        let leaves: Vec<Hash> = (0u8..40).map(|byte| [byte; 32]).collect();
        let mut tree = Frontier::default();
        for size in 1..=leaves.len() {
            tree.push(leaves[size - 1]);
            for a in 0..=size {
                for b in a..=size {
                    let mut before = Frontier::default();
                    leaves[..a].iter().for_each(|leaf| before.push(*leaf));
                    let mut all = Range::of_peaks(before.size(), before.peaks()).unwrap();
                    leaves[a..b].iter().for_each(|leaf| all.push(*leaf));
                    let mut after = Range::from(b as u64);
                    leaves[b..size].iter().for_each(|leaf| after.push(*leaf));
                    assert!(all.append(&after));
                    assert_eq!(all.root(), Some(tree.root()), "{a}..{b} of {size}");
                }
            }
        }
        assert_eq!(Range::of_peaks(3, &[[0; 32]]), None);
        assert!(!Range::from(0).append(&Range::from(1)));
    }
}
