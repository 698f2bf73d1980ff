//! The log as a whole: writer, recovery, failures, and the verifier as judge.

mod checkpoints;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::files::{FileFacts, SegmentFile, Wrap};
use super::record::tests::{event, settings};
use super::verify::{Report, Verdict};
use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

pub(super) fn open(settings: &Settings) -> (Journal, Recovery) {
    Journal::open(settings.clone()).unwrap()
}

pub(super) fn call(request: u32) -> Event {
    event(EventType::AwsApiCall, "Encrypt", &format!("request-{request}"))
}

/// Appends one after the other; returns the seqs.
pub(super) fn append(journal: &Journal, events: impl IntoIterator<Item = Event>) -> Vec<u64> {
    let append = async {
        let mut seqs = Vec::new();
        for event in events {
            seqs.push(journal.append(event).await.unwrap().seq());
        }
        seqs
    };
    runtime().block_on(append)
}

fn verify(dir: &Path) -> Report {
    verify::directory(dir, &verify::Options::default(), &mut |_| {})
}

fn assert_ok(dir: &Path) -> Report {
    let report = verify(dir);
    assert_eq!(report.verdict, Verdict::Ok, "{report}");
    report
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let journal = dir.join("journal");
    files::segments(&journal, false).unwrap().into_iter().map(|name| journal.join(name)).collect()
}

fn lines(dir: &Path) -> Vec<serde_json::Value> {
    segments(dir)
        .iter()
        .flat_map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
        })
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    lines(dir).iter().map(|line| line["eventName"].as_str().unwrap().to_string()).collect()
}

fn details(line: &serde_json::Value) -> &serde_json::Value {
    &line["additionalEventData"]["details"]
}

/// What a kill leaves: a copy of the files while the journal is open.
fn copy(dir: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    std::fs::create_dir(to.path().join("journal")).unwrap();
    for path in segments(dir) {
        std::fs::copy(&path, to.path().join("journal").join(path.file_name().unwrap())).unwrap();
    }
    to
}

#[test]
fn records_are_a_chain_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (journal, recovery) = open(&settings);
    assert!(!recovery.existed);
    assert_eq!(append(&journal, (0..5).map(call)), [1, 2, 3, 4, 5]);
    journal.close();
    journal.close();
    assert!(matches!(runtime().block_on(journal.append(call(9))), Err(AuditError::Failed(_))));
    assert_eq!(journal.failure(), None);
    drop(journal);

    let (journal, recovery) = open(&settings);
    assert!(recovery.existed && !recovery.unclean && recovery.torn_bytes == 0 && recovery.dangling.is_empty());
    assert_eq!(append(&journal, (5..7).map(call)), [8, 9]);
    drop(journal);

    let report = assert_ok(dir.path());
    assert_eq!((report.records, report.segments, report.last_seq), (11, 2, Some(10)));
    assert_eq!(report.trail.as_deref(), Some(settings.trail_arn.as_str()));
    let lines = lines(dir.path());
    let boots: std::collections::HashSet<_> =
        lines.iter().map(|line| line["additionalEventData"]["audit"]["boot"].as_str().unwrap()).collect();
    assert_eq!(boots.len(), 2);
    let start = details(&lines[7]);
    assert_eq!(start["prevSeq"], 6);
    assert_eq!(start["reason"], "boot");
    assert_eq!(start["prevSegment"], segments(dir.path())[0].file_name().unwrap().to_str().unwrap());
    let current = std::fs::read_link(dir.path().join("journal/current.jsonl")).unwrap();
    assert_eq!(Some(current.as_os_str()), segments(dir.path())[1].file_name());

    use std::os::unix::fs::PermissionsExt;
    for path in segments(dir.path()) {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7137, 0);
    }
}

#[test]
fn a_trail_is_bound_into_its_chain() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    let (journal, _) = open(&settings);
    drop(journal);
    let with = |arn: &str| {
        let options = verify::Options { trail_arn: Some(arn.into()), ..verify::Options::default() };
        verify::directory(dir.path(), &options, &mut |_| {}).verdict
    };
    assert_eq!(with(&settings.trail_arn), Verdict::Ok);
    assert_eq!(with("arn:aws:cloudtrail:eu-central-1:111122223333:trail/other"), Verdict::Tampered);
    settings.trail_arn = "arn:aws:cloudtrail:eu-central-1:111122223333:trail/other".into();
    assert!(matches!(Journal::open(settings), Err(AuditError::Corrupt(_))));
}

#[test]
fn concurrent_callers_each_have_their_own_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.segment_bytes = 20_000;
    let (journal, _) = open(&settings);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let seqs = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..16 {
            let journal = journal.clone();
            tasks.spawn(async move {
                let mut seqs = Vec::new();
                for number in 0..20 {
                    let request = task * 100 + number;
                    seqs.push((journal.append(call(request)).await.unwrap().seq(), format!("request-{request}")));
                }
                seqs
            });
        }
        tasks.join_all().await.concat()
    });
    let copied = copy(dir.path());
    // A running service: no SegmentEnd yet, and all that was acknowledged is there.
    assert_ok(copied.path());
    journal.close();
    let report = assert_ok(dir.path());
    assert!(report.segments > 3, "{report}");
    let lines = lines(dir.path());
    assert_eq!(seqs.len(), 320);
    for (seq, request) in seqs {
        assert_eq!(lines[seq as usize]["requestID"], request);
    }
}

#[test]
fn a_caller_that_goes_away_leaves_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    runtime().block_on(async {
        let mut append = Box::pin(journal.append(call(1)));
        // Polled once: queued, and then dropped.
        std::future::poll_fn(|context| {
            let _ = append.as_mut().poll(context);
            std::task::Poll::Ready(())
        })
        .await;
        drop(append);
        assert_eq!(journal.append(call(2)).await.unwrap().seq(), 2);
    });
    drop(journal);
    assert_eq!(names(dir.path()), ["SegmentStart", "Encrypt", "Encrypt", "SegmentEnd"]);
}

#[test]
fn rotation_by_size_age_and_request() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.segment_bytes = 5000;
    let (journal, _) = open(&settings);
    append(&journal, (0..20).map(call));
    runtime().block_on(journal.rotate()).unwrap();
    journal.close();
    assert_ok(dir.path());
    for path in segments(dir.path()) {
        assert!(path.metadata().unwrap().len() < 7000);
    }
    let reasons: Vec<_> = lines(dir.path())
        .iter()
        .filter(|line| line["eventName"] == "SegmentStart")
        .map(|line| details(line)["reason"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(reasons[0], "boot");
    assert_eq!(reasons[1], "size");
    assert_eq!(reasons.last().unwrap(), "request");

    // Age, without a clock: the writer's tick is called by hand.
    let dir = tempfile::tempdir().unwrap();
    let mut segments = direct(dir.path(), Box::new(|file| Box::new(file)));
    segments.max_age = Duration::ZERO;
    segments.watch().unwrap();
    segments.commit(&[draft(&segments, call(1))]).unwrap();
    segments.watch().unwrap();
    segments.watch().unwrap();
    segments.end("stop").unwrap();
    assert_eq!(names(dir.path()), ["SegmentStart", "Encrypt", "SegmentEnd", "SegmentStart", "SegmentEnd"]);
    assert_ok(dir.path());
}

/// The writer's inside without its thread.
fn direct(dir: &Path, wrap: Wrap) -> segment::Segments {
    let settings = settings(dir);
    let journal = files::make_directories(dir).unwrap();
    let found = recovery::recover(&journal, &settings).unwrap();
    let origin = Arc::new(record::Origin::new(&settings, found.boot));
    let limits = (settings.segment_bytes, settings.segment_age);
    let mut segments = segment::Segments::new(origin, journal, limits, wrap, found.chain, found.name, found.next);
    segments.ensure_open().unwrap();
    segments
}

fn draft(segments: &segment::Segments, event: Event) -> record::Draft {
    record::Draft::new(event, &segments.origin, uuid::Uuid::new_v4())
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (journal, _) = open(&settings);
    match Journal::open(settings.clone()) {
        Err(AuditError::Locked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("{:?}", other.map(|_| ())),
    }
    drop(journal);
    open(&settings);
}

// --- Recovery ---

#[test]
fn an_unclean_stop_is_noted_and_the_segment_rewritten() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, (0..3).map(call));
    let killed = copy(dir.path());
    let before = segments(killed.path())[0].metadata().unwrap().ino();

    let (journal, recovery) = open(&settings(killed.path()));
    assert!(recovery.existed && recovery.unclean);
    assert_eq!(append(&journal, [call(3)]), [5]);
    drop(journal);
    assert_ne!(segments(killed.path())[0].metadata().unwrap().ino(), before);
    let report = assert_ok(killed.path());
    assert!(report.notes.iter().any(|note| note.contains("did not stop cleanly")), "{report}");
    assert_eq!(details(&lines(killed.path())[4])["unclean"], true);
}

#[test]
fn a_torn_tail_is_kept_cut_and_noted() {
    for noted in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = open(&settings(dir.path()));
        append(&journal, (0..3).map(call));
        let killed = copy(dir.path());
        let path = &segments(killed.path())[0];
        let whole = std::fs::read(path).unwrap();
        let torn = &whole[..100];
        std::fs::write(path, [whole.as_slice(), torn].concat()).unwrap();
        assert_eq!(verify(killed.path()).verdict, Verdict::Truncated);
        if !noted {
            // Recovery itself is killed after the cut.
            recovery::recover(&killed.path().join("journal"), &settings(killed.path())).unwrap();
        }
        let (journal, recovery) = open(&settings(killed.path()));
        assert!(recovery.unclean);
        assert_eq!(recovery.torn_bytes, 100);
        drop(journal);
        assert_eq!(std::fs::read(path).unwrap(), whole);
        assert_ok(killed.path());
        let lines = lines(killed.path());
        let start = details(&lines[4]);
        assert_eq!(start["tornBytes"], 100);
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, torn);
        assert_eq!(start["tornSha256"], hex::encode(hash));
        let kept = killed.path().join("journal").join(start["tornFile"].as_str().unwrap());
        assert_eq!(std::fs::read(&kept).unwrap(), torn);
        std::fs::write(&kept, b"something else").unwrap();
        assert_eq!(verify(killed.path()).verdict, Verdict::Tampered);
    }
}

#[test]
fn repair_cuts_a_torn_tail_and_nothing_else() {
    use super::repair::{Repaired, repair};
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, (0..3).map(call));
    assert!(matches!(repair(dir.path()), Err(AuditError::Locked { .. })));
    let killed = copy(dir.path());
    // Unfinished, but whole: for the next start.
    assert!(matches!(repair(killed.path()).unwrap(), Repaired::Nothing));
    assert_eq!(segments(killed.path()).len(), 1);

    let path = &segments(killed.path())[0];
    let whole = std::fs::read(path).unwrap();
    std::fs::write(path, [&whole[..], &whole[..50]].concat()).unwrap();
    match repair(killed.path()).unwrap() {
        Repaired::Cut { bytes: 50, kept_in, segment } => {
            assert_eq!(std::fs::read(killed.path().join("journal").join(kept_in)).unwrap(), &whole[..50]);
            assert!(segments(killed.path())[1].ends_with(segment));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(names(killed.path())[4..], ["SegmentStart", "SegmentEnd"]);
    let lines = lines(killed.path());
    assert_eq!((&details(&lines[4])["reason"], &details(&lines[4])["tornBytes"]), (&"repair".into(), &50.into()));
    assert_ok(killed.path());
    assert!(matches!(repair(killed.path()).unwrap(), Repaired::Nothing));

    // A torn tail of a log that was changed as well.
    let text = String::from_utf8(whole).unwrap().replacen("request-1", "request-7", 1);
    let before = text.clone() + "{";
    let changed = copy(dir.path());
    std::fs::write(&segments(changed.path())[0], &before).unwrap();
    match repair(changed.path()).unwrap() {
        Repaired::Refused(report) => assert_eq!(report.verdict, Verdict::Tampered),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read_to_string(&segments(changed.path())[0]).unwrap(), before);
    assert!(matches!(repair(&dir.path().join("missing")), Err(AuditError::Failed(_))));
}

#[test]
fn a_changed_last_segment_is_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, (0..3).map(call));
    drop(journal);
    let path = &segments(dir.path())[0];
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, text.replacen("request-1", "request-7", 1)).unwrap();
    match Journal::open(settings(dir.path())) {
        Err(AuditError::Corrupt(what)) => {
            assert!(what.contains(&format!("`{}` line 4", path.display())), "{what}")
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn dangling_intents_are_found_across_segments_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let intent = |request: &str| event(EventType::HsmBridgeIntent, "CreateKey", request);
    let outcome = |request: &str| event(EventType::AwsApiCall, "CreateKey", request);
    let seqs = |recovery: &Recovery| recovery.dangling.iter().map(|intent| intent.seq).collect::<Vec<_>>();

    let (journal, _) = open(&settings(dir.path()));
    let mut versioned = outcome("b");
    versioned.additional.store_version = Some(41);
    append(&journal, [intent("a"), intent("b"), versioned]);
    runtime().block_on(journal.rotate()).unwrap();
    append(&journal, [intent("c"), call(1)]);
    runtime().block_on(journal.rotate()).unwrap();
    append(&journal, [intent("d"), outcome("d"), intent("e")]);
    drop(journal);

    let (journal, recovery) = open(&settings(dir.path()));
    assert_eq!(seqs(&recovery), [1, 6, 12]);
    assert_eq!(recovery.last_store_version, Some(41));
    let first = &recovery.dangling[0];
    assert_eq!((first.request_id.as_str(), first.name.as_str()), ("a", "CreateKey"));
    assert!(first.resources[0].starts_with("arn:aws:kms:") && first.line.starts_with('{'));
    drop(journal);

    // Two restarts on, `c` is closed by a system record, `e` by its outcome.
    let (journal, recovery) = open(&settings(dir.path()));
    assert_eq!(seqs(&recovery), [1, 6, 12]);
    append(&journal, [event(EventType::HsmBridgeSystem, "OutcomeUnknown", "c"), outcome("e")]);
    drop(journal);
    let (journal, recovery) = open(&settings(dir.path()));
    assert_eq!(seqs(&recovery), [1]);
    assert_eq!(recovery.last_store_version, Some(41));
    append(&journal, [outcome("a")]);
    drop(journal);
    let (_journal, recovery) = open(&settings(dir.path()));
    assert!(recovery.dangling.is_empty());
    let report = assert_ok(dir.path());
    assert_eq!((report.intents, report.intents_closed, report.open_intents.len()), (5, 5, 0));
}

// --- Failures ---

#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    NoSpace,
    Short(usize),
    Io,
    /// Blocks until the test ends.
    Hang,
}

/// What the next writes and syncs do; nothing more to say means no fault.
#[derive(Clone, Default)]
struct Faults {
    writes: Arc<Mutex<VecDeque<Fault>>>,
    syncs: Arc<Mutex<VecDeque<Fault>>>,
    released: Arc<AtomicBool>,
}

struct Faulty(File, Faults);

impl Faults {
    fn wrap(&self) -> Wrap {
        let faults = self.clone();
        Box::new(move |file| Box::new(Faulty(file, faults.clone())))
    }

    fn next(queue: &Mutex<VecDeque<Fault>>) -> Fault {
        queue.lock().unwrap().pop_front().unwrap_or(Fault::None)
    }
}

impl SegmentFile for Faulty {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Faults::next(&self.1.writes) {
            Fault::None | Fault::Hang => self.0.append(bytes),
            // A real error from a real file.
            Fault::NoSpace => File::options().write(true).open("/dev/full")?.append(bytes),
            Fault::Short(count) => self.0.append(&bytes[..count]),
            Fault::Io => Err(io::Error::from_raw_os_error(5)),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        match Faults::next(&self.1.syncs) {
            Fault::Io => Err(io::Error::from_raw_os_error(5)),
            Fault::Hang => {
                while !self.1.released.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
            _ => self.0.sync(),
        }
    }

    fn facts(&self) -> io::Result<FileFacts> {
        self.0.facts()
    }
}

#[test]
fn no_space_before_the_first_byte_fails_the_batch_only() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let (journal, _) = Journal::open_with(settings(dir.path()), faults.wrap()).unwrap();
    append(&journal, [call(1)]);
    faults.writes.lock().unwrap().push_back(Fault::NoSpace);
    let refused = event(EventType::HsmBridgeIntent, "CreateKey", "refused");
    match runtime().block_on(journal.append(refused)) {
        Err(AuditError::NoSpace { dir: named }) => assert_eq!(named, dir.path()),
        other => panic!("{other:?}"),
    }
    assert!(journal.admit(Load::DataPlane).is_ok() && journal.failure().is_none());
    assert_eq!(append(&journal, [call(2)]), [2]);
    // Also when a new segment does not fit: the next record begins it.
    faults.writes.lock().unwrap().extend([Fault::None, Fault::NoSpace]);
    assert!(matches!(runtime().block_on(journal.rotate()), Err(AuditError::NoSpace { .. })));
    assert_eq!(append(&journal, [call(3)]), [5]);
    drop(journal);
    assert_ok(dir.path());
    let (_journal, recovery) = open(&settings(dir.path()));
    assert!(recovery.dangling.is_empty(), "an intent that was never written is not open");
}

#[test]
fn the_reserve_takes_the_last_records() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { reserve_bytes: 1 << 16, ..settings(dir.path()) };
    let faults = Faults::default();
    let (journal, _) = Journal::open_with(settings.clone(), faults.wrap()).unwrap();
    append(&journal, [call(1)]);
    faults.writes.lock().unwrap().push_back(Fault::NoSpace);
    // With the reserve's room it is written, at the same place.
    assert_eq!(append(&journal, [call(2)]), [2]);
    faults.writes.lock().unwrap().extend([Fault::NoSpace, Fault::NoSpace]);
    assert!(matches!(runtime().block_on(journal.append(call(3))), Err(AuditError::NoSpace { .. })));
    drop(journal);
    assert_ok(dir.path());
    // A log that fails says why in the room of the reserve.
    let (journal, _) = Journal::open_with(settings, faults.wrap()).unwrap();
    assert!(dir.path().join("RESERVE").exists());
    faults.writes.lock().unwrap().push_back(Fault::Short(7));
    assert!(runtime().block_on(journal.append(call(4))).is_err());
    journal.close();
    assert!(!dir.path().join("RESERVE").exists());
    assert_eq!(names(dir.path()).last().unwrap(), "AuditFailure");
    assert_ok(dir.path());
}

#[test]
fn little_space_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&Settings { warn_below_free: 1.01, ..settings(dir.path()) });
    let mut durable = journal.watch_durable();
    runtime().block_on(durable.wait_for(|records| *records > 1)).unwrap();
    drop(journal);
    let lines = lines(dir.path());
    assert_eq!(lines[1]["eventName"], "AuditDiskLow");
    assert_eq!((&details(&lines[1])["low"], &details(&lines[1])["warnBelowPercent"]), (&true.into(), &101.0.into()));
    assert_ok(dir.path());
}

#[test]
fn a_failed_write_or_sync_poisons_the_log() {
    for (write, sync, expected) in [
        (Fault::Short(10), Fault::None, "short write"),
        (Fault::Io, Fault::None, "write: "),
        (Fault::None, Fault::Io, "fdatasync: "),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        let (journal, _) = Journal::open_with(settings(dir.path()), faults.wrap()).unwrap();
        append(&journal, [call(1)]);
        faults.writes.lock().unwrap().push_back(write);
        faults.syncs.lock().unwrap().push_back(sync);
        let refused = |result: Result<Recorded, AuditError>| match result {
            Err(AuditError::Failed(reason)) => assert!(reason.starts_with(expected), "{reason}"),
            other => panic!("{other:?}"),
        };
        runtime().block_on(async {
            let failed = journal.failed();
            refused(journal.append(call(2)).await);
            let reason = failed.await;
            assert!(reason.starts_with(expected), "{reason}");
            let size = segments(dir.path())[0].metadata().unwrap().len();
            // Nothing is retried, and nothing more is written to that file.
            refused(journal.append(call(3)).await);
            assert!(journal.rotate().await.is_err());
            assert!(matches!(journal.admit(Load::Administration), Err(AuditError::Failed(_))));
            assert!(journal.failure().is_some());
            journal.close();
            // The segment ends with what was acknowledged, the rest is aside, and a new one says why.
            let torn = size - segments(dir.path())[0].metadata().unwrap().len();
            assert_eq!(torn > 0, !matches!(write, Fault::Io));
            assert_eq!(names(dir.path()), ["SegmentStart", "Encrypt", "SegmentStart", "AuditFailure"]);
            let lines = lines(dir.path());
            assert_eq!(
                (&details(&lines[2])["tornBytes"], &details(&lines[2])["reason"]),
                (&torn.into(), &"failure".into())
            );
            assert!(details(&lines[3])["reason"].as_str().unwrap().starts_with(expected));
        });
        drop(journal);
        // The next process finds a log that verifies.
        assert_ok(dir.path());
        let (journal, recovery) = open(&settings(dir.path()));
        assert!(recovery.unclean);
        assert_eq!(append(&journal, [call(4)]), [5]);
        drop(journal);
        assert_ok(dir.path());
    }
}

#[test]
fn a_disk_that_hangs_fails_the_log_within_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.deadline = Duration::from_millis(50);
    let faults = Faults::default();
    let (journal, _) = Journal::open_with(settings, faults.wrap()).unwrap();
    faults.syncs.lock().unwrap().push_back(Fault::Hang);
    runtime().block_on(async {
        let both = async {
            tokio::join!(journal.append(call(1)), async {
                // Behind the batch that hangs.
                while !faults.syncs.lock().unwrap().is_empty() {
                    tokio::task::yield_now().await;
                }
                journal.append(call(2)).await
            })
        };
        // Only so that a defect is a failure and not a test that never ends.
        let guard = tokio::time::timeout(Duration::from_secs(60), both).await;
        faults.released.store(guard.is_err(), Ordering::Relaxed);
        let (first, second) = guard.unwrap();
        for result in [first, second] {
            assert!(matches!(result, Err(AuditError::Failed(_))), "{result:?}");
        }
    });
    assert!(journal.failure().unwrap().contains("50 ms"));
    // Does not wait for the disk.
    journal.close();
    faults.released.store(true, Ordering::Relaxed);
}

#[test]
fn little_space_refuses_requests_but_not_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.refuse_below_free = 1.01;
    let (journal, _) = open(&settings);
    assert!(journal.admit(Load::Administration).is_ok());
    let refused = journal.admit(Load::DataPlane).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("less than 101 % free space for the audit log in `{}`", dir.path().display())
    );
    append(&journal, [call(1)]);
    assert!(journal.free_space() > 0.0 && journal.free_space() <= 1.0);
}

#[test]
fn a_full_disk_at_start_is_no_space_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    faults.writes.lock().unwrap().push_back(Fault::NoSpace);
    assert!(matches!(Journal::open_with(settings(dir.path()), faults.wrap()), Err(AuditError::NoSpace { .. })));
    assert!(segments(dir.path()).is_empty());
    drop(Journal::open_with(settings(dir.path()), faults.wrap()).unwrap());
    assert_ok(dir.path());
}

#[test]
fn a_segment_that_somebody_changes_is_reported_in_the_next() {
    type Change = fn(&Path);
    let changes: [(Change, &str); 4] = [
        (|path| std::fs::remove_file(path).unwrap(), "deleted"),
        (|path| std::fs::rename(path, path.with_extension("moved")).unwrap(), "moved"),
        (|path| File::options().write(true).open(path).unwrap().set_len(10).unwrap(), "10 bytes"),
        (
            |path| {
                std::fs::copy(path, path.with_extension("copy")).unwrap();
                std::fs::hard_link(path, path.with_extension("link")).unwrap();
                std::fs::rename(path.with_extension("copy"), path).unwrap();
            },
            "another file",
        ),
    ];
    for (change, expected) in changes {
        let dir = tempfile::tempdir().unwrap();
        let mut open = direct(dir.path(), Box::new(|file| Box::new(file)));
        open.commit(&[draft(&open, call(1))]).unwrap();
        open.watch().unwrap();
        assert_eq!(segments(dir.path()).len(), 1);
        change(&segments(dir.path())[0]);
        open.watch().unwrap();
        let newest = std::fs::read_to_string(segments(dir.path()).last().unwrap()).unwrap();
        let records: Vec<serde_json::Value> = newest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 2);
        assert_eq!(details(&records[0])["reason"], "tampering");
        assert_eq!(records[1]["eventName"], "AuditTampering");
        assert!(details(&records[1])["what"].as_str().unwrap().contains(expected), "{}", records[1]);
        // Said once.
        open.watch().unwrap();
        assert_eq!(open.commit(&[draft(&open, call(2))]).unwrap(), 4);
    }
}

// --- The verifier ---

/// Two segments, ended cleanly, with an intent and its outcome.
fn small_journal() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, [call(0), event(EventType::HsmBridgeIntent, "CreateKey", "i")]);
    runtime().block_on(journal.rotate()).unwrap();
    append(&journal, [event(EventType::AwsApiCall, "CreateKey", "i"), call(1)]);
    drop(journal);
    assert_ok(dir.path());
    dir
}

#[test]
fn every_flipped_bit_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    let short = || {
        let mut event = call(0);
        (event.user_agent, event.request_parameters) = (None, None);
        event.resources.clear();
        event
    };
    append(&journal, [short()]);
    runtime().block_on(journal.rotate()).unwrap();
    append(&journal, [short()]);
    drop(journal);
    assert_ok(dir.path());
    let mut flips = 0;
    for path in segments(dir.path()) {
        let good = std::fs::read(&path).unwrap();
        for (index, bit) in (0..good.len()).flat_map(|index| (0..8).map(move |bit| (index, bit))) {
            // The last newline leaves a torn tail, for which the verifier waits: once is enough.
            if index + 1 == good.len() && bit > 0 {
                continue;
            }
            let mut bad = good.clone();
            bad[index] ^= 1 << bit;
            std::fs::write(&path, &bad).unwrap();
            let report = verify(dir.path());
            assert_ne!(report.verdict, Verdict::Ok, "bit {bit} of byte {index} of {}", path.display());
            flips += 1;
        }
        std::fs::write(&path, &good).unwrap();
    }
    assert!(flips > 30_000);
    assert_ok(dir.path());
}

#[test]
fn findings_say_where() {
    let find = |change: &dyn Fn(&mut Vec<String>)| {
        let dir = small_journal();
        let path = &segments(dir.path())[1];
        let mut lines: Vec<String> = std::fs::read_to_string(path).unwrap().lines().map(str::to_string).collect();
        change(&mut lines);
        std::fs::write(path, lines.join("\n") + "\n").unwrap();
        let report = verify(dir.path());
        assert_eq!(report.exit_code, 1, "{report}");
        let finding = &report.findings[0];
        assert_eq!(finding.file, path.file_name().unwrap().to_str().unwrap());
        (finding.line, finding.seq, finding.what.clone())
    };
    let starts = |(line, seq, what): (u64, Option<u64>, String), expected: (u64, Option<u64>, &str)| {
        assert_eq!((line, seq), (expected.0, expected.1), "{what}");
        assert!(what.contains(expected.2), "{what}");
    };
    starts(find(&|lines| lines[1] = lines[1].replace("CreateKey", "DeleteKey")), (3, Some(6), "one of the two"));
    starts(find(&|lines| drop(lines.remove(1))), (2, Some(6), "record 5 is missing"));
    starts(find(&|lines| lines.insert(2, lines[1].clone())), (3, Some(5), "repeated, or out of order"));
    starts(find(&|lines| lines.swap(1, 2)), (2, Some(6), "record 5 is missing"));
    starts(find(&|lines| lines[2].push('\r')), (3, None, "carriage return"));
    starts(find(&|lines| lines.insert(1, String::new())), (2, None, "empty"));
    starts(find(&|lines| lines[1].insert(1, '\t')), (2, None, "control character 0x09"));
    starts(find(&|lines| lines[1].truncate(50)), (2, None, "not one JSON object"));
    starts(find(&|lines| drop(lines.remove(0))), (1, Some(5), "file's name"));
    starts(find(&|lines| drop(lines.drain(..))), (1, None, "empty"));
    starts(find(&|lines| lines.push(lines[1].clone())), (5, None, "follows `SegmentEnd`"));
}

#[test]
fn whole_files() {
    // The middle one of three is gone.
    let three = || {
        let dir = small_journal();
        drop(open(&settings(dir.path())));
        assert_ok(dir.path());
        dir
    };
    let dir = three();
    std::fs::remove_file(&segments(dir.path())[1]).unwrap();
    let report = verify(dir.path());
    assert_eq!(report.verdict, Verdict::Tampered, "{report}");

    // The first one is gone: not seen, not tampered.
    let dir = three();
    std::fs::remove_file(&segments(dir.path())[0]).unwrap();
    let report = verify(dir.path());
    assert_eq!((report.verdict, report.exit_code), (Verdict::Incomplete, 6), "{report}");
    assert!(report.not_proven.iter().any(|text| text.contains("before 4")), "{report}");

    // The newest one is gone: cannot be seen without anchors, and the report says so.
    let dir = three();
    std::fs::remove_file(&segments(dir.path())[2]).unwrap();
    let report = assert_ok(dir.path());
    assert!(report.to_string().contains("can be cut off at a record's boundary unnoticed"), "{report}");

    // Two segments have swapped names.
    let dir = three();
    let paths = segments(dir.path());
    std::fs::rename(&paths[0], dir.path().join("x")).unwrap();
    std::fs::rename(&paths[1], &paths[0]).unwrap();
    std::fs::rename(dir.path().join("x"), &paths[1]).unwrap();
    assert_eq!(verify(dir.path()).verdict, Verdict::Tampered);

    // An earlier segment lost its SegmentEnd or a piece of its end.
    for cut in [1, 700] {
        let dir = three();
        let path = &segments(dir.path())[0];
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - cut]).unwrap();
        assert_eq!(verify(dir.path()).verdict, Verdict::Tampered);
    }

    // No log at all.
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(verify(empty.path()).exit_code, 6);
    assert_eq!(verify(&empty.path().join("missing")).exit_code, 6);

    // JSON and text carry the verdict.
    let report = verify(three().path());
    assert_eq!(serde_json::to_value(&report).unwrap()["verdict"], "OK");
    assert!(report.to_string().starts_with("OK  "));
}

#[derive(Debug, Clone)]
enum Edit {
    Delete(prop::sample::Index),
    Duplicate(prop::sample::Index, prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Replace(prop::sample::Index, String),
    Truncate(prop::sample::Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        index().prop_map(Edit::Delete),
        (index(), index()).prop_map(|(from, to)| Edit::Duplicate(from, to)),
        (index(), index()).prop_map(|(one, other)| Edit::Swap(one, other)),
        (index(), "\\PC{0,20}").prop_map(|(at, text)| Edit::Replace(at, text)),
        index().prop_map(Edit::Truncate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Any edit of any file is found, but for a cut of the newest one at a record's boundary, of which the report says
    /// that it cannot be.
    #[test]
    fn edits_are_found(edit in edit(), file in any::<prop::sample::Index>()) {
        let dir = small_journal();
        let paths = segments(dir.path());
        let file = file.index(paths.len());
        let good = std::fs::read_to_string(&paths[file]).unwrap();
        let mut lines: Vec<&str> = good.split_inclusive('\n').collect();
        let count = lines.len();
        let bad = match &edit {
            Edit::Delete(at) => {
                lines.remove(at.index(count));
                lines.concat()
            }
            Edit::Duplicate(from, to) => {
                lines.insert(to.index(count + 1), lines[from.index(count)]);
                lines.concat()
            }
            Edit::Swap(one, other) => {
                lines.swap(one.index(count), other.index(count));
                lines.concat()
            }
            Edit::Replace(at, text) => {
                let text = format!("{text}\n");
                lines[at.index(count)] = &text;
                lines.concat()
            }
            Edit::Truncate(at) => good[..at.index(good.len())].to_string(),
        };
        std::fs::write(&paths[file], &bad).unwrap();
        let report = verify(dir.path());
        let newest = file + 1 == paths.len();
        let boundary_cut = newest && !bad.is_empty() && bad.ends_with('\n') && good.starts_with(&bad);
        prop_assert_eq!(report.verdict == Verdict::Ok, boundary_cut || bad == good, "{:?}\n{}", edit, report);
        prop_assert!(report.to_string().contains("can be cut off at a record's boundary unnoticed"));
        if matches!(edit, Edit::Truncate(_)) && newest && !boundary_cut && bad.contains('\n') {
            prop_assert_eq!(report.exit_code, 2);
        }
    }
}

// --- Readers ---

#[test]
fn successes_count_per_resource() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    let arn = |name: &str| format!("arn:aws:kms:eu-central-1:111122223333:key/{name}");
    let on = |event_name: &str, keys: &[&str], error: Option<&str>| {
        let mut event = call(0);
        event.name = event_name.into();
        event.resources = keys
            .iter()
            .map(|key| Resource { account_id: "111122223333".into(), kind: "AWS::KMS::Key", arn: arn(key) })
            .collect();
        event.error_code = error.map(str::to_string);
        event
    };
    let mut intent = on("Encrypt", &["a"], None);
    intent.event_type = EventType::HsmBridgeIntent;
    append(&journal, [on("Encrypt", &["a"], None), on("Encrypt", &["a"], Some("DisabledException")), intent]);
    runtime().block_on(journal.rotate()).unwrap();
    append(
        &journal,
        [
            on("GenerateDataKey", &["a"], None),
            on("ReEncrypt", &["a", "b"], None),
            on("Decrypt", &["b"], None),
            on("Encrypt", &[], None),
        ],
    );
    let counts = scan::successes(dir.path(), &["Encrypt", "GenerateDataKey", "ReEncrypt"]).unwrap();
    assert_eq!(counts, std::collections::HashMap::from([(arn("a"), 2), (arn("b"), 1)]));
}

#[test]
fn uses_are_found_from_any_record_on() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    let named = |name: &str, error: Option<&str>| {
        let mut event = call(0);
        event.name = name.into();
        event.error_code = error.map(str::to_string);
        event
    };
    let mut seqs = append(&journal, [named("Encrypt", None), named("Encrypt", Some("DisabledException"))]);
    runtime().block_on(journal.rotate()).unwrap();
    seqs.extend(append(&journal, [named("Decrypt", None), named("DescribeKey", None)]));
    runtime().block_on(journal.rotate()).unwrap();
    seqs.extend(append(&journal, [named("Encrypt", None)]));
    let found = |after: Option<u64>| {
        let mut found = Vec::new();
        let seen = scan::uses(dir.path(), after, &["Encrypt", "Decrypt"], |u| found.push(u)).unwrap();
        assert_eq!(seen.last_seq, seqs.last().copied());
        // The first record of the log is younger than this test, not than 1970.
        assert!(seen.since.unwrap() > 1_700_000_000_000);
        found
    };
    let all = found(None);
    let of = |uses: &[scan::Use]| uses.iter().map(|u| u.seq).collect::<Vec<_>>();
    assert_eq!(of(&all), [seqs[0], seqs[2], seqs[4]]);
    assert_eq!(all[0].principal, "arn:aws:iam::111122223333:user/payments");
    assert_eq!(all[0].resources, ["arn:aws:kms:eu-central-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11"]);
    assert_eq!(all[0].at % 1000, 0);
    // Whatever the place, nothing after it is missed and nothing before it comes back.
    for after in 0..=seqs[4] {
        assert_eq!(of(&found(Some(after))), of(&all).into_iter().filter(|s| *s > after).collect::<Vec<_>>(), "{after}");
    }
}

#[test]
fn tail_prints_complete_records() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    let mut denied = call(3);
    denied.error_code = Some("AccessDenied\u{1b}[2J".into());
    append(&journal, [call(1), call(2), denied]);
    let tail = |options: tail::Options| {
        let mut out = Vec::new();
        let printed = tail::tail(dir.path(), &options, &|| true, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count() as u64, printed);
        text
    };
    let all = std::fs::read_to_string(&segments(dir.path())[0]).unwrap();
    assert_eq!(tail(tail::Options::default()), all);
    assert_eq!(tail(tail::Options { last: 2, ..Default::default() }).lines().count(), 2);
    assert_eq!(tail(tail::Options { since_seq: Some(2), ..Default::default() }).lines().count(), 2);
    // Half a line is not printed.
    let half = copy(dir.path());
    let path = &segments(half.path())[0];
    std::fs::write(path, &all[..all.len() - 5]).unwrap();
    let mut out = Vec::new();
    assert_eq!(tail::tail(half.path(), &tail::Options::default(), &|| true, &mut out).unwrap(), 3);

    let filter = tail::Filter { errors_only: true, caller: Some("user/payments".into()), ..Default::default() };
    assert_eq!(
        tail(tail::Options { format: tail::Format::Human, filter, ..Default::default() }),
        "2026-03-04T09:20:00Z Encrypt arn:aws:iam::111122223333:user/payments \
         arn:aws:kms:eu-central-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11 AccessDenied\u{fffd}[2J\n"
    );
    let filter = tail::Filter { event: Some("Decrypt".into()), ..Default::default() };
    assert_eq!(tail(tail::Options { filter, ..Default::default() }), "");
}

#[test]
fn tail_names_every_resource() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    let mut event = call(1);
    event.resources = ["alias/app", "key/k"]
        .map(|name| Resource {
            account_id: "111122223333".into(),
            kind: "AWS::KMS::Key",
            arn: format!("arn:aws:kms:eu-central-1:111122223333:{name}"),
        })
        .into();
    append(&journal, [event]);
    let mut out = Vec::new();
    let options = tail::Options { format: tail::Format::Human, ..Default::default() };
    tail::tail(dir.path(), &options, &|| true, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let both = "arn:aws:kms:eu-central-1:111122223333:alias/app,arn:aws:kms:eu-central-1:111122223333:key/k";
    assert!(text.contains(both), "{text}");
}

#[test]
fn tail_follows_over_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, [call(1)]);
    let rounds = std::cell::Cell::new(0);
    // What happens while it waits.
    let stop = || {
        rounds.set(rounds.get() + 1);
        match rounds.get() {
            1 => {
                append(&journal, [call(2)]);
                runtime().block_on(journal.rotate()).unwrap();
                runtime().block_on(journal.rotate()).unwrap();
                append(&journal, [call(3)]);
                false
            }
            2 => {
                append(&journal, [call(4)]);
                false
            }
            round => round > 3,
        }
    };
    let options =
        tail::Options { follow: true, since_seq: Some(0), poll: Duration::from_millis(1), ..Default::default() };
    let mut out = Vec::new();
    tail::tail(dir.path(), &options, &stop, &mut out).unwrap();
    let all: String = segments(dir.path()).iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert_eq!(String::from_utf8(out).unwrap(), all);
}

#[test]
fn verifies_while_the_service_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.segment_bytes = 50_000;
    let (journal, _) = open(&settings);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                append(&journal, [call(number)]);
                number += 1;
            }
        });
        let mut reports = Vec::new();
        for _ in 0..20 {
            reports.push(verify(dir.path()));
        }
        stop.store(true, Ordering::Relaxed);
        for report in reports {
            assert_eq!(report.verdict, Verdict::Ok, "{report}");
        }
    });
}
