//! Temporary credentials: each thing that ends a session, and which error it gives.

use super::*;
use crate::secret::SecretBytes;

const SESSION: &str = "ASIAGAYTEMZUGU3DOOBZ";
const ID: SessionKeyId = SessionKeyId([1, 2, 3, 4]);

struct Sessions {
    world: World,
    key: Arc<SessionKey>,
    holder: bool,
    has_key: bool,
}

impl Sessions {
    fn new() -> Self {
        let key = SessionKey::new(ID, &SecretBytes::new(vec![7; 32]), "deployment").unwrap();
        Self { world: World::new(), key: Arc::new(key), holder: true, has_key: true }
    }

    fn token(&self, change: impl FnOnce(&mut SessionClaims)) -> String {
        let mut claims = SessionClaims {
            access_key: SESSION.parse().unwrap(),
            secret: SecretString::new(SECRET.to_owned()),
            account: "111122223333".parse().unwrap(),
            holder: Holder::Root,
            issued: (NOW - 60) * 1000,
            expires: NOW + 60,
            mfa_at: None,
            source_identity: None,
            tags: Vec::new(),
            transitive: Vec::new(),
            policy: None,
            policy_arns: Vec::new(),
            federated_provider: None,
            claims: Vec::new(),
            chained: false,
        };
        change(&mut claims);
        self.key.seal(&claims, [9; 12]).unwrap().0.expose().to_owned()
    }

    async fn ask(&self, key_id: &'static str, token: Option<String>) -> Result<Caller, AuthnError> {
        let sent = Signer { key_id, token, ..Signer::default() }.in_header(Sent::kms());
        self.send(&sent, NOW).await
    }

    async fn send(&self, sent: &Sent, now: i64) -> Result<Caller, AuthnError> {
        let headers: Vec<(&str, &[u8])> =
            sent.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let request = PlainRequest {
            method: &sent.method,
            path: &sent.path,
            query: &sent.query,
            headers: &headers,
            body: &sent.body,
        };
        self.world.authenticator.authenticate(&request, Service::Kms, self, self, now).await
    }
}

impl Directory for Sessions {
    fn credential(&self, id: &AccessKeyId) -> Option<Credential> {
        self.world.credential(id)
    }

    fn holder(&self, _: &SessionClaims) -> Option<Principal> {
        self.holder.then_some(Principal::Root)
    }

    fn has_session_key(&self, id: SessionKeyId) -> bool {
        self.has_key && id == ID
    }
}

impl OpenSecret for Sessions {
    fn open<'a>(
        &'a self,
        credential: &'a Credential,
    ) -> Pin<Box<dyn Future<Output = Result<SecretString, String>> + Send + 'a>> {
        self.world.open(credential)
    }

    fn session_key<'a>(
        &'a self,
        id: SessionKeyId,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Arc<SessionKey>>, String>> + Send + 'a>> {
        Box::pin(async move { Ok((id == ID).then(|| Arc::clone(&self.key))) })
    }
}

#[tokio::test]
async fn a_session_is_known_with_what_it_carries() {
    let sessions = Sessions::new();
    let token = sessions.token(|claims| claims.source_identity = Some("alice".into()));
    for _ in 0..2 {
        let caller = sessions.ask(SESSION, Some(token.clone())).await.unwrap();
        assert_eq!(caller.access_key().map(AccessKeyId::as_str), Some(SESSION));
        assert_eq!(caller.session().unwrap().source_identity.as_deref(), Some("alice"));
    }
}

#[tokio::test]
async fn each_thing_that_ends_a_session() {
    use AuthnError::{ExpiredToken, UnrecognizedClient};
    let mut sessions = Sessions::new();
    let good = sessions.token(|_| ());
    for (name, key_id, token, expected) in [
        ("no token", SESSION, None, UnrecognizedClient),
        ("token beside a long-term key", KEY_ID, Some(good.clone()), UnrecognizedClient),
        ("token of another key", "ASIA7777777777777777", Some(good.clone()), UnrecognizedClient),
        ("no token of ours", SESSION, Some("token".to_owned()), UnrecognizedClient),
        ("ended", SESSION, Some(sessions.token(|claims| claims.expires = NOW)), ExpiredToken),
        ("of the future", SESSION, Some(sessions.token(|c| c.issued = (NOW + 901) * 1000)), UnrecognizedClient),
    ] {
        assert_eq!(sessions.ask(key_id, token).await.err(), Some(expected), "{name}");
    }
    // What was opened before is asked about again.
    assert!(sessions.ask(SESSION, Some(good.clone())).await.is_ok());
    sessions.holder = false;
    assert_eq!(sessions.ask(SESSION, Some(good.clone())).await.err(), Some(UnrecognizedClient));
    (sessions.holder, sessions.has_key) = (true, false);
    assert_eq!(sessions.ask(SESSION, Some(good.clone())).await.err(), Some(UnrecognizedClient));
    sessions.has_key = true;
    let later = Signer { key_id: SESSION, token: Some(good.clone()), at: NOW + 60, ..Signer::default() };
    assert_eq!(sessions.send(&later.in_header(Sent::kms()), NOW + 60).await.err(), Some(ExpiredToken));
    let secret = sessions.token(|claims| claims.secret = SecretString::new("A".repeat(40)));
    assert!(matches!(sessions.ask(SESSION, Some(secret)).await, Err(AuthnError::InvalidSignature(_))));
    // The header has to be signed.
    let mut added = Signer { key_id: SESSION, ..Signer::default() }.in_header(Sent::kms());
    *added.header("x-amz-security-token") = good.into_bytes();
    assert!(matches!(sessions.send(&added, NOW).await, Err(AuthnError::InvalidSignature(_))));
}
