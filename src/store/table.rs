//! Which record stands in which table under which primary key.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::seal::Sealer;
use super::{
    AccessKeyRecord, AliasRecord, AppliedRecord, DeploymentRecord, KeyRecord, KeyStoreRecord, RotationRecord,
    TokenRecord, TombstoneRecord, UsageRecord, UserRecord,
};

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
        }
    }
}

/// A record as a row.
pub trait Row: Serialize + DeserializeOwned {
    const TABLE: Table;
    fn pk(&self, sealer: &Sealer) -> String;
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
        sealer.opaque(Self::TABLE, self.name.as_str())
    }
}

impl Row for UserRecord {
    const TABLE: Table = Table::Users;
    fn pk(&self, sealer: &Sealer) -> String {
        sealer.opaque(Self::TABLE, self.name.as_str())
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
