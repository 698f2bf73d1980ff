//! Heads of the log that somebody vouches for: checkpoints, digests, anchors. Each has to be the beginning of what is here.

use std::collections::BTreeMap;

use super::facts::Loss;
use super::report::{Report, Verdict};
use super::roots::Tree;
use super::signature::hex;
use super::tree::Hash;

/// So many records with this root, as signed by `by`.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub size: u64,
    pub root: Hash,
    /// Milliseconds since the epoch.
    pub time: Option<i64>,
    pub by: String,
    /// Where it was found.
    pub place: String,
}

#[derive(Default)]
pub(super) struct Heads {
    /// Roots that were signed, by size.
    signed: BTreeMap<u64, Hash>,
    /// The newest one that fits.
    pub newest: Option<Head>,
    /// How many fit.
    pub fitting: u64,
    /// To be compared when all segments were seen.
    waiting: Vec<Head>,
    /// The smallest size that does not fit: all later ones follow from it.
    broken: Option<u64>,
}

impl Heads {
    /// Takes in a head whose signature is good.
    pub fn add(&mut self, head: Head, tree: &Tree, lost: &Lost<'_>, report: &mut Report) {
        match self.signed.get(&head.size) {
            Some(root) if *root != head.root => {
                let what = format!("two heads of {} records are signed, with different roots", head.size);
                report.find(Verdict::Forked, &head.place, 0, None, what);
                return;
            }
            _ => self.signed.insert(head.size, head.root),
        };
        match tree.root_at(head.size) {
            Some(root) => self.compare(head, root, lost, report),
            None => self.waiting.push(head),
        }
    }

    fn compare(&mut self, head: Head, root: Hash, lost: &Lost<'_>, report: &mut Report) {
        if root == head.root {
            self.fitting += 1;
            if self.newest.as_ref().is_none_or(|newest| newest.size <= head.size) {
                self.newest = Some(head);
            }
            return;
        }
        if lost.covers(head.size) {
            return lost.judge(head.size, &head.place, report, |_| {});
        }
        if self.broken.is_none_or(|broken| head.size < broken) {
            let since = self.newest.as_ref().map_or(0, |newest| newest.size.min(head.size));
            let what = format!(
                "the root over the first {} records is {} here, and {} in the head signed by {}: a record from {since} \
                 on was changed",
                head.size,
                hex(&root),
                hex(&head.root),
                head.by
            );
            report.find(Verdict::Tampered, &head.place, 0, None, what);
        } else {
            report.finding_count += 1;
        }
        self.broken = Some(self.broken.map_or(head.size, |broken| broken.min(head.size)));
    }

    /// Heads whose root is not known yet, for a second look at the segments.
    pub fn sizes_waiting(&self) -> Vec<u64> {
        self.waiting.iter().map(|head| head.size).collect()
    }

    /// What is left when all records were seen. `total`: so many are here; `first`: the first of them.
    pub fn settle(&mut self, tree: &Tree, total: u64, first: u64, lost: &Lost<'_>, report: &mut Report) {
        let mut unseen = 0;
        for head in std::mem::take(&mut self.waiting) {
            match tree.root_at(head.size) {
                Some(root) => self.compare(head, root, lost, report),
                None if head.size > total => lost.judge(head.size, &head.place, report, |report| {
                    let what = format!("{} records are signed by {}, and {total} are here", head.size, head.by);
                    report.find(Verdict::Truncated, &head.place, 0, None, what);
                }),
                None if head.size < first => unseen += 1,
                None => {
                    let what = format!("its root over {} records cannot be compared", head.size);
                    report.find(Verdict::Incomplete, &head.place, 0, None, what);
                }
            }
        }
        if unseen > 0 {
            report.not_proven.push(format!("that {unseen} signed heads of the records before {first} fit them"));
        }
    }
}

/// Losses that the log admits, and the ticket that the auditor accepts.
pub(super) struct Lost<'l> {
    pub losses: &'l [(u64, Loss)],
    pub accepted: Option<&'l str>,
}

impl Lost<'_> {
    pub const NONE: Lost<'static> = Lost { losses: &[], accepted: None };

    fn covers(&self, size: u64) -> bool {
        self.losses.iter().any(|(_, loss)| loss.covers(size))
    }

    /// Calls `otherwise` where no loss explains that a head of this size does not fit.
    pub fn judge(&self, size: u64, place: &str, report: &mut Report, otherwise: impl FnOnce(&mut Report)) {
        let loss = self.losses.iter().find(|(_, loss)| loss.covers(size));
        match loss {
            None => otherwise(report),
            Some((seq, loss)) => {
                let text = loss.text(*seq);
                if self.accepted == Some(loss.ticket.as_str()) {
                    report.note(text);
                } else {
                    let what = format!("{text}; --accepted-loss {} accepts that", loss.ticket);
                    report.find(Verdict::Truncated, place, 0, None, what);
                }
            }
        }
    }
}
