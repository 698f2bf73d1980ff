//! The operator's socket: `<state>/operator.sock`, mode 0600 in a directory of mode 0700, the peer's user id checked.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::WriteHalf;
use tokio::net::{UnixListener, UnixStream};
use zeroize::Zeroizing;

use super::{AppError, settle};
use crate::http::Services;
use crate::http::operator::{self, Told};
use crate::ops::{OperatorRequest, OperatorResponse, Progress};

/// Bytes of one command at most: `iam apply` sends a folder of ten thousand users.
const LINE_LIMIT: u64 = 64 * 1024 * 1024;
/// How long a client of the socket waits for a line: much longer than the server takes between two.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a long command says how far it is.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Intervals after which it does even where nothing has moved, so that the client knows that somebody is at work.
const SIGN_OF_LIFE: u32 = 150;

pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("operator.sock")
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Ok(OperatorResponse),
    Error(Told),
    /// Any number of these before one of the others. `total` 0: not known yet.
    Progress {
        done: u64,
        total: u64,
    },
}

/// Whether a running server answered.
pub enum Asked {
    Answered(Result<OperatorResponse, Told>),
    /// No server listens on this directory.
    NobodyThere,
}

/// Sends one command to the running server. `progress` is told how much is done, of how much.
pub fn ask_running(
    state_dir: &Path,
    request: &OperatorRequest,
    mut progress: impl FnMut(u64, u64),
) -> Result<Asked, AppError> {
    let path = socket_path(state_dir);
    let told = |e: std::io::Error| AppError::Io(format!("the operator socket `{}`: {e}", path.display()));
    let mut stream = match BlockingStream::connect(&path) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
            return Ok(Asked::NobodyThere);
        }
        Err(e) => return Err(told(e)),
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
    let mut line = serde_json::to_vec(request).map_err(|e| AppError::Io(e.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(told)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut answer = Zeroizing::new(String::new());
        reader.read_line(&mut answer).map_err(told)?;
        match serde_json::from_str(&answer) {
            Ok(Line::Ok(response)) => return Ok(Asked::Answered(Ok(response))),
            Ok(Line::Error(error)) => return Ok(Asked::Answered(Err(error))),
            Ok(Line::Progress { done, total }) => progress(done, total),
            Err(_) if answer.is_empty() => {
                return Err(AppError::Io("the server closed the operator socket without an answer".to_owned()));
            }
            Err(e) => return Err(AppError::Io(format!("the server's answer is not understood: {e}"))),
        }
    }
}

pub(super) async fn operate(
    services: &Services,
    request: OperatorRequest,
    os_user_id: u32,
    progress: Arc<Progress>,
) -> Result<OperatorResponse, Told> {
    let agent = format!("hsm-bridge/{}", env!("CARGO_PKG_VERSION"));
    let answer = operator::operate(services, request, os_user_id, Some(agent), progress).await?;
    if let OperatorResponse::Restored { .. } = answer {
        // The backup may not know a key that was used since, nor the store that it replaced.
        settle::raise_budgets(&services.ops, services.audit_dir.clone()).await.map_err(|error| Told {
            code: "NotCounted".to_owned(),
            message: format!(
                "the backup is restored, but its keys' encryptions could not be counted in the audit log ({error}): give the \
                 command again"
            ),
        })?;
    }
    Ok(answer)
}

/// Makes the socket anew: the store's lock says that no other server owns an old one.
pub(super) fn listen(state_dir: &Path) -> Result<UnixListener, AppError> {
    let path = socket_path(state_dir);
    let told = |e: std::io::Error| AppError::Io(format!("the operator socket `{}`: {e}", path.display()));
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(told(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(told)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(told)?;
    Ok(listener)
}

pub(super) async fn serve(listener: UnixListener, services: Arc<Services>) {
    let own = rustix::process::geteuid().as_raw();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let services = services.clone();
                tokio::spawn(async move {
                    if let Err(error) = one(stream, &services, own).await {
                        tracing::warn!(%error, "an operator's command was not answered");
                    }
                });
            }
            Err(error) => {
                tracing::error!(%error, "the operator socket does not accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn one(mut stream: UnixStream, services: &Services, own: u32) -> std::io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != own && peer != 0 {
        tracing::warn!(peer, "refused on the operator socket");
        return Ok(());
    }
    let (read, mut write) = stream.split();
    let mut text = String::new();
    let mut reader = tokio::io::BufReader::new(read.take(LINE_LIMIT));
    tokio::time::timeout(Duration::from_secs(10), reader.read_line(&mut text)).await??;
    let line = match serde_json::from_str::<OperatorRequest>(&text) {
        Ok(request) => match operate_aloud(services, request, peer, &mut write).await {
            Ok(response) => Line::Ok(response),
            Err(told) => Line::Error(told),
        },
        Err(error) => Line::Error(Told { code: "SerializationException".to_owned(), message: error.to_string() }),
    };
    send(&mut write, &line).await?;
    write.shutdown().await
}

/// Does the command and says meanwhile how far it is. What began is finished, whether or not anybody listens still.
async fn operate_aloud(
    services: &Services,
    request: OperatorRequest,
    peer: u32,
    write: &mut WriteHalf<'_>,
) -> Result<OperatorResponse, Told> {
    let progress = Arc::new(Progress::default());
    let mut work = std::pin::pin!(operate(services, request, peer, progress.clone()));
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    let (mut last, mut silent, mut heard) = ((0, 0), 0, true);
    loop {
        tokio::select! {
            answer = &mut work => return answer,
            _ = ticks.tick() => {
                let now = (progress.done.load(Relaxed), progress.total.load(Relaxed));
                silent += 1;
                if heard && (now != last || silent >= SIGN_OF_LIFE) {
                    (last, silent) = (now, 0);
                    heard = send(write, &Line::Progress { done: now.0, total: now.1 }).await.is_ok();
                }
            }
        }
    }
}

async fn send(write: &mut WriteHalf<'_>, line: &Line) -> std::io::Result<()> {
    let mut bytes = Zeroizing::new(serde_json::to_vec(line).map_err(std::io::Error::other)?);
    bytes.push(b'\n');
    write.write_all(&bytes).await
}
