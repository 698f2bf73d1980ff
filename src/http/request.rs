//! What the transport hands to the pipeline and takes back: a whole request, a whole answer, plain types only.

use std::borrow::Cow;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use ::http::request::Parts;
use ::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use zeroize::Zeroizing;

use crate::authn::PlainRequest;
use crate::secret::SecretBytes;

/// A request as the transport saw it, its body read whole.
pub struct WireRequest {
    /// UUID v4, made here; the same as in the answer's `x-amzn-RequestId`.
    pub request_id: Arc<str>,
    pub method: Method,
    /// As received, percent-encoded.
    pub path: String,
    /// Without `?`; empty where there is none.
    pub query: String,
    /// Names lower case, in the order received (values of one name stay together). `host` is made from `:authority` on
    /// HTTP/2 and stands exactly once.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Zeroizing<Vec<u8>>,
    /// The peer of the connection; an IPv4 address mapped into IPv6 is shown as IPv4.
    pub source_ip: IpAddr,
    pub tls: Option<Arc<TlsFacts>>,
    pub received: Instant,
}

impl WireRequest {
    /// The first header of this name, which is in lower case.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    pub fn header_slices(&self) -> Vec<(&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()
    }

    /// As a signature is checked. `headers`: its own `header_slices`.
    pub fn plain<'a>(&'a self, headers: &'a [(&'a str, &'a [u8])]) -> PlainRequest<'a> {
        PlainRequest { method: self.method.as_str(), path: &self.path, query: &self.query, headers, body: &self.body }
    }
}

/// What was negotiated, in CloudTrail's words (`tlsDetails`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.3`
    pub version: String,
    /// `TLS_AES_256_GCM_SHA384`
    pub cipher_suite: String,
    /// `X25519MLKEM768`
    pub key_exchange: Option<String>,
}

/// An answer. `x-amzn-RequestId`, `Content-Length` and `Date` are added by the transport.
#[derive(Debug)]
pub struct WireReply {
    pub status: u16,
    pub content_type: &'static str,
    pub body: SecretBytes,
    /// Names in lower case.
    pub extra_headers: Vec<(Cow<'static, str>, String)>,
}

/// What a handler gives back.
pub enum Reply {
    Whole(WireReply),
    Stream(StreamReply),
}

impl From<WireReply> for Reply {
    fn from(reply: WireReply) -> Self {
        Reply::Whole(reply)
    }
}

/// An answer of status 200 that goes on until its source, its reader or the service ends.
pub struct StreamReply {
    pub content_type: &'static str,
    pub source: Box<dyn Source>,
}

/// Makes a stream's bytes, piece by piece.
pub trait Source: Send {
    /// Waits for the next piece, of at most about 320 KiB; `None`: that was all.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Option<Bytes>> + Send + '_>>;
}

/// Answers requests. Implemented by the pipeline. Runs in a task of its own, to its end, whatever the client does.
pub trait Handler: Send + Sync + 'static {
    fn handle(&self, request: WireRequest) -> impl Future<Output = Reply> + Send;
}

/// Where a request came from; the same for all requests of a connection.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub source_ip: IpAddr,
    pub tls: Option<Arc<TlsFacts>>,
}

pub(super) fn wire_request(
    parts: Parts,
    body: Zeroizing<Vec<u8>>,
    request_id: Arc<str>,
    origin: &Origin,
    received: Instant,
) -> WireRequest {
    let mut headers = Vec::with_capacity(parts.headers.len() + 1);
    if !parts.headers.contains_key(header::HOST)
        && let Some(authority) = parts.uri.authority()
    {
        headers.push(("host".to_owned(), authority.as_str().as_bytes().to_vec()));
    }
    for (name, value) in &parts.headers {
        headers.push((name.as_str().to_owned(), value.as_bytes().to_vec()));
    }
    WireRequest {
        request_id,
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers,
        body,
        source_ip: origin.source_ip,
        tls: origin.tls.clone(),
        received,
    }
}

/// The answer's bytes stay in their zeroised buffer until the HTTP library has copied them into its write buffer; that
/// copy is the library's own and is not zeroised.
pub(super) fn http_response(reply: WireReply) -> Response {
    let mut response = Response::new(Body::from(Bytes::from_owner(Exposed(reply.body))));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    for (name, value) in reply.extra_headers {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
            (Ok(name), Ok(value)) => {
                headers.insert(name, value);
            }
            _ => tracing::error!(header = %name, "answer's header is not valid HTTP and was left out"),
        }
    }
    response
}

pub(super) fn stamp(response: &mut Response, request_id: &str) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
}

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

struct Exposed(SecretBytes);

impl AsRef<[u8]> for Exposed {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

/// A UUID v4.
pub(super) fn new_request_id() -> Arc<str> {
    Arc::from(&*crate::ids::random_uuid().hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn request_ids_are_version_4_and_differ() {
        let ids: HashSet<_> = (0..1000).map(|_| new_request_id()).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            let parsed = uuid::Uuid::try_parse(&id).unwrap();
            assert_eq!(parsed.get_version_num(), 4);
        }
    }

    #[test]
    fn host_is_made_from_the_authority_once() {
        let origin = Origin { source_ip: [127, 0, 0, 1].into(), tls: None };
        let request = |builder: ::http::request::Builder| {
            let (parts, ()) = builder.body(()).unwrap().into_parts();
            wire_request(parts, Zeroizing::default(), "id".into(), &origin, Instant::now())
        };
        let made = request(::http::Request::post("https://kms.example:8443/a%20b?x=%41").header("X-One", "1"));
        assert_eq!(made.headers[0], ("host".to_owned(), b"kms.example:8443".to_vec()));
        assert_eq!((made.path.as_str(), made.query.as_str()), ("/a%20b", "x=%41"));
        let sent = request(::http::Request::post("https://kms.example/").header("host", "kms.example"));
        assert_eq!(sent.headers.iter().filter(|(name, _)| name == "host").count(), 1);
    }
}
