//! The steps around the evaluator, on records as the store has them.

use super::*;

#[derive(Debug)]
struct Asks(Vec<&'static str>);
impl Checks for Asks {
    fn checks(&self) -> Vec<Check<'_>> {
        self.0.iter().map(|name| Check::new("kms:X", Resource::Command(name))).collect()
    }
}

fn operator() -> Caller {
    Caller::operator("111122223333".parse().unwrap(), 1000)
}

#[test]
fn nothing_configured_is_a_refusal() {
    assert!(decide(operator(), Asks(vec!["key:list"]), &OperatorCommands::default()).is_err());
}

#[test]
fn no_check_at_all_is_a_refusal() {
    let all = OperatorCommands(["key:list".to_owned()].into());
    assert!(decide(operator(), Asks(vec![]), &all).is_err());
    assert!(decide(operator(), Asks(vec!["key:list"]), &all).is_ok());
}

#[test]
fn every_check_must_pass() {
    let all = OperatorCommands(["key:list".to_owned()].into());
    let denied = decide(operator(), Asks(vec!["key:list", "key:show"]), &all).unwrap_err();
    assert!(denied.message.contains("`key:show`"), "{}", denied.message);
    assert_eq!(denied.grounds.decision, "Deny");
}

#[test]
fn the_operator_is_no_principal_of_kms_and_the_service_only_has_its_timers() {
    #[derive(Debug)]
    struct Any;
    impl Checks for Any {
        fn checks(&self) -> Vec<Check<'_>> {
            vec![Check::new("kms:Decrypt", Resource::Any)]
        }
    }
    let all = OperatorCommands(["key:list".to_owned()].into());
    assert!(decide(operator(), Any, &all).is_err());
    assert!(decide(Caller::bridge("111122223333".parse().unwrap()), Any, &all).is_err());
}
