//! `audit verify https://…`: a running service's bucket, copied into a folder that is gone afterwards, and verified there. The service
//! that is judged is not asked for a judgement: what it gives is checked as files are. Source: audit.md §7.6.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Failed;
use crate::client::trail::TrailClient;
use crate::client::{ClientError, Environment};

/// What CloudTrail tells as the end of a key that still signs: 2100.
const NO_END: i64 = 4_102_444_800;
/// AlgorithmIdentifier of rsaEncryption (RFC 3279 §2.3.1), DER.
const RSA: [u8; 15] = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

pub fn is_url(text: &Path) -> bool {
    text.to_str().is_some_and(|text| text.starts_with("https://") || text.starts_with("http://"))
}

/// A trail's folder without a journal.
pub struct Copied {
    folder: Folder,
    pub trail_arn: String,
    /// The service says that its log goes on.
    pub live: bool,
}

impl Copied {
    pub fn path(&self) -> &Path {
        &self.folder.0
    }
}

/// Gone when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, Failed> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| Failed::new(71, format!("no randomness: {e}")))?;
        let path = std::env::temp_dir().join(format!("hsm-bridge-verify-{}", hex::encode(random)));
        DirBuilder::new().mode(0o700).create(&path).map_err(|e| unwritable(&path, &e))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub async fn copy(url: &str, ca: Option<&Path>, trail_arn: Option<&str>) -> Result<Copied, Failed> {
    let ca = ca
        .map(|path| path.to_str().ok_or_else(|| Failed::new(super::USAGE, "--ca: the name is not UTF-8")))
        .transpose()?;
    let environment = Environment::read_trusting(url, ca).map_err(failed)?;
    let mut client = TrailClient::new(environment).map_err(failed)?;
    let folder = Folder::new()?;

    let described = client.call("DescribeTrails", &json!({})).await.map_err(failed)?;
    let trails = described.get("trailList").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let arn = |trail: &Value| trail.get("TrailARN").and_then(Value::as_str).map(str::to_owned);
    let trail = trails.iter().find(|trail| trail_arn.is_none_or(|wanted| arn(trail).as_deref() == Some(wanted)));
    let (Some(trail), Some(told)) = (trail, trail.and_then(arn)) else {
        let named = trail_arn.unwrap_or("at all");
        return Err(Failed::new(6, format!("`{url}` has no trail {named}")));
    };
    let bucket = trail.get("S3BucketName").and_then(Value::as_str).ok_or_else(|| odd("DescribeTrails"))?.to_owned();
    let status = client.call("GetTrailStatus", &json!({ "Name": told })).await.map_err(failed)?;
    let live = status.get("IsLogging") != Some(&Value::Bool(false));

    // Objects first: a key that begins to sign meanwhile is in the list then.
    objects(&mut client, &bucket, &folder.0.join("bucket")).await?;
    let keys = client.call("ListPublicKeys", &json!({})).await.map_err(failed)?;
    let rows = key_rows(&keys).ok_or_else(|| odd("ListPublicKeys"))?;
    write(&folder.0.join("keys").join("keys.json"), Value::from(rows).to_string().as_bytes())?;
    Ok(Copied { folder, trail_arn: told, live })
}

async fn objects(client: &mut TrailClient, bucket: &str, root: &Path) -> Result<(), Failed> {
    make_folder(root)?;
    let mut after: Option<String> = None;
    loop {
        let page = client.list(bucket, after.as_deref()).await.map_err(failed)?;
        for (key, size) in &page.objects {
            let path = place(root, key)?;
            let mut file = create(&path)?;
            let object = (key.as_str(), *size);
            let metadata = match client.object(bucket, object, |piece| file.write_all(piece)).await {
                Ok(metadata) => metadata,
                // Retention took it since the page was made: the log files say so, or it is missed.
                Err(error) if error.is("NoSuchKey") => {
                    std::fs::remove_file(&path).map_err(|e| unwritable(&path, &e))?;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            if !metadata.is_empty() {
                write(&place(root, &format!("{key}.meta"))?, json!(metadata).to_string().as_bytes())?;
            }
        }
        match page.next {
            // A page that leads to itself would have no end.
            Some(next) if after.as_ref() != Some(&next) => after = Some(next),
            Some(_) => return Err(odd("ListObjectsV2")),
            None => return Ok(()),
        }
    }
}

/// Where an object is put. The service may be anybody: no key may lead out of the folder.
fn place(root: &Path, key: &str) -> Result<PathBuf, Failed> {
    if key.contains('\0') || key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Failed::new(6, format!("the bucket has an object {key:?}, which is no file of a trail")));
    }
    Ok(root.join(key))
}

/// `keys/keys.json` of CloudTrail's list. `None`: it has not its form.
fn key_rows(answer: &Value) -> Option<Vec<Value>> {
    let mut keys: Vec<&Value> = answer.get("PublicKeyList")?.as_array()?.iter().collect();
    keys.sort_by_key(|key| key.get("ValidityStartTime").and_then(seconds));
    let row = |(generation, key): (usize, &Value)| {
        let (from, until) = (seconds(key.get("ValidityStartTime")?)?, seconds(key.get("ValidityEndTime")?)?);
        Some(json!({
            "keyUse": "digest",
            "generation": generation + 1,
            "fingerprint": key.get("Fingerprint")?.as_str()?,
            "spki": STANDARD.encode(spki(&STANDARD.decode(key.get("Value")?.as_str()?).ok()?)),
            "validFrom": from.checked_mul(1000)?,
            "validUntil": if until >= NO_END { None } else { Some(until.checked_mul(1000)?) },
        }))
    };
    keys.into_iter().enumerate().map(row).collect()
}

#[allow(clippy::cast_possible_truncation)]
fn seconds(value: &Value) -> Option<i64> {
    value.as_f64().filter(|seconds| seconds.abs() < 1e14).map(|seconds| seconds.floor() as i64)
}

/// RULE RFC 5280 §4.1: SubjectPublicKeyInfo around PKCS#1's RSAPublicKey.
fn spki(key: &[u8]) -> Vec<u8> {
    let bits = der(0x03, &[&[0], key].concat());
    der(0x30, &[&RSA, bits.as_slice()].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut made = vec![tag];
    if content.len() >= 0x80 {
        made.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
        made.extend(significant);
    } else {
        made.push(length.last().copied().unwrap_or_default());
    }
    made.extend_from_slice(content);
    made
}

fn make_folder(path: &Path) -> Result<(), Failed> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| unwritable(path, &e))
}

fn create(path: &Path) -> Result<File, Failed> {
    path.parent().map_or(Ok(()), make_folder)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| unwritable(path, &e))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failed> {
    create(path)?.write_all(bytes).map_err(|e| unwritable(path, &e))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failed {
    Failed::new(74, format!("writing `{}`: {error}", path.display()))
}

fn odd(operation: &str) -> Failed {
    Failed::new(6, format!("the answer to {operation} is not understood"))
}

/// Without the files nothing can be said: incomplete input.
fn failed(error: ClientError) -> Failed {
    let code = if matches!(error, ClientError::Configuration(_)) { super::USAGE } else { 6 };
    Failed::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_spki() {
        let key = vec![7; 270];
        let made = spki(&key);
        assert_eq!(made[..4], [0x30, 0x82, 0x01, 0x22]);
        assert_eq!(made[4..19], RSA);
        assert_eq!(made[19..24], [0x03, 0x82, 0x01, 0x0f, 0]);
        assert_eq!(made[24..], key);
        let list = json!({ "PublicKeyList": [
            { "Value": STANDARD.encode(&key), "ValidityStartTime": 9, "ValidityEndTime": NO_END, "Fingerprint": "b" },
            { "Value": STANDARD.encode(&key), "ValidityStartTime": 3.0, "ValidityEndTime": 9, "Fingerprint": "a" },
        ] });
        let rows = key_rows(&list).unwrap();
        assert_eq!(
            (&rows[0]["fingerprint"], &rows[0]["generation"], &rows[0]["validUntil"]),
            (&json!("a"), &json!(1), &json!(9000))
        );
        assert_eq!((&rows[1]["validFrom"], &rows[1]["validUntil"]), (&json!(9000), &Value::Null));
        assert!(key_rows(&json!({})).is_none());
    }

    #[test]
    fn no_key_leads_out() {
        let root = Path::new("/r");
        assert_eq!(place(root, "a/b").ok(), Some(PathBuf::from("/r/a/b")));
        for bad in ["", "/a", "a//b", "../a", "a/../../b", "a/.", "a\0b"] {
            assert!(place(root, bad).is_err(), "{bad:?}");
        }
    }
}
