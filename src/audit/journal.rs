//! The open journal: callers queue records, one thread writes and syncs them in batches, another watches the clock, so that
//! a disk that hangs is a failure and not a wait. A batch is what is queued when the disk is free: no linger.

mod writer;

use std::fs::File;
use std::mem;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Semaphore, oneshot, watch};

use super::files::{self, Trouble, Wrap};
use super::record::{Draft, Origin};
use super::recovery::{self, ACCEPTED_LOSS};
use super::segment::{Segments, now_micros, stamp};
use super::space::{Crossed, Load, Space};
use super::verify::tree::{Frontier, Hash};
use super::{AuditError, Event, Recorded, Recovery, Settings};
use crate::ids::random_uuid;

/// The queue is bounded by memory: units of 4 KiB, at least one per record.
const QUEUE_UNITS: u32 = 16 * 1024;
const UNIT: usize = 4096;
/// A batch is written in pieces of about this size, each synced.
const BATCH_BYTES: usize = 4 << 20;
const DISK_LOW: &str = "AuditDiskLow";
const TICK: Duration = Duration::from_secs(1);

/// Whether there is room enough to open the journal. Asked before it is opened: each opening writes a segment, and a service
/// that waits for room must not use up what is left.
pub fn room(settings: &Settings) -> Result<(), AuditError> {
    if !settings.dir.exists() {
        return Ok(());
    }
    Space::new(settings).check()
}

/// The open journal. Cheap to clone. One writer thread; group commit; a record, or an error.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    /// Closes the journal when the last clone is gone.
    _guard: Arc<Guard>,
}

struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Journal {
    /// Takes the lock, recovers (audit.md §7.9 steps 1 to 4, 6 to 8), starts the writer. Blocking.
    pub fn open(settings: Settings) -> Result<(Journal, Recovery), AuditError> {
        Self::open_with(settings, Box::new(|file| Box::new(file)))
    }

    pub(super) fn open_with(settings: Settings, wrap: Wrap) -> Result<(Journal, Recovery), AuditError> {
        let journal = files::make_directories(&settings.dir).map_err(|error| {
            if files::is_no_space(&error) {
                AuditError::NoSpace { dir: settings.dir.clone() }
            } else {
                AuditError::Failed(format!("cannot make `{}`: {error}", settings.dir.display()))
            }
        })?;
        let lock = files::lock(&settings.dir)?;
        Self::open_locked(settings, wrap, journal, lock, "boot")
    }

    /// `reason`: what the new segment begins for.
    pub(super) fn open_locked(
        settings: Settings,
        wrap: Wrap,
        journal: PathBuf,
        lock: File,
        reason: &'static str,
    ) -> Result<(Journal, Recovery), AuditError> {
        let mut found = recovery::recover(&journal, &settings)?;
        found.next.reason = reason;
        let origin = Arc::new(Origin::new(&settings, found.boot));
        let mut segments = Segments::new(
            origin.clone(),
            journal,
            (settings.segment_bytes, settings.segment_age),
            wrap,
            found.chain,
            found.name,
            found.next,
        );
        segments.ensure_open().map_err(|trouble| match trouble {
            Trouble::NoSpace => AuditError::NoSpace { dir: settings.dir.clone() },
            Trouble::Failed(reason) => AuditError::Failed(reason),
        })?;
        // Only now is the loss recorded.
        let lost: Vec<u64> = found.lost.iter().map(|(size, _)| *size).collect();
        files::set_aside_checkpoints(&settings.dir, &lost, &stamp()).map_err(|error| {
            AuditError::Failed(format!("cannot set checkpoints aside in `{}`: {error}", settings.dir.display()))
        })?;
        let space = Space::new(&settings);
        space.keep_reserve();
        let shared = Arc::new(Shared {
            space,
            durable: watch::Sender::new(segments.chain.next_seq),
            given_up: Mutex::new(found.lost),
            head: Mutex::new(Head { tree: segments.chain.tree.clone(), news: segments.chain.news }),
            settings,
            origin,
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            room: Semaphore::new(QUEUE_UNITS as usize),
            flight: Mutex::new(Flight::default()),
            failure: watch::Sender::new(None),
            stopped: Mutex::new(false),
            stop: Condvar::new(),
            lock: Mutex::new(Some(lock)),
        });
        let cannot = |error: std::io::Error| AuditError::Failed(format!("cannot start a thread: {error}"));
        spawn("audit-writer", &shared, move |shared| shared.write_until_closed(segments)).map_err(cannot)?;
        // Dropped on an error, this closes the journal.
        let guard = Arc::new(Guard(shared.clone()));
        spawn("audit-watch", &shared, Shared::watch_until_stopped).map_err(cannot)?;
        Ok((Journal { shared, _guard: guard }, found.recovery))
    }

    /// Whether a request may be taken up at all: free space and health. Cheap (cached about a second).
    pub fn admit(&self, load: Load) -> Result<(), AuditError> {
        match self.failure() {
            Some(reason) => Err(AuditError::Failed(reason)),
            None => self.shared.space.admit(load),
        }
    }

    /// Queues the record and waits until it is on stable storage. Dropped while it waits, the record is written all the
    /// same once it is in the queue.
    pub async fn append(&self, event: Event) -> Result<Recorded, AuditError> {
        let shared = &*self.shared;
        let event_id = random_uuid();
        let draft = Draft::new(event, &shared.origin, event_id);
        let units = units(&draft);
        match shared.room.acquire_many(units).await {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(shared.refusal()),
        }
        let (waiter, result) = oneshot::channel();
        shared.push(Item { draft, waiter })?;
        match result.await {
            Ok(result) => result.map(|seq| Recorded { seq, event_id }),
            Err(_) => Err(shared.refusal()),
        }
    }

    /// Begins a new segment (SIGHUP).
    pub async fn rotate(&self) -> Result<(), AuditError> {
        self.turn(None).await
    }

    async fn turn(&self, first: Option<First>) -> Result<(), AuditError> {
        let (waiter, result) = oneshot::channel();
        {
            let mut queue = lock(&self.shared.queue);
            if let Some(refusal) = queue.refusal() {
                return Err(refusal);
            }
            queue.turns.push(Turn { first, waiter });
            queue.wake(&self.shared.wake);
        }
        result.await.unwrap_or_else(|_| Err(self.shared.refusal()))
    }

    /// Compares the log with a tree head that somebody else kept: what the token holds, a digest, a peer. RULE audit.md §7.9 step 5:
    /// with fewer records, or others, the service does not start unless a ticket says that a person knows (`Settings`); that is
    /// then the first record of a new segment. `source`: what kept it, for the message.
    pub async fn compare_head(&self, source: &str, size: u64, root: Hash) -> Result<(), AuditError> {
        let shared = self.shared.clone();
        let look = tokio::task::spawn_blocking(move || {
            let records = *shared.durable.borrow();
            recovery::compare(&shared.settings.dir.join("journal"), records, size, &root).map(|lost| (records, lost))
        });
        let failed = |error: String| AuditError::Failed(format!("cannot compare the log with {source}: {error}"));
        let (records, lost) = match look.await {
            Ok(Ok((records, lost))) => (records, lost),
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(error) => return Err(failed(error.to_string())),
        };
        let Some(found) = lost else { return Ok(()) };
        // The same head is often kept in several places.
        if lock(&self.shared.given_up).contains(&(size, root)) {
            return Ok(());
        }
        let settings = &self.shared.settings;
        let Some(ticket) = &settings.accept_loss else {
            return Err(recovery::truncated(settings, source, size, records, found));
        };
        let details = recovery::accepted_loss(ticket, size, &root, records);
        self.turn(Some((ACCEPTED_LOSS, details))).await?;
        lock(&self.shared.given_up).push((size, root));
        Ok(())
    }

    /// `Some(reason)` once the log has failed.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.borrow().clone()
    }

    /// Resolves when the log fails.
    pub fn failed(&self) -> Pin<Box<dyn Future<Output = String> + Send + '_>> {
        let mut failure = self.shared.failure.subscribe();
        Box::pin(async move {
            let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
            match reason {
                Some(reason) => reason,
                // Cannot be: the sender lives in `self`, which this future borrows.
                None => std::future::pending().await,
            }
        })
    }

    /// Free share of the log's file system, 0 to 1, as of about a second ago.
    #[cfg(test)]
    pub(super) fn free_space(&self) -> f64 {
        self.shared.space.free()
    }

    /// Records on stable storage in the whole chain: the newest one's seq and one.
    pub fn durable(&self) -> u64 {
        *self.shared.durable.borrow()
    }

    /// The same number, for whoever waits for it to grow.
    pub fn watch_durable(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    /// The tree of what is on stable storage.
    pub fn head(&self) -> Head {
        lock(&self.shared.head).clone()
    }

    /// Free space is below the line to a warning.
    pub fn is_low(&self) -> bool {
        self.shared.space.is_low()
    }

    /// A record of the service about itself. `time`: milliseconds since the epoch.
    pub fn event(&self, name: &str, time: i64, details: serde_json::Value) -> Event {
        let settings = self.settings();
        Event::system(name, &settings.region, &settings.account, time, details)
    }

    /// What it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Writes what is queued and `SegmentEnd`, syncs, stops the writer, gives up the lock. Blocking; harmless when
    /// repeated.
    pub fn close(&self) {
        self.shared.close();
    }
}

fn units(draft: &Draft) -> u32 {
    1 + (draft.len() / UNIT) as u32
}

fn spawn(name: &str, shared: &Arc<Shared>, work: impl FnOnce(&Shared) + Send + 'static) -> Result<(), std::io::Error> {
    let shared = shared.clone();
    thread::Builder::new().name(name.into()).spawn(move || work(&shared)).map(drop)
}

/// No code of ours panics while it holds one of these, and their contents are whole at every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tree over the records on stable storage.
#[derive(Debug, Clone)]
pub struct Head {
    pub tree: Frontier,
    /// Records up to and with the newest one that needs a checkpoint.
    pub news: u64,
}

/// A record that has to follow `SegmentStart`: name and details.
type First = (&'static str, serde_json::Value);

/// A new segment is wanted.
struct Turn {
    first: Option<First>,
    waiter: oneshot::Sender<Result<(), AuditError>>,
}

type Waiter = oneshot::Sender<Result<u64, AuditError>>;

struct Item {
    draft: Draft,
    waiter: Waiter,
}

#[derive(Default)]
struct Queue {
    items: Vec<Item>,
    turns: Vec<Turn>,
    closing: bool,
    /// The writer sleeps.
    idle: bool,
    failure: Option<String>,
}

impl Queue {
    fn refusal(&self) -> Option<AuditError> {
        match &self.failure {
            Some(reason) => Some(AuditError::Failed(reason.clone())),
            None if self.closing => Some(AuditError::Failed("it is closed".into())),
            None => None,
        }
    }

    fn wake(&mut self, condition: &Condvar) {
        if mem::take(&mut self.idle) {
            condition.notify_one();
        }
    }
}

/// What the writer has before the disk now.
#[derive(Default)]
struct Flight {
    since: Option<Instant>,
    waiters: Vec<Waiter>,
}

struct Shared {
    settings: Settings,
    origin: Arc<Origin>,
    space: Space,
    durable: watch::Sender<u64>,
    head: Mutex<Head>,
    /// Tree heads of lost records that a ticket of this run is recorded for.
    given_up: Mutex<Vec<(u64, Hash)>>,
    queue: Mutex<Queue>,
    wake: Condvar,
    room: Semaphore,
    flight: Mutex<Flight>,
    failure: watch::Sender<Option<String>>,
    stopped: Mutex<bool>,
    stop: Condvar,
    lock: Mutex<Option<File>>,
}

/// What the writer took from the queue.
struct Work {
    items: Vec<Item>,
    turns: Vec<Turn>,
    closing: bool,
}

impl Shared {
    fn push(&self, item: Item) -> Result<(), AuditError> {
        let mut queue = lock(&self.queue);
        if let Some(refusal) = queue.refusal() {
            return Err(refusal);
        }
        queue.items.push(item);
        queue.wake(&self.wake);
        Ok(())
    }

    fn refusal(&self) -> AuditError {
        let refusal = lock(&self.queue).refusal();
        refusal.unwrap_or_else(|| AuditError::Failed("the writer is gone".into()))
    }

    fn no_space(&self) -> AuditError {
        AuditError::NoSpace { dir: self.settings.dir.clone() }
    }

    /// Poisons the journal: the first reason stays, everybody who waits is told, nobody may queue any more.
    fn fail(&self, reason: String) {
        let (reason, items) = {
            let mut queue = lock(&self.queue);
            let reason = queue.failure.get_or_insert(reason).clone();
            queue.turns.clear();
            queue.wake(&self.wake);
            (reason, mem::take(&mut queue.items))
        };
        self.room.close();
        let first = self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| reason.clone());
            first
        });
        if first {
            tracing::error!(reason, dir = %self.settings.dir.display(), "the audit log failed");
        }
        let waiters = mem::take(&mut lock(&self.flight).waiters);
        for waiter in items.into_iter().map(|item| item.waiter).chain(waiters) {
            let _ = waiter.send(Err(AuditError::Failed(reason.clone())));
        }
    }

    fn watch_until_stopped(&self) {
        let deadline = self.settings.deadline;
        let step = (deadline / 4).clamp(Duration::from_millis(5), TICK);
        let mut looked = Instant::now();
        let mut stopped = lock(&self.stopped);
        while !*stopped {
            stopped = self.stop.wait_timeout(stopped, step).unwrap_or_else(PoisonError::into_inner).0;
            if *stopped {
                return;
            }
            drop(stopped);
            let since = lock(&self.flight).since;
            if since.is_some_and(|since| since.elapsed() > deadline) {
                self.fail(format!("the disk did not answer within {} ms", deadline.as_millis()));
            }
            // A file system that hangs would hang this thread too, before the deadline is seen to pass.
            let slow = since.is_some_and(|since| since.elapsed() > step);
            if looked.elapsed() >= TICK && !slow {
                looked = Instant::now();
                if let Some(crossed) = self.space.look() {
                    self.note_space(crossed);
                }
                self.space.keep_reserve();
            }
            stopped = lock(&self.stopped);
        }
    }

    /// Says once in the log that room is short, or is enough again. Nobody waits for the record.
    fn note_space(&self, crossed: Crossed) {
        let free = (self.space.free() * 1000.0).round() / 10.0;
        let below = (self.settings.warn_below_free * 100.0).round();
        let low = crossed == Crossed::Low;
        let details = json!({"low": low, "freePercent": free, "warnBelowPercent": below});
        let draft = Draft::new(self.origin.system(DISK_LOW, now_micros(), details), &self.origin, random_uuid());
        let Ok(permit) = self.room.try_acquire_many(units(&draft)) else { return };
        permit.forget();
        if self.push(Item { draft, waiter: oneshot::channel().0 }).is_err() {
            return;
        }
        self.space.crossed(crossed);
        let dir = self.settings.dir.display();
        if low {
            tracing::warn!(%dir, free, below, "free space of the audit log is low, in percent");
        } else {
            tracing::info!(%dir, free, below, "free space of the audit log is enough again, in percent");
        }
    }

    fn close(&self) {
        {
            let mut queue = lock(&self.queue);
            queue.closing = true;
            queue.wake(&self.wake);
        }
        let mut stopped = lock(&self.stopped);
        while !*stopped {
            // A writer that hangs in the disk is not waited for, and the lock stays with it.
            let deadline = self.settings.deadline;
            let hangs = lock(&self.flight).since.is_some_and(|since| since.elapsed() > deadline);
            if hangs && lock(&self.queue).failure.is_some() {
                return;
            }
            stopped = self.stop.wait_timeout(stopped, TICK / 20).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(stopped);
        lock(&self.lock).take();
    }
}
