use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::forge::{self, ARN, Forge, gunzip, gzip, keys, log_file};
use super::signature::hex;
use super::*;

fn verify_with(forge: &Forge, options: &Options) -> Report {
    let dir = tempfile::tempdir().unwrap();
    forge.write(dir.path());
    directory(dir.path(), options, &mut |_| {})
}

fn verify(forge: &Forge) -> Report {
    verify_with(forge, &Options::default())
}

#[track_caller]
fn is(forge: &Forge, verdict: Verdict, says: &str) {
    let report = verify(forge);
    assert_eq!(report.verdict, verdict, "{report}");
    assert!(report.to_string().contains(says), "{says:?} is not in\n{report}");
}

#[test]
fn an_honest_trail() {
    let forge = Forge::trail("payments");
    let report = verify(&forge);
    assert_eq!(report.verdict, Verdict::Ok, "{report}");
    assert_eq!((report.digests, report.log_files, report.keys.len(), report.segments), (3, 3, 2, 2), "{report}");
    assert_eq!(report.checkpoints, 7, "4 checkpoints and 3 digests: {report}");
    assert_eq!(report.signed.as_ref().unwrap().size, forge.size() - 1);
    let text = report.to_string();
    for says in [
        &format!("everything up to record {}", forge.size() - 2),
        "the newest 1 records",
        "only notes of the log about itself",
        "cut off at a record's boundary unnoticed",
        "their certificates are the log's own word",
        "the trail's ARN was taken from the log itself",
    ] {
        assert!(text.contains(says), "{says:?} is not in\n{text}");
    }
    assert_eq!(serde_json::to_value(&report).unwrap()["signed"]["by"], "checkpoint key 1");
    let options = Options { trail_arn: Some(ARN.replace("eu-central-1", "us-east-1")), ..Options::default() };
    assert_eq!(verify_with(&forge, &options).verdict, Verdict::Tampered, "another Region than was asked for");
}

#[test]
fn certificates() {
    let forge = Forge::trail("payments");
    let with = |pem: &str| verify_with(&forge, &Options { trust: Some(pem.as_bytes().to_vec()), ..Options::default() });
    let report = with(&keys().authority);
    assert_eq!(report.verdict, Verdict::Ok, "{report}");
    assert!(report.to_string().contains("revocation is not checked"), "{report}");
    let report = with(&keys().another_authority);
    assert_eq!(report.verdict, Verdict::BadSignature, "{report}");
    assert_eq!(with("no certificate").verdict, Verdict::Incomplete);
}

// --- Keys ---

#[test]
fn a_later_key_does_not_vouch_for_earlier_records() {
    let mut forge = Forge::new("payments");
    forge.api("Encrypt");
    forge.checkpoint(1);
    let early = (forge.size(), forge.note(2));
    forge.api("Encrypt");
    forge.key("checkpoint", 2);
    forge.checkpoint(1);
    forge.checkpoint(2);
    is(&forge, Verdict::Ok, "");

    // The head of the first key's time, with the second key's signature: the file, then the whole log.
    let mut again = forge.clone();
    again.files.insert(format!("checkpoints/{:020}", early.0), early.1.into_bytes());
    is(&again, Verdict::BadSignature, "introduced later");
    let mut rewritten = Forge::new("payments");
    rewritten.api("Encrypt");
    rewritten.checkpoint(2);
    rewritten.key("checkpoint", 2);
    rewritten.checkpoint(2);
    is(&rewritten, Verdict::BadSignature, "no key that the log introduced");
    // And the first key signs nothing after the second.
    forge.checkpoint(1);
    is(&forge, Verdict::BadSignature, "after a later key had signed");

    // The same for digests.
    let mut forge = Forge::new("payments");
    forge.seal();
    forge.digest(1);
    forge.key("digest", 2);
    forge.seal();
    forge.digest(2);
    is(&forge, Verdict::Ok, "");
    forge.seal();
    forge.digest(1);
    is(&forge, Verdict::BadSignature, "after a later key had signed");
}

// --- Heads ---

#[test]
fn rewritten_below_a_signed_head() {
    // A whole chain is written anew, and the signed heads of the old one put beside it.
    let (old, mut new) = (Forge::trail("payments"), Forge::trail("somebody"));
    new.files.retain(|name, _| name.starts_with("journal/"));
    new.files.extend(old.files.clone().into_iter().filter(|(name, _)| name.starts_with("checkpoints/")));
    is(&new, Verdict::Forked, "two heads of");
    // The end is cut off, with a head left behind.
    let mut cut = old.clone();
    let newest = cut.named("journal/").pop().unwrap();
    cut.files.get_mut(&newest).unwrap().clear();
    let first = old.files[&newest].split_inclusive(|byte| *byte == b'\n').take(2).collect::<Vec<_>>().concat();
    cut.files.insert(newest, first);
    cut.files.retain(|name, _| !name.starts_with("bucket/"));
    is(&cut, Verdict::Truncated, "records are signed by checkpoint key 1");
}

#[test]
fn a_loss_that_was_admitted() {
    let mut forge = Forge::new("payments");
    forge.api("Encrypt");
    forge.checkpoint(1);
    let mut lost = forge.clone();
    lost.user = "lost";
    lost.api("Encrypt");
    lost.checkpoint(1);
    let size = lost.size() - 1;
    let details = json!({"ticket": "T-17", "signedSize": size, "signedRoot": "", "remaining": forge.size()});
    forge.files.insert(format!("checkpoints/{size:020}"), lost.files[&format!("checkpoints/{size:020}")].clone());
    forge.system("AcceptedLoss", details);
    forge.api("Decrypt");
    forge.checkpoint(1);
    is(&forge, Verdict::Truncated, "--accepted-loss T-17");
    let with = |ticket: &str| {
        verify_with(&forge, &Options { accepted_loss: Some(ticket.into()), ..Options::default() }).verdict
    };
    assert_eq!((with("T-17"), with("T-18")), (Verdict::Ok, Verdict::Truncated));
}

#[test]
fn what_the_auditor_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    let options = Options { state: Some(path.clone()), ..Options::default() };
    let mut forge = Forge::trail("payments");
    let early = forge.clone();
    assert_eq!(verify_with(&forge, &options).verdict, Verdict::Ok);
    let first = std::fs::read_to_string(&path).unwrap();
    forge.api("Encrypt");
    forge.checkpoint(1);
    let report = verify_with(&forge, &options);
    assert_eq!(report.verdict, Verdict::Ok, "{report}");
    assert!(report.to_string().contains("your state file remembers"), "{report}");
    let second = std::fs::read_to_string(&path).unwrap();
    assert_ne!(first, second);
    // Rolled back; another one, signed with the same keys; neither changes the memory.
    assert_eq!(verify_with(&early, &options).verdict, Verdict::Truncated);
    let mut other = early.clone();
    other.user = "somebody";
    other.api("Encrypt");
    other.api("Encrypt");
    other.checkpoint(1);
    let report = verify_with(&other, &options);
    assert_eq!((report.verdict, report.exit_code), (Verdict::Forked, 3), "{report}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), second);
    std::fs::write(&path, "{}").unwrap();
    assert_eq!(verify_with(&forge, &options).verdict, Verdict::Incomplete);
}

#[test]
fn anchors_kept_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut forge = Forge::trail("payments");
    let note = dir.path().join("note");
    std::fs::write(&note, forge.note(1)).unwrap();
    let plain = dir.path().join("plain.json");
    std::fs::write(&plain, json!({"size": forge.size(), "root": hex(&forge.tree.root())}).to_string()).unwrap();
    let options = Options { anchors: vec![note, plain], ..Options::default() };
    let mut other = forge.clone();
    forge.api("Encrypt");
    let report = verify_with(&forge, &options);
    assert_eq!(report.verdict, Verdict::Ok, "{report}");
    assert!(report.to_string().contains("not even who can sign"), "{report}");
    other.user = "somebody";
    assert_eq!(verify_with(&Forge::new("x"), &options).verdict, Verdict::Truncated);
    // The whole log written anew by who has both keys, as long as the old one: only an anchor tells.
    let mut anew = Forge::trail("somebody");
    anew.api("Encrypt");
    anew.checkpoint(1);
    is(&anew, Verdict::Ok, "");
    let report = verify_with(&anew, &options);
    assert_eq!((report.verdict, report.exit_code), (Verdict::Forked, 3), "{report}");
    let missing = Options { anchors: vec![dir.path().join("none")], ..Options::default() };
    assert_eq!(verify_with(&forge, &missing).exit_code, 6);
}

#[test]
fn late_signatures() {
    let mut forge = Forge::trail("payments");
    forge.api("Encrypt");
    forge.wait(100);
    forge.api("Encrypt");
    let report = verify(&forge);
    assert_eq!(report.verdict, Verdict::Ok, "{report}");
    assert!(report.unsigned_tail.as_ref().unwrap().age_ms > 100_000);
    forge.wait(1000);
    forge.api("Encrypt");
    let report = verify(&forge);
    assert_eq!((report.verdict, report.exit_code), (Verdict::Stale, 4), "{report}");
    // Digests: a live trail without a new one.
    let forge = Forge::trail("payments");
    let now = times::millis("2026-03-04T12:00:00Z").unwrap();
    assert_eq!(verify_with(&forge, &Options { now: Some(now), ..Options::default() }).verdict, Verdict::Stale);
}

// --- audit.md §2.5: what the stock AWS CLI sees, and what it does not ---

/// A change of the sealed files, by whoever may.
fn changed(change: impl FnOnce(&mut Forge)) -> Forge {
    let mut forge = two().0.clone();
    change(&mut forge);
    forge
}

fn lines_of(forge: &Forge, log: &str) -> Vec<Vec<u8>> {
    let body = gunzip(&forge.files[log]);
    logfiles::lines(&body).unwrap().into_iter().map(<[u8]>::to_vec).collect()
}

fn put_lines(forge: &mut Forge, log: &str, lines: &[Vec<u8>]) -> Vec<u8> {
    let body = log_file(&lines.iter().map(|line| &line[..]).collect::<Vec<_>>());
    forge.files.insert(log.to_owned(), gzip(&body));
    body
}

fn remove(forge: &mut Forge, names: &[String]) {
    for name in names {
        forge.files.remove(name).unwrap();
        forge.files.remove(&format!("{name}.meta"));
    }
}

fn swap(forge: &mut Forge, one: &str, other: &str) {
    for suffix in ["", ".meta"] {
        let (one, other) = (format!("{one}{suffix}"), format!("{other}{suffix}"));
        if let (Some(first), Some(second)) = (forge.files.get(&one).cloned(), forge.files.get(&other).cloned()) {
            forge.files.insert(one, second);
            forge.files.insert(other, first);
        }
    }
}

/// The digest with other members, signed again with the trail's own key.
fn sign_again(forge: &mut Forge, digest: &str, generation: usize, edit: impl FnOnce(&mut Value)) {
    let mut body: Value = serde_json::from_slice(&gunzip(&forge.files[digest])).unwrap();
    edit(&mut body);
    forge.sign_digest(digest.strip_prefix("bucket/").unwrap(), body.to_string().as_bytes(), generation);
}

#[test]
fn scenarios_that_the_stock_cli_sees() {
    let good = &two().0;
    let (logs, digests) = (good.logs(), good.digests());
    is(good, Verdict::Ok, "");
    let one_byte = changed(|forge| {
        let mut lines = lines_of(forge, &logs[1]);
        let at = lines[1].windows(8).position(|part| *part == b"hsm-bridge"[..8]).unwrap();
        lines[1][at] ^= 1;
        put_lines(forge, &logs[1], &lines);
    });
    is(&one_byte, Verdict::Tampered, "its hash is not the one");
    is(&changed(|forge| remove(forge, &logs[1..2])), Verdict::Tampered, "and it is not here");
    let reordered = changed(|forge| {
        let mut lines = lines_of(forge, &logs[1]);
        lines.swap(1, 2);
        put_lines(forge, &logs[1], &lines);
    });
    is(&reordered, Verdict::Tampered, "out of order");
    is(&changed(|forge| swap(forge, &logs[0], &logs[1])), Verdict::Tampered, "name is not that of its first record");
    let edited = changed(|forge| {
        let text = String::from_utf8(gunzip(&forge.files[&digests[1]])).unwrap().replacen("null", "true", 1);
        forge.files.insert(digests[1].clone(), gzip(text.as_bytes()));
    });
    is(&edited, Verdict::Tampered, "the signature is wrong");
    is(&changed(|forge| remove(forge, &digests[1..2])), Verdict::Tampered, "the digest before it is");
    is(&changed(|forge| remove(forge, &digests[0..2])), Verdict::Tampered, "is not here and no record says why");
    is(&changed(|forge| swap(forge, &digests[0], &digests[1])), Verdict::Tampered, "moved from its original place");
    let no_header = changed(|forge| drop(forge.files.remove(&format!("{}.meta", digests[1]))));
    is(&no_header, Verdict::BadSignature, "its signature is not here");
    let other_key = changed(|forge| sign_again(forge, &digests[2], 2, |_| {}));
    is(&other_key, Verdict::Tampered, "the signature is wrong");
    let unknown = changed(|forge| {
        sign_again(forge, &digests[2], 2, |body| body["digestPublicKeyFingerprint"] = "00".into());
    });
    is(&unknown, Verdict::Tampered, "was not introduced by the log");
    let trailing = changed(|forge| forge.files.get_mut(&logs[1]).unwrap().extend(b"more"));
    is(&trailing, Verdict::Tampered, "data follow the end");
    is(&changed(|forge| remove(forge, &digests[0..1])), Verdict::Tampered, "no record says why");
    let backfill = changed(|forge| {
        let name = digests[2].replace(".json.gz", "_backfill.json.gz");
        let bytes = forge.files[&digests[2]].clone();
        forge.files.insert(name, bytes);
    });
    is(&backfill, Verdict::Tampered, "no digest lists it");
}

#[test]
fn scenarios_that_the_stock_cli_does_not_see() {
    let good = &two().0;
    let (logs, digests) = (good.logs(), good.digests());
    // The newest digests and their logs are deleted.
    let newest = changed(|forge| {
        remove(forge, &digests[2..]);
        remove(forge, &logs[2..]);
    });
    is(&newest, Verdict::Tampered, "and it is not here");
    // A middle one and its log are replaced and signed again; later digests stay.
    let replace = |forge: &mut Forge, log: &str, digest: &str| {
        let mut lines = lines_of(forge, log);
        lines.remove(1);
        let body = put_lines(forge, log, &lines);
        sign_again(forge, digest, 1, |said| {
            said["logFiles"][0]["hashValue"] = hex(&signature::sha256(&body)).into();
        });
    };
    let middle = changed(|forge| replace(forge, &logs[1], &digests[1]));
    is(&middle, Verdict::Tampered, "is not the digest that it follows: the hash differs");
    is(&middle, Verdict::Tampered, "is not signed as the digest that it follows");
    is(&middle, Verdict::Tampered, "its lines are not those of the journal");
    // The whole tail of sealed files is rewritten and signed again.
    let tail = changed(|forge| replace(forge, &logs[2], &digests[2]));
    is(&tail, Verdict::Tampered, "its lines are not those of the journal");
    is(&tail, Verdict::Tampered, "it is not the digest of which record");
    // A log object that no digest lists.
    let extra = changed(|forge| {
        let name = logs[1].replace("Z_", "Z_A").replacen("A.json", ".json", 1);
        let bytes = forge.files[&logs[1]].clone();
        forge.files.insert(name[..name.len() - 9].to_owned() + "2.json.gz", bytes);
    });
    let report = verify(&extra);
    assert_eq!(report.verdict, Verdict::Tampered, "{report}");
    let own = changed(|forge| {
        let line = lines_of(forge, &logs[1]);
        let name = format!("{}/x.json.gz", logs[1].rsplit_once('/').unwrap().0);
        put_lines(forge, &name, &line);
    });
    is(&own, Verdict::Tampered, "no digest lists it");
    // Another Region than the trail's: `an_honest_trail`.
}

#[test]
fn other_members_of_a_digest() {
    let digests = two().0.digests();
    let with = |edit: fn(&mut Value)| changed(|forge| sign_again(forge, &digests[2], 1, edit));
    is(
        &with(|body| body["digestStartTime"] = "2026-03-04T09:00:01Z".into()),
        Verdict::Tampered,
        "the one before ends at",
    );
    is(&with(|body| body["digestEndTime"] = "2026-03-04T09:00:01Z".into()), Verdict::Tampered, "is not its end");
    is(&with(|body| body["hsmBridge"]["rootHash"] = "00".repeat(32).into()), Verdict::Tampered, "a record from");
    is(&with(|body| body["logFiles"] = json!([])), Verdict::Tampered, "it is not the digest of which record");
}

// --- Proofs about a part ---

#[test]
fn one_record_for_somebody_else() {
    let dir = tempfile::tempdir().unwrap();
    let (good, other) = two();
    good.write(dir.path());
    let proof = prove::prove(dir.path(), "00000000-0000-4000-9000-000000000005").unwrap();
    let text = serde_json::to_string(&proof).unwrap();
    let check = |text: &str, trust: Option<&[u8]>| prove::check(Path::new("proof.json"), text, trust);
    let report = check(&text, None);
    assert_eq!(report.verdict, Verdict::Ok, "{report}");
    assert!(report.to_string().contains("is record 5 of the log"), "{report}");
    assert_eq!(check(&text, Some(keys().authority.as_bytes())).verdict, Verdict::Ok);
    assert_eq!(check(&text, Some(keys().another_authority.as_bytes())).verdict, Verdict::BadSignature);
    assert_eq!(check(&text.replacen("CreateKey", "DeleteKey", 1), None).verdict, Verdict::Tampered);
    assert_eq!(check(&text.replacen("\"index\":5", "\"index\":4", 1), None).verdict, Verdict::Tampered);
    assert_eq!(check("{}", None).verdict, Verdict::Incomplete);
    assert!(prove::prove(dir.path(), "00000000").unwrap_err().contains("no record has"));
    let unsigned = format!("00000000-0000-4000-9000-{:012x}", good.size() - 1);
    assert!(prove::prove(dir.path(), &unsigned).unwrap_err().contains("under no checkpoint yet"));

    let heads: Vec<_> = good.named("checkpoints/").iter().map(|name| dir.path().join(name)).collect();
    assert_eq!(prove::consistency(dir.path(), &heads[0], &heads[2]).verdict, Verdict::Ok);
    let theirs = dir.path().join("theirs");
    std::fs::write(&theirs, &other.files[&other.named("checkpoints/")[2]]).unwrap();
    assert_eq!(prove::consistency(dir.path(), &heads[0], &theirs).exit_code, 3);
    assert_eq!(prove::consistency(dir.path(), &heads[0], &dir.path().join("none")).exit_code, 6);
}

// --- Exports ---

/// Records 5 to 9 of the trail, as an export has them.
fn export(dir: &Path) {
    let good = &two().0;
    let lines: Vec<Vec<u8>> = good
        .named("journal/")
        .iter()
        .flat_map(|name| good.files[name].split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>())
        .filter(|line| !line.is_empty())
        .collect();
    let leaves: Vec<tree::Hash> = lines.iter().map(|line| line::Leaf::of(line).hash()).collect();
    let size = good.size() - 1;
    let subtrees = |from: u64, to: u64| {
        let (mut first, mut list) = (from, Vec::new());
        while first < to {
            let mut count = 1;
            while first % (2 * count) == 0 && first + 2 * count <= to {
                count *= 2;
            }
            let mut tree = tree::Frontier::default();
            leaves[first as usize..(first + count) as usize].iter().for_each(|leaf| tree.push(*leaf));
            list.push(json!({"first": first, "count": count, "hash": hex(&tree.root())}));
            first += count;
        }
        list
    };
    let checkpoint = good.files[&format!("checkpoints/{size:020}")].clone();
    let root = note::Note::parse(std::str::from_utf8(&checkpoint).unwrap()).unwrap().root;
    let proof = json!({
        "version": 1, "trail": ARN, "firstSeq": 5, "leaves": 5, "leavesFile": "leaves.bin", "treeSize": size, "root": hex(&root),
        "before": subtrees(0, 5), "after": subtrees(10, size), "unsigned": 0,
    });
    let mut records = lines[5..10].join(&b'\n');
    records.push(b'\n');
    let mut files = vec![
        ("records.jsonl.gz", gzip(&records)),
        ("leaves.bin", leaves[5..10].concat()),
        ("checkpoint", checkpoint),
        ("proof.json", proof.to_string().into_bytes()),
    ];
    let hash = |bytes: &[u8]| hex(&signature::sha256(bytes));
    let (list, key_list) = (&mut files, forge::key_list());
    let parts: Vec<Value> = list
        .iter()
        .map(|(name, bytes)| json!({"name": name, "sha256": hash(bytes)}))
        .chain([json!({"name": "keys/keys.json", "sha256": hash(&key_list)})])
        .collect();
    let manifest =
        json!({"trail": ARN, "region": "eu-central-1", "asOf": {"time": "2026-03-04T10:00:00.5Z"}, "files": parts});
    list.push(("manifest.json", manifest.to_string().into_bytes()));
    let hashes: Vec<String> = list.iter().map(|(_, bytes)| hash(bytes)).collect();
    let listed: Vec<Value> =
        list.iter().map(|(name, bytes)| json!({"fileHashValue": hash(bytes), "fileName": name})).collect();
    let (signature, fingerprint) = forge::sign_text(&hashes.join(" "));
    let sign = json!({
        "version": "1.0", "region": "eu-central-1", "files": listed, "hashAlgorithm": "SHA-256",
        "signatureAlgorithm": "SHA256withRSA", "queryCompleteTime": "2026-03-04T10:00:00Z", "hashSignature": signature,
        "publicKeyFingerprint": fingerprint,
    });
    list.push(("result_sign.json", sign.to_string().into_bytes()));
    std::fs::create_dir_all(dir.join("keys")).unwrap();
    std::fs::write(dir.join("keys/keys.json"), key_list).unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

#[test]
fn an_export_and_every_flipped_bit_of_it() {
    let dir = tempfile::tempdir().unwrap();
    export(dir.path());
    let check = || directory(dir.path(), &Options::default(), &mut |_| {});
    let report = check();
    assert_eq!((report.verdict, report.records), (Verdict::Ok, 5), "{report}");
    assert!(report.to_string().contains("5 records from 5 on are under the head"), "{report}");
    for name in ["manifest.json", "result_sign.json", "proof.json", "checkpoint", "leaves.bin", "records.jsonl.gz"] {
        let path = dir.path().join(name);
        let good = std::fs::read(&path).unwrap();
        for (index, bit) in (0..good.len()).flat_map(|index| (0..8).map(move |bit| (index, bit))) {
            // Of what a hash in those two covers, one bit of each byte.
            if name != "manifest.json" && name != "result_sign.json" && bit != index % 8 {
                continue;
            }
            let mut bad = good.clone();
            bad[index] ^= 1 << bit;
            std::fs::write(&path, &bad).unwrap();
            assert_ne!(check().verdict, Verdict::Ok, "bit {bit} of byte {index} of {name}");
        }
        std::fs::write(&path, &good).unwrap();
    }
    std::fs::write(dir.path().join("extra"), "x").unwrap();
    assert_eq!(check().verdict, Verdict::Tampered);
}

// --- Every bit, and random edits ---

#[test]
fn every_flipped_bit_of_the_files_is_found() {
    let mut forge = Forge::new("p");
    forge.checkpoint(1);
    forge.seal();
    forge.digest(1);
    forge.end();
    let dir = tempfile::tempdir().unwrap();
    forge.write(dir.path());
    let check = |flipped: &str| {
        directory(dir.path(), &Options::default(), &mut |_| {}).verdict == Verdict::Ok && !flipped.is_empty()
    };
    assert!(check("none"));
    let mut flips = 0;
    for (name, good) in &forge.files {
        let path = dir.path().join(name);
        // All bits of what is signed by its bytes. Of the journal (all of whose bits audit::tests flips) and of log files, whose
        // hash covers each byte alike, a sample.
        let all = name.starts_with("checkpoints/") || name.contains("Digest");
        for index in 0..good.len() {
            if !all && (index % 4 > 0 || index + 1 == good.len()) {
                continue;
            }
            for bit in (0..8).filter(|bit| all || *bit == index / 4 % 8) {
                let mut bad = good.clone();
                bad[index] ^= 1 << bit;
                std::fs::write(&path, &bad).unwrap();
                assert!(!check(name), "bit {bit} of byte {index} of {name}");
                flips += 1;
            }
        }
        std::fs::write(&path, good).unwrap();
    }
    assert!(check("none"));
    assert!(flips > 12_000, "{flips}");
}

#[derive(Debug, Clone)]
enum Edit {
    DeleteFile,
    Truncate(prop::sample::Index),
    DeleteLine(prop::sample::Index),
    Duplicate(prop::sample::Index, prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    /// From a chain of another log.
    Splice(prop::sample::Index),
    ReplaceFile,
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        Just(Edit::DeleteFile),
        index().prop_map(Edit::Truncate),
        index().prop_map(Edit::DeleteLine),
        (index(), index()).prop_map(|(one, other)| Edit::Duplicate(one, other)),
        (index(), index()).prop_map(|(one, other)| Edit::Swap(one, other)),
        index().prop_map(Edit::Splice),
        Just(Edit::ReplaceFile),
    ]
}

/// Both made once: signatures are slow.
fn two() -> &'static (Forge, Forge) {
    static TWO: std::sync::OnceLock<(Forge, Forge)> = std::sync::OnceLock::new();
    TWO.get_or_init(|| (Forge::trail("payments"), Forge::trail("somebody")))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn edits_have_their_verdict(edit in edit(), file in any::<prop::sample::Index>()) {
        let (good, other) = two();
        let name = good.files.keys().nth(file.index(good.files.len())).unwrap().clone();
        let bytes = &good.files[&name];
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        let mut changed = lines.clone();
        let theirs: Vec<u8> = other.files.get(&name).cloned().unwrap_or_default();
        let their_lines: Vec<&[u8]> = theirs.split_inclusive(|byte| *byte == b'\n').collect();
        let bad: Option<Vec<u8>> = match &edit {
            Edit::DeleteFile => None,
            Edit::Truncate(at) => Some(bytes[..at.index(bytes.len())].to_vec()),
            Edit::DeleteLine(at) => {
                changed.remove(at.index(lines.len()));
                Some(changed.concat())
            }
            Edit::Duplicate(from, to) => {
                changed.insert(to.index(lines.len() + 1), lines[from.index(lines.len())]);
                Some(changed.concat())
            }
            Edit::Swap(one, two) => {
                changed.swap(one.index(lines.len()), two.index(lines.len()));
                Some(changed.concat())
            }
            Edit::Splice(at) => {
                let at = at.index(lines.len());
                if let Some(line) = their_lines.get(at) {
                    changed[at] = line;
                }
                Some(changed.concat())
            }
            Edit::ReplaceFile => Some(theirs.clone()),
        };
        let mut forge = good.clone();
        match &bad {
            None => drop(forge.files.remove(&name)),
            Some(bad) => drop(forge.files.insert(name.clone(), bad.clone())),
        }
        let report = verify(&forge);
        let same = bad.as_ref() == Some(bytes);
        // A checkpoint's note stands in the journal too.
        let copy = bad.is_none() && name.starts_with("checkpoints/");
        // A signature that stands twice in a note says what it says once.
        let twice = match &edit {
            Edit::Duplicate(from, to) if name.starts_with("checkpoints/") => {
                let text = lines.iter().position(|line| *line == b"\n").unwrap_or(lines.len());
                from.index(lines.len()) > text && to.index(lines.len() + 1) > text
            }
            _ => false,
        };
        let copy = copy || twice;
        prop_assert_eq!(report.verdict == Verdict::Ok, same || copy, "{} {:?}\n{}", name, edit, report);
        if !same && !copy {
            let allowed: &[Verdict] = if name.starts_with("checkpoints/") {
                &[Verdict::BadSignature, Verdict::Tampered, Verdict::Forked]
            } else if name.ends_with(".meta") {
                &[Verdict::BadSignature, Verdict::Tampered]
            } else if name.starts_with("journal/") {
                &[Verdict::Truncated, Verdict::Tampered, Verdict::Forked, Verdict::Incomplete]
            } else {
                &[Verdict::Tampered]
            };
            prop_assert!(allowed.contains(&report.verdict), "{} {:?}\n{}", name, edit, report);
        }
    }

    #[test]
    fn parsers_take_anything(bytes in prop::collection::vec(any::<u8>(), 0..600), text in "\\PC{0,200}") {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        let _ = digests::read(&path, "x");
        let _ = logfiles::read(&path, "x", &[0, 5]);
        std::fs::write(&path, gzip(&bytes)).unwrap();
        let _ = digests::read(&path, &text);
        let _ = logfiles::read(&path, &text, &[]);
        let _ = logfiles::lines(&bytes);
        let _ = super::gzip::unpack(&bytes, 1 << 20);
        let _ = note::Note::parse(&text);
        let _ = anchors::parse(&text);
        let _ = names::Kind::of(&text);
        let _ = certificate::decode(&text);
        let _ = certificate::Trust::parse(&bytes);
        let _ = signature::PublicKey::from_spki(&bytes);
        let _ = line::Line::parse(&bytes);
        let _ = times::millis(&text);
        let _ = times::text(i64::MAX);
    }

    #[test]
    fn folders_of_anything(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["journal/00000000000000000000-b27e.jsonl", "checkpoints/00000000000000000001", "keys/keys.json",
            "bucket/AWSLogs/1/CloudTrail/r/2026/03/04/1_CloudTrail_r_20260304T0920Z_GAYTEMZUGU3DOOBZ.json.gz"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &bytes).unwrap();
        }
        prop_assert_ne!(directory(Path::new(dir.path()), &Options::default(), &mut |_| {}).verdict, Verdict::Ok);
    }
}
