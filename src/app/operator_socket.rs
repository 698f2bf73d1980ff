//! The operator's socket: `<state>/operator.sock`, mode 0600 in a directory of mode 0700, the peer's user id checked.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use zeroize::Zeroizing;

use super::AppError;
use crate::http::Services;
use crate::http::operator::{self, Told};
use crate::ops::{OperatorRequest, OperatorResponse};

/// Bytes of one command at most.
const LINE_LIMIT: u64 = 64 * 1024;
/// How long a client of the socket waits: a backup of a large store takes a while.
const PATIENCE: Duration = Duration::from_secs(300);

pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("operator.sock")
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Ok(OperatorResponse),
    Error(Told),
}

/// Whether a running server answered.
pub enum Asked {
    Answered(Result<OperatorResponse, Told>),
    /// No server listens on this directory.
    NobodyThere,
}

/// Sends one command to the running server.
pub fn ask_running(state_dir: &Path, request: &OperatorRequest) -> Result<Asked, AppError> {
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
    let mut answer = Zeroizing::new(String::new());
    BufReader::new(stream).read_line(&mut answer).map_err(told)?;
    match serde_json::from_str(&answer) {
        Ok(Line::Ok(response)) => Ok(Asked::Answered(Ok(response))),
        Ok(Line::Error(error)) => Ok(Asked::Answered(Err(error))),
        Err(_) if answer.is_empty() => {
            Err(AppError::Io("the server closed the operator socket without an answer".to_owned()))
        }
        Err(e) => Err(AppError::Io(format!("the server's answer is not understood: {e}"))),
    }
}

pub(super) async fn operate(
    services: &Services,
    request: OperatorRequest,
    os_user_id: u32,
) -> Result<OperatorResponse, Told> {
    let agent = format!("hsm-bridge/{}", env!("CARGO_PKG_VERSION"));
    operator::operate(services, request, os_user_id, Some(agent)).await
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
        Ok(request) => match operate(services, request, peer).await {
            Ok(response) => Line::Ok(response),
            Err(told) => Line::Error(told),
        },
        Err(error) => Line::Error(Told { code: "SerializationException".to_owned(), message: error.to_string() }),
    };
    let mut answer = Zeroizing::new(serde_json::to_vec(&line).map_err(std::io::Error::other)?);
    answer.push(b'\n');
    write.write_all(&answer).await?;
    write.shutdown().await
}
