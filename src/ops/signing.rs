//! Sign, Verify and GetPublicKey. Messages are hashed here and digests are signed in the token, so `MessageType=DIGEST`
//! means what it says. Verify runs in software on the recorded public key.

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

use crate::ids::spec::{KeySpec, KeyUsage, MessageType, SigningAlgorithm};
use crate::keystore::{Hash, SignMechanism};
use crate::ops::crypto::{current, dry, key_ref, usable};
use crate::ops::resolve::KeyTarget;
use crate::ops::{Context, Effects, OpError, Ops, Response};
use crate::secret::SecretBytes;

impl Ops {
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn sign(
        &self,
        key: &KeyTarget,
        message: &SecretBytes,
        message_type: MessageType,
        algorithm: SigningAlgorithm,
        dry_run: bool,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Response, OpError> {
        let input = self.signing_input(key, message, message_type, algorithm, "Sign")?;
        dry(dry_run)?;
        let material = current(key)?;
        let done = self
            .token_of(key)?
            .sign(&self.call(ctx), &key_ref(key, material), mechanism(algorithm)?, input)
            .await
            .map_err(|e| effects.refused(e, &key.arn))?;
        effects.hsm = Some(done.facts);
        Ok(Response::Sign { key_arn: key.arn.clone(), signature: done.value, algorithm })
    }

    pub(super) fn verify(
        &self,
        key: &KeyTarget,
        message: &SecretBytes,
        message_type: MessageType,
        signature: &[u8],
        algorithm: SigningAlgorithm,
        dry_run: bool,
    ) -> Result<Response, OpError> {
        let input = self.signing_input(key, message, message_type, algorithm, "Verify")?;
        let spki = spki(key)?;
        dry(dry_run)?;
        if !verifies(algorithm, key.record.spec, spki, input.expose(), signature)? {
            return Err(OpError::InvalidSignature);
        }
        Ok(Response::Verify { key_arn: key.arn.clone(), algorithm })
    }

    pub(super) fn public_key(&self, key: &KeyTarget) -> Result<Response, OpError> {
        super::crypto::in_use(key)?;
        if !key.record.spec.is_key_pair() {
            return Err(OpError::Unsupported(format!("{} has no public key.", key.arn)));
        }
        Ok(Response::GetPublicKey {
            key_arn: key.arn.clone(),
            spki: spki(key)?.into(),
            spec: key.record.spec,
            usage: key.record.usage,
            signing_algorithms: self.signing_algorithms(&key.record),
        })
    }

    /// State, usage, algorithm, then what is signed: the digest of the message, or the message itself for Ed25519 and
    /// ML-DSA.
    fn signing_input(
        &self,
        key: &KeyTarget,
        message: &SecretBytes,
        message_type: MessageType,
        algorithm: SigningAlgorithm,
        operation: &'static str,
    ) -> Result<SecretBytes, OpError> {
        usable(key, KeyUsage::SignVerify, operation)?;
        let spec = key.record.spec;
        if !self.signing_algorithms(&key.record).contains(&algorithm) {
            return Err(OpError::IncompatibleSigningAlgorithm { algorithm, spec });
        }
        match (message_type, algorithm.digest_len()) {
            // PKCS#11 3.2 signs messages (CKM_ML_DSA) and digests (CKM_HASH_ML_DSA, which is another algorithm): no mechanism
            // takes mu. Verify follows: what cannot be signed here is not said to be valid or not.
            (MessageType::ExternalMu, _) if algorithm == SigningAlgorithm::MlDsaShake256 => Err(OpError::Unsupported(
                "MessageType EXTERNAL_MU is not served: PKCS#11 has no mechanism that signs a message representative mu. \
                 Send the message as RAW."
                    .to_owned(),
            )),
            (MessageType::Raw, None) => Ok(message.clone()),
            (MessageType::Raw, Some(_)) => {
                Ok(SecretBytes::new(digest::digest(hash_of(algorithm)?, message.expose()).as_ref().to_vec()))
            }
            (MessageType::Digest, Some(len)) if message.len() == len => Ok(message.clone()),
            (MessageType::Digest, Some(_)) => Err(OpError::DigestLength(algorithm)),
            (MessageType::Digest, None) => {
                Err(OpError::Validation(format!("MessageType DIGEST is not valid for algorithm {algorithm}.")))
            }
            (MessageType::ExternalMu, _) => {
                Err(OpError::Validation(format!("MessageType EXTERNAL_MU is not valid for algorithm {algorithm}.")))
            }
        }
    }
}

fn spki(key: &KeyTarget) -> Result<&[u8], OpError> {
    current(key)?
        .spki
        .as_deref()
        .ok_or_else(|| OpError::Internal(format!("key {} has no recorded public key", key.record.id)))
}

fn mechanism(algorithm: SigningAlgorithm) -> Result<SignMechanism, OpError> {
    use SigningAlgorithm as A;
    Ok(match algorithm {
        A::RsassaPkcs1V15Sha256 => SignMechanism::RsaPkcs1v15(Hash::Sha256),
        A::RsassaPkcs1V15Sha384 => SignMechanism::RsaPkcs1v15(Hash::Sha384),
        A::RsassaPkcs1V15Sha512 => SignMechanism::RsaPkcs1v15(Hash::Sha512),
        A::RsassaPssSha256 => SignMechanism::RsaPss(Hash::Sha256),
        A::RsassaPssSha384 => SignMechanism::RsaPss(Hash::Sha384),
        A::RsassaPssSha512 => SignMechanism::RsaPss(Hash::Sha512),
        A::EcdsaSha256 | A::EcdsaSha384 | A::EcdsaSha512 => SignMechanism::Ecdsa,
        A::Ed25519Sha512 => SignMechanism::Ed25519,
        A::MlDsaShake256 => SignMechanism::MlDsa,
        A::Ed25519PhSha512 => return Err(not_served(algorithm)),
    })
}

fn hash_of(algorithm: SigningAlgorithm) -> Result<&'static digest::Algorithm, OpError> {
    match algorithm.digest_len() {
        Some(32) => Ok(&digest::SHA256),
        Some(48) => Ok(&digest::SHA384),
        Some(64) => Ok(&digest::SHA512),
        _ => Err(not_served(algorithm)),
    }
}

fn not_served(algorithm: SigningAlgorithm) -> OpError {
    OpError::Unsupported(format!("{algorithm} is not served."))
}

/// `input`: the digest, or the message for Ed25519 and ML-DSA. PSS takes a salt as long as the hash only, as KMS makes it.
fn verifies(
    algorithm: SigningAlgorithm,
    spec: KeySpec,
    spki: &[u8],
    input: &[u8],
    signature: &[u8],
) -> Result<bool, OpError> {
    use SigningAlgorithm as A;
    let of_message: Option<&'static dyn VerificationAlgorithm> = match (algorithm, spec) {
        (A::Ed25519Sha512, _) => Some(&signature::ED25519),
        (A::MlDsaShake256, KeySpec::MlDsa44) => Some(&signature::ML_DSA_44),
        (A::MlDsaShake256, KeySpec::MlDsa65) => Some(&signature::ML_DSA_65),
        (A::MlDsaShake256, KeySpec::MlDsa87) => Some(&signature::ML_DSA_87),
        _ => None,
    };
    if let Some(by) = of_message {
        return Ok(UnparsedPublicKey::new(by, spki).verify(input, signature).is_ok());
    }
    let by: &'static dyn VerificationAlgorithm = match (algorithm, spec) {
        (A::RsassaPkcs1V15Sha256, _) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (A::RsassaPkcs1V15Sha384, _) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (A::RsassaPkcs1V15Sha512, _) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (A::RsassaPssSha256, _) => &signature::RSA_PSS_2048_8192_SHA256,
        (A::RsassaPssSha384, _) => &signature::RSA_PSS_2048_8192_SHA384,
        (A::RsassaPssSha512, _) => &signature::RSA_PSS_2048_8192_SHA512,
        (A::EcdsaSha256, KeySpec::EccSecgP256k1) => &signature::ECDSA_P256K1_SHA256_ASN1,
        (A::EcdsaSha256, _) => &signature::ECDSA_P256_SHA256_ASN1,
        (A::EcdsaSha384, _) => &signature::ECDSA_P384_SHA384_ASN1,
        (A::EcdsaSha512, _) => &signature::ECDSA_P521_SHA512_ASN1,
        (A::Ed25519Sha512 | A::Ed25519PhSha512 | A::MlDsaShake256, _) => return Err(not_served(algorithm)),
    };
    let digest = Digest::import_less_safe(input, hash_of(algorithm)?).map_err(|_| OpError::DigestLength(algorithm))?;
    Ok(UnparsedPublicKey::new(by, spki).verify_digest(&digest, signature).is_ok())
}
