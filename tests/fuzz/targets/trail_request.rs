//! Requests to the trail and to the bucket of sealed files.

#![no_main]

use hsm_bridge::{cloudtrail, s3};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for name in ["LookupEvents", "DescribeTrails", "GetTrailStatus", "StopLogging", "GetInsightSelectors"] {
        let name = format!("com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.{name}");
        if let Some(target) = cloudtrail::target(name.as_bytes()) {
            let _ = cloudtrail::parse(target, bytes);
        }
    }
    let _ = cloudtrail::target(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let (path, query) = text.split_once("?").unwrap_or((text, ""));
        for method in ["GET", "HEAD", "PUT", "OPTIONS"] {
            let _ = s3::parse(method, path, query);
            let _ = s3::operation_name(method, path, query);
        }
    }
});
