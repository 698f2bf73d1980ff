//! What is no difference: white space and the order of members in a document, the order of what is a set.

use serde_json::Value;

use crate::ids::PolicyDocument;
use crate::store::{KeySource, Policies, Snapshot, Write};

/// The write with all that means the same as it is stored; `None` where then nothing is left of it.
pub fn settled(before: &Snapshot, write: Write) -> Option<Write> {
    Some(match write {
        Write::PutUser(mut record) => {
            if let Some(known) = before.user(&record.account, &record.name) {
                as_a_set(&mut record.tags, &known.tags);
                as_a_set(&mut record.groups, &known.groups);
                policies(&mut record.policies, &known.policies);
                if record == **known {
                    return None;
                }
            }
            Write::PutUser(record)
        }
        Write::PutGroup(mut record) => {
            if let Some(known) = before.groups.get(&(record.account.clone(), record.name.clone())) {
                policies(&mut record.policies, &known.policies);
                if record == **known {
                    return None;
                }
            }
            Write::PutGroup(record)
        }
        Write::PutRole(mut record) => {
            if let Some(known) = before.role(&record.account, &record.name) {
                as_a_set(&mut record.tags, &known.tags);
                policies(&mut record.policies, &known.policies);
                // The ids are compared: a principal that was deleted and made again is somebody else.
                if same_json(record.trust.text(), known.trust.text()) {
                    record.trust = PolicyDocument::new(known.trust.text().clone(), record.trust.principals().clone());
                }
                if record == **known {
                    return None;
                }
            }
            Write::PutRole(record)
        }
        Write::PutPolicy(mut record) => {
            if let Some(known) = before.policies.get(&record.arn) {
                document(&mut record.document, &known.document);
                let updated = std::mem::replace(&mut record.updated, known.updated);
                if record == **known {
                    return None;
                }
                record.updated = updated;
            }
            Write::PutPolicy(record)
        }
        Write::PutAccount(mut record) => {
            if let Some(known) = before.accounts.get(&record.id) {
                as_a_set(&mut record.service_control, &known.service_control);
                if record == **known {
                    return None;
                }
            }
            Write::PutAccount(record)
        }
        Write::PutUnit(mut record) => {
            if let Some(known) = before.units.get(&record.id) {
                as_a_set(&mut record.service_control, &known.service_control);
                if record == **known {
                    return None;
                }
            }
            Write::PutUnit(record)
        }
        Write::PutOidcProvider(mut record) => {
            if let Some(known) = before.oidc_providers.get(&record.arn) {
                as_a_set(&mut record.client_ids, &known.client_ids);
                as_a_set(&mut record.algorithms, &known.algorithms);
                if let (KeySource::Static { jwks: new }, KeySource::Static { jwks: old }) = (&record.keys, &known.keys)
                    && same_json(new, old)
                {
                    record.keys = known.keys.clone();
                }
                if record == **known {
                    return None;
                }
            }
            Write::PutOidcProvider(record)
        }
        Write::PutService(mut record) => {
            if let Some(known) = before.services.get(&record.name) {
                as_a_set(&mut record.may_act_for, &known.may_act_for);
                if record == **known {
                    return None;
                }
            }
            Write::PutService(record)
        }
        other => other,
    })
}

pub fn same_json(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match (serde_json::from_str::<Value>(a), serde_json::from_str::<Value>(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn document(new: &mut PolicyDocument, known: &PolicyDocument) {
    if same_json(new.text(), known.text()) {
        *new = known.clone();
    }
}

fn policies(new: &mut Policies, known: &Policies) {
    as_a_set(&mut new.attached, &known.attached);
    for (name, text) in &mut new.inline {
        if let Some(known) = known.inline.get(name) {
            document(text, known);
        }
    }
}

fn as_a_set<T: Ord + Clone>(new: &mut Vec<T>, known: &[T]) {
    let (mut a, mut b) = (new.clone(), known.to_vec());
    a.sort();
    b.sort();
    if a == b {
        *new = known.to_vec();
    }
}
