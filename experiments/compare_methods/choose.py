"""From tuning.jsonl to conf/tuned/: `python experiments/compare_methods/choose.py`.

The best learning rate of a method has the highest F1 of objects on the tuning scenes: the harmonic mean
of precision (1 - CHAIR_i) and coverage. This was fixed before any run. Writes tuning.md as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from uedpo.config.overrides import conf_folder
from uedpo.results.keys import BASE
from uedpo.results.store import read_rows

HERE = Path(__file__).parent


def object_f1(metrics: dict[str, Any]) -> float:
    """Harmonic mean of 1 - CHAIR_i and coverage on the shifted split."""
    precision, recall = 1 - metrics["shift"]["chair_i"]["value"], metrics["shift"]["coverage"]["value"]
    return float(2 * precision * recall / (precision + recall))


def trials() -> dict[str, dict[float, float]]:
    """method -> learning rate -> F1, in the order of the file."""
    table: dict[str, dict[float, float]] = {}
    for row in read_rows(HERE / "tuning.jsonl").values():
        if row["method"] != BASE:
            table.setdefault(row["method"], {})[row["config"]["optim"]["lr"]] = object_f1(row["metrics"])
    return table


def presets() -> dict[str, str]:
    """What tables call a method -> its file in conf/method/."""
    return {
        str(OmegaConf.load(p)["method"]): p.stem for p in sorted((conf_folder() / "method").glob("*.yaml"))
    }


def _cell(value: float | None) -> str:
    return "not run" if value is None else f"{100 * value:.2f}"


def main() -> None:
    table, names = trials(), presets()
    rates = sorted({lr for row in table.values() for lr in row})
    lines = ["| method | " + " | ".join(f"lr {lr}" for lr in rates) + " |", "|---" * (len(rates) + 1) + "|"]
    folder = conf_folder() / "tuned"
    folder.mkdir(exist_ok=True)
    for method, row in table.items():
        best = max(row, key=lambda lr: row[lr])
        cells = [f"**{100 * row[lr]:.2f}**" if lr == best else _cell(row.get(lr)) for lr in rates]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
        (folder / f"{names[method]}.yaml").write_text(
            "# @package _global_\n"
            "# Written by experiments/compare_methods/choose.py.\n"
            f"defaults:\n  - /method: {names[method]}\n"
            f"optim:\n  lr: {best}\n"
        )
    (HERE / "tuning.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
