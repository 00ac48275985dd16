"""One step under torch's profiler: the kernels that take longest, and how long the GPU has nothing to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

SHOWN = 10


def profiled(step: Callable[[], float], pairs: int, seconds: float, device: str) -> Iterator[dict[str, Any]]:
    """A row for the step and one for each of its ten largest kernels (on a CPU: operations).

    Args:
        seconds: of the step without the profiler, which slows the host down.
    """
    gpu = device == "cuda"
    activity = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as recorded:
        step()
        if gpu:
            torch.cuda.synchronize()
    kind = DeviceType.CUDA if gpu else DeviceType.CPU
    spans = [
        (e.name, e.time_range.start, e.time_range.end) for e in recorded.events() if e.device_type == kind
    ]
    busy = covered((start, end) for _, start, end in spans) / 1e6
    taken: Counter[str] = Counter()
    for name, start, end in spans:
        taken[name] += end - start
    yield {
        "what": f"UE-DPO, B={pairs}, checkpointing off",
        "kernels": len(spans),
        "step_s": seconds,
        "busy_s": busy,
        "waits": max(0.0, 1 - busy / seconds),
    }
    for name, microseconds in taken.most_common(SHOWN):
        yield {
            "what": f"B={pairs}: {name[:100]}",
            "kernel_s": microseconds / 1e6,
            "share": microseconds / 1e6 / busy,
        }


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
