"""Evaluation: generate answers, then count what they say."""
