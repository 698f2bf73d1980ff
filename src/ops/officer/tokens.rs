//! The configured tokens by the names that the configuration gives them: what they are, and how they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::ids::ClusterId;
use crate::keystore::{BoxFuture, ConfiguredToken, DEFAULT_TOKEN, MaterialId, MemberView, Status, Token, TokenInfo};
use crate::ops::{OpError, OperatorResponse, Ops};
use crate::secret::SecretString;
use crate::store::{KeyRecord, KeyStoreRecord, Snapshot};

/// Keys that a list names; the count beside it is whole.
const LISTED: usize = 200;

/// Where PINs come from, and which were tried. Owned here, given by whoever knows the configuration.
pub trait ReadPin: Send + Sync {
    /// The default token's PIN, or that of one of several, read anew from its configured source. The error's text names the
    /// source.
    fn configured(&self, member: Option<&str>) -> Result<SecretString, String>;
    /// From a file of this host, checked as the configured one is.
    fn file(&self, path: &Path) -> Result<SecretString, String>;
    /// Forgets which PINs the token with this serial rejected, and how many marks of them there were.
    fn forget_rejected(&self, serial: String) -> BoxFuture<'_, Result<usize, String>>;
}

/// A token that the configuration names, or named once.
pub(super) struct NamedToken {
    pub(super) name: String,
    pub(super) cluster: Option<ClusterId>,
    /// The custom key store that is made of it.
    pub(super) store: Option<Arc<KeyStoreRecord>>,
    /// `None`: not connected.
    pub(super) token: Option<Token>,
    /// `None`: the default token, and one that the configuration does not name any more.
    pub(super) configured: Option<ConfiguredToken>,
    /// One of several tokens with the same keys.
    pub(super) member: Option<MemberView>,
    pub(super) of_default: bool,
}

impl NamedToken {
    pub(super) fn is_default(&self) -> bool {
        self.of_default
    }
}

impl Ops {
    /// The default key store's token first.
    pub(super) fn named_tokens(&self, snapshot: &Snapshot) -> Vec<NamedToken> {
        let recorded = |name: &str| snapshot.tokens.get(name).map(|record| record.cluster.clone());
        let mut tokens = vec![NamedToken {
            name: DEFAULT_TOKEN.to_owned(),
            cluster: recorded(DEFAULT_TOKEN),
            store: None,
            token: Some(self.keystore.token().clone()),
            configured: None,
            member: None,
            of_default: true,
        }];
        let configured = self.keystore.configured();
        let mut names: BTreeSet<&str> = snapshot.tokens.keys().map(String::as_str).collect();
        names.extend(configured.iter().map(|token| token.name.as_str()));
        for name in names.into_iter().filter(|name| *name != DEFAULT_TOKEN) {
            let configured = configured.iter().find(|token| token.name == name).cloned();
            let cluster = recorded(name).or_else(|| configured.as_ref()?.cluster.clone());
            let made_of_it = |store: &&Arc<KeyStoreRecord>| Some(&store.cluster) == cluster.as_ref();
            let store = snapshot.key_stores.values().find(made_of_it).cloned();
            let token = store.as_ref().and_then(|store| self.keystore.token_of(Some(&store.id)));
            tokens.push(NamedToken {
                name: name.to_owned(),
                cluster,
                store,
                token,
                configured,
                member: None,
                of_default: false,
            });
        }
        tokens
    }

    /// The same, but each of several tokens of one key store by itself: the first by its own name, the others as `NAME/MEMBER`.
    pub(super) fn single_tokens(&self, snapshot: &Snapshot) -> Vec<NamedToken> {
        let mut all = Vec::new();
        for named in self.named_tokens(snapshot) {
            let members = named.token.as_ref().map(Token::members).unwrap_or_default();
            if members.is_empty() {
                all.push(named);
                continue;
            }
            all.extend(members.into_iter().enumerate().map(|(place, member)| NamedToken {
                name: match place {
                    0 => named.name.clone(),
                    _ => format!("{}/{}", named.name, member.name),
                },
                cluster: named.cluster.clone(),
                store: named.store.clone(),
                token: member.token.clone(),
                configured: None,
                member: Some(member),
                of_default: named.of_default,
            }));
        }
        all
    }

    /// Key stores of several tokens: who of them is there, and which keys are not on all of them.
    pub(super) fn replication(&self, snapshot: &Snapshot) -> Value {
        let keys: BTreeMap<[u8; 16], &Arc<KeyRecord>> =
            snapshot.keys.values().map(|record| (record.id.bytes(), record)).collect();
        let named = |material: &MaterialId| match keys.get(&material.id) {
            Some(record) => json!(self.locality.of(&record.account).key_arn(&record.id)),
            // The log's own keys, and what no record knows.
            None => json!(hex::encode(material.cka_id())),
        };
        let of_store = self.named_tokens(snapshot).into_iter().filter_map(|named_token| {
            let token = named_token.token?;
            let members = token.members();
            if members.is_empty() {
                return None;
            }
            let unreplicated = token.unreplicated();
            let line = |material: &MaterialId| {
                let replicas = token.replicas(*material).unwrap_or_default();
                let names = |names: &[Arc<str>]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
                json!({ "key": named(material), "heldBy": names(&replicas.held_by), "missingFrom": names(&replicas.missing_from) })
            };
            let of_member = |member: &MemberView| {
                json!({
                    "name": &*member.name,
                    "used": member.down.is_none(),
                    "because": member.down,
                    "loginRefused": member.refused,
                    "keys": member.keys,
                    "wrongKeys": member.wrong.iter().map(named).collect::<Vec<_>>(),
                })
            };
            Some(json!({
                "token": named_token.name,
                "members": members.iter().map(of_member).collect::<Vec<_>>(),
                "failovers": token.failovers(),
                "unreplicated": {
                    "count": unreplicated.len(),
                    "listed": unreplicated.iter().take(LISTED).map(line).collect::<Vec<_>>(),
                },
            }))
        });
        of_store.collect()
    }

    pub(super) async fn token_list(&self, snapshot: &Snapshot) -> OperatorResponse {
        let mut lines = Vec::new();
        for named in self.single_tokens(snapshot) {
            lines.push(self.token_line(&named, snapshot).await);
        }
        OperatorResponse::Tokens { tokens: lines }
    }

    pub(super) async fn token_line(&self, named: &NamedToken, snapshot: &Snapshot) -> Value {
        let known = snapshot.tokens.get(&named.name);
        let store = named.store.as_ref().map(|store| {
            let state = self.keystore.states().state(&store.id);
            json!({
                "id": store.id,
                "name": store.name,
                "state": state.as_ref().map_or("DISCONNECTED", |state| state.name()),
                "errorCode": state.as_ref().and_then(|state| state.error_code()),
            })
        });
        let mut line = json!({
            "name": named.name,
            "clusterId": named.cluster,
            "recordedSerial": known.map(|record| record.serial.clone()),
            "keys": self.held_by(named, snapshot).len(),
            "keyStore": store,
        });
        let now = match (&named.token, &named.configured) {
            (Some(token), _) => {
                let mut now = info(&token.info());
                let (present, status) = match token.status() {
                    Status::Ready => (true, "ready".to_owned()),
                    Status::Down(reason) => (false, format!("down: {reason}")),
                };
                let workers = token.gauges().workers;
                merge(&mut now, Some(json!({ "present": present, "status": status, "workers": workers })));
                now
            }
            (None, None) if let Some(member) = &named.member => {
                let why = member.down.clone().unwrap_or_else(|| "it is not there".to_owned());
                json!({ "present": Value::Null, "status": format!("down: {why}") })
            }
            (None, None) => json!({ "present": Value::Null, "status": "not in the configuration any more" }),
            (None, Some(configured)) => looked(configured, known.map(|record| record.serial.as_str())).await,
        };
        merge(&mut line, Some(now));
        if let Some(member) = &named.member {
            let member = json!({ "name": &*member.name, "used": member.down.is_none(), "because": member.down, "loginRefused": member.refused });
            merge(&mut line, Some(json!({ "member": member })));
        }
        line
    }

    /// Who reads PINs for `token pin`. To be called once, at start.
    pub fn read_pins_with(&self, source: Box<dyn ReadPin>) {
        if self.pins.set(source).is_err() {
            tracing::debug!("the source of PINs is set already");
        }
    }
}

pub(super) fn unknown(name: &str, tokens: &[NamedToken]) -> OpError {
    let known: Vec<&str> = tokens.iter().map(|token| token.name.as_str()).collect();
    OpError::Validation(format!("there is no token `{name}`: the configuration names `{}`", known.join("`, `")))
}

/// What a token that is not connected says of itself to anybody.
async fn looked(configured: &ConfiguredToken, recorded: Option<&str>) -> Value {
    let look = tokio::time::timeout(configured.deadline, configured.look()).await;
    match look {
        Ok(Ok(looked)) => {
            let mut now = info(&looked.info);
            let status = match recorded {
                _ if !looked.initialized => "not initialised",
                Some(serial) if serial != looked.info.serial => {
                    "another serial than the known one: see `token replace`"
                }
                _ => "not connected",
            };
            merge(&mut now, Some(json!({ "present": true, "status": status })));
            if !looked.pin_initialized {
                merge(&mut now, Some(json!({ "pin": "not initialised" })));
            }
            now
        }
        Ok(Err(error)) => json!({ "present": false, "status": format!("not there: {}", error.detail) }),
        Err(_) => json!({ "present": Value::Null, "status": "does not answer" }),
    }
}

pub(super) fn info(info: &TokenInfo) -> Value {
    json!({
        "label": info.label,
        "serial": info.serial,
        "manufacturer": info.manufacturer,
        "model": info.model,
        "firmware": info.firmware,
        "slot": info.slot,
        "library": info.library,
        "pin": pin_flags(info.user_pin_locked, info.user_pin_final_try, info.user_pin_count_low),
    })
}

pub(super) fn pin_flags(locked: bool, final_try: bool, count_low: bool) -> &'static str {
    match (locked, final_try, count_low) {
        (true, ..) => "locked",
        (_, true, _) => "one try left",
        (.., true) => "was wrong since the last login",
        _ => "good",
    }
}

pub(super) fn merge(into: &mut Value, more: Option<Value>) {
    if let (Some(into), Some(Value::Object(more))) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}
