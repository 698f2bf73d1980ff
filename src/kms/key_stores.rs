//! The wire shapes of the six operations on custom key stores: key stores of type AWS_CLOUDHSM. External key stores are
//! refused whole.

use super::WireError;
use super::errors::{unsupported, validation};
use super::model;
use super::parse::Input;
use crate::ids::ClusterId;
use crate::ops::{CreateCustomKeyStore, Operation, Request, UpdateCustomKeyStore};
use crate::secret::SecretString;

pub(super) fn parse(operation: Operation, input: &mut Input<'_>) -> Result<Request, WireError> {
    refuse_external(operation, input)?;
    let id = |input: &mut Input<'_>| input.required(Input::text, "CustomKeyStoreId");
    Ok(match operation {
        Operation::CreateCustomKeyStore => Request::CreateCustomKeyStore(CreateCustomKeyStore {
            name: input.required(Input::text, "CustomKeyStoreName")?,
            cluster: cluster(input)?,
            trust_anchor: input.text("TrustAnchorCertificate"),
            password: password(input),
        }),
        Operation::UpdateCustomKeyStore => Request::UpdateCustomKeyStore(UpdateCustomKeyStore {
            id: id(input)?,
            new_name: input.text("NewCustomKeyStoreName"),
            password: password(input),
            cluster: cluster(input)?,
        }),
        Operation::DescribeCustomKeyStores => describe(input)?,
        Operation::ConnectCustomKeyStore => Request::ConnectCustomKeyStore { id: id(input)? },
        Operation::DisconnectCustomKeyStore => Request::DisconnectCustomKeyStore { id: id(input)? },
        Operation::DeleteCustomKeyStore => Request::DeleteCustomKeyStore { id: id(input)? },
        other => return Ok(Request::Unsupported { operation: other, reason: "this is no operation on key stores" }),
    })
}

/// A member of an external key store is refused even beside those of a CloudHSM one: it asks for something else.
fn refuse_external(operation: Operation, input: &mut Input<'_>) -> Result<(), WireError> {
    const REASON: &str = "external key stores are not served by this version";
    let members = model::input(operation);
    if members.iter().any(|m| m.name == "CustomKeyStoreType")
        && input.text("CustomKeyStoreType").is_some_and(|kind| kind == "EXTERNAL_KEY_STORE")
    {
        return Err(unsupported(format!("CustomKeyStoreType EXTERNAL_KEY_STORE: {REASON}")));
    }
    match members.iter().filter(|m| m.name.starts_with("Xks")).find(|m| input.given(m.name)) {
        Some(member) => Err(unsupported(format!("{}: {REASON}", member.name))),
        None => Ok(()),
    }
}

/// RULE DescribeCustomKeyStores: CustomKeyStoreId or CustomKeyStoreName, not both.
fn describe(input: &mut Input<'_>) -> Result<Request, WireError> {
    let (id, name) = (input.text("CustomKeyStoreId"), input.text("CustomKeyStoreName"));
    if id.is_some() && name.is_some() {
        return Err(validation("You cannot specify CustomKeyStoreId and CustomKeyStoreName in the same request."));
    }
    Ok(Request::DescribeCustomKeyStores { id, name, page: input.page() })
}

fn cluster(input: &mut Input<'_>) -> Result<Option<ClusterId>, WireError> {
    match input.text("CloudHsmClusterId") {
        // The model's pattern holds by now and says the same.
        Some(text) => text.parse().map(Some).map_err(|_| validation("CloudHsmClusterId is not a cluster id.")),
        None => Ok(None),
    }
}

fn password(input: &mut Input<'_>) -> Option<SecretString> {
    input.text("KeyStorePassword").map(SecretString::new)
}
