import functools
import json

import pytest
import pytorch_lightning as pl
import torch

from tests.benchmark_files import BENCHMARKS
from tests.tiny import tiny_llava
from uedpo.data.datamodule import PairDataModule
from uedpo.evaluation.official.assets import amber_annotations
from uedpo.evaluation.score import main
from uedpo.loss import dpo_loss, ue_dpo_loss
from uedpo.microworld.data import MicroWorldPairs
from uedpo.model.hf import HFModel, lora
from uedpo.module import PreferenceModule
from uedpo.optim import adamw_cosine
from uedpo.weights.probe import UncertaintyProbe


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return HFModel(str(tiny_llava(tmp_path_factory.mktemp("tiny"))), lora=lora(r=4, alpha=8.0))


@pytest.fixture(scope="session")
def processor(source):
    return source.processor()


@pytest.fixture
def train(source, processor, tmp_path):
    """train(loss="ue_dpo", probe options or None, ...) -> (module, losses of each step)."""

    def go(loss, probe=None, steps=4, accumulate=1, callbacks=(), resume=None, batch_size=3):
        pl.seed_everything(0, verbose=False)
        losses = []

        class Record(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
                losses.append((batch.ids, outputs["loss"].item()))

        pairs = MicroWorldPairs("train", 10)
        data = PairDataModule(pairs, pairs, processor, batch_size=batch_size)
        function = {"dpo": dpo_loss, "ue_dpo": ue_dpo_loss}[loss]
        module = PreferenceModule(
            source, functools.partial(function, beta=0.1), functools.partial(adamw_cosine, lr=1e-3)
        )
        weigher = [] if probe is None else [UncertaintyProbe(**probe)]
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=steps, max_epochs=1, accumulate_grad_batches=accumulate,
            callbacks=[*weigher, Record(), *callbacks], enable_checkpointing=bool(callbacks), logger=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
            limit_val_batches=0, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
        assert trainer.global_step == steps
        return module, losses

    return go


def trained(module):
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def score(tmp_path):
    def call(benchmark, answers, assets, *options):
        path, output = tmp_path / "answers", tmp_path / "report.json"
        output.unlink(missing_ok=True)
        path.write_text(answers if isinstance(answers, str) else json.dumps(answers))
        code = main(
            [f"benchmark={benchmark}", f"answers={path}", f"assets={assets}", f"output={output}", *options]
        )
        return code, json.loads(output.read_text())

    return call


@pytest.fixture(scope="session")
def amber():
    return amber_annotations((BENCHMARKS / "amber" / "annotations.json").read_text(), "annotations.json")
