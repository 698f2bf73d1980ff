//! `iam apply`: what a folder of documents says shall be so. The difference to what is there is made here, inside the
//! transaction that carries it out, so that what was shown is what is done.

mod export;
mod order;
mod settled;

use std::collections::BTreeSet;

pub use export::everything;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::shown::{Documents, differences};
use super::writes::IdKind;
use super::{IamChange, IamKind, gone, in_the_log, new_id};
use crate::ids::AccountId;
use crate::ops::{Context, Effects, OpError, Ops};
use crate::store::{Snapshot, Write};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IamApply {
    pub desired: IamDesired,
    pub dry_run: bool,
    /// Delete what is of a managed kind and is not desired.
    pub prune: bool,
    /// Digest of the difference that was shown: another one is refused.
    #[serde(default)]
    pub shown: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IamDesired {
    /// SHA-256 over the names and contents of the files, hex.
    pub source: String,
    pub entities: Vec<IamEntity>,
    pub managed: BTreeSet<IamManaged>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IamEntity {
    /// Where it stands, for errors.
    pub file: String,
    /// Never a deletion.
    pub put: IamChange,
}

/// All entities of a kind are in the folder. Without account: organisation policies, and units.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IamManaged {
    pub kind: IamKind,
    pub account: Option<AccountId>,
}

impl IamApply {
    /// For the audit record: the folder is of any size.
    pub fn recorded(&self) -> Value {
        json!({
            "source": self.desired.source,
            "entities": self.desired.entities.len(),
            "managed": self.desired.managed,
            "dry-run": self.dry_run,
            "prune": self.prune,
            "shown": self.shown,
        })
    }
}

impl Ops {
    pub(super) async fn apply(
        &self,
        request: &IamApply,
        ctx: &Context,
        effects: &mut Effects,
    ) -> Result<Value, OpError> {
        let (wanted, now) = (request.clone(), ctx.now);
        let (difference, version) = self
            .change(ctx, move |snapshot| {
                let difference = Difference::between(snapshot, &wanted, now)?;
                if wanted.dry_run {
                    return Ok((Vec::new(), difference));
                }
                if wanted.shown.as_ref().is_some_and(|shown| *shown != difference.digest) {
                    return Err(OpError::Validation(
                        "the difference is not the one that was shown: identities were changed meanwhile. Nothing was \
                         changed; look again"
                            .to_owned(),
                    ));
                }
                Ok((difference.writes.clone(), difference))
            })
            .await?;
        let mut details = in_the_log(difference.recorded);
        super::shown::set(&mut details, "source", request.desired.source.as_str().into());
        super::shown::set(&mut details, "difference", difference.digest.as_str().into());
        effects.details = Some(details);
        let applied = !request.dry_run && !difference.writes.is_empty();
        if applied {
            effects.store_version = Some(version);
            effects.forget.extend(difference.writes.iter().filter_map(gone).cloned());
        }
        Ok(json!({ "Changes": difference.told, "Digest": difference.digest, "Applied": applied }))
    }
}

/// What would have to be done, and how it is told.
struct Difference {
    writes: Vec<Write>,
    told: Vec<Value>,
    recorded: Vec<Value>,
    digest: String,
}

impl Difference {
    fn between(snapshot: &Snapshot, wanted: &IamApply, now: i64) -> Result<Difference, OpError> {
        let mut made = BTreeSet::new();
        let mut ids = |kind: IdKind| {
            let id = new_id(kind);
            made.insert(id.clone());
            id
        };
        let writes = order::writes_of(snapshot, &wanted.desired, wanted.prune, now, &mut ids)?;
        let told = differences(snapshot, &writes, Documents::Whole);
        let lasting: Vec<Value> = told.iter().map(|entry| lasting(entry, &made)).collect();
        let digest = hex::encode(digest(&SHA256, Value::from(lasting).to_string().as_bytes()));
        let recorded = differences(snapshot, &writes, Documents::Digest);
        Ok(Difference { writes, told, recorded, digest })
    }
}

/// What is the same whenever it is computed: without times, and without the ids that were made for it just now.
fn lasting(value: &Value, made: &BTreeSet<String>) -> Value {
    match value {
        Value::String(text) if made.contains(text) => Value::Null,
        Value::Array(items) => items.iter().map(|item| lasting(item, made)).collect(),
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| !matches!(name.as_str(), "CreateDate" | "UpdateDate"));
            Value::Object(kept.map(|(name, value)| (name.clone(), lasting(value, made))).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
