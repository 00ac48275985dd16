"""dpo_loss against TRL's own DPOTrainer._compute_loss, called on a stub of the trainer."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from uedpo.loss import dpo_loss


class Model(torch.nn.Module):
    """Returns fixed log-probs; TRL's fused head gives 0 where the label is masked."""

    is_gradient_checkpointing = False

    def __init__(self, logps, mask):
        super().__init__()
        self.logps, self.mask = logps, mask

    def forward(self, **_):
        zero = torch.zeros_like(self.logps)
        return SimpleNamespace(
            log_probs=torch.where(self.mask, self.logps, 0),
            entropy=zero.detach(),
            mean_logits=zero.detach(),
            is_top1=self.mask,
        )


def trl_loss(policy, reference, mask, beta, loss_types, loss_weights, label_smoothing):
    model = Model(policy, mask)
    trainer = SimpleNamespace(
        model=model,
        ref_model=Model(reference, mask),
        accelerator=SimpleNamespace(device=policy.device, gather=lambda x: x, gather_for_metrics=lambda x: x),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=False,
        f_divergence_type="reverse_kl",
        loss_types=loss_types,
        loss_weights=loss_weights,
        label_smoothing=label_smoothing,
        beta=beta,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    # one token of prompt, whose prediction has no log-prob
    ids = torch.zeros(len(mask), mask.shape[1] + 1, dtype=torch.long)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": torch.cat([torch.zeros(len(mask), 1), mask], 1).long(),
    }
    # imported here, or every worker would while it collects: TRL takes seconds
    from trl.trainer.dpo_trainer import DPOTrainer

    return DPOTrainer._compute_loss(trainer, model, inputs, False)


@pytest.mark.parametrize(
    ("ours", "types", "weights"),
    [
        ({}, ["sigmoid"], [1.0]),
        ({"form": "ipo", "length_normalised": True}, ["ipo"], [1.0]),
        ({"form": "hinge"}, ["hinge"], [1.0]),
        ({"form": "robust", "label_smoothing": 0.1}, ["robust"], [1.0]),
        ({"length_normalised": True}, ["sigmoid_norm"], [1.0]),
        ({"sft": 0.7}, ["sigmoid", "sft"], [1.0, 0.7]),
    ],
    ids=["sigmoid", "ipo", "hinge", "robust", "sigmoid_norm", "sigmoid+sft"],
)
def test_dpo_equals_trl(ours, types, weights):
    rng = np.random.default_rng(0)
    for _ in range(40):
        pairs, t = rng.integers(1, 5), rng.integers(1, 9)
        policy, reference = torch.tensor(-rng.exponential(size=(2, 2 * pairs, t)))
        mask = torch.tensor(np.arange(t) < rng.integers(0, t + 1, 2 * pairs)[:, None])
        mask[0, 0] = True  # TRL's sft term is NaN without a chosen token
        beta = float(rng.uniform(0.05, 2))
        results = []
        for side in ("ours", "trl"):
            p = policy.clone().requires_grad_()
            if side == "ours":
                loss = dpo_loss(p, reference, mask, beta=beta, **ours).loss
            else:
                smoothing = ours.get("label_smoothing", 0.0)
                loss = trl_loss(p, reference, mask, beta, types, weights, smoothing)
            loss.backward()
            results.append((loss.detach(), p.grad))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
