"""Small things that users meet: axes, names of data, apostrophes, counts of a sweep, where a best run is."""

import re

import pytest

from tests.unit.test_sweep import run_folder
from uedpo.loss import dpo_loss
from uedpo.report.card import _parity
from uedpo.report.charts import BOTTOM, HEIGHT, TOP, Line, fan_chart, line_chart
from uedpo.report.page import token_section
from uedpo.report.tables import settings
from uedpo.runtime import preemption
from uedpo.sweep.journal import Sweep, Trial
from uedpo.sweep.summary import summary


@pytest.mark.parametrize("low", [0.0, 0.2, 0.99, 1.0, 1.01, 1.13, 7.0, -0.3])
@pytest.mark.parametrize("span", [0.01, 0.07, 0.13, 0.3, 0.45, 1.7, 23.0])
def test_no_tick_lies_outside_the_axes(low, span):
    steps = list(range(20))
    rows = [[low + span * (f + s / 40) / 1.5 for f in (0, 0.2, 0.5, 0.8, 1)] for s in steps]
    lines = [Line("a", [(s, row[2]) for s, row in zip(steps, rows, strict=True)], 0)]
    for svg in (str(fan_chart("n", "t", steps, rows, 0)), str(line_chart("n", "t", lines))):
        heights = [float(y) for y in re.findall(r'class="grid" d="M[\d.]+ ([-\d.]+)H', svg)]
        assert len(heights) >= 2
        assert all(TOP - 0.2 <= y <= HEIGHT - BOTTOM + 0.2 for y in heights), heights


def config(data):
    return {
        "model": {"path": "m", "lora": None}, "trainer": {"max_steps": 3}, "seed": 0, "data": data,
        "loss": {"_target_": f"{dpo_loss.__module__}.dpo_loss"}, "optim": {"_target_": "a.adamw"},
        "weights": {},
    }  # fmt: skip


def test_own_data_are_named_in_the_report():
    own = {"_target_": "uedpo.data.files.file_data", "path": "train.jsonl", "val_path": None}
    own["val_share"] = 0.02
    assert settings(config(own))["data"] == "file_data: path train.jsonl, val_share 0.02"
    two = own | {"val_path": "val.jsonl"}
    assert settings(config(two))["data"] == "file_data: path train.jsonl, val_path val.jsonl"


def test_the_card_writes_apostrophes_as_they_are(tmp_path):
    from uedpo.export import Parity

    assert "the run's data" in _parity(Parity(3, 1e-7, 0.1, 1e-4))


def token(weight):
    return {"text": "cup", "logp": -1.0, "u": 0.0, "delta": 0.0, "weight": weight, "type": "I"}


def test_the_strongest_tokens_are_those_of_the_model_that_is_shown():
    side = {"before": [token(1.3)], "after": [token(1.1)]}
    trace = {"id": "a", "prompt": "p", "chosen": side, "rejected": side, "says": {}}
    (pair,) = token_section([trace])["pairs"]
    found = pair["sides"]["chosen"]["strongest"]
    assert found["before"] == "Pressed hardest: “cup” 1.30 (λ, base model)."
    assert found["after"] == "Pressed hardest: “cup” 1.10 (λ, trained model)."


def test_skipped_trials_are_counted_as_skipped(tmp_path):
    for name in "ab":
        run_folder(tmp_path / name, seed=ord(name))
    trials = {k: Trial(k, k, [], "finished") for k in "ab"}
    trials["c"] = Trial("c", "c", [], "failed", reason="x")
    sweep = Sweep(trials, 3, touched={"a": "stored", "b": "finish", "c": "fail"})
    text = summary(tmp_path, sweep, [trials["c"]], None, None, "shift")
    assert text.startswith("3 trials: 1 finished, 1 skipped (had before), 1 failed.")


def test_a_signal_names_the_keys_that_go_on(monkeypatch, capsys):
    monkeypatch.setattr(preemption, "_remedy", "")
    monkeypatch.setattr(preemption, "_requested", [2])
    preemption.go_on_with("hydra.sweep.dir=DIR")
    preemption.go_on_with("hydra.run.dir=DIR/0 resume=auto")  # of a trial inside
    preemption.Preempted("saved after step 3 of 9")
    said = capsys.readouterr().err
    assert "saved after step 3 of 9; go on with the same command and hydra.sweep.dir=DIR; exit" in said
    assert "run.dir" not in said
