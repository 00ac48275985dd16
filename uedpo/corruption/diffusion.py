"""UE-DPO's corrupted image v' by diffusion noise (arXiv 2605.04874, section 3), which TPO and VCD share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from uedpo.corruption.base import Corruption, check_ids, generator_of
from uedpo.types import Normalisation
from uedpo.types.layout import to_device

NUM_STEPS = 1000
Schedule = Literal["sigmoid", "linear", "scaled_linear"]
Space = Literal["normalised", "pixel"]
Step = Annotated[int, Interval(ge=0, le=NUM_STEPS - 1)]
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


@cache
def shares_kept(schedule: Schedule) -> list[float]:
    """abar of every step as numbers of the host; the scheduler's own follow the images to their device."""
    shares: list[float] = noise_scheduler.__wrapped__(schedule).alphas_cumprod.tolist()
    return shares


def sample_noise(shape: Sequence[int], sample_id: str, *, seed: int, step: int) -> Tensor:
    """Standard normal noise of `shape`, fp32 on the CPU: a function of (seed, sample_id, step)."""
    return torch.randn(tuple(shape), generator=generator_of(sample_id, seed, step))


def corrupt(
    pixel_values: Tensor,
    sample_ids: Sequence[str],
    *,
    k: int = 500,
    seed: int = 0,
    step: int = 0,
    schedule: Schedule = "sigmoid",
    lengths: Sequence[int] | None = None,
    patch_shape: tuple[int, int, int, int] | None = None,
    pixel_mask: Tensor | None = None,
    normalisation: Normalisation | None = None,
) -> Tensor:
    """Diffuse preprocessed pixels to step k: sqrt(abar_k) v + sqrt(1 - abar_k) eps.

    Args:
        pixel_values: normalised pixels [B, ...], one entry per sample id.
        sample_ids: B ids.
        k: diffusion step, 0-based, in 0..999.
        seed, step: with the id they decide the noise.
        schedule: "sigmoid" (VCD, default), "linear" or "scaled_linear".
        lengths: how much of the first axis of each image is no padding; padding gets no noise, and
            the noise does not depend on it.
        patch_shape: see `PairBatch`; the copies of a frame get the same noise, or the model, which sums
            over them, would see less of it.
        pixel_mask: [B, tiles, H, W] on the CPU, 0 on pixels that are padding and get no noise.
        normalisation: mean and standard deviation of each channel. Given, it is the pixels in [0, 1] that are
            diffused (and not clipped), and normalised afterwards; None diffuses the normalised ones.

    Returns:
        Corrupted pixels, same shape, dtype and device.

    Raises:
        ValueError: k out of range, unknown schedule, or not one id per image.
    """
    if not 0 <= k < NUM_STEPS:
        raise ValueError(f"k={k}: must be in [0, {NUM_STEPS - 1}], the schedule's steps")
    check_ids(pixel_values, sample_ids)
    noise = torch.zeros(pixel_values.shape)
    for row, sample_id in enumerate(sample_ids):
        size = pixel_values.shape[1] if lengths is None else lengths[row]
        shape = [size, *pixel_values.shape[2:]]
        noise[row, :size] = _patch_noise(shape, patch_shape, sample_id, seed, step)
        if normalisation is not None:
            kept = shares_kept(schedule)[k]
            noise[row, :size] = _before_normalising(noise[row, :size], normalisation, patch_shape, kept)
    if pixel_mask is not None:
        noise *= pixel_mask[:, :, None]
    steps = torch.full((len(sample_ids),), k, device=pixel_values.device)
    clear = pixel_values.float()
    noisy: Tensor = noise_scheduler(schedule).add_noise(clear, to_device(noise, clear.device), steps)
    return noisy.to(pixel_values.dtype)


def _patch_noise(
    shape: list[int], patch_shape: tuple[int, int, int, int] | None, sample_id: str, seed: int, step: int
) -> Tensor:
    """Noise of `shape`; with a patch shape it is [patches, D], and one draw serves all copies of a frame."""
    if patch_shape is None:
        return sample_noise(shape, sample_id, seed=seed, step=step)
    channels, copies, height, width = patch_shape
    one = sample_noise((shape[0], channels, 1, height, width), sample_id, seed=seed, step=step)
    return one.expand(-1, -1, copies, -1, -1).reshape(shape)


def _before_normalising(
    noise: Tensor, normalisation: Normalisation, patch_shape: tuple[int, int, int, int] | None, kept: float
) -> Tensor:
    """What normalised pixels get in the place of `noise`, so that those in [0, 1] have got it.

    With x = s v + m: (sqrt(a) x + sqrt(1 - a) eps - m) / s = sqrt(a) v + sqrt(1 - a) eps', where
    eps' = (eps - m (1 - sqrt(a)) / sqrt(1 - a)) / s.
    """
    mean, std = (torch.tensor(values) for values in normalisation)
    if patch_shape is None:
        mean, std = mean[:, None, None], std[:, None, None]
    else:
        mean, std = (x[:, None, None, None].expand(patch_shape).flatten() for x in (mean, std))
    shift = (1 - kept**0.5) / (1 - kept) ** 0.5
    made: Tensor = (noise - mean * shift) / std
    return made


class Diffusion(Corruption):
    """`corrupt` as a corruption: UE-DPO's and TPO's.

    Args:
        k: diffusion step, 0..999.
        schedule: "sigmoid" (VCD's), "linear", "scaled_linear".
        seed: of the noise.
        space: "normalised" pixels get the noise, or those in [0, 1] before they are normalised ("pixel").
    """

    spatial = False

    def __init__(
        self, k: Step = 500, schedule: Schedule = "sigmoid", seed: int = 0, space: Space = "normalised"
    ) -> None:
        if not 0 <= k < NUM_STEPS:
            raise ValueError(f"k={k}: must be in [0, {NUM_STEPS - 1}], the schedule's steps")
        noise_scheduler(schedule)
        super().__init__(seed)
        self.k, self.schedule = k, schedule
        self.before_normalising = space == "pixel"

    def __call__(
        self,
        pixel_values: Tensor,
        sample_ids: Sequence[str],
        step: int,
        lengths: Sequence[int] | None = None,
        patch_shape: tuple[int, int, int, int] | None = None,
        pixel_mask: Tensor | None = None,
        normalisation: Normalisation | None = None,
    ) -> Tensor:
        """As in `Corruption`; any layout, and padding gets no noise."""
        if self.before_normalising and normalisation is None:
            raise ValueError("corruption.space=pixel needs the normalisation of the pixels")
        options: dict[str, Any] = {"k": self.k, "schedule": self.schedule, "seed": self.seed}
        layout: dict[str, Any] = {"patch_shape": patch_shape, "pixel_mask": pixel_mask}
        layout["normalisation"] = normalisation if self.before_normalising else None
        return corrupt(pixel_values, sample_ids, step=step, lengths=lengths, **layout, **options)
