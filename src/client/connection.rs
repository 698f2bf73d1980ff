//! One HTTP/1.1 connection, plain or TLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Endpoint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Answers of KMS are small.
const LARGEST_ANSWER: usize = 1 << 20;

pub(super) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    pub(super) async fn open(endpoint: &Endpoint, roots: &Arc<RootCertStore>) -> Result<Self, String> {
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, async {
            let stream =
                TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(|e| e.to_string())?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            if !endpoint.tls {
                return handshake(TokioIo::new(stream)).await;
            }
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|e| e.to_string())?
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            let name = ServerName::try_from(endpoint.host.clone()).map_err(|e| e.to_string())?;
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| e.to_string())?;
            handshake(TokioIo::new(stream)).await
        });
        opened.await.map_err(|_| "no connection within 10 seconds".to_owned())?
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
    pub(super) async fn post(&mut self, headers: &[(String, String)], body: Vec<u8>) -> Result<(u16, Bytes), String> {
        self.post_to("/", headers, body, LARGEST_ANSWER).await
    }

    /// The same elsewhere; an answer with more than `largest` bytes is an error.
    pub(super) async fn post_to(
        &mut self,
        path: &str,
        headers: &[(String, String)],
        body: Vec<u8>,
        largest: usize,
    ) -> Result<(u16, Bytes), String> {
        let mut request = http::Request::post(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?;
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, async {
            self.0.ready().await.map_err(|e| e.to_string())?;
            let answer = self.0.send_request(request).await.map_err(|e| e.to_string())?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), largest).collect().await.map_err(|e| e.to_string())?;
            Ok((status, body.to_bytes()))
        });
        answered.await.map_err(|_| "no answer within 60 seconds".to_owned())?
    }
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
