//! The enumeration: every object of the token, once at start and on an officer's demand. A token that was killed leaves
//! objects without class or id; they are counted, and nothing stumbles over them.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};

use super::error::CallError;
use super::handles::{Class, Table};
use super::seat::Seat;
use super::{MaterialId, ObjectReport, SystemKey};

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
    let handles = seat.with(|_, session| {
        session.find_objects(template).map_err(|error| CallError::from_cryptoki("C_FindObjects", &error))
    })?;
    Ok(handles.into_iter().map(|handle| look(seat, handle)).collect())
}

fn look(seat: &mut Seat, handle: ObjectHandle) -> Seen {
    let mut seen = Seen { handle, class: None, id: Vec::new(), label: Vec::new() };
    let wanted = [AttributeType::Class, AttributeType::Id, AttributeType::Label];
    // Debris may fail as a whole: then attribute by attribute, and what cannot be read stays empty.
    let found = seat.attributes(handle, &wanted).unwrap_or_else(|_| {
        wanted.iter().flat_map(|attribute| seat.attributes(handle, &[*attribute]).unwrap_or_default()).collect()
    });
    for attribute in found {
        match attribute {
            Attribute::Class(class) => seen.class = Some(class),
            Attribute::Id(id) => seen.id = id,
            Attribute::Label(label) => seen.label = label,
            _ => {}
        }
    }
    seen
}

/// Enumerates the token into a handle table.
pub(super) fn enumerate(seat: &mut Seat, prefix: &str) -> Result<Table, CallError> {
    let mut table = Table::default();
    for seen in find(seat, &[])? {
        let Some(class) = seen.class else {
            table.debris += 1;
            continue;
        };
        // Certificates and data are nobody's debris.
        let Some(class) = Class::of(class) else { continue };
        match (system_key(&seen.label, prefix), MaterialId::from_cka_id(&seen.id)) {
            (Some(key), _) if class == Class::Secret => table.add_system(key, seen.handle),
            (None, Some(material)) => table.add(material, class, seen.handle),
            (Some(_) | None, _) => table.debris += 1,
        }
    }
    Ok(table)
}

pub(super) fn system_key(label: &[u8], prefix: &str) -> Option<SystemKey> {
    SystemKey::ALL.into_iter().find(|key| key.label(prefix).as_bytes() == label)
}

pub(super) fn report(seat: &mut Seat) -> Result<Vec<ObjectReport>, CallError> {
    let seen = find(seat, &[])?;
    Ok(seen
        .into_iter()
        .map(|seen| ObjectReport {
            class: seen.class.map(class_name),
            id: hex::encode(&seen.id),
            label: String::from_utf8_lossy(&seen.label).into_owned(),
        })
        .collect())
}

fn class_name(class: ObjectClass) -> String {
    match class {
        ObjectClass::SECRET_KEY => "CKO_SECRET_KEY".into(),
        ObjectClass::PRIVATE_KEY => "CKO_PRIVATE_KEY".into(),
        ObjectClass::PUBLIC_KEY => "CKO_PUBLIC_KEY".into(),
        ObjectClass::CERTIFICATE => "CKO_CERTIFICATE".into(),
        ObjectClass::DATA => "CKO_DATA".into(),
        other => other.to_string(),
    }
}
