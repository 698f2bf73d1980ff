//! Reading the log again: counts over all of it, for a store that was restored and does not know them, and the uses of keys
//! since some record, for a cache that has to catch up. What the journal no longer has is read from the sealed files.

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
use super::seal::archive;
use super::verify::line::{Line, Resource, segment_name};
use super::verify::lines::{Lines, Next};

/// How often each resource was used with success by one of the operations `names`: records of type `AwsApiCall` without
/// `errorCode`. A ReEncrypt counts for its destination, the last of its resources. `dir` is the trail's directory.
/// Streams; lines that do not parse are passed over, for `audit verify` to find.
pub fn successes(dir: &Path, names: &[&str]) -> io::Result<HashMap<String, u64>> {
    let journal = dir.join("journal");
    let mut counts = HashMap::new();
    let mut count = |bytes: &[u8]| {
        let Ok(line) = Line::parse(bytes) else {
            return;
        };
        if line.event_type == "AwsApiCall"
            && line.error_code.is_none()
            && names.contains(&&*line.event_name)
            && let Some(resource) = line.resources.into_iter().next_back()
        {
            *counts.entry(resource.arn).or_insert(0) += 1;
        }
    };
    let segments = files::segments(&journal, false)?;
    let oldest = segments.first().map_or(0, |name| first_of(name));
    if oldest > 0 {
        archive::records(dir, 0, oldest, |_, bytes| count(bytes))?;
    }
    for name in segments {
        let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, File::open(journal.join(name))?));
        while let Next::Line(bytes) = lines.next()? {
            count(bytes);
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

fn first_of(segment: &str) -> u64 {
    segment_name(segment).map_or(0, |(first, _)| first)
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
    let mut seen = Seen::default();
    let wanted = after.map_or(0, |after| after.saturating_add(1));
    let oldest = segments.first().map_or(0, |name| first_of(name));
    if wanted < oldest {
        archive::records(dir, wanted, oldest, |_, bytes| {
            let Ok(call) = serde_json::from_slice::<Call<'_>>(bytes) else { return };
            seen.note(&call);
            if let Some(used) = call.into_use(after, names) {
                each(used);
            }
        })?;
    }
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
            seen.note(&call);
            if past {
                break;
            }
            if let Some(used) = call.into_use(after, names) {
                each(used);
            }
        }
    }
    Ok(seen)
}

impl Seen {
    fn note(&mut self, call: &Call<'_>) {
        self.last_seq = self.last_seq.max(Some(call.additional_event_data.audit.seq));
        if self.since.is_none() {
            self.since = millis(&call.event_time);
        }
    }
}

impl Call<'_> {
    fn into_use(self, after: Option<u64>, names: &[&str]) -> Option<Use> {
        let seq = self.additional_event_data.audit.seq;
        if after.is_some_and(|after| seq <= after)
            || self.event_type != "AwsApiCall"
            || self.error_code.is_some()
            || !names.contains(&&*self.event_name)
        {
            return None;
        }
        Some(Use {
            seq,
            operation: self.event_name.into_owned(),
            principal: self.user_identity.arn?.into_owned(),
            at: millis(&self.event_time)?,
            event_id: self.event_id.into_owned(),
            request_id: self.request_id?.into_owned(),
            resources: self.resources.into_iter().map(|resource| resource.arn).collect(),
        })
    }
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
