//! Order, workers, slots, batches and statistics.
