"""Features that are known already take the place of what the tower would make, and only meanwhile."""

import pytest
import torch

from uedpo.scoring.prefix_shared import ImageFeatures, computed


class Inner(torch.nn.Module):
    def get_input_embeddings(self):
        return torch.nn.Embedding(2, 3, dtype=torch.float64)

    def get_image_features(self, pixel_values):
        return "of the tower"

    def forward(self, pixel_values):
        return None if pixel_values is None else self.get_image_features(pixel_values)


@pytest.mark.parametrize("own", [False, True], ids=["method", "replaced"])
def test_features_stand_in_for_the_tower_and_go_again(own):
    inner, features = Inner(), ImageFeatures([torch.ones(2, 3)])
    expected = "of the tower"
    if own:  # as `uedpo.plan` wraps it
        expected = "of a wrapper"
        inner.get_image_features = lambda pixel_values: expected
    with computed(inner, features) as pixels:
        (got,) = inner(pixels).pooler_output
    assert got.dtype == torch.float64  # as the embeddings among which they go
    assert torch.equal(got, torch.ones(2, 3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="interrupted"), computed(inner, features):
        raise RuntimeError("interrupted")
    assert inner(torch.zeros(1)) == expected
    with computed(inner, None) as pixels:
        assert inner(pixels) is None
