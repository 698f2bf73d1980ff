//! The server: listeners, routes, the way of a request to the handler and back, and the drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinError;

use super::connection::{Arrival, Limits, Mode, NoteRefusal, Refusals, Shared, refused};
use super::guard::{self, Refusal};
use super::health::{self, Probe};
use super::listeners::Listener;
use super::metrics::Metrics;
use super::pump;
use super::request::{Handler, Reply, http_response, wire_request};
use super::tls::{Certificate, TlsError};

pub use super::tls::TlsFiles;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    pub address: SocketAddr,
    pub tls: Option<TlsFiles>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    pub listeners: Vec<ListenerSettings>,
    /// Plain HTTP on an address that other machines reach: signatures protect requests, nothing hides plaintexts.
    pub danger_plain_http_beyond_loopback: bool,
    pub max_body_bytes: usize,
    /// Request line and headers together.
    pub max_header_bytes: usize,
    /// From the start of a head to its end; a TLS handshake may take as long.
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    /// For the handler. Its work goes on when the time is over; only the answer does not wait.
    pub request_timeout: Duration,
    /// Between requests on one connection.
    pub idle_timeout: Duration,
    /// Over all listeners; further connections wait.
    pub max_connections: usize,
    /// How long requests in flight may take after the shutdown began.
    pub drain: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            danger_plain_http_beyond_loopback: false,
            max_body_bytes: 1 << 20,
            max_header_bytes: 16 << 10,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(20),
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            max_connections: 1024,
            drain: Duration::from_secs(25),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "plain HTTP on `{address}`, which is not a loopback address: give the listener a certificate, or turn \
         `danger_plain_http_beyond_loopback` on"
    )]
    PlainBeyondLoopback { address: SocketAddr },
    #[error("cannot listen on `{address}`: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every request was finished and every connection closed.
    Finished,
    /// Time was over; what was left was cut off.
    CutOff,
}

/// Reads certificates again. Cheap to clone; works while the server runs.
#[derive(Clone)]
pub struct TlsReloader(Arc<[Arc<Certificate>]>);

impl TlsReloader {
    /// Tries every listener; the first error is returned, and a listener with a bad file keeps its old certificate.
    pub fn reload(&self) -> Result<(), TlsError> {
        let mut outcome = Ok(());
        for certificate in self.0.iter() {
            outcome = outcome.and(certificate.reload());
        }
        outcome
    }
}

pub struct Server {
    listeners: Vec<Listener>,
    certificates: TlsReloader,
    settings: ServerSettings,
    metrics: Arc<Metrics>,
    noted: Option<NoteRefusal>,
    probe: Probe,
}

impl Server {
    /// Opens all listeners or none. Connections wait until `run`.
    pub async fn bind(settings: ServerSettings) -> Result<Server, ServeError> {
        let mut listeners = Vec::with_capacity(settings.listeners.len());
        let mut certificates = Vec::new();
        for listener in &settings.listeners {
            let (listener, certificate) = Listener::bind(listener, settings.danger_plain_http_beyond_loopback).await?;
            listeners.push(listener);
            certificates.extend(certificate);
        }
        Ok(Server {
            listeners,
            certificates: TlsReloader(certificates.into()),
            settings,
            metrics: Arc::new(Metrics::new()),
            noted: None,
            probe: health::unknown(),
        })
    }

    #[must_use]
    pub fn with_metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Who is told of requests that the transport itself refuses.
    #[must_use]
    pub fn with_refusals(mut self, noted: NoteRefusal) -> Self {
        self.noted = Some(noted);
        self
    }

    /// What `/readyz` answers; without this it is 503.
    #[must_use]
    pub fn with_readiness(mut self, probe: Probe) -> Self {
        self.probe = probe;
        self
    }

    /// In the order of the settings; the ports are the real ones where 0 was asked for.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(Listener::address).collect()
    }

    pub fn tls_reloader(&self) -> TlsReloader {
        self.certificates.clone()
    }

    /// Serves the API until `shutdown` is true or its sender is gone, then drains.
    pub async fn run<H: Handler>(self, handler: Arc<H>, shutdown: watch::Receiver<bool>) -> Drained {
        let api = Api { handler, limits: self.limits(), refusals: self.refusals() };
        let router = health::public(self.probe.clone()).fallback(move |request: Request| api.clone().answer(request));
        self.serve(router, shutdown).await
    }

    /// Serves `/healthz`, `/readyz` and `/metrics` instead of the API.
    pub async fn run_admin(self, shutdown: watch::Receiver<bool>) -> Drained {
        let router = health::admin(self.probe.clone(), self.metrics.clone());
        self.serve(router, shutdown).await
    }

    async fn serve(self, router: Router, mut shutdown: watch::Receiver<bool>) -> Drained {
        let (limits, drain) = (self.limits(), self.settings.drain);
        let refusals = self.refusals();
        let shared = Arc::new(Shared { limits, router, metrics: self.metrics, refusals });
        let places = Arc::new(Semaphore::new(self.settings.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let (mode, _) = watch::channel(Mode::Serving);
        let (alive, mut all_gone) = mpsc::channel(1);
        for listener in self.listeners {
            tokio::spawn(listener.accept(shared.clone(), places.clone(), mode.subscribe(), alive.clone()));
        }
        drop(alive);

        let _ = shutdown.wait_for(|stop| *stop).await;
        mode.send_replace(Mode::Draining);
        // Nothing is ever sent: the channel ends when the last connection and the last handler have dropped their end.
        match tokio::time::timeout(drain, all_gone.recv()).await {
            Ok(_) => Drained::Finished,
            Err(_) => {
                mode.send_replace(Mode::Cut);
                Drained::CutOff
            }
        }
    }

    fn refusals(&self) -> Refusals {
        Refusals { metrics: self.metrics.clone(), noted: self.noted.clone() }
    }

    fn limits(&self) -> Limits {
        let of = &self.settings;
        Limits {
            max_body_bytes: of.max_body_bytes,
            max_header_bytes: of.max_header_bytes,
            header_timeout: of.header_timeout,
            body_timeout: of.body_timeout,
            request_timeout: of.request_timeout,
            idle_timeout: of.idle_timeout,
        }
    }
}

struct Api<H> {
    handler: Arc<H>,
    limits: Limits,
    refusals: Refusals,
}

impl<H> Clone for Api<H> {
    fn clone(&self) -> Self {
        Self { handler: self.handler.clone(), limits: self.limits, refusals: self.refusals.clone() }
    }
}

impl<H: Handler> Api<H> {
    async fn answer(self, request: Request) -> Response {
        let (mut parts, body) = request.into_parts();
        let version = parts.version;
        let Some(arrival) = parts.extensions.remove::<Arrival>() else {
            return Refusal::INTERNAL.response(version);
        };
        let request_id = arrival.request_id.clone();
        let source = arrival.origin.source_ip;
        let refuse = |refusal: Refusal| refused(&self.refusals, &refusal, source, &request_id, version);

        let reading = async {
            // An absent length on HTTP/2 may turn out to be any; on HTTP/1.1 it is none.
            let expected = arrival.declared_length.unwrap_or(self.limits.max_body_bytes);
            let room = match arrival.bodies {
                Some(bodies) => bodies.acquire_many_owned(guard::kib(expected)).await.ok(),
                None => None,
            };
            let body = guard::read_body(body, arrival.declared_length, self.limits.max_body_bytes).await?;
            Ok((body, room))
        };
        let (body, room) = match tokio::time::timeout(self.limits.body_timeout, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(refusal)) => return refuse(refusal),
            Err(_) => return refuse(Refusal::TOO_SLOW),
        };

        // A task of its own: the work and its audit record are finished even if the client hangs up or time is over.
        let handler = self.handler.clone();
        let (activity, mode) = (arrival.activity, arrival.mode);
        // Boxed: the runtime moves a new task several times, and this one has the whole pipeline's state.
        let task = tokio::spawn(Box::pin(async move {
            let (_alive, _room) = (arrival.alive, room);
            let request = wire_request(parts, body, arrival.request_id, &arrival.origin, arrival.received);
            handler.handle(request).await
        }));
        match tokio::time::timeout(self.limits.request_timeout, task).await {
            Ok(Ok(Reply::Whole(reply))) => http_response(reply),
            Ok(Ok(Reply::Stream(reply))) => pump::response(reply, activity, mode),
            Ok(Err(error)) => {
                tracing::error!(request_id = &*request_id, "handler failed: {}", panic_text(error));
                refuse(Refusal::INTERNAL)
            }
            Err(_) => {
                tracing::warn!(request_id = &*request_id, "no answer in time: the work goes on in the background");
                // Its record is written when it is done: it is not one that was turned away.
                self.refusals.metrics.refused(Refusal::NO_ANSWER_IN_TIME.code);
                Refusal::NO_ANSWER_IN_TIME.response(version)
            }
        }
    }
}

fn panic_text(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => {
                payload.downcast_ref::<&str>().map_or_else(|| "panic".to_owned(), |text| (*text).to_owned())
            }
        },
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
