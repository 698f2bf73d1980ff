//! The yardstick: the PKCS#11 calls alone, on one thread, in a process of its own. None of the bridge's code is used here.
//!
//! Reads lines `OPERATION SECONDS` and answers `MICROSECONDS_OF_CPU_PER_CALL CALLS_PER_SECOND`; `resident` answers KiB.
#![allow(unsafe_code, reason = "the bare C calls are what is measured")]

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use cryptoki_sys as sys;
use hsm_bridge::config::Config;

use crate::process;

/// What an officer wants to know of an object, with room for each: one call reads them all.
const ATTRIBUTES: [(u64, usize); 23] = [
    (sys::CKA_CLASS, 8),
    (sys::CKA_ID, 1024),
    (sys::CKA_LABEL, 1024),
    (sys::CKA_KEY_TYPE, 8),
    (sys::CKA_PRIVATE, 1),
    (sys::CKA_SENSITIVE, 1),
    (sys::CKA_EXTRACTABLE, 1),
    (sys::CKA_ALWAYS_SENSITIVE, 1),
    (sys::CKA_NEVER_EXTRACTABLE, 1),
    (sys::CKA_LOCAL, 1),
    (sys::CKA_MODIFIABLE, 1),
    (sys::CKA_ENCRYPT, 1),
    (sys::CKA_DECRYPT, 1),
    (sys::CKA_SIGN, 1),
    (sys::CKA_VERIFY, 1),
    (sys::CKA_WRAP, 1),
    (sys::CKA_UNWRAP, 1),
    (sys::CKA_DERIVE, 1),
    (sys::CKA_MODULUS, 1024),
    (sys::CKA_EC_PARAMS, 1024),
    (sys::CKA_VALUE_LEN, 8),
    (sys::CKA_CHECK_VALUE, 64),
    (sys::CKA_KEY_GEN_MECHANISM, 8),
];

/// `hsm-bridge/kms/1`, header fields, two pairs of a context: what Encrypt binds in this bench.
const AAD_LEN: usize = 80;

struct Raw {
    list: sys::CK_FUNCTION_LIST,
    session: Session,
    aes: Vec<ObjectHandle>,
    signing: ObjectHandle,
    sealed: Vec<Vec<u8>>,
}

pub fn serve(config: &Config, keys: &super::instance::Keys) {
    let pin = config.token.pin.read().expect("the instance has a PIN");
    let library = unsafe { sys::Pkcs11::new(&config.token.module) }.expect("the module loads");
    let library = Box::leak(Box::new(library));
    let mut list = std::ptr::null_mut();
    let rv = unsafe { library.C_GetFunctionList.as_ref().expect("a PKCS#11 module")(&raw mut list) };
    assert_eq!(rv, sys::CKR_OK);
    let list = unsafe { *list };

    let pkcs11 = Pkcs11::new(&config.token.module).expect("the module loads");
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("C_Initialize");
    let label = config.token.selector.label.as_deref().expect("the instance's token has a label");
    let slot = pkcs11
        .get_slots_with_token()
        .expect("C_GetSlotList")
        .into_iter()
        .find(|slot| pkcs11.get_token_info(*slot).is_ok_and(|info| info.label() == label))
        .expect("the token is there");
    let session = pkcs11.open_ro_session(slot).expect("C_OpenSession");
    session.login(UserType::User, Some(&AuthPin::new(pin.expose().into()))).expect("C_Login");
    let find = |class, id: &hsm_bridge::ids::KeyId| {
        let found = session.find_objects(&[Attribute::Class(class), Attribute::Id(id.bytes().to_vec())]);
        *found.expect("C_FindObjects").first().expect("the object is there")
    };
    let aes = keys.used().iter().map(|id| find(ObjectClass::SECRET_KEY, id)).collect();
    let signing = find(ObjectClass::PRIVATE_KEY, &keys.signing);
    let mut raw = Raw { list, session, aes, signing, sealed: Vec::new() };
    raw.sealed = (0..raw.aes.len()).map(|turn| raw.encrypt(turn)).collect();

    for line in std::io::stdin().lock().lines() {
        let line = line.expect("the parent writes text");
        if line == "resident" {
            println!("{} 0", process::resident(std::process::id()));
        } else if line == "inventory" {
            let (enumeration, attributes) = raw.inventory();
            println!("{enumeration} {attributes}");
        } else if line == "touch" {
            // Every object once, as the server's first use of every key.
            for object in raw.session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)]).expect("C_FindObjects")
            {
                raw.aes = vec![object];
                raw.encrypt(0);
            }
            println!("{} 0", process::resident(std::process::id()));
        } else {
            let (operation, seconds) = line.split_once(' ').expect("OPERATION SECONDS");
            let time = Duration::from_secs_f64(seconds.parse().expect("seconds"));
            let (micros, rate) = raw.measure(operation, time);
            println!("{micros} {rate}");
        }
        std::io::stdout().flush().expect("the parent reads");
    }
}

impl Raw {
    /// Seconds of one enumeration of all objects, and of one C_GetAttributeValue for each.
    fn inventory(&self) -> (f64, f64) {
        let session = self.session.handle();
        let start = Instant::now();
        let mut objects = Vec::new();
        unsafe {
            let init = self.list.C_FindObjectsInit.expect("in the list");
            assert_eq!(init(session, std::ptr::null_mut(), 0), sys::CKR_OK);
            let find = self.list.C_FindObjects.expect("in the list");
            loop {
                let (mut found, mut count) = ([0; 1024], 0);
                assert_eq!(find(session, found.as_mut_ptr(), 1024, &raw mut count), sys::CKR_OK);
                objects.extend_from_slice(&found[..usize::try_from(count).expect("at most 1024")]);
                if count == 0 {
                    break;
                }
            }
            assert_eq!(self.list.C_FindObjectsFinal.expect("in the list")(session), sys::CKR_OK);
        }
        let enumeration = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let read = self.list.C_GetAttributeValue.expect("in the list");
        for object in objects {
            let mut room: Vec<Vec<u8>> = ATTRIBUTES.iter().map(|(_, size)| vec![0; *size]).collect();
            let mut template: Vec<sys::CK_ATTRIBUTE> = ATTRIBUTES
                .iter()
                .zip(&mut room)
                .map(|((kind, size), room)| sys::CK_ATTRIBUTE {
                    type_: *kind,
                    pValue: room.as_mut_ptr().cast(),
                    ulValueLen: *size as sys::CK_ULONG,
                })
                .collect();
            // A key lacks some of them, which the answer says; the others are there all the same.
            unsafe { read(session, object, template.as_mut_ptr(), template.len() as sys::CK_ULONG) };
        }
        (enumeration, start.elapsed().as_secs_f64())
    }

    fn measure(&self, operation: &str, time: Duration) -> (f64, f64) {
        for turn in 0..50 {
            self.call(operation, turn);
        }
        let (start, cpu) = (Instant::now(), process::own_thread_micros());
        let mut calls = 0;
        while start.elapsed() < time {
            for _ in 0..20 {
                self.call(operation, calls);
                calls += 1;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        ((process::own_thread_micros() - cpu) / calls as f64, calls as f64 / seconds)
    }

    fn call(&self, operation: &str, turn: usize) {
        match operation {
            "Encrypt" => drop(self.encrypt(turn)),
            "Decrypt" => self.decrypt(turn),
            "GenerateDataKey" => {
                let mut key = [0u8; 32];
                let random = self.list.C_GenerateRandom.expect("in the list");
                let rv = unsafe { random(self.session.handle(), key.as_mut_ptr(), 32) };
                assert_eq!(rv, sys::CKR_OK);
                drop(self.encrypt(turn));
            }
            "Sign" => self.sign(),
            other => panic!("no raw call for {other}"),
        }
    }

    /// C_EncryptInit and C_Encrypt: 32 bytes, AES-GCM.
    fn encrypt(&self, turn: usize) -> Vec<u8> {
        let (mut plaintext, mut out, mut len) = ([7u8; 32], vec![0u8; 48], 48);
        let session = self.session.handle();
        gcm(|mechanism| unsafe {
            let init = self.list.C_EncryptInit.expect("in the list");
            assert_eq!(init(session, mechanism, self.aes[turn % self.aes.len()].handle()), sys::CKR_OK);
            let encrypt = self.list.C_Encrypt.expect("in the list");
            assert_eq!(encrypt(session, plaintext.as_mut_ptr(), 32, out.as_mut_ptr(), &raw mut len), sys::CKR_OK);
        });
        assert_eq!(len, 48);
        out
    }

    fn decrypt(&self, turn: usize) {
        let mut sealed = self.sealed[turn % self.sealed.len()].clone();
        let (mut out, mut len) = ([0u8; 48], 48);
        let session = self.session.handle();
        gcm(|mechanism| unsafe {
            let init = self.list.C_DecryptInit.expect("in the list");
            assert_eq!(init(session, mechanism, self.aes[turn % self.aes.len()].handle()), sys::CKR_OK);
            let decrypt = self.list.C_Decrypt.expect("in the list");
            assert_eq!(decrypt(session, sealed.as_mut_ptr(), 48, out.as_mut_ptr(), &raw mut len), sys::CKR_OK);
        });
        assert_eq!(out[..32], [7; 32]);
    }

    fn sign(&self) {
        let session = self.session.handle();
        let mut mechanism =
            sys::CK_MECHANISM { mechanism: sys::CKM_ECDSA, pParameter: std::ptr::null_mut(), ulParameterLen: 0 };
        let (mut digest, mut out, mut len) = ([7u8; 32], [0u8; 128], 128);
        unsafe {
            let init = self.list.C_SignInit.expect("in the list");
            assert_eq!(init(session, &raw mut mechanism, self.signing.handle()), sys::CKR_OK);
            let sign = self.list.C_Sign.expect("in the list");
            assert_eq!(sign(session, digest.as_mut_ptr(), 32, out.as_mut_ptr(), &raw mut len), sys::CKR_OK);
        }
    }
}

fn gcm(call: impl FnOnce(*mut sys::CK_MECHANISM)) {
    let (mut iv, mut aad) = ([3u8; 12], [5u8; AAD_LEN]);
    let mut parameters = sys::CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: 12,
        ulIvBits: 96,
        pAAD: aad.as_mut_ptr(),
        ulAADLen: AAD_LEN as sys::CK_ULONG,
        ulTagBits: 128,
    };
    let mut mechanism = sys::CK_MECHANISM {
        mechanism: sys::CKM_AES_GCM,
        pParameter: (&raw mut parameters).cast(),
        ulParameterLen: std::mem::size_of::<sys::CK_GCM_PARAMS>() as sys::CK_ULONG,
    };
    call(&raw mut mechanism);
}
