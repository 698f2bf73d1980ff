//! What an officer sees, adopts and attests, and tokens that take short ids.

use std::sync::Mutex;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, CertificateType, MlDsaParameterSetType, ObjectClass};

use super::*;

impl Bench {
    pub(super) async fn officers_tools(&self) {
        // Before the token is opened, so that the enumeration meets them.
        self.officer(&["--keygen", "--key-type", "AES:32", "--id", "a001", "--label", "early"]).unwrap();
        let long = hex::encode([0xa2; 16]);
        self.officer(&["--keypairgen", "--key-type", "EC:secp384r1", "--id", &long, "--label", "early pair"]).unwrap();
        let token = &self.open(self.settings()).unwrap();
        let label = |label: &str| ObjectSelector { label: Some(label.to_owned()), ..ObjectSelector::default() };

        self.check("anchor and attest are made once", async {
            for key in [SystemKey::Anchor, SystemKey::Attest] {
                want(token.ensure_system_key(&ctx("a"), key).await.map_err(text)?, "not made")?;
                want(!token.ensure_system_key(&ctx("a"), key).await.map_err(text)?, "made twice")?;
                token.check(&ctx("a"), &KeyRef::System(key)).await.map_err(text)?;
            }
            let known = token.known_materials().await.map_err(text)?;
            want(known.len() == 1 && known[0].0 == material(0xa2), &format!("{known:?}"))?;
            want(token.gauges().debris == 1, "debris")
        })
        .await;
        self.check("the attest key signs", async {
            let message = b"evidence";
            let spki = token.system_public_key(&ctx("a"), SystemKey::Attest).await.map_err(text)?;
            let digest = hashed(Hash::Sha256, message);
            let signed = token.sign_system(&ctx("a"), SystemKey::Attest, digest.clone()).await.map_err(text)?;
            want(signed.facts.mechanism == "CKM_RSA_PKCS" && *signed.facts.token == *token.info().serial, "facts")?;
            want(signed.value.len() == 384, "RSA-3072")?;
            verified(&spki, &signature::RSA_PKCS1_2048_8192_SHA256, message, &signed.value)?;
            class_is(token.sign_system(&ctx("a"), SystemKey::StoreKek, digest).await, ErrorClass::Unsupported)?;
            class_is(token.system_public_key(&ctx("a"), SystemKey::Anchor).await, ErrorClass::Unsupported)
        })
        .await;
        self.check("a second connection knows the system keys", async {
            let second = self.open(self.settings()).map_err(text)?;
            let signed = second.sign_system(&ctx("a"), SystemKey::Attest, hashed(Hash::Sha256, b"m")).await;
            second.close();
            signed.map_err(text).map(|_| ())
        })
        .await;

        self.check("objects are inspected", async {
            let found = token.inspect(&ctx("a"), &label("hsm-bridge/attest")).await.map_err(text)?;
            let of = |class: &str| found.iter().find(|object| object.class.as_deref() == Some(class)).cloned();
            let (Some(private), Some(public)) = (of("CKO_PRIVATE_KEY"), of("CKO_PUBLIC_KEY")) else {
                return Err(format!("{found:?}"));
            };
            let guarded = (private.sensitive, private.extractable, private.never_extractable, private.local);
            want(guarded == (Some(true), Some(false), Some(true), Some(true)), &format!("{private:?}"))?;
            let uses = (private.sign, private.decrypt, private.unwrap, private.derive);
            want(uses == (Some(true), Some(false), Some(false), Some(false)), &format!("{private:?}"))?;
            want(private.modulus_bits == Some(3072) && public.modulus_bits == Some(3072), "modulus")?;
            want(public.verify == Some(true) && public.key_type.as_deref() == Some("CKK_RSA"), &format!("{public:?}"))?;
            let by_id = ObjectSelector { id: Some(hex::decode(&private.id).unwrap()), label: None };
            want(token.inspect(&ctx("a"), &by_id).await.map_err(text)?.len() == 2, "by id")?;
            want(private.id.len() == 16, "an id that could be a material's")?;

            let early = token.inspect(&ctx("a"), &label("early")).await.map_err(text)?;
            let [aes] = early.as_slice() else { return Err(format!("{early:?}")) };
            want(aes.id == "a001" && aes.key_type.as_deref() == Some("CKK_AES"), &format!("{aes:?}"))?;
            want(aes.value_len == Some(32) && aes.modulus_bits.is_none() && aes.curve.is_none(), &format!("{aes:?}"))?;
            want(aes.key_gen_mechanism.as_deref() == Some("CKM_AES_KEY_GEN"), &format!("{aes:?}"))?;
            let pair = token.inspect(&ctx("a"), &label("early pair")).await.map_err(text)?;
            want(
                pair.len() == 2 && pair.iter().all(|half| half.curve.as_deref() == Some("P-384")),
                &format!("{pair:?}"),
            )?;
            want(token.inspect(&ctx("a"), &label("nobody")).await.map_err(text)?.is_empty(), "nobody")
        })
        .await;

        self.certificates(token).await;
        self.adoption(token).await;
        token.close();
    }

    async fn certificates(&self, token: &Token) {
        let directory = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let (key, cert) = (directory.path().join("key"), directory.path().join(name));
            let output = Command::new("openssl")
                .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=token", "-outform", "DER"])
                .arg("-keyout")
                .arg(key)
                .arg("-out")
                .arg(&cert)
                .output()
                .unwrap();
            assert!(output.status.success());
            cert
        };
        let selector = self.settings().selector;
        let read = |label: &str| certificate(&Isolation::InProcess, &self.module, &selector, label);
        self.check("the token's certificate is read without a login", async {
            want(read("identity").map_err(text)?.is_none(), "there is none yet")?;
            let cert = made("one.der");
            let path = cert.display().to_string();
            self.officer(&["--write-object", &path, "--type", "cert", "--label", "identity", "--id", "c1"])?;
            let attempts = login_attempts();
            want(read("identity").map_err(text)? == Some(std::fs::read(&cert).unwrap()), "another certificate")?;
            want(login_attempts() == attempts, "a login")?;
            want(read("other").map_err(text)?.is_none(), "another label")?;
            token.random(&ctx("a"), 8).await.map_err(text).map(|_| ())
        })
        .await;
        self.check("a private certificate is nobody's identity", async {
            let context = cryptoki::context::Pkcs11::new(&self.module).unwrap();
            let slot = cryptoki::slot::Slot::try_from(token.info().slot).unwrap();
            let session = context.open_rw_session(slot).unwrap();
            let hidden = [
                Attribute::Class(ObjectClass::CERTIFICATE),
                Attribute::CertificateType(CertificateType::X_509),
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Label(b"hidden".to_vec()),
                Attribute::Subject(b"x".to_vec()),
                Attribute::Value(b"hidden".to_vec()),
            ];
            session.create_object(&hidden).map_err(|error| error.to_string())?;
            // This process is logged in and could see it.
            want(read("hidden").map_err(text)?.is_none(), "shown")
        })
        .await;
        self.check("two certificates with one label are an error", async {
            let path = made("three.der").display().to_string();
            self.officer(&["--write-object", &path, "--type", "cert", "--label", "identity", "--id", "c2"])?;
            class_is(read("identity"), ErrorClass::WrongKey)
        })
        .await;
    }

    async fn adoption(&self, token: &Token) {
        let rows: &[(&str, &[&str], KeyKind)] = &[
            ("a001", &[], KeyKind::Aes256),
            ("b002", &["--keygen", "--key-type", "AES:32"], KeyKind::Aes256),
            ("b003", &["--keypairgen", "--key-type", "rsa:2048"], KeyKind::Rsa(2048)),
            ("b004", &["--keypairgen", "--key-type", "EC:prime256v1"], KeyKind::Ec(Curve::P256)),
            ("b005", &["--keypairgen", "--key-type", "EC:secp256k1"], KeyKind::Ec(Curve::Secp256k1)),
            ("b006", &["--keypairgen", "--key-type", "EC:edwards25519"], KeyKind::Ed25519),
            ("b007", &["--keygen", "--key-type", "GENERIC:32", "--usage-sign"], KeyKind::Hmac(Hash::Sha256)),
            ("b008", &["--keygen", "--key-type", "GENERIC:64", "--usage-sign"], KeyKind::Hmac(Hash::Sha512)),
            ("b00900", &["--keygen", "--key-type", "AES:32", "--extractable"], KeyKind::Aes256),
        ];
        let mut adopted = Vec::new();
        for (n, (id, making, kind)) in rows.iter().enumerate() {
            self.check(&format!("{} with id {id} is adopted and used", kind.name()), async {
                if !making.is_empty() {
                    self.officer(&[making, &["--id", id, "--label", "somebody's", "--sensitive"][..]].concat())?;
                }
                let material = material(100 + n as u8);
                let done = token.adopt(&ctx("a"), hex::decode(id).unwrap(), material).await.map_err(text)?;
                let Adopted { kind: found, generated, objects } = done.value;
                want(found == *kind, &format!("{found:?}"))?;
                want(hex::encode(&generated.object_id) == *id && objects.iter().all(|object| object.id == *id), "ids")?;
                let halves = if generated.spki.is_some() { 2 } else { 1 };
                want(objects.len() == halves, "objects")?;
                want(token.known_materials().await.map_err(text)?.contains(&(material, halves)), "not known")?;
                let extractable = objects.iter().any(|object| object.extractable == Some(true));
                want(extractable == making.contains(&"--extractable"), &format!("{objects:?}"))?;
                let key = key_ref(material, &generated);
                self.used(token, *kind, &key).await?;
                adopted.push((material, hex::decode(id).unwrap(), *kind, key));
                Ok(())
            })
            .await;
        }
        self.check("ML_DSA_65 of somebody else is adopted and used", async {
            // pkcs11-tool has no word for it.
            let context = cryptoki::context::Pkcs11::new(&self.module).unwrap();
            let slot = cryptoki::slot::Slot::try_from(token.info().slot).unwrap();
            let session = context.open_rw_session(slot).unwrap();
            let set = MlDsaParameterSetType::ML_DSA_65;
            let stored = [Attribute::Token(true), Attribute::Id(vec![0xb0, 0x10])];
            let public = [&stored[..], &[Attribute::ParameterSet(set.into()), Attribute::Verify(true)]].concat();
            let private = [&stored[..], &[Attribute::Private(true), Attribute::Sensitive(true), Attribute::Sign(true)]];
            session
                .generate_key_pair(&Mechanism::MlDsaKeyPairGen, &public, &private.concat())
                .map_err(|error| error.to_string())?;
            let done = token.adopt(&ctx("a"), vec![0xb0, 0x10], material(120)).await.map_err(text)?;
            let Adopted { kind, generated, objects } = done.value;
            want(kind == KeyKind::MlDsa(MlDsa::MlDsa65), &format!("{kind:?}"))?;
            want(
                objects.len() == 2 && objects.iter().all(|half| half.parameter_set.as_deref() == Some("ML-DSA-65")),
                &format!("{objects:?}"),
            )?;
            self.used(token, kind, &key_ref(material(120), &generated)).await
        })
        .await;
        self.check("an id of our length is adopted too, and leaves its old name", async {
            let id = material(0xa2).cka_id();
            token.adopt(&ctx("a"), id, material(0xa3)).await.map_err(text)?;
            let known = token.known_materials().await.map_err(text)?;
            want(known.contains(&(material(0xa3), 2)), &format!("{known:?}"))?;
            want(!known.iter().any(|(known, _)| *known == material(0xa2)), "two names")?;
            want(token.gauges().debris == 0, &format!("{} pieces of debris", token.gauges().debris))
        })
        .await;
        self.check("what is no key of ours is not adopted", async {
            let adopt = async |id: &str| token.adopt(&ctx("a"), hex::decode(id).unwrap(), material(90)).await;
            self.officer(&["--keygen", "--key-type", "AES:16", "--id", "c001", "--label", "short"])?;
            class_is(adopt("c001").await.map(|_| ()), ErrorClass::Unsupported)?;
            for _ in 0..2 {
                self.officer(&["--keygen", "--key-type", "AES:32", "--id", "c002", "--label", "twins"])?;
            }
            class_is(adopt("c002").await.map(|_| ()), ErrorClass::WrongKey)?;
            self.officer(&["--keypairgen", "--key-type", "EC:prime256v1", "--id", "c003", "--label", "half"])?;
            self.officer(&["--delete-object", "--type", "pubkey", "--id", "c003"])?;
            class_is(adopt("c003").await.map(|_| ()), ErrorClass::WrongKey)?;
            class_is(adopt("c0ff").await.map(|_| ()), ErrorClass::KeyMissing)?;
            // Somebody else's already.
            class_is(adopt("b002").await.map(|_| ()), ErrorClass::WrongKey)?;
            let label = Some("hsm-bridge/anchor".to_owned());
            let anchor = token.inspect(&ctx("a"), &ObjectSelector { label, id: None }).await.map_err(text)?;
            class_is(adopt(&anchor[0].id).await.map(|_| ()), ErrorClass::WrongKey)?;
            want(
                !token.known_materials().await.map_err(text)?.iter().any(|(known, _)| *known == material(90)),
                "placed",
            )
        })
        .await;
        self.check("adopted keys are used after a restart", async {
            let second = self.open(self.settings()).map_err(text)?;
            second.place(adopted.iter().map(|(material, id, ..)| (*material, id.clone())).collect());
            for (material, _, kind, key) in &adopted {
                want(
                    second.known_materials().await.map_err(text)?.iter().any(|(known, _)| known == material),
                    "not known",
                )?;
                self.used(&second, *kind, key).await?;
            }
            second.close();
            Ok(())
        })
        .await;
        self.check("an adopted key that was replaced is the wrong key, and goes when it is destroyed", async {
            let (aes, _, _, key) = &adopted[1];
            self.officer(&["--delete-object", "--type", "secrkey", "--id", "b002"])?;
            self.officer(&["--keygen", "--key-type", "AES:32", "--id", "b002", "--label", "another"])?;
            class_is(token.encrypt(&ctx("a"), key, vec![], secret(b"x")).await, ErrorClass::WrongKey)?;
            want(token.holds(&ctx("a"), *aes).await.map_err(text)?, "not held")?;
            want(token.destroy(&ctx("a"), *aes).await.map_err(text)?.value == 1, "count")?;
            let id = ObjectSelector { id: Some(vec![0xb0, 0x02]), label: None };
            want(token.inspect(&ctx("a"), &id).await.map_err(text)?.is_empty(), "still there")
        })
        .await;
    }

    async fn used(&self, token: &Token, kind: KeyKind, key: &KeyRef) -> Checked {
        token.check(&ctx("a"), key).await.map_err(text)?;
        let sign = async |mechanism, input| token.sign(&ctx("a"), key, mechanism, input).await.map(|_| ());
        match kind {
            KeyKind::Aes256 => token.encrypt(&ctx("a"), key, vec![], secret(b"x")).await.map(|_| ()),
            KeyKind::Hmac(hash) => token.mac(&ctx("a"), key, hash, secret(b"x")).await.map(|_| ()),
            KeyKind::Rsa(_) => sign(SignMechanism::RsaPss(Hash::Sha256), hashed(Hash::Sha256, b"m")).await,
            KeyKind::Ec(_) => sign(SignMechanism::Ecdsa, hashed(Hash::Sha256, b"m")).await,
            KeyKind::Ed25519 => sign(SignMechanism::Ed25519, secret(b"m")).await,
            KeyKind::MlDsa(_) => sign(SignMechanism::MlDsa, secret(b"m")).await,
        }
        .map_err(text)
    }

    pub(super) async fn inventories(&self) {
        let token = &self.open(self.settings()).unwrap();
        token.ensure_system_key(&ctx("a"), SystemKey::Anchor).await.unwrap();
        for n in 0..=255u8 {
            let id = MaterialId { id: [n; 16], generation: 3 };
            token.generate(&ctx("a"), KeyKind::Aes256, id, "many").await.unwrap();
        }
        let told = Arc::new(Mutex::new(Vec::new()));
        let progress = |token: &Token, make: bool| {
            let (told, token) = (Arc::clone(&told), token.clone());
            let made = Arc::new(AtomicUsize::new(0));
            let progress: Arc<dyn Fn(u64, u64) + Send + Sync> = Arc::new({
                let made = Arc::clone(&made);
                move |done, total| {
                    let mut told = told.lock().unwrap();
                    if make && done == 64 {
                        let (token, made) = (token.clone(), Arc::clone(&made));
                        tokio::spawn(async move {
                            let kind = KeyKind::Ec(Curve::P256);
                            token.generate(&ctx("b"), kind, material(1), "between").await.unwrap();
                            token.destroy(&ctx("b"), MaterialId { id: [255; 16], generation: 3 }).await.unwrap();
                            made.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                    // Between two slices the thread is free: on a busy machine the others need a moment to come.
                    for _ in 0..1000 {
                        if !make || done != 128 || made.load(Ordering::Relaxed) == 1 {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    let between = made.load(Ordering::Relaxed);
                    told.push((done, total, between));
                }
            });
            (progress, made)
        };
        self.check("an inventory is whole, and says how far it is", async {
            let (progress, _) = progress(token, false);
            let mut all = token.inventory(&ctx("a"), progress).await.map_err(text)?;
            let told = std::mem::take(&mut *told.lock().unwrap());
            let total = all.len() as u64;
            want(
                told.first() == Some(&(0, total, 0)) && told.last() == Some(&(total, total, 0)),
                &format!("{told:?}"),
            )?;
            want(told.windows(2).all(|pair| pair[0].0 < pair[1].0), &format!("{told:?}"))?;
            all.retain(stored);
            want(all.len() == 257, &format!("{} objects", all.len()))?;
            want(all.iter().all(|object| object.extractable == Some(false)), "attributes")?;
            // As one by one.
            let mut inspected = token.inspect(&ctx("a"), &ObjectSelector::default()).await.map_err(text)?;
            inspected.retain(stored);
            all.sort_by(|one, other| one.id.cmp(&other.id));
            inspected.sort_by(|one, other| one.id.cmp(&other.id));
            want(all == inspected, "not the same")
        })
        .await;
        self.check("keys are made and destroyed in the middle of an inventory", async {
            let (progress, made) = progress(token, true);
            let all = token.inventory(&ctx("a"), progress).await.map_err(text)?;
            let told = std::mem::take(&mut *told.lock().unwrap());
            want(made.load(Ordering::Relaxed) == 1, "not made")?;
            want(told.iter().any(|(done, total, between)| *between == 1 && done < total), &format!("{told:?}"))?;
            let keys = all.iter().filter(|object| stored(object)).count();
            want(keys == 256, &format!("{keys} objects: the destroyed one is not among them"))
        })
        .await;
        self.check("an inventory survives a lost login", async {
            let (slot, module) = (token.info().slot, self.module.clone());
            let lost = AtomicBool::new(false);
            let bench = Bench {
                module,
                variable: self.variable.clone(),
                conf: self.conf.clone(),
                label: String::new(),
                pin: String::new(),
                marks: self.marks.clone(),
                failed: AtomicBool::new(false),
            };
            let progress = Arc::new(move |done: u64, _: u64| {
                if done == 128 && !lost.swap(true, Ordering::Relaxed) {
                    bench.close_all_sessions(slot);
                }
            });
            let all = token.inventory(&ctx("a"), progress).await.map_err(text)?;
            let keys = all.iter().filter(|object| stored(object)).count();
            want(keys == 258, &format!("{keys} objects"))?;
            want(all.iter().all(|object| object.class.is_some()), "handles of another login were read")
        })
        .await;
        token.close();
    }

    pub(super) async fn short_ids(&self) {
        let profile = Profile { cka_id_bytes: Some(2), label_max: Some(40), ..Profile::default() };
        let settings = || Settings { profile: profile.clone(), ..self.settings() };
        let token = &self.open(settings()).unwrap();
        let name = "hsm-bridge/kms/4a5f9a4e-7c3b-4dd0-8f0a-0a7b7a3c9d55";
        self.check("system keys have short ids", async {
            for key in [SystemKey::Anchor, SystemKey::StoreKek, SystemKey::Attest] {
                want(token.ensure_system_key(&ctx("a"), key).await.map_err(text)?, "not made")?;
            }
            let mut objects = token.objects().await.map_err(text)?;
            objects.retain(|object| is_stored(object.class.as_deref()));
            want(objects.len() == 4 && objects.iter().all(|object| object.id.len() == 4), &format!("{objects:?}"))
        })
        .await;
        let mut keys = Vec::new();
        self.check("keys get free ids and short labels", async {
            for n in 0..24u8 {
                let kind = if n % 2 == 0 { KeyKind::Aes256 } else { KeyKind::Ec(Curve::P256) };
                let made = token.generate(&ctx("a"), kind, material(n), name).await.map_err(text)?.value;
                want(made.object_id.len() == 2, "id")?;
                keys.push((material(n), kind, made));
            }
            let mut ids: Vec<_> = keys.iter().map(|(.., made)| made.object_id.clone()).collect();
            ids.sort();
            ids.dedup();
            want(ids.len() == 24, "an id was used twice")?;
            let mut objects = token.objects().await.map_err(text)?;
            objects.retain(|object| is_stored(object.class.as_deref()));
            let longest = objects.iter().map(|object| object.label.len()).max();
            want(longest == Some(40), &format!("{longest:?}"))?;
            let mut labels: Vec<_> = objects.iter().map(|object| (&object.label, &object.class)).collect();
            labels.sort();
            labels.dedup();
            want(labels.len() == objects.len(), "labels are not unique")
        })
        .await;
        self.check("they are used and known", async {
            for (material, kind, made) in &keys {
                self.used(token, *kind, &key_ref(*material, made)).await?;
            }
            want(token.known_materials().await.map_err(text)?.len() == 24 && token.gauges().debris == 0, "not known")?;
            class_is(token.generate(&ctx("a"), KeyKind::Aes256, material(0), name).await, ErrorClass::WrongKey)
        })
        .await;
        let second = &self.open(settings()).unwrap();
        self.check("a key whose maker died is found by its label", async {
            want(second.known_materials().await.map_err(text)?.is_empty(), "nothing is placed yet")?;
            let (lost, ..) = keys.pop().unwrap();
            let absent = second.absent(&ctx("a"), vec![material(0), lost, material(200)]).await.map_err(text)?;
            want(absent == [material(200)], &format!("{absent:?}"))?;
            want(second.holds(&ctx("a"), lost).await.map_err(text)?, "not held")?;
            want(second.destroy(&ctx("a"), lost).await.map_err(text)?.value == 2, "not both halves")?;
            want(!second.holds(&ctx("a"), lost).await.map_err(text)?, "still held")?;
            want(!second.holds(&ctx("a"), material(200)).await.map_err(text)?, "nobody's")
        })
        .await;
        self.check("after a restart they are used where they were placed", async {
            second.place(keys.iter().map(|(material, _, made)| (*material, made.object_id.clone())).collect());
            want(second.known_materials().await.map_err(text)?.len() == 23, "not known")?;
            for (material, kind, made) in &keys {
                self.used(second, *kind, &key_ref(*material, made)).await?;
            }
            Ok(())
        })
        .await;
        self.check("destroying one leaves the others", async {
            let (gone, _, _) = keys.remove(0);
            want(second.destroy(&ctx("a"), gone).await.map_err(text)?.value == 1, "count")?;
            for (material, kind, made) in &keys {
                self.used(second, *kind, &key_ref(*material, made)).await?;
            }
            Ok(())
        })
        .await;
        second.close();
        token.close();
    }
}

fn stored(object: &ObjectFacts) -> bool {
    is_stored(object.class.as_deref())
}
