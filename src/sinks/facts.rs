//! What other systems' forms want to know of a record.

use std::borrow::Cow;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts<'a> {
    #[serde(borrow, rename = "eventID")]
    pub event_id: Cow<'a, str>,
    #[serde(borrow)]
    pub event_name: Cow<'a, str>,
    #[serde(borrow)]
    pub event_source: Cow<'a, str>,
    #[serde(borrow)]
    pub event_time: Cow<'a, str>,
    #[serde(borrow)]
    pub event_type: Cow<'a, str>,
    #[serde(borrow)]
    pub error_code: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "requestID")]
    pub request_id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "sourceIPAddress")]
    pub source: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub aws_region: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub user_identity: Option<Identity<'a>>,
    #[serde(borrow, default)]
    pub resources: Vec<Resource<'a>>,
    #[serde(borrow)]
    pub additional_event_data: Additional<'a>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Identity<'a> {
    #[serde(borrow)]
    pub arn: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Resource<'a> {
    #[serde(borrow, rename = "ARN")]
    pub arn: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    pub kind: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Additional<'a> {
    #[serde(borrow)]
    pub audit: Place<'a>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Place<'a> {
    #[serde(borrow)]
    pub chain: Cow<'a, str>,
    pub seq: u64,
    #[serde(borrow)]
    pub time: Cow<'a, str>,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    /// Refused or failed.
    Failure,
    /// Not known yet: an intent.
    Intent,
    /// The log itself is in danger.
    Alarm,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failure | Outcome::Alarm => "failure",
            Outcome::Intent => "intent",
        }
    }
}

impl<'a> Facts<'a> {
    pub fn of(line: &'a [u8]) -> Result<Facts<'a>, String> {
        serde_json::from_slice(line).map_err(|e| format!("a line of the journal is no record: {e}"))
    }

    pub fn place(&self) -> &Place<'a> {
        &self.additional_event_data.audit
    }

    pub fn key(&self) -> Option<&str> {
        let is_key = |resource: &&Resource<'_>| resource.kind.as_deref() == Some("AWS::KMS::Key");
        self.resources.iter().find(is_key).map(|key| &*key.arn)
    }

    pub fn principal(&self) -> Option<&str> {
        self.user_identity.as_ref()?.arn.as_deref()
    }

    pub fn outcome(&self) -> Outcome {
        match (&*self.event_type, &*self.event_name, &self.error_code) {
            ("HsmBridgeSystem", "AuditFailure" | "AuditTampering", _) => Outcome::Alarm,
            ("HsmBridgeIntent", _, _) => Outcome::Intent,
            (_, _, Some(_)) => Outcome::Failure,
            (_, _, None) => Outcome::Success,
        }
    }
}
