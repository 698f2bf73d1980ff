//! A ciphertext that a caller sends: opened as it is, or refused.

#![no_main]

use hsm_bridge::ops::ciphertext::Blob;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(blob) = Blob::parse(bytes) {
        // RULE: what is read is what was written, byte for byte.
        let again = blob.header.seal(blob.iv, blob.ciphertext).expect("a blob that was read has an IV that fits");
        assert_eq!(again, bytes);
    }
});
