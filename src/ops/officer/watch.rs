//! Tokens that keep no log of their own are looked at now and then: an object that appeared, vanished or changed without a record of
//! ours is told. What was there at the last look is kept in memory; the first look of a run compares with the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::reconcile::{compare, ready, system_labels};
use super::tokens::NamedToken;
use super::{AUDIT_HEAD, object_id};
use crate::keystore::{MaterialId, ObjectFacts, Token};
use crate::ops::{Context, Ops};
use crate::store::{KeyRecord, Snapshot};

/// Differences of one kind that are told one by one.
const TOLD: usize = 100;

/// Objects of a token: by what names them, with a digest of their attributes.
type Objects = BTreeMap<ObjectName, (String, ObjectFacts)>;

/// Class, `CKA_ID`, label, and which of several that have all three.
type ObjectName = (String, String, String, usize);

/// What the last look saw, by the token's name.
#[derive(Default)]
pub struct Watched(std::sync::Mutex<BTreeMap<String, Objects>>);

/// What a look at the tokens found.
#[derive(Debug, Default)]
pub struct Look {
    /// One line per token: objects, differences, or why it could not be looked at.
    pub tokens: Vec<Value>,
    /// `eventName` and `details` of records for what has no record of ours.
    pub alerts: Vec<(&'static str, Value)>,
}

impl Ops {
    /// Compares each connected token's objects with the last look.
    pub async fn watch_tokens(&self, ctx: &Context) -> Look {
        let mut look = Look::default();
        let snapshot = self.store.snapshot();
        for named in &self.single_tokens(&snapshot) {
            let token = match ready(named) {
                Ok(token) => token,
                Err(because) => {
                    look.tokens.push(json!({ "token": named.name, "because": because }));
                    continue;
                }
            };
            match token.inventory(&self.generate_call(ctx), Arc::new(|_, _| {})).await {
                Ok(objects) => self.compare_with_last(named, token, &objects, &mut look),
                Err(error) => look.tokens.push(json!({ "token": named.name, "because": error.to_string() })),
            }
        }
        look
    }

    fn compare_with_last(&self, named: &NamedToken, token: &Token, objects: &[ObjectFacts], look: &mut Look) {
        // Keys that were made or destroyed while the token was read are in the newest snapshot.
        let snapshot = self.store.snapshot();
        let now = by_name(objects);
        let before = {
            let mut watched = self.watched.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            watched.insert(named.name.clone(), now.clone())
        };
        let alerts_before = look.alerts.len();
        match before {
            Some(before) => {
                let ours = Ours { records: self.held_by(named, &snapshot), system: labels(token), snapshot: &snapshot };
                for (name, details) in differences(&before, &now, &ours).into_iter().take(TOLD) {
                    look.alerts.push((name, with_token(details, named)));
                }
            }
            None => {
                let found =
                    compare(objects, &self.held_by(named, &snapshot), &system_labels(token), named.is_default());
                if !found.ok() {
                    let details = json!({ "found": found.glance(), "see": "hsm-bridge token reconcile" });
                    look.alerts.push(("TokenObjectsDisagree", with_token(details, named)));
                }
            }
        }
        look.tokens.push(json!({
            "token": named.name,
            "serial": token.info().serial,
            "objects": objects.len(),
            "alerts": look.alerts.len() - alerts_before,
        }));
    }
}

/// What explains a difference.
struct Ours<'a> {
    records: Vec<Arc<KeyRecord>>,
    system: Vec<String>,
    snapshot: &'a Snapshot,
}

impl Ours<'_> {
    /// A key or system key of ours is what this object is of.
    fn holds(&self, object: &ObjectFacts) -> bool {
        if self.system.contains(&object.label) {
            return true;
        }
        self.records.iter().any(|record| {
            let made = record.materials.iter().any(|material| hex::encode(object_id(record, material)) == object.id);
            // Without a material yet: the id that it will have.
            made || hex::encode(MaterialId { id: record.id.bytes(), generation: 0 }.cka_id()) == object.id
        })
    }

    /// It was ours and we destroyed it, or have given it up.
    fn gave_up(&self, object: &ObjectFacts) -> bool {
        let label = object.label.as_str();
        let ours = label.starts_with(super::PREFIX);
        let of_key = label.strip_prefix(super::PREFIX).and_then(|rest| rest.strip_prefix("kms/"));
        match of_key {
            Some(id) => !self.snapshot.keys.keys().any(|key| id.starts_with(&key.to_string())),
            // System keys come and go with records of their own.
            None => ours && self.system.iter().all(|system| system != label),
        }
    }
}

fn labels(token: &Token) -> Vec<String> {
    system_labels(token).into_iter().map(|(_, label)| label).collect()
}

fn by_name(objects: &[ObjectFacts]) -> Objects {
    let mut named = Objects::new();
    for object in objects {
        let class = object.class.clone().unwrap_or_default();
        let of_name = |n| (class.clone(), object.id.clone(), object.label.clone(), n);
        let free = (0..).find(|n| !named.contains_key(&of_name(*n))).unwrap_or_default();
        let text = serde_json::to_vec(object).unwrap_or_default();
        named.insert(of_name(free), (hex::encode(digest::digest(&digest::SHA256, &text)), object.clone()));
    }
    named
}

fn differences(before: &Objects, now: &Objects, ours: &Ours<'_>) -> Vec<(&'static str, Value)> {
    let mut told = Vec::new();
    for (name, (digest, object)) in now {
        match before.get(name) {
            None if is_head(object) => {}
            None if !ours.holds(object) => told.push(("TokenObjectAppeared", json!({ "object": object }))),
            Some((old, was)) if old != digest => {
                told.push(("TokenObjectChanged", json!({ "object": object, "before": was })));
            }
            _ => {}
        }
    }
    for (name, (_, object)) in before {
        if !now.contains_key(name) && (ours.holds(object) || !ours.gave_up(object)) {
            told.push(("TokenObjectVanished", json!({ "object": object })));
        }
    }
    told
}

/// The log's head: who it is from is checked where it is read.
fn is_head(object: &ObjectFacts) -> bool {
    object.class.as_deref() == Some("CKO_DATA") && object.label == AUDIT_HEAD
}

fn with_token(mut details: Value, named: &NamedToken) -> Value {
    if let Some(details) = details.as_object_mut() {
        details.insert("token".to_owned(), json!(named.name));
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(before: &[ObjectFacts], now: &[ObjectFacts]) -> Vec<&'static str> {
        let snapshot = Snapshot::default();
        let ours = Ours { records: Vec::new(), system: Vec::new(), snapshot: &snapshot };
        differences(&by_name(before), &by_name(now), &ours).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_logs_head_is_written_without_a_record() {
        let data =
            |label: &str| ObjectFacts { class: Some("CKO_DATA".into()), label: label.into(), ..ObjectFacts::default() };
        let (head, other) = (data(AUDIT_HEAD), data("head"));
        let key = ObjectFacts { class: Some("CKO_SECRET_KEY".into()), ..head.clone() };
        let (head, other, key) = (&[head], &[other], &[key]);
        let two = &[head[0].clone(), head[0].clone()];
        assert_eq!(told(&[], head), [""; 0]);
        assert_eq!(told(head, two), [""; 0]);
        assert_eq!(told(two, head), [""; 0]);
        assert_eq!(told(&[], other), ["TokenObjectAppeared"]);
        assert_eq!(told(&[], key), ["TokenObjectAppeared"]);
        assert_eq!(told(other, &[]), ["TokenObjectVanished"]);
    }
}
