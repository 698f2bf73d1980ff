//! The input constraints of the service model: `model.json`, made by `scripts/model-table`, read once into a form that
//! costs little per request. What AWS states only in prose is added here.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::patterns::{self, Matcher};
use crate::ops::Operation;

/// A type of the model with what its values must satisfy.
#[derive(Debug)]
pub struct Shape {
    pub kind: Kind,
    /// Length of strings (characters), blobs (bytes) and lists; value of integers.
    pub min: Option<i64>,
    pub max: Option<i64>,
    pub pattern: Option<Pattern>,
    pub values: Vec<&'static str>,
    /// Never echoed in an error.
    pub sensitive: bool,
}

#[derive(Debug)]
pub enum Kind {
    Text,
    Blob,
    Integer,
    Boolean,
    /// Only in operations that are refused: its value is not kept.
    Timestamp,
    List(Box<Shape>),
    /// Keys have no constraints of their own in any served operation.
    Map(Box<Shape>),
    Structure(Vec<Member>),
}

#[derive(Debug)]
pub struct Member {
    pub name: &'static str,
    /// As errors and audit records spell it: first character in lower case.
    pub path: String,
    pub required: bool,
    pub shape: Shape,
}

#[derive(Debug)]
pub struct Pattern {
    pub text: &'static str,
    /// None only where all of it is refused: in operations that are not served, and in members of external key stores.
    pub matches: Option<Matcher>,
}

/// The members of an operation's input, in the model's order.
pub fn input(operation: Operation) -> &'static [Member] {
    MODEL.get(operation as usize).map(Vec::as_slice).expect("the model has a row for each operation")
}

/// Ranges that stand only in the model's prose: (operation, member, min, max).
const PROSE: &[(&str, &str, i64, i64)] = &[
    ("ListAliases", "Limit", 1, 100),
    ("ListGrants", "Limit", 1, 100),
    ("ListResourceTags", "Limit", 1, 50),
    ("ListRetirableGrants", "Limit", 1, 100),
];

/// By `Operation as usize`.
static MODEL: LazyLock<Vec<Vec<Member>>> = LazyLock::new(|| {
    let mut table = table();
    table.operations.extend(extension().operations);
    let row = |operation: &Operation| {
        let name = operation.name();
        let mut members = structure(table.operations.remove(name).expect("the table has all operations").members);
        for (_, member, min, max) in PROSE.iter().filter(|(operation, ..)| *operation == name) {
            for found in members.iter_mut().filter(|m| m.name == *member) {
                (found.shape.min, found.shape.max) = (Some(*min), Some(*max));
            }
        }
        members
    };
    Operation::ALL.iter().map(row).collect()
});

#[derive(Deserialize)]
struct Table {
    operations: HashMap<String, Row>,
}

#[derive(Deserialize)]
struct Row {
    members: Vec<MemberRow>,
}

#[derive(Deserialize)]
struct MemberRow {
    name: String,
    #[serde(default)]
    required: bool,
    #[serde(flatten)]
    shape: ShapeRow,
}

#[derive(Deserialize)]
struct ShapeRow {
    r#type: TypeRow,
    min: Option<i64>,
    max: Option<i64>,
    pattern: Option<String>,
    #[serde(default)]
    r#enum: Vec<String>,
    #[serde(default)]
    sensitive: bool,
    members: Option<Vec<MemberRow>>,
    member: Option<Box<ShapeRow>>,
    value: Option<Box<ShapeRow>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum TypeRow {
    String,
    Blob,
    Integer,
    Boolean,
    Timestamp,
    List,
    Map,
    Structure,
}

/// Operations that are ours.
fn extension() -> Table {
    serde_json::from_str(include_str!("extension.json")).expect("the built-in extension parses: a test reads it")
}

fn table() -> Table {
    serde_json::from_str(include_str!("model.json")).expect("the built-in model parses: a test reads it")
}

fn structure(rows: Vec<MemberRow>) -> Vec<Member> {
    let member = |row: MemberRow| Member {
        path: lower_first(&row.name),
        name: leak(row.name),
        required: row.required,
        shape: shape(row.shape),
    };
    rows.into_iter().map(member).collect()
}

fn shape(row: ShapeRow) -> Shape {
    const WHOLE: &str = "the table gives lists their member, maps their value and structures their members";
    let kind = match row.r#type {
        TypeRow::String => Kind::Text,
        TypeRow::Blob => Kind::Blob,
        TypeRow::Integer => Kind::Integer,
        TypeRow::Boolean => Kind::Boolean,
        TypeRow::Timestamp => Kind::Timestamp,
        TypeRow::List => Kind::List(Box::new(shape(*row.member.expect(WHOLE)))),
        TypeRow::Map => Kind::Map(Box::new(shape(*row.value.expect(WHOLE)))),
        TypeRow::Structure => Kind::Structure(structure(row.members.expect(WHOLE))),
    };
    let pattern = row.pattern.map(|text| Pattern { matches: patterns::matcher(&text), text: leak(text) });
    let values = row.r#enum.into_iter().map(leak).collect();
    Shape { kind, min: row.min, max: row.max, pattern, values, sensitive: row.sensitive }
}

/// The table is read once and lives as long as the process.
fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// `KeyId` to `keyId`, `AWSAccountId` to `aWSAccountId`.
fn lower_first(name: &str) -> String {
    let mut characters = name.chars();
    match characters.next() {
        Some(first) => first.to_ascii_lowercase().to_string() + characters.as_str(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Service;

    fn patterns_of(shape: &Shape) -> Vec<&Pattern> {
        let mut found: Vec<_> = shape.pattern.iter().collect();
        match &shape.kind {
            Kind::List(member) | Kind::Map(member) => found.extend(patterns_of(member)),
            Kind::Structure(members) => found.extend(members.iter().flat_map(|m| patterns_of(&m.shape))),
            _ => {}
        }
        found
    }

    #[test]
    fn the_tables_have_exactly_the_operations() {
        let names: Vec<_> = table().operations.into_keys().collect();
        for name in &names {
            assert!(Operation::from_name(name).is_some(), "{name}");
        }
        let ours: Vec<_> = extension().operations.into_keys().collect();
        assert_eq!(ours, [Operation::RotateAlias.name()]);
        assert_eq!(names.len() + ours.len(), Operation::ALL.len());
    }

    /// An error or a record must never show them.
    #[test]
    fn passwords_are_sensitive() {
        for operation in [Operation::CreateCustomKeyStore, Operation::UpdateCustomKeyStore] {
            let password = input(operation).iter().find(|m| m.name == "KeyStorePassword").unwrap();
            assert!(password.shape.sensitive);
        }
    }

    /// What we take of a new key is what CreateKey takes.
    #[test]
    fn the_extension_names_the_key_specs_that_are_made() {
        use crate::ids::spec::KeySpec;
        let specs = &input(Operation::RotateAlias).iter().find(|m| m.name == "KeySpec").unwrap().shape.values;
        let mut ours: Vec<_> = KeySpec::ALL.iter().map(|spec| spec.as_str()).collect();
        ours.sort_unstable();
        let mut listed = specs.clone();
        listed.sort_unstable();
        assert_eq!(listed, ours);
    }

    #[test]
    fn rows_stand_at_their_operation() {
        for (place, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, place);
        }
        let names: Vec<_> = input(Operation::CreateAlias).iter().map(|m| (m.name, m.required)).collect();
        assert_eq!(names, [("AliasName", true), ("TargetKeyId", true)]);
    }

    #[test]
    fn each_pattern_of_an_operation_that_is_read_has_a_matcher() {
        for operation in Operation::ALL.iter().filter(|o| !matches!(o.service(), Service::Refused(_))) {
            let members = input(*operation).iter().filter(|m| !m.name.starts_with("Xks"));
            for pattern in members.flat_map(|m| patterns_of(&m.shape)) {
                assert!(pattern.matches.is_some(), "{operation:?}: {}", pattern.text);
            }
        }
    }

    #[test]
    fn each_range_from_prose_names_a_member() {
        for (operation, member, min, max) in PROSE {
            let operation = Operation::from_name(operation).unwrap();
            let found = input(operation).iter().find(|m| m.name == *member).unwrap();
            assert_eq!((found.shape.min, found.shape.max), (Some(*min), Some(*max)));
        }
    }
}
