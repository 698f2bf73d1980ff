//! Policies that are there without anybody having made them, under AWS's ARNs and with AWS's texts, as far as they concern the
//! services that this bridge has.

use std::sync::{Arc, LazyLock};

use super::language::{Policy, PolicyKind};

/// A managed policy or organisation policy of AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltinPolicy {
    pub arn: &'static str,
    pub name: &'static str,
    pub description: &'static str,
    pub text: &'static str,
}

const POLICIES: &[BuiltinPolicy] = &[
    BuiltinPolicy {
        arn: "arn:aws:iam::aws:policy/AdministratorAccess",
        name: "AdministratorAccess",
        description: "Provides full access to AWS services and resources.",
        text: r#"{
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "*",
            "Resource": "*"
        }
    ]
}"#,
    },
    BuiltinPolicy {
        arn: "arn:aws:iam::aws:policy/AWSKeyManagementServicePowerUser",
        name: "AWSKeyManagementServicePowerUser",
        description: "Provides access to AWS Key Management Service (KMS).",
        text: r#"{
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": [
                "kms:CreateAlias",
                "kms:CreateKey",
                "kms:DeleteAlias",
                "kms:Describe*",
                "kms:GenerateRandom",
                "kms:Get*",
                "kms:List*",
                "kms:TagResource",
                "kms:UntagResource",
                "iam:ListGroups",
                "iam:ListRoles",
                "iam:ListUsers"
            ],
            "Resource": "*"
        }
    ]
}"#,
    },
    BuiltinPolicy {
        arn: "arn:aws:iam::aws:policy/ReadOnlyAccess",
        name: "ReadOnlyAccess",
        description: "Provides read-only access to AWS services and resources.",
        text: r#"{
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": [
                "iam:Generate*",
                "iam:Get*",
                "iam:List*",
                "iam:Simulate*",
                "kms:Describe*",
                "kms:Get*",
                "kms:List*",
                "sts:GetAccessKeyInfo",
                "sts:GetCallerIdentity",
                "sts:GetSessionToken"
            ],
            "Resource": "*"
        }
    ]
}"#,
    },
    // Ours: AWS has none with exactly the reads of an auditor of this service.
    BuiltinPolicy {
        arn: "arn:aws:iam::aws:policy/HsmBridgeAuditor",
        name: "HsmBridgeAuditor",
        description: "Provides access to the audit log: trail, sealed files, stream, exports and reports.",
        text: r#"{
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": [
                "cloudtrail:DescribeTrails",
                "cloudtrail:GetEventSelectors",
                "cloudtrail:GetTrail",
                "cloudtrail:GetTrailStatus",
                "cloudtrail:ListPublicKeys",
                "cloudtrail:ListTrails",
                "cloudtrail:LookupEvents",
                "hsmbridge:ExportAudit",
                "s3:GetObject",
                "s3:ListAllMyBuckets",
                "s3:ListBucket"
            ],
            "Resource": "*"
        }
    ]
}"#,
    },
    BuiltinPolicy {
        arn: "arn:aws:organizations::aws:policy/service_control_policy/FullAWSAccess",
        name: "FullAWSAccess",
        description: "Allows access to every operation",
        text: r#"{
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "*",
            "Resource": "*"
        }
    ]
}"#,
    },
];

pub fn builtin_policies() -> &'static [BuiltinPolicy] {
    POLICIES
}

/// The built-in policy of this ARN, parsed.
pub fn builtin(arn: &str) -> Option<&'static Arc<Policy>> {
    static PARSED: LazyLock<Vec<(&'static str, Arc<Policy>)>> = LazyLock::new(|| {
        let parsed = POLICIES.iter().map(|p| (p.arn, Arc::new(parsed(p.text, kind_of(p.arn)))));
        parsed.collect()
    });
    PARSED.iter().find(|(known, _)| *known == arn).map(|(_, policy)| policy)
}

/// Denies everything: stands for a policy that should be there and is not. What it may have denied is not known.
pub fn deny_all() -> &'static Arc<Policy> {
    static DENIES: LazyLock<Arc<Policy>> = LazyLock::new(|| {
        let text = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#;
        Arc::new(parsed(text, PolicyKind::IdentityManaged))
    });
    &DENIES
}

/// What a policy is for, by its ARN.
pub fn kind_of(arn: &str) -> PolicyKind {
    if arn.starts_with("arn:aws:organizations:") { PolicyKind::ServiceControl } else { PolicyKind::IdentityManaged }
}

fn parsed(text: &str, kind: PolicyKind) -> Policy {
    Policy::parse(text, kind).expect("the built-in policies are well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PolicyArn;

    #[test]
    fn each_can_be_read_and_attached() {
        for policy in builtin_policies() {
            assert!(policy.arn.parse::<PolicyArn>().is_ok(), "{}", policy.arn);
            assert!(policy.arn.ends_with(&format!("/{}", policy.name)));
            assert_eq!(builtin(policy.arn).unwrap().kind(), kind_of(policy.arn));
        }
        assert!(builtin("arn:aws:iam::aws:policy/None").is_none());
        assert!(!deny_all().statements()[0].allows());
    }
}
