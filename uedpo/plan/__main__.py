"""Memory, FLOPs and time of a run before it starts: `python -m uedpo.plan [+experiment=...] [key=value ...]`.

Runs one training step of the configuration on tensors without storage, which costs no GPU and no weights, and
adds up what is alive. Keys are those of `uedpo.run`, and
  device=NAME          h100, a100_80, a100_40, rtx4090, cpu: its memory and peak speed
  device_gb=N          memory of a device, 10^9 bytes
  device_tflops=N      peak speed of a device, 10^12 FLOP/s
  mfu=0.4              share of the peak speed that is reached
  rows=64              rows of the training data that are looked at
  prompt_tokens=N response_tokens=N image_size=WxH (or none)   where the data cannot be read here
Exit code 0: done; 2: bad configuration or input.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from omegaconf import DictConfig

from uedpo.config.command_line import answer, compose, split
from uedpo.errors import stop_on
from uedpo.plan.devices import device_of
from uedpo.runtime.hub import check_present

LENGTHS = ("prompt_tokens", "response_tokens", "image_size")
OWN = ("device", "device_gb", "device_tflops", "mfu", "rows", *LENGTHS)


class Own(NamedTuple):
    """What the command line says beside the configuration, checked."""

    device: str
    device_gb: float | None
    device_tflops: float | None
    mfu: float
    rows: int
    prompt_tokens: int | None
    response_tokens: int | None
    image_size: tuple[int, int] | None


def main() -> int:
    """Exit code 0, or 2 with one line for what cannot be used."""
    return answer(__doc__, _planned)


def _planned(arguments: list[str]) -> str:
    given, overrides = split(arguments, OWN)
    own = checked(given)
    return "\n".join(plan(compose(overrides), own))


def checked(given: dict[str, str]) -> Own:
    """Numbers from texts.

    Raises:
        ConfigError: naming all problems.
    """
    problems: list[str] = []

    def number(key: str, kind: Callable[[str], Any], fallback: Any, most: float = math.inf) -> Any:
        if key not in given:
            return fallback
        try:
            value = kind(given[key])
        except ValueError:
            value = math.nan
        if not 0 < value <= most or not math.isfinite(value):
            what = "a whole number" if kind is int else "a number"
            limit = "" if math.isinf(most) else f" and <= {most:g}"
            problems.append(f"{key}={given[key][:50]}: must be {what} > 0{limit}")
        return value

    size = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", given.get("image_size", ""))
    if "image_size" in given and not size and given["image_size"] != "none":
        problems.append(f"image_size={given['image_size'][:50]}: must be WIDTHxHEIGHT in pixels, or none")
    missing = [key for key in LENGTHS if key not in given]
    if 0 < len(missing) < len(LENGTHS):
        problems.append(f"{', '.join(missing)}: missing; give {', '.join(LENGTHS)} together, or none of them")
    own = Own(
        given.get("device", "cpu"),
        number("device_gb", float, None),
        number("device_tflops", float, None),
        number("mfu", float, 0.4, most=1),
        number("rows", int, 64),
        number("prompt_tokens", int, None, most=10**6),
        number("response_tokens", int, None, most=10**6),
        (int(size[1]), int(size[2])) if size else None,
    )
    stop_on(problems)
    device_of(own.device, own.device_gb, own.device_tflops)
    return own


def plan(cfg: DictConfig, own: Own) -> list[str]:
    """The lines of the table.

    Raises:
        InputError: model or data cannot be used, or not be read here.
    """
    check_present(cfg.model.get("path"), cfg.model.get("revision"))
    from uedpo.plan.advice import advice
    from uedpo.plan.count import Setting, setting_of
    from uedpo.plan.table import flops_lines, head_lines, memory_lines
    from uedpo.runtime.quiet import quiet

    quiet()
    setting: Setting = setting_of(cfg, own.rows, own.prompt_tokens, own.response_tokens, own.image_size)
    device = device_of(own.device, own.device_gb, own.device_tflops)
    counted, pair = setting.count(), setting.count(typical=True)
    lines = [*head_lines(setting, own.device, device), *memory_lines(setting, counted, device)]
    if device.gb is not None and counted.peak > device.gb * 1e9:
        lines += advice(setting, counted, device)
    return [*lines, *flops_lines(setting, pair, device, own.mfu)]


if __name__ == "__main__":
    sys.exit(main())
