//! Mechanisms that a token does not have, or does not take with every parameter.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use cryptoki_sys::*;

use crate::gcm::{CKM_CLOUDHSM_AES_GCM, Iv};
use crate::real::real;
use crate::{Call, slots};

pub fn list(call: &Call, slot: CK_SLOT_ID, out: CK_MECHANISM_TYPE_PTR, count: CK_ULONG_PTR) -> CK_RV {
    let behaviour = &call.script.behaviour;
    let slot = slots::real_of(call, slot);
    if behaviour.hide_mechanisms.is_empty() && behaviour.gcm_iv != Iv::Prepended {
        return real!(call.C_GetMechanismList(slot, out, count));
    }
    let mut listed = vec![0; 1024];
    let mut found = listed.len() as CK_ULONG;
    let rv = real!(call.C_GetMechanismList(slot, listed.as_mut_ptr(), &raw mut found));
    if rv != CKR_OK {
        return rv;
    }
    listed.truncate(found as usize);
    listed.retain(|mechanism| !hidden(call, *mechanism));
    if behaviour.gcm_iv == Iv::Prepended {
        listed
            .iter_mut()
            .filter(|mechanism| **mechanism == CKM_AES_GCM)
            .for_each(|mechanism| *mechanism = CKM_CLOUDHSM_AES_GCM);
    }
    slots::told(&listed, out, count)
}

pub fn info(call: &Call, slot: CK_SLOT_ID, kind: CK_MECHANISM_TYPE, out: CK_MECHANISM_INFO_PTR) -> CK_RV {
    let behaviour = &call.script.behaviour;
    let slot = slots::real_of(call, slot);
    if hidden(call, kind) {
        return call.refuse("hide_mechanisms", CKR_MECHANISM_INVALID);
    }
    let rv = match (behaviour.gcm_iv, kind) {
        (Iv::Prepended, CKM_CLOUDHSM_AES_GCM) => real!(call.C_GetMechanismInfo(slot, CKM_AES_GCM, out)),
        (Iv::Prepended, CKM_AES_GCM) => return call.refuse("gcm_iv", CKR_MECHANISM_INVALID),
        _ => real!(call.C_GetMechanismInfo(slot, kind, out)),
    };
    if rv == CKR_OK && kind == CKM_RSA_PKCS && behaviour.no_rsa_pkcs_encryption {
        // SAFETY: null, or the caller's structure, which the real function has filled.
        if let Some(info) = unsafe { out.as_mut() } {
            info.flags &= !(CKF_ENCRYPT | CKF_WRAP);
        }
    }
    rv
}

/// Whether the token takes the mechanism in this function; what it says where it does not.
pub fn judged(call: &Call, function: &str, mechanism: CK_MECHANISM_PTR) -> Result<(), CK_RV> {
    // SAFETY: null, or the caller's mechanism.
    let Some(mechanism) = (unsafe { mechanism.as_ref() }) else { return Ok(()) };
    let behaviour = &call.script.behaviour;
    if hidden(call, mechanism.mechanism) {
        return Err(call.refuse("hide_mechanisms", CKR_MECHANISM_INVALID));
    }
    let encrypts = matches!(function, "C_EncryptInit" | "C_WrapKey");
    if mechanism.mechanism == CKM_RSA_PKCS && encrypts && behaviour.no_rsa_pkcs_encryption {
        return Err(call.refuse("no_rsa_pkcs_encryption", CKR_MECHANISM_INVALID));
    }
    if mechanism.mechanism == CKM_RSA_PKCS_OAEP
        && let Some(hashes) = &behaviour.oaep_hashes
        && mechanism.ulParameterLen as usize == size_of::<CK_RSA_PKCS_OAEP_PARAMS>()
        && !mechanism.pParameter.is_null()
    {
        // SAFETY: not null and as long as the structure; it may stand at any address.
        let given = unsafe { mechanism.pParameter.cast::<CK_RSA_PKCS_OAEP_PARAMS>().read_unaligned() };
        let of_mgf = match given.mgf {
            CKG_MGF1_SHA1 => CKM_SHA_1,
            CKG_MGF1_SHA224 => CKM_SHA224,
            CKG_MGF1_SHA256 => CKM_SHA256,
            CKG_MGF1_SHA384 => CKM_SHA384,
            CKG_MGF1_SHA512 => CKM_SHA512,
            _ => CK_UNAVAILABLE_INFORMATION,
        };
        if [given.hashAlg, of_mgf].iter().any(|hash| !hashes.iter().any(|known| known.0 == *hash)) {
            return Err(call.refuse("oaep_hashes", CKR_MECHANISM_PARAM_INVALID));
        }
    }
    Ok(())
}

fn hidden(call: &Call, mechanism: CK_MECHANISM_TYPE) -> bool {
    call.script.behaviour.hide_mechanisms.iter().any(|hidden| hidden.0 == mechanism)
}

/// Real sessions in which AES-GCM has begun.
static IN_GCM: Mutex<Option<HashSet<CK_SESSION_HANDLE>>> = Mutex::new(None);

/// An Init of this session worked.
pub fn begun(session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR) {
    // SAFETY: null, or the caller's mechanism.
    let kind = unsafe { mechanism.as_ref() }.map(|mechanism| mechanism.mechanism);
    let mut sessions = IN_GCM.lock().unwrap_or_else(PoisonError::into_inner);
    let sessions = sessions.get_or_insert_default();
    match kind {
        Some(CKM_AES_GCM | CKM_CLOUDHSM_AES_GCM) => sessions.insert(session),
        _ => sessions.remove(&session),
    };
}

/// Whether so much is too much for AES-GCM in this session.
pub fn too_long(call: &Call, session: CK_SESSION_HANDLE, len: CK_ULONG) -> bool {
    call.script.behaviour.gcm_max_bytes.is_some_and(|most| len > most)
        && IN_GCM
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|sessions| sessions.contains(&session))
}
