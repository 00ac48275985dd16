"""Which signal finds the tokens a model gets wrong? `python experiments/does_u_find_blind_spots/run.py`.

Base model, shipped training pairs. ROC-AUC of each signal for three exact labels, with 95 % bootstrap
intervals over captions; writes table.md, plot.png and results.json beside this file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from uedpo.corruption.diffusion import Diffusion
from uedpo.data.collate import PairCollator
from uedpo.data.prompts import pair_turns
from uedpo.microworld.data import MicroWorldPairs
from uedpo.microworld.tokens import contradicts, scene_of, token_truth
from uedpo.model.hf import HFModel
from uedpo.scoring import Scorer
from uedpo.types import PairBatch, TokenScores
from uedpo.weights.signals import token_signal

HERE = Path(__file__).parent
SCHEDULES = ("sigmoid", "scaled_linear", "linear")
PROBED, FREE = ("u", "-Delta", "KL"), ("entropy", "surprisal", "margin")
# label -> (question, token classes it is asked of)
LABELS = {
    "missed": ("chosen: the model's greedy guess is another object, colour or size", ("object", "attribute")),
    "small": ("chosen: the object is a small background one", ("object", "attribute")),
    "false": ("rejected: the word is not true of the image", ("object", "attribute", "position")),
}


def signals(clear: TokenScores, corrupted: TokenScores, batch: PairBatch) -> dict[str, torch.Tensor]:
    """Signal -> [2B, T]; TPO's s is Delta, so its chosen weight orders tokens as Delta does."""
    names = {
        "u": "uncertainty",
        "KL": "kl",
        "entropy": "entropy",
        "surprisal": "surprisal",
        "margin": "margin",
    }
    values = {k: token_signal(v, clear, corrupted, batch.tokens, batch.mask) for k, v in names.items()}  # type: ignore[arg-type]
    return {**values, "-Delta": corrupted.target_logits - clear.target_logits}


@torch.no_grad()
def collect(schedule: str, num_pairs: int) -> list[dict[str, Any]]:
    """One record per word that claims something, at its first token."""
    source, scorer = HFModel("uedpo:micro_llava"), Scorer()
    model, processor = source.base(), source.processor()
    scorer.attach(model)
    pairs, collate = MicroWorldPairs("train", num_pairs), PairCollator(source.processor(), 200)
    corruption = Diffusion(schedule=schedule)  # type: ignore[arg-type]
    records = []
    for start in track(range(0, num_pairs, 16), description=schedule):
        chunk = [pairs[i] for i in range(start, min(start + 16, num_pairs))]
        batch = collate(chunk)
        clear = scorer.score(model, batch)
        corrupted = scorer.score(model, batch, corruption(batch.pixel_values, batch.ids, 0))
        values = signals(clear, corrupted, batch)
        for row in range(2 * len(chunk)):
            pair, side = chunk[row % len(chunk)], ("chosen", "rejected")[row // len(chunk)]
            text = getattr(pair, side)
            truth = token_truth(text, scene_of(pair), collate.frame.spans(pair_turns(pair), text))
            for t, token in enumerate(truth):
                if token.right is None or not token.word:
                    continue
                record = {name: float(value[row, t]) for name, value in values.items()}
                missed = contradicts(processor.tokenizer.decode(clear.argmax[row, t]), token.word)
                record |= {"caption": 2 * (start + row % len(chunk)) + row // len(chunk), "side": side}
                record |= {"kind": token.kind, "missed": missed, "small": token.size == "small"}
                records.append(record | {"false": not token.right})
    return records


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counting half; weights are counts."""
    order = np.argsort(scores, kind="stable")
    scores, labels, weights = scores[order], labels[order], weights[order]
    negative = np.where(labels, 0, weights)
    below = np.cumsum(negative)
    _, first, inverse = np.unique(scores, return_index=True, return_inverse=True)
    before = np.concatenate([[0.0], below])[first]
    tied = np.add.reduceat(negative, first)
    wins = (before + tied / 2)[inverse]
    positive = np.where(labels, weights, 0)
    total = positive.sum() * negative.sum()
    return float((positive * wins).sum() / total) if total else float("nan")


def interval(
    records: Sequence[dict[str, Any]], signal: str, label: str, resamples: int = 200
) -> tuple[float, float, float]:
    """AUC and its 95 % interval, resampling captions."""
    scores = np.array([r[signal] for r in records])
    labels = np.array([r[label] for r in records])
    _, caption = np.unique([r["caption"] for r in records], return_inverse=True)
    num = caption.max() + 1
    draws = np.random.default_rng(0).multinomial(num, np.full(num, 1 / num), size=resamples)
    values = [auc(scores, labels, draw[caption].astype(float)) for draw in draws]
    low, high = np.nanquantile(values, [0.025, 0.975])
    return auc(scores, labels, np.ones(len(scores))), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for schedule in SCHEDULES:
        records = collect(schedule, options.pairs)
        for label, (_, kinds) in LABELS.items():
            side = "rejected" if label == "false" else "chosen"
            for kind in kinds:
                some = [r for r in records if r["side"] == side and r["kind"] == kind]
                share = float(np.mean([r[label] for r in some]))
                about = {"label": label, "kind": kind, "tokens": len(some), "positive": share}
                for signal in (*PROBED, *FREE):
                    if signal in FREE and schedule != SCHEDULES[0]:
                        continue  # these do not see the corrupted image
                    value, low, high = interval(some, signal, label)
                    results.append(
                        {**about, "schedule": "" if signal in FREE else schedule, "signal": signal,
                         "auc": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
                    )  # fmt: skip
    (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table(results)
    (options.output / "table.md").write_text(text)
    plot(results, options.output / "plot.png")
    print(text)


def columns() -> list[tuple[str, str]]:
    """(schedule, signal) of each column."""
    return [(s, name) for s in SCHEDULES for name in PROBED] + [("", name) for name in FREE]


def table(results: Sequence[dict[str, Any]]) -> str:
    """One table a label; rows are token classes, columns schedule and signal."""
    text = ""
    for label, (question, kinds) in LABELS.items():
        head = [f"{name} ({s})" if s else name for s, name in columns()]
        text += f"\n**{question}**\n\n| token | tokens | positive % | {' | '.join(head)} |\n"
        text += "|---" * (len(head) + 3) + "|\n"
        for kind in kinds:
            rows = {
                (r["schedule"], r["signal"]): r for r in results if (r["label"], r["kind"]) == (label, kind)
            }
            first = next(iter(rows.values()))
            cells = [
                f"{r['auc']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in (rows[c] for c in columns())
            ]
            text += f"| {kind} | {first['tokens']} | {100 * first['positive']:.0f} | {' | '.join(cells)} |\n"
    return text.lstrip()


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """AUC for object words, one panel a label."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(LABELS), figsize=(13, 4.2), sharey=True, layout="constrained")
    for axis, (label, (question, _)) in zip(axes, LABELS.items(), strict=True):
        rows = {
            (r["schedule"], r["signal"]): r for r in results if (r["label"], r["kind"]) == (label, "object")
        }
        for at, key in enumerate(columns()):
            r = rows[key]
            error = [[r["auc"] - r["low"]], [r["high"] - r["auc"]]]
            axis.errorbar(r["auc"], -at, xerr=error, fmt="o", capsize=3, color="C1" if key[0] else "C0")
        names = [f"{name} ({s})" if s else f"{name} (no probe)" for s, name in columns()]
        axis.set_yticks([-i for i in range(len(names))], names, fontsize=8)
        axis.axvline(0.5, color="0.6", lw=1)
        axis.set_title(question, fontsize=9)
        axis.set_xlabel("ROC-AUC, object words")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
