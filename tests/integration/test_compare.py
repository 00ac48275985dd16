"""`python -m uedpo.compare`: tables and plots of stored rows."""

import re
from pathlib import Path

import pytest

from tests.rows_of_results import COUNTS, base_row, config, row, stored
from uedpo.compare import compare, main
from uedpo.errors import InputError
from uedpo.results.statistics import ratio_metrics
from uedpo.results.store import append_row, make_row


@pytest.fixture
def file(tmp_path):
    return stored(tmp_path / "results.jsonl")


def table_rows(text):
    return {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}


def test_compare_writes_means_differences_and_plots(file, tmp_path):
    text = compare([file], tmp_path / "out", against=("DPO",))
    assert (tmp_path / "out.md").read_text().startswith(text)
    assert (tmp_path / "out.png").stat().st_size > 1000
    assert (tmp_path / "out_differences.png").stat().st_size > 1000
    means, differences = text.split("Difference from DPO")
    assert list(table_rows(means))[2:5] == ["base model", "DPO", "UE-DPO"]
    assert "| 3 |" in table_rows(means)["UE-DPO"]
    assert "| 1 |" in table_rows(means)["base model"]
    assert "Best setting by shift/chair_i (lower is better): method=UE-DPO, " in means
    assert list(table_rows(differences))[2:] == ["base model", "UE-DPO"]
    cells = table_rows(differences)["UE-DPO"].split(" | ")
    # mentions are 2 a scene, so CHAIR_i is half the rate of scenes: 5 % against 20 %
    assert cells[1].startswith("**-1")
    assert cells[2] == "+0.0 [+0.0, +0.0]"


def test_compare_finds_another_key_and_pairs_within_its_values(file, tmp_path):
    for seed in (0, 1):
        append_row(file, row("DPO", seed, 0.1, optim={"lr": 0.5}))
        append_row(file, row("UE-DPO", seed, 0.4, optim={"lr": 0.5}))
    with pytest.raises(InputError, match=r"runs of method=DPO differ in optim\.lr: add it to --by"):
        compare([file], tmp_path / "out", by=["method"])
    text = compare([file], tmp_path / "out", against=("DPO",))
    differences = text.split("Difference from DPO")[1]
    assert "| UE-DPO | 0.1 | **-" in differences
    assert "| UE-DPO | 0.5 | **+" in differences
    assert "| DPO |" not in differences
    fixed = compare([file], tmp_path / "out", against=("DPO", "0.1"))
    assert "| DPO | 0.5 | **-" in fixed.split("Difference from DPO, 0.1")[1]
    chosen = compare([file], tmp_path / "out", against=("DPO",), where=["optim.lr=0.5"])
    assert "| 2 |" in table_rows(chosen.split("Difference")[0])["UE-DPO"]


def test_compare_leaves_cells_empty_where_a_metric_has_no_denominator(tmp_path):
    path = tmp_path / "results.jsonl"
    rows = [dict.fromkeys(COUNTS, 1) | {"pope": 0, "pope_right": 0}] * 5
    for method in ("DPO", "TPO"):
        metrics = {"shift": ratio_metrics(rows, resamples=20)}
        append_row(path, make_row(config(method=method), metrics, {"shift": rows}, 1.0))
    text = compare([path], tmp_path / "out", against=("DPO",))
    assert table_rows(text.split("Difference")[0])["TPO"].endswith("| none |")
    assert table_rows(text.split("Difference")[1])["TPO"].endswith("|  |")


def test_compare_refuses_what_does_not_compare(file, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="settings: base model; DPO; UE-DPO"):
        compare([file], out, against=("PPO",))
    with pytest.raises(InputError, match="no trained run with seed=7"):
        compare([file], out, where=["seed=7", "method=DPO"])
    with pytest.raises(InputError, match="no such file or directory"):
        compare([tmp_path / "nope"], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no finished run in it"):
        compare([tmp_path / "empty"], out)
    append_row(file, row("TPO", 0, 0.1, evaluation={"start": 6}))
    with pytest.raises(InputError, match=r"evaluated differently.*--where"):
        compare([file], out, by=["method"], against=("DPO",))


def test_a_run_that_names_nothing_is_counted_and_never_ranked(tmp_path):
    silent = [dict.fromkeys(COUNTS, 0) | {"captions": 1, "present": 1, "pope": 1} for _ in range(200)]
    made = row("IPO", 1, 0.1)
    metrics = ratio_metrics(silent, resamples=20)
    assert metrics["chair_i"]["value"] is None
    made |= make_row(made["config"], {"shift": metrics}, {"shift": silent}, 1.0)
    path = tmp_path / "r.jsonl"
    for r in (base_row(), row("DPO", 0, 0.2), row("DPO", 1, 0.2), row("IPO", 0, 0.1), made):
        append_row(path, r)
    text = compare([path], tmp_path / "out", against=("DPO",))
    line = next(line for line in text.splitlines() if line.startswith("| IPO"))
    assert "(1 of 2 runs)" in line
    assert "method=DPO" in text.split("Best setting")[1].splitlines()[0]
    assert "(1 of 2 runs)" not in text.split("Difference")[1]


def test_commands_of_the_experiments_pages_give_their_tables(monkeypatch, capsys):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    lines = {
        line
        for page in root.glob("experiments/*/README.md")
        for line in re.findall(r"`python -m uedpo\.compare (experiments/[^`]+)`", page.read_text())
    }
    assert len(lines) == 4
    for line in sorted(lines):
        monkeypatch.setattr("sys.argv", ["compare", *line.split()])
        assert main() in (None, 0), line
        assert "Difference from" in capsys.readouterr().out, line
