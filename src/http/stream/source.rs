//! The records of one stream, from the files, with heartbeats between them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::Slot;
use crate::audit::follow::{Followed, Follower, Kind, heartbeat};
use crate::authn::{Caller, still_valid};
use crate::authz::{self, Environment};
use crate::http::pipeline::{Services, fair_share_of};
use crate::http::request::Source;
use crate::http::sheet::Scene;
use crate::ids::KeyId;
use crate::ops::identity::SnapshotDirectory;
use crate::ops::{AuditRequest, StreamRequest, Task};

/// Silence is never longer than this.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often it is asked whether the reader may still read.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// A piece is ended by the line with which it reaches this.
const PIECE: usize = 64 * 1024;
/// What is written within this time comes in one piece: readers at the end of a busy log do not wake up for each record.
const GATHER: Duration = Duration::from_millis(20);

pub(super) struct Records {
    services: Arc<Services>,
    caller: Caller,
    environment: Environment,
    request: StreamRequest,
    durable: watch::Receiver<u64>,
    /// Away while a thread reads.
    follower: Option<Follower>,
    heartbeat: Instant,
    ask_again: Instant,
    _slot: Slot,
}

impl Records {
    pub fn new(
        services: Arc<Services>,
        caller: Caller,
        scene: &Scene,
        from_seq: u64,
        ndjson: bool,
        slot: Slot,
    ) -> Records {
        let environment = Environment {
            now: (services.now)(),
            source_ip: scene.source_ip,
            secure_transport: scene.tls.is_some(),
            user_agent: scene.user_agent.clone(),
            region: services.ops.locality().region.clone(),
        };
        Records {
            caller,
            environment,
            request: StreamRequest { from_seq: Some(from_seq), ndjson },
            durable: services.journal.watch_durable(),
            follower: Some(Follower::new(&services.audit_dir, from_seq)),
            // At once: the reader learns where it is.
            heartbeat: Instant::now(),
            ask_again: Instant::now() + ASK_AGAIN,
            services,
            _slot: slot,
        }
    }

    async fn piece(&mut self) -> Option<Bytes> {
        loop {
            if self.ask_again <= Instant::now() {
                self.ask_again = Instant::now() + ASK_AGAIN;
                if !self.may_still_read() {
                    tracing::info!(
                        caller = self.caller.arn(),
                        "a stream of the log ends: its reader may not read any more"
                    );
                    return None;
                }
            }
            let beat = self.heartbeat <= Instant::now();
            let piece = match self.read(beat).await {
                Ok(piece) => piece,
                Err(error) => {
                    tracing::error!(%error, "a stream of the log ends: the journal cannot be read");
                    return None;
                }
            };
            if !piece.is_empty() {
                return Some(piece.into());
            }
            tokio::select! {
                changed = self.durable.changed() => {
                    changed.ok()?;
                    sleep(GATHER).await;
                }
                () = sleep_until(self.heartbeat.min(self.ask_again)) => {}
            }
        }
    }

    /// What is there, up to a piece's size; with a heartbeat at its end if that is due.
    async fn read(&mut self, beat: bool) -> io::Result<Vec<u8>> {
        let Some(mut follower) = self.follower.take() else { return Err(io::ErrorKind::Other.into()) };
        let durable = *self.durable.borrow_and_update();
        let (ndjson, now, dir) = (self.request.ndjson, (self.services.now)(), self.services.audit_dir.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::new();
            while piece.len() < PIECE
                && let Some(followed) = follower.next(durable)?
            {
                write(&mut piece, &followed, ndjson);
            }
            if beat {
                let line = heartbeat(&dir, follower.position(), durable, now);
                let written = if ndjson { format!("{line}\n") } else { format!("event: heartbeat\ndata: {line}\n\n") };
                piece.extend_from_slice(written.as_bytes());
            }
            io::Result::Ok((follower, piece))
        });
        let (follower, piece) = read.await.map_err(io::Error::other)??;
        self.follower = Some(follower);
        if beat {
            self.heartbeat = Instant::now() + HEARTBEAT;
        }
        Ok(piece)
    }

    /// The same question as at the opening, of what is stored now.
    fn may_still_read(&self) -> bool {
        let (services, caller) = (&self.services, &self.caller);
        let now = (services.now)();
        if !still_valid(caller, &SnapshotDirectory(services.ops.store().snapshot()), now / 1000) {
            return false;
        }
        let task = Task::Audit(AuditRequest::Stream(self.request.clone()));
        let no_key = KeyId::new([0; 16], false);
        let Ok(resolved) = services.ops.resolve(task, caller.account(), &fair_share_of(caller), no_key) else {
            return false;
        };
        let environment = Environment { now, ..self.environment.clone() };
        authz::decide(caller.clone(), resolved, environment, &services.rules).is_ok()
    }
}

impl Source for Records {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Option<Bytes>> + Send + '_>> {
        Box::pin(self.piece())
    }
}

/// A line of the journal has no line ends and no other control characters in it, so it is one `data` field as it is.
pub(super) fn write(piece: &mut Vec<u8>, followed: &Followed, ndjson: bool) {
    if ndjson {
        piece.extend_from_slice(&followed.line);
        piece.push(b'\n');
        return;
    }
    let event = match followed.kind {
        Kind::Checkpoint => "checkpoint",
        Kind::Record | Kind::Intent => "record",
    };
    piece.extend_from_slice(format!("id: {}\nevent: {event}\ndata: ", followed.seq).as_bytes());
    piece.extend_from_slice(&followed.line);
    piece.extend_from_slice(b"\n\n");
}
