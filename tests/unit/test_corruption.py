import pytest
import torch

from uedpo.weights.corruption import corrupt, noise_scheduler, sample_noise


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


def test_corrupt_refuses_bad_input():
    with pytest.raises(ValueError, match="k=1000"):
        corrupt(torch.zeros(1, 3), ["a"], k=1000)
    with pytest.raises(ValueError, match="schedule"):
        corrupt(torch.zeros(1, 3), ["a"], schedule="cosine")
    with pytest.raises(ValueError, match="1 sample ids for 2"):
        corrupt(torch.zeros(2, 3), ["a"])
