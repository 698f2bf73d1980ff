//! Temporary credentials: session policies checked, a secret drawn from the token, everything sealed into the session token.

use serde_json::value::RawValue;

use crate::authn::session_token::NONCE_LEN;
use crate::authn::{self, Holder, SealError, SessionClaims};
use crate::authz::builtin::builtin;
use crate::authz::language::{Policy, PolicyKind};
use crate::ids::{AccountId, Arn, PolicyArn};
use crate::ops::sts::{Credentials, SessionPolicyInput, StsRefusal};
use crate::ops::{Context, OpError, Ops, token_error};
use crate::store::Snapshot;

/// Longest session policy; what fits is 100 percent.
const LONGEST_POLICY: usize = 2048;
const SECRET_LEN: usize = 30;
const ID_LEN: usize = 10;

/// What a session shall carry, keys and times apart.
pub(super) struct NewSession {
    pub account: AccountId,
    pub holder: Holder,
    pub seconds: u32,
    pub mfa_at: Option<i64>,
    pub source_identity: Option<String>,
    pub tags: Vec<(String, String)>,
    pub transitive: Vec<String>,
    pub policies: CheckedPolicies,
    pub federated_provider: Option<String>,
    pub claims: Vec<(String, Vec<String>)>,
    pub chained: bool,
}

impl NewSession {
    /// With nothing beside its holder.
    pub fn of(account: AccountId, holder: Holder, seconds: u32) -> Self {
        Self {
            account,
            holder,
            seconds,
            mfa_at: None,
            source_identity: None,
            tags: Vec::new(),
            transitive: Vec::new(),
            policies: CheckedPolicies::default(),
            federated_provider: None,
            claims: Vec::new(),
            chained: false,
        }
    }
}

/// Session policies that parsed and exist.
#[derive(Default)]
pub(super) struct CheckedPolicies {
    inline: Option<Box<RawValue>>,
    arns: Vec<PolicyArn>,
}

impl CheckedPolicies {
    /// `account`: whose managed policies may be named.
    pub fn check(input: &SessionPolicyInput, account: &AccountId, snapshot: &Snapshot) -> Result<Self, OpError> {
        let inline = input.policy.as_deref().map(inline).transpose()?;
        let arns = input.policy_arns.iter().map(|arn| managed(arn, account, snapshot)).collect::<Result<_, _>>()?;
        Ok(Self { inline, arns })
    }
}

fn inline(text: &str) -> Result<Box<RawValue>, OpError> {
    Policy::parse(text, PolicyKind::Session).map_err(|refused| {
        OpError::Sts(match refused.too_long {
            true => StsRefusal::PackedPolicyTooLarge { percent: percent(text.len(), LONGEST_POLICY) },
            false => StsRefusal::MalformedPolicy(refused.text),
        })
    })?;
    RawValue::from_string(compact(text)).map_err(|error| OpError::Internal(format!("session policy: {error}")))
}

fn percent(part: usize, whole: usize) -> u32 {
    u32::try_from(part.saturating_mul(100).div_ceil(whole.max(1))).unwrap_or(u32::MAX)
}

/// A JSON text without the white space between its tokens.
fn compact(json: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    json.chars()
        .filter(|char| {
            if inside {
                inside = escaped || *char != '"';
                escaped = *char == '\\' && !escaped;
                return true;
            }
            inside = *char == '"';
            !char.is_ascii_whitespace()
        })
        .collect()
}

/// RULE AWS: managed policies of the session's own account, or AWS's.
fn managed(text: &str, account: &AccountId, snapshot: &Snapshot) -> Result<PolicyArn, OpError> {
    let absent = || OpError::Sts(StsRefusal::Validation(format!("Policy {text} does not exist or is not attachable.")));
    let arn: PolicyArn = text.parse().map_err(|_| absent())?;
    let parts = Arn::parse(arn.as_str()).map_err(|_| absent())?;
    let ours = parts.service == "iam" && (parts.account == account.as_str() || parts.account == "aws");
    let known = snapshot.policies.contains_key(&arn) || builtin(arn.as_str()).is_some();
    if ours && known { Ok(arn) } else { Err(absent()) }
}

impl Ops {
    /// The credentials, and what session policies and tags take of their room, in percent.
    pub(super) async fn issue(&self, new: NewSession, ctx: &Context) -> Result<(Credentials, u32), OpError> {
        let key = self.session_keys.current(ctx).await?;
        let call = self.call(ctx);
        let failed = |error| token_error(error, "hsm-bridge/iam-wrap");
        let random = self.keystore.token().random(&call, SECRET_LEN + ID_LEN + NONCE_LEN).await.map_err(failed)?.value;
        let short = || OpError::Internal("the token gave too few random bytes".to_owned());
        let (for_secret, rest) = random.expose().split_first_chunk::<SECRET_LEN>().ok_or_else(short)?;
        let (for_id, rest) = rest.split_first_chunk::<ID_LEN>().ok_or_else(short)?;
        let mut nonce = *rest.first_chunk::<NONCE_LEN>().ok_or_else(short)?;
        // RULE SP 800-38D §8.2.2: a random nonce. Two generators, so that a weak one does no harm.
        let mut own = [0u8; NONCE_LEN];
        getrandom::fill(&mut own).map_err(|e| OpError::Internal(format!("no randomness: {e}")))?;
        nonce.iter_mut().zip(own).for_each(|(byte, own)| *byte ^= own);
        let claims = SessionClaims {
            access_key: authn::new_temporary_key_id(*for_id),
            secret: authn::new_secret(*for_secret),
            account: new.account,
            holder: new.holder,
            issued: ctx.now,
            expires: ctx.now.div_euclid(1000).saturating_add(i64::from(new.seconds)),
            mfa_at: new.mfa_at,
            source_identity: new.source_identity,
            tags: new.tags,
            transitive: new.transitive,
            policy: new.policies.inline,
            policy_arns: new.policies.arns,
            federated_provider: new.federated_provider,
            claims: new.claims,
            chained: new.chained,
        };
        let (session_token, packed) = key.seal(&claims, nonce).map_err(|error| match error {
            SealError::TooLarge { percent } => OpError::Sts(StsRefusal::PackedPolicyTooLarge { percent }),
            SealError::Failed => OpError::Internal("sealing a session token failed".to_owned()),
        })?;
        let credentials = Credentials {
            access_key: claims.access_key,
            secret: claims.secret,
            session_token,
            expiration: claims.expires,
        };
        Ok((credentials, packed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_goes_where_it_means_nothing() {
        assert_eq!(compact("{ \"a b\" :\n [ \"c\\\" d\", 1 ] }"), r#"{"a b":["c\" d",1]}"#);
        assert_eq!(compact(r#"{"a\\": " "}"#), r#"{"a\\":" "}"#);
    }

    #[test]
    fn session_policies_are_refused_with_their_reason() {
        let (account, snapshot) = ("111122223333".parse().unwrap(), Snapshot::default());
        let check = |policy: Option<&str>, arn: Option<&str>| {
            let input = SessionPolicyInput {
                policy: policy.map(str::to_owned),
                policy_arns: arn.into_iter().map(str::to_owned).collect(),
            };
            CheckedPolicies::check(&input, &account, &snapshot).map(|_| ())
        };
        const ALLOW: &str =
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*"}]}"#;
        assert_eq!(check(Some(ALLOW), None), Ok(()));
        assert!(matches!(check(Some("{"), None), Err(OpError::Sts(StsRefusal::MalformedPolicy(_)))));
        let long = format!("{}{ALLOW}", " ".repeat(2048));
        assert!(matches!(
            check(Some(&long), None),
            Err(OpError::Sts(StsRefusal::PackedPolicyTooLarge { percent: 105.. }))
        ));
        assert_eq!(check(None, Some("arn:aws:iam::aws:policy/ReadOnlyAccess")), Ok(()));
        let scp = "arn:aws:organizations::aws:policy/service_control_policy/FullAWSAccess";
        for arn in ["arn:aws:iam::111122223333:policy/none", "arn:aws:iam::444455556666:policy/p", scp, "x"] {
            assert!(matches!(check(None, Some(arn)), Err(OpError::Sts(StsRefusal::Validation(_)))), "{arn}");
        }
    }
}
