//! Checkpoints, and what a start does when the log is not what was signed.

use std::sync::atomic::Ordering;

use super::*;
use crate::audit::testing::SoftwareSigner;
use crate::audit::verify::line::Leaf;
use crate::audit::verify::note::{self, Note};
use crate::audit::verify::tree::Frontier;

const ORIGIN: &str = "hsm-bridge/111122223333/eu-central-1/hsm-bridge";

fn checkpoints(journal: &Journal, recovery: &Recovery, signer: &Arc<SoftwareSigner>) -> Checkpoints {
    Checkpoints::new(journal.clone(), signer.clone(), recovery.signed.clone())
}

fn write(checkpoints: &Checkpoints) -> Result<Option<Arc<Checkpoint>>, CheckpointError> {
    runtime().block_on(checkpoints.write())
}

fn kept(dir: &Path) -> Vec<u64> {
    files::checkpoints(dir).unwrap()
}

/// Root of the first `size` lines, from the files, leaf by leaf.
fn root(dir: &Path, size: u64) -> [u8; 32] {
    let mut tree = Frontier::default();
    let text: String = segments(dir).iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    text.lines().take(size as usize).for_each(|line| tree.push(Leaf::of(line.as_bytes()).hash()));
    assert_eq!(tree.size(), size);
    tree.root()
}

/// Three records, signed, then two more, closed. Returns the signed size.
fn signed_log(dir: &Path, signer: &Arc<SoftwareSigner>) -> u64 {
    let (journal, recovery) = open(&settings(dir));
    append(&journal, (0..3).map(call));
    let checkpoint = write(&checkpoints(&journal, &recovery, signer)).unwrap().unwrap();
    append(&journal, (3..5).map(call));
    journal.close();
    checkpoint.size
}

/// What somebody with the disk does: the last `lines` of the newest segment are gone.
fn cut(dir: &Path, lines: usize) {
    let path = segments(dir).pop().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let all: Vec<&str> = text.split_inclusive('\n').collect();
    std::fs::write(&path, all[..all.len() - lines].concat()).unwrap();
}

/// All is well but that these logs introduce no key: the signer here is none of the token's.
fn assert_whole(dir: &Path) {
    let options = verify::Options { accepted_loss: Some("T-17".into()), ..verify::Options::default() };
    let report = verify::directory(dir, &options, &mut |_| {});
    let unknown = |finding: &verify::Finding| finding.what.contains("no key that the log introduced signed it");
    assert!(report.findings.iter().all(unknown), "{report}");
}

fn with_ticket(dir: &Path) -> Settings {
    Settings { accept_loss: Some("T-17".into()), ..settings(dir) }
}

fn refused(settings: Settings) -> String {
    match Journal::open(settings) {
        Err(AuditError::Truncated(what)) => what,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the log was opened"),
    }
}

#[test]
fn segments_note_the_tree_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, (0..5).map(call));
    runtime().block_on(journal.rotate()).unwrap();
    append(&journal, (5..9).map(call));
    assert_eq!(journal.head().tree.root(), root(dir.path(), journal.durable()));
    assert_eq!(journal.head().news, journal.durable());
    drop(journal);
    // The first start without and the second with what the last segment notes.
    for _ in 0..2 {
        let (journal, _) = open(&settings(dir.path()));
        assert_eq!(journal.head().tree.root(), root(dir.path(), journal.durable()));
    }
    let lines = lines(dir.path());
    let starts: Vec<_> = lines.iter().filter(|line| line["eventName"] == "SegmentStart").map(details).collect();
    assert_eq!(starts.len(), 4);
    for start in starts {
        let size = start["treeSize"].as_u64().unwrap();
        let tree = serde_json::from_value::<verify::line::SegmentStart>(start.clone()).unwrap().tree().unwrap();
        assert_eq!((tree.size(), tree.root()), (size, root(dir.path(), size)));
        assert_eq!(Some(size), start["prevSeq"].as_u64().map_or(Some(0), |seq| Some(seq + 1)));
    }
}

#[test]
fn a_log_of_an_older_release_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, (0..3).map(call));
    runtime().block_on(journal.rotate()).unwrap();
    append(&journal, (3..6).map(call));
    drop(journal);
    // The chain again without the tree's members, as 0.1 wrote it.
    let mut prev = String::new();
    for path in segments(dir.path()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut all = String::new();
        for line in text.lines() {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            let data = &mut record["additionalEventData"];
            if !prev.is_empty() {
                data["audit"]["prev"] = prev.clone().into();
            }
            if record["eventName"] == "SegmentStart" {
                let chained = record["additionalEventData"]["audit"]["prev"].clone();
                let start = record["additionalEventData"]["details"].as_object_mut().unwrap();
                start.remove("treeSize").unwrap();
                start.remove("treePeaks").unwrap();
                start["prevHash"] = chained;
            }
            let mut line = record.to_string();
            if record["eventName"] == "SegmentEnd" {
                let (at, id) = verify::line::end_id(&line).unwrap();
                line.replace_range(at..at + id.len(), &id);
            }
            prev = Leaf::of(line.as_bytes()).as_str().to_owned();
            all += &line;
            all += "\n";
        }
        std::fs::write(&path, all).unwrap();
    }
    assert_whole(dir.path());
    let (journal, _) = open(&settings(dir.path()));
    assert_eq!(journal.head().tree.root(), root(dir.path(), journal.durable()));
    assert_eq!(details(lines(dir.path()).last().unwrap())["treeSize"], journal.durable() - 1);
}

#[test]
fn a_checkpoint_is_a_note_that_others_can_verify() {
    let dir = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::new();
    let (journal, recovery) = open(&settings(dir.path()));
    append(&journal, (0..3).map(call));
    let checkpoints = checkpoints(&journal, &recovery, &signer);
    let made = write(&checkpoints).unwrap().unwrap();
    assert_eq!((made.size, made.root), (4, root(dir.path(), 4)));
    let text = std::fs::read_to_string(dir.path().join("checkpoints/00000000000000000004")).unwrap();
    assert_eq!(text, made.note);
    assert_eq!(std::fs::read_to_string(dir.path().join("checkpoints/latest")).unwrap(), text);
    let note = Note::parse(&text).unwrap();
    assert_eq!((note.origin.as_str(), note.size, note.root), (ORIGIN, 4, made.root));
    let [signature] = note.signatures.as_slice() else { panic!("{note:?}") };
    assert_eq!((signature.name.as_str(), signature.key_id), (ORIGIN, note::key_id(&made.key.spki)));
    assert!(KeyUse::Checkpoint.verifies(&made.key.spki, note.text.as_bytes(), &signature.signature));

    // The log has it too, and a checkpoint alone is no reason for the next.
    let line = &lines(dir.path())[4];
    assert_eq!((&line["eventName"], &line["eventType"]), (&"Checkpoint".into(), &"HsmBridgeSystem".into()));
    assert_eq!(details(line)["size"], 4);
    assert_eq!(details(line)["root"], hex::encode(made.root));
    assert_eq!(details(line)["note"], text);
    assert!(write(&checkpoints).unwrap().is_none());
    runtime().block_on(journal.rotate()).unwrap();
    assert!(write(&checkpoints).unwrap().is_none());
    append(&journal, [call(3)]);
    let next = write(&checkpoints).unwrap().unwrap();
    assert_eq!((next.size, next.root), (8, root(dir.path(), 8)));
    assert_eq!(checkpoints.last().unwrap().size, 8);
    assert_eq!(kept(dir.path()), [8, 4]);
    drop(checkpoints);
    drop(journal);
    assert_whole(dir.path());

    // The next run begins with what was signed last.
    let (journal, recovery) = open(&settings(dir.path()));
    assert_eq!(recovery.signed.as_ref().unwrap().size(), 8);
    assert_eq!(recovery.signed.as_ref().unwrap().root(), next.root);
    append(&journal, [call(4)]);
    write(&super::checkpoints::checkpoints(&journal, &recovery, &signer)).unwrap().unwrap();
}

#[test]
fn a_signer_that_is_away_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::new();
    let (journal, recovery) = open(&settings(dir.path()));
    append(&journal, [call(0)]);
    let checkpoints = checkpoints(&journal, &recovery, &signer);
    signer.away.store(true, Ordering::Relaxed);
    for failures in 1..3 {
        assert!(matches!(write(&checkpoints), Err(CheckpointError::Sign(_))));
        assert_eq!(checkpoints.failures(), failures);
    }
    assert!(kept(dir.path()).is_empty());
    // Requests go on.
    assert_eq!(append(&journal, [call(1)]), [2]);
    signer.away.store(false, Ordering::Relaxed);
    assert_eq!(write(&checkpoints).unwrap().unwrap().size, 3);
}

#[test]
fn a_key_covers_the_record_of_its_successor() {
    let dir = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::new();
    let (journal, recovery) = open(&settings(dir.path()));
    let checkpoints = Arc::new(checkpoints(&journal, &recovery, &signer));
    let cover = |key_use, seq| runtime().block_on(checkpoints.coverer().cover(key_use, seq));
    let old = signer.current(KeyUse::Checkpoint);
    let [seq] = append(&journal, [call(0)])[..] else { panic!() };
    cover(KeyUse::Digest, seq).unwrap();
    assert_eq!(checkpoints.covered(), 0);
    cover(KeyUse::Checkpoint, seq).unwrap();
    assert_eq!((checkpoints.covered(), &checkpoints.last().unwrap().key), (seq + 1, &old));
    // Covered already: nothing is signed for it again.
    cover(KeyUse::Checkpoint, seq).unwrap();
    assert_eq!(signer.asked.load(Ordering::Relaxed), 1);
    signer.rotate(KeyUse::Checkpoint, 2_000);
    append(&journal, [call(1)]);
    let made = write(&checkpoints).unwrap().unwrap();
    assert_eq!(made.key, signer.current(KeyUse::Checkpoint));
    let note = Note::parse(&made.note).unwrap();
    assert_eq!(note.signatures[0].key_id, note::key_id(&made.key.spki));
    assert_ne!(made.key.spki, old.spki);
    // The keeper of the keys does not keep the journal open.
    let coverer = checkpoints.coverer();
    drop(checkpoints);
    assert!(runtime().block_on(coverer.cover(KeyUse::Checkpoint, 9)).is_err());
}

#[test]
fn a_checkpoint_that_could_not_be_kept_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::new();
    let (journal, recovery) = open(&settings(dir.path()));
    append(&journal, [call(0)]);
    let checkpoints = checkpoints(&journal, &recovery, &signer);
    std::fs::write(dir.path().join("checkpoints"), "in the way").unwrap();
    assert!(matches!(write(&checkpoints), Err(CheckpointError::Keep(_))));
    std::fs::remove_file(dir.path().join("checkpoints")).unwrap();
    assert_eq!(write(&checkpoints).unwrap().unwrap().size, 2);
}

#[test]
fn files_that_somebody_changed_are_not_signed() {
    let changes: [fn(&Path); 2] = [
        |path| {
            let text = std::fs::read_to_string(path).unwrap();
            // In place: the writer's file stays the same one.
            std::fs::write(path, text.replace("request-1", "request-7")).unwrap();
        },
        |path| File::options().write(true).open(path).unwrap().set_len(700).unwrap(),
    ];
    for change in changes {
        let dir = tempfile::tempdir().unwrap();
        let signer = SoftwareSigner::new();
        let (journal, recovery) = open(&settings(dir.path()));
        append(&journal, [call(0), call(1)]);
        let checkpoints = checkpoints(&journal, &recovery, &signer);
        change(&segments(dir.path())[0]);
        assert!(matches!(write(&checkpoints), Err(CheckpointError::Inconsistent(_))));
        assert!(matches!(write(&checkpoints), Err(CheckpointError::Inconsistent(_))));
        assert_eq!(signer.asked.load(Ordering::Relaxed), 0);
        assert!(kept(dir.path()).is_empty());
        let text: String = segments(dir.path()).iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        assert_eq!(text.matches("\"AuditTampering\"").count() - text.matches("\"reason\":\"tampering\"").count(), 1);
    }
}

// --- What a start compares ---

#[test]
fn a_log_shorter_than_its_checkpoint_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::new();
    let size = signed_log(dir.path(), &signer);
    assert_eq!(size, 4);
    // Down to the signed size nothing can be said; below it, it can.
    cut(dir.path(), 4);
    let whole = std::fs::read(segments(dir.path()).pop().unwrap()).unwrap();
    drop(open(&settings(copy_all(dir.path()).path())));
    cut(dir.path(), 2);
    let short = std::fs::read(segments(dir.path()).pop().unwrap()).unwrap();
    assert!(short.len() < whole.len());
    let what = refused(settings(dir.path()));
    assert!(what.contains("4 records were signed") && what.contains("2 are here: 2 are missing"), "{what}");
    assert!(what.contains("checkpoints/00000000000000000004") && what.contains("--accept-loss TICKET"), "{what}");
    assert_eq!(segments(dir.path()).len(), 1);
    assert_eq!(std::fs::read(&segments(dir.path())[0]).unwrap(), short);

    // The files come back: all is well.
    std::fs::write(&segments(dir.path())[0], &whole).unwrap();
    drop(open(&settings(dir.path())));
    assert_whole(dir.path());
}

/// Journal and checkpoints.
fn copy_all(dir: &Path) -> tempfile::TempDir {
    let to = copy(dir);
    std::fs::create_dir(to.path().join("checkpoints")).unwrap();
    for size in kept(dir) {
        std::fs::copy(files::checkpoint_path(dir, size), files::checkpoint_path(to.path(), size)).unwrap();
    }
    to
}

#[test]
fn other_records_than_those_signed_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::new();
    signed_log(dir.path(), &signer);
    // A whole new chain of the same trail, longer than the signed one.
    std::fs::remove_dir_all(dir.path().join("journal")).unwrap();
    let other = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(other.path()));
    append(&journal, (0..8).map(call));
    drop(journal);
    std::fs::rename(other.path().join("journal"), dir.path().join("journal")).unwrap();
    assert_whole(dir.path());
    let what = refused(settings(dir.path()));
    assert!(what.contains("the first 4 records are not those that were signed"), "{what}");
    // And none at all.
    std::fs::remove_dir_all(dir.path().join("journal")).unwrap();
    let what = refused(settings(dir.path()));
    assert!(what.contains("0 are here: 4 are missing"), "{what}");
    assert!(segments(dir.path()).is_empty());
}

#[test]
fn a_loss_is_accepted_with_a_ticket_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::new();
    signed_log(dir.path(), &signer);
    let signed_root = hex::encode(root(dir.path(), 4));
    cut(dir.path(), 6);
    let (journal, recovery) = Journal::open(with_ticket(dir.path())).unwrap();
    assert!(recovery.signed.is_none());
    let lines_now = lines(dir.path());
    assert_eq!(names(dir.path())[2..], ["SegmentStart", "AcceptedLoss"]);
    let expected = serde_json::json!({"ticket": "T-17", "signedSize": 4, "signedRoot": signed_root, "remaining": 2});
    assert_eq!(*details(&lines_now[3]), expected);
    // The checkpoint is to be seen, and not in the way.
    assert!(kept(dir.path()).is_empty());
    let aside: Vec<_> = std::fs::read_dir(dir.path().join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("00000000000000000004.lost-"))
        .collect();
    assert_eq!(aside.len(), 1);
    // The token may hold the same head: it is given up with it.
    let head = verify::line::unhex(&signed_root).unwrap();
    runtime().block_on(journal.compare_head("the token", 4, head)).unwrap();
    assert_eq!(segments(dir.path()).len(), 2);
    // Later checkpoints follow the new tree.
    append(&journal, (5..7).map(call));
    let made = write(&checkpoints(&journal, &recovery, &signer)).unwrap().unwrap();
    assert_eq!((made.size, made.root), (6, root(dir.path(), 6)));
    drop(journal);
    assert_whole(dir.path());
    // The ticket is not needed again, and does nothing where nothing is lost.
    drop(open(&settings(dir.path())));
    drop(Journal::open(with_ticket(dir.path())).unwrap());
    assert_eq!(names(dir.path()).iter().filter(|name| *name == "AcceptedLoss").count(), 1);
}

#[test]
fn an_older_checkpoint_that_fits_is_what_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::new();
    signed_log(dir.path(), &signer);
    let (journal, recovery) = open(&settings(dir.path()));
    append(&journal, [call(7)]);
    let newer = write(&checkpoints(&journal, &recovery, &signer)).unwrap().unwrap();
    drop(journal);
    std::fs::remove_file(segments(dir.path()).pop().unwrap()).unwrap();
    assert!(refused(settings(dir.path())).contains(&format!("{} records were signed", newer.size)));
    let (_journal, recovery) = Journal::open(with_ticket(dir.path())).unwrap();
    assert_eq!(recovery.signed.unwrap().size(), 4);
    assert_eq!(kept(dir.path()), [4]);
}

#[test]
fn a_damaged_checkpoint_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::new();
    let size = signed_log(dir.path(), &signer);
    let path = files::checkpoint_path(dir.path(), size);
    let good = std::fs::read_to_string(&path).unwrap();
    for bad in [good.replacen("\n4\n", "\n3\n", 1), good.replacen("hsm-bridge/1", "hsm-bridge/2", 1), "x".into()] {
        std::fs::write(&path, bad).unwrap();
        match Journal::open(settings(dir.path())) {
            Err(AuditError::Corrupt(what)) => assert!(what.contains("00000000000000000004"), "{what}"),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
}

#[test]
fn a_head_kept_elsewhere_is_compared() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, (0..3).map(call));
    let (size, good) = (4, root(dir.path(), 4));
    let compare = |journal: &Journal, size, root| runtime().block_on(journal.compare_head("the token", size, root));
    compare(&journal, size, good).unwrap();
    compare(&journal, 0, Frontier::default().root()).unwrap();
    for (size, root, expected) in
        [(size, [7; 32], "not those"), (9, good, "9 records were signed, as the token says, and 4")]
    {
        match compare(&journal, size, root) {
            Err(AuditError::Truncated(what)) => assert!(what.contains(expected), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    drop(journal);
    let (journal, _) = Journal::open(with_ticket(dir.path())).unwrap();
    compare(&journal, size, good).unwrap();
    compare(&journal, 9, [7; 32]).unwrap();
    compare(&journal, 9, [7; 32]).unwrap();
    assert_eq!(names(dir.path())[6..], ["SegmentEnd", "SegmentStart", "AcceptedLoss"]);
    assert_eq!(details(lines(dir.path()).last().unwrap())["signedSize"], 9);
    drop(journal);
    assert_whole(dir.path());
}
