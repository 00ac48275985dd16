"""The program as a user calls it."""

import csv
import importlib
import json
import subprocess
import sys

import pytest

from tests.integration.test_sweep import without_pictures
from tests.processes import PRELOADED, run
from tests.tiny import tiny_llava
from uedpo.results.statistics import CAPTION_RATIOS
from uedpo.results.store import read_rows, unpack

TINY = [
    "trainer.max_steps=3", "trainer.val_every_n_batches=1", "evaluation.num_shift=12",
    "evaluation.num_train=6", "data.batch_size=2", "data.val.num_pairs=4", "threads=1",
]  # fmt: skip
TINIER = [
    "trainer.max_steps=1", "evaluation.num_shift=3", "evaluation.num_train=0", "evaluation.max_new_tokens=8",
    "callbacks.best=null", "callbacks.last=null", "callbacks.progress=null",
    "report_pairs=0", "data.batch_size=2", "data.train.num_pairs=4", "data.val.num_pairs=1", "threads=1",
]  # fmt: skip


def uedpo(*arguments, check=True):
    done = run("uedpo.run", *arguments)
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def whole_process(*arguments):
    """The same with all its imports, as a user starts it."""
    command = [sys.executable, "-m", "uedpo.run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The smallest run of the smallest model."""
    return [*TINIER, f"model.path={tiny_llava(tmp_path_factory.mktemp('model'))}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    done = uedpo(*TINY, f"hydra.run.dir={path}")
    assert f"open {path / 'report.html'}" in done.stdout.splitlines()[-1]
    return path


def test_run_directory_is_complete(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    for when in ("before", "after"):
        assert set(metrics[when]) == {"shift", "train"}
        assert metrics[when]["shift"]["words"]["denominator"] == 12
        assert metrics[when]["shift"]["chair_i"]["low"] is not None
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    for name in ("train/loss", "val/loss", "weights/reweighted", "perf/pairs_per_second"):
        assert any(row[name] for row in rows), name
    assert (folder / "checkpoints/last.ckpt").is_file()
    assert (folder / "checkpoints/best.ckpt").is_file()
    traces = json.loads((folder / "traces.json").read_text())
    token = traces[0]["chosen"]["before"][0]
    signals = {"text", "logp", "u", "delta", "weight", "type"}
    assert signals | {"kind", "right", "size", "word"} == set(token)
    assert set(traces[0]["says"]) == {"before", "after"}
    assert json.loads((folder / "classes.json").read_text())["pairs"] == 4
    environment = json.loads((folder / "environment.json").read_text())
    assert (environment["rows"]["val"], environment["attention"]) == (4, "segments (no GPU)")
    lines = (folder / "distributions.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0]
    page = (folder / "report.html").read_text()
    assert page.count('src="data:image/webp;base64,') == 8
    for part in ("Results", "Training", "Weights over training", "Tokens", "Classes of tokens", "Setting"):
        assert f">{part}</h2>" in page


@pytest.mark.slow
def test_adapter_loads_without_this_package(folder):
    code = f"""
import json, sys
from peft import PeftModel
from transformers import AutoModelForImageTextToText
adapter = {str(folder / "adapter")!r}
base = json.load(open(adapter + "/adapter_config.json"))["base_model_name_or_path"]
model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), adapter)
moved = [n for n, p in model.named_parameters() if "lora_B" in n and p.abs().sum() > 0]
assert moved, "the adapter is empty"
assert not [m for m in sys.modules if m.startswith("uedpo")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)


@pytest.mark.slow
def test_saved_config_repeats_the_run(tiny, tmp_path):
    folder, again = tmp_path / "first", tmp_path / "again"
    uedpo(*tiny, "trainer.max_steps=2", f"hydra.run.dir={folder}")
    saved = ["--config-path", str(folder), "--config-name", "config"]
    done = whole_process(*saved, f"hydra.run.dir={again}")
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((f / "metrics.json").read_text()) for f in (folder, again))
    assert first["after"] == second["after"]


@pytest.mark.slow
def test_sweep_ends_with_table_and_plot(tiny, tmp_path):
    results = tmp_path / "results.jsonl"
    sweep = [
        "+experiment=ablation_alpha", *tiny, "trainer.val_every_n_batches=0", "seed=0,1",
        "weights.control=none", "hydra.launcher.n_jobs=1", f"results={results}",
    ]  # fmt: skip
    uedpo(*sweep, "weights.alpha=0.5", f"hydra.sweep.dir={tmp_path / 'half'}")
    assert len(read_rows(results)) == 3
    folder = tmp_path / "whole"
    done = uedpo(*sweep, "weights.alpha=0,0.5", f"hydra.sweep.dir={folder}")
    assert done.stdout.count(f"skipped, {results} has this trial") == 2
    assert len(read_rows(results)) == 5
    assert (folder / "summary.png").is_file()
    table = (folder / "summary.md").read_text()
    assert "base model" in table
    assert "| 0 | 2 |" in table
    assert "| 0.5 | 2 |" in table
    assert without_pictures(table) in done.stdout


def test_stored_counts_are_those_of_the_metrics(tmp_path):
    results = tmp_path / "results.jsonl"
    uedpo(*TINIER, f"results={results}", f"hydra.run.dir={tmp_path / 'run'}")
    rows = list(read_rows(results).values())
    assert [row["method"] for row in rows] == ["base model", "UE-DPO"]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert rows[0]["metrics"] == metrics["before"]
    assert rows[1]["metrics"] == metrics["after"]
    for row in rows:
        counts = unpack(row["counts"]["shift"])
        for name, (top, bottom) in CAPTION_RATIOS.items():
            stored = row["metrics"]["shift"][name]
            assert (stored["numerator"], stored["denominator"]) == (counts[top].sum(), counts[bottom].sum())
        assert counts["pope"].tolist() == [1, 0, 0]


def test_broken_results_exit_2_with_one_line(tmp_path):
    results = tmp_path / "results.jsonl"
    results.write_text("{}\n")
    done = uedpo(*TINY, f"results={results}", f"hydra.run.dir={tmp_path / 'run'}", check=False)
    assert done.returncode == 2
    assert done.stderr.strip().startswith(f"{results}:1: not a row of results (no key, ")
    assert len(done.stderr.splitlines()) == 1


def test_bad_configuration_exits_2_before_weights_load(tmp_path):
    bad = ["weights.alpa=1", "optim.lr=-1", f"hydra.run.dir={tmp_path / 'x'}"]
    done = whole_process(*bad)
    assert done.returncode == 2
    assert "2 problems" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()
    forked = uedpo(*bad, check=False)
    # typing keeps one of the equal Annotated[float, Gt(0)] and Gt(0.0): that which was imported first
    said, expected = (d.stderr.replace("> 0.0)", "> 0)") for d in (forked, done))
    assert (forked.returncode, forked.stdout, said) == (done.returncode, done.stdout, expected)


def test_what_is_preloaded_is_there():
    for name in PRELOADED:  # a fork server leaves out what it cannot import, without a word
        importlib.import_module(name)


def test_bad_rows_exit_2_with_one_line(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"image": null, "prompt": "p", "chosen": "", "rejected": "r"}\n')
    done = uedpo(
        "data=jsonl", f"data.train.path={rows}", f"data.val.path={rows}", "evaluation=none",
        f"hydra.run.dir={tmp_path / 'x'}", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"{rows}:1: chosen must be a text that is not empty; drop the row [EMPTY_TEXT]; "
        "1 of 1 rows rejected, none is left"
    )
    assert not (tmp_path / "x").exists()
