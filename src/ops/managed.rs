//! AWS managed keys: `alias/aws/NAME`, one for each registered service that has a name for one, account and Region, in the
//! default key store. Made when the service first names it on behalf of a principal of that account, as an event of its own
//! before the request. Its policy is AWS's; that only the service uses the key and nobody manages it, holds without it too
//! (`authz::managed`).

use crate::authn::Caller;
use crate::ids::spec::KeySpec;
use crate::ids::{AccountId, AliasName, Arn, Locality, ServiceName};
use crate::ops::keys::supported;
use crate::ops::resolve::{Resolved, Subject};
use crate::ops::{Context, Effects, OpError, Ops, Request, Task};
use crate::store::{AliasRecord, KeyRecord, Lifecycle, PolicyDocument, Provenance, Snapshot, Write};

/// An AWS managed key that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedKey {
    pub service: ServiceName,
    pub account: AccountId,
    pub alias: AliasName,
}

/// Held while one is made.
pub type FirstUse<'a> = tokio::sync::MutexGuard<'a, ()>;

impl Ops {
    /// The AWS managed key that a request is the first to name. Nobody but its service brings one into being, and only on
    /// behalf of a principal of the account whose it will be.
    pub fn first_use(&self, task: &Task, caller: &Caller) -> Option<ManagedKey> {
        // Asked at every request: who does not call for somebody else makes none.
        let service = caller.via()?;
        wanted(task, caller, service, &self.store.snapshot(), &self.locality)
    }

    /// Waits for its turn to make one: after that `first_use` is to be asked again.
    pub async fn turn_to_make(&self) -> FirstUse<'_> {
        self.first_use.lock().await
    }

    /// As CreateKey does it; the key and its alias appear in one transaction.
    pub(super) async fn make_managed_key(
        &self,
        wanted: &ManagedKey,
        resolved: &Resolved,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<(), OpError> {
        let Subject::NewKey { id, arn } = resolved.subject() else {
            return Err(OpError::Internal(format!("a managed key was resolved to {:?}", resolved.subject())));
        };
        let spec = KeySpec::SymmetricDefault;
        if !self.keystore.capabilities(None).is_some_and(|can| supported(&can, spec)) {
            return Err(OpError::Unsupported(format!("The token does not support keys of spec {spec}.")));
        }
        let ManagedKey { service, account, alias } = wanted.clone();
        let record = KeyRecord {
            id: *id,
            account: account.clone(),
            created: ctx.now,
            description: description(&alias),
            spec,
            usage: spec.default_usage(),
            lifecycle: Lifecycle::Creating,
            policy: PolicyDocument::plain(policy(&alias, &service, &account)),
            policy_version: 1,
            tags: Vec::new(),
            materials: Vec::new(),
            key_store: None,
            provenance: Provenance::Generated,
            managed_by: Some(service.clone()),
        };
        let enabled = self.make_material(record, arn, ctx, effects).await?;
        let now = ctx.now;
        let name = AliasRecord {
            name: alias.clone(),
            account: account.clone(),
            target: *id,
            created: now,
            updated: now,
            history: Vec::new(),
        };
        let made = self
            .change(ctx, move |snapshot| {
                // A restore brought one, or the service was taken away meanwhile: what was made is undone.
                if snapshot.alias(&name.account, &name.name).is_some() || !snapshot.services.contains_key(&service) {
                    return Err(OpError::Throttled);
                }
                Ok((vec![Write::PutKey(enabled), Write::PutAlias(name)], ()))
            })
            .await;
        effects.details = Some(serde_json::json!({
            "alias": self.locality.of(&account).alias_arn(&alias), "managedBy": wanted.service, "account": account,
        }));
        match made {
            Ok(((), version)) => {
                effects.store_version = Some(version);
                Ok(())
            }
            Err(OpError::Throttled) => {
                self.undo_creation(self.keystore.token(), *id, false, &self.generate_call(ctx)).await;
                Err(OpError::Throttled)
            }
            Err(error) => Err(error),
        }
    }
}

fn wanted(
    task: &Task,
    caller: &Caller,
    service: &ServiceName,
    snapshot: &Snapshot,
    here: &Locality,
) -> Option<ManagedKey> {
    let Task::Kms(request) = task else { return None };
    // Those that a new symmetric key can serve: nothing was encrypted under it before. A dry run makes nothing.
    let named = match request {
        Request::Encrypt { key, dry_run: false, .. } | Request::GenerateDataKey { key, dry_run: false, .. } => key,
        Request::DescribeKey { key, .. } => key,
        Request::ReEncrypt(request) if !request.dry_run => &request.destination_key,
        _ => return None,
    };
    let account = caller.account();
    let alias = own_alias(&named.0, &here.of(account))?;
    let managed = snapshot.services.get(service)?.managed_key.as_ref()?;
    if alias.as_str() != format!("alias/aws/{managed}") || snapshot.alias(account, &alias).is_some() {
        return None;
    }
    Some(ManagedKey { service: service.clone(), account: account.clone(), alias })
}

/// An alias name, or the ARN of an alias here.
fn own_alias(text: &str, here: &Locality) -> Option<AliasName> {
    if !text.starts_with("arn:") {
        return text.parse().ok();
    }
    let arn = Arn::parse(text).ok()?;
    let own = arn.partition == "aws"
        && arn.service == "kms"
        && arn.region == here.region.as_str()
        && arn.account == here.account.as_str();
    if own { arn.resource.parse().ok() } else { None }
}

/// Source: descriptions of AWS managed keys as DescribeKey shows them.
fn description(alias: &AliasName) -> String {
    let name = short(alias);
    let things = match name {
        "s3" => "S3 objects".to_owned(),
        "ebs" => "EBS volumes".to_owned(),
        "rds" => "RDS database volumes".to_owned(),
        "ssm" => "SSM parameters".to_owned(),
        "secretsmanager" => "Secrets Manager data".to_owned(),
        name => format!("{name} data"),
    };
    format!("Default key that protects my {things} when no other key is defined")
}

/// As AWS writes it: `auto-s3-2` for S3; with the two actions on grants, as `auto-rds-2` has them, for all others.
fn policy(alias: &AliasName, service: &ServiceName, account: &AccountId) -> String {
    let name = short(alias);
    let shown = match name {
        "s3" | "ebs" | "rds" | "ssm" => name.to_ascii_uppercase(),
        "secretsmanager" => "AWS Secrets Manager".to_owned(),
        name => name.to_owned(),
    };
    let grants = if name == "s3" { "" } else { "\"kms:CreateGrant\", \"kms:ListGrants\", " };
    format!(
        r#"{{
  "Version" : "2012-10-17",
  "Id" : "auto-{name}-2",
  "Statement" : [ {{
    "Sid" : "Allow access through {shown} for all principals in the account that are authorized to use {shown}",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "*"
    }},
    "Action" : [ "kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", {grants}"kms:DescribeKey" ],
    "Resource" : "*",
    "Condition" : {{
      "StringEquals" : {{
        "kms:CallerAccount" : "{account}",
        "kms:ViaService" : "{service}"
      }}
    }}
  }}, {{
    "Sid" : "Allow direct access to key metadata to the account",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "arn:aws:iam::{account}:root"
    }},
    "Action" : [ "kms:Describe*", "kms:Get*", "kms:List*" ],
    "Resource" : "*"
  }} ]
}}"#
    )
}

fn short(alias: &AliasName) -> &str {
    alias.as_str().strip_prefix("alias/aws/").unwrap_or(alias.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::Principal;
    use crate::authz::language::{Policy, PolicyKind};
    use crate::ops::KeyIdText;
    use crate::store::ServiceRecord;
    use crate::store::testing::{account, alias, key_id, new_store, put};

    fn describe(key: &str) -> Task {
        Task::Kms(Request::DescribeKey { key: KeyIdText(key.to_owned()), grant_tokens: Vec::new() })
    }

    fn service() -> ServiceName {
        "s3.internal.example".parse().unwrap()
    }

    #[test]
    fn the_policy_is_one_and_says_what_awss_says() {
        for name in ["s3", "ebs", "ledger"] {
            let alias: AliasName = format!("alias/aws/{name}").parse().unwrap();
            let text = policy(&alias, &service(), &account());
            Policy::parse(&text, PolicyKind::Key).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["Id"], format!("auto-{name}-2"));
            assert_eq!(json["Statement"][0]["Condition"]["StringEquals"]["kms:ViaService"], "s3.internal.example");
            let grants = json["Statement"][0]["Action"].to_string().contains("Grant");
            assert_eq!(grants, name != "s3");
        }
        assert_eq!(
            description(&"alias/aws/s3".parse().unwrap()),
            "Default key that protects my S3 objects when no other key is defined"
        );
    }

    #[tokio::test]
    async fn only_its_service_on_behalf_of_a_principal_of_the_account_is_the_first_to_use_it() {
        let (_state, store) = new_store().await;
        let record = ServiceRecord {
            name: service(),
            account: account(),
            service_id: "ASVC1".to_owned(),
            created: 1,
            managed_key: Some("s3".to_owned()),
            may_act_for: vec!["*".to_owned()],
        };
        put(&store, vec![Write::PutService(record)]).await;
        let here = Locality { account: account(), region: "eu-central-1".parse().unwrap() };
        let via = Caller::in_test_via(Principal::Root, account(), service());
        let asked = |key: &str, caller: &Caller| {
            caller.via().and_then(|service| wanted(&describe(key), caller, service, &store.snapshot(), &here))
        };
        for key in ["alias/aws/s3", "arn:aws:kms:eu-central-1:111122223333:alias/aws/s3"] {
            assert_eq!(asked(key, &via).unwrap().alias.as_str(), "alias/aws/s3");
        }
        for key in [
            "alias/aws/ebs",
            "alias/s3",
            "aws/s3",
            "arn:aws:kms:eu-central-1:444455556666:alias/aws/s3",
            "arn:aws:kms:us-east-1:111122223333:alias/aws/s3",
        ] {
            assert_eq!(asked(key, &via), None, "{key}");
        }
        let name = service();
        let itself = Caller::in_test(Principal::Service { name, service_id: "ASVC1".to_owned() }, account());
        let other = Caller::in_test_via(Principal::Root, account(), "db.internal.example".parse().unwrap());
        for caller in [Caller::in_test(Principal::Root, account()), itself, other] {
            assert_eq!(asked("alias/aws/s3", &caller), None, "{caller:?}");
        }
        // Another account gets its own.
        let elsewhere: AccountId = "444455556666".parse().unwrap();
        let via_elsewhere = Caller::in_test_via(Principal::Root, elsewhere.clone(), service());
        put(&store, vec![Write::PutAlias(alias("alias/aws/s3", key_id(1)))]).await;
        assert_eq!(asked("alias/aws/s3", &via), None);
        let found = asked("alias/aws/s3", &via_elsewhere).unwrap();
        assert_eq!(found.account, elsewhere);
    }
}
