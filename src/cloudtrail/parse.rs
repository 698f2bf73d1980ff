//! From `X-Amz-Target` and a JSON body to a question about the trail. Unknown members are ignored, as AWS does.

use serde_json::{Map, Value};

use super::TrailError;
use crate::ops::{LookupEvents, TrailRequest};

const PREFIX: &str = "CloudTrail_20131101.";
/// botocore's models write the whole of it; other SDKs the last part.
const LONG_PREFIX: &str = "com.amazonaws.cloudtrail.v20131101.";

const SERVED: &[&str] = &[
    "DescribeTrails",
    "GetEventSelectors",
    "GetTrail",
    "GetTrailStatus",
    "ListPublicKeys",
    "ListTrails",
    "LookupEvents",
];

/// What would stop, change or add to the trail, with the member that names it.
const CHANGES: &[(&str, &str)] = &[
    ("AddTags", "ResourceId"),
    ("CreateTrail", "Name"),
    ("DeleteResourcePolicy", "ResourceArn"),
    ("DeleteTrail", "Name"),
    ("PutEventConfiguration", "TrailName"),
    ("PutEventSelectors", "TrailName"),
    ("PutInsightSelectors", "TrailName"),
    ("PutResourcePolicy", "ResourceArn"),
    ("RemoveTags", "ResourceId"),
    ("StartLogging", "Name"),
    ("StopLogging", "Name"),
    ("UpdateTrail", "Name"),
];

/// AWS's other operations, so that a caller learns what is not served from what does not exist.
const NOT_SERVED: &[&str] = &[
    "CancelQuery",
    "CreateChannel",
    "CreateDashboard",
    "CreateEventDataStore",
    "DeleteChannel",
    "DeleteDashboard",
    "DeleteEventDataStore",
    "DeregisterOrganizationDelegatedAdmin",
    "DescribeQuery",
    "DisableFederation",
    "EnableFederation",
    "GenerateQuery",
    "GetChannel",
    "GetDashboard",
    "GetEventConfiguration",
    "GetEventDataStore",
    "GetImport",
    "GetInsightSelectors",
    "GetQueryResults",
    "GetResourcePolicy",
    "ListChannels",
    "ListDashboards",
    "ListEventDataStores",
    "ListImportFailures",
    "ListImports",
    "ListInsightsData",
    "ListInsightsMetricData",
    "ListQueries",
    "ListTags",
    "RegisterOrganizationDelegatedAdmin",
    "RestoreEventDataStore",
    "SearchSampleQueries",
    "StartDashboardRefresh",
    "StartEventDataStoreIngestion",
    "StartImport",
    "StartQuery",
    "StopEventDataStoreIngestion",
    "StopImport",
    "UpdateChannel",
    "UpdateDashboard",
    "UpdateEventDataStore",
];

const ATTRIBUTES: &[&str] =
    &["AccessKeyId", "EventId", "EventName", "EventSource", "ReadOnly", "ResourceName", "ResourceType", "Username"];
/// AWS's limit for an attribute's value.
const LONGEST_VALUE: usize = 2000;
/// Longer than any ARN of a trail.
const LONGEST_NAME: usize = 512;
/// AWS's limit, and what it takes where none is said.
const MOST_RESULTS: i64 = 50;

/// What `X-Amz-Target` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Served(&'static str),
    Change { operation: &'static str, member: &'static str },
    NotServed(&'static str),
    Unknown,
}

impl Target {
    /// From closed lists only.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Target::Served(name) | Target::Change { operation: name, .. } | Target::NotServed(name) => Some(name),
            Target::Unknown => None,
        }
    }
}

/// `None`: a target of another service.
pub fn target(header: &[u8]) -> Option<Target> {
    let header = std::str::from_utf8(header).ok()?;
    let name = header.strip_prefix(LONG_PREFIX).unwrap_or(header).strip_prefix(PREFIX)?;
    let known = |list: &[&'static str]| list.iter().find(|known| **known == name).copied();
    let change = || CHANGES.iter().find(|(operation, _)| *operation == name);
    Some(if let Some(name) = known(SERVED) {
        Target::Served(name)
    } else if let Some((operation, member)) = change() {
        Target::Change { operation, member }
    } else {
        known(NOT_SERVED).map_or(Target::Unknown, Target::NotServed)
    })
}

pub fn parse(target: Target, body: &[u8]) -> Result<TrailRequest, TrailError> {
    let operation = match target {
        Target::Served(name) => name,
        Target::Change { operation, member } => {
            // Whatever else the body says: it is refused, and the record says of what.
            let body: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
            let trail = body.get(member).and_then(Value::as_str).map(|name| name.chars().take(LONGEST_NAME).collect());
            return Ok(TrailRequest::Change { operation, trail });
        }
        Target::NotServed(name) => return Err(TrailError::not_served(name)),
        Target::Unknown => return Err(TrailError::unknown_operation()),
    };
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    let members = Members(serde_json::from_slice(body).map_err(|_| TrailError::serialization("the body"))?);
    Ok(match operation {
        "DescribeTrails" => TrailRequest::DescribeTrails { names: members.texts("trailNameList")? },
        "GetTrail" => TrailRequest::GetTrail { name: members.name("Name")? },
        "GetTrailStatus" => TrailRequest::GetTrailStatus { name: members.name("Name")? },
        "GetEventSelectors" => TrailRequest::GetEventSelectors { trail: members.name("TrailName")? },
        // Every page is the last one, so that no token of ours exists.
        "ListTrails" => members.no_token().map(|()| TrailRequest::ListTrails)?,
        "ListPublicKeys" => members.no_token().map(|()| TrailRequest::ListPublicKeys)?,
        _ => TrailRequest::LookupEvents(lookup(&members)?),
    })
}

fn lookup(members: &Members) -> Result<LookupEvents, TrailError> {
    let wrong = |text: String| Err(TrailError::new("InvalidLookupAttributesException", text));
    let attribute = match members.list("LookupAttributes")? {
        [] => None,
        [one] => {
            let one = one.as_object().ok_or_else(|| TrailError::serialization("LookupAttributes"))?;
            let text = |name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default();
            let (key, value) = (text("AttributeKey"), text("AttributeValue"));
            if !ATTRIBUTES.contains(&key) {
                return wrong(format!("Lookup attribute key must be one of: {}.", ATTRIBUTES.join(", ")));
            }
            if value.is_empty() || value.chars().count() > LONGEST_VALUE {
                return wrong(format!("Lookup attribute value must have 1 to {LONGEST_VALUE} characters."));
            }
            Some((key.to_owned(), value.to_owned()))
        }
        _ => return wrong("You can only specify one lookup attribute.".to_owned()),
    };
    if members.text("EventCategory")?.is_some() {
        let text = "The trail has management events only: leave EventCategory out.";
        return Err(TrailError::new("InvalidEventCategoryException", text));
    }
    let (start, end) = (members.seconds("StartTime")?, members.seconds("EndTime")?);
    if let (Some(start), Some(end)) = (start, end)
        && start > end
    {
        return Err(TrailError::new("InvalidTimeRangeException", "Start time must be before end time."));
    }
    let max_results = members.integer("MaxResults")?.unwrap_or(MOST_RESULTS);
    let Some(max_results) = u32::try_from(max_results).ok().filter(|n| (1..=MOST_RESULTS).contains(&i64::from(*n)))
    else {
        return Err(TrailError::new(
            "InvalidMaxResultsException",
            format!("A max results value of {max_results} is invalid. Specify a value between 1 and {MOST_RESULTS}."),
        ));
    };
    Ok(LookupEvents { attribute, start, end, max_results, next_token: members.text("NextToken")?.map(str::to_owned) })
}

/// The members of a request; `null` is absence.
struct Members(Map<String, Value>);

impl Members {
    fn member(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<&str>, TrailError> {
        self.member(name).map(|value| value.as_str().ok_or_else(|| TrailError::serialization(name))).transpose()
    }

    fn name(&self, name: &str) -> Result<String, TrailError> {
        match self.text(name)? {
            Some(text) if !text.is_empty() => Ok(text.chars().take(LONGEST_NAME).collect()),
            _ => Err(TrailError::new("InvalidTrailNameException", "Trail name cannot be blank!")),
        }
    }

    fn list(&self, name: &str) -> Result<&[Value], TrailError> {
        let list = self.member(name).map(|v| v.as_array().ok_or_else(|| TrailError::serialization(name)));
        Ok(list.transpose()?.map_or(&[], Vec::as_slice))
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, TrailError> {
        let text = |value: &Value| value.as_str().map(|text| text.chars().take(LONGEST_NAME).collect());
        self.list(name)?.iter().map(|value| text(value).ok_or_else(|| TrailError::serialization(name))).collect()
    }

    fn integer(&self, name: &str) -> Result<Option<i64>, TrailError> {
        self.member(name).map(|value| value.as_i64().ok_or_else(|| TrailError::serialization(name))).transpose()
    }

    /// AWS JSON 1.1 writes times as seconds since the epoch, with or without a fraction.
    #[allow(clippy::cast_possible_truncation)]
    fn seconds(&self, name: &str) -> Result<Option<i64>, TrailError> {
        let whole = |value: &Value| value.as_f64().filter(|s| s.abs() < 1e14).map(|s| s.floor() as i64);
        self.member(name).map(|value| whole(value).ok_or_else(|| TrailError::serialization(name))).transpose()
    }

    fn no_token(&self) -> Result<(), TrailError> {
        match self.text("NextToken")? {
            None | Some("") => Ok(()),
            Some(_) => Err(TrailError::new("InvalidTokenException", "The specified token is not valid.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_of_a_target() {
        for prefix in ["CloudTrail_20131101.", "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101."] {
            let of = |name: &str| target(format!("{prefix}{name}").as_bytes());
            assert_eq!(of("DescribeTrails"), Some(Target::Served("DescribeTrails")));
            assert_eq!(of("StopLogging"), Some(Target::Change { operation: "StopLogging", member: "Name" }));
            assert_eq!(of("StartQuery"), Some(Target::NotServed("StartQuery")));
            assert_eq!(of("Nothing"), Some(Target::Unknown));
        }
        assert_eq!(target(b"TrentService.Encrypt"), None);
        assert_eq!(target(b"\xff"), None);
    }

    #[test]
    fn lookups() {
        let parsed = |body: &str| match parse(Target::Served("LookupEvents"), body.as_bytes()) {
            Ok(TrailRequest::LookupEvents(lookup)) => Ok(lookup),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code),
        };
        let plain = parsed("").unwrap();
        assert_eq!((plain.attribute, plain.max_results, plain.start), (None, 50, None));
        let full = parsed(
            r#"{"LookupAttributes":[{"AttributeKey":"EventName","AttributeValue":"Encrypt"}],"StartTime":1767225600.5,
                "EndTime":1767225601,"MaxResults":7,"NextToken":"t","Other":1,"EventCategory":null}"#,
        )
        .unwrap();
        assert_eq!(full.attribute, Some(("EventName".to_owned(), "Encrypt".to_owned())));
        assert_eq!((full.start, full.end, full.max_results), (Some(1_767_225_600), Some(1_767_225_601), 7));
        for (body, code) in [
            ("[]", "SerializationException"),
            (r#"{"MaxResults":"7"}"#, "SerializationException"),
            (r#"{"StartTime":"2026"}"#, "SerializationException"),
            (r#"{"MaxResults":0}"#, "InvalidMaxResultsException"),
            (r#"{"MaxResults":51}"#, "InvalidMaxResultsException"),
            (r#"{"StartTime":2,"EndTime":1}"#, "InvalidTimeRangeException"),
            (r#"{"EventCategory":"insight"}"#, "InvalidEventCategoryException"),
            (
                r#"{"LookupAttributes":[{"AttributeKey":"Colour","AttributeValue":"x"}]}"#,
                "InvalidLookupAttributesException",
            ),
            (
                r#"{"LookupAttributes":[{"AttributeKey":"EventId","AttributeValue":""}]}"#,
                "InvalidLookupAttributesException",
            ),
            (r#"{"LookupAttributes":[{},{}]}"#, "InvalidLookupAttributesException"),
        ] {
            assert_eq!(parsed(body).unwrap_err(), code, "{body}");
        }
    }

    #[test]
    fn changes_say_of_what() {
        let parsed = |name: &str, body: &str| parse(target(name.as_bytes()).unwrap(), body.as_bytes()).unwrap();
        for (name, body, expected) in [
            ("CloudTrail_20131101.StopLogging", r#"{"Name":"a"}"#, Some("a")),
            ("CloudTrail_20131101.PutEventSelectors", r#"{"TrailName":"b"}"#, Some("b")),
            ("CloudTrail_20131101.DeleteTrail", "nonsense", None),
        ] {
            let TrailRequest::Change { trail, .. } = parsed(name, body) else { panic!("{name}") };
            assert_eq!(trail.as_deref(), expected);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_do_no_harm(body in proptest::collection::vec(any::<u8>(), 0..200), text in any::<String>()) {
            let quoted = serde_json::json!({ "Name": text, "NextToken": text, "trailNameList": [text] }).to_string();
            for name in SERVED.iter().chain(CHANGES.iter().map(|(name, _)| name)) {
                let target = target(format!("{PREFIX}{name}").as_bytes()).unwrap();
                let _ = (parse(target, &body).is_ok(), parse(target, quoted.as_bytes()).is_ok());
            }
        }
    }
}
