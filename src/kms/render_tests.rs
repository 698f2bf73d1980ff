use super::*;
use crate::kms::samples;

#[test]
fn each_response_is_exactly_what_aws_sends() {
    for (response, expected) in samples::responses() {
        let rendered = render(&response);
        let shown = std::str::from_utf8(rendered.expose()).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(shown).unwrap();
        assert_eq!(parsed, expected, "{response:?}");
    }
    assert!(render(&Response::Empty).is_empty());
}

#[test]
fn times_keep_their_milliseconds() {
    for (milliseconds, expected) in [
        (1_764_000_000_123, "1764000000.123"),
        (1_764_000_000_120, "1764000000.12"),
        (1_764_000_000_100, "1764000000.1"),
        (1_764_000_000_000, "1764000000"),
        (1_764_000_000_001, "1764000000.001"),
        (0, "0"),
        (-1_500, "-1.5"),
    ] {
        let mut json = Json { out: Vec::new() };
        json.object(|o| o.time("t", milliseconds));
        assert_eq!(String::from_utf8(json.out).unwrap(), format!(r#"{{"t":{expected}}}"#));
    }
}

/// A buffer that grows leaves a copy of what it held.
#[test]
fn buffers_with_secrets_do_not_grow() {
    let escapes = "\u{1}".repeat(300);
    let secret = || SecretBytes::new(vec![7; 4096]);
    for response in [
        Response::Decrypt {
            key_arn: escapes.clone(),
            plaintext: secret(),
            key_material_id: Some(escapes.as_str().into()),
        },
        Response::GenerateDataKey {
            key_arn: escapes.clone(),
            ciphertext: vec![1; 6144],
            plaintext: Some(secret()),
            key_material_id: Some(escapes.as_str().into()),
        },
        Response::GenerateRandom { plaintext: secret() },
        Response::GenerateMac {
            key_arn: escapes,
            mac: secret(),
            algorithm: crate::ids::spec::MacAlgorithm::HmacSha512,
        },
    ] {
        let length = render(&response).len();
        assert!(length <= capacity(&response), "{length} bytes, room for {}", capacity(&response));
    }
}

#[test]
fn error_bodies() {
    use crate::kms::{access_denied, validation, wire_error};
    use crate::ops::OpError;
    for (error, body) in [
        (validation("a \"b\""), r#"{"__type":"ValidationException","message":"a \"b\""}"#),
        (access_denied("no"), r#"{"__type":"AccessDeniedException","Message":"no"}"#),
        (wire_error(&OpError::InvalidCiphertext), r#"{"__type":"InvalidCiphertextException"}"#),
    ] {
        assert_eq!(String::from_utf8(error_body(&error)).unwrap(), body);
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_valid_json(text: String) {
        let mut json = Json { out: Vec::new() };
        json.text(&text);
        let back: String = serde_json::from_slice(&json.out).unwrap();
        proptest::prop_assert_eq!(back, text);
    }
}
