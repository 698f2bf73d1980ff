//! A session that knows of which C_Initialize it is. After another one the numbers of sessions start again, and closing an
//! old session would close somebody's new one.

use std::sync::PoisonError;

use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::error::CallError;
use super::module::Module;
use super::rv;

pub(super) struct Opened {
    module: &'static Module,
    generation: u64,
    /// There until it is dropped.
    session: Option<Session>,
}

impl Opened {
    /// R/W, since some tokens support no others.
    pub(super) fn new(module: &'static Module, slot: Slot) -> Result<Opened, CallError> {
        let generation = module.generation();
        let session = module
            .context
            .open_rw_session_no_drop(slot)
            .map_err(|error| CallError::from_cryptoki("C_OpenSession", &error))?;
        Ok(Opened { module, generation, session: Some(session) })
    }

    /// `None`: the module has been initialised again, and the session went with all others.
    pub(super) fn live(&self) -> Option<&Session> {
        self.session.as_ref().filter(|_| self.module.generation() == self.generation)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let _not_now = self.module.gate.read().unwrap_or_else(PoisonError::into_inner);
        if self.module.generation() == self.generation
            && let Some(session) = self.session.take()
        {
            // A session that does not close is gone already, or stays until C_Finalize.
            if let Err(error) = session.close() {
                let error = CallError::from_cryptoki("C_CloseSession", &error);
                tracing::info!(rv = %rv::said(error.rv), "a session does not close");
            }
        }
    }
}
