//! A PKCS#11 module that hands on another one's functions, and fails and behaves as a script says. See README.md beside it.
//!
//! - `HSM_BRIDGE_FAULTS_MODULE`: path of the real module (SoftHSM2).
//! - `HSM_BRIDGE_FAULTS_SCRIPT`: the script; without it nothing is changed. `SCRIPT.state/` beside it holds what outlives a process.
//! - `HSM_BRIDGE_FAULTS_LOG`: a file that gets a line for each C call.
//!
//! A call goes through three layers: the rules (`rules`), the token's behaviour (`calls` and what it names), the real function.
//! No lock is held while the real function runs or a call hangs.
//!
//! It judges the bridge, so it shares no code with it and keeps to what the standard and the vendors' documents say.
#![allow(clippy::missing_safety_doc, reason = "the functions are PKCS#11's, and what they demand stands there")]

mod behaviour;
mod calls;
mod gcm;
mod kept;
mod log;
mod mechanisms;
mod names;
mod objects;
mod pins;
mod real;
mod rules;
mod script;
mod sessions;
mod slots;
mod templates;

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR_PTR, CK_RV, CKR_ARGUMENTS_BAD, CKR_GENERAL_ERROR, CKR_OK, Pkcs11,
};

use rules::{On, Output};
use script::{Place, Script};

/// What the process has one of.
struct Faults {
    real: CK_FUNCTION_LIST,
    list: CK_FUNCTION_LIST,
    script: Place,
    state: PathBuf,
    log: Option<File>,
}

/// One call, and the script that it is judged by.
struct Call {
    faults: &'static Faults,
    script: Arc<Script>,
    /// The behaviour that answered in place of the real module.
    refused_by: Cell<Option<&'static str>>,
    /// The CKA_ID of the key that an Init got.
    key: RefCell<Option<Vec<u8>>>,
}

impl Call {
    /// The token is such that it answers this.
    fn refuse(&self, behaviour: &'static str, rv: CK_RV) -> CK_RV {
        self.refused_by.set(Some(behaviour));
        rv
    }
}

static FAULTS: OnceLock<Option<Faults>> = OnceLock::new();

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(out: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    if out.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let made = FAULTS.get_or_init(|| match load() {
        Ok(faults) => Some(faults),
        Err(why) => {
            eprintln!("pkcs11-faults: {why}");
            None
        }
    });
    let Some(faults) = made else { return CKR_GENERAL_ERROR };
    through("C_GetFunctionList", On::Module, Output::default(), |_| {
        // SAFETY: not null, and the caller says that a pointer can be written there. The list lives in a static and nobody writes it.
        unsafe { *out = (&raw const faults.list).cast_mut() };
        CKR_OK
    })
}

/// A call through the rules to `behaviour`.
fn through(function: &'static str, on: On, output: Output, behaviour: impl FnOnce(&Call) -> CK_RV) -> CK_RV {
    // Only C_GetFunctionList gives out the list that leads here.
    let Some(faults) = FAULTS.get().and_then(Option::as_ref) else { return CKR_GENERAL_ERROR };
    let call = Call { faults, script: faults.script.current(), refused_by: Cell::new(None), key: RefCell::new(None) };
    rules::judged(&call, function, on, output, || behaviour(&call))
}

fn load() -> Result<Faults, String> {
    let path = std::env::var("HSM_BRIDGE_FAULTS_MODULE").map_err(|_| "HSM_BRIDGE_FAULTS_MODULE names no module")?;
    let script = std::env::var_os("HSM_BRIDGE_FAULTS_SCRIPT").map(PathBuf::from);
    let state =
        script.clone().unwrap_or_else(|| std::env::temp_dir().join("pkcs11-faults")).with_added_extension("state");
    let log = match std::env::var_os("HSM_BRIDGE_FAULTS_LOG") {
        None => None,
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(&path);
            Some(file.map_err(|error| format!("`{}` cannot be written: {error}", path.display()))?)
        }
    };
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
    list.C_GetFunctionList = Some(C_GetFunctionList);
    calls::install(&mut list);
    Ok(Faults { real, list, script: Place::at(script), state, log })
}
