//! OCSF, class API Activity (6003): one JSON object per line. What has no place in the class stands in `unmapped`, so nothing
//! is lost. Source: audit.md §5.3, ocsf-schema 1.8.0 and 1.9.0-dev.

use serde_json::{Map, Value, json};

use super::record::{Record, micros};
use super::severity;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    #[default]
    V1_8,
    /// With the profile `record_integrity`.
    V1_9,
}

impl Version {
    pub fn parse(text: &str) -> Option<Version> {
        match text {
            "1.8" | "1.8.0" => Some(Version::V1_8),
            "1.9" | "1.9.0" | "1.9.0-dev" => Some(Version::V1_9),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Version::V1_8 => "1.8.0",
            Version::V1_9 => "1.9.0-dev",
        }
    }
}

/// `leaf`: the record's hash in the tree, in hex. `line`: the record as it stands in the journal.
pub fn line(record: &Record<'_>, leaf: &str, line: &[u8], trail: &str, version: Version, out: &mut Vec<u8>) {
    let mut event = event(record, leaf, trail, version);
    if version == Version::V1_9
        && let Some(members) = event.as_object_mut()
    {
        members.insert("raw_data".to_owned(), String::from_utf8_lossy(line).into());
        members.insert("attestation_list".to_owned(), json!([attestation(record, leaf, trail)]));
    }
    prune(&mut event);
    serde_json::to_writer(&mut *out, &event).expect("a JSON value serialises into memory");
    out.push(b'\n');
}

fn event(record: &Record<'_>, leaf: &str, trail: &str, version: Version) -> Value {
    let (activity, activity_name) = activity(&record.event_name);
    let activity_name = activity_name.unwrap_or(&record.event_name);
    let failed = record.error_code.is_some();
    let severity = severity(record);
    let mut profiles = vec!["cloud", "datetime"];
    if version == Version::V1_9 {
        profiles.push("record_integrity");
    }
    json!({
        "activity_id": activity,
        "activity_name": activity_name,
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": 6003,
        "class_name": "API Activity",
        "type_uid": 600_300 + activity,
        "type_name": format!("API Activity: {activity_name}"),
        "time": record.written().div_euclid(1000),
        "time_dt": record.additional.audit.time,
        "severity_id": severity,
        "severity": match severity {
            1 => "Informational",
            2 => "Low",
            3 => "Medium",
            4 => "High",
            _ => "Critical",
        },
        "status_id": if failed { 2 } else { 1 },
        "status": if failed { "Failure" } else { "Success" },
        "status_code": record.error_code,
        "status_detail": record.error_message,
        "count": record.additional.count,
        "metadata": {
            "version": version.name(),
            "uid": record.event_id,
            "product": {"name": "hsm-bridge", "vendor_name": "hsm-bridge", "version": env!("CARGO_PKG_VERSION")},
            "log_name": record.event_type,
            "log_provider": trail,
            "profiles": profiles,
            "sequence": record.additional.audit.seq,
            "correlation_uid": record.request_id,
            "tenant_uid": record.recipient_account_id,
            "original_time": record.event_time,
            "event_code": record.event_name,
        },
        "api": {
            "operation": record.event_name,
            "service": {"name": record.event_source},
            "request": {
                "uid": record.request_id.as_deref().unwrap_or(&record.event_id),
                "data": raw(record.request_parameters),
            },
            "response": {
                "error": record.error_code,
                "error_message": record.error_message,
                "data": raw(record.response_elements),
            },
        },
        "actor": actor(record),
        "src_endpoint": match record.source_ip.parse::<std::net::IpAddr>() {
            Ok(_) => json!({"ip": record.source_ip}),
            Err(_) => json!({"svc_name": record.source_ip}),
        },
        "http_request": {"user_agent": record.user_agent},
        "cloud": {
            "provider": "Other",
            "region": record.aws_region,
            "account": {"uid": record.recipient_account_id},
        },
        "resources": record.resources.iter().map(|resource| json!({
            "uid": resource.arn,
            "type": resource.kind,
            "owner": {"account": {"uid": resource.account_id}},
            "role_id": 1,
            "role": "Target",
        })).collect::<Vec<_>>(),
        // The leaf hash is not SHA-256 of the record alone, so it does not claim to be.
        "raw_data_hash": fingerprint(leaf),
        "unmapped": {
            "userIdentity": {
                "sessionContext": record.user_identity.session_context,
                "identityProvider": record.user_identity.identity_provider,
                "osUserId": record.user_identity.os_user_id,
            },
            "readOnly": record.read_only,
            "additionalEventData": raw(Some(record.additional_event_data)),
            "tlsDetails": raw(record.tls_details),
        },
    })
}

fn actor(record: &Record<'_>) -> Value {
    let identity = &record.user_identity;
    let session = identity.session_context.as_ref();
    let member = |path: &str| session.and_then(|session| session.pointer(path)).and_then(Value::as_str);
    let (kind_id, kind) = match identity.kind.as_deref() {
        None => (3, "System"),
        Some("Unknown") => (0, "Unknown"),
        Some(kind) => (99, kind),
    };
    let authorization = record.additional.authorization.as_ref();
    json!({
        "user": {
            "type_id": kind_id,
            "type": kind,
            "name": identity.user_name.as_deref().unwrap_or(record.who()),
            "uid": identity.principal_id,
            "uid_alt": identity.arn,
            "account": {"uid": identity.account_id},
            "credential_uid": identity.access_key_id,
        },
        "session": session.map(|_| json!({
            "created_time": member("/attributes/creationDate").and_then(micros).map(|at| at.div_euclid(1000)),
            "issuer": member("/sessionIssuer/arn"),
            "is_mfa": member("/attributes/mfaAuthenticated").map(|mfa| mfa == "true"),
        })),
        "invoked_by": identity.invoked_by,
        "authorizations": authorization.map(|it| json!([{
            "decision": it.decision,
            "policy": {
                // RULE OCSF: a policy has a name or an id; a decision without one is named by its ground.
                "name": it.statement_id.as_deref().or(it.policy.as_deref()).or(it.source.as_deref()),
                "uid": it.grant_id.as_deref().or(it.policy.as_deref()),
                "version": it.policy_version.map(|version| version.to_string()),
                "desc": it.source,
            },
        }])),
    })
}

fn fingerprint(leaf: &str) -> Value {
    json!({"algorithm_id": 99, "algorithm": "SHA-256 of a zero byte and the record (RFC 6962 leaf hash)", "value": leaf})
}

/// RULE OCSF 1.9 record_integrity: what the producer hashed is named by `serialization`; ours is the record, not this event.
fn attestation(record: &Record<'_>, leaf: &str, trail: &str) -> Value {
    let hash = |value: &str| {
        let mut hash = fingerprint(value);
        if let Some(members) = hash.as_object_mut() {
            members.insert("encoding_id".to_owned(), 1.into());
            members.insert("encoding".to_owned(), "Hex".into());
            members.insert("serialization_id".to_owned(), 99.into());
            members.insert("serialization".to_owned(), "raw_data".into());
        }
        hash
    };
    let audit = &record.additional.audit;
    json!({
        "uid": record.event_id,
        "authority_uid": trail,
        "chain_uid": trail,
        "fingerprint": hash(leaf),
        "prev_event": (audit.seq > 0).then(|| json!({
            "uid": (audit.seq - 1).to_string(),
            "fingerprint": hash(&audit.prev),
        })),
    })
}

/// `activity_id`, and its name unless it is 99 (then the operation's).
fn activity(name: &str) -> (u32, Option<&'static str>) {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if matches!(name, "RevokeGrant" | "RetireGrant") || begins(&["Delete"]) {
        (4, Some("Delete"))
    } else if matches!(name, "ImportKeyMaterial" | "ReplicateKey") || begins(&["Create"]) {
        (1, Some("Create"))
    } else if begins(&["Describe", "Get", "List", "Lookup", "Head"]) {
        (2, Some("Read"))
    } else if begins(&["Put", "Update", "Enable", "Disable", "Tag", "Untag", "Rotate", "Cancel", "Schedule"]) {
        (3, Some("Update"))
    } else {
        (99, None)
    }
}

fn raw(value: Option<&serde_json::value::RawValue>) -> Value {
    value.and_then(|value| serde_json::from_str(value.get()).ok()).unwrap_or(Value::Null)
}

/// OCSF has no nulls and no empty objects. What a record says stays as it is.
fn prune(value: &mut Value) {
    if let Value::Array(items) = value {
        return items.iter_mut().for_each(prune);
    }
    let Value::Object(members) = value else { return };
    for (name, member) in members.iter_mut() {
        if name != "data" && name != "additionalEventData" {
            prune(member);
        }
    }
    let empty = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
    members.retain(|_, member| !empty(member));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activities() {
        for (name, id) in [
            ("CreateKey", 1),
            ("ImportKeyMaterial", 1),
            ("DescribeKey", 2),
            ("GetPublicKey", 2),
            ("PutKeyPolicy", 3),
            ("ScheduleKeyDeletion", 3),
            ("RevokeGrant", 4),
            ("DeleteKey", 4),
            ("Decrypt", 99),
            ("GenerateDataKey", 99),
            ("ReEncrypt", 99),
        ] {
            assert_eq!(activity(name).0, id, "{name}");
        }
    }
}
