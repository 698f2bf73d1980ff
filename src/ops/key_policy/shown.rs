//! How a key policy is shown: as it was written, except that a principal who is gone stands there by unique id. A name that was
//! given again means another (authorization.md §1.3), so the name would say what the policy does not do.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::ops::principals::known_principal;
use crate::store::{PolicyDocument, Snapshot};

/// The text for GetKeyPolicy.
pub fn shown(document: &PolicyDocument, snapshot: &Snapshot) -> Arc<str> {
    let gone: BTreeMap<&str, String> = gone(document, snapshot).collect();
    if gone.is_empty() {
        return Arc::clone(document.text());
    }
    let text = document.text().as_ref();
    let mut places = Vec::new();
    if each_principal(text, &mut |name, place| {
        if let Some(id) = gone.get(name) {
            places.push((place, id));
        }
    })
    .is_none()
    {
        return Arc::clone(document.text());
    }
    places.sort_by_key(|(place, _)| place.start);
    let (mut shown, mut end) = (String::with_capacity(text.len()), 0);
    for (place, id) in places {
        shown.push_str(text.get(end..place.start).unwrap_or_default());
        shown.push('"');
        shown.push_str(id);
        shown.push('"');
        end = place.end;
    }
    shown.push_str(text.get(end..).unwrap_or_default());
    shown.into()
}

/// Principal ARNs of the policy that mean nobody any more, with what stands for them.
pub fn gone<'a>(document: &'a PolicyDocument, snapshot: &Snapshot) -> impl Iterator<Item = (&'a str, String)> {
    let there =
        |arn: &str, id: &str| known_principal(snapshot, arn).is_some_and(|p| p.unique_id.as_deref() == Some(id));
    document
        .principals()
        .iter()
        .filter(move |(arn, id)| !there(arn, id))
        .map(|(arn, id)| (arn.as_str(), as_id(arn, id)))
}

/// A session keeps its name beside the id of its role.
fn as_id(arn: &str, id: &str) -> String {
    match arn.split_once(":assumed-role/").and_then(|(_, rest)| rest.split_once('/')) {
        Some((_, session)) => format!("{id}:{session}"),
        None => id.to_owned(),
    }
}

/// Calls `found` for each text in a Principal or NotPrincipal, with its place, quotes included. Conditions are left alone: an
/// ARN there is compared as text. `None`: not a policy.
fn each_principal(text: &str, found: &mut dyn FnMut(&str, Range<usize>)) -> Option<()> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    for statement in one_or_more(members.get("Statement")?) {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(statement).ok()?;
        for element in ["Principal", "NotPrincipal"].iter().filter_map(|name| members.get(*name)) {
            let kinds: BTreeMap<String, &RawValue> = serde_json::from_str(element.get()).unwrap_or_default();
            for name in kinds.values().flat_map(|names| one_or_more(names)) {
                // Raw values are slices of the text that they were read from.
                let start = (name.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
                found(&serde_json::from_str::<String>(name).ok()?, start..start + name.len());
            }
        }
    }
    Some(())
}

fn one_or_more(raw: &RawValue) -> Vec<&str> {
    let list: Result<Vec<&RawValue>, _> = serde_json::from_str(raw.get());
    list.map_or_else(|_| vec![raw.get()], |list| list.into_iter().map(RawValue::get).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::key_policy::testing::{self, ALICE, OPS};

    fn bound() -> PolicyDocument {
        let text = format!(
            r#"{{ "Version" : "2012-10-17",
  "Statement":{{"Effect":"Allow", "Principal": {{"AWS": [ "{ALICE}",
     "arn:aws:iam::111122223333:root", "arn:aws:iam::111122223333:user\/alice","{OPS}" ]}},
     "Action":"kms:*","Resource":"*","Condition":{{"ArnEquals":{{"aws:PrincipalArn":"{ALICE}"}}}}}}}}"#
        );
        let ids = [(ALICE, testing::ALICE_ID), (OPS, testing::OPS_ID)];
        PolicyDocument::new(text, ids.map(|(arn, id)| (arn.to_owned(), id.to_owned())).into())
    }

    #[test]
    fn who_is_there_stands_by_arn_and_who_is_gone_by_id() {
        let (document, everybody) = (bound(), testing::snapshot());
        assert!(Arc::ptr_eq(&shown(&document, &everybody), document.text()));

        let without_alice = testing::without_alice();
        let text = shown(&document, &without_alice);
        let id = testing::ALICE_ID;
        // Both spellings of the principal, and not the condition.
        assert_eq!(text.matches(id).count(), 2);
        assert!(text.contains(&format!("[ \"{id}\",\n")) && text.contains(&format!("\"{id}\",\"{OPS}\" ]")), "{text}");
        assert!(text.contains(&format!("\"aws:PrincipalArn\":\"{ALICE}\"")));
        // Somebody else of that name changes nothing.
        assert_eq!(shown(&document, &testing::another_alice()), text);
    }

    #[test]
    fn sessions_keep_their_names() {
        let arn = "arn:aws:sts::111122223333:assumed-role/gone/night";
        let text = format!(r#"{{"Statement":[{{"Effect":"Allow","NotPrincipal":{{"AWS":"{arn}"}}}}]}}"#);
        let document = PolicyDocument::new(text, [(arn.to_owned(), "AROAGONEGONEGONEGONE1".to_owned())].into());
        assert!(shown(&document, &testing::snapshot()).contains("\"AROAGONEGONEGONEGONE1:night\""));
    }
}
