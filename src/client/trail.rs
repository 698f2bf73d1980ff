//! A trail as an auditor's client reads it over the network: CloudTrail's and S3's reads, signed as AWS's own tools sign them.

use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

use super::connection::Connection;
use super::{ClientError, Environment, FIRST_PAUSE, signed};

const TRIES: u32 = 4;
/// RULE RFC 3986 §2.3: what is never encoded.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const IN_PATH: &AsciiSet = &IN_QUERY.remove(b'/');
/// Larger objects are read in pieces of this size.
const PIECE: u64 = 8 << 20;
const LARGEST_ANSWER: usize = 16 << 20;
const TARGET: &str = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101";

/// One connection to the service; made anew when it is lost.
pub struct TrailClient {
    environment: Environment,
    connection: Option<Connection>,
}

/// A page of a listing: keys and sizes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<(String, u64)>,
    pub next: Option<String>,
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl TrailClient {
    /// RULE audit.md §7.6: what is not encrypted stays on this machine.
    pub fn new(environment: Environment) -> Result<Self, ClientError> {
        let at = &environment.endpoint;
        let loopback = at.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if !at.tls && !loopback {
            let text = format!("`{}`: plain http is for loopback addresses only: https is needed", at.url);
            return Err(ClientError::Configuration(text));
        }
        Ok(Self { environment, connection: None })
    }

    /// An operation of CloudTrail.
    pub async fn call(&mut self, operation: &str, input: &Value) -> Result<Value, ClientError> {
        let body = Bytes::from(input.to_string());
        let headers = [
            ("content-type".to_owned(), "application/x-amz-json-1.1".to_owned()),
            ("x-amz-target".to_owned(), format!("{TARGET}.{operation}")),
        ];
        let answer = self.ask("cloudtrail", "POST", "", &headers, body).await?;
        serde_json::from_slice(&answer.body).map_err(|e| self.broken(format!("the answer is no JSON: {e}")))
    }

    /// `after`: the last page's `next`.
    pub async fn list(&mut self, bucket: &str, after: Option<&str>) -> Result<Page, ClientError> {
        let token = after.map(|token| format!("continuation-token={}&", utf8_percent_encode(token, IN_QUERY)));
        let path = format!(
            "{}?{}encoding-type=url&list-type=2",
            utf8_percent_encode(bucket, IN_QUERY),
            token.unwrap_or_default()
        );
        let answer = self.ask("s3", "GET", &path, &[], Bytes::new()).await?;
        page(&String::from_utf8_lossy(&answer.body)).ok_or_else(|| self.broken("the listing is not understood".into()))
    }

    /// Gives an object's bytes to `write`, piece by piece, and then its metadata.
    pub async fn object(
        &mut self,
        bucket: &str,
        (key, size): (&str, u64),
        mut write: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<BTreeMap<String, String>, ClientError> {
        let path = format!("{}/{}", utf8_percent_encode(bucket, IN_QUERY), utf8_percent_encode(key, IN_PATH));
        let mut metadata = BTreeMap::new();
        let mut read = 0;
        loop {
            let mut headers = Vec::new();
            if size > PIECE {
                headers.push(("range".to_owned(), format!("bytes={read}-{}", (read + PIECE).min(size) - 1)));
            }
            let answer = self.ask("s3", "GET", &path, &headers, Bytes::new()).await?;
            write(&answer.body).map_err(|e| ClientError::Configuration(format!("writing a copy of `{key}`: {e}")))?;
            for (name, value) in &answer.headers {
                if let (Some(name), Ok(value)) = (name.as_str().strip_prefix("x-amz-meta-"), value.to_str()) {
                    metadata.insert(name.to_owned(), value.to_owned());
                }
            }
            read += answer.body.len() as u64;
            if answer.body.is_empty() || read >= size {
                return Ok(metadata);
            }
        }
    }

    fn broken(&self, cause: String) -> ClientError {
        ClientError::Connection { endpoint: self.environment.endpoint.url.clone(), cause }
    }

    /// `path` without its first slash. Tries again where that can help.
    async fn ask(
        &mut self,
        service: &str,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.once(service, method, path, headers, body.clone()).await {
                Err(error) if error.passes() => {}
                outcome => return outcome,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.once(service, method, path, headers, body).await
    }

    async fn once(
        &mut self,
        service: &str,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let endpoint = self.environment.endpoint.clone();
        let mut all = vec![("host".to_owned(), endpoint.authority.clone())];
        all.extend_from_slice(headers);
        let mut all = signed(&self.environment, service, method, &format!("{}{path}", endpoint.url), all, &body)?;
        all.push(("user-agent".to_owned(), format!("hsm-bridge/{} audit verify", env!("CARGO_PKG_VERSION"))));
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_open() => connection,
            _ => Connection::open(&endpoint, &self.environment.roots).await.map_err(|cause| self.broken(cause))?,
        };
        let asked = connection.ask(method, &format!("/{path}"), &all, body, LARGEST_ANSWER).await;
        let (status, headers, body) = asked.map_err(|cause| self.broken(cause))?;
        self.connection = Some(connection);
        let answer = Answer { status, headers, body };
        if matches!(answer.status, 200 | 206) { Ok(answer) } else { Err(refused(&answer)) }
    }
}

/// RULE audit.md §2.7: CloudTrail's errors are JSON, S3's XML.
fn refused(answer: &Answer) -> ClientError {
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or(json!(null));
    let xml = String::from_utf8_lossy(&answer.body);
    let json = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let element = |name: &str| between(&xml, name).map(|(text, _)| text.to_owned());
    ClientError::Refused {
        code: json("__type").or_else(|| element("Code")).unwrap_or_else(|| format!("HTTP {}", answer.status)),
        message: json("message").or_else(|| element("Message")),
    }
}

/// The text of the first element of this name, and what follows.
fn between<'a>(xml: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>"))
}

/// Keys were asked for percent-encoded: no markup is in them.
fn page(xml: &str) -> Option<Page> {
    let (truncated, _) = between(xml, "IsTruncated")?;
    let mut page = Page::default();
    if truncated == "true" {
        page.next = Some(between(xml, "NextContinuationToken")?.0.to_owned());
    }
    let mut rest = xml;
    while let Some((contents, after)) = between(rest, "Contents") {
        let (key, size) = (between(contents, "Key")?.0, between(contents, "Size")?.0);
        let key = percent_decode_str(key).decode_utf8().ok()?.into_owned();
        page.objects.push((key, size.parse().ok()?));
        rest = after;
    }
    Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let xml = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>abc</NextContinuationToken>\
                   <Contents><Key>a%20b/c</Key><Size>7</Size></Contents><Contents><Key>d</Key><Size>0</Size></Contents>";
        let found = page(xml).unwrap();
        assert_eq!(found.next.as_deref(), Some("abc"));
        assert_eq!(found.objects, [("a b/c".to_owned(), 7), ("d".to_owned(), 0)]);
        assert_eq!(page("<IsTruncated>false</IsTruncated>"), Some(Page::default()));
        assert_eq!(page("<IsTruncated>true</IsTruncated>"), None, "a page without an end");
        assert_eq!(page("nothing"), None);
    }

    #[test]
    fn plain_http_stays_here() {
        let environment = |url: &str| Environment {
            endpoint: super::super::Endpoint::parse(url).unwrap(),
            region: "eu-central-1".to_owned(),
            access_key_id: String::new(),
            secret_access_key: String::new().into(),
            session_token: None,
            roots: rustls::RootCertStore::empty().into(),
        };
        for (url, good) in
            [("http://127.0.0.1:1", true), ("http://[::1]:1", true), ("http://192.0.2.1", false), ("https://x", true)]
        {
            assert_eq!(TrailClient::new(environment(url)).is_ok(), good, "{url}");
        }
    }
}
