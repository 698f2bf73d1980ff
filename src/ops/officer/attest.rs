//! `key attest`: what the token says of a key now, beside what it said when the key came, as a signed statement.

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::expected::{self, PUBLIC};
use super::{material_id, object_id, object_label};
use crate::keystore::{Evidence, KeyRef, ObjectFacts, ObjectSelector, SystemKey, Token};
use crate::ops::operator::{date, pem};
use crate::ops::resolve::KeyTarget;
use crate::ops::{Context, Effects, OpError, OperatorResponse, Ops, token_error};
use crate::secret::SecretBytes;
use crate::store::{KeyRecord, Material, Provenance};

const FORMAT: &str = "hsm-bridge/attestation/1";
const ALGORITHM: &str = "RSASSA_PKCS1_V1_5_SHA_256";

impl Ops {
    pub(super) async fn attest_key(
        &self,
        key: &KeyTarget,
        by: u32,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let token = self.token_of(key)?;
        let record = &key.record;
        let mut materials = Vec::new();
        for material in &record.materials {
            materials.push(self.attest_material(&token, key, material, ctx).await?);
        }
        let info = token.info();
        let here = self.locality.of(&record.account);
        let statement = json!({
            "format": FORMAT,
            "deploymentId": self.store.deployment_id(),
            "account": here.account.as_str(),
            "region": here.region.as_str(),
            "keyArn": key.arn,
            "keySpec": record.spec.as_str(),
            "keyUsage": record.usage.as_str(),
            "created": date(record.created),
            "customKeyStoreId": record.key_store,
            "provenance": provenance(record),
            "token": {
                "serial": info.serial,
                "label": info.label,
                "manufacturer": info.manufacturer,
                "model": info.model,
                "firmware": info.firmware,
            },
            "materials": materials,
            "time": date(ctx.now),
            "askedBy": format!("hsm-bridge:operator/{by}"),
            "software": concat!("hsm-bridge/", env!("CARGO_PKG_VERSION")),
        });
        let statement = canonical(&statement);

        let signer = self.keystore.token();
        let failed = |error| token_error(error, "hsm-bridge/attest");
        signer.ensure_system_key(&self.generate_call(ctx), SystemKey::Attest).await.map_err(failed)?;
        let public = signer.system_public_key(&self.generate_call(ctx), SystemKey::Attest).await.map_err(failed)?;
        let hash = digest::digest(&digest::SHA256, statement.as_bytes());
        let input = SecretBytes::new(hash.as_ref().to_vec());
        let done = signer.sign_system(&self.generate_call(ctx), SystemKey::Attest, input).await.map_err(failed)?;
        effects.hsm = Some(done.facts);
        effects.details = Some(json!({ "keyId": key.arn, "statementSha256": hex::encode(hash) }));
        Ok(OperatorResponse::Attestation {
            statement,
            signature: base64(&done.value),
            public_key: pem(&public),
            algorithm: ALGORITHM.to_owned(),
        })
    }

    async fn attest_material(
        &self,
        token: &Token,
        key: &KeyTarget,
        material: &Material,
        ctx: &Context,
    ) -> Result<Value, OpError> {
        let record = &key.record;
        let id = object_id(record, material);
        let selector = ObjectSelector { id: Some(id.clone()), label: None };
        let failed = |error| token_error(error, &key.arn);
        let objects = token.inspect(&self.generate_call(ctx), &selector).await.map_err(failed)?;
        let fingerprint = material.fingerprint.as_slice().into();
        let reference = KeyRef::Kms { material: material_id(record, material), fingerprint };
        // An attestation of another key under the same name would be worse than none.
        token.check(&self.generate_call(ctx), &reference).await.map_err(failed)?;
        let classes = expected::classes(record.spec);
        let of_class = |class: &str| -> Vec<&ObjectFacts> {
            objects.iter().filter(|object| object.class.as_deref() == Some(class)).collect()
        };
        let mut own = Vec::new();
        for class in classes {
            match of_class(class).as_slice() {
                [object] => own.push(*object),
                found => {
                    return Err(OpError::InvalidState(format!(
                        "nothing is attested: the token has {} {class} with the id `{}`; `token reconcile` says more",
                        found.len(),
                        hex::encode(&id)
                    )));
                }
            }
        }
        let Some(protected) = own.iter().find(|object| object.class.as_deref() != Some(PUBLIC)) else {
            return Err(OpError::Internal(format!("{} has no secret or private object", record.spec)));
        };
        let (proven, judgement) = judgement(record, material, protected);
        Ok(json!({
            "generation": material.generation,
            "keyMaterialId": material.material_id,
            "ckaId": hex::encode(&id),
            "label": object_label(record),
            "objects": own.iter().map(|object| attributes(object)).collect::<Vec<_>>(),
            "atCreation": at_creation(material),
            "created": date(material.created),
            "fingerprint": fingerprint_text(material, protected),
            "fingerprintChecked": true,
            "nonExtractableProven": proven,
            "judgement": judgement,
        }))
    }
}

/// Members sorted by name, no space between: `serde_json` keeps its maps sorted unless a feature is on, and this does not
/// rely on it.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            let members: Vec<String> = sorted
                .into_iter()
                .map(|(name, value)| format!("{}:{}", Value::String(name.clone()), canonical(value)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

fn provenance(record: &KeyRecord) -> String {
    match &record.provenance {
        Provenance::Generated => "generated in this token for CreateKey".to_owned(),
        Provenance::Rotated { from } => {
            format!("generated in this token by a rotation, as the successor of key {from}")
        }
        Provenance::Adopted { label, by_os_user_id, extractable_accepted } => format!(
            "made by another program, and adopted from the label `{label}` by hsm-bridge:operator/{by_os_user_id}{}",
            if *extractable_accepted { "; it could leave the token, which was accepted" } else { "" },
        ),
    }
}

/// Whether it is proven that the key never was outside the token; and why, or why not.
fn judgement(record: &KeyRecord, material: &Material, now: &ObjectFacts) -> (bool, String) {
    let then = serde_json::from_value::<Evidence>(material.evidence.clone()).ok();
    let missing = expected::protection(&expected::guarded(), now);
    if !missing.is_empty() {
        return (false, format!("not proven to be non-extractable: {}", missing.join("; ")));
    }
    let whole = |e: &Evidence| e.sensitive && !e.extractable && e.always_sensitive && e.never_extractable && e.local;
    match (&record.provenance, then) {
        (_, None) => (false, "not proven to be non-extractable: there is no record of the attributes at creation".to_owned()),
        (_, Some(then)) if !whole(&then) => {
            (false, "not proven to be non-extractable: the attributes at creation did not say so".to_owned())
        }
        (Provenance::Adopted { .. }, Some(_)) => (
            true,
            "non-extractable since it was made: the token says that it generated the key and that the key was always \
             sensitive and never extractable. another program asked for it, so what that program was is not known"
                .to_owned(),
        ),
        (Provenance::Generated | Provenance::Rotated { .. }, Some(_)) => (
            true,
            "non-extractable since it was made: the bridge had the token generate it, and the token said then and says now \
             that the key was always sensitive and never extractable"
                .to_owned(),
        ),
    }
}

/// Attributes by their PKCS#11 names, as the token gives them now; what an object has none of is left out.
fn attributes(object: &ObjectFacts) -> Value {
    let flags = [
        ("CKA_PRIVATE", object.private),
        ("CKA_SENSITIVE", object.sensitive),
        ("CKA_EXTRACTABLE", object.extractable),
        ("CKA_ALWAYS_SENSITIVE", object.always_sensitive),
        ("CKA_NEVER_EXTRACTABLE", object.never_extractable),
        ("CKA_LOCAL", object.local),
        ("CKA_MODIFIABLE", object.modifiable),
        ("CKA_ENCRYPT", object.encrypt),
        ("CKA_DECRYPT", object.decrypt),
        ("CKA_SIGN", object.sign),
        ("CKA_VERIFY", object.verify),
        ("CKA_WRAP", object.wrap),
        ("CKA_UNWRAP", object.unwrap),
        ("CKA_DERIVE", object.derive),
    ];
    let texts = [
        ("CKA_CLASS", &object.class),
        ("CKA_KEY_TYPE", &object.key_type),
        ("CKA_EC_PARAMS", &object.curve),
        ("CKA_PARAMETER_SET", &object.parameter_set),
        ("CKA_CHECK_VALUE", &object.check_value),
        ("CKA_KEY_GEN_MECHANISM", &object.key_gen_mechanism),
    ];
    let mut all = serde_json::Map::new();
    all.insert("CKA_LABEL".to_owned(), json!(object.label));
    let flags = flags.into_iter().filter_map(|(name, flag)| Some((name, json!(flag?))));
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name, json!(text.as_ref()?))));
    let numbers = [("modulusBits", object.modulus_bits), ("CKA_VALUE_LEN", object.value_len)];
    let numbers = numbers.into_iter().filter_map(|(name, number)| Some((name, json!(number?))));
    all.extend(flags.chain(texts).chain(numbers).map(|(name, value)| (name.to_owned(), value)));
    Value::Object(all)
}

fn at_creation(material: &Material) -> Value {
    match serde_json::from_value::<Evidence>(material.evidence.clone()) {
        Ok(evidence) => json!({
            "tokenSerial": evidence.token_serial,
            "CKA_SENSITIVE": evidence.sensitive,
            "CKA_EXTRACTABLE": evidence.extractable,
            "CKA_ALWAYS_SENSITIVE": evidence.always_sensitive,
            "CKA_NEVER_EXTRACTABLE": evidence.never_extractable,
            "CKA_LOCAL": evidence.local,
        }),
        Err(_) => material.evidence.clone(),
    }
}

fn fingerprint_text(material: &Material, object: &ObjectFacts) -> Value {
    match (&material.spki, &object.check_value) {
        (Some(spki), _) => {
            json!({ "kind": "spki-sha256", "value": hex::encode(digest::digest(&digest::SHA256, spki)) })
        }
        (None, Some(value)) => json!({ "kind": "check-value", "value": value }),
        (None, None) => json!({ "kind": "none", "value": "" }),
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_is_sorted_and_compact() {
        let value = json!({ "b": [1, { "z": true, "a": null }], "a": "x\"y", "C": 1.5 });
        assert_eq!(canonical(&value), r#"{"C":1.5,"a":"x\"y","b":[1,{"a":null,"z":true}]}"#);
    }
}
