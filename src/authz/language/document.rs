//! A document becomes a policy: form, size and the rules of each kind, with AWS's texts (authorization.md §2.1).

use super::condition::{Condition, Operator, SetOperator, VARIABLE};
use super::json::{self, Node, short};
use super::known::is_known_kms_key;
use super::pattern::{ActionPattern, ArnPattern};
use super::principal::{self, Principal, Principals, Providers};
use super::statement::{Actions, Resources, Statement};
use super::{Malformed, Policy, PolicyKind};

const MAX_STATEMENTS: usize = 1_000;
const MAX_STRINGS: usize = 10_000;
/// No document may be longer, whatever its kind.
const MAX_BYTES: usize = 32_768;

const SYNTAX: &str = "Syntax errors in policy.";
const BAD_PRINCIPAL: &str = "Policy contains a statement with one or more invalid principals.";
const NO_PRINCIPAL: &str = "Policy contains a statement with no principal.";
const OVERLY_PERMISSIVE: &str = "OverlyPermissiveCondition: Using the ForAllValues set operator with a single-valued \
     condition key matches requests without the specified [encryption context or tag] or with an unspecified [encryption \
     context or tag]. To fix, remove ForAllValues.";

impl PolicyKind {
    /// Characters at most, and whether white space counts.
    fn limit(self) -> (usize, bool) {
        match self {
            PolicyKind::Key => (MAX_BYTES, true),
            PolicyKind::IdentityInline { max } => (max, false),
            PolicyKind::IdentityManaged | PolicyKind::Boundary => (6_144, false),
            PolicyKind::Session => (2_048, true),
            PolicyKind::Trust => (2_048, false),
            PolicyKind::ServiceControl => (5_120, false),
        }
    }

    /// Policies of resources say who; policies of identities are attached to whom they concern.
    fn names_principals(self) -> bool {
        matches!(self, PolicyKind::Key | PolicyKind::Trust)
    }
}

fn syntax(detail: impl std::fmt::Display) -> Malformed {
    refused(format!("{SYNTAX}: {detail}"))
}

fn refused(text: impl Into<String>) -> Malformed {
    Malformed { text: text.into(), too_long: false }
}

/// Reads one document. `strict`: as a write does; else content that a write refuses is kept so that it allows nothing.
pub struct Reader {
    kind: PolicyKind,
    strict: bool,
    variables: bool,
    strings: usize,
    sids: Vec<String>,
    /// The statement at hand excludes something that could not be read: what it is would be allowed too much.
    doubtful: bool,
    warnings: Vec<String>,
}

impl Reader {
    pub fn new(kind: PolicyKind, strict: bool) -> Self {
        Self { kind, strict, variables: false, strings: 0, sids: Vec::new(), doubtful: false, warnings: Vec::new() }
    }

    pub fn read(mut self, text: &str) -> Result<Policy, Malformed> {
        let size = text.chars().filter(|c| !c.is_ascii_whitespace()).count();
        let (limit, counts_white) = self.kind.limit();
        let length = if counts_white { text.len() } else { size };
        if text.len() > MAX_BYTES || (self.strict && length > limit) {
            let limit = limit.min(MAX_BYTES);
            let text = format!("Maximum policy size of {limit} bytes exceeded");
            return Err(Malformed { text, too_long: true });
        }
        let legal = |c: char| matches!(c, '\u{9}' | '\u{a}' | '\u{d}' | '\u{20}'..='\u{ff}');
        if self.strict && !text.chars().all(legal) {
            return Err(syntax("a character outside of U+0020 to U+00FF"));
        }
        let Node::Object(members) = json::read(text).map_err(syntax)? else {
            return Err(syntax("the document is not an object"));
        };
        let mut statements = None;
        for (name, value) in members {
            match (name.as_str(), value) {
                ("Version", Node::Text(v)) if v == "2012-10-17" => self.variables = true,
                ("Version", Node::Text(v)) if v == "2008-10-17" => {}
                ("Version", _) => return Err(refused("Policy document must be version 2012-10-17 or greater.")),
                ("Id", _) if self.strict && matches!(self.kind, PolicyKind::IdentityInline { .. }) => {
                    return Err(syntax("an inline policy has no Id"));
                }
                ("Id", Node::Text(_)) => {}
                ("Statement", Node::List(list)) => statements = Some(list),
                ("Statement", one @ Node::Object(_)) => statements = Some(vec![one]),
                (other, _) => return Err(syntax(format_args!("member `{}` is not known here", short(other)))),
            }
        }
        let list = statements.ok_or_else(|| syntax("there is no Statement"))?;
        if list.is_empty() || list.len() > MAX_STATEMENTS {
            return Err(syntax(format_args!("a policy has 1 to {MAX_STATEMENTS} statements")));
        }
        // The version may stand after the statements.
        let statements = list.into_iter().map(|node| self.statement(node)).collect::<Result<Box<[_]>, _>>()?;
        Ok(Policy { kind: self.kind, statements, warnings: self.warnings, size })
    }

    fn statement(&mut self, node: Node) -> Result<Statement, Malformed> {
        let Node::Object(members) = node else { return Err(syntax("a statement is not an object")) };
        let (mut sid, mut allows, mut principals, mut actions, mut resources) = (None, None, None, None, None);
        let mut conditions = Vec::new();
        self.doubtful = false;
        for (name, value) in members {
            let negated = name.starts_with("Not");
            match name.as_str() {
                "Sid" => sid = Some(self.sid(value)?),
                "Effect" => {
                    allows = match value {
                        Node::Text(t) if t == "Allow" => Some(true),
                        Node::Text(t) if t == "Deny" => Some(false),
                        _ => return Err(syntax("Effect is Allow or Deny")),
                    }
                }
                "Principal" | "NotPrincipal" => {
                    once(&mut principals, self.principals(value, negated)?, "Principal")?;
                }
                "Action" | "NotAction" => once(&mut actions, self.actions(value, negated)?, "Action")?,
                "Resource" | "NotResource" => once(&mut resources, self.resources(value, negated)?, "Resource")?,
                "Condition" => conditions = self.conditions(value)?,
                other => return Err(syntax(format_args!("member `{}` is not known in a statement", short(other)))),
            }
        }
        let allows = allows.ok_or_else(|| syntax("a statement has no Effect"))?;
        if self.kind.names_principals() && principals.is_none() {
            return Err(refused(NO_PRINCIPAL));
        }
        // RULE §1.3: a statement of a key policy without Action or Resource is stored and has no effect.
        if self.strict && self.kind != PolicyKind::Key {
            if actions.is_none() {
                return Err(refused("Policy statement must contain actions."));
            }
            if resources.is_none() && self.kind != PolicyKind::Trust {
                return Err(refused("Policy statement must contain resources."));
            }
        }
        if allows && self.doubtful {
            actions = None;
        }
        // The resource of a trust policy is the role.
        if self.kind == PolicyKind::Trust {
            resources = Some(Resources { negated: false, patterns: [ArnPattern::Any].into() });
        }
        Ok(Statement { sid, allows, principals, actions, resources, conditions: conditions.into() })
    }

    fn sid(&mut self, value: Node) -> Result<Box<str>, Malformed> {
        let Node::Text(sid) = value else { return Err(syntax("Sid is a string")) };
        if self.strict && self.kind != PolicyKind::Key {
            if !sid.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(syntax("a Sid has letters and digits only"));
            }
            if !sid.is_empty() && self.sids.contains(&sid) {
                return Err(refused("Statement IDs (SID) in a single policy must be unique."));
            }
        }
        let boxed = sid.as_str().into();
        self.sids.push(sid);
        Ok(boxed)
    }

    fn principals(&mut self, value: Node, negated: bool) -> Result<Principals, Malformed> {
        if !self.kind.names_principals() {
            return Err(refused("Policy document should not specify a principal."));
        }
        if self.strict && negated && self.kind == PolicyKind::Trust {
            return Err(syntax("a trust policy has no NotPrincipal"));
        }
        let providers = if self.kind == PolicyKind::Trust { Providers::Known } else { Providers::Unknown };
        let mut invalid = false;
        let list = principal::read(value, providers, |_| invalid = true);
        match list {
            Some(list) if !(self.strict && invalid) => {
                self.doubtful |= negated && invalid;
                self.count(list.len())?;
                Ok(Principals { negated, list: list.into() })
            }
            None if !self.strict => Ok(Principals { negated: false, list: [Principal::Nobody].into() }),
            _ => Err(refused(BAD_PRINCIPAL)),
        }
    }

    fn actions(&mut self, value: Node, negated: bool) -> Result<Actions, Malformed> {
        let list = self.strings(value, "Action")?;
        if self.strict {
            if list.is_empty() && self.kind != PolicyKind::Key {
                return Err(refused("Policy statement must contain actions."));
            }
            if let Some(fault) = list.iter().find_map(|a| ActionPattern::fault(a)) {
                return Err(refused(fault));
            }
            let foreign = |a: &&String| !a.get(..4).is_some_and(|service| service.eq_ignore_ascii_case("sts:"));
            if self.kind == PolicyKind::Trust && list.iter().any(|a| foreign(&a)) {
                return Err(refused("AssumeRole policy may only specify STS AssumeRole actions."));
            }
        }
        self.doubtful |= negated && list.iter().any(|a| ActionPattern::fault(a).is_some());
        Ok(Actions { negated, patterns: list.iter().map(|a| ActionPattern::compile(a)).collect() })
    }

    fn resources(&mut self, value: Node, negated: bool) -> Result<Resources, Malformed> {
        if self.strict && self.kind == PolicyKind::Trust {
            return Err(refused("Has prohibited field Resource"));
        }
        let list = self.strings(value, "Resource")?;
        if self.strict && list.is_empty() && self.kind != PolicyKind::Key {
            return Err(refused("Policy statement must contain resources."));
        }
        let mut patterns = Vec::with_capacity(list.len());
        for text in &list {
            let pattern = match ArnPattern::compile(text, self.variables) {
                Ok(pattern) => pattern,
                Err(_) if self.strict => return Err(syntax(format_args!("`{}` {VARIABLE}", short(text)))),
                Err(_) => ArnPattern::Never,
            };
            match pattern.fault(text) {
                Some(fault) if self.strict => return Err(refused(fault)),
                fault => {
                    self.doubtful |= negated && fault.is_some();
                    patterns.push(pattern);
                }
            }
        }
        Ok(Resources { negated, patterns: patterns.into() })
    }

    fn conditions(&mut self, value: Node) -> Result<Vec<Condition>, Malformed> {
        let Node::Object(operators) = value else { return Err(syntax("Condition is an object")) };
        let mut conditions = Vec::new();
        for (name, keys) in operators {
            let Node::Object(keys) = keys else {
                return Err(syntax(format_args!("`{}` in a Condition is not an object", short(&name))));
            };
            let operator = match Operator::parse(&name) {
                Some(operator) => Some(operator),
                None if self.strict => {
                    return Err(syntax(format_args!("`{}` is not a condition operator", short(&name))));
                }
                None => None,
            };
            for (key, values) in keys {
                let values = self.scalars(values, &key)?;
                let Some(operator) = operator else {
                    conditions.push(Condition::unreadable(&name, &key));
                    continue;
                };
                self.check_key(operator, &name, &key)?;
                let mut refusal = None;
                let warnings = &mut self.warnings;
                let condition = Condition::compile((operator, &name), &key, &values, self.variables, |text, fault| {
                    if fault == VARIABLE {
                        refusal = Some(syntax(format_args!("`{}` {fault}", short(text))));
                    }
                    warnings.push(format!("{name} on {key}: `{}` {fault}, so it never matches", short(text)));
                });
                if let Some(refusal) = refusal.filter(|_| self.strict) {
                    return Err(refusal);
                }
                conditions.push(condition);
            }
        }
        Ok(conditions)
    }

    fn check_key(&mut self, operator: Operator, name: &str, key: &str) -> Result<(), Malformed> {
        let Some((vendor, rest)) = key.split_once(':') else {
            return match self.strict {
                true => Err(refused("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.")),
                false => Ok(()),
            };
        };
        let of_key_policy = self.strict && self.kind == PolicyKind::Key;
        if vendor.eq_ignore_ascii_case("kms") && !is_known_kms_key(rest) {
            // RULE §2.6: a misspelt kms: key would make a condition that is never or always met.
            if of_key_policy {
                return Err(syntax(format_args!("`{}` is not a condition key of KMS", short(key))));
            }
            self.warnings.push(format!("`{}` is not a condition key of KMS", short(key)));
        }
        let starts = |prefix: &str| key.get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix));
        if operator.set == Some(SetOperator::ForAllValues)
            && (starts("kms:EncryptionContext:") || starts("aws:RequestTag/"))
        {
            if of_key_policy {
                return Err(refused(OVERLY_PERMISSIVE));
            }
            self.warnings.push(format!("{name} on {}: {OVERLY_PERMISSIVE}", short(key)));
        }
        Ok(())
    }

    fn count(&mut self, strings: usize) -> Result<(), Malformed> {
        self.strings += strings;
        if self.strings > MAX_STRINGS {
            return Err(syntax(format_args!("a policy has at most {MAX_STRINGS} strings")));
        }
        Ok(())
    }

    fn strings(&mut self, value: Node, what: &str) -> Result<Vec<String>, Malformed> {
        let list = match value {
            Node::List(list) => list,
            one => vec![one],
        };
        self.count(list.len())?;
        list.into_iter()
            .map(|node| match node {
                Node::Text(text) => Ok(text),
                _ => Err(syntax(format_args!("{what} is a string or a list of strings"))),
            })
            .collect()
    }

    /// Values of a condition: strings, and the JSON booleans and numbers that AWS's own examples have.
    fn scalars(&mut self, value: Node, key: &str) -> Result<Vec<String>, Malformed> {
        let list = match value {
            Node::List(list) => list,
            one => vec![one],
        };
        self.count(list.len())?;
        list.into_iter()
            .map(|node| match node {
                Node::Text(text) | Node::Number(text) => Ok(text),
                Node::Truth(truth) => Ok(truth.to_string()),
                Node::Object(_) | Node::List(_) | Node::Null => {
                    Err(syntax(format_args!("`{}` in a Condition has a value that is no string", short(key))))
                }
            })
            .collect()
    }
}

fn once<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<(), Malformed> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(syntax(format_args!("a statement has {what} and Not{what}"))),
    }
}
