//! AES-GCM as tokens do it: who makes the IV, where it goes in and where it comes out. What leaves this file is the same for
//! all of them: the IV that was used, and ciphertext ‖ tag.

use cryptoki::object::ObjectHandle;
use cryptoki_sys as sys;

use super::GcmOutput;
use super::error::CallError;
use super::raw::{GcmCall, TAG_LEN};
use super::seat::Seat;
use crate::secret::SecretBytes;

/// Length of an AES-GCM IV in bytes.
pub(super) const IV_LEN: usize = 12;
/// Of the IV that a Luna in FIPS mode makes.
pub(super) const LUNA_IV_LEN: usize = 16;
/// AWS CloudHSM's mechanism that puts the IV before the ciphertext.
pub(super) const CKM_CLOUDHSM_AES_GCM: u64 = sys::CKM_VENDOR_DEFINED | sys::CKM_AES_GCM;

/// Who makes the IV of AES-GCM, as the probe found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IvContract {
    /// The token takes the IV it is given.
    Caller,
    /// The token wants zeros and writes the IV that it chose over them.
    ZeroedWriteback,
    /// The token wants no IV and gives ciphertext ‖ tag ‖ the 16 bytes that it chose.
    LunaAppend16,
    /// Another mechanism, which wants no IV, gives IV ‖ ciphertext ‖ tag and takes the same.
    Prepended,
}

impl IvContract {
    pub(super) const ALL: [IvContract; 4] =
        [IvContract::Caller, IvContract::ZeroedWriteback, IvContract::LunaAppend16, IvContract::Prepended];

    /// As profiles and `doctor` name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            IvContract::Caller => "caller",
            IvContract::ZeroedWriteback => "zeroed-writeback",
            IvContract::LunaAppend16 => "luna-append16",
            IvContract::Prepended => "prepended",
        }
    }

    /// Length of the IVs that C_Encrypt uses, in bytes.
    pub(super) fn iv_len(self) -> usize {
        match self {
            IvContract::Caller | IvContract::ZeroedWriteback | IvContract::Prepended => IV_LEN,
            IvContract::LunaAppend16 => LUNA_IV_LEN,
        }
    }

    pub(super) fn mechanism(self) -> u64 {
        match self {
            IvContract::Caller | IvContract::ZeroedWriteback | IvContract::LunaAppend16 => sys::CKM_AES_GCM,
            IvContract::Prepended => CKM_CLOUDHSM_AES_GCM,
        }
    }

    /// As the audit record names it.
    pub(super) fn mechanism_name(self) -> &'static str {
        match self {
            IvContract::Caller | IvContract::ZeroedWriteback | IvContract::LunaAppend16 => "CKM_AES_GCM",
            IvContract::Prepended => "CKM_CLOUDHSM_AES_GCM",
        }
    }
}

impl Seat {
    pub(super) fn encrypt(&mut self, key: ObjectHandle, aad: &[u8], plaintext: &[u8]) -> Result<GcmOutput, CallError> {
        match self.iv {
            IvContract::Caller => {
                let given = self.random_iv()?;
                let mut iv = given;
                let ciphertext = self.gcm(key, Some(&mut iv), aad, plaintext)?;
                output(iv == given, iv.to_vec(), ciphertext)
            }
            IvContract::ZeroedWriteback => {
                let mut iv = [0u8; IV_LEN];
                let ciphertext = self.gcm(key, Some(&mut iv), aad, plaintext)?;
                output(iv != [0u8; IV_LEN], iv.to_vec(), ciphertext)
            }
            IvContract::LunaAppend16 => {
                let mut ciphertext = self.gcm(key, None, aad, plaintext)?;
                // `gcm` has checked the length.
                let iv = ciphertext.split_off(ciphertext.len().saturating_sub(LUNA_IV_LEN));
                output(iv.iter().any(|byte| *byte != 0), iv, ciphertext)
            }
            IvContract::Prepended => {
                let mut iv = self.gcm(key, None, aad, plaintext)?;
                let ciphertext = iv.split_off(IV_LEN.min(iv.len()));
                output(iv.iter().any(|byte| *byte != 0), iv, ciphertext)
            }
        }
    }

    /// `None`: not a ciphertext that this bridge makes; the token is not asked (SoftHSM takes IVs of no bytes). What was made
    /// under another contract opens too: a partition may have been brought into FIPS mode since.
    pub(super) fn decrypt(
        &mut self,
        key: ObjectHandle,
        iv: &[u8],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Option<SecretBytes>, CallError> {
        if !matches!(iv.len(), IV_LEN | LUNA_IV_LEN) || ciphertext.len() < TAG_LEN {
            return Ok(None);
        }
        let mechanism = self.iv.mechanism();
        let plaintext = if self.iv == IvContract::Prepended {
            if iv.len() != IV_LEN {
                return Ok(None);
            }
            let (input, call) = ([iv, ciphertext].concat(), GcmCall { mechanism, iv: None, aad, extra: IV_LEN });
            self.with(|module, session| module.functions.decrypt_gcm(session, key, call, &input))
        } else {
            let mut iv = iv.to_vec();
            let call = GcmCall { mechanism, iv: Some(&mut iv), aad, extra: 0 };
            self.with(|module, session| module.functions.decrypt_gcm(session, key, call, ciphertext))
        };
        plaintext.map(|plaintext| Some(SecretBytes::new(plaintext)))
    }

    /// C_Encrypt's output as it is, of the length that the contract says.
    fn gcm(
        &mut self,
        key: ObjectHandle,
        iv: Option<&mut [u8]>,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        let extra = if iv.is_some() { 0 } else { self.iv.iv_len() };
        let call = GcmCall { mechanism: self.iv.mechanism(), iv, aad, extra };
        self.with(|module, session| module.functions.encrypt_gcm(session, key, call, plaintext))
    }

    /// RULE SP 800-38D §8.2.2: a random IV of 96 bits. Two generators, so that a weak one does no harm.
    fn random_iv(&mut self) -> Result<[u8; IV_LEN], CallError> {
        let (mut iv, mut own) = ([0u8; IV_LEN], [0u8; IV_LEN]);
        self.fill_random(&mut iv)?;
        getrandom::fill(&mut own).map_err(|_| CallError { function: "getrandom", rv: 0 })?;
        iv.iter_mut().zip(own).for_each(|(byte, own)| *byte ^= own);
        Ok(iv)
    }
}

/// `kept`: the token did with the IV what its contract says.
fn output(kept: bool, iv: Vec<u8>, ciphertext: Vec<u8>) -> Result<GcmOutput, CallError> {
    if kept { Ok(GcmOutput { iv, ciphertext }) } else { Err(CallError { function: "C_Encrypt", rv: 0 }) }
}
