use std::fs;

use super::*;

fn read_from(files: &[(&str, &str)]) -> Result<IamDesired, String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = dir.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    read(dir.path(), &"111122223333".parse().unwrap()).map_err(|failed| failed.message)
}

const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[]}"#;

#[test]
fn names_paths_and_places_come_together() {
    let made = read_from(&[
        ("policies/bare.json", POLICY),
        ("policies/b.json", r#"{"PolicyName":"inner","Path":"/p/","PolicyDocument": {"Statement":  []} }"#),
        ("users/alice.json", r#"{"AttachedManagedPolicies":[{"PolicyName":"inner"},{"PolicyName":"bare"}]}"#),
        ("accounts/444455556666/users/bob.json", "{}"),
        ("README.md", "not a document"),
        (".github/x.json", "neither"),
        ("users/.gitkeep", ""),
    ])
    .unwrap();
    let files: Vec<&str> = made.entities.iter().map(|entity| entity.file.as_str()).collect();
    assert_eq!(
        files,
        ["policies/b.json", "policies/bare.json", "users/alice.json", "accounts/444455556666/users/bob.json"]
    );
    let IamChange::PutPolicy(inner) = &made.entities[0].put else { panic!() };
    assert_eq!(inner.document, r#"{"Statement":  []}"#, "the text is kept as it was written");
    let IamChange::PutUser(alice) = &made.entities[2].put else { panic!() };
    let attached: Vec<&str> = alice.attached.iter().map(PolicyArn::as_str).collect();
    assert_eq!(attached, ["arn:aws:iam::111122223333:policy/p/inner", "arn:aws:iam::111122223333:policy/bare"]);
    let managed: Vec<(IamKind, Option<&str>)> =
        made.managed.iter().map(|m| (m.kind, m.account.as_ref().map(AccountId::as_str))).collect();
    assert_eq!(
        managed,
        [
            (IamKind::User, Some("111122223333")),
            (IamKind::User, Some("444455556666")),
            (IamKind::Policy, Some("111122223333"))
        ]
    );
}

#[test]
fn the_digest_is_of_names_and_contents() {
    let digest = |files: &[(&str, &str)]| read_from(files).unwrap().source;
    let first = digest(&[("users/a.json", "{}"), ("users/b.json", "{}")]);
    assert_eq!(first, digest(&[("users/b.json", "{}"), ("users/a.json", "{}"), ("README.md", "x")]));
    assert_ne!(first, digest(&[("users/a.json", "{}"), ("users/b.json", "{ }")]));
    assert_ne!(first, digest(&[("users/a.json", "{}"), ("users/c.json", "{}")]));
}

#[test]
fn refusals_name_file_line_and_what_was_meant() {
    for (files, told) in [
        (vec![("users/a.json", "{\n\"Paht\": \"/\"}")], "users/a.json:2: unknown member `Paht`: did you mean `Path`?"),
        (vec![("users/a.json", "{\n\n\"Path\": \"x\"}")], "users/a.json:3: `x` is not a path"),
        (vec![("rolls/a.json", "{}")], "rolls: it has no meaning here: did you mean `roles`?"),
        (vec![("users/a.json", "{}"), ("users/A.json", "{}")], "users/a.json: user `a` is in users/A.json too"),
        (
            vec![("groups/a.json", r#"{"GroupPolicyList":[{"PolicyName":"p","PolicyDocument":"%zz%ff"}]}"#)],
            "groups/a.json: ",
        ),
        (vec![("x.txt", "")], "has no identities"),
    ] {
        let refused = read_from(&files).unwrap_err();
        assert!(refused.contains(told), "{files:?}: {refused}");
    }
}
