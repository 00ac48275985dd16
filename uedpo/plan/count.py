"""A configuration, its data and its model's config, counted as they are or with one change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from uedpo.corruption.base import check_corruption
from uedpo.data.collate import PairCollator
from uedpo.data.rejects import TooManyRejected
from uedpo.errors import InputError, plain_line
from uedpo.model.families import family_of
from uedpo.module import PreferenceModule
from uedpo.plan.lengths import Sample, first, made_up, sample_of_rows
from uedpo.plan.shadow import StoredReference
from uedpo.plan.step import Counted, count_step
from uedpo.scoring.varlen import CAPABILITY

FILES = "plan needs the config and processor files, no weights: give a folder with them as model.path=DIR"
LISTED = "written by python -m uedpo.check, not by plan"
NO_DATA = "where the data cannot be read, give prompt_tokens=, response_tokens= and image_size="


@dataclass(frozen=True)
class Setting:
    """What is counted.

    Attributes:
        cfg: of a run.
        config: transformers config of the model.
        collate: of the data.
        sample: pairs that stand for the data.
    """

    cfg: DictConfig
    config: Any
    collate: PairCollator
    sample: Sample

    @property
    def gpu(self) -> bool:
        return bool(self.cfg.trainer.accelerator == "gpu")

    def attention(self) -> str:
        """Which attention is counted: of a GPU on which the kernels run, where one is planned."""
        from uedpo.config.build import build_module

        corruption = instantiate(self.cfg.corruption, seed=self.cfg.seed)
        module: PreferenceModule = build_module(self.cfg, instantiate(self.cfg.model), corruption)
        device = torch.device("cuda" if self.gpu else "cpu")
        return module.attention_on(device, self.cfg.trainer.precision, CAPABILITY if self.gpu else None)

    def count(self, typical: bool = False, **changes: Any) -> Counted:
        """A micro-batch of the longest rows, or of one typical row.

        Args:
            changes: values by dotted keys, dots as two underscores.
        """
        from uedpo.config.build import build_module, build_weigher

        cfg = self.cfg.copy()
        for key, value in changes.items():
            OmegaConf.update(cfg, key.replace("__", "."), value)
        source, corruption = instantiate(cfg.model), instantiate(cfg.corruption, seed=cfg.seed)
        reference: Any = StoredReference() if cfg.reference_cache else None
        module = build_module(cfg, source, corruption, reference)
        module.scorer.cache = None  # is bound to weights
        module.scorer.check(self.config, source.attn_implementation)
        limit = min(cfg.data.max_response_tokens, self.collate.max_response_tokens)
        collate = PairCollator(self.collate.processor, limit, self.collate.negatives)
        pairs = [self.sample.typical] if typical else first(self.sample, cfg.data.batch_size)
        trainer = cfg.trainer
        counted = count_step(
            module,
            build_weigher(cfg, corruption),
            collate(pairs),
            config=self.config,
            accumulate=trainer.accumulate_grad_batches > 1,
            autocast=trainer.precision == "bf16-mixed",
            clip=trainer.gradient_clip_val > 0,
            ddp=trainer.strategy == "ddp",
            fused_optimiser=self.gpu,
            capability=CAPABILITY if self.gpu else None,
        )
        for key, part in (("quantize", "frozen weights"), ("reference_quantize", "reference copy")):
            if cfg.model[key] is not None:
                counted = counted.quantised(part, cfg.model[key])
        return counted


def setting_of(
    cfg: DictConfig,
    rows: int,
    prompt_tokens: int | None,
    response_tokens: int | None,
    image_size: tuple[int, int] | None,
) -> Setting:
    """Reads config, processor and data, no weights.

    Raises:
        InputError: one of them cannot be used, or not be read here.
    """
    if cfg.trainer.strategy == "fsdp":
        raise InputError(
            "trainer.strategy=fsdp: plan counts whole weights on each device; use trainer.strategy=ddp"
        )
    source = instantiate(cfg.model)
    try:
        processor, config = source.processor(), source.config()
    except InputError as error:
        raise InputError(f"{error}; {FILES}") from None
    source.check(processor, config)
    check_corruption(instantiate(cfg.corruption, seed=cfg.seed), config.model_type, family_of(config))
    if prompt_tokens is not None and response_tokens is not None:
        limit = min(cfg.data.max_response_tokens, response_tokens)
        collate = PairCollator(processor, limit)
        sample = made_up(prompt_tokens, response_tokens, image_size, collate, config)
        return Setting(cfg, config, collate, sample)
    try:
        data = instantiate(cfg.data)(processor=processor, seed=cfg.seed)
    except (InputError, OSError, InstantiationException) as error:
        cause = (error.__cause__ if isinstance(error, InstantiationException) else None) or error
        if isinstance(cause, TooManyRejected):
            raise InputError(f"{plain_line(cause)}\n  ({LISTED})") from None
        raise InputError(f"{plain_line(cause)}; {NO_DATA}") from None
    return Setting(cfg, config, data.collate, sample_of_rows(data.train, rows, data.collate, config))
