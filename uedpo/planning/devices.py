"""Memory and peak speed of devices."""

from __future__ import annotations

from typing import NamedTuple

from uedpo.errors import ConfigError


class Device(NamedTuple):
    """Memory in GB (10^9 bytes), dense peak in TFLOP/s with bf16 and fp32 inputs; None where unknown."""

    gb: float | None
    bf16: float | None
    fp32: float | None


# Vendors' data sheets, dense (without sparsity), fp32 outside of tensor cores: NVIDIA H100 SXM, A100 (40 and
# 80 GB SXM), GeForce RTX 4090 (Ada architecture whitepaper, bf16 with fp32 accumulation). GB as sold, of 2^30
# bytes, turned into 10^9. A CPU's depend on the machine: give them.
DEVICES = {
    "h100": Device(85.9, 989.0, 67.0),
    "a100_80": Device(85.9, 312.0, 19.5),
    "a100_40": Device(42.9, 312.0, 19.5),
    "rtx4090": Device(25.8, 165.0, 82.6),
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
