//! What a token tells that is made of several tokens with the same keys.

use std::sync::Arc;

use super::{MaterialId, Token};

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
