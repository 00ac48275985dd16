"""The contract of every model family, on a tiny random model and a real processor of its class."""

import dataclasses
import functools
import re

import pytest
import torch
from transformers import modeling_utils

from tests import backbones
from uedpo.config.overrides import conf_folder
from uedpo.corruption.base import check_corruption, corrupt_batch
from uedpo.corruption.diffusion import Diffusion
from uedpo.corruption.spatial import Blank, Crop
from uedpo.data.collate import PairCollator
from uedpo.errors import InputError
from uedpo.evaluation.decode import generate
from uedpo.model.adapter import attach_adapter
from uedpo.model.families import Family, family_of
from uedpo.model.hf import HFModel, lora
from uedpo.model.lora import add_lora
from uedpo.scoring import Scorer
from uedpo.scoring.placeholders import image_of, num_features
from uedpo.scoring.prefix_shared import FAMILIES

every_family = pytest.mark.parametrize("family", backbones.CLASSES)


@functools.cache
def base(family):
    return backbones.model(family)


def adapted(family, *, checkpointing=False):
    """A model of its own with an adapter that does something, in train mode."""
    model = backbones.model(family)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model = add_lora(model, 2, 2.0, 0.0, family_of(model.config).lora_targets(model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model.train()


def batch_of(family, **options):
    return PairCollator(backbones.processor(family), 50)(backbones.pairs(**options))


def scorers(model, family):
    """Scorers that can score `model`, the plain one first."""
    modes = ["plain", *(["prefix_shared"] if family_of(model.config).shares_prefixes else [])]
    for mode in modes:
        scorer = Scorer(mode)
        scorer.attach(model)
        yield scorer


def naive_logps(model, family, pair, response):
    """One row by itself, its whole conversation as the template writes it through the processor at once."""
    processor = backbones.processor(family)
    tokenizer = processor.tokenizer
    images = [] if pair.image is None else [{"type": "image"}]
    turns = [
        {"role": "user", "content": [*images, {"type": "text", "text": pair.prompt}]},
        {"role": "assistant", "content": [{"type": "text", "text": response}]},
    ]
    before, found, after = processor.apply_chat_template(turns).rpartition(response)
    written = [t for t in backbones.SPECIAL if after.lstrip().startswith(t)]
    end = after.partition(written[0])[0] + written[0] if written else "</s>"
    starts = {"add_special_tokens": False} if before.startswith("<s>") else {}
    images = {} if pair.image is None else {"images": [pair.image]}
    inputs = processor(**images, text=[before + found + end], return_tensors="pt", **starts)
    length = len(tokenizer(response + end, add_special_tokens=False)["input_ids"])
    logps = model(**inputs).logits[0].log_softmax(-1)
    ids = inputs["input_ids"][0]
    assert ids.tolist().count(1) <= 1  # one start token
    return logps[:-1].gather(-1, ids[1:, None])[-length:, 0]


def test_the_documented_table_is_what_is_tested():
    """docs/models.md names the families of these tests, their classes, and how each can be run."""
    page = (conf_folder().parent / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in page.splitlines() if "|" in row]
    table = {row[0]: row[1:] for row in rows if row[0] in backbones.CLASSES}
    assert {family: row[1] for family, row in table.items()} == backbones.CLASSES
    named = [name.strip() for row in table.values() for name in row[0].split(",")]
    ours = {path.stem for path in (conf_folder() / "model").glob("*.yaml")} - {"micro_llava"}
    assert set(named) == ours
    assert {family for family, row in table.items() if row[2] == "prefix_shared"} == set(FAMILIES)
    for family, (_, _, scoring, corruptions) in table.items():
        kind = family_of(base(family).config)
        assert scoring == ("prefix_shared" if kind.shares_prefixes else "plain")
        whole = not kind.tiles and family not in backbones.GENERIC
        some = "diffusion" if kind.zeros_are_padding else "diffusion, blank"
        assert corruptions == ("all" if whole else some)


@every_family
@torch.no_grad()
def test_log_probs_equal_a_naive_forward_of_each_row(family):
    model, pairs = base(family), backbones.pairs()
    batch = batch_of(family)
    rows = [naive_logps(model, family, p, text) for p in pairs for text in (p.chosen, p.rejected)]
    rows = rows[::2] + rows[1::2]
    for scorer in scorers(model, family):
        got = scorer.score(model, batch).logps
        for row, want in enumerate(rows):
            assert batch.mask[row].sum() == len(want)
            torch.testing.assert_close(got[row, : len(want)], want, atol=1e-5, rtol=1e-5)
            assert (got[row, len(want) :] == 0).all()


@every_family
@torch.no_grad()
def test_the_image_decides_and_text_only_batches_score(family):
    model, batch = base(family), batch_of(family)
    for scorer in scorers(model, family):
        clear = scorer.score(model, batch).logps
        noisy = scorer.score(model, batch, corrupt_batch(Diffusion(k=900), batch, 0)).logps
        changed = (clear - noisy).abs().sum(1) > 1e-4
        assert changed.tolist() == [True, False, True] * 2
        blind = batch_of(family, text_only=(0, 1, 2))
        logps = scorer.score(model, blind).logps
        torch.testing.assert_close(logps[1][blind.mask[1]], clear[1][batch.mask[1]], atol=1e-5, rtol=1e-5)


@every_family
def test_corrupted_pixels_keep_their_layout(family):
    batch = batch_of(family)
    noisy = corrupt_batch(Diffusion(k=900), batch, 3)
    change = noisy - batch.pixel_values
    assert noisy.shape == batch.pixel_values.shape
    for row, seen in enumerate(batch.has_image.tolist()):
        if batch.pixel_lengths is not None:
            assert (noisy[row, batch.pixel_lengths[row] :] == 0).all()
        if seen:
            assert image_of(dataclasses.replace(batch, pixel_values=change), row)[0].abs().mean() > 0.1
    if "qwen" in family:  # pixels are channels x copies of the frame x height x width
        copies = noisy[2, : batch.pixel_lengths[2]].unflatten(1, (3, 2, 16))
        assert torch.equal(copies[:, :, 0], copies[:, :, 1])
    alone = PairCollator(backbones.processor(family), 50)(backbones.pairs()[2:])
    own = image_of(dataclasses.replace(alone, pixel_values=corrupt_batch(Diffusion(k=900), alone, 3)), 0)[0]
    together = image_of(dataclasses.replace(batch, pixel_values=noisy), 2)[0]
    assert torch.equal(own.flatten(), together.flatten())


@every_family
def test_lora_touches_only_the_language_model(family):
    model = adapted(family)
    path = family_of(model.get_base_model().config).language_path(model.get_base_model())
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith(f"base_model.model.{path}.layers.") and ".lora_" in name for name in trained)
    kinds = {re.search(r"\.(\w+)\.lora_", name)[1] for name in trained}
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "down_proj"} <= kinds
    assert len(trained) == 2 * 2 * 7  # A and B, two layers, seven matrices
    scorer = next(scorers(model, family))
    scorer.score(model, batch_of(family)).logps.sum().backward()
    assert all((p.grad is not None and p.grad.any()) == p.requires_grad for p in model.parameters())


@every_family
@pytest.mark.cases(4)
def test_saved_models_and_adapters_load_with_the_same_logits(family, tmp_path):
    model = adapted(family).eval()
    model.get_base_model().config.save_pretrained(tmp_path / "base")
    backbones.model(family).save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    batch, plain = batch_of(family), Scorer("plain")
    source = HFModel(str(tmp_path / "base"), lora=lora(r=2, alpha=2.0))
    source.check(backbones.processor(family), source.config())
    loaded = attach_adapter(source.base(), tmp_path / "adapter")
    fresh, reference = source.load()
    assert reference is None
    assert fresh.training
    with torch.no_grad():
        assert torch.equal(plain.score(loaded, batch).logps, plain.score(model, batch).logps)
        untrained = plain.score(fresh, batch).logps
        torch.testing.assert_close(untrained, plain.score(base(family), batch).logps)
        assert not torch.equal(untrained, plain.score(model, batch).logps)


@every_family
def test_generating_answers_each_image_by_itself(family):
    processor, model = backbones.processor(family), base(family)
    images = [p.image for p in backbones.pairs(text_only=())]
    options = {"max_new_tokens": 4}
    both = list(generate(model, processor, images, "what?", batch_size=3, **options))
    alone = [a for i in images for a in generate(model, processor, [i], "what?", batch_size=1, **options)]
    assert both == alone
    assert len(both) == 3


@every_family
def test_placeholders_are_what_the_tower_gives_and_are_counted_by_row(family):
    model, batch = base(family), batch_of(family)
    kind = family_of(model.config)
    assert (type(kind) is Family) == (family in backbones.GENERIC)
    token = model.config.image_token_id
    for row in (0, 2):
        pixels, sides = image_of(batch, row)
        given = kind.image_tokens(model.config, pixels.shape, sides)
        length = None if batch.pixel_lengths is None else [len(pixels)]
        measured = num_features(model, kind, pixels, length, sides)
        assert given == (None if family in backbones.GENERIC else measured)
        assert (batch.inputs["input_ids"][row] == token).sum() == measured
    spoilt = batch.inputs["input_ids"].clone()
    spoilt[5][spoilt[5] == token] = backbones.IDS["a"]  # the rejected answer's copy of row 2
    broken = dataclasses.replace(batch, inputs=batch.inputs | {"input_ids": spoilt})
    for scorer in scorers(model, family):
        with pytest.raises(InputError, match=rf"^row row-2: 0 image placeholders.*gives {measured}; [^\n]*$"):
            scorer.score(model, broken)


@every_family
def test_gradient_checkpointing_is_on_and_changes_nothing(family, monkeypatch):
    calls = []
    checkpoint = modeling_utils.checkpoint
    monkeypatch.setattr(
        modeling_utils, "checkpoint", lambda f, *a, **k: calls.append(f) or checkpoint(f, *a, **k)
    )
    batch, results = batch_of(family), []
    for checkpointing in (False, True):
        calls.clear()
        model = adapted(family, checkpointing=checkpointing)
        next(scorers(model, family)).score(model, batch).logps.sum().backward()
        results.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
        assert bool(calls) == checkpointing
    for name, want in results[0].items():
        torch.testing.assert_close(results[1][name], want, atol=1e-6 * want.abs().max().item(), rtol=1e-5)


@every_family
def test_corruptions_that_cannot_act_on_a_layout_are_refused(family):
    kind = family_of(base(family).config)
    check_corruption(Diffusion(), family, kind)
    if kind.tiles:
        with pytest.raises(
            InputError, match=rf"^corruption=Crop: .*{family}.*cut[^\n]*corruption=diffusion$"
        ):
            check_corruption(Crop(), family, kind)
    else:
        check_corruption(Crop(), family, kind)
    if kind.zeros_are_padding:
        with pytest.raises(InputError, match=r"^corruption=Blank: .*padding"):
            check_corruption(Blank(), family, kind)
    else:
        batch = batch_of(family)
        blank = corrupt_batch(Blank(), batch, 0)
        assert Scorer("plain").score(base(family), batch, blank).logps.isfinite().all()
