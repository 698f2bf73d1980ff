//! The whole procedure against somebody else's signer (`aws-sigv4`).

mod rules;
mod sessions;
mod signer;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;

use super::*;

const KEY_ID: &str = "AKIAGAYTEMZUGU3DOOBZ";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const REGION: &str = "eu-central-1";
/// 20260101T003000Z
const NOW: i64 = 1_767_227_400;

/// A request that owns its bytes.
#[derive(Debug, Clone)]
struct Sent {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Sent {
    /// As the SDKs send an Encrypt, unsigned.
    fn kms() -> Self {
        let headers = [
            ("host", "kms.example.net:8443"),
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", "TrentService.Encrypt"),
        ];
        Self {
            method: "POST".into(),
            path: "/".into(),
            query: String::new(),
            headers: headers.iter().map(|(name, value)| ((*name).into(), value.as_bytes().to_vec())).collect(),
            body: br#"{"KeyId":"alias/a","Plaintext":"aGVsbG8="}"#.to_vec(),
        }
    }

    fn presigned_sts() -> Self {
        Self {
            method: "GET".into(),
            path: "/".into(),
            query: "Action=GetCallerIdentity&Version=2011-06-15".into(),
            headers: vec![("host".into(), b"sts.example.net".to_vec())],
            body: Vec::new(),
        }
    }

    fn header(&mut self, name: &str) -> &mut Vec<u8> {
        let at = self.headers.iter().position(|(present, _)| present == name);
        let at = at.unwrap_or_else(|| {
            self.headers.push((name.into(), Vec::new()));
            self.headers.len() - 1
        });
        &mut self.headers[at].1
    }

    fn drop_header(&mut self, name: &str) {
        self.headers.retain(|(present, _)| present != name);
    }
}

/// Who signs, and for what.
#[derive(Clone)]
struct Signer {
    key_id: &'static str,
    token: Option<String>,
    region: &'static str,
    service: &'static str,
    at: i64,
    expires: u64,
}

impl Default for Signer {
    fn default() -> Self {
        Self { key_id: KEY_ID, token: None, region: REGION, service: "kms", at: NOW, expires: 900 }
    }
}

impl Signer {
    fn in_header(&self, sent: Sent) -> Sent {
        self.sign(sent, SignatureLocation::Headers)
    }

    fn in_query(&self, sent: Sent) -> Sent {
        self.sign(sent, SignatureLocation::QueryParams)
    }

    fn sign(&self, mut sent: Sent, location: SignatureLocation) -> Sent {
        let identity = Credentials::new(self.key_id, SECRET, self.token.clone(), None, "test").into();
        let mut settings = SigningSettings::default();
        settings.signature_location = location;
        settings.expires_in = Some(Duration::from_secs(self.expires));
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(self.region)
            .name(self.service)
            .time(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(self.at).unwrap()))
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let question_mark = if sent.query.is_empty() { "" } else { "?" };
        let host = String::from_utf8(sent.header("host").clone()).unwrap();
        let uri = format!("https://{host}{}{question_mark}{}", sent.path, sent.query);
        let headers: Vec<(String, String)> = sent
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), String::from_utf8(value.clone()).unwrap()))
            .collect();
        let request = SignableRequest::new(
            &sent.method,
            &uri,
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())),
            SignableBody::Bytes(&sent.body),
        )
        .unwrap();
        let (headers, parameters) = sign(request, &params).unwrap().into_parts().0.into_parts();
        for header in headers {
            *sent.header(header.name()) = header.value().as_bytes().to_vec();
        }
        for (name, value) in parameters {
            let value = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
            sent.query.push_str(&format!("&{name}={value}"));
        }
        sent.query = sent.query.trim_start_matches('&').to_owned();
        sent
    }
}

/// An authenticator with one access key, and a count of what it asked for.
struct World {
    authenticator: Authenticator,
    credentials: Mutex<HashMap<AccessKeyId, Credential>>,
    opened: AtomicUsize,
    token_is_away: bool,
}

impl World {
    fn new() -> Self {
        Self::with(Settings { accepted_regions: vec![REGION.into()], debug_signature_errors: false })
    }

    fn with(settings: Settings) -> Self {
        let id: AccessKeyId = KEY_ID.parse().unwrap();
        let credential = Credential {
            id: id.clone(),
            account: "111122223333".parse().unwrap(),
            active: true,
            principal: Principal::Root,
            wrapped_secret: Arc::from(*b"wrapped"),
            created: 1,
        };
        Self {
            authenticator: Authenticator::new(settings),
            credentials: Mutex::new(HashMap::from([(id, credential)])),
            opened: AtomicUsize::new(0),
            token_is_away: false,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Credential)) {
        change(self.credentials.lock().unwrap().get_mut(&KEY_ID.parse().unwrap()).unwrap());
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    async fn ask_at(&self, sent: &Sent, service: Service, now: i64) -> Result<Caller, AuthnError> {
        let headers: Vec<(&str, &[u8])> =
            sent.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let request = PlainRequest {
            method: &sent.method,
            path: &sent.path,
            query: &sent.query,
            headers: &headers,
            body: &sent.body,
        };
        self.authenticator.authenticate(&request, service, self, self, now).await
    }

    async fn ask(&self, sent: &Sent) -> Result<Caller, AuthnError> {
        self.ask_at(sent, Service::Kms, NOW).await
    }
}

impl Directory for World {
    fn credential(&self, id: &AccessKeyId) -> Option<Credential> {
        self.credentials.lock().unwrap().get(id).cloned()
    }
}

impl OpenSecret for World {
    fn open<'a>(
        &'a self,
        credential: &'a Credential,
    ) -> Pin<Box<dyn Future<Output = Result<crate::secret::SecretString, String>> + Send + 'a>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        assert_eq!(&*credential.wrapped_secret, b"wrapped");
        Box::pin(async {
            tokio::task::yield_now().await;
            if self.token_is_away { Err("no token".to_owned()) } else { Ok(SECRET.to_owned().into()) }
        })
    }
}
