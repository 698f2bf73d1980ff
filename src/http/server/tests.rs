//! Real sockets on the loopback. Waits are generous limits against hanging, never measurements.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::super::request::{self, TlsFacts, WireReply, WireRequest};
use super::super::tls::self_signed;
use super::super::{Readiness, tls};
use super::*;
use crate::secret::SecretBytes;

const LONG: Duration = Duration::from_secs(20);

/// Answers with the body it got. `/panic` panics, `/wait` waits for `release`, `/forever` never ends.
#[derive(Default)]
struct Echo {
    seen: Mutex<Vec<Seen>>,
    entered: Notify,
    release: Notify,
    finished: AtomicUsize,
}

struct Seen {
    id: String,
    headers: Vec<(String, String)>,
    path: String,
    query: String,
    tls: Option<TlsFacts>,
}

impl Handler for Echo {
    async fn handle(&self, request: WireRequest) -> request::Reply {
        self.seen.lock().unwrap().push(Seen {
            id: request.request_id.to_string(),
            headers: request.headers.iter().map(|(n, v)| (n.clone(), String::from_utf8_lossy(v).into())).collect(),
            path: request.path.clone(),
            query: request.query.clone(),
            tls: request.tls.as_deref().cloned(),
        });
        self.entered.notify_one();
        match request.path.as_str() {
            "/panic" => panic!("broken on purpose"),
            "/wait" => self.release.notified().await,
            "/forever" => std::future::pending().await,
            _ => {}
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
        let reply = WireReply {
            status: 200,
            content_type: crate::http::AMZ_JSON,
            body: SecretBytes::new(request.body.to_vec()),
            extra_headers: vec![("x-test".into(), "yes".to_owned())],
        };
        reply.into()
    }
}

struct Running {
    address: SocketAddr,
    echo: Arc<Echo>,
    metrics: Arc<Metrics>,
    reloader: TlsReloader,
    stop: watch::Sender<bool>,
    ended: JoinHandle<Drained>,
}

fn plain() -> ServerSettings {
    let listener = ListenerSettings { address: ([127, 0, 0, 1], 0).into(), tls: None };
    ServerSettings { listeners: vec![listener], ..ServerSettings::default() }
}

async fn start(settings: ServerSettings) -> Running {
    let metrics = Arc::new(Metrics::new());
    let server = Server::bind(settings).await.unwrap().with_metrics(metrics.clone());
    let (stop, stopped) = watch::channel(false);
    let (address, reloader, echo) = (server.local_addrs()[0], server.tls_reloader(), Arc::new(Echo::default()));
    let ended = tokio::spawn(server.run(echo.clone(), stopped));
    Running { address, echo, metrics, reloader, stop, ended }
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.unwrap_or_else(|_| panic!("{what}: nothing happened"))
}

struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn type_and_message(&self) -> (String, String) {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        (json["__type"].as_str().unwrap().to_owned(), json["message"].as_str().unwrap().to_owned())
    }
}

async fn read_reply(stream: &mut TcpStream) -> Option<Reply> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if within("a reply's head", stream.read_buf(&mut bytes)).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head[9..12].parse().unwrap();
    let mut reply = Reply { status, head, body: bytes[end..].to_vec() };
    let length: usize = reply.header("content-length").unwrap().parse().unwrap();
    while reply.body.len() < length {
        assert_ne!(within("a reply's body", stream.read_buf(&mut reply.body)).await.unwrap(), 0);
    }
    Some(reply)
}

async fn send(address: SocketAddr, request: &[u8]) -> (TcpStream, Reply) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that refuses early may close while this is being sent.
    let _ = stream.write_all(request).await;
    let reply = read_reply(&mut stream).await.expect("an answer");
    (stream, reply)
}

async fn at_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = within("the end of the connection", stream.read_to_end(&mut rest)).await;
    assert!(read.is_err() || rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn a_request_and_its_answer() {
    let server = start(plain()).await;
    let request = b"POST /a%2fb?c=%20d HTTP/1.1\r\nHost:127.0.0.1\r\nX-Two: 2\r\nX-One: 1\r\nX-Two: 3\r\nContent-Length: 5\r\n\r\nhello";
    let (mut stream, reply) = send(server.address, request).await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, b"hello".as_slice()));
    assert_eq!(reply.header("content-type"), Some("application/x-amz-json-1.1"));
    assert_eq!(reply.header("x-test"), Some("yes"));
    assert!(reply.header("date").is_some());
    let id = reply.header("x-amzn-requestid").unwrap().to_owned();
    {
        let seen = server.echo.seen.lock().unwrap();
        assert_eq!(seen[0].id, id);
        assert_eq!((seen[0].path.as_str(), seen[0].query.as_str()), ("/a%2fb", "c=%20d"));
        let headers: Vec<_> = seen[0].headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let expected = [("host", "127.0.0.1"), ("x-two", "2"), ("x-two", "3"), ("x-one", "1"), ("content-length", "5")];
        assert_eq!(headers, expected);
        assert_eq!(seen[0].tls, None);
    }
    // The connection stays open, and the next request has another id.
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let second = read_reply(&mut stream).await.unwrap();
    assert_eq!(second.status, 200);
    assert_ne!(second.header("x-amzn-requestid"), Some(id.as_str()));
}

#[tokio::test]
async fn bad_requests_reach_no_handler() {
    let settings = ServerSettings {
        max_body_bytes: 1000,
        max_header_bytes: 2000,
        body_timeout: Duration::from_millis(200),
        header_timeout: Duration::from_secs(1),
        ..plain()
    };
    let server = start(settings).await;
    let long = |n: usize| "a".repeat(n);
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("two hosts", "POST / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400, "more than one Host"),
        ("no host", "POST / HTTP/1.1\r\n\r\n".into(), 400, "no Host"),
        ("other authority", "POST http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "differs"),
        (
            "length, then coding",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            400,
            "Transfer-Encoding is not accepted",
        ),
        (
            "coding, then length",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n".into(),
            400,
            "Transfer-Encoding is not accepted",
        ),
        (
            "coding alone",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            400,
            "Transfer-Encoding is not accepted",
        ),
        (
            "unknown coding",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".into(),
            400,
            "not valid HTTP/1.1",
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!".into(),
            400,
            "not valid HTTP/1.1",
        ),
        (
            "negative length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n".into(),
            400,
            "not valid HTTP/1.1",
        ),
        ("space before colon", "POST / HTTP/1.1\r\nHost : a\r\n\r\n".into(), 400, "not valid HTTP/1.1"),
        ("folded header", "POST / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n".into(), 400, "not valid HTTP/1.1"),
        ("not HTTP", "\u{16}\u{3}\u{1}\r\n\r\n".into(), 400, "not valid HTTP/1.1"),
        ("CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".into(), 400, "CONNECT"),
        (
            "body too large",
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n{}", long(1001)),
            413,
            "body is larger",
        ),
        (
            "body much too large",
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n{}", long(4_000_000)),
            413,
            "body is larger",
        ),
        (
            "head too large",
            format!("POST / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(2000)),
            431,
            "headers are larger",
        ),
        ("head without end", format!("POST / HTTP/1.1\r\nHost: a\r\nX: {}", long(100_000)), 431, "headers are larger"),
        (
            "101 headers",
            format!("POST / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a:\r\n".repeat(101)),
            431,
            "headers are larger",
        ),
        ("slow body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell".into(), 408, "in time"),
        ("slow head", "POST / HTTP/1.1\r\nHost: a\r\nX-".into(), 408, "in time"),
    ];
    for (name, request, status, message) in cases {
        let (mut stream, reply) = send(server.address, request.as_bytes()).await;
        assert_eq!(reply.status, status, "{name}: {}", reply.head);
        let (kind, text) = reply.type_and_message();
        assert!(text.contains(message), "{name}: {text}");
        assert_eq!(reply.header("x-amzn-errortype"), Some(kind.as_str()), "{name}");
        assert_eq!(reply.header("content-type"), Some("application/x-amz-json-1.1"), "{name}");
        assert_eq!(reply.header("connection"), Some("close"), "{name}");
        assert!(uuid::Uuid::try_parse(reply.header("x-amzn-requestid").unwrap()).is_ok(), "{name}");
        at_end(&mut stream).await;
    }
    assert!(server.echo.seen.lock().unwrap().is_empty());
}

/// Many clients send the whole request before they look for an answer, and give up when sending fails.
#[tokio::test]
async fn a_refused_sender_is_heard_out() {
    let server = start(plain()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // The answer is there and the server is done before the body is sent.
    let reply = read_reply(&mut stream).await.unwrap();
    assert_eq!(reply.status, 413);
    within("the body", stream.write_all(&vec![7; 8_000_000])).await.unwrap();
    stream.shutdown().await.unwrap();
    at_end(&mut stream).await;
}

#[tokio::test]
async fn http2_by_prior_knowledge_is_not_served() {
    let server = start(plain()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut answer)).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
}

#[tokio::test]
async fn silent_and_idle_connections_are_closed() {
    let short = Duration::from_millis(500);
    let server = start(ServerSettings { header_timeout: short, idle_timeout: short, ..plain() }).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    at_end(&mut silent).await;
    let (mut idle, reply) = send(server.address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(reply.status, 200);
    at_end(&mut idle).await;
    // A slow handler is neither.
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(short * 3).await;
    server.echo.release.notify_one();
    assert_eq!(read_reply(&mut busy).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let server = start(plain()).await;
    let (mut stream, reply) = send(server.address, b"GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((reply.status, reply.type_and_message().0.as_str()), (500, "KMSInternalException"));
    assert_eq!(reply.header("x-amzn-requestid"), Some(server.echo.seen.lock().unwrap()[0].id.as_str()));
    assert!(!String::from_utf8_lossy(&reply.body).contains("on purpose"));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(read_reply(&mut stream).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_slow_handler_goes_on_without_its_client() {
    let server = start(ServerSettings { request_timeout: Duration::from_millis(100), ..plain() }).await;
    let (stream, reply) = send(server.address, b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((reply.status, reply.type_and_message().0.as_str()), (503, "DependencyTimeoutException"));
    drop(stream);
    server.echo.release.notify_one();
    until("the handler has finished", || server.echo.finished.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_handler_outlives_its_clients_hang_up() {
    let server = start(plain()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within("the handler", server.echo.entered.notified()).await;
    drop(stream);
    until("the connection is gone", || server.metrics.text().contains("hsm_bridge_connections 0\n")).await;
    server.echo.release.notify_one();
    until("the handler has finished", || server.echo.finished.load(Ordering::SeqCst) == 1).await;
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "{what}: no");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight() {
    let server = start(plain()).await;
    let (mut idle, _) = send(server.address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut fresh = TcpStream::connect(server.address).await.unwrap();
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    within("the first handler", server.echo.entered.notified()).await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within("the second handler", server.echo.entered.notified()).await;
    server.stop.send_replace(true);
    at_end(&mut idle).await;
    at_end(&mut fresh).await;
    until_refused(server.address).await;
    assert!(!server.ended.is_finished());
    server.echo.release.notify_one();
    let reply = read_reply(&mut busy).await.unwrap();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    at_end(&mut busy).await;
    assert_eq!(within("the drain", server.ended).await.unwrap(), Drained::Finished);
}

async fn until_refused(address: SocketAddr) {
    let start = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(start.elapsed() < LONG, "still listening");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_drain_ends() {
    let server = start(ServerSettings { drain: Duration::from_millis(100), ..plain() }).await;
    let mut stuck = TcpStream::connect(server.address).await.unwrap();
    stuck.write_all(b"GET /forever HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within("the handler", server.echo.entered.notified()).await;
    server.stop.send_replace(true);
    assert_eq!(within("the drain", server.ended).await.unwrap(), Drained::CutOff);
    at_end(&mut stuck).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let server = start(ServerSettings { max_connections: 1, ..plain() }).await;
    let (first, _) = send(server.address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second.write_all(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.echo.seen.lock().unwrap().len(), 1);
    drop(first);
    assert_eq!(read_reply(&mut second).await.unwrap().status, 200);
}

#[tokio::test]
async fn plain_http_beyond_loopback_needs_its_setting() {
    for address in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"] {
        let listener = ListenerSettings { address: address.parse().unwrap(), tls: None };
        let settings = ServerSettings { listeners: vec![listener], ..ServerSettings::default() };
        let error = Server::bind(settings).await.err().unwrap().to_string();
        assert!(error.contains("danger_plain_http_beyond_loopback"), "{error}");
    }
    let listener = ListenerSettings { address: "0.0.0.0:0".parse().unwrap(), tls: None };
    let settings = ServerSettings { listeners: vec![listener], danger_plain_http_beyond_loopback: true, ..plain() };
    assert!(Server::bind(settings).await.is_ok());
}

#[tokio::test]
async fn health_on_both_sides_and_metrics_on_one() {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    let api = start(plain()).await;
    assert_eq!(send(api.address, &get("/healthz")).await.1.status, 200);
    let (_, unready) = send(api.address, &get("/readyz")).await;
    assert_eq!((unready.status, unready.body.as_slice()), (503, br#"{"ready":false}"#.as_slice()));
    assert!(unready.header("x-amzn-requestid").is_some());
    assert!(api.echo.seen.lock().unwrap().is_empty());
    // Not a path of the transport: the pipeline decides what to answer.
    send(api.address, &get("/metrics")).await;
    assert_eq!(api.echo.seen.lock().unwrap()[0].path, "/metrics");

    let state = Arc::new(Mutex::new(Readiness { ready: false, reasons: vec!["token is away".to_owned()] }));
    let probe = state.clone();
    let server = Server::bind(plain()).await.unwrap().with_metrics(api.metrics.clone());
    let server = server.with_readiness(Arc::new(move || probe.lock().unwrap().clone()));
    let (address, (_stop, stopped)) = (server.local_addrs()[0], watch::channel(false));
    tokio::spawn(server.run_admin(stopped));
    let (_, reply) = send(address, &get("/readyz")).await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.body, br#"{"ready":false,"reasons":["token is away"]}"#);
    *state.lock().unwrap() = Readiness { ready: true, reasons: vec![] };
    assert_eq!(send(address, &get("/readyz")).await.1.status, 200);
    assert_eq!(send(address, &get("/other")).await.1.status, 404);
    let (_, metrics) = send(address, &get("/metrics")).await;
    assert!(String::from_utf8(metrics.body).unwrap().contains("hsm_bridge_connections_accepted_total"));
}

struct WithTls {
    running: Running,
    files: TlsFiles,
    certificate: String,
    _directory: tempfile::TempDir,
}

fn write_certificate(files: &TlsFiles) -> String {
    let (certificate, key) = self_signed(&["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]).unwrap();
    std::fs::write(&files.certificate, &certificate).unwrap();
    std::fs::write(&files.key, key).unwrap();
    certificate
}

async fn start_tls(settings: ServerSettings) -> WithTls {
    let directory = tempfile::tempdir().unwrap();
    let files = TlsFiles { certificate: directory.path().join("c.pem"), key: directory.path().join("k.pem") };
    let certificate = write_certificate(&files);
    let listener = ListenerSettings { address: ([127, 0, 0, 1], 0).into(), tls: Some(files.clone()) };
    let running = start(ServerSettings { listeners: vec![listener], ..settings }).await;
    WithTls { running, files, certificate, _directory: directory }
}

async fn connect_tls(
    address: SocketAddr,
    roots_pem: &str,
    alpn: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    within("a handshake", connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await
}

async fn http2(
    stream: tokio_rustls::client::TlsStream<TcpStream>,
) -> hyper::client::conn::http2::SendRequest<Full<bytes::Bytes>> {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn post(path: &str) -> ::http::request::Builder {
    ::http::Request::post(format!("https://localhost:99{path}"))
}

#[tokio::test]
async fn http2_is_chosen_by_alpn() {
    let settings = ServerSettings { max_body_bytes: 1000, max_header_bytes: 2000, ..plain() };
    let server = start_tls(settings).await;
    let stream = connect_tls(server.running.address, &server.certificate, &["h2", "http/1.1"], rustls::ALL_VERSIONS)
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let mut client = http2(stream).await;
    let reply = client.send_request(post("/x?y").body(Full::from("hello")).unwrap()).await.unwrap();
    assert_eq!((reply.status().as_u16(), reply.version()), (200, ::http::Version::HTTP_2));
    let id = reply.headers()["x-amzn-requestid"].to_str().unwrap().to_owned();
    assert!(reply.headers().contains_key("date"));
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "hello");
    {
        let seen = server.running.echo.seen.lock().unwrap();
        assert_eq!(seen[0].id, id);
        let hosts: Vec<_> = seen[0].headers.iter().filter(|(name, _)| name == "host").collect();
        assert_eq!(hosts, [&("host".to_owned(), "localhost:99".to_owned())]);
        let facts = seen[0].tls.as_ref().unwrap();
        assert_eq!(facts.version, "TLSv1.3");
        assert!(facts.cipher_suite.starts_with("TLS_") && !facts.cipher_suite.contains("TLS13"), "{facts:?}");
        assert_eq!(facts.key_exchange.as_deref(), Some("X25519MLKEM768"));
    }
    let cases = [
        ("other host", post("/").header("host", "other"), 0, 400),
        ("large head", post("/").header("x", "y".repeat(2000)), 0, 431),
        ("very large head", post("/").header("x", "y".repeat(20_000)), 0, 431),
        ("large body", post("/"), 1001, 413),
        ("very large body", post("/"), 3_000_000, 413),
        ("panic", post("/panic"), 0, 500),
    ];
    for (name, request, length, status) in cases {
        let request = request.body(Full::from(vec![7; length])).unwrap();
        let reply = within(name, client.send_request(request)).await.unwrap();
        assert_eq!(reply.status().as_u16(), status, "{name}");
        assert_eq!(reply.headers().contains_key("x-amzn-requestid"), name != "very large head", "{name}");
    }
    // More large bodies than a connection may have in flight wait for each other and are all answered.
    let mut large = tokio::task::JoinSet::new();
    for _ in 0..20 {
        large.spawn(client.send_request(post("/").body(Full::from(vec![7; 1000])).unwrap()));
    }
    while let Some(reply) = within("large bodies", large.join_next()).await {
        assert_eq!(reply.unwrap().unwrap().status().as_u16(), 200);
    }
    // Streams in flight are finished by a drain.
    let waiting = client.send_request(post("/wait").body(Full::default()).unwrap());
    let waiting = tokio::spawn(waiting);
    until("the stream is open", || server.running.echo.seen.lock().unwrap().iter().any(|seen| seen.path == "/wait"))
        .await;
    server.running.stop.send_replace(true);
    until_refused(server.running.address).await;
    server.running.echo.release.notify_one();
    assert_eq!(within("the last stream", waiting).await.unwrap().unwrap().status().as_u16(), 200);
    drop(client);
    assert_eq!(within("the drain", server.running.ended).await.unwrap(), Drained::Finished);
}

#[tokio::test]
async fn http1_over_tls_1_2() {
    let server = start_tls(plain()).await;
    let mut stream =
        connect_tls(server.running.address, &server.certificate, &[], &[&rustls::version::TLS12]).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = server.running.echo.seen.lock().unwrap();
    let facts = seen[0].tls.as_ref().unwrap();
    assert_eq!(facts.version, "TLSv1.2");
    assert!(facts.cipher_suite.starts_with("TLS_ECDHE_"), "{facts:?}");
    assert!(facts.key_exchange.is_some());
}

#[tokio::test]
async fn failed_handshakes_are_counted() {
    let server = start_tls(ServerSettings { header_timeout: Duration::from_millis(200), ..plain() }).await;
    let mut rubbish = TcpStream::connect(server.running.address).await.unwrap();
    rubbish.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let silent = TcpStream::connect(server.running.address).await.unwrap();
    let counted = "hsm_bridge_tls_handshake_failures_total 2\n";
    until("both are counted", || server.running.metrics.text().contains(counted)).await;
    drop(silent);
}

#[tokio::test]
async fn certificates_are_swapped_while_serving() {
    let server = start_tls(plain()).await;
    let connect = async |roots: &str| connect_tls(server.running.address, roots, &[], rustls::ALL_VERSIONS).await;
    connect(&server.certificate).await.unwrap();
    let renewed = write_certificate(&server.files);
    connect(&server.certificate).await.unwrap();
    server.running.reloader.reload().unwrap();
    connect(&renewed).await.unwrap();
    connect(&server.certificate).await.unwrap_err();
    std::fs::write(&server.files.key, "rubbish").unwrap();
    server.running.reloader.reload().unwrap_err();
    connect(&renewed).await.unwrap();
}
