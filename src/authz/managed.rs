//! AWS managed keys (`KeyManager = AWS`): whatever the policies say, only the service whose key it is uses it, and nobody
//! manages it. The policy of such a key says the same; this holds without it. Source: authorization.md §1.11, and the KMS
//! Developer Guide on AWS managed keys: customers view them and their policies, and cannot change, rotate, delete or share them.

use super::{Check, Resource};
use crate::authn::{Caller, Principal};
use crate::ids::ServiceName;

/// What anybody may do whom its policy allows: read of it, and give a grant back.
const OPEN: &[&str] = &[
    "kms:DescribeKey",
    "kms:GetKeyLastUsage",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListAliases",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
    "kms:RetireGrant",
];

/// What the service may do with it, where its policy or a grant allows it.
const USES: &[&str] = &[
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:RevokeGrant",
];

/// AWS's text where an AWS managed key forbids it, whatever the policies say: there the refusal comes from the key's policy.
pub(super) fn forbidden(caller: &Caller, check: &Check<'_>) -> Option<String> {
    let Resource::Key { arn, record } = &check.resource else { return None };
    let service = record.managed_by.as_ref()?;
    let allowed = OPEN.contains(&check.action) || (USES.contains(&check.action) && is_by(caller, service));
    (!allowed).then(|| {
        format!(
            "User: {} is not authorized to perform: {action} on resource: {arn} because no resource-based policy allows \
             the {action} action",
            caller.arn(),
            action = check.action,
        )
    })
}

/// The service itself, or somebody through it.
fn is_by(caller: &Caller, service: &ServiceName) -> bool {
    caller.via() == Some(service)
        || matches!(caller.principal(), Principal::Service { name, .. } if caller.via().is_none() && name == service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{account, key};
    use std::sync::Arc;

    fn verdict(caller: &Caller, action: &'static str) -> Option<String> {
        let record = crate::store::KeyRecord { managed_by: Some(service("s3.internal.example")), ..key(1) };
        let resource = Resource::Key { arn: "arn:aws:kms:eu-central-1:111122223333:key/k", record: &Arc::new(record) };
        forbidden(caller, &Check::new(action, resource))
    }

    fn service(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    #[test]
    fn only_its_service_uses_it_and_nobody_manages_it() {
        let root = Caller::in_test(Principal::Root, account());
        let via = |name| Caller::in_test_via(Principal::Root, account(), service(name));
        let itself = |name| {
            Caller::in_test(Principal::Service { name: service(name), service_id: "ASVC1".to_owned() }, account())
        };
        let (own, other) = ("s3.internal.example", "db.internal.example");
        for action in OPEN {
            assert_eq!(verdict(&root, action), None, "{action}");
        }
        for action in USES {
            assert_eq!(verdict(&via(own), action), None, "{action}");
            assert_eq!(verdict(&itself(own), action), None, "{action}");
            for caller in [&root, &via(other), &itself(other)] {
                assert!(verdict(caller, action).is_some(), "{action}");
            }
        }
        for action in [
            "kms:PutKeyPolicy",
            "kms:DisableKey",
            "kms:EnableKey",
            "kms:ScheduleKeyDeletion",
            "kms:CancelKeyDeletion",
            "kms:TagResource",
            "kms:UntagResource",
            "kms:UpdateKeyDescription",
            "kms:CreateAlias",
            "kms:UpdateAlias",
            "kms:DeleteAlias",
            "kms:EnableKeyRotation",
            "kms:DisableKeyRotation",
            "kms:RotateKeyOnDemand",
            "kms:ReplicateKey",
            "kms:ImportKeyMaterial",
            // What a later version may add.
            "kms:Unheard",
        ] {
            for caller in [&root, &via(own), &itself(own)] {
                assert_eq!(
                    verdict(caller, action),
                    Some(format!(
                        "User: {} is not authorized to perform: {action} on resource: \
                         arn:aws:kms:eu-central-1:111122223333:key/k because no resource-based policy allows the {action} action",
                        caller.arn()
                    ))
                );
            }
        }
        let usual = Resource::Key { arn: "arn", record: &Arc::new(key(1)) };
        assert_eq!(forbidden(&root, &Check::new("kms:PutKeyPolicy", usual)), None);
    }
}
