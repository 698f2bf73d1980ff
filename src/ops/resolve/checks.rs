//! Which checks each operation asks for: action, resource and what the request says. Source: authorization.md §1.6, §1.7,
//! §1.14.

use std::borrow::Cow;

use super::asked::{self, Said};
use super::{AliasSubject, KeyTarget, Named, Resolved, Subject};
use crate::authz::evaluate::{self, Asks};
use crate::authz::{AliasGeneration, Check, Checks, Conditions, Resource};
use crate::ops::rotation::RotationSubject;
use crate::ops::{Operation, ReEncrypt, Request, RotateGrants, Task};
use crate::store::Snapshot;

const TAG: &str = "kms:TagResource";

impl Checks for Resolved {
    fn checks(&self) -> Vec<Check<'_>> {
        match &self.task {
            Task::Operator(request) => {
                vec![Check::new(request.permission(), Resource::Command(request.permission()))]
            }
            Task::Timer(_) => vec![Check::new("timer", Resource::Timer(self.task.name()))],
            Task::Sts(request) => request.checks(&self.subject),
            Task::Kms(request) => self.of_kms(request, &self.subject),
            Task::Audit(request) => request.checks(&self.subject),
        }
    }

    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl Resolved {
    fn of_kms<'a>(&'a self, request: &'a Request, subject: &'a Subject) -> Vec<Check<'a>> {
        let action = request.operation().action();
        match (request, subject) {
            (_, Subject::Foreign { after }) => {
                // What exists is asked about first, as it would be if the other thing existed.
                let mut checks = after.as_deref().map_or_else(Vec::new, |subject| self.of_kms(request, subject));
                let second = matches!(request, Request::ReEncrypt(_)) && after.is_some();
                let action = if second { "kms:ReEncryptTo" } else { action };
                checks.push(Check::new(action, Resource::Foreign));
                checks
            }
            (Request::CreateKey(request), _) => {
                let (spec, usage) = (request.spec, request.usage);
                let tags = || asked::of_tags(request.tags.iter().map(|tag| (&tag.key, &tag.value)));
                let key = || asked::of_new_key(spec, usage, request.key_store.is_some());
                let bypass = asked::bypassing(request.bypass_policy_lockout_safety_check);
                let create = on_account(action, key().into_iter().chain(tags()).chain(bypass).collect());
                let tag = || on_account(TAG, key().into_iter().chain(tags()).collect());
                std::iter::once(create).chain((!request.tags.is_empty()).then(tag)).collect()
            }
            // RULE §1.6: with a KeyId too it is an operation on the account.
            (Request::ListAliases { .. }, _) => vec![on_account(action, Vec::new())],
            (_, Subject::Key(target)) => vec![self.said(self.on_current(action, target), request)],
            (Request::ReEncrypt(request), Subject::Blob { key, named, .. }) => {
                self.of_source(request, key, named.as_ref(), false)
            }
            (_, Subject::Blob { key, named, .. }) => self.of_ciphertext(request, action, key, named.as_ref()),
            (Request::ReEncrypt(request), Subject::ReEncrypt { source, named, destination, .. }) => {
                let same = source.record.id == destination.record.id;
                let mut checks = self.of_source(request, source, named.as_ref(), same);
                let mut to = self.on_current("kms:ReEncryptTo", destination);
                to.conditions.request = asked::re_encryption(request.destination_algorithm.as_str(), same);
                to.encryption_context = Cow::Borrowed(&request.destination_context);
                checks.push(to);
                checks
            }
            (_, Subject::Alias(alias)) => self.of_alias(request.operation(), alias),
            (_, Subject::Rotation(rotation)) => self.of_rotation(rotation),
            (_, Subject::Grant { key, grant }) => {
                let mut check = self.on_key(action, key);
                check.conditions.request = asked::constraint_type(&grant.constraints).into_iter().collect();
                check.encryption_context = Cow::Owned(asked::constrained_context(&grant.constraints));
                check.asks = Asks::RetireGrant { grant };
                vec![check]
            }
            _ => vec![on_account(action, Vec::new())],
        }
    }

    /// A ciphertext's key. RULE §1.13: where the caller named none, the refusal says so.
    fn of_ciphertext<'a>(
        &'a self,
        request: &'a Request,
        action: &'static str,
        key: &'a KeyTarget,
        named: Option<&'a Named>,
    ) -> Vec<Check<'a>> {
        let mut checks = self.elsewhere(action);
        checks.push(self.on_named(action, key, named));
        checks.into_iter().map(|check| self.said(check, request)).collect()
    }

    fn of_source<'a>(
        &'a self,
        request: &'a ReEncrypt,
        key: &'a KeyTarget,
        named: Option<&'a Named>,
        same_key: bool,
    ) -> Vec<Check<'a>> {
        let mut checks = self.elsewhere("kms:ReEncryptFrom");
        checks.push(self.on_named("kms:ReEncryptFrom", key, named));
        for check in &mut checks {
            check.conditions.request = asked::re_encryption(request.source_algorithm.as_str(), same_key);
            check.encryption_context = Cow::Borrowed(&request.source_context);
        }
        checks
    }

    /// A key of another account that was named beside the ciphertext of a third key: whoever may not use it is not told that
    /// it exists by being told that it is the wrong one.
    fn elsewhere(&self, action: &'static str) -> Vec<Check<'_>> {
        self.named_elsewhere.iter().map(|key| self.on_key(action, key)).collect()
    }

    fn of_alias<'a>(&'a self, operation: Operation, alias: &'a AliasSubject) -> Vec<Check<'a>> {
        let action = operation.action();
        // The key of an alias that is there already is no matter of CreateAlias, which will refuse.
        let current = alias.current.iter().filter(|_| operation != Operation::CreateAlias);
        let keys = current.chain(&alias.target).map(|target| self.on_key(action, target));
        std::iter::once(on_alias(action, alias)).chain(keys).collect()
    }

    /// What it does, step by step: a key is made with what it shall have, and each alias goes from one to the other.
    fn of_rotation<'a>(&'a self, rotation: &'a RotationSubject) -> Vec<Check<'a>> {
        const UPDATE: &str = "kms:UpdateAlias";
        let like = || asked::of_successor(&rotation.new.record);
        let mut checks = vec![on_account("kms:CreateKey", like())];
        if !rotation.new.record.tags.is_empty() {
            checks.push(on_account(TAG, like()));
        }
        checks.extend(rotation.aliases.iter().map(|alias| on_alias(UPDATE, alias)));
        checks.extend([&rotation.old, &rotation.new].map(|key| self.on_key(UPDATE, key)));
        let carries = rotation.grants == Some(RotateGrants::Carry);
        if carries && self.snapshot.grants_of(rotation.old.record.id).next().is_some() {
            checks.push(self.on_key("kms:CreateGrant", &rotation.new));
        }
        checks
    }

    fn on_key<'a>(&'a self, action: &'static str, target: &'a KeyTarget) -> Check<'a> {
        let resource_aliases = self.snapshot.aliases_of.get(&target.record.id).map_or(&[][..], Vec::as_slice);
        Check {
            conditions: Conditions { resource_aliases, last_used: self.last_used, ..Conditions::default() },
            ..Check::new(action, Resource::Key { arn: &target.arn, record: &target.record })
        }
    }

    /// On a key that was named as it is now.
    fn on_current<'a>(&'a self, action: &'static str, target: &'a KeyTarget) -> Check<'a> {
        let mut check = self.on_key(action, target);
        check.conditions.request_alias = self.alias.as_ref().map(|alias| &alias.name);
        check.conditions.alias_generation = self.alias.as_ref().map(|_| AliasGeneration::Current);
        check
    }

    /// On the key of a ciphertext.
    fn on_named<'a>(&'a self, action: &'static str, target: &'a KeyTarget, named: Option<&'a Named>) -> Check<'a> {
        let mut check = self.on_key(action, target);
        check.conditions.request_alias = named.and_then(Named::request_alias);
        check.conditions.alias_generation = named.and_then(Named::generation);
        if named.is_none() {
            check.named = evaluate::Named::ByCiphertext;
        }
        check
    }

    fn said<'a>(&self, mut check: Check<'a>, request: &'a Request) -> Check<'a> {
        check.conditions.request = asked::of_request(request);
        check.encryption_context = asked::encryption_context(request);
        if let Request::CreateGrant(request) = request {
            check.asks = Asks::CreateGrant { operations: &request.operations, constraints: &request.constraints };
        }
        check
    }
}

fn on_account<'a>(action: &'static str, said: Said<'a>) -> Check<'a> {
    let mut check = Check::new(action, Resource::Any);
    check.conditions.request = said;
    check
}

fn on_alias<'a>(action: &'static str, alias: &'a AliasSubject) -> Check<'a> {
    Check::new(action, Resource::Alias { arn: &alias.arn, account: &alias.account })
}
