//! The head: the store's version and what all rows together must look like. Each transaction advances it, loading checks it.
//!
//! Per table it holds the number of rows and the sum modulo 2^256 of HMAC-SHA-256(table, primary key, revision) over them:
//! a hash of the set that one row changes in one addition. Key and sums are out of reach of who can edit the file, so an
//! added, removed or older row cannot be balanced by another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::seal::Sealer;
use super::table::Table;

/// A row or head is sealed this often at most under one store key.
///
/// RULE SP 800-38D §8.3: 2^32 with random nonces. Half of it, because seals of a transaction that failed, and of a store
/// newer than the backup that replaced it, are not in the count.
pub const SEAL_LIMIT: u64 = 1 << 31;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub version: u64,
    /// Seals made under this store key.
    pub seals: u64,
    /// SHA-256 over the wrapped copies of the store key, hex.
    pub wrapped_keys: String,
    tables: BTreeMap<Table, Rows>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    count: u64,
    sum: Sum,
}

/// 256 bits, big endian; hex in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Sum([u8; 32]);

impl Head {
    /// The head of a store without rows.
    pub fn first(wrapped_keys: String) -> Head {
        Head { wrapped_keys, ..Head::default() }
    }

    pub fn add(&mut self, table: Table, element: [u8; 32]) {
        let rows = self.tables.entry(table).or_default();
        rows.count += 1;
        rows.sum.add(&element);
    }

    /// Takes out a row that was added.
    pub fn remove(&mut self, table: Table, element: [u8; 32]) {
        let rows = self.tables.entry(table).or_default();
        rows.count = rows.count.saturating_sub(1);
        rows.sum.subtract(&element);
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.tables.clear();
    }

    /// The version of the next transaction, which must also be above `at_least`. SQLite's integers are its bound.
    pub fn next_version(&self, at_least: u64) -> Result<u64, StoreError> {
        let newest = self.version.max(at_least);
        if newest >= i64::MAX.unsigned_abs() {
            return Err(StoreError::Sql(format!("no version comes after {newest}")));
        }
        Ok(newest + 1)
    }

    pub fn count_seal(&mut self) -> Result<(), StoreError> {
        if self.seals >= SEAL_LIMIT {
            return Err(StoreError::Exhausted { seals: self.seals });
        }
        self.seals += 1;
        Ok(())
    }

    /// Compares with the rows `found`, which must be as this head says.
    pub fn check(&self, found: &Head) -> Result<(), StoreError> {
        let none = Rows::default();
        for table in Table::ALL {
            let here = self.tables.get(table).unwrap_or(&none);
            let there = found.tables.get(table).unwrap_or(&none);
            if here.count != there.count {
                return Err(StoreError::Tampered(format!(
                    "table `{}` has {} rows where the head says {}",
                    table.name(),
                    there.count,
                    here.count
                )));
            }
            if here.sum != there.sum {
                return Err(StoreError::Tampered(format!(
                    "a row of table `{}` is not the one that the head knows: another revision or another record",
                    table.name()
                )));
            }
        }
        Ok(())
    }

    /// Sealed, for the head row.
    pub fn seal(&self, sealer: &Sealer) -> Result<Vec<u8>, StoreError> {
        let plain = serde_json::to_vec(self).map_err(|e| StoreError::Io(format!("head: {e}")))?;
        sealer.seal_head(&plain)
    }

    pub fn open(sealer: &Sealer, sealed: &[u8]) -> Result<Head, StoreError> {
        let plain =
            sealer.open_head(sealed).ok_or_else(|| StoreError::Tampered("the head row does not open".to_owned()))?;
        serde_json::from_slice(&plain).map_err(|e| StoreError::Tampered(format!("the head row is not readable: {e}")))
    }
}

impl From<Sum> for String {
    fn from(sum: Sum) -> String {
        hex::encode(sum.0)
    }
}

impl TryFrom<String> for Sum {
    type Error = hex::FromHexError;
    fn try_from(text: String) -> Result<Sum, hex::FromHexError> {
        let mut sum = [0; 32];
        hex::decode_to_slice(text, &mut sum)?;
        Ok(Sum(sum))
    }
}

impl Sum {
    fn add(&mut self, element: &[u8; 32]) {
        let mut carry = false;
        for (digit, other) in self.0.iter_mut().zip(element).rev() {
            let (sum, first) = digit.overflowing_add(*other);
            let (sum, second) = sum.overflowing_add(u8::from(carry));
            (*digit, carry) = (sum, first || second);
        }
    }

    fn subtract(&mut self, element: &[u8; 32]) {
        let mut borrow = false;
        for (digit, other) in self.0.iter_mut().zip(element).rev() {
            let (difference, first) = digit.overflowing_sub(*other);
            let (difference, second) = difference.overflowing_sub(u8::from(borrow));
            (*digit, borrow) = (difference, first || second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums_carry_and_wrap() {
        let mut sum = Sum([0xff; 32]);
        let mut one = [0; 32];
        one[31] = 1;
        sum.add(&one);
        assert_eq!(sum, Sum([0; 32]));
        sum.subtract(&one);
        assert_eq!(sum, Sum([0xff; 32]));
        let mut sum = Sum([0; 32]);
        sum.add(&{
            let mut e = [0; 32];
            e[31] = 0xff;
            e
        });
        sum.add(&one);
        assert_eq!(sum.0[30..], [1, 0]);
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_removal_undoes(a: [u8; 32], b: [u8; 32], c: [u8; 32]) {
            let (mut left, mut right) = (Head::default(), Head::default());
            for e in [a, b, c] { left.add(Table::Keys, e); }
            for e in [c, a, b] { right.add(Table::Keys, e); }
            prop_assert_eq!(&left, &right);
            left.remove(Table::Keys, b);
            let mut two = Head::default();
            two.add(Table::Keys, a);
            two.add(Table::Keys, c);
            prop_assert_eq!(left, two);
        }
    }

    #[test]
    fn sealing_stops_at_the_limit() {
        let mut head = Head { seals: SEAL_LIMIT - 1, ..Head::default() };
        head.count_seal().unwrap();
        assert!(matches!(head.count_seal(), Err(StoreError::Exhausted { .. })));
    }
}
