//! Responses to JSON, written straight into one buffer that is zeroised: plaintexts are encoded in place and the buffer
//! is made large enough beforehand, so that no copy is left behind. Members are absent, never null (kms-api.md §1).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::WireError;
use crate::ids::spec::{EncryptionAlgorithm, KeyState};
use crate::ops::{
    AliasEntry, GrantConstraints, GrantEntry, GrantPrincipal, KeyLastUsage, KeyMetadata, KeyStoreEntry, Response, Tag,
};
use crate::secret::SecretBytes;

/// The body of an answer; empty where AWS answers without one.
pub fn render(response: &Response) -> SecretBytes {
    let mut json = Json { out: Vec::with_capacity(capacity(response)) };
    match response {
        Response::Empty => {}
        _ => json.object(|o| members(response, o)),
    }
    SecretBytes::new(json.out)
}

/// `{"__type":"NotFoundException","message":"…"}`; without a text there is no member for it.
pub fn error_body(error: &WireError) -> Vec<u8> {
    let mut json = Json { out: Vec::with_capacity(64 + error.message.as_ref().map_or(0, String::len)) };
    json.object(|o| {
        o.text("__type", error.code);
        if let Some(message) = &error.message {
            o.text(if error.capital_message { "Message" } else { "message" }, message);
        }
    });
    json.out
}

/// Enough for responses with secrets, whatever their texts need in escapes; a start for all others.
fn capacity(response: &Response) -> usize {
    const NAMES: usize = 512;
    const ESCAPED: usize = 6;
    let length = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |t| t.len());
    let base64 = |len: usize| base64::encoded_len(len, true).unwrap_or(len.saturating_mul(2));
    let (texts, bytes) = match response {
        Response::Decrypt { key_arn, plaintext, key_material_id } => {
            (key_arn.len() + length(key_material_id), base64(plaintext.len()))
        }
        Response::GenerateDataKey { key_arn, ciphertext, plaintext, key_material_id } => (
            key_arn.len() + length(key_material_id),
            base64(ciphertext.len()) + plaintext.as_ref().map_or(0, |p| base64(p.len())),
        ),
        Response::GenerateRandom { plaintext } => (0, base64(plaintext.len())),
        Response::GenerateMac { key_arn, mac, .. } => (key_arn.len(), base64(mac.len())),
        Response::Encrypt { key_arn, ciphertext } => (key_arn.len(), base64(ciphertext.len())),
        Response::Empty => return 0,
        _ => (0, 0),
    };
    NAMES + texts * ESCAPED + bytes
}

fn members(response: &Response, o: &mut Object<'_>) {
    const SYMMETRIC: &str = "SYMMETRIC_DEFAULT";
    debug_assert_eq!(SYMMETRIC, EncryptionAlgorithm::SymmetricDefault.as_str());
    match response {
        Response::Empty => {}
        Response::CreateKey(metadata) | Response::DescribeKey(metadata) => {
            o.object("KeyMetadata", |o| key_metadata(metadata, o));
        }
        Response::ListKeys { keys, next_marker } => {
            o.list("Keys", keys, |json, (id, arn)| {
                json.object(|o| {
                    o.text("KeyArn", arn);
                    o.text("KeyId", &id.to_string());
                });
            });
            page(next_marker.as_deref(), o);
        }
        Response::ScheduleKeyDeletion { key_arn, deletion_date, pending_window_in_days } => {
            o.time("DeletionDate", *deletion_date);
            o.text("KeyId", key_arn);
            o.text("KeyState", KeyState::PendingDeletion.as_str());
            o.number("PendingWindowInDays", *pending_window_in_days);
        }
        Response::CancelKeyDeletion { key_arn } => o.text("KeyId", key_arn),
        Response::ListResourceTags { tags, next_marker } => {
            o.list("Tags", tags, tag);
            page(next_marker.as_deref(), o);
        }
        Response::ListAliases { aliases, next_marker } => {
            o.list("Aliases", aliases, alias);
            page(next_marker.as_deref(), o);
        }
        Response::Encrypt { key_arn, ciphertext } => {
            o.blob("CiphertextBlob", ciphertext);
            o.text("EncryptionAlgorithm", SYMMETRIC);
            o.text("KeyId", key_arn);
        }
        Response::Decrypt { key_arn, plaintext, key_material_id } => {
            o.text("EncryptionAlgorithm", SYMMETRIC);
            o.text("KeyId", key_arn);
            o.optional("KeyMaterialId", key_material_id.as_deref());
            o.blob("Plaintext", plaintext.expose());
        }
        Response::ReEncrypt {
            source_key_arn,
            key_arn,
            ciphertext,
            source_key_material_id,
            destination_key_material_id,
        } => {
            o.blob("CiphertextBlob", ciphertext);
            o.text("DestinationEncryptionAlgorithm", SYMMETRIC);
            o.optional("DestinationKeyMaterialId", destination_key_material_id.as_deref());
            o.text("KeyId", key_arn);
            o.text("SourceEncryptionAlgorithm", SYMMETRIC);
            o.text("SourceKeyId", source_key_arn);
            o.optional("SourceKeyMaterialId", source_key_material_id.as_deref());
        }
        Response::GenerateDataKey { key_arn, ciphertext, plaintext, key_material_id } => {
            o.blob("CiphertextBlob", ciphertext);
            o.text("KeyId", key_arn);
            o.optional("KeyMaterialId", key_material_id.as_deref());
            if let Some(plaintext) = plaintext {
                o.blob("Plaintext", plaintext.expose());
            }
        }
        Response::GenerateRandom { plaintext } => o.blob("Plaintext", plaintext.expose()),
        Response::Sign { key_arn, signature, algorithm } => {
            o.text("KeyId", key_arn);
            o.blob("Signature", signature);
            o.text("SigningAlgorithm", algorithm.as_str());
        }
        Response::Verify { key_arn, algorithm } => {
            o.text("KeyId", key_arn);
            o.flag("SignatureValid", true);
            o.text("SigningAlgorithm", algorithm.as_str());
        }
        Response::GetPublicKey { key_arn, spki, spec, usage, signing_algorithms } => {
            o.text("CustomerMasterKeySpec", spec.as_str());
            o.text("KeyId", key_arn);
            o.text("KeySpec", spec.as_str());
            o.text("KeyUsage", usage.as_str());
            o.blob("PublicKey", spki);
            o.names("SigningAlgorithms", signing_algorithms.iter().map(|a| a.as_str()));
        }
        Response::GenerateMac { key_arn, mac, algorithm } => {
            o.text("KeyId", key_arn);
            o.blob("Mac", mac.expose());
            o.text("MacAlgorithm", algorithm.as_str());
        }
        Response::VerifyMac { key_arn, algorithm } => {
            o.text("KeyId", key_arn);
            o.text("MacAlgorithm", algorithm.as_str());
            o.flag("MacValid", true);
        }
        Response::GetKeyPolicy { policy } => {
            o.text("Policy", policy);
            o.text("PolicyName", "default");
        }
        Response::ListKeyPolicies => {
            o.names("PolicyNames", ["default"].into_iter());
            o.flag("Truncated", false);
        }
        Response::GetKeyRotationStatus { key_arn } => {
            o.text("KeyId", key_arn);
            o.flag("KeyRotationEnabled", false);
        }
        Response::GetKeyLastUsage(usage) => last_usage(usage, o),
        Response::CreateCustomKeyStore { id } => o.text("CustomKeyStoreId", id.as_str()),
        Response::DescribeCustomKeyStores { stores, next_marker } => {
            o.list("CustomKeyStores", stores, key_store);
            page(next_marker.as_deref(), o);
        }
        Response::RotateAlias(done) => {
            o.list("AliasNames", &done.aliases, |json, alias| json.text(alias.as_str()));
            o.text("NewKeyId", &done.new_key_arn);
            o.text("OldKeyId", &done.old_key_arn);
            o.time("RotationDate", done.at);
        }
        Response::CreateGrant { grant, token } => {
            o.text("GrantId", grant.as_str());
            o.text("GrantToken", token);
        }
        Response::ListGrants { grants, next_marker } => {
            o.list("Grants", grants, grant);
            page(next_marker.as_deref(), o);
        }
    }
}

/// Clients compare the whole object: no member more or less than AWS has (kms-api.md §1, KeyMetadata).
fn key_metadata(key: &KeyMetadata, o: &mut Object<'_>) {
    o.text("AWSAccountId", &key.account);
    o.text("Arn", &key.arn);
    if let Some((_, cluster)) = &key.custom_store {
        o.text("CloudHsmClusterId", cluster.as_str());
    }
    o.time("CreationDate", key.creation_date);
    o.optional("CurrentKeyMaterialId", key.current_key_material_id.as_deref());
    if let Some((id, _)) = &key.custom_store {
        o.text("CustomKeyStoreId", id.as_str());
    }
    o.text("CustomerMasterKeySpec", key.spec.as_str());
    if let Some(date) = key.deletion_date {
        o.time("DeletionDate", date);
    }
    o.text("Description", &key.description);
    o.flag("Enabled", key.enabled);
    o.names("EncryptionAlgorithms", key.encryption_algorithms.iter().map(|a| a.as_str()));
    o.text("KeyId", &key.key_id.to_string());
    o.text("KeyManager", key.key_manager());
    o.text("KeySpec", key.spec.as_str());
    o.text("KeyState", key.state.as_str());
    o.text("KeyUsage", key.usage.as_str());
    o.names("MacAlgorithms", key.mac_algorithms.iter().map(|a| a.as_str()));
    o.flag("MultiRegion", key.key_id.is_multi_region());
    o.text("Origin", key.origin());
    o.names("SigningAlgorithms", key.signing_algorithms.iter().map(|a| a.as_str()));
}

/// TrustAnchorCertificate is absent where none was given, ConnectionErrorCode unless the connection failed.
fn key_store(json: &mut Json, store: &KeyStoreEntry) {
    json.object(|o| {
        o.text("CloudHsmClusterId", store.cluster.as_str());
        if store.connection_state == "FAILED" {
            o.optional("ConnectionErrorCode", store.connection_error_code.as_deref());
        }
        o.text("ConnectionState", store.connection_state);
        o.time("CreationDate", store.creation_date);
        o.text("CustomKeyStoreId", store.id.as_str());
        o.text("CustomKeyStoreName", &store.name);
        o.text("CustomKeyStoreType", "AWS_CLOUDHSM");
        o.optional("TrustAnchorCertificate", store.trust_anchor.as_deref());
    });
}

/// A key that was not used since tracking began has a KeyLastUsage without members.
fn last_usage(usage: &KeyLastUsage, o: &mut Object<'_>) {
    o.time("KeyCreationDate", usage.key_creation);
    o.text("KeyId", &usage.key_arn);
    o.object("KeyLastUsage", |o| {
        if let Some(last) = &usage.last {
            o.text("CloudTrailEventId", &last.event_id);
            o.text("KmsRequestId", &last.request_id);
            o.text("Operation", &last.operation);
            o.time("Timestamp", last.at);
        }
    });
    o.time("TrackingStartDate", usage.tracking_start);
}

fn tag(json: &mut Json, tag: &Tag) {
    json.object(|o| {
        o.text("TagKey", &tag.key);
        o.text("TagValue", &tag.value);
    });
}

fn alias(json: &mut Json, alias: &AliasEntry) {
    json.object(|o| {
        o.text("AliasArn", &alias.arn);
        o.text("AliasName", alias.name.as_str());
        o.time("CreationDate", alias.creation_date);
        o.time("LastUpdatedDate", alias.last_updated_date);
        o.text("TargetKeyId", &alias.target.to_string());
    });
}

fn grant(json: &mut Json, entry: &GrantEntry) {
    let GrantEntry { key_arn, grant, grantee, retiring } = entry;
    let to_service = |principal: &GrantPrincipal| matches!(principal, GrantPrincipal::Service { .. });
    json.object(|o| {
        if grant.constraints != GrantConstraints::default() {
            o.object("Constraints", |o| {
                let GrantConstraints { equals, subset, source_arn } = &grant.constraints;
                for (name, pairs) in [("EncryptionContextEquals", equals), ("EncryptionContextSubset", subset)] {
                    if let Some(pairs) = pairs {
                        o.object(name, |o| pairs.iter().for_each(|(key, value)| o.text(key, value)));
                    }
                }
                o.optional("SourceArn", source_arn.as_deref());
            });
        }
        o.time("CreationDate", grant.created);
        o.text("GrantId", grant.id.as_str());
        o.text(if to_service(&grant.grantee) { "GranteeServicePrincipal" } else { "GranteePrincipal" }, grantee);
        o.text("IssuingAccount", &format!("arn:aws:iam::{}:root", grant.issuing_account));
        o.text("KeyId", key_arn);
        o.optional("Name", grant.name.as_deref());
        o.names("Operations", grant.operations.iter().map(|operation| operation.as_str()));
        let by_service = grant.retiring.as_ref().is_some_and(to_service);
        o.optional(if by_service { "RetiringServicePrincipal" } else { "RetiringPrincipal" }, retiring.as_deref());
    });
}

fn page(next_marker: Option<&str>, o: &mut Object<'_>) {
    if let Some(marker) = next_marker {
        o.text("NextMarker", marker);
    }
    o.flag("Truncated", next_marker.is_some());
}

/// Appends JSON to a buffer.
struct Json {
    out: Vec<u8>,
}

impl Json {
    fn object(&mut self, write: impl FnOnce(&mut Object<'_>)) {
        self.out.push(b'{');
        write(&mut Object { json: self, first: true });
        self.out.push(b'}');
    }

    fn text(&mut self, text: &str) {
        self.out.push(b'"');
        let mut rest = text;
        while let Some((plain, from)) = rest.find(needs_escape).and_then(|at| rest.split_at_checked(at)) {
            self.out.extend_from_slice(plain.as_bytes());
            let mut characters = from.chars();
            characters.next().into_iter().for_each(|c| self.escape(c));
            rest = characters.as_str();
        }
        self.out.extend_from_slice(rest.as_bytes());
        self.out.push(b'"');
    }

    fn escape(&mut self, c: char) {
        match c {
            '"' => self.out.extend_from_slice(b"\\\""),
            '\\' => self.out.extend_from_slice(b"\\\\"),
            '\n' => self.out.extend_from_slice(b"\\n"),
            '\r' => self.out.extend_from_slice(b"\\r"),
            '\t' => self.out.extend_from_slice(b"\\t"),
            _ => self.out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
        }
    }

    /// Base64 in place.
    fn blob(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        let start = self.out.len();
        let room = base64::encoded_len(bytes.len(), true).expect("blobs are far shorter than the address space");
        self.out.resize(start + room, 0);
        let tail = self.out.get_mut(start..).unwrap_or_default();
        STANDARD.encode_slice(bytes, tail).expect("the room was computed for these bytes");
        self.out.push(b'"');
    }
}

fn needs_escape(c: char) -> bool {
    c == '"' || c == '\\' || c < ' '
}

/// Members of one object, comma by comma.
struct Object<'a> {
    json: &'a mut Json,
    first: bool,
}

impl Object<'_> {
    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.first) {
            self.json.out.push(b',');
        }
        self.json.text(name);
        self.json.out.push(b':');
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        self.json.text(text);
    }

    fn optional(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn blob(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.json.blob(bytes);
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.name(name);
        self.json.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn number(&mut self, name: &str, value: u32) {
        self.name(name);
        self.json.out.extend_from_slice(value.to_string().as_bytes());
    }

    /// Seconds with the milliseconds as a fraction: the same digits in every answer for the same time.
    fn time(&mut self, name: &str, milliseconds: i64) {
        self.name(name);
        let sign = if milliseconds < 0 { "-" } else { "" };
        let (seconds, rest) = (milliseconds.unsigned_abs() / 1000, milliseconds.unsigned_abs() % 1000);
        let number = format!("{sign}{seconds}.{rest:03}");
        let number = if rest == 0 { number.trim_end_matches(".000") } else { number.trim_end_matches('0') };
        self.json.out.extend_from_slice(number.as_bytes());
    }

    fn object(&mut self, name: &str, write: impl FnOnce(&mut Object<'_>)) {
        self.name(name);
        self.json.object(write);
    }

    fn list<T>(&mut self, name: &str, items: &[T], write: impl Fn(&mut Json, &T)) {
        self.name(name);
        self.json.out.push(b'[');
        for (place, item) in items.iter().enumerate() {
            if place > 0 {
                self.json.out.push(b',');
            }
            write(self.json, item);
        }
        self.json.out.push(b']');
    }

    /// A list of names; an empty one is absent.
    fn names(&mut self, name: &str, names: impl Iterator<Item = &'static str>) {
        let names: Vec<&str> = names.collect();
        if !names.is_empty() {
            self.list(name, &names, |json, text| json.text(text));
        }
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
