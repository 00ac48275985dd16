import dataclasses

import pytest
import torch

from tests.config.test_validate import problems
from tests.tiny import tiny_batch, tiny_model
from uedpo.errors import InputError
from uedpo.scoring import Scorer
from uedpo.scoring.feature_cache import FeatureCache

FAMILIES = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl")


def attached(model, folder=None):
    scorer = Scorer("prefix_shared", folder)
    scorer.attach(model)
    return scorer


def tower_calls(model):
    """How many images each call of the tower gets, appended as it runs."""
    calls, inner = [], model.get_base_model().model
    run = inner.get_image_features

    def counting(**inputs):
        made = run(**inputs)
        calls.append(len(made.pooler_output))
        return made

    inner.get_image_features = counting
    return calls


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_features_give_the_same_scores_and_save_the_tower(family, tmp_path):
    model = tiny_model(family)
    batch = tiny_batch(model, family, 3, text_only=(1,))
    want = attached(model).score(model, batch)
    calls = tower_calls(model)
    first = attached(model, tmp_path).score(model, dataclasses.replace(batch))
    assert calls == [2]
    again = attached(model, tmp_path).score(model, dataclasses.replace(batch))
    assert calls == [2]
    assert torch.equal(first.logps, again.logps)
    torch.testing.assert_close(again.logps, want.logps, rtol=1e-5, atol=1e-5)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert not list(tmp_path.rglob("*.tmp"))


def test_only_new_images_run_and_corrupted_ones_are_not_kept(tmp_path):
    model = tiny_model("qwen2_5_vl")
    batch = tiny_batch(model, "qwen2_5_vl", 3)
    scorer = attached(model, tmp_path)
    scorer.score(model, batch)
    changed = batch.pixel_values.clone()
    changed[2] += 1
    fresh = dataclasses.replace(batch, pixel_values=changed)
    calls = tower_calls(model)
    got = scorer.score(model, fresh).logps
    assert calls == [1]
    scorer.score(model, fresh, changed * 2)
    assert calls == [1, 3]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    want = attached(model).score(model, dataclasses.replace(fresh)).logps
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_another_tower_finds_nothing(tmp_path):
    model = tiny_model("llava")
    batch = tiny_batch(model, "llava", 1)
    attached(model, tmp_path).score(model, batch)
    with torch.no_grad():
        next(model.get_base_model().model.vision_tower.parameters()).mul_(1.5)
    calls = tower_calls(model)
    attached(model, tmp_path).score(model, dataclasses.replace(batch))
    assert calls == [1]


def test_broken_files_are_named(tmp_path):
    model = tiny_model("llava")
    batch = tiny_batch(model, "llava", 1)
    attached(model, tmp_path).score(model, batch)
    file = next(tmp_path.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError, match=f"{file.name}: not a file of image features"):
        attached(model, tmp_path).score(model, dataclasses.replace(batch))


def test_what_cannot_be_cached_is_refused(tmp_path):
    with pytest.raises(ValueError, match="scoring=plain runs the tower inside the model"):
        Scorer("plain", str(tmp_path))
    config = tiny_model("qwen3_vl").get_base_model().config
    with pytest.raises(InputError, match="feature_cache: qwen3_vl"):
        Scorer("prefix_shared", str(tmp_path)).check(config, "sdpa")
    assert "feature_cache: scoring=plain" in problems("scoring=plain", "feature_cache=x")


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "there").touch()
    with pytest.raises(InputError, match=r"feature_cache: .*there: File exists; name another folder"):
        Scorer("prefix_shared", str(tmp_path / "there"))


def refuse(path, *args, **kwargs):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    model = tiny_model("llava")
    batch = tiny_batch(model, "llava", 1)
    scorer = attached(model, tmp_path)

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(InputError, match=r"feature_cache: .*Permission denied; make it writable"):
        scorer.score(model, batch)


def test_a_folder_removed_under_a_run_is_made_again(tmp_path):
    model = tiny_model("llava")
    scorer = attached(model, tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    scorer.score(model, tiny_batch(model, "llava", 1))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    model = tiny_model("llava")
    batch = tiny_batch(model, "llava", 1)
    attached(model, tmp_path).score(model, batch)

    monkeypatch.setattr("uedpo.scoring.feature_cache.load_file", refuse)
    with pytest.raises(InputError, match=r"feature_cache: .*Permission denied; make it readable"):
        attached(model, tmp_path).score(model, dataclasses.replace(batch))


def test_equal_pixels_with_another_size_are_another_image(tmp_path):
    model = tiny_model("llava_next")
    batch = tiny_batch(model, "llava_next", 1)
    cache = FeatureCache(tmp_path)
    cache.bind(model.get_base_model())
    computed = []

    def compute(entries):
        computed.append(len(entries))
        return [torch.full((2, 3), float(len(computed)))]

    sizes = {name: value + 1 for name, value in batch.image_inputs.items()}
    assert sizes
    other = dataclasses.replace(batch, image_inputs=sizes)
    values = [float(cache.features(b, [0], compute)[0][0, 0]) for b in (batch, other, batch)]
    assert (values, computed) == ([1, 2, 1], [1, 1])
