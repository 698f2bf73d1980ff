use std::io::Write;

use super::*;
use crate::audit::record::tests::{event, settings};
use crate::audit::{Event, EventType, Journal, Resource};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Record `n` of a log: every third is of bob, every tenth a change, a second apart.
fn nth(n: i64) -> Event {
    let mut made = event(EventType::AwsApiCall, if n % 10 == 0 { "DisableKey" } else { "Encrypt" }, &format!("r-{n}"));
    made.time = n * 1000;
    made.read_only = n % 10 != 0;
    if n % 3 == 0 {
        made.user_identity.user_name = Some("bob".into());
    }
    let arn = format!("arn:aws:kms:eu-central-1:111122223333:key/{}", n % 4);
    made.resources = vec![Resource { account_id: "111122223333".into(), kind: "AWS::KMS::Key", arn }];
    made
}

fn append(journal: &Journal, events: impl IntoIterator<Item = Event>) {
    runtime().block_on(async {
        for event in events {
            journal.append(event).await.unwrap();
        }
    });
}

fn log(records: i64) -> (tempfile::TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(settings(dir.path())).unwrap();
    append(&journal, (0..records).map(nth));
    (dir, journal)
}

fn fed(dir: &Path, journal: &Journal) -> Index {
    let index = Index::new(dir);
    index.catch_up(journal.durable(), &|| false).unwrap();
    assert_eq!(index.indexed(), journal.durable());
    index
}

/// Request ids, page by page.
fn found(index: &Index, mut query: Query) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let hits = index.find(&query).unwrap();
        assert!(hits.hits.len() <= query.most);
        for hit in &hits.hits {
            let record: serde_json::Value = serde_json::from_slice(&hit.line).unwrap();
            assert_eq!(record["additionalEventData"]["audit"]["seq"], hit.seq);
            ids.extend(record["requestID"].as_str().map(str::to_owned));
        }
        match hits.next {
            Some(next) => query.before = Some(next),
            None => return ids,
        }
    }
}

fn ids(numbers: impl Iterator<Item = i64>) -> Vec<String> {
    let mut ids: Vec<String> = numbers.map(|n| format!("r-{n}")).collect();
    ids.reverse();
    ids
}

fn by(attribute: Attribute, value: &str) -> Query {
    Query { attribute: Some((attribute, value.to_owned())), most: 7, ..Query::default() }
}

#[test]
fn every_attribute_finds_what_has_it_newest_first() {
    let (dir, journal) = log(100);
    append(&journal, [event(EventType::HsmBridgeIntent, "DisableKey", "intent")]);
    let index = fed(dir.path(), &journal);
    let every = |step: usize| (0..100).step_by(step);
    assert_eq!(found(&index, by(Attribute::EventName, "DisableKey")), ids(every(10)));
    assert_eq!(found(&index, by(Attribute::ReadOnly, "false")), ids(every(10)));
    assert_eq!(found(&index, by(Attribute::Username, "bob")), ids((0..100).step_by(3)));
    let arn = "arn:aws:kms:eu-central-1:111122223333:key/1";
    assert_eq!(found(&index, by(Attribute::ResourceName, arn)), ids((1..100).step_by(4)));
    assert_eq!(found(&index, by(Attribute::ResourceName, "1")), ids((1..100).step_by(4)));
    assert_eq!(found(&index, by(Attribute::ResourceType, "AWS::KMS::Key")), ids(0..100));
    assert_eq!(found(&index, by(Attribute::EventSource, "kms.amazonaws.com")), ids(0..100));
    assert_eq!(found(&index, by(Attribute::AccessKeyId, "AKIA7HSMBRIDGE000001")), ids(0..100));
    assert_eq!(found(&index, by(Attribute::EventName, "Nothing")), [""; 0]);
    let some = index.find(&by(Attribute::EventName, "DisableKey")).unwrap().hits.remove(2);
    let id = Seen::of(&some.line).unwrap().event_id.into_owned();
    assert_eq!(found(&index, by(Attribute::EventId, &id)), ["r-70"]);
    // Everything but the intent, and what the log says of itself has no request id.
    assert_eq!(found(&index, Query { most: 13, ..Query::default() }), ids(0..100));
}

#[test]
fn times_are_exact() {
    let (dir, journal) = log(300);
    let index = fed(dir.path(), &journal);
    let within = |start, end| Query { start, end, most: 50, ..Query::default() };
    let only_records = |query| found(&index, query);
    assert_eq!(only_records(within(Some(61), Some(179))), ids(61..180));
    assert_eq!(only_records(within(Some(299), Some(400))), ids(299..300));
    assert_eq!(only_records(within(None, Some(0))), ids(0..1));
    assert_eq!(only_records(within(Some(500), Some(600))), [""; 0]);
    let bobs = Query { start: Some(61), end: Some(179), ..by(Attribute::Username, "bob") };
    assert_eq!(found(&index, bobs), ids((63..180).step_by(3)));
    let (first, last) = index.seqs(Some(61), Some(179)).unwrap().unwrap();
    assert!(first <= 62 && last >= 180, "{first} {last}");
}

#[test]
fn it_goes_on_where_it_was_and_over_segments() {
    let (dir, journal) = log(20);
    drop(fed(dir.path(), &journal));
    runtime().block_on(journal.rotate()).unwrap();
    append(&journal, (20..40).map(nth));
    let index = fed(dir.path(), &journal);
    append(&journal, (40..50).map(nth));
    runtime().block_on(journal.rotate()).unwrap();
    append(&journal, (50..60).map(nth));
    index.catch_up(journal.durable(), &|| false).unwrap();
    assert_eq!(found(&index, by(Attribute::ResourceType, "AWS::KMS::Key")), ids(0..60));
}

#[test]
fn a_lost_damaged_or_foreign_index_is_made_anew() {
    let (dir, journal) = log(30);
    let file = dir.path().join("index.sqlite");
    let all = |index: &Index| found(index, by(Attribute::ResourceType, "AWS::KMS::Key"));
    drop(fed(dir.path(), &journal));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(all(&fed(dir.path(), &journal)), ids(0..30));
    std::fs::write(&file, vec![7; 9000]).unwrap();
    assert_eq!(all(&fed(dir.path(), &journal)), ids(0..30));
    // Of another log that was longer, and of one that was as long.
    for records in [40, 30] {
        let (other, other_journal) = log(records);
        drop(fed(other.path(), &other_journal));
        super::feed::remove(&file).unwrap();
        std::fs::copy(other.path().join("index.sqlite"), &file).unwrap();
        assert_eq!(all(&fed(dir.path(), &journal)), ids(0..30), "{records}");
    }
}

/// Puts the records of the oldest segment into a sealed file and deletes the segment, as retention does.
fn prune_first(dir: &Path) -> String {
    let journal = dir.join("journal");
    let name = crate::audit::files::segments(&journal, false).unwrap().remove(0);
    let text = std::fs::read_to_string(journal.join(&name)).unwrap();
    let object = "AWSLogs/111122223333/CloudTrail/eu-central-1/2026/01/01/x.json.gz";
    let path = dir.join("bucket").join(object);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = flate2::write::GzEncoder::new(std::fs::File::create(path).unwrap(), flate2::Compression::fast());
    let lines: Vec<&str> = text.lines().collect();
    write!(file, "{{\"Records\":[{}]}}", lines.join(",")).unwrap();
    file.finish().unwrap();
    std::fs::remove_file(journal.join(name)).unwrap();
    object.to_owned()
}

#[test]
fn what_the_journal_lost_is_read_from_sealed_files() {
    let (dir, journal) = log(20);
    runtime().block_on(journal.rotate()).unwrap();
    append(&journal, (20..30).map(nth));
    let index = fed(dir.path(), &journal);
    let last =
        crate::audit::files::segments(&dir.path().join("journal"), false).unwrap()[1][..20].parse::<u64>().unwrap() - 1;
    let object = prune_first(dir.path());
    let all = |index: &Index| found(index, by(Attribute::ResourceType, "AWS::KMS::Key"));
    // Nothing says yet that the file has them.
    assert_eq!(all(&index), ids(20..30));
    let details = serde_json::json!({ "object": object, "sha256": "", "firstSeq": 0, "lastSeq": last });
    append(&journal, [Event::system("LogFile", "eu-central-1", "111122223333", 30_000, details)]);
    index.catch_up(journal.durable(), &|| false).unwrap();
    assert_eq!(all(&index), ids(0..30));
    // And an index that begins now.
    drop(index);
    super::feed::remove(&dir.path().join("index.sqlite")).unwrap();
    assert_eq!(all(&fed(dir.path(), &journal)), ids(0..30));
    // Retention took the sealed file too.
    std::fs::remove_file(dir.path().join("bucket").join(object)).unwrap();
    let index = fed(dir.path(), &journal);
    assert_eq!(all(&index), ids(20..30));
    assert!(index.seqs(None, None).unwrap().unwrap().0 > last);
}

#[test]
fn no_question_scans_a_table() {
    let (dir, journal) = log(3);
    let index = fed(dir.path(), &journal);
    let sql = index.read().unwrap();
    for text in [
        "SELECT seq, segment, offset FROM terms JOIN places USING (seq) WHERE term = 1 AND seq >= 1 AND seq < 9 ORDER BY seq DESC",
        "SELECT seq FROM places WHERE seq >= 1 AND seq < 9 ORDER BY seq DESC",
        "SELECT MIN(first), MAX(last) FROM minutes WHERE minute BETWEEN 1 AND 2",
        "SELECT object FROM sealed WHERE first <= 1 ORDER BY first DESC LIMIT 1",
    ] {
        let mut plan = sql.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
        let steps: Vec<String> = plan.query_map([], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
        assert!(steps.iter().all(|step| step.starts_with("SEARCH")), "{text}: {steps:?}");
    }
}
