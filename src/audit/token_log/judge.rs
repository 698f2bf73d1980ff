//! Which of a token's events our own records explain.

use std::collections::VecDeque;

use serde::Deserialize;

use super::{Kind, TokenEvent};

/// One record of ours that stands for events of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Act {
    seq: u64,
    /// Microseconds since the epoch.
    time: i64,
    login: Times,
    generate: Times,
    destroy: Times,
}

/// How many events of a kind a record explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    Some(u32),
    /// A start or a connection: it logs in all workers, and probes the token with throw-away keys.
    Any,
}

const NONE: Times = Times::Some(0);

/// Our records of the last while, and the token's events that wait for them.
#[derive(Debug, Default)]
pub(super) struct Judge {
    acts: VecDeque<Act>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_name: String,
    event_type: String,
    additional_event_data: Additional,
}

#[derive(Deserialize)]
struct Additional {
    audit: Place,
}

#[derive(Deserialize)]
struct Place {
    seq: u64,
    time: String,
}

impl Judge {
    /// Notes one record of ours. Gives its time.
    pub fn note(&mut self, line: &[u8]) -> Option<i64> {
        let record: Record = serde_json::from_slice(line).ok()?;
        let format = &time::format_description::well_known::Rfc3339;
        let time = time::OffsetDateTime::parse(&record.additional_event_data.audit.time, format).ok()?;
        let time = i64::try_from(time.unix_timestamp_nanos() / 1000).ok()?;
        if let Some((login, generate, destroy)) = explains(&record) {
            self.acts.push_back(Act { seq: record.additional_event_data.audit.seq, time, login, generate, destroy });
        }
        Some(time)
    }

    /// Whether a record within `window` microseconds explains the event; what explained one event explains no other.
    pub fn explained(&mut self, event: &TokenEvent, window: i64) -> bool {
        let near = self.acts.iter_mut().filter(|act| (act.time - event.time).abs() <= window);
        // The nearest first: a later event may have only a later record.
        let mut near: Vec<&mut Act> = near.collect();
        near.sort_by_key(|act| (act.time - event.time).abs());
        for act in near {
            let times = match event.kind {
                Kind::Login => &mut act.login,
                Kind::Generate => &mut act.generate,
                Kind::Destroy => &mut act.destroy,
                Kind::NotOurs | Kind::Other => return false,
            };
            match times {
                Times::Any => return true,
                Times::Some(0) => {}
                Times::Some(left) => {
                    *left -= 1;
                    return true;
                }
            }
        }
        false
    }

    /// Seq of the oldest record that is still of use.
    pub fn oldest(&self) -> Option<u64> {
        self.acts.front().map(|act| act.seq)
    }

    /// Forgets what is older than `before`.
    pub fn forget(&mut self, before: i64) {
        while self.acts.front().is_some_and(|act| act.time < before) {
            self.acts.pop_front();
        }
    }
}

/// What a record stands for: logins, generations, destructions. Intents, because their time is nearest to the token's.
fn explains(record: &Record) -> Option<(Times, Times, Times)> {
    let intent = record.event_type == "HsmBridgeIntent";
    match record.event_name.as_str() {
        // An unfinished key is destroyed again.
        "CreateKey" | "RotateAlias" if intent => Some((NONE, Times::Some(1), Times::Some(2))),
        "DeleteKey" if intent => Some((NONE, NONE, Times::Some(2))),
        "Start"
        | "TokenSession"
        | "KeyStoreConnection"
        | "ConnectCustomKeyStore"
        | "TokenReplace"
        | "TokenPin"
        | "KeyAttest"
        | "AuditKey"
        | "AuditKeyRotate"
        | "SessionKeys" => Some((Times::Any, Times::Any, Times::Any)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, kind: &str, time: &str) -> Vec<u8> {
        serde_json::json!({
            "eventName": name, "eventType": kind,
            "additionalEventData": { "audit": { "seq": 7, "time": time } },
        })
        .to_string()
        .into_bytes()
    }

    fn event(kind: Kind, time: i64) -> TokenEvent {
        TokenEvent {
            kind,
            time,
            sequence: 1,
            reboot_counter: 1,
            opcode: String::new(),
            session: String::new(),
            response: "SUCCESS".into(),
            succeeded: true,
            user_name: None,
            user_type: None,
            key_handles: Vec::new(),
        }
    }

    /// 2026-03-04T09:20:00Z
    const AT: i64 = 1_772_616_000_000_000;

    #[test]
    fn one_record_explains_one_generation_near_it() {
        let mut judge = Judge::default();
        assert_eq!(judge.note(&record("CreateKey", "HsmBridgeIntent", "2026-03-04T09:20:00.000000Z")), Some(AT));
        assert!(!judge.explained(&event(Kind::Generate, AT + 61_000_000), 60_000_000), "too far away");
        assert!(!judge.explained(&event(Kind::Login, AT), 60_000_000), "not what it stands for");
        assert!(judge.explained(&event(Kind::Generate, AT + 59_000_000), 60_000_000));
        assert!(!judge.explained(&event(Kind::Generate, AT), 60_000_000), "explains no other");
    }

    #[test]
    fn a_start_explains_all_around_it_and_nothing_is_ours_that_we_never_do() {
        let mut judge = Judge::default();
        judge.note(&record("Start", "HsmBridgeSystem", "2026-03-04T09:20:00.000000Z"));
        for kind in [Kind::Login, Kind::Login, Kind::Generate, Kind::Destroy] {
            assert!(judge.explained(&event(kind, AT - 5_000_000), 60_000_000));
        }
        assert!(!judge.explained(&event(Kind::NotOurs, AT), 60_000_000));
        judge.forget(AT + 1);
        assert!(!judge.explained(&event(Kind::Login, AT), 60_000_000));
    }
}
