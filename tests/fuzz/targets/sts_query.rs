//! An STS request, as a form or in the query string.

#![no_main]

use hsm_bridge::sts;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = sts::parse("POST", "", bytes);
    let _ = sts::is_web_identity("POST", "", bytes);
    if let Ok(query) = std::str::from_utf8(bytes) {
        let _ = sts::parse("GET", query, &[]);
        let _ = sts::action_name("GET", query, &[]);
    }
});
