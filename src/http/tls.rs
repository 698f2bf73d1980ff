//! TLS 1.2 and 1.3 by rustls: the one place that chooses the provider, certificates from PEM files that can be swapped
//! while serving, and the certificate of `dev --tls`.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, ServerConfig, ServerConnection};

use super::request::TlsFacts;

/// Where a listener's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the server's certificate, then its issuers.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read certificates from `{}`: {reason}", path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("cannot read a private key from `{}`: {reason}", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("certificate `{}` cannot be used with key `{}`: {reason}", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, reason: String },
    #[error("cannot set TLS up: {0}")]
    Setup(#[from] rustls::Error),
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

/// The cryptography under TLS. Nothing else names a provider.
pub fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    let hybrid_first = vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1];
    Arc::new(CryptoProvider { kx_groups: hybrid_first, ..aws_lc_rs::default_provider() })
}

pub(super) const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// A listener's certificate, which can be read again.
#[derive(Debug)]
pub(super) struct Certificate {
    files: TlsFiles,
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let current = ArcSwap::from_pointee(read(&files)?);
        Ok(Arc::new(Self { files, current }))
    }

    /// Where the new files are bad, the old certificate stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(read(&self.files)?));
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

pub(super) fn server_config(certificate: Arc<Certificate>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
    Ok(Arc::new(config))
}

/// Names as IANA and CloudTrail spell them.
pub(super) fn facts(connection: &ServerConnection) -> Option<TlsFacts> {
    let version = match connection.protocol_version()? {
        ProtocolVersion::TLSv1_3 => "TLSv1.3".to_owned(),
        ProtocolVersion::TLSv1_2 => "TLSv1.2".to_owned(),
        other => format!("{other:?}"),
    };
    let suite = format!("{:?}", connection.negotiated_cipher_suite()?.suite());
    let cipher_suite = match suite.strip_prefix("TLS13_") {
        Some(rest) => format!("TLS_{rest}"),
        None => suite,
    };
    let key_exchange = connection.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
    Some(TlsFacts { version, cipher_suite, key_exchange })
}

/// A certificate for `names` (DNS names or IP addresses) and its key, PEM. The certificate text holds the server's
/// certificate and the one-time authority that issued it, so it also serves as a client's CA bundle; the authority's key is
/// not kept. (One self-signed certificate would not do: with CA:TRUE some verifiers refuse it as a server's, without it
/// others refuse it as an authority.)
pub fn self_signed(names: &[String]) -> Result<(String, String), TlsError> {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        KeyUsagePurpose, date_time_ymd,
    };
    let validity = (date_time_ymd(2024, 1, 1), date_time_ymd(2049, 12, 31));
    let named = |name: &str| {
        let mut distinguished = DistinguishedName::new();
        distinguished.push(DnType::CommonName, name);
        distinguished
    };
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    (authority.not_before, authority.not_after) = validity;
    authority.distinguished_name = named("hsm-bridge development authority, key not kept");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_certificate = authority.self_signed(&authority_key)?;

    let server_key = KeyPair::generate()?;
    let mut server = CertificateParams::new(names.to_vec())?;
    (server.not_before, server.not_after) = validity;
    server.distinguished_name = named("hsm-bridge development server");
    server.is_ca = IsCa::ExplicitNoCa;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let server_certificate = server.signed_by(&server_key, &Issuer::new(authority, authority_key))?;

    Ok((server_certificate.pem() + &authority_certificate.pem(), server_key.serialize_pem()))
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let bad_certificate = |reason: String| TlsError::Certificate { path: files.certificate.clone(), reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| bad_certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(bad_certificate("no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| TlsError::Key { path: files.key.clone(), reason: error.to_string() })?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| TlsError::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(directory: &std::path::Path, certificate: &str, key: &str) -> TlsFiles {
        let files = TlsFiles { certificate: directory.join("cert.pem"), key: directory.join("key.pem") };
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key).unwrap();
        files
    }

    #[test]
    fn a_bad_file_keeps_the_old_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = self_signed(&["localhost".to_owned()]).unwrap();
        let (other_certificate, other_key) = self_signed(&["localhost".to_owned()]).unwrap();
        let files = written(directory.path(), &certificate, &key);
        let loaded = Certificate::load(files).unwrap();
        let first = loaded.current.load_full();
        for (certificate, key, error) in [
            (other_certificate.as_str(), key.as_str(), "cannot be used with key"),
            ("", key.as_str(), "no certificate in it"),
            (certificate.as_str(), "rubbish", "cannot read a private key"),
        ] {
            written(directory.path(), certificate, key);
            let text = loaded.reload().unwrap_err().to_string();
            assert!(text.contains(error), "{text}");
            assert!(Arc::ptr_eq(&first, &loaded.current.load_full()));
        }
        written(directory.path(), &other_certificate, &other_key);
        loaded.reload().unwrap();
        assert_ne!(first.cert, loaded.current.load_full().cert);
    }
}
