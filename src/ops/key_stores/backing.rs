//! CloudTrail's words for the objects of a key in a custom key store. CloudHSM's `keyHandle` is here the `CKA_ID` in hex, by
//! which an officer finds the objects; a PKCS#11 handle is a number of one session.

use serde_json::{Value, json};

use crate::ops::keys::cka_id;
use crate::ops::{KeyStoreFacts, Ops};
use crate::store::{KeyRecord, Material};

impl Ops {
    /// CreateKey.
    pub(in crate::ops) fn backing_key(&self, record: &KeyRecord) -> Option<KeyStoreFacts> {
        let id = record.key_store.clone()?;
        let backing_key = record.current().map(|material| backing(record, material).to_string());
        Some(KeyStoreFacts { id: Some(id), backing_key, ..KeyStoreFacts::default() })
    }

    /// ScheduleKeyDeletion, and DeleteKey with the status of the deletion.
    pub(in crate::ops) fn backing_keys(&self, record: &KeyRecord, status: Option<&str>) -> Option<KeyStoreFacts> {
        let id = record.key_store.clone()?;
        let cluster = self.store.snapshot().key_stores.get(&id).map(|store| store.cluster.clone());
        let all: Vec<Value> = record.materials.iter().map(|material| backing(record, material)).collect();
        let ended = status.map(|status| {
            let ended = all.iter().cloned().map(|mut one| {
                if let Some(members) = one.as_object_mut() {
                    members.insert("deletionStatus".to_owned(), status.into());
                }
                one
            });
            Value::Array(ended.collect()).to_string()
        });
        Some(KeyStoreFacts {
            id: Some(id),
            cluster,
            backing_keys: Some(Value::Array(all).to_string()),
            deletion_status: ended,
            ..KeyStoreFacts::default()
        })
    }
}

fn backing(record: &KeyRecord, material: &Material) -> Value {
    json!({ "keyHandle": cka_id(record, material), "backingKeyId": material.material_id })
}
