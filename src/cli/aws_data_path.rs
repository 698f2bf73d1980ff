//! `audit aws-data-path`: what points the S3 client of an AWS CLI older than `AWS_ENDPOINT_URL` here. Source: audit.md §2.6.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Failed;

pub fn write(out: &Path, endpoint: &str) -> Result<u8, Failed> {
    let endpoint = endpoint.trim_end_matches('/');
    if !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) || endpoint.contains(['{', '}', '"']) {
        return Err(Failed::new(64, format!("`{endpoint}` is no URL of an endpoint")));
    }
    let path = out.join("s3").join("2006-03-01").join("endpoint-rule-set-1.json");
    let folder: PathBuf = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let text = format!("{:#}\n", rules(endpoint));
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|error| Failed::new(74, format!("writing `{}`: {error}", path.display())))?;
    println!("wrote {}", path.display());
    println!("export AWS_DATA_PATH={}", std::path::absolute(out).unwrap_or(out.to_owned()).display());
    Ok(0)
}

/// An endpoint rule set of three rules: a bucket is a folder of the endpoint, whatever its name; without one it is the endpoint.
fn rules(endpoint: &str) -> Value {
    let text = |documentation: &str| json!({ "required": false, "documentation": documentation, "type": "String" });
    let flag = |documentation: &str| json!({ "required": false, "documentation": documentation, "type": "Boolean", "default": false });
    let built_in = |mut parameter: Value, name: &str| {
        if let Some(members) = parameter.as_object_mut() {
            members.insert("builtIn".to_owned(), json!(name));
            if members.get("type") == Some(&json!("Boolean")) {
                members.insert("required".to_owned(), json!(true));
            }
        }
        parameter
    };
    let at = |url: String| {
        json!({
            "url": url,
            "properties": { "authSchemes": [{
                "name": "sigv4", "signingName": "s3", "signingRegion": "{Region}", "disableDoubleEncoding": true,
            }] },
            "headers": {},
        })
    };
    let is_set = |name: &str| json!({ "fn": "isSet", "argv": [{ "ref": name }] });
    json!({
        "version": "1.0",
        "parameters": {
            "Bucket": text("The bucket"),
            "Region": built_in(text("The Region"), "AWS::Region"),
            "Endpoint": built_in(text("Not looked at"), "SDK::Endpoint"),
            "UseFIPS": built_in(flag("Not looked at"), "AWS::UseFIPS"),
            "UseDualStack": built_in(flag("Not looked at"), "AWS::UseDualStack"),
            "ForcePathStyle": built_in(flag("Not looked at"), "AWS::S3::ForcePathStyle"),
            "Accelerate": built_in(flag("Not looked at"), "AWS::S3::Accelerate"),
            "UseGlobalEndpoint": built_in(flag("Not looked at"), "AWS::S3::UseGlobalEndpoint"),
            "DisableMultiRegionAccessPoints":
                built_in(flag("Not looked at"), "AWS::S3::DisableMultiRegionAccessPoints"),
            "UseArnRegion": { "builtIn": "AWS::S3::UseArnRegion", "required": false, "documentation": "Not looked at",
                              "type": "Boolean" },
            "UseObjectLambdaEndpoint": { "required": false, "documentation": "Not looked at", "type": "Boolean" },
            "DisableAccessPoints": { "required": false, "documentation": "Not looked at", "type": "Boolean" },
        },
        "rules": [
            { "conditions": [is_set("Region"), is_set("Bucket")], "endpoint": at(format!("{endpoint}/{{Bucket}}")),
              "type": "endpoint" },
            { "conditions": [is_set("Region")], "endpoint": at(endpoint.to_owned()), "type": "endpoint" },
            { "conditions": [], "error": "Invalid Configuration: Missing Region", "type": "error" },
        ],
    })
}
