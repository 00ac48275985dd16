"""Attention over packed rows [prefix | response | response ...]: no response sees another.

Registered with transformers as "shared_prefix". Without a `prefix_layout` it is sdpa, so that a
model that trained this way still generates.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from uedpo.scoring.varlen import HALF, Kernel, branch, compute_dtype, kernel
from uedpo.types.layout import to_device

NAME = "shared_prefix"


@dataclass(eq=False)
class PrefixLayout:
    """Where prefixes and responses lie in one flat row without padding.

    Attributes:
        lengths: per pair (prefix, response, response, ...) in tokens; pairs follow one another.
        needed: positions whose last hidden state is read, ascending.
    """

    lengths: list[tuple[int, ...]]
    needed: Tensor
    _masks: dict[Any, Tensor] = field(default_factory=dict)
    _offsets: tuple[Tensor, Tensor] | None = None

    @property
    def pieces(self) -> list[int]:
        """Lengths of all prefixes and responses in the order they lie."""
        return [n for pair in self.lengths for n in pair]

    @property
    def key_lengths(self) -> list[int]:
        """How many keys each piece looks at: a prefix itself, a response its prefix and itself."""
        return [n if i == 0 else pair[0] + n for pair in self.lengths for i, n in enumerate(pair)]

    def mask(self, prefix: int, response: int, like: Tensor) -> Tensor:
        """Additive mask [response, prefix + response] in the dtype of `like`; made once per batch."""
        key = (prefix, response, like.dtype)
        if key not in self._masks:
            hidden = torch.ones(response, prefix + response, dtype=torch.bool, device=like.device)
            self._masks[key] = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill(
                hidden.triu(prefix + 1), -torch.inf
            )
        return self._masks[key]

    def offsets(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cumulative query and key lengths of all pieces, int32, each with a leading 0."""
        if self._offsets is None:
            both = torch.tensor([[0, *self.pieces], [0, *self.key_lengths]], dtype=torch.int64)
            queries, keys = to_device(both.cumsum(1).to(torch.int32), device)
            self._offsets = queries, keys
        return self._offsets


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    prefix_layout: PrefixLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers: [1, heads, S, D] each -> [1, S, heads, D]."""
    if prefix_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    dtype = compute_dtype(query)
    call = _kernel(query.device, dtype in HALF, query.shape[-1], _ELSEWHERE.get()) if dropout == 0 else None
    if call is not None:
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        return _varlen(call, query, key, value, scaling, prefix_layout), None
    last = getattr(module, "reads_needed_only", False)
    return _segments(query, key, value, dropout, scaling, prefix_layout, last), None


def _segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float,
    scaling: float | None,
    layout: PrefixLayout,
    needed_only: bool = False,
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    # split once: the backward of a slice fills a whole tensor with zeros, that of a split does not
    queries, keys, values = (torch.split(x, layout.pieces, 2) for x in (query, key, value))
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}
    done: list[Tensor] = []
    for prefix, *responses in layout.lengths:
        p = len(done)
        if needed_only:  # of a prefix, only its last position
            q = queries[p][:, :, -1:]
            last = scaled_dot_product_attention(q, keys[p], values[p], **options)
            done.append(torch.cat([last.new_zeros(1, last.shape[1], prefix - 1, last.shape[3]), last], 2))
        else:
            done.append(
                scaled_dot_product_attention(queries[p], keys[p], values[p], is_causal=True, **options)
            )
        for i, response in enumerate(responses, p + 1):
            if not response:
                done.append(queries[i])
                continue
            seen_k, seen_v = torch.cat([keys[p], keys[i]], 2), torch.cat([values[p], values[i]], 2)
            mask = layout.mask(prefix, response, query)
            done.append(scaled_dot_product_attention(queries[i], seen_k, seen_v, attn_mask=mask, **options))
    return torch.cat([x.transpose(1, 2) for x in done], 1)


@functools.cache
def _kernel(
    device: torch.device, half: bool, head_dim: int, elsewhere: tuple[int, int] | None
) -> Kernel | None:
    there = device if elsewhere is None else torch.device("cuda")
    return kernel(branch(there, half, head_dim, elsewhere))


_ELSEWHERE: ContextVar[tuple[int, int] | None] = ContextVar("capability of a GPU elsewhere", default=None)


@contextmanager
def as_on_gpu(capability: tuple[int, int] | None) -> Iterator[None]:
    """Take the kernel that a GPU of this compute capability would, on tensors of no GPU; None: no change."""
    token = _ELSEWHERE.set(capability)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


def _varlen(
    call: Kernel, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, layout: PrefixLayout
) -> Tensor:
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # [S, heads, D]
    keys, values = (_repeat_prefixes(x, layout) for x in (key, value))
    cu_queries, cu_keys = layout.offsets(query.device)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    longest = max(layout.pieces), max(layout.key_lengths)
    result: Tensor = call(query.contiguous(), keys, values, cu_queries, cu_keys, *longest, scale)
    return result[None]


def _repeat_prefixes(x: Tensor, layout: PrefixLayout) -> Tensor:
    """[S, heads, D] -> the keys of every piece one after another; no index, so its backward is exact."""
    pieces = iter(torch.split(x, layout.pieces, 0))
    result = []
    for pair in layout.lengths:
        prefix = next(pieces)
        result.append(prefix)
        for _ in pair[1:]:
            result += [prefix, next(pieces)]
    return torch.cat(result)


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
