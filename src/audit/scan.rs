//! Reading the log again: counts over all of it, for a store that was restored and does not know them, and the uses of keys
//! since some record, for a cache that has to catch up.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::files;
use super::verify::line::{Line, Resource, segment_name};
use super::verify::lines::{Lines, Next};

/// How often each resource was used with success by one of the operations `names`: records of type `AwsApiCall` without
/// `errorCode`. A ReEncrypt counts for its destination, the last of its resources. `dir` is the trail's directory.
/// Streams; lines that do not parse are passed over, for `audit verify` to find.
pub fn successes(dir: &Path, names: &[&str]) -> io::Result<HashMap<String, u64>> {
    let journal = dir.join("journal");
    let mut counts = HashMap::new();
    for name in files::segments(&journal, false)? {
        let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, File::open(journal.join(name))?));
        while let Next::Line(bytes) = lines.next()? {
            let Ok(line) = Line::parse(bytes) else {
                continue;
            };
            if line.event_type != "AwsApiCall" || line.error_code.is_some() {
                continue;
            }
            if names.contains(&&*line.event_name)
                && let Some(resource) = line.resources.into_iter().next_back()
            {
                *counts.entry(resource.arn).or_insert(0) += 1;
            }
        }
    }
    Ok(counts)
}

/// Seq that a reader of what was written from `time` on (milliseconds since the epoch) begins with: of the last segment that
/// begins at or before it.
pub fn seq_at(dir: &Path, time: i64) -> io::Result<u64> {
    let journal = dir.join("journal");
    let segments = files::segments(&journal, false)?;
    let mut first = 0;
    for name in segments.iter().rev() {
        first = segment_name(name).map_or(0, |(first, _)| first);
        let mut lines = Lines::new(BufReader::new(File::open(journal.join(name))?));
        let Next::Line(bytes) = lines.next()? else { continue };
        let Ok(line) = Line::parse(bytes) else { continue };
        if millis(&line.place().time).is_some_and(|at| at <= time) {
            break;
        }
    }
    Ok(first)
}

/// Hands out every line, from the segment with record `from` on, until `each` has enough. Also lines that are no records, for a
/// reader that goes on behind what was tampered with; not an unfinished one at the end.
pub fn lines(dir: &Path, from: u64, mut each: impl FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
    let journal = dir.join("journal");
    let segments = files::segments(&journal, false)?;
    let begins = |name: &String| segment_name(name).is_some_and(|(first, _)| first <= from);
    let start = segments.iter().rposition(begins).unwrap_or(0);
    for name in segments.iter().skip(start) {
        let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, File::open(journal.join(name))?));
        while let Next::Line(bytes) = lines.next()? {
            if each(bytes).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A successful call, as its record has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    pub seq: u64,
    pub operation: String,
    /// `userIdentity.arn`
    pub principal: String,
    /// `eventTime`, milliseconds since the epoch.
    pub at: i64,
    pub event_id: String,
    pub request_id: String,
    /// ARNs of its resources.
    pub resources: Vec<String>,
}

/// What a scan saw beside the uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Highest seq of all records read.
    pub last_seq: Option<u64>,
    /// `eventTime` of the log's first record, whatever `after` says.
    pub since: Option<i64>,
}

/// Hands out the successful `AwsApiCall`s of the operations `names` with a seq above `after`. Segments that end before are not
/// read. Streams; lines that do not parse, and an unfinished one at the end, are passed over.
pub fn uses(dir: &Path, after: Option<u64>, names: &[&str], mut each: impl FnMut(Use)) -> io::Result<Seen> {
    let journal = dir.join("journal");
    let segments = files::segments(&journal, false)?;
    let first_of = |name: &String| segment_name(name).map_or(0, |(first, _)| first);
    let mut seen = Seen::default();
    for (place, name) in segments.iter().enumerate() {
        let past = match (after, segments.get(place + 1)) {
            // The next one begins with or before the first record that is wanted.
            (Some(after), Some(next)) => first_of(next) <= after.saturating_add(1),
            _ => false,
        };
        if past && place > 0 {
            continue;
        }
        let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, File::open(journal.join(name))?));
        while let Next::Line(bytes) = lines.next()? {
            let Ok(call) = serde_json::from_slice::<Call<'_>>(bytes) else { continue };
            let seq = call.additional_event_data.audit.seq;
            seen.last_seq = seen.last_seq.max(Some(seq));
            if seen.since.is_none() {
                seen.since = millis(&call.event_time);
            }
            if past {
                break;
            }
            if after.is_some_and(|after| seq <= after)
                || call.event_type != "AwsApiCall"
                || call.error_code.is_some()
                || !names.contains(&&*call.event_name)
            {
                continue;
            }
            let (Some(principal), Some(request_id), Some(at)) =
                (call.user_identity.arn, call.request_id, millis(&call.event_time))
            else {
                continue;
            };
            each(Use {
                seq,
                operation: call.event_name.into_owned(),
                principal: principal.into_owned(),
                at,
                event_id: call.event_id.into_owned(),
                request_id: request_id.into_owned(),
                resources: call.resources.into_iter().map(|resource| resource.arn).collect(),
            });
        }
    }
    Ok(seen)
}

/// The members that a use is made of.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call<'a> {
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    event_name: Cow<'a, str>,
    #[serde(borrow)]
    event_time: Cow<'a, str>,
    #[serde(borrow, rename = "eventID")]
    event_id: Cow<'a, str>,
    #[serde(borrow, rename = "requestID")]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error_code: Option<&'a RawValue>,
    user_identity: Identity<'a>,
    #[serde(default)]
    resources: Vec<Resource>,
    additional_event_data: Placed,
}

#[derive(Deserialize)]
struct Identity<'a> {
    #[serde(borrow)]
    arn: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Placed {
    audit: Seq,
}

#[derive(Deserialize)]
struct Seq {
    seq: u64,
}

fn millis(time: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}
