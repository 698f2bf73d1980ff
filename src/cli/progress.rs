//! How far a long command is: a bar on standard error where that is a terminal, and nothing otherwise.

use std::sync::atomic::Ordering::Relaxed;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::app::PROGRESS_INTERVAL;
use crate::ops::Progress;

/// Made when the total is known first; cleared when it goes.
#[derive(Default)]
pub struct Bar(Option<ProgressBar>);

impl Bar {
    pub fn show(&mut self, done: u64, total: u64) {
        if total == 0 {
            return;
        }
        let bar = self.0.get_or_insert_with(|| bar(total));
        bar.set_length(total);
        bar.set_position(done.min(total));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A bar of this length.
pub fn bar(total: u64) -> ProgressBar {
    // The target draws nothing where standard error is no terminal.
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Shows the progress of work in this process until it is done.
pub async fn watch<T>(work: impl Future<Output = T>, progress: &Progress, bar: &mut Bar) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => bar.show(progress.done.load(Relaxed), progress.total.load(Relaxed)),
        }
    }
}
