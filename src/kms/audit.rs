//! `requestParameters` and `responseElements` of a record: allow-lists, one struct of members for all operations, each
//! operation naming those it shows (audit.md §1.3). Never plaintext, ciphertext, message, signature or MAC: the structs
//! here have no place for them.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use time::OffsetDateTime;

use crate::ids::spec::KeyState;
use crate::ids::{AliasName, ClusterId};
use crate::ops::{
    CreateCustomKeyStore, CreateKey, DataKeySize, KeyIdText, KeyMetadata, Page, ReEncrypt, Request, Response,
    RotateAlias, RotateGrants, Tag, UpdateCustomKeyStore,
};

/// `requestParameters` of the audit record: allow-list per operation (audit.md §1.3), `None` is `null`.
pub fn audit_parameters(request: &Request) -> Option<Box<RawValue>> {
    let shown = match request {
        Request::CreateKey(request) => return Some(raw(&CreateKeyParameters::of(request))),
        Request::ReEncrypt(request) => return Some(raw(&ReEncryptParameters::of(request))),
        Request::DescribeKey { key, grant_tokens: _ }
        | Request::EnableKey { key }
        | Request::DisableKey { key }
        | Request::CancelKeyDeletion { key }
        | Request::GetPublicKey { key, grant_tokens: _ }
        | Request::GetKeyRotationStatus { key } => Parameters { key_id: Some(key), ..Parameters::default() },
        Request::GetKeyPolicy { key } => {
            Parameters { key_id: Some(key), policy_name: Some("default"), ..Parameters::default() }
        }
        // A list without arguments has no parameters.
        Request::ListKeys { page } | Request::ListAliases { key: None, page } if *page == Page::default() => {
            return None;
        }
        Request::ListKeys { page } => Parameters::paged(None, page),
        Request::ListAliases { key, page } => Parameters::paged(key.as_ref(), page),
        Request::ListResourceTags { key, page } | Request::ListKeyPolicies { key, page } => {
            Parameters::paged(Some(key), page)
        }
        Request::CreateGrant(_)
        | Request::ListGrants { .. }
        | Request::ListRetirableGrants { .. }
        | Request::RetireGrant(_)
        | Request::RevokeGrant { .. } => return super::grants::audit_parameters(request),
        Request::ScheduleKeyDeletion { key, pending_window_in_days } => Parameters {
            key_id: Some(key),
            pending_window_in_days: Some(*pending_window_in_days),
            ..Parameters::default()
        },
        Request::UpdateKeyDescription { key, description } => {
            Parameters { key_id: Some(key), description: Some(description), ..Parameters::default() }
        }
        Request::TagResource { key, tags } => {
            Parameters { key_id: Some(key), tags: Some(Tags(tags)), ..Parameters::default() }
        }
        Request::UntagResource { key, tag_keys } => {
            Parameters { key_id: Some(key), tag_keys: Some(tag_keys), ..Parameters::default() }
        }
        Request::CreateAlias { alias, target } | Request::UpdateAlias { alias, target } => {
            Parameters { alias_name: Some(alias.as_str()), target_key_id: Some(target), ..Parameters::default() }
        }
        Request::DeleteAlias { alias } => Parameters { alias_name: Some(alias.as_str()), ..Parameters::default() },
        Request::Encrypt { key, algorithm, context, plaintext: _, dry_run: _, grant_tokens: _ } => Parameters {
            key_id: Some(key),
            encryption_algorithm: Some(algorithm.as_str()),
            encryption_context: Context::of(context),
            ..Parameters::default()
        },
        Request::Decrypt { key, algorithm, context, ciphertext: _, dry_run: _, grant_tokens: _ } => Parameters {
            key_id: key.as_ref(),
            encryption_algorithm: Some(algorithm.as_str()),
            encryption_context: Context::of(context),
            ..Parameters::default()
        },
        Request::GenerateDataKey { key, size, context, with_plaintext: _, dry_run: _, grant_tokens: _ } => {
            let (key_spec, number_of_bytes) = match size {
                DataKeySize::Spec(spec) => (Some(spec.as_str()), None),
                DataKeySize::Bytes(bytes) => (None, Some(*bytes)),
            };
            Parameters {
                key_id: Some(key),
                key_spec,
                number_of_bytes,
                encryption_context: Context::of(context),
                ..Parameters::default()
            }
        }
        Request::Sign { key, message_type, algorithm, message: _, dry_run: _, grant_tokens: _ }
        | Request::Verify { key, message_type, algorithm, message: _, signature: _, dry_run: _, grant_tokens: _ } => {
            Parameters {
                key_id: Some(key),
                message_type: Some(message_type.as_str()),
                signing_algorithm: Some(algorithm.as_str()),
                ..Parameters::default()
            }
        }
        Request::GenerateMac { key, algorithm, message: _, dry_run: _, grant_tokens: _ }
        | Request::VerifyMac { key, algorithm, message: _, mac: _, dry_run: _, grant_tokens: _ } => {
            Parameters { key_id: Some(key), mac_algorithm: Some(algorithm.as_str()), ..Parameters::default() }
        }
        Request::PutKeyPolicy { key, policy, bypass_policy_lockout_safety_check } => Parameters {
            key_id: Some(key),
            policy_name: Some("default"),
            policy: Some(policy),
            bypass_policy_lockout_safety_check: Some(bypass_policy_lockout_safety_check.unwrap_or(false)),
            ..Parameters::default()
        },
        // AWS logs no parameter of GenerateRandom; the body of a refused operation is not read.
        Request::GenerateRandom { .. } | Request::Unsupported { .. } => return None,
        Request::GetKeyLastUsage { key } | Request::RefusedOnKey { key, .. } => {
            Parameters { key_id: Some(key), ..Parameters::default() }
        }
        // The password has no place here.
        Request::CreateCustomKeyStore(CreateCustomKeyStore { name, cluster, trust_anchor: _, password: _ }) => {
            return Some(raw(&KeyStoreParameters {
                custom_key_store_name: Some(name),
                cluster_id: cluster.as_ref().map(ClusterId::as_str),
                ..KeyStoreParameters::default()
            }));
        }
        Request::UpdateCustomKeyStore(UpdateCustomKeyStore { id, new_name, cluster, password: _ }) => {
            return Some(raw(&KeyStoreParameters {
                custom_key_store_id: Some(id),
                new_custom_key_store_name: new_name.as_deref(),
                cluster_id: cluster.as_ref().map(ClusterId::as_str),
                ..KeyStoreParameters::default()
            }));
        }
        Request::DescribeCustomKeyStores { id: None, name: None, page } if *page == Page::default() => return None,
        Request::DescribeCustomKeyStores { id, name, page } => {
            return Some(raw(&KeyStoreParameters {
                custom_key_store_id: id.as_deref(),
                custom_key_store_name: name.as_deref(),
                limit: page.limit,
                marker: page.marker.as_deref(),
                ..KeyStoreParameters::default()
            }));
        }
        Request::ConnectCustomKeyStore { id }
        | Request::DisconnectCustomKeyStore { id }
        | Request::DeleteCustomKeyStore { id } => {
            return Some(raw(&KeyStoreParameters { custom_key_store_id: Some(id), ..KeyStoreParameters::default() }));
        }
        Request::RotateAlias(request) => return Some(raw(&RotateAliasParameters::of(request))),
    };
    Some(raw(&shown))
}

/// `responseElements` of the audit record. `key_arn` is the key's ARN for `{keyId: ARN}`.
pub fn audit_response(request: &Request, response: &Response, key_arn: Option<&str>) -> Option<Box<RawValue>> {
    match (request, response) {
        (_, Response::CreateKey(metadata)) => Some(raw(&Created { key_metadata: Metadata::of(metadata) })),
        (_, Response::ScheduleKeyDeletion { key_arn, deletion_date, pending_window_in_days }) => {
            Some(raw(&Scheduled {
                key_id: key_arn,
                key_state: KeyState::PendingDeletion.as_str(),
                deletion_date: JavaDate(*deletion_date),
                pending_window_in_days: *pending_window_in_days,
            }))
        }
        (_, Response::CancelKeyDeletion { key_arn }) => Some(raw(&KeyArn { key_id: key_arn })),
        (
            Request::DeleteAlias { .. }
            | Request::RetireGrant(_)
            | Request::RevokeGrant { .. }
            | Request::UpdateCustomKeyStore(_)
            | Request::ConnectCustomKeyStore { .. }
            | Request::DisconnectCustomKeyStore { .. }
            | Request::DeleteCustomKeyStore { .. },
            Response::Empty,
        ) => None,
        // The token is not logged.
        (_, Response::CreateGrant { grant, token: _ }) => {
            Some(raw(&Granted { grant_id: grant.as_str(), key_id: key_arn }))
        }
        (_, Response::CreateCustomKeyStore { id }) => {
            Some(raw(&KeyStoreParameters { custom_key_store_id: Some(id.as_str()), ..KeyStoreParameters::default() }))
        }
        (_, Response::RotateAlias(done)) => Some(raw(&RotatedElements {
            alias_names: done.aliases.iter().map(AliasName::as_str).collect(),
            old_key_id: &done.old_key_arn,
            new_key_id: &done.new_key_arn,
            rotation_date: JavaDate(done.at),
        })),
        (_, Response::Empty) => key_arn.map(|key_id| raw(&KeyArn { key_id })),
        // Reads and cryptographic operations: null, as in AWS.
        (
            _,
            Response::DescribeKey(_)
            | Response::ListKeys { .. }
            | Response::ListResourceTags { .. }
            | Response::ListAliases { .. }
            | Response::Encrypt { .. }
            | Response::Decrypt { .. }
            | Response::ReEncrypt { .. }
            | Response::GenerateDataKey { .. }
            | Response::GenerateRandom { .. }
            | Response::Sign { .. }
            | Response::Verify { .. }
            | Response::GetPublicKey { .. }
            | Response::GenerateMac { .. }
            | Response::VerifyMac { .. }
            | Response::GetKeyPolicy { .. }
            | Response::ListKeyPolicies
            | Response::GetKeyRotationStatus { .. }
            | Response::ListGrants { .. }
            | Response::GetKeyLastUsage(_)
            | Response::DescribeCustomKeyStores { .. },
        ) => None,
    }
}

pub(super) fn raw(members: &impl Serialize) -> Box<RawValue> {
    to_raw_value(members).expect("structs of texts, numbers and lists always serialise")
}

/// CloudTrail's names: the first character in lower case, no other change.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Parameters<'a> {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "key_id")]
    key_id: Option<&'a KeyIdText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "key_id")]
    target_key_id: Option<&'a KeyIdText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bypass_policy_lockout_safety_check: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Tags<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag_keys: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_window_in_days: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_spec: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number_of_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_algorithm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_algorithm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac_algorithm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_context: Option<Context<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    marker: Option<&'a str>,
}

impl<'a> Parameters<'a> {
    fn paged(key_id: Option<&'a KeyIdText>, page: &'a Page) -> Self {
        Parameters { key_id, limit: page.limit, marker: page.marker.as_deref(), ..Parameters::default() }
    }
}

/// CloudTrail writes CloudHsmClusterId as `clusterId`.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyStoreParameters<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_key_store_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_key_store_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_custom_key_store_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    marker: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RotateAliasParameters<'a> {
    alias_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_spec: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_token: Option<&'a str>,
}

impl<'a> RotateAliasParameters<'a> {
    fn of(request: &'a RotateAlias) -> Self {
        RotateAliasParameters {
            alias_name: request.alias.as_str(),
            key_spec: request.key_spec.map(|spec| spec.as_str()),
            reason: request.reason.as_deref(),
            grants: request.grants.map(|grants| match grants {
                RotateGrants::Carry => "CARRY",
                RotateGrants::Leave => "LEAVE",
            }),
            client_token: request.client_token.as_deref(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RotatedElements<'a> {
    alias_names: Vec<&'a str>,
    old_key_id: &'a str,
    new_key_id: &'a str,
    rotation_date: JavaDate,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreateKeyParameters<'a> {
    description: &'a str,
    key_spec: &'static str,
    customer_master_key_spec: &'static str,
    key_usage: &'static str,
    origin: &'static str,
    multi_region: bool,
    bypass_policy_lockout_safety_check: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Tags<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_key_store_id: Option<&'a str>,
}

impl<'a> CreateKeyParameters<'a> {
    fn of(request: &'a CreateKey) -> Self {
        CreateKeyParameters {
            description: &request.description,
            key_spec: request.spec.as_str(),
            customer_master_key_spec: request.spec.as_str(),
            key_usage: request.usage.as_str(),
            origin: if request.key_store.is_some() { "AWS_CLOUDHSM" } else { "AWS_KMS" },
            multi_region: false,
            bypass_policy_lockout_safety_check: request.bypass_policy_lockout_safety_check.unwrap_or(false),
            tags: (!request.tags.is_empty()).then_some(Tags(&request.tags)),
            policy: request.policy.as_deref(),
            custom_key_store_id: request.key_store.as_deref(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReEncryptParameters<'a> {
    source_encryption_algorithm: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_encryption_context: Option<Context<'a>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "key_id")]
    source_key_id: Option<&'a KeyIdText>,
    destination_key_id: &'a str,
    destination_encryption_algorithm: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_encryption_context: Option<Context<'a>>,
}

impl<'a> ReEncryptParameters<'a> {
    fn of(request: &'a ReEncrypt) -> Self {
        ReEncryptParameters {
            source_encryption_algorithm: request.source_algorithm.as_str(),
            source_encryption_context: Context::of(&request.source_context),
            source_key_id: request.source_key.as_ref(),
            destination_key_id: &request.destination_key.0,
            destination_encryption_algorithm: request.destination_algorithm.as_str(),
            destination_encryption_context: Context::of(&request.destination_context),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Granted<'a> {
    grant_id: &'a str,
    key_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyArn<'a> {
    key_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Scheduled<'a> {
    key_id: &'a str,
    key_state: &'static str,
    deletion_date: JavaDate,
    pending_window_in_days: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'a> {
    key_metadata: Metadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(rename = "aWSAccountId")]
    account: &'a str,
    key_id: String,
    arn: &'a str,
    creation_date: JavaDate,
    enabled: bool,
    description: &'a str,
    key_usage: &'static str,
    key_state: &'static str,
    origin: &'static str,
    key_manager: &'static str,
    customer_master_key_spec: &'static str,
    key_spec: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    encryption_algorithms: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signing_algorithms: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mac_algorithms: Vec<&'static str>,
    multi_region: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_key_material_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_key_store_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_hsm_cluster_id: Option<&'a str>,
}

impl<'a> Metadata<'a> {
    fn of(key: &'a KeyMetadata) -> Self {
        Metadata {
            account: &key.account,
            key_id: key.key_id.to_string(),
            arn: &key.arn,
            creation_date: JavaDate(key.creation_date),
            enabled: key.enabled,
            description: &key.description,
            key_usage: key.usage.as_str(),
            key_state: key.state.as_str(),
            origin: key.origin(),
            key_manager: "CUSTOMER",
            customer_master_key_spec: key.spec.as_str(),
            key_spec: key.spec.as_str(),
            encryption_algorithms: key.encryption_algorithms.iter().map(|a| a.as_str()).collect(),
            signing_algorithms: key.signing_algorithms.iter().map(|a| a.as_str()).collect(),
            mac_algorithms: key.mac_algorithms.iter().map(|a| a.as_str()).collect(),
            multi_region: key.key_id.is_multi_region(),
            current_key_material_id: key.current_key_material_id.as_deref(),
            custom_key_store_id: key.custom_store.as_ref().map(|(id, _)| id.as_str()),
            cloud_hsm_cluster_id: key.custom_store.as_ref().map(|(_, cluster)| cluster.as_str()),
        }
    }
}

/// Tags as `[{"tagKey":…,"tagValue":…}]`.
struct Tags<'a>(&'a [Tag]);

impl Serialize for Tags<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Shown<'a> {
            tag_key: &'a str,
            tag_value: &'a str,
        }
        serializer.collect_seq(self.0.iter().map(|t| Shown { tag_key: &t.key, tag_value: &t.value }))
    }
}

/// An encryption context in the order received; an empty one is left out.
struct Context<'a>(&'a [(String, String)]);

impl<'a> Context<'a> {
    fn of(pairs: &'a [(String, String)]) -> Option<Self> {
        (!pairs.is_empty()).then_some(Context(pairs))
    }
}

impl Serialize for Context<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

fn key_id<S: Serializer>(key: &Option<&KeyIdText>, serializer: S) -> Result<S::Ok, S::Error> {
    match key {
        Some(key) => serializer.serialize_str(&key.0),
        None => serializer.serialize_none(),
    }
}

/// Milliseconds since the epoch as CloudTrail shows dates inside parameters: `Mar 4, 2026, 9:31:22 AM`, UTC.
pub struct JavaDate(pub i64);

impl Serialize for JavaDate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for JavaDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(date) = OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1000)) else {
            // Beyond the calendar: no such time is stored, and a record must not fail on one.
            return write!(f, "{}", self.0);
        };
        let (hour, half) = match date.hour() {
            0 => (12, "AM"),
            hour @ 1..=11 => (hour, "AM"),
            12 => (12, "PM"),
            hour => (hour - 12, "PM"),
        };
        let month = date.month().to_string();
        let month = month.get(..3).unwrap_or(&month);
        let (day, year, minute, second) = (date.day(), date.year(), date.minute(), date.second());
        write!(f, "{month} {day}, {year}, {hour}:{minute:02}:{second:02} {half}")
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
