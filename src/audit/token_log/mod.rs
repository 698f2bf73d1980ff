//! The log that a token keeps of itself, where it keeps one, beside ours: collected as records, and whatever happened there that
//! no record of ours explains is reported. Source: audit.md §1.3 (CloudHSM's audit log).

pub mod cloudhsm;
mod collect;
mod judge;

pub use collect::{Collector, Settings};

use serde::{Deserialize, Serialize};

/// What an event of the token's log means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    Login,
    Generate,
    Destroy,
    /// Users made, removed, their passwords changed; keys wrapped, unwrapped, moved or shared; the token made anew. The bridge does
    /// none of this.
    NotOurs,
    /// Logout and the like: only collected.
    Other,
}

/// One event of a token's own log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenEvent {
    pub kind: Kind,
    /// By the token's clock, microseconds since the epoch.
    pub time: i64,
    /// Gapless within one `reboot_counter`.
    pub sequence: u64,
    pub reboot_counter: u64,
    /// `CN_GENERATE_KEY_PAIR`
    pub opcode: String,
    pub session: String,
    /// `SUCCESS`, or what the token answered.
    pub response: String,
    pub succeeded: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_type: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub key_handles: Vec<String>,
}
