"""Scores of response tokens: `plain` and `prefix_shared` give the same `TokenScores`."""

from uedpo.scoring.scorer import Scorer

__all__ = ["Scorer"]
