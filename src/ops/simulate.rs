//! `policy simulate`: why a request would be allowed or denied. The same decision as that of a request, asked with a caller
//! that nobody signed in as; nothing is done, and what the operation would refuse for other reasons (a key's state, its usage)
//! is not looked at.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::authn::{Caller, Principal, Session, SessionPolicies};
use crate::authz::evaluate::{Asks, Trace, Verdict, evaluate_traced};
use crate::authz::language::{Policy, PolicyKind, Values};
use crate::authz::{Check, Environment, Identity, NoQuestion, Resource, with_question};
use crate::ids::{AccountId, AliasName, Arn, RoleName, ServiceName, UserName};
use crate::ops::principals::{PrincipalKind, known_principal, known_service};
use crate::ops::resolve::{KeyTarget, find_key};
use crate::ops::{Context, OpError, Operation, OperatorResponse, Ops, PolicySimulate, READER_ACTIONS, TrailNames};
use crate::store::{PolicyDocument, Snapshot};

/// How long the session of a simulated role lasts, seconds.
const SESSION: i64 = 3_600;
/// RoleSessionName of a role that was named without a session.
const SESSION_NAME: &str = "policy-simulate";
/// RULE authorization.md §2.7: keys with several values.
const MULTI_VALUED: &[&str] = &[
    "aws:TagKeys",
    "aws:CalledVia",
    "aws:PrincipalOrgPaths",
    "aws:ResourceOrgPaths",
    "kms:EncryptionContextKeys",
    "kms:GrantOperations",
    "kms:ResourceAliases",
];

impl Ops {
    pub(super) fn simulate(
        &self,
        request: &PolicySimulate,
        snapshot: &Snapshot,
        ctx: &Context,
    ) -> Result<OperatorResponse, OpError> {
        let asked = Asked {
            request,
            snapshot,
            own: &ctx.account,
            environment: Environment {
                now: ctx.now,
                source_ip: None,
                secure_transport: true,
                user_agent: None,
                region: self.locality.region.clone(),
            },
            grants_suffice: self.grants_suffice_cross_account,
            trail: self.trail_names(),
        };
        Ok(OperatorResponse::Simulation { report: asked.report(&self.locality)? })
    }
}

struct Asked<'a> {
    request: &'a PolicySimulate,
    snapshot: &'a Snapshot,
    /// Where names without an account are.
    own: &'a AccountId,
    environment: Environment,
    grants_suffice: bool,
    /// What the log is called.
    trail: Option<&'a TrailNames>,
}

/// What the action is asked of.
struct Named {
    key: Option<KeyTarget>,
    alias: Option<AliasName>,
    alias_arn: String,
}

impl Asked<'_> {
    fn report(&self, here: &crate::ids::Locality) -> Result<Value, OpError> {
        let caller = self.caller()?;
        let identity = Identity::of(&caller, self.snapshot).map_err(|_| {
            wrong(format!("`{}` cannot sign in: its root user is disabled, or its sessions were revoked", caller.arn()))
        })?;
        if let Some(action) = READER_ACTIONS.iter().find(|known| known.eq_ignore_ascii_case(&self.request.action)) {
            return self.of_the_log(action, &caller, &identity);
        }
        let (action, operation) = action(&self.request.action)?;
        let named = self.named(operation, caller.account(), here)?;
        let mut answers = Vec::new();
        for check in self.checks(action, operation, &named, caller.account()) {
            let asked =
                with_question(&identity, &check, self.snapshot, &self.environment, self.grants_suffice, |question| {
                    let (verdict, trace) = evaluate_traced(question);
                    let message = (!verdict.allowed).then(|| verdict.message(question));
                    answer(&check, question.target.shown(), &verdict, &trace, message)
                });
            answers.push(asked.map_err(not_asked)?);
        }
        // As in a request: the first check that does not pass is the refusal.
        let deciding = answers.iter().find(|a| a["allowed"] == json!(false)).or(answers.last());
        let mut report = deciding.cloned().unwrap_or_else(|| json!({}));
        if let Some(members) = report.as_object_mut() {
            members.insert("principal".to_owned(), json!(caller.arn()));
            if answers.len() > 1 {
                members.insert("checks".to_owned(), Value::Array(answers));
            }
        }
        Ok(report)
    }

    /// Actions of those who read the log, which is asked of the trail, the bucket or an object. `--key` may name it.
    fn of_the_log(&self, action: &'static str, caller: &Caller, identity: &Identity<'_>) -> Result<Value, OpError> {
        let names = self.trail.ok_or_else(|| OpError::Internal("nobody answers questions about the log".to_owned()))?;
        let own = match action {
            "s3:GetObject" => format!("arn:aws:s3:::{}/*", names.bucket),
            _ if action.starts_with("s3:") => format!("arn:aws:s3:::{}", names.bucket),
            _ => names.trail_arn.clone(),
        };
        let arn = self.request.key.clone().unwrap_or(own);
        let mut check = Check::new(action, Resource::OfTheLog { arn: &arn, account: &names.account });
        check.conditions.request = self.given();
        let (environment, suffice) = (&self.environment, self.grants_suffice);
        let asked = with_question(identity, &check, self.snapshot, environment, suffice, |question| {
            let (verdict, trace) = evaluate_traced(question);
            let message = (!verdict.allowed).then(|| verdict.message(question));
            answer(&check, question.target.shown(), &verdict, &trace, message)
        });
        let mut report = asked.map_err(not_asked)?;
        if let Some(members) = report.as_object_mut() {
            members.insert("principal".to_owned(), json!(caller.arn()));
        }
        Ok(report)
    }

    fn checks<'c>(
        &'c self,
        action: &'static str,
        operation: Operation,
        named: &'c Named,
        account: &'c AccountId,
    ) -> Vec<Check<'c>> {
        let mut checks = Vec::new();
        if named.alias.is_some() && is_of_aliases(operation) {
            let account = named.key.as_ref().map_or(account, |key| &key.record.account);
            checks.push(Check::new(action, Resource::Alias { arn: &named.alias_arn, account }));
        }
        let resource = match &named.key {
            Some(key) => Resource::Key { arn: &key.arn, record: &key.record },
            None => Resource::Any,
        };
        checks.push(Check::new(action, resource));
        for check in &mut checks {
            check.asks = Asks::Plain;
            check.encryption_context = Cow::Borrowed(&self.request.context);
            check.conditions.request = self.conditions(operation, named);
            if let Some(key) = &named.key {
                let aliases = self.snapshot.aliases_of.get(&key.record.id);
                check.conditions.resource_aliases = aliases.map_or(&[][..], Vec::as_slice);
                check.conditions.request_alias = named.alias.as_ref().filter(|_| operation.takes_alias());
            }
        }
        checks
    }

    /// Those given by hand come first and win; then what every such request has.
    fn conditions(&self, operation: Operation, named: &Named) -> Vec<(Cow<'_, str>, Values<'_>)> {
        let mut all = self.given();
        let symmetric = named.key.as_ref().is_some_and(|key| key.record.spec.is_symmetric());
        let default = match operation {
            Operation::Encrypt
            | Operation::Decrypt
            | Operation::ReEncrypt
            | Operation::GenerateDataKey
            | Operation::GenerateDataKeyPair
            | Operation::GenerateDataKeyPairWithoutPlaintext
            | Operation::GenerateDataKeyWithoutPlaintext
                if symmetric =>
            {
                Some(("kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT"))
            }
            Operation::Sign | Operation::Verify => Some(("kms:MessageType", "RAW")),
            Operation::GetKeyPolicy | Operation::PutKeyPolicy => Some(("kms:PolicyName", "default")),
            Operation::ScheduleKeyDeletion => Some(("kms:ScheduleKeyDeletionPendingWindowInDays", "30")),
            _ => None,
        };
        all.extend(default.map(|(key, value)| (Cow::Borrowed(key), Values::One(Cow::Borrowed(value)))));
        all
    }

    /// Condition keys given by hand.
    fn given(&self) -> Vec<(Cow<'_, str>, Values<'_>)> {
        let mut given: BTreeMap<&str, Vec<Cow<'_, str>>> = BTreeMap::new();
        for (key, value) in &self.request.condition_keys {
            given.entry(key).or_default().push(Cow::Borrowed(value));
        }
        let one_or_many = |(key, mut values): (&'_ str, Vec<Cow<'_, str>>)| {
            let many = values.len() > 1 || MULTI_VALUED.iter().any(|known| known.eq_ignore_ascii_case(key));
            match values.pop() {
                Some(value) if !many => Values::One(Cow::Owned(value.into_owned())),
                last => Values::Many(values.into_iter().chain(last).map(|v| Cow::Owned(v.into_owned())).collect()),
            }
        };
        given.into_iter().map(|(key, values)| (Cow::Borrowed(key), one_or_many((key, values)))).collect()
    }

    fn named(&self, operation: Operation, account: &AccountId, here: &crate::ids::Locality) -> Result<Named, OpError> {
        let action = &self.request.action;
        let Some(text) = &self.request.key else {
            return match is_on_account(operation) {
                true => Ok(Named { key: None, alias: None, alias_arn: String::new() }),
                false => Err(wrong(format!("`{action}` is asked of a key: name it with `--key`"))),
            };
        };
        if is_on_account(operation) {
            return Err(wrong(format!("`{action}` is asked of the account, not of a key: leave `--key` out")));
        }
        let here = here.of(account);
        let (key, alias) =
            find_key(self.snapshot, &here, text)?.ok_or_else(|| wrong(format!("key `{text}` does not exist")))?;
        let alias = alias.map(|alias| alias.name.clone());
        let alias_arn = alias.as_ref().map(|name| here.of(&key.record.account).alias_arn(name)).unwrap_or_default();
        Ok(Named { key: Some(key), alias, alias_arn })
    }

    fn caller(&self) -> Result<Caller, OpError> {
        let text = self.request.principal.as_str();
        let unknown = || wrong(format!("principal `{text}` does not exist"));
        if let Some(name) = known_service(self.snapshot, text) {
            self.no_session()?;
            return self.service(name).ok_or_else(unknown);
        }
        let own = self.own;
        let arn = match text {
            _ if text.starts_with("arn:") => text.to_owned(),
            _ if text.parse::<AccountId>().is_ok() => format!("arn:aws:iam::{text}:root"),
            _ => format!("arn:aws:iam::{own}:{text}"),
        };
        let known = known_principal(self.snapshot, &arn).ok_or_else(unknown)?;
        let resource = Arn::parse(&arn).map_err(|_| unknown())?.resource.to_owned();
        let last = resource.rsplit('/').next().unwrap_or_default();
        let (principal, session) = match known.kind {
            PrincipalKind::Account => (Principal::Root, None),
            PrincipalKind::User => (self.user(&known.account, last).ok_or_else(unknown)?, None),
            PrincipalKind::Role => {
                (self.role(&known.account, last, SESSION_NAME).ok_or_else(unknown)?, Some(self.session()?))
            }
            PrincipalKind::RoleSession => {
                let role = resource.split('/').nth(1).unwrap_or_default();
                (self.role(&known.account, role, last).ok_or_else(unknown)?, Some(self.session()?))
            }
            PrincipalKind::FederatedUser => (self.federated(&known.account, last)?, Some(self.session()?)),
        };
        if session.is_none() {
            self.no_session()?;
        }
        Ok(Caller::simulated(principal, known.account, session))
    }

    fn user(&self, account: &AccountId, name: &str) -> Option<Principal> {
        let name: UserName = name.parse().ok()?;
        let user = self.snapshot.user(account, &name)?;
        Some(Principal::User { name, path: user.path.clone(), user_id: user.user_id.clone() })
    }

    fn role(&self, account: &AccountId, name: &str, session: &str) -> Option<Principal> {
        let name: RoleName = name.parse().ok()?;
        let record = self.snapshot.role(account, &name)?;
        Some(Principal::AssumedRole {
            role: name,
            path: record.path.clone(),
            role_id: record.role_id.clone(),
            session_name: session.to_owned(),
        })
    }

    /// A federated user has the policies of the user that called GetFederationToken.
    fn federated(&self, account: &AccountId, name: &str) -> Result<Principal, OpError> {
        let by = self.request.federated_by.as_deref().ok_or_else(|| {
            wrong("a federated user has its rights from the user that called GetFederationToken: name that one with `--federated-by`")
        })?;
        let user_name = by.rsplit('/').next().unwrap_or_default();
        match self.user(account, user_name) {
            Some(Principal::User { name: user, path, user_id }) => {
                Ok(Principal::FederatedUser { name: name.to_owned(), user, user_path: path, user_id })
            }
            _ => Err(wrong(format!("user `{by}` does not exist in account {account}"))),
        }
    }

    fn service(&self, name: ServiceName) -> Option<Caller> {
        let record = self.snapshot.services.get(&name)?;
        let principal = Principal::Service { name, service_id: record.service_id.clone() };
        Some(Caller::simulated(principal, record.account.clone(), None))
    }

    fn session(&self) -> Result<Session, OpError> {
        let policies = match &self.request.session_policy {
            None => None,
            Some(text) => {
                Policy::parse(text, PolicyKind::Session).map_err(|e| wrong(format!("the session policy: {e}")))?;
                let inline = Some(PolicyDocument::plain(text.as_str()));
                Some(SessionPolicies { inline, arns: Vec::new() })
            }
        };
        // Rounded up: a role's sessions that were revoked just now are those from before.
        let issued = self.environment.now.div_euclid(1000) + 1;
        Ok(Session {
            issued,
            expires: issued + SESSION,
            mfa_at: None,
            source_identity: None,
            tags: Vec::new(),
            transitive: Vec::new(),
            policies,
            federated_provider: None,
            claims: Vec::new(),
            chained: false,
        })
    }

    fn no_session(&self) -> Result<(), OpError> {
        match (&self.request.session_policy, &self.request.federated_by) {
            (None, None) => Ok(()),
            _ => Err(wrong("only sessions have a session policy: name a role, a session or a federated user")),
        }
    }
}

fn not_asked(why: NoQuestion) -> OpError {
    match why {
        NoQuestion::UnreadablePolicy => wrong("the key's policy cannot be read: everything is denied"),
        NoQuestion::TooCostly => wrong("the policies' patterns take too much comparing: everything is denied"),
        _ => OpError::Internal(format!("a simulation asked nothing: {why:?}")),
    }
}

/// The action as KMS spells it, with the operation that asks for it.
fn action(text: &str) -> Result<(&'static str, Operation), OpError> {
    const MORE: &[(&str, Operation)] = &[("kms:ReEncryptTo", Operation::ReEncrypt)];
    let all = Operation::ALL.iter().filter(|o| **o != Operation::RotateAlias).map(|o| (o.action(), *o));
    let found = all.chain(MORE.iter().copied()).find(|(action, _)| action.eq_ignore_ascii_case(text));
    match found {
        Some((_, Operation::RetireGrant)) => {
            Err(wrong("kms:RetireGrant is decided by the grant that would be retired, and is not simulated"))
        }
        Some(found) => Ok(found),
        None => Err(wrong(format!("`{text}` is no action of KMS, such as `kms:Decrypt` or `kms:ReEncryptFrom`"))),
    }
}

/// RULE authorization.md §1.6: operations that are asked of `*`.
fn is_on_account(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::ListKeys
            | Operation::ListAliases
            | Operation::CreateKey
            | Operation::GenerateRandom
            | Operation::ListRetirableGrants
            | Operation::ConnectCustomKeyStore
            | Operation::CreateCustomKeyStore
            | Operation::DeleteCustomKeyStore
            | Operation::DescribeCustomKeyStores
            | Operation::DisconnectCustomKeyStore
            | Operation::UpdateCustomKeyStore
    )
}

/// They ask of the alias and of its key.
fn is_of_aliases(operation: Operation) -> bool {
    matches!(operation, Operation::CreateAlias | Operation::UpdateAlias | Operation::DeleteAlias)
}

fn answer(check: &Check<'_>, resource: &str, verdict: &Verdict, trace: &Trace, message: Option<String>) -> Value {
    let policies = trace.policies.iter().map(|policy| {
        let statements = policy
            .statements
            .iter()
            .map(|s| json!({ "index": s.index, "sid": s.sid, "effect": s.effect, "applies": s.applies, "why": s.why }));
        json!({ "kind": policy.kind, "name": policy.name, "statements": statements.collect::<Vec<_>>() })
    });
    let grants = trace.grants.iter().map(|grant| json!({ "id": grant.id, "applies": grant.applies }));
    json!({
        "action": check.action,
        "resource": resource,
        "allowed": verdict.allowed,
        "denyType": (!verdict.allowed).then_some(if verdict.explicit { "explicit" } else { "implicit" }),
        "decidedBy": verdict.by.as_str(),
        "statement": verdict.statement.as_ref().map(|s| {
            json!({ "policy": s.policy, "kind": s.kind, "sid": s.sid, "index": s.index })
        }),
        "grant": verdict.grant,
        "message": message,
        "policies": policies.collect::<Vec<_>>(),
        "grants": grants.collect::<Vec<_>>(),
    })
}

fn wrong(what: impl Into<String>) -> OpError {
    OpError::Validation(what.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::{KeyId, Locality};
    use crate::ops::key_policy::testing::{self, ALICE, ALICE_ID, OPS, ROOT};
    use crate::store::KeyRecord;
    use crate::store::testing::{account, alias, key, key_id};

    fn here() -> Locality {
        Locality { account: account(), region: "eu-central-1".parse().unwrap() }
    }

    /// Key 1, at `alias/app`: alice may decrypt, whose ARN is bound to `id`, and the account delegates.
    fn snapshot(id: &str) -> Snapshot {
        let mut snapshot = testing::snapshot();
        let statement = |who: &str, action: &str, sid: &str| json!({ "Sid": sid, "Effect": "Allow", "Principal": { "AWS": who }, "Action": action, "Resource": "*" });
        let statements = [statement(ROOT, "kms:*", "Account"), statement(ALICE, "kms:Decrypt", "Read")];
        let text = json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
        let policy = PolicyDocument::new(text, [(ALICE.to_owned(), id.to_owned())].into());
        snapshot.keys.insert_mut(key_id(1), Arc::new(KeyRecord { policy, ..key(1) }));
        let name: AliasName = "alias/app".parse().unwrap();
        snapshot.aliases.insert_mut((account(), name.clone()), Arc::new(alias("alias/app", key_id(1))));
        snapshot.aliases_of.insert_mut(key_id(1), vec![name]);
        snapshot
    }

    fn request(principal: &str, action: &str, key: Option<&str>) -> PolicySimulate {
        PolicySimulate {
            principal: principal.to_owned(),
            action: action.to_owned(),
            key: key.map(str::to_owned),
            context: Vec::new(),
            condition_keys: Vec::new(),
            session_policy: None,
            federated_by: None,
            account: None,
        }
    }

    fn log() -> TrailNames {
        TrailNames {
            account: account(),
            trail_arn: "arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge".to_owned(),
            bucket: "hsm-audit".to_owned(),
        }
    }

    #[test]
    fn readers_of_the_log() {
        let snapshot = snapshot(ALICE_ID);
        for (action, key, on) in [
            ("cloudtrail:lookupevents", None, "arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge"),
            ("s3:GetObject", None, "arn:aws:s3:::hsm-audit/*"),
            ("s3:ListBucket", None, "arn:aws:s3:::hsm-audit"),
            ("s3:GetObject", Some("arn:aws:s3:::hsm-audit/a"), "arn:aws:s3:::hsm-audit/a"),
        ] {
            let by_root = ask(&snapshot, &request(ROOT, action, key)).unwrap();
            assert_eq!((&by_root["allowed"], &by_root["resource"]), (&json!(true), &json!(on)), "{action}");
            let by_user = ask(&snapshot, &request(ALICE, action, key)).unwrap();
            assert_eq!(by_user["allowed"], json!(false), "{action}");
        }
    }

    fn ask(snapshot: &Snapshot, request: &PolicySimulate) -> Result<Value, String> {
        let own = account();
        let environment = Environment {
            now: 1_800_000_000_000,
            source_ip: None,
            secure_transport: true,
            user_agent: None,
            region: here().region,
        };
        let asked = Asked { request, snapshot, own: &own, environment, grants_suffice: true, trail: Some(&log()) };
        asked.report(&here()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_statement_that_decides_is_named_and_every_policy_is_there() {
        let snapshot = snapshot(ALICE_ID);
        let report = ask(&snapshot, &request("user/alice", "kms:decrypt", Some("alias/app"))).unwrap();
        assert_eq!((&report["allowed"], &report["decidedBy"]), (&json!(true), &json!("key_policy")));
        assert_eq!((&report["statement"]["sid"], &report["action"]), (&json!("Read"), &json!("kms:Decrypt")));
        assert_eq!((&report["principal"], &report["resource"]), (&json!(ALICE), &json!(here().key_arn(&key_id(1)))));
        assert_eq!(report["policies"][0]["statements"].as_array().unwrap().len(), 2);
        let report = ask(&snapshot, &request(ALICE, "kms:Encrypt", Some("alias/app"))).unwrap();
        assert_eq!((&report["denyType"], &report["decidedBy"]), (&json!("implicit"), &json!("identity")));
        assert!(
            report["message"]
                .as_str()
                .unwrap()
                .ends_with("because no identity-based policy allows the kms:Encrypt action")
        );
    }

    #[test]
    fn it_sees_unique_ids_as_a_request_does() {
        let report =
            ask(&snapshot("AIDAANOTHERANOTHERA01"), &request(ALICE, "kms:Decrypt", Some("alias/app"))).unwrap();
        assert_eq!(report["allowed"], json!(false));
    }

    #[test]
    fn aliases_are_asked_about_too() {
        let report = ask(&snapshot(ALICE_ID), &request(ROOT, "kms:DeleteAlias", Some("alias/app"))).unwrap();
        let checks: Vec<&str> =
            report["checks"].as_array().unwrap().iter().filter_map(|c| c["resource"].as_str()).collect();
        assert_eq!(checks, ["arn:aws:kms:eu-central-1:111122223333:alias/app", &here().key_arn(&key_id(1))]);
        assert_eq!(report["allowed"], json!(true));
    }

    #[test]
    fn callers_of_every_kind() {
        let snapshot = snapshot(ALICE_ID);
        let federated = PolicySimulate {
            federated_by: Some("user/alice".to_owned()),
            ..request("arn:aws:sts::111122223333:federated-user/carol", "kms:Decrypt", Some("alias/app"))
        };
        for (request, arn, by) in [
            (request("111122223333", "kms:ListKeys", None), ROOT, "root"),
            (
                request(OPS, "kms:Decrypt", Some("alias/app")),
                "arn:aws:sts::111122223333:assumed-role/ops/policy-simulate",
                "identity",
            ),
            (
                request("arn:aws:sts::111122223333:assumed-role/ops/s1", "kms:Decrypt", Some("alias/app")),
                "arn:aws:sts::111122223333:assumed-role/ops/s1",
                "identity",
            ),
            (federated, "arn:aws:sts::111122223333:federated-user/carol", "session"),
        ] {
            let report = ask(&snapshot, &request).unwrap();
            assert_eq!((&report["principal"], &report["decidedBy"]), (&json!(arn), &json!(by)));
        }
        // Names of services are the account's no more than anybody's: an alias of theirs is looked for in their account.
        let by_id = here().key_arn(&key_id(1));
        let report = ask(&snapshot, &request("backup.internal.example", "kms:Decrypt", Some(&by_id))).unwrap();
        assert_eq!((&report["principal"], &report["allowed"]), (&json!("backup.internal.example"), &json!(false)));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let snapshot = snapshot(ALICE_ID);
        let unknown = KeyId::new([9; 16], false).to_string();
        let with_policy =
            PolicySimulate { session_policy: Some("{}".to_owned()), ..request(ALICE, "kms:ListKeys", None) };
        for (request, says) in [
            (request("user/bob", "kms:Decrypt", Some("alias/app")), "principal `user/bob` does not exist"),
            (request("arn:aws:iam::444455556666:root", "kms:ListKeys", None), "does not exist"),
            (request("arn:aws:sts::111122223333:federated-user/carol", "kms:ListKeys", None), "--federated-by"),
            (request(ALICE, "s3:PutObject", None), "no action of KMS"),
            (request(ALICE, "kms:RetireGrant", Some("alias/app")), "decided by the grant"),
            (request(ALICE, "kms:Decrypt", None), "name it with `--key`"),
            (request(ALICE, "kms:CreateKey", Some("alias/app")), "leave `--key` out"),
            (request(ALICE, "kms:Decrypt", Some("alias/none")), "does not exist"),
            (request(ALICE, "kms:Decrypt", Some(&unknown)), "does not exist"),
            (with_policy, "only sessions have a session policy"),
        ] {
            let told = ask(&snapshot, &request).unwrap_err();
            assert!(told.contains(says), "{told}");
        }
    }

    #[test]
    fn keys_given_by_hand_win() {
        let snapshot = snapshot(ALICE_ID);
        let mut request = request(ALICE, "kms:Decrypt", Some("alias/app"));
        request.condition_keys =
            [("kms:EncryptionAlgorithm", "RSAES_OAEP_SHA_256"), ("x:y", "1"), ("x:y", "2"), ("aws:TagKeys", "a")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .to_vec();
        let own = account();
        let environment =
            Environment { now: 0, source_ip: None, secure_transport: true, user_agent: None, region: here().region };
        let asked = Asked {
            request: &request,
            snapshot: &snapshot,
            own: &own,
            environment,
            grants_suffice: true,
            trail: Some(&log()),
        };
        let named = asked.named(Operation::Decrypt, &own, &here()).unwrap();
        let conditions = asked.conditions(Operation::Decrypt, &named);
        let first =
            |name: &str| conditions.iter().find(|(key, _)| key == name).map(|(_, values)| values.clone()).unwrap();
        assert_eq!(first("kms:EncryptionAlgorithm"), Values::One("RSAES_OAEP_SHA_256".into()));
        assert_eq!(first("x:y"), Values::Many(vec!["1".into(), "2".into()]));
        assert_eq!(first("aws:TagKeys"), Values::Many(vec!["a".into()]));
    }
}
