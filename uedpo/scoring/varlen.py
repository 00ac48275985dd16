"""A kernel for attention without padding, whichever the installed packages offer, or none.

torch has one since 2.10, with other options in every version; flash-attn has one. Both need a GPU of compute
capability 8.0, half precision, and heads of a multiple of 8 up to 256 numbers. Elsewhere each piece of a row
attends by itself ("segments"): the same numbers, slower on a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

SEGMENTS = "segments"
HALF = (torch.bfloat16, torch.float16)
CAPABILITY = (8, 0)

# (query [S, heads, D], key, value [S', key heads, D], offsets of both, longest of both, scale) -> as the
# query; causal, aligned at the bottom right: a response sees all of its prefix
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int, float], Tensor]


def branch(device: torch.device, half: bool, head_dim: int, capability: tuple[int, int] | None = None) -> str:
    """Which attention runs: "torch varlen_attn", "flash-attn", or "segments" with the reason.

    Args:
        half: whether matrix products run in bfloat16 or float16.
        head_dim: numbers of a head.
        capability: of a GPU that is not here; None asks the device.
    """
    if device.type != "cuda":
        return f"{SEGMENTS} (no GPU)"
    if (capability or torch.cuda.get_device_capability(device)) < CAPABILITY:
        return f"{SEGMENTS} (the GPU has no compute capability 8.0)"
    if not half:
        return f"{SEGMENTS} (fp32; trainer.precision=bf16-mixed is faster)"
    if head_dim % 8 or head_dim > 256:
        return f"{SEGMENTS} (heads of {head_dim})"
    if torch_function() is not None:
        return "torch varlen_attn"
    if find_spec("flash_attn") is not None:
        return "flash-attn"
    return f"{SEGMENTS} (torch {torch.__version__} has no varlen_attn; upgrade it, or install flash-attn)"


def kernel(name: str) -> Kernel | None:
    """The kernel of a `branch`; None for segments."""
    if name == "torch varlen_attn":
        return of_torch(torch_function())
    if name == "flash-attn":
        from flash_attn import flash_attn_varlen_func

        def call(
            q: Tensor, k: Tensor, v: Tensor, cq: Tensor, ck: Tensor, mq: int, mk: int, s: float
        ) -> Tensor:
            made: Tensor = flash_attn_varlen_func(q, k, v, cq, ck, mq, mk, softmax_scale=s, causal=True)
            return made

        return call
    return None


def torch_function() -> Any:
    """torch's own function, None where it has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def of_torch(function: Any) -> Kernel:
    """The kernel that calls torch's `function` with the options that this version of it takes."""
    taken = inspect.signature(function).parameters

    def call(q: Tensor, k: Tensor, v: Tensor, cq: Tensor, ck: Tensor, mq: int, mk: int, s: float) -> Tensor:
        options: dict[str, Any] = {}
        if "window_size" in taken:
            options["window_size"] = (-1, 0)
        else:
            options["is_causal"] = True
        if "scale" in taken:
            options["scale"] = s
        else:
            q = q * (s * q.shape[-1] ** 0.5)  # its own scale is 1 / sqrt(D)
        grouped = q.shape[1] // k.shape[1]
        if grouped > 1 and "enable_gqa" in taken:
            options["enable_gqa"] = True
        elif grouped > 1:
            k, v = (x.repeat_interleave(grouped, 1) for x in (k, v))
        made: Tensor = function(q, k, v, cq, ck, mq, mk, **options)
        return made

    return call


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products: under autocast not that of `x`, which may come from an fp32 rotation."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
