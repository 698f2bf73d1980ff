//! A difference for people: what is made, what changes in it, what goes.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::Value;

use crate::ids::AccountId;

/// Ids and times, which nobody wished for.
const GIVEN: [&str; 11] = [
    "UserId",
    "GroupId",
    "RoleId",
    "PolicyId",
    "ServiceId",
    "Arn",
    "CreateDate",
    "UpdateDate",
    "RootEnabled",
    "UserName",
    "GroupName",
];
const NAMES: [&str; 6] = ["RoleName", "PolicyName", "ServiceName", "Id", "Account", "PrincipalIds"];

pub fn show(out: &mut dyn Write, changes: &[Value], own: &AccountId) -> io::Result<()> {
    if changes.is_empty() {
        return writeln!(out, "nothing to change");
    }
    let mut counts = [0; 3];
    for change in changes {
        let title = title(change, own);
        match change.get("Action").and_then(Value::as_str) {
            Some("create") => {
                counts[0] += 1;
                writeln!(out, "+ {title}")?;
                members(out, change)?;
            }
            Some("delete") => {
                counts[2] += 1;
                writeln!(out, "- {title}")?;
            }
            _ => {
                counts[1] += 1;
                changed(out, &title, change)?;
            }
        }
    }
    let [created, updated, deleted] = counts;
    writeln!(out, "\n{created} to create, {updated} to change, {deleted} to delete")
}

/// `user/alice`, with its account where that is another one.
fn title(change: &Value, own: &AccountId) -> String {
    let text = |name: &str| change.get(name).and_then(Value::as_str).unwrap_or_default();
    let (kind, arn) = (text("Kind"), text("Arn"));
    let account = arn.split(':').nth(4).unwrap_or_default();
    let elsewhere = !matches!(account, "" | "aws") && account != own.as_str();
    let organisation = arn.starts_with("arn:aws:organizations:");
    let name = match (kind, text("Name")) {
        ("policy", name) => name.split_once("policy/").map_or(name, |(_, path)| path),
        ("oidc-provider", name) => name.split_once("oidc-provider/").map_or(name, |(_, url)| url),
        (_, name) => name,
    };
    let name = name.strip_prefix("service_control_policy/").unwrap_or(name);
    let kind = if organisation { "service-control-policy" } else { kind };
    match elsewhere {
        true => format!("{kind}/{name} in {account}"),
        false => format!("{kind}/{name}"),
    }
}

fn members(out: &mut dyn Write, change: &Value) -> io::Result<()> {
    let Some(entity) = change.get("Entity").and_then(Value::as_object) else { return Ok(()) };
    for (name, value) in entity {
        if GIVEN.contains(&name.as_str()) || NAMES.contains(&name.as_str()) || is_nothing(value) {
            continue;
        }
        lines(out, &word(name), '+', value)?;
    }
    Ok(())
}

fn changed(out: &mut dyn Write, title: &str, change: &Value) -> io::Result<()> {
    let Some(members) = change.get("Changed").and_then(Value::as_object) else { return Ok(()) };
    let members: Vec<(&String, &Value)> = members.iter().filter(|(name, _)| *name != "UpdateDate").collect();
    let words: BTreeSet<String> = members.iter().map(|(name, _)| word(name)).collect();
    writeln!(out, "~ {title} ({})", words.into_iter().collect::<Vec<_>>().join(", "))?;
    for (name, sides) in members {
        let (from, to) = (sides.get("From").unwrap_or(&Value::Null), sides.get("To").unwrap_or(&Value::Null));
        compare(out, name, from, to)?;
    }
    Ok(())
}

fn compare(out: &mut dyn Write, name: &str, from: &Value, to: &Value) -> io::Result<()> {
    match (from, to) {
        // Each inline policy by itself, each entry of a list by itself.
        (Value::Object(before), Value::Object(after)) if name == "InlinePolicies" => {
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for policy in names {
                let (from, to) = (before.get(policy), after.get(policy));
                if from != to {
                    let name = format!("inline policy {policy}");
                    document(out, &name, from.unwrap_or(&Value::Null), to.unwrap_or(&Value::Null))?;
                }
            }
            Ok(())
        }
        (Value::Array(before), Value::Array(after)) => {
            for gone in before.iter().filter(|item| !after.contains(item)) {
                lines(out, &word(name), '-', gone)?;
            }
            for new in after.iter().filter(|item| !before.contains(item)) {
                lines(out, &word(name), '+', new)?;
            }
            Ok(())
        }
        _ => document(out, &word(name), from, to),
    }
}

/// Lines that both have are shown as they are, so that the others have a place.
fn document(out: &mut dyn Write, name: &str, from: &Value, to: &Value) -> io::Result<()> {
    let (Value::Object(_), Value::Object(_)) = (from, to) else {
        if !is_nothing(from) {
            lines(out, name, '-', from)?;
        }
        if !is_nothing(to) {
            lines(out, name, '+', to)?;
        }
        return Ok(());
    };
    writeln!(out, "    {name}:")?;
    let (before, after) = (pretty(from), pretty(to));
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    for (sign, line) in unified(&before, &after) {
        writeln!(out, "    {sign} {line}")?;
    }
    Ok(())
}

fn lines(out: &mut dyn Write, name: &str, sign: char, value: &Value) -> io::Result<()> {
    let text = match value {
        Value::String(text) => text.clone(),
        // Key and value of a tag.
        Value::Object(tag) if tag.len() == 2 && tag.contains_key("Key") && tag.contains_key("Value") => {
            let part = |name: &str| tag.get(name).and_then(Value::as_str).unwrap_or_default();
            format!("{}={}", part("Key"), part("Value"))
        }
        Value::Array(items) => {
            return items.iter().try_for_each(|item| lines(out, name, sign, item));
        }
        Value::Object(_) => pretty(value),
        other => other.to_string(),
    };
    let mut parts = text.lines();
    writeln!(out, "    {sign} {name}: {}", parts.next().unwrap_or_default())?;
    parts.try_for_each(|line| writeln!(out, "    {sign} {line}"))
}

/// The longest common subsequence, by the table: documents have hundreds of lines at most. Larger ones are told whole.
fn unified<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<(char, &'a str)> {
    const MOST: usize = 4_000_000;
    if before.len().saturating_mul(after.len()) > MOST {
        return before.iter().map(|line| ('-', *line)).chain(after.iter().map(|line| ('+', *line))).collect();
    }
    // rows.get(i).get(j): how many lines the rests from i and j have in common.
    let mut rows: Vec<Vec<u32>> = vec![vec![0; after.len() + 1]];
    for old in before.iter().rev() {
        let below = rows.last().cloned().unwrap_or_default();
        let mut row = vec![0; after.len() + 1];
        for (j, new) in after.iter().enumerate().rev() {
            let at = |row: &[u32], j: usize| row.get(j).copied().unwrap_or_default();
            let best = if old == new { at(&below, j + 1) + 1 } else { at(&below, j).max(at(&row, j + 1)) };
            if let Some(cell) = row.get_mut(j) {
                *cell = best;
            }
        }
        rows.push(row);
    }
    rows.reverse();
    let common = |i: usize, j: usize| rows.get(i).and_then(|row| row.get(j)).copied().unwrap_or_default();
    let (mut i, mut j, mut told) = (0, 0, Vec::new());
    loop {
        match (before.get(i), after.get(j)) {
            (Some(old), Some(new)) if old == new => {
                told.push((' ', *old));
                (i, j) = (i + 1, j + 1);
            }
            (Some(old), new) if new.is_none() || common(i + 1, j) >= common(i, j + 1) => {
                told.push(('-', *old));
                i += 1;
            }
            (_, Some(new)) => {
                told.push(('+', *new));
                j += 1;
            }
            (_, None) => return told,
        }
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

fn word(member: &str) -> String {
    match member {
        "AssumeRolePolicyDocument" => "trust policy",
        "PrincipalIds" => "trusted principals",
        "PolicyDocument" => "document",
        "AttachedPolicies" => "attached policies",
        "InlinePolicies" => "inline policies",
        "PermissionsBoundary" => "permissions boundary",
        "MaxSessionDuration" => "longest session",
        "ServiceControlPolicies" => "organisation policies",
        "ClientIDList" => "client ids",
        "Jwks" => "keys",
        "JwksUrl" => "URL of the keys",
        "JwksCa" => "authority for the keys",
        "ManagedKey" => "managed key",
        "MayActFor" => "may act for",
        "AccessKeyId" => "access key",
        other => return other.to_lowercase(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests;
