//! Encrypt, Decrypt, ReEncrypt, GenerateDataKey, GenerateRandom and the MACs: every use of a key is a call to the token.

use std::sync::Arc;

use crate::ids::spec::{EncryptionAlgorithm, KeyUsage, MacAlgorithm};
use crate::keystore::{Hash, KeyRef, MaterialId};
use crate::ops::ciphertext::{Blob, Header, Suite, canonical_context};
use crate::ops::resolve::{KeyTarget, Named};
use crate::ops::{Context, DataKeySize, Effects, EncryptionContext, OpError, Ops, ReEncrypt, Response};
use crate::secret::SecretBytes;
use crate::store::{Lifecycle, Material};

impl Ops {
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn encrypt(
        &self,
        key: &KeyTarget,
        plaintext: &SecretBytes,
        context: &EncryptionContext,
        algorithm: EncryptionAlgorithm,
        dry_run: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        usable(key, KeyUsage::EncryptDecrypt, "Encrypt")?;
        symmetric_algorithm(key, algorithm)?;
        let canonical = canonical_context(context)?;
        dry(dry_run)?;
        let ciphertext = self.seal(key, &canonical, plaintext.clone(), ctx, effects).await?;
        Ok(Response::Encrypt { key_arn: key.arn.clone(), ciphertext })
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) async fn decrypt(
        &self,
        key: &KeyTarget,
        named: Option<&Named>,
        ciphertext: &[u8],
        context: &EncryptionContext,
        algorithm: EncryptionAlgorithm,
        dry_run: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        // Comes before any usage check, as in AWS: the named key may be of any kind.
        same_key(key, named)?;
        usable(key, KeyUsage::EncryptDecrypt, "Decrypt")?;
        symmetric_algorithm(key, algorithm)?;
        let canonical = canonical_context(context)?;
        dry(dry_run)?;
        let (plaintext, material_id) = self.open(key, ciphertext, &canonical, ctx, effects).await?;
        effects.key_material_id = Some(material_id.clone());
        Ok(Response::Decrypt { key_arn: key.arn.clone(), plaintext, key_material_id: told_material(key, material_id) })
    }

    pub(super) async fn re_encrypt(
        &self,
        request: &ReEncrypt,
        source: &KeyTarget,
        named: Option<&Named>,
        destination: &KeyTarget,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        same_key(source, named)?;
        usable(source, KeyUsage::EncryptDecrypt, "ReEncryptFrom")?;
        usable(destination, KeyUsage::EncryptDecrypt, "ReEncryptTo")?;
        symmetric_algorithm(source, request.source_algorithm)?;
        symmetric_algorithm(destination, request.destination_algorithm)?;
        let from = canonical_context(&request.source_context)?;
        let to = canonical_context(&request.destination_context)?;
        dry(request.dry_run)?;
        let (plaintext, source_material) = self.open(source, &request.ciphertext, &from, ctx, effects).await?;
        let ciphertext = self.seal(destination, &to, plaintext, ctx, effects).await?;
        let destination_material = effects.key_material_id.take().unwrap_or_else(|| "".into());
        effects.source_key_material_id = Some(source_material.clone());
        effects.destination_key_material_id = Some(destination_material.clone());
        Ok(Response::ReEncrypt {
            source_key_arn: source.arn.clone(),
            key_arn: destination.arn.clone(),
            ciphertext,
            source_key_material_id: told_material(source, source_material),
            destination_key_material_id: told_material(destination, destination_material),
        })
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) async fn generate_data_key(
        &self,
        key: &KeyTarget,
        size: DataKeySize,
        context: &EncryptionContext,
        with_plaintext: bool,
        dry_run: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let name = if with_plaintext { "GenerateDataKey" } else { "GenerateDataKeyWithoutPlaintext" };
        usable(key, KeyUsage::EncryptDecrypt, name)?;
        symmetric_algorithm(key, EncryptionAlgorithm::SymmetricDefault)?;
        let canonical = canonical_context(context)?;
        dry(dry_run)?;
        let material = current(key)?;
        self.budgets.take(key, material.generation, &self.store.snapshot()).await?;
        let token = self.token_of(key)?;
        let suite = Suite::of_iv_len(token.iv_len())?;
        let header = Header { suite, key: key.record.id, generation: material.generation };
        let aad = header.associated_data(&canonical);
        let done = token
            .data_key(&self.call(ctx), &key_ref(key, material), aad, size.byte_length())
            .await
            .map_err(|e| effects.refused(e, &key.arn))?;
        effects.hsm = Some(done.facts);
        let material_id: Arc<str> = material.material_id.as_str().into();
        effects.key_material_id = Some(material_id.clone());
        let (plaintext, sealed) = done.value;
        Ok(Response::GenerateDataKey {
            key_arn: key.arn.clone(),
            ciphertext: header.seal(&sealed.iv, &sealed.ciphertext)?,
            plaintext: with_plaintext.then_some(plaintext),
            key_material_id: told_material(key, material_id),
        })
    }

    /// `key_store`: CustomKeyStoreId as the caller wrote it.
    pub(super) async fn random(
        &self,
        bytes: u32,
        key_store: Option<&str>,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let token = match key_store {
            None => self.keystore.token().clone(),
            Some(id) => self.connected_store(&ctx.account, id)?,
        };
        let done = token.random(&self.call(ctx), bytes as usize).await.map_err(|e| effects.refused(e, "(random)"))?;
        effects.hsm = Some(done.facts);
        Ok(Response::GenerateRandom { plaintext: done.value })
    }

    pub(super) async fn generate_mac(
        &self,
        key: &KeyTarget,
        message: &SecretBytes,
        algorithm: MacAlgorithm,
        dry_run: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let mac = self.mac(key, message, algorithm, dry_run, "GenerateMac", ctx, effects).await?;
        Ok(Response::GenerateMac { key_arn: key.arn.clone(), mac, algorithm })
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) async fn verify_mac(
        &self,
        key: &KeyTarget,
        message: &SecretBytes,
        mac: &SecretBytes,
        algorithm: MacAlgorithm,
        dry_run: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let expected = self.mac(key, message, algorithm, dry_run, "VerifyMac", ctx, effects).await?;
        // `SecretBytes` compares in constant time.
        if expected != *mac {
            return Err(OpError::InvalidMac);
        }
        Ok(Response::VerifyMac { key_arn: key.arn.clone(), algorithm })
    }

    #[allow(clippy::too_many_arguments)]
    async fn mac(
        &self,
        key: &KeyTarget,
        message: &SecretBytes,
        algorithm: MacAlgorithm,
        dry_run: bool,
        operation: &'static str,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<SecretBytes, OpError> {
        usable(key, KeyUsage::GenerateVerifyMac, operation)?;
        if key.record.spec.mac_algorithm() != Some(algorithm) {
            return Err(OpError::IncompatibleMacAlgorithm { algorithm, spec: key.record.spec });
        }
        dry(dry_run)?;
        let hash = match algorithm {
            MacAlgorithm::HmacSha224 => Hash::Sha224,
            MacAlgorithm::HmacSha256 => Hash::Sha256,
            MacAlgorithm::HmacSha384 => Hash::Sha384,
            MacAlgorithm::HmacSha512 => Hash::Sha512,
        };
        let done = self
            .token_of(key)?
            .mac(&self.call(ctx), &key_ref(key, current(key)?), hash, message.clone())
            .await
            .map_err(|e| effects.refused(e, &key.arn))?;
        effects.hsm = Some(done.facts);
        Ok(done.value)
    }

    /// Encrypts under the key's current material and builds the blob.
    async fn seal(
        &self,
        key: &KeyTarget,
        canonical: &[u8],
        plaintext: SecretBytes,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Vec<u8>, OpError> {
        let material = current(key)?;
        self.budgets.take(key, material.generation, &self.store.snapshot()).await?;
        let token = self.token_of(key)?;
        let suite = Suite::of_iv_len(token.iv_len())?;
        let header = Header { suite, key: key.record.id, generation: material.generation };
        let aad = header.associated_data(canonical);
        let done = token
            .encrypt(&self.call(ctx), &key_ref(key, material), aad, plaintext)
            .await
            .map_err(|e| effects.refused(e, &key.arn))?;
        effects.hsm = Some(done.facts);
        effects.key_material_id = Some(material.material_id.as_str().into());
        header.seal(&done.value.iv, &done.value.ciphertext)
    }

    /// Opens a blob under the generation that its header names, and no other.
    async fn open(
        &self,
        key: &KeyTarget,
        ciphertext: &[u8],
        canonical: &[u8],
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<(SecretBytes, Arc<str>), OpError> {
        let blob = Blob::parse(ciphertext)?;
        let material = key.record.material(blob.header.generation).ok_or(OpError::InvalidCiphertext)?;
        let aad = blob.header.associated_data(canonical);
        let done = self
            .token_of(key)?
            .decrypt(&self.call(ctx), &key_ref(key, material), blob.iv.to_vec(), aad, blob.ciphertext.to_vec())
            .await
            .map_err(|e| effects.refused(e, &key.arn))?;
        effects.hsm = Some(done.facts);
        Ok((done.value, material.material_id.as_str().into()))
    }
}

/// RULE KMS: answers name the key material of keys outside of custom key stores only.
fn told_material(key: &KeyTarget, material_id: Arc<str>) -> Option<Arc<str>> {
    key.record.key_store.is_none().then_some(material_id)
}

/// State, then usage.
pub(super) fn usable(key: &KeyTarget, usage: KeyUsage, operation: &'static str) -> Result<(), OpError> {
    in_use(key)?;
    if key.record.usage != usage {
        return Err(OpError::InvalidKeyUsage { arn: key.arn.clone(), usage: key.record.usage, operation });
    }
    Ok(())
}

/// Whether the key's state lets it be used.
pub(super) fn in_use(key: &KeyTarget) -> Result<(), OpError> {
    let arn = || key.arn.clone();
    match key.record.lifecycle {
        Lifecycle::Enabled => Ok(()),
        Lifecycle::Disabled => Err(OpError::Disabled { arn: arn() }),
        Lifecycle::PendingDeletion { .. } => Err(OpError::PendingDeletion { arn: arn() }),
        Lifecycle::Unavailable { .. } => Err(OpError::KeyUnavailable { arn: arn() }),
        Lifecycle::Creating | Lifecycle::Deleting => Err(OpError::KeyNotFound { arn: arn() }),
    }
}

fn same_key(key: &KeyTarget, named: Option<&Named>) -> Result<(), OpError> {
    match named {
        Some(named) if !named.means(&key.record.id) => Err(OpError::IncorrectKey),
        _ => Ok(()),
    }
}

fn symmetric_algorithm(key: &KeyTarget, algorithm: EncryptionAlgorithm) -> Result<(), OpError> {
    if key.record.spec.is_symmetric() && algorithm == EncryptionAlgorithm::SymmetricDefault {
        return Ok(());
    }
    Err(OpError::IncompatibleEncryptionAlgorithm { algorithm: algorithm.as_str().to_owned(), spec: key.record.spec })
}

/// All checks have passed: a dry run ends here, before the token.
pub(super) fn dry(dry_run: bool) -> Result<(), OpError> {
    if dry_run { Err(OpError::DryRun) } else { Ok(()) }
}

pub(super) fn current(key: &KeyTarget) -> Result<&Material, OpError> {
    key.record.current().ok_or_else(|| OpError::Internal(format!("key {} has no material", key.record.id)))
}

pub(super) fn key_ref(key: &KeyTarget, material: &Material) -> KeyRef {
    KeyRef::Kms {
        material: MaterialId { id: key.record.id.bytes(), generation: material.generation },
        fingerprint: material.fingerprint.as_slice().into(),
    }
}
