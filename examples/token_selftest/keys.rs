//! What a token does with keys: made, used, listed, destroyed, on the way through the bridge's own calls.

use super::*;

impl Bench {
    pub(super) async fn main(&self) {
        // Two AES keys with one id, made before the token is opened.
        let twin = hex::encode([0xdd; 16]);
        self.check("officer makes twins", async {
            for _ in 0..2 {
                self.officer(&["--keygen", "--key-type", "AES:32", "--id", &twin, "--label", "twin"])?;
            }
            Ok(())
        })
        .await;

        self.check("somebody leaves odd objects", async {
            self.officer(&["--keygen", "--key-type", "AES:32", "--id", "0102", "--label", "odd"])?;
            let tokens = self.conf.parent().unwrap().join("tokens");
            // What a SoftHSM that was killed leaves. Other tokens keep their objects in other ways.
            for directory in std::fs::read_dir(tokens).into_iter().flatten() {
                let file = "00000000-0000-0000-0000-000000000000.object";
                std::fs::write(directory.unwrap().path().join(file), b"").unwrap();
            }
            Ok(())
        })
        .await;

        let token = self.open(self.settings()).unwrap();
        println!("info {:?}", token.info());
        println!("capabilities {}", serde_json::to_string(&*token.capabilities()).unwrap());
        let token = &token;

        self.check("capabilities", async {
            let found = token.capabilities();
            want(found.aes_gcm && found.gcm_iv == "caller", "AES-GCM")?;
            want([Curve::P256, Curve::P384, Curve::P521].iter().all(|curve| found.ecdsa.contains(curve)), "curves")?;
            want(found.hmac.len() == 4, "MACs")?;
            want(found.rsa_pkcs1v15 && found.rsa_pss.len() == 4, "RSA")?;
            want(found.supports(KeyKind::Rsa(4096)) && found.supports(KeyKind::Aes256), "key kinds")?;
            want(token.status() == Status::Ready, "status")
        })
        .await;
        let can = token.capabilities();
        for (name, found) in [
            ("secp256k1", can.ecdsa.contains(&Curve::Secp256k1)),
            ("Ed25519", can.ed25519),
            ("ML-DSA", can.ml_dsa.len() == 3),
            ("OAEP with SHA-256, SHA-384 and SHA-512", can.oaep_hashes.len() == 3),
        ] {
            self.check(&format!("capability: {name}"), async { want(found, "the token has it not") }).await;
        }
        self.check("the odd key is debris, and nothing else", async {
            want(token.gauges().debris == 1, &format!("{} pieces of debris", token.gauges().debris))
        })
        .await;

        self.check("without a system key nobody says that a key is missing", async {
            let nobody = KeyRef::Kms { material: material(99), fingerprint: vec![].into() };
            class_is(token.encrypt(&ctx("a"), &nobody, vec![], secret(b"x")).await, ErrorClass::Context)
        })
        .await;

        self.check("system keys are made once", async {
            want(token.ensure_system_key(&ctx("a"), SystemKey::StoreKek).await.map_err(text)?, "not made")?;
            want(!token.ensure_system_key(&ctx("a"), SystemKey::StoreKek).await.map_err(text)?, "made twice")?;
            let key = KeyRef::System(SystemKey::StoreKek);
            token.check(&ctx("a"), &key).await.map_err(text)?;
            let sealed = token.encrypt(&ctx("a"), &key, b"aad".to_vec(), secret(b"store key")).await.map_err(text)?;
            let opened = token
                .decrypt(&ctx("a"), &key, sealed.value.iv, b"aad".to_vec(), sealed.value.ciphertext)
                .await
                .map_err(text)?;
            want(opened.value == secret(b"store key"), "another plaintext")?;
            class_is(
                token.encrypt(&ctx("a"), &KeyRef::System(SystemKey::IamWrap), vec![], secret(b"x")).await,
                ErrorClass::KeyMissing,
            )
        })
        .await;

        self.check("status is ready again", async {
            for _ in 0..300 {
                if token.status() == Status::Ready {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(format!("{:?}", token.status()))
        })
        .await;

        self.pairs(token).await;
        self.check("hmac keys", async {
            for (n, hash) in [Hash::Sha224, Hash::Sha256, Hash::Sha384, Hash::Sha512].into_iter().enumerate() {
                let id = material(30 + n as u8);
                let made = token.generate(&ctx("a"), KeyKind::Hmac(hash), id, "hmac").await.map_err(text)?.value;
                want(made.spki.is_none() && made.evidence.never_extractable, "evidence")?;
                let key = key_ref(id, &made);
                let one = token.mac(&ctx("a"), &key, hash, secret(b"message")).await.map_err(text)?;
                let other = token.mac(&ctx("a"), &key, hash, secret(b"messagf")).await.map_err(text)?;
                want(one.value.len() == hash.length() && one.value != other.value, "MAC")?;
                token.check(&ctx("a"), &key).await.map_err(text)?;
            }
            Ok(())
        })
        .await;
        self.known_keys(token).await;
        self.gcm(token).await;
        self.life(token).await;

        self.check("a duplicate id is refused", async {
            let twin = KeyRef::Kms { material: material(0xdd), fingerprint: vec![].into() };
            class_is(token.encrypt(&ctx("a"), &twin, vec![], secret(b"x")).await, ErrorClass::WrongKey)?;
            want(token.gauges().duplicates == 1, "not reported")?;
            want(token.known_materials().await.map_err(text)?.contains(&(material(0xdd), 2)), "not counted")
        })
        .await;

        self.check("objects are listed", async {
            let objects = token.objects().await.map_err(text)?;
            want(
                objects.iter().any(|object| {
                    object.label == "hsm-bridge/store-kek" && object.class.as_deref() == Some("CKO_SECRET_KEY")
                }),
                "no store-kek",
            )?;
            let id = hex::encode([1u8; 16]);
            want(objects.iter().filter(|object| object.id == id).count() == 2, "no pair")
        })
        .await;

        self.check("a second connection finds everything, with the first one's login", async {
            let attempts = login_attempts();
            let second = self.open(self.settings()).map_err(text)?;
            want(login_attempts() == attempts + 1, "more than one login")?;
            let (all, known) =
                (second.known_materials().await.map_err(text)?, token.known_materials().await.map_err(text)?);
            want(known.len() > 15, &format!("{} keys", known.len()))?;
            want(known.iter().all(|key| all.contains(key)), "other keys")?;
            second.check(&ctx("a"), &KeyRef::System(SystemKey::StoreKek)).await.map_err(text)?;
            second.close();
            class_is(second.random(&ctx("a"), 8).await, ErrorClass::Context)?;
            token.random(&ctx("a"), 8).await.map_err(text).map(|_| ())?;
            token.check(&ctx("a"), &KeyRef::System(SystemKey::StoreKek)).await.map_err(text).map(|_| ())
        })
        .await;
        token.close();
    }

    async fn pairs(&self, token: &Token) {
        use aws_lc_rs::signature as s;
        let message = b"a message of no importance";
        type Row = (KeyKind, SignMechanism, Option<Hash>, &'static dyn s::VerificationAlgorithm);
        let (pkcs1, pss) = (SignMechanism::RsaPkcs1v15, SignMechanism::RsaPss);
        let ecdsa = SignMechanism::Ecdsa;
        let rows: &[Row] = &[
            (KeyKind::Rsa(2048), pkcs1(Hash::Sha256), Some(Hash::Sha256), &s::RSA_PKCS1_2048_8192_SHA256),
            (KeyKind::Rsa(2048), pkcs1(Hash::Sha384), Some(Hash::Sha384), &s::RSA_PKCS1_2048_8192_SHA384),
            (KeyKind::Rsa(2048), pkcs1(Hash::Sha512), Some(Hash::Sha512), &s::RSA_PKCS1_2048_8192_SHA512),
            (KeyKind::Rsa(2048), pss(Hash::Sha256), Some(Hash::Sha256), &s::RSA_PSS_2048_8192_SHA256),
            (KeyKind::Rsa(2048), pss(Hash::Sha384), Some(Hash::Sha384), &s::RSA_PSS_2048_8192_SHA384),
            (KeyKind::Rsa(2048), pss(Hash::Sha512), Some(Hash::Sha512), &s::RSA_PSS_2048_8192_SHA512),
            (KeyKind::Rsa(3072), pss(Hash::Sha256), Some(Hash::Sha256), &s::RSA_PSS_2048_8192_SHA256),
            (KeyKind::Rsa(4096), pkcs1(Hash::Sha256), Some(Hash::Sha256), &s::RSA_PKCS1_2048_8192_SHA256),
            (KeyKind::Ec(Curve::P256), ecdsa, Some(Hash::Sha256), &s::ECDSA_P256_SHA256_ASN1),
            (KeyKind::Ec(Curve::P384), ecdsa, Some(Hash::Sha384), &s::ECDSA_P384_SHA384_ASN1),
            (KeyKind::Ec(Curve::P521), ecdsa, Some(Hash::Sha512), &s::ECDSA_P521_SHA512_ASN1),
            (KeyKind::Ec(Curve::Secp256k1), ecdsa, Some(Hash::Sha256), &s::ECDSA_P256K1_SHA256_ASN1),
            (KeyKind::Ed25519, SignMechanism::Ed25519, None, &s::ED25519),
            (KeyKind::MlDsa(MlDsa::MlDsa44), SignMechanism::MlDsa, None, &s::ML_DSA_44),
            (KeyKind::MlDsa(MlDsa::MlDsa65), SignMechanism::MlDsa, None, &s::ML_DSA_65),
            (KeyKind::MlDsa(MlDsa::MlDsa87), SignMechanism::MlDsa, None, &s::ML_DSA_87),
        ];
        let mut made: Vec<(KeyKind, MaterialId, Generated)> = Vec::new();
        for (kind, mechanism, hash, algorithm) in rows {
            self.check(&format!("{} signs with {mechanism:?}", kind.name()), async {
                let known = made.iter().position(|(known, ..)| known == kind);
                let position = match known {
                    Some(position) => position,
                    None => {
                        let id = material(1 + made.len() as u8);
                        let done = token.generate(&ctx("a"), *kind, id, "pair").await.map_err(text)?;
                        made.push((*kind, id, done.value));
                        made.len() - 1
                    }
                };
                let (_, id, generated) = &made[position];
                let key = key_ref(*id, generated);
                let input = hash.map_or(secret(message), |hash| hashed(hash, message));
                let signed = token.sign(&ctx("a"), &key, *mechanism, input).await.map_err(text)?;
                verified(generated.spki.as_ref().ok_or("no spki")?, *algorithm, message, &signed.value)?;
                token.check(&ctx("a"), &key).await.map_err(text)?;
                want(generated.evidence.sensitive && generated.evidence.local, "evidence")
            })
            .await;
        }
        self.check("a digest of a wrong length is bad input", async {
            let (_, id, generated) = &made[0];
            let key = key_ref(*id, generated);
            let how = SignMechanism::RsaPss(Hash::Sha256);
            class_is(token.sign(&ctx("a"), &key, how, secret(&[0; 31])).await, ErrorClass::Data)
        })
        .await;
        self.check("a pair under another pair's record is the wrong key", async {
            let crossed = key_ref(made[4].1, &made[5].2);
            let digest = hashed(Hash::Sha384, message);
            class_is(token.sign(&ctx("a"), &crossed, SignMechanism::Ecdsa, digest).await, ErrorClass::WrongKey)?;
            let straight = key_ref(made[4].1, &made[4].2);
            token.check(&ctx("a"), &straight).await.map_err(text).map(|_| ())
        })
        .await;
    }

    /// Keys whose value is known, so that somebody else's code can follow; their fingerprints are made outside too.
    async fn known_keys(&self, token: &Token) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, [0x42; 32]).unwrap();
        let file = file.to_str().unwrap();
        self.check("ciphertexts open with other code", async {
            let id = hex::encode([0xa1; 16]);
            let object = ["--write-object", file, "--type", "secrkey", "--key-type", "AES:32"];
            self.officer(&[&object[..], &["--id", &id, "--label", "known", "--usage-decrypt"]].concat())?;
            let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &[0x42; 32]).unwrap());
            let seal = |aad: &[u8], text: &[u8]| {
                let mut bytes = text.to_vec();
                let nonce = aead::Nonce::assume_unique_for_key([9; 12]);
                key.seal_in_place_append_tag(nonce, aead::Aad::from(aad), &mut bytes).unwrap();
                bytes
            };
            let fingerprint = [&[1, 1], [9; 12].as_slice(), &seal(b"hsm-bridge/kat/1", &[7; 16])].concat();
            let ours = KeyRef::Kms { material: material(0xa1), fingerprint: fingerprint.into() };
            let aad = b"some aad".to_vec();
            let sealed = token.encrypt(&ctx("a"), &ours, aad.clone(), secret(b"hello")).await.map_err(text)?.value;
            let nonce = aead::Nonce::try_assume_unique_for_key(&sealed.iv).unwrap();
            let mut bytes = sealed.ciphertext;
            let opened = key.open_in_place(nonce, aead::Aad::from(&aad), &mut bytes).map_err(|_| "does not open")?;
            want(opened == b"hello", "another plaintext")?;
            let theirs = seal(&aad, b"and back");
            let opened = token.decrypt(&ctx("a"), &ours, vec![9; 12], aad, theirs).await.map_err(text)?;
            want(opened.value == secret(b"and back"), "another plaintext")
        })
        .await;
        self.check("pkcs11-tool makes the same MAC", async {
            let id = material(35);
            let made = token.generate(&ctx("a"), KeyKind::Hmac(Hash::Sha256), id, "hmac").await.map_err(text)?.value;
            let (input, output) = (directory.path().join("input"), directory.path().join("output"));
            std::fs::write(&input, "message").unwrap();
            let (id_text, input, output) = (hex::encode(id.id), input.to_str().unwrap(), output.to_str().unwrap());
            let files = ["--input-file", input, "--output-file", output];
            self.officer(&[&["--sign", "--mechanism", "SHA256-HMAC", "--id", &id_text], &files[..]].concat())?;
            let ours =
                token.mac(&ctx("a"), &key_ref(id, &made), Hash::Sha256, secret(b"message")).await.map_err(text)?;
            want(ours.value == secret(&std::fs::read(output).unwrap()), "another MAC")
        })
        .await;
    }

    async fn gcm(&self, token: &Token) {
        let id = material(50);
        let made = token.generate(&ctx("a"), KeyKind::Aes256, id, "aes").await.unwrap().value;
        let key = &key_ref(id, &made);
        let seal = |aad: &'static [u8], plain: Vec<u8>| async move {
            token.encrypt(&ctx("a"), key, aad.to_vec(), SecretBytes::new(plain)).await.map_err(text)
        };
        let open = |sealed: GcmOutput, aad: &'static [u8]| async move {
            token.decrypt(&ctx("a"), key, sealed.iv, aad.to_vec(), sealed.ciphertext).await
        };
        self.check("GCM round trips", async {
            for len in [0usize, 1, 16, 32, 4096, 65536] {
                for aad in [&b""[..], b"context"] {
                    let plain = vec![7; len];
                    let sealed = seal(aad, plain.clone()).await?.value;
                    want(sealed.iv.len() == 12 && sealed.ciphertext.len() == len + 16, "lengths")?;
                    want(open(sealed, aad).await.map_err(text)?.value == secret(&plain), "another plaintext")?;
                }
            }
            let done = seal(b"", vec![1]).await?;
            want(done.facts.mechanism == "CKM_AES_GCM", "facts")?;
            want(done.value.iv != seal(b"", vec![1]).await?.value.iv, "the same IV twice")
        })
        .await;
        let good = seal(b"context", b"plaintext".to_vec()).await.unwrap().value;
        let good = &good;
        let changed = |change: &dyn Fn(&mut GcmOutput)| {
            let mut sealed = good.clone();
            change(&mut sealed);
            sealed
        };
        let bad: [(&str, GcmOutput, &'static [u8]); 9] = [
            ("another AAD", good.clone(), b"contexu"),
            ("no AAD", good.clone(), b""),
            ("a flipped bit", changed(&|sealed| sealed.ciphertext[0] ^= 1), b"context"),
            ("a flipped tag bit", changed(&|sealed| *sealed.ciphertext.last_mut().unwrap() ^= 0x80), b"context"),
            ("a flipped IV bit", changed(&|sealed| sealed.iv[3] ^= 1), b"context"),
            ("a cut ciphertext", changed(&|sealed| sealed.ciphertext.truncate(20)), b"context"),
            ("a ciphertext shorter than a tag", changed(&|sealed| sealed.ciphertext.truncate(15)), b"context"),
            ("a lengthened ciphertext", changed(&|sealed| sealed.ciphertext.push(0)), b"context"),
            ("an IV of no bytes", changed(&|sealed| sealed.iv.clear()), b"context"),
        ];
        for (name, sealed, aad) in bad {
            self.check(&format!("{name} is bad input"), async { class_is(open(sealed, aad).await, ErrorClass::Data) })
                .await;
        }
        self.check("1000 bad ciphertexts disturb nobody", async {
            let sessions = token.gauges().sessions_replaced;
            let bad = changed(&|sealed| sealed.ciphertext[0] ^= 1);
            for _ in 0..1000 {
                class_is(open(bad.clone(), b"context").await, ErrorClass::Data)?;
            }
            want(open(good.clone(), b"context").await.map_err(text)?.value == secret(b"plaintext"), "plaintext")?;
            want(token.status() == Status::Ready, "the token was called down")?;
            want(token.gauges().sessions_replaced > sessions, "sessions are replaced after an error")
        })
        .await;
        self.check("data keys", async {
            let done = token.data_key(&ctx("a"), key, b"c".to_vec(), 32).await.map_err(text)?.value;
            want(done.0.len() == 32, "length")?;
            want(open(done.1, b"c").await.map_err(text)?.value == done.0, "another data key")?;
            let random = token.random(&ctx("a"), 1024).await.map_err(text)?.value;
            want(random.len() == 1024 && random.expose().iter().any(|byte| *byte != 0), "random")
        })
        .await;
        self.check("an AES key is no signing key", async {
            class_is(token.mac(&ctx("a"), key, Hash::Sha256, secret(b"x")).await, ErrorClass::Unsupported)?;
            want(token.status() == Status::Ready, "the token was called down")
        })
        .await;
    }

    async fn life(&self, token: &Token) {
        let make = |n: u8, kind| async move {
            let id = material(n);
            let made = token.generate(&ctx("a"), kind, id, "life").await.map_err(text)?.value;
            Ok::<_, String>((id, key_ref(id, &made)))
        };
        let hello = || secret(b"hello");
        self.check("a destroyed key is missing", async {
            let (id, key) = make(60, KeyKind::Aes256).await?;
            want(token.holds(&ctx("a"), id).await.map_err(text)?, "not held")?;
            want(token.destroy(&ctx("a"), id).await.map_err(text)?.value == 1, "count")?;
            want(!token.holds(&ctx("a"), id).await.map_err(text)?, "still held")?;
            class_is(token.encrypt(&ctx("a"), &key, vec![], hello()).await, ErrorClass::KeyMissing)?;
            want(token.destroy(&ctx("a"), id).await.map_err(text)?.value == 0, "destroyed twice")?;
            let (id, _) = make(61, KeyKind::Ec(Curve::P256)).await?;
            want(token.destroy(&ctx("a"), id).await.map_err(text)?.value == 2, "both halves")
        })
        .await;
        self.check("an id is not made twice", async {
            let (id, _) = make(62, KeyKind::Aes256).await?;
            class_is(token.generate(&ctx("a"), KeyKind::Aes256, id, "again").await, ErrorClass::WrongKey)
        })
        .await;
        self.check("a generation is another object", async {
            let (plain, _) = make(63, KeyKind::Aes256).await?;
            let rotated = MaterialId { generation: 1, ..plain };
            token.generate(&ctx("a"), KeyKind::Aes256, rotated, "life").await.map_err(text)?;
            want(token.destroy(&ctx("a"), rotated).await.map_err(text)?.value == 1, "count")?;
            let absent = token.absent(&ctx("a"), vec![rotated, plain, material(250)]).await.map_err(text)?;
            want(absent == [rotated, material(250)], &format!("absent: {absent:?}"))?;
            want(token.holds(&ctx("a"), plain).await.map_err(text)?, "the other generation went too")
        })
        .await;
        self.check("a key deleted behind our back is missing", async {
            let (id, key) = make(64, KeyKind::Aes256).await?;
            token.encrypt(&ctx("a"), &key, vec![], hello()).await.map_err(text)?;
            self.officer(&["--delete-object", "--type", "secrkey", "--id", &hex::encode(id.id)])?;
            class_is(token.encrypt(&ctx("a"), &key, vec![], hello()).await, ErrorClass::KeyMissing)?;
            want(token.status() == Status::Ready, "the token was called down")
        })
        .await;
        self.check("a key replaced behind our back is the wrong key", async {
            let (id, key) = make(65, KeyKind::Aes256).await?;
            let sealed = token.encrypt(&ctx("a"), &key, vec![], hello()).await.map_err(text)?.value;
            let hex = hex::encode(id.id);
            self.officer(&["--delete-object", "--type", "secrkey", "--id", &hex])?;
            self.officer(&["--keygen", "--key-type", "AES:32", "--id", &hex, "--label", "life"])?;
            class_is(token.encrypt(&ctx("a"), &key, vec![], hello()).await, ErrorClass::WrongKey)?;
            class_is(token.decrypt(&ctx("a"), &key, sealed.iv, vec![], sealed.ciphertext).await, ErrorClass::WrongKey)?;
            class_is(token.check(&ctx("a"), &key).await, ErrorClass::WrongKey)
        })
        .await;
        self.check("a pair replaced behind our back is the wrong key", async {
            let (id, key) = make(66, KeyKind::Ec(Curve::P256)).await?;
            let digest = hashed(Hash::Sha256, b"m");
            token.sign(&ctx("a"), &key, SignMechanism::Ecdsa, digest.clone()).await.map_err(text)?;
            let hex = hex::encode(id.id);
            self.officer(&["--delete-object", "--type", "privkey", "--id", &hex])?;
            self.officer(&["--delete-object", "--type", "pubkey", "--id", &hex])?;
            self.officer(&["--keypairgen", "--key-type", "EC:prime256v1", "--id", &hex, "--label", "life"])?;
            class_is(token.sign(&ctx("a"), &key, SignMechanism::Ecdsa, digest).await, ErrorClass::WrongKey)
        })
        .await;
        self.check("a key that another process made is found", async {
            let (_, key) = make(67, KeyKind::Aes256).await?;
            let second = self.open(self.settings()).map_err(text)?;
            let id = material(68);
            let made = second.generate(&ctx("a"), KeyKind::Aes256, id, "life").await.map_err(text)?.value;
            second.close();
            token.encrypt(&ctx("a"), &key_ref(id, &made), vec![], hello()).await.map_err(text)?;
            token.encrypt(&ctx("a"), &key, vec![], hello()).await.map_err(text).map(|_| ())
        })
        .await;
        self.check("generation that outlives its deadline is finished", async {
            // Long enough to be begun, and shorter than any RSA-4096 key takes.
            let hasty = self.open(Settings { generate_deadline: Duration::from_millis(40), ..self.settings() });
            let hasty = hasty.map_err(text)?;
            let id = material(69);
            class_is(hasty.generate(&ctx("a"), KeyKind::Rsa(4096), id, "late").await, ErrorClass::Deadline)?;
            hasty.close();
            want(token.holds(&ctx("a"), id).await.map_err(text)?, "it was not finished")
        })
        .await;
    }
}
