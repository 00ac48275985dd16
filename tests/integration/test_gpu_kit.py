"""The GPU kit, rehearsed: every part gives its rows, and the table shows them."""

import json
from importlib.util import find_spec

import pytest

from experiments.gpu.table import table
from tests import processes

ROWS = {
    "machine": 2, "tests": 2, "llava": 4, "llava TRL": 2, "qwen": 4, "qwen TRL": 2, "plan": 1, "profile": 11,
    "4-bit": 1, "run": 1,
}  # fmt: skip


@pytest.mark.slow
def test_a_rehearsal_gives_every_row(tmp_path):
    done = processes.run("experiments.gpu.run", "--rehearse", "--json", tmp_path / "kit.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "kit.json").read_text())
    assert found["rehearsal"]
    without = {r["part"]: r["error"] for r in found["rows"] if "error" in r}
    expected = ROWS
    if find_spec("bitsandbytes") is None:
        assert without.pop("4-bit") == "bitsandbytes is not installed"
    if find_spec("trl") is None:
        expected = ROWS | {"llava TRL": 1, "qwen TRL": 1}
        assert {without.pop("llava TRL"), without.pop("qwen TRL")} == {"trl is not installed"}
    assert not without
    assert {part: sum(r["part"] == part for r in found["rows"]) for part in ROWS} == expected
    shown = table(found)
    assert shown in done.stdout
    assert "the figures mean nothing" in shown
    cells = [line.replace("\\|", "").count("|") for line in shown.splitlines() if line.startswith("|")]
    assert set(cells) == {9}
