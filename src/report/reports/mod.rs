//! The reports: what each one takes from the records, and its rows.

mod activity;
mod changes;
mod denials;
mod duties;
mod integrity;
mod inventory;
mod policy;
mod rotation;
mod stale;
mod uses;

use super::pass::Needs;
use super::record::Record;
use super::replay::Replay;
use super::table::Table;
use super::{Name, Query, ReportError};
use crate::audit::verify;
use crate::ops::state::State;

/// Where a record stands.
pub(super) struct Moment<'m> {
    pub in_period: bool,
    /// At or before the moment `as_of`.
    pub until_then: bool,
    /// Milliseconds since the epoch.
    pub at: i64,
    /// The state before this record, where it is known.
    pub before: Option<&'m Replay>,
}

pub(super) struct End<'e> {
    pub query: &'e Query,
    /// The state at the period's beginning.
    pub before: Option<State>,
    /// The state at `as_of`.
    pub state: Option<State>,
    pub checked: &'e verify::Report,
    pub notes: &'e mut Vec<String>,
}

impl End<'_> {
    fn state(&mut self) -> Result<State, ReportError> {
        self.state.take().ok_or_else(|| ReportError::Refused("the state at that moment is not known".to_owned()))
    }
}

pub(super) trait Report {
    fn needs(&self) -> Needs;
    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>);
    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError>;
}

pub(super) fn of(query: &Query) -> Box<dyn Report> {
    let query = query.clone();
    match query.report {
        Name::KeyInventory => Box::new(inventory::KeyInventory::new(query)),
        Name::Custodians => Box::new(duties::Access::new(query)),
        Name::Rotation => Box::new(rotation::Rotation::new(query)),
        Name::KeyUsage => Box::new(uses::KeyUsage::new(query)),
        Name::AdminChanges => Box::new(changes::AdminChanges::new(query)),
        Name::Ceremonies => Box::new(activity::Ceremonies::new(query)),
        Name::FailedAccess => Box::new(denials::FailedAccess::new(query)),
        Name::SeparationOfDuties => Box::new(duties::Separation::new(query)),
        Name::HsmInventory => Box::new(inventory::HsmInventory::new(query)),
        Name::Integrity => Box::new(integrity::Integrity::new(query)),
        Name::PolicyAsOf => Box::new(policy::PolicyAsOf::new(query)),
        Name::Attestations => Box::new(activity::Attestations::new(query)),
        Name::Unused => Box::new(stale::Unused::new(query)),
        Name::LogAccess => Box::new(activity::LogAccess::new(query)),
    }
}

impl Query {
    /// Whether a record is one that the report was narrowed to.
    fn wants(&self, record: &Record<'_>) -> bool {
        self.key.as_deref().is_none_or(|key| record.is_about(key))
            && self.principal.as_deref().is_none_or(|principal| record.is_by(principal))
    }

    fn wants_key(&self, id: &str, arn: &str) -> bool {
        self.key.as_deref().is_none_or(|key| key == id || key == arn)
    }
}
