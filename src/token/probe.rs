//! What the token can do, found out by doing it with throw-away keys (session objects: nothing is left in the token). A list
//! of mechanisms alone does not say whether a round trip works. The number of keys is small: SoftHSM leaks a little with
//! every session object. RSA keys above 2048 bits are believed from the mechanism's key sizes, since making them takes
//! seconds.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismInfo, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use cryptoki_sys as sys;

use super::error::{CallError, Reaction, is_decrypt};
use super::gcm::{CKM_CLOUDHSM_AES_GCM, IvContract};
use super::generate::create;
use super::mechanism::{ALL_CURVES, ALL_HASHES, ALL_ML_DSA};
use super::module::{Module, Selected};
use super::raw::SignCall;
use super::seat::{Seat, SlotNow};
use super::template::Naming;
use super::{Capabilities, ErrorClass, Hash, KeyKind, Profile, Rung, SignMechanism, TokenError, rv};

const NAMING: Naming<'_> = Naming { id: b"hsm-bridge-probe", label: "hsm-bridge-probe", token: false };
const PROBED: &str = "the token's abilities cannot be probed";
const AAD: &[u8] = b"hsm-bridge/probe/1";

struct Probe<'a> {
    module: &'static Module,
    selected: &'a Selected,
    /// Owns the throw-away keys: they go when it closes.
    holder: Session,
    seat: Seat,
    mechanisms: Vec<MechanismType>,
    ladder: Arc<[Rung]>,
    exclusive: Arc<Mutex<()>>,
}

/// What an error says while the token is being probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The token cannot do this.
    Cannot,
    /// Nobody knows: the token cannot do it, or it fails.
    Riddle,
    /// The token fails: it says nothing of what it can do.
    Fails(ErrorClass),
}

/// RULE: a token that fails is not one that cannot: what it says of its abilities holds until it is connected again.
fn verdict(error: &CallError) -> Verdict {
    match (error.rv, error.reaction()) {
        // The Rust side judged what came back.
        (0, _) if matches!(error.function, "C_Encrypt" | "C_Decrypt" | "C_Sign") => Verdict::Cannot,
        (sys::CKR_ARGUMENTS_BAD | sys::CKR_BUFFER_TOO_SMALL | sys::CKR_DATA_INVALID | sys::CKR_DATA_LEN_RANGE, _) => {
            Verdict::Cannot
        }
        (_, Reaction::Report(ErrorClass::Unsupported | ErrorClass::Data)) => Verdict::Cannot,
        (_, Reaction::Ambiguous) => Verdict::Riddle,
        // Throw-away keys fill no token: it has no room now.
        (_, Reaction::Report(ErrorClass::Full)) => Verdict::Fails(ErrorClass::Capacity),
        // The key has just been made.
        (_, Reaction::FindAgain) => Verdict::Fails(ErrorClass::Context),
        _ => Verdict::Fails(error.class()),
    }
}

/// Self-test and capabilities. A token without working AES-GCM is refused.
pub(super) fn probe(
    module: &'static Module,
    selected: &Selected,
    profile: &Profile,
) -> Result<(Capabilities, IvContract), TokenError> {
    let fail = |error: CallError| error.into_error(PROBED);
    let mechanisms = module
        .context
        .get_mechanism_list(selected.slot)
        .map_err(|error| fail(CallError::from_cryptoki("C_GetMechanismList", &error)))?;
    let holder = module
        .context
        .open_rw_session(selected.slot)
        .map_err(|error| fail(CallError::from_cryptoki("C_OpenSession", &error)))?;
    let seat = Seat::new(module, SlotNow::new(selected.slot), IvContract::Caller, Arc::new(AtomicU64::new(0)));
    let mut probe = Probe {
        module,
        selected,
        holder,
        seat,
        mechanisms,
        ladder: profile.ladder(),
        exclusive: module.exclusive(selected.slot),
    };

    let contract = probe.aes_gcm(profile)?;
    let mut listed: Vec<String> = probe.mechanisms.iter().map(|mechanism| mechanism.to_string()).collect();
    if probe.prepends_iv()? {
        listed.push(IvContract::Prepended.mechanism_name().to_owned());
    }
    let mut found = Capabilities {
        aes_gcm: true,
        gcm_iv: contract.name().to_owned(),
        max_sessions: profile.max_sessions.or(selected.limits.max_rw_sessions),
        mechanisms: listed,
        ..Capabilities::default()
    };
    let mut kinds = vec![KeyKind::Aes256];
    for hash in ALL_HASHES {
        if probe.can("HMAC", |probe| probe.hmac(hash))? {
            found.hmac.push(hash);
            kinds.push(KeyKind::Hmac(hash));
        }
    }
    for curve in ALL_CURVES {
        let kind = KeyKind::Ec(curve);
        if probe.can(kind.name(), |probe| probe.pair_signs(kind, SignMechanism::Ecdsa, curve.hash().length()))? {
            found.ecdsa.push(curve);
            kinds.push(kind);
        }
    }
    if probe.can("Ed25519", |probe| probe.pair_signs(KeyKind::Ed25519, SignMechanism::Ed25519, 32))? {
        found.ed25519 = true;
        kinds.push(KeyKind::Ed25519);
    }
    // PKCS#11 3.2: an older library may do anything with a number that it does not know.
    if probe.mechanisms.contains(&MechanismType::ML_DSA) {
        for set in ALL_ML_DSA {
            if probe.can("ML-DSA", |probe| probe.pair_signs(KeyKind::MlDsa(set), SignMechanism::MlDsa, 32))? {
                found.ml_dsa.push(set);
                kinds.push(KeyKind::MlDsa(set));
            }
        }
    }
    probe.rsa(&mut found, &mut kinds)?;
    found.key_kinds = kinds.into_iter().map(|kind| kind.name().to_owned()).collect();
    Ok((found, contract))
}

impl Probe<'_> {
    fn aes_gcm(&mut self, profile: &Profile) -> Result<IvContract, TokenError> {
        let refused = |detail: String| TokenError::own(ErrorClass::Unsupported, "C_EncryptInit", detail);
        let standard = self.mechanisms.contains(&MechanismType::AES_GCM);
        let prepending = self.prepends_iv()?;
        let usable = |contract: &IvContract| match contract {
            IvContract::Caller | IvContract::ZeroedWriteback | IvContract::LunaAppend16 => standard,
            IvContract::Prepended => prepending,
        };
        let named = match profile.gcm_iv.as_deref() {
            None => None,
            Some(name) => {
                let known = IvContract::ALL.into_iter().find(|contract| contract.name() == name);
                Some(known.ok_or_else(|| refused(format!("the profile's `gcm_iv = \"{name}\"` is not known")))?)
            }
        };
        // What is named alone; else the first that works. The order matters: a token that takes its caller's IV may take none
        // for one of no bytes.
        let all = named.map_or(IvContract::ALL.to_vec(), |named| vec![named]);
        let candidates: Vec<IvContract> = all.into_iter().filter(usable).collect();
        if candidates.is_empty() {
            let mechanism = named.unwrap_or(IvContract::Caller).mechanism_name();
            return Err(refused(format!(
                "the token does not list {mechanism}: symmetric keys need AES-GCM, so it cannot be used"
            )));
        }
        let (key, _) = self.create(KeyKind::Aes256).map_err(|error| {
            let class = match verdict(&error) {
                Verdict::Fails(class) => class,
                Verdict::Cannot | Verdict::Riddle => error.class(),
            };
            error.with_class(class, "the token makes no AES-256 key for its self-test")
        })?;
        let which = named
            .map_or("a known IV contract".to_owned(), |named| format!("the profile's `gcm_iv = \"{}\"`", named.name()));
        let mut told = Vec::new();
        let mut riddle = None;
        for contract in candidates {
            self.seat.iv = contract;
            let Err(error) = self.twice(|probe| probe.gcm_works(key)) else { return Ok(contract) };
            told.push(format!("{}: {} answered {}", contract.name(), error.function, rv::said(error.rv)));
            match verdict(&error) {
                Verdict::Cannot => {}
                // What was sealed just now does not open: the same as a text that is wrong.
                Verdict::Riddle if is_decrypt(error.function) => {}
                Verdict::Riddle => riddle = Some(error),
                Verdict::Fails(class) => return Err(error.with_class(class, "the self-test of AES-GCM failed")),
            }
        }
        let told = told.join(", ");
        Err(match riddle {
            // RULE: what may be the token's failure is tried again, and is no verdict on the token.
            Some(error) => error.into_error(format!("the self-test of AES-GCM failed with {which} ({told})")),
            None => refused(format!("AES-GCM does not work on this token with {which} ({told})")),
        })
    }

    /// Whether the token lists CloudHSM's mechanism. Asked by number: lists come without what the library has no name for.
    fn prepends_iv(&self) -> Result<bool, TokenError> {
        let Ok(mechanism) = MechanismType::new_vendor_defined(CKM_CLOUDHSM_AES_GCM) else { return Ok(false) };
        self.mechanism(mechanism).map(|info| info.is_some())
    }

    /// `None`: the token does not have it.
    fn mechanism(&self, mechanism: MechanismType) -> Result<Option<MechanismInfo>, TokenError> {
        self.module.context.get_mechanism_info(self.selected.slot, mechanism).map(Some).or_else(|error| {
            let error = CallError::from_cryptoki("C_GetMechanismInfo", &error);
            match verdict(&error) {
                // RULE PKCS#11 v2.40 §5.5 C_GetMechanismInfo: CKR_MECHANISM_INVALID; libraries have other words for it.
                Verdict::Cannot | Verdict::Riddle => Ok(None),
                Verdict::Fails(class) => Err(error.with_class(class, PROBED)),
            }
        })
    }

    /// Whether the token can do something. What it cannot is no error.
    fn can(
        &mut self,
        what: &str,
        mut attempt: impl FnMut(&mut Self) -> Result<bool, CallError>,
    ) -> Result<bool, TokenError> {
        self.twice(&mut attempt).or_else(|error| match verdict(&error) {
            Verdict::Cannot => Ok(false),
            Verdict::Riddle => {
                tracing::info!(what, function = error.function, rv = %rv::said(error.rv), "the token cannot do this");
                Ok(false)
            }
            Verdict::Fails(class) => Err(error.with_class(class, PROBED)),
        })
    }

    /// Once more on another session, where the first answer says nothing.
    fn twice<T>(&mut self, mut attempt: impl FnMut(&mut Self) -> Result<T, CallError>) -> Result<T, CallError> {
        match attempt(self) {
            Err(error) if verdict(&error) == Verdict::Riddle => {
                let CallError { function, rv } = error;
                tracing::info!(function, rv = %rv::said(rv), "a call of the probe failed and is made once more");
                self.seat.renew();
                attempt(self)
            }
            answer => answer,
        }
    }

    /// A throw-away key: the secret key, or both halves.
    fn create(&self, kind: KeyKind) -> Result<(ObjectHandle, Option<ObjectHandle>), CallError> {
        let _alone = self.exclusive.lock().unwrap_or_else(PoisonError::into_inner);
        create(&self.holder, kind, NAMING, &self.ladder)
    }

    /// A round trip, and a broken tag that does not open.
    fn gcm_works(&mut self, key: ObjectHandle) -> Result<(), CallError> {
        let wrong = CallError { function: "C_Decrypt", rv: 0 };
        let plaintext = self.seat.random(32)?;
        let mut sealed = self.seat.encrypt(key, AAD, plaintext.expose())?;
        let opened = self.seat.decrypt(key, &sealed.iv, AAD, &sealed.ciphertext)?;
        if opened.as_ref() != Some(&plaintext) {
            return Err(wrong);
        }
        if let Some(byte) = sealed.ciphertext.last_mut() {
            *byte ^= 1;
        }
        match self.seat.decrypt(key, &sealed.iv, AAD, &sealed.ciphertext) {
            Err(error) if matches!(verdict(&error), Verdict::Fails(_)) => Err(error),
            Err(_) => Ok(()),
            Ok(_) => Err(wrong),
        }
    }

    fn hmac(&mut self, hash: Hash) -> Result<bool, CallError> {
        let (key, _) = self.create(KeyKind::Hmac(hash))?;
        let how = SignCall::Plain(hash.hmac_mechanism().0);
        self.seat.sign(key, how, AAD).map(|mac| mac.len() == hash.length())
    }

    fn pair_signs(&mut self, kind: KeyKind, mechanism: SignMechanism, input: usize) -> Result<bool, CallError> {
        let (private, public) = self.create(kind)?;
        Ok(public.is_some() && self.seat.sign_input(private, mechanism, &vec![1; input])?.is_some())
    }

    fn rsa(&mut self, found: &mut Capabilities, kinds: &mut Vec<KeyKind>) -> Result<(), TokenError> {
        let Some(sizes) = self.mechanism(MechanismType::RSA_PKCS_KEY_PAIR_GEN)? else { return Ok(()) };
        let mut private = None;
        self.can("RSA", |probe| {
            let (key, public) = probe.create(KeyKind::Rsa(2048))?;
            private = public.map(|_| key);
            Ok(true)
        })?;
        let Some(private) = private else { return Ok(()) };
        let mut signs = |what, mechanism, hash: Hash| {
            self.can(what, |probe| Ok(probe.seat.sign_input(private, mechanism, &vec![1; hash.length()])?.is_some()))
        };
        found.rsa_pkcs1v15 = signs("RSA PKCS#1 v1.5", SignMechanism::RsaPkcs1v15(Hash::Sha256), Hash::Sha256)?;
        for hash in ALL_HASHES {
            if signs("RSA-PSS", SignMechanism::RsaPss(hash), hash)? {
                found.rsa_pss.push(hash);
            }
        }
        if found.rsa_pkcs1v15 || !found.rsa_pss.is_empty() {
            // The sizes are in bits; a token that gives bytes would fit none and lose RSA above 2048.
            let fits = |bits: u32| (sizes.min_key_size()..=sizes.max_key_size()).contains(&(bits as usize));
            kinds.extend([2048, 3072, 4096].into_iter().filter(|bits| fits(*bits)).map(KeyKind::Rsa));
        }
        if self.mechanisms.contains(&MechanismType::RSA_PKCS_OAEP) {
            found.oaep_hashes = self.oaep()?;
        }
        Ok(())
    }

    /// SHA-1 is not asked for: no KMS algorithm beside `RSAES_OAEP_SHA_1` needs it.
    fn oaep(&mut self) -> Result<Vec<Hash>, TokenError> {
        let purpose = [Attribute::Token(false), Attribute::Private(true), Attribute::Decrypt(true)];
        let public = [
            Attribute::Token(false),
            Attribute::Encrypt(true),
            Attribute::ModulusBits(2048.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
        ];
        let mut pair = None;
        self.can("RSA for OAEP", |probe| {
            let made = probe.holder.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &purpose);
            pair = Some(made.map_err(|error| CallError::from_cryptoki("C_GenerateKeyPair", &error))?);
            Ok(true)
        })?;
        let Some((public, private)) = pair else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for hash in ALL_HASHES {
            let (name, mgf) = match hash {
                // SHA-224 stands in no KMS algorithm.
                Hash::Sha224 => continue,
                Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
                Hash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
                Hash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
            };
            let mechanism = Mechanism::RsaPkcsOaep(PkcsOaepParams::new(name, mgf, PkcsOaepSource::empty()));
            let round_trip = |probe: &mut Self| {
                let failed = |function| move |error| CallError::from_cryptoki(function, &error);
                // A session of its own: a call that fails half-way spoils it.
                let session = probe.module.context.open_rw_session(probe.selected.slot);
                let session = session.map_err(failed("C_OpenSession"))?;
                let sealed = session.encrypt(&mechanism, public, AAD).map_err(failed("C_Encrypt"))?;
                let opened = session.decrypt(&mechanism, private, &sealed).map_err(failed("C_Decrypt"))?;
                Ok(opened == AAD)
            };
            if self.can("RSA-OAEP", round_trip)? {
                found.push(hash);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_fails_is_not_one_that_cannot() {
        let rows: &[(u64, &str, Verdict)] = &[
            (sys::CKR_MECHANISM_INVALID, "C_EncryptInit", Verdict::Cannot),
            (sys::CKR_MECHANISM_PARAM_INVALID, "C_EncryptInit", Verdict::Cannot),
            (sys::CKR_ARGUMENTS_BAD, "C_EncryptInit", Verdict::Cannot),
            (sys::CKR_DATA_LEN_RANGE, "C_Sign", Verdict::Cannot),
            (sys::CKR_ENCRYPTED_DATA_INVALID, "C_Decrypt", Verdict::Cannot),
            (sys::CKR_TEMPLATE_INCONSISTENT, "C_GenerateKeyPair", Verdict::Cannot),
            (0, "C_Encrypt", Verdict::Cannot),
            (sys::CKR_GENERAL_ERROR, "C_EncryptInit", Verdict::Riddle),
            (sys::CKR_VENDOR_DEFINED + 7, "C_Sign", Verdict::Riddle),
            (sys::CKR_DEVICE_ERROR, "C_EncryptInit", Verdict::Fails(ErrorClass::Context)),
            (sys::CKR_DEVICE_ERROR, "C_Decrypt", Verdict::Fails(ErrorClass::Context)),
            (sys::CKR_USER_NOT_LOGGED_IN, "C_EncryptInit", Verdict::Fails(ErrorClass::Context)),
            (sys::CKR_KEY_HANDLE_INVALID, "C_EncryptInit", Verdict::Fails(ErrorClass::Context)),
            (sys::CKR_SESSION_COUNT, "C_OpenSession", Verdict::Fails(ErrorClass::Capacity)),
            (sys::CKR_DEVICE_MEMORY, "C_GenerateKey", Verdict::Fails(ErrorClass::Capacity)),
            (sys::CKR_SESSION_HANDLE_INVALID, "C_Sign", Verdict::Fails(ErrorClass::Session)),
        ];
        for (rv, function, expected) in rows {
            assert_eq!(verdict(&CallError { function, rv: *rv }), *expected, "{rv:#x} {function}");
        }
    }
}
