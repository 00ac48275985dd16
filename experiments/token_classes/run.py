"""What the probe selects, by kind of token and noise schedule: `python experiments/token_classes/run.py`.

Base model, shipped training pairs, alpha 0.3, tau 0.4, k 500; writes table.md beside this file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from uedpo.corruption.diffusion import Diffusion
from uedpo.data.collate import PairCollator
from uedpo.microworld.data import MicroWorldPairs
from uedpo.microworld.scene import make_scene
from uedpo.microworld.truth import TOKEN_CLASSES, judge, read, token_classes
from uedpo.model.hf import HFModel
from uedpo.scoring.plain import score
from uedpo.weights.probe import UncertaintyProbe

COLUMNS = (
    "token", "share", "selected", "u = 0", "u = 0 of the selected", "mean u", "mean Delta", "mean lambda",
)  # fmt: skip
SCHEDULES = ("sigmoid", "linear", "scaled_linear")


@torch.no_grad()
def collect(schedule: str, num_pairs: int) -> list[dict[str, Any]]:
    """One record per response token."""
    source = HFModel("uedpo:micro_llava")
    model, processor = source.base(), source.processor()
    pairs = MicroWorldPairs("train", num_pairs)
    probe = UncertaintyProbe(alpha=0.3, corruption=Diffusion(schedule=schedule))  # type: ignore[arg-type]
    collate = PairCollator(processor, 200)
    records = []
    for start in track(range(0, num_pairs, 16), description=schedule):
        chunk = [pairs[i] for i in range(start, min(start + 16, num_pairs))]
        batch = collate(chunk)
        clear, noisy = score(model, batch), score(model, batch, probe.corrupt(batch, 0))
        signals = probe.signals(batch, clear, noisy)
        for row in range(2 * len(chunk)):
            pair = chunk[row % len(chunk)]
            side = "chosen" if row < len(chunk) else "rejected"
            text = " " + getattr(pair, side)
            split, index = pair.id.rsplit("-", 1)
            reading = judge(read(text), make_scene(split, int(index)))
            encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            kinds = token_classes(reading, [*encoded["offset_mapping"], (0, 0)])
            for t, (kind, right) in enumerate(kinds):
                records.append(
                    {
                        "side": side,
                        "kind": kind,
                        "right": right,
                        "selected": bool(signals.selected[row, t]),
                        "u": float(signals.uncertainty[row, t]),
                        "delta": float(signals.sensitivity[row, t]),
                        "weight": float(signals.weights[row, t]),
                        "entropy": float(clear.entropy[row, t]),
                        "wrong_guess": bool(clear.argmax[row, t] != batch.tokens[row, t]),
                    }
                )
    return records


def line(name: str, records: list[dict[str, Any]], total: int) -> str:
    picked = [r for r in records if r["selected"]]
    cells = [name, f"{100 * len(records) / total:.1f}", f"{100 * len(picked) / len(records):.1f}"]
    cells.append(f"{100 * np.mean([r['u'] == 0 for r in records]):.1f}")
    cells.append(f"{100 * np.mean([r['u'] == 0 for r in picked]):.1f}" if picked else "none")
    cells += [f"{np.mean([r[key] for r in records]):.3f}" for key in ("u", "delta", "weight")]
    return "| " + " | ".join(cells) + " |"


def auc(scores: list[float], labels: list[bool]) -> float:
    """Probability that a positive scores higher than a negative, ties counting half."""
    x, y = np.array(scores), np.array(labels)
    wins = (x[y][:, None] > x[~y][None]).mean() + 0.5 * (x[y][:, None] == x[~y][None]).mean()
    return float(wins)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "table.md")
    options = parser.parse_args()
    text = ""
    for schedule in SCHEDULES:
        records = collect(schedule, options.pairs)
        for side in ("chosen", "rejected"):
            rows = [r for r in records if r["side"] == side]
            text += f"\n### {schedule} schedule, {side} ({len(rows)} tokens)\n\n"
            text += f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
            for kind in TOKEN_CLASSES:
                some = [r for r in rows if r["kind"] == kind]
                if some:
                    text += line(kind, some, len(rows)) + "\n"
            text += line("all", rows, len(rows)) + "\n"
        objects = [r for r in records if r["side"] == "rejected" and r["kind"] == "object"]
        wrong = [r["right"] is False for r in objects]
        signals = {"u": 1, "-Delta": -1, "entropy": 1}
        values = (
            f"{n} {auc([s * r[n.strip('-').lower()] for r in objects], wrong):.2f}"
            for n, s in signals.items()
        )
        text += (
            f"\n{100 * np.mean(wrong):.0f} % of {len(objects)} object words of rejected captions are wrong; "
            f"ROC-AUC for wrong: {', '.join(values)}.\n"
        )
    options.output.write_text(text.lstrip())
    print(text)


if __name__ == "__main__":
    main()
