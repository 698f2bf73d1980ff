//! A policy document as its author wrote it, with what its reader made of it. Records and sessions hold them; only authz
//! reads them.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

/// The text of a policy, and whom the ARNs in it meant when it was written. Cheap to clone.
///
/// Those who hold it do not know the policy language. Whoever does keeps the compiled form here, so that it lives as long as the
/// text and is made once.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct PolicyDocument {
    text: Arc<str>,
    /// Principal ARN → unique id (`AIDA…`, `AROA…`): one who is deleted and made again under the same name does not inherit.
    principals: Arc<BTreeMap<String, String>>,
    compiled: Arc<OnceLock<Arc<dyn Any + Send + Sync>>>,
}

impl PolicyDocument {
    pub fn new(text: impl Into<Arc<str>>, principals: BTreeMap<String, String>) -> Self {
        Self { text: text.into(), principals: Arc::new(principals), compiled: Arc::default() }
    }

    /// A document that names no users and roles.
    pub fn plain(text: impl Into<Arc<str>>) -> Self {
        Self::new(text, BTreeMap::new())
    }

    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    pub fn principals(&self) -> &BTreeMap<String, String> {
        &self.principals
    }

    /// What `compile` makes of the text; made at the first call. `compile` is always the same function for one record.
    pub fn compiled<T: Send + Sync + 'static>(&self, compile: impl Fn(&str) -> T) -> Arc<T> {
        let made = self.compiled.get_or_init(|| Arc::new(compile(&self.text)));
        match Arc::clone(made).downcast::<T>() {
            Ok(compiled) => compiled,
            Err(_) => Arc::new(compile(&self.text)),
        }
    }
}

impl From<&str> for PolicyDocument {
    fn from(text: &str) -> Self {
        Self::plain(text)
    }
}

impl PartialEq for PolicyDocument {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.principals == other.principals
    }
}

impl Eq for PolicyDocument {}

impl fmt::Debug for PolicyDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyDocument").field("text", &self.text).field("principals", &self.principals).finish()
    }
}

/// As it stands in a record: the bare text where no ids are bound, which is the form of schema 1 and 2.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Text(Arc<str>),
    Bound { text: Arc<str>, principals: BTreeMap<String, String> },
}

impl From<Stored> for PolicyDocument {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Text(text) => Self::plain(text),
            Stored::Bound { text, principals } => Self::new(text, principals),
        }
    }
}

impl From<PolicyDocument> for Stored {
    fn from(document: PolicyDocument) -> Self {
        if document.principals.is_empty() {
            Stored::Text(document.text)
        } else {
            Stored::Bound { text: document.text, principals: document.principals.as_ref().clone() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_back() {
        for principals in
            [BTreeMap::new(), [("arn:aws:iam::111122223333:user/a".to_owned(), "AIDAX".to_owned())].into()]
        {
            let document = PolicyDocument::new("{}", principals.clone());
            let json = serde_json::to_string(&document).unwrap();
            assert_eq!(json.starts_with('"'), principals.is_empty());
            let back: PolicyDocument = serde_json::from_str(&json).unwrap();
            assert_eq!((back.text().as_ref(), back.principals()), ("{}", &principals));
        }
    }

    #[test]
    fn it_is_compiled_once_and_clones_share_it() {
        let document = PolicyDocument::plain("four");
        let first = document.compiled(str::len);
        let second = document.clone().compiled(|_| -> usize { panic!("compiled twice") });
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(*second, 4);
    }
}
