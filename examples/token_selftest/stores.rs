//! Several tokens in one process, failures to connect, and a new PIN.

use std::sync::atomic::AtomicU64;

use cryptoki::context::Pkcs11;
use cryptoki::session::{SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use super::*;

const NEW_PIN: &str = "7654321-new";

impl Bench {
    /// The module, initialised by whoever was first, which is a look at the latest.
    fn context(&self) -> Pkcs11 {
        let context = Pkcs11::new(&self.module).unwrap();
        let nobody = Selector { label: Some("nobody".into()), ..Selector::default() };
        let _ = look(&Isolation::InProcess, &self.module, &nobody);
        context
    }

    pub(super) fn serials(&self) -> Vec<String> {
        let context = self.context();
        let slots = context.get_slots_with_token().unwrap();
        let infos = slots.iter().map(|slot| context.get_token_info(*slot).unwrap());
        infos.filter(|info| info.token_initialized()).map(|info| info.serial_number().to_owned()).collect()
    }

    fn by_serial(&self, serial: &str) -> Settings {
        Settings { selector: Selector { serial: Some(serial.to_owned()), ..Selector::default() }, ..self.settings() }
    }

    pub(super) async fn stores(&self) {
        let serials = self.serials();
        let [a, b] = serials.as_slice() else { panic!("two tokens, not {serials:?}") };
        let wrong = || SecretString::new("not-the-pin".into());

        self.check("a look needs no login", async {
            let looked = look(&Isolation::InProcess, &self.module, &self.by_serial(a).selector).map_err(text)?;
            want(looked.initialized && looked.pin_initialized && looked.info.serial == *a, &format!("{looked:?}"))?;
            want(login_attempts() == 0, "a login")?;
            let nobody = Selector { serial: Some("nobody".into()), ..Selector::default() };
            let error = look(&Isolation::InProcess, &self.module, &nobody).unwrap_err();
            want(error.open_failure() == OpenFailure::NotPresent, &text(error))?;
            let both = Selector { label: Some(self.label.clone()), ..Selector::default() };
            let error = look(&Isolation::InProcess, &self.module, &both).unwrap_err();
            want(error.open_failure() == OpenFailure::Other, &text(error))
        })
        .await;

        self.check("another token than the expected one is refused before any login", async {
            let settings = Settings { expect_serial: Some(b.clone()), ..self.by_serial(a) };
            let error = self.open(settings).map(|_| ()).unwrap_err();
            want(error.open_failure() == OpenFailure::WrongToken, &text(error))?;
            want(login_attempts() == 0, "a login")
        })
        .await;

        let expected = |serial: &str| Settings { expect_serial: Some(serial.to_owned()), ..self.by_serial(serial) };
        // Without C_Finalize, which would log everybody out by itself.
        let unrenewed = |serial: &str| {
            let profile = Profile { pin_cached: Some(false), ..Profile::default() };
            Settings { profile, ..self.by_serial(serial) }
        };
        let first = self.open(expected(a)).unwrap();
        self.check("a wrong PIN on one token leaves the other alone", async {
            for _ in 0..2 {
                let error = Token::open(self.by_serial(b), wrong()).map(|_| ()).unwrap_err();
                want(error.class == ErrorClass::Operator, "class")?;
                want(error.open_failure() == OpenFailure::PinIncorrect, &text(error))?;
            }
            want(login_attempts() == 2, &format!("{} logins", login_attempts()))?;
            first.random(&ctx("a"), 8).await.map_err(text).map(|_| ())
        })
        .await;

        let second = self.open(expected(b)).unwrap();
        let id = material(1);
        let mut keys = Vec::new();
        self.check("two tokens hold keys of one id, and facts say whose", async {
            for (token, serial) in [(&first, a), (&second, b)] {
                token.ensure_system_key(&ctx("a"), SystemKey::Anchor).await.map_err(text)?;
                let done = token.generate(&ctx("a"), KeyKind::Aes256, id, "key").await.map_err(text)?;
                want(*done.facts.token == **serial && done.facts.slot == token.info().slot, "facts")?;
                want(done.value.object_id == id.cka_id(), "id")?;
                keys.push(key_ref(id, &done.value));
            }
            let sealed = first.encrypt(&ctx("a"), &keys[0], vec![], secret(b"x")).await.map_err(text)?;
            want(*sealed.facts.token == **a, "facts")?;
            // The same name, another key.
            class_is(second.encrypt(&ctx("a"), &keys[0], vec![], secret(b"x")).await, ErrorClass::WrongKey)
        })
        .await;

        self.check("a look while both are connected", async {
            want(
                look(&Isolation::InProcess, &self.module, &self.by_serial(b).selector).map_err(text)?.info.serial == *b,
                "serial",
            )
        })
        .await;

        let failed = Arc::new(AtomicU64::new(0));
        self.check("keys are made in one token while another is searched", async {
            let searching = {
                let (token, failed) = (second.clone(), Arc::clone(&failed));
                tokio::spawn(async move {
                    let mut rounds = 0u64;
                    while failed.load(Ordering::Relaxed) < 1000 {
                        token.objects().await.unwrap();
                        rounds += 1;
                    }
                    rounds
                })
            };
            for n in 0..150u8 {
                let (id, kind) = (MaterialId { id: [n; 16], generation: 9 }, KeyKind::Ec(Curve::P256));
                first.generate(&ctx("a"), kind, id, "race").await.map_err(text)?;
                first.destroy(&ctx("a"), id).await.map_err(text)?;
            }
            failed.store(1000, Ordering::Relaxed);
            let rounds = searching.await.map_err(|error| error.to_string())?;
            want(rounds > 20, &format!("only {rounds} searches"))
        })
        .await;

        self.check("two tokens make keys at the same time", async {
            let make = |token: Token| async move {
                for n in 0..40u8 {
                    let (id, kind) = (MaterialId { id: [n; 16], generation: 8 }, KeyKind::Aes256);
                    token.generate(&ctx("a"), kind, id, "both").await?;
                    token.destroy(&ctx("a"), id).await?;
                }
                Ok::<_, TokenError>(())
            };
            let (one, other) = tokio::join!(tokio::spawn(make(first.clone())), tokio::spawn(make(second.clone())));
            one.unwrap().and(other.unwrap()).map_err(text)
        })
        .await;

        self.check("one connection makes keys while another of the same token searches", async {
            let other = self.open(expected(a)).map_err(text)?;
            let stop = Arc::new(AtomicBool::new(false));
            let searching = {
                let (other, stop) = (other.clone(), Arc::clone(&stop));
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        other.objects().await.unwrap();
                    }
                })
            };
            let mut result = Ok(());
            for n in 0..=255u8 {
                let (id, kind) = (MaterialId { id: [n; 16], generation: 7 }, KeyKind::Aes256);
                result = result.and(first.generate(&ctx("a"), kind, id, "race").await.map(|_| ()));
                result = result.and(first.destroy(&ctx("a"), id).await.map(|_| ()));
            }
            stop.store(true, Ordering::Relaxed);
            searching.await.map_err(|error| error.to_string())?;
            other.close();
            result.map_err(text)
        })
        .await;

        self.check("closing one token leaves the other logged in", async {
            first.close();
            second.encrypt(&ctx("a"), &keys[1], vec![], secret(b"x")).await.map_err(text)?;
            class_is(first.random(&ctx("a"), 8).await, ErrorClass::Context)?;
            second.check(&ctx("a"), &keys[1]).await.map_err(text).map(|_| ())
        })
        .await;

        self.check("a closed token is logged out: a wrong PIN does not get in", async {
            let error = Token::open(unrenewed(a), wrong()).map(|_| ()).unwrap_err();
            want(error.open_failure() == OpenFailure::PinIncorrect, &text(error))
        })
        .await;

        self.check("fifty connections leave no session and no thread behind", async {
            let before = threads();
            for _ in 0..50 {
                let token = self.open(expected(a)).map_err(text)?;
                token.encrypt(&ctx("a"), &keys[0], vec![], secret(b"x")).await.map_err(text)?;
                token.close();
                second.encrypt(&ctx("a"), &keys[1], vec![], secret(b"x")).await.map_err(text)?;
            }
            want(threads() == before, &format!("{} threads, {before} before", threads()))?;
            // RULE PKCS#11 v2.40 §5.6 C_CloseSession: the last one of an application logs it out.
            let context = Pkcs11::new(&self.module).unwrap();
            let session = context.open_ro_session(self.slot_of(a)).unwrap();
            let state = session.get_session_info().unwrap().session_state();
            want(state == SessionState::RoPublic, &format!("a session is left: {state:?}"))
        })
        .await;

        self.check("a new PIN of one token does not fail the calls of another", async {
            let first = self.open(expected(a)).map_err(text)?;
            let stop = Arc::new(AtomicBool::new(false));
            let load = {
                let (first, key, stop) = (first.clone(), keys[0].clone(), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut calls = 0u64;
                    while !stop.load(Ordering::Relaxed) {
                        first.encrypt(&ctx("load"), &key, vec![], secret(b"x")).await?;
                        calls += 1;
                    }
                    Ok::<_, TokenError>(calls)
                })
            };
            let slot = second.info().slot.to_string();
            self.set_pin(&["--slot", &slot], &self.pin, NEW_PIN)?;
            second.change_pin(SecretString::new(NEW_PIN.to_owned())).await.map_err(text)?;
            second.encrypt(&ctx("a"), &keys[1], vec![], secret(b"x")).await.map_err(text)?;
            // Changed while it is not connected: the next connection sees it.
            second.close();
            self.set_pin(&["--slot", &slot], NEW_PIN, "third-pin")?;
            let again = Token::open(expected(b), SecretString::new("third-pin".to_owned())).map_err(text)?;
            again.encrypt(&ctx("a"), &keys[1], vec![], secret(b"x")).await.map_err(text)?;
            again.close();
            stop.store(true, Ordering::Relaxed);
            let calls = load.await.map_err(|error| error.to_string())?.map_err(text)?;
            first.close();
            want(calls > 0, "no call")
        })
        .await;

        self.check("a login that nobody holds does not let a wrong PIN in", async {
            let context = Pkcs11::new(&self.module).unwrap();
            let left = context.open_rw_session(self.slot_of(a)).unwrap();
            left.login(UserType::User, Some(&AuthPin::from(self.pin.clone()))).unwrap();
            let never = SecretString::new("never-tried-yet".into());
            let error = Token::open(unrenewed(a), never).map(|_| ()).unwrap_err();
            want(error.open_failure() == OpenFailure::PinIncorrect, &text(error))?;
            let token = self.open(expected(a)).map_err(text)?;
            token.encrypt(&ctx("a"), &keys[0], vec![], secret(b"x")).await.map_err(text)?;
            token.close();
            Ok(())
        })
        .await;

        self.check("a token without a user PIN, and one that was never initialised", async {
            let fresh = |initialized: bool| {
                let selector = Selector {
                    label: initialized.then(|| "no-pin".to_owned()),
                    serial: None,
                    model: Some(first.info().model.clone()),
                    manufacturer: None,
                };
                look(&Isolation::InProcess, &self.module, &selector)
                    .map(|looked| (looked.initialized, looked.pin_initialized))
            };
            // SoftHSM always has a slot more; others are given one by their configuration.
            let output = Command::new("pkcs11-tool")
                .arg("--module")
                .arg(&self.module)
                .args(["--init-token", "--slot-index", "2", "--label", "no-pin", "--so-pin", "12345678"])
                .output()
                .map_err(|error| error.to_string())?;
            want(output.status.success(), &String::from_utf8_lossy(&output.stderr))?;
            // The module lists its slots once in this process: a child has to look.
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["no-pin", &self.module.display().to_string()])
                .args([&format!("{}={}", self.variable, self.conf.display()), "no-pin", &self.pin])
                .output()
                .map_err(|error| error.to_string())?;
            let told = String::from_utf8_lossy(&child.stdout).into_owned();
            want(told.contains("ok a token without a user PIN"), &told)?;
            want(fresh(true).is_err() || fresh(true).is_ok_and(|(_, pin)| !pin), "a PIN")
        })
        .await;
    }

    /// In a process of its own.
    pub(super) async fn no_pin(&self) {
        self.check("a token without a user PIN", async {
            let selector = Selector { label: Some(self.label.clone()), ..Selector::default() };
            let looked = look(&Isolation::InProcess, &self.module, &selector).map_err(text)?;
            want(looked.initialized && !looked.pin_initialized, &format!("{looked:?}"))?;
            let error = self.open(self.settings()).map(|_| ()).unwrap_err();
            want(error.open_failure() == OpenFailure::PinNotInitialised, &text(error))?;
            want(login_attempts() == 0, "a login")?;
            // The one slot that is left.
            let blank = Selector { label: Some(String::new()), ..Selector::default() };
            let looked = look(&Isolation::InProcess, &self.module, &blank).map_err(text)?;
            want(!looked.initialized && !looked.pin_initialized, &format!("{looked:?}"))
        })
        .await;
    }

    /// Not a check: gives a token of NSS its first PIN, which pkcs11-tool cannot. Its security officer has an empty one.
    pub(super) fn init_pin(&self) {
        let context = self.context();
        let slots = context.get_slots_with_token().unwrap();
        let fits = |slot: &&Slot| context.get_token_info(**slot).unwrap().label() == self.label;
        let session = context.open_rw_session(*slots.iter().find(fits).unwrap()).unwrap();
        session.login(UserType::So, Some(&AuthPin::from(String::new()))).unwrap();
        session.init_pin(&AuthPin::from(self.pin.clone())).unwrap();
    }

    pub(super) fn slot_of(&self, serial: &str) -> Slot {
        let context = Pkcs11::new(&self.module).unwrap();
        let slots = context.get_slots_with_token().unwrap();
        slots.into_iter().find(|slot| context.get_token_info(*slot).unwrap().serial_number() == serial).unwrap()
    }

    pub(super) async fn new_pin(&self) {
        let token = self.open(self.settings()).unwrap();
        token.ensure_system_key(&ctx("a"), SystemKey::Anchor).await.unwrap();
        let label = ["--token-label", &self.label];
        let id = material(1);
        let made = token.generate(&ctx("a"), KeyKind::Aes256, id, "key").await.unwrap().value;
        let key = key_ref(id, &made);
        let sealed = token.encrypt(&ctx("a"), &key, vec![], secret(b"x")).await.unwrap().value;

        // Work that goes on all the time; whatever fails is told at the end.
        let stop = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(AtomicUsize::new(0));
        let load: Vec<_> = (0..8)
            .map(|_| {
                let (token, key, sealed) = (token.clone(), key.clone(), sealed.clone());
                let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let GcmOutput { iv, ciphertext } = sealed.clone();
                        let opened = token.decrypt(&ctx("load"), &key, iv, vec![], ciphertext).await?;
                        assert!(opened.value == secret(b"x"));
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<_, TokenError>(())
                })
            })
            .collect();
        let moves_on = || async {
            let before = calls.load(Ordering::Relaxed);
            for _ in 0..1000 {
                if calls.load(Ordering::Relaxed) > before + 50 {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err("the load stands still".to_owned())
        };
        let pin = |text: &str| SecretString::new(text.to_owned());

        self.check("a wrong PIN is told, tried once, and the old one goes on", async {
            let attempts = login_attempts();
            class_is(token.change_pin(pin("not-the-pin")).await, ErrorClass::Operator)?;
            want(login_attempts() == attempts + 2, "not one try each")?;
            want(token.status() == Status::Ready, "down")?;
            moves_on().await
        })
        .await;
        self.check("it is not tried again, and nobody is logged out for it", async {
            let attempts = login_attempts();
            let error = token.change_pin(pin("not-the-pin")).await.unwrap_err();
            want(
                error.class == ErrorClass::Operator && error.open_failure() == OpenFailure::PinIncorrect,
                &text(error),
            )?;
            want(login_attempts() == attempts, "tried")?;
            moves_on().await
        })
        .await;
        self.check("a new PIN works under load", async {
            self.set_pin(&label, &self.pin, NEW_PIN)?;
            moves_on().await?;
            let attempts = login_attempts();
            token.change_pin(pin(NEW_PIN)).await.map_err(text)?;
            want(login_attempts() == attempts + 1, "more than one try")?;
            moves_on().await?;
            token.generate(&ctx("a"), KeyKind::Aes256, material(2), "key").await.map_err(text).map(|_| ())
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        self.check("no call of the load failed", async {
            for calls in load {
                calls.await.map_err(|error| error.to_string())?.map_err(text)?;
            }
            Ok(())
        })
        .await;

        self.check("where both fail the token is down and says why", async {
            self.set_pin(&label, NEW_PIN, "third-pin")?;
            let error = token.change_pin(pin("mistyped")).await.unwrap_err();
            want(error.class == ErrorClass::Operator && error.detail.contains("old PIN"), &text(error))?;
            let Status::Down(reason) = token.status() else { return Err("ready".to_owned()) };
            want(reason.contains("operator"), &reason)?;
            class_is(token.encrypt(&ctx("a"), &key, vec![], secret(b"x")).await, ErrorClass::Operator)
        })
        .await;
        self.check("the right PIN brings it back", async {
            token.change_pin(pin("third-pin")).await.map_err(text)?;
            want(token.status() == Status::Ready, "down")?;
            token.encrypt(&ctx("a"), &key, vec![], secret(b"x")).await.map_err(text).map(|_| ())
        })
        .await;
        self.check("a key that was replaced meanwhile is the wrong key", async {
            let hex = hex::encode(id.id);
            let officer = Bench {
                module: self.module.clone(),
                variable: self.variable.clone(),
                conf: self.conf.clone(),
                label: self.label.clone(),
                pin: "third-pin".to_owned(),
                marks: self.marks.clone(),
                failed: AtomicBool::new(false),
            };
            officer.officer(&["--delete-object", "--type", "secrkey", "--id", &hex])?;
            officer.officer(&["--keygen", "--key-type", "AES:32", "--id", &hex, "--label", "key"])?;
            self.set_pin(&label, "third-pin", "fourth-pin")?;
            token.change_pin(pin("fourth-pin")).await.map_err(text)?;
            class_is(token.encrypt(&ctx("a"), &key, vec![], secret(b"x")).await, ErrorClass::WrongKey)
        })
        .await;
        token.close();
    }

    /// By another process, as an officer does it.
    fn set_pin(&self, token: &[&str], old: &str, new: &str) -> Checked {
        self.forget_marks();
        let output = Command::new("pkcs11-tool")
            .arg("--module")
            .arg(&self.module)
            .args(token)
            .args(["--change-pin", "--pin", old, "--new-pin", new])
            .output()
            .map_err(|error| error.to_string())?;
        want(output.status.success(), &String::from_utf8_lossy(&output.stderr))
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
