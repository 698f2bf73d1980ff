//! The operator front: one JSON line in, one JSON line out. The socket's other end has been told to be the same user.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::audit::{AuditError, EventType, Recorded};
use crate::authn::Caller;
use crate::http::pipeline::{Failure, Front, Services, run};
use crate::http::sheet::Scene;
use crate::ops::{Answer, OperatorRequest, OperatorResponse, Progress, Task, TimerRequest};

/// What the operator is told when a command was not done. The operator is on the host, so texts name files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Told {
    pub code: String,
    pub message: String,
}

/// Runs one command of the local operator.
pub async fn operate(
    services: &Services,
    request: OperatorRequest,
    os_user_id: u32,
    user_agent: Option<String>,
    progress: Arc<Progress>,
) -> Result<OperatorResponse, Told> {
    let account = request.account().unwrap_or(&services.ops.locality().account).clone();
    let caller = Caller::operator(account, os_user_id);
    let scene = local_scene(EventType::HsmBridgeOperatorCall, "hsm-bridge", user_agent);
    let front = LocalFront { scene, caller, task: Task::Operator(request), progress: Some(progress) };
    match run(services, &front).await {
        Ok(Answer::Operator(response)) => Ok(response),
        Ok(other) => Err(Told { code: "Internal".to_owned(), message: format!("unexpected answer {other:?}") }),
        Err(told) => Err(told),
    }
}

/// Destroys a key whose deletion window has passed: the service's own doing, CloudTrail's `DeleteKey` event.
pub async fn delete_key(services: &Services, key: crate::ids::KeyId) -> Result<(), Told> {
    by_the_service(services, TimerRequest::DeleteKey { key }).await
}

/// Rotates a key whose share of the GCM budget is used up.
pub async fn rotate_key(services: &Services, key: crate::ids::KeyId) -> Result<(), Told> {
    by_the_service(services, TimerRequest::Rotate { key }).await
}

async fn by_the_service(services: &Services, request: TimerRequest) -> Result<(), Told> {
    let caller = Caller::bridge(services.ops.locality().account.clone());
    let scene = local_scene(EventType::AwsServiceEvent, "kms.amazonaws.com", None);
    let front = LocalFront { scene, caller, task: Task::Timer(request), progress: None };
    run(services, &front).await.map(|_| ())
}

/// Connects a custom key store: the service's own doing. The answer tells whether it could be recorded, not whether the token
/// was connected.
pub async fn connect_key_store(services: &Services, id: crate::ids::KeyStoreId) -> Result<(), Told> {
    let caller = Caller::bridge(services.ops.locality().account.clone());
    let scene = local_scene(EventType::HsmBridgeSystem, "hsm-bridge", None);
    let front = LocalFront { scene, caller, task: Task::Timer(TimerRequest::ConnectKeyStore { id }), progress: None };
    run(services, &front).await.map(|_| ())
}

/// Makes a key for session tokens, and removes what no session needs any more: the service's own doing.
pub async fn keep_session_keys(services: &Services) -> Result<(), Told> {
    let caller = Caller::bridge(services.ops.locality().account.clone());
    let scene = local_scene(EventType::HsmBridgeSystem, "hsm-bridge", None);
    let front = LocalFront { scene, caller, task: Task::Timer(TimerRequest::SessionKeys), progress: None };
    run(services, &front).await.map(|_| ())
}

pub(super) fn local_scene(event_type: EventType, event_source: &'static str, user_agent: Option<String>) -> Scene {
    Scene {
        request_id: Arc::from(uuid::Uuid::new_v4().to_string()),
        event_source,
        event_type,
        fallback_name: "Unknown",
        source_ip: None,
        user_agent,
        host: None,
        tls: None,
    }
}

/// Asked from this host: who asks is known before the pipeline.
struct LocalFront {
    scene: Scene,
    caller: Caller,
    task: Task,
    /// Somebody at a terminal watches.
    progress: Option<Arc<Progress>>,
}

impl Front for LocalFront {
    type Reply = Result<Answer, Told>;

    async fn authenticate(&self, _: &Services) -> Result<Caller, Self::Reply> {
        Ok(self.caller.clone())
    }

    fn task(&self) -> Result<Task, Failure> {
        Ok(self.task.clone())
    }

    fn scene(&self) -> &Scene {
        &self.scene
    }

    fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }

    fn reply(&self, _: &Caller, outcome: Result<Answer, Failure>, _recorded: Recorded) -> Self::Reply {
        outcome.map_err(|failure| {
            let wire = failure.wire();
            let message = match &failure {
                Failure::Op(error) => error.to_string(),
                _ => wire.message.unwrap_or_else(|| wire.code.to_owned()),
            };
            Told { code: wire.code.to_owned(), message }
        })
    }

    fn unrecorded(&self, error: &AuditError) -> Self::Reply {
        Err(Told { code: "NotRecorded".to_owned(), message: error.to_string() })
    }
}
