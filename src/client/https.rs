//! Connections to where the operator sends the log: HTTPS POST, and TLS or TCP for what is no HTTP. https alone, and http to a
//! loopback address; no redirect is followed, no cookie kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::connection::{self, Connection, UNACKNOWLEDGED};
use super::environment;
use super::https_get::Location;

pub use connection::Stream;

/// Whom to trust, and who we are. Files are read at each connection, so that renewed ones are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The certificates (PEM) that alone are trusted; without it, the system's.
    pub ca: Option<PathBuf>,
    /// Our certificates and their key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Trust {
    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let roots = match &self.ca {
            None => environment::roots(None).map_err(|e| e.to_string())?,
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| told(path, &e))?;
                }
                roots
            }
        };
        let identity = match &self.identity {
            None => None,
            Some((certificate, key)) => {
                let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| told(key, &e))?;
                Some((certificates(certificate)?, key_der))
            }
        };
        connection::tls_config(Arc::new(roots), identity)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).map_err(|e| told(path, &e))?;
    let found: Vec<_> = read.collect::<Result<_, _>>().map_err(|e| told(path, &e))?;
    if found.is_empty() { Err(told(path, &"no certificate is in it")) } else { Ok(found) }
}

fn told(path: &Path, what: &dyn std::fmt::Display) -> String {
    format!("`{}`: {what}", path.display())
}

/// What is written to a stream of `connect` and not refused within this time has reached the other machine.
pub const ARRIVED: std::time::Duration = UNACKNOWLEDGED.saturating_add(std::time::Duration::from_secs(2));

/// A stream to `host:port`; TLS where `trust` is given. Errors are for the log.
pub async fn connect(host: &str, port: u16, trust: Option<&Trust>) -> Result<Box<dyn Stream>, String> {
    let config = trust.map(Trust::config).transpose()?;
    connection::dial(host, port, config.as_ref()).await.map_err(|e| format!("`{host}:{port}`: {e}"))
}

/// Posts to one URL; its connection is kept as long as it holds.
pub struct Poster {
    location: Location,
    trust: Trust,
    connection: Option<Connection>,
}

impl Poster {
    pub fn new(url: &str, trust: Trust) -> Result<Self, String> {
        Ok(Self { location: Location::parse(url)?, trust, connection: None })
    }

    /// Status and body of the answer. After an error the next call connects anew. `headers` without Host.
    pub async fn post(&mut self, headers: &[(String, String)], body: Bytes) -> Result<(u16, Bytes), String> {
        let at = &self.location;
        // What stands in a query may be secret.
        let shown = at.url.split('?').next().unwrap_or_default();
        let told = |what: String| format!("`{shown}`: {what}");
        let mut connection = match self.connection.take().filter(Connection::is_open) {
            Some(connection) => connection,
            None => {
                let config = if at.endpoint.tls { Some(self.trust.config()?) } else { None };
                Connection::open_with(&at.endpoint, config.as_ref()).await.map_err(told)?
            }
        };
        let mut all = vec![("host".to_owned(), at.endpoint.authority.clone())];
        all.extend_from_slice(headers);
        let answer = connection.post(&at.path, &all, body).await.map_err(told)?;
        self.connection = Some(connection);
        Ok(answer)
    }
}
