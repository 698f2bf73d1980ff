//! The policies that are there without anybody having made them.

use crate::ids::PolicyArn;

const MANAGED: [&str; 3] = [
    "arn:aws:iam::aws:policy/AdministratorAccess",
    "arn:aws:iam::aws:policy/AWSKeyManagementServicePowerUser",
    "arn:aws:iam::aws:policy/ReadOnlyAccess",
];
const SERVICE_CONTROL: [&str; 1] = ["arn:aws:organizations::aws:policy/service_control_policy/FullAWSAccess"];

pub fn is_builtin(arn: &PolicyArn) -> bool {
    managed(arn) || service_control(arn) || arn.as_str().starts_with("arn:aws:iam::aws:")
}

/// Attachable to identities.
pub fn managed(arn: &PolicyArn) -> bool {
    MANAGED.contains(&arn.as_str())
}

/// Attachable to accounts and units.
pub fn service_control(arn: &PolicyArn) -> bool {
    SERVICE_CONTROL.contains(&arn.as_str())
}

pub fn all() -> impl Iterator<Item = &'static str> {
    MANAGED.into_iter().chain(SERVICE_CONTROL)
}
