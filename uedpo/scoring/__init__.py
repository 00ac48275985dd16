"""Scores of response tokens from one forward pass; `logps` is the plain path."""
