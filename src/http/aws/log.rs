//! Exports and reports of the log, which are ours alone.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::kms::{self, WireError};
use crate::ops::{AuditRequest, ExportRequest, ReportRequest};

/// `HsmBridge.ExportAudit` and `HsmBridge.AuditReport`: members in CamelCase. Unlike those of KMS, members that nobody knows are
/// refused: an export without the filter that was meant is worse than none.
pub(super) fn export(name: &str, body: &[u8]) -> Result<AuditRequest, WireError> {
    if name == "ExportAudit" {
        let asked: Export = members(body)?;
        return Ok(AuditRequest::Export(ExportRequest {
            from: asked.from.map(milliseconds),
            to: asked.to.map(milliseconds),
            formats: asked.formats,
            key: asked.key,
            principal: asked.principal,
            event: asked.event,
            errors_only: asked.errors_only,
            ocsf_version: asked.ocsf_version,
            out: None,
        }));
    }
    let asked: Report = members(body)?;
    Ok(AuditRequest::Report(ReportRequest {
        name: asked.name,
        from: asked.from.map(milliseconds),
        to: asked.to.map(milliseconds),
        as_of: asked.as_of.map(milliseconds),
        key: asked.key,
        principal: asked.principal,
        formats: asked.formats,
        out: None,
    }))
}

fn members<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            kms::validation(format!("the request has not the form of the service model: {error}"))
        }
        _ => kms::serialization("the body is not JSON"),
    })
}

/// Times come as AWS JSON 1.1 writes them: seconds since the epoch, with or without a fraction.
#[allow(clippy::cast_possible_truncation)]
fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0) as i64
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
#[derive(Default)]
struct Export {
    from: Option<f64>,
    to: Option<f64>,
    formats: Vec<String>,
    key: Option<String>,
    principal: Option<String>,
    event: Option<String>,
    errors_only: bool,
    ocsf_version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Report {
    name: String,
    from: Option<f64>,
    to: Option<f64>,
    as_of: Option<f64>,
    key: Option<String>,
    principal: Option<String>,
    #[serde(default)]
    formats: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_and_reports() {
        let asked = export("ExportAudit", br#"{"From":1767225600.5,"Formats":["csv"],"ErrorsOnly":true}"#).unwrap();
        let AuditRequest::Export(asked) = asked else { panic!("{asked:?}") };
        assert_eq!((asked.from, asked.to, asked.errors_only), (Some(1_767_225_600_500), None, true));
        assert!(matches!(export("ExportAudit", b"").unwrap(), AuditRequest::Export(_)));
        assert!(matches!(export("AuditReport", br#"{"Name":"R1"}"#).unwrap(), AuditRequest::Report(_)));
        for (name, body, code) in [
            ("ExportAudit", r#"{"Key":"a","Out":"/etc"}"#, "ValidationException"),
            ("ExportAudit", r#"{"from":1}"#, "ValidationException"),
            ("ExportAudit", "{", "SerializationException"),
            ("AuditReport", "{}", "ValidationException"),
        ] {
            assert_eq!(export(name, body.as_bytes()).unwrap_err().code, code, "{name} {body}");
        }
    }
}
