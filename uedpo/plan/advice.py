"""Single changes of a configuration that make it fit, each counted."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig

from uedpo.loss import LIVE_REFERENCE
from uedpo.model.families import family_of
from uedpo.model.hf import lora
from uedpo.plan.count import Setting
from uedpo.plan.devices import Device
from uedpo.plan.step import Counted
from uedpo.plan.table import size


def advice(setting: Setting, counted: Counted, device: Device) -> list[str]:
    """A line for each change, those that fit first."""
    found = sorted(changes(setting, counted), key=lambda change: change[1])
    lines = ["  to fit, one change:"]
    for what, peak in found:
        fits = "fits" if device.gb is not None and peak <= device.gb * 1e9 else "does not fit alone"
        lines.append(f"    {what:<56}{size(peak)}  {fits}")
    return lines if found else ["  no single change is left: take a smaller model or a larger device"]


def needs_live_reference(cfg: DictConfig) -> bool:
    """Whether the loss asks for what no cache holds."""
    return bool(set(inspect.signature(get_object(cfg.loss._target_)).parameters) & set(LIVE_REFERENCE))


def changes(setting: Setting, counted: Counted) -> Iterator[tuple[str, int]]:
    """(change, new peak in bytes)."""
    cfg = setting.cfg
    if not cfg.model.gradient_checkpointing:
        peak = setting.count(model__gradient_checkpointing=True).peak
        yield "model.gradient_checkpointing=true", peak
    if cfg.data.batch_size > 1:
        accumulate = cfg.data.batch_size * cfg.trainer.accumulate_grad_batches
        peak = setting.count(data__batch_size=1, trainer__accumulate_grad_batches=accumulate).peak
        yield f"data.batch_size=1 trainer.accumulate_grad_batches={accumulate}", peak
    shares = family_of(setting.config).shares_prefixes and cfg.model.attn_implementation == "sdpa"
    if cfg.scoring == "plain" and shares and not cfg.model.train_projector:
        yield "scoring=prefix_shared", setting.count(scoring="prefix_shared").peak
    limit = setting.sample.longest_response // 2
    if 0 < limit < cfg.data.max_response_tokens:
        peak = setting.count(data__max_response_tokens=limit).peak
        yield f"data.max_response_tokens={limit} (cuts responses)", peak
    if cfg.model.lora is None and not cfg.reference_cache and not needs_live_reference(cfg):
        yield "reference_cache=DIR", setting.count(reference_cache="DIR").peak
    if cfg.model.lora is None:
        if setting.gpu and cfg.model.reference_quantize is None:
            peak = counted.quantised("reference copy", "8bit").peak
            yield "model.reference_quantize=8bit", peak
        adapter: dict[str, Any] = {"_target_": "uedpo.model.hf.lora", **lora()._asdict()}
        yield "LoRA: model/lora of conf/model/hf.yaml", setting.count(model__lora=adapter).peak
    elif setting.gpu and cfg.model.quantize is None:
        yield "model.quantize=4bit", counted.quantised("frozen weights", "4bit").peak
