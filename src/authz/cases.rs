//! Decision cases: files in which operators, and our own tests, keep what must be decided. A file names principals, policies
//! and a request, and what the decision must be. Format: docs/policies.md; the evaluator that answers is the service's own.

mod ask;
mod form;

use serde_json::Value;

/// What a run of one file found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub passed: usize,
    pub failures: Vec<Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub id: String,
    pub title: String,
    /// What was expected and what came, a line each.
    pub why: String,
}

/// Runs the cases of one file's text. The error says why it is no file of cases. A case that cannot be read, or has a member
/// that is not known, has failed: what is not understood is not tested.
pub fn run(text: &str) -> Result<Report, String> {
    let document: form::File = serde_json::from_str(text).map_err(|e| format!("not a file of cases: {e}"))?;
    let mut report = Report::default();
    for case in document.cases {
        let field = |name: &str| case.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
        let (id, title) = (field("id"), field("title"));
        let outcome = serde_json::from_value::<form::Case>(case)
            .map_err(|e| format!("  not a case: {e}"))
            .and_then(|case| ask::ask(&case).map_err(|e| format!("  not a case: {e}")).map(|got| (case, got)))
            .and_then(|(case, got)| compare(&case.expect, &got));
        match outcome {
            Ok(()) => report.passed += 1,
            Err(why) => report.failures.push(Failure { id, title, why }),
        }
    }
    Ok(report)
}

fn compare(expect: &form::Expect, got: &ask::Answer) -> Result<(), String> {
    let decision = if got.allowed { "allow" } else { "deny" };
    let deny_type = match (got.allowed, got.explicit) {
        (true, _) => None,
        (false, true) => Some("explicit"),
        (false, false) => Some("implicit"),
    };
    let same = expect.decision == decision
        && expect.deny_type.as_ref().is_none_or(|wanted| wanted.as_deref() == deny_type)
        && expect.decided_by.as_ref().is_none_or(|wanted| wanted == got.by)
        && expect.message.as_ref().is_none_or(|wanted| *wanted == got.message);
    if same {
        return Ok(());
    }
    let line = |decision: &str, deny_type: Option<&str>, by: &str| match deny_type {
        Some(deny_type) => format!("{decision} ({deny_type}), decided by {by}"),
        None => format!("{decision}, decided by {by}"),
    };
    let wanted_type = expect.deny_type.as_ref().map_or(deny_type, |t| t.as_deref());
    let wanted = line(&expect.decision, wanted_type, expect.decided_by.as_deref().unwrap_or("anything"));
    let mut why = format!("  expected: {wanted}\n  got:      {}", line(decision, deny_type, got.by));
    if let Some(wanted) = expect.message.as_ref().filter(|m| **m != got.message) {
        why.push_str(&format!("\n  expected message: {wanted}\n  got message:      {}", got.message));
    }
    if !got.statement.is_empty() {
        why.push_str(&format!("\n  statement: {}", got.statement));
    }
    Err(why)
}

#[cfg(test)]
mod tests;
