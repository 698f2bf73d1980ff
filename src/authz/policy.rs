//! Key policies as documents: form, size and principals, and whether the account's root user could still change them.
//! Source: authorization.md §1.9 and §2.1. Conditions are kept and not evaluated yet: a statement that has one neither
//! allows nor denies in the lockout check.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::ids::{AccountId, Arn};

/// Bytes of a key policy at most.
pub const MAX_BYTES: usize = 32_768;
const MAX_STATEMENTS: usize = 1_000;

/// Texts of MalformedPolicyDocumentException.
pub const LOCKOUT: &str = "The new key policy will not allow you to update the key policy in the future.";
const SYNTAX: &str = "Syntax errors in policy.";
const BAD_PRINCIPAL: &str = "Policy contains a statement with one or more invalid principals.";
const NO_PRINCIPAL: &str = "Policy contains a statement with no principal.";

/// The default policy of a key made without one, as AWS prints it.
pub fn default_policy(account: &AccountId) -> String {
    format!(
        "{{\n  \"Version\" : \"2012-10-17\",\n  \"Id\" : \"key-default-1\",\n  \"Statement\" : [ {{\n    \"Sid\" : \"Enable IAM \
         User Permissions\",\n    \"Effect\" : \"Allow\",\n    \"Principal\" : {{\n      \"AWS\" : \
         \"arn:aws:iam::{account}:root\"\n    }},\n    \"Action\" : \"kms:*\",\n    \"Resource\" : \"*\"\n  }} ]\n}}"
    )
}

/// A key policy whose form was checked.
#[derive(Debug, Clone)]
pub struct KeyPolicy {
    statements: Vec<Statement>,
}

#[derive(Debug, Clone)]
struct Statement {
    allow: bool,
    principals: Principals,
    actions: Matches,
    resources: Matches,
    conditional: bool,
}

#[derive(Debug, Clone)]
enum Principals {
    Only(Vec<String>),
    AllBut(Vec<String>),
}

#[derive(Debug, Clone)]
enum Matches {
    Only(Vec<String>),
    AllBut(Vec<String>),
}

impl KeyPolicy {
    /// Parses and validates. The error is AWS's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Json(document) = serde_json::from_str(text).map_err(|e| format!("{SYNTAX}: {e}"))?;
        let Node::Object(members) = document else {
            return Err(format!("{SYNTAX}: the document is not an object"));
        };
        let mut statements = None;
        for (name, value) in members {
            match (name.as_str(), value) {
                ("Version", Node::Text(v)) if v == "2012-10-17" || v == "2008-10-17" => {}
                ("Version", _) => return Err("Policy document must be version 2012-10-17 or greater.".to_owned()),
                ("Id", Node::Text(_)) => {}
                ("Statement", Node::List(list)) => statements = Some(list),
                ("Statement", one @ Node::Object(_)) => statements = Some(vec![one]),
                (other, _) => return Err(format!("{SYNTAX}: member `{}` is not known here", short(other))),
            }
        }
        let list = statements.ok_or_else(|| format!("{SYNTAX}: there is no Statement"))?;
        if list.is_empty() || list.len() > MAX_STATEMENTS {
            return Err(format!("{SYNTAX}: a policy has 1 to {MAX_STATEMENTS} statements"));
        }
        let statements = list.into_iter().map(statement).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { statements })
    }

    /// Whether the root user of `account` may still call PutKeyPolicy under this policy.
    pub fn root_can_put_policy(&self, account: &AccountId, key_arn: &str) -> bool {
        let hits = |s: &&Statement| {
            !s.conditional
                && s.principals.include_root(account)
                && s.actions.cover("kms:PutKeyPolicy", true)
                && s.resources.cover(key_arn, false)
        };
        let mut hit = self.statements.iter().filter(hits).peekable();
        hit.peek().is_some() && hit.all(|s| s.allow)
    }
}

impl Principals {
    fn include_root(&self, account: &AccountId) -> bool {
        let root = format!("arn:aws:iam::{account}:root");
        let named = |list: &[String]| list.iter().any(|p| p == "*" || *p == root || p == account.as_str());
        match self {
            Principals::Only(list) => named(list),
            Principals::AllBut(list) => !named(list),
        }
    }
}

impl Matches {
    fn cover(&self, text: &str, fold_case: bool) -> bool {
        let any = |list: &[String]| list.iter().any(|pattern| glob(pattern, text, fold_case));
        match self {
            Matches::Only(list) => any(list),
            Matches::AllBut(list) => !any(list),
        }
    }
}

/// `*` and `?`, iterative: the cost is bounded by the product of the lengths.
fn glob(pattern: &str, text: &str, fold_case: bool) -> bool {
    let same = |a: u8, b: u8| if fold_case { a.eq_ignore_ascii_case(&b) } else { a == b };
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while let Some(&c) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&q) if q == b'?' || same(q, c) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((sp, st)) => {
                    p = sp + 1;
                    t = st + 1;
                    star = Some((sp, st + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|&c| c == b'*'))
}

fn statement(node: Node) -> Result<Statement, String> {
    let Node::Object(members) = node else { return Err(format!("{SYNTAX}: a statement is not an object")) };
    let (mut effect, mut principals, mut actions, mut resources, mut conditional) = (None, None, None, None, false);
    for (name, value) in members {
        match name.as_str() {
            "Sid" => drop(strings(value, "Sid")?),
            "Effect" => {
                effect = match value {
                    Node::Text(t) if t == "Allow" => Some(true),
                    Node::Text(t) if t == "Deny" => Some(false),
                    _ => return Err(format!("{SYNTAX}: Effect is Allow or Deny")),
                }
            }
            "Principal" => once(&mut principals, Principals::Only(principal_list(value)?), "Principal")?,
            "NotPrincipal" => once(&mut principals, Principals::AllBut(principal_list(value)?), "Principal")?,
            "Action" => once(&mut actions, Matches::Only(action_list(value)?), "Action")?,
            "NotAction" => once(&mut actions, Matches::AllBut(action_list(value)?), "Action")?,
            "Resource" => once(&mut resources, Matches::Only(strings(value, "Resource")?), "Resource")?,
            "NotResource" => once(&mut resources, Matches::AllBut(strings(value, "Resource")?), "Resource")?,
            "Condition" => match value {
                Node::Object(members) => conditional = !members.is_empty(),
                _ => return Err(format!("{SYNTAX}: Condition is an object")),
            },
            other => return Err(format!("{SYNTAX}: member `{}` is not known in a statement", short(other))),
        }
    }
    Ok(Statement {
        allow: effect.ok_or_else(|| format!("{SYNTAX}: a statement has no Effect"))?,
        principals: principals.ok_or(NO_PRINCIPAL)?,
        // A statement without Action or Resource is tolerated in key policies and has no effect.
        actions: actions.unwrap_or(Matches::Only(Vec::new())),
        resources: resources.unwrap_or(Matches::Only(Vec::new())),
        conditional,
    })
}

fn once<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{SYNTAX}: a statement has {what} and Not{what}")),
    }
}

fn action_list(value: Node) -> Result<Vec<String>, String> {
    let actions = strings(value, "Action")?;
    for action in &actions {
        if action != "*" && action.matches(':').count() != 1 {
            return Err("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.".to_owned());
        }
    }
    Ok(actions)
}

/// `"*"` or `{"AWS": …, "Service": …, "Federated": …}`; the whole `*` is the only wildcard a principal may be.
fn principal_list(value: Node) -> Result<Vec<String>, String> {
    let members = match value {
        Node::Text(t) if t == "*" => return Ok(vec![t]),
        Node::Object(members) if !members.is_empty() => members,
        _ => return Err(BAD_PRINCIPAL.to_owned()),
    };
    let mut all = Vec::new();
    for (kind, value) in members {
        for name in strings(value, "Principal").map_err(|_| BAD_PRINCIPAL)? {
            let known = match kind.as_str() {
                "AWS" => name == "*" || name.parse::<AccountId>().is_ok() || is_iam_arn(&name),
                "Service" => is_domain(&name),
                "Federated" => is_domain(&name) || is_iam_arn(&name),
                _ => false,
            };
            if !known {
                return Err(BAD_PRINCIPAL.to_owned());
            }
            all.push(name);
        }
    }
    Ok(all)
}

fn is_iam_arn(text: &str) -> bool {
    let Ok(arn) = Arn::parse(text) else { return false };
    let kinds: &[&str] = match arn.service {
        "iam" => &["user/", "role/", "saml-provider/", "oidc-provider/"],
        "sts" => &["assumed-role/", "federated-user/"],
        _ => return false,
    };
    arn.partition.starts_with("aws")
        && arn.region.is_empty()
        && arn.account.parse::<AccountId>().is_ok()
        && !text.contains(['*', '?'])
        && ((arn.service == "iam" && arn.resource == "root")
            || kinds.iter().any(|k| arn.resource.strip_prefix(k).is_some_and(|name| !name.is_empty())))
}

fn is_domain(text: &str) -> bool {
    text.contains('.') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-/_:".contains(&b))
}

fn strings(value: Node, what: &str) -> Result<Vec<String>, String> {
    match value {
        Node::Text(t) => Ok(vec![t]),
        Node::List(list) => list
            .into_iter()
            .map(|n| match n {
                Node::Text(t) => Ok(t),
                _ => Err(format!("{SYNTAX}: {what} holds something that is no string")),
            })
            .collect(),
        _ => Err(format!("{SYNTAX}: {what} is a string or a list of strings")),
    }
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

/// JSON in which a duplicate member is an error: serde_json alone keeps the last, and two readers could disagree.
struct Json(Node);

#[derive(Debug, Clone)]
enum Node {
    Object(Vec<(String, Node)>),
    List(Vec<Node>),
    Text(String),
    /// Numbers, booleans, null: legal only inside conditions.
    Other,
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NodeVisitor).map(Json)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(Json(node)) = seq.next_element()? {
            list.push(node);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members: Vec<(String, Node)> = Vec::new();
        while let Some((name, Json(node))) = map.next_entry::<String, Json>()? {
            if members.iter().any(|(n, _)| *n == name) {
                return Err(serde::de::Error::custom(format!("duplicate member `{}`", short(&name))));
            }
            members.push((name, node));
        }
        Ok(Node::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11";

    fn account() -> AccountId {
        "111122223333".parse().unwrap()
    }

    fn one(statement: &str) -> String {
        format!(r#"{{"Version":"2012-10-17","Statement":[{statement}]}}"#)
    }

    #[test]
    fn refused_documents() {
        let root = r#""Principal":{"AWS":"arn:aws:iam::111122223333:root"}"#;
        let rows = [
            ("", SYNTAX),
            ("[]", SYNTAX),
            (r#"{"Version":"2012-10-17"}"#, SYNTAX),
            (r#"{"Version":"2011-10-17","Statement":[]}"#, "must be version"),
            (r#"{"Statement":[],"Statement":[]}"#, "duplicate member"),
            (r#"{"Statement":[],"Foo":1}"#, "`Foo`"),
            (&one(r#"{"Effect":"Allow","Action":"kms:*","Resource":"*"}"#), NO_PRINCIPAL),
            (&one(r#"{"Effect":"Maybe","Principal":"*"}"#), "Effect"),
            (
                &one(r#"{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:user/*"},"Action":"kms:*"}"#),
                BAD_PRINCIPAL,
            ),
            (&one(r#"{"Effect":"Allow","Principal":{"AWS":"nobody"},"Action":"kms:*"}"#), BAD_PRINCIPAL),
            (&one(r#"{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:group/g"}}"#), BAD_PRINCIPAL),
            (&one(r#"{"Effect":"Allow","Principal":{"Gcp":"x.y"},"Action":"kms:*"}"#), BAD_PRINCIPAL),
            (&one(&format!(r#"{{"Effect":"Allow",{root},"Action":"Encrypt"}}"#)), "prefaced by a vendor"),
            (&one(&format!(r#"{{"Effect":"Allow",{root},"Action":"kms:*","NotAction":"kms:*"}}"#)), "NotAction"),
        ];
        for (text, expected) in rows {
            let error = KeyPolicy::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn lockout() {
        let rows = [
            (true, default_policy(&account())),
            (true, one(r#"{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}"#)),
            (
                true,
                one(r#"{"Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":["kms:put*"],"Resource":"*"}"#),
            ),
            (false, one(r#"{"Effect":"Allow","Principal":{"AWS":"444455556666"},"Action":"kms:*","Resource":"*"}"#)),
            (false, one(r#"{"Effect":"Allow","Principal":"*","Action":"kms:Get*","Resource":"*"}"#)),
            (false, one(r#"{"Effect":"Allow","Principal":"*","Action":"kms:*"}"#)),
            (false, one(r#"{"Effect":"Allow","Principal":"*","NotAction":"kms:Put*","Resource":"*"}"#)),
            (
                false,
                one(
                    r#"{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"Bool":{"a:b":true}}}"#,
                ),
            ),
            (
                false,
                one(concat!(
                    r#"{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"},"#,
                    r#"{"Effect":"Deny","Principal":{"AWS":"111122223333"},"Action":"kms:PutKeyPolicy","Resource":"*"}"#
                )),
            ),
        ];
        for (expected, text) in rows {
            let policy = KeyPolicy::parse(&text).unwrap();
            assert_eq!(policy.root_can_put_policy(&account(), KEY), expected, "{text}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("**a", "ba", true),
            ("a*b*", "a", false),
        ] {
            assert_eq!(glob(pattern, text, false), expected, "{pattern} {text}");
        }
    }
}
