//! What no signature covers: how long the log's unsigned end is, and how old.

use std::fs::File;
use std::io::BufReader;

use super::line::Line;
use super::lines::{Lines, Next};
use super::report::{Report, Tail, Verdict};
use super::segment::Segment;
use super::times::{millis, span};
use super::walk::Walk;

/// Beyond any time between checkpoints that is sensible.
pub(super) const OLDEST_MS: i64 = 15 * 60 * 1000;

/// Judges the records behind the newest head that is signed.
pub(super) fn check(walk: &mut Walk<'_>, segments: &[Segment], oldest: i64, now: Option<i64>) {
    let Some(newest) = walk.heads.newest.clone() else { return };
    let total = walk.report.records + walk.report.first_seq.unwrap_or_default();
    let mut tail = Tail { records: total.saturating_sub(newest.size), since: None, age_ms: 0 };
    let last = walk.report.last_time.as_deref().and_then(millis);
    if let (Some((seq, since)), Some(last)) = (first_news(segments, newest.size), last) {
        tail.age_ms = now.map_or(last, |now| now.max(last)) - since;
        tail.since = Some(super::times::text(since));
        if tail.age_ms > oldest {
            let what = format!("the records from {seq} on have waited for a signature for {}", span(tail.age_ms));
            walk.report.find(Verdict::Stale, "checkpoints", 0, Some(seq), what);
        }
    }
    walk.report.unsigned_tail = Some(tail);
}

/// The first record from `seq` on that is about more than the log's own files: those alone get no checkpoint.
fn first_news(segments: &[Segment], seq: u64) -> Option<(u64, i64)> {
    let from = segments.partition_point(|segment| segment.first_seq() <= seq).saturating_sub(1);
    for segment in segments.iter().skip(from) {
        let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, File::open(&segment.path).ok()?));
        while let Ok(Next::Line(bytes)) = lines.next() {
            let Ok(line) = Line::parse(bytes) else { continue };
            let place = line.place();
            if place.seq >= seq && !line.is_bookkeeping() {
                return Some((place.seq, millis(&place.time)?));
            }
        }
    }
    None
}

/// Digests: `now`, or the journal's newest record, tells how late the next one is.
pub(super) fn digests(ends: &[(i64, i64)], report: &mut Report, boot: Option<i64>, now: Option<i64>) {
    let Some((_, newest)) = ends.last().copied() else { return };
    // Of a stop the digest is shorter, of a pause longer: the middle one of the newest few tells the interval.
    let mut lengths: Vec<i64> = ends.iter().rev().take(9).map(|(start, end)| end - start).collect();
    lengths.sort_unstable();
    let interval = lengths.get(lengths.len() / 2).copied().unwrap_or_default().max(60_000);
    let last = report.last_time.as_deref().and_then(millis);
    let Some(until) = now.or(last) else { return };
    // Since when a digest could have been made.
    let waited = until - boot.map_or(newest, |boot| boot.max(newest));
    if waited > 2 * interval {
        let what = format!("no digest was made for {}, and one was due every {}", span(waited), span(interval));
        report.find(Verdict::Stale, "bucket", 0, None, what);
    }
}
