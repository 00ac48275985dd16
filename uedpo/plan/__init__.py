"""What a run will need, counted by running its step on tensors without storage."""
