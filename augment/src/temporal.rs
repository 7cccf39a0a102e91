//! temporal.
