//! The sealer over a real journal, with a key in software, and killed between any two of its steps.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};

use super::*;
use crate::audit::record::tests::{event, settings as journal_settings};
use crate::audit::verify::line::{Line, segment_name};
use crate::audit::verify::tree::Frontier;
use crate::audit::{Event, EventType, Journal};

const DAY: i64 = 86_400;

/// A service that can die at any step, and whose clock is set by hand.
struct World {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    journal: RefCell<Option<Journal>>,
    keys: RefCell<Vec<(KeyPair, Arc<AuditKey>)>>,
    /// Twice the steps until its death, and one more where the last of them is done.
    life: Cell<Option<u32>>,
    token_away: Cell<bool>,
    /// Seconds that the clock is ahead.
    ahead: Cell<i64>,
    behind: RefCell<Option<Behind>>,
    low: Cell<bool>,
}

impl World {
    fn new() -> Rc<World> {
        let dir = tempfile::tempdir().unwrap();
        let world = World {
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
            journal: RefCell::new(None),
            keys: RefCell::default(),
            life: Cell::new(None),
            token_away: Cell::new(false),
            ahead: Cell::new(0),
            behind: RefCell::default(),
            low: Cell::new(false),
            dir,
        };
        world.new_key();
        world.open();
        Rc::new(world)
    }

    fn open(&self) {
        drop(self.journal.borrow_mut().take());
        let (journal, _) = Journal::open(journal_settings(self.dir.path())).unwrap();
        *self.journal.borrow_mut() = Some(journal);
    }

    fn new_key(&self) {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let spki = spki.as_ref().to_vec();
        let mut keys = self.keys.borrow_mut();
        if let Some((_, key)) = keys.last_mut() {
            *key = Arc::new(AuditKey { valid_until: Some(0), ..(**key).clone() });
        }
        let key = AuditKey {
            key_use: KeyUse::Digest,
            generation: keys.len() as u32 + 1,
            fingerprint: KeyUse::Digest.fingerprint(&spki).unwrap(),
            spki,
            certificate: Vec::new(),
            valid_from: 0,
            valid_until: None,
        };
        keys.push((pair, Arc::new(key)));
    }

    fn sealer(self: &Rc<World>, change: impl FnOnce(&mut Settings)) -> Sealer<Handle> {
        let mut settings = Settings {
            dir: self.dir.path().to_path_buf(),
            account: "111122223333".into(),
            region: "eu-central-1".into(),
            trail: "hsm-bridge".into(),
            bucket: "hsm-audit".into(),
            key_prefix: None,
            retention: Duration::from_secs(400 * DAY as u64),
            retention_bytes: None,
            retention_floor: Duration::from_secs(90 * DAY as u64),
            journal_retention: Duration::from_secs(7 * DAY as u64),
            legal_hold: false,
        };
        change(&mut settings);
        Sealer::new(settings, Handle(self.clone()), Arc::default())
    }

    fn append(&self, event_type: EventType, name: &str) {
        let journal = self.journal.borrow().clone().unwrap();
        self.runtime.block_on(journal.append(event(event_type, name, name))).unwrap();
    }

    /// Calls with an intent before each other one.
    fn calls(&self, count: usize) {
        for number in 0..count {
            if number % 2 == 1 {
                self.append(EventType::HsmBridgeIntent, "CreateKey");
            }
            self.append(EventType::AwsApiCall, "CreateKey");
        }
    }

    fn rotate(&self) {
        let journal = self.journal.borrow().clone().unwrap();
        self.runtime.block_on(journal.rotate()).unwrap();
    }

    fn durable(&self) -> u64 {
        self.journal.borrow().as_ref().unwrap().durable()
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    fn objects(&self, kind: names::Kind) -> Vec<String> {
        let mut objects = archive::objects(&self.root()).unwrap();
        objects.retain(|object| names::parse(object).unwrap().kind == kind);
        objects
    }

    fn lines(&self) -> Vec<(u64, Vec<u8>)> {
        let mut follower = Follower::new(self.dir.path(), 0);
        std::iter::from_fn(|| follower.next(u64::MAX).unwrap()).map(|line| (line.seq, line.line)).collect()
    }

    fn named(&self, name: &str) -> Vec<Value> {
        let records = self.lines().into_iter().map(|(_, line)| serde_json::from_slice::<Value>(&line).unwrap());
        let of_name = records.filter(|record| record["eventName"] == name);
        of_name.map(|record| record["additionalEventData"]["details"].clone()).collect()
    }

    fn digests(&self) -> Vec<Value> {
        let objects = self.objects(names::Kind::Digest);
        let read = |object: &String| serde_json::from_slice(&archive::unpacked(&self.root(), object).unwrap()).unwrap();
        objects.iter().map(read).collect()
    }

    /// Everything that a reader may rely on, worked out again from the files alone.
    fn check(&self) {
        let (root, journal) = (self.root(), self.lines());
        let mut previous: Option<(Value, String, String)> = None;
        let mut listed = Vec::new();
        let mut sealed = Vec::new();
        for object in self.objects(names::Kind::Digest) {
            let json = archive::unpacked(&root, &object).unwrap();
            let digest: Value = serde_json::from_slice(&json).unwrap();
            let meta: Value =
                serde_json::from_slice(&std::fs::read(root.join(format!("{object}.meta"))).unwrap()).unwrap();
            assert_eq!(meta["signature-algorithm"], "SHA256withRSA");
            let signature = meta["signature"].as_str().unwrap().to_owned();
            let before = previous.as_ref().map_or("null", |(_, _, signature)| signature);
            let text = format!(
                "{}\nhsm-audit/{object}\n{}\n{before}",
                digest["digestEndTime"].as_str().unwrap(),
                logfile::sha256(&json)
            );
            let keys = self.keys.borrow();
            let named = digest["digestPublicKeyFingerprint"].as_str().unwrap();
            let (_, key) = keys.iter().find(|(_, key)| key.fingerprint == named).unwrap();
            assert!(KeyUse::Digest.verifies(&key.spki, text.as_bytes(), &hex::decode(&signature).unwrap()));
            match &previous {
                Some((last, hash, signature)) => {
                    assert_eq!(digest["digestStartTime"], last["digestEndTime"]);
                    assert_eq!(digest["previousDigestS3Object"], last["digestS3Object"]);
                    assert_eq!(digest["previousDigestHashValue"], hash.as_str());
                    assert_eq!(digest["previousDigestSignature"], signature.as_str());
                }
                None => assert!(digest["previousDigestSignature"].is_null()),
            }
            assert!(digest["digestEndTime"].as_str() > digest["digestStartTime"].as_str());
            for file in digest["logFiles"].as_array().unwrap() {
                let object = file["s3Object"].as_str().unwrap().to_owned();
                let bytes = archive::unpacked(&root, &object).unwrap();
                assert_eq!(file["hashValue"], logfile::sha256(&bytes));
                sealed.extend(logfile::lines(&bytes).unwrap().into_iter().map(<[u8]>::to_vec));
                listed.push(object);
            }
            // The tree at that moment.
            let size = digest["hsmBridge"]["treeSize"].as_u64().unwrap();
            let mut tree = Frontier::default();
            journal.iter().take(size as usize).for_each(|(_, line)| tree.push(logfile::leaf(line)));
            assert_eq!(digest["hsmBridge"]["rootHash"], hex::encode(tree.root()));
            previous = Some((digest, logfile::sha256(&json), signature));
        }
        // No object that no digest lists, and none twice.
        assert_eq!(listed, self.objects_by_first_record());
        // Every record but intents, once, in order.
        let exported = journal.iter().filter(|(_, line)| !Line::parse(line).unwrap().is_intent());
        let exported: Vec<Vec<u8>> = exported.map(|(_, line)| line.clone()).take(sealed.len()).collect();
        assert_eq!(sealed, exported);
        let sealed_to = self.named("Digest").last().map_or(0, |digest| digest["sealedTo"].as_u64().unwrap());
        assert_eq!(Line::parse(sealed.last().unwrap()).unwrap().place().seq + 1, sealed_to);
        // One record for each file and for each digest.
        let recorded: Vec<Value> = self.named("LogFile");
        assert_eq!(recorded.iter().map(|file| file["object"].as_str().unwrap()).collect::<Vec<_>>(), listed);
        assert_eq!(self.named("Digest").len(), self.objects(names::Kind::Digest).len());
        assert!(!self.dir.path().join("aside").exists());
    }

    fn objects_by_first_record(&self) -> Vec<String> {
        let first = |object: &String| {
            let bytes = archive::unpacked(&self.root(), object).unwrap();
            Line::parse(logfile::lines(&bytes).unwrap()[0]).unwrap().place().seq
        };
        let mut objects = self.objects(names::Kind::Log);
        objects.sort_by_key(first);
        objects
    }
}

struct Handle(Rc<World>);

impl Handle {
    /// One step that is visible outside.
    fn step<T>(&self, dead: impl Fn() -> T, work: impl FnOnce() -> Result<(), T>) -> Result<(), T> {
        match self.0.life.get() {
            None => work(),
            Some(0) => Err(dead()),
            Some(1) => {
                self.0.life.set(Some(0));
                let _ = work();
                Err(dead())
            }
            Some(life) => {
                self.0.life.set(Some(life - 2));
                work()
            }
        }
    }
}

impl Around for Handle {
    fn append(&self, name: &str, details: Value) -> Result<u64, String> {
        let seq = Cell::new(0);
        self.step(
            || "killed".to_owned(),
            || {
                let event = Event::system(name, "eu-central-1", "111122223333", self.now(), details);
                let journal = self.0.journal.borrow().clone().unwrap();
                seq.set(self.0.runtime.block_on(journal.append(event)).unwrap().seq());
                Ok(())
            },
        )?;
        Ok(seq.get())
    }

    fn durable(&self) -> u64 {
        self.0.durable()
    }

    fn publish(&self, root: &Path, object: &str, bytes: &[u8]) -> io::Result<()> {
        let killed = || {
            // Half a file, as far as a kill can leave one.
            let _ = std::fs::write(root.with_file_name("sealing.new"), &bytes[..bytes.len() / 2]);
            io::Error::other("killed")
        };
        self.step(killed, || files::publish(root, object, bytes))
    }

    fn remove(&self, root: &Path, name: &str) -> io::Result<()> {
        self.step(|| io::Error::other("killed"), || files::remove(root, name))
    }

    fn sign(&self, message: Vec<u8>) -> Result<Signed, SignError> {
        if self.0.token_away.get() {
            return Err(SignError("the token is away".into()));
        }
        let keys = self.0.keys.borrow();
        let (pair, key) = keys.last().unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &message, &mut signature).unwrap();
        Ok(Signed { key: key.clone(), signature })
    }

    fn keys(&self) -> Vec<Arc<AuditKey>> {
        self.0.keys.borrow().iter().map(|(_, key)| key.clone()).collect()
    }

    fn now(&self) -> i64 {
        record_now() + self.0.ahead.get() * 1000
    }

    fn behind(&self) -> Option<Behind> {
        self.0.behind.borrow().clone()
    }

    fn is_low(&self) -> bool {
        self.0.low.get()
    }
}

fn record_now() -> i64 {
    crate::audit::segment::now_micros().div_euclid(1000)
}

#[test]
fn everything_is_sealed_once_and_signed() {
    let world = World::new();
    let mut sealer = world.sealer(|_| {});
    world.calls(5);
    assert_eq!(sealer.seal().unwrap(), 1);
    world.calls(3);
    assert_eq!(sealer.seal().unwrap(), 1);
    sealer.digest().unwrap();
    world.check();
    assert_eq!(world.digests()[0]["logFiles"].as_array().unwrap().len(), 2);
    assert_eq!(world.digests()[0]["hsmBridge"]["firstSeq"], 0);

    // What another run finds: the journal, and nothing in memory.
    world.open();
    let mut sealer = world.sealer(|_| {});
    world.calls(2);
    sealer.digest().unwrap();
    world.check();
    assert_eq!(world.digests().len(), 2);
}

#[test]
fn idle_hours_have_empty_digests_and_no_files() {
    let world = World::new();
    let mut sealer = world.sealer(|_| {});
    world.calls(1);
    sealer.digest().unwrap();
    for _ in 0..3 {
        assert_eq!(sealer.seal().unwrap(), 0);
        sealer.digest().unwrap();
    }
    world.check();
    let digests = world.digests();
    assert_eq!(digests.len(), 4);
    for digest in &digests[1..] {
        assert_eq!(digest["logFiles"], json!([]));
        assert!(digest["newestEventTime"].is_null() && digest["oldestEventTime"].is_null());
        assert_eq!(digest["hsmBridge"]["records"], 0);
        assert_eq!(digest["hsmBridge"]["rootHash"], digests[0]["hsmBridge"]["rootHash"]);
    }
    // What was written meanwhile comes with the next real record.
    world.calls(1);
    sealer.digest().unwrap();
    world.check();
    assert!(world.digests()[4]["hsmBridge"]["records"].as_u64().unwrap() > 4);
}

#[test]
fn an_object_is_made_again_byte_for_byte() {
    let world = World::new();
    let mut sealer = world.sealer(|_| {});
    world.calls(4);
    sealer.seal().unwrap();
    let object = world.objects(names::Kind::Log).remove(0);
    let bytes = std::fs::read(world.root().join(&object)).unwrap();
    let file = world.named("LogFile").remove(0);

    let mut draft = Draft::new(file["firstSeq"].as_u64().unwrap(), None);
    for (seq, line) in world.lines() {
        if seq <= file["lastSeq"].as_u64().unwrap() {
            draft.add(&line).unwrap();
        }
    }
    let (again, facts, _) = draft.finish("hsm-audit", &sealer.place);
    assert_eq!(facts.object, object);
    assert_eq!(logfile::gzip(&again).unwrap(), bytes);
    // RFC 1952: no flags, no time.
    assert_eq!(&bytes[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    let unpacked = logfile::gunzip(&bytes).unwrap();
    assert!(unpacked.starts_with(b"{\"Records\":[{") && unpacked.ends_with(b"}]}"));
    assert!(logfile::gunzip(&[bytes.as_slice(), b"x"].concat()).is_err());
}

#[test]
fn killed_between_any_two_steps() {
    let mut deaths = 0;
    for life in 0.. {
        let world = World::new();
        let mut sealer = world.sealer(|_| {});
        world.calls(3);
        sealer.digest().unwrap();
        world.calls(4);
        world.life.set(Some(life));
        let died = sealer.digest().is_err();
        world.life.set(None);
        world.calls(2);
        world.open();
        let mut sealer = world.sealer(|_| {});
        sealer.seal().unwrap();
        sealer.digest().unwrap();
        world.calls(1);
        sealer.digest().unwrap();
        world.check();
        if !died {
            break;
        }
        deaths += 1;
    }
    // File, its record, signature, digest, its record: each before and after.
    assert_eq!(deaths, 10);
}

#[test]
fn an_error_is_followed_by_a_clean_next_try_without_a_restart() {
    for life in 0..10 {
        let world = World::new();
        let mut sealer = world.sealer(|_| {});
        world.calls(3);
        world.life.set(Some(life));
        assert!(sealer.digest().is_err());
        world.life.set(None);
        world.calls(2);
        sealer.digest().unwrap();
        assert_eq!(sealer.status.failures.load(Ordering::Relaxed), 1);
        world.check();
    }
}

#[test]
fn a_token_that_is_away_makes_one_longer_digest() {
    let world = World::new();
    let mut sealer = world.sealer(|_| {});
    world.calls(2);
    sealer.digest().unwrap();
    world.token_away.set(true);
    for _ in 0..2 {
        world.calls(2);
        assert!(matches!(sealer.digest(), Err(SealError::Sign(_))));
    }
    world.token_away.set(false);
    sealer.digest().unwrap();
    world.check();
    assert_eq!(world.digests().len(), 2);
    assert_eq!(world.digests()[1]["logFiles"].as_array().unwrap().len(), 2);
}

#[test]
fn after_another_key_and_another_bucket_the_chain_goes_on() {
    let world = World::new();
    let mut sealer = world.sealer(|_| {});
    world.calls(1);
    sealer.digest().unwrap();
    world.new_key();
    world.calls(1);
    sealer.digest().unwrap();
    world.check();
    let digests = world.digests();
    assert_ne!(digests[0]["digestPublicKeyFingerprint"], digests[1]["digestPublicKeyFingerprint"]);

    let mut sealer = world.sealer(|settings| {
        settings.bucket = "other-audit".into();
        settings.key_prefix = Some("a/b".into());
    });
    world.calls(1);
    sealer.digest().unwrap();
    let digests = world.digests();
    assert_eq!(digests[2]["digestS3Bucket"], "other-audit");
    assert_eq!(digests[2]["previousDigestS3Bucket"], "hsm-audit");
    assert_eq!(digests[2]["previousDigestS3Object"], digests[1]["digestS3Object"]);
    assert!(digests[2]["digestS3Object"].as_str().unwrap().starts_with("a/b/AWSLogs/"));
    assert_eq!(digests[2]["digestStartTime"], digests[1]["digestEndTime"]);
}

#[test]
fn what_is_not_ours_is_set_aside_and_told() {
    let world = World::new();
    let mut sealer = world.sealer(|_| {});
    world.calls(1);
    sealer.digest().unwrap();
    world.calls(3);
    world.life.set(Some(1));
    assert!(sealer.seal().is_err());
    world.life.set(None);
    // The file is there and its record is not; somebody changes the file meanwhile.
    let object = world.objects_by_first_record().pop().unwrap();
    let bytes = archive::unpacked(&world.root(), &object).unwrap();
    let text = String::from_utf8(bytes).unwrap().replacen("payments", "PAYMENTS", 1);
    std::fs::write(world.root().join(&object), logfile::gzip(text.as_bytes()).unwrap()).unwrap();
    // And puts a digest there, signed by a key that is none of ours.
    let forged = sealer.place.digest("2099-01-01T00:00:00Z");
    let own = world.objects(names::Kind::Digest).remove(0);
    let folder = world.root().join(&forged);
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    std::fs::copy(world.root().join(&own), world.root().join(&forged)).unwrap();
    std::fs::copy(world.root().join(format!("{own}.meta")), world.root().join(format!("{forged}.meta"))).unwrap();

    let mut sealer = world.sealer(|_| {});
    sealer.digest().unwrap();
    assert_eq!(world.named("AuditTampering").len(), 2);
    let aside: BTreeSet<String> = std::fs::read_dir(world.dir.path().join("aside"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(aside.len(), 3, "{aside:?}");
    std::fs::remove_dir_all(world.dir.path().join("aside")).unwrap();
    world.check();
}

/// Three days with a segment each.
fn three_days(world: &Rc<World>, sealer: &mut Sealer<Handle>) {
    for _ in 0..3 {
        world.calls(3);
        sealer.digest().unwrap();
        world.rotate();
    }
    world.calls(1);
    sealer.digest().unwrap();
    world.calls(1);
    sealer.digest().unwrap();
}

#[test]
fn journal_segments_go_when_sealed_and_compared() {
    let world = World::new();
    let mut sealer = world.sealer(|_| {});
    three_days(&world, &mut sealer);
    assert_eq!(sealer.plan().unwrap().gone, []);
    world.ahead.set(8 * DAY);
    let plan = sealer.plan().unwrap();
    assert!(plan.gone.iter().all(|gone| gone.why == "sealed" && gone.name.starts_with("journal/")), "{plan:?}");
    assert_eq!(plan.gone.len(), 3);
    let before = world.lines();
    // `plan` deletes nothing.
    assert_eq!(world.lines()[0].0, 0);
    let done = sealer.prune().unwrap();
    assert_eq!(done, plan);
    let after = world.lines();
    assert_eq!(after[0].0, plan.journal_begins);
    assert!(after[0].0 > 0 && before.len() > after.len() - 2);
    // Told before and after.
    let told = world.named("Pruned");
    assert_eq!(told.iter().map(|one| one["done"].as_bool().unwrap()).collect::<Vec<_>>(), [false, true]);
    assert_eq!(told[0]["objects"].as_array().unwrap().len(), 3);

    // Readers of the whole log find in the sealed files what the journal no longer has.
    let counted = |names| crate::audit::scan::successes(world.dir.path(), names).unwrap().into_values().sum::<u64>();
    assert_eq!(counted(&["CreateKey"]), 11);
    let mut uses = Vec::new();
    crate::audit::scan::uses(world.dir.path(), Some(1), &["CreateKey"], |used| uses.push(used.seq)).unwrap();
    uses.sort_unstable();
    assert_eq!(uses.len(), 10);
    assert!(uses[0] < after[0].0);
    // `audit tail` begins where the journal does.
    let mut printed = Vec::new();
    let options = crate::audit::tail::Options { since_seq: Some(0), ..Default::default() };
    let count = crate::audit::tail::tail(world.dir.path(), &options, &|| false, &mut printed).unwrap();
    assert_eq!(count, world.lines().len() as u64);

    // Sealing goes on, with and without a restart, and the chain of digests is whole.
    world.ahead.set(0);
    let continued = |sealer: &mut Sealer<Handle>| {
        world.calls(2);
        sealer.digest().unwrap();
        let last = world.digests().pop().unwrap();
        assert!(last["hsmBridge"]["rootHash"].is_string());
        assert_eq!(last["logFiles"].as_array().unwrap().len(), 1);
    };
    continued(&mut sealer);
    world.open();
    continued(&mut world.sealer(|_| {}));
    let mut all = before;
    all.extend(
        world.lines().into_iter().filter(|(seq, _)| all.iter().all(|(known, _)| known != seq)).collect::<Vec<_>>(),
    );
    let size = world.digests().pop().unwrap()["hsmBridge"]["treeSize"].as_u64().unwrap();
    let mut tree = Frontier::default();
    all.iter().take(size as usize).for_each(|(_, line)| tree.push(logfile::leaf(line)));
    assert_eq!(world.digests().pop().unwrap()["hsmBridge"]["rootHash"], hex::encode(tree.root()));
}

#[test]
fn journal_segments_stay_where_the_sealed_files_say_something_else() {
    for damage in ["log", "gone", "digest", "hold"] {
        let world = World::new();
        let mut sealer = world.sealer(|settings| settings.legal_hold = damage == "hold");
        three_days(&world, &mut sealer);
        world.ahead.set(8 * DAY);
        let object = world.objects_by_first_record().remove(1);
        let digest = world.objects(names::Kind::Digest).remove(1);
        match damage {
            "log" => {
                let text = String::from_utf8(archive::unpacked(&world.root(), &object).unwrap()).unwrap();
                let text = text.replacen("payments", "PAYMENTS", 1);
                std::fs::write(world.root().join(&object), logfile::gzip(text.as_bytes()).unwrap()).unwrap();
            }
            "gone" => std::fs::remove_file(world.root().join(&object)).unwrap(),
            "digest" => std::fs::remove_file(world.root().join(format!("{digest}.meta"))).unwrap(),
            _ => {}
        }
        let plan = sealer.prune().unwrap();
        let expected = if damage == "hold" { 0 } else { 1 };
        assert!(plan.gone.len() <= expected, "{damage}: {plan:?}");
        assert_eq!(plan.kept.len(), 1, "{damage}");
        assert_eq!(world.lines()[0].0, plan.journal_begins);
    }
}

#[test]
fn segments_wait_for_the_sink_that_is_furthest_behind() {
    let world = World::new();
    let mut sealer = world.sealer(|_| {});
    three_days(&world, &mut sealer);
    world.ahead.set(8 * DAY);
    let all = sealer.plan().unwrap();
    let names: Vec<&str> = all.gone.iter().map(|gone| &*gone.name).collect();
    let second: u64 = segment_name(names[1].strip_prefix("journal/").unwrap()).unwrap().0;
    // Where the sink is, and how many segments stay for it.
    for (next, stay) in [(0, 3), (second - 1, 3), (second, 2), (second + 1, 2), (all.journal_begins - 1, 1)] {
        *world.behind.borrow_mut() = Some(Behind { name: "siem".into(), next });
        let plan = sealer.plan().unwrap();
        assert_eq!(plan.gone, all.gone[..3 - stay], "{next}");
        assert_eq!(plan.kept, [format!("the sink `siem` is at record {next}: `{}` stays", &names[3 - stay][8..])]);
        assert_eq!(sealer.status.held.load(Ordering::Relaxed), stay as u64, "{next}");
    }
    for next in [all.journal_begins, u64::MAX] {
        *world.behind.borrow_mut() = Some(Behind { name: "siem".into(), next });
        assert_eq!((sealer.plan().unwrap(), sealer.status.held.load(Ordering::Relaxed)), (all.clone(), 0), "{next}");
    }
    // Sealed files stay with the lines that they hold, however old.
    *world.behind.borrow_mut() = Some(Behind { name: "siem".into(), next: 0 });
    world.ahead.set(500 * DAY);
    assert_eq!(sealer.prune().unwrap().gone, []);
    assert_eq!(world.lines()[0].0, 0);
    // Where room is short, nothing waits.
    world.ahead.set(8 * DAY);
    world.low.set(true);
    assert_eq!(sealer.prune().unwrap(), all);
    assert_eq!(world.lines()[0].0, all.journal_begins);
}

#[test]
fn sealed_files_go_by_age_and_by_size() {
    let world = World::new();
    let mut sealer = world.sealer(|_| {});
    three_days(&world, &mut sealer);
    let (own, place) = (world.objects(names::Kind::Log).len(), sealer.place.clone());
    let now = record_now() / 1000;
    let mut old = Vec::new();
    for days in [500, 401, 300, 200, 30] {
        let at = text(now - days * DAY);
        for object in [place.log_file(&at, &[7; 32]), place.digest(&at)] {
            files::publish(&world.root(), &object, &[0; 1000]).unwrap();
            old.push(object);
        }
        files::publish(&world.root(), &format!("{}.meta", place.digest(&at)), b"{}").unwrap();
    }
    let gone = |change: fn(&mut Settings)| {
        let plan = world.sealer(change).plan().unwrap();
        plan.gone.into_iter().map(|gone| (gone.name, gone.why)).collect::<Vec<_>>()
    };
    let by_age: Vec<_> = old[..4].iter().map(|object| (object.clone(), "age")).collect();
    assert_eq!(gone(|_| {}), by_age);
    assert_eq!(gone(|settings| settings.legal_hold = true), []);
    // All that may go goes, and what is younger than the floor stays.
    let by_size: Vec<_> = old[4..8].iter().map(|object| (object.clone(), "size")).collect();
    assert_eq!(gone(|settings| settings.retention_bytes = Some(1)), [by_age.clone(), by_size.clone()].concat());
    // No more than it takes.
    let total: u64 = archive::objects(&world.root())
        .unwrap()
        .iter()
        .map(|object| std::fs::metadata(world.root().join(object)).unwrap().len())
        .sum();
    let mut sealer = world.sealer(|settings| settings.retention_bytes = Some(total - 5500));
    let plan = sealer.prune().unwrap();
    assert_eq!(plan.gone.iter().map(|gone| &gone.name).collect::<Vec<_>>(), old[..6].iter().collect::<Vec<_>>());
    for object in &old[..6] {
        assert!(!world.root().join(object).exists() && !world.root().join(format!("{object}.meta")).exists());
        // Nor its folder.
        assert!(!world.root().join(object).parent().unwrap().exists());
    }
    assert_eq!(world.objects(names::Kind::Log).len(), own + 2);
    let told: Vec<Value> = world.named("Pruned");
    assert_eq!(told.iter().map(|one| one["why"].as_str().unwrap()).collect::<Vec<_>>(), ["age", "age", "size", "size"]);

    // A kill between the record and the deletions: the next pass does the rest.
    world.life.set(Some(5));
    let mut sealer = world.sealer(|settings| settings.retention_bytes = Some(1));
    assert!(sealer.prune().is_err());
    world.life.set(None);
    let mut sealer = world.sealer(|settings| settings.retention_bytes = Some(1));
    assert!(!sealer.prune().unwrap().gone.is_empty());
    assert_eq!(gone(|settings| settings.retention_bytes = Some(1)), []);
    assert!(world.root().join(&old[8]).exists());
}

#[test]
fn own_files_stay_while_the_journal_has_their_lines() {
    let world = World::new();
    let mut sealer = world.sealer(|settings| settings.journal_retention = Duration::from_secs(1000 * DAY as u64));
    three_days(&world, &mut sealer);
    world.ahead.set(500 * DAY);
    assert_eq!(sealer.plan().unwrap().gone, []);
}
