//! What a caller names beside a ciphertext. Clients that keep an alias send it on Decrypt too, so an alias also means the
//! keys that it pointed to before, until its history is dropped.

use std::sync::Arc;

use crate::authz::AliasGeneration;
use crate::ids::{AliasName, KeyId};
use crate::ops::resolve::KeyTarget;
use crate::store::{AliasHistory, AliasRecord};

/// What the caller named for a ciphertext, and how the ciphertext's key stands to it.
#[derive(Debug, Clone)]
pub enum Named {
    /// A key id or key ARN.
    Key(KeyId),
    Alias {
        record: Arc<AliasRecord>,
        stay: Stay,
    },
}

/// When an alias pointed to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    Current,
    /// An entry of its history says so that was not dropped; the newest one counts.
    Retired {
        by_rotate: bool,
    },
    /// Never that is known, or history does not count (`decrypt_alias_mode = "strict"`, AWS's rule).
    Never,
}

impl Named {
    /// Whether the caller may have meant this key: no more than that follows, authorisation and state are the key's own.
    pub fn means(&self, key: &KeyId) -> bool {
        match self {
            Named::Key(named) => named == key,
            Named::Alias { stay, .. } => *stay != Stay::Never,
        }
    }

    pub(super) fn generation(&self) -> Option<AliasGeneration> {
        match self {
            Named::Key(_) | Named::Alias { stay: Stay::Never, .. } => None,
            Named::Alias { stay: Stay::Current, .. } => Some(AliasGeneration::Current),
            Named::Alias { stay: Stay::Retired { .. }, .. } => Some(AliasGeneration::Retired),
        }
    }

    /// `kms:RequestAlias`
    pub(super) fn request_alias(&self) -> Option<&AliasName> {
        match self {
            Named::Alias { record, stay: Stay::Current | Stay::Retired { by_rotate: true } } => Some(&record.name),
            Named::Key(_) | Named::Alias { stay: Stay::Never | Stay::Retired { by_rotate: false }, .. } => None,
        }
    }
}

/// How the key of a ciphertext stands to what the caller named beside it.
pub(super) fn how_named((named, alias): (KeyTarget, Option<Arc<AliasRecord>>), key: &KeyId, history: bool) -> Named {
    let Some(record) = alias else { return Named::Key(named.record.id) };
    let retired = |entry: &&AliasHistory| history && entry.key == *key && entry.dropped.is_none();
    let stay = if record.target == *key {
        Stay::Current
    } else {
        match record.history.iter().rev().find(retired) {
            Some(entry) => Stay::Retired { by_rotate: entry.ended_by == AliasHistory::BY_ROTATE },
            None => Stay::Never,
        }
    };
    Named::Alias { record, stay }
}
