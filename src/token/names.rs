//! `CKA_ID` and `CKA_LABEL` of the objects that the bridge makes, within what the token's profile allows.
//!
//! Where a token takes short ids only, an id cannot be told from the key's name: it is chosen by lot among the free ones,
//! and the label ends in `#` and 16 hex digits made of the key's name, so that a key whose maker died before the id was
//! written down can be found. A label that is longer than the token takes ends so too, and is cut before that.

use aws_lc_rs::digest;

use super::{ErrorClass, MaterialId, Profile, SystemKey, TokenError};

const DEFAULT_PREFIX: &str = "hsm-bridge/";
/// `#` and 16 hex digits.
const TAG: usize = 17;

#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
    /// Length of ids, where the token does not take the bridge's own.
    pub(super) id_bytes: Option<usize>,
    label_max: usize,
}

impl Names {
    pub(super) fn of(profile: &Profile) -> Result<Names, TokenError> {
        let refused = |detail: String| Err(TokenError::own(ErrorClass::Operator, "profile", detail));
        let names = Names {
            prefix: profile.label_prefix.clone().unwrap_or_else(|| DEFAULT_PREFIX.to_owned()),
            id_bytes: profile.cka_id_bytes.map(usize::from),
            label_max: profile.label_max.map_or(usize::MAX, usize::from),
        };
        if names.id_bytes.is_some_and(|bytes| bytes < 2) {
            return refused("the profile's `cka_id_bytes` is less than 2: there are too few ids".to_owned());
        }
        let longest = SystemKey::ALL.into_iter().map(|key| names.system(key).len()).chain([TAG]).max().unwrap_or(TAG);
        if names.label_max < longest {
            return refused(format!(
                "the profile's `label_max = {}` leaves no room for the labels of the bridge's own keys, which take {longest}",
                names.label_max
            ));
        }
        Ok(names)
    }

    /// The label of a system key, which is how it is found.
    pub(super) fn system(&self, key: SystemKey) -> String {
        format!("{}{}", self.prefix, key.name())
    }

    pub(super) fn system_key(&self, label: &[u8]) -> Option<SystemKey> {
        SystemKey::ALL.into_iter().find(|key| self.system(*key).as_bytes() == label)
    }

    /// The label that a new key gets.
    pub(super) fn label(&self, wanted: &str, material: MaterialId) -> String {
        if self.id_bytes.is_none() && wanted.len() <= self.label_max {
            return wanted.to_owned();
        }
        let room = self.label_max.saturating_sub(TAG).min(wanted.len());
        let cut = (0..=room).rev().find(|end| wanted.is_char_boundary(*end)).unwrap_or(0);
        format!("{}{}", wanted.get(..cut).unwrap_or_default(), tag(material))
    }

    /// Whether a label was made for this key, on a token with short ids.
    pub(super) fn is_tagged(&self, label: &[u8], material: MaterialId) -> bool {
        self.id_bytes.is_some() && label.ends_with(tag(material).as_bytes())
    }
}

/// 64 bits of a digest: no two keys of one token have the same by chance.
fn tag(material: MaterialId) -> String {
    let digest = digest::digest(&digest::SHA256, &material.cka_id());
    format!("#{}", hex::encode(digest.as_ref().get(..8).unwrap_or_default()))
}

/// `CKA_ID` of a system key where ids may have any length: eight bytes, so that it can be no `MaterialId` and no KMS call
/// can name the key.
pub(super) fn system_id(label: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, label.as_bytes()).as_ref().get(..8).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATERIAL: MaterialId = MaterialId { id: [7; 16], generation: 0 };
    const LABEL: &str = "hsm-bridge/kms/4a5f9a4e-7c3b-4dd0-8f0a-0a7b7a3c9d55";

    fn names(id_bytes: Option<u8>, label_max: Option<u16>) -> Result<Names, TokenError> {
        Names::of(&Profile { cka_id_bytes: id_bytes, label_max, ..Profile::default() })
    }

    #[test]
    fn a_label_that_fits_stays() {
        assert_eq!(names(None, None).unwrap().label(LABEL, MATERIAL), LABEL);
        assert_eq!(names(None, Some(51)).unwrap().label(LABEL, MATERIAL), LABEL);
    }

    #[test]
    fn a_label_that_is_too_long_is_cut_and_stays_unique() {
        let names = names(None, Some(40)).unwrap();
        let (one, other) = (names.label(LABEL, MATERIAL), names.label(LABEL, MaterialId { generation: 1, ..MATERIAL }));
        assert_eq!((one.len(), other.len()), (40, 40));
        assert!(one != other && one.starts_with("hsm-bridge/kms/4a5f9a4e#"), "{one}");
        assert_eq!(names.label(&"ü".repeat(30), MATERIAL).len(), 39, "not cut within a character");
        assert!(!names.is_tagged(one.as_bytes(), MATERIAL), "long ids need no tag");
    }

    #[test]
    fn with_short_ids_the_label_tells_the_key() {
        let names = names(Some(2), None).unwrap();
        let label = names.label("x", MATERIAL);
        assert!(label.starts_with("x#") && names.is_tagged(label.as_bytes(), MATERIAL), "{label}");
        assert!(!names.is_tagged(label.as_bytes(), MaterialId { generation: 1, ..MATERIAL }));
    }

    #[test]
    fn profiles_that_leave_no_room_are_refused() {
        assert!(names(None, Some(20)).is_ok());
        for (id_bytes, label_max) in [(None, Some(19)), (Some(1), None), (Some(0), None)] {
            assert_eq!(names(id_bytes, label_max).unwrap_err().class, ErrorClass::Operator);
        }
        let short = Profile { label_prefix: Some("b/".into()), label_max: Some(16), ..Profile::default() };
        assert!(Names::of(&short).is_err(), "a tag needs 17");
    }

    #[test]
    fn ids_of_system_keys_are_no_ids_of_materials() {
        for key in SystemKey::ALL {
            let label = names(None, None).unwrap().system(key);
            assert_eq!(MaterialId::from_cka_id(&system_id(&label)), None);
        }
    }
}
