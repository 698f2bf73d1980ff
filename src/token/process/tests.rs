//! The service's side against workers that are threads of the test and say what a test wants.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::remote::Remote;
use super::spawn::{Launch, Launched, Process};
use super::{Isolation, WorkerCommand};
use crate::secret::{SecretBytes, SecretString};
use crate::token::call::{About, Answer, Backend, Request};
use crate::token::frame::{FROM_WORKER, FrameError, FromWorker, Inbox, Subject, TO_WORKER, ToWorker, encode};
use crate::token::{
    CallContext, ErrorClass, Facts, KeyRef, MaterialId, OpenFailure, Profile, Retry, Selector, Settings, Status,
    SystemKey, TokenError, TokenInfo,
};

const LIMIT: Duration = Duration::from_secs(30);

struct Threads(Mutex<mpsc::Sender<UnixStream>>);

impl Launch for Threads {
    fn launch(&self) -> Result<Launched, TokenError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.0.lock().unwrap().send(theirs).unwrap();
        Ok(Launched { socket: ours, process: Process(None) })
    }
}

/// What a worker hears and says.
struct Worker {
    socket: UnixStream,
    inbox: Inbox,
    generation: u64,
}

struct Stage {
    workers: mpsc::Receiver<UnixStream>,
}

impl Stage {
    /// The next worker that is asked to connect, and with what. A spare has not been asked; one that nobody plays was ended.
    fn asked(&self) -> (Worker, Settings) {
        loop {
            let socket = self.workers.recv_timeout(LIMIT).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            let mut worker = Worker { socket, inbox: Inbox::new(TO_WORKER), generation: 0 };
            match worker.next() {
                Ok(ToWorker::Open { generation, settings, .. }) => {
                    worker.generation = generation;
                    return (worker, *settings);
                }
                Ok(other) => panic!("Open is to come, and not {other:?}"),
                Err(_) => {}
            }
        }
    }

    fn connected(&self) -> Worker {
        let (mut worker, _) = self.asked();
        worker.connect("s1");
        worker
    }
}

impl Worker {
    fn next(&mut self) -> Result<ToWorker, FrameError> {
        let limit = Instant::now() + LIMIT;
        loop {
            assert!(Instant::now() < limit, "nothing but pings");
            match self.inbox.next(&mut self.socket)? {
                ToWorker::Load { .. } => {}
                ToWorker::Ping(number) => self.say(&FromWorker::Pong { number, health: None }),
                message => return Ok(message),
            }
        }
    }

    fn connect(&mut self, serial: &str) {
        let info = TokenInfo { serial: serial.into(), ..TokenInfo::default() };
        let about = Box::new(About { info, ..About::default() });
        self.say(&FromWorker::Opened { generation: self.generation, about, workers: 1 });
    }

    fn say(&mut self, message: &FromWorker) {
        // One that was ended is not heard.
        let _ = self.socket.write_all(&encode(message, FROM_WORKER).unwrap());
    }

    fn call(&mut self) -> (u64, Request) {
        match self.next() {
            Ok(ToWorker::Call { id, generation, request, .. }) if generation == self.generation => (id, request),
            other => panic!("a call is to come, and not {other:?}"),
        }
    }

    fn answer(&mut self, id: u64, request: &Request, value: &[u8]) {
        let (generation, subject) = (self.generation, Subject::of(request));
        self.say(&FromWorker::Answer { id, generation, subject, result: Ok(secret(value)) });
    }

    fn ends(mut self) {
        while self.next().is_ok() {}
        let mut rest = Vec::new();
        let _ = self.socket.read_to_end(&mut rest);
    }
}

fn secret(value: &[u8]) -> Answer {
    let facts = Facts { mechanism: "CKM_AES_GCM", micros: 1, token: Arc::from("s1"), slot: 0 };
    Answer::Secret { value: SecretBytes::new(value.to_vec()), facts }
}

fn settings() -> Settings {
    Settings {
        module: "/no/module.so".into(),
        selector: Selector::default(),
        expect_serial: None,
        profile: Profile::default(),
        workers: 1,
        queue: 100,
        generate_deadline: LIMIT,
        pin_marks: "/no/marks".into(),
        retry: Retry { first: Duration::from_millis(10), longest: Duration::from_millis(50) },
        hang_grace: LIMIT,
        isolation: Isolation::InProcess,
    }
}

/// A token whose first worker is connected.
fn token() -> (Arc<Remote>, Stage, Worker) {
    let (sender, workers) = mpsc::channel();
    let stage = Stage { workers };
    let opening = std::thread::spawn(move || {
        let launcher = Box::new(Threads(Mutex::new(sender)));
        Remote::open_with(settings(), SecretString::new("1234".into()), launcher, Isolation::InProcess)
    });
    let worker = stage.connected();
    (Arc::new(opening.join().unwrap().unwrap()), stage, worker)
}

fn within(limit: Duration) -> CallContext {
    CallContext { principal: "p".into(), deadline: Instant::now() + limit, request_id: "r".into() }
}

fn mac(number: u8) -> Request {
    let key = KeyRef::Kms { material: MaterialId { id: [number; 16], generation: 0 }, fingerprint: Arc::from([]) };
    Request::Mac { key, hash: crate::token::Hash::Sha256, message: SecretBytes::new(vec![number]) }
}

type Asked = tokio::task::JoinHandle<Result<Answer, TokenError>>;

fn ask(token: &Arc<Remote>, request: Request) -> Asked {
    let token = Arc::clone(token);
    tokio::spawn(async move { token.perform(&within(LIMIT), request).await })
}

async fn value(asked: Asked) -> Vec<u8> {
    match asked.await.unwrap() {
        Ok(Answer::Secret { value, .. }) => value.expose().to_vec(),
        other => panic!("{other:?}"),
    }
}

async fn until_ready(token: &Remote) {
    let limit = Instant::now() + LIMIT;
    while token.status() != Status::Ready {
        assert!(Instant::now() < limit, "{:?}", token.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn class(asked: Asked) -> ErrorClass {
    asked.await.unwrap().unwrap_err().class
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_reach_their_callers() {
    let (token, _stage, mut worker) = token();
    let (one, two) = (ask(&token, mac(1)), ask(&token, mac(2)));
    let calls = [worker.call(), worker.call()];
    for (id, request) in calls.iter().rev() {
        let Request::Mac { message, .. } = request else { panic!("{request:?}") };
        worker.answer(*id, request, message.expose());
    }
    assert_eq!((value(one).await, value(two).await), (vec![1], vec![2]));
    assert_eq!((token.status(), token.about().info.serial.clone()), (Status::Ready, "s1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_match_ends_the_worker() {
    let key = |number| Subject::of(&mac(number));
    type Lie = Box<dyn Fn(&mut Worker, u64)>;
    type Message = Box<dyn Fn(&Worker, u64) -> FromWorker>;
    let say = |message: Message| -> Lie {
        Box::new(move |worker, id| {
            let message = message(worker, id);
            worker.say(&message);
        })
    };
    let answer = |id, generation, subject| FromWorker::Answer { id, generation, subject, result: Ok(secret(b"x")) };
    let lies: Vec<(&str, Lie)> = vec![
        ("another request", say(Box::new(move |w, id| answer(id + 1, w.generation, key(1))))),
        ("another key", say(Box::new(move |w, id| answer(id, w.generation, key(2))))),
        ("a system key", say(Box::new(move |w, id| answer(id, w.generation, Subject::System(SystemKey::Anchor))))),
        ("another generation", say(Box::new(move |w, id| answer(id, w.generation + 1, key(1))))),
        (
            "not asked",
            say(Box::new(|_, id| FromWorker::Told { id, result: Ok(crate::token::frame::Told::Slots(vec![])) })),
        ),
        ("no ping", say(Box::new(|_, _| FromWorker::Pong { number: 999, health: None }))),
        (
            "connected again",
            say(Box::new(|w, _| FromWorker::Opened { generation: w.generation, about: Box::default(), workers: 1 })),
        ),
        ("garbage", Box::new(|worker, _| worker.socket.write_all(&[3, 0, 0, 0, 0xff, 0xff, 0xff]).unwrap())),
        ("too long", Box::new(|worker, _| worker.socket.write_all(&[0xff; 4]).unwrap())),
        (
            "half a frame and the end",
            Box::new(|worker, _| {
                worker.socket.write_all(&[9, 0, 0, 0, 1]).unwrap();
                worker.socket.shutdown(std::net::Shutdown::Both).unwrap();
            }),
        ),
    ];
    let (token, stage, mut worker) = token();
    for (name, lie) in lies {
        let asked = ask(&token, mac(1));
        let (id, _) = worker.call();
        lie(&mut worker, id);
        assert_eq!(class(asked).await, ErrorClass::Context, "{name}");
        worker.ends();
        // The next one serves.
        worker = stage.connected();
        until_ready(&token).await;
        let asked = ask(&token, mac(3));
        let (id, request) = worker.call();
        worker.answer(id, &request, b"well");
        assert_eq!(value(asked).await, b"well", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_an_answer_ends_the_worker_and_not_its_caller() {
    let (token, stage, mut worker) = token();
    let hung = {
        let token = Arc::clone(&token);
        tokio::spawn(async move { token.perform(&within(Duration::from_millis(50)), mac(1)).await })
    };
    assert_eq!(class(hung).await, ErrorClass::Deadline);
    let _ = worker.call();
    worker.ends();
    let mut next = stage.connected();
    until_ready(&token).await;
    let asked = ask(&token, mac(2));
    let (id, request) = next.call();
    next.answer(id, &request, b"well");
    assert_eq!(value(asked).await, b"well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stands_still_is_ended() {
    let (token, _stage, _worker) = token();
    // It reads nothing, and so it answers no ping.
    let down = Instant::now() + LIMIT;
    while token.status() == Status::Ready && Instant::now() < down {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_ne!(token.status(), Status::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_waited_in_a_worker_that_died_is_sent_once_more() {
    let (token, stage, mut worker) = token();
    let slow = ask(&token, Request::Holds { material: MaterialId { id: [9; 16], generation: 0 } });
    let (_, request) = worker.call();
    assert!(matches!(request, Request::Holds { .. }));
    // One session: the first is in it, the second waits.
    let one = ask(&token, mac(1));
    let _ = worker.call();
    let two = ask(&token, mac(2));
    let _ = worker.call();
    drop(worker);
    assert_eq!(class(slow).await, ErrorClass::Context);
    assert_eq!(class(one).await, ErrorClass::Context);
    let mut next = stage.connected();
    let (_, request) = next.call();
    assert_eq!(Subject::of(&request), Subject::of(&mac(2)));
    // It is not sent a third time.
    drop(next);
    assert_eq!(class(two).await, ErrorClass::Context);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_worker_hears_what_the_first_was_told() {
    let (token, stage, mut worker) = token();
    let material = MaterialId { id: [1; 16], generation: 0 };
    token.place(vec![(material, vec![0xab])]);
    assert!(matches!(worker.next(), Ok(ToWorker::Place(_))));
    let listed = ask(&token, Request::List);
    let (id, request) = worker.call();
    let result = Ok(Answer::Listed { epoch: 1, objects: vec![7] });
    let generation = worker.generation;
    worker.say(&FromWorker::Answer { id, generation, subject: Subject::of(&request), result });
    let Ok(Answer::Listed { epoch, .. }) = listed.await.unwrap() else { panic!("a list is to come") };
    drop(worker);
    let (mut next, settings) = stage.asked();
    next.connect("s1");
    assert_eq!(settings.expect_serial.as_deref(), Some("s1"));
    let Ok(ToWorker::Place(places)) = next.next() else { panic!("places are to come") };
    assert_eq!(places, [(material, vec![0xab])]);
    // Handles of the first worker name other objects in the second, whatever its epochs are.
    until_ready(&token).await;
    let slice = ask(&token, Request::ReadSlice { epoch, objects: vec![7] });
    assert!(matches!(slice.await.unwrap(), Ok(Answer::Slice(None))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pin_waits_for_a_person() {
    let (token, stage, worker) = token();
    drop(worker);
    let (mut next, _) = stage.asked();
    let error = TokenError::own(ErrorClass::Operator, "C_Login", "rejected").because(OpenFailure::PinIncorrect);
    let generation = next.generation;
    next.say(&FromWorker::OpenFailed { generation, error });
    next.ends();
    let limit = Instant::now() + LIMIT;
    while !matches!(token.status(), Status::Down(reason) if reason.contains("operator")) {
        assert!(Instant::now() < limit);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(class(ask(&token, mac(1))).await, ErrorClass::Operator);
    let change = {
        let token = Arc::clone(&token);
        tokio::spawn(async move { token.change_pin(SecretString::new("5678".into())).await })
    };
    let _serving = stage.connected();
    change.await.unwrap().unwrap();
    assert_eq!(token.status(), Status::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_token_is_refused() {
    let (token, stage, worker) = token();
    drop(worker);
    let (mut next, _) = stage.asked();
    next.connect("s2");
    next.ends();
    assert_eq!(token.about().info.serial, "s1");
    let _serving = stage.connected();
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let command = WorkerCommand { program: "/no/such".into(), arguments: vec![], environment: Default::default() };
    let error = Remote::open(settings(), SecretString::default(), Isolation::Process(command)).err().unwrap();
    assert!(error.detail.contains("`/no/such` does not start"), "{error}");
}
