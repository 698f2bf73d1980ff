//! Changes and what is left of them after a crash. Every change writes, in its own transaction, the id of the request that
//! made it; so an intent without an outcome is settled by looking, not by guessing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use crate::ids::AccountId;
use crate::ids::{KeyId, KeyStoreId};
use crate::keystore::{CallContext, MaterialId, Status, Token};
use crate::ops::state::Parts;
use crate::ops::{Context, OpError, Ops, RESTORED_DELETIONS_WAIT_MS, store_error, update_error};
use crate::store::{
    AppliedRecord, Decision, KeyRecord, Lifecycle, Snapshot, TokenRecord, UpdateError, Write, brought_back,
};

/// Outcomes whose markers one transaction takes away at most.
const FORGET_AT_ONCE: usize = 64;

/// So many unfinished keys are looked for one by one.
const FEW: usize = 1;
/// Unfinished keys that are looked for together, and forgotten in one transaction.
const AT_A_TIME: usize = 256;

/// What became of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    pub request_id: String,
    pub name: String,
    pub resources: Vec<String>,
    pub effect: Effect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Applied,
    NotApplied,
    /// A deletion that goes on.
    InProgress,
}

impl Effect {
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::Applied => "applied",
            Effect::NotApplied => "not applied",
            Effect::InProgress => "in progress",
        }
    }
}

/// A key whose objects left the token (`held` false) or are there again.
#[derive(Debug, Clone)]
pub struct Availability {
    pub id: KeyId,
    pub arn: String,
    pub held: bool,
}

/// An intent without an outcome, as the journal has it.
#[derive(Debug, Clone)]
pub struct Dangling {
    pub request_id: String,
    pub name: String,
    pub resources: Vec<String>,
}

impl Ops {
    /// One change of the store with its marker. `decide` runs on the newest snapshot.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        ctx: &Context,
        decide: impl FnOnce(&Snapshot) -> Decision<T, OpError> + Send + 'static,
    ) -> Result<(T, u64), OpError> {
        let request_id = ctx.request_id.to_string();
        let done: Vec<String> = {
            let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
            let from = finished.len().saturating_sub(FORGET_AT_ONCE);
            finished.split_off(from)
        };
        let forgotten = done.clone();
        let (asked_by, here) = (request_id.clone(), self.locality.clone());
        let outcome = self
            .store
            .update(move |snapshot| {
                let (mut writes, value) = decide(snapshot)?;
                let parts = Parts::of(snapshot, &writes, &here);
                if !writes.is_empty() {
                    writes.extend(forgotten.into_iter().map(Write::DeleteApplied));
                    writes.push(Write::PutApplied(AppliedRecord { request_id }));
                }
                Ok((writes, (value, parts)))
            })
            .await;
        if outcome.is_err() {
            self.finished.lock().unwrap_or_else(PoisonError::into_inner).extend(done);
        }
        let ((value, parts), version) = outcome.map_err(update_error)?;
        if !parts.is_empty() {
            let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
            changed.entry(asked_by).or_default().and(parts, version);
        }
        Ok((value, version))
    }

    /// What a request has changed so far, for its record; handed out once.
    pub fn state_change(&self, request_id: &str) -> Option<serde_json::Value> {
        let parts = self.changed.lock().unwrap_or_else(PoisonError::into_inner).remove(request_id)?;
        (!parts.is_empty()).then(|| self.contexts().state_change(parts.recorded()))
    }

    /// The outcome record of this change is durable: its marker is not needed any more.
    pub fn outcome_recorded(&self, request_id: &str) {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).push(request_id.to_owned());
    }

    /// How many keys have an unsettled change.
    pub fn unsettled(&self) -> u64 {
        self.unsettled.load().len() as u64
    }

    /// Keys by state, for metrics.
    pub fn keys_by_state(&self) -> Vec<(&'static str, u64)> {
        let mut counts = std::collections::BTreeMap::new();
        for record in self.store.snapshot().keys.values() {
            *counts.entry(self.state(record).as_str()).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }

    /// Changes to a key with an unsettled change are refused; its use goes on.
    pub(super) fn settled(&self, id: &KeyId, arn: &str) -> Result<(), OpError> {
        if self.unsettled.load().contains(id) { Err(OpError::Unsettled { arn: arn.to_owned() }) } else { Ok(()) }
    }

    pub(super) fn mark_unsettled(&self, id: KeyId) {
        self.unsettled.rcu(|set| {
            let mut set = set.as_ref().clone();
            set.insert(id);
            set
        });
    }

    fn mark_settled(&self, id: KeyId) {
        self.unsettled.rcu(|set| {
            let mut set = set.as_ref().clone();
            set.remove(&id);
            set
        });
    }

    /// Tells for each intent without an outcome what became of it. To be called at start, before `undo_creating`.
    pub fn judge(&self, dangling: Vec<Dangling>) -> Vec<Settlement> {
        let snapshot = self.store.snapshot();
        dangling
            .into_iter()
            .map(|intent| {
                let effect = if snapshot.applied.contains_key(&intent.request_id) {
                    Effect::Applied
                } else if intent.name == "DeleteKey" && self.is_deleting(&snapshot, &intent.resources) {
                    Effect::InProgress
                } else {
                    Effect::NotApplied
                };
                Settlement { request_id: intent.request_id, name: intent.name, resources: intent.resources, effect }
            })
            .collect()
    }

    fn is_deleting(&self, snapshot: &Snapshot, resources: &[String]) -> bool {
        snapshot.keys.iter().any(|(id, record)| {
            record.lifecycle == Lifecycle::Deleting
                && resources.contains(&self.locality.of(&record.account).key_arn(id))
        })
    }

    /// Undoes rows `Creating`, its own and no others: nobody was told the key id. To be called at start, when no key is being
    /// made. Returns how many are undone; those whose key store is not connected, or whose token fails, stay unsettled.
    pub async fn undo_creating(&self, call: &CallContext) -> Result<usize, OpError> {
        self.undo(call, None, |_| true).await
    }

    /// A key store is being connected, or all its tokens are there again: keys of it that were not finished are undone now. A row whose maker still runs, on the
    /// connection before, is its maker's.
    pub async fn undo_unsettled(
        &self,
        key_store: Option<&KeyStoreId>,
        token: &Token,
        call: &CallContext,
    ) -> Result<usize, OpError> {
        let unsettled = self.unsettled.load_full();
        let which = |record: &KeyRecord| record.key_store.as_ref() == key_store && unsettled.contains(&record.id);
        self.undo(call, Some(token), which).await
    }

    async fn undo(
        &self,
        call: &CallContext,
        token: Option<&Token>,
        which: impl Fn(&KeyRecord) -> bool,
    ) -> Result<usize, OpError> {
        let snapshot = self.store.snapshot();
        let unfinished = |record: &&Arc<KeyRecord>| record.lifecycle == Lifecycle::Creating && which(record);
        let rows: Vec<&Arc<KeyRecord>> = snapshot.keys.values().filter(unfinished).collect();
        let gone = self.forget_absent(call, token, &rows).await?;
        let (mut undone, mut away) = (gone.len(), BTreeSet::new());
        for record in rows.into_iter().filter(|record| !gone.contains(&record.id)) {
            let id = record.id;
            let connected = self.keystore.token_of(record.key_store.as_ref());
            // One that went away is not asked for each of many.
            if away.contains(&record.key_store) {
                self.mark_unsettled(id);
                continue;
            }
            let Some(token) = token.or(connected.as_ref()) else {
                tracing::warn!(key = %id, "a key that was not finished is undone when its key store is connected");
                self.mark_unsettled(id);
                continue;
            };
            match token.destroy(call, MaterialId { id: id.bytes(), generation: 0 }).await {
                Ok(_) => {
                    self.store
                        .update(move |_| Ok::<_, OpError>((vec![Write::DeleteKey(id)], ())))
                        .await
                        .map_err(update_error)?;
                    self.mark_settled(id);
                    undone += 1;
                }
                Err(error) => {
                    tracing::error!(key = %id, %error, "a key that was not finished stays unsettled");
                    self.mark_unsettled(id);
                    if token.status() != Status::Ready {
                        away.insert(record.key_store.clone());
                    }
                }
            }
        }
        Ok(undone)
    }

    /// Forgets the rows whose key was never made. An outage leaves many: each has to be looked for, which takes the longer the more
    /// objects the token has, and here all are looked for together.
    async fn forget_absent(
        &self,
        call: &CallContext,
        token: Option<&Token>,
        rows: &[&Arc<KeyRecord>],
    ) -> Result<BTreeSet<KeyId>, OpError> {
        let mut by_store: BTreeMap<Option<&KeyStoreId>, Vec<KeyId>> = BTreeMap::new();
        for record in rows {
            by_store.entry(record.key_store.as_ref()).or_default().push(record.id);
        }
        let mut gone = BTreeSet::new();
        for (store, ids) in by_store.into_iter().filter(|(_, ids)| ids.len() > FEW) {
            let connected = self.keystore.token_of(store);
            let Some(token) = token.or(connected.as_ref()) else { continue };
            for some in ids.chunks(AT_A_TIME) {
                let materials = some.iter().map(|id| MaterialId { id: id.bytes(), generation: 0 }).collect();
                // Where this fails each is destroyed, which says why.
                let Ok(absent) = token.absent(call, materials).await else { break };
                let absent: BTreeSet<[u8; 16]> = absent.into_iter().map(|material| material.id).collect();
                let ids: Vec<KeyId> = some.iter().copied().filter(|id| absent.contains(&id.bytes())).collect();
                let writes: Vec<Write> = ids.iter().copied().map(Write::DeleteKey).collect();
                self.store.update(move |_| Ok::<_, OpError>((writes.clone(), ()))).await.map_err(update_error)?;
                for id in ids {
                    self.mark_settled(id);
                    gone.insert(id);
                }
            }
        }
        Ok(gone)
    }

    /// An older store is taken on purpose: what it says of work under way is not so any more.
    pub async fn older_store(&self, now: i64) -> Result<(), OpError> {
        let wait = now + RESTORED_DELETIONS_WAIT_MS;
        self.store.update(move |snapshot| Ok((brought_back(snapshot, wait), ()))).await.map_err(update_error)?;
        Ok(())
    }

    /// A backup took the store's place while it serves: the tokens are told where the objects of its keys are, and nothing is
    /// unsettled that it does not know.
    pub(super) fn store_was_replaced(&self) {
        self.place(None, self.keystore.token());
        for (id, token) in self.keystore.connected() {
            self.place(Some(&id), &token);
        }
        let snapshot = self.store.snapshot();
        self.unsettled.rcu(|set| {
            let mut set = set.as_ref().clone();
            set.retain(|id| snapshot.keys.contains_key(id));
            set
        });
    }

    /// Keys of a key store whose objects left the token, or are there again. `held`: what the token has.
    pub fn availability(&self, store: Option<&KeyStoreId>, held: &BTreeSet<MaterialId>) -> Vec<Availability> {
        let snapshot = self.store.snapshot();
        let all_held = |record: &KeyRecord| {
            record
                .materials
                .iter()
                .all(|m| held.contains(&MaterialId { id: record.id.bytes(), generation: m.generation }))
        };
        let of_store = snapshot.keys.values().filter(|record| record.key_store.as_ref() == store);
        let changed = of_store.filter_map(|record| {
            let now_held = all_held(record);
            let change = match record.lifecycle {
                Lifecycle::Enabled | Lifecycle::Disabled => !now_held,
                Lifecycle::Unavailable { .. } => now_held,
                // A deletion goes on without the object.
                Lifecycle::Creating | Lifecycle::PendingDeletion { .. } | Lifecycle::Deleting => false,
            };
            change.then(|| Availability {
                id: record.id,
                arn: self.locality.of(&record.account).key_arn(&record.id),
                held: now_held,
            })
        });
        changed.collect()
    }

    /// Writes what `availability` found. Returns the store's version.
    pub async fn set_availability(&self, changes: Vec<Availability>, request_id: &str) -> Result<u64, OpError> {
        let ((), version) = self
            .change(&by_service(request_id, self.locality.account.clone()), move |snapshot| {
                Ok((availability_writes(snapshot, &changes), ()))
            })
            .await?;
        Ok(version)
    }

    /// Records tokens that were seen for the first time. Returns the store's version.
    pub async fn record_tokens(&self, tokens: Vec<TokenRecord>, request_id: &str) -> Result<u64, OpError> {
        let writes = tokens.into_iter().map(Write::PutToken).collect();
        let ((), version) =
            self.change(&by_service(request_id, self.locality.account.clone()), move |_| Ok((writes, ()))).await?;
        Ok(version)
    }

    /// All outcomes are in the journal: the markers go.
    pub async fn forget_applied(&self) -> Result<(), OpError> {
        let ids: Vec<String> = self.store.snapshot().applied.iter().map(|(id, _)| id.clone()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let writes = ids.into_iter().map(Write::DeleteApplied).collect();
        match self.store.update(move |_| Ok::<_, OpError>((writes, ()))).await {
            Ok(_) => Ok(()),
            Err(UpdateError::Refused(error)) => Err(error),
            Err(UpdateError::Failed(error)) => Err(store_error(error)),
        }
    }

    /// Keys whose deletion window has passed, or whose deletion was begun. Those of a key store that is not connected wait
    /// for it.
    pub fn due_for_deletion(&self, now: i64) -> Vec<KeyId> {
        let due = |lifecycle: &Lifecycle| match lifecycle {
            Lifecycle::PendingDeletion { deletion_date } => *deletion_date <= now,
            Lifecycle::Deleting => true,
            _ => false,
        };
        let snapshot = self.store.snapshot();
        let reachable = |record: &KeyRecord| self.keystore.is_connected(record.key_store.as_ref());
        snapshot.keys.iter().filter(|(_, r)| due(&r.lifecycle) && reachable(r)).map(|(id, _)| *id).collect()
    }

    /// Raises the budgets to what the journal shows: a restored count must never be too low.
    pub async fn raise_usage(&self, counted: Vec<(KeyId, u64)>) -> Result<(), OpError> {
        let counted = Arc::new(counted);
        self.store
            .update(move |snapshot| {
                let writes = counted
                    .iter()
                    .filter_map(|(id, count)| {
                        let generation = snapshot.keys.get(id)?.current()?.generation;
                        let mut usage = snapshot
                            .usage
                            .get(id)
                            .map_or(crate::store::UsageRecord { key: *id, generation, reserved: 0 }, |usage| {
                                usage.as_ref().clone()
                            });
                        if usage.reserved >= *count {
                            return None;
                        }
                        usage.reserved = *count;
                        Some(Write::PutUsage(usage))
                    })
                    .collect();
                Ok::<_, OpError>((writes, ()))
            })
            .await
            .map_err(update_error)?;
        self.budgets.forget();
        Ok(())
    }
}

/// For changes that the service makes at start.
fn by_service(request_id: &str, account: AccountId) -> Context {
    Context {
        progress: None,
        request_id: request_id.into(),
        principal: "service".into(),
        account,
        now: 0,
        deadline: std::time::Instant::now(),
    }
}

/// Lifecycles of keys whose objects left the token, or are there again.
pub(super) fn availability_writes(snapshot: &Snapshot, changes: &[Availability]) -> Vec<Write> {
    let writes = changes.iter().filter_map(|change| {
        let record = snapshot.keys.get(&change.id)?;
        let lifecycle = match (&record.lifecycle, change.held) {
            (Lifecycle::Enabled, false) => Lifecycle::Unavailable { was_enabled: true },
            (Lifecycle::Disabled, false) => Lifecycle::Unavailable { was_enabled: false },
            (Lifecycle::Unavailable { was_enabled: true }, true) => Lifecycle::Enabled,
            (Lifecycle::Unavailable { was_enabled: false }, true) => Lifecycle::Disabled,
            _ => return None,
        };
        Some(Write::PutKey(KeyRecord { lifecycle, ..record.as_ref().clone() }))
    });
    writes.collect()
}
