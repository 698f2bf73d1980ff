//! Cluster ids: what a configured token is called in the API. An id is configured, or derived from the serial when the token
//! is first seen, and kept from then on.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};

use crate::ids::ClusterId;
use crate::secret::associated_data;
use crate::store::{Snapshot, TokenRecord};
use crate::token::TokenInfo;

/// The name under which `[token]` is recorded.
pub const DEFAULT_TOKEN: &str = "default";

/// A configured token and what is there of it.
#[derive(Debug, Clone)]
pub struct Presence<'a> {
    pub name: &'a str,
    /// As configured.
    pub cluster: Option<&'a ClusterId>,
    /// `None`: it is not there now.
    pub seen: Option<&'a TokenInfo>,
}

/// Base32 in lower case (`a-z2-7`, the alphabet of the model's pattern): 80 bits of a digest.
pub fn derive_cluster(serial: &str, manufacturer: &str) -> ClusterId {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = digest(&SHA256, &associated_data(&["hsm-bridge/cluster/1", serial, manufacturer]));
    let mut text = String::from("cluster-");
    for five in hash.as_ref().chunks_exact(5).take(2) {
        let bits = five.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for place in (0..8).rev() {
            let index = (bits >> (place * 5)) & 31;
            let letter = ALPHABET.get(index as usize).copied().unwrap_or(b'a');
            text.push(char::from(letter));
        }
    }
    text.parse().expect("sixteen characters of the pattern's alphabet")
}

/// The records to write for tokens that were never seen before. `Err`: what is wrong with the configuration.
pub fn first_seen(tokens: &[Presence<'_>], snapshot: &Snapshot, now: i64) -> Result<Vec<TokenRecord>, String> {
    let mut new = Vec::new();
    let mut clusters: BTreeMap<ClusterId, &str> = BTreeMap::new();
    let mut serials: BTreeMap<String, &str> = BTreeMap::new();
    for token in tokens {
        let record = snapshot.tokens.get(token.name);
        let cluster = match (record, token.cluster) {
            (Some(record), Some(configured)) if record.cluster != *configured => {
                return Err(format!(
                    "token `{}` is configured as `{configured}`, but has been `{}` since it was first seen, and key stores \
                     and keys name it so: set that, or leave `cluster_id` out",
                    token.name, record.cluster
                ));
            }
            (Some(record), _) => Some(record.cluster.clone()),
            (None, configured) => {
                configured.cloned().or_else(|| token.seen.map(|info| derive_cluster(&info.serial, &info.manufacturer)))
            }
        };
        let serial = record.map(|record| &record.serial).or(token.seen.map(|info| &info.serial));
        if let Some(cluster) = &cluster
            && let Some(other) = clusters.insert(cluster.clone(), token.name)
        {
            return Err(format!(
                "tokens `{other}` and `{}` are both `{cluster}`: each needs an id of its own",
                token.name
            ));
        }
        if let Some(serial) = serial
            && let Some(other) = serials.insert(serial.clone(), token.name)
        {
            return Err(format!(
                "tokens `{other}` and `{}` are one token, serial `{serial}`: each key store needs a token of its own",
                token.name
            ));
        }
        if let (None, Some(cluster), Some(info)) = (record, cluster, token.seen) {
            let name = token.name.to_owned();
            new.push(TokenRecord { name, cluster, serial: info.serial.clone(), first_seen: now });
        }
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Write;
    use crate::store::testing::{new_store, put};

    fn info(serial: &str) -> TokenInfo {
        TokenInfo { serial: serial.into(), manufacturer: "SoftHSM project".into(), ..TokenInfo::default() }
    }

    fn cluster(text: &str) -> ClusterId {
        text.parse().unwrap()
    }

    #[test]
    fn a_derived_id_is_the_digest_in_base32() {
        // python3: import hashlib, base64; f = lambda t: len(t).to_bytes(8, "big") + t.encode()
        // base64.b32encode(hashlib.sha256(f("hsm-bridge/cluster/1") + f("0123") + f("SoftHSM project")).digest()[:10]).lower()
        assert_eq!(derive_cluster("0123", "SoftHSM project").as_str(), "cluster-n3xvsct6rd73mdtv");
        assert_ne!(derive_cluster("0123", "x"), derive_cluster("012", "3x"));
    }

    #[tokio::test]
    async fn ids_are_kept_and_others_refused() {
        let (_state, store) = new_store().await;
        let (a, b) = (info("aa"), info("bb"));
        let (own, other) = (cluster("cluster-abcdefghijk"), cluster("cluster-bbbbbbbbbbb"));
        let presence = |name, cluster, seen| Presence { name, cluster, seen };

        let new = first_seen(
            &[
                presence(DEFAULT_TOKEN, None, Some(&a)),
                presence("one", Some(&own), Some(&b)),
                presence("two", None, None),
            ],
            &store.snapshot(),
            7,
        )
        .unwrap();
        let told: Vec<_> = new.iter().map(|r| (r.name.as_str(), r.cluster.clone(), r.serial.as_str())).collect();
        let derived = derive_cluster("aa", "SoftHSM project");
        assert_eq!(told, [(DEFAULT_TOKEN, derived, "aa"), ("one", own.clone(), "bb")], "what is away is not recorded");

        put(&store, new.into_iter().map(Write::PutToken).collect()).await;
        let snapshot = store.snapshot();
        let again = [presence(DEFAULT_TOKEN, None, Some(&a)), presence("one", None, Some(&b))];
        assert!(first_seen(&again, &snapshot, 8).unwrap().is_empty(), "the configured id was kept");
        for (tokens, what) in [
            (vec![presence("one", Some(&other), None)], "has been `cluster-abcdefghijk`"),
            (vec![presence("one", None, None), presence("two", Some(&own), None)], "are both `cluster-abcdefghijk`"),
            (vec![presence("one", None, None), presence("two", None, Some(&b))], "one token, serial `bb`"),
            (vec![presence(DEFAULT_TOKEN, None, Some(&a)), presence("two", None, Some(&a))], "one token, serial `aa`"),
        ] {
            // The serial of `aa` also gives one cluster id; whichever is told first will do.
            let told = first_seen(&tokens, &snapshot, 9).unwrap_err();
            assert!(told.contains(what) || told.contains("are both"), "{told}");
        }
    }
}
