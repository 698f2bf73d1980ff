//! What answers the listeners before the service can: the token is away, and nothing can be authenticated without it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::aws::{AwsHandler, without_token};
use super::health::{Probe, Readiness};
use super::metrics::Metrics;
use super::pipeline::Services;
use super::request::{Handler, Reply, WireRequest};
use crate::audit::{Event, Strangers};

/// Rows of its own table of strangers.
const ROWS: usize = 64;

/// Answers requests with an error that clients try again, until it is given the service.
pub struct Switch {
    served: OnceLock<(Arc<Services>, Probe)>,
    region: String,
    metrics: Arc<Metrics>,
    /// Nobody can be authenticated: all are strangers.
    strangers: Strangers,
    reason: Mutex<String>,
}

impl Switch {
    pub fn new(region: String, metrics: Arc<Metrics>) -> Switch {
        let reason = Mutex::new("the service is starting".to_owned());
        Switch { served: OnceLock::new(), region, metrics, strangers: Strangers::new(ROWS), reason }
    }

    /// For `/readyz`: no path, no `CKR_`.
    pub fn say(&self, reason: &str) {
        reason.clone_into(&mut self.reason.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// From now on the service answers.
    pub fn serve(&self, services: Arc<Services>, probe: Probe) {
        let _ = self.served.set((services, probe));
    }

    /// What was asked before, as records.
    pub fn strangers(&self, account: &str, now_ms: i64, window: Duration) -> Vec<Event> {
        self.strangers.drain(&self.region, account, now_ms, window)
    }

    /// A request that the transport refused.
    pub fn note(&self, code: &'static str, source: IpAddr) {
        let strangers = self.served.get().map_or(&self.strangers, |(services, _)| &services.strangers);
        strangers.note(code, &source.to_string(), None, None);
    }

    pub fn readiness(&self) -> Readiness {
        match self.served.get() {
            Some((_, probe)) => probe(),
            None => {
                let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Readiness { ready: false, reasons: vec![reason] }
            }
        }
    }
}

impl Handler for Switch {
    async fn handle(&self, request: WireRequest) -> Reply {
        match self.served.get() {
            Some((services, _)) => AwsHandler(services.clone()).handle(request).await,
            None => {
                let (source, received) = (request.source_ip.to_string(), request.received);
                let (operation, code, reply) = without_token(request, &self.region);
                self.strangers.note(code, &source, operation, None);
                self.metrics.observe(operation.unwrap_or("Unknown"), code, received.elapsed().as_secs_f64());
                reply.into()
            }
        }
    }
}
