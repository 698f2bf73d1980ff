//! Which member holds which key, as far as it is known.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::token::MaterialId;

/// A set of members, by their place in the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Places(u32);

/// `Places` has a bit for each.
pub const MOST_MEMBERS: usize = 32;

impl Places {
    pub(super) fn all(count: usize) -> Places {
        Places((0..count).fold(0, |bits, place| bits | bit(place)))
    }

    pub(super) fn has(self, place: usize) -> bool {
        self.0 & bit(place) != 0
    }

    fn set(&mut self, place: usize, on: bool) {
        if on {
            self.0 |= bit(place);
        } else {
            self.0 &= !bit(place);
        }
    }
}

fn bit(place: usize) -> u32 {
    u32::try_from(place).ok().and_then(|place| 1u32.checked_shl(place)).unwrap_or(0)
}

/// What is known of one key.
#[derive(Debug, Clone, Default)]
pub(super) struct Holding {
    pub(super) on: Places,
    /// Another key has its id there.
    pub(super) wrong: Places,
    /// As it was last used; with it a key can be checked and not only found.
    pub(super) fingerprint: Option<Arc<[u8]>>,
}

#[derive(Default)]
pub(super) struct Holdings(RwLock<HashMap<MaterialId, Holding>>);

impl Holdings {
    pub(super) fn of(&self, material: MaterialId) -> Option<Holding> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&material).cloned()
    }

    /// A member used the key, or showed it.
    pub(super) fn found(&self, material: MaterialId, place: usize, fingerprint: Option<&Arc<[u8]>>) {
        let known = |holding: &Holding| {
            holding.on.has(place)
                && !holding.wrong.has(place)
                && (fingerprint.is_none() || fingerprint == holding.fingerprint.as_ref())
        };
        if self.0.read().unwrap_or_else(PoisonError::into_inner).get(&material).is_some_and(known) {
            return;
        }
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let holding = all.entry(material).or_default();
        holding.on.set(place, true);
        holding.wrong.set(place, false);
        if let Some(fingerprint) = fingerprint {
            holding.fingerprint = Some(Arc::clone(fingerprint));
        }
    }

    /// `true`: it was known to be there.
    pub(super) fn missing(&self, material: MaterialId, place: usize) -> bool {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(holding) = all.get_mut(&material) else { return false };
        let before = holding.on.has(place);
        holding.on.set(place, false);
        holding.wrong.set(place, false);
        before
    }

    /// `true`: this is news.
    pub(super) fn wrong(&self, material: MaterialId, place: usize, fingerprint: Option<&Arc<[u8]>>) -> bool {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let holding = all.entry(material).or_default();
        let before = holding.wrong.has(place);
        holding.on.set(place, false);
        holding.wrong.set(place, true);
        if let Some(fingerprint) = fingerprint {
            holding.fingerprint = Some(Arc::clone(fingerprint));
        }
        !before
    }

    /// What a member says that it holds, instead of what was known of it.
    pub(super) fn lists(&self, place: usize, materials: impl Iterator<Item = MaterialId>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for holding in all.values_mut() {
            holding.on.set(place, false);
            holding.wrong.set(place, false);
        }
        for material in materials {
            all.entry(material).or_default().on.set(place, true);
        }
    }

    pub(super) fn forget(&self, material: MaterialId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&material);
    }

    /// Keys that one of `members` is not known to hold, but another is.
    pub(super) fn unreplicated(&self, members: Places) -> Vec<MaterialId> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let lacking = |holding: &&Holding| holding.on.0 & members.0 != members.0 && holding.on.0 != 0;
        let mut found: Vec<_> = all.iter().filter(|(_, holding)| lacking(holding)).map(|(id, _)| *id).collect();
        found.sort_unstable();
        found
    }

    /// Keys that others hold and this member is not known to.
    pub(super) fn lacked_by(&self, place: usize) -> Vec<(MaterialId, Option<Arc<[u8]>>)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let lacking = all.iter().filter(|(_, holding)| !holding.on.has(place));
        let mut found: Vec<_> = lacking.map(|(id, holding)| (*id, holding.fingerprint.clone())).collect();
        found.sort_unstable_by_key(|(id, _)| *id);
        found
    }

    pub(super) fn held_by(&self, place: usize) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().filter(|h| h.on.has(place)).count()
    }

    pub(super) fn wrong_on(&self, place: usize) -> Vec<MaterialId> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<_> = all.iter().filter(|(_, h)| h.wrong.has(place)).map(|(id, _)| *id).collect();
        found.sort_unstable();
        found
    }
}
