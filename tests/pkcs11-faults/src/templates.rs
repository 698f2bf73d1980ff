//! What a token demands of the attributes of objects that are made or changed.

use cryptoki_sys::*;

use crate::Call;
use crate::behaviour::Kind;
use crate::real::{Beside, number};

/// One template of a call, as the caller gave it.
pub struct Template {
    attributes: Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>,
    kind: Kind,
}

impl Template {
    /// `kind`: of the object; where nobody says, CKA_CLASS does.
    pub fn given(start: CK_ATTRIBUTE_PTR, count: CK_ULONG, kind: Option<Kind>) -> Template {
        let mut attributes = Vec::new();
        if !start.is_null() {
            // SAFETY: the caller's array of so many attributes.
            for one in unsafe { std::slice::from_raw_parts(start, count as usize) } {
                let value = match one.pValue.is_null() {
                    true => Vec::new(),
                    // SAFETY: the caller's value with the caller's length.
                    false => {
                        unsafe { std::slice::from_raw_parts(one.pValue.cast::<u8>(), one.ulValueLen as usize) }.to_vec()
                    }
                };
                attributes.push((one.type_, value));
            }
        }
        let mut template = Template { attributes, kind: Kind::Other };
        template.kind = kind.unwrap_or_else(|| match template.number(CKA_CLASS) {
            Some(CKO_PUBLIC_KEY) => Kind::Public,
            Some(CKO_PRIVATE_KEY) => Kind::Private,
            Some(CKO_SECRET_KEY) => Kind::Secret,
            _ => Kind::Other,
        });
        template
    }

    /// A template that asks for values: its lengths are those of the places where they go.
    pub fn asked(start: CK_ATTRIBUTE_PTR, count: CK_ULONG) -> Template {
        let mut attributes = Vec::new();
        if !start.is_null() {
            // SAFETY: the caller's array of so many attributes.
            let asked = unsafe { std::slice::from_raw_parts(start, count as usize) };
            attributes.extend(asked.iter().map(|one| (one.type_, Vec::new())));
        }
        Template { attributes, kind: Kind::Other }
    }

    fn value(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
        self.attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| value.as_slice())
    }

    fn number(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<u64> {
        self.value(kind).and_then(number)
    }

    fn class(&self) -> Option<CK_OBJECT_CLASS> {
        match self.kind {
            Kind::Public => Some(CKO_PUBLIC_KEY),
            Kind::Private => Some(CKO_PRIVATE_KEY),
            Kind::Secret => Some(CKO_SECRET_KEY),
            Kind::Other => self.number(CKA_CLASS),
        }
    }
}

/// Whether the token takes them; what it says where it does not.
pub fn judged(call: &Call, function: &str, slot: CK_SLOT_ID, templates: &[Template]) -> Result<(), CK_RV> {
    let behaviour = &call.script.behaviour;
    let creates = !matches!(function, "C_SetAttributeValue" | "C_GetAttributeValue" | "C_FindObjectsInit");
    for template in templates {
        let longer = |kind, most: Option<usize>| {
            function != "C_FindObjectsInit"
                && most.is_some_and(|most| template.value(kind).is_some_and(|value| value.len() > most))
        };
        if longer(CKA_ID, behaviour.id_bytes) {
            return Err(call.refuse("id_bytes", CKR_ATTRIBUTE_VALUE_INVALID));
        }
        if longer(CKA_LABEL, behaviour.label_bytes) {
            return Err(call.refuse("label_bytes", CKR_ATTRIBUTE_VALUE_INVALID));
        }
        for refusal in behaviour.refuse.iter().filter(|refusal| refusal.functions.iter().any(|named| named == function))
        {
            let meant = refusal.of.as_ref().is_none_or(|kinds| kinds.contains(&template.kind));
            let given = refusal.attributes.iter().filter_map(|attribute| template.value(attribute.0));
            let wrong = |value: &[u8]| refusal.value.is_none_or(|wrong| number(value) == Some(u64::from(wrong)));
            if meant && given.into_iter().any(wrong) {
                return Err(call.refuse("refuse", refusal.rv.0));
            }
        }
    }
    if !creates || (behaviour.duplicate_ids.is_none() && behaviour.max_objects.is_none()) {
        return Ok(());
    }
    let stored: Vec<&Template> =
        templates.iter().filter(|template| template.number(CKA_TOKEN) == Some(u64::from(CK_TRUE))).collect();
    let Some(beside) = Beside::on(call, slot).filter(|_| !stored.is_empty()) else { return Ok(()) };
    if let Some(rv) = behaviour.duplicate_ids {
        for template in &stored {
            let (Some(id), Some(class)) = (template.value(CKA_ID), template.class()) else { continue };
            if !beside.found(&[(CKA_ID, id), (CKA_CLASS, &class.to_ne_bytes())]).is_empty() {
                return Err(call.refuse("duplicate_ids", rv.0));
            }
        }
    }
    if let Some(most) = behaviour.max_objects
        && beside.found(&[(CKA_TOKEN, &[CK_TRUE])]).len() + stored.len() > most
    {
        return Err(call.refuse("max_objects", CKR_DEVICE_MEMORY));
    }
    Ok(())
}
