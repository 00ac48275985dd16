"""A command that is refused, or that only reads, changes nothing: no finished run, and nothing beside it."""

import json
import os
import runpy
import sys
import time
from pathlib import Path

import pytest

from tests.reliability.harness import tiny_model_folder

SMALL = [
    "callbacks.progress=null", "threads=1", "data.batch_size=2", "data.train.num_pairs=4",
    "data.val.num_pairs=2", "report_pairs=1", "evaluation=none", "trainer.max_steps=2",
    "trainer.val_every_n_batches=1", "callbacks.last.every_n_train_steps=1",
]  # fmt: skip


def command(cwd, module, *arguments):
    """(exit code, standard error, standard output) of `python -m module`, in a fork, which has torch."""
    out = cwd.parent / "said"
    child = os.fork()
    if not child:
        code = 1
        try:
            os.chdir(cwd)
            for number in (1, 2):
                os.dup2(os.open(f"{out}{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1 if error.code else 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, Path(f"{out}2").read_text(), Path(f"{out}1").read_text()


def tree(folder):
    """Names, bytes and times of all there is in a folder."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("refused")


@pytest.fixture(scope="module")
def model(place):
    return f"model.path={tiny_model_folder(place / 'tiny')}"


@pytest.fixture(scope="module")
def work(place, model):
    """A folder to work in, with a finished run, one without checkpoints, and files that are wrong."""
    work = place / "work"
    work.mkdir()
    keys = [*SMALL, model]
    for name, more in (("run", []), ("bare", ["callbacks.last=null", "callbacks.best=null"])):
        code, err, _ = command(work, "uedpo.run", *keys, *more, f"hydra.run.dir={work}/{name}")
        assert code == 0, err[-2000:]
    row = '{"image": null, "prompt": "p", "chosen": "%s", "rejected": "r"}\n'
    (work / "bad.jsonl").write_text((row % "") * 3)
    (work / "none.jsonl").write_text("")
    (work / "good.jsonl").write_text("".join(row % f"a {n}" for n in range(4)))
    (work / "rows.jsonl").write_text("{}\n")
    (work / "sweep").mkdir()
    (work / "sweep/trials.jsonl").write_text("{}\n")
    return work


RUN = "hydra.run.dir=run"
BAD = ["data=files", "data.path=bad.jsonl"]
REFUSED = [
    ("uedpo.run", ["seed=1", RUN]),
    ("uedpo.run", [RUN]),
    ("uedpo.run", ["resume=auto", "seed=1", RUN]),
    ("uedpo.run", ["resume=required", "optim.lr=0.5", RUN]),
    ("uedpo.run", ["resume=none.ckpt", RUN]),
    ("uedpo.run", ["resume=run/checkpoints/last.ckpt", "seed=3", "hydra.run.dir=new/deep"]),
    ("uedpo.run", ["resume=required", "hydra.run.dir=new/deep"]),
    ("uedpo.run", ["weights.alpa=1", RUN]),
    ("uedpo.run", ["+method=none", RUN]),
    ("uedpo.run", ["model=none", RUN]),
    ("uedpo.run", ["model.path=none", RUN, "resume=auto"]),
    ("uedpo.run", ["model.path=none", "hydra.run.dir=new"]),
    ("uedpo.run", ["trainer.max_steps=-1", RUN]),
    ("uedpo.run", ["trainer=gpu", RUN]),
    ("uedpo.run", [*BAD, RUN, "resume=auto"]),
    ("uedpo.run", [*BAD, "hydra.run.dir=new"]),
    ("uedpo.run", [*BAD]),
    ("uedpo.run", ["data=files", "data.path=none.jsonl", "name=other"]),
    ("uedpo.run", ["data=files", "data.path=nowhere.jsonl", RUN, "resume=auto"]),
    ("uedpo.run", ["results=rows.jsonl", "evaluation=microworld", RUN]),
    ("uedpo.run", ["results=new/rows.jsonl", RUN]),
    ("uedpo.run", ["reference_cache=cache", "seed=1", RUN]),
    ("uedpo.run", ["feature_cache=cache", "seed=1", RUN]),
    ("uedpo.run", ["logger=wandb", "logger.wandb.mode=online", RUN, "resume=auto"]),
    ("uedpo.run", ["hydra.run.dir=bare"]),
    ("uedpo.run", ["hydra.run.dir=bare", "resume=auto", "seed=4"]),
    ("uedpo.run", ["hydra.run.dir=good.jsonl/run"]),
    ("uedpo.run", ["-m", "seed=1,2", "hydra.sweep.dir=run"]),
    ("uedpo.run", ["-m", "seed=1,2", "hydra.sweep.dir=sweep"]),
    ("uedpo.run", ["-m", "seed=1,-2", "hydra.sweep.dir=new"]),
    ("uedpo.run", ["seed=1,2", "hydra.sweep.dir=new"]),
    ("uedpo.run", ["--config-dir", "nowhere", RUN]),
    ("uedpo.run", ["--config-path", "/nowhere", RUN]),
    ("uedpo.run", ["--config-name", "nowhere", RUN]),
    ("uedpo.run", ["--config-dir", "sweep", "+method=typo", RUN]),
    ("uedpo.run", ["--method", "dpo", RUN]),
    ("uedpo.run", ["--shell-completion", "install=bash"]),
    ("uedpo.check", ["--method=dpo"]),
    ("uedpo.plan", ["--method=dpo"]),
    ("uedpo.microworld.build", []),
    ("uedpo.microworld.negatives", []),
    ("uedpo.microworld.negatives", ["--out", "new/deep/n.gz"]),
    ("uedpo.evaluation.score", []),
    ("uedpo.check", [*BAD, "weights.alpa=1"]),
    ("uedpo.check", ["model.path=none"]),
    ("uedpo.check", ["data=files", "data.path=nowhere.jsonl"]),
    ("uedpo.plan", ["device=none"]),
    ("uedpo.plan", [*BAD]),
    ("uedpo.explain", ["adapter=run/checkpoints"]),
    ("uedpo.explain", ["adapter=run/adapter", "output=run/none/page.html"]),
    ("uedpo.export", ["run", "output=run"]),
    ("uedpo.export", ["run", "output=new/deep", "merge=perhaps"]),
    ("uedpo.export", ["run/checkpoints"]),
    ("uedpo.report", ["run/checkpoints"]),
    ("uedpo.compare", ["run", "--metric", "none"]),
    ("uedpo.compare", ["run", "--metric", "val/loss", "--against", "none"]),
]  # fmt: skip
READS = [
    ("uedpo.run", ["--help"]),
    ("uedpo.run", ["--cfg", "job", RUN]),
    ("uedpo.run", ["--hydra-help"]),
    ("uedpo.check", ["--help"]),
    ("uedpo.plan", ["device=cpu", "rows=1"]),
    ("uedpo.explain", ["--help"]),
    ("uedpo.compare", ["--help"]),
    ("uedpo.compare", ["run", "--metric", "val/loss"]),
    ("uedpo.evaluation.score", ["--help"]),
    ("uedpo.evaluation.generate", ["-h"]),
    ("uedpo.evaluation.judge", ["--help"]),
    ("uedpo.evaluation.merge", ["--help"]),
    ("uedpo.evaluation.table", ["--help"]),
    ("uedpo.microworld.build", ["--help"]),
    ("uedpo.microworld.negatives", ["--help"]),
    ("uedpo.microworld.assets", ["--help"]),
    ("uedpo.dashboard", ["--help"]),
    ("uedpo.export", ["--help"]),
    ("uedpo.report", ["--help"]),
    ("uedpo.plan", ["--help"]),
    ("uedpo.results.rekey", ["--help"]),
]


def keys_for(module, arguments, model):
    """The small setting, for the commands that take keys of a configuration."""
    flags = any(a.startswith("--") for a in arguments)
    if flags or module in ("uedpo.export", "uedpo.report", "uedpo.compare") or "." in module[6:]:
        return arguments
    given = {a.partition("=")[0] for a in arguments}
    small = [*SMALL, model]
    if "data" in given:
        small = [k for k in small if not k.startswith(("data.train", "data.val"))]
    return [*(k for k in small if k.partition("=")[0] not in given), *arguments]


@pytest.mark.parametrize(("module", "arguments"), REFUSED, ids=lambda value: " ".join(value)[:60])
@pytest.mark.cases(6)
def test_a_refused_command_changes_nothing_and_says_why(work, model, module, arguments):
    before = tree(work)
    code, err, out = command(work, module, *keys_for(module, arguments, model))
    assert code == 2, (err[-1500:], out[-500:])
    assert err.strip() or ((not arguments and "Keys" in out) or "usage" in out)
    assert "Traceback" not in err
    assert tree(work) == before


@pytest.mark.parametrize(("module", "arguments"), READS, ids=lambda value: " ".join(value)[:60])
@pytest.mark.cases(6)
def test_a_command_that_only_reads_changes_nothing(work, model, module, arguments):
    before = tree(work)
    code, err, _ = command(work, module, *keys_for(module, arguments, model))
    assert (code, "Traceback" in err) == (0, False), err[-1500:]
    assert tree(work) == before


def test_there_are_forty_of_them():
    assert len(REFUSED) >= 40


@pytest.mark.slow
def test_the_record_is_of_the_command_that_was_accepted(work, model):
    about = json.loads((work / "run/command.json").read_text())
    assert about["overrides"] == [*SMALL, model]
    assert not (work / "run/.hydra").exists()
    before = time.time_ns()
    code, err, _ = command(work, "uedpo.run", *SMALL, model, "resume=auto", RUN)
    assert code == 0, err[-1500:]
    assert (work / "run/metrics.json").stat().st_mtime_ns > before
    code, _, out = command(work, "uedpo.compare", "run", "--metric", "val/loss")
    assert code == 0
    assert "data.batch_size=2" in out
    assert "resume=auto" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "dpo"], "--method: keys have no dashes; write +method=dpo"),
        (["--method=dpo"], "write +method=dpo"),
        (["--optim.lr", "0.1"], "write optim.lr=0.1"),
        (["--model=llava15_7b"], "write model=llava15_7b"),
        (["--seed"], "write seed=VALUE"),
        (["--shell-completion", "install=bash"], "uedpo completion bash"),
        (
            ["--config-dir", "sweep", "+method=typo"],
            "method=typo: no such choice; did you mean tpo? there are ",
        ),
        (["--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
    ],
)
def test_what_is_written_as_elsewhere_is_told_how_it_is_written_here(work, arguments, said):
    code, err, _ = command(work, "uedpo.run", *arguments)
    assert code == 2
    assert said in err
    assert "completion" not in err or "--shell-completion" in arguments


def test_a_missing_hub_model_says_within_seconds_how_to_get_it(work, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(work / "no_cache"))
    begin = time.monotonic()
    command(
        work, "uedpo.run", "model=llava15_7b", "evaluation=none", "sed=1"
    )  # what a command takes to start
    middle = time.monotonic()
    code, err, _ = command(work, "uedpo.run", "model=llava15_7b", "evaluation=none", "hydra.run.dir=new")
    seconds = (time.monotonic() - middle) - (middle - begin)
    assert code == 2
    path = "llava-hf/llava-1.5-7b-hf"
    assert (
        f"model.path={path}: is not on this machine, and the hub does not answer: run `hf download {path}"
        in err
    )
    assert "HF_HUB_OFFLINE=1" in err
    assert seconds < 5  # the client alone would try for minutes
    assert not (work / "new").exists()


def test_explain_leaves_the_checkout_alone(work, model):
    code, err, _ = command(work, "uedpo.explain", model, "threads=1")
    assert code == 0, err[-1500:]
    assert (work / "outputs/explain.html").is_file()
    assert not (work / "explain.html").exists()


def test_completion_is_not_offered(work):
    for flag in ("--help", "--hydra-help"):
        code, _, out = command(work, "uedpo.run", flag)
        assert code == 0
        assert "completion" not in out.lower()
