//! The log as a verifier meets it: lines and signed notes that somebody may have forged.

#![no_main]

use hsm_bridge::audit::verify::line::Line;
use hsm_bridge::audit::verify::note::Note;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Line::parse(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Note::parse(text);
    }
});
