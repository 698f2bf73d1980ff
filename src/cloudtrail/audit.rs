//! What records say of questions about the trail: members from a list, as CloudTrail spells them.

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use crate::ops::TrailRequest;

/// `requestParameters`. `date`: milliseconds since the epoch as records show dates.
pub fn audit_parameters(request: &TrailRequest, date: impl Fn(i64) -> String) -> Option<Box<RawValue>> {
    let mut said = Map::new();
    let mut put = |name: &str, value: Value| drop(said.insert(name.to_owned(), value));
    match request {
        TrailRequest::DescribeTrails { names } => put("trailNameList", json!(names)),
        TrailRequest::GetTrail { name } | TrailRequest::GetTrailStatus { name } => put("name", json!(name)),
        TrailRequest::GetEventSelectors { trail } => put("trailName", json!(trail)),
        TrailRequest::ListTrails | TrailRequest::ListPublicKeys => return None,
        TrailRequest::LookupEvents(lookup) => {
            if let Some((key, value)) = &lookup.attribute {
                put("lookupAttributes", json!([{ "attributeKey": key, "attributeValue": value }]));
            }
            for (name, seconds) in [("startTime", lookup.start), ("endTime", lookup.end)] {
                if let Some(seconds) = seconds {
                    put(name, json!(date(seconds.saturating_mul(1000))));
                }
            }
            put("maxResults", json!(lookup.max_results));
        }
        TrailRequest::Change { trail, .. } => put("name", json!(trail)),
    }
    to_raw_value(&said).ok()
}
