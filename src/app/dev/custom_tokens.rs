//! More SoftHSM tokens for `dev --custom-tokens N`: one password for all, one identity certificate in each.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{io, random_pin, read, replace, softhsm};
use crate::app::AppError;
use crate::ids::ClusterId;
use crate::secret::SecretString;

pub const MOST: usize = 16;
/// What is there, a line per token: label, cluster id, label of its identity certificate or `-`.
const LIST: &str = "custom-tokens";
const PIN: &str = "custom-pin";
const SO_PIN: &str = "custom-so-pin";
const TRUST_ANCHOR: &str = "trust-anchor.pem";
const TRUST_ANCHOR_DER: &str = "trust-anchor.der";
const IDENTITY: &str = "identity";

pub struct CustomTokens(Vec<CustomToken>);

struct CustomToken {
    label: String,
    cluster: ClusterId,
    /// `CKA_LABEL` of the certificate; `None` where there was no tool to write it.
    identity: Option<String>,
}

impl CustomTokens {
    /// The tokens of the directory, and new ones until there are `wanted`.
    pub fn prepare(dir: &Path, module: &Path, wanted: usize) -> Result<CustomTokens, AppError> {
        if wanted > MOST {
            return Err(AppError::Refused(format!("{wanted} custom tokens are too many: {MOST} at most")));
        }
        let mut tokens = CustomTokens::listed(dir)?;
        while tokens.0.len() < wanted {
            // No label is the beginning of another: `pkcs11-tool --token-label` takes the first token that begins with it, and a
            // PIN tried on the wrong token costs that one a try.
            let label = format!("hsm-bridge-custom-{:02}", tokens.0.len() + 1);
            let token = make(dir, module, label)?;
            tokens.0.push(token);
            replace(&dir.join(LIST), tokens.list().as_bytes())?;
        }
        Ok(tokens)
    }

    /// `[[custom_token]]` of each.
    pub fn sections(&self) -> String {
        let mut text = String::new();
        for (place, token) in self.0.iter().enumerate() {
            let _ = write!(
                text,
                "\n[[custom_token]]\nname = \"custom-{}\"\nlabel = \"{}\"\ncluster_id = \"{}\"\n",
                place + 1,
                token.label,
                token.cluster
            );
            if let Some(identity) = &token.identity {
                let _ = writeln!(text, "identity_certificate = \"{identity}\"");
            }
        }
        text
    }

    pub fn exports(&self, dir: &Path) -> Vec<(&'static str, String)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let clusters: Vec<&str> = self.0.iter().map(|token| token.cluster.as_str()).collect();
        vec![
            ("HSM_BRIDGE_CLUSTER_IDS", clusters.join(",")),
            ("HSM_BRIDGE_TRUST_ANCHOR", dir.join(TRUST_ANCHOR).display().to_string()),
            ("HSM_BRIDGE_CUSTOM_PIN_FILE", dir.join(PIN).display().to_string()),
        ]
    }

    fn listed(dir: &Path) -> Result<CustomTokens, AppError> {
        let path = dir.join(LIST);
        if !path.exists() {
            return Ok(CustomTokens(Vec::new()));
        }
        let damaged = || AppError::Refused(format!("`{}` is damaged", path.display()));
        let token = |line: &str| {
            let mut words = line.split(' ');
            let (label, cluster, identity) = (words.next()?, words.next()?, words.next()?);
            let identity = (identity != "-").then(|| identity.to_owned());
            Some(CustomToken { label: label.to_owned(), cluster: cluster.parse().ok()?, identity })
        };
        let tokens: Option<Vec<CustomToken>> = read(&path)?.lines().map(token).collect();
        tokens.map(CustomTokens).ok_or_else(damaged)
    }

    fn list(&self) -> String {
        let mut text = String::new();
        for token in &self.0 {
            let _ = writeln!(text, "{} {} {}", token.label, token.cluster, token.identity.as_deref().unwrap_or("-"));
        }
        text
    }
}

/// `cluster-` and 11 characters of base 32.
pub fn random_cluster_id() -> Result<ClusterId, AppError> {
    const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = [0u8; 11];
    getrandom::fill(&mut random).map_err(|e| AppError::Io(format!("no randomness: {e}")))?;
    let text: String =
        random.iter().filter_map(|byte| BASE32.get(usize::from(byte % 32))).map(|c| char::from(*c)).collect();
    format!("cluster-{text}").parse().map_err(|e| AppError::Io(format!("a cluster id: {e}")))
}

fn make(dir: &Path, module: &Path, label: String) -> Result<CustomToken, AppError> {
    let pin = kept_pin(dir, PIN)?;
    let so_pin = kept_pin(dir, SO_PIN)?;
    if !dir.join(TRUST_ANCHOR_DER).exists() {
        make_trust_anchor(dir)?;
    }
    // Left by a start that was interrupted before the token was in the list: two of one label could not be told apart.
    let _ = softhsm(dir, &["--delete-token", "--token", &label]);
    softhsm(dir, &["--init-token", "--free", "--label", &label, "--pin", pin.expose(), "--so-pin", so_pin.expose()])?;
    let identity = write_certificate(dir, module, &label, &pin)?.then(|| IDENTITY.to_owned());
    Ok(CustomToken { label, cluster: random_cluster_id()?, identity })
}

fn kept_pin(dir: &Path, name: &str) -> Result<SecretString, AppError> {
    let path = dir.join(name);
    if path.exists() {
        return Ok(SecretString::new(read(&path)?.trim().to_owned()));
    }
    let pin = random_pin()?;
    // Without a line end: what is in the file is the KeyStorePassword.
    replace(&path, pin.expose().as_bytes())?;
    Ok(pin)
}

/// One certificate for all tokens; nobody needs its key.
fn make_trust_anchor(dir: &Path) -> Result<(), AppError> {
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, date_time_ymd};
    let made = KeyPair::generate().and_then(|key| {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2049, 12, 31));
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, "hsm-bridge development tokens, key not kept");
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&key)
    });
    let certificate = made.map_err(|e| AppError::Io(format!("making a certificate: {e}")))?;
    replace(&dir.join(TRUST_ANCHOR), certificate.pem().as_bytes())?;
    replace(&dir.join(TRUST_ANCHOR_DER), certificate.der())
}

/// As a public CKO_CERTIFICATE, by OpenSC's pkcs11-tool; `false` where that is not installed.
fn write_certificate(dir: &Path, module: &Path, label: &str, pin: &SecretString) -> Result<bool, AppError> {
    let output = Command::new("pkcs11-tool")
        .arg("--module")
        .arg(module)
        .args(["--token-label", label, "--login", "--pin", "env:HSM_BRIDGE_DEV_PIN"])
        .args(["--type", "cert", "--label", IDENTITY, "--id", "01", "--write-object"])
        .arg(dir.join(TRUST_ANCHOR_DER))
        .env("SOFTHSM2_CONF", dir.join("softhsm2.conf"))
        .env("HSM_BRIDGE_DEV_PIN", pin.expose())
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io("running pkcs11-tool on", dir, &error)),
    };
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(AppError::Token(format!("pkcs11-tool failed: {}", told.trim())));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let token = |label: &str, identity: Option<&str>| CustomToken {
            label: label.to_owned(),
            cluster: random_cluster_id().unwrap(),
            identity: identity.map(str::to_owned),
        };
        let tokens = CustomTokens(vec![token("a", Some(IDENTITY)), token("b", None)]);
        std::fs::write(dir.path().join(LIST), tokens.list()).unwrap();
        let back = CustomTokens::listed(dir.path()).unwrap();
        assert_eq!((back.list(), back.sections()), (tokens.list(), tokens.sections()));
        assert_eq!(back.sections().matches("identity_certificate").count(), 1);
        std::fs::write(dir.path().join(LIST), "a b\n").unwrap();
        assert!(CustomTokens::listed(dir.path()).is_err());
    }
}
