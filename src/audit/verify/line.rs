//! One line of the journal: its syntax, its hash, and the members that the chain needs. RULE: bytes are hashed, never their
//! meaning, so there is no canonical form to argue about.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::digest;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::tree::{Frontier, Hash};

/// `SHA-256(0x00 ‖ line)`: RFC 6962's leaf hash, and in lower-case hex the chain's link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    hash: Hash,
    text: [u8; 64],
}

impl Leaf {
    pub fn of(line: &[u8]) -> Leaf {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&[0]);
        context.update(line);
        let mut hash = Hash::default();
        hash.copy_from_slice(context.finish().as_ref());
        Leaf { hash, text: hex(&hash) }
    }

    /// What the first record of a trail's chain has as `prev`.
    pub fn genesis(trail_arn: &str) -> Leaf {
        Leaf::of(format!("hsm-bridge/audit/v1 trail={trail_arn}").as_bytes())
    }

    /// Raw, as the tree takes it.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn hex(hash: &Hash) -> [u8; 64] {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    let mut text = [b'0'; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(hash) {
        if let [high, low] = pair {
            (*high, *low) = (digit(byte >> 4), digit(byte & 15));
        }
    }
    text
}

/// The members of a record that the chain, the pairing of intents and the reports read. Everything else is only hashed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line<'a> {
    #[serde(borrow)]
    pub event_name: Cow<'a, str>,
    #[serde(borrow)]
    pub event_type: Cow<'a, str>,
    #[serde(borrow, rename = "eventID")]
    pub event_id: Cow<'a, str>,
    #[serde(rename = "requestID")]
    pub request_id: Option<String>,
    #[serde(borrow)]
    pub error_code: Option<&'a RawValue>,
    #[serde(default)]
    pub resources: Vec<Resource>,
    #[serde(borrow)]
    pub additional_event_data: Additional<'a>,
}

#[derive(Deserialize)]
pub struct Resource {
    #[serde(rename = "ARN")]
    pub arn: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Additional<'a> {
    #[serde(borrow)]
    pub audit: Place<'a>,
    pub store_version: Option<u64>,
    #[serde(borrow)]
    pub details: Option<&'a RawValue>,
}

/// The record's place in the chain.
#[derive(Deserialize)]
pub struct Place<'a> {
    pub v: u64,
    #[serde(borrow)]
    pub chain: Cow<'a, str>,
    #[serde(borrow)]
    pub boot: Cow<'a, str>,
    pub seq: u64,
    #[serde(borrow)]
    pub time: Cow<'a, str>,
    #[serde(borrow)]
    pub prev: Cow<'a, str>,
}

/// `additionalEventData.details` of a `SegmentStart`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentStart {
    pub trail: String,
    pub prev_segment: Option<String>,
    pub prev_seq: Option<u64>,
    pub prev_hash: String,
    pub reason: String,
    /// The segment before has no `SegmentEnd`, and the service knew when it began this one.
    pub unclean: bool,
    pub torn_bytes: u64,
    pub torn_sha256: Option<String>,
    pub torn_file: Option<String>,
    /// Intents without an outcome at this moment, by seq.
    pub open_intents: Vec<u64>,
    pub last_store_version: Option<u64>,
    /// Records before this one, and the tree over them. Absent in logs of 0.1. Only a writer that continues relies on them.
    pub tree_size: Option<u64>,
    pub tree_peaks: Option<Vec<String>>,
}

impl SegmentStart {
    /// The tree before this segment, as the writer noted it; none where it did not, or where the two do not fit.
    pub fn tree(&self) -> Option<Frontier> {
        let peaks = self.tree_peaks.as_ref()?.iter().map(|peak| unhex(peak)).collect::<Option<Vec<Hash>>>()?;
        Frontier::from_parts(self.tree_size?, peaks)
    }
}

/// 64 lower-case hex digits.
pub fn unhex(text: &str) -> Option<Hash> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<Vec<u8>>>()?;
    bytes.try_into().ok()
}

pub const SEGMENT_START: &str = "SegmentStart";
pub const SEGMENT_END: &str = "SegmentEnd";
pub const CHECKPOINT: &str = "Checkpoint";
pub const SYSTEM: &str = "HsmBridgeSystem";
pub const INTENT: &str = "HsmBridgeIntent";

impl<'a> Line<'a> {
    /// Checks the syntax of a line without its newline.
    pub fn parse(line: &'a [u8]) -> Result<Line<'a>, String> {
        if line.is_empty() {
            return Err("the line is empty".into());
        }
        if line.last() == Some(&b'\r') {
            return Err("the line ends in a carriage return".into());
        }
        if let Some(byte) = line.iter().find(|byte| **byte < 0x20) {
            return Err(format!("the line holds the control character 0x{byte:02x}"));
        }
        let text = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8".to_string())?;
        if !text.starts_with('{') || !text.ends_with('}') {
            return Err("the line is not one JSON object".into());
        }
        let parsed: Line<'a> =
            serde_json::from_str(text).map_err(|error| format!("the line is not a record: {error}"))?;
        if parsed.place().v != 1 {
            return Err(format!("the record has the unknown format version {}", parsed.place().v));
        }
        parsed.check_end_digest(text)?;
        Ok(parsed)
    }

    pub fn place(&self) -> &Place<'a> {
        &self.additional_event_data.audit
    }

    pub fn is_system(&self, name: &str) -> bool {
        self.event_type == SYSTEM && self.event_name == name
    }

    pub fn is_intent(&self) -> bool {
        self.event_type == INTENT
    }

    /// A record that a checkpoint alone would not be made for.
    pub fn is_bookkeeping(&self) -> bool {
        self.event_type == SYSTEM && is_bookkeeping(&self.event_name)
    }

    pub fn segment_start(&self) -> Result<SegmentStart, String> {
        let details = self.additional_event_data.details.map_or("null", RawValue::get);
        serde_json::from_str(details).map_err(|error| format!("the facts of `SegmentStart` do not parse: {error}"))
    }

    /// No record follows a `SegmentEnd` in its file, and none at all after the last one, so nothing would hash it: its
    /// `eventID` is a digest of the line itself (UUID version 8). That finds damage, not a forger: anybody can compute it.
    fn check_end_digest(&self, text: &str) -> Result<(), String> {
        let versioned = self.event_id.as_bytes().get(14) == Some(&b'8');
        if !versioned && self.event_name != SEGMENT_END {
            return Ok(());
        }
        match end_id(text) {
            Some((_, id)) if id == self.event_id => Ok(()),
            _ => Err("the record's own digest (its eventID) does not match".into()),
        }
    }
}

/// Whether a system record of this name is only about the files: it needs no checkpoint of its own.
pub fn is_bookkeeping(name: &str) -> bool {
    matches!(name, SEGMENT_START | SEGMENT_END | CHECKPOINT)
}

/// Where the `eventID` of a `SegmentEnd` stands and what it must be: a UUID of version 8 from the SHA-256 of the line with
/// 36 zeros in its place.
pub fn end_id(text: &str) -> Option<(usize, String)> {
    const MEMBER: &str = "\"eventID\":\"";
    let start = text.rfind(MEMBER)? + MEMBER.len();
    let (before, after) = (text.get(..start)?, text.get(start + 36..)?);
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [before, "000000000000000000000000000000000000", after] {
        context.update(part.as_bytes());
    }
    let mut bytes: [u8; 16] = context.finish().as_ref().get(..16)?.try_into().ok()?;
    // RULE RFC 9562 §5.8: version in the high bits of octet 6, variant in those of octet 8.
    if let Some(byte) = bytes.get_mut(6) {
        *byte = *byte & 0x0f | 0x80;
    }
    if let Some(byte) = bytes.get_mut(8) {
        *byte = *byte & 0x3f | 0x80;
    }
    let mut id = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        id.push_str(&format!("{byte:02x}"));
    }
    Some((start, id))
}

/// The place that the next record must have.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub seq: u64,
    pub prev: Leaf,
}

impl Link {
    pub fn check(&self, line: &Line<'_>) -> Result<(), String> {
        self.check_place(line.place().seq, &line.place().prev)
    }

    pub fn check_place(&self, seq: u64, prev: &str) -> Result<(), String> {
        if seq > self.seq {
            let last = seq - 1;
            return Err(if last == self.seq {
                format!("record {last} is missing here")
            } else {
                format!("records {} to {last} are missing here", self.seq)
            });
        }
        if seq < self.seq {
            return Err(format!("record {seq} stands where record {} should: repeated, or out of order", self.seq));
        }
        if prev != self.prev.as_str() {
            return Err("`prev` is not the hash of the record before: one of the two was changed".into());
        }
        Ok(())
    }

    pub fn after(seq: u64, line: &[u8]) -> Link {
        Link { seq: seq.saturating_add(1), prev: Leaf::of(line) }
    }
}

/// `(first seq, boot)` of a segment's file name.
pub fn segment_name(name: &str) -> Option<(u64, &str)> {
    let (seq, boot) = name.strip_suffix(".jsonl")?.split_once('-')?;
    let digits = seq.len() == 20 && seq.bytes().all(|byte| byte.is_ascii_digit());
    let hex = boot.len() >= 4 && boot.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digits && hex).then(|| seq.parse().ok().map(|seq| (seq, boot)))?
}
