//! How a token is named: label, serial, model, manufacturer, or an RFC 7512 URI. Slot ids change and are not used.

use percent_encoding::percent_decode_str;

use super::{ErrorClass, Selector, TokenError, TokenInfo};

impl Selector {
    /// Parses `pkcs11:token=…;serial=…;model=…;manufacturer=…`. Other attributes are refused rather than ignored, a PIN
    /// in the URI above all: URIs end up in logs and process lists.
    pub fn from_uri(uri: &str) -> Result<Selector, TokenError> {
        // RULE RFC 7512 §2.3: the scheme in any case, path attributes separated by `;`, query attributes after `?`.
        let rest = match uri.split_at_checked(7) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("pkcs11:") => rest,
            _ => return Err(refused(format!("`{uri}` is not a PKCS#11 URI: it does not begin with `pkcs11:`"))),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if let Some(attribute) = query.split('&').find(|attribute| !attribute.is_empty()) {
            let name = attribute.split('=').next().unwrap_or_default();
            return Err(refused(match name {
                // Said without the value.
                "pin-value" => "a PIN does not belong into a PKCS#11 URI: use a PIN file".to_owned(),
                name => format!("the attribute `{name}` of a PKCS#11 URI is not supported"),
            }));
        }
        let mut selector = Selector::default();
        for attribute in path.split(';').filter(|attribute| !attribute.is_empty()) {
            let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            let field = match name {
                "token" => &mut selector.label,
                "serial" => &mut selector.serial,
                "model" => &mut selector.model,
                "manufacturer" => &mut selector.manufacturer,
                "pin-value" => return Err(refused("a PIN does not belong into a PKCS#11 URI: use a PIN file".into())),
                name => return Err(refused(format!("the attribute `{name}` of a PKCS#11 URI is not supported"))),
            };
            let value = decode(value).ok_or_else(|| {
                refused(format!("the value of `{name}` in the PKCS#11 URI is not percent-encoded UTF-8"))
            })?;
            // RULE RFC 7512 §2.3: a path attribute appears at most once.
            if field.replace(value).is_some() {
                return Err(refused(format!("the attribute `{name}` stands twice in the PKCS#11 URI")));
            }
        }
        if selector == Selector::default() {
            return Err(refused("the PKCS#11 URI names no token".into()));
        }
        Ok(selector)
    }

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

fn decode(value: &str) -> Option<String> {
    // `percent_decode_str` lets a broken escape stand; a URI with one is wrong.
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' && !(bytes.next()?.is_ascii_hexdigit() && bytes.next()?.is_ascii_hexdigit()) {
            return None;
        }
    }
    percent_decode_str(value).decode_utf8().ok().map(|text| text.into_owned())
}

fn refused(detail: String) -> TokenError {
    TokenError::own(ErrorClass::Operator, "token selector", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let ok = |uri: &str| Selector::from_uri(uri).unwrap();
        let selector = ok("pkcs11:token=My%20token%3b;serial=0a1b;manufacturer=SoftHSM%20project;model=SoftHSM%20v2");
        assert_eq!(selector.label.as_deref(), Some("My token;"));
        assert_eq!(selector.serial.as_deref(), Some("0a1b"));
        assert_eq!(selector.manufacturer.as_deref(), Some("SoftHSM project"));
        assert_eq!(selector.model.as_deref(), Some("SoftHSM v2"));
        assert_eq!(ok("PKCS11:token=a").label.as_deref(), Some("a"));
    }

    #[test]
    fn refused_uris() {
        for (uri, says) in [
            ("http://x", "does not begin"),
            ("pkcs11", "does not begin"),
            ("pkcs11:", "names no token"),
            ("pkcs11:object=key;token=a", "`object`"),
            ("pkcs11:slot-id=3", "`slot-id`"),
            ("pkcs11:token=a;token=b", "twice"),
            ("pkcs11:token=%zz", "percent-encoded"),
            ("pkcs11:token=a%2", "percent-encoded"),
            ("pkcs11:token=%ff", "percent-encoded"),
            ("pkcs11:token=a?pin-value=1234567", "PIN"),
            ("pkcs11:token=a;pin-value=1234567", "PIN"),
            ("pkcs11:token=a?module-path=/x", "`module-path`"),
        ] {
            let error = Selector::from_uri(uri).unwrap_err();
            assert!(error.detail.contains(says), "{uri}: {error}");
            assert!(!error.to_string().contains("1234567"), "the PIN is not repeated");
        }
    }

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
