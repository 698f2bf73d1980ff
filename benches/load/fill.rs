//! Fills an instance in bulk: objects through the token layer, records through the store, a thousand to a transaction. No
//! audit records: this is no running service, and nobody will ask who made these keys.

use std::path::Path;
use std::time::{Duration, Instant};

use hsm_bridge::app::now_ms;
use hsm_bridge::config::Config;
use hsm_bridge::ids::KeyId;
use hsm_bridge::ids::spec::KeySpec;
use hsm_bridge::ops::default_policy;
use hsm_bridge::ops::store_key::TokenWrap;
use hsm_bridge::store::{KeyRecord, Lifecycle, Material, PolicyDocument, Store, StoreError, Write};
use hsm_bridge::token::{CallContext, Curve, KeyKind, MaterialId, Token};

use crate::instance::Keys;

const BATCH: usize = 1000;

pub async fn fill(config: &Config, dir: &Path, count: usize) {
    let token = open_token(config);
    let lock = Store::lock(&config.server.state_dir).expect("nobody serves this instance");
    let store = Store::open(lock, &TokenWrap::new(token.clone())).await.expect("the store opens");
    let account = &config.server.locality.account;
    let mut keys = Vec::with_capacity(count + 1);
    let mut writes = Vec::with_capacity(BATCH);
    for number in 0..=count {
        let (spec, kind) = match number {
            0 => (KeySpec::EccNistP256, KeyKind::Ec(Curve::P256)),
            _ => (KeySpec::SymmetricDefault, KeyKind::Aes256),
        };
        let id = KeyId::new(uuid::Uuid::new_v4().into_bytes(), false);
        let material = MaterialId { id: id.bytes(), generation: 0 };
        let label = format!("hsm-bridge/kms/{id}");
        let made = token.generate(&context(), kind, material, &label).await.expect("the token makes keys").value;
        let material = Material {
            generation: 0,
            material_id: hex::encode([uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat()),
            created: now_ms(),
            fingerprint: made.fingerprint,
            spki: made.spki,
            object_id: None,
            evidence: serde_json::to_value(&made.evidence).expect("plain data"),
        };
        writes.push(Write::PutKey(KeyRecord {
            id,
            account: account.clone(),
            created: now_ms(),
            description: format!("bench key {number}"),
            spec,
            usage: spec.default_usage(),
            lifecycle: Lifecycle::Enabled,
            policy: PolicyDocument::plain(default_policy(account)),
            policy_version: 1,
            tags: Vec::new(),
            materials: vec![material],
            key_store: None,
            provenance: hsm_bridge::store::Provenance::Generated,
            managed_by: None,
        }));
        keys.push(id);
        if writes.len() == BATCH || number == count {
            let batch = std::mem::take(&mut writes);
            store.update(move |_| Ok::<_, StoreError>((batch, ()))).await.expect("the store takes a batch");
        }
    }
    store.close().await.expect("the store closes");
    token.close();
    let signing = keys.remove(0);
    Keys { symmetric: keys, signing }.write(dir);
}

pub fn open_token(config: &Config) -> Token {
    open_token_in(config, hsm_bridge::token::Isolation::InProcess)
}

pub fn open_token_in(config: &Config, isolation: hsm_bridge::token::Isolation) -> Token {
    let settings = hsm_bridge::token::Settings {
        module: config.token.module.clone(),
        selector: hsm_bridge::token::Selector { label: config.token.selector.label.clone(), ..Default::default() },
        expect_serial: None,
        profile: hsm_bridge::token::Profile::default(),
        workers: config.token.workers,
        queue: config.token.queue,
        generate_deadline: config.token.generate_deadline,
        pin_marks: config.token.pin_marks.clone(),
        retry: hsm_bridge::token::Retry::default(),
        hang_grace: config.token.hang_grace,
        isolation,
    };
    Token::open(settings, config.token.pin.read().expect("the instance has a PIN")).expect("the token opens")
}

pub fn context() -> CallContext {
    CallContext {
        principal: "bench".into(),
        deadline: Instant::now() + Duration::from_secs(60),
        request_id: "bench".into(),
    }
}
