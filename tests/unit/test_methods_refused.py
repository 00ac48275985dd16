"""Inputs and settings that the losses of the methods refuse."""

import math

import pytest
import torch

from uedpo.loss import (
    da_dpo_loss,
    dpo_loss,
    mdpo_loss,
    napo_loss,
    opa_dpo_loss,
    rlhf_v_loss,
    tpo_loss,
    v_dpo_loss,
)

X = torch.zeros(4, 3)
EXTRA = {
    dpo_loss: {},
    tpo_loss: {"policy_sensitivity": X, "reference_sensitivity": X},
    v_dpo_loss: {"corrupted_policy_logps": X, "gamma": 1.5},
    mdpo_loss: {"corrupted_policy_logps": X, "corrupted_reference_logps": X},
    napo_loss: {},
    rlhf_v_loss: {"weights": X},
    opa_dpo_loss: {},
    da_dpo_loss: {"similarity": torch.zeros(4)},
}


@pytest.mark.parametrize("loss", EXTRA)
def test_every_method_refuses_beta_rows_and_shapes(loss):
    for beta in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="beta"):
            loss(X, X, X, beta=beta, **EXTRA[loss])
    cut = {k: v[:3] if isinstance(v, torch.Tensor) else v for k, v in EXTRA[loss].items()}
    with pytest.raises(ValueError, match="rows"):
        loss(X[:3], X[:3], X[:3], beta=1.0, **cut)
    with pytest.raises(ValueError, match="shape"):
        loss(X, X[:, :2], X, beta=1.0, **EXTRA[loss])


@pytest.mark.parametrize("loss", [dpo_loss, tpo_loss, v_dpo_loss, mdpo_loss, napo_loss, da_dpo_loss])
def test_methods_without_token_weights_refuse_them(loss):
    with pytest.raises(ValueError, match="weights"):
        loss(X, X, X, X, beta=1.0, **EXTRA[loss])


@pytest.mark.parametrize(
    ("loss", "key", "bad"),
    [
        (dpo_loss, "form", {"form": "exo"}),
        (dpo_loss, "label_smoothing", {"label_smoothing": 0.5}),
        (dpo_loss, "label_smoothing", {"label_smoothing": -0.1}),
        (dpo_loss, "label_smoothing", {"form": "robust", "label_smoothing": 0.5}),
        (dpo_loss, "label_smoothing", {"form": "ipo", "label_smoothing": 0.1}),
        (dpo_loss, "label_smoothing", {"form": "hinge", "label_smoothing": 0.1}),
        (dpo_loss, "sft", {"sft": -0.1}),
        (tpo_loss, "policy_sensitivity", {"policy_sensitivity": X[:, :2]}),
        (tpo_loss, "reference_sensitivity", {"reference_sensitivity": X[:2]}),
        (v_dpo_loss, "gamma", {"gamma": 0.0}),
        (v_dpo_loss, "gamma", {"gamma": -1.0}),
        (v_dpo_loss, "label_smoothing", {"label_smoothing": 0.5}),
        (v_dpo_loss, "corrupted_policy_logps", {"corrupted_policy_logps": X[:, :2]}),
        (mdpo_loss, "corrupted_policy_logps", {"corrupted_policy_logps": X[:, :2]}),
        (mdpo_loss, "corrupted_reference_logps", {"corrupted_reference_logps": X[:, :2]}),
        (mdpo_loss, "image", {"image": -1.0}),
        (mdpo_loss, "anchor", {"anchor": -1.0}),
        (napo_loss, "rejected", {"rejected": -1.0}),
        (napo_loss, "question_only", {"question_only": -1.0}),
        (napo_loss, "image_only", {"image_only": -1.0}),
        (rlhf_v_loss, "weights", {"weights": X[:, :2]}),
        (opa_dpo_loss, "weights", {"weights": X[:, :2]}),
        (opa_dpo_loss, "anchor", {"anchor": -1.0}),
        (da_dpo_loss, "similarity", {"similarity": torch.zeros(2)}),
        (da_dpo_loss, "scale", {"scale": 0.0}),
    ],
)
def test_bad_settings_are_refused_by_name(loss, key, bad):
    with pytest.raises(ValueError, match=key):
        loss(X, X, X, **{"beta": 1.0, **EXTRA[loss], **bad})


def test_napo_wants_four_blocks_of_rows():
    x = torch.zeros(6, 3)
    with pytest.raises(ValueError, match="rows"):
        napo_loss(x, x, x, beta=1.0)
