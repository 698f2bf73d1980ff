//! The functions: each through the rules to the token's behaviour, and from there to the real module.
#![allow(non_snake_case, reason = "PKCS#11's names")]

use cryptoki_sys::*;

use crate::behaviour::Kind;
use crate::real::{attribute, real};
use crate::rules::{Length, On, Output};
use crate::sessions::{self, Known};
use crate::templates::{self, Template};
use crate::{Call, gcm, mechanisms, objects, pins, slots, through};

/// What a call is on: its first argument, where that is a session or a slot.
macro_rules! on {
    ([session $($name:ident)*] $first:expr $(, $more:expr)*) => {
        On::Session($first)
    };
    ([slot $($name:ident)*] $first:expr $(, $more:expr)*) => {
        On::Slot($first)
    };
    ([$($name:ident)*] $($more:expr),*) => {
        On::Module
    };
}

macro_rules! functions {
    ($($name:ident($($argument:ident: $kind:ty),* $(,)?) $([$($field:ident: $value:expr),*])? |$call:ident| $body:expr;)*) => {
        $(unsafe extern "C" fn $name($($argument: $kind),*) -> CK_RV {
            let output = Output { $($($field: $value,)*)? ..Output::default() };
            let on = on!([$($argument)*] $($argument),*);
            through(stringify!($name), on, output, |$call| $body)
        })*

        pub const NAMES: &[&str] = &[$(stringify!($name)),*];

        /// Puts them in place of the real ones.
        pub fn install(list: &mut CK_FUNCTION_LIST) {
            $(list.$name = Some($name);)*
        }
    };
}

/// A call with a session, and nothing else of interest.
macro_rules! plain {
    ($call:ident.$name:ident($session:ident $(, $argument:expr)*)) => {
        sessions::on($call, $session, |known| real!($call.$name(known.real $(, $argument)*)))
    };
}

macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(rv) => return rv,
        }
    };
}

fn bytes(out: CK_BYTE_PTR, len: CK_ULONG_PTR) -> Option<(CK_BYTE_PTR, Length)> {
    Some((out, Length::Written(len)))
}

functions! {
    C_Initialize(arguments: CK_VOID_PTR) |call| initialize(call, arguments);
    C_Finalize(reserved: CK_VOID_PTR) |call| finalize(call, reserved);
    C_GetInfo(info: CK_INFO_PTR) |call| real!(call.C_GetInfo(info));

    C_GetSlotList(present: CK_BBOOL, list: CK_SLOT_ID_PTR, count: CK_ULONG_PTR) [count: Some(count)]
        |call| slots::list(call, present, list, count);
    C_GetSlotInfo(slot: CK_SLOT_ID, info: CK_SLOT_INFO_PTR) |call| real!(call.C_GetSlotInfo(slots::real_of(call, slot), info));
    C_GetTokenInfo(slot: CK_SLOT_ID, info: CK_TOKEN_INFO_PTR) |call| slots::token_info(call, slot, info);
    C_GetMechanismList(slot: CK_SLOT_ID, list: CK_MECHANISM_TYPE_PTR, count: CK_ULONG_PTR) [count: Some(count)]
        |call| mechanisms::list(call, slot, list, count);
    C_GetMechanismInfo(slot: CK_SLOT_ID, kind: CK_MECHANISM_TYPE, info: CK_MECHANISM_INFO_PTR)
        |call| mechanisms::info(call, slot, kind, info);
    C_InitToken(slot: CK_SLOT_ID, pin: CK_UTF8CHAR_PTR, len: CK_ULONG, label: CK_UTF8CHAR_PTR)
        |call| real!(call.C_InitToken(slot, pin, len, label));
    C_WaitForSlotEvent(flags: CK_FLAGS, slot: CK_SLOT_ID_PTR, reserved: CK_VOID_PTR)
        |call| real!(call.C_WaitForSlotEvent(flags, slot, reserved));

    C_OpenSession(slot: CK_SLOT_ID, flags: CK_FLAGS, application: CK_VOID_PTR, notify: CK_NOTIFY, out: CK_SESSION_HANDLE_PTR)
        [handles: [Some(out), None]]
        |call| sessions::open(call, slot, flags, application, notify, out);
    C_CloseSession(session: CK_SESSION_HANDLE) |call| sessions::close(call, session);
    C_CloseAllSessions(slot: CK_SLOT_ID) |call| sessions::close_all(call, slot);
    C_GetSessionInfo(session: CK_SESSION_HANDLE, info: CK_SESSION_INFO_PTR) |call| sessions::on(call, session, |known| {
        let rv = real!(call.C_GetSessionInfo(known.real, info));
        // SAFETY: null, or the caller's structure, which the real function has filled.
        if let Some(info) = unsafe { info.as_mut() }.filter(|_| rv == CKR_OK) {
            info.slotID = known.slot;
        }
        rv
    });
    C_GetOperationState(session: CK_SESSION_HANDLE, out: CK_BYTE_PTR, len: CK_ULONG_PTR)
        |call| plain!(call.C_GetOperationState(session, out, len));
    C_SetOperationState(
        session: CK_SESSION_HANDLE, state: CK_BYTE_PTR, len: CK_ULONG, encryption: CK_OBJECT_HANDLE,
        authentication: CK_OBJECT_HANDLE,
    ) |call| plain!(call.C_SetOperationState(
        session, state, len, objects::real_of(encryption), objects::real_of(authentication)));

    C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: CK_UTF8CHAR_PTR, len: CK_ULONG)
        |call| sessions::on(call, session, |known| pins::login(call, known, user, pin, len));
    C_Logout(session: CK_SESSION_HANDLE) |call| plain!(call.C_Logout(session));
    C_InitPIN(session: CK_SESSION_HANDLE, pin: CK_UTF8CHAR_PTR, len: CK_ULONG) |call| sessions::on(call, session, |known| {
        let rv = real!(call.C_InitPIN(known.real, pin, len));
        if rv == CKR_OK {
            pins::initialised(call, known);
        }
        rv
    });
    C_SetPIN(session: CK_SESSION_HANDLE, old: CK_UTF8CHAR_PTR, old_len: CK_ULONG, new: CK_UTF8CHAR_PTR, new_len: CK_ULONG)
        |call| sessions::on(call, session, |known| {
            pins::set_pin(call, known, || real!(call.C_SetPIN(known.real, old, old_len, new, new_len)))
        });

    C_CreateObject(session: CK_SESSION_HANDLE, template: CK_ATTRIBUTE_PTR, count: CK_ULONG, out: CK_OBJECT_HANDLE_PTR)
        [handles: [Some(out), None]]
        |call| sessions::on(call, session, |known| {
            let given = [Template::given(template, count, None)];
            attempt!(templates::judged(call, "C_CreateObject", known.slot, &given));
            made(call, known, [out, std::ptr::null_mut()], real!(call.C_CreateObject(known.real, template, count, out)))
        });
    C_CopyObject(
        session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: CK_ATTRIBUTE_PTR, count: CK_ULONG,
        out: CK_OBJECT_HANDLE_PTR,
    ) [handles: [Some(out), None]] |call| sessions::on(call, session, |known| {
        let given = [Template::given(template, count, None)];
        attempt!(templates::judged(call, "C_CopyObject", known.slot, &given));
        let rv = real!(call.C_CopyObject(known.real, objects::real_of(object), template, count, out));
        made(call, known, [out, std::ptr::null_mut()], rv)
    });
    C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) |call| sessions::on(call, session, |known| {
        let real = objects::real_of(object);
        let rv = real!(call.C_DestroyObject(known.real, real));
        if rv == CKR_OK {
            objects::destroyed(real);
        }
        rv
    });
    C_GetObjectSize(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, size: CK_ULONG_PTR)
        |call| plain!(call.C_GetObjectSize(session, objects::real_of(object), size));
    C_GetAttributeValue(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: CK_ATTRIBUTE_PTR, count: CK_ULONG)
        |call| sessions::on(call, session, |known| {
            let asked = [Template::asked(template, count)];
            attempt!(templates::judged(call, "C_GetAttributeValue", known.slot, &asked));
            real!(call.C_GetAttributeValue(known.real, objects::real_of(object), template, count))
        });
    C_SetAttributeValue(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: CK_ATTRIBUTE_PTR, count: CK_ULONG)
        |call| sessions::on(call, session, |known| {
            let given = [Template::given(template, count, None)];
            attempt!(templates::judged(call, "C_SetAttributeValue", known.slot, &given));
            real!(call.C_SetAttributeValue(known.real, objects::real_of(object), template, count))
        });
    C_FindObjectsInit(session: CK_SESSION_HANDLE, template: CK_ATTRIBUTE_PTR, count: CK_ULONG)
        |call| sessions::on(call, session, |known| {
            let given = [Template::given(template, count, None)];
            attempt!(templates::judged(call, "C_FindObjectsInit", known.slot, &given));
            real!(call.C_FindObjectsInit(known.real, template, count))
        });
    C_FindObjects(session: CK_SESSION_HANDLE, out: CK_OBJECT_HANDLE_PTR, room: CK_ULONG, count: CK_ULONG_PTR)
        [count: Some(count)]
        |call| sessions::on(call, session, |known| objects::find(call, known.real, known.slot, out, room, count));
    C_FindObjectsFinal(session: CK_SESSION_HANDLE) |call| plain!(call.C_FindObjectsFinal(session));

    C_EncryptInit(session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, key: CK_OBJECT_HANDLE)
        |call| init(call, "C_EncryptInit", session, mechanism, key, |real, key| gcm::encrypt_init(call, real, mechanism, key));
    C_Encrypt(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        [bytes: bytes(out, out_len)]
        |call| sessions::on(call, session, |known| {
            if mechanisms::too_long(call, known.real, data_len) {
                // An error ends the operation: the real one is brought to an end by a text that it takes.
                let (mut scratch, mut len) = ([0u8; 64], 64);
                let _ = real!(call.C_Encrypt(known.real, data, 1, scratch.as_mut_ptr(), &raw mut len));
                return call.refuse("gcm_max_bytes", CKR_DATA_LEN_RANGE);
            }
            gcm::encrypt(call, known.real, data, data_len, out, out_len)
        });
    C_EncryptUpdate(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        |call| plain!(call.C_EncryptUpdate(session, data, data_len, out, out_len));
    C_EncryptFinal(session: CK_SESSION_HANDLE, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        |call| plain!(call.C_EncryptFinal(session, out, out_len));
    C_DecryptInit(session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, key: CK_OBJECT_HANDLE)
        |call| init(call, "C_DecryptInit", session, mechanism, key, |real, key| gcm::decrypt_init(call, real, mechanism, key));
    C_Decrypt(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        [bytes: bytes(out, out_len)]
        |call| sessions::on(call, session, |known| {
            if mechanisms::too_long(call, known.real, data_len) {
                let (mut scratch, mut len) = ([0u8; 64], 64);
                let _ = real!(call.C_Decrypt(known.real, data, 1, scratch.as_mut_ptr(), &raw mut len));
                gcm::forget(known.real);
                return call.refuse("gcm_max_bytes", CKR_ENCRYPTED_DATA_LEN_RANGE);
            }
            gcm::decrypt(call, known.real, data, data_len, out, out_len)
        });
    C_DecryptUpdate(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        |call| plain!(call.C_DecryptUpdate(session, data, data_len, out, out_len));
    C_DecryptFinal(session: CK_SESSION_HANDLE, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        |call| plain!(call.C_DecryptFinal(session, out, out_len));

    C_DigestInit(session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR) |call| plain!(call.C_DigestInit(session, mechanism));
    C_Digest(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        [bytes: bytes(out, out_len)]
        |call| plain!(call.C_Digest(session, data, data_len, out, out_len));
    C_DigestUpdate(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG)
        |call| plain!(call.C_DigestUpdate(session, data, data_len));
    C_DigestKey(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE)
        |call| plain!(call.C_DigestKey(session, objects::real_of(key)));
    C_DigestFinal(session: CK_SESSION_HANDLE, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        |call| plain!(call.C_DigestFinal(session, out, out_len));

    C_SignInit(session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, key: CK_OBJECT_HANDLE)
        |call| init(call, "C_SignInit", session, mechanism, key, |real, key| real!(call.C_SignInit(real, mechanism, key)));
    C_Sign(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        [bytes: bytes(out, out_len)]
        |call| plain!(call.C_Sign(session, data, data_len, out, out_len));
    C_SignUpdate(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG)
        |call| plain!(call.C_SignUpdate(session, data, data_len));
    C_SignFinal(session: CK_SESSION_HANDLE, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR) [bytes: bytes(out, out_len)]
        |call| plain!(call.C_SignFinal(session, out, out_len));
    C_SignRecoverInit(session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, key: CK_OBJECT_HANDLE)
        |call| plain!(call.C_SignRecoverInit(session, mechanism, objects::real_of(key)));
    C_SignRecover(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        |call| plain!(call.C_SignRecover(session, data, data_len, out, out_len));
    C_VerifyInit(session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, key: CK_OBJECT_HANDLE)
        |call| init(call, "C_VerifyInit", session, mechanism, key, |real, key| real!(call.C_VerifyInit(real, mechanism, key)));
    C_Verify(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, signature: CK_BYTE_PTR, signature_len: CK_ULONG)
        |call| plain!(call.C_Verify(session, data, data_len, signature, signature_len));
    C_VerifyUpdate(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG)
        |call| plain!(call.C_VerifyUpdate(session, data, data_len));
    C_VerifyFinal(session: CK_SESSION_HANDLE, signature: CK_BYTE_PTR, signature_len: CK_ULONG)
        |call| plain!(call.C_VerifyFinal(session, signature, signature_len));
    C_VerifyRecoverInit(session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, key: CK_OBJECT_HANDLE)
        |call| plain!(call.C_VerifyRecoverInit(session, mechanism, objects::real_of(key)));
    C_VerifyRecover(
        session: CK_SESSION_HANDLE, signature: CK_BYTE_PTR, signature_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR,
    ) |call| plain!(call.C_VerifyRecover(session, signature, signature_len, out, out_len));
    C_DigestEncryptUpdate(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        |call| plain!(call.C_DigestEncryptUpdate(session, data, data_len, out, out_len));
    C_DecryptDigestUpdate(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        |call| plain!(call.C_DecryptDigestUpdate(session, data, data_len, out, out_len));
    C_SignEncryptUpdate(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        |call| plain!(call.C_SignEncryptUpdate(session, data, data_len, out, out_len));
    C_DecryptVerifyUpdate(session: CK_SESSION_HANDLE, data: CK_BYTE_PTR, data_len: CK_ULONG, out: CK_BYTE_PTR, out_len: CK_ULONG_PTR)
        |call| plain!(call.C_DecryptVerifyUpdate(session, data, data_len, out, out_len));

    C_GenerateKey(
        session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, template: CK_ATTRIBUTE_PTR, count: CK_ULONG,
        out: CK_OBJECT_HANDLE_PTR,
    ) [handles: [Some(out), None]] |call| sessions::on(call, session, |known| {
        attempt!(mechanisms::judged(call, "C_GenerateKey", mechanism));
        let given = [Template::given(template, count, Some(Kind::Secret))];
        attempt!(templates::judged(call, "C_GenerateKey", known.slot, &given));
        let rv = real!(call.C_GenerateKey(known.real, mechanism, template, count, out));
        made(call, known, [out, std::ptr::null_mut()], rv)
    });
    C_GenerateKeyPair(
        session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, public: CK_ATTRIBUTE_PTR, public_count: CK_ULONG,
        private: CK_ATTRIBUTE_PTR, private_count: CK_ULONG, public_out: CK_OBJECT_HANDLE_PTR, private_out: CK_OBJECT_HANDLE_PTR,
    ) [handles: [Some(public_out), Some(private_out)]] |call| sessions::on(call, session, |known| {
        attempt!(mechanisms::judged(call, "C_GenerateKeyPair", mechanism));
        let given = [
            Template::given(public, public_count, Some(Kind::Public)),
            Template::given(private, private_count, Some(Kind::Private)),
        ];
        attempt!(templates::judged(call, "C_GenerateKeyPair", known.slot, &given));
        let rv = real!(call.C_GenerateKeyPair(
            known.real, mechanism, public, public_count, private, private_count, public_out, private_out));
        made(call, known, [public_out, private_out], rv)
    });
    C_WrapKey(
        session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, by: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE,
        out: CK_BYTE_PTR, out_len: CK_ULONG_PTR,
    ) [bytes: bytes(out, out_len)] |call| sessions::on(call, session, |known| {
        attempt!(mechanisms::judged(call, "C_WrapKey", mechanism));
        real!(call.C_WrapKey(known.real, mechanism, objects::real_of(by), objects::real_of(key), out, out_len))
    });
    C_UnwrapKey(
        session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, by: CK_OBJECT_HANDLE, wrapped: CK_BYTE_PTR,
        wrapped_len: CK_ULONG, template: CK_ATTRIBUTE_PTR, count: CK_ULONG, out: CK_OBJECT_HANDLE_PTR,
    ) [handles: [Some(out), None]] |call| sessions::on(call, session, |known| {
        attempt!(mechanisms::judged(call, "C_UnwrapKey", mechanism));
        attempt!(templates::judged(call, "C_UnwrapKey", known.slot, &[Template::given(template, count, None)]));
        let by = objects::real_of(by);
        let rv = real!(call.C_UnwrapKey(known.real, mechanism, by, wrapped, wrapped_len, template, count, out));
        made(call, known, [out, std::ptr::null_mut()], rv)
    });
    C_DeriveKey(
        session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, base: CK_OBJECT_HANDLE, template: CK_ATTRIBUTE_PTR,
        count: CK_ULONG, out: CK_OBJECT_HANDLE_PTR,
    ) [handles: [Some(out), None]] |call| sessions::on(call, session, |known| {
        attempt!(mechanisms::judged(call, "C_DeriveKey", mechanism));
        attempt!(templates::judged(call, "C_DeriveKey", known.slot, &[Template::given(template, count, None)]));
        let rv = real!(call.C_DeriveKey(known.real, mechanism, objects::real_of(base), template, count, out));
        made(call, known, [out, std::ptr::null_mut()], rv)
    });

    C_SeedRandom(session: CK_SESSION_HANDLE, seed: CK_BYTE_PTR, len: CK_ULONG) |call| plain!(call.C_SeedRandom(session, seed, len));
    C_GenerateRandom(session: CK_SESSION_HANDLE, out: CK_BYTE_PTR, len: CK_ULONG)
        [bytes: Some((out, Length::Given(len)))]
        |call| plain!(call.C_GenerateRandom(session, out, len));
    C_GetFunctionStatus(session: CK_SESSION_HANDLE) |call| plain!(call.C_GetFunctionStatus(session));
    C_CancelFunction(session: CK_SESSION_HANDLE) |call| plain!(call.C_CancelFunction(session));
}

fn initialize(call: &Call, arguments: CK_VOID_PTR) -> CK_RV {
    let rv = real!(call.C_Initialize(arguments));
    if rv == CKR_OK {
        sessions::forget_all(call);
        objects::forget_all(call);
        slots::look(call, true);
    }
    if rv == CKR_CRYPTOKI_ALREADY_INITIALIZED && call.script.behaviour.second_initialize_ok {
        return call.refuse("second_initialize_ok", CKR_OK);
    }
    rv
}

fn finalize(call: &Call, reserved: CK_VOID_PTR) -> CK_RV {
    let rv = real!(call.C_Finalize(reserved));
    if rv == CKR_OK {
        sessions::forget_all(call);
        objects::forget_all(call);
        slots::look(call, false);
        gcm::forget_all();
    }
    rv
}

/// C_…Init of something with a key.
fn init(
    call: &Call,
    function: &'static str,
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
    begin: impl FnOnce(CK_SESSION_HANDLE, CK_OBJECT_HANDLE) -> CK_RV,
) -> CK_RV {
    sessions::on(call, session, |known| {
        attempt!(mechanisms::judged(call, function, mechanism));
        let key = objects::real_of(key);
        if call.script.log_keys {
            call.key.replace(Some(attribute(call, known.real, key, CKA_ID)));
        }
        let rv = begin(known.real, key);
        if rv == CKR_OK {
            mechanisms::begun(known.real, mechanism);
        }
        rv
    })
}

/// Objects were made, if `rv` says so.
fn made(call: &Call, known: Known, handles: [CK_OBJECT_HANDLE_PTR; 2], rv: CK_RV) -> CK_RV {
    if rv == CKR_OK {
        for handle in handles {
            objects::made(call, known.real, known.slot, handle);
        }
    }
    rv
}
