//! The federated user that GetFederationToken is about to make: the caller's own policies say whether it may.

use crate::authz::language::Listed;
use crate::authz::{Check, Resource};
use crate::ids::AccountId;
use crate::ops::sts::GetFederationToken;
use crate::ops::sts::role::{conditions, set_tags};

#[derive(Debug, Clone)]
pub struct FederatedUserSubject {
    pub arn: String,
    account: AccountId,
    /// Condition keys of the request.
    keys: Listed,
}

impl FederatedUserSubject {
    pub(in crate::ops) fn new(request: &GetFederationToken, account: &AccountId) -> Self {
        let mut keys = Listed::new();
        set_tags(&mut keys, request.tags.iter());
        Self { arn: format!("arn:aws:sts::{account}:federated-user/{}", request.name), account: account.clone(), keys }
    }

    /// RULE AWS: tags need an action of their own.
    pub(super) fn checks<'a>(&'a self, request: &GetFederationToken) -> Vec<Check<'a>> {
        let tagged = (!request.tags.is_empty()).then_some("sts:TagSession");
        let actions = std::iter::once("sts:GetFederationToken").chain(tagged);
        // Identity policies alone decide about it, as about an alias.
        let resource = Resource::Alias { arn: &self.arn, account: &self.account };
        actions
            .map(|action| Check { conditions: conditions(&self.keys), ..Check::new(action, resource.clone()) })
            .collect()
    }
}
