//! Patterns: globs, policy variables and ARNs by segment. A pattern is tokenised once; what a variable stands for is put
//! in as literal text and never read as a pattern again, so that a tag whose value is `*` matches a star only
//! (authorization.md §2.3–2.5).

use std::borrow::Cow;

use super::keys::{ConditionKeys, Values};

/// A byte, `?` or `*` of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atom {
    Byte(u8),
    One,
    Star,
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    One,
    Star,
    Variable(Variable),
}

/// `${name}` or `${name, 'default'}`
#[derive(Debug, Clone)]
struct Variable {
    name: Box<str>,
    default: Option<Box<str>>,
}

impl Variable {
    /// Single-valued keys only.
    fn value<'a>(&'a self, keys: &'a dyn ConditionKeys) -> Option<Cow<'a, str>> {
        match keys.value(&self.name) {
            Some(Values::One(value)) => Some(value),
            Some(Values::Many(_)) | None => self.default.as_deref().map(Cow::Borrowed),
        }
    }

    /// The value, when there is effort left to copy it.
    fn paid_for<'a>(&'a self, keys: &'a dyn ConditionKeys) -> Option<Cow<'a, str>> {
        self.value(keys).filter(|value| keys.effort().is_none_or(|effort| effort.spend(value.len())))
    }
}

/// How a text is read as a pattern.
#[derive(Debug, Clone, Copy)]
pub struct Syntax {
    /// `*` and `?` are wildcards.
    pub wildcards: bool,
    /// `${…}` is a variable: from policy version 2012-10-17 on.
    pub variables: bool,
}

/// A `${` that is no variable.
#[derive(Debug)]
pub struct BadVariable;

#[derive(Debug, Clone)]
pub enum Pattern {
    Literal(Box<str>),
    Atoms(Box<[Atom]>),
    Template(Template),
}

/// A pattern with variables.
#[derive(Debug, Clone)]
pub struct Template(Box<[Piece]>);

impl Pattern {
    pub fn compile(text: &str, syntax: Syntax) -> Result<Pattern, BadVariable> {
        Ok(assemble(tokenise(text, syntax)?))
    }

    pub fn matches(&self, text: &str, keys: &dyn ConditionKeys) -> bool {
        match self {
            Pattern::Literal(own) => **own == *text,
            Pattern::Atoms(atoms) => compare(atoms, text, keys),
            Pattern::Template(template) => template.atoms(keys).is_some_and(|atoms| compare(&atoms, text, keys)),
        }
    }

    /// The text of a pattern without wildcards; `None` when a variable has no value.
    pub fn text<'a>(&'a self, keys: &'a dyn ConditionKeys) -> Option<Cow<'a, str>> {
        match self {
            Pattern::Literal(own) => Some(Cow::Borrowed(own)),
            Pattern::Atoms(_) => None,
            Pattern::Template(template) => template.text(keys).map(Cow::Owned),
        }
    }

    fn is_star(&self) -> bool {
        matches!(self, Pattern::Atoms(atoms) if **atoms == [Atom::Star])
    }

    fn has_variables(&self) -> bool {
        matches!(self, Pattern::Template(_))
    }
}

/// A comparison for which the decision pays.
fn compare(pattern: &[Atom], text: &str, keys: &dyn ConditionKeys) -> bool {
    match keys.effort() {
        Some(effort) => glob(pattern, text.as_bytes(), || effort.spend(1)),
        None => glob(pattern, text.as_bytes(), || true),
    }
}

impl Template {
    fn atoms(&self, keys: &dyn ConditionKeys) -> Option<Vec<Atom>> {
        let mut atoms = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => atoms.extend(text.bytes().map(Atom::Byte)),
                Piece::One => atoms.push(Atom::One),
                Piece::Star => atoms.push(Atom::Star),
                // RULE §2.5: substituted text is literal.
                Piece::Variable(variable) => atoms.extend(variable.paid_for(keys)?.bytes().map(Atom::Byte)),
            }
        }
        Some(atoms)
    }

    fn text(&self, keys: &dyn ConditionKeys) -> Option<String> {
        let mut whole = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => whole.push_str(text),
                Piece::One | Piece::Star => return None,
                Piece::Variable(variable) => whole.push_str(&variable.paid_for(keys)?),
            }
        }
        Some(whole)
    }
}

fn assemble(pieces: Vec<Piece>) -> Pattern {
    if pieces.iter().any(|p| matches!(p, Piece::Variable(_))) {
        return Pattern::Template(Template(pieces.into()));
    }
    let mut literal = String::new();
    let mut atoms = Vec::new();
    let mut wild = false;
    for piece in pieces {
        match piece {
            Piece::Text(text) => {
                atoms.extend(text.bytes().map(Atom::Byte));
                literal.push_str(&text);
            }
            Piece::One => {
                wild = true;
                atoms.push(Atom::One);
            }
            Piece::Star => {
                wild = true;
                atoms.push(Atom::Star);
            }
            Piece::Variable(_) => {}
        }
    }
    if wild { Pattern::Atoms(atoms.into()) } else { Pattern::Literal(literal.into()) }
}

fn tokenise(text: &str, syntax: Syntax) -> Result<Vec<Piece>, BadVariable> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if syntax.variables
            && let Some(inside) = rest.strip_prefix("${")
        {
            let (piece, after) = variable(inside)?;
            match piece {
                Piece::Text(text) => push_text(&mut pieces, &text),
                piece => pieces.push(piece),
            }
            rest = after;
            continue;
        }
        match c {
            // A run of stars is one star.
            '*' if syntax.wildcards => {
                if !matches!(pieces.last(), Some(Piece::Star)) {
                    pieces.push(Piece::Star);
                }
            }
            '?' if syntax.wildcards => pieces.push(Piece::One),
            c => push_text(&mut pieces, c.encode_utf8(&mut [0; 4])),
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    Ok(pieces)
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(last)) => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

/// What follows `${`, and the text after its `}`.
fn variable(inside: &str) -> Result<(Piece, &str), BadVariable> {
    let end = inside.find(['}', ',']).ok_or(BadVariable)?;
    let (name, after) = inside.split_at_checked(end).ok_or(BadVariable)?;
    let name = name.trim();
    if let Some(after) = after.strip_prefix('}') {
        let piece = match name {
            "" => return Err(BadVariable),
            "*" | "?" | "$" => Piece::Text(name.to_owned()),
            name => Piece::Variable(Variable { name: name.into(), default: None }),
        };
        return Ok((piece, after));
    }
    let quoted = after.strip_prefix(',').and_then(|t| t.trim_start().strip_prefix('\'')).ok_or(BadVariable)?;
    let (default, after) = quoted.split_once('\'').ok_or(BadVariable)?;
    let after = after.trim_start().strip_prefix('}').ok_or(BadVariable)?;
    if name.is_empty() {
        return Err(BadVariable);
    }
    Ok((Piece::Variable(Variable { name: name.into(), default: Some(default.into()) }), after))
}

/// Whether the whole of `text` matches. Iterative with one point to go back to: at most (pattern + 1) × (text + 1) steps. Where
/// `step` says `false` it goes no further, and nothing matched.
pub fn glob(pattern: &[Atom], text: &[u8], mut step: impl FnMut() -> bool) -> bool {
    let (mut p, mut t, mut back) = (0, 0, None);
    while let Some(&c) = text.get(t) {
        if !step() {
            return false;
        }
        match pattern.get(p) {
            Some(Atom::Star) => {
                p += 1;
                back = Some((p, t));
            }
            Some(Atom::One) => {
                p += 1;
                t += char_len(c);
            }
            Some(Atom::Byte(b)) if *b == c => {
                p += 1;
                t += 1;
            }
            _ => match back {
                Some((after_star, from)) => {
                    let next = from + text.get(from).map_or(1, |&c| char_len(c));
                    p = after_star;
                    t = next;
                    back = Some((after_star, next));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|a| *a == Atom::Star))
}

/// Bytes of the character that begins with `first`: `?` is one character, not one byte.
fn char_len(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

/// An ARN as a pattern: matched segment by segment on the first five colons.
#[derive(Debug, Clone)]
pub enum ArnPattern {
    /// `*`
    Any,
    Segments(Box<[Pattern; 6]>),
    /// One variable that stands for a whole ARN, in conditions.
    Whole(Pattern),
    /// Not an ARN: matches nothing.
    Never,
}

impl ArnPattern {
    pub fn compile(text: &str, variables: bool) -> Result<ArnPattern, BadVariable> {
        if text == "*" {
            return Ok(ArnPattern::Any);
        }
        let pieces = tokenise(text, Syntax { wildcards: true, variables })?;
        if let [Piece::Variable(_)] = pieces.as_slice() {
            return Ok(ArnPattern::Whole(assemble(pieces)));
        }
        let segments: Vec<Pattern> = split(pieces).into_iter().map(assemble).collect();
        Ok(match <Box<[Pattern; 6]>>::try_from(segments.into_boxed_slice()) {
            Ok(segments) => ArnPattern::Segments(segments),
            Err(_) => ArnPattern::Never,
        })
    }

    pub fn matches(&self, arn: &str, keys: &dyn ConditionKeys) -> bool {
        match self {
            ArnPattern::Any => true,
            ArnPattern::Segments(segments) => {
                let mut of_text = arn.splitn(6, ':');
                segments.iter().all(|own| of_text.next().is_some_and(|text| own.matches(text, keys)))
            }
            ArnPattern::Whole(pattern) => pattern.matches(arn, keys),
            ArnPattern::Never => false,
        }
    }

    /// RULE §1.6: for operations on an account the resource is `*`; `arn:…:ACCOUNT:*` stands for the `*` of that account.
    pub fn matches_account(&self, account: &str, keys: &dyn ConditionKeys) -> bool {
        match self {
            ArnPattern::Any => true,
            ArnPattern::Segments(segments) => {
                let [arn, _, service, region, own_account, resource] = &**segments;
                arn.matches("arn", keys)
                    && service.matches("kms", keys)
                    && own_account.matches(account, keys)
                    && resource.is_star()
                    && match keys.value("aws:RequestedRegion") {
                        Some(Values::One(here)) => region.matches(&here, keys),
                        _ => true,
                    }
            }
            ArnPattern::Whole(_) | ArnPattern::Never => false,
        }
    }

    /// Why the pattern must not stand in a Resource element, in AWS's words where they are known.
    pub fn fault(&self, text: &str) -> Option<String> {
        let segments = match self {
            ArnPattern::Any => return None,
            ArnPattern::Segments(segments) => segments,
            ArnPattern::Whole(_) | ArnPattern::Never => {
                return Some(format!("Resource {text} must be in ARN format or \"*\"."));
            }
        };
        let [arn, partition, service, region, account, _] = &**segments;
        if !matches!(arn, Pattern::Literal(t) if &**t == "arn") {
            return Some(format!("Resource {text} must be in ARN format or \"*\"."));
        }
        if [partition, service, region, account].iter().any(|s| s.has_variables()) {
            return Some("The policy failed legacy parsing".to_owned());
        }
        if let Pattern::Literal(partition) = partition
            && !partition.starts_with("aws")
        {
            return Some(format!("Partition \"{partition}\" is not valid for resource \"{text}\"."));
        }
        match service {
            Pattern::Literal(service) if !service.is_empty() => None,
            _ => Some("Resource vendor must be fully qualified and cannot contain regexes.".to_owned()),
        }
    }
}

/// Cuts at the first five colons that stand outside variables.
fn split(pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    let mut segments = vec![Vec::new()];
    let push = |segments: &mut Vec<Vec<Piece>>, piece: Piece| {
        if let Some(last) = segments.last_mut() {
            last.push(piece);
        }
    };
    for piece in pieces {
        let Piece::Text(text) = piece else {
            push(&mut segments, piece);
            continue;
        };
        // At most six segments in all.
        let cuts = 7_usize.saturating_sub(segments.len()).max(1);
        for (n, part) in text.splitn(cuts, ':').enumerate() {
            if n > 0 {
                segments.push(Vec::new());
            }
            if !part.is_empty() {
                push(&mut segments, Piece::Text(part.to_owned()));
            }
        }
    }
    segments
}

/// `service:Name` with wildcards. Case does not count: kept in lower case, and compared with lower case.
#[derive(Debug, Clone)]
pub enum ActionPattern {
    Any,
    Named { service: Box<[Atom]>, name: Box<[Atom]> },
    Never,
}

impl ActionPattern {
    pub fn compile(text: &str) -> ActionPattern {
        if text == "*" {
            return ActionPattern::Any;
        }
        match text.split_once(':') {
            Some((service, name)) => ActionPattern::Named { service: folded(service), name: folded(name) },
            None => ActionPattern::Never,
        }
    }

    pub fn matches(&self, service: &str, name: &str) -> bool {
        match self {
            ActionPattern::Any => true,
            ActionPattern::Named { service: own_service, name: own_name } => {
                glob(own_service, service.as_bytes(), || true) && glob(own_name, name.as_bytes(), || true)
            }
            ActionPattern::Never => false,
        }
    }

    /// Why the text must not stand in an Action element.
    pub fn fault(text: &str) -> Option<String> {
        if text == "*" {
            return None;
        }
        match text.split(':').collect::<Vec<_>>().as_slice() {
            [_] => Some("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.".to_owned()),
            [vendor, name]
                if vendor.is_empty()
                    || name.is_empty()
                    || !vendor.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) =>
            {
                Some(format!("Vendor {vendor} is not valid"))
            }
            [_, _] => None,
            _ => Some("Actions/Condition can contain only one colon.".to_owned()),
        }
    }
}

fn folded(text: &str) -> Box<[Atom]> {
    let mut atoms = Vec::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'*' if atoms.last() == Some(&Atom::Star) => {}
            b'*' => atoms.push(Atom::Star),
            b'?' => atoms.push(Atom::One),
            b => atoms.push(Atom::Byte(b.to_ascii_lowercase())),
        }
    }
    atoms.into()
}
