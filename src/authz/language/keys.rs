//! Where conditions and policy variables get their values from.

use std::borrow::Cow;
use std::cell::Cell;

/// What a request has for one condition key. `Many` is for keys that AWS documents as multi-valued, even when there is
/// one value only or none: without a set operator a comparison with them is false (authorization.md §2.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
}

/// What comparing patterns may cost in one decision. Patterns and the texts that they are compared with are both of callers'
/// making, so that the product of their lengths is no bound worth having: a policy of 32 KiB and an encryption context of 8 KiB
/// make billions of steps.
#[derive(Debug)]
pub struct Effort(Cell<u32>);

impl Effort {
    /// Steps. A policy of the largest size whose every pattern is compared with ARNs takes some hundred thousand.
    pub const OF_A_DECISION: u32 = 4_000_000;

    pub fn new(steps: u32) -> Self {
        Self(Cell::new(steps))
    }

    /// Whether nothing is left: what was compared since means nothing, and the decision is a refusal.
    pub fn is_spent(&self) -> bool {
        self.0.get() == 0
    }

    /// Takes of what is left; `false`: nothing is, and nothing matches.
    pub(super) fn spend(&self, steps: usize) -> bool {
        let left = self.0.get().saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX));
        self.0.set(left);
        left > 0
    }
}

/// The condition keys of one request. Asked only for the keys that a policy names, and only when the statement applies
/// otherwise, so that nothing is computed that nobody asks for.
pub trait ConditionKeys {
    /// The value of `name`, as the policy writes it. Names are compared without regard to case; where several tags or
    /// pairs of an encryption context differ in case only, the exact spelling wins.
    fn value(&self, name: &str) -> Option<Values<'_>>;

    /// What is left for comparing patterns; `None`: no matter how long it takes.
    fn effort(&self) -> Option<&Effort> {
        None
    }
}

/// A list of keys and values: for decision cases, `policy simulate` and tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed(Vec<(String, OwnedValues)>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnedValues {
    One(String),
    Many(Vec<String>),
}

impl Listed {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a single-valued key; a value that the same spelling had before is replaced.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.put(name.into(), OwnedValues::One(value.into()));
    }

    /// Sets a multi-valued key.
    pub fn set_many(&mut self, name: impl Into<String>, values: impl IntoIterator<Item = impl Into<String>>) {
        self.put(name.into(), OwnedValues::Many(values.into_iter().map(Into::into).collect()));
    }

    fn put(&mut self, name: String, values: OwnedValues) {
        self.0.retain(|(n, _)| *n != name);
        self.0.push((name, values));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &OwnedValues)> {
        self.0.iter().map(|(name, values)| (name.as_str(), values))
    }
}

impl ConditionKeys for Listed {
    fn value(&self, name: &str) -> Option<Values<'_>> {
        let exact = self.0.iter().find(|(n, _)| n == name);
        let (_, values) = exact.or_else(|| self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)))?;
        Some(match values {
            OwnedValues::One(value) => Values::One(Cow::Borrowed(value)),
            OwnedValues::Many(values) => Values::Many(values.iter().map(|v| Cow::Borrowed(v.as_str())).collect()),
        })
    }
}

/// No condition key has a value.
pub struct NoKeys;

impl ConditionKeys for NoKeys {
    fn value(&self, _: &str) -> Option<Values<'_>> {
        None
    }
}
