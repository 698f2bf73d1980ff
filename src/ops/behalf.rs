//! For whom a registered service may call: `may_act_for` of its record. Source: authorization.md §1.11.

use crate::authn::{EndCaller, NotForThem, Principal};
use crate::ids::{AccountId, Arn, ServiceName, UserName};
use crate::ops::principals::{KnownPrincipal, PrincipalKind, known_principal};
use crate::store::{ServiceRecord, Snapshot};

/// Whom a service names by ARN, as they are now. Nothing is told of principals that `may_act_for` does not cover.
///
/// A session is not taken by its ARN: its session policies and tags are in its session token only, and without them it could
/// do all that its role can.
pub fn by_arn(snapshot: &Snapshot, service: &ServiceName, named: &str) -> Result<EndCaller, NotForThem> {
    let record = snapshot.services.get(service).ok_or(NotForThem::NotRegistered)?;
    let account = Arn::parse(named).ok().and_then(|arn| arn.account.parse::<AccountId>().ok());
    let account = account.ok_or(NotForThem::NotRegistered)?;
    if named.starts_with("arn:aws:sts:") {
        return Err(NotForThem::SessionByName);
    }
    if !covers(record, &account, &[named]) {
        return Err(NotForThem::NotRegistered);
    }
    let known = known_principal(snapshot, named).ok_or(NotForThem::Nobody)?;
    let principal = signs_in(snapshot, &known, named).ok_or(NotForThem::Nobody)?;
    Ok(EndCaller { principal, account, session: None })
}

/// Whether a registration covers a principal: by its account, or by one of its ARNs (of a session its own and its role's).
pub fn covers(record: &ServiceRecord, account: &AccountId, arns: &[&str]) -> bool {
    record
        .may_act_for
        .iter()
        .any(|entry| entry == "*" || entry == account.as_str() || arns.iter().any(|arn| arn_matches(entry, arn)))
}

/// Users, and root users that are not turned off.
fn signs_in(snapshot: &Snapshot, known: &KnownPrincipal, named: &str) -> Option<Principal> {
    match known.kind {
        PrincipalKind::Account => {
            let account = snapshot.accounts.get(&known.account);
            account.is_none_or(|account| account.root_enabled).then_some(Principal::Root)
        }
        PrincipalKind::User => {
            let name = named.rsplit('/').next()?.parse::<UserName>().ok()?;
            let user = snapshot.user(&known.account, &name)?;
            Some(Principal::User { name, path: user.path.clone(), user_id: user.user_id.clone() })
        }
        // A role signs nothing itself.
        PrincipalKind::Role | PrincipalKind::RoleSession | PrincipalKind::FederatedUser => None,
    }
}

/// `*` and `?` stand for text inside one of the six parts of an ARN: what stands in a user's path cannot pass for an account.
fn arn_matches(pattern: &str, arn: &str) -> bool {
    let (mut pattern, mut arn) = (pattern.splitn(6, ':'), arn.splitn(6, ':'));
    let mut parts = 0;
    loop {
        match (pattern.next(), arn.next()) {
            (Some(pattern), Some(text)) if wildcard(pattern, text) => parts += 1,
            (None, None) => return parts == 6,
            _ => return false,
        }
    }
}

/// Iterative: at most the product of the lengths.
fn wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stands, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{self, account, new_store, put};
    use crate::store::{AccountRecord, UserRecord, Write};

    #[test]
    fn patterns() {
        for (pattern, arn, expected) in [
            ("arn:aws:iam::111122223333:user/app/*", "arn:aws:iam::111122223333:user/app/a", true),
            ("arn:aws:iam::111122223333:user/app/*", "arn:aws:iam::111122223333:user/app/x/a", true),
            ("arn:aws:iam::*:user/a", "arn:aws:iam::111122223333:user/a", true),
            ("arn:aws:iam::111122223333:user/?", "arn:aws:iam::111122223333:user/a", true),
            ("arn:aws:iam::111122223333:*", "arn:aws:iam::111122223333:root", true),
            ("arn:aws:iam::111122223333:user/a*c*e", "arn:aws:iam::111122223333:user/abcde", true),
            // Refused.
            ("arn:aws:iam::111122223333:user/?", "arn:aws:iam::111122223333:user/ab", false),
            ("arn:aws:iam::*:user/a", "arn:aws:iam::111122223333:user/x:user/a", false),
            ("arn:aws:iam::111122223333:user/app/*", "arn:aws:iam::444455556666:user/app/a", false),
            ("arn:aws:iam::111122223333:user/a", "arn:aws:iam::111122223333:user/A", false),
            ("*", "arn:aws:iam::111122223333:root", false),
            ("", "", false),
        ] {
            assert_eq!(arn_matches(pattern, arn), expected, "{pattern} {arn}");
        }
    }

    fn user(name: &str, path: &str) -> Write {
        Write::PutUser(UserRecord { path: path.parse().unwrap(), ..testing::user(name, &format!("AIDA{name}")) })
    }

    #[tokio::test]
    async fn a_service_acts_for_those_that_its_registration_names_and_that_may_sign_in() {
        let (_state, store) = new_store().await;
        let own = |root_enabled| Write::PutAccount(AccountRecord { root_enabled, ..testing::own_account() });
        let service: ServiceName = "s3.internal.example".parse().unwrap();
        let registered = |may_act_for: &[&str]| {
            Write::PutService(ServiceRecord {
                name: "s3.internal.example".parse().unwrap(),
                account: account(),
                service_id: "ASVC1".to_owned(),
                created: 1,
                managed_key: None,
                may_act_for: may_act_for.iter().map(|entry| (*entry).to_owned()).collect(),
            })
        };
        put(&store, vec![own(true), user("alice", "/"), user("bob", "/app/")]).await;
        const ALICE: &str = "arn:aws:iam::111122223333:user/alice";
        const BOB: &str = "arn:aws:iam::111122223333:user/app/bob";
        const ROOT: &str = "arn:aws:iam::111122223333:root";
        assert_eq!(by_arn(&store.snapshot(), &service, ALICE), Err(NotForThem::NotRegistered));
        put(&store, vec![registered(&["arn:aws:iam::111122223333:user/app/*"])]).await;
        let asked = |named: &str| by_arn(&store.snapshot(), &service, named).map(|end| end.principal);
        assert!(matches!(asked(BOB), Ok(Principal::User { user_id, .. }) if user_id == "AIDAbob"));
        assert_eq!(asked(ALICE), Err(NotForThem::NotRegistered));
        assert_eq!(asked(ROOT), Err(NotForThem::NotRegistered));
        assert_eq!(asked("arn:aws:iam::111122223333:user/app/eve"), Err(NotForThem::Nobody));
        assert_eq!(asked("arn:aws:sts::111122223333:assumed-role/app/s1"), Err(NotForThem::SessionByName));
        assert_eq!(asked("not-an-arn"), Err(NotForThem::NotRegistered));

        put(&store, vec![registered(&["111122223333"])]).await;
        let asked = |named: &str| by_arn(&store.snapshot(), &service, named).map(|end| end.principal);
        assert!(asked(ALICE).is_ok());
        assert_eq!(asked(ROOT), Ok(Principal::Root));
        assert_eq!(asked("arn:aws:iam::444455556666:root"), Err(NotForThem::NotRegistered));
        put(&store, vec![own(false)]).await;
        assert_eq!(by_arn(&store.snapshot(), &service, ROOT), Err(NotForThem::Nobody));
        put(&store, vec![registered(&[])]).await;
        assert_eq!(by_arn(&store.snapshot(), &service, ALICE), Err(NotForThem::NotRegistered));
    }
}
