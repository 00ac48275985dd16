"""report.html: one self-contained page from what a run directory holds.

Model text is data: Jinja escapes everything, and the page's policy forbids scripts and requests.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from omegaconf import OmegaConf

from uedpo.results import method_name

TITLES = {
    "chair_i": "CHAIR_i", "chair_s": "CHAIR_s", "coverage": "coverage",
    "small_coverage": "coverage of small background objects", "attribute_accuracy": "attributes right",
    "position_accuracy": "positions right", "pope_accuracy": "POPE-like accuracy",
    "words": "words per caption",
}  # fmt: skip
SPLITS = {
    "shift": "Scenes that break the training co-occurrences",
    "train": "Scenes that follow the training co-occurrences",
}
PICTURES = ("clear_image", "corrupted_image")
LOWER_IS_BETTER = ("chair_i", "chair_s")


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html from config.yaml, metrics.json, metrics.csv and traces.json."""
    cfg = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(cfg, dict)
    metrics = json.loads((folder / "metrics.json").read_text())
    traces = json.loads((folder / "traces.json").read_text())
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("page.html.j2").render(
        name=cfg["name"],
        method=method_name(cfg),
        summary=_summary(cfg),
        table=_table(metrics),
        split_titles=SPLITS,
        traces=[trace | {name: _picture(trace.get(name)) for name in PICTURES} for trace in traces],
        tokens=_tokens,
        weighed=any("weight" in t for trace in traces for t in trace["chosen"]["before"]),
        curves=_curves(folder / "metrics.csv"),
        folder=shlex.quote(str(folder.resolve())),
        more="".join(
            f" 'allow_packages=[{name}]'" for name in [",".join(cfg.get("allow_packages") or [])] if name
        ),
        config=(folder / "config.yaml").read_text(encoding="utf-8"),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _summary(cfg: dict[str, Any]) -> str:
    weights, trainer = cfg["weights"], cfg["trainer"]
    parts = [f"{cfg['model']['path']} trained for {trainer['max_steps']} steps"]
    parts.append(
        f"loss beta {cfg['loss']['beta']}, peak learning rate {cfg['optim']['lr']}, seed {cfg['seed']}"
    )
    for group in ("weights", "corruption"):
        options = {k: v for k, v in cfg[group].items() if not k.startswith("_")}
        if "_target_" in weights and options:
            parts.append(f"{group}: " + ", ".join(f"{k} {v}" for k, v in options.items()))
    return "; ".join(parts) + "."


def _table(metrics: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    before, after = metrics["before"], metrics["after"]
    if not before or not after:
        return {}
    table: dict[str, list[dict[str, Any]]] = {}
    for split in before:
        scenes = before[split]["words"]["denominator"]
        table[split] = [
            {"title": title, "scenes": scenes, **_row(name, before[split][name], after[split][name])}
            for name, title in TITLES.items()
        ]
    return table


def _row(name: str, before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    scale = 1 if name == "words" else 100

    def number(entry: dict[str, Any], key: str = "value") -> str:
        return "none" if entry[key] is None else f"{scale * entry[key]:.1f}"

    def interval(entry: dict[str, Any]) -> str:
        return "" if entry["low"] is None else f"[{number(entry, 'low')}, {number(entry, 'high')}]"

    row = {"before": number(before), "after": number(after), "change": "", "verdict": ""}
    row |= {"before_interval": interval(before), "after_interval": interval(after)}
    if before["value"] is not None and after["value"] is not None:
        change = scale * (after["value"] - before["value"])
        row["change"] = f"{change:+.1f}"
        # a verdict only where the intervals do not overlap
        apart = after["high"] < before["low"] or after["low"] > before["high"]
        if apart and name != "words":
            row["verdict"] = "good" if (change < 0) == (name in LOWER_IS_BETTER) else "bad"
    return row


def _picture(url: object) -> str:
    """A picture that is part of the page, never an address to fetch."""
    return url if isinstance(url, str) and url.startswith("data:image/png;base64,") else ""


def cell(value: object) -> str:
    """Text for a cell of a Markdown table: no HTML, no links, no further columns."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return "".join("\\" + c if c in "|[]`" else c for c in text if c.isprintable())


def _tokens(tokens: list[dict[str, Any]], side: str) -> Markup:
    return Markup("").join(_token(token, side) for token in tokens)


def _token(token: dict[str, Any], side: str) -> Markup:
    tip, style, mark = f"logp {token['logp']:.2f}", "", ""
    if "u" in token:
        kind = f"  Type {token['type']}" if token["type"] and side == "chosen" else ""
        tip += f"\nu {token['u']:.2f}  Delta {token['delta']:.2f}\nlambda {token['weight']:.3f}{kind}"
        if token["type"]:
            mark = {"I": "one", "II": "two"}[token["type"]] if side == "chosen" else "rej"
            colour = "240,130,40" if side == "chosen" else "70,140,220"
            style = f"background: rgba({colour},{min(1.0, 2 * abs(token['weight'] - 1)):.2f})"
    return Markup('<span class="t {}" tabindex="0" style="{}" data-tip="{}">{}</span>').format(
        mark, style, tip, token["text"]
    )


def _curves(path: Path) -> str:
    """The step metrics as an SVG data URL; empty where there are none."""
    if not path.is_file():
        return ""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    panels = [
        ("loss", ["train/loss", "val/loss"]),
        ("margin", ["train/margin", "val/margin"]),
        ("log-ratio (nats)", ["train/log_ratio_chosen", "train/log_ratio_rejected"]),
        ("mean weight", ["weights/chosen", "weights/rejected"]),
    ]
    figure, axes = plt.subplots(1, 4, figsize=(13, 2.9), layout="constrained")
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name in names:
            points = [(int(r["step"]), float(r[name])) for r in rows if r.get(name)]
            if points:
                axis.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 12 else None)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        if axis.lines:
            axis.legend(fontsize=7, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    plt.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
