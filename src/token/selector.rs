//! How a token is named: label, serial, model, manufacturer. Slot ids change and are not used.

use super::{Selector, TokenInfo};

impl Selector {
    pub(super) fn matches(&self, info: &TokenInfo) -> bool {
        let fits = |wanted: &Option<String>, have: &str| wanted.as_deref().is_none_or(|wanted| wanted == have);
        fits(&self.label, &info.label)
            && fits(&self.serial, &info.serial)
            && fits(&self.model, &info.model)
            && fits(&self.manufacturer, &info.manufacturer)
    }

    /// For messages.
    pub(super) fn describe(&self) -> String {
        let parts: Vec<String> = [
            ("label", &self.label),
            ("serial", &self.serial),
            ("model", &self.model),
            ("manufacturer", &self.manufacturer),
        ]
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} `{value}`")))
        .collect();
        if parts.is_empty() { "any name".to_owned() } else { parts.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching() {
        let info = TokenInfo { label: "a".into(), serial: "1".into(), ..TokenInfo::default() };
        let by = |label: Option<&str>, serial: Option<&str>| Selector {
            label: label.map(str::to_owned),
            serial: serial.map(str::to_owned),
            ..Selector::default()
        };
        assert!(by(Some("a"), None).matches(&info));
        assert!(by(Some("a"), Some("1")).matches(&info));
        assert!(!by(Some("a"), Some("2")).matches(&info));
        assert!(!by(Some("b"), None).matches(&info));
    }
}
