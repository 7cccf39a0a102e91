//! resample.
