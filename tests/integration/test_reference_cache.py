"""The reference's log-probabilities on disk: what training gets from them, and what is refused."""

import dataclasses
import functools
import json
import shutil
import weakref

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from tests.config.test_validate import problems
from tests.integration.conftest import same, trained
from uedpo.config.overrides import check_overrides
from uedpo.corruption.spatial import Blank
from uedpo.data.datamodule import PairDataModule
from uedpo.data.jsonl import JsonlPairs
from uedpo.errors import InputError
from uedpo.loss import dpo_loss, napo_loss, tpo_loss, ue_dpo_loss
from uedpo.microworld.data import MicroWorldPairs
from uedpo.model.hf import HFModel, lora
from uedpo.module import PreferenceModule
from uedpo.optim import adamw_cosine
from uedpo.reference import cache as reference_cache
from uedpo.reference.cache import ReferenceCache
from uedpo.reference.key import setting_of
from uedpo.results.keys import key_of, trial_config
from uedpo.scoring import Scorer
from uedpo.weights.probe import UncertaintyProbe

LOSSES = {"dpo": dpo_loss, "ue_dpo": ue_dpo_loss, "napo": napo_loss}


class Rows(list):
    """Pairs with a hash of their own, as any data set may have."""

    def fingerprint(self):
        return "rows"


def some(split="train", num=7):
    pairs = MicroWorldPairs(split, num)
    return Rows(pairs[i] for i in range(num))


def setting(source, processor, **changes):
    options = {"scoring": "prefix_shared", "precision": "32-true", "max_response_tokens": 512}
    return setting_of(source, source.config(), processor, **options | changes)


class Recorder(pl.Callback):
    def __init__(self):
        self.losses, self.val, self.calls = [], [], 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())

    def on_validation_end(self, trainer, pl_module):
        self.val.append(trainer.callback_metrics["val/loss"].item())


class CountingScorer(Scorer):
    """Counts passes, and those of anything but the policy."""

    passes = 0
    of_reference = 0
    policy = None

    def score(self, model, batch, pixel_values=None):
        self.passes += 1
        disabled = any(getattr(m, "disable_adapters", False) is True for m in model.modules())
        self.of_reference += disabled or not any(p.requires_grad for p in model.parameters())
        return super().score(model, batch, pixel_values)


def fit(
    source, processor, tmp_path, folder=None, loss="dpo", steps=4, train=None, val=None, mode="prefix_shared"
):
    """(module, recorder, scorer) of a run of `steps` batches of 3 of 7 pairs, validated every third."""
    pl.seed_everything(0, verbose=False)
    negatives = loss == "napo"
    data = PairDataModule(
        some() if train is None else train, some("val", 4) if val is None else val, processor, batch_size=3,
        negatives=negatives,
    )  # fmt: skip
    cache = None
    if folder is not None:
        cache = ReferenceCache(folder, setting(source, processor, scoring=mode), data, validates=True)
        cache.check()
    scorer, recorder = CountingScorer(mode), Recorder()
    module = PreferenceModule(
        source, functools.partial(LOSSES[loss], beta=0.1), functools.partial(adamw_cosine, lr=1e-3),
        scorer=scorer, reference_cache=cache,
    )  # fmt: skip
    probe = [UncertaintyProbe(alpha=0.3)] if loss == "ue_dpo" else []
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=1, callbacks=[*probe, recorder], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, val_check_interval=3,
        check_val_every_n_epoch=None, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data)
    return module, recorder, scorer


def shards(folder):
    return sorted(folder.glob("shard-*.safetensors"))


@pytest.mark.parametrize(("loss", "mode"), [("dpo", "plain"), ("ue_dpo", "prefix_shared")])
@pytest.mark.cases(1)
def test_training_with_a_cache_gives_the_losses_of_a_live_reference(source, processor, tmp_path, loss, mode):
    _, live, _ = fit(source, processor, tmp_path, loss=loss, mode=mode)
    cache = tmp_path / "cache"
    first, built, counts = fit(source, processor, tmp_path, cache, loss, mode=mode)
    assert counts.of_reference == 3 + 2  # batches of 7 training and of 4 validation pairs, once
    second, read, counts = fit(source, processor, tmp_path, cache, loss, mode=mode)
    assert counts.of_reference == 0
    assert counts.passes == 4 * (1 + (loss == "ue_dpo")) + 2
    assert len(shards(cache)) == 1
    for got in (built, read):
        differences = np.abs(np.array(got.losses) - live.losses), np.abs(np.array(got.val) - live.val)
        assert max(map(np.max, differences)) < 1e-6
    assert built.losses == read.losses
    assert built.val == read.val
    assert same(trained(first), trained(second))


def test_full_fine_tuning_holds_no_copy_until_someone_asks(source, processor, tmp_path, monkeypatch):
    path, seen = source.location, []
    source = HFModel(path)

    def watched():
        model = HFModel.reference(source)
        seen.append(weakref.ref(model))
        return model

    monkeypatch.setattr(source, "reference", watched)
    _, live, _ = fit(source, processor, tmp_path, steps=3)
    module, built, _ = fit(source, processor, tmp_path, tmp_path / "cache", steps=3)
    assert module.reference is None
    assert [model() for model in seen] == [None]
    np.testing.assert_allclose(built.losses, live.losses, rtol=0, atol=1e-6)
    batch = module.reference_cache.data.collate([some()[i] for i in range(2)])
    torch.testing.assert_close(
        module.score_reference(batch).logps, module.reference_cache.logps("train", batch), rtol=0, atol=1e-5
    )
    # the adapter is no part of the reference
    adapted = HFModel(path, lora=lora(r=2))
    _, _, counts = fit(adapted, processor, tmp_path, tmp_path / "cache", steps=1)
    assert counts.of_reference == 0


def test_further_negatives_have_rows_of_their_own(source, processor, tmp_path):
    cache = tmp_path / "cache"
    fit(source, processor, tmp_path, cache, steps=1)
    _, live, _ = fit(source, processor, tmp_path, loss="napo", steps=2)
    _, built, counts = fit(source, processor, tmp_path, cache, "napo", steps=2)
    assert counts.of_reference == 5
    np.testing.assert_allclose(built.losses, live.losses, rtol=0, atol=1e-6)
    assert len(shards(cache)) == 2


@pytest.fixture(scope="module")
def built(source, processor, tmp_path_factory):
    """A folder with the reference of 7 training and 4 validation pairs."""
    folder = tmp_path_factory.mktemp("built")
    fit(source, processor, folder, folder / "cache", steps=1)
    return folder / "cache"


def checked(folder, about, processor, train=None, **options):
    data = PairDataModule(
        some() if train is None else train, some("val", 4), processor, batch_size=3, **options
    )
    return ReferenceCache(folder, about, data, validates=True).check()


def test_a_complete_cache_says_so(built, source, processor):
    assert checked(built, setting(source, processor), processor) == (
        f"reference cache: all 11 pairs are in {built}"
    )


@pytest.fixture
def other_model(source, tmp_path):
    """A copy of the shipped model to change."""
    return shutil.copytree(source.location, tmp_path / "model")


def refusal(built, about, processor):
    with pytest.raises(InputError) as caught:
        checked(built, about, processor)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{built}: reference cache of another setting: ")
    assert text.endswith("; name another folder, or delete this one")
    return text


def test_a_copy_of_the_model_elsewhere_is_the_same_model(built, processor, other_model):
    source = HFModel(str(other_model))
    assert "all 11 pairs" in checked(built, setting(source, source.processor()), source.processor())


def test_other_weights_are_refused(built, processor, other_model):
    file = other_model / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    text = refusal(built, setting(HFModel(str(other_model)), processor), processor)
    assert "setting: weights (" in text
    assert text.count(" there, ") == 1


def test_another_template_is_refused(built, source, processor, other_model):
    file = other_model / "chat_template.jinja"
    file.write_text(file.read_text().replace("USER: ", "USER:  "))
    other = HFModel(str(other_model)).processor()
    text = refusal(built, setting(source, other), processor)
    assert "setting: chat template (" in text
    assert text.count(" there, ") == 1


@pytest.mark.parametrize(
    ("options", "changes", "said"),
    [
        ({"dtype": "bfloat16"}, {}, "dtype (float32 there, bfloat16 here)"),
        ({"attn_implementation": "eager"}, {}, "attention (sdpa there, eager here)"),
        ({}, {"precision": "bf16-mixed"}, "precision (32-true there, bf16-mixed here)"),
        ({}, {"scoring": "plain"}, "scoring (prefix_shared there, plain here)"),
        ({}, {"max_response_tokens": 9}, "max_response_tokens (512 there, 9 here)"),
    ],
)
def test_another_way_to_score_is_refused(built, source, processor, options, changes, said):
    other = HFModel(source.location, **options)
    assert f"setting: {said}; name" in refusal(built, setting(other, processor, **changes), processor)


def test_other_pixels_are_refused(built, source, processor):
    processor = source.processor()
    processor.image_processor.size = {"shortest_edge": 48}
    assert "setting: image processor (" in refusal(built, setting(source, processor), processor)


def test_rows_of_other_content_are_refused_and_new_ones_are_computed(built, source, processor):
    about, pairs = setting(source, processor), some()
    brighter = Image.fromarray(np.asarray(pairs[2].image) // 2 + 100)
    other = Rows([*pairs[:2], dataclasses.replace(pairs[2], image=brighter), *pairs[3:]])
    with pytest.raises(InputError) as caught:
        checked(built, about, processor, other)
    assert str(caught.value) == (
        f"{built}: row {pairs[2].id}: has other images than when its reference was stored; "
        "name another folder, or delete this one"
    )
    other = Rows([*pairs[:4], dataclasses.replace(pairs[4], rejected="no."), *pairs[5:]])
    with pytest.raises(InputError, match=f"row {pairs[4].id}: has other texts than when"):
        checked(built, about, processor, other)
    said = checked(built, about, processor, some(num=9))
    assert said.startswith("reference cache: 2 pairs more (11 are there), about ")
    twice = Rows([*pairs, dataclasses.replace(pairs[0], id=pairs[1].id)])
    with pytest.raises(InputError, match=f"two rows have the id {pairs[1].id}"):
        checked(built, about, processor, twice)


def test_image_files_are_known_by_their_bytes(source, processor, tmp_path):
    lines = []
    for i, pair in enumerate(some(num=3)):
        pair.image.save(tmp_path / f"{i}.png")
        row = {"id": f"row-{i}", "image": f"{i}.png", "prompt": pair.prompt}
        lines.append(json.dumps(row | {"chosen": pair.chosen, "rejected": pair.rejected}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    cache = tmp_path / "cache"
    fit(source, processor, tmp_path, cache, steps=3, train=JsonlPairs(str(tmp_path / "rows.jsonl")))
    about = setting(source, processor)
    assert "all 7 pairs" in checked(cache, about, processor, JsonlPairs(str(tmp_path / "rows.jsonl")))
    Image.new("RGB", (96, 96), "red").save(tmp_path / "1.png")
    with pytest.raises(InputError, match="row row-1: has other images"):
        checked(cache, about, processor, JsonlPairs(str(tmp_path / "rows.jsonl")))


def test_rows_that_are_drawn_or_decoded_late_score_as_any_other(source, processor, tmp_path):
    late = MicroWorldPairs("train", 7)
    assert late.undecoded(3).images[0]() == late[3].id.encode()
    _, live, _ = fit(source, processor, tmp_path, steps=3)
    _, got, counts = fit(source, processor, tmp_path, tmp_path / "cache", steps=3, train=late)
    assert counts.of_reference == 5
    np.testing.assert_allclose(got.losses, live.losses, rtol=0, atol=1e-6)


def test_tokens_are_compared_as_they_are_read(built, source, processor):
    data = PairDataModule(some(), some("val", 4), processor, batch_size=3)
    cache = ReferenceCache(built, setting(source, processor), data, validates=True)
    cache.check()
    batch = data.collate([some()[0]])
    batch.inputs["input_ids"][1, 1] += 1
    with pytest.raises(InputError, match="has other tokens than when its reference was stored"):
        cache.logps("train", batch)


@pytest.mark.parametrize(
    "damage", [lambda d: d[: len(d) // 2], lambda d: d[:-9] + bytes([d[-9] ^ 4]) + d[-8:]]
)
def test_a_damaged_shard_is_computed_again(built, source, processor, tmp_path, capsys, damage):
    cache = shutil.copytree(built, tmp_path / "cache")
    (shard,) = shards(cache)
    shard.write_bytes(damage(shard.read_bytes()))
    assert "reference cache: 11 pairs, about" in checked(cache, setting(source, processor), processor)
    _, _, counts = fit(source, processor, tmp_path, cache, steps=1)
    assert counts.of_reference == 5
    assert f"{shard}: damaged; removed, its pairs are computed again" in capsys.readouterr().out
    assert [s.name for s in shards(cache)] == [s.name for s in shards(built)]


def test_only_what_is_missing_is_computed(source, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(reference_cache, "SHARD", 3)
    cache = tmp_path / "cache"
    fit(source, processor, tmp_path, cache, steps=1)
    kept = shards(cache)
    assert len(kept) == 4  # 3, 3, 1 + 3 and 1 pairs
    kept[0].unlink()
    _, _, counts = fit(source, processor, tmp_path, cache, steps=1, train=some(num=9))
    assert 1 <= counts.of_reference <= 4
    assert set(kept[1:]) < set(shards(cache))


def test_manifests_that_are_none_are_refused(built, source, processor, tmp_path):
    cache = shutil.copytree(built, tmp_path / "cache")
    (cache / "manifest.json").write_text("[1]")
    about = setting(source, processor)
    with pytest.raises(
        InputError, match=r"manifest\.json: not a manifest of a reference cache; name another"
    ):
        checked(cache, about, processor)
    (cache / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"holds shards without a manifest\.json"):
        checked(cache, about, processor)
    with pytest.raises(InputError, match="Not a directory"):
        checked(built / "manifest.json" / "x", about, processor)


def test_a_disk_without_room_is_refused(source, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InputError, match=r"11 pairs, about .* kB, in .*: 0\.0 kB are free there; make room"):
        checked(tmp_path / "cache", setting(source, processor), processor)


def test_a_hub_model_without_a_commit_is_refused(source, processor):
    class Hub(HFModel):
        location = "org/name"

    about = source.config()
    hub = Hub("org/name")
    with pytest.raises(InputError, match=r"set model\.revision, or give a local folder"):
        setting_of(hub, about, processor, scoring="plain", precision="32-true", max_response_tokens=1)
    about._commit_hash = "abc"
    made = setting_of(hub, about, processor, scoring="plain", precision="32-true", max_response_tokens=1)
    assert made["weights"] == "org/name at abc"


def test_losses_that_need_a_live_reference_are_refused(source, processor):
    check_overrides(["reference_cache=x"])
    check_overrides(["reference_cache=x", "+method=v_dpo"])
    for method in ("tpo", "mdpo"):
        text = problems("reference_cache=x", f"+method={method}")
        assert "needs the reference's scores of corrupted images" in text
        assert "set reference_cache=null" in text
    with pytest.raises(ValueError, match="which no cache holds"):
        PreferenceModule(source, tpo_loss, adamw_cosine, corruption=Blank(), reference_cache=object())


def test_the_folder_is_no_part_of_a_trial():
    assert key_of(trial_config(check_overrides([]))) == key_of(
        trial_config(check_overrides(["reference_cache=x"]))
    )
