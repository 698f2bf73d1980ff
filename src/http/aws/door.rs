//! Which of the port's services a request is for. RULE audit.md §2.7: KMS and CloudTrail are told by X-Amz-Target, STS by its
//! form, and S3 has all other paths; the stream's own were taken before.

use ::http::Method;

use crate::authn::Service;
use crate::cloudtrail;
use crate::http::request::WireRequest;
use crate::kms;
use crate::ops::Operation;
use crate::{s3, sts};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Kms,
    Sts,
    CloudTrail,
    /// `X-Amz-Target: HsmBridge.ExportAudit` and `HsmBridge.AuditReport`, signed as for KMS.
    Export(&'static str),
    S3,
}

impl Door {
    pub fn of(request: &WireRequest) -> Door {
        if let Some(target) = request.value("x-amz-target") {
            return match target {
                b"HsmBridge.ExportAudit" => Door::Export("ExportAudit"),
                b"HsmBridge.AuditReport" => Door::Export("AuditReport"),
                target if cloudtrail::target(target).is_some() => Door::CloudTrail,
                _ => Door::Kms,
            };
        }
        let form = request.value("content-type").is_some_and(|t| t.starts_with(b"application/x-www-form-urlencoded"));
        let asks = request.query.split('&').any(|pair| pair.starts_with("Action="));
        let root = matches!(request.path.as_str(), "/" | "");
        if root && (form || (request.method == Method::GET && asks)) {
            Door::Sts
        } else if !root || signed_for_s3(request) {
            Door::S3
        } else {
            Door::Kms
        }
    }

    /// What the signature has to be for.
    pub fn service(self) -> Service {
        match self {
            Door::Kms | Door::Export(_) => Service::Kms,
            Door::Sts => Service::Sts,
            Door::CloudTrail => Service::CloudTrail,
            Door::S3 => Service::S3,
        }
    }

    pub fn event_source(self) -> &'static str {
        match self {
            Door::Kms => "kms.amazonaws.com",
            Door::Sts => "sts.amazonaws.com",
            Door::CloudTrail => "cloudtrail.amazonaws.com",
            Door::S3 => "s3.amazonaws.com",
            Door::Export(_) => "hsm-bridge",
        }
    }

    /// The operation's name, from closed lists only.
    pub fn operation_name(self, request: &WireRequest) -> Option<&'static str> {
        let (method, target) = (request.method.as_str(), request.value("x-amz-target"));
        match self {
            Door::Kms => kms::target(target).ok().map(Operation::name),
            Door::Sts => sts::action_name(method, &request.query, &request.body),
            Door::CloudTrail => target.and_then(cloudtrail::target)?.name(),
            Door::S3 => s3::operation_name(method, &request.path, &request.query),
            Door::Export(name) => Some(name),
        }
    }
}

/// ListBuckets has KMS's path: what tells it is the scope that it is signed for.
fn signed_for_s3(request: &WireRequest) -> bool {
    let header = request.value("authorization").unwrap_or_default();
    let signed = |text: &[u8], scope: &[u8]| text.windows(scope.len()).any(|part| part == scope);
    request.method == Method::GET
        && (signed(header, b"/s3/aws4_request") || signed(request.query.as_bytes(), b"%2Fs3%2Faws4_request"))
}
