//! `doctor`: everything about tokens and service that a bug report needs, and nothing that it must not have: no PIN, no
//! secret, no name of a principal. Nothing is changed in token or store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::audit_keys;
use super::reconcile::{compare, ready, system_labels};
use super::tokens::{NamedToken, merge, pin_flags};
use crate::ids::spec::KeySpec;
use crate::keystore::{
    Capabilities, DEFAULT_TOKEN, Hash, Isolation, KeyKind, ObjectFacts, SlotFacts, Status, blocking, slots,
};
use crate::ops::keys::{key_kind, supported};
use crate::ops::{Context, OpError, Ops};
use crate::store::{KeyStoreRecord, Snapshot};

/// How long a library may take to list its slots.
const LISTING: Duration = Duration::from_secs(15);

impl Ops {
    /// Tokens, what they can do, what follows from that, and how token and store agree at a glance.
    pub(crate) async fn doctor(&self, snapshot: &Snapshot, ctx: &Context) -> Result<Value, OpError> {
        let (mut tokens, mut objects) = (Vec::new(), Value::Null);
        for named in self.single_tokens(snapshot) {
            let mut line = self.token_line(&named, snapshot).await;
            merge(&mut line, Some(self.examine(&named, ctx).await));
            let compared = self.glance(&named, snapshot).await;
            if named.name == DEFAULT_TOKEN {
                objects = compared;
            } else {
                merge(&mut line, Some(json!({ "objects": compared })));
            }
            tokens.push(line);
        }
        let default = self.keystore.token();
        let status = match default.status() {
            Status::Ready => "ready".to_owned(),
            Status::Down(reason) => format!("down: {reason}"),
        };
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "status": status,
            "tokens": tokens,
            "objects": objects,
            "replication": self.replication(snapshot),
            "modules": self.modules().await,
            "trustAnchors": self.trust_anchors(snapshot),
            "store": {
                "version": snapshot.version,
                "keys": snapshot.keys.size(),
                "aliases": snapshot.aliases.size(),
                "keyStores": snapshot.key_stores.size(),
            },
            "gcmEncryptionLimit": self.budgets.limit(),
            "sweeper": self.sweeper_status(snapshot),
        }))
    }

    /// What a connected token can do. One that is down is not asked: what it cannot show is not thereby gone.
    async fn examine(&self, named: &NamedToken, ctx: &Context) -> Value {
        let token = match ready(named) {
            Ok(token) => token,
            Err(why) => return json!({ "notExamined": why }),
        };
        let (can, about) = (token.capabilities(), token.about());
        let enforcement = match token.enforcement(&self.generate_call(ctx)).await {
            Ok(found) => json!({
                "valueOfSensitiveKeyIsHidden": found.value_hidden,
                "sensitiveCannotBeTakenBack": found.sensitive_stays,
                "extractableCannotBeGivenBack": found.extractable_stays,
                "wrappingOfNonExtractableKeyIsRefused":
                    found.wrap_refused.map_or(json!("not tried: the token makes no key to wrap with"), Value::Bool),
                "alwaysSensitiveNeverExtractableLocalAreTold": found.history_told,
            }),
            Err(error) => json!({ "notTried": error.detail }),
        };
        json!({
            "isolation": isolation(&token.isolation()),
            "pinHint": about.pin_hint,
            "notes": about.notes,
            "ivContract": can.gcm_iv,
            "oaepHashes": can.oaep_hashes,
            "pssHashes": can.rsa_pss,
            "maxSessions": can.max_sessions.map_or(json!("no limit named"), Value::from),
            "attributeEnforcement": enforcement,
            "keySpecs": KeySpec::ALL.iter().filter(|s| supported(&can, **s)).map(|s| s.as_str()).collect::<Vec<_>>(),
            "keySpecsNotSupported": KeySpec::ALL
                .iter()
                .filter(|spec| !supported(&can, **spec))
                .map(|spec| (spec.as_str(), why_not(&can, *spec)))
                .collect::<BTreeMap<_, _>>(),
            "mechanisms": can.mechanisms,
        })
    }

    /// Ids and labels alone: `token reconcile` reads the attributes too.
    async fn glance(&self, named: &NamedToken, snapshot: &Snapshot) -> Value {
        let token = match ready(named) {
            Ok(token) => token,
            Err(why) => return json!(format!("not compared: {why}")),
        };
        let objects = match token.objects().await {
            Ok(objects) => objects,
            Err(error) => return json!(format!("not compared: {}", error.detail)),
        };
        let mut facts: Vec<ObjectFacts> = objects
            .into_iter()
            .map(|object| ObjectFacts {
                class: object.class.filter(|class| !class.is_empty()),
                id: object.id,
                label: object.label,
                ..ObjectFacts::default()
            })
            .collect();
        let all = facts.len();
        let trail = match named.is_default() {
            true => audit_keys::split(&mut facts, snapshot),
            false => audit_keys::OfTheTrail::default(),
        };
        let mut found = compare(&facts, &self.held_by(named, snapshot), &system_labels(token), named.is_default());
        found.beside(trail, all);
        found.glance()
    }

    /// All slots of each module, with their tokens.
    async fn modules(&self) -> Value {
        let mut modules: BTreeMap<String, Value> = BTreeMap::new();
        for (path, isolation) in self.module_paths() {
            let module = path.clone();
            let found = tokio::time::timeout(LISTING, blocking("slots", move || slots(&isolation, &module))).await;
            let shown = match found {
                Ok(Ok(slots)) => slots.iter().map(slot).collect(),
                Ok(Err(error)) => json!(format!("not listed: {}", error.detail)),
                // A thread in a library that hangs cannot be ended.
                Err(_) => json!("not listed: the library does not answer"),
            };
            // One library with several configurations: the slots of each.
            match (modules.entry(path.display().to_string()).or_insert_with(|| json!([])), shown) {
                (Value::Array(all), Value::Array(more)) => {
                    all.extend(more.into_iter().filter(|slot| !all.contains(slot)).collect::<Vec<_>>())
                }
                (Value::Array(all), failure) if !all.is_empty() => all.push(failure),
                (known, shown) => *known = shown,
            }
        }
        json!(modules)
    }

    /// With the process that loads it, each way once.
    fn module_paths(&self) -> Vec<(PathBuf, Isolation)> {
        let custom = self.keystore.configured().iter().map(|token| &token.settings);
        let custom = custom.map(|settings| (settings.module.clone(), settings.isolation.clone()));
        let token = self.keystore.token();
        let connected = self.keystore.connected().into_iter().map(|(_, token)| token);
        let members = connected.chain(std::iter::once(token.clone())).flat_map(|token| token.members());
        let members = members.filter_map(|member| member.token.map(|token| (token.module_path(), token.isolation())));
        let mut all: Vec<(PathBuf, Isolation)> = Vec::new();
        for one in custom.chain(std::iter::once((token.module_path(), token.isolation()))).chain(members) {
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }

    /// Certificates that owners of key stores gave, and whether anything was compared with them.
    fn trust_anchors(&self, snapshot: &Snapshot) -> Value {
        let given = snapshot.key_stores.values().filter(|store| store.trust_anchor.is_some());
        let line = |store: &Arc<KeyStoreRecord>| {
            let compared = self
                .keystore
                .of_cluster(&store.cluster, snapshot)
                .is_some_and(|token| token.identity_certificate.is_some());
            json!({
                "keyStore": store.id,
                "name": store.name,
                "proves": if compared {
                    "was compared with the token's identity certificate when the key store was created"
                } else {
                    "nothing: the configuration names no identity certificate of the token (`identity_certificate`)"
                },
            })
        };
        given.map(line).collect()
    }
}

/// As the configuration says it.
fn isolation(isolation: &Isolation) -> &'static str {
    match isolation {
        Isolation::InProcess => "in-process",
        Isolation::Process(_) => "process",
    }
}

fn slot(slot: &SlotFacts) -> Value {
    if !slot.initialized {
        return json!({ "slot": slot.slot, "model": slot.model, "state": "not initialised" });
    }
    json!({
        "slot": slot.slot,
        "label": slot.label,
        "serial": slot.serial,
        "manufacturer": slot.manufacturer,
        "model": slot.model,
        "firmware": slot.firmware,
        "loginRequired": slot.login_required,
        "pin": if slot.pin_initialized {
            pin_flags(slot.pin_locked, slot.pin_final_try, slot.pin_count_low)
        } else {
            "not initialised"
        },
    })
}

/// What the probe missed. The probe makes a throw-away key and uses it: a listed mechanism alone is no ability.
fn why_not(can: &Capabilities, spec: KeySpec) -> String {
    let (make, uses): (&str, &[&str]) = match key_kind(spec) {
        KeyKind::Aes256 => ("CKM_AES_KEY_GEN", &["CKM_AES_GCM"]),
        KeyKind::Rsa(_) => ("CKM_RSA_PKCS_KEY_PAIR_GEN", &["CKM_RSA_PKCS", "CKM_RSA_PKCS_PSS"]),
        KeyKind::Ec(_) => ("CKM_EC_KEY_PAIR_GEN", &["CKM_ECDSA"]),
        KeyKind::Ed25519 => ("CKM_EC_EDWARDS_KEY_PAIR_GEN", &["CKM_EDDSA"]),
        KeyKind::MlDsa(_) => ("CKM_ML_DSA_KEY_PAIR_GEN", &["CKM_ML_DSA"]),
        KeyKind::Hmac(Hash::Sha224) => ("CKM_GENERIC_SECRET_KEY_GEN", &["CKM_SHA224_HMAC"]),
        KeyKind::Hmac(Hash::Sha256) => ("CKM_GENERIC_SECRET_KEY_GEN", &["CKM_SHA256_HMAC"]),
        KeyKind::Hmac(Hash::Sha384) => ("CKM_GENERIC_SECRET_KEY_GEN", &["CKM_SHA384_HMAC"]),
        KeyKind::Hmac(Hash::Sha512) => ("CKM_GENERIC_SECRET_KEY_GEN", &["CKM_SHA512_HMAC"]),
    };
    // The names of one mechanism differ between versions of the standard (CKM_ECDSA_KEY_PAIR_GEN).
    let listed = |name: &str| can.mechanisms.iter().any(|known| known == name);
    let absent: Vec<&str> = uses.iter().copied().filter(|name| !listed(name)).collect();
    if absent.len() == uses.len() {
        return format!("the token does not list {}", absent.join(" or "));
    }
    format!("{make} and {} did not make a round trip with a throw-away key of this kind", uses.join(" or "))
}
