//! The key generation thread. It alone creates, destroys and finds objects, so that these exclude each other by
//! construction (SoftHSM fails when C_FindObjects runs beside C_GenerateKey); it holds the keeper session, and it brings
//! a token back that went down. Work that it began is finished, whoever still waits.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use cryptoki::error::{Error, RvError};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use tokio::sync::oneshot;

use super::error::CallError;
use super::handles::{Class, Lookup};
use super::keeper::Keeper;
use super::report::{self, Seen};
use super::seat::Seat;
use super::shared::Shared;
use super::worker::{DUPLICATE, Job, Need, Served, serve_one};
use super::{ErrorClass, KeyRef, MaterialId, ObjectReport, SystemKey, TokenError, rv};

/// How long a login that was lost waits for the calls that still run.
const CALLS_END: Duration = Duration::from_secs(1);

pub(super) struct Keygen {
    pub(super) shared: Arc<Shared>,
    pub(super) seat: Seat,
    pub(super) keeper: Keeper,
    /// System keys that this token has had: while one can be read, the token is not merely empty-handed.
    anchors: Vec<SystemKey>,
}

/// What a look at the system keys says about the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    /// A system key was read just now.
    Alive,
    /// The token has had no system key yet: nothing to compare with.
    Unproven,
}

/// A piece of work for this thread.
pub(super) trait Task: Send + 'static {
    type Output: Send + 'static;
    const NAME: &'static str;
    /// Whether an error of the task says that the token is down.
    const TELLS_STATUS: bool = true;
    /// Whether it runs although the token is known to be down.
    const WHILE_DOWN: bool = false;
    fn run(self, keygen: &mut Keygen) -> Result<Self::Output, TokenError>;
}

pub(super) struct TaskTicket<T: Task> {
    pub(super) task: T,
    pub(super) request_id: Arc<str>,
    pub(super) reply: oneshot::Sender<Result<T::Output, TokenError>>,
}

/// Wakes the thread so that it looks at the status.
pub(super) struct Nudge;

impl Keygen {
    pub(super) fn new(shared: Arc<Shared>, seat: Seat, keeper: Keeper) -> Keygen {
        let known = |key: &SystemKey| shared.handles.system(*key).is_some() || shared.handles.proof(*key).is_some();
        let anchors = SystemKey::ALL.into_iter().filter(known).collect();
        Keygen { shared, seat, keeper, anchors }
    }

    /// The life of the thread.
    pub(super) fn serve(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let patience = self.patience();
            if serve_one(&shared.keygen, patience, &shared.watchdog.keygen, &mut self) == Served::Closed {
                break;
            }
            self.recover();
        }
        // Last of all: closing it logs the process out.
        self.seat.renew();
        self.keeper.close();
    }

    /// The login stands and this thread's session lives. After a new login everything is enumerated again.
    pub(super) fn ready(&mut self) -> Result<(), TokenError> {
        if let Err(error) = self.keeper.alive() {
            tracing::info!(function = error.function, rv = %rv::said(error.rv), "the login does not stand");
            let shared = Arc::clone(&self.shared);
            // RULE: no login beside calls: it changes what they may do and what their handles name, and a library that locks a session
            // in the one and the token in the other stands still for good (kryoptic 1.5.4, C_Login beside C_EncryptInit).
            let calls = shared.queue.pause();
            if !calls.quiet_but(shared.watchdog.lost(), CALLS_END) {
                tracing::info!("a call still runs: the login is made beside it");
            }
            shared.handles.forget();
            self.find_slot()?;
            self.keeper.ensure()?;
            drop(calls);
            self.seat.renew();
            self.enumerate()?;
        }
        if let Err(error) = self.seat.is_live() {
            tracing::info!(function = error.function, rv = %rv::said(error.rv), "the session does not live");
            self.seat.renew();
        }
        self.seat.session().map_err(|error| error.into_error("no session opens"))?;
        Ok(())
    }

    pub(super) fn enumerate(&mut self) -> Result<(), TokenError> {
        let table = report::enumerate(&mut self.seat, &self.shared.names)
            .map_err(|error| error.into_error("the objects cannot be listed"))?;
        // RULE: a listing without what was there before is the token's failure, and no list of what it holds.
        if !self.anchors.is_empty() && !table.has_system() {
            return Err(shows_none());
        }
        self.shared.handles.replace(table);
        self.remember_anchors();
        Ok(())
    }

    fn remember_anchors(&mut self) {
        for key in SystemKey::ALL {
            if self.shared.handles.system(key).is_some() && !self.anchors.contains(&key) {
                self.anchors.push(key);
            }
        }
    }

    /// Tells a token that lost one key from a token that is gone: a directory or a connection that went away looks like
    /// "no objects" with CKR_OK. `Err`: the token is at fault.
    pub(super) fn anchor(&mut self) -> Result<Anchor, TokenError> {
        self.keeper.alive().map_err(|error| error.with_class(ErrorClass::Context, "the keeper session is lost"))?;
        if self.anchors.is_empty() {
            return Ok(Anchor::Unproven);
        }
        for key in self.anchors.clone() {
            if let Some(handle) = self.shared.handles.system(key)
                && self.seat.attributes(handle, &[AttributeType::Label]).is_ok_and(|found| !found.is_empty())
            {
                return Ok(Anchor::Alive);
            }
        }
        self.anchor_is_found()
    }

    /// The same by a search alone: a handle that works says nothing of searches, which may show nothing for a moment.
    pub(super) fn anchor_is_found(&mut self) -> Result<Anchor, TokenError> {
        if self.anchors.is_empty() {
            return Ok(Anchor::Unproven);
        }
        for key in self.anchors.clone() {
            let found = self.find_system(key)?;
            // RULE: nobody is told that this one is missing before a search has shown another one.
            if !found.is_empty() {
                self.shared.handles.put_system(key, &found);
                return Ok(Anchor::Alive);
            }
        }
        Err(shows_none())
    }

    /// The objects of a material. RULE: none are there only where a search shows the anchor, and the next one still nothing.
    pub(super) fn find_surely(&mut self, material: MaterialId) -> Result<(Vec<Seen>, Anchor), TokenError> {
        let seen = self.find_material(material)?;
        if !seen.is_empty() {
            return Ok((seen, Anchor::Alive));
        }
        let anchor = self.anchor_is_found()?;
        let seen = self.find_material(material)?;
        if !seen.is_empty() {
            tracing::warn!("a search showed nothing, and the next one the object");
        }
        Ok((seen, anchor))
    }

    /// The objects of a material.
    pub(super) fn find_material(&mut self, material: MaterialId) -> Result<Vec<Seen>, TokenError> {
        if let Some(id) = self.shared.handles.placed(material) {
            return self.find_id(&id);
        }
        if self.shared.names.id_bytes.is_none() {
            return self.find_id(&material.cka_id());
        }
        // Short ids, and nobody has said which: a key whose maker died before it could.
        let seen =
            report::find(&mut self.seat, &[]).map_err(|error| error.into_error("the objects cannot be found"))?;
        let names = &self.shared.names;
        Ok(seen.into_iter().filter(|seen| names.is_tagged(&seen.label, material)).collect())
    }

    pub(super) fn find_id(&mut self, id: &[u8]) -> Result<Vec<Seen>, TokenError> {
        report::find(&mut self.seat, &[Attribute::Id(id.to_vec())])
            .map_err(|error| error.into_error("the objects cannot be found"))
    }

    /// The key, or both halves of the pair.
    pub(super) fn find_system(&mut self, key: SystemKey) -> Result<Vec<(Class, ObjectHandle)>, TokenError> {
        let label = self.shared.names.system(key).into_bytes();
        let seen = report::find(&mut self.seat, &[Attribute::Label(label)])
            .map_err(|error| error.into_error("the system key cannot be found"))?;
        let mut found = report::halves(&seen);
        found.retain(|(class, _)| *class == key.class() || (*class == Class::Public && key.class() == Class::Private));
        Ok(found)
    }

    pub(super) fn made_system(&mut self, key: SystemKey, objects: &[(Class, ObjectHandle)]) {
        self.shared.handles.put_system(key, objects);
        self.remember_anchors();
    }
}

/// Brings back the handle of a key that was lost or never known: one search, for all who ask at the same time.
pub(super) struct Mend {
    pub(super) key: Option<(KeyRef, Class)>,
    pub(super) need: Need,
}

impl Task for Mend {
    type Output = ();
    const NAME: &'static str = "mend";

    fn run(self, keygen: &mut Keygen) -> Result<(), TokenError> {
        let lost = match self.need {
            Need::LogIn { epoch } if keygen.shared.handles.epoch() != epoch => return Ok(()),
            Need::LogIn { .. } => return keygen.ready(),
            Need::Find { lost } => lost,
        };
        // An operation without a key has no handle to lose.
        let Some((key, class)) = self.key else { return keygen.ready() };
        // Somebody asked before and it was found.
        if let Lookup::Found { handle, .. } = keygen.shared.handles.lookup(&key, class)
            && Some(handle) != lost
        {
            return Ok(());
        }
        keygen.ready()?;
        let found = match &key {
            KeyRef::Kms { material, .. } => {
                let (mut seen, anchor) = keygen.find_surely(*material)?;
                // RULE: no KMS key has the label of a system key, whatever its id.
                seen.retain(|seen| keygen.shared.names.system_key(&seen.label).is_none());
                let objects = report::halves(&seen);
                let count = objects.iter().filter(|(found, _)| *found == class).count();
                if count == 0 {
                    // Whether it is the key or the token that is gone, before anything is remembered.
                    missing(anchor)?;
                }
                keygen.shared.handles.put(*material, &objects, None);
                count
            }
            KeyRef::System(key) => {
                let mut objects = keygen.find_system(*key)?;
                if objects.is_empty() {
                    keygen.anchor_is_found()?;
                    objects = keygen.find_system(*key)?;
                }
                keygen.shared.handles.put_system(*key, &objects);
                keygen.remember_anchors();
                objects.iter().filter(|(found, _)| *found == class).count()
            }
        };
        match found {
            0 => Err(TokenError::own(ErrorClass::KeyMissing, "C_FindObjects", "the token does not hold the object")),
            1 => Ok(()),
            _ => Err(TokenError::own(ErrorClass::WrongKey, "C_FindObjects", DUPLICATE)),
        }
    }
}

fn shows_none() -> TokenError {
    TokenError::own(ErrorClass::Context, "C_FindObjects", "the token shows none of the bridge's own keys")
}

/// Without anything to compare with, nobody may say that a key is gone.
fn missing(anchor: Anchor) -> Result<(), TokenError> {
    match anchor {
        Anchor::Alive => Ok(()),
        Anchor::Unproven => Err(TokenError::own(
            ErrorClass::Context,
            "C_FindObjects",
            "the object is not there, and no system key shows that the token is well",
        )),
    }
}

/// Destroys all objects of a material.
pub(super) struct Destroy {
    pub(super) material: MaterialId,
}

impl Task for Destroy {
    type Output = usize;
    const NAME: &'static str = "destroy";

    fn run(self, keygen: &mut Keygen) -> Result<usize, TokenError> {
        keygen.ready()?;
        let (seen, _) = keygen.find_surely(self.material)?;
        if seen.iter().any(|seen| keygen.shared.names.system_key(&seen.label).is_some()) {
            return Err(TokenError::own(
                ErrorClass::WrongKey,
                "C_DestroyObject",
                "an object with this id carries the label of a system key: nothing is destroyed",
            ));
        }
        for object in &seen {
            destroy(&mut keygen.seat, object.handle)
                .map_err(|error| error.into_error("an object cannot be destroyed"))?;
        }
        if !keygen.find_material(self.material)?.is_empty() {
            return Err(TokenError::own(
                ErrorClass::Context,
                "C_DestroyObject",
                "the token still shows the object that it destroyed",
            ));
        }
        // "Nothing there" counts only from a token that is there.
        keygen.anchor_is_found()?;
        keygen.shared.handles.put(self.material, &[], None);
        Ok(seen.len())
    }
}

/// An object that is gone already is fine.
pub(super) fn destroy(seat: &mut Seat, object: ObjectHandle) -> Result<(), CallError> {
    seat.with_exclusive(|_, session| match session.destroy_object(object) {
        Ok(()) => Ok(()),
        Err(Error::Pkcs11(RvError::ObjectHandleInvalid, _)) => {
            // Somebody else destroyed it; who has to know looks again.
            tracing::info!("C_DestroyObject answered CKR_OBJECT_HANDLE_INVALID: the object counts as gone");
            Ok(())
        }
        Err(error) => Err(CallError::from_cryptoki("C_DestroyObject", &error)),
    })
}

/// Which materials have no object.
pub(super) struct Absent {
    pub(super) materials: Vec<MaterialId>,
}

impl Task for Absent {
    type Output = Vec<MaterialId>;
    const NAME: &'static str = "absent";

    fn run(self, keygen: &mut Keygen) -> Result<Vec<MaterialId>, TokenError> {
        keygen.ready()?;
        let mut absent = self.materials;
        // RULE: as in `find_surely`: a listing counts where it shows the anchor, and the next one still lacks the object.
        for _ in 0..2 {
            let seen = report::find(&mut keygen.seat, &[])
                .map_err(|error| error.into_error("the objects cannot be listed"))?;
            let names = &keygen.shared.names;
            if !keygen.anchors.is_empty() && !seen.iter().any(|seen| names.system_key(&seen.label).is_some()) {
                return Err(shows_none());
            }
            let ids: HashSet<&[u8]> = seen.iter().map(|seen| seen.id.as_slice()).collect();
            absent.retain(|material| match keygen.shared.handles.placed(*material) {
                Some(id) => !ids.contains(id.as_slice()),
                None if names.id_bytes.is_none() => !ids.contains(material.cka_id().as_slice()),
                // Short ids: its maker died before it could say which.
                None => !seen.iter().any(|seen| names.is_tagged(&seen.label, *material)),
            });
        }
        Ok(absent)
    }
}

pub(super) struct Holds {
    pub(super) material: MaterialId,
}

impl Task for Holds {
    type Output = bool;
    const NAME: &'static str = "holds";

    fn run(self, keygen: &mut Keygen) -> Result<bool, TokenError> {
        keygen.ready()?;
        Ok(!keygen.find_surely(self.material)?.0.is_empty())
    }
}

pub(super) struct Objects;

impl Task for Objects {
    type Output = Vec<ObjectReport>;
    const NAME: &'static str = "objects";

    fn run(self, keygen: &mut Keygen) -> Result<Vec<ObjectReport>, TokenError> {
        keygen.ready()?;
        report::report(&mut keygen.seat).map_err(|error| error.into_error("the objects cannot be listed"))
    }
}

impl<T: Task> Job<Keygen> for TaskTicket<T> {
    fn abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(self: Box<Self>, keygen: &mut Keygen) {
        let TaskTicket { task, request_id, reply } = *self;
        let span = tracing::debug_span!("token", call = T::NAME, request_id = &*request_id);
        let _in_span = span.enter();
        let refusal = if T::WHILE_DOWN { None } else { keygen.shared.breaker.refusal() };
        if let Some(error) = refusal {
            let _ = reply.send(Err(error));
            return;
        }
        let result = task.run(keygen);
        if let Err(error) = &result
            && T::TELLS_STATUS
        {
            keygen.shared.note(error);
        }
        // The caller may have left at its deadline; the work is done all the same.
        if reply.send(result).is_err() {
            tracing::info!(call = T::NAME, "finished after its caller had left");
        }
    }

    fn refuse(self: Box<Self>, error: TokenError) {
        let _ = self.reply.send(Err(error));
    }
}

impl Job<Keygen> for Nudge {
    fn abandoned(&self) -> bool {
        false
    }

    fn run(self: Box<Self>, _: &mut Keygen) {}

    fn refuse(self: Box<Self>, _: TokenError) {}
}
