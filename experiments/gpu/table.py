"""The table of the kit: `python experiments/gpu/table.py RESULTS.json` writes it into README.md here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
START, END = "<!-- table: start -->", "<!-- table: end -->"
HEAD = "| part | what | s a step | pairs/s | peak GB | planned GB | MFU % | remarks |\n" + "|---" * 8 + "|"
# dense bf16 TFLOP/s by what is in the device's name; for others the measured product stands in
PEAKS = {"H100 80GB HBM3": 989.0, "H200": 989.0, "A100": 312.0, "4090": 165.0}
Row = dict[str, Any]


def table(found: dict[str, Any]) -> str:
    """Markdown: a line on the machine, and a row for each measurement."""
    rows: list[Row] = found["rows"]
    machine = next((r for r in rows if r["what"] == "machine"), {})
    peak, peak_of = _peak(machine, rows)
    plans = {_key(r): r for r in rows if r["part"] == "plan" and "planned_gb" in r}
    lines = [_head(found, machine, peak, peak_of), "", HEAD]
    for row in rows:
        if row["what"] == "machine" or (row["part"] == "plan" and "error" not in row):
            continue
        plan = plans.get(_key(row), {}) if "pairs_per_s" in row else {}
        lines.append("| " + " | ".join(_cells(row, plan, plans, peak)) + " |")
    return "\n".join(lines)


def _head(found: dict[str, Any], machine: Row, peak: float | None, peak_of: str) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in machine.get("versions", {}).items() if v)
    memory = f", {machine['memory_gb']:.1f} GB" if "memory_gb" in machine else ""
    lines = [
        f"Machine: {machine.get('name', 'unknown')}{memory}; {versions}.",
        f"Attention: {machine.get('attention', 'unknown')}. Took {found['seconds']:.0f} s.",
    ]
    if peak:
        lines.append(f"MFU is a share of {peak:.3g} TFLOP/s ({peak_of}).")
    if found["rehearsal"]:
        lines.insert(0, "**A rehearsal on a CPU with tiny models: the figures mean nothing.**")
    return "\n".join(lines)


def _peak(machine: Row, rows: list[Row]) -> tuple[float | None, str]:
    for name, peak in PEAKS.items():
        if name in machine.get("name", ""):
            return peak, "the data sheet's, dense"
    product = next((r["tflops"] for r in rows if "tflops" in r), None)
    return product, "the measured matrix product"


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("model", "method", "batch", "checkpointing"))


def _cells(row: Row, plan: Row, plans: dict[tuple[Any, ...], Row], peak: float | None) -> list[str]:
    cells = [row["part"], row["what"].replace("|", "\\|"), "", "", "", "", "", _remarks(row, plan)]
    if "pairs_per_s" in row:
        cells[2], cells[3] = f"{median(row['seconds']):.3f}", f"{row['pairs_per_s']:.2f}"
    if "peak_gb" in row:
        cells[4] = f"{row['peak_gb']:.2f}"
    if plan:
        cells[5] = f"{plan['planned_gb']:.2f}"
    # work that is done twice does not count as work
    once = plans.get((*_key(row)[:3], False))
    if once and peak and "pairs_per_s" in row:
        cells[6] = f"{100 * once['tflop'] / median(row['seconds']) / peak:.1f}"
    return cells


def _remarks(row: Row, plan: Row) -> str:
    """What a row has to say beside its numbers."""
    said = []
    if "error" in row:
        said.append(f"**{row['error']}**")
    if "note" in row:
        said.append(row["note"])
    if "tflops" in row:
        said.append(f"{row['tflops']:.1f} TFLOP/s")
    said += [f"{row[kind]} {kind}" for kind in ("passed", "failed", "skipped") if row.get(kind)]
    if plan and "peak_gb" in row:
        said.append(f"plan is {100 * (plan['planned_gb'] / row['peak_gb'] - 1):+.1f} % off")
    if "waits" in row:
        said.append(
            f"the GPU waits {100 * row['waits']:.0f} % of {row['step_s']:.3f} s; {row['kernels']} kernels"
        )
    if "kernel_s" in row:
        said.append(f"{1000 * row['kernel_s']:.2f} ms, {100 * row['share']:.0f} % of all kernels")
    return "; ".join(said).replace("|", "\\|")


def write(found: dict[str, Any], page: Path) -> None:
    """Put the table between the markers of `page`.

    Raises:
        ValueError: they are not there.
    """
    text = page.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{page}: has no {START} and {END}")
    page.write_text(f"{before}{START}\n{table(found)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if found["rehearsal"]:
        sys.exit(f"{sys.argv[1]}: a rehearsal, whose figures mean nothing; run the kit on a GPU")
    write(found, HERE / "README.md")


if __name__ == "__main__":
    main()
