//! What every policy says about a question: each statement is looked at once, before the algorithm puts them in order.

use super::grant;
use super::principal::{Hits, Kind, kinds};
use super::{ActorKind, Attached, Attachment, Question, StatementRef, Target};
use crate::authz::language::{About, Policy};
use crate::store::GrantRecord;

/// Services and bearers of web identities have no policies of their own.
static NOTHING: Attached =
    Attached { identity: Vec::new(), boundary: None, session: None, service_control: Vec::new() };

/// A statement, by its policy.
#[derive(Clone, Copy)]
pub struct Found<'q> {
    attachment: Option<&'q Attachment>,
    policy: &'q Policy,
    index: usize,
}

impl Found<'_> {
    pub fn reference(&self) -> StatementRef {
        let (policy, kind) = match self.attachment {
            Some(attachment) => (attachment.name.clone(), attachment.kind.as_str()),
            None => ("default".to_owned(), "key-policy"),
        };
        let sid = self.policy.statements().get(self.index).and_then(|s| s.sid()).map(str::to_owned);
        StatementRef { policy, kind, sid, index: self.index }
    }
}

/// The first Deny and the first Allow that apply.
#[derive(Clone, Copy, Default)]
pub struct Said<'q> {
    pub deny: Option<Found<'q>>,
    pub allow: Option<Found<'q>>,
}

pub struct Weighed<'q> {
    /// Of the key policy, by how they name the caller.
    pub direct: Hits<Found<'q>>,
    pub grants: Hits<&'q GrantRecord>,
    pub key_policy_deny: Option<Found<'q>>,
    pub identity: Said<'q>,
    boundary: Option<Said<'q>>,
    session: Option<Said<'q>>,
    service_control_deny: Option<Found<'q>>,
    service_control_allows: bool,
    /// A GetFederationToken session without a session policy: nothing that is limited by one is allowed.
    unlimited_federation: bool,
}

impl<'q> Weighed<'q> {
    pub fn new(question: &Question<'q>, about: &About<'_>) -> Self {
        let attached = if question.actor.is_identity() { question.attached } else { &NOTHING };
        let said = |list: &mut dyn Iterator<Item = &'q Attachment>| {
            let mut said = Said::default();
            for attachment in list {
                said.add(attachment, question, about);
            }
            said
        };
        let levels: Vec<Said<'q>> = attached.service_control.iter().map(|level| said(&mut level.iter())).collect();
        let mut weighed = Weighed {
            direct: Hits::none(),
            grants: Hits::none(),
            key_policy_deny: None,
            identity: said(&mut attached.identity.iter()),
            boundary: attached.boundary.as_ref().map(|one| said(&mut std::iter::once(one))),
            session: attached.session.as_ref().map(|list| said(&mut list.iter())),
            service_control_deny: levels.iter().find_map(|level| level.deny),
            // RULE §1.4 step 2: every level must allow.
            service_control_allows: levels.iter().all(|level| level.allow.is_some()),
            unlimited_federation: question.actor.kind == ActorKind::FederatedSession && attached.session.is_none(),
        };
        // RULE §1.8: kms:RetireGrant in a key policy has no effect, neither Allow nor Deny.
        let retires = about.service == "kms" && about.action == "retiregrant";
        if let Target::Resource { policy, grants, .. } = question.target
            && !retires
        {
            weighed.add_key_policy(policy, question, about, attached.boundary.is_some());
            weighed.grants = grant::hits(question, grants);
        }
        weighed
    }

    fn add_key_policy(&mut self, policy: &'q Policy, question: &Question<'q>, about: &About<'_>, has_boundary: bool) {
        let Target::Resource { bindings, .. } = question.target else { return };
        for (index, statement) in policy.statements().iter().enumerate() {
            let Some(principals) = statement.principals() else { continue };
            let kinds = kinds(principals, &question.actor, bindings, statement.allows(), has_boundary);
            if !kinds.contains(&true) || statement.applies(about, question.keys).is_err() {
                continue;
            }
            let found = Found { attachment: None, policy, index };
            if statement.allows() {
                let hit = Kind::ALL.into_iter().zip(kinds).filter(|(_, hit)| *hit);
                hit.for_each(|(kind, _)| self.direct.add(kind, found));
            } else {
                self.key_policy_deny.get_or_insert(found);
            }
        }
    }

    /// The first Deny in the order in which refusals are reported (§1.4 step 1).
    pub fn explicit_deny(&self) -> Option<(super::DecidedBy, Found<'q>)> {
        use super::DecidedBy::{Boundary, Identity, KeyPolicy, Scp, Session};
        let of = |said: Option<Said<'q>>| said.and_then(|s| s.deny);
        [
            (Scp, self.service_control_deny),
            (KeyPolicy, self.key_policy_deny),
            (Identity, self.identity.deny),
            (Boundary, of(self.boundary)),
            (Session, of(self.session)),
        ]
        .into_iter()
        .find_map(|(by, deny)| deny.map(|found| (by, found)))
    }

    pub fn service_control_allows(&self) -> bool {
        self.service_control_allows
    }

    /// Whether boundary and session policies leave it allowed; else which does not, the boundary first.
    pub fn limit(&self) -> Option<super::DecidedBy> {
        if self.boundary.is_some_and(|b| b.allow.is_none()) {
            Some(super::DecidedBy::Boundary)
        } else if self.unlimited_federation || self.session.is_some_and(|s| s.allow.is_none()) {
            Some(super::DecidedBy::Session)
        } else {
            None
        }
    }
}

impl<'q> Said<'q> {
    fn add(&mut self, attachment: &'q Attachment, question: &Question<'_>, about: &About<'_>) {
        for (index, statement) in attachment.policy.statements().iter().enumerate() {
            let known = if statement.allows() { self.allow.is_some() } else { self.deny.is_some() };
            if known || statement.applies(about, question.keys).is_err() {
                continue;
            }
            let found = Some(Found { attachment: Some(attachment), policy: &attachment.policy, index });
            if statement.allows() { self.allow = found } else { self.deny = found }
        }
    }
}
