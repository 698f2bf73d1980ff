//! Names in accounts, and the rows of versions in which names stood alone.

use serde::{Deserialize, Serialize};

use super::super::seal::Sealer;
use super::super::table::{Row, Table};
use super::*;
use crate::ids::AliasName;

fn policies() -> Policies {
    let document = PolicyDocument::plain("{}");
    Policies { attached: vec![policy_arn("p")], inline: [("own".parse().unwrap(), document)].into() }
}

fn policy_arn(name: &str) -> crate::ids::PolicyArn {
    format!("arn:aws:iam::{}:policy/{name}", account()).parse().unwrap()
}

pub fn grant(n: u8, grantee: &str) -> GrantRecord {
    GrantRecord {
        id: format!("{n:064x}").parse().unwrap(),
        key: key_id(1),
        issuing_account: account(),
        grantee: GrantPrincipal::Aws { arn: grantee.into(), id: None },
        retiring: Some(GrantPrincipal::Service { name: "backup.internal.example".parse().unwrap() }),
        operations: vec![crate::ids::spec::GrantOperation::Decrypt],
        constraints: GrantConstraints {
            subset: Some([("a".to_owned(), "b".to_owned())].into()),
            ..GrantConstraints::default()
        },
        name: Some("n".into()),
        created: 8,
    }
}

/// The kinds of records that identities and grants brought.
pub fn one_of_each() -> Vec<Write> {
    let trust =
        PolicyDocument::new("{}", [("arn:aws:iam::111122223333:user/ops".to_owned(), "AIDA0".to_owned())].into());
    vec![
        Write::PutAccount(AccountRecord {
            id: account(),
            name: "main".into(),
            created: 1,
            root_enabled: false,
            unit: Some("ou-1".into()),
            service_control: vec![policy_arn("scp")],
        }),
        Write::PutUnit(UnitRecord {
            id: "ou-1".into(),
            name: "unit".into(),
            organization: "o-1".into(),
            parent: Some("r-1".into()),
            service_control: Vec::new(),
        }),
        Write::PutGroup(GroupRecord {
            name: "admins".parse().unwrap(),
            account: account(),
            group_id: "AGPA0".into(),
            created: 2,
            path: root_path(),
            policies: policies(),
        }),
        Write::PutRole(RoleRecord {
            name: "app".parse().unwrap(),
            account: account(),
            role_id: "AROA0".into(),
            created: 3,
            path: "/team/".parse().unwrap(),
            description: "d".into(),
            trust,
            max_session_seconds: 3600,
            tags: vec![("k".into(), "v".into())],
            policies: policies(),
            boundary: Some(policy_arn("edge")),
            sessions_revoked_before: Some(4),
        }),
        Write::PutPolicy(PolicyRecord {
            arn: policy_arn("p"),
            policy_id: "ANPA0".into(),
            created: 1,
            updated: 2,
            description: String::new(),
            document: PolicyDocument::plain("{}"),
        }),
        Write::PutOidcProvider(OidcProviderRecord {
            arn: format!("arn:aws:iam::{}:oidc-provider/issuer.example", account()),
            account: account(),
            url: "https://issuer.example".into(),
            client_ids: vec!["sts.amazonaws.com".into()],
            algorithms: vec!["RS256".into()],
            keys: KeySource::Static { jwks: "{}".into() },
            created: 3,
        }),
        Write::PutService(ServiceRecord {
            name: "s3.internal.example".parse().unwrap(),
            account: account(),
            service_id: "ASVC0".into(),
            created: 4,
            managed_key: Some("s3".into()),
            may_act_for: vec![account().to_string()],
        }),
        Write::PutSessionKey(SessionKeyRecord { id: "00000001".into(), created: 5, wrapped: vec![1; 60] }),
        Write::PutRevokedSession(RevokedSessionRecord { access_key: "ASIA0".into(), until: 6 }),
        Write::PutGrant(grant(1, "arn:aws:iam::111122223333:user/ops")),
        Write::PutAuditKey(audit_key(1, AuditKeyStage::Current)),
    ]
}

pub(super) fn audit_key(generation: u32, stage: AuditKeyStage) -> AuditKeyRecord {
    AuditKeyRecord {
        key_use: "digest".into(),
        generation,
        stage,
        created: 1,
        material: vec![1; 16],
        object_id: None,
        label: "hsm-bridge/audit-digest-1".into(),
        fingerprint: vec![1, 3],
        spki: vec![0x30],
        evidence: serde_json::json!({}),
        certificates: vec!["AA==".into()],
        valid_from: 2,
        valid_until: None,
    }
}

#[tokio::test]
async fn grants_are_found_by_key_grantee_and_retiring_principal() {
    const OPS: &str = "arn:aws:iam::111122223333:user/ops";
    let (_state, store) = new_store().await;
    let to = |snapshot: &Snapshot, who: &str| snapshot.grants_to(key_id(1), who).count();
    put(
        &store,
        vec![Write::PutGrant(grant(1, OPS)), Write::PutGrant(grant(2, "other")), Write::PutGrant(grant(3, OPS))],
    )
    .await;
    let before = store.snapshot();
    assert_eq!((to(&before, OPS), to(&before, "other"), to(&before, "nobody")), (2, 1, 0));
    assert_eq!((before.grants_of(key_id(1)).count(), before.grants_of(key_id(2)).count()), (3, 0));
    assert_eq!(before.grants_retired_by.size(), 3);
    // Written again for somebody else: no index keeps the old one.
    let retargeted = GrantRecord { retiring: None, ..grant(1, "other") };
    put(&store, vec![Write::PutGrant(retargeted), Write::DeleteGrant(key_id(1), grant(3, OPS).id)]).await;
    let after = store.snapshot();
    assert_eq!((to(&after, OPS), to(&after, "other")), (0, 2));
    assert_eq!((after.grants_of(key_id(1)).count(), after.grants_retired_by.size()), (2, 1));
    put(&store, [1, 2].map(|n| Write::DeleteGrant(key_id(1), grant(n, OPS).id)).into()).await;
    assert!(store.snapshot().grants_to.is_empty(), "a key without grants leaves nothing behind");
    assert_eq!((to(&after, "other"), to(&before, OPS)), (2, 2), "an old snapshot stays as it was");
}

/// A record under the primary key that schema 2 gave it.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Former<R>(R);

impl Row for Former<UserRecord> {
    const TABLE: Table = Table::Users;
    fn pk(&self, sealer: &Sealer) -> String {
        self.0.former_pk(sealer).unwrap()
    }
}

impl Row for Former<AliasRecord> {
    const TABLE: Table = Table::Aliases;
    fn pk(&self, sealer: &Sealer) -> String {
        self.0.former_pk(sealer).unwrap()
    }
}

fn rows(state: &TempDir, table: &str) -> i64 {
    raw(state).query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// A store as schema 2 left it: one user and two aliases.
async fn former() -> TempDir {
    let (state, store) = new_store().await;
    let inner = store.inner.clone();
    let write = move |db: &mut Connection| {
        inner.transaction(db, 0, |batch, before| {
            batch.put(&Former(user("ops")))?;
            for name in ["alias/app", "alias/old"] {
                batch.put(&Former(alias(name, key_id(1))))?;
            }
            Ok(before.clone())
        })
    };
    super::super::handle::on_thread(&store.inner.connection, write).await.unwrap();
    store.close().await.unwrap();
    state
}

#[tokio::test]
async fn rows_of_an_earlier_version_are_read_and_move_when_written() {
    let state = former().await;
    let store = reopen(&state).await.unwrap();
    let (app, old): (AliasName, AliasName) = ("alias/app".parse().unwrap(), "alias/old".parse().unwrap());
    assert_eq!(store.snapshot().user(&account(), &"ops".parse().unwrap()).unwrap().as_ref(), &user("ops"));
    assert_eq!(store.snapshot().alias(&account(), &app).unwrap().target, key_id(1));

    put(
        &store,
        vec![
            Write::PutAlias(alias("alias/app", key_id(2))),
            Write::PutUser(UserRecord { created: 7, ..user("ops") }),
            Write::DeleteAlias(account(), old.clone()),
        ],
    )
    .await;
    store.close().await.unwrap();
    // One row each: the former one did not stay behind.
    assert_eq!((rows(&state, "aliases"), rows(&state, "users")), (1, 1));

    let store = reopen(&state).await.unwrap();
    assert_eq!(store.snapshot().alias(&account(), &app).unwrap().target, key_id(2));
    assert!(store.snapshot().alias(&account(), &old).is_none());
    put(&store, vec![Write::DeleteUser(account(), "ops".parse().unwrap())]).await;
    store.close().await.unwrap();
    assert_eq!(rows(&state, "users"), 0);
}

#[tokio::test]
async fn one_name_in_two_accounts_is_two_records() {
    let other: AccountId = "444455556666".parse().unwrap();
    let (state, store) = new_store().await;
    let app: AliasName = "alias/app".parse().unwrap();
    let theirs = AliasRecord { account: other.clone(), ..alias("alias/app", key_id(2)) };
    put(&store, vec![Write::PutAlias(alias("alias/app", key_id(1))), Write::PutAlias(theirs)]).await;
    store.close().await.unwrap();
    let store = reopen(&state).await.unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.alias(&account(), &app).unwrap().target, key_id(1));
    assert_eq!(snapshot.alias(&other, &app).unwrap().target, key_id(2));
    assert_eq!(snapshot.aliases_in(&other, None).count(), 1);
    assert_eq!(snapshot.aliases_in(&account(), Some(app)).count(), 0);
}
