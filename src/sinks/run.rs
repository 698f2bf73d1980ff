//! One sink from its cursor on: read, send, note what was acknowledged, wait; and after a failure begin again from the cursor.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::{Backoff, chance};
use super::cursor::Cursor;
use super::delivery::{Batch, Delivery};
use super::{Batches, Notice, Phase, Settings, Status, Trail};
use crate::audit::follow::{Follower, Kind, heartbeat};

/// What is written within this time is sent together.
const GATHER: Duration = Duration::from_millis(50);
/// A sink that fails this long is worth a record.
const LONG: Duration = Duration::from_secs(60);

pub(super) async fn run(
    settings: Settings,
    mut trail: Trail,
    status: std::sync::Arc<Status>,
    mut phase: watch::Receiver<Phase>,
    notice: &(dyn Fn(Notice) + Send + Sync),
) {
    let mut health = Health { settings: &settings, status: &status, notice, since: None, told: false };
    let mut backoff = Backoff::new();
    let mut cursor = None;
    loop {
        let failure = match session(&settings, &mut trail, &mut cursor, &mut phase, &mut health, &mut backoff).await {
            Ok(()) => return,
            Err(failure) => failure,
        };
        let wait = backoff.next(chance());
        health.failed(&failure, wait, cursor.as_ref());
        tokio::select! {
            () = sleep(wait) => {}
            // Whoever fails now fails to finish as well.
            _ = phase.wait_for(|phase| *phase == Phase::Finish) => return,
        }
    }
}

/// From a connection to its failure; `Ok`: the service ends, and everything is sent.
async fn session(
    settings: &Settings,
    trail: &mut Trail,
    cursor: &mut Option<Cursor>,
    phase: &mut watch::Receiver<Phase>,
    health: &mut Health<'_>,
    backoff: &mut Backoff,
) -> Result<(), String> {
    let io = |error: io::Error| error.to_string();
    let cursor = match cursor {
        Some(cursor) => cursor,
        None => {
            let mut opened = Cursor::open(&trail.cursors, &settings.name, &trail.arn).map_err(io)?;
            if opened.next.is_none() {
                // A sink that is new keeps its beginning, even if its receiver is away for long.
                opened.save(if settings.from_oldest { 0 } else { *trail.durable.borrow() }).map_err(io)?;
            }
            cursor.insert(opened)
        }
    };
    let durable = *trail.durable.borrow();
    let mut from = cursor.next.unwrap_or(0);
    if from > durable {
        tracing::error!(
            sink = settings.name,
            acknowledged = from,
            records = durable,
            "the log has fewer records than the sink acknowledged: records are gone"
        );
        from = durable;
    }
    health.status.acknowledged.store(from, Ordering::Relaxed);
    let mut delivery = Delivery::open(&settings.target, &trail.arn).await?;
    let mut follower = Follower::new(&trail.dir, from);
    let mut beat = Instant::now() + trail.heartbeat;
    loop {
        let durable = *trail.durable.borrow_and_update();
        let batch = read(&mut follower, durable, settings.target.batches(), settings.intents).map_err(io)?;
        let acknowledged = if batch.records.is_empty() {
            if *phase.borrow() == Phase::Finish && follower.position() >= durable {
                delivery.close().await;
                return Ok(());
            }
            delivery.skipped(batch.next)
        } else {
            let acknowledged = delivery.send(&batch, (trail.now)()).await?;
            beat = Instant::now() + trail.heartbeat;
            health.delivers(batch.next);
            backoff.reset();
            acknowledged
        };
        health.acknowledged(cursor, acknowledged).map_err(io)?;
        if follower.position() < durable && !batch.records.is_empty() {
            continue;
        }
        let late = tokio::select! {
            changed = trail.durable.changed() => {
                if changed.is_err() {
                    // The journal is gone: nothing comes any more.
                    return Ok(());
                }
                sleep(GATHER).await;
                None
            }
            _ = phase.changed() => None,
            late = delivery.watch() => late?,
            () = sleep_until(beat) => {
                let now = (trail.now)();
                let line = heartbeat(&trail.dir, follower.position(), *trail.durable.borrow(), now);
                delivery.heartbeat(&line, now).await?;
                beat = Instant::now() + trail.heartbeat;
                health.delivers(follower.position());
                backoff.reset();
                None
            }
        };
        health.acknowledged(cursor, late).map_err(io)?;
    }
}

/// What comes next, within the limits of a batch; a record that is larger than those is one alone.
pub(super) fn read(follower: &mut Follower, durable: u64, most: Batches, intents: bool) -> io::Result<Batch> {
    let mut batch = Batch { records: Vec::new(), next: follower.position() };
    let mut bytes = 0;
    while batch.records.len() < most.records && bytes < most.bytes {
        let Some(followed) = follower.next(durable)? else { break };
        if followed.seq > batch.next {
            tracing::error!(
                from = batch.next,
                to = followed.seq - 1,
                "a sink was away for longer than the journal keeps these records"
            );
        }
        batch.next = follower.position();
        if followed.kind == Kind::Intent && !intents {
            continue;
        }
        bytes += followed.line.len() + 1;
        batch.records.push(followed);
    }
    Ok(batch)
}

/// What others learn of the sink.
struct Health<'a> {
    settings: &'a Settings,
    status: &'a Status,
    notice: &'a (dyn Fn(Notice) + Send + Sync),
    /// Since when it fails.
    since: Option<Instant>,
    /// There is a record of that.
    told: bool,
}

impl Health<'_> {
    fn failed(&mut self, failure: &str, wait: Duration, cursor: Option<&Cursor>) {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.status.failures.fetch_add(1, Ordering::Relaxed);
        self.status.failing.store(true, Ordering::Relaxed);
        tracing::warn!(sink = self.settings.name, failure, "not delivered, next try in {:.1} s", wait.as_secs_f64());
        if !self.told && since.elapsed() >= LONG {
            self.told = true;
            self.tell(true, cursor.and_then(|cursor| cursor.next).unwrap_or(0));
        }
    }

    fn delivers(&mut self, next: u64) {
        if self.since.take().is_some() {
            tracing::info!(sink = self.settings.name, "delivered again");
            self.status.failing.store(false, Ordering::Relaxed);
        }
        if std::mem::take(&mut self.told) {
            self.tell(false, next);
        }
    }

    fn acknowledged(&self, cursor: &mut Cursor, next: Option<u64>) -> io::Result<()> {
        let Some(next) = next else { return Ok(()) };
        cursor.save(next)?;
        self.status.acknowledged.store(next, Ordering::Relaxed);
        Ok(())
    }

    fn tell(&self, failing: bool, next_seq: u64) {
        (self.notice)(Notice { sink: self.settings.name.clone(), failing, next_seq });
    }
}
