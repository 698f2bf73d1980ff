//! Calls of the real module: as the bridge made them, and small ones of our own on a session beside the caller's.

use cryptoki_sys::*;

use crate::Call;

macro_rules! real {
    ($call:ident . $name:ident ( $($argument:expr),* $(,)? )) => {
        match $call.faults.real.$name {
            // SAFETY: the real function, called as our caller called, with the same arguments or with buffers that are alive for the
            // length of the call.
            Some(function) => unsafe { function($($argument),*) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}
pub(crate) use real;

/// A session of our own, closed at the end. The caller has one open meanwhile, so nobody is logged out by it.
pub struct Beside<'a> {
    call: &'a Call,
    pub session: CK_SESSION_HANDLE,
}

impl Beside<'_> {
    pub fn on(call: &Call, slot: CK_SLOT_ID) -> Option<Beside<'_>> {
        let mut session = 0;
        let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        let rv = real!(call.C_OpenSession(slot, flags, std::ptr::null_mut(), None, &raw mut session));
        (rv == CKR_OK).then_some(Beside { call, session })
    }

    pub fn found(&self, attributes: &[(u64, &[u8])]) -> Vec<CK_OBJECT_HANDLE> {
        let call = self.call;
        let mut template: Vec<CK_ATTRIBUTE> = attributes
            .iter()
            .map(|(kind, value)| CK_ATTRIBUTE {
                type_: *kind,
                pValue: value.as_ptr().cast_mut().cast(),
                ulValueLen: value.len() as CK_ULONG,
            })
            .collect();
        let mut all = Vec::new();
        if real!(call.C_FindObjectsInit(self.session, template.as_mut_ptr(), template.len() as CK_ULONG)) != CKR_OK {
            return all;
        }
        let mut some = [0; 256];
        loop {
            let mut count = 0;
            let rv = real!(call.C_FindObjects(self.session, some.as_mut_ptr(), some.len() as CK_ULONG, &raw mut count));
            if rv != CKR_OK || count == 0 {
                break;
            }
            all.extend(some.iter().take(count as usize));
        }
        let _ = real!(call.C_FindObjectsFinal(self.session));
        all
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        let call = self.call;
        let _ = real!(call.C_CloseSession(self.session));
    }
}

/// An attribute's value; empty where there is none.
pub fn attribute(
    call: &Call,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    kind: CK_ATTRIBUTE_TYPE,
) -> Vec<u8> {
    let mut value = [0u8; 512];
    let mut template =
        CK_ATTRIBUTE { type_: kind, pValue: value.as_mut_ptr().cast(), ulValueLen: value.len() as CK_ULONG };
    let rv = real!(call.C_GetAttributeValue(session, object, &raw mut template, 1));
    let len = if rv == CKR_OK { (template.ulValueLen as usize).min(value.len()) } else { 0 };
    value.iter().take(len).copied().collect()
}

/// A CK_ULONG or CK_BBOOL among the values of attributes.
pub fn number(value: &[u8]) -> Option<u64> {
    match value {
        [one] => Some(u64::from(*one)),
        _ => value.try_into().ok().map(CK_ULONG::from_ne_bytes),
    }
}
