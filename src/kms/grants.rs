//! The wire shapes of the five operations on grants, and what the audit record shows of them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::WireError;
use super::audit::raw;
use super::errors::validation;
use super::parse::Input;
use super::validate;
use crate::ids::spec::GrantOperation;
use crate::ops::{CreateGrant, GrantConstraints, GrantPrincipalText, Operation, Page, Request, RetireGrant};

/// RULE GrantConstraints: pairs in one constraint, and characters of a value.
const MOST_PAIRS: usize = 8;
const LONGEST_VALUE: usize = 384;

pub(super) fn parse(operation: Operation, input: &mut Input<'_>) -> Result<Request, WireError> {
    Ok(match operation {
        Operation::CreateGrant => Request::CreateGrant(Box::new(create(input)?)),
        Operation::ListGrants => Request::ListGrants {
            key: input.key("KeyId")?,
            grant: input.text("GrantId"),
            grantee: principal(input, "GranteePrincipal", "GranteeServicePrincipal")?,
            page: input.page(),
        },
        Operation::ListRetirableGrants => Request::ListRetirableGrants {
            retiring: principal(input, "RetiringPrincipal", "RetiringServicePrincipal")?
                .ok_or_else(|| validate::missing("retiringPrincipal"))?,
            page: input.page(),
        },
        Operation::RetireGrant => Request::RetireGrant(Box::new(RetireGrant {
            token: input.text("GrantToken"),
            key: input.optional_key("KeyId"),
            grant: input.text("GrantId"),
            dry_run: input.flag("DryRun"),
        })),
        Operation::RevokeGrant => Request::RevokeGrant {
            key: input.key("KeyId")?,
            grant: input.required(Input::text, "GrantId")?,
            dry_run: input.flag("DryRun"),
        },
        other => return Ok(Request::Unsupported { operation: other, reason: "this is no operation on grants" }),
    })
}

fn create(input: &mut Input<'_>) -> Result<CreateGrant, WireError> {
    let operations: Vec<GrantOperation> =
        input.required(Input::texts, "Operations")?.iter().filter_map(|text| GrantOperation::from_wire(text)).collect();
    if operations.is_empty() {
        return Err(validate::too_short("operations"));
    }
    let grantee = principal(input, "GranteePrincipal", "GranteeServicePrincipal")?
        .ok_or_else(|| validate::missing("granteePrincipal"))?;
    let retiring = principal(input, "RetiringPrincipal", "RetiringServicePrincipal")?;
    let constraints = constraints(input)?;
    // RULE CreateGrant, GranteeServicePrincipal.
    if matches!(grantee, GrantPrincipalText::Service(_)) && (constraints.source_arn.is_none() || retiring.is_none()) {
        return Err(validation(
            "A grant with a GranteeServicePrincipal needs a SourceArn constraint, and a RetiringPrincipal or a \
             RetiringServicePrincipal.",
        ));
    }
    Ok(CreateGrant {
        key: input.key("KeyId")?,
        grantee,
        retiring,
        operations,
        constraints,
        grant_tokens: input.grant_tokens(),
        name: input.text("Name"),
        dry_run: input.flag("DryRun"),
    })
}

/// One of two members, or neither.
fn principal(input: &mut Input<'_>, principal: &str, service: &str) -> Result<Option<GrantPrincipalText>, WireError> {
    match (input.text(principal), input.text(service)) {
        (Some(_), Some(_)) => {
            Err(validation(format!("You must specify either {principal} or {service}, but not both.")))
        }
        (Some(arn), None) => Ok(Some(GrantPrincipalText::Principal(arn))),
        (None, Some(name)) => Ok(Some(GrantPrincipalText::Service(name))),
        (None, None) => Ok(None),
    }
}

fn constraints(input: &mut Input<'_>) -> Result<GrantConstraints, WireError> {
    let Some(mut given) = input.structure("Constraints") else { return Ok(GrantConstraints::default()) };
    Ok(GrantConstraints {
        equals: pairs(&mut given, "EncryptionContextEquals")?,
        subset: pairs(&mut given, "EncryptionContextSubset")?,
        source_arn: given.text("SourceArn"),
    })
}

/// An empty Equals is kept: it means calls without an encryption context.
fn pairs(input: &mut Input<'_>, name: &str) -> Result<Option<BTreeMap<String, String>>, WireError> {
    let Some(pairs) = input.map(name) else { return Ok(None) };
    if pairs.len() > MOST_PAIRS {
        return Err(validation(format!("{name} can have at most {MOST_PAIRS} encryption context pairs.")));
    }
    if pairs.iter().any(|(_, value)| value.chars().count() > LONGEST_VALUE) {
        return Err(validation(format!("A value in {name} can have at most {LONGEST_VALUE} characters.")));
    }
    Ok(Some(pairs.into_iter().collect()))
}

/// Never a token.
pub(super) fn audit_parameters(request: &Request) -> Option<Box<RawValue>> {
    let shown = match request {
        Request::CreateGrant(request) => {
            let (grantee, grantee_service) = told(Some(&request.grantee));
            let (retiring, retiring_service) = told(request.retiring.as_ref());
            Parameters {
                key_id: Some(&request.key.0),
                grantee_principal: grantee,
                grantee_service_principal: grantee_service,
                retiring_principal: retiring,
                retiring_service_principal: retiring_service,
                operations: request.operations.iter().map(|operation| operation.as_str()).collect(),
                constraints: Constraints::of(&request.constraints),
                name: request.name.as_deref(),
                ..Parameters::default()
            }
        }
        Request::ListGrants { key, grant, grantee, page } => {
            let (grantee, service) = told(grantee.as_ref());
            Parameters {
                key_id: Some(&key.0),
                grant_id: grant.as_deref(),
                grantee_principal: grantee,
                grantee_service_principal: service,
                ..Parameters::paged(page)
            }
        }
        Request::ListRetirableGrants { retiring, page } => {
            let (retiring, service) = told(Some(retiring));
            Parameters { retiring_principal: retiring, retiring_service_principal: service, ..Parameters::paged(page) }
        }
        Request::RetireGrant(request) => {
            if request.key.is_none() && request.grant.is_none() {
                return None;
            }
            let key_id = request.key.as_ref().map(|key| key.0.as_str());
            Parameters { key_id, grant_id: request.grant.as_deref(), ..Parameters::default() }
        }
        Request::RevokeGrant { key, grant, dry_run: _ } => {
            Parameters { key_id: Some(&key.0), grant_id: Some(grant), ..Parameters::default() }
        }
        _ => return None,
    };
    Some(raw(&shown))
}

/// As the members of a principal and of a service.
fn told(principal: Option<&GrantPrincipalText>) -> (Option<&str>, Option<&str>) {
    match principal {
        Some(GrantPrincipalText::Principal(arn)) => (Some(arn), None),
        Some(GrantPrincipalText::Service(name)) => (None, Some(name)),
        None => (None, None),
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Parameters<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grantee_principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grantee_service_principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retiring_principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retiring_service_principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    operations: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraints: Option<Constraints<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    marker: Option<&'a str>,
}

impl<'a> Parameters<'a> {
    fn paged(page: &'a Page) -> Self {
        Parameters { limit: page.limit, marker: page.marker.as_deref(), ..Parameters::default() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Constraints<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_context_equals: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_context_subset: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_arn: Option<&'a str>,
}

impl<'a> Constraints<'a> {
    fn of(constraints: &'a GrantConstraints) -> Option<Self> {
        (*constraints != GrantConstraints::default()).then_some(Constraints {
            encryption_context_equals: constraints.equals.as_ref(),
            encryption_context_subset: constraints.subset.as_ref(),
            source_arn: constraints.source_arn.as_deref(),
        })
    }
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;
