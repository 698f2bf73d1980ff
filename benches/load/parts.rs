//! What the parts of a request cost by themselves: the library's own functions, called in a process of their own, CPU time
//! of all its threads over many calls. What is left of a request is HTTP, the runtime, and the way between threads.

use std::future::Future;
use std::hint::black_box;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hsm_bridge::audit::{
    Additional, Authorization, Basis, Event, EventType, HsmFacts, Journal, Resource, UserIdentity,
};
use hsm_bridge::authn::{self, Authenticator, Credential, Directory, OpenSecret, PlainRequest, Principal, Service};
use hsm_bridge::config::Config;
use hsm_bridge::ids::AccessKeyId;
use hsm_bridge::kms;
use hsm_bridge::ops::{Operation, Response};
use hsm_bridge::secret::{SecretBytes, SecretString};
use hsm_bridge::token::{KeyRef, MaterialId, Token};

use crate::client::{Credentials, Signed};
use crate::fill::{context, open_token};
use crate::instance::Keys;
use crate::process;

/// As many as the load has connections where the target stands.
const CALLERS: usize = 16;

pub async fn measure(config: &Config, dir: &Path, keys: &Keys, credentials: &Credentials, time: Duration) {
    let own = std::process::id();
    let body = crate::encrypt_body(&keys.symmetric[0].to_string());
    let signed = Signed::new(credentials, "127.0.0.1:8443", "Encrypt", body);
    println!("signature {:.2}", signature(credentials, &signed, time).await);
    println!("json {:.2}", json(&signed, time));

    let token = open_token(config);
    let aes = new_key(&token).await;
    let before = process::cpu_micros(own);
    let shared = token.clone();
    let calls = callers(time, move || {
        let (token, key) = (shared.clone(), aes.clone());
        async move {
            let plaintext = SecretBytes::new(vec![7; 32]);
            token.encrypt(&context(), &key, vec![5; 80], plaintext).await.expect("the token encrypts");
        }
    })
    .await;
    println!("token {:.2}", (process::cpu_micros(own) - before) / calls as f64);

    let (journal, _) = Journal::open(hsm_bridge::audit::Settings {
        dir: dir.join("parts-audit"),
        trail_arn: "arn:aws:cloudtrail:us-east-1:111122223333:trail/bench".into(),
        region: "us-east-1".into(),
        account: "111122223333".into(),
        segment_bytes: 64 << 20,
        segment_age: Duration::from_secs(3600),
        refuse_below_free: 0.0,
        warn_below_free: 0.0,
        reserve_bytes: 0,
        accept_loss: None,
        deadline: Duration::from_secs(20),
    })
    .expect("the journal opens");
    let before = process::cpu_micros(own);
    let shared = journal.clone();
    let calls = callers(time, move || {
        let journal = shared.clone();
        async move {
            journal.append(event()).await.expect("the journal takes a record");
        }
    })
    .await;
    println!("audit {:.2}", (process::cpu_micros(own) - before) / calls as f64);
    journal.close();
    token.close();
}

/// Calls by `CALLERS` tasks until `time` is over; how many there were.
async fn callers<F: Future<Output = ()> + Send + 'static>(
    time: Duration,
    call: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> u64 {
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let call = call.clone();
        tasks.spawn(async move {
            let mut calls = 0u64;
            while start.elapsed() < time {
                call().await;
                calls += 1;
            }
            calls
        });
    }
    tasks.join_all().await.iter().sum()
}

/// The store is not opened here, and the fingerprints of the instance's keys are in it.
pub async fn new_key(token: &Token) -> KeyRef {
    let material = MaterialId { id: uuid::Uuid::new_v4().into_bytes(), generation: 0 };
    let kind = hsm_bridge::token::KeyKind::Aes256;
    let made = token.generate(&context(), kind, material, "bench-parts").await.expect("the token makes keys").value;
    KeyRef::Kms { material, fingerprint: made.fingerprint.into() }
}

async fn signature(credentials: &Credentials, signed: &Signed, time: Duration) -> f64 {
    let authenticator = Authenticator::new(authn::Settings {
        accepted_regions: vec![credentials.region.clone()],
        debug_signature_errors: false,
    });
    let known = Known(
        Credential {
            id: credentials.id.parse().expect("an access key id"),
            account: "111122223333".parse().expect("an account"),
            active: true,
            principal: Principal::Root,
            wrapped_secret: Arc::from([0u8; 60].as_slice()),
            created: 0,
        },
        credentials.secret.clone(),
    );
    let headers: Vec<(&str, &[u8])> = signed.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let request =
        PlainRequest { method: "POST", path: "/", query: "", headers: &headers, body: signed.body.as_bytes() };
    let now = hsm_bridge::app::now_ms() / 1000;
    alone(time, async || {
        let caller = authenticator.authenticate(&request, Service::Kms, &known, &known, now).await;
        black_box(caller.expect("the signature is right"));
    })
    .await
}

struct Known(Credential, String);

impl Directory for Known {
    fn credential(&self, _: &AccessKeyId) -> Option<Credential> {
        Some(self.0.clone())
    }
}

impl OpenSecret for Known {
    fn open<'a>(
        &'a self,
        _: &'a Credential,
    ) -> Pin<Box<dyn Future<Output = Result<SecretString, String>> + Send + 'a>> {
        Box::pin(async { Ok(SecretString::new(self.1.clone())) })
    }
}

/// The request's body to a typed request, the answer to its body, and the request's members for the record.
fn json(signed: &Signed, time: Duration) -> f64 {
    let response = Response::Encrypt { key_arn: ARN.to_owned(), ciphertext: vec![7; 87] };
    let (start, cpu, mut calls) = (Instant::now(), process::own_thread_micros(), 0);
    while start.elapsed() < time {
        for _ in 0..100 {
            let request = kms::parse(Operation::Encrypt, signed.body.as_bytes()).expect("a right request");
            black_box(kms::audit_parameters(&request));
            black_box(kms::render(&response));
            calls += 1;
        }
    }
    (process::own_thread_micros() - cpu) / f64::from(calls)
}

const ARN: &str = "arn:aws:kms:us-east-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11";

async fn alone(time: Duration, call: impl AsyncFn()) -> f64 {
    call().await;
    let (start, cpu, mut calls) = (Instant::now(), process::own_thread_micros(), 0);
    while start.elapsed() < time {
        for _ in 0..100 {
            call().await;
            calls += 1;
        }
    }
    (process::own_thread_micros() - cpu) / f64::from(calls)
}

/// A record as Encrypt has it.
fn event() -> Event {
    let parameters = r#"{"keyId":"5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11","encryptionContext":{"tenant":"payments","purpose":"invoice-4711"},"encryptionAlgorithm":"SYMMETRIC_DEFAULT"}"#;
    Event {
        event_type: EventType::AwsApiCall,
        user_identity: UserIdentity {
            kind: Some("Root"),
            principal_id: Some("111122223333".into()),
            arn: Some("arn:aws:iam::111122223333:root".into()),
            account_id: Some("111122223333".into()),
            access_key_id: Some("AKIA7HSMBRIDGE000001".into()),
            user_name: None,
            invoked_by: None,
            os_user_id: None,
            ..UserIdentity::default()
        },
        time: hsm_bridge::app::now_ms(),
        source: "kms.amazonaws.com",
        name: "Encrypt".into(),
        region: "us-east-1".into(),
        source_ip: "127.0.0.1".into(),
        user_agent: Some("Boto3/1.41.0 md/Botocore#1.41.0 ua/2.1 os/linux#6.1.0 md/arch#x86_64".into()),
        error_code: None,
        error_message: None,
        request_parameters: serde_json::value::RawValue::from_string(parameters.to_owned()).ok(),
        response_elements: None,
        request_id: Some("7c31a487-6904-5b82-af00-74ca2b88f2cf".into()),
        read_only: true,
        resources: vec![Resource { account_id: "111122223333".into(), kind: "AWS::KMS::Key", arn: ARN.into() }],
        recipient_account: "111122223333".into(),
        tls: None,
        additional: Additional {
            key_material_id: Some("9d".repeat(32)),
            hsm: Some(HsmFacts {
                token_serial: Some("0aa1c4f27d3e9b55".into()),
                slot: Some(3),
                mechanism: Some("CKM_AES_GCM"),
                function: None,
                rv: "CKR_OK".into(),
                micros: Some(41),
            }),
            authorization: Some(Authorization {
                decision: "Allow",
                basis: Basis { source: "Root", ..Basis::default() },
                checks: Vec::new(),
            }),
            ..Additional::default()
        },
    }
}
