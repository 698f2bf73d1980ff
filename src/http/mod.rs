//! Bytes in, bytes out: listeners, limits, TLS, routes, the pipeline, health, metrics. Knows no cryptoki and no SQL.
//!
//! ```text
//!  accept ─ (TLS) ─ HTTP/1.1 or HTTP/2 ─ guard: head ─┬─ /healthz, /readyz
//!                                                     └─ guard: body ─ Handler (the pipeline, in a task of its own)
//! ```

mod aws;
mod connection;
mod first_use;
mod guard;
pub mod health;
mod limits;
mod listeners;
pub mod metrics;
pub mod operator;
mod parse_errors;
pub mod pipeline;
mod pump;
pub mod request;
pub mod server;
mod sheet;
pub mod stream;
mod switch;
pub mod tls;

pub use aws::AwsHandler;
pub use health::Readiness;
pub use metrics::Metrics;
pub use pipeline::Services;
pub use request::{Handler, Reply, Source, StreamReply, TlsFacts, WireReply, WireRequest};
pub use server::{Drained, ServeError, Server, ServerSettings, TlsReloader};
pub use server::{ListenerSettings, TlsFiles};
pub use stream::Streams;
pub use switch::Switch;

/// Content type of AWS JSON 1.1 answers, error answers included.
pub const AMZ_JSON: &str = "application/x-amz-json-1.1";
