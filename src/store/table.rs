//! Which record stands in which table under which primary key.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::seal::Sealer;
use super::{
    AccessKeyRecord, AccountRecord, AliasRecord, AppliedRecord, AuditKeyRecord, DeploymentRecord, GrantRecord,
    GroupRecord, KeyRecord, KeyStoreRecord, OidcProviderRecord, PolicyRecord, RevokedSessionRecord, RoleRecord,
    RotationRecord, ServiceRecord, SessionKeyRecord, TokenRecord, TombstoneRecord, UnitRecord, UsageRecord, UserRecord,
};
use crate::ids::{AccountId, GrantId, KeyId};

/// One table per kind of record. The names stand in associated data: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    Deployment,
    Keys,
    Aliases,
    Users,
    AccessKeys,
    Usage,
    Tombstones,
    Applied,
    KeyStores,
    Tokens,
    Rotations,
    Accounts,
    Units,
    Groups,
    Roles,
    Policies,
    OidcProviders,
    Services,
    SessionKeys,
    RevokedSessions,
    Grants,
    AuditKeys,
}

impl Table {
    pub const ALL: &'static [Table] = &[
        Table::Deployment,
        Table::Keys,
        Table::Aliases,
        Table::Users,
        Table::AccessKeys,
        Table::Usage,
        Table::Tombstones,
        Table::Applied,
        Table::KeyStores,
        Table::Tokens,
        Table::Rotations,
        Table::Accounts,
        Table::Units,
        Table::Groups,
        Table::Roles,
        Table::Policies,
        Table::OidcProviders,
        Table::Services,
        Table::SessionKeys,
        Table::RevokedSessions,
        Table::Grants,
        Table::AuditKeys,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Table::Deployment => "deployment",
            Table::Keys => "keys",
            Table::Aliases => "aliases",
            Table::Users => "users",
            Table::AccessKeys => "access_keys",
            Table::Usage => "usage",
            Table::Tombstones => "tombstones",
            Table::Applied => "applied",
            Table::KeyStores => "key_stores",
            Table::Tokens => "tokens",
            Table::Rotations => "rotations",
            Table::Accounts => "accounts",
            Table::Units => "units",
            Table::Groups => "groups",
            Table::Roles => "roles",
            Table::Policies => "policies",
            Table::OidcProviders => "oidc_providers",
            Table::Services => "services",
            Table::SessionKeys => "session_keys",
            Table::RevokedSessions => "revoked_sessions",
            Table::Grants => "grants",
            Table::AuditKeys => "audit_keys",
        }
    }
}

/// A record as a row.
pub trait Row: Serialize + DeserializeOwned {
    const TABLE: Table;
    fn pk(&self, sealer: &Sealer) -> String;

    /// The primary key that an earlier version gave this record; its row is read, and goes when the record is written again.
    fn former_pk(&self, _: &Sealer) -> Option<String> {
        None
    }
}

impl Row for DeploymentRecord {
    const TABLE: Table = Table::Deployment;
    fn pk(&self, _: &Sealer) -> String {
        self.id.clone()
    }
}

impl Row for KeyRecord {
    const TABLE: Table = Table::Keys;
    fn pk(&self, _: &Sealer) -> String {
        self.id.to_string()
    }
}

impl Row for AliasRecord {
    const TABLE: Table = Table::Aliases;
    fn pk(&self, sealer: &Sealer) -> String {
        in_account(sealer, Self::TABLE, &self.account, self.name.as_str())
    }
    fn former_pk(&self, sealer: &Sealer) -> Option<String> {
        Some(sealer.opaque(Self::TABLE, self.name.as_str()))
    }
}

impl Row for UserRecord {
    const TABLE: Table = Table::Users;
    fn pk(&self, sealer: &Sealer) -> String {
        in_account(sealer, Self::TABLE, &self.account, self.name.as_str())
    }
    fn former_pk(&self, sealer: &Sealer) -> Option<String> {
        Some(sealer.opaque(Self::TABLE, self.name.as_str()))
    }
}

impl Row for AccessKeyRecord {
    const TABLE: Table = Table::AccessKeys;
    fn pk(&self, _: &Sealer) -> String {
        self.id.to_string()
    }
}

impl Row for UsageRecord {
    const TABLE: Table = Table::Usage;
    fn pk(&self, _: &Sealer) -> String {
        self.key.to_string()
    }
}

impl Row for TombstoneRecord {
    const TABLE: Table = Table::Tombstones;
    fn pk(&self, _: &Sealer) -> String {
        self.id.to_string()
    }
}

impl Row for AppliedRecord {
    const TABLE: Table = Table::Applied;
    fn pk(&self, _: &Sealer) -> String {
        self.request_id.clone()
    }
}

impl Row for KeyStoreRecord {
    const TABLE: Table = Table::KeyStores;
    fn pk(&self, _: &Sealer) -> String {
        self.id.to_string()
    }
}

impl Row for TokenRecord {
    const TABLE: Table = Table::Tokens;
    fn pk(&self, sealer: &Sealer) -> String {
        sealer.opaque(Self::TABLE, &self.name)
    }
}

impl Row for RotationRecord {
    const TABLE: Table = Table::Rotations;
    fn pk(&self, sealer: &Sealer) -> String {
        sealer.opaque(Self::TABLE, &self.client_token)
    }
}

impl Row for AccountRecord {
    const TABLE: Table = Table::Accounts;
    fn pk(&self, _: &Sealer) -> String {
        self.id.to_string()
    }
}

impl Row for UnitRecord {
    const TABLE: Table = Table::Units;
    fn pk(&self, _: &Sealer) -> String {
        self.id.clone()
    }
}

impl Row for GroupRecord {
    const TABLE: Table = Table::Groups;
    fn pk(&self, sealer: &Sealer) -> String {
        in_account(sealer, Self::TABLE, &self.account, self.name.as_str())
    }
}

impl Row for RoleRecord {
    const TABLE: Table = Table::Roles;
    fn pk(&self, sealer: &Sealer) -> String {
        in_account(sealer, Self::TABLE, &self.account, self.name.as_str())
    }
}

impl Row for PolicyRecord {
    const TABLE: Table = Table::Policies;
    fn pk(&self, sealer: &Sealer) -> String {
        sealer.opaque(Self::TABLE, self.arn.as_str())
    }
}

impl Row for OidcProviderRecord {
    const TABLE: Table = Table::OidcProviders;
    fn pk(&self, sealer: &Sealer) -> String {
        sealer.opaque(Self::TABLE, &self.arn)
    }
}

impl Row for ServiceRecord {
    const TABLE: Table = Table::Services;
    fn pk(&self, sealer: &Sealer) -> String {
        sealer.opaque(Self::TABLE, self.name.as_str())
    }
}

impl Row for SessionKeyRecord {
    const TABLE: Table = Table::SessionKeys;
    fn pk(&self, _: &Sealer) -> String {
        self.id.clone()
    }
}

impl Row for RevokedSessionRecord {
    const TABLE: Table = Table::RevokedSessions;
    fn pk(&self, _: &Sealer) -> String {
        self.access_key.clone()
    }
}

impl Row for GrantRecord {
    const TABLE: Table = Table::Grants;
    fn pk(&self, _: &Sealer) -> String {
        grant_pk(&self.key, &self.id)
    }
}

impl Row for AuditKeyRecord {
    const TABLE: Table = Table::AuditKeys;
    fn pk(&self, _: &Sealer) -> String {
        format!("{}/{}", self.key_use, self.generation)
    }
}

/// Names are unique in their account. No name of an earlier version holds twelve digits and a slash in front.
pub fn in_account(sealer: &Sealer, table: Table, account: &AccountId, name: &str) -> String {
    sealer.opaque(table, &format!("{account}/{name}"))
}

pub fn grant_pk(key: &KeyId, grant: &GrantId) -> String {
    format!("{key}/{grant}")
}
