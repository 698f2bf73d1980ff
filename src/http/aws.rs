//! The AWS front: KMS (AWS JSON 1.1) and STS (Query protocol) on one port. Tells the two apart, and makes the answers.

use std::sync::{Arc, OnceLock};

use ::http::Method;

use crate::audit::{AuditError, EventType, Recorded};
use crate::authn::{AuthnError, Caller, NotOnBehalf, PlainRequest, Service, claimed_access_key, is_on_behalf};
use crate::http::pipeline::{Failure, Front, Services, run};
use crate::http::request::{Handler, WireReply, WireRequest};
use crate::http::sheet::Scene;
use crate::kms::{self, WireError};
use crate::ops::identity::{SnapshotDirectory, SnapshotProviders};
use crate::ops::{self, Answer, Operation, StsRequest, Task};
use crate::secret::SecretBytes;
use crate::sts::{self, StsError};

const JSON: &str = "application/x-amz-json-1.1";

/// Answers the requests of the listeners.
pub struct AwsHandler(pub Arc<Services>);

impl Handler for AwsHandler {
    async fn handle(&self, request: WireRequest) -> WireReply {
        let front = AwsFront::new(request);
        run(&self.0, &front).await
    }
}

struct AwsFront {
    request: WireRequest,
    service: Service,
    scene: Scene,
    /// Why the signer may not say on whose behalf it calls: it is known, so this is recorded as any refusal.
    not_on_behalf: OnceLock<Failure>,
}

impl AwsFront {
    fn new(request: WireRequest) -> Self {
        let service = service(&request);
        let text = |name| value(&request, name).map(|v| String::from_utf8_lossy(v).into_owned());
        let scene = Scene {
            request_id: request.request_id.clone(),
            event_source: match service {
                Service::Kms => "kms.amazonaws.com",
                Service::Sts => "sts.amazonaws.com",
            },
            event_type: EventType::AwsApiCall,
            fallback_name: match service {
                Service::Kms => operation(&request).map(Operation::name),
                Service::Sts => sts::action_name(request.method.as_str(), &request.query, &request.body),
            }
            .unwrap_or("Unknown"),
            source_ip: Some(request.source_ip),
            user_agent: text("user-agent"),
            host: request.tls.is_some().then(|| text("host")).flatten(),
            tls: request.tls.clone(),
        };
        Self { request, service, scene, not_on_behalf: OnceLock::new() }
    }

    /// The caller for whom a registered service signed.
    async fn behalf(
        &self,
        signer: Caller,
        request: &PlainRequest<'_>,
        directory: &SnapshotDirectory,
        services: &Services,
    ) -> Caller {
        if self.service == Service::Sts {
            // Nobody asks for credentials, or who it is, in another's name. What services say of their resources is for KMS.
            if is_on_behalf(request) {
                let _ = self.not_on_behalf.set(Failure::Sts(StsError::NotOnBehalf));
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
            extra_headers: vec![("x-amzn-errortype", error.code.to_owned())],
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
        if self.service == Service::Sts && sts::is_web_identity(method, query, &self.request.body) {
            return self.authenticate_by_token(services).await;
        }
        let headers: Vec<(&str, &[u8])> =
            self.request.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let plain = PlainRequest {
            method: self.request.method.as_str(),
            path: &self.request.path,
            query: &self.request.query,
            headers: &headers,
            body: &self.request.body,
        };
        let directory = SnapshotDirectory(services.ops.store().snapshot());
        let now = (services.now)() / 1000;
        let secrets = services.secrets.as_ref();
        let error = match services.authenticator.authenticate(&plain, self.service, &directory, secrets, now).await {
            Ok(signer) => return Ok(self.behalf(signer, &plain, &directory, services).await),
            Err(error) => error,
        };
        match &error {
            AuthnError::Internal(cause) => {
                tracing::error!(request_id = %self.request.request_id, %cause, "authentication failed on our side");
            }
            _ => {
                let claimed = claimed_access_key(&plain);
                let known = operation(&self.request).map(Operation::name);
                let source = self.request.source_ip.to_string();
                let code = error.stranger_code();
                services.strangers.note(code, &source, known, claimed.as_ref().map(|id| id.as_str()));
                services.metrics.stranger(code);
            }
        }
        Err(match self.service {
            Service::Kms => self.json_error(&kms::authn_error(&error)),
            Service::Sts => self.xml_error(&StsError::from(error)),
        })
    }

    fn task(&self) -> Result<Task, Failure> {
        if let Some(refusal) = self.not_on_behalf.get() {
            return Err(refusal.clone());
        }
        let body = self.request.body.as_slice();
        match self.service {
            Service::Kms => {
                // Every operation of the service model is a POST.
                let target = value(&self.request, "x-amz-target").filter(|_| self.request.method == Method::POST);
                let operation = kms::target(target).map_err(Failure::Front)?;
                kms::parse(operation, body).map(Task::Kms).map_err(Failure::Front)
            }
            Service::Sts => match sts::parse(self.request.method.as_str(), &self.request.query, body) {
                Ok(parsed) => Ok(Task::Sts(parsed.request)),
                Err(error) => Err(Failure::Sts(error)),
            },
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
            Ok(Answer::Operator(_) | Answer::Timer | Answer::Audit(_)) => self.json_error(&kms::internal()),
            Err(Failure::Sts(error)) => self.xml_error(&error),
            Err(failure) => match (self.service, failure) {
                (Service::Kms, failure) => self.json_error(&failure.wire()),
                (Service::Sts, Failure::Denied(message)) => self.xml_error(&StsError::denied(message)),
                (Service::Sts, failure) => self.xml_error(&StsError::Internal(format!("{failure:?}"))),
            },
        }
    }

    fn unrecorded(&self, error: &AuditError) -> WireReply {
        match self.service {
            Service::Kms => self.json_error(&not_recorded(error)),
            Service::Sts => self.xml_error(&StsError::Internal(error.to_string())),
        }
    }
}

/// Where space is short the operator has to learn where: the message names the directory. Nothing else is told.
fn not_recorded(error: &AuditError) -> WireError {
    match error {
        AuditError::NoSpace { dir } | AuditError::LowSpace { dir, .. } => {
            kms::audit_unavailable(Some(&dir.display().to_string()))
        }
        AuditError::Locked { .. } | AuditError::Corrupt(_) | AuditError::Truncated(_) | AuditError::Failed(_) => {
            kms::audit_unavailable(None)
        }
    }
}

/// A target header means KMS; a form, or a GET with an Action, means STS.
fn service(request: &WireRequest) -> Service {
    if value(request, "x-amz-target").is_some() {
        return Service::Kms;
    }
    let form = value(request, "content-type").is_some_and(|t| t.starts_with(b"application/x-www-form-urlencoded"));
    let asks = request.query.split('&').any(|pair| pair.starts_with("Action="));
    if form || (request.method == Method::GET && asks) { Service::Sts } else { Service::Kms }
}

fn operation(request: &WireRequest) -> Option<Operation> {
    kms::target(value(request, "x-amz-target")).ok()
}

fn value<'a>(request: &'a WireRequest, name: &str) -> Option<&'a [u8]> {
    request.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
}
