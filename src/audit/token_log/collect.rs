//! Follows the file that a token's log is copied to: each event becomes a record, what nothing explains one more. Where it is is
//! kept in a small state file, saved after the records are durable: a crash may repeat events, and loses none.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cloudhsm::Parser;
use super::judge::Judge;
use super::{Kind, TokenEvent};
use crate::audit::follow::Follower;

/// Events of one step; the rest comes with the next.
const STEP: usize = 500;
/// Longest line that is read whole.
const MAX_LINE: u64 = 64 * 1024;

#[derive(Debug, Clone)]
pub struct Settings {
    /// What the token's stream is called in records.
    pub name: String,
    /// Where an agent appends the log's text.
    pub file: PathBuf,
    pub state: PathBuf,
    /// The trail's directory.
    pub audit_dir: PathBuf,
    /// How far the two clocks and the delivery of records may be apart, microseconds.
    pub window: i64,
}

/// What a step found: `eventName` and `details` of records to be written, and whether a person should look.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub name: &'static str,
    pub details: serde_json::Value,
    pub alert: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    inode: u64,
    offset: u64,
    /// End of the whole lines at the last step.
    seen: u64,
    /// Reboot counter and sequence number of the last event.
    last: Option<(u64, u64)>,
    /// Events that may still be explained.
    pending: Vec<TokenEvent>,
    /// Where to read our own log again from.
    follow_from: u64,
    /// When collecting began, microseconds: what is older cannot be judged.
    since: i64,
}

pub struct Collector {
    settings: Settings,
    state: State,
    follower: Follower,
    judge: Judge,
}

impl Collector {
    /// `boot_seq`: this run's first record; `now`: microseconds since the epoch.
    pub fn open(settings: Settings, boot_seq: u64, now: i64) -> io::Result<Collector> {
        let state = match std::fs::read(&settings.state) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                State { since: now, follow_from: boot_seq, ..State::default() }
            }
            Err(error) => return Err(error),
        };
        let follower = Follower::new(&settings.audit_dir, state.follow_from);
        Ok(Collector { settings, state, follower, judge: Judge::default() })
    }

    /// Reads what is new. `durable`: of the journal; `now`: microseconds. Blocking. Call `save` when the records are durable.
    pub fn step(&mut self, durable: u64, now: i64) -> io::Result<Vec<Found>> {
        while let Some(followed) = self.follower.next(durable)? {
            self.judge.note(&followed.line);
        }
        let mut found = Vec::new();
        let events = self.read()?;
        for event in events {
            self.one(event, &mut found);
        }
        self.settle(now, &mut found);
        // What waits is judged within the window after it; nothing older is asked for.
        let oldest = self.state.pending.iter().map(|event| event.time).min().unwrap_or(now);
        self.judge.forget(oldest.saturating_sub(self.settings.window.saturating_mul(2)));
        self.state.follow_from = self.judge.oldest().unwrap_or_else(|| self.follower.position());
        Ok(found)
    }

    /// Keeps the place: what `step` gave is in the journal.
    pub fn save(&self) -> io::Result<()> {
        let bytes = serde_json::to_vec(&self.state).map_err(io::Error::other)?;
        if let Some(parent) = self.settings.state.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let fresh = self.settings.state.with_extension("new");
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.settings.state)
    }

    fn one(&mut self, event: TokenEvent, found: &mut Vec<Found>) {
        let stream = &self.settings.name;
        if let Some((reboot, sequence)) = self.state.last {
            let again = event.reboot_counter == reboot && event.sequence <= sequence;
            if again {
                // Delivered twice.
                return;
            }
            if event.reboot_counter == reboot && event.sequence != sequence + 1 {
                let details =
                    json!({ "stream": stream, "after": sequence, "next": event.sequence, "rebootCounter": reboot });
                found.push(Found { name: "TokenLogGap", details, alert: true });
            }
        }
        self.state.last = Some((event.reboot_counter, event.sequence));
        found.push(Found { name: "TokenLog", details: self.details(&event), alert: false });
        if event.time < self.state.since.saturating_sub(self.settings.window) {
            return;
        }
        match event.kind {
            Kind::NotOurs => found.push(self.unexplained(&event)),
            // A login that failed is worth a look whether or not it was ours.
            Kind::Login => self.state.pending.push(event),
            Kind::Generate | Kind::Destroy if event.succeeded => self.state.pending.push(event),
            Kind::Generate | Kind::Destroy | Kind::Other => {}
        }
    }

    /// Those whose window has passed are explained now or never.
    fn settle(&mut self, now: i64, found: &mut Vec<Found>) {
        let window = self.settings.window;
        let mut waiting = Vec::new();
        for event in std::mem::take(&mut self.state.pending) {
            if event.time.saturating_add(window) >= now {
                waiting.push(event);
            } else if !self.judge.explained(&event, window) {
                found.push(self.unexplained(&event));
            }
        }
        self.state.pending = waiting;
    }

    fn details(&self, event: &TokenEvent) -> serde_json::Value {
        json!({ "stream": self.settings.name, "event": event })
    }

    fn unexplained(&self, event: &TokenEvent) -> Found {
        Found { name: "TokenLogUnexplained", details: self.details(event), alert: true }
    }

    /// Complete events of the file, from where the last step ended.
    fn read(&mut self) -> io::Result<Vec<TokenEvent>> {
        let mut file = match File::open(&self.settings.file) {
            Ok(file) => file,
            // Not there yet, or just rotated.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let facts = file.metadata()?;
        if facts.ino() != self.state.inode || facts.len() < self.state.offset {
            (self.state.inode, self.state.offset, self.state.seen) = (facts.ino(), 0, 0);
        }
        file.seek(SeekFrom::Start(self.state.offset))?;
        let mut reader = BufReader::new(file);
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        // Where the newest unfinished event begins: it is read again next time.
        let (mut at, mut begun) = (self.state.offset, self.state.offset);
        let mut line = Vec::new();
        while events.len() < STEP {
            line.clear();
            let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)? as u64;
            let whole = line.last() == Some(&b'\n') || read == MAX_LINE;
            if read == 0 || !whole {
                break;
            }
            let text = String::from_utf8_lossy(&line);
            let starts = text.trim_start().starts_with("Time");
            events.extend(parser.line(&text));
            if starts {
                begun = at;
            }
            at += read;
            if text.trim().is_empty() {
                // An empty line ends an event.
                events.extend(parser.end());
            }
            if parser.is_between() {
                begun = at;
            }
        }
        // The last event of the file, if it has stood there without growing since the last step.
        if at > begun && at == self.state.seen {
            events.extend(parser.end());
            begun = at;
        }
        if parser.not_understood > 0 {
            tracing::warn!(
                stream = self.settings.name,
                lines = parser.not_understood,
                "lines of the token's log were not understood"
            );
        }
        (self.state.offset, self.state.seen) = (begun, at);
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_772_616_000_000_000;
    const WINDOW: i64 = 60_000_000;

    struct World {
        dir: tempfile::TempDir,
        collector: Collector,
    }

    impl World {
        fn new() -> World {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("audit/journal")).unwrap();
            let collector = Self::open(dir.path());
            World { dir, collector }
        }

        fn open(dir: &std::path::Path) -> Collector {
            let settings = Settings {
                name: "hsm-1".into(),
                file: dir.join("log"),
                state: dir.join("state/hsm-1.json"),
                audit_dir: dir.join("audit"),
                window: WINDOW,
            };
            Collector::open(settings, 0, AT).unwrap()
        }

        fn write(&self, text: &str) {
            let path = self.dir.path().join("log");
            std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }

        fn names(&mut self, now: i64) -> Vec<&'static str> {
            let found = self.collector.step(0, now).unwrap();
            self.collector.save().unwrap();
            found.into_iter().map(|found| found.name).collect()
        }
    }

    fn block(sequence: u64, opcode: &str, time: i64) -> String {
        format!(
            "Time: 03/04/26 09:20:00, usecs:{time}\nSequence No: {sequence:#x}\nReboot counter: 0x1\nOpcode: {opcode} (0x1)\n\
             Session Handle: 0x1\nResponse: 0:HSM Return: SUCCESS\nLog type: MINIMAL_LOG_ENTRY (0)\n"
        )
    }

    #[test]
    fn each_event_once_over_restarts_and_in_pieces() {
        let mut world = World::new();
        assert!(world.names(AT).is_empty());
        let text = block(1, "CN_LOGOUT", AT) + &block(2, "CN_LOGOUT", AT);
        let (one, two) = text.split_at(text.len() - 30);
        world.write(one);
        assert_eq!(world.names(AT), ["TokenLog"], "the second is not whole yet");
        world.collector = World::open(world.dir.path());
        world.write(two);
        assert!(world.names(AT).is_empty());
        // Whole once it has stood there for a step.
        let more: Vec<_> = (0..2).flat_map(|_| world.names(AT)).collect();
        assert_eq!(more, ["TokenLog"]);
        world.write(&block(2, "CN_LOGOUT", AT));
        world.write(&block(5, "CN_LOGOUT", AT));
        let rest: Vec<_> = (0..3).flat_map(|_| world.names(AT)).collect();
        assert_eq!(rest, ["TokenLogGap", "TokenLog"], "delivered twice, and a gap");
    }

    #[test]
    fn what_nothing_explains_is_told_after_the_window_and_what_we_never_do_at_once() {
        let mut world = World::new();
        world.write(&(block(1, "CN_GENERATE_KEY", AT) + "\n" + &block(2, "CN_CREATE_USER", AT) + "\n"));
        assert_eq!(world.names(AT), ["TokenLog", "TokenLog", "TokenLogUnexplained"]);
        assert!(world.names(AT + WINDOW).is_empty());
        world.collector = World::open(world.dir.path());
        assert_eq!(world.names(AT + WINDOW + 1), ["TokenLogUnexplained"], "it waited over a restart");
        assert!(world.names(AT + WINDOW + 2).is_empty());
    }

    #[test]
    fn a_rotated_file_is_read_from_its_beginning() {
        let mut world = World::new();
        world.write(&(block(1, "CN_LOGOUT", AT) + "\n"));
        assert_eq!(world.names(AT), ["TokenLog"]);
        std::fs::rename(world.dir.path().join("log"), world.dir.path().join("log.1")).unwrap();
        world.write(&(block(2, "CN_LOGOUT", AT) + "\n"));
        assert_eq!(world.names(AT), ["TokenLog"]);
    }
}
