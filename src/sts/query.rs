//! The requests of the Query protocol: a form in the body, or, for GET, in the query string. Limits and patterns are those of
//! AWS's service model. Source: authorization.md §4.2.

use std::collections::BTreeSet;

use super::StsError;
use super::form::{Form, Problems, Text};
use crate::ops::{
    AssumeRole, AssumeRoleWithWebIdentity, GetFederationToken, Inherited, SessionPolicyInput, StsRefusal, StsRequest,
};
use crate::secret::SecretString;

/// AWS STS's only version.
const VERSION: &str = "2011-06-15";
const WEB_IDENTITY: &str = "AssumeRoleWithWebIdentity";

const SERVED: &[&str] =
    &["AssumeRole", WEB_IDENTITY, "GetAccessKeyInfo", "GetCallerIdentity", "GetFederationToken", "GetSessionToken"];
/// AWS's other actions, so that a caller learns what is not served from what does not exist.
const NOT_SERVED: &[&str] = &[
    "AssumeRoleWithSAML",
    "AssumeRoot",
    "DecodeAuthorizationMessage",
    "GetDelegatedAccessToken",
    "GetWebIdentityToken",
];

const ROLE_SECONDS: u32 = 43_200;
const USER_SECONDS: u32 = 129_600;
const MOST_POLICIES: usize = 10;
const MOST_TAGS: usize = 50;

const fn text(min: usize, max: usize, pattern: (&'static str, fn(char) -> bool)) -> Text {
    Text { min, max, pattern, secret: false }
}

const ANY: (&str, fn(char) -> bool) = ("", |_| true);
const NAME: (&str, fn(char) -> bool) = ("[\\w+=,.@-]*", is_name);
const TAG_KEY: (&str, fn(char) -> bool) = ("[\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]+", is_tag);
const TAG_VALUE: (&str, fn(char) -> bool) = ("[\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*", is_tag);

const ARN: Text = text(
    20,
    2048,
    (
        "[\\u0009\\u000A\\u000D\\u0020-\\u007E\\u0085\\u00A0-\\uD7FF\\uE000-\\uFFFD\\u10000-\\u10FFFF]+",
        |c| matches!(c, '\u{9}' | '\u{a}' | '\u{d}' | '\u{20}'..='\u{7e}' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..),
    ),
);
const SESSION_NAME: Text = text(2, 64, NAME);
const SOURCE_IDENTITY: Text = text(2, 64, NAME);
const FEDERATED_NAME: Text = text(2, 32, NAME);
const EXTERNAL_ID: Text = text(2, 1224, ("[\\w+=,.@:\\/-]*", |c| is_name(c) || matches!(c, ':' | '/')));
const KEY: Text = text(1, 128, TAG_KEY);
const VALUE: Text = text(0, 256, TAG_VALUE);
const ACCESS_KEY: Text = text(16, 128, ("[\\w]*", |c| c.is_ascii_alphanumeric() || c == '_'));
const TOKEN: Text = Text { secret: true, ..text(4, 20_000, ANY) };
/// AssumeRole has no limit in the model; the session policy's own is found when it is read.
const POLICY: Text = text(1, usize::MAX, ("[\\u0009\\u000A\\u000D\\u0020-\\u00FF]+", is_policy));

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '=' | ',' | '.' | '@' | '-')
}

fn is_tag(c: char) -> bool {
    c.is_alphanumeric()
        || (c.is_whitespace() && !c.is_control())
        || matches!(c, '_' | '.' | ':' | '/' | '=' | '+' | '-' | '@')
}

fn is_policy(c: char) -> bool {
    matches!(c, '\u{9}' | '\u{a}' | '\u{d}' | '\u{20}'..='\u{ff}')
}

/// A request, and the token by which its sender is known where that is not a signature.
#[derive(Debug, Clone)]
pub struct Parsed {
    pub request: StsRequest,
    pub web_identity_token: Option<SecretString>,
}

fn form<'a>(method: &str, query: &'a str, body: &'a [u8]) -> Result<Form<'a>, StsError> {
    // The query string of a POST is not read: what it asks stands in its body.
    Form::read(match method {
        "GET" => query,
        "POST" => std::str::from_utf8(body).map_err(|_| StsError::Malformed("it is not text in UTF-8"))?,
        _ => return Err(StsError::Malformed("the method is neither GET nor POST")),
    })
}

/// The name of the action, from AWS's list: for the record of a request that cannot be read any further.
pub fn action_name(method: &str, query: &str, body: &[u8]) -> Option<&'static str> {
    let form = form(method, query, body).ok()?;
    let action = form.value("Action").ok()??;
    SERVED.iter().chain(NOT_SERVED).find(|known| **known == action).copied()
}

/// Whether the sender is to be known by an identity provider's token. A signature beside it means nothing.
pub fn is_web_identity(method: &str, query: &str, body: &[u8]) -> bool {
    form(method, query, body)
        .is_ok_and(|form| matches!(form.value("Action"), Ok(Some(action)) if action == WEB_IDENTITY))
}

/// Unknown parameters are ignored, as AWS does.
pub fn parse(method: &str, query: &str, body: &[u8]) -> Result<Parsed, StsError> {
    let form = form(method, query, body)?;
    let action = form.value("Action")?.filter(|action| !action.is_empty()).ok_or(StsError::MissingAction)?;
    let version = form.value("Version")?.unwrap_or_default();
    let invalid =
        || StsError::InvalidAction { action: action.clone().into_owned(), version: version.clone().into_owned() };
    if version != VERSION {
        return Err(invalid());
    }
    let mut web_identity_token = None;
    let request = match &*action {
        "GetCallerIdentity" => StsRequest::GetCallerIdentity,
        "AssumeRole" => StsRequest::AssumeRole(Box::new(assume_role(&form)?)),
        WEB_IDENTITY => {
            let (request, token) = web_identity(&form)?;
            web_identity_token = Some(token);
            StsRequest::AssumeRoleWithWebIdentity(Box::new(request))
        }
        "GetSessionToken" => {
            no_mfa(&form)?;
            let mut problems = Problems::default();
            let duration_seconds = seconds(&form, &mut problems, USER_SECONDS)?;
            problems.none()?;
            StsRequest::GetSessionToken { duration_seconds }
        }
        "GetFederationToken" => StsRequest::GetFederationToken(Box::new(federation_token(&form)?)),
        "GetAccessKeyInfo" => {
            let mut problems = Problems::default();
            let access_key = problems.required(form.value("AccessKeyId")?, "accessKeyId", ACCESS_KEY);
            problems.none()?;
            StsRequest::GetAccessKeyInfo { access_key }
        }
        other => {
            let known = NOT_SERVED.iter().find(|known| **known == other);
            return Err(known.map_or_else(invalid, |known| StsError::NotServed(known)));
        }
    };
    Ok(Parsed { request, web_identity_token })
}

fn assume_role(form: &Form<'_>) -> Result<AssumeRole, StsError> {
    no_mfa(form)?;
    if !form.members("ProvidedContexts").is_empty() {
        return Err(StsError::validation("ProvidedContexts is not served by this version of hsm-bridge."));
    }
    let mut problems = Problems::default();
    let mut transitive_tag_keys = Vec::new();
    for (at, name) in form.members("TransitiveTagKeys").into_iter().enumerate() {
        let place = format!("transitiveTagKeys.{}.member", at + 1);
        transitive_tag_keys.push(problems.required(form.value(&name)?, &place, KEY));
    }
    problems.count(transitive_tag_keys.len(), "transitiveTagKeys", MOST_TAGS);
    let request = AssumeRole {
        role_arn: problems.required(form.value("RoleArn")?, "roleArn", ARN),
        session_name: problems.required(form.value("RoleSessionName")?, "roleSessionName", SESSION_NAME),
        duration_seconds: seconds(form, &mut problems, ROLE_SECONDS)?,
        external_id: problems.optional(form.value("ExternalId")?, "externalId", EXTERNAL_ID),
        policies: policies(form, &mut problems, usize::MAX)?,
        tags: tags(form, &mut problems)?,
        transitive_tag_keys,
        source_identity: problems.optional(form.value("SourceIdentity")?, "sourceIdentity", SOURCE_IDENTITY),
        inherited: Inherited::default(),
    };
    problems.none()?;
    check_tags(&request.tags)?;
    if request.transitive_tag_keys.iter().any(|key| !request.tags.iter().any(|(tag, _)| tag == key)) {
        return Err(StsError::validation("The specified transitive tag key must be included in the requested tags."));
    }
    Ok(request)
}

fn web_identity(form: &Form<'_>) -> Result<(AssumeRoleWithWebIdentity, SecretString), StsError> {
    if form.value("ProviderId")?.is_some() {
        return Err(StsError::validation(
            "ProviderId is for OAuth 2.0 access tokens, which are not served: send an OpenID Connect ID token without it.",
        ));
    }
    let mut problems = Problems::default();
    let request = AssumeRoleWithWebIdentity {
        role_arn: problems.required(form.value("RoleArn")?, "roleArn", ARN),
        session_name: problems.required(form.value("RoleSessionName")?, "roleSessionName", SESSION_NAME),
        duration_seconds: seconds(form, &mut problems, ROLE_SECONDS)?,
        policies: policies(form, &mut problems, 2048)?,
    };
    let token = problems.required(form.value("WebIdentityToken")?, "webIdentityToken", TOKEN);
    problems.none()?;
    Ok((request, SecretString::new(token)))
}

fn federation_token(form: &Form<'_>) -> Result<GetFederationToken, StsError> {
    let mut problems = Problems::default();
    let request = GetFederationToken {
        name: problems.required(form.value("Name")?, "name", FEDERATED_NAME),
        duration_seconds: seconds(form, &mut problems, USER_SECONDS)?,
        policies: policies(form, &mut problems, 2048)?,
        tags: tags(form, &mut problems)?,
    };
    problems.none()?;
    check_tags(&request.tags)?;
    Ok(request)
}

fn seconds(form: &Form<'_>, problems: &mut Problems, max: u32) -> Result<Option<u32>, StsError> {
    Ok(problems.seconds(form.value("DurationSeconds")?, "durationSeconds", max))
}

fn policies(form: &Form<'_>, problems: &mut Problems, max: usize) -> Result<SessionPolicyInput, StsError> {
    let mut policy_arns = Vec::new();
    for (at, name) in form.members("PolicyArns").into_iter().enumerate() {
        let place = format!("policyArns.{}.member.arn", at + 1);
        policy_arns.push(problems.required(form.value(&format!("{name}.arn"))?, &place, ARN));
    }
    problems.count(policy_arns.len(), "policyArns", MOST_POLICIES);
    let policy = problems.optional(form.value("Policy")?, "policy", Text { max, ..POLICY });
    Ok(SessionPolicyInput { policy, policy_arns })
}

fn tags(form: &Form<'_>, problems: &mut Problems) -> Result<Vec<(String, String)>, StsError> {
    let mut tags = Vec::new();
    for (at, name) in form.members("Tags").into_iter().enumerate() {
        let place = format!("tags.{}.member", at + 1);
        let key = problems.required(form.value(&format!("{name}.Key"))?, &format!("{place}.key"), KEY);
        let value = problems.required(form.value(&format!("{name}.Value"))?, &format!("{place}.value"), VALUE);
        tags.push((key, value));
    }
    problems.count(tags.len(), "tags", MOST_TAGS);
    Ok(tags)
}

fn check_tags(tags: &[(String, String)]) -> Result<(), StsError> {
    let keys: BTreeSet<String> = tags.iter().map(|(key, _)| key.to_lowercase()).collect();
    if keys.len() != tags.len() {
        return Err(StsError::validation("Duplicate tag keys found. Please note that Tag keys are case insensitive."));
    }
    if keys.iter().any(|key| key.starts_with("aws:")) {
        return Err(StsError::validation("aws: prefixed tag key names are not allowed for external use."));
    }
    Ok(())
}

/// There are no MFA devices: a code is never right.
fn no_mfa(form: &Form<'_>) -> Result<(), StsError> {
    if form.value("SerialNumber")?.is_none() && form.value("TokenCode")?.is_none() {
        return Ok(());
    }
    Err(StsError::Refused(StsRefusal::Denied(
        "MultiFactorAuthentication failed with invalid MFA one time pass code.".to_owned(),
    )))
}

#[cfg(test)]
mod tests;
