//! Slots and tokens: lists that are not refreshed, a slot more, other names, counters of PINs.

use std::sync::{Mutex, PoisonError};

use cryptoki_sys::*;

use crate::real::real;
use crate::{Call, pins};

const ACCELERATOR: CK_SLOT_ID = 0x0acc;

/// The lists of C_Initialize: all slots, and those with a token.
static FROZEN: Mutex<Option<[Vec<CK_SLOT_ID>; 2]>> = Mutex::new(None);

/// After C_Initialize or C_Finalize.
pub fn look(call: &Call, initialised: bool) {
    let frozen = (initialised && call.script.behaviour.slots_frozen)
        .then(|| [CK_FALSE, CK_TRUE].map(|present| listed(call, present).unwrap_or_default()));
    *FROZEN.lock().unwrap_or_else(PoisonError::into_inner) = frozen;
}

pub fn list(call: &Call, present: CK_BBOOL, out: CK_SLOT_ID_PTR, count: CK_ULONG_PTR) -> CK_RV {
    let behaviour = &call.script.behaviour;
    let frozen = FROZEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if frozen.is_none() && !behaviour.accelerator_slot {
        return real!(call.C_GetSlotList(present, out, count));
    }
    let mut slots = match frozen {
        Some([all, with_token]) => {
            if present == CK_FALSE {
                all
            } else {
                with_token
            }
        }
        None => match listed(call, present) {
            Ok(slots) => slots,
            Err(rv) => return rv,
        },
    };
    if behaviour.accelerator_slot {
        slots.insert(0, ACCELERATOR);
    }
    told(&slots, out, count)
}

/// A list as PKCS#11 gives lists.
pub fn told(list: &[CK_ULONG], out: *mut CK_ULONG, count: CK_ULONG_PTR) -> CK_RV {
    // SAFETY: null, or the caller's place for a number.
    let Some(count) = (unsafe { count.as_mut() }) else { return CKR_ARGUMENTS_BAD };
    let room = std::mem::replace(count, list.len() as CK_ULONG);
    if out.is_null() {
        return CKR_OK;
    }
    if room < list.len() as CK_ULONG {
        return CKR_BUFFER_TOO_SMALL;
    }
    // SAFETY: the caller says that there is room for so many.
    unsafe { std::ptr::copy_nonoverlapping(list.as_ptr(), out, list.len()) };
    CKR_OK
}

fn listed(call: &Call, present: CK_BBOOL) -> Result<Vec<CK_SLOT_ID>, CK_RV> {
    let mut slots = vec![0; 256];
    let mut count = slots.len() as CK_ULONG;
    match real!(call.C_GetSlotList(present, slots.as_mut_ptr(), &raw mut count)) {
        CKR_OK => {
            slots.truncate(count as usize);
            Ok(slots)
        }
        rv => Err(rv),
    }
}

pub fn is_accelerator(call: &Call, slot: CK_SLOT_ID) -> bool {
    call.script.behaviour.accelerator_slot && slot == ACCELERATOR
}

/// A slot that does the accelerator's work.
pub fn any_real(call: &Call) -> CK_SLOT_ID {
    listed(call, CK_TRUE).ok().and_then(|slots| slots.first().copied()).unwrap_or(ACCELERATOR)
}

pub fn real_of(call: &Call, slot: CK_SLOT_ID) -> CK_SLOT_ID {
    if is_accelerator(call, slot) { any_real(call) } else { slot }
}

pub fn token_info(call: &Call, slot: CK_SLOT_ID, out: CK_TOKEN_INFO_PTR) -> CK_RV {
    let rv = real!(call.C_GetTokenInfo(real_of(call, slot), out));
    // SAFETY: null, or the caller's structure, which the real function has filled.
    let Some(info) = (unsafe { out.as_mut() }).filter(|_| rv == CKR_OK) else { return rv };
    let behaviour = &call.script.behaviour;
    if let Some(name) = &behaviour.manufacturer {
        fill(&mut info.manufacturerID, name);
    }
    if let Some(name) = &behaviour.model {
        fill(&mut info.model, name);
    }
    if let Some(most) = behaviour.max_sessions {
        info.ulMaxSessionCount = most as CK_ULONG;
        info.ulMaxRwSessionCount = most as CK_ULONG;
    }
    if is_accelerator(call, slot) {
        fill(&mut info.label, "accelerator");
        fill(&mut info.serialNumber, "ACCELERATOR");
        info.flags &= !CKF_LOGIN_REQUIRED;
        return rv;
    }
    info.flags = pins::flags(call, slot, info.flags);
    rv
}

fn fill(field: &mut [u8], text: &str) {
    let padded = text.bytes().chain(std::iter::repeat(b' '));
    field.iter_mut().zip(padded).for_each(|(place, byte)| *place = byte);
}
