//! Endpoint, Region and credentials, from where AWS's own tools take them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::ClientError;
use crate::secret::SecretString;

/// Bundles of root certificates, where distributions have them.
const SYSTEM_ROOTS: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `https://host:port/`
    pub url: String,
    /// `host:port` as the Host header has it.
    pub authority: String,
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

/// What a client needs beside its requests.
#[derive(Clone)]
pub struct Environment {
    pub endpoint: Endpoint,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: SecretString,
    pub session_token: Option<SecretString>,
    pub roots: Arc<RootCertStore>,
}

impl Environment {
    /// Flags win over AWS's variables; credentials come from variables, then from the shared credentials file.
    pub fn read(endpoint: Option<&str>, region: Option<&str>) -> Result<Self, ClientError> {
        Self::from(endpoint, region, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// `ca`: a PEM file instead of AWS_CA_BUNDLE.
    pub fn read_trusting(endpoint: &str, ca: Option<&str>) -> Result<Self, ClientError> {
        Self::from(Some(endpoint), None, |name| match (name, ca) {
            ("AWS_CA_BUNDLE", Some(ca)) => Some(ca.to_owned()),
            (name, _) => std::env::var(name).ok().filter(|value| !value.is_empty()),
        })
    }

    fn from(
        endpoint: Option<&str>,
        region: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ClientError> {
        let missing = |what: &str| ClientError::Configuration(what.to_owned());
        let url = endpoint
            .map(str::to_owned)
            .or_else(|| variable("AWS_ENDPOINT_URL_KMS"))
            .or_else(|| variable("AWS_ENDPOINT_URL"))
            .ok_or_else(|| missing("no endpoint: give --endpoint URL or set AWS_ENDPOINT_URL_KMS"))?;
        let region = region
            .map(str::to_owned)
            .or_else(|| variable("AWS_REGION"))
            .or_else(|| variable("AWS_DEFAULT_REGION"))
            .ok_or_else(|| missing("no Region: give --region or set AWS_REGION"))?;
        let endpoint = Endpoint::parse(&url)?;
        let roots = if endpoint.tls { roots(variable("AWS_CA_BUNDLE"))? } else { RootCertStore::empty() };
        let (access_key_id, secret_access_key, session_token) = match variable("AWS_ACCESS_KEY_ID") {
            Some(id) => {
                let secret = variable("AWS_SECRET_ACCESS_KEY")
                    .ok_or_else(|| missing("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not"))?;
                (id, secret, variable("AWS_SESSION_TOKEN"))
            }
            None => shared_credentials(&variable)?,
        };
        Ok(Self {
            endpoint,
            region,
            access_key_id,
            secret_access_key: SecretString::new(secret_access_key),
            session_token: session_token.map(SecretString::new),
            roots: Arc::new(roots),
        })
    }
}

impl Endpoint {
    pub fn parse(url: &str) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Configuration(format!("the endpoint `{url}` {why}"));
        let uri: http::Uri = url.parse().map_err(|_| bad("is no URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad("begins neither with https:// nor with http://")),
        };
        if uri.path().len() > 1 || uri.query().is_some() {
            return Err(bad("has a path: only scheme, host and port are taken"));
        }
        let authority = uri.authority().ok_or_else(|| bad("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("holds credentials: give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let scheme = if tls { "https" } else { "http" };
        Ok(Self { url: format!("{scheme}://{authority}/"), authority: authority.to_string(), host, port, tls })
    }
}

pub(super) fn roots(bundle: Option<String>) -> Result<RootCertStore, ClientError> {
    let candidates: Vec<PathBuf> = match bundle {
        Some(path) => vec![path.into()],
        None => SYSTEM_ROOTS.iter().map(PathBuf::from).filter(|path| path.exists()).collect(),
    };
    let Some(path) = candidates.first() else {
        return Err(ClientError::Configuration(
            "no root certificates are found: name a PEM file in AWS_CA_BUNDLE".to_owned(),
        ));
    };
    let told = |what: String| ClientError::Configuration(format!("root certificates `{}`: {what}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| told(e.to_string()))? {
        // One that is not understood among the system's many does no harm; none at all does.
        let _ = roots.add(certificate.map_err(|e| told(e.to_string()))?);
    }
    if roots.is_empty() {
        return Err(told("no certificate in it can be used".to_owned()));
    }
    Ok(roots)
}

/// `~/.aws/credentials` and its profiles: the keys alone.
fn shared_credentials(
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<(String, String, Option<String>), ClientError> {
    let path = variable("AWS_SHARED_CREDENTIALS_FILE")
        .or_else(|| variable("HOME").map(|home| format!("{home}/.aws/credentials")))
        .unwrap_or_default();
    let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    let missing = || {
        ClientError::Configuration(format!(
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write profile `{profile}` into `{path}`"
        ))
    };
    let text = std::fs::read_to_string(&path).map_err(|_| missing())?;
    let mut members = profile_of(&text, &profile);
    let id = members.remove("aws_access_key_id").ok_or_else(missing)?;
    let secret = members.remove("aws_secret_access_key").ok_or_else(missing)?;
    Ok((id, secret, members.remove("aws_session_token")))
}

fn profile_of(text: &str, profile: &str) -> BTreeMap<String, String> {
    let mut inside = false;
    let mut members = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.trim() == profile;
        } else if inside
            && !line.starts_with(['#', ';'])
            && let Some((name, value)) = line.split_once('=')
        {
            members.insert(name.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn endpoints() {
        let of = |url| Endpoint::parse(url).map(|e| (e.url, e.authority, e.host, e.port, e.tls));
        let told = |u: &str, a: &str, h: &str, p, t| (u.to_owned(), a.to_owned(), h.to_owned(), p, t);
        assert_eq!(
            of("http://127.0.0.1:8080").unwrap(),
            told("http://127.0.0.1:8080/", "127.0.0.1:8080", "127.0.0.1", 8080, false)
        );
        assert_eq!(
            of("https://kms.example/").unwrap(),
            told("https://kms.example/", "kms.example", "kms.example", 443, true)
        );
        assert_eq!(of("https://[::1]:1").unwrap(), told("https://[::1]:1/", "[::1]:1", "::1", 1, true));
        for bad in ["kms.example", "ftp://x", "https://x/path", "https://x/?q", "https://a:b@x", ""] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let says = |variables, endpoint, word: &str| {
            let error = Environment::from(endpoint, None, with(variables)).err().unwrap().to_string();
            assert!(error.contains(word), "{error}");
        };
        says(&[], None, "--endpoint");
        says(&[], Some("http://x"), "--region");
        says(&[("AWS_REGION", "r"), ("AWS_ACCESS_KEY_ID", "AKIA")], Some("http://x"), "AWS_SECRET_ACCESS_KEY");
        says(
            &[("AWS_REGION", "r"), ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")],
            Some("http://x"),
            "no credentials",
        );
        says(&[("AWS_REGION", "r"), ("AWS_CA_BUNDLE", "/nonexistent")], Some("https://x"), "/nonexistent");
    }

    #[test]
    fn the_profile_that_is_named_and_no_other() {
        let text = "[a]\naws_access_key_id=1\n# aws_access_key_id = 9\n[ b ]\nAWS_access_key_id = 2\naws_secret_access_key = x=y\n";
        let b = profile_of(text, "b");
        assert_eq!(b["aws_access_key_id"], "2");
        assert_eq!(b["aws_secret_access_key"], "x=y");
        assert_eq!(profile_of(text, "a").len(), 1);
        assert!(profile_of(text, "c").is_empty());
    }
}
