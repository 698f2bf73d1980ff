//! A small text kept in the token (CKO_DATA): whoever changes the disk does not change it. Not every token has room for such
//! objects; one that refuses them says so as `Unsupported`.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use serde::{Deserialize, Serialize};

use super::TokenError;
use super::error::CallError;
use super::keygen::{Keygen, Task, destroy};
use super::report;

/// Which object: both have to fit. Several instances may share a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataName {
    /// `CKA_LABEL`
    pub label: String,
    /// `CKA_APPLICATION`
    pub application: String,
}

pub(super) struct ReadData {
    pub(super) name: DataName,
}

impl Task for ReadData {
    type Output = Vec<Vec<u8>>;
    const NAME: &'static str = "read_data";
    /// A token that knows no such objects is not down.
    const TELLS_STATUS: bool = false;

    fn run(self, keygen: &mut Keygen) -> Result<Vec<Vec<u8>>, TokenError> {
        keygen.ready()?;
        let mut values = Vec::new();
        for object in find(keygen, &self.name)? {
            values.extend(value(keygen, object)?);
        }
        if values.is_empty() {
            // A token that went away also shows nothing.
            keygen.anchor()?;
        }
        Ok(values)
    }
}

pub(super) struct WriteData {
    pub(super) name: DataName,
    pub(super) value: Vec<u8>,
}

impl Task for WriteData {
    type Output = ();
    const NAME: &'static str = "write_data";
    const TELLS_STATUS: bool = false;

    fn run(self, keygen: &mut Keygen) -> Result<(), TokenError> {
        keygen.ready()?;
        // RULE: a token that fails is not one that keeps no data objects.
        let refused = |error: CallError| error.into_error("the data object is not written");
        let old = find(keygen, &self.name)?;
        if let [object] = old.as_slice() {
            let new = Attribute::Value(self.value.clone());
            let updated = keygen.seat.with_exclusive(|_, session| {
                session
                    .update_attributes(*object, std::slice::from_ref(&new))
                    .map_err(|error| CallError::from_cryptoki("C_SetAttributeValue", &error))
            });
            if updated.is_ok() {
                return Ok(());
            }
        }
        let template = template(&self.name, self.value);
        keygen
            .seat
            .with_exclusive(|_, session| {
                session.create_object(&template).map_err(|error| CallError::from_cryptoki("C_CreateObject", &error))
            })
            .map_err(refused)?;
        for object in old {
            destroy(&mut keygen.seat, object).map_err(refused)?;
        }
        Ok(())
    }
}

fn template(name: &DataName, value: Vec<u8>) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        // Seen and changed after a login only.
        Attribute::Private(true),
        Attribute::Modifiable(true),
        Attribute::Label(name.label.as_bytes().to_vec()),
        Attribute::Application(name.application.as_bytes().to_vec()),
        Attribute::Value(value),
    ]
}

fn find(keygen: &mut Keygen, name: &DataName) -> Result<Vec<ObjectHandle>, TokenError> {
    let template = [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Label(name.label.as_bytes().to_vec()),
        Attribute::Application(name.application.as_bytes().to_vec()),
    ];
    report::handles(&mut keygen.seat, &template).map_err(|error| error.into_error("the data object cannot be found"))
}

fn value(keygen: &mut Keygen, object: ObjectHandle) -> Result<Option<Vec<u8>>, TokenError> {
    let attributes = keygen
        .seat
        .attributes(object, &[AttributeType::Value])
        .map_err(|error| error.into_error("the data object cannot be read"))?;
    Ok(attributes.into_iter().find_map(|attribute| match attribute {
        Attribute::Value(value) => Some(value),
        _ => None,
    }))
}
