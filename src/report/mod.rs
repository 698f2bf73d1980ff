//! Reports for auditors, R1 to R14: pure functions over the log's records and a state of keys and identities. One pass over the
//! journal in bounded memory. Knows no token, no store and no HTTP. Source: audit.md §5.

pub mod folder;
mod pass;
mod record;
mod render;
mod replay;
mod reports;
mod table;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use pass::run;
pub use record::date;
pub use render::{Format, page, written};
pub use table::{Header, SourceRange, Table};

/// What is asked. Times are milliseconds since the epoch and mean when a record was written.
#[derive(Debug, Clone)]
pub struct Query {
    pub report: Name,
    /// From inclusive, to exclusive.
    pub from: i64,
    pub to: i64,
    /// For what is of a moment.
    pub as_of: i64,
    /// Key id or ARN.
    pub key: Option<String>,
    /// ARN, user name or access key.
    pub principal: Option<String>,
    /// The age at which a key should be replaced.
    pub rotation_days: i64,
    /// From when on something counts as unused.
    pub unused_days: i64,
    pub now: i64,
    pub generated_by: String,
    /// The trail's ARN, as the configuration says it.
    pub trail: Option<String>,
}

/// A report with the facts above it.
#[derive(Debug)]
pub struct Made {
    pub header: Header,
    pub table: Table,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("the log cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Refused(String),
}

macro_rules! names {
    ($($variant:ident = $number:literal, $name:literal, $title:literal;)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Name { $($variant),+ }

        impl Name {
            pub const ALL: &'static [Name] = &[$(Name::$variant),+];

            /// `R1`
            pub fn number(self) -> &'static str {
                match self { $(Name::$variant => $number),+ }
            }

            /// `key-inventory`
            pub fn name(self) -> &'static str {
                match self { $(Name::$variant => $name),+ }
            }

            pub fn title(self) -> &'static str {
                match self { $(Name::$variant => $title),+ }
            }
        }
    };
}

names! {
    KeyInventory = "R1", "key-inventory", "Key inventory";
    Custodians = "R2", "custodians-and-access", "Custodians and access";
    Rotation = "R3", "rotation-and-cryptoperiod", "Rotation and cryptoperiods";
    KeyUsage = "R4", "key-usage", "Key usage";
    AdminChanges = "R5", "admin-changes", "Administrative changes";
    Ceremonies = "R6", "ceremonies", "Key ceremonies";
    FailedAccess = "R7", "failed-access", "Failed access";
    SeparationOfDuties = "R8", "separation-of-duties", "Separation of duties";
    HsmInventory = "R9", "hsm-inventory", "HSM inventory";
    Integrity = "R10", "audit-integrity", "Integrity of the audit log";
    PolicyAsOf = "R11", "policy-as-of", "Policies and grants at a moment";
    Attestations = "R12", "attestations", "Attestations";
    Unused = "R13", "unused-stale", "Unused and stale";
    LogAccess = "R14", "audit-log-access", "Access to the audit log";
}

impl Name {
    /// `R1` or `key-inventory`, in any case.
    pub fn parse(text: &str) -> Option<Name> {
        let wanted = |name: &&Name| name.number().eq_ignore_ascii_case(text) || name.name().eq_ignore_ascii_case(text);
        Name::ALL.iter().find(wanted).copied()
    }
}

impl Name {
    /// It is about a moment, and needs a snapshot near it.
    pub fn needs_state(self) -> bool {
        self.needs().state
    }

    /// It lists what happened: a month by default. The others look back further.
    pub fn is_of_changes(self) -> bool {
        !matches!(self, Name::Rotation | Name::PolicyAsOf | Name::Ceremonies | Name::Attestations | Name::Integrity)
    }
}

/// A list as a cell.
fn list<T: Into<Value>>(values: impl IntoIterator<Item = T>) -> Value {
    Value::Array(values.into_iter().map(Into::into).collect())
}
