"""pytorch_lightning.Trainer with the options of this project, each with its range."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
from annotated_types import Ge
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy

from uedpo.types import NonNegativeFloat, PositiveInt


def make_trainer(
    *,
    accelerator: Literal["cpu", "gpu"] = "cpu",
    devices: PositiveInt = 1,
    num_nodes: PositiveInt = 1,
    strategy: Literal["auto", "ddp", "fsdp"] = "auto",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    max_steps: PositiveInt,
    accumulate_grad_batches: PositiveInt = 1,
    gradient_clip_val: NonNegativeFloat = 0.0,
    val_every_n_batches: Annotated[int, Ge(0)] = 0,
    log_every_n_steps: PositiveInt = 1,
    callbacks: Any = None,
    logger: Any = None,
    default_root_dir: str | None = None,
    plugins: Any = None,
    timeout: float | None = None,
) -> pl.Trainer:
    """A trainer that runs `max_steps` optimiser steps in one pass over the data module's batches.

    Args:
        strategy: "fsdp" shards the decoder layers over the ranks, see `uedpo.model.sharded`.
        accelerator: "mps" is not offered: it has no tests. macOS runs on "cpu".
        gradient_clip_val: maximal gradient norm; 0 turns clipping off.
        val_every_n_batches: micro-batches between validations; 0 turns validation off. A run that has fewer
            validates once, at its end.
        timeout: seconds after which a rank gives up waiting for the others; None is torch's own.
    """
    batches = max_steps * accumulate_grad_batches
    return pl.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=_strategy(strategy, devices * num_nodes, timeout),
        precision=precision,
        max_steps=max_steps,
        max_epochs=1,
        accumulate_grad_batches=accumulate_grad_batches,
        gradient_clip_val=gradient_clip_val or None,
        val_check_interval=min(val_every_n_batches, batches) or 1.0,
        check_val_every_n_epoch=None if val_every_n_batches else 1,
        limit_val_batches=1.0 if val_every_n_batches else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=log_every_n_steps,
        callbacks=callbacks,
        logger=logger if logger else False,
        default_root_dir=default_root_dir,
        plugins=plugins,
        # the data module's batches know rank and world size
        use_distributed_sampler=False,
        enable_model_summary=False,
        # Lightning adds its own bar and checkpoints where the config has none
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks or []),
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks or []),
    )


def _strategy(name: str, ranks: int, timeout: float | None) -> Any:
    waiting: dict[str, Any] = {} if timeout is None else {"timeout": timedelta(seconds=timeout)}
    if name == "fsdp":  # checkpoints in one file, which `uedpo.callbacks.checkpoint_files` can seal
        return ModelParallelStrategy(
            data_parallel_size=ranks, tensor_parallel_size=1, save_distributed_checkpoint=False, **waiting
        )
    return DDPStrategy(**waiting) if name == "ddp" and waiting else name
