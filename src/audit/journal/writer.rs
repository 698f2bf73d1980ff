//! The writer's thread: takes what is queued, writes and syncs it, and tells who waits.

use std::mem;
use std::sync::PoisonError;
use std::thread;
use std::time::Instant;

use super::{BATCH_BYTES, Item, Shared, TICK, Turn, Work, lock, units};
use crate::audit::AuditError;
use crate::audit::files::Trouble;
use crate::audit::record::Draft;
use crate::audit::segment::Segments;

impl Shared {
    pub(super) fn write_until_closed(&self, mut segments: Segments) {
        // Also when the thread panics, waiters and the process must learn that nobody writes any more.
        struct Stop<'s>(&'s Shared);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                if thread::panicking() {
                    self.0.fail("the writer panicked".into());
                }
                *lock(&self.0.stopped) = true;
                self.0.stop.notify_all();
            }
        }
        let _stop = Stop(self);
        let mut spare = Vec::new();
        let mut drafts = Vec::new();
        let mut looked = Instant::now();
        while let Some(mut work) = self.next_work(spare, looked + TICK) {
            self.take_items(&mut segments, &mut work.items, &mut drafts);
            for Turn { first, waiter } in work.turns {
                let done = self.with_reserve(&mut segments, |segments| match &first {
                    Some((name, details)) => segments.rotate_with("accepted-loss", name, details.clone()),
                    None => segments.rotate("request"),
                });
                let _ = waiter.send(done.map_err(|trouble| match trouble {
                    Trouble::NoSpace => self.no_space(),
                    Trouble::Failed(reason) => AuditError::Failed(reason),
                }));
            }
            if work.closing {
                let _ = self.with_reserve(&mut segments, |segments| segments.end("stop"));
                break;
            }
            if looked.elapsed() >= TICK {
                looked = Instant::now();
                let _ = self.with_reserve(&mut segments, Segments::watch);
            }
            spare = work.items;
        }
        self.say_why(&mut segments);
    }

    /// The log has failed: a last record says why, if the disk still takes one. The process ends either way.
    fn say_why(&self, segments: &mut Segments) {
        let Some(reason) = lock(&self.queue).failure.clone() else { return };
        lock(&self.flight).since = Some(Instant::now());
        self.space.release_reserve();
        if let Err(error) = segments.last_words(&reason) {
            tracing::error!(%error, "the failure of the audit log could not be recorded");
        }
        lock(&self.flight).since = None;
    }

    /// The same, and once more with the reserve's room if there was none. RULE audit.md §7.3.
    fn with_reserve<T>(
        &self,
        segments: &mut Segments,
        work: impl Fn(&mut Segments) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let done = match self.on_disk(|| work(segments)) {
            Err(Trouble::NoSpace) if self.space.release_reserve() => self.on_disk(|| work(segments)),
            done => done,
        };
        self.publish(segments);
        done
    }

    /// What is on stable storage now.
    fn publish(&self, segments: &Segments) {
        let chain = &segments.chain;
        let changed = {
            let mut head = lock(&self.head);
            let changed = head.tree.size() != chain.next_seq;
            if changed {
                head.tree.clone_from(&chain.tree);
                head.news = chain.news;
            }
            changed
        };
        if changed {
            self.durable.send_replace(chain.next_seq);
        }
    }

    /// Waits for records, a command or the tick; none once the log has failed.
    fn next_work(&self, spare: Vec<Item>, tick: Instant) -> Option<Work> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.failure.is_some() {
                return None;
            }
            let left = tick.saturating_duration_since(Instant::now());
            if !queue.items.is_empty() || !queue.turns.is_empty() || queue.closing || left.is_zero() {
                queue.idle = false;
                let items = mem::replace(&mut queue.items, spare);
                return Some(Work { items, turns: mem::take(&mut queue.turns), closing: queue.closing });
            }
            queue.idle = true;
            queue = self.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes all items, in pieces if they are many.
    fn take_items(&self, segments: &mut Segments, items: &mut Vec<Item>, drafts: &mut Vec<Draft>) {
        let mut items = items.drain(..).peekable();
        while items.peek().is_some() {
            drafts.clear();
            let (mut bytes, mut freed) = (0, 0);
            {
                let mut flight = lock(&self.flight);
                while bytes < BATCH_BYTES
                    && let Some(item) = items.next()
                {
                    bytes += item.draft.len();
                    freed += units(&item.draft) as usize;
                    drafts.push(item.draft);
                    flight.waiters.push(item.waiter);
                }
            }
            self.room.add_permits(freed);
            let done = self.with_reserve(segments, |segments| segments.commit(drafts));
            // Empty when the watcher gave up on this batch.
            let mut flight = lock(&self.flight);
            match done {
                Ok(first) => {
                    for (seq, waiter) in (first..).zip(flight.waiters.drain(..)) {
                        let _ = waiter.send(Ok(seq));
                    }
                }
                Err(Trouble::NoSpace) => {
                    tracing::error!(dir = %self.settings.dir.display(), "no space for the audit log");
                    for waiter in flight.waiters.drain(..) {
                        let _ = waiter.send(Err(self.no_space()));
                    }
                }
                // `on_disk` has told the waiters.
                Err(Trouble::Failed(_)) => {}
            }
        }
    }

    /// Work on the disk, under the watcher's eyes. Once the log has failed nothing is tried any more.
    fn on_disk<T>(&self, work: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
        if let Some(reason) = lock(&self.queue).failure.clone() {
            self.fail(reason.clone());
            return Err(Trouble::Failed(reason));
        }
        lock(&self.flight).since = Some(Instant::now());
        let done = work();
        lock(&self.flight).since = None;
        if let Err(Trouble::Failed(reason)) = &done {
            self.fail(reason.clone());
        }
        done
    }
}
