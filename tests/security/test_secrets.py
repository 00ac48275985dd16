"""Canary secrets in environment, arguments, configuration and error bodies reach no file of a run."""

import gzip
import io
import os
import zipfile
import zlib
from pathlib import Path

import pytest

from tests.integration.test_run import TINY
from tests.processes import run

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "OPENAI_API_KEY": "sk-" + "canary0001" * 4, "HF_TOKEN": "hf_" + "canary0002" * 4,
    "WANDB_API_KEY": "c0ffee03" * 5, "GITHUB_TOKEN": "ghp_" + "canary0004" * 4,
    "JUDGE_PASSWORD": "canary-0005-plain-words",
}  # fmt: skip
BODY = "sk-" + "canary0006" * 4  # in no variable: only an answer of a server holds it
CANARIES = [*ENVIRONMENT.values(), BODY]

CALLBACK = """
import logging, os, sys, warnings
import pytorch_lightning as pl

class Careless(pl.Callback):
    def __init__(self, crash: bool = False):
        self.crash = crash

    def on_train_end(self, trainer, pl_module):
        body = BODY + " " + " ".join(os.environ[name] for name in NAMES)
        logging.getLogger(__name__).error("answer of the server: %s", body)
        print("answer", body)
        print("answer", body, file=sys.stderr)
        warnings.warn("answer " + body)
        if self.crash:
            raise RuntimeError("401 Unauthorized: " + body)
"""


def contents(data, depth=0):
    """The bytes of a file and of all that is packed inside it."""
    yield data
    if depth > 3:
        return
    if data[:2] == b"\x1f\x8b":
        yield from contents(gzip.decompress(data), depth + 1)
    elif data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from contents(archive.read(name), depth + 1)
    elif data[:1] == b"\x78":
        try:
            yield zlib.decompress(data)
        except zlib.error:
            return


def hits(folder, *outputs):
    files = [p for p in folder.rglob("*") if p.is_file()]
    found = []
    for name, data in [
        *((str(p), p.read_bytes()) for p in files),
        *(("output", o.encode()) for o in outputs),
    ]:
        found += [(name, c) for part in contents(data) for c in CANARIES if c.encode() in part]
    return files, found


def go(tmp_path, *arguments):
    code = CALLBACK.replace("BODY", repr(BODY), 1).replace("NAMES", repr(list(ENVIRONMENT)))
    (tmp_path / "package").mkdir(exist_ok=True)
    (tmp_path / "package" / "careless.py").write_text(code.replace(repr(BODY), " + ".join(map(repr, BODY))))
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    environment = os.environ | ENVIRONMENT | {
        "PYTHONPATH": f"{ROOT}:{tmp_path / 'package'}", "WANDB_MODE": "offline", "WANDB_DIR": str(out),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return out, run("uedpo.run", *arguments, cwd=out, env=environment)


SMALL = [*TINY, "trainer.max_steps=1", "evaluation.num_shift=4", "evaluation.num_train=0"]
CARELESS = ["+callbacks.careless._target_=careless.Careless", "allow_packages=[careless]"]
WANDB = ["logger=wandb"]


@pytest.mark.slow
def test_a_run_that_crashes_leaves_no_secret(tmp_path):
    out, done = go(
        tmp_path, *SMALL, *CARELESS, *WANDB, "+callbacks.careless.crash=true",
        "trainer.max_steps=2", "callbacks.last.every_n_train_steps=1",
        f"hydra.run.dir={tmp_path / 'out' / 'run'}",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-2000:]
    assert "RuntimeError: 401 Unauthorized: [redacted]" in done.stderr
    files, found = hits(out, done.stdout, done.stderr)
    names = {p.name for p in files}
    assert {"config.yaml", "command.json", "metrics.csv"} <= names, names
    assert any(name.endswith(".wandb") for name in names), names
    assert any(name.endswith(".ckpt") for name in names), names
    assert found == []


@pytest.mark.slow
def test_a_run_and_a_sweep_leave_no_secret(tmp_path):
    results = f"results={tmp_path / 'out' / 'results.jsonl'}"
    out, done = go(tmp_path, *SMALL, *CARELESS, *WANDB, results, f"hydra.run.dir={tmp_path / 'out' / 'run'}")
    assert done.returncode == 0, done.stderr[-2000:]
    _, swept = go(
        tmp_path, "-m", *SMALL, *CARELESS, "seed=1,2", f"hydra.sweep.dir={tmp_path / 'out' / 'sweep'}"
    )
    assert swept.returncode == 0, swept.stderr[-2000:]
    files, found = hits(out, done.stdout, done.stderr, swept.stdout, swept.stderr)
    assert {"report.html", "results.jsonl", "traces.json", "adapter_model.safetensors"} <= {
        p.name for p in files
    }
    assert found == []


@pytest.mark.parametrize("where", ["argument", "file", "sweep"])
@pytest.mark.cases(1)
def test_a_secret_given_to_a_run_is_refused_and_stored_nowhere(tmp_path, where):
    conf = tmp_path / "conf" / "optim"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text(f"_target_: uedpo.optim.adamw_cosine\n_partial_: true\nlr: {BODY}\n")
    given = {
        "argument": [f"name={BODY}"],
        "file": [f"--config-dir={tmp_path / 'conf'}", "optim=mine"],
        "sweep": ["-m", f"optim.lr=0.1,{BODY}"],
    }[where]
    out, done = go(tmp_path, *given)
    assert done.returncode == 2, done.stderr
    assert "looks like a secret" in done.stderr
    files, found = hits(out, done.stdout, done.stderr)
    assert found == []
    assert files == []
