//! `token reconcile`: token and store compared. It says what does not agree, and changes nothing: what is superfluous is
//! removed by a person with the token's own tools.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::expected::{self, PRIVATE, PUBLIC, SECRET};
use super::tokens::NamedToken;
use super::{PREFIX, audit_keys, material_id, object_id, object_label};
use crate::ids::spec::KeySpec;
use crate::keystore::{KeyRef, MaterialId, ObjectFacts, Status, SystemKey, Token};
use crate::ops::{Context, Effects, OpError, OperatorResponse, Ops, Progress};
use crate::store::{KeyRecord, Lifecycle, Material, Snapshot};

/// Members of a list in the report; the count beside it is whole.
const LISTED: usize = 200;

/// Where token and store do not agree. Each entry is one line of the report.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    objects: usize,
    keys: usize,
    without_record: Vec<Value>,
    without_object: Vec<Value>,
    duplicates: Vec<Value>,
    attributes: Vec<Value>,
    public_keys: Vec<Value>,
    unreadable: Vec<Value>,
    system_keys: Vec<Value>,
    /// No faults: objects of others, and uses that do no harm.
    foreign: Vec<Value>,
    notes: Vec<Value>,
    system_faults: Vec<String>,
}

impl Ops {
    pub(super) async fn reconcile(
        &self,
        wanted: Option<&str>,
        snapshot: &Snapshot,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let mut tokens = self.single_tokens(snapshot);
        if let Some(name) = wanted {
            tokens.retain(|token| token.name == name);
            if tokens.is_empty() {
                return Err(super::tokens::unknown(name, &self.single_tokens(snapshot)));
            }
        }
        let progress = ctx.progress.clone().unwrap_or_default();
        let (mut reports, mut not_compared, mut ok) = (Vec::new(), Vec::new(), true);
        for named in &tokens {
            let keys = self.held_by(named, snapshot).len();
            match ready(named) {
                Ok(token) => {
                    let found = self.compare_token(named, token, ctx, &progress).await?;
                    ok &= found.ok();
                    reports.push(found.report(named, token));
                }
                Err(why) => not_compared.push(json!({ "token": named.name, "keys": keys, "because": why })),
            }
        }
        // Asked for one token that cannot be compared, "nothing found" would be no answer.
        if let (Some(name), true) = (wanted, reports.is_empty()) {
            let why = not_compared.first().and_then(|entry| entry.get("because")).and_then(Value::as_str);
            return Err(OpError::InvalidState(format!(
                "token `{name}` cannot be compared: {}",
                why.unwrap_or("it is not connected")
            )));
        }
        effects.details = Some(json!({
            "ok": ok,
            "tokens": tokens.iter().map(|token| &token.name).collect::<Vec<_>>(),
            "notCompared": not_compared,
        }));
        Ok(OperatorResponse::Reconciliation {
            report: json!({ "ok": ok, "tokens": reports, "notCompared": not_compared }),
        })
    }

    async fn compare_token(
        &self,
        named: &NamedToken,
        token: &Token,
        ctx: &Context,
        progress: &Arc<Progress>,
    ) -> Result<Found, OpError> {
        let before = progress.total.load(Ordering::Relaxed);
        let shown = progress.clone();
        let tell = move |done: u64, total: u64| {
            shown.total.store(before + total, Ordering::Relaxed);
            shown.done.store(before + done, Ordering::Relaxed);
        };
        let call = self.generate_call(ctx);
        let mut objects = token.inventory(&call, Arc::new(tell)).await.map_err(|e| OpError::Token(e.to_string()))?;
        // Keys that were made while the token was read are in the newest snapshot.
        let snapshot = self.store.snapshot();
        let records = self.held_by(named, &snapshot);
        let all = objects.len();
        let mut trail = match named.is_default() {
            true => audit_keys::split(&mut objects, &snapshot),
            false => audit_keys::OfTheTrail::default(),
        };
        if named.is_default() {
            trail.faults.extend(self.check_audit_keys(token, &snapshot, ctx).await);
        }
        let mut found = compare(&objects, &records, &system_labels(token), named.is_default());
        found.beside(trail, all);
        let pairs: Vec<(&KeyRecord, &Material)> = records
            .iter()
            .filter(|record| record.spec.is_key_pair() && judged(record))
            .flat_map(|record| record.materials.iter().map(move |m| (record.as_ref(), m)))
            .filter(|(record, material)| found.is_whole(&hex::encode(object_id(record, material))))
            .collect();
        progress.total.fetch_add(pairs.len() as u64, Ordering::Relaxed);
        for (record, material) in pairs {
            found.public_keys.extend(self.check_pair(token, record, material, ctx).await);
            progress.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(found)
    }

    /// The public key against the recorded one, and one signature: `None` where they agree.
    async fn check_pair(&self, token: &Token, record: &KeyRecord, material: &Material, ctx: &Context) -> Option<Value> {
        let fingerprint = material.fingerprint.as_slice().into();
        let key = KeyRef::Kms { material: material_id(record, material), fingerprint };
        let error = token.check(&self.generate_call(ctx), &key).await.err()?;
        let text = match error.class {
            crate::keystore::ErrorClass::WrongKey => format!("is not the recorded key: {}", error.detail),
            _ => format!("could not be checked: {error}"),
        };
        Some(line(record, material, &format!("the public key {text}")))
    }

    pub(super) fn held_by(&self, named: &NamedToken, snapshot: &Snapshot) -> Vec<Arc<KeyRecord>> {
        if !named.is_default() && named.store.is_none() {
            return Vec::new();
        }
        let store = named.store.as_ref().map(|store| &store.id);
        snapshot.keys.values().filter(|record| record.key_store.as_ref() == store).cloned().collect()
    }
}

/// The token of a row, if it can be asked now.
pub(super) fn ready(named: &NamedToken) -> Result<&Token, String> {
    match (&named.token, &named.store) {
        (Some(token), _) => match token.status() {
            Status::Ready => Ok(token),
            Status::Down(reason) => Err(format!("the token is down: {reason}")),
        },
        (None, _) if named.member.is_some() => {
            let because = named.member.as_ref().and_then(|member| member.down.clone()).unwrap_or_default();
            Err(format!("it is not used now: {because}"))
        }
        (None, None) => Err("no key store is made of it".to_owned()),
        (None, Some(store)) => Err(format!("its key store {} is not connected", store.id)),
    }
}

/// Labels of the bridge's own keys in this token.
pub(super) fn system_labels(token: &Token) -> Vec<(SystemKey, String)> {
    SystemKey::ALL.into_iter().map(|key| (key, token.system_label(key))).collect()
}

/// Keys that are being made or destroyed change under our eyes.
fn judged(record: &KeyRecord) -> bool {
    !matches!(record.lifecycle, Lifecycle::Creating | Lifecycle::Deleting)
}

/// Compares the objects of a token with the keys that it should hold.
pub(super) fn compare(
    objects: &[ObjectFacts],
    records: &[Arc<KeyRecord>],
    system: &[(SystemKey, String)],
    is_default: bool,
) -> Found {
    let mut found = Found { objects: objects.len(), keys: records.len(), ..Found::default() };
    let mut known = BTreeSet::new();
    for record in records {
        known.extend(record.materials.iter().map(|material| hex::encode(object_id(record, material))));
        if !judged(record) {
            // Without a material yet: the id that it will have.
            known.insert(hex::encode(MaterialId { id: record.id.bytes(), generation: 0 }.cka_id()));
        }
    }
    let mut held: BTreeMap<&str, Vec<&ObjectFacts>> = BTreeMap::new();
    let mut of_system: BTreeMap<&str, Vec<&ObjectFacts>> = BTreeMap::new();
    let kms = format!("{PREFIX}kms/");
    for object in objects {
        let is_key = object.class.as_deref().is_some_and(|class| [SECRET, PRIVATE, PUBLIC].contains(&class));
        if object.class.is_none() || (is_key && object.id.is_empty() && object.label.is_empty()) {
            found.unreadable.push(shown(object));
        } else if let Some((_, label)) = system.iter().find(|(_, label)| *label == object.label) {
            of_system.entry(label).or_default().push(object);
        } else if is_key && known.contains(&object.id) {
            held.entry(&object.id).or_default().push(object);
        } else if is_key && object.label.starts_with(&kms) {
            found.without_record.push(shown(object));
        } else {
            found.foreign.push(shown(object));
        }
    }
    for record in records.iter().filter(|record| judged(record)) {
        for material in &record.materials {
            let id = hex::encode(object_id(record, material));
            one_key(&mut found, record, material, held.get(id.as_str()).map_or(&[][..], Vec::as_slice));
        }
    }
    for (key, label) in system {
        one_system_key(&mut found, *key, label, of_system.get(label.as_str()).map_or(&[], Vec::as_slice), is_default);
    }
    found
}

fn one_key(found: &mut Found, record: &KeyRecord, material: &Material, objects: &[&ObjectFacts]) {
    let classes = expected::classes(record.spec);
    for class in classes {
        let of_class = objects.iter().filter(|object| object.class.as_deref() == Some(class)).count();
        match of_class {
            0 => found.without_object.push(line(record, material, &format!("the token has no {class} with this id"))),
            1 => {}
            n => found.duplicates.push(line(record, material, &format!("the token has {n} {class} with this id"))),
        }
    }
    for object in objects {
        let class = object.class.as_deref().unwrap_or_default();
        if !classes.contains(&class) {
            let text = format!("a {class} labelled `{}` has this id too", object.label);
            found.duplicates.push(line(record, material, &text));
            continue;
        }
        for fault in expected::faults(record, material, object) {
            found.attributes.push(line(record, material, &format!("{class}: {fault}")));
        }
        let superfluous = expected::superfluous(record.spec, object);
        if class != PUBLIC && !superfluous.is_empty() {
            let text = format!("{class}: {} beside its own use", superfluous.join(" and "));
            found.notes.push(line(record, material, &text));
        }
    }
}

/// A key of the bridge itself: there once (in the default key store's token, those that it cannot do without), protected
/// as a generated key is.
fn one_system_key(found: &mut Found, key: SystemKey, label: &str, objects: &[&ObjectFacts], is_default: bool) {
    let signs = key == SystemKey::Attest;
    let spec = if signs { KeySpec::Rsa3072 } else { KeySpec::SymmetricDefault };
    if !objects.is_empty() {
        found.system_keys.push(json!(label));
    }
    let needed = is_default && matches!(key, SystemKey::StoreKek | SystemKey::IamWrap);
    for class in expected::classes(spec) {
        let of_class: Vec<_> = objects.iter().filter(|object| object.class.as_deref() == Some(class)).collect();
        match of_class.len() {
            0 if !needed && objects.is_empty() => {}
            1 => {}
            n => found.system_faults.push(format!("`{label}`: the token has {n} {class} with this label, not 1")),
        }
    }
    for object in objects {
        let class = object.class.as_deref().unwrap_or_default();
        let mut faults = expected::form(spec, object, class);
        if !expected::classes(spec).contains(&class) {
            faults = vec![format!("a {class} has this label")];
        } else if class != PUBLIC {
            faults.extend(expected::protection(&expected::guarded(), object));
        }
        faults.extend(expected::dangerous(object).into_iter().map(|name| format!("{name} is true, not false")));
        found.system_faults.extend(faults.into_iter().map(|fault| format!("`{label}`: {fault}")));
    }
}

impl Found {
    pub(super) fn ok(&self) -> bool {
        let lists = [
            &self.without_record,
            &self.without_object,
            &self.duplicates,
            &self.attributes,
            &self.public_keys,
            &self.unreadable,
        ];
        lists.iter().all(|list| list.is_empty()) && self.system_faults.is_empty()
    }

    /// Whether a key's objects are there once each: only then there is something to check a fingerprint on.
    fn is_whole(&self, id: &str) -> bool {
        let named = |list: &[Value]| list.iter().any(|entry| entry.get("ckaId").and_then(Value::as_str) == Some(id));
        !named(&self.without_object) && !named(&self.duplicates)
    }

    /// The trail's own keys were judged apart; `objects`: all that the token has.
    pub(super) fn beside(&mut self, trail: audit_keys::OfTheTrail, objects: usize) {
        self.objects = objects;
        self.system_keys.extend(trail.labels);
        self.system_faults.extend(trail.faults);
    }

    /// What ids and labels alone tell, short.
    pub(super) fn glance(&self) -> Value {
        let mut orphans: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let text =
            |entry: &'_ Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let rows: Vec<_> = self.without_record.iter().map(|e| (text(e, "ckaId"), text(e, "label"))).collect();
        for (id, label) in &rows {
            orphans.entry(id).or_default().insert(label);
        }
        let orphans: Vec<Value> =
            orphans.into_iter().map(|(id, labels)| json!({ "id": id, "labels": labels })).collect();
        let lost: BTreeSet<String> = self.without_object.iter().map(|entry| text(entry, "keyId")).collect();
        json!({
            "inToken": self.objects,
            "withoutRecord": orphans,
            "recordsWithoutObject": lost,
            "duplicateIds": self.duplicates.len(),
            "unreadable": self.unreadable.len(),
            "foreign": self.foreign.len(),
        })
    }

    fn report(&self, named: &NamedToken, token: &Token) -> Value {
        json!({
            "token": named.name,
            "ok": self.ok(),
            "clusterId": named.cluster,
            "serial": token.info().serial,
            "keyStore": named.store.as_ref().map(|store| json!({ "id": store.id, "name": store.name })),
            "objects": self.objects,
            "keys": self.keys,
            "faults": {
                "objectsWithoutRecord": list(&self.without_record),
                "recordsWithoutObject": list(&self.without_object),
                "duplicateIds": list(&self.duplicates),
                "attributes": list(&self.attributes),
                "publicKeys": list(&self.public_keys),
                "unreadable": list(&self.unreadable),
                "systemKeys": self.system_faults,
            },
            "systemKeys": self.system_keys,
            "foreign": list(&self.foreign),
            "notes": list(&self.notes),
        })
    }
}

fn list(entries: &[Value]) -> Value {
    let listed: Vec<&Value> = entries.iter().take(LISTED).collect();
    json!({ "count": entries.len(), "listed": listed })
}

fn line(record: &KeyRecord, material: &Material, text: &str) -> Value {
    json!({
        "keyId": record.id.to_string(),
        "ckaId": hex::encode(object_id(record, material)),
        "label": object_label(record),
        "what": text,
    })
}

fn shown(object: &ObjectFacts) -> Value {
    json!({ "class": object.class, "ckaId": object.id, "label": object.label })
}
