//! X.509 certificates and certificate requests for the audit keys. The token signs: what is to be signed is built here and
//! put together with the signature that comes back.

use std::str::FromStr;

use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{self, Builder, CertificateBuilder, RequestBuilder};
use x509_cert::certificate::{Certificate, TbsCertificate};
use x509_cert::der::asn1::{Any, BitString, Ia5String};
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{DateTime, Decode, Document, Encode, EncodePem};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{
    self, AlgorithmIdentifierOwned, DynSignatureAlgorithmIdentifier, EncodePublicKey, ObjectIdentifier,
    SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef,
};
use x509_cert::time::{Time, Validity};

use crate::audit::KeyUse;

const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
/// RULE X.520: the upper bound of commonName.
const COMMON_NAME_MAX: usize = 64;
/// Clocks of those who verify may be a little behind.
const EARLIER_MS: i64 = 5 * 60 * 1000;
const YEARS: i64 = 10;
const YEAR_MS: i64 = 365 * 24 * 3_600_000 + 6 * 3_600_000;

/// Whose certificate it is.
pub(super) struct Holder<'a> {
    pub key_use: KeyUse,
    pub generation: u32,
    pub spki: &'a [u8],
    pub trail_arn: &'a str,
}

/// A certificate that waits for the signature of its own key.
pub(super) struct Unsigned {
    builder: CertificateBuilder<SelfSigned>,
    key: Signer,
    /// What is signed.
    pub message: Vec<u8>,
}

/// A request that waits for its signature.
pub(super) struct UnsignedRequest {
    builder: RequestBuilder,
    key: Signer,
    pub message: Vec<u8>,
}

/// RULE RFC 5280: no authority (CA:FALSE), digitalSignature and nonRepudiation, for ten years from `now` (milliseconds since
/// the epoch). `serial`: random bytes.
pub(super) fn self_signed(holder: &Holder<'_>, now: i64, serial: [u8; 16]) -> Result<Unsigned, String> {
    build(holder, now, serial).map_err(|error| format!("the certificate cannot be built: {error}"))
}

fn build(holder: &Holder<'_>, now: i64, serial: [u8; 16]) -> Result<Unsigned, builder::Error> {
    let profile = SelfSigned { subject: subject(holder)?, trail_arn: holder.trail_arn.to_owned() };
    // RULE RFC 5280 §4.1.2.2: positive and at most 20 bytes; not zero in front, so that the DER is plain.
    let mut serial = serial;
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    let validity = Validity::new(time(now - EARLIER_MS)?, time(now + YEARS * YEAR_MS)?);
    let spki = SubjectPublicKeyInfoOwned::from_der(holder.spki)?;
    let mut builder = CertificateBuilder::new(profile, SerialNumber::new(&serial)?, validity, spki)?;
    let key = Signer::of(holder);
    let message = builder.finalize(&key)?;
    Ok(Unsigned { builder, key, message })
}

impl Unsigned {
    /// DER.
    pub(super) fn signed(self, signature: &[u8]) -> Result<Vec<u8>, String> {
        let assembled = BitString::from_bytes(signature)
            .map_err(builder::Error::from)
            .and_then(|signature| self.builder.assemble(signature, &self.key))
            .and_then(|certificate| Ok(certificate.to_der()?));
        assembled.map_err(|error| format!("the certificate cannot be put together: {error}"))
    }
}

/// PKCS#10 for the customer's own authority.
pub(super) fn request(holder: &Holder<'_>) -> Result<UnsignedRequest, String> {
    let build = || -> Result<UnsignedRequest, builder::Error> {
        let mut builder = RequestBuilder::new(subject(holder)?)?;
        builder.add_extension(&usage())?;
        builder.add_extension(&alternative_name(holder.trail_arn)?)?;
        let key = Signer::of(holder);
        let message = builder.finalize(&key)?;
        Ok(UnsignedRequest { builder, key, message })
    };
    build().map_err(|error| format!("the certificate request cannot be built: {error}"))
}

impl UnsignedRequest {
    /// PEM.
    pub(super) fn signed(self, signature: &[u8]) -> Result<String, String> {
        let assembled = BitString::from_bytes(signature)
            .map_err(builder::Error::from)
            .and_then(|signature| self.builder.assemble(signature, &self.key))
            .and_then(|request| Ok(request.to_pem(LineEnding::LF)?));
        assembled.map_err(|error| format!("the certificate request cannot be put together: {error}"))
    }
}

/// A certificate and those of the authorities above it, checked as far as names and the key tell. DER, the key's own first.
pub(super) fn chain(pem: &str, spki: &[u8], now: i64) -> Result<Vec<Vec<u8>>, String> {
    let chain =
        Certificate::load_pem_chain(pem.as_bytes()).map_err(|error| format!("no certificate in PEM: {error}"))?;
    let own = chain.first().ok_or("no certificate in PEM")?;
    let encoded = |error| format!("a certificate cannot be encoded: {error}");
    if own.tbs_certificate().subject_public_key_info().to_der().map_err(encoded)? != spki {
        return Err("the first certificate is for another public key".to_owned());
    }
    let now = time(now).map_err(|error| error.to_string())?.to_unix_duration();
    let validity = own.tbs_certificate().validity();
    if now < validity.not_before.to_unix_duration() || now > validity.not_after.to_unix_duration() {
        return Err("the certificate is not valid now".to_owned());
    }
    for (below, above) in chain.iter().zip(chain.iter().skip(1)) {
        if below.tbs_certificate().issuer() != above.tbs_certificate().subject() {
            return Err(format!(
                "the certificates are no chain: `{}` was issued by `{}`, and the next one is `{}`",
                below.tbs_certificate().subject(),
                below.tbs_certificate().issuer(),
                above.tbs_certificate().subject()
            ));
        }
    }
    chain.iter().map(|certificate| certificate.to_der().map_err(encoded)).collect()
}

/// Subject, issuer and end of validity, as a person reads them.
pub(super) fn shown(certificate: &[u8]) -> Option<(String, String, i64)> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let facts = certificate.tbs_certificate();
    let until = i64::try_from(facts.validity().not_after.to_unix_duration().as_millis()).ok()?;
    Some((facts.subject().to_string(), facts.issuer().to_string(), until))
}

/// PEM of one certificate.
pub(super) fn pem(certificate: &[u8]) -> String {
    Document::try_from(certificate)
        .and_then(|document| document.to_pem("CERTIFICATE", LineEnding::LF))
        .unwrap_or_default()
}

fn subject(holder: &Holder<'_>) -> Result<Name, builder::Error> {
    // The whole ARN stands in the alternative name.
    let name: String = holder.trail_arn.chars().take(COMMON_NAME_MAX).collect();
    Ok(Name::from_str(&format!("CN={name},OU=audit {} key {}", holder.key_use.as_str(), holder.generation))?)
}

fn time(ms: i64) -> Result<Time, builder::Error> {
    let since = std::time::Duration::from_secs(u64::try_from(ms / 1000).unwrap_or(0));
    Ok(Time::from(x509_cert::der::asn1::GeneralizedTime::from_date_time(DateTime::from_unix_duration(since)?)))
}

fn usage() -> KeyUsage {
    KeyUsage(KeyUsages::DigitalSignature | KeyUsages::NonRepudiation)
}

fn alternative_name(trail_arn: &str) -> Result<SubjectAltName, builder::Error> {
    Ok(SubjectAltName(vec![GeneralName::UniformResourceIdentifier(Ia5String::new(trail_arn)?)]))
}

struct SelfSigned {
    subject: Name,
    trail_arn: String,
}

impl BuilderProfile for SelfSigned {
    fn get_issuer(&self, subject: &Name) -> Name {
        subject.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        own: SubjectPublicKeyInfoRef<'_>,
        issuer: SubjectPublicKeyInfoRef<'_>,
        certificate: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        let subject = certificate.subject();
        let constraints = BasicConstraints { ca: false, path_len_constraint: None };
        let mut extensions = vec![constraints.to_extension(subject, &[])?];
        extensions.push(usage().to_extension(subject, &extensions)?);
        extensions.push(SubjectKeyIdentifier::try_from(own)?.to_extension(subject, &extensions)?);
        extensions.push(AuthorityKeyIdentifier::try_from(issuer)?.to_extension(subject, &extensions)?);
        extensions.push(alternative_name(&self.trail_arn)?.to_extension(subject, &extensions)?);
        Ok(extensions)
    }
}

/// What the builder wants to know of whoever signs.
#[derive(Clone)]
struct Signer {
    key_use: KeyUse,
    spki: Vec<u8>,
}

impl Signer {
    fn of(holder: &Holder<'_>) -> Signer {
        Signer { key_use: holder.key_use, spki: holder.spki.to_vec() }
    }
}

impl signature::Keypair for Signer {
    type VerifyingKey = Signer;

    fn verifying_key(&self) -> Signer {
        self.clone()
    }
}

impl EncodePublicKey for Signer {
    fn to_public_key_der(&self) -> spki::Result<Document> {
        Ok(Document::try_from(self.spki.as_slice())?)
    }
}

impl DynSignatureAlgorithmIdentifier for Signer {
    fn signature_algorithm_identifier(&self) -> spki::Result<AlgorithmIdentifierOwned> {
        Ok(match self.key_use {
            // RULE RFC 4055 §5: the parameters are NULL. RFC 5758 §3.2: there are none.
            KeyUse::Digest => AlgorithmIdentifierOwned { oid: SHA256_WITH_RSA, parameters: Some(Any::null()) },
            KeyUse::Checkpoint => AlgorithmIdentifierOwned { oid: ECDSA_WITH_SHA256, parameters: None },
        })
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    const ARN: &str = "arn:aws:cloudtrail:eu-central-1:111122223333:trail/a-trail-with-a-name-beyond-the-bound";
    const NOW: i64 = 1_790_000_000_000;

    fn pair() -> (EcdsaKeyPair, Vec<u8>) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let spki = pair.public_key().as_der().unwrap().as_ref().to_vec();
        (pair, spki)
    }

    fn sign(pair: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
        pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    fn certificate(pair: &EcdsaKeyPair, spki: &[u8], now: i64) -> Vec<u8> {
        let holder = Holder { key_use: KeyUse::Checkpoint, generation: 3, spki, trail_arn: ARN };
        let unsigned = self_signed(&holder, now, [0xff; 16]).unwrap();
        let signature = sign(pair, &unsigned.message);
        unsigned.signed(&signature).unwrap()
    }

    #[test]
    fn a_certificate_is_signed_by_its_own_key() {
        let (pair, spki) = pair();
        let made = Certificate::from_der(&certificate(&pair, &spki, NOW)).unwrap();
        let facts = made.tbs_certificate();
        let message = facts.to_der().unwrap();
        assert!(KeyUse::Checkpoint.verifies(&spki, &message, made.signature().raw_bytes()));
        assert_eq!(facts.subject(), facts.issuer());
        // RULE X.520: 64 characters; the whole ARN is an alternative name.
        assert_eq!(facts.subject().to_string(), format!("CN={},OU=audit checkpoint key 3", &ARN[..64]));
        let (_, names) = facts.get_extension::<SubjectAltName>().unwrap().unwrap();
        assert!(matches!(names.0.as_slice(), [GeneralName::UniformResourceIdentifier(uri)] if uri.as_str() == ARN));
        let (critical, basic) = facts.get_extension::<BasicConstraints>().unwrap().unwrap();
        assert!(critical && !basic.ca);
        let (_, usage) = facts.get_extension::<KeyUsage>().unwrap().unwrap();
        assert_eq!(usage.0, KeyUsages::DigitalSignature | KeyUsages::NonRepudiation);
        assert!(facts.serial_number().as_bytes().len() <= 20);
    }

    #[test]
    fn a_request_is_signed_by_its_own_key() {
        let (pair, spki) = pair();
        let holder = Holder { key_use: KeyUse::Checkpoint, generation: 1, spki: &spki, trail_arn: ARN };
        let unsigned = request(&holder).unwrap();
        let signature = sign(&pair, &unsigned.message);
        let message = unsigned.message.clone();
        let pem = unsigned.signed(&signature).unwrap();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"), "{pem}");
        assert!(KeyUse::Checkpoint.verifies(&spki, &message, &signature));
    }

    #[test]
    fn what_is_installed_is_for_this_key_and_valid_now() {
        let (own, spki) = pair();
        let (other, other_spki) = pair();
        let good = pem(&certificate(&own, &spki, NOW));
        assert_eq!(chain(&good, &spki, NOW).unwrap().len(), 1);
        let refused = |text: &str, now: i64| chain(text, &spki, now).unwrap_err();
        assert!(refused(&pem(&certificate(&other, &other_spki, NOW)), NOW).contains("another public key"));
        assert!(refused(&good, NOW - 3_600_000).contains("not valid now"));
        assert!(refused(&good, NOW + 11 * YEAR_MS).contains("not valid now"));
        assert!(refused("", NOW).contains("no certificate"));
        assert!(
            refused("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", NOW).contains("no certificate")
        );
        // A chain of names: the next one has to be the issuer.
        let holder = Holder { key_use: KeyUse::Digest, generation: 9, spki: &other_spki, trail_arn: ARN };
        let unsigned = self_signed(&holder, NOW, [1; 16]).unwrap();
        let signature = sign(&other, &unsigned.message);
        let stranger = pem(&unsigned.signed(&signature).unwrap());
        assert!(refused(&format!("{good}{stranger}"), NOW).contains("no chain"));
    }
}
