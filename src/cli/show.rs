//! Answers on the terminal: text for people, JSON for machines.

mod audit;
mod iam;
mod officer;
mod rotation;
mod simulation;

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::app::init::FirstKey;
use crate::ops::{KeyDetails, OperatorResponse};

pub fn response(response: &OperatorResponse, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &plain(response)?)?;
        return writeln!(out);
    }
    match response {
        OperatorResponse::Iam { report } => iam::report(&mut out, report),
        OperatorResponse::AuditReport { report } => audit_report(&mut out, report),
        OperatorResponse::AuditNoted { what } => writeln!(out, "in the log: {what}"),
        OperatorResponse::Simulation { report } => simulation::report(&mut out, report),
        OperatorResponse::KeyCreated { key } => key_details(&mut out, key),
        OperatorResponse::Pruned { plan } => pruned(&mut out, plan),
        OperatorResponse::Keys { keys } => {
            let rows = keys.iter().map(|k| {
                [
                    k.key_id.clone(),
                    k.spec.clone(),
                    k.usage.clone(),
                    k.state.clone(),
                    k.aliases.join(","),
                    k.description.clone(),
                ]
            });
            table(&mut out, ["KEY ID", "SPEC", "USAGE", "STATE", "ALIASES", "DESCRIPTION"], rows.collect())
        }
        OperatorResponse::Key { key } => key_details(&mut out, key),
        OperatorResponse::AccessKeyCreated { id, secret, owner } => {
            writeln!(out, "access key id      {id}")?;
            writeln!(out, "secret access key  {}", secret.0.expose())?;
            writeln!(out, "owner              {owner}")?;
            writeln!(out, "The secret is not shown again.")
        }
        OperatorResponse::AccessKeys { keys } => {
            let rows = keys.iter().map(|k| [k.id.to_string(), k.owner.clone(), k.status.clone(), k.created.clone()]);
            table(&mut out, ["ACCESS KEY ID", "OWNER", "STATUS", "CREATED"], rows.collect())
        }
        OperatorResponse::AccessKeyDisabled { id } => writeln!(out, "{id} is disabled"),
        OperatorResponse::Backup { facts } => writeln!(
            out,
            "backed up version {} ({} keys, {} aliases, {} bytes) to {}",
            facts.version,
            facts.keys,
            facts.aliases,
            facts.bytes,
            facts.path.display()
        ),
        OperatorResponse::Restored { facts } => {
            let (path, keys, aliases) = (facts.path.display(), facts.keys, facts.aliases);
            writeln!(out, "restored version {} ({keys} keys, {aliases} aliases) from {path}", facts.version)?;
            writeln!(
                out,
                "Identities, policies, grants and access keys are those of the backup: what was deleted, revoked or disabled \
                 since is valid again. All sessions have ended."
            )
        }
        OperatorResponse::Doctor { report } | OperatorResponse::AuditKeys { report } => tree(&mut out, report, 0),
        OperatorResponse::Sweeper { status } => {
            writeln!(out, "keys pending deletion  {}", status.pending_deletions)?;
            match &status.stopped_because {
                None => writeln!(out, "deletions              are carried out when their window has passed"),
                Some(why) => writeln!(out, "deletions              wait: {why}"),
            }
        }
        OperatorResponse::Tokens { tokens } => officer::tokens(&mut out, tokens),
        OperatorResponse::AuditHash { hash } => writeln!(out, "{hash}"),
        OperatorResponse::AuditMade { made } => audit::made(&mut out, made),
        OperatorResponse::Reconciliation { report } => officer::reconciliation(&mut out, report),
        OperatorResponse::PinChanged { token } => {
            writeln!(out, "token {token}: the new PIN works and is used from now on")
        }
        OperatorResponse::PinMarksRemoved { token, removed } => {
            writeln!(out, "token {token}: {removed} marks of tried PINs are removed, each may be tried once more")
        }
        OperatorResponse::TokenReplaced { token, serial, keys_checked } => {
            writeln!(out, "token {token} is now the one with serial {serial}: {keys_checked} keys were checked on it")
        }
        OperatorResponse::Adopted { key } => key_details(&mut out, key),
        OperatorResponse::Attestation { statement, signature, public_key, algorithm } => {
            writeln!(out, "{statement}\n\nsignature ({algorithm}, base64)\n{signature}\n\n{}", public_key.trim_end())
        }
        OperatorResponse::Aliases { aliases } => rotation::aliases(&mut out, aliases),
        OperatorResponse::AliasHistory { alias, entries } => rotation::history(&mut out, alias.as_str(), entries),
        OperatorResponse::AliasHistoryDropped { alias, key } => {
            writeln!(out, "Decrypt by {alias} refuses {key} from now on")
        }
        OperatorResponse::Rotated { done } => rotation::done(&mut out, done),
        OperatorResponse::RotationPlan { plan } => rotation::plan(&mut out, plan),
        OperatorResponse::RotationReport { report } => rotation::report(&mut out, report),
        OperatorResponse::Retired { scheduled, refused } => rotation::retired(&mut out, scheduled, refused),
    }
}

pub fn first_key(config: &Path, key: &FirstKey, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let value = json!({ "config": config, "accessKeyId": key.id, "secretAccessKey": key.secret.expose() });
        return writeln!(out, "{value}");
    }
    writeln!(out, "The instance is made. Configuration: {}", config.display())?;
    writeln!(out, "Root user's access key, the secret is not shown again:")?;
    writeln!(out, "  AWS_ACCESS_KEY_ID={}", key.id)?;
    writeln!(out, "  AWS_SECRET_ACCESS_KEY={}", key.secret.expose())
}

/// Files of the audit log that went, or would go.
fn pruned(out: &mut dyn Write, plan: &Value) -> io::Result<()> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let gone = plan.get("gone").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let done = if plan.get("dryRun").and_then(Value::as_bool) == Some(true) { "would go" } else { "deleted" };
    for file in gone {
        writeln!(out, "{:7}  {}", text(file, "why"), text(file, "name"))?;
    }
    for why in plan.get("kept").and_then(Value::as_array).into_iter().flatten() {
        writeln!(out, "kept     {}", why.as_str().unwrap_or_default())?;
    }
    let begins = plan.get("journalBegins").and_then(Value::as_u64).unwrap_or(0);
    writeln!(out, "{} files {done}; the journal begins with record {begins}", gone.len())
}

/// What a machine reads: the answer's own member, without the envelope of the socket.
fn plain(response: &OperatorResponse) -> io::Result<Value> {
    Ok(match response {
        OperatorResponse::Pruned { plan } => plan.clone(),
        OperatorResponse::Iam { report }
        | OperatorResponse::Simulation { report }
        | OperatorResponse::AuditReport { report } => report.clone(),
        OperatorResponse::AuditNoted { what } => json!({ "recorded": what }),
        OperatorResponse::KeyCreated { key } => serde_json::to_value(key)?,
        OperatorResponse::Keys { keys } => json!({ "keys": keys }),
        OperatorResponse::Key { key } => serde_json::to_value(key)?,
        OperatorResponse::AccessKeyCreated { id, secret, owner } => {
            json!({ "accessKeyId": id, "secretAccessKey": secret.0.expose(), "owner": owner })
        }
        OperatorResponse::AccessKeys { keys } => json!({ "accessKeys": keys }),
        OperatorResponse::AccessKeyDisabled { id } => json!({ "accessKeyId": id, "status": "Inactive" }),
        OperatorResponse::Backup { facts } | OperatorResponse::Restored { facts } => serde_json::to_value(facts)?,
        OperatorResponse::Doctor { report } | OperatorResponse::AuditKeys { report } => report.clone(),
        OperatorResponse::Sweeper { status } => serde_json::to_value(status)?,
        OperatorResponse::Tokens { tokens } => json!({ "tokens": tokens }),
        OperatorResponse::AuditHash { hash } => json!({ "hash": hash }),
        OperatorResponse::AuditMade { made } => made.clone(),
        OperatorResponse::Reconciliation { report } | OperatorResponse::RotationReport { report } => report.clone(),
        OperatorResponse::RotationPlan { plan } => plan.clone(),
        OperatorResponse::PinChanged { token } => json!({ "token": token, "pin": "changed" }),
        OperatorResponse::PinMarksRemoved { token, removed } => json!({ "token": token, "marksRemoved": removed }),
        OperatorResponse::TokenReplaced { token, serial, keys_checked } => {
            json!({ "token": token, "serial": serial, "keysChecked": keys_checked })
        }
        OperatorResponse::Adopted { key } => serde_json::to_value(key)?,
        OperatorResponse::Attestation { statement, signature, public_key, algorithm } => {
            json!({ "statement": statement, "signature": signature, "publicKey": public_key, "algorithm": algorithm })
        }
        OperatorResponse::Aliases { aliases } => json!({ "aliases": aliases }),
        OperatorResponse::AliasHistory { alias, entries } => json!({ "alias": alias, "history": entries }),
        OperatorResponse::AliasHistoryDropped { alias, key } => json!({ "alias": alias, "dropped": key }),
        OperatorResponse::Rotated { done } => serde_json::to_value(done)?,
        OperatorResponse::Retired { scheduled, refused } => json!({ "scheduled": scheduled, "refused": refused }),
    })
}

fn key_details(out: &mut dyn Write, key: &KeyDetails) -> io::Result<()> {
    let line = &key.line;
    for (name, value) in [
        ("key id", line.key_id.as_str()),
        ("ARN", &line.arn),
        ("spec", &line.spec),
        ("usage", &line.usage),
        ("state", &line.state),
        ("created", &key.created),
        ("description", &line.description),
    ] {
        writeln!(out, "{name:<20} {value}")?;
    }
    if let Some(date) = &key.deletion_date {
        writeln!(out, "{:<20} {date}", "deletion date")?;
    }
    writeln!(out, "{:<20} {}", "aliases", line.aliases.join(", "))?;
    for (name, value) in &key.tags {
        writeln!(out, "{:<20} {name} = {value}", "tag")?;
    }
    if let (Some(reserved), Some(limit)) = (key.gcm_reserved, key.gcm_limit) {
        #[allow(clippy::cast_precision_loss)]
        let share = 100.0 * reserved as f64 / limit as f64;
        writeln!(out, "{:<20} {reserved} of {limit} set aside ({share:.4} %)", "encryptions")?;
    }
    if key.grants > 0 {
        writeln!(out, "{:<20} {}", "grants", key.grants)?;
    }
    for material in &key.materials {
        writeln!(out, "{:<20} generation {}, material id {}", "material", material.generation, material.material_id)?;
        writeln!(out, "{:<20} CKA_ID {}, CKA_LABEL {}", "", material.cka_id, material.cka_label)?;
        writeln!(out, "{:<20} {}", "", material.evidence)?;
        if !material.missing_from.is_empty() {
            let (held, missing) = (material.held_by.join(", "), material.missing_from.join(", "));
            writeln!(out, "{:<20} unreplicated: on {held}; not known to be on {missing}", "")?;
        }
    }
    writeln!(out, "policy (version {}):\n{}", key.policy_version, key.policy)?;
    if let Some(pem) = &key.public_key {
        write!(out, "{pem}")?;
    }
    Ok(())
}

fn table<const N: usize>(out: &mut dyn Write, head: [&str; N], rows: Vec<[String; N]>) -> io::Result<()> {
    let mut widths = head.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())
    };
    line(&mut head.into_iter())?;
    for row in &rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// A JSON value as indented lines.
fn audit_report(out: &mut dyn Write, report: &Value) -> io::Result<()> {
    let text = |name: &str| report.get(name).map(scalar).unwrap_or_default();
    writeln!(out, "{}  the log that the report was made from", text("verdict"))?;
    writeln!(out, "report    {} {} ({})", text("number"), text("report"), text("reportId"))?;
    writeln!(out, "rows      {}", text("rows"))?;
    writeln!(out, "records   {} to {}", text("firstSeq"), text("lastSeq"))?;
    let files = report.get("files").and_then(Value::as_array).into_iter().flatten();
    for file in files.filter_map(|file| file.get("name")) {
        writeln!(out, "file      {}/{}", text("out"), scalar(file))?;
    }
    for note in report.get("notes").and_then(Value::as_array).into_iter().flatten() {
        writeln!(out, "note: {}", scalar(note))?;
    }
    Ok(())
}

fn tree(out: &mut dyn Write, value: &Value, depth: usize) -> io::Result<()> {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        writeln!(out, "{indent}{name}:")?;
                        tree(out, value, depth + 1)?;
                    }
                    Value::Array(list) if list.iter().all(|v| !v.is_object() && !v.is_array()) => {
                        let texts: Vec<String> = list.iter().map(scalar).collect();
                        writeln!(
                            out,
                            "{indent}{name}: {}",
                            if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
                        )?;
                    }
                    Value::Array(list) => {
                        writeln!(out, "{indent}{name}:")?;
                        for (place, item) in list.iter().enumerate() {
                            if place > 0 {
                                writeln!(out)?;
                            }
                            tree(out, item, depth + 1)?;
                        }
                    }
                    _ => writeln!(out, "{indent}{name}: {}", scalar(value))?,
                }
            }
            Ok(())
        }
        _ => writeln!(out, "{indent}{}", scalar(value)),
    }
}

/// A member as a cell of a table; what is absent or null is `-`.
fn cell(value: &Value, member: &str) -> String {
    value.get(member).map_or_else(|| "-".to_owned(), scalar)
}

fn list<'a>(value: &'a Value, member: &str) -> &'a [Value] {
    value.get(member).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
