use clap::{CommandFactory, Parser};

use super::args::{Arguments, Command};
use crate::ops::OperatorRequest;

/// The operator's request of a command line, as JSON.
fn asked(line: &str) -> serde_json::Value {
    let words = std::iter::once("hsm-bridge").chain(line.split(' '));
    let request: OperatorRequest =
        match Arguments::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}")).command {
            Command::Token(command) => command.request().ok().unwrap().0,
            Command::Key(command) => command.request().ok().unwrap().request,
            Command::Alias(command) => command.request().0,
            Command::Rotate(command) => command.request().0,
            _ => panic!("{line} is another command"),
        };
    serde_json::to_value(request).unwrap()
}

const KEY: &str = "5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11";

#[test]
fn the_arguments_are_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn commands_become_requests() {
    use serde_json::json;
    for (line, expected) in [
        ("token list --json", json!({"command": "token-list"})),
        ("token reconcile", json!({"command": "token-reconcile", "token": null})),
        ("token reconcile --token payments", json!({"command": "token-reconcile", "token": "payments"})),
        ("token pin --pin-file /p", json!({"command": "token-pin", "token": null, "pin_file": "/p", "retry": false})),
        ("token pin --retry --token t", json!({"command": "token-pin", "token": "t", "pin_file": null, "retry": true})),
        (
            "token replace --token default --ticket T-1",
            json!({"command": "token-replace", "token": "default", "ticket": "T-1"}),
        ),
        (
            "key adopt --id 4A01 --usage SIGN_VERIFY --encryptions-so-far 9 --alias alias/x --allow-extractable",
            json!({"command": "key-adopt", "key_store": null, "id": "4a01", "label": null, "usage": "SIGN_VERIFY",
                "description": "", "alias": "alias/x", "account": null, "allow_extractable": true, "encryptions_so_far": 9}),
        ),
        (
            "key adopt --label l --key-store cks-1234567890abcdef0 --description d",
            json!({"command": "key-adopt", "account": null, "key_store": "cks-1234567890abcdef0", "id": null, "label": "l", "usage": null,
                "description": "d", "alias": null, "allow_extractable": false, "encryptions_so_far": 0}),
        ),
        ("key attest alias/x --out f", json!({"command": "key-attest", "account": null, "key": "alias/x"})),
        ("alias list", json!({"command": "alias-list"})),
        ("alias history alias/x", json!({"command": "alias-history", "account": null, "alias": "alias/x"})),
        (
            &format!("alias history drop --alias alias/x --key arn:aws:kms:r:111122223333:key/{KEY}"),
            json!({"command": "alias-history-drop", "account": null, "alias": "alias/x", "key": KEY}),
        ),
        (
            "rotate --alias alias/x",
            json!({"command": "rotate", "account": null, "alias": "alias/x", "key_spec": null, "reason": null, "grants": null}),
        ),
        (
            "rotate --alias alias/x --key-spec RSA_3072 --reason yearly --grants carry",
            json!({"command": "rotate", "account": null, "alias": "alias/x", "key_spec": "RSA_3072", "reason": "yearly",
                "grants": "carry"}),
        ),
        (
            "rotate --alias alias/x --grants leave --plan",
            json!({"command": "rotate-plan", "account": null, "alias": "alias/x", "key_spec": null, "grants": "leave"}),
        ),
        ("rotate report --max-age-days 90", json!({"command": "rotate-report", "max_age_days": 90})),
        (
            &format!("rotate retire --alias alias/x --key {KEY} --unused-days 0 --force because"),
            json!({"command": "rotate-retire", "account": null, "alias": "alias/x", "key": KEY, "unused_days": 0,
                "pending_window_in_days": 30, "force": "because"}),
        ),
    ] {
        assert_eq!(asked(line), expected, "{line}");
    }
}

#[test]
fn wrong_usage() {
    for line in [
        "rotate",
        "rotate --alias x",
        "rotate --alias alias/x report",
        "rotate --alias alias/x --key-spec SM2",
        "rotate retire --alias alias/x --pending-window-in-days 6",
        "rotate retire",
        "alias history",
        "alias history drop --alias alias/x",
        "alias history alias/x drop --alias alias/x --key 5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11",
        "key adopt",
        "key adopt --id 4a0",
        "key adopt --label l --usage WRAP",
        "key adopt --label l --key-store store",
        "token replace --token default",
        "serve --accept-token-replacement T",
    ] {
        let words = std::iter::once("hsm-bridge").chain(line.split(' '));
        assert!(Arguments::try_parse_from(words).is_err(), "{line}");
    }
}
