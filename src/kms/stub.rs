//! Signatures to be implemented.
#![allow(unused_variables)]
use super::*;

/// `X-Amz-Target` to an operation: `TrentService.<name>`; anything else is UnknownOperationException.
pub fn target(header: Option<&[u8]>) -> Result<Operation, WireError> {
    unimplemented!()
}

/// Parses and validates a body. Strings that carry secrets are zeroised. Errors: SerializationException,
/// ValidationException and what AWS answers at this stage.
pub fn parse(operation: Operation, body: &[u8]) -> Result<Request, WireError> {
    unimplemented!()
}

pub fn render(response: &Response) -> SecretBytes {
    unimplemented!()
}

pub fn error_body(error: &WireError) -> Vec<u8> {
    unimplemented!()
}

/// The one table from an operation's errors to the wire. No `_` arm.
pub fn wire_error(error: &OpError) -> WireError {
    unimplemented!()
}

/// `requestParameters` of the audit record: allow-list per operation (audit.md §1.3), `None` is `null`.
pub fn audit_parameters(request: &Request) -> Option<Box<RawValue>> {
    unimplemented!()
}

/// `responseElements` of the audit record. `resource_arn` is the key's ARN for `{keyId: ARN}`.
pub fn audit_response(request: &Request, response: &Response, key_arn: Option<&str>) -> Option<Box<RawValue>> {
    unimplemented!()
}
