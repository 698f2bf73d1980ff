//! From the store's records.

use aws_lc_rs::digest;

use super::{
    AccessKey, Account, Alias, AliasStay, FORMAT, Grant, Group, Key, KeyStore, ManagedPolicy, Material, OidcProvider,
    Role, Service, State, Token, Unit, User,
};
use crate::ids::Locality;
use crate::ops::keys::state;
use crate::ops::officer::{object_id, object_label};
use crate::store::{
    AccessKeyRecord, AccountRecord, AliasRecord, Connection, GrantRecord, GroupRecord, KeyRecord, KeyStoreRecord,
    Lifecycle, OidcProviderRecord, Owner, PolicyRecord, Provenance, RoleRecord, ServiceRecord, Snapshot, TokenRecord,
    UnitRecord, UserRecord,
};

impl State {
    /// `time`: milliseconds since the epoch.
    pub fn of(snapshot: &Snapshot, here: &Locality, time: i64) -> State {
        let keys = snapshot.keys.values().filter_map(|record| Some((record.id.to_string(), Key::of(record, here)?)));
        let aliases = snapshot.aliases.values().map(|r| (in_account(&r.account, r.name.as_str()), Alias::of(r)));
        let grants = snapshot.grants.values().map(|r| (format!("{}/{}", r.key, r.id), Grant::of(r)));
        let users = snapshot.users.values().map(|r| (in_account(&r.account, r.name.as_str()), User::of(r)));
        let groups = snapshot.groups.values().map(|r| (in_account(&r.account, r.name.as_str()), Group::of(r)));
        let roles = snapshot.roles.values().map(|r| (in_account(&r.account, r.name.as_str()), Role::of(r)));
        State {
            format: FORMAT,
            time,
            store_version: snapshot.version,
            account: here.account.clone(),
            region: here.region.clone(),
            keys: keys.collect(),
            aliases: aliases.collect(),
            grants: grants.collect(),
            accounts: snapshot.accounts.values().map(|r| (r.id.to_string(), Account::of(r))).collect(),
            units: snapshot.units.values().map(|r| (r.id.clone(), Unit::of(r))).collect(),
            users: users.collect(),
            groups: groups.collect(),
            roles: roles.collect(),
            policies: snapshot.policies.values().map(|r| (r.arn.to_string(), ManagedPolicy::of(r))).collect(),
            access_keys: snapshot.access_keys.values().map(|r| (r.id.to_string(), AccessKey::of(r))).collect(),
            services: snapshot.services.values().map(|r| (r.name.to_string(), Service::of(r))).collect(),
            oidc_providers: snapshot.oidc_providers.values().map(|r| (r.arn.clone(), OidcProvider::of(r))).collect(),
            key_stores: snapshot.key_stores.values().map(|r| (r.id.to_string(), KeyStore::of(r))).collect(),
            tokens: snapshot.tokens.values().map(|r| (r.name.clone(), Token::of(r))).collect(),
            hsms: Vec::new(),
        }
    }
}

/// Key of a map whose names are unique in an account.
pub(super) fn in_account(account: &crate::ids::AccountId, name: &str) -> String {
    format!("{account}/{name}")
}

impl Key {
    /// `None` while it is being made: nobody was told its id.
    pub(super) fn of(record: &KeyRecord, here: &Locality) -> Option<Key> {
        if record.lifecycle == Lifecycle::Creating {
            return None;
        }
        let (provenance, rotated_from) = match &record.provenance {
            Provenance::Generated => ("generated", None),
            Provenance::Adopted { .. } => ("adopted", None),
            Provenance::Rotated { from } => ("rotated", Some(*from)),
        };
        let material = |material: &crate::store::Material| Material {
            generation: material.generation,
            material_id: material.material_id.clone(),
            created: material.created,
            fingerprint: match &material.spki {
                Some(spki) => hex::encode(digest::digest(&digest::SHA256, spki)),
                None => hex::encode(&material.fingerprint),
            },
            cka_id: hex::encode(object_id(record, material)),
            cka_label: object_label(record),
            evidence: material.evidence.clone(),
        };
        Some(Key {
            id: record.id,
            arn: here.of(&record.account).key_arn(&record.id),
            account: record.account.clone(),
            created: record.created,
            description: record.description.clone(),
            spec: record.spec,
            usage: record.usage,
            origin: if record.key_store.is_some() { "AWS_CLOUDHSM" } else { "AWS_KMS" }.to_owned(),
            state: state(&record.lifecycle).to_string(),
            deletion_date: match record.lifecycle {
                Lifecycle::PendingDeletion { deletion_date } => Some(deletion_date),
                _ => None,
            },
            policy: record.policy.clone(),
            policy_version: record.policy_version,
            tags: record.tags.clone(),
            materials: record.materials.iter().map(material).collect(),
            key_store: record.key_store.clone(),
            provenance: provenance.to_owned(),
            rotated_from,
            managed_by: record.managed_by.clone(),
        })
    }
}

impl Alias {
    pub(super) fn of(record: &AliasRecord) -> Alias {
        let stay = |stay: &crate::store::AliasHistory| AliasStay {
            key: stay.key,
            from: stay.from,
            until: stay.until,
            ended_by: stay.ended_by.clone(),
            dropped: stay.dropped,
        };
        Alias {
            name: record.name.clone(),
            account: record.account.clone(),
            target: record.target,
            created: record.created,
            updated: record.updated,
            history: record.history.iter().map(stay).collect(),
        }
    }
}

impl Grant {
    pub(super) fn of(record: &GrantRecord) -> Grant {
        Grant {
            id: record.id.clone(),
            key: record.key,
            issuing_account: record.issuing_account.clone(),
            grantee: record.grantee.clone(),
            retiring: record.retiring.clone(),
            operations: record.operations.clone(),
            constraints: record.constraints.clone(),
            name: record.name.clone(),
            created: record.created,
        }
    }
}

impl Account {
    pub(super) fn of(record: &AccountRecord) -> Account {
        Account {
            id: record.id.clone(),
            name: record.name.clone(),
            created: record.created,
            root_enabled: record.root_enabled,
            unit: record.unit.clone(),
            service_control: record.service_control.clone(),
        }
    }
}

impl Unit {
    pub(super) fn of(record: &UnitRecord) -> Unit {
        Unit {
            id: record.id.clone(),
            name: record.name.clone(),
            organization: record.organization.clone(),
            parent: record.parent.clone(),
            service_control: record.service_control.clone(),
        }
    }
}

impl User {
    pub(super) fn of(record: &UserRecord) -> User {
        User {
            name: record.name.clone(),
            account: record.account.clone(),
            user_id: record.user_id.clone(),
            created: record.created,
            path: record.path.clone(),
            tags: record.tags.clone(),
            groups: record.groups.clone(),
            attached: record.policies.attached.clone(),
            inline: record.policies.inline.clone(),
            boundary: record.boundary.clone(),
        }
    }
}

impl Group {
    pub(super) fn of(record: &GroupRecord) -> Group {
        Group {
            name: record.name.clone(),
            account: record.account.clone(),
            group_id: record.group_id.clone(),
            created: record.created,
            path: record.path.clone(),
            attached: record.policies.attached.clone(),
            inline: record.policies.inline.clone(),
        }
    }
}

impl Role {
    pub(super) fn of(record: &RoleRecord) -> Role {
        Role {
            name: record.name.clone(),
            account: record.account.clone(),
            role_id: record.role_id.clone(),
            created: record.created,
            path: record.path.clone(),
            description: record.description.clone(),
            trust: record.trust.clone(),
            max_session_seconds: record.max_session_seconds,
            tags: record.tags.clone(),
            attached: record.policies.attached.clone(),
            inline: record.policies.inline.clone(),
            boundary: record.boundary.clone(),
            sessions_revoked_before: record.sessions_revoked_before,
        }
    }
}

impl ManagedPolicy {
    pub(super) fn of(record: &PolicyRecord) -> ManagedPolicy {
        ManagedPolicy {
            arn: record.arn.clone(),
            policy_id: record.policy_id.clone(),
            created: record.created,
            updated: record.updated,
            description: record.description.clone(),
            document: record.document.clone(),
        }
    }
}

impl AccessKey {
    pub(super) fn of(record: &AccessKeyRecord) -> AccessKey {
        AccessKey {
            id: record.id.clone(),
            account: record.account.clone(),
            owner: match &record.owner {
                Owner::Root => "root".to_owned(),
                Owner::User(name) => format!("user/{name}"),
                Owner::Service(name) => format!("service/{name}"),
            },
            active: record.active,
            created: record.created,
        }
    }
}

impl Service {
    pub(super) fn of(record: &ServiceRecord) -> Service {
        Service {
            name: record.name.clone(),
            account: record.account.clone(),
            service_id: record.service_id.clone(),
            created: record.created,
            managed_key: record.managed_key.clone(),
            may_act_for: record.may_act_for.clone(),
        }
    }
}

impl OidcProvider {
    pub(super) fn of(record: &OidcProviderRecord) -> OidcProvider {
        OidcProvider {
            arn: record.arn.clone(),
            account: record.account.clone(),
            url: record.url.clone(),
            client_ids: record.client_ids.clone(),
            created: record.created,
        }
    }
}

impl KeyStore {
    pub(super) fn of(record: &KeyStoreRecord) -> KeyStore {
        KeyStore {
            id: record.id.clone(),
            account: record.account.clone(),
            name: record.name.clone(),
            cluster: record.cluster.clone(),
            created: record.created,
            connection: match &record.connection {
                Connection::Disconnected => "disconnected".to_owned(),
                Connection::Wanted => "wanted".to_owned(),
                Connection::Failed { code } => format!("failed {code}"),
            },
        }
    }
}

impl Token {
    pub(super) fn of(record: &TokenRecord) -> Token {
        Token {
            name: record.name.clone(),
            cluster: record.cluster.clone(),
            serial: record.serial.clone(),
            first_seen: record.first_seen,
        }
    }
}
