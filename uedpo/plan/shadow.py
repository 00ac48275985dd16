"""A model of the right shapes without its weights: fake tensors, made from its config."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForImageTextToText

from uedpo.model.hf import HFModel
from uedpo.model.quantize import Bits
from uedpo.types import PairBatch


class Shadow(HFModel):
    """`source` with fake weights; everything else, adapters and checkpointing too, is that of a run."""

    def __init__(self, source: HFModel, config: Any) -> None:
        self.__dict__.update(source.__dict__)
        self.quantize = self.reference_quantize = None
        self._config = config

    def _weights(self, bits: Bits | None) -> Any:
        model = AutoModelForImageTextToText.from_config(
            self._config, dtype=getattr(torch, self.dtype), attn_implementation=self.attn_implementation
        )
        return model.requires_grad_(False).eval()

    def load(self, with_reference: bool = True) -> tuple[Any, Any | None]:
        """(policy, reference or None), see `HFModel.load`."""
        with torch.device("meta"):
            policy, reference = super().load(with_reference)
        # one fake mode for both: operations do not mix tensors of two
        fakes = FakeTensorMode(allow_non_fake_inputs=True)
        done: dict[Tensor, Tensor] = {}
        for model in (policy, reference):
            if model is not None:
                _fake_tensors(model, fakes, done)
        return policy, reference


class StoredReference:
    """Stands for a complete `ReferenceCache`: its log-probabilities cost nothing."""

    def logps(self, part: str, batch: PairBatch) -> Tensor:
        """[2B, T]"""
        return torch.zeros(batch.mask.shape)


def _fake_tensors(model: nn.Module, fakes: FakeTensorMode, done: dict[Tensor, Tensor]) -> None:
    """Put a fake CPU tensor in the place of each meta tensor; tied ones stay tied."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                if parameter not in done:
                    made = nn.Parameter(_fake_like(parameter, fakes), parameter.requires_grad)
                    done[parameter] = made
                module._parameters[name] = done[parameter]  # type: ignore[assignment]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                done.setdefault(buffer, _fake_like(buffer, fakes))
                module._buffers[name] = done[buffer]


def _fake_like(tensor: Tensor, fakes: FakeTensorMode) -> Tensor:
    with fakes:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
