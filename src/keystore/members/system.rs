//! The bridge's own keys, which have to be the same on all members: what one sealed the others have to open, and a pair has
//! one public key. A member whose keys differ is refused, whatever else it holds.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Mutex;

use crate::secret::SecretBytes;
use crate::token::{CallContext, ErrorClass, GcmOutput, KeyRef, SystemKey, Token, TokenError};

/// RULE SP 800-38D, and design: every use of AES-GCM that is no KMS ciphertext has a first AAD string of its own.
const AAD: &[u8] = b"hsm-bridge/members/1";
const LEN: usize = 16;

#[derive(Default)]
pub(super) struct SystemKeys {
    /// What the first member showed, in the order of `SystemKey::ALL`.
    known: Mutex<[Option<Known>; 4]>,
    /// Members where it was compared, a bit each.
    on: [AtomicU32; 4],
    /// Members that have to show them again.
    doubted: AtomicU32,
}

enum Known {
    /// Random bytes, and what the key made of them.
    Sealed { plaintext: SecretBytes, output: GcmOutput },
    /// SubjectPublicKeyInfo.
    Public(Vec<u8>),
}

/// What the bridge's own keys on a member say of it.
#[derive(Debug)]
pub(super) enum Verdict {
    Same,
    /// It is no member of this key store, or not yet. Safe for `/readyz`.
    Refused(String),
    /// It could not show them.
    Failed(TokenError),
}

fn slot_of(key: SystemKey) -> usize {
    SystemKey::ALL.iter().position(|known| *known == key).unwrap_or(0)
}

/// Made by `init` or when a key store is connected, and never later: who lacks it does not hold this key store.
fn is_old(key: SystemKey) -> bool {
    key != SystemKey::Attest
}

impl SystemKeys {
    pub(super) fn is_on(&self, key: SystemKey, place: usize) -> bool {
        let bits = self.on.get(slot_of(key)).map_or(0, |bits| bits.load(Ordering::Relaxed));
        bits & bit(place) != 0
    }

    /// Some member has one that this one has not shown.
    pub(super) fn lacks(&self, place: usize) -> bool {
        self.on.iter().any(|bits| {
            let bits = bits.load(Ordering::Relaxed);
            bits != 0 && bits & bit(place) == 0
        })
    }

    pub(super) fn doubt(&self, place: usize) {
        self.doubted.fetch_or(bit(place), Ordering::Relaxed);
    }

    /// `true`: it was doubted; said once.
    pub(super) fn take_doubt(&self, place: usize) -> bool {
        self.doubted.fetch_and(!bit(place), Ordering::Relaxed) & bit(place) != 0
    }

    fn set(&self, key: SystemKey, place: usize, on: bool) {
        if let Some(bits) = self.on.get(slot_of(key)) {
            match on {
                true => bits.fetch_or(bit(place), Ordering::Relaxed),
                false => bits.fetch_and(!bit(place), Ordering::Relaxed),
            };
        }
    }

    /// The key was made a moment ago, there and nowhere else: what was known of it is void.
    pub(super) async fn made(&self, key: SystemKey) {
        if let Some(known) = self.known.lock().await.get_mut(slot_of(key)) {
            *known = None;
        }
        if let Some(bits) = self.on.get(slot_of(key)) {
            bits.store(0, Ordering::Relaxed);
        }
    }

    /// Compares the member's keys with what is known of them. The first member shows what there is to know.
    pub(super) async fn compare(&self, place: usize, token: &Token, ctx: &CallContext) -> Verdict {
        let compared = async {
            let mut known = self.known.lock().await;
            for (key, known) in SystemKey::ALL.into_iter().zip(known.iter_mut()) {
                match compare_one(key, known, token, ctx).await {
                    Ok(Found::Same) => self.set(key, place, true),
                    Ok(Found::Absent) => self.set(key, place, false),
                    Ok(Found::Lacking) => {
                        self.set(key, place, false);
                        return Verdict::Refused(format!("it lacks the bridge's own key `{}`", key.name()));
                    }
                    Ok(Found::Other) => {
                        self.set(key, place, false);
                        return Verdict::Refused(format!(
                            "its key `{}` is another than that of the others",
                            key.name()
                        ));
                    }
                    Err(error) => return Verdict::Failed(error),
                }
            }
            Verdict::Same
        };
        // Reading a public key has the patience of key generation, which is too long here.
        match tokio::time::timeout_at(ctx.deadline.into(), compared).await {
            Ok(verdict) => verdict,
            Err(_) => Verdict::Failed(TokenError::own(ErrorClass::Deadline, "members", "it does not answer in time")),
        }
    }
}

enum Found {
    Same,
    /// Nobody has it, or it may come later.
    Absent,
    Lacking,
    Other,
}

async fn compare_one(
    key: SystemKey,
    known: &mut Option<Known>,
    token: &Token,
    ctx: &CallContext,
) -> Result<Found, TokenError> {
    let used = KeyRef::System(key);
    match token.check(ctx, &used).await {
        Ok(_) => {}
        Err(error) if error.class == ErrorClass::KeyMissing => {
            return Ok(if known.is_some() && is_old(key) { Found::Lacking } else { Found::Absent });
        }
        Err(error) if error.class == ErrorClass::WrongKey => return Ok(Found::Other),
        Err(error) => return Err(error),
    }
    match known {
        None if key == SystemKey::Attest => *known = Some(Known::Public(token.system_public_key(ctx, key).await?)),
        None => {
            let plaintext = token.random(ctx, LEN).await?.value;
            let output = token.encrypt(ctx, &used, AAD.to_vec(), plaintext.clone()).await?.value;
            *known = Some(Known::Sealed { plaintext, output });
        }
        Some(Known::Public(public)) => {
            if token.system_public_key(ctx, key).await? != *public {
                return Ok(Found::Other);
            }
        }
        Some(Known::Sealed { plaintext, output }) => {
            let (iv, sealed) = (output.iv.clone(), output.ciphertext.clone());
            match token.decrypt(ctx, &used, iv, AAD.to_vec(), sealed).await {
                Ok(opened) if opened.value.expose() == plaintext.expose() => {}
                Ok(_) => return Ok(Found::Other),
                Err(error) if matches!(error.class, ErrorClass::Data | ErrorClass::WrongKey) => {
                    return Ok(Found::Other);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Found::Same)
}

fn bit(place: usize) -> u32 {
    u32::try_from(place).ok().and_then(|place| 1u32.checked_shl(place)).unwrap_or(0)
}
