//! Session tokens that were opened before, so that a busy session costs one hash. Says nothing about whether a session is still
//! good: expiry, its holder and revocation are asked at every request.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::digest;

use super::Session;
use super::session_token::{SessionClaims, SessionKeyId};

/// A token that opened.
#[derive(Debug)]
pub struct Opened {
    /// Removed keys take their sessions with them.
    pub key: SessionKeyId,
    pub claims: SessionClaims,
    pub session: Arc<Session>,
}

/// By SHA-256 of the token's text. Bounded.
pub struct OpenedTokens {
    entries: RwLock<HashMap<[u8; 32], Arc<Opened>>>,
    capacity: usize,
}

impl OpenedTokens {
    pub fn new(capacity: usize) -> Self {
        Self { entries: RwLock::default(), capacity }
    }

    pub fn known(&self, token: &str) -> Option<Arc<Opened>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(&hash(token)).cloned()
    }

    /// `now`: seconds since the epoch. Those that ended make room first.
    pub fn keep(&self, token: &str, opened: Opened, now: i64) -> Arc<Opened> {
        let opened = Arc::new(opened);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.capacity {
            entries.retain(|_, old| old.claims.expires > now);
        }
        if entries.len() >= self.capacity
            && let Some(victim) = entries.keys().next().copied()
        {
            entries.remove(&victim);
        }
        entries.insert(hash(token), Arc::clone(&opened));
        opened
    }
}

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}
