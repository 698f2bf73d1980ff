//! A PKCS#11 module that hands on another one's functions, some of them changed, so that tests meet tokens that are not at hand.
//!
//! - `HSM_BRIDGE_SHIM_MODULE`: path of the real module (SoftHSM2).
//! - `HSM_BRIDGE_SHIM_IV`: how its AES-GCM behaves: `caller` (as it is; default), `zeroed-writeback`, `luna-append16`, `prepended`. It is
//!   strict: an IV that such a token would not take is CKR_MECHANISM_PARAM_INVALID.
//!
//! What is changed stands in one table, `overrides`; a new one is a function of the same signature there.
//!
//! It judges the bridge, so it shares no code with it and keeps to what the vendors' documents say.
#![allow(clippy::missing_safety_doc, reason = "the functions are PKCS#11's, and what they demand stands there")]

mod gcm;

use std::sync::OnceLock;

use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR_PTR, CK_RV, CKR_ARGUMENTS_BAD, CKR_GENERAL_ERROR, CKR_OK, Pkcs11,
};

/// The real module, and the list that is handed out.
struct Shim {
    real: CK_FUNCTION_LIST,
    list: CK_FUNCTION_LIST,
    iv: gcm::Iv,
}

static SHIM: OnceLock<Option<Shim>> = OnceLock::new();

/// The functions that are not the real module's.
fn overrides(list: &mut CK_FUNCTION_LIST) {
    list.C_GetFunctionList = Some(C_GetFunctionList);
    list.C_GetMechanismList = Some(gcm::mechanism_list);
    list.C_GetMechanismInfo = Some(gcm::mechanism_info);
    list.C_EncryptInit = Some(gcm::encrypt_init);
    list.C_Encrypt = Some(gcm::encrypt);
    list.C_DecryptInit = Some(gcm::decrypt_init);
    list.C_Decrypt = Some(gcm::decrypt);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(out: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    if out.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let made = SHIM.get_or_init(|| match load() {
        Ok(shim) => Some(shim),
        Err(why) => {
            eprintln!("pkcs11-shim: {why}");
            None
        }
    });
    let Some(shim) = made else { return CKR_GENERAL_ERROR };
    // SAFETY: not null, and the caller says that a pointer can be written there. The list lives in a static and nobody writes it.
    unsafe { *out = (&raw const shim.list).cast_mut() };
    CKR_OK
}

/// Only after C_GetFunctionList has given out the list that leads here.
fn shim() -> Result<&'static Shim, CK_RV> {
    SHIM.get().and_then(Option::as_ref).ok_or(CKR_GENERAL_ERROR)
}

fn load() -> Result<Shim, String> {
    let path = std::env::var("HSM_BRIDGE_SHIM_MODULE").map_err(|_| "HSM_BRIDGE_SHIM_MODULE names no module")?;
    let iv = gcm::Iv::named(&std::env::var("HSM_BRIDGE_SHIM_IV").unwrap_or_else(|_| "caller".to_owned()))?;
    // SAFETY: loading runs the module's initialisers, which is what the test asks for.
    let library = unsafe { Pkcs11::new(&path) }.map_err(|error| format!("`{path}` does not load: {error}"))?;
    let library: &'static Pkcs11 = Box::leak(Box::new(library));
    let entry = library.C_GetFunctionList.as_ref().map_err(|_| format!("`{path}` has no C_GetFunctionList"))?;
    let mut real = std::ptr::null_mut();
    // SAFETY: C_GetFunctionList of a library that is never unloaded; it writes one pointer.
    let rv = unsafe { entry(&raw mut real) };
    if rv != CKR_OK || real.is_null() {
        return Err(format!("C_GetFunctionList of `{path}` answered {rv:#x}"));
    }
    // SAFETY: CKR_OK and not null: the module's own static list.
    let real = unsafe { *real };
    let mut list = real;
    overrides(&mut list);
    Ok(Shim { real, list, iv })
}
