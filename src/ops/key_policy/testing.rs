//! An account with a user, a role and a service, and what becomes of the user.

use std::sync::Arc;

use crate::store::testing::{account, own_account, role, user};
use crate::store::{RoleRecord, ServiceRecord, Snapshot, UserRecord};

pub const ROOT: &str = "arn:aws:iam::111122223333:root";
pub const ALICE: &str = "arn:aws:iam::111122223333:user/alice";
pub const ALICE_ID: &str = "AIDAALICEALICEALICE01";
pub const OPS: &str = "arn:aws:iam::111122223333:role/svc/ops";
pub const OPS_ID: &str = "AROAOPSOPSOPSOPSOPS01";

/// Alice, the role `/svc/ops` and the service `backup.internal.example` in account 111122223333.
pub fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.accounts.insert_mut(account(), Arc::new(own_account()));
    put_user(&mut snapshot, user("alice", ALICE_ID));
    let role = RoleRecord { path: "/svc/".parse().unwrap(), ..role("ops", OPS_ID) };
    snapshot.roles.insert_mut((account(), role.name.clone()), Arc::new(role));
    let service = ServiceRecord {
        name: "backup.internal.example".parse().unwrap(),
        account: account(),
        service_id: "ASVC1".to_owned(),
        created: 1,
        managed_key: None,
        may_act_for: Vec::new(),
    };
    snapshot.services.insert_mut(service.name.clone(), Arc::new(service));
    snapshot
}

pub fn put_user(snapshot: &mut Snapshot, user: UserRecord) {
    snapshot.users.insert_mut((account(), user.name.clone()), Arc::new(user));
}

pub fn without_alice() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.users.remove_mut(&(account(), "alice".parse().unwrap()));
    snapshot
}

/// Deleted and made again.
pub fn another_alice() -> Snapshot {
    let mut snapshot = snapshot();
    put_user(&mut snapshot, user("alice", "AIDAANOTHERANOTHERA01"));
    snapshot
}
