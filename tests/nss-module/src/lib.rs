//! NSS softokn as a PKCS#11 module that any program can load: C_Initialize gets what softokn wants in its reserved argument
//! (`configdir='sql:/…' …`), from the file that the environment variable HSM_BRIDGE_NSS_CONF names. All other functions are
//! softokn's own.
#![allow(clippy::missing_safety_doc, reason = "the functions are PKCS#11's, and what they demand stands there")]

use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;

use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR_PTR, CK_RV, CK_VOID_PTR, CKF_OS_LOCKING_OK, CKR_ARGUMENTS_BAD,
    CKR_GENERAL_ERROR, CKR_OK, Pkcs11,
};

/// Debian's libnss3. Found by the loader.
const SOFTOKN: &str = "libsoftokn3.so";

struct Module {
    real: CK_FUNCTION_LIST,
    list: CK_FUNCTION_LIST,
    parameters: CString,
}

/// NSS's own CK_C_INITIALIZE_ARGS: its `LibraryParameters` stands where the standard has pReserved, which comes after it.
#[repr(C)]
struct Arguments {
    mutexes: [*mut c_void; 4],
    flags: u64,
    parameters: *mut c_char,
    reserved: *mut c_void,
}

static MODULE: OnceLock<Option<Module>> = OnceLock::new();

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(out: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    if out.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let made = MODULE.get_or_init(|| load().inspect_err(|why| eprintln!("nss-module: {why}")).ok());
    let Some(module) = made else { return CKR_GENERAL_ERROR };
    // SAFETY: not null, and the caller says that a pointer can be written there. The list lives in a static and nobody
    // writes it.
    unsafe { *out = (&raw const module.list).cast_mut() };
    CKR_OK
}

unsafe extern "C" fn initialize(_: CK_VOID_PTR) -> CK_RV {
    let Some(module) = MODULE.get().and_then(Option::as_ref) else { return CKR_GENERAL_ERROR };
    let mut arguments = Arguments {
        mutexes: [std::ptr::null_mut(); 4],
        flags: CKF_OS_LOCKING_OK,
        parameters: module.parameters.as_ptr().cast_mut(),
        reserved: std::ptr::null_mut(),
    };
    let Some(real) = module.real.C_Initialize else { return CKR_GENERAL_ERROR };
    // SAFETY: softokn's C_Initialize with softokn's form of its arguments, which outlive the call; it only reads the text.
    unsafe { real((&raw mut arguments).cast()) }
}

fn load() -> Result<Module, String> {
    let file = std::env::var("HSM_BRIDGE_NSS_CONF").map_err(|_| "HSM_BRIDGE_NSS_CONF is not set")?;
    let parameters = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let parameters = CString::new(parameters.trim()).map_err(|error| error.to_string())?;
    // SAFETY: loading runs the module's initialisers, which is what the test asks for.
    let library =
        unsafe { Pkcs11::new(SOFTOKN) }.map_err(|error| format!("{SOFTOKN} (apt install libnss3): {error}"))?;
    let library: &'static Pkcs11 = Box::leak(Box::new(library));
    let entry = library.C_GetFunctionList.as_ref().map_err(|error| error.to_string())?;
    let mut real = std::ptr::null_mut();
    // SAFETY: C_GetFunctionList of a library that is never unloaded; it writes one pointer.
    let rv = unsafe { entry(&raw mut real) };
    if rv != CKR_OK || real.is_null() {
        return Err(format!("C_GetFunctionList of {SOFTOKN} answered {rv:#x}"));
    }
    // SAFETY: CKR_OK and not null: the module's own static list.
    let real = unsafe { *real };
    let list = CK_FUNCTION_LIST { C_GetFunctionList: Some(C_GetFunctionList), C_Initialize: Some(initialize), ..real };
    Ok(Module { real, list, parameters })
}

// SAFETY: function pointers and a text, all of them read only.
unsafe impl Sync for Module {}
unsafe impl Send for Module {}
