use super::*;

fn case(expect: &str, more: &str) -> String {
    format!(
        r#"{{"cases": [{{"id": "T-1", "title": "t",
            "principal": {{"type": "user", "arn": "arn:aws:iam::111122223333:user/alice", "account": "111122223333"}},
            "identity_policies": [{{"name": "p", "kind": "user-inline", "document": {{"Version": "2012-10-17",
                "Statement": {{"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"}}}}}}],
            "request": {{"operation": "ListKeys", "checks": [{{"action": "kms:ListKeys", "resource": "*"}}]}},
            "expect": {expect}{more}}}]}}"#
    )
}

#[test]
fn what_is_expected_is_compared() {
    let allow = r#"{"decision": "allow", "deny_type": null, "decided_by": "identity"}"#;
    assert_eq!(run(&case(allow, "")).unwrap(), Report { passed: 1, failures: Vec::new() });
    for wrong in [
        r#"{"decision": "deny", "deny_type": null, "decided_by": "identity"}"#,
        r#"{"decision": "allow", "deny_type": "implicit", "decided_by": "identity"}"#,
        r#"{"decision": "allow", "deny_type": null, "decided_by": "grant"}"#,
        r#"{"decision": "allow", "message": "User: nobody"}"#,
    ] {
        let report = run(&case(wrong, "")).unwrap();
        assert_eq!((report.passed, report.failures.len()), (0, 1), "{wrong}");
        assert!(report.failures[0].why.contains("got:      allow, decided by identity"), "{:?}", report.failures);
    }
}

#[test]
fn what_is_not_understood_has_failed() {
    let allow = r#"{"decision": "allow"}"#;
    let report = run(&case(allow, r#", "pricipal": {}"#)).unwrap();
    assert_eq!(report.passed, 0);
    assert!(report.failures[0].why.contains("unknown field `pricipal`"), "{:?}", report.failures);
    assert!(run("[]").is_err());
    assert!(run("{}").is_err());
    assert!(run("").is_err());
}

/// Our own cases, and those that the environment variable HSM_BRIDGE_DECISION_CASES names (paths, `:` between them).
#[test]
fn decisions() {
    let own = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/decisions")).unwrap();
    let mut files: Vec<std::path::PathBuf> = own.map(|entry| entry.unwrap().path()).collect();
    files.extend(std::env::var_os("HSM_BRIDGE_DECISION_CASES").iter().flat_map(std::env::split_paths));
    let mut failures = Vec::new();
    for file in files {
        let report = run(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert!(report.passed + report.failures.len() > 0, "{} has no case", file.display());
        failures.extend(report.failures.iter().map(|f| format!("{}: {} {}\n{}", file.display(), f.id, f.title, f.why)));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
