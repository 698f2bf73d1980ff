//! Sealing of rows and of the head: AES-256-GCM under keys derived from the store key.
//!
//! The associated data bind a row to its deployment, table, primary key and revision, so a sealed row is worth nothing
//! anywhere else. Which revision is the newest is for the head to say.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use aws_lc_rs::{hkdf, hmac};

use super::StoreError;
use super::table::Table;
use crate::secret::SecretBytes;

pub const STORE_KEY_LEN: usize = 32;
const NONCE_LEN: usize = 12;

/// Each use of AES-GCM has its own first string of associated data.
const ROW: &str = "hsm-bridge/store/1";
const HEAD: &str = "hsm-bridge/store-head/1";
const STORE_KEY: &str = "hsm-bridge/store-kek/1";

/// Keys for the store itself and keys for others come from different labels, so no purpose of a caller meets ours.
const DERIVE_INTERNAL: &str = "hsm-bridge/store-keys/1";
const DERIVE: &str = "hsm-bridge/store-derive/1";

/// All that depends on the store key. Has no `Debug`.
pub struct Sealer {
    deployment: String,
    store_key: SecretBytes,
    rows: Aes256Gcm,
    head: Aes256Gcm,
    elements: hmac::Key,
    names: hmac::Key,
}

impl Sealer {
    pub fn new(deployment: &str, store_key: SecretBytes) -> Result<Sealer, StoreError> {
        if store_key.len() != STORE_KEY_LEN {
            return Err(StoreError::Wrap(format!("it has {} bytes and not {STORE_KEY_LEN}", store_key.len())));
        }
        let key = |purpose| expand(&store_key, deployment, DERIVE_INTERNAL, purpose);
        let cipher = |purpose| Aes256Gcm::new_from_slice(key(purpose).expose()).expect("a derived key has 32 bytes");
        let mac = |purpose| hmac::Key::new(hmac::HMAC_SHA256, key(purpose).expose());
        Ok(Sealer {
            deployment: deployment.to_owned(),
            rows: cipher("rows"),
            head: cipher("head"),
            elements: mac("elements"),
            names: mac("names"),
            store_key,
        })
    }

    pub fn deployment(&self) -> &str {
        &self.deployment
    }

    pub fn seal_row(&self, table: Table, pk: &str, revision: u64, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        seal(&self.rows, &self.row_aad(table, pk, revision), plain)
    }

    /// `None`: the row was made under another key, deployment, table, primary key or revision, or was changed.
    pub fn open_row(&self, table: Table, pk: &str, revision: u64, sealed: &[u8]) -> Option<Vec<u8>> {
        open(&self.rows, &self.row_aad(table, pk, revision), sealed)
    }

    pub fn seal_head(&self, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        seal(&self.head, &fields(&[HEAD.as_bytes(), self.deployment.as_bytes()]), plain)
    }

    pub fn open_head(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        open(&self.head, &fields(&[HEAD.as_bytes(), self.deployment.as_bytes()]), sealed)
    }

    /// What a row adds to the digest in the head.
    pub fn element(&self, table: Table, pk: &str, revision: u64) -> [u8; 32] {
        let tag =
            hmac::sign(&self.elements, &fields(&[table.name().as_bytes(), pk.as_bytes(), &revision.to_be_bytes()]));
        let mut element = [0; 32];
        element.copy_from_slice(tag.as_ref());
        element
    }

    /// The primary key of a record whose name people chose: a stolen file shall not list aliases and users.
    pub fn opaque(&self, table: Table, name: &str) -> String {
        let tag = hmac::sign(&self.names, &fields(&[table.name().as_bytes(), name.as_bytes()]));
        hex::encode(tag.as_ref())
    }

    /// HKDF-SHA-256 of the store key for `purpose`, 32 bytes.
    pub fn derive(&self, purpose: &str) -> SecretBytes {
        expand(&self.store_key, &self.deployment, DERIVE, purpose)
    }

    fn row_aad(&self, table: Table, pk: &str, revision: u64) -> Vec<u8> {
        fields(&[
            ROW.as_bytes(),
            self.deployment.as_bytes(),
            table.name().as_bytes(),
            pk.as_bytes(),
            &revision.to_be_bytes(),
        ])
    }
}

/// Associated data of the wrapped store key.
pub fn store_key_aad(deployment: &str) -> Vec<u8> {
    fields(&[STORE_KEY.as_bytes(), deployment.as_bytes()])
}

pub fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| StoreError::Io(format!("no random bytes: {e}")))?;
    Ok(bytes)
}

/// Each field after its length (4 bytes, big endian), so that no two lists of fields read the same.
pub fn fields(fields: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::with_capacity(fields.iter().map(|f| f.len() + 4).sum());
    for field in fields {
        let len = u32::try_from(field.len()).expect("names, keys and hashes are shorter than 4 GiB");
        all.extend_from_slice(&len.to_be_bytes());
        all.extend_from_slice(field);
    }
    all
}

// RULE SP 800-38D §8.3: with random 96-bit nonces a key seals at most 2^32 times. The head counts; see `head::SEAL_LIMIT`.
fn seal(cipher: &Aes256Gcm, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, StoreError> {
    let nonce = random::<NONCE_LEN>()?;
    let body = cipher
        .encrypt(&Nonce::from(nonce), Payload { msg: plain, aad })
        .map_err(|_| StoreError::Io("a record is too long to seal".to_owned()))?;
    Ok([nonce.as_slice(), &body].concat())
}

fn open(cipher: &Aes256Gcm, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>()?;
    cipher.decrypt(&Nonce::from(*nonce), Payload { msg: body, aad }).ok()
}

fn expand(store_key: &SecretBytes, deployment: &str, label: &str, purpose: &str) -> SecretBytes {
    let info = fields(&[label.as_bytes(), purpose.as_bytes()]);
    let mut key = vec![0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, deployment.as_bytes())
        .extract(store_key.expose())
        .expand(&[&info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .expect("HKDF-SHA-256 gives 32 bytes");
    SecretBytes::new(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(deployment: &str) -> Sealer {
        Sealer::new(deployment, SecretBytes::new(vec![7; 32])).unwrap()
    }

    #[test]
    fn a_row_opens_only_where_it_was_sealed() {
        let here = sealer("a");
        let sealed = here.seal_row(Table::Keys, "k", 3, b"plain").unwrap();
        assert_eq!(here.open_row(Table::Keys, "k", 3, &sealed).unwrap(), b"plain");
        assert!(here.open_row(Table::Usage, "k", 3, &sealed).is_none(), "other table");
        assert!(here.open_row(Table::Keys, "l", 3, &sealed).is_none(), "other primary key");
        assert!(here.open_row(Table::Keys, "k", 2, &sealed).is_none(), "other revision");
        assert!(sealer("b").open_row(Table::Keys, "k", 3, &sealed).is_none(), "other deployment");
        let other = Sealer::new("a", SecretBytes::new(vec![8; 32])).unwrap();
        assert!(other.open_row(Table::Keys, "k", 3, &sealed).is_none(), "other key");
        assert!(here.open_head(&sealed).is_none(), "as a head");
    }

    #[test]
    fn each_changed_byte_is_refused() {
        let sealer = sealer("a");
        let row = sealer.seal_row(Table::Keys, "k", 3, b"the record").unwrap();
        let head = sealer.seal_head(b"the head").unwrap();
        for i in 0..row.len() {
            let mut changed = row.clone();
            changed[i] ^= 1;
            assert!(sealer.open_row(Table::Keys, "k", 3, &changed).is_none(), "row, byte {i}");
            assert!(sealer.open_row(Table::Keys, "k", 3, &row[..i]).is_none(), "row, cut to {i}");
        }
        for i in 0..head.len() {
            let mut changed = head.clone();
            changed[i] ^= 0x80;
            assert!(sealer.open_head(&changed).is_none(), "head, byte {i}");
        }
    }

    #[test]
    fn purposes_give_different_keys_and_none_of_ours() {
        let sealer = sealer("a");
        assert_eq!(sealer.derive("pages").len(), 32);
        assert_eq!(sealer.derive("pages"), sealer.derive("pages"));
        assert_ne!(sealer.derive("pages"), sealer.derive("sessions"));
        let rows = expand(&SecretBytes::new(vec![7; 32]), "a", DERIVE_INTERNAL, "rows");
        assert_ne!(sealer.derive("rows"), rows);
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        assert_ne!(fields(&[b"ab", b"c"]), fields(&[b"a", b"bc"]));
    }

    /// RFC 5869 spelt out with HMAC alone.
    #[test]
    fn derivation_is_hkdf() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"a");
        let prk = hmac::sign(&key, &[7; 32]);
        let mut info = fields(&[DERIVE.as_bytes(), b"pages"]);
        info.push(1);
        let okm = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, prk.as_ref()), &info);
        assert_eq!(sealer("a").derive("pages").expose(), okm.as_ref());
    }
}
