//! What is refused and why, what is tolerated in stored policies, and that hostile text costs little.

use proptest::prelude::*;

use super::pattern::{Atom, Pattern, Syntax, glob};
use super::*;

const INLINE: PolicyKind = PolicyKind::IdentityInline { max: 2_048 };

fn one(statement: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":[{statement}]}}"#)
}

fn key(more: &str) -> String {
    one(&format!(r#"{{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"{more}}}"#))
}

fn identity(more: &str) -> String {
    one(&format!(r#"{{"Effect":"Allow","Action":"kms:*","Resource":"*"{more}}}"#))
}

fn principal(principal: &str) -> String {
    one(&format!(r#"{{"Effect":"Allow","Principal":{principal},"Action":"kms:*","Resource":"*"}}"#))
}

#[test]
fn refused_documents() {
    use PolicyKind::{Boundary, IdentityManaged, Key, ServiceControl, Session, Trust};
    let syntax = "Syntax errors in policy.";
    let bad_principal = "Policy contains a statement with one or more invalid principals.";
    let trust = |more: &str| one(&format!(r#"{{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"{more}}}"#));
    let sts = one(r#"{"Effect":"Allow","NotPrincipal":{"AWS":"111122223333"},"Action":"sts:AssumeRole"}"#);
    let rows: Vec<(PolicyKind, String, &str)> = vec![
        (Key, String::new(), syntax),
        (Key, "[]".into(), "not an object"),
        (Key, r#"{"Version":"2012-10-17"}"#.into(), "no Statement"),
        (Key, r#"{"Statement":[]}"#.into(), "1 to 1000"),
        (Key, r#"{"Version":"2011-10-17","Statement":[]}"#.into(), "Policy document must be version 2012-10-17 or greater."),
        (Key, r#"{"Statement":[],"Statement":[]}"#.into(), "duplicate member `Statement`"),
        (Key, key(r#","Effect":"Deny""#), "duplicate member `Effect`"),
        (Key, key(r#","Condition":{"Bool":{"a:b":true,"a:b":false}}"#), "duplicate member `a:b`"),
        (Key, r#"{"statement":[]}"#.into(), "`statement`"),
        (Key, key(r#","effect":"Deny""#), "`effect`"),
        (Key, "{\"Statement\":[],\"Id\":\"\u{2603}\"}".into(), "U+0020 to U+00FF"),
        (Key, identity(""), "Policy contains a statement with no principal."),
        (Key, one(r#"{"Effect":"Maybe","Principal":"*"}"#), "Effect is Allow or Deny"),
        (Key, one(r#"{"Principal":"*","Action":"kms:*"}"#), "no Effect"),
        (Key, key(r#","NotAction":"kms:*""#), "Action and NotAction"),
        (Key, key(r#","NotPrincipal":"*""#), "Principal and NotPrincipal"),
        (Key, key(r#","NotResource":"*""#), "Resource and NotResource"),
        (Key, principal(r#"{"AWS":"arn:aws:iam::111122223333:user/*"}"#), bad_principal),
        (Key, principal(r#"{"AWS":"arn:aws:iam::111122223333:user/a?c"}"#), bad_principal),
        (Key, principal(r#"{"AWS":"arn:aws:iam::*:root"}"#), bad_principal),
        (Key, principal(r#"{"AWS":"nobody"}"#), bad_principal),
        (Key, principal(r#"{"AWS":"arn:aws:iam::111122223333:group/g"}"#), bad_principal),
        (Key, principal(r#"{"AWS":"arn:aws:sts::111122223333:assumed-role/app"}"#), bad_principal),
        (Key, principal(r#"{"AWS":"arn:aws:iam::111122223333:user/"}"#), bad_principal),
        (Key, principal(r#"{"AWS":[]}"#), bad_principal),
        (Key, principal("{}"), bad_principal),
        (Key, principal(r#""111122223333""#), bad_principal),
        (Key, principal(r#"{"Service":"backup"}"#), bad_principal),
        (Key, principal(r#"{"Service":"*.example.com"}"#), bad_principal),
        (Key, principal(r#"{"CanonicalUser":"abc"}"#), bad_principal),
        (Key, principal(r#"{"Federated":"arn:aws:iam::111122223333:oidc-provider/x"}"#), bad_principal),
        (Key, key("").replace("kms:*", "Encrypt"), "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."),
        (Key, key("").replace("kms:*", "kms:a:b"), "Actions/Condition can contain only one colon."),
        (Key, key("").replace("kms:*", "k*:Encrypt"), "Vendor k* is not valid"),
        (Key, key(r#","Condition":{"StringMatches":{"aws:username":"x"}}"#), "`StringMatches`"),
        (Key, key(r#","Condition":{"NullIfExists":{"aws:username":"x"}}"#), "`NullIfExists`"),
        (Key, key(r#","Condition":{"ForSomeValues:StringEquals":{"aws:username":"x"}}"#), "`ForSomeValues:"),
        (Key, key(r#","Condition":{"StringEquals":{"kms:ViaServise":"x"}}"#), "`kms:ViaServise` is not a condition key of KMS"),
        (Key, key(r#","Condition":{"StringEquals":{"kms:EncryptionContext:":"x"}}"#), "not a condition key"),
        (Key, key(r#","Condition":{"StringEquals":{"username":"x"}}"#), "prefaced by a vendor"),
        (Key, key(r#","Condition":{"StringEquals":{"aws:username":{}}}"#), "no string"),
        (Key, key(r#","Condition":{"StringEquals":{"aws:username":null}}"#), "no string"),
        (Key, key(r#","Condition":{"StringEquals":{"aws:username":"${aws:x"}}"#), "no policy variable"),
        (Key, key(r#","Condition":[]"#), "Condition is an object"),
        (
            Key,
            key(r#","Condition":{"ForAllValues:StringEquals":{"kms:EncryptionContext:App":"x"}}"#),
            "OverlyPermissiveCondition: Using the ForAllValues set operator with a single-valued condition key matches \
             requests without the specified [encryption context or tag] or with an unspecified [encryption context or tag]. \
             To fix, remove ForAllValues.",
        ),
        (Key, key(r#","Condition":{"ForAllValues:StringLike":{"aws:RequestTag/App":"x"}}"#), "OverlyPermissiveCondition"),
        (INLINE, key(""), "Policy document should not specify a principal."),
        (INLINE, r#"{"Id":"x","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#.into(), "no Id"),
        (INLINE, identity(r#","Sid":"not this""#), "letters and digits"),
        (IdentityManaged, one(r#"{"Effect":"Allow","Resource":"*"}"#), "Policy statement must contain actions."),
        (IdentityManaged, one(r#"{"Effect":"Allow","Action":[],"Resource":"*"}"#), "Policy statement must contain actions."),
        (Boundary, one(r#"{"Effect":"Allow","Action":"*"}"#), "Policy statement must contain resources."),
        (Session, one(r#"{"Effect":"Allow","Action":"*","Resource":[]}"#), "Policy statement must contain resources."),
        (ServiceControl, key(""), "should not specify a principal"),
        (INLINE, identity("").replace(r#""Resource":"*""#, r#""Resource":"key/1""#), r#"Resource key/1 must be in ARN format or "*"."#),
        (INLINE, identity("").replace(r#""Resource":"*""#, r#""Resource":"arn:aws:*""#), "must be in ARN format"),
        (INLINE, identity("").replace(r#""Resource":"*""#, r#""Resource":"arn:aws:k*:::x""#), "Resource vendor must be fully qualified"),
        (INLINE, identity("").replace(r#""Resource":"*""#, r#""Resource":"arn:gcp:kms:::x""#), r#"Partition "gcp" is not valid for resource "arn:gcp:kms:::x"."#),
        (INLINE, identity("").replace(r#""Resource":"*""#, r#""Resource":"arn:aws:kms::${aws:userid}:x""#), "legacy parsing"),
        (
            INLINE,
            r#"{"Statement":[{"Sid":"a","Effect":"Allow","Action":"*","Resource":"*"},{"Sid":"a","Effect":"Deny","Action":"*","Resource":"*"}]}"#.into(),
            "Statement IDs (SID) in a single policy must be unique.",
        ),
        (Trust, trust(r#","Resource":"*""#), "prohibited field Resource"),
        (Trust, sts, "no NotPrincipal"),
        (Trust, key("").replace(r#","Resource":"*""#, ""), "AssumeRole policy may only specify STS AssumeRole actions."),
        (Trust, trust("").replace(r#""Principal":"*","#, ""), "no principal"),
    ];
    for (kind, text, expected) in rows {
        let error = Policy::parse(&text, kind).unwrap_err();
        assert!(error.text.contains(expected), "{kind:?} {text}: {error}");
        assert!(!error.too_long, "{text}");
    }
}

#[test]
fn accepted_documents() {
    use PolicyKind::{IdentityManaged, Key, Trust};
    let rows = [
        (Key, key(r#","Sid":"spaces are fine""#)),
        (Key, one(r#"{"Effect":"Allow","Principal":"*"}"#)),
        (Key, r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"},"Version":"2008-10-17","Id":"x"}"#.into()),
        (Key, principal(r#"{"AWS":["111122223333","arn:aws:iam::111122223333:root","arn:aws:iam::111122223333:user/a/b"]}"#)),
        (Key, principal(r#"{"AWS":"arn:aws:sts::111122223333:assumed-role/app/s","Service":["a.example.com"]}"#)),
        // Of a principal that is gone, as GetKeyPolicy shows it.
        (Key, principal(r#"{"AWS":"AIDAEXAMPLE1234567890"}"#)),
        (Key, key(r#","Condition":{"Bool":{"kms:GrantIsForAWSResource":true},"NumericLessThan":{"KMS:rotationperiodindays":[90,"100"]}}"#)),
        (Key, key(r#","Condition":{"StringEquals":{"aws:NobodyKnowsThis":"x","kms:RecipientAttestation:PCR0":"x"}}"#)),
        (Key, key(r#","Condition":{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":"x"}}"#)),
        (IdentityManaged, identity(r#","Condition":{"StringEquals":{"kms:ViaServise":"x"}}"#)),
        (IdentityManaged, r#"{"Id":"x","Statement":{"Effect":"Allow","NotAction":"iam:*","NotResource":"arn:aws:s3:::b/${aws:username}"}}"#.into()),
        (Trust, one(r#"{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::111122223333:oidc-provider/x.y/z"},"Action":"sts:AssumeRoleWithWebIdentity"}"#)),
    ];
    for (kind, text) in rows {
        Policy::parse(&text, kind).unwrap_or_else(|e| panic!("{kind:?} {text}: {e}"));
    }
}

#[test]
fn sizes() {
    let padded = |filling: &str, to: usize| {
        let text = key("");
        text.replacen('{', &format!("{{{}", filling.repeat(to.saturating_sub(text.len()) / filling.len())), 1)
    };
    let key_limit = 32_768;
    assert!(Policy::parse(&padded(" ", key_limit), PolicyKind::Key).is_ok());
    assert!(Policy::parse(&padded(" ", key_limit + 1), PolicyKind::Key).unwrap_err().too_long);
    // White space does not count in policies of identities.
    let spaced = identity("").replacen('{', &format!("{{{}", " ".repeat(9_000)), 1);
    let policy = Policy::parse(&spaced, INLINE).unwrap();
    assert_eq!(policy.size(), identity("").len());
    assert!(Policy::parse(&spaced, PolicyKind::Session).unwrap_err().too_long);
    let sid = |n: usize| identity(&format!(r#","Sid":"{}""#, "a".repeat(n)));
    for (kind, limit) in [
        (INLINE, 2_048),
        (PolicyKind::IdentityManaged, 6_144),
        (PolicyKind::Boundary, 6_144),
        (PolicyKind::Session, 2_048),
        (PolicyKind::ServiceControl, 5_120),
    ] {
        let fixed = sid(0).len();
        assert!(Policy::parse(&sid(limit - fixed), kind).is_ok(), "{kind:?}");
        assert!(Policy::parse(&sid(limit - fixed + 1), kind).unwrap_err().too_long, "{kind:?}");
    }
    let statements = |n| format!(r#"{{"Statement":[{}]}}"#, vec!["{}"; n].join(","));
    assert!(Policy::parse(&statements(1_001), PolicyKind::Key).unwrap_err().text.contains("1 to 1000"));
    assert!(Policy::parse(&statements(1_000), PolicyKind::Key).unwrap_err().text.contains("no Effect"));
    let values = |n| key(&format!(r#","Condition":{{"StringEquals":{{"a:b":[{}]}}}}"#, vec![r#""""#; n].join(",")));
    assert!(Policy::parse(&values(9_990), PolicyKind::Key).is_ok());
    assert!(Policy::parse(&values(10_000), PolicyKind::Key).unwrap_err().text.contains("10000 strings"));
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(Policy::parse(&deep, PolicyKind::Key).is_err());
}

#[test]
fn who_is_named() {
    let text = principal(
        r#"{"AWS":["*","111122223333","arn:aws:iam::444455556666:root","arn:aws:iam::111122223333:role/r"],"Service":"a.b"}"#,
    );
    let policy = Policy::parse(&text, PolicyKind::Key).unwrap();
    let named: Vec<NamedPrincipal<'_>> = policy.principals().collect();
    assert_eq!(
        named,
        [
            NamedPrincipal::Everyone,
            NamedPrincipal::Account("111122223333"),
            NamedPrincipal::Account("444455556666"),
            NamedPrincipal::Arn("arn:aws:iam::111122223333:role/r"),
            NamedPrincipal::Service("a.b"),
        ]
    );
}

#[test]
fn warnings() {
    let rows = [
        (r#"{"NumericEquals":{"a:b":"seven"}}"#, "is no number"),
        (r#"{"DateLessThan":{"a:b":"soon"}}"#, "is no date"),
        (r#"{"Bool":{"a:b":"yes"}}"#, "neither `true` nor `false`"),
        (r#"{"IpAddress":{"a:b":"10.0.0.0/64"}}"#, "no address and no network"),
        (r#"{"BinaryEquals":{"a:b":"?"}}"#, "is not base64"),
        (r#"{"ArnLike":{"a:b":"alice"}}"#, "is no ARN"),
        (r#"{"StringEquals":{"kms:Nothing":"x"}}"#, "not a condition key of KMS"),
        (r#"{"ForAllValues:StringEquals":{"aws:RequestTag/a":"x"}}"#, "OverlyPermissiveCondition"),
    ];
    for (condition, expected) in rows {
        let policy = Policy::parse(&identity(&format!(r#","Condition":{condition}"#)), INLINE).unwrap();
        assert!(policy.warnings().iter().any(|w| w.contains(expected)), "{condition}: {:?}", policy.warnings());
    }
    assert!(Policy::parse(&identity(""), INLINE).unwrap().warnings().is_empty());
}

/// What was stored and could not be written today allows nothing that it would not allow if it were understood.
#[test]
fn stored_exclusions_that_are_not_understood_allow_nothing() {
    let about = About { service: "kms", action: "decrypt", resource: AboutResource::Arn("arn:aws:kms:r:1:key/k") };
    let applies = |text: &str| {
        let policy = Policy::parse_stored(text, PolicyKind::Key).unwrap();
        policy.statements()[0].applies(&about, &NoKeys).is_ok()
    };
    for (element, value) in [
        ("NotAction", r#""Decrypt""#),
        ("NotResource", r#""key/k""#),
        ("NotPrincipal", r#"{"AWS":"arn:aws:iam::1:user/*"}"#),
    ] {
        let text = |effect: &str| {
            let kept = key("").replace("Allow", effect);
            match element {
                "NotAction" => kept.replace(r#""Action":"kms:*""#, &format!(r#""{element}":{value}"#)),
                "NotResource" => kept.replace(r#""Resource":"*""#, &format!(r#""{element}":{value}"#)),
                _ => kept.replace(r#""Principal":"*""#, &format!(r#""{element}":{value}"#)),
            }
        };
        assert!(!applies(&text("Allow")), "{element}");
        assert!(applies(&text("Deny")), "{element}");
    }
}

#[test]
fn globs() {
    let atoms = |text: &str| -> Vec<Atom> {
        let byte = |b| match b {
            b'*' => Atom::Star,
            b'?' => Atom::One,
            b => Atom::Byte(b),
        };
        text.bytes().map(byte).collect()
    };
    for (pattern, text, expected) in [
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("a*c", "abbc", true),
        ("a*c", "abcb", false),
        ("a?c", "abc", true),
        ("a?c", "aéc", true),
        ("a??c", "aéc", false),
        ("a?c", "ac", false),
        ("**a", "ba", true),
        ("a*b*", "a", false),
        ("*é", "aéé", true),
        ("*?", "é", true),
        ("*a?b*", "aab", true),
        ("*ab*ab", "abab", true),
        ("*ab*ab", "aab", false),
    ] {
        assert_eq!(glob(&atoms(pattern), text.as_bytes(), || true), expected, "{pattern} {text}");
    }
}

#[test]
fn the_worst_glob_is_bounded_by_the_product_of_the_lengths() {
    for (pattern, text) in [
        ("*a".repeat(2_000), "a".repeat(2_000) + "b"),
        ("*".repeat(2_000) + "b", "a".repeat(2_000)),
        ("*?a".repeat(1_000), "ab".repeat(1_500)),
        ("*".to_owned() + &"a".repeat(1_000) + "b", "a".repeat(3_000)),
    ] {
        let Ok(Pattern::Atoms(atoms)) = Pattern::compile(&pattern, Syntax { wildcards: true, variables: false }) else {
            panic!("a pattern with wildcards")
        };
        let mut steps = 0_usize;
        glob(&atoms, text.as_bytes(), || {
            steps += 1;
            true
        });
        assert!(steps <= (atoms.len() + 1) * (text.len() + 1), "{steps}");
    }
}

/// A slow matcher that is obviously right.
fn naive(pattern: &[Atom], text: &[char]) -> bool {
    match (pattern, text) {
        ([], text) => text.is_empty(),
        ([Atom::Star, rest @ ..], text) => (0..=text.len()).any(|n| naive(rest, &text[n..])),
        ([Atom::One, rest @ ..], [_, text @ ..]) => naive(rest, text),
        ([Atom::Byte(b), rest @ ..], [c, text @ ..]) => char::from(*b) == *c && naive(rest, text),
        _ => false,
    }
}

proptest! {
    #[test]
    fn globs_agree_with_the_definition(pattern in "[ab*?]{0,8}", text in "[abé]{0,8}") {
        let compiled = Pattern::compile(&pattern, Syntax { wildcards: true, variables: false }).unwrap();
        let atoms: Vec<Atom> = pattern.bytes().map(|b| match b {
            b'*' => Atom::Star,
            b'?' => Atom::One,
            b => Atom::Byte(b),
        }).collect();
        prop_assert_eq!(compiled.matches(&text, &NoKeys), naive(&atoms, &text.chars().collect::<Vec<_>>()));
    }

    #[test]
    fn a_variable_matches_its_own_text_only(value in "[ab*?$]{0,6}", text in "[ab*?$]{0,6}") {
        let pattern = Pattern::compile("${a:b}", Syntax { wildcards: true, variables: true }).unwrap();
        let mut keys = Listed::new();
        keys.set("a:b", &*value);
        prop_assert_eq!(pattern.matches(&text, &keys), value == text);
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}") {
        for kind in [PolicyKind::Key, INLINE, PolicyKind::Trust] {
            let _ = Policy::parse(&text, kind);
            let _ = Policy::parse_stored(&text, kind);
        }
        let _ = Pattern::compile(&text, Syntax { wildcards: true, variables: true });
        let _ = super::operand::instant(&text);
        let _ = super::operand::Network::parse(&text);
        let _ = super::operand::Decimal::parse(&text);
    }

    /// Policies with bytes changed, dropped and doubled: parsed or refused, and what is parsed can be asked.
    #[test]
    fn mutated_policies_never_panic(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0..3_u8, prop::char::range('\u{1}', '\u{ff}')), 1..6),
        value in "[a0-9:./*$?{}'T-]{0,20}",
    ) {
        let mut text: Vec<char> = one(
            r#"{"Sid":"a","Effect":"Allow","NotPrincipal":{"AWS":["arn:aws:iam::111122223333:user/a","*"]},"Action":["kms:*"],
            "Resource":"arn:aws:kms:*:111122223333:key/${aws:username, 'x'}*","Condition":{"ForAnyValue:StringLikeIfExists":{"a:b":
            ["${a:c}","*"]},"NumericLessThan":{"a:b":7.5},"DateGreaterThan":{"a:b":"2026-01-01T00:00:00+01:00"},
            "IpAddress":{"a:b":"10.0.0.0/8"},"Null":{"a:b":false},"BinaryEquals":{"a:b":"QQ=="}}}"#,
        ).chars().collect();
        for (at, how, with) in cuts {
            let at = at.index(text.len());
            match how {
                0 => { text.remove(at); }
                1 => text.insert(at, with),
                _ => text[at] = with,
            }
        }
        let text: String = text.into_iter().collect();
        let mut keys = Listed::new();
        keys.set("a:b", &*value);
        keys.set("aws:username", &*value);
        let about = About { service: "kms", action: "decrypt", resource: AboutResource::Arn(&value) };
        for parsed in [Policy::parse(&text, PolicyKind::Key), Policy::parse_stored(&text, PolicyKind::Key)] {
            for statement in parsed.iter().flat_map(|p| p.statements()) {
                let _ = statement.applies(&about, &keys);
            }
        }
    }
}
