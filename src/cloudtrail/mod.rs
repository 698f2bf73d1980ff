//! The CloudTrail front: AWS JSON 1.1, version 2013-11-01. What an auditor's stock AWS CLI asks of the trail; what would stop or
//! change it is refused and recorded. Source: audit.md §2.4, §2.7.

mod audit;
mod error;
mod parse;

pub use audit::audit_parameters;
pub use error::{TrailError, error_body};
pub use parse::{Target, parse, target};

pub const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
