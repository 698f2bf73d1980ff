//! The key set of an OIDC issuer, by OpenID Connect Discovery 1.0 or from a URL that the operator gave.
//!
//! Only https, and http to a loopback address for tests. No redirect is followed, no credential sent, no cookie kept.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use super::Endpoint;
use super::connection::Connection;
use super::environment;

const DISCOVERY: &str = "/.well-known/openid-configuration";

/// `jwks_url`: where the set is; without it, discovery tells. `ca`: the certificates (PEM) that alone are trusted; without it, the
/// system's. `largest`: bytes of an answer. The caller sets the time limit. Errors are for the log.
pub async fn key_set(issuer: &str, jwks_url: Option<&str>, ca: Option<&str>, largest: usize) -> Result<String, String> {
    let roots = Arc::new(match ca {
        Some(pem) => pinned(pem)?,
        None => environment::roots(None).map_err(|e| e.to_string())?,
    });
    let url = match jwks_url {
        Some(url) => url.to_owned(),
        None => discovered(issuer, &roots, largest).await?,
    };
    get(&Location::parse(&url)?, &roots, largest).await
}

/// RULE OpenID Connect Discovery 1.0 §4.3: the document names the issuer that was asked, exactly.
async fn discovered(issuer: &str, roots: &Arc<RootCertStore>, largest: usize) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Document {
        issuer: String,
        jwks_uri: String,
    }
    let asked = Location::parse(&format!("{}{DISCOVERY}", issuer.trim_end_matches('/')))?;
    let text = get(&asked, roots, largest).await?;
    let document: Document = serde_json::from_str(&text).map_err(|e| format!("`{}`: {e}", asked.url))?;
    if document.issuer != issuer {
        return Err(format!("`{}` speaks for issuer `{}`", asked.url, document.issuer));
    }
    let found = Location::parse(&document.jwks_uri)?;
    if asked.endpoint.tls && !found.endpoint.tls {
        return Err(format!("`{}` leads from https to `{}`", asked.url, found.url));
    }
    Ok(document.jwks_uri)
}

/// A URL that may be asked.
pub(super) struct Location {
    pub url: String,
    pub endpoint: Endpoint,
    pub path: String,
}

impl Location {
    pub fn parse(url: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("`{url}` {why}");
        let uri: http::Uri = url.parse().map_err(|_| bad("is no URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(bad("names no host"));
        };
        let endpoint = Endpoint::parse(&format!("{scheme}://{authority}/")).map_err(|e| e.to_string())?;
        if !endpoint.tls && !endpoint.host.parse().is_ok_and(|address: IpAddr| address.is_loopback()) {
            return Err(bad("is not https"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { url: url.to_owned(), endpoint, path })
    }
}

async fn get(from: &Location, roots: &Arc<RootCertStore>, largest: usize) -> Result<String, String> {
    let told = |what: String| format!("`{}`: {what}", from.url);
    let mut connection = Connection::open(&from.endpoint, roots).await.map_err(told)?;
    let (status, body) = connection.get(&from.endpoint.authority, &from.path, largest).await.map_err(told)?;
    if status != 200 {
        let redirect = if (300..400).contains(&status) { "; redirects are not followed" } else { "" };
        return Err(told(format!("HTTP status {status}{redirect}")));
    }
    String::from_utf8(body.into()).map_err(|_| told("the answer is no UTF-8".to_owned()))
}

fn pinned(pem: &str) -> Result<RootCertStore, String> {
    let told = |what: &dyn std::fmt::Display| format!("the issuer's CA file: {what}");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|e| told(&e))?).map_err(|e| told(&e))?;
    }
    if roots.is_empty() { Err(told(&"no certificate is in it")) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const KEYS: &str = r#"{"keys":[]}"#;

    /// Answers by path, on a loopback port; remembers what was asked.
    struct Site {
        authority: String,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Site {
        /// `answer`: path → head and body, `HOST` in them standing for the site's own authority.
        async fn new(tls: Option<TlsAcceptor>, answer: fn(&str) -> (&'static str, String)) -> Site {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let authority = listener.local_addr().unwrap().to_string();
            let asked = Arc::new(Mutex::new(Vec::new()));
            let site = Site { authority: authority.clone(), asked: Arc::clone(&asked) };
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    match &tls {
                        None => serve(stream, &authority, &asked, answer).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &authority, &asked, answer).await,
                            Err(_) => asked.lock().unwrap().push("no TLS".to_owned()),
                        },
                    }
                }
            });
            site
        }

        fn http(&self) -> String {
            format!("http://{}", self.authority)
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().clone()
        }
    }

    async fn serve(
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        authority: &str,
        asked: &Mutex<Vec<String>>,
        answer: fn(&str) -> (&'static str, String),
    ) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            request.push(byte);
        }
        let request = String::from_utf8(request).unwrap();
        assert!(request.contains(&format!("host: {authority}\r\n")), "{request}");
        assert!(!request.to_lowercase().contains("authorization"), "{request}");
        let path = request.split(' ').nth(1).unwrap();
        asked.lock().unwrap().push(path.to_owned());
        let (head, body) = answer(path);
        let (head, body) = (head.replace("HOST", authority), body.replace("HOST", authority));
        let length = body.len();
        let whole = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let _ = stream.write_all(whole.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    fn plain(path: &str) -> (&'static str, String) {
        match path {
            "/a/.well-known/openid-configuration" => {
                ("200 OK", r#"{"issuer":"http://HOST/a","jwks_uri":"http://HOST/keys?v=1","x":1}"#.to_owned())
            }
            "/b/.well-known/openid-configuration" => {
                ("200 OK", r#"{"issuer":"http://HOST/a","jwks_uri":"http://HOST/keys"}"#.to_owned())
            }
            "/far/.well-known/openid-configuration" => {
                ("200 OK", r#"{"issuer":"http://HOST/far","jwks_uri":"http://192.0.2.1/keys"}"#.to_owned())
            }
            "/file/.well-known/openid-configuration" => {
                ("200 OK", r#"{"issuer":"http://HOST/file","jwks_uri":"file:///etc/passwd"}"#.to_owned())
            }
            "/none/.well-known/openid-configuration" => ("200 OK", r#"{"issuer":"http://HOST/none"}"#.to_owned()),
            "/keys" | "/keys?v=1" => ("200 OK", KEYS.to_owned()),
            "/moved" => ("302 Found\r\nlocation: http://HOST/keys", KEYS.to_owned()),
            "/large" => ("200 OK", "x".repeat(1001)),
            "/full" => ("200 OK", "x".repeat(1000)),
            _ => ("404 Not Found", String::new()),
        }
    }

    #[tokio::test]
    async fn discovery_leads_to_the_keys() {
        let site = Site::new(None, plain).await;
        for issuer in ["/a", "/a/"] {
            let found = key_set(&format!("{}{issuer}", site.http()), None, None, 1000).await;
            assert_eq!(found.is_ok(), issuer == "/a", "the issuer is compared exactly: {found:?}");
        }
        assert_eq!(site.asked()[..2], ["/a/.well-known/openid-configuration", "/keys?v=1"]);
        for (path, why) in [
            ("/b", "speaks for issuer"),
            ("/far", "is not https"),
            ("/file", "is no URL"),
            ("/none", "missing field"),
            ("/c", "HTTP status 404"),
        ] {
            let refused = key_set(&format!("{}{path}", site.http()), None, None, 1000).await.unwrap_err();
            assert!(refused.contains(why), "{path}: {refused}");
        }
        assert_eq!(site.asked().iter().filter(|path| path.starts_with("/keys")).count(), 1);
    }

    #[tokio::test]
    async fn a_url_that_was_given_is_asked_alone() {
        let site = Site::new(None, plain).await;
        let at = async |path: &str| key_set("https://x", Some(&format!("{}{path}", site.http())), None, 1000).await;
        assert_eq!(at("/keys").await.as_deref(), Ok(KEYS));
        assert_eq!(at("/full").await.unwrap().len(), 1000);
        assert!(at("/large").await.unwrap_err().contains("limit"));
        assert!(at("/moved").await.unwrap_err().contains("redirects are not followed"));
        assert_eq!(site.asked(), ["/keys", "/full", "/large", "/moved"]);
    }

    #[test]
    fn locations() {
        for good in ["https://x/keys", "https://x", "http://127.0.0.1:1/keys", "http://[::1]/"] {
            assert!(Location::parse(good).is_ok(), "{good}");
        }
        for bad in ["http://x/keys", "http://localhost/", "http://10.0.0.1/", "ftp://x/", "/keys", "", "https://u:p@x/"]
        {
            assert!(Location::parse(bad).is_err(), "{bad}");
        }
    }

    fn certificate() -> (String, TlsAcceptor) {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        (made.pem(), TlsAcceptor::from(Arc::new(config)))
    }

    fn secure(path: &str) -> (&'static str, String) {
        match path {
            "/down/.well-known/openid-configuration" => {
                ("200 OK", r#"{"issuer":"https://HOST/down","jwks_uri":"http://127.0.0.1:1/keys"}"#.to_owned())
            }
            "/.well-known/openid-configuration" => {
                ("200 OK", r#"{"issuer":"https://HOST","jwks_uri":"https://HOST/keys"}"#.to_owned())
            }
            other => plain(other),
        }
    }

    #[tokio::test]
    async fn the_pinned_authority_alone_is_trusted() {
        let (ours, acceptor) = certificate();
        let (another, _) = certificate();
        let site = Site::new(Some(acceptor), secure).await;
        let issuer = format!("https://{}", site.authority);
        assert_eq!(key_set(&issuer, None, Some(&ours), 1000).await.as_deref(), Ok(KEYS));
        let down = key_set(&format!("{issuer}/down"), None, Some(&ours), 1000).await.unwrap_err();
        assert!(down.contains("from https to"), "{down}");
        let before = site.asked().iter().filter(|path| path.starts_with('/')).count();
        for ca in
            [another.as_str(), "", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            assert!(key_set(&issuer, None, Some(ca), 1000).await.is_err(), "{ca}");
        }
        assert_eq!(site.asked().iter().filter(|path| path.starts_with('/')).count(), before, "nothing was asked");
    }
}
