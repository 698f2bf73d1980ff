//! When an access key was last used: noted in memory on the way of a request, written in the background. And the alarm that a
//! root user's use raises.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::authn::{Caller, Principal};
use crate::ids::{AccessKeyId, Region};
use crate::ops::{Ops, store_error};
use crate::store::{AccessKeyUse, StoreError, UpdateError, Write};

/// A key's use is written once in this time: what GetAccessKeyLastUsed says is that exact.
const EXACT_TO_MS: i64 = 15 * 60_000;
const ALARM_EVERY_MS: i64 = 60_000;

/// What was noted and is not written yet.
#[derive(Debug, Default)]
pub struct AccessKeyUses {
    noted: Mutex<HashMap<AccessKeyId, AccessKeyUse>>,
    last_alarm: AtomicI64,
}

impl AccessKeyUses {
    fn note(&self, id: &AccessKeyId, at: i64, service: &str, region: &Region) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if !noted.contains_key(id) {
            let used = AccessKeyUse { at, service: service.to_owned(), region: region.clone() };
            noted.insert(id.clone(), used);
        }
    }

    fn take(&self) -> HashMap<AccessKeyId, AccessKeyUse> {
        std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this use of a root user is the first within a minute.
    fn alarms(&self, now: i64) -> bool {
        let last = self.last_alarm.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= ALARM_EVERY_MS || now < last;
        due && self.last_alarm.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Ops {
    /// A caller whose signature verified. `source`: `kms.amazonaws.com`.
    pub fn signed(&self, caller: &Caller, source: &str, now: i64) {
        let Some(id) = caller.access_key() else { return };
        if *caller.principal() == Principal::Root && self.access_key_uses.alarms(now) {
            // RULE authorization.md §4.1: the use of root is an alarm. Each single use is a record of the audit log, whose
            // `userIdentity.type` is `Root`.
            tracing::warn!(
                account = %caller.account(),
                access_key = %id,
                "the root user signs requests: make an administrator and disable root (`iam root disable`)"
            );
        }
        let snapshot = self.store.snapshot();
        // Temporary credentials have no record.
        let Some(record) = snapshot.access_keys.get(id) else { return };
        if record.last_used.as_ref().is_none_or(|used| now.saturating_sub(used.at) >= EXACT_TO_MS) {
            let service = source.strip_suffix(".amazonaws.com").unwrap_or(source);
            self.access_key_uses.note(id, now, service, &self.locality.region);
        }
    }

    /// Writes what was noted. Not audited: it changes what nobody is allowed anything by.
    pub async fn write_access_key_uses(&self) {
        let noted = self.access_key_uses.take();
        if noted.is_empty() {
            return;
        }
        let written = self
            .store
            .update(move |snapshot| {
                let mut writes = Vec::with_capacity(noted.len());
                for (id, used) in noted {
                    // Deleted meanwhile: it stays so.
                    let Some(record) = snapshot.access_keys.get(&id) else { continue };
                    let mut record = record.as_ref().clone();
                    record.last_used = Some(used);
                    writes.push(Write::PutAccessKey(record));
                }
                Ok::<_, StoreError>((writes, ()))
            })
            .await;
        if let Err(UpdateError::Refused(error) | UpdateError::Failed(error)) = written {
            tracing::warn!(error = %store_error(error), "last uses of access keys are not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_use_is_kept_until_it_is_taken() {
        let uses = AccessKeyUses::default();
        let id: AccessKeyId = "AKIAGAYTEMZUGU3DOOBZ".parse().unwrap();
        let region: Region = "eu-central-1".parse().unwrap();
        uses.note(&id, 5, "kms", &region);
        uses.note(&id, 9, "sts", &region);
        let taken = uses.take();
        assert_eq!(taken.get(&id), Some(&AccessKeyUse { at: 5, service: "kms".to_owned(), region }));
        assert!(uses.take().is_empty());
    }

    #[test]
    fn root_alarms_once_a_minute_and_after_a_jump_of_the_clock() {
        let uses = AccessKeyUses::default();
        let times = [100_000, 100_001, 159_999, 160_000, 160_001, 50_000, 50_001];
        let alarms: Vec<bool> = times.into_iter().map(|now| uses.alarms(now)).collect();
        assert_eq!(alarms, [true, false, false, true, false, true, false]);
    }
}
