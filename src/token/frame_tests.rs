use proptest::prelude::*;

use super::*;
use crate::secret::SecretBytes;
use crate::token::{ErrorClass, Facts, GcmOutput, KeyRef};

fn calls() -> Vec<ToWorker> {
    let material = MaterialId { id: [7; 16], generation: 3 };
    let key = KeyRef::Kms { material, fingerprint: Arc::from([1, 2, 3]) };
    let request = Request::Encrypt { key, aad: vec![5; 9], plaintext: SecretBytes::new(vec![9; 40]) };
    vec![
        ToWorker::Load { module: "/m.so".into() },
        ToWorker::Ask { id: 1, question: Question::Slots { module: "/m.so".into() } },
        ToWorker::Call { id: 3, generation: 2, micros: 7, request_id: "r".into(), request },
        ToWorker::Login(LoginStep::Try(SecretString::new("canary".into()))),
        ToWorker::Place(vec![(material, vec![1, 2])]),
        ToWorker::GiveUp(material),
        ToWorker::Ping(9),
        ToWorker::Close,
    ]
}

fn answers() -> Vec<FromWorker> {
    let facts = Facts { mechanism: "CKM_AES_GCM", micros: 7, token: Arc::from("serial"), slot: 9 };
    let sealed = Answer::Sealed { output: GcmOutput { iv: vec![1; 12], ciphertext: vec![2; 40] }, facts };
    let error = TokenError::own(ErrorClass::Deadline, "queue", "late");
    let subject = Subject::Material(MaterialId { id: [7; 16], generation: 3 });
    vec![
        FromWorker::Opened { generation: 1, about: Box::default(), workers: 2 },
        FromWorker::OpenFailed { generation: 1, error: error.clone() },
        FromWorker::Told { id: 1, result: Ok(Told::Slots(vec![SlotFacts::default()])) },
        FromWorker::Login(LoginAsk::Verdict(LoginVerdict::Rejected(error.clone()))),
        FromWorker::Answer { id: 3, generation: 2, subject, result: Ok(sealed) },
        FromWorker::Answer { id: 3, generation: 2, subject, result: Ok(Answer::Materials(vec![])) },
        FromWorker::PinChanged { id: 4, result: Err(error) },
        FromWorker::Pong { number: 1, health: None },
    ]
}

fn stream<T: Serialize>(messages: &[T]) -> Vec<u8> {
    messages.iter().flat_map(|message| encode(message, TO_WORKER).unwrap().to_vec()).collect()
}

/// Reads as a socket does: in pieces.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(self.1).min(room.len());
        let (now, later) = self.0.split_at(count);
        room[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

/// All messages until the end or the first fault, and the room that they took.
fn read_all<T: DeserializeOwned + std::fmt::Debug>(bytes: &[u8], piece: usize) -> (Vec<String>, FrameError, usize) {
    let (mut inbox, mut source, mut found) = (Inbox::new(FROM_WORKER), Pieces(bytes, piece), Vec::new());
    loop {
        match inbox.next::<T>(&mut source) {
            Ok(message) => found.push(format!("{message:?}")),
            Err(error) => return (found, error, inbox.buffer.len()),
        }
    }
}

#[test]
fn messages_travel_in_pieces() {
    let expected: Vec<String> = answers().iter().map(|message| format!("{message:?}")).collect();
    for piece in [1, 3, 100_000] {
        let (found, end, _) = read_all::<FromWorker>(&stream(&answers()), piece);
        assert_eq!(found, expected);
        assert!(matches!(end, FrameError::Ended));
        assert_eq!(read_all::<ToWorker>(&stream(&calls()), piece).0.len(), calls().len());
    }
}

#[test]
fn a_header_takes_no_memory() {
    let announced = (FROM_WORKER as u32).to_le_bytes();
    let (_, end, room) = read_all::<FromWorker>(&announced, 4);
    assert!(matches!(end, FrameError::Ended) && room == FIRST_ROOM, "{end} {room}");
    let too_long = (FROM_WORKER as u32 + 1).to_le_bytes();
    assert!(matches!(read_all::<FromWorker>(&too_long, 4).1, FrameError::TooLong(_)));
    assert!(matches!(
        encode(&ToWorker::Login(LoginStep::Try(SecretString::new("x".repeat(99)))), 50),
        Err(FrameError::TooLong(_))
    ));
}

#[test]
fn what_was_read_is_wiped() {
    let secret = [ToWorker::Login(LoginStep::Try(SecretString::new("canary".into())))];
    let (mut inbox, bytes) = (Inbox::new(TO_WORKER), stream(&secret));
    let ToWorker::Login(LoginStep::Try(pin)) = inbox.next(&mut Pieces(&bytes, 1000)).unwrap() else {
        panic!("another message");
    };
    assert_eq!(pin.expose(), "canary");
    assert!(inbox.buffer.iter().all(|byte| *byte == 0));
}

#[test]
fn a_long_frame_comes_through() {
    let long = [FromWorker::Answer {
        id: 1,
        generation: 1,
        subject: Subject::Token,
        result: Ok(Answer::Bytes(vec![7; 300_000])),
    }];
    let frame = encode(&long[0], FROM_WORKER).unwrap();
    assert_eq!(read_all::<FromWorker>(&frame, 5_000).0.len(), 1);
}

proptest! {
    /// The other end may run anybody's code: no panic, and no more memory than twice what came.
    #[test]
    fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..4096), piece in 1usize..200) {
        let (_, _, room) = read_all::<FromWorker>(&bytes, piece);
        prop_assert!(room <= FIRST_ROOM.max(2 * bytes.len()));
        read_all::<ToWorker>(&bytes, piece);
        let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
        framed.extend(&bytes);
        read_all::<FromWorker>(&framed, piece);
        read_all::<ToWorker>(&framed, piece);
    }

    #[test]
    fn nearly_right_frames_may_come(places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut from = stream(&answers());
        let mut to = stream(&calls());
        for (place, value) in places {
            let at = place.index(from.len());
            from[at] = value;
            let at = place.index(to.len());
            to[at] = value;
        }
        read_all::<FromWorker>(&from, 64);
        read_all::<ToWorker>(&to, 64);
    }
}
