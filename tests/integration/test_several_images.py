"""Several images a pair, none, and other images for the rejected response: all ways of scoring agree."""

import dataclasses

import pytest
import torch

from tests.integration.test_prefix_shared import assert_close, scorer_for
from tests.tiny import IMAGE, _images, tiny_model
from uedpo.data.collate import PairCollator
from uedpo.errors import InputError
from uedpo.loss import dpo_loss, ue_dpo_loss
from uedpo.microworld.data import MicroWorldPairs
from uedpo.module import PreferenceModule
from uedpo.types import PairBatch
from uedpo.weights.columns import ColumnWeights
from uedpo.weights.probe import UncertaintyProbe

FAMILIES = ("llava", "llava_next", "qwen2_5_vl", "qwen3_vl")
# images of chosen and of rejected, pair by pair
CHOSEN = [(0, 1), (), (2,), (3,)]
REJECTED = [(0, 1), (), (4,), (3,)]


def several(model, family):
    """Four pairs: two images, none, another image for the rejected response, one."""
    pixels, sides, lengths = _images(family, 5)
    flat = {"pixel_values": pixels, **sides}
    if "image_grid_thw" in sides:
        flat["pixel_values"] = torch.cat([p[:n] for p, n in zip(pixels, lengths, strict=True)])
    base = model.get_base_model()
    with torch.no_grad():
        counts = [len(f) for f in base.model.get_image_features(**flat, return_dict=True).pooler_output]
    random = torch.Generator().manual_seed(3)

    def text(length):
        return torch.randint(3, 110, (length,), generator=random).tolist()

    starts = [text(3), text(4), text(2), text(5)]
    shown = [*CHOSEN, *REJECTED]
    prompts = []
    for row, own in enumerate(shown):
        start = starts[row % 4]
        prompts.append([*start, *(t for n in own for t in [IMAGE] * counts[n] + start[:1]), *start[::-1]])
    answers = [text(1 + (3 * row) % 5) for row in range(8)]
    width, longest = (
        max(map(len, answers)),
        max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)),
    )
    tokens, positions = torch.zeros(2, 8, width, dtype=torch.long)
    mask = torch.zeros(8, width, dtype=torch.bool)
    ids, attention = torch.zeros(2, 8, longest, dtype=torch.long)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        total, n = len(prompt) + len(answer), len(answer)
        ids[row, :total], attention[row, :total] = torch.tensor(prompt + answer), 1
        tokens[row, :n], mask[row, :n] = torch.tensor(answer), True
        positions[row, :n] = torch.arange(len(prompt) - 1, total - 1)
    inputs = {"input_ids": ids, "attention_mask": attention}
    if "qwen" in family:
        inputs["mm_token_type_ids"] = (ids == IMAGE).long()
    seen = torch.tensor([bool(own) for own in CHOSEN])
    names = ["a", "b", "c", "d"]
    return PairBatch(names, inputs, pixels, seen, tokens, mask, positions, sides, lengths, images=shown)


def alone(model, batch, row):
    """Log-probabilities of one response by a forward pass of its own."""
    base, own = model.get_base_model(), list(batch.images[row])
    length = int(batch.inputs["attention_mask"][row].sum())
    inputs = {name: x[row : row + 1, :length] for name, x in batch.inputs.items()}
    if own:
        pixels = batch.pixel_values[own]
        if "image_grid_thw" in batch.image_inputs:
            pixels = torch.cat([batch.pixel_values[n][: batch.pixel_lengths[n]] for n in own])
        inputs |= {"pixel_values": pixels, **{name: x[own] for name, x in batch.image_inputs.items()}}
    keep = batch.mask[row]
    logits = base(**inputs).logits[0, batch.positions[row][keep]]
    return logits.log_softmax(-1).gather(-1, batch.tokens[row][keep][:, None])[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_each_response_alone(family):
    model = tiny_model(family)
    batch = several(model, family)
    naive = [alone(model, batch, row) for row in range(8)]
    for mode in ("plain", "prefix_shared"):
        scorer = scorer_for(model, mode)
        noisy = UncertaintyProbe(alpha=0.3).corrupt(batch, 0)
        clear, corrupted = scorer.score(model, batch), scorer.score(model, batch, noisy)
        for row, want in enumerate(naive):
            assert_close(clear.logps[row][batch.mask[row]], want, 1e-5)
        changed = (clear.logps != corrupted.logps).any(1)
        assert changed.tolist() == [bool(own) for own in batch.images]


def test_only_responses_about_the_same_images_share_a_prefix():
    batch = several(tiny_model("llava"), "llava")
    assert batch.layout.groups == [[0, 4], [1, 5], [2], [6], [3, 7]]
    assert batch.image_ids == ["a", "a#2", "c", "d", "c#2"]


@torch.no_grad()
def test_the_cache_keeps_every_image(tmp_path):
    from uedpo.scoring import Scorer

    model = tiny_model("llava_next")
    batch = several(model, "llava_next")
    want = scorer_for(model, "prefix_shared").score(model, batch).logps
    scorer = Scorer("prefix_shared", str(tmp_path))
    scorer.attach(model)
    for _ in range(2):
        assert_close(scorer.score(model, dataclasses.replace(batch)).logps, want, 1e-5)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5


@pytest.fixture(scope="module")
def rows():
    one, two, three = (MicroWorldPairs("val", 12)[i] for i in range(3))
    return [
        dataclasses.replace(one, image=[one.image, two.image], chosen_weights=((0, 5, 3.0),), weight=2.0),
        dataclasses.replace(two, image=None, weight=0.5),
        dataclasses.replace(three, rejected_image=one.image, rejected_weights=((2, 4, 0.0),)),
    ]


def test_collating_carries_images_and_weights(rows, processor):
    batch = PairCollator(processor, 200)(rows)
    token = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert (batch.inputs["input_ids"] == token).sum(1).tolist() == [128, 0, 64] * 2
    assert batch.images == [(0, 1), (), (3,), (0, 1), (), (4,)]
    assert batch.has_image.tolist() == [True, False, True]
    assert batch.sample_weights.tolist() == [2.0, 0.5, 1.0]
    assert torch.equal(batch.pixel_values[0], batch.pixel_values[4])
    assert not torch.equal(batch.pixel_values[0], batch.pixel_values[1])
    weights = batch.token_weights
    assert (weights[[1, 2, 3, 4]] == 1).all()
    first = processor.tokenizer(" " + rows[0].chosen, add_special_tokens=False, return_offsets_mapping=True)
    for value, (start, end) in zip(weights[0].tolist(), first["offset_mapping"], strict=False):
        inside = len(range(max(start - 1, 0), min(end - 1, 5)))
        size = max(end - 1, 0) - max(start - 1, 0)
        assert value == pytest.approx((3 * inside + size - inside) / size if size else 1.0)
    assert weights[5][:2].tolist() == [0.5, 1.0]  # half of the first word weighs nothing
    assert weights[0][len(first["input_ids"]) :].unique().tolist() == [1.0]


def test_sample_weights_scale_each_pairs_loss():
    torch.manual_seed(0)
    policy, reference = (-torch.rand(6, 4) for _ in range(2))
    mask, given = torch.ones(6, 4, dtype=torch.bool), torch.tensor([2.0, 0.5, 0.0])
    for loss, options in (
        (dpo_loss, {}), (dpo_loss, {"form": "ipo"}), (ue_dpo_loss, {"weights": torch.rand(6, 4)}),
        (ue_dpo_loss, {}),
    ):  # fmt: skip
        one_by_one = []
        for i in range(3):
            pair = [i, i + 3]
            own = {n: x[pair] if isinstance(x, torch.Tensor) else x for n, x in options.items()}
            one_by_one.append(loss(policy[pair], reference[pair], mask[pair], beta=0.3, **own).loss)
        whole = loss(policy, reference, mask, beta=0.3, sample_weights=given, **options).loss
        torch.testing.assert_close(whole, (torch.stack(one_by_one) * given).mean())
        ones = loss(policy, reference, mask, beta=0.3, sample_weights=torch.ones(3), **options).loss
        assert torch.equal(ones, loss(policy, reference, mask, beta=0.3, **options).loss)


def test_weights_of_rows_reach_the_loss(rows, source, processor):
    seen = {}

    def loss(policy_logps, reference_logps, mask, weights=None, *, beta=0.1, sample_weights=None):
        seen.update(weights=weights, sample_weights=sample_weights)
        return ue_dpo_loss(
            policy_logps, reference_logps, mask, weights, beta=beta, sample_weights=sample_weights
        )

    module = PreferenceModule(source, loss, None)
    module.configure_model()
    module.set_weigher(ColumnWeights().weigh)
    batch = PairCollator(processor, 200)(rows)
    assert module.training_step(batch, 0).isfinite()
    assert torch.equal(seen["weights"], batch.token_weights)
    assert seen["sample_weights"].tolist() == [2.0, 0.5, 1.0]


def test_weights_that_nothing_would_read_are_refused(tmp_path):
    from tests.rows_of_formats import SAME, write_json
    from uedpo.data.files import FilePairs
    from uedpo.data.reading import read_rows
    from uedpo.data.spans import check_weights_are_read

    def pairs(**more):
        lines = read_rows(write_json(tmp_path / "a.jsonl", [SAME["trl"][0] | more]))
        return FilePairs(lines, range(1))

    check_weights_are_read(pairs(), [], False)
    check_weights_are_read(pairs(weight=2, chosen_weights=[[0, 1, 2]]), ["sample_weights"], True)
    with pytest.raises(InputError, match=r"row a\.jsonl:1: has weight 2, which this loss does not take"):
        check_weights_are_read(pairs(weight=2), ["similarity"], True)
    with pytest.raises(InputError, match=r"row a\.jsonl:1: has weights of its tokens.* weights=columns"):
        check_weights_are_read(pairs(chosen_weights=[[0, 1, 2]]), ["sample_weights"], False)
