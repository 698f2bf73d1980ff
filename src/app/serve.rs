//! The running service: listeners, timers, signals, and the orderly end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::away::{Front, Listening, connect_patiently, open_patiently};
use super::{
    App, AppError, Opened, StartOptions, access_key_uses, audit_directory, audit_office, audit_sinks, clock_file,
    last_use, members, now_ms, open_files, operator_socket, runtime, sealing, session_keys, settle, state_snapshots,
    token_health, token_watch, tokens,
};
use crate::audit::{AuditError, Load};
use crate::config::Config;
use crate::http::metrics::Readings;
use crate::http::{ListenerSettings, Metrics, Readiness, Server, ServerSettings, Services, TlsFiles, operator};
use crate::ids::KeyId;
use crate::keystore::Status;
use crate::ops::clock::Look;
use crate::sinks::Sinks;
use crate::token::BreakerState;

/// How often strangers are written down, and the length of their window.
const STRANGERS_WINDOW: Duration = Duration::from_secs(60);
/// How often keys are looked for whose GCM budget is used up to `rotation.at_usage`, beside the word of the budget itself.
const USAGE_LOOK: Duration = Duration::from_secs(60);
/// The longest wait before a rotation that failed is tried again.
const ROTATION_LONGEST: Duration = Duration::from_secs(3600);
/// How long tasks may take to end where the token's library hangs.
const HUNG_PATIENCE: Duration = Duration::from_secs(5);
/// How long the last signatures may take. RULE hsm-config/hsm-bridge.service: the drain, these and the end of the token's workers
/// (7 s) are over before `TimeoutStopSec`.
const LAST_SIGNATURES: Duration = Duration::from_secs(10);
/// First and longest wait of a start without room for the log.
const NO_ROOM_FIRST: Duration = Duration::from_secs(1);
const NO_ROOM_LONGEST: Duration = Duration::from_secs(30);

/// What `dev` and tests learn once requests are answered.
pub struct Ready {
    pub addresses: Vec<SocketAddr>,
}

/// Serves until SIGTERM or SIGINT. `ready` is called once, when requests are answered.
pub async fn serve(
    config: Config,
    options: StartOptions,
    ready: impl FnOnce(&Ready) -> Result<(), AppError>,
) -> Result<(), AppError> {
    let (stop, stopped) = watch::channel(false);
    let stop = Arc::new(stop);
    let mut signals = Signals::new()?;
    // A server that is stopped while it starts has nothing to drain.
    let front = Front::new(&config, &stopped);
    let mut listening = None;
    let app = tokio::select! {
        opened = open_when_there_is_room(&config, &options, &front, &mut listening) => opened?,
        () = signals.end() => return Ok(()),
    };
    let services = app.services.clone();
    let mut listening = match listening {
        Some(listening) => listening,
        None => front.bind(&config).await?,
    };
    let socket = operator_socket::listen(&config.server.state_dir)?;
    let sinks = audit_sinks::start(&config, &services)?;
    feed(&app, audit_directory(&config), sinks.clone());

    let socket = tokio::spawn(operator_socket::serve(socket, services.clone()));
    let sweeper = tokio::spawn(sweep(services.clone(), config.clone(), stopped.clone()));
    let connector = tokio::spawn(tokens::connect_stores(services.clone(), stopped.clone()));
    let uses = tokio::spawn(last_use::keep(
        services.clone(),
        config.server.state_dir.clone(),
        audit_directory(&config),
        stopped.clone(),
    ));
    let index = tokio::spawn(audit_office::keep_index(app.index.clone(), services.journal.clone(), stopped.clone()));
    let sealer = tokio::spawn(sealing::keep(app.sealing.clone(), config.clone(), stopped.clone()));
    let access_keys = tokio::spawn(access_key_uses::keep(services.clone(), stopped.clone()));
    let (checkpoints, interval) = (app.checkpoints.clone(), config.audit.checkpoint_interval);
    let checkpointer = tokio::spawn({
        let stopped = stopped.clone();
        async move { checkpoints.keep(interval, stopped).await }
    });
    let strangers = tokio::spawn(write_strangers(services.clone(), stopped.clone()));
    let sessions = tokio::spawn(session_keys::keep(services.clone(), stopped.clone()));
    let anchors = tokio::spawn(app.anchors.clone().keep(stopped.clone()));
    let rotator = tokio::spawn(rotate_at_usage(services.clone(), stopped.clone()));
    let mut watchers = Vec::new();
    let patience = config.token.generate_deadline;
    watchers.push(tokio::spawn(members::watch(services.clone(), patience, stopped.clone())));
    watchers.push(tokio::spawn(state_snapshots::keep(services.clone(), config.clone(), stopped.clone())));
    for log in &config.token_logs {
        let collected =
            token_watch::collect(services.clone(), config.clone(), log.clone(), app.boot_seq, stopped.clone());
        watchers.push(tokio::spawn(collected));
    }
    if let Some(interval) = config.audit.reconcile_interval {
        let deadline = config.token.generate_deadline;
        watchers.push(tokio::spawn(token_watch::watch_objects(services.clone(), interval, deadline, stopped.clone())));
    }
    let (doomed, mut doom) = watch::channel(None);
    watchers.push(tokio::spawn(token_health::keep(services.clone(), patience, doomed, stopped.clone())));
    front.switch.serve(services.clone(), probe(&services, &stopped));
    listening.run();
    let Some(mut main) = listening.main() else { return Err(AppError::Listen("nobody answers".to_owned())) };
    // Who asked while the token was away.
    for row in front.switch.strangers(services.ops.locality().account.as_str(), now_ms(), STRANGERS_WINDOW) {
        services.journal.append(row).await?;
    }

    for address in &listening.addresses {
        tracing::info!(%address, "serving");
    }
    ready(&Ready { addresses: listening.addresses.clone() })?;

    let level = config.log.level.as_str();
    let mut hung = None;
    let failed = loop {
        tokio::select! {
            event = signals.next() => match event {
                Event::End => break None,
                Event::Level => runtime::next_level(level),
                Event::Reload => {
                    if let Err(error) = services.journal.rotate().await {
                        tracing::error!(%error, "the audit segment stays open");
                    }
                    match listening.reloader.reload() {
                        Ok(()) => tracing::info!("certificates read again, audit segment closed"),
                        Err(error) => tracing::error!(%error, "the old certificates stay"),
                    }
                }
            },
            reason = services.journal.failed() => break Some(reason),
            Ok(reason) = doom_of(&mut doom) => {
                tracing::error!(reason, "the token's library hangs: draining");
                hung = Some(reason);
                break None;
            }
            ended = &mut main => {
                tracing::error!(?ended, "the listeners ended");
                break None;
            }
        }
    };
    if let Some(reason) = &failed {
        tracing::error!(reason, "the audit log failed: draining");
    }
    // Stop accepting, let what is in flight finish, then write down what is left to say.
    let _ = stop.send(true);
    if !main.is_finished() {
        match main.await {
            Ok(drained) => tracing::info!(?drained, "drained"),
            Err(error) => tracing::error!(%error, "draining failed"),
        }
    }
    socket.abort();
    let tasks = async {
        let _ = sweeper.await;
        let _ = connector.await;
        let _ = rotator.await;
        let _ = anchors.await;
        let _ = sessions.await;
        let _ = strangers.await;
        let _ = uses.await;
        let _ = index.await;
        let _ = access_keys.await;
        let _ = checkpointer.await;
        for watcher in watchers {
            let _ = watcher.await;
        }
        let _ = sealer.await;
    };
    if let Some(reason) = hung {
        // Whatever asks the token waits in vain: the log is closed, and the process ends with its threads in the library.
        if tokio::time::timeout(HUNG_PATIENCE, tasks).await.is_err() {
            tracing::error!("what asks the token does not end");
        }
        last_use::save_at_end(&app);
        let last = services.journal.event("TokenHung", now_ms(), serde_json::json!({ "reason": reason }));
        let _ = services.journal.append(last).await;
        let _ = std::fs::remove_file(operator_socket::socket_path(&config.server.state_dir));
        trust_clock(&services, &config, now_ms());
        services.journal.close();
        return Err(AppError::Hung(reason));
    }
    tasks.await;
    last_use::save_at_end(&app);
    app.services.ops.write_access_key_uses().await;
    if let Some(admin) = listening.admin.take() {
        let _ = admin.await;
    }
    let _ = std::fs::remove_file(operator_socket::socket_path(&config.server.state_dir));
    trust_clock(&services, &config, now_ms());
    match failed {
        Some(reason) => {
            // Waits for the writer's last record, which says why.
            services.journal.close();
            Err(AppError::Audit(AuditError::Failed(reason)))
        }
        None => {
            let last = settle::system_event(&app, "Stop", None, serde_json::json!({}));
            let _ = app.services.journal.append(last).await;
            app.audit_keys.end_within(LAST_SIGNATURES);
            app.sealing.at_end().await;
            // Nothing of this run is left unsigned.
            let _ = app.checkpoints.write().await;
            // After the last checkpoint.
            app.anchors.write(Duration::ZERO).await;
            audit_sinks::finish(sinks).await;
            // Awaited: the file alone is the whole store then, without its write-ahead log, for whoever copies it.
            if let Err(error) = services.ops.store().clone().close().await {
                tracing::warn!(%error, "closing the store failed; its log is read at the next start");
            }
            app.close().await;
            Ok(())
        }
    }
}

async fn doom_of(doom: &mut watch::Receiver<Option<String>>) -> Result<String, watch::error::RecvError> {
    Ok(doom.wait_for(Option::is_some).await?.clone().unwrap_or_default())
}

/// Without room for the log there is no login: health and metrics only, and another try after a while.
async fn open_when_there_is_room(
    config: &Config,
    options: &StartOptions,
    front: &Front,
    listening: &mut Option<Listening>,
) -> Result<App, AppError> {
    let mut wait = NO_ROOM_FIRST;
    let mut health = None;
    loop {
        let opened: Result<Opened, AppError> = open_files(config, options).and_then(|opened| {
            opened.journal.admit(Load::DataPlane)?;
            Ok(opened)
        });
        let error = match opened {
            Ok(opened) => {
                if let Some(health) = health.take() {
                    let health: tokio::task::JoinHandle<_> = health;
                    // Its address is needed by the server proper.
                    health.abort();
                    let _ = health.await;
                }
                // What is wrong with a profile is told before the PIN is tried.
                let configured = tokens::configured(config)?;
                let token = connect_patiently(config, &opened.journal, front, listening).await?;
                let journal = opened.journal.clone();
                let open = async |token| {
                    App::open_with(config.clone(), configured, opened, token, front.metrics.clone(), options).await
                };
                return open_patiently(config, &journal, front, listening, token, open).await;
            }
            Err(AppError::Audit(error @ (AuditError::NoSpace { .. } | AuditError::LowSpace { .. }))) => error,
            Err(error) => return Err(error),
        };
        tracing::error!(%error, "not starting yet, next try in {} s", wait.as_secs());
        if health.is_none()
            && let Some(address) = config.metrics
        {
            let reason = error.to_string();
            let probe = Arc::new(move || Readiness { ready: false, reasons: vec![reason.clone()] });
            let server = bind_admin(config, address, Arc::new(Metrics::new()), probe).await?;
            health = Some(tokio::spawn(server.run_admin(front.stopped.clone())));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(NO_ROOM_LONGEST);
    }
}

/// Destroys keys whose window has passed, as long as the clock is to be trusted.
async fn sweep(services: Arc<Services>, config: Config, mut stopped: watch::Receiver<bool>) {
    loop {
        let now = now_ms();
        match services.ops.clock().look(now, Instant::now()) {
            Look::Jumped(_) => {
                let because = services.ops.clock().stopped_because().unwrap_or_default();
                tracing::error!(because, "no key is destroyed for 24 hours: see `hsm-bridge sweeper`");
            }
            Look::Resumed => tracing::warn!("the clock was steady for 24 hours: the sweeper goes on"),
            Look::Steady | Look::Waiting => {}
        }
        trust_clock(&services, &config, now);
        if services.ops.clock().stopped_because().is_none() {
            for key in services.ops.due_for_deletion(now) {
                match operator::delete_key(&services, key).await {
                    Ok(()) => tracing::info!(%key, "destroyed"),
                    Err(error) => tracing::error!(%key, %error, "not destroyed, another try follows"),
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(config.sweeper.interval) => {}
            // Keys of a key store that was not connected waited for it.
            () = services.ops.keystore().a_store_connects() => {}
            _ = stopped.changed() => return,
        }
    }
}

/// Gives aliases a new key before the old one's GCM budget ends. A rotation that fails is tried again, ever less often.
async fn rotate_at_usage(services: Arc<Services>, mut stopped: watch::Receiver<bool>) {
    let mut failed: HashMap<KeyId, (Instant, Duration)> = HashMap::new();
    loop {
        let due = services.ops.due_for_rotation();
        failed.retain(|key, _| due.contains(key));
        for key in due {
            if failed.get(&key).is_some_and(|(again, _)| Instant::now() < *again) {
                continue;
            }
            match operator::rotate_key(&services, key).await {
                Ok(()) => tracing::info!(%key, "rotated: its encryption budget is used up to the configured share"),
                Err(error) => {
                    let wait = failed.get(&key).map_or(USAGE_LOOK, |(_, wait)| (*wait * 2).min(ROTATION_LONGEST));
                    failed.insert(key, (Instant::now() + wait, wait));
                    tracing::error!(%key, %error, "not rotated, another try follows in {} s", wait.as_secs());
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(USAGE_LOOK) => {}
            () = services.ops.share_passed() => {}
            _ = stopped.changed() => return,
        }
    }
}

/// Notes the time for the next start, unless the clock is in doubt: then the next start has to be in doubt too.
fn trust_clock(services: &Services, config: &Config, now: i64) {
    if services.ops.clock().stopped_because().is_none() {
        let _ = clock_file::write(&config.server.state_dir, now);
    }
}

async fn write_strangers(services: Arc<Services>, mut stopped: watch::Receiver<bool>) {
    loop {
        let ended = tokio::select! {
            () = tokio::time::sleep(STRANGERS_WINDOW) => false,
            _ = stopped.changed() => true,
        };
        let here = services.ops.locality();
        let rows = services.strangers.drain(here.region.as_str(), here.account.as_str(), now_ms(), STRANGERS_WINDOW);
        for row in rows {
            if let Err(error) = services.journal.append(row).await {
                tracing::error!(%error, "strangers were not recorded");
            }
        }
        if ended {
            return;
        }
    }
}

/// `/readyz`: texts without paths or return values of the token.
fn probe(services: &Arc<Services>, stopped: &watch::Receiver<bool>) -> Arc<dyn Fn() -> Readiness + Send + Sync> {
    let (services, stopped) = (services.clone(), stopped.clone());
    Arc::new(move || {
        let mut reasons = Vec::new();
        if *stopped.borrow() {
            reasons.push("draining".to_owned());
        }
        if let Status::Down(reason) = services.ops.keystore().token().status() {
            reasons.push(format!("token: {reason}"));
        }
        if let Err(error) = services.journal.admit(Load::DataPlane) {
            reasons.push(format!("audit: {error}"));
        }
        Readiness { ready: reasons.is_empty(), reasons }
    })
}

/// Numbers that `/metrics` reads when it is asked.
fn feed(app: &App, audit_dir: PathBuf, sinks: Arc<Sinks>) {
    let (source, checkpoints) = (Arc::downgrade(&app.services), Arc::downgrade(&app.checkpoints));
    let sealing = app.sealing.clone();
    app.services.metrics.read_from(move || {
        let (Some(services), Some(checkpoints)) = (source.upgrade(), checkpoints.upgrade()) else {
            return Readings::default();
        };
        let token = services.ops.keystore().token();
        let gauges = token.gauges();
        let budgets = services.ops.budget_use();
        let sealed = sealing.numbers();
        let (of_members, unreplicated, failovers) = members::readings(&services);
        Readings {
            token_queue: gauges.queued as u64,
            token_sessions: gauges.workers as u64,
            token_sessions_replaced: gauges.sessions_replaced,
            token_errors: gauges.errors,
            token_ready: token.status() == Status::Ready,
            token_breaker: match gauges.health.breaker {
                BreakerState::Closed => 0,
                BreakerState::Trying => 1,
                BreakerState::Open => 2,
            },
            token_login_refused: gauges.health.refused,
            token_outages: gauges.health.outages,
            token_initializations: gauges.health.initializations,
            token_epoch: gauges.health.epoch,
            token_lost_threads: gauges.health.lost_threads as u64,
            token_idle_seconds: gauges.health.idle.map(|idle| idle.as_secs()),
            token_last_error: gauges
                .health
                .last_error
                .map(|error| (error.function, error.rv.unwrap_or_else(|| "none".to_owned()))),
            audit_failures: u64::from(services.journal.failure().is_some()),
            audit_low_space: services.journal.is_low(),
            audit_checkpoint_failures: checkpoints.failures(),
            audit_records: services.journal.durable(),
            audit_signed_records: checkpoints.covered(),
            audit_free_bytes: free_bytes(&audit_dir),
            audit_last_seal: sealed.last_seal,
            audit_last_digest: sealed.last_digest,
            audit_seal_failures: sealed.failures,
            audit_segments_held: sealed.held,
            keys: services.ops.keys_by_state(),
            key_stores: services.ops.keystore().by_state(),
            gcm_usage: vec![
                ("under_quarter", budgets.below_quarter),
                ("quarter", budgets.below_half),
                ("half", budgets.below_limit),
                ("reached", budgets.at_limit),
            ],
            unsettled: services.ops.unsettled(),
            streams: services.streams.open() as u64,
            sinks: audit_sinks::readings(&sinks, services.journal.durable()),
            members: of_members,
            unreplicated,
            failovers,
        }
    });
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(dir).ok()?;
    space.f_bavail.checked_mul(space.f_frsize)
}

pub(super) async fn bind(settings: ServerSettings) -> Result<Server, AppError> {
    Server::bind(settings).await.map_err(|error| AppError::Listen(error.to_string()))
}

pub(super) async fn bind_admin(
    config: &Config,
    address: SocketAddr,
    metrics: Arc<Metrics>,
    probe: Arc<dyn Fn() -> Readiness + Send + Sync>,
) -> Result<Server, AppError> {
    let settings = ServerSettings { listeners: vec![ListenerSettings { address, tls: None }], ..limits(config) };
    let admin = bind(settings).await?.with_metrics(metrics).with_readiness(probe);
    for address in admin.local_addrs() {
        tracing::info!(%address, "health and metrics");
    }
    Ok(admin)
}

fn limits(config: &Config) -> ServerSettings {
    let http = &config.http;
    ServerSettings {
        listeners: Vec::new(),
        danger_plain_http_beyond_loopback: http.danger_plain_http_beyond_loopback,
        max_body_bytes: http.max_body_bytes,
        max_header_bytes: http.max_header_bytes,
        header_timeout: http.header_timeout,
        body_timeout: http.body_timeout,
        request_timeout: http.request_timeout,
        idle_timeout: http.idle_timeout,
        max_connections: http.max_connections,
        drain: http.drain,
    }
}

pub(super) fn server_settings(config: &Config) -> ServerSettings {
    let listeners = config.listeners.iter().map(|listener| ListenerSettings {
        address: listener.address,
        tls: listener.tls.as_ref().map(|tls| TlsFiles { certificate: tls.certificate.clone(), key: tls.key.clone() }),
    });
    ServerSettings { listeners: listeners.collect(), ..limits(config) }
}

enum Event {
    /// SIGTERM, SIGINT
    End,
    /// SIGHUP
    Reload,
    /// SIGUSR1
    Level,
}

struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
    usr1: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, AppError> {
        let on = |kind| signal(kind).map_err(|e| AppError::Io(format!("signals: {e}")));
        Ok(Self {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
            hup: on(SignalKind::hangup())?,
            usr1: on(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.term.recv() => Event::End,
            _ = self.int.recv() => Event::End,
            _ = self.hup.recv() => Event::Reload,
            _ = self.usr1.recv() => Event::Level,
        }
    }

    async fn end(&mut self) {
        while !matches!(self.next().await, Event::End) {}
    }
}
