//! Reading all rows with their checks, and writing rows inside one transaction.

use tokio_rusqlite::rusqlite::{CachedStatement, Connection, Error, ErrorCode, OptionalExtension, params};

use super::envelope::Envelope;
use super::head::Head;
use super::seal::Sealer;
use super::table::{Row, Table, grant_pk, in_account};
use super::{Snapshot, StoreError, TombstoneRecord, Write};
use crate::ids::AccountId;

/// A store's whole content, after every row and the head proved right.
pub struct Loaded {
    pub snapshot: Snapshot,
    pub tombstones: Vec<TombstoneRecord>,
    pub head: Head,
    pub sealed_head: Vec<u8>,
}

pub fn load(db: &mut Connection, sealer: &Sealer) -> Result<Loaded, StoreError> {
    let tx = db.transaction()?;
    let sealed_head = sealed_head(&tx)?;
    let head = Head::open(sealer, &sealed_head)?;
    if Envelope::read(&tx)?.fingerprint() != head.wrapped_keys {
        return Err(StoreError::Tampered("table `wrapped_keys` is not the one that the head knows".to_owned()));
    }

    let mut reader = Reader { db: &tx, sealer, version: head.version, found: Head::default() };
    let mut snapshot = Snapshot { version: head.version, ..Snapshot::default() };
    let mut tombstones = Vec::new();
    reader.rows(|record| snapshot.apply(Write::PutDeployment(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutKey(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutAlias(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutUser(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutAccessKey(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutUsage(record)))?;
    reader.rows(|record| tombstones.push(record))?;
    reader.rows(|record| snapshot.apply(Write::PutApplied(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutKeyStore(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutToken(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutRotation(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutAccount(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutUnit(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutGroup(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutRole(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutPolicy(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutOidcProvider(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutService(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutSessionKey(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutRevokedSession(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutGrant(record)))?;
    reader.rows(|record| snapshot.apply(Write::PutAuditKey(record)))?;
    head.check(&reader.found)?;
    Ok(Loaded { snapshot, tombstones, head, sealed_head })
}

pub fn sealed_head(db: &Connection) -> Result<Vec<u8>, StoreError> {
    db.prepare_cached("SELECT sealed FROM head WHERE id = 1")?
        .query_row([], |row| row.get(0))
        .optional()?
        .ok_or_else(|| StoreError::Tampered("the head row is missing".to_owned()))
}

/// One record by its primary key; its revision is the one that the row says.
pub fn read<R: Row>(db: &Connection, sealer: &Sealer, pk: &str) -> Result<Option<R>, StoreError> {
    let found: Option<(i64, Vec<u8>)> = statement::<R>(db, "SELECT revision, sealed FROM", "WHERE pk = ?1")?
        .query_row([pk], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    found.map(|(revision, sealed)| open(sealer, pk, to_u64(revision), &sealed)).transpose()
}

/// The rows of one transaction, and the head that they make.
pub struct Batch<'a> {
    db: &'a Connection,
    sealer: &'a Sealer,
    head: Head,
}

impl<'a> Batch<'a> {
    /// `db` is inside a transaction whose state `head` describes; `version` is the one that it will have.
    pub fn begin(db: &'a Connection, sealer: &'a Sealer, mut head: Head, version: u64) -> Batch<'a> {
        head.version = version;
        Batch { db, sealer, head }
    }

    pub fn write(&mut self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::PutDeployment(record) if record.id != self.sealer.deployment() => {
                Err(StoreError::OtherDeployment { found: record.id.clone(), own: self.sealer.deployment().to_owned() })
            }
            Write::PutDeployment(record) => self.put(record),
            Write::PutKey(record) => self.put(record),
            Write::DeleteKey(id) => self.delete(Table::Keys, &id.to_string()),
            Write::PutAlias(record) => self.put(record),
            Write::DeleteAlias(account, name) => self.delete_named(Table::Aliases, account, name.as_str()),
            Write::PutUser(record) => self.put(record),
            Write::DeleteUser(account, name) => self.delete_named(Table::Users, account, name.as_str()),
            Write::PutAccessKey(record) => self.put(record),
            Write::DeleteAccessKey(id) => self.delete(Table::AccessKeys, id.as_str()),
            Write::PutUsage(record) => self.put(record),
            Write::DeleteUsage(id) => self.delete(Table::Usage, &id.to_string()),
            Write::PutTombstone(record) => self.put(record),
            Write::PutApplied(record) => self.put(record),
            Write::DeleteApplied(id) => self.delete(Table::Applied, id),
            Write::PutKeyStore(record) => self.put(record),
            Write::DeleteKeyStore(id) => self.delete(Table::KeyStores, id.as_str()),
            Write::PutToken(record) => self.put(record),
            Write::PutRotation(record) => self.put(record),
            Write::DeleteRotation(token) => self.delete_opaque(Table::Rotations, token),
            Write::PutAccount(record) => self.put(record),
            Write::DeleteAccount(id) => self.delete(Table::Accounts, id.as_str()),
            Write::PutUnit(record) => self.put(record),
            Write::DeleteUnit(id) => self.delete(Table::Units, id),
            Write::PutGroup(record) => self.put(record),
            Write::DeleteGroup(account, name) => self.delete_named(Table::Groups, account, name.as_str()),
            Write::PutRole(record) => self.put(record),
            Write::DeleteRole(account, name) => self.delete_named(Table::Roles, account, name.as_str()),
            Write::PutPolicy(record) => self.put(record),
            Write::DeletePolicy(arn) => self.delete_opaque(Table::Policies, arn.as_str()),
            Write::PutOidcProvider(record) => self.put(record),
            Write::DeleteOidcProvider(arn) => self.delete_opaque(Table::OidcProviders, arn),
            Write::PutService(record) => self.put(record),
            Write::DeleteService(name) => self.delete_opaque(Table::Services, name.as_str()),
            Write::PutSessionKey(record) => self.put(record),
            Write::DeleteSessionKey(id) => self.delete(Table::SessionKeys, id),
            Write::PutRevokedSession(record) => self.put(record),
            Write::DeleteRevokedSession(id) => self.delete(Table::RevokedSessions, id),
            Write::PutAuditKey(record) => self.put(record),
            Write::PutGrant(record) => self.put(record),
            Write::DeleteGrant(key, id) => self.delete(Table::Grants, &grant_pk(key, id)),
        }
    }

    pub fn put<R: Row>(&mut self, record: &R) -> Result<(), StoreError> {
        let pk = record.pk(self.sealer);
        let revision = self.head.version;
        self.forget(R::TABLE, &pk)?;
        if let Some(former) = record.former_pk(self.sealer) {
            self.delete(R::TABLE, &former)?;
        }
        self.head.count_seal()?;
        let plain =
            serde_json::to_vec(record).map_err(|e| StoreError::Io(format!("a record has no JSON form: {e}")))?;
        let sealed = self.sealer.seal_row(R::TABLE, &pk, revision, &plain)?;
        statement::<R>(
            self.db,
            "INSERT INTO",
            "(pk, revision, sealed) VALUES (?1, ?2, ?3)
             ON CONFLICT (pk) DO UPDATE SET revision = excluded.revision, sealed = excluded.sealed",
        )?
        .execute(params![pk, to_i64(revision)?, sealed])?;
        self.head.add(R::TABLE, self.sealer.element(R::TABLE, &pk, revision));
        Ok(())
    }

    /// Removes all rows of all tables.
    pub fn clear(&mut self) -> Result<(), StoreError> {
        for table in Table::ALL {
            self.db.execute(&format!("DELETE FROM {}", table.name()), [])?;
        }
        self.head.clear();
        Ok(())
    }

    /// Writes the head. What is returned is true once the transaction is committed.
    pub fn finish(mut self) -> Result<(Head, Vec<u8>), StoreError> {
        self.head.count_seal()?;
        let sealed = self.head.seal(self.sealer)?;
        self.db
            .prepare_cached("INSERT INTO head (id, sealed) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET sealed = ?1")?
            .execute([&sealed])?;
        Ok((self.head, sealed))
    }

    fn delete(&mut self, table: Table, pk: &str) -> Result<(), StoreError> {
        self.forget(table, pk)?;
        self.db.prepare_cached(&format!("DELETE FROM {} WHERE pk = ?1", table.name()))?.execute([pk])?;
        Ok(())
    }

    fn delete_opaque(&mut self, table: Table, name: &str) -> Result<(), StoreError> {
        self.delete(table, &self.sealer.opaque(table, name))
    }

    /// One of an account, under its primary key of now or of an earlier version.
    fn delete_named(&mut self, table: Table, account: &AccountId, name: &str) -> Result<(), StoreError> {
        self.delete_opaque(table, name)?;
        self.delete(table, &in_account(self.sealer, table, account, name))
    }

    /// Takes a row's present revision out of the head. One that was changed behind the service makes a head that
    /// matches nothing, which the next start notices.
    fn forget(&mut self, table: Table, pk: &str) -> Result<(), StoreError> {
        let revision: Option<i64> = self
            .db
            .prepare_cached(&format!("SELECT revision FROM {} WHERE pk = ?1", table.name()))?
            .query_row([pk], |row| row.get(0))
            .optional()?;
        if let Some(revision) = revision {
            self.head.remove(table, self.sealer.element(table, pk, to_u64(revision)));
        }
        Ok(())
    }
}

struct Reader<'a> {
    db: &'a Connection,
    sealer: &'a Sealer,
    version: u64,
    found: Head,
}

impl Reader<'_> {
    fn rows<R: Row>(&mut self, mut each: impl FnMut(R)) -> Result<(), StoreError> {
        let mut rows = statement::<R>(self.db, "SELECT pk, revision, sealed FROM", "")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let pk: String = row.get(0)?;
            let revision = to_u64(row.get(1)?);
            if revision > self.version {
                return Err(tampered::<R>(&pk, "is newer than the head"));
            }
            let sealed = row.get_ref(2)?.as_blob().map_err(|e| StoreError::Sql(e.to_string()))?;
            let record: R = open(self.sealer, &pk, revision, sealed)?;
            self.found.add(R::TABLE, self.sealer.element(R::TABLE, &pk, revision));
            each(record);
        }
        Ok(())
    }
}

fn open<R: Row>(sealer: &Sealer, pk: &str, revision: u64, sealed: &[u8]) -> Result<R, StoreError> {
    let plain = sealer
        .open_row(R::TABLE, pk, revision, sealed)
        .ok_or_else(|| tampered::<R>(pk, "does not open: it was changed, moved here or given another revision"))?;
    let record: R = serde_json::from_slice(&plain).map_err(|e| tampered::<R>(pk, &format!("is not readable: {e}")))?;
    if record.pk(sealer) != pk && record.former_pk(sealer).is_none_or(|former| former != pk) {
        return Err(tampered::<R>(pk, "holds another record"));
    }
    Ok(record)
}

fn tampered<R: Row>(pk: &str, what: &str) -> StoreError {
    StoreError::Tampered(format!("row `{pk}` of table `{}` {what}", R::TABLE.name()))
}

fn statement<'a, R: Row>(db: &'a Connection, before: &str, after: &str) -> Result<CachedStatement<'a>, StoreError> {
    Ok(db.prepare_cached(&format!("{before} {} {after}", R::TABLE.name()))?)
}

/// SQLite's integers are signed. A negative revision was never written: as a huge one it is refused like any wrong one.
fn to_u64(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(u64::MAX)
}

fn to_i64(revision: u64) -> Result<i64, StoreError> {
    i64::try_from(revision).map_err(|_| StoreError::Sql(format!("version {revision} is out of range")))
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Tampered(error.to_string()),
            _ => StoreError::Sql(error.to_string()),
        }
    }
}
