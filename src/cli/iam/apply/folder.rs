//! Which file of the folder says what. Everything is read and understood before anything is asked of the server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::forms::{
    Account, Details, Group, OidcProvider, Organization, Place, Policy, Role, Service, User, bare_policy,
};
use crate::cli::Failed;
use crate::ids::{AccountId, PolicyArn};
use crate::ops::{IamChange, IamDesired, IamEntity, IamKind, IamManaged};

const ACCOUNT: &str = "account.json";
const ACCOUNTS: &str = "accounts";
const DETAILS: &str = "account-authorization-details.json";
const ORGANIZATION: &str = "organization.json";
const SERVICE_CONTROL: &str = "service-control-policies";
/// Folders of an account, in which each file is an entity.
const KINDS: [(&str, IamKind); 6] = [
    ("policies", IamKind::Policy),
    ("groups", IamKind::Group),
    ("users", IamKind::User),
    ("roles", IamKind::Role),
    ("oidc-providers", IamKind::OidcProvider),
    ("services", IamKind::Service),
];
/// What one request to the server holds.
const LARGEST: u64 = 48 * 1024 * 1024;

/// `dir`: a folder, or one file with the output of get-account-authorization-details.
pub fn read(dir: &Path, account: &AccountId) -> Result<IamDesired, Failed> {
    let mut reader = Reader {
        root: dir.to_owned(),
        left: LARGEST,
        source: Context::new(&SHA256),
        entities: Vec::new(),
        managed: BTreeSet::new(),
    };
    let kind = fs::metadata(dir).map_err(|e| Failed::new(66, format!("reading `{}`: {e}", dir.display())))?;
    if kind.is_dir() {
        reader.top(account)?;
    } else {
        reader.root = dir.parent().unwrap_or(Path::new("")).to_owned();
        reader.details(dir, account)?;
    }
    if reader.entities.is_empty() && reader.managed.is_empty() {
        return Err(Failed::new(
            1,
            format!(
                "`{}` has no identities: policies/, groups/, users/, roles/ and so on are looked for",
                dir.display()
            ),
        ));
    }
    no_name_twice(&reader.entities)?;
    let source = hex::encode(reader.source.finish());
    Ok(IamDesired { source, entities: reader.entities, managed: reader.managed })
}

struct Reader {
    root: PathBuf,
    left: u64,
    source: Context,
    entities: Vec<IamEntity>,
    managed: BTreeSet<IamManaged>,
}

impl Reader {
    fn top(&mut self, account: &AccountId) -> Result<(), Failed> {
        let root = self.root.clone();
        self.account(&root, account, true)?;
        let file = root.join(ORGANIZATION);
        if file.exists() {
            let text = self.text(&file)?;
            // One organisation, or a list of them.
            let organizations: Vec<Organization> = match text.trim_start().starts_with('[') {
                true => self.parsed(&file, &text)?,
                false => vec![self.parsed(&file, &text)?],
            };
            for organization in organizations {
                for put in organization.changes().map_err(|error| self.wrong(&file, &error))? {
                    self.add(&file, put);
                }
            }
            self.managed.insert(IamManaged { kind: IamKind::Unit, account: None });
        }
        let folder = root.join(SERVICE_CONTROL);
        if folder.is_dir() {
            self.managed.insert(IamManaged { kind: IamKind::Policy, account: None });
            for file in self.files(&folder)? {
                let text = self.text(&file)?;
                let place = Place { account, stem: &stem(&file), policies: &BTreeMap::new() };
                let put = match self.is_bare(&file, &text)? {
                    true => bare_policy(&text, &place, true),
                    false => self.parsed::<Policy<'_>>(&file, &text)?.service_control(&place),
                };
                let put = put.map_err(|error| self.wrong(&file, &error))?;
                self.add(&file, put);
            }
        }
        let accounts = root.join(ACCOUNTS);
        if accounts.is_dir() {
            for (path, name) in self.listed(&accounts)? {
                if name.starts_with('.') || !path.is_dir() {
                    continue;
                }
                let account = name.parse::<AccountId>().map_err(|error| self.wrong(&path, &error.to_string()))?;
                self.account(&path, &account, false)?;
            }
        }
        Ok(())
    }

    /// What one account has, in its folder.
    fn account(&mut self, dir: &Path, account: &AccountId, top: bool) -> Result<(), Failed> {
        self.nothing_else(dir, top)?;
        let file = dir.join(ACCOUNT);
        if file.exists() {
            let text = self.text(&file)?;
            let place = Place { account, stem: "", policies: &BTreeMap::new() };
            let put = self.parsed::<Account>(&file, &text)?.change(&place);
            let put = put.map_err(|error| self.wrong(&file, &error))?;
            self.add(&file, put);
        }
        let mut policies = BTreeMap::new();
        for (name, kind) in KINDS {
            let folder = dir.join(name);
            if !folder.is_dir() {
                continue;
            }
            self.managed.insert(IamManaged { kind, account: Some(account.clone()) });
            for file in self.files(&folder)? {
                let text = self.text(&file)?;
                let place = Place { account, stem: &stem(&file), policies: &policies };
                let put = match kind {
                    IamKind::Policy if self.is_bare(&file, &text)? => bare_policy(&text, &place, false),
                    IamKind::Policy => self.parsed::<Policy<'_>>(&file, &text)?.change(&place),
                    IamKind::Group => self.parsed::<Group<'_>>(&file, &text)?.change(&place),
                    IamKind::User => self.parsed::<User<'_>>(&file, &text)?.change(&place),
                    IamKind::Role => self.parsed::<Role<'_>>(&file, &text)?.change(&place),
                    IamKind::OidcProvider => self.parsed::<OidcProvider<'_>>(&file, &text)?.change(&place),
                    _ => self.parsed::<Service>(&file, &text)?.change(&place),
                };
                let put = put.map_err(|error| self.wrong(&file, &error))?;
                if let IamChange::PutPolicy(spec) = &put {
                    policies.insert(last_name(&spec.arn).to_owned(), spec.arn.clone());
                }
                self.add(&file, put);
            }
        }
        let details = dir.join(DETAILS);
        if details.exists() {
            self.details(&details, account)?;
        }
        Ok(())
    }

    fn details(&mut self, file: &Path, account: &AccountId) -> Result<(), Failed> {
        let text = self.text(file)?;
        let details: Details<'_> = self.parsed(file, &text)?;
        if details.is_truncated {
            return Err(self.wrong(file, "the export is one page of several (`IsTruncated`): get the whole"));
        }
        let wrong = |error: String| self.wrong(file, &error);
        let own = details.policies.into_iter().filter(|policy| !policy.is_aws()).collect::<Vec<_>>();
        let policies = own.iter().map(|policy| Ok((policy.name().to_owned(), policy.arn(account)?)));
        let policies: BTreeMap<String, PolicyArn> = policies.collect::<Result<_, String>>().map_err(wrong)?;
        let place = Place { account, stem: "", policies: &policies };
        let mut puts = Vec::new();
        for policy in own {
            puts.push((IamKind::Policy, policy.change(&place).map_err(wrong)?));
        }
        for group in details.group_detail_list {
            puts.push((IamKind::Group, group.change(&place).map_err(wrong)?));
        }
        for user in details.user_detail_list {
            puts.push((IamKind::User, user.change(&place).map_err(wrong)?));
        }
        for role in details.role_detail_list {
            puts.push((IamKind::Role, role.change(&place).map_err(wrong)?));
        }
        for (kind, put) in puts {
            // A list that is empty may have been filtered out of the export: nothing is pruned for it.
            self.managed.insert(IamManaged { kind, account: Some(account.clone()) });
            self.add(file, put);
        }
        Ok(())
    }

    fn add(&mut self, file: &Path, put: IamChange) {
        self.entities.push(IamEntity { file: self.shown(file), put });
    }

    /// What looks like a document and is none of ours is more likely a wrong name than something else.
    fn nothing_else(&self, dir: &Path, top: bool) -> Result<(), Failed> {
        let mut known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).chain([ACCOUNT, DETAILS]).collect();
        if top {
            known.extend([ORGANIZATION, SERVICE_CONTROL, ACCOUNTS]);
        }
        for (path, name) in self.listed(dir)? {
            if name.starts_with('.') || known.contains(&name.as_str()) {
                continue;
            }
            let has_documents = path.is_dir() && self.listed(&path)?.iter().any(|(path, _)| is_json(path));
            if has_documents || is_json(&path) {
                let hint = nearest(&name, known.iter().copied());
                return Err(self.wrong(&path, &format!("it has no meaning here{hint}")));
            }
        }
        Ok(())
    }

    fn files(&self, folder: &Path) -> Result<Vec<PathBuf>, Failed> {
        let mut files = Vec::new();
        for (path, name) in self.listed(folder)? {
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                return Err(self.wrong(&path, "folders in a folder have no meaning: paths are said in the documents"));
            }
            if is_json(&path) {
                files.push(path);
            }
        }
        Ok(files)
    }

    /// In the order of their names.
    fn listed(&self, dir: &Path) -> Result<Vec<(PathBuf, String)>, Failed> {
        let told = |e: std::io::Error| Failed::new(74, format!("reading `{}`: {e}", dir.display()));
        let mut listed = Vec::new();
        for entry in fs::read_dir(dir).map_err(told)? {
            let entry = entry.map_err(told)?;
            listed.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
        }
        listed.sort();
        Ok(listed)
    }

    fn text(&mut self, file: &Path) -> Result<String, Failed> {
        use std::io::Read;
        let told = |e: std::io::Error| Failed::new(74, format!("reading `{}`: {e}", file.display()));
        let mut bytes = Vec::new();
        let length = fs::File::open(file).map_err(told)?.take(self.left + 1).read_to_end(&mut bytes).map_err(told)?;
        self.left = self
            .left
            .checked_sub(length as u64)
            .ok_or_else(|| self.wrong(file, &format!("the folder has more than {LARGEST} bytes of documents")))?;
        let name = self.shown(file);
        for part in [name.as_bytes(), &bytes] {
            self.source.update(&(part.len() as u64).to_be_bytes());
            self.source.update(part);
        }
        String::from_utf8(bytes).map_err(|_| self.wrong(file, "it is no UTF-8"))
    }

    fn is_bare(&self, file: &Path, text: &str) -> Result<bool, Failed> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Probe {
            statement: Option<IgnoredAny>,
        }
        Ok(self.parsed::<Probe>(file, text)?.statement.is_some())
    }

    fn parsed<'a, T: Deserialize<'a>>(&self, file: &Path, text: &'a str) -> Result<T, Failed> {
        serde_json::from_str(text).map_err(|error| {
            let text = error.to_string();
            let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
            Failed::new(1, format!("{}:{}: {}", self.shown(file), error.line(), plain(what)))
        })
    }

    fn wrong(&self, file: &Path, what: &str) -> Failed {
        Failed::new(1, format!("{}: {what}", self.shown(file)))
    }

    fn shown(&self, file: &Path) -> String {
        file.strip_prefix(&self.root).unwrap_or(file).display().to_string()
    }
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "json")
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn last_name(arn: &PolicyArn) -> &str {
    arn.as_str().rsplit('/').next().unwrap_or_default()
}

/// An unknown member with the one that was meant, instead of all that there are.
fn plain(what: &str) -> String {
    let words: Vec<&str> = what.split('`').skip(1).step_by(2).collect();
    match (what.starts_with("unknown field `"), words.split_first()) {
        (true, Some((name, known))) => format!("unknown member `{name}`{}", nearest(name, known.iter().copied())),
        _ => what.replace("field `", "member `"),
    }
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let distance = |other: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase());
    match known.map(|other| (distance(other), other)).min() {
        Some((_, other)) => format!(": did you mean `{other}`?"),
        None => String::new(),
    }
}

/// RULE IAM API: names are unique in their account, and a difference in case is none.
fn no_name_twice(entities: &[IamEntity]) -> Result<(), Failed> {
    let mut seen: BTreeMap<(&str, String, String), &str> = BTreeMap::new();
    for IamEntity { file, put } in entities {
        let (kind, account, name) = match put {
            IamChange::PutAccount(spec) => ("account", String::new(), spec.id.to_string()),
            IamChange::PutUnit(spec) => ("unit", String::new(), spec.id.clone()),
            IamChange::PutUser(spec) => ("user", spec.account.to_string(), spec.name.to_string()),
            IamChange::PutGroup(spec) => ("group", spec.account.to_string(), spec.name.to_string()),
            IamChange::PutRole(spec) => ("role", spec.account.to_string(), spec.name.to_string()),
            IamChange::PutPolicy(spec) => {
                let account = spec.arn.as_str().split(':').nth(4).unwrap_or_default();
                ("policy", account.to_owned(), last_name(&spec.arn).to_owned())
            }
            IamChange::PutOidcProvider(spec) => ("OIDC provider", spec.account.to_string(), spec.url.clone()),
            IamChange::PutService(spec) => ("service", String::new(), spec.name.to_string()),
            _ => continue,
        };
        if let Some(other) = seen.insert((kind, account, name.to_lowercase()), file) {
            return Err(Failed::new(
                1,
                format!("{file}: {kind} `{name}` is in {other} too: names that differ in case alone are one"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
