"""Kills, clocks and links that nobody had tried."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.reliability import faults
from tests.reliability.harness import command, finish, result, start, tiny_model_folder
from uedpo.callbacks.checkpoint_files import checkpoints
from uedpo.errors import InputError
from uedpo.logger.wandb import _run_id
from uedpo.report.page import write_page
from uedpo.results.store import write_rows
from uedpo.runtime.atomic import clear, replace, whole_folder, write_json
from uedpo.runtime.lock import held
from uedpo.sweep import journal
from uedpo.sweep.summary import SweepSummary


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def killed_in(body):
    pid = os.fork()
    if not pid:
        body()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_an_export_that_was_killed_leaves_nothing_under_its_name(tmp_path):
    def body():
        with whole_folder(tmp_path / "out") as place:
            (place / "model.safetensors").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    killed_in(body)
    assert not (tmp_path / "out").exists()
    (tmp_path / ".out.notes").mkdir()  # not ours
    with whole_folder(tmp_path / "out") as place:
        (place / "model.safetensors").write_bytes(b"whole")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    assert {p.name for p in tmp_path.iterdir()} == {"out", ".out.notes"}


def test_what_a_living_process_writes_is_left_to_it(tmp_path):
    with whole_folder(tmp_path / "out") as place:
        (place / "a").write_text("half")
        clear(tmp_path)
        assert (place / "a").read_text() == "half"
    assert (tmp_path / "out/a").is_file()


def test_a_run_clears_what_killed_ones_left_beside_its_files(tmp_path):
    (tmp_path / ".adapter.12.old").mkdir()
    (tmp_path / ".adapter.12.old/weights").touch()
    for name in (".config.yaml.12.tmp", ".mine.tmp", "12.tmp"):
        (tmp_path / name).touch()
    clear(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {".mine.tmp", "12.tmp"}


def test_a_sweep_killed_in_its_summary_keeps_the_old_one(tmp_path, monkeypatch):
    from omegaconf import OmegaConf

    import uedpo.sweep.summary as module

    journal.write(tmp_path, "sweep", total=0, jobs=1, flags=[], swept=[])
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    SweepSummary().on_multirun_end(config)
    old = (tmp_path / "summary.md").read_text()

    def body():
        monkeypatch.setattr(module, "summary", lambda *a: "new" * 10**6)
        monkeypatch.setattr(os, "fsync", lambda handle: os.kill(os.getpid(), signal.SIGKILL))
        SweepSummary().on_multirun_end(config)

    killed_in(body)
    assert (tmp_path / "summary.md").read_text() == old
    SweepSummary().on_multirun_end(config)
    module._exit_codes.clear()


@pytest.mark.slow
def test_a_clock_that_goes_backwards_between_resumes_changes_no_bit(model, tmp_path):
    reference = tmp_path / "reference"
    finish(command(reference, model), tmp_path / "log0")
    whole = [*command(tmp_path / "run", model), "resume=auto"]

    def years(back):
        def plant():
            real = time.time
            time.time = lambda: real() - back * 365 * 86400
            if back:
                faults.at("after step", 5, faults.kill)()

        return plant

    for number, back in enumerate((1, 3)):
        run = start(whole, tmp_path / f"log{number}", fault=years(back))
        assert run.wait() == -signal.SIGKILL, run.text()[-2000:]
        for file in (tmp_path / "run" / "checkpoints").iterdir():
            os.utime(file, (back, back), follow_symlinks=False)
    finish(whole, tmp_path / "log")
    assert result(tmp_path / "run").differs(result(reference)) == ""


def test_guessed_names_in_a_shared_folder_lead_nowhere(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("kept")
    shared = tmp_path / "shared"
    shared.mkdir()
    os.symlink(mine, shared / f".a.json.{os.getpid()}.tmp")
    replace(shared / "a.json", lambda file: file.write(b"new"))
    assert (mine.read_text(), (shared / "a.json").read_text()) == ("kept", "new")
    os.symlink(mine, shared / "build.lock")
    with pytest.raises(InputError, match=r"build\.lock: cannot be written"), held(shared, "build.lock"):
        pass
    os.symlink(tmp_path / "elsewhere", shared / f".out.{os.getpid()}.tmp")
    with whole_folder(shared / "out"):
        pass
    assert (shared / "out").is_dir()
    assert mine.read_text() == "kept"
    assert not (tmp_path / "elsewhere").exists()


def test_files_are_replaced_never_written_through_a_hard_link(tmp_path):
    mine = tmp_path / "mine"
    for write in (
        lambda path: replace(path, lambda file: file.write(b"new")),
        lambda path: write_json(path, {}),
        lambda path: write_page(path, "new"),
        lambda path: write_rows(path, []),
    ):
        mine.write_text("kept")
        os.link(mine, tmp_path / "a")
        write(tmp_path / "a")
        assert mine.read_text() == "kept"
        assert (tmp_path / "a").read_text() != "kept"
        (tmp_path / "a").unlink()


OWN_LOSS = """
import dataclasses
import functools
import torch
from uedpo.loss.dpo import dpo_loss

calls = []

@functools.wraps(dpo_loss)
def loss(*args, **kwargs):
    calls.append(1)
    made = dpo_loss(*args, **kwargs)
    wrong = len(calls) > 7 and torch.is_grad_enabled()
    return dataclasses.replace(made, loss=made.loss * float("nan")) if wrong else made
"""


@pytest.mark.slow
def test_a_loss_of_one_s_own_that_is_not_a_number_is_one_line_and_costs_no_checkpoint(model, tmp_path):
    (tmp_path / "own_loss.py").write_text(OWN_LOSS)
    own = ["allow_packages=[own_loss]", "loss._target_=own_loss.loss"]
    arguments = [*command(tmp_path / "run", model, method="dpo"), *own]
    run = start(arguments, tmp_path / "log", fault=lambda: sys.path.insert(0, str(tmp_path)))
    assert run.wait() == 3, run.text()[-2000:]
    assert "Traceback" not in run.text()
    assert run.text().count("loss nan on rank 0, rows ") == 1
    kept = checkpoints(tmp_path / "run" / "checkpoints")
    assert kept
    assert all(faults.finite(torch.load(path, weights_only=True)["state_dict"]) for path in kept)


@pytest.mark.parametrize("text", ["../../x", "a/b", "", "x\n", "${env}", "0" * 100])
def test_an_id_for_w_and_b_is_an_id(tmp_path, text):
    (tmp_path / "wandb_id").write_text(text)
    with pytest.raises(InputError, match="not the id of a W&B run"):
        _run_id(tmp_path)
    (tmp_path / "wandb_id").unlink()
    assert _run_id(tmp_path) == _run_id(tmp_path)


def test_a_lock_taken_twice_is_still_held_after_the_inner_block(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from uedpo.errors import InputError; from uedpo.runtime.lock import held\n"
        "try:\n    with held(Path(sys.argv[1])): sys.exit(0)\nexcept InputError: sys.exit(9)"
    )

    def rival():
        return subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode

    with held(tmp_path):
        with held(tmp_path):
            assert rival() == 9
        assert rival() == 9
    assert rival() == 0


@pytest.mark.slow
@pytest.mark.parametrize("where", ["merging", "saved", "card"])
def test_a_merge_that_was_killed_is_done_by_the_same_command(model, tmp_path, where):
    from peft import PeftModel

    import uedpo.export as export

    run = tmp_path / "run"
    few = [a for a in command(run, model, steps=2) if a != "evaluation=none"]
    finish(
        [*few, "evaluation.num_shift=3", "evaluation.num_train=0", "report_pairs=0"],
        tmp_path / "log",
        report=True,
    )
    owner, name = {
        "merging": (PeftModel, "merge_and_unload"),
        "saved": (export, "_told"),
        "card": (export, "write_card"),
    }[where]

    def body():
        setattr(owner, name, lambda *a, **k: faults.kill())
        export.export([str(run)], merge=True)

    killed_in(body)
    assert not (run / "export/merged").exists()
    assert export.export([str(run)], merge=True) == 0
    assert [p.name for p in (run / "export").iterdir()] == ["merged"]
