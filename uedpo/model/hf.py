"""Policies and references from the hub, a local folder, or this package."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from uedpo.types import Fraction, PositiveFloat, PositiveInt

SHIPPED = "uedpo:"
# only the language model's linear layers; "all-linear" would reach the vision tower
LANGUAGE_LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class Lora(NamedTuple):
    """LoRA options, see peft.LoraConfig."""

    r: int
    alpha: float
    dropout: float
    target_modules: str


def lora(
    r: PositiveInt = 128,
    alpha: PositiveFloat = 256.0,
    dropout: Fraction = 0.0,
    target_modules: str = LANGUAGE_LINEAR,
) -> Lora:
    """LoRA as the paper trains it (rank 128); `target_modules` is a regular expression."""
    return Lora(r, alpha, dropout, target_modules)


class HFModel:
    """Where a model comes from and how it is trained.

    Args:
        path: hub id, local folder, or "uedpo:micro_llava" for the one in this package.
        revision: commit of a hub id.
        dtype: of the frozen weights.
        attn_implementation: of transformers.
        lora: adapter options, or None to train the whole language model against a frozen copy.
        gradient_checkpointing: recompute activations in the backward pass.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        lora: Lora | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.path, self.revision, self.lora = path, revision, lora
        self.dtype, self.attn_implementation = dtype, attn_implementation
        self.gradient_checkpointing = gradient_checkpointing

    @property
    def location(self) -> str:
        if not self.path.startswith(SHIPPED):
            return self.path
        return str(Path(__file__).parent.parent / "assets" / self.path.removeprefix(SHIPPED))

    def processor(self) -> Any:
        return AutoProcessor.from_pretrained(self.location, revision=self.revision, trust_remote_code=False)

    def config(self) -> Any:
        """transformers' config of the model; loads no weights."""
        return AutoConfig.from_pretrained(self.location, revision=self.revision, trust_remote_code=False)

    def base(self) -> Any:
        """The model as it was published, frozen, in eval mode."""
        model = AutoModelForImageTextToText.from_pretrained(
            self.location,
            revision=self.revision,
            dtype=getattr(torch, self.dtype),
            attn_implementation=self.attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
        )
        return model.requires_grad_(False)

    def load(self) -> tuple[Any, Any | None]:
        """(policy in train mode, reference or None where disabling the adapter gives it)."""
        model, reference = self.base(), None
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.lora is None:
            reference = copy.deepcopy(model).eval()
            model.model.language_model.requires_grad_(True)
            model.get_output_embeddings().requires_grad_(True)
        else:
            from uedpo.model.lora import add_lora  # PEFT is slow to import

            model = add_lora(model, *self.lora)
        # from_pretrained returns eval mode, where transformers skips gradient checkpointing
        return model.train(), reference
