"""Score reports of several runs beside the paper: `python -m uedpo.evaluation.table REPORT.json ...`.

    ... run="UE-DPO, RLHF-V" ours/*.json run="LLaVA-v1.5-7B" base/*.json output=table.md html=table.html

`run=` names the run of the reports after it (else: their folder). A run named like a row of the paper
(arXiv 2605.04874, main table, LLaVA-v1.5-7B) is compared with it.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uedpo.errors import InputError, local_path
from uedpo.evaluation.options import command
from uedpo.evaluation.questions import read_text
from uedpo.runtime.folders import output_file
from uedpo.runtime.say import say
from uedpo.runtime.small_json import loads

Table = list[list[str]]  # the first row is the head


class Headline(NamedTuple):
    """A column of the paper's main table.

    Attributes:
        scale: from the report's unit to the paper's.
        tolerance: in the paper's unit, about one standard error of the benchmark's own sampling.
    """

    title: str
    benchmark: str
    metric: str
    scale: float
    decimals: int
    tolerance: float


HEADLINES = (
    # published CHAIRs are CHAIRs_refine: only that gives 13.72 and 11.62 from whole numbers of captions
    Headline("ObjHal CHAIRs", "object_halbench", "CHAIRs_refine", 100, 2, 2.0),
    Headline("ObjHal CHAIRi", "object_halbench", "CHAIRi", 100, 2, 1.0),
    Headline("MMHal score", "mmhal", "average_score", 1, 2, 0.15),
    Headline("MMHal rate", "mmhal", "hallucination_rate", 1, 2, 0.05),
    Headline("AMBER-g CHAIR", "amber_generative", "CHAIR", 1, 1, 0.5),
    Headline("AMBER-d F1", "amber_discriminative", "F1", 1, 1, 1.0),
)
BASE = "LLaVA-v1.5-7B"
PAPER: dict[str, tuple[float | None, ...]] = {
    BASE: (55.67, 15.96, 2.01, 0.61, 7.7, 74.3),
    "mDPO, 10k": (35.70, 9.80, 2.39, 0.54, 4.4, None),
    "V-DPO, 5.7k": (None, None, 2.16, 0.56, 5.6, 81.6),
    "TPO, 5.7k": (None, None, 2.47, 0.51, None, 85.0),
    "RLAIF-V, 16k": (16.0, 3.70, 3.00, 0.38, 3.0, None),
    "UE-DPO, RLHF-V": (13.72, 6.69, 2.82, 0.48, 2.9, 85.7),
    "UE-DPO, RLAIF-V": (11.62, 5.16, 2.95, 0.37, 2.5, 87.0),
}
_MODEL = re.compile(r"llava.*1\.5.*7b", re.IGNORECASE)
NOT_RUN = "not run"


class Report(NamedTuple):
    """A report of `uedpo.evaluation.score`.

    Attributes:
        partial: a subset was scored.
        answered: header of the answers that were scored, or empty.
    """

    path: Path
    benchmark: str
    mode: str
    metrics: Mapping[str, float | None]
    partial: bool
    answered: Mapping[str, Any]
    judge: str


def read_report(path: Path) -> Report:
    """A report, checked.

    Raises:
        InputError: naming file and field.
    """
    text = read_text(path)
    try:
        value = loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: must be an object, a report of uedpo.evaluation.score")
    for name, kind in (("benchmark", str), ("mode", str), ("metrics", dict)):
        if not isinstance(value.get(name), kind):
            raise InputError(f"{path}: {name} must be {'an object' if kind is dict else 'a text'}")
    for name, number in value["metrics"].items():
        if number is not None and not (type(number) in (int, float) and math.isfinite(number)):
            raise InputError(f"{path}: metrics.{name} must be a finite number or null")
    answered, versions = value.get("answered") or {}, value.get("versions") or {}
    if not isinstance(answered, dict) or not isinstance(versions, dict):
        raise InputError(f"{path}: answered and versions must be objects")
    partial, judge = bool(value.get("partial")), str(versions.get("judge", ""))
    return Report(path, value["benchmark"], value["mode"], value["metrics"], partial, answered, judge)


Runs = dict[str, list[Report]]


def headline_table(runs: Runs) -> Table:
    """The paper's rows, each above ours of the same name, then runs that the paper does not have."""
    table = [["run", "numbers", *(h.title for h in HEADLINES)]]
    for name, values in PAPER.items():
        cells = ["-" if v is None else f"{v:.{h.decimals}f}" for v, h in zip(values, HEADLINES, strict=True)]
        table.append([name, "paper", *cells])
        reports = runs.get(name, [])
        ours = [_cell(name, h, v, reports) for v, h in zip(values, HEADLINES, strict=True)]
        table.append([name, "ours", *ours])
    for name, reports in runs.items():
        if name not in PAPER:
            table.append([name, "ours", *(_cell(name, h, None, reports) for h in HEADLINES)])
    return table


def _cell(name: str, headline: Headline, paper: float | None, reports: Sequence[Report]) -> str:
    found = [r for r in reports if r.benchmark == headline.benchmark]
    if len(found) > 1:
        raise InputError(f"{found[1].path}: {name} has {found[0].path} for {headline.benchmark}; give one")
    value = found[0].metrics.get(headline.metric) if found else None
    if value is None:
        return NOT_RUN
    shown = round(value * headline.scale, headline.decimals)
    text = f"{shown:.{headline.decimals}f}"
    # differences are those of the numbers shown
    near = paper is not None and abs(shown - paper) <= headline.tolerance + 1e-9
    reasons = _reasons(name, found[0])
    if reasons or paper is None:
        return text + (f" ({', '.join(reasons)})" if reasons else "")
    by_label = "" if found[0].answered else ", model by label only"
    return f"{text} ({'reproduced' if near else 'differs'}{by_label})"


def _reasons(name: str, report: Report) -> list[str]:
    """Why a number cannot be compared with the paper's, whatever it is."""
    reasons = []
    if report.partial:
        reasons.append("subset")
    if report.mode != "official":
        reasons.append(f"{report.mode} mode")
    if name in PAPER and report.answered:
        adapter = report.answered.get("adapter_sha256")
        if not _MODEL.search(str(report.answered.get("model"))) or (name == BASE and adapter is not None):
            reasons.append("another model")
    return reasons


def metric_table(runs: Runs) -> Table:
    """Every metric of every report, as the report has it."""
    table = [["run", "benchmark", "metric", "value", "mode", "judge", "report"]]
    for name, reports in runs.items():
        for r in reports:
            mode = r.mode + (", subset" if r.partial else "")
            for metric, value in r.metrics.items():
                shown = "null" if value is None else f"{value:.6g}"
                table.append([name, r.benchmark, metric, shown, mode, r.judge, r.path.name])
    return table


def notes() -> list[str]:
    """What the marks mean."""
    ranges = ", ".join(f"{h.title} {h.tolerance:g}" for h in HEADLINES)
    return [
        "Paper: arXiv 2605.04874, main table. Its CHAIRs are CHAIRs_refine of Object HalBench's script.",
        f"reproduced: at most so far from the paper, with its model and data as the run is named: {ranges}.",
        "differs: further away. not run: no number. A run that the answers' header contradicts, a subset or "
        "another mode is never compared; a report without that header is compared by its label. "
        "Judges differ: the paper does not name its version.",
    ]


def markdown(tables: Sequence[Table]) -> str:
    lines: list[str] = []
    for table in tables:
        rows = [[_in_cell(text) for text in row] for row in table]
        head, *body = (f"| {' | '.join(row)} |" for row in rows)
        lines += [head, "|" + "---|" * len(table[0]), *body, ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes())]) + "\n"


def _in_cell(text: str) -> str:
    """Text that markdown neither takes for a border nor for HTML."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def page(tables: Sequence[Table]) -> str:
    """One HTML file; the policy forbids scripts and requests."""
    parts = [_html_table(table) for table in tables]
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Benchmarks</title>'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        "<style>body{font:15px sans-serif;margin:2em}table{border-collapse:collapse;margin:0 0 2em}"
        "td,th{border:1px solid #bbb;padding:.3em .6em;text-align:left}</style></head><body>"
        f"<h1>Benchmarks</h1>{''.join(parts)}<ul>{items}</ul></body></html>\n"
    )


def _html_table(table: Table) -> str:
    head, *body = table
    rows = ["".join(f"<th>{html.escape(text)}</th>" for text in head)]
    rows += ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in body]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def write_tables(reports: list[str], output: str | None = None, html: str | None = None) -> int:
    """Print the tables as markdown, and write them where asked; the exit code.

    Args:
        reports: report files, after `run=NAME` those of that run.

    Raises:
        InputError: no report, a broken one, or two of one benchmark for a run.
    """
    runs: Runs = {}
    for name, path in _labelled(reports):
        runs.setdefault(name, []).append(read_report(path))
    if not runs:
        raise InputError("no report given; write table REPORT.json ...")
    tables = [headline_table(runs), metric_table(runs)]
    text = markdown(tables)
    wanted = (("output", output, ".md", text), ("html", html, ".html", page(tables)))
    places = [
        (output_file(local_path(target), key, suffix), content)
        for key, target, suffix, content in wanted
        if target is not None
    ]
    say(text, end="")
    for path, content in places:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return 0


def _labelled(arguments: Sequence[str]) -> Iterator[tuple[str, Path]]:
    name = None
    for argument in arguments:
        if argument.startswith("run="):
            name = argument.removeprefix("run=")
        else:
            path = local_path(argument)
            yield name or path.resolve().parent.name, path


if __name__ == "__main__":
    command(write_tables, bare="reports")
