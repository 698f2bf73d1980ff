//! The single C calls of the hot path, and the one file with `unsafe`. cryptoki makes three calls where one will do (it asks
//! for the length first) and cannot hand out its function list, so the list is taken a second time from the same library.
//! `module` checks that both are one instance.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use cryptoki_sys as sys;
use cryptoki_sys::{CK_MECHANISM, CK_ULONG};

use super::TokenError;
use super::error::CallError;
use super::{ErrorClass, TokenInfo, rv};

/// Length of an AES-GCM tag in bytes; other lengths are not made.
pub(super) const TAG_LEN: usize = 16;

/// Largest signature: ML-DSA-87 (RSA-8192 has 1024 bytes).
const SIGNATURE_MAX: usize = 4627;

/// Objects that one C_FindObjects may give.
const PORTION: usize = 64;

/// Sets the vendor module's environment variables (`SOFTHSM2_CONF` and the like), which modules read with getenv.
///
/// Call it from `main` before any other thread exists and before a token is opened.
pub fn apply_environment(variables: &BTreeMap<String, String>) {
    for (name, value) in variables {
        // SAFETY: `main` calls this before it starts any thread, so nobody reads the environment at the same time.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Ends the process without running exit handlers: a module that stays loaded may crash in them (SoftHSM 2.6.1 with
/// OpenSSL 3 does). Standard output is flushed by the caller.
pub fn exit_now(code: i32) -> ! {
    unsafe extern "C" {
        fn _exit(code: std::ffi::c_int) -> !;
    }
    // SAFETY: `_exit` of the C library takes any status and does not return.
    unsafe { _exit(code) }
}

/// The handle behind a number that a call of this connection gave before.
pub(super) fn object(number: u64) -> ObjectHandle {
    // SAFETY: a handle is a number to the module, which looks it up at each call; one that it does not know is
    // CKR_OBJECT_HANDLE_INVALID. What it names is judged by its attributes and its fingerprint.
    unsafe { ObjectHandle::new_from_raw(number) }
}

/// What buffers for attributes hold before the call. No module writes a CK_BBOOL, a CK_ULONG or a text like it.
const UNTOUCHED: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// The module's C functions. The library behind them is never unloaded.
pub(super) struct Functions {
    list: sys::CK_FUNCTION_LIST,
}

/// A signing mechanism with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignCall {
    Plain(u64),
    Pss { hash: u64, mgf: u64, salt_len: u64 },
}

/// An AES-GCM call without its text.
pub(super) struct GcmCall<'a> {
    pub(super) mechanism: u64,
    /// `None`: pIv is NULL, since the token makes the IV, or reads it from the text.
    pub(super) iv: Option<&'a mut [u8]>,
    pub(super) aad: &'a [u8],
    /// Bytes of an IV that stand beside ciphertext ‖ tag: in the output of C_Encrypt, in the input of C_Decrypt.
    pub(super) extra: usize,
}

/// Session limits and flags that `TokenInfo` does not carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenLimits {
    /// `None`: not named, or unlimited.
    pub(super) max_rw_sessions: Option<u64>,
    pub(super) login_required: bool,
    pub(super) initialized: bool,
    pub(super) pin_initialized: bool,
}

macro_rules! call {
    ($self:ident . $name:ident ( $($argument:expr),* $(,)? )) => {{
        let name = stringify!($name);
        match $self.list.$name {
            None => Err(CallError { function: name, rv: sys::CKR_FUNCTION_NOT_SUPPORTED }),
            Some(function) => match function($($argument),*) {
                sys::CKR_OK => Ok(()),
                rv => Err(CallError { function: name, rv }),
            },
        }
    }};
}

impl Functions {
    /// Takes the function list from the library at `path`, which stays loaded for the life of the process.
    pub(super) fn load(path: &Path) -> Result<Functions, TokenError> {
        let refused = |detail: String| TokenError::own(ErrorClass::Context, "C_GetFunctionList", detail);
        // SAFETY: loading runs the module's initialisers. That is what an operator asks for by naming the module; the path
        // comes from the configuration only.
        let library = unsafe { sys::Pkcs11::new(path) }
            .map_err(|error| refused(format!("the module `{}` does not load: {error}", path.display())))?;
        let library = Box::leak(Box::new(library));
        let entry = library
            .C_GetFunctionList
            .as_ref()
            .map_err(|_| refused(format!("`{}` is no PKCS#11 module: it has no C_GetFunctionList", path.display())))?;
        let mut list = std::ptr::null_mut();
        // SAFETY: `entry` is C_GetFunctionList of a library that is never unloaded; it writes one pointer.
        let rv = unsafe { entry(&raw mut list) };
        if rv != sys::CKR_OK || list.is_null() {
            return Err(CallError { function: "C_GetFunctionList", rv }.into_error("the module gives no function list"));
        }
        // SAFETY: CKR_OK and not null: the module's own static list, alive as long as the library, which is leaked.
        Ok(Functions { list: unsafe { *list } })
    }

    /// The slot that a session belongs to, asked through this list: fails for a session of another instance.
    pub(super) fn session_slot(&self, session: &Session) -> Result<u64, CallError> {
        let mut info = sys::CK_SESSION_INFO::default();
        // SAFETY: `info` is a valid structure to write to for the length of the call.
        unsafe { call!(self.C_GetSessionInfo(session.handle(), &raw mut info)) }?;
        Ok(info.slotID)
    }

    /// Raw because some modules fill `utcTime` with what cryptoki cannot parse.
    pub(super) fn token_info(&self, slot: u64) -> Result<(TokenInfo, TokenLimits), CallError> {
        let mut raw = sys::CK_TOKEN_INFO::default();
        // SAFETY: `raw` is a valid structure to write to for the length of the call.
        unsafe { call!(self.C_GetTokenInfo(slot, &raw mut raw)) }?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches([' ', '\0']).to_owned();
        let has = |flag| raw.flags & flag != 0;
        let info = TokenInfo {
            label: text(&raw.label),
            serial: text(&raw.serialNumber),
            manufacturer: text(&raw.manufacturerID),
            model: text(&raw.model),
            slot,
            firmware: format!("{}.{}", raw.firmwareVersion.major, raw.firmwareVersion.minor),
            library: String::new(),
            user_pin_count_low: has(sys::CKF_USER_PIN_COUNT_LOW),
            user_pin_final_try: has(sys::CKF_USER_PIN_FINAL_TRY),
            user_pin_locked: has(sys::CKF_USER_PIN_LOCKED),
        };
        let limits = TokenLimits {
            max_rw_sessions: match raw.ulMaxRwSessionCount {
                sys::CK_UNAVAILABLE_INFORMATION | sys::CK_EFFECTIVELY_INFINITE => None,
                limit => Some(limit),
            },
            login_required: has(sys::CKF_LOGIN_REQUIRED),
            initialized: has(sys::CKF_TOKEN_INITIALIZED),
            pin_initialized: has(sys::CKF_USER_PIN_INITIALIZED),
        };
        Ok((info, limits))
    }

    /// C_EncryptInit and one C_Encrypt with AES-GCM. The IV of `call` is read back: some tokens write the one they chose into it.
    pub(super) fn encrypt_gcm(
        &self,
        session: &Session,
        key: ObjectHandle,
        mut call: GcmCall<'_>,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        let mut out = vec![0u8; plaintext.len() + TAG_LEN + call.extra];
        let mut len = out.len() as CK_ULONG;
        let mut params = call.parameters();
        let mut mechanism = mechanism(call.mechanism, &mut params);
        // SAFETY: `mechanism`, `params` and what `call` borrows outlive both calls; every pointer comes with its own length;
        // `&Session` is not Sync, so no other thread uses this session now.
        unsafe {
            call!(self.C_EncryptInit(session.handle(), &raw mut mechanism, key.handle()))?;
            call!(self.C_Encrypt(
                session.handle(),
                plaintext.as_ptr().cast_mut(),
                plaintext.len() as CK_ULONG,
                out.as_mut_ptr(),
                &raw mut len,
            ))?;
        }
        if len != out.len() as CK_ULONG {
            return Err(CallError { function: "C_Encrypt", rv: 0 });
        }
        Ok(out)
    }

    /// C_DecryptInit and one C_Decrypt with AES-GCM.
    pub(super) fn decrypt_gcm(
        &self,
        session: &Session,
        key: ObjectHandle,
        mut call: GcmCall<'_>,
        input: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        // As long as the input, since some tokens want room for the tag too.
        let mut out = zeroize::Zeroizing::new(vec![0u8; input.len()]);
        let mut len = out.len() as CK_ULONG;
        let mut params = call.parameters();
        let mut mechanism = mechanism(call.mechanism, &mut params);
        // SAFETY: as in `encrypt_gcm`.
        unsafe {
            call!(self.C_DecryptInit(session.handle(), &raw mut mechanism, key.handle()))?;
            call!(self.C_Decrypt(
                session.handle(),
                input.as_ptr().cast_mut(),
                input.len() as CK_ULONG,
                out.as_mut_ptr(),
                &raw mut len,
            ))?;
        }
        if len as usize + TAG_LEN + call.extra != input.len() {
            return Err(CallError { function: "C_Decrypt", rv: 0 });
        }
        out.truncate(len as usize);
        Ok(std::mem::take(&mut *out))
    }

    /// C_SignInit and one C_Sign.
    pub(super) fn sign(
        &self,
        session: &Session,
        key: ObjectHandle,
        how: SignCall,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        let mut pss;
        let mut mechanism = match how {
            SignCall::Plain(mechanism) => {
                CK_MECHANISM { mechanism, pParameter: std::ptr::null_mut(), ulParameterLen: 0 }
            }
            SignCall::Pss { hash, mgf, salt_len } => {
                pss = sys::CK_RSA_PKCS_PSS_PARAMS { hashAlg: hash, mgf, sLen: salt_len };
                mechanism(sys::CKM_RSA_PKCS_PSS, &mut pss)
            }
        };
        let mut out = zeroize::Zeroizing::new([0u8; SIGNATURE_MAX]);
        let mut len = SIGNATURE_MAX as CK_ULONG;
        // SAFETY: as in `encrypt_gcm`; `pss` lives on the stack until after both calls.
        unsafe {
            call!(self.C_SignInit(session.handle(), &raw mut mechanism, key.handle()))?;
            call!(self.C_Sign(
                session.handle(),
                data.as_ptr().cast_mut(),
                data.len() as CK_ULONG,
                out.as_mut_ptr(),
                &raw mut len,
            ))?;
        }
        out.get(..len as usize).map(<[u8]>::to_vec).ok_or(CallError { function: "C_Sign", rv: 0 })
    }

    /// Attributes of an object in one C_GetAttributeValue, each with room for the given number of bytes. `None`: the object
    /// has it not, keeps it secret, or it is longer.
    pub(super) fn attributes(
        &self,
        session: &Session,
        object: ObjectHandle,
        wanted: &[(u64, usize)],
    ) -> Result<Vec<Option<Vec<u8>>>, CallError> {
        // Words and not bytes: modules write CK_ULONG through the pointer.
        let mut buffers: Vec<Vec<u64>> =
            wanted.iter().map(|(_, room)| vec![UNTOUCHED; room.div_ceil(size_of::<u64>())]).collect();
        let mut template: Vec<sys::CK_ATTRIBUTE> = wanted
            .iter()
            .zip(&mut buffers)
            .map(|((kind, room), buffer)| sys::CK_ATTRIBUTE {
                type_: *kind,
                pValue: buffer.as_mut_ptr().cast(),
                ulValueLen: *room as CK_ULONG,
            })
            .collect();
        // SAFETY: every entry points to a buffer of its own that has at least the room it names, and the buffers are not
        // touched until the call has returned.
        let answer = unsafe {
            call!(self.C_GetAttributeValue(
                session.handle(),
                object.handle(),
                template.as_mut_ptr(),
                template.len() as CK_ULONG,
            ))
        };
        match answer {
            // RULE PKCS#11 v2.40 §5.7 C_GetAttributeValue: these three do not end the call, and what failed has length -1.
            Err(CallError {
                rv: sys::CKR_ATTRIBUTE_SENSITIVE | sys::CKR_ATTRIBUTE_TYPE_INVALID | sys::CKR_BUFFER_TOO_SMALL,
                ..
            }) => {}
            answer => answer?,
        }
        Ok(template
            .iter()
            .zip(&buffers)
            .zip(wanted)
            .map(|((attribute, buffer), (_, room))| {
                let len = attribute.ulValueLen as usize;
                // A module that gave up before this attribute left both the length and the bytes as they were.
                let untouched = len == *room && buffer.iter().all(|word| *word == UNTOUCHED);
                (len <= *room && !untouched)
                    .then(|| buffer.iter().flat_map(|word| word.to_ne_bytes()).take(len).collect())
            })
            .collect())
    }

    /// The objects that fit. Raw because cryptoki takes a token that gives its objects in small portions at the first one, and keeps
    /// errors of C_FindObjectsFinal to itself.
    pub(super) fn find(&self, session: &Session, template: &[Attribute]) -> Result<Vec<ObjectHandle>, CallError> {
        let mut wanted: Vec<sys::CK_ATTRIBUTE> = template.iter().map(sys::CK_ATTRIBUTE::from).collect();
        // SAFETY: `wanted` points into `template`, which outlives the call; the session is this thread's.
        unsafe { call!(self.C_FindObjectsInit(session.handle(), wanted.as_mut_ptr(), wanted.len() as CK_ULONG)) }?;
        let mut found = Vec::new();
        let listed = loop {
            let (mut portion, mut count) = ([0; PORTION], 0);
            // SAFETY: `portion` has the room that is named, and `count` is a number to write to.
            let answer = unsafe {
                call!(self.C_FindObjects(session.handle(), portion.as_mut_ptr(), PORTION as CK_ULONG, &raw mut count))
            };
            match answer {
                Ok(()) if count > 0 => found.extend(portion.iter().take(count as usize).map(|number| object(*number))),
                answer => break answer,
            }
        };
        // SAFETY: no pointers.
        if let Err(error) = unsafe { call!(self.C_FindObjectsFinal(session.handle())) } {
            // The session's next search is refused then, and made in another one.
            tracing::info!(function = error.function, rv = %rv::said(error.rv), "a search does not end");
        }
        listed.map(|()| found)
    }

    pub(super) fn random(&self, session: &Session, out: &mut [u8]) -> Result<(), CallError> {
        // SAFETY: pointer and length describe `out`; the session is this thread's.
        unsafe { call!(self.C_GenerateRandom(session.handle(), out.as_mut_ptr(), out.len() as CK_ULONG)) }
    }
}

impl GcmCall<'_> {
    /// RULE: they point into `self`, which outlives the call.
    fn parameters(&mut self) -> sys::CK_GCM_PARAMS {
        let (iv, len) = match &mut self.iv {
            Some(iv) => (iv.as_mut_ptr(), iv.len()),
            // A slice without bytes would give a pointer that is not null.
            None => (std::ptr::null_mut(), 0),
        };
        sys::CK_GCM_PARAMS {
            pIv: iv,
            ulIvLen: len as CK_ULONG,
            // Left at 0 beside an IV it makes some tokens encrypt and then refuse to decrypt.
            ulIvBits: (len * 8) as CK_ULONG,
            pAAD: if self.aad.is_empty() { std::ptr::null_mut() } else { self.aad.as_ptr().cast_mut() },
            ulAADLen: self.aad.len() as CK_ULONG,
            ulTagBits: (TAG_LEN * 8) as CK_ULONG,
        }
    }
}

fn mechanism<P>(mechanism: u64, parameter: &mut P) -> CK_MECHANISM {
    CK_MECHANISM {
        mechanism,
        pParameter: (&raw mut *parameter).cast(),
        ulParameterLen: std::mem::size_of::<P>() as CK_ULONG,
    }
}
