//! Whom a key policy names: each principal must exist when it is written, and is bound to its unique id
//! (authorization.md §1.3, §2.1, §2.2).

use std::collections::{BTreeMap, BTreeSet};

use crate::authz::language::{NamedPrincipal, Policy, PolicyKind};
use crate::ids::{AccountId, Arn, ServiceName};
use crate::ops::OpError;
use crate::ops::key_policy::shown::gone;
use crate::ops::principals::{known_principal, known_service};
use crate::store::{PolicyDocument, Snapshot};

/// AWS's text.
const INVALID: &str = "Policy contains a statement with one or more invalid principals.";

/// What `bind` goes by.
pub struct Known<'a> {
    pub snapshot: &'a Snapshot,
    /// The policy that the key has now: the ids in it of principals that are gone may stand in the new one.
    pub current: Option<&'a PolicyDocument>,
    /// `authz.allow_unknown_accounts`
    pub unknown_accounts: bool,
}

impl Known<'_> {
    /// ARN → unique id for the users and roles that `policy` names.
    pub fn bind(&self, policy: &Policy) -> Result<BTreeMap<String, String>, OpError> {
        let invalid = || OpError::MalformedPolicy(INVALID.to_owned());
        let mut bound = BTreeMap::new();
        let mut ids = None;
        for principal in policy.principals() {
            let known = match principal {
                NamedPrincipal::Everyone => true,
                NamedPrincipal::Account(account) => self.account(account),
                NamedPrincipal::Arn(arn) => match known_principal(self.snapshot, arn) {
                    Some(known) => {
                        bound.extend(known.unique_id.map(|id| (arn.to_owned(), id)));
                        true
                    }
                    None => self.unknown_accounts && self.elsewhere(arn),
                },
                NamedPrincipal::Service(name) => service(self.snapshot, name),
                // RULE §1.3: providers are principals of trust policies.
                NamedPrincipal::Federated(_) => false,
                NamedPrincipal::UniqueId(id) => ids.get_or_insert_with(|| self.ids_of_the_gone()).contains(id),
            };
            if !known {
                return Err(invalid());
            }
        }
        Ok(bound)
    }

    fn account(&self, text: &str) -> bool {
        text.parse().is_ok_and(|account| self.snapshot.has_account(&account)) || self.unknown_accounts
    }

    /// A principal of an account that this bridge does not serve: whether it exists cannot be told.
    fn elsewhere(&self, arn: &str) -> bool {
        let account = Arn::parse(arn).ok().and_then(|arn| arn.account.parse::<AccountId>().ok());
        account.is_some_and(|account| !self.snapshot.has_account(&account))
    }

    /// What `shown` shows of the current policy, and what an earlier write of such a text left in it.
    fn ids_of_the_gone(&self) -> BTreeSet<String> {
        let Some(current) = self.current else { return BTreeSet::new() };
        let mut ids: BTreeSet<String> = gone(current, self.snapshot).map(|(_, id)| id).collect();
        if let Ok(policy) = Policy::parse_stored(current.text(), PolicyKind::Key) {
            ids.extend(policy.principals().filter_map(|principal| match principal {
                NamedPrincipal::UniqueId(id) => Some(id.to_owned()),
                _ => None,
            }));
        }
        ids
    }
}

/// Services that were registered, and AWS's own: policies that were written for AWS stay writable.
fn service(snapshot: &Snapshot, name: &str) -> bool {
    known_service(snapshot, name).is_some() || (name.ends_with(".amazonaws.com") && name.parse::<ServiceName>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::key_policy::testing::{self, ALICE, ALICE_ID, OPS, OPS_ID, ROOT};

    fn policy(principal: &str) -> String {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{principal},"Action":"kms:*","Resource":"*"}}]}}"#
        )
    }

    fn bind(known: &Known<'_>, principal: &str) -> Result<BTreeMap<String, String>, OpError> {
        known.bind(&Policy::parse(&policy(principal), PolicyKind::Key).unwrap())
    }

    fn aws(names: &[&str]) -> String {
        serde_json::json!({ "AWS": names }).to_string()
    }

    #[test]
    fn principals_exist_and_are_bound() {
        let snapshot = testing::snapshot();
        let known = Known { snapshot: &snapshot, current: None, unknown_accounts: false };
        let session = "arn:aws:sts::111122223333:assumed-role/ops/night";
        let bound = bind(&known, &aws(&[ALICE, OPS, session, ROOT, "111122223333"])).unwrap();
        let expected = [(ALICE, ALICE_ID), (OPS, OPS_ID), (session, OPS_ID)];
        assert_eq!(bound, expected.map(|(arn, id)| (arn.to_owned(), id.to_owned())).into());
        for fine in [
            r#""*""#,
            r#"{"AWS":"*"}"#,
            r#"{"AWS":"arn:aws:sts::111122223333:federated-user/carol"}"#,
            r#"{"Service":"backup.internal.example"}"#,
            r#"{"Service":["s3.amazonaws.com","logs.eu-central-1.amazonaws.com"]}"#,
        ] {
            assert_eq!(bind(&known, fine), Ok(BTreeMap::new()), "{fine}");
        }
    }

    #[test]
    fn refused_principals() {
        let snapshot = testing::snapshot();
        let strict = Known { snapshot: &snapshot, current: None, unknown_accounts: false };
        let lenient = Known { unknown_accounts: true, ..strict };
        let refused = Err(OpError::MalformedPolicy(INVALID.to_owned()));
        for (principal, foreign) in [
            (r#"{"AWS":"arn:aws:iam::111122223333:user/nobody"}"#, false),
            (r#"{"AWS":"arn:aws:iam::111122223333:user/Alice"}"#, false),
            (r#"{"AWS":"arn:aws:iam::111122223333:role/ops"}"#, false),
            (r#"{"AWS":"arn:aws:sts::111122223333:assumed-role/none/s1"}"#, false),
            (r#"{"AWS":"AIDAALICEALICEALICE01"}"#, false),
            (r#"{"Service":"unknown.internal.example"}"#, false),
            (r#"{"Service":"amazonaws.com"}"#, false),
            (r#"{"AWS":"444455556666"}"#, true),
            (r#"{"AWS":"arn:aws:iam::444455556666:root"}"#, true),
            (r#"{"AWS":"arn:aws:iam::444455556666:role/x"}"#, true),
        ] {
            assert_eq!(bind(&strict, principal), refused, "{principal}");
            assert_eq!(bind(&lenient, principal).is_ok(), foreign, "{principal}");
        }
    }

    #[test]
    fn ids_of_the_gone_may_be_put_back_and_no_others() {
        let arn = ALICE.to_owned();
        let bound = PolicyDocument::new(policy(&aws(&[ALICE])), [(arn, ALICE_ID.to_owned())].into());
        let (here, gone, again) = (testing::snapshot(), testing::without_alice(), testing::another_alice());
        let known = |snapshot| Known { snapshot, current: Some(&bound), unknown_accounts: false };
        // She is there: the ARN is her name.
        assert!(bind(&known(&here), &aws(&[ALICE_ID])).is_err());
        assert_eq!(bind(&known(&gone), &aws(&[ALICE_ID])), Ok(BTreeMap::new()));
        assert!(bind(&known(&gone), &aws(&["AIDASOMEBODYELSE00001"])).is_err());
        // The new one of that name beside the old id: each keeps its own.
        let both = bind(&known(&again), &aws(&[ALICE_ID, ALICE])).unwrap();
        assert_eq!(both, [(ALICE.to_owned(), "AIDAANOTHERANOTHERA01".to_owned())].into());
        // Put back once, the id may be put back again.
        let kept = PolicyDocument::plain(policy(&aws(&[ALICE_ID])));
        let known = Known { snapshot: &gone, current: Some(&kept), unknown_accounts: false };
        assert_eq!(bind(&known, &aws(&[ALICE_ID])), Ok(BTreeMap::new()));
    }
}
