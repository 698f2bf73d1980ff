//! Identifiers that callers and records use: accounts, Regions, key ids, ARNs, aliases, access keys. Parsed once at the
//! edge into types that cannot be wrong. Used by all parts; knows none of them.

mod document;
pub mod spec;

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use document::PolicyDocument;

/// Why a text is not an identifier. Safe to show to a caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct IdError {
    pub text: String,
    pub expected: &'static str,
}

fn bad<T>(text: &str, expected: &'static str) -> Result<T, IdError> {
    Err(IdError { text: text.chars().take(128).collect(), expected })
}

/// A UUID v4. Random bytes are fetched for many ids at a time: a system call per request would be felt.
pub fn random_uuid() -> uuid::Uuid {
    const IDS_PER_FETCH: usize = 64;
    struct Pool {
        bytes: [[u8; 16]; IDS_PER_FETCH],
        used: usize,
    }
    thread_local! {
        static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [[0; 16]; IDS_PER_FETCH], used: IDS_PER_FETCH }) };
    }
    let random = POOL.with_borrow_mut(|pool| {
        if pool.used >= IDS_PER_FETCH {
            getrandom::fill(pool.bytes.as_flattened_mut()).expect("the system has a random generator");
            pool.used = 0;
        }
        let bytes = pool.bytes.get(pool.used).copied().unwrap_or_default();
        pool.used += 1;
        bytes
    });
    uuid::Builder::from_random_bytes(random).into_uuid()
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { bad(text, $expected) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// A twelve-digit AWS account id.
    AccountId,
    "a 12-digit account id",
    |t| t.len() == 12 && t.bytes().all(|b| b.is_ascii_digit())
);

text_id!(
    /// An AWS Region name, `eu-central-1` for example: small letters, digits and dashes.
    Region,
    "a Region name such as `eu-central-1`",
    |t| {
        (3..=32).contains(&t.len())
            && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && t.starts_with(|c: char| c.is_ascii_lowercase())
    }
);

text_id!(
    /// An access key id: `AKIA` (long-term) or `ASIA` (temporary) and 16 upper-case base32 characters.
    AccessKeyId,
    "an access key id",
    |t| {
        (16..=128).contains(&t.len())
            && (t.starts_with("AKIA") || t.starts_with("ASIA"))
            && t.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    }
);

text_id!(
    /// An IAM user name: 1 to 64 characters of `[A-Za-z0-9+=,.@_-]`.
    UserName,
    "a user name of 1 to 64 characters of [A-Za-z0-9+=,.@_-]",
    |t| is_iam_name(t, 64)
);

text_id!(
    /// A group name: 1 to 128 characters of `[A-Za-z0-9+=,.@_-]`.
    GroupName,
    "a group name of 1 to 128 characters of [A-Za-z0-9+=,.@_-]",
    |t| is_iam_name(t, 128)
);

text_id!(
    /// A role name: 1 to 64 characters of `[A-Za-z0-9+=,.@_-]`.
    RoleName,
    "a role name of 1 to 64 characters of [A-Za-z0-9+=,.@_-]",
    |t| is_iam_name(t, 64)
);

text_id!(
    /// A policy name: 1 to 128 characters of `[A-Za-z0-9+=,.@_-]`.
    PolicyName,
    "a policy name of 1 to 128 characters of [A-Za-z0-9+=,.@_-]",
    |t| is_iam_name(t, 128)
);

text_id!(
    /// A path of users, groups, roles and policies: `/`, or begins and ends with one.
    IamPath,
    "a path that begins and ends with `/`",
    |t| {
        t.len() <= 512
            && t.starts_with('/')
            && t.ends_with('/')
            && !t.contains("//")
            && t.bytes().all(|b| (0x21..=0x7e).contains(&b) && !b"*?".contains(&b))
    }
);

text_id!(
    /// A policy's ARN: `arn:aws:iam::111122223333:policy/path/name`, `arn:aws:iam::aws:policy/name` for the built-in ones,
    /// `arn:aws:organizations::aws:policy/service_control_policy/name` for organisation policies.
    PolicyArn,
    "a policy ARN such as `arn:aws:iam::111122223333:policy/name`",
    |t| {
        t.len() <= 2048
            && !t.contains(['*', '?'])
            && Arn::parse(t).is_ok_and(|arn| {
                arn.partition == "aws" && arn.region.is_empty() && arn.resource.starts_with("policy/") && !arn.resource.ends_with('/')
            })
    }
);

text_id!(
    /// A service principal: a domain name such as `s3.us-east-1.amazonaws.com` or `backup.internal.example`.
    ServiceName,
    "a service principal such as `backup.internal.example`",
    |t| {
        t.len() <= 128
            && t.contains('.')
            && t.split('.').all(|label| {
                !label.is_empty()
                    && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                    && !label.starts_with('-')
            })
    }
);

text_id!(
    /// A grant: 64 hex digits.
    GrantId,
    "a grant id of 64 hex digits",
    |t| t.len() == 64 && t.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
);

impl GrantId {
    /// Sorts before every other.
    pub fn first() -> GrantId {
        Self("0".repeat(64).into())
    }
}

fn is_iam_name(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b))
}

text_id!(
    /// A custom key store: `cks-` and 17 hex digits, as AWS makes them.
    KeyStoreId,
    "a custom key store id `cks-` with 17 hex digits",
    |t| {
        t.strip_prefix("cks-")
            .is_some_and(|rest| rest.len() == 17 && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
    }
);

text_id!(
    /// What AWS calls a CloudHSM cluster and the bridge a configured token: `cluster-` and 11 to 16 of `[2-7a-zA-Z]`.
    ClusterId,
    "a cluster id `cluster-` with 11 to 16 characters of [2-7a-zA-Z]",
    |t| {
        t.strip_prefix("cluster-").is_some_and(|rest| {
            (11..=16).contains(&rest.len())
                && rest.bytes().all(|b| b.is_ascii_alphabetic() || (b'2'..=b'7').contains(&b))
        })
    }
);

text_id!(
    /// An alias name with its prefix: `alias/` and 1 to 250 characters of `[a-zA-Z0-9:/_-]`.
    AliasName,
    "an alias name `alias/…`",
    |t| {
        t.len() <= 256
            && t.strip_prefix("alias/").is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b":/_-".contains(&b))
            })
    }
);

impl AliasName {
    /// Sorts before, or is, every alias name.
    pub fn first() -> AliasName {
        Self("alias/-".into())
    }

    /// `alias/aws/…` is reserved for AWS managed keys.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with("alias/aws/")
    }
}

/// A KMS key id: a UUID in lower case, or `mrk-` and 32 hex digits for a multi-Region key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId {
    bytes: [u8; 16],
    multi_region: bool,
}

impl KeyId {
    pub fn new(bytes: [u8; 16], multi_region: bool) -> Self {
        Self { bytes, multi_region }
    }

    /// The 16 bytes that stand in `CKA_ID` and in ciphertexts.
    pub fn bytes(&self) -> [u8; 16] {
        self.bytes
    }

    pub fn is_multi_region(&self) -> bool {
        self.multi_region
    }
}

impl FromStr for KeyId {
    type Err = IdError;

    /// A UUID without dashes is not a key id, as in AWS.
    fn from_str(text: &str) -> Result<Self, IdError> {
        const EXPECTED: &str = "a key id";
        let mut bytes = [0u8; 16];
        if let Some(digits) = text.strip_prefix("mrk-") {
            if digits.len() == 32 && hex::decode_to_slice(digits, &mut bytes).is_ok() {
                return Ok(Self { bytes, multi_region: true });
            }
            return bad(text, EXPECTED);
        }
        if text.len() != 36 {
            return bad(text, EXPECTED);
        }
        match uuid::Uuid::try_parse(text) {
            Ok(id) => Ok(Self { bytes: id.into_bytes(), multi_region: false }),
            Err(_) => bad(text, EXPECTED),
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.multi_region {
            write!(f, "mrk-{}", hex::encode(self.bytes))
        } else {
            write!(f, "{}", uuid::Uuid::from_bytes(self.bytes).hyphenated())
        }
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for KeyId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> String {
        id.to_string()
    }
}

/// Where this instance says that it is: the account and Region of its ARNs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locality {
    pub account: AccountId,
    pub region: Region,
}

impl Locality {
    /// The same Region, another account: names of callers resolve in their own account.
    pub fn of(&self, account: &AccountId) -> Locality {
        Locality { account: account.clone(), region: self.region.clone() }
    }

    pub fn key_arn(&self, id: &KeyId) -> String {
        format!("arn:aws:kms:{}:{}:key/{}", self.region, self.account, id)
    }

    pub fn alias_arn(&self, name: &AliasName) -> String {
        format!("arn:aws:kms:{}:{}:{}", self.region, self.account, name)
    }
}

/// The six parts of `arn:partition:service:region:account:resource`; the resource may hold colons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arn<'a> {
    pub partition: &'a str,
    pub service: &'a str,
    pub region: &'a str,
    pub account: &'a str,
    pub resource: &'a str,
}

impl<'a> Arn<'a> {
    pub fn parse(text: &'a str) -> Result<Self, IdError> {
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next();
        match (next(), next(), next(), next(), next(), next()) {
            (Some("arn"), Some(partition), Some(service), Some(region), Some(account), Some(resource))
                if !partition.is_empty() && !service.is_empty() && !resource.is_empty() =>
            {
                Ok(Self { partition, service, region, account, resource })
            }
            _ => bad(text, "an ARN"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids() {
        let id: KeyId = "5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11".parse().unwrap();
        assert_eq!(id.to_string(), "5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11");
        let mrk: KeyId = "mrk-00112233445566778899aabbccddeeff".parse().unwrap();
        assert!(mrk.is_multi_region());
        assert_eq!(mrk.to_string(), "mrk-00112233445566778899aabbccddeeff");
        for wrong in
            ["", "fake-key-id", "5f0c6a0e3d524b0c9a5e6d1d7f3b2c11", "mrk-0011", "5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c1g"]
        {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn aliases_and_accounts() {
        assert!("alias/a/b:c_d-e/".parse::<AliasName>().is_ok());
        for wrong in ["alias/", "x", "alias/a b", "alias/é"] {
            assert!(wrong.parse::<AliasName>().is_err(), "{wrong}");
        }
        assert!("alias/aws/s3".parse::<AliasName>().unwrap().is_reserved());
        assert!("111122223333".parse::<AccountId>().is_ok());
        assert!("11112222333".parse::<AccountId>().is_err());
    }

    #[test]
    fn arns_keep_colons_in_the_resource() {
        let arn = Arn::parse("arn:aws:kms:eu-central-1:111122223333:alias/a:b").unwrap();
        assert_eq!(arn.resource, "alias/a:b");
        assert!(Arn::parse("arn:aws:kms").is_err());
    }
}
