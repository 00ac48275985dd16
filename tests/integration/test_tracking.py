"""What a run leaves in W&B, read back from the files of an offline run."""

import json
from pathlib import Path

import pytest

from tests.integration.test_run import TINY
from tests.security.test_secrets import CANARIES, go, hits
from uedpo.logger.offline import messages
from uedpo.logger.wandb import PREFIXES

pytestmark = pytest.mark.filterwarnings("ignore")


def records(folder: Path):
    """The records of the one .wandb file below `folder`."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.rglob("*.wandb")
    found = []
    for data in messages(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        found.append(record)
    return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """(folder of a sweep of one trial, its output)."""
    path = tmp_path_factory.mktemp("wandb")
    out, done = go(
        path, "-m", *TINY, "trainer.max_steps=2", "trainer.val_every_n_batches=2", "evaluation.num_shift=4",
        "evaluation.num_train=0", "+method=ue_dpo", "seed=7", "logger=wandb",
        "callbacks.histograms.every_n_steps=1",
        f"hydra.sweep.dir={path}/out/sweep",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done


def test_an_offline_run_holds_everything(swept):
    out, _ = swept
    found = records(out)
    (run,) = (r.run for r in found if r.WhichOneof("record_type") == "run")
    assert run.run_group == "out/sweep"
    assert {"method=ue_dpo", "seed=7"} <= set(run.tags)
    logged: dict[str, list[str]] = {}
    for record in found:
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                logged.setdefault(name, []).append(item.value_json)
    for prefix in PREFIXES:
        assert any(name.startswith(f"{prefix}/") for name in logged), prefix
    for name in ("signals/u", "signals/delta", "weights/lambda"):
        for side in ("chosen", "rejected"):
            kinds, counts = (logged[f"{name}_{side}/{part}"] for part in ("_type", "values"))
            assert kinds == ['"histogram"'] * 2
            assert all(sum(json.loads(c)) > 10 for c in counts)
    metrics = json.loads((out / "sweep" / "0" / "metrics.json").read_text())
    assert json.loads(logged["eval/shift/chair_i"][0]) == metrics["after"]["shift"]["chair_i"]["value"]
    assert (
        json.loads(logged["eval/base/shift/coverage"][0]) == metrics["before"]["shift"]["coverage"]["value"]
    )
    assert logged["eval/samples/_type"] == ['"table-file"']
    defined = {r.metric.name or r.metric.glob_name: r.metric for r in found if r.HasField("metric")}
    assert defined["val/loss"].summary.min
    assert defined["train/accuracy"].summary.max
    assert defined["eval/*"].step_metric == "trainer/global_step"
    configured = {
        "/".join(item.nested_key) or item.key
        for r in found
        if r.WhichOneof("record_type") == "config"
        for item in r.config.update
    }
    assert any(name.startswith("weights") for name in configured), configured
    said = (out / "sweep" / "0" / "trial.log").read_text().splitlines()
    line = next(line for line in said if line.startswith("W&B: this run is on disk"))
    assert list(Path(line.split()[-1]).glob("*.wandb"))


def test_the_table_of_samples_has_pictures_and_colours(swept):
    out, _ = swept
    staged = [f.read_bytes() for f in out.rglob("*") if f.is_file() and f.suffix != ".ckpt"]
    tables = [json.loads(data) for data in staged if data.startswith(b'{"_type": "table"')]
    rows = [dict(zip(t["columns"], t["data"][0], strict=True)) for t in tables]
    row = next(r for r in rows if isinstance(r["clear"], dict))  # another copy has words for pictures
    assert row["clear"]["_type"] == row["corrupted"]["_type"] == "image-file"
    assert row["clear"]["sha256"] != row["corrupted"]["sha256"]
    assert row["chosen before"]["_type"] == "html-file"
    assert any(b"background: rgba(230, 120, 0" in data for data in staged)
    assert any(b"background: rgba(0, 114, 178" in data for data in staged)


def test_no_canary_is_in_it(swept):
    out, done = swept
    files, found = hits(out, done.stdout, done.stderr)
    assert any(f.suffix == ".wandb" for f in files)
    assert CANARIES
    assert found == []
