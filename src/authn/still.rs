//! Callers of what lasts: a stream is opened by one signature and read for days.

use super::{Caller, Directory};

/// Whether the credentials that a caller signed with are still good. Whether user, role and session are still there is for the
/// decision, which is asked anew. `now`: seconds since the epoch.
pub fn still_valid(caller: &Caller, directory: &dyn Directory, now: i64) -> bool {
    match (&caller.session, &caller.access_key) {
        (Some(session), _) => now < session.expires,
        (None, Some(id)) => directory.credential(id).is_some_and(|credential| {
            credential.active && credential.account == caller.account && credential.principal == caller.principal
        }),
        (None, None) => false,
    }
}
