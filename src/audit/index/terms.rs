//! What of a record can be looked for: CloudTrail's lookup attributes.

use std::borrow::Cow;

use aws_lc_rs::digest;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Query;
use crate::audit::verify::line::INTENT;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    EventId,
    EventName,
    ReadOnly,
    Username,
    ResourceType,
    /// An ARN, or its last part: `alias/app`, a key's id.
    ResourceName,
    EventSource,
    AccessKeyId,
}

impl Attribute {
    /// As CloudTrail spells it.
    pub fn named(name: &str) -> Option<Attribute> {
        Some(match name {
            "EventId" => Attribute::EventId,
            "EventName" => Attribute::EventName,
            "ReadOnly" => Attribute::ReadOnly,
            "Username" => Attribute::Username,
            "ResourceType" => Attribute::ResourceType,
            "ResourceName" => Attribute::ResourceName,
            "EventSource" => Attribute::EventSource,
            "AccessKeyId" => Attribute::AccessKeyId,
            _ => return None,
        })
    }
}

/// The members of a record that its readers look for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen<'a> {
    #[serde(borrow, rename = "eventID")]
    pub event_id: Cow<'a, str>,
    #[serde(borrow)]
    pub event_name: Cow<'a, str>,
    #[serde(borrow)]
    pub event_source: Cow<'a, str>,
    #[serde(borrow)]
    pub event_type: Cow<'a, str>,
    #[serde(borrow)]
    pub event_time: Cow<'a, str>,
    #[serde(default)]
    pub read_only: bool,
    pub user_identity: Option<Identity>,
    pub resources: Option<Vec<Resource>>,
    #[serde(borrow)]
    pub(super) additional_event_data: Additional<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub user_name: Option<String>,
    pub principal_id: Option<String>,
    pub access_key_id: Option<String>,
    pub invoked_by: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Resource {
    #[serde(rename = "ARN")]
    pub arn: String,
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Additional<'a> {
    pub audit: Place,
    #[serde(borrow)]
    pub details: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Place {
    pub seq: u64,
}

impl<'a> Seen<'a> {
    pub fn of(line: &'a [u8]) -> Option<Seen<'a>> {
        serde_json::from_slice(line).ok()
    }

    pub fn seq(&self) -> u64 {
        self.additional_event_data.audit.seq
    }

    /// Not told: what follows it is.
    pub fn is_intent(&self) -> bool {
        self.event_type == INTENT
    }

    /// Seconds since the epoch.
    pub fn seconds(&self) -> i64 {
        OffsetDateTime::parse(&self.event_time, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp)
    }

    /// As LookupEvents shows who it was: the user's name, the session's, `root`, or the service.
    pub fn username(&self) -> Option<&str> {
        let identity = self.user_identity.as_ref()?;
        let session = || identity.principal_id.as_deref()?.split_once(':').map(|(_, name)| name);
        let root = (identity.kind.as_deref() == Some("Root")).then_some("root");
        identity.user_name.as_deref().or(root).or_else(session).or(identity.invoked_by.as_deref())
    }

    pub fn access_key(&self) -> Option<&str> {
        self.user_identity.as_ref()?.access_key_id.as_deref()
    }

    pub(super) fn each(&self, mut each: impl FnMut(Attribute, &str)) {
        each(Attribute::EventId, &self.event_id);
        each(Attribute::EventName, &self.event_name);
        each(Attribute::EventSource, &self.event_source);
        each(Attribute::ReadOnly, if self.read_only { "true" } else { "false" });
        self.username().into_iter().for_each(|name| each(Attribute::Username, name));
        self.access_key().into_iter().for_each(|id| each(Attribute::AccessKeyId, id));
        for resource in self.resources.iter().flatten() {
            resource.kind.iter().for_each(|kind| each(Attribute::ResourceType, kind));
            each(Attribute::ResourceName, &resource.arn);
            short(&resource.arn).into_iter().for_each(|name| each(Attribute::ResourceName, name));
        }
    }
}

/// What people call a resource: `alias/app`, the id of a key, the rest of other ARNs.
fn short(arn: &str) -> Option<&str> {
    let resource = arn.splitn(6, ':').nth(5)?;
    Some(resource.strip_prefix("key/").unwrap_or(resource))
}

/// 47 bits of a digest: six bytes in SQLite. Two values that share one are told apart by the record itself.
pub(super) fn term(attribute: Attribute, value: &str) -> i64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[attribute as u8, 0]);
    context.update(value.as_bytes());
    let hash = context.finish();
    hash.as_ref().iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte)).cast_signed()
        & 0x7fff_ffff_ffff
}

/// Whether the record is what was asked for, by the record alone.
pub(super) fn matches(line: &[u8], query: &Query) -> bool {
    let Some(seen) = Seen::of(line) else { return false };
    let at = seen.seconds();
    let in_time = query.start.is_none_or(|start| at >= start) && query.end.is_none_or(|end| at <= end);
    let Some((attribute, value)) = query.attribute.as_ref().filter(|_| in_time) else { return in_time };
    let mut found = false;
    seen.each(|has, text| found |= has == *attribute && text == value);
    found
}
