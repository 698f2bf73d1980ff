//! The S3 front: path-style reads of one bucket, the sealed files of the log. Writing is refused and recorded, whoever asks.
//! Source: audit.md §2.4, §2.7.

mod audit;
mod error;
mod parse;
mod render;

pub use audit::audit_parameters;
pub use error::{S3Error, error_xml};
pub use parse::{operation_name, parse};
pub use render::{Rendered, render};

pub const CONTENT_TYPE: &str = "application/xml";
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Text as XML 1.0 may hold it: markup escaped, characters that XML forbids replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            ' '.. if !matches!(character, '\u{fffe}' | '\u{ffff}') => escaped.push(character),
            _ => escaped.push('\u{fffd}'),
        }
    }
    escaped
}
