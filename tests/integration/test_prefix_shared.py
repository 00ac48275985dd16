"""Prefix-shared scoring equals plain scoring, for every family that it supports."""

import copy
import dataclasses

import pytest
import torch

from tests.tiny import FAMILIES, tiny_batch, tiny_model
from uedpo.errors import InputError
from uedpo.loss import ue_dpo_loss
from uedpo.scoring import Scorer, prefix_shared
from uedpo.weights.probe import UncertaintyProbe


def scorer_for(model, mode):
    scorer = Scorer(mode)
    scorer.attach(model)
    return scorer


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_close(got, want, tolerance):
    """Relative to the largest value of the tensor."""
    assert (got - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("num_pairs", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.cases(16)
def test_equals_plain_scoring(family, num_pairs, checkpointing):
    results = []
    for mode in ("plain", "prefix_shared"):
        model = tiny_model(family, checkpointing=checkpointing)
        batch = tiny_batch(model, family, num_pairs, text_only=(1,))
        scores = scorer_for(model, mode).score(model, batch)
        weights = torch.rand(scores.logps.shape, generator=torch.Generator().manual_seed(1))
        loss = (weights * scores.logps + weights.flip(1) * scores.target_logits).sum()
        results.append((scores, gradients(model, loss)))
    (plain, plain_gradients), (shared, shared_gradients) = results
    for name in ("logps", "target_logits", "entropy", "hidden"):
        assert_close(getattr(shared, name), getattr(plain, name), 1e-5)
    assert torch.equal(shared.argmax, plain.argmax)
    assert len(plain_gradients) == 28
    for name, want in plain_gradients.items():
        assert want.abs().max() > 0
        assert_close(shared_gradients[name], want, 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_step_equals_plain_in_float64(family):
    results = []
    for mode in ("plain", "prefix_shared"):
        model = tiny_model(family, dtype=torch.float64)
        batch = tiny_batch(model, family, 2)
        scorer, probe = scorer_for(model, mode), UncertaintyProbe(alpha=0.5)
        policy = scorer.score(model, batch)
        with torch.no_grad():
            corrupted = scorer.score(model, batch, probe.corrupt(batch, 0))
            with model.disable_adapter():
                reference = scorer.score(model, batch)
        weights = probe.signals(batch, policy, corrupted).weights
        loss = ue_dpo_loss(policy.logps, reference.logps, batch.mask, weights, beta=0.1).loss
        results.append((loss.detach(), weights, gradients(model, loss)))
    (loss, weights, grads), (shared_loss, shared_weights, shared_grads) = results
    # RMSNorm and rotary embeddings of transformers compute in fp32 even here
    torch.testing.assert_close(shared_loss, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(shared_weights, weights, rtol=1e-6, atol=0)
    for name, want in grads.items():
        assert_close(shared_grads[name], want, 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_images_and_same_weights_give_exact_zeros(family, dtype):
    model = tiny_model(family, adapter_std=0.0, dtype=dtype)
    batch = tiny_batch(model, family, 3, text_only=(1,))
    scorer = scorer_for(model, "prefix_shared")
    with torch.enable_grad():
        policy = scorer.score(model, batch)
    with model.disable_adapter():
        reference = scorer.score(model, batch)
    assert torch.equal(policy.logps, reference.logps)
    again = scorer.score(model, batch, batch.pixel_values.clone())
    signals = UncertaintyProbe(alpha=0.3).signals(batch, policy, again)
    assert (signals.sensitivity == 0).all()
    right = policy.argmax == batch.tokens
    assert (signals.uncertainty[right & batch.mask] == 0).all()
    assert (signals.uncertainty[batch.mask] > -1e-4).all()


@torch.no_grad()
def test_more_responses_than_two_share_a_prefix():
    model = tiny_model("qwen2_5_vl")
    batch = tiny_batch(model, "qwen2_5_vl", 2, num_responses=4)
    plain, shared = (scorer_for(model, mode).score(model, batch) for mode in ("plain", "prefix_shared"))
    assert shared.logps.shape[0] == 8
    assert_close(shared.logps, plain.logps, 1e-5)


@torch.no_grad()
def test_a_dense_mask_gives_the_same_states():
    model = tiny_model("llava")
    batch = tiny_batch(model, "llava", 2, num_responses=3)
    base, packed = model.get_base_model(), prefix_shared.pack(model, batch)
    features = prefix_shared.image_features(model, batch, batch.pixel_values)
    total = sum(packed.layout.pieces)
    sees = torch.zeros(total, total, dtype=torch.bool)
    start = 0
    for prefix, *responses in packed.layout.lengths:
        begin = start + prefix
        sees[start:begin, start:begin] = True
        for length in responses:
            end = begin + length
            sees[begin:end, start : start + prefix] = sees[begin:end, begin:end] = True
            begin = end
        start = begin
    additive = torch.zeros(1, 1, total, total).masked_fill(~sees.tril(), -torch.inf)
    inputs = {"input_ids": packed.input_ids, "position_ids": packed.position_ids}
    with prefix_shared.computed(base.model, features) as pixels:
        dense = base.model(**inputs, attention_mask=additive, pixel_values=pixels).last_hidden_state
    scorer_for(model, "prefix_shared")
    shared = prefix_shared.score(model, batch, packed, features)
    assert_close(shared.hidden[batch.mask], dense[0, packed.index], 1e-5)


@torch.no_grad()
def test_generating_works_as_before():
    model = tiny_model("qwen3_vl").eval()
    batch = tiny_batch(model, "qwen3_vl", 1)
    prompt = int(batch.positions[0, 0]) + 1
    inputs = {name: x[:1, :prompt] for name, x in batch.inputs.items()}
    inputs |= {"pixel_values": batch.pixel_values[0], **batch.image_inputs}
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    before = model.generate(**inputs, **options)
    scorer_for(model, "prefix_shared").score(model, batch)
    assert torch.equal(model.generate(**inputs, **options), before)


@torch.no_grad()
def test_the_tower_runs_once_per_images_and_sees_changed_pixels():
    model = tiny_model("llava")
    batch = tiny_batch(model, "llava", 2)
    scorer, runs = scorer_for(model, "prefix_shared"), []
    model.get_base_model().model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    noisy = batch.pixel_values + 1
    for pixels in (None, noisy, None, noisy, batch.pixel_values):
        with model.disable_adapter():
            scorer.score(model, batch, pixels)
    assert len(runs) == 2
    before = scorer.score(model, batch, noisy).logps
    noisy.mul_(3)
    assert not torch.equal(scorer.score(model, batch, noisy).logps, before)
    fresh = dataclasses.replace(batch)
    scorer.score(model, fresh)
    assert len(runs) == 4


def test_full_fine_tuning_trains_the_head():
    model = tiny_model("llava").merge_and_unload()
    batch = tiny_batch(_Unwrapped(model), "llava", 2)
    model.requires_grad_(False)
    model.model.language_model.requires_grad_(True)
    model.get_output_embeddings().requires_grad_(True)
    results = []
    for mode in ("plain", "prefix_shared"):
        scores = scorer_for(model, mode).score(model, batch)
        results.append(gradients(model, (scores.logps + scores.target_logits).sum()))
    assert "lm_head.weight" in results[0]
    for name, want in results[0].items():
        assert_close(results[1][name], want, 1e-5)
    frozen = copy.deepcopy(model).requires_grad_(False)
    scorer = Scorer()
    with torch.no_grad():
        reference = scorer.score(frozen, batch)
    assert torch.equal(scorer.score(model, batch).logps, reference.logps)


class _Unwrapped:
    """`tiny_batch` asks for the base of a PEFT model."""

    def __init__(self, model):
        self.get_base_model = lambda: model


def test_unsupported_models_are_refused_with_the_reason():
    model = tiny_model("llava")
    scorer = Scorer("prefix_shared")
    config = model.get_base_model().config
    scorer.check(config, "sdpa")
    with pytest.raises(InputError, match=r"attn_implementation='eager'.*use sdpa or use scoring=plain"):
        scorer.check(config, "eager")
    with pytest.raises(InputError, match="'llama' is not one of llava, llava_next"):
        scorer.check(config.text_config, "sdpa")
    Scorer("plain").check(config.text_config, "eager")
    model.get_base_model().model.multi_modal_projector.linear_1.weight.requires_grad_(True)
    with pytest.raises(InputError, match=r"multi_modal_projector.linear_1.*is trained.*scoring=plain"):
        scorer.attach(model)
    sliding = tiny_model("llava_next").get_base_model().config
    sliding.text_config.sliding_window = 64
    with pytest.raises(InputError, match="sliding window of 64"):
        scorer.check(sliding, "sdpa")
    with pytest.raises(ValueError, match="scoring='fast'"):
        Scorer("fast")
