"""Weights that are trained are fp32 masters: steps of 1e-6 are not lost where the model is bf16."""

import pytest
import torch

from tests import backbones
from tests.config.test_validate import problems
from uedpo.config.overrides import check_overrides
from uedpo.data.collate import PairCollator
from uedpo.loss import dpo_loss
from uedpo.model.hf import HFModel, lora
from uedpo.optim import adamw_cosine
from uedpo.scoring import Scorer


class Source(HFModel):
    """A tiny random model in the place of files."""

    def _weights(self, bits):
        return backbones.model(self.path, dtype=getattr(torch, self.dtype))


def moved_share(source, scoring, steps=100, lr=1e-6):
    """Share of the trained weights with a gradient that `steps` of AdamW change, in bf16-mixed."""
    policy, reference = source.load()
    scorer = Scorer(scoring)
    for model in (policy, reference):
        if model is not None:
            scorer.attach(model)
    batch = PairCollator(backbones.processor(source.path), 50)(backbones.pairs())
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    reached = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in trained.items()}
    optimizer, schedule = adamw_cosine(trained.values(), steps, lr=lr, warmup=0.0, final=1.0)
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16):
            logps = scorer.score(policy, batch).logps
            loss = dpo_loss(logps, logps.detach() - 0.1, batch.mask, beta=0.1).loss
        optimizer.zero_grad()
        loss.backward()
        for name, p in trained.items():
            if p.grad is not None:
                reached[name] |= p.grad != 0
        optimizer.step()
        schedule.step()
    assert {p.dtype for p in trained.values()} == {torch.float32}
    moved = sum(int((p.detach() != before[n])[reached[n]].sum()) for n, p in trained.items())
    return moved / sum(int(mask.sum()) for mask in reached.values()), reached


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "smolvlm"])
@pytest.mark.cases(1)
def test_full_fine_tuning_moves_the_weights(family):
    share, reached = moved_share(Source(family, dtype="bfloat16"), "prefix_shared")
    assert share > 0.95
    assert reached["lm_head.weight"].float().mean() > 0.95


@pytest.mark.slow
def test_a_trained_projector_moves():
    source = Source("llava", dtype="bfloat16", lora=lora(r=2, alpha=2.0), train_projector=True)
    share, reached = moved_share(source, "plain")
    assert share > 0.95
    assert any("projector" in name for name in reached)


def test_frozen_weights_stay_half():
    policy, reference = Source("llava", dtype="bfloat16").load()
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert {p.dtype for p in reference.parameters()} == {torch.bfloat16}
    options = {"lora": lora(r=2, alpha=2.0), "train_projector": True}
    policy, _ = Source("llava", dtype="bfloat16", **options).load()
    assert {p.dtype for p in policy.parameters() if not p.requires_grad} == {torch.bfloat16}
    policy, _ = Source("llava", dtype="float64").load()
    assert policy.dtype == torch.float64


def test_a_projector_in_fp32_needs_mixed_precision():
    asked = ["model.dtype=bfloat16", "model.train_projector=true", "scoring=plain"]
    assert "only trainer.precision=bf16-mixed computes" in problems(*asked)
    check_overrides([*asked, "trainer.precision=bf16-mixed"])
