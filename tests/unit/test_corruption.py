import dataclasses

import pytest
import torch

from uedpo.corruption.base import corrupt_batch
from uedpo.corruption.diffusion import Diffusion, corrupt, noise_scheduler, sample_noise
from uedpo.corruption.spatial import Blank, Blur, Crop, Mask
from uedpo.data.collate import PairCollator
from uedpo.errors import InputError
from uedpo.microworld.data import MicroWorldPairs
from uedpo.model.hf import HFModel

KINDS = (Diffusion, Crop, Mask, lambda seed=0: Mask(size=4, seed=seed), Blank, Blur)


def test_sigmoid_schedule_is_vcds():
    steps = torch.linspace(-6, 6, 1000, dtype=torch.float64)
    betas = torch.sigmoid(steps) * (5e-3 - 1e-5) + 1e-5
    ours = noise_scheduler("sigmoid")
    torch.testing.assert_close(ours.betas.double(), betas, atol=1e-8, rtol=1e-4)
    assert ours.alphas_cumprod[500].item() == pytest.approx(0.7448, abs=5e-5)


def test_corrupt_is_the_equation():
    pixels = torch.randn(2, 3, 8, 8)
    abar = noise_scheduler("sigmoid").alphas_cumprod[500]
    noise = torch.stack([sample_noise((3, 8, 8), i, seed=4, step=7) for i in ("a", "b")])
    want = abar.sqrt() * pixels + (1 - abar).sqrt() * noise
    torch.testing.assert_close(corrupt(pixels, ["a", "b"], k=500, seed=4, step=7), want)


def test_noise_depends_on_seed_id_and_step_only():
    pixels = torch.randn(2, 3, 8, 8)
    both = corrupt(pixels, ["a", "b"], seed=1, step=2)
    swapped = corrupt(pixels.flip(0), ["b", "a"], seed=1, step=2)
    assert torch.equal(both, swapped.flip(0))
    first = sample_noise((4,), "a", seed=1, step=2)
    torch.manual_seed(123)
    assert torch.equal(first, sample_noise((4,), "a", seed=1, step=2))
    for other in ({"seed": 2, "step": 2}, {"seed": 1, "step": 3}):
        assert not torch.equal(first, sample_noise((4,), "a", **other))
    assert not torch.equal(first, sample_noise((4,), "b", seed=1, step=2))


def test_copies_of_a_frame_share_their_noise():
    """Or a model that sums over T copies of a frame would see 1 / sqrt(T) of the noise."""
    channels, copies, side = 3, 2, 4
    pixels = torch.zeros(1, 6, channels * copies * side * side)
    noisy = corrupt(pixels, ["a"], k=900, lengths=[5], patch_shape=(channels, copies, side, side))
    frames = noisy[0].unflatten(1, (channels, copies, side * side))
    assert torch.equal(frames[:, :, 0], frames[:, :, 1])
    assert (frames[5] == 0).all()
    one = sample_noise((5, channels, 1, side, side), "a", seed=0, step=0).flatten(1)
    abar = noise_scheduler("sigmoid").alphas_cumprod[900]
    torch.testing.assert_close(frames[:5, :, 0].flatten(1), (1 - abar).sqrt() * one)


def test_masked_pixels_stay_as_they_are():
    pixels, mask = torch.randn(2, 2, 3, 4, 4), torch.zeros(2, 2, 4, 4, dtype=torch.long)
    mask[0, 0, :2] = 1
    noisy = corrupt(pixels, ["a", "b"], k=900, pixel_mask=mask)
    clear = corrupt(torch.zeros_like(pixels), ["a", "b"], k=900)
    abar = noise_scheduler("sigmoid").alphas_cumprod[900]
    assert ((noisy != pixels * abar.sqrt())[0, 0, :, :2]).all()
    torch.testing.assert_close(noisy, pixels * abar.sqrt() + clear * mask[:, :, None])


def test_corrupt_refuses_bad_input():
    with pytest.raises(ValueError, match="k=1000"):
        corrupt(torch.zeros(1, 3), ["a"], k=1000)
    with pytest.raises(ValueError, match="schedule"):
        corrupt(torch.zeros(1, 3), ["a"], schedule="cosine")
    with pytest.raises(ValueError, match="1 sample ids for 2"):
        corrupt(torch.zeros(2, 3), ["a"])


@pytest.mark.parametrize("kind", KINDS)
def test_corruptions_are_functions_of_seed_id_and_step(kind):
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 16, 12).bfloat16()
    first = kind(seed=1)(pixels, ["a", "b"], 2)
    assert first.shape == pixels.shape
    assert first.dtype == pixels.dtype
    assert not torch.equal(first, pixels)
    torch.manual_seed(9)
    assert torch.equal(first, kind(seed=1)(pixels.flip(0), ["b", "a"], 2).flip(0))
    if kind not in (Blank, Blur):
        same = torch.stack([pixels[0], pixels[0]])
        parts = kind(seed=1)(same, ["a", "b"], 2)
        assert not torch.equal(parts[0], parts[1])
        assert not torch.equal(kind(seed=2)(pixels, ["a", "b"], 2), first)
        assert not torch.equal(kind(seed=1)(pixels, ["a", "b"], 3), first)
    with pytest.raises(ValueError, match="1 sample ids for 2"):
        kind()(pixels, ["a"], 0)


def test_diffusion_is_corrupt():
    pixels = torch.randn(1, 5)
    got = Diffusion(k=300, schedule="linear", seed=3)(pixels, ["a"], 7)
    assert torch.equal(got, corrupt(pixels, ["a"], k=300, schedule="linear", seed=3, step=7))


def test_mask_hides_its_share_behind_the_mean():
    pixels = torch.arange(3 * 10 * 10.0).reshape(1, 3, 10, 10)
    hidden = Mask(share=0.3)(pixels, ["a"], 0) != pixels
    assert hidden[0, 0].sum() == 30
    assert torch.equal(hidden[0, 0], hidden[0, 2])
    assert (Mask(share=0.3)(pixels, ["a"], 0)[hidden] == pixels.mean()).all()
    blocks = (Mask(share=0.25, size=5)(pixels, ["a"], 0) != pixels)[0, 0]
    assert sorted(blocks[y : y + 5, x : x + 5].sum().item() for y in (0, 5) for x in (0, 5)) == [0, 0, 0, 25]
    whole = Mask(share=0.3, size=20)(pixels, ["a"], 0)  # a block larger than the image
    assert (whole == pixels.mean()).all()


def test_crop_shows_a_part_of_the_image():
    ramp = torch.arange(100.0).repeat(100, 1)[None, None]
    for name in "abcdefgh":
        part = Crop()(ramp, [name], 0)[0, 0, 0]
        assert 9 <= part.max() - part.min() <= 45  # a side of 10 to 45 pixels
    assert torch.equal(Crop(least=1.0, most=1.0)(ramp, ["a"], 0), ramp)


def test_blur_keeps_constants_and_flattens_noise():
    flat = torch.full((1, 3, 20, 20), 0.7)
    torch.testing.assert_close(Blur()(flat, ["a"], 0), flat)
    noise = torch.randn(1, 3, 40, 40)
    assert Blur(sigma=4.0)(noise, ["a"], 0).std() < 0.2 * noise.std()


def test_corruptions_refuse_bad_options_and_layouts():
    for bad in (lambda: Diffusion(k=1000), lambda: Diffusion(schedule="x"), lambda: Crop(least=0.3, most=0.2),
                lambda: Mask(share=0.0), lambda: Blur(sigma=0.0)):  # fmt: skip
        with pytest.raises(ValueError, match="must be"):
            bad()
    for kind in (Crop, Mask, Blur):
        with pytest.raises(ValueError, match=r"needs \[B, C, H, W\]"):
            kind()(torch.zeros(1, 8), ["a"], 0)


def test_noise_before_normalising_is_that_of_the_pixels():
    """Each channel, each layout: noise on [0, 1], then normalised, computed the long way round."""
    mean, std = (0.48, 0.4, 0.3), (0.27, 0.25, 0.5)
    m, s = (torch.tensor(x)[:, None, None] for x in (mean, std))
    clear = torch.rand(2, 3, 4, 4)
    options = {"k": 700, "seed": 1, "step": 2}
    want = (corrupt(clear, ["a", "b"], **options) - m) / s
    got = corrupt((clear - m) / s, ["a", "b"], **options, normalisation=(mean, std))
    torch.testing.assert_close(got, want)
    tiled = corrupt(((clear - m) / s)[:, None], ["a", "b"], **options, normalisation=(mean, std))
    torch.testing.assert_close(tiled[:, 0], want)
    patches = clear.reshape(2, 1, 3, 1, 4, 4).expand(-1, -1, -1, 2, -1, -1)  # both copies of a frame
    noisy = corrupt(patches.reshape(2, 1, -1), ["a", "b"], **options, patch_shape=(3, 2, 4, 4))
    m, s = m[:, None], s[:, None]
    want = ((noisy.reshape(2, 1, 3, 2, 4, 4) - m) / s).reshape(2, 1, -1)
    got = corrupt(
        ((patches - m) / s).reshape(2, 1, -1), ["a", "b"], **options, patch_shape=(3, 2, 4, 4),
        normalisation=(mean, std), lengths=[1, 1],
    )  # fmt: skip
    torch.testing.assert_close(got, want)
    padded = corrupt(torch.zeros(1, 3, 3, 4, 4), ["a"], **options, lengths=[2], normalisation=(mean, std))
    assert (padded[:, 2] == 0).all()


def test_the_batch_says_how_its_pixels_were_normalised():
    source = HFModel("uedpo:micro_llava")
    batch = PairCollator(source.processor(), 50)([MicroWorldPairs("val", 1)[0]])
    images = source.processor().image_processor
    assert batch.normalisation == (tuple(images.image_mean), tuple(images.image_std))
    assert batch.to("cpu").normalisation == batch.normalisation
    plain, pixel = (corrupt_batch(Diffusion(space=space), batch, 0) for space in ("normalised", "pixel"))
    want = corrupt(batch.pixel_values, batch.ids, normalisation=batch.normalisation)
    assert torch.equal(pixel, want)
    assert not torch.allclose(plain, pixel, atol=0.1)
    silent = dataclasses.replace(batch, normalisation=None)
    with pytest.raises(
        InputError, match=r"corruption.space=pixel: the processor does not .*space=normalised"
    ):
        corrupt_batch(Diffusion(space="pixel"), silent, 0)
    assert torch.equal(corrupt_batch(Diffusion(), silent, 0), plain)
