//! The evaluator's own tests.
