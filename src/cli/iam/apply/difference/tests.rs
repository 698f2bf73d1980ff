use serde_json::json;

use super::*;

fn shown(changes: &[Value]) -> String {
    let mut out = Vec::new();
    show(&mut out, changes, &"111122223333".parse().unwrap()).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_change_is_told_by_line_entry_and_name() {
    let document =
        |action: &str| json!({ "Statement": [{ "Action": action, "Effect": "Allow" }], "Version": "2012-10-17" });
    let text = shown(&[
        json!({ "Kind": "user", "Name": "alice", "Action": "create", "Arn": "arn:aws:iam::111122223333:user/alice",
                "Entity": { "UserName": "alice", "UserId": "AIDA", "CreateDate": "now", "Groups": ["ops"], "Tags": [] } }),
        json!({ "Kind": "role", "Name": "app", "Action": "update", "Arn": "arn:aws:iam::444455556666:role/app", "Changed": {
            "AssumeRolePolicyDocument": { "From": document("sts:AssumeRole"), "To": document("sts:*") },
            "Tags": { "From": [{ "Key": "a", "Value": "1" }, { "Key": "b", "Value": "2" }],
                      "To": [{ "Key": "b", "Value": "2" }, { "Key": "a", "Value": "3" }] },
        }}),
        json!({ "Kind": "policy", "Name": "arn:aws:iam::111122223333:policy/p/x", "Action": "delete",
                "Arn": "arn:aws:iam::111122223333:policy/p/x", "Entity": {} }),
    ]);
    assert_eq!(
        text,
        r#"+ user/alice
    + groups: ops
~ role/app in 444455556666 (tags, trust policy)
    trust policy:
      {
        "Statement": [
          {
    -       "Action": "sts:AssumeRole",
    +       "Action": "sts:*",
            "Effect": "Allow"
          }
        ],
        "Version": "2012-10-17"
      }
    - tags: a=1
    + tags: a=3
- policy/p/x

1 to create, 1 to change, 1 to delete
"#
    );
    assert_eq!(shown(&[]), "nothing to change\n");
}

#[test]
fn lines_in_common_are_found() {
    let told = |a: &str, b: &str| -> String {
        let (a, b): (Vec<&str>, Vec<&str>) = (a.split(' ').collect(), b.split(' ').collect());
        unified(&a, &b).iter().map(|(sign, line)| format!("{sign}{line}")).collect()
    };
    assert_eq!(told("a b c", "a b c"), " a b c");
    assert_eq!(told("a b c", "a x c"), " a-b+x c");
    assert_eq!(told("a b", "b c"), "-a b+c");
    assert_eq!(told("a", "b c"), "-a+b+c");
}
