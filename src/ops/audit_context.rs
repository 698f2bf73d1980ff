//! What records show of encryption contexts: all of it as AWS does, names with an HMAC of each value, or names alone.
//! Source: audit.md §7.2.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::ops::Ops;
use crate::store::GrantConstraints;

/// Of one deployment.
#[derive(Debug, Clone, Default)]
pub enum ContextForm {
    #[default]
    Plain,
    Hmac(Box<hmac::Key>),
    KeysOnly,
}

/// Stands for a value where there has to be one.
const NOT_RECORDED: &str = "(not recorded)";

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

    /// What a change did to the state, as it is recorded. In a patch `null` takes away, so it is no value here.
    pub fn state_change(&self, mut change: Value) -> Value {
        if !matches!(self, ContextForm::Plain) {
            self.hide_constraints(&mut change);
        }
        change
    }

    /// The constraints of a grant, as a state snapshot has them.
    pub fn constraints(&self, constraints: &mut GrantConstraints) {
        let maps = [&mut constraints.equals, &mut constraints.subset];
        for value in maps.into_iter().flatten().flat_map(BTreeMap::values_mut) {
            *value = self.kept(value);
        }
    }

    fn kept(&self, value: &str) -> String {
        self.shown(value).unwrap_or_else(|| NOT_RECORDED.to_owned())
    }

    fn hide_constraints(&self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide_constraints(item)),
            Value::Object(members) => {
                for (name, member) in members.iter_mut() {
                    if name != "constraints" {
                        self.hide_constraints(member);
                        continue;
                    }
                    for context in ["equals", "subset"] {
                        let pairs = member.get_mut(context).and_then(Value::as_object_mut);
                        for value in pairs.into_iter().flat_map(serde_json::Map::values_mut) {
                            if let Value::String(text) = value {
                                *text = self.kept(text);
                            }
                        }
                    }
                }
            }
            _ => {}
        }
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
    /// How records show encryption contexts. Once, by `app`; `Plain` without.
    pub fn show_contexts_as(&self, form: ContextForm) {
        let _ = self.contexts.set(form);
    }

    pub fn contexts(&self) -> &ContextForm {
        self.contexts.get_or_init(ContextForm::default)
    }

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
        let change =
            || serde_json::json!({"grants": {"k/g": {"name": "acme", "constraints": {"equals": {"tenant": "acme"}}}}});
        assert_eq!(ContextForm::Plain.state_change(change()), change());
        for form in [form, ContextForm::KeysOnly] {
            let shown = form.state_change(change());
            assert_eq!(shown["grants"]["k/g"]["name"], "acme");
            let mut constraints = GrantConstraints {
                equals: Some([("tenant".into(), "acme".into())].into()),
                ..GrantConstraints::default()
            };
            form.constraints(&mut constraints);
            let kept = &shown["grants"]["k/g"]["constraints"]["equals"]["tenant"];
            assert_eq!(*kept, constraints.equals.unwrap()["tenant"].as_str());
            assert_ne!(*kept, "acme");
        }
    }
}
