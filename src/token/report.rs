//! The enumeration: every object of the token, once at start and on an officer's demand. A token that was killed leaves
//! objects without class or id; they are counted, and nothing stumbles over them.

use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki_sys as sys;

use super::ObjectReport;
use super::error::{CallError, Reaction};
use super::handles::{Class, Table};
use super::names::Names;
use super::object::Attributes;
use super::seat::Seat;

/// What can be read of an object.
pub(super) struct Seen {
    pub(super) handle: ObjectHandle,
    pub(super) class: Option<ObjectClass>,
    pub(super) id: Vec<u8>,
    pub(super) label: Vec<u8>,
}

/// Finds objects of the token and reads their class, id and label. Only the key generation thread may call it:
/// C_FindObjects beside C_GenerateKey makes SoftHSM fail.
///
/// CKA_TOKEN is no part of the template, and is not asked for: an object that was being written when its process was
/// killed may lack it, which SoftHSM reads as false. We keep no session objects that could be mistaken for keys.
pub(super) fn find(seat: &mut Seat, template: &[Attribute]) -> Result<Vec<Seen>, CallError> {
    handles(seat, template)?
        .into_iter()
        .map(|handle| match Attributes::names(seat, handle) {
            Ok(found) => Ok(Seen {
                handle,
                class: found.class(),
                id: found.bytes(sys::CKA_ID).to_vec(),
                label: found.bytes(sys::CKA_LABEL).to_vec(),
            }),
            // It was destroyed in between, or it is debris whose handle is good for nothing.
            Err(error) if error.reaction() == Reaction::FindAgain => {
                Ok(Seen { handle, class: None, id: Vec::new(), label: Vec::new() })
            }
            Err(error) => Err(error),
        })
        .collect()
}

/// Handles alone. A lost session is replaced, once: also one in which a search did not end.
pub(super) fn handles(seat: &mut Seat, template: &[Attribute]) -> Result<Vec<ObjectHandle>, CallError> {
    let search = |seat: &mut Seat| seat.with_exclusive(|module, session| module.functions.find(session, template));
    match search(seat) {
        Err(error) if error.reaction() == Reaction::FreshSession => search(seat),
        found => found,
    }
}

/// Keys and halves of keys.
pub(super) fn halves(seen: &[Seen]) -> Vec<(Class, ObjectHandle)> {
    seen.iter().filter_map(|seen| Some((Class::of(seen.class?)?, seen.handle))).collect()
}

/// Enumerates the token into a handle table.
pub(super) fn enumerate(seat: &mut Seat, names: &Names) -> Result<Table, CallError> {
    let mut table = Table::of_enumeration();
    for seen in find(seat, &[])? {
        let Some(class) = seen.class else {
            table.debris += 1;
            continue;
        };
        // Certificates and data are nobody's debris.
        let Some(class) = Class::of(class) else { continue };
        match names.system_key(&seen.label) {
            None => table.add(&seen.id, class, seen.handle),
            Some(key) if table.add_system(key, class, seen.handle) => {}
            Some(_) => table.debris += 1,
        }
    }
    Ok(table)
}

pub(super) fn report(seat: &mut Seat) -> Result<Vec<ObjectReport>, CallError> {
    let seen = find(seat, &[])?;
    Ok(seen
        .into_iter()
        .map(|seen| ObjectReport {
            class: seen.class.map(|class| class.to_string()),
            id: hex::encode(&seen.id),
            label: String::from_utf8_lossy(&seen.label).into_owned(),
        })
        .collect())
}
