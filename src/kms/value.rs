//! Values of a request body, decoded by the model's types. The body is scanned once by `serde_json`; only members that
//! the model knows are decoded, so depth is bounded by the model's and unknown members cost nothing. Strings borrow from
//! the body; decoded blobs and unescaped strings are zeroised on drop (`serde_json`'s own unescaping would leave copies).

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::WireError;
use super::errors::serialization;
use super::model::{Kind, Member, Shape};

/// A value that has the JSON type which the model asks for. JSON null counts as absent and is `None` where it may stand.
#[derive(Debug)]
pub enum Value<'a> {
    Text(Text<'a>),
    Blob(Blob),
    Integer(i64),
    Boolean(bool),
    /// That it is a number is all that anybody asks: no operation that we serve takes a time.
    Timestamp,
    List(Vec<Option<Value<'a>>>),
    /// In the order received; keys differ.
    Map(Vec<(Cow<'a, str>, Option<Value<'a>>)>),
    Structure(Fields<'a>),
}

/// A decoded blob; zeroised on drop, not shown.
pub struct Blob(Zeroizing<Vec<u8>>);

impl Blob {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Moves the bytes out, without a copy.
    pub fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.len())
    }
}

/// Not shown by `Debug`: it may be a password.
pub enum Text<'a> {
    Borrowed(&'a str),
    Unescaped(Zeroizing<String>),
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.as_str().len())
    }
}

impl Text<'_> {
    pub fn as_str(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Unescaped(text) => text,
        }
    }

    pub fn into_string(self) -> String {
        match self {
            Text::Borrowed(text) => text.to_owned(),
            Text::Unescaped(mut text) => std::mem::take(&mut *text),
        }
    }
}

/// Members of a structure, beside the model's.
#[derive(Debug)]
pub struct Fields<'a> {
    members: &'static [Member],
    values: Vec<Option<Value<'a>>>,
}

impl<'a> Fields<'a> {
    pub fn iter(&self) -> impl Iterator<Item = (&'static Member, Option<&Value<'a>>)> {
        self.members.iter().zip(self.values.iter().map(Option::as_ref))
    }

    /// The member's value, which is then gone from here.
    pub fn take(&mut self, name: &str) -> Option<Value<'a>> {
        let place = self.members.iter().position(|m| m.name == name);
        debug_assert!(place.is_some(), "the model has no member {name}");
        self.values.get_mut(place?)?.take()
    }
}

/// A whole body as the members of an operation's input. An empty body is `{}`, as AWS takes it.
pub fn body<'a>(members: &'static [Member], body: &'a [u8]) -> Result<Fields<'a>, WireError> {
    let text = json_text(body)?;
    let raw = Members { members }.read(text).map_err(|e| not_json(&e))?;
    structure(members, raw).map_err(|w| serialization(w.text()))
}

/// Only whether a body is a JSON object, for operations that are not served.
pub fn check_syntax(body: &[u8]) -> Result<(), WireError> {
    Members { members: &[] }.read(json_text(body)?).map(|_| ()).map_err(|e| not_json(&e))
}

fn json_text(body: &[u8]) -> Result<&str, WireError> {
    let text = std::str::from_utf8(body).map_err(|_| serialization("the request body is not UTF-8"))?;
    Ok(if text.trim_ascii().is_empty() { "{}" } else { text })
}

/// Texts of syntax errors hold a place and no content; those of type errors would show the value.
fn not_json(error: &serde_json::Error) -> WireError {
    serialization(match error.classify() {
        Category::Data | Category::Io => "the request body is not a JSON object".to_owned(),
        Category::Syntax | Category::Eof => format!("the request body is not JSON: {error}"),
    })
}

/// A value that does not have the model's type.
struct Wrong {
    path: String,
    what: &'static str,
}

impl Wrong {
    fn at(path: &str, what: &'static str) -> Self {
        Wrong { path: path.to_owned(), what }
    }

    fn under(mut self, parent: &str) -> Self {
        self.path = if self.path.is_empty() { parent.to_owned() } else { format!("{parent}.{}", self.path) };
        self
    }

    fn text(&self) -> String {
        format!("'{}' {}", self.path, self.what)
    }
}

fn structure<'a>(members: &'static [Member], raw: RawMembers<'a>) -> Result<Fields<'a>, Wrong> {
    if let Some(name) = raw.duplicate {
        return Err(Wrong::at(name, "is given more than once"));
    }
    let mut values = Vec::with_capacity(members.len());
    for (member, raw) in members.iter().zip(raw.values) {
        values.push(match raw {
            Some(raw) => value(&member.shape, raw).map_err(|w| w.under(&member.path))?,
            None => None,
        });
    }
    Ok(Fields { members, values })
}

fn value<'a>(shape: &'static Shape, raw: &'a RawValue) -> Result<Option<Value<'a>>, Wrong> {
    let text = raw.get();
    if text == "null" {
        return Ok(None);
    }
    Ok(Some(match &shape.kind {
        Kind::Text => Value::Text(string(text)?),
        Kind::Blob => Value::Blob(blob(string(text)?.as_str())?),
        Kind::Integer => Value::Integer(integer(text).ok_or(Wrong::at("", "must be an integer"))?),
        Kind::Boolean => Value::Boolean(match text {
            "true" => true,
            "false" => false,
            _ => return Err(Wrong::at("", "must be a boolean")),
        }),
        Kind::Timestamp => {
            text.parse::<f64>().map_err(|_| Wrong::at("", "must be a timestamp"))?;
            Value::Timestamp
        }
        Kind::List(member) => {
            let items: Vec<&'a RawValue> = serde_json::from_str(text).map_err(|_| Wrong::at("", "must be a list"))?;
            let item = |(place, raw): (usize, _)| {
                value(member, raw).map_err(|w| w.under(&format!("{}.member", place.saturating_add(1))))
            };
            Value::List(items.into_iter().enumerate().map(item).collect::<Result<_, _>>()?)
        }
        Kind::Map(shape) => {
            let entries = Entries.read(text).map_err(|_| Wrong::at("", "must be a map"))?;
            refuse_duplicates(&entries)?;
            let entry = |(key, raw): (Cow<'a, str>, _)| match value(shape, raw) {
                Ok(value) => Ok((key, value)),
                Err(w) => Err(w.under(&key)),
            };
            Value::Map(entries.into_iter().map(entry).collect::<Result<_, _>>()?)
        }
        Kind::Structure(members) => {
            let raw = Members { members }.read(text).map_err(|_| Wrong::at("", "must be a structure"))?;
            Value::Structure(structure(members, raw)?)
        }
    }))
}

/// Which of two values would count is a matter of the parser; an encryption context must not depend on that.
fn refuse_duplicates(entries: &[(Cow<'_, str>, &RawValue)]) -> Result<(), Wrong> {
    let mut keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_ref()).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair.first() == pair.last()) {
        Some(pair) => Err(Wrong::at(pair.first().copied().unwrap_or_default(), "is given more than once")),
        None => Ok(()),
    }
}

fn string(raw: &str) -> Result<Text<'_>, Wrong> {
    const WRONG: &str = "must be a string";
    let Some(inner) = raw.strip_prefix('"').and_then(|r| r.strip_suffix('"')) else {
        return Err(Wrong::at("", WRONG));
    };
    if !inner.contains('\\') {
        return Ok(Text::Borrowed(inner));
    }
    // Unescaped text is never longer than its escapes, so this buffer does not move and leaves no copy.
    let mut text = Zeroizing::new(String::with_capacity(inner.len()));
    unescape(inner, &mut text).ok_or(Wrong::at("", "holds an escape that is no character"))?;
    Ok(Text::Unescaped(text))
}

/// `serde_json` has checked the escapes' form but not that surrogates come in pairs.
fn unescape(mut rest: &str, out: &mut String) -> Option<()> {
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let kind = escape.chars().next()?;
        rest = escape.get(kind.len_utf8()..)?;
        out.push(match kind {
            '"' | '\\' | '/' => kind,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = code_unit(&mut rest)?;
                let units = if (0xd800..0xdc00).contains(&first) {
                    rest = rest.strip_prefix("\\u")?;
                    [first, code_unit(&mut rest)?]
                } else {
                    [first, 0]
                };
                char::decode_utf16(units).next()?.ok()?
            }
            _ => return None,
        });
    }
    out.push_str(rest);
    Some(())
}

fn code_unit(rest: &mut &str) -> Option<u16> {
    let (digits, after) = rest.split_at_checked(4)?;
    *rest = after;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}

fn blob(text: &str) -> Result<Blob, Wrong> {
    // The room is enough for the whole, so that the decoder does not move the bytes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(base64::decoded_len_estimate(text.len())));
    match STANDARD.decode_vec(text, &mut bytes) {
        Ok(()) => Ok(Blob(bytes)),
        Err(_) => Err(Wrong::at("", "must be base64")),
    }
}

/// Also `32.0`, which some clients' serialisers write for an integer.
fn integer(text: &str) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match text.parse::<i64>() {
        Ok(number) => Some(number),
        Err(_) if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            let number: f64 = text.parse().ok()?;
            (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64)
        }
        Err(_) => None,
    }
}

/// Reads an object into places beside the model's members. Unknown members are skipped, as AWS does.
struct Members {
    members: &'static [Member],
}

struct RawMembers<'a> {
    values: Vec<Option<&'a RawValue>>,
    duplicate: Option<&'static str>,
}

impl Members {
    fn read(self, text: &str) -> Result<RawMembers<'_>, serde_json::Error> {
        whole(text, self)
    }
}

impl<'de> DeserializeSeed<'de> for Members {
    type Value = RawMembers<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = RawMembers<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut raw = RawMembers { values: vec![None; self.members.len()], duplicate: None };
        while let Some(Key(key)) = map.next_key_seed(KeySeed)? {
            match self.members.iter().zip(&mut raw.values).find(|(member, _)| member.name == key) {
                Some((member, place)) => {
                    if place.replace(map.next_value()?).is_some() {
                        raw.duplicate = Some(&member.path);
                    }
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(raw)
    }
}

/// Reads an object into pairs.
struct Entries;

impl Entries {
    fn read(self, text: &str) -> Result<Vec<(Cow<'_, str>, &RawValue)>, serde_json::Error> {
        whole(text, self)
    }
}

impl<'de> DeserializeSeed<'de> for Entries {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(Key(key)) = map.next_key_seed(KeySeed)? {
            entries.push((key, map.next_value()?));
        }
        Ok(entries)
    }
}

fn whole<'a, S: DeserializeSeed<'a>>(text: &'a str, seed: S) -> Result<S::Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// A member's name: borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Key<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Key(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Key(Cow::Owned(text.to_owned())))
    }
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
