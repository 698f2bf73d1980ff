//! Everything that was looked at: for `policy simulate`. Not on the path of a request.

use super::grant;
use super::principal::{Kind, kinds};
use super::{Attachment, Question, Target, Verdict, decide};
use crate::authz::language::{About, AboutResource, Mismatch, Policy, Statement};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    pub policies: Vec<PolicyTrace>,
    pub grants: Vec<GrantTrace>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTrace {
    /// As in `StatementRef`.
    pub kind: &'static str,
    pub name: String,
    pub statements: Vec<StatementTrace>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementTrace {
    pub index: usize,
    pub sid: Option<String>,
    /// `Allow` or `Deny`
    pub effect: &'static str,
    pub applies: bool,
    /// How the principal matched, or why the statement does not apply.
    pub why: String,
}

/// A grant whose grantee is the caller, its role, its user or its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantTrace {
    pub id: String,
    pub applies: bool,
}

/// As `evaluate`, with every policy looked at.
pub fn evaluate_traced(question: &Question<'_>) -> (Verdict, Trace) {
    let folded = question.action.to_ascii_lowercase();
    let (service, action) = folded.split_once(':').unwrap_or(("", &folded));
    let mut trace = Trace::default();
    let resource = match question.target {
        Target::Account { account } => AboutResource::Account(account),
        Target::OfIdentities { arn, .. } | Target::Resource { arn, .. } => AboutResource::Arn(arn),
    };
    let about = About { service, action, resource };
    let attached = question.attached;
    if question.actor.is_identity() {
        let levels = attached.service_control.iter().flatten();
        for attachment in
            levels.chain(&attached.identity).chain(&attached.boundary).chain(attached.session.iter().flatten())
        {
            trace.policies.push(attachment_trace(attachment, question, &about));
        }
    }
    if let Target::Resource { policy, grants, .. } = question.target {
        trace.policies.push(resource_trace(policy, question, &about));
        let root = grant::root_arn(&question.actor);
        for name in grant::grantee_names(&question.actor, root.as_deref()) {
            for grant in grants.to(name) {
                let applies = grant::applies(grant, question);
                trace.grants.push(GrantTrace { id: grant.id.to_string(), applies });
            }
        }
    }
    (decide::decide(question), trace)
}

fn attachment_trace(attachment: &Attachment, question: &Question<'_>, about: &About<'_>) -> PolicyTrace {
    let statements = attachment.policy.statements().iter().enumerate();
    let statements = statements.map(|(index, statement)| {
        let outcome = statement.applies(about, question.keys).map(|()| String::new());
        line(index, statement, outcome)
    });
    PolicyTrace { kind: attachment.kind.as_str(), name: attachment.name.clone(), statements: statements.collect() }
}

fn resource_trace(policy: &Policy, question: &Question<'_>, about: &About<'_>) -> PolicyTrace {
    let Target::Resource { bindings, .. } = question.target else {
        return PolicyTrace { kind: "key-policy", name: String::new(), statements: Vec::new() };
    };
    let has_boundary = question.attached.boundary.is_some() && question.actor.is_identity();
    let statements = policy.statements().iter().enumerate().map(|(index, statement)| {
        let kinds = statement
            .principals()
            .map(|p| kinds(p, &question.actor, bindings, statement.allows(), has_boundary))
            .unwrap_or_default();
        let names: Vec<&str> =
            Kind::ALL.into_iter().zip(kinds).filter(|(_, hit)| *hit).map(|(k, _)| k.as_str()).collect();
        let outcome = match names.is_empty() {
            true => Err(Mismatch::Principal),
            false => statement.applies(about, question.keys).map(|()| format!("principal: {}", names.join(", "))),
        };
        line(index, statement, outcome)
    });
    PolicyTrace { kind: "key-policy", name: "default".to_owned(), statements: statements.collect() }
}

fn line(index: usize, statement: &Statement, outcome: Result<String, Mismatch<'_>>) -> StatementTrace {
    let applies = outcome.is_ok();
    let why = match outcome {
        Ok(how) => how,
        Err(Mismatch::Principal) => "another principal".to_owned(),
        Err(Mismatch::Action) => "another action".to_owned(),
        Err(Mismatch::Resource) => "another resource".to_owned(),
        Err(Mismatch::Condition(unmet)) => format!("condition not met: {} {}", unmet.operator(), unmet.key()),
    };
    let effect = if statement.allows() { "Allow" } else { "Deny" };
    StatementTrace { index, sid: statement.sid().map(str::to_owned), effect, applies, why }
}
