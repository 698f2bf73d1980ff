//! The lockout safety check: a key policy is not written that would leave its writer unable to write the next one
//! (authorization.md §1.9).

use crate::authz::evaluate::{Actor, ActorKind, Asks, Attached, NoGrants, Question, Target, evaluate};
use crate::authz::identities::compiled;
use crate::authz::language::{NamedPrincipal, NoKeys, PolicyKind};
use crate::authz::{Bound, Checks, Permit};
use crate::ids::{AccountId, Arn};
use crate::ops::OpError;
use crate::store::{KeyRecord, PolicyDocument};

/// The same caller, with all its policies and the condition keys of this request, and without grants, must be allowed to call
/// PutKeyPolicy under the new policy.
pub fn stays_in_hand<R: Checks>(
    permit: &Permit<R>,
    key_arn: &str,
    account: &AccountId,
    document: &PolicyDocument,
) -> Result<(), OpError> {
    match permit.could_put_policy(key_arn, account, document) {
        true => Ok(()),
        false => Err(OpError::MalformedPolicy(
            "The new key policy will not allow you to update the key policy in the future.".to_owned(),
        )),
    }
}

/// A rotation copies the policy as it is. One that lets itself be changed only on the old key's ARN would lock everybody out of
/// the new key; one that was locked before (by BypassPolicyLockoutSafetyCheck) is what somebody wanted.
pub fn survives_rotation(old: &KeyRecord, old_arn: &str, new_arn: &str) -> bool {
    let Some(policy) = compiled(&old.policy, PolicyKind::Key) else { return true };
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
                bindings: &Bound(old.policy.principals()),
                grants: &NoGrants,
            };
            evaluate(&Question {
                actor,
                attached: &Attached::default(),
                action: "kms:PutKeyPolicy",
                target,
                keys: &NoKeys,
                encryption_context: &[],
                asks: Asks::Plain,
                grants_suffice_cross_account: true,
            })
            .allowed
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::authn::{Caller, Principal};
    use crate::authz::{Check, Environment, Resource, Rules, decide};
    use crate::ops::key_policy::default_policy;
    use crate::ops::key_policy::testing::{self, ALICE, ALICE_ID, ROOT};
    use crate::store::Snapshot;
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

    /// A key that lets everybody do everything, so that who asks has a permit.
    struct OpenKey(Snapshot, Arc<KeyRecord>);

    impl Checks for OpenKey {
        fn checks(&self) -> Vec<Check<'_>> {
            vec![Check::new("kms:PutKeyPolicy", Resource::Key { arn: KEY, record: &self.1 })]
        }

        fn snapshot(&self) -> &Snapshot {
            &self.0
        }
    }

    fn permit(caller: &Caller) -> Permit<OpenKey> {
        let open = one(r#"{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}"#);
        let record = KeyRecord { policy: open.as_str().into(), ..key(1) };
        let environment = Environment {
            now: 1_800_000_000_000,
            source_ip: Some([192, 0, 2, 1].into()),
            secure_transport: false,
            user_agent: None,
            region: "eu-central-1".parse().unwrap(),
        };
        let open = OpenKey(testing::snapshot(), record.into());
        match decide(caller.clone(), open, environment, &Rules::default()) {
            Ok(permit) => permit,
            Err(denied) => panic!("{}", denied.message),
        }
    }

    fn stays(caller: &Caller, document: &PolicyDocument) -> bool {
        stays_in_hand(&permit(caller), KEY, &account(), document).is_ok()
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
    fn conditions_are_those_of_the_request() {
        let root = Caller::in_test(Principal::Root, account());
        let from = |network: &str| {
            let condition = format!(r#""Condition":{{"IpAddress":{{"aws:SourceIp":"{network}"}}}}"#);
            PolicyDocument::plain(one(&format!(
                r#"{{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*",{condition}}}"#
            )))
        };
        assert!(stays(&root, &from("192.0.2.0/24")));
        assert!(!stays(&root, &from("198.51.100.0/24")));
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
