//! The credential: access key id and the scope that the signing key is derived for.

use super::date::Timestamp;
use super::echo;
use crate::authn::AuthnError;

const TERMINATOR: &str = "aws4_request";

/// `Credential=keyid/date/region/service/term`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope<'a> {
    pub access_key_id: &'a str,
    pub day: &'a str,
    pub region: &'a str,
    pub service: &'a str,
    pub terminator: &'a str,
}

impl<'a> Scope<'a> {
    /// RULE authorization.md §3.1.6, first half.
    pub fn parse(credential: &'a str) -> Result<Self, AuthnError> {
        let mut parts = credential.split('/');
        let mut next = || parts.next();
        match (next(), next(), next(), next(), next(), next()) {
            (Some(access_key_id), Some(day), Some(region), Some(service), Some(terminator), None) => {
                Ok(Self { access_key_id, day, region, service, terminator })
            }
            _ => Err(AuthnError::IncompleteSignature(format!(
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{}'",
                echo(credential)
            ))),
        }
    }

    /// RULE authorization.md §3.1.6, second half: all that is wrong with the scope in one message.
    pub fn check(&self, region_accepted: bool, service: &str, date: &Timestamp) -> Result<(), AuthnError> {
        let mut wrong = Vec::new();
        if !region_accepted {
            wrong.push(format!("Credential should be scoped to a valid region, not '{}'.", echo(self.region)));
        }
        if self.service != service {
            wrong.push(format!("Credential should be scoped to correct service: '{service}'."));
        }
        if self.terminator != TERMINATOR {
            wrong.push(format!(
                "Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{}'.",
                echo(self.terminator)
            ));
        }
        if self.day != date.day() {
            wrong.push(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != '{}', \
                 from '{}'.",
                echo(self.day),
                date.day(),
                date.as_str()
            ));
        }
        if wrong.is_empty() { Ok(()) } else { Err(AuthnError::InvalidSignature(wrong.join(" "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_parts() {
        let scope = Scope::parse("AKIA/20150830/eu-central-1/kms/aws4_request").unwrap();
        assert_eq!((scope.access_key_id, scope.region, scope.service), ("AKIA", "eu-central-1", "kms"));
        for credential in ["", "AKIA/20150830/eu-central-1/kms", "AKIA/20150830/eu-central-1/kms/aws4_request/"] {
            let error = Scope::parse(credential).unwrap_err();
            assert!(
                matches!(&error, AuthnError::IncompleteSignature(t) if t.starts_with("Credential must have exactly 5")),
                "{credential}: {error}"
            );
        }
    }

    #[test]
    fn all_faults_are_one_message() {
        let date = Timestamp::parse("20150830T123600Z").unwrap();
        let check =
            |credential: &'static str, accepted| Scope::parse(credential).unwrap().check(accepted, "kms", &date);
        assert_eq!(check("A/20150830/eu-central-1/kms/aws4_request", true), Ok(()));
        assert_eq!(
            check("A/20150831/mars-1/s3/aws5_request", false).unwrap_err().to_string(),
            "Credential should be scoped to a valid region, not 'mars-1'. \
             Credential should be scoped to correct service: 'kms'. \
             Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5_request'. \
             Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: \
             '20150831' != '20150830', from '20150830T123600Z'."
        );
    }
}
