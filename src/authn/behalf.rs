//! Requests that a registered service signs: on whose behalf, and for which resource of its own. Only headers of a service
//! count, and all of them begin with `x-amz-`, so that a signature covers them. Source: authorization.md §1.11.

use std::sync::Arc;

use super::{Authenticator, AuthnError, Caller, Directory, OpenSecret, PlainRequest, Principal, Session};
use crate::ids::{AccountId, Arn, ServiceName};

/// On whose behalf: the ARN of a user or of an account's root user, or the session token of temporary credentials.
pub const ON_BEHALF_OF: &str = "x-amz-kms-on-behalf-of";
/// For whose and for which resource the service calls: `aws:SourceAccount`, `aws:SourceArn`.
pub const SOURCE_ACCOUNT: &str = "x-amz-source-account";
pub const SOURCE_ARN: &str = "x-amz-source-arn";

/// Characters of a name that a refusal shows.
const SHOWN: usize = 256;

/// The caller for whom a service calls, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndCaller {
    pub principal: Principal,
    pub account: AccountId,
    /// Where the service sent its session token.
    pub session: Option<Arc<Session>>,
}

/// Why a service may not act on somebody's behalf. Safe to tell the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotForThem {
    #[error("because its registration does not name that principal")]
    NotRegistered,
    #[error("because there is no such principal, or it may not sign in")]
    Nobody,
    /// A session may be narrower than its role or user, and its ARN does not say how.
    #[error("because a session is named by its session token, not by its ARN")]
    SessionByName,
    #[error("because the session token does not open or has expired")]
    Token,
}

/// Why a request on behalf of somebody goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOnBehalf {
    /// The text for the signer (AccessDenied).
    Denied(String),
    /// The session token could not be tried: a fault of ours. The text is for the log.
    Internal(String),
}

/// The resource of a service for which it calls. Only services say it: nobody else is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// `aws:SourceAccount`
    pub account: Option<AccountId>,
    /// `aws:SourceArn`
    pub arn: Option<String>,
}

impl Authenticator {
    /// Takes what a service said of its caller into account. `Err`: the signer as it is, and why.
    pub async fn behalf(
        &self,
        signer: Caller,
        request: &PlainRequest<'_>,
        directory: &dyn Directory,
        secrets: &dyn OpenSecret,
        now: i64,
    ) -> Result<Caller, (Caller, NotOnBehalf)> {
        let named = match one(request, ON_BEHALF_OF) {
            Ok(named) => named,
            Err(text) => return Err((signer, NotOnBehalf::Denied(text))),
        };
        let source = match source(request) {
            Ok(source) => source,
            Err(text) => return Err((signer, NotOnBehalf::Denied(text))),
        };
        let Principal::Service { name: service, .. } = &signer.principal else {
            return match named.map(|_| ON_BEHALF_OF).or(source.map(|_| SOURCE_ARN)) {
                None => Ok(signer),
                Some(header) => {
                    let text = format!(
                        "User: {} is not authorized to send {header} because it is not a registered service",
                        signer.arn()
                    );
                    Err((signer, NotOnBehalf::Denied(text)))
                }
            };
        };
        let source = source.map(Arc::new);
        let Some(named) = named else {
            return Ok(Caller { source, ..signer });
        };
        let end = if named.starts_with("arn:") {
            directory.end_caller(service, named)
        } else {
            match self.end_session(service, named, directory, secrets, now).await {
                Err(AuthnError::Internal(cause)) => return Err((signer, NotOnBehalf::Internal(cause))),
                Err(_) => Err(NotForThem::Token),
                Ok(end) => end,
            }
        };
        match end {
            Ok(end) => Ok(Caller {
                principal: end.principal,
                account: end.account,
                access_key: signer.access_key,
                session: end.session,
                via: Some(service.clone()),
                source,
            }),
            Err(why) => {
                let text = refusal(service, named, why);
                Err((signer, NotOnBehalf::Denied(text)))
            }
        }
    }

    /// By the session token that the caller sent to the service: whose session it is, as narrow as it is.
    async fn end_session(
        &self,
        service: &ServiceName,
        token: &str,
        directory: &dyn Directory,
        secrets: &dyn OpenSecret,
        now: i64,
    ) -> Result<Result<EndCaller, NotForThem>, AuthnError> {
        let (opened, principal) = self.session(None, token, directory, secrets, now).await?;
        let caller = Caller::plain(principal, opened.claims.account.clone());
        if !directory.acts_for(service, &caller.account, &[&caller.arn(), &caller.principal_arn()]) {
            return Ok(Err(NotForThem::NotRegistered));
        }
        let Caller { principal, account, .. } = caller;
        Ok(Ok(EndCaller { principal, account, session: Some(Arc::clone(&opened.session)) }))
    }
}

/// Whether a request says that it is on somebody's behalf: for the fronts that refuse it.
pub fn is_on_behalf(request: &PlainRequest<'_>) -> bool {
    request.headers.iter().any(|(name, _)| *name == ON_BEHALF_OF)
}

/// A session token is shown to nobody.
fn refusal(service: &ServiceName, named: &str, why: NotForThem) -> String {
    let shown: String =
        if named.starts_with("arn:") { named.chars().take(SHOWN).collect() } else { "a session".into() };
    format!("Service: {service} is not authorized to act on behalf of {shown} {why}")
}

fn source(request: &PlainRequest<'_>) -> Result<Option<Source>, String> {
    let account = match one(request, SOURCE_ACCOUNT)? {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| format!("{SOURCE_ACCOUNT} must be a 12-digit account id"))?),
    };
    let arn = match one(request, SOURCE_ARN)? {
        None => None,
        Some(text) if Arn::parse(text).is_ok() => Some(text.to_owned()),
        Some(_) => return Err(format!("{SOURCE_ARN} must be an ARN")),
    };
    Ok((account.is_some() || arn.is_some()).then_some(Source { account, arn }))
}

/// The value of a header that may stand once, as visible ASCII.
fn one<'a>(request: &PlainRequest<'a>, name: &str) -> Result<Option<&'a str>, String> {
    let mut values = request.headers.iter().filter(|(present, _)| *present == name).map(|(_, value)| *value);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(format!("{name} must be sent once"));
    }
    match std::str::from_utf8(value.trim_ascii()) {
        Ok(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(text)),
        _ => Err(format!("{name} must be one word of visible ASCII characters")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::{Credential, Settings};
    use crate::ids::AccessKeyId;
    use crate::secret::SecretString;
    use std::future::Future;
    use std::pin::Pin;

    struct OneUser;

    impl Directory for OneUser {
        fn credential(&self, _: &AccessKeyId) -> Option<Credential> {
            None
        }

        fn end_caller(&self, service: &ServiceName, named: &str) -> Result<EndCaller, NotForThem> {
            assert_eq!(service.as_str(), "s3.internal.example");
            match named {
                "arn:aws:iam::111122223333:user/alice" => {
                    Ok(EndCaller { principal: Principal::Root, account: account(), session: None })
                }
                _ => Err(NotForThem::NotRegistered),
            }
        }
    }

    fn account() -> AccountId {
        "111122223333".parse().unwrap()
    }

    fn service() -> Caller {
        let name = "s3.internal.example".parse().unwrap();
        let principal = Principal::Service { name, service_id: "ASVC0".to_owned() };
        Caller { access_key: Some("AKIA0000000000000001".parse().unwrap()), ..Caller::plain(principal, account()) }
    }

    struct NoSecrets;

    impl OpenSecret for NoSecrets {
        fn open<'a>(
            &'a self,
            _: &'a Credential,
        ) -> Pin<Box<dyn Future<Output = Result<SecretString, String>> + Send + 'a>> {
            Box::pin(async { Err("no secret".to_owned()) })
        }
    }

    async fn asked(signer: Caller, headers: &[(&str, &[u8])]) -> Result<Caller, String> {
        let request = PlainRequest { method: "POST", path: "/", query: "", headers, body: b"" };
        let authenticator =
            Authenticator::new(Settings { accepted_regions: Vec::new(), debug_signature_errors: false });
        authenticator.behalf(signer, &request, &OneUser, &NoSecrets, 0).await.map_err(|(_, why)| match why {
            NotOnBehalf::Denied(text) => text,
            NotOnBehalf::Internal(cause) => panic!("{cause}"),
        })
    }

    #[tokio::test]
    async fn a_service_acts_for_whom_the_directory_lets_it() {
        let caller = asked(service(), &[(ON_BEHALF_OF, b"arn:aws:iam::111122223333:user/alice")]).await.unwrap();
        assert_eq!(caller.principal(), &Principal::Root);
        assert_eq!(caller.via().unwrap().as_str(), "s3.internal.example");
        assert_eq!(caller.access_key().unwrap().as_str(), "AKIA0000000000000001");
        let text = asked(service(), &[(ON_BEHALF_OF, b"arn:aws:iam::111122223333:user/bob")]).await.unwrap_err();
        assert_eq!(
            text,
            "Service: s3.internal.example is not authorized to act on behalf of arn:aws:iam::111122223333:user/bob \
             because its registration does not name that principal"
        );
        // A session token is not echoed.
        let text = asked(service(), &[(ON_BEHALF_OF, b"AVerySealedToken")]).await.unwrap_err();
        assert!(text.contains("on behalf of a session because"), "{text}");
    }

    #[tokio::test]
    async fn nobody_else_is_believed() {
        let user = || Caller::plain(Principal::Root, account());
        for header in [ON_BEHALF_OF, SOURCE_ACCOUNT, SOURCE_ARN] {
            let value: &[u8] = if header == SOURCE_ACCOUNT { b"111122223333" } else { b"arn:aws:s3:::bucket" };
            let text = asked(user(), &[(header, value)]).await.unwrap_err();
            assert!(text.contains("is not a registered service"), "{header}: {text}");
        }
        let plain = asked(user(), &[("x-amz-target", b"TrentService.Encrypt")]).await.unwrap();
        assert!(plain.via().is_none() && plain.source().is_none());
    }

    #[tokio::test]
    async fn a_service_as_itself_may_name_its_resource() {
        let headers: &[(&str, &[u8])] = &[(SOURCE_ACCOUNT, b"444455556666"), (SOURCE_ARN, b"arn:aws:s3:::bucket")];
        let caller = asked(service(), headers).await.unwrap();
        assert!(caller.via().is_none());
        let source = caller.source().unwrap();
        assert_eq!(source.account.as_ref().unwrap().as_str(), "444455556666");
        assert_eq!(source.arn.as_deref(), Some("arn:aws:s3:::bucket"));
    }

    #[tokio::test]
    async fn ill_formed_headers_are_refused() {
        for headers in [
            &[(ON_BEHALF_OF, b"" as &[u8])] as &[(&str, &[u8])],
            &[(ON_BEHALF_OF, b"a b")],
            &[(ON_BEHALF_OF, b"\xc3\xa9")],
            &[
                (ON_BEHALF_OF, b"arn:aws:iam::111122223333:user/alice"),
                (ON_BEHALF_OF, b"arn:aws:iam::111122223333:root"),
            ],
            &[(SOURCE_ACCOUNT, b"12")],
            &[(SOURCE_ARN, b"bucket")],
        ] {
            assert!(asked(service(), headers).await.is_err(), "{headers:?}");
        }
    }
}
