//! Work on all cores whose results are wanted in their order. The results that wait are bounded, so memory does not grow
//! with the log.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

struct Queue<R> {
    /// The next item that nobody works on.
    next: usize,
    /// Items whose results were consumed.
    consumed: usize,
    done: BTreeMap<usize, R>,
}

/// Calls `work` for each item on several threads, and `consume` with the results in the items' order on this one.
pub(super) fn in_order<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(usize, &T) -> R + Sync,
    mut consume: impl FnMut(usize, R),
) {
    let threads = threads.clamp(1, items.len().max(1));
    let ahead = threads * 2;
    let queue = Mutex::new(Queue { next: 0, consumed: 0, done: BTreeMap::new() });
    let changed = Condvar::new();
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let mut held = lock();
                    while held.next < items.len() && held.next >= held.consumed + ahead {
                        held = changed.wait(held).unwrap_or_else(PoisonError::into_inner);
                    }
                    let index = held.next;
                    let Some(item) = items.get(index) else { return };
                    held.next += 1;
                    drop(held);
                    let result = work(index, item);
                    lock().done.insert(index, result);
                    changed.notify_all();
                }
            });
        }
        for index in 0..items.len() {
            let mut held = lock();
            let result = loop {
                match held.done.remove(&index) {
                    Some(result) => break result,
                    None => held = changed.wait(held).unwrap_or_else(PoisonError::into_inner),
                }
            };
            held.consumed += 1;
            drop(held);
            changed.notify_all();
            consume(index, result);
        }
    });
}

/// As many threads as there are cores.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        for (count, threads) in [(0, 4), (1, 4), (100, 1), (100, 8)] {
            let items: Vec<usize> = (0..count).collect();
            let mut seen = Vec::new();
            in_order(&items, threads, |index, item| (index, item * 2), |index, result| seen.push((index, result)));
            assert_eq!(seen, (0..count).map(|i| (i, (i, i * 2))).collect::<Vec<_>>());
        }
    }
}
