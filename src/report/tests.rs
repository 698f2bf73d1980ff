//! Reports over small logs that a test writes: the chain is right unless a test breaks it.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::audit::testing::SoftwareSigner;
use crate::audit::verify::line::Leaf;
use crate::audit::{KeyUse, Signed, snapshots};

const TRAIL: &str = "arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge";
const ACCOUNT: &str = "111122223333";
const DAY: i64 = 86_400_000;
/// The first of January 2026.
const BEGIN: i64 = 1_767_225_600_000;
const KEY: &str = "11111111-1111-4111-8111-111111111111";
const ROOT: &str = "arn:aws:iam::111122223333:root";
const ALICE: &str = "arn:aws:iam::111122223333:user/alice";

fn key_arn() -> String {
    format!("arn:aws:kms:eu-central-1:{ACCOUNT}:key/{KEY}")
}

/// A log that a test writes.
struct Log {
    dir: tempfile::TempDir,
    lines: Vec<String>,
    prev: String,
}

impl Log {
    fn new() -> Self {
        let genesis = Leaf::genesis(TRAIL).as_str().to_owned();
        let mut log = Self { dir: tempfile::tempdir().unwrap(), lines: Vec::new(), prev: genesis.clone() };
        let start = json!({
            "trail": TRAIL, "prevSegment": null, "prevSeq": null, "prevHash": genesis, "reason": "boot",
            "unclean": false, "tornBytes": 0, "tornSha256": null, "tornFile": null, "openIntents": [],
            "lastStoreVersion": null,
        });
        log.system(BEGIN, "SegmentStart", start);
        log
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A record with members beside what every record has. Returns its eventID.
    fn push(&mut self, at: i64, mut record: Value) -> String {
        let seq = self.lines.len() as u64;
        let id = format!("00000000-0000-4000-9000-{seq:012}");
        let members = record.as_object_mut().unwrap();
        members.entry("eventType").or_insert(json!("AwsApiCall"));
        members.entry("eventSource").or_insert(json!("kms.amazonaws.com"));
        members.entry("eventTime").or_insert(json!(date(at)));
        members.entry("readOnly").or_insert(json!(false));
        members.entry("sourceIPAddress").or_insert(json!("192.0.2.1"));
        members.insert("eventID".to_owned(), json!(id));
        let additional = members.entry("additionalEventData").or_insert(json!({}));
        let time = format!("{}000Z", date_ms(at));
        additional["audit"] =
            json!({ "v": 1, "chain": "hsm-bridge", "boot": "b27e", "seq": seq, "time": time, "prev": self.prev });
        let line = record.to_string();
        self.prev = Leaf::of(line.as_bytes()).as_str().to_owned();
        self.lines.push(line);
        id
    }

    fn system(&mut self, at: i64, name: &str, details: Value) -> String {
        self.push(
            at,
            json!({
                "eventType": "HsmBridgeSystem", "eventName": name,
                "userIdentity": { "invokedBy": "AWS Internal" },
                "additionalEventData": { "details": details },
            }),
        )
    }

    /// A call of a user on the key.
    fn call(&mut self, at: i64, who: &str, name: &str, more: Value) -> String {
        let mut record = json!({
            "eventName": name,
            "userIdentity": { "type": "IAMUser", "arn": who, "accessKeyId": "AKIAEXAMPLE000000001" },
            "resources": [{ "ARN": key_arn() }],
            "readOnly": reports_reads(name),
        });
        for (member, value) in more.as_object().unwrap() {
            record[member] = value.clone();
        }
        self.push(at, record)
    }

    /// A change of the key's part of the state.
    fn change(&mut self, at: i64, who: &str, name: &str, change: Value) -> String {
        self.call(at, who, name, json!({ "additionalEventData": { "stateChange": change } }))
    }

    fn snapshot(&mut self, at: i64, state: &Value) {
        let seq = self.lines.len() as u64;
        // As `State` is written: its time among the first members.
        let text = state.to_string();
        let text = format!("{{\"format\":1,\"time\":{at},{}", text.strip_prefix('{').unwrap());
        let written = snapshots::write(self.path(), seq, text.as_bytes()).unwrap();
        let details = json!({ "object": written.object, "sha256": written.sha256, "seq": seq });
        self.system(at, "StateSnapshot", details);
    }

    fn save(&self) {
        let journal = self.path().join("journal");
        std::fs::create_dir_all(&journal).unwrap();
        std::fs::write(journal.join("00000000000000000000-b27e.jsonl"), self.lines.join("\n") + "\n").unwrap();
    }

    fn report(&self, query: &Query) -> Made {
        self.save();
        run(self.path(), query, u64::MAX).unwrap()
    }
}

fn reports_reads(name: &str) -> bool {
    matches!(name, "Encrypt" | "Decrypt" | "Sign" | "DescribeKey")
}

fn date_ms(ms: i64) -> String {
    format!("{}.{:03}", date(ms - ms.rem_euclid(1000)).trim_end_matches('Z'), ms.rem_euclid(1000))
}

fn query(report: Name) -> Query {
    Query {
        report,
        from: BEGIN,
        to: BEGIN + 400 * DAY,
        as_of: BEGIN + 400 * DAY,
        key: None,
        principal: None,
        rotation_days: 365,
        unused_days: 90,
        now: BEGIN + 400 * DAY,
        generated_by: "operator".to_owned(),
        trail: Some(TRAIL.to_owned()),
    }
}

fn policy(sid: &str) -> String {
    let statement = json!({
        "Sid": sid, "Effect": "Allow", "Principal": { "AWS": ROOT }, "Action": "kms:*", "Resource": "*",
    });
    json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string()
}

fn key(policy: &str, version: u64) -> Value {
    json!({
        "id": KEY, "arn": key_arn(), "account": ACCOUNT, "created": BEGIN, "description": "payments",
        "spec": "SYMMETRIC_DEFAULT", "usage": "ENCRYPT_DECRYPT", "origin": "AWS_KMS", "state": "Enabled",
        "policy": policy, "policyVersion": version, "tags": [["owner", "payments"]],
        "materials": [{
            "generation": 0, "materialId": "ab", "created": BEGIN, "fingerprint": "cd", "ckaId": "11", "ckaLabel": "l",
            "evidence": { "token_serial": "0123", "sensitive": true, "extractable": false, "always_sensitive": true,
                          "never_extractable": true, "local": true },
        }],
        "provenance": "generated",
    })
}

fn state(keys: Value) -> Value {
    json!({
        "storeVersion": 1, "account": ACCOUNT, "region": "eu-central-1", "keys": keys, "aliases": {}, "grants": {},
        "accounts": {}, "units": {}, "users": {}, "groups": {}, "roles": {}, "policies": {}, "accessKeys": {},
        "services": {}, "oidcProviders": {}, "keyStores": {},
        "tokens": { "default": { "name": "default", "cluster": "cluster-abcdefghijk", "serial": "0123", "firstSeen": BEGIN } },
    })
}

/// Cells of a column, as texts.
fn column(made: &Made, name: &str) -> Vec<String> {
    let at = made.table.columns.iter().position(|column| *column == name).unwrap();
    made.table.rows.iter().map(|row| table::text(&row[at])).collect()
}

/// A key made after the first snapshot, its policy changed twice, a grant that came and went.
fn year() -> (Log, Vec<String>) {
    let mut log = Log::new();
    log.snapshot(BEGIN + 1, &state(json!({})));
    let mut ids = Vec::new();
    ids.push(log.change(
        BEGIN + DAY,
        ROOT,
        "CreateKey",
        json!({ "storeVersion": 2, "keys": { KEY: key(&policy("One"), 1) } }),
    ));
    ids.push(log.change(
        BEGIN + 10 * DAY,
        ALICE,
        "PutKeyPolicy",
        json!({ "storeVersion": 3, "keys": { KEY: { "policy": policy("Two"), "policyVersion": 2 } } }),
    ));
    let grant = json!({
        "id": "a".repeat(64), "key": KEY, "issuingAccount": ACCOUNT, "grantee": { "Aws": { "arn": ALICE, "id": null } },
        "operations": ["Decrypt"], "created": BEGIN + 20 * DAY,
    });
    let grant_id = format!("{KEY}/{}", "a".repeat(64));
    let granted = json!({ "storeVersion": 4, "grants": { grant_id.clone(): grant } });
    ids.push(log.change(BEGIN + 20 * DAY, ROOT, "CreateGrant", granted));
    log.call(BEGIN + 21 * DAY, ALICE, "Decrypt", json!({}));
    log.call(BEGIN + 22 * DAY, ALICE, "Decrypt", json!({ "errorCode": "AccessDenied", "errorMessage": "no" }));
    let revoked = json!({ "storeVersion": 5, "grants": { grant_id: null } });
    ids.push(log.change(BEGIN + 30 * DAY, ROOT, "RevokeGrant", revoked));
    ids.push(log.change(
        BEGIN + 40 * DAY,
        ROOT,
        "PutKeyPolicy",
        json!({ "storeVersion": 6, "keys": { KEY: { "policy": policy("Three"), "policyVersion": 3 } } }),
    ));
    (log, ids)
}

#[test]
fn policy_as_of_is_what_the_replay_gives_at_each_instant() {
    let (log, ids) = year();
    for (day, sid, version, set_by, grants) in [
        (5, "One", "1", 0, 0),
        (15, "Two", "2", 1, 0),
        (25, "Two", "2", 1, 1),
        (35, "Two", "2", 1, 0),
        (45, "Three", "3", 4, 0),
    ] {
        let as_of = BEGIN + day * DAY;
        let made = log.report(&Query { as_of, to: as_of, ..query(Name::PolicyAsOf) });
        assert_eq!(made.header.verdict, "OK", "{:?}", made.header.verification);
        assert_eq!(column(&made, "policy")[0], policy(sid), "day {day}");
        assert_eq!(column(&made, "policy_version")[0], version);
        assert_eq!(column(&made, table::SOURCE)[0], ids[set_by]);
        let kinds = column(&made, "kind");
        assert_eq!(kinds.iter().filter(|kind| *kind == "grant").count(), grants, "day {day}");
        if grants == 1 {
            assert_eq!(column(&made, table::SOURCE)[1], ids[2]);
            assert_eq!(column(&made, "grantee")[1], ALICE);
        }
    }
    let made = log.report(&Query { from: BEGIN + 25 * DAY, as_of: BEGIN + 45 * DAY, ..query(Name::PolicyAsOf) });
    assert_eq!(column(&made, "since_from"), ["changed", "gone since"]);
    let difference = &column(&made, "difference")[0];
    assert!(
        difference.contains("- ") && difference.contains("\"Two\"") && difference.contains("\"Three\""),
        "{difference}"
    );
    // Before the first snapshot nothing is known, and that is said.
    log.save();
    let refused = run(log.path(), &Query { as_of: BEGIN - DAY, ..query(Name::PolicyAsOf) }, u64::MAX);
    assert!(refused.unwrap_err().to_string().contains("no state is known"));
}

#[test]
fn replay_starts_from_a_later_snapshot_just_as_well() {
    let (mut log, _) = year();
    let mut known = key(&policy("Three"), 3);
    let mut later = state(json!({ KEY: known.clone() }));
    later["storeVersion"] = json!(6);
    log.snapshot(BEGIN + 50 * DAY, &later);
    // A change that was in the snapshot already and recorded after it counts once.
    log.change(
        BEGIN + 50 * DAY + 1,
        ROOT,
        "PutKeyPolicy",
        json!({ "storeVersion": 5, "keys": { KEY: { "policyVersion": 2 } } }),
    );
    // Two whose records came in the other order: the later version counts.
    log.change(
        BEGIN + 51 * DAY,
        ROOT,
        "PutKeyPolicy",
        json!({ "storeVersion": 9, "keys": { KEY: { "policyVersion": 5 } } }),
    );
    log.change(
        BEGIN + 52 * DAY,
        ROOT,
        "PutKeyPolicy",
        json!({ "storeVersion": 8, "keys": { KEY: { "policyVersion": 4 } } }),
    );
    let made = log.report(&Query { as_of: BEGIN + 60 * DAY, ..query(Name::KeyInventory) });
    assert_eq!(column(&made, "policy_version"), ["5"]);
    known["policyVersion"] = json!(5);
    assert_eq!(made.header.verdict, "OK");
    assert_eq!(made.header.source.state_snapshot.as_deref(), Some("snapshots/00000000000000000009.json.gz"));
}

#[test]
fn a_snapshot_that_is_not_the_recorded_one_is_found() {
    let (log, _) = year();
    log.save();
    let text =
        format!("{{\"format\":1,\"time\":{},{}", BEGIN + 1, state(json!({})).to_string().strip_prefix('{').unwrap());
    snapshots::write(log.path(), 1, text.replace("abcdefghijk", "abcdefghijm").as_bytes()).unwrap();
    let made = log.report(&query(Name::KeyInventory));
    assert_eq!((made.header.verdict.as_str(), made.header.exit_code), ("TAMPERED", 1));
}

#[test]
fn inventory_tells_attributes_uses_and_who_made_it() {
    let (log, ids) = year();
    let made = log.report(&Query { as_of: BEGIN + 45 * DAY, ..query(Name::KeyInventory) });
    let one = |name: &str| column(&made, name)[0].clone();
    assert_eq!(
        (one("key_arn"), one("nist_state"), one("sensitive"), one("extractable")),
        (key_arn(), "active".into(), "yes".into(), "no".into())
    );
    assert_eq!((one("created_by"), one(table::SOURCE)), (ROOT.to_owned(), ids[0].clone()));
    assert_eq!(
        (one("uses_30_days"), one("uses_90_days"), one("last_operation"), one("last_used_by")),
        ("1".into(), "1".into(), "Decrypt".into(), ALICE.to_owned())
    );
    assert_eq!((one("overdue"), one("owner_tags")), ("no".to_owned(), "owner=payments".to_owned()));
    let later = log.report(&query(Name::KeyInventory));
    assert_eq!(
        (column(&later, "overdue"), column(&later, "uses_90_days")),
        (vec!["yes".to_owned()], vec!["0".to_owned()])
    );
}

#[test]
fn usage_counts_by_day_and_failures_apart() {
    let (mut log, _) = year();
    for minute in 0..3 {
        let context = json!({ "requestParameters": { "encryptionContext": { "tenant": "7" } } });
        log.call(BEGIN + 50 * DAY + minute * 60_000, ALICE, "Encrypt", context);
    }
    let made = log.report(&query(Name::KeyUsage));
    assert_eq!(column(&made, "day"), ["2026-01-22", "2026-01-23", "2026-02-20"]);
    assert_eq!(
        (column(&made, "count"), column(&made, "failed")),
        (vec!["1".to_owned(), "1".to_owned(), "3".to_owned()], vec!["0".to_owned(), "1".to_owned(), "0".to_owned()])
    );
    assert_eq!(column(&made, "encryption_context_keys")[2], "tenant");
    let nobody = log.report(&Query { principal: Some("bob".to_owned()), ..query(Name::KeyUsage) });
    assert!(nobody.table.rows.is_empty());
}

#[test]
fn admin_changes_show_before_and_after() {
    let (log, ids) = year();
    let made = log.report(&query(Name::AdminChanges));
    assert_eq!(column(&made, "event"), ["CreateKey", "PutKeyPolicy", "CreateGrant", "RevokeGrant", "PutKeyPolicy"]);
    assert_eq!(column(&made, table::SOURCE), ids);
    let difference = &column(&made, "difference")[1];
    assert!(
        difference.contains("-       \"Sid\": \"One\"") && difference.contains("+       \"Sid\": \"Two\""),
        "{difference}"
    );
    assert!(!difference.contains("kms:*"), "lines that are the same are not told: {difference}");
    assert!(column(&made, "before")[3].contains("Decrypt"), "what a revoked grant was");
}

#[test]
fn failures_are_grouped_with_the_statement_that_refused() {
    let (mut log, _) = year();
    let grounds = json!({ "decision": "Deny", "source": "KeyPolicy", "policy": "default", "statementId": "NoBob" });
    for _ in 0..4 {
        let denied = json!({ "errorCode": "AccessDenied", "additionalEventData": { "authorization": grounds } });
        log.call(BEGIN + 60 * DAY, "arn:aws:iam::111122223333:user/bob", "Decrypt", denied);
    }
    log.push(
        BEGIN + 61 * DAY,
        json!({
            "eventName": "Decrypt", "errorCode": "SignatureDoesNotMatch",
            "userIdentity": { "type": "Unknown", "accessKeyId": "AKIAWRONG" },
            "additionalEventData": { "count": 7, "windowSeconds": 60 },
        }),
    );
    let made = log.report(&query(Name::FailedAccess));
    assert_eq!(column(&made, "count"), ["7", "4", "1"]);
    assert_eq!(column(&made, "kind"), ["not authenticated", "denied", "denied"]);
    assert_eq!(column(&made, "decided_by")[1], "KeyPolicy default NoBob");
}

#[test]
fn a_log_that_was_changed_is_told_in_red() {
    let (mut log, _) = year();
    let at = log.lines.iter().position(|line| line.contains("RevokeGrant")).unwrap();
    log.lines[at] = log.lines[at].replace("192.0.2.1", "192.0.2.2");
    let made = log.report(&query(Name::AdminChanges));
    assert_eq!((made.header.verdict.as_str(), made.header.exit_code), ("TAMPERED", 1));
    let page = String::from_utf8(written(&made, Format::Html)).unwrap();
    assert!(page.contains("class=\"verdict bad\"") && page.contains("does NOT verify"));
    // One that is not even a record: the rest is there.
    log.lines[at] = "{".to_owned();
    let made = log.report(&query(Name::AdminChanges));
    assert_eq!(made.table.rows.len(), 4);
    assert!(made.header.notes.iter().any(|note| note.contains("1 lines")));
}

#[test]
fn ceremonies_reviews_and_readers_are_listed() {
    let mut log = Log::new();
    let by_operator = |name: &str, parameters: Value| {
        json!({
            "eventType": "HsmBridgeOperatorCall", "eventName": name, "requestParameters": parameters,
            "userIdentity": { "type": "HsmBridgeOperator", "osUserId": 0 },
        })
    };
    let ceremony = json!({ "id": "KC-1", "script_sha256": "aa", "steps": ["a", "b"], "participants": ["Ann: officer"], "quorum": "2 of 3" });
    log.push(BEGIN + DAY, by_operator("Ceremony", ceremony));
    let review = json!({ "subject": "Q1", "reviewer": "Ann", "decision": "approved", "sha256": "bb" });
    log.push(BEGIN + DAY, by_operator("AttestReview", review));
    log.push(BEGIN + 2 * DAY, by_operator("AuditReport", json!({ "name": "R1" })));
    let ceremonies = log.report(&query(Name::Ceremonies));
    assert_eq!(
        (column(&ceremonies, "ceremony"), column(&ceremonies, "steps")),
        (vec!["KC-1".to_owned()], vec!["a; b".to_owned()])
    );
    let reviews = log.report(&query(Name::Attestations));
    assert_eq!(
        (column(&reviews, "reviewer"), column(&reviews, "file_sha256")),
        (vec!["Ann".to_owned()], vec!["bb".to_owned()])
    );
    let readers = log.report(&query(Name::LogAccess));
    assert_eq!(
        (column(&readers, "event"), column(&readers, "principal")),
        (vec!["AuditReport".to_owned()], vec!["operator uid 0".to_owned()])
    );
}

#[test]
fn what_nobody_used_is_listed() {
    let (log, _) = year();
    let soon = log.report(&Query { as_of: BEGIN + 60 * DAY, ..query(Name::Unused) });
    assert!(soon.table.rows.is_empty());
    let made = log.report(&Query { as_of: BEGIN + 200 * DAY, ..query(Name::Unused) });
    assert_eq!((column(&made, "name"), column(&made, "unused_days")), (vec![key_arn()], vec!["179".to_owned()]));
}

#[test]
fn integrity_repeats_what_the_verifier_found() {
    let (log, _) = year();
    let made = log.report(&query(Name::Integrity));
    let kinds = column(&made, "kind");
    assert!(kinds.iter().any(|kind| kind == "SegmentStart") && kinds.iter().any(|kind| kind == "not proven"));
    let verification = kinds.iter().position(|kind| kind == "verification").unwrap();
    assert_eq!(column(&made, "verdict")[verification], "OK");
    let tokens = log.report(&query(Name::HsmInventory));
    assert_eq!((column(&tokens, "serial"), column(&tokens, "keys")), (vec!["0123".to_owned()], vec!["1".to_owned()]));
    let rotation = log.report(&query(Name::Rotation));
    assert_eq!((column(&rotation, "how")[0].as_str(), column(&rotation, "overdue")[0].as_str()), ("created", "yes"));
}

#[test]
fn cells_that_a_spreadsheet_would_compute_are_made_harmless() {
    let mut log = Log::new();
    for (at, agent) in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "a,\"b\"\nc", "plain"].into_iter().enumerate() {
        log.call(BEGIN + at as i64, ROOT, "DisableKey", json!({ "userAgent": agent }));
    }
    let made = log.report(&query(Name::AdminChanges));
    let csv = String::from_utf8(written(&made, Format::Csv)).unwrap();
    for cell in
        [",'=1+1,", ",'+1,", ",'-1,", ",'@SUM(A1),", ",'\t=1,", ",\"'\r=1\",", ",\"a,\"\"b\"\"\nc\",", ",plain,"]
    {
        assert!(csv.contains(cell), "{cell:?} in {csv:?}");
    }
    assert!(csv.starts_with("time,seq,principal,") && csv.lines().next().unwrap().ends_with(table::SOURCE));
    assert_eq!(csv.matches("\r\n").count(), 9, "lines end in CRLF");
}

#[test]
fn pages_escape_everything_and_fetch_nothing() {
    let mut log = Log::new();
    let evil = "<script>alert(1)</script>\"'&";
    log.call(
        BEGIN,
        evil,
        "TagResource",
        json!({ "userAgent": evil, "requestParameters": { "tags": [{ "tagKey": evil, "tagValue": evil }], "description": evil } }),
    );
    let made = log.report(&query(Name::AdminChanges));
    let page = String::from_utf8(written(&made, Format::Html)).unwrap();
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    for fetched in ["src=", "href=", "@import", "url("] {
        assert!(!page.contains(fetched), "{fetched}");
    }
    assert!(page.contains("default-src 'none'") && page.contains("<caption>") && page.contains("@media print"));
    assert!(page.contains("class=\"verdict good\""));
}

#[test]
fn a_folder_has_a_manifest_and_what_the_stock_cli_checks() {
    let (log, _) = year();
    let made = log.report(&query(Name::KeyUsage));
    let mut files = folder::files(&made, Format::ALL);
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["key-usage.html", "key-usage.csv", "key-usage.json", "key-usage.jsonl", "manifest.json"]);
    let manifest: Value = serde_json::from_slice(&files[4].bytes).unwrap();
    assert_eq!(manifest["files"][1]["sha256"], json!(files[1].sha256));
    assert_eq!(manifest["report"]["rows"], json!(made.table.rows.len()));
    let key = SoftwareSigner::new().current(KeyUse::Digest);
    let signed = Signed { key: key.clone(), signature: vec![1, 2] };
    files.push(folder::result_sign(&files, "eu-central-1", BEGIN, &signed));
    let sign: Value = serde_json::from_slice(&files[5].bytes).unwrap();
    assert_eq!((&sign["hashSignature"], &sign["files"][4]["fileName"]), (&json!("0102"), &json!("manifest.json")));
    assert_eq!(sign["publicKeyFingerprint"], json!(key.fingerprint));
    let jsonl = String::from_utf8(files[3].bytes.clone()).unwrap();
    let row: Value = serde_json::from_str(jsonl.lines().next().unwrap()).unwrap();
    assert_eq!(row["operation"], json!("Decrypt"));
}

#[test]
fn names_are_found_by_number_and_by_name() {
    assert_eq!(Name::parse("r8"), Some(Name::SeparationOfDuties));
    assert_eq!(Name::parse("Audit-Log-Access"), Some(Name::LogAccess));
    assert_eq!(Name::parse("R15"), None);
    assert_eq!(Name::ALL.len(), 14);
}

/// A user's part of a state.
fn user(name: &str, inline: Value) -> Value {
    json!({
        "name": name, "account": ACCOUNT, "userId": format!("AIDA{:A>17}", name.to_uppercase()), "created": BEGIN,
        "path": "/", "tags": [], "groups": [], "attached": [], "inline": inline,
    })
}

fn arn(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{name}")
}

/// Each way of getting from administering to using, in a policy of its own principal.
#[test]
fn every_way_to_both_duties_is_found() {
    let allow = |who: &str, actions: Value| json!({ "Effect": "Allow", "Principal": { "AWS": who }, "Action": actions, "Resource": "*" });
    let role_arn = format!("arn:aws:iam::{ACCOUNT}:role/user-of-keys");
    let statements = json!([
        allow(&arn("both"), json!(["kms:DisableKey", "kms:Decrypt"])),
        allow(&arn("granter"), json!(["kms:CreateGrant"])),
        allow(&arn("putter"), json!(["kms:PutKeyPolicy"])),
        allow(&arn("swapper"), json!(["kms:UpdateAlias"])),
        allow(&arn("all"), json!("kms:*")),
        allow(&arn("assumer"), json!(["kms:ScheduleKeyDeletion"])),
        allow(&role_arn, json!(["kms:Decrypt"])),
        allow(&arn("admin"), json!(["kms:DisableKey"])),
        allow(&arn("user"), json!(["kms:Decrypt"])),
    ]);
    let names = ["both", "granter", "putter", "swapper", "all", "assumer", "admin", "user", "auditor"];
    let id = |name: &str| format!("AIDA{:A>17}", name.to_uppercase());
    let mut bound: serde_json::Map<String, Value> = names.iter().map(|name| (arn(name), json!(id(name)))).collect();
    bound.insert(role_arn.clone(), json!("AROAUSEROFKEYS0000001"));
    let text = json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
    let mut one = key("", 1);
    one["policy"] = json!({ "text": text, "principals": bound });
    let mut state = state(json!({ KEY: one }));
    for name in names {
        let reads = json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Action": "cloudtrail:LookupEvents", "Resource": "*" },
            { "Effect": "Allow", "Action": "kms:DisableKey", "Resource": "*" },
        ] });
        let inline = if name == "auditor" { json!({ "reads": reads.to_string() }) } else { json!({}) };
        state["users"][format!("{ACCOUNT}/{name}")] = user(name, inline);
    }
    let trust = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "AWS": arn("assumer") }, "Action": "sts:AssumeRole" },
    ] });
    state["roles"][format!("{ACCOUNT}/user-of-keys")] = json!({
        "name": "user-of-keys", "account": ACCOUNT, "roleId": "AROAUSEROFKEYS0000001", "created": BEGIN, "path": "/",
        "description": "", "trust": { "text": trust.to_string(), "principals": { arn("assumer"): id("assumer") } },
        "maxSessionSeconds": 3600, "tags": [], "attached": [], "inline": {},
    });
    let mut log = Log::new();
    log.snapshot(BEGIN + 1, &state);
    log.call(BEGIN + DAY, &arn("both"), "DisableKey", json!({}));
    log.call(BEGIN + DAY, &arn("admin"), "DisableKey", json!({}));
    let used = log.call(BEGIN + 2 * DAY, &arn("both"), "Decrypt", json!({}));
    log.call(BEGIN + 2 * DAY, &arn("user"), "Decrypt", json!({}));
    let made = log.report(&query(Name::SeparationOfDuties));
    let rows: Vec<(String, String, String)> = column(&made, "principal")
        .into_iter()
        .zip(column(&made, "finding"))
        .zip(column(&made, "paths"))
        .map(|((who, finding), paths)| (who, finding, paths))
        .collect();
    let of = |name: &str| -> Vec<(&str, &str)> {
        rows.iter().filter(|(who, ..)| *who == arn(name)).map(|(_, f, p)| (f.as_str(), p.as_str())).collect()
    };
    assert_eq!(of("both"), [("potential", ""), ("actual: did both in the period", "")]);
    assert_eq!(of("granter").iter().map(|(f, _)| *f).collect::<Vec<_>>(), ["potential, by escalation"]);
    assert!(of("granter")[0].1.starts_with("CreateGrant"));
    assert!(of("putter")[0].0 == "potential, by escalation" && of("putter")[0].1.starts_with("PutKeyPolicy"));
    assert!(of("swapper")[0].0 == "potential, by escalation" && of("swapper")[0].1.starts_with("UpdateAlias"));
    assert!(of("all")[0].0 == "potential" && of("all")[0].1.contains("kms:*"));
    assert!(of("assumer")[0].0 == "potential, by assuming roles", "{:?}", of("assumer"));
    assert!(of("assumer")[0].1.contains(&format!("AssumeRole: {role_arn}")));
    assert_eq!((of("admin"), of("user")), (vec![], vec![]));
    let source = column(&made, table::SOURCE);
    assert!(source.contains(&used));

    let access = log.report(&query(Name::Custodians));
    let who = column(&access, "principal");
    let place = who.iter().position(|who| *who == arn("user")).unwrap();
    assert_eq!(
        (column(&access, "role")[place].as_str(), column(&access, "actions")[place].as_str()),
        ("user", "kms:Decrypt")
    );
    assert_eq!(column(&access, "never_exercised")[place], "no");
    let place = who.iter().position(|who| *who == arn("putter")).unwrap();
    assert_eq!(column(&access, "never_exercised")[place], "yes");
}

#[test]
fn an_auditor_with_more_is_found() {
    let reads = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": ["hsmbridge:ExportAudit", "kms:DisableKey"], "Resource": "*" },
    ] });
    // The key's policy leaves it to the account's policies.
    let mut state = state(json!({ KEY: key(&policy("Account"), 1) }));
    state["users"][format!("{ACCOUNT}/auditor")] = user("auditor", json!({ "reads": reads.to_string() }));
    let mut log = Log::new();
    log.snapshot(BEGIN + 1, &state);
    let made = log.report(&query(Name::SeparationOfDuties));
    let at = column(&made, "finding").iter().position(|finding| finding == "auditor with more").unwrap();
    assert_eq!(
        (column(&made, "principal")[at].clone(), column(&made, "admin_actions")[at].as_str()),
        (arn("auditor"), "kms:DisableKey")
    );
}
