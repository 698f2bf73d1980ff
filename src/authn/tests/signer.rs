//! What `aws-sigv4` signs is accepted, and nothing else.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[tokio::test]
async fn the_secret_is_opened_once() {
    let world = World::new();
    let signer = Signer::default();
    for _ in 0..3 {
        world.ask(&signer.in_header(Sent::kms())).await.unwrap();
    }
    assert_eq!(world.opened(), 1);
    // Another secret under the same id is another derived key.
    world.change(|credential| credential.created = 2);
    world.ask(&signer.in_header(Sent::kms())).await.unwrap();
    assert_eq!(world.opened(), 2);
    world.authenticator.forget(&KEY_ID.parse().unwrap());
    world.ask(&signer.in_header(Sent::kms())).await.unwrap();
    assert_eq!(world.opened(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_first_requests_open_the_secret_once() {
    let world = Arc::new(World::new());
    let sent = Arc::new(Signer::default().in_header(Sent::kms()));
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (world, sent) = (Arc::clone(&world), Arc::clone(&sent));
            tokio::spawn(async move { world.ask(&sent).await.map(|_| ()) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(world.opened(), 1);
}

#[tokio::test]
async fn state_is_looked_up_at_every_request() {
    let world = World::new();
    let sent = Signer::default().in_header(Sent::kms());
    world.ask(&sent).await.unwrap();
    world.change(|credential| credential.active = false);
    assert_eq!(world.ask(&sent).await.unwrap_err(), AuthnError::UnrecognizedClient);
    world.change(|credential| credential.active = true);
    world.ask(&sent).await.unwrap();
    world.credentials.lock().unwrap().clear();
    assert_eq!(world.ask(&sent).await.unwrap_err(), AuthnError::UnrecognizedClient);
}

#[tokio::test]
async fn a_token_that_is_away_is_our_fault() {
    let world = World { token_is_away: true, ..World::new() };
    let error = world.ask(&Signer::default().in_header(Sent::kms())).await.unwrap_err();
    assert_eq!(error, AuthnError::Internal("no token".to_owned()));
}

#[tokio::test]
async fn session_keys_are_nobody() {
    let world = World::new();
    for (key_id, token) in
        [(KEY_ID, Some("token")), ("ASIAGAYTEMZUGU3DOOBZ", Some("token")), ("ASIAGAYTEMZUGU3DOOBZ", None)]
    {
        let sent = Signer { key_id, token: token.map(str::to_owned), ..Signer::default() }.in_header(Sent::kms());
        assert_eq!(world.ask(&sent).await.unwrap_err(), AuthnError::UnrecognizedClient, "{key_id} {token:?}");
    }
    assert_eq!(world.opened(), 0);
}

#[tokio::test]
async fn the_host_counts_as_sent() {
    let world = World::new();
    for host in ["127.0.0.1", "kms.example.net:8443", "KMS.Example.net:8443", "[::1]:8443"] {
        let mut sent = Sent::kms();
        *sent.header("host") = host.into();
        let mut sent = Signer::default().in_header(sent);
        world.ask(&sent).await.unwrap_or_else(|error| panic!("{host}: {error}"));
        // A name of a host means the same in either case: botocore signs it in small letters whatever it sends.
        *sent.header("host") = host.to_lowercase().into();
        let lower = Signer::default().in_header(Sent { headers: sent.headers.clone(), ..Sent::kms() });
        let mut resent = lower.clone();
        *resent.header("host") = host.into();
        world.ask(&resent).await.unwrap_or_else(|error| panic!("{host}: {error}"));
        *resent.header("host") = format!("{host}1").into();
        assert!(world.ask(&resent).await.is_err());
    }
}

#[tokio::test]
async fn headers_added_after_signing() {
    let world = World::new();
    let signed = Signer::default().in_header(Sent::kms());
    for (name, allowed) in [
        ("amz-sdk-request", true),
        ("user-agent", true),
        ("x-amz-target", false),
        ("x-amz-meta", false),
        ("x-amz-content-sha256", false),
        ("content-type", false),
        ("host", false),
    ] {
        let mut sent = signed.clone();
        sent.headers.push((name.into(), b"added".to_vec()));
        assert_eq!(world.ask(&sent).await.is_ok(), allowed, "{name}");
    }
}

#[tokio::test]
async fn stated_payload_hashes() {
    let world = World::new();
    let real = sigv4::canonical::sha256(&Sent::kms().body);
    for (stated, allowed) in
        [(real.as_str(), true), ("UNSIGNED-PAYLOAD", false), ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", false)]
    {
        let mut sent = Sent::kms();
        *sent.header("x-amz-content-sha256") = stated.into();
        let sent = Signer::default().in_header(sent);
        assert_eq!(world.ask(&sent).await.is_ok(), allowed, "{stated}");
    }
}

#[tokio::test]
async fn kms_takes_no_presigned_request() {
    let world = World::new();
    for method in ["GET", "POST"] {
        let mut sent = Sent { method: method.into(), ..Sent::presigned_sts() };
        sent = Signer::default().in_query(sent);
        assert_eq!(world.ask(&sent).await.unwrap_err(), AuthnError::MissingAuthenticationToken);
    }
}

#[tokio::test]
async fn sts_takes_a_presigned_get_caller_identity() {
    let world = World::new();
    let signer = Signer { service: "sts", ..Signer::default() };
    let ask = async |sent: &Sent, now| world.ask_at(sent, Service::Sts, now).await;
    let sent = signer.in_query(Sent::presigned_sts());
    assert!(ask(&sent, NOW).await.is_ok());
    assert!(ask(&sent, NOW + 900).await.is_ok() && ask(&sent, NOW - 900).await.is_ok());
    assert!(ask(&sent, NOW + 901).await.is_err() && ask(&sent, NOW - 901).await.is_err());

    let global = Signer { region: "us-east-1", ..signer.clone() }.in_query(Sent::presigned_sts());
    assert!(ask(&global, NOW).await.is_ok());
    let short = Signer { expires: 90, ..signer.clone() }.in_query(Sent::presigned_sts());
    assert!(ask(&short, NOW + 90).await.is_ok());
    assert_eq!(
        ask(&short, NOW + 91).await.unwrap_err().to_string(),
        "Signature expired: 20260101T003000Z is now earlier than 20260101T003001Z (20260101T003131Z - 90 sec.)"
    );
    let long = Signer { expires: 604_800, ..signer.clone() }.in_query(Sent::presigned_sts());
    assert!(ask(&long, NOW + 901).await.is_err());

    let post = signer.in_query(Sent { method: "POST".into(), ..Sent::presigned_sts() });
    assert_eq!(ask(&post, NOW).await.unwrap_err(), AuthnError::MissingAuthenticationToken);
    let other = signer.in_query(Sent { query: "Action=AssumeRole&Version=2011-06-15".into(), ..Sent::presigned_sts() });
    assert_eq!(ask(&other, NOW).await.unwrap_err(), AuthnError::MissingAuthenticationToken);
    let token = Signer { token: Some("t".into()), ..signer.clone() }.in_query(Sent::presigned_sts());
    assert_eq!(ask(&token, NOW).await.unwrap_err(), AuthnError::UnrecognizedClient);
    let mut unsigned = sent.clone();
    unsigned.headers.push(("x-amz-meta".into(), b"added".to_vec()));
    assert_eq!(ask(&unsigned, NOW).await.unwrap_err().kms_code(), "InvalidSignatureException");
}

#[tokio::test]
async fn sts_by_header_takes_the_global_region_and_kms_does_not() {
    let world = World::new();
    for (service, name, allowed) in
        [(Service::Sts, "sts", true), (Service::Kms, "kms", false), (Service::Sts, "kms", false)]
    {
        let sent = Signer { region: "us-east-1", service: name, ..Signer::default() }.in_header(Sent::kms());
        assert_eq!(world.ask_at(&sent, service, NOW).await.is_ok(), allowed, "{name}");
    }
}

#[tokio::test]
async fn a_date_header_serves_where_there_is_no_x_amz_date() {
    // RULE authorization.md §3.1.4; `aws-sigv4` signs no such request, so the signature is made from the parts.
    let mut sent = Sent::kms();
    *sent.header("date") = b"Thu, 01 Jan 2026 00:30:00 GMT".to_vec();
    let headers: Vec<(&str, &[u8])> = sent.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
    let list = "content-type;date;host;x-amz-target";
    let hash = sigv4::canonical::sha256(&sent.body);
    let host = sigv4::canonical::Host::AsReceived;
    let canonical = sigv4::canonical::canonical_request("POST", "/", "", &headers, host, list, hash.as_str());
    let text = sigv4::canonical::string_to_sign("20260101T003000Z", REGION, "kms", &canonical);
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in ["20260101", REGION, "kms", "aws4_request", &text] {
        let hmac_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
        key = aws_lc_rs::hmac::sign(&hmac_key, part.as_bytes()).as_ref().to_vec();
    }
    *sent.header("authorization") = format!(
        "AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/{REGION}/kms/aws4_request, SignedHeaders={list}, Signature={}",
        hex::encode(key)
    )
    .into();
    World::new().ask(&sent).await.unwrap();
}

#[tokio::test]
async fn a_mismatch_tells_more_only_when_asked() {
    let mut sent = Signer::default().in_header(Sent::kms());
    let right = String::from_utf8(sent.header("authorization").clone()).unwrap();
    let right = right.rsplit('=').next().unwrap().to_owned();
    sent.body.push(b' ');
    let quiet = World::new().ask(&sent).await.unwrap_err().to_string();
    assert!(quiet.ends_with("Consult the service documentation for details."), "{quiet}");
    let settings = Settings { accepted_regions: vec![REGION.into()], debug_signature_errors: true };
    let world = World::with(settings);
    let loud = world.ask(&sent).await.unwrap_err().to_string();
    assert!(
        loud.contains("\n\nThe Canonical String for this request should have been\n'POST\n/\n\ncontent-type:"),
        "{loud}"
    );
    assert!(loud.contains("\n\nThe String-to-Sign should have been\n'AWS4-HMAC-SHA256\n20260101T003000Z\n"), "{loud}");

    // The right signature of the sent body is in neither text.
    let mut resent = sent.clone();
    resent.drop_header("authorization");
    let mut resigned = Signer::default().in_header(resent);
    let expected = String::from_utf8(resigned.header("authorization").clone()).unwrap();
    let expected = expected.rsplit('=').next().unwrap().to_owned();
    assert_ne!(expected, right);
    assert!(world.ask(&resigned).await.is_ok());
    assert!(!loud.contains(&expected) && !quiet.contains(&expected) && !loud.contains(SECRET));
}

#[test]
fn the_claimed_access_key_is_a_well_formed_one() {
    let claimed = |mut sent: Sent| {
        let authorization = sent.header("authorization").clone();
        let headers: &[(&str, &[u8])] = &[("authorization", &authorization)];
        let headers = if authorization.is_empty() { &[] } else { headers };
        let request = PlainRequest { method: "GET", path: "/", query: &sent.query, headers, body: b"" };
        claimed_access_key(&request).map(String::from)
    };
    assert_eq!(claimed(Signer::default().in_header(Sent::kms())).as_deref(), Some(KEY_ID));
    assert_eq!(claimed(Signer::default().in_query(Sent::presigned_sts())).as_deref(), Some(KEY_ID));
    assert_eq!(claimed(Signer { key_id: "root", ..Signer::default() }.in_header(Sent::kms())), None);
    assert_eq!(claimed(Sent::kms()), None);
}

/// One signed part of a request, changed.
#[derive(Debug, Clone, Copy)]
enum Part {
    Method,
    Path,
    Query,
    Header(prop::sample::Index),
    Body,
    Authorization,
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        Just(Part::Method),
        Just(Part::Path),
        Just(Part::Query),
        any::<prop::sample::Index>().prop_map(Part::Header),
        Just(Part::Body),
        Just(Part::Authorization),
    ]
}

/// Changes, inserts or removes one byte, or says that the outcome means the same as before.
fn spoil(bytes: &mut Vec<u8>, at: prop::sample::Index, byte: u8, how: u8) -> bool {
    match (bytes.is_empty(), how % 3) {
        (false, 0) => {
            let at = at.index(bytes.len());
            let same = bytes[at] == byte;
            bytes[at] = byte;
            !same
        }
        (false, 1) => {
            bytes.remove(at.index(bytes.len()));
            true
        }
        _ => {
            bytes.insert(at.index(bytes.len() + 1), byte);
            true
        }
    }
}

fn squeezed(bytes: &[u8]) -> Vec<u8> {
    let text: Vec<&[u8]> = bytes.split(|b| *b == b' ').filter(|word| !word.is_empty()).collect();
    text.join(&b' ').trim_ascii().to_vec()
}

/// Spoils one part; `None` where the change is none in the eyes of the protocol.
fn spoiled(mut sent: Sent, part: Part, at: prop::sample::Index, byte: u8, how: u8) -> Option<Sent> {
    let printable = b' ' + byte % 95;
    let text = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        spoil(&mut bytes, at, printable, how).then(|| String::from_utf8(bytes).unwrap())
    };
    match part {
        Part::Method => sent.method = text(&sent.method)?,
        // An empty path is `/`.
        Part::Path => sent.path = text(&sent.path).filter(|path| !path.is_empty())?,
        Part::Query => {
            let changed = text(&sent.query)?;
            let canonical = |query: &str| sigv4::canonical::canonical_query(query, sigv4::Form::Header);
            if canonical(&changed) == canonical(&sent.query) {
                return None;
            }
            sent.query = changed;
        }
        Part::Header(index) => {
            let index = index.index(sent.headers.len());
            let (name, value) = &mut sent.headers[index];
            let before = value.clone();
            if name == "authorization" || !spoil(value, at, byte, how) || squeezed(&before) == squeezed(value) {
                return None;
            }
            if name == "host" && before.eq_ignore_ascii_case(value) {
                return None;
            }
        }
        Part::Body => {
            if !spoil(&mut sent.body, at, byte, how) {
                return None;
            }
        }
        Part::Authorization => {
            let before = sent.header("authorization").clone();
            let mut after = before.clone();
            if !spoil(&mut after, at, printable, how) {
                return None;
            }
            // Spaces, and unknown parameters, mean nothing: what counts is what is read.
            let read = |header: &[u8]| {
                sigv4::authorization::parse_authorization(header, Some("".into()), None).ok().map(|claim| {
                    (claim.credential.into_owned(), claim.signed_headers.into_owned(), claim.signature.into_owned())
                })
            };
            if read(&before) == read(&after) {
                return None;
            }
            *sent.header("authorization") = after;
        }
    }
    Some(sent)
}

fn request() -> impl Strategy<Value = Sent> {
    (
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(("[a-zA-Z0-9._~-]{1,8}", "[a-zA-Z0-9._~-]{0,8}"), 0..4),
        prop::option::of("[!-~]([ -~]{0,20}[!-~])?"),
    )
        .prop_map(|(body, query, meta)| {
            let mut sent = Sent::kms();
            sent.body = body;
            sent.query = query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
            if let Some(meta) = meta {
                *sent.header("x-amz-meta") = meta.into_bytes();
            }
            sent
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_signed_verifies_and_any_changed_byte_is_refused(
        sent in request(),
        changes in prop::collection::vec((part(), any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 6),
    ) {
        block_on(async {
            let world = World::new();
            let sent = Signer::default().in_header(sent);
            prop_assert!(world.ask(&sent).await.is_ok());
            for (part, at, byte, how) in changes {
                if let Some(changed) = spoiled(sent.clone(), part, at, byte, how) {
                    prop_assert!(world.ask(&changed).await.is_err(), "{:?}: {:?}", part, changed);
                }
            }
            Ok::<(), TestCaseError>(())
        })?;
    }

    #[test]
    fn presigned_requests_too(
        expires in 1u64..=604_800,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 6),
    ) {
        block_on(async {
            let world = World::new();
            let sent = Signer { service: "sts", expires, ..Signer::default() }.in_query(Sent::presigned_sts());
            prop_assert!(world.ask_at(&sent, Service::Sts, NOW).await.is_ok());
            for (at, byte, how) in changes {
                if let Some(changed) = spoiled(sent.clone(), Part::Query, at, byte, how) {
                    prop_assert!(world.ask_at(&changed, Service::Sts, NOW).await.is_err(), "{:?}", changed);
                }
            }
            Ok::<(), TestCaseError>(())
        })?;
    }

    #[test]
    fn arbitrary_requests_are_refused(
        method in any::<String>(), path in any::<String>(), query in any::<String>(),
        authorization in prop::collection::vec(any::<u8>(), 0..100), date in prop::collection::vec(any::<u8>(), 0..30),
        body in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let headers = vec![("host".into(), b"h".to_vec()), ("authorization".into(), authorization), ("x-amz-date".into(), date)];
        let sent = Sent { method, path, query, headers, body };
        prop_assert!(block_on(World::new().ask(&sent)).is_err());
    }
}
