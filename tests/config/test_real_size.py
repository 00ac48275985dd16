"""A model of real size brings what it can be trained with; the micro-world's values stay as they are."""

import types

import pytest

from tests.config.test_validate import composed
from uedpo.config.effective import effective_lines
from uedpo.config.overrides import conf_folder
from uedpo.config.validate import validate

REAL = sorted(p.stem for p in (conf_folder() / "model").glob("*.yaml") if p.stem not in ("micro_llava", "hf"))
MORE = [[], ["trainer=gpu"], ["+method=dpo"], ["+method=tpo"]]
FILES = ["data=files", "data.path=rows.jsonl"]


def config(layers, hidden):
    text = types.SimpleNamespace(num_hidden_layers=layers, hidden_size=hidden)
    return types.SimpleNamespace(get_text_config=lambda: text)


@pytest.mark.parametrize("model", [*REAL, "hf"])
@pytest.mark.parametrize("more", MORE)
@pytest.mark.cases(8)
def test_a_real_model_alone_is_sane(model, more):
    path = ["model.path=org/name"] if model == "hf" else []
    cfg = composed(*FILES, f"model={model}", *path, *more)
    validate(cfg)
    assert (cfg.optim.lr, cfg.loss.beta) == (1e-5, 0.1)
    assert (cfg.trainer.precision, cfg.model.dtype) == ("bf16-mixed", "bfloat16")
    assert (cfg.model.gradient_checkpointing, cfg.trainer.gradient_clip_val) == (True, 1.0)


def test_what_the_command_line_says_is_kept():
    cfg = composed(
        *FILES, "model=llava15_7b", "optim.lr=0.00002", "loss.beta=0.2", "trainer.precision=32-true"
    )
    assert (cfg.optim.lr, cfg.loss.beta, cfg.trainer.precision) == (2e-5, 0.2, "32-true")


def test_the_micro_world_keeps_its_own():
    cfg = composed()
    assert (cfg.optim.lr, cfg.loss.beta, cfg.trainer.precision) == (0.002, 0.3, "32-true")


def test_the_effective_values_are_one_line_and_a_rate_far_above_the_papers_a_warning():
    cfg = composed(*FILES, "model=llava15_7b")
    (line,) = effective_lines(cfg, config(32, 4096))
    assert "LoRA r=128: optim.lr=1e-05, loss.beta=0.1, 1 pairs a step" in line
    assert "bfloat16 weights, bf16-mixed, gradient checkpointing on" in line
    cfg = composed(*FILES, "model=llava15_7b", "optim.lr=0.0001")
    assert len(effective_lines(cfg, config(32, 4096))) == 1
    cfg = composed(*FILES, "model=llava15_7b", "optim.lr=0.002")
    assert effective_lines(cfg, config(32, 4096))[1].startswith(
        "WARNING: optim.lr=0.002 is 200 times the rate"
    )
    assert len(effective_lines(composed(), config(3, 192))) == 1  # the micro-world's model
