//! What is asked of a population, and what each decision costs: from the caller and a key's id, through the newest snapshot and
//! `authz::decide`, to the permit or the text of the refusal.

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;

use hsm_bridge::authn::{Caller, Principal, Session, SessionPolicies};
use hsm_bridge::authz::{Check, Checks, Environment, Resource, Rules, decide};
use hsm_bridge::ids::KeyId;
use hsm_bridge::store::{PolicyDocument, Snapshot, Store, Write};

use crate::population::{
    self as all, CROWDED, GRANTS_PER_KEY, HUNDRED, Kind, LARGE, MANY, a_session, a_user, is_bare, key_id, kind,
    user_name,
};
use crate::taken::{Cost, Taken};

/// How many callers and keys "the same few" are.
const FEW: usize = 4;

pub struct Case {
    pub what: &'static str,
    /// Source of the grounds.
    by: &'static str,
    allowed: bool,
    asked: Vec<Asked>,
}

struct Asked {
    caller: Caller,
    key: KeyId,
    action: &'static str,
    context: Vec<(String, String)>,
}

/// What resolving a name leaves, as far as a decision needs it.
struct Found<'a> {
    arn: String,
    asked: &'a Asked,
    snapshot: Arc<Snapshot>,
}

impl Checks for Found<'_> {
    fn checks(&self) -> Vec<Check<'_>> {
        let record = self.snapshot.keys.get(&self.asked.key).unwrap();
        let mut check = Check::new(self.asked.action, Resource::Key { arn: &self.arn, record });
        check.encryption_context = Cow::Borrowed(&self.asked.context);
        vec![check]
    }

    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

pub struct World {
    store: Store,
    environment: Environment,
    rules: Rules,
    n: usize,
}

impl World {
    pub fn new(store: Store, n: usize) -> World {
        let environment = Environment {
            now: 1_750_000_000_000,
            source_ip: Some("192.0.2.7".parse().unwrap()),
            secure_transport: true,
            user_agent: Some("bench".to_owned()),
            region: all::REGION.parse().unwrap(),
        };
        World { store, environment, rules: Rules::default(), n }
    }

    /// First each answer is compared with what is expected, which also reads the policies. The same few callers and keys in
    /// turn, then all of them: what the latter costs more is memory that the processor has to fetch.
    pub fn measure(&self, case: &Case, times: usize) -> (Cost, Cost) {
        for asked in &case.asked {
            let by = self.decided(asked);
            assert_eq!((by.0, by.1), (case.allowed, case.by), "{}: {:?} {}", case.what, asked.caller, asked.key);
        }
        let few = self.run(case.asked.iter().take(FEW).cycle().take(times));
        (few, self.run(case.asked.iter().cycle().take(times)))
    }

    fn run<'a>(&self, asked: impl Iterator<Item = &'a Asked>) -> Cost {
        let mut taken = Taken::default();
        for asked in asked {
            let (caller, environment) = (asked.caller.clone(), self.environment.clone());
            taken.time(|| decide(black_box(caller), self.found(asked), environment, &self.rules));
        }
        taken.cost()
    }

    fn found<'a>(&self, asked: &'a Asked) -> Found<'a> {
        Found { arn: all::key_arn(asked.key), asked, snapshot: self.store.snapshot() }
    }

    fn decided(&self, asked: &Asked) -> (bool, &'static str) {
        match decide(asked.caller.clone(), self.found(asked), self.environment.clone(), &self.rules) {
            Ok(permit) => (true, permit.grounds().checks[0].source.as_str()),
            Err(denied) => (false, denied.grounds.checks[0].source.as_str()),
        }
    }

    /// The first decision on each key, which reads its policy, and then the first of each user.
    pub fn read_all_policies(&self) -> (Cost, Cost) {
        let one = |principal: Principal, key: usize| Asked {
            caller: Caller::simulated(principal, all::account(), None),
            key: key_id(key),
            action: "kms:DescribeKey",
            context: Vec::new(),
        };
        let (keys, users): (Vec<_>, Vec<_>) =
            (0..self.n).map(|i| (one(Principal::Root, i), one(a_user(&user_name(i)), CROWDED))).unzip();
        (self.run(keys.iter()), self.run(users.iter()))
    }

    /// One more grant on a key, in a transaction of its own. It goes again, so that the population stays.
    pub async fn grant_writes(&self, times: usize) -> Cost {
        let mut taken = Taken::default();
        for round in 0..times {
            let on = round * 31 % self.n;
            let record = all::grant(GRANTS_PER_KEY * self.n + round, on, all::to_user(&user_name(round % self.n)));
            let (key, id) = (record.key, record.id.clone());
            let start = std::time::Instant::now();
            self.store.update::<_, (), _>(move |_| Ok((vec![Write::PutGrant(record)], ()))).await.unwrap();
            taken.push(start.elapsed());
            self.store.update::<_, (), _>(move |_| Ok((vec![Write::DeleteGrant(key, id)], ()))).await.unwrap();
        }
        taken.cost()
    }
}

pub fn cases(n: usize) -> Vec<Case> {
    let of = |wanted: Kind| (0..n).filter(move |j| kind(*j) == wanted);
    // A caller for each key, of those that `fit`.
    let paired = |keys: Vec<usize>, fit: fn(usize) -> bool, action| -> Vec<Asked> {
        let users: Vec<usize> = (0..n).filter(|i| fit(*i)).collect();
        keys.iter().zip(users.iter().cycle()).map(|(j, i)| user_asks(*i, *j, action)).collect()
    };
    let console = of(Kind::Console).map(|j| user_asks(all::console_user(j, n), j, "kms:Encrypt")).collect();
    let granted = all::others(n)
        .filter(|(i, j)| is_bare(*i) && matches!(kind(*j), Kind::Default | Kind::Conditions) && *j != CROWDED)
        .map(|(i, j)| user_asks(i, j, "kms:GenerateDataKey"))
        .take(n)
        .collect();
    let crowded =
        (0..n).filter(|i| is_bare(*i)).map(|i| user_asks(i, CROWDED, "kms:GenerateDataKey")).collect::<Vec<_>>();
    let many = (0..n).filter(|j| *j != LARGE).map(|j| asks(by_session(MANY, None), j, "kms:Encrypt")).collect();
    let session = (0..n).filter(|j| *j != LARGE).map(|j| asks(by_session(2 + j % 90, Some(())), j, "kms:Decrypt"));
    let as_root = of(Kind::Default).map(|j| asks(by(Principal::Root), j, "kms:ScheduleKeyDeletion")).collect();
    let refused = paired((0..n).filter(|j| *j != LARGE).collect(), is_bare, "kms:PutKeyPolicy");
    let large = |action| vec![asks(by(a_user(HUNDRED)), LARGE, action)];
    let case = |what, by, asked| Case { what, by, allowed: true, asked: shuffled(asked) };
    vec![
        case("root user, default policy", "KeyPolicy", as_root),
        case("identity policy", "IdentityPolicy", paired(of(Kind::Default).collect(), |i| !is_bare(i), "kms:Decrypt")),
        case("identity and session policy of a role", "IdentityPolicy", session.collect()),
        case("key policy that names the user", "KeyPolicy", console),
        case("grant", "Grant", granted),
        case("grant on the key with a tenth of them", "Grant", crowded),
        case("grant of a role with one on each key", "Grant", many),
        Case { allowed: false, ..case("refused: nothing matches", "IdentityPolicy", refused) },
        case("3 x 10 statements, 100 grants: last policy", "IdentityPolicy", large("kms:Decrypt")),
        case("3 x 10 statements, 100 grants: last grant", "Grant", large("kms:Encrypt")),
        Case {
            allowed: false,
            ..case("3 x 10 statements, 100 grants: refused", "IdentityPolicy", large("kms:GetPublicKey"))
        },
    ]
}

fn by(principal: Principal) -> Caller {
    Caller::simulated(principal, all::account(), None)
}

fn by_session(role: usize, limited: Option<()>) -> Caller {
    const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kms:Decrypt","kms:Describe*"],
        "Resource":"*","Condition":{"StringEquals":{"kms:EncryptionContext:app":"billing"}}}]}"#;
    let session = Session {
        issued: 1_749_999_000,
        expires: 1_750_003_600,
        mfa_at: None,
        source_identity: None,
        tags: Vec::new(),
        transitive: Vec::new(),
        policies: limited.map(|()| SessionPolicies { inline: Some(PolicyDocument::plain(POLICY)), arns: Vec::new() }),
        federated_provider: None,
        claims: Vec::new(),
        chained: false,
    };
    Caller::simulated(a_session(role), all::account(), Some(session))
}

fn user_asks(user: usize, key: usize, action: &'static str) -> Asked {
    asks(by(a_user(&user_name(user))), key, action)
}

fn asks(caller: Caller, key: usize, action: &'static str) -> Asked {
    Asked { caller, key: key_id(key), action, context: all::context() }
}

/// In an order that is no order, the same in each run.
fn shuffled(mut asked: Vec<Asked>) -> Vec<Asked> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for last in (1..asked.len()).rev() {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        asked.swap(last, (state >> 33) as usize % (last + 1));
    }
    asked
}
