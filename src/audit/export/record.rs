//! A record as the formats see it: CloudTrail's members, of a journal's line as it stands.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Members that a format needs one by one; what it passes on whole stays text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record<'a> {
    pub user_identity: Identity,
    pub event_time: String,
    pub event_source: String,
    pub event_name: String,
    pub aws_region: String,
    #[serde(rename = "sourceIPAddress")]
    pub source_ip: String,
    pub user_agent: Option<String>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    #[serde(borrow)]
    pub request_parameters: Option<&'a RawValue>,
    #[serde(borrow)]
    pub response_elements: Option<&'a RawValue>,
    #[serde(borrow)]
    pub additional_event_data: &'a RawValue,
    #[serde(rename = "requestID")]
    pub request_id: Option<String>,
    #[serde(rename = "eventID")]
    pub event_id: String,
    pub read_only: bool,
    #[serde(default)]
    pub resources: Vec<Resource>,
    pub event_type: String,
    pub recipient_account_id: String,
    #[serde(borrow)]
    pub tls_details: Option<&'a RawValue>,
    /// Of `additional_event_data`.
    #[serde(skip)]
    pub additional: Additional,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub principal_id: Option<String>,
    pub arn: Option<String>,
    pub account_id: Option<String>,
    pub access_key_id: Option<String>,
    pub user_name: Option<String>,
    pub session_context: Option<Value>,
    pub identity_provider: Option<String>,
    pub invoked_by: Option<String>,
    pub os_user_id: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    pub account_id: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(rename = "ARN")]
    pub arn: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Additional {
    pub audit: Place,
    pub hsm: Option<Hsm>,
    pub authorization: Option<Authorization>,
    pub count: Option<u64>,
    pub window_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
pub struct Place {
    pub chain: String,
    pub boot: String,
    pub seq: u64,
    pub time: String,
    pub prev: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hsm {
    pub token_serial: Option<String>,
    pub mechanism: Option<String>,
    pub rv: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    pub decision: Option<String>,
    pub source: Option<String>,
    pub policy: Option<String>,
    pub policy_kind: Option<String>,
    pub statement_id: Option<String>,
    pub policy_version: Option<u64>,
    pub grant_id: Option<String>,
}

impl<'a> Record<'a> {
    /// Of a line without its newline.
    pub fn parse(line: &'a [u8]) -> Result<Record<'a>, serde_json::Error> {
        let mut record: Record<'a> = serde_json::from_slice(line)?;
        record.additional = serde_json::from_str(record.additional_event_data.get())?;
        Ok(record)
    }

    /// `audit.time` in microseconds since the epoch; 0 where it cannot be read.
    pub fn written(&self) -> i64 {
        micros(&self.additional.audit.time).unwrap_or(0)
    }

    pub fn is_intent(&self) -> bool {
        self.event_type == crate::audit::verify::line::INTENT
    }

    pub fn denied(&self) -> bool {
        self.additional.authorization.as_ref().is_some_and(|it| it.decision.as_deref() == Some("Deny"))
    }

    /// Who asked, as shown to people.
    pub fn who(&self) -> &str {
        let it = &self.user_identity;
        let names = [&it.arn, &it.user_name, &it.principal_id, &it.access_key_id, &it.invoked_by, &it.kind];
        names.into_iter().flatten().next().map_or("", String::as_str)
    }
}

/// Microseconds since the epoch of a time in RFC 3339.
pub fn micros(text: &str) -> Option<i64> {
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1000).ok()
}
