use super::*;
use crate::audit::follow::{Followed, Kind};

#[test]
fn where_a_stream_begins() {
    for (query, last, expected) in [
        ("", None, Ok(None)),
        ("fromSeq=0", None, Ok(Some(0))),
        ("a=b&fromSeq=17&c", None, Ok(Some(17))),
        ("fromSeq=17", Some("40"), Ok(Some(41))),
        ("fromSeq=17", Some(""), Ok(Some(17))),
        ("fromSeq=", None, Err("fromSeq is no number of a record")),
        ("fromSeq=-1", None, Err("fromSeq is no number of a record")),
        ("fromSeq=+1", None, Err("fromSeq is no number of a record")),
        ("fromSeq=18446744073709551616", None, Err("fromSeq is no number of a record")),
        ("fromSeq=1&fromSeq=2", None, Err("fromSeq stands more than once")),
        ("", Some("x"), Err("Last-Event-ID is no number of a record")),
        ("", Some("18446744073709551615"), Ok(Some(u64::MAX))),
    ] {
        assert_eq!(position(query, last), expected.map_err(str::to_owned), "{query} {last:?}");
    }
}

#[test]
fn lines_for_those_who_ask() {
    for (accept, lines) in [
        ("", false),
        ("*/*", false),
        ("text/event-stream", false),
        ("application/x-ndjson", true),
        ("Application/X-NDJSON; q=1", true),
        ("text/html, application/x-ndjson, */*", true),
        ("text/event-stream, application/x-ndjson", false),
    ] {
        assert_eq!(wants_lines(accept), lines, "{accept}");
    }
}

#[test]
fn events() {
    let mut piece = Vec::new();
    for (seq, kind) in [(7, Kind::Record), (8, Kind::Checkpoint), (9, Kind::Intent)] {
        source::write(&mut piece, &Followed { seq, kind, line: b"{}".to_vec() }, false);
    }
    source::write(&mut piece, &Followed { seq: 10, kind: Kind::Record, line: b"{\"a\":1}".to_vec() }, true);
    let expected = "id: 7\nevent: record\ndata: {}\n\nid: 8\nevent: checkpoint\ndata: {}\n\nid: 9\nevent: record\ndata: {}\n\n{\"a\":1}\n";
    assert_eq!(String::from_utf8(piece).unwrap(), expected);
}

#[test]
fn places_are_limited_and_come_back() {
    let streams = Streams::new();
    let name = |number: usize| -> Arc<str> { format!("principal {number}").into() };
    let own: Vec<_> = (0..MOST_OF_ONE).map(|_| streams.take(name(0)).unwrap()).collect();
    assert!(streams.take(name(0)).is_none());
    let others: Vec<_> = (MOST_OF_ONE..MOST).map(|at| streams.take(name(1 + at / 4)).unwrap()).collect();
    assert!(streams.take(name(99)).is_none(), "32 in all");
    drop(own);
    assert_eq!(streams.open(), MOST - MOST_OF_ONE);
    assert!(streams.take(name(0)).is_some());
    drop(others);
    assert_eq!(streams.open(), 0);
    assert!(streams.0.lock().unwrap().is_empty());
}
