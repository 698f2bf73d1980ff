//! The numbered rules of authorization.md §3.1 as rows, in their order. Each fault alone gives its own error, and of any two
//! the earlier one wins.

use super::*;

const MISMATCH: &str = "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
                        Access Key and signing method. Consult the service documentation for details.";

struct Fault {
    rule: &'static str,
    name: &'static str,
    spoil: fn(&mut Draft),
    code: &'static str,
    text: &'static str,
}

/// A signed request whose Authorization header is still in parts.
struct Draft {
    sent: Sent,
    algorithm: &'static str,
    /// Key id, day, Region, service, terminator.
    credential: Vec<String>,
    signed_headers: String,
    signature: String,
    left_out: Option<&'static str>,
    extra: &'static str,
    authorizations: usize,
}

impl Draft {
    fn new() -> Self {
        let mut sent = Signer::default().in_header(Sent::kms());
        let header = String::from_utf8(sent.header("authorization").clone()).unwrap();
        sent.drop_header("authorization");
        let part = |name: &str| {
            let start = header.find(name).unwrap() + name.len() + 1;
            header[start..].split(',').next().unwrap().to_owned()
        };
        Self {
            algorithm: "AWS4-HMAC-SHA256",
            credential: part("Credential").split('/').map(str::to_owned).collect(),
            signed_headers: part("SignedHeaders"),
            signature: part("Signature"),
            left_out: None,
            extra: "",
            authorizations: 1,
            sent,
        }
    }

    fn sent(mut self) -> Sent {
        let parts = [
            ("Credential", self.credential.join("/")),
            ("SignedHeaders", self.signed_headers),
            ("Signature", self.signature),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(name, _)| Some(*name) != self.left_out)
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let header = format!("{} {}{}", self.algorithm, parts.join(", "), self.extra);
        for _ in 0..self.authorizations {
            self.sent.headers.push(("authorization".into(), header.clone().into_bytes()));
        }
        self.sent
    }

    /// Adds a header that is signed, so that only its value is at fault.
    fn signed(&mut self, name: &str, value: &str) {
        *self.sent.header(name) = value.as_bytes().to_vec();
        let mut names: Vec<&str> = self.signed_headers.split(';').chain([name]).collect();
        names.sort_unstable();
        names.dedup();
        self.signed_headers = names.join(";");
    }
}

const FAULTS: &[Fault] = &[
    Fault {
        rule: "3.1.1",
        name: "aws-chunked",
        spoil: |draft| *draft.sent.header("content-encoding") = b"gzip, AWS-Chunked".to_vec(),
        code: "InvalidSignatureException",
        text: "Content-Encoding 'aws-chunked' is not supported.",
    },
    Fault {
        rule: "3.1.1",
        name: "streaming payload",
        spoil: |draft| draft.signed("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        code: "InvalidSignatureException",
        text: "A streaming 'x-amz-content-sha256' is not supported.",
    },
    Fault {
        rule: "3.1.2",
        name: "no Authorization",
        spoil: |draft| draft.authorizations = 0,
        code: "MissingAuthenticationTokenException",
        text: "Request is missing Authentication Token",
    },
    Fault {
        rule: "3.1.2",
        name: "two Authorization headers",
        spoil: |draft| draft.authorizations = 2,
        code: "IncompleteSignatureException",
        text: "The request has more than one Authorization header.",
    },
    Fault {
        rule: "3.1.2",
        name: "header and query",
        spoil: |draft| draft.sent.query = "X-Amz-Algorithm=AWS4-HMAC-SHA256".into(),
        code: "InvalidSignatureException",
        text: "The request is signed both in the Authorization header and in the query string.",
    },
    Fault {
        rule: "3.1.3",
        name: "algorithm",
        spoil: |draft| draft.algorithm = "AWS4-HMAC-SHA512",
        code: "IncompleteSignatureException",
        text: "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA512'.",
    },
    Fault {
        rule: "3.1.3",
        name: "no equal-sign",
        spoil: |draft| draft.extra = ", tok",
        code: "IncompleteSignatureException",
        text: "'tok' not a valid key=value pair (missing equal-sign) in Authorization header",
    },
    Fault {
        rule: "3.1.3",
        name: "no Credential",
        spoil: |draft| draft.left_out = Some("Credential"),
        code: "IncompleteSignatureException",
        text: "Authorization header requires 'Credential' parameter.",
    },
    Fault {
        rule: "3.1.4",
        name: "date",
        spoil: |draft| *draft.sent.header("x-amz-date") = b"2026-01-01".to_vec(),
        code: "IncompleteSignatureException",
        text: "Date must be in ISO-8601 'basic format'. Got '2026-01-01'. See http://en.wikipedia.org/wiki/ISO_8601",
    },
    Fault {
        rule: "3.1.5",
        name: "unsorted list",
        spoil: |draft| {
            let mut names: Vec<&str> = draft.signed_headers.split(';').collect();
            names.reverse();
            draft.signed_headers = names.join(";");
        },
        code: "InvalidSignatureException",
        text: "'SignedHeaders' must be lower-case, sorted and unique in the AWS Authorization.",
    },
    Fault {
        rule: "3.1.5",
        name: "unsigned host",
        spoil: |draft| draft.signed_headers = draft.signed_headers.replace("host;", ""),
        code: "InvalidSignatureException",
        text: "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.",
    },
    Fault {
        rule: "3.1.5",
        name: "absent header",
        spoil: |draft| draft.signed_headers.push_str(";x-none"),
        code: "InvalidSignatureException",
        text: "'x-none' is a 'SignedHeader' in the AWS Authorization but not a header of the request.",
    },
    Fault {
        rule: "3.1.5",
        name: "unsigned target",
        spoil: |draft| draft.signed_headers = draft.signed_headers.replace(";x-amz-target", ""),
        code: "InvalidSignatureException",
        text: "'x-amz-target' must be a 'SignedHeader' in the AWS Authorization.",
    },
    Fault {
        rule: "3.1.6",
        name: "four-part credential",
        spoil: |draft| drop(draft.credential.remove(4)),
        code: "IncompleteSignatureException",
        text: "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '",
    },
    Fault {
        rule: "3.1.6",
        name: "region",
        spoil: |draft| draft.credential[2] = "us-east-1".into(),
        code: "InvalidSignatureException",
        text: "Credential should be scoped to a valid region, not 'us-east-1'.",
    },
    Fault {
        rule: "3.1.6",
        name: "service",
        spoil: |draft| draft.credential[3] = "sts".into(),
        code: "InvalidSignatureException",
        text: "Credential should be scoped to correct service: 'kms'.",
    },
    Fault {
        rule: "3.1.6",
        name: "scope date",
        spoil: |draft| draft.credential[1] = "20251231".into(),
        code: "InvalidSignatureException",
        text: "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20251231' != \
               '20260101', from '20260101T",
    },
    Fault {
        rule: "3.1.7",
        name: "old date",
        spoil: |draft| *draft.sent.header("x-amz-date") = b"20260101T000000Z".to_vec(),
        code: "InvalidSignatureException",
        text: "Signature expired: 20260101T000000Z is now earlier than 20260101T001500Z (20260101T003000Z - 15 min.)",
    },
    Fault {
        rule: "3.1.8",
        name: "unknown key",
        spoil: |draft| draft.credential[0] = "AKIAAAAAAAAAAAAAAAAA".into(),
        code: "UnrecognizedClientException",
        text: "The security token included in the request is invalid.",
    },
    Fault {
        rule: "3.1.8",
        name: "token beside a long-term key",
        spoil: |draft| draft.signed("x-amz-security-token", "token"),
        code: "UnrecognizedClientException",
        text: "The security token included in the request is invalid.",
    },
    Fault {
        rule: "3.1.9",
        name: "path",
        spoil: |draft| draft.sent.path = "/kms".into(),
        code: "InvalidSignatureException",
        text: "The path of the request must be '/'.",
    },
    Fault {
        rule: "3.1.9",
        name: "stated payload hash",
        spoil: |draft| draft.signed("x-amz-content-sha256", &"0".repeat(64)),
        code: "InvalidSignatureException",
        text: "The provided 'x-amz-content-sha256' header does not match what was computed.",
    },
    Fault {
        rule: "3.1.10",
        name: "signature",
        spoil: |draft| draft.signature = "0".repeat(64),
        code: "InvalidSignatureException",
        text: MISMATCH,
    },
    Fault {
        rule: "3.1.10",
        name: "upper-case signature",
        spoil: |draft| draft.signature = draft.signature.to_uppercase(),
        code: "InvalidSignatureException",
        text: MISMATCH,
    },
];

async fn refusal(faults: &[&Fault]) -> (&'static str, String) {
    let mut draft = Draft::new();
    for fault in faults {
        (fault.spoil)(&mut draft);
    }
    let error = World::new().ask(&draft.sent()).await.unwrap_err();
    (error.kms_code(), error.to_string())
}

#[tokio::test]
async fn the_draft_itself_is_good() {
    let caller = World::new().ask(&Draft::new().sent()).await.unwrap();
    assert_eq!(caller.arn(), "arn:aws:iam::111122223333:root");
    assert_eq!(caller.access_key().unwrap().as_str(), KEY_ID);
}

#[tokio::test]
async fn each_fault_has_its_error() {
    for fault in FAULTS {
        let (code, text) = refusal(&[fault]).await;
        assert_eq!(code, fault.code, "RULE authorization.md §{} {}: {text}", fault.rule, fault.name);
        assert!(text.starts_with(fault.text), "RULE authorization.md §{} {}: {text}", fault.rule, fault.name);
    }
}

#[tokio::test]
async fn of_two_faults_the_earlier_wins() {
    for (at, first) in FAULTS.iter().enumerate() {
        for second in &FAULTS[at + 1..] {
            // Parts of one step that exclude each other, or whose texts stand in one message.
            let exclusive = first.name == "no Authorization"
                || (first.rule == "3.1.6" && second.rule == "3.1.6")
                || (second.name == "stated payload hash" && first.name == "streaming payload");
            if exclusive {
                continue;
            }
            let (code, text) = refusal(&[second, first]).await;
            let row = format!("§{} {} before §{} {}: {code} {text}", first.rule, first.name, second.rule, second.name);
            assert_eq!(code, first.code, "{row}");
            assert!(text.starts_with(first.text), "{row}");
        }
    }
}

#[tokio::test]
async fn scope_faults_are_one_message() {
    let faults: Vec<&Fault> = FAULTS.iter().filter(|fault| ["region", "service"].contains(&fault.name)).collect();
    let (_, text) = refusal(&faults).await;
    assert_eq!(
        text,
        "Credential should be scoped to a valid region, not 'us-east-1'. Credential should be scoped to correct service: \
         'kms'."
    );
}

#[tokio::test]
async fn skew_of_fifteen_minutes_is_allowed() {
    // RULE authorization.md §3.1.7
    for (offset, start) in [
        (-900, ""),
        (900, ""),
        (-901, "Signature expired: 20260101T001459Z is now earlier than 20260101T001500Z (20260101T003000Z - 15 min.)"),
        (
            901,
            "Signature not yet current: 20260101T004501Z is still later than 20260101T004500Z (20260101T003000Z + 15 min.)",
        ),
    ] {
        let sent = Signer { at: NOW + offset, ..Signer::default() }.in_header(Sent::kms());
        let found = World::new().ask(&sent).await;
        match start {
            "" => assert!(found.is_ok(), "{offset}: {found:?}"),
            text => assert_eq!(found.unwrap_err(), AuthnError::InvalidSignature(text.to_owned())),
        }
    }
}

#[tokio::test]
async fn an_expired_date_wins_over_an_unknown_key_and_asks_nobody() {
    let world = World::new();
    let sent = Signer { key_id: "AKIAAAAAAAAAAAAAAAAA", at: NOW - 3600, ..Signer::default() }.in_header(Sent::kms());
    assert_eq!(world.ask(&sent).await.unwrap_err().kms_code(), "InvalidSignatureException");
    assert_eq!(world.opened(), 0);
}
