//! What records show of encryption contexts: all of it as AWS does, names with an HMAC of each value, or names alone.
//! Source: audit.md §7.2.

use aws_lc_rs::hmac;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::ops::Ops;

/// Of one deployment.
#[derive(Debug, Clone, Default)]
pub enum ContextForm {
    #[default]
    Plain,
    Hmac(Box<hmac::Key>),
    KeysOnly,
}

/// Members of `requestParameters` that are encryption contexts, those of a grant's constraints included.
const CONTEXTS: [&str; 5] = [
    "encryptionContext",
    "sourceEncryptionContext",
    "destinationEncryptionContext",
    "encryptionContextEquals",
    "encryptionContextSubset",
];

impl ContextForm {
    /// `key`: secret, and the same as long as values shall be found again.
    fn hmac(key: &[u8]) -> ContextForm {
        ContextForm::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// What a record says instead of this value; none where it says nothing.
    pub fn shown(&self, value: &str) -> Option<String> {
        match self {
            ContextForm::Plain => Some(value.to_owned()),
            ContextForm::Hmac(key) => Some(format!("hmac-sha256:{}", hex::encode(hmac::sign(key, value.as_bytes())))),
            ContextForm::KeysOnly => None,
        }
    }

    /// `requestParameters` as they are recorded.
    pub fn parameters(&self, parameters: Option<Box<RawValue>>) -> Option<Box<RawValue>> {
        let raw = match (self, parameters) {
            (ContextForm::Plain, parameters) => return parameters,
            (_, parameters) => parameters?,
        };
        let mut value: Value = serde_json::from_str(raw.get()).ok()?;
        if !self.hide(&mut value) {
            return Some(raw);
        }
        serde_json::value::to_raw_value(&value).ok()
    }

    /// Whether there was a context in it.
    fn hide(&self, value: &mut Value) -> bool {
        let Some(members) = value.as_object_mut() else { return false };
        let mut found = false;
        for (name, member) in members.iter_mut() {
            match member.as_object_mut() {
                Some(pairs) if CONTEXTS.contains(&name.as_str()) => {
                    found = true;
                    for value in pairs.values_mut() {
                        let shown = value.as_str().and_then(|text| self.shown(text));
                        *value = shown.map_or(Value::Null, Value::String);
                    }
                }
                Some(_) => found |= self.hide(member),
                None => {}
            }
        }
        found
    }
}

impl Ops {
    /// The form with an HMAC of each value, under a key of this deployment.
    pub fn hashed_contexts(&self) -> ContextForm {
        ContextForm::hmac(self.store.derive("audit-encryption-context").expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = r#"{"keyId":"k","encryptionContext":{"tenant":"acme","n":"1"},"constraints":{"encryptionContextSubset":{"tenant":"acme"}},"description":"acme"}"#;

    fn shown(form: &ContextForm) -> Value {
        let raw = form.parameters(Some(RawValue::from_string(GIVEN.into()).unwrap())).unwrap();
        serde_json::from_str(raw.get()).unwrap()
    }

    #[test]
    fn forms() {
        assert_eq!(shown(&ContextForm::Plain), serde_json::from_str::<Value>(GIVEN).unwrap());
        let names = shown(&ContextForm::KeysOnly);
        assert_eq!(names["encryptionContext"], serde_json::json!({"tenant": null, "n": null}));
        assert_eq!(names["constraints"]["encryptionContextSubset"], serde_json::json!({"tenant": null}));
        assert_eq!(names["description"], "acme");
        let form = ContextForm::hmac(b"0123456789abcdef0123456789abcdef");
        let hidden = shown(&form);
        let value = &hidden["encryptionContext"]["tenant"];
        assert_eq!(*value, hidden["constraints"]["encryptionContextSubset"]["tenant"]);
        // The same value is found again, by whoever has the key only.
        assert_eq!(value.as_str(), form.shown("acme").as_deref());
        assert_ne!(form.shown("acme"), ContextForm::hmac(b"another key").shown("acme"));
        assert!(value.as_str().unwrap().starts_with("hmac-sha256:"));
        assert!(ContextForm::KeysOnly.parameters(None).is_none());
    }
}
