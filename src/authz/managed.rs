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

/// Whether the key's being an AWS managed key forbids what its policy allowed.
pub(super) fn forbids(caller: &Caller, check: &Check<'_>) -> bool {
    let Resource::Key { record, .. } = &check.resource else { return false };
    let Some(service) = &record.managed_by else { return false };
    !(OPEN.contains(&check.action) || (USES.contains(&check.action) && is_by(caller, service)))
}

/// AWS's text: there the refusal comes from the key's policy.
pub(super) fn told(caller: &Caller, action: &str, arn: &str) -> String {
    let who = caller.arn();
    format!(
        "User: {who} is not authorized to perform: {action} on resource: {arn} because no resource-based policy allows the \
         {action} action"
    )
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

    const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/k";

    fn refused(caller: &Caller, action: &'static str) -> bool {
        let record = crate::store::KeyRecord { managed_by: Some(service("s3.internal.example")), ..key(1) };
        forbids(caller, &Check::new(action, Resource::Key { arn: ARN, record: &Arc::new(record) }))
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
            assert!(!refused(&root, action), "{action}");
        }
        for action in USES {
            assert!(!refused(&via(own), action), "{action}");
            assert!(!refused(&itself(own), action), "{action}");
            for caller in [&root, &via(other), &itself(other)] {
                assert!(refused(caller, action), "{action}");
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
                assert!(refused(caller, action), "{action}");
            }
        }
        assert_eq!(
            told(&root, "kms:PutKeyPolicy", ARN),
            format!(
                "User: arn:aws:iam::111122223333:root is not authorized to perform: kms:PutKeyPolicy on resource: {ARN} because \
                 no resource-based policy allows the kms:PutKeyPolicy action"
            )
        );
        let usual = Resource::Key { arn: "arn", record: &Arc::new(key(1)) };
        assert!(!forbids(&root, &Check::new("kms:PutKeyPolicy", usual)));
    }
}
