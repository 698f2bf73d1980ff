//! The X.509 certificates of the trail's keys: self-signed, or from the authority that the auditor trusts. Revocation is not
//! checked; the report says so.

use x509_cert::Certificate;
use x509_cert::der::pem::PemLabel;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::BasicConstraints;

use super::signature::{HashOf, PublicKey};

/// Beyond any real chain.
const LONGEST_CHAIN: usize = 8;

/// Certificates that the auditor trusts, or that lead to one of them.
#[derive(Default)]
pub(super) struct Trust(Vec<Certificate>);

impl Trust {
    /// One or more certificates, PEM: roots, and authorities between if need be.
    pub fn parse(pem: &[u8]) -> Result<Trust, String> {
        let all = Certificate::load_pem_chain(pem).map_err(|error| format!("the certificates to trust: {error}"))?;
        if all.is_empty() { Err("no certificate to trust is in the file".into()) } else { Ok(Trust(all)) }
    }
}

/// Says in one line how the key is vouched for. `certificates`: its own, and those of who issued it, DER. `at`: milliseconds
/// since the epoch, when the key came into use.
pub(super) fn check(
    certificates: &[Vec<u8>],
    key: &PublicKey,
    trust: Option<&Trust>,
    at: i64,
) -> Result<String, String> {
    let parsed = certificates.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
    let Some((own, between)) = parsed.split_first() else {
        return if trust.is_some() { Err("it has no certificate".into()) } else { Ok("no certificate".into()) };
    };
    let spki = own.tbs_certificate().subject_public_key_info().to_der().map_err(|e| e.to_string())?;
    if spki != key.spki {
        return Err("the certificate is of another key".into());
    }
    let Some(trust) = trust else {
        let (subject, issuer) = (own.tbs_certificate().subject(), own.tbs_certificate().issuer());
        if issuer != subject {
            return Ok(format!("certificate of `{subject}` by `{issuer}`, whose word was not checked"));
        }
        signed_by(own, key)?;
        return Ok(format!("self-signed certificate of `{subject}`"));
    };
    let root = chain(own, between, trust, at)?;
    Ok(format!("certificate from `{root}`"))
}

/// DER with nothing behind it.
fn parse(der: &[u8]) -> Result<Certificate, String> {
    let parsed = Certificate::from_der(der).map_err(|error| format!("the certificate does not parse: {error}"))?;
    match parsed.to_der() {
        Ok(again) if again == der => Ok(parsed),
        _ => Err("the certificate is not in its only right form".into()),
    }
}

/// PEM (its own first, then those of who issued it), or base64 of one in DER.
pub(super) fn decode(text: &str) -> Result<Vec<Vec<u8>>, String> {
    use base64::Engine;
    if text.contains(Certificate::PEM_LABEL) {
        return Certificate::load_pem_chain(text.as_bytes())
            .and_then(|chain| chain.iter().map(Encode::to_der).collect())
            .map_err(|error| format!("the certificate does not parse: {error}"));
    }
    base64::engine::general_purpose::STANDARD
        .decode(text.trim())
        .map(|der| vec![der])
        .map_err(|_| "the certificate is neither PEM nor base64".into())
}

/// Follows issuers up to a certificate to trust; the subject of that one.
fn chain(leaf: &Certificate, between: &[Certificate], trust: &Trust, at: i64) -> Result<String, String> {
    let mut here = leaf;
    for _ in 0..LONGEST_CHAIN {
        in_time(here, at)?;
        // A certificate that the auditor gave and that is its own issuer, or the leaf itself, is where trust begins.
        if trust.0.iter().any(|given| given == here)
            && here.tbs_certificate().issuer() == here.tbs_certificate().subject()
        {
            return Ok(here.tbs_certificate().subject().to_string());
        }
        let issuer = here.tbs_certificate().issuer();
        let found = trust.0.iter().chain(between).find(|given| {
            given.tbs_certificate().subject() == issuer
                && *given != here
                && is_authority(given)
                && public_key(given).is_ok_and(|key| signed_by(here, &key).is_ok())
        });
        here = found.ok_or_else(|| format!("`{issuer}`, who issued the certificate, is not among those to trust"))?;
    }
    Err("the chain of certificates is too long".into())
}

fn public_key(certificate: &Certificate) -> Result<PublicKey, String> {
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der().map_err(|e| e.to_string())?;
    PublicKey::from_spki(&spki)
}

fn is_authority(certificate: &Certificate) -> bool {
    let constraints = certificate.tbs_certificate().get_extension::<BasicConstraints>();
    matches!(constraints, Ok(Some((_, BasicConstraints { ca: true, .. }))))
}

fn in_time(certificate: &Certificate, at: i64) -> Result<(), String> {
    let validity = certificate.tbs_certificate().validity();
    let seconds = |time: &x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    let at = at.div_euclid(1000);
    // A minute for clocks that differ.
    if at + 60 < seconds(&validity.not_before) || at > seconds(&validity.not_after) {
        let subject = certificate.tbs_certificate().subject();
        return Err(format!("the certificate of `{subject}` was not valid when the key came into use"));
    }
    Ok(())
}

fn signed_by(certificate: &Certificate, issuer: &PublicKey) -> Result<(), String> {
    let hash = match certificate.signature_algorithm().oid.to_string().as_str() {
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => HashOf::Sha256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => HashOf::Sha384,
        "1.2.840.113549.1.1.13" => HashOf::Sha512,
        other => return Err(format!("the certificate is signed by the unknown algorithm {other}")),
    };
    let message = certificate.tbs_certificate().to_der().map_err(|e| e.to_string())?;
    let signature = certificate.signature().as_bytes().unwrap_or_default();
    if issuer.verifies(hash, &message, signature) { Ok(()) } else { Err("the certificate's signature is wrong".into()) }
}
