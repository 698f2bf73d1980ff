//! The AWS front: KMS, STS, CloudTrail and S3 on one port. Tells them apart, and makes the answers.

mod door;
mod log;

use std::sync::{Arc, OnceLock};

use ::http::Method;

use crate::audit::{AuditError, EventType, Recorded};
use crate::authn::{AuthnError, Caller, NotOnBehalf, PlainRequest, claimed_access_key, is_on_behalf};
use crate::cloudtrail::{self, TrailError};
use crate::http::pipeline::{Failure, Front, Services, run};
use crate::http::request::{Handler, Reply, WireReply, WireRequest};
use crate::http::sheet::Scene;
use crate::http::stream;
use crate::kms::{self, WireError};
use crate::ops::identity::{SnapshotDirectory, SnapshotProviders};
use crate::ops::{self, Answer, AuditAnswer, AuditRequest, BucketRequest, StsRequest, Task};
use crate::s3::{self, S3Error};
use crate::secret::SecretBytes;
use crate::sts::{self, StsError};

use door::Door;

const JSON: &str = "application/x-amz-json-1.1";

/// Answers the requests of the listeners.
pub struct AwsHandler(pub Arc<Services>);

impl Handler for AwsHandler {
    async fn handle(&self, request: WireRequest) -> Reply {
        if request.path.starts_with(stream::PATHS) {
            return stream::open(&self.0, request).await;
        }
        let front = AwsFront::new(request, self.0.ops.locality().region.to_string());
        run(&self.0, &front).await.into()
    }
}

/// The answer while the token is away: the operation, the exception and the whole.
pub(super) fn without_token(request: WireRequest, region: &str) -> (Option<&'static str>, &'static str, WireReply) {
    let front = AwsFront::new(request, region.to_owned());
    let operation = front.door.operation_name(&front.request);
    let (code, reply) = match front.door {
        Door::Kms | Door::Export(_) => {
            let error = kms::token_away();
            (error.code, front.json_error(&error))
        }
        Door::Sts => {
            let error = StsError::Internal("the token is away".to_owned());
            (error.code(), front.xml_error(&error))
        }
        Door::CloudTrail => {
            let error = TrailError::internal();
            (error.code, front.trail_error(&error))
        }
        Door::S3 => ("InternalError", front.s3_error(&S3Error::internal())),
    };
    (operation, code, reply)
}

struct AwsFront {
    request: WireRequest,
    door: Door,
    region: String,
    scene: Scene,
    /// Why the signer may not say on whose behalf it calls: it is known, so this is recorded as any refusal.
    not_on_behalf: OnceLock<Failure>,
}

impl AwsFront {
    fn new(request: WireRequest, region: String) -> Self {
        let door = Door::of(&request);
        let text = |name| request.value(name).map(|v| String::from_utf8_lossy(v).into_owned());
        let scene = Scene {
            request_id: request.request_id.clone(),
            event_source: door.event_source(),
            event_type: EventType::AwsApiCall,
            fallback_name: door.operation_name(&request).unwrap_or("Unknown"),
            source_ip: Some(request.source_ip),
            user_agent: text("user-agent"),
            host: request.tls.is_some().then(|| text("host")).flatten(),
            tls: request.tls.clone(),
        };
        Self { request, door, region, scene, not_on_behalf: OnceLock::new() }
    }

    /// The caller for whom a registered service signed.
    async fn behalf(
        &self,
        signer: Caller,
        request: &PlainRequest<'_>,
        directory: &SnapshotDirectory,
        services: &Services,
    ) -> Caller {
        if self.door != Door::Kms {
            // Nobody asks for credentials, or who it is, or for the log, in another's name. What services say of their resources
            // is for KMS.
            if is_on_behalf(request) {
                let _ = self.not_on_behalf.set(match self.door {
                    Door::Sts => Failure::Sts(StsError::NotOnBehalf),
                    _ => Failure::Denied(
                        "The log is read by whoever signs: X-Amz-Kms-On-Behalf-Of is for KMS.".to_owned(),
                    ),
                });
            }
            return signer;
        }
        let (secrets, now) = (services.secrets.as_ref(), (services.now)() / 1000);
        match services.authenticator.behalf(signer, request, directory, secrets, now).await {
            Ok(caller) => caller,
            Err((signer, why)) => {
                let _ = self.not_on_behalf.set(match why {
                    NotOnBehalf::Denied(text) => Failure::Denied(text),
                    NotOnBehalf::Internal(cause) => {
                        tracing::error!(request_id = %self.request.request_id, %cause, "a session token could not be tried");
                        Failure::Op(ops::OpError::Internal(cause))
                    }
                });
                signer
            }
        }
    }

    fn json_error(&self, error: &WireError) -> WireReply {
        WireReply {
            status: error.status,
            content_type: JSON,
            body: SecretBytes::new(kms::error_body(error)),
            extra_headers: vec![("x-amzn-errortype".into(), error.code.to_owned())],
        }
    }

    fn xml_error(&self, error: &StsError) -> WireReply {
        WireReply {
            status: error.status(),
            content_type: sts::CONTENT_TYPE,
            body: SecretBytes::new(sts::error_xml(error, &self.request.request_id).into_bytes()),
            extra_headers: Vec::new(),
        }
    }

    fn trail_error(&self, error: &TrailError) -> WireReply {
        WireReply {
            status: error.status,
            content_type: cloudtrail::CONTENT_TYPE,
            body: SecretBytes::new(cloudtrail::error_body(error)),
            extra_headers: vec![("x-amzn-errortype".into(), error.code.to_owned())],
        }
    }

    fn s3_error(&self, error: &S3Error) -> WireReply {
        let xml = s3::error_xml(error, &self.request.path, &self.request.request_id);
        WireReply {
            status: error.status,
            content_type: s3::CONTENT_TYPE,
            // RULE RFC 9110 §9.3.2: no content in answers to HEAD.
            body: SecretBytes::new(if self.request.method == Method::HEAD { Vec::new() } else { xml.into_bytes() }),
            extra_headers: vec![self.s3_request_id()],
        }
    }

    fn s3_request_id(&self) -> (std::borrow::Cow<'static, str>, String) {
        ("x-amz-request-id".into(), self.request.request_id.to_string())
    }

    fn json(&self, value: &serde_json::Value) -> WireReply {
        WireReply {
            status: 200,
            content_type: JSON,
            body: SecretBytes::new(value.to_string().into_bytes()),
            extra_headers: Vec::new(),
        }
    }

    /// What a reader of the log is answered.
    fn of_the_log(&self, answer: AuditAnswer) -> WireReply {
        match (self.door, answer) {
            (Door::S3, answer) => match s3::render(answer, &self.region) {
                Ok(rendered) => WireReply {
                    status: rendered.status,
                    content_type: rendered.content_type,
                    body: SecretBytes::new(rendered.body),
                    extra_headers: rendered.headers.into_iter().chain([self.s3_request_id()]).collect(),
                },
                Err(error) => self.s3_error(&error),
            },
            (_, AuditAnswer::Trail(value) | AuditAnswer::Made(value)) => self.json(&value),
            (_, other) => {
                tracing::error!(request_id = %self.request.request_id, ?other, "no answer for this door");
                self.json_error(&kms::internal())
            }
        }
    }
}

impl AwsFront {
    /// AssumeRoleWithWebIdentity: an identity provider of the role's account says who asks. A signature is not looked at.
    async fn authenticate_by_token(&self, services: &Services) -> Result<Caller, WireReply> {
        let error = match self.believed(services).await {
            Ok(caller) => return Ok(caller),
            Err(error) => error,
        };
        tracing::debug!(request_id = %self.request.request_id, %error, "a web identity is not believed");
        let code = error.code();
        services.strangers.note(code, &self.request.source_ip.to_string(), Some("AssumeRoleWithWebIdentity"), None);
        services.metrics.stranger(code);
        Err(self.xml_error(&error))
    }

    async fn believed(&self, services: &Services) -> Result<Caller, StsError> {
        let parsed = sts::parse(self.request.method.as_str(), &self.request.query, &self.request.body)?;
        let (StsRequest::AssumeRoleWithWebIdentity(request), Some(token)) = (parsed.request, parsed.web_identity_token)
        else {
            return Err(StsError::Internal("AssumeRoleWithWebIdentity without a token".to_owned()));
        };
        let account =
            ops::account_of_role(&request.role_arn).ok_or_else(|| StsError::validation("Request ARN is invalid"))?;
        let providers = SnapshotProviders(services.ops.store().snapshot());
        let now = (services.now)() / 1000;
        let assertion = services.federation.verify(token.expose(), &account, &providers, now).await?;
        Ok(Caller::web_identity(&assertion, account))
    }
}

impl Front for AwsFront {
    type Reply = WireReply;

    async fn authenticate(&self, services: &Services) -> Result<Caller, WireReply> {
        let (method, query) = (self.request.method.as_str(), self.request.query.as_str());
        if self.door == Door::Sts && sts::is_web_identity(method, query, &self.request.body) {
            return self.authenticate_by_token(services).await;
        }
        let headers = self.request.header_slices();
        let plain = self.request.plain(&headers);
        let directory = SnapshotDirectory(services.ops.store().snapshot());
        let now = (services.now)() / 1000;
        let secrets = services.secrets.as_ref();
        let error =
            match services.authenticator.authenticate(&plain, self.door.service(), &directory, secrets, now).await {
                Ok(signer) => return Ok(self.behalf(signer, &plain, &directory, services).await),
                Err(error) => error,
            };
        match &error {
            AuthnError::Internal(cause) => {
                tracing::error!(request_id = %self.request.request_id, %cause, "authentication failed on our side");
            }
            _ => {
                let claimed = claimed_access_key(&plain);
                let known = self.door.operation_name(&self.request);
                let source = self.request.source_ip.to_string();
                let code = error.stranger_code();
                services.strangers.note(code, &source, known, claimed.as_ref().map(|id| id.as_str()));
                services.metrics.stranger(code);
            }
        }
        Err(match self.door {
            Door::Kms | Door::Export(_) => self.json_error(&kms::authn_error(&error)),
            Door::Sts => self.xml_error(&StsError::from(error)),
            Door::CloudTrail => self.trail_error(&TrailError::from(&error)),
            Door::S3 => self.s3_error(&S3Error::from(&error)),
        })
    }

    fn task(&self) -> Result<Task, Failure> {
        if let Some(refusal) = self.not_on_behalf.get() {
            return Err(refusal.clone());
        }
        let body = self.request.body.as_slice();
        match self.door {
            Door::Kms => {
                // Every operation of the service model is a POST.
                let target = self.request.value("x-amz-target").filter(|_| self.request.method == Method::POST);
                let operation = kms::target(target).map_err(Failure::Front)?;
                kms::parse(operation, body).map(Task::Kms).map_err(Failure::Front)
            }
            Door::Sts => match sts::parse(self.request.method.as_str(), &self.request.query, body) {
                Ok(parsed) => Ok(Task::Sts(parsed.request)),
                Err(error) => Err(Failure::Sts(error)),
            },
            Door::CloudTrail => {
                let target = self.request.value("x-amz-target").filter(|_| self.request.method == Method::POST);
                let target = target.and_then(cloudtrail::target).unwrap_or(cloudtrail::Target::Unknown);
                let request = cloudtrail::parse(target, body).map_err(Failure::Trail)?;
                Ok(Task::Audit(AuditRequest::Trail(request)))
            }
            Door::S3 => {
                let (method, query) = (self.request.method.as_str(), &self.request.query);
                let mut request = s3::parse(method, &self.request.path, query).map_err(Failure::Bucket)?;
                if let BucketRequest::GetObject { range, .. } = &mut request {
                    *range = self.request.value("range").map(|value| String::from_utf8_lossy(value).into_owned());
                }
                Ok(Task::Audit(AuditRequest::Bucket(request)))
            }
            Door::Export(name) => log::export(name, body).map(Task::Audit).map_err(Failure::Front),
        }
    }

    fn scene(&self) -> &Scene {
        &self.scene
    }

    fn reply(&self, caller: &Caller, outcome: Result<Answer, Failure>, _recorded: Recorded) -> WireReply {
        match outcome {
            Ok(Answer::Kms(response)) => {
                WireReply { status: 200, content_type: JSON, body: kms::render(&response), extra_headers: Vec::new() }
            }
            Ok(Answer::Sts(response)) => WireReply {
                status: 200,
                content_type: sts::CONTENT_TYPE,
                body: sts::render(&response, caller, &self.request.request_id),
                extra_headers: Vec::new(),
            },
            // Tasks of the other fronts cannot come out of `task`.
            Ok(Answer::Operator(_) | Answer::Timer) => self.json_error(&kms::internal()),
            Ok(Answer::Audit(answer)) => self.of_the_log(answer),
            Err(Failure::Sts(error)) => self.xml_error(&error),
            Err(Failure::Trail(error)) => self.trail_error(&error),
            Err(Failure::Bucket(error)) => self.s3_error(&error),
            Err(failure) => match (self.door, failure) {
                (Door::Kms | Door::Export(_), failure) => self.json_error(&failure.wire()),
                (Door::Sts, Failure::Denied(message)) => self.xml_error(&StsError::denied(message)),
                (Door::Sts, failure) => self.xml_error(&StsError::Internal(format!("{failure:?}"))),
                (Door::CloudTrail, Failure::Denied(text)) => self.trail_error(&TrailError::denied(text)),
                (Door::CloudTrail, _) => self.trail_error(&TrailError::internal()),
                (Door::S3, Failure::Denied(text)) => self.s3_error(&S3Error::denied(text)),
                (Door::S3, _) => self.s3_error(&S3Error::internal()),
            },
        }
    }

    fn unrecorded(&self, error: &AuditError) -> WireReply {
        match self.door {
            Door::Kms | Door::Export(_) => self.json_error(&not_recorded(error)),
            Door::Sts => self.xml_error(&StsError::Internal(error.to_string())),
            Door::CloudTrail => self.trail_error(&TrailError::internal()),
            Door::S3 => self.s3_error(&S3Error::internal()),
        }
    }
}

/// Where space is short the operator has to learn where: the message names the directory. Nothing else is told.
pub(super) fn not_recorded(error: &AuditError) -> WireError {
    match error {
        AuditError::NoSpace { dir } | AuditError::LowSpace { dir, .. } => {
            kms::audit_unavailable(Some(&dir.display().to_string()))
        }
        AuditError::Locked { .. } | AuditError::Corrupt(_) | AuditError::Truncated(_) | AuditError::Failed(_) => {
            kms::audit_unavailable(None)
        }
    }
}
