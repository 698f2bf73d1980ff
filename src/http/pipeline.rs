//! The path of a request, for every front: one function that reads as a list. Adding a step means editing `run` and its
//! order test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::audit::{AuditError, Journal, Load, Recorded, SignAudit, Strangers};
use crate::authn::federation::FederatedIdentity;
use crate::authn::{Authenticator, Caller, OpenSecret, Principal};
use crate::authz::{self, Environment, Permit, Rules};
use crate::cloudtrail::TrailError;
use crate::http::first_use;
use crate::http::metrics::Metrics;
use crate::http::sheet::{Scene, Sheet};
use crate::http::stream::Streams;
use crate::ids::KeyId;
use crate::kms::{self, WireError};
use crate::ops::{
    self, Answer, AuditRequest, Context, OpError, OperatorRequest, Ops, Request, Resolved, Task, TimerRequest,
};
use crate::s3::S3Error;
use crate::sts::StsError;

/// What the pipeline works with. Put together in `app`.
pub struct Services {
    pub ops: Arc<Ops>,
    pub journal: Journal,
    /// Signs checkpoints, digests and exports with the trail's keys.
    pub signer: Arc<dyn SignAudit>,
    pub authenticator: Authenticator,
    pub secrets: Box<dyn OpenSecret>,
    pub federation: Box<dyn FederatedIdentity>,
    pub strangers: Strangers,
    pub rules: Rules,
    pub metrics: Arc<Metrics>,
    /// Readers of the log.
    pub streams: Streams,
    /// Where the journal is: what is counted in it outlives a store that was put back.
    pub audit_dir: std::path::PathBuf,
    /// How long a call may wait for the token and be worked on there.
    pub token_deadline: Duration,
    /// Milliseconds since the epoch.
    pub now: fn() -> i64,
    /// For the records.
    pub token_serial: String,
    pub token_slot: u64,
}

/// Why a task was not done. `code` and `message` of each are safe to tell.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The KMS front did not understand the request.
    Front(WireError),
    Sts(StsError),
    Trail(TrailError),
    Bucket(S3Error),
    Denied(String),
    Op(OpError),
}

/// One way in: KMS and STS over HTTP, the operator's socket, the service's timers.
pub trait Front: Send + Sync {
    type Reply: Send;

    /// Who asks; `Err` is the whole answer to a stranger, which has no record of its own.
    fn authenticate(&self, services: &Services) -> impl Future<Output = Result<Caller, Self::Reply>> + Send;

    /// What is asked, parsed and validated.
    fn task(&self) -> Result<Task, Failure>;

    fn scene(&self) -> &Scene;

    /// Where a long operation says how far it is, if anybody watches.
    fn progress(&self) -> Option<Arc<ops::Progress>> {
        None
    }

    /// The answer. It takes the proof that the record of it is on stable storage.
    fn reply(&self, caller: &Caller, outcome: Result<Answer, Failure>, recorded: Recorded) -> Self::Reply;

    /// The log could not be written: nothing was done, or nothing of it may be told.
    fn unrecorded(&self, error: &AuditError) -> Self::Reply;
}

/// Authenticate, parse, resolve, authorise, record the intent, act, record the outcome, answer.
pub async fn run<F: Front>(services: &Services, front: &F) -> F::Reply {
    let started = Instant::now();
    let caller = match front.authenticate(services).await {
        Ok(caller) => caller,
        Err(reply) => return reply,
    };
    services.ops.signed(&caller, front.scene().event_source, (services.now)());
    let mut sheet = Sheet::new(front.scene(), &caller, services);
    let span = tracing::debug_span!("request", request_id = %front.scene().request_id, call = Empty, key = Empty);
    let task = front.task();
    let settled = match services.journal.admit(load(&task)) {
        Ok(()) => steps(services, front, task, caller.clone(), &mut sheet, started).instrument(span).await,
        Err(error) => Err(error),
    };
    let (outcome, recorded) = match settled {
        Ok(settled) => settled,
        Err(error) => {
            services.metrics.observe(sheet.name(), "KMSInternalException", started.elapsed().as_secs_f64());
            tracing::error!(request_id = %front.scene().request_id, %error, "not recorded, not done");
            return front.unrecorded(&error);
        }
    };
    services.metrics.observe(sheet.name(), code(&outcome), started.elapsed().as_secs_f64());
    front.reply(&caller, outcome, recorded)
}

/// Where room is short, what can be sent again waits: the rest may be what makes room.
fn load(task: &Result<Task, Failure>) -> Load {
    match task {
        Ok(Task::Kms(request)) if request.operation().is_cryptographic() => Load::DataPlane,
        Ok(_) => Load::Administration,
        Err(_) => Load::DataPlane,
    }
}

/// Every way through here ends with one durable record; the only error is that there is none.
async fn steps<F: Front>(
    services: &Services,
    front: &F,
    task: Result<Task, Failure>,
    caller: Caller,
    sheet: &mut Sheet<'_>,
    started: Instant,
) -> Result<(Result<Answer, Failure>, Recorded), AuditError> {
    let scene = front.scene();
    // 1. what: a typed request
    let task = match task {
        Ok(task) => task,
        Err(failure) => return refuse(services, sheet, failure).await,
    };
    sheet.asked(&task, services.ops.contexts());
    Span::current().record("call", sheet.name());
    let words = Words::of(&task);
    let task = match task.asked_by(&caller) {
        Ok(task) => task,
        Err(error) => return refuse(services, sheet, failed(words, error)).await,
    };
    // An AWS managed key that its service names for the first time is made now.
    if let Err(failure) = first_use::make_managed_key(services, &task, &caller).await {
        return refuse(services, sheet, failure).await;
    }
    // 2. on what: names become things, once, from one snapshot
    let new_id = new_key_id(&task);
    let principal = fair_share_of(&caller);
    let resolved = match services.ops.resolve(task, caller.account(), &principal, new_id) {
        Ok(resolved) => resolved,
        Err(error) => return refuse(services, sheet, failed(words, error)).await,
    };
    sheet.resolved(&resolved);
    if let Some(arn) = resolved.key_arn() {
        Span::current().record("key", arn);
    }
    // 3. may they: every check, on what was resolved
    let context = Context {
        progress: front.progress(),
        request_id: scene.request_id.clone(),
        principal,
        account: caller.account().clone(),
        now: (services.now)(),
        deadline: started + services.token_deadline,
    };
    let environment = Environment {
        now: context.now,
        source_ip: scene.source_ip,
        secure_transport: scene.tls.is_some(),
        user_agent: scene.user_agent.clone(),
        region: services.ops.locality().region.clone(),
    };
    let permit: Permit<Resolved> = match authz::decide(caller, resolved, environment, &services.rules) {
        Ok(permit) => permit,
        Err(denied) => {
            sheet.decided(&denied.grounds);
            let action = denied.grounds.checks.last().map_or("", |check| check.action);
            let told = denied.resolved.told_instead(&denied.caller, action);
            return refuse(services, sheet, Failure::Denied(told.unwrap_or(denied.message))).await;
        }
    };
    sheet.decided(permit.grounds());
    // 4. an intent on disk before anything changes
    let changes = permit.resolved().task().changes();
    if changes {
        services.journal.append(sheet.intent(services)).await?;
    }
    // 5. act: state, usage, DryRun, then the token or the store
    let acted = services.ops.act(&permit, &context).await;
    acted.effects.forget.iter().for_each(|id| services.authenticator.forget(id));
    if let Err(error) = &acted.result {
        log_cause(scene, sheet.name(), error);
    }
    // 6. the outcome on disk before the answer
    let outcome = acted.result.map_err(|error| failed(words, error));
    let event = sheet.outcome(services, &outcome, permit.resolved(), &acted.effects);
    let at = event.time;
    let recorded = services.journal.append(event).await?;
    if changes {
        services.ops.outcome_recorded(&scene.request_id);
    }
    if outcome.is_ok() {
        let event_id = recorded.event_id().hyphenated();
        let mut text = uuid::Uuid::encode_buffer();
        services.ops.used(
            permit.resolved(),
            sheet.principal_arn(),
            at,
            &scene.request_id,
            event_id.encode_lower(&mut text),
            recorded.seq(),
        );
    }
    // 7. the answer takes `Recorded`
    Ok((outcome, recorded))
}

/// A request that went no further: one record, then the answer.
async fn refuse(
    services: &Services,
    sheet: &Sheet<'_>,
    failure: Failure,
) -> Result<(Result<Answer, Failure>, Recorded), AuditError> {
    let recorded = services.journal.append(sheet.refusal(services, &failure)).await?;
    Ok((Err(failure), recorded))
}

/// An operation's error in the words of the front that was asked.
fn failed(words: Words, error: OpError) -> Failure {
    match words {
        Words::Kms => Failure::Op(error),
        Words::Sts => Failure::Sts((&error).into()),
        Words::CloudTrail => Failure::Trail((&error).into()),
        Words::S3 => Failure::Bucket((&error).into()),
    }
}

/// Whose words an operation's error is told in.
#[derive(Clone, Copy)]
enum Words {
    Kms,
    Sts,
    CloudTrail,
    S3,
}

impl Words {
    fn of(task: &Task) -> Words {
        match task {
            Task::Sts(_) => Words::Sts,
            Task::Audit(AuditRequest::Trail(_) | AuditRequest::Stream(_)) => Words::CloudTrail,
            Task::Audit(AuditRequest::Bucket(_)) => Words::S3,
            Task::Audit(AuditRequest::Export(_) | AuditRequest::Report(_)) => Words::Kms,
            Task::Kms(_) | Task::Operator(_) | Task::Timer(_) => Words::Kms,
        }
    }
}

impl Failure {
    /// Exception name and text as a caller of KMS gets them.
    pub fn wire(&self) -> WireError {
        match self {
            Failure::Front(error) => error.clone(),
            Failure::Denied(message) => kms::access_denied(message.clone()),
            Failure::Op(error) => kms::wire_error(error),
            // The other fronts have tables of their own; this is what a record says.
            Failure::Trail(error) => WireError {
                status: error.status,
                code: error.code,
                message: Some(error.message.clone()),
                capital_message: false,
            },
            Failure::Bucket(error) => WireError {
                status: error.status,
                code: error.code,
                message: Some(error.message.clone()),
                capital_message: false,
            },
            Failure::Sts(error) => WireError {
                status: error.status(),
                code: error.code(),
                message: Some(error.message()),
                capital_message: false,
            },
        }
    }
}

fn code(outcome: &Result<Answer, Failure>) -> &'static str {
    match outcome {
        Ok(_) => "Success",
        Err(failure) => failure.wire().code,
    }
}

/// What makes a key needs its id before the intent record.
fn new_key_id(task: &Task) -> KeyId {
    match task {
        Task::Kms(Request::CreateKey(_) | Request::RotateAlias(_))
        | Task::Operator(
            OperatorRequest::Rotate { .. } | OperatorRequest::KeyAdopt(_) | OperatorRequest::KeyCreate(_),
        )
        | Task::Timer(TimerRequest::Rotate { .. } | TimerRequest::MakeManagedKey(_)) => {
            KeyId::new(uuid::Uuid::new_v4().into_bytes(), false)
        }
        _ => KeyId::new([0; 16], false),
    }
}

/// Whom the token's queue counts this call for, and whose ClientTokens these are.
pub(super) fn fair_share_of(caller: &Caller) -> Arc<str> {
    match caller.principal() {
        Principal::Root => caller.account().as_str().into(),
        Principal::Bridge => "service".into(),
        principal => principal.owner().into(),
    }
}

/// Causes stay here: the caller gets a safe text.
fn log_cause(scene: &Scene, name: &str, error: &OpError) {
    match error {
        OpError::Token(_) | OpError::Internal(_) | OpError::DependencyTimeout(_) => {
            tracing::error!(request_id = %scene.request_id, call = name, %error, "failed");
        }
        _ => tracing::debug!(request_id = %scene.request_id, call = name, %error, "refused"),
    }
}
