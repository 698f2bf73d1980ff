//! Aliases, their history, and rotations.

use std::io::{self, Write};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{cell, list, scalar, table};
use crate::ops::RotationDone;

pub fn aliases(out: &mut dyn Write, aliases: &[Value]) -> io::Result<()> {
    let rows = aliases.iter().map(|a| {
        ["alias", "keyId", "keyState", "keyAgeDays", "updated", "historyEntries"].map(|member| cell(a, member))
    });
    table(out, ["ALIAS", "KEY ID", "KEY STATE", "KEY AGE (DAYS)", "UPDATED", "EARLIER KEYS"], rows.collect())
}

/// Oldest first; the last line is where it points now.
pub fn history(out: &mut dyn Write, alias: &str, entries: &[Value]) -> io::Result<()> {
    writeln!(out, "{alias}")?;
    let rows = entries.iter().map(|entry| {
        let now = entry.get("until").is_none_or(Value::is_null);
        let until = if now { "now".to_owned() } else { cell(entry, "until") };
        let [from, key, state, ended_by, dropped] =
            ["from", "keyId", "keyState", "endedBy", "dropped"].map(|member| cell(entry, member));
        [from, until, key, state, ended_by, dropped]
    });
    table(out, ["FROM", "UNTIL", "KEY ID", "KEY STATE", "ENDED BY", "DROPPED"], rows.collect())
}

pub fn done(out: &mut dyn Write, done: &RotationDone) -> io::Result<()> {
    let aliases: Vec<&str> = done.aliases.iter().map(|alias| alias.as_str()).collect();
    let at = OffsetDateTime::from_unix_timestamp(done.at.div_euclid(1000)).ok().and_then(|at| at.format(&Rfc3339).ok());
    for (name, value) in [
        ("rotated", aliases.join(", ")),
        ("old key", done.old_key_arn.clone()),
        ("new key", done.new_key_arn.clone()),
        ("at", at.unwrap_or_else(|| done.at.to_string())),
    ] {
        writeln!(out, "{name:<8} {value}")?;
    }
    Ok(())
}

pub fn plan(out: &mut dyn Write, plan: &Value) -> io::Result<()> {
    let (old, new) = (member(plan, "oldKey"), member(plan, "newKey"));
    let encryptions = match plan.get("encryptionsUnderOldKey").filter(|e| e.is_object()) {
        Some(e) => format!("{} of {} set aside", cell(e, "setAside"), cell(e, "limit")),
        None => "-".to_owned(),
    };
    let others: Vec<String> = list(plan, "aliasesThatStayAtOldKey").iter().map(scalar).collect();
    let mut lines = vec![
        ("alias", cell(plan, "alias")),
        ("old key", format!("{} ({}, {})", cell(old, "keyId"), cell(old, "spec"), cell(old, "state"))),
        ("age", format!("{} days, created {}", cell(old, "ageDays"), cell(old, "created"))),
        ("encryptions", encryptions),
        ("new key", format!("{}, {}, key store {}", cell(new, "spec"), cell(new, "usage"), cell(new, "keyStore"))),
        (
            "copied",
            format!(
                "policy ({} bytes), {} tags, description `{}`",
                cell(new, "policyBytesCopied"),
                cell(new, "tagsCopied"),
                cell(new, "description")
            ),
        ),
        ("grants", format!("{} live, {}", cell(plan, "liveGrantsOfOldKey"), grants(plan))),
        ("history", format!("{} earlier keys afterwards", cell(plan, "historyEntriesAfter"))),
    ];
    if !others.is_empty() {
        lines.push(("stay", format!("{} (still point to the old key)", others.join(", "))));
    }
    for (name, value) in lines {
        writeln!(out, "{name:<12} {value}")?;
    }
    let refused = list(plan, "refusedBecause");
    for why in refused {
        writeln!(out, "{:<12} {}", "REFUSED", scalar(why))?;
    }
    if refused.is_empty() {
        writeln!(out, "Nothing was done. Without --plan it would be.")?;
    }
    Ok(())
}

fn member<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&Value::Null)
}

fn grants(plan: &Value) -> String {
    match plan.get("grants").and_then(Value::as_str) {
        Some("carry") => "the new key gets them too".to_owned(),
        Some("leave") => "they stay with the old key".to_owned(),
        _ => "--grants not given".to_owned(),
    }
}

pub fn report(out: &mut dyn Write, report: &Value) -> io::Result<()> {
    let aliases = list(report, "aliases");
    let rows = aliases.iter().map(|alias| {
        let overdue = if alias.get("overdue") == Some(&Value::Bool(true)) { "OVERDUE" } else { "-" };
        let [name, key, state, created, age] =
            ["alias", "keyId", "keyState", "keyCreated", "ageDays"].map(|member| cell(alias, member));
        [name, key, state, created, age, overdue.to_owned()]
    });
    table(out, ["ALIAS", "KEY ID", "KEY STATE", "CREATED", "AGE (DAYS)", "OVERDUE"], rows.collect())?;
    writeln!(out, "\n{} of {} older than {} days", cell(report, "overdue"), aliases.len(), cell(report, "maxAgeDays"))?;

    let mut rows = Vec::new();
    for alias in aliases {
        for key in list(alias, "retired") {
            let row = |last: String, still: String| {
                let [id, state, retired, dropped] =
                    ["keyId", "keyState", "retired", "dropped"].map(|member| cell(key, member));
                [cell(alias, "alias"), id, state, retired, dropped, last, still]
            };
            let last = key.get("lastUse").filter(|used| used.is_object()).map_or_else(|| "-".to_owned(), used);
            let users = list(key, "stillUsedBy");
            rows.push(row(last, users.first().map_or_else(|| "-".to_owned(), used)));
            // One line for each further principal.
            for user in users.iter().skip(1) {
                let mut more: [String; 7] = Default::default();
                let [.., still] = &mut more;
                *still = used(user);
                rows.push(more);
            }
        }
    }
    if !rows.is_empty() {
        writeln!(out, "\nKeys rotated away")?;
        let head = ["ALIAS", "KEY ID", "KEY STATE", "RETIRED", "DROPPED", "LAST USE", "STILL READ BY"];
        table(out, head, rows)?;
    }
    writeln!(out, "\nUses are known since {}.", cell(report, "usesKnownSince"))
}

fn used(last: &Value) -> String {
    format!("{} {} {}", cell(last, "at"), cell(last, "operation"), cell(last, "principal"))
}

pub fn retired(out: &mut dyn Write, scheduled: &[String], refused: &[(String, String)]) -> io::Result<()> {
    if scheduled.is_empty() && refused.is_empty() {
        return writeln!(out, "the alias has no earlier keys");
    }
    let dash = || "-".to_owned();
    let done = scheduled.iter().map(|key| [key.clone(), "deletion scheduled".to_owned(), dash()]);
    let kept = refused.iter().map(|(key, why)| [key.clone(), "kept".to_owned(), why.clone()]);
    table(out, ["KEY", "DONE", "BECAUSE"], done.chain(kept).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(write: impl Fn(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_history_ends_with_now() {
        let entries = [
            json!({"keyId": "k1", "from": "a", "until": "b", "endedBy": "rotate", "dropped": "d", "keyState": "Enabled"}),
            json!({"keyId": "k2", "from": "b", "until": null, "endedBy": null, "dropped": null, "keyState": "Enabled"}),
        ];
        let shown = rendered(|out| history(out, "alias/x", &entries));
        let last: Vec<&str> = shown.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["b", "now", "k2", "Enabled", "-", "-"]);
    }

    #[test]
    fn a_plan_that_would_be_refused_says_so() {
        let mut value = json!({
            "alias": "alias/x", "wouldBeDone": false, "refusedBecause": ["it has live grants"],
            "oldKey": {"keyId": "k", "state": "Enabled", "spec": "SYMMETRIC_DEFAULT", "created": "c", "ageDays": 3},
            "encryptionsUnderOldKey": {"setAside": 7, "limit": 9},
            "newKey": {"spec": "SYMMETRIC_DEFAULT", "usage": "ENCRYPT_DECRYPT", "keyStore": "default",
                "description": "", "policyBytesCopied": 4, "tagsCopied": 1},
            "aliasesThatStayAtOldKey": ["alias/y"], "liveGrantsOfOldKey": 1, "grants": null, "historyEntriesAfter": 2,
        });
        let shown = rendered(|out| plan(out, &value));
        for expected in ["REFUSED      it has live grants", "7 of 9 set aside", "alias/y", "1 live, --grants not given"]
        {
            assert!(shown.contains(expected), "{expected} not in\n{shown}");
        }
        assert!(!shown.contains("Without --plan"));
        value["refusedBecause"] = json!([]);
        assert!(rendered(|out| plan(out, &value)).contains("Without --plan it would be"));
    }

    #[test]
    fn a_report_names_who_still_reads_under_retired_keys() {
        let value = json!({"maxAgeDays": 30, "usesKnownSince": "s", "overdue": 1, "aliases": [{
            "alias": "alias/x", "keyId": "k2", "keyState": "Enabled", "keyCreated": "c", "ageDays": 31, "overdue": true,
            "retired": [{"keyId": "k1", "keyState": "Enabled", "retired": "r", "endedBy": "rotate", "dropped": null,
                "lastUse": {"operation": "Decrypt", "principal": "p1", "at": "t1"},
                "stillUsedBy": [{"operation": "Decrypt", "principal": "p1", "at": "t1"},
                    {"operation": "ReEncrypt", "principal": "p2", "at": "t0"}]}],
        }]});
        let shown = rendered(|out| report(out, &value));
        for expected in ["OVERDUE", "1 of 1 older than 30 days", "t1 Decrypt p1", "t0 ReEncrypt p2", "since s."] {
            assert!(shown.contains(expected), "{expected} not in\n{shown}");
        }
    }

    #[test]
    fn kept_keys_have_their_reason() {
        let shown = rendered(|out| retired(out, &["arn".to_owned()], &[("k".to_owned(), "used today".to_owned())]));
        assert!(shown.contains("deletion scheduled") && shown.contains("used today"), "{shown}");
    }
}
