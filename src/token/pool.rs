//! How many session workers work. A token that has no room for another session, or no memory, gets fewer for a while.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) struct Pool(Mutex<State>);

struct State {
    active: usize,
    /// Workers that somebody without a session asked to leave.
    asked: usize,
}

impl Pool {
    pub(super) fn new(workers: usize) -> Pool {
        Pool(Mutex::new(State { active: workers, asked: 0 }))
    }

    /// The calling worker leaves for a while. `false`: it is the last one and stays.
    pub(super) fn leave(&self) -> bool {
        let mut state = self.lock();
        let others = state.active > 1;
        if others {
            state.active -= 1;
            tracing::warn!(sessions = state.active, "the token has no room: fewer sessions work for a while");
        }
        others
    }

    /// One of the workers is to make room, as soon as it has time.
    pub(super) fn ask(&self) {
        let mut state = self.lock();
        if state.active > 1 {
            state.asked = 1;
        }
    }

    /// Whether the calling worker is to leave now; then it has left.
    pub(super) fn leaves(&self) -> bool {
        let asked = std::mem::take(&mut self.lock().asked) > 0;
        asked && self.leave()
    }

    pub(super) fn back(&self) {
        self.lock().active += 1;
    }

    pub(super) fn active(&self) -> usize {
        self.lock().active
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_stays() {
        let pool = Pool::new(2);
        assert!(pool.leave() && !pool.leave());
        pool.ask();
        assert!(!pool.leaves());
        pool.back();
        assert!(!pool.leaves(), "nobody asked since");
        pool.ask();
        assert!(pool.leaves() && !pool.leaves());
        assert_eq!(pool.active(), 1);
    }
}
