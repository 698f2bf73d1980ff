//! A record of the log as reports read it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record<'a> {
    #[serde(borrow)]
    pub event_name: Cow<'a, str>,
    #[serde(borrow)]
    pub event_type: Cow<'a, str>,
    #[serde(borrow, rename = "eventID")]
    pub event_id: Cow<'a, str>,
    #[serde(borrow, default, rename = "sourceIPAddress")]
    pub source_ip: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub user_agent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub error_code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub error_message: Option<Cow<'a, str>>,
    #[serde(default)]
    pub read_only: Option<bool>,
    #[serde(borrow, default)]
    pub user_identity: Identity<'a>,
    #[serde(borrow, default)]
    pub request_parameters: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub resources: Vec<Resource<'a>>,
    #[serde(borrow)]
    pub additional_event_data: Additional<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity<'a> {
    #[serde(borrow, default, rename = "type")]
    pub kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub arn: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub user_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub access_key_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub invoked_by: Option<Cow<'a, str>>,
    #[serde(default)]
    pub os_user_id: Option<u32>,
    #[serde(borrow, default)]
    pub session_context: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub struct Resource<'a> {
    #[serde(borrow, rename = "ARN")]
    pub arn: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Additional<'a> {
    #[serde(borrow)]
    pub audit: Place<'a>,
    #[serde(borrow, default)]
    pub authorization: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub state_change: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub details: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub hsm: Option<&'a RawValue>,
    #[serde(default)]
    pub count: Option<u64>,
}

#[derive(Deserialize)]
pub struct Place<'a> {
    pub seq: u64,
    #[serde(borrow)]
    pub time: Cow<'a, str>,
}

impl Record<'_> {
    pub fn seq(&self) -> u64 {
        self.additional_event_data.audit.seq
    }

    /// When it was written, milliseconds since the epoch.
    pub fn at(&self) -> i64 {
        millis(&self.additional_event_data.audit.time).unwrap_or(0)
    }

    pub fn is_intent(&self) -> bool {
        self.event_type == "HsmBridgeIntent"
    }

    pub fn is_system(&self, name: &str) -> bool {
        self.event_type == "HsmBridgeSystem" && self.event_name == name
    }

    pub fn succeeded(&self) -> bool {
        self.error_code.is_none() && !self.is_intent()
    }

    /// Who asked: the ARN, a role session's role, or what stands for it.
    pub fn principal(&self) -> String {
        let identity = &self.user_identity;
        if let Some(uid) = identity.os_user_id {
            return format!("operator uid {uid}");
        }
        match (&identity.arn, &identity.user_name, &identity.access_key_id, &identity.invoked_by) {
            (Some(arn), ..) => arn.to_string(),
            (_, Some(name), ..) => name.to_string(),
            (_, _, Some(id), _) => format!("access key {id}"),
            (.., Some(by)) => by.to_string(),
            _ => identity.kind.as_deref().unwrap_or("unknown").to_owned(),
        }
    }

    /// ARNs of the keys among its resources.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.resources.iter().map(|resource| resource.arn.as_ref()).filter(|arn| arn.contains(":key/"))
    }

    /// Whether the caller is, or has, what was asked for: ARN, user name, access key.
    pub fn is_by(&self, wanted: &str) -> bool {
        let identity = &self.user_identity;
        self.principal() == wanted
            || identity.user_name.as_deref() == Some(wanted)
            || identity.access_key_id.as_deref() == Some(wanted)
            || role_of(&self.principal()).is_some_and(|role| role == wanted || role.ends_with(&format!("/{wanted}")))
    }

    /// Whether one of its resources is the key: by id or ARN.
    pub fn is_about(&self, wanted: &str) -> bool {
        self.resources.iter().any(|resource| resource.arn == wanted || resource.arn.rsplit('/').next() == Some(wanted))
    }

    pub fn details(&self) -> Value {
        parsed(self.additional_event_data.details)
    }
}

pub fn parsed(raw: Option<&RawValue>) -> Value {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or(Value::Null)
}

/// The role's ARN, as far as it is known, of a session's.
pub fn role_of(arn: &str) -> Option<String> {
    let (before, rest) = arn.split_once(":assumed-role/")?;
    let account = before.rsplit(':').next()?;
    let role = rest.split('/').next()?;
    Some(format!("arn:aws:iam::{account}:role/{role}"))
}

pub fn millis(time: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

/// RFC 3339, UTC.
pub fn date(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| ms.to_string())
}
