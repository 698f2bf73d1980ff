//! Which trail a folder is of, by its own word: the digests, else the journal, else an export's manifest. What is told here is what
//! clients check against signatures; a wrong word makes them refuse.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;

use super::{Bucket, Trail};
use crate::ids::{AccountId, Arn, Region};
use crate::ops::{ListObjects, TrailNames};

const LARGEST_DIGEST: u64 = 64 << 20;
const LONGEST_LINE: u64 = 1 << 20;
/// As many keys as a page of the listing has.
const PAGE: u32 = 1000;
/// Where no digest names it: `[audit] bucket` by default.
const BUCKET: &str = "hsm-audit";

pub(super) struct Facts {
    pub dir: PathBuf,
    /// The folder of the bucket; it need not exist.
    pub objects: PathBuf,
    pub has_objects: bool,
    pub arn: String,
    pub account: AccountId,
    pub region: Region,
    name: String,
    pub bucket: String,
    key_prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Digest {
    digest_s3_bucket: String,
    digest_s3_object: String,
}

impl Facts {
    /// Errors say what is missing.
    pub fn of(dir: &Path) -> Result<Facts, String> {
        if !dir.is_dir() {
            return Err(format!("`{}` is no folder", dir.display()));
        }
        if !dir.join("keys").join("keys.json").is_file() {
            let what = "it has no keys/keys.json: give the folder of a trail, or of an export";
            return Err(format!("`{}`: {what}", dir.display()));
        }
        let own = dir.join("bucket");
        let objects = if !own.is_dir() && dir.join("AWSLogs").is_dir() { dir.to_owned() } else { own };
        let digest = digest(&Bucket::new(objects.clone()))?;
        let found = digest.as_ref().and_then(|digest| arn_of(&digest.digest_s3_object));
        let arn = found.or_else(|| journal(dir)).or_else(|| manifest(dir)).ok_or_else(|| {
            format!(
                "`{}` does not say which trail it is of: there is no digest that can be read in bucket/, no segment in journal/, and no \
                 manifest.json",
                dir.display()
            )
        })?;
        let wrong = || format!("`{}` says that it is of `{arn}`, which is no ARN of a trail", dir.display());
        let parsed = Arn::parse(&arn).map_err(|_| wrong())?;
        let (Ok(account), Ok(region)) = (parsed.account.parse(), parsed.region.parse()) else { return Err(wrong()) };
        let name =
            parsed.resource.strip_prefix("trail/").filter(|_| parsed.service == "cloudtrail").ok_or_else(wrong)?;
        let prefix = digest.as_ref().and_then(|digest| digest.digest_s3_object.split_once("/AWSLogs/"));
        Ok(Facts {
            name: name.to_owned(),
            dir: dir.to_owned(),
            objects,
            has_objects: digest.is_some(),
            account,
            region,
            key_prefix: prefix.map(|(prefix, _)| prefix.to_owned()),
            bucket: digest.map_or(BUCKET.to_owned(), |digest| digest.digest_s3_bucket),
            arn,
        })
    }

    pub fn trail(self, bucket: Arc<Bucket>) -> Trail {
        Trail {
            dir: self.dir,
            names: TrailNames { account: self.account, trail_arn: self.arn, bucket: self.bucket },
            name: self.name,
            region: self.region,
            key_prefix: self.key_prefix,
            bucket,
        }
    }
}

/// The first digest that can be read.
fn digest(bucket: &Bucket) -> Result<Option<Digest>, String> {
    let mut after = String::new();
    loop {
        let page = ListObjects { after, max_keys: PAGE, ..ListObjects::default() };
        let page = bucket.list(page).map_err(|error| error.to_string())?;
        for object in &page.objects {
            if object.key.contains("/CloudTrail-Digest/")
                && let Ok(found) = bucket.object(&object.key, None, false)
                && let Some(digest) = found.body.as_deref().and_then(parsed)
            {
                return Ok(Some(digest));
            }
        }
        match page.next {
            Some(next) => after = next,
            None => return Ok(None),
        }
    }
}

fn parsed(packed: &[u8]) -> Option<Digest> {
    serde_json::from_reader(BufReader::new(GzDecoder::new(packed).take(LARGEST_DIGEST))).ok()
}

/// RULE audit.md §2.1: `[prefix/]AWSLogs/A/CloudTrail-Digest/R/YYYY/MM/DD/A_CloudTrail-Digest_R_TRAIL_R_TIME.json.gz`.
fn arn_of(key: &str) -> Option<String> {
    let rest = key.strip_prefix("AWSLogs/").or_else(|| key.split_once("/AWSLogs/").map(|(_, rest)| rest))?;
    let parts: Vec<&str> = rest.split('/').collect();
    let [account, "CloudTrail-Digest", region, _, _, _, name] = parts.as_slice() else { return None };
    let (trail, _time) = name.strip_prefix(&format!("{account}_CloudTrail-Digest_{region}_"))?.rsplit_once('_')?;
    let trail = trail.strip_suffix(&format!("_{region}"))?;
    Some(format!("arn:aws:cloudtrail:{region}:{account}:trail/{trail}"))
}

/// Every segment begins with a record that names the trail.
fn journal(dir: &Path) -> Option<String> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(dir.join("journal")).ok()?.flatten().map(|e| e.path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    names.sort();
    names.iter().find_map(|path| {
        let mut line = Vec::new();
        BufReader::new(File::open(path).ok()?.take(LONGEST_LINE)).read_until(b'\n', &mut line).ok()?;
        text_at(&line, "/additionalEventData/details/trail")
    })
}

fn manifest(dir: &Path) -> Option<String> {
    text_at(&std::fs::read(dir.join("manifest.json")).ok()?, "/trail")
}

fn text_at(json: &[u8], pointer: &str) -> Option<String> {
    let value: Value = serde_json::from_slice(json).ok()?;
    value.pointer(pointer)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(dir: &Path) -> Result<(String, String), String> {
        Facts::of(dir).map(|facts| (facts.arn, facts.bucket))
    }

    #[test]
    fn the_name_of_a_digest_names_the_trail() {
        let name = "AWSLogs/111122223333/CloudTrail-Digest/eu-central-1/2026/01/02/111122223333_CloudTrail-Digest_eu-central-1_a_b_eu-central-1_20260102T030405Z.json.gz";
        let arn = "arn:aws:cloudtrail:eu-central-1:111122223333:trail/a_b";
        assert_eq!(arn_of(name).as_deref(), Some(arn));
        assert_eq!(arn_of(&format!("one/two/{name}")).as_deref(), Some(arn));
        assert_eq!(arn_of("AWSLogs/111122223333/CloudTrail/eu-central-1/2026/01/02/x"), None);
    }

    #[test]
    fn a_folder_that_does_not_say_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(said(&path.join("none")).unwrap_err().contains("no folder"));
        assert!(said(path).unwrap_err().contains("keys/keys.json"));
        std::fs::create_dir(path.join("keys")).unwrap();
        std::fs::write(path.join("keys/keys.json"), "[]").unwrap();
        assert!(said(path).unwrap_err().contains("which trail"));
        std::fs::write(path.join("manifest.json"), r#"{"trail":"arn:aws:s3:::b"}"#).unwrap();
        assert!(said(path).unwrap_err().contains("no ARN of a trail"));
        let arn = "arn:aws:cloudtrail:eu-central-1:111122223333:trail/one";
        std::fs::write(path.join("manifest.json"), format!(r#"{{"trail":"{arn}"}}"#)).unwrap();
        assert_eq!(said(path).unwrap(), (arn.to_owned(), "hsm-audit".to_owned()));
        std::fs::create_dir(path.join("journal")).unwrap();
        let line = format!("{{\"additionalEventData\":{{\"details\":{{\"trail\":\"{arn}2\"}}}}}}\n");
        std::fs::write(path.join("journal/0-a.jsonl"), line).unwrap();
        assert_eq!(said(path).unwrap().0, format!("{arn}2"));
    }
}
