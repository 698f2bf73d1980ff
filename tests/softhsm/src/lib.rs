//! A network HSM in small: the token lives in a container (or in a local process), and the bridge reaches it over a
//! socket that lies in a directory both can see.
//!
//! ```text
//! bridge ── relay ──────── socket ──────── token side ── a worker per connection ── SoftHSM
//!          (started in     both ends       (in the container)
//!           a worker's     prove one key
//!           place)
//! ```
//!
//! What passes between relay and worker is the token worker's protocol; this crate does not look into it. A test
//! fixture: the proof keeps a stranger's connection out of a test, it is no transport security. Frames that follow it
//! are neither encrypted nor bound to it.

pub mod handshake;
pub mod place;
