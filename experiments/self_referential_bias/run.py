"""Do weights leave the tokens a model needs to learn? `python experiments/self_referential_bias/run.py`.

Trains each method that weighs tokens by what the policy itself sees, and every ten steps looks at the
weights of fixed validation pairs: how much more than the average token of a preferred answer does a token
weigh that the base model gets wrong? Finished trials are lines of results.jsonl and are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from uedpo.config.build import build_module, build_weigher
from uedpo.config.overrides import conf_folder
from uedpo.data.collate import PairCollator
from uedpo.data.datamodule import PairDataModule
from uedpo.data.prompts import pair_turns
from uedpo.microworld.data import MicroWorldPairs
from uedpo.microworld.tokens import scene_of, token_truth
from uedpo.results.statistics import mean_interval
from uedpo.results.store import append_row
from uedpo.types import PairBatch

HERE = Path(__file__).parent
METHODS = {"ue_dpo": "UE-DPO", "tpo": "TPO", "entropy": "entropy weights"}
EVERY, PAIRS = 10, 64


class WeightMass(pl.Callback):
    """Every ten steps, weights of fixed pairs: mean over needed tokens and over all, preferred answers.

    A token is needed where the untrained model's greedy guess misses it and its word claims something.
    """

    def __init__(self, batch: PairBatch, claims: Tensor, weigh: Callable[[Any, PairBatch], Tensor]) -> None:
        self.batch, self.claims, self.weigh = batch, claims, weigh
        self.needed: Tensor | None = None
        self.rows: list[dict[str, float]] = []

    @torch.no_grad()
    def look(self, module: Any, step: int) -> None:
        training = module.policy.training
        module.policy.eval()
        half, mask = len(self.batch.ids), self.batch.mask[: len(self.batch.ids)]
        if self.needed is None:
            missed = (module.score(self.batch).argmax != self.batch.tokens)[:half]
            self.needed = missed & self.claims & mask
        weights = self.weigh(module, self.batch)[:half]
        self.rows.append(
            {"step": step, "needed": float(weights[self.needed].mean()), "all": float(weights[mask].mean())}
        )
        module.policy.train(training)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % EVERY == 0:
            self.look(pl_module, batch_idx)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.look(pl_module, trainer.global_step)


def lambdas(module: Any, batch: PairBatch, probe: Any) -> Tensor:
    """UE-DPO's weights, or those of its variants, with the noise of step 0."""
    corrupted = module.score(batch, probe.corrupt(batch, 0)) if probe.needs_probe else None
    weights: Tensor = probe.signals(batch, module.score(batch), corrupted).weights
    return weights


def tpo_weights(module: Any, batch: PairBatch) -> Tensor:
    """c = sigmoid(s) + 1/2 of the preferred answers (rejected rows are not used)."""
    noisy = module.score(batch, module.corruption(batch.pixel_values, batch.ids, 0))
    return torch.sigmoid(module.score(batch).target_logits - noisy.target_logits) + 0.5


def train(method: str, seed: int, steps: int) -> list[dict[str, float]]:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", [f"+method={method}", f"seed={seed}", f"trainer.max_steps={steps}",
                                 "trainer.val_every_n_batches=0"])  # fmt: skip
    pl.seed_everything(seed, verbose=False)
    source = instantiate(cfg.model)
    processor = source.processor()
    data = instantiate(cfg.data)(processor=processor, seed=seed)
    assert isinstance(data, PairDataModule)
    corruption = instantiate(cfg.corruption, seed=seed)
    module, weigher = build_module(cfg, source, corruption), build_weigher(cfg, corruption)
    pairs = [MicroWorldPairs("val", PAIRS)[i] for i in range(PAIRS)]
    collate = PairCollator(processor, 200)
    batch = collate(pairs)
    claims = torch.zeros(PAIRS, batch.tokens.shape[1], dtype=torch.bool)
    for i, pair in enumerate(pairs):
        spans = collate.frame.spans(pair_turns(pair), pair.chosen)
        truth = token_truth(pair.chosen, scene_of(pair), spans)
        claims[i, : len(truth)] = torch.tensor([token.right is not None for token in truth])
    weigh = tpo_weights if weigher is None else lambda m, b: lambdas(m, b, weigher)
    mass = WeightMass(batch, claims, weigh)
    callbacks = [*([weigher] if weigher else []), mass]
    instantiate(cfg.trainer, callbacks=callbacks, logger=False).fit(module, data)
    return mass.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.output / "results.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    for method in METHODS:
        for seed in range(options.seeds):
            about = {"method": method, "seed": seed, "steps": options.steps}
            if not any(about.items() <= row.items() for row in done):
                rows = train(method, seed, options.steps)
                append_row(path, about | {"rows": rows})
                done.append(about | {"rows": rows})
    chosen = [row for row in done if row["steps"] == options.steps and row["seed"] < options.seeds]
    text = table(chosen)
    (options.output / "table.md").write_text(text)
    plot(chosen, options.output / "plot.png")
    print(text)


def curves(done: list[dict[str, Any]], method: str) -> tuple[list[int], np.ndarray]:
    """Steps, and [seeds, steps]: weight of a needed token over that of the average one."""
    runs = [row["rows"] for row in done if row["method"] == method]
    ratios = np.array([[point["needed"] / point["all"] for point in run] for run in runs])
    return [int(point["step"]) for point in runs[0]], ratios


def table(done: list[dict[str, Any]]) -> str:
    steps = curves(done, next(iter(METHODS)))[0]
    lines = ["| method | " + " | ".join(f"step {s}" for s in steps) + " |", "|---" * (len(steps) + 1) + "|"]
    for method, title in METHODS.items():
        cells = [mean_interval(list(column)) for column in curves(done, method)[1].T]
        lines.append(f"| {title} | " + " | ".join(f"{mean:.3f} ± {half:.3f}" for mean, half in cells) + " |")
    return "\n".join(lines) + "\n"


def plot(done: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    for method, title in METHODS.items():
        steps, ratios = curves(done, method)
        mean, half = zip(*(mean_interval(list(column)) for column in ratios.T), strict=True)
        axis.errorbar(steps, mean, half, marker="o", capsize=3, label=title)
    axis.axhline(1, color="0.6", lw=1)
    axis.set_xlabel("optimiser step")
    axis.set_ylabel("weight of a needed token / of the average one")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
