//! Both ends show that they hold the same 32 bytes, neither shows the bytes.
//!
//! ```text
//! relay → side   MAGIC, relay's nonce (32)
//! side → relay   side's nonce (32), HMAC-SHA-256(key, "side"  | relay's nonce | side's nonce)
//! relay → side                      HMAC-SHA-256(key, "relay" | relay's nonce | side's nonce)
//! side → relay   ACCEPTED
//! ```
//!
//! Nonces of both ends: an answer that was seen once proves nothing later. Names of the ends: an answer cannot be sent
//! back to whom it came from. The last byte tells the relay that a worker listens from now on.

use std::io::{self, Read, Write};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;
const MAGIC: [u8; 8] = *b"hb-tok-1";
const ACCEPTED: u8 = 1;

pub type Key = [u8; KEY_BYTES];

/// The end that connects. Afterwards the stream belongs to the protocol.
pub fn connect(stream: &mut (impl Read + Write), key: &Key) -> io::Result<()> {
    let relay_nonce = nonce()?;
    stream.write_all(&[MAGIC.as_slice(), &relay_nonce].concat())?;
    let side_nonce: [u8; NONCE_BYTES] = read(stream)?;
    let proof: [u8; PROOF_BYTES] = read(stream)?;
    check(mac(key, "side", &relay_nonce, &side_nonce), &proof, "the token side holds another key")?;
    let own = mac(key, "relay", &relay_nonce, &side_nonce).finalize().into_bytes();
    stream.write_all(&own)?;
    match read(stream)? {
        [ACCEPTED] => Ok(()),
        [other] => Err(refused(&format!("the token side answered {other} instead of accepting"))),
    }
}

/// The end that listens. Nothing is started for a connection before this has returned `Ok`.
pub fn accept(stream: &mut (impl Read + Write), key: &Key) -> io::Result<()> {
    if read(stream)? != MAGIC {
        return Err(refused("this is no relay"));
    }
    let relay_nonce: [u8; NONCE_BYTES] = read(stream)?;
    let side_nonce = nonce()?;
    let own = mac(key, "side", &relay_nonce, &side_nonce).finalize().into_bytes();
    stream.write_all(&[side_nonce.as_slice(), &own].concat())?;
    let proof: [u8; PROOF_BYTES] = read(stream)?;
    check(mac(key, "relay", &relay_nonce, &side_nonce), &proof, "the relay holds another key")?;
    stream.write_all(&[ACCEPTED])
}

fn mac(key: &Key, end: &str, relay_nonce: &[u8; NONCE_BYTES], side_nonce: &[u8; NONCE_BYTES]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(end.as_bytes());
    mac.update(relay_nonce);
    mac.update(side_nonce);
    mac
}

/// In constant time.
fn check(mac: Hmac<Sha256>, proof: &[u8; PROOF_BYTES], otherwise: &str) -> io::Result<()> {
    mac.verify_slice(proof).map_err(|_| refused(otherwise))
}

fn read<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn nonce() -> io::Result<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    const KEY: Key = [7; KEY_BYTES];

    fn meet(relay: Key, side: Key) -> (io::Result<()>, io::Result<()>) {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let side = thread::spawn(move || accept(&mut far, &side));
        let relay = connect(&mut near, &relay);
        drop(near);
        (relay, side.join().unwrap())
    }

    #[test]
    fn one_key_opens() {
        let (relay, side) = meet(KEY, KEY);
        relay.unwrap();
        side.unwrap();
    }

    #[test]
    fn another_key_does_not() {
        let mut other = KEY;
        other[31] ^= 1;
        let (relay, side) = meet(KEY, other);
        assert_eq!(relay.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(side.is_err(), "the side saw no proof");
    }

    /// A relay that does not check the side, so that the side's own check is reached.
    #[test]
    fn the_side_checks_for_itself() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let side = thread::spawn(move || accept(&mut far, &KEY));
        near.write_all(&[MAGIC.as_slice(), &[1; NONCE_BYTES]].concat()).unwrap();
        let _: [u8; NONCE_BYTES + PROOF_BYTES] = read(&mut near).unwrap();
        near.write_all(&[0; PROOF_BYTES]).unwrap();
        assert_eq!(side.join().unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(near.read(&mut [0]).unwrap(), 0, "not accepted");
    }

    /// Who has no key and sends the side's own proof back.
    #[test]
    fn a_proof_sent_back_is_none() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let side = thread::spawn(move || accept(&mut far, &KEY));
        near.write_all(&[MAGIC.as_slice(), &[1; NONCE_BYTES]].concat()).unwrap();
        let _: [u8; NONCE_BYTES] = read(&mut near).unwrap();
        let proof: [u8; PROOF_BYTES] = read(&mut near).unwrap();
        near.write_all(&proof).unwrap();
        assert_eq!(side.join().unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    /// What a side that is listened to once could answer the next time.
    #[test]
    fn an_old_proof_is_none() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let relay = thread::spawn(move || connect(&mut near, &KEY));
        let _: [u8; MAGIC.len()] = read(&mut far).unwrap();
        let _: [u8; NONCE_BYTES] = read(&mut far).unwrap();
        let old = mac(&KEY, "side", &[1; NONCE_BYTES], &[2; NONCE_BYTES]).finalize().into_bytes();
        far.write_all(&[[2; NONCE_BYTES].as_slice(), &old].concat()).unwrap();
        assert_eq!(relay.join().unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_stranger_is_sent_away_before_it_learns_anything() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        near.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        assert_eq!(accept(&mut far, &KEY).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        drop(far);
        assert!(matches!(near.read(&mut [0]), Ok(0) | Err(_)), "no answer");
    }
}
