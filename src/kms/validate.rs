//! The model's constraints on decoded values, and AWS's texts for what breaks them (kms-api.md §1, ValidationException).

use std::fmt::{self, Write};

use super::WireError;
use super::errors::validation;
use super::model::{Kind, Shape};
use super::value::{Fields, Value};

/// Violations told in one answer; a list of thousands of bad values must not make an answer of megabytes.
const MOST: usize = 20;
/// Characters of a value that an error echoes. Longer ones (descriptions, policies) are cut: no recorded answer of AWS echoes
/// one, and answers stay small.
const ECHO: usize = 4096;

/// All members against the model.
pub fn check(fields: &Fields<'_>) -> Result<(), WireError> {
    let mut violations = Violations::default();
    members(fields, None, &mut violations);
    violations.into_result()
}

/// The error for one required member that is absent.
pub fn missing(path: &str) -> WireError {
    let text = format!("Value null at '{path}' failed to satisfy constraint: Member must not be null");
    told(&[text])
}

/// The error for a list that must not be empty, by AWS's prose alone.
pub fn too_short(path: &str) -> WireError {
    told(&[format!(
        "Value at '{path}' failed to satisfy constraint: Member must have length greater than or equal to 1"
    )])
}

#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn add(&mut self, path: &Path<'_>, value: Shown<'_>, constraint: fmt::Arguments<'_>) {
        if self.0.len() < MOST {
            self.0.push(format!("Value{value} at '{path}' failed to satisfy constraint: Member must {constraint}"));
        }
    }

    fn into_result(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(told(&self.0)) }
    }
}

fn told(violations: &[String]) -> WireError {
    let errors = if violations.len() == 1 { "error" } else { "errors" };
    validation(format!("{} validation {errors} detected: {}", violations.len(), violations.join("; ")))
}

fn members(fields: &Fields<'_>, parent: Option<&Path<'_>>, out: &mut Violations) {
    for (member, value) in fields.iter() {
        let path = Path { parent, part: Part::Member(&member.path) };
        match value {
            Some(value) => one(&member.shape, value, &path, out),
            None if member.required => out.add(&path, Shown::Null, format_args!("not be null")),
            None => {}
        }
    }
}

fn one(shape: &Shape, value: &Value<'_>, path: &Path<'_>, out: &mut Violations) {
    match value {
        Value::Text(text) => self::text(shape, text.as_str(), path, out),
        Value::Blob(blob) => length(shape, blob.len(), Shown::Hidden, path, out),
        Value::Integer(number) => {
            if let Some(min) = shape.min.filter(|min| number < min) {
                out.add(path, Shown::Number(*number), format_args!("have value greater than or equal to {min}"));
            }
            if let Some(max) = shape.max.filter(|max| number > max) {
                out.add(path, Shown::Number(*number), format_args!("have value less than or equal to {max}"));
            }
        }
        Value::Boolean(_) | Value::Timestamp => {}
        Value::List(items) => {
            length(shape, items.len(), Shown::Hidden, path, out);
            let Kind::List(member) = &shape.kind else { return };
            for (place, item) in items.iter().enumerate() {
                element(member, item.as_ref(), &Path { parent: Some(path), part: Part::Item(place) }, out);
            }
        }
        Value::Map(entries) => {
            let Kind::Map(member) = &shape.kind else { return };
            for (key, value) in entries {
                element(member, value.as_ref(), &Path { parent: Some(path), part: Part::Entry(key) }, out);
            }
        }
        Value::Structure(fields) => members(fields, Some(path), out),
    }
}

/// In a list or a map null is a value that is not there, not an absent member.
fn element(shape: &Shape, value: Option<&Value<'_>>, path: &Path<'_>, out: &mut Violations) {
    match value {
        Some(value) => one(shape, value, path, out),
        None => out.add(path, Shown::Null, format_args!("not be null")),
    }
}

fn text(shape: &Shape, text: &str, path: &Path<'_>, out: &mut Violations) {
    let shown = if shape.sensitive { Shown::Hidden } else { Shown::Text(text) };
    // Bytes bound characters from above, so that counting is for long values only.
    let short = shape.max.is_none_or(|max| text.len() as i64 <= max) && shape.min.is_none_or(|min| min <= 1);
    let characters = if short { text.len() } else { text.chars().count() };
    length(shape, characters, shown, path, out);
    if let Some(pattern) = shape.pattern.as_ref().filter(|p| p.matches.is_some_and(|matches| !matches(text))) {
        out.add(path, shown, format_args!("satisfy regular expression pattern: {}", pattern.text));
    }
    if !shape.values.is_empty() && !shape.values.contains(&text) {
        out.add(path, shown, format_args!("satisfy enum value set: [{}]", shape.values.join(", ")));
    }
}

fn length(shape: &Shape, length: usize, shown: Shown<'_>, path: &Path<'_>, out: &mut Violations) {
    let length = length as i64;
    if let Some(max) = shape.max.filter(|max| length > *max) {
        out.add(path, shown, format_args!("have length less than or equal to {max}"));
    }
    if let Some(min) = shape.min.filter(|min| length < *min) {
        out.add(path, shown, format_args!("have length greater than or equal to {min}"));
    }
}

/// How a violation shows its value. Blobs, lists and sensitive values are not echoed.
#[derive(Clone, Copy)]
enum Shown<'a> {
    Null,
    Hidden,
    Number(i64),
    Text(&'a str),
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shown::Null => f.write_str(" null"),
            Shown::Hidden => Ok(()),
            Shown::Number(number) => write!(f, " '{number}'"),
            Shown::Text(text) => match text.char_indices().nth(ECHO) {
                Some((end, _)) => write!(f, " '{}...'", text.get(..end).unwrap_or_default()),
                None => write!(f, " '{text}'"),
            },
        }
    }
}

/// Where a value stands; written out only when it breaks a constraint: `tags.1.member.tagKey`.
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    part: Part<'a>,
}

enum Part<'a> {
    Member(&'a str),
    Item(usize),
    Entry(&'a str),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
            f.write_char('.')?;
        }
        match self.part {
            Part::Member(name) => f.write_str(name),
            Part::Item(place) => write!(f, "{}.member", place.saturating_add(1)),
            Part::Entry(key) => write!(f, "{key}.member"),
        }
    }
}
