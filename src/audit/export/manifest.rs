//! What an export says of itself: `manifest.json`, which the signature covers, and `VERIFY.txt`.
//! docs/exports.md describes both for whoever reads them with a program of their own.

use serde::Serialize;
use serde_json::{Value, json};

use super::parts::Part;
use super::pass::Found;
use super::{Format, Job, Request};
use crate::audit::record;
use crate::audit::verify::note::Note;

pub const MANIFEST: &str = "manifest.json";
pub const VERIFY: &str = "VERIFY.txt";
pub const SUMS: &str = "SHA256SUMS";

/// `manifest.json`.
#[derive(Debug, Serialize)]
pub struct Manifest(Value);

impl Manifest {
    pub fn new(job: &Job<'_>, request: &Request, note: Option<&Note>, found: &Found, files: &[Part]) -> Manifest {
        let records = found.range.map_or(0, |(first, last)| last + 1 - first - missing(found));
        let proof = found.proof.as_ref();
        let proven = proof.filter(|proof| proof.root.is_some()).map_or(0, |proof| proof.leaves - proof.unsigned);
        Manifest(json!({
            "version": 1,
            "exportId": job.id,
            "generator": format!("hsm-bridge {}", env!("CARGO_PKG_VERSION")),
            "generatedAt": record::micros(job.now),
            "generatedBy": {"principal": job.generated_by, "requestID": job.request_id},
            "trail": job.trail_arn,
            "account": job.account,
            "region": job.region,
            "parameters": {
                // Of `additionalEventData.audit.time`: from inclusive, to exclusive.
                "from": request.from.map(record::micros),
                "to": request.to.map(record::micros),
                "formats": request.formats,
                "filter": request.filter,
            },
            "asOf": {"time": record::micros(job.now), "records": job.durable},
            "range": {
                "firstSeq": found.range.map(|(first, _)| first),
                "lastSeq": found.range.map(|(_, last)| last),
                "firstTime": found.times.as_ref().map(|(first, _)| first),
                "lastTime": found.times.as_ref().map(|(_, last)| last),
                "records": records,
            },
            "completeness": {
                "selected": found.selected,
                "leftOutByFilter": records.saturating_sub(found.selected),
                "intents": found.intents,
                "aggregatedRecords": found.aggregated.0,
                "aggregatedRequests": found.aggregated.1,
                "fromSealedFiles": found.sealed,
                "missing": found.missing,
                "provenRecords": proven,
                "statement": statement(request, found, proven),
            },
            "clock": {"state": job.clock, "stepsBack": found.steps.0, "longestStepBackMicros": found.steps.1},
            "checkpoint": note.map(|note| json!({"origin": note.origin, "size": note.size, "root": hex::encode(note.root)})),
            "files": files,
        }))
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(&self.0).expect("a JSON value serialises into memory");
        bytes.push(b'\n');
        bytes
    }
}

fn missing(found: &Found) -> u64 {
    found.missing.iter().map(|(first, last)| last + 1 - first).sum()
}

fn statement(request: &Request, found: &Found, proven: u64) -> Vec<String> {
    let mut says = Vec::new();
    if found.range.is_none() {
        says.push("No record was written in this time.".to_owned());
    }
    if request.filter == super::Filter::default() {
        says.push("records.jsonl.gz has every record of the range that this log still has, byte for byte.".to_owned());
    } else {
        says.push(
            "records.jsonl.gz has the records of the range that match the filter, byte for byte; leaves.bin has the hash of \
             every record of the range, so that none can be left out unseen."
                .to_owned(),
        );
    }
    if found.intents > 0 {
        says.push(
            "Intents (HsmBridgeIntent) are in records.jsonl.gz only: each is followed by its outcome.".to_owned(),
        );
    }
    if found.aggregated.0 > 0 {
        says.push(
            "Requests whose signature did not verify stand together in one record for each source and error, with a count."
                .to_owned(),
        );
    }
    if found.sealed > 0 {
        says.push(format!(
            "{} records come from sealed log files, because the journal no longer has them: the digests vouch for those, \
             not proof.json, and intents are not among them.",
            found.sealed
        ));
    }
    if !found.missing.is_empty() {
        says.push(
            "The numbers in `missing` are in no file of this log: intents of sealed log files, or gone.".to_owned(),
        );
    }
    says.push(format!("{proven} records of the range are under the signed tree head in `checkpoint`."));
    let unsigned = found.proof.as_ref().map_or(0, |proof| proof.unsigned);
    if unsigned > 0 {
        says.push(format!("{unsigned} records at the end of the range are not under a signed tree head yet."));
    }
    if request.formats.contains(&Format::Csv) {
        says.push(
            "In CSV, a cell that begins with = + - @, a tab or a line end has an apostrophe before it, so that no spreadsheet \
             takes it for a formula."
                .to_owned(),
        );
    }
    says
}

pub fn sums(files: &[Part]) -> String {
    files.iter().map(|file| format!("{}  {}\n", file.sha256, file.name)).collect()
}

pub fn verify_txt(job: &Job<'_>) -> String {
    format!(
        "This is an export of the audit log {trail}.\n\
         manifest.json says what is in it, who made it, and what it does not prove.\n\n\
         Check it in this folder, with any one of these:\n\n\
         1. Everything, without a server and without a token (files, signature, keys, every record's place in the signed tree):\n\n   \
         hsm-bridge audit verify .\n\n\
         2. The files and their signature, with the stock AWS CLI (version 2.11.14 or newer) and a running hsm-bridge\n   \
         (AWS_ENDPOINT_URL) or `hsm-bridge audit serve`, of which it asks the public key:\n\n   \
         aws cloudtrail verify-query-results --local-export-path . --region {region}\n\n\
         3. The files against the list that is signed, and that signature, with coreutils, jq, xxd and OpenSSL:\n\n   \
         sha256sum -c {SUMS} && openssl dgst -sha256 -verify <(openssl x509 -in keys/{certificate} -noout -pubkey) \\\n     \
         -signature <(jq -r .hashSignature result_sign.json | xxd -r -p) <(jq -j '[.files[].fileHashValue]|join(\" \")' result_sign.json)\n\n\
         The keys in keys/ prove nothing by themselves: compare their fingerprints with those that you were given another way.\n",
        trail = job.trail_arn,
        region = job.region,
        certificate = job.keys.iter().rfind(|key| key.key_use == crate::audit::KeyUse::Digest).map_or_else(
            || "digest-0001.crt.pem".to_owned(),
            |key| format!("{}.crt.pem", super::bundle::key_name(key))
        ),
    )
}
