//! What can be asked of a connected token, as values: a connection in this process, a worker process and a group of tokens take
//! the same requests, and the frames between processes carry them.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Adopted, CallContext, Capabilities, Change, DataName, Enforcement, Facts, Gauges, GcmOutput, Generated, Hash,
    Isolation, KeyKind, KeyRef, MaterialId, ObjectFacts, ObjectReport, ObjectSelector, SignMechanism, Status,
    SystemKey, TokenError, TokenGroup, TokenInfo,
};
use crate::secret::{SecretBytes, SecretString};

/// A request to a token. Each has one kind of `Answer`, which stands behind it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// `Sealed`
    Encrypt {
        key: KeyRef,
        #[serde(with = "bytes")]
        aad: Vec<u8>,
        #[serde(with = "secret")]
        plaintext: SecretBytes,
    },
    /// `Secret`
    Decrypt {
        key: KeyRef,
        #[serde(with = "bytes")]
        iv: Vec<u8>,
        #[serde(with = "bytes")]
        aad: Vec<u8>,
        #[serde(with = "bytes")]
        ciphertext: Vec<u8>,
    },
    /// `DataKey`
    DataKey {
        key: KeyRef,
        #[serde(with = "bytes")]
        aad: Vec<u8>,
        len: usize,
    },
    /// `Secret`
    Random { len: usize },
    /// `Signature`
    Sign {
        key: KeyRef,
        mechanism: SignMechanism,
        #[serde(with = "secret")]
        input: SecretBytes,
    },
    /// `Secret`
    Mac {
        key: KeyRef,
        hash: Hash,
        #[serde(with = "secret")]
        message: SecretBytes,
    },
    /// `Checked`
    Check { key: KeyRef },
    /// `Generated`
    Generate { kind: KeyKind, material: MaterialId, label: String },
    /// `Destroyed`
    Destroy { material: MaterialId },
    /// `Absent`
    Absent { materials: Vec<MaterialId> },
    /// `Flag`
    Holds { material: MaterialId },
    /// `Flag`
    EnsureSystemKey { key: SystemKey },
    /// `Bytes`
    SystemPublicKey { key: SystemKey },
    /// `Objects`
    Objects,
    /// `Materials`
    Materials,
    /// `Inspected`
    Inspect { selector: ObjectSelector },
    /// `Listed`
    List,
    /// `Slice`
    ReadSlice { epoch: u64, objects: Vec<u64> },
    /// `Data`
    ReadData { name: DataName },
    /// `Nothing`
    WriteData {
        name: DataName,
        #[serde(with = "bytes")]
        value: Vec<u8>,
    },
    /// `Adopted`
    Adopt {
        #[serde(with = "bytes")]
        cka_id: Vec<u8>,
        material: MaterialId,
    },
    /// `Enforcement`
    Enforcement,
}

/// What a token answers to a `Request`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    Sealed {
        output: GcmOutput,
        facts: Facts,
    },
    Secret {
        #[serde(with = "secret")]
        value: SecretBytes,
        facts: Facts,
    },
    DataKey {
        #[serde(with = "secret")]
        plaintext: SecretBytes,
        output: GcmOutput,
        facts: Facts,
    },
    Signature {
        #[serde(with = "bytes")]
        value: Vec<u8>,
        facts: Facts,
    },
    Checked {
        facts: Facts,
    },
    Generated {
        value: Generated,
        facts: Facts,
    },
    Destroyed {
        count: usize,
        facts: Facts,
    },
    Absent(Vec<MaterialId>),
    Flag(bool),
    Bytes(#[serde(with = "bytes")] Vec<u8>),
    Objects(Vec<ObjectReport>),
    Materials(Vec<(MaterialId, usize)>),
    Inspected(Vec<ObjectFacts>),
    /// The handles of all objects, good in this epoch.
    Listed {
        epoch: u64,
        objects: Vec<u64>,
    },
    /// `None`: the handles are of another epoch.
    Slice(Option<Vec<ObjectFacts>>),
    Data(Vec<Vec<u8>>),
    Adopted {
        value: Box<Adopted>,
        facts: Facts,
    },
    Enforcement(Enforcement),
    Nothing,
}

impl Request {
    /// For logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Encrypt { .. } => "encrypt",
            Request::Decrypt { .. } => "decrypt",
            Request::DataKey { .. } => "data_key",
            Request::Random { .. } => "random",
            Request::Sign { .. } => "sign",
            Request::Mac { .. } => "mac",
            Request::Check { .. } => "check",
            Request::Generate { .. } => "generate",
            Request::Destroy { .. } => "destroy",
            Request::Absent { .. } => "absent",
            Request::Holds { .. } => "holds",
            Request::EnsureSystemKey { .. } => "ensure_system_key",
            Request::SystemPublicKey { .. } => "system_public_key",
            Request::Objects => "objects",
            Request::Materials => "materials",
            Request::Inspect { .. } => "inspect",
            Request::List => "list",
            Request::ReadSlice { .. } => "read_slice",
            Request::ReadData { .. } => "read_data",
            Request::WriteData { .. } => "write_data",
            Request::Adopt { .. } => "adopt",
            Request::Enforcement => "enforcement",
        }
    }

    /// Waits for `Settings::generate_deadline` from when it is asked, and not for the context's deadline.
    pub fn is_slow(&self) -> bool {
        !matches!(
            self,
            Request::Encrypt { .. }
                | Request::Decrypt { .. }
                | Request::DataKey { .. }
                | Request::Random { .. }
                | Request::Sign { .. }
                | Request::Mac { .. }
                | Request::Check { .. }
                | Request::Enforcement
        )
    }

    /// The key it uses.
    pub fn key(&self) -> Option<&KeyRef> {
        match self {
            Request::Encrypt { key, .. }
            | Request::Decrypt { key, .. }
            | Request::DataKey { key, .. }
            | Request::Sign { key, .. }
            | Request::Mac { key, .. }
            | Request::Check { key } => Some(key),
            _ => None,
        }
    }

    /// Whether the token holds something else afterwards.
    pub fn changes(&self) -> bool {
        matches!(
            self,
            Request::Generate { .. }
                | Request::Destroy { .. }
                | Request::EnsureSystemKey { .. }
                | Request::WriteData { .. }
        )
    }
}

/// What is known of a connected token without asking it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub info: TokenInfo,
    pub capabilities: Arc<Capabilities>,
    /// Length in bytes of the IVs that `encrypt` and `data_key` give.
    pub iv_len: usize,
    /// `CKA_LABEL` of the system keys, in the order of `SystemKey::ALL`.
    pub system_labels: [String; 4],
    /// The vendor's library.
    pub module: PathBuf,
    /// Which process has loaded it.
    #[serde(skip)]
    pub isolation: Isolation,
    /// The profile's words for people.
    pub pin_hint: Option<String>,
    pub notes: Option<String>,
}

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something that is a connected token to its users.
pub trait Backend: Send + Sync {
    /// RULE: answers by the deadline, with `ErrorClass::Deadline` where nothing else is known by then.
    fn perform<'a>(&'a self, ctx: &'a CallContext, request: Request) -> BoxFuture<'a, Result<Answer, TokenError>>;

    fn change_pin(&self, pin: SecretString) -> BoxFuture<'_, Result<(), TokenError>>;

    fn about(&self) -> Arc<About>;

    fn status(&self) -> Status;

    fn gauges(&self) -> Gauges;

    /// What happened to the token since the last time somebody asked, for the log.
    fn changes(&self) -> Vec<Change>;

    /// Why the process has to end: a call that hangs in the vendor's library cannot be ended otherwise.
    fn doom(&self) -> Option<String>;

    /// From now on the objects of these materials are those with this `CKA_ID`. Holds for what is connected later, too.
    fn place(&self, places: Vec<(MaterialId, Vec<u8>)>);

    fn give_up(&self, material: MaterialId);

    /// Blocks until running calls end, for a few seconds at most.
    fn close(&self);

    /// `None`: it is one token. What wraps a token hands this on.
    fn group(&self) -> Option<&dyn TokenGroup>;
}

/// Byte strings in frames: one piece and not a list of numbers.
pub(super) mod bytes {
    use std::fmt;

    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_bytes(Bytes)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Vec<u8>, E> {
            Ok(value.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, value: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(value)
        }
    }
}

/// Secret bytes in frames; the frames themselves are wiped by whoever makes them.
pub(super) mod secret {
    use serde::de::Deserializer;
    use serde::ser::Serializer;

    use crate::secret::SecretBytes;

    pub(crate) fn serialize<S: Serializer>(value: &SecretBytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(value.expose())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretBytes, D::Error> {
        super::bytes::deserialize(deserializer).map(SecretBytes::new)
    }
}

/// Names of functions and mechanisms, which are constants of this program on both sides.
pub(super) mod names {
    use std::collections::BTreeSet;
    use std::sync::{Mutex, PoisonError};

    use serde::de::{Deserialize, Deserializer};
    use serde::ser::Serializer;

    /// A peer cannot fill the memory with names: beyond these bounds a name is told as this.
    const UNKNOWN: &str = "unknown";
    const MOST: usize = 512;
    const LONGEST: usize = 64;

    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

    pub(crate) fn serialize<S: Serializer>(value: &str, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
        String::deserialize(deserializer).map(|name| known(&name))
    }

    pub(super) fn known(name: &str) -> &'static str {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(name) {
            return found;
        }
        if known.len() >= MOST || name.len() > LONGEST {
            return UNKNOWN;
        }
        let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
        known.insert(kept);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        assert_eq!(names::known("C_Encrypt"), "C_Encrypt");
        assert!(std::ptr::eq(names::known("C_Encrypt"), names::known("C_Encrypt")));
        assert_eq!(names::known(&"x".repeat(65)), "unknown");
    }

    #[test]
    fn requests_and_answers_travel() {
        let key = KeyRef::Kms { material: MaterialId { id: [7; 16], generation: 3 }, fingerprint: Arc::from([1, 2]) };
        let request = Request::Decrypt { key, iv: vec![1; 12], aad: vec![], ciphertext: vec![9; 40] };
        let frame = postcard::to_stdvec(&request).unwrap();
        let back: Request = postcard::from_bytes(&frame).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
        let facts = Facts { mechanism: "CKM_AES_GCM", micros: 7, token: Arc::from("serial"), slot: 9 };
        let answer: Result<Answer, TokenError> =
            Ok(Answer::Secret { value: SecretBytes::new(b"canary".to_vec()), facts });
        let back: Result<Answer, TokenError> = postcard::from_bytes(&postcard::to_stdvec(&answer).unwrap()).unwrap();
        let Ok(Answer::Secret { value, facts }) = back else { panic!("another answer") };
        assert_eq!((value.expose(), facts.mechanism, facts.slot), (&b"canary"[..], "CKM_AES_GCM", 9));
        let error = TokenError::own(super::super::ErrorClass::Deadline, "queue", "late");
        let back: TokenError = postcard::from_bytes(&postcard::to_stdvec(&error).unwrap()).unwrap();
        assert_eq!(back.to_string(), error.to_string());
    }
}
