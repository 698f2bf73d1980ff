//! Batches of records by HTTPS POST, each with a signature that the receiver can check: HMAC-SHA256 over `TIMESTAMP.BODY`. An
//! answer of 200 to 299 acknowledges a batch; everything else means that it comes again.

use aws_lc_rs::hmac;
use bytes::Bytes;

use super::WebhookTarget;
use super::delivery::Batch;
use crate::client::https::Poster;
use crate::secret::SecretBytes;

/// A shorter secret is no secret.
const SHORTEST_SECRET: usize = 16;

pub(super) struct Webhook {
    poster: Poster,
    key: hmac::Key,
    array: bool,
    trail: String,
}

impl Webhook {
    pub fn open(target: &WebhookTarget, trail: &str) -> Result<Self, String> {
        let told = |what: String| format!("`{}`: {what}", target.secret_file.display());
        let secret = SecretBytes::new(std::fs::read(&target.secret_file).map_err(|e| told(e.to_string()))?);
        let bare = secret.expose().trim_ascii();
        if bare.len() < SHORTEST_SECRET {
            return Err(told(format!("a secret has at least {SHORTEST_SECRET} bytes")));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, bare);
        let poster = Poster::new(&target.url, target.trust.clone())?;
        Ok(Self { poster, key, array: target.array, trail: trail.to_owned() })
    }

    pub async fn send(&mut self, batch: &Batch, now_ms: i64) -> Result<(), String> {
        let first = batch.records.first().map_or(batch.next, |record| record.seq);
        let last = batch.records.last().map_or(first, |record| record.seq);
        let facts = [("x-hsm-bridge-first-seq", first.to_string()), ("x-hsm-bridge-last-seq", last.to_string())];
        let lines: Vec<&[u8]> = batch.records.iter().map(|record| record.line.as_slice()).collect();
        self.post(body(&lines, self.array), "records", &facts, now_ms).await
    }

    pub async fn heartbeat(&mut self, line: &str, now_ms: i64) -> Result<(), String> {
        self.post(body(&[line.as_bytes()], self.array), "heartbeat", &[], now_ms).await
    }

    async fn post(&mut self, body: Vec<u8>, kind: &str, facts: &[(&str, String)], now_ms: i64) -> Result<(), String> {
        let seconds = now_ms.div_euclid(1000);
        let kind_of_body = if self.array { "application/json" } else { "application/x-ndjson" };
        let mut headers: Vec<(String, String)> = vec![
            ("content-type".into(), kind_of_body.into()),
            ("user-agent".into(), concat!("hsm-bridge/", env!("CARGO_PKG_VERSION")).into()),
            ("x-hsm-bridge-kind".into(), kind.into()),
            ("x-hsm-bridge-trail".into(), self.trail.clone()),
            ("x-hsm-bridge-timestamp".into(), seconds.to_string()),
            ("x-hsm-bridge-signature".into(), signature(&self.key, seconds, &body)),
        ];
        headers.extend(facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        match self.poster.post(&headers, Bytes::from(body)).await? {
            (200..=299, _) => Ok(()),
            (status, _) => Err(format!("HTTP status {status}")),
        }
    }
}

/// Lines are the journal's own bytes, in both forms.
fn body(lines: &[&[u8]], array: bool) -> Vec<u8> {
    if array {
        return [b"[".as_slice(), &lines.join(&b','), b"]"].concat();
    }
    let mut body = lines.join(&b'\n');
    body.push(b'\n');
    body
}

fn signature(key: &hmac::Key, seconds: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{seconds}.").as_bytes());
    context.update(body);
    format!("v1={}", hex::encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let lines: [&[u8]; 2] = [b"{\"a\":1}", b"{\"b\":2}"];
        assert_eq!(body(&lines, false), b"{\"a\":1}\n{\"b\":2}\n");
        assert_eq!(body(&lines, true), b"[{\"a\":1},{\"b\":2}]");
    }

    /// From `printf '%s' '1700000000.{"a":1}\n' | openssl dgst -sha256 -hmac 0123456789abcdef` (with the newline itself).
    #[test]
    fn signatures() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        let expected = "v1=18cfe137412ce58dbaa20ef668c0af70a406aa27498ca2ea8817bd662d9ae6a0";
        assert_eq!(signature(&key, 1_700_000_000, b"{\"a\":1}\n"), expected);
    }
}
