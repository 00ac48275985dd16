"""What one training step hands to its loss: weights as they are, corrupted images of this very step."""

import functools
from types import SimpleNamespace

import pytest
import torch

from tests.tiny import tiny_batch, tiny_model
from uedpo.loss import mdpo_loss, tpo_loss, ue_dpo_loss, v_dpo_loss
from uedpo.module import PreferenceModule
from uedpo.scoring import Scorer
from uedpo.types import LossOutput


class Seen:
    """A corruption that remembers the steps it is asked for."""

    spatial = blanks = before_normalising = False

    def __init__(self):
        self.steps = []

    def __call__(self, pixel_values, sample_ids, step, *args, **kwargs):
        self.steps.append(step)
        return pixel_values * (1 + 0.1 * (step + 1))


def module_of(loss, step):
    model = tiny_model("llava")
    module = PreferenceModule(SimpleNamespace(lora=object(), train_projector=False), loss, None,
                              corruption=Seen(), scorer=Scorer("plain"))  # fmt: skip
    module.policy = model
    module.scorer.attach(model)
    module._trainer = SimpleNamespace(global_step=step)
    return module, tiny_batch(model, "llava", 2)


LOSSES = {
    "tpo": (tpo_loss, {"beta": 0.1}),
    "tpo_constant": (tpo_loss, {"beta": 0.1, "stop_gradient": True}),
    "mdpo": (mdpo_loss, {"beta": 0.1}),
    "v_dpo": (v_dpo_loss, {"beta": 0.1, "gamma": 1.5}),
}


def partial(name):
    function, options = LOSSES[name]
    return functools.partial(function, **options)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("step", [0, 7])
def test_a_loss_sees_the_corrupted_images_of_its_own_step(name, step):
    module, batch = module_of(partial(name), step)
    module.training_step(batch, 0)
    assert module.corruption.steps == [step]


def test_two_steps_of_one_loss_do_not_share_their_noise():
    losses = []
    for step in (0, 7):
        module, batch = module_of(partial("mdpo"), step)
        losses.append(float(module.training_step(batch, 0).detach()))
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("name", "graph"), [("tpo", True), ("tpo_constant", False), ("mdpo", True), ("v_dpo", False)]
)
def test_the_corrupted_pass_builds_a_graph_only_where_its_loss_uses_it(name, graph):
    module, batch = module_of(partial(name), 3)
    passes, score = [], module.scorer.score

    def watched(model, batch, pixels=None):
        scores = score(model, batch, pixels)
        if pixels is not None:
            passes.append(scores.logps.requires_grad)
        return scores

    module.scorer.score = watched
    module.training_step(batch, 0).backward()
    assert passes[0] is graph  # the policy's; the reference's never does
    assert not any(passes[1:])


def test_without_a_graph_the_gradient_is_the_one_that_it_would_have_been(monkeypatch):
    for name in ("v_dpo", "tpo_constant"):
        found = []
        for constant in (True, False):
            monkeypatch.setattr(
                "uedpo.module.takes_constant_corrupted", lambda loss, constant=constant: constant
            )
            module, batch = module_of(partial(name), 3)
            module.training_step(batch, 0).backward()
            found.append([p.grad.clone() for p in module.policy.parameters() if p.grad is not None])
        assert len(found[0]) > 0
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_weights_reach_the_loss_as_the_weigher_made_them():
    """From 0 to 5 times: no bound but those of the method itself."""
    given = []

    def loss(policy_logps, reference_logps, mask, weights, **more):
        given.append(weights)
        return ue_dpo_loss(policy_logps, reference_logps, mask, weights, beta=0.1)

    module, batch = module_of(loss, 0)
    wanted = torch.linspace(0, 5, batch.mask.numel()).reshape(batch.mask.shape)
    module.set_weigher(lambda batch, policy: wanted)
    total = module.training_step(batch, 0)
    assert torch.equal(given[0], wanted)
    policy, reference = module.last_logps
    alone: LossOutput = ue_dpo_loss(policy, reference, batch.mask, wanted, beta=0.1)
    torch.testing.assert_close(total.detach(), alone.loss)
