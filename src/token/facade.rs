//! A connected token, as the rest of the bridge sees it, whatever is behind it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::call::{About, Answer, Backend, BoxFuture, Request};
use super::handles::Class;
use super::{
    Adopted, CallContext, Capabilities, Change, DataName, Done, Enforcement, ErrorClass, Gauges, GcmOutput, Generated,
    Hash, Isolation, KeyKind, KeyRef, Local, Looked, MaterialId, MemberView, ObjectFacts, ObjectReport, ObjectSelector,
    Remote, Replicas, Settings, SignMechanism, Status, SystemKey, TokenError, TokenGroup, TokenInfo,
};
use crate::secret::{SecretBytes, SecretString};

/// Objects that are read before others may use the key generation thread.
const SLICE: usize = 64;
/// How often an inventory begins again because the login was renewed under it.
const BEGINNINGS: usize = 3;

/// A connected token. Cheap to clone; the last clone that goes ends what is behind it.
#[derive(Clone)]
pub struct Token(Arc<dyn Backend>);

/// The one kind of answer that a request has; another one is a fault of this program, or of a worker that is not ours.
macro_rules! expect {
    ($answer:expr, $name:expr, $pattern:pat => $value:expr) => {
        match $answer {
            $pattern => Ok($value),
            _ => Err(TokenError::own(ErrorClass::Context, $name, "the token answered something else")),
        }
    };
}

impl Token {
    /// Connects and logs in, with one try. Blocking.
    ///
    /// Several tokens of one module or of several may be connected at a time, each with its own login.
    pub fn open(settings: Settings, pin: SecretString) -> Result<Token, TokenError> {
        match settings.isolation.clone() {
            Isolation::InProcess => Local::open(settings, pin).map(Token::of),
            isolation @ Isolation::Process(_) => Remote::open(settings, pin, isolation).map(Token::of),
        }
    }

    pub fn of(backend: impl Backend + 'static) -> Token {
        Token(Arc::new(backend))
    }

    pub fn perform<'a>(&'a self, ctx: &'a CallContext, request: Request) -> BoxFuture<'a, Result<Answer, TokenError>> {
        self.0.perform(ctx, request)
    }

    /// For what wraps a token.
    pub fn as_group(&self) -> Option<&dyn TokenGroup> {
        self.0.group()
    }

    pub fn about(&self) -> Arc<About> {
        self.0.about()
    }

    pub fn info(&self) -> TokenInfo {
        self.0.about().info.clone()
    }

    pub fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.0.about().capabilities)
    }

    /// Length in bytes of the IVs that `encrypt` and `data_key` give.
    pub fn iv_len(&self) -> usize {
        self.0.about().iv_len
    }

    /// `CKA_LABEL` of a system key in this token.
    pub fn system_label(&self, key: SystemKey) -> String {
        let about = self.0.about();
        let labels = SystemKey::ALL.iter().zip(&about.system_labels);
        labels.filter(|(known, _)| **known == key).map(|(_, label)| label.clone()).next().unwrap_or_default()
    }

    /// The vendor's library.
    pub fn module_path(&self) -> PathBuf {
        self.0.about().module.clone()
    }

    /// Which process has loaded it.
    pub fn isolation(&self) -> Isolation {
        self.0.about().isolation.clone()
    }

    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// Jobs waiting, sessions replaced, errors by class: for `/metrics`.
    pub fn gauges(&self) -> Gauges {
        self.0.gauges()
    }

    /// What happened to the token since the last time somebody asked.
    pub fn changes(&self) -> Vec<Change> {
        self.0.changes()
    }

    /// Why the process has to end, where it has to.
    pub fn doom(&self) -> Option<String> {
        self.0.doom()
    }

    /// AES-256-GCM, tag of 16 bytes, IV random from the token xor the system's generator.
    pub async fn encrypt(
        &self,
        ctx: &CallContext,
        key: &KeyRef,
        aad: Vec<u8>,
        plaintext: SecretBytes,
    ) -> Result<Done<GcmOutput>, TokenError> {
        let answer = self.perform(ctx, Request::Encrypt { key: key.clone(), aad, plaintext }).await?;
        expect!(answer, "encrypt", Answer::Sealed { output, facts } => Done { value: output, facts })
    }

    pub async fn decrypt(
        &self,
        ctx: &CallContext,
        key: &KeyRef,
        iv: Vec<u8>,
        aad: Vec<u8>,
        ciphertext: Vec<u8>,
    ) -> Result<Done<SecretBytes>, TokenError> {
        let answer = self.perform(ctx, Request::Decrypt { key: key.clone(), iv, aad, ciphertext }).await?;
        expect!(answer, "decrypt", Answer::Secret { value, facts } => Done { value, facts })
    }

    /// `len` bytes from C_GenerateRandom and their encryption, in one visit to a session worker.
    pub async fn data_key(
        &self,
        ctx: &CallContext,
        key: &KeyRef,
        aad: Vec<u8>,
        len: usize,
    ) -> Result<Done<(SecretBytes, GcmOutput)>, TokenError> {
        let answer = self.perform(ctx, Request::DataKey { key: key.clone(), aad, len }).await?;
        expect!(answer, "data_key", Answer::DataKey { plaintext, output, facts } => Done { value: (plaintext, output), facts })
    }

    pub async fn random(&self, ctx: &CallContext, len: usize) -> Result<Done<SecretBytes>, TokenError> {
        let answer = self.perform(ctx, Request::Random { len }).await?;
        expect!(answer, "random", Answer::Secret { value, facts } => Done { value, facts })
    }

    /// ECDSA signatures come back as DER.
    pub async fn sign(
        &self,
        ctx: &CallContext,
        key: &KeyRef,
        mechanism: SignMechanism,
        input: SecretBytes,
    ) -> Result<Done<Vec<u8>>, TokenError> {
        let answer = self.perform(ctx, Request::Sign { key: key.clone(), mechanism, input }).await?;
        expect!(answer, "sign", Answer::Signature { value, facts } => Done { value, facts })
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256 of a digest, by a system key that signs (`SystemKey::Attest`).
    pub async fn sign_system(
        &self,
        ctx: &CallContext,
        key: SystemKey,
        digest: SecretBytes,
    ) -> Result<Done<Vec<u8>>, TokenError> {
        signing(key)?;
        self.sign(ctx, &KeyRef::System(key), SignMechanism::RsaPkcs1v15(Hash::Sha256), digest).await
    }

    /// SubjectPublicKeyInfo (DER) of a system key that signs.
    pub async fn system_public_key(&self, ctx: &CallContext, key: SystemKey) -> Result<Vec<u8>, TokenError> {
        signing(key)?;
        let answer = self.perform(ctx, Request::SystemPublicKey { key }).await?;
        expect!(answer, "system_public_key", Answer::Bytes(spki) => spki)
    }

    pub async fn mac(
        &self,
        ctx: &CallContext,
        key: &KeyRef,
        hash: Hash,
        message: SecretBytes,
    ) -> Result<Done<SecretBytes>, TokenError> {
        let answer = self.perform(ctx, Request::Mac { key: key.clone(), hash, message }).await?;
        expect!(answer, "mac", Answer::Secret { value, facts } => Done { value, facts })
    }

    /// Makes the object(s), reads the attributes back, makes the fingerprint. Objects that the token does not protect are
    /// destroyed again. On its own worker, exclusive against C_FindObjects. `label` is `CKA_LABEL`.
    ///
    /// The deadline is `Settings::generate_deadline` from now, not the context's. After `Deadline` the work may still be
    /// going on: a `destroy` or `holds` of the same material comes after it.
    pub async fn generate(
        &self,
        ctx: &CallContext,
        kind: KeyKind,
        material: MaterialId,
        label: &str,
    ) -> Result<Done<Generated>, TokenError> {
        let answer = self.perform(ctx, Request::Generate { kind, material, label: label.to_owned() }).await?;
        expect!(answer, "generate", Answer::Generated { value, facts } => Done { value, facts })
    }

    /// Those of the materials that the token surely does not hold, by two listings of it and not by searches for each: what a
    /// `destroy` of them would find out.
    pub async fn absent(&self, ctx: &CallContext, materials: Vec<MaterialId>) -> Result<Vec<MaterialId>, TokenError> {
        let answer = self.perform(ctx, Request::Absent { materials }).await?;
        expect!(answer, "absent", Answer::Absent(materials) => materials)
    }

    /// Destroys all objects with this id (both halves of a pair), looks for them and finds none. `Ok` also where there was
    /// none; the number of destroyed objects is returned. Deadline as for `generate`.
    pub async fn destroy(&self, ctx: &CallContext, material: MaterialId) -> Result<Done<usize>, TokenError> {
        let answer = self.perform(ctx, Request::Destroy { material }).await?;
        expect!(answer, "destroy", Answer::Destroyed { count, facts } => Done { value: count, facts })
    }

    /// Looks whether the token holds objects with this id. For the settling of intents.
    pub async fn holds(&self, ctx: &CallContext, material: MaterialId) -> Result<bool, TokenError> {
        let answer = self.perform(ctx, Request::Holds { material }).await?;
        expect!(answer, "holds", Answer::Flag(found) => found)
    }

    /// Checks the fingerprint now.
    pub async fn check(&self, ctx: &CallContext, key: &KeyRef) -> Result<Done<()>, TokenError> {
        let answer = self.perform(ctx, Request::Check { key: key.clone() }).await?;
        expect!(answer, "check", Answer::Checked { facts } => Done { value: (), facts })
    }

    /// Makes a system key (AES-256) if the token has none with its label; `true` where it was made.
    pub async fn ensure_system_key(&self, ctx: &CallContext, key: SystemKey) -> Result<bool, TokenError> {
        let answer = self.perform(ctx, Request::EnsureSystemKey { key }).await?;
        expect!(answer, "ensure_system_key", Answer::Flag(made) => made)
    }

    /// All objects of the token that the logged-in user sees.
    pub async fn objects(&self) -> Result<Vec<ObjectReport>, TokenError> {
        let answer = self.perform(&own_call("objects"), Request::Objects).await?;
        expect!(answer, "objects", Answer::Objects(objects) => objects)
    }

    /// Ids (MaterialId) that the enumeration at start found, and those made since, with the number of objects each.
    pub async fn known_materials(&self) -> Result<Vec<(MaterialId, usize)>, TokenError> {
        let answer = self.perform(&own_call("materials"), Request::Materials).await?;
        expect!(answer, "materials", Answer::Materials(materials) => materials)
    }

    /// The attributes of the objects that fit.
    pub async fn inspect(&self, ctx: &CallContext, selector: &ObjectSelector) -> Result<Vec<ObjectFacts>, TokenError> {
        let answer = self.perform(ctx, Request::Inspect { selector: selector.clone() }).await?;
        expect!(answer, "inspect", Answer::Inspected(objects) => objects)
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
            let listed = self.perform(ctx, Request::List).await?;
            let (epoch, objects) = expect!(listed, "list", Answer::Listed { epoch, objects } => (epoch, objects))?;
            let total = objects.len() as u64;
            let mut all = Vec::with_capacity(objects.len());
            let mut done = 0;
            progress(0, total);
            for slice in objects.chunks(SLICE) {
                let read = self.perform(ctx, Request::ReadSlice { epoch, objects: slice.to_vec() }).await?;
                match expect!(read, "read_slice", Answer::Slice(facts) => facts)? {
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

    /// `CKA_VALUE` of each data object of this name: none, one, or after a crash within `write_data` two.
    pub async fn read_data(&self, ctx: &CallContext, name: &DataName) -> Result<Vec<Vec<u8>>, TokenError> {
        let answer = self.perform(ctx, Request::ReadData { name: name.clone() }).await?;
        expect!(answer, "read_data", Answer::Data(values) => values)
    }

    /// Puts `value` in the place of what was there. At every moment one of both is in the token.
    pub async fn write_data(&self, ctx: &CallContext, name: &DataName, value: Vec<u8>) -> Result<(), TokenError> {
        let answer = self.perform(ctx, Request::WriteData { name: name.clone(), value }).await?;
        expect!(answer, "write_data", Answer::Nothing => ())
    }

    /// Finds the key with this `CKA_ID` (one secret key, or one private and one public key), makes its fingerprint as for
    /// a generated key, and places its id as `place` does. Whether it may be adopted is the caller's matter, except that a
    /// system key never may.
    pub async fn adopt(
        &self,
        ctx: &CallContext,
        cka_id: Vec<u8>,
        material: MaterialId,
    ) -> Result<Done<Adopted>, TokenError> {
        let answer = self.perform(ctx, Request::Adopt { cka_id, material }).await?;
        expect!(answer, "adopt", Answer::Adopted { value, facts } => Done { value: *value, facts })
    }

    /// From now on the objects of these materials are those with this `CKA_ID` (adopted keys, short ids).
    pub fn place(&self, places: Vec<(MaterialId, Vec<u8>)>) {
        self.0.place(places);
    }

    /// Takes an adoption back whose record was not written.
    pub fn give_up(&self, material: MaterialId) {
        self.0.give_up(material);
    }

    /// Tries to get at a throw-away key that must not be got at.
    pub async fn enforcement(&self, ctx: &CallContext) -> Result<Enforcement, TokenError> {
        let answer = self.perform(ctx, Request::Enforcement).await?;
        expect!(answer, "enforcement", Answer::Enforcement(found) => found)
    }

    /// Logs out and in again with another user PIN, which the officer has set in the token before. The token is drained
    /// first: jobs that come wait, running ones end. The PIN is tried once; where it is refused (class `Operator`) the old
    /// one is used again, and where that fails too the token is down until a PIN works.
    ///
    /// Nothing happens at all (class `Deadline`) where a running call does not end.
    pub async fn change_pin(&self, pin: SecretString) -> Result<(), TokenError> {
        self.0.change_pin(pin).await
    }

    /// The tokens that it is made of, in their order; none: it is one token.
    pub fn members(&self) -> Vec<MemberView> {
        self.as_group().map(TokenGroup::members).unwrap_or_default()
    }

    /// Connects a member that could not be opened: with this PIN, or with its own. One try.
    pub async fn open_member(&self, name: &str, pin: Option<SecretString>) -> Result<(), TokenError> {
        self.group()?.open_member(name, pin).await
    }

    /// What a member says of itself to anybody.
    pub async fn look_at_member(&self, name: &str) -> Result<Looked, TokenError> {
        self.group()?.look_at_member(name).await
    }

    /// Where a key is; `None`: this is one token, or the key is not known.
    pub fn replicas(&self, material: MaterialId) -> Option<Replicas> {
        self.as_group()?.replicas(material)
    }

    /// Keys that some member is not known to hold.
    pub fn unreplicated(&self) -> Vec<MaterialId> {
        self.as_group().map(TokenGroup::unreplicated).unwrap_or_default()
    }

    /// Calls that another member answered after one had failed.
    pub fn failovers(&self) -> u64 {
        self.as_group().map_or(0, TokenGroup::failovers)
    }

    fn group(&self) -> Result<&dyn TokenGroup, TokenError> {
        let one = || TokenError::own(ErrorClass::Unsupported, "members", "this is one token");
        self.as_group().ok_or_else(one)
    }

    /// Ends what is behind it: stops the workers and closes the sessions. Blocks until running calls end, for a few seconds
    /// at most.
    pub fn close(&self) {
        self.0.close();
    }
}

/// A call that nobody's request makes; its deadline is that of slow requests.
fn own_call(name: &str) -> CallContext {
    CallContext { principal: "token".into(), deadline: Instant::now(), request_id: name.into() }
}

fn signing(key: SystemKey) -> Result<(), TokenError> {
    if key.class() == Class::Private {
        return Ok(());
    }
    Err(TokenError::own(ErrorClass::Unsupported, "C_Sign", "this system key is no key pair"))
}
