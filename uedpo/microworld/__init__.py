"""A small synthetic world with exact ground truth, and the base model trained on it."""
