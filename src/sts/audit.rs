//! What CloudTrail says of STS calls. Never a secret, a session token or an identity provider's token. Source: audit.md §1.

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use crate::ops::{Credentials, SessionPolicyInput, StsRequest, StsResponse};

/// `requestParameters`
pub fn audit_parameters(request: &StsRequest) -> Option<Box<RawValue>> {
    let mut said = Map::new();
    match request {
        StsRequest::GetCallerIdentity => return None,
        StsRequest::AssumeRole(request) => {
            put(&mut said, "roleArn", &request.role_arn);
            put(&mut said, "roleSessionName", &request.session_name);
            policies(&mut said, &request.policies);
            if let Some(seconds) = request.duration_seconds {
                put(&mut said, "durationSeconds", seconds);
            }
            if let Some(id) = &request.external_id {
                put(&mut said, "externalId", id);
            }
            tags(&mut said, &request.tags);
            if !request.transitive_tag_keys.is_empty() {
                put(&mut said, "transitiveTagKeys", &request.transitive_tag_keys);
            }
            if let Some(identity) = &request.source_identity {
                put(&mut said, "sourceIdentity", identity);
            }
        }
        StsRequest::AssumeRoleWithWebIdentity(request) => {
            put(&mut said, "roleArn", &request.role_arn);
            put(&mut said, "roleSessionName", &request.session_name);
            policies(&mut said, &request.policies);
            if let Some(seconds) = request.duration_seconds {
                put(&mut said, "durationSeconds", seconds);
            }
        }
        StsRequest::GetSessionToken { duration_seconds } => {
            put(&mut said, "durationSeconds", (*duration_seconds)?);
        }
        StsRequest::GetFederationToken(request) => {
            put(&mut said, "name", &request.name);
            policies(&mut said, &request.policies);
            if let Some(seconds) = request.duration_seconds {
                put(&mut said, "durationSeconds", seconds);
            }
            tags(&mut said, &request.tags);
        }
        StsRequest::GetAccessKeyInfo { access_key } => put(&mut said, "accessKeyId", access_key),
    }
    to_raw_value(&said).ok()
}

/// `responseElements`. `date`: milliseconds since the epoch as records show dates.
pub fn audit_response(response: &StsResponse, date: impl Fn(i64) -> String) -> Option<Box<RawValue>> {
    let credentials = |credentials: &Credentials| {
        let expiration = date(credentials.expiration.saturating_mul(1000));
        json!({ "accessKeyId": credentials.access_key, "expiration": expiration })
    };
    let mut told = Map::new();
    match response {
        StsResponse::CallerIdentity | StsResponse::AccessKeyInfo { .. } => return None,
        StsResponse::Role(role) => {
            if let Some((subject, audience, provider)) = &role.web_identity {
                put(&mut told, "subjectFromWebIdentityToken", subject);
                put(&mut told, "audience", audience);
                put(&mut told, "provider", provider);
            }
            put(&mut told, "credentials", credentials(&role.credentials));
            put(&mut told, "assumedRoleUser", json!({ "assumedRoleId": role.id, "arn": role.arn }));
            put(&mut told, "packedPolicySize", role.packed_policy_size);
            if let Some(identity) = &role.source_identity {
                put(&mut told, "sourceIdentity", identity);
            }
        }
        StsResponse::Session(session) => put(&mut told, "credentials", credentials(session)),
        StsResponse::Federated { credentials: made, arn, id, packed_policy_size } => {
            put(&mut told, "credentials", credentials(made));
            put(&mut told, "federatedUser", json!({ "federatedUserId": id, "arn": arn }));
            put(&mut told, "packedPolicySize", *packed_policy_size);
        }
    }
    to_raw_value(&told).ok()
}

fn put(to: &mut Map<String, Value>, name: &str, value: impl serde::Serialize) {
    to.insert(name.to_owned(), serde_json::to_value(value).unwrap_or_default());
}

fn policies(said: &mut Map<String, Value>, policies: &SessionPolicyInput) {
    if let Some(policy) = &policies.policy {
        put(said, "policy", policy);
    }
    if !policies.policy_arns.is_empty() {
        let arns: Vec<Value> = policies.policy_arns.iter().map(|arn| json!({ "arn": arn })).collect();
        put(said, "policyArns", arns);
    }
}

fn tags(said: &mut Map<String, Value>, tags: &[(String, String)]) {
    if !tags.is_empty() {
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
        put(said, "tags", tags);
    }
}
