"""Rows of the page's tables: evaluation with intervals, classes of tokens, settings."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from uedpo.report.charts import interval_plot
from uedpo.results.metrics import LOWER_IS_BETTER, TITLES


def evaluation(metrics: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Split -> a row per metric, of the base model ("before") and after training, whichever there is."""
    states = {when: metrics[when] for when in ("before", "after") if metrics.get(when)}
    table: dict[str, list[dict[str, Any]]] = {}
    for split in next(iter(states.values()), {}):
        found = {when: state[split] for when, state in states.items() if split in state}
        scenes = next(iter(found.values()))["words"]["denominator"]
        table[split] = [
            {"title": title, "scenes": scenes, **_row(name, {w: m[name] for w, m in found.items()})}
            for name, title in TITLES.items()
        ]
    return table


def _row(name: str, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    scale = 1 if name == "words" else 100
    row: dict[str, Any] = {"change": "", "verdict": "", "plot": "", "better": ""}
    if name != "words":
        row["better"] = "lower" if name in LOWER_IS_BETTER else "higher"
    for when, entry in entries.items():
        row[when] = "none" if entry["value"] is None else f"{scale * entry['value']:.1f}"
        row[f"{when}_interval"] = (
            "" if entry["low"] is None else f"{scale * entry['low']:.1f} to {scale * entry['high']:.1f}"
        )
    known = [e for e in entries.values() if e["value"] is not None]
    if name != "words" and known:
        row["plot"] = interval_plot(0, 1, [(e["value"], e["low"], e["high"]) for e in known])
    if len(known) == 2:
        before, after = known
        change = after["value"] - before["value"]
        row["change"] = f"{scale * change:+.1f}"
        # a verdict only where the intervals do not overlap
        if name != "words" and (after["high"] < before["low"] or after["low"] > before["high"]):
            row["verdict"] = "better" if (change < 0) == (name in LOWER_IS_BETTER) else "worse"
    return row


def settings(cfg: Mapping[str, Any]) -> dict[str, str]:
    """What was run, in pairs of name and value."""
    model, trainer = cfg["model"], cfg["trainer"]
    lora = model.get("lora")
    data = cfg.get("data") or {}
    batch = data.get("batch_size", 1) * trainer.get("devices", 1)
    batch *= trainer.get("accumulate_grad_batches", 1)
    rows = {
        "model": f"{model['path']}, " + (f"LoRA rank {lora['r']}" if lora else "whole language model"),
        "data": _named(data.get("train") or _own_data(data)),
        "training": f"{trainer['max_steps']} steps of {batch} pairs, seed {cfg['seed']}",
        "loss": _named(cfg["loss"]),
        "optimiser": _named(cfg["optim"]),
    }
    for group in ("weights", "corruption"):
        if "_target_" in cfg["weights"]:
            rows["token " * (group == "weights") + group] = _named(cfg[group])
    return rows


def _own_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """What says where the rows of files or of the hub come from."""
    shown = ("_target_", "path", "val_path", "val_share", "format", "revision", "num_pairs")
    return {k: data[k] for k in shown if data.get(k) and not (k == "val_share" and data.get("val_path"))}


def _named(node: Mapping[str, Any]) -> str:
    """What a node of the configuration builds, and its options."""
    name = str(node.get("_target_", "none")).rsplit(".", 1)[-1]
    options = ", ".join(f"{k} {v}" for k, v in node.items() if not k.startswith("_"))
    return f"{name}: {options}" if options else name


def classes(table: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Side -> a row per class of token, numbers as text."""
    found: dict[str, list[dict[str, str]]] = {}
    for side in ("chosen", "rejected"):
        found[side] = []
        for entry in table[side]:
            row = {"class": str(entry["class"]), "tokens": f"{entry['tokens']:d}"}
            for when in ("before", "after"):
                means = entry.get(when) or {}
                for name in ("selected", "zero"):
                    row[f"{when}_{name}"] = f"{100 * means[name]:.0f}" if name in means else ""
                for name, digits in (("u", 2), ("delta", 2), ("weight", 3), ("logp", 2)):
                    row[f"{when}_{name}"] = f"{means[name]:.{digits}f}" if name in means else ""
            found[side].append(row)
    return found


def cell(value: object) -> str:
    """Text for a cell of a Markdown table: no HTML, no links, no further columns."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return "".join("\\" + c if c in "|[]`" else c for c in text if c.isprintable())
