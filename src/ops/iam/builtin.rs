//! The policies that are there without anybody having made them, by what they may be attached to.

use crate::authz::builtin::{builtin, kind_of};
use crate::authz::language::PolicyKind;
use crate::ids::PolicyArn;

/// Nobody makes, changes or deletes a policy of this ARN.
pub fn is_builtin(arn: &PolicyArn) -> bool {
    builtin(arn.as_str()).is_some() || arn.as_str().starts_with("arn:aws:iam::aws:")
}

/// Attachable to identities.
pub fn managed(arn: &PolicyArn) -> bool {
    builtin(arn.as_str()).is_some() && kind_of(arn.as_str()) != PolicyKind::ServiceControl
}

/// Attachable to accounts and units.
pub fn service_control(arn: &PolicyArn) -> bool {
    builtin(arn.as_str()).is_some() && kind_of(arn.as_str()) == PolicyKind::ServiceControl
}
