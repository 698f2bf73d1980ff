//! What an officer and the reconciliation ask of a token: its objects with their attributes, the places of keys whose ids
//! are not the bridge's own, and the signature under an attestation.

use cryptoki::object::{Attribute, ObjectHandle};

use super::error::Reaction;
use super::fingerprint::read_spki;
use super::handles::Class;
use super::keygen::{Keygen, Task};
use super::object::Attributes;
use super::report;
use super::{ErrorClass, MaterialId, ObjectFacts, ObjectSelector, SystemKey, TokenError, raw};
pub(super) struct Inspect {
    template: Vec<Attribute>,
}

impl Inspect {
    pub(super) fn new(selector: ObjectSelector) -> Inspect {
        let mut template = Vec::new();
        template.extend(selector.id.map(Attribute::Id));
        template.extend(selector.label.map(|label| Attribute::Label(label.into_bytes())));
        Inspect { template }
    }
}

impl Task for Inspect {
    type Output = Vec<ObjectFacts>;
    const NAME: &'static str = "inspect";

    fn run(self, keygen: &mut Keygen) -> Result<Vec<ObjectFacts>, TokenError> {
        keygen.ready()?;
        let objects = list(keygen, &self.template)?;
        if objects.is_empty() {
            // A token that went away also shows nothing.
            keygen.anchor()?;
        }
        read(keygen, &objects)
    }
}

/// Whose objects the token has, by the last enumeration and what was made since.
pub(super) struct Materials;

impl Task for Materials {
    type Output = Vec<(MaterialId, usize)>;
    const NAME: &'static str = "materials";

    /// RULE: not while handles are void between a login and its enumeration: nobody's key is missing then.
    fn run(self, keygen: &mut Keygen) -> Result<Vec<(MaterialId, usize)>, TokenError> {
        keygen.ready()?;
        if !keygen.shared.handles.is_listed() {
            keygen.enumerate()?;
        }
        keygen.anchor()?;
        Ok(keygen.shared.handles.materials())
    }
}

/// The handles of all objects, and the epoch in which they are good.
pub(super) struct List;

impl Task for List {
    type Output = (u64, Vec<u64>);
    const NAME: &'static str = "list";

    fn run(self, keygen: &mut Keygen) -> Result<(u64, Vec<u64>), TokenError> {
        keygen.ready()?;
        let epoch = keygen.shared.handles.epoch();
        let objects = list(keygen, &[])?;
        // RULE: half a token is no inventory: a token that went away shows fewer objects, or none.
        keygen.anchor()?;
        Ok((epoch, objects.iter().map(ObjectHandle::handle).collect()))
    }
}

pub(super) struct ReadSlice {
    pub(super) epoch: u64,
    pub(super) objects: Vec<u64>,
}

impl Task for ReadSlice {
    /// `None`: the handles are of another login.
    type Output = Option<Vec<ObjectFacts>>;
    const NAME: &'static str = "read_slice";

    fn run(self, keygen: &mut Keygen) -> Result<Option<Vec<ObjectFacts>>, TokenError> {
        keygen.ready()?;
        if keygen.shared.handles.epoch() != self.epoch {
            return Ok(None);
        }
        let objects: Vec<ObjectHandle> = self.objects.iter().copied().map(raw::object).collect();
        let facts = read(keygen, &objects)?;
        if facts.len() < self.objects.len() {
            keygen.anchor()?;
        }
        Ok(Some(facts))
    }
}

pub(super) struct PublicKey {
    pub(super) key: SystemKey,
}

impl Task for PublicKey {
    type Output = Vec<u8>;
    const NAME: &'static str = "system_public_key";

    fn run(self, keygen: &mut Keygen) -> Result<Vec<u8>, TokenError> {
        keygen.ready()?;
        let found = keygen.find_system(self.key)?;
        let mut public = found.iter().filter(|(class, _)| *class == Class::Public).map(|(_, handle)| *handle);
        match (public.next(), public.next()) {
            (Some(handle), None) => {
                let spki = read_spki(&mut keygen.seat, handle)
                    .map_err(|error| error.into_error("the public key cannot be read"))?;
                spki.ok_or_else(|| wrong("the public key has an unknown form"))
            }
            (None, _) => {
                keygen.anchor()?;
                Err(TokenError::own(ErrorClass::KeyMissing, "C_FindObjects", "the token does not hold the system key"))
            }
            (Some(_), Some(_)) => Err(wrong("several public keys have the label of the system key")),
        }
    }
}

fn wrong(detail: &str) -> TokenError {
    TokenError::own(ErrorClass::WrongKey, "C_FindObjects", detail)
}

fn list(keygen: &mut Keygen, template: &[Attribute]) -> Result<Vec<ObjectHandle>, TokenError> {
    report::handles(&mut keygen.seat, template).map_err(|error| error.into_error("the objects cannot be listed"))
}

/// An object that was destroyed meanwhile is left out.
fn read(keygen: &mut Keygen, objects: &[ObjectHandle]) -> Result<Vec<ObjectFacts>, TokenError> {
    let mut all = Vec::with_capacity(objects.len());
    for object in objects {
        match Attributes::all(&mut keygen.seat, *object) {
            Ok(attributes) => all.push(attributes.facts()),
            Err(error) if error.reaction() == Reaction::FindAgain => {}
            Err(error) => return Err(error.into_error("the attributes of an object cannot be read")),
        }
    }
    Ok(all)
}
