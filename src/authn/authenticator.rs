//! The procedure: which check comes first is part of the contract, because it decides which error a client sees.
//! Source: authorization.md §3.1, whose step numbers stand beside the steps.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::opened::{Opened, OpenedTokens};
use super::query::{asks_caller_identity, is_presigned, parse_query};
use super::session_token::SealedToken;
use super::sigv4::authorization::parse_authorization;
use super::sigv4::cache::{CacheKey, SigningKeys};
use super::sigv4::canonical::{Host, canonical_query, canonical_request, canonical_s3_uri, sha256, string_to_sign};
use super::sigv4::date::Timestamp;
use super::sigv4::derive::SigningKey;
use super::sigv4::scope::Scope;
use super::sigv4::signed_headers::check_signed_headers;
use super::sigv4::{Claim, Form};
use super::{AuthnError, Caller, Credential, Directory, OpenSecret, PlainRequest, Principal, Service, Settings};
use crate::ids::AccessKeyId;

/// How far a client's clock may be off, and how long a signature is good.
const WINDOW: i64 = 15 * 60;
/// Derived keys kept; one entry is under 300 bytes.
const CACHED_KEYS: usize = 10_000;
/// Opened session tokens kept; one entry is a few kilobytes at most.
const OPENED_TOKENS: usize = 4096;
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// Older SDKs sign STS requests for the global endpoint's Region.
const GLOBAL_STS_REGION: &str = "us-east-1";

/// Verifies signatures; holds the cache of derived signing keys.
pub struct Authenticator {
    regions: Vec<Arc<str>>,
    global_sts_region: Arc<str>,
    debug_signature_errors: bool,
    keys: SigningKeys,
    opened: OpenedTokens,
    no_key: Arc<OnceCell<SigningKey>>,
}

impl Authenticator {
    pub fn new(settings: Settings) -> Self {
        Self {
            regions: settings.accepted_regions.into_iter().map(Arc::from).collect(),
            global_sts_region: GLOBAL_STS_REGION.into(),
            debug_signature_errors: settings.debug_signature_errors,
            keys: SigningKeys::new(CACHED_KEYS),
            opened: OpenedTokens::new(OPENED_TOKENS),
            no_key: Arc::new(OnceCell::new_with(Some(SigningKey::dummy()))),
        }
    }

    /// `now`: seconds since the epoch.
    pub async fn authenticate(
        &self,
        request: &PlainRequest<'_>,
        service: Service,
        directory: &dyn Directory,
        secrets: &dyn OpenSecret,
        now: i64,
    ) -> Result<Caller, AuthnError> {
        if service == Service::S3 {
            refuse_old_signatures(request)?;
        } else {
            refuse_streams(request)?; // RULE §3.1.1
        }
        let claim = match carrier(request, service)? /* RULE §3.1.2 */ {
            Carrier::Header(header) => parse_authorization(header, date_header(request), token_header(request))?, // RULE §3.1.3
            Carrier::Query => parse_query(request.query, token_header(request))?,
        };
        let date = Timestamp::parse(&claim.date)?; // RULE §3.1.4
        check_signed_headers(&claim.signed_headers, request.headers)?; // RULE §3.1.5
        let scope = Scope::parse(&claim.credential)?; // RULE §3.1.6
        let region = self.region(scope.region, service);
        scope.check(region.is_some(), service.scope_name(), &date).map_err(|error| match (service, error) {
            (Service::S3, AuthnError::InvalidSignature(text)) => AuthnError::WrongScope(text),
            (_, error) => error,
        })?;
        check_skew(&date, claim.expires, now)?; // RULE §3.1.7
        let found = self.find(&scope, &claim, directory, secrets, now).await; // RULE §3.1.8
        let key = match (&found, region) {
            (Ok(Found::LongTerm(credential)), Some(region)) => {
                self.signing_key(credential, region, service, &date, secrets, now).await?
            }
            (Ok(Found::Session(opened, _)), Some(region)) => {
                let secret = opened.claims.secret.expose();
                let key = SigningKey::derive(secret, date.day(), region, service.scope_name());
                Arc::new(OnceCell::new_with(Some(key)))
            }
            _ => Arc::clone(&self.no_key),
        };
        // An unknown key costs the same work as a known one.
        let verdict = match key.get() {
            Some(key) => self.verify(request, service, &claim, &scope, &date, key), // RULE §3.1.9 to §3.1.11
            None => Err(AuthnError::Internal("signing key: cell without a value".to_owned())),
        };
        let found = found?;
        verdict.map(|()| found.caller())
    }

    /// RULE authorization.md §3.1.8: the access key as it is now. Temporary ids (`ASIA…`) have a session token, long-term ones
    /// (`AKIA…`) have none.
    async fn find(
        &self,
        scope: &Scope<'_>,
        claim: &Claim<'_>,
        directory: &dyn Directory,
        secrets: &dyn OpenSecret,
        now: i64,
    ) -> Result<Found, AuthnError> {
        let id: AccessKeyId = scope.access_key_id.parse().map_err(|_| AuthnError::UnrecognizedClient)?;
        match &claim.token {
            None if id.as_str().starts_with("AKIA") => directory
                .credential(&id)
                .filter(|credential| credential.active && credential.id == id)
                .map(Found::LongTerm)
                .ok_or(AuthnError::UnrecognizedClient),
            Some(token) if id.as_str().starts_with("ASIA") => self
                .session(Some(&id), token, directory, secrets, now)
                .await
                .map(|(opened, who)| Found::Session(opened, who)),
            _ => Err(AuthnError::UnrecognizedClient),
        }
    }

    /// `id`: the access key that signed; `None`: the token alone tells whose session it is, and somebody else signed. RULE
    /// authorization.md §4.3: opens, is of this access key, is not of the future and not of the past, and whose it is may
    /// still have it. What the token says is believed; what may have changed since is asked.
    pub(super) async fn session(
        &self,
        id: Option<&AccessKeyId>,
        token: &str,
        directory: &dyn Directory,
        secrets: &dyn OpenSecret,
        now: i64,
    ) -> Result<(Arc<Opened>, Principal), AuthnError> {
        let opened = match self.opened.known(token) {
            Some(opened) => opened,
            None => {
                let sealed = SealedToken::parse(token).ok_or(AuthnError::UnrecognizedClient)?;
                let key = secrets.session_key(sealed.key()).await.map_err(AuthnError::Internal)?;
                let claims = key.and_then(|key| key.open(&sealed)).ok_or(AuthnError::UnrecognizedClient)?;
                let session = Arc::new(claims.session());
                self.opened.keep(token, Opened { key: sealed.key(), claims, session }, now)
            }
        };
        let claims = &opened.claims;
        if id.is_some_and(|id| claims.access_key != *id)
            || claims.issued.div_euclid(1000) > now.saturating_add(WINDOW)
            || !directory.has_session_key(opened.key)
        {
            return Err(AuthnError::UnrecognizedClient);
        }
        if claims.expires <= now {
            return Err(AuthnError::ExpiredToken);
        }
        match directory.holder(claims) {
            Some(principal) => Ok((opened, principal)),
            None => Err(AuthnError::UnrecognizedClient),
        }
    }

    /// Drops the derived keys of an access key when it is disabled or deleted. (It is refused without this too.)
    pub fn forget(&self, id: &AccessKeyId) {
        self.keys.forget(id);
    }

    fn region(&self, name: &str, service: Service) -> Option<&Arc<str>> {
        let global = (service == Service::Sts).then_some(&self.global_sts_region);
        self.regions.iter().chain(global).find(|region| ***region == *name)
    }

    // RULE authorization.md §3.1.10: only derived keys are kept; the secret is dropped as soon as its key is derived.
    async fn signing_key(
        &self,
        credential: &Credential,
        region: &Arc<str>,
        service: Service,
        date: &Timestamp,
        secrets: &dyn OpenSecret,
        now: i64,
    ) -> Result<Arc<OnceCell<SigningKey>>, AuthnError> {
        let key = CacheKey {
            id: credential.id.clone(),
            created: credential.created,
            day: date.day_number(),
            region: Arc::clone(region),
            service: service.scope_name(),
        };
        let first_day = || Timestamp::new(now.saturating_sub(WINDOW)).day_number();
        self.keys
            .obtain(key, first_day, || async {
                let secret = secrets.open(credential).await.map_err(AuthnError::Internal)?;
                Ok(SigningKey::derive(secret.expose(), date.day(), region, service.scope_name()))
            })
            .await
    }

    fn verify(
        &self,
        request: &PlainRequest<'_>,
        service: Service,
        claim: &Claim<'_>,
        scope: &Scope<'_>,
        date: &Timestamp,
        key: &SigningKey,
    ) -> Result<(), AuthnError> {
        let uri = uri(request.path, service)?;
        let body_hash = sha256(request.body);
        let payload_hash = match service {
            Service::S3 => s3_payload_hash(request, claim.form, body_hash.as_str())?,
            _ => {
                check_payload_hash(request, body_hash.as_str())?;
                body_hash.as_str()
            }
        };
        let query = match request.query {
            "" => String::new(),
            query => canonical_query(query, claim.form),
        };
        let texts = |host| {
            let canonical = canonical_request(
                request.method,
                &uri,
                &query,
                request.headers,
                host,
                &claim.signed_headers,
                payload_hash,
            );
            let to_sign = string_to_sign(date.as_str(), scope.region, scope.service, &canonical);
            (canonical, to_sign)
        };
        let (canonical, to_sign) = texts(Host::LowerCase);
        if key.verify(&to_sign, &claim.signature) {
            return Ok(());
        }
        // RULE authorization.md §3.1.9, host: clients sign it in lower case (botocore) or as they send it (Rust, Go). A name
        // of a host means the same in either.
        let host_has_case = header_values(request, "host").any(|value| value.iter().any(u8::is_ascii_uppercase));
        if host_has_case && key.verify(&texts(Host::AsReceived).1, &claim.signature) {
            return Ok(());
        }
        Err(AuthnError::InvalidSignature(self.mismatch(&canonical, &to_sign)))
    }

    // RULE authorization.md §3.1.11. The right signature is in neither text.
    fn mismatch(&self, canonical: &[u8], to_sign: &str) -> String {
        const TEXT: &str = "The request signature we calculated does not match the signature you provided. Check your AWS \
                            Secret Access Key and signing method. Consult the service documentation for details.";
        if !self.debug_signature_errors {
            return TEXT.to_owned();
        }
        let canonical = String::from_utf8_lossy(canonical);
        format!(
            "{TEXT}\n\nThe Canonical String for this request should have been\n'{canonical}'\n\nThe String-to-Sign should \
             have been\n'{to_sign}'\n"
        )
    }
}

/// The access key id that a request names, unverified, for counting strangers.
pub fn claimed_access_key(request: &PlainRequest<'_>) -> Option<AccessKeyId> {
    let claim = match header_values(request, "authorization").next() {
        Some(header) => parse_authorization(header, Some(Cow::Borrowed("")), None).ok()?,
        None => parse_query(request.query, None).ok()?,
    };
    claim.credential.split('/').next()?.parse().ok()
}

enum Carrier<'a> {
    Header(&'a [u8]),
    Query,
}

/// RULE authorization.md §3.1.1: a body that is signed piece by piece is refused before anything else.
fn refuse_streams(request: &PlainRequest<'_>) -> Result<(), AuthnError> {
    let chunked = header_values(request, "content-encoding")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"aws-chunked"));
    if chunked {
        return Err(AuthnError::InvalidSignature("Content-Encoding 'aws-chunked' is not supported.".to_owned()));
    }
    if header_values(request, "x-amz-content-sha256").any(|value| value.trim_ascii().starts_with(b"STREAMING-")) {
        return Err(AuthnError::InvalidSignature("A streaming 'x-amz-content-sha256' is not supported.".to_owned()));
    }
    Ok(())
}

/// RULE authorization.md §3.1.2 and, of the query form: never for KMS, for STS only GetCallerIdentity by GET, for S3 only reads.
fn carrier<'a>(request: &PlainRequest<'a>, service: Service) -> Result<Carrier<'a>, AuthnError> {
    let mut headers = request.headers.iter().filter(|(name, _)| *name == "authorization").map(|(_, value)| *value);
    match (headers.next(), headers.next(), is_presigned(request.query)) {
        (Some(_), Some(_), _) => {
            Err(AuthnError::IncompleteSignature("The request has more than one Authorization header.".to_owned()))
        }
        (Some(_), None, true) => Err(AuthnError::InvalidSignature(
            "The request is signed both in the Authorization header and in the query string.".to_owned(),
        )),
        (Some(header), None, false) => Ok(Carrier::Header(header)),
        (None, _, true)
            if service == Service::Sts && request.method == "GET" && asks_caller_identity(request.query) =>
        {
            Ok(Carrier::Query)
        }
        (None, _, true) if service == Service::S3 && matches!(request.method, "GET" | "HEAD") => Ok(Carrier::Query),
        (None, _, _) => Err(AuthnError::MissingAuthenticationToken),
    }
}

/// `X-Amz-Date`, else `Date`. Several lines are one value, which is no date.
fn date_header<'a>(request: &PlainRequest<'a>) -> Option<Cow<'a, str>> {
    ["x-amz-date", "date"].into_iter().find_map(|name| {
        let mut values =
            request.headers.iter().filter(|(present, _)| *present == name).map(|(_, value)| value.trim_ascii());
        let first = String::from_utf8_lossy(values.next()?);
        Some(values.fold(first, |joined, value| format!("{joined},{}", String::from_utf8_lossy(value)).into()))
    })
}

/// Several lines are one value, which is no token.
fn token_header<'a>(request: &PlainRequest<'a>) -> Option<Cow<'a, str>> {
    let mut values = header_values(request, "x-amz-security-token");
    let first = values.next()?;
    if values.next().is_some() {
        return Some(Cow::Borrowed(""));
    }
    Some(Cow::Borrowed(std::str::from_utf8(first.trim_ascii()).unwrap_or_default()))
}

/// RULE authorization.md §3.1.7; a pre-signed request may say that it is good for a shorter time.
fn check_skew(date: &Timestamp, expires: Option<i64>, now: i64) -> Result<(), AuthnError> {
    let lifetime = expires.map_or(WINDOW, |seconds| seconds.min(WINDOW));
    if date.epoch < now.saturating_sub(lifetime) {
        return Err(AuthnError::InvalidSignature(format!(
            "Signature expired: {} is now earlier than {} ({} - {}.)",
            date.as_str(),
            Timestamp::new(now.saturating_sub(lifetime)).as_str(),
            Timestamp::new(now).as_str(),
            span(lifetime),
        )));
    }
    if date.epoch > now.saturating_add(WINDOW) {
        return Err(AuthnError::InvalidSignature(format!(
            "Signature not yet current: {} is still later than {} ({} + {}.)",
            date.as_str(),
            Timestamp::new(now.saturating_add(WINDOW)).as_str(),
            Timestamp::new(now).as_str(),
            span(WINDOW),
        )));
    }
    Ok(())
}

fn span(seconds: i64) -> String {
    if seconds % 60 == 0 { format!("{} min", seconds / 60) } else { format!("{seconds} sec") }
}

/// Whose access key a request names.
enum Found {
    LongTerm(Credential),
    /// A session, and whose it is as that is now.
    Session(Arc<Opened>, Principal),
}

impl Found {
    fn caller(self) -> Caller {
        match self {
            Found::LongTerm(credential) => Caller {
                principal: credential.principal,
                account: credential.account,
                access_key: Some(credential.id),
                session: None,
                via: None,
                source: None,
            },
            Found::Session(opened, principal) => Caller {
                principal,
                account: opened.claims.account.clone(),
                access_key: Some(opened.claims.access_key.clone()),
                session: Some(Arc::clone(&opened.session)),
                via: None,
                source: None,
            },
        }
    }
}

/// RULE authorization.md §3.1.9, payload: the body is always hashed, and a stated hash must be that hash.
fn check_payload_hash(request: &PlainRequest<'_>, hash: &str) -> Result<(), AuthnError> {
    for stated in header_values(request, "x-amz-content-sha256").map(<[u8]>::trim_ascii) {
        if stated == b"UNSIGNED-PAYLOAD" {
            return Err(AuthnError::InvalidSignature("An unsigned payload is not supported.".to_owned()));
        }
        if stated != hash.as_bytes() {
            return Err(AuthnError::InvalidSignature(
                "The provided 'x-amz-content-sha256' header does not match what was computed.".to_owned(),
            ));
        }
    }
    Ok(())
}

/// RULE authorization.md §3.1.9, URI: KMS and STS have one path, and the stream is below one; normalisation is a refusal.
fn uri(path: &str, service: Service) -> Result<Cow<'_, str>, AuthnError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_');
    match service {
        Service::S3 => Ok(Cow::Owned(canonical_s3_uri(path))),
        _ if matches!(path, "/" | "") => Ok(Cow::Borrowed("/")),
        Service::CloudTrail if path.bytes().all(plain) && !path.contains("//") => Ok(Cow::Borrowed(path)),
        Service::Kms | Service::Sts | Service::CloudTrail => {
            Err(AuthnError::InvalidSignature("The path of the request must be '/'.".to_owned()))
        }
    }
}

/// RULE S3 (sigv4-auth-using-authorization-header): `x-amz-content-sha256` is asked for, and signed. Of a read the body is empty, so
/// that an unsigned payload hides nothing; of a change the body is not read at all, and what is stated of it counts.
fn s3_payload_hash<'a>(request: &PlainRequest<'a>, form: Form, body_hash: &'a str) -> Result<&'a str, AuthnError> {
    let mut stated = header_values(request, "x-amz-content-sha256").map(<[u8]>::trim_ascii);
    let wrong = |text: &str| Err(AuthnError::IncompleteSignature(text.to_owned()));
    let reads = matches!(request.method, "GET" | "HEAD");
    match (stated.next(), stated.next()) {
        (None, _) if form == Form::Query && request.body.is_empty() => Ok(UNSIGNED_PAYLOAD),
        (None, _) => wrong("Missing required header for this request: x-amz-content-sha256"),
        (Some(_), Some(_)) => wrong("The request has more than one x-amz-content-sha256 header."),
        (Some(hash), None) if reads && hash == UNSIGNED_PAYLOAD.as_bytes() && request.body.is_empty() => {
            Ok(UNSIGNED_PAYLOAD)
        }
        (Some(hash), None) if hash == body_hash.as_bytes() => Ok(body_hash),
        (Some(hash), None) if !reads => std::str::from_utf8(hash)
            .or_else(|_| wrong("x-amz-content-sha256 must be UNSIGNED-PAYLOAD or a valid sha256 value.")),
        (Some(_), None) => Err(AuthnError::InvalidSignature(
            "The provided 'x-amz-content-sha256' header does not match what was computed.".to_owned(),
        )),
    }
}

/// `Authorization: AWS access-key:signature`, and the same in the query string.
fn refuse_old_signatures(request: &PlainRequest<'_>) -> Result<(), AuthnError> {
    let in_header = header_values(request, "authorization").any(|value| value.trim_ascii().starts_with(b"AWS "));
    let named = |name: &str| request.query.split('&').any(|pair| pair.split_once('=').is_some_and(|(n, _)| n == name));
    if in_header || (named("AWSAccessKeyId") && named("Signature")) { Err(AuthnError::NotSigV4) } else { Ok(()) }
}

fn header_values<'a>(request: &PlainRequest<'a>, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    request.headers.iter().filter(move |(present, _)| *present == name).map(|(_, value)| *value)
}
