//! `key adopt`: a key that somebody else made in the token comes under KMS management. Nothing in the token changes; the
//! store gets a record, or nothing.

use std::collections::BTreeSet;

use serde_json::json;

use super::expected::{self, PRIVATE, PUBLIC, SECRET};
use super::{PREFIX, object_id};
use crate::ids::AccountId;
use crate::ids::spec::KeySpec;
use crate::ids::{KeyId, KeyStoreId};
use crate::keystore::{Adopted, ErrorClass, MaterialId, ObjectFacts, ObjectSelector, SystemKey, Token};
use crate::ops::key_policy::default_policy;
use crate::ops::keys::{key_kind, supported, with_material};
use crate::ops::resolve::KeyTarget;
use crate::ops::{Context, Effects, KeyAdopt, OpError, OperatorResponse, Ops, token_error};
use crate::store::PolicyDocument;
use crate::store::{AliasRecord, KeyRecord, Lifecycle, Provenance, Snapshot, UsageRecord, Write};

/// The objects of one `CKA_ID`, found fit.
#[derive(Debug)]
struct Fit {
    spec: KeySpec,
    /// Of the secret key or of the private half.
    label: String,
    extractable: bool,
}

impl Ops {
    pub(super) async fn adopt_key(
        &self,
        request: &KeyAdopt,
        by: u32,
        id: KeyId,
        arn: &str,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let token = self.token_to_adopt_from(request.key_store.as_ref(), &ctx.account)?;
        let cka_id = self.find_to_adopt(&token, request, ctx).await?;
        let by_id = ObjectSelector { id: Some(cka_id.clone()), label: None };
        let objects = token.inspect(&self.generate_call(ctx), &by_id).await.map_err(|e| token_error(e, arn))?;
        let system: Vec<String> = SystemKey::ALL.into_iter().map(|key| token.system_label(key)).collect();
        let fit = judge(&objects, &system, request.allow_extractable).map_err(refused)?;
        let spec = fit.spec;
        let usage = spec.default_usage();
        if request.usage.is_some_and(|wanted| wanted != usage) {
            return Err(refused(format!("a key of spec {spec} has the usage {usage}: leave `--usage` out")));
        }
        if request.encryptions_so_far > 0 && !spec.is_symmetric() {
            return Err(refused(format!("a key of spec {spec} has no budget of encryptions to charge")));
        }
        if !supported(&token.capabilities(), spec) {
            return Err(refused(format!("the token cannot use keys of spec {spec}: `doctor` says what it can")));
        }
        if request.key_store.is_some() && !spec.is_symmetric() && !self.custom_store_key_specs.contains(&spec) {
            return Err(refused(format!(
                "a custom key store has keys of spec {spec} only where `key_stores.custom_store_key_specs` of the \
                 configuration names it"
            )));
        }
        may_be_taken(&self.store.snapshot(), &ctx.account, request, &cka_id)?;

        let material = MaterialId { id: id.bytes(), generation: 0 };
        let done = token.adopt(&self.generate_call(ctx), cka_id.clone(), material).await;
        let done = done.map_err(|error| match error.class {
            ErrorClass::WrongKey | ErrorClass::KeyMissing | ErrorClass::Unsupported => refused(error.detail),
            _ => token_error(error, arn),
        })?;
        effects.hsm = Some(done.facts);
        let Adopted { kind, generated, .. } = done.value;
        if kind != key_kind(spec) {
            return Err(OpError::Internal(format!("the key looked like {spec} and turned out to be {}", kind.name())));
        }
        let record = KeyRecord {
            id,
            account: ctx.account.clone(),
            created: ctx.now,
            description: request.description.clone(),
            spec,
            usage,
            lifecycle: Lifecycle::Enabled,
            policy: PolicyDocument::plain(default_policy(&ctx.account)),
            policy_version: 1,
            tags: Vec::new(),
            materials: Vec::new(),
            key_store: request.key_store.clone(),
            provenance: Provenance::Adopted {
                label: fit.label.clone(),
                by_os_user_id: by,
                extractable_accepted: fit.extractable,
            },
            managed_by: None,
        };
        let record = with_material(record, generated, ctx.now)?;
        let (asked, alias_account) = (request.clone(), ctx.account.clone());
        let (taken, now) = (cka_id.clone(), ctx.now);
        let (record, version) = self
            .change(ctx, move |snapshot| {
                may_be_taken(snapshot, &alias_account, &asked, &taken)?;
                let mut writes = vec![Write::PutKey(record.clone())];
                if asked.encryptions_so_far > 0 {
                    writes.push(Write::PutUsage(UsageRecord {
                        key: id,
                        generation: 0,
                        reserved: asked.encryptions_so_far,
                    }));
                }
                if let Some(name) = asked.alias {
                    writes.push(Write::PutAlias(AliasRecord {
                        name,
                        account: alias_account,
                        target: id,
                        created: now,
                        updated: now,
                        history: Vec::new(),
                    }));
                }
                Ok((writes, record))
            })
            .await
            // Nobody's again: the same object can be adopted at the next try.
            .inspect_err(|_| token.give_up(material))?;
        effects.store_version = Some(version);
        effects.details = Some(json!({
            "keyId": arn,
            "ckaId": hex::encode(&cka_id),
            "label": fit.label,
            "keySpec": spec.as_str(),
            "customKeyStoreId": request.key_store,
            "extractableAccepted": fit.extractable,
            "encryptionsSoFar": request.encryptions_so_far,
            "alias": request.alias,
        }));
        let target = KeyTarget { record: record.into(), arn: arn.to_owned() };
        Ok(OperatorResponse::Adopted { key: Box::new(self.key_details(&target, &self.store.snapshot())?) })
    }

    fn token_to_adopt_from(&self, store: Option<&KeyStoreId>, account: &AccountId) -> Result<Token, OpError> {
        if let Some(id) = store
            && self.store.snapshot().key_stores.get(id).is_none_or(|record| record.account != *account)
        {
            return Err(OpError::KeyStoreNotFound(id.to_string()));
        }
        self.keystore.token_of(store).ok_or_else(|| {
            let name = store.map(ToString::to_string).unwrap_or_default();
            OpError::KeyStoreInvalidState(format!("key store `{name}` is not connected: connect it, then adopt"))
        })
    }

    /// The `CKA_ID` of the one key that the request names.
    async fn find_to_adopt(&self, token: &Token, request: &KeyAdopt, ctx: &Context) -> Result<Vec<u8>, OpError> {
        let id = request.id.as_deref().map(hex::decode).transpose();
        let id = id.map_err(|_| refused("`CKA_ID` is written in hex digits, as `pkcs11-tool -O` shows it"))?;
        if id.is_none() && request.label.is_none() {
            return Err(refused("name the key by its `CKA_ID`, its label, or both"));
        }
        if id.as_ref().is_some_and(Vec::is_empty) {
            return Err(refused(NO_ID));
        }
        let selector = ObjectSelector { id, label: request.label.clone() };
        let found = token.inspect(&self.generate_call(ctx), &selector).await.map_err(|e| token_error(e, "adopt"))?;
        let keys = found.iter().filter(|object| is_key(object));
        let ids: BTreeSet<&str> = keys.map(|object| object.id.as_str()).collect();
        match (ids.len(), ids.first()) {
            (0, _) => {
                Err(refused("the token has no key with this `CKA_ID` and label: `pkcs11-tool -O --login` lists them"))
            }
            (1, Some(&"")) => Err(refused(NO_ID)),
            (1, Some(id)) => hex::decode(id).map_err(|e| OpError::Internal(e.to_string())),
            (n, _) => Err(refused(format!(
                "{n} keys have this label: name one of them by its `CKA_ID` (`{}`)",
                ids.into_iter().collect::<Vec<_>>().join("`, `")
            ))),
        }
    }
}

const NO_ID: &str = "the key has no `CKA_ID`, by which it would be found again: give it one with the token's own tool \
                     (`pkcs11-tool --set-id`)";

fn refused(why: impl Into<String>) -> OpError {
    OpError::Validation(format!("not adopted: {}", why.into()))
}

fn is_key(object: &ObjectFacts) -> bool {
    object.class.as_deref().is_some_and(|class| [SECRET, PRIVATE, PUBLIC].contains(&class))
}

/// Whether the objects of one `CKA_ID` make a key that may be adopted; if not, why, and what to do.
fn judge(objects: &[ObjectFacts], system: &[String], allow_extractable: bool) -> Result<Fit, String> {
    let keys: Vec<&ObjectFacts> = objects.iter().filter(|object| is_key(object)).collect();
    for object in objects {
        if object.label.starts_with(PREFIX) || system.contains(&object.label) {
            return Err(format!(
                "`{}` is a label of the bridge: its own keys, and those of another instance, are never adopted",
                object.label
            ));
        }
    }
    let of = |class: &str| -> Vec<&ObjectFacts> {
        keys.iter().copied().filter(|object| object.class.as_deref() == Some(class)).collect()
    };
    let (secret, private, public) = (of(SECRET), of(PRIVATE), of(PUBLIC));
    let key = match (secret.as_slice(), private.as_slice(), public.as_slice()) {
        ([key], [], []) | ([], [key], [_]) => *key,
        ([], [_], []) => {
            return Err("the private key has no public key with the same `CKA_ID` beside it: write it into the token \
                        (`pkcs11-tool --write-object … --type pubkey --id …`)"
                .to_owned());
        }
        ([], [], [_]) => return Err("there is a public key and no private one with this `CKA_ID`".to_owned()),
        _ => {
            return Err(format!(
                "several objects have this `CKA_ID` ({} secret, {} private, {} public keys): give each key an id of its \
                 own with the token's own tool",
                secret.len(),
                private.len(),
                public.len()
            ));
        }
    };
    let spec = expected::spec_of(key).map_err(|what| format!("no KMS key spec fits: {what}"))?;
    for object in &keys {
        let uses = expected::dangerous(object);
        if !uses.is_empty() {
            return Err(format!(
                "the {} has {} beside its use for KMS, by which other keys could leave the token or known ones come into \
                 it: set them to false in the token (docs/officer.md says how), or make the key anew without them",
                object.class.as_deref().unwrap_or_default(),
                uses.join(", "),
            ));
        }
    }
    let lacking = expected::lacking(spec, key);
    if !lacking.is_empty() {
        return Err(format!("a key of spec {spec} needs {}, which is not true", lacking.join(" and ")));
    }
    if key.private != Some(true) {
        return Err(
            "CKA_PRIVATE is not true: the token gives the key to programs that have not logged in. make a key \
                    that is private"
                .to_owned(),
        );
    }
    let extractable = key.extractable != Some(false) || key.sensitive != Some(true);
    if extractable && !allow_extractable {
        return Err("the key can leave the token (CKA_EXTRACTABLE is not false, or CKA_SENSITIVE is not true): a copy of it \
                    may be anywhere. make a new key, or take it all the same with `--allow-extractable`, which is recorded \
                    and stands in each attestation"
            .to_owned());
    }
    Ok(Fit { spec, label: key.label.clone(), extractable })
}

/// What the store has to say: no other key with these objects, a free alias. Also inside the transaction.
fn may_be_taken(snapshot: &Snapshot, account: &AccountId, request: &KeyAdopt, cka_id: &[u8]) -> Result<(), OpError> {
    let same_store = |record: &&std::sync::Arc<KeyRecord>| record.key_store == request.key_store;
    let mut known = snapshot.keys.values().filter(same_store);
    let owner = known.find(|record| {
        let own = MaterialId { id: record.id.bytes(), generation: 0 }.cka_id();
        own == cka_id || record.materials.iter().any(|material| object_id(record, material) == cka_id)
    });
    if let Some(record) = owner {
        return Err(refused(format!("the key is under management already, as key `{}`", record.id)));
    }
    if let Some(alias) = &request.alias {
        if alias.is_reserved() {
            return Err(OpError::ReservedAlias(alias.to_string()));
        }
        if let Some(record) = snapshot.alias(account, alias) {
            return Err(refused(format!("alias `{alias}` exists and points to key `{}`", record.target)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aes() -> ObjectFacts {
        ObjectFacts { label: "payroll".into(), ..expected::tests::aes() }
    }

    fn half(class: &str) -> ObjectFacts {
        ObjectFacts {
            class: Some(class.into()),
            key_type: Some("CKK_RSA".into()),
            modulus_bits: Some(2048),
            sign: Some(class == PRIVATE),
            value_len: None,
            ..aes()
        }
    }

    fn why(objects: &[ObjectFacts], allow: bool) -> String {
        judge(objects, &["b/store-kek".to_owned()], allow).map(|fit| format!("{fit:?}")).unwrap_err()
    }

    #[test]
    fn fit_keys() {
        let fit = judge(&[aes()], &[], false).unwrap();
        assert_eq!((fit.spec, fit.label.as_str(), fit.extractable), (KeySpec::SymmetricDefault, "payroll", false));
        assert_eq!(judge(&[half(PRIVATE), half(PUBLIC)], &[], false).unwrap().spec, KeySpec::Rsa2048);
        let certificate = ObjectFacts { class: Some("CKO_CERTIFICATE".into()), ..aes() };
        assert!(judge(&[half(PUBLIC), half(PRIVATE), certificate], &[], false).is_ok());
    }

    #[test]
    fn extractable_keys_need_the_flag_and_the_flag_stands_in_the_answer() {
        for open in [
            ObjectFacts { extractable: Some(true), ..aes() },
            ObjectFacts { extractable: None, ..aes() },
            ObjectFacts { sensitive: Some(false), ..aes() },
        ] {
            assert!(why(std::slice::from_ref(&open), false).contains("--allow-extractable"));
            assert!(judge(&[open], &[], true).unwrap().extractable);
        }
    }

    #[test]
    fn always_refused() {
        let with = |edit: fn(&mut ObjectFacts)| {
            let mut object = aes();
            edit(&mut object);
            vec![object]
        };
        let unwraps = ObjectFacts { unwrap: Some(true), ..half(PRIVATE) };
        for (objects, says) in [
            (with(|o| o.label = "hsm-bridge/kms/x".into()), "label of the bridge"),
            (with(|o| o.label = "b/store-kek".into()), "label of the bridge"),
            (with(|o| o.wrap = Some(true)), "CKA_WRAP"),
            (with(|o| o.unwrap = Some(true)), "CKA_UNWRAP"),
            (with(|o| o.derive = Some(true)), "CKA_DERIVE"),
            (vec![unwraps, half(PUBLIC)], "CKA_UNWRAP"),
            (vec![half(PRIVATE), ObjectFacts { wrap: Some(true), ..half(PUBLIC) }], "CKA_WRAP"),
            (vec![aes(), aes()], "several objects"),
            (vec![half(PRIVATE), half(PRIVATE), half(PUBLIC)], "several objects"),
            (vec![half(PRIVATE), half(PUBLIC), aes()], "several objects"),
            (vec![half(PRIVATE)], "no public key"),
            (vec![half(PUBLIC)], "no private one"),
            (vec![], "several objects"),
            (with(|o| o.value_len = Some(16)), "no KMS key spec"),
            (with(|o| o.key_type = Some("CKK_DES3".into())), "no KMS key spec"),
            (with(|o| o.decrypt = Some(false)), "CKA_DECRYPT"),
            (with(|o| o.private = Some(false)), "CKA_PRIVATE"),
        ] {
            assert!(why(&objects, true).contains(says), "{says}: {}", why(&objects, true));
        }
    }
}
