//! One statement: what it says about an action, a resource and the condition keys. Principals are the evaluator's.

use super::condition::Condition;
use super::keys::ConditionKeys;
use super::pattern::{ActionPattern, ArnPattern};
use super::principal::Principals;

#[derive(Debug)]
pub struct Statement {
    pub(super) sid: Option<Box<str>>,
    pub(super) allows: bool,
    /// Of policies of resources only.
    pub(super) principals: Option<Principals>,
    pub(super) actions: Option<Actions>,
    pub(super) resources: Option<Resources>,
    pub(super) conditions: Box<[Condition]>,
}

#[derive(Debug)]
pub(super) struct Actions {
    pub negated: bool,
    pub patterns: Box<[ActionPattern]>,
}

#[derive(Debug)]
pub(super) struct Resources {
    pub negated: bool,
    pub patterns: Box<[ArnPattern]>,
}

/// What a question is about, as patterns are compared with it.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// `kms`, in lower case.
    pub service: &'a str,
    /// `decrypt`, in lower case.
    pub action: &'a str,
    pub resource: AboutResource<'a>,
}

#[derive(Debug, Clone, Copy)]
pub enum AboutResource<'a> {
    /// `*` of an account.
    Account(&'a str),
    Arn(&'a str),
}

/// Why a statement does not apply.
#[derive(Debug, Clone, Copy)]
pub enum Mismatch<'a> {
    Principal,
    Action,
    Resource,
    Condition(&'a Condition),
}

impl Statement {
    pub fn sid(&self) -> Option<&str> {
        self.sid.as_deref()
    }

    pub fn allows(&self) -> bool {
        self.allows
    }

    pub fn principals(&self) -> Option<&Principals> {
        self.principals.as_ref()
    }

    /// Whether the statement applies, its principals apart.
    pub fn applies(&self, about: &About<'_>, keys: &dyn ConditionKeys) -> Result<(), Mismatch<'_>> {
        // RULE §1.3: without Action or Resource a statement has no effect.
        let actions = self.actions.as_ref().ok_or(Mismatch::Action)?;
        if actions.patterns.iter().any(|a| a.matches(about.service, about.action)) == actions.negated {
            return Err(Mismatch::Action);
        }
        let resources = self.resources.as_ref().ok_or(Mismatch::Resource)?;
        let matches = |pattern: &ArnPattern| match about.resource {
            AboutResource::Account(account) => pattern.matches_account(account, keys),
            AboutResource::Arn(arn) => pattern.matches(arn, keys),
        };
        if resources.patterns.iter().any(matches) == resources.negated {
            return Err(Mismatch::Resource);
        }
        match self.conditions.iter().find(|c| !c.holds(keys, self.allows)) {
            Some(unmet) => Err(Mismatch::Condition(unmet)),
            None => Ok(()),
        }
    }
}
