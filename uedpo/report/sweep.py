"""One table and one plot at the end of a sweep."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from uedpo.metrics import mean_interval
from uedpo.report.page import TITLES, cell
from uedpo.results import BASE, differing, value_of

HEADLINES = ("chair_i", "chair_s", "coverage", "small_coverage", "attribute_accuracy", "pope_accuracy")
# what a preset of conf/method/ may set
METHOD_KEYS = ("method", "loss", "weights", "corruption", "data.negatives")


class SweepSummary(Callback):
    """Hydra callback: writes summary.md and summary.png in the sweep's folder, and prints the table.

    Args:
        parameter: the swept key on the x axis, or "method".
        by: a second key, one line each in the plot.
        split: of the evaluation.
    """

    def __init__(self, parameter: str, by: str | None = None, split: str = "shift") -> None:
        self.parameter, self.by, self.split = parameter, by, split

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        runs = read_runs(folder)
        if not runs:
            print(f"no finished run with an evaluation in {folder}: no summary")
            return
        table = summarise(runs, self.parameter, self.by, self.split)
        text = markdown(table, self.parameter, self.by)
        (folder / "summary.md").write_text(text)
        plot(table, folder / "summary.png", self.parameter)
        print(f"\n{text}\n{len(runs)} runs; table and plot: {folder}/summary.md, {folder}/summary.png")


def read_runs(folder: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(config, metrics) of each finished and evaluated run below a sweep's folder, in order."""
    runs = []
    for path in sorted(folder.glob("*/metrics.json"), key=lambda p: (len(p.parent.name), p.parent.name)):
        metrics = json.loads(path.read_text())
        if metrics["after"]:
            cfg = OmegaConf.to_container(OmegaConf.load(path.parent / "config.yaml"))
            assert isinstance(cfg, dict)
            runs.append((cfg, metrics))
    return runs


def summarise(
    runs: list[tuple[dict[str, Any], dict[str, Any]]], parameter: str, by: str | None, split: str
) -> dict[tuple[Any, Any], dict[str, list[float]]]:
    """(by, parameter) -> metric -> values over seeds, in per cent; ("base model", "") is untrained.

    Raises:
        ValueError: runs that differ in more than seed, `parameter` and `by`.
    """
    varied = {"seed", parameter, by or parameter}
    if "method" in varied:
        varied |= set(METHOD_KEYS)
    differ = differing([cfg for cfg, _ in runs], varied)
    if differ:
        raise ValueError(f"runs differ in {', '.join(differ)} too: they are not seeds of one setting")
    table: dict[tuple[Any, Any], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    base = next((metrics["before"][split] for _, metrics in runs if metrics["before"]), {})
    for name in HEADLINES if base else ():
        value = base[name]["value"]
        table[BASE, ""][name] = [] if value is None else [100 * value]
    for cfg, metrics in runs:
        for name in HEADLINES:
            value = metrics["after"][split][name]["value"]
            if value is not None:
                table[value_of(cfg, by) if by else "", value_of(cfg, parameter)][name].append(100 * value)
    return table


def markdown(table: dict[tuple[Any, Any], dict[str, list[float]]], parameter: str, by: str | None) -> str:
    """Mean and 95 % t interval over seeds, in per cent, one row a setting."""
    head = [by or "", parameter, "runs", *(TITLES[name] for name in HEADLINES)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (group, value), metrics in table.items():
        cells = [cell(group), cell(value), str(len(metrics[HEADLINES[0]]))]
        for name in HEADLINES:
            if not metrics[name]:
                cells.append("none")
                continue
            mean, half = mean_interval(metrics[name])
            cells.append(f"{mean:.1f}" if half != half else f"{mean:.1f} +- {half:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(table: dict[tuple[Any, Any], dict[str, list[float]]], path: Path, parameter: str) -> None:
    """Mean and interval of three headline metrics; a horizontal line is the base model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = ("chair_i", "small_coverage", "attribute_accuracy")
    settings = {key: value for key, value in table.items() if key[0] != BASE}
    xs = list(dict.fromkeys(x for _, x in settings))
    figure, axes = plt.subplots(1, len(shown), figsize=(12, 3.6), layout="constrained")
    groups = list(dict.fromkeys(group for group, _ in settings))
    for axis, name in zip(axes, shown, strict=True):
        for base in table.get((BASE, ""), {}).get(name, []):
            axis.axhline(base, color="0.6", lw=1, label=BASE)
        for n, group in enumerate(groups):
            values = [(xs.index(x), m[name]) for (g, x), m in settings.items() if g == group and m[name]]
            if not values:
                continue
            at, mean, half = zip(*((x, *mean_interval(v)) for x, v in values), strict=True)
            side = 0.08 * (n - (len(groups) - 1) / 2)  # so that intervals do not hide each other
            line = "" if parameter == "method" else "-"
            label = str(group) or None
            axis.errorbar([a + side for a in at], mean, half, marker="o", capsize=3, label=label, ls=line)
        slant = {"rotation": 30, "ha": "right"} if parameter == "method" else {}
        axis.set_xticks(range(len(xs)), [str(x) for x in xs], fontsize=8, **slant)
        axis.set_title(TITLES[name] + " (%)", fontsize=10)
        axis.set_xlabel(parameter)
    axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
