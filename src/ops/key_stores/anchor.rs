//! TrustAnchorCertificate: parsed always, compared where the token has an identity certificate to compare it with.

use x509_cert::Certificate;
use x509_cert::der::{Decode, Document};

use crate::keystore::ConfiguredToken;
use crate::ops::OpError;

/// One PEM certificate, in DER. Text before it is allowed, as OpenSSL writes it.
fn parse(pem: &str) -> Result<Vec<u8>, OpError> {
    let wrong = |what: String| OpError::IncorrectTrustAnchor(format!("The trust anchor certificate {what}."));
    let (label, der) = Document::from_pem(pem).map_err(|_| wrong("is not a certificate in PEM format".to_owned()))?;
    if label != "CERTIFICATE" {
        return Err(wrong(format!("is PEM of another kind: {label}")));
    }
    Certificate::from_der(der.as_bytes()).map_err(|_| wrong("is not an X.509 certificate".to_owned()))?;
    Ok(der.as_bytes().to_vec())
}

/// Where the configuration names no identity certificate the trust anchor is kept and proves nothing; `doctor` says so.
pub(super) async fn check(pem: &str, token: &ConfiguredToken) -> Result<(), OpError> {
    let told = parse(pem)?;
    let Some(label) = &token.identity_certificate else { return Ok(()) };
    match token.certificate().await {
        Ok(Some(held)) if held == told => Ok(()),
        Ok(Some(_)) => Err(OpError::IncorrectTrustAnchor(
            "The trust anchor certificate is not the identity certificate of the token.".to_owned(),
        )),
        Ok(None) => Err(OpError::ClusterInvalidConfiguration(format!(
            "The token `{}` has no public certificate `{label}`, which the configuration names as its identity.",
            token.name
        ))),
        Err(error) => Err(super::no_look(&token.name, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem() -> String {
        let made = rcgen::generate_simple_self_signed(vec!["hsm.example".to_owned()]).unwrap();
        made.cert.pem()
    }

    fn refused(text: &str) -> String {
        match parse(text) {
            Err(OpError::IncorrectTrustAnchor(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_certificate_is_parsed() {
        let pem = pem();
        let der = parse(&pem).unwrap();
        assert_eq!(parse(&format!("subject=CN = hsm\n{pem}")).unwrap(), der, "text before it");
        assert_eq!(parse(&pem.replace('\n', "\r\n")).unwrap(), der, "line ends of other systems");
    }

    #[test]
    fn everything_else_is_refused() {
        let pem = pem();
        let key = pem.replace("CERTIFICATE", "PUBLIC KEY");
        let mut cut: Vec<&str> = pem.lines().collect();
        cut.remove(2);
        for (text, what) in [
            ("", "PEM format"),
            ("not a certificate", "PEM format"),
            (&key, "another kind"),
            (&cut.join("\n"), "certificate"),
        ] {
            assert!(refused(text).contains(what), "{text}");
        }
    }
}
