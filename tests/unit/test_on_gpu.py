"""What a GPU computes is what the CPU computes; rehearsed on the CPU, where only the precision differs."""

import copy

import pytest
import torch

from tests.tiny import FAMILIES, tiny_batch, tiny_model
from uedpo.loss import ue_dpo_loss
from uedpo.scoring import Scorer

DEVICES = [pytest.param("cpu", id="rehearsed"), pytest.param("cuda", marks=pytest.mark.gpu)]


def scored(model, batch, mode, precision=torch.float32):
    """(log-probabilities, loss, gradients) on the device of the model, given back on the CPU."""
    device = next(model.parameters()).device
    scorer = Scorer(mode)
    scorer.attach(model)
    model.zero_grad()
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        logps = scorer.score(model, batch.to(device)).logps
    weights = torch.linspace(0.7, 1.3, logps.shape[1], device=device).expand_as(logps)
    mask = batch.mask.to(device)
    loss = ue_dpo_loss(logps, torch.zeros_like(logps), mask, weights, beta=0.1).loss
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    return logps.detach().cpu(), loss.item(), gradients.float().cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_gradients_are_those_of_the_cpu(family, device):
    model = tiny_model(family)
    batch = tiny_batch(model, family, 2, text_only=(1,))
    logps, loss, gradients = scored(copy.deepcopy(model), batch, "plain")
    model.to(device)
    with torch.backends.cudnn.flags(enabled=False):  # it would round to TF32
        exact = scored(model, batch, "prefix_shared")
    torch.testing.assert_close(exact[0], logps, atol=1e-3, rtol=1e-3)
    assert exact[1] == pytest.approx(loss, rel=1e-3)
    assert torch.cosine_similarity(exact[2], gradients, 0) > 0.999
    model.get_base_model().bfloat16()  # as a model of real size is trained
    rough = scored(model, batch, "prefix_shared", torch.bfloat16)
    torch.testing.assert_close(rough[0], logps, atol=0.3, rtol=0.1)
    assert torch.cosine_similarity(rough[2], gradients, 0) > 0.97
