//! What the token can do, found out by doing it with throw-away keys (session objects: nothing is left in the token). A list
//! of mechanisms alone does not say whether a round trip works. The number of keys is small: SoftHSM leaks a little with
//! every session object. RSA keys above 2048 bits are believed from the mechanism's key sizes, since making them takes
//! seconds.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;

use super::error::CallError;
use super::gcm::{CKM_CLOUDHSM_AES_GCM, IvContract};
use super::generate::create;
use super::mechanism::{ALL_CURVES, ALL_HASHES, ALL_ML_DSA};
use super::module::{Module, Selected};
use super::raw::SignCall;
use super::seat::{Seat, SlotNow};
use super::template::Naming;
use super::{Capabilities, ErrorClass, Hash, KeyKind, Profile, Rung, SignMechanism, TokenError};

const NAMING: Naming<'_> = Naming { id: b"hsm-bridge-probe", label: "hsm-bridge-probe", token: false };
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

/// Self-test and capabilities. A token without working AES-GCM is refused.
pub(super) fn probe(
    module: &'static Module,
    selected: &Selected,
    profile: &Profile,
) -> Result<(Capabilities, IvContract), TokenError> {
    let fail = |error: CallError| error.into_error("the token's abilities cannot be probed");
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
    if probe.prepends_iv() {
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
        if probe.hmac(hash) {
            found.hmac.push(hash);
            kinds.push(KeyKind::Hmac(hash));
        }
    }
    for curve in ALL_CURVES {
        if probe.pair_signs(KeyKind::Ec(curve), SignMechanism::Ecdsa, curve.hash().length()) {
            found.ecdsa.push(curve);
            kinds.push(KeyKind::Ec(curve));
        }
    }
    if probe.pair_signs(KeyKind::Ed25519, SignMechanism::Ed25519, 32) {
        found.ed25519 = true;
        kinds.push(KeyKind::Ed25519);
    }
    // PKCS#11 3.2: an older library may do anything with a number that it does not know.
    if probe.mechanisms.contains(&MechanismType::ML_DSA) {
        for set in ALL_ML_DSA {
            if probe.pair_signs(KeyKind::MlDsa(set), SignMechanism::MlDsa, 32) {
                found.ml_dsa.push(set);
                kinds.push(KeyKind::MlDsa(set));
            }
        }
    }
    probe.rsa(&mut found, &mut kinds);
    found.key_kinds = kinds.into_iter().map(|kind| kind.name().to_owned()).collect();
    Ok((found, contract))
}

impl Probe<'_> {
    fn aes_gcm(&mut self, profile: &Profile) -> Result<IvContract, TokenError> {
        let refused = |detail: String| TokenError::own(ErrorClass::Unsupported, "C_EncryptInit", detail);
        let standard = self.mechanisms.contains(&MechanismType::AES_GCM);
        let prepending = self.prepends_iv();
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
        let (key, _) = self
            .create(KeyKind::Aes256)
            .map_err(|error| error.into_error("the token makes no AES-256 key for its self-test"))?;
        let mut last = None;
        for contract in candidates {
            self.seat.iv = contract;
            match self.gcm_works(key) {
                Ok(()) => return Ok(contract),
                Err(error) => last = Some(error),
            }
        }
        let last = last.map_or_else(String::new, |error| format!(": {} answered {:#x}", error.function, error.rv));
        let which = named
            .map_or("a known IV contract".to_owned(), |named| format!("the profile's `gcm_iv = \"{}\"`", named.name()));
        Err(refused(format!("AES-GCM does not work on this token with {which}{last}")))
    }

    /// Whether the token lists CloudHSM's mechanism. Asked by number: lists come without what the library has no name for.
    fn prepends_iv(&self) -> bool {
        MechanismType::new_vendor_defined(CKM_CLOUDHSM_AES_GCM)
            .is_ok_and(|mechanism| self.module.context.get_mechanism_info(self.selected.slot, mechanism).is_ok())
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
            Err(_) => Ok(()),
            Ok(_) => Err(wrong),
        }
    }

    fn hmac(&mut self, hash: Hash) -> bool {
        let Ok((key, _)) = self.create(KeyKind::Hmac(hash)) else { return false };
        let how = SignCall::Plain(hash.hmac_mechanism().0);
        self.seat.sign(key, how, AAD).is_ok_and(|mac| mac.len() == hash.length())
    }

    fn pair_signs(&mut self, kind: KeyKind, mechanism: SignMechanism, input: usize) -> bool {
        let Ok((private, Some(_))) = self.create(kind) else { return false };
        matches!(self.seat.sign_input(private, mechanism, &vec![1; input]), Ok(Some(_)))
    }

    fn rsa(&mut self, found: &mut Capabilities, kinds: &mut Vec<KeyKind>) {
        let context = &self.module.context;
        let Ok(sizes) = context.get_mechanism_info(self.selected.slot, MechanismType::RSA_PKCS_KEY_PAIR_GEN) else {
            return;
        };
        let Ok((private, Some(_))) = self.create(KeyKind::Rsa(2048)) else { return };
        let mut signs = |mechanism, hash: Hash| {
            matches!(self.seat.sign_input(private, mechanism, &vec![1; hash.length()]), Ok(Some(_)))
        };
        found.rsa_pkcs1v15 = signs(SignMechanism::RsaPkcs1v15(Hash::Sha256), Hash::Sha256);
        found.rsa_pss = ALL_HASHES.into_iter().filter(|hash| signs(SignMechanism::RsaPss(*hash), *hash)).collect();
        if found.rsa_pkcs1v15 || !found.rsa_pss.is_empty() {
            // The sizes are in bits; a token that gives bytes would fit none and lose RSA above 2048.
            let fits = |bits: u32| (sizes.min_key_size()..=sizes.max_key_size()).contains(&(bits as usize));
            kinds.extend([2048, 3072, 4096].into_iter().filter(|bits| fits(*bits)).map(KeyKind::Rsa));
        }
        if self.mechanisms.contains(&MechanismType::RSA_PKCS_OAEP) {
            found.oaep_hashes = self.oaep();
        }
    }

    /// SHA-1 is not asked for: no KMS algorithm beside `RSAES_OAEP_SHA_1` needs it.
    fn oaep(&mut self) -> Vec<Hash> {
        let purpose = [Attribute::Token(false), Attribute::Private(true), Attribute::Decrypt(true)];
        let public = [
            Attribute::Token(false),
            Attribute::Encrypt(true),
            Attribute::ModulusBits(2048.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
        ];
        let Ok((public, private)) = self.holder.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &purpose)
        else {
            return Vec::new();
        };
        let works = |hash: &Hash| {
            let (hash, mgf) = match hash {
                // SHA-224 stands in no KMS algorithm.
                Hash::Sha224 => return false,
                Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
                Hash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
                Hash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
            };
            let mechanism = Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty()));
            // A session of its own: a call that fails half-way spoils it.
            let Ok(session) = self.module.context.open_rw_session(self.selected.slot) else { return false };
            let Ok(sealed) = session.encrypt(&mechanism, public, AAD) else { return false };
            session.decrypt(&mechanism, private, &sealed).is_ok_and(|opened| opened == AAD)
        };
        ALL_HASHES.into_iter().filter(works).collect()
    }
}
