//! Object handles: permuted, and hidden where a library does not see what came later.
//!
//! Permuted handles are numbers from 1. A token object's number is dealt anew at every login where it is private, and at the first session
//! after C_Initialize where it is not, so that a handle from before names another object: among objects of one class and key type each
//! gets the number of the one before it, so an old handle of an AES key names another AES key. Numbers of objects that are gone are
//! given to the next ones made. The numbers live in a file, so that this holds over processes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki_sys::*;

use crate::Call;
use crate::real::{Beside, attribute, number, real};

/// What an object is called from one C_Initialize to the next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    /// Slot, class, key type: objects that an old handle can be taken for.
    group: String,
    /// Id and label, and a counter where two have the same.
    name: String,
}

#[derive(Default)]
struct Table {
    permuted: bool,
    real: HashMap<CK_OBJECT_HANDLE, CK_OBJECT_HANDLE>,
    number: HashMap<CK_OBJECT_HANDLE, CK_OBJECT_HANDLE>,
    /// Real handles of private token objects, which a login gives anew.
    private: BTreeSet<CK_OBJECT_HANDLE>,
    /// Slots whose public objects were dealt.
    opened: BTreeSet<CK_SLOT_ID>,
    frozen: bool,
    /// Slots whose private objects were counted; what is visible of them and of the others.
    counted: BTreeSet<CK_SLOT_ID>,
    visible: BTreeSet<(CK_SLOT_ID, Identity)>,
    visible_now: BTreeSet<CK_OBJECT_HANDLE>,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

fn with<T>(what: impl FnOnce(&mut Table) -> T) -> T {
    let mut table: MutexGuard<'_, Option<Table>> = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    what(table.get_or_insert_default())
}

/// After C_Initialize or C_Finalize.
pub fn forget_all(call: &Call) {
    let behaviour = &call.script.behaviour;
    with(|table| {
        *table = Table { permuted: behaviour.permute_handles, frozen: behaviour.objects_frozen, ..Table::default() }
    });
}

/// The real module's handle of the caller's; one that nothing has where the caller's is of nothing.
pub fn real_of(handle: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
    with(|table| match table.permuted {
        true => table.real.get(&handle).copied().unwrap_or(CK_INVALID_HANDLE),
        false => handle,
    })
}

/// The real module has written a handle of something new there.
pub fn made(call: &Call, session: CK_SESSION_HANDLE, slot: CK_SLOT_ID, out: CK_OBJECT_HANDLE_PTR) {
    // SAFETY: null, or written by the real function.
    let Some(handle) = (unsafe { out.as_mut() }) else { return };
    let real = *handle;
    if with(|table| table.frozen) {
        let identity = identity(call, session, slot, real);
        with(|table| {
            table.visible.insert((slot, identity));
            table.visible_now.insert(real);
        });
    }
    *handle = numbered(call, session, slot, real);
}

/// C_FindObjects.
pub fn find(
    call: &Call,
    session: CK_SESSION_HANDLE,
    slot: CK_SLOT_ID,
    out: CK_OBJECT_HANDLE_PTR,
    room: CK_ULONG,
    count: CK_ULONG_PTR,
) -> CK_RV {
    if with(|table| !table.frozen && !table.permuted) || out.is_null() || count.is_null() {
        return real!(call.C_FindObjects(session, out, room, count));
    }
    let mut shown = Vec::new();
    while (shown.len() as CK_ULONG) < room {
        let mut some = vec![0; room as usize - shown.len()];
        let mut found = 0;
        let rv = real!(call.C_FindObjects(session, some.as_mut_ptr(), some.len() as CK_ULONG, &raw mut found));
        if rv != CKR_OK {
            return rv;
        }
        if found == 0 {
            break;
        }
        some.truncate(found as usize);
        with(|table| some.retain(|real| !table.frozen || table.visible_now.contains(real)));
        shown.extend(some.into_iter().map(|real| numbered(call, session, slot, real)));
    }
    // SAFETY: the caller's array of `room` handles and the caller's place for a number.
    unsafe {
        std::ptr::copy_nonoverlapping(shown.as_ptr(), out, shown.len());
        *count = shown.len() as CK_ULONG;
    }
    CKR_OK
}

pub fn destroyed(real: CK_OBJECT_HANDLE) {
    with(|table| {
        if let Some(number) = table.number.remove(&real) {
            table.real.remove(&number);
        }
        table.private.remove(&real);
        table.visible_now.remove(&real);
    });
}

/// A session of this slot was opened.
pub fn opened(call: &Call, slot: CK_SLOT_ID) {
    let first = with(|table| (table.permuted || table.frozen) && table.opened.insert(slot));
    if first {
        deal(call, slot, false);
    }
}

/// Somebody logged in.
pub fn logged_in(call: &Call, slot: CK_SLOT_ID) {
    if with(|table| table.permuted || table.frozen) {
        deal(call, slot, true);
    }
}

fn numbered(call: &Call, session: CK_SESSION_HANDLE, slot: CK_SLOT_ID, real: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
    let known = with(|table| if table.permuted { table.number.get(&real).copied() } else { Some(real) });
    if let Some(number) = known {
        return number;
    }
    // The next deal has to know which number it may not get again.
    let identity =
        (attribute(call, session, real, CKA_TOKEN) == [CK_TRUE]).then(|| identity(call, session, slot, real));
    let private = attribute(call, session, real, CKA_PRIVATE) == [CK_TRUE];
    with(|table| {
        if let Some(number) = table.number.get(&real) {
            return *number;
        }
        let number = (1..).find(|number| !table.real.contains_key(number)).unwrap_or(CK_ULONG::MAX);
        table.number.insert(real, number);
        table.real.insert(number, real);
        if let Some(identity) = identity {
            if private {
                table.private.insert(real);
            }
            let mut dealt = Deal::read(call);
            dealt.0.insert(identity, number);
            dealt.write(call);
        }
        number
    })
}

fn identity(call: &Call, session: CK_SESSION_HANDLE, slot: CK_SLOT_ID, real: CK_OBJECT_HANDLE) -> Identity {
    let value = |kind| attribute(call, session, real, kind);
    let shown = |value: Vec<u8>| number(&value).map_or_else(|| "-".to_owned(), |number| number.to_string());
    let hex = |value: Vec<u8>| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Identity {
        group: format!("{slot}/{}/{}", shown(value(CKA_CLASS)), shown(value(CKA_KEY_TYPE))),
        name: format!("{}/{}", hex(value(CKA_ID)), hex(value(CKA_LABEL))),
    }
}

/// Gives the token objects that are to be seen their numbers.
fn deal(call: &Call, slot: CK_SLOT_ID, login: bool) {
    let Some(beside) = Beside::on(call, slot) else { return };
    let mut present = BTreeMap::new();
    let mut private = BTreeSet::new();
    for real in beside.found(&[(CKA_TOKEN, &[CK_TRUE])]) {
        let mut identity = identity(call, beside.session, slot, real);
        while present.contains_key(&identity) {
            identity.name.push('+');
        }
        if attribute(call, beside.session, real, CKA_PRIVATE) == [CK_TRUE] {
            private.insert(real);
        }
        present.insert(identity, real);
    }
    drop(beside);
    with(|table| {
        if table.frozen {
            table.see(slot, login, &present);
        }
        if !table.permuted {
            return;
        }
        // At a login the private ones have new handles in the real module too.
        for real in std::mem::take(&mut table.private) {
            if let Some(number) = table.number.remove(&real) {
                table.real.remove(&number);
            }
        }
        table.private = private;
        let mut known = Deal::read(call);
        if login {
            // All that this slot has is to be seen now: the rest is gone, and its numbers are free.
            let here = format!("{slot}/");
            known.0.retain(|object, _| !object.group.starts_with(&here) || present.contains_key(object));
        }
        let newcomers = present.iter().filter(|(_, real)| !table.number.contains_key(real));
        let newcomers: BTreeMap<_, _> = newcomers.map(|(identity, real)| (identity.clone(), *real)).collect();
        let taken: BTreeSet<_> = table.real.keys().copied().collect();
        let dealt = known.next(newcomers.keys().cloned().collect(), &taken);
        for (identity, number) in &dealt.0 {
            if let Some(real) = newcomers.get(identity) {
                table.number.insert(*real, *number);
                table.real.insert(*number, *real);
            }
        }
        dealt.write(call);
    });
}

impl Table {
    /// Of what is `present`, what was there at the first login or this process made is visible.
    fn see(&mut self, slot: CK_SLOT_ID, login: bool, present: &BTreeMap<Identity, CK_OBJECT_HANDLE>) {
        if !login || self.counted.insert(slot) {
            self.visible.extend(present.keys().map(|identity| (slot, identity.clone())));
        }
        let seen = present.iter().filter(|(identity, _)| self.visible.contains(&(slot, (*identity).clone())));
        self.visible_now.extend(seen.map(|(_, real)| *real));
    }
}

/// Object → number, in the file `handles` of the state.
#[derive(Default)]
struct Deal(BTreeMap<Identity, CK_OBJECT_HANDLE>);

impl Deal {
    fn read(call: &Call) -> Deal {
        let text = std::fs::read_to_string(call.faults.state.join("handles")).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let number = words.next()?.parse().ok()?;
            Some((Identity { group: words.next()?.to_owned(), name: words.next()?.to_owned() }, number))
        };
        Deal(text.lines().filter_map(line).collect())
    }

    fn write(&self, call: &Call) {
        let lines = self.0.iter().map(|(object, number)| format!("{number} {} {}\n", object.group, object.name));
        let written = std::fs::create_dir_all(&call.faults.state)
            .and_then(|()| std::fs::write(call.faults.state.join("handles"), lines.collect::<String>()));
        if let Err(error) = written {
            eprintln!("pkcs11-faults: the numbers of the handles: {error}");
            crate::rules::exit(97);
        }
    }

    /// The numbers of `objects` from now on, and those of all others as they were. No object keeps its number.
    fn next(mut self, objects: Vec<Identity>, taken: &BTreeSet<CK_OBJECT_HANDLE>) -> Deal {
        let mut groups: BTreeMap<String, Vec<(CK_OBJECT_HANDLE, Identity)>> = BTreeMap::new();
        let mut fresh = Vec::new();
        for object in objects {
            match self.0.get(&object) {
                Some(number) if !taken.contains(number) => {
                    groups.entry(object.group.clone()).or_default().push((*number, object));
                }
                _ => fresh.push(object),
            }
        }
        let (mut circles, lonely): (Vec<_>, Vec<_>) = groups.into_values().partition(|group| group.len() > 1);
        let lonely: Vec<_> = lonely.into_iter().flatten().collect();
        if lonely.len() > 1 {
            circles.push(lonely);
        } else {
            fresh.extend(lonely.into_iter().map(|(_, object)| object));
        }
        let mut busy = taken.clone();
        for mut circle in circles {
            circle.sort();
            let mut numbers: Vec<_> = circle.iter().map(|(number, _)| *number).collect();
            numbers.rotate_left(1);
            for ((_, object), number) in circle.into_iter().zip(numbers) {
                busy.insert(number);
                self.0.insert(object, number);
            }
        }
        busy.extend(self.0.values());
        for object in fresh {
            let number = (1..).find(|number| !busy.contains(number)).unwrap_or(CK_ULONG::MAX);
            busy.insert(number);
            self.0.insert(object, number);
        }
        self
    }
}
