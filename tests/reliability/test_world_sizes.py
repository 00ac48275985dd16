"""Two ranks train what one does with the same global batch; ranks without an image hold nobody up."""

import csv
import json
import re
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from tests.reliability import faults
from tests.reliability.harness import finish, start_ranks, tiny_model_folder
from uedpo.data.datamodule import PairBatches
from uedpo.microworld.data import MicroWorldPairs
from uedpo.module import PreferenceModule

ROWS, TEXT_ONLY = 10, (0, 2, 3, 7, 9)
STEPS, TIMEOUT = 20, 60


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Ten pairs, half of them without an image, and three for validation."""
    folder = tmp_path_factory.mktemp("rows")
    for name, split, number in (("train", "train", ROWS), ("val", "val", 3)):
        pairs = MicroWorldPairs(split, number)
        lines = []
        for i in range(number):
            image = None if i in TEXT_ONLY else f"{name}{i}.png"
            if image:
                pairs[i].image.save(folder / image)
            texts = {key: getattr(pairs[i], key) for key in ("prompt", "chosen", "rejected")}
            lines.append(json.dumps({"id": f"{name}-{i}", "image": image, **texts}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def command(folder, model, rows, *more, steps=STEPS):
    return [
        f"hydra.run.dir={folder}", f"model.path={model}", "model.dtype=float64", "model.lora.r=2",
        "data=files", f"data.path={rows}/train.jsonl", f"data.val_path={rows}/val.jsonl",
        "data.num_workers=0", "evaluation=none", "threads=1", "callbacks.progress=null",
        f"trainer.max_steps={steps}", f"timeout={TIMEOUT}", "optim.lr=0.01", *more,
    ]  # fmt: skip


def both(arguments, folder, **options):
    """Run two ranks to the end; what rank 0 printed."""
    runs = start_ranks(arguments, folder, **options)
    codes = [run.wait(TIMEOUT + 60) for run in runs]
    assert codes == [0, 0], "\n".join(run.text()[-2000:] for run in runs)
    return runs[0].text()


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def largest_difference(a, b):
    assert a.keys() == b.keys()
    assert {tensor.dtype for tensor in a.values()} == {torch.float64}
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def validation_losses(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]


def seen_together():
    """(images of rank 0, images of rank 1) of every micro-batch of two ranks with one pair each."""
    ranks = [list(PairBatches(ROWS, 1, 2 * STEPS, seed=0, rank=rank, world_size=2)) for rank in (0, 1)]
    return {(a not in TEXT_ONLY, b not in TEXT_ONLY) for [a], [b] in zip(*ranks, strict=True)}


@pytest.mark.slow
def test_two_ranks_equal_one_at_the_same_global_batch(model, rows, tmp_path):
    """Batches of 1 accumulated twice on two ranks, against a batch of 4; validation on 2 and 1 of 3 pairs."""
    assert seen_together() == {(True, True), (True, False), (False, True), (False, False)}
    one = command(tmp_path / "one", model, rows, "data.batch_size=4", "trainer.val_every_n_batches=10")
    two = command(
        tmp_path / "two", model, rows, "trainer=ddp_cpu", "data.batch_size=1",
        "trainer.accumulate_grad_batches=2", "trainer.val_every_n_batches=20", "global_batch=4",
    )  # fmt: skip
    finish(one, tmp_path / "log")
    both(two, tmp_path)
    single, pair = adapter(tmp_path / "one"), adapter(tmp_path / "two")
    moved = max(float(value.abs().max()) for name, value in single.items() if "lora_B" in name)
    off = largest_difference(single, pair)
    print(f"largest difference {off:.1e}, largest weight of B {moved:.1e}")
    assert moved > 1e-2
    assert off < 1e-6
    losses = [validation_losses(tmp_path / name) for name in ("one", "two")]
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.slow
def test_a_projector_trains_where_one_rank_has_no_image(model, rows, tmp_path):
    """Its gradients exist on the rank with an image only, and the ranks exchange them."""
    shared = ["scoring=plain", "model.train_projector=true", "trainer.val_every_n_batches=0",
              "callbacks.best=null"]  # fmt: skip
    one = command(tmp_path / "one", model, rows, *shared, "data.batch_size=2", steps=6)
    two = command(tmp_path / "two", model, rows, *shared, "trainer=ddp_cpu", "data.batch_size=1", steps=6)
    finish(one, tmp_path / "log")
    both(two, tmp_path)
    single, pair = adapter(tmp_path / "one"), adapter(tmp_path / "two")
    assert any("projector" in name for name in single)
    assert largest_difference(single, pair) < 1e-6


def says_what_is_sharded():
    real = PreferenceModule.configure_model

    def configure(self):
        real(self)
        parts = {name for name, p in self.named_parameters() if isinstance(p, DTensor)}
        layers = {name for name, p in self.named_parameters() if ".layers." in name and "language" in name}
        print(f"sharded: {len(parts)}, all decoder layers: {parts == layers}", flush=True)

    PreferenceModule.configure_model = configure


@pytest.mark.slow
def test_sharded_ranks_equal_one_and_go_on_from_a_checkpoint(model, rows, tmp_path):
    """FSDP2, with gradient checkpointing and clipping: trained, killed, resumed, and the adapter is whole."""
    shared = ["model.gradient_checkpointing=true", "trainer.gradient_clip_val=0.5", "callbacks.best=null"]
    one = command(
        tmp_path / "one", model, rows, *shared, "data.batch_size=2", "trainer.val_every_n_batches=0", steps=4
    )
    two = command(
        tmp_path / "two", model, rows, *shared, "trainer=ddp_cpu", "trainer.strategy=fsdp",
        "data.batch_size=1", f"data.val_path={rows}/train.jsonl", "trainer.val_every_n_batches=2",
        "resume=auto", "callbacks.last.every_n_train_steps=2", steps=4,
    )  # fmt: skip
    finish(one, tmp_path / "log")
    killed = start_ranks(two, tmp_path, dict.fromkeys((0, 1), faults.at("forward", 4, faults.kill)))
    assert [run.wait(TIMEOUT + 60) for run in killed] == [-signal.SIGKILL] * 2, killed[0].text()[-3000:]
    text = both(two, tmp_path, faulty=dict.fromkeys((0, 1), says_what_is_sharded))
    assert "resuming from" in text
    assert re.search(r"sharded: [1-9]\d*, all decoder layers: True", text)
    assert largest_difference(adapter(tmp_path / "one"), adapter(tmp_path / "two")) < 1e-6
    assert len(validation_losses(tmp_path / "two")) == 2


@pytest.mark.slow
def test_ranks_that_srun_started_are_those_of_slurm(model, rows, tmp_path):
    """The variables that srun sets, on one machine; without them both would be rank 0."""
    arguments = command(
        tmp_path / "run", model, rows, "trainer=ddp_cpu", "data.batch_size=1",
        "trainer.val_every_n_batches=0", "callbacks.best=null", steps=2,
    )  # fmt: skip
    both(arguments, tmp_path, launcher="srun")
    assert (tmp_path / "run" / "adapter").is_dir()
