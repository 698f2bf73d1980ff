//! `iam export`: what is there, in the layout that `iam apply` reads. Applied again it changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::{Failed, answer};
use crate::config::Config;
use crate::ops::{IamRequest, OperatorRequest, OperatorResponse};

#[derive(Args)]
pub struct ExportArguments {
    /// A folder that does not exist or is empty; a Git repository without files is.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub fn run(arguments: &ExportArguments, json: bool, config: &Config) -> Result<u8, Failed> {
    let mut folder = Folder { dir: arguments.dir.clone(), written: BTreeSet::new() };
    folder.must_be_empty()?;
    let report = match answer(config, OperatorRequest::Iam(IamRequest::Export))? {
        OperatorResponse::Iam { report } => report,
        other => return Err(Failed::new(70, format!("the answer to `iam export` is not understood: {other:?}"))),
    };
    let organizations = organizations(list(&report, "Units"));
    match organizations.as_slice() {
        [] => {}
        [one] => folder.write("", "organization", one)?,
        several => folder.write("", "organization", &several.into())?,
    }
    for policy in list(&report, "ServiceControlPolicies") {
        folder.write("service-control-policies", text(policy, "PolicyName"), &scp(policy))?;
    }
    let own = text(&report, "Account");
    for account in list(&report, "Accounts") {
        let id = text(account, "Id");
        let under = if id == own { String::new() } else { format!("accounts/{id}/") };
        if let Some(record) = account.get("Account").filter(|record| record.is_object()) {
            folder.write(&under, "account", &account_file(record))?;
        }
        for (kind, folder_name, name, form) in KINDS {
            for entity in list(account, kind) {
                folder.write(&format!("{under}{folder_name}"), text(entity, name), &form(entity))?;
            }
        }
    }
    let count = folder.written.len();
    match json {
        true => println!("{}", json!({ "Files": folder.written })),
        false => println!("{count} files in {}", folder.dir.display()),
    }
    Ok(0)
}

type Kind = (&'static str, &'static str, &'static str, fn(&Value) -> Value);

const KINDS: [Kind; 6] = [
    ("Policies", "policies", "PolicyName", policy),
    ("Groups", "groups", "GroupName", |group| identity(group, "GroupName", "GroupPolicyList")),
    ("Users", "users", "UserName", |user| identity(user, "UserName", "UserPolicyList")),
    ("Roles", "roles", "RoleName", |role| identity(role, "RoleName", "RolePolicyList")),
    ("OidcProviders", "oidc-providers", "Url", |provider| {
        kept(provider, &["Url", "ClientIDList", "Algorithms", "Jwks", "JwksUrl", "JwksCa"])
    }),
    ("Services", "services", "ServiceName", |service| kept(service, &["ServiceName", "ManagedKey", "MayActFor"])),
];

struct Folder {
    dir: PathBuf,
    written: BTreeSet<String>,
}

impl Folder {
    fn must_be_empty(&self) -> Result<(), Failed> {
        let told = |e: std::io::Error| Failed::new(74, format!("`{}`: {e}", self.dir.display()));
        let listed = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            listed => listed.map_err(told)?,
        };
        for entry in listed {
            if !entry.map_err(told)?.file_name().to_string_lossy().starts_with('.') {
                return Err(Failed::new(
                    1,
                    format!("`{}` is not empty: nothing in it is overwritten", self.dir.display()),
                ));
            }
        }
        Ok(())
    }

    fn write(&mut self, under: &str, name: &str, value: &Value) -> Result<(), Failed> {
        let file = self.free_name(under, name);
        let path = self.dir.join(&file);
        let told = |e: std::io::Error| Failed::new(74, format!("writing `{}`: {e}", path.display()));
        fs::create_dir_all(path.parent().unwrap_or(Path::new(""))).map_err(told)?;
        let text = serde_json::to_string_pretty(value).map_err(|e| Failed::new(74, e.to_string()))?;
        let mut out = fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(told)?;
        writeln!(out, "{text}").map_err(told)?;
        self.written.insert(file);
        Ok(())
    }

    /// Names are in the documents, so the file's only has to be one: `https://a/b` is none, and `.a` would be read over.
    fn free_name(&self, under: &str, name: &str) -> String {
        let name = name.strip_prefix("https://").unwrap_or(name);
        let legal = |c: char| if c.is_ascii_alphanumeric() || "+=,.@_-".contains(c) { c } else { '_' };
        let name: String = name.chars().map(legal).collect();
        let hidden = if name.starts_with('.') { "_" } else { "" };
        let slash = if under.is_empty() || under.ends_with('/') { "" } else { "/" };
        let stem = format!("{under}{slash}{hidden}{name}");
        let names = std::iter::once(format!("{stem}.json")).chain((2..).map(|n| format!("{stem}-{n}.json")));
        let mut free = names.filter(|name| !self.written.contains(name));
        free.next().unwrap_or_default()
    }
}

fn policy(policy: &Value) -> Value {
    let mut file = scp(policy);
    let path = text(policy, "Arn").split_once(":policy").and_then(|(_, path)| path.rsplit_once('/'));
    if let (Some((path, _)), Value::Object(members)) = (path, &mut file)
        && !path.is_empty()
    {
        members.insert("Path".to_owned(), format!("{path}/").into());
    }
    file
}

fn scp(policy: &Value) -> Value {
    kept(policy, &["PolicyName", "Description", "PolicyDocument"])
}

fn account_file(record: &Value) -> Value {
    let mut file = Map::new();
    for (from, to) in [
        ("Id", "AccountId"),
        ("Name", "Name"),
        ("Unit", "OrganizationalUnit"),
        ("ServiceControlPolicies", "ServiceControlPolicies"),
    ] {
        if let Some(value) = record.get(from).filter(|value| says_something(value)) {
            file.insert(to.to_owned(), value.clone());
        }
    }
    Value::Object(file)
}

/// A user, a group or a role in the form of get-account-authorization-details.
fn identity(shown: &Value, name: &str, inline: &str) -> Value {
    let members = [name, "Path", "Description", "AssumeRolePolicyDocument", "MaxSessionDuration", "Tags"];
    let Value::Object(mut file) = kept(shown, &members) else { return Value::Null };
    if let Some(groups) = shown.get("Groups").filter(|groups| says_something(groups)) {
        file.insert("GroupList".to_owned(), groups.clone());
    }
    let attached = list(shown, "AttachedPolicies").iter().filter_map(Value::as_str);
    let attached: Vec<Value> =
        attached.map(|arn| json!({ "PolicyName": arn.rsplit('/').next(), "PolicyArn": arn })).collect();
    if !attached.is_empty() {
        file.insert("AttachedManagedPolicies".to_owned(), attached.into());
    }
    let policies = shown.get("InlinePolicies").and_then(Value::as_object).into_iter().flatten();
    let policies: Vec<Value> =
        policies.map(|(name, document)| json!({ "PolicyName": name, "PolicyDocument": document })).collect();
    if !policies.is_empty() {
        file.insert(inline.to_owned(), policies.into());
    }
    if let Some(arn) = shown.get("PermissionsBoundary") {
        let boundary = json!({ "PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": arn });
        file.insert("PermissionsBoundary".to_owned(), boundary);
    }
    Value::Object(file)
}

fn organizations(units: &[Value]) -> Vec<Value> {
    let roots = units.iter().filter(|unit| unit.get("Parent").is_none_or(Value::is_null));
    roots.map(|root| json!({ "Id": text(root, "Organization"), "Root": unit(root, units) })).collect()
}

/// Ends: the server lets no unit stand in itself.
fn unit(shown: &Value, units: &[Value]) -> Value {
    let Value::Object(mut file) = kept(shown, &["Id", "Name", "ServiceControlPolicies"]) else { return Value::Null };
    let below = units.iter().filter(|other| text(other, "Parent") == text(shown, "Id"));
    let below: Vec<Value> = below.map(|other| unit(other, units)).collect();
    if !below.is_empty() {
        file.insert("OrganizationalUnits".to_owned(), below.into());
    }
    Value::Object(file)
}

fn kept(shown: &Value, members: &[&str]) -> Value {
    let value = |name: &&str| {
        let value = shown.get(*name).filter(|value| says_something(value))?;
        Some(((*name).to_owned(), value.clone()))
    };
    Value::Object(members.iter().filter_map(value).collect())
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
