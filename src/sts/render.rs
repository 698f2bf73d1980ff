//! Answers in AWS's XML shapes.

use std::fmt::Write;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{NAMESPACE, escape};
use crate::authn::Caller;
use crate::ops::{Credentials, RoleCredentials, StsResponse};
use crate::secret::SecretBytes;

/// Room for the longest answer: growing would leave copies of the secret behind.
const ROOM: usize = 16 * 1024;

/// The body of an answer to `caller`.
pub fn render(response: &StsResponse, caller: &Caller, request_id: &str) -> SecretBytes {
    let mut xml = Xml(String::with_capacity(ROOM));
    match response {
        StsResponse::CallerIdentity => xml.answer("GetCallerIdentity", request_id, |xml| {
            xml.text("Arn", &caller.arn());
            xml.text("UserId", &caller.unique_id());
            xml.text("Account", caller.account().as_str());
        }),
        StsResponse::Role(role) => {
            let name = if role.web_identity.is_some() { "AssumeRoleWithWebIdentity" } else { "AssumeRole" };
            xml.answer(name, request_id, |xml| xml.role(role));
        }
        StsResponse::Session(credentials) => {
            xml.answer("GetSessionToken", request_id, |xml| xml.credentials(credentials));
        }
        StsResponse::Federated { credentials, arn, id, packed_policy_size } => {
            xml.answer("GetFederationToken", request_id, |xml| {
                xml.credentials(credentials);
                xml.within("FederatedUser", |xml| {
                    xml.text("FederatedUserId", id);
                    xml.text("Arn", arn);
                });
                xml.text("PackedPolicySize", &packed_policy_size.to_string());
            });
        }
        StsResponse::AccessKeyInfo { account } => {
            xml.answer("GetAccessKeyInfo", request_id, |xml| xml.text("Account", account));
        }
    }
    SecretBytes::new(xml.0.into_bytes())
}

struct Xml(String);

impl Xml {
    fn answer(&mut self, action: &str, request_id: &str, result: impl FnOnce(&mut Self)) {
        let _ = writeln!(self.0, "<{action}Response xmlns=\"{NAMESPACE}\">");
        self.within(&format!("{action}Result"), result);
        self.within("ResponseMetadata", |xml| xml.text("RequestId", request_id));
        let _ = writeln!(self.0, "</{action}Response>");
    }

    fn within(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        let _ = writeln!(self.0, "<{name}>");
        content(self);
        let _ = writeln!(self.0, "</{name}>");
    }

    fn text(&mut self, name: &str, text: &str) {
        let _ = writeln!(self.0, "<{name}>{}</{name}>", escape(text));
    }

    /// The alphabet of base64 needs no escaping, and this makes no copy.
    fn secret(&mut self, name: &str, text: &str) {
        let _ = writeln!(self.0, "<{name}>{text}</{name}>");
    }

    fn credentials(&mut self, credentials: &Credentials) {
        self.within("Credentials", |xml| {
            xml.text("AccessKeyId", credentials.access_key.as_str());
            xml.secret("SecretAccessKey", credentials.secret.expose());
            xml.secret("SessionToken", credentials.session_token.expose());
            xml.text("Expiration", &date(credentials.expiration));
        });
    }

    fn role(&mut self, role: &RoleCredentials) {
        if let Some((subject, audience, provider)) = &role.web_identity {
            self.text("SubjectFromWebIdentityToken", subject);
            self.text("Audience", audience);
            self.text("Provider", provider);
        }
        if let Some(identity) = &role.source_identity {
            self.text("SourceIdentity", identity);
        }
        self.within("AssumedRoleUser", |xml| {
            xml.text("Arn", &role.arn);
            xml.text("AssumedRoleId", &role.id);
        });
        self.credentials(&role.credentials);
        self.text("PackedPolicySize", &role.packed_policy_size.to_string());
    }
}

/// `2026-11-22T10:00:00Z`
fn date(seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(&Rfc3339).unwrap_or_default()
}
