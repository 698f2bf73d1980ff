//! Sockets: which may be opened, and who is let in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::connection::{self, Alive, Mode, Shared};
use super::server::{ListenerSettings, ServeError};
use super::tls::{self, Certificate};

pub(super) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
}

impl Listener {
    pub async fn bind(
        settings: &ListenerSettings,
        danger_plain_http_beyond_loopback: bool,
    ) -> Result<(Self, Option<Arc<Certificate>>), ServeError> {
        let wanted = settings.address;
        if settings.tls.is_none() && !wanted.ip().to_canonical().is_loopback() && !danger_plain_http_beyond_loopback {
            return Err(ServeError::PlainBeyondLoopback { address: wanted });
        }
        let certificate = settings.tls.clone().map(Certificate::load).transpose()?;
        let acceptor = certificate.clone().map(tls::server_config).transpose()?.map(TlsAcceptor::from);
        let socket = TcpListener::bind(wanted).await.map_err(|source| ServeError::Bind { address: wanted, source })?;
        let address = socket.local_addr().map_err(|source| ServeError::Bind { address: wanted, source })?;
        Ok((Self { socket, address, acceptor }, certificate))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the mode changes. At the limit of connections new ones wait in the system's backlog.
    pub async fn accept(
        self,
        shared: Arc<Shared>,
        places: Arc<Semaphore>,
        mut mode: watch::Receiver<Mode>,
        alive: Alive,
    ) {
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await.ok()?;
                Some((place, self.socket.accept().await))
            };
            let accepted = tokio::select! {
                accepted = next => accepted,
                _ = mode.wait_for(|mode| *mode != Mode::Serving) => return,
            };
            let Some((place, accepted)) = accepted else { return };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or the peer is gone already. Not a reason to stop, nor to spin.
                    tracing::warn!(listener = %self.address, "cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!("cannot set TCP_NODELAY: {error}");
            }
            let (shared, acceptor) = (shared.clone(), self.acceptor.clone());
            let (mode, alive) = (mode.clone(), alive.clone());
            tokio::spawn(async move {
                let _open = shared.metrics.connection_opened();
                let _place = place;
                connection::serve(shared, stream, peer, acceptor, mode, alive).await;
            });
        }
    }
}
