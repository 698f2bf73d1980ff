//! The form of the Query protocol: parameters by name, lists by number. Every value is checked where it is read, and all that is
//! wrong is one answer, in AWS's words.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::percent_decode_str;

use super::StsError;

/// Names decoded, values as they came: what nobody reads is not decoded.
pub struct Form<'a> {
    values: BTreeMap<Cow<'a, str>, &'a str>,
}

impl<'a> Form<'a> {
    pub fn read(text: &'a str) -> Result<Self, StsError> {
        let mut values = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if values.insert(decode(name)?, value).is_some() {
                return Err(StsError::Malformed("it names a parameter twice"));
            }
        }
        Ok(Self { values })
    }

    pub fn value(&self, name: &str) -> Result<Option<Cow<'a, str>>, StsError> {
        self.values.get(name).map(|value| decode(value)).transpose()
    }

    /// The names of a list's members in the order of their numbers: `Tags.member.1`. The numbers need not be without gaps.
    pub fn members(&self, list: &str) -> Vec<String> {
        let prefix = format!("{list}.member.");
        let numbers: BTreeSet<u32> = self
            .values
            .range(Cow::Borrowed(prefix.as_str())..)
            .take_while(|(name, _)| name.starts_with(&prefix))
            .filter_map(|(name, _)| name.get(prefix.len()..)?.split('.').next()?.parse().ok())
            .collect();
        numbers.into_iter().map(|number| format!("{prefix}{number}")).collect()
    }
}

/// `application/x-www-form-urlencoded`: here `+` is a space.
fn decode(text: &str) -> Result<Cow<'_, str>, StsError> {
    const NOT_TEXT: StsError = StsError::Malformed("it is not text in UTF-8");
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| NOT_TEXT)?;
        return Ok(Cow::Owned(decoded.into_owned()));
    }
    percent_decode_str(text).decode_utf8().map_err(|_| NOT_TEXT)
}

/// What a text may be.
#[derive(Clone, Copy)]
pub struct Text {
    pub min: usize,
    pub max: usize,
    /// As AWS's model writes it, and what it means; empty: anything.
    pub pattern: (&'static str, fn(char) -> bool),
    /// Not to be repeated in an answer.
    pub secret: bool,
}

/// Everything that is wrong with one request.
#[derive(Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// `place` is the member in AWS's spelling: `roleSessionName`, `tags.1.member.key`.
    fn add(&mut self, value: Option<&str>, place: &str, constraint: &str) {
        const SHOWN: usize = 128;
        let value = value.map_or("null".to_owned(), |value| {
            format!("'{}'", value.chars().take(SHOWN).map(|c| if c.is_control() { '?' } else { c }).collect::<String>())
        });
        self.0.push(format!("Value {value} at '{place}' failed to satisfy constraint: {constraint}"));
    }

    pub fn required(&mut self, value: Option<Cow<'_, str>>, place: &str, text: Text) -> String {
        if value.is_none() {
            self.add(None, place, "Member must not be null");
        }
        self.optional(value, place, text).unwrap_or_default()
    }

    pub fn optional(&mut self, value: Option<Cow<'_, str>>, place: &str, text: Text) -> Option<String> {
        let value = value?;
        let shown = if text.secret { "***" } else { &value };
        let length = value.chars().count();
        if length < text.min {
            self.add(Some(shown), place, &format!("Member must have length greater than or equal to {}", text.min));
        }
        if length > text.max {
            self.add(Some(shown), place, &format!("Member must have length less than or equal to {}", text.max));
        }
        if !value.chars().all(text.pattern.1) {
            let constraint = format!("Member must satisfy regular expression pattern: {}", text.pattern.0);
            self.add(Some(shown), place, &constraint);
        }
        Some(value.into_owned())
    }

    pub fn seconds(&mut self, value: Option<Cow<'_, str>>, place: &str, max: u32) -> Option<u32> {
        const MIN: u32 = 900;
        let text = value?;
        match text.parse::<i64>() {
            Ok(seconds) if seconds < i64::from(MIN) => {
                self.add(Some(&text), place, &format!("Member must have value greater than or equal to {MIN}"));
            }
            Ok(seconds) if seconds > i64::from(max) => {
                self.add(Some(&text), place, &format!("Member must have value less than or equal to {max}"));
            }
            Ok(seconds) => return u32::try_from(seconds).ok(),
            Err(_) => self.add(Some(&text), place, "Member must be an integer"),
        }
        None
    }

    pub fn count(&mut self, count: usize, place: &str, max: usize) {
        if count > max {
            let shown = format!("[{count} members]");
            self.add(Some(&shown), place, &format!("Member must have length less than or equal to {max}"));
        }
    }

    pub fn none(self) -> Result<(), StsError> {
        const TOLD: usize = 10;
        match self.0.len() {
            0 => Ok(()),
            1 => Err(StsError::validation(format!("1 validation error detected: {}", self.0.concat()))),
            many => {
                let told = self.0.iter().take(TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
                Err(StsError::validation(format!("{many} validation errors detected: {told}")))
            }
        }
    }
}
