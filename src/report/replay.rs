//! The state at any moment: the nearest snapshot before it, and the changes that the records since then carry.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use serde_json::{Map, Value};

use super::record::{Record, date, parsed};
use crate::audit::snapshots;
use crate::ops::state::{State, apply};

/// A state that follows the records.
pub struct Replay {
    state: Value,
    /// Changes up to this version of the store are in the snapshot.
    from_version: u64,
    pub snapshot: Snapshot,
    /// Newest change of each thing, for two whose records came in the other order.
    newest: HashMap<(String, String), (u64, Value)>,
    /// Why the state may not be what it was.
    pub doubts: Vec<String>,
}

/// The snapshot that a replay began with.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub seq: u64,
    pub time: i64,
    pub object: String,
    pub sha256: String,
    /// Its record was seen and names the same bytes.
    pub proven: Option<bool>,
}

impl Replay {
    /// With the nearest snapshot at or before `at`, or else the oldest. `None`: there is none at all.
    pub fn begin(dir: &Path, at: i64) -> io::Result<Option<Replay>> {
        let mut nearest = None;
        for (seq, path) in snapshots::list(dir)?.into_iter().rev() {
            let time = snapshots::time_of(&path)?;
            nearest = Some((seq, path, time));
            if time <= at {
                break;
            }
        }
        let Some((seq, path, time)) = nearest else { return Ok(None) };
        let (json, sha256) = snapshots::read(&path)?;
        let state: Value = serde_json::from_slice(&json)?;
        let from_version = state.get("storeVersion").and_then(Value::as_u64).unwrap_or(0);
        let snapshot = Snapshot { seq, time, object: format!("snapshots/{seq:020}.json.gz"), sha256, proven: None };
        Ok(Some(Replay { state, from_version, snapshot, newest: HashMap::new(), doubts: Vec::new() }))
    }

    /// Takes what a record says was changed.
    pub fn follow(&mut self, record: &Record<'_>) {
        if record.seq() < self.snapshot.seq || record.is_intent() {
            return;
        }
        if record.is_system("StateSnapshot") {
            let details = record.details();
            if details.get("object").and_then(Value::as_str) == Some(&self.snapshot.object) {
                let proven = details.get("sha256").and_then(Value::as_str) == Some(&self.snapshot.sha256);
                self.snapshot.proven = Some(proven);
            }
        }
        if record.is_system("OutcomeUnknown") {
            let details = record.details();
            if details.get("effect").and_then(Value::as_str) != Some("not applied") {
                let what = details.get("intent").and_then(Value::as_str).unwrap_or("a change").to_owned();
                self.doubt(record, &format!("{what} took effect and its record was lost in a crash"));
            }
        }
        if record.event_name == "StoreRestore" && record.succeeded() {
            self.doubt(record, "a backup of the store was put back");
        }
        if let Some(change) = record.additional_event_data.state_change {
            let change = parsed(Some(change));
            if change.get("truncated").is_some() {
                self.doubt(record, "the change was too large for its record");
            } else {
                self.apply(&change);
            }
        }
    }

    fn doubt(&mut self, record: &Record<'_>, why: &str) {
        self.doubts.push(format!(
            "record {} of {}: {why}; what it changed is known from the next snapshot on",
            record.seq(),
            date(record.at())
        ));
    }

    fn apply(&mut self, change: &Value) {
        let version = change.get("storeVersion").and_then(Value::as_u64).unwrap_or(u64::MAX);
        if version <= self.from_version {
            return;
        }
        let Some(members) = change.as_object() else { return };
        for (kind, things) in members {
            let Some(things) = things.as_object() else { continue };
            for (name, patch) in things {
                let at = (kind.clone(), name.clone());
                let later = self.newest.get(&at).filter(|(newest, _)| *newest > version).map(|(_, p)| p.clone());
                self.patch(kind, name, patch);
                match later {
                    // Recorded before, made after: it counts last.
                    Some(later) => self.patch(kind, name, &later),
                    None => drop(self.newest.insert(at, (version, patch.clone()))),
                }
            }
        }
        if let Some(now) = self.state.get_mut("storeVersion") {
            *now = Value::from(now.as_u64().unwrap_or(0).max(version));
        }
    }

    fn patch(&mut self, kind: &str, name: &str, patch: &Value) {
        let Some(state) = self.state.as_object_mut() else { return };
        let things = state.entry(kind.to_owned()).or_insert_with(|| Value::Object(Map::new()));
        let Some(things) = things.as_object_mut() else { return };
        match patch {
            Value::Null => drop(things.remove(name)),
            patch => apply(things.entry(name.to_owned()).or_insert(Value::Null), patch),
        }
    }

    /// One thing as it is at this record.
    pub fn part(&self, kind: &str, name: &str) -> Option<&Value> {
        self.state.get(kind)?.get(name)
    }

    pub fn state(&self) -> Result<State, String> {
        serde_json::from_value(self.state.clone()).map_err(|error| format!("the state does not parse: {error}"))
    }
}
