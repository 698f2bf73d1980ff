//! A body to a typed request: syntax, then the model's constraints, then the rules that AWS states only in prose. What
//! is not served is refused here with its reason, never ignored.

use super::errors::{client, unknown_operation, unsupported, validation};
use super::value::{self, Fields, Value};
use super::{WireError, model, validate};
use super::{create_key, grants, key_stores, rotate_alias};
use crate::ids::AliasName;
use crate::ids::spec::{DataKeySpec, EncryptionAlgorithm, MacAlgorithm, MessageType, SigningAlgorithm};
use crate::ops::{DataKeySize, EncryptionContext, KeyIdText, Operation, Page, ReEncrypt, Request, Service, Tag};
use crate::secret::SecretBytes;

/// The one operation that is ours.
const ROTATE_ALIAS: &str = "HsmBridge.RotateAlias";

/// `X-Amz-Target` to an operation: `TrentService.<name>`; anything else is UnknownOperationException.
pub fn target(header: Option<&[u8]>) -> Result<Operation, WireError> {
    let text = header.and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or_else(unknown_operation)?;
    let known = match text {
        ROTATE_ALIAS => Some(Operation::RotateAlias),
        _ => text.strip_prefix("TrentService.").and_then(Operation::from_name),
    };
    known.ok_or_else(unknown_operation)
}

/// Parses and validates a body. Strings that carry secrets are zeroised. Errors: SerializationException,
/// ValidationException and what AWS answers at this stage. Of operations that are not served only the syntax is checked.
pub fn parse(operation: Operation, body: &[u8]) -> Result<Request, WireError> {
    if let Service::Refused(reason) = operation.service() {
        value::check_syntax(body)?;
        return Ok(Request::Unsupported { operation, reason });
    }
    let fields = value::body(model::input(operation), body)?;
    validate::check(&fields)?;
    request(operation, &mut Input(fields))
}

fn request(operation: Operation, input: &mut Input<'_>) -> Result<Request, WireError> {
    use Operation as O;
    Ok(match operation {
        O::CreateKey => Request::CreateKey(create_key::parse(input)?),
        O::DescribeKey => Request::DescribeKey { key: input.key("KeyId")?, grant_tokens: input.grant_tokens() },
        O::ListKeys => {
            // Keys of other accounts are shared through a service that is not here.
            if input.texts("ResourceOwners").is_some_and(|owners| owners.iter().any(|o| o != "SELF")) {
                return Err(unsupported("keys shared by other accounts are not served by this version"));
            }
            Request::ListKeys { page: input.page() }
        }
        O::EnableKey => Request::EnableKey { key: input.key("KeyId")? },
        O::DisableKey => Request::DisableKey { key: input.key("KeyId")? },
        O::ScheduleKeyDeletion => Request::ScheduleKeyDeletion {
            pending_window_in_days: pending_window(input.integer("PendingWindowInDays"))?,
            key: input.key("KeyId")?,
        },
        O::CancelKeyDeletion => Request::CancelKeyDeletion { key: input.key("KeyId")? },
        O::UpdateKeyDescription => Request::UpdateKeyDescription {
            key: input.key("KeyId")?,
            description: input.required(Input::text, "Description")?,
        },
        O::TagResource => Request::TagResource { tags: input.tags("Tags")?, key: input.key("KeyId")? },
        O::UntagResource => {
            Request::UntagResource { key: input.key("KeyId")?, tag_keys: input.required(Input::texts, "TagKeys")? }
        }
        O::ListResourceTags => Request::ListResourceTags { key: input.key("KeyId")?, page: input.page() },
        O::CreateAlias => Request::CreateAlias { alias: input.alias()?, target: input.key("TargetKeyId")? },
        O::UpdateAlias => Request::UpdateAlias { alias: input.alias()?, target: input.key("TargetKeyId")? },
        O::DeleteAlias => Request::DeleteAlias { alias: input.alias()? },
        O::ListAliases => Request::ListAliases { key: input.optional_key("KeyId"), page: input.page() },
        O::Encrypt => Request::Encrypt {
            key: input.key("KeyId")?,
            plaintext: input.secret("Plaintext")?,
            context: input.context("EncryptionContext"),
            algorithm: input.encryption_algorithm("EncryptionAlgorithm")?,
            grant_tokens: input.grant_tokens(),
            dry_run: input.flag("DryRun"),
        },
        O::Decrypt => {
            input.refuse_ciphertext_modifiers()?;
            input.refuse_recipient()?;
            Request::Decrypt {
                key: input.optional_key("KeyId"),
                ciphertext: input.required(Input::bytes, "CiphertextBlob")?,
                context: input.context("EncryptionContext"),
                algorithm: input.encryption_algorithm("EncryptionAlgorithm")?,
                grant_tokens: input.grant_tokens(),
                dry_run: input.flag("DryRun"),
            }
        }
        O::ReEncrypt => {
            input.refuse_ciphertext_modifiers()?;
            Request::ReEncrypt(ReEncrypt {
                ciphertext: input.required(Input::bytes, "CiphertextBlob")?,
                source_key: input.optional_key("SourceKeyId"),
                source_context: input.context("SourceEncryptionContext"),
                source_algorithm: input.encryption_algorithm("SourceEncryptionAlgorithm")?,
                destination_key: input.key("DestinationKeyId")?,
                destination_context: input.context("DestinationEncryptionContext"),
                destination_algorithm: input.encryption_algorithm("DestinationEncryptionAlgorithm")?,
                grant_tokens: input.grant_tokens(),
                dry_run: input.flag("DryRun"),
            })
        }
        O::GenerateDataKey => generate_data_key(input, true)?,
        O::GenerateDataKeyWithoutPlaintext => generate_data_key(input, false)?,
        O::GenerateRandom => {
            let Some(number_of_bytes) = input.integer("NumberOfBytes") else {
                return Err(validation("NumberOfBytes is required."));
            };
            input.refuse_recipient()?;
            Request::GenerateRandom { number_of_bytes, key_store: input.text("CustomKeyStoreId") }
        }
        O::Sign => Request::Sign {
            key: input.key("KeyId")?,
            message: input.secret("Message")?,
            message_type: input.message_type()?,
            algorithm: input.signing_algorithm()?,
            grant_tokens: input.grant_tokens(),
            dry_run: input.flag("DryRun"),
        },
        O::Verify => Request::Verify {
            key: input.key("KeyId")?,
            message: input.secret("Message")?,
            message_type: input.message_type()?,
            signature: input.required(Input::bytes, "Signature")?,
            algorithm: input.signing_algorithm()?,
            grant_tokens: input.grant_tokens(),
            dry_run: input.flag("DryRun"),
        },
        O::GetPublicKey => Request::GetPublicKey { key: input.key("KeyId")?, grant_tokens: input.grant_tokens() },
        O::GenerateMac => Request::GenerateMac {
            key: input.key("KeyId")?,
            message: input.secret("Message")?,
            algorithm: input.mac_algorithm()?,
            grant_tokens: input.grant_tokens(),
            dry_run: input.flag("DryRun"),
        },
        O::VerifyMac => Request::VerifyMac {
            key: input.key("KeyId")?,
            message: input.secret("Message")?,
            mac: input.secret("Mac")?,
            algorithm: input.mac_algorithm()?,
            grant_tokens: input.grant_tokens(),
            dry_run: input.flag("DryRun"),
        },
        O::GetKeyPolicy => {
            input.default_policy_name()?;
            Request::GetKeyPolicy { key: input.key("KeyId")? }
        }
        O::PutKeyPolicy => {
            input.default_policy_name()?;
            let policy = input.required(Input::text, "Policy")?;
            create_key::check_policy_size(&policy)?;
            Request::PutKeyPolicy {
                key: input.key("KeyId")?,
                policy,
                bypass_policy_lockout_safety_check: input.given_flag("BypassPolicyLockoutSafetyCheck"),
            }
        }
        O::ListKeyPolicies => Request::ListKeyPolicies { key: input.key("KeyId")?, page: input.page() },
        O::GetKeyRotationStatus => Request::GetKeyRotationStatus { key: input.key("KeyId")? },
        O::CreateGrant | O::ListGrants | O::ListRetirableGrants | O::RetireGrant | O::RevokeGrant => {
            grants::parse(operation, input)?
        }
        O::GetKeyLastUsage => Request::GetKeyLastUsage { key: input.key("KeyId")? },
        O::ConnectCustomKeyStore
        | O::CreateCustomKeyStore
        | O::DeleteCustomKeyStore
        | O::DescribeCustomKeyStores
        | O::DisconnectCustomKeyStore
        | O::UpdateCustomKeyStore => key_stores::parse(operation, input)?,
        O::RotateAlias => rotate_alias::parse(input)?,
        O::DeleteImportedKeyMaterial
        | O::DisableKeyRotation
        | O::EnableKeyRotation
        | O::GetParametersForImport
        | O::ImportKeyMaterial
        | O::ListKeyRotations
        | O::ReplicateKey
        | O::RotateKeyOnDemand
        | O::UpdatePrimaryRegion => {
            let reason = match operation.service() {
                Service::RefusedOnKey(reason) | Service::Refused(reason) => reason,
                Service::Served => "this operation is not served by this version",
            };
            Request::RefusedOnKey { operation, key: input.key("KeyId")?, reason }
        }
        O::Decapsulate
        | O::DeriveSharedSecret
        | O::Encapsulate
        | O::GenerateDataKeyPair
        | O::GenerateDataKeyPairWithoutPlaintext => {
            return Ok(Request::Unsupported { operation, reason: "this operation is not served by this version" });
        }
    })
}

/// RULE ScheduleKeyDeletion, PendingWindowInDays: 7 to 30, default 30. Narrower than the model's range.
fn pending_window(days: Option<u32>) -> Result<u32, WireError> {
    match days {
        None => Ok(30),
        Some(days) if (7..=30).contains(&days) => Ok(days),
        Some(_) => Err(validation("PendingWindowInDays must be between 7 and 30")),
    }
}

fn generate_data_key(input: &mut Input<'_>, with_plaintext: bool) -> Result<Request, WireError> {
    let spec = input.text("KeySpec").and_then(|t| DataKeySpec::from_wire(&t));
    let size = match (spec, input.integer("NumberOfBytes")) {
        (Some(spec), None) => DataKeySize::Spec(spec),
        (None, Some(bytes)) => DataKeySize::Bytes(bytes),
        _ => return Err(validation("Please specify either number of bytes or key spec.")),
    };
    if with_plaintext {
        input.refuse_recipient()?;
    }
    Ok(Request::GenerateDataKey {
        key: input.key("KeyId")?,
        size,
        context: input.context("EncryptionContext"),
        with_plaintext,
        grant_tokens: input.grant_tokens(),
        dry_run: input.flag("DryRun"),
    })
}

/// The members of a request that has passed the model's constraints. Taking a member moves it out.
pub(super) struct Input<'a>(Fields<'a>);

impl Input<'_> {
    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.0.take(name) {
            Some(Value::Text(text)) => Some(text.into_string()),
            _ => None,
        }
    }

    /// Whether a member that is refused whatever it holds stands in the request.
    pub(super) fn given(&mut self, name: &str) -> bool {
        self.0.take(name).is_some()
    }

    pub fn flag(&mut self, name: &str) -> bool {
        self.given_flag(name) == Some(true)
    }

    /// `None`: not in the request.
    pub fn given_flag(&mut self, name: &str) -> Option<bool> {
        match self.0.take(name) {
            Some(Value::Boolean(value)) => Some(value),
            _ => None,
        }
    }

    /// Tags that pass the rules for one request (kms-api.md §1, TagException).
    pub fn tags(&mut self, name: &str) -> Result<Vec<Tag>, WireError> {
        let Some(Value::List(items)) = self.0.take(name) else { return Ok(Vec::new()) };
        let tag = |item| match item {
            Some(Value::Structure(fields)) => {
                let mut tag = Input(fields);
                Some(Tag { key: tag.text("TagKey")?, value: tag.text("TagValue")? })
            }
            _ => None,
        };
        let tags: Vec<Tag> = items.into_iter().filter_map(tag).collect();
        create_key::check_tags(&tags)?;
        Ok(tags)
    }

    /// A member that the operation needs; the model requires most of them already.
    pub(super) fn required<T>(
        &mut self,
        take: impl Fn(&mut Self, &str) -> Option<T>,
        name: &str,
    ) -> Result<T, WireError> {
        take(self, name).ok_or_else(|| {
            let mut path = name.to_owned();
            if let Some(first) = path.get_mut(..1) {
                first.make_ascii_lowercase();
            }
            validate::missing(&path)
        })
    }

    pub(super) fn key(&mut self, name: &str) -> Result<KeyIdText, WireError> {
        self.required(Self::text, name).map(KeyIdText)
    }

    pub(super) fn optional_key(&mut self, name: &str) -> Option<KeyIdText> {
        self.text(name).map(KeyIdText)
    }

    /// Integers of the served operations are small and positive by the model.
    pub(super) fn integer(&mut self, name: &str) -> Option<u32> {
        match self.0.take(name) {
            Some(Value::Integer(number)) => u32::try_from(number).ok(),
            _ => None,
        }
    }

    fn bytes(&mut self, name: &str) -> Option<Vec<u8>> {
        match self.0.take(name) {
            Some(Value::Blob(blob)) => Some(blob.into_bytes()),
            _ => None,
        }
    }

    fn secret(&mut self, name: &str) -> Result<SecretBytes, WireError> {
        self.required(Self::bytes, name).map(SecretBytes::new)
    }

    pub(super) fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let Some(Value::List(items)) = self.0.take(name) else { return None };
        let text = |item| match item {
            Some(Value::Text(text)) => Some(text.into_string()),
            _ => None,
        };
        Some(items.into_iter().filter_map(text).collect())
    }

    pub(super) fn structure(&mut self, name: &str) -> Option<Input<'_>> {
        match self.0.take(name) {
            Some(Value::Structure(fields)) => Some(Input(fields)),
            _ => None,
        }
    }

    /// `{}` equals absent.
    fn context(&mut self, name: &str) -> EncryptionContext {
        self.map(name).unwrap_or_default()
    }

    pub(super) fn map(&mut self, name: &str) -> Option<Vec<(String, String)>> {
        let Some(Value::Map(entries)) = self.0.take(name) else { return None };
        let pair = |(key, value): (std::borrow::Cow<'_, str>, _)| match value {
            Some(Value::Text(text)) => Some((key.into_owned(), text.into_string())),
            _ => None,
        };
        Some(entries.into_iter().filter_map(pair).collect())
    }

    pub(super) fn grant_tokens(&mut self) -> Vec<String> {
        self.texts("GrantTokens").unwrap_or_default()
    }

    pub(super) fn page(&mut self) -> Page {
        Page { limit: self.integer("Limit"), marker: self.text("Marker") }
    }

    fn encryption_algorithm(&mut self, name: &str) -> Result<EncryptionAlgorithm, WireError> {
        match self.text(name) {
            None => Ok(EncryptionAlgorithm::SymmetricDefault),
            Some(text) => {
                EncryptionAlgorithm::from_wire(&text).ok_or_else(|| not_served("encryption algorithm", &text))
            }
        }
    }

    fn signing_algorithm(&mut self) -> Result<SigningAlgorithm, WireError> {
        let text = self.required(Self::text, "SigningAlgorithm")?;
        SigningAlgorithm::from_wire(&text).ok_or_else(|| not_served("signing algorithm", &text))
    }

    fn mac_algorithm(&mut self) -> Result<MacAlgorithm, WireError> {
        let text = self.required(Self::text, "MacAlgorithm")?;
        MacAlgorithm::from_wire(&text).ok_or_else(|| not_served("MAC algorithm", &text))
    }

    fn message_type(&mut self) -> Result<MessageType, WireError> {
        match self.text("MessageType") {
            None => Ok(MessageType::Raw),
            Some(text) => MessageType::from_wire(&text).ok_or_else(|| not_served("message type", &text)),
        }
    }

    pub(super) fn alias(&mut self) -> Result<AliasName, WireError> {
        let text = self.required(Self::text, "AliasName")?;
        if !text.starts_with("alias/") {
            return Err(validation(
                "Alias must start with the prefix \"alias/\". Please see \
                 https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html",
            ));
        }
        // The model's length and pattern hold by now; what is left is a prefix without a name.
        text.parse()
            .map_err(|_| client("InvalidAliasNameException", "The alias has no name after the prefix \"alias/\"."))
    }

    /// `default` is the only name that a key policy can have.
    fn default_policy_name(&mut self) -> Result<(), WireError> {
        match self.text("PolicyName") {
            // RULE kms-api.md: the model knows a second policy of a key, which is not ours to write.
            Some(name) if name == "AWS_RAM" => {
                Err(validation("The AWS_RAM policy can only be managed by the RAM service"))
            }
            Some(name) if name != "default" => Err(client("NotFoundException", "No such policy exists")),
            _ => Ok(()),
        }
    }

    fn refuse_recipient(&mut self) -> Result<(), WireError> {
        match self.0.take("Recipient") {
            Some(_) => Err(unsupported("Recipient (an attested enclave) is not served by this version")),
            None => Ok(()),
        }
    }

    /// DryRunModifiers let a dry run go without its ciphertext.
    fn refuse_ciphertext_modifiers(&mut self) -> Result<(), WireError> {
        match self.texts("DryRunModifiers") {
            Some(modifiers) if !modifiers.is_empty() => {
                Err(unsupported("DryRunModifiers are not served by this version"))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn not_served(what: &str, name: &str) -> WireError {
    unsupported(format!("{what} {name} is not served by this version"))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
