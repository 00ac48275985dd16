"""The last decoder layer on the positions that are read: its other outputs feed nothing.

Of [prefix | chosen | rejected] only the last prefix position and the responses predict response
tokens. Earlier layers need every position for its keys and values; in the last one, queries, the
output projection and the MLP of the rest of the prefix are work for nothing, forward and backward.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


class _Reader:
    """Hooks that narrow position-wise modules of one decoder layer; inactive without a layout."""

    def __init__(self) -> None:
        self.needed: Tensor | None = None
        self.length = 0

    def enter(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # runs again when gradient checkpointing recomputes the layer, with that batch's own layout
        layout = kwargs.get("prefix_layout")
        self.needed = None if layout is None else layout.needed

    def narrow(self, module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self.needed is None:
            return None
        self.length = args[0].shape[1]
        return (args[0].index_select(1, self.needed), *args[1:])

    def widen(self, module: Any, args: Any, output: Tensor) -> Tensor | None:
        if self.needed is None:
            return None
        return output.new_zeros(len(output), self.length, output.shape[-1]).index_copy(1, self.needed, output)


def read_needed_only(layer: Any) -> None:
    """Narrow query and output projections and the MLP of `layer`, the last one of its model."""
    reader = _Reader()
    layer.register_forward_pre_hook(reader.enter, with_kwargs=True)
    for module in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp):
        module.register_forward_pre_hook(reader.narrow)
        module.register_forward_hook(reader.widen)
    layer.self_attn.reads_needed_only = True
