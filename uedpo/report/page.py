"""report.html: one self-contained page from what a run directory holds.

Model text is data: Jinja escapes everything, and the page's policy forbids scripts and requests.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uedpo.errors import InputError
from uedpo.report import tables
from uedpo.report.charts import Line, fan_chart, line_chart, number
from uedpo.report.heatmap import SIGNALS, WHENS, heat, scales, strongest
from uedpo.report.pictures import Pictures
from uedpo.report.tables import cell as cell
from uedpo.report.templates import TEMPLATES
from uedpo.results.keys import method_name
from uedpo.results.metrics import SPLITS as SPLITS
from uedpo.results.metrics import TITLES as TITLES
from uedpo.runtime.atomic import replace
from uedpo.runtime.small_json import loads, read_small
from uedpo.runtime.stored_yaml import read_config

# panel -> (column of metrics.csv, label) of each curve
PANELS: dict[str, list[tuple[str, str]]] = {
    "Loss": [("train/loss", "training"), ("val/loss", "validation")],
    "Margin": [("train/margin", "training"), ("val/margin", "validation")],
    "Accuracy": [("train/accuracy", "training"), ("val/accuracy", "validation")],
    "Log-ratio to the reference (nats)": [
        ("train/log_ratio_chosen", "chosen"), ("train/log_ratio_rejected", "rejected"),
    ],
    "Mean weight λ": [("weights/chosen", "chosen"), ("weights/rejected", "rejected")],
    "Share of tokens": [
        ("weights/reweighted", "λ other than 1"), ("weights/zero_uncertainty", "u = 0, of the selected"),
    ],
    "CHAIR_i while training": [
        ("eval/shift/chair_i", "shifted scenes"), ("eval/train/chair_i", "usual scenes"),
    ],
}  # fmt: skip
FANS = {"uncertainty": "u", "sensitivity": "Δ", "weight": "λ of reweighted tokens"}
# with more pairs the page carries levels only, or it would not stay small
NUMBERS_UP_TO = 40
BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, csv.Error)
LARGEST = 2**26  # bytes of a file; traces with pictures have a few million


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html from the files of the run; what a run did not record is left out.

    Raises:
        InputError: no config.yaml there, or a file that no run writes.
    """
    cfg = _config(folder)
    text = render(
        {
            "title": f"{cfg['name']}: {method_name(cfg)}",
            "kind": "run",
            "summary": _from(folder / "environment.json", lambda e: _summary(cfg, e), _summary(cfg, {})),
            "settings": _checked(folder / "config.yaml", lambda _: tables.settings(cfg)),
            "results": _from(folder / "metrics.json", tables.evaluation, {}),
            "curves": _checked(folder / "metrics.csv", lambda p: _curves(_rows(p))),
            "fans": _checked(folder / "distributions.jsonl", lambda p: _fans(_lines(p))),
            **_from(folder / "traces.json", token_section, token_section([])),
            "classes": _from(folder / "classes.json", tables.classes, {}),
            "class_pairs": _from(folder / "classes.json", lambda c: int(c["pairs"]), 0),
            "environment": _from(folder / "environment.json", environment_rows, {}),
            "packages": ",".join(str(p) for p in cfg.get("allow_packages") or []),
            "config": (folder / "config.yaml").read_text(encoding="utf-8"),
        }
    )
    path = folder / "report.html"
    return write_page(path, text)


def write_page(path: Path, text: str) -> Path:
    """A page that is open never is half a page."""
    replace(path, lambda file: file.write(text.encode("utf-8", "replace")))
    return path


def render(context: Mapping[str, Any]) -> str:
    """The page of a run, or of one pair; `context` has every key that the template names."""
    template = TEMPLATES.get_template("page.html.j2")
    return template.render(split_titles=SPLITS, signals=SIGNALS, whens=WHENS, **context)


def token_section(traces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page shows of traced pairs: pairs, scale, pictures, and which switches it needs."""
    plain = [dict(trace) for trace in traces]
    scale, pictures = scales(plain), Pictures(len(plain))
    numbers = len(plain) <= NUMBERS_UP_TO
    pairs: list[dict[str, Any]] = []
    for trace in plain:
        sides = {
            side: {
                "tokens": heat(trace[side], scale, numbers),
                "strongest": {
                    when: strongest(tokens, side, "base model" if when == "before" else "trained model")
                    for when, tokens in trace[side].items()
                },
            }
            for side in ("chosen", "rejected")
        }
        says = {when: _marked(said) for when, said in (trace.get("says") or {}).items()}
        pairs.append(
            {
                "id": str(trace["id"]),
                "prompt": str(trace["prompt"]),
                "sides": sides,
                "clear_picture": pictures.add(trace.get("clear_image")),
                "corrupted_picture": pictures.add(trace.get("corrupted_image")),
                "says": says,
            }
        )
    return {
        "pairs": pairs,
        "scale": scale,
        "numbers": numbers,
        "shared": pictures.shared(),
        "after": any("after" in trace["chosen"] for trace in plain),
        "judged": any(said["judged"] for pair in pairs for said in pair["says"].values()),
        "truth": any("kind" in t for trace in plain for t in trace["chosen"]["before"]),
    }


def environment_rows(found: Mapping[str, Any]) -> dict[str, str]:
    """environment.json as names and values."""
    return {
        "finished": f"{found['finished']}, after {found['seconds']} s",
        "machine": f"{found['platform']}; {found['device']}; {found['devices']} device(s)",
        "versions": ", ".join(f"{k} {v}" for k, v in found["versions"].items() if k != "commit" and v),
        "code": str(found["versions"].get("commit") or "not a git checkout"),
        "data": f"{found['rows']['train']} training and {found['rows']['val']} validation pairs, sha256 "
        f"{found['data_sha256']}",
        "model files": f"sha256 {found['model_sha256']}" if found["model_sha256"] else "of a model hub",
        "setting": f"{found['setting']} (hash of what determines the result)",
    }


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.is_file():
        runs = sorted(str(found.parent) for found in folder.glob("*/config.yaml"))
        hint = f", as {runs[0]}; a table of all {len(runs)}: python -m uedpo.compare {folder}" if runs else ""
        raise InputError(f"{folder}: no config.yaml; give the directory of a run{hint}")
    try:
        cfg = read_config(path)
        method_name(cfg), cfg["name"], cfg["model"], cfg["trainer"], cfg["optim"]
    except BROKEN as error:
        raise InputError(f"{path}: not the configuration of a run ({_line(error)})") from None
    return cfg


def _summary(cfg: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    model, trainer, weights = cfg["model"], cfg["trainer"], cfg["weights"]
    loss = ", ".join(f"{k} {v}" for k, v in cfg["loss"].items() if not k.startswith("_"))
    parts = [
        f"{method_name(cfg)} trained {model['path']} for {trainer['max_steps']} steps "
        f"({loss}; peak learning rate {cfg['optim']['lr']}; seed {cfg['seed']})."
    ]
    if "alpha" in weights:
        options = {"signal": "uncertainty", "select": "sensitivity", "control": "none"}
        named = "; ".join(f"{k} {weights.get(k, default)}" for k, default in options.items())
        parts.append(
            f"Token weights of strength alpha {weights['alpha']} on a share tau {weights.get('tau', 0.4)} of "
            f"the tokens of each answer ({named})."
        )
    if environment:
        parts.append(f"The run took {float(environment['seconds']):.0f} s on {environment['device']}.")
    return " ".join(parts)


def _marked(said: Mapping[str, Any]) -> dict[str, Any]:
    """An answer in pieces (text, what is wrong with it or "")."""
    text, wrong = str(said["text"]), said["wrong"]
    pieces, at = [], 0
    for start, end, kind in sorted(wrong or []):
        pieces += [(text[at:start], ""), (text[start:end], f"{kind} that the picture does not show")]
        at = int(end)
    return {"pieces": [*pieces, (text[at:], "")], "judged": wrong is not None, "wrong": len(wrong or [])}


def _curves(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    for title, columns in PANELS.items():
        lines = []
        for style, (column, label) in enumerate(columns):
            points = [(float(r["step"]), float(r[column])) for r in rows if r.get(column) and r.get("step")]
            if points:
                lines.append(Line(label, points, style))
        if lines:
            ends = [f"{i.label} {number(i.points[0][1])} to {number(i.points[-1][1])}" for i in lines]
            caption = f"From first to last: {'; '.join(ends)}."
            svg = line_chart(f"c{len(panels)}", f"{title} over training steps. {caption}", lines)
            panels.append({"title": title, "svg": svg, "lines": lines, "caption": caption})
    return panels


def _fans(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    for signal, name in FANS.items():
        for style, side in enumerate(("chosen", "rejected")):
            found = [(float(r["step"]), r[signal][side]) for r in rows if r[signal] and r[signal][side]]
            if not found:
                continue
            steps, quantiles = [s for s, _ in found], [[float(q) for q in qs] for _, qs in found]
            first, last = quantiles[0], quantiles[-1]
            caption = f"Median {number(first[2])} at first, {number(last[2])} at last."
            title = f"{name}, {side}"
            svg = fan_chart(f"f{len(panels)}", f"Quantiles of {title}. {caption}", steps, quantiles, style)
            panels.append({"title": title, "svg": svg, "lines": [], "caption": caption})
    return panels


def _text(path: Path) -> str:
    return read_small(path, LARGEST).decode()


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(_text(path)))) if path.is_file() else []


def _lines(path: Path) -> list[Any]:
    if not path.is_file():
        return []
    whole = _text(path).rpartition("\n")[0]  # a killed run may have left half a line
    return [loads(line) for line in whole.splitlines()]


def _from(path: Path, build: Callable[[Any], Any], missing: Any) -> Any:
    """What `build` makes of a JSON file; `missing` where there is no such file."""
    if not path.is_file():
        return missing
    return _checked(path, lambda p: build(loads(_text(p))))


def _checked(path: Path, build: Callable[[Path], Any]) -> Any:
    try:
        return build(path)
    except (RecursionError, *BROKEN) as error:
        raise InputError(f"{path}: not what a run writes ({_line(error)}); bring the file back") from None


def _line(error: BaseException) -> str:
    text = str(error).splitlines()[:1]
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
