//! Not tests: numbers and findings for a person.

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use super::*;

impl Bench {
    /// CPU of a call through the queue.
    pub(super) async fn measure(&self) {
        let token = self.open(self.settings()).unwrap();
        let id = material(1);
        let made = token.generate(&ctx("a"), KeyKind::Aes256, id, "aes").await.unwrap().value;
        let key = key_ref(id, &made);
        self.raw(id);
        for tasks in [1usize, 4, 16] {
            let calls = 50_000;
            let (begun, cpu) = (Instant::now(), cpu_micros());
            let in_token = Arc::new(AtomicUsize::new(0));
            let runs: Vec<_> = (0..tasks)
                .map(|_| {
                    let (token, key, in_token) = (token.clone(), key.clone(), Arc::clone(&in_token));
                    tokio::spawn(async move {
                        for _ in 0..calls / tasks {
                            let done = token.encrypt(&ctx("a"), &key, vec![0; 64], secret(&[1; 32])).await.unwrap();
                            in_token.fetch_add(done.facts.micros as usize, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            for run in runs {
                run.await.unwrap();
            }
            println!(
                "{tasks} tasks: {:.0} calls/s, CPU {:.1} us a call, wall time in the token {:.1} us a call",
                calls as f64 / begun.elapsed().as_secs_f64(),
                (cpu_micros() - cpu) as f64 / calls as f64,
                in_token.load(Ordering::Relaxed) as f64 / calls as f64,
            );
        }
        token.close();
    }

    /// The same encryption on one session without anything of ours around it.
    fn raw(&self, id: MaterialId) {
        let context = Pkcs11::new(&self.module).unwrap();
        let slots = context.get_slots_with_token().unwrap();
        let session = context.open_rw_session(slots[0]).unwrap();
        let key = session.find_objects(&[Attribute::Id(id.cka_id())]).unwrap()[0];
        let calls = 50_000;
        let (begun, cpu) = (Instant::now(), cpu_micros());
        for _ in 0..calls {
            let mut iv = [5; 12];
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, &[0; 64], 128.into()).unwrap());
            session.encrypt(&mechanism, key, &[1; 32]).unwrap();
        }
        println!(
            "raw: {:.0} calls/s, CPU {:.1} us a call",
            calls as f64 / begun.elapsed().as_secs_f64(),
            (cpu_micros() - cpu) as f64 / calls as f64,
        );
    }

    /// How often C_GenerateKey fails beside C_FindObjects, on one token and across two.
    pub(super) fn race(&self) {
        let serials = self.serials();
        let context = Pkcs11::new(&self.module).unwrap();
        let slots: Vec<Slot> = serials.iter().map(|serial| self.slot_of(serial)).collect();
        let keepers: Vec<_> = slots
            .iter()
            .map(|slot| {
                let session = context.open_rw_session(*slot).unwrap();
                session.login(UserType::User, Some(&AuthPin::from(self.pin.clone()))).unwrap();
                session
            })
            .collect();
        for (name, made, searched) in [("one token", 0, 0), ("two tokens", 0, 1)] {
            let stop = Arc::new(AtomicBool::new(false));
            let searching = {
                let (stop, session) = (Arc::clone(&stop), context.open_rw_session(slots[searched]).unwrap());
                std::thread::spawn(move || {
                    let (mut rounds, mut failed) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        rounds += 1;
                        failed += u32::from(session.find_objects(&[]).is_err());
                    }
                    (rounds, failed)
                })
            };
            let session = context.open_rw_session(slots[made]).unwrap();
            let (mut failed, rounds) = (0, 1000);
            for n in 0..rounds {
                let template = [
                    Attribute::Token(true),
                    Attribute::Private(true),
                    Attribute::ValueLen(32.into()),
                    Attribute::Id(vec![n as u8; 16]),
                ];
                match session.generate_key(&Mechanism::AesKeyGen, &template) {
                    Ok(key) => failed += u32::from(session.destroy_object(key).is_err()),
                    Err(_) => failed += 1,
                }
            }
            stop.store(true, Ordering::Relaxed);
            let (searches, searches_failed) = searching.join().unwrap();
            println!("{name}: {failed} of {rounds} generations failed, {searches_failed} of {searches} searches");
        }
        drop(keepers);
    }
}

fn cpu_micros() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // utime and stime, in ticks of 10 ms.
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
}
