//! Sessions: the numbers they have for the caller, how many there may be, and how long they live unused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki_sys::*;

use crate::real::real;
use crate::{Call, gcm, objects, slots};

struct Session {
    real: CK_SESSION_HANDLE,
    slot: CK_SLOT_ID,
    /// On the slot that has no login.
    accelerator: bool,
    used: Instant,
    running: usize,
}

#[derive(Default)]
struct Table {
    sessions: BTreeMap<CK_SESSION_HANDLE, Session>,
    /// Being opened.
    promised: usize,
    lowest_numbers: bool,
    /// Nothing works until C_Finalize.
    ended: bool,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

fn with<T>(what: impl FnOnce(&mut Table) -> T) -> T {
    let mut table: MutexGuard<'_, Option<Table>> = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    what(table.get_or_insert_default())
}

/// A session as the real module knows it.
#[derive(Clone, Copy)]
pub struct Known {
    pub real: CK_SESSION_HANDLE,
    pub slot: CK_SLOT_ID,
    pub accelerator: bool,
}

/// A call with a session.
pub fn on(call: &Call, number: CK_SESSION_HANDLE, what: impl FnOnce(Known) -> CK_RV) -> CK_RV {
    let behaviour = &call.script.behaviour;
    let limit = behaviour.idle_session_ms.map(Duration::from_millis);
    let found = with(|table| {
        if table.ended {
            return Err(None);
        }
        let Some(session) = table.sessions.get_mut(&number) else {
            // The real module has no session 0: it says what it says of sessions that are not there.
            return Ok(Known { real: CK_INVALID_HANDLE, slot: 0, accelerator: false });
        };
        if session.running == 0 && limit.is_some_and(|limit| session.used.elapsed() > limit) {
            table.ended = behaviour.idle_ends_everything;
            let gone = table.sessions.remove(&number);
            return Err(gone);
        }
        session.running += 1;
        Ok(Known { real: session.real, slot: session.slot, accelerator: session.accelerator })
    });
    let known = match found {
        Ok(known) => known,
        Err(gone) => {
            if let Some(gone) = gone {
                let _ = real!(call.C_CloseSession(gone.real));
                if !behaviour.idle_ends_everything {
                    return call.refuse("idle_session_ms", CKR_SESSION_HANDLE_INVALID);
                }
            }
            return call.refuse("idle_session_ms", CKR_DEVICE_ERROR);
        }
    };
    let rv = what(known);
    with(|table| {
        if let Some(session) = table.sessions.get_mut(&number).filter(|session| session.real == known.real) {
            session.running = session.running.saturating_sub(1);
            session.used = Instant::now();
        }
    });
    rv
}

pub fn open(
    call: &Call,
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: CK_VOID_PTR,
    notify: CK_NOTIFY,
    out: CK_SESSION_HANDLE_PTR,
) -> CK_RV {
    let behaviour = &call.script.behaviour;
    if let Some(rv) = behaviour.read_only_sessions
        && flags & CKF_RW_SESSION == 0
    {
        return call.refuse("read_only_sessions", rv.0);
    }
    let room = with(|table| {
        if table.ended {
            return Err(("idle_session_ms", CKR_DEVICE_ERROR));
        }
        if behaviour.max_sessions.is_some_and(|most| table.sessions.len() + table.promised >= most) {
            return Err(("max_sessions", CKR_SESSION_COUNT));
        }
        table.promised += 1;
        Ok(())
    });
    if let Err((behaviour, rv)) = room {
        return call.refuse(behaviour, rv);
    }
    let accelerator = slots::is_accelerator(call, slot);
    let real_slot = if accelerator { slots::any_real(call) } else { slot };
    let rv = real!(call.C_OpenSession(real_slot, flags, application, notify, out));
    let number = with(|table| {
        table.promised = table.promised.saturating_sub(1);
        if rv != CKR_OK || out.is_null() {
            return None;
        }
        // SAFETY: not null, and just written.
        let real = unsafe { *out };
        let number = if table.lowest_numbers { lowest(&table.sessions) } else { real };
        table.sessions.insert(number, Session { real, slot, accelerator, used: Instant::now(), running: 0 });
        Some(number)
    });
    if let Some(number) = number {
        // SAFETY: as above.
        unsafe { *out = number };
        if !accelerator {
            objects::opened(call, slot);
        }
    }
    rv
}

pub fn slot_of(number: CK_SESSION_HANDLE) -> Option<CK_SLOT_ID> {
    with(|table| table.sessions.get(&number).map(|session| session.slot))
}

fn lowest(sessions: &BTreeMap<CK_SESSION_HANDLE, Session>) -> CK_SESSION_HANDLE {
    let taken: BTreeSet<_> = sessions.keys().copied().collect();
    (1..).find(|number| !taken.contains(number)).unwrap_or(CK_ULONG::MAX)
}

pub fn close(call: &Call, number: CK_SESSION_HANDLE) -> CK_RV {
    let real = with(|table| table.sessions.get(&number).map_or(CK_INVALID_HANDLE, |session| session.real));
    let rv = real!(call.C_CloseSession(real));
    if rv == CKR_OK {
        with(|table| {
            if table.sessions.get(&number).is_some_and(|session| session.real == real) {
                table.sessions.remove(&number);
            }
        });
        gcm::forget(real);
    }
    rv
}

pub fn close_all(call: &Call, slot: CK_SLOT_ID) -> CK_RV {
    let real_slot = if slots::is_accelerator(call, slot) { slots::any_real(call) } else { slot };
    let rv = real!(call.C_CloseAllSessions(real_slot));
    if rv == CKR_OK {
        with(|table| table.sessions.retain(|_, session| session.slot != slot));
    }
    rv
}

/// After C_Initialize or C_Finalize.
pub fn forget_all(call: &Call) {
    with(|table| *table = Table { lowest_numbers: call.script.behaviour.lowest_session_numbers, ..Table::default() });
}

/// The token forgets who is logged in.
pub fn log_all_out(call: &Call) {
    for real in one_of_each_slot() {
        let _ = real!(call.C_Logout(real.0));
    }
}

/// The token closes all sessions, and with them the login; the caller keeps handles of nothing.
pub fn lose_all(call: &Call) {
    for (_, slot) in one_of_each_slot() {
        let _ = real!(call.C_CloseAllSessions(slot));
    }
    gcm::forget_all();
    with(|table| table.sessions.clear());
}

fn one_of_each_slot() -> BTreeMap<CK_SESSION_HANDLE, CK_SLOT_ID> {
    with(|table| {
        let real = table.sessions.values().filter(|session| !session.accelerator);
        let by_slot: BTreeMap<_, _> = real.map(|session| (session.slot, session.real)).collect();
        by_slot.into_iter().map(|(slot, real)| (real, slot)).collect()
    })
}
