//! What is refused before anybody is asked who they are: ambiguous framing and hosts, too much of anything. Source: RFC
//! 9112 §3.2, §6.1, §6.3 and RFC 9113 §8.3.1.

use ::http::request::Parts;
use ::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::body::{Body, HttpBody};
use axum::response::Response;
use http_body_util::BodyExt;
use zeroize::Zeroizing;

use super::AMZ_JSON;

/// A request that the transport itself answers. Names are AWS's common errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: &'static str,
    /// What follows on the connection cannot be trusted or is not wanted.
    pub close: bool,
}

impl Refusal {
    pub const fn malformed(message: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "MalformedHttpRequestException", message, close: true }
    }

    pub const BODY_TOO_LARGE: Self = Self {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        code: "RequestEntityTooLargeException",
        message: "The request body is larger than this server accepts.",
        close: true,
    };
    pub const HEAD_TOO_LARGE: Self = Self {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        code: "RequestEntityTooLargeException",
        message: "The request's headers are larger than this server accepts.",
        close: true,
    };
    pub const TOO_SLOW: Self = Self {
        status: StatusCode::REQUEST_TIMEOUT,
        code: "RequestTimeoutException",
        message: "The request did not arrive in time.",
        close: true,
    };
    /// The handler goes on in the background; whether it succeeds is in the log.
    pub const NO_ANSWER_IN_TIME: Self = Self {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "DependencyTimeoutException",
        message: "The system timed out while trying to fulfill the request.",
        close: false,
    };
    pub const INTERNAL: Self = Self {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        code: "KMSInternalException",
        message: "The request was rejected because an internal exception occurred.",
        close: false,
    };
    const BODY_BROKEN: Self = Self::malformed("The request body ended early or could not be read.");

    pub fn json(&self) -> String {
        format!(r#"{{"__type":"{}","message":"{}"}}"#, self.code, self.message)
    }

    pub fn response(&self, version: Version) -> Response {
        let mut response = Response::new(Body::from(self.json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(AMZ_JSON));
        headers.insert("x-amzn-errortype", HeaderValue::from_static(self.code));
        // RULE RFC 9113 §8.2.2: no connection-specific fields on HTTP/2.
        if self.close && version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Checks the head of a request; `Ok` is the declared length of its body.
pub(super) fn check_head(
    parts: &Parts,
    max_header_bytes: usize,
    max_body_bytes: usize,
) -> Result<Option<usize>, Refusal> {
    check_size(parts, max_header_bytes)?;
    check_framing(parts)?;
    check_host(parts)?;
    if parts.method == Method::CONNECT {
        return Err(Refusal::malformed("CONNECT is not served."));
    }
    declared_length(&parts.headers, max_body_bytes)
}

/// HTTP/1.1's parser has its own limit; this one is for HTTP/2, whose names and values arrive compressed.
fn check_size(parts: &Parts, max_header_bytes: usize) -> Result<(), Refusal> {
    if parts.version < Version::HTTP_2 {
        return Ok(());
    }
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if target + fields > max_header_bytes { Err(Refusal::HEAD_TOO_LARGE) } else { Ok(()) }
}

/// RULE RFC 9112 §6.1: Content-Length together with Transfer-Encoding ought to be handled as an error. The HTTP library
/// drops a Content-Length that stands beside a Transfer-Encoding, so the two cannot be told from a chunked body alone. KMS
/// bodies always have a length: every Transfer-Encoding is refused.
fn check_framing(parts: &Parts) -> Result<(), Refusal> {
    if parts.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::malformed(
            "Transfer-Encoding is not accepted, alone or with Content-Length: send the body with a Content-Length.",
        ));
    }
    Ok(())
}

/// RULE RFC 9112 §3.2: a request with no Host or more than one is answered with 400.
/// RULE RFC 9113 §8.3.1: a Host that differs from `:authority` is malformed. The same is asked of an absolute target.
fn check_host(parts: &Parts) -> Result<(), Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Refusal::malformed("The request has more than one Host header."));
    }
    match (host, parts.uri.authority()) {
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err(Refusal::malformed("The Host header differs from the request's authority."))
        }
        (None, None) if parts.version > Version::HTTP_10 => Err(Refusal::malformed("The request has no Host header.")),
        (None, Some(_)) if parts.version == Version::HTTP_11 => {
            Err(Refusal::malformed("The request has no Host header."))
        }
        _ => Ok(()),
    }
}

/// RULE RFC 9112 §6.3: differing lengths are an unrecoverable error, equal ones may be taken as one. The HTTP/1.1 parser
/// does both before this is asked; what it lets through, and HTTP/2, is held to one header.
fn declared_length(headers: &HeaderMap, max_body_bytes: usize) -> Result<Option<usize>, Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    if lengths.next().is_some() {
        return Err(Refusal::malformed("The request has more than one Content-Length header."));
    }
    let digits = length.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let Some(digits) = digits else { return Err(Refusal::malformed("The Content-Length header is not a number.")) };
    match digits.parse::<usize>() {
        Ok(length) if length <= max_body_bytes => Ok(Some(length)),
        _ => Err(Refusal::BODY_TOO_LARGE),
    }
}

/// At least 1, so that a waiting stream waits in turn.
pub(super) fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(u32::MAX)
}

/// Reads a body into one zeroised buffer, at most `max_body_bytes`. The frames themselves are the HTTP library's copies.
pub(super) async fn read_body(
    mut body: Body,
    declared: Option<usize>,
    max_body_bytes: usize,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut whole = Zeroizing::new(Vec::with_capacity(declared.unwrap_or(0)));
    if body.is_end_stream() {
        return Ok(whole);
    }
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Refusal::BODY_BROKEN) };
        let Some(data) = frame.data_ref() else { continue };
        let needed = whole.len() + data.len();
        if needed > max_body_bytes {
            return Err(Refusal::BODY_TOO_LARGE);
        }
        if needed > whole.capacity() {
            // A plain reallocation would leave the old bytes behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two().min(max_body_bytes)));
            larger.extend_from_slice(&whole);
            whole = larger;
        }
        whole.extend_from_slice(data);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::type_complexity)]
    fn heads() {
        let ok: Result<Option<usize>, &str> = Ok(None);
        let cases: &[(&str, Version, &str, &[(&str, &str)], Result<Option<usize>, &str>)] = &[
            ("plain", Version::HTTP_11, "/", &[("host", "a")], ok),
            ("length", Version::HTTP_11, "/", &[("host", "a"), ("content-length", "7")], Ok(Some(7))),
            ("no host", Version::HTTP_11, "/", &[], Err("no Host")),
            ("HTTP/1.0 without host", Version::HTTP_10, "/", &[], ok),
            ("two hosts", Version::HTTP_11, "/", &[("host", "a"), ("host", "a")], Err("more than one Host")),
            ("absolute, same", Version::HTTP_11, "http://a/", &[("host", "A")], ok),
            ("absolute, other", Version::HTTP_11, "http://a/", &[("host", "b")], Err("differs")),
            ("absolute, no host", Version::HTTP_11, "http://a/", &[], Err("no Host")),
            ("authority", Version::HTTP_2, "https://a/", &[], ok),
            ("authority and host", Version::HTTP_2, "https://a/", &[("host", "b")], Err("differs")),
            ("chunked", Version::HTTP_11, "/", &[("host", "a"), ("transfer-encoding", "chunked")], Err("Transfer-Enc")),
            (
                "identity",
                Version::HTTP_11,
                "/",
                &[("host", "a"), ("transfer-encoding", "identity")],
                Err("Transfer-Enc"),
            ),
            (
                "two lengths",
                Version::HTTP_11,
                "/",
                &[("host", "a"), ("content-length", "1"), ("content-length", "1")],
                Err("more than one Content-Length"),
            ),
            ("signed length", Version::HTTP_11, "/", &[("host", "a"), ("content-length", "+1")], Err("not a number")),
            ("too long", Version::HTTP_11, "/", &[("host", "a"), ("content-length", "101")], Err("larger")),
            (
                "huge",
                Version::HTTP_11,
                "/",
                &[("host", "a"), ("content-length", "99999999999999999999999")],
                Err("larger"),
            ),
        ];
        for (name, version, uri, headers, expected) in cases {
            let mut builder = ::http::Request::post(*uri).version(*version);
            for (key, value) in *headers {
                builder = builder.header(*key, *value);
            }
            let (parts, ()) = builder.body(()).unwrap().into_parts();
            match (check_head(&parts, 1000, 100), expected) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, *wanted, "{name}"),
                (Err(refusal), Err(text)) => assert!(refusal.message.contains(text), "{name}: {refusal:?}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }

    #[test]
    fn large_http2_heads() {
        let (parts, ()) = ::http::Request::post("https://a/")
            .version(Version::HTTP_2)
            .header("x", "y".repeat(1000))
            .body(())
            .unwrap()
            .into_parts();
        assert_eq!(check_head(&parts, 1000, 100), Err(Refusal::HEAD_TOO_LARGE));
        assert_eq!(check_head(&parts, 2000, 100), Ok(None));
    }

    #[tokio::test]
    async fn bodies_without_a_length_are_bounded() {
        assert_eq!(read_body(Body::from(vec![7; 101]), None, 100).await, Err(Refusal::BODY_TOO_LARGE));
        assert_eq!(read_body(Body::from(vec![7; 100]), None, 100).await.unwrap().len(), 100);
        assert_eq!(read_body(Body::from(vec![7; 100]), Some(10), 100).await.unwrap().len(), 100);
    }
}
