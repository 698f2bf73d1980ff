//! What the ARN of a principal means now: policies and grants are bound to the unique id that it has when they are written
//! (authorization.md §1.3), so that a user who is deleted and made again does not inherit.

use crate::ids::{AccountId, Arn, RoleName, ServiceName, UserName};
use crate::store::Snapshot;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    /// `arn:aws:iam::A:root`: the account.
    Account,
    User,
    Role,
    /// `arn:aws:sts::A:assumed-role/ROLE/SESSION`
    RoleSession,
    /// `arn:aws:sts::A:federated-user/NAME`
    FederatedUser,
}

/// A principal that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPrincipal {
    pub kind: PrincipalKind,
    pub account: AccountId,
    /// `AIDA…` of a user, `AROA…` of a role and of its sessions. `None`: accounts, and federated users, whose name is all
    /// that there is of them.
    pub unique_id: Option<String>,
}

/// The principal that an ARN names. `None`: no principal that may be named in a key policy or a grant, or one that does not
/// exist; groups, providers and organisations are no principals. Compared byte for byte, the path included.
pub fn known_principal(snapshot: &Snapshot, text: &str) -> Option<KnownPrincipal> {
    let arn = Arn::parse(text).ok()?;
    if arn.partition != "aws" || !arn.region.is_empty() {
        return None;
    }
    let account = known_account(snapshot, arn.account)?;
    let (kind, unique_id) = match (arn.service, arn.resource.split_once('/')) {
        ("iam", None) if arn.resource == "root" => (PrincipalKind::Account, None),
        ("iam", Some(("user", rest))) => {
            let (path, name) = path_and_name(rest);
            let user = snapshot.user(&account, &name.parse::<UserName>().ok()?)?;
            if user.path.as_str() != path {
                return None;
            }
            (PrincipalKind::User, Some(user.user_id.clone()))
        }
        ("iam", Some(("role", rest))) => {
            let (path, name) = path_and_name(rest);
            let role = snapshot.role(&account, &name.parse::<RoleName>().ok()?)?;
            if role.path.as_str() != path {
                return None;
            }
            (PrincipalKind::Role, Some(role.role_id.clone()))
        }
        ("sts", Some(("assumed-role", rest))) => {
            let (role, session) = rest.split_once('/')?;
            let role = snapshot.role(&account, &role.parse::<RoleName>().ok()?)?;
            if !is_session_name(session, 64) {
                return None;
            }
            (PrincipalKind::RoleSession, Some(role.role_id.clone()))
        }
        ("sts", Some(("federated-user", name))) if is_session_name(name, 32) => (PrincipalKind::FederatedUser, None),
        _ => return None,
    };
    Some(KnownPrincipal { kind, account, unique_id })
}

/// The account of a bare twelve-digit id, where this bridge serves it.
pub fn known_account(snapshot: &Snapshot, text: &str) -> Option<AccountId> {
    text.parse().ok().filter(|account| snapshot.has_account(account))
}

/// A service principal that was registered.
pub fn known_service(snapshot: &Snapshot, text: &str) -> Option<ServiceName> {
    text.parse().ok().filter(|name| snapshot.services.contains_key(name))
}

/// `a/b/name` → (`/a/b/`, `name`): what stands after `user` or `role` without its first slash.
fn path_and_name(rest: &str) -> (String, &str) {
    match rest.rsplit_once('/') {
        Some((path, name)) => (format!("/{path}/"), name),
        None => ("/".to_owned(), rest),
    }
}

/// RoleSessionName, and Name of GetFederationToken: 2 characters at least.
fn is_session_name(text: &str, longest: usize) -> bool {
    (2..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{self, account, new_store, put};
    use crate::store::{GroupRecord, Policies, RoleRecord, ServiceRecord, UserRecord, Write};

    fn user(name: &str, path: &str, id: &str) -> Write {
        Write::PutUser(UserRecord { path: path.parse().unwrap(), ..testing::user(name, id) })
    }

    fn role(name: &str, path: &str, id: &str) -> Write {
        Write::PutRole(RoleRecord { path: path.parse().unwrap(), ..testing::role(name, id) })
    }

    #[tokio::test]
    async fn an_arn_means_whom_it_names_now_and_nobody_else() {
        let (_state, store) = new_store().await;
        let known = testing::own_account();
        let group = GroupRecord {
            name: "ops".parse().unwrap(),
            account: account(),
            group_id: "AGPA1".to_owned(),
            created: 1,
            path: "/".parse().unwrap(),
            policies: Policies::default(),
        };
        let service = ServiceRecord {
            name: "backup.internal.example".parse().unwrap(),
            account: account(),
            service_id: "ASVC1".to_owned(),
            created: 1,
            managed_key: None,
            may_act_for: Vec::new(),
        };
        let writes = vec![
            Write::PutAccount(known),
            user("alice", "/", "AIDA1"),
            user("bob", "/eu/ops/", "AIDA2"),
            role("app", "/svc/", "AROA1"),
            Write::PutGroup(group),
            Write::PutService(service),
        ];
        put(&store, writes).await;
        let snapshot = store.snapshot();
        use PrincipalKind as K;
        type Expected = Option<(K, Option<&'static str>)>;
        let cases: &[(&str, Expected)] = &[
            ("arn:aws:iam::111122223333:root", Some((K::Account, None))),
            ("arn:aws:iam::111122223333:user/alice", Some((K::User, Some("AIDA1")))),
            ("arn:aws:iam::111122223333:user/eu/ops/bob", Some((K::User, Some("AIDA2")))),
            ("arn:aws:iam::111122223333:role/svc/app", Some((K::Role, Some("AROA1")))),
            ("arn:aws:sts::111122223333:assumed-role/app/s1", Some((K::RoleSession, Some("AROA1")))),
            ("arn:aws:sts::111122223333:federated-user/carol", Some((K::FederatedUser, None))),
            // Refused, each for one reason.
            ("arn:aws:iam::111122223333:user/Alice", None),
            ("arn:aws:iam::111122223333:user/bob", None),
            ("arn:aws:iam::111122223333:user/eu/bob", None),
            ("arn:aws:iam::111122223333:user//alice", None),
            ("arn:aws:iam::111122223333:user/", None),
            ("arn:aws:iam::111122223333:role/app", None),
            ("arn:aws:sts::111122223333:assumed-role/svc/app/s1", None),
            ("arn:aws:sts::111122223333:assumed-role/app", None),
            ("arn:aws:sts::111122223333:assumed-role/app/s", None),
            ("arn:aws:sts::111122223333:assumed-role/none/s1", None),
            ("arn:aws:sts::111122223333:federated-user/c", None),
            ("arn:aws:iam::111122223333:group/ops", None),
            ("arn:aws:iam::444455556666:root", None),
            ("arn:aws-cn:iam::111122223333:root", None),
            ("arn:aws:iam:eu-central-1:111122223333:root", None),
            ("arn:aws:iam::111122223333:*", None),
            ("arn:aws:iam::111122223333:user/*", None),
            ("arn:aws:sts::111122223333:root", None),
            ("111122223333", None),
            ("backup.internal.example", None),
            ("*", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let found = known_principal(&snapshot, text);
            let found = found.as_ref().map(|p| (p.kind, p.unique_id.as_deref()));
            assert_eq!(found, *expected, "{text}");
        }
        assert_eq!(known_account(&snapshot, "111122223333"), Some(account()));
        assert_eq!(known_account(&snapshot, "444455556666"), None);
        assert!(known_service(&snapshot, "backup.internal.example").is_some());
        assert!(known_service(&snapshot, "other.internal.example").is_none());
    }
}
