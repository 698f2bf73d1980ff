//! `[behaviour]`: how the token is, as long as the script says so. A profile is a set of these.

use serde::Deserialize;

use crate::gcm::Iv;
use crate::names::{Attribute, Mechanism, ReturnValue};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// What C_GetTokenInfo says instead of the real module's.
    pub manufacturer: Option<String>,
    pub model: Option<String>,

    pub gcm_iv: Iv,
    /// C_Encrypt and C_Decrypt of AES-GCM with more: CKR_DATA_LEN_RANGE.
    pub gcm_max_bytes: Option<u64>,
    /// Not listed, and CKR_MECHANISM_INVALID where used.
    pub hide_mechanisms: Vec<Mechanism>,
    /// Hashes, also of MGF1, that CKM_RSA_PKCS_OAEP takes; CKR_MECHANISM_PARAM_INVALID for others.
    pub oaep_hashes: Option<Vec<Mechanism>>,
    /// CKM_RSA_PKCS encrypts and wraps nothing: CKR_MECHANISM_INVALID. It signs and decrypts.
    pub no_rsa_pkcs_encryption: bool,

    /// Taken at C_Initialize. See `objects`.
    pub permute_handles: bool,
    /// Taken at C_Initialize. A session gets the lowest number that is free, at once after another has left it.
    pub lowest_session_numbers: bool,
    /// Sessions of this process, over all slots; the next one is CKR_SESSION_COUNT.
    pub max_sessions: Option<usize>,
    /// What C_OpenSession returns without CKF_RW_SESSION.
    pub read_only_sessions: Option<ReturnValue>,
    /// A session that was not used for so long is gone: CKR_SESSION_HANDLE_INVALID.
    pub idle_session_ms: Option<u64>,
    /// … and with it the library: CKR_DEVICE_ERROR for everything with a session until C_Finalize.
    pub idle_ends_everything: bool,

    /// Longest CKA_ID and CKA_LABEL; CKR_ATTRIBUTE_VALUE_INVALID for longer.
    pub id_bytes: Option<usize>,
    pub label_bytes: Option<usize>,
    /// What is returned for a CKA_ID that another object of the same class has.
    pub duplicate_ids: Option<ReturnValue>,
    pub refuse: Vec<Refusal>,
    /// Objects that fit in the token; CKR_DEVICE_MEMORY for the next one.
    pub max_objects: Option<usize>,

    /// C_Initialize says CKR_OK where it should say CKR_CRYPTOKI_ALREADY_INITIALIZED.
    pub second_initialize_ok: bool,
    /// The list of slots is the one of C_Initialize until the next one.
    pub slots_frozen: bool,
    /// Token objects that came later and were not made by this process are not found. Judged at the first login after C_Initialize.
    pub objects_frozen: bool,
    /// A first slot more, `accelerator`, on which no login is possible.
    pub accelerator_slot: bool,

    /// Wrong user PINs until the token locks, counted over processes.
    pub pin_tries: Option<u32>,
    /// C_Login of the user: CKR_PIN_EXPIRED, until C_SetPIN worked.
    pub pin_expired: bool,
}

/// Attributes that these functions do not take.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    pub functions: Vec<String>,
    pub attributes: Vec<Attribute>,
    /// Refused with this CK_BBOOL only.
    pub value: Option<bool>,
    /// Refused in templates of these classes only: `public`, `private`, `secret`.
    pub of: Option<Vec<Kind>>,
    #[serde(rename = "return")]
    pub rv: ReturnValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Public,
    Private,
    Secret,
    Other,
}
