//! One HTTP/1.1 connection, plain or TLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Endpoint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// RULE RFC 5482: the TCP user timeout.
pub(super) const UNACKNOWLEDGED: Duration = Duration::from_secs(8);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Answers of KMS are small.
const LARGEST_ANSWER: usize = 1 << 20;

pub(super) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    pub(super) async fn open(endpoint: &Endpoint, roots: &Arc<RootCertStore>) -> Result<Self, String> {
        let tls = if endpoint.tls { Some(tls_config(roots.clone(), None)?) } else { None };
        Self::open_with(endpoint, tls.as_ref()).await
    }

    /// `tls`: needed where the endpoint is https.
    pub(super) async fn open_with(endpoint: &Endpoint, tls: Option<&Arc<ClientConfig>>) -> Result<Self, String> {
        match (endpoint.tls, tls) {
            (true, None) => Err("https without a TLS configuration".to_owned()),
            (true, tls) => handshake(TokioIo::new(dial(&endpoint.host, endpoint.port, tls).await?)).await,
            (false, _) => handshake(TokioIo::new(dial(&endpoint.host, endpoint.port, None).await?)).await,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    /// Status and body of a GET whose body has at most `largest` bytes. The caller sets the time limit.
    pub(super) async fn get(&mut self, authority: &str, path: &str, largest: usize) -> Result<(u16, Bytes), String> {
        let request = http::Request::get(path).header("host", authority).header("accept", "application/json");
        let request = request.body(Full::new(Bytes::new())).map_err(|e| e.to_string())?;
        let answer = self.0.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), largest).collect().await.map_err(|e| e.to_string())?;
        Ok((status, body.to_bytes()))
    }

    /// Status and body.
    pub(super) async fn post(
        &mut self,
        path: &str,
        headers: &[(String, String)],
        body: impl Into<Bytes>,
    ) -> Result<(u16, Bytes), String> {
        self.post_limited(path, headers, body, LARGEST_ANSWER).await
    }

    /// The same; an answer with more than `largest` bytes is an error.
    pub(super) async fn post_limited(
        &mut self,
        path: &str,
        headers: &[(String, String)],
        body: impl Into<Bytes>,
        largest: usize,
    ) -> Result<(u16, Bytes), String> {
        self.ask("POST", path, headers, body.into(), largest).await.map(|(status, _, body)| (status, body))
    }

    /// Status, headers and body.
    pub(super) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Bytes,
        largest: usize,
    ) -> Result<(u16, http::HeaderMap, Bytes), String> {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, async {
            self.0.ready().await.map_err(|e| e.to_string())?;
            let answer = self.0.send_request(request).await.map_err(|e| e.to_string())?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, largest).collect().await.map_err(|e| e.to_string())?;
            Ok((head.status.as_u16(), head.headers, body.to_bytes()))
        });
        answered.await.map_err(|_| "no answer within 60 seconds".to_owned())?
    }
}

/// TLS 1.2 and 1.3. `identity`: the client's own certificates and key.
pub(super) fn tls_config(
    roots: Arc<RootCertStore>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    Ok(Arc::new(match identity {
        Some((certificates, key)) => config.with_client_auth_cert(certificates, key).map_err(|e| e.to_string())?,
        None => config.with_no_client_auth(),
    }))
}

/// A connection's bytes, whatever is below them.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects, with TLS where `tls` is given. What is sent and not acknowledged by the other machine within `UNACKNOWLEDGED` breaks
/// the connection.
pub(super) async fn dial(host: &str, port: u16, tls: Option<&Arc<ClientConfig>>) -> Result<Box<dyn Stream>, String> {
    let opened = tokio::time::timeout(CONNECT_TIMEOUT, async {
        let stream = TcpStream::connect((host, port)).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let limit = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&stream, limit).map_err(|e| e.to_string())?;
        let Some(config) = tls else { return Ok(Box::new(stream) as Box<dyn Stream>) };
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await.map_err(|e| e.to_string())?;
        Ok(Box::new(stream) as Box<dyn Stream>)
    });
    opened.await.map_err(|_| "no connection within 10 seconds".to_owned())?
}

async fn handshake<T>(stream: T) -> Result<Connection, String>
where
    T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(stream).await.map_err(|e| e.to_string())?;
    // It ends with the sender.
    tokio::spawn(connection);
    Ok(Connection(sender))
}
