//! Vendor quirks as data: the files `hsm-config/profiles/*.toml`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::secret::SecretString;

/// One profile. Unknown members are refused; a member that is not there means what PKCS#11 says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    pub name: String,
    /// Overrides the probe: `caller`, `zeroed-writeback`, `luna-append16`, `prepended`.
    pub gcm_iv: Option<String>,
    pub max_sessions: Option<u64>,
    /// Prefix of `CKA_LABEL`; `hsm-bridge/` by default.
    pub label_prefix: Option<String>,
    /// How the PIN of C_Login is made of a user's name and password.
    pub login: LoginForm,
    /// Length of `CKA_ID` where the token does not take the bridge's 16 or 20 bytes: a free one is chosen by lot.
    pub cka_id_bytes: Option<u8>,
    /// Longest `CKA_LABEL` in bytes.
    pub label_max: Option<u16>,
    /// Templates to try, in this order, while the token answers that it does not like the one before; empty: all, the
    /// fullest first.
    pub templates: Vec<Rung>,
    /// The module reads the user PIN once and has to be initialised again to see a changed one; by default what is known
    /// of the model.
    pub pin_cached: Option<bool>,
    /// What a PIN looks like: shown by `doctor`, and with one that was refused.
    pub pin_hint: Option<String>,
    /// Shown by `doctor`.
    pub notes: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LoginForm {
    /// The password is the PIN.
    #[default]
    #[serde(rename = "pin")]
    Pin,
    #[serde(rename = "user:password")]
    UserPassword,
}

/// How much a template says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// What the key is for, and what it is not for.
    Full,
    /// Without `CKA_PRIVATE` of public keys: some tokens have private ones only.
    PublicDefault,
    /// Without `CKA_DERIVE` too.
    NoDerive,
    /// What protects the key and what it is for.
    Minimal,
}

impl Rung {
    pub(super) const ALL: [Rung; 4] = [Rung::Full, Rung::PublicDefault, Rung::NoDerive, Rung::Minimal];
}

impl Profile {
    /// The rungs of the template ladder, in order.
    pub(super) fn ladder(&self) -> Arc<[Rung]> {
        if self.templates.is_empty() { Arc::from(Rung::ALL) } else { Arc::from(self.templates.as_slice()) }
    }

    /// The PIN that C_Login gets.
    pub fn login_pin(&self, user: &str, password: &SecretString) -> SecretString {
        match self.login {
            LoginForm::Pin => password.clone(),
            LoginForm::UserPassword => SecretString::new(format!("{user}:{}", password.expose())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members() {
        let profile: Profile = toml::from_str(
            r#"
            name = "x"
            login = "user:password"
            cka_id_bytes = 2
            label_max = 40
            pin_cached = false
            templates = ["no-derive", "minimal"]
            "#,
        )
        .unwrap();
        assert_eq!(*profile.ladder(), [Rung::NoDerive, Rung::Minimal]);
        let pin = profile.login_pin("kmsuser", &SecretString::new("s:ecret".into()));
        assert_eq!(pin.expose(), "kmsuser:s:ecret");
        let plain = Profile::default();
        assert_eq!(plain.login_pin("kmsuser", &SecretString::new("secret".into())).expose(), "secret");
        assert_eq!(*plain.ladder(), Rung::ALL);
        for wrong in ["login = \"password\"", "templates = [\"bare\"]", "cka_id_bytes = 256", "id_bytes = 2"] {
            assert!(toml::from_str::<Profile>(wrong).is_err(), "{wrong}");
        }
    }
}
