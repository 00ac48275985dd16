"""The Lightning module: policy, frozen reference, one step of any preference loss."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from uedpo.corruption.base import Corruption, corrupt_batch
from uedpo.errors import InputError
from uedpo.loss import FROM_ROWS, LIVE_REFERENCE, ON_REQUEST, dpo_loss, takes_constant_corrupted
from uedpo.model.families import family_of
from uedpo.model.hf import HFModel
from uedpo.model.inputs import unwrap
from uedpo.model.sharded import shard_layers, trained_weights
from uedpo.reference.cache import ReferenceCache
from uedpo.scoring import Scorer
from uedpo.scoring.varlen import branch
from uedpo.types import LossOutput, PairBatch, TokenScores

# metrics of a step that a progress bar may show
SHOWN = ("train/loss", "train/margin", "train/accuracy", "weights/reweighted")
Loss = Callable[..., LossOutput]
# (batch, clear scores) -> detached weights [2B, T]
Weigher = Callable[[PairBatch, TokenScores], Tensor]


class PreferenceModule(pl.LightningModule):
    """Trains `source`'s policy with `loss`; token weights come from `weigher`, if a callback sets one.

    Args:
        source: where policy and reference come from; loaded in `configure_model`.
        loss: (policy_logps, reference_logps, mask, weights, **what it asks for) -> LossOutput; see
            `uedpo.loss`.
        optim: (parameters, max_steps) -> (optimizer, scheduler).
        val_beta: beta of the unweighted DPO loss on validation pairs, so that curves compare.
        corruption: makes the corrupted images of losses that ask for them.
        scorer: how responses are scored; prefix-shared by default.
        reference_cache: the reference's log-probabilities on disk, in the place of its pass in every step.
    """

    def __init__(
        self,
        source: HFModel,
        loss: Loss,
        optim: Callable[..., Any],
        val_beta: float = 0.1,
        corruption: Corruption | None = None,
        scorer: Scorer | None = None,
        reference_cache: ReferenceCache | None = None,
    ) -> None:
        super().__init__()
        self.source, self.loss, self.optim, self.val_beta = source, loss, optim, val_beta
        self.corruption = corruption
        self.scorer = Scorer() if scorer is None else scorer
        self.requested_inputs = [name for name in inspect.signature(loss).parameters if name in ON_REQUEST]
        if corruption is None and any(name not in FROM_ROWS for name in self.requested_inputs):
            raise ValueError(f"the loss needs {', '.join(self.requested_inputs)}: give a corruption")
        if reference_cache is not None and set(self.requested_inputs) & set(LIVE_REFERENCE):
            raise ValueError(f"the loss needs {', '.join(self.requested_inputs)}, which no cache holds")
        self.reference_cache = reference_cache
        self.policy: Any = None
        self.reference: Any = None
        self.weigher: Weigher | None = None
        self.last_logps: tuple[Tensor, Tensor] | None = None
        self._noted: dict[str, Tensor] = {}
        self.strict_loading = False  # checkpoints hold what is trained, not the frozen base

    def setup(self, stage: str) -> None:
        if self.reference_cache is not None:
            self.reference_cache.fill(self.source, self.scorer, self.trainer)

    def configure_model(self) -> None:
        if self.policy is None:
            self.policy, self.reference = self.source.load(with_reference=self.reference_cache is None)
            for model in (self.policy, self.reference):
                if model is not None:
                    self.scorer.attach(model)
            if self.device_mesh is not None:
                shard_layers(self.policy, self.device_mesh["data_parallel"])

    @property
    def sharded(self) -> bool:
        """Whether ranks hold parts of the weights, so that a forward pass of one needs one of each."""
        return self.device_mesh is not None

    def attention(self, trainer: Any) -> str:
        """Which attention computes the scores of responses on the device that `trainer` trains on."""
        return self.attention_on(trainer.strategy.root_device, trainer.precision)

    def attention_on(
        self, device: torch.device, precision: str, capability: tuple[int, int] | None = None
    ) -> str:
        """The same on a device, or on a GPU of this compute capability that is not here."""
        text = self.source.config().get_text_config()
        if self.scorer.mode == "plain":
            return f"{self.source.attn_implementation} of transformers, with padding"
        half = self.source.dtype == "bfloat16" or precision != "32-true"
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return branch(device, half, size, capability)

    def gather(self) -> None:
        """After training, put a whole policy in the place of a sharded one; all ranks call it together."""
        if self.sharded:
            trained = trained_weights(self.policy)
            self._device_mesh, self.policy = None, None
            if self.trainer.is_global_zero:
                self.configure_model()
                self.policy.to(self.device).load_state_dict(trained, strict=False)

    def set_weigher(self, weigher: Weigher | None) -> None:
        """Let a callback weigh tokens; None takes it away.

        Raises:
            ValueError: another callback does so already.
        """
        if weigher is not None and self.weigher is not None:
            raise ValueError("two callbacks want to weigh tokens; keep one")
        self.weigher = weigher

    @contextmanager
    def reference_model(self) -> Iterator[Any]:
        """The frozen reference: the policy without its adapter, or a frozen copy.

        Training with stored log-probabilities needs no copy; who asks here (the report) has it loaded.
        """
        if self.reference is None and self.source.lora is None:
            self.reference = self.source.reference()
            torch.nn.Module.to(self.reference, self.device)  # transformers' own refuses quantised weights
            self.scorer.attach(self.reference)
        if self.reference is not None:
            yield self.reference
        else:
            from uedpo.model.lora import without_adapter  # PEFT is slow to import

            with without_adapter(self.policy):
                yield self.policy

    def score(self, batch: PairBatch, pixel_values: Tensor | None = None) -> TokenScores:
        """Scores of the policy as it is now, of the given images if any."""
        return self.scorer.score(self.policy, batch, pixel_values)

    @torch.no_grad()
    def score_reference(self, batch: PairBatch, pixel_values: Tensor | None = None) -> TokenScores:
        """Scores of the frozen reference, of the given images if any."""
        with self.reference_model() as reference:
            return self.scorer.score(reference, batch, pixel_values)

    def reference_scores(self, batch: PairBatch, part: str) -> tuple[Tensor, TokenScores | None]:
        """(log-probabilities [2B, T] of the reference, stored or live; all its scores, None where stored).

        Args:
            part: of the data set: "train" or "val".
        """
        if self.reference_cache is not None:
            return self.reference_cache.logps(part, batch), None
        scores = self.score_reference(batch)
        return scores.logps, scores

    def loss_inputs(
        self, batch: PairBatch, policy: TokenScores, reference: TokenScores | None
    ) -> dict[str, Tensor]:
        """What the loss asks for beside log-probabilities, see `uedpo.loss`."""
        inputs: dict[str, Tensor] = {}
        if "similarity" in self.requested_inputs:
            if batch.similarity is None:
                raise InputError(f"rows {batch.ids[0]}, ...: have no similarity; this loss needs it")
            inputs["similarity"] = batch.similarity
        if batch.sample_weights is not None:
            inputs["sample_weights"] = batch.sample_weights
        pixels = None  # one tensor, so that policy and reference share its features
        if batch.pixel_values is not None and set(self.requested_inputs) - set(FROM_ROWS):
            assert self.corruption is not None
            pixels = corrupt_batch(self.corruption, batch, self.global_step)
        sides = {"policy": (self.score, policy), "reference": (self.score_reference, reference)}
        for side, (scorer, clear) in sides.items():
            logps, sensitivity = f"corrupted_{side}_logps", f"{side}_sensitivity"
            if logps not in self.requested_inputs and sensitivity not in self.requested_inputs:
                continue
            assert clear is not None  # the constructor has seen to that
            constant = takes_constant_corrupted(self.loss)
            with torch.no_grad() if constant else contextlib.nullcontext():
                corrupted = clear if pixels is None and not self.sharded else scorer(batch, pixels)
            inputs[logps] = corrupted.logps
            inputs[sensitivity] = clear.target_logits - corrupted.target_logits
        return {name: inputs[name] for name in self.requested_inputs if name in inputs}

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        policy = self.score(batch)
        reference_logps, reference = self.reference_scores(batch, "train")
        self.last_logps = policy.logps.detach(), reference_logps
        weights = self.weigher(batch, policy) if self.weigher is not None else None
        if weights is not None and batch.token_weights is not None:
            weights = weights * batch.token_weights.to(weights)
        extra = self.loss_inputs(batch, policy, reference)
        out = self.loss(policy.logps, reference_logps, batch.mask, weights, **extra)
        self.note({"train/loss": out.loss, **{f"train/{name}": x for name, x in out.metrics.items()}})
        return self._with_idle_projector(out.loss, batch)

    def note(self, metrics: Mapping[str, Tensor]) -> None:
        """Log scalars of this micro-batch if it ends an optimiser step, once all of its work is queued."""
        self._noted |= {name: value.detach() for name, value in metrics.items()}

    def on_train_batch_end(self, outputs: Any, batch: PairBatch, batch_idx: int) -> None:
        noted, self._noted = self._noted, {}
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return
        together = torch.stack([value.double() for value in noted.values()]).cpu()  # the host waits once
        found = {n: read.to(was.dtype) for (n, was), read in zip(noted.items(), together, strict=True)}
        shown = {name: found.pop(name) for name in SHOWN if name in found}
        self.log_dict(shown, prog_bar=True, batch_size=len(batch.ids))
        self.log_dict(found, batch_size=len(batch.ids))

    def _with_idle_projector(self, loss: Tensor, batch: PairBatch) -> Tensor:
        """`loss`, plus 0 times what only images train: a rank that has none in this step takes part in the
        exchange of those gradients, or the others would wait."""
        if not self.source.train_projector or any(batch.images):
            return loss
        base = unwrap(self.policy)
        parts = [base.get_submodule(path) for path in family_of(base.config).projector_paths(base)]
        idle = [p.sum() for part in parts for p in part.parameters() if p.requires_grad]
        return loss + 0.0 * torch.stack(idle).sum()

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        policy = self.score(batch)
        reference_logps, _ = self.reference_scores(batch, "val")
        rows = slice(2 * len(batch.ids))  # without further negatives
        out = dpo_loss(policy.logps[rows], reference_logps[rows], batch.mask[rows], beta=self.val_beta)
        # Lightning averages the counts of the ranks in whole numbers: this keeps the mean one over pairs
        count = len(batch.ids) * self.trainer.world_size
        for name, value in {"loss": out.loss, **out.metrics}.items():
            self.log(f"val/{name}", value, batch_size=count, sync_dist=True)

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer, schedule = self.optim(trained, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
