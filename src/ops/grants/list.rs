//! ListGrants and ListRetirableGrants.

use std::sync::Arc;

use crate::authn::{Caller, Principal};
use crate::ids::{Arn, GrantId, KeyId};
use crate::ops::principals::known_principal;
use crate::ops::resolve::KeyTarget;
use crate::ops::{GrantEntry, GrantPrincipalText, OpError, Ops, Page, Response};
use crate::store::{GrantPrincipal, GrantRecord, Lifecycle, Snapshot};

/// The model's default (kms-api.md §1 rule 7).
const DEFAULT: u32 = 50;

impl Ops {
    pub(in crate::ops) fn list_grants(
        &self,
        key: &KeyTarget,
        grant: Option<&str>,
        grantee: Option<&GrantPrincipalText>,
        page: &Page,
        caller: &Caller,
        snapshot: &Snapshot,
    ) -> Result<Response, OpError> {
        let id = key.record.id;
        let only = grant.map(grant_id).transpose()?;
        let to = grantee.map(|text| filter(text, caller)).transpose()?;
        let list = format!("ListGrants {id} {} {}", grant.unwrap_or_default(), to.unwrap_or_default());
        let after: Option<GrantId> = match &page.marker {
            None => None,
            Some(marker) => Some(self.markers.open(&list, marker)?.parse().map_err(|_| OpError::InvalidMarker)?),
        };
        let wanted = |grant: &&Arc<GrantRecord>| {
            only.as_ref().is_none_or(|only| grant.id == *only)
                && to.is_none_or(|to| shown(&grant.grantee, snapshot) == to)
        };
        let found: Vec<_> = match to {
            Some(to) => {
                let rest = snapshot.grants_to(id, to).filter(|g| after.as_ref().is_none_or(|after| g.id > *after));
                rest.filter(wanted).take(limit(page) + 1).collect()
            }
            None => snapshot.grants_after(id, after).filter(wanted).take(limit(page) + 1).collect(),
        };
        self.grants_page(&list, page, snapshot, &found, |grant| grant.id.to_string())
    }

    /// Over the keys of all accounts. That the principal is the caller's own, or of its account, was seen before.
    pub(in crate::ops) fn list_retirable_grants(
        &self,
        retiring: &GrantPrincipalText,
        page: &Page,
        caller: &Caller,
        snapshot: &Snapshot,
    ) -> Result<Response, OpError> {
        let by = filter(retiring, caller)?;
        let list = format!("ListRetirableGrants {by}");
        let after = match &page.marker {
            None => None,
            Some(marker) => {
                let opened = self.markers.open(&list, marker)?;
                let (key, grant) = opened.split_once('/').ok_or(OpError::InvalidMarker)?;
                let place = (key.parse::<KeyId>().ok()).zip(grant.parse::<GrantId>().ok());
                Some(place.ok_or(OpError::InvalidMarker)?)
            }
        };
        let told = |grant: &&Arc<GrantRecord>| {
            grant.retiring.as_ref().is_some_and(|principal| shown(principal, snapshot) == by)
                && snapshot.keys.get(&grant.key).is_some_and(|key| key.lifecycle != Lifecycle::Deleting)
        };
        let found: Vec<_> = snapshot.grants_retired_by(by, after).filter(told).take(limit(page) + 1).collect();
        self.grants_page(&list, page, snapshot, &found, |grant| format!("{}/{}", grant.key, grant.id))
    }

    /// `found`: one more than fits where there is another page.
    fn grants_page(
        &self,
        list: &str,
        page: &Page,
        snapshot: &Snapshot,
        found: &[&Arc<GrantRecord>],
        place: impl Fn(&GrantRecord) -> String,
    ) -> Result<Response, OpError> {
        let limit = limit(page);
        let next_marker = match (found.get(limit), limit.checked_sub(1).and_then(|last| found.get(last))) {
            (Some(_), Some(last)) => Some(self.markers.seal(list, &place(last))?),
            _ => None,
        };
        let entry = |grant: &&Arc<GrantRecord>| {
            let account = &snapshot.keys.get(&grant.key)?.account;
            Some(GrantEntry {
                key_arn: self.locality.of(account).key_arn(&grant.key),
                grantee: shown(&grant.grantee, snapshot),
                retiring: grant.retiring.as_ref().map(|principal| shown(principal, snapshot)),
                grant: Arc::clone(grant),
            })
        };
        Ok(Response::ListGrants { grants: found.iter().take(limit).filter_map(entry).collect(), next_marker })
    }
}

pub(super) fn grant_id(text: &str) -> Result<GrantId, OpError> {
    text.parse().map_err(|_| OpError::InvalidGrantId(text.to_owned()))
}

fn limit(page: &Page) -> usize {
    page.limit.unwrap_or(DEFAULT) as usize
}

/// The principal for which grants are looked up. RULE ListGrants, ListRetirableGrants: a service's are for itself alone.
fn filter<'a>(text: &'a GrantPrincipalText, caller: &Caller) -> Result<&'a str, OpError> {
    match text {
        GrantPrincipalText::Principal(arn) if Arn::parse(arn).is_ok() => Ok(arn),
        GrantPrincipalText::Principal(arn) => Err(OpError::MalformedArn(arn.clone())),
        GrantPrincipalText::Service(asked) => match caller.principal() {
            Principal::Service { name, .. } if name.as_str() == asked => Ok(asked),
            _ => Err(OpError::Validation("Only a service may list grants by its service principal.".to_owned())),
        },
    }
}

/// RULE authorization.md §1.3: the ARN as it was given; the unique id once nobody, or somebody else, has the name.
fn shown(principal: &GrantPrincipal, snapshot: &Snapshot) -> String {
    let GrantPrincipal::Aws { arn, id: Some(id) } = principal else { return principal.name().to_owned() };
    if known_principal(snapshot, arn).is_some_and(|known| known.unique_id.as_ref() == Some(id)) {
        return arn.clone();
    }
    match arn.rsplit_once('/').filter(|_| arn.contains(":assumed-role/")) {
        Some((_, session)) => format!("{id}:{session}"),
        None => id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::grants::tests::{arn, store, user};
    use crate::store::Write;
    use crate::store::testing::{account, put};

    #[tokio::test]
    async fn who_is_gone_is_shown_by_id() {
        let (_dir, store) = store().await;
        let aws = |arn: &str, id: Option<&str>| GrantPrincipal::Aws { arn: arn.to_owned(), id: id.map(str::to_owned) };
        let alice = aws(&arn("alice"), Some("AIDA1"));
        let root = format!("arn:aws:iam::{}:root", account());
        let session = format!("arn:aws:sts::{}:assumed-role/app/s1", account());
        assert_eq!(shown(&alice, &store.snapshot()), arn("alice"));
        assert_eq!(shown(&aws(&root, None), &store.snapshot()), root);
        assert_eq!(shown(&aws(&session, Some("AROA1")), &store.snapshot()), "AROA1:s1");
        for write in [user("alice", "AIDA9"), Write::DeleteUser(account(), "alice".parse().unwrap())] {
            put(&store, vec![write]).await;
            assert_eq!(shown(&alice, &store.snapshot()), "AIDA1");
        }
    }

    #[test]
    fn a_service_asks_for_its_own_grants_only() {
        let name = "backup.internal.example";
        let service = Principal::Service { name: name.parse().unwrap(), service_id: "ASVC1".to_owned() };
        let (service, root) = (Caller::in_test(service, account()), Caller::in_test(Principal::Root, account()));
        let asked = |text: &str| GrantPrincipalText::Service(text.to_owned());
        assert_eq!(filter(&asked(name), &service), Ok(name));
        assert!(matches!(filter(&asked("other.internal.example"), &service), Err(OpError::Validation(_))));
        assert!(matches!(filter(&asked(name), &root), Err(OpError::Validation(_))));
        let malformed = GrantPrincipalText::Principal("alice".to_owned());
        assert_eq!(filter(&malformed, &root), Err(OpError::MalformedArn("alice".to_owned())));
    }
}
