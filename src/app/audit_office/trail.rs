//! CloudTrail's questions about the trail itself. Source: audit.md §2.4, §2.7, §2.8.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use x509_cert::der::Decode;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::bucket::Bucket;
use super::unreadable;
use crate::ids::{Arn, Region};
use crate::ops::{ObjectFacts, OpError, TrailNames, TrailRefusal, TrailRequest};

/// A key that signs now is told to be valid until 2100: whoever keeps the answer need not ask again.
const NO_END: i64 = 4_102_444_800;

pub(in crate::app) struct Trail {
    /// `<audit.dir>/<trail>`
    pub dir: PathBuf,
    pub names: TrailNames,
    pub name: String,
    pub region: Region,
    pub key_prefix: Option<String>,
    pub bucket: Arc<Bucket>,
}

/// A row of `keys/keys.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyRow {
    key_use: String,
    fingerprint: String,
    /// Base64 of the SubjectPublicKeyInfo.
    spki: String,
    valid_from: i64,
    valid_until: Option<i64>,
}

impl Trail {
    /// `now`: milliseconds since the epoch.
    pub fn answer(&self, request: &TrailRequest, now: i64) -> Result<Value, OpError> {
        match request {
            TrailRequest::DescribeTrails { names } => {
                let mut asked = true;
                for name in names {
                    asked &= self.is_asked(name)?;
                }
                let found = names.is_empty() || asked || names.iter().any(|name| self.is_asked(name).unwrap_or(false));
                Ok(json!({ "trailList": if found { vec![self.described()] } else { Vec::new() } }))
            }
            TrailRequest::GetTrail { name } => self.known(name).map(|()| json!({ "Trail": self.described() })),
            TrailRequest::GetTrailStatus { name } => self.known(name).and_then(|()| self.status(now)),
            TrailRequest::ListTrails => Ok(json!({ "Trails": [{
                "TrailARN": self.names.trail_arn,
                "Name": self.name,
                "HomeRegion": self.region.as_str(),
            }] })),
            TrailRequest::ListPublicKeys => self.public_keys(),
            TrailRequest::GetEventSelectors { trail } => self.known(trail).map(|()| {
                json!({
                    "TrailARN": self.names.trail_arn,
                    "EventSelectors": [{
                        "ReadWriteType": "All",
                        "IncludeManagementEvents": true,
                        "DataResources": [],
                        "ExcludeManagementEventSources": [],
                    }],
                })
            }),
            TrailRequest::LookupEvents(_) | TrailRequest::Change { .. } => {
                Err(OpError::Internal("not a question about the trail".to_owned()))
            }
        }
    }

    fn described(&self) -> Value {
        let mut described = json!({
            "Name": self.name,
            "S3BucketName": self.names.bucket,
            "IncludeGlobalServiceEvents": true,
            "IsMultiRegionTrail": false,
            "HomeRegion": self.region.as_str(),
            "TrailARN": self.names.trail_arn,
            "LogFileValidationEnabled": true,
            "HasCustomEventSelectors": false,
            "HasInsightSelectors": false,
            "IsOrganizationTrail": false,
        });
        if let (Some(prefix), Some(members)) = (&self.key_prefix, described.as_object_mut()) {
            members.insert("S3KeyPrefix".to_owned(), json!(prefix));
        }
        described
    }

    /// By name or by ARN.
    fn is_asked(&self, name: &str) -> Result<bool, OpError> {
        if name.starts_with("arn:") {
            let of_a_trail = |arn: &Arn<'_>| arn.service == "cloudtrail" && arn.resource.starts_with("trail/");
            return match Arn::parse(name) {
                Ok(arn) if of_a_trail(&arn) => Ok(name == self.names.trail_arn),
                _ => Err(OpError::Trail(TrailRefusal::InvalidTrailArn(name.to_owned()))),
            };
        }
        // RULE CloudTrail: 3 to 128 letters, digits, periods, underscores and dashes.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        match (3..=128).contains(&name.len()) && name.bytes().all(plain) {
            true => Ok(name == self.name),
            false => Err(OpError::Trail(TrailRefusal::InvalidTrailName(name.to_owned()))),
        }
    }

    fn known(&self, name: &str) -> Result<(), OpError> {
        match self.is_asked(name)? {
            true => Ok(()),
            false => Err(OpError::Trail(TrailRefusal::TrailNotFound(name.to_owned()))),
        }
    }

    /// RULE audit.md §2.8 item 2: all keys that ever signed, on one page, whatever range is asked for.
    fn public_keys(&self) -> Result<Value, OpError> {
        let path = self.dir.join("keys").join("keys.json");
        let rows: Vec<KeyRow> = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| unreadable("the list of audit keys", error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(unreadable("the list of audit keys", error)),
        };
        let mut keys = Vec::new();
        for row in rows.iter().filter(|row| row.key_use == "digest") {
            let value = pkcs1(&row.spki).ok_or_else(|| unreadable("an audit key", &row.fingerprint))?;
            keys.push(json!({
                "Value": STANDARD.encode(value),
                "ValidityStartTime": row.valid_from.div_euclid(1000),
                "ValidityEndTime": row.valid_until.map_or(NO_END, |until| until.div_euclid(1000)),
                "Fingerprint": row.fingerprint,
            }));
        }
        Ok(json!({ "PublicKeyList": keys }))
    }

    fn status(&self, now: i64) -> Result<Value, OpError> {
        let logs = self.newest("CloudTrail")?;
        let digests = self.newest("CloudTrail-Digest")?;
        let mut status = json!({ "IsLogging": true, "TimeLoggingStopped": "" });
        let Some(members) = status.as_object_mut() else { return Ok(status) };
        let seconds = |facts: &ObjectFacts| json!(facts.modified.min(now).div_euclid(1000));
        if let Some(facts) = &logs {
            members.insert("LatestDeliveryTime".to_owned(), seconds(facts));
        }
        if let Some(facts) = &digests {
            members.insert("LatestDigestDeliveryTime".to_owned(), seconds(facts));
        }
        Ok(status)
    }

    /// The newest object of a kind: names begin with their date.
    fn newest(&self, kind: &str) -> Result<Option<ObjectFacts>, OpError> {
        let prefix = self.key_prefix.as_ref().map_or(String::new(), |prefix| format!("{prefix}/"));
        self.bucket.last(&format!("{prefix}AWSLogs/{}/{kind}/{}/", self.names.account, self.region.as_str()))
    }
}

/// RULE audit.md §2.3: CloudTrail's `Value` is PKCS#1's RSAPublicKey, not the SubjectPublicKeyInfo around it.
fn pkcs1(spki: &str) -> Option<Vec<u8>> {
    let spki = STANDARD.decode(spki).ok()?;
    let info = SubjectPublicKeyInfoRef::from_der(&spki).ok()?;
    info.subject_public_key.as_bytes().map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(dir: &std::path::Path) -> Trail {
        Trail {
            dir: dir.to_owned(),
            names: TrailNames {
                account: "111122223333".parse().unwrap(),
                trail_arn: "arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge".to_owned(),
                bucket: "hsm-audit".to_owned(),
            },
            name: "hsm-bridge".to_owned(),
            region: "eu-central-1".parse().unwrap(),
            key_prefix: None,
            bucket: Arc::new(Bucket::new(dir.join("bucket"))),
        }
    }

    #[test]
    fn names_and_arns() {
        let dir = tempfile::tempdir().unwrap();
        let trail = trail(dir.path());
        let known = |name: &str| trail.known(name).map_err(|error| error.to_string());
        assert_eq!(known("hsm-bridge"), Ok(()));
        assert_eq!(known("arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge"), Ok(()));
        for (name, says) in [
            ("other", "no trail `other`"),
            ("arn:aws:cloudtrail:us-east-1:111122223333:trail/hsm-bridge", "no trail"),
            ("a", "no name of a trail"),
            ("a b c", "no name of a trail"),
            ("arn:aws:s3:::b", "no ARN of a trail"),
            ("arn:", "no ARN of a trail"),
        ] {
            assert!(known(name).unwrap_err().contains(says), "{name}");
        }
        let listed = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let answer = trail.answer(&TrailRequest::DescribeTrails { names }, 0).unwrap();
            answer["trailList"].as_array().unwrap().len()
        };
        assert_eq!((listed(&[]), listed(&["other"]), listed(&["other", "hsm-bridge"])), (1, 0, 1));
    }

    #[test]
    fn digest_keys_are_told_as_pkcs1() {
        let dir = tempfile::tempdir().unwrap();
        let trail = trail(dir.path());
        assert_eq!(trail.public_keys().unwrap(), json!({ "PublicKeyList": [] }));
        // SEQUENCE { SEQUENCE { rsaEncryption, NULL }, BIT STRING { RSAPublicKey } }
        let key = hex::decode("3009020400c0ffee0201030000").unwrap();
        let mut spki = hex::decode("301f300d06092a864886f70d010101050003").unwrap();
        spki.extend([14, 0]);
        spki.extend(&key);
        spki[1] = u8::try_from(spki.len() - 2).unwrap();
        std::fs::create_dir(dir.path().join("keys")).unwrap();
        let row = |key_use: &str, until: Option<i64>| {
            json!({ "keyUse": key_use, "generation": 1, "fingerprint": "ab", "spki": STANDARD.encode(&spki),
                    "certificate": "", "validFrom": 1500, "validUntil": until })
        };
        let rows = json!([row("digest", Some(2500)), row("checkpoint", None), row("digest", None)]).to_string();
        std::fs::write(dir.path().join("keys/keys.json"), rows).unwrap();
        let told = trail.public_keys().unwrap();
        let told = told["PublicKeyList"].as_array().unwrap();
        assert_eq!(told.len(), 2);
        assert_eq!(told[0]["Value"], json!(STANDARD.encode(&key)));
        assert_eq!((&told[0]["ValidityStartTime"], &told[0]["ValidityEndTime"]), (&json!(1), &json!(2)));
        assert_eq!(told[1]["ValidityEndTime"], json!(NO_END));
    }
}
