//! The store key is wrapped by the token: C_Encrypt under `hsm-bridge/store-kek`, a key used for nothing else.

use std::time::{Duration, Instant};

use crate::keystore::{CallContext, KeyRef, SystemKey, Token};
use crate::ops::sealed;
use crate::secret::SecretBytes;
use crate::store::{BoxFuture, WrapKey};

const DEADLINE: Duration = Duration::from_secs(30);

pub struct TokenWrap {
    token: Token,
}

impl TokenWrap {
    pub fn new(token: Token) -> Self {
        Self { token }
    }

    fn call(&self) -> CallContext {
        CallContext {
            principal: "hsm-bridge".into(),
            deadline: Instant::now() + DEADLINE,
            request_id: "store-key".into(),
        }
    }
}

impl WrapKey for TokenWrap {
    fn wrap<'a>(&'a self, aad: Vec<u8>, key: &'a SecretBytes) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let kek = KeyRef::System(SystemKey::StoreKek);
            let done = self.token.encrypt(&self.call(), &kek, aad, key.clone()).await.map_err(|e| e.to_string())?;
            sealed::join(done.value)
        })
    }

    fn unwrap<'a>(&'a self, aad: Vec<u8>, wrapped: &'a [u8]) -> BoxFuture<'a, Result<SecretBytes, String>> {
        Box::pin(async move {
            let (iv, sealed) = sealed::split(wrapped).ok_or("the wrapped store key is too short")?;
            let kek = KeyRef::System(SystemKey::StoreKek);
            let opened = self.token.decrypt(&self.call(), &kek, iv.to_vec(), aad, sealed.to_vec()).await;
            opened.map(|done| done.value).map_err(|e| e.to_string())
        })
    }

    fn random32(&self) -> BoxFuture<'_, Result<SecretBytes, String>> {
        Box::pin(
            async move { self.token.random(&self.call(), 32).await.map(|done| done.value).map_err(|e| e.to_string()) },
        )
    }

    fn name(&self) -> String {
        self.token.info().serial
    }
}
