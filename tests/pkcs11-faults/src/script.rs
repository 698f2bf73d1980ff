//! The script: what goes wrong, and how the token behaves. Read again when another file stands in its place.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::Deserialize;

use crate::behaviour::Behaviour;
use crate::rules::Rule;

/// What one version of the file says.
#[derive(Default)]
pub struct Script {
    pub behaviour: Behaviour,
    pub rules: Vec<Rule>,
    /// Whether the log names the CKA_ID of the key that an Init gets.
    pub log_keys: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    profile: Option<String>,
    #[serde(default)]
    log_keys: bool,
    #[serde(default)]
    behaviour: toml::Table,
    #[serde(default, rename = "rule")]
    rules: Vec<Rule>,
}

const PROFILES: &[(&str, &str)] = &[
    ("cloudhsm", include_str!("../profiles/cloudhsm.toml")),
    ("luna", include_str!("../profiles/luna.toml")),
    ("nshield", include_str!("../profiles/nshield.toml")),
    ("yubihsm", include_str!("../profiles/yubihsm.toml")),
];

impl Script {
    fn parsed(text: &str, before: Option<&Script>) -> Result<Script, String> {
        let text: Text = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut behaviour = match &text.profile {
            None => toml::Table::new(),
            Some(name) => {
                let (_, profile) = PROFILES
                    .iter()
                    .find(|(known, _)| known == name)
                    .ok_or_else(|| format!("no profile is called `{name}`"))?;
                toml::from_str(profile).map_err(|error| format!("profile `{name}`: {error}"))?
            }
        };
        behaviour.extend(text.behaviour);
        let behaviour = behaviour.try_into().map_err(|error| error.to_string())?;
        for (at, rule) in text.rules.iter().enumerate() {
            rule.check().map_err(|why| format!("rule {}: {why}", at + 1))?;
            let older = before.and_then(|script| script.rules.iter().find(|old| rule.is_the_same_as(old)));
            if let Some(older) = older {
                rule.count_on_from(older);
            }
        }
        Ok(Script { behaviour, rules: text.rules, log_keys: text.log_keys })
    }
}

/// The file and what it said when it was read last.
pub struct Place {
    path: Option<PathBuf>,
    read: RwLock<Reading>,
    reader: Mutex<()>,
}

struct Reading {
    script: Arc<Script>,
    stamp: Option<Stamp>,
    /// Stays open, so that no other file can get the number of the inode that `stamp` names.
    _file: Option<File>,
}

#[derive(PartialEq, Eq, Clone, Copy)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Place {
    pub fn at(path: Option<PathBuf>) -> Place {
        let nothing = Reading { script: Arc::default(), stamp: None, _file: None };
        Place { path, read: RwLock::new(nothing), reader: Mutex::new(()) }
    }

    /// The script of now: one stat where nothing has changed.
    pub fn current(&self) -> Arc<Script> {
        let Some(path) = &self.path else { return self.known().0 };
        let stamp = stamp_of(std::fs::metadata(path), path);
        let (script, read) = self.known();
        if read == Some(stamp) {
            return script;
        }
        let _one = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = File::open(path).unwrap_or_else(|error| bad(path, &error.to_string()));
        let stamp = stamp_of(file.metadata(), path);
        let (script, read) = self.known();
        if read == Some(stamp) {
            return script;
        }
        let mut text = String::new();
        if let Err(error) = file.read_to_string(&mut text) {
            bad(path, &error.to_string());
        }
        let newer = Script::parsed(&text, Some(&script)).unwrap_or_else(|why| bad(path, &why));
        let newer = Arc::new(newer);
        *self.read.write().unwrap_or_else(PoisonError::into_inner) =
            Reading { script: Arc::clone(&newer), stamp: Some(stamp), _file: Some(file) };
        newer
    }

    fn known(&self) -> (Arc<Script>, Option<Stamp>) {
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&read.script), read.stamp)
    }
}

fn stamp_of(metadata: std::io::Result<std::fs::Metadata>, path: &Path) -> Stamp {
    let facts = metadata.unwrap_or_else(|error| bad(path, &error.to_string()));
    Stamp {
        device: facts.dev(),
        inode: facts.ino(),
        size: facts.size(),
        seconds: facts.mtime(),
        nanoseconds: facts.mtime_nsec(),
    }
}

/// A judge that does not know what it shall do must not look like a token that works, or like one that fails.
fn bad(path: &Path, why: &str) -> ! {
    eprintln!("pkcs11-faults: the script `{}`: {why}", path.display());
    crate::rules::exit(97)
}
