//! A signer for tests: keys in memory instead of the token.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::Pkcs8V1Der;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256};

use super::{AuditKey, BoxFuture, KeyUse, SignAudit, SignError, Signed};

enum Secret {
    Digest(RsaKeyPair),
    Checkpoint(EcdsaKeyPair),
}

/// A digest key (RSA 2048) and a checkpoint key (P-256) with self-signed certificates.
pub(crate) struct SoftwareSigner {
    keys: Mutex<Vec<(Arc<AuditKey>, Secret)>>,
    /// While set, every signature is refused, as by a token that is away.
    pub away: AtomicBool,
    /// Signatures made or refused.
    pub asked: AtomicU64,
}

impl SoftwareSigner {
    pub fn new() -> Arc<SoftwareSigner> {
        let signer = SoftwareSigner { keys: Mutex::default(), away: AtomicBool::new(false), asked: AtomicU64::new(0) };
        signer.rotate(KeyUse::Checkpoint, 1_000);
        signer.rotate(KeyUse::Digest, 1_000);
        Arc::new(signer)
    }

    /// The next generation signs from `at` (milliseconds since the epoch) on.
    pub fn rotate(&self, key_use: KeyUse, at: i64) {
        let mut keys = self.keys.lock().unwrap();
        let generation = keys.iter().filter(|(key, _)| key.key_use == key_use).count() as u32 + 1;
        for (key, _) in keys.iter_mut().filter(|(key, _)| key.key_use == key_use && key.valid_until.is_none()) {
            *key = Arc::new(AuditKey { valid_until: Some(at), ..AuditKey::clone(key) });
        }
        let (secret, spki, certificate) = generate(key_use);
        let fingerprint = key_use.fingerprint(&spki).unwrap();
        let key = AuditKey { key_use, generation, fingerprint, spki, certificate, valid_from: at, valid_until: None };
        keys.push((Arc::new(key), secret));
    }

    pub fn current(&self, key_use: KeyUse) -> Arc<AuditKey> {
        let keys = self.keys.lock().unwrap();
        keys.iter().rfind(|(key, _)| key.key_use == key_use).unwrap().0.clone()
    }
}

fn generate(key_use: KeyUse) -> (Secret, Vec<u8>, Vec<u8>) {
    let (secret, pkcs8, spki) = match key_use {
        KeyUse::Checkpoint => {
            let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
            let pkcs8 = key.to_pkcs8v1().unwrap().as_ref().to_vec();
            let spki: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
            let spki = spki.as_ref().to_vec();
            (Secret::Checkpoint(key), pkcs8, spki)
        }
        KeyUse::Digest => {
            let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            let pkcs8: Pkcs8V1Der<'_> = key.as_der().unwrap();
            let pkcs8 = pkcs8.as_ref().to_vec();
            let spki: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
            let spki = spki.as_ref().to_vec();
            (Secret::Digest(key), pkcs8, spki)
        }
    };
    let issuer = rcgen::KeyPair::try_from(pkcs8.as_slice()).unwrap();
    let parameters = rcgen::CertificateParams::new(["audit.example".to_string()]).unwrap();
    (secret, spki, parameters.self_signed(&issuer).unwrap().der().to_vec())
}

impl SignAudit for SoftwareSigner {
    fn sign(&self, key_use: KeyUse, message: Vec<u8>) -> BoxFuture<'_, Result<Signed, SignError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Box::pin(async { Err(SignError("the token is away".into())) });
        }
        let keys = self.keys.lock().unwrap();
        let (key, secret) = keys.iter().rfind(|(key, _)| key.key_use == key_use).unwrap();
        let random = SystemRandom::new();
        let signature = match secret {
            Secret::Checkpoint(pair) => pair.sign(&random, &message).unwrap().as_ref().to_vec(),
            Secret::Digest(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, &message, &mut signature).unwrap();
                signature
            }
        };
        let signed = Signed { key: key.clone(), signature };
        Box::pin(async { Ok(signed) })
    }

    fn keys(&self) -> Vec<Arc<AuditKey>> {
        self.keys.lock().unwrap().iter().map(|(key, _)| key.clone()).collect()
    }
}
