"""Live bytes and FLOPs, counted operation by operation."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
_INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class Ledger(TorchDispatchMode):
    """Adds up the storages that are alive, and the FLOPs of matrix products, by what they are for.

    Every storage counts once, from the operation that makes it to the moment nothing refers to it; views
    cost nothing. What a kernel allocates and frees inside of itself is not seen.

    Attributes:
        live, peak: category -> bytes, now and at the moment of the highest sum.
        peak_phase: what ran then.
        flops: phase -> floating-point operations, a multiply-add as two.
        phase_peaks: phase -> highest sum of bytes while it ran.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: Counter[str] = Counter()
        self.peak: dict[str, int] = {}
        self.peak_phase = ""
        self.flops: Counter[str] = Counter()
        self.phase_peaks: Counter[str] = Counter()
        self.total = 0
        self._phases = ["load"]
        self._known: dict[int, tuple[int, str]] = {}  # storage -> bytes, category
        self._registry = dict(flop_registry)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is allocated and computed inside belongs to `name`; the innermost phase counts."""
        self._phases.append(name)
        try:
            yield
        finally:
            self._phases.pop()

    @property
    def current(self) -> str:
        return self._phases[-1]

    def start(self) -> None:
        """Forget peaks and FLOPs; what is alive stays."""
        self.flops.clear()
        self.phase_peaks.clear()
        self.peak, self.peak_phase = dict(self.live), self._phases[-1]

    def tag(self, tensors: Any, category: str) -> None:
        """Count the storages of `tensors` as `category` from now on."""
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                self._add(tensor)
                key = id(tensor.untyped_storage())
                size, before = self._known[key]
                self.live[before] -= size
                self.live[category] += size
                self._known[key] = size, category

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return _scalar(args[0])
        if func is aten.masked_select.default and _any_fake(args):
            func, args = aten.index.Tensor, (args[0], [args[1]])
        if func in _INDEXED:
            args = (args[0], _positions(args[1]), *args[2:])
        out = func(*args, **kwargs)
        counted = _flops(func, args, kwargs, out, self._registry)
        if counted:
            self.flops[self._phases[-1]] += counted
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known:
            return
        size, phase = storage.nbytes(), self._phases[-1]
        self._known[key] = size, phase
        weakref.finalize(storage, self._drop, key).atexit = False
        self.live[phase] += size
        self.total += size
        self.phase_peaks[phase] = max(self.phase_peaks[phase], self.total)
        if self.total > sum(self.peak.values()):
            self.peak, self.peak_phase = dict(self.live), phase

    def _drop(self, key: int) -> None:
        size, category = self._known.pop(key)
        self.live[category] -= size
        self.total -= size


def _any_fake(args: Any) -> bool:
    return any(isinstance(x, FakeTensor) for x in tree_leaves(args))


def _scalar(tensor: Tensor) -> Any:
    """The value that a number nobody computed is taken to have: true, 1."""
    return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 1


def _positions(indices: Any) -> list[Any]:
    """Boolean masks as positions; a mask that nobody computed keeps everything."""
    made: list[Any] = []
    for index in indices:
        if index is None or index.dtype != torch.bool:
            made.append(index)
        elif isinstance(index, FakeTensor):
            made += torch.ones(index.shape, dtype=torch.bool).nonzero(as_tuple=True)
        else:
            made += index.nonzero(as_tuple=True)
    return made


def _flops(func: Any, args: Any, kwargs: Any, out: Any, registry: Any) -> int:
    packet = func._overloadpacket
    if packet is aten._scaled_dot_product_flash_attention_for_cpu:
        return int(sdpa_flop_count(*(x.shape for x in args[:3])))
    if packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return int(sdpa_backward_flop_count(*(x.shape for x in args[:4])))
    if str(packet).startswith("torch_attn._varlen_attn"):
        return _varlen_flops(args, backward="backward" in str(packet))
    formula: Callable[..., int] | None = registry.get(packet)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def _varlen_flops(args: Any, backward: bool) -> int:
    """Of attention without padding, piece by piece; what is skipped behind the diagonal counts."""
    query, ends = (args[1], args[6:8]) if backward else (args[0], args[3:5])
    _, heads, size = query.shape
    total = 0
    for n, m in zip(*(e.diff().tolist() for e in ends), strict=True):
        q, k = (1, heads, n, size), (1, heads, m, size)
        total += int(sdpa_backward_flop_count(q, q, k, k) if backward else sdpa_flop_count(q, k, k))
    return total
