//! Markers of lists: sealed, so that a caller can neither read nor make one, and bound to operation and list.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::ops::OpError;
use crate::secret::{SecretBytes, associated_data};

const AAD_LABEL: &str = "hsm-bridge/marker/1";

/// Seals and opens markers. The key is derived from the store key, so markers survive a restart.
pub struct Markers {
    cipher: Aes256Gcm,
}

impl Markers {
    /// `key`: 32 bytes.
    pub fn new(key: &SecretBytes) -> Result<Self, OpError> {
        let cipher = Aes256Gcm::new_from_slice(key.expose())
            .map_err(|_| OpError::Internal("the marker key has a wrong length".to_owned()))?;
        Ok(Self { cipher })
    }

    /// `list` names what is paged (operation and filter), `after` the last item shown.
    pub fn seal(&self, list: &str, after: &str) -> Result<String, OpError> {
        let mut nonce = [0u8; 12];
        getrandom::fill(&mut nonce).map_err(|e| OpError::Internal(format!("no randomness: {e}")))?;
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: after.as_bytes(), aad: &associated_data(&[AAD_LABEL, list]) })
            .map_err(|_| OpError::Internal("sealing a marker failed".to_owned()))?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// The last item shown, or `InvalidMarker`.
    pub fn open(&self, list: &str, marker: &str) -> Result<String, OpError> {
        let bytes = URL_SAFE_NO_PAD.decode(marker).map_err(|_| OpError::InvalidMarker)?;
        let (nonce, sealed) = bytes.split_first_chunk::<12>().ok_or(OpError::InvalidMarker)?;
        let plain = self
            .cipher
            .decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: &associated_data(&[AAD_LABEL, list]) })
            .map_err(|_| OpError::InvalidMarker)?;
        String::from_utf8(plain).map_err(|_| OpError::InvalidMarker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_opens_for_its_list_only() {
        let markers = Markers::new(&SecretBytes::new(vec![7; 32])).unwrap();
        let marker = markers.seal("ListKeys", "k1").unwrap();
        assert_eq!(markers.open("ListKeys", &marker).unwrap(), "k1");
        assert_eq!(markers.open("ListAliases", &marker), Err(OpError::InvalidMarker));
        for wrong in ["", "x", "é", &marker[1..], &format!("{marker}A")] {
            assert_eq!(markers.open("ListKeys", wrong), Err(OpError::InvalidMarker), "{wrong}");
        }
        assert!(Markers::new(&SecretBytes::new(vec![7; 31])).is_err());
    }
}
