//! Tokens, and how they agree with the store.

use std::io::{self, Write};

use serde_json::Value;

use super::{cell, list, scalar, table};

pub fn tokens(out: &mut dyn Write, tokens: &[Value]) -> io::Result<()> {
    let rows = tokens.iter().map(|token| {
        let store = token.get("keyStore").filter(|store| store.is_object());
        [
            cell(token, "name"),
            cell(token, "clusterId"),
            serial(token),
            cell(token, "label"),
            cell(token, "status"),
            cell(token, "pin"),
            store.map_or_else(|| "-".to_owned(), |store| format!("{} ({})", cell(store, "id"), cell(store, "name"))),
            cell(token, "keys"),
        ]
    });
    table(out, ["NAME", "CLUSTER ID", "SERIAL", "LABEL", "STATUS", "PIN", "KEY STORE", "KEYS"], rows.collect())?;
    for token in tokens {
        if let (Some(seen), Some(known)) = (text(token, "serial"), text(token, "recordedSerial"))
            && seen != known
        {
            writeln!(out, "token {} has serial {seen}, the known one has {known}", cell(token, "name"))?;
        }
    }
    Ok(())
}

/// The one that is there; else the one that was.
fn serial(token: &Value) -> String {
    text(token, "serial").or_else(|| text(token, "recordedSerial")).unwrap_or("-").to_owned()
}

fn text<'a>(value: &'a Value, member: &str) -> Option<&'a str> {
    value.get(member).and_then(Value::as_str)
}

/// A line per token, then what is wrong, then what is worth to know.
pub fn reconciliation(out: &mut dyn Write, report: &Value) -> io::Result<()> {
    for token in list(report, "tokens") {
        let verdict = if token.get("ok") == Some(&Value::Bool(true)) { "agrees with the store" } else { "DIFFERS" };
        writeln!(
            out,
            "token {} (serial {}): {verdict}; {} objects, {} keys",
            cell(token, "token"),
            cell(token, "serial"),
            cell(token, "objects"),
            cell(token, "keys"),
        )?;
        let mut rows = Vec::new();
        for (name, fault) in token.get("faults").and_then(Value::as_object).into_iter().flatten() {
            found(&mut rows, name, fault);
        }
        let faults = rows.len();
        for name in ["notes", "foreign"] {
            if let Some(entries) = token.get(name) {
                found(&mut rows, name, entries);
            }
        }
        if !rows.is_empty() {
            writeln!(out)?;
            table(out, ["FOUND", "KEY ID", "CKA_ID", "CKA_LABEL", "WHAT"], rows)?;
            writeln!(out)?;
        }
        if faults > 0 {
            writeln!(out, "Nothing was changed: what is wrong is put right by hand, once it is understood.")?;
        }
    }
    for token in list(report, "notCompared") {
        writeln!(
            out,
            "token {} was NOT COMPARED ({} keys): {}",
            cell(token, "token"),
            cell(token, "keys"),
            cell(token, "because")
        )?;
    }
    Ok(())
}

/// Rows of one kind of finding: `{count, listed}`, or a list of texts.
fn found(rows: &mut Vec<[String; 5]>, name: &str, entries: &Value) {
    let kind = words(name);
    let dash = || "-".to_owned();
    let plain = entries.as_array().map(Vec::as_slice).unwrap_or_else(|| list(entries, "listed"));
    for entry in plain {
        rows.push(match entry.is_object() {
            true => {
                let what = if entry.get("what").is_some() { cell(entry, "what") } else { cell(entry, "class") };
                [kind.clone(), cell(entry, "keyId"), cell(entry, "ckaId"), cell(entry, "label"), what]
            }
            false => [kind.clone(), dash(), dash(), dash(), scalar(entry)],
        });
    }
    let count = entries.get("count").and_then(Value::as_u64).unwrap_or(0);
    let more = count.saturating_sub(plain.len() as u64);
    if more > 0 {
        rows.push([kind, dash(), dash(), dash(), format!("and {more} more")]);
    }
}

/// `recordsWithoutObject` as `records without object`.
fn words(name: &str) -> String {
    name.chars().fold(String::new(), |mut text, c| {
        if c.is_ascii_uppercase() {
            text.push(' ');
        }
        text.push(c.to_ascii_lowercase());
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_are_a_table() {
        let shown = rendered(|out| {
            tokens(
                out,
                &[
                    json!({"name": "default", "clusterId": "cluster-a", "recordedSerial": "1", "serial": "1",
                        "label": "l", "status": "ready", "pin": "good", "keyStore": null, "keys": 2}),
                    json!({"name": "payments", "clusterId": "cluster-b", "recordedSerial": "2", "serial": "3",
                        "status": "not connected", "keyStore": {"id": "cks-1", "name": "n"}, "keys": 0}),
                ],
            )
        });
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 4, "{shown}");
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["default", "cluster-a", "1", "l", "ready", "good", "-", "2"]
        );
        assert!(lines[2].contains("cks-1 (n)"), "{shown}");
        assert_eq!(lines[3], "token payments has serial 3, the known one has 2");
    }

    #[test]
    fn differences_are_rows() {
        let shown = rendered(|out| {
            reconciliation(
                out,
                &json!({"ok": false, "notCompared": [{"token": "x", "keys": 3, "because": "it is away"}], "tokens": [{
                    "token": "default", "ok": false, "serial": "1", "objects": 5, "keys": 2,
                    "faults": {
                        "recordsWithoutObject": {"count": 3, "listed": [
                            {"keyId": "k", "ckaId": "aa", "label": "l", "what": "CKO_SECRET_KEY is missing"}]},
                        "duplicateIds": {"count": 0, "listed": []},
                        "systemKeys": ["`hsm-bridge/store-kek`: gone"],
                    },
                    "foreign": {"count": 1, "listed": [{"class": "CKO_CERTIFICATE", "ckaId": "01", "label": "identity"}]},
                }]}),
            )
        });
        for expected in [
            "token default (serial 1): DIFFERS; 5 objects, 2 keys",
            "records without object  k",
            "CKO_SECRET_KEY is missing",
            "and 2 more",
            "`hsm-bridge/store-kek`: gone",
            "CKO_CERTIFICATE",
            "token x was NOT COMPARED (3 keys): it is away",
            "Nothing was changed",
        ] {
            assert!(shown.contains(expected), "{expected} not in\n{shown}");
        }
    }

    fn rendered(write: impl Fn(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }
}
