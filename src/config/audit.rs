//! `[audit]` and `[[token_log]]`: where the log goes, how often it is signed and sealed, how long it stays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Document, Section};
use super::{DAY, Problem, milliseconds, path, seconds};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    pub dir: PathBuf,
    pub trail: String,
    pub segment_bytes: u64,
    pub segment_age: Duration,
    pub refuse_below_free_percent: u8,
    pub deadline: Duration,
    /// Warned of below this share of free space.
    pub warn_below_free_percent: u8,
    /// Bytes kept free for the last records of a full disk.
    pub reserve_bytes: u64,
    /// How often a tree head is signed, if there are new records.
    pub checkpoint_interval: Duration,
    /// How often records are sealed into a CloudTrail log file, if there are any.
    pub seal_interval: Duration,
    /// How often a digest file is signed, records or not.
    pub digest_interval: Duration,
    /// What S3 clients call the bucket of the sealed files; DNS-safe.
    pub bucket: String,
    /// Before `AWSLogs/`.
    pub key_prefix: Option<String>,
    /// Sealed files stay at least this long.
    pub retention: Duration,
    /// Above this size the oldest sealed files go, but none younger than `retention_floor`; `None`: no limit.
    pub retention_bytes: Option<u64>,
    pub retention_floor: Duration,
    /// Sealed and verified journal segments stay at least this long.
    pub journal_retention: Duration,
    /// Nothing is deleted.
    pub legal_hold: bool,
    /// What records say of encryption contexts.
    pub encryption_context: EncryptionContextMode,
    /// The newest tree head is kept in the token.
    pub anchor_in_token: bool,
    /// RFC 3161 time-stamping authority, asked for a stamp of each day's last tree head.
    pub timestamp_url: Option<String>,
    /// How often the token's objects are compared with the last time; `None`: never.
    pub reconcile_interval: Option<Duration>,
}

/// A log that a token keeps of itself, as an agent copies it to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenLog {
    /// The stream's name in records; unique.
    pub name: String,
    pub file: PathBuf,
    /// How far the two clocks and the delivery may be apart.
    pub window: Duration,
}

/// What records say of encryption contexts. Source: audit.md §7.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncryptionContextMode {
    /// Names and values, as AWS does.
    Plain,
    /// Names; of values an HMAC under a key of this deployment.
    Hmac,
    KeysOnly,
}

pub(super) fn audit(section: &Section<'_>, base_dir: &Path, state_dir: &Path) -> Result<Audit, Problem> {
    let trail = section.text("trail")?.unwrap_or("hsm-bridge");
    // The name becomes part of file names.
    if trail.len() > 128
        || !trail.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        || trail.starts_with('.')
    {
        return Err(section.problem("trail", "is not a name of at most 128 letters, digits, `.`, `_` and `-`"));
    }
    let percent = section.integer("refuse_below_free_percent", 0..=50, 5)?;
    Ok(Audit {
        dir: path(section, "dir", base_dir)?.unwrap_or_else(|| state_dir.join("audit")),
        trail: trail.to_owned(),
        segment_bytes: section.integer("segment_bytes", 65_536..=1 << 40, 64 << 20)?,
        segment_age: seconds(section, "segment_seconds", 31 * DAY, 3_600)?,
        refuse_below_free_percent: u8::try_from(percent)
            .map_err(|_| section.problem("refuse_below_free_percent", "is too large"))?,
        deadline: milliseconds(section, "deadline_ms", 5_000)?,
        warn_below_free_percent: u8::try_from(section.integer("warn_below_free_percent", 0..=90, 20)?).unwrap_or(20),
        reserve_bytes: section.integer("reserve_bytes", 65_536..=1 << 30, 16 << 20)?,
        checkpoint_interval: seconds(section, "checkpoint_seconds", DAY, 60)?,
        seal_interval: seconds(section, "seal_seconds", DAY, 300)?,
        digest_interval: seconds(section, "digest_seconds", DAY, 3_600)?,
        bucket: bucket(section)?,
        key_prefix: key_prefix(section)?,
        retention: Duration::from_secs(section.integer("retention_days", 1..=36_500, 400)? * DAY),
        retention_bytes: match section.integer("retention_bytes", 0..=1 << 50, 0)? {
            0 => None,
            bytes => Some(bytes),
        },
        retention_floor: Duration::from_secs(section.integer("retention_floor_days", 1..=36_500, 90)? * DAY),
        journal_retention: Duration::from_secs(section.integer("journal_retention_days", 1..=36_500, 7)? * DAY),
        legal_hold: section.flag("legal_hold", false)?,
        encryption_context: match section.text("encryption_context")?.unwrap_or("plain") {
            "plain" => EncryptionContextMode::Plain,
            "hmac" => EncryptionContextMode::Hmac,
            "keys-only" => EncryptionContextMode::KeysOnly,
            _ => return Err(section.problem("encryption_context", "is not `plain`, `hmac` or `keys-only`")),
        },
        anchor_in_token: section.flag("anchor_in_token", true)?,
        timestamp_url: section.text("timestamp_url")?.map(str::to_owned),
        reconcile_interval: match section.integer("reconcile_seconds", 0..=31 * DAY, 0)? {
            0 => None,
            seconds => Some(Duration::from_secs(seconds)),
        },
    })
}

/// RULE S3 bucket names: 3 to 63 of `a-z`, `0-9`, `-`; no dots here, so that certificates of one host fit.
fn bucket(section: &Section<'_>) -> Result<String, Problem> {
    let name = section.text("bucket")?.unwrap_or("hsm-audit");
    let inner = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !(3..=63).contains(&name.len()) || !inner || name.starts_with('-') || name.ends_with('-') {
        return Err(section.problem("bucket", "is not a name of 3 to 63 lower-case letters, digits and `-`"));
    }
    Ok(name.to_owned())
}

fn key_prefix(section: &Section<'_>) -> Result<Option<String>, Problem> {
    let Some(prefix) = section.text("key_prefix")? else { return Ok(None) };
    let good = !prefix.is_empty()
        && prefix.len() <= 200
        && prefix.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    match good {
        true => Ok(Some(prefix.to_owned())),
        false => Err(section.problem("key_prefix", "is not a path of letters, digits, `-`, `_` and `.`")),
    }
}

pub(super) fn token_logs(document: &Document, base_dir: &Path) -> Result<Vec<TokenLog>, Problem> {
    let mut logs: Vec<TokenLog> = Vec::new();
    for section in document.sections("token_log") {
        let name = section.required_text("name")?;
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        {
            return Err(section.problem("name", "is not a name of at most 64 letters, digits, `_` and `-`"));
        }
        if logs.iter().any(|other| other.name == name) {
            return Err(section.problem("name", format_args!("is `{name}`: another log has the same")));
        }
        if section.required_text("format")? != "cloudhsm" {
            return Err(section.problem("format", "is not `cloudhsm`, the one format that is known"));
        }
        logs.push(TokenLog {
            name: name.to_owned(),
            file: base_dir.join(section.required_text("file")?),
            window: seconds(&section, "window_seconds", DAY, 300)?,
        });
    }
    Ok(logs)
}
