//! `pkcs11:` URIs that name a token (RFC 7512). Attributes that name objects, slots or PINs are refused: a slot number
//! changes when a token is initialised anew, and a PIN does not belong in a configuration.

use percent_encoding::percent_decode_str;

use super::TokenSelector;

pub(super) fn parse(text: &str) -> Result<TokenSelector, String> {
    let rest = text.strip_prefix("pkcs11:").ok_or("does not begin with `pkcs11:`")?;
    if rest.contains('?') {
        return Err(
            "has query attributes: module and PIN have keys of their own (`token.module`, `token.pin_file`)".into()
        );
    }
    let mut selector = TokenSelector::default();
    for attribute in rest.split(';').filter(|attribute| !attribute.is_empty()) {
        let (name, value) = attribute.split_once('=').ok_or_else(|| format!("has no value for `{attribute}`"))?;
        let member = match name {
            "token" => &mut selector.label,
            "serial" => &mut selector.serial,
            "model" => &mut selector.model,
            "manufacturer" => &mut selector.manufacturer,
            other => {
                return Err(format!("has the attribute `{other}`: use `token`, `serial`, `model` and `manufacturer`"));
            }
        };
        // RULE RFC 3986 §2.1: a percent sign begins an escape of two hexadecimal digits.
        if value
            .split('%')
            .skip(1)
            .any(|rest| !rest.get(..2).is_some_and(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit())))
        {
            return Err(format!(
                "has a `{name}` with a percent sign that no two hexadecimal digits follow: write `%25`"
            ));
        }
        let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("has a `{name}` that is not UTF-8"))?;
        // RULE RFC 7512 §2.3: an attribute stands at most once.
        if member.replace(value.into_owned()).is_some() {
            return Err(format!("has `{name}` twice"));
        }
    }
    Ok(selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let selector = parse("pkcs11:model=SoftHSM%20v2;token=my%3Btoken;serial=0a").unwrap();
        assert_eq!(selector.label.as_deref(), Some("my;token"));
        assert_eq!(selector.serial.as_deref(), Some("0a"));
        assert_eq!(selector.model.as_deref(), Some("SoftHSM v2"));
        assert_eq!(selector.manufacturer, None);
        assert_eq!(parse("pkcs11:token=100%25%c3%BC").unwrap().label.as_deref(), Some("100%ü"));
        for wrong in [
            "token=x",
            "pkcs11:token",
            "pkcs11:token=a;token=b",
            "pkcs11:slot-id=1",
            "pkcs11:token=a;object=b",
            "pkcs11:token=a?pin-value=1234",
            "pkcs11:token=%ff",
            "pkcs11:token=100%",
            "pkcs11:token=%4",
            "pkcs11:token=%4g",
            "pkcs11:token=%ü",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(!parse("pkcs11:token=a?pin-value=canary").unwrap_err().contains("canary"));
    }
}
