//! A new user PIN without a restart.

use std::sync::Arc;
use std::time::Duration;

use super::guard::{HeldPin, PinGuard, retry_pins};
use super::keygen::{Keygen, Task};
use super::renewal;
use super::{CallContext, ErrorClass, Status, Token, TokenError};
use crate::secret::SecretString;

/// How long running calls may take to end.
const DRAIN: Duration = Duration::from_secs(10);

impl Token {
    /// Logs out and in again with another user PIN, which the officer has set in the token before. The token is drained
    /// first: jobs that come wait, running ones end. The PIN is tried once; where it is refused (class `Operator`) the old
    /// one is used again, and where that fails too the token is down until a PIN works.
    ///
    /// Nothing happens at all (class `Deadline`) where a running call does not end.
    pub async fn change_pin(&self, pin: SecretString) -> Result<(), TokenError> {
        self.change_guard(Arc::new(HeldPin::new(pin, self.0.marks.clone()))).await
    }

    /// The same where somebody else has the PIN.
    pub async fn change_guard(&self, guard: Arc<dyn PinGuard>) -> Result<(), TokenError> {
        let deadline = self.slow_deadline() + DRAIN;
        let ctx = CallContext { principal: "token".into(), deadline, request_id: "change_pin".into() };
        self.task(&ctx, deadline, ChangePin { guard }).await
    }

    /// From now on each PIN of this token may be tried once more on this host. The number of marks that were removed. Blocking.
    pub fn retry_pins(&self) -> Result<usize, TokenError> {
        retry_pins(&self.0.marks, &self.0.shared.serial)
    }
}

struct ChangePin {
    guard: Arc<dyn PinGuard>,
}

impl Task for ChangePin {
    type Output = ();
    const NAME: &'static str = "change_pin";
    /// A refused PIN leaves the token as it was.
    const TELLS_STATUS: bool = false;

    fn run(self, keygen: &mut Keygen) -> Result<(), TokenError> {
        keygen.keeper.may_try(&*self.guard)?;
        let shared = Arc::clone(&keygen.shared);
        if shared.remembers_pins {
            // All are logged out by it; who comes now waits for this thread.
            renewal::renew(shared.module, Some(&shared)).inspect_err(|error| shared.note(error))?;
        }
        let drained = shared.queue.pause(DRAIN);
        let result = if drained {
            change(keygen, self.guard)
        } else {
            Err(TokenError::own(ErrorClass::Deadline, "C_Logout", "a running call does not end: the PIN is as it was"))
        };
        shared.queue.resume();
        result
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
            keygen.shared.set_status(Status::Ready);
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
