"""A GPU that is not there: tensors say that they are on cuda:0 and compute on the CPU.

    with fake_device() as gpu:
        model.to("cuda:0")
        loss(model, batch.to("cuda:0")).backward()
    assert len(gpu.syncs) <= 6

Inside, an operation on tensors of both devices raises, as on a GPU; everything for which the host would wait
for the device is in `gpu.syncs`; the attention kernel without padding checks what the real one asks for.
Devices belong to storages, so views have theirs for nothing, and autograd runs as on the CPU.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import modeling_utils

from uedpo.scoring import attention, varlen

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
ANY = "any"  # made inside of torch, which would make it where it is needed
aten = torch.ops.aten
WAITS = (
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim,
    aten.unique_consecutive, aten.bincount, aten.equal, aten.masked_scatter_backward,
)  # fmt: skip
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
# take a number that lies on the host, beside pointwise operations
TAKES_NUMBERS = (*INDEXED, aten.fill_, aten.masked_fill, aten.masked_fill_)
TORCH = str(Path(torch.__file__).parent)
ROOT = str(Path(varlen.__file__).parents[1])


class Sync(NamedTuple):
    """The host waits for the device.

    Attributes:
        what: "read" (device to host) or "copy" (host to device, blocking), and the operation.
        where: innermost line outside of torch.
        ours: innermost line of uedpo, "" where there is none.
        tower: whether the vision tower runs.
    """

    what: str
    where: str
    ours: str
    tower: bool


class Device:
    """What happened on the fake device."""

    def __init__(self):
        self.syncs: list[Sync] = []
        self.launches = 0
        self.kernels = 0  # calls of the attention kernel without padding
        self.quiet = 0

    @property
    def outside_tower(self):
        return [sync for sync in self.syncs if not sync.tower]

    def wait(self, what):
        if not self.quiet:
            self.syncs.append(Sync(what, *_lines()))

    @contextlib.contextmanager
    def looking(self):
        """The test itself reads the device."""
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1


def _lines():
    frame, where, ours, tower = sys._getframe(2), "", "", False
    while frame is not None:
        path = frame.f_code.co_filename
        line = f"{'/'.join(Path(path).parts[-2:])}:{frame.f_lineno}"
        if path.startswith(ROOT):
            ours = ours or line
        if not path.startswith((TORCH, __file__)) and path.endswith(".py"):
            where = where or line
        tower = tower or frame.f_code.co_name == "get_image_features"
        frame = frame.f_back
    return where, ours, tower


def tensors(*values):
    """All tensors in nested tuples, lists and dicts."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(*value)
        elif isinstance(value, dict):
            yield from tensors(*value.values())


def place(tensor):
    """The device that a tensor says it is on, or ANY."""
    return getattr(tensor.untyped_storage(), "place", CPU)


def put(value, where):
    for tensor in tensors(value):
        if not tensor.is_meta:
            tensor.untyped_storage().place = where


def on_gpu(tensor):
    return isinstance(tensor, torch.Tensor) and not tensor.is_meta and place(tensor) == CUDA


class Operations(TorchDispatchMode):
    """Every operation of torch, in forward and backward passes."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, func.overloadpacket
        given = [x for x in tensors(args, kwargs) if not x.is_meta]
        places = {place(x) for x in given}
        gpu = CUDA in places
        if gpu:
            self._check(func, packet, args, given)
        if gpu and self._waits(packet, args, kwargs):
            self.device.wait(f"read: {packet.__name__}")
        out = func(*args, **kwargs)
        where = CUDA if gpu else CPU if CPU in places else ANY
        if where != ANY:
            put([x for x in given if place(x) == ANY], where)
        known = {x.untyped_storage()._cdata for x in given}
        for made in tensors(out):
            if made.untyped_storage()._cdata not in known:
                put(made, where)
                self.device.launches += gpu
        return out

    def _check(self, func, packet, args, given):
        if packet is aten.copy_:
            if place(args[0]) != place(args[1]):
                to_gpu = place(args[0]) == CUDA
                free = to_gpu and len(args) > 2 and args[2] and _pinned(args[1])
                if not free:
                    self.device.wait("copy: copy_" if to_gpu else "read: copy_")
            return
        index = list(tensors(args[1])) if packet in INDEXED else []
        on_host = [x for x in given if place(x) == CPU]
        numbers = torch.Tag.pointwise in func.tags or packet in TAKES_NUMBERS
        for x in on_host:
            if any(x is i for i in index) and place(args[0]) == CUDA:
                self.device.wait("copy: index on the host")
            elif x.dim() or not numbers:
                shapes = [(tuple(y.shape), str(place(y))) for y in given]
                raise RuntimeError(f"{func}: tensors on two devices: {shapes} at {_lines()}")

    def _waits(self, packet, args, kwargs):
        if packet in INDEXED:
            masks = [index for index in tensors(args[1]) if index.dtype == torch.bool]
            fills = packet is not aten.index and args[2].numel() == 1 and place(args[2]) != CUDA
            return bool(masks) and not fills
        if packet is aten.repeat_interleave:
            return kwargs.get("output_size") is None
        return packet in WAITS


def _pinned(tensor):
    return getattr(tensor.untyped_storage(), "pinned", False)


def _property(name):
    return getattr(torch.Tensor, name).__get__


class Calls(TorchFunctionMode):
    """Every call of torch from Python: where tensors say they are, and where new ones go."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._get(func, args)
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            return self._move(name, args, kwargs)
        if name in ("numpy", "__array__", "__dlpack__") and on_gpu(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is torch.Tensor.tolist and on_gpu(args[0]):
            self.device.wait("read: tolist")
        if func is torch.Tensor.pin_memory:
            made = args[0].clone()
            put(made, CPU)
            made.untyped_storage().pinned = True
            return made
        if func is torch.Tensor.is_pinned:
            return _pinned(args[0])
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
            return self._from_host(func, args, kwargs)
        return self._call(func, args, kwargs)

    def _get(self, func, args):
        tensor = args[0]
        if not tensor.is_meta:
            if func == _property("device"):
                return CUDA if place(tensor) == CUDA else CPU
            if func == _property("is_cuda"):
                return place(tensor) == CUDA
            if func == _property("is_cpu"):
                return place(tensor) != CUDA
        return func(*args)

    def _call(self, func, args, kwargs):
        asked = kwargs.pop("device", None)
        if asked is not None and torch.device(asked).type == "meta":
            return func(*args, device="meta", **kwargs)
        out = func(*args, **kwargs)
        if asked is not None:
            put(out, torch.device(asked))
        elif (
            isinstance(out, torch.Tensor) and place(out) == ANY and next(tensors(args, kwargs), None) is None
        ):
            put(out, CPU)
        return out

    def _from_host(self, func, args, kwargs):
        asked = kwargs.pop("device", None)
        if func is torch.Tensor.new_tensor:
            asked = place(args[0]) if asked is None else asked
        data = args[-1]
        if func is torch.as_tensor and isinstance(data, torch.Tensor):
            return self._move("to", (data, asked or place(data)), kwargs)
        inside = [x for x in tensors(data) if on_gpu(x)]
        for _ in inside:
            self.device.wait(f"read: {func.__name__}")
        out = torch.tensor(data, **kwargs)
        target = torch.device(asked) if asked is not None else inside[0].device if inside else CPU
        if target.type == "cuda":
            self.device.wait(f"copy: {func.__name__}")
        put(out, _whole(target))
        return out

    def _move(self, name, args, kwargs):
        tensor, rest = args[0], list(args[1:])
        target, options, flags = None, {}, []
        if name in ("cpu", "cuda"):
            target, rest = torch.device(name), []
        for value in [*rest, kwargs.pop("device", None), kwargs.pop("other", None)]:
            if isinstance(value, torch.Tensor):
                target, options["dtype"] = place(value), value.dtype
            elif isinstance(value, torch.dtype):
                options["dtype"] = value
            elif isinstance(value, bool):
                flags.append(value)
            elif value is not None:
                target = torch.device(value)
        options |= {k: v for k, v in kwargs.items() if v is not None}
        blocking = not (options.pop("non_blocking", False) or (flags and flags[0]))
        if target is None or target.type == "meta" or _whole(target) == place(tensor):
            return torch.Tensor.to(tensor, **options, **({"device": target} if target == "meta" else {}))
        out = torch.Tensor.to(tensor, **{"dtype": tensor.dtype} | options, copy=True)
        if target.type != "cuda":
            self.device.wait(f"read: {name}")
        elif blocking or not _pinned(tensor):
            self.device.wait(f"copy: {name}")
        put(out, _whole(target))
        return out


def _whole(device):
    return CUDA if device.type == "cuda" else device


def checked_varlen(device):
    """torch's function of that name: its contract, then every piece by itself."""

    def varlen_attn(
        query, key, value, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
    ):
        assert query.dtype == key.dtype == value.dtype, (query.dtype, key.dtype, value.dtype)
        assert query.dtype in (torch.bfloat16, torch.float16), query.dtype
        assert {x.device for x in (query, key, value, cu_q, cu_k)} == {CUDA}
        assert all(x.is_contiguous() for x in (query, key, value, cu_q, cu_k))
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert isinstance(max_q, int)
        assert isinstance(max_k, int)
        assert query.shape[-1] == key.shape[-1] == value.shape[-1]
        assert query.shape[-1] % 8 == 0, f"heads of {query.shape[-1]}"
        assert window_size == (-1, 0)
        assert key.shape == value.shape
        assert enable_gqa or query.shape[1] == key.shape[1]
        with device.looking():
            q_ends, k_ends = cu_q.tolist(), cu_k.tolist()
        assert (q_ends[0], q_ends[-1], k_ends[0], k_ends[-1]) == (0, len(query), 0, len(key))
        pieces = list(zip(q_ends, q_ends[1:], k_ends, k_ends[1:], strict=False))
        assert max_q == max(b - a for a, b, _, _ in pieces)
        assert max_k == max(d - c for _, _, c, d in pieces)
        device.kernels += 1
        return torch.cat([_attend(query[a:b], key[c:d], value[c:d], scale) for a, b, c, d in pieces])

    return varlen_attn


def _attend(query, key, value, scale):
    """Causal, aligned at the bottom right; [n, heads, D] and [m, key heads, D] -> [n, heads, D]."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    logits = torch.einsum("qhd,khd->hqk", query.float(), key.float()) * scale
    later = torch.ones(len(query), len(key), dtype=torch.bool, device=query.device)
    weights = logits.masked_fill(later.triu(len(key) - len(query) + 1), -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value.float()).to(query.dtype)


class _Autocast(torch.autocast):
    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu", *args, **kwargs)


def _recomputing(calls):
    """transformers' checkpointing; backward passes leave `Calls`, what they compute again is within it."""
    real = modeling_utils.checkpoint

    def checkpointed(function, *args, **options):
        def within(*given, **more):
            with contextlib.nullcontext() if _get_current_function_mode_stack() else calls:
                return function(*given, **more)

        return real(within, *args, **options)

    return checkpointed


@contextlib.contextmanager
def fake_device():
    """Yields the `Device`; models and batches are moved to "cuda:0" inside."""
    device = Device()
    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        calls = Calls(device)
        patch.setattr(modeling_utils, "checkpoint", _recomputing(calls))
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
        patch.setattr(torch.cuda, "get_device_name", lambda *_: "no GPU")
        patch.setattr(torch, "autocast", _Autocast)
        patch.setattr(torch, "is_autocast_enabled", lambda *_: enabled("cpu"))
        patch.setattr(torch, "get_autocast_dtype", lambda *_: dtype("cpu"))
        patch.setattr(checkpoint, "_infer_device_type", lambda *_: "cpu")
        patch.setattr(varlen, "torch_function", lambda: checked_varlen(device))
        attention._kernel.cache_clear()
        stack.callback(attention._kernel.cache_clear)
        stack.enter_context(calls)
        stack.enter_context(Operations(device))
        yield device
