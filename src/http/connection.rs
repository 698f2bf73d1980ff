//! One connection from accept to close: handshake, HTTP/1.1 or HTTP/2, time limits, drain.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::guard::{self, Refusal};
use super::limits::{Activity, Phase};
use super::metrics::Metrics;
use super::parse_errors::{OnRefusal, Watched, too_slow};
use super::request::{Origin, new_request_id, stamp};
use super::tls;

/// Held by whatever has to end before the drain is over.
pub(super) type Alive = mpsc::Sender<std::convert::Infallible>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Serving,
    /// Requests in flight finish, connections close.
    Draining,
    /// The drain's time is over.
    Cut,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub max_body_bytes: usize,
    pub max_header_bytes: usize,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub request_timeout: Duration,
    pub idle_timeout: Duration,
}

/// What all connections of a server share.
pub(super) struct Shared {
    pub limits: Limits,
    pub router: Router,
    pub metrics: Arc<Metrics>,
    pub refusals: Refusals,
}

/// Told of each request that the transport itself refuses, by its code and where it came from.
pub type NoteRefusal = Arc<dyn Fn(&'static str, IpAddr) + Send + Sync>;

/// What the transport refuses, before anybody is asked who they are: in the metrics, and told to whoever keeps the log.
#[derive(Clone)]
pub(super) struct Refusals {
    pub metrics: Arc<Metrics>,
    pub noted: Option<NoteRefusal>,
}

impl Refusals {
    pub fn note(&self, code: &'static str, source: IpAddr) {
        self.metrics.refused(code);
        self.noted(code, source);
    }

    pub fn tls_handshake_failed(&self, source: IpAddr) {
        self.metrics.tls_handshake_failed();
        self.noted("TlsHandshakeFailure", source);
    }

    fn noted(&self, code: &'static str, source: IpAddr) {
        if let Some(noted) = &self.noted {
            noted(code, source);
        }
    }
}

/// What the routes are told of a request beside the request itself.
#[derive(Clone)]
pub(super) struct Arrival {
    pub origin: Arc<Origin>,
    pub request_id: Arc<str>,
    pub received: Instant,
    pub declared_length: Option<usize>,
    /// KiB of bodies that the connection may still have in flight; HTTP/2 only.
    pub bodies: Option<Arc<Semaphore>>,
    pub alive: Alive,
    /// For answers that do not end by themselves.
    pub activity: Arc<Activity>,
    pub mode: watch::Receiver<Mode>,
}

/// HTTP/2 streams that a client may have open at a time.
const MAX_STREAMS: u32 = 64;
/// Bodies of the largest size that one HTTP/2 connection may have in flight; further streams wait. Without this a connection
/// could hold as many as it has streams, and the limit of connections would bound little.
const LARGE_BODIES: usize = 2;
/// How long a closing HTTP/2 connection may take to hear of it.
const GOAWAY_GRACE: Duration = Duration::from_secs(5);
/// How long, and for how many bytes, a refused sender is heard out so that it can read the answer.
const LINGER: (Duration, u64) = (Duration::from_secs(2), 16 << 20);

pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    mut mode: watch::Receiver<Mode>,
    alive: Alive,
) {
    let source_ip = peer.ip().to_canonical();
    let Some(acceptor) = acceptor else {
        let origin = Origin { source_ip, tls: None };
        return serve_http1(shared, stream, origin, mode, alive).await;
    };
    let handshake = tokio::time::timeout(shared.limits.header_timeout, acceptor.accept(stream));
    let accepted = tokio::select! {
        accepted = handshake => accepted,
        _ = mode.wait_for(|mode| *mode != Mode::Serving) => return,
    };
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.refusals.tls_handshake_failed(source_ip);
            tracing::debug!(%source_ip, "TLS handshake failed: {error}");
            return;
        }
        Err(_) => {
            shared.refusals.tls_handshake_failed(source_ip);
            tracing::debug!(%source_ip, "TLS handshake took too long");
            return;
        }
    };
    let (_, session) = stream.get_ref();
    let origin = Origin { source_ip, tls: tls::facts(session).map(Arc::new) };
    // RULE RFC 9113 §3.2, §3.3: HTTP/2 only where ALPN chose it; never by prior knowledge.
    if session.alpn_protocol() == Some(tls::ALPN_HTTP2) {
        serve_http2(shared, stream, origin, mode, alive).await;
    } else {
        serve_http1(shared, stream, origin, mode, alive).await;
    }
}

async fn serve_http1<S>(shared: Arc<Shared>, stream: S, origin: Origin, mut mode: watch::Receiver<Mode>, alive: Alive)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// The smallest buffer that the HTTP library allows; the header limit itself is exact.
    const SMALLEST_BUFFER: usize = 8192;
    let limits = shared.limits;
    let activity = Arc::new(Activity::new(false));
    let (refusals, source_ip) = (shared.refusals.clone(), origin.source_ip);
    let noted = refusals.clone();
    let refused: OnRefusal = Box::new(move |code| noted.note(code, source_ip));
    let io = TokioIo::new(Watched::new(stream, activity.clone(), Some(refused)));
    let service = service(shared, Arc::new(origin), activity.clone(), None, alive, mode.clone());
    let mut connection = http1::Builder::new()
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(limits.max_header_bytes.max(SMALLEST_BUFFER))
        .header_read_timeout(None)
        .serve_connection(io, service);

    let mut draining = false;
    let timer = tokio::time::sleep(limits.header_timeout);
    tokio::pin!(timer);
    loop {
        tokio::select! {
            biased;
            result = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                if let Err(error) = result {
                    tracing::debug!("HTTP/1.1 connection ended: {error}");
                }
                let mut stream = connection.into_parts().io.into_inner();
                close(&mut stream, activity.was_refused()).await;
                return;
            }
            changed = mode.changed() => match *mode.borrow_and_update() {
                Mode::Cut => return,
                _ if changed.is_err() => return,
                _ if activity.phase() == Phase::Fresh => return,
                _ => {
                    draining = true;
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                }
            },
            () = activity.was_cut() => return,
            () = &mut timer => {
                match activity.deadline(limits.header_timeout, limits.idle_timeout) {
                    None => timer.as_mut().reset((Instant::now() + limits.header_timeout.min(limits.idle_timeout)).into()),
                    Some(deadline) if deadline > Instant::now() => timer.as_mut().reset(deadline.into()),
                    Some(_) => {
                        let late_head = activity.phase() == Phase::Head;
                        let mut stream = connection.into_parts().io.into_inner();
                        if late_head {
                            refusals.note(Refusal::TOO_SLOW.code, source_ip);
                            let _ = tokio::time::timeout(LINGER.0, stream.write_all(&too_slow())).await;
                        }
                        close(&mut stream, late_head && !draining).await;
                        return;
                    }
                }
            }
        }
    }
}

async fn serve_http2<S>(shared: Arc<Shared>, stream: S, origin: Origin, mut mode: watch::Receiver<Mode>, alive: Alive)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = shared.limits;
    let activity = Arc::new(Activity::new(true));
    let io = TokioIo::new(Watched::new(stream, activity.clone(), None));
    let bodies = Arc::new(Semaphore::new(guard::kib(limits.max_body_bytes) as usize * LARGE_BODIES));
    let service = service(shared, Arc::new(origin), activity.clone(), Some(bodies), alive, mode.clone());
    // Heads between our limit and four times as much get our answer with its request id; larger ones the library's bare 431.
    let largest_head = u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX).saturating_mul(4);
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(largest_head)
        .serve_connection(io, service);

    tokio::pin!(connection);
    let mut closing = false;
    let timer = tokio::time::sleep(limits.header_timeout);
    tokio::pin!(timer);
    loop {
        tokio::select! {
            biased;
            result = &mut connection => {
                if let Err(error) = result {
                    tracing::debug!("HTTP/2 connection ended: {error}");
                }
                return;
            }
            changed = mode.changed() => match *mode.borrow_and_update() {
                Mode::Cut => return,
                _ if changed.is_err() => return,
                _ => connection.as_mut().graceful_shutdown(),
            },
            () = activity.was_cut() => return,
            () = &mut timer => {
                match activity.deadline(limits.header_timeout, limits.idle_timeout) {
                    None => timer.as_mut().reset((Instant::now() + limits.idle_timeout).into()),
                    Some(deadline) if deadline > Instant::now() => timer.as_mut().reset(deadline.into()),
                    Some(_) if closing => return,
                    Some(_) => {
                        closing = true;
                        connection.as_mut().graceful_shutdown();
                        timer.as_mut().reset((Instant::now() + GOAWAY_GRACE).into());
                    }
                }
            }
        }
    }
}

type Answer = std::pin::Pin<Box<dyn Future<Output = Result<Response, std::convert::Infallible>> + Send>>;

fn service(
    shared: Arc<Shared>,
    origin: Arc<Origin>,
    activity: Arc<Activity>,
    bodies: Option<Arc<Semaphore>>,
    alive: Alive,
    mode: watch::Receiver<Mode>,
) -> impl hyper::service::Service<
    hyper::Request<Incoming>,
    Response = Response,
    Error = std::convert::Infallible,
    Future = Answer,
> + Unpin
+ Clone
+ Send {
    service_fn(move |request: hyper::Request<Incoming>| -> Answer {
        let (shared, activity) = (shared.clone(), activity.clone());
        let (origin, bodies, alive, mode) = (origin.clone(), bodies.clone(), alive.clone(), mode.clone());
        Box::pin(async move {
            let _busy = activity.request();
            let (received, request_id) = (Instant::now(), new_request_id());
            let (mut parts, body) = request.into_parts();
            let limits = &shared.limits;
            let checked = guard::check_head(&parts, limits.max_header_bytes, limits.max_body_bytes);
            let mut response = match checked {
                Err(refusal) => refused(&shared.refusals, &refusal, origin.source_ip, &request_id, parts.version),
                Ok(declared_length) => {
                    let request_id = request_id.clone();
                    let activity = activity.clone();
                    let arrival =
                        Arrival { origin, request_id, received, declared_length, bodies, alive, activity, mode };
                    parts.extensions.insert(arrival);
                    let request = hyper::Request::from_parts(parts, Body::new(body));
                    let Ok(response) = shared.router.clone().call(request).await;
                    response
                }
            };
            if response.headers().contains_key(::http::header::CONNECTION) {
                activity.refuse();
            }
            stamp(&mut response, &request_id);
            Ok(response)
        })
    })
}

pub(super) fn refused(
    refusals: &Refusals,
    refusal: &Refusal,
    source: IpAddr,
    request_id: &str,
    version: ::http::Version,
) -> Response {
    refusals.note(refusal.code, source);
    tracing::debug!(request_id, code = refusal.code, "request refused: {}", refusal.message);
    refusal.response(version)
}

/// Closes the write side first. Closing both with unread bytes would reset the connection, and the peer would never see the
/// answer: a refused sender is heard out for a moment.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, hear_out: bool) {
    let (time, bytes) = LINGER;
    let ending = async {
        if stream.shutdown().await.is_ok() && hear_out {
            let _ = tokio::io::copy(&mut stream.take(bytes), &mut tokio::io::sink()).await;
        }
    };
    let _ = tokio::time::timeout(time, ending).await;
}
