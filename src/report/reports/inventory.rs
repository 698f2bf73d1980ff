//! R1: the keys as they were at a moment. R9: the tokens.

use std::collections::{BTreeMap, HashMap};

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::super::list;
use super::super::pass::Needs;
use super::super::record::{Record, date, parsed};
use super::super::table::{SOURCE, Table};
use super::super::{Query, ReportError};
use super::uses::{LastUse, is_use};
use super::{End, Moment, Report};
use crate::ops::state::{Key, State};

const DAY_MS: i64 = 86_400_000;
/// Tags that say whose a key is.
const OWNER_TAGS: &[&str] = &["owner", "custodian", "team", "contact"];
/// A tag with which an administrator says that a key is compromised.
const COMPROMISED: &str = "compromised";

/// What the log says of one key.
#[derive(Default)]
struct Seen {
    created_by: Option<(String, String)>,
    last: Option<LastUse>,
    days_30: u64,
    days_90: u64,
    operations: std::collections::BTreeSet<String>,
}

pub(super) struct KeyInventory {
    query: Query,
    /// By ARN.
    seen: HashMap<String, Seen>,
}

impl KeyInventory {
    pub fn new(query: Query) -> Self {
        Self { query, seen: HashMap::new() }
    }
}

const MAKE: &[&str] = &["CreateKey", "KeyAdopt", "RotateAlias"];

impl Report for KeyInventory {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        if !moment.until_then || !record.succeeded() {
            return;
        }
        if MAKE.contains(&record.event_name.as_ref()) {
            // The last key of a rotation is the new one.
            if let Some(key) = record.keys().last() {
                let seen = self.seen.entry(key.to_owned()).or_default();
                seen.created_by.get_or_insert((record.principal(), record.event_id.to_string()));
            }
        } else if is_use(record) {
            for key in record.keys() {
                let seen = self.seen.entry(key.to_owned()).or_default();
                let age = self.query.as_of - moment.at;
                seen.days_30 += u64::from(age <= 30 * DAY_MS);
                seen.days_90 += u64::from(age <= 90 * DAY_MS);
                seen.operations.insert(record.event_name.to_string());
                seen.last = Some(LastUse::of(record, moment.at));
            }
        }
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        let state = end.state()?;
        let mut table = Table::new(&[
            "key_arn",
            "aliases",
            "description",
            "key_state",
            "nist_state",
            "key_spec",
            "key_usage",
            "origin",
            "provenance",
            "token",
            "token_serial",
            "cka_id",
            "sensitive",
            "extractable",
            "always_sensitive",
            "never_extractable",
            "generated_in_token",
            "fingerprint",
            "created",
            "created_by",
            "material_id",
            "material_since",
            "age_days",
            "rotation_period_days",
            "next_rotation",
            "overdue",
            "deletion_date",
            "last_used",
            "last_operation",
            "last_used_by",
            "last_use_event_id",
            "uses_30_days",
            "uses_90_days",
            "operations_seen",
            "owner_tags",
            "tags",
            "policy_version",
            "policy_sha256",
            "grants",
            "principals_in_policy",
            SOURCE,
        ]);
        let mut aliases: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for alias in state.aliases.values() {
            aliases.entry(alias.target.to_string()).or_default().push(alias.name.to_string());
        }
        let mut grants: BTreeMap<String, u64> = BTreeMap::new();
        for grant in state.grants.values() {
            *grants.entry(grant.key.to_string()).or_default() += 1;
        }
        end.notes.push(format!(
            "a key counts as overdue when its material is older than {} days ([rotation] max_age_days)",
            end.query.rotation_days
        ));
        let nobody = Seen::default();
        for key in state.keys.values().filter(|key| end.query.wants_key(&key.id.to_string(), &key.arn)) {
            let id = key.id.to_string();
            let seen = self.seen.get(&key.arn).unwrap_or(&nobody);
            let material = key.materials.last();
            let since = material.map_or(key.created, |material| material.created);
            let age = (end.query.as_of - since).div_euclid(DAY_MS);
            let evidence = |name: &str| material.and_then(|m| m.evidence.get(name)).cloned().unwrap_or(Value::Null);
            let last = seen.last.as_ref();
            let tag = |(name, value): &(String, String)| format!("{name}={value}");
            let owners = key.tags.iter().filter(|(name, _)| OWNER_TAGS.contains(&name.to_ascii_lowercase().as_str()));
            table.row(
                vec![
                    json!(key.arn),
                    list(aliases.get(&id).cloned().unwrap_or_default()),
                    json!(key.description),
                    json!(key.state),
                    json!(nist_state(key, &state)),
                    json!(key.spec.as_str()),
                    json!(key.usage.as_str()),
                    json!(key.origin),
                    json!(key.provenance),
                    json!(token_name(key, &state)),
                    evidence("token_serial"),
                    json!(material.map(|m| &m.cka_id)),
                    evidence("sensitive"),
                    evidence("extractable"),
                    evidence("always_sensitive"),
                    evidence("never_extractable"),
                    evidence("local"),
                    json!(material.map(|m| &m.fingerprint)),
                    json!(date(key.created)),
                    json!(seen.created_by.as_ref().map(|(by, _)| by)),
                    json!(material.map(|m| &m.material_id)),
                    json!(date(since)),
                    json!(age),
                    json!(end.query.rotation_days),
                    json!(date(since.saturating_add(end.query.rotation_days.saturating_mul(DAY_MS)))),
                    json!(age > end.query.rotation_days && key.state == "Enabled"),
                    json!(key.deletion_date.map(date)),
                    json!(last.map(|l| date(l.at))),
                    json!(last.map(|l| &l.operation)),
                    json!(last.map(|l| &l.principal)),
                    json!(last.map(|l| &l.event_id)),
                    json!(seen.days_30),
                    json!(seen.days_90),
                    list(seen.operations.iter().cloned()),
                    list(owners.map(tag)),
                    list(key.tags.iter().map(tag)),
                    json!(key.policy_version),
                    json!(sha256(key.policy.text())),
                    json!(grants.get(&id).copied().unwrap_or(0)),
                    list(key.policy.principals().keys().cloned()),
                ],
                seen.created_by.as_ref().map(|(_, event)| event.as_str()),
            );
        }
        Ok(table)
    }
}

pub(super) fn sha256(text: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// The key's state in the words of NIST SP 800-57 Part 1 (audit.md §5.1).
pub(super) fn nist_state(key: &Key, state: &State) -> &'static str {
    let compromised = |(name, value): &(String, String)| {
        name.eq_ignore_ascii_case(COMPROMISED) && !value.eq_ignore_ascii_case("false") && !value.is_empty()
    };
    if key.tags.iter().any(compromised) {
        return "compromised";
    }
    let rotated_out = || state.keys.values().any(|other| other.rotated_from == Some(key.id));
    let is_current = || state.aliases.values().any(|alias| alias.target == key.id);
    match key.state.as_str() {
        "Enabled" if rotated_out() && !is_current() => "deactivated",
        "Enabled" => "active",
        "Disabled" => "suspended",
        "PendingImport" | "Creating" => "pre-activation",
        "PendingDeletion" | "PendingReplicaDeletion" => "deactivated",
        _ => "active (not available)",
    }
}

/// Name in the configuration of the token that holds a key.
fn token_name(key: &Key, state: &State) -> Option<String> {
    match &key.key_store {
        None => Some("default".to_owned()),
        Some(store) => {
            let cluster = &state.key_stores.get(store.as_str())?.cluster;
            state.tokens.values().find(|token| token.cluster == *cluster).map(|token| token.name.clone())
        }
    }
}

/// R9.
pub(super) struct HsmInventory {
    query: Query,
    /// Serial → mechanism → how often.
    mechanisms: BTreeMap<String, BTreeMap<String, u64>>,
    last: BTreeMap<String, (i64, String)>,
}

impl HsmInventory {
    pub fn new(query: Query) -> Self {
        Self { query, mechanisms: BTreeMap::new(), last: BTreeMap::new() }
    }
}

impl Report for HsmInventory {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        if !moment.in_period || record.additional_event_data.hsm.is_none() {
            return;
        }
        let hsm = parsed(record.additional_event_data.hsm);
        let of = |name: &str| hsm.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let serial = of("tokenSerial");
        self.last.insert(serial.clone(), (moment.at, record.event_id.to_string()));
        *self.mechanisms.entry(serial).or_default().entry(of("mechanism")).or_default() += 1;
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        let state = end.state()?;
        let mut table = Table::new(&[
            "token",
            "cluster_id",
            "label",
            "serial",
            "model",
            "manufacturer",
            "firmware",
            "slot",
            "library",
            "library_sha256",
            "first_seen",
            "key_stores",
            "keys",
            "mechanisms_used",
            "last_used",
            SOURCE,
        ]);
        end.notes.push(
            "certificates (FIPS 140-3, Common Criteria) and places are not known to the service: add them from the \
             vendor's documents"
                .to_owned(),
        );
        for token in state.tokens.values() {
            let hsm = state.hsms.iter().find(|hsm| hsm.name == token.name);
            let text = |pick: fn(&crate::ops::state::Hsm) -> &String| hsm.map(pick);
            let keys = state.keys.values().filter(|key| token_name(key, &state).as_ref() == Some(&token.name)).count();
            let stores = state.key_stores.values().filter(|store| store.cluster == token.cluster);
            let used = self.mechanisms.get(&token.serial);
            let used = used.into_iter().flatten().map(|(mechanism, count)| format!("{mechanism} {count}"));
            let last = self.last.get(&token.serial);
            table.row(
                vec![
                    json!(token.name),
                    json!(token.cluster.as_str()),
                    json!(text(|hsm| &hsm.label)),
                    json!(token.serial),
                    json!(text(|hsm| &hsm.model)),
                    json!(text(|hsm| &hsm.manufacturer)),
                    json!(text(|hsm| &hsm.firmware)),
                    json!(hsm.map(|hsm| hsm.slot)),
                    json!(text(|hsm| &hsm.library)),
                    json!(hsm.and_then(|hsm| hsm.library_sha256.clone())),
                    json!(date(token.first_seen)),
                    list(stores.map(|store| store.name.clone())),
                    json!(keys),
                    list(used),
                    json!(last.map(|(at, _)| date(*at))),
                ],
                last.map(|(_, event)| event.as_str()),
            );
        }
        Ok(table)
    }
}
