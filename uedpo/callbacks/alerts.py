"""Training that degenerates: said once each, in one line, on the screen and as a W&B alert."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from uedpo.logger.wandb import WandbRun
from uedpo.runtime.say import say
from uedpo.types import PairBatch, PositiveFloat, PositiveInt
from uedpo.weights.probe import probe_of

# margins that hardly differ say nothing, whatever they go with
MIN_SPREAD = 0.5


class Step(NamedTuple):
    """What one micro-batch says: chosen log-ratio summed, its tokens, margins and length differences [B]."""

    log_ratio: float
    tokens: int
    margins: Tensor
    lengths: Tensor


class Alerts(pl.Callback):
    """Warns of three ways in which a falling loss means nothing, over the last `window` micro-batches.

    - Collapse: the chosen responses have lost more than `collapse` nats a token against the reference
      (likelihood displacement); preferring them less slowly than the rejected is all that is learnt.
    - Length: the margin of a pair follows the difference of its lengths, correlation above `length`.
    - Equal weights: a probe with alpha > 0 gives every token of its selection the same weight, or
      selects none, in the whole window; it trains as DPO would, or as a constant.

    Each is said once a run. On more than one device rank 0 looks at its own rows.

    Args:
        window: micro-batches looked back on; nothing is said before it is full.
        collapse: nats a token.
        length: correlation of margin and length difference, chosen minus rejected, in (0, 1).
    """

    def __init__(
        self, window: PositiveInt = 20, collapse: PositiveFloat = 0.5, length: PositiveFloat = 0.9
    ) -> None:
        self.collapse, self.length = collapse, length
        self.steps: deque[Step] = deque(maxlen=window)
        self.spreads: deque[float] = deque(maxlen=window)
        self.said: set[str] = set()
        # of the micro-batches of this step: lengths of responses, numbers on the device
        self._unread: list[tuple[list[int], Tensor]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: PairBatch, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        policy, reference = pl_module.last_logps
        numbers = [(policy - reference)[: 2 * len(batch.ids)].sum(-1).float()]
        probe = probe_of(trainer)
        if probe is not None and probe.alpha > 0 and probe.control != "constant" and probe.last is not None:
            numbers.append(spread(probe.last.mask, probe.last.weights).float()[None])
        self._unread.append((batch.response_lengths, torch.cat(numbers)))
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._read()
            for title, text in self.found().items():
                self._say(trainer, title, text)

    def _read(self) -> None:
        """Take in what the micro-batches of a step said, for which the host waits once."""
        sizes = [len(numbers) for _, numbers in self._unread]
        together = torch.cat([numbers for _, numbers in self._unread]).cpu()
        for (lengths, _), numbers in zip(self._unread, together.split(sizes), strict=True):
            rows = len(numbers) // 2 * 2
            self.steps.append(measure(lengths, numbers[:rows]))
            self.spreads.extend(numbers[rows:].tolist())
        self._unread = []

    def found(self) -> dict[str, str]:
        """Title -> explanation of what the window shows."""
        alerts: dict[str, str] = {}
        if len(self.steps) == self.steps.maxlen:
            fall = -sum(s.log_ratio for s in self.steps) / max(sum(s.tokens for s in self.steps), 1)
            if fall > self.collapse:
                alerts["chosen log-probability collapses"] = (
                    f"chosen responses lost {fall:.2f} nats a token against the reference; lower optim.lr or "
                    "raise loss.beta, or add an SFT term (+method=dpo_sft)"
                )
            margins = torch.cat([s.margins for s in self.steps])
            lengths = torch.cat([s.lengths for s in self.steps])
            follows = correlation(margins, lengths)
            if follows > self.length and float(margins.std()) > MIN_SPREAD:
                alerts["the margin follows length"] = (
                    f"correlation {follows:.2f} with chosen minus rejected length; balance the lengths, or "
                    "use loss.length_normalised=true"
                )
        if len(self.spreads) == self.spreads.maxlen and max(self.spreads) < 1e-6:
            alerts["all token weights are equal"] = (
                "the probe tells no token from another; look at signals/ and at corruption.k"
            )
        return alerts

    def _say(self, trainer: pl.Trainer, title: str, text: str) -> None:
        if title in self.said:
            return
        self.said.add(title)
        say(f"WARNING at step {trainer.global_step}: {title}: {text}")
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.experiment.alert(title=title, text=text)


def measure(lengths: list[int], log_ratios: Tensor) -> Step:
    """A `Step` of the summed log-ratios [2B] and lengths [2B] of responses; further lengths are left out."""
    tokens = torch.tensor(lengths[: len(log_ratios)])
    (chosen, rejected), (long, short) = log_ratios.chunk(2), tokens.chunk(2)
    return Step(float(chosen.sum()), int(long.sum()), chosen - rejected, (long - short).float())


def spread(mask: Tensor, weights: Tensor) -> Tensor:
    """Highest minus lowest of the weights [2B, T] that are not 1; 0 where all are."""
    moved = mask & (weights != 1)
    highest, lowest = (weights.masked_fill(~moved, x) for x in (-torch.inf, torch.inf))
    return (highest.amax() - lowest.amin()).clamp(min=0)


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's, 0 where one of them does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale else 0.0
