use super::*;
use crate::audit::record::tests::settings;
use crate::audit::tests::{append, call, open};

fn all(follower: &mut Follower, durable: u64) -> Vec<u64> {
    std::iter::from_fn(|| follower.next(durable).unwrap()).map(|followed| followed.seq).collect()
}

/// What is durable, once that is `count` records: callers are told a moment before readers.
fn durable(journal: &crate::audit::Journal, count: u64) -> u64 {
    while journal.durable() < count {
        std::thread::yield_now();
    }
    journal.durable()
}

/// Names of the segments, oldest first, with their paths.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let journal = dir.join("journal");
    files::segments(&journal, false).unwrap().into_iter().map(|name| journal.join(name)).collect()
}

#[test]
fn every_line_comes_once_over_segments_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.segment_bytes = 8_000;
    let mut follower = Follower::new(dir.path(), 0);
    let mut seen = Vec::new();
    for run in 0..3 {
        let (journal, _) = open(&settings);
        for number in 0..20 {
            append(&journal, [call(run * 100 + number)]);
            seen.extend(all(&mut follower, journal.durable()));
        }
        journal.close();
    }
    assert!(segments(dir.path()).len() > 6);
    assert_eq!(seen, (0..seen.len() as u64).collect::<Vec<_>>());
    // From the middle, in one go, and byte for byte.
    let last = *seen.last().unwrap();
    let mut whole = Vec::new();
    for path in segments(dir.path()) {
        whole.extend(
            std::fs::read(path).unwrap().split(|byte| *byte == b'\n').filter(|l| !l.is_empty()).map(<[u8]>::to_vec),
        );
    }
    for from in [0, 1, 17, last] {
        let mut follower = Follower::new(dir.path(), from);
        let mut lines = Vec::new();
        while let Some(followed) = follower.next(last + 1).unwrap() {
            assert_eq!(followed.seq, from + lines.len() as u64);
            lines.push(followed.line);
        }
        assert_eq!(lines, whole[from as usize..=last as usize], "from {from}");
    }
}

#[test]
fn what_is_not_durable_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, (0..9).map(call));
    let mut follower = Follower::new(dir.path(), 0);
    assert_eq!(all(&mut follower, 0), [] as [u64; 0]);
    assert_eq!(all(&mut follower, 4), [0, 1, 2, 3]);
    assert_eq!(all(&mut follower, 4), [] as [u64; 0]);
    assert_eq!(all(&mut follower, 5), [4]);
    assert_eq!(follower.position(), 5);
    // Also where the first line that is there has a higher number than was asked for.
    let first = segments(dir.path()).remove(0);
    let renamed = first.with_file_name("00000000000000000007-abcd.jsonl");
    let text = std::fs::read_to_string(&first).unwrap();
    std::fs::remove_file(&first).unwrap();
    std::fs::write(renamed, text.lines().skip(7).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let mut follower = Follower::new(dir.path(), 2);
    assert_eq!(all(&mut follower, 5), [] as [u64; 0]);
    assert_eq!(follower.position(), 2);
    assert_eq!(all(&mut follower, 9), [7, 8]);
}

#[test]
fn half_a_line_waits_for_its_other_half() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, (0..3).map(call));
    journal.close();
    let path = segments(dir.path()).remove(0);
    let whole = std::fs::read(&path).unwrap();
    let lines = whole.iter().filter(|byte| **byte == b'\n').count() as u64;
    for cut in 1..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let mut follower = Follower::new(dir.path(), 0);
        let mut seen = all(&mut follower, lines);
        assert_eq!(seen.len(), whole[..cut].iter().filter(|byte| **byte == b'\n').count(), "{cut} bytes");
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut f| std::io::Write::write_all(&mut f, &whole[cut..]))
            .unwrap();
        seen.extend(all(&mut follower, lines));
        assert_eq!(seen, (0..lines).collect::<Vec<_>>(), "{cut} bytes");
    }
}

#[test]
fn segments_that_were_deleted_are_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.segment_bytes = 4_000;
    let (journal, _) = open(&settings);
    append(&journal, (0..40).map(call));
    let last = append(&journal, [call(40)])[0];
    let durable = durable(&journal, last + 1);
    let mut reader = Follower::new(dir.path(), 0);
    assert_eq!(reader.next(durable).unwrap().unwrap().seq, 0);
    let paths = segments(dir.path());
    let begins = |path: &PathBuf| segment_name(path.file_name().unwrap().to_str().unwrap()).unwrap().0;
    let (second, fourth) = (begins(&paths[1]), begins(&paths[3]));
    for path in &paths[..3] {
        std::fs::remove_file(path).unwrap();
    }
    // What it has open it reads to the end; then comes what is there.
    let seen = all(&mut reader, durable);
    assert_eq!(seen, (1..second).chain(fourth..durable).collect::<Vec<_>>());
    assert_eq!(reader.oldest().unwrap(), Some(fourth));
    assert_eq!(all(&mut Follower::new(dir.path(), 1), durable)[0], fourth);
}

#[test]
fn a_line_that_is_no_record_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, (0..5).map(call));
    let path = segments(dir.path()).remove(0);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("request-2\"", "request-2\u{1}", 1)).unwrap();
    let mut follower = Follower::new(dir.path(), 0);
    let damaged = 3;
    assert_eq!((0..damaged).map(|_| follower.next(6).unwrap().unwrap().seq).collect::<Vec<_>>(), [0, 1, 2]);
    for _ in 0..3 {
        assert_eq!(follower.next(6).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(follower.position(), damaged);
    }
    std::fs::write(&path, text).unwrap();
    assert_eq!(all(&mut follower, 6), [3, 4, 5]);
}

#[test]
fn a_journal_that_is_gone_is_an_error_and_an_empty_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Follower::new(dir.path(), 0).next(1).unwrap_err().kind(), io::ErrorKind::NotFound);
    std::fs::create_dir(dir.path().join("journal")).unwrap();
    assert_eq!(Follower::new(dir.path(), 0).next(1).unwrap(), None);
}

#[test]
fn heartbeats_say_where_the_log_is() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&settings(dir.path()));
    append(&journal, (0..3).map(call));
    let parsed = || -> serde_json::Value {
        serde_json::from_str(&heartbeat(dir.path(), 3, durable(&journal, 4), 1_764_000_000_000)).unwrap()
    };
    let expected = serde_json::json!({"time": "2025-11-24T16:00:00Z", "nextSeq": 3, "durableRecords": 4, "oldestSeq": 0, "lastCheckpoint": null});
    assert_eq!(parsed()["hsmBridgeHeartbeat"], expected);
    let heads = dir.path().join("checkpoints");
    std::fs::create_dir(&heads).unwrap();
    std::fs::write(heads.join("latest"), "hsm-bridge/1/r/t\n4\nAAEC\n\n\u{2014} hsm-bridge/1/r/t AAAA\n").unwrap();
    assert_eq!(parsed()["hsmBridgeHeartbeat"]["lastCheckpoint"], serde_json::json!({"size": 4, "root": "AAEC"}));
}
