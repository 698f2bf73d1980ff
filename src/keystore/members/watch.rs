//! How members come and go: opened at start or when they are there, compared with the others, used, left out, and let in again;
//! and the look whether the vendor has replicated what one of them lacked.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::system::Verdict;
use super::{
    Door, Group, Holdings, MOST_MEMBERS, Member, Members, Nobody, Refusal, Stage, SystemKeys, Together, together,
};
use crate::keystore::blocking;
use crate::secret::SecretString;
use crate::token::{About, Backend as _, ErrorClass, Looked, OpenFailure, Status, Token, TokenError};

/// How long one look at one member's replication may take.
const ROUND: Duration = Duration::from_secs(1);

impl Members {
    /// Opens them all at once, each with one login, and lets them in in their order. Those that are away come later. `Err`: none
    /// could be opened; while a library hangs the others are tried again.
    pub async fn open(settings: Together, members: Vec<(String, Arc<dyn Door>)>) -> Result<Members, Nobody> {
        if members.is_empty() || members.len() > MOST_MEMBERS {
            let why = format!("a key store has 1 to {MOST_MEMBERS} tokens");
            let error = TokenError::own(ErrorClass::Unsupported, "members", why.clone());
            return Err(Nobody { why, failures: vec![(String::new(), error)] });
        }
        let members: Vec<Member> = members.into_iter().map(|(name, door)| member(&name, door)).collect();
        let group = Arc::new(Group {
            about: RwLock::new(Arc::new(About::default())),
            settings,
            members,
            holdings: Holdings::default(),
            system: SystemKeys::default(),
            turn: AtomicUsize::new(0),
            places: Mutex::default(),
            undone: Mutex::default(),
            failovers: AtomicU64::new(0),
            made: Notify::new(),
            closed: AtomicBool::new(false),
        });
        let opened: Vec<_> =
            (0..group.members.len()).filter_map(|at| Some((at, begin_opening(&group, at, None)?))).collect();
        let patience = Instant::now() + group.settings.pace.start;
        for (place, opened) in opened {
            // A library that hangs holds up the start only so long: it comes later.
            if let Ok(Ok(Ok(()))) = tokio::time::timeout_at(patience.into(), opened).await {
                let _ = group.join(place).await;
            }
        }
        group.somebody().await;
        let members = Members(group);
        if members.0.usable().is_empty() {
            members.close();
            return Err(members.0.nobody_came());
        }
        for place in 0..members.0.members.len() {
            tokio::spawn(keep(Arc::downgrade(&members.0), place));
        }
        tokio::spawn(look_for_replicas(Arc::downgrade(&members.0)));
        Ok(members)
    }
}

fn member(name: &str, door: Arc<dyn Door>) -> Member {
    Member {
        name: Arc::from(name),
        door,
        opening: AtomicBool::new(false),
        token: OnceLock::new(),
        stage: RwLock::new(Stage::Out("it is not there yet".to_owned())),
        failure: Mutex::default(),
        strikes: AtomicU32::new(0),
        wake: Notify::new(),
    }
}

/// On a thread of its own: what PKCS#11 calls block, and some hang. `None`: another one is at it.
fn begin_opening(
    group: &Arc<Group>,
    place: usize,
    pin: Option<SecretString>,
) -> Option<oneshot::Receiver<Result<(), TokenError>>> {
    let (tell, told) = oneshot::channel();
    let member = group.member(place)?;
    if member.opening.swap(true, Ordering::Relaxed) {
        return None;
    }
    let (door, group) = (Arc::clone(&member.door), Arc::clone(group));
    tokio::task::spawn_blocking(move || {
        let outcome = door.open(pin);
        let Some(member) = group.member(place) else { return };
        let outcome = match outcome {
            Ok(token) => {
                if group.is_closed() {
                    token.close();
                }
                let _ = member.token.set(token);
                member.fails(None);
                member.set(Stage::Out("it is being looked at".to_owned()));
                Ok(())
            }
            Err(error) => {
                let why = why_closed(&error);
                member.fails(Some(error.clone()));
                if member.set(Stage::Out(why.to_owned())) {
                    tracing::error!(member = &*member.name, %error, "a token of the key store cannot be opened: {why}");
                }
                Err(error)
            }
        };
        member.opening.store(false, Ordering::Relaxed);
        member.wake.notify_one();
        let _ = tell.send(outcome);
    });
    Some(told)
}

/// Safe for `/readyz`.
fn why_closed(error: &TokenError) -> &'static str {
    match (error.open_failure(), error.class) {
        (OpenFailure::PinIncorrect | OpenFailure::PinLocked | OpenFailure::PinNotInitialised, _) => {
            "it refuses the login: an operator has to act"
        }
        (OpenFailure::NotPresent | OpenFailure::WrongToken | OpenFailure::Other, ErrorClass::Operator) => {
            "it is not what the configuration names: an operator has to act"
        }
        (OpenFailure::NotPresent | OpenFailure::WrongToken | OpenFailure::Other, _) if error.function == "pin" => {
            "its PIN cannot be read"
        }
        (OpenFailure::NotPresent | OpenFailure::WrongToken | OpenFailure::Other, _) => "it is not there",
    }
}

impl Group {
    /// Where nobody is there yet but a library hangs, whoever can be opened next will do.
    async fn somebody(self: &Arc<Self>) {
        let (mut wait, mut next) = (self.settings.pace.again.0, Instant::now());
        while self.usable().is_empty() && self.members.iter().any(|member| member.opening.load(Ordering::Relaxed)) {
            tokio::time::sleep(self.settings.pace.look).await;
            let due = Instant::now() >= next;
            if due {
                next = Instant::now() + jittered(wait);
                wait = (wait * 2).min(self.settings.pace.again.1);
            }
            for (place, member) in self.members.iter().enumerate().filter(|(_, member)| !member.is_in()) {
                if member.token.get().is_some() {
                    let _ = self.join(place).await;
                } else if due && member.refusal() != Some(Refusal::OfThePin) {
                    drop(begin_opening(self, place, None));
                }
            }
        }
    }

    fn nobody_came(&self) -> Nobody {
        let failures = self.members.iter().filter_map(|member| {
            let failure = member.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Some((member.name.to_string(), failure?))
        });
        Nobody { why: self.why_nobody(), failures: failures.collect() }
    }

    /// A person says that it may be tried: once.
    pub(super) async fn open_now(self: &Arc<Self>, place: usize, pin: Option<SecretString>) -> Result<(), TokenError> {
        let Some(member) = self.member(place) else { return Ok(()) };
        let other = |why: &str| TokenError::own(ErrorClass::Capacity, "members", format!("`{}` {why}", member.name));
        if member.token.get().is_some() {
            return Err(other("is connected already: try again"));
        }
        let opened = begin_opening(self, place, pin).ok_or_else(|| other("is being connected: try again"))?;
        opened.await.map_err(|_| other("was not connected: the thread ended"))??;
        self.join(place).await
    }

    pub(super) async fn look_at(&self, place: usize) -> Result<Looked, TokenError> {
        let nobody = || TokenError::own(ErrorClass::Context, "look", "there is no such member");
        let door = Arc::clone(&self.member(place).ok_or_else(nobody)?.door);
        blocking("look", move || door.look()).await
    }

    /// Lets an opened member in, if it is what the others are.
    async fn join(&self, place: usize) -> Result<(), TokenError> {
        let joined = self.let_in(place).await;
        if let Some(member) = self.member(place) {
            member.fails(joined.as_ref().err().cloned());
        }
        joined
    }

    async fn let_in(&self, place: usize) -> Result<(), TokenError> {
        let Some(member) = self.member(place) else { return Ok(()) };
        let Some(token) = member.token.get() else { return Ok(()) };
        let refuse = |why: String| {
            if member.set(Stage::Out(why.clone())) {
                tracing::error!(member = &*member.name, why, "a token is not used with the others of its key store");
            }
            TokenError::own(ErrorClass::WrongKey, "members", format!("`{}`: {why}", member.name))
        };
        if let Status::Down(why) = token.status() {
            member.set(Stage::Out(why.clone()));
            return Err(TokenError::own(ErrorClass::Context, "members", why));
        }
        let others: Vec<Arc<About>> = self
            .members
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != place)
            .filter_map(|(_, other)| Some(other).filter(|other| other.is_in())?.token.get())
            .map(Token::about)
            .collect();
        let about = token.about();
        if let Some(why) = others.first().and_then(|other| together::unlike(other, &about)) {
            return Err(refuse(why.to_owned()));
        }
        let call = self.call("join", self.settings.pace.verify);
        self.system.take_doubt(place);
        match self.system.compare(place, token, &call).await {
            Verdict::Same => {}
            Verdict::Refused(why) => return Err(refuse(why)),
            Verdict::Failed(error) => {
                member.set(Stage::Out("it does not answer".to_owned()));
                return Err(error);
            }
        }
        token.place(self.places.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let materials = token.known_materials().await.inspect_err(|_| {
            member.set(Stage::Out("it does not say what it holds".to_owned()));
        })?;
        self.holdings.lists(place, materials.into_iter().map(|(material, _)| material));
        member.strikes.store(0, Ordering::Relaxed);
        member.set(Stage::In);
        self.is_now();
        let keys = self.holdings.held_by(place);
        tracing::info!(member = &*member.name, serial = about.info.serial, keys, "a token is used with its key store");
        Ok(())
    }

    /// What the members are together, after one came.
    fn is_now(&self) {
        let all: Vec<Arc<About>> = self
            .members
            .iter()
            .filter(|member| member.is_in())
            .filter_map(|m| m.token.get())
            .map(Token::about)
            .collect();
        if let Some((first, others)) = all.split_first() {
            let about = together::about(first, others.iter().map(AsRef::as_ref));
            *self.about.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(about);
        }
    }

    /// One step of a member's life. How long until the next; `None`: never again.
    async fn step(self: &Arc<Self>, place: usize, wait: &mut Duration) -> Option<Duration> {
        let pace = &self.settings.pace;
        let member = self.member(place)?;
        let mut later = || {
            let now = jittered(*wait);
            *wait = (*wait * 2).min(pace.again.1);
            now
        };
        let Some(token) = member.token.get() else {
            if member.opening.load(Ordering::Relaxed) {
                return Some(pace.look);
            }
            match member.refusal() {
                // RULE: a PIN that was refused is not tried again before a person says so.
                Some(Refusal::OfThePin) => return Some(pace.again.1),
                Some(Refusal::ByItsFlags) => {
                    drop(begin_opening(self, place, None));
                    return Some(pace.again.1);
                }
                None => {}
            }
            drop(begin_opening(self, place, None));
            return Some(later());
        };
        let status = token.status();
        match (member.is_in(), status) {
            (true, Status::Down(why)) => {
                member.leave(&why);
                *wait = pace.again.0;
                Some(pace.look)
            }
            (true, Status::Ready) if self.system.take_doubt(place) => {
                match self.system.compare(place, token, &self.call("doubt", pace.verify)).await {
                    Verdict::Same => {}
                    Verdict::Refused(why) => member.leave(&why),
                    Verdict::Failed(error) => {
                        tracing::warn!(member = &*member.name, %error, "the member cannot show the bridge's own keys");
                        member.leave("it does not answer");
                    }
                }
                Some(pace.look)
            }
            (true, Status::Ready) => {
                *wait = pace.again.0;
                Some(pace.look)
            }
            (false, Status::Down(why)) => {
                member.set(Stage::Out(why));
                Some(pace.look)
            }
            (false, Status::Ready) => match self.join(place).await {
                Ok(()) => Some(pace.look),
                Err(error) => {
                    tracing::debug!(member = &*member.name, %error, "not let in");
                    Some(later())
                }
            },
        }
    }

    /// Looks on every member for keys that others hold. `true`: something was found.
    async fn look_once(&self) -> bool {
        let mut found = false;
        for (place, token) in self.usable() {
            let call = self.call("replication", self.settings.pace.verify);
            if self.system.lacks(place) {
                self.system.compare(place, token, &call).await;
            }
            let until = Instant::now() + ROUND;
            let lacked = self.holdings.lacked_by(place);
            // Not always the same ones first.
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % lacked.len().max(1);
            for (material, fingerprint) in lacked.iter().cycle().skip(turn).take(lacked.len()) {
                if Instant::now() > until || self.is_closed() {
                    break;
                }
                match self.look_for(&call, place, token, *material, fingerprint.as_ref()).await {
                    Ok(there) => found |= there,
                    Err(error) if error.class == ErrorClass::WrongKey => {}
                    Err(error) => {
                        tracing::debug!(%error, "replication cannot be looked at");
                        break;
                    }
                }
            }
        }
        found
    }
}

async fn keep(group: Weak<Group>, place: usize) {
    let Some(first) = group.upgrade().map(|group| group.settings.pace.again.0) else { return };
    let mut wait = first;
    loop {
        // Nobody uses it any more, or it was closed.
        let Some(group) = group.upgrade().filter(|group| !group.is_closed()) else { return };
        let Some(next) = group.step(place, &mut wait).await else { return };
        let Some(member) = group.member(place) else { return };
        let _ = tokio::time::timeout(next, member.wake.notified()).await;
    }
}

/// Soon after a key was made, and ever more seldom while nothing comes.
async fn look_for_replicas(group: Weak<Group>) {
    let Some((first, longest)) = group.upgrade().map(|group| group.settings.pace.replication) else { return };
    let mut wait = first;
    loop {
        let Some(group) = group.upgrade().filter(|group| !group.is_closed()) else { return };
        let made = tokio::time::timeout(wait, group.made.notified()).await.is_ok();
        if made {
            // The vendor needs a moment.
            tokio::time::sleep(first).await;
        }
        let found = group.look_once().await;
        wait = if made || found { first } else { (wait * 2).min(longest) };
    }
}

/// Up to a quarter longer, so that several instances do not come at one time.
fn jittered(wait: Duration) -> Duration {
    let part = getrandom::u32().unwrap_or(0) % 256;
    wait + wait * part / 1024
}
