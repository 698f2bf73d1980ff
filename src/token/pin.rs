//! A new user PIN without a restart.

use std::sync::Arc;
use std::time::Duration;

use super::guard::PinGuard;
use super::keygen::{Keygen, Task};
use super::renewal;
use super::{ErrorClass, TokenError};

/// How long running calls may take to end.
pub(super) const DRAIN: Duration = Duration::from_secs(10);

pub(super) struct ChangePin {
    pub(super) guard: Arc<dyn PinGuard>,
}

impl Task for ChangePin {
    type Output = ();
    const NAME: &'static str = "change_pin";
    /// A refused PIN leaves the token as it was.
    const TELLS_STATUS: bool = false;
    /// A token that refuses the login comes back by it.
    const WHILE_DOWN: bool = true;

    fn run(self, keygen: &mut Keygen) -> Result<(), TokenError> {
        keygen.keeper.may_try(&*self.guard)?;
        let shared = Arc::clone(&keygen.shared);
        if shared.remembers_pins {
            // All are logged out by it; who comes now waits for this thread.
            renewal::renew(shared.module, Some(&shared), renewal::Why::Pin).inspect_err(|error| shared.note(error))?;
        }
        let calls = shared.queue.pause();
        if !calls.quiet(DRAIN) {
            let detail = "a running call does not end: the PIN is as it was";
            return Err(TokenError::own(ErrorClass::Deadline, "C_Logout", detail));
        }
        change(keygen, self.guard)
    }
}

fn change(keygen: &mut Keygen, guard: Arc<dyn PinGuard>) -> Result<(), TokenError> {
    // RULE: before the login, not after it: from then on old numbers may name other keys.
    keygen.shared.handles.forget();
    let changed = keygen.keeper.log_out().and_then(|()| keygen.keeper.log_in_with(guard));
    keygen.seat.renew();
    match changed {
        Ok(()) => {
            keygen.enumerate()?;
            keygen.shared.close_breaker();
            tracing::info!("the token took the new PIN");
            Ok(())
        }
        Err(refused) => match keygen.keeper.ensure().and_then(|()| keygen.enumerate()) {
            Ok(()) => {
                tracing::warn!(error = %refused, "the new PIN does not work, the old one is used again");
                Err(refused)
            }
            Err(error) => {
                // Said of both: the status is down by this error, whatever the caller makes of the other.
                keygen.shared.note(&error);
                let detail = format!("{}; and with the old PIN: {}", refused.detail, error.detail);
                Err(TokenError { detail, ..refused })
            }
        },
    }
}
