//! A time-stamping authority (RFC 3161 §3.4) over HTTP. Its answer is signed: plain http is as good as https.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;

use super::Endpoint;
use super::connection::Connection;
use super::environment;

const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Sends a TimeStampReq and gives the body of the answer, which has at most `largest` bytes. Errors are for the log.
pub async fn stamp(url: &str, request: Vec<u8>, largest: usize) -> Result<Vec<u8>, String> {
    let told = |what: String| format!("`{url}`: {what}");
    let uri: http::Uri = url.parse().map_err(|_| told("it is no URL".to_owned()))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(told("it names no host".to_owned()));
    };
    let endpoint = Endpoint::parse(&format!("{scheme}://{authority}/")).map_err(|e| told(e.to_string()))?;
    let roots = match endpoint.tls {
        true => environment::roots(None).map_err(|e| told(e.to_string()))?,
        false => RootCertStore::empty(),
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let asked = tokio::time::timeout(TIME_LIMIT, async {
        let mut connection = Connection::open(&endpoint, &Arc::new(roots)).await?;
        let headers = [
            ("host", endpoint.authority.as_str()),
            ("content-type", "application/timestamp-query"),
            ("accept", "application/timestamp-reply"),
        ];
        connection
            .post_limited(path, &headers.map(|(name, value)| (name.to_owned(), value.to_owned())), request, largest)
            .await
    });
    match asked.await {
        Ok(Ok((200, body))) => Ok(body.into()),
        Ok(Ok((status, _))) => Err(told(format!("HTTP status {status}"))),
        Ok(Err(error)) => Err(told(error)),
        Err(_) => Err(told(format!("no answer within {} seconds", TIME_LIMIT.as_secs()))),
    }
}
