//! Key policies that the bridge writes itself: the one of a key made without, and the console's for administrators and users.
//! Source: authorization.md §1.1.

use serde::Serialize;
use serde_json::Value;

use crate::ids::AccountId;
use crate::ids::spec::{KeySpec, KeyUsage};

/// The policy of a key made without one, as AWS prints it.
pub fn default_policy(account: &AccountId) -> String {
    format!(
        "{{\n  \"Version\" : \"2012-10-17\",\n  \"Id\" : \"key-default-1\",\n  \"Statement\" : [ {{\n    \"Sid\" : \"Enable IAM \
         User Permissions\",\n    \"Effect\" : \"Allow\",\n    \"Principal\" : {{\n      \"AWS\" : \
         \"arn:aws:iam::{account}:root\"\n    }},\n    \"Action\" : \"kms:*\",\n    \"Resource\" : \"*\"\n  }} ]\n}}"
    )
}

/// What the console asks before it writes a policy. Principals are ARNs; users may be accounts' root ARNs too.
#[derive(Debug, Clone)]
pub struct ConsolePolicy<'a> {
    pub account: &'a AccountId,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub admins: &'a [String],
    pub users: &'a [String],
    pub admins_may_delete: bool,
}

/// Everything but the two of deletion.
const ADMIN: &[&str] = &[
    "kms:Create*",
    "kms:Describe*",
    "kms:Enable*",
    "kms:List*",
    "kms:Put*",
    "kms:Update*",
    "kms:Revoke*",
    "kms:Disable*",
    "kms:Get*",
    "kms:Delete*",
    "kms:TagResource",
    "kms:UntagResource",
];
const DELETION: &[&str] = &["kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion"];

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document<'a> {
    version: &'static str,
    id: &'static str,
    statement: Vec<Statement<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement<'a> {
    sid: &'static str,
    effect: &'static str,
    principal: Principal<'a>,
    action: Actions<'a>,
    resource: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<Value>,
}

#[derive(Serialize)]
struct Principal<'a> {
    #[serde(rename = "AWS")]
    aws: Names<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Names<'a> {
    One(String),
    Many(&'a [String]),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Actions<'a> {
    One(&'static str),
    Many(Vec<&'a str>),
}

impl ConsolePolicy<'_> {
    /// `key-consolepolicy-3`. Without administrators, or without users, their statements are left out.
    pub fn text(&self) -> String {
        let allow = |sid, principal, action, condition| Statement {
            sid,
            effect: "Allow",
            principal: Principal { aws: principal },
            action,
            resource: "*",
            condition,
        };
        let root = Names::One(format!("arn:aws:iam::{}:root", self.account));
        let mut statement = vec![allow("Enable IAM User Permissions", root, Actions::One("kms:*"), None)];
        if !self.admins.is_empty() {
            let deletion = if self.admins_may_delete { DELETION } else { &[] };
            let actions = ADMIN.iter().chain(deletion).copied().collect();
            statement.push(allow(
                "Allow access for Key Administrators",
                Names::Many(self.admins),
                Actions::Many(actions),
                None,
            ));
        }
        if !self.users.is_empty() {
            let actions = Actions::Many(use_of(self.spec, self.usage).to_vec());
            statement.push(allow("Allow use of the key", Names::Many(self.users), actions, None));
            // RULE §1.1: HMAC keys have no statement about grants.
            if self.usage != KeyUsage::GenerateVerifyMac {
                statement.push(allow(
                    "Allow attachment of persistent resources",
                    Names::Many(self.users),
                    Actions::Many(vec!["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"]),
                    Some(serde_json::json!({ "Bool": { "kms:GrantIsForAWSResource": true } })),
                ));
            }
        }
        let document = Document { version: "2012-10-17", id: "key-consolepolicy-3", statement };
        serde_json::to_string_pretty(&document).expect("texts and lists of texts are JSON")
    }
}

fn use_of(spec: KeySpec, usage: KeyUsage) -> &'static [&'static str] {
    match usage {
        KeyUsage::EncryptDecrypt if spec.is_symmetric() => {
            &["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
        }
        KeyUsage::EncryptDecrypt => {
            &["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:DescribeKey", "kms:GetPublicKey"]
        }
        KeyUsage::SignVerify => &["kms:DescribeKey", "kms:GetPublicKey", "kms:Sign", "kms:Verify"],
        KeyUsage::GenerateVerifyMac => &["kms:DescribeKey", "kms:GenerateMac", "kms:VerifyMac"],
        KeyUsage::KeyAgreement => &["kms:DescribeKey", "kms:GetPublicKey", "kms:DeriveSharedSecret"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::language::{Policy, PolicyKind};

    fn written(spec: KeySpec, users: &[&str], admins: &[&str], admins_may_delete: bool) -> Value {
        let account: AccountId = "111122223333".parse().unwrap();
        let owned = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let (users, admins) = (owned(users), owned(admins));
        let usage = spec.default_usage();
        let policy =
            ConsolePolicy { account: &account, spec, usage, admins: &admins, users: &users, admins_may_delete };
        let text = policy.text();
        Policy::parse(&text, PolicyKind::Key).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn sids(document: &Value) -> Vec<&str> {
        document["Statement"].as_array().unwrap().iter().map(|s| s["Sid"].as_str().unwrap()).collect()
    }

    const ALICE: &str = "arn:aws:iam::111122223333:user/alice";
    const OPS: &str = "arn:aws:iam::111122223333:role/ops";
    const PARTNER: &str = "arn:aws:iam::444455556666:root";

    #[test]
    fn the_consoles_policy_is_written_as_the_console_does() {
        let document = written(KeySpec::SymmetricDefault, &[ALICE, PARTNER], &[OPS], true);
        let expected = serde_json::json!({
            "Version": "2012-10-17",
            "Id": "key-consolepolicy-3",
            "Statement": [
                { "Sid": "Enable IAM User Permissions", "Effect": "Allow",
                  "Principal": { "AWS": "arn:aws:iam::111122223333:root" }, "Action": "kms:*", "Resource": "*" },
                { "Sid": "Allow access for Key Administrators", "Effect": "Allow", "Principal": { "AWS": [OPS] },
                  "Action": ["kms:Create*", "kms:Describe*", "kms:Enable*", "kms:List*", "kms:Put*", "kms:Update*",
                             "kms:Revoke*", "kms:Disable*", "kms:Get*", "kms:Delete*", "kms:TagResource",
                             "kms:UntagResource", "kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion"],
                  "Resource": "*" },
                { "Sid": "Allow use of the key", "Effect": "Allow", "Principal": { "AWS": [ALICE, PARTNER] },
                  "Action": ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
                  "Resource": "*" },
                { "Sid": "Allow attachment of persistent resources", "Effect": "Allow",
                  "Principal": { "AWS": [ALICE, PARTNER] },
                  "Action": ["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"], "Resource": "*",
                  "Condition": { "Bool": { "kms:GrantIsForAWSResource": true } } },
            ],
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn variants() {
        let no_deletion = written(KeySpec::SymmetricDefault, &[], &[OPS], false);
        assert_eq!(sids(&no_deletion), ["Enable IAM User Permissions", "Allow access for Key Administrators"]);
        assert!(!no_deletion.to_string().contains("KeyDeletion"));
        assert_eq!(sids(&written(KeySpec::SymmetricDefault, &[], &[], true)), ["Enable IAM User Permissions"]);
        for (spec, actions, statements) in [
            (KeySpec::Hmac256, &["kms:DescribeKey", "kms:GenerateMac", "kms:VerifyMac"][..], 2),
            (KeySpec::EccNistP256, &["kms:DescribeKey", "kms:GetPublicKey", "kms:Sign", "kms:Verify"][..], 3),
        ] {
            let document = written(spec, &[ALICE], &[], true);
            assert_eq!(document["Statement"][1]["Action"], serde_json::json!(actions), "{spec}");
            assert_eq!(sids(&document).len(), statements, "{spec}");
        }
        assert!(use_of(KeySpec::Rsa2048, KeyUsage::EncryptDecrypt).contains(&"kms:GetPublicKey"));
    }

    #[test]
    fn the_default_policy_delegates_to_the_account() {
        let text = default_policy(&"111122223333".parse().unwrap());
        assert!(text.contains("\"Sid\" : \"Enable IAM User Permissions\""));
        Policy::parse(&text, PolicyKind::Key).unwrap();
    }
}
