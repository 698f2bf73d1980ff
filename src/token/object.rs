//! What can be read of an object: the attributes that an officer checks.

use serde::{Deserialize, Serialize};

/// The attributes of an object; `None`: the object has none such, or it cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectFacts {
    /// `CKO_SECRET_KEY` and so on.
    pub class: Option<String>,
    /// `CKK_AES` and so on.
    pub key_type: Option<String>,
    /// `CKA_ID`, hex.
    pub id: String,
    pub label: String,
    pub private: Option<bool>,
    pub sensitive: Option<bool>,
    pub extractable: Option<bool>,
    pub always_sensitive: Option<bool>,
    pub never_extractable: Option<bool>,
    pub local: Option<bool>,
    pub modifiable: Option<bool>,
    pub encrypt: Option<bool>,
    pub decrypt: Option<bool>,
    pub sign: Option<bool>,
    pub verify: Option<bool>,
    pub wrap: Option<bool>,
    pub unwrap: Option<bool>,
    pub derive: Option<bool>,
    /// Of RSA keys, both halves.
    pub modulus_bits: Option<u64>,
    /// `P-256`, `P-384`, `P-521`, `secp256k1`, `Ed25519`, or the object identifier.
    pub curve: Option<String>,
    /// Bytes of a secret key.
    pub value_len: Option<u64>,
    /// `CKA_CHECK_VALUE`, hex.
    pub check_value: Option<String>,
    /// `CKM_AES_KEY_GEN` and so on; `None` also for keys that came from outside.
    pub key_gen_mechanism: Option<String>,
}

/// Which objects to look at; both members empty: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectSelector {
    /// `CKA_ID`.
    pub id: Option<Vec<u8>>,
    /// `CKA_LABEL`, whole.
    pub label: Option<String>,
}
