//! The life of a key: described, listed, enabled and disabled, scheduled for deletion, destroyed.

mod making;

use std::ops::Bound;

use crate::ids::spec::{EncryptionAlgorithm, KeySpec, KeyState, SigningAlgorithm};
use crate::ids::{AccountId, ClusterId, KeyId, KeyStoreId};
use crate::keystore::{Capabilities, Curve, Hash, KeyKind, MaterialId, MlDsa};
use crate::ops::resolve::KeyTarget;
use crate::ops::{Context, DAY_MS, Effects, KeyMetadata, OpError, Ops, Page, Response, update_error};
use crate::store::{KeyRecord, Lifecycle, Material, Snapshot, TombstoneRecord, Write};
pub(super) use making::{NewKey, with_material};

/// The model's defaults and bounds (kms-api.md §1 rule 7).
const LIST_KEYS_DEFAULT: u32 = 100;

/// Labels of customer master keys in the token.
pub fn label(id: &KeyId) -> String {
    format!("hsm-bridge/kms/{id}")
}

impl Ops {
    /// Of a key that not all of its key store's tokens hold: where it is.
    pub(super) fn replication_of(&self, record: &KeyRecord) -> Option<serde_json::Value> {
        let token = self.keystore.token_of(record.key_store.as_ref())?;
        let replicas =
            token.replicas(MaterialId { id: record.id.bytes(), generation: record.current()?.generation })?;
        (!replicas.missing_from.is_empty()).then(|| {
            serde_json::json!({
                "unreplicated": true,
                "heldBy": replicas.held_by.iter().map(|name| &**name).collect::<Vec<_>>(),
                "missingFrom": replicas.missing_from.iter().map(|name| &**name).collect::<Vec<_>>(),
            })
        })
    }

    pub(super) fn metadata(&self, key: &KeyTarget) -> KeyMetadata {
        let record = &key.record;
        let spec = record.spec;
        KeyMetadata {
            account: record.account.to_string(),
            key_id: record.id,
            arn: key.arn.clone(),
            creation_date: record.created,
            description: record.description.clone(),
            enabled: self.state(record) == KeyState::Enabled,
            spec,
            usage: record.usage,
            state: self.state(record),
            deletion_date: match record.lifecycle {
                Lifecycle::PendingDeletion { deletion_date } => Some(deletion_date),
                _ => None,
            },
            current_key_material_id: record
                .current()
                // RULE KMS: keys of origin AWS_KMS and EXTERNAL only.
                .filter(|_| spec.is_symmetric() && record.key_store.is_none())
                .map(|material| material.material_id.clone()),
            encryption_algorithms: if spec.is_symmetric() {
                vec![EncryptionAlgorithm::SymmetricDefault]
            } else {
                Vec::new()
            },
            signing_algorithms: self.signing_algorithms(record),
            mac_algorithms: spec.mac_algorithm().into_iter().collect(),
            custom_store: self.custom_store(record),
            managed: record.managed_by.is_some(),
        }
    }

    fn custom_store(&self, record: &KeyRecord) -> Option<(KeyStoreId, ClusterId)> {
        let id = record.key_store.as_ref()?;
        let cluster = self.store.snapshot().key_stores.get(id)?.cluster.clone();
        Some((id.clone(), cluster))
    }

    /// AWS's state: a key is Unavailable while its key store is not connected, whatever else it is, unless it waits for its
    /// deletion.
    pub(super) fn state(&self, record: &KeyRecord) -> KeyState {
        match record.lifecycle {
            Lifecycle::Enabled | Lifecycle::Disabled if !self.keystore.is_connected(record.key_store.as_ref()) => {
                KeyState::Unavailable
            }
            _ => state(&record.lifecycle),
        }
    }

    /// Those of the spec that the key's token can do, in AWS's order; all of them where its token was not connected since the
    /// start.
    pub(super) fn signing_algorithms(&self, record: &KeyRecord) -> Vec<SigningAlgorithm> {
        let can = self.keystore.capabilities(record.key_store.as_ref());
        let pss = |hash| can.as_ref().is_none_or(|can| can.rsa_pss.contains(&hash));
        record
            .spec
            .signing_algorithms()
            .iter()
            .copied()
            .filter(|algorithm| match algorithm {
                SigningAlgorithm::RsassaPkcs1V15Sha256
                | SigningAlgorithm::RsassaPkcs1V15Sha384
                | SigningAlgorithm::RsassaPkcs1V15Sha512 => can.as_ref().is_none_or(|can| can.rsa_pkcs1v15),
                SigningAlgorithm::RsassaPssSha256 => pss(Hash::Sha256),
                SigningAlgorithm::RsassaPssSha384 => pss(Hash::Sha384),
                SigningAlgorithm::RsassaPssSha512 => pss(Hash::Sha512),
                SigningAlgorithm::EcdsaSha256
                | SigningAlgorithm::EcdsaSha384
                | SigningAlgorithm::EcdsaSha512
                | SigningAlgorithm::Ed25519Sha512
                | SigningAlgorithm::MlDsaShake256 => true,
                SigningAlgorithm::Ed25519PhSha512 => false,
            })
            .collect()
    }

    pub(super) fn list_keys(&self, page: &Page, account: &AccountId, snapshot: &Snapshot) -> Result<Response, OpError> {
        let list = format!("ListKeys {account}");
        let limit = page.limit.unwrap_or(LIST_KEYS_DEFAULT) as usize;
        let from = match &page.marker {
            None => Bound::Unbounded,
            Some(marker) => {
                let after = self.markers.open(&list, marker)?;
                Bound::Excluded(after.parse::<KeyId>().map_err(|_| OpError::InvalidMarker)?)
            }
        };
        let shown = |record: &KeyRecord| {
            record.account == *account && !matches!(record.lifecycle, Lifecycle::Creating | Lifecycle::Deleting)
        };
        let mut rest = snapshot.keys.range((from, Bound::Unbounded)).filter(|(_, r)| shown(r)).map(|(id, _)| *id);
        let ids: Vec<KeyId> = rest.by_ref().take(limit).collect();
        let next_marker = match (rest.next(), ids.last()) {
            (Some(_), Some(last)) => Some(self.markers.seal(&list, &last.to_string())?),
            _ => None,
        };
        let here = self.locality.of(account);
        Ok(Response::ListKeys { keys: ids.iter().map(|id| (*id, here.key_arn(id))).collect(), next_marker })
    }

    pub(super) async fn set_enabled(
        &self,
        key: &KeyTarget,
        enabled: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        self.change_key(key, ctx, effects, move |record, arn| {
            record.lifecycle = match (&record.lifecycle, enabled) {
                (Lifecycle::PendingDeletion { .. }, _) => return Err(OpError::PendingDeletion { arn: arn.to_owned() }),
                (Lifecycle::Unavailable { .. }, _) => Lifecycle::Unavailable { was_enabled: enabled },
                (_, true) => Lifecycle::Enabled,
                (_, false) => Lifecycle::Disabled,
            };
            Ok(())
        })
        .await?;
        Ok(Response::Empty)
    }

    pub(super) async fn schedule_deletion(
        &self,
        key: &KeyTarget,
        days: u32,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let deletion_date = ctx.now + i64::from(days) * DAY_MS;
        self.change_key(key, ctx, effects, move |record, arn| {
            not_pending(record, arn)?;
            record.lifecycle = Lifecycle::PendingDeletion { deletion_date };
            Ok(())
        })
        .await?;
        effects.key_store = self.backing_keys(&key.record, None);
        Ok(Response::ScheduleKeyDeletion { key_arn: key.arn.clone(), deletion_date, pending_window_in_days: days })
    }

    /// The key comes back disabled, as in AWS.
    pub(super) async fn cancel_deletion(
        &self,
        key: &KeyTarget,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        self.change_key(key, ctx, effects, |record, arn| match record.lifecycle {
            Lifecycle::PendingDeletion { .. } => {
                record.lifecycle = Lifecycle::Disabled;
                Ok(())
            }
            _ => Err(OpError::NotPendingDeletion { arn: arn.to_owned() }),
        })
        .await?;
        Ok(Response::CancelKeyDeletion { key_arn: key.arn.clone() })
    }

    /// The end of a deletion window: row `Deleting` → C_DestroyObject → looked for and not found → tombstone, and the
    /// aliases go with the key.
    pub(super) async fn destroy_key(
        &self,
        id: &KeyId,
        arn: &str,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<(), OpError> {
        let (id, now) = (*id, ctx.now);
        let arn = arn.to_owned();
        let gone = arn.clone();
        let (record, _) = self
            .store
            .update(move |snapshot| {
                let record = snapshot.keys.get(&id).ok_or(OpError::KeyNotFound { arn: gone.clone() })?;
                match record.lifecycle {
                    Lifecycle::Deleting => return Ok((Vec::new(), record.as_ref().clone())),
                    Lifecycle::PendingDeletion { deletion_date } if deletion_date <= now => {}
                    // Cancelled meanwhile.
                    _ => return Err(OpError::NotPendingDeletion { arn: gone }),
                }
                let deleting = KeyRecord { lifecycle: Lifecycle::Deleting, ..record.as_ref().clone() };
                Ok((vec![Write::PutKey(deleting.clone())], deleting))
            })
            .await
            .map_err(update_error)?;
        let call = self.generate_call(ctx);
        let token = self
            .keystore
            .token_of(record.key_store.as_ref())
            .ok_or_else(|| OpError::KeyStoreDisconnected { arn: arn.clone() })?;
        let mut destroyed = 0;
        for material in &record.materials {
            let material = MaterialId { id: id.bytes(), generation: material.generation };
            let done = token.destroy(&call, material).await.map_err(|e| effects.refused(e, &arn))?;
            effects.hsm = Some(done.facts);
            destroyed += done.value as u64;
        }
        let tombstone = TombstoneRecord {
            id,
            account: record.account.clone(),
            spec: record.spec,
            created: record.created,
            deleted: now,
            objects_destroyed: destroyed,
        };
        let ((), version) = self
            .change(ctx, move |snapshot| {
                let aliases = snapshot.aliases_of.get(&id).cloned().unwrap_or_default();
                let account = &tombstone.account;
                let mut writes: Vec<Write> =
                    aliases.into_iter().map(|name| Write::DeleteAlias(account.clone(), name)).collect();
                // RULE KMS: the grants of a key go with it.
                let grants = snapshot.grants_of(id).map(|grant| Write::DeleteGrant(id, grant.id.clone()));
                writes.extend(grants);
                writes.push(Write::PutTombstone(tombstone));
                writes.push(Write::DeleteUsage(id));
                writes.push(Write::DeleteKey(id));
                Ok((writes, ()))
            })
            .await?;
        effects.store_version = Some(version);
        effects.key_store = self.backing_keys(&record, Some("SUCCESS"));
        effects.details = Some(serde_json::json!({ "objectsDestroyed": destroyed }));
        Ok(())
    }

    /// One change of one key's record, on the newest state of that key (never of another: the id is the authorised one).
    pub(super) async fn change_key(
        &self,
        key: &KeyTarget,
        ctx: &Context,
        effects: &mut Effects,
        edit: impl FnOnce(&mut KeyRecord, &str) -> Result<(), OpError> + Send + 'static,
    ) -> Result<(), OpError> {
        self.settled(&key.record.id, &key.arn)?;
        let (id, arn) = (key.record.id, key.arn.clone());
        let ((), version) = self
            .change(ctx, move |snapshot| {
                let mut record = newest(snapshot, &id, &arn)?;
                edit(&mut record, &arn)?;
                Ok((vec![Write::PutKey(record)], ()))
            })
            .await?;
        effects.store_version = Some(version);
        Ok(())
    }
}

/// The record as it is inside the transaction.
pub(super) fn newest(snapshot: &Snapshot, id: &KeyId, arn: &str) -> Result<KeyRecord, OpError> {
    match snapshot.keys.get(id) {
        Some(record) if !matches!(record.lifecycle, Lifecycle::Creating | Lifecycle::Deleting) => {
            Ok(record.as_ref().clone())
        }
        _ => Err(OpError::KeyNotFound { arn: arn.to_owned() }),
    }
}

/// What a key that waits for its deletion refuses.
pub(super) fn not_pending(record: &KeyRecord, arn: &str) -> Result<(), OpError> {
    match record.lifecycle {
        Lifecycle::PendingDeletion { .. } => Err(OpError::PendingDeletion { arn: arn.to_owned() }),
        _ => Ok(()),
    }
}

pub(super) fn state(lifecycle: &Lifecycle) -> KeyState {
    match lifecycle {
        Lifecycle::Creating => KeyState::Creating,
        Lifecycle::Enabled => KeyState::Enabled,
        Lifecycle::Disabled => KeyState::Disabled,
        Lifecycle::PendingDeletion { .. } | Lifecycle::Deleting => KeyState::PendingDeletion,
        Lifecycle::Unavailable { .. } => KeyState::Unavailable,
    }
}

pub(super) fn key_kind(spec: KeySpec) -> KeyKind {
    match spec {
        KeySpec::SymmetricDefault => KeyKind::Aes256,
        KeySpec::Rsa2048 => KeyKind::Rsa(2048),
        KeySpec::Rsa3072 => KeyKind::Rsa(3072),
        KeySpec::Rsa4096 => KeyKind::Rsa(4096),
        KeySpec::EccNistP256 => KeyKind::Ec(Curve::P256),
        KeySpec::EccNistP384 => KeyKind::Ec(Curve::P384),
        KeySpec::EccNistP521 => KeyKind::Ec(Curve::P521),
        KeySpec::EccSecgP256k1 => KeyKind::Ec(Curve::Secp256k1),
        KeySpec::EccNistEdwards25519 => KeyKind::Ed25519,
        KeySpec::MlDsa44 => KeyKind::MlDsa(MlDsa::MlDsa44),
        KeySpec::MlDsa65 => KeyKind::MlDsa(MlDsa::MlDsa65),
        KeySpec::MlDsa87 => KeyKind::MlDsa(MlDsa::MlDsa87),
        KeySpec::Hmac224 => KeyKind::Hmac(Hash::Sha224),
        KeySpec::Hmac256 => KeyKind::Hmac(Hash::Sha256),
        KeySpec::Hmac384 => KeyKind::Hmac(Hash::Sha384),
        KeySpec::Hmac512 => KeyKind::Hmac(Hash::Sha512),
    }
}

/// What a token cannot do is refused at CreateKey.
pub fn supported(can: &Capabilities, spec: KeySpec) -> bool {
    match key_kind(spec) {
        KeyKind::Aes256 => can.aes_gcm,
        KeyKind::Rsa(_) => can.rsa_pkcs1v15 || !can.rsa_pss.is_empty(),
        KeyKind::Ec(curve) => can.ecdsa.contains(&curve),
        KeyKind::Ed25519 => can.ed25519,
        KeyKind::MlDsa(set) => can.ml_dsa.contains(&set),
        KeyKind::Hmac(hash) => can.hmac.contains(&hash),
    }
}

/// `CKA_ID` of a material's objects, hex.
pub(super) fn cka_id(record: &KeyRecord, material: &Material) -> String {
    let named = MaterialId { id: record.id.bytes(), generation: material.generation };
    hex::encode(material.object_id.as_ref().unwrap_or(&named.cka_id()))
}
