//! Policies: what is accepted at a write can be read again from the store.

#![no_main]

use hsm_bridge::authz::language::{Policy, PolicyKind};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for kind in [PolicyKind::Key, PolicyKind::IdentityManaged, PolicyKind::Session, PolicyKind::Trust] {
        let strict = Policy::parse(text, kind).is_ok();
        let stored = Policy::parse_stored(text, kind).is_ok();
        assert!(stored || !strict, "accepted and then not readable as {kind:?}");
    }
});
