//! How long a connection may take for what. One lazy timer per connection instead of one per phase: requests only note
//! the time, and the timer looks at the note when it fires.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a connection is doing, as far as time limits care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has arrived yet.
    Fresh,
    /// A head is arriving.
    Head,
    /// Requests are being read or answered: they have limits of their own.
    Busy,
    /// Between requests, the sending of the last answer included.
    Idle,
}

/// Shared between a connection's reader, its requests and its timer.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    /// Milliseconds after `start` when the phase began.
    since: AtomicU64,
    requests: AtomicUsize,
    /// Bytes of a head have arrived that no request has taken.
    head: AtomicBool,
    touched: AtomicBool,
    /// HTTP/2 reads are frames of any kind: they start no head.
    multiplexed: bool,
    /// The connection was refused while the peer may still be sending.
    refused: AtomicBool,
    /// The peer takes nothing any more.
    cut: tokio::sync::Notify,
}

impl Activity {
    pub fn new(multiplexed: bool) -> Self {
        Self {
            start: Instant::now(),
            since: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
            head: AtomicBool::new(false),
            touched: AtomicBool::new(false),
            multiplexed,
            refused: AtomicBool::new(false),
            cut: tokio::sync::Notify::new(),
        }
    }

    pub fn bytes_read(&self) {
        if self.multiplexed || self.requests.load(Ordering::Relaxed) > 0 {
            return;
        }
        if !self.touched.swap(true, Ordering::Relaxed) {
            // A first head is timed from the start of the connection.
            self.head.store(true, Ordering::Relaxed);
        } else if !self.head.swap(true, Ordering::Relaxed) {
            self.note();
        }
    }

    /// Busy until the returned value is dropped.
    pub fn request(self: &std::sync::Arc<Self>) -> Busy {
        self.touched.store(true, Ordering::Relaxed);
        self.head.store(false, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    pub fn phase(&self) -> Phase {
        if self.requests.load(Ordering::Relaxed) > 0 {
            Phase::Busy
        } else if self.head.load(Ordering::Relaxed) {
            Phase::Head
        } else if self.touched.load(Ordering::Relaxed) {
            Phase::Idle
        } else {
            Phase::Fresh
        }
    }

    /// When the phase's time is over; `None` while busy.
    pub fn deadline(&self, header_timeout: Duration, idle_timeout: Duration) -> Option<Instant> {
        let since = self.start + Duration::from_millis(self.since.load(Ordering::Relaxed));
        match self.phase() {
            Phase::Busy => None,
            Phase::Fresh | Phase::Head => Some(since + header_timeout),
            Phase::Idle => Some(since + idle_timeout),
        }
    }

    pub fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Ends the connection, unless requests are in flight on it.
    pub fn cut(&self) {
        self.cut.notify_one();
    }

    /// Resolves when somebody wants the connection ended on which nothing is in flight.
    pub async fn was_cut(&self) {
        loop {
            self.cut.notified().await;
            if self.requests.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }

    fn note(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX >> 20);
        self.since.store(millis, Ordering::Relaxed);
    }
}

pub(super) struct Busy(std::sync::Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.note();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn phases() {
        let activity = Arc::new(Activity::new(false));
        assert_eq!(activity.phase(), Phase::Fresh);
        activity.bytes_read();
        assert_eq!(activity.phase(), Phase::Head);
        let busy = activity.request();
        activity.bytes_read();
        assert_eq!(activity.phase(), Phase::Busy);
        assert_eq!(activity.deadline(Duration::ZERO, Duration::ZERO), None);
        drop(busy);
        assert_eq!(activity.phase(), Phase::Idle);
        activity.bytes_read();
        assert_eq!(activity.phase(), Phase::Head);
    }

    #[test]
    fn frames_of_http2_start_no_head() {
        let activity = Arc::new(Activity::new(true));
        activity.bytes_read();
        assert_eq!(activity.phase(), Phase::Fresh);
        let (one, two) = (activity.request(), activity.request());
        drop(one);
        assert_eq!(activity.phase(), Phase::Busy);
        drop(two);
        activity.bytes_read();
        assert_eq!(activity.phase(), Phase::Idle);
    }
}
