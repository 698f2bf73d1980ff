//! Frames between the service and a token worker: what the other end sends may be anything.

#![no_main]

use hsm_bridge::token::read_frames;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read_frames(bytes);
    // As one whole frame, so that what is inside is reached at once.
    if let Ok(length) = u32::try_from(bytes.len()) {
        read_frames(&[&length.to_le_bytes(), bytes].concat());
    }
});
