//! The evaluator alone: three policies of ten statements and a hundred grants on the key, the case that the target of 50
//! microseconds is about.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use crate::taken::Taken;
use hsm_bridge::authz::evaluate::{
    Actor, ActorKind, Asks, Attached, Attachment, AttachmentKind, Grants, NoBindings, Question, Target, evaluate,
};
use hsm_bridge::authz::language::{Listed, Policy, PolicyKind};
use hsm_bridge::ids::KeyId;
use hsm_bridge::ids::spec::GrantOperation;
use hsm_bridge::store::{GrantConstraints, GrantPrincipal, GrantRecord};

const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/5f0c6a0e-3d52-4b0c-9a5e-6d1d7f3b2c11";
const ALICE: &str = "arn:aws:iam::111122223333:user/alice";

pub fn measure(times: usize) {
    println!("the evaluator alone, 3 policies of 10 statements, 100 grants on the key      median      p99");
    let world = World::new();
    world.measure(times, "allowed by the last statement of the identity policy", "kms:Decrypt", ALICE);
    world.measure(times, "allowed by the last of the caller's hundred grants", "kms:Encrypt", ALICE);
    world.measure(times, "refused: nothing matches", "kms:GetPublicKey", "arn:aws:iam::111122223333:user/bob");
}

struct World {
    key_policy: Policy,
    attached: Attached,
    grants: BTreeMap<String, Vec<GrantRecord>>,
    keys: Listed,
    context: Vec<(String, String)>,
}

impl Grants for World {
    fn to<'s>(&'s self, grantee: &str) -> Box<dyn Iterator<Item = &'s GrantRecord> + 's> {
        Box::new(self.grants.get(grantee).into_iter().flatten())
    }
}

impl World {
    fn new() -> Self {
        let parse = |statements: Vec<String>, kind| {
            let text = format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(","));
            Policy::parse(&text, kind).unwrap()
        };
        // Every statement has something of what real ones have: lists, globs, a condition, a variable.
        let of_key = (0..10).map(|n| {
            let (who, when) = match n {
                9 => (r#""111122223333""#.to_owned(), "{}"),
                n => (
                    format!(r#"["arn:aws:iam::111122223333:user/u{n}","arn:aws:iam::111122223333:role/r{n}"]"#),
                    r#"{"StringEquals":{"kms:ViaService":"s3.example.com"}}"#,
                ),
            };
            format!(
                r#"{{"Effect":"Allow","Principal":{{"AWS":{who}}},"Action":["kms:Encrypt*","kms:Dec*","kms:Generate*"],
                "Resource":"*","Condition":{when}}}"#
            )
        });
        let of_identity = |last: bool| {
            (0..10).map(move |n| {
                let (resource, team) = match n {
                    9 if last => ("*", "blue"),
                    _ => ("arn:aws:kms:*:111122223333:key/${aws:PrincipalTag/team}*", "red"),
                };
                format!(
                    r#"{{"Effect":"Allow","Action":["kms:Describe*","kms:Decrypt","kms:ReEncrypt*"],"Resource":"{resource}",
                    "Condition":{{"StringLike":{{"aws:ResourceTag/team":"{team}*"}},"IpAddress":{{"aws:SourceIp":
                    ["10.0.0.0/8","192.0.2.0/24"]}}}}}}"#
                )
            })
        };
        let attachment = |kind, policy| Attachment { kind, name: "own".to_owned(), policy: Arc::new(policy) };
        let attached = Attached {
            identity: vec![
                attachment(
                    AttachmentKind::GroupInline,
                    parse(of_identity(false).collect(), PolicyKind::IdentityManaged),
                ),
                attachment(AttachmentKind::UserInline, parse(of_identity(true).collect(), PolicyKind::IdentityManaged)),
            ],
            ..Attached::default()
        };
        let mut grants: BTreeMap<String, Vec<GrantRecord>> = BTreeMap::new();
        for n in 0..100 {
            let mut record = grant(n);
            if n == 99 {
                record.operations = vec![GrantOperation::Encrypt];
                record.constraints.subset = Some([("app".to_owned(), "one".to_owned())].into());
            }
            grants.entry(ALICE.to_owned()).or_default().push(record);
        }
        let mut keys = Listed::new();
        for (name, value) in [
            ("aws:PrincipalArn", ALICE),
            ("aws:PrincipalTag/team", "blue"),
            ("aws:ResourceTag/team", "blue"),
            ("aws:SourceIp", "192.0.2.7"),
            ("kms:CallerAccount", "111122223333"),
            ("kms:KeySpec", "SYMMETRIC_DEFAULT"),
        ] {
            keys.set(name, value);
        }
        let context = vec![("app".to_owned(), "one".to_owned())];
        Self { key_policy: parse(of_key.collect(), PolicyKind::Key), attached, grants, keys, context }
    }

    fn measure(&self, times: usize, what: &str, action: &str, caller: &str) {
        let actor = Actor {
            kind: ActorKind::User,
            arn: caller,
            account: Some("111122223333"),
            unique_id: Some("AIDAEXAMPLE"),
            role_arn: None,
            federating_user_arn: None,
        };
        let target = Target::Resource {
            arn: KEY,
            account: "111122223333",
            policy: &self.key_policy,
            bindings: &NoBindings,
            grants: self,
        };
        let question = Question {
            actor,
            attached: &self.attached,
            action,
            target,
            keys: &self.keys,
            encryption_context: &self.context,
            asks: Asks::Plain,
            grants_suffice_cross_account: true,
        };
        let mut taken = Taken::default();
        for _ in 0..times {
            taken.time(|| evaluate(black_box(&question)));
        }
        let cost = taken.cost();
        let verdict = evaluate(&question).by.as_str();
        println!("{:69} {:>8.2} us {:>8.2} us", format!("{what} ({verdict})"), cost.median, cost.p99);
    }
}

fn grant(n: usize) -> GrantRecord {
    GrantRecord {
        id: format!("{n:064x}").parse().unwrap(),
        key: KeyId::new([0; 16], false),
        issuing_account: "111122223333".parse().unwrap(),
        grantee: GrantPrincipal::Aws { arn: ALICE.to_owned(), id: Some("AIDAEXAMPLE".to_owned()) },
        retiring: None,
        operations: vec![GrantOperation::DescribeKey, GrantOperation::Sign],
        constraints: GrantConstraints { equals: None, subset: None, source_arn: None },
        name: None,
        created: 0,
    }
}
