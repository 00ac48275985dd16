"""The paper's settings: hyper-parameters, and that nobody claims a result that was not measured."""

import itertools

import pytest

from tests.config.test_validate import EXPERIMENTS, composed
from uedpo.config.overrides import conf_folder
from uedpo.config.validate import validate

# the paper's alpha, and steps of 64 pairs in two epochs
ALPHA = {"llava15_7b": 0.3, "llava15_13b": 0.25, "qwen25vl_3b": 0.15}
STEPS = {"rlhfv": 176, "rlaifv": 500}


@pytest.mark.parametrize(("model", "data"), itertools.product(ALPHA, STEPS))
def test_recipe_is_what_the_paper_trained(model, data):
    cfg = composed(f"+experiment=paper_{model}_{data}")
    validate(cfg)
    assert (cfg.name, cfg.global_batch, cfg.model.lora.r) == (f"paper_{model}_{data}", 64, 128)
    assert (cfg.weights.alpha, cfg.weights.tau, cfg.corruption.k) == (ALPHA[model], 0.4, 500)
    assert (cfg.loss.beta, cfg.optim.lr, cfg.trainer.max_steps) == (0.1, 1e-5, STEPS[data])
    assert cfg.loss._target_.endswith("ue_dpo_loss")
    assert cfg.trainer.devices <= 4
    assert ("RLAIF-V" in str(cfg.data)) == (data == "rlaifv")


def test_recipes_say_what_was_expected_and_that_none_has_run():
    recipes = [name for name in EXPERIMENTS if name.startswith("paper_")]
    assert len(recipes) == len(ALPHA) * len(STEPS)
    for name in recipes:
        lines = (conf_folder() / "experiment" / f"{name}.yaml").read_text().splitlines()
        assert sum(line.startswith("# Expected: ") for line in lines) == 1
        assert "# Reproduced? not yet run" in lines
