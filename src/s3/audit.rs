//! What records say of questions about the bucket: members from a list, as CloudTrail spells them.

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, json};

use crate::ops::BucketRequest;

/// `requestParameters`
pub fn audit_parameters(request: &BucketRequest) -> Option<Box<RawValue>> {
    let (bucket, key) = match request {
        BucketRequest::ListBuckets => return None,
        BucketRequest::HeadBucket { bucket } | BucketRequest::GetBucketLocation { bucket } => (bucket, None),
        BucketRequest::ListObjects(list) => (&list.bucket, None),
        BucketRequest::GetObject { bucket, key, .. } => (bucket, Some(key)),
        BucketRequest::Change { bucket, key, .. } => (bucket, key.as_ref()),
    };
    let mut said = Map::new();
    said.insert("bucketName".to_owned(), json!(bucket));
    if let Some(key) = key {
        said.insert("key".to_owned(), json!(key));
    }
    match request {
        BucketRequest::ListObjects(list) => {
            said.insert("prefix".to_owned(), json!(list.prefix));
            let after = if list.v2 { "start-after" } else { "marker" };
            for (name, text) in [(after, Some(&list.after)), ("delimiter", list.delimiter.as_ref())] {
                if let Some(text) = text.filter(|text| !text.is_empty()) {
                    said.insert(name.to_owned(), json!(text));
                }
            }
            said.insert("max-keys".to_owned(), json!(list.max_keys));
        }
        BucketRequest::GetObject { range: Some(range), .. } => {
            said.insert("Range".to_owned(), json!(range.chars().take(64).collect::<String>()));
        }
        _ => {}
    }
    to_raw_value(&said).ok()
}
