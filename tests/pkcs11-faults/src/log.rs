//! The log of C calls: `pid function result by microseconds thread [key=…]`, one line for each call, appended.

use std::io::Write;
use std::time::SystemTime;

use cryptoki_sys::CK_RV;

use crate::{Call, names};

/// `by`: `real`, `rule:NAME` or `rule:INDEX`, or the name of the behaviour that refused.
pub fn call(call: &Call, function: &str, rv: CK_RV, by: &str) {
    if call.faults.log.is_some() {
        event(call, function, &names::of_return_value(rv), by);
    }
}

/// What has no return value: that a call hangs, or that the process is about to die in it.
pub fn event(call: &Call, function: &str, what: &str, by: &str) {
    let Some(mut file) = call.faults.log.as_ref() else { return };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let thread = format!("{:?}", std::thread::current().id());
    let thread: String = thread.chars().filter(char::is_ascii_digit).collect();
    let mut line = format!("{} {function} {what} {by} {now} {thread}", std::process::id());
    if let Some(key) = call.key.borrow().as_ref() {
        line.push_str(" key=");
        line.extend(key.iter().map(|byte| format!("{byte:02x}")));
    }
    line.push('\n');
    // One write of a file that is open for appending: lines of threads and processes do not mix.
    let _ = file.write(line.as_bytes());
}
