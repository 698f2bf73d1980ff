//! What several tokens are and can do together.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::token::{About, Capabilities, Gauges};

/// The first one's name and number, and what all can do.
pub(super) fn about<'a>(first: &About, others: impl Iterator<Item = &'a About>) -> About {
    let mut can = (*first.capabilities).clone();
    for other in others {
        intersect(&mut can, &other.capabilities);
    }
    About { capabilities: Arc::new(can), ..first.clone() }
}

/// What keeps a token from being one with the others: nobody knows beforehand which of them will do a call.
pub(super) fn unlike(one: &About, other: &About) -> Option<&'static str> {
    if one.iv_len != other.iv_len {
        return Some("its IVs have another length than those of the others");
    }
    (one.system_labels != other.system_labels)
        .then_some("its profile gives the bridge's own keys other labels than the others have")
}

fn intersect(can: &mut Capabilities, other: &Capabilities) {
    // All of them by name, so that a new one is not forgotten. Who chooses the IV matters to nobody here: `unlike`.
    let Capabilities {
        aes_gcm,
        gcm_iv: _,
        key_kinds,
        rsa_pkcs1v15,
        rsa_pss,
        ecdsa,
        ed25519,
        ml_dsa,
        hmac,
        oaep_hashes,
        max_sessions,
        mechanisms,
    } = other;
    can.aes_gcm &= aes_gcm;
    can.rsa_pkcs1v15 &= rsa_pkcs1v15;
    can.ed25519 &= ed25519;
    can.key_kinds.retain(|kind| key_kinds.contains(kind));
    can.rsa_pss.retain(|hash| rsa_pss.contains(hash));
    can.ecdsa.retain(|curve| ecdsa.contains(curve));
    can.ml_dsa.retain(|set| ml_dsa.contains(set));
    can.hmac.retain(|hash| hmac.contains(hash));
    can.oaep_hashes.retain(|hash| oaep_hashes.contains(hash));
    can.mechanisms.retain(|mechanism| mechanisms.contains(mechanism));
    can.max_sessions = match (can.max_sessions, *max_sessions) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
}

pub(super) fn gauges(all: impl Iterator<Item = Gauges>) -> Gauges {
    let mut sum = Gauges::default();
    let mut errors: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (well, mut first) = (sum.health.breaker, true);
    for one in all {
        sum.queued += one.queued;
        sum.keygen_queued += one.keygen_queued;
        sum.workers += one.workers;
        sum.sessions_replaced += one.sessions_replaced;
        sum.debris += one.debris;
        sum.duplicates += one.duplicates;
        let (outages, lost_threads) =
            (sum.health.outages + one.health.outages, sum.health.lost_threads + one.health.lost_threads);
        // Told of the one that fares best: the key store is as well as that one.
        if first || (sum.health.breaker != well && one.health.breaker == well) {
            sum.health = one.health;
        }
        (sum.health.outages, sum.health.lost_threads) = (outages, lost_threads);
        first = false;
        for (class, count) in one.errors {
            *errors.entry(class).or_default() += count;
        }
    }
    sum.errors = errors.into_iter().collect();
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::MlDsa;

    #[test]
    fn a_key_store_can_do_what_each_of_its_tokens_can() {
        let mut can = Capabilities {
            ed25519: true,
            ml_dsa: vec![MlDsa::MlDsa44, MlDsa::MlDsa65],
            max_sessions: Some(9),
            ..Capabilities::default()
        };
        let other = Capabilities { ml_dsa: vec![MlDsa::MlDsa65], max_sessions: Some(4), ..Capabilities::default() };
        intersect(&mut can, &other);
        assert_eq!(can, other);
    }
}
