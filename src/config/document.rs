//! A TOML file whose keys are all known, read value by value. Every complaint names the key, its line and what to write
//! instead; none shows a value that could be a secret. Knows TOML and the list of keys, and not what they mean.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use toml::de::{DeTable, DeValue};

use super::Problem;

/// Every section and its keys. `[[listener]]`, `[[custom_token]]` and `[[audit_sink]]` may stand several times; each
/// `environment` takes keys of any name.
pub(super) const KNOWN: &[(&str, &[&str])] = &[
    ("server", &["state_dir", "account", "region", "accepted_regions"]),
    ("listener", &["address", "certificate", "key"]),
    (
        "http",
        &[
            "danger_plain_http_beyond_loopback",
            "max_body_bytes",
            "max_header_bytes",
            "header_timeout_seconds",
            "body_timeout_seconds",
            "request_timeout_seconds",
            "idle_timeout_seconds",
            "max_connections",
            "drain_seconds",
        ],
    ),
    ("metrics", &["address"]),
    (
        "token",
        &[
            "module",
            "label",
            "serial",
            "model",
            "manufacturer",
            "uri",
            "profile",
            "cluster_id",
            "pin_file",
            "pin_credential",
            "pin_env",
            "pin_marks",
            "workers",
            "queue",
            "deadline_ms",
            "generate_deadline_seconds",
            "retry_first_ms",
            "retry_longest_ms",
            "hang_grace_ms",
            "environment",
            "isolation",
            "worker_command",
            "reads",
            "require_members",
            "member",
        ],
    ),
    (
        "custom_token",
        &[
            "name",
            "module",
            "label",
            "serial",
            "model",
            "manufacturer",
            "uri",
            "profile",
            "cluster_id",
            "user",
            "identity_certificate",
            "workers",
            "queue",
            "deadline_ms",
            "generate_deadline_seconds",
            "environment",
            "isolation",
            "worker_command",
            "reads",
            "require_members",
            "member",
        ],
    ),
    ("key_stores", &["custom_store_key_specs"]),
    ("rotation", &["decrypt_alias_mode", "at_usage", "max_age_days", "retire_unused_days"]),
    ("store", &["recovery_key"]),
    (
        "audit",
        &[
            "dir",
            "trail",
            "segment_bytes",
            "segment_seconds",
            "warn_below_free_percent",
            "reserve_bytes",
            "checkpoint_seconds",
            "seal_seconds",
            "digest_seconds",
            "bucket",
            "key_prefix",
            "retention_days",
            "retention_bytes",
            "retention_floor_days",
            "journal_retention_days",
            "legal_hold",
            "encryption_context",
            "anchor_in_token",
            "timestamp_url",
            "reconcile_seconds",
            "refuse_below_free_percent",
            "deadline_ms",
        ],
    ),
    (
        "audit_sink",
        &[
            "name",
            "kind",
            "address",
            "tls",
            "url",
            "ca",
            "certificate",
            "key",
            "format",
            "secret_file",
            "authorization_file",
            "intents",
            "start",
            "max_message_bytes",
            "enterprise_number",
            "batch_records",
            "batch_bytes",
        ],
    ),
    ("token_log", &["name", "file", "format", "window_seconds"]),
    ("authn", &["debug_signature_errors"]),
    ("authz", &["allow_unknown_accounts", "hide_policy_type", "grants_suffice_cross_account"]),
    ("operator", &["allow"]),
    ("sweeper", &["interval_seconds"]),
    ("limits", &["gcm_encryptions"]),
    ("log", &["format", "level"]),
];

/// Sections that are written `[[name]]`.
const REPEATED: &[&str] = &["listener", "custom_token", "token_log", "audit_sink"];

/// Keys of a section that are `[[section.key]]`, with the keys of each of those.
pub(super) const NESTED: &[(&str, &str, &[&str])] = &[
    (
        "token",
        "member",
        &[
            "name",
            "module",
            "label",
            "serial",
            "model",
            "manufacturer",
            "uri",
            "profile",
            "pin_file",
            "pin_credential",
            "pin_env",
            "environment",
        ],
    ),
    (
        "custom_token",
        "member",
        &["name", "module", "label", "serial", "model", "manufacturer", "uri", "profile", "environment"],
    ),
];

pub(super) struct Document {
    values: toml::Table,
    /// Line of each key, by its path (`http.drain_seconds`, `listener[1].key`).
    lines: BTreeMap<String, usize>,
}

impl Document {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        // The parser's own rendering quotes the line, which may hold what should not be shown: message and line only.
        let syntax = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| line_at(text, span.start));
            Problem::Syntax { line, message: error.message().to_owned() }
        };
        let tree = DeTable::parse(text).map_err(syntax)?;
        let lines = check_keys(text, tree.get_ref())?;
        let values = text.parse::<toml::Table>().map_err(syntax)?;
        Ok(Self { values, lines })
    }

    /// A section that is absent reads as an empty one.
    pub(super) fn section(&self, name: &str) -> Section<'_> {
        Section { document: self, path: name.to_owned(), table: self.values.get(name).and_then(|v| v.as_table()) }
    }

    pub(super) fn sections(&self, name: &str) -> Vec<Section<'_>> {
        let entries = self.values.get(name).and_then(|v| v.as_array());
        entries
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(index, entry)| Section { document: self, path: format!("{name}[{index}]"), table: entry.as_table() })
            .collect()
    }
}

/// One `[section]`.
pub(super) struct Section<'a> {
    document: &'a Document,
    path: String,
    table: Option<&'a toml::Table>,
}

impl<'a> Section<'a> {
    /// Sections below this one, `[[section.name]]`.
    pub(super) fn sections(&self, name: &str) -> Vec<Section<'a>> {
        let entries = self.value(name).and_then(|v| v.as_array());
        entries
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(index, entry)| Section {
                document: self.document,
                path: format!("{}.{name}[{index}]", self.path),
                table: entry.as_table(),
            })
            .collect()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// A complaint about a key of this section, with its line when it is there.
    pub(super) fn problem(&self, key: &str, what: impl Display) -> Problem {
        let key = format!("{}.{key}", self.path);
        let line = self.document.lines.get(&key).copied();
        Problem::Value { key, line, what: what.to_string() }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, Problem> {
        match self.value(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) if text.trim().is_empty() => {
                Err(self.problem(key, "is empty: write a value, or leave the key out"))
            }
            Some(toml::Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(key, "text in quotes", other)),
        }
    }

    pub(super) fn required_text(&self, key: &str) -> Result<&'a str, Problem> {
        self.text(key)?.ok_or_else(|| self.problem(key, "is missing: it has no default"))
    }

    /// A text that some type of ours parses.
    pub(super) fn parsed<T>(&self, key: &str) -> Result<Option<T>, Problem>
    where
        T: FromStr,
        T::Err: Display,
    {
        match self.text(key)? {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|e: T::Err| self.problem(key, e)),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, Problem> {
        match self.value(key) {
            None => Ok(default),
            Some(toml::Value::Boolean(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong_type(key, "`true` or `false`", other)),
        }
    }

    pub(super) fn integer(&self, key: &str, range: RangeInclusive<u64>, default: u64) -> Result<u64, Problem> {
        let (low, high) = (*range.start(), *range.end());
        match self.value(key) {
            None => Ok(default),
            Some(toml::Value::Integer(number)) => u64::try_from(*number)
                .ok()
                .filter(|number| range.contains(number))
                .ok_or_else(|| self.problem(key, format_args!("is `{number}`: write a number from {low} to {high}"))),
            Some(other) => Err(self.wrong_type(key, "a whole number", other)),
        }
    }

    /// A share such as `0.75`, in thousandths.
    pub(super) fn thousandths(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, Problem> {
        let told = |share: f64| share / 1000.0;
        match self.value(key) {
            None => Ok(None),
            Some(toml::Value::Float(share)) => {
                // In range it is a small number; NaN and everything else fails the comparison.
                let rounded = (share * 1000.0).round();
                match range.clone().find(|step| f64::from(*step) == rounded) {
                    Some(step) => Ok(Some(step)),
                    None => Err(self.problem(
                        key,
                        format_args!(
                            "is `{share}`: write a share from {} to {}",
                            told(f64::from(*range.start())),
                            told(f64::from(*range.end()))
                        ),
                    )),
                }
            }
            Some(other) => Err(self.wrong_type(key, "a share such as 0.75", other)),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, Problem> {
        let entries = match self.value(key) {
            None => return Ok(None),
            Some(toml::Value::Array(entries)) => entries,
            Some(other) => return Err(self.wrong_type(key, "a list of texts", other)),
        };
        let text =
            |entry: &'a toml::Value| entry.as_str().ok_or_else(|| self.wrong_type(key, "a list of texts", entry));
        entries.iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// A table of texts under names of the user's own choice.
    pub(super) fn text_map(&self, key: &str) -> Result<BTreeMap<String, String>, Problem> {
        let entries = match self.value(key) {
            None => return Ok(BTreeMap::new()),
            Some(toml::Value::Table(entries)) => entries,
            Some(other) => return Err(self.wrong_type(key, "a table such as { NAME = \"value\" }", other)),
        };
        let mut map = BTreeMap::new();
        for (name, value) in entries {
            let text = value.as_str().ok_or_else(|| self.wrong_type(key, "a table of texts in quotes", value))?;
            map.insert(name.clone(), text.to_owned());
        }
        Ok(map)
    }

    fn value(&self, key: &str) -> Option<&'a toml::Value> {
        self.table.and_then(|table| table.get(key))
    }

    fn wrong_type(&self, key: &str, expected: &str, found: &toml::Value) -> Problem {
        self.problem(key, format_args!("is of type {}: write {expected}", found.type_str()))
    }
}

/// Refuses the first key that is not in `KNOWN`, and returns the lines of all others.
fn check_keys(text: &str, tree: &DeTable<'_>) -> Result<BTreeMap<String, usize>, Problem> {
    let mut lines = BTreeMap::new();
    for (name, value) in tree {
        let section = name.get_ref().as_ref();
        let line = line_at(text, name.span().start);
        let Some((_, keys)) = KNOWN.iter().find(|(known, _)| *known == section) else {
            return Err(unknown_section(text, section, line, value.get_ref()));
        };
        let repeated = REPEATED.contains(&section);
        let tables: Vec<(String, &DeTable<'_>)> = match value.get_ref() {
            DeValue::Table(table) if !repeated => vec![(section.to_owned(), table)],
            DeValue::Array(entries) if repeated && entries.iter().all(|e| e.get_ref().is_table()) => entries
                .iter()
                .enumerate()
                .filter_map(|(index, entry)| Some((format!("{section}[{index}]"), entry.get_ref().as_table()?)))
                .collect(),
            _ => {
                let form = if repeated { format!("[[{section}]]") } else { format!("[{section}]") };
                let what = format!("is a section: write `{form}` and its keys below");
                return Err(Problem::Value { key: section.to_owned(), line: Some(line), what });
            }
        };
        for (path, table) in tables {
            for (key, value) in table {
                let line = line_at(text, key.span().start);
                let full = format!("{path}.{}", key.get_ref());
                if !keys.contains(&key.get_ref().as_ref()) {
                    return Err(unknown(full, line));
                }
                let nested = NESTED.iter().find(|(of, name, _)| *of == section && *name == key.get_ref().as_ref());
                if let Some((_, name, keys)) = nested {
                    check_nested(text, (&full, line), (section, name, keys), value.get_ref(), &mut lines)?;
                }
                lines.insert(full, line);
            }
        }
    }
    Ok(lines)
}

fn check_nested(
    text: &str,
    (full, line): (&str, usize),
    (section, name, keys): (&str, &str, &[&str]),
    value: &DeValue<'_>,
    lines: &mut BTreeMap<String, usize>,
) -> Result<(), Problem> {
    let entries = match value {
        DeValue::Array(entries) if entries.iter().all(|e| e.get_ref().is_table()) => entries,
        _ => {
            let what = format!("is a section: write `[[{section}.{name}]]` and its keys below");
            return Err(Problem::Value { key: full.to_owned(), line: Some(line), what });
        }
    };
    for (index, table) in entries.iter().filter_map(|entry| entry.get_ref().as_table()).enumerate() {
        for key in table.keys() {
            let line = line_at(text, key.span().start);
            let full = format!("{full}[{index}].{}", key.get_ref());
            if !keys.contains(&key.get_ref().as_ref()) {
                return Err(unknown(full, line));
            }
            lines.insert(full, line);
        }
    }
    Ok(())
}

/// Names the first key of an unknown section rather than the section: that finds the nearest known key best.
fn unknown_section(text: &str, section: &str, line: usize, value: &DeValue<'_>) -> Problem {
    let table = match value {
        DeValue::Array(entries) => entries.iter().find_map(|entry| entry.get_ref().as_table()),
        other => other.as_table(),
    };
    match table.and_then(|table| table.keys().min_by_key(|key| key.span().start)) {
        Some(key) => unknown(format!("{section}.{}", key.get_ref()), line_at(text, key.span().start)),
        None => unknown(section.to_owned(), line),
    }
}

fn unknown(key: String, line: usize) -> Problem {
    let last = key.rsplit('.').next().unwrap_or(&key);
    if key.starts_with("custom_token") && (last.contains("pin") || last.contains("password") || last == "secret") {
        let what =
            "is no key of the configuration: the crypto user's password comes with CreateCustomKeyStore and is kept \
                    sealed in the store"
                .to_owned();
        return Problem::Value { key, line: Some(line), what };
    }
    if ["pin", "user_pin", "password", "secret"].contains(&last) {
        return Problem::InlineSecret { key, line };
    }
    let nearest = nearest_key(&key);
    Problem::UnknownKey { key, line, nearest }
}

/// The known key that was probably meant: the same name in another section, else the least edits away.
fn nearest_key(unknown: &str) -> String {
    let plain: String = unknown.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect();
    let last = plain.rsplit('.').next().unwrap_or(&plain);
    let paths = KNOWN.iter().flat_map(|(section, keys)| keys.iter().map(move |key| (*key, format!("{section}.{key}"))));
    let nested = NESTED
        .iter()
        .filter(|(section, name, _)| plain.starts_with(&format!("{section}.{name}.")))
        .flat_map(|(section, name, keys)| keys.iter().map(move |key| (*key, format!("{section}.{name}.{key}"))));
    let sections = KNOWN.iter().map(|(section, _)| ("", (*section).to_owned())).filter(|_| !plain.contains('.'));
    // The nearest one first: of two that are as near, the first is taken.
    nested
        .chain(paths)
        .chain(sections)
        .min_by_key(|(key, path)| (*key != last, strsim::damerau_levenshtein(path, &plain)))
        .map(|(_, path)| path)
        .unwrap_or_default()
}

/// The nearest of some words, for values that come from a fixed list.
pub(super) fn nearest_word<'a>(word: &str, known: &[&'a str]) -> &'a str {
    known.iter().copied().min_by_key(|candidate| strsim::damerau_levenshtein(candidate, word)).unwrap_or_default()
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        match Document::parse(text) {
            Ok(_) => panic!("accepted: {text}"),
            Err(problem) => problem.to_string(),
        }
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_named() {
        for (text, expected) in [
            ("\n[tokn]\nlabel = 'x'\n", "unknown key `tokn.label` at line 3: did you mean `token.label`?"),
            ("[token]\nlable = 'x'\n", "unknown key `token.lable` at line 2: did you mean `token.label`?"),
            ("[http]\ndrain_secs = 3\n", "unknown key `http.drain_secs` at line 2: did you mean `http.drain_seconds`?"),
            (
                "[[listener]]\nadress = 'x'\n",
                "unknown key `listener[0].adress` at line 2: did you mean `listener.address`?",
            ),
            ("state_dir = 'x'\n", "unknown key `state_dir` at line 1: did you mean `server.state_dir`?"),
            ("[server]\npin_file = 'x'\n", "unknown key `server.pin_file` at line 2: did you mean `token.pin_file`?"),
            ("[servers]\n", "unknown key `servers` at line 1: did you mean `server`?"),
            ("[[listeners]]\nkey = 'x'\n", "unknown key `listeners.key` at line 2: did you mean `listener.key`?"),
        ] {
            assert_eq!(refusal(text), expected);
        }
    }

    #[test]
    fn a_secret_in_the_file_is_refused_and_not_shown() {
        let shown = refusal("[token]\npin = 'canary'\n");
        assert!(shown.contains("token.pin_file") && !shown.contains("canary"), "{shown}");
        let shown = refusal("[token]\npin = 'canary\n");
        assert!(shown.contains("line 2") && !shown.contains("canary"), "{shown}");
    }

    #[test]
    fn passwords_of_custom_key_stores_come_with_the_api() {
        for key in ["pin", "pin_file", "pin_env", "pin_credential", "password", "secret"] {
            let shown = refusal(&format!("[[custom_token]]\nname = 'x'\n{key} = 'canary'\n"));
            assert!(shown.starts_with(&format!("`custom_token[0].{key}` at line 3 is no key")), "{shown}");
            assert!(shown.contains("CreateCustomKeyStore") && !shown.contains("canary"), "{shown}");
        }
    }

    #[test]
    fn nested_sections_have_their_own_keys() {
        for (text, expected) in [
            (
                "[[token.member]]\nlable = 'x'\n",
                "unknown key `token.member[0].lable` at line 2: did you mean `token.member.label`?",
            ),
            (
                "[[custom_token]]\nname = 'c'\n[[custom_token.member]]\nserail = 'x'\n",
                "unknown key `custom_token[0].member[0].serail` at line 4: did you mean `custom_token.member.serial`?",
            ),
            (
                "[token]\nmember = 3\n",
                "`token.member` at line 2 is a section: write `[[token.member]]` and its keys below",
            ),
        ] {
            assert_eq!(refusal(text), expected);
        }
        let shown = refusal("[[custom_token]]\nname = 'c'\n[[custom_token.member]]\npin_file = 'canary'\n");
        assert!(shown.contains("CreateCustomKeyStore") && !shown.contains("canary"), "{shown}");
    }

    #[test]
    fn sections_have_their_form() {
        assert_eq!(
            refusal("[listener]\naddress = 'x'\n"),
            "`listener` at line 1 is a section: write `[[listener]]` and its keys below"
        );
        assert_eq!(refusal("\nhttp = 3\n"), "`http` at line 2 is a section: write `[http]` and its keys below");
        assert!(refusal("[http]\n[http]\n").contains("line 2"));
    }

    #[test]
    fn values_are_checked_for_type_and_range() {
        let document =
            Document::parse("[http]\nmax_connections = 0\ndrain_seconds = 'x'\nmax_body_bytes = -1\n").unwrap();
        let http = document.section("http");
        assert_eq!(
            http.integer("max_connections", 1..=9, 1).unwrap_err().to_string(),
            "`http.max_connections` at line 2 is `0`: write a number from 1 to 9"
        );
        assert_eq!(
            http.integer("drain_seconds", 1..=9, 1).unwrap_err().to_string(),
            "`http.drain_seconds` at line 3 is of type string: write a whole number"
        );
        assert!(http.integer("max_body_bytes", 0..=9, 1).is_err());
        assert_eq!(http.integer("idle_timeout_seconds", 1..=9, 7).unwrap(), 7);
        assert_eq!(
            document.section("token").required_text("module").unwrap_err().to_string(),
            "`token.module` is missing: it has no default"
        );
    }
}
