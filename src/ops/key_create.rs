//! `key create`: a key with the console's policy for administrators and users, and its alias, in one go.

use serde_json::json;

use crate::ids::spec::KeyUsage;
use crate::ids::{AccountId, AliasName, KeyId, RoleName, UserName};
use crate::ops::aliases::not_reserved;
use crate::ops::key_policy::ConsolePolicy;
use crate::ops::keys::NewKey;
use crate::ops::principals::{PrincipalKind, known_principal};
use crate::ops::{Context, Effects, KeyCreate, OpError, OperatorResponse, Ops};
use crate::store::{AliasRecord, Snapshot, Write};

/// RULE CreateKey: bounds of Description and tags.
const LONGEST_DESCRIPTION: usize = 8_192;
const MOST_TAGS: usize = 50;
const LONGEST_TAG_KEY: usize = 128;
const LONGEST_TAG_VALUE: usize = 256;

impl Ops {
    /// The same way as CreateKey. Its lockout check asks about a caller, which the operator is not: the policy leaves the key in
    /// the hands of its account.
    pub(super) async fn create_key_by_operator(
        &self,
        request: &KeyCreate,
        id: KeyId,
        arn: &str,
        snapshot: &Snapshot,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<OperatorResponse, OpError> {
        let account = &ctx.account;
        let usage = usage(request)?;
        check_texts(request)?;
        if let Some(name) = &request.alias {
            alias_free(snapshot, account, name, &self.locality.of(account).alias_arn(name))?;
        }
        let people = People { snapshot, account, unknown_accounts: self.allow_unknown_accounts };
        let admins = people.all("administrator", &request.admins, &[])?;
        let users = people.all("user", &request.users, &[PrincipalKind::Account])?;
        let policy = ConsolePolicy {
            account,
            spec: request.key_spec,
            usage,
            admins: &admins,
            users: &users,
            admins_may_delete: request.admins_may_delete,
        };
        let policy = self.policy_to_write(&policy.text(), None, snapshot)?;
        let new = NewKey {
            id,
            spec: request.key_spec,
            usage,
            description: request.description.clone(),
            policy,
            tags: request.tags.clone(),
            key_store: request.key_store.as_ref().map(ToString::to_string),
        };
        let (name, now) = (request.alias.clone(), ctx.now);
        let alias_arn = name.as_ref().map(|name| self.locality.of(account).alias_arn(name)).unwrap_or_default();
        let key = self
            .make_key(new, arn, ctx, effects, move |snapshot, key| {
                let Some(name) = name else { return Ok(Vec::new()) };
                alias_free(snapshot, &key.account, &name, &alias_arn)?;
                let account = key.account.clone();
                let record =
                    AliasRecord { name, account, target: key.id, created: now, updated: now, history: Vec::new() };
                Ok(vec![Write::PutAlias(record)])
            })
            .await?;
        effects.details = Some(json!({
            "keyId": arn,
            "alias": request.alias,
            "policy": key.record.policy.text(),
            "replication": self.replication_of(&key.record),
        }));
        Ok(OperatorResponse::KeyCreated { key: Box::new(self.key_details(&key, &self.store.snapshot())?) })
    }
}

fn usage(request: &KeyCreate) -> Result<KeyUsage, OpError> {
    let usage = request.key_spec.default_usage();
    match request.key_usage {
        Some(wanted) if wanted != usage => Err(OpError::Unsupported(format!(
            "KeyUsage {wanted} with KeySpec {} is not served by this version",
            request.key_spec
        ))),
        _ => Ok(usage),
    }
}

/// What CreateKey's front checks.
fn check_texts(request: &KeyCreate) -> Result<(), OpError> {
    if request.description.chars().count() > LONGEST_DESCRIPTION {
        return Err(OpError::Validation(format!("a description has at most {LONGEST_DESCRIPTION} characters")));
    }
    if request.tags.len() > MOST_TAGS {
        return Err(OpError::Tag("Too many tags"));
    }
    for (at, (key, value)) in request.tags.iter().enumerate() {
        if key.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("aws:")) {
            return Err(OpError::Tag("Tags beginning with aws: are reserved"));
        }
        if request.tags.iter().take(at).any(|(other, _)| other == key) {
            return Err(OpError::Tag("Duplicate tag keys"));
        }
        if key.is_empty() || key.chars().count() > LONGEST_TAG_KEY || value.chars().count() > LONGEST_TAG_VALUE {
            return Err(OpError::Validation(format!(
                "a tag has a key of 1 to {LONGEST_TAG_KEY} and a value of at most {LONGEST_TAG_VALUE} characters"
            )));
        }
    }
    Ok(())
}

/// Before the key is made and again in the transaction.
fn alias_free(snapshot: &Snapshot, account: &AccountId, name: &AliasName, arn: &str) -> Result<(), OpError> {
    not_reserved(name)?;
    match snapshot.alias(account, name) {
        Some(_) => Err(OpError::AliasExists { arn: arn.to_owned() }),
        None => Ok(()),
    }
}

/// Names on the command line become ARNs.
struct People<'a> {
    snapshot: &'a Snapshot,
    account: &'a AccountId,
    unknown_accounts: bool,
}

impl People<'_> {
    /// `more`: kinds of principals beside users, roles and their sessions.
    fn all(&self, what: &str, names: &[String], more: &[PrincipalKind]) -> Result<Vec<String>, OpError> {
        let mut arns = Vec::with_capacity(names.len());
        for name in names {
            let arn = self.arn(name).ok_or_else(|| OpError::Validation(format!("{what} `{name}` does not exist")))?;
            let kind = known_principal(self.snapshot, &arn).map(|known| known.kind);
            let kind = kind.or_else(|| arn.ends_with(":root").then_some(PrincipalKind::Account));
            if matches!(kind, Some(kind @ (PrincipalKind::Account | PrincipalKind::FederatedUser)) if !more.contains(&kind))
            {
                return Err(OpError::Validation(format!("{what} `{name}` is neither a user nor a role")));
            }
            if !arns.contains(&arn) {
                arns.push(arn);
            }
        }
        Ok(arns)
    }

    /// `user/alice` and `role/ops` are of the key's account, by name alone where the path is left out; twelve digits are an
    /// account.
    fn arn(&self, name: &str) -> Option<String> {
        let account = self.account;
        let arn = if name.starts_with("arn:") {
            name.to_owned()
        } else if name.parse::<AccountId>().is_ok() {
            format!("arn:aws:iam::{name}:root")
        } else if let Some(user) = name.strip_prefix("user/").and_then(|name| name.parse::<UserName>().ok()) {
            format!("arn:aws:iam::{account}:user{}{user}", self.snapshot.user(account, &user)?.path)
        } else if let Some(role) = name.strip_prefix("role/").and_then(|name| name.parse::<RoleName>().ok()) {
            format!("arn:aws:iam::{account}:role{}{role}", self.snapshot.role(account, &role)?.path)
        } else {
            format!("arn:aws:iam::{account}:{name}")
        };
        // Whether such a principal may be written although it is not known, the policy's own check says.
        (known_principal(self.snapshot, &arn).is_some() || self.unknown_accounts).then_some(arn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::spec::KeySpec;
    use crate::ops::key_policy::testing::{self, ALICE, OPS, ROOT};
    use crate::store::testing::account;

    fn request() -> KeyCreate {
        KeyCreate {
            account: None,
            key_spec: KeySpec::SymmetricDefault,
            key_usage: None,
            description: String::new(),
            tags: Vec::new(),
            alias: None,
            admins: Vec::new(),
            users: Vec::new(),
            admins_may_delete: true,
            key_store: None,
        }
    }

    #[test]
    fn names_on_the_command_line() {
        let (snapshot, account) = (testing::snapshot(), account());
        let people = People { snapshot: &snapshot, account: &account, unknown_accounts: false };
        let named = |names: &[&str], more: &[PrincipalKind]| {
            people.all("user", &names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), more)
        };
        let users = named(&["user/alice", "role/ops", "role/svc/ops", OPS, ALICE], &[]).unwrap();
        assert_eq!(users, [ALICE, OPS]);
        assert_eq!(named(&["111122223333", ROOT], &[PrincipalKind::Account]).unwrap(), [ROOT]);
        for (name, says) in [
            ("111122223333", "neither a user nor a role"),
            (ROOT, "neither a user nor a role"),
            ("444455556666", "`444455556666` does not exist"),
            ("user/bob", "`user/bob` does not exist"),
            ("alice", "does not exist"),
            ("group/g", "does not exist"),
            ("arn:aws:iam::444455556666:user/alice", "does not exist"),
        ] {
            let Err(OpError::Validation(text)) = named(&[name], &[]) else { panic!("{name} was taken") };
            assert!(text.contains(says), "{name}: {text}");
        }
    }

    #[test]
    fn what_the_front_of_the_api_would_refuse() {
        let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let with = |tags: Vec<(String, String)>| check_texts(&KeyCreate { tags, ..request() });
        assert_eq!(with(vec![tag("a", "1"), tag("b", "")]), Ok(()));
        assert_eq!(with(vec![tag("a", "1"), tag("a", "2")]), Err(OpError::Tag("Duplicate tag keys")));
        assert!(matches!(with(vec![tag("AWS:x", "1")]), Err(OpError::Tag(_))));
        assert!(with(vec![tag("", "1")]).is_err() && with(vec![tag("k", &"v".repeat(257))]).is_err());
        assert!(with((0..51).map(|n| tag(&n.to_string(), "")).collect()).is_err());
        let signs = KeyCreate { key_usage: Some(KeyUsage::SignVerify), ..request() };
        assert!(matches!(usage(&signs), Err(OpError::Unsupported(_))));
        assert!(matches!(
            alias_free(&testing::snapshot(), &account(), &"alias/aws/s3".parse().unwrap(), ""),
            Err(OpError::ReservedAlias(_))
        ));
    }
}
