//! Members over tokens that do as they are told: no PKCS#11 anywhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::secret::SecretBytes;
use crate::token::{
    Capabilities, DataName, Evidence, Facts, GcmOutput, Generated, KeyKind, KeyRef, SystemKey, TokenInfo,
};

/// A token whose keys are a number each.
struct Fake {
    serial: &'static str,
    keys: Mutex<BTreeMap<MaterialId, u8>>,
    system: Mutex<Option<u8>>,
    data: Mutex<Vec<Vec<u8>>>,
    mode: Mutex<Mode>,
    uses: AtomicUsize,
    /// Refused ones.
    logins: AtomicUsize,
    iv_len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Well,
    /// Fails, and knows it.
    Down,
    /// Fails with this class and calls itself ready.
    Fails(ErrorClass),
    /// Never answers before the deadline.
    Hangs,
}

impl Fake {
    fn new(serial: &'static str) -> Arc<Fake> {
        Self::with(serial, Some(7), 12)
    }

    fn with(serial: &'static str, system: Option<u8>, iv_len: usize) -> Arc<Fake> {
        Arc::new(Fake {
            serial,
            keys: Mutex::default(),
            system: Mutex::new(system),
            data: Mutex::default(),
            mode: Mutex::new(Mode::Well),
            uses: AtomicUsize::new(0),
            logins: AtomicUsize::new(0),
            iv_len,
        })
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn put(&self, key: u8, value: u8) {
        self.keys.lock().unwrap().insert(material(key), value);
    }

    fn has(&self, key: u8) -> bool {
        self.keys.lock().unwrap().contains_key(&material(key))
    }

    fn uses(&self) -> usize {
        self.uses.swap(0, Ordering::Relaxed)
    }

    fn facts(&self) -> Facts {
        Facts { mechanism: "fake", micros: 1, token: Arc::from(self.serial), slot: 1 }
    }

    fn value(&self, key: &KeyRef) -> Result<u8, TokenError> {
        let missing = || TokenError::own(ErrorClass::KeyMissing, "fake", "not there");
        match key {
            KeyRef::System(SystemKey::Attest) => Err(missing()),
            KeyRef::System(_) => self.system.lock().unwrap().ok_or_else(missing),
            KeyRef::Kms { material, fingerprint } => {
                let value = *self.keys.lock().unwrap().get(material).ok_or_else(missing)?;
                match **fingerprint == [value] {
                    true => Ok(value),
                    false => Err(TokenError::own(ErrorClass::WrongKey, "fake", "another key")),
                }
            }
        }
    }

    async fn answer(&self, ctx: &CallContext, request: Request) -> Result<Answer, TokenError> {
        if !matches!(request, Request::Check { .. } | Request::Holds { .. } | Request::Materials) {
            self.uses.fetch_add(1, Ordering::Relaxed);
        }
        let mode = *self.mode.lock().unwrap();
        match mode {
            Mode::Well => {}
            Mode::Down => return Err(TokenError::own(ErrorClass::Context, "fake", "down")),
            Mode::Fails(class) => return Err(TokenError::own(class, "fake", "told to fail")),
            Mode::Hangs => {
                tokio::time::sleep_until(ctx.deadline.into()).await;
                return Err(TokenError::own(ErrorClass::Deadline, "fake", "late"));
            }
        }
        let facts = self.facts();
        Ok(match request {
            Request::Encrypt { key, plaintext, .. } => {
                let mut ciphertext = vec![self.value(&key)?];
                ciphertext.extend(plaintext.expose());
                Answer::Sealed { output: GcmOutput { iv: vec![0; self.iv_len], ciphertext }, facts }
            }
            Request::Decrypt { key, ciphertext, .. } => match ciphertext.split_first() {
                Some((sealed_by, rest)) if *sealed_by == self.value(&key)? => {
                    Answer::Secret { value: SecretBytes::new(rest.to_vec()), facts }
                }
                _ => return Err(TokenError::own(ErrorClass::Data, "fake", "does not open")),
            },
            Request::Random { len } => Answer::Secret { value: SecretBytes::new(vec![5; len]), facts },
            Request::Check { key } => {
                self.value(&key)?;
                Answer::Checked { facts }
            }
            Request::Generate { material, .. } => {
                self.keys.lock().unwrap().insert(material, 42);
                let evidence = Evidence {
                    token_serial: self.serial.into(),
                    sensitive: true,
                    extractable: false,
                    always_sensitive: true,
                    never_extractable: true,
                    local: true,
                };
                let object_id = material.cka_id();
                let value = Generated { fingerprint: vec![42], spki: None, evidence, object_id };
                Answer::Generated { value, facts }
            }
            Request::Destroy { material } => {
                let count = usize::from(self.keys.lock().unwrap().remove(&material).is_some());
                Answer::Destroyed { count, facts }
            }
            Request::Holds { material } => Answer::Flag(self.keys.lock().unwrap().contains_key(&material)),
            Request::Materials => {
                Answer::Materials(self.keys.lock().unwrap().keys().map(|material| (*material, 1)).collect())
            }
            Request::EnsureSystemKey { .. } => {
                let mut system = self.system.lock().unwrap();
                let made = system.is_none();
                system.get_or_insert(9);
                Answer::Flag(made)
            }
            Request::WriteData { value, .. } => {
                *self.data.lock().unwrap() = vec![value];
                Answer::Nothing
            }
            Request::ReadData { .. } => Answer::Data(self.data.lock().unwrap().clone()),
            Request::List => Answer::Listed { epoch: 3, objects: vec![1, 2] },
            Request::ReadSlice { epoch, .. } => {
                assert_eq!(epoch, 3, "the epoch is the member's own");
                Answer::Slice(Some(Vec::new()))
            }
            other => panic!("not asked for: {}", other.name()),
        })
    }
}

struct Handle(Arc<Fake>);

impl Backend for Handle {
    fn perform<'a>(&'a self, ctx: &'a CallContext, request: Request) -> BoxFuture<'a, Result<Answer, TokenError>> {
        Box::pin(self.0.answer(ctx, request))
    }
    fn change_pin(&self, _: SecretString) -> BoxFuture<'_, Result<(), TokenError>> {
        Box::pin(async { Ok(()) })
    }
    fn about(&self) -> Arc<About> {
        Arc::new(About {
            info: TokenInfo { serial: self.0.serial.into(), ..TokenInfo::default() },
            capabilities: Arc::new(Capabilities { aes_gcm: true, ..Capabilities::default() }),
            iv_len: self.0.iv_len,
            system_labels: Default::default(),
            module: PathBuf::new(),
            ..About::default()
        })
    }
    fn status(&self) -> Status {
        match *self.0.mode.lock().unwrap() {
            Mode::Down => Status::Down("the token does not answer".into()),
            _ => Status::Ready,
        }
    }
    fn gauges(&self) -> Gauges {
        Gauges { workers: 2, errors: vec![("data", 1)], ..Gauges::default() }
    }
    fn changes(&self) -> Vec<Change> {
        Vec::new()
    }
    fn doom(&self) -> Option<String> {
        None
    }
    fn group(&self) -> Option<&dyn TokenGroup> {
        None
    }
    fn place(&self, _: Vec<(MaterialId, Vec<u8>)>) {}
    fn give_up(&self, _: MaterialId) {}
    fn close(&self) {}
}

fn material(key: u8) -> MaterialId {
    MaterialId { id: [key; 16], generation: 0 }
}

fn key(key: u8, value: u8) -> KeyRef {
    KeyRef::Kms { material: material(key), fingerprint: Arc::from([value]) }
}

fn call(patience: Duration) -> CallContext {
    CallContext { principal: "a".into(), deadline: Instant::now() + patience, request_id: "r".into() }
}

const LONG: Duration = Duration::from_secs(60);

fn together(reads: Reads, require: usize) -> Together {
    let ms = Duration::from_millis;
    Together {
        reads,
        require,
        generate_deadline: ms(1000),
        pace: Pace {
            look: ms(2),
            again: (ms(2), ms(10)),
            replication: (ms(2), ms(10)),
            verify: ms(5000),
            start: ms(5000),
        },
    }
}

async fn group(settings: Together, fakes: &[&Arc<Fake>]) -> (Token, Members) {
    let members = Members::open(settings, doors(fakes)).await.unwrap();
    (Token::of(members.clone()), members)
}

/// The PIN of each is `right`, where it is asked for one.
struct FakeDoor(Arc<Fake>);

impl Door for FakeDoor {
    fn open(&self, pin: Option<SecretString>) -> Result<Token, TokenError> {
        let mode = *self.0.mode.lock().unwrap();
        if pin.is_some_and(|pin| pin.expose() != "right") || mode == Mode::Fails(ErrorClass::Operator) {
            self.0.logins.fetch_add(1, Ordering::Relaxed);
            let mut refused = TokenError::own(ErrorClass::Operator, "C_Login", "wrong");
            refused.rv = 0xA0;
            return Err(refused.because(OpenFailure::PinIncorrect));
        }
        match mode {
            Mode::Well => Ok(Token::of(Handle(Arc::clone(&self.0)))),
            Mode::Fails(class) => Err(TokenError::own(class, "fake", "told to fail")),
            _ => Err(TokenError::own(ErrorClass::Context, "fake", "away")),
        }
    }

    fn look(&self) -> Result<Looked, TokenError> {
        let info = TokenInfo { serial: self.0.serial.into(), ..TokenInfo::default() };
        Ok(Looked { info, initialized: true, pin_initialized: true })
    }
}

fn doors(fakes: &[&Arc<Fake>]) -> Vec<(String, Arc<dyn Door>)> {
    let door = |fake: &&Arc<Fake>| Arc::new(FakeDoor(Arc::clone(fake))) as Arc<dyn Door>;
    fakes.iter().map(door).enumerate().map(|(place, door)| (["a", "b", "c"][place].to_owned(), door)).collect()
}

async fn until(what: &str, check: impl Fn() -> bool) {
    let limit = Instant::now() + LONG;
    while !check() {
        assert!(Instant::now() < limit, "not within {LONG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn seal(token: &Token, used: &KeyRef) -> Result<String, TokenError> {
    let done = token.encrypt(&call(LONG), used, Vec::new(), SecretBytes::new(vec![1])).await?;
    Ok(done.facts.token.to_string())
}

fn down(members: &Members) -> Vec<Option<String>> {
    members.members().into_iter().map(|member| member.down).collect()
}

#[tokio::test]
async fn reads_are_preferred_or_spread() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    a.put(1, 11);
    b.put(1, 11);
    let (token, _keep) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    for _ in 0..4 {
        assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "A");
    }
    let (token, _keep) = group(together(Reads::Spread, 1), &[&a, &b]).await;
    let mut by = BTreeMap::new();
    for _ in 0..10 {
        *by.entry(seal(&token, &key(1, 11)).await.unwrap()).or_insert(0) += 1;
    }
    assert!(by["A"] >= 3 && by["B"] >= 3, "{by:?}");
}

#[tokio::test]
async fn a_member_that_fails_leaves_and_comes_back() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    a.put(1, 11);
    b.put(1, 11);
    let (token, members) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    a.set(Mode::Down);
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "B");
    assert_eq!(token.status(), Status::Ready, "one is enough");
    assert_eq!(down(&members)[0].as_deref(), Some("the token does not answer"));
    b.set(Mode::Down);
    let error = seal(&token, &key(1, 11)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Context);
    let Status::Down(why) = token.status() else { panic!("nobody is there") };
    assert!(why.contains("`a`") && why.contains("`b`"), "{why}");
    a.set(Mode::Well);
    until("a comes back", || token.status() == Status::Ready).await;
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "A");
}

#[tokio::test]
async fn a_call_is_repeated_elsewhere_unless_its_input_is_bad() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    a.put(1, 11);
    b.put(1, 11);
    let (token, members) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    a.uses();
    b.uses();
    let error = token.decrypt(&call(LONG), &key(1, 11), vec![0; 12], Vec::new(), vec![99]).await.unwrap_err();
    assert_eq!((error.class, a.uses(), b.uses()), (ErrorClass::Data, 1, 0));
    for class in [ErrorClass::Context, ErrorClass::Session, ErrorClass::Capacity, ErrorClass::Operator] {
        a.set(Mode::Fails(class));
        assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "B", "{class:?}");
        a.set(Mode::Well);
        assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "A", "one failure alone sends nobody away");
    }
    assert_eq!(members.failovers(), 4);
    for class in [ErrorClass::Unsupported, ErrorClass::Full] {
        a.set(Mode::Fails(class));
        assert_eq!(seal(&token, &key(1, 11)).await.unwrap_err().class, class);
    }
}

#[tokio::test]
async fn failures_in_a_row_send_away_but_never_the_last_one() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    a.put(1, 11);
    b.put(1, 11);
    let (token, members) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    a.set(Mode::Fails(ErrorClass::Context));
    for _ in 0..STRIKES {
        assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "B");
    }
    assert!(down(&members)[0].is_some(), "it went");
    b.set(Mode::Fails(ErrorClass::Context));
    for _ in 0..3 * STRIKES {
        assert_eq!(seal(&token, &key(1, 11)).await.unwrap_err().class, ErrorClass::Context);
    }
    assert_eq!(down(&members)[1], None, "a call that fails everywhere empties no key store");
}

#[tokio::test]
async fn a_member_that_hangs_leaves_time_for_another() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    a.put(1, 11);
    b.put(1, 11);
    let (token, _keep) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    a.set(Mode::Hangs);
    let deadline = Duration::from_millis(400);
    let ctx = call(deadline);
    let done = token.encrypt(&ctx, &key(1, 11), Vec::new(), SecretBytes::new(vec![1])).await.unwrap();
    assert_eq!(&*done.facts.token, "B");
    assert!(Instant::now() < ctx.deadline);
    b.set(Mode::Hangs);
    let ctx = call(deadline);
    let error = token.encrypt(&ctx, &key(1, 11), Vec::new(), SecretBytes::new(vec![1])).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Deadline);
    assert!(Instant::now() < ctx.deadline + deadline, "nobody waits for two deadlines");
}

#[tokio::test]
async fn another_key_under_the_id_takes_that_key_out_on_that_member_alone() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    for (on, value) in [(&a, 66), (&b, 11)] {
        on.put(1, value);
        on.put(2, 22);
    }
    let (token, members) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "B");
    assert_eq!(members.members()[0].wrong, [material(1)]);
    assert_eq!(members.unreplicated(), [material(1)]);
    a.uses();
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "B");
    assert_eq!(a.uses(), 0, "it is not asked for that key again");
    assert_eq!(seal(&token, &key(2, 22)).await.unwrap(), "A", "its other keys are good");
    b.put(1, 66);
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap_err().class, ErrorClass::WrongKey);
    // Put right below us: found by the look at replication.
    a.put(1, 11);
    until("the right key is found", || members.members()[0].wrong.is_empty()).await;
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "A");
}

#[tokio::test]
async fn a_key_on_one_member_only_is_used_there_and_told() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    b.put(1, 11);
    let (token, members) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "B");
    assert_eq!(members.unreplicated(), [material(1)]);
    let replicas = members.replicas(material(1)).unwrap();
    assert_eq!((&*replicas.held_by[0], &*replicas.missing_from[0]), ("b", "a"));
    b.set(Mode::Down);
    // Nobody can say that the key is gone.
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap_err().class, ErrorClass::Context);
    b.set(Mode::Well);
    until("b is back", || down(&members)[1].is_none()).await;
    b.keys.lock().unwrap().clear();
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap_err().class, ErrorClass::KeyMissing, "all are there");
    a.put(1, 11);
    b.put(1, 11);
    until("replicated", || members.unreplicated().is_empty()).await;
}

#[tokio::test]
async fn a_new_key_is_unreplicated_until_the_vendor_has_copied_it() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    let (token, members) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    token.generate(&call(LONG), KeyKind::Aes256, material(1), "l").await.unwrap();
    assert!(a.has(1) && !b.has(1), "the bridge copies nothing");
    assert_eq!(members.unreplicated(), [material(1)]);
    b.put(1, 42);
    until("replicated", || members.unreplicated().is_empty()).await;
}

/// CreateKey of material 1, which waits for another member once `first` has it.
async fn made_on_one(
    token: &Token,
    first: &Arc<Fake>,
) -> tokio::task::JoinHandle<Result<crate::token::Done<Generated>, TokenError>> {
    let token = token.clone();
    let made = tokio::spawn(async move { token.generate(&call(LONG), KeyKind::Aes256, material(1), "l").await });
    until("made on one", || first.has(1)).await;
    made
}

#[tokio::test]
async fn required_members_are_waited_for_or_the_key_is_undone() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    let (token, members) = group(together(Reads::Preferred, 2), &[&a, &b]).await;
    let made = made_on_one(&token, &a).await;
    assert!(!made.is_finished());
    b.put(1, 42);
    made.await.unwrap().unwrap();
    assert!(members.unreplicated().is_empty());

    let error = token.generate(&call(LONG), KeyKind::Aes256, material(2), "l").await.unwrap_err();
    assert!(error.detail.contains("require_members"), "{error}");
    assert!(!a.has(2), "it was undone");
    assert_eq!(token.destroy(&call(LONG), material(2)).await.unwrap().value, 0);

    // Another key under that id is no replica.
    b.put(3, 43);
    token.generate(&call(LONG), KeyKind::Aes256, material(3), "l").await.unwrap_err();

    b.set(Mode::Down);
    let error = token.generate(&call(LONG), KeyKind::Aes256, material(4), "l").await.unwrap_err();
    assert!(error.detail.contains("no key was made") && !a.has(4), "{error}");
    // What was never made is away from a member that is away, too.
    token.destroy(&call(LONG), material(4)).await.unwrap();
}

#[tokio::test]
async fn a_new_key_whose_maker_goes_before_it_was_replicated_is_undone_when_it_is_back() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    let (token, members) = group(together(Reads::Preferred, 2), &[&a, &b]).await;
    let made = made_on_one(&token, &a).await;
    a.set(Mode::Down);
    b.put(1, 42);
    let error = made.await.unwrap().unwrap_err();
    assert!(error.detail.contains("only 1 held"), "{error}");
    assert!(!b.has(1), "it was undone where that can be done");
    let error = token.destroy(&call(LONG), material(1)).await.unwrap_err();
    assert!(error.detail.contains("`a` was away"), "nobody may forget it: {error}");
    a.set(Mode::Well);
    until("a is back", || down(&members)[0].is_none()).await;
    assert_eq!(token.destroy(&call(LONG), material(1)).await.unwrap().value, 1);
    assert!(!a.has(1) && !b.has(1));
}

#[tokio::test]
async fn a_key_is_not_destroyed_while_a_member_is_away() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    a.put(1, 11);
    b.put(1, 11);
    let (token, members) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    b.set(Mode::Down);
    let error = token.destroy(&call(LONG), material(1)).await.unwrap_err();
    assert!(error.detail.contains("`b` was away"), "{error}");
    assert!(!a.has(1), "gone where that can be done");
    b.set(Mode::Well);
    until("b is back", || down(&members)[1].is_none()).await;
    assert_eq!(token.destroy(&call(LONG), material(1)).await.unwrap().value, 1);
    assert!(!b.has(1));
}

#[tokio::test]
async fn a_member_with_other_system_keys_is_refused() {
    let (a, other, empty) = (Fake::new("A"), Fake::with("O", Some(8), 12), Fake::with("E", None, 12));
    for fake in [&a, &other, &empty] {
        fake.put(1, 11);
    }
    let (token, members) = group(together(Reads::Spread, 1), &[&a, &other, &empty]).await;
    let told = down(&members);
    assert!(told[1].as_deref().unwrap().contains("another than that of the others"), "{told:?}");
    assert!(told[2].as_deref().unwrap().contains("lacks"), "{told:?}");
    for _ in 0..6 {
        assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "A");
    }
    // Replicated at last.
    *empty.system.lock().unwrap() = Some(7);
    until("let in", || down(&members)[2].is_none()).await;
    // All go, and one comes back as another token: what the first one showed is still known.
    a.set(Mode::Down);
    empty.set(Mode::Down);
    until("all are away", || token.status() != Status::Ready).await;
    *a.system.lock().unwrap() = Some(8);
    a.set(Mode::Well);
    until("refused", || down(&members)[0].as_deref().is_some_and(|why| why.contains("another than"))).await;
}

#[tokio::test]
async fn ivs_have_one_length() {
    let (a, b) = (Fake::new("A"), Fake::with("B", Some(7), 16));
    let (_token, members) = group(together(Reads::Spread, 1), &[&a, &b]).await;
    assert!(down(&members)[1].as_deref().unwrap().contains("IVs"));
}

#[tokio::test]
async fn a_token_whose_objects_are_all_gone_leaves() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    a.put(1, 11);
    b.put(1, 11);
    let (token, members) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    a.keys.lock().unwrap().clear();
    *a.system.lock().unwrap() = None;
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "B");
    until("a leaves", || down(&members)[0].is_some()).await;
}

#[tokio::test]
async fn one_may_be_away_at_the_start_and_a_refused_pin_is_not_tried_again() {
    let (a, b, c) = (Fake::new("A"), Fake::new("B"), Fake::new("C"));
    b.put(1, 11);
    a.set(Mode::Down);
    c.set(Mode::Fails(ErrorClass::Operator));
    let (token, members) = group(together(Reads::Preferred, 1), &[&a, &b, &c]).await;
    assert_eq!(token.info().serial, "B");
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "B");
    a.put(1, 11);
    a.set(Mode::Well);
    c.set(Mode::Well);
    until("a comes", || down(&members)[0].is_none()).await;
    assert_eq!(seal(&token, &key(1, 11)).await.unwrap(), "A");
    assert_eq!(token.info().serial, "A");
    assert!(down(&members)[2].as_deref().unwrap().contains("refuses the login"));
    assert_eq!(c.logins.load(Ordering::Relaxed), 1, "no second try, however well it is");
    assert_eq!(members.members().iter().map(|member| member.refused).collect::<Vec<_>>(), [false, false, true]);
}

#[tokio::test]
async fn a_member_whose_pin_was_refused_comes_when_a_person_gives_one() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    b.set(Mode::Fails(ErrorClass::Operator));
    let (token, members) = group(together(Reads::Spread, 1), &[&a, &b]).await;
    b.set(Mode::Well);
    assert_eq!(token.look_at_member("b").await.unwrap().info.serial, "B");
    let pin = |text: &str| Some(SecretString::new(text.into()));
    let error = token.open_member("b", pin("wrong")).await.unwrap_err();
    assert_eq!((error.open_failure(), b.logins.load(Ordering::Relaxed)), (OpenFailure::PinIncorrect, 2));
    assert!(members.members()[1].refused && token.status() == Status::Ready, "the other one goes on");
    token.open_member("b", pin("right")).await.unwrap();
    assert_eq!(down(&members), [None, None]);
    assert!(!members.members()[1].refused);
    assert!(token.open_member("x", None).await.is_err());
}

#[tokio::test]
async fn nobody_there_says_how_each_is() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    a.set(Mode::Fails(ErrorClass::Operator));
    b.set(Mode::Down);
    let nobody = Members::open(together(Reads::Preferred, 1), doors(&[&a, &b])).await.err().unwrap();
    assert!(
        nobody.why.contains("`a`: it refuses the login") && nobody.why.contains("`b`: it is not there"),
        "{nobody:?}"
    );
    let names: Vec<&str> = nobody.failures.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(nobody.into_error().detail, "away", "one that may come by itself");
}

/// Its library hangs.
struct Hangs(Mutex<std::sync::mpsc::Receiver<()>>);

impl Door for Hangs {
    fn open(&self, _: Option<SecretString>) -> Result<Token, TokenError> {
        let _ = self.0.lock().unwrap().recv();
        Err(TokenError::own(ErrorClass::Context, "fake", "away"))
    }

    fn look(&self) -> Result<Looked, TokenError> {
        panic!("not asked for")
    }
}

#[tokio::test]
async fn a_library_that_hangs_holds_nobody_up() {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let b = Fake::new("B");
    // It comes while the other one hangs.
    b.set(Mode::Down);
    let mut settings = together(Reads::Preferred, 1);
    settings.pace.start = Duration::from_millis(20);
    let hangs: Arc<dyn Door> = Arc::new(Hangs(Mutex::new(ended)));
    let opening = tokio::spawn(Members::open(
        settings,
        vec![("a".into(), hangs), ("b".into(), Arc::new(FakeDoor(Arc::clone(&b))))],
    ));
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(!opening.is_finished(), "nobody is there");
    b.set(Mode::Well);
    let members = opening.await.unwrap().unwrap();
    assert_eq!(members.about().info.serial, "B");
    assert!(down(&members)[0].is_some());
    drop(end);
}

#[tokio::test]
async fn system_keys_are_made_on_one_and_only_when_all_are_there() {
    let (a, b) = (Fake::with("A", None, 12), Fake::with("B", None, 12));
    let (token, members) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    b.set(Mode::Down);
    let error = token.ensure_system_key(&call(LONG), SystemKey::Anchor).await.unwrap_err();
    assert!(error.detail.contains("made when all are there"), "{error}");
    b.set(Mode::Well);
    until("b is back", || down(&members)[1].is_none()).await;
    assert!(token.ensure_system_key(&call(LONG), SystemKey::Anchor).await.unwrap());
    assert_eq!((*a.system.lock().unwrap(), *b.system.lock().unwrap()), (Some(9), None));
    assert!(!token.ensure_system_key(&call(LONG), SystemKey::Anchor).await.unwrap());
    // It is used where it is, and elsewhere only after it was compared.
    a.set(Mode::Fails(ErrorClass::Session));
    assert_eq!(seal(&token, &KeyRef::System(SystemKey::Anchor)).await.unwrap_err().class, ErrorClass::Session);
    *b.system.lock().unwrap() = Some(9);
    until("compared", || members.0.system.is_on(SystemKey::Anchor, 1)).await;
    assert_eq!(seal(&token, &KeyRef::System(SystemKey::Anchor)).await.unwrap(), "B");
}

#[tokio::test]
async fn data_is_written_to_all_and_read_from_all() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    let (token, _keep) = group(together(Reads::Preferred, 1), &[&a, &b]).await;
    let name = DataName { label: "l".into(), application: "x".into() };
    token.write_data(&call(LONG), &name, b"one".to_vec()).await.unwrap();
    b.set(Mode::Down);
    token.write_data(&call(LONG), &name, b"two".to_vec()).await.unwrap();
    b.set(Mode::Well);
    until("both answer", || token.members()[1].down.is_none()).await;
    let mut read = token.read_data(&call(LONG), &name).await.unwrap();
    read.sort();
    assert_eq!(read, [b"one".to_vec(), b"two".to_vec()]);
}

#[tokio::test]
async fn an_inventory_stays_with_its_member() {
    let (a, b) = (Fake::new("A"), Fake::new("B"));
    let (token, _keep) = group(together(Reads::Spread, 1), &[&a, &b]).await;
    a.set(Mode::Down);
    assert!(token.inventory(&call(LONG), Arc::new(|_, _| {})).await.unwrap().is_empty());
    let gauges = token.gauges();
    assert_eq!((gauges.workers, gauges.errors), (4, vec![("data", 2)]));
}
