//! What a return value of a C function costs: the one table, after the PKCS#11 recovery rules in the design notes.

use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::error::{Error, Rv, RvError};
use cryptoki_sys as sys;
use serde::{Deserialize, Serialize};

use super::ErrorClass;

/// An error of the token. `function` and `rv` are for the log and never for callers.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
#[error("{function}: {detail} ({}, class {class:?})", super::rv::said(*.rv))]
pub struct TokenError {
    pub class: ErrorClass,
    #[serde(with = "super::call::names")]
    pub function: super::Constant,
    /// The CKR value, 0 where none was returned.
    pub rv: u64,
    pub detail: String,
    /// Where the bridge itself refused to go on with a connection.
    pub(super) failure: Option<OpenFailure>,
}

/// Why a token could not be connected, as a custom key store tells its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OpenFailure {
    PinIncorrect,
    /// Locked, expired, or one try from the lock.
    PinLocked,
    PinNotInitialised,
    /// No slot holds the token.
    NotPresent,
    /// The selector leads to another token than the expected one.
    WrongToken,
    Other,
}

/// A C function answered something else than CKR_OK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallError {
    pub(super) function: &'static str,
    /// 0 where the Rust side found the fault.
    pub(super) rv: u64,
}

/// What to do about a `CallError`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Nothing helps here: report it as this class.
    Report(ErrorClass),
    /// Drop the session, open another one, try once more.
    FreshSession,
    /// The handle is stale: find the object again.
    FindAgain,
    /// The login is gone: log the keeper in again.
    LogIn,
    /// Bad input or a failing token: the key's own fingerprint tells which.
    Ambiguous,
}

/// The table: return value and function → reaction. A code that says nothing sensible of its function is ambiguous there:
/// nobody is told that a ciphertext or a key is bad because C_OpenSession or C_Encrypt said so.
pub(super) fn reaction(rv: u64, function: &str) -> Reaction {
    let creates = function.starts_with("C_GenerateKey") || matches!(function, "C_CreateObject" | "C_CopyObject");
    match rv {
        sys::CKR_SESSION_HANDLE_INVALID
        | sys::CKR_SESSION_CLOSED
        | sys::CKR_OPERATION_ACTIVE
        | sys::CKR_OPERATION_NOT_INITIALIZED => Reaction::FreshSession,

        sys::CKR_USER_NOT_LOGGED_IN => Reaction::LogIn,
        sys::CKR_KEY_HANDLE_INVALID | sys::CKR_OBJECT_HANDLE_INVALID if !creates && !is_housekeeping(function) => {
            Reaction::FindAgain
        }

        lost if is_lost(lost) => Reaction::Report(ErrorClass::Context),

        sys::CKR_DEVICE_MEMORY if creates => Reaction::Report(ErrorClass::Full),
        sys::CKR_DEVICE_MEMORY | sys::CKR_SESSION_COUNT | sys::CKR_HOST_MEMORY => {
            Reaction::Report(ErrorClass::Capacity)
        }

        sys::CKR_PIN_INCORRECT
        | sys::CKR_PIN_INVALID
        | sys::CKR_PIN_LEN_RANGE
        | sys::CKR_PIN_LOCKED
        | sys::CKR_PIN_EXPIRED
        | sys::CKR_USER_PIN_NOT_INITIALIZED
            if takes_a_pin(function) =>
        {
            Reaction::Report(ErrorClass::Operator)
        }

        sys::CKR_MECHANISM_INVALID
        | sys::CKR_MECHANISM_PARAM_INVALID
        | sys::CKR_KEY_TYPE_INCONSISTENT
        | sys::CKR_KEY_FUNCTION_NOT_PERMITTED
        | sys::CKR_KEY_SIZE_RANGE
        | sys::CKR_CURVE_NOT_SUPPORTED
        | sys::CKR_DOMAIN_PARAMS_INVALID
        | sys::CKR_FUNCTION_NOT_SUPPORTED
        | sys::CKR_TEMPLATE_INCOMPLETE
        | sys::CKR_TEMPLATE_INCONSISTENT
        | sys::CKR_ATTRIBUTE_READ_ONLY
        | sys::CKR_ATTRIBUTE_TYPE_INVALID
        | sys::CKR_ATTRIBUTE_VALUE_INVALID
        | sys::CKR_ACTION_PROHIBITED
        | sys::CKR_TOKEN_WRITE_PROTECTED
            if !is_housekeeping(function) && function != "C_GetAttributeValue" =>
        {
            Reaction::Report(ErrorClass::Unsupported)
        }

        sys::CKR_ENCRYPTED_DATA_INVALID | sys::CKR_ENCRYPTED_DATA_LEN_RANGE | sys::CKR_AEAD_DECRYPT_FAILED
            if is_decrypt(function) =>
        {
            Reaction::Report(ErrorClass::Data)
        }
        // On C_Decrypt a token may mean the tag by it; on these the length was judged before the key was used.
        sys::CKR_DATA_LEN_RANGE if matches!(function, "C_Encrypt" | "C_Sign") => Reaction::Report(ErrorClass::Data),

        // GENERAL_ERROR, FUNCTION_FAILED, DATA_INVALID, vendor codes, and whatever a later standard adds.
        _ => Reaction::Ambiguous,
    }
}

/// Device, slot or library: nothing works before C_Finalize and C_Initialize.
pub(super) fn is_lost(rv: u64) -> bool {
    matches!(
        rv,
        sys::CKR_DEVICE_ERROR
            | sys::CKR_DEVICE_REMOVED
            | sys::CKR_TOKEN_NOT_PRESENT
            | sys::CKR_TOKEN_NOT_RECOGNIZED
            | sys::CKR_SLOT_ID_INVALID
            | sys::CKR_FIPS_SELF_TEST_FAILED
            | sys::CKR_LIBRARY_LOAD_FAILED
            | sys::CKR_CRYPTOKI_NOT_INITIALIZED
    )
}

/// Functions whose input an attacker may have made: an ambiguous error there is bad input if the key itself still works.
pub(super) fn is_decrypt(function: &str) -> bool {
    matches!(function, "C_Decrypt" | "C_DecryptInit")
}

/// Functions with nothing of a request in them: no mechanism, no template, no key.
fn is_housekeeping(function: &str) -> bool {
    matches!(
        function,
        "C_Initialize"
            | "C_Finalize"
            | "C_GetInfo"
            | "C_GetSlotList"
            | "C_GetTokenInfo"
            | "C_GetMechanismList"
            | "C_GetMechanismInfo"
            | "C_OpenSession"
            | "C_CloseSession"
            | "C_GetSessionInfo"
            | "C_Login"
            | "C_Logout"
            | "C_FindObjectsInit"
            | "C_FindObjects"
            | "C_FindObjectsFinal"
            | "C_GenerateRandom"
    )
}

fn takes_a_pin(function: &str) -> bool {
    matches!(function, "C_Login" | "C_InitPIN" | "C_SetPIN" | "C_InitToken")
}

impl CallError {
    /// An error of a management call made through cryptoki.
    pub(super) fn from_cryptoki(function: &'static str, error: &Error) -> CallError {
        let rv = match error {
            Error::Pkcs11(rv, _) => value_of(*rv),
            Error::NullFunctionPointer => sys::CKR_FUNCTION_NOT_SUPPORTED,
            _ => 0,
        };
        CallError { function, rv }
    }

    pub(super) fn reaction(&self) -> Reaction {
        reaction(self.rv, self.function)
    }

    /// The class where nobody can look closer: lost sessions, handles and logins and ambiguous codes cost the most that
    /// they can mean.
    pub(super) fn class(&self) -> ErrorClass {
        match self.reaction() {
            Reaction::Report(class) => class,
            Reaction::FreshSession => ErrorClass::Session,
            Reaction::FindAgain => ErrorClass::KeyMissing,
            Reaction::LogIn | Reaction::Ambiguous => ErrorClass::Context,
        }
    }

    pub(super) fn into_error(self, detail: impl Into<String>) -> TokenError {
        self.with_class(self.class(), detail)
    }

    pub(super) fn with_class(self, class: ErrorClass, detail: impl Into<String>) -> TokenError {
        TokenError { class, function: self.function, rv: self.rv, detail: detail.into(), failure: None }
    }
}

impl TokenError {
    /// What the C function returned, by name; none where the bridge itself found the fault.
    pub fn rv_name(&self) -> Option<std::borrow::Cow<'static, str>> {
        (self.rv != 0).then(|| super::rv::name(self.rv))
    }

    /// An error that no C function returned.
    pub fn own(class: ErrorClass, function: &'static str, detail: impl Into<String>) -> TokenError {
        TokenError { class, function, rv: 0, detail: detail.into(), failure: None }
    }

    pub(crate) fn because(self, failure: OpenFailure) -> TokenError {
        TokenError { failure: Some(failure), ..self }
    }

    /// What an error of `Token::open`, `look` or `Token::change_pin` means to whoever wanted the connection.
    pub fn open_failure(&self) -> OpenFailure {
        if let Some(failure) = self.failure {
            return failure;
        }
        // RULE: from a function that takes no PIN they say nothing of it, and nobody has to give another one.
        let pin = takes_a_pin(self.function);
        match self.rv {
            sys::CKR_PIN_INCORRECT | sys::CKR_PIN_INVALID | sys::CKR_PIN_LEN_RANGE if pin => OpenFailure::PinIncorrect,
            sys::CKR_PIN_LOCKED | sys::CKR_PIN_EXPIRED if pin => OpenFailure::PinLocked,
            sys::CKR_USER_PIN_NOT_INITIALIZED if pin => OpenFailure::PinNotInitialised,
            sys::CKR_TOKEN_NOT_PRESENT
            | sys::CKR_TOKEN_NOT_RECOGNIZED
            | sys::CKR_SLOT_ID_INVALID
            | sys::CKR_DEVICE_REMOVED => OpenFailure::NotPresent,
            _ => OpenFailure::Other,
        }
    }
}

/// cryptoki hides the number behind a name; the way back is the list of numbers that `Rv::from` knows.
fn value_of(error: RvError) -> u64 {
    match error {
        RvError::VendorDefined(code) | RvError::UnknownErrorCode(code) => code,
        // All codes of the standard lie below 0x240.
        named => (1..0x240).find(|rv| matches!(Rv::from(*rv), Rv::Error(found) if found == named)).unwrap_or(0),
    }
}

/// Errors by class, for `/metrics`.
#[derive(Debug, Default)]
pub(super) struct Counters([AtomicU64; CLASSES.len()]);

const CLASSES: [(ErrorClass, &str); 10] = [
    (ErrorClass::Data, "data"),
    (ErrorClass::KeyMissing, "key_missing"),
    (ErrorClass::WrongKey, "wrong_key"),
    (ErrorClass::Session, "session"),
    (ErrorClass::Context, "context"),
    (ErrorClass::Full, "full"),
    (ErrorClass::Capacity, "capacity"),
    (ErrorClass::Deadline, "deadline"),
    (ErrorClass::Operator, "operator"),
    (ErrorClass::Unsupported, "unsupported"),
];

impl Counters {
    pub(super) fn count(&self, class: ErrorClass) {
        for ((known, _), counter) in CLASSES.iter().zip(&self.0) {
            if *known == class {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn read(&self) -> Vec<(&'static str, u64)> {
        CLASSES.iter().zip(&self.0).map(|((_, name), counter)| (*name, counter.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorClass::*;

    #[test]
    fn the_table() {
        let rows: &[(u64, &str, Reaction)] = &[
            (sys::CKR_SESSION_HANDLE_INVALID, "C_EncryptInit", Reaction::FreshSession),
            (sys::CKR_SESSION_CLOSED, "C_Sign", Reaction::FreshSession),
            (sys::CKR_OPERATION_ACTIVE, "C_EncryptInit", Reaction::FreshSession),
            (sys::CKR_OPERATION_NOT_INITIALIZED, "C_Encrypt", Reaction::FreshSession),
            (sys::CKR_USER_NOT_LOGGED_IN, "C_EncryptInit", Reaction::LogIn),
            (sys::CKR_KEY_HANDLE_INVALID, "C_SignInit", Reaction::FindAgain),
            (sys::CKR_OBJECT_HANDLE_INVALID, "C_EncryptInit", Reaction::FindAgain),
            (sys::CKR_DEVICE_ERROR, "C_Decrypt", Reaction::Report(Context)),
            (sys::CKR_DEVICE_REMOVED, "C_Sign", Reaction::Report(Context)),
            (sys::CKR_TOKEN_NOT_PRESENT, "C_OpenSession", Reaction::Report(Context)),
            (sys::CKR_CRYPTOKI_NOT_INITIALIZED, "C_Encrypt", Reaction::Report(Context)),
            (sys::CKR_SLOT_ID_INVALID, "C_OpenSession", Reaction::Report(Context)),
            (sys::CKR_DEVICE_MEMORY, "C_GenerateKey", Reaction::Report(Full)),
            (sys::CKR_DEVICE_MEMORY, "C_GenerateKeyPair", Reaction::Report(Full)),
            (sys::CKR_DEVICE_MEMORY, "C_Encrypt", Reaction::Report(Capacity)),
            (sys::CKR_SESSION_COUNT, "C_OpenSession", Reaction::Report(Capacity)),
            (sys::CKR_HOST_MEMORY, "C_Sign", Reaction::Report(Capacity)),
            (sys::CKR_PIN_INCORRECT, "C_Login", Reaction::Report(Operator)),
            (sys::CKR_PIN_LOCKED, "C_Login", Reaction::Report(Operator)),
            (sys::CKR_PIN_EXPIRED, "C_Login", Reaction::Report(Operator)),
            (sys::CKR_USER_PIN_NOT_INITIALIZED, "C_Login", Reaction::Report(Operator)),
            (sys::CKR_MECHANISM_INVALID, "C_EncryptInit", Reaction::Report(Unsupported)),
            (sys::CKR_MECHANISM_PARAM_INVALID, "C_EncryptInit", Reaction::Report(Unsupported)),
            (sys::CKR_KEY_TYPE_INCONSISTENT, "C_EncryptInit", Reaction::Report(Unsupported)),
            (sys::CKR_KEY_FUNCTION_NOT_PERMITTED, "C_SignInit", Reaction::Report(Unsupported)),
            (sys::CKR_ENCRYPTED_DATA_INVALID, "C_Decrypt", Reaction::Report(Data)),
            (sys::CKR_ENCRYPTED_DATA_LEN_RANGE, "C_Decrypt", Reaction::Report(Data)),
            (sys::CKR_AEAD_DECRYPT_FAILED, "C_Decrypt", Reaction::Report(Data)),
            (sys::CKR_GENERAL_ERROR, "C_Decrypt", Reaction::Ambiguous),
            (sys::CKR_GENERAL_ERROR, "C_Encrypt", Reaction::Ambiguous),
            (sys::CKR_FUNCTION_FAILED, "C_Decrypt", Reaction::Ambiguous),
            (sys::CKR_DATA_INVALID, "C_Decrypt", Reaction::Ambiguous),
            (sys::CKR_DATA_LEN_RANGE, "C_Decrypt", Reaction::Ambiguous),
            (sys::CKR_DATA_LEN_RANGE, "C_Sign", Reaction::Report(Data)),
            (sys::CKR_VENDOR_DEFINED + 7, "C_Encrypt", Reaction::Ambiguous),
            (sys::CKR_ENCRYPTED_DATA_INVALID, "C_Encrypt", Reaction::Ambiguous),
            (sys::CKR_ENCRYPTED_DATA_INVALID, "C_GenerateKey", Reaction::Ambiguous),
            (sys::CKR_DATA_LEN_RANGE, "C_OpenSession", Reaction::Ambiguous),
            (sys::CKR_OBJECT_HANDLE_INVALID, "C_GenerateKey", Reaction::Ambiguous),
            (sys::CKR_KEY_HANDLE_INVALID, "C_FindObjects", Reaction::Ambiguous),
            (sys::CKR_TEMPLATE_INCONSISTENT, "C_FindObjectsInit", Reaction::Ambiguous),
            (sys::CKR_OBJECT_HANDLE_INVALID, "C_GetAttributeValue", Reaction::FindAgain),
            (sys::CKR_MECHANISM_INVALID, "C_OpenSession", Reaction::Ambiguous),
            (sys::CKR_ATTRIBUTE_TYPE_INVALID, "C_FindObjects", Reaction::Ambiguous),
            (sys::CKR_ATTRIBUTE_TYPE_INVALID, "C_GenerateKey", Reaction::Report(Unsupported)),
            (sys::CKR_ACTION_PROHIBITED, "C_DestroyObject", Reaction::Report(Unsupported)),
            (sys::CKR_PIN_LOCKED, "C_Encrypt", Reaction::Ambiguous),
            (0, "C_Encrypt", Reaction::Ambiguous),
        ];
        for (rv, function, expected) in rows {
            assert_eq!(reaction(*rv, function), *expected, "{rv:#x} {function}");
        }
    }

    #[test]
    fn a_pin_is_judged_by_functions_that_take_one() {
        let failure = |function, rv| CallError { function, rv }.into_error("").open_failure();
        assert_eq!(failure("C_Login", sys::CKR_PIN_LOCKED), OpenFailure::PinLocked);
        assert_eq!(failure("C_Login", sys::CKR_PIN_INCORRECT), OpenFailure::PinIncorrect);
        for rv in [sys::CKR_PIN_LOCKED, sys::CKR_PIN_INCORRECT, sys::CKR_USER_PIN_NOT_INITIALIZED] {
            assert_eq!(failure("C_GetMechanismList", rv), OpenFailure::Other);
        }
    }

    #[test]
    fn the_number_behind_a_cryptoki_error_comes_back() {
        for rv in [sys::CKR_GENERAL_ERROR, sys::CKR_PIN_INCORRECT, sys::CKR_CRYPTOKI_ALREADY_INITIALIZED, 0x8000_0001] {
            let Rv::Error(named) = Rv::from(rv) else { panic!("{rv:#x} is an error") };
            assert_eq!(value_of(named), rv);
        }
    }

    #[test]
    fn counters_know_every_class() {
        let counters = Counters::default();
        for (class, _) in CLASSES {
            counters.count(class);
        }
        assert!(counters.read().iter().all(|(_, n)| *n == 1));
    }
}
