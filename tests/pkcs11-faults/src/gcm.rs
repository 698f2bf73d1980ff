//! AES-GCM with an IV that the token makes, in three vendors' ways, over a module that takes its caller's.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki_sys::*;

use crate::Call;
use crate::real::real;

/// AWS CloudHSM's mechanism.
pub const CKM_CLOUDHSM_AES_GCM: CK_MECHANISM_TYPE = CKM_VENDOR_DEFINED | CKM_AES_GCM;
const TAG_LEN: usize = 16;

/// `gcm_iv`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Iv {
    /// The real module's way.
    #[default]
    Caller,
    /// CKM_AES_GCM wants 12 zero bytes and writes its IV over them (AWS CloudHSM, nShield).
    ZeroedWriteback,
    /// CKM_AES_GCM wants no IV and gives ciphertext ‖ tag ‖ 16 bytes of IV (Luna 7 in FIPS mode).
    #[serde(rename = "luna-append16")]
    LunaAppend16,
    /// CKM_CLOUDHSM_AES_GCM wants no IV, gives IV ‖ ciphertext ‖ tag and takes the same. CKM_AES_GCM is not there.
    Prepended,
}

impl Iv {
    pub fn mechanism(self) -> CK_MECHANISM_TYPE {
        if self == Iv::Prepended { CKM_CLOUDHSM_AES_GCM } else { CKM_AES_GCM }
    }
}

/// What an Init left behind for the call after it, by session.
enum Begun {
    /// The IV that was made, and where the caller wants it written (an address; 0: nowhere).
    Encrypt { iv: Vec<u8>, write_to: usize },
    /// The IV comes with the text, so the real Init has to wait for it.
    Decrypt { key: CK_OBJECT_HANDLE, aad: Vec<u8>, tag_bits: CK_ULONG },
}

static BEGUN: Mutex<Option<HashMap<CK_SESSION_HANDLE, Begun>>> = Mutex::new(None);

fn begun() -> MutexGuard<'static, Option<HashMap<CK_SESSION_HANDLE, Begun>>> {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn begin(session: CK_SESSION_HANDLE, what: Option<Begun>) {
    let mut begun = begun();
    let begun = begun.get_or_insert_default();
    match what {
        Some(what) => begun.insert(session, what),
        None => begun.remove(&session),
    };
}

/// The session is closed: another one may get its number.
pub fn forget(session: CK_SESSION_HANDLE) {
    begin(session, None);
}

pub fn forget_all() {
    begun().get_or_insert_default().clear();
}

fn taken(session: CK_SESSION_HANDLE) -> Option<Begun> {
    begun().get_or_insert_default().remove(&session)
}

pub fn encrypt_init(
    call: &Call,
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let real = || real!(call.C_EncryptInit(session, mechanism, key));
    let given = match newly_given(call, session, mechanism, real) {
        Ok(given) => given,
        Err(rv) => return rv,
    };
    let (len, write_to) = match call.script.behaviour.gcm_iv {
        Iv::Caller => return real(),
        Iv::ZeroedWriteback if given.iv() == Some(&[0; 12]) => (12, given.0.pIv as usize),
        Iv::LunaAppend16 if given.has_no_iv() => (16, 0),
        Iv::Prepended if given.has_no_iv() => (12, 0),
        Iv::ZeroedWriteback | Iv::LunaAppend16 | Iv::Prepended => return CKR_MECHANISM_PARAM_INVALID,
    };
    let mut iv = vec![0u8; len];
    let rv = real!(call.C_GenerateRandom(session, iv.as_mut_ptr(), len as CK_ULONG));
    if rv != CKR_OK {
        return rv;
    }
    let rv = init(call.faults.real.C_EncryptInit, session, key, &mut iv, given.aad(), given.0.ulTagBits);
    if rv == CKR_OK {
        begin(session, Some(Begun::Encrypt { iv, write_to }));
    }
    rv
}

pub fn encrypt(
    call: &Call,
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    data_len: CK_ULONG,
    out: CK_BYTE_PTR,
    out_len: CK_ULONG_PTR,
) -> CK_RV {
    let Some(Begun::Encrypt { iv, write_to }) = taken(session) else {
        return real!(call.C_Encrypt(session, data, data_len, out, out_len));
    };
    let extra = if call.script.behaviour.gcm_iv == Iv::ZeroedWriteback { 0 } else { iv.len() };
    let needed = data_len as usize + TAG_LEN + extra;
    // SAFETY: PKCS#11 wants a length here; the pointer is the caller's.
    let Some(room) = (unsafe { out_len.as_mut() }) else { return CKR_ARGUMENTS_BAD };
    if out.is_null() || (*room as usize) < needed {
        *room = needed as CK_ULONG;
        // RULE PKCS#11 §5.2: asking for the length does not end the operation.
        begin(session, Some(Begun::Encrypt { iv, write_to }));
        return if out.is_null() { CKR_OK } else { CKR_BUFFER_TOO_SMALL };
    }
    let mut sealed = vec![0u8; data_len as usize + TAG_LEN];
    let mut len = sealed.len() as CK_ULONG;
    let rv = real!(call.C_Encrypt(session, data, data_len, sealed.as_mut_ptr(), &raw mut len));
    if rv != CKR_OK {
        return rv;
    }
    sealed.truncate(len as usize);
    match call.script.behaviour.gcm_iv {
        Iv::Prepended => sealed = [iv, sealed].concat(),
        Iv::LunaAppend16 => sealed.extend(iv),
        // SAFETY: the caller's pIv of EncryptInit, which such a token keeps until the operation ends.
        Iv::ZeroedWriteback => unsafe { std::ptr::copy_nonoverlapping(iv.as_ptr(), write_to as *mut u8, iv.len()) },
        Iv::Caller => {}
    }
    // SAFETY: there is room for `needed` bytes, which is as long as `sealed` has become at most.
    unsafe { std::ptr::copy_nonoverlapping(sealed.as_ptr(), out, sealed.len().min(needed)) };
    *room = sealed.len() as CK_ULONG;
    CKR_OK
}

pub fn decrypt_init(
    call: &Call,
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let real = || real!(call.C_DecryptInit(session, mechanism, key));
    let given = match newly_given(call, session, mechanism, real) {
        Ok(given) => given,
        Err(rv) => return rv,
    };
    match call.script.behaviour.gcm_iv {
        Iv::Prepended if given.has_no_iv() => {
            let (aad, tag_bits) = (given.aad().to_vec(), given.0.ulTagBits);
            begin(session, Some(Begun::Decrypt { key, aad, tag_bits }));
            CKR_OK
        }
        // Some tokens decrypt nothing where ulIvBits was forgotten.
        Iv::ZeroedWriteback | Iv::LunaAppend16 if given.iv().is_some() && given.0.ulIvBits == given.0.ulIvLen * 8 => {
            real()
        }
        Iv::Caller => real(),
        Iv::Prepended | Iv::ZeroedWriteback | Iv::LunaAppend16 => CKR_MECHANISM_PARAM_INVALID,
    }
}

pub fn decrypt(
    call: &Call,
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    data_len: CK_ULONG,
    out: CK_BYTE_PTR,
    out_len: CK_ULONG_PTR,
) -> CK_RV {
    let Some(Begun::Decrypt { key, aad, tag_bits }) = taken(session) else {
        return real!(call.C_Decrypt(session, data, data_len, out, out_len));
    };
    if data.is_null() || data_len < (12 + TAG_LEN) as CK_ULONG {
        return CKR_ENCRYPTED_DATA_LEN_RANGE;
    }
    if out.is_null() {
        begin(session, Some(Begun::Decrypt { key, aad, tag_bits }));
        // SAFETY: PKCS#11 wants a length here; the pointer is the caller's.
        let Some(room) = (unsafe { out_len.as_mut() }) else { return CKR_ARGUMENTS_BAD };
        *room = data_len - (12 + TAG_LEN) as CK_ULONG;
        return CKR_OK;
    }
    // SAFETY: not null, and at least 28 bytes.
    let mut iv = unsafe { std::slice::from_raw_parts(data, 12) }.to_vec();
    let rv = init(call.faults.real.C_DecryptInit, session, key, &mut iv, &aad, tag_bits);
    if rv != CKR_OK {
        return rv;
    }
    // SAFETY: 12 bytes on is within the caller's text.
    real!(call.C_Decrypt(session, data.add(12), data_len - 12, out, out_len))
}

/// An Init of the real module with CKM_AES_GCM and this IV.
fn init(
    function: CK_C_EncryptInit,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    iv: &mut [u8],
    aad: &[u8],
    tag_bits: CK_ULONG,
) -> CK_RV {
    let mut parameters = CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: iv.len() as CK_ULONG,
        ulIvBits: (iv.len() * 8) as CK_ULONG,
        pAAD: if aad.is_empty() { std::ptr::null_mut() } else { aad.as_ptr().cast_mut() },
        ulAADLen: aad.len() as CK_ULONG,
        ulTagBits: tag_bits,
    };
    let mut mechanism = CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: (&raw mut parameters).cast(),
        ulParameterLen: size_of::<CK_GCM_PARAMS>() as CK_ULONG,
    };
    let Some(function) = function else { return CKR_FUNCTION_NOT_SUPPORTED };
    // SAFETY: parameters, IV and AAD are alive during the call; the real module copies what it needs later.
    unsafe { function(session, &raw mut mechanism, key) }
}

/// A call's AES-GCM parameters.
struct Given(CK_GCM_PARAMS);

enum Ours {
    /// Another mechanism.
    No,
    Wrong(CK_RV),
    Gcm(Given),
}

/// An Init begins: the AES-GCM parameters of its call, or what it answers where there are none to look at.
fn newly_given(
    call: &Call,
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    real: impl FnOnce() -> CK_RV,
) -> Result<Given, CK_RV> {
    begin(session, None);
    // SAFETY: the caller's mechanism with the caller's parameters.
    match unsafe { parameters(call, mechanism) } {
        Ours::No => Err(real()),
        Ours::Wrong(rv) => Err(rv),
        Ours::Gcm(given) => Ok(given),
    }
}

unsafe fn parameters(call: &Call, mechanism: CK_MECHANISM_PTR) -> Ours {
    // SAFETY: null, or the caller's mechanism.
    let Some(mechanism) = (unsafe { mechanism.as_ref() }) else { return Ours::No };
    if mechanism.mechanism == CKM_AES_GCM && call.script.behaviour.gcm_iv == Iv::Prepended {
        return Ours::Wrong(CKR_MECHANISM_INVALID);
    }
    if mechanism.mechanism != call.script.behaviour.gcm_iv.mechanism() {
        return Ours::No;
    }
    if mechanism.pParameter.is_null() || mechanism.ulParameterLen as usize != size_of::<CK_GCM_PARAMS>() {
        return Ours::Wrong(CKR_MECHANISM_PARAM_INVALID);
    }
    // SAFETY: not null and as long as the structure; it may stand at any address.
    Ours::Gcm(Given(unsafe { mechanism.pParameter.cast::<CK_GCM_PARAMS>().read_unaligned() }))
}

impl Given {
    fn has_no_iv(&self) -> bool {
        self.0.pIv.is_null() && self.0.ulIvLen == 0 && self.0.ulIvBits == 0
    }

    fn iv(&self) -> Option<&[u8]> {
        // SAFETY: the caller's pointer with the caller's length.
        (!self.0.pIv.is_null()).then(|| unsafe { std::slice::from_raw_parts(self.0.pIv, self.0.ulIvLen as usize) })
    }

    fn aad(&self) -> &[u8] {
        if self.0.pAAD.is_null() {
            return &[];
        }
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.0.pAAD, self.0.ulAADLen as usize) }
    }
}
