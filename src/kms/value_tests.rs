use super::*;
use crate::kms::model;
use crate::ops::Operation;

fn refused(operation: Operation, bytes: &[u8]) -> String {
    let error = body(model::input(operation), bytes).unwrap_err();
    assert_eq!((error.code, error.status), ("SerializationException", 400));
    error.message.unwrap()
}

fn text(operation: Operation, name: &str, bytes: &str) -> String {
    match body(model::input(operation), bytes.as_bytes()).unwrap().take(name) {
        Some(Value::Text(text)) => text.into_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_json_is_refused() {
    for (bytes, told) in [
        (&b"{"[..], "the request body is not JSON: EOF while parsing an object at line 1 column 1"),
        (b"{\"KeyId\" \"k\"}", "the request body is not JSON: expected `:` at line 1 column 10"),
        (b"{\"KeyId\":\"k\"} x", "the request body is not JSON: trailing characters at line 1 column 15"),
        (b"{\"KeyId\":tru}", "the request body is not JSON: expected ident at line 1 column 13"),
        (b"[]", "the request body is not a JSON object"),
        (b"\"Y2FuYXJ5\"", "the request body is not a JSON object"),
        (b"null", "the request body is not a JSON object"),
        (b"12", "the request body is not a JSON object"),
        (b"{\"KeyId\":\"\xff\"}", "the request body is not UTF-8"),
    ] {
        assert_eq!(refused(Operation::DescribeKey, bytes), told);
        assert_eq!(check_syntax(bytes).unwrap_err().message.as_deref(), Some(told));
    }
}

#[test]
fn wrong_types_name_the_member_and_not_the_value() {
    use Operation as O;
    for (operation, bytes, told) in [
        (O::DescribeKey, r#"{"KeyId":1}"#, "'keyId' must be a string"),
        (O::DescribeKey, r#"{"KeyId":["k"]}"#, "'keyId' must be a string"),
        (O::DescribeKey, r#"{"KeyId":"\ud800"}"#, "'keyId' holds an escape that is no character"),
        (O::DescribeKey, r#"{"KeyId":"\ud800\u0041"}"#, "'keyId' holds an escape that is no character"),
        (O::DescribeKey, r#"{"KeyId":"a","KeyId":"a"}"#, "'keyId' is given more than once"),
        (O::DescribeKey, r#"{"KeyId":"a","\u004beyId":"b"}"#, "'keyId' is given more than once"),
        (O::DescribeKey, r#"{"KeyId":"a","GrantTokens":"t"}"#, "'grantTokens' must be a list"),
        (O::DescribeKey, r#"{"KeyId":"a","GrantTokens":["t",1]}"#, "'grantTokens.2.member' must be a string"),
        (O::Encrypt, r#"{"Plaintext":"c2VjcmV0*"}"#, "'plaintext' must be base64"),
        (O::Encrypt, r#"{"Plaintext":"c2VjcmV0c"}"#, "'plaintext' must be base64"),
        (O::Encrypt, r#"{"Plaintext":17}"#, "'plaintext' must be a string"),
        (O::Encrypt, r#"{"EncryptionContext":[]}"#, "'encryptionContext' must be a map"),
        (O::Encrypt, r#"{"EncryptionContext":{"a":{}}}"#, "'encryptionContext.a' must be a string"),
        (
            O::Encrypt,
            r#"{"EncryptionContext":{"a":"1","b":"2","a":"1"}}"#,
            "'encryptionContext.a' is given more than once",
        ),
        (O::Encrypt, r#"{"DryRun":"true"}"#, "'dryRun' must be a boolean"),
        (O::GenerateRandom, r#"{"NumberOfBytes":"32"}"#, "'numberOfBytes' must be an integer"),
        (O::GenerateRandom, r#"{"NumberOfBytes":1.5}"#, "'numberOfBytes' must be an integer"),
        (O::GenerateRandom, r#"{"NumberOfBytes":1e300}"#, "'numberOfBytes' must be an integer"),
        (O::GenerateRandom, r#"{"Recipient":3}"#, "'recipient' must be a structure"),
        (
            O::GenerateRandom,
            r#"{"Recipient":{"AttestationDocument":3}}"#,
            "'recipient.attestationDocument' must be a string",
        ),
        (O::CreateKey, r#"{"Tags":[{"TagKey":true}]}"#, "'tags.1.member.tagKey' must be a string"),
    ] {
        assert_eq!(refused(operation, bytes.as_bytes()), told, "{bytes}");
    }
}

#[test]
fn strings_with_every_escape() {
    for (written, meant) in [
        (r#""plain é""#, "plain é"),
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""a\u00e9\ud83d\ude00z""#, "aé😀z"),
        (r#""\u0000""#, "\0"),
    ] {
        assert_eq!(text(Operation::DescribeKey, "KeyId", &format!("{{\"KeyId\": {written} }}")), meant);
    }
}

#[test]
fn null_is_absent_and_unknown_members_are_skipped() {
    let deep = format!("{{\"Future\":{}{},\"KeyId\":null}}", "[".repeat(100_000), "]".repeat(100_000));
    let mut fields = body(model::input(Operation::DescribeKey), deep.as_bytes()).unwrap();
    assert!(fields.take("KeyId").is_none());
    for empty in ["", " \r\n", "{}"] {
        assert!(body(model::input(Operation::ListKeys), empty.as_bytes()).is_ok(), "{empty:?}");
    }
}

/// Some serialisers escape the slashes of base64.
#[test]
fn blobs_may_hold_escaped_slashes() {
    let bytes = r#"{"Plaintext":"\/\/\u002f\/"}"#;
    let mut fields = body(model::input(Operation::Encrypt), bytes.as_bytes()).unwrap();
    match fields.take("Plaintext") {
        Some(Value::Blob(blob)) => assert_eq!(blob.into_bytes(), [255, 255, 255]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn integers_may_have_an_empty_fraction() {
    for (written, number) in [("32", Some(32)), ("32.0", Some(32)), ("-1", Some(-1)), ("1e2", Some(100)), ("0.5", None)]
    {
        assert_eq!(integer(written), number, "{written}");
    }
}

#[test]
fn debug_shows_no_blob() {
    let fields = body(model::input(Operation::Encrypt), br#"{"Plaintext":"Y2FuYXJ5"}"#).unwrap();
    let shown = format!("{fields:?}");
    assert!(!shown.contains("canary") && !shown.contains("99, 97") && shown.contains("6 bytes"), "{shown}");
}

proptest::proptest! {
    /// The text decoder against `serde_json`'s own.
    #[test]
    fn strings_are_read_as_serde_json_reads_them(written in r#"([a-zé😀]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}|\\ud83d\\ude00){0,20}"#) {
        let quoted = format!("\"{written}\"");
        let theirs = serde_json::from_str::<String>(&quoted).ok();
        let ours = string(&quoted).ok().map(Text::into_string);
        proptest::prop_assert_eq!(ours, theirs);
    }
}
