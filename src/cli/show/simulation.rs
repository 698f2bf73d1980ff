//! What `policy simulate` found out.

use std::io::{self, Write};

use serde_json::Value;

use super::{cell, list, table};

pub fn report(out: &mut dyn Write, report: &Value) -> io::Result<()> {
    match (report.get("allowed"), report.get("denyType").and_then(Value::as_str)) {
        (Some(Value::Bool(true)), _) => writeln!(out, "allowed")?,
        (_, Some(how)) => writeln!(out, "denied ({how})")?,
        _ => writeln!(out, "denied")?,
    }
    writeln!(out, "{}", decided_by(report))?;
    if let Some(message) = report.get("message").and_then(Value::as_str) {
        writeln!(out, "{message}")?;
    }
    match list(report, "checks") {
        [] => check(out, report),
        checks => checks.iter().try_for_each(|one| check(out, one)),
    }
}

fn decided_by(report: &Value) -> String {
    let mut text = format!("decided by {}", cell(report, "decidedBy"));
    if let Some(statement) = report.get("statement").filter(|s| s.is_object()) {
        let place = cell(statement, "index");
        let named = match statement.get("sid").and_then(Value::as_str) {
            Some(sid) => format!("statement {place} (`{sid}`)"),
            None => format!("statement {place}"),
        };
        text.push_str(&format!(": {named} of {} `{}`", cell(statement, "kind"), cell(statement, "policy")));
    }
    if let Some(grant) = report.get("grant").and_then(Value::as_str) {
        text.push_str(&format!(": grant {grant}"));
    }
    text
}

fn check(out: &mut dyn Write, report: &Value) -> io::Result<()> {
    writeln!(out, "\n{} on {}", cell(report, "action"), cell(report, "resource"))?;
    let mut rows = Vec::new();
    for policy in list(report, "policies") {
        for statement in list(policy, "statements") {
            let applies = statement.get("applies") == Some(&true.into());
            rows.push([
                cell(policy, "kind"),
                cell(policy, "name"),
                format!("{} {}", cell(statement, "index"), cell(statement, "sid")),
                cell(statement, "effect"),
                if applies { "yes" } else { "no" }.to_owned(),
                cell(statement, "why"),
            ]);
        }
    }
    for grant in list(report, "grants") {
        let applies = if grant.get("applies") == Some(&true.into()) { "yes" } else { "no" };
        let none = || "-".to_owned();
        rows.push(["grant".to_owned(), cell(grant, "id"), none(), "Allow".to_owned(), applies.to_owned(), none()]);
    }
    if rows.is_empty() {
        return writeln!(out, "no policy bears on it");
    }
    table(out, ["KIND", "POLICY", "STATEMENT", "EFFECT", "APPLIES", "WHY"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_verdict_comes_first_then_who_decided_then_every_policy() {
        let statement = |sid: &str, applies: bool, why: &str| json!({ "index": 0, "sid": sid, "effect": "Allow", "applies": applies, "why": why });
        let allowed = json!({
            "action": "kms:Decrypt", "resource": "arn:k", "allowed": true, "denyType": null, "decidedBy": "key_policy",
            "statement": { "policy": "default", "kind": "key-policy", "sid": "Use", "index": 0 }, "grant": null,
            "message": null, "grants": [],
            "policies": [
                { "kind": "user-inline", "name": "p", "statements": [statement("A", false, "another action")] },
                { "kind": "key-policy", "name": "default", "statements": [statement("Use", true, "principal: exact")] },
            ],
        });
        let mut out = Vec::new();
        report(&mut out, &allowed).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["allowed", "decided by key_policy: statement 0 (`Use`) of key-policy `default`"]);
        assert_eq!(lines[3], "kms:Decrypt on arn:k");
        assert!(lines[5].starts_with("user-inline") && lines[5].ends_with("no       another action"), "{text}");
        assert!(lines[6].starts_with("key-policy") && lines[6].contains("yes"), "{text}");

        let denied = json!({
            "action": "kms:ListKeys", "resource": "*", "allowed": false, "denyType": "implicit", "decidedBy": "identity",
            "message": "User: x is not authorized", "policies": [], "grants": [],
        });
        let mut out = Vec::new();
        report(&mut out, &denied).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("denied (implicit)\ndecided by identity\nUser: x is not authorized\n"), "{text}");
        assert!(text.ends_with("no policy bears on it\n"));
    }
}
