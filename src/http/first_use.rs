//! The step before a request that is the first to name an AWS managed key: the key is made, by the service itself and with
//! records of its own. Whoever comes second finds it there.

use crate::audit::{AuditError, EventType, Recorded};
use crate::authn::Caller;
use crate::http::operator::local_scene;
use crate::http::pipeline::{Failure, Front, Services, run};
use crate::http::sheet::Scene;
use crate::ops::{Answer, OpError, Task, TimerRequest};

/// Does nothing unless `task` is the first use of an AWS managed key by its service.
pub async fn make_managed_key(services: &Services, task: &Task, caller: &Caller) -> Result<(), Failure> {
    if services.ops.first_use(task, caller).is_none() {
        return Ok(());
    }
    let _turn = services.ops.turn_to_make().await;
    let Some(wanted) = services.ops.first_use(task, caller) else {
        return Ok(());
    };
    let caller = Caller::bridge(wanted.account.clone());
    let scene =
        Scene { fallback_name: "CreateKey", ..local_scene(EventType::AwsServiceEvent, "kms.amazonaws.com", None) };
    let front = FirstUseFront { scene, caller, task: Task::Timer(TimerRequest::MakeManagedKey(wanted)) };
    // Boxed: the pipeline runs inside itself, once.
    Box::pin(run(services, &front)).await
}

struct FirstUseFront {
    scene: Scene,
    caller: Caller,
    task: Task,
}

impl Front for FirstUseFront {
    type Reply = Result<(), Failure>;

    async fn authenticate(&self, _: &Services) -> Result<Caller, Self::Reply> {
        Ok(self.caller.clone())
    }

    fn task(&self) -> Result<Task, Failure> {
        Ok(self.task.clone())
    }

    fn scene(&self) -> &Scene {
        &self.scene
    }

    fn reply(&self, _: &Caller, outcome: Result<Answer, Failure>, _recorded: Recorded) -> Self::Reply {
        outcome.map(drop)
    }

    /// The request that wanted the key is to be recorded next, and ends there.
    fn unrecorded(&self, error: &AuditError) -> Self::Reply {
        Err(Failure::Op(OpError::Internal(error.to_string())))
    }
}
