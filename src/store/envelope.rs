//! What stands in clear in the database: the deployment id and the wrapped copies of the store key. The id is
//! authenticated by being associated data of everything, the copies by a hash in the head.

use aws_lc_rs::digest;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use tokio_rusqlite::rusqlite::{Connection, OptionalExtension, params};
use x509_cert::der::Document;

use super::seal::{self, STORE_KEY_LEN, Sealer};
use super::{StoreError, WrapKey};
use crate::secret::SecretBytes;

/// Copies that a root token opens.
const KIND_TOKEN: &str = "token";
/// The copy that an officer opens with a private key that is not here.
const KIND_RECOVERY: &str = "recovery";

pub struct Envelope {
    pub deployment: String,
    copies: Vec<WrappedCopy>,
}

struct WrappedCopy {
    name: String,
    kind: String,
    wrapped: Vec<u8>,
}

impl Envelope {
    /// A new store key, wrapped. It is the token's random xor the system's, so it is as good as the better of the two.
    pub async fn seal_new(wrap: &dyn WrapKey, recovery_key: Option<&str>) -> Result<(Envelope, Sealer), StoreError> {
        let deployment = hex::encode(seal::random::<16>()?);
        let ours = SecretBytes::new(seal::random::<STORE_KEY_LEN>()?.to_vec());
        let theirs = wrap.random32().await.map_err(StoreError::Wrap)?;
        if theirs.len() != STORE_KEY_LEN {
            return Err(StoreError::Wrap(format!("the token gave {} random bytes", theirs.len())));
        }
        let store_key = SecretBytes::new(ours.expose().iter().zip(theirs.expose()).map(|(a, b)| a ^ b).collect());

        let mut copies = Vec::new();
        if let Some(pem) = recovery_key {
            copies.push(recovery_copy(pem, &store_key)?);
        }
        let wrapped = wrap.wrap(seal::store_key_aad(&deployment), &store_key).await.map_err(StoreError::Wrap)?;
        copies.push(WrappedCopy { name: wrap.name(), kind: KIND_TOKEN.to_owned(), wrapped });
        copies.sort_by(|a, b| a.name.cmp(&b.name));
        let sealer = Sealer::new(&deployment, store_key)?;
        Ok((Envelope { deployment, copies }, sealer))
    }

    /// Opens the store key with the copy kept for this token; where there is none by its name (a cloned token has a new
    /// serial), with any of the copies that it can open.
    pub async fn open(&self, wrap: &dyn WrapKey) -> Result<Sealer, StoreError> {
        let name = wrap.name();
        let tokens = || self.copies.iter().filter(|c| c.kind == KIND_TOKEN);
        let named: Vec<_> = tokens().filter(|c| c.name == name).collect();
        let candidates = if named.is_empty() { tokens().collect() } else { named };
        let mut reason = "no copy of it is wrapped for a token".to_owned();
        for copy in candidates {
            match wrap.unwrap(seal::store_key_aad(&self.deployment), &copy.wrapped).await {
                Ok(store_key) => return Sealer::new(&self.deployment, store_key),
                Err(cause) => reason = format!("copy `{}`: {cause}", copy.name),
            }
        }
        Err(StoreError::Wrap(reason))
    }

    /// SHA-256 over all copies, hex: kept in the head, so that a removed or replaced copy is noticed.
    pub fn fingerprint(&self) -> String {
        let parts: Vec<&[u8]> =
            self.copies.iter().flat_map(|c| [c.name.as_bytes(), c.kind.as_bytes(), c.wrapped.as_slice()]).collect();
        hex::encode(digest::digest(&digest::SHA256, &seal::fields(&parts)))
    }

    pub fn read(db: &Connection) -> Result<Envelope, StoreError> {
        let deployment: Option<String> =
            db.query_row("SELECT value FROM meta WHERE name = 'deployment'", [], |row| row.get(0)).optional()?;
        let deployment = deployment.ok_or_else(|| StoreError::Tampered("the deployment id is missing".to_owned()))?;
        let copies = db
            .prepare("SELECT name, kind, wrapped FROM wrapped_keys ORDER BY name")?
            .query_map([], |row| Ok(WrappedCopy { name: row.get(0)?, kind: row.get(1)?, wrapped: row.get(2)? }))?
            .collect::<Result<_, _>>()?;
        Ok(Envelope { deployment, copies })
    }

    pub fn write(&self, db: &Connection) -> Result<(), StoreError> {
        db.execute("INSERT INTO meta (name, value) VALUES ('deployment', ?1)", params![self.deployment])?;
        for copy in &self.copies {
            db.execute(
                "INSERT INTO wrapped_keys (name, wrapped, kind) VALUES (?1, ?2, ?3)",
                params![copy.name, copy.wrapped, copy.kind],
            )?;
        }
        Ok(())
    }
}

/// RSA-OAEP with SHA-256 (also as the MGF's hash) and no label: `openssl pkeyutl -decrypt` opens it.
fn recovery_copy(pem: &str, store_key: &SecretBytes) -> Result<WrappedCopy, StoreError> {
    let refused = |why: String| StoreError::RecoveryKey(why);
    let (label, spki) = Document::from_pem(pem).map_err(|e| refused(e.to_string()))?;
    if label != "PUBLIC KEY" {
        return Err(refused(format!("the PEM block is a `{label}`")));
    }
    // Refuses keys under 2048 bits by itself.
    let key = PublicEncryptingKey::from_der(spki.as_bytes()).map_err(|e| refused(e.to_string()))?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|e| refused(e.to_string()))?;
    let mut wrapped = vec![0; key.ciphertext_size()];
    let len = key
        .encrypt(&OAEP_SHA256_MGF1SHA256, store_key.expose(), &mut wrapped, None)
        .map_err(|e| refused(e.to_string()))?
        .len();
    wrapped.truncate(len);
    let name = format!("spki-sha256:{}", hex::encode(digest::digest(&digest::SHA256, spki.as_bytes())));
    Ok(WrappedCopy { name, kind: KIND_RECOVERY.to_owned(), wrapped })
}

#[cfg(test)]
impl Envelope {
    /// Another deployment and store key in this envelope.
    pub async fn rewrap(&mut self, deployment: &str, wrap: &dyn WrapKey, store_key: &SecretBytes) {
        self.deployment = deployment.to_owned();
        for copy in &mut self.copies {
            copy.wrapped = wrap.wrap(seal::store_key_aad(deployment), store_key).await.unwrap();
        }
    }
}
