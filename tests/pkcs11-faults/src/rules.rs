//! `[[rule]]`: which calls fail, and how.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cryptoki_sys::*;
use serde::Deserialize;

use crate::kept::Kept;
use crate::names::ReturnValue;
use crate::real::real;
use crate::{Call, Faults, calls, log, sessions};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A rule of the same name in the next version of the script counts on; others count from that version.
    name: Option<String>,
    /// One or more names; `*` at the end stands for any rest.
    function: OneOrMore,

    /// Only calls with a session or a slot of the token with this label.
    token: Option<String>,

    /// Of the calls that the rule is about, counted from 1: only this one; from this one on; not more than so many; every k-th.
    nth: Option<u64>,
    from: Option<u64>,
    first: Option<u64>,
    every: Option<u64>,
    /// Counted over all processes with this script, in a file; the rule has to have a name.
    #[serde(default)]
    count_over_processes: bool,

    /// `before`: the real function is not called. `after`: it is, and what it gave is thrown away.
    #[serde(default)]
    when: When,

    #[serde(rename = "return")]
    rv: Option<ReturnValue>,
    delay_ms: Option<u64>,
    hang: Option<Hang>,
    kill: Option<Death>,
    /// What the real module really loses first, so that all calls after this one meet it.
    lose: Option<Loss>,
    /// C_GetSlotList and C_FindObjects: CKR_OK, and nothing there.
    #[serde(default)]
    nothing: bool,
    /// This byte of the output has one bit changed (counted from the end where it is negative).
    flip: Option<i64>,

    #[serde(skip)]
    calls: AtomicU64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Default, PartialEq, Eq, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    #[default]
    Before,
    After,
}

#[derive(PartialEq, Eq, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Hang {
    /// Until another script stands in the file's place.
    UntilChanged,
    Forever,
}

#[derive(Clone, Copy, Deserialize)]
enum Death {
    #[serde(rename = "SEGV")]
    Segv,
    #[serde(rename = "KILL")]
    Kill,
    #[serde(rename = "ABRT")]
    Abort,
    #[serde(rename = "exit")]
    Exit,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Loss {
    Login,
    Sessions,
    Context,
}

/// What a call is on.
#[derive(Clone, Copy)]
pub enum On {
    Module,
    Slot(CK_SLOT_ID),
    Session(CK_SESSION_HANDLE),
}

/// Where a call writes, for rules that change it.
#[derive(Default, Clone, Copy)]
pub struct Output {
    pub bytes: Option<(CK_BYTE_PTR, Length)>,
    pub handles: [Option<CK_OBJECT_HANDLE_PTR>; 2],
    pub count: Option<CK_ULONG_PTR>,
}

#[derive(Clone, Copy)]
pub enum Length {
    Written(CK_ULONG_PTR),
    Given(u64),
}

impl Rule {
    pub fn check(&self) -> Result<(), String> {
        if self.nth.is_some() && (self.from.is_some() || self.first.is_some() || self.every.is_some()) {
            return Err("`nth` beside `from`, `first` or `every`".to_owned());
        }
        if self.nth == Some(0) || self.from == Some(0) || self.every == Some(0) {
            return Err("calls are counted from 1".to_owned());
        }
        if self.count_over_processes && self.name.is_none() {
            return Err("`count_over_processes` without `name`".to_owned());
        }
        if self.name.as_ref().is_some_and(|name| name.contains(['/', ' '])) {
            return Err("a name has neither `/` nor a space".to_owned());
        }
        let patterns = match &self.function {
            OneOrMore::One(pattern) => std::slice::from_ref(pattern),
            OneOrMore::More(patterns) => patterns,
        };
        let fits_none =
            |pattern: &&String| !calls::NAMES.iter().chain(&["C_GetFunctionList"]).any(|name| fits(pattern, name));
        match patterns.iter().find(fits_none) {
            Some(pattern) => Err(format!("no function is called `{pattern}`")),
            None => Ok(()),
        }
    }

    pub fn is_the_same_as(&self, older: &Rule) -> bool {
        self.name.is_some() && self.name == older.name
    }

    pub fn count_on_from(&self, older: &Rule) {
        self.calls.store(older.calls.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn is_about(&self, function: &str) -> bool {
        match &self.function {
            OneOrMore::One(pattern) => fits(pattern, function),
            OneOrMore::More(patterns) => patterns.iter().any(|pattern| fits(pattern, function)),
        }
    }

    /// Counts the call.
    fn applies(&self, call: &Call, function: &str, on: On) -> bool {
        if !self.is_about(function) {
            return false;
        }
        if self.token.as_ref().is_some_and(|label| label_of(call, on).as_ref() != Some(label)) {
            return false;
        }
        let calls = match &self.name {
            Some(name) if self.count_over_processes => one_more(call.faults, name),
            _ => self.calls.fetch_add(1, Ordering::Relaxed) + 1,
        };
        if let Some(nth) = self.nth {
            return calls == nth;
        }
        let from = self.from.unwrap_or(1);
        let Some(since) = calls.checked_sub(from) else { return false };
        self.every.is_none_or(|every| since % every == 0) && self.first.is_none_or(|first| since < first)
    }

    fn label(&self, at: usize) -> String {
        match &self.name {
            Some(name) => format!("rule:{name}"),
            None => format!("rule:{at}"),
        }
    }
}

fn fits(pattern: &str, function: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => function.starts_with(start),
        None => function == pattern,
    }
}

/// A call through the rules: the first one that applies.
pub fn judged(call: &Call, function: &'static str, on: On, output: Output, real: impl FnOnce() -> CK_RV) -> CK_RV {
    let chosen = call.script.rules.iter().enumerate().find(|(_, rule)| rule.applies(call, function, on));
    let Some((at, rule)) = chosen else {
        let rv = real();
        log::call(call, function, rv, call.refused_by.get().unwrap_or("real"));
        return rv;
    };
    let by = rule.label(at);
    let mut rv = CKR_OK;
    let skipped = rule.rv.is_some() || rule.nothing;
    if rule.when == When::Before {
        happen(call, function, rule, &by);
        if !skipped {
            rv = real();
        }
    } else {
        rv = real();
        happen(call, function, rule, &by);
    }
    if let Some(told) = rule.rv {
        rv = told.0;
        if rule.when == When::After && rv != CKR_OK {
            throw_away(output);
        }
    }
    if rule.nothing
        && let Some(count) = output.count
        && !count.is_null()
    {
        // SAFETY: the caller's place for a number.
        unsafe { *count = 0 };
    }
    if let Some(at) = rule.flip
        && rv == CKR_OK
    {
        flip(output, at);
    }
    log::call(call, function, rv, &by);
    rv
}

fn label_of(call: &Call, on: On) -> Option<String> {
    let slot = match on {
        On::Module => return None,
        On::Slot(slot) => slot,
        On::Session(session) => sessions::slot_of(session)?,
    };
    let mut info = CK_TOKEN_INFO::default();
    let rv = real!(call.C_GetTokenInfo(slot, &raw mut info));
    (rv == CKR_OK).then(|| String::from_utf8_lossy(&info.label).trim_end().to_owned())
}

/// Delay, hang, loss and death.
fn happen(call: &Call, function: &'static str, rule: &Rule, by: &str) {
    if let Some(delay) = rule.delay_ms {
        std::thread::sleep(Duration::from_millis(delay));
    }
    if let Some(hang) = rule.hang {
        log::event(call, function, "hangs", by);
        loop {
            std::thread::sleep(Duration::from_millis(3));
            // Another version of the script, even one that says the same, ends it.
            let now = call.faults.script.current();
            if hang == Hang::UntilChanged && !std::sync::Arc::ptr_eq(&now, &call.script) {
                break;
            }
        }
    }
    match rule.lose {
        None => {}
        Some(Loss::Login) => sessions::log_all_out(call),
        Some(Loss::Sessions) => sessions::lose_all(call),
        Some(Loss::Context) => {
            let _ = real!(call.C_Finalize(std::ptr::null_mut()));
        }
    }
    if let Some(kill) = rule.kill {
        log::event(call, function, "dies", by);
        die(kill);
    }
}

fn throw_away(output: Output) {
    if let Some(bytes) = written(output) {
        bytes.fill(0xa5);
    }
    for handle in output.handles.into_iter().flatten().filter(|handle| !handle.is_null()) {
        // SAFETY: the caller's place for a handle.
        unsafe { *handle = 0 };
    }
}

fn flip(output: Output, at: i64) {
    let Some(bytes) = written(output) else { return };
    let at = if at < 0 { bytes.len().checked_sub(at.unsigned_abs() as usize) } else { Some(at as usize) };
    if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
        *byte ^= 1;
    }
}

fn written<'a>(output: Output) -> Option<&'a mut [u8]> {
    let (start, length) = output.bytes?;
    let length = match length {
        Length::Given(length) => length,
        // SAFETY: null, or the caller's place for a length, which the real function has written.
        Length::Written(length) => unsafe { *length.as_ref()? },
    };
    // SAFETY: the real function has just written that many bytes there, or the caller says that it could.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts_mut(start, length as usize) })
}

/// The number of calls of all processes, this one counted.
fn one_more(faults: &Faults, name: &str) -> u64 {
    let (mut file, text) = Kept::read(faults, format!("{name}.calls"));
    let number = text.trim().parse().unwrap_or(0u64) + 1;
    file.write(&number.to_string());
    number
}

unsafe extern "C" {
    fn _exit(code: c_int) -> !;
    fn raise(signal: c_int) -> c_int;
    fn signal(signal: c_int, handler: usize) -> usize;
}

/// Ends the process without exit handlers.
pub fn exit(code: i32) -> ! {
    // SAFETY: `_exit` of the C library takes any number.
    unsafe { _exit(code) }
}

fn die(how: Death) -> ! {
    const SIGABRT: c_int = 6;
    const SIGKILL: c_int = 9;
    const SIGSEGV: c_int = 11;
    let number = match how {
        Death::Exit => exit(1),
        Death::Segv => SIGSEGV,
        Death::Kill => SIGKILL,
        Death::Abort => SIGABRT,
    };
    // SAFETY: the default handlers (0) end the process, whatever handler the program had; SIGKILL has no other.
    unsafe {
        signal(number, 0);
        raise(number);
    }
    exit(98)
}
