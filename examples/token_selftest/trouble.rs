//! What is refused, and what goes wrong: PINs, tokens that look alike, full queues, lost logins, a token that goes away.

use super::*;

impl Bench {
    pub(super) async fn wrong_pin(&self) {
        let mut low = false;
        let wrong = || SecretString::new("not-the-pin".into());
        self.check("a wrong PIN is the operator's matter", async {
            class_is(Token::open(self.settings(), wrong()).map(|_| ()), ErrorClass::Operator)?;
            want(login_attempts() == 1, "not one try")
        })
        .await;
        self.check("a rejected PIN is not tried again", async {
            class_is(Token::open(self.settings(), wrong()).map(|_| ()), ErrorClass::Operator)?;
            want(login_attempts() == 1, "tried again")
        })
        .await;
        self.check("the right PIN still works", async {
            let token = self.open(self.settings()).map_err(text)?;
            want(login_attempts() == 2, "not one more try")?;
            let counted = token.info().user_pin_count_low;
            token.close();
            low = counted;
            Ok(())
        })
        .await;
        self.check("the token counted the wrong PIN", async { want(low, "no flag says that a PIN was wrong") }).await;
    }

    pub(super) async fn two_tokens(&self) {
        self.check("two tokens with one label are an error", async {
            let error = self.open(self.settings()).map(|_| ()).unwrap_err();
            want(login_attempts() == 0, "logged in")?;
            want(error.class == ErrorClass::Operator && error.detail.matches('`').count() >= 6, &text(error))
        })
        .await;
        self.check("the serial tells them apart", async {
            let error = self.open(self.settings()).map(|_| ()).unwrap_err();
            let serial = error.detail.split('`').nth(3).ok_or("no serial in the message")?.to_owned();
            let selector =
                Selector { label: Some(self.label.clone()), serial: Some(serial.clone()), ..Selector::default() };
            let token = self.open(Settings { selector, ..self.settings() }).map_err(text)?;
            let same = token.info().serial == serial;
            token.close();
            want(same, "another token")
        })
        .await;
        self.check("a token that is not there", async {
            let selector = Selector { label: Some("nobody".into()), ..Selector::default() };
            class_is(self.open(Settings { selector, ..self.settings() }).map(|_| ()), ErrorClass::Context)
        })
        .await;
    }

    pub(super) async fn queue(&self) {
        let token = self.open(Settings { workers: 1, queue: 400, ..self.settings() }).unwrap();
        let id = material(1);
        let made = token.generate(&ctx("a"), KeyKind::Rsa(2048), id, "rsa").await.unwrap().value;
        let key = key_ref(id, &made);
        let flood = |token: &Token, jobs: usize| {
            let (done, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            for _ in 0..jobs {
                let (token, key) = (token.clone(), key.clone());
                let (done, refused) = (Arc::clone(&done), Arc::clone(&refused));
                tokio::spawn(async move {
                    let digest = hashed(Hash::Sha256, b"m");
                    match token.sign(&ctx("flood"), &key, SignMechanism::RsaPss(Hash::Sha256), digest).await {
                        Ok(_) => done.fetch_add(1, Ordering::Relaxed),
                        Err(error) => {
                            assert_eq!(error.class, ErrorClass::Capacity, "{error}");
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                });
            }
            (done, refused)
        };
        let drained = |token: Token| async move {
            while token.gauges().queued > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        self.check("one principal's flood does not starve another", async {
            let (done, _) = flood(&token, 300);
            while token.gauges().queued < 200 {
                tokio::task::yield_now().await;
            }
            let before = done.load(Ordering::Relaxed);
            token.random(&ctx("quiet"), 8).await.map_err(text)?;
            let after = done.load(Ordering::Relaxed);
            want(after - before < 50, &format!("{} jobs of the flood went first", after - before))
        })
        .await;
        drained(token.clone()).await;
        self.check("a deadline that has passed", async {
            class_is(token.random(&ctx_until("a", Instant::now()), 8).await, ErrorClass::Deadline)
        })
        .await;
        self.check("a deadline that passes in the queue", async {
            let _ = flood(&token, 300);
            while token.gauges().queued < 200 {
                tokio::task::yield_now().await;
            }
            let soon = Instant::now() + Duration::from_millis(3);
            let digest = hashed(Hash::Sha256, b"m");
            let late = token.sign(&ctx_until("flood", soon), &key, SignMechanism::RsaPss(Hash::Sha256), digest).await;
            class_is(late, ErrorClass::Deadline)
        })
        .await;
        drained(token.clone()).await;
        token.close();

        let token = self.open(Settings { workers: 1, queue: 8, ..self.settings() }).unwrap();
        self.check("a full queue is refused at once, and has room for another principal", async {
            let (_, refused) = flood(&token, 100);
            while refused.load(Ordering::Relaxed) < 50 {
                tokio::task::yield_now().await;
            }
            token.random(&ctx("quiet"), 8).await.map_err(text)?;
            let counted = token.gauges().errors.iter().any(|(name, count)| *name == "capacity" && *count >= 50);
            want(counted, "not counted")
        })
        .await;
        drained(token.clone()).await;
        token.close();
    }

    /// Every session is closed behind the bridge's back, which logs the process out.
    pub(super) async fn logged_out(&self) {
        let token = self.open(self.settings()).unwrap();
        token.ensure_system_key(&ctx("a"), SystemKey::StoreKek).await.unwrap();
        let make = async |n, kind| {
            let made = token.generate(&ctx("a"), kind, material(n), "key").await.unwrap().value;
            key_ref(material(n), &made)
        };
        let aes = make(1, KeyKind::Aes256).await;
        let pair = make(2, KeyKind::Ec(Curve::P256)).await;
        let hmac = make(3, KeyKind::Hmac(Hash::Sha256)).await;
        let sealed = token.encrypt(&ctx("a"), &aes, vec![], secret(b"x")).await.unwrap().value;
        for round in 1..=3u64 {
            self.check(&format!("everything works after a lost login, round {round}"), async {
                self.close_all_sessions(token.info().slot);
                let mut calls = tokio::task::JoinSet::new();
                for _ in 0..8 {
                    let (token, aes, pair, hmac) = (token.clone(), aes.clone(), pair.clone(), hmac.clone());
                    let sealed = sealed.clone();
                    calls.spawn(async move {
                        let opened = token.decrypt(&ctx("a"), &aes, sealed.iv, vec![], sealed.ciphertext).await?;
                        assert!(opened.value == secret(b"x"));
                        token.sign(&ctx("a"), &pair, SignMechanism::Ecdsa, hashed(Hash::Sha256, b"m")).await?;
                        token.mac(&ctx("a"), &hmac, Hash::Sha256, secret(b"m")).await?;
                        token.encrypt(&ctx("a"), &KeyRef::System(SystemKey::StoreKek), vec![], secret(b"x")).await
                    });
                }
                for call in calls.join_all().await {
                    call.map_err(text)?;
                }
                want(login_attempts() == 1 + round, &format!("{} logins", login_attempts()))
            })
            .await;
        }
        self.check("keys are made and destroyed after a lost login", async {
            self.close_all_sessions(token.info().slot);
            token.generate(&ctx("a"), KeyKind::Aes256, material(9), "key").await.map_err(text)?;
            self.close_all_sessions(token.info().slot);
            want(token.destroy(&ctx("a"), material(9)).await.map_err(text)?.value == 1, "count")
        })
        .await;
        token.close();
    }

    pub(super) fn close_all_sessions(&self, slot: u64) {
        let mut list = std::ptr::null_mut();
        // SAFETY: the module is loaded already and stays so, and with it the list that it writes a pointer to; the function
        // takes a slot id. No call runs on a session now.
        unsafe {
            let module = std::mem::ManuallyDrop::new(cryptoki_sys::Pkcs11::new(&self.module).unwrap());
            assert_eq!(module.C_GetFunctionList.as_ref().unwrap()(&raw mut list), cryptoki_sys::CKR_OK);
            assert_eq!((*list).C_CloseAllSessions.unwrap()(slot), cryptoki_sys::CKR_OK);
        }
    }

    /// The token directory goes away. (SoftHSM sees it again only after C_Finalize and C_Initialize.)
    pub(super) async fn gone(&self) {
        let directory = self.conf.parent().unwrap().join("tokens");
        let away = directory.with_extension("away");
        let token = self.open(self.settings()).unwrap();
        token.ensure_system_key(&ctx("a"), SystemKey::StoreKek).await.unwrap();
        let id = material(1);
        let made = token.generate(&ctx("a"), KeyKind::Aes256, id, "aes").await.unwrap().value;
        let key = key_ref(id, &made);
        self.check("a token that went away is not a missing key", async {
            token.encrypt(&ctx("a"), &key, vec![], secret(b"x")).await.map_err(text)?;
            std::fs::rename(&directory, &away).map_err(|error| error.to_string())?;
            let answer = token.encrypt(&ctx("a"), &key, vec![], secret(b"x")).await;
            let held = token.holds(&ctx("a"), id).await;
            let destroyed = token.destroy(&ctx("a"), id).await;
            let absent = token.absent(&ctx("a"), vec![id, material(2)]).await;
            let status = token.status();
            std::fs::rename(&away, &directory).map_err(|error| error.to_string())?;
            class_is(answer, ErrorClass::Context)?;
            class_is(held, ErrorClass::Context)?;
            class_is(destroyed, ErrorClass::Context)?;
            class_is(absent, ErrorClass::Context)?;
            want(status != Status::Ready, "still called ready")
        })
        .await;
        token.close();
    }
}
