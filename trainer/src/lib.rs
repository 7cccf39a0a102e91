//! Burn models, losses, pre-training, fine-tuning and checkpoints.
