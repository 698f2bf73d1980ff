//! A token that is connected in this process: its sessions' threads run here, and the vendor's module is loaded here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::runtime::Handle;

use super::adopt::Adopt;
use super::call::{About, Answer, Backend, BoxFuture, Request};
use super::connection::{Connection, hinted};
use super::data::{ReadData, WriteData};
use super::generate::{EnsureSystemKey, Generate};
use super::guard::{HeldPin, PinGuard};
use super::keygen::{Absent, Destroy, Holds, Objects};
use super::officer::{Inspect, List, Materials, PublicKey, ReadSlice};
use super::operations::{Check, DataKey, Decrypt, Encrypt, Mac, Random, Sign};
use super::pin::{ChangePin, DRAIN};
use super::slots::TryAttributes;
use super::{CallContext, Change, Done, Gauges, MaterialId, Status, TokenError, TokenGroup};
use crate::secret::{SecretBytes, SecretString};

/// Cheap to clone; the last clone that goes ends its threads.
#[derive(Clone)]
pub struct Local(pub(super) Arc<Connection>);

impl Local {
    /// `change_pin` where somebody else has the PIN.
    pub async fn change_guard(&self, guard: Arc<dyn PinGuard>) -> Result<(), TokenError> {
        let deadline = self.slow_deadline() + DRAIN;
        let ctx = CallContext { principal: "token".into(), deadline, request_id: "change_pin".into() };
        let changed = self.task(&ctx, deadline, ChangePin { guard }).await;
        changed.map_err(|error| hinted(error, self.0.shared.about.pin_hint.as_deref()))
    }

    /// As `perform`, for a worker process: an operation is answered on its session's own thread, and has no answer while that hangs.
    /// The rest is answered by its deadline.
    pub(super) fn post(
        &self,
        runtime: &Handle,
        ctx: CallContext,
        request: Request,
        take: impl FnOnce(Result<Answer, TokenError>) + Send + 'static,
    ) {
        match request {
            Request::Encrypt { key, aad, plaintext } => {
                self.post_operation(runtime, ctx, Encrypt { key, aad, plaintext }, |done| {
                    take(done.map(|done| Answer::Sealed { output: done.value, facts: done.facts }));
                });
            }
            Request::Decrypt { key, iv, aad, ciphertext } => {
                self.post_operation(runtime, ctx, Decrypt { key, iv, aad, ciphertext }, |done| take(secret(done)));
            }
            Request::DataKey { key, aad, len } => {
                self.post_operation(runtime, ctx, DataKey { key, aad, len }, |done| {
                    take(done.map(|done| {
                        let (plaintext, output) = done.value;
                        Answer::DataKey { plaintext, output, facts: done.facts }
                    }));
                });
            }
            Request::Random { len } => self.post_operation(runtime, ctx, Random { len }, |done| take(secret(done))),
            Request::Sign { key, mechanism, input } => {
                self.post_operation(runtime, ctx, Sign { key, mechanism, input }, |done| {
                    take(done.map(|done| Answer::Signature { value: done.value, facts: done.facts }));
                });
            }
            Request::Mac { key, hash, message } => {
                self.post_operation(runtime, ctx, Mac { key, hash, message }, |done| take(secret(done)));
            }
            request => {
                let local = self.clone();
                runtime.spawn(async move { take(local.answer(&ctx, request).await) });
            }
        }
    }

    async fn answer(&self, ctx: &CallContext, request: Request) -> Result<Answer, TokenError> {
        // Of the tasks of the key generation thread, which last longer than a caller's patience.
        let slow = self.slow_deadline();
        let started = Instant::now();
        Ok(match request {
            Request::Encrypt { key, aad, plaintext } => {
                let done = self.call(ctx, Encrypt { key, aad, plaintext }).await?;
                Answer::Sealed { output: done.value, facts: done.facts }
            }
            Request::Decrypt { key, iv, aad, ciphertext } => {
                let done = self.call(ctx, Decrypt { key, iv, aad, ciphertext }).await?;
                Answer::Secret { value: done.value, facts: done.facts }
            }
            Request::DataKey { key, aad, len } => {
                let done = self.call(ctx, DataKey { key, aad, len }).await?;
                let (plaintext, output) = done.value;
                Answer::DataKey { plaintext, output, facts: done.facts }
            }
            Request::Random { len } => {
                let done = self.call(ctx, Random { len }).await?;
                Answer::Secret { value: done.value, facts: done.facts }
            }
            Request::Sign { key, mechanism, input } => {
                let done = self.call(ctx, Sign { key, mechanism, input }).await?;
                Answer::Signature { value: done.value, facts: done.facts }
            }
            Request::Mac { key, hash, message } => {
                let done = self.call(ctx, Mac { key, hash, message }).await?;
                Answer::Secret { value: done.value, facts: done.facts }
            }
            Request::Check { key } => Answer::Checked { facts: self.call(ctx, Check::new(key)).await?.facts },
            Request::Generate { kind, material, label } => {
                let done = self.task(ctx, slow, Generate { kind, material, label }).await?;
                Answer::Generated { value: done.value, facts: done.facts }
            }
            Request::Absent { materials } => Answer::Absent(self.task(ctx, slow, Absent { materials }).await?),
            Request::Destroy { material } => {
                let count = self.task(ctx, slow, Destroy { material }).await?;
                Answer::Destroyed { count, facts: self.0.shared.facts("C_DestroyObject", started) }
            }
            Request::Holds { material } => Answer::Flag(self.task(ctx, slow, Holds { material }).await?),
            Request::EnsureSystemKey { key } => Answer::Flag(self.task(ctx, slow, EnsureSystemKey { key }).await?),
            Request::SystemPublicKey { key } => Answer::Bytes(self.task(ctx, slow, PublicKey { key }).await?),
            Request::Objects => Answer::Objects(self.task(ctx, slow, Objects).await?),
            Request::Materials => Answer::Materials(self.task(ctx, slow, Materials).await?),
            Request::Inspect { selector } => Answer::Inspected(self.task(ctx, slow, Inspect::new(selector)).await?),
            Request::List => {
                let (epoch, objects) = self.task(ctx, slow, List).await?;
                Answer::Listed { epoch, objects }
            }
            Request::ReadSlice { epoch, objects } => {
                Answer::Slice(self.task(ctx, slow, ReadSlice { epoch, objects }).await?)
            }
            Request::ReadData { name } => Answer::Data(self.task(ctx, slow, ReadData { name }).await?),
            Request::WriteData { name, value } => {
                self.task(ctx, slow, WriteData { name, value }).await?;
                Answer::Nothing
            }
            Request::Adopt { cka_id, material } => {
                let done = self.task(ctx, slow, Adopt { id: cka_id, material }).await?;
                Answer::Adopted { value: Box::new(done.value), facts: done.facts }
            }
            Request::Enforcement => Answer::Enforcement(self.task(ctx, ctx.deadline, TryAttributes).await?),
        })
    }
}

fn secret(done: Result<Done<SecretBytes>, TokenError>) -> Result<Answer, TokenError> {
    done.map(|done| Answer::Secret { value: done.value, facts: done.facts })
}

impl Backend for Local {
    fn perform<'a>(&'a self, ctx: &'a CallContext, request: Request) -> BoxFuture<'a, Result<Answer, TokenError>> {
        Box::pin(self.answer(ctx, request))
    }

    fn change_pin(&self, pin: SecretString) -> BoxFuture<'_, Result<(), TokenError>> {
        Box::pin(self.change_guard(Arc::new(HeldPin::new(pin, self.0.marks.clone()))))
    }

    fn about(&self) -> Arc<About> {
        Arc::clone(&self.0.shared.about)
    }

    fn status(&self) -> Status {
        self.0.shared.status()
    }

    fn gauges(&self) -> Gauges {
        let shared = &self.0.shared;
        Gauges {
            queued: shared.queue.waiting(),
            keygen_queued: shared.keygen.waiting(),
            workers: shared.pool.active(),
            sessions_replaced: shared.replaced.load(Ordering::Relaxed),
            errors: shared.errors.read(),
            debris: shared.handles.debris(),
            duplicates: shared.handles.duplicates(),
            health: shared.health(),
        }
    }

    fn changes(&self) -> Vec<Change> {
        self.0.shared.breaker.changes()
    }

    fn doom(&self) -> Option<String> {
        self.0.shared.doom.get().map(|reason| (*reason).to_owned())
    }

    fn place(&self, places: Vec<(MaterialId, Vec<u8>)>) {
        let foreign = places
            .into_iter()
            .filter(|(material, id)| *id != material.cka_id() || self.0.shared.handles.placed(*material).is_some());
        self.0.shared.handles.place(foreign.collect());
    }

    fn give_up(&self, material: MaterialId) {
        self.0.shared.handles.give_up(material);
    }

    fn close(&self) {
        self.end();
    }

    fn group(&self) -> Option<&dyn TokenGroup> {
        None
    }
}
