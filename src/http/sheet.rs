//! The audit sheet of one request: what each step learns, until a record is made of it.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::audit::{
    Additional, Authorization, AuthorizationCheck, Basis, Event, EventType, HsmFacts, Resource, SessionAttributes,
    SessionContext, SessionIssuer, SignedBy, TlsDetails, UserIdentity, WebIdFederationData,
};
use crate::authn::{Caller, Principal, Session};
use crate::authz::{AliasGeneration, CheckGrounds, Grounds};
use crate::cloudtrail;
use crate::http::pipeline::{Failure, Services};
use crate::http::request::TlsFacts;
use crate::kms;
use crate::ops::{Answer, AuditRequest, Effects, Request, Resolved, Task};
use crate::s3;
use crate::sts;

/// Where a request came from, before anything is known of it.
#[derive(Debug, Clone)]
pub struct Scene {
    pub request_id: Arc<str>,
    /// `kms.amazonaws.com`, `sts.amazonaws.com`, `hsm-bridge`.
    pub event_source: &'static str,
    pub event_type: EventType,
    /// A name for the record of a request that cannot be understood.
    pub fallback_name: &'static str,
    /// `None`: the operator's socket or a timer.
    pub source_ip: Option<IpAddr>,
    pub user_agent: Option<String>,
    pub host: Option<String>,
    pub tls: Option<Arc<TlsFacts>>,
}

pub struct Sheet<'a> {
    scene: &'a Scene,
    identity: UserIdentity,
    /// The service that signed for the caller.
    signed_by: Option<SignedBy>,
    account: String,
    name: &'static str,
    read_only: bool,
    parameters: Option<Box<RawValue>>,
    resources: Vec<Resource>,
    key_arn: Option<String>,
    alias_generation: Option<&'static str>,
    authorization: Option<Authorization>,
}

impl<'a> Sheet<'a> {
    pub fn new(scene: &'a Scene, caller: &Caller, _: &Services) -> Self {
        Self {
            scene,
            identity: identity(caller),
            signed_by: caller.via().map(|service| SignedBy {
                service: service.to_string(),
                access_key_id: caller.access_key().map(ToString::to_string),
                source_ip_address: scene.source_ip.map(|address| address.to_string()),
            }),
            account: caller.account().to_string(),
            name: scene.fallback_name,
            read_only: true,
            parameters: None,
            resources: Vec::new(),
            key_arn: None,
            alias_generation: None,
            authorization: None,
        }
    }

    /// The operation's name: from closed lists only, so it may be a label of a metric.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// ARN of who asks.
    pub fn principal_arn(&self) -> &str {
        self.identity.arn.as_deref().unwrap_or_default()
    }

    pub fn asked(&mut self, task: &Task, contexts: &crate::ops::ContextForm) {
        self.name = task.name();
        self.read_only = task.is_read_only();
        self.parameters = match task {
            Task::Kms(request) => contexts.parameters(kms::audit_parameters(request)),
            Task::Operator(request) => request.recorded(),
            Task::Sts(request) => sts::audit_parameters(request),
            Task::Audit(AuditRequest::Trail(request)) => {
                cloudtrail::audit_parameters(request, |at| kms::JavaDate(at).to_string())
            }
            Task::Audit(AuditRequest::Bucket(request)) => s3::audit_parameters(request),
            Task::Audit(request) => request.recorded(),
            Task::Timer(_) => None,
        };
    }

    pub fn resolved(&mut self, resolved: &Resolved) {
        let resources = resolved.resources().into_iter();
        self.resources = resources
            .map(|(kind, arn)| {
                // A resource of another account says so in its ARN.
                let account = arn.split(':').nth(4).filter(|account| !account.is_empty()).unwrap_or(&self.account);
                Resource { account_id: account.to_owned(), kind, arn: arn.to_owned() }
            })
            .collect();
        self.key_arn = resolved.key_arn().map(str::to_owned);
        self.alias_generation = resolved.alias_generation().map(AliasGeneration::as_str);
    }

    pub fn decided(&mut self, grounds: &Grounds) {
        self.authorization = Some(authorization(grounds));
    }

    /// What is about to be done.
    pub fn intent(&self, services: &Services) -> Event {
        Event { event_type: EventType::HsmBridgeIntent, ..self.event(services) }
    }

    /// A request that was not done.
    pub fn refusal(&self, services: &Services, failure: &Failure) -> Event {
        let mut event = self.event(services);
        fail(&mut event, failure);
        event
    }

    pub fn outcome(
        &self,
        services: &Services,
        outcome: &Result<Answer, Failure>,
        resolved: &Resolved,
        effects: &Effects,
    ) -> Event {
        let mut event = self.event(services);
        match (outcome, resolved.task()) {
            (Ok(Answer::Kms(response)), Task::Kms(request)) => {
                event.response_elements = kms::audit_response(request, response, self.key_arn.as_deref());
                // DeleteAlias is the one change that names no key in its answer.
                if let Request::DeleteAlias { .. } = request {
                    event.response_elements = None;
                }
            }
            (Ok(Answer::Sts(response)), _) => {
                event.response_elements = sts::audit_response(response, |at| kms::JavaDate(at).to_string());
            }
            (Ok(Answer::Timer), _) if self.key_arn.is_some() => {
                let told = serde_json::json!({ "keyId": self.key_arn });
                event.response_elements = serde_json::value::to_raw_value(&told).ok();
            }
            (Err(failure), _) => fail(&mut event, failure),
            _ => {}
        }
        let info = |facts: &crate::ops::HsmUse| HsmFacts {
            token_serial: Some(facts.token.to_string()),
            slot: Some(facts.slot),
            mechanism: Some(facts.mechanism),
            rv: "CKR_OK".to_owned(),
            function: None,
            micros: Some(facts.micros),
        };
        let refused = |(function, rv): &(&'static str, String)| HsmFacts {
            token_serial: None,
            slot: None,
            mechanism: None,
            rv: rv.clone(),
            function: Some(function),
            micros: None,
        };
        let store = effects.key_store.clone().unwrap_or_default();
        event.additional = Additional {
            custom_key_store_id: store.id.map(String::from),
            custom_key_store_name: store.name,
            cluster_id: store.cluster.map(String::from),
            backing_key: store.backing_key,
            backing_keys: store.backing_keys,
            backing_keys_deletion_status: store.deletion_status,
            key_material_id: effects.key_material_id.as_deref().map(str::to_owned),
            source_key_material_id: effects.source_key_material_id.as_deref().map(str::to_owned),
            destination_key_material_id: effects.destination_key_material_id.as_deref().map(str::to_owned),
            hsm: effects.refused.as_ref().map(refused).or_else(|| effects.hsm.as_ref().map(info)),
            grant_id: effects.grant.as_ref().map(ToString::to_string),
            store_version: effects.store_version,
            state_change: effects.state_change.clone(),
            details: effects.details.clone(),
            ..event.additional
        };
        event
    }

    fn event(&self, services: &Services) -> Event {
        let service_event = self.scene.event_type == EventType::AwsServiceEvent;
        Event {
            event_type: self.scene.event_type,
            user_identity: self.identity.clone(),
            time: (services.now)(),
            source: self.scene.event_source,
            name: self.name.to_owned(),
            region: services.ops.locality().region.to_string(),
            // Of a caller behind a service CloudTrail shows the service: where the caller is, only the service knows.
            source_ip: match self.scene.source_ip {
                Some(_) if let Some(signed_by) = &self.signed_by => signed_by.service.clone(),
                Some(address) => address.to_string(),
                None if service_event => "AWS Internal".to_owned(),
                None => "localhost".to_owned(),
            },
            user_agent: self.scene.user_agent.clone(),
            error_code: None,
            error_message: None,
            request_parameters: self.parameters.clone(),
            response_elements: None,
            request_id: Some(self.scene.request_id.to_string()),
            read_only: self.read_only,
            resources: self.resources.clone(),
            recipient_account: self.account.clone(),
            tls: self.scene.tls.as_ref().map(|tls| TlsDetails {
                tls_version: tls.version.clone(),
                cipher_suite: tls.cipher_suite.clone(),
                client_provided_host_header: self.scene.host.clone(),
                key_exchange: tls.key_exchange.clone(),
            }),
            additional: Additional {
                alias_generation: self.alias_generation,
                authorization: self.authorization.clone(),
                on_behalf_of: self.signed_by.clone(),
                ..Additional::default()
            },
        }
    }
}

fn authorization(grounds: &Grounds) -> Authorization {
    let basis = |check: &CheckGrounds| Basis {
        source: check.source.as_str(),
        explicit_deny: check.explicit,
        policy: check.statement.as_ref().map(|s| s.policy.clone()),
        policy_kind: check.statement.as_ref().map(|s| s.kind),
        statement_id: check.statement.as_ref().and_then(|s| s.sid.clone()),
        statement_index: check.statement.as_ref().map(|s| s.index),
        grant_id: check.grant.clone(),
        policy_version: check.policy_version,
    };
    let all = |check: &CheckGrounds| AuthorizationCheck {
        action: check.action,
        resource: check.resource.clone(),
        decision: check.decision,
        basis: basis(check),
    };
    Authorization {
        decision: grounds.decision,
        basis: grounds.checks.last().map_or_else(|| Basis { source: "NotAsked", ..Basis::default() }, basis),
        checks: match grounds.checks.as_slice() {
            [] | [_] => Vec::new(),
            checks => checks.iter().map(all).collect(),
        },
    }
}

fn fail(event: &mut Event, failure: &Failure) {
    let told = failure.wire();
    event.error_message = told.message;
    event.error_code = Some(match failure {
        // CloudTrail's word for it; the request's parameters are not logged then (audit.md §1.3).
        Failure::Denied(_) => {
            event.request_parameters = None;
            "AccessDenied".to_owned()
        }
        _ => told.code.to_owned(),
    });
}

/// CloudTrail's `userIdentity` of a caller.
pub fn identity(caller: &Caller) -> UserIdentity {
    let mut identity = UserIdentity {
        principal_id: Some(caller.unique_id()),
        arn: Some(caller.arn()),
        account_id: Some(caller.account().to_string()),
        access_key_id: caller.access_key().map(ToString::to_string),
        session_context: caller.session().map(|session| Box::new(session_context(caller, session))),
        ..UserIdentity::default()
    };
    match caller.principal() {
        Principal::Root => identity.kind = Some("Root"),
        Principal::User { name, .. } => {
            identity.kind = Some("IAMUser");
            identity.user_name = Some(name.to_string());
        }
        Principal::AssumedRole { .. } => identity.kind = Some("AssumedRole"),
        Principal::FederatedUser { .. } => identity.kind = Some("FederatedUser"),
        Principal::Service { name, .. } => {
            identity.kind = Some("AWSService");
            identity.invoked_by = Some(name.to_string());
        }
        Principal::WebIdentity(web) => {
            identity.kind = Some("WebIdentityUser");
            identity.arn = None;
            identity.account_id = None;
            identity.user_name = Some(web.subject.clone());
            identity.identity_provider = Some(web.issuer.clone());
        }
        Principal::Operator { os_user_id } => {
            identity.kind = Some("HsmBridgeOperator");
            identity.os_user_id = Some(*os_user_id);
            identity.principal_id = None;
        }
        Principal::Bridge => {
            identity.principal_id = None;
            identity.arn = None;
            identity.invoked_by = Some("AWS Internal".to_owned());
        }
    }
    if let Some(service) = caller.via() {
        // The access key is the service's, not the caller's.
        identity.access_key_id = None;
        identity.invoked_by = Some(service.to_string());
    }
    identity
}

/// CloudTrail's `sessionContext`: who issued the temporary credentials, and when.
fn session_context(caller: &Caller, session: &Session) -> SessionContext {
    let account = caller.account();
    let issuer = |kind, principal_id: &str, arn, user_name: String| {
        let (principal_id, account_id) = (principal_id.to_owned(), account.to_string());
        Some(SessionIssuer { kind, principal_id, arn, account_id, user_name })
    };
    let session_issuer = match caller.principal() {
        Principal::AssumedRole { role, role_id, .. } => {
            issuer("Role", role_id, caller.principal_arn(), role.to_string())
        }
        Principal::FederatedUser { user, user_path, user_id, .. } => {
            issuer("IAMUser", user_id, format!("arn:aws:iam::{account}:user{user_path}{user}"), user.to_string())
        }
        _ => None,
    };
    let claims = session.claims.iter().map(|(name, values)| (name.clone(), values.join(",")));
    SessionContext {
        session_issuer,
        web_id_federation_data: session
            .federated_provider
            .clone()
            .map(|federated_provider| WebIdFederationData { federated_provider, attributes: claims.collect() }),
        attributes: SessionAttributes::new(session.issued, session.mfa_at.is_some()),
        source_identity: session.source_identity.clone(),
    }
}
