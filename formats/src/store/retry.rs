//! Trying again what may pass, a bounded number of times.

use std::time::{Duration, Instant};

use crate::error::{FormatError, FormatErrorKind};

use super::Limits;

/// Longest wait between two attempts.
const MOST: Duration = Duration::from_secs(10);
/// A server that ignores ranges is asked once more only.
const WITHOUT_RANGES: u32 = 2;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// The cause, for people.
    pub(crate) text: String,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// There is no such object.
    Absent,
    /// Another attempt would end the same.
    Final,
    /// It may pass.
    Again,
    /// The server sends whole objects only.
    NoRanges,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// One that may pass.
    pub(crate) fn again(text: impl Into<String>) -> Self {
        Self::new(FailureKind::Again, text)
    }
}

/// How it ended, after how many attempts.
#[derive(Clone, Debug)]
pub(crate) struct GivenUp {
    pub(crate) failure: Failure,
    attempts: u32,
    seconds: f64,
}

impl GivenUp {
    /// The error about `what` of `url`.
    pub(crate) fn error(self, url: &str, what: &str) -> FormatError {
        let Failure { kind, text } = self.failure;
        let kind = match kind {
            FailureKind::Absent => FormatErrorKind::Io(std::io::ErrorKind::NotFound.into()),
            _ if self.attempts > 1 => FormatErrorKind::Store(format!(
                "given up after {} attempts in {:.1} s, at last: {text}",
                self.attempts, self.seconds
            )),
            _ => FormatErrorKind::Store(text),
        };
        let error = FormatError::new(url, kind);
        let error = if what.is_empty() { error } else { error.at(what) };
        if self.attempts > 1 {
            // A run may go on without the sample: whoever waits learns why it is slow.
            tracing::warn!("{error}");
        }
        error
    }
}

/// Runs `task` until it ends well, or will not, or `limits` are reached.
pub(crate) fn retried<T>(
    limits: &Limits,
    mut task: impl FnMut() -> Result<T, Failure>,
) -> Result<T, GivenUp> {
    let start = Instant::now();
    let mut wait = limits.back_off;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let failure = match task() {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let most = match failure.kind {
            FailureKind::Again => limits.attempts,
            FailureKind::NoRanges => limits.attempts.min(WITHOUT_RANGES),
            FailureKind::Absent | FailureKind::Final => 0,
        };
        let spent = start.elapsed();
        if attempts >= most || spent + wait >= limits.total {
            return Err(GivenUp { failure, attempts, seconds: spent.as_secs_f64() });
        }
        tracing::debug!("attempt {attempts}: {}", failure.text);
        std::thread::sleep(jittered(wait));
        wait = (wait * 2).min(MOST);
    }
}

/// Between half and all of `wait`, so that many waiting threads do not come back together.
fn jittered(wait: Duration) -> Duration {
    let now = Instant::now();
    let id = (std::thread::current().id(), now);
    let hash = xxhash_rust::xxh3::xxh3_64(format!("{id:?}").as_bytes());
    wait.mul_f64(0.5 + 0.5 * (hash >> 11) as f64 / (1u64 << 53) as f64)
}
