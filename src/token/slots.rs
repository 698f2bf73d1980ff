//! What `doctor` wants to know of a module and a token beyond what the service needs.

use std::path::Path;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectHandle};
use cryptoki::session::Session;
use serde::{Deserialize, Serialize};

use super::error::CallError;
use super::generate::create;
use super::keygen::{Keygen, Task};
use super::module::Module;
use super::process::ask_slots;
use super::template::Naming;
use super::{Isolation, KeyKind, TokenError};

/// A slot with its token, as the module names them to anybody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotFacts {
    pub slot: u64,
    pub label: String,
    pub serial: String,
    pub manufacturer: String,
    pub model: String,
    pub firmware: String,
    pub initialized: bool,
    pub login_required: bool,
    pub pin_initialized: bool,
    pub pin_count_low: bool,
    pub pin_final_try: bool,
    pub pin_locked: bool,
}

/// Whether the token does to a key what the attributes say: tried out on a throw-away key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// `CKA_VALUE` of a sensitive key cannot be read.
    pub value_hidden: bool,
    /// `CKA_SENSITIVE` cannot be taken back.
    pub sensitive_stays: bool,
    /// `CKA_EXTRACTABLE` cannot be given back.
    pub extractable_stays: bool,
    /// C_WrapKey refuses the key; `None`: the token makes no key to wrap it with.
    pub wrap_refused: Option<bool>,
    /// `CKA_ALWAYS_SENSITIVE`, `CKA_NEVER_EXTRACTABLE` and `CKA_LOCAL` say what was asked for.
    pub history_told: bool,
}

/// All slots of a module with a token in them. Blocking.
pub fn slots(isolation: &Isolation, module: &Path) -> Result<Vec<SlotFacts>, TokenError> {
    if let Isolation::Process(command) = isolation {
        return ask_slots(command, module);
    }
    let module = Module::load(module)?;
    let slots = module
        .context
        .get_slots_with_token()
        .map_err(|error| CallError::from_cryptoki("C_GetSlotList", &error).into_error("the slots cannot be listed"))?;
    let facts = slots.into_iter().filter_map(|slot| {
        // A slot that cannot be read is left out: it is somebody else's.
        let (info, limits) = module.functions.token_info(slot.id()).ok()?;
        Some(SlotFacts {
            slot: slot.id(),
            label: info.label,
            serial: info.serial,
            manufacturer: info.manufacturer,
            model: info.model,
            firmware: info.firmware,
            initialized: limits.initialized,
            login_required: limits.login_required,
            pin_initialized: limits.pin_initialized,
            pin_count_low: info.user_pin_count_low,
            pin_final_try: info.user_pin_final_try,
            pin_locked: info.user_pin_locked,
        })
    });
    Ok(facts.collect())
}

/// A session object of the key generation thread: it goes with its session, and is destroyed before.
const THROW_AWAY: Naming<'_> = Naming { id: b"hsm-bridge-probe", label: "hsm-bridge-probe", token: false };

pub(super) struct TryAttributes;

impl Task for TryAttributes {
    type Output = Enforcement;
    const NAME: &'static str = "try-attributes";

    fn run(self, keygen: &mut Keygen) -> Result<Enforcement, TokenError> {
        keygen.ready()?;
        let ladder = keygen.shared.ladder.clone();
        keygen
            .seat
            .with(|_, session| {
                let (key, _) = create(session, KeyKind::Aes256, THROW_AWAY, &ladder)?;
                let found = tried(session, key);
                let _ = session.destroy_object(key);
                Ok(found)
            })
            .map_err(|error| error.into_error("no throw-away key can be made"))
    }
}

fn tried(session: &Session, key: ObjectHandle) -> Enforcement {
    let told = |kind: AttributeType| -> Option<bool> {
        match session.get_attributes(key, &[kind]).ok()?.first()? {
            Attribute::Sensitive(value)
            | Attribute::Extractable(value)
            | Attribute::AlwaysSensitive(value)
            | Attribute::NeverExtractable(value)
            | Attribute::Local(value) => Some(*value),
            _ => None,
        }
    };
    let value = session.get_attributes(key, &[AttributeType::Value]).unwrap_or_default();
    let wrap_refused = wrapping_key(session).map(|wrapping| {
        let mechanisms = [Mechanism::AesKeyWrap, Mechanism::AesKeyWrapPad];
        let refused = mechanisms.iter().all(|mechanism| session.wrap_key(mechanism, wrapping, key).is_err());
        let _ = session.destroy_object(wrapping);
        refused
    });
    // What counts is what the token says afterwards, whatever it answered.
    let _ = session.update_attributes(key, &[Attribute::Sensitive(false)]);
    let sensitive_stays = told(AttributeType::Sensitive) == Some(true);
    let _ = session.update_attributes(key, &[Attribute::Extractable(true)]);
    Enforcement {
        value_hidden: !value.iter().any(|found| matches!(found, Attribute::Value(bytes) if !bytes.is_empty())),
        sensitive_stays,
        extractable_stays: told(AttributeType::Extractable) == Some(false),
        wrap_refused,
        history_told: [AttributeType::AlwaysSensitive, AttributeType::NeverExtractable, AttributeType::Local]
            .into_iter()
            .all(|kind| told(kind) == Some(true)),
    }
}

fn wrapping_key(session: &Session) -> Option<ObjectHandle> {
    let template = [
        Attribute::Token(false),
        Attribute::Id(THROW_AWAY.id.to_vec()),
        Attribute::Label(THROW_AWAY.label.as_bytes().to_vec()),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(32.into()),
        Attribute::Wrap(true),
    ];
    session.generate_key(&Mechanism::AesKeyGen, &template).ok()
}
