//! Answers about the bucket, in S3's XML and headers. Source: Amazon S3 API Reference, ListObjects, ListObjectsV2, GetObject.

use std::borrow::Cow;
use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::parse::token;
use super::{CONTENT_TYPE, NAMESPACE, S3Error, escape};
use crate::ops::{AuditAnswer, Object, ObjectList};

/// What `encoding-type=url` leaves as it is.
const IN_KEYS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

const ISO: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
/// RFC 9110 §5.6.7.
const HTTP: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// An answer without its request id.
#[derive(Debug, PartialEq, Eq)]
pub struct Rendered {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
    /// Names may be of the object's making: `x-amz-meta-…`.
    pub headers: Vec<(Cow<'static, str>, String)>,
}

/// `region`: of the instance. Answers that are not the bucket's are `None`.
pub fn render(answer: AuditAnswer, region: &str) -> Result<Rendered, S3Error> {
    let xml = |text: String| Rendered {
        status: 200,
        content_type: CONTENT_TYPE,
        body: format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}\n").into_bytes(),
        headers: Vec::new(),
    };
    Ok(match answer {
        AuditAnswer::Buckets { bucket } => xml(format!(
            "<ListAllMyBucketsResult xmlns=\"{NAMESPACE}\"><Owner><ID>hsm-bridge</ID></Owner><Buckets><Bucket><Name>{}</Name>\
             <CreationDate>1970-01-01T00:00:00.000Z</CreationDate><BucketRegion>{}</BucketRegion></Bucket></Buckets>\
             </ListAllMyBucketsResult>",
            escape(&bucket),
            escape(region)
        )),
        // RULE S3: us-east-1 is told as an empty constraint.
        AuditAnswer::Location if region == "us-east-1" => xml(format!("<LocationConstraint xmlns=\"{NAMESPACE}\"/>")),
        AuditAnswer::Location => {
            xml(format!("<LocationConstraint xmlns=\"{NAMESPACE}\">{}</LocationConstraint>", escape(region)))
        }
        AuditAnswer::Found => Rendered {
            headers: vec![("x-amz-bucket-region".into(), region.to_owned())],
            body: Vec::new(),
            ..xml(String::new())
        },
        AuditAnswer::Objects(list) => xml(listing(&list)),
        AuditAnswer::Object(object) => of_object(object),
        AuditAnswer::Trail(_) | AuditAnswer::Stream { .. } | AuditAnswer::Made(_) => return Err(S3Error::internal()),
    })
}

fn listing(list: &ObjectList) -> String {
    let request = &list.request;
    let shown = |text: &str| match request.url_encoded {
        true => utf8_percent_encode(text, IN_KEYS).to_string(),
        false => escape(text),
    };
    let mut xml = String::with_capacity(512 + 320 * list.objects.len());
    let _ = write!(
        xml,
        "<ListBucketResult xmlns=\"{NAMESPACE}\"><Name>{}</Name><Prefix>{}</Prefix>",
        escape(&request.bucket),
        shown(&request.prefix)
    );
    if request.v2 {
        let count = list.objects.len() + list.common_prefixes.len();
        let _ = write!(xml, "<KeyCount>{count}</KeyCount>");
    } else {
        let _ = write!(xml, "<Marker>{}</Marker>", shown(&request.after));
    }
    let _ = write!(xml, "<MaxKeys>{}</MaxKeys>", request.max_keys);
    if let Some(delimiter) = &request.delimiter {
        let _ = write!(xml, "<Delimiter>{}</Delimiter>", shown(delimiter));
    }
    if request.url_encoded {
        xml.push_str("<EncodingType>url</EncodingType>");
    }
    let _ = write!(xml, "<IsTruncated>{}</IsTruncated>", list.next.is_some());
    match &list.next {
        Some(next) if request.v2 => {
            let _ = write!(xml, "<NextContinuationToken>{}</NextContinuationToken>", token(next));
        }
        // RULE S3 ListObjects: told with a delimiter only; else the last key is the marker.
        Some(next) if request.delimiter.is_some() => {
            let _ = write!(xml, "<NextMarker>{}</NextMarker>", shown(next));
        }
        _ => {}
    }
    for object in &list.objects {
        let _ = write!(
            xml,
            "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>&quot;{}&quot;</ETag><Size>{}</Size>\
             <StorageClass>STANDARD</StorageClass></Contents>",
            shown(&object.key),
            date(object.modified, ISO),
            escape(&object.etag),
            object.size
        );
    }
    for prefix in &list.common_prefixes {
        let _ = write!(xml, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", shown(prefix));
    }
    xml.push_str("</ListBucketResult>");
    xml
}

fn of_object(object: Object) -> Rendered {
    let facts = object.facts;
    let mut headers: Vec<(Cow<'static, str>, String)> = vec![
        ("etag".into(), format!("\"{}\"", facts.etag)),
        ("last-modified".into(), date(facts.modified, HTTP)),
        ("accept-ranges".into(), "bytes".to_owned()),
    ];
    if let Some((first, last)) = object.range {
        headers.push(("content-range".into(), format!("bytes {first}-{last}/{}", facts.size)));
    }
    let length = object.range.map_or(facts.size, |(first, last)| last.saturating_sub(first).saturating_add(1));
    if object.body.is_none() {
        // Of HEAD: as GET would have it.
        headers.push(("content-length".into(), length.to_string()));
    }
    headers.extend(object.metadata.into_iter().map(|(name, value)| (format!("x-amz-meta-{name}").into(), value)));
    Rendered {
        status: if object.range.is_some() { 206 } else { 200 },
        content_type: object.content_type,
        body: object.body.unwrap_or_default(),
        headers,
    }
}

fn date(milliseconds: i64, format: &[BorrowedFormatItem<'_>]) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000);
    time.unwrap_or(OffsetDateTime::UNIX_EPOCH).format(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{ListObjects, ObjectFacts};

    fn facts(key: &str) -> ObjectFacts {
        ObjectFacts { key: key.to_owned(), size: 10, modified: 1_767_225_600_250, etag: "e".to_owned() }
    }

    #[test]
    fn listings() {
        let request = ListObjects {
            bucket: "b".to_owned(),
            prefix: "a b/".to_owned(),
            delimiter: Some("/".to_owned()),
            max_keys: 1,
            url_encoded: true,
            ..ListObjects::default()
        };
        let list = ObjectList {
            request,
            objects: vec![facts("a b/<1>")],
            common_prefixes: vec!["a b/c/".to_owned()],
            next: Some("a b/c/".to_owned()),
        };
        let shown = |list: ObjectList| {
            String::from_utf8(render(AuditAnswer::Objects(list), "eu-central-1").unwrap().body).unwrap()
        };
        let v1 = shown(list.clone());
        for part in [
            "<Prefix>a%20b/</Prefix><Marker></Marker><MaxKeys>1</MaxKeys><Delimiter>/</Delimiter>",
            "<IsTruncated>true</IsTruncated><NextMarker>a%20b/c/</NextMarker>",
            "<Key>a%20b/%3C1%3E</Key><LastModified>2026-01-01T00:00:00.250Z</LastModified><ETag>&quot;e&quot;</ETag>",
            "<CommonPrefixes><Prefix>a%20b/c/</Prefix></CommonPrefixes>",
        ] {
            assert!(v1.contains(part), "{part}: {v1}");
        }
        let request = ListObjects { v2: true, url_encoded: false, ..list.request.clone() };
        let v2 = shown(ObjectList { request, ..list });
        assert!(v2.contains("<KeyCount>2</KeyCount>") && v2.contains("<Key>a b/&lt;1&gt;</Key>"), "{v2}");
        assert!(v2.contains(&format!("<NextContinuationToken>{}</", token("a b/c/"))), "{v2}");
    }

    #[test]
    fn objects() {
        let object = Object {
            facts: facts("k"),
            body: Some(b"0123".to_vec()),
            range: Some((2, 5)),
            metadata: vec![("signature".to_owned(), "ab".to_owned())],
            content_type: "application/x-gzip",
        };
        let whole = Object { range: None, body: None, ..object.clone() };
        let rendered = render(AuditAnswer::Object(object), "eu-central-1").unwrap();
        let header = |rendered: &Rendered, name: &str| {
            rendered.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
        };
        assert_eq!((rendered.status, rendered.body.as_slice()), (206, &b"0123"[..]));
        assert_eq!(header(&rendered, "content-range").as_deref(), Some("bytes 2-5/10"));
        assert_eq!(header(&rendered, "x-amz-meta-signature").as_deref(), Some("ab"));
        assert_eq!(header(&rendered, "last-modified").as_deref(), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
        let head = render(AuditAnswer::Object(whole), "eu-central-1").unwrap();
        assert_eq!((head.status, header(&head, "content-length").as_deref()), (200, Some("10")));
    }

    #[test]
    fn locations() {
        let of = |region| String::from_utf8(render(AuditAnswer::Location, region).unwrap().body).unwrap();
        assert!(of("eu-central-1").contains(">eu-central-1</LocationConstraint>"));
        assert!(of("us-east-1").contains("<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>"));
    }
}
