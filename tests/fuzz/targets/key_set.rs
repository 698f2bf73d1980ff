//! The keys of an identity provider, fetched from elsewhere.

#![no_main]

use hsm_bridge::authn::federation::KeySet;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = KeySet::parse(text);
    }
});
