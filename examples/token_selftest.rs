//! The token contract: checks of the token layer against a real token, one line each: `ok NAME` or `FAILED NAME: why`. A
//! process of its own, because a PKCS#11 module is state of the whole process. `tests/token_contract.rs` makes the tokens,
//! runs it, and knows which checks fail on which token.
//!
//! `token_selftest SCENARIO MODULE VARIABLE=FILE LABEL PIN`; the variable names the module's configuration (SOFTHSM2_CONF)
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]
#![allow(unsafe_code, reason = "one scenario closes all sessions behind the bridge's back")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::{aead, digest, signature};
use hsm_bridge::secret::{SecretBytes, SecretString};
use hsm_bridge::token::*;
use x509_cert::der::Decode;
use x509_cert::spki::SubjectPublicKeyInfoRef;

#[path = "token_selftest/officer.rs"]
mod officer;
#[path = "token_selftest/stores.rs"]
mod stores;

type Checked = Result<(), String>;

struct Bench {
    module: PathBuf,
    /// The module's environment variable and the file that it names.
    variable: String,
    conf: PathBuf,
    label: String,
    pin: String,
    /// Of rejected PINs. One right PIN of 256 looks like a rejected one: where a check does not need the marks, none are left.
    marks: PathBuf,
    failed: AtomicBool,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, module, environment, label, pin] = arguments.as_slice() else {
        eprintln!("usage: token_selftest SCENARIO MODULE VARIABLE=FILE LABEL PIN");
        std::process::exit(2);
    };
    let (variable, conf) = environment.split_once('=').unwrap();
    apply_environment(&BTreeMap::from([(variable.to_owned(), conf.to_owned())]));
    let bench = Bench {
        module: module.into(),
        variable: variable.to_owned(),
        conf: conf.into(),
        label: label.clone(),
        pin: pin.clone(),
        marks: Path::new(conf).with_file_name("pin-marks"),
        failed: AtomicBool::new(false),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match scenario.as_str() {
            "main" => bench.main().await,
            "wrong-pin" => bench.wrong_pin().await,
            "two-tokens" => bench.two_tokens().await,
            "queue" => bench.queue().await,
            "logged-out" => bench.logged_out().await,
            "gone" => bench.gone().await,
            "officer" => bench.officers_tools().await,
            "inventory" => bench.inventories().await,
            "short-ids" => bench.short_ids().await,
            "stores" => bench.stores().await,
            "no-pin" => bench.no_pin().await,
            "pin" => bench.new_pin().await,
            "init-pin" => bench.init_pin(),
            "race" => bench.race(),
            "measure" => bench.measure().await,
            other => panic!("no scenario `{other}`"),
        }
    });
    std::io::stdout().flush().unwrap();
    exit_now(i32::from(bench.failed.load(Ordering::Relaxed)));
}

fn ctx(principal: &str) -> CallContext {
    ctx_until(principal, Instant::now() + Duration::from_secs(60))
}

fn ctx_until(principal: &str, deadline: Instant) -> CallContext {
    CallContext { principal: principal.into(), deadline, request_id: "test".into() }
}

fn material(n: u8) -> MaterialId {
    MaterialId { id: [n; 16], generation: 0 }
}

fn key_ref(material: MaterialId, generated: &Generated) -> KeyRef {
    KeyRef::Kms { material, fingerprint: generated.fingerprint.as_slice().into() }
}

fn secret(bytes: &[u8]) -> SecretBytes {
    SecretBytes::new(bytes.to_vec())
}

fn class_is<T: std::fmt::Debug>(result: Result<T, TokenError>, class: ErrorClass) -> Checked {
    match result {
        Err(error) if error.class == class => Ok(()),
        other => Err(format!("expected {class:?}, got {other:?}")),
    }
}

fn want(condition: bool, otherwise: &str) -> Checked {
    condition.then_some(()).ok_or_else(|| otherwise.to_owned())
}

fn text(error: TokenError) -> String {
    error.to_string()
}

/// Verifies with code that is not the token's.
fn verified(
    spki: &[u8],
    algorithm: &'static dyn signature::VerificationAlgorithm,
    message: &[u8],
    signed: &[u8],
) -> Checked {
    let info = SubjectPublicKeyInfoRef::from_der(spki).map_err(|error| error.to_string())?;
    let key = info.subject_public_key.as_bytes().ok_or("odd bit string")?;
    let key = signature::UnparsedPublicKey::new(algorithm, key);
    key.verify(message, signed).map_err(|_| "the signature does not verify".to_owned())?;
    let mut broken = message.to_vec();
    broken[0] ^= 1;
    want(key.verify(&broken, signed).is_err(), "the signature verifies for another message")
}

/// Without what some tokens list beside keys: their mechanisms and profiles.
fn is_stored(class: Option<&str>) -> bool {
    !matches!(class, Some("CKO_MECHANISM" | "CKO_PROFILE" | "CKO_HW_FEATURE"))
}

fn hashed(hash: Hash, message: &[u8]) -> SecretBytes {
    let algorithm = match hash {
        Hash::Sha224 => &digest::SHA224,
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    };
    secret(digest::digest(algorithm, message).as_ref())
}

impl Bench {
    fn settings(&self) -> Settings {
        Settings {
            module: self.module.clone(),
            selector: Selector { label: Some(self.label.clone()), ..Selector::default() },
            expect_serial: None,
            profile: Profile::default(),
            workers: 2,
            queue: 1024,
            generate_deadline: Duration::from_secs(60),
            pin_marks: self.marks.clone(),
            retry: Retry::default(),
            hang_grace: Duration::from_secs(30),
            isolation: Isolation::InProcess,
        }
    }

    fn open(&self, settings: Settings) -> Result<Token, TokenError> {
        Token::open(settings, SecretString::new(self.pin.clone()))
    }

    async fn check(&self, name: &str, check: impl Future<Output = Checked>) {
        self.forget_marks();
        let checked = check.await;
        self.forget_marks();
        match checked {
            Ok(()) => println!("ok {name}"),
            Err(why) => {
                println!("FAILED {name}: {why}");
                self.failed.store(true, Ordering::Relaxed);
            }
        }
    }

    fn forget_marks(&self) {
        let _ = std::fs::remove_dir_all(&self.marks);
    }

    /// Another process's work on the same token.
    fn officer(&self, arguments: &[&str]) -> Checked {
        let output = Command::new("pkcs11-tool")
            .arg("--module")
            .arg(&self.module)
            .args(["--token-label", &self.label, "--login", "--pin", &self.pin])
            .args(arguments)
            .output()
            .map_err(|error| format!("pkcs11-tool does not start: {error}"))?;
        want(
            output.status.success(),
            &format!("pkcs11-tool {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)),
        )
    }

    async fn main(&self) {
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
        use signature as s;
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

    async fn wrong_pin(&self) {
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

    async fn two_tokens(&self) {
        self.check("two tokens with one label are an error", async {
            let error = self.open(self.settings()).map(|_| ()).unwrap_err();
            want(login_attempts() == 0, "logged in")?;
            want(error.class == ErrorClass::Operator && error.detail.matches('`').count() >= 6, &text(error))
        })
        .await;
        self.check("the serial tells them apart", async {
            let error = self.open(self.settings()).map(|_| ()).unwrap_err();
            let serial = error.detail.split('`').nth(3).ok_or("no serial in the message")?.to_owned();
            let selector = Selector::from_uri(&format!("pkcs11:token={};serial={serial}", self.label)).map_err(text)?;
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

    async fn queue(&self) {
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
    async fn logged_out(&self) {
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

    fn close_all_sessions(&self, slot: u64) {
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
    async fn gone(&self) {
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
            let status = token.status();
            std::fs::rename(&away, &directory).map_err(|error| error.to_string())?;
            class_is(answer, ErrorClass::Context)?;
            class_is(held, ErrorClass::Context)?;
            class_is(destroyed, ErrorClass::Context)?;
            want(status != Status::Ready, "still called ready")
        })
        .await;
        token.close();
    }

    /// CPU of a call through the queue. Not a test: numbers for a person.
    async fn measure(&self) {
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
        use cryptoki::mechanism::{Mechanism, aead::GcmParams};
        let context = cryptoki::context::Pkcs11::new(&self.module).unwrap();
        let slots = context.get_slots_with_token().unwrap();
        let session = context.open_rw_session(slots[0]).unwrap();
        let key = session.find_objects(&[cryptoki::object::Attribute::Id(id.cka_id())]).unwrap()[0];
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
}

fn cpu_micros() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // utime and stime, in ticks of 10 ms.
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
}
