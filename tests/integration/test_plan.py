"""`python -m uedpo.plan`: no weights, honest figures, one line for bad input."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText

from uedpo import plan

RUN = Path(__file__).parents[2] / "experiments" / "plan_memory" / "run.py"


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


def megabytes(line):
    return float(re.search(r"([\d.]+) MB", line)[1])


def test_plan_says_what_would_fit(run):
    code, out, err = run("data.batch_size=2", "rows=3", "device_gb=0.028", "device_tflops=1")
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


def test_plan_counts_given_lengths(run):
    code, out, _ = run("prompt_tokens=30", "response_tokens=20", "image_size=96x96", "data.batch_size=1")
    assert code == 0
    prompt, image, chosen, rejected = map(int, re.search(r"all +(.+)", out)[1].split())
    assert abs(prompt - 30) <= 1
    assert (image, chosen, rejected) == (64, 20, 20)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["mfu=2", "rows=x", "prompt_tokens=5"], ["mfu=2", "rows=x", "response_tokens, image_size: missing"]),
        (["device=abacus"], ["device=abacus", "h100"]),
        (["weights.alpa=0.2"], ["weights.alpa"]),
        (["model=llava15_7b", "model.path=no/such"], ["no/such", "config and processor files"]),
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


@pytest.mark.parametrize("setting", ["micro ue_dpo LoRA plain", "qwen2_5_vl/wide dpo full"])
def test_plan_estimate_is_the_measured_peak(setting):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", RUN, "--only", setting], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    worst = re.search(r"1 settings; most off: ([\d.]+) % of the peak, ([\d.]+) % of the rest", done.stdout)
    assert float(worst[1]) < 15
    assert float(worst[2]) < 15
