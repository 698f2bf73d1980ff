//! Identities on the terminal: a table of many, a tree of one, a line per change.

use std::io::{self, Write};

use serde_json::Value;

use super::{cell, list, table, tree};

pub fn report(out: &mut dyn Write, report: &Value) -> io::Result<()> {
    let Some((name, value)) = report.as_object().and_then(|members| members.iter().next()) else {
        return tree(out, report, 0);
    };
    match (name.as_str(), value) {
        ("Changes", Value::Array(changes)) => done(out, changes),
        ("Accounts", Value::Array(_)) => {
            let rows = list(report, name).iter().map(|account| {
                let root = if account.get("RootEnabled") == Some(&true.into()) { "enabled" } else { "disabled" };
                [cell(account, "Id"), cell(account, "Name"), root.to_owned(), cell(account, "Unit"), scps(account)]
            });
            table(out, ["ACCOUNT", "NAME", "ROOT", "UNIT", "ORGANISATION POLICIES"], rows.collect())
        }
        ("Units", Value::Array(_)) => {
            let rows = list(report, name).iter().map(|unit| {
                [cell(unit, "Id"), cell(unit, "Name"), cell(unit, "Organization"), cell(unit, "Parent"), scps(unit)]
            });
            table(out, ["UNIT", "NAME", "ORGANISATION", "PARENT", "ORGANISATION POLICIES"], rows.collect())
        }
        ("Users", Value::Array(_)) => {
            let rows = list(report, name).iter().map(|user| {
                [
                    cell(user, "UserName"),
                    cell(user, "UserId"),
                    joined(user, "Groups"),
                    policies(user),
                    list(user, "AccessKeys").len().to_string(),
                    cell(user, "CreateDate"),
                ]
            });
            table(out, ["USER", "ID", "GROUPS", "POLICIES", "ACCESS KEYS", "CREATED"], rows.collect())
        }
        ("Groups", Value::Array(_)) => {
            let rows = list(report, name).iter().map(|group| {
                [cell(group, "GroupName"), cell(group, "GroupId"), policies(group), cell(group, "CreateDate")]
            });
            table(out, ["GROUP", "ID", "POLICIES", "CREATED"], rows.collect())
        }
        ("Roles", Value::Array(_)) => {
            let rows = list(report, name).iter().map(|role| {
                let longest = cell(role, "MaxSessionDuration");
                [cell(role, "RoleName"), cell(role, "RoleId"), policies(role), longest, cell(role, "CreateDate")]
            });
            table(out, ["ROLE", "ID", "POLICIES", "LONGEST SESSION", "CREATED"], rows.collect())
        }
        ("Policies", Value::Array(_)) => {
            let rows = list(report, name).iter().map(|policy| {
                let attached = match policy.get("BuiltIn") {
                    Some(_) => "built in".to_owned(),
                    None => joined(policy, "AttachedTo"),
                };
                [cell(policy, "Arn"), cell(policy, "UpdateDate"), attached]
            });
            table(out, ["POLICY", "UPDATED", "ATTACHED TO"], rows.collect())
        }
        ("OidcProviders", Value::Array(_)) => {
            let rows = list(report, name).iter().map(|provider| {
                let keys = provider.get("JwksUrl").map_or("kept here", |url| url.as_str().unwrap_or("-"));
                [
                    cell(provider, "Arn"),
                    joined(provider, "ClientIDList"),
                    joined(provider, "Algorithms"),
                    keys.to_owned(),
                ]
            });
            table(out, ["PROVIDER", "CLIENT IDS", "ALGORITHMS", "KEYS"], rows.collect())
        }
        ("Services", Value::Array(_)) => {
            let rows = list(report, name).iter().map(|service| {
                let managed = cell(service, "ManagedKey");
                [cell(service, "ServiceName"), cell(service, "Account"), managed, joined(service, "MayActFor")]
            });
            table(out, ["SERVICE", "ACCOUNT", "ALIAS/AWS/", "MAY ACT FOR"], rows.collect())
        }
        ("AccessKeys", Value::Array(_)) => {
            let rows = list(report, name).iter().map(|key| {
                let used = key.get("AccessKeyLastUsed").map_or_else(|| "never".to_owned(), last_used);
                [cell(key, "AccessKeyId"), cell(key, "Owner"), cell(key, "Status"), cell(key, "CreateDate"), used]
            });
            table(out, ["ACCESS KEY ID", "OWNER", "STATUS", "CREATED", "LAST USED"], rows.collect())
        }
        (_, one) => tree(out, one, 0),
    }
}

fn done(out: &mut dyn Write, changes: &[Value]) -> io::Result<()> {
    if changes.is_empty() {
        return writeln!(out, "nothing to change");
    }
    for change in changes {
        let name = cell(change, if change.get("Arn").is_some() { "Arn" } else { "Name" });
        let past = match change.get("Action").and_then(Value::as_str) {
            Some("create") => "created",
            Some("delete") => "deleted",
            _ => "changed",
        };
        write!(out, "{past} {} {name}", cell(change, "Kind"))?;
        if let Some(members) = change.get("Changed").and_then(Value::as_object) {
            let names: Vec<&str> = members.keys().map(String::as_str).collect();
            write!(out, ": {}", names.join(", "))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn last_used(used: &Value) -> String {
    format!("{} {} {}", cell(used, "LastUsedDate"), cell(used, "ServiceName"), cell(used, "Region"))
}

fn policies(identity: &Value) -> String {
    let attached = list(identity, "AttachedPolicies").iter().filter_map(Value::as_str);
    let inline = identity.get("InlinePolicies").and_then(Value::as_object);
    let names = attached
        .filter_map(|arn| arn.rsplit('/').next())
        .chain(inline.into_iter().flat_map(|inline| inline.keys()).map(String::as_str));
    or_dash(names.collect::<Vec<_>>().join(","))
}

fn scps(target: &Value) -> String {
    let names = list(target, "ServiceControlPolicies").iter().filter_map(Value::as_str);
    or_dash(names.filter_map(|arn| arn.rsplit('/').next()).collect::<Vec<_>>().join(","))
}

fn joined(value: &Value, member: &str) -> String {
    or_dash(list(value, member).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","))
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}
