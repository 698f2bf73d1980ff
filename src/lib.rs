//! hsm-bridge: AWS KMS to its clients, PKCS#11 to a token.
//!
//! ```text
//!  TCP/TLS ── http ──┬── kms  (AWS JSON 1.1, X-Amz-Target: TrentService.*) ──┐
//!                    ├── sts  (Query protocol, Action=AssumeRole…)         ──┤
//!                    ├── cloudtrail  (AWS JSON 1.1, CloudTrail_20131101.*) ──┤
//!                    └── s3   (REST, path-style: the log's sealed files)   ──┤
//!  operator socket ── cli ───────────────────────────────────────────────────┤
//!                                                                            ▼
//!   authn    who asks                                             → Caller
//!   front    parse and validate                                   → Request
//!   ops      resolve alias, key, ciphertext header, from one      → Resolved
//!            snapshot
//!   authz    every check of the operation, on what was resolved   → Permit
//!   audit    intent, where something changes                      → Recorded
//!   ops      state, usage, DryRun, then the token                 → Response
//!   audit    the outcome, on stable storage                       → Recorded
//!   front    the answer
//! ```
//!
//! That order is one function, `http::pipeline::run`. Each step returns a value that only it can make and that the next
//! demands. `app` is the only place where token, store, audit and clock meet. Which folder may use which is a table in
//! `tests/layers.rs`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic))]

pub mod app;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod cli;
pub mod client;
pub mod cloudtrail;
pub mod config;
pub mod http;
pub mod ids;
pub mod keystore;
pub mod kms;
pub mod ops;
pub mod report;
pub mod s3;
pub mod secret;
pub mod sinks;
pub mod store;
pub mod sts;
pub mod token;
