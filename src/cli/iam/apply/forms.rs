//! The documents of a folder, as AWS writes them. What AWS emits and nobody can set is read over; any other member that is not
//! known is refused, because it would be a wish that nobody fulfils.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::ids::{AccountId, GroupName, IamPath, PolicyArn, PolicyName, RoleName, ServiceName, UserName};
use crate::ops::{
    AccountSpec, GroupSpec, IamChange, KeySource, OidcProviderSpec, PolicySpec, RoleSpec, ServiceSpec, UnitSpec,
    UserSpec,
};

const SERVICE_CONTROL: &str = "arn:aws:organizations::aws:policy/service_control_policy/";
const SHORTEST_SESSION: u32 = 3_600;

/// What a file's entity is made with.
pub struct Place<'a> {
    pub account: &'a AccountId,
    /// The file's name without its ending: the entity's, where the document does not say it.
    pub stem: &'a str,
    /// Managed policies of the folder, by name: an attachment may leave the ARN out.
    pub policies: &'a BTreeMap<String, PolicyArn>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct User<'a> {
    user_name: Option<UserName>,
    path: Option<IamPath>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    group_list: Vec<GroupName>,
    #[serde(default)]
    attached_managed_policies: Vec<Attached>,
    #[serde(default, borrow)]
    user_policy_list: Vec<Inline<'a>>,
    permissions_boundary: Option<Boundary>,
    arn: Option<String>,
    #[serde(rename = "UserId")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "CreateDate")]
    _created: Option<IgnoredAny>,
    #[serde(rename = "PasswordLastUsed")]
    _password: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Group<'a> {
    group_name: Option<GroupName>,
    path: Option<IamPath>,
    #[serde(default)]
    attached_managed_policies: Vec<Attached>,
    #[serde(default, borrow)]
    group_policy_list: Vec<Inline<'a>>,
    arn: Option<String>,
    #[serde(rename = "GroupId")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "CreateDate")]
    _created: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Role<'a> {
    role_name: Option<RoleName>,
    path: Option<IamPath>,
    #[serde(default)]
    description: String,
    #[serde(borrow)]
    assume_role_policy_document: &'a RawValue,
    max_session_duration: Option<u32>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    attached_managed_policies: Vec<Attached>,
    #[serde(default, borrow)]
    role_policy_list: Vec<Inline<'a>>,
    permissions_boundary: Option<Boundary>,
    arn: Option<String>,
    #[serde(rename = "RoleId")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "CreateDate")]
    _created: Option<IgnoredAny>,
    #[serde(rename = "RoleLastUsed")]
    _used: Option<IgnoredAny>,
    #[serde(rename = "InstanceProfileList")]
    _profiles: Option<IgnoredAny>,
}

/// One of a folder `policies` or `service-control-policies`, with its document.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Policy<'a> {
    policy_name: Option<PolicyName>,
    path: Option<IamPath>,
    #[serde(default)]
    description: String,
    #[serde(borrow)]
    policy_document: &'a RawValue,
    arn: Option<String>,
    #[serde(rename = "PolicyId")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "CreateDate")]
    _created: Option<IgnoredAny>,
    #[serde(rename = "UpdateDate")]
    _updated: Option<IgnoredAny>,
}

/// A policy of get-account-authorization-details, with all its versions.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct ManagedPolicy<'a> {
    policy_name: PolicyName,
    path: Option<IamPath>,
    #[serde(default)]
    description: String,
    arn: Option<String>,
    #[serde(borrow)]
    policy_version_list: Vec<Version<'a>>,
    #[serde(rename = "PolicyId")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "DefaultVersionId")]
    _version: Option<IgnoredAny>,
    #[serde(rename = "AttachmentCount")]
    _attached: Option<IgnoredAny>,
    #[serde(rename = "PermissionsBoundaryUsageCount")]
    _bounds: Option<IgnoredAny>,
    #[serde(rename = "IsAttachable")]
    _attachable: Option<IgnoredAny>,
    #[serde(rename = "CreateDate")]
    _created: Option<IgnoredAny>,
    #[serde(rename = "UpdateDate")]
    _updated: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Version<'a> {
    #[serde(borrow)]
    document: &'a RawValue,
    #[serde(default)]
    is_default_version: bool,
    #[serde(rename = "VersionId")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "CreateDate")]
    _created: Option<IgnoredAny>,
}

/// The output of `aws iam get-account-authorization-details`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Details<'a> {
    #[serde(default, borrow)]
    pub user_detail_list: Vec<User<'a>>,
    #[serde(default, borrow)]
    pub group_detail_list: Vec<Group<'a>>,
    #[serde(default, borrow)]
    pub role_detail_list: Vec<Role<'a>>,
    #[serde(default, borrow)]
    pub policies: Vec<ManagedPolicy<'a>>,
    #[serde(default)]
    pub is_truncated: bool,
    #[serde(rename = "Marker")]
    _marker: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Account {
    pub account_id: Option<AccountId>,
    name: String,
    organizational_unit: Option<String>,
    #[serde(default)]
    service_control_policies: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Organization {
    id: String,
    root: Unit,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Unit {
    id: String,
    name: String,
    #[serde(default)]
    service_control_policies: Vec<String>,
    #[serde(default)]
    organizational_units: Vec<Unit>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct OidcProvider<'a> {
    url: String,
    #[serde(rename = "ClientIDList")]
    client_ids: Vec<String>,
    algorithms: Option<Vec<String>>,
    #[serde(borrow)]
    jwks: Option<&'a RawValue>,
    jwks_url: Option<String>,
    jwks_ca: Option<String>,
    arn: Option<String>,
    #[serde(rename = "CreateDate")]
    _created: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Service {
    service_name: Option<ServiceName>,
    managed_key: Option<String>,
    #[serde(default)]
    may_act_for: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Tag {
    key: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Attached {
    policy_name: Option<PolicyName>,
    policy_arn: Option<PolicyArn>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Inline<'a> {
    policy_name: PolicyName,
    #[serde(borrow)]
    policy_document: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Boundary {
    permissions_boundary_arn: PolicyArn,
    #[serde(rename = "PermissionsBoundaryType")]
    _type: Option<IgnoredAny>,
}

impl User<'_> {
    pub fn change(self, at: &Place<'_>) -> Result<IamChange, String> {
        of_account(self.arn.as_deref(), at)?;
        Ok(IamChange::PutUser(UserSpec {
            account: at.account.clone(),
            name: named(self.user_name, at)?,
            path: path(self.path),
            tags: pairs(self.tags),
            groups: self.group_list,
            attached: attached(self.attached_managed_policies, at)?,
            inline: inline(self.user_policy_list)?,
            boundary: self.permissions_boundary.map(|boundary| boundary.permissions_boundary_arn),
        }))
    }
}

impl Group<'_> {
    pub fn change(self, at: &Place<'_>) -> Result<IamChange, String> {
        of_account(self.arn.as_deref(), at)?;
        Ok(IamChange::PutGroup(GroupSpec {
            account: at.account.clone(),
            name: named(self.group_name, at)?,
            path: path(self.path),
            attached: attached(self.attached_managed_policies, at)?,
            inline: inline(self.group_policy_list)?,
        }))
    }
}

impl Role<'_> {
    pub fn change(self, at: &Place<'_>) -> Result<IamChange, String> {
        of_account(self.arn.as_deref(), at)?;
        Ok(IamChange::PutRole(RoleSpec {
            account: at.account.clone(),
            name: named(self.role_name, at)?,
            path: path(self.path),
            description: self.description,
            trust: document(self.assume_role_policy_document)?,
            max_session_seconds: self.max_session_duration.unwrap_or(SHORTEST_SESSION),
            tags: pairs(self.tags),
            attached: attached(self.attached_managed_policies, at)?,
            inline: inline(self.role_policy_list)?,
            boundary: self.permissions_boundary.map(|boundary| boundary.permissions_boundary_arn),
        }))
    }
}

impl Policy<'_> {
    pub fn arn(&self, at: &Place<'_>) -> Result<PolicyArn, String> {
        let name: PolicyName = named(self.policy_name.clone(), at)?;
        policy_arn(at.account, self.path.as_ref(), &name)
    }

    pub fn change(self, at: &Place<'_>) -> Result<IamChange, String> {
        of_account(self.arn.as_deref(), at)?;
        let arn = self.arn(at)?;
        Ok(IamChange::PutPolicy(PolicySpec {
            arn,
            description: self.description,
            document: document(self.policy_document)?,
        }))
    }

    pub fn service_control(self, at: &Place<'_>) -> Result<IamChange, String> {
        if self.path.is_some_and(|path| path.as_str() != "/") {
            return Err("an organisation policy has no path".to_owned());
        }
        let name: PolicyName = named(self.policy_name, at)?;
        Ok(IamChange::PutPolicy(PolicySpec {
            arn: service_control_arn(name.as_str())?,
            description: self.description,
            document: document(self.policy_document)?,
        }))
    }
}

impl ManagedPolicy<'_> {
    /// AWS's own are not the folder's.
    pub fn is_aws(&self) -> bool {
        self.arn.as_deref().is_some_and(|arn| arn.starts_with("arn:aws:iam::aws:"))
    }

    pub fn name(&self) -> &str {
        self.policy_name.as_str()
    }

    pub fn arn(&self, account: &AccountId) -> Result<PolicyArn, String> {
        policy_arn(account, self.path.as_ref(), &self.policy_name)
    }

    pub fn change(self, at: &Place<'_>) -> Result<IamChange, String> {
        of_account(self.arn.as_deref(), at)?;
        let arn = self.arn(at.account)?;
        let version = self.policy_version_list.into_iter().find(|version| version.is_default_version);
        let version = version.ok_or_else(|| format!("policy `{}` has no default version", self.policy_name))?;
        Ok(IamChange::PutPolicy(PolicySpec {
            arn,
            description: self.description,
            document: document(version.document)?,
        }))
    }
}

impl Account {
    pub fn change(self, at: &Place<'_>) -> Result<IamChange, String> {
        if let Some(id) = self.account_id.filter(|id| id != at.account) {
            return Err(format!("AccountId is {id}, and the folder is account {}'s", at.account));
        }
        Ok(IamChange::PutAccount(AccountSpec {
            id: at.account.clone(),
            name: self.name,
            unit: self.organizational_unit,
            service_control: service_control(self.service_control_policies)?,
        }))
    }
}

impl Organization {
    /// Those above before those below.
    pub fn changes(self) -> Result<Vec<IamChange>, String> {
        let mut made = Vec::new();
        let mut waiting = vec![(self.root, None)];
        while let Some((unit, parent)) = waiting.pop() {
            waiting.extend(unit.organizational_units.into_iter().rev().map(|below| (below, Some(unit.id.clone()))));
            made.push(IamChange::PutUnit(UnitSpec {
                id: unit.id,
                name: unit.name,
                organization: self.id.clone(),
                parent,
                service_control: service_control(unit.service_control_policies)?,
            }));
        }
        Ok(made)
    }
}

impl OidcProvider<'_> {
    pub fn change(self, at: &Place<'_>) -> Result<IamChange, String> {
        of_account(self.arn.as_deref(), at)?;
        let keys = match (self.jwks, self.jwks_url, self.jwks_ca) {
            (Some(jwks), None, None) => KeySource::Static { jwks: document(jwks)? },
            (None, Some(url), ca) => KeySource::Fetched { url, ca },
            (None, None, _) => return Err("say where the issuer's keys are: `Jwks` or `JwksUrl`".to_owned()),
            (Some(_), ..) => {
                return Err("the issuer's keys are here (`Jwks`) or there (`JwksUrl`), not both".to_owned());
            }
        };
        Ok(IamChange::PutOidcProvider(OidcProviderSpec {
            account: at.account.clone(),
            url: self.url,
            client_ids: self.client_ids,
            algorithms: self.algorithms.unwrap_or_else(|| vec!["RS256".to_owned()]),
            keys,
        }))
    }
}

impl Service {
    pub fn change(self, at: &Place<'_>) -> Result<IamChange, String> {
        Ok(IamChange::PutService(ServiceSpec {
            name: named(self.service_name, at)?,
            account: at.account.clone(),
            managed_key: self.managed_key,
            may_act_for: self.may_act_for,
        }))
    }
}

/// A document that is nothing but the policy: its file has the name.
pub fn bare_policy(text: &str, at: &Place<'_>, service_control: bool) -> Result<IamChange, String> {
    let name: PolicyName = named(None, at)?;
    let arn = match service_control {
        true => service_control_arn(name.as_str())?,
        false => policy_arn(at.account, None, &name)?,
    };
    Ok(IamChange::PutPolicy(PolicySpec { arn, description: String::new(), document: text.trim().to_owned() }))
}

fn named<T: std::str::FromStr<Err = crate::ids::IdError>>(given: Option<T>, at: &Place<'_>) -> Result<T, String> {
    given.map_or_else(|| at.stem.parse().map_err(|error: crate::ids::IdError| format!("the file's name: {error}")), Ok)
}

fn path(given: Option<IamPath>) -> IamPath {
    given.unwrap_or_else(|| "/".parse().expect("`/` is a path"))
}

fn pairs(tags: Vec<Tag>) -> Vec<(String, String)> {
    tags.into_iter().map(|tag| (tag.key, tag.value)).collect()
}

pub fn policy_arn(account: &AccountId, path: Option<&IamPath>, name: &PolicyName) -> Result<PolicyArn, String> {
    let path = path.map_or("/", IamPath::as_str);
    format!("arn:aws:iam::{account}:policy{path}{name}").parse().map_err(|e: crate::ids::IdError| e.to_string())
}

/// By name, or by ARN.
fn service_control_arn(policy: &str) -> Result<PolicyArn, String> {
    let arn = if policy.starts_with("arn:") { policy.to_owned() } else { format!("{SERVICE_CONTROL}{policy}") };
    arn.parse().map_err(|e: crate::ids::IdError| e.to_string())
}

fn service_control(policies: Vec<String>) -> Result<Vec<PolicyArn>, String> {
    policies.iter().map(|policy| service_control_arn(policy)).collect()
}

fn attached(list: Vec<Attached>, at: &Place<'_>) -> Result<Vec<PolicyArn>, String> {
    let arn = |entry: Attached| match (entry.policy_arn, entry.policy_name) {
        (Some(arn), _) => Ok(arn),
        (None, Some(name)) => match at.policies.get(name.as_str()) {
            Some(arn) => Ok(arn.clone()),
            None => policy_arn(at.account, None, &name),
        },
        (None, None) => Err("an attached policy has `PolicyArn` or `PolicyName`".to_owned()),
    };
    list.into_iter().map(arn).collect()
}

fn inline(list: Vec<Inline<'_>>) -> Result<BTreeMap<PolicyName, String>, String> {
    let mut made = BTreeMap::new();
    for policy in list {
        let text = document(policy.policy_document)?;
        if made.insert(policy.policy_name.clone(), text).is_some() {
            return Err(format!("inline policy `{}` is there twice", policy.policy_name));
        }
    }
    Ok(made)
}

/// A document stands as JSON, or as AWS's API has it: in a string, URL-encoded. The text is kept as it was written.
fn document(raw: &RawValue) -> Result<String, String> {
    let text = raw.get();
    if !text.starts_with('"') {
        return Ok(text.to_owned());
    }
    let told = |e: &dyn std::fmt::Display| format!("a policy document is no JSON: {e}");
    let text: String = serde_json::from_str(text).map_err(|e| told(&e))?;
    if !text.trim_start().starts_with('%') {
        return Ok(text);
    }
    let decoded: Result<Cow<'_, str>, _> = percent_encoding::percent_decode_str(&text).decode_utf8();
    Ok(decoded.map_err(|e| told(&e))?.into_owned())
}

/// An export of one account is not applied to another: its attachments would name the wrong one.
fn of_account(arn: Option<&str>, at: &Place<'_>) -> Result<(), String> {
    match arn {
        Some(arn) if arn.split(':').nth(4) != Some(at.account.as_str()) => Err(format!(
            "`{arn}` is not of account {}: put it into `accounts/ID/`, or name the account with --account",
            at.account
        )),
        _ => Ok(()),
    }
}
