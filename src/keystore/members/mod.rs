//! A key store of several tokens that hold the same keys by the vendor's own means: a cluster, an HA group, a cloned
//! partition. The bridge never exports a key to copy it; it learns which member holds which key, uses a key where it is, and
//! says where it is not.
//!
//! RULE: no key is used on a member before that member's own connection has checked its fingerprint, and no member is used
//! before the bridge's own keys on it were compared with those of the others.

mod changes;
mod door;
mod holdings;
mod reads;
mod system;
mod together;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::secret::SecretString;
use crate::token::{
    About, Answer, Backend, BoxFuture, CallContext, Change, ErrorClass, Gauges, Looked, MaterialId, MemberView,
    OpenFailure, Replicas, Request, Status, Token, TokenError, TokenGroup,
};

pub use door::{ConfiguredDoor, Door};
pub use holdings::MOST_MEMBERS;
use holdings::{Holdings, Places};
use system::SystemKeys;

/// Which of the members that hold a key does a call that changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reads {
    /// The first healthy one, in the order of the configuration.
    #[default]
    Preferred,
    /// One after the other.
    Spread,
}

/// How several tokens are one key store.
#[derive(Debug, Clone)]
pub struct Together {
    pub reads: Reads,
    /// Members that hold a new key before anybody is told of it.
    pub require: usize,
    pub generate_deadline: Duration,
    pub pace: Pace,
}

/// How often members are looked at.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Whether one went, or can come back.
    pub look: Duration,
    /// From the first try to come back to the next, and the longest such wait.
    pub again: (Duration, Duration),
    /// Whether keys were replicated that one lacked, and the longest wait where none was.
    pub replication: (Duration, Duration),
    /// How long a member may take to show the bridge's own keys.
    pub verify: Duration,
    /// How long the start waits for a member while another is there.
    pub start: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            look: Duration::from_millis(200),
            again: (Duration::from_millis(200), Duration::from_secs(30)),
            replication: (Duration::from_secs(5), Duration::from_secs(60)),
            verify: Duration::from_secs(10),
            start: Duration::from_secs(20),
        }
    }
}

/// None of the tokens can be used.
#[derive(Debug)]
pub struct Nobody {
    /// How each of them is. Safe for `/readyz`: no path, no `CKR_`.
    pub why: String,
    /// By their names, in their order.
    pub failures: Vec<(String, TokenError)>,
}

impl Nobody {
    /// The one of a token that may come by itself, where there is one.
    pub fn into_error(self) -> TokenError {
        let (away, others): (Vec<_>, Vec<_>) =
            self.failures.into_iter().map(|(_, error)| error).partition(|error| error.class != ErrorClass::Operator);
        let first = away.into_iter().chain(others).next();
        first.unwrap_or_else(|| TokenError::own(ErrorClass::Context, "members", self.why))
    }
}

/// Several tokens as one. Cheap to clone.
#[derive(Clone)]
pub struct Members(Arc<Group>);

struct Group {
    settings: Together,
    members: Vec<Member>,
    holdings: Holdings,
    system: SystemKeys,
    /// Whose turn it is.
    turn: AtomicUsize,
    about: RwLock<Arc<About>>,
    /// `CKA_ID`s that are not derived from the material, for members that come later.
    places: Mutex<Vec<(MaterialId, Vec<u8>)>>,
    /// Materials that were surely not made, or are gone again everywhere: a member that is away holds none of them.
    undone: Mutex<HashSet<MaterialId>>,
    failovers: AtomicU64,
    /// Keys were made: replication is looked at soon.
    made: Notify,
    closed: AtomicBool,
}

struct Member {
    name: Arc<str>,
    door: Arc<dyn Door>,
    /// A thread is at it.
    opening: AtomicBool,
    token: OnceLock<Token>,
    stage: RwLock<Stage>,
    /// Why it could not be opened or let in.
    failure: Mutex<Option<TokenError>>,
    /// Failures in a row that the member's own status does not explain.
    strikes: AtomicU32,
    wake: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    In,
    /// Why; safe for `/readyz`.
    Out(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    OfThePin,
    ByItsFlags,
}

/// Failures in a row after which a member that calls itself ready has to show again that it is.
const STRIKES: u32 = 3;

impl Member {
    fn is_in(&self) -> bool {
        *self.stage.read().unwrap_or_else(PoisonError::into_inner) == Stage::In
    }

    fn set(&self, stage: Stage) -> bool {
        let mut current = self.stage.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *current != stage;
        *current = stage;
        changed
    }

    fn down(&self) -> Option<String> {
        if let Stage::Out(why) = &*self.stage.read().unwrap_or_else(PoisonError::into_inner) {
            return Some(why.clone());
        }
        match self.token.get()?.status() {
            Status::Ready => None,
            Status::Down(why) => Some(why),
        }
    }

    fn fails(&self, error: Option<TokenError>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// It takes no login. RULE: what the token said of the PIN it is not asked again before a person says so; what its flags
    /// say may change.
    fn refusal(&self) -> Option<Refusal> {
        match self.token.get() {
            Some(token) => token.gauges().health.refused.then_some(Refusal::OfThePin),
            None => {
                let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                let failure = failure.as_ref()?;
                match failure.open_failure() {
                    OpenFailure::PinIncorrect => Some(Refusal::OfThePin),
                    OpenFailure::PinLocked | OpenFailure::PinNotInitialised if failure.rv != 0 => {
                        Some(Refusal::OfThePin)
                    }
                    OpenFailure::PinLocked | OpenFailure::PinNotInitialised => Some(Refusal::ByItsFlags),
                    OpenFailure::NotPresent | OpenFailure::WrongToken | OpenFailure::Other => None,
                }
            }
        }
    }

    /// The connection, where it can be used now. RULE: a member that was seen down is out until it has shown again what it is,
    /// however soon it calls itself ready.
    fn ready(&self) -> Option<&Token> {
        if !self.is_in() {
            return None;
        }
        let token = self.token.get()?;
        match token.status() {
            Status::Ready => Some(token),
            Status::Down(why) => {
                self.leave(&why);
                None
            }
        }
    }

    fn leave(&self, why: &str) {
        if self.is_in() && self.set(Stage::Out(why.to_owned())) {
            tracing::error!(member = &*self.name, why, "a token leaves its key store: the others go on");
            self.wake.notify_one();
        }
    }
}

impl Group {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn member(&self, place: usize) -> Option<&Member> {
        self.members.get(place)
    }

    /// Members that can be used now, in the order of the configuration.
    fn usable(&self) -> Vec<(usize, &Token)> {
        let ready = self.members.iter().enumerate().filter_map(|(place, member)| Some((place, member.ready()?)));
        ready.collect()
    }

    /// Names of members that cannot be asked now.
    fn away(&self) -> Vec<&str> {
        self.members.iter().filter(|member| member.ready().is_none()).map(|member| &*member.name).collect()
    }

    fn place_of(&self, name: &str) -> Result<usize, TokenError> {
        self.members.iter().position(|member| &*member.name == name).ok_or_else(|| {
            TokenError::own(ErrorClass::Unsupported, "members", format!("the key store has no token `{name}`"))
        })
    }

    fn names(&self, places: impl Fn(usize) -> bool) -> Vec<Arc<str>> {
        let chosen = self.members.iter().enumerate().filter(|(place, _)| places(*place));
        chosen.map(|(_, member)| Arc::clone(&member.name)).collect()
    }

    fn nobody(&self, function: &'static str) -> TokenError {
        TokenError::own(ErrorClass::Context, function, self.why_nobody())
    }

    fn why_nobody(&self) -> String {
        let each: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("`{}`: {}", member.name, member.down().unwrap_or_else(|| "not there yet".to_owned())))
            .collect();
        format!("none of the key store's tokens can be used ({})", each.join(", "))
    }

    /// A call of the group's own.
    fn call(&self, name: &str, patience: Duration) -> CallContext {
        CallContext { principal: "members".into(), deadline: Instant::now() + patience, request_id: name.into() }
    }

    async fn answer(&self, ctx: &CallContext, request: Request) -> Result<Answer, TokenError> {
        match request {
            Request::Generate { kind, material, label } => self.generate(ctx, kind, material, &label).await,
            Request::Destroy { material } => self.destroy(ctx, material).await,
            Request::Absent { materials } => self.absent(ctx, materials).await,
            Request::Holds { material } => self.holds(ctx, material).await,
            Request::EnsureSystemKey { key } => self.ensure_system_key(ctx, key).await,
            Request::WriteData { name, value } => self.write_data(ctx, &name, &value).await,
            Request::ReadData { name } => self.read_data(ctx, &name).await,
            Request::Materials => self.materials(ctx).await,
            Request::Adopt { cka_id, material } => self.adopt(ctx, cka_id, material).await,
            Request::List => self.list(ctx).await,
            Request::ReadSlice { epoch, objects } => self.read_slice(ctx, epoch, objects).await,
            Request::Encrypt { .. }
            | Request::Decrypt { .. }
            | Request::DataKey { .. }
            | Request::Random { .. }
            | Request::Sign { .. }
            | Request::Mac { .. }
            | Request::Check { .. }
            | Request::SystemPublicKey { .. }
            | Request::Objects
            | Request::Inspect { .. }
            | Request::Enforcement => self.read(ctx, request).await,
        }
    }
}

impl Backend for Members {
    fn perform<'a>(&'a self, ctx: &'a CallContext, request: Request) -> BoxFuture<'a, Result<Answer, TokenError>> {
        Box::pin(self.0.answer(ctx, request))
    }

    /// All members have the same PIN where this is asked of them together; each is tried once, and the first refusal ends it.
    fn change_pin(&self, pin: SecretString) -> BoxFuture<'_, Result<(), TokenError>> {
        Box::pin(async move {
            for (place, member) in self.0.members.iter().enumerate() {
                let Some(token) = member.token.get() else {
                    // Its turn has come where it waits for a PIN.
                    if member.refusal().is_some() {
                        self.0.open_now(place, Some(pin.clone())).await?;
                        continue;
                    }
                    return Err(TokenError::own(
                        ErrorClass::Context,
                        "change_pin",
                        format!("`{}` is not connected: name the members one by one", member.name),
                    ));
                };
                token.change_pin(pin.clone()).await?;
            }
            Ok(())
        })
    }

    fn about(&self) -> Arc<About> {
        Arc::clone(&self.0.about.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn status(&self) -> Status {
        match self.0.members.iter().any(|member| member.ready().is_some()) {
            true => Status::Ready,
            false => Status::Down(self.0.why_nobody()),
        }
    }

    fn gauges(&self) -> Gauges {
        together::gauges(self.0.members.iter().filter_map(|member| member.token.get()).map(Token::gauges))
    }

    fn changes(&self) -> Vec<Change> {
        self.0.members.iter().filter_map(|member| member.token.get()).flat_map(Token::changes).collect()
    }

    /// As long as one member can be used, a call that hangs in another one's library is no reason to end the process.
    fn doom(&self) -> Option<String> {
        if self.status() == Status::Ready {
            return None;
        }
        self.0.members.iter().filter_map(|member| member.token.get()).find_map(Token::doom)
    }

    fn place(&self, places: Vec<(MaterialId, Vec<u8>)>) {
        for token in self.0.members.iter().filter_map(|member| member.token.get()) {
            token.place(places.clone());
        }
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner).extend(places);
    }

    fn give_up(&self, material: MaterialId) {
        for token in self.0.members.iter().filter_map(|member| member.token.get()) {
            token.give_up(material);
        }
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != material);
        self.0.holdings.forget(material);
    }

    fn close(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
        for member in &self.0.members {
            member.wake.notify_one();
            if let Some(token) = member.token.get() {
                token.close();
            }
        }
        self.0.made.notify_waiters();
    }

    fn group(&self) -> Option<&dyn TokenGroup> {
        Some(self)
    }
}

impl TokenGroup for Members {
    fn members(&self) -> Vec<MemberView> {
        let view = |(place, member): (usize, &Member)| MemberView {
            name: Arc::clone(&member.name),
            token: member.token.get().cloned(),
            down: member.down(),
            refused: member.refusal().is_some(),
            keys: self.0.holdings.held_by(place),
            wrong: self.0.holdings.wrong_on(place),
        };
        self.0.members.iter().enumerate().map(view).collect()
    }

    fn open_member<'a>(&'a self, name: &'a str, pin: Option<SecretString>) -> BoxFuture<'a, Result<(), TokenError>> {
        Box::pin(async move { self.0.open_now(self.0.place_of(name)?, pin).await })
    }

    fn look_at_member<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Looked, TokenError>> {
        Box::pin(async move { self.0.look_at(self.0.place_of(name)?).await })
    }

    fn replicas(&self, material: MaterialId) -> Option<Replicas> {
        let holding = self.0.holdings.of(material)?;
        Some(Replicas {
            held_by: self.0.names(|place| holding.on.has(place)),
            missing_from: self.0.names(|place| !holding.on.has(place)),
        })
    }

    fn unreplicated(&self) -> Vec<MaterialId> {
        self.0.holdings.unreplicated(Places::all(self.0.members.len()))
    }

    fn failovers(&self) -> u64 {
        self.0.failovers.load(Ordering::Relaxed)
    }
}
