"""The corrupted image v': UE-DPO's diffusion (arXiv 2605.04874, section 3) and those of its peers.

Every corruption is a function of (seed, sample id, step) only: never of rank, batch order, or how
often a run was resumed. Policy and reference of a step therefore see the same v'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Interval, Le
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from uedpo.model.families import Family
from uedpo.types import InputError, PairBatch, PositiveFloat, PositiveInt

NUM_STEPS = 1000
Schedule = Literal["sigmoid", "linear", "scaled_linear"]
Step = Annotated[int, Interval(ge=0, le=NUM_STEPS - 1)]
Share = Annotated[float, Gt(0.0), Le(1.0)]
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


def _generator(sample_id: str, seed: int, step: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{step}/{sample_id}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def sample_noise(shape: Sequence[int], sample_id: str, *, seed: int, step: int) -> Tensor:
    """Standard normal noise of `shape`, fp32 on the CPU: a function of (seed, sample_id, step)."""
    return torch.randn(tuple(shape), generator=_generator(sample_id, seed, step))


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
        pixel_mask: [B, tiles, H, W], 0 on pixels that are padding and get no noise.

    Returns:
        Corrupted pixels, same shape, dtype and device.

    Raises:
        ValueError: k out of range, unknown schedule, or not one id per image.
    """
    if not 0 <= k < NUM_STEPS:
        raise ValueError(f"k={k}: must be in [0, {NUM_STEPS - 1}], the schedule's steps")
    _check_ids(pixel_values, sample_ids)
    noise = torch.zeros(pixel_values.shape)
    for row, sample_id in enumerate(sample_ids):
        size = pixel_values.shape[1] if lengths is None else lengths[row]
        shape = [size, *pixel_values.shape[2:]]
        noise[row, :size] = _patch_noise(shape, patch_shape, sample_id, seed, step)
    if pixel_mask is not None:
        noise *= pixel_mask.to(noise.device)[:, :, None]
    steps = torch.full((len(sample_ids),), k, device=pixel_values.device)
    clear = pixel_values.float()
    noisy: Tensor = noise_scheduler(schedule).add_noise(clear, noise.to(clear.device), steps)
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


def corrupt_batch(corruption: Corruption, batch: PairBatch, step: int) -> Tensor | None:
    """v' of a batch, [N, ...] in the layout of its pixels; None where it has no image."""
    if batch.pixel_values is None:
        return None
    return corruption(
        batch.pixel_values,
        batch.image_ids,
        step,
        batch.pixel_lengths,
        batch.patch_shape,
        batch.image_inputs.get("pixel_attention_mask"),
    )


def check_corruption(corruption: Corruption, model_type: str, family: Family) -> None:
    """Refuse a corruption that a model's layout of images cannot take, before training.

    Raises:
        InputError: with the reason and the remedy.
    """
    name = type(corruption).__name__
    if corruption.spatial and family.tiles:
        raise InputError(
            f"corruption={name}: model type {model_type!r} cuts images into tiles or patches, on which it "
            "would act one by one; use corruption=diffusion"
        )
    if isinstance(corruption, Blank) and family.zeros_are_padding:
        raise InputError(
            f"corruption={name}: model type {model_type!r} drops pictures of zeros as padding; "
            "use corruption=diffusion"
        )


class Corruption:
    """Base of all corruptions: called with pixels, sample ids and step, it corrupts each image.

    Args:
        seed: with the sample id and the step it decides everything random.
    """

    spatial = True  # needs images [C, H, W]

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(
        self,
        pixel_values: Tensor,
        sample_ids: Sequence[str],
        step: int,
        lengths: Sequence[int] | None = None,
        patch_shape: tuple[int, int, int, int] | None = None,
        pixel_mask: Tensor | None = None,
    ) -> Tensor:
        """Preprocessed pixels [B, ...] -> corrupted ones, same shape, dtype and device.

        Args:
            sample_ids: B ids.
            step: optimiser step.
            lengths: how much of the first axis of each image is no padding; None for all of it.
            patch_shape, pixel_mask: see `corrupt`.

        Raises:
            ValueError: not one id per image, or a layout this corruption cannot handle.
        """
        _check_ids(pixel_values, sample_ids)
        if self.spatial and pixel_values.dim() != 4:
            raise ValueError(
                f"pixels {tuple(pixel_values.shape)}: this corruption needs [B, C, H, W]; "
                "use corruption=diffusion or blank"
            )
        images = zip(pixel_values, sample_ids, strict=True)
        return torch.stack([self.one(image, _generator(i, self.seed, step)) for image, i in images])

    def one(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """One corrupted image, same shape and dtype."""
        raise NotImplementedError


class Diffusion(Corruption):
    """`corrupt` as a corruption: UE-DPO's and TPO's.

    Args:
        k: diffusion step, 0..999.
        schedule: "sigmoid" (VCD's), "linear", "scaled_linear".
        seed: of the noise.
    """

    spatial = False

    def __init__(self, k: Step = 500, schedule: Schedule = "sigmoid", seed: int = 0) -> None:
        if not 0 <= k < NUM_STEPS:
            raise ValueError(f"k={k}: must be in [0, {NUM_STEPS - 1}], the schedule's steps")
        noise_scheduler(schedule)
        super().__init__(seed)
        self.k, self.schedule = k, schedule

    def __call__(
        self,
        pixel_values: Tensor,
        sample_ids: Sequence[str],
        step: int,
        lengths: Sequence[int] | None = None,
        patch_shape: tuple[int, int, int, int] | None = None,
        pixel_mask: Tensor | None = None,
    ) -> Tensor:
        """As in `Corruption`; any layout, and padding gets no noise."""
        options: dict[str, Any] = {"k": self.k, "schedule": self.schedule, "seed": self.seed}
        layout: dict[str, Any] = {"patch_shape": patch_shape, "pixel_mask": pixel_mask}
        return corrupt(pixel_values, sample_ids, step=step, lengths=lengths, **layout, **options)


class Blank(Corruption):
    """All pixels 0 after preprocessing: the "no image" of V-DPO."""

    spatial = False

    def one(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(image)


class Crop(Corruption):
    """A random part of 1 to 20 % of the area, stretched to the whole: mDPO's, on images [C, H, W].

    Args:
        least, most: share of the area kept, drawn uniformly between them.
        seed: of the draw.
    """

    def __init__(self, least: Share = 0.01, most: Share = 0.2, seed: int = 0) -> None:
        if not 0 < least <= most <= 1:
            raise ValueError(f"least={least}, most={most}: must be 0 < least <= most <= 1")
        super().__init__(seed)
        self.least, self.most = least, most

    def one(self, image: Tensor, generator: torch.Generator) -> Tensor:
        height, width = image.shape[1:]
        area, top, left = torch.rand(3, generator=generator).tolist()
        side = (self.least + (self.most - self.least) * area) ** 0.5
        h, w = max(1, round(side * height)), max(1, round(side * width))
        y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
        part = image[None, :, y : y + h, x : x + w].float()
        whole = interpolate(part, (height, width), mode="bilinear", align_corners=False)
        return whole[0].to(image.dtype)


class Mask(Corruption):
    """A random share of square blocks set to the image's mean: OPA-DPO's, on images [C, H, W].

    Args:
        share: of the blocks; at least one, so an image never stays as it was.
        size: side of a block in pixels; 1 masks single pixels.
        seed: of the draw.
    """

    def __init__(self, share: Share = 0.3, size: PositiveInt = 1, seed: int = 0) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: must be in (0, 1]")
        super().__init__(seed)
        self.share, self.size = share, size

    def one(self, image: Tensor, generator: torch.Generator) -> Tensor:
        height, width = image.shape[1:]
        rows, columns = -(-height // self.size), -(-width // self.size)
        order = torch.rand(rows * columns, generator=generator).argsort()
        hidden = torch.zeros(rows * columns, dtype=torch.bool)
        hidden[order[: max(1, round(self.share * len(order)))]] = True
        blocks = hidden.reshape(rows, columns).repeat_interleave(self.size, 0)
        cells = blocks.repeat_interleave(self.size, 1)[:height, :width].to(image.device)
        return torch.where(cells, image.float().mean().to(image.dtype), image)


class Blur(Corruption):
    """Gaussian blur, the same for every sample, on images [C, H, W].

    Args:
        sigma: standard deviation in pixels.
    """

    def __init__(self, sigma: PositiveFloat = 4.0, seed: int = 0) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma={sigma}: must be greater than 0")
        super().__init__(seed)
        self.sigma = sigma

    def one(self, image: Tensor, generator: torch.Generator) -> Tensor:
        height, width = image.shape[1:]
        radius = max(1, min(round(3 * self.sigma), height - 1, width - 1))
        at = torch.arange(-radius, radius + 1, device=image.device, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (at / self.sigma) ** 2)
        kernel = kernel / kernel.sum()
        flat = image.float()[:, None]
        flat = conv2d(pad(flat, (radius, radius, 0, 0), mode="reflect"), kernel[None, None, None])
        flat = conv2d(pad(flat, (0, 0, radius, radius), mode="reflect"), kernel[None, None, :, None])
        return flat[:, 0].to(image.dtype)


def _check_ids(pixel_values: Tensor, sample_ids: Sequence[str]) -> None:
    if len(sample_ids) != len(pixel_values):
        raise ValueError(f"{len(sample_ids)} sample ids for {len(pixel_values)} images")
