//! How far a long command is: a bar on a terminal, else a line now and then.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// Time between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(30);

/// Progress of one command, on standard error.
pub(crate) enum Progress {
    /// On a terminal.
    Bar(ProgressBar),
    /// In a log.
    Lines(Mutex<Lines>),
}

/// Progress with rate and time left.
pub(crate) fn progress(total: u64, what: &'static str) -> Progress {
    if !std::io::stderr().is_terminal() {
        return Progress::Lines(Mutex::new(Lines::new(what, total, Instant::now())));
    }
    let bar = ProgressBar::new(total);
    let template = "{msg} [{bar:30}] {human_pos}/{human_len} {per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what);
    Progress::Bar(bar)
}

impl Progress {
    /// `done` of `total` are done.
    pub(crate) fn set(&self, done: usize, total: usize) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            }
            Self::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.total = total as u64;
                lines.tell(done as u64);
            }
        }
    }

    /// One more is done.
    pub(crate) fn inc(&self) {
        match self {
            Self::Bar(bar) => bar.inc(1),
            Self::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                let done = lines.done + 1;
                lines.tell(done);
            }
        }
    }

    /// The command is done.
    pub(crate) fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// What the lines say.
pub(crate) struct Lines {
    what: &'static str,
    total: u64,
    done: u64,
    /// When the last line was due, and what was done then.
    last: (Instant, u64),
}

impl Lines {
    const fn new(what: &'static str, total: u64, now: Instant) -> Self {
        Self { what, total, done: 0, last: (now, 0) }
    }

    fn tell(&mut self, done: u64) {
        if let Some(line) = self.line(done, Instant::now()) {
            // Nobody may be listening.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    /// The line that is due at `now`. The rate is that since the last one: what an earlier run had
    /// done already is no measure.
    fn line(&mut self, done: u64, now: Instant) -> Option<String> {
        self.done = self.done.max(done);
        let passed = now.saturating_duration_since(self.last.0);
        if passed < EVERY {
            return None;
        }
        let rate = (self.done - self.last.1) as f64 / passed.as_secs_f64();
        self.last = (now, self.done);
        let left = match self.total.saturating_sub(self.done) as f64 / rate {
            seconds if seconds.is_finite() => {
                let left = Duration::from_secs_f64(seconds.min(1e9));
                format!("{} left", HumanDuration(left))
            }
            _ => "no end in sight".to_owned(),
        };
        let (what, done, total) = (self.what, self.done, self.total);
        Some(format!("{what}: {done} of {total}, {rate:.1} a second, {left}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gets_a_line_every_half_minute() {
        let start = Instant::now();
        let mut lines = Lines::new("converting", 1000, start);
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(lines.line(90, after(29)), None);
        let first = lines.line(120, after(30));
        assert_eq!(first.as_deref(), Some("converting: 120 of 1000, 4.0 a second, 4 minutes left"));
        // Threads tell their numbers in any order.
        assert_eq!(lines.line(100, after(45)), None);
        let second = lines.line(150, after(60));
        assert!(
            second.is_some_and(|l| l.starts_with("converting: 150 of 1000, 1.0 a second, 14 m"))
        );
        assert!(lines.line(150, after(95)).is_some_and(|l| l.ends_with("no end in sight")));
    }
}
