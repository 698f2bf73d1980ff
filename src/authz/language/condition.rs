//! Conditions: operators, set operators, IfExists, Null (authorization.md §2.6). Values are compiled when the policy is read.

use std::cmp::Ordering;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::keys::{ConditionKeys, Values};
use super::operand::{Decimal, Network, instant};
use super::pattern::{ArnPattern, Pattern, Syntax};

/// More aliases than this on a key, and a condition on kms:ResourceAliases refuses (§2.7).
const MOST_ALIASES: usize = 50;

/// One operator and key of a Condition block, with its values.
#[derive(Debug)]
pub struct Condition {
    operator: Operator,
    /// As the policy writes it.
    operator_name: Box<str>,
    key: Box<str>,
    operands: Box<[Operand]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    pub set: Option<SetOperator>,
    pub test: Test,
    pub negated: bool,
    pub if_exists: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetOperator {
    ForAllValues,
    ForAnyValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    Equals,
    EqualsIgnoreCase,
    Like,
    Numeric(Comparison),
    Date(Comparison),
    Bool,
    Binary,
    Ip,
    Arn,
    Null,
    Unreadable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Comparison::Equal => ordering.is_eq(),
            Comparison::Less => ordering.is_lt(),
            Comparison::LessOrEqual => ordering.is_le(),
            Comparison::Greater => ordering.is_gt(),
            Comparison::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

#[derive(Debug)]
enum Operand {
    Text(Pattern),
    Arn(ArnPattern),
    Number(Decimal),
    Instant(i128),
    Truth(bool),
    Bytes(Vec<u8>),
    Network(Network),
    /// Not of the operator's type: compares as false.
    Never,
}

impl Operator {
    /// `None`: not an operator.
    pub fn parse(name: &str) -> Option<Operator> {
        let (set, name) = match name.split_once(':') {
            Some(("ForAllValues", rest)) => (Some(SetOperator::ForAllValues), rest),
            Some(("ForAnyValue", rest)) => (Some(SetOperator::ForAnyValue), rest),
            Some(_) => return None,
            None => (None, name),
        };
        let (name, if_exists) = match name.strip_suffix("IfExists") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let (test, negated) = match name {
            "StringEquals" => (Test::Equals, false),
            "StringNotEquals" => (Test::Equals, true),
            "StringEqualsIgnoreCase" => (Test::EqualsIgnoreCase, false),
            "StringNotEqualsIgnoreCase" => (Test::EqualsIgnoreCase, true),
            "StringLike" => (Test::Like, false),
            "StringNotLike" => (Test::Like, true),
            "NumericEquals" => (Test::Numeric(Comparison::Equal), false),
            "NumericNotEquals" => (Test::Numeric(Comparison::Equal), true),
            "NumericLessThan" => (Test::Numeric(Comparison::Less), false),
            "NumericLessThanEquals" => (Test::Numeric(Comparison::LessOrEqual), false),
            "NumericGreaterThan" => (Test::Numeric(Comparison::Greater), false),
            "NumericGreaterThanEquals" => (Test::Numeric(Comparison::GreaterOrEqual), false),
            "DateEquals" => (Test::Date(Comparison::Equal), false),
            "DateNotEquals" => (Test::Date(Comparison::Equal), true),
            "DateLessThan" => (Test::Date(Comparison::Less), false),
            "DateLessThanEquals" => (Test::Date(Comparison::LessOrEqual), false),
            "DateGreaterThan" => (Test::Date(Comparison::Greater), false),
            "DateGreaterThanEquals" => (Test::Date(Comparison::GreaterOrEqual), false),
            "Bool" => (Test::Bool, false),
            "BinaryEquals" => (Test::Binary, false),
            "IpAddress" => (Test::Ip, false),
            "NotIpAddress" => (Test::Ip, true),
            "ArnEquals" | "ArnLike" => (Test::Arn, false),
            "ArnNotEquals" | "ArnNotLike" => (Test::Arn, true),
            // RULE §2.6: IfExists with any operator but Null.
            "Null" if !if_exists => (Test::Null, false),
            _ => return None,
        };
        Some(Operator { set, test, negated, if_exists })
    }

    /// The text as the operator's type, or why not.
    fn operand(self, text: &str, variables: bool) -> Result<Operand, &'static str> {
        let pattern = |wildcards, variables| {
            Pattern::compile(text, Syntax { wildcards, variables }).map(Operand::Text).map_err(|_| VARIABLE)
        };
        match self.test {
            Test::Equals | Test::EqualsIgnoreCase => pattern(false, variables),
            Test::Like => pattern(true, variables),
            Test::Arn => match ArnPattern::compile(text, variables) {
                Ok(ArnPattern::Never) => Err("is no ARN"),
                Ok(arn) => Ok(Operand::Arn(arn)),
                Err(_) => Err(VARIABLE),
            },
            Test::Numeric(_) => Decimal::parse(text).map(Operand::Number).ok_or("is no number"),
            Test::Date(_) => instant(text).map(Operand::Instant).ok_or("is no date"),
            Test::Bool if variables && text.contains("${") => pattern(false, true),
            Test::Bool | Test::Null => truth(text).map(Operand::Truth).ok_or("is neither `true` nor `false`"),
            Test::Binary => STANDARD.decode(text).map(Operand::Bytes).map_err(|_| "is not base64"),
            Test::Unreadable => Err("has no operator"),
            Test::Ip => Network::parse(text).map(Operand::Network).ok_or("is no address and no network"),
        }
    }
}

/// The one fault of a value that is refused at write, not only warned of.
pub const VARIABLE: &str = "has a `${` that is no policy variable";

fn truth(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

impl Condition {
    /// `faults` takes values that are not of the operator's type: they compare as false.
    pub fn compile(
        (operator, operator_name): (Operator, &str),
        key: &str,
        values: &[String],
        variables: bool,
        mut faults: impl FnMut(&str, &'static str),
    ) -> Condition {
        let operands = values.iter().map(|text| match operator.operand(text, variables) {
            Ok(operand) => operand,
            Err(fault) => {
                faults(text, fault);
                Operand::Never
            }
        });
        let operands = operands.collect();
        Condition { operator, operator_name: operator_name.into(), key: key.into(), operands }
    }

    /// An operator that this version does not know, in what was stored: an Allow does not apply, a Deny does.
    pub fn unreadable(operator_name: &str, key: &str) -> Condition {
        let operator = Operator { set: None, test: Test::Unreadable, negated: false, if_exists: false };
        Condition { operator, operator_name: operator_name.into(), key: key.into(), operands: Box::default() }
    }

    pub fn operator(&self) -> &str {
        &self.operator_name
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether the condition lets its statement apply. `allows`: the statement is an Allow.
    pub fn holds(&self, keys: &dyn ConditionKeys, allows: bool) -> bool {
        if self.operator.test == Test::Unreadable {
            return !allows;
        }
        let values = match keys.value(&self.key) {
            Some(Values::Many(values)) if values.is_empty() => None,
            values => values,
        };
        if self.operator.test == Test::Null {
            let absent = values.is_none();
            return self.operands.iter().any(|o| matches!(o, Operand::Truth(wanted) if *wanted == absent));
        }
        let Some(values) = values else {
            // RULE §2.6: an absent key. IfExists: true. ForAllValues: true, ForAnyValue: false. Else positive operators
            // are false and negated ones true.
            return self.operator.if_exists
                || match self.operator.set {
                    Some(SetOperator::ForAllValues) => true,
                    Some(SetOperator::ForAnyValue) => false,
                    None => self.operator.negated,
                };
        };
        let one = |value: &str| self.matches_any(value, keys) != self.operator.negated;
        match (self.operator.set, values) {
            // RULE §2.7: a key with more than 50 aliases is refused by this condition, whatever the effect.
            (_, Values::Many(values))
                if values.len() > MOST_ALIASES && self.key.eq_ignore_ascii_case("kms:ResourceAliases") =>
            {
                !allows
            }
            (Some(SetOperator::ForAllValues), Values::Many(values)) => values.iter().all(|v| one(v)),
            (Some(SetOperator::ForAnyValue), Values::Many(values)) => values.iter().any(|v| one(v)),
            (_, Values::One(value)) => one(&value),
            // RULE §2.6: a multi-valued key without a set operator compares as false.
            (None, Values::Many(_)) => self.operator.negated,
        }
    }

    /// The values of a condition are alternatives.
    fn matches_any(&self, value: &str, keys: &dyn ConditionKeys) -> bool {
        match self.operator.test {
            Test::Numeric(comparison) => {
                let Some(value) = Decimal::parse(value) else { return false };
                self.any(|o| matches!(o, Operand::Number(own) if comparison.holds(value.cmp(own))))
            }
            Test::Date(comparison) => {
                let Some(value) = instant(value) else { return false };
                self.any(|o| matches!(o, Operand::Instant(own) if comparison.holds(value.cmp(own))))
            }
            Test::Ip => {
                let Ok(value) = value.parse::<IpAddr>() else { return false };
                self.any(|o| matches!(o, Operand::Network(own) if own.contains(value)))
            }
            Test::Binary => {
                let Ok(value) = STANDARD.decode(value) else { return false };
                self.any(|o| matches!(o, Operand::Bytes(own) if *own == value))
            }
            Test::Bool => {
                let Some(value) = truth(value) else { return false };
                self.any(|o| match o {
                    Operand::Truth(own) => *own == value,
                    Operand::Text(own) => own.text(keys).and_then(|t| truth(&t)) == Some(value),
                    _ => false,
                })
            }
            Test::Arn => self.any(|o| matches!(o, Operand::Arn(own) if own.matches(value, keys))),
            Test::Equals | Test::Like => self.any(|o| matches!(o, Operand::Text(own) if own.matches(value, keys))),
            Test::EqualsIgnoreCase => self.any(
                |o| matches!(o, Operand::Text(own) if own.text(keys).is_some_and(|own| same_ignoring_case(&own, value))),
            ),
            Test::Null | Test::Unreadable => false,
        }
    }

    fn any(&self, matches: impl Fn(&Operand) -> bool) -> bool {
        self.operands.iter().any(matches)
    }
}

fn same_ignoring_case(a: &str, b: &str) -> bool {
    a.chars().flat_map(char::to_lowercase).eq(b.chars().flat_map(char::to_lowercase))
}
