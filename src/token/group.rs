//! What a token tells that is made of several tokens with the same keys.

use std::sync::Arc;

use super::call::BoxFuture;
use super::{Looked, MaterialId, Token, TokenError};
use crate::secret::SecretString;

/// A token that is made of several.
pub trait TokenGroup: Send + Sync {
    /// In their order.
    fn members(&self) -> Vec<MemberView>;

    /// Connects a member that could not be opened: with this PIN, or with its own. One try.
    fn open_member<'a>(&'a self, name: &'a str, pin: Option<SecretString>) -> BoxFuture<'a, Result<(), TokenError>>;

    /// What a member says of itself to anybody.
    fn look_at_member<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Looked, TokenError>>;

    /// Where a key is; `None`: the key is not known.
    fn replicas(&self, material: MaterialId) -> Option<Replicas>;

    /// Keys that some member is not known to hold.
    fn unreplicated(&self) -> Vec<MaterialId>;

    /// Calls that another member answered after one had failed.
    fn failovers(&self) -> u64;
}

/// One of several tokens that hold the same keys.
#[derive(Clone)]
pub struct MemberView {
    pub name: Arc<str>,
    /// `None`: it could not be opened yet.
    pub token: Option<Token>,
    /// Why it is not used now; `None`: it is used. Safe for `/readyz`: no path, no `CKR_`.
    pub down: Option<String>,
    /// It takes no login: only a person can help.
    pub refused: bool,
    /// Keys that it is known to hold.
    pub keys: usize,
    /// Keys under whose id it holds another key: not used there.
    pub wrong: Vec<MaterialId>,
}

/// Where a key is, by the members' names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replicas {
    pub held_by: Vec<Arc<str>>,
    /// Not known to be there, or there with another value.
    pub missing_from: Vec<Arc<str>>,
}
