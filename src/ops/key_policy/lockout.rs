//! The lockout safety check: a key policy is not written that would leave its writer unable to write the next one
//! (authorization.md §1.9).

use crate::authn::{Caller, Principal};
use crate::authz::Permit;
use crate::authz::evaluate::{
    Actor, ActorKind, Asks, Attached, Bindings, NoGrants, Question, Target, evaluate, lockout,
};
use crate::authz::language::{ConditionKeys, NamedPrincipal, NoKeys, Policy, PolicyKind};
use crate::ids::{AccountId, Arn};
use crate::ops::{OpError, Resolved};
use crate::store::{KeyRecord, PolicyDocument, Snapshot};

const PUT: &str = "kms:PutKeyPolicy";

/// Who wants to write a policy, with everything that their request was decided by.
pub struct Asker<'a> {
    pub caller: &'a Caller,
    pub snapshot: &'a Snapshot,
    pub keys: &'a (dyn ConditionKeys + Sync),
}

impl<'a> Asker<'a> {
    pub fn of(permit: &'a Permit<Resolved>) -> Self {
        // SEAM: the condition keys of the request.
        Self { caller: permit.caller(), snapshot: permit.resolved().snapshot(), keys: &NoKeys }
    }

    /// The same caller, with all its policies and the condition keys of this request, and without grants, must be allowed to
    /// call PutKeyPolicy under the new policy.
    pub fn stays(&self, key_arn: &str, account: &AccountId, document: &PolicyDocument) -> Result<(), OpError> {
        let refused = || {
            OpError::MalformedPolicy(
                "The new key policy will not allow you to update the key policy in the future.".to_owned(),
            )
        };
        let policy = Policy::parse_stored(document.text(), PolicyKind::Key).map_err(|_| refused())?;
        let identity = Identity::of(self.caller, self.snapshot);
        let bindings = Bound(document);
        let question = question(identity.actor(), &identity.attached, self.keys, Target::Account { account: "" });
        match lockout(&question, key_arn, account.as_str(), &policy, &bindings).allowed {
            true => Ok(()),
            false => Err(refused()),
        }
    }
}

/// A rotation copies the policy as it is. One that lets itself be changed only on the old key's ARN would lock everybody out of
/// the new key; one that was locked before (by BypassPolicyLockoutSafetyCheck) is what somebody wanted.
pub fn survives_rotation(old: &KeyRecord, old_arn: &str, new_arn: &str) -> bool {
    let Ok(policy) = Policy::parse_stored(old.policy.text(), PolicyKind::Key) else { return true };
    let root = format!("arn:aws:iam::{}:root", old.account);
    // RULE §1.5: PutKeyPolicy is for the key's own account.
    let own = |arn: &str| Arn::parse(arn).is_ok_and(|arn| arn.account == old.account.as_str());
    let named = || {
        policy.principals().filter_map(|principal| match principal {
            NamedPrincipal::Arn(arn) if own(arn) => Some(arn),
            _ => None,
        })
    };
    let could = |arn: &str| {
        let allowed = |actor| {
            let target = Target::Resource {
                arn,
                account: old.account.as_str(),
                policy: &policy,
                bindings: &Bound(&old.policy),
                grants: &NoGrants,
            };
            evaluate(&question(actor, &Attached::default(), &NoKeys, target)).allowed
        };
        // Delegation to the account shows in what its root user may; besides it there are those that are named.
        allowed(bare(ActorKind::Root, &root, &old.account))
            || named().any(|named| allowed(bare(ActorKind::User, named, &old.account)))
    };
    !could(old_arn) || could(new_arn)
}

fn bare<'a>(kind: ActorKind, arn: &'a str, account: &'a AccountId) -> Actor<'a> {
    let account = Some(account.as_str());
    Actor { kind, arn, account, unique_id: None, role_arn: None, federating_user_arn: None }
}

fn question<'a>(
    actor: Actor<'a>,
    attached: &'a Attached,
    keys: &'a dyn ConditionKeys,
    target: Target<'a>,
) -> Question<'a> {
    Question {
        actor,
        attached,
        action: PUT,
        target,
        keys,
        encryption_context: &[],
        asks: Asks::Plain,
        grants_suffice_cross_account: true,
    }
}

/// The ids that a policy's ARNs are bound to.
struct Bound<'a>(&'a PolicyDocument);

impl Bindings for Bound<'_> {
    fn bound(&self, principal_arn: &str) -> Option<&str> {
        self.0.principals().get(principal_arn).map(String::as_str)
    }
}

/// SEAM: becomes authz's own (caller, snapshot) → actor and attached policies.
struct Identity {
    kind: ActorKind,
    arn: String,
    account: String,
    unique_id: Option<String>,
    attached: Attached,
}

impl Identity {
    fn of(caller: &Caller, _snapshot: &Snapshot) -> Self {
        let (kind, unique_id) = match caller.principal() {
            Principal::Root => (ActorKind::Root, None),
            Principal::User { user_id, .. } => (ActorKind::User, Some(user_id.clone())),
            _ => (ActorKind::Anonymous, None),
        };
        Self {
            kind,
            arn: caller.arn(),
            account: caller.account().to_string(),
            unique_id,
            attached: Attached::default(),
        }
    }

    fn actor(&self) -> Actor<'_> {
        Actor {
            kind: self.kind,
            arn: &self.arn,
            account: Some(&self.account),
            unique_id: self.unique_id.as_deref(),
            role_arn: None,
            federating_user_arn: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::key_policy::default_policy;
    use crate::ops::key_policy::testing::{self, ALICE, ALICE_ID, ROOT};
    use crate::store::testing::{account, key};

    const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11";

    fn one(statement: &str) -> String {
        format!(r#"{{"Version":"2012-10-17","Statement":[{statement}]}}"#)
    }

    fn alice() -> Caller {
        let user = Principal::User {
            name: "alice".parse().unwrap(),
            path: "/".parse().unwrap(),
            user_id: ALICE_ID.to_owned(),
        };
        Caller::in_test(user, account())
    }

    fn stays(caller: &Caller, document: &PolicyDocument) -> bool {
        let snapshot = testing::snapshot();
        Asker { caller, snapshot: &snapshot, keys: &NoKeys }.stays(KEY, &account(), document).is_ok()
    }

    #[test]
    fn the_root_user_must_keep_the_policy_in_its_hands() {
        let root = Caller::in_test(Principal::Root, account());
        let allow = |rest: &str| one(&format!(r#"{{"Effect":"Allow",{rest}}}"#));
        let rows = [
            (true, default_policy(&account())),
            (true, allow(r#""Principal":"*","Action":"*","Resource":"*""#)),
            (true, allow(r#""Principal":{"AWS":"111122223333"},"Action":["kms:put*"],"Resource":"*""#)),
            (true, allow(&format!(r#""Principal":{{"AWS":"{ROOT}"}},"Action":"kms:PutKeyPolicy","Resource":"{KEY}""#))),
            (false, allow(r#""Principal":{"AWS":"444455556666"},"Action":"kms:*","Resource":"*""#)),
            (false, allow(r#""Principal":"*","Action":"kms:Get*","Resource":"*""#)),
            (false, allow(r#""Principal":"*","Action":"kms:*""#)),
            (false, allow(r#""Principal":"*","NotAction":"kms:Put*","Resource":"*""#)),
            (
                false,
                allow(
                    r#""Principal":"*","Action":"kms:*","Resource":"*","Condition":{"Bool":{"aws:SecureTransport":true}}"#,
                ),
            ),
            (
                false,
                one(concat!(
                    r#"{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"},"#,
                    r#"{"Effect":"Deny","Principal":{"AWS":"111122223333"},"Action":"kms:PutKeyPolicy","Resource":"*"}"#
                )),
            ),
        ];
        for (expected, text) in rows {
            assert_eq!(stays(&root, &PolicyDocument::plain(text.as_str())), expected, "{text}");
        }
    }

    #[test]
    fn delegation_alone_does_not_leave_it_in_a_users_hands() {
        assert!(!stays(&alice(), &PolicyDocument::plain(default_policy(&account()))));
        let text = one(&format!(
            r#"{{"Effect":"Allow","Principal":{{"AWS":"{ALICE}"}},"Action":"kms:PutKeyPolicy","Resource":"*"}}"#
        ));
        let bound = |id: &str| PolicyDocument::new(text.as_str(), [(ALICE.to_owned(), id.to_owned())].into());
        assert!(stays(&alice(), &bound(ALICE_ID)));
        assert!(!stays(&alice(), &bound("AIDAANOTHERANOTHERA01")));
    }

    #[test]
    fn rotation_refuses_a_policy_that_only_the_old_keys_arn_opens() {
        let new = KEY.replace("5f0c", "6f0c");
        let fits = |statement: &str| {
            survives_rotation(&KeyRecord { policy: one(statement).as_str().into(), ..key(1) }, KEY, &new)
        };
        let allow = |principal: &str, resource: &str| {
            format!(
                r#"{{"Effect":"Allow","Principal":{{"AWS":"{principal}"}},"Action":"kms:*","Resource":"{resource}"}}"#
            )
        };
        for principal in [ROOT, ALICE] {
            assert!(fits(&allow(principal, "*")), "{principal}");
            assert!(!fits(&allow(principal, KEY)), "{principal}");
        }
        assert!(fits(&format!("{},{}", allow(ALICE, KEY), allow(ROOT, "*"))));
        // Nobody could before.
        assert!(fits(r#"{"Effect":"Allow","Principal":"*","Action":"kms:Encrypt","Resource":"*"}"#));
    }
}
