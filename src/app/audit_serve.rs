//! `audit serve`: the folder of a trail or of an export, read-only on a loopback address, for the stock AWS CLI of an auditor who has
//! the files and nothing else. Needs no token, no store and no configuration, and writes nothing. Source: audit.md §2.4, §7.6.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::audit_office::{Bucket, Trail, blocking, of_bucket};
use super::{AppError, now_ms};
use crate::authn::{
    Authenticator, AuthnError, Credential, Directory, OpenSecret, Principal, Service, Settings, new_access_key_id,
    new_secret,
};
use crate::cloudtrail::{self, TrailError};
use crate::http::{Handler, ListenerSettings, Reply, Server, ServerSettings, WireReply, WireRequest};
use crate::ids::{AccessKeyId, AccountId};
use crate::ops::{AuditAnswer, BucketRequest, OpError, TrailRefusal, TrailRequest};
use crate::s3::{self, S3Error};
use crate::secret::{SecretBytes, SecretString};

mod facts;

use facts::Facts;

/// Requests in flight at the end are short reads of files.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves `dir` until SIGINT or SIGTERM. Standard output says how a client finds it, as lines for a shell.
pub async fn serve(dir: &Path, listen: SocketAddr) -> Result<(), AppError> {
    if !listen.ip().is_loopback() {
        let text = format!("--listen {listen}: files are served on a loopback address only, 127.0.0.1 for example");
        return Err(AppError::Refused(text));
    }
    let facts = Facts::of(dir).map_err(AppError::Refused)?;
    let on = |kind| signal(kind).map_err(|e| AppError::Io(format!("signals: {e}")));
    let (mut term, mut int) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let settings = ServerSettings {
        listeners: vec![ListenerSettings { address: listen, tls: None }],
        drain: DRAIN,
        ..ServerSettings::default()
    };
    let server = Server::bind(settings).await.map_err(|e| AppError::Listen(e.to_string()))?;
    let address = server.local_addrs().first().copied().unwrap_or(listen);
    let key = OneKey::new(facts.account.clone())?;
    say(&facts, &key, dir, address).map_err(|e| AppError::Io(e.to_string()))?;
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(server.run(Arc::new(Auditor::new(facts, key)), stopped));
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    stop.send_replace(true);
    running.await.map(drop).map_err(|e| AppError::Io(format!("serving ended early: {e}")))
}

/// What belongs to nobody's shell goes to standard error, so that the rest can be evaluated.
fn say(facts: &Facts, key: &OneKey, dir: &Path, address: SocketAddr) -> std::io::Result<()> {
    eprintln!(
        "serving `{}` read-only until a signal ends this. Nothing is recorded: what is asked here leaves no trace in any log.",
        dir.display()
    );
    if !facts.has_objects {
        eprintln!("no sealed log files are in this folder: verify-query-results works, validate-logs does not");
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "unset AWS_SESSION_TOKEN AWS_PROFILE AWS_REGION")?;
    writeln!(out, "export AWS_ACCESS_KEY_ID={}", key.id)?;
    writeln!(out, "export AWS_SECRET_ACCESS_KEY={}", key.secret.expose())?;
    writeln!(out, "export AWS_DEFAULT_REGION={}", facts.region)?;
    writeln!(out, "export AWS_ENDPOINT_URL=http://{address}")?;
    writeln!(out, "# aws cloudtrail validate-logs --start-time 2020-01-01T00:00:00Z --trail-arn {}", facts.arn)?;
    out.flush()
}

/// An access key that lives as long as this process.
struct OneKey {
    id: AccessKeyId,
    account: AccountId,
    secret: SecretString,
}

impl OneKey {
    fn new(account: AccountId) -> Result<OneKey, AppError> {
        let (mut id, mut secret) = ([0; 10], [0; 30]);
        getrandom::fill(&mut id)
            .and_then(|()| getrandom::fill(&mut secret))
            .map_err(|e| AppError::Io(format!("no randomness: {e}")))?;
        Ok(OneKey { id: new_access_key_id(id), account, secret: new_secret(secret) })
    }
}

impl Directory for OneKey {
    fn credential(&self, id: &AccessKeyId) -> Option<Credential> {
        (*id == self.id).then(|| Credential {
            id: self.id.clone(),
            account: self.account.clone(),
            active: true,
            principal: Principal::Root,
            wrapped_secret: Arc::from([]),
            created: 0,
        })
    }
}

impl OpenSecret for OneKey {
    fn open<'a>(
        &'a self,
        _credential: &'a Credential,
    ) -> Pin<Box<dyn Future<Output = Result<SecretString, String>> + Send + 'a>> {
        Box::pin(async { Ok(self.secret.clone()) })
    }
}

/// Answers an auditor's client: the questions of CloudTrail and S3 that only read files.
struct Auditor {
    trail: Arc<Trail>,
    bucket: Arc<Bucket>,
    bucket_name: String,
    region: String,
    authenticator: Authenticator,
    key: OneKey,
}

impl Handler for Auditor {
    async fn handle(&self, request: WireRequest) -> Reply {
        match request.value("x-amz-target") {
            Some(target) => self.of_trail(&request, target).await.unwrap_or_else(|error| trail_error(&error)).into(),
            None => self.of_bucket(&request).await.unwrap_or_else(|error| s3_error(&error, &request)).into(),
        }
    }
}

impl Auditor {
    fn new(facts: Facts, key: OneKey) -> Auditor {
        let region = facts.region.to_string();
        let settings = Settings { accepted_regions: vec![region.clone()], debug_signature_errors: false };
        let bucket = Arc::new(Bucket::new(facts.objects.clone()));
        Auditor {
            bucket_name: facts.bucket.clone(),
            trail: Arc::new(facts.trail(bucket.clone())),
            bucket,
            region,
            authenticator: Authenticator::new(settings),
            key,
        }
    }

    async fn signed(&self, request: &WireRequest, service: Service) -> Result<(), AuthnError> {
        let headers = request.header_slices();
        let plain = request.plain(&headers);
        let now = now_ms().div_euclid(1000);
        self.authenticator.authenticate(&plain, service, &self.key, &self.key, now).await.map(drop)
    }

    async fn of_trail(&self, request: &WireRequest, target: &[u8]) -> Result<WireReply, TrailError> {
        self.signed(request, Service::CloudTrail).await.map_err(|error| TrailError::from(&error))?;
        let target = Some(target).filter(|_| request.method.as_str() == "POST").and_then(cloudtrail::target);
        let asked = cloudtrail::parse(target.unwrap_or(cloudtrail::Target::Unknown), &request.body)?;
        let answer = match asked {
            TrailRequest::LookupEvents(_) => Err(OpError::Unsupported(
                "Events are looked up at the service itself: these are files. Read the log files, or use hsm-bridge audit tail."
                    .to_owned(),
            )),
            TrailRequest::Change { .. } => Err(OpError::Trail(TrailRefusal::CannotBeStopped)),
            asked => {
                let (trail, is_status) = (self.trail.clone(), matches!(asked, TrailRequest::GetTrailStatus { .. }));
                let answer = blocking(move || trail.answer(&asked, now_ms())).await;
                answer.map(|mut value| {
                    // Of a copy nobody can say that the log goes on.
                    if let Some(members) = value.as_object_mut().filter(|_| is_status) {
                        members.insert("IsLogging".to_owned(), false.into());
                    }
                    value
                })
            }
        };
        let value = answer.map_err(|error| {
            log_cause(&error);
            TrailError::from(&error)
        })?;
        Ok(WireReply {
            status: 200,
            content_type: cloudtrail::CONTENT_TYPE,
            body: SecretBytes::new(value.to_string().into_bytes()),
            extra_headers: Vec::new(),
        })
    }

    async fn of_bucket(&self, request: &WireRequest) -> Result<WireReply, S3Error> {
        self.signed(request, Service::S3).await.map_err(|error| S3Error::from(&error))?;
        let mut asked = s3::parse(request.method.as_str(), &request.path, &request.query)?;
        if let BucketRequest::GetObject { range, .. } = &mut asked {
            *range = request.value("range").map(|value| String::from_utf8_lossy(value).into_owned());
        }
        let answer: AuditAnswer = of_bucket(&self.bucket_name, &self.bucket, &asked).await.map_err(|error| {
            log_cause(&error);
            S3Error::from(&error)
        })?;
        let rendered = s3::render(answer, &self.region)?;
        let id = ("x-amz-request-id".into(), request.request_id.to_string());
        Ok(WireReply {
            status: rendered.status,
            content_type: rendered.content_type,
            body: SecretBytes::new(rendered.body),
            extra_headers: rendered.headers.into_iter().chain([id]).collect(),
        })
    }
}

/// The client gets a safe text; whoever started this sees why.
fn log_cause(error: &OpError) {
    if let OpError::Internal(cause) = error {
        eprintln!("{cause}");
    }
}

fn trail_error(error: &TrailError) -> WireReply {
    WireReply {
        status: error.status,
        content_type: cloudtrail::CONTENT_TYPE,
        body: SecretBytes::new(cloudtrail::error_body(error)),
        extra_headers: vec![("x-amzn-errortype".into(), error.code.to_owned())],
    }
}

fn s3_error(error: &S3Error, request: &WireRequest) -> WireReply {
    let xml = s3::error_xml(error, &request.path, &request.request_id);
    WireReply {
        status: error.status,
        content_type: s3::CONTENT_TYPE,
        // RULE RFC 9110 §9.3.2: no content in answers to HEAD.
        body: SecretBytes::new(if request.method.as_str() == "HEAD" { Vec::new() } else { xml.into_bytes() }),
        extra_headers: vec![("x-amz-request-id".into(), request.request_id.to_string())],
    }
}
