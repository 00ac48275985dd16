"""Memory and peak speed of devices."""

from __future__ import annotations

from typing import NamedTuple

from uedpo.errors import ConfigError


class Device(NamedTuple):
    """Memory in GB (10^9 bytes), dense peak in TFLOP/s with bf16 and fp32 inputs; None where unknown."""

    gb: float | None
    bf16: float | None
    fp32: float | None


# Speed: dense (half of what data sheets give with sparsity), fp32 outside of tensor cores. From NVIDIA's H100
# Tensor Core GPU data sheet (SXM), A100 Tensor Core GPU data sheet (SXM) and Ada GPU Architecture whitepaper,
# appendix A (GeForce RTX 4090, bf16 with fp32 accumulation).
# Memory: not what is sold (80, 40, 24 GiB) but what CUDA lets a program have in all, as torch's out-of-memory
# messages on these devices say: 79.1, 79.2, 39.5, 23.6 GiB. A CPU's depend on the machine: give them.
DEVICES = {
    "h100": Device(84.9, 989.0, 67.0),
    "a100_80": Device(85.0, 312.0, 19.5),
    "a100_40": Device(42.4, 312.0, 19.5),
    "rtx4090": Device(25.4, 165.0, 82.6),
    "cpu": Device(None, None, None),
}


def device_of(name: str, gb: float | None, tflops: float | None) -> Device:
    """The named device, with memory and speed as given.

    Raises:
        ConfigError: no such device.
    """
    if name not in DEVICES:
        raise ConfigError(
            f"device={name[:50]}: unknown; must be one of {', '.join(DEVICES)}, or give device_gb= and "
            "device_tflops="
        )
    known = DEVICES[name]
    speed = (known.bf16, known.fp32) if tflops is None else (tflops, tflops)
    return Device(known.gb if gb is None else gb, *speed)
