//! A bounded queue that is fair per principal: round robin over the principals that have jobs waiting. Heavy jobs (RSA
//! private operations) run on a limited number of workers at a time, so that they cannot take all of them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Principals whose empty lanes are kept, to save their allocation at the next job.
const LANES_KEPT: usize = 256;
/// How often `Pause::quiet` looks whether the running jobs have ended.
const DRAIN_POLL: Duration = Duration::from_millis(1);

pub(super) struct FairQueue<J> {
    state: Mutex<State<J>>,
    ready: Condvar,
    limit: usize,
    heavy_limit: usize,
    /// Jobs that were taken and have not run to their end.
    running: AtomicUsize,
}

pub(super) enum Pushed<J> {
    Accepted,
    /// Accepted in the place of this job: the newest of the principal that has most jobs waiting.
    Displaced(J),
    /// The queue is full, and no principal has more jobs waiting than this one.
    Full(J),
    Closed(J),
}

pub(super) enum Taken<J> {
    /// Call `done` when it has run.
    Job {
        job: J,
        heavy: bool,
    },
    Nothing,
    Closed,
}

struct State<J> {
    lanes: HashMap<Arc<str>, Lane<J>>,
    /// Principals with jobs waiting, the next one first.
    ring: VecDeque<Arc<str>>,
    waiting: usize,
    heavy_running: usize,
    /// Workers that sleep in `take`.
    idle: usize,
    sequence: u64,
    closed: bool,
    /// Nothing is handed out while there is a `Pause`.
    pauses: usize,
    paused_since: Option<Instant>,
    /// The same, for another reason: `hold`.
    held: bool,
}

struct Lane<J> {
    light: VecDeque<(u64, J)>,
    heavy: VecDeque<(u64, J)>,
}

impl<J> FairQueue<J> {
    /// `limit` jobs may wait; `heavy_limit` heavy ones may run at a time.
    pub(super) fn new(limit: usize, heavy_limit: usize) -> Self {
        let state = State {
            lanes: HashMap::new(),
            ring: VecDeque::new(),
            waiting: 0,
            heavy_running: 0,
            idle: 0,
            sequence: 0,
            closed: false,
            pauses: 0,
            paused_since: None,
            held: false,
        };
        let running = AtomicUsize::new(0);
        FairQueue { state: Mutex::new(state), ready: Condvar::new(), limit: limit.max(1), heavy_limit, running }
    }

    /// Never waits. A full queue makes room for a principal that has fewer jobs waiting than another: one that floods
    /// the queue pays for it alone.
    pub(super) fn push(&self, principal: &Arc<str>, heavy: bool, job: J) -> Pushed<J> {
        let mut state = self.lock();
        if state.closed {
            return Pushed::Closed(job);
        }
        let mut pushed_out = None;
        if state.waiting >= self.limit {
            match state.push_out_for(principal) {
                Some(victim) => pushed_out = Some(victim),
                None => return Pushed::Full(job),
            }
        }
        state.append(principal, heavy, job);
        // A wake-up is a system call: only where somebody sleeps.
        if state.idle > 0 {
            drop(state);
            self.ready.notify_one();
        }
        pushed_out.map_or(Pushed::Accepted, Pushed::Displaced)
    }

    /// Waits for a job, at most for `patience`.
    pub(super) fn take(&self, patience: Option<Duration>) -> Taken<J> {
        let mut state = self.lock();
        loop {
            match self.take_from(&mut state) {
                Taken::Nothing => {}
                taken => return taken,
            }
            state.idle += 1;
            let timed_out;
            (state, timed_out) = match patience {
                None => (self.ready.wait(state).unwrap_or_else(PoisonError::into_inner), false),
                Some(patience) => {
                    let (state, result) =
                        self.ready.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
                    (state, result.timed_out())
                }
            };
            state.idle -= 1;
            if timed_out {
                return self.take_from(&mut state);
            }
        }
    }

    /// A job, if there is one that may run now.
    pub(super) fn try_take(&self) -> Taken<J> {
        self.take_from(&mut self.lock())
    }

    fn take_from(&self, state: &mut State<J>) -> Taken<J> {
        match state.next(self.heavy_limit) {
            Some((job, heavy)) => {
                // Under the lock: after `pause` the number only falls.
                self.running.fetch_add(1, Ordering::SeqCst);
                Taken::Job { job, heavy }
            }
            None if state.closed => Taken::Closed,
            None => Taken::Nothing,
        }
    }

    /// A job has run; after a heavy one another may.
    pub(super) fn done(&self, heavy: bool) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        if !heavy {
            return;
        }
        let mut state = self.lock();
        state.heavy_running = state.heavy_running.saturating_sub(1);
        if state.idle > 0 && state.waiting > 0 {
            drop(state);
            self.ready.notify_one();
        }
    }

    /// A heavy job counts no longer, although it has not ended: `done` is told that it was light.
    pub(super) fn heavy_ended(&self) {
        let mut state = self.lock();
        state.heavy_running = state.heavy_running.saturating_sub(1);
        drop(state);
        self.ready.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Hands out nothing while the `Pause` lives: jobs that come wait. Several may do so at a time.
    pub(super) fn pause(&self) -> Pause<'_, J> {
        let mut state = self.lock();
        state.pauses += 1;
        state.paused_since.get_or_insert_with(Instant::now);
        Pause(self)
    }

    /// How long nothing has been handed out now.
    pub(super) fn paused_for(&self) -> Duration {
        self.lock().paused_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Hands out nothing until `release`, whatever `pause` does.
    pub(super) fn hold(&self) {
        self.lock().held = true;
    }

    pub(super) fn release(&self) {
        self.lock().held = false;
        self.ready.notify_all();
    }

    /// Hands back the jobs that wait in vain, while nothing is handed out.
    pub(super) fn expired(&self, is_expired: impl Fn(&J) -> bool) -> Vec<J> {
        let mut state = self.lock();
        if state.pauses == 0 && !state.held {
            return Vec::new();
        }
        state.take_where(is_expired)
    }

    /// Hands back the jobs that wait.
    pub(super) fn empty(&self) -> Vec<J> {
        self.lock().take_all()
    }

    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// Takes no more jobs; hands back those that waited.
    pub(super) fn close(&self) -> Vec<J> {
        self.lock().closed = true;
        self.ready.notify_all();
        self.drain()
    }

    /// Hands back the jobs that wait.
    pub(super) fn drain(&self) -> Vec<J> {
        let mut state = self.lock();
        state.take_all()
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        // Every change below leaves the state whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Made by `FairQueue::pause`.
pub(super) struct Pause<'a, J>(&'a FairQueue<J>);

impl<J> Pause<'_, J> {
    /// Returns when the running jobs have ended, or after `patience` with `false`.
    pub(super) fn quiet(&self, patience: Duration) -> bool {
        self.quiet_but(0, patience)
    }

    /// The same, where so many are known not to end.
    pub(super) fn quiet_but(&self, hang: usize, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.0.running.load(Ordering::SeqCst) > hang {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(DRAIN_POLL);
        }
        true
    }
}

impl<J> Drop for Pause<'_, J> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.pauses -= 1;
        if state.pauses == 0 {
            state.paused_since = None;
        }
        drop(state);
        self.0.ready.notify_all();
    }
}

impl<J> State<J> {
    fn take_all(&mut self) -> Vec<J> {
        self.waiting = 0;
        self.ring.clear();
        let lanes = std::mem::take(&mut self.lanes);
        lanes.into_values().flat_map(|lane| lane.light.into_iter().chain(lane.heavy)).map(|(_, job)| job).collect()
    }

    fn take_where(&mut self, is_taken: impl Fn(&J) -> bool) -> Vec<J> {
        let mut taken = Vec::new();
        for lane in self.lanes.values_mut() {
            for jobs in [&mut lane.light, &mut lane.heavy] {
                if jobs.iter().any(|(_, job)| is_taken(job)) {
                    let (gone, left) = std::mem::take(jobs).into_iter().partition(|(_, job)| is_taken(job));
                    *jobs = left;
                    let gone: VecDeque<(u64, J)> = gone;
                    taken.extend(gone.into_iter().map(|(_, job)| job));
                }
            }
        }
        self.waiting -= taken.len();
        let lanes = &self.lanes;
        self.ring.retain(|principal| lanes.get(principal).is_some_and(|lane| lane.len() > 0));
        taken
    }

    fn append(&mut self, principal: &Arc<str>, heavy: bool, job: J) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.waiting += 1;
        let lane = match self.lanes.get_mut(principal) {
            Some(lane) => lane,
            None => self
                .lanes
                .entry(Arc::clone(principal))
                .or_insert_with(|| Lane { light: VecDeque::new(), heavy: VecDeque::new() }),
        };
        if lane.len() == 0 {
            self.ring.push_back(Arc::clone(principal));
        }
        if heavy { lane.heavy.push_back((sequence, job)) } else { lane.light.push_back((sequence, job)) }
    }

    /// The next principal's oldest job that may run now.
    fn next(&mut self, heavy_limit: usize) -> Option<(J, bool)> {
        if self.pauses > 0 || self.held {
            return None;
        }
        let heavy_allowed = self.heavy_running < heavy_limit;
        for position in 0..self.ring.len() {
            let lane = self.ring.get(position).and_then(|principal| self.lanes.get_mut(principal))?;
            let Some((job, heavy)) = lane.take_oldest(heavy_allowed) else { continue };
            let empty = lane.len() == 0;
            let principal = self.ring.remove(position)?;
            if !empty {
                self.ring.push_back(principal);
            } else if self.lanes.len() > LANES_KEPT {
                self.lanes.remove(&principal);
            }
            self.waiting -= 1;
            self.heavy_running += usize::from(heavy);
            return Some((job, heavy));
        }
        None
    }

    /// Takes the newest job of the principal with most jobs waiting, if that is more than `principal` would have.
    fn push_out_for(&mut self, principal: &Arc<str>) -> Option<J> {
        let own = self.lanes.get(principal).map_or(0, Lane::len);
        let greediest = self.ring.iter().max_by_key(|name| self.lanes.get(*name).map_or(0, Lane::len))?.clone();
        let lane = self.lanes.get_mut(&greediest)?;
        if lane.len() <= own + 1 {
            return None;
        }
        let job = lane.take_newest()?;
        self.waiting -= 1;
        Some(job)
    }
}

impl<J> Lane<J> {
    fn len(&self) -> usize {
        self.light.len() + self.heavy.len()
    }

    fn take_oldest(&mut self, heavy_allowed: bool) -> Option<(J, bool)> {
        let light = self.light.front().map(|(sequence, _)| *sequence);
        let heavy = self.heavy.front().map(|(sequence, _)| *sequence).filter(|_| heavy_allowed);
        let take_heavy = match (light, heavy) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(light), Some(heavy)) => heavy < light,
        };
        let queue = if take_heavy { &mut self.heavy } else { &mut self.light };
        queue.pop_front().map(|(_, job)| (job, take_heavy))
    }

    fn take_newest(&mut self) -> Option<J> {
        let light = self.light.back().map(|(sequence, _)| *sequence);
        let heavy = self.heavy.back().map(|(sequence, _)| *sequence);
        let queue = if heavy > light { &mut self.heavy } else { &mut self.light };
        queue.pop_back().map(|(_, job)| job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take<J>(queue: &FairQueue<J>) -> Option<J> {
        match queue.take(Some(Duration::ZERO)) {
            Taken::Job { job, .. } => Some(job),
            Taken::Nothing | Taken::Closed => None,
        }
    }

    #[test]
    fn principals_take_turns() {
        let queue = FairQueue::new(100, 1);
        let (a, b, c): (Arc<str>, Arc<str>, Arc<str>) = ("a".into(), "b".into(), "c".into());
        for n in 0..4 {
            assert!(matches!(queue.push(&a, false, format!("a{n}")), Pushed::Accepted));
        }
        queue.push(&b, false, "b0".into());
        queue.push(&b, false, "b1".into());
        queue.push(&c, false, "c0".into());
        let order: Vec<String> = std::iter::from_fn(|| take(&queue)).collect();
        assert_eq!(order, ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]);
        assert_eq!(queue.waiting(), 0);
    }

    #[test]
    fn a_full_queue_refuses_the_one_who_filled_it_and_makes_room_for_others() {
        let queue = FairQueue::new(4, 1);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for n in 0..4 {
            queue.push(&a, false, format!("a{n}"));
        }
        assert!(matches!(queue.push(&a, false, "a4".into()), Pushed::Full(job) if job == "a4"));
        assert!(matches!(queue.push(&b, false, "b0".into()), Pushed::Displaced(job) if job == "a3"));
        assert!(matches!(queue.push(&b, false, "b1".into()), Pushed::Displaced(job) if job == "a2"));
        // Two each: nobody has more than the other.
        assert!(matches!(queue.push(&b, false, "b2".into()), Pushed::Full(_)));
        assert_eq!(queue.waiting(), 4);
    }

    #[test]
    fn heavy_jobs_leave_a_worker_for_light_ones() {
        let queue = FairQueue::new(100, 1);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        queue.push(&a, true, "rsa0");
        queue.push(&a, true, "rsa1");
        queue.push(&b, true, "rsa2");
        queue.push(&a, false, "aes0");
        assert_eq!(take(&queue), Some("rsa0"));
        assert_eq!(take(&queue), Some("aes0"));
        assert_eq!(take(&queue), None, "one heavy job runs, no other may");
        queue.done(true);
        assert_eq!(take(&queue), Some("rsa2"));
        queue.done(true);
        assert_eq!(take(&queue), Some("rsa1"));
    }

    #[test]
    fn a_paused_queue_keeps_its_jobs_until_nobody_pauses_it() {
        let queue = FairQueue::new(100, 1);
        let a: Arc<str> = "a".into();
        queue.push(&a, false, 1);
        queue.push(&a, false, 2);
        assert_eq!(take(&queue), Some(1));
        let one = queue.pause();
        assert!(!one.quiet(Duration::ZERO), "a job runs");
        assert_eq!(take(&queue), None);
        queue.done(false);
        assert!(one.quiet(Duration::ZERO));
        assert!(matches!(queue.push(&a, false, 3), Pushed::Accepted));
        assert_eq!((take(&queue), queue.waiting()), (None, 2));
        let other = queue.pause();
        drop(one);
        assert_eq!(take(&queue), None, "another one pauses it");
        assert!(queue.paused_for() > Duration::ZERO);
        drop(other);
        assert_eq!(queue.paused_for(), Duration::ZERO);
        assert_eq!((take(&queue), take(&queue)), (Some(2), Some(3)));
    }

    #[test]
    fn jobs_that_wait_in_vain_are_handed_back_while_it_stands_still() {
        let queue = FairQueue::new(100, 1);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for (principal, heavy, job) in [(&a, false, 1), (&a, true, 2), (&a, false, 3), (&b, true, 4)] {
            queue.push(principal, heavy, job);
        }
        let late = |job: &i32| [2, 3, 4].contains(job);
        assert_eq!(queue.expired(late), [0; 0], "whoever takes a job looks at its deadline");
        let pause = queue.pause();
        let mut expired = queue.expired(late);
        expired.sort_unstable();
        assert_eq!((expired, queue.waiting()), (vec![2, 3, 4], 1));
        drop(pause);
        queue.push(&b, false, 5);
        assert_eq!((take(&queue), take(&queue), take(&queue)), (Some(1), Some(5), None));
    }

    #[test]
    fn the_oldest_goes_first_within_a_principal() {
        let queue = FairQueue::new(100, 9);
        let a: Arc<str> = "a".into();
        for (heavy, name) in [(false, 0), (true, 1), (false, 2), (true, 3)] {
            queue.push(&a, heavy, name);
        }
        assert_eq!(std::iter::from_fn(|| take(&queue)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn closing_hands_back_what_waited() {
        let queue = FairQueue::new(100, 1);
        let a: Arc<str> = "a".into();
        queue.push(&a, false, 1);
        queue.push(&a, true, 2);
        assert_eq!(queue.close(), [1, 2]);
        assert!(matches!(queue.take(None), Taken::Closed));
        assert!(matches!(queue.push(&a, false, 3), Pushed::Closed(3)));
    }

    #[test]
    fn a_sleeping_worker_is_woken() {
        let queue = Arc::new(FairQueue::new(100, 1));
        let worker = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || match queue.take(None) {
                Taken::Job { job, .. } => job,
                Taken::Nothing | Taken::Closed => 0,
            })
        };
        while queue.lock().idle == 0 {
            std::thread::yield_now();
        }
        queue.push(&"a".into(), false, 7);
        assert_eq!(worker.join().unwrap(), 7);
    }
}
