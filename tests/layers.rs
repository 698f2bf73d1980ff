//! Which part may know which: the table of the design, enforced on the source text. A part is a folder or file of `src/`;
//! `audit::verify` is one of its own, because an auditor must be able to take it alone.
//!
//! The reader below is no Rust parser. It relies on rustfmt's layout, and errs towards reporting too much.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Part → parts that it may use. `ids` and `secret` may be used by all but those of `ALONE`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("main", &["cli", "app", "ops", "audit", "audit::verify", "config"]),
    // `policy test` asks the evaluator itself, which is pure.
    ("cli", &["app", "authz", "client", "ops", "audit", "audit::verify", "config"]),
    // An ordinary API client: it knows nothing of what the service is made of.
    ("client", &[]),
    (
        "app",
        &[
            "config",
            "http",
            "kms",
            "sts",
            "authn",
            "authz",
            // `audit serve` answers from files what the service answers behind its pipeline.
            "cloudtrail",
            "s3",
            "ops",
            "keystore",
            "store",
            "token",
            "audit",
            "audit::verify",
            "report",
            // Keys of OIDC issuers are fetched as any client fetches; what sinks trust is a client's.
            "client",
            "sinks",
        ],
    ),
    ("lib", &[]),
    ("config", &[]),
    ("ids", &[]),
    ("secret", &[]),
    ("http", &["kms", "sts", "cloudtrail", "s3", "authn", "authz", "audit", "ops"]),
    // The fronts' one table turns authn's errors into wire errors too.
    ("kms", &["ops", "authn"]),
    ("sts", &["ops", "authn"]),
    ("cloudtrail", &["ops", "authn"]),
    ("s3", &["ops", "authn"]),
    ("authn", &[]),
    ("authz", &["store", "authn"]),
    ("ops", &["authz", "authn", "store", "keystore"]),
    ("keystore", &["token", "store"]),
    ("store", &[]),
    ("token", &[]),
    // Pure functions over the log's records and a state of `ops`, judged by the evaluator.
    ("report", &["audit", "audit::verify", "ops"]),
    // Copies of the log, over connections of their own.
    ("sinks", &["audit", "client"]),
    ("audit", &["audit::verify"]),
    ("audit::verify", &[]),
];

const FOR_ALL: &[&str] = &["ids", "secret"];

/// Parts that use nothing else of ours at all.
const ALONE: &[&str] = &["ids", "secret", "audit::verify"];

/// Crates that one part keeps to itself.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("cryptoki", &["token"]),
    ("cryptoki_sys", &["token"]),
    ("libloading", &["token"]),
    ("axum", &["http"]),
    ("hyper", &["http", "client"]),
    ("hyper_util", &["http", "client"]),
    ("rusqlite", &["store", "audit"]),
    // The index of the log: a cache beside it.
    ("tokio_rusqlite", &["store", "audit"]),
];

#[test]
fn every_edge_is_in_the_table() {
    let sources = sources();
    let found = violations(&sources);
    assert!(found.is_empty(), "not allowed by the table in tests/layers.rs:\n{}", found.join("\n"));
}

#[test]
fn the_table_names_what_there_is() {
    let parts: BTreeSet<String> = sources().keys().map(|path| part_of(&module_of(path))).collect();
    let known: BTreeSet<&str> = MAY_USE.iter().map(|(part, _)| *part).collect();
    for part in &parts {
        assert!(known.contains(part.as_str()), "`{part}` is a new part: give it a row in the table");
    }
    for (part, used) in MAY_USE {
        for used in *used {
            assert!(known.contains(used), "`{part}` may use `{used}`, which has no row");
        }
    }
    // The reader must have seen real edges: a table over nothing would always pass.
    let edges: BTreeSet<(String, String)> = sources().iter().flat_map(|(path, text)| edges(path, text)).collect();
    for (from, to) in [("kms", "ops"), ("keystore", "token"), ("store", "ids")] {
        assert!(edges.contains(&(from.to_owned(), to.to_owned())), "no edge {from} → {to} was found");
    }
}

#[test]
fn forbidden_edges_are_found() {
    for (path, text, expected) in [
        ("kms/x.rs", "use crate::store::Snapshot;", "kms → store"),
        ("kms/x.rs", "use crate::{ids::KeyId, token::Token};", "kms → token"),
        ("kms/x.rs", "pub(crate) use crate::store as s;", "kms → store"),
        ("kms/x.rs", "fn f(s: &crate::store::Snapshot) {}", "kms → store"),
        ("kms/x.rs", "#[serde(with = \"crate::store::hex\")]", "kms → store"),
        ("kms/x.rs", "use super::super::store::Snapshot;", "kms → store"),
        ("kms/mod.rs", "use super::{ops::Request, token::Token};", "kms → token"),
        ("kms/x.rs", "use crate::{\n    ids::KeyId,\n    token::Token,\n};", "kms → token"),
        ("authn/mod.rs", "use crate::http::Server;", "authn → http"),
        ("http/pipeline.rs", "use crate::store::Snapshot;", "http → store"),
        ("audit/verify/mod.rs", "use crate::ids::KeyId;", "audit::verify → ids"),
        ("ids/spec.rs", "use crate::secret::SecretBytes;", "ids → secret"),
        ("audit/verify/mod.rs", "use super::Journal;", "audit::verify → audit"),
        ("audit/verify/chain.rs", "use super::super::Journal;", "audit::verify → audit"),
        ("token/mod.rs", "use crate::audit::{Journal, verify::Chain};", "token → audit::verify"),
        ("store/mod.rs", "use crate::*;", "store → *"),
        ("cli/mod.rs", "use hsm_bridge::token::Token;", "cli → token"),
        ("ops/mod.rs", "use cryptoki::session::Session;", "`cryptoki`"),
        ("ops/mod.rs", "use cryptoki_sys as raw;", "`cryptoki_sys`"),
        ("app.rs", "let r = axum::Router::new();", "`axum`"),
        ("keystore/mod.rs", "use {tokio_rusqlite::Connection, std::io};", "`tokio_rusqlite`"),
        ("http/mod.rs", "let x = unsafe { f() };", "unsafe"),
        ("brand_new.rs", "use crate::store::X;", "brand_new → store"),
    ] {
        let found = violations(&fake(&[(path, text)])).join("\n");
        assert!(found.contains(expected), "{path}: {text}: {expected:?} not in {found:?}");
    }
    let two = fake(&[("token/a.rs", "unsafe fn a() {}"), ("token/b.rs", "unsafe { b() }")]);
    assert_eq!(violations(&two).len(), 1);
}

#[test]
fn allowed_edges_are_not_reported() {
    for (path, text) in [
        ("kms/x.rs", "use crate::ops::Request;\nuse crate::kms::y::Z;\nuse crate::{ids::{KeyId, Arn}, secret};"),
        ("kms/x.rs", "// crate::store is not for us\n/// See [`crate::store::Snapshot`].\nfn f() {}"),
        ("kms/x.rs", "pub(crate) fn f() {}\npub(in crate::kms) fn g() {}"),
        ("kms/x.rs", "use super::wire::Shape;\nuse super::*;"),
        ("kms/x.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::store::Snapshot;\n}\n"),
        ("audit/verify/chain.rs", "use super::Line;"),
        ("audit/mod.rs", "use crate::audit::verify::Line;\npub mod verify;"),
        ("token/raw.rs", "use cryptoki_sys::CK_RV;\nunsafe { f() }"),
        ("lib.rs", "#![deny(unsafe_code)]"),
        ("http/mod.rs", "use hyper_util::rt::TokioIo;\nuse http::Request;"),
    ] {
        assert_eq!(violations(&fake(&[(path, text)])), Vec::<String>::new(), "{path}: {text}");
    }
    let test_file =
        fake(&[("kms/mod.rs", "#[cfg(test)]\nmod tests;\n"), ("kms/tests.rs", "use crate::store::Snapshot;")]);
    assert_eq!(violations(&test_file), Vec::<String>::new());
}

/// Path below `src/` → text without comments.
type Sources = BTreeMap<PathBuf, String>;

fn sources() -> Sources {
    fn walk(dir: &Path, root: &Path, into: &mut Sources) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                into.insert(path.strip_prefix(root).unwrap().to_owned(), without_comments(&text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Sources::new();
    walk(&root, &root, &mut sources);
    sources
}

fn fake(files: &[(&str, &str)]) -> Sources {
    files.iter().map(|(path, text)| (PathBuf::from(path), without_comments(text))).collect()
}

fn violations(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    let test_files: BTreeSet<PathBuf> = sources.iter().flat_map(|(path, text)| test_files_of(path, text)).collect();
    let mut unsafe_files = Vec::new();
    for (path, text) in sources {
        let shown = format!("src/{}", path.display());
        let part = part_of(&module_of(path));
        for (krate, owners) in ONLY_IN {
            if !owners.contains(&part.as_str())
                && words(text).any(|(at, word)| word == *krate && is_path_start(text, at))
            {
                found.push(format!("{shown}: crate `{krate}` belongs to src/{} alone", owners.join(" and src/")));
            }
        }
        if words(text).any(|(_, word)| word == "unsafe") {
            if part != "token" {
                found.push(format!("{shown}: unsafe stands outside src/token"));
            } else {
                unsafe_files.push(shown.clone());
            }
        }
        if test_files.iter().any(|test| path == test || path.starts_with(test.with_extension(""))) {
            continue;
        }
        for (from, to) in edges(path, text) {
            let row = MAY_USE.iter().find(|(part, _)| *part == from).map_or(&[][..], |(_, used)| used);
            let for_all = FOR_ALL.contains(&to.as_str()) && !ALONE.contains(&from.as_str());
            if from != to && !for_all && !row.contains(&to.as_str()) {
                found.push(format!("{shown}: {from} → {to}"));
            }
        }
    }
    if unsafe_files.len() > 1 {
        found.push(format!("unsafe stands in more than one file of src/token: {}", unsafe_files.join(", ")));
    }
    found
}

/// `src/kms/error.rs` is `["kms", "error"]`; `src/kms/mod.rs` and `src/kms.rs` are `["kms"]`.
fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        path.with_extension("").components().map(|c| c.as_os_str().to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

fn part_of(module: &[String]) -> String {
    match module {
        [audit, verify, ..] if audit == "audit" && verify == "verify" => "audit::verify".to_owned(),
        [first, ..] => first.clone(),
        [] => "lib".to_owned(),
    }
}

/// The parts that a file uses, its own included.
fn edges(path: &Path, text: &str) -> BTreeSet<(String, String)> {
    let text = without_test_items(text);
    let module = module_of(path);
    let from = part_of(&module);
    let mut edges = BTreeSet::new();
    for (at, word) in words(&text) {
        let base = match word {
            "crate" | "hsm_bridge" => Vec::new(),
            "super" if !text[..at].trim_end().ends_with("super::") => module[..module.len() - 1].to_vec(),
            _ => continue,
        };
        for path in use_tree(&text[at + word.len()..]) {
            let mut target = base.clone();
            for segment in path {
                if segment == "super" { drop(target.pop()) } else { target.push(segment) }
            }
            // Names that are not parts (`crate::Macro`, `super::*` inside a part) stay what they are.
            if !target.is_empty() {
                edges.insert((from.clone(), part_of(&target)));
            }
        }
    }
    edges
}

/// The paths of what follows a path's first word: `::a::{b, c::d}` gives `[a, b]` and `[a, c, d]`.
fn use_tree(text: &str) -> Vec<Vec<String>> {
    fn tree<'a>(mut text: &'a str, prefix: &[String], into: &mut Vec<Vec<String>>) -> &'a str {
        let mut path = prefix.to_vec();
        loop {
            text = text.trim_start();
            if let Some(inner) = text.strip_prefix('{') {
                let mut rest = inner;
                loop {
                    rest = tree(rest, &path, into).trim_start();
                    match rest.strip_prefix(',') {
                        Some(more) if !more.trim_start().starts_with('}') => rest = more,
                        Some(more) => return more.trim_start().strip_prefix('}').unwrap_or(more),
                        None => return rest.strip_prefix('}').unwrap_or(rest),
                    }
                }
            }
            let length = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(text.len());
            let (segment, rest) = text.split_at(length);
            if !segment.is_empty() {
                path.push(segment.to_owned());
            }
            match rest.strip_prefix("::") {
                Some(more) if !segment.is_empty() => text = more,
                _ => {
                    into.push(path);
                    // `as name` ends at the next comma or brace.
                    return rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_' || c == ' ');
                }
            }
        }
    }
    let mut paths = Vec::new();
    if let Some(rest) = text.strip_prefix("::") {
        tree(rest, &[], &mut paths);
    }
    paths
}

/// Whether a crate's name stands here as a crate: before `::`, or in `use name;`, `use name as`.
fn is_path_start(text: &str, at: usize) -> bool {
    let before = text[..at].trim_end();
    let after = text[at..].trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
    let own_module = before.ends_with("::") && !before.ends_with("{::") && before.len() > 2;
    !own_module && (after.starts_with("::") || before.ends_with("use") || before.ends_with("extern crate"))
}

/// Identifiers and keywords with their offsets.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = 0;
    std::iter::from_fn(move || {
        let in_word = |c: char| c.is_alphanumeric() || c == '_';
        let start = rest + text[rest..].find(in_word)?;
        let end = text[start..].find(|c| !in_word(c)).map_or(text.len(), |length| start + length);
        rest = end;
        Some((start, &text[start..end]))
    })
}

/// `//` inside a string (`https://…`) is kept by the colon before it.
fn without_comments(text: &str) -> String {
    let code = |line: &str| -> String {
        let mut from = 0;
        while let Some(at) = line[from..].find("//").map(|at| from + at) {
            if !line[..at].ends_with(':') {
                return line[..at].to_owned();
            }
            from = at + 2;
        }
        line.to_owned()
    };
    text.lines().map(|line| code(line) + "\n").collect()
}

/// Drops what stands under `#[cfg(test)]`, which ends where rustfmt puts its closing brace: at the same indentation.
fn without_test_items(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        let closing = line.replace("#[cfg(test)]", "}");
        let mut opened = false;
        for skipped in lines.by_ref() {
            opened |= skipped.trim_end().ends_with('{');
            let ends =
                if opened { skipped.trim_end() == closing } else { skipped.trim_end().ends_with([';', ',', '}']) };
            if ends {
                break;
            }
        }
    }
    kept
}

/// Files that belong to `#[cfg(test)] mod name;`.
fn test_files_of(path: &Path, text: &str) -> Vec<PathBuf> {
    let folder: PathBuf = match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib" | "main") => path.parent().unwrap().to_owned(),
        _ => path.with_extension(""),
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines
        .windows(2)
        .filter(|pair| pair[0] == "#[cfg(test)]")
        .filter_map(|pair| {
            pair[1].strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| folder.join(name.to_owned() + ".rs"))
        })
        .collect()
}
