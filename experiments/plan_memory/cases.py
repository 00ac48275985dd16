"""Models, data and options of the comparison; models are random, of the classes in tests/backbones.py."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from tests import backbones
from uedpo.data.collate import PairCollator
from uedpo.loss import dpo_loss, ue_dpo_loss
from uedpo.microworld.data import MicroWorldPairs
from uedpo.model.hf import HFModel, lora
from uedpo.module import PreferenceModule
from uedpo.optim import adamw_cosine
from uedpo.scoring import Scorer
from uedpo.types import PairBatch, PreferencePair
from uedpo.weights.probe import UncertaintyProbe

# hidden size, layers, intermediate size; heads of 16
SIZES = {"small": (64, 2, 172), "wide": (256, 4, 688), "deep": (96, 12, 256)}


@dataclass(frozen=True)
class Case:
    """One setting.

    Attributes:
        model: "micro", or family/size.
        whole: train the whole language model against a frozen copy, not LoRA.
    """

    model: str
    method: str = "ue_dpo"
    whole: bool = False
    checkpointing: bool = False
    batch_size: int = 4
    scoring: str = "prefix_shared"
    accumulate: int = 1

    @property
    def name(self) -> str:
        return " ".join(
            [self.model, self.method, "full" if self.whole else "LoRA", self.scoring, f"B={self.batch_size}"]
            + ["checkpointing"] * self.checkpointing + ["accumulation"] * (self.accumulate > 1)
        )  # fmt: skip


CASES = [
    *(Case("micro", method, whole) for method in ("dpo", "ue_dpo") for whole in (False, True)),
    Case("micro", batch_size=1), Case("micro", checkpointing=True), Case("micro", scoring="plain"),
    Case("micro", whole=True, batch_size=1, checkpointing=True, scoring="plain"),
    Case("llava/wide"), Case("llava/wide", "dpo", whole=True, batch_size=1), Case("llava/wide", accumulate=2),
    Case("llava/wide", whole=True, accumulate=2), Case("llava/deep", "dpo"),
    Case("llava/deep", checkpointing=True), Case("llava/deep", scoring="plain", checkpointing=True),
    Case("qwen2_5_vl/wide"), Case("qwen2_5_vl/wide", "dpo", whole=True, checkpointing=True),
    Case("qwen2_5_vl/deep", batch_size=1), Case("qwen2_5_vl/deep", checkpointing=True),
    Case("qwen2_5_vl/deep", scoring="plain"), Case("internvl/small"), Case("gemma3/small", scoring="plain"),
]  # fmt: skip


class Random(HFModel):
    """A random model of a tiny config, made larger."""

    def __init__(self, family: str, size: str, **options: Any) -> None:
        super().__init__(path=family, **options)
        self.family, self.size = family, size

    def processor(self) -> Any:
        return backbones.processor(self.family)

    def config(self) -> Any:
        config = backbones.config(self.family)
        hidden, layers, intermediate = SIZES[self.size]
        text = config.get_text_config()
        text.hidden_size, text.num_hidden_layers, text.intermediate_size = hidden, layers, intermediate
        text.num_attention_heads, text.num_key_value_heads = hidden // text.head_dim, hidden // text.head_dim
        if getattr(text, "layer_types", None):
            text.layer_types = (list(text.layer_types) * layers)[:layers]
        if hasattr(config.vision_config, "out_hidden_size"):
            config.vision_config.out_hidden_size = hidden
        return config

    def _weights(self, bits: Any) -> Any:
        torch.manual_seed(0)
        made = getattr(transformers, backbones.CLASSES[self.family])
        model = made._from_config(self.config(), attn_implementation=self.attn_implementation)
        return model.requires_grad_(False).eval()


def source_of(case: Case) -> HFModel:
    adapter = None if case.whole else lora(r=16, alpha=32.0)
    options: dict[str, Any] = {"lora": adapter, "gradient_checkpointing": case.checkpointing}
    if case.model == "micro":
        return HFModel("uedpo:micro_llava", **options)
    return Random(*case.model.split("/"), **options)


def batch_of(case: Case) -> PairBatch:
    """Captions of the micro-world, or pairs of prompts and answers of different lengths."""
    source = source_of(case)
    if case.model == "micro":
        pairs: Any = MicroWorldPairs("train", case.batch_size)
        return PairCollator(source.processor(), 128)([pairs[i] for i in range(case.batch_size)])
    random = np.random.default_rng(3)
    made = []
    for i in range(case.batch_size):
        pixels = random.integers(0, 255, (112, 112, 3)).astype(np.uint8)
        prompt, chosen = "what is it? " * (2 + i), "a red dog on a hill. " * (3 + i)
        made.append(
            PreferencePair(f"row-{i}", Image.fromarray(pixels), prompt, chosen, "no cat. " * (6 + 2 * i))
        )
    return PairCollator(source.processor(), 256)(made)


def module_of(case: Case) -> tuple[PreferenceModule, UncertaintyProbe | None]:
    loss = ue_dpo_loss if case.method == "ue_dpo" else dpo_loss
    module = PreferenceModule(
        source_of(case),
        functools.partial(loss, beta=0.1),
        functools.partial(adamw_cosine, lr=1e-4),
        scorer=Scorer(case.scoring),  # type: ignore[arg-type]
    )
    return module, UncertaintyProbe(alpha=0.3) if case.method == "ue_dpo" else None
