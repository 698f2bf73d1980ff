//! KeyStorePassword, sealed by the default token's key `hsm-bridge/iam-wrap`.

use crate::ids::KeyStoreId;
use crate::keystore::{CallContext, KeyRef, SystemKey};
use crate::ops::{OpError, Ops, sealed, token_error};
use crate::secret::{SecretBytes, SecretString, associated_data};
use crate::store::KeyStoreRecord;

/// First string of the associated data; every other use of AES-GCM has its own.
const AAD_LABEL: &str = "hsm-bridge/key-store-password/1";
const KEY: &str = "hsm-bridge/iam-wrap";

impl Ops {
    pub(in crate::ops) async fn seal_password(
        &self,
        id: &KeyStoreId,
        password: &SecretString,
        call: &CallContext,
    ) -> Result<Vec<u8>, OpError> {
        let key = KeyRef::System(SystemKey::IamWrap);
        let plaintext = SecretBytes::new(password.expose().as_bytes().to_vec());
        let aad = aad(self.store.deployment_id(), id);
        let done = self.keystore.token().encrypt(call, &key, aad, plaintext).await.map_err(|e| token_error(e, KEY))?;
        sealed::join(done.value).map_err(OpError::Internal)
    }

    pub(in crate::ops) async fn open_password(
        &self,
        record: &KeyStoreRecord,
        call: &CallContext,
    ) -> Result<SecretString, OpError> {
        let broken = |what: &str| OpError::Internal(format!("the sealed password of {} {what}", record.id));
        let (iv, sealed) = sealed::split(&record.wrapped_password).ok_or_else(|| broken("is too short"))?;
        let key = KeyRef::System(SystemKey::IamWrap);
        let aad = aad(self.store.deployment_id(), &record.id);
        let opened = self.keystore.token().decrypt(call, &key, iv.to_vec(), aad, sealed.to_vec()).await;
        let opened = opened.map_err(|error| broken(&format!("does not open: {error}")))?;
        let text = std::str::from_utf8(opened.value.expose()).map_err(|_| broken("is no text"))?;
        Ok(SecretString::new(text.to_owned()))
    }
}

/// Label, deployment and key store, each with its length before it: a sealed password opens for one key store only.
fn aad(deployment: &str, id: &KeyStoreId) -> Vec<u8> {
    associated_data(&[AAD_LABEL, deployment, id.as_str()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn associated_data_is_bound_to_deployment_and_store() {
        let (a, b): (KeyStoreId, KeyStoreId) =
            ("cks-0123456789abcdef0".parse().unwrap(), "cks-0123456789abcdef1".parse().unwrap());
        assert_ne!(aad("d", &a), aad("d", &b));
        assert_ne!(aad("d", &a), aad("e", &a));
        assert_eq!(&aad("d", &a)[8..8 + AAD_LABEL.len()], AAD_LABEL.as_bytes());
    }
}
