//! The trail's own keys in `token reconcile` and `doctor`: there as the store says, protected, and the recorded ones.

use serde_json::{Value, json};

use super::expected::{self, PUBLIC};
use crate::ids::spec::KeySpec;
use crate::keystore::{ErrorClass, KeyRef, MaterialId, ObjectFacts, Token};
use crate::ops::{Context, Ops};
use crate::store::{AuditKeyRecord, AuditKeyStage, Snapshot};

/// What the token has of the trail's keys.
#[derive(Debug, Default, PartialEq)]
pub(super) struct OfTheTrail {
    pub labels: Vec<Value>,
    pub faults: Vec<String>,
}

/// Takes the trail's objects out of the others, and judges them.
pub(super) fn split(objects: &mut Vec<ObjectFacts>, snapshot: &Snapshot) -> OfTheTrail {
    let mut found = OfTheTrail::default();
    for record in snapshot.audit_keys.values() {
        let Some(id) = id(record) else { continue };
        let (own, others): (Vec<_>, Vec<_>) = objects.drain(..).partition(|object| object.id == id);
        *objects = others;
        judge(record, &own, &mut found);
    }
    found
}

fn judge(record: &AuditKeyRecord, objects: &[ObjectFacts], found: &mut OfTheTrail) {
    let label = &record.label;
    let spec = match record.key_use.as_str() {
        "digest" => KeySpec::Rsa2048,
        _ => KeySpec::EccNistP256,
    };
    match record.stage {
        // It changes under our eyes.
        AuditKeyStage::Creating | AuditKeyStage::Made | AuditKeyStage::Retiring => return,
        AuditKeyStage::Retired | AuditKeyStage::Abandoned => {
            if !objects.is_empty() {
                found
                    .faults
                    .push(format!("`{label}`: destroyed by the record, and {} objects are here", objects.len()));
            }
            return;
        }
        AuditKeyStage::Current | AuditKeyStage::Kept => found.labels.push(json!(label)),
    }
    for class in expected::classes(spec) {
        let count = objects.iter().filter(|object| object.class.as_deref() == Some(class)).count();
        if count != 1 {
            found.faults.push(format!("`{label}`: the token has {count} {class} with its id, not 1"));
        }
    }
    for object in objects {
        let class = object.class.as_deref().unwrap_or_default();
        let mut faults = expected::form(spec, object, class);
        if !expected::classes(spec).contains(&class) {
            faults = vec![format!("a {class} has its id")];
        } else if class != PUBLIC {
            faults.extend(expected::protection(&expected::guarded(), object));
        }
        faults.extend(expected::dangerous(object).into_iter().map(|name| format!("{name} is true, not false")));
        found.faults.extend(faults.into_iter().map(|fault| format!("`{label}`: {fault}")));
    }
}

/// `CKA_ID`, hex.
fn id(record: &AuditKeyRecord) -> Option<String> {
    let own = || Some(material(record)?.cka_id());
    Some(hex::encode(record.object_id.clone().or_else(own)?))
}

fn material(record: &AuditKeyRecord) -> Option<MaterialId> {
    Some(MaterialId { id: record.material.as_slice().try_into().ok()?, generation: record.generation })
}

impl Ops {
    /// The keys that sign, against their recorded public keys. Each entry is a fault.
    pub(super) async fn check_audit_keys(&self, token: &Token, snapshot: &Snapshot, ctx: &Context) -> Vec<String> {
        let mut faults = Vec::new();
        for record in snapshot.audit_keys.values().filter(|record| record.stage == AuditKeyStage::Current) {
            let Some(material) = material(record) else { continue };
            let key = KeyRef::Kms { material, fingerprint: record.fingerprint.as_slice().into() };
            match token.check(&self.generate_call(ctx), &key).await {
                Ok(_) => {}
                Err(error) if error.class == ErrorClass::WrongKey => {
                    faults.push(format!("`{}`: it is not the recorded key: {}", record.label, error.detail));
                }
                Err(error) => faults.push(format!("`{}`: it could not be checked: {error}", record.label)),
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ops::officer::expected::PRIVATE;

    fn record(stage: AuditKeyStage) -> Snapshot {
        let record = AuditKeyRecord {
            key_use: "digest".into(),
            generation: 1,
            stage,
            created: 0,
            material: vec![7; 16],
            object_id: None,
            label: "hsm-bridge/audit-digest-1".into(),
            fingerprint: Vec::new(),
            spki: Vec::new(),
            evidence: Value::Null,
            certificates: Vec::new(),
            valid_from: 0,
            valid_until: None,
        };
        let mut snapshot = Snapshot::default();
        snapshot.audit_keys.insert_mut(("digest".into(), 1), Arc::new(record));
        snapshot
    }

    fn object(class: &str) -> ObjectFacts {
        let is_private = class == PRIVATE;
        ObjectFacts {
            class: Some(class.into()),
            key_type: Some("CKK_RSA".into()),
            id: format!("{}00000001", "07".repeat(16)),
            label: "hsm-bridge/audit-digest-1".into(),
            private: Some(is_private),
            sensitive: is_private.then_some(true),
            extractable: is_private.then_some(false),
            always_sensitive: is_private.then_some(true),
            never_extractable: is_private.then_some(true),
            local: Some(true),
            sign: is_private.then_some(true),
            verify: (!is_private).then_some(true),
            modulus_bits: Some(2048),
            ..ObjectFacts::default()
        }
    }

    #[test]
    fn the_trails_objects_are_taken_out_and_judged() {
        let other = ObjectFacts { id: "01".into(), ..object(PUBLIC) };
        let mut objects = vec![object(PRIVATE), other.clone(), object(PUBLIC)];
        let found = split(&mut objects, &record(AuditKeyStage::Current));
        assert_eq!(found, OfTheTrail { labels: vec![json!("hsm-bridge/audit-digest-1")], faults: Vec::new() });
        assert_eq!(objects, [other]);
    }

    #[test]
    fn each_fault_is_told() {
        let faults = |stage, mut objects: Vec<ObjectFacts>| split(&mut objects, &record(stage)).faults;
        let whole = || vec![object(PRIVATE), object(PUBLIC)];
        assert!(faults(AuditKeyStage::Kept, whole()).is_empty());
        assert_eq!(faults(AuditKeyStage::Current, Vec::new()).len(), 2);
        assert_eq!(faults(AuditKeyStage::Current, vec![object(PRIVATE), object(PUBLIC), object(PUBLIC)]).len(), 1);
        for stage in [AuditKeyStage::Retired, AuditKeyStage::Abandoned] {
            assert!(faults(stage, Vec::new()).is_empty());
            assert_eq!(faults(stage, whole()).len(), 1);
        }
        assert!(faults(AuditKeyStage::Creating, vec![object(PRIVATE)]).is_empty());
        let extractable = ObjectFacts { extractable: Some(true), ..object(PRIVATE) };
        assert_eq!(faults(AuditKeyStage::Current, vec![extractable, object(PUBLIC)]).len(), 1);
        let decrypts = ObjectFacts { unwrap: Some(true), ..object(PRIVATE) };
        assert_eq!(faults(AuditKeyStage::Current, vec![decrypts, object(PUBLIC)]).len(), 1);
    }
}
