"""How close do cheaper probes come to a whole one? `python experiments/cheaper_probe/run.py`.

Weights of shipped training pairs on the micro-world model, after 80 steps of the default run, against
those of the probe as the paper has it; writes table.md beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rich.progress import track
from torch import Tensor
from torch.nn.functional import avg_pool2d

from uedpo.config.build import build_module, build_weigher
from uedpo.config.overrides import conf_folder
from uedpo.data.collate import PairCollator
from uedpo.microworld.data import MicroWorldPairs
from uedpo.model.inputs import unwrap
from uedpo.scoring.head import token_scores
from uedpo.scoring.plain import score
from uedpo.scoring.prefix_shared import ImageFeatures, computed
from uedpo.types import PairBatch, TokenScores
from uedpo.weights.probe import Signals, UncertaintyProbe

HERE = Path(__file__).parent
Probe = Callable[[Any, PairBatch, Tensor], TokenScores]


@contextmanager
def first_layers(model: Any, num: int) -> Iterator[None]:
    """Leave the language model after `num` layers: its norm and head read what is there."""
    language = unwrap(model).model.language_model
    layers, language.layers = language.layers, language.layers[:num]
    try:
        yield
    finally:
        language.layers = layers


def early_exit(num: int) -> Probe:
    def probe(model: Any, batch: PairBatch, pixels: Tensor) -> TokenScores:
        with first_layers(model, num):
            return score(model, batch, pixels)

    return probe


def pooled_image(model: Any, batch: PairBatch, pixels: Tensor) -> TokenScores:
    """A quarter of the image tokens: 2 x 2 neighbours averaged, at the position of the first of them."""
    base = unwrap(model)
    features = torch.stack(list(base.model.get_image_features(pixel_values=pixels).pooler_output))
    side = int(features.shape[1] ** 0.5)
    grid = features.transpose(1, 2).unflatten(2, (side, side))
    fewer = avg_pool2d(grid, 2).flatten(2).transpose(1, 2)
    ids = batch.inputs["input_ids"]
    corner = torch.zeros(side, side, dtype=torch.bool)
    corner[::2, ::2] = True
    keep = ids != base.config.image_token_id
    keep[~keep] = corner.flatten().repeat(len(ids))
    index = torch.stack([row.nonzero().squeeze(1) for row in keep])
    new_place = keep.cumsum(1) - 1
    with computed(base.model, ImageFeatures([*fewer, *fewer])) as any_pixels:
        states = base.model(
            input_ids=ids.gather(1, index),
            pixel_values=any_pixels,
            attention_mask=batch.inputs["attention_mask"].gather(1, index),
            position_ids=index,
            use_cache=False,
        ).last_hidden_state
    rows = torch.arange(len(ids))[:, None].expand_as(batch.mask)[batch.mask]
    places = new_place.gather(1, batch.positions)[batch.mask]
    return token_scores(base, states[rows, places], batch)


def no_image(model: Any, batch: PairBatch, pixels: Tensor) -> TokenScores:
    return score(model, batch, torch.zeros_like(pixels))


def trained_policy(steps: int) -> tuple[Any, Any]:
    """(base model, policy after `steps` steps of the default UE-DPO run)."""
    import pytorch_lightning as pl

    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", [f"trainer.max_steps={steps}"])
    pl.seed_everything(cfg.seed, verbose=False)
    source, corruption = instantiate(cfg.model), instantiate(cfg.corruption, seed=cfg.seed)
    data = instantiate(cfg.data)(processor=source.processor(), seed=cfg.seed)
    module, weigher = build_module(cfg, source, corruption), build_weigher(cfg, corruption)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=1,
        logger=False,
        callbacks=[weigher],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data)
    return source.base(), module.policy.eval()


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks with ties at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    result: np.ndarray = (ends - (counts - 1) / 2)[inverse]
    return result


def correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two sets of numbers."""
    return float(np.corrcoef(ranks(a.numpy()), ranks(b.numpy()))[0, 1])


def agreement(exact: list[Signals], cheap: list[Signals], masks: list[Tensor]) -> list[float]:
    """Rank correlation of u, Delta and lambda over all tokens; of I what is selected too; share selected."""
    of = {
        name: [
            torch.cat([getattr(s, name)[m] for s, m in zip(side, masks, strict=True)])
            for side in (exact, cheap)
        ]
        for name in ("uncertainty", "sensitivity", "weights", "selected")
    }
    one, other = of["selected"]
    numbers = [correlation(*of[name]) for name in ("uncertainty", "sensitivity", "weights")]
    return [*numbers, float((one & other).sum() / one.sum()), float(other.float().mean())]


@torch.no_grad()
def signals_of(model: Any, batch: PairBatch, probe: UncertaintyProbe, how: Probe, step: int) -> Signals:
    pixels = probe.corrupt(batch, step)
    assert pixels is not None
    return probe.signals(batch, score(model, batch), how(model, batch, pixels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=320)
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    base, policy = trained_policy(options.steps)
    probe = UncertaintyProbe(alpha=0.3)
    pairs, collate = MicroWorldPairs("train", options.pairs), PairCollator(base_processor(), 200)
    batches = [
        collate([pairs[i] for i in range(at, min(at + 16, len(pairs)))]) for at in range(0, len(pairs), 16)
    ]
    masks = [batch.mask for batch in batches]
    exact = [signals_of(policy, b, probe, score, 0) for b in track(batches, description="whole probe")]
    ways: dict[str, tuple[Any, Probe, int]] = {
        "other noise": (policy, score, 1),
        "reused from before training": (base, score, 1),
        "first 2 of 3 layers": (policy, early_exit(2), 0),
        "first layer": (policy, early_exit(1), 0),
        "a quarter of the image tokens": (policy, pooled_image, 0),
        "blank image": (policy, no_image, 0),
    }
    lines = ["| cheaper probe | u | Delta | lambda | of I | selected |", "|---|---|---|---|---|---|"]
    for name, (model, how, step) in ways.items():
        cheap = [signals_of(model, b, probe, how, step) for b in track(batches, description=name)]
        lines.append(f"| {name} | " + " | ".join(f"{x:.2f}" for x in agreement(exact, cheap, masks)) + " |")
    for signal in ("entropy", "surprisal", "margin"):
        other = UncertaintyProbe(alpha=0.3, signal=signal, select="signal")  # type: ignore[arg-type]
        with torch.no_grad():
            cheap = [other.signals(b, score(policy, b), None) for b in batches]
        u, _, weights, *rest = agreement(exact, cheap, masks)
        lines.append(
            f"| {signal}, no probe | {u:.2f} | | {weights:.2f} | "
            + " | ".join(f"{x:.2f}" for x in rest)
            + " |"
        )
    (HERE / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def base_processor() -> Any:
    from uedpo.model.hf import HFModel

    return HFModel("uedpo:micro_llava").processor()


if __name__ == "__main__":
    main()
