"""The GPU kit loses nothing: parts that fail, die or take too long leave a line, and the next one goes on."""

import json
import os
import signal
import time

import pytest
import torch

from experiments.gpu import run, table
from experiments.gpu.parts import Part
from experiments.gpu.profiled import covered
from experiments.gpu.steps import guarded


def part(name, ending, seconds=20.0):
    def rows(rehearse):
        yield {"what": f"first of {name}"}
        ending()

    return Part(name, rows, seconds)


def fail():
    raise RuntimeError("no\nsuch kernel")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_part_that_does_not_end_well_leaves_its_rows_and_a_reason(tmp_path, capsys):
    parts = [
        part("fails", fail),
        part("dies", die),
        part("hangs", lambda: time.sleep(60), 0.5),
        part("ends", int),
    ]
    found = run.measure(parts, True, tmp_path / "kit.json")
    assert json.loads((tmp_path / "kit.json").read_text()) == found
    ends = {r["part"]: r.get("error") for r in found["rows"] if not r["what"].startswith("first")}
    assert ends == {
        "fails": "RuntimeError: no such kernel",
        "dies": "ended with SIGKILL",
        "hangs": "stopped after 0 s",
    }
    assert [r["part"] for r in found["rows"] if r["what"].startswith("first")] == [p.name for p in parts]
    assert "Traceback" in (tmp_path / "kit.log").read_text()
    assert "hangs: the rest: stopped after 0 s" in capsys.readouterr().out


def test_parts_for_which_no_time_is_left_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LIMIT", 0.0)
    found = run.measure([part("one", int), part("two", int)], True, tmp_path / "kit.json")
    assert [(r["part"], r["error"]) for r in found["rows"]] == [
        ("one", "no time was left"),
        ("two", "no time was left"),
    ]


@pytest.mark.parametrize(
    ("can", "way"),
    [({"fork", "spawn"}, (False, "fork")), ({"spawn"}, (False, "spawn")), (set(), (True, "fork"))],
)
def test_parts_start_as_the_gpu_allows(can, way, monkeypatch, tmp_path):
    def rows_of(part, rehearse, seconds, log, method):
        yield {"what": "GPU"} if method in can else {"what": "the rest", "error": "no GPU"}

    monkeypatch.setattr(run, "rows_of", rows_of)
    assert run.ways(False, tmp_path / "log") == way
    assert run.ways(True, tmp_path / "log") == (True, "fork")


def test_running_out_of_memory_is_one_line():
    def step():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nand more")

    assert guarded({"what": "B=4"}, step) == {"what": "B=4", "error": "out of memory"}


def found(**machine):
    setting = {"model": "M", "method": "UE-DPO", "batch": 4}
    slow = {
        "part": "llava",
        "what": "with",
        "checkpointing": True,
        "seconds": [1.0, 0.8, 0.9],
        "pairs_per_s": 4.4,
    }
    rows = [
        {"part": "machine", "what": "machine", **machine},
        {"part": "machine", "what": "product", "tflops": 500.0},
        {
            "part": "llava",
            "what": "a|b",
            "checkpointing": False,
            "seconds": [0.5],
            "pairs_per_s": 8.0,
            "peak_gb": 40.0,
        },
        slow,
        {"part": "llava", "what": "too large", "error": "out of memory"},
        {"part": "plan", "what": "a", "checkpointing": False, "planned_gb": 42.0, "tflop": 98.9},
        {"part": "plan", "what": "b", "checkpointing": True, "planned_gb": 20.0, "tflop": 130.0},
    ]
    return {"rehearsal": False, "seconds": 300.0, "rows": [r | setting for r in rows]}


def test_the_table_joins_what_was_measured_and_planned():
    lines = table.table(found(name="NVIDIA H100 80GB HBM3")).splitlines()
    assert "MFU is a share of 989 TFLOP/s (the data sheet's, dense)." in lines
    # 98.9 TFLOP in 0.5 s are a fifth of 989 TFLOP/s; recomputed work does not count: 98.9 in 0.9 s
    assert "| llava | a\\|b | 0.500 | 8.00 | 40.00 | 42.00 | 20.0 | plan is +5.0 % off |" in lines
    assert "| llava | with | 0.900 | 4.40 |  | 20.00 | 11.1 |  |" in lines
    assert "| llava | too large |  |  |  |  |  | **out of memory** |" in lines
    assert not [line for line in lines if line.startswith("| plan")]
    assert "MFU is a share of 500 TFLOP/s (the measured matrix product)." in table.table(
        found(name="NVIDIA L4")
    )


def test_the_table_goes_between_the_markers(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n")
    for _ in range(2):
        table.write(found(), page)
    text = page.read_text()
    assert text.startswith(f"before\n{table.START}\n")
    assert text.endswith(f"\n{table.END}\nafter\n")
    assert "old" not in text
    assert text.count("too large") == 1
    page.write_text("no markers")
    with pytest.raises(ValueError, match=r"README\.md: has no"):
        table.write(found(), page)


def test_time_that_kernels_cover_together():
    assert covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.6)]) == pytest.approx(4.0)
