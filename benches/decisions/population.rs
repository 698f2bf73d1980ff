//! Who and what is in the store: as many users as keys, ten times as many grants, and what does not grow with them (a hundred
//! roles, fifty managed policies, twenty groups, an organisation with a policy at each level).
//!
//! Everything follows from its number, so that another process knows who is who.

use std::collections::BTreeMap;
use std::path::Path;

use hsm_bridge::authn::Principal;
use hsm_bridge::ids::spec::{GrantOperation, KeySpec};
use hsm_bridge::ids::{AccountId, GrantId, IamPath, KeyId, PolicyArn};
use hsm_bridge::secret::SecretBytes;
use hsm_bridge::store::{
    AccountRecord, BoxFuture, DeploymentRecord, GrantConstraints, GrantPrincipal, GrantRecord, GroupRecord, KeyRecord,
    Lifecycle, Material, Policies, PolicyDocument, PolicyRecord, Provenance, RoleRecord, Store, UnitRecord, UserRecord,
    WrapKey, Write,
};

pub const ACCOUNT: &str = "111122223333";
pub const REGION: &str = "eu-central-1";
pub const GRANTS_PER_KEY: usize = 10;
const ROLES: usize = 100;
const MANAGED: usize = 50;
const GROUPS: usize = 20;
const BATCH: usize = 500;
const CREATED: i64 = 1_700_000_000_000;

/// Has a tenth of all grants, one for each user.
pub const CROWDED: usize = 0;
/// A key policy of ten statements, and a hundred grants, all to `HUNDRED`, who has two policies of ten statements.
pub const LARGE: usize = 1;
pub const HUNDRED: &str = "hundred";
/// Has one grant on each key and no policy.
pub const MANY: usize = 0;

/// The store key is not wrapped: no token takes part.
struct Unwrapped;

impl WrapKey for Unwrapped {
    fn wrap<'a>(&'a self, _: Vec<u8>, key: &'a SecretBytes) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        Box::pin(async { Ok(key.expose().to_vec()) })
    }

    fn unwrap<'a>(&'a self, _: Vec<u8>, wrapped: &'a [u8]) -> BoxFuture<'a, Result<SecretBytes, String>> {
        Box::pin(async { Ok(SecretBytes::new(wrapped.to_vec())) })
    }

    fn random32(&self) -> BoxFuture<'_, Result<SecretBytes, String>> {
        Box::pin(async { Ok(SecretBytes::new(vec![0x5a; 32])) })
    }

    fn name(&self) -> String {
        "bench".to_owned()
    }
}

pub async fn open(state: &Path) -> Store {
    Store::open(Store::lock(state).unwrap(), &Unwrapped).await.unwrap()
}

/// What stands in the store one after the other, so that the memory of each can be told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Base,
    Users,
    Keys,
    Grants,
}

impl Stage {
    pub const ALL: [(Stage, &str); 4] =
        [(Stage::Base, "nothing"), (Stage::Users, "users"), (Stage::Keys, "keys"), (Stage::Grants, "grants")];
}

/// Writes a stage in transactions of five hundred records.
pub async fn fill(state: &Path, stage: Stage, n: usize) {
    let store = match stage {
        Stage::Base => Store::create(Store::lock(state).unwrap(), &Unwrapped, None).await.unwrap(),
        _ => open(state).await,
    };
    let mut writes: Box<dyn Iterator<Item = Write> + Send> = match stage {
        Stage::Base => Box::new(base(store.deployment_id()).into_iter()),
        Stage::Users => Box::new((0..n).map(user).chain([hundred()]).map(Write::PutUser)),
        Stage::Keys => Box::new((0..n).map(move |j| Write::PutKey(key(j, n)))),
        Stage::Grants => Box::new(grants(n).map(Write::PutGrant)),
    };
    loop {
        let batch: Vec<Write> = writes.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        store.update::<_, (), _>(move |_| Ok((batch, ()))).await.unwrap();
    }
    store.close().await.unwrap();
}

pub fn account() -> AccountId {
    ACCOUNT.parse().unwrap()
}

/// In no order: neighbours in number are not neighbours in the store.
pub fn key_id(j: usize) -> KeyId {
    KeyId::new((spread(j as u128) | 1).to_be_bytes(), false)
}

pub fn key_arn(id: KeyId) -> String {
    format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{id}")
}

fn spread(number: u128) -> u128 {
    (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

pub fn user_name(i: usize) -> String {
    format!("user-{i:05}")
}

pub fn user_arn(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{name}")
}

fn user_id(name: &str) -> String {
    format!("AIDA{:0>17}", name.to_ascii_uppercase().replace('-', ""))
}

fn role_id(r: usize) -> String {
    format!("AROA{r:017}")
}

pub fn a_user(name: &str) -> Principal {
    Principal::User { name: name.parse().unwrap(), path: root(), user_id: user_id(name) }
}

pub fn a_session(r: usize) -> Principal {
    Principal::AssumedRole {
        role: format!("role-{r:03}").parse().unwrap(),
        path: root(),
        role_id: role_id(r),
        session_name: "batch".to_owned(),
    }
}

/// One user in four has no policy: key policies and grants are all it has.
pub fn is_bare(i: usize) -> bool {
    i % 4 == 3
}

/// One key in three has the console's policy; its one user is this, a bare one.
pub fn console_user(j: usize, n: usize) -> usize {
    4 * (j % (n / 4).max(1)) + 3
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Default,
    Console,
    Conditions,
    Large,
}

pub fn kind(j: usize) -> Kind {
    match j {
        CROWDED => Kind::Default,
        LARGE => Kind::Large,
        _ => [Kind::Default, Kind::Console, Kind::Conditions][j % 3],
    }
}

/// Grantee and key of the grants that are neither on the crowded key nor of the role with many.
pub fn others(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..8 * n).map(move |g| ((g * 7 + g / n) % n, g % n))
}

pub fn context() -> Vec<(String, String)> {
    vec![("app".to_owned(), "billing".to_owned()), ("stage".to_owned(), "test".to_owned())]
}

fn root() -> IamPath {
    "/".parse().unwrap()
}

fn managed_arn(m: usize) -> PolicyArn {
    format!("arn:aws:iam::{ACCOUNT}:policy/managed-{m:02}").parse().unwrap()
}

fn document(statements: &[String]) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(","))
}

/// What a team may do: read everything, use the keys whose tag is its own, from its networks.
fn team(m: usize) -> PolicyDocument {
    let text = document(&[
        r#"{"Sid":"Look","Effect":"Allow","Action":["kms:Describe*","kms:List*","kms:Get*"],"Resource":"*"}"#
            .to_owned(),
        format!(
            r#"{{"Sid":"Use","Effect":"Allow","Action":["kms:Decrypt","kms:GenerateDataKey*"],
            "Resource":"arn:aws:kms:*:{ACCOUNT}:key/*","Condition":{{"StringLike":{{"aws:ResourceTag/team":"team-*"}},
            "IpAddress":{{"aws:SourceIp":["10.{m}.0.0/16","192.0.2.0/24"]}}}}}}"#
        ),
        r#"{"Sid":"Never","Effect":"Deny","Action":"kms:ScheduleKeyDeletion","Resource":"*",
            "Condition":{"Bool":{"aws:MultiFactorAuthPresent":"false"}}}"#
            .to_owned(),
    ]);
    PolicyDocument::plain(text)
}

/// Ten statements, of which the last allows Decrypt where `last` says so.
fn ten(last: bool) -> PolicyDocument {
    let statements: Vec<String> = (0..10)
        .map(|s| {
            let (resource, team) = if s == 9 && last {
                ("*", "team")
            } else {
                ("arn:aws:kms:*:111122223333:key/${aws:PrincipalTag/team}*", "none")
            };
            format!(
                r#"{{"Effect":"Allow","Action":["kms:Describe*","kms:Decrypt","kms:ReEncrypt*"],"Resource":"{resource}",
                "Condition":{{"StringLike":{{"aws:ResourceTag/team":"{team}*"}},"IpAddress":{{"aws:SourceIp":
                ["10.0.0.0/8","192.0.2.0/24"]}}}}}}"#
            )
        })
        .collect();
    PolicyDocument::plain(document(&statements))
}

fn inline(document: PolicyDocument) -> Policies {
    Policies { attached: Vec::new(), inline: [("own".parse().unwrap(), document)].into() }
}

fn attached(m: usize) -> Policies {
    Policies { attached: vec![managed_arn(m % MANAGED)], inline: BTreeMap::new() }
}

fn base(deployment: &str) -> Vec<Write> {
    const ALL_SERVICES: &str = "arn:aws:organizations::aws:policy/service_control_policy/FullAWSAccess";
    let scp = || vec![ALL_SERVICES.parse().unwrap()];
    let unit = |id: &str, parent: Option<&str>| UnitRecord {
        id: id.to_owned(),
        name: id.to_owned(),
        organization: "o-bench00000".to_owned(),
        parent: parent.map(str::to_owned),
        service_control: scp(),
    };
    let mut writes = vec![
        Write::PutDeployment(DeploymentRecord {
            id: deployment.to_owned(),
            account: account(),
            region: REGION.parse().unwrap(),
            created: CREATED,
            made_by: "init".to_owned(),
        }),
        Write::PutUnit(unit("r-bench", None)),
        Write::PutUnit(unit("ou-bench-00000000", Some("r-bench"))),
        Write::PutAccount(AccountRecord {
            id: account(),
            name: "bench".to_owned(),
            created: CREATED,
            root_enabled: true,
            unit: Some("ou-bench-00000000".to_owned()),
            service_control: scp(),
        }),
    ];
    writes.extend((0..MANAGED).map(|m| {
        Write::PutPolicy(PolicyRecord {
            arn: managed_arn(m),
            policy_id: format!("ANPA{m:017}"),
            created: CREATED,
            updated: CREATED,
            description: String::new(),
            document: team(m),
        })
    }));
    writes.extend((0..GROUPS).map(|g| {
        Write::PutGroup(GroupRecord {
            name: format!("group-{g:02}").parse().unwrap(),
            account: account(),
            group_id: format!("AGPA{g:017}"),
            created: CREATED,
            path: root(),
            policies: attached(g),
        })
    }));
    let trust = document(&[format!(
        r#"{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{ACCOUNT}:root"}},"Action":"sts:AssumeRole"}}"#
    )]);
    writes.extend((0..ROLES).map(|r| {
        Write::PutRole(RoleRecord {
            name: format!("role-{r:03}").parse().unwrap(),
            account: account(),
            role_id: role_id(r),
            created: CREATED,
            path: root(),
            description: String::new(),
            trust: PolicyDocument::plain(trust.clone()),
            max_session_seconds: 3_600,
            tags: Vec::new(),
            policies: if r == MANY { Policies::default() } else { attached(r) },
            boundary: None,
            sessions_revoked_before: None,
        })
    }));
    writes
}

fn user(i: usize) -> UserRecord {
    let name = user_name(i);
    let (policies, groups) = match i % 4 {
        0 => (inline(team(i % 200)), Vec::new()),
        1 => (attached(i), Vec::new()),
        2 => (Policies::default(), vec![format!("group-{:02}", i % GROUPS).parse().unwrap()]),
        _ => (Policies::default(), Vec::new()),
    };
    UserRecord {
        account: account(),
        user_id: user_id(&name),
        name: name.parse().unwrap(),
        created: CREATED,
        path: root(),
        tags: vec![("team".to_owned(), format!("team-{}", i % 40))],
        groups,
        policies,
        boundary: (i % 8 == 1).then(|| managed_arn(i % MANAGED)),
    }
}

fn hundred() -> UserRecord {
    let policies = Policies {
        attached: Vec::new(),
        inline: [("first".parse().unwrap(), ten(false)), ("second".parse().unwrap(), ten(true))].into(),
    };
    let own = UserRecord { name: HUNDRED.parse().unwrap(), user_id: user_id(HUNDRED), ..user(3) };
    UserRecord { policies, ..own }
}

fn key_policy(j: usize, n: usize) -> PolicyDocument {
    let delegates = format!(
        r#"{{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{ACCOUNT}:root"}},
        "Action":"kms:*","Resource":"*"}}"#
    );
    match kind(j) {
        Kind::Default => PolicyDocument::plain(document(&[delegates])),
        Kind::Console => {
            let (admin, user) = (user_name((j + 5) % n), user_name(console_user(j, n)));
            let statements = [
                delegates,
                format!(
                    r#"{{"Sid":"Allow access for Key Administrators","Effect":"Allow","Principal":{{"AWS":["{}"]}},"Action":[
                    "kms:Create*","kms:Describe*","kms:Enable*","kms:List*","kms:Put*","kms:Update*","kms:Revoke*",
                    "kms:Disable*","kms:Get*","kms:Delete*","kms:TagResource","kms:UntagResource",
                    "kms:ScheduleKeyDeletion","kms:CancelKeyDeletion"],"Resource":"*"}}"#,
                    user_arn(&admin)
                ),
                format!(
                    r#"{{"Sid":"Allow use of the key","Effect":"Allow","Principal":{{"AWS":["{0}"]}},"Action":["kms:Encrypt",
                    "kms:Decrypt","kms:ReEncrypt*","kms:GenerateDataKey*","kms:DescribeKey"],"Resource":"*"}},
                    {{"Sid":"Allow attachment of persistent resources","Effect":"Allow","Principal":{{"AWS":["{0}"]}},
                    "Action":["kms:CreateGrant","kms:ListGrants","kms:RevokeGrant"],"Resource":"*",
                    "Condition":{{"Bool":{{"kms:GrantIsForAWSResource":true}}}}}}"#,
                    user_arn(&user)
                ),
            ];
            let bound = [&admin, &user].map(|name| (user_arn(name), user_id(name)));
            PolicyDocument::new(document(&statements), bound.into())
        }
        Kind::Conditions => {
            let via = format!(
                r#"{{"Sid":"Through the store","Effect":"Allow","Principal":{{"AWS":"*"}},"Action":["kms:Encrypt",
                "kms:Decrypt","kms:GenerateDataKey*"],"Resource":"*","Condition":{{"StringEquals":{{"kms:ViaService":
                "objects.internal.example","kms:CallerAccount":"{ACCOUNT}"}},
                "ForAllValues:StringLike":{{"kms:EncryptionContextKeys":["app","stage","aws:*"]}}}}}}"#
            );
            PolicyDocument::plain(document(&[delegates, via]))
        }
        Kind::Large => {
            let strangers = (0..9).map(|s| {
                format!(
                    r#"{{"Effect":"Allow","Principal":{{"AWS":["arn:aws:iam::{ACCOUNT}:user/u{s}",
                    "arn:aws:iam::{ACCOUNT}:role/r{s}"]}},"Action":["kms:Encrypt*","kms:Dec*","kms:Generate*"],
                    "Resource":"*","Condition":{{"StringEquals":{{"kms:ViaService":"objects.internal.example"}}}}}}"#
                )
            });
            PolicyDocument::plain(document(&strangers.chain([delegates]).collect::<Vec<_>>()))
        }
    }
}

fn key(j: usize, n: usize) -> KeyRecord {
    KeyRecord {
        id: key_id(j),
        account: account(),
        created: CREATED,
        description: format!("key {j}"),
        spec: KeySpec::SymmetricDefault,
        usage: KeySpec::SymmetricDefault.default_usage(),
        lifecycle: Lifecycle::Enabled,
        policy: key_policy(j, n),
        policy_version: 1,
        tags: vec![("team".to_owned(), format!("team-{}", j % 40))],
        materials: vec![Material {
            generation: 1,
            material_id: format!("{:064x}", spread(j as u128)),
            created: CREATED,
            fingerprint: vec![7; 61],
            spki: None,
            evidence: serde_json::json!({ "token_serial": "0123456789abcdef", "sensitive": true, "extractable": false,
                "always_sensitive": true, "never_extractable": true, "local": true }),
            object_id: None,
        }],
        key_store: None,
        provenance: Provenance::Generated,
        managed_by: None,
    }
}

/// A grant that lets use the key, where the encryption context says what `context` does in every second one.
pub fn grant(number: usize, on: usize, grantee: GrantPrincipal) -> GrantRecord {
    let subset = (number.is_multiple_of(2)).then(|| [("app".to_owned(), "billing".to_owned())].into());
    GrantRecord {
        id: grant_id(number),
        key: key_id(on),
        issuing_account: account(),
        grantee,
        retiring: number.is_multiple_of(4).then(|| to_role(1)),
        operations: vec![GrantOperation::Encrypt, GrantOperation::GenerateDataKey],
        constraints: GrantConstraints { equals: None, subset, source_arn: None },
        name: None,
        created: CREATED,
    }
}

fn grant_id(number: usize) -> GrantId {
    format!("{:032x}{number:032x}", spread(number as u128)).parse().unwrap()
}

pub fn to_user(name: &str) -> GrantPrincipal {
    GrantPrincipal::Aws { arn: user_arn(name), id: Some(user_id(name)) }
}

fn to_role(r: usize) -> GrantPrincipal {
    GrantPrincipal::Aws { arn: format!("arn:aws:iam::{ACCOUNT}:role/role-{r:03}"), id: Some(role_id(r)) }
}

fn grants(n: usize) -> impl Iterator<Item = GrantRecord> + Send {
    let crowd = (0..n).map(move |i| grant(i, CROWDED, to_user(&user_name(i))));
    let many = (0..n).map(move |j| grant(n + j, j, to_role(MANY)));
    let rest = others(n).enumerate().map(move |(g, (i, j))| grant(2 * n + g, j, to_user(&user_name(i))));
    // Beside the others, so that their number does not follow from the population's. The last in order says Encrypt.
    let large = (0..100).map(move |g| {
        let mut record = grant(0, LARGE, to_user(HUNDRED));
        record.id = format!("{:064x}", (1_u128 << 120) + g).parse().unwrap();
        record.operations = if g == 99 {
            vec![GrantOperation::Encrypt]
        } else {
            vec![GrantOperation::DescribeKey, GrantOperation::Sign]
        };
        record
    });
    crowd.chain(many).chain(rest).chain(large)
}
