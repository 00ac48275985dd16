import csv

import pytorch_lightning as pl

from tests.integration.conftest import same, trained
from tests.integration.test_run import uedpo
from uedpo.callbacks.periodic_evaluation import START, PeriodicEvaluation
from uedpo.microworld.evaluation import TEST_START


class Watch(pl.Callback):
    """What is logged after each step, by the callbacks before this one."""

    def __init__(self):
        self.steps = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        values = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("eval/")}
        self.steps.setdefault(trainer.global_step, []).append(values)


def test_evaluation_leaves_training_as_it_is(train):
    plain, losses = train("dpo", steps=4, accumulate=2)
    ran = []
    periodic = PeriodicEvaluation(every_n_steps=2, num_shift=4, num_train=2, max_new_tokens=40)
    run = periodic.evaluation.run
    periodic.evaluation.run = lambda *given: ran.append(1) or run(*given)
    module, watched = train("dpo", steps=4, accumulate=2, callbacks=[periodic, watch := Watch()])
    assert len(ran) == 2
    assert watched == losses
    assert same(trained(module), trained(plain))
    assert module.policy.training
    assert watch.steps[1] == [{}, {}]
    assert watch.steps[2][0]["eval/shift/coverage"] == 0  # of a model that says nothing
    assert "eval/train/words" in watch.steps[4][0]


def test_scenes_are_not_those_of_the_final_evaluation():
    assert START != TEST_START
    assert PeriodicEvaluation(num_shift=1000).evaluation.start == START


def test_config_switches_it_on_and_csv_has_it(tmp_path):
    uedpo(
        "callbacks=periodic", "callbacks.evaluation.every_n_steps=2", "callbacks.evaluation.num_shift=4",
        "trainer.max_steps=3", "trainer.val_every_n_batches=0", "data.batch_size=2", "data.val.num_pairs=1",
        "evaluation=none", "threads=1", f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    steps = [row["step"] for row in rows if row.get("eval/shift/chair_i")]
    assert steps == ["1"]
    assert any(row["step"] == "1" and row["train/loss"] for row in rows)
