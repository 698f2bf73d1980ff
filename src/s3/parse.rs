//! From method, path and query string to a question about the bucket.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;

use super::S3Error;
use crate::ops::{BucketRequest, ListObjects};

/// RULE S3 ListObjects: as many keys as a page has at most.
const MOST_KEYS: u32 = 1000;
/// RULE S3: a key has at most 1,024 bytes.
const LONGEST_KEY: usize = 1024;

/// Parts of a bucket or an object that this one has not, with what their changes are called.
const PARTS: &[(&str, &str)] = &[
    ("accelerate", "BucketAccelerateConfiguration"),
    ("acl", "BucketAcl"),
    ("analytics", "BucketAnalyticsConfiguration"),
    ("attributes", "ObjectAttributes"),
    ("cors", "BucketCors"),
    ("encryption", "BucketEncryption"),
    ("intelligent-tiering", "BucketIntelligentTieringConfiguration"),
    ("inventory", "BucketInventoryConfiguration"),
    ("legal-hold", "ObjectLegalHold"),
    ("lifecycle", "BucketLifecycle"),
    ("logging", "BucketLogging"),
    ("metrics", "BucketMetricsConfiguration"),
    ("notification", "BucketNotification"),
    ("object-lock", "ObjectLockConfiguration"),
    ("ownershipControls", "BucketOwnershipControls"),
    ("policy", "BucketPolicy"),
    ("policyStatus", "BucketPolicyStatus"),
    ("publicAccessBlock", "BucketPublicAccessBlock"),
    ("replication", "BucketReplication"),
    ("requestPayment", "BucketRequestPayment"),
    ("retention", "ObjectRetention"),
    ("session", "Session"),
    ("tagging", "BucketTagging"),
    ("torrent", "ObjectTorrent"),
    ("uploadId", "Parts"),
    ("uploads", "MultipartUploads"),
    ("versionId", "ObjectVersion"),
    ("versioning", "BucketVersioning"),
    ("versions", "ObjectVersions"),
    ("website", "BucketWebsite"),
];

/// The part that a query string names, if any.
fn part(query: &BTreeMap<String, String>) -> Option<&'static (&'static str, &'static str)> {
    PARTS.iter().find(|(name, _)| query.contains_key(*name))
}

/// The operation's name for a record, from closed lists only; `None`: not one of those that are told apart.
pub fn operation_name(method: &str, path: &str, query: &str) -> Option<&'static str> {
    let (place, query) = (Place::of(path).ok()?, pairs(query).ok()?);
    let has_key = place.key.is_some();
    match method {
        "PUT" | "POST" | "DELETE" => Some(change(method, has_key, &query)),
        "GET" | "HEAD" if part(&query).is_some() => None,
        "GET" => Some(match (place.bucket.is_some(), has_key) {
            (false, _) => "ListBuckets",
            (_, true) => "GetObject",
            _ if query.contains_key("location") => "GetBucketLocation",
            _ if query.contains_key("list-type") => "ListObjectsV2",
            _ => "ListObjects",
        }),
        "HEAD" => Some(if has_key { "HeadObject" } else { "HeadBucket" }),
        _ => None,
    }
}

/// `path` and `query` as received.
pub fn parse(method: &str, path: &str, query: &str) -> Result<BucketRequest, S3Error> {
    let (place, query) = (Place::of(path)?, pairs(query)?);
    let reads = matches!(method, "GET" | "HEAD");
    let Some(bucket) = place.bucket else {
        return match method {
            "GET" => Ok(BucketRequest::ListBuckets),
            _ => Err(S3Error::method_not_allowed()),
        };
    };
    if matches!(method, "PUT" | "POST" | "DELETE") {
        let operation = change(method, place.key.is_some(), &query);
        return Ok(BucketRequest::Change { operation, bucket, key: place.key });
    }
    if !reads {
        return Err(S3Error::method_not_allowed());
    }
    // RULE: an object has one version, which is called `null` where versions are not kept.
    let only_version = query.get("versionId").is_some_and(|version| version == "null");
    if part(&query).is_some_and(|(name, _)| !(*name == "versionId" && only_version)) {
        return Err(S3Error::not_implemented());
    }
    match (method, place.key) {
        ("HEAD", None) => Ok(BucketRequest::HeadBucket { bucket }),
        (_, Some(key)) => Ok(BucketRequest::GetObject { bucket, key, range: None, head: method == "HEAD" }),
        _ if query.contains_key("location") => Ok(BucketRequest::GetBucketLocation { bucket }),
        _ => list(bucket, query).map(BucketRequest::ListObjects),
    }
}

fn list(bucket: String, mut query: BTreeMap<String, String>) -> Result<ListObjects, S3Error> {
    let v2 = match query.remove("list-type").as_deref() {
        None => false,
        Some("2") => true,
        Some(_) => return Err(S3Error::invalid_argument("Invalid List Type specified in Request")),
    };
    let url_encoded = match query.remove("encoding-type").as_deref() {
        None | Some("") => false,
        Some("url") => true,
        Some(_) => return Err(S3Error::invalid_argument("Invalid Encoding Method specified in Request")),
    };
    let max_keys = match query.remove("max-keys").filter(|text| !text.is_empty()) {
        None => MOST_KEYS,
        Some(text) => text
            .parse::<u32>()
            .map_err(|_| S3Error::invalid_argument("Provided max-keys not an integer or within integer range"))?
            .min(MOST_KEYS),
    };
    let mut after = query.remove(if v2 { "start-after" } else { "marker" }).unwrap_or_default();
    let token = query.remove("continuation-token").filter(|_| v2);
    if let Some(token) = &token {
        after = opened(token)
            .ok_or_else(|| S3Error::invalid_argument("The continuation token provided is incorrect"))?
            .max(after);
    }
    Ok(ListObjects {
        bucket,
        v2,
        prefix: query.remove("prefix").unwrap_or_default(),
        after,
        delimiter: query.remove("delimiter").filter(|text| !text.is_empty()),
        max_keys,
        url_encoded,
    })
}

/// V2's continuation token is the place, in base64: it gives nothing that the listing does not.
pub(super) fn token(place: &str) -> String {
    URL_SAFE_NO_PAD.encode(place)
}

fn opened(token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| !bytes.is_empty())?;
    String::from_utf8(bytes).ok()
}

/// RULE: names as CloudTrail has them in S3's events.
fn change(method: &str, has_key: bool, query: &BTreeMap<String, String>) -> &'static str {
    let has = |name: &str| query.contains_key(name);
    match (method, has_key) {
        ("PUT", true) if has("uploadId") => "UploadPart",
        ("PUT", true) if has("retention") => "PutObjectRetention",
        ("PUT", true) if has("legal-hold") => "PutObjectLegalHold",
        ("PUT", true) if has("tagging") => "PutObjectTagging",
        ("PUT", true) if has("acl") => "PutObjectAcl",
        ("PUT", true) => "PutObject",
        ("PUT", false) if has("lifecycle") => "PutBucketLifecycle",
        ("PUT", false) if has("policy") => "PutBucketPolicy",
        ("PUT", false) if has("acl") => "PutBucketAcl",
        ("PUT", false) if has("versioning") => "PutBucketVersioning",
        ("PUT", false) if has("object-lock") => "PutObjectLockConfiguration",
        ("PUT", false) if has("encryption") => "PutBucketEncryption",
        ("PUT", false) if part(query).is_some() => "PutBucketConfiguration",
        ("PUT", false) => "CreateBucket",
        ("POST", true) if has("uploads") => "CreateMultipartUpload",
        ("POST", true) if has("uploadId") => "CompleteMultipartUpload",
        ("POST", true) if has("restore") => "RestoreObject",
        ("POST", false) if has("delete") => "DeleteObjects",
        ("POST", _) => "PostObject",
        (_, true) if has("uploadId") => "AbortMultipartUpload",
        (_, true) if has("tagging") => "DeleteObjectTagging",
        (_, true) => "DeleteObject",
        (_, false) if has("policy") => "DeleteBucketPolicy",
        (_, false) if has("lifecycle") => "DeleteBucketLifecycle",
        (_, false) if part(query).is_some() => "DeleteBucketConfiguration",
        (_, false) => "DeleteBucket",
    }
}

/// `/<bucket>[/<key>]`
struct Place {
    bucket: Option<String>,
    key: Option<String>,
}

impl Place {
    fn of(path: &str) -> Result<Place, S3Error> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let text = |part: &str| -> Result<Option<String>, S3Error> {
            let text = percent_decode_str(part).decode_utf8().map_err(|_| S3Error::invalid_uri())?;
            Ok(Some(text.into_owned()).filter(|text| !text.is_empty()))
        };
        let place = Place { bucket: text(bucket)?, key: text(key)? };
        match &place.key {
            Some(key) if key.len() > LONGEST_KEY => Err(S3Error::key_too_long()),
            Some(_) if place.bucket.is_none() => Err(S3Error::invalid_uri()),
            _ => Ok(place),
        }
    }
}

/// A parameter that stands twice counts once: the first. Those of a signature are not the request's.
fn pairs(query: &str) -> Result<BTreeMap<String, String>, S3Error> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8().map(|text| text.into_owned()).map_err(|_| S3Error::invalid_uri())
    };
    let mut pairs = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name)?;
        if !name.starts_with("X-Amz-") {
            pairs.entry(name).or_insert(decode(value)?);
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(method: &str, path: &str, query: &str) -> String {
        match parse(method, path, query) {
            Ok(request) => format!("{request:?}"),
            Err(error) => error.code.to_owned(),
        }
    }

    #[test]
    fn requests() {
        for (method, path, query, expected) in [
            ("GET", "/", "", "ListBuckets"),
            ("GET", "/b", "location", "GetBucketLocation { bucket: \"b\" }"),
            ("GET", "/b/", "location=", "GetBucketLocation { bucket: \"b\" }"),
            ("HEAD", "/b", "", "HeadBucket { bucket: \"b\" }"),
            (
                "GET",
                "/b/a%20/../%2B",
                "x-id=GetObject",
                "GetObject { bucket: \"b\", key: \"a /../+\", range: None, head: false }",
            ),
            ("HEAD", "/b/k", "", "GetObject { bucket: \"b\", key: \"k\", range: None, head: true }"),
            (
                "GET",
                "/b/k",
                "versionId=null&X-Amz-Signature=x",
                "GetObject { bucket: \"b\", key: \"k\", range: None, head: false }",
            ),
            ("GET", "/b/k", "versionId=abc", "NotImplemented"),
            ("GET", "/b", "policy", "NotImplemented"),
            ("GET", "/b/%ff", "", "InvalidURI"),
            ("GET", "//k", "", "InvalidURI"),
            ("PATCH", "/b/k", "", "MethodNotAllowed"),
            ("PUT", "/", "", "MethodNotAllowed"),
            ("PUT", "/b/k", "", "Change { operation: \"PutObject\", bucket: \"b\", key: Some(\"k\") }"),
            ("DELETE", "/b", "", "Change { operation: \"DeleteBucket\", bucket: \"b\", key: None }"),
            ("POST", "/b", "delete", "Change { operation: \"DeleteObjects\", bucket: \"b\", key: None }"),
            ("GET", "/b", "max-keys=x", "InvalidArgument"),
            ("GET", "/b", "list-type=3", "InvalidArgument"),
            ("GET", "/b", "encoding-type=gzip", "InvalidArgument"),
            ("GET", "/b", "list-type=2&continuation-token=%21", "InvalidArgument"),
        ] {
            assert_eq!(shown(method, path, query), expected, "{method} {path}?{query}");
        }
        let long = format!("/b/{}", "k".repeat(LONGEST_KEY + 1));
        assert_eq!(shown("GET", &long, ""), "KeyTooLongError");
    }

    #[test]
    fn listings() {
        let list = |query: &str| match parse("GET", "/b", query) {
            Ok(BucketRequest::ListObjects(list)) => list,
            other => panic!("{other:?}"),
        };
        let v1 = list("marker=a%2Fb&prefix=a+b&encoding-type=url&max-keys=2000&start-after=z");
        assert_eq!((v1.v2, v1.after.as_str(), v1.prefix.as_str()), (false, "a/b", "a b"));
        assert_eq!((v1.max_keys, v1.url_encoded, v1.delimiter), (MOST_KEYS, true, None));
        let v2 = list(&format!("list-type=2&start-after=a&continuation-token={}&delimiter=%2F&max-keys=0", token("b")));
        assert_eq!((v2.v2, v2.after.as_str(), v2.delimiter.as_deref(), v2.max_keys), (true, "b", Some("/"), 0));
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_no_harm(path in any::<String>(), query in "[a-z%=&+-]{0,60}") {
            for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "X"] {
                let _ = (parse(method, &path, &query).is_ok(), operation_name(method, &path, &query));
            }
        }
    }
}
