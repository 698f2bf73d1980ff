//! The three kinds of sinks as their runner sees them.

use super::otlp::Otlp;
use super::syslog::Syslog;
use super::webhook::Webhook;
use super::{Batches, Target};
use crate::audit::follow::Followed;

/// Records in their order. `next`: seq of the first record behind them, those that are left out included.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub records: Vec<Followed>,
    pub next: u64,
}

/// What is written at once to a receiver that takes a stream.
const STREAMED: Batches = Batches { records: 500, bytes: 256 * 1024 };

impl Target {
    pub(super) fn batches(&self) -> Batches {
        match self {
            Target::Syslog(_) => STREAMED,
            Target::Webhook(target) => target.batch,
            Target::Otlp(target) => target.batch,
        }
    }
}

pub(super) enum Delivery {
    Syslog(Box<Syslog>),
    Webhook(Box<Webhook>),
    Otlp(Box<Otlp>),
}

impl Delivery {
    pub async fn open(target: &Target, trail: &str) -> Result<Self, String> {
        Ok(match target {
            Target::Syslog(target) => Self::Syslog(Box::new(Syslog::open(target).await?)),
            Target::Webhook(target) => Self::Webhook(Box::new(Webhook::open(target, trail)?)),
            Target::Otlp(target) => Self::Otlp(Box::new(Otlp::open(target, trail)?)),
        })
    }

    /// Sends; what is acknowledged by then, if anything is: all before this seq.
    pub async fn send(&mut self, batch: &Batch, now_ms: i64) -> Result<Option<u64>, String> {
        match self {
            Self::Syslog(syslog) => syslog.send(batch).await.map(|()| syslog.arrived()),
            Self::Webhook(webhook) => webhook.send(batch, now_ms).await.map(|()| Some(batch.next)),
            Self::Otlp(otlp) => otlp.send(batch, now_ms).await.map(|()| Some(batch.next)),
        }
    }

    pub async fn heartbeat(&mut self, line: &str, now_ms: i64) -> Result<(), String> {
        match self {
            Self::Syslog(syslog) => syslog.heartbeat(line).await,
            Self::Webhook(webhook) => webhook.heartbeat(line, now_ms).await,
            Self::Otlp(otlp) => otlp.heartbeat(line, now_ms).await,
        }
    }

    /// Waits for a late acknowledgement; an error when the receiver goes away. May be dropped while it waits.
    pub async fn watch(&mut self) -> Result<Option<u64>, String> {
        match self {
            Self::Syslog(syslog) => syslog.watch().await.map(|()| syslog.arrived()),
            Self::Webhook(_) | Self::Otlp(_) => std::future::pending().await,
        }
    }

    /// A regular end, where there is one.
    pub async fn close(&mut self) {
        match self {
            Self::Syslog(syslog) => syslog.close().await,
            Self::Webhook(_) | Self::Otlp(_) => {}
        }
    }

    /// Records that were left out come after what was sent, so they count as acknowledged when nothing is on its way.
    pub fn skipped(&mut self, next: u64) -> Option<u64> {
        match self {
            Self::Syslog(syslog) => syslog.skip(next),
            Self::Webhook(_) | Self::Otlp(_) => Some(next),
        }
    }
}
