//! A bucket without the journal, as an auditor gets it over S3: what the digests prove is judged, and what they do not is said.

use super::bucket::Bucket;
use super::facts::{Fact, Placed};
use super::report::Verdict;
use super::times;
use super::walk::Walk;

/// What was removed by retention is told by records in the log files.
pub(super) fn before(walk: &mut Walk<'_>, bucket: &Bucket) {
    let facts = bucket.logs.iter().flat_map(|log| &log.facts);
    let pruned: Vec<Placed> = facts.filter(|placed| matches!(placed.fact, Fact::Pruned(_))).cloned().collect();
    walk.early("bucket", &pruned);
}

pub(super) fn after(walk: &mut Walk<'_>, bucket: &Bucket) {
    let report = &mut *walk.report;
    let Some(newest) = bucket.digests.last() else {
        report.find(Verdict::Incomplete, "bucket", 0, None, "there is no digest here, and so nothing that is signed");
        return;
    };
    if report.verdict < Verdict::BadSignature {
        let listed = report.log_files.saturating_sub(report.unlisted);
        report.fixed.push(format!(
            "{listed} log files, by {} digests up to {}, each signed and naming the one before: only who can sign with these keys \
             can change them",
            report.digests,
            times::text(newest.end)
        ));
    }
    if report.unlisted > 0 {
        let text = "no digest lists them yet, and no signature covers them";
        report.not_proven.push(format!("the newest {} log files: {text}", report.unlisted));
    }
    report.not_proven.push(
        "that the records fit the heads of the log that checkpoints and digests hold: the journal was not read"
            .to_owned(),
    );
}
