//! What is known of a token in worker processes, over all of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::link::Fault;
use crate::token::breaker::{BreakerState, Cause, Change, Health as Recovery, LastError};
use crate::token::call::About;
use crate::token::frame::Health;
use crate::token::handles::Proofs;
use crate::token::{ErrorClass, PinGuard, TokenError};

/// A worker's epochs begin anew: the upper half of an epoch says which worker's it is.
pub(super) const EPOCH_BITS: u32 = 32;
/// Changes that are kept until somebody asks for them.
const CHANGES: usize = 64;

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) about: Option<Arc<About>>,
    pub(super) health: Option<Health>,
    /// Sessions that earlier workers replaced.
    pub(super) replaced: u64,
    /// C_Initialize of earlier workers beyond their first.
    pub(super) initializations: u64,
    pub(super) outages: u64,
    pub(super) outage: Option<Outage>,
    /// What happened to the token, until somebody asks.
    pub(super) changes: VecDeque<Change>,
    /// PINs that a worker may ask for; the first is the token's, another one is being tried.
    pub(super) pins: Vec<(u64, Arc<dyn PinGuard>)>,
    /// What the bridge's own keys are, as the last worker has seen them.
    pub(super) proofs: Proofs,
}

/// From the end of one worker to the next that connects.
pub(super) struct Outage {
    since: Instant,
    /// Tries that failed.
    tries: u32,
    first: LastError,
    last: LastError,
}

#[derive(Clone)]
pub(super) enum Phase {
    /// Requests wait for the worker.
    Starting,
    Ready,
    /// Requests are refused with this, until a worker connects.
    Down(TokenError),
    Closed,
}

impl State {
    pub(super) fn new(pin: Arc<dyn PinGuard>) -> State {
        State {
            phase: Phase::Starting,
            about: None,
            health: None,
            replaced: 0,
            initializations: 0,
            outages: 0,
            outage: None,
            changes: VecDeque::new(),
            pins: vec![(0, pin)],
            proofs: Proofs::default(),
        }
    }

    /// The worker that was connected has ended.
    pub(super) fn lost(&mut self, fault: &Fault) {
        if let Some(health) = self.health.take() {
            self.replaced += health.sessions_replaced;
            self.outages += health.recovery.outages;
            self.initializations += health.recovery.initializations;
        }
        if !matches!(fault, Fault::Closing) {
            let error = LastError::of(&fault.error());
            let cause = if matches!(fault, Fault::Hung(_)) { Cause::Hung } else { Cause::Lost };
            self.outages += 1;
            self.outage = Some(Outage { since: Instant::now(), tries: 0, first: error.clone(), last: error.clone() });
            self.happened(Change::Down { cause, error });
        }
        if matches!(self.phase, Phase::Ready) {
            self.phase = Phase::Starting;
        }
    }

    /// A try to connect failed.
    pub(super) fn failed(&mut self, error: &TokenError) {
        if let Some(outage) = &mut self.outage {
            outage.tries += 1;
            outage.last = LastError::of(error);
        }
    }

    /// A worker is connected.
    pub(super) fn found(&mut self, generation: u64, about: About) {
        if let Some(outage) = self.outage.take() {
            self.happened(Change::Recovered {
                lasted: outage.since.elapsed(),
                tries: outage.tries,
                initializations: 1,
                epoch: generation << EPOCH_BITS,
                first: outage.first,
                last: outage.last,
            });
        }
        self.about = Some(Arc::new(about));
        self.phase = Phase::Ready;
    }

    pub(super) fn happened(&mut self, change: Change) {
        if self.changes.len() >= CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// How the token is, over all its workers.
    pub(super) fn recovery(&self, generation: u64) -> Recovery {
        let inner = self.health.as_ref().map(|health| health.recovery.clone()).unwrap_or_default();
        let (breaker, refused) = match &self.phase {
            Phase::Ready => (inner.breaker, inner.refused),
            Phase::Starting => (BreakerState::Trying, false),
            Phase::Down(error) => (BreakerState::Open, error.class == ErrorClass::Operator),
            Phase::Closed => (BreakerState::Open, false),
        };
        let outage = self.outage.as_ref();
        Recovery {
            breaker,
            refused,
            outages: self.outages + inner.outages,
            tries: outage.map_or(inner.tries, |outage| outage.tries),
            last_error: outage.map(|outage| outage.last.clone()).or(inner.last_error),
            epoch: (generation << EPOCH_BITS) | inner.epoch,
            initializations: self.initializations + inner.initializations,
            ..inner
        }
    }
}
