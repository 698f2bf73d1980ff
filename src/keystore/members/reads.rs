//! Calls that change nothing: made on one member, and where that fails on another, within the caller's deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Group, Reads, STRIKES};
use crate::token::{
    Answer, CallContext, ErrorClass, KeyRef, MaterialId, ObjectFacts, Request, Status, SystemKey, Token, TokenError,
};

/// What a call needs of a member.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    Key(MaterialId, Arc<[u8]>),
    System(SystemKey),
    /// Any member will do.
    Anything,
}

impl Wanted {
    fn of(request: &Request) -> Wanted {
        match (request.key(), request) {
            (Some(KeyRef::Kms { material, fingerprint }), _) => Wanted::Key(*material, Arc::clone(fingerprint)),
            (Some(KeyRef::System(key)), _) | (None, Request::SystemPublicKey { key }) => Wanted::System(*key),
            (None, _) => Wanted::Anything,
        }
    }
}

/// Handles of `List` name the member that gave them.
const EPOCH_BITS: u32 = 56;

impl Group {
    pub(super) async fn read(&self, ctx: &CallContext, request: Request) -> Result<Answer, TokenError> {
        let (name, wanted) = (request.name(), Wanted::of(&request));
        let order = self.order(&wanted);
        let mut failures: Vec<TokenError> = Vec::new();
        let mut left = order.len();
        for (place, token) in order {
            left -= 1;
            // Another member needs time too, where this one says nothing.
            let attempt = match left {
                0 => ctx.clone(),
                _ => CallContext { deadline: halfway(ctx.deadline), ..ctx.clone() },
            };
            match token.perform(&attempt, request.clone()).await {
                Ok(answer) => {
                    self.did(place, &wanted);
                    if !failures.is_empty() {
                        self.failovers.fetch_add(1, Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Err(error) => {
                    self.failed(place, token, &wanted, &error);
                    if !elsewhere(error.class) {
                        return Err(error);
                    }
                    failures.push(error);
                    // Work of the key generation thread has a deadline of its own.
                    if !request.is_slow() && Instant::now() >= ctx.deadline {
                        break;
                    }
                }
            }
        }
        Err(self.told(failures, &wanted, name))
    }

    /// Members to ask, one after the other. A key is looked for where it is known to be; then where it may have come to.
    fn order(&self, wanted: &Wanted) -> Vec<(usize, &Token)> {
        let mut usable = self.usable();
        if self.settings.reads == Reads::Spread && !usable.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % usable.len();
            usable.rotate_left(turn);
        }
        match wanted {
            Wanted::Key(material, _) => {
                if let Some(holding) = self.holdings.of(*material) {
                    // What is wrong there stays out until the member shows the right key.
                    usable.retain(|(place, _)| !holding.wrong.has(*place));
                    usable.sort_by_key(|(place, _)| !holding.on.has(*place));
                }
            }
            // RULE: never on a member where it was not compared.
            Wanted::System(key) => usable.retain(|(place, _)| self.system.is_on(*key, *place)),
            Wanted::Anything => {}
        }
        usable
    }

    fn did(&self, place: usize, wanted: &Wanted) {
        if let Some(member) = self.member(place)
            && member.strikes.load(Ordering::Relaxed) != 0
        {
            member.strikes.store(0, Ordering::Relaxed);
        }
        if let Wanted::Key(material, fingerprint) = wanted {
            self.holdings.found(*material, place, Some(fingerprint));
        }
    }

    /// What a failure says of the member.
    pub(super) fn failed(&self, place: usize, token: &Token, wanted: &Wanted, error: &TokenError) {
        let Some(member) = self.member(place) else { return };
        match (error.class, wanted) {
            (ErrorClass::KeyMissing, Wanted::Key(material, _)) if self.holdings.missing(*material, place) => {
                // A token whose objects are all gone says so of each: it has to show that it holds anything at all.
                tracing::warn!(member = &*member.name, %error, "a key is not there any more");
                self.system.doubt(place);
                member.wake.notify_one();
            }
            (ErrorClass::KeyMissing | ErrorClass::WrongKey, Wanted::System(_)) => {
                self.system.doubt(place);
                member.wake.notify_one();
            }
            (ErrorClass::WrongKey, Wanted::Key(material, fingerprint))
                if self.holdings.wrong(*material, place, Some(fingerprint)) =>
            {
                let key = hex::encode(material.cka_id());
                tracing::error!(member = &*member.name, key, %error, "another key has this id: it is not used there");
            }
            (ErrorClass::Context | ErrorClass::Operator | ErrorClass::Session | ErrorClass::Deadline, _) => {
                if let Status::Down(why) = token.status() {
                    member.leave(&why);
                    return;
                }
                // One call that fails everywhere must not empty the key store: only failures in a row count, and the last
                // member stays.
                let strikes = member.strikes.fetch_add(1, Ordering::Relaxed) + 1;
                if strikes >= STRIKES && self.usable().len() > 1 {
                    member.leave("it fails or does not answer in time");
                }
            }
            _ => {}
        }
    }

    /// The error that says most: where a member failed or is away, nobody can say that the key is gone.
    fn told(&self, failures: Vec<TokenError>, wanted: &Wanted, name: &'static str) -> TokenError {
        let of_key = |class| matches!(class, ErrorClass::KeyMissing | ErrorClass::WrongKey);
        if let Some(error) = failures.iter().rev().find(|error| !of_key(error.class)) {
            return error.clone();
        }
        let away = self.away();
        if away.is_empty() || matches!(wanted, Wanted::Anything) {
            return match (failures.into_iter().max_by_key(|error| error.class == ErrorClass::WrongKey), wanted) {
                (Some(error), _) => error,
                (None, Wanted::Anything) => self.nobody(name),
                (None, Wanted::Key(..)) => {
                    TokenError::own(ErrorClass::WrongKey, name, "every member has another key under this id")
                }
                (None, Wanted::System(_)) => {
                    TokenError::own(ErrorClass::KeyMissing, name, "no member has this key of the bridge itself")
                }
            };
        }
        if away.len() == self.members.len() {
            return self.nobody(name);
        }
        let away = away.join("`, `");
        TokenError::own(
            ErrorClass::Context,
            name,
            format!("the members that are there lack the key, and `{away}` is away"),
        )
    }

    pub(super) async fn list(&self, ctx: &CallContext) -> Result<Answer, TokenError> {
        let (place, token) = self.usable().into_iter().next().ok_or_else(|| self.nobody("list"))?;
        match token.perform(ctx, Request::List).await? {
            Answer::Listed { epoch, objects } => {
                Ok(Answer::Listed { epoch: epoch | (place as u64) << EPOCH_BITS, objects })
            }
            other => Ok(other),
        }
    }

    pub(super) async fn read_slice(
        &self,
        ctx: &CallContext,
        epoch: u64,
        objects: Vec<u64>,
    ) -> Result<Answer, TokenError> {
        let place = usize::try_from(epoch >> EPOCH_BITS).unwrap_or(usize::MAX);
        let epoch = epoch & ((1 << EPOCH_BITS) - 1);
        // It has gone: the handles are good for nothing, and the list begins again elsewhere.
        let Some(token) = self.member(place).and_then(|member| member.ready()) else {
            return Ok(Answer::Slice(None::<Vec<ObjectFacts>>));
        };
        token.perform(ctx, Request::ReadSlice { epoch, objects }).await
    }
}

/// Errors after which another member may do better. RULE: bad input is bad everywhere, and is never tried again.
fn elsewhere(class: ErrorClass) -> bool {
    match class {
        ErrorClass::KeyMissing
        | ErrorClass::WrongKey
        | ErrorClass::Session
        | ErrorClass::Context
        | ErrorClass::Capacity
        | ErrorClass::Deadline
        | ErrorClass::Operator => true,
        ErrorClass::Data | ErrorClass::Full | ErrorClass::Unsupported => false,
    }
}

fn halfway(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}
