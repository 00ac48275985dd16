"""`python -m uedpo.plan`: no weights, honest figures, one line for bad input."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.tiny import tiny_llava
from uedpo.plan import __main__ as plan
from uedpo.scoring import attention, varlen

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "plan_memory"
FEW = ("data.train.num_pairs=8", "data.val.num_pairs=2")


@pytest.fixture
def run(monkeypatch, capsys):
    """run("key=value", ...) -> (exit code, stdout, stderr); loading weights fails the test."""
    monkeypatch.setattr(
        AutoModelForImageTextToText, "from_pretrained", lambda *a, **k: pytest.fail("weights were loaded")
    )

    def go(*arguments):
        monkeypatch.setattr(sys, "argv", ["plan", *arguments])
        return plan.main(), *capsys.readouterr()

    return go


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return f"model.path={tiny_llava(tmp_path_factory.mktemp('tiny'))}"


def megabytes(line):
    return float(re.search(r"([\d.]+) MB", line)[1])


@pytest.mark.slow
def test_plan_says_what_would_fit(run, tiny):
    code, out, err = run(*FEW, tiny, "data.batch_size=2", "rows=3", "device_gb=0.0025", "device_tflops=1")
    assert (code, err) == (0, "")
    memory = out[: out.index("work for a pair")]
    lines = {line.strip().split("  ")[0]: line for line in memory.splitlines()}
    parts = ("frozen weights", "trained parameters", "gradients", "optimiser state")
    total = megabytes(lines["total"])
    listed = out[out.index("at the peak") : out.index("  total")].splitlines()[1:]
    assert sum(map(megabytes, listed)) == pytest.approx(total, abs=0.1)
    assert megabytes(lines["optimiser state"]) == pytest.approx(2 * megabytes(lines["gradients"]), rel=0.01)
    assert all(part in lines for part in parts)
    assert "does not fit" in lines["total"]
    advised = out[out.index("to fit, one change") : out.index("work for a pair")].splitlines()[1:-1]
    assert any("model.gradient_checkpointing=true" in line and line.endswith("  fits") for line in advised)
    assert any(line.split()[0] == "data.batch_size=1" for line in advised)
    assert all(megabytes(line) < total for line in advised)
    assert "mfu=0.4" in out
    assert "WARNING" not in out


def test_plan_counts_given_lengths(run, tiny):
    made_up = ("prompt_tokens=30", "response_tokens=20", "image_size=96x96")
    code, out, _ = run(*made_up, tiny, "data.batch_size=1", "device=h100")
    assert code == 0
    assert out.startswith("WARNING: trainer.accelerator=cpu")
    assert "add trainer=gpu for a run on h100" in out.splitlines()[0]
    prompt, image, chosen, rejected = map(int, re.search(r"all +(.+)", out)[1].split())
    assert abs(prompt - 30) <= 1
    assert (image, chosen, rejected) == (64, 20, 20)
    assert "attention: segments (no GPU)\n" in out


@pytest.mark.slow
def test_plan_counts_the_attention_of_the_planned_device(run, monkeypatch):
    made_up = ("prompt_tokens=30", "response_tokens=20", "image_size=96x96", "data.batch_size=1")
    kept = []
    for there in (True, False):
        if not there:
            monkeypatch.setattr(varlen, "torch_function", lambda: None)
            attention._kernel.cache_clear()
        code, out, _ = run(*made_up, "device=h100", "trainer=gpu")
        assert code == 0
        kept.append(megabytes(out[out.index("kept from the policy") :]))
        named = "attention: torch varlen_attn" if there else f"attention: segments (torch {torch.__version__}"
        assert named in out
    attention._kernel.cache_clear()
    assert kept[0] != kept[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["mfu=2", "rows=x", "prompt_tokens=5"], ["mfu=2", "rows=x", "response_tokens, image_size: missing"]),
        (["device=abacus"], ["device=abacus", "h100"]),
        (["weights.alpa=0.2"], ["weights.alpa"]),
        (["optim.lr=0.1,0.2"], ["optim.lr: one value, no sweep"]),
        (["model=llava15_7b", "model.path=no/such"], ["no/such", "is not on this machine"]),
        (
            ["data=jsonl", "data.train.path=no.jsonl", "data.val.path=no.jsonl"],
            ["no.jsonl", "prompt_tokens="],
        ),
    ],
)
def test_plan_refuses_in_lines(run, arguments, named):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert all(name in err for name in named)
    assert len(err.splitlines()) <= 1 + len(arguments)


def test_plan_leaves_what_is_rejected_to_check(run, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"image": null, "prompt": "a", "chosen": "b", "rejected": "b"}\n' * 2)
    code, _, err = run("data=files", f"data.path={tmp_path / 'a.jsonl'}", "data.val_share=0.5")
    assert code == 2
    assert "IDENTICAL_PAIR" in err
    assert "written by python -m uedpo.check" in err
    assert "prompt_tokens=" not in err


@pytest.mark.parametrize(
    "setting",
    ["micro ue_dpo LoRA plain", pytest.param("qwen2_5_vl/wide dpo full", marks=pytest.mark.slow)],
)
@pytest.mark.slow
def test_plan_estimate_is_the_measured_peak(monkeypatch, setting):
    monkeypatch.syspath_prepend(EXPERIMENT)
    experiment = importlib.import_module("experiments.plan_memory.run")
    (number,) = (i for i, case in enumerate(experiment.CASES) if setting in case.name)
    real, made = experiment.measured_in_own_process(number), experiment.estimated(experiment.CASES[number])
    assert made == pytest.approx(real["peak"], rel=0.15)
    assert made - real["held"] == pytest.approx(real["peak"] - real["held"], rel=0.15)
