//! `[token]` and `[[custom_token]]`: which tokens, by which library, with which sizes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Document, Section};
use super::{HOUR, PinSource, Problem, milliseconds, path, seconds, size, uri};
use crate::ids::ClusterId;

/// Tokens of one key store.
const MOST_MEMBERS: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The vendor's PKCS#11 library.
    pub module: PathBuf,
    /// As `CustomToken::cluster`: CreateCustomKeyStore refuses it as in use.
    pub cluster: Option<ClusterId>,
    pub selector: TokenSelector,
    /// A file of `hsm-config/profiles/`.
    pub profile: Option<PathBuf>,
    pub pin: PinSource,
    /// Directory of the marks of rejected PINs, of this token and the custom ones.
    pub pin_marks: PathBuf,
    pub workers: usize,
    /// Calls that may wait for a worker.
    pub queue: usize,
    pub deadline: Duration,
    /// For key generation and destruction.
    pub generate_deadline: Duration,
    /// The first wait before another try to bring a token back, and the longest; of the custom ones, too.
    pub retry_first: Duration,
    pub retry_longest: Duration,
    /// After a deadline, until a session whose call did not come back counts as lost; of the custom ones, too.
    pub hang_grace: Duration,
    /// Variables for the vendor's library, to be set before it is loaded.
    pub environment: BTreeMap<String, String>,
    pub isolation: Isolation,
    pub together: Together,
}

/// Which process loads the vendor's library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Isolation {
    InProcess,
    Process {
        /// Program and arguments, in the place of this program as a worker.
        command: Option<Vec<String>>,
    },
}

/// Which of several tokens with the same keys does a call that changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// The first one that is well.
    Preferred,
    /// One after the other.
    Spread,
}

/// Further tokens that hold the same keys as the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Together {
    pub members: Vec<TokenMember>,
    pub reads: Reads,
    /// Members, the first one too, that hold a new key before CreateKey answers.
    pub require: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMember {
    /// Unique within the key store; the first one has the token's own name.
    pub name: String,
    pub module: PathBuf,
    pub selector: TokenSelector,
    pub profile: Option<PathBuf>,
    /// `None`: the first one's.
    pub pin: Option<PinSource>,
    /// Variables of its worker process, with those of the token that it is a member of.
    pub environment: BTreeMap<String, String>,
}

/// A token that a custom key store can be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomToken {
    /// What the operator calls it; unique, not `default`.
    pub name: String,
    /// By default `[token]`'s.
    pub module: PathBuf,
    pub selector: TokenSelector,
    pub profile: Option<PathBuf>,
    /// `None`: derived from the serial when the token is first seen, and kept.
    pub cluster: Option<ClusterId>,
    /// The crypto user's name, for tokens whose PIN is `user:password`.
    pub user: String,
    /// `CKA_LABEL` of the token's identity certificate, a public CKO_CERTIFICATE.
    pub identity_certificate: Option<String>,
    pub workers: usize,
    pub queue: usize,
    pub deadline: Duration,
    pub generate_deadline: Duration,
    pub together: Together,
    /// By default `[token]`'s.
    pub isolation: Isolation,
    /// Variables of its worker process: `[token]`'s, and its own in their place.
    pub environment: BTreeMap<String, String>,
}

/// Which token, by label or serial at least; what is `None` may be anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSelector {
    pub label: Option<String>,
    pub serial: Option<String>,
    pub model: Option<String>,
    pub manufacturer: Option<String>,
}

pub(super) fn token(section: &Section<'_>, base_dir: &Path) -> Result<Token, Problem> {
    let module = base_dir.join(section.required_text("module")?);
    let (selector, profile) = (selector(section)?, path(section, "profile", base_dir)?);
    let environment = environment(section)?;
    let isolation = isolation(section, None)?;
    let first = TokenMember {
        name: "default".to_owned(),
        module,
        selector,
        profile,
        pin: None,
        environment: environment.clone(),
    };
    let retry_first = milliseconds(section, "retry_first_ms", 200)?;
    let retry_longest = milliseconds(section, "retry_longest_ms", 30_000)?;
    if retry_longest < retry_first {
        return Err(section.problem("retry_longest_ms", "is less than `retry_first_ms`"));
    }
    Ok(Token {
        pin: pin(section, base_dir)?,
        together: together(section, &first, &isolation, base_dir)?,
        module: first.module,
        selector: first.selector,
        profile: first.profile,
        cluster: section.parsed("cluster_id")?,
        pin_marks: path(section, "pin_marks", base_dir)?.unwrap_or_else(super::pin::default_marks),
        workers: size(section, "workers", 1..=64, 2)?,
        queue: size(section, "queue", 1..=1_000_000, 1_024)?,
        deadline: milliseconds(section, "deadline_ms", 10_000)?,
        generate_deadline: seconds(section, "generate_deadline_seconds", HOUR, 60)?,
        retry_first,
        retry_longest,
        hang_grace: milliseconds(section, "hang_grace_ms", 30_000)?,
        environment,
        isolation,
    })
}

/// `[[custom_token]]`, each another token under another name.
pub(super) fn custom_tokens(document: &Document, token: &Token, base_dir: &Path) -> Result<Vec<CustomToken>, Problem> {
    let mut tokens: Vec<CustomToken> = Vec::new();
    for section in document.sections("custom_token") {
        let one = custom_token(&section, token, base_dir)?;
        if tokens.iter().any(|other| other.name == one.name) {
            return Err(section.problem("name", format_args!("is `{}`: another token has the same", one.name)));
        }
        let default =
            std::iter::once(("default", (&*token.module, &token.selector, &token.environment), &token.cluster));
        let before = tokens.iter().map(|t| (t.name.as_str(), (&*t.module, &t.selector, &t.environment), &t.cluster));
        let members =
            std::iter::once(&token.together).chain(tokens.iter().map(|t| &t.together)).flat_map(|t| &t.members);
        let members = members.map(|m| (m.name.as_str(), (&*m.module, &m.selector, &m.environment), &None));
        for (name, other, cluster) in default.chain(before).chain(members) {
            if same_token((&one.module, &one.selector, &one.environment), other) {
                let key = ["uri", "label", "serial"].into_iter().find(|key| section.has(key)).unwrap_or("label");
                return Err(section.problem(key, format_args!("names the same token as `{name}`")));
            }
            if one.cluster.is_some() && one.cluster == *cluster {
                return Err(section.problem("cluster_id", format_args!("is also that of the token `{name}`")));
            }
        }
        tokens.push(one);
    }
    Ok(tokens)
}

fn custom_token(section: &Section<'_>, default: &Token, base_dir: &Path) -> Result<CustomToken, Problem> {
    let module = path(section, "module", base_dir)?;
    let profile = path(section, "profile", base_dir)?;
    let name = section.required_text("name")?;
    if name == "default" {
        return Err(section.problem("name", "is `default`, which is the token of `[token]`: choose another"));
    }
    is_name(section, name)?;
    let user = section.text("user")?.unwrap_or("kmsuser");
    // A CloudHSM PIN is `user:password`.
    if user.contains(':') || user.chars().any(char::is_control) {
        return Err(section.problem("user", "is the name alone, without `:` and password"));
    }
    let isolation = isolation(section, Some(&default.isolation))?;
    let first = TokenMember {
        name: name.to_owned(),
        selector: selector(section)?,
        // What is known of a kind of token goes with its library.
        profile: profile.or_else(|| if module.is_none() { default.profile.clone() } else { None }),
        module: module.unwrap_or_else(|| default.module.clone()),
        pin: None,
        environment: own_environment(section, &isolation, &default.environment)?,
    };
    Ok(CustomToken {
        together: together(section, &first, &isolation, base_dir)?,
        name: first.name,
        selector: first.selector,
        profile: first.profile,
        module: first.module,
        cluster: section.parsed("cluster_id")?,
        user: user.to_owned(),
        identity_certificate: section.text("identity_certificate")?.map(str::to_owned),
        workers: size(section, "workers", 1..=64, 2)?,
        queue: size(section, "queue", 1..=1_000_000, 1_024)?,
        deadline: milliseconds(section, "deadline_ms", 10_000)?,
        generate_deadline: seconds(section, "generate_deadline_seconds", HOUR, 60)?,
        isolation,
        environment: first.environment,
    })
}

fn is_name(section: &Section<'_>, name: &str) -> Result<(), Problem> {
    if name.len() > 64 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(section.problem("name", "is not a name of at most 64 letters, digits, `.`, `_` and `-`"));
    }
    Ok(())
}

/// `[[….member]]`: further tokens that hold the same keys as the first one.
fn together(
    section: &Section<'_>,
    first: &TokenMember,
    isolation: &Isolation,
    base_dir: &Path,
) -> Result<Together, Problem> {
    let mut members: Vec<TokenMember> = Vec::new();
    for section in section.sections("member") {
        let name = section.required_text("name")?;
        is_name(&section, name)?;
        let module = path(&section, "module", base_dir)?;
        let profile = path(&section, "profile", base_dir)?;
        let has_pin = ["pin_file", "pin_credential", "pin_env"].into_iter().any(|key| section.has(key));
        let one = TokenMember {
            name: name.to_owned(),
            selector: selector(&section)?,
            profile: profile.or_else(|| if module.is_none() { first.profile.clone() } else { None }),
            module: module.unwrap_or_else(|| first.module.clone()),
            pin: if has_pin { Some(pin(&section, base_dir)?) } else { None },
            environment: own_environment(&section, isolation, &first.environment)?,
        };
        for other in std::iter::once(first).chain(&members) {
            if other.name == one.name {
                return Err(section.problem("name", format_args!("is `{}`: another member has the same", one.name)));
            }
            // Copies of one token may have one serial: their libraries tell them apart, or what those are told.
            if one.selector == other.selector && one.module == other.module && one.environment == other.environment {
                let key = ["uri", "label", "serial"].into_iter().find(|key| section.has(key)).unwrap_or("label");
                return Err(section.problem(key, format_args!("names the same token as `{}`", other.name)));
            }
        }
        members.push(one);
    }
    // The first one counts, too; more than that a set of members cannot tell apart.
    if members.len() >= MOST_MEMBERS {
        return Err(section.problem("member", format_args!("stands too often: at most {} times", MOST_MEMBERS - 1)));
    }
    let reads = match section.text("reads")? {
        None | Some("preferred") => Reads::Preferred,
        Some("spread") => Reads::Spread,
        Some(other) => {
            return Err(section.problem("reads", format_args!("is `{other}`: write `preferred` or `spread`")));
        }
    };
    let require = section.integer("require_members", 1..=members.len() as u64 + 1, 1)?;
    Ok(Together { members, reads, require: usize::try_from(require).unwrap_or(1) })
}

/// Where a token is found: its library, its name, and what the library is told.
type Place<'a> = (&'a Path, &'a TokenSelector, &'a BTreeMap<String, String>);

/// A serial tells tokens apart whatever the library; a label only does within one.
fn same_token((module, selector, environment): Place<'_>, (other_module, other, other_environment): Place<'_>) -> bool {
    selector.label == other.label
        && selector.serial == other.serial
        && (selector.serial.is_some() || (module, environment) == (other_module, other_environment))
}

fn selector(section: &Section<'_>) -> Result<TokenSelector, Problem> {
    let owned = |key| -> Result<Option<String>, Problem> { Ok(section.text(key)?.map(str::to_owned)) };
    let selector = match section.text("uri")? {
        Some(uri) => {
            if let Some(key) = ["label", "serial", "model", "manufacturer"].into_iter().find(|key| section.has(key)) {
                return Err(section.problem(key, "stands beside `uri`: keep one of the two ways"));
            }
            uri::parse(uri).map_err(|what| section.problem("uri", what))?
        }
        None => TokenSelector {
            label: owned("label")?,
            serial: owned("serial")?,
            model: owned("model")?,
            manufacturer: owned("manufacturer")?,
        },
    };
    // Model and manufacturer alone would take whatever token comes up first after a change of hardware.
    if selector.label.is_none() && selector.serial.is_none() {
        let (key, what) = match section.has("uri") {
            true => ("uri", "names no token: add `token=…` or `serial=…`"),
            false => ("label", "is missing: name the token by `label`, `serial` or `uri`"),
        };
        return Err(section.problem(key, what));
    }
    Ok(selector)
}

fn pin(section: &Section<'_>, base_dir: &Path) -> Result<PinSource, Problem> {
    let file = path(section, "pin_file", base_dir)?;
    let credential = section.text("pin_credential")?;
    let variable = section.text("pin_env")?;
    match (file, credential, variable) {
        (Some(file), None, None) => Ok(PinSource::File(file)),
        (None, Some(name), None) if name.contains('/') || name.starts_with('.') => {
            Err(section
                .problem("pin_credential", "is a name and no path: the file is looked for in CREDENTIALS_DIRECTORY"))
        }
        (None, Some(name), None) => Ok(PinSource::Credential(name.to_owned())),
        (None, None, Some(name)) if name.contains(['=', '\0']) => {
            Err(section.problem("pin_env", "is the name of an environment variable and not its value"))
        }
        (None, None, Some(name)) => Ok(PinSource::Environment(name.to_owned())),
        (None, None, None) => {
            Err(section.problem("pin_file", "is missing: set `pin_file`, `pin_credential` or `pin_env`"))
        }
        _ => Err(section.problem(
            "pin_file",
            "is not the only source of the PIN: keep one of `pin_file`, `pin_credential` and `pin_env`",
        )),
    }
}

/// What a custom token does not say is as in `[token]`.
fn isolation(section: &Section<'_>, default: Option<&Isolation>) -> Result<Isolation, Problem> {
    let command = section.texts("worker_command")?;
    let kept = match default {
        Some(Isolation::Process { command }) => command.clone(),
        _ => None,
    };
    let isolated = match section.text("isolation")? {
        None => !matches!(default, Some(Isolation::InProcess)),
        Some("process") => true,
        Some("in-process") => false,
        Some(other) => {
            return Err(section.problem("isolation", format_args!("is `{other}`: write `process` or `in-process`")));
        }
    };
    match command {
        Some(command) if command.first().is_some_and(|program| program.is_empty()) => {
            Err(section.problem("worker_command", "names no program"))
        }
        // An empty list takes a command of `[token]` back.
        Some(command) if isolated => {
            let command = command.into_iter().map(str::to_owned).collect::<Vec<_>>();
            Ok(Isolation::Process { command: (!command.is_empty()).then_some(command) })
        }
        _ if isolated => Ok(Isolation::Process { command: kept }),
        _ => Ok(Isolation::InProcess),
    }
}

/// Those of `[token]` or of the first member, and what the section says in their place. RULE: variables are a process's: a
/// library in the service's own has those of `[token]`, whichever token it is for.
fn own_environment(
    section: &Section<'_>,
    isolation: &Isolation,
    common: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Problem> {
    let own = environment(section)?;
    if !own.is_empty() && *isolation == Isolation::InProcess {
        return Err(section.problem(
            "environment",
            "needs `isolation = \"process\"`: libraries in the service's own process have the variables of \
             `[token] environment` alone",
        ));
    }
    Ok(common.iter().map(|(name, value)| (name.clone(), value.clone())).chain(own).collect())
}

fn environment(section: &Section<'_>) -> Result<BTreeMap<String, String>, Problem> {
    let environment = section.text_map("environment")?;
    match environment.iter().find(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
    {
        Some((name, _)) => {
            Err(section.problem("environment", format_args!("has `{name}`, which cannot be a variable")))
        }
        None => Ok(environment),
    }
}
