"""The corrupted image v' of UE-DPO (arXiv 2605.04874, section 3; schedule of VCD and TPO).

v'(k) = sqrt(abar_k) v + sqrt(1 - abar_k) eps, with eps a function of (seed, sample id, step) only:
never of rank, batch order, or how often a run was resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

NUM_STEPS = 1000
Schedule = Literal["sigmoid", "linear", "scaled_linear"]
# VCD's sigmoid; the DDPM paper's linear; Stable Diffusion's scaled linear
_BETAS = {"sigmoid": (1e-5, 5e-3), "linear": (1e-4, 2e-2), "scaled_linear": (8.5e-4, 1.2e-2)}


@cache
def noise_scheduler(schedule: Schedule = "sigmoid") -> Any:
    """diffusers' DDPMScheduler over 1000 steps; "sigmoid" has abar_500 = 0.7448.

    Raises:
        ValueError: unknown schedule.
    """
    if schedule not in _BETAS:
        raise ValueError(f"schedule={schedule!r}: must be one of {', '.join(_BETAS)}")
    from diffusers import DDPMScheduler  # imports for seconds; only runs that probe pay

    start, end = _BETAS[schedule]
    scheduler: Any = DDPMScheduler
    return scheduler(num_train_timesteps=NUM_STEPS, beta_schedule=schedule, beta_start=start, beta_end=end)


def sample_noise(shape: Sequence[int], sample_id: str, *, seed: int, step: int) -> Tensor:
    """Standard normal noise of `shape`, fp32 on the CPU: a function of (seed, sample_id, step)."""
    digest = hashlib.blake2b(f"{seed}/{step}/{sample_id}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(tuple(shape), generator=generator)


def corrupt(
    pixel_values: Tensor,
    sample_ids: Sequence[str],
    *,
    k: int = 500,
    seed: int = 0,
    step: int = 0,
    schedule: Schedule = "sigmoid",
) -> Tensor:
    """Diffuse preprocessed pixels to step k.

    Args:
        pixel_values: normalised pixels [B, ...], one entry per sample id.
        sample_ids: B ids.
        k: diffusion step, 0-based, in 0..999.
        seed, step: with the id they decide the noise.
        schedule: "sigmoid" (VCD, default), "linear" or "scaled_linear".

    Returns:
        Corrupted pixels, same shape, dtype and device.

    Raises:
        ValueError: k out of range, unknown schedule, or not one id per image.
    """
    if not 0 <= k < NUM_STEPS:
        raise ValueError(f"k={k}: must be in [0, {NUM_STEPS - 1}], the schedule's steps")
    if len(sample_ids) != len(pixel_values):
        raise ValueError(f"{len(sample_ids)} sample ids for {len(pixel_values)} images")
    noise = torch.stack([sample_noise(pixel_values.shape[1:], i, seed=seed, step=step) for i in sample_ids])
    steps = torch.full((len(sample_ids),), k, device=pixel_values.device)
    clear = pixel_values.float()
    noisy: Tensor = noise_scheduler(schedule).add_noise(clear, noise.to(clear.device), steps)
    return noisy.to(pixel_values.dtype)
