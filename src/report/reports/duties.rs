//! R2: who may do what with which key. R8: who may both administer and use keys, who did, and by which ways one could.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use super::super::list;
use super::super::pass::Needs;
use super::super::record::{Record, date};
use super::super::table::{SOURCE, Table};
use super::super::{Query, ReportError};
use super::changes::is_admin;
use super::uses::{LastUse, is_use, user_of};
use super::{End, Moment, Report};
use crate::ops::effective::{ADMIN_ACTIONS, ANY_ACTION, Effective, MOST_DECISIONS, Permission, USE_ACTIONS, effective};

/// R2.
pub(super) struct Access {
    query: Query,
    /// Who did what with which key, last.
    uses: HashMap<(String, String, String), LastUse>,
}

impl Access {
    pub fn new(query: Query) -> Self {
        Self { query, uses: HashMap::new() }
    }
}

impl Report for Access {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        if !moment.until_then || !record.succeeded() || record.event_type != "AwsApiCall" {
            return;
        }
        for key in record.keys() {
            let at = (user_of(record), key.to_owned(), record.event_name.to_string());
            self.uses.insert(at, LastUse::of(record, moment.at));
        }
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        let state = end.state()?;
        let mut table = Table::new(&[
            "principal",
            "kind",
            "key_arn",
            "role",
            "actions",
            "conditional_actions",
            "sources",
            "last_exercised",
            "last_operation",
            "never_exercised",
            SOURCE,
        ]);
        let found = effective(&state, end.query.key.as_deref(), end.query.principal.as_deref(), end.query.as_of);
        tell(&found, end.notes);
        let mut rows: BTreeMap<(&str, &str, &str), Vec<&Permission>> = BTreeMap::new();
        for permission in &found.permissions {
            if permission.action != ANY_ACTION {
                let duty = if ADMIN_ACTIONS.contains(&permission.action) { "administrator" } else { "user" };
                rows.entry((&permission.principal, &permission.key_arn, duty)).or_default().push(permission);
            }
        }
        for ((principal, key, duty), permissions) in rows {
            let actions =
                |conditional: bool| list(permissions.iter().filter(|p| p.conditional == conditional).map(|p| p.action));
            let sources: BTreeSet<String> = permissions.iter().map(|p| source(p)).collect();
            let last = permissions
                .iter()
                .flat_map(|p| operations_of(p.action))
                .filter_map(|operation| self.uses.get(&(principal.to_owned(), key.to_owned(), operation.to_owned())))
                .max_by_key(|last| last.at);
            table.row(
                vec![
                    json!(principal),
                    json!(permissions.first().map(|p| p.kind)),
                    json!(key),
                    json!(duty),
                    actions(false),
                    actions(true),
                    list(sources),
                    json!(last.map(|l| date(l.at))),
                    json!(last.map(|l| &l.operation)),
                    json!(last.is_none()),
                ],
                last.map(|l| l.event_id.as_str()),
            );
        }
        for assumption in &found.assumptions {
            table.row(
                vec![
                    json!(assumption.principal),
                    Value::Null,
                    Value::Null,
                    json!("may assume"),
                    list([format!("sts:AssumeRole {}", assumption.role)]),
                    Value::Null,
                    Value::Null,
                    Value::Null,
                    Value::Null,
                    Value::Null,
                ],
                None,
            );
        }
        Ok(table)
    }
}

fn source(permission: &Permission) -> String {
    match (&permission.grant, &permission.statement) {
        (Some(grant), _) => format!("grant {grant}"),
        (None, Some(statement)) => statement.clone(),
        (None, None) => permission.by.to_owned(),
    }
}

/// Operations that an action is asked for by.
fn operations_of(action: &str) -> impl Iterator<Item = &str> {
    let name = action.strip_prefix("kms:").unwrap_or(action);
    std::iter::once(if name.starts_with("ReEncrypt") { "ReEncrypt" } else { name })
}

fn tell(found: &Effective, notes: &mut Vec<String>) {
    if found.cut {
        notes.push(format!(
            "more than {MOST_DECISIONS} decisions were needed: the rows are not all, narrow the report to a key or a principal"
        ));
    }
    if found.managed_keys > 0 {
        notes.push("AWS managed keys are left out: only their services use them".to_owned());
    }
    notes.push(
        "decided by the service's own evaluator over the state of that moment. What takes a condition counts as possible; \
         federated users and principals of accounts that are not served are not asked about"
            .to_owned(),
    );
}

/// R8.
pub(super) struct Separation {
    query: Query,
    /// Principal → the last administrative and the last use event on each key.
    did: BTreeMap<(String, String), [Option<LastUse>; 2]>,
}

impl Separation {
    pub fn new(query: Query) -> Self {
        Self { query, did: BTreeMap::new() }
    }
}

/// One permission is enough to get others.
const ESCALATIONS: &[(&str, &str)] = &[
    ("kms:CreateGrant", "CreateGrant: can grant itself the use"),
    ("kms:PutKeyPolicy", "PutKeyPolicy: can let itself in"),
    ("kms:UpdateAlias", "UpdateAlias: can put another key behind the alias"),
    (ANY_ACTION, "kms:*: a statement allows every action"),
];

impl Report for Separation {
    fn needs(&self) -> Needs {
        self.query.report.needs()
    }

    fn record(&mut self, record: &Record<'_>, moment: &Moment<'_>) {
        if !moment.in_period || !record.succeeded() || !self.query.wants(record) {
            return;
        }
        let (admin, used) = (is_admin(record) && record.event_type != "HsmBridgeSystem", is_use(record));
        if !admin && !used {
            return;
        }
        for key in record.keys() {
            let both = self.did.entry((user_of(record), key.to_owned())).or_default();
            if let Some(slot) = both.get_mut(usize::from(used)) {
                *slot = Some(LastUse::of(record, moment.at));
            }
        }
    }

    fn finish(self: Box<Self>, end: &mut End<'_>) -> Result<Table, ReportError> {
        let state = end.state()?;
        let mut table = Table::new(&[
            "finding",
            "principal",
            "kind",
            "key_arn",
            "admin_actions",
            "use_actions",
            "paths",
            "conditional",
            "sources",
            "last_admin",
            "last_use",
            SOURCE,
        ]);
        // Narrowing to a principal must not hide the roles that it may assume.
        let found = effective(&state, end.query.key.as_deref(), None, end.query.as_of);
        tell(&found, end.notes);
        let rights = Rights::of(&found);
        for ((principal, key), own) in rights.reachable() {
            if end.query.principal.as_deref().is_some_and(|wanted| !principal.contains(wanted)) {
                continue;
            }
            let admin = own.actions(ADMIN_ACTIONS);
            let used = own.actions(USE_ACTIONS);
            let paths = own.paths();
            let finding = match (admin.is_empty(), used.is_empty()) {
                (false, false) if own.directly_both() => "potential",
                (false, false) => "potential, by assuming roles",
                (false, true) if !paths.is_empty() => "potential, by escalation",
                _ => continue,
            };
            let sources: BTreeSet<String> = own.all().map(source).collect();
            table.row(
                vec![
                    json!(finding),
                    json!(principal),
                    json!(own.kind),
                    json!(key),
                    list(admin),
                    list(used),
                    list(paths),
                    json!(own.conditional()),
                    list(sources),
                    Value::Null,
                    Value::Null,
                ],
                None,
            );
        }
        let actual = self.did.iter().filter_map(|(at, [admin, used])| Some((at, admin.as_ref()?, used.as_ref()?)));
        for ((principal, key), admin, used) in actual {
            let said = |last: &LastUse| format!("{} {}", date(last.at), last.operation);
            table.row(
                vec![
                    json!("actual: did both in the period"),
                    json!(principal),
                    Value::Null,
                    json!(key),
                    list([admin.operation.clone()]),
                    list([used.operation.clone()]),
                    Value::Null,
                    Value::Null,
                    list([format!("administered in record {}", admin.event_id)]),
                    json!(said(admin)),
                    json!(said(used)),
                ],
                Some(&used.event_id),
            );
        }
        auditors(&state, &found, &mut table);
        end.notes.push(
            "who holds the security officer's and the user's PIN of a token is not known to the service: declare it with \
             `hsm-bridge audit ceremony` and see R6"
                .to_owned(),
        );
        Ok(table)
    }
}

/// Who may do what on which key, and which roles they may become.
struct Rights<'f> {
    by: BTreeMap<(&'f str, &'f str), Vec<&'f Permission>>,
    kinds: BTreeMap<&'f str, &'f str>,
    roles: BTreeMap<&'f str, BTreeSet<&'f str>>,
}

/// What one principal may do on one key, itself and through roles.
struct Reach<'f> {
    kind: &'f str,
    own: Vec<&'f Permission>,
    /// Role → what it may do.
    through: Vec<(&'f str, &'f Permission)>,
}

impl<'f> Rights<'f> {
    fn of(found: &'f Effective) -> Self {
        let mut rights = Rights { by: BTreeMap::new(), kinds: BTreeMap::new(), roles: BTreeMap::new() };
        for permission in &found.permissions {
            rights.kinds.insert(&permission.principal, permission.kind);
            rights.by.entry((&permission.principal, &permission.key_arn)).or_default().push(permission);
        }
        for assumption in &found.assumptions {
            rights.roles.entry(&assumption.principal).or_default().insert(&assumption.role);
        }
        rights
    }

    /// Every principal with every key that it reaches.
    fn reachable(&self) -> BTreeMap<(&'f str, &'f str), Reach<'f>> {
        let mut all: BTreeMap<(&'f str, &'f str), Reach<'f>> = BTreeMap::new();
        for ((principal, key), own) in &self.by {
            let kind = self.kinds.get(principal).copied().unwrap_or_default();
            all.insert((*principal, *key), Reach { kind, own: own.clone(), through: Vec::new() });
        }
        for principal in self.roles.keys() {
            for role in self.chain(principal) {
                let of_role = self.by.range((role, "")..).take_while(|((who, _), _)| *who == role);
                for ((_, key), permissions) in of_role {
                    let kind = self.kinds.get(principal).copied().unwrap_or("user or role");
                    let reach = all.entry((*principal, *key)).or_insert_with(|| Reach {
                        kind,
                        own: Vec::new(),
                        through: Vec::new(),
                    });
                    reach.through.extend(permissions.iter().map(|permission| (role, *permission)));
                }
            }
        }
        all
    }

    /// Roles that a principal may become, also by way of others.
    fn chain(&self, principal: &'f str) -> BTreeSet<&'f str> {
        let mut reached: BTreeSet<&'f str> = BTreeSet::new();
        let mut next = vec![principal];
        while let Some(who) = next.pop() {
            for role in self.roles.get(who).into_iter().flatten() {
                if *role != principal && reached.insert(role) {
                    next.push(role);
                }
            }
        }
        reached
    }
}

impl<'f> Reach<'f> {
    fn all(&self) -> impl Iterator<Item = &'f Permission> {
        self.own.iter().copied().chain(self.through.iter().map(|(_, permission)| *permission))
    }

    fn actions(&self, of: &[&'static str]) -> BTreeSet<&'static str> {
        self.all().map(|permission| permission.action).filter(|action| of.contains(action)).collect()
    }

    fn directly_both(&self) -> bool {
        let has = |of: &[&str]| self.own.iter().any(|permission| of.contains(&permission.action));
        has(ADMIN_ACTIONS) && has(USE_ACTIONS)
    }

    /// How the principal gets, or could get, the other side.
    fn paths(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        for (action, told) in ESCALATIONS {
            if self.own.iter().any(|permission| permission.action == *action) {
                paths.insert((*told).to_owned());
            }
            for (role, _) in self.through.iter().filter(|(_, permission)| permission.action == *action) {
                paths.insert(format!("{told}, as {role}"));
            }
        }
        for (role, permission) in &self.through {
            if ADMIN_ACTIONS.contains(&permission.action) || USE_ACTIONS.contains(&permission.action) {
                paths.insert(format!("AssumeRole: {role}"));
            }
        }
        paths
    }

    fn conditional(&self) -> bool {
        let only = |of: &[&str]| self.all().filter(|p| of.contains(&p.action)).all(|p| p.conditional);
        only(ADMIN_ACTIONS) || (only(USE_ACTIONS) && self.all().any(|p| USE_ACTIONS.contains(&p.action)))
    }
}

/// Principals that may read the log and more: by the actions that their policies name.
fn auditors(state: &crate::ops::state::State, found: &Effective, table: &mut Table) {
    let reads =
        |text: &str| ["hsmbridge:ExportAudit", "cloudtrail:LookupEvents"].iter().any(|action| text.contains(action));
    let with = |arn: String, attached: &[crate::ids::PolicyArn], inline: &mut dyn Iterator<Item = String>| {
        let managed = attached.iter().filter_map(|arn| state.policies.get(arn.as_str()));
        let mut texts = managed.map(|policy| policy.document.text().to_string()).chain(inline);
        texts.any(|text| reads(&text)).then_some(arn)
    };
    let users = state.users.values().filter_map(|user| {
        let arn = format!("arn:aws:iam::{}:user{}{}", user.account, user.path, user.name);
        let groups = user.groups.iter().filter_map(|name| state.groups.get(&format!("{}/{name}", user.account)));
        let own = user.inline.values().map(|document| document.text().to_string());
        let mut inline =
            own.chain(groups.flat_map(|group| group.inline.values().map(|document| document.text().to_string())));
        with(arn, &user.attached, &mut inline)
    });
    let roles = state.roles.values().filter_map(|role| {
        let arn = format!("arn:aws:iam::{}:role{}{}", role.account, role.path, role.name);
        with(arn, &role.attached, &mut role.inline.values().map(|document| document.text().to_string()))
    });
    for auditor in users.chain(roles) {
        let more: BTreeSet<&str> = found
            .permissions
            .iter()
            .filter(|p| p.principal == auditor && p.action != ANY_ACTION)
            .map(|p| p.action)
            .collect();
        if more.is_empty() {
            continue;
        }
        let (admin, used): (Vec<&str>, Vec<&str>) = more.iter().partition(|action| ADMIN_ACTIONS.contains(action));
        table.row(
            vec![
                json!("auditor with more"),
                json!(auditor),
                Value::Null,
                Value::Null,
                list(admin),
                list(used),
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
            ],
            None,
        );
    }
}
