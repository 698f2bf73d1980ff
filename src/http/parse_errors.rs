//! The stream between the HTTP library and the socket. It notes when bytes arrive, and puts a request id and a body into
//! the bare answers that the library itself gives to heads it cannot parse: they never pass through our code otherwise.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::AMZ_JSON;
use super::guard::Refusal;
use super::limits::Activity;
use super::request::{REQUEST_ID, new_request_id};

/// Told the code of a refusal.
pub(super) type OnRefusal = Box<dyn Fn(&'static str) + Send>;

pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Told of each answer that was taken over; without it (HTTP/2 frames) none is.
    refused: Option<OnRefusal>,
    /// Ours, in place of an answer of the library; written from `written` on.
    replacement: Vec<u8>,
    written: usize,
}

impl<S> Watched<S> {
    pub fn new(stream: S, activity: Arc<Activity>, refused: Option<OnRefusal>) -> Self {
        Self { stream, activity, refused, replacement: Vec::new(), written: 0 }
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    fn poll_replacement(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.replacement.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes an answer of the library over; its length counts as written.
    fn take_over(&mut self, buffer: &[u8]) -> Option<usize> {
        let refused = self.refused.as_ref()?;
        let (replacement, code) = rewritten(buffer)?;
        refused(code);
        self.replacement = replacement;
        self.written = 0;
        self.activity.refuse();
        Some(buffer.len())
    }
}

/// The answer to be sent, and its code; `None` unless `head` is a whole bodyless answer to a request that could not be parsed. Our own answers always carry a
/// request id, and no body of ours ends with an empty line.
fn rewritten(head: &[u8]) -> Option<(Vec<u8>, &'static str)> {
    const BARE: &str = "content-length: 0\r\n";
    if !head.starts_with(b"HTTP/1.") || head.len() > 512 || !head.ends_with(b"\r\n\r\n") {
        return None;
    }
    let text = std::str::from_utf8(head).ok()?;
    let status = text.get(9..12)?;
    if !status.starts_with('4') || !text.contains(BARE) || text.contains(REQUEST_ID.as_str()) {
        return None;
    }
    let refusal = match status {
        "431" | "414" => Refusal::HEAD_TOO_LARGE,
        _ => Refusal::malformed("The request is not valid HTTP/1.1."),
    };
    let kept = text.replace(BARE, "");
    Some((with_body(kept.trim_end_matches("\r\n"), &refusal), refusal.code))
}

/// A 408 for a head that did not arrive in time. The library is out of the way when this is sent.
pub(super) fn too_slow() -> Vec<u8> {
    with_body("HTTP/1.1 408 Request Timeout\r\nconnection: close", &Refusal::TOO_SLOW)
}

fn with_body(head: &str, refusal: &Refusal) -> Vec<u8> {
    let (id, body) = (new_request_id(), refusal.json());
    tracing::debug!(request_id = &*id, code = refusal.code, "request refused: {}", refusal.message);
    format!(
        "{head}\r\ncontent-type: {AMZ_JSON}\r\n{REQUEST_ID}: {id}\r\nx-amzn-errortype: {}\r\ncontent-length: {}\r\n\r\n{body}",
        refusal.code,
        body.len()
    )
    .into_bytes()
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.activity.bytes_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_replacement(cx))?;
        match self.take_over(buffer) {
            Some(length) => Poll::Ready(Ok(length)),
            None => Pin::new(&mut self.stream).poll_write(cx, buffer),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_replacement(cx))?;
        if let [only] = buffers
            && let Some(length) = self.take_over(only)
        {
            return Poll::Ready(Ok(length));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_replacement(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_replacement(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bare_answers_are_rewritten() {
        let bare =
            "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let text = String::from_utf8(rewritten(bare.as_bytes()).unwrap().0).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 ") && head.contains("\r\ndate: x\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())) && head.contains("x-amzn-requestid: "));
        assert_eq!(head.matches("content-length").count(), 1);
        assert!(serde_json::from_str::<serde_json::Value>(body).unwrap()["__type"].is_string());
        for left_alone in [
            bare.replace("connection", "x-amzn-requestid: 1\r\nconnection"),
            bare.replace("431", "200"),
            bare.replace("length: 0", "length: 9"),
            format!("{bare}x"),
        ] {
            assert_eq!(rewritten(left_alone.as_bytes()), None, "{left_alone}");
        }
    }
}
