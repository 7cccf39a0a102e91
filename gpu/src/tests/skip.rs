//! What a test does without what it needs; the trainer's tests take this file too.

use std::fmt::Display;

/// What was `found`; `None`, said so, where it was not and `variable` does not make that a failure.
pub(crate) fn or_skip<T, E: Display>(what: &str, variable: &str, found: Result<T, E>) -> Option<T> {
    let reason = match found {
        Ok(found) => return Some(found),
        Err(reason) => reason,
    };
    let required = std::env::var(variable).is_ok_and(|v| v == "1");
    assert!(!required, "{variable}=1 and {reason}");
    eprintln!("{what}: skipped: {reason}");
    None
}
