"""Same seed twice, the same batch in one piece or four, and what it all costs."""

import functools
import statistics
import time

import pytest
import pytorch_lightning as pl
import torch

from tests.reliability.harness import command, finish, result, tiny_model_folder
from uedpo.callbacks.checkpoint_files import Identity, VerifiedIO
from uedpo.callbacks.checkpoints import Best, Checkpoints
from uedpo.callbacks.guard import Guard
from uedpo.callbacks.preemption import Preemption, Watchdog
from uedpo.data.datamodule import PairDataModule
from uedpo.loss import dpo_loss
from uedpo.microworld.data import MicroWorldPairs
from uedpo.model.hf import HFModel, lora
from uedpo.module import PreferenceModule
from uedpo.optim import adamw_cosine
from uedpo.trainer import make_trainer


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["ue_dpo", "dpo"])
def test_same_seed_twice_is_bit_identical(tmp_path, method):
    model = tiny_model_folder(tmp_path / "model")
    for name in ("a", "b"):
        finish(command(tmp_path / name, model, workers=2, method=method), tmp_path / f"{name}.log")
    assert result(tmp_path / "a").differs(result(tmp_path / "b")) == ""


def fit(folder, model, steps, batch_size, accumulate, callbacks, every=20):
    """Train in this process; the module."""
    pl.seed_everything(0, verbose=False)
    source = HFModel(str(model), lora=lora(r=4, alpha=8.0))
    data = PairDataModule(MicroWorldPairs("train", 40), [], source.processor(), batch_size=batch_size)
    module = PreferenceModule(
        source, functools.partial(dpo_loss, beta=0.1), functools.partial(adamw_cosine, lr=1e-3)
    )
    trainer = make_trainer(
        max_steps=steps, accumulate_grad_batches=accumulate, callbacks=callbacks, logger=False,
        default_root_dir=str(folder), plugins=[VerifiedIO(Identity({}, ""))],
    )  # fmt: skip
    trainer.fit(module, data)
    assert trainer.global_step == steps
    return module


class Losses(pl.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].double())


@pytest.mark.exhaustive
def test_a_batch_of_four_equals_four_of_one(tmp_path):
    model = tiny_model_folder(tmp_path / "model")
    whole, parts = Losses(), Losses()
    fit(tmp_path, model, 50, 4, 1, [whole])
    fit(tmp_path, model, 50, 1, 4, [parts])
    a = torch.stack(whole.values)
    b = torch.stack(parts.values).reshape(50, 4)
    b = b.sum(1) if torch.isclose(b[0].sum(), a[0]) else b.mean(1)  # Lightning scales what it returns or not
    off = (b - a) / a
    print(f"largest relative difference {off.abs().max():.1e}, mean {off.mean():.1e}")
    assert off.abs().max() < 1e-6
    assert off.mean().abs() < 2 * off.std() / 50**0.5 + 1e-8  # no drift to one side


class Alternate(pl.Callback):
    """Turns `others` on and off every `block` steps, and times each block."""

    def __init__(self, others, block):
        self.others, self.block = others, block
        self.times = {True: [], False: []}
        self.start = None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (batch_idx + 1) % self.block:
            return
        now = torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
        on = all(c in trainer.callbacks for c in self.others)
        if self.start is not None:
            self.times[on].append(now - self.start)
        kept = [c for c in trainer.callbacks if c not in self.others]
        trainer.callbacks = kept if on else [*kept, *self.others]
        self.start = now


def timed(callbacks, hooks):
    """Processor seconds of each call of these hooks, in a list that grows as they are called."""
    spent = []

    def wrap(hook):
        @functools.wraps(hook)
        def measured(*args, **kwargs):
            begin = time.process_time()
            try:
                return hook(*args, **kwargs)
            finally:
                spent.append(time.process_time() - begin)

        return measured

    for callback in callbacks:
        for name in hooks:
            setattr(callback, name, wrap(getattr(callback, name)))
    return spent


@pytest.mark.exhaustive
def test_all_of_it_costs_at_most_two_percent_of_a_step(tmp_path):
    """The shipped model, batches of 8, half the demo's; every other epoch of five steps has all of it on.

    What one pair of blocks says is off by more than the cost where other programs run, so the bar is on
    the time within the hooks; the ratio is printed.
    """
    others = [Guard(), Preemption(), Watchdog(600), Best(), Checkpoints(every_n_train_steps=20)]
    clock = Alternate(others, 5)
    # saving happens in the first of them
    spent = timed(others, ["on_train_batch_start", "on_before_backward", "on_before_optimizer_step"])
    fit(tmp_path, "uedpo:micro_llava", 5 * 56, 8, 1, [clock, *others])
    on, off = clock.times[True], clock.times[False]
    for name, i in (("wall", 0), ("processor", 1)):
        ratios = [float(2 * b[i] / (a[i] + c[i])) for a, b, c in zip(off, on, off[1:], strict=False)]
        middle = statistics.quantiles(ratios, n=4)
        print(f"{name}: on / off {middle[1]:.4f}, quartiles {middle[0]:.3f} and {middle[2]:.3f}")
    step = float(torch.stack(off)[:, 1].median()) / 5
    share = sum(spent) / (5 * (len(on) + 1)) / step  # the first block was on, too
    print(f"within the hooks: {share:.4f} of a step of {step * 1000:.0f} ms, processor time")
    assert share < 0.02
