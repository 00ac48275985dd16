"""Preference losses: pure functions of log-probabilities, one family a file."""

from uedpo.loss.dpo import dpo_loss
from uedpo.loss.ue_dpo import ue_dpo_loss

__all__ = ["dpo_loss", "ue_dpo_loss"]
