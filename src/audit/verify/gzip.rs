//! Compressed objects, read so strictly that no bit of them can differ from what our writer writes and still say the same.

use std::io::Read;

use flate2::bufread::GzDecoder;

/// Header of RFC 1952 without name, time or comment, as our writer writes it.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// CRC and length.
const TRAILER: usize = 8;

/// At most `largest` bytes, unpacked.
pub(super) fn unpack(packed: &[u8], largest: u64) -> Result<Vec<u8>, String> {
    if !packed.starts_with(&HEADER) {
        return Err("it does not begin as our gzip files do".into());
    }
    let bytes = inflate(packed, largest)?;
    if padding_is_used(packed, &bytes) {
        return Err("bits behind the end of its gzip stream are set".into());
    }
    Ok(bytes)
}

fn inflate(packed: &[u8], largest: u64) -> Result<Vec<u8>, String> {
    let mut decoder = GzDecoder::new(packed);
    let mut bytes = Vec::new();
    let read = decoder.by_ref().take(largest.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| format!("it does not unpack: {error}"))?;
    if bytes.len() as u64 > largest {
        return Err("it is longer than any file of ours".into());
    }
    // What the decoder did not take.
    if !decoder.into_inner().is_empty() {
        return Err("data follow the end of its gzip stream".into());
    }
    Ok(bytes)
}

/// Deflate ends in the middle of a byte, whose other bits (the high ones) no decoder looks at. If any is set, the highest one
/// that is set is such a bit: without it the stream says the same.
fn padding_is_used(packed: &[u8], bytes: &[u8]) -> bool {
    let Some(at) = packed.len().checked_sub(TRAILER + 1) else { return false };
    let mut without = packed.to_vec();
    let Some(last) = without.get_mut(at).filter(|last| **last != 0) else { return false };
    *last &= !(0x80 >> last.leading_zeros());
    inflate(&without, bytes.len() as u64).is_ok_and(|again| again == bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn no_flipped_bit_says_the_same() {
        let mut long = Vec::new();
        (0u32..300).for_each(|i| write!(long, "{}-{i};", i * i % 97).unwrap());
        for content in [&b""[..], b"a", b"{\"Records\":[]}", &long] {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(content).unwrap();
            let packed = encoder.finish().unwrap();
            assert_eq!(unpack(&packed, 1 << 20).unwrap(), content);
            for (index, bit) in (0..packed.len()).flat_map(|index| (0..8).map(move |bit| (index, bit))) {
                let mut bad = packed.clone();
                bad[index] ^= 1 << bit;
                assert!(unpack(&bad, 1 << 20).is_err(), "bit {bit} of byte {index} of {}", packed.len());
            }
            assert!(unpack(&[&packed[..], b"x"].concat(), 1 << 20).is_err());
            assert!(unpack(&[&packed[..], &packed].concat(), 1 << 20).is_err());
        }
    }
}
