//! The language's own tests.
