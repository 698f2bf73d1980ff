//! Points in time as milliseconds since the epoch, and as texts.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Of `2026-03-04T09:20:00.103417Z`.
pub(super) fn millis(text: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

/// To the second.
pub(super) fn text(millis: i64) -> String {
    let seconds = millis.div_euclid(1000);
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.format(&Rfc3339).ok());
    time.unwrap_or_else(|| format!("{seconds} s"))
}

/// `2 h 5 min`.
pub(super) fn span(millis: i64) -> String {
    let seconds = millis.max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}
