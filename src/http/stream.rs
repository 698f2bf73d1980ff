//! `GET /audit/v1/stream`: the log as it grows, as server-sent events or as lines of JSON. Opening one is a request like every
//! other, with a signature, a decision and a record; what is read then comes from the files. Source: audit.md §7.7, and for the
//! form the HTML standard §9.2.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ::http::Method;

use crate::audit::{AuditError, EventType, Recorded};
use crate::authn::{AuthnError, Caller, Service, claimed_access_key, is_on_behalf};
use crate::http::AMZ_JSON;
use crate::http::pipeline::{Failure, Front, Services, fair_share_of, run};
use crate::http::request::{Reply, StreamReply, WireReply, WireRequest};
use crate::http::sheet::Scene;
use crate::kms::{self, WireError};
use crate::ops::identity::SnapshotDirectory;
use crate::ops::{Answer, AuditAnswer, AuditRequest, OpError, StreamRequest, Task};
use crate::secret::SecretBytes;

mod source;

use source::Records;

/// Everything below is the stream's.
pub const PATHS: &str = "/audit/v1/";
const PATH: &str = "/audit/v1/stream";

/// In all, and of one principal.
const MOST: usize = 32;
const MOST_OF_ONE: usize = 8;

/// The open streams, counted by principal.
#[derive(Default)]
pub struct Streams(Arc<Mutex<HashMap<Arc<str>, usize>>>);

impl Streams {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn open(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// `None`: there are enough.
    fn take(&self, principal: Arc<str>) -> Option<Slot> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        if all >= MOST || open.get(&principal).is_some_and(|own| *own >= MOST_OF_ONE) {
            return None;
        }
        *open.entry(principal.clone()).or_default() += 1;
        Some(Slot { streams: self.0.clone(), principal })
    }
}

/// A stream's place, until it is dropped.
struct Slot {
    streams: Arc<Mutex<HashMap<Arc<str>, usize>>>,
    principal: Arc<str>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.principal) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.remove(&self.principal);
            }
        }
    }
}

pub(super) async fn open(services: &Arc<Services>, request: WireRequest) -> Reply {
    let front = StreamFront::new(services.clone(), request);
    run(services, &front).await
}

struct StreamFront {
    services: Arc<Services>,
    request: WireRequest,
    scene: Scene,
    /// What is known once the caller is.
    called: OnceLock<Called>,
    slot: Mutex<Option<Slot>>,
}

struct Called {
    /// Records of the trail when the stream was asked for.
    durable: u64,
    on_behalf: bool,
}

impl StreamFront {
    fn new(services: Arc<Services>, request: WireRequest) -> Self {
        let text = |name| request.value(name).map(|v| String::from_utf8_lossy(v).into_owned());
        let scene = Scene {
            request_id: request.request_id.clone(),
            event_source: "hsm-bridge",
            event_type: EventType::AwsApiCall,
            fallback_name: NAME,
            source_ip: Some(request.source_ip),
            user_agent: text("user-agent"),
            host: request.tls.is_some().then(|| text("host")).flatten(),
            tls: request.tls.clone(),
        };
        Self { services, request, scene, called: OnceLock::new(), slot: Mutex::new(None) }
    }

    fn asked(&self, durable: u64) -> Result<StreamRequest, String> {
        if self.request.path != PATH {
            return Err(format!("there is nothing here but {PATH}"));
        }
        if self.request.method != Method::GET {
            return Err(format!("{PATH} takes GET alone"));
        }
        let last = self.request.value("last-event-id").map(|id| String::from_utf8_lossy(id).into_owned());
        let from_seq = position(&self.request.query, last.as_deref())?.unwrap_or(durable);
        // A reader that has seen more than there is must learn that records are gone.
        if from_seq > durable {
            return Err(format!("the log has {durable} records: there is no record {from_seq} and none before it"));
        }
        let accept = self.request.value("accept").unwrap_or_default();
        Ok(StreamRequest { from_seq: Some(from_seq), ndjson: wants_lines(&String::from_utf8_lossy(accept)) })
    }
}

const NAME: &str = "StreamAudit";

/// Seq of the first record that is wanted. RULE HTML §9.2.4: `Last-Event-ID` comes with the URL of the first time, so it wins.
fn position(query: &str, last_event_id: Option<&str>) -> Result<Option<u64>, String> {
    let number = |what: &str, text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse::<u64>().ok()).flatten();
        number.ok_or_else(|| format!("{what} is no number of a record"))
    };
    if let Some(last) = last_event_id.filter(|last| !last.is_empty()) {
        return number("Last-Event-ID", last).map(|last| Some(last.saturating_add(1)));
    }
    let mut asked = query.split('&').filter_map(|pair| pair.strip_prefix("fromSeq="));
    match (asked.next(), asked.next()) {
        (None, _) => Ok(None),
        (Some(text), None) => number("fromSeq", text).map(Some),
        (Some(_), Some(_)) => Err("fromSeq stands more than once".to_owned()),
    }
}

/// Lines of JSON are for those who ask for them; everybody else gets server-sent events.
fn wants_lines(accept: &str) -> bool {
    let types = accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let first = types.into_iter().find(|kind| kind == "text/event-stream" || kind == "application/x-ndjson");
    first.is_some_and(|kind| kind == "application/x-ndjson")
}

impl Front for StreamFront {
    type Reply = Reply;

    async fn authenticate(&self, services: &Services) -> Result<Caller, Reply> {
        let headers = self.request.header_slices();
        let plain = self.request.plain(&headers);
        let directory = SnapshotDirectory(services.ops.store().snapshot());
        let now = (services.now)() / 1000;
        let (authenticator, secrets) = (&services.authenticator, services.secrets.as_ref());
        match authenticator.authenticate(&plain, Service::CloudTrail, &directory, secrets, now).await {
            Ok(caller) => {
                let called = Called { durable: services.journal.durable(), on_behalf: is_on_behalf(&plain) };
                let _ = self.called.set(called);
                *self.slot.lock().unwrap_or_else(PoisonError::into_inner) =
                    services.streams.take(fair_share_of(&caller));
                Ok(caller)
            }
            Err(error) => {
                match &error {
                    AuthnError::Internal(cause) => {
                        tracing::error!(request_id = %self.request.request_id, %cause, "authentication failed on our side");
                    }
                    _ => {
                        let claimed = claimed_access_key(&plain);
                        let source = self.request.source_ip.to_string();
                        let code = error.stranger_code();
                        services.strangers.note(code, &source, Some(NAME), claimed.as_ref().map(|id| id.as_str()));
                        services.metrics.stranger(code);
                    }
                }
                Err(refused(&kms::authn_error(&error)))
            }
        }
    }

    fn task(&self) -> Result<Task, Failure> {
        let Some(called) = self.called.get() else {
            return Err(Failure::Op(OpError::Internal("a stream without a caller".to_owned())));
        };
        if called.on_behalf {
            return Err(Failure::Denied("The log is not read on behalf of others".to_owned()));
        }
        let asked = self.asked(called.durable).map_err(|message| {
            Failure::Front(WireError {
                status: 400,
                code: "ValidationException",
                message: Some(message),
                capital_message: false,
            })
        })?;
        if self.slot.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Err(Failure::Op(OpError::Throttled));
        }
        Ok(Task::Audit(AuditRequest::Stream(asked)))
    }

    fn scene(&self) -> &Scene {
        &self.scene
    }

    fn reply(&self, caller: &Caller, outcome: Result<Answer, Failure>, _recorded: Recorded) -> Reply {
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (outcome, slot) {
            (Ok(Answer::Audit(AuditAnswer::Stream { from_seq, ndjson })), Some(slot)) => {
                let records = Records::new(self.services.clone(), caller.clone(), &self.scene, from_seq, ndjson, slot);
                Reply::Stream(StreamReply {
                    content_type: if ndjson { "application/x-ndjson" } else { "text/event-stream; charset=utf-8" },
                    source: Box::new(records),
                })
            }
            (Ok(_), _) => refused(&kms::internal()),
            (Err(failure), _) => refused(&failure.wire()),
        }
    }

    fn unrecorded(&self, error: &AuditError) -> Reply {
        refused(&super::aws::not_recorded(error))
    }
}

/// With the status that programs which speak HTTP and not AWS understand.
fn refused(error: &WireError) -> Reply {
    let status = match error.code {
        "ThrottlingException" => 429,
        "AccessDeniedException"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignatureException"
        | "InvalidSignatureException"
        | "UnrecognizedClientException"
        | "ExpiredTokenException" => 403,
        _ => error.status,
    };
    Reply::Whole(WireReply {
        status,
        content_type: AMZ_JSON,
        body: SecretBytes::new(kms::error_body(error)),
        extra_headers: vec![("x-amzn-errortype".into(), error.code.to_owned())],
    })
}

#[cfg(test)]
mod tests;
