"""LoRA of the language model, with a linear layer that adds its low-rank update in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora as peft_lora
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn


def add_lora(
    model: Any, r: int, alpha: float, dropout: float, target_modules: str, trained: Sequence[str] = ()
) -> Any:
    """`model` inside a PEFT model with a fresh adapter, which is all that is trained.

    Args:
        target_modules: regular expression of the layers that get low-rank matrices.
        trained: paths of modules of which the adapter holds a copy that is trained whole; without the
            adapter the model has its own.
    """
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=target_modules,
        modules_to_save=list(trained) or None,
    )
    if not getattr(model, "is_quantized", False):  # PEFT's own layers know bitsandbytes
        config._register_custom_module({nn.Linear: AddingLinear})
    policy = get_peft_model(model, config)
    tuned: Any = policy.base_model
    # saved as literal names: an adapter is read again without evaluating a pattern
    config.target_modules = sorted(tuned.targeted_module_names)
    return policy


@contextmanager
def without_adapter(policy: Any) -> Iterator[Any]:
    """`policy` as the model that it adapts, for passes without a gradient.

    PEFT's own `disable_adapter` asks every layer of the model for its state and every parameter for its
    gradient, twice; here each adapted layer gets a flag.
    """
    layers = _adapted_layers(policy)
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield policy
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


def _adapted_layers(policy: Any) -> list[Any]:
    """What PEFT has put into `policy`, looked for once: layers do not change while a model trains."""
    if policy not in _ADAPTED:
        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        _ADAPTED[policy] = [module for module in policy.modules() if isinstance(module, kinds)]
    return _ADAPTED[policy]


_ADAPTED: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


class AddingLinear(peft_lora.Linear):
    """PEFT's LoRA layer with one kernel less on large tensors: y = Wx, then y += s B(Ax) by addmm.

    PEFT scales and adds [S, out] tensors of their own, forward and backward; here the scale rides on the
    matrix product. The same sum in another order of rounding; everything else is PEFT's.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = self._plain_adapter()
        if name is None or args or kwargs:
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        y: Tensor = self.base_layer(x)
        down = self.lora_A[name]
        up: Any = self.lora_B[name].weight
        if not torch.is_autocast_enabled(x.device.type) and not x.dtype == y.dtype == up.dtype:
            return super().forward(x)
        narrow = down(x).to(y.dtype)
        flat = y.view(-1, y.shape[-1])
        flat.addmm_(narrow.view(-1, narrow.shape[-1]), up.to(y.dtype).t(), alpha=self.scaling[name])
        return flat.view_as(y)

    def _plain_adapter(self) -> str | None:
        """Name of the adapter if there is exactly one, active, unmerged and without dropout or variant."""
        active = self.active_adapters
        if self.disable_adapters or self.merged or len(active) != 1 or active[0] not in self.lora_A:
            return None
        name = str(active[0])
        plain = isinstance(self.lora_dropout[name], nn.Identity) and not self.lora_bias[name]
        return name if plain and not self.lora_variant and type(self.base_layer) is nn.Linear else None
