//! Wrong PINs: counted by token in a file, so that it goes on over processes, until the token locks.

use cryptoki_sys::*;

use crate::kept::Kept;
use crate::real::real;
use crate::sessions::Known;
use crate::{Call, objects};

const COUNTERS: CK_FLAGS =
    CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED | CKF_USER_PIN_TO_BE_CHANGED;

pub fn login(call: &Call, session: Known, user: CK_USER_TYPE, pin: CK_UTF8CHAR_PTR, len: CK_ULONG) -> CK_RV {
    if session.accelerator {
        return call.refuse("accelerator_slot", CKR_USER_TYPE_INVALID);
    }
    let tries = call.script.behaviour.pin_tries.filter(|_| user == CKU_USER);
    if user == CKU_USER && call.script.behaviour.pin_expired && !Counter::of(call, session.slot).renewed() {
        return call.refuse("pin_expired", CKR_PIN_EXPIRED);
    }
    let Some(tries) = tries else { return logged_in(call, session, real!(call.C_Login(session.real, user, pin, len))) };
    // Tries are made one at a time, also over processes.
    let mut counter = Counter::of(call, session.slot);
    if counter.wrong >= tries {
        return call.refuse("pin_tries", CKR_PIN_LOCKED);
    }
    let rv = real!(call.C_Login(session.real, user, pin, len));
    match rv {
        CKR_OK => counter.set(0),
        CKR_PIN_INCORRECT | CKR_PIN_LEN_RANGE | CKR_PIN_INVALID => counter.set(counter.wrong + 1),
        _ => {}
    }
    drop(counter);
    logged_in(call, session, rv)
}

fn logged_in(call: &Call, session: Known, rv: CK_RV) -> CK_RV {
    if rv == CKR_OK {
        objects::logged_in(call, session.slot);
    }
    rv
}

/// C_SetPIN, of the user while nobody is logged in as the security officer.
pub fn set_pin(call: &Call, session: Known, set: impl FnOnce() -> CK_RV) -> CK_RV {
    let behaviour = &call.script.behaviour;
    if behaviour.pin_tries.is_none() && !behaviour.pin_expired {
        return set();
    }
    let mut counter = Counter::of(call, session.slot);
    if behaviour.pin_tries.is_some_and(|tries| counter.wrong >= tries) {
        return call.refuse("pin_tries", CKR_PIN_LOCKED);
    }
    let rv = set();
    match rv {
        CKR_OK => counter.renew(),
        CKR_PIN_INCORRECT if behaviour.pin_tries.is_some() => counter.set(counter.wrong + 1),
        _ => {}
    }
    rv
}

/// The security officer has given the user a new PIN.
pub fn initialised(call: &Call, session: Known) {
    let behaviour = &call.script.behaviour;
    if behaviour.pin_tries.is_some() || behaviour.pin_expired {
        Counter::of(call, session.slot).renew();
    }
}

/// The flags of C_GetTokenInfo.
pub fn flags(call: &Call, slot: CK_SLOT_ID, flags: CK_FLAGS) -> CK_FLAGS {
    let behaviour = &call.script.behaviour;
    let mut flags = flags;
    if let Some(tries) = behaviour.pin_tries {
        let wrong = Counter::of(call, slot).wrong;
        flags &= !COUNTERS;
        if wrong >= tries {
            flags |= CKF_USER_PIN_LOCKED;
        } else if wrong > 0 {
            flags |= CKF_USER_PIN_COUNT_LOW;
            if wrong + 1 == tries {
                flags |= CKF_USER_PIN_FINAL_TRY;
            }
        }
    }
    if behaviour.pin_expired && !Counter::of(call, slot).renewed() {
        flags |= CKF_USER_PIN_TO_BE_CHANGED;
    }
    flags
}

/// `pin-SERIAL` of the state: how many wrong tries, and whether the PIN was changed. Locked while it is looked at.
struct Counter {
    file: Kept,
    wrong: u32,
    changed: bool,
}

impl Counter {
    fn of(call: &Call, slot: CK_SLOT_ID) -> Counter {
        let (file, text) = Kept::read(call.faults, format!("pin-{}", serial(call, slot)));
        let mut words = text.split_whitespace();
        let wrong = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        Counter { file, wrong, changed: words.next() == Some("changed") }
    }

    fn renewed(&self) -> bool {
        self.changed
    }

    fn renew(&mut self) {
        self.changed = true;
        self.set(0);
    }

    fn set(&mut self, wrong: u32) {
        self.wrong = wrong;
        let changed = if self.changed { "changed" } else { "" };
        self.file.write(&format!("{wrong} {changed}"));
    }
}

fn serial(call: &Call, slot: CK_SLOT_ID) -> String {
    let mut info = CK_TOKEN_INFO::default();
    let _ = real!(call.C_GetTokenInfo(slot, &raw mut info));
    info.serialNumber.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(|byte| char::from(*byte)).collect()
}
