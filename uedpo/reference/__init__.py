"""The frozen reference's log-probabilities on disk, and the key that tells whether they are still valid."""
