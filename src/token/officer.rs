//! What an officer and the reconciliation ask of a token: its objects with their attributes, the places of keys whose ids
//! are not the bridge's own, and the signature under an attestation.

use std::sync::Arc;

use cryptoki::object::{Attribute, ObjectHandle};

use super::error::Reaction;
use super::fingerprint::read_spki;
use super::handles::Class;
use super::keygen::{Keygen, Task};
use super::object::Attributes;
use super::operations::Sign;
use super::report;
use super::{
    CallContext, Done, ErrorClass, Hash, KeyRef, MaterialId, ObjectFacts, ObjectSelector, SignMechanism, SystemKey,
    Token, TokenError,
};
use crate::secret::SecretBytes;

/// Objects that are read before others may use the key generation thread.
const SLICE: usize = 64;
/// How often an inventory begins again because the login was renewed under it.
const BEGINNINGS: usize = 3;

impl Token {
    /// From now on the objects of these materials are those with this `CKA_ID` (adopted keys, short ids).
    pub fn place(&self, places: Vec<(MaterialId, Vec<u8>)>) {
        let foreign = places
            .into_iter()
            .filter(|(material, id)| *id != material.cka_id() || self.0.shared.handles.placed(*material).is_some());
        self.0.shared.handles.place(foreign.collect());
    }

    /// Takes an adoption back whose record was not written.
    pub fn give_up(&self, material: MaterialId) {
        self.0.shared.handles.give_up(material);
    }

    /// The attributes of the objects that fit.
    pub async fn inspect(&self, ctx: &CallContext, selector: &ObjectSelector) -> Result<Vec<ObjectFacts>, TokenError> {
        let mut template = Vec::new();
        template.extend(selector.id.clone().map(Attribute::Id));
        template.extend(selector.label.clone().map(|label| Attribute::Label(label.into_bytes())));
        self.task(ctx, self.slow_deadline(), Inspect { template }).await
    }

    /// The attributes of all objects, read in slices, so that keys are made and destroyed in between. `progress` is told
    /// how many of how many are done. Each slice has a deadline of its own. An object that goes or comes meanwhile may be
    /// missing.
    pub async fn inventory(
        &self,
        ctx: &CallContext,
        progress: Arc<dyn Fn(u64, u64) + Send + Sync>,
    ) -> Result<Vec<ObjectFacts>, TokenError> {
        'beginning: for _ in 0..BEGINNINGS {
            let (epoch, objects) = self.task(ctx, self.slow_deadline(), List).await?;
            let total = objects.len() as u64;
            let mut all = Vec::with_capacity(objects.len());
            let mut done = 0;
            progress(0, total);
            for slice in objects.chunks(SLICE) {
                let task = ReadSlice { epoch, objects: slice.to_vec() };
                match self.task(ctx, self.slow_deadline(), task).await? {
                    Some(facts) => all.extend(facts),
                    None => continue 'beginning,
                }
                done += slice.len() as u64;
                progress(done, total);
            }
            return Ok(all);
        }
        Err(TokenError::own(ErrorClass::Session, "inventory", "the login was renewed again and again"))
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256 of a digest, by a system key that signs (`SystemKey::Attest`).
    pub async fn sign_system(
        &self,
        ctx: &CallContext,
        key: SystemKey,
        digest: SecretBytes,
    ) -> Result<Done<Vec<u8>>, TokenError> {
        signing(key)?;
        let mechanism = SignMechanism::RsaPkcs1v15(Hash::Sha256);
        self.call(ctx, Sign { key: KeyRef::System(key), mechanism, input: digest }).await
    }

    /// SubjectPublicKeyInfo (DER) of a system key that signs.
    pub async fn system_public_key(&self, ctx: &CallContext, key: SystemKey) -> Result<Vec<u8>, TokenError> {
        signing(key)?;
        self.task(ctx, self.slow_deadline(), PublicKey { key }).await
    }
}

fn signing(key: SystemKey) -> Result<(), TokenError> {
    if key.class() == Class::Private {
        return Ok(());
    }
    Err(TokenError::own(ErrorClass::Unsupported, "C_Sign", "this system key is no key pair"))
}

struct Inspect {
    template: Vec<Attribute>,
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

/// The handles of all objects, and the epoch in which they are good.
struct List;

impl Task for List {
    type Output = (u64, Vec<ObjectHandle>);
    const NAME: &'static str = "list";

    fn run(self, keygen: &mut Keygen) -> Result<(u64, Vec<ObjectHandle>), TokenError> {
        keygen.ready()?;
        let epoch = keygen.shared.handles.epoch();
        let objects = list(keygen, &[])?;
        // RULE: half a token is no inventory: a token that went away shows fewer objects, or none.
        keygen.anchor()?;
        Ok((epoch, objects))
    }
}

struct ReadSlice {
    epoch: u64,
    objects: Vec<ObjectHandle>,
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
        let facts = read(keygen, &self.objects)?;
        if facts.len() < self.objects.len() {
            keygen.anchor()?;
        }
        Ok(Some(facts))
    }
}

struct PublicKey {
    key: SystemKey,
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
