//! Everything that can be asked of the operations: calls of KMS, commands of the local operator, timers of the service.
//! All three go through the same pipeline.

mod answers;
mod commands;

pub use answers::*;
pub use commands::*;

use crate::authn::Caller;
use crate::ids::{KeyId, KeyStoreId};
use crate::ops::{
    AuditAnswer, AuditRequest, ManagedKey, OpError, Operation, Request, Response, StsRequest, StsResponse,
};

/// One thing to do, parsed and valid in form.
#[derive(Debug, Clone)]
pub enum Task {
    Kms(Request),
    Operator(OperatorRequest),
    Timer(TimerRequest),
    Sts(StsRequest),
    /// Readers of the log, over the network.
    Audit(AuditRequest),
}

/// What the service does by itself.
#[derive(Debug, Clone)]
pub enum TimerRequest {
    /// The deletion window of this key has passed.
    DeleteKey { key: KeyId },
    /// A key store waits to be connected: after ConnectCustomKeyStore, and at start.
    ConnectKeyStore { id: KeyStoreId },
    /// A service named its AWS managed key of an account for the first time.
    MakeManagedKey(ManagedKey),
    /// The key behind these aliases has used its share of the GCM budget (`rotation.at_usage`).
    Rotate { key: KeyId },
    /// A key for session tokens where one is needed; what no session needs any more goes.
    SessionKeys,
}

/// What an operation answers.
#[derive(Debug, Clone)]
pub enum Answer {
    Kms(Response),
    Operator(OperatorResponse),
    Timer,
    Sts(StsResponse),
    Audit(AuditAnswer),
}

impl Task {
    /// `eventName` of the audit record.
    pub fn name(&self) -> &'static str {
        match self {
            Task::Kms(request) => request.operation().name(),
            Task::Operator(request) => request.name(),
            Task::Timer(TimerRequest::DeleteKey { .. }) => "DeleteKey",
            Task::Timer(TimerRequest::ConnectKeyStore { .. }) => "KeyStoreConnection",
            Task::Timer(TimerRequest::Rotate { .. }) => "RotateAlias",
            Task::Timer(TimerRequest::MakeManagedKey(_)) => "CreateKey",
            Task::Timer(TimerRequest::SessionKeys) => "SessionKeys",
            Task::Sts(request) => request.name(),
            Task::Audit(request) => request.name(),
        }
    }

    /// With what the caller's session brings along.
    pub fn asked_by(self, caller: &Caller) -> Result<Self, OpError> {
        match self {
            Task::Sts(request) => request.asked_by(caller).map(Task::Sts),
            other => Ok(other),
        }
    }

    pub fn operation(&self) -> Option<Operation> {
        match self {
            Task::Kms(request) => Some(request.operation()),
            Task::Operator(_) | Task::Timer(_) | Task::Sts(_) | Task::Audit(_) => None,
        }
    }

    /// Whether it changes anything that outlives the request: such a task has an intent record.
    pub fn changes(&self) -> bool {
        match self {
            Task::Kms(request) => request.operation().changes(),
            Task::Operator(request) => request.changes(),
            Task::Timer(_) => true,
            Task::Sts(_) | Task::Audit(_) => false,
        }
    }

    pub fn is_read_only(&self) -> bool {
        match self {
            Task::Kms(request) => request.operation().is_read_only(),
            Task::Audit(request) => !request.is_change(),
            Task::Operator(_) | Task::Timer(_) | Task::Sts(_) => !self.changes(),
        }
    }
}
