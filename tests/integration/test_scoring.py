import dataclasses

import pytest
import torch

from uedpo.data.collate import PairCollator
from uedpo.microworld.data import MicroWorldPairs
from uedpo.scoring.plain import score
from uedpo.types import PreferencePair
from uedpo.weights.probe import UncertaintyProbe
from uedpo.weights.uncertainty import epistemic_uncertainty, visual_sensitivity


@pytest.fixture(scope="module")
def policy(source):
    model = source.load()[0]
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.02)
    return model


@pytest.fixture(scope="module")
def pairs():
    return [MicroWorldPairs("val", 12)[i] for i in range(4)]


@pytest.fixture(scope="module")
def batch(pairs, processor):
    return PairCollator(processor, 200)(pairs)


def full_logits(model, batch, pixels):
    """The naive forward: all logits, moved so that [:, t] predicts tokens[:, t]."""
    logits = model(**batch.inputs, pixel_values=torch.cat([pixels, pixels])).logits
    return logits.gather(1, batch.positions[..., None].expand(-1, -1, logits.shape[-1]))


@torch.no_grad()
def test_scores_equal_a_naive_forward(policy, batch):
    scores = score(policy, batch)
    logits = full_logits(policy, batch, batch.pixel_values)
    keep = batch.mask
    naive = logits.log_softmax(-1).gather(-1, batch.tokens[..., None]).squeeze(-1)
    torch.testing.assert_close(scores.logps[keep], naive[keep], atol=1e-5, rtol=1e-5)
    assert torch.equal(scores.argmax[keep], logits.argmax(-1)[keep])
    probabilities = logits.softmax(-1)
    entropy = -(probabilities * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(scores.entropy[keep], entropy[keep], atol=1e-4, rtol=1e-4)
    assert (scores.logps[~keep] == 0).all()


@torch.no_grad()
def test_probe_signals_equal_the_readable_functions(policy, batch):
    probe = UncertaintyProbe(alpha=0.3)
    noisy = probe.corrupt(batch, 0)
    signals = probe.signals(batch, score(policy, batch), score(policy, batch, noisy))
    clear, corrupted = (full_logits(policy, batch, x) for x in (batch.pixel_values, noisy))
    keep = batch.mask
    u = epistemic_uncertainty(clear, corrupted, batch.tokens)
    delta = visual_sensitivity(clear, corrupted, batch.tokens)
    torch.testing.assert_close(signals.uncertainty[keep], u[keep], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(signals.sensitivity[keep], delta[keep], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_no_corruption_gives_delta_zero_and_u_best_minus_target(policy, batch):
    clear, again = score(policy, batch), score(policy, batch, batch.pixel_values)
    signals = UncertaintyProbe(alpha=0.3).signals(batch, clear, again)
    assert (signals.sensitivity == 0).all()
    right = clear.argmax == batch.tokens
    assert (signals.uncertainty[right & batch.mask] == 0).all()
    assert (signals.uncertainty[batch.mask] > -1e-4).all()


@torch.no_grad()
def test_scores_do_not_depend_on_the_rest_of_the_batch(policy, pairs, batch, processor):
    together = score(policy, batch)
    for i, pair in enumerate(pairs):
        alone = score(policy, PairCollator(processor, 200)([pair]))
        for row, own in ((i, 0), (i + len(pairs), 1)):
            keep = batch.mask[row]
            torch.testing.assert_close(
                together.logps[row][keep], alone.logps[own][: keep.sum()], atol=1e-5, rtol=1e-5
            )


@torch.no_grad()
def test_text_only_rows_score_and_weigh_one(policy, pairs, processor):
    blind = dataclasses.replace(pairs[1], image=None)
    mixed = PairCollator(processor, 200)([pairs[0], blind, pairs[2]])
    assert mixed.has_image.tolist() == [True, False, True]
    for scope in ("response", "batch"):
        probe = UncertaintyProbe(alpha=0.5, scope=scope)
        signals = probe.signals(mixed, score(policy, mixed), score(policy, mixed, probe.corrupt(mixed, 0)))
        assert (signals.weights[[1, 4]] == 1).all()
        assert (signals.weights[[0, 2]] > 1).any()
    alone = PairCollator(processor, 200)([blind])
    torch.testing.assert_close(
        score(policy, mixed).logps[1][mixed.mask[1]],
        score(policy, alone).logps[0][alone.mask[0]], atol=1e-5, rtol=1e-5,
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("control", ["constant", "shuffled", "mean_one"])
def test_controls_keep_the_weights_and_lose_the_tokens(policy, batch, control):
    probe = UncertaintyProbe(alpha=0.5, control=control)
    signals = probe.signals(batch, score(policy, batch), score(policy, batch, probe.corrupt(batch, 0)))
    got = probe._controlled(signals.weights, batch, step=3)
    assert torch.equal(got, probe._controlled(signals.weights, batch, step=3))
    for side, mask in zip(got.chunk(2), batch.mask.chunk(2), strict=True):
        if control == "constant":
            assert side[mask].unique().numel() == 1
    for half in range(2):
        rows = slice(half * len(batch.ids), (half + 1) * len(batch.ids))
        keep = batch.mask[rows]
        mean = signals.weights[rows][keep].mean()
        torch.testing.assert_close(got[rows][keep].mean(), torch.ones(()) if control == "mean_one" else mean)
        if control == "mean_one":
            torch.testing.assert_close(got[rows][keep] * mean, signals.weights[rows][keep])
    if control == "shuffled":
        for row, keep in enumerate(batch.mask):
            assert torch.equal(got[row][keep].sort().values, signals.weights[row][keep].sort().values)
        assert not torch.equal(got, signals.weights)
    assert (got[~batch.mask] == 1).all()


def test_processor_round_trips_and_placeholders_match(processor, pairs, batch):
    tokenizer = processor.tokenizer
    for pair in pairs:
        for text in (pair.chosen, pair.rejected, "Zebra, 3 naïve café: ✓"):
            assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert ((batch.inputs["input_ids"] == image).sum(1) == 64).all()
    for i, pair in enumerate(pairs):
        ids = batch.tokens[i][batch.mask[i]]
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]).strip() == pair.chosen


def test_only_the_tail_of_a_response_is_cut(processor, pairs):
    short = PairCollator(processor, 5)(pairs)
    assert (short.mask.sum(1) == 5).all()
    whole = PairCollator(processor, 200)(pairs)
    assert torch.equal(short.tokens, whole.tokens[:, :5])
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert ((short.inputs["input_ids"] == image).sum(1) == 64).all()


def test_processor_keys_we_do_not_carry_are_refused(processor):
    class Extra:
        tokenizer = processor.tokenizer
        apply_chat_template = processor.apply_chat_template

        def __call__(self, **kwargs):
            return processor(**kwargs) | {"video_grid_thw": torch.ones(1, 3)}

    pair = MicroWorldPairs("val", 1)[0]
    with pytest.raises(ValueError, match="video_grid_thw"):
        PairCollator(Extra(), 9)([PreferencePair("a", pair.image, "p", "c", "r")])
