//! A look at a token without a login: whether it is there, and its public certificate.

use std::path::Path;
use std::sync::PoisonError;

use cryptoki::object::{Attribute, AttributeType, ObjectClass};

use serde::{Deserialize, Serialize};

use super::error::CallError;
use super::module::{Module, Selected};
use super::process::{ask_certificate, ask_look};
use super::{ErrorClass, Isolation, Selector, TokenError, TokenInfo};

/// What a token says of itself to anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    pub info: TokenInfo,
    pub initialized: bool,
    pub pin_initialized: bool,
}

/// The one token that fits the selector. A token that was never initialised is found where no other fits. Blocking.
pub fn look(isolation: &Isolation, module: &Path, selector: &Selector) -> Result<Looked, TokenError> {
    if let Isolation::Process(command) = isolation {
        return ask_look(command, module, selector);
    }
    let module = Module::load(module)?;
    let _no_renewal = module.gate.read().unwrap_or_else(PoisonError::into_inner);
    let Selected { info, limits, .. } = module.select_any(selector)?;
    Ok(Looked { info, initialized: limits.initialized, pin_initialized: limits.pin_initialized })
}

/// The public `CKO_CERTIFICATE` with this label, as DER; several are an error. Blocking.
pub fn certificate(
    isolation: &Isolation,
    module: &Path,
    selector: &Selector,
    label: &str,
) -> Result<Option<Vec<u8>>, TokenError> {
    if let Isolation::Process(command) = isolation {
        return ask_certificate(command, module, selector, label);
    }
    let module = Module::load(module)?;
    let _no_renewal = module.gate.read().unwrap_or_else(PoisonError::into_inner);
    let selected = module.select(selector)?;
    let failed = |function, error| CallError::from_cryptoki(function, &error).into_error("no certificate can be read");
    // Some tokens support R/W sessions only.
    let session = module
        .context
        .open_ro_session(selected.slot)
        .or_else(|_| module.context.open_rw_session(selected.slot))
        .map_err(|error| failed("C_OpenSession", error))?;
    let exclusive = module.exclusive(selected.slot);
    let found = {
        let _alone = exclusive.lock().unwrap_or_else(PoisonError::into_inner);
        let template = [Attribute::Class(ObjectClass::CERTIFICATE), Attribute::Label(label.as_bytes().to_vec())];
        session.find_objects(&template).map_err(|error| failed("C_FindObjects", error))?
    };
    let mut certificates = Vec::new();
    for object in found {
        let wanted = [AttributeType::Private, AttributeType::Value];
        let attributes =
            session.get_attributes(object, &wanted).map_err(|error| failed("C_GetAttributeValue", error))?;
        // The process may be logged in, and then it sees what is not for everybody.
        if !attributes.contains(&Attribute::Private(true)) {
            certificates.extend(attributes.into_iter().find_map(|attribute| match attribute {
                Attribute::Value(der) => Some(der),
                _ => None,
            }));
        }
    }
    let several = certificates.len() > 1;
    match certificates.pop() {
        Some(_) if several => Err(TokenError::own(
            ErrorClass::WrongKey,
            "C_FindObjects",
            format!("several public certificates of the token have the label `{label}`"),
        )),
        found => Ok(found),
    }
}
