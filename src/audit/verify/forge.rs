//! Makes small complete trails for tests, with keys in memory: honest ones, and such as somebody who holds the keys could make.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::line::{Leaf, end_id};
use super::names::{compact, unique};
use super::note;
use super::signature::{PublicKey, hex, sha256};
use super::times;
use super::tree::Frontier;

pub const ARN: &str = "arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge";
const ORIGIN: &str = "hsm-bridge/111122223333/eu-central-1/hsm-bridge";
const BUCKET: &str = "hsm-audit";
const BOOT: &str = "b27e";
/// 2026-03-04T09:00:00Z
const BEGIN: i64 = 1_772_614_800;

pub struct Keys {
    digest: Vec<RsaKeyPair>,
    checkpoint: Vec<EcdsaKeyPair>,
    /// PEM: of the digest keys, of the checkpoint keys.
    certificates: [Vec<String>; 2],
    /// The authority that issued them, PEM.
    pub authority: String,
    pub another_authority: String,
}

/// Two generations of each use; made once.
pub fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let digest: Vec<RsaKeyPair> = (0..2).map(|_| RsaKeyPair::generate(KeySize::Rsa2048).unwrap()).collect();
        let checkpoint: Vec<EcdsaKeyPair> =
            (0..2).map(|_| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap()).collect();
        let authority = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut parameters = rcgen::CertificateParams::new([]).unwrap();
            parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
            let pem = parameters.self_signed(&key).unwrap().pem();
            (rcgen::Issuer::new(parameters, key), pem)
        };
        let (issuer, pem) = authority("audit authority");
        let issue = |pkcs8: &[u8]| {
            let key = rcgen::KeyPair::try_from(pkcs8).unwrap();
            let parameters = rcgen::CertificateParams::new([]).unwrap();
            parameters.signed_by(&key, &issuer).unwrap().pem()
        };
        let of_digest = digest.iter().map(|key| {
            let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
            issue(der.as_ref())
        });
        let of_checkpoint = checkpoint.iter().map(|key| issue(key.to_pkcs8v1().unwrap().as_ref()));
        let certificates = [of_digest.collect(), of_checkpoint.collect()];
        Keys { digest, checkpoint, certificates, authority: pem, another_authority: authority("somebody").1 }
    })
}

impl Keys {
    fn spki(&self, key_use: &str, generation: usize) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match key_use {
            "digest" => self.digest[generation - 1].public_key().as_der().unwrap(),
            _ => self.checkpoint[generation - 1].public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    }

    fn fingerprint(&self, key_use: &str, generation: usize) -> String {
        PublicKey::from_spki(&self.spki(key_use, generation)).unwrap().fingerprint()
    }
}

/// A trail in memory: file name below its directory → bytes.
#[derive(Clone)]
pub struct Forge {
    pub files: BTreeMap<String, Vec<u8>>,
    pub tree: Frontier,
    prev: Leaf,
    segment: String,
    clock: i64,
    /// Lines that no log file has yet.
    unsealed: Vec<(u64, bool, Vec<u8>)>,
    sealed_to: u64,
    sealed_tree: Frontier,
    /// Listed by no digest yet: object and hash.
    pub unlisted: Vec<(String, String)>,
    digest: Option<(String, String, String)>,
    digest_end: i64,
    /// What the records are called: differs between chains.
    pub user: &'static str,
}

impl Forge {
    /// `SegmentStart` and the introduction of the first keys.
    pub fn new(user: &'static str) -> Forge {
        let mut forge = Forge {
            files: BTreeMap::new(),
            tree: Frontier::default(),
            prev: Leaf::genesis(ARN),
            segment: String::new(),
            clock: BEGIN,
            unsealed: Vec::new(),
            sealed_to: 0,
            sealed_tree: Frontier::default(),
            unlisted: Vec::new(),
            digest: None,
            digest_end: BEGIN,
            user,
        };
        forge.segment();
        forge.key("checkpoint", 1);
        forge.key("digest", 1);
        forge
    }

    /// Two segments, three checkpoints, three digests, three log files.
    pub fn trail(user: &'static str) -> Forge {
        let mut forge = Forge::new(user);
        for round in 0..3 {
            forge.api("GenerateDataKey");
            forge.change("CreateKey");
            forge.checkpoint(1);
            forge.seal();
            forge.digest(1);
            if round == 1 {
                forge.segment();
            }
        }
        forge.checkpoint(1);
        forge
    }

    pub fn write(&self, dir: &Path) {
        for (name, bytes) in &self.files {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Seconds go by without a record.
    pub fn wait(&mut self, seconds: i64) {
        self.clock += seconds;
    }

    pub fn segment(&mut self) {
        let before = (!self.segment.is_empty()).then(|| self.segment.clone());
        if before.is_some() {
            self.record("HsmBridgeSystem", "SegmentEnd", json!({"reason": "request"}), None);
        }
        self.segment = format!("journal/{:020}-{BOOT}.jsonl", self.size());
        let details = json!({
            "trail": ARN, "prevSegment": before.map(|name| name["journal/".len()..].to_owned()),
            "prevSeq": self.size().checked_sub(1), "prevHash": self.prev.as_str(),
            "reason": "boot", "unclean": false, "tornBytes": 0, "openIntents": [],
            "treeSize": self.size(), "treePeaks": self.tree.peaks().iter().map(|peak| hex(peak)).collect::<Vec<_>>(),
        });
        self.record("HsmBridgeSystem", "SegmentStart", details, None);
    }

    pub fn api(&mut self, name: &str) {
        self.record("AwsApiCall", name, json!({"user": self.user}), Some("r0".into()));
    }

    pub fn change(&mut self, name: &str) {
        let request = format!("r{}", self.size());
        self.record("HsmBridgeIntent", name, Value::Null, Some(request.clone()));
        self.record("AwsApiCall", name, Value::Null, Some(request));
    }

    pub fn system(&mut self, name: &str, details: Value) {
        self.record("HsmBridgeSystem", name, details, None);
    }

    pub fn key(&mut self, key_use: &str, generation: usize) {
        let keys = keys();
        let details = json!({
            "keyUse": key_use, "generation": generation, "fingerprint": keys.fingerprint(key_use, generation),
            "spki": STANDARD.encode(keys.spki(key_use, generation)),
            "certificate": keys.certificates[usize::from(key_use == "checkpoint")][generation - 1],
            "previousFingerprint": (generation > 1).then(|| keys.fingerprint(key_use, generation - 1)),
        });
        self.system("AuditKey", details);
    }

    pub fn note(&self, generation: usize) -> String {
        let text = note::body(ORIGIN, self.size(), &self.tree.root());
        let signature = keys().checkpoint[generation - 1].sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        let id = note::key_id(&keys().spki("checkpoint", generation));
        format!("{text}\n{}", note::signature_line(ORIGIN, id, signature.as_ref()))
    }

    /// The file, then the record.
    pub fn checkpoint(&mut self, generation: usize) {
        let note = self.note(generation);
        self.files.insert(format!("checkpoints/{:020}", self.size()), note.clone().into_bytes());
        let (size, root) = (self.size(), hex(&self.tree.root()));
        self.system("Checkpoint", json!({"size": size, "root": root, "note": note}));
    }

    /// All unsealed lines into one log file.
    pub fn seal(&mut self) {
        let lines: Vec<(u64, bool, Vec<u8>)> = std::mem::take(&mut self.unsealed);
        let exported: Vec<&[u8]> = lines.iter().filter(|(_, intent, _)| !intent).map(|(.., line)| &line[..]).collect();
        let body = log_file(&exported);
        let last = self.clock - 1;
        let time = times::text(last * 1000);
        let (day, minute) = (time[..10].replace('-', "/"), compact(&time[..16]));
        let name = unique(&Leaf::of(exported[0]).hash());
        let object = format!(
            "AWSLogs/111122223333/CloudTrail/eu-central-1/{day}/111122223333_CloudTrail_eu-central-1_{minute}Z_{name}.json.gz"
        );
        let packed = gzip(&body);
        let (hash, stored) = (hex(&sha256(&body)), hex(&sha256(&packed)));
        self.files.insert(format!("bucket/{object}"), packed);
        let last_seq = lines.iter().rfind(|(_, intent, _)| !intent).unwrap().0;
        let details = json!({"object": object, "sha256": hash, "firstSeq": self.sealed_to, "lastSeq": last_seq, "storedSha256": stored});
        self.unlisted.push((object, hash));
        self.sealed_to = last_seq + 1;
        self.sealed_tree = self.tree.clone();
        self.system("LogFile", details);
    }

    /// Over what was sealed since the last one.
    pub fn digest(&mut self, generation: usize) {
        let end = self.clock;
        let text = times::text(end * 1000);
        let object = format!(
            "AWSLogs/111122223333/CloudTrail-Digest/eu-central-1/{}/111122223333_CloudTrail-Digest_eu-central-1_hsm-bridge_eu-central-1_{}Z.json.gz",
            text[..10].replace('-', "/"),
            compact(&text)
        );
        let files: Vec<Value> = std::mem::take(&mut self.unlisted)
            .into_iter()
            .map(|(object, hash)| json!({"s3Bucket": BUCKET, "s3Object": object, "hashValue": hash, "hashAlgorithm": "SHA-256"}))
            .collect();
        let before = self.digest.as_ref();
        let body = json!({
            "awsAccountId": "111122223333", "digestStartTime": times::text(self.digest_end * 1000), "digestEndTime": text,
            "digestS3Bucket": BUCKET, "digestS3Object": object,
            "digestPublicKeyFingerprint": keys().fingerprint("digest", generation),
            "digestSignatureAlgorithm": "SHA256withRSA", "newestEventTime": null, "oldestEventTime": null,
            "previousDigestS3Bucket": before.map(|_| BUCKET), "previousDigestS3Object": before.map(|(object, ..)| object),
            "previousDigestHashValue": before.map(|(_, hash, _)| hash),
            "previousDigestHashAlgorithm": before.map(|_| "SHA-256"),
            "previousDigestSignature": before.map(|(.., signature)| signature),
            "logFiles": files,
            "hsmBridge": {"treeSize": self.sealed_tree.size(), "rootHash": hex(&self.sealed_tree.root())},
        });
        let body = body.to_string().into_bytes();
        let signature = self.sign_digest(&object, &body, generation);
        let hash = hex(&sha256(&body));
        self.digest = Some((object.clone(), hash.clone(), signature.clone()));
        self.digest_end = end;
        let stored = hex(&sha256(&self.files[&format!("bucket/{object}")]));
        let details = json!({"object": object, "sha256": hash, "signature": signature, "storedSha256": stored});
        self.system("Digest", details);
    }

    /// Puts a digest and its signature into the bucket, whatever it says. Returns the signature.
    pub fn sign_digest(&mut self, object: &str, body: &[u8], generation: usize) -> String {
        let said: Value = serde_json::from_slice(body).unwrap();
        let before = said["previousDigestSignature"].as_str().unwrap_or("null");
        let end = said["digestEndTime"].as_str().unwrap();
        let text = format!("{end}\n{BUCKET}/{object}\n{}\n{before}", hex(&sha256(body)));
        let key = &keys().digest[generation - 1];
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        let signature = hex(&signature);
        self.files.insert(format!("bucket/{object}"), gzip(body));
        let meta = format!("{{\"signature\":\"{signature}\",\"signature-algorithm\":\"SHA256withRSA\"}}");
        self.files.insert(format!("bucket/{object}.meta"), meta.into_bytes());
        signature
    }

    fn record(&mut self, event_type: &str, name: &str, details: Value, request: Option<String>) {
        let time = times::text(self.clock * 1000);
        let micros = format!("{}.000001Z", time.trim_end_matches('Z'));
        self.clock += 1;
        let mut additional = json!({"audit": {
            "v": 1, "chain": "hsm-bridge", "boot": BOOT, "seq": self.size(), "time": micros, "prev": self.prev.as_str(),
        }});
        if !details.is_null() {
            additional["details"] = details;
        }
        let line = json!({
            "eventVersion": "1.11", "eventTime": time, "eventSource": "hsm-bridge", "eventName": name,
            "eventType": event_type, "eventID": format!("00000000-0000-4000-9000-{:012x}", self.size()),
            "additionalEventData": additional, "requestID": request,
        });
        let mut line = line.to_string();
        if name == "SegmentEnd" {
            let (at, id) = end_id(&line).unwrap();
            line.replace_range(at..at + 36, &id);
        }
        let leaf = Leaf::of(line.as_bytes());
        self.unsealed.push((self.size(), event_type == "HsmBridgeIntent", line.clone().into_bytes()));
        let file = self.files.entry(self.segment.clone()).or_default();
        file.extend_from_slice(line.as_bytes());
        file.push(b'\n');
        self.prev = leaf;
        self.tree.push(leaf.hash());
    }

    /// Names of the files that contain this text, in their order.
    pub fn named(&self, part: &str) -> Vec<String> {
        self.files.keys().filter(|name| name.contains(part)).cloned().collect()
    }

    pub fn logs(&self) -> Vec<String> {
        // By first record: in the order of their `LogFile` records.
        self.told("LogFile")
    }

    pub fn digests(&self) -> Vec<String> {
        self.told("Digest")
    }

    fn told(&self, event: &str) -> Vec<String> {
        let journal: Vec<u8> = self
            .files
            .iter()
            .filter(|(name, _)| name.starts_with("journal/"))
            .flat_map(|(_, bytes)| bytes.clone())
            .collect();
        String::from_utf8(journal)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|line| line["eventName"] == event)
            .map(|line| format!("bucket/{}", line["additionalEventData"]["details"]["object"].as_str().unwrap()))
            .collect()
    }
}

pub fn log_file(lines: &[&[u8]]) -> Vec<u8> {
    [b"{\"Records\":[", &lines.join(&b","[..])[..], b"]}"].concat()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn gunzip(bytes: &[u8]) -> Vec<u8> {
    super::gzip::unpack(bytes, 1 << 30).unwrap()
}

/// By the first digest key, with its fingerprint.
pub fn sign_text(text: &str) -> (String, String) {
    let key = &keys().digest[0];
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
    (hex(&signature), keys().fingerprint("digest", 1))
}

/// `keys.json` with the first keys.
pub fn key_list() -> Vec<u8> {
    let row = |key_use: &str, certificates: usize| {
        json!({
            "keyUse": key_use, "generation": 1, "fingerprint": keys().fingerprint(key_use, 1),
            "spki": STANDARD.encode(keys().spki(key_use, 1)), "certificate": keys().certificates[certificates][0],
            "validFrom": BEGIN * 1000, "validUntil": null,
        })
    };
    json!([row("digest", 0), row("checkpoint", 1)]).to_string().into_bytes()
}
