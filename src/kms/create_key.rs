//! CreateKey's rules beyond the model: which usage goes with which key spec, what is not served and why, tags, policy.

use super::WireError;
use super::errors::{client, limit_exceeded, unsupported, validation};
use super::parse::{Input, not_served};
use crate::ids::spec::{KeySpec, KeyUsage};
use crate::ops::{CreateKey, Tag};

/// RULE KMS quotas: key policy document size. The model's bound is wider.
const MAX_POLICY_BYTES: usize = 32_768;
const MAX_TAGS: usize = 50;

pub(super) fn parse(input: &mut Input<'_>) -> Result<CreateKey, WireError> {
    let spec = match (input.text("KeySpec"), input.text("CustomerMasterKeySpec")) {
        (Some(_), Some(_)) => {
            return Err(validation(
                "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is \
                 deprecated.",
            ));
        }
        (Some(spec), None) | (None, Some(spec)) => spec,
        (None, None) => KeySpec::SymmetricDefault.as_str().to_owned(),
    };
    let usage = usage(&spec, input.text("KeyUsage"))?;
    let tags = input.tags("Tags")?;
    let policy = input.text("Policy");
    policy.as_deref().map_or(Ok(()), check_policy_size)?;
    let key_store = key_store(input)?;
    let (spec, usage) = served(&spec, &usage)?;
    Ok(CreateKey {
        spec,
        usage,
        description: input.text("Description").unwrap_or_default(),
        policy,
        tags,
        bypass_policy_lockout_safety_check: input.given_flag("BypassPolicyLockoutSafetyCheck"),
        key_store,
    })
}

pub(super) fn check_policy_size(policy: &str) -> Result<(), WireError> {
    if policy.len() > MAX_POLICY_BYTES {
        return Err(limit_exceeded(format!("The key policy is larger than {MAX_POLICY_BYTES} bytes.")));
    }
    Ok(())
}

/// Also the limit of tags on a key, as far as one request shows it.
pub(super) fn check_tags(tags: &[Tag]) -> Result<(), WireError> {
    let refuse = |text: &'static str| Err(client("TagException", text));
    if tags.iter().any(|t| t.key.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("aws:"))) {
        return refuse("Tags beginning with aws: are reserved");
    }
    let mut keys: Vec<&str> = tags.iter().map(|t| t.key.as_str()).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|pair| pair.first() == pair.last()) {
        return refuse("Duplicate tag keys");
    }
    if tags.len() > MAX_TAGS {
        return refuse("Too many tags");
    }
    Ok(())
}

/// RULE CreateKey, KeyUsage: may be left out for symmetric encryption keys only, and must go with the key spec.
fn usage(spec: &str, usage: Option<String>) -> Result<String, WireError> {
    let symmetric = spec == KeySpec::SymmetricDefault.as_str();
    let usage = match usage {
        Some(usage) => usage,
        None if symmetric => KeyUsage::EncryptDecrypt.as_str().to_owned(),
        None => {
            return Err(validation(
                "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.",
            ));
        }
    };
    if usages(spec).contains(&usage.as_str()) {
        Ok(usage)
    } else {
        Err(validation(format!("KeyUsage {usage} is not compatible with KeySpec {spec}")))
    }
}

/// AWS's usages of each key spec of the model.
fn usages(spec: &str) -> &'static [&'static str] {
    match spec {
        "SYMMETRIC_DEFAULT" => &["ENCRYPT_DECRYPT"],
        "RSA_2048" | "RSA_3072" | "RSA_4096" => &["ENCRYPT_DECRYPT", "SIGN_VERIFY"],
        "ECC_NIST_P256" | "ECC_NIST_P384" | "ECC_NIST_P521" => &["SIGN_VERIFY", "KEY_AGREEMENT"],
        "ECC_SECG_P256K1" | "ECC_NIST_EDWARDS25519" | "ML_DSA_44" | "ML_DSA_65" | "ML_DSA_87" => &["SIGN_VERIFY"],
        "HMAC_224" | "HMAC_256" | "HMAC_384" | "HMAC_512" => &["GENERATE_VERIFY_MAC"],
        "SM2" => &["ENCRYPT_DECRYPT", "SIGN_VERIFY", "KEY_AGREEMENT"],
        "ML_KEM_512" | "ML_KEM_768" | "ML_KEM_1024" => &["ENCAPSULATE_DECAPSULATE"],
        _ => &[],
    }
}

/// RULE CreateKey, Origin and CustomKeyStoreId: a key in a CloudHSM key store names both. Whether the store takes the key
/// spec is for the operation to say.
fn key_store(input: &mut Input<'_>) -> Result<Option<String>, WireError> {
    let id = input.text("CustomKeyStoreId");
    let in_store = match (input.text("Origin").as_deref(), &id) {
        (Some("EXTERNAL"), _) => {
            return Err(unsupported("Origin EXTERNAL: import of key material is not served by this version"));
        }
        (Some("EXTERNAL_KEY_STORE"), _) => {
            return Err(unsupported("Origin EXTERNAL_KEY_STORE: external key stores are not served by this version"));
        }
        (None | Some("AWS_KMS"), None) => false,
        (Some("AWS_CLOUDHSM"), Some(_)) => true,
        (Some("AWS_CLOUDHSM"), None) => {
            return Err(validation("You must specify a CustomKeyStoreId when the Origin is AWS_CLOUDHSM."));
        }
        (origin, Some(_)) => {
            let origin = origin.unwrap_or("AWS_KMS");
            return Err(validation(format!(
                "CustomKeyStoreId is not valid when the Origin is {origin}: the Origin of a KMS key in an AWS CloudHSM key \
                 store is AWS_CLOUDHSM."
            )));
        }
        (Some(origin), None) => return Err(not_served("Origin", origin)),
    };
    if input.text("XksKeyId").is_some() {
        return Err(unsupported("XksKeyId: external key stores are not served by this version"));
    }
    if input.flag("MultiRegion") {
        return Err(unsupported(match in_store {
            true => "MultiRegion: KMS keys in custom key stores cannot be multi-Region keys.",
            false => "MultiRegion: multi-Region keys are not served: key material never leaves the token",
        }));
    }
    Ok(id)
}

/// What AWS takes and this version does not make.
fn served(spec: &str, usage: &str) -> Result<(KeySpec, KeyUsage), WireError> {
    let Some(known) = KeySpec::from_wire(spec) else {
        return Err(not_served("KeySpec", spec));
    };
    match KeyUsage::from_wire(usage) {
        Some(usage) if usage == known.default_usage() => Ok((known, usage)),
        _ => Err(unsupported(format!("KeyUsage {usage} with KeySpec {spec} is not served by this version"))),
    }
}
