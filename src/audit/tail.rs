//! Prints the log as it grows, from the files alone: needs no lock, and a slow reader slows nobody.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::files;
use super::verify::line::segment_name;
use super::verify::lines::{Lines, Next};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The lines as they are.
    #[default]
    Json,
    /// Time, event, caller, key, error.
    Human,
}

/// What must hold for a record to be printed. Texts match anywhere in the value.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub event: Option<String>,
    /// ARN of one of the resources.
    pub resource: Option<String>,
    /// ARN, user name or access key of the caller.
    pub caller: Option<String>,
    pub errors_only: bool,
}

#[derive(Debug, Clone)]
pub struct Options {
    /// Wait for more at the end.
    pub follow: bool,
    /// From this record on; without it, the last `last` records (of those that were looked at, where a filter is set).
    pub since_seq: Option<u64>,
    pub last: usize,
    pub format: Format,
    pub filter: Filter,
    /// How often the end is looked at.
    pub poll: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            follow: false,
            since_seq: None,
            last: 10,
            format: Format::Json,
            filter: Filter::default(),
            poll: Duration::from_millis(200),
        }
    }
}

/// Prints until the end, or with `follow` until `stop` says so. Blocking. `dir` is the trail's directory. Only complete
/// lines are printed. Returns how many.
pub fn tail(dir: &Path, options: &Options, stop: &dyn Fn() -> bool, out: &mut dyn Write) -> io::Result<u64> {
    let journal = dir.join("journal");
    let names = files::segments(&journal, false)?;
    // The newest segment that can hold the first wanted record. How many the newest holds is not known from its name, so
    // the last ones are looked for from as many records before it on.
    let newest = names.last().and_then(|name| segment_name(name)).map_or(0, |(first, _)| first);
    let wanted = options.since_seq.unwrap_or_else(|| newest.saturating_sub(options.last as u64));
    let begins_by = |name: &&String| segment_name(name).is_some_and(|(first, _)| first <= wanted);
    let name = names.iter().rev().find(begins_by).or_else(|| names.first());
    let Some(mut name) = name.cloned() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("no audit log in `{}`", dir.display())));
    };
    let mut printer = Printer { options, kept: VecDeque::new(), printed: 0, caught_up: options.since_seq.is_some() };
    let mut offset = 0;
    loop {
        offset += printer.read(&journal.join(&name), offset, out)?;
        if let Some(next) = next_segment(&journal, &name)? {
            // What came between the last read and the new segment.
            printer.read(&journal.join(&name), offset, out)?;
            (name, offset) = (next, 0);
            continue;
        }
        printer.catch_up(out)?;
        if !options.follow || stop() {
            return Ok(printer.printed);
        }
        std::thread::sleep(options.poll);
    }
}

fn next_segment(journal: &Path, name: &str) -> io::Result<Option<String>> {
    // Cheap while nothing changed.
    if std::fs::read_link(journal.join(files::CURRENT)).is_ok_and(|current| current == Path::new(name)) {
        return Ok(None);
    }
    Ok(files::segments(journal, false)?.into_iter().find(|other| other.as_str() > name))
}

struct Printer<'o> {
    options: &'o Options,
    /// The last records, while the end was not reached.
    kept: VecDeque<Vec<u8>>,
    printed: u64,
    caught_up: bool,
}

impl Printer<'_> {
    /// Takes the complete lines from `offset` on; returns their bytes.
    fn read(&mut self, path: &Path, offset: u64, out: &mut dyn Write) -> io::Result<u64> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut lines = Lines::new(BufReader::new(file));
        while let Next::Line(line) = lines.next()? {
            let Some(text) = self.text(line) else {
                continue;
            };
            if self.caught_up {
                out.write_all(&text)?;
                self.printed += 1;
            } else {
                self.kept.push_back(text.into_owned());
                if self.kept.len() > self.options.last {
                    self.kept.pop_front();
                }
            }
        }
        out.flush()?;
        Ok(lines.whole())
    }

    fn catch_up(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.caught_up = true;
        for text in self.kept.drain(..) {
            out.write_all(&text)?;
            self.printed += 1;
        }
        out.flush()
    }

    /// The line as it is printed, if it is wanted. What does not parse is printed as it is, made harmless.
    fn text<'l>(&self, line: &'l [u8]) -> Option<Cow<'l, [u8]>> {
        let mut text = match serde_json::from_slice::<Shown>(line) {
            Ok(shown) => {
                if !shown.wanted(self.options) {
                    return None;
                }
                match self.options.format {
                    Format::Json => Cow::Borrowed(line),
                    Format::Human => Cow::Owned(shown.human().into_bytes()),
                }
            }
            Err(_) => Cow::Owned(printable(&String::from_utf8_lossy(line)).into_bytes()),
        };
        text.to_mut().push(b'\n');
        Some(text)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    event_time: String,
    event_name: String,
    event_type: String,
    user_identity: Caller,
    error_code: Option<String>,
    #[serde(default)]
    resources: Vec<Resource>,
    additional_event_data: Additional,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Caller {
    arn: Option<String>,
    user_name: Option<String>,
    access_key_id: Option<String>,
    invoked_by: Option<String>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(rename = "ARN")]
    arn: String,
}

#[derive(Deserialize)]
struct Additional {
    audit: Place,
    count: Option<u64>,
}

#[derive(Deserialize)]
struct Place {
    seq: u64,
}

impl Shown {
    fn wanted(&self, options: &Options) -> bool {
        let filter = &options.filter;
        let caller = &self.user_identity;
        let callers = [&caller.arn, &caller.user_name, &caller.access_key_id];
        options.since_seq.is_none_or(|seq| self.additional_event_data.audit.seq >= seq)
            && (!filter.errors_only || self.error_code.is_some())
            && matches(&filter.event, [&self.event_name])
            && matches(&filter.resource, self.resources.iter().map(|resource| &resource.arn))
            && matches(&filter.caller, callers.into_iter().flatten())
    }

    fn human(&self) -> String {
        let caller = &self.user_identity;
        let who = [&caller.arn, &caller.user_name, &caller.access_key_id, &caller.invoked_by];
        // All of them: an alias and its key, the source and the destination of ReEncrypt.
        let resources: Vec<&str> = self.resources.iter().map(|resource| resource.arn.as_str()).collect();
        let mut text = format!(
            "{} {} {} {}",
            self.event_time,
            self.event_name,
            who.into_iter().flatten().next().map_or("-", String::as_str),
            if resources.is_empty() { "-".to_owned() } else { resources.join(",") },
        );
        if self.event_type == "HsmBridgeIntent" {
            text.push_str(" (intent)");
        }
        if let Some(error) = &self.error_code {
            text.push(' ');
            text.push_str(error);
        }
        if let Some(count) = self.additional_event_data.count {
            text.push_str(&format!(" x{count}"));
        }
        printable(&text)
    }
}

fn matches<'v>(wanted: &Option<String>, values: impl IntoIterator<Item = &'v String>) -> bool {
    wanted.as_ref().is_none_or(|wanted| values.into_iter().any(|value| value.contains(wanted.as_str())))
}

/// Nothing of a record may steer the terminal it is printed on.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}
