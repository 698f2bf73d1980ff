//! Moves a stream's pieces from their source to the connection. The queue between them holds two pieces, so that a reader that
//! is slow costs memory for those and time of nobody; a reader that takes nothing for a while loses its connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{HeaderValue, header};
use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::{mpsc, watch};

use super::connection::Mode;
use super::limits::{Activity, Busy};
use super::request::{Source, StreamReply};

/// Pieces that wait for the connection. With the one in the source's hand and 320 KiB for each that is under 1 MiB.
const QUEUE: usize = 2;
/// In which a reader has to take one piece.
const STALL: Duration = Duration::from_secs(30);
/// In which a reader has to take what is left when the service ends.
const LAST: Duration = Duration::from_secs(2);

pub(super) fn response(reply: StreamReply, activity: Arc<Activity>, mode: watch::Receiver<Mode>) -> Response {
    let (sender, receiver) = mpsc::channel(QUEUE);
    // As long as the stream lasts the connection is not idle.
    let busy = activity.request();
    tokio::spawn(pump(reply.source, sender, activity, busy, mode));
    let mut response = Response::new(Body::new(Pieces(receiver)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn pump(
    mut source: Box<dyn Source>,
    sender: mpsc::Sender<Bytes>,
    activity: Arc<Activity>,
    busy: Busy,
    mut mode: watch::Receiver<Mode>,
) {
    loop {
        let piece = tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode != Mode::Serving) => break,
            // The connection is gone.
            () = sender.closed() => return,
            piece = source.next() => piece,
        };
        let Some(piece) = piece else { return };
        tokio::select! {
            biased;
            _ = mode.wait_for(|mode| *mode != Mode::Serving) => break,
            sent = tokio::time::timeout(STALL, sender.send(piece)) => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    tracing::info!("a reader of a stream takes nothing any more: its connection is closed");
                    drop(busy);
                    activity.cut();
                    return;
                }
            },
        }
    }
    // A drain. The reader sees a regular end, if it still reads; one that hangs must not hold up the end of the service.
    drop((source, sender, busy));
    let connection = Arc::downgrade(&activity);
    drop(activity);
    tokio::time::sleep(LAST).await;
    if let Some(activity) = connection.upgrade() {
        activity.cut();
    }
}

struct Pieces(mpsc::Receiver<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
