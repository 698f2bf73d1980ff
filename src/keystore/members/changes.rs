//! Calls that change what the members hold, and calls that only all of them together can answer.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::reads::Wanted;
use super::system::Verdict;
use super::{Group, Member};
use crate::token::{
    Answer, CallContext, DataName, ErrorClass, KeyKind, KeyRef, MaterialId, Request, SystemKey, Token, TokenError,
};

/// How often a new key is looked for on the other members.
const POLL: Duration = Duration::from_millis(50);
const POLL_LONGEST: Duration = Duration::from_secs(1);
/// After the deadline for a new key, until nobody is waited for.
const GRACE: Duration = Duration::from_secs(1);
/// Materials that are remembered as undone.
const UNDONE: usize = 1024;

impl Group {
    /// In the time that one token has for it. After `Deadline` the key may be there: whoever keeps the record undoes it.
    pub(super) async fn generate(
        &self,
        ctx: &CallContext,
        kind: KeyKind,
        material: MaterialId,
        label: &str,
    ) -> Result<Answer, TokenError> {
        // What a member says itself says more.
        let limit = self.settings.generate_deadline + GRACE;
        let made = tokio::time::timeout(limit, self.make(ctx, kind, material, label)).await;
        made.unwrap_or_else(|_| {
            let detail = "the deadline passed before the members had the new key, or it was undone on all of them";
            Err(TokenError::own(ErrorClass::Deadline, "generate", detail))
        })
    }

    /// Made on the first member that can be used. RULE: never tried on a second one where the first may have made it: two keys
    /// under one id would be worse than none.
    async fn make(
        &self,
        ctx: &CallContext,
        kind: KeyKind,
        material: MaterialId,
        label: &str,
    ) -> Result<Answer, TokenError> {
        // What has to be undone needs time too.
        let until = Instant::now() + self.settings.generate_deadline * 4 / 5;
        self.enough(until).await.inspect_err(|_| self.was_undone(material))?;
        let mut refused = None;
        for (place, token) in self.usable() {
            let request = Request::Generate { kind, material, label: label.to_owned() };
            match token.perform(ctx, request).await {
                Ok(answer) => {
                    let fingerprint = match &answer {
                        Answer::Generated { value, .. } => Some(Arc::from(value.fingerprint.as_slice())),
                        _ => None,
                    };
                    self.holdings.found(material, place, fingerprint.as_ref());
                    self.made.notify_one();
                    if self.settings.require > 1
                        && let Some(fingerprint) = fingerprint
                        && let Err(error) = self.replicated(ctx, material, &fingerprint, until).await
                    {
                        self.undo(ctx, material).await;
                        return Err(error);
                    }
                    return Ok(answer);
                }
                // Its queue was full: nothing was begun.
                Err(error) if error.class == ErrorClass::Capacity => refused = Some(error),
                Err(error) => {
                    self.failed(place, token, &Wanted::Anything, &error);
                    return Err(error);
                }
            }
        }
        self.was_undone(material);
        Err(refused.unwrap_or_else(|| self.nobody("generate")))
    }

    /// As many members as have to hold a new key.
    async fn enough(&self, until: Instant) -> Result<(), TokenError> {
        loop {
            let there = self.usable().len();
            if there >= self.settings.require.max(1) {
                return Ok(());
            }
            // Where one is enough, nobody is waited for.
            if self.settings.require <= 1 || Instant::now() >= until {
                let away = self.away().join("`, `");
                let require = self.settings.require;
                return Err(TokenError::own(
                    ErrorClass::Context,
                    "generate",
                    format!(
                        "`require_members` asks for {require} members, {there} can be used and `{away}` cannot: no key was made"
                    ),
                ));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until as many members as are required hold the new key, with the right fingerprint.
    async fn replicated(
        &self,
        ctx: &CallContext,
        material: MaterialId,
        fingerprint: &Arc<[u8]>,
        until: Instant,
    ) -> Result<(), TokenError> {
        let mut wait = POLL;
        loop {
            let mut held = 0;
            for (place, token) in self.usable() {
                held +=
                    usize::from(self.look_for(ctx, place, token, material, Some(fingerprint)).await.unwrap_or(false));
            }
            if held >= self.settings.require {
                return Ok(());
            }
            if Instant::now() + wait >= until {
                let require = self.settings.require;
                return Err(TokenError::own(
                    ErrorClass::Context,
                    "generate",
                    format!(
                        "`require_members` asks for {require} members, but only {held} held the new key in time: it was undone"
                    ),
                ));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(POLL_LONGEST);
        }
    }

    /// Whether a member holds a key, by its fingerprint where that is known; what is learned is kept.
    pub(super) async fn look_for(
        &self,
        ctx: &CallContext,
        place: usize,
        token: &Token,
        material: MaterialId,
        fingerprint: Option<&Arc<[u8]>>,
    ) -> Result<bool, TokenError> {
        let holding = self.holdings.of(material).unwrap_or_default();
        if holding.on.has(place) && !holding.wrong.has(place) {
            return Ok(true);
        }
        // A connection believes "not there" for a while; `holds` looks anew each time.
        if !token.holds(ctx, material).await? {
            return Ok(false);
        }
        let Some(fingerprint) = fingerprint else {
            // The member's own connection checks it before the first use.
            self.holdings.found(material, place, None);
            return Ok(true);
        };
        let check = CallContext { deadline: Instant::now() + self.settings.pace.verify, ..ctx.clone() };
        let key = KeyRef::Kms { material, fingerprint: Arc::clone(fingerprint) };
        match token.check(&check, &key).await {
            Ok(_) => {
                self.holdings.found(material, place, Some(fingerprint));
                Ok(true)
            }
            Err(error) if error.class == ErrorClass::KeyMissing => Ok(false),
            Err(error) => {
                self.failed(place, token, &Wanted::Key(material, Arc::clone(fingerprint)), &error);
                Err(error)
            }
        }
    }

    /// A key that nobody was told of goes again. RULE: where a member is away, which may hold it, that is not done yet: the
    /// caller's own `destroy` says so, and whoever keeps the record comes again when it is back.
    async fn undo(&self, ctx: &CallContext, material: MaterialId) {
        let mut gone = 0;
        for (place, token) in self.usable() {
            match token.destroy(ctx, material).await {
                Ok(_) => {
                    self.holdings.missing(material, place);
                    gone += 1;
                }
                Err(error) => {
                    self.failed(place, token, &Wanted::Anything, &error);
                    tracing::error!(%error, "a key that was not replicated could not be undone");
                }
            }
        }
        if gone == self.members.len() {
            self.holdings.forget(material);
            self.was_undone(material);
        }
    }

    fn was_undone(&self, material: MaterialId) {
        let mut undone = self.undone.lock().unwrap_or_else(PoisonError::into_inner);
        if undone.len() < UNDONE {
            undone.insert(material);
        }
    }

    /// On all members. RULE: a key is not destroyed while a member that is away may hold it: those that are there destroy it now,
    /// and the error makes the caller come again.
    pub(super) async fn destroy(&self, ctx: &CallContext, material: MaterialId) -> Result<Answer, TokenError> {
        if self.undone.lock().unwrap_or_else(PoisonError::into_inner).remove(&material)
            && let Some((_, token)) = self.usable().first()
        {
            return token.perform(ctx, Request::Destroy { material }).await;
        }
        let (mut count, mut facts, mut failure) = (0, None, None);
        let mut away = self.members.len();
        for (place, token) in self.usable() {
            away -= 1;
            match token.destroy(ctx, material).await {
                Ok(done) => {
                    self.holdings.missing(material, place);
                    count += done.value;
                    facts.get_or_insert(done.facts);
                }
                Err(error) => {
                    self.failed(place, token, &Wanted::Anything, &error);
                    failure.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let Some(facts) = facts else { return Err(self.nobody("destroy")) };
        // Counted, and not asked for again: one that was away a moment ago may have come just now.
        if away != 0 {
            let away = self.away().join("`, `");
            return Err(TokenError::own(
                ErrorClass::Context,
                "destroy",
                format!("the key is gone from the members that were there, but `{away}` was away and may hold it"),
            ));
        }
        self.holdings.forget(material);
        Ok(Answer::Destroyed { count, facts })
    }

    /// Those that surely no member holds. RULE: one that is away may hold any.
    pub(super) async fn absent(&self, ctx: &CallContext, mut materials: Vec<MaterialId>) -> Result<Answer, TokenError> {
        let usable = self.usable();
        if usable.len() != self.members.len() {
            return Err(self.nobody("absent"));
        }
        for (_, token) in usable {
            materials = token.absent(ctx, materials).await?;
        }
        Ok(Answer::Absent(materials))
    }

    /// One that is there holds it.
    pub(super) async fn holds(&self, ctx: &CallContext, material: MaterialId) -> Result<Answer, TokenError> {
        let usable = self.usable();
        if usable.is_empty() {
            return Err(self.nobody("holds"));
        }
        let mut failure = None;
        for (place, token) in usable {
            match token.holds(ctx, material).await {
                Ok(true) => return Ok(Answer::Flag(true)),
                Ok(false) => {}
                Err(error) => {
                    self.failed(place, token, &Wanted::Anything, &error);
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(Answer::Flag(false)), Err)
    }

    /// RULE: made on one member only, and only where no member can have it already.
    pub(super) async fn ensure_system_key(&self, ctx: &CallContext, key: SystemKey) -> Result<Answer, TokenError> {
        let usable = self.usable();
        let Some((first, maker)) = usable.first().copied() else { return Err(self.nobody("ensure_system_key")) };
        for (_, token) in &usable {
            match token.check(&self.call("system key", self.settings.pace.verify), &KeyRef::System(key)).await {
                Ok(_) => return Ok(Answer::Flag(false)),
                Err(error) if error.class == ErrorClass::KeyMissing => {}
                Err(error) => return Err(error),
            }
        }
        let away = self.away();
        if !away.is_empty() {
            let away = away.join("`, `");
            return Err(TokenError::own(
                ErrorClass::Context,
                "ensure_system_key",
                format!(
                    "a key of the bridge's own is missing, and `{away}` is away and may hold it: it is made when all are there"
                ),
            ));
        }
        let made = maker.ensure_system_key(ctx, key).await?;
        self.system.made(key).await;
        let call = self.call("system key", self.settings.pace.verify);
        match self.system.compare(first, maker, &call).await {
            Verdict::Same => {}
            Verdict::Failed(error) => return Err(error),
            Verdict::Refused(why) => return Err(TokenError::own(ErrorClass::WrongKey, "ensure_system_key", why)),
        }
        self.made.notify_one();
        Ok(Answer::Flag(made))
    }

    /// On all that are there; one is enough.
    pub(super) async fn write_data(
        &self,
        ctx: &CallContext,
        name: &DataName,
        value: &[u8],
    ) -> Result<Answer, TokenError> {
        let (mut written, mut failure) = (false, None);
        for (place, token) in self.usable() {
            match token.write_data(ctx, name, value.to_vec()).await {
                Ok(()) => written = true,
                Err(error) => {
                    self.failed(place, token, &Wanted::Anything, &error);
                    failure = Some(error);
                }
            }
        }
        if written { Ok(Answer::Nothing) } else { Err(failure.unwrap_or_else(|| self.nobody("write_data"))) }
    }

    /// What any member has: a value that was written while one was away is on the others, and the reader knows the newest.
    pub(super) async fn read_data(&self, ctx: &CallContext, name: &DataName) -> Result<Answer, TokenError> {
        let (mut values, mut read, mut failure) = (Vec::new(), false, None);
        for (place, token) in self.usable() {
            match token.read_data(ctx, name).await {
                Ok(found) => {
                    read = true;
                    for value in found {
                        if !values.contains(&value) {
                            values.push(value);
                        }
                    }
                }
                Err(error) => {
                    self.failed(place, token, &Wanted::Anything, &error);
                    failure = Some(error);
                }
            }
        }
        if read { Ok(Answer::Data(values)) } else { Err(failure.unwrap_or_else(|| self.nobody("read_data"))) }
    }

    /// Of all members that are there: an object is as often in the key store as in the member that has the most of it.
    pub(super) async fn materials(&self, ctx: &CallContext) -> Result<Answer, TokenError> {
        let mut all: BTreeMap<MaterialId, usize> = BTreeMap::new();
        let usable = self.usable();
        if usable.is_empty() {
            return Err(self.nobody("materials"));
        }
        for (_, token) in usable {
            if let Answer::Materials(found) = token.perform(ctx, Request::Materials).await? {
                for (material, count) in found {
                    let most = all.entry(material).or_default();
                    *most = (*most).max(count);
                }
            }
        }
        Ok(Answer::Materials(all.into_iter().collect()))
    }

    /// The first member that has it shows it; the others check it under the id that it has there.
    pub(super) async fn adopt(
        &self,
        ctx: &CallContext,
        cka_id: Vec<u8>,
        material: MaterialId,
    ) -> Result<Answer, TokenError> {
        let mut failure = None;
        for (place, token) in self.usable() {
            let request = Request::Adopt { cka_id: cka_id.clone(), material };
            match token.perform(ctx, request).await {
                Ok(answer) => {
                    let placed = vec![(material, cka_id)];
                    for other in self.members.iter().filter_map(|member: &Member| member.token.get()) {
                        other.place(placed.clone());
                    }
                    self.places.lock().unwrap_or_else(PoisonError::into_inner).extend(placed);
                    self.holdings.found(material, place, None);
                    self.made.notify_one();
                    return Ok(answer);
                }
                Err(error) if error.class == ErrorClass::KeyMissing => failure = Some(error),
                Err(error) => {
                    self.failed(place, token, &Wanted::Anything, &error);
                    return Err(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| self.nobody("adopt")))
    }
}
