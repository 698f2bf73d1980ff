//! The vendor's module: loaded and initialised once per process and never unloaded (SoftHSM crashes at exit otherwise; what
//! finalises it for a moment is in `renewal`), and the selection of a token in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::slot::Slot;

use super::error::CallError;
use super::raw::{Functions, TokenLimits};
use super::shared::Shared;
use super::{ErrorClass, OpenFailure, Selector, TokenError, TokenInfo, rv};

/// Maps a module that will be loaded, and no more.
pub(super) fn preload(path: &Path) -> Result<(), TokenError> {
    Functions::load(path).map(drop)
}

pub(super) struct Module {
    path: PathBuf,
    pub(super) context: Pkcs11,
    pub(super) functions: Functions,
    /// By slot.
    exclusive: Mutex<HashMap<u64, Arc<Mutex<()>>>>,
    /// Counts C_Initialize.
    generation: AtomicU64,
    /// Read: the module must stay initialised. It is written to by `try_write` alone, so that reading twice does no harm.
    pub(super) gate: RwLock<()>,
    /// Held by the one thread that initialises the module again.
    pub(super) renewing: Mutex<()>,
    connected: Mutex<Vec<Weak<Shared>>>,
    /// C_Initialize was the last of C_Initialize and C_Finalize. Asked here, since not every library refuses a second one.
    initialized: AtomicBool,
    /// A connection failed: the library may remember that a token was away.
    pub(super) doubted: AtomicBool,
}

/// The token that the selector names.
pub(super) struct Selected {
    pub(super) slot: Slot,
    pub(super) info: TokenInfo,
    pub(super) limits: TokenLimits,
}

static LOADED: Mutex<Vec<&'static Module>> = Mutex::new(Vec::new());

impl Module {
    /// The module at `path`, loaded and initialised by the first call.
    pub(super) fn load(path: &Path) -> Result<&'static Module, TokenError> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded.iter().find(|module| module.path == path) {
            return Ok(module);
        }
        let functions = Functions::load(path)?;
        let context = Pkcs11::new(path).map_err(|error| {
            TokenError::own(ErrorClass::Context, "C_GetFunctionList", format!("`{}`: {error}", path.display()))
        })?;
        initialize(&context)?;
        let module: &'static Module = Box::leak(Box::new(Module {
            path: path.to_owned(),
            context,
            functions,
            exclusive: Mutex::default(),
            generation: AtomicU64::new(0),
            gate: RwLock::default(),
            renewing: Mutex::default(),
            connected: Mutex::default(),
            initialized: AtomicBool::new(true),
            doubted: AtomicBool::new(false),
        }));
        loaded.push(module);
        Ok(module)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The connected tokens of the module.
    pub(super) fn connected(&self) -> Vec<Arc<Shared>> {
        let connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        connected.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn register(&self, token: &Arc<Shared>) {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        connected.retain(|token| token.strong_count() > 0);
        connected.push(Arc::downgrade(token));
    }

    /// C_Initialize, where an `initialize_again` got no further than C_Finalize.
    pub(super) fn ensure_initialized(&self) -> Result<(), TokenError> {
        if !self.initialized.load(Ordering::Acquire) {
            initialize(&self.context)?;
            self.initialized.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// C_Finalize and C_Initialize: every session, handle and login of the module is gone. `renewal` sees to it that
    /// nobody is in the module.
    /// `come_what_may`: a token that failed may also fail to let go, and C_Initialize is what helps.
    pub(super) fn initialize_again(&self, come_what_may: bool) -> Result<(), TokenError> {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.initialized.store(false, Ordering::Release);
        match self.context.clone().finalize() {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiNotInitialized, _)) => {}
            Err(error) if come_what_may => {
                let error = CallError::from_cryptoki("C_Finalize", &error);
                tracing::warn!(rv = %rv::said(error.rv), "C_Finalize failed");
            }
            Err(error) => {
                return Err(CallError::from_cryptoki("C_Finalize", &error)
                    .with_class(ErrorClass::Context, "the module does not let go"));
            }
        }
        self.ensure_initialized()
    }

    /// What calls that create, destroy or find objects in a slot hold.
    pub(super) fn exclusive(&self, slot: Slot) -> Arc<Mutex<()>> {
        let mut slots = self.exclusive.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(slot.id()).or_default())
    }

    fn slots_with_token(&self) -> Result<Vec<Slot>, TokenError> {
        self.context
            .get_slots_with_token()
            .map_err(|error| CallError::from_cryptoki("C_GetSlotList", &error).into_error("no list of slots"))
    }

    /// Where the token with this serial stands now.
    pub(super) fn slot_of(&self, serial: &str) -> Result<Slot, TokenError> {
        let mut unread = None;
        for slot in self.slots_with_token()? {
            match self.functions.token_info(slot.id()) {
                Ok((info, _)) if info.serial == serial => return Ok(slot),
                Ok(_) => {}
                Err(error) => {
                    tracing::info!(slot = slot.id(), rv = %rv::said(error.rv), "a slot cannot be read");
                    unread = unread.or(Some(error));
                }
            }
        }
        Err(absent(&format!("serial `{serial}`"), unread))
    }

    /// Calls of any token of the module that do not come back.
    pub(super) fn lost_threads(&self) -> usize {
        self.connected().iter().map(|token| token.watchdog.lost()).sum()
    }

    /// The one token that fits the selector.
    pub(super) fn select(&'static self, selector: &Selector) -> Result<Selected, TokenError> {
        self.one(selector, true)
    }

    /// The same, where a token that was never initialised is an answer too.
    pub(super) fn select_any(&'static self, selector: &Selector) -> Result<Selected, TokenError> {
        match self.one(selector, true) {
            Err(error) if error.open_failure() == OpenFailure::NotPresent => self.one(selector, false),
            answer => answer,
        }
    }

    fn one(&'static self, selector: &Selector, initialized: bool) -> Result<Selected, TokenError> {
        let slots = self.slots_with_token()?;
        let (mut found, mut unread) = (Vec::new(), None);
        for slot in slots {
            let (info, limits) = match self.functions.token_info(slot.id()) {
                Ok(read) => read,
                // Somebody else's trouble, unless it is the one we look for: then none is found.
                Err(error) => {
                    unread = unread.or(Some(error));
                    continue;
                }
            };
            if limits.initialized == initialized && selector.matches(&info) {
                found.push(Selected { slot, info, limits });
            }
        }
        let chosen = one_of(found, &selector.describe(), unread)?;
        let library = self.context.get_library_info().map_or_else(
            |error| {
                let error = CallError::from_cryptoki("C_GetInfo", &error);
                tracing::info!(rv = %rv::said(error.rv), "the library does not say which one it is");
                String::new()
            },
            |info| format!("{} {}", info.library_description().trim_end(), info.library_version()),
        );
        Ok(Selected { info: TokenInfo { library, ..chosen.info }, ..chosen })
    }
}

fn initialize(context: &Pkcs11) -> Result<(), TokenError> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(error) => Err(CallError::from_cryptoki("C_Initialize", &error)
            .with_class(ErrorClass::Context, "the module does not initialise")),
    }
}

/// RULE: no slot means that the token is not there (a dead connection to a network token looks so); two tokens are an
/// error, since the wrong one might get keys.
fn one_of(mut found: Vec<Selected>, wanted: &str, unread: Option<CallError>) -> Result<Selected, TokenError> {
    if found.len() > 1 {
        let serials: Vec<&str> = found.iter().map(|selected| selected.info.serial.as_str()).collect();
        return Err(TokenError::own(
            ErrorClass::Operator,
            "token selector",
            format!("{} tokens fit {wanted}: serials `{}`; name the serial", found.len(), serials.join("`, `")),
        )
        .because(OpenFailure::Other));
    }
    found.pop().ok_or_else(|| absent(wanted, unread))
}

/// `unread`: what a slot answered whose token is not known.
fn absent(wanted: &str, unread: Option<CallError>) -> TokenError {
    let error = match unread {
        None => TokenError::own(ErrorClass::Context, "C_GetSlotList", format!("no token with {wanted} is present")),
        Some(error) => error.with_class(
            ErrorClass::Context,
            format!("a slot cannot be read, and no other one holds the token with {wanted}"),
        ),
    };
    error.because(OpenFailure::NotPresent)
}

/// RULE: keys are made in the token that was named, and nobody's PIN is tried on another.
pub(super) fn expect(info: &TokenInfo, serial: Option<&str>) -> Result<(), TokenError> {
    match serial {
        Some(serial) if serial != info.serial => Err(TokenError::own(
            ErrorClass::Operator,
            "token selector",
            format!("the token has the serial `{}` and not `{serial}`: no login is tried", info.serial),
        )
        .because(OpenFailure::WrongToken)),
        _ => Ok(()),
    }
}

/// Whether a login may be tried. A PIN that is wrong by mistake must not lock the token.
pub(super) fn refuse_login(info: &TokenInfo, limits: &TokenLimits) -> Result<(), TokenError> {
    let refuse = |failure, detail: &str| Err(TokenError::own(ErrorClass::Operator, "C_Login", detail).because(failure));
    if info.user_pin_locked {
        return refuse(OpenFailure::PinLocked, "the token says that its user PIN is locked: no login is tried");
    }
    if info.user_pin_final_try {
        return refuse(
            OpenFailure::PinLocked,
            "the token says that one more wrong PIN locks it: no login is tried. log in once with the token's own tool",
        );
    }
    if limits.login_required && !limits.pin_initialized {
        return refuse(OpenFailure::PinNotInitialised, "the token has no user PIN yet");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TokenLimits =
        TokenLimits { max_rw_sessions: None, login_required: true, initialized: true, pin_initialized: true };

    fn selected(serial: &str) -> Selected {
        let slot = Slot::try_from(0u64).unwrap();
        Selected { slot, info: TokenInfo { serial: serial.into(), ..TokenInfo::default() }, limits: LIMITS }
    }

    #[test]
    fn two_tokens_are_an_error_that_names_both() {
        let error = one_of(vec![selected("s1"), selected("s2")], "label `x`", None).err().unwrap();
        assert_eq!(error.class, ErrorClass::Operator);
        assert!(error.detail.contains("`s1`, `s2`") && error.detail.contains("label `x`"), "{error}");
        let absent = one_of(vec![], "label `x`", None).err().unwrap();
        assert_eq!((absent.class, absent.open_failure()), (ErrorClass::Context, OpenFailure::NotPresent));
        let unread = CallError { function: "C_GetTokenInfo", rv: 0x30 };
        let found = one_of(vec![selected("s1")], "", Some(unread)).unwrap();
        assert_eq!(found.info.serial, "s1", "a slot that cannot be read is somebody else's trouble");
        let error = one_of(vec![], "label `x`", Some(unread)).err().unwrap();
        assert_eq!((error.class, error.open_failure()), (ErrorClass::Context, OpenFailure::NotPresent));
        let said = error.to_string();
        assert!(
            said.contains("C_GetTokenInfo") && said.contains("CKR_DEVICE_ERROR") && said.contains("label `x`"),
            "{said}"
        );
    }

    #[test]
    fn another_serial_is_another_token() {
        let info = TokenInfo { serial: "s1".into(), ..TokenInfo::default() };
        assert!(expect(&info, None).is_ok() && expect(&info, Some("s1")).is_ok());
        assert_eq!(expect(&info, Some("s2")).unwrap_err().open_failure(), OpenFailure::WrongToken);
    }

    #[test]
    fn no_login_where_it_could_lock_the_token() {
        let fine = TokenInfo { user_pin_count_low: true, ..TokenInfo::default() };
        assert!(refuse_login(&fine, &LIMITS).is_ok());
        for info in [
            TokenInfo { user_pin_locked: true, ..TokenInfo::default() },
            TokenInfo { user_pin_final_try: true, ..TokenInfo::default() },
        ] {
            let error = refuse_login(&info, &LIMITS).unwrap_err();
            assert_eq!((error.class, error.open_failure()), (ErrorClass::Operator, OpenFailure::PinLocked));
        }
        let no_pin = TokenLimits { pin_initialized: false, ..LIMITS };
        let error = refuse_login(&fine, &no_pin).unwrap_err();
        assert_eq!((error.class, error.open_failure()), (ErrorClass::Operator, OpenFailure::PinNotInitialised));
    }
}
