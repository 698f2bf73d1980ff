//! A KMS request: its target chosen by the first byte, its body by the rest.

#![no_main]

use hsm_bridge::kms;
use hsm_bridge::ops::Operation;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else { return };
    let _ = kms::target(Some(body));
    let operation = Operation::ALL[usize::from(*first) % Operation::ALL.len()];
    if let Err(error) = kms::parse(operation, body) {
        assert!((400..500).contains(&error.status), "{error:?}");
    }
});
